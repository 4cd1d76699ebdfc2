"""Weights in closed form that blocks start from, from one pass of the parent over calibration tokens.

Nothing is taken on trust: what the first tokens suggest is compared with the training-free weights on the rest of them.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..blocks import NONE, Block, Variant, kv_heads, row_of, sizes_of
from ..layers import parent_blocks
from ..progress import bar
from ..recipe import LibraryConfig
from .block_loss import normalized_mse, token_weights
from .importance import channel_ranking
from .initialisation import initial_weights, product_of_weights, shared_subspaces
from .states import LayerStream
from .surgery import KINDS, empty_block, hidden_states_of, layers_of, load_block, output_projection, sub_block


TOKENS_PER_INPUT = 32  # of a regression; with 2 its error on other tokens is half as large again as it must be
FIT_SHARE = 0.75  # of the tokens; the others choose
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of ridge regression, relative to the inputs' mean power

ATTENTION = "attention"  # how weights were made that come from the attention itself

Place = tuple[int, str, Variant]  # layer, kind, variant
Start = tuple[dict[str, torch.Tensor], str]  # weights, and how they were made


@dataclass
class Moments:
    """Second moments of inputs `(tokens, n)` and outputs `(tokens, m)`, tokens weighted as in the loss."""

    xx: torch.Tensor
    yx: torch.Tensor
    yy: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor) -> "Moments":
        weights = token_weights(y)
        weighted = weights[:, None] * x
        return cls(weighted.T @ x, y.T @ weighted, (weights * y.square().sum(-1)).sum())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.xx + other.xx, self.yx + other.yx, self.yy + other.yy)

    def leading(self, n: int) -> "Moments":
        """Of the first `n` inputs only."""
        return Moments(self.xx[:n, :n], self.yx[:, :n], self.yy)

    def error(self, weight: torch.Tensor) -> float:
        """Normalised squared error of `x @ weight.T` against `y`."""
        fall = 2 * (weight * self.yx).sum() - ((weight @ self.xx) * weight).sum()
        return 1 - (fall / self.yy.clamp_min(1e-12)).item()

    def ridge(self, strength: float, prior: torch.Tensor) -> torch.Tensor:
        """Weight `(m, n)` of ridge regression that is pulled to `prior`."""
        xx, start = _exact(self.xx), _exact(prior)
        penalty = (
            strength * xx.diagonal().mean().clamp_min(1e-30) * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        )
        step = torch.linalg.solve(xx + penalty, (_exact(self.yx) - start @ xx).T).T
        return (start + step).to(prior.device, torch.float32)


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # mps has no float64


def best_map(fit: Moments, heldout: Moments, own: torch.Tensor, prior: torch.Tensor) -> torch.Tensor | None:
    """The ridge regression towards `prior` with the least held-out error, on all tokens; None where `own` is no worse."""
    errors = {strength: heldout.error(fit.ridge(strength, prior)) for strength in STRENGTHS}
    strength = min(errors, key=errors.get)
    return (fit + heldout).ridge(strength, prior) if errors[strength] < heldout.error(own) else None


def calibration_tokens(config: LibraryConfig, hidden_size: int, ffn: list[Variant]) -> int:
    """Tokens that `closed_form` asks for, for these variants of the FFN, the parent's own first."""
    widths = [variant for variant in ffn[1:] if isinstance(variant, int)]
    return config.ridge_tokens or TOKENS_PER_INPUT * max([hidden_size, *widths])


@torch.no_grad()
def closed_form(
    parent,
    wanted,
    importance: dict[str, torch.Tensor],
    input_ids: torch.Tensor,
    config: LibraryConfig,
    stream: LayerStream | None = None,
) -> dict[Place, Start]:
    """The better of training-free and closed-form weights for each variant of `wanted`.

    Linear: ridge regression of the output on the input, against the product of weights. FFN channels: the output matrix
    is solved again for the channels that are left. KV heads: `shared_subspace` against the mean of heads. Blocks that start
    from the attention itself: the matrices that write their answer are solved again.

    Args:
        wanted: `(name, layer, kind, variant)`; of a pair, both its sub-blocks.
        importance: as `channel_importance` returns it.
        input_ids: calibration sequences `(num_sequences, sequence_length)`; the last quarter chooses.
        stream: runs the parent; default: all of its layers.
    """
    stream = stream or LayerStream(parent)
    places = list(dict.fromkeys(_parts(wanted, parent_blocks(parent.config))))
    if not places and stream.hand_on is None:
        return {}
    forms = _ClosedForms(parent, places, importance)
    first = max(1, int(FIT_SHARE * len(input_ids)))
    halves = [half.split(config.batch_size) for half in (input_ids[:first], input_ids[first:]) if len(half)]
    batches = [batch for half in halves for batch in half]
    with forms.watching():
        pairs = bar(stream.with_states(batches), total=len(batches), desc="closed forms")
        for number, (batch, states) in enumerate(pairs):
            if number == len(halves[0]):
                forms.fitted()
            stream.run(batch, states)
    return forms.best()


