"""Natural English from Debian's documentation packages, as JSON lines of `{"text", "source"}`.

    python recipes/puzzle/debian_english.py runs/real/english.jsonl

Needs apt-get and dpkg-deb (Debian, Ubuntu); nothing is installed, the packages are only unpacked. Paragraphs of HTML and
text files are kept, code, menus and tables are not; a document is a few of them in a row, no paragraph comes twice.
"""

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path


# books and manuals in prose; all of them free
PACKAGES = ("anarchism", "debian-handbook", "debian-reference-en", "developers-reference", "debian-policy", "debian-faq", "git-doc", "harden-doc", "jargon-text", "postgresql-doc-15")  # fmt: skip
OTHER_LANGUAGES = re.compile(
    r"[./_-](ar|cs|da|de|el|es|fa|fi|fr|hr|id|it|ja|ko|nb|nl|pl|pt|ro|ru|sv|tr|uk|vi|zh)([._-]|/)"
)
DOCUMENT = 6_000  # characters, about
SHORTEST = 200  # of a paragraph: shorter ones are headings and menus
WORDS = re.compile(r"\b(the|of|and|to|is|that|in|it|for|not|this|with)\b", re.IGNORECASE)


class Paragraphs(HTMLParser):
    """Text of `p`, `li`, `dd` and `blockquote`, without what is code or a table."""

    KEPT, LEFT_OUT = {"p", "li", "dd", "blockquote"}, {"pre", "script", "style", "table", "head", "nav", "code"}

    def __init__(self):
        super().__init__()
        self.found, self._text, self._out = [], [], 0

    def handle_starttag(self, tag, attributes):
        self._out += tag in self.LEFT_OUT and tag != "code"
        if tag in self.KEPT:
            self._end()

    def handle_endtag(self, tag):
        self._out = max(0, self._out - (tag in self.LEFT_OUT and tag != "code"))
        if tag in self.KEPT:
            self._end()

    def handle_data(self, text):
        if not self._out:
            self._text.append(text)

    def _end(self):
        self.found.append("".join(self._text))
        self._text = []


def paragraphs(path: Path) -> list[str]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8", errors="replace")
    if ".htm" in path.name:
        parser = Paragraphs()
        parser.feed(text)
        found = parser.found
    else:
        found = re.split(r"\n\s*\n", text)
    found = [" ".join(each.split()) for each in found]
    return [each for each in found if len(each) >= SHORTEST and is_prose(each)]


def is_prose(text: str) -> bool:
    """Letters, sentences, and the small words of English."""
    letters = sum(c.isalpha() or c == " " for c in text) / len(text)
    return letters > 0.85 and len(WORDS.findall(text)) * 25 > len(text.split()) * 2 and "\ufffd" not in text


def documents(folder: Path, seen: set[bytes]) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        text = re.search(r"\.(html?|txt|text)(\.gz)?$", name) or re.search(r"/jargon[^/]*\.gz$", name)
        if not path.is_file() or path.is_symlink() or not text or OTHER_LANGUAGES.search(name):
            continue
        part: list[str] = []
        for each in paragraphs(path):
            digest = hashlib.sha256(each.encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            part.append(each)
            if sum(map(len, part)) >= DOCUMENT:
                yield "\n\n".join(part)
                part = []
        if part:
            yield "\n\n".join(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", nargs="+", default=PACKAGES)
    args = parser.parse_args()
    seen: set[bytes] = set()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for package in args.packages:
            subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (archive,) = Path(folder).glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, f"{folder}/{package}"], check=True)
            texts = list(documents(Path(folder, package), seen))
            rows += [{"text": text, "source": package} for text in texts]
            print(f"{package}: {len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} M characters", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
