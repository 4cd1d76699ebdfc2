"""Windows as caches: encoded side by side by stock code, concatenated, changed one at a time, kept as tensors.

Shapes: B windows, M cached keys (prefix + all windows), H KV heads, E head_dim.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import DynamicCache

from .caches_puzzle import OUTPUT_NAME, remedy
from .masks_pcw import (
    PCWError,
    accepts,
    cache_name,
    check_model,
    decoder_of,
    listed,
    plain_model,
    position_limit,
    token_ids,
)
from .weights_pcw import model_state


try:
    from transformers.cache_utils import DummyLayer, DynamicLayer
except ImportError as error:
    raise ImportError(f"parallel windows need transformers >= 5.23 ({error}). {remedy()}") from None


# (model, kind) before its windows are used: generation_pcw adds the proof that they are read
CHECKS: list[Callable] = []


def _before_use(model, kind: str) -> None:
    for check in CHECKS:
        check(model, kind)


def held_tokens(cache) -> int | None:
    """Tokens that a cache holds; None if none of its layers stores anything."""
    held = [0 if layer.keys is None else layer.keys.shape[-2] for layer in cache.layers if not _is_dummy(layer)]
    return max(held, default=None)


def _is_dummy(layer) -> bool:
    return isinstance(layer, DummyLayer)


def check_read(model, cache, before: int | None, new: int) -> None:
    """PCWError if the cache that `model` was given did not grow by `new` tokens: it was not read either."""
    if before is not None and held_tokens(cache) != before + new:
        raise PCWError(
            f"{type(model).__name__} was given a cache of {before} tokens and left it at {held_tokens(cache)}, not {before + new}: "
            f"the windows were not read. {remedy()}"
        )


class FullLayer(DynamicLayer):
    """Keeps every key; of a type of its own, since Puzzle children exchange an empty DynamicLayer for a window."""

    def fill(self, keys: torch.Tensor, values: torch.Tensor, rows: int) -> None:
        self.lazy_initialization(keys, values)
        self.keys, self.values = (t.expand(rows, *t.shape[1:]) for t in (keys, values))


def filled_cache(model, layers: Sequence[tuple] = (), rows: int = 1) -> DynamicCache:
    """A cache that keeps all keys, filled with `layers` of (keys, values) or (None, None), each `rows` times."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [layer if isinstance(layer, DummyLayer) else FullLayer() for layer in cache.layers]
    for layer, (keys, values) in zip(cache.layers, layers, strict=False):
        if keys is not None:
            layer.fill(keys, values, rows)
    return cache


def run_decoder(model, ids: torch.Tensor, positions: torch.Tensor, cache: DynamicCache) -> list[tuple]:
    decoder = decoder_of(model)
    inputs = {"position_ids": positions} if accepts(decoder, "position_ids") else {}
    before = held_tokens(cache)
    decoder(input_ids=ids, use_cache=True, **{cache_name(decoder) or OUTPUT_NAME: cache}, **inputs)
    check_read(decoder, cache, before, ids.shape[1])
    return [(layer.keys, layer.values) for layer in cache.layers]


def _encode_prefix(model, prefix: tuple[int, ...]) -> list[tuple]:
    if not prefix:
        return []
    ids = torch.tensor([prefix], device=model.device)
    return run_decoder(model, ids, torch.arange(len(prefix), device=model.device)[None], filled_cache(model))


def _encode_rows(model, prefix_layers, prefix, windows, longest, alignment, batch_size) -> list[list[tuple]]:
    """Per window, per layer its own keys and values (1, H, len(window), E), or (None, None)."""
    shared, lead = (len(prefix), ()) if alignment == "left" else (0, prefix)
    order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
    found = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        width = len(lead) + len(windows[chunk[-1]])
        ids = torch.zeros(len(chunk), width, dtype=torch.long)
        for row, i in enumerate(chunk):
            ids[row, : len(lead) + len(windows[i])] = torch.tensor(lead + windows[i])
        first = torch.tensor([shared if alignment == "left" else longest - len(windows[i]) for i in chunk])
        # the padding must not leave the learned positions
        positions = (first[:, None] + torch.arange(width)).clamp(max=len(prefix) + longest - 1)
        cache = filled_cache(model, prefix_layers if shared else (), rows=len(chunk))
        layers = run_decoder(model, ids.to(model.device), positions.to(model.device), cache)
        for row, i in enumerate(chunk):
            own = slice(len(prefix), len(prefix) + len(windows[i]))
            found[i] = [tuple(t if t is None else t[row : row + 1, :, own] for t in pair) for pair in layers]
    return [found[i] for i in range(len(windows))]


