"""The package index as a data set: one index, apt's lists or dpkg's; what is shown never comes from a source that is asked for."""

import zlib

import pytest

from hf_puzzle.pcw import debian
from hf_puzzle.recipe import RecipeError


SECTIONS = ("games", "net", "contrib/sound")


def invented(count: int = 24) -> str:
    """An index of invented packages: two of each source, in three sections, one description twice."""
    rows = []
    for i in range(count):
        section = SECTIONS[i % 3]
        rows.append(f"Package: p{i}\nSource: s{i // 6} (1.0-{i})\nSection: {section}\nDescription: thing {i} for {section}\n more of it\n")  # fmt: skip
    rows.append("Package: again\nSection: net\nDescription: Thing 1 for net\n")
    rows.append("Package: p\nDescription: of no section\n")
    return "\n".join(rows)


@pytest.fixture
def index(monkeypatch, tmp_path):
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    monkeypatch.setattr(debian, "LISTS", tmp_path)
    monkeypatch.setattr(debian, "STATUS", tmp_path / "status")
    return tmp_path


def test_descriptions_are_read_once_with_their_section_and_source():
    found = debian.descriptions(invented().splitlines())
    assert {name: len(texts) for name, texts in found.items()} == {"games": 8, "net": 8, "sound": 8}
    assert found["net"]["thing 1 for net"] == "s0"


def test_the_list_of_apt_comes_before_the_status_of_dpkg(index):
    (index / "status").write_text(invented(3))
    assert len(list(debian.stanzas(debian.index()))) == 5
    (index / "deb_main_Packages").write_text(invented(6))
    (index / "deb_contrib_Packages.lz4").write_bytes(b"\x00\xff")  # apt's own format
    assert len(list(debian.stanzas(debian.index()))) == 8


def test_shown_and_asked_for_come_from_different_sources(index):
    (index / "status").write_text(invented(240))
    train, test, labels = debian.load_sections(3, 12, 0)
    assert labels == ["games", "net", "sound"]
    assert [sum(label == each for _, label in test) for each in labels] == [4, 4, 4]
    sources = {text: source for texts in debian.descriptions(invented(240).splitlines()).values() for text, source in texts.items()}  # fmt: skip
    shown, asked = ({sources[text] for text, _ in part} for part in (train, test))
    assert shown
    assert asked
    assert not shown & asked
    assert all(zlib.crc32(each.encode()) % debian.HELD_OUT == 0 for each in asked)
    assert debian.load_sections(3, 12, 0)[1] == test != debian.load_sections(3, 12, 1)[1]


def test_a_machine_without_an_index_is_told(index):
    with pytest.raises(RecipeError, match="has 0 sections with 2 held-out packages, num_classes is 3; apt-get update"):
        debian.load_sections(3, 6, 0)
