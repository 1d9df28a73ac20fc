"""Counters of energy: made-up ones of Linux and of NVIDIA's library."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finesight.runtime.energy import Energy, energy_of, packages


def domain(folder: Path, name: str, told: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "name").write_text(told + "\n")
    (place / "max_energy_range_uj").write_text(f"{most}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place / "energy_uj"


def test_packages_alone_are_counted_and_added(tmp_path: Path) -> None:
    one = domain(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    two = domain(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    cores = domain(tmp_path, "intel-rapl:0:0", "core", 0)
    system = domain(tmp_path, "intel-rapl:2", "psys", 0)
    energy = packages(tmp_path)
    assert energy.source == "RAPL, 2 CPU packages"
    energy.begin()
    for file, now in ((one, 7_500_000), (two, 1_250_000), (cores, 9_000_000), (system, 99_000_000)):
        file.write_text(str(now))
    assert energy.since() == 2.75
    assert energy.since() == 0.0


def test_a_counter_that_begins_again(tmp_path: Path) -> None:
    file = domain(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    energy = packages(tmp_path)
    energy.begin()
    file.write_text("500000")
    assert energy.since() == pytest.approx(1.5)


def test_nothing_is_measured_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert packages(tmp_path / "none").why == f"there is no RAPL in {tmp_path / 'none'}"
    file = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    file.write_text("not a number")
    energy = packages(tmp_path)
    energy.begin()
    assert (energy.counters, energy.since()) == ((), None)
    assert energy.why.startswith("RAPL cannot be read: ")


def test_a_counter_that_fails_ends_the_measurement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    energy = packages(tmp_path)
    energy.begin()
    file.unlink()
    assert energy.since() is None
    assert "energy is measured no more" in caplog.text
    assert energy.since() is None


class Nvml:
    """NVIDIA's library with two GPUs, of which the second has had twice the work."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self) -> None:
        self.millijoules = 1000
        self.nvmlInit = lambda: None
        self.nvmlDeviceGetHandleByUUID = lambda name: int(name.removeprefix("GPU-uuid-"))
        self.nvmlDeviceGetTotalEnergyConsumption = self.consumption

    def consumption(self, handle: int) -> int:
        if self.millijoules < 0:
            raise self.NVMLError("Not Supported")
        return self.millijoules * (handle + 1)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    found = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def properties(number: int) -> Any:
        return SimpleNamespace(uuid=f"uuid-{number}")

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    return found


def test_gpus_of_this_machine_s_processes(nvml: Nvml) -> None:
    second, both = (energy_of(torch.device("cuda", place), many) for place, many in ((1, 1), (0, 2)))
    second.begin()
    both.begin()
    nvml.millijoules = 4000
    assert (second.since(), both.since()) == (6.0, 9.0)
    assert (second.source, both.source) == ("NVML, 1 GPU", "NVML, 2 GPUs")


def test_a_gpu_that_does_not_tell(nvml: Nvml) -> None:
    nvml.millijoules = -1
    energy = energy_of(torch.device("cuda", 0))
    assert energy.why == "NVML does not tell the energy of this GPU: Not Supported"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy = energy_of(torch.device("cuda", 0))
    assert energy == Energy(why="NVML is not there (`pip install nvidia-ml-py`)")