class _ClosedForms:
    """What is gathered of the sub-blocks of `places`, and made of it."""

    def __init__(self, parent, places: list[Place], importance: dict[str, torch.Tensor]):
        self.parent, self.places, self.layers = parent, places, layers_of(parent)
        self.rankings = {i: channel_ranking(importance[f"layer_{i}"]) for i, kind, _ in places if kind == "ffn"}
        inner = {i: importance.get(f"layer_{i}.channels") for i in self.rankings}  # of experts
        self.inner = {i: channel_ranking(scores) for i, scores in inner.items() if scores is not None}
        self.maps: dict[tuple[int, str], torch.Tensor] = {}  # of variants that are made of a linear map
        self.starts = {place: self._training_free(*place) for place in places}
        self.fit: dict[tuple, Moments] = {}
        self.heldout: dict[tuple, Moments] | None = None  # until `fitted`
        self.offers: dict[Place, dict[str, dict[str, torch.Tensor]]] = {}
        self.trials: dict[tuple[int, str], list[tuple[Place, str, nn.Module]]] = {}
        self.own_inputs = {
            place: self._loaded(place, start[0]) for place, start in self.starts.items() if start[1] == ATTENTION
        }
        self.losses: dict[tuple[Place, str], float] = defaultdict(float)

    def _training_free(self, layer_idx: int, kind: str, variant: Variant) -> Start:
        layer, config = self.layers[layer_idx], self.parent.config
        module = row_of(kind, variant).module
        if module is None or hasattr(module, "from_attention"):
            weights = initial_weights(
                layer, kind, variant, config, self.rankings.get(layer_idx), self.inner.get(layer_idx), layer_idx
            )
            if module is not None:
                return weights, ATTENTION
            return weights, "mean_pool" if kind == "attention" else "channels" if isinstance(
                variant, int
            ) else "experts"
        try:
            linear, init = product_of_weights(layer, kind, config), "product"
        except ValueError:  # mixtures have none
            linear, init = torch.zeros(config.hidden_size, config.hidden_size, device=self.parent.device), "zeros"
        self.maps[layer_idx, kind] = linear
        return _from_map(linear, kind, variant), init

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for i, kind in dict.fromkeys(place[:2] for place in self.places):
            block, widths = sub_block(self.layers[i], kind), self._widths(i) if kind == "ffn" else []
            if kind == "attention" or (i, kind) in self.maps:
                handles.append(block.register_forward_hook(self._watch_block(i, kind), with_kwargs=True))
            if widths:
                hook = self._watch_channels(i, self.rankings[i][: max(widths)].to(self.parent.device))
                handles.append(output_projection(block).register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _widths(self, layer_idx: int) -> list[int]:
        """Of the narrower dense FFNs of a layer."""
        return [v for i, kind, v in self.places if (i, kind) == (layer_idx, "ffn") and isinstance(v, int)]

    def _watch_block(self, layer_idx: int, kind: str):
        def hook(module, args, kwargs, output):
            x, y = args[0] if args else kwargs["hidden_states"], hidden_states_of(output)
            self._add((layer_idx, kind), nn.functional.pad(x, (0, 1), value=1.0), y)  # biases are of this input
            for place, block in self.own_inputs.items():
                if place[:2] == (layer_idx, kind):
                    self._add(place, nn.functional.pad(_read(block, args, kwargs), (0, 1), value=1.0), y)
            for place, init, block in self.trials.get((layer_idx, kind), ()):
                answer = hidden_states_of(block(*args, **kwargs))
                self.losses[place, init] += normalized_mse(answer, y).item()

        return hook

    def _watch_channels(self, layer_idx: int, channels: torch.Tensor):
        def hook(module, args, output):
            y = output if module.bias is None else output - module.bias
            self._add((layer_idx, "channels"), args[0][..., channels], y)

        return hook

    def _add(self, key: tuple, x: torch.Tensor, y: torch.Tensor) -> None:
        moments = Moments.of(x.flatten(0, -2).float(), y.flatten(0, -2).float())
        half = self.fit if self.heldout is None else self.heldout
        half[key] = half[key] + moments if key in half else moments

    def fitted(self) -> None:
        """From here on, tokens choose."""
        self.heldout = {}
        for place in self.places:
            layer_idx, kind, variant = place
            if kv_heads(variant) is None or kind == "ffn":
                continue
            block, xx = sub_block(self.layers[layer_idx], kind), self.fit[layer_idx, kind].xx
            offers = shared_subspaces(block, self.starts[place][0], kv_heads(variant), self.parent.config, _exact(xx))
            if not offers:
                continue
            self.offers[place] = offers
            for init, weights in {"mean_pool": self.starts[place][0], **offers}.items():
                self.trials.setdefault((layer_idx, kind), []).append((place, init, self._loaded(place, weights)))

    def _loaded(self, place: Place, weights: dict[str, torch.Tensor]) -> nn.Module:
        layer_idx, kind, variant = place
        block = empty_block(self.layers[layer_idx], kind, variant, self.parent.config, layer_idx)
        return load_block(block, {name: t.to(self.parent.device, self.parent.dtype) for name, t in weights.items()})

    def best(self) -> dict[Place, Start]:
        if not self.heldout:  # one sequence only
            return self.starts
        for place, (weights, init) in self.starts.items():
            layer_idx, kind, variant = place
            if place in self.offers:
                init = min(("mean_pool", *self.offers[place]), key=lambda name: self.losses[place, name])
                self.starts[place] = self.offers[place].get(init, weights), init
            elif place in self.own_inputs:
                names = [f"{name}.weight" for name in self.own_inputs[place].reads]
                bias = names[0].replace("weight", "bias")
                own = torch.cat([*(weights[name] for name in names), weights[bias][:, None]], dim=1).float()
                if (solved := best_map(self.fit[place], self.heldout[place], own, own)) is not None:
                    parts = solved.split([*(weights[name].shape[1] for name in names), 1], dim=1)
                    found = dict(zip(names, (part.contiguous() for part in parts), strict=False))
                    self.starts[place] = {**weights, **found, bias: parts[-1][:, 0].contiguous()}, f"{ATTENTION}+ridge"
            elif row_of(kind, variant).module is not None:
                size, own = self.parent.config.hidden_size, self.maps[layer_idx, kind].float()
                fit, heldout = (half[layer_idx, kind].leading(size) for half in (self.fit, self.heldout))
                solved = best_map(fit, heldout, own, torch.zeros_like(fit.yx))
                init = init if solved is None else "ridge"
                self.starts[place] = _from_map(own if solved is None else solved, kind, variant, fit.xx), init
            elif kind == "ffn" and isinstance(variant, int):
                fit, heldout = (half[layer_idx, "channels"].leading(variant) for half in (self.fit, self.heldout))
                order = self.rankings[layer_idx][:variant].to(fit.yx.device).argsort()  # weights have them ascending
                projection = output_projection(sub_block(self.layers[layer_idx], kind)).weight
                name = next(
                    n
                    for n, tensor in weights.items()
                    if tensor.ndim == 2 and tensor.shape == (len(projection), variant)
                )
                own = weights[name].float()[:, order.argsort()]
                if (solved := best_map(fit, heldout, own, own)) is not None:
                    self.starts[place] = {**weights, name: solved[:, order].contiguous()}, "channels+ridge"
        return self.starts


def _read(block: nn.Module, args: tuple, kwargs: dict) -> torch.Tensor:
    """What enters the matrices of a block whose answers add up to its own, side by side."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        getattr(block, name).register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
        for name in block.reads
    ]
    try:
        block(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat([seen[name] for name in block.reads], dim=-1)


def _from_map(
    linear: torch.Tensor, kind: str, variant: Variant, inputs: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Weights of a variant that is made of a linear map `(hidden_size, hidden_size)`."""
    return row_of(kind, variant).module.from_map(linear, kind, *sizes_of(kind, variant).values(), inputs=inputs)


def _parts(wanted, own: list[Block]):
    for _, layer_idx, kind, variant in wanted:
        parts = dict(zip(KINDS, variant, strict=True)) if kind == "block" else {kind: variant}
        yield from ((layer_idx, k, v) for k, v in parts.items() if v not in (NONE, getattr(own[layer_idx], k)))
