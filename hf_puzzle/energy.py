"""Energy that the processor packages used, by the kernel's counters (Intel and AMD, Linux powercap); most need root to read."""

from collections.abc import Callable
from pathlib import Path


POWERCAP = Path("/sys/class/powercap")


class Counters:
    """The readable counters of this machine's processor packages.

    Attributes:
        zones: folders of packages; memory and cores are parts of them.
    """

    def __init__(self, root: Path = POWERCAP):
        # a zone is named like its driver and its number, a part of one has a second number
        zones = sorted(path for path in root.glob("*-rapl:*") if path.name.count(":") == 1)
        self.zones = [zone for zone in zones if _microjoules(zone) is not None]

    def joules(self, run: Callable[[], object]) -> float | None:
        """Energy while `run` runs, of everything that runs meanwhile; None without a counter that can be read.

        A counter that wraps around is seen once: several minutes at full power are a safe length.
        """
        before = [_microjoules(zone) for zone in self.zones]
        run()
        used = 0.0
        for zone, first in zip(self.zones, before, strict=True):
            last = _microjoules(zone)
            if last is None or first is None:
                return None
            used += last - first if last >= first else last + _number(zone / "max_energy_range_uj") - first
        return used / 1e6 if self.zones else None


def _number(path: Path) -> float:
    return float(path.read_text())


def _microjoules(zone: Path) -> float | None:
    try:
        return _number(zone / "energy_uj")
    except (OSError, ValueError):
        return None
