"""What a run needs of its machine, tried before any compute: no stage is lost to a full disk or a missing file."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .hub import located


class NotReadyError(ValueError):
    """Something that a later stage needs does not work on this machine; the message names it and the way out."""


def check_folder(folder: str | Path) -> None:
    """Create `folder` where it is not there, and write a file in it, which is removed again.

    Raises:
        NotReadyError: one of the two fails.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NotReadyError(
            f"{folder} cannot be written to ({error.strerror or error}): choose another --out"
        ) from None


def check_room(folder: str | Path, needed_bytes: float, remedy: str) -> None:
    """Raises NotReadyError where the filesystem of `folder` has less room than `needed_bytes`."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise NotReadyError(
            f"{folder} needs {needed_bytes / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free on its disk: {remedy}"
        )


def check_tokenizer(open_tokenizer: Callable[[], PreTrainedTokenizerBase], name: str) -> None:
    """Open the tokenizer and encode a text.

    Raises:
        NotReadyError: either fails, or nothing comes out.
    """
    try:
        ids = open_tokenizer()("One text, to see that it can be encoded.")["input_ids"]
    except Exception as error:  # tokenizers raises plain Exceptions, a missing backend ImportError, a Hub OSError
        raise NotReadyError(f"the tokenizer of {name!r} cannot be opened: {first_line(error)}") from None
    if not ids:
        raise NotReadyError(f"the tokenizer of {name!r} makes no tokens of a text: its files are damaged")


def check_tokenizer_of(config, base: Path) -> None:
    """`check_tokenizer` for a recipe's `model` section, whose name is as for `located`; none is fine."""
    if config.name is None:
        return
    options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if (file := getattr(config, "gguf_file", None)) is not None:
        options["gguf_file"] = file
    check_tokenizer(lambda: AutoTokenizer.from_pretrained(located(config.name, base), **options), config.name)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
