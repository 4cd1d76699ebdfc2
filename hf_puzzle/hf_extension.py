"""`hf-puzzle link`: makes `hf puzzle ...` run the hf-puzzle of this environment, as an extension of the `hf` command."""

import datetime
import os
import shlex
import sys

from huggingface_hub.cli.extensions import EXTENSIONS_ROOT, ExtensionManifest

from . import __version__, artifacts


NAME = "hf-puzzle"
# no user of GitHub can be called so (underscore): `hf extensions update` can never fetch a stranger's code for it
OWNER = "hf_puzzle"
NEVER = 4102444800  # 2100-01-01: `hf` asks GitHub for updates when this file is a day old


class LinkError(ValueError):
    """`hf puzzle` is somebody else's."""


def link() -> str:
    """Write the extension; returns one line for the user. Nothing is written where it is there already.

    Raises:
        LinkError: another extension has the name.
    """
    folder = EXTENSIONS_ROOT.expanduser() / NAME
    script = folder / NAME
    # -P: a folder named hf_puzzle where the user happens to be is not what runs
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m hf_puzzle.cli "$@"\n'
    before = _manifest()
    if before and before.commit_sha == __version__ and script.is_file() and script.read_text(encoding="utf-8") == text:
        return f"`hf puzzle` runs this hf-puzzle already ({folder})"
    artifacts.write_text(script, text)
    script.chmod(0o755)
    ExtensionManifest(
        owner=OWNER,
        repo=NAME,
        repo_id=f"{OWNER}/{NAME}",
        short_name="puzzle",
        executable_path=str(script),
        type="binary",
        installed_at=datetime.datetime.now(datetime.UTC),
        description="cheaper children of language models, made, measured and published",
        commit_sha=__version__,
    ).save(folder)
    checked = folder / ".latest_commit"
    artifacts.write_text(checked, "")
    os.utime(checked, (NEVER, NEVER))
    return f"`hf puzzle` now runs this hf-puzzle ({folder})"


def unlink() -> str:
    """Remove the extension; returns one line for the user.

    Raises:
        LinkError: another extension has the name.
    """
    if _manifest() is None:
        return "`hf puzzle` is not linked"
    artifacts.remove(EXTENSIONS_ROOT.expanduser() / NAME)
    return "`hf puzzle` is removed"


def _manifest() -> ExtensionManifest | None:
    """The manifest of an earlier `link`; None where nothing is, or what `link` may write over."""
    folder = EXTENSIONS_ROOT.expanduser() / NAME
    if not (folder / "manifest.json").exists():
        return None
    try:
        found = ExtensionManifest.load(folder)
    except (KeyError, TypeError, ValueError):
        return None
    if found.owner != OWNER:
        raise LinkError(f"`hf puzzle` is the extension {found.repo_id}: `hf extensions remove puzzle` first")
    return found