def _join(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    parts = [part for part in parts if part is not None]
    return torch.cat(parts, dim=2) if parts else None


@dataclass(frozen=True)
class Context:
    """A choice of windows as one cache: per layer keys and values (1, H, M, E), the keys' positions (M,)."""

    layers: list[tuple]
    positions: torch.Tensor
    next_position: int


@dataclass(eq=False)
class EncodedWindows:
    """Windows encoded once, to be used by any number of tasks; the prefix is stored once.

    `keys[l]` and `values[l]` are (1, H, M, E) on the layer's device, prefix first and then the windows in order, or
    None for a layer that stores nothing. Left alignment: windows start right after the prefix. Right: all end at the
    same position (appendix of the paper), each read after its own copy of the prefix; the longest window's stays.
    """

    prefix: tuple[int, ...]
    windows: list[tuple[int, ...]]
    alignment: str
    keys: list[torch.Tensor | None] = field(repr=False)
    values: list[torch.Tensor | None] = field(repr=False)
    fingerprint: str
    state: str = field(repr=False, default="")  # `model_state` when they were encoded; not stored

    @property
    def lengths(self) -> list[int]:
        """Tokens per window, without the prefix."""
        return [len(window) for window in self.windows]

    @property
    def num_tokens(self) -> int:
        """M: cached keys per layer."""
        return len(self.prefix) + sum(self.lengths)

    @property
    def next_position(self) -> int:
        """Position of the first task token: after the longest window."""
        return len(self.prefix) + max(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of the stored keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values) if t is not None)

    def window_layers(self, index: int) -> list[tuple]:
        """Per layer the keys and values of one window, without the prefix, as views."""
        start = len(self.prefix) + sum(self.lengths[:index])
        return self._slice(start, start + self.lengths[index])

    def _slice(self, start: int, end: int) -> list[tuple]:
        pairs = zip(self.keys, self.values, strict=True)
        return [tuple(t if t is None else t[:, :, start:end] for t in pair) for pair in pairs]

    def _with(self, windows: list[tuple[int, ...]], layers: Sequence[list[tuple]]) -> "EncodedWindows":
        layers = [self._slice(0, len(self.prefix)), *layers]
        keys, values = (
            [_join(parts) for parts in zip(*([p[i] for p in w] for w in layers), strict=True)] for i in (0, 1)
        )
        return replace(self, windows=windows, keys=keys, values=values)

    def _change(self, model, index: int | None, ids: Sequence[int] | None) -> "EncodedWindows":
        kind = None if ids is None else check_encoded(model, self)
        if index is not None and not -len(self.windows) <= index < len(self.windows):
            raise PCWError(f"there is no window {index}: there are {len(self.windows)}")
        windows, parts = list(self.windows), [self.window_layers(i) for i in range(len(self.windows))]
        if ids is None:
            del windows[index], parts[index]
        else:
            index = len(windows) if index is None else index
            new = window_ids(model, kind, [ids], self.prefix)[0]
            windows[index : index + 1 or None] = [new]
        if not windows:
            raise PCWError("the last window cannot be removed")
        longest = max(map(len, windows))
        if self.alignment == "right" and longest != max(self.lengths):
            raise PCWError(
                f"right-aligned windows end at token {max(self.lengths)}, now at {longest}: encode all anew"
            )
        if ids is not None:
            prefix_layers = self._slice(0, len(self.prefix))
            rows = _encode_rows(model, prefix_layers, self.prefix, [new], longest, self.alignment, 1)
            parts[index : index + 1 or None] = rows
        return self._with(windows, parts)

    @torch.no_grad()
    def add(self, model, ids: Sequence[int]) -> "EncodedWindows":
        """With one more window at the end, which alone is encoded; PCWError as `encode_windows`."""
        return self._change(plain_model(model), None, ids)

    @torch.no_grad()
    def replace(self, model, index: int, ids: Sequence[int]) -> "EncodedWindows":
        """With another window in the place of one, which alone is encoded; PCWError as `encode_windows`."""
        return self._change(plain_model(model), index, ids)

    def remove(self, index: int) -> "EncodedWindows":
        """Without one window; PCWError for the last one, and for the longest of right-aligned ones."""
        return self._change(None, index, None)

    def context(self, indices: Sequence[int] | None = None, temperature: float = 1.0) -> Context:
        """The chosen windows (all, in order, by default; none: the prefix alone) as one cache.

        temperature: of the attention to windows, not to the prefix (APE, arXiv 2502.05431); it divides their keys.
        """
        everything = indices is None or list(indices) == list(range(len(self.windows)))
        indices = range(len(self.windows)) if everything else indices
        prefix = len(self.prefix)
        last = max((self.lengths[i] for i in indices), default=0) if self.alignment == "left" else max(self.lengths)
        positions = [torch.arange(prefix)]
        for i in indices:
            first = prefix + (0 if self.alignment == "left" else last - self.lengths[i])
            positions.append(torch.arange(first, first + self.lengths[i]))
        chosen = self
        if not everything:
            chosen = self._with([self.windows[i] for i in indices], [self.window_layers(i) for i in indices])
        keys = chosen.keys
        if temperature != 1.0:
            keys = [k if k is None else torch.cat([k[:, :, :prefix], k[:, :, prefix:] / temperature], 2) for k in keys]
        end = prefix + (last if len(indices) else 0)
        device = next((k.device for k in keys if k is not None), None)
        return Context(list(zip(keys, chosen.values, strict=True)), torch.cat(positions).to(device), end)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All of it as tensors, for safetensors: ids, a JSON header as bytes, `keys.{layer}` and `values.{layer}`."""
        header = {"alignment": self.alignment, "fingerprint": self.fingerprint, "layers": len(self.keys)}
        state = {
            "header": torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8),
            "prefix": torch.tensor(self.prefix, dtype=torch.long),
            "lengths": torch.tensor(self.lengths),
            "tokens": torch.tensor([i for window in self.windows for i in window]),
        }
        for name, tensors in (("keys", self.keys), ("values", self.values)):
            state |= {f"{name}.{i}": t.contiguous() for i, t in enumerate(tensors) if t is not None}
        return state

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor], model) -> "EncodedWindows":
        """The inverse of `state_dict`, on the model's device and dtype; PCWError if another model encoded it."""
        model = plain_model(model)
        header = json.loads(bytes(state["header"].tolist()))
        windows = [tuple(w.tolist()) for w in state["tokens"].split(state["lengths"].tolist())]
        tensors = [
            [state[f"{name}.{i}"].to(model.device, model.dtype) if f"{name}.{i}" in state else None
             for i in range(header["layers"])]
            for name in ("keys", "values")
        ]  # fmt: skip
        prefix = tuple(state["prefix"].tolist())
        encoded = cls(prefix, windows, header["alignment"], *tensors, header["fingerprint"], model_state(model))
        kind = check_encoded(model, encoded)
        _before_use(model, kind)
        return encoded


