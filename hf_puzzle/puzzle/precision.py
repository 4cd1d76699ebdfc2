"""`fastest` in a recipe: bfloat16 where this machine multiplies it faster than float32, else float32.

Half of all server processors have no instructions for bfloat16: torch then takes four times float32's time for it.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from .. import artifacts
from ..recipe import PuzzleRecipe


logger = logging.getLogger(__name__)

FASTEST, FILE = "fastest", "precision.json"
TOKENS, WIDTH, ROUNDS = 128, 1024, 5
GAIN = 1.1  # what bfloat16 must bring: below, float32 costs nothing


def resolved(recipe: PuzzleRecipe, run_dir: Path, device: torch.device) -> PuzzleRecipe:
    """The recipe with a dtype for every `fastest`: the one that the run began with, or what is measured now."""
    if not asks(recipe):
        return recipe
    path = run_dir / FILE
    dtype = artifacts.read_json(path)[FASTEST] if path.exists() else fastest(device.type)
    half = dtype == "bfloat16"
    changed = {
        name: dataclasses.replace(getattr(recipe, name), dtype=dtype)
        for name in ("parent", "cost")
        if getattr(recipe, name).dtype == FASTEST
    }
    for name in ("library", "distill"):
        section = getattr(recipe, name)
        if section.args.get("bf16") == FASTEST:
            changed[name] = dataclasses.replace(section, args=section.args | {"bf16": half})
    return dataclasses.replace(recipe, **changed)


def asks(recipe: PuzzleRecipe) -> bool:
    """Whether anything in the recipe is `fastest`."""
    args = (recipe.library.args.get("bf16"), recipe.distill.args.get("bf16"))
    return FASTEST in (recipe.parent.dtype, recipe.cost.dtype, *args)


def keep(asked: PuzzleRecipe, run_dir: Path, device: torch.device) -> None:
    """Remember the run's dtype, so that it goes on with it wherever it is continued."""
    if asks(asked) and not (run_dir / FILE).exists():
        artifacts.write_json(run_dir / FILE, {FASTEST: fastest(device.type)})


@functools.cache
def fastest(device: str) -> str:
    """`bfloat16` or `float32`, by the best of a few products on `device`, in turn."""
    pairs = {
        dtype: (
            torch.ones(TOKENS, WIDTH, dtype=dtype, device=device),
            torch.ones(WIDTH, WIDTH, dtype=dtype, device=device),
        )
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(pairs, float("inf"))
    for round_idx in range(ROUNDS + 1):
        for dtype, (states, weight) in pairs.items():
            took = _seconds(functools.partial(F.linear, states, weight), device)
            if round_idx:  # the first one warms up
                seconds[dtype] = min(seconds[dtype], took)
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    found = "bfloat16" if ratio > GAIN else "float32"
    logger.info("dtype fastest: %s (products in bfloat16 are %.2fx as fast as in float32)", found, ratio)
    return found


def _seconds(product: Callable, device: str) -> float:
    began = time.perf_counter()
    product()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
