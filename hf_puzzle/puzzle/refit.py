"""Closed-form refit of an assembled child: each output matrix corrects what the layers before it got wrong.

Walks the child from the first layer up. For each sub-block, its inputs Z to the output matrix are those the *child*
produces, and the target is what is missing to the parent's residual stream; the ridge solution is centred at the
current weights. No gradients; a few forward passes of calibration text.

Nothing is taken on trust: a quarter of the text fits nothing. A matrix is changed only where that lowers its error there,
and the refitted child is kept only where it is nearer to the parent there than it was.
"""

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..evaluation import Rows, Targets, surely_lower
from ..progress import bar
from ..recipe import ChildConfig, RecipeError
from ..stages import Estimate
from .estimates import Pieces, largest
from .experts import ExpertData, expert_width, experts_of, refitted
from .surgery import KINDS, first_states, hidden_states_of, layers_of, output_projection, run_layer, sub_blocks


logger = logging.getLogger(__name__)

JUDGES = 4  # one sequence in so many
LEAST_ROWS = 2 * JUDGES  # two must judge: one has no spread, and nothing is surely better by it
TOKENS_PER_CHANNEL = 32  # fewer fit a matrix to chance: the gate then refuses it
RIDGES = (1.0, 10.0, 100.0)  # times the recipe's ridge


@dataclass(frozen=True)
class Trace:
    """One layer on one batch, `(batch, length, hidden_size)` each: what came in, each sub-block's answer, what came out."""

    state: torch.Tensor
    updates: dict[str, torch.Tensor]
    output: torch.Tensor

    def to(self, device: torch.device) -> "Trace":
        updates = {kind: update.to(device) for kind, update in self.updates.items()}
        return Trace(self.state.to(device), updates, self.output.to(device))

    def on(self, channels: torch.Tensor) -> "Trace":
        """The same on some channels of the stream."""
        updates = {kind: update[..., channels] for kind, update in self.updates.items()}
        return Trace(self.state[..., channels], updates, self.output[..., channels])

    def after(self, kind: str, scale: float) -> torch.Tensor:
        """The residual stream right after a sub-block."""
        if kind == "ffn":
            return self.output
        return self.state + scale * self.updates[kind] if kind in self.updates else self.state


@dataclass(frozen=True)
class Refit:
    """What a refit did, judged on the sequences that fitted nothing.

    Attributes:
        matrices, accepted: output matrices, and those whose held-out error fell.
        kl_before, kl_after: KL(parent || child) per token in nats without and with the accepted matrices.
        kept: whether the child has them now: KL fell beyond chance.
    """

    matrices: int
    accepted: int
    kl_before: float
    kl_after: float
    kept: bool


