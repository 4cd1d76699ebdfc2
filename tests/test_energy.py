"""Energy counters that a test writes."""

from pathlib import Path

import pytest

from hf_puzzle.energy import Counters


def zone(root: Path, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_add_up_and_their_parts_do_not(tmp_path):
    first, second, part = (zone(tmp_path, f"intel-rapl:{n}", 1_000_000) for n in ("0", "1", "0:0"))

    def work():
        (first / "energy_uj").write_text("3500000")
        (second / "energy_uj").write_text("2000000")
        (part / "energy_uj").write_text("9000000")

    assert Counters(tmp_path).joules(work) == pytest.approx(3.5)


def test_a_counter_that_wraps_around(tmp_path):
    only = zone(tmp_path, "intel-rapl:0", 9_000_000, most=10_000_000)
    assert Counters(tmp_path).joules(lambda: (only / "energy_uj").write_text("500000")) == pytest.approx(1.5)


def test_nothing_is_said_without_counters(tmp_path):
    assert Counters(tmp_path / "none").joules(lambda: None) is None
    (zone(tmp_path, "intel-rapl:0", 1) / "energy_uj").unlink()
    assert Counters(tmp_path).joules(lambda: None) is None
