"""Gated linear attention in the place of an attention: a state of fixed size instead of keys and values.

(Katharopoulos et al., arXiv 2006.16236; Yang et al., arXiv 2312.06635.)
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import (
    DummyLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndStaticFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
    StaticLayer,
)

from .caches_puzzle import CacheError, find_cache, is_paged


CHUNK = 64  # tokens within which all pairs are computed; between chunks goes the state
KERNEL = 4  # tokens that the convolution of the inputs sees
MEMORY = (8.0, 1024.0)  # tokens after which the first and the last state have forgotten to 1/e, before training
EPSILON = 1e-6
INPUTS = ("q_proj", "k_proj", "v_proj")  # of the attention that it starts from
OUTPUTS = ("o_proj", "out_proj", "dense")  # what families call its last matrix


class GatedLinearAttention(nn.Module):
    """A linear map, and beside it what came before: f(q) f(k)' v, kept as one sum, a state, that a gate lets fade.

    All of it reads a short convolution of the inputs. States, in float32, and the convolution's last inputs lie in
    transformers' own cache layers for linear attention.

    Attributes:
        template: of its ids: `gla3` has three states, each with a query, keys and values of the parent's head size.
        kinds: what it may stand for.
        sizes: what the number in its id is.
        noun: in messages of engines and formats that do not have it.
        engines: that run it.
        reads: its matrices whose answers add up to its own, solved together in closed form.
        layer_idx: of its layer, and of its states in a cache.
        padding: `(batch, length)`, 0 where there is no token, set by its decoder for each call; None: tokens everywhere.
    """

    template = "gla{}"
    kinds = ("attention",)
    sizes = ("state_heads",)
    noun = "gated linear attention"
    engines = ("transformers", "transformers-serve")
    reads = ("o_proj", "map_proj")

    def __init__(self, config, kind: str, pair: bool, state_heads: int):
        super().__init__()
        self.pair, self.head_dim, self.layer_idx, self.padding = pair, _heads(config)[1], None, None
        hidden, inner = config.hidden_size, state_heads * self.head_dim
        self.conv1d = nn.Conv1d(hidden, hidden, KERNEL, groups=hidden, bias=False)
        self.q_proj = nn.Linear(hidden, inner)
        self.k_proj = nn.Linear(hidden, inner)
        self.v_proj = nn.Linear(hidden, inner)
        self.gate_proj = nn.Linear(hidden, state_heads)
        self.map_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(inner, hidden)

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs):
        cache, present, length = find_cache(args, kwargs), self.padding, hidden_states.shape[1]
        if paged := next((value for value in kwargs.values() if is_paged(value)), None):
            self._refuse(paged)
        if present is not None:  # what is padded is as if it were not there
            present = present[:, -length:, None].to(hidden_states.dtype)
            hidden_states = hidden_states * present
        x = self._convolved(hidden_states.mT, cache).mT.contiguous()  # or linear maps copy their weights
        log_gate = -F.softplus(self.gate_proj(x).float())
        queries = _features(self._by_head(self.q_proj(x)))
        keys = _features(self._by_head(self.k_proj(x)))
        if present is not None:
            log_gate, keys = log_gate * present, keys * present[:, None]
        values = F.pad(self._by_head(self.v_proj(x)), (0, 1), value=1.0)  # the last column sums the weights
        sums, state = _run(queries, keys, values, log_gate.mT, None if cache is None else self._state_of(cache))
        if cache is not None:
            cache.update_recurrent_state(state, self.layer_idx)
        mean = (sums[..., :-1] / (sums[..., -1:] + EPSILON)).transpose(1, 2).flatten(2)
        output = self.o_proj(mean.to(x.dtype)) + self.map_proj(x)
        return (output, None) if self.pair else output

    def _by_head(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, heads * head_dim)` -> `(batch, heads, length, head_dim)`, float32."""
        return states.float().unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _convolved(self, inputs: torch.Tensor, cache) -> torch.Tensor:
        """Causal, `(batch, channels, length)`, what a cache holds of earlier tokens included."""
        length = inputs.shape[-1]
        if cache is not None:
            self._claim(cache)
            inputs = cache.update_conv_state(inputs, self.layer_idx, conv_kernel_size=KERNEL)
        return self.conv1d(F.pad(inputs, (KERNEL - 1, 0)))[..., -length:]

    def _claim(self, cache) -> None:
        """A place in the cache, where nothing is kept yet: caches are made of what configs say, which has no word for it."""
        layers = getattr(cache, "layers", ())
        if not isinstance(cache, (DynamicCache, StaticCache)) or self.layer_idx >= len(layers):
            self._refuse(cache)
        layers[self.layer_idx] = with_states(layers[self.layer_idx])

    def _refuse(self, cache) -> None:
        raise CacheError(
            f"layer {self.layer_idx} keeps a state ({self.noun}), for which {type(cache).__name__} has no place: use a "
            "DynamicCache or a StaticCache, and no continuous batching"
        )

    def _state_of(self, cache) -> torch.Tensor | None:
        layer = cache.layers[self.layer_idx]
        return layer.recurrent_states[0] if layer.is_recurrent_states_initialized[0] else None

    @staticmethod
    def why_not(config, state_heads: int) -> str | None:
        """What a parent's size says against it, with the way out; None if nothing."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        if heads % state_heads == 0:
            return None
        return f"{state_heads} states do not divide the parent's {heads} KV heads: use a divisor"

    @staticmethod
    def state_bytes(config, state_heads: int, width: int) -> int:
        """Bytes of the states of one sequence; `width` of a number of the model."""
        size = _heads(config)[1]
        return state_heads * 2 * size * (size + 1) * 4 + config.hidden_size * KERNEL * width

    @staticmethod
    def from_attention(attention: nn.Module, config, state_heads: int) -> dict[str, torch.Tensor]:
        """Its weights before training, float32: the attention's, heads averaged that come to one state; a map of zeros.

        Raises:
            ValueError: projections that are not the four of most families, each on its own.
        """
        heads, size = _heads(config)
        projections = {name: getattr(attention, name, None) for name in INPUTS}
        output = next((getattr(attention, name) for name in OUTPUTS if hasattr(attention, name)), None)
        plain = all(isinstance(p, nn.Linear) for p in (*projections.values(), output))
        if not plain or projections["q_proj"].out_features != heads * size:
            raise ValueError(
                f"{type(attention).__name__} has no plain {', '.join(INPUTS)} and {OUTPUTS[0]} to start from"
            )
        weights = {}
        for name, projection in projections.items():
            for each, tensor in zip(("weight", "bias"), _matrix(projection), strict=True):
                weights[f"{name}.{each}"] = tensor.unflatten(0, (state_heads, -1, size)).mean(1).flatten(0, 1)
        weight, bias = _matrix(output)
        hidden = len(weight)
        # what one mean stands for goes through all their columns
        weights["o_proj.weight"] = weight.unflatten(1, (state_heads, -1, size)).sum(2).flatten(1)
        weights |= {"o_proj.bias": bias, "map_proj.weight": weight.new_zeros(hidden, hidden)}
        weights["q_proj.weight"], weights["q_proj.bias"] = (
            weights[f"q_proj.{n}"] * size**-0.5 for n in ("weight", "bias")
        )
        taps = weight.new_zeros(hidden, 1, KERNEL)
        taps[..., -1] = 1
        memory = torch.logspace(*(math.log10(tokens) for tokens in MEMORY), state_heads).to(weight)
        weights |= {
            "gate_proj.weight": weight.new_zeros(state_heads, hidden),
            "gate_proj.bias": torch.expm1(1 / memory).log(),
        }
        return weights | {"conv1d.weight": taps}


def _matrix(projection: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias, float32 copies; a bias of zeros where there is none."""
    weight, bias = projection.weight.detach().float(), projection.bias
    return weight.clone(), weight.new_zeros(len(weight)) if bias is None else bias.detach().float().clone()