def wanted_tokens(widest: int) -> int:
    """Calibration tokens for an output matrix of `widest` input channels, those that judge included."""
    return -(-TOKENS_PER_CHANNEL * widest * JUDGES // (JUDGES - 1))


def check_tokens(config: ChildConfig, sequence_length: int, most: int, widest: int) -> None:
    """Say before any compute that calibration text is too little.

    Args:
        most: tokens that there are.
        widest: input channels of the widest FFN, 0 if it is not known.

    Raises:
        RecipeError: less than two sequences.
    """
    length = sequence_length
    if config.refit_tokens is not None and config.refit_tokens < 2 * length:
        raise RecipeError(
            f"child.refit_tokens {config.refit_tokens}: two sequences of {length} at least, one to fit and one to judge; "
            "or child.refit: false"
        )
    wanted = wanted_tokens(widest) if widest else 0
    given = min(config.refit_tokens or max(2 * length, wanted), most)
    if given // length < LEAST_ROWS:
        logger.warning(
            "child.refit_tokens: of %d sequences of %d, one judges, which cannot tell a gain from chance: the refit will "
            "be taken back. %d tokens would do (%d sequences); or child.refit: false", given // length, length,
            max(wanted, LEAST_ROWS * length), max(wanted // length, LEAST_ROWS),
        )  # fmt: skip
    elif given < wanted:
        logger.warning(
            "child.refit_tokens: %d tokens for matrices of up to %d input channels; %d would do. Matrices that gain nothing "
            "on held-out text stay as they are.", given, widest, wanted,
        )  # fmt: skip


def calibration_rows(
    child: PreTrainedModel, tokens: torch.Tensor, sequence_length: int, config: ChildConfig, seed: int
) -> Rows:
    """Sequences that `refit` takes: as many as the child's widest matrix needs."""
    blocks = [block for layer in layers_of(child) for block in sub_blocks(layer).values()]
    widest = max((_inputs(block) for block in blocks), default=1)
    count = config.refit_tokens or max(2 * sequence_length, wanted_tokens(widest))
    return Rows.draw(tokens, sequence_length, count, seed)


def _inputs(block: nn.Module) -> int:
    """Input channels of a sub-block's output matrix, of all experts together; 1 where there is none."""
    if (output := output_projection(block)) is not None:
        return output.in_features
    experts = experts_of(block)
    return 1 if experts is None else expert_width(experts) * experts.num_experts


@torch.no_grad()
def refit(
    child: PreTrainedModel,
    parent: PreTrainedModel,
    rows: Rows | torch.Tensor,
    config: ChildConfig,
    given: Sequence[int] = (),
    kept: torch.Tensor | None = None,
) -> Refit:
    """Refit `child` in place where that makes it better; of a mixture, the output matrices of its experts as one.

    Args:
        rows: calibration sequences, or their tokens `(num_sequences, sequence_length)`; the last quarter judges.
        given: of plain tokens, those that are never predicted, as of `TokenStream.given`.
        kept: the parent's channels that the child's stream has, where it has fewer (`hidden.size`).

    Raises:
        ValueError: a single sequence, which cannot be fitted to and judge too.
    """
    rows = rows if isinstance(rows, Rows) else Rows.of(rows, given)
    if len(rows) < 2:
        raise ValueError("the refit needs two sequences or more: raise child.refit_tokens, or set child.refit: false")
    judging = max(1, len(rows) // JUDGES)
    fitting, judged = rows[:-judging], rows[-judging:]
    device, rest = parent.device, torch.device("cpu")  # states of all batches stay where there is room
    parts = [[batch.to(device) for batch in part.input_ids.split(config.batch_size)] for part in (fitting, judged)]
    batches, held_out = parts[0] + parts[1], len(parts[1])
    judge = Targets(parent, judged, config.batch_size, "refit: parent")
    before = _kl(judge, child)
    child_states = [first_states(child, batch).to(rest) for batch in batches]
    parent_states = [first_states(parent, batch).to(rest) for batch in batches]
    originals: list[tuple[nn.Parameter, torch.Tensor]] = []
    matrices = 0
    for layer_idx in bar(range(len(layers_of(child))), desc="refit"):
        targets = [_trace(parent, layer_idx, state.to(device)).to(rest) for state in parent_states]
        scale = _residual_scale(parent, layer_idx, parent_states[0].to(device))
        aims = targets if kept is None else [target.on(kept.cpu()) for target in targets]
        for kind, block in sub_blocks(layers_of(child)[layer_idx]).items():
            watched = output_projection(block)
            watched = experts_of(block) if watched is None else watched
            if watched is not None:
                matrices += 1
                problem = _problem(child, layer_idx, kind, watched, child_states, aims, scale, held_out)
                update = problem.solve(config.ridge)
                if update is not None:
                    own = watched.weight if isinstance(watched, nn.Linear) else watched.down_proj
                    originals.append((own, own.to("cpu", copy=True)))
                    own += update.to(own.dtype)
        child_states = [run_layer(child, layer_idx, state.to(device)).to(rest) for state in child_states]
        parent_states = [target.output for target in targets]
    after = _kl(judge, child) if originals else before
    kept = surely_lower(after, before)  # never where one is no number
    if not kept:
        for own, weight in originals:
            own.copy_(weight)
    logger.info(
        "refit: %d of %d matrices have a smaller error on held-out text; KL there %.4f without, %.4f with them: %s",
        len(originals), matrices, before.mean(), after.mean(), "kept" if kept else "taken back",
    )  # fmt: skip
    return Refit(matrices, len(originals), before.mean().item(), after.mean().item(), kept)


def _kl(judge: Targets, child: PreTrainedModel) -> torch.Tensor:
    """KL(parent || child) of each row, per token in nats."""
    return judge.compare(child, "refit: judge").columns["kl"].nan_to_num(math.inf, math.inf)


def _residual_scale(model: PreTrainedModel, layer_idx: int, state: torch.Tensor) -> float | None:
    """s where output = state + s * (attention + ffn), as in pre-norm layers; None behind norms after the sub-blocks.

    One layer on one sequence in float32: in half precision, what rounding does to a large stream hides which it is.
    """
    decoder, layers = model.get_decoder(), layers_of(model)
    # what the stream passes: the layer, and behind it a final norm, which may take no other dtype than its own
    passed = [
        layers[layer_idx],
        *(m for m in decoder.children() if m is not layers and not isinstance(m, nn.Embedding)),
    ]
    weights = {parameter: parameter.data for module in passed for parameter in module.parameters()}
    for parameter in weights:
        parameter.data = parameter.data.float()
    try:
        trace = _trace(model, layer_idx, state[:1].float())
    finally:
        for parameter, data in weights.items():
            parameter.data = data
    change, update = (trace.output - trace.state).double(), sum(trace.updates.values()).double()
    scale = float((change * update).sum() / update.square().sum().clamp_min(1e-30))
    error = (change - scale * update).norm() / change.norm().clamp_min(1e-30)
    return scale if error < 1e-2 and scale > 0 else None


@dataclass(frozen=True)
class _Problem:
    """Least squares for one output matrix: Gram matrices of its inputs, `(2, n, n)`, and their products with what is
    missing, `(2, out, n)`, over the sequences that fit and over those that judge."""

    gram: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def of(cls, output: nn.Linear, device: torch.device) -> "_Problem":
        """Of no tokens yet."""
        zeros = functools.partial(torch.zeros, device=device, dtype=torch.float64)
        return cls(zeros(2, output.in_features, output.in_features), zeros(2, output.out_features, output.in_features))

    def add(self, args: tuple, missing: torch.Tensor, judges: int) -> None:
        """What went into the matrix for a batch, and what is missing of its answer `(batch, length, out)`."""
        z = args[0].flatten(0, -2).float()
        self.gram[judges] += (z.T @ z).double()
        self.cross[judges] += (missing.flatten(0, -2).float().T @ z).double()

    def solve(self, ridge: float) -> torch.Tensor | None:
        """The change that lowers the held-out error most, of several strengths of the ridge; None if none lowers it."""
        best, lowest = None, 0.0
        eye = torch.eye(self.gram.shape[-1], device=self.gram.device, dtype=self.gram.dtype)
        for strength in RIDGES:
            penalty = strength * ridge * self.gram[0].diagonal().mean() * eye
            update = torch.linalg.solve(self.gram[0] + penalty, self.cross[0].T).T
            # |missing - update z|^2 over the judging tokens, less the same without the update
            change = ((update @ self.gram[1] - 2 * self.cross[1]) * update).sum()
            if torch.isfinite(update).all() and change < lowest:
                best, lowest = update, change
        return best


class _ExpertsProblem:
    """The same for the output matrices of a layer's experts; what they saw is kept, as routing is sparse."""

    def __init__(self, experts: nn.Module):
        self.experts, self.seen = experts, ([], [])

    def add(self, args: tuple, missing: torch.Tensor, judges: int) -> None:
        states, indices, weights = args
        self.seen[judges].append(
            ExpertData(states.flatten(0, -2), indices, weights, missing.flatten(0, -2).float().contiguous())
        )

    def solve(self, ridge: float) -> torch.Tensor | None:
        fit, judge = (ExpertData.joined(parts) for parts in self.seen)
        return refitted(self.experts, fit, judge, [strength * ridge for strength in RIDGES])


def _problem(child, layer_idx: int, kind: str, watched: nn.Module, states, targets, scale, held_out: int):
    problem = _Problem.of(watched, child.device) if isinstance(watched, nn.Linear) else _ExpertsProblem(watched)
    for i, (state, target) in enumerate(zip(states, targets, strict=True)):
        state, target = state.to(child.device), target.to(child.device)
        inputs: list[tuple] = []
        handle = watched.register_forward_pre_hook(lambda module, args, keep=inputs: keep.append(args))
        try:
            trace = _trace(child, layer_idx, state)
        finally:
            handle.remove()
        if scale is None:  # a norm stands between the matrix and the stream: aim at the parent's own answer
            missing = target.updates[kind] - trace.updates[kind]
        else:
            missing = (target.after(kind, scale) - trace.after(kind, scale)) / scale
        problem.add(inputs[0], missing, int(i >= len(states) - held_out))
    return problem


def _trace(model: PreTrainedModel, layer_idx: int, state: torch.Tensor) -> Trace:
    layer = layers_of(model)[layer_idx]
    updates: dict[str, torch.Tensor] = {}

    def keep(kind: str):
        return lambda module, args, output: updates.__setitem__(kind, hidden_states_of(output))

    handles = [block.register_forward_hook(keep(kind)) for kind, block in sub_blocks(layer).items()]
    try:
        output = run_layer(model, layer_idx, state)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(state, updates, output)


def estimate_child(p: Pieces) -> Estimate:
    """P w + 2 C w while it is put together; P w + C w + Gram matrices (48 n^2 + 32 n H, n inputs) + targets of the quarter
    that judges + A(T) in the refit, whose states (6 D H w) lie on the host."""
    config, clock, shapes = p.recipe.child, p.clock, p.shapes
    seconds = p.open() + 2 * clock.store(p.child_bytes)
    moments = [p.held(child=2 * p.child_bytes)]
    if config.refit:
        widest = int(p.largest_part(lambda part: part.out / part.routed / shapes.hidden))
        count, rows = p.batches(config.refit_tokens or wanted_tokens(widest), config.batch_size)
        ends, layer = clock.ends(rows, p.length), p.layer(rows, p.length)
        # of a mixture, the experts that a token passes: each has a matrix of its own
        inputs = [
            int(shapes.mean(lambda own, k=k: shapes.part(k, getattr(own, k)).out)) // shapes.hidden for k in KINDS
        ]
        per_batch = (ends + layer) + (2 * p.share + 1) * (ends + p.share * layer)
        matrices = [(p.share if i else 1.0) * size for i, size in enumerate(inputs)]  # FFNs are narrowed
        grams = sum(clock.gram(int(size), shapes.hidden, rows * p.length) for size in matrices)
        solves = sum(clock.solve(int(size), shapes.hidden) for size in matrices)
        seconds += shapes.num_layers * (count * (per_batch + p.share * grams) + p.share * solves)
        tokens, size = rows * p.length, max(inputs)
        moments.append(
            p.held(
                child=p.child_bytes,
                states=0.0 if p.on_gpu else 6.0 * count * tokens * shapes.hidden * p.width,
                gram=48.0 * size**2 + 32.0 * size * shapes.hidden,  # of the widest FFN
                activations=p.activations(tokens, p.width),
                **p.judging(count * tokens // JUDGES, tokens, heads=2),
            )
        )
    help = "set child.refit: false, or lower child.refit_tokens and child.batch_size"
    return Estimate(seconds, largest(*moments), help, p.child_bytes)
