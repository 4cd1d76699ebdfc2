"""A parent with fewer channels in its residual stream (`hidden.size`), the same ones in every layer.

Channels are ranked as Minitron does (arXiv 2407.14679): by their mean absolute value behind the norms. Which axes of which
tensors are channels of the stream is read off two models without weights, one of either width; head size and number of
heads stay. Other than with fewer tokens, much is lost: the narrowed parent is only what blocks are cut from and trained in,
the whole one stays the teacher and what every child is judged against.

Nothing is taken on trust: norms and matrices are corrected in closed form only where held-out text is then nearer to the
parent.
"""

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from .. import artifacts
from ..anatomy import final_states, frozen
from ..corpora import asks, reads_self
from ..data import end_tokens, tokenize
from ..engines import refuses_model
from ..evaluation import Rows, Targets, surely_lower
from ..formats import DECILM, build_model, model_is_tied
from ..layers import as_key, meta_parent, of_key
from ..progress import bar
from ..recipe import ChildConfig, DataConfig, HiddenConfig, PuzzleRecipe, RecipeError
from .closed_form import FIT_SHARE, TOKENS_PER_INPUT, Moments, best_map
from .refit import calibration_rows, refit
from .surgery import KINDS, first_states, layers_of, run_layer, sub_blocks


logger = logging.getLogger(__name__)

FILE = "hidden.json"  # of a run
JUDGED = 16_384  # held-out tokens that corrections are judged on
LEAST_BATCHES = 8  # of the calibration text, where it has so many sequences
BLOCK_SIZES = {"q8_0": 32, "q4_0": 32, "q6_k": 256, "q5_k_m": 256, "q4_k_m": 256}  # weights of a row, in GGUF files
# experts are tensors without a module of their own; these write to the stream, all others read it
_WRITING = ("down_proj", "output_linear", "bias")


_REFUSALS = (ValueError, StrictDataclassError)  # of configs of transformers


class HiddenError(ValueError):
    """A parent that cannot be narrowed, or not to this width; the message says why, and what could be."""


@dataclass(frozen=True)
class Narrowed:
    """`hidden.json`: what a narrowed parent kept, and what became of it.

    Attributes:
        kept: the parent's channel of each channel, ascending.
        parent_size: channels of the parent.
        kl: KL(parent || narrowed parent) per token in nats on validation text, after each step: `cut`, `norms`, `inputs`,
            `outputs`.
        accepted: those corrections that are in it.
    """

    kept: list[int]
    parent_size: int
    kl: dict[str, float]
    accepted: list[str]

    @property
    def whole(self) -> bool:
        """Whether it has all channels."""
        return len(self.kept) == self.parent_size


# -- shapes


