"""The setting of the C library's memory: where it is made, and where it is left to the person."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finesight.runtime.memory import keep_freed_memory


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_person_set_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert keep_freed_memory() is False


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_blocks_are_not_fetched_anew() -> None:
    """64 blocks of 4 MiB, freed in between: 1,024 page faults each without the setting."""
    script = (
        "import resource, numpy as np\n"
        "from finesight.runtime.memory import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "def work():\n"
        "    for _ in range(8):\n"
        "        blocks = [np.ones(2**19) for _ in range(8)]\n"
        "        del blocks\n"
        "work()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "work()\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("another C library, or malloc is set by the environment")
    assert int(faults) < 8 * 1024
