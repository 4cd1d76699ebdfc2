"""Real text with labels on every Debian or Ubuntu machine: packages' one-line descriptions and their sections."""

import lzma
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..recipe import RecipeError


LISTS, STATUS = Path("/var/lib/apt/lists"), Path("/var/lib/dpkg/status")
HELD_OUT = 4  # one source package of so many is for tests
PER_SECTION = 240  # of each section, so that sections compare; fewer where it has fewer
FIELDS = ("Package", "Source", "Section", "Description", "Description-en")


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The packages of an index; of fields that go over several lines the first one."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name in FIELDS:
            found[name] = value.strip()
        elif not line.strip() and found:
            yield found
            found = {}
    if found:
        yield found


def index() -> Iterator[str]:
    """Lines of this machine's package index: apt's, or what dpkg says of installed packages; none elsewhere."""
    if shutil.which("apt-cache"):
        # "C" so that descriptions are in English
        listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, env={"LC_ALL": "C"}, check=False)
        if listed.stdout.strip():
            yield from listed.stdout.decode("utf-8", errors="replace").splitlines()
            return
    files = [path for path in sorted(LISTS.glob("*_Packages*")) if path.suffix in ("", ".xz")]
    for path in files or [STATUS]:
        if path.is_file():
            with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8", errors="replace") as file:
                yield from file
            yield ""


def descriptions(lines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Per section its descriptions, each once, with the source package of each."""
    found: dict[str, dict[str, str]] = {}
    known: set[str] = set()
    for each in stanzas(lines):
        text = each.get("Description-en") or each.get("Description") or ""
        section = each.get("Section", "").rpartition("/")[2]
        if section and text and text.lower() not in known:
            known.add(text.lower())
            source = each.get("Source", each.get("Package", "")).partition(" ")[0]
            found.setdefault(section, {})[text] = source
    return found


def load_sections(num_classes: int, test_items: int, seed: int) -> tuple[list, list, list[str]]:
    """(training pairs, test pairs, labels): (description, section) of the `num_classes` largest sections.

    No source package is in both, since its packages describe each other; each section has as many test pairs, give or
    take one. Raises RecipeError where this machine's index has fewer sections or too few packages.
    """
    found = descriptions(index())
    parts: dict[str, tuple[list[str], list[str]]] = {}
    for section, texts in found.items():
        held = {text: zlib.crc32(source.encode()) % HELD_OUT == 0 for text, source in texts.items()}
        parts[section] = tuple([text for text in texts if held[text] == side] for side in (False, True))
    wanted = -(-test_items // num_classes)
    enough = [name for name, (train, test) in parts.items() if len(train) >= wanted and len(test) >= wanted]
    labels = sorted(sorted(enough, key=lambda name: (-len(found[name]), name))[:num_classes])
    if len(labels) < num_classes:
        raise RecipeError(
            f"debian-sections: this machine's package index has {len(labels)} sections with {wanted} held-out packages, "
            f"num_classes is {num_classes}; apt-get update fetches the whole index, on Debian and Ubuntu"
        )
    generator = random.Random(seed)
    train, rows = [], []
    for label in labels:
        train += [(text, label) for text in generator.sample(parts[label][0], min(PER_SECTION, len(parts[label][0])))]
        rows.append([(text, label) for text in generator.sample(parts[label][1], wanted)])
    test = [pair for row in zip(*rows, strict=True) for pair in generator.sample(row, len(row))][:test_items]
    return train, test, labels