def _heads(config) -> tuple[int, int]:
    """Query heads of a family, and the size of each."""
    heads = config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def _features(x: torch.Tensor) -> torch.Tensor:
    """Ones that are not negative, `(..., head_dim)` -> `(..., 2 * head_dim)`."""
    return torch.cat([x, -x], dim=-1).relu().square()


def _run(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    log_gate: torch.Tensor,
    state: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums that queries read, `(batch, states, length, m)`, and the state behind.

    queries and keys `(batch, states, length, n)`, values `(batch, states, length, m)`, log_gate `(batch, states, length)`, of
    the fading before a token is added; state `(batch, states, n, m)`.
    """
    answers = []
    for start in range(0, keys.shape[2], CHUNK):
        piece = slice(start, start + CHUNK)
        q, k, v = queries[:, :, piece], keys[:, :, piece], values[:, :, piece]
        total = log_gate[:, :, piece].cumsum(dim=-1)
        fading = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
        answer = (q @ k.mT * fading) @ v
        new = (k * (total[..., -1:] - total).exp()[..., None]).mT @ v
        if state is not None:
            answer = answer + (q * total.exp()[..., None]) @ state
            new = new + state * total[..., -1:, None].exp()
        answers.append(answer)
        state = new
    return torch.cat(answers, dim=2), state


# -- what a decoder does for them


class Padding:
    """Forward pre-hook of a decoder: its blocks with a state learn which tokens of a call are padding."""

    def __init__(self, blocks: list[GatedLinearAttention]):
        self.blocks = blocks

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(mask, dict):  # one for each kind of attention
            mask = next(iter(mask.values()), None)
        if isinstance(mask, torch.Tensor) and mask.ndim == 4:  # whether a token sees itself
            cache, (length, keys) = find_cache(args, kwargs), mask.shape[-2:]
            seen = 0 if cache is None else int(cache.get_seq_length())
            own = mask[:, 0].diagonal(offset=min(seen, keys - length), dim1=-2, dim2=-1)
            mask = own if own.dtype == torch.bool else own >= 0
        for block in self.blocks:
            block.padding = mask


def with_states(layer):
    """What takes the place of an unused layer of a cache whose block keeps a state."""
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        return layer
    if type(layer) is StaticLayer:  # its block counts tokens, too
        return LinearAttentionAndStaticFullAttentionLayer(max_cache_len=layer.max_cache_len)
    return LinearAttentionLayer() if isinstance(layer, DummyLayer) else LinearAttentionAndFullAttentionLayer()
