"""What is shipped, and what CI installs: the wheel's files, and a lock that holds what pyproject.toml asks for."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLUGIN = Path("hf_puzzle/optimum_plugin")
LOCK = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(path)


def test_the_wheel_has_every_file_of_the_package_and_the_cards(wheel):
    sources = [path for path in (ROOT / "hf_puzzle").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    inside = {path.relative_to(ROOT) for path in sources}
    plugin = {path for path in inside if path.is_relative_to(PLUGIN)}
    cards = {Path("hf_puzzle/model_cards", path.name) for path in (ROOT / "model_cards").glob("*.jinja")}
    expected = inside - plugin | {path.relative_to(PLUGIN) for path in plugin} | cards
    with zipfile.ZipFile(wheel) as archive:
        found = {Path(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {path.parts[0] for path in found} == {"hf_puzzle", "optimum"}
    assert Path("optimum/commands/register/register_puzzle.py") in found
    # a namespace package ends at the first __init__.py
    assert not [path for path in found if path.parts[0] == "optimum" and path.name == "__init__.py"]


FILES = """
import hf_puzzle
from hf_puzzle import cards, hub
for file in (hf_puzzle.__file__, cards.TEMPLATES, hub.REMOTE):
    assert "unpacked" in str(file), file
assert cards.code_card("pcw") and cards.code_card("mrkl")
"""


def test_an_unpacked_wheel_finds_its_files(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    environment = {"PYTHONPATH": str(tmp_path / "unpacked"), "PATH": "", "HF_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-P", "-c", FILES], cwd=tmp_path, env=environment, check=True)


def locked() -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for pin in map(Requirement, LOCK):
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def test_every_line_of_the_lock_is_one_version_from_an_index():
    for line in LOCK:
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.+]+( ; .+)?", line), line


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system, machine", [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")])  # fmt: skip
def test_the_lock_holds_what_is_asked_for(version, system, machine):
    """`make lock` was run after the last change of the dependencies."""
    names = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
    environment = {
        "python_version": version, "python_full_version": f"{version}.0", "sys_platform": system,
        "platform_system": names[system], "platform_machine": machine, "extra": "",
    }  # fmt: skip
    pins = locked()
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    for asked in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if canonicalize_name(asked.name) == "hf-puzzle" or (asked.marker and not asked.marker.evaluate(environment)):
            continue
        found = [
            pin
            for pin in pins.get(canonicalize_name(asked.name), [])
            if not pin.marker or pin.marker.evaluate(environment)
        ]
        assert len(found) == 1, f"{asked}: {found}; run make lock"
        (specifier,) = found[0].specifier
        assert asked.specifier.contains(specifier.version, prereleases=True), f"{asked}: {found[0]}; run make lock"
