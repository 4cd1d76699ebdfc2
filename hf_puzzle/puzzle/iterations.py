"""Compressing several times (`solve.iterations`): the distilled child of one iteration is what the next one starts from.

(Iterative Puzzle, arXiv 2607.04371.) Its blocks are cut from that child's, trained on what enters them there, and scored
inside it. The parent stays the teacher of GKD, and what every child is judged against; costs are measured once.
"""

import copy
import dataclasses
import functools
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .. import artifacts, hub
from ..anatomy import frozen, input_device
from ..blocks import KINDS, NONE, Block, Variant, kv_heads, row_of, window
from ..conversions import check_same, probe_logits, tolerance_of
from ..data import sequences
from ..formats import DECILM, decilm_width, padded
from ..layers import expert_attribute, may_differ
from ..progress import bar
from ..recipe import ConstraintsConfig, PuzzleRecipe, RecipeError, to_dict
from ..stages import Estimate, Stage
from .block_costs import CostTable
from .block_distillation import build_library, estimate_library
from .distillation import estimate_distill
from .estimates import Pieces
from .judge import Judge
from .library import BlockLibrary
from .network import Network, layers_prefix
from .refit import estimate_child
from .scoring import Score, merge_scores, run_score_task, score_tasks, stored_values, whole_score
from .search import estimate_solve, parent_tokens_per_ms
from .search_space import LayerSpace, SearchSpace
from .stored import read_scores
from .surgery import empty_block, layers_of, load_block, output_projection, place_of, put_blocks, sub_block


FOLDER = "iterations"  # of a run: a folder for each iteration but what the last one leaves


def check_iterations(recipe: PuzzleRecipe, config: PretrainedConfig | None) -> None:
    """Raises RecipeError for what cannot be compressed again; `config` is the parent's, where it is known."""
    if recipe.solve.iterations == 1:
        return
    said = f"solve.iterations: {recipe.solve.iterations}"
    if config is not None and (may_differ(config) or expert_attribute(config)):
        raise RecipeError(f"{said}: a {config.model_type} whose layers differ, or have experts, is compressed once")
    if recipe.library.coupling != "decoupled" or recipe.library.ffn_under_no_attention:
        raise RecipeError(f"{said}: blocks are trained apart: leave library.coupling and ffn_under_no_attention out")
    if recipe.library.states != "resident" or recipe.parent.device_map is not None or recipe.distill.fsdp:
        raise RecipeError(
            f"{said}: parent and child are whole on one device: library.states resident, no parent.device_map, no distill.fsdp"
        )
    if recipe.baselines.names:
        raise RecipeError(f"{said}: baselines are made in one step; set baselines.names: []")