def narrowed_config(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The config with `size` channels and heads as large as they were; `config` itself where it has as many.

    Raises:
        HiddenError: a size above the parent's, or one that the family's config does not take.
    """
    if size == config.hidden_size:
        return config
    if size > config.hidden_size:
        raise HiddenError(
            f"hidden.size: this {config.model_type} has {config.hidden_size} channels, not {size}; take fewer, or leave it out"
        )
    try:
        return _resized(config, size)
    except _REFUSALS as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        near = [n for n in _around(size, config.hidden_size) if _takes(config, n)][:2]
        help = f"; near it, {' and '.join(map(str, sorted(near)))} would do" if near else ""
        raise HiddenError(
            f"hidden.size: {size} is no width of this {config.model_type}: {lines[-1].removeprefix('ValueError: ')}{help}"
        ) from None


def _resized(config: PretrainedConfig, size: int) -> PretrainedConfig:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    changed = {"hidden_size": size, "head_dim": head_dim}
    family, text = as_key(config)
    of_key((family, json.dumps(json.loads(text) | changed)))  # says what it does not take
    narrow = copy.deepcopy(config)
    for name, value in changed.items():
        setattr(narrow, name, value)
    return narrow


def _around(size: int, most: int) -> Iterator[int]:
    for distance in range(1, 257):
        yield from (n for n in (size - distance, size + distance) if 0 < n < most)


def _takes(config: PretrainedConfig, size: int) -> bool:
    try:
        _resized(config, size)
    except _REFUSALS:
        return False
    return True


def residual_axes(config: PretrainedConfig, size: int) -> dict[str, int]:
    """The axis of each tensor of a stock model that is the residual stream; tensors without one are left out.

    Raises:
        HiddenError: as of `narrowed_config`; a family in which another width follows that of the stream.
    """
    whole, narrow = (meta_parent(each).state_dict() for each in (config, narrowed_config(config, size)))
    stream, axes = (config.hidden_size, size), {}
    for name, tensor in whole.items():
        pairs = list(enumerate(zip(tensor.shape, narrow[name].shape, strict=True)))
        changed = [(axis, pair) for axis, pair in pairs if pair[0] != pair[1]]
        # both sides of a matrix: one of them is a width of heads, or of channels of its own
        if len(changed) > 1 or any(pair != stream for _, pair in changed):
            raise HiddenError(
                f"hidden.size: a {config.model_type} cannot be narrowed: a width inside its blocks follows that of the stream "
                f"({name} {tuple(tensor.shape)} would be {tuple(narrow[name].shape)})"
            )
        if changed:
            axes[name] = changed[0][0]
    return axes


def _norms(model: PreTrainedModel, axes: dict[str, int]) -> dict[str, nn.Module]:
    """Norms of the residual stream, by name."""
    modules = {name: module for name, module in model.named_modules() if f"{name}.weight" in axes}
    return {name: m for name, m in modules.items() if m.weight.ndim == 1 and not isinstance(m, nn.Linear)}


# -- which channels


@torch.no_grad()
def channel_scores(model: PreTrainedModel, axes: dict[str, int], batches: list[torch.Tensor]) -> torch.Tensor:
    """Mean over tokens of |y_i| behind each norm of the stream, added up over the norms; float64, `(hidden_size,)`.

    Args:
        batches: calibration tokens, `(batch, length)` each.
    """
    total = torch.zeros(model.config.hidden_size, dtype=torch.float64)

    def add(module, args, output) -> None:
        nonlocal total
        total += output.float().abs().flatten(0, -2).mean(0).double().cpu() / len(batches)

    handles = [norm.register_forward_hook(add) for norm in _norms(model, axes).values()]
    try:
        for batch in bar(batches, desc="hidden: channels"):
            final_states(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return total


def kept_channels(scores: torch.Tensor, size: int) -> list[int]:
    """The `size` channels that score highest, ascending; ties by index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(order[:size].tolist())


# -- the model


@torch.no_grad()
def cut(model: PreTrainedModel, axes: dict[str, int], kept: list[int]) -> PreTrainedModel:
    """A copy of `model` with these channels of its stream only; nothing is corrected but what a family multiplies
    embeddings by that depends on their width."""
    config, channels = narrowed_config(model.config, len(kept)), torch.tensor(kept, device=model.device)
    weights = {
        name: tensor.index_select(axes[name], channels) if name in axes else tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    narrow = build_model(config, weights, model.dtype).to(model.device)
    narrow.generation_config = copy.deepcopy(model.generation_config)
    factor = _embedding_scale(model) / _embedding_scale(narrow)
    if abs(factor - 1) > 1e-3:
        tied = model_is_tied(narrow)
        narrow.get_input_embeddings().weight.data *= factor
        if tied:  # the head is the same matrix
            _scale(_final_norm(narrow, axes), 1 / factor, with_bias=True)
    return frozen(narrow)


def _embedding_scale(model: PreTrainedModel) -> float:
    """What enters layer 0 for each unit of an embedding."""
    weight = model.get_input_embeddings().weight
    ids = torch.arange(min(64, len(weight)), device=weight.device)[None]
    own, entered = F.embedding(ids, weight).double(), first_states(model, ids).double()
    return ((entered * own).sum() / own.square().sum().clamp_min(1e-30)).item()


def _final_norm(model: PreTrainedModel, axes: dict[str, int]) -> nn.Module:
    """The norm in front of the head."""
    inside = {id(module) for module in layers_of(model).modules()}
    return [norm for norm in _norms(model, axes).values() if id(norm) not in inside][-1]


def _scale(norm: nn.Module, factor: float, with_bias: bool = False) -> None:
    """Multiply what a norm answers, without its bias unless said so; some multiply by one more than their weight."""
    zeros = {name: torch.zeros_like(p) for name, p in norm.named_parameters()}
    probe = torch.ones(1, 1, len(norm.weight), dtype=norm.weight.dtype, device=norm.weight.device)
    probe[..., ::2] = -1
    offset = float(torch.func.functional_call(norm, zeros, (probe,)).abs().sum() > 0)
    norm.weight.data = ((norm.weight.data.double() + offset) * factor - offset).to(norm.weight.dtype)
    if with_bias and getattr(norm, "bias", None) is not None:
        norm.bias.data = (norm.bias.data.double() * factor).to(norm.bias.dtype)


# -- what the cut loses


@torch.no_grad()
def correct_norms(
    narrow: PreTrainedModel, parent: PreTrainedModel, axes: dict[str, int], kept: torch.Tensor, batches: list
) -> None:
    """Multiply the weights of each norm, in place, by the least-squares factor between what the parent's answers on the
    kept channels and what it answers when it sees no others: the mean square of fewer, larger channels is another one."""
    own, sums = _norms(narrow, axes), {}

    def watch(name: str):
        def hook(module, args, output) -> None:
            # not as it is by now: of a tied head, it may carry the scale of the embeddings
            plain = {key: parameter[kept] for key, parameter in module.named_parameters()}
            found = torch.func.functional_call(own[name], plain, (args[0][..., kept],)).double()
            wanted = output[..., kept].double()
            if "bias" in plain:
                wanted, found = wanted - plain["bias"].double(), found - plain["bias"].double()
            pair = torch.stack([(wanted * found).sum(), found.square().sum()])
            sums[name] = sums.get(name, 0) + pair

        return hook

    handles = [norm.register_forward_hook(watch(name)) for name, norm in _norms(parent, axes).items()]
    try:
        for batch in bar(batches, desc="hidden: norms"):
            final_states(parent, batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, (products, squares) in sums.items():
        _scale(own[name], (products / squares.clamp_min(1e-30)).item())


@torch.no_grad()
def correct_inputs(
    narrow: PreTrainedModel, parent: PreTrainedModel, axes: dict[str, int], kept: torch.Tensor, batches: list
) -> int:
    """Matrices that read the stream read from the kept channels what these tell of the others, in place.

    For what enters a sub-block, one ridge regression gives the parent's D channels from the narrowed model's d; its map
    `(D, d)` is pulled to the plain choice of channels, and taken only where the last quarter of the batches has a smaller
    error by it. Every matrix that reads is the parent's times this map. Layers from the first one up, each on what the
    corrected ones below give it.

    Returns:
        How many sub-blocks, the head included, were changed.
    """
    changed, first = 0, max(1, int(FIT_SHARE * len(batches)))
    plain = F.one_hot(kept, parent.config.hidden_size).T.float()
    ours, theirs = ([first_states(model, batch).cpu() for batch in batches] for model in (narrow, parent))

    def solved(pairs: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor | None:
        halves: list[Moments | None] = [None, None]
        for number, (x, y) in enumerate(pairs):
            moments = Moments.of(x.flatten(0, -2).float(), y.flatten(0, -2).float())
            half = int(number >= first)
            halves[half] = moments if halves[half] is None else halves[half] + moments
        return None if halves[1] is None else best_map(*halves, plain, plain)

    for layer_idx in bar(range(len(layers_of(narrow))), desc="hidden: inputs"):
        for kind in KINDS:
            blocks = [sub_blocks(layers_of(model)[layer_idx]).get(kind) for model in (narrow, parent)]
            if blocks[0] is None or _inner_norms(blocks[0], narrow, axes):
                continue
            found = solved(
                (
                    _entering(narrow, layer_idx, blocks[0], x.to(narrow.device)),
                    _entering(parent, layer_idx, blocks[1], y.to(parent.device)),
                )
                for x, y in zip(ours, theirs, strict=True)
            )
            if found is not None:
                changed += 1
                _read_through(*blocks, found, narrow, axes)
        ours = [run_layer(narrow, layer_idx, state.to(narrow.device)).cpu() for state in ours]
        theirs = [run_layer(parent, layer_idx, state.to(parent.device)).cpu() for state in theirs]
    if not model_is_tied(narrow):
        found = solved((final_states(narrow, batch), final_states(parent, batch)) for batch in batches)
        if found is not None:
            changed += 1
            own, whole = (model.get_output_embeddings().weight for model in (narrow, parent))
            own.data = (whole.float() @ found).to(own.dtype)
    return changed


def _inner_norms(block: nn.Module, model: PreTrainedModel, axes: dict[str, int]) -> list[nn.Module]:
    """Norms of the stream inside a sub-block: what it reads is then not what enters it."""
    norms = {id(norm) for norm in _norms(model, axes).values()}
    return [module for module in block.modules() if id(module) in norms]


def _entering(model: PreTrainedModel, layer_idx: int, block: nn.Module, state: torch.Tensor) -> torch.Tensor:
    """What a sub-block of a layer reads where `state` enters the layer."""
    seen: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        run_layer(model, layer_idx, state)
    finally:
        handle.remove()
    return seen[0]


def _read_through(own: nn.Module, whole: nn.Module, found: torch.Tensor, model, axes: dict[str, int]) -> None:
    """Give a narrowed sub-block the parent's reading matrices, times a map `(D, d)`."""
    prefix = next(name for name, module in model.named_modules() if module is own)
    theirs, modules = dict(whole.named_parameters()), dict(own.named_modules())
    for name, parameter in own.named_parameters():
        axis, holder = axes.get(f"{prefix}.{name}"), modules[name.rpartition(".")[0]]
        if axis is None or parameter.ndim < 2:
            continue
        if axis == 0 if isinstance(holder, nn.Linear) else any(word in name for word in _WRITING):
            continue
        mapped = theirs[name].float().movedim(axis, -1) @ found
        parameter.data = mapped.movedim(-1, axis).to(parameter.dtype).contiguous()


def narrowed_parent(
    parent: PreTrainedModel, tokenizer, text: DataConfig, hidden: HiddenConfig, child: ChildConfig, seed: int
) -> tuple[PreTrainedModel, Narrowed]:
    """A parent with `hidden.size` channels, corrected where that helps; itself where it has as many.

    Channels and corrections are found on training text, and judged on validation text (the third of the held-out stream that
    chooses blocks).

    Raises:
        HiddenError: as of `residual_axes`.
    """
    whole = parent.config.hidden_size
    if hidden.size == whole:
        return parent, Narrowed(list(range(whole)), whole, {}, [])
    axes, length = residual_axes(parent.config, hidden.size), text.sequence_length
    count = min(text.num_tokens, hidden.num_tokens or TOKENS_PER_INPUT * hidden.size)
    streams = tokenize(text, tokenizer, end_tokens(parent.generation_config, parent.config))
    rows = Rows.draw(streams["train"], length, count, seed + 21)
    size = max(1, min(child.batch_size, len(rows) // LEAST_BATCHES))  # some fit, others judge
    batches = [batch.to(parent.device) for batch in rows.input_ids.split(size)]
    validation, _ = streams["heldout"].split_at_document(len(streams["heldout"]) // 3)
    judged = Rows.draw(validation, length, min(JUDGED, len(validation)), seed + 22)
    kept = kept_channels(channel_scores(parent, axes, batches), hidden.size)
    channels = torch.tensor(kept, device=parent.device)
    narrow = cut(parent, axes, kept)
    targets = Targets(parent, judged, child.batch_size, "hidden: parent")
    now = targets.compare(narrow, "hidden: cut").columns["kl"]
    kl, accepted = {"cut": now.mean().item()}, []

    def outputs() -> None:
        refit(
            narrow, parent, calibration_rows(narrow, streams["train"], length, child, seed + 23), child, kept=channels
        )

    steps = {
        "norms": lambda: correct_norms(narrow, parent, axes, channels, batches),
        "inputs": lambda: correct_inputs(narrow, parent, axes, channels, batches),
        "outputs": outputs,
    }
    for name, step in steps.items() if hidden.refit else ():
        before = {key: tensor.to("cpu", copy=True) for key, tensor in narrow.state_dict().items()}
        step()
        then = targets.compare(narrow, f"hidden: {name}").columns["kl"]
        kl[name] = then.mean().item()
        if surely_lower(then, now, judged.documents):
            now = then
            accepted.append(name)
        else:
            narrow.load_state_dict(before)
    logger.info(
        "hidden: %d of %d channels; KL from the parent %s, kept: %s",
        len(kept), whole, ", ".join(f"{value:.4f} ({name})" for name, value in kl.items()), ", ".join(accepted) or "the cut alone",
    )  # fmt: skip
    return narrow, Narrowed(kept, whole, kl, accepted)


# -- the run


def check_hidden(
    recipe: PuzzleRecipe, config: PretrainedConfig | None, in_memory: bool, fmt: str | None = None
) -> None:
    """What `hidden.size` rules out, and what rules it out.

    Args:
        config: of the whole parent, where it is known.
        fmt: format of the child, where it is known.

    Raises:
        RecipeError: engines that run no child of this width; runs whose parent or text is not there to choose channels by;
            types of GGUF files whose blocks do not fill rows of this width.
        HiddenError: as of `residual_axes`.
    """
    size = recipe.hidden.size
    if size is None:
        return
    if in_memory:
        raise RecipeError("hidden.size: a parent in memory keeps its width; save it and name its folder")
    if asks(recipe.data) or reads_self(recipe.data):
        raise RecipeError("hidden.size: channels are chosen by text, not by decisions or chats of the parent's own")
    if recipe.parent.device_map is not None or recipe.distill.fsdp:
        raise RecipeError(
            "hidden.size: both parents are whole on one device; leave parent.device_map and distill.fsdp out"
        )
    types = {"cost.gguf_type": [recipe.cost.gguf_type], "evaluate.gguf": recipe.evaluate.gguf}
    if "llama.cpp" in recipe.deploy:
        bits = recipe.search_space.weight_bits
        types["search_space.weight_bits"] = [{8: "q8_0", 4: "q4_0"}.get(each, str(each)) for each in bits]
    if config is None or narrowed_config(config, size) is config:
        return
    for key, names in types.items():
        for name in names:
            if size % (block := BLOCK_SIZES.get(name, 1)):
                lower = size // block * block
                raise RecipeError(
                    f"{key}: {name} keeps rows in blocks of {block} weights, and hidden.size {size} is no multiple of it; take "
                    f"{f'{lower} or ' if lower else ''}{lower + block}, or another type"
                )
    residual_axes(config, size)
    engines = [("deploy", name) for name in recipe.deploy] + [("cost.engine", recipe.cost.engine)]
    engines += [("evaluate.gguf", "llama.cpp")] * bool(recipe.evaluate.gguf)
    for key, name in engines if fmt == DECILM else ():
        reason = refuses_model(name, narrowed_config(config, size))
        if reason is not None and refuses_model(name, config) is None:
            raise RecipeError(
                f"{key}: {name} runs no child of hidden.size {size}, whose heads stay as wide as they were: {reason}; take "
                "another engine, or leave hidden.size out"
            )


def read_narrowed(path: Path) -> Narrowed:
    """`hidden.json`, as it was written."""
    with artifacts.reading(path):
        return Narrowed(**artifacts.read_json(path))
