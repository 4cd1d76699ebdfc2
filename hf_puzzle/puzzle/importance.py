"""Which FFN channels (or experts) matter: one calibration pass ranks them for every width at once."""

import contextlib
import functools
from collections.abc import Iterator

import torch
from accelerate.utils import align_module_device
from torch.nn import functional as F
from transformers import PreTrainedModel, Trainer

from ..anatomy import input_device
from ..progress import bar
from ..stages import Estimate
from .estimates import Pieces
from .experts import ExpertSums, experts_of
from .surgery import layers_of, meta_parent, output_projection, sub_blocks


class FFNActivity:
    """The sums behind `channel_importance`, taken while somebody else runs the model; padding is left out.

    Args:
        model: transformers model; its FFN output matrices may be wrapped in adapters.
        pad_token_id: of rows that were padded before anybody made a mask; one such token at an end may be text.
    """

    def __init__(self, model: PreTrainedModel, pad_token_id: int | None = None):
        self.model, self.pad_token_id = model, pad_token_id
        stock = meta_parent(model.config)
        names = {module: name for name, module in stock.named_modules()}
        device = "cpu" if model.device.type == "mps" else model.device  # mps has no float64
        self.mixtures: list[ExpertSums | None] = []  # of each layer
        self.sums: dict[str, torch.Tensor] = {}  # last entry: tokens
        self.layers: list[int] = []  # those with an FFN
        for layer_idx, layer in enumerate(layers_of(stock)):
            if (ffn := sub_blocks(layer).get("ffn")) is None:
                continue
            self.layers.append(layer_idx)
            mixture = ExpertSums(experts, device) if (experts := experts_of(ffn)) is not None else None
            watched = output_projection(ffn) if mixture is None else experts
            self.mixtures.append(mixture)
            self.sums[names[watched]] = (
                torch.zeros(watched.in_features + 1, dtype=torch.float64, device=device)
                if mixture is None
                else mixture.flat
            )
        self._kept: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return int(min(sums[-1].item() for sums in self.sums.values()))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Hooks on the model, for as long as the block runs."""
        handles = [self.model.get_decoder().register_forward_pre_hook(self._note_padding, with_kwargs=True)]
        try:
            for (name, sums), mixture in zip(self.sums.items(), self.mixtures, strict=True):
                hook = functools.partial(
                    *((self._add_channels, sums) if mixture is None else (self._add_experts, mixture))
                )
                handles.append(self.model.get_submodule(name).register_forward_pre_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note_padding(self, module, args, kwargs) -> None:
        given = (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        inputs, mask = next(tensor for tensor in given if tensor is not None), kwargs.get("attention_mask")
        kept = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            kept = mask[:, -inputs.shape[1] :].bool()  # with a cache the mask also covers what is in it
        if self.pad_token_id is not None and not inputs.is_floating_point():
            kept = kept & ~_padding_runs(inputs == self.pad_token_id)
        self._kept = None if kept.all() else kept.flatten().nonzero().flatten()

    def _of_text(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of `(tokens, ...)` that are no padding."""
        return values if self._kept is None else values[self._kept.to(values.device)]

    @torch.no_grad()
    def _add_channels(self, sums: torch.Tensor, module, args) -> None:
        values = self._of_text(args[0].float().abs().flatten(0, -2))
        sums[:-1] += values.sum(0).to(sums.device).double()
        sums[-1] += len(values)

    @torch.no_grad()
    def _add_experts(self, mixture: ExpertSums, module, args) -> None:
        states, indices, weights = args  # (tokens, hidden_size), and (tokens, top_k) both
        mixture.add(module, *(self._of_text(values) for values in (states.flatten(0, -2), indices, weights)))

    def reduce(self, trainer: Trainer) -> None:
        """Add up what the processes saw, each its share of the evaluation; afterwards all of it is on the CPU."""
        joined = torch.cat(list(self.sums.values()))
        if trainer.args.world_size > 1:
            joined = trainer.accelerator.reduce(joined, reduction="sum")
        parts = joined.cpu().split([len(sums) for sums in self.sums.values()])
        self.sums = dict(zip(self.sums, parts, strict=True))

    def importance(self, parent: PreTrainedModel, experts: str = "output_norm") -> dict[str, torch.Tensor]:
        """The same as `channel_importance` of `parent` on the tokens that were seen."""
        scores = {}
        for i, (name, sums), mixture in zip(self.layers, self.sums.items(), self.mixtures, strict=True):
            module = parent.get_submodule(name)
            with align_module_device(module):  # weights that a device_map keeps elsewhere
                if mixture is not None:
                    scores[f"layer_{i}"], scores[f"layer_{i}.channels"] = mixture.importance(module, sums, experts)
                else:
                    scores[f"layer_{i}"] = (sums[:-1] / sums[-1]).float().cpu() * module.weight.float().norm(
                        dim=0
                    ).cpu()
        return scores


def _padding_runs(pads: torch.Tensor) -> torch.Tensor:
    """Where padding tokens follow one another at the ends of rows `(batch, length)`, but for the one next to the text."""
    leading, trailing = pads.cumprod(1).bool(), pads.flip(1).cumprod(1).flip(1).bool()
    return (leading & F.pad(leading[:, 1:], (0, 1))) | (trailing & F.pad(trailing[:, :-1], (1, 0)))


@torch.no_grad()
def channel_importance(
    model: PreTrainedModel, input_ids: torch.Tensor, batch_size: int, experts: str = "output_norm"
) -> dict[str, torch.Tensor]:
    """Mean over tokens of |X_k| * ||W_down[:, k]||: how far the output moves if channel k is removed.

    (Puzzle, arXiv 2411.19146, section on channel contribution.) Experts of a mixture: as of `ExpertSums.importance`.

    Args:
        input_ids: calibration sequences, shape `(num_sequences, sequence_length)`.
        experts: `reap`, `output_norm` or `routing_weight`.

    Returns:
        `layer_{i}` -> float32 scores of shape `(intermediate_size,)`; of a mixture `(num_experts,)`, and `layer_{i}.channels`
        of the channels of each expert, `(num_experts, width)`.
    """
    activity = FFNActivity(model)
    with activity.watched():
        for batch in bar(input_ids.split(batch_size), desc="importance"):
            model.get_decoder()(input_ids=batch.to(input_device(model)), use_cache=False)
    return activity.importance(model, experts)


def channel_ranking(importance: torch.Tensor) -> torch.Tensor:
    """Channels by falling importance; ties by index, so that the ranking is the same everywhere."""
    return torch.sort(importance, descending=True, stable=True).indices


def estimate_importance(p: Pieces) -> Estimate:
    """P w + A(T)."""
    config = p.recipe.importance
    channels = p.shapes.mean(lambda own: p.shapes.part("ffn", own.ffn).out) / p.shapes.hidden
    count, rows = p.batches(config.num_tokens, config.batch_size)
    rank = p.clock.rank(rows, p.length, int(channels))
    return Estimate(
        p.open() + count * (p.clock.parent(rows, p.length) + p.shapes.num_layers * rank),
        p.held(activations=p.activations(rows * p.length, p.width)),
        "lower importance.batch_size, or parent.device_map spreads the parent",
        4.0 * p.shapes.num_layers * channels,
    )