def each_of(recipe: PuzzleRecipe) -> PuzzleRecipe:
    """The recipe with one iteration's share of the tokens that train."""
    count = recipe.solve.iterations
    if count == 1:
        return recipe
    library = dataclasses.replace(recipe.library, num_tokens=recipe.library.num_tokens // count)
    distill = dataclasses.replace(recipe.distill, num_tokens=recipe.distill.num_tokens // count)
    return dataclasses.replace(recipe, library=library, distill=distill)


def interpolated(
    constraints: ConstraintsConfig, costs: CostTable, parents: tuple[Block, ...], share: float
) -> ConstraintsConfig:
    """Constraints of a child that is `share` of the way, in logarithms, from the parent to these; 1: themselves."""
    sizes = [b for b in sorted(costs.times) if b <= (constraints.max_batch_size or b)]
    if share == 1 or not sizes:
        return constraints
    tables, size = list(costs.lengths.values()) or [costs], sizes[0]
    fixed, blocks = costs.non_block_costs(size), [costs.block_costs(block, size) for block in parents]
    rows = [table.children[size][1] for table in tables]
    parent = {
        "speedup": 1.0,
        "throughput_tokens_per_s": 1e3 * parent_tokens_per_ms(costs, constraints),
        "latency_ms": max(row["prefill_ms"] + row["decode_ms"] for row in rows),
        "prefill_ms": max(row["prefill_ms"] for row in rows),
        "memory_gb": (fixed["memory_bytes"] + sum(b["memory_bytes"] for b in blocks)) / 1e9,
        "num_parameters": fixed["num_parameters"] + sum(b["num_parameters"] for b in blocks),
    }
    between = {}
    for name, has in parent.items():
        if (asked := getattr(constraints, name)) is not None:
            rises = name in ("speedup", "throughput_tokens_per_s")
            met = has >= asked if rises else has <= asked
            value = asked if met else has ** (1 - share) * asked**share
            between[name] = int(value) if name == "num_parameters" else value
    return dataclasses.replace(constraints, **between)


def may_become(kind: str, own: Variant, full: Variant, variant: Variant) -> bool:
    """Whether `variant` can be cut from a child's sub-block `own`, where the parent's was `full`."""
    if variant in (own, NONE) or own == full:
        return True
    if own == NONE or row_of(kind, own).module is not None:  # a map knows nothing of what it stands for
        return False
    module = row_of(kind, variant).module
    if module is not None:
        return not hasattr(module, "from_attention")
    if kind == "ffn":
        return isinstance(own, int) and isinstance(variant, int) and variant < own
    smaller, larger = kv_heads(variant), kv_heads(own)
    return larger % smaller == 0 and window(own) in (None, window(variant)) and variant != own


def narrowed(space: SearchSpace, blocks: list[Block]) -> SearchSpace:
    """What a child of `blocks` can still become, its own blocks first, as the parent's are in a space."""
    layers = []
    for layer, own, full in zip(space.layers, blocks, space.parents, strict=True):
        fits = [
            b for b in layer.blocks
            if all(may_become(kind, getattr(own, kind), getattr(full, kind), getattr(b, kind)) for kind in KINDS)
        ]  # fmt: skip
        offered = (own, *(b for b in fits if b != own))
        layers.append(
            LayerSpace(*(tuple(dict.fromkeys(getattr(b, kind) for b in offered)) for kind in KINDS), offered)
        )
    return SearchSpace(tuple(blocks), tuple(layers))


def hosted(parent: PreTrainedModel, child: PreTrainedModel, blocks: list[Block], fmt: str) -> PreTrainedModel:
    """A child in the parent's own modelling code, where blocks can be exchanged: a copy of the parent with its weights.

    Raises:
        NotTheSame: it computes something else than the child.
    """
    host, state = copy.deepcopy(parent), child.state_dict()
    prefix, places = layers_prefix(host), {}
    for layer_idx, (layer, block) in enumerate(zip(layers_of(host), blocks, strict=True)):
        pair = []
        for kind, variant in zip(KINDS, block, strict=True):
            place = f"{prefix}{layer_idx}.{place_of(layer, kind)}."
            weights = {name.removeprefix(place): state.pop(name) for name in list(state) if name.startswith(place)}
            if fmt == DECILM and kind == "ffn" and isinstance(variant, int):
                weights = {n: padded(n, tensor, variant - decilm_width(variant)) for n, tensor in weights.items()}
            module = load_block(empty_block(layer, kind, variant, host.config, layer_idx), weights)
            pair.append(module.to(device=parent.device, dtype=parent.dtype))
        places[layer_idx] = tuple(pair)
    put_blocks(host, places)
    rest = host.state_dict()
    assert set(state) <= set(rest), sorted(set(state) - set(rest))[:3]
    host.load_state_dict({**rest, **state})
    check_same(probe_logits(child), probe_logits(host), "the child in its parent's code", tolerance_of(parent))
    return frozen(host)


@torch.no_grad()
def channel_importance(host: PreTrainedModel, blocks: list[Block], input_ids: torch.Tensor, batch_size: int) -> dict:
    """As `importance.channel_importance`, of the FFNs that are left, however wide each is."""
    sums, handles = {}, []
    for layer_idx, block in enumerate(blocks):
        if isinstance(block.ffn, int):
            matrix = output_projection(sub_block(layers_of(host)[layer_idx], "ffn"))
            sums[layer_idx] = torch.zeros(matrix.in_features, device=matrix.weight.device)

            def add(module, args, total=sums[layer_idx]) -> None:
                total += args[0].float().abs().flatten(0, -2).sum(0)

            handles.append(matrix.register_forward_pre_hook(add))
    try:
        for batch in bar(input_ids.split(batch_size), desc="importance"):
            host.get_decoder()(input_ids=batch.to(input_device(host)), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for layer_idx, total in sums.items():
        matrix = output_projection(sub_block(layers_of(host)[layer_idx], "ffn"))
        found[f"layer_{layer_idx}"] = (total / input_ids.numel() * matrix.weight.float().norm(dim=0)).cpu()
    return found


class Iteration:
    """One of a run's iterations, from 1: what it starts from, and where it writes.

    The first one has the run's own library and scores, and the last one leaves its child where a run has it.
    """

    def __init__(self, run, number: int = 1):
        self.run, self.number, self.count = run, number, run.recipe.solve.iterations

    @property
    def is_last(self) -> bool:
        return self.number == self.count

    @property
    def inputs(self) -> Path:
        """Folder of its library and scores."""
        return self.run.run_dir if self.number == 1 else self.run.run_dir / FOLDER / str(self.number)

    @property
    def folder(self) -> Path:
        """Where its solution and children go."""
        return self.run.run_dir if self.is_last else self.run.run_dir / FOLDER / str(self.number)

    @property
    def before(self) -> "Iteration":
        return Iteration(self.run, self.number - 1)

    @property
    def chosen(self) -> dict:
        return artifacts.read_json(self.folder / "solutions.json")["chosen"]

    @property
    def blocks(self) -> list[Block]:
        """Of the child that it chose."""
        return [Block.parse(text) for text in self.chosen["blocks"]]

    @property
    def constraints(self) -> ConstraintsConfig:
        """What its child must satisfy."""
        run = self.run
        return interpolated(run.recipe.constraints, run.costs, run.space.parents, self.number / self.count)

    @property
    def seed(self) -> int:
        return self.run.recipe.seed + 100 * (self.number - 1)  # other text, in another order

    @functools.cached_property
    def space(self) -> SearchSpace:
        return self.run.space if self.number == 1 else narrowed(self.run.space, self.before.blocks)

    @property
    def library(self) -> BlockLibrary:
        return BlockLibrary(self.inputs / "library")

    @property
    def scores(self) -> list[Score]:
        return read_scores(self.inputs)

    @functools.cached_property
    def host(self) -> PreTrainedModel:
        """What blocks are put into: the parent, or the child of the iteration before."""
        run = self.run
        if self.number == 1:
            return run.parent
        child = hub.open_model_folder(self.before.folder / "distilled").to(run.device).eval()
        return hosted(run.parent, child, self.before.blocks, run.fmt)

    @functools.cached_property
    def judge(self) -> Judge:
        run = self.run
        if self.number == 1:
            return run.judge
        return Judge(self.host, self.space, self.library, run.metric, run.teacher, run.cache_type)

    def close(self) -> None:
        """Forget the models that it holds besides the run's."""
        for name in ("host", "judge"):
            vars(self).pop(name, None)

    def network(self, blocks: list[Block]) -> Network:
        return Network(self.run.config, blocks, self.library, self.run.fmt, self.space.parents)

    # -- stages that the first iteration has of the run

    def build_library(self) -> None:
        run, config = self.run, each_of(self.run.recipe).library
        ranked = run.recipe.importance
        rows = sequences(run.tokens["train"], run.sequence_length, ranked.num_tokens, self.seed)
        importance = channel_importance(self.host, list(self.space.parents), rows, ranked.batch_size)
        config = dataclasses.replace(config, args={"report_to": run.recipe.report_to} | config.args)
        build_library(
            self.host, self.space, importance, run.tokens, self.library, config, run.sequence_length, self.seed
        )

    def score(self) -> None:
        """Every block's distance from the parent where the rest is the child; over all layers they add up to the child's."""
        run, parts = self.run, self.inputs / "scores.parts"
        rows, config = run.metric.rows.input_ids, run.score_config
        for task in score_tasks(self.space, len(rows), rows.shape[1], config, set(stored_values(parts)), 1):
            run_score_task(self.judge, task, parts)
        scores = merge_scores(self.space, run.metric, parts, in_child=True)
        artifacts.write_text(
            self.inputs / "scores.jsonl", "".join(artifacts.json_line(score.to_dict()) for score in scores)
        )


def stages(run) -> list[Stage]:
    """From `solve` to `distill`; of several iterations, those of each, e.g. `library_2`, `score_2`, `solve_2`."""
    r = run.recipe
    settings = to_dict(r.solve)
    count, before, made = settings.pop("iterations"), "score", []
    for number in range(1, count + 1):
        step, last = Iteration(run, number), number == count
        folder = step.folder.relative_to(run.run_dir)
        marks = [number, count] if count > 1 else []

        def name(stage: str, last=last, number=number) -> str:
            return stage if last else f"{stage}_{number}"

        def path(file: str, folder=folder) -> str:
            return (folder / file).as_posix()

        if number > 1:
            inputs = f"{FOLDER}/{number}"
            made += [
                Stage(f"library_{number}", step.build_library, marks, (before,), (f"{inputs}/library",), keeps_parts=True, estimate=_estimate_library),
                Stage(f"score_{number}", step.score, marks, (f"library_{number}",), (f"{inputs}/scores.jsonl",), (f"{inputs}/scores.parts",), estimate=_estimate_score),
            ]  # fmt: skip
            before = f"score_{number}"
        made += [
            Stage(name("solve"), functools.partial(run.solve, step), [to_dict(r.constraints), settings, *marks], (before, "cost"), (path("solutions.json"),), estimate=estimate_solve),
            Stage(name("child"), functools.partial(run.make_child, step), to_dict(r.child), (name("solve"),), (path("child"),), estimate=estimate_child),
            Stage(name("distill"), functools.partial(run.distill, step), to_dict(each_of(r).distill), (name("child"),), (path("distilled"),), (path("distill_checkpoints"),), estimate=estimate_distill),
        ]  # fmt: skip
        before = name("distill")
    return made


def _estimate_library(p: Pieces) -> Estimate:
    """At most: a child has fewer blocks left than its parent; beside the parent, the child in its code."""
    made = estimate_library(p, 0, len(p.space.layers))
    return dataclasses.replace(made, memory={**made.memory, "child": p.child_bytes})


def _estimate_score(p: Pieces) -> Estimate:
    """As `_estimate_library`."""
    made = whole_score(p)
    return dataclasses.replace(made, memory={**made.memory, "child": p.child_bytes})
