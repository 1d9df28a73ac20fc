"""The same through the command line: exit status 75, then the same command with --resume."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from tiny_runs import steps_made, tiny_mapping, wait_for


class _Process:
    """A command line, with the one method that `wait_for` needs."""

    def __init__(self, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
        program = "from finesight.cli.main import main; main()"
        command = [sys.executable, "-c", program, *words]
        self.popen = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def is_alive(self) -> bool:
        return self.popen.poll() is None


def test_interrupted_it_ends_with_75_and_resumes(tmp_path: Path, tiny_data: Path) -> None:
    mapping = tiny_mapping(tiny_data, tmp_path / "run", train={"max_steps": 400}, evaluation={"every": 100})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(mapping))
    process = _Process("train", str(tmp_path / "recipe.yaml"))
    wait_for(lambda: steps_made(tmp_path / "run") >= 3, process)
    process.popen.send_signal(signal.SIGINT)
    process.popen.send_signal(signal.SIGINT)
    _, told = process.popen.communicate(timeout=60)
    assert process.popen.returncode == 75, told
    made = steps_made(tmp_path / "run")
    assert f"stopped after step {made} of 400" in told
    assert "--resume" in told
    assert "Traceback" not in told
    resumed = _Process("train", str(tmp_path / "recipe.yaml"), "--resume")
    wait_for(lambda: steps_made(tmp_path / "run") > made, resumed)
    resumed.popen.send_signal(signal.SIGTERM)
    _, told = resumed.popen.communicate(timeout=60)
    assert resumed.popen.returncode == 75, told
    assert f"resumed after step {made} of 400" in told