def describe_model(model) -> str:
    """Says what caches fit: the class and the shapes of all weights."""
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    code = zlib.crc32(json.dumps(sorted(shapes)).encode())
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    return f"{type(model).__name__} with {layers} layers (shapes {code:08x})"


def check_encoded(model, encoded: EncodedWindows) -> str:
    """`check_model`, and PCWError if `encoded` is no EncodedWindows, or of another model or other weights than now."""
    model = plain_model(model)
    if not isinstance(encoded, EncodedWindows):
        raise PCWError(f"encoded is a {type(encoded).__name__}: expected what encode_windows returns")
    if encoded.fingerprint != describe_model(model):
        raise PCWError(f"these windows were encoded by {encoded.fingerprint}, this model is {describe_model(model)}")
    if encoded.state and encoded.state != model_state(model):
        raise PCWError(
            "these windows were encoded with other weights, another dtype, other adapters, or in the other of train() and "
            "eval(): encode them again"
        )
    return check_model(model)


def window_ids(model, kind: str, windows, prefix: tuple[int, ...]) -> list[tuple[int, ...]]:
    windows = [token_ids(model, window, f"window {i}") for i, window in enumerate(listed(windows, "windows"))]
    limit, said = position_limit(model, kind)
    for i, window in enumerate(windows):
        if not window:
            raise PCWError(f"window {i} is empty")
        # one position at least must be left for the task
        if (excess := len(prefix) + len(window) + 1 - limit) > 0:
            raise PCWError(
                f"window {i} is {excess} tokens too long: after a prefix of {len(prefix)} it has {len(window)} tokens "
                f"and {said}, of which the task needs at least one"
            )
    return windows


@torch.no_grad()
def encode_windows(
    model,
    windows: Sequence[Sequence[int]],
    prefix: Sequence[int] = (),
    alignment: str = "left",
    batch_size: int | None = None,
) -> EncodedWindows:
    """The caches of `windows` (token ids without BOS), each read after `prefix` (BOS, a prompt, or nothing).

    Windows go through the decoder as one right-padded batch, or `batch_size` at a time, without the language-model
    head: vocabulary logits of their tokens are never allocated. Under left alignment the prefix is encoded once.
    Raises PCWError as `check_model`, for no windows, an empty one, ids outside the vocabulary, and a window that does
    not fit into the model's positions (saying by how many tokens).
    """
    model = plain_model(model)
    kind = check_model(model)
    if alignment not in ("left", "right"):
        raise PCWError(f"alignment is {alignment!r}: expected 'left' or 'right'")
    if batch_size is not None and batch_size < 1:
        raise PCWError(f"batch_size is {batch_size}: expected at least 1")
    prefix = token_ids(model, prefix, "prefix")
    windows = window_ids(model, kind, windows, prefix)
    _before_use(model, kind)
    model_state(model)  # merged adapters that are off leave in the first pass, which nothing tells afterwards
    layers = _encode_prefix(model, prefix)
    longest = max(map(len, windows))
    rows = _encode_rows(model, layers, prefix, windows, longest, alignment, batch_size or len(windows))
    start = layers or [(None, None)] * len(rows[0])
    keys, values = ([pair[i] for pair in start] for i in (0, 1))
    empty = EncodedWindows(prefix, windows, alignment, keys, values, describe_model(model), model_state(model))
    return empty._with(windows, rows)
