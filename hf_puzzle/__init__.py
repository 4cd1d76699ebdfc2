"""hf_puzzle: more out of every unit of inference cost from an off-the-shelf causal LM."""

from importlib import import_module


__version__ = "0.1.0.dev0"

# public name -> module; imported on first use, because torch and transformers take seconds
_PUBLIC = {
    "PuzzleRun": "puzzle.pipeline",
    "load_recipe": "recipe",
    "parse_recipe": "recipe",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
