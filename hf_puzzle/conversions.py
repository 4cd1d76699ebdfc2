"""The proof of a conversion: source and result give the same logits on a few fixed tokens, or nothing is written."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from .formats import FormatError


EXACT = 5e-5  # rewrites change the order of float32 sums, and nothing else
# other kernels, or one rounding of every weight; what goes wrong in a conversion is an order of magnitude above it
ROUNDED = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_ROWS = (2, 12)


class NotTheSame(FormatError):
    """A conversion that computes something else; the message has the relative difference of the logits."""


def probe_tokens(vocab_size: int, also: Sequence[int] = ()) -> torch.Tensor:
    """Fixed rows of token ids, `(2, 12)`, in which the ids `also` are the first."""
    tokens = torch.randint(0, vocab_size, _ROWS, generator=torch.Generator().manual_seed(0))
    also = list(also)[: tokens.numel()]
    tokens.view(-1)[: len(also)] = torch.tensor(also, dtype=tokens.dtype)
    return tokens


@torch.no_grad()
def probe_logits(model: PreTrainedModel, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of `tokens` (default: `probe_tokens`), computed in float32 whatever the weights are stored in; on the CPU.

    The model is as before afterwards: weights, modes, random states.
    """
    tokens = probe_tokens(model.config.vocab_size) if tokens is None else tokens
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    inputs = {"input_ids": tokens, "use_cache": False}
    try:
        if any(p.is_meta for p in model.parameters()):  # offloaded: hooks bring weights and tokens together
            logits = model(**inputs).logits
        else:
            inputs["input_ids"] = tokens.to(model.get_input_embeddings().weight.device)
            with _in_float32(model):
                # the class's own forward: accelerate puts autocast around that of a model in training
                logits = type(model).forward(model, **inputs).logits
    finally:
        for module, mode in modes:
            module.training = mode
    return logits.float().cpu()


def tolerance_of(model: PreTrainedModel) -> float:
    """By how much `probe_logits` of a model may differ from those of the same function on a CPU."""
    exact = model.device.type == "cpu" and _widens(model)
    return EXACT if exact else ROUNDED[torch.bfloat16]


def _widens(model: nn.Module) -> bool:
    """Offloaded weights come and go by themselves; flash attention knows half precision only."""
    flash = "flash" in str(getattr(model.config, "_attn_implementation", ""))
    return not flash and not any(p.is_meta for p in model.parameters())


@contextlib.contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Half-precision weights are float32 inside: of a layer only while it runs, so that one is held at a time."""
    if not _widens(model):
        yield
        return
    layers = [layer for stack in _outermost_lists(model) for layer in stack]
    within = {id(p) for layer in layers for p in layer.parameters()}
    kept: list[tuple[nn.Parameter, torch.Tensor]] = []

    def widen(parameters) -> int:
        start = len(kept)
        for p in parameters:
            if p.dtype in (torch.float16, torch.bfloat16):
                kept.append((p, p.data))
                p.data = p.data.float()
        return start

    def narrow(start: int) -> None:
        while len(kept) > start:
            p, data = kept.pop()
            p.data = data

    starts: list[int] = []
    handles = []
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(lambda m, args: starts.append(widen(m.parameters()))))
        handles.append(layer.register_forward_hook(lambda m, args, output: narrow(starts.pop())))
    try:
        widen(p for p in model.parameters() if id(p) not in within)
        yield
    finally:
        for handle in handles:
            handle.remove()
        narrow(0)


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)


def relative_difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Norm of the difference of two sets of logits over that of `expected`; infinite where their shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    return ((found - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def check_same(expected: torch.Tensor, found: torch.Tensor, what: str, tolerance: float = EXACT) -> None:
    """Raises NotTheSame where logits differ by more than `tolerance`, relative to the norm of `expected`."""
    difference = relative_difference(expected, found)
    if not difference <= tolerance:
        raise NotTheSame(
            f"{what} computes something else: its logits differ from the source's by {difference:.2g} (relative, at most "
            f"{tolerance:.0e} allowed); nothing was written"
        )
