"""What a run draws: the energy counters of NVIDIA's GPUs (NVML) and of CPU packages (RAPL), where they can be read."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

_log = logging.getLogger("finesight")

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters of Intel's and AMD's CPUs (Documentation/power/powercap in its sources)."""


class Counter(Protocol):
    """A counter of energy that only rises, but for a wrap."""

    def read(self) -> int:
        """Its value, in its own unit; raises OSError where it cannot be read."""

    def joules(self, before: int, now: int) -> float:
        """What lies between two values."""


@dataclass(frozen=True)
class Package:
    """A CPU package's counter: microjoules, which begin at 0 again after `most`."""

    file: Path
    most: int

    def read(self) -> int:
        """Microjoules."""
        return int(self.file.read_text())

    def joules(self, before: int, now: int) -> float:
        """The difference; over one wrap where it fell."""
        return (now - before if now >= before else now - before + self.most) / 1e6


@dataclass(frozen=True)
class Card:
    """A GPU's counter: millijoules since its driver was loaded."""

    nvml: Any
    handle: Any

    def read(self) -> int:
        """Millijoules."""
        try:
            return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        except self.nvml.NVMLError as error:
            raise OSError(str(error)) from error

    def joules(self, before: int, now: int) -> float:
        """The difference."""
        return max(0, now - before) / 1000


@dataclass
class Energy:
    """Counters that are read together. `source` says which, in words; where there are none, `why`."""

    counters: Sequence[Counter] = ()
    source: str = ""
    why: str = ""
    _before: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """Count from here."""
        self._before = self._read()

    def since(self) -> float | None:
        """Joules since it was asked last; None where nothing is measured. A counter that fails ends the measurement."""
        if not self.counters:
            return None
        try:
            now = [counter.read() for counter in self.counters]
        except (OSError, ValueError) as error:
            self._give_up(error)
            return None
        before, self._before = self._before or now, now
        spans = zip(self.counters, before, now, strict=True)
        return sum(counter.joules(one, other) for counter, one, other in spans)

    def _read(self) -> list[int]:
        try:
            return [counter.read() for counter in self.counters]
        except (OSError, ValueError) as error:
            self._give_up(error)
            return []

    def _give_up(self, error: Exception) -> None:
        _log.warning("energy is measured no more: %s", error)
        self.counters, self.why = (), f"its counter could not be read any more: {error}"


def energy_of(device: torch.device, processes: int = 1, powercap: Path = POWERCAP) -> Energy:
    """What can be measured of this machine: of the GPUs of so many `processes` on it, or of its CPU packages."""
    return _cards(device, processes) if device.type == "cuda" else packages(powercap)


def packages(powercap: Path = POWERCAP) -> Energy:
    """The counters of all CPU packages: of whole packages alone, since their cores and memory are within them."""
    found: list[Counter] = []
    names = sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []
    why = f"there is no RAPL in {powercap}"
    for folder in names:
        try:
            if (folder / "name").read_text().startswith("package"):
                counter = Package(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text()))
                counter.read()
                found.append(counter)
        except (OSError, ValueError) as error:
            return Energy(why=f"RAPL cannot be read: {error}")
    many = "package" if len(found) == 1 else "packages"
    return Energy(found, f"RAPL, {len(found)} CPU {many}") if found else Energy(why=why)


def _cards(device: torch.device, processes: int) -> Energy:
    try:
        import pynvml
    except ImportError:
        return Energy(why="NVML is not there (`pip install nvidia-ml-py`)")
    first = device.index or 0
    numbers = [first] if processes == 1 else list(range(min(processes, torch.cuda.device_count())))
    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(number).uuid}")
            for number in numbers
        ]
        cards = [Card(pynvml, handle) for handle in handles]
        for card in cards:
            card.read()
    except (pynvml.NVMLError, OSError) as error:
        return Energy(why=f"NVML does not tell the energy of this GPU: {error}")
    return Energy(cards, f"NVML, {len(cards)} GPU{'s' if len(cards) > 1 else ''}")
