"""Several processes that train one model, as `torchrun` would start them, on one machine with gloo."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_runs import without_report

from finesight.config.load import parse_recipe
from finesight.core.errors import FinesightError
from finesight.runtime.distributed import World, joined

Work = Callable[..., Any]
"""Called as work(world, *arguments) in each process; what it gives is JSON."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _enter(rank: int, size: int, port: int, log: str) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    multiprocessing.set_start_method("fork", force=True)
    with open(log, "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)


def _train(place: tuple[int, int, int, str], mapping: Mapping[str, Any], resume: bool) -> None:
    from finesight.workflows.train import train

    _enter(*place)
    without_report()
    try:
        train(parse_recipe(mapping), resume=resume)
    except FinesightError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_status)


def as_command(place: tuple[int, int, int, str], words: Sequence[str]) -> None:
    from finesight.cli.main import run

    _enter(*place)
    with open(place[3].replace(".stderr", ".stdout"), "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
    os._exit(run(words))


def _work(place: tuple[int, int, int, str], folder: str, work: Work, strategy: Any, arguments: Any) -> None:
    _enter(*place)
    try:
        with joined(strategy, 20, "cpu") as world:
            found = work(world, *arguments)
        Path(folder, f"{place[0]}.json").write_text(json.dumps(found), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class Running:
    """Processes at work; what each says on standard error goes to a file."""

    def __init__(self, logs: Path, size: int, target: Any, *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["tiny_runs", "finesight.workflows.train", "finesight.workflows.adapting"]
        )
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{rank}.stderr" for rank in range(size)]
        port = free_port()
        places = [(rank, size, port, str(log)) for rank, log in enumerate(self.logs)]
        self.processes = [context.Process(target=target, args=(place, *arguments)) for place in places]
        for process in self.processes:
            process.start()

    def end(self, seconds: float = 120) -> list[int]:
        """Wait for all; the exit status of each (negative: the signal that ended it)."""
        limit = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, limit - time.monotonic()))
        late = [process for process in self.processes if process.exitcode is None]
        for process in late:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        assert not late, f"{len(late)} processes did not end; they said:\n{self.said()}"
        return [int(process.exitcode or 0) for process in self.processes]

    def said(self) -> str:
        return "\n".join(log.read_text(encoding="utf-8") for log in self.logs)


def start(mapping: Mapping[str, Any], size: int = 2, resume: bool = False) -> Running:
    """A training run of several processes."""
    return Running(Path(mapping["run"]["dir"] + ".logs"), size, _train, mapping, resume)


def trained(mapping: Mapping[str, Any], size: int = 2, resume: bool = False) -> Path:
    """The directory of a run that ended well."""
    running = start(mapping, size, resume)
    assert running.end() == [0] * size, running.said()
    return Path(mapping["run"]["dir"])


def commanded(folder: Path, size: int, *words: str) -> list[str]:
    """What each of several processes that run one command says on standard output."""
    running = Running(folder, size, as_command, words)
    assert running.end() == [0] * size, running.said()
    return [log.with_suffix(".stdout").read_text(encoding="utf-8") for log in running.logs]


def together(folder: Path, size: int, work: Work, *arguments: Any, strategy: str = "ddp") -> list[Any]:
    """What `work` gives in each of several processes."""
    running = Running(folder, size, _work, str(folder), work, strategy, arguments)
    assert running.end() == [0] * size, running.said()
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(size)]


__all__ = ["Running", "World", "as_command", "commanded", "start", "together", "trained"]
