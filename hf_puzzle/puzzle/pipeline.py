"""The Puzzle run: its stages over one folder. Data travels through files; the parent is loaded once per process."""

import dataclasses
import functools
import hashlib
import itertools
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel

from .. import artifacts, data, engines, hub
from ..blocks import Block
from ..cards import origin
from ..corpora import asks, is_heldout, open_corpus, prompts_of_self, reads_self, with_files_of_self
from ..costs import cpu_threads
from ..data import TokenStream, sequences
from ..decision_data import tokenize_requests
from ..engines.cache_types import cache_type
from ..engines.measuring import check_measured
from ..fanout import RunSpec, channel, executor_for
from ..formats import child_config, choose_format
from ..layers import attention_heads
from ..recipe import DataConfig, PuzzleRecipe, RecipeError, ScoreConfig, load_recipe, parse_as, to_dict
from ..remote.decisions_pcw import Decider
from ..stages import Stage, run_stages
from ..training import check_trackers, resolve_device, training_arguments
from . import cost_stages, hidden, iterations, precision, systems, vocabulary
from .assess import (
    assess,
    baseline_tasks,
    check_evaluated,
    estimate_baseline,
    estimate_baseline_speeds,
    estimate_evaluate,
    run_baseline,
    time_baselines,
)
from .baselines import check_names
from .bench import Bench, jsonable
from .bits import check_bits, kept_logits, write_formats
from .block_costs import CostTable
from .block_distillation import (
    build_layers,
    check_precision,
    estimate_library,
    library_jobs,
    merge_library,
    planned_names,
)
from .chats import PARTS, batches_of, estimate_chats, prompts_of_files, write_chats
from .checks import VALIDATION_SHARE, check_gkd_text, check_heldout, check_kv_cache, check_parts, check_refit
from .distillation import (
    Distilled,
    check_fsdp,
    distill,
    gkd_arguments,
    num_processes,
    validation_rows,
)
from .document_masks import check_document_masks
from .estimates import estimate_data
from .importance import channel_importance, estimate_importance
from .iterations import Iteration
from .judge import Judge, Metric, scored_blocks
from .library import BlockLibrary
from .loading import gathered, load_layers, load_sharded, resolve_dtype
from .network import Network, meta_model
from .parent_source import ParentSource
from .preflight import check_machine
from .refit import calibration_rows, refit
from .report import estimate_report, write_report
from .scoring import (
    Score,
    ScoreTask,
    estimate_score,
    merge_scores,
    row_shards,
    run_score_task,
    score_tasks,
    stored_values,
)
from .search import Candidate, Search, check_constraints, check_sizes, solve_all
from .search_space import SearchSpace, build_search_space
from .states import Streamed, Upstream
from .stored import read_costs, read_margin, read_scores
from .stream_check import check_streams
from .surgery import check_parent


logger = logging.getLogger(__name__)

CHATS = "chats.jsonl"  # of `data.name: self`


class PuzzleRun:
    """One recipe and one run folder.

    Args:
        recipe: parsed recipe.
        run_dir: where everything goes.
        recipe_dir: folder that relative parent paths start from.
        parent, tokenizer: a model the caller already has in memory, instead of loading `recipe.parent.name`.
        text: the recipe's YAML, kept verbatim with the run, and what `--set` changed; default: the recipe as parsed.
        tokens: streams `train` and `heldout`, instead of the text of `recipe.data`.
        importance: of the parent's FFN channels, as `channel_importance` gives it, instead of a pass over the train stream.
    """

    def __init__(
        self,
        recipe: PuzzleRecipe,
        run_dir: str | Path,
        recipe_dir: str | Path = ".",
        parent: PreTrainedModel | None = None,
        tokenizer=None,
        text: tuple[str, list[str]] | None = None,
        tokens: dict[str, torch.Tensor] | None = None,
        importance: dict[str, torch.Tensor] | None = None,
    ):
        self._asked, self.run_dir, self.recipe_dir = recipe, Path(run_dir), Path(recipe_dir)
        self.given_streams, self._importance, self._text = tokens, importance, text
        self.device = resolve_device(recipe.device)
        self.recipe = precision.resolved(recipe, self.run_dir, self.device)
        r, given = self.recipe, (parent, tokenizer)
        self.source = ParentSource(
            r.parent,
            self.recipe_dir,
            self.run_dir,
            self.device,
            given,
            r.vocabulary.size,
            r.data,
            r.hidden,
            r.child,
            r.seed,
        )

    # -- what stages read

    @property
    def parent_path(self) -> str:
        return self.source.path

    @property
    def config(self):
        return self.source.config

    @functools.cached_property
    def parent(self) -> PreTrainedModel:
        """What blocks are cut from, and put into."""
        return self.source.model

    @property
    def teacher(self) -> PreTrainedModel:
        """What children learn from and are measured against: the parent, or the wider one that it was cut from."""
        return self.source.teacher

    @property
    def tokenizer(self):
        return self.source.tokenizer

    @functools.cached_property
    def tokens(self) -> dict[str, torch.Tensor]:
        """Streams `train`, `validation` (chooses blocks) and `test` (only the last evaluation sees it)."""
        streams = data.read_streams(self.run_dir / "tokens.safetensors")
        validation, test = streams["heldout"].split_at_document(len(streams["heldout"]) // VALIDATION_SHARE)
        return {"train": streams["train"], "validation": validation, "test": test}

    @functools.cached_property
    def space(self) -> SearchSpace:
        return build_search_space(
            self.config, self.recipe.search_space, self.recipe.deploy, self.recipe.tensor_parallel
        )

    @property
    def library(self) -> BlockLibrary:
        return BlockLibrary(self.run_dir / "library")

    @property
    def scores(self) -> list[Score]:
        return read_scores(self.run_dir)

    @property
    def costs(self) -> CostTable:
        return read_costs(self.run_dir)

    @property
    def chosen(self) -> dict:
        return artifacts.read_json(self.run_dir / "solutions.json")["chosen"]

    @functools.cached_property
    def metric(self) -> Metric:
        """Of the search: on validation text, which chooses blocks."""
        return Metric.of(self.score_config, self.tokens["validation"], self.sequence_length, self.recipe.seed)

    @property
    def score_config(self) -> ScoreConfig:
        """The recipe's; blocks that are trained as pairs have weights that no sum of sub-blocks stands for: all are run."""
        library, score = self.recipe.library, self.recipe.score
        paired = library.coupling == "coupled" or library.ffn_under_no_attention
        return dataclasses.replace(score, blocks="all") if paired else score

    @functools.cached_property
    def judge(self) -> Judge:
        return Judge(self.parent, self.space, self.library, self.metric, self.teacher, self.cache_type)

    @functools.cached_property
    def bench(self) -> Bench:
        original = None
        if self.source.smaller:
            kept = self.source.kept
            original = (self.source.original_config, 1.0 if kept is None else kept.share)
        return Bench(self.parent, self.recipe.cost, self.fmt, self.recipe.solve.confidence, original, self.cache_type)

    @property
    def cache_type(self) -> str | None:
        """In which children keep keys and values; None: in the dtype."""
        return cache_type(self.recipe.kv_cache.bits)

    @property
    def each(self) -> PuzzleRecipe:
        """The recipe with one iteration's share of the tokens that train."""
        return iterations.each_of(self.recipe)

    @property
    def sequence_length(self) -> int:
        return self.recipe.data.sequence_length

    @functools.cached_property
    def fmt(self) -> str:
        """Format of the child, chosen from shapes alone."""
        shapes = list(dict.fromkeys(block.plain for block in self.space.blocks))
        return choose_format(self.config, shapes, self.recipe.child.format)

    def network(self, blocks: list[Block]) -> Network:
        """Of this run's library, in the child's format."""
        return Network(self.config, blocks, self.library, self.fmt)

    def load_child(self, name: str) -> PreTrainedModel:
        """A child of this run, `child` or `distilled`, on the run's device."""
        return hub.open_model_folder(self.run_dir / name).to(self.device).eval()

    # -- checks before any compute

    def check(self, here: bool = True) -> None:
        """Everything that can be known to be wrong before the first stage, of the recipe and of this machine.

        Args:
            here: whether this machine's device computes.

        Raises:
            ValueError: a named subclass, with the value and the way out.
        """
        self.check_recipe()
        check_machine(self, here)

    def check_recipe(self) -> None:
        """The part of `check` that holds for any machine: recipe, the parent's shapes, what both rule out."""
        recipe = self.recipe
        on_cpu = self.device.type == "cpu"
        training_arguments(self.run_dir, "library", recipe.library.args, use_cpu=on_cpu)
        gkd_arguments(self.each.distill, self.sequence_length, self.run_dir, on_cpu)
        check_precision(recipe.library)
        check_trackers(recipe.report_to)
        check_fsdp(recipe.distill)
        for check in (check_heldout, check_gkd_text, check_refit, check_parts, check_kv_cache):
            check(self)
        check_constraints(recipe.constraints, recipe.cost)
        check_names(recipe.baselines.names)
        check_evaluated(recipe.evaluate)
        iterations.check_iterations(recipe, self.config if self.source.known else None)
        vocabulary.check_vocabulary(recipe.vocabulary.size, recipe.data, self.source.in_memory)
        whole = self.source.original_config if self.source.known and self.source.narrowed else None
        hidden.check_hidden(recipe, whole, self.source.in_memory, whole and self.fmt)
        systems.opened(self)
        if self.source.known:
            check_parent(self.config, recipe.child.format)
            engines.check_tensor_parallel(recipe.tensor_parallel, attention_heads(self.config), recipe.deploy)
            check_sizes(self.config, self.space, recipe.constraints, recipe.cost, self.fmt, self.cache_type)
            engines.check_format(recipe.deploy, self.fmt, self.config)
            check_measured(recipe.cost.engine, self.fmt, self.device, recipe.cost.dtype)
            check_bits(recipe, self.space)
            for layer_idx, layer in enumerate(self.space.layers):
                # every block must be expressible in the child's format
                for block in dict.fromkeys(block.plain for block in layer.blocks):
                    layout = list(self.space.parents)
                    layout[layer_idx] = block
                    if layer_idx == 0 or layer.blocks != self.space.layers[0].blocks:
                        child_config(self.config, layout, self.fmt)

    # -- stages

    def write_chats(self) -> None:
        config, ends = self.recipe.chats, self.source.end_tokens
        files = prompts_of_self(self.recipe.data)
        prompts = prompts_of_files(files, config.batch_size) if files else None
        write_chats(self.run_dir / CHATS, self.parent, self.tokenizer, config, ends, self.recipe.seed, prompts)

    @property
    def corpus(self) -> DataConfig:
        """The recipe's text, with the file of the chats that the parent wrote."""
        return with_files_of_self(self.recipe.data, self.run_dir / CHATS)

    def tokenize(self) -> None:
        path = self.run_dir / "tokens.safetensors"
        if self.given_streams is None:
            answers = self.recipe.distill.answers_only
            if asks(self.recipe.data):
                tokenize_requests(path, self.recipe.data, self._decider, self.source.end_tokens[0], answers)
            else:
                data.tokenize_to(path, self.corpus, self.tokenizer, self.source.end_tokens, answers)
        else:
            data.write_streams(path, self.given_streams)

    def rank(self) -> None:
        config, ranking = self.recipe.importance, self._importance
        if self.given_streams is None and not asks(self.recipe.data):
            check_streams(self.teacher, self.tokenizer, self.corpus, self.tokens["validation"])
        if self.recipe.distill.document_masks:  # GKD would find out hours later
            check_document_masks(self.parent, self.recipe.distill.batch_size)
        if ranking is None:
            input_ids = sequences(self.tokens["train"], self.sequence_length, config.num_tokens, self.recipe.seed)
            ranking = channel_importance(self.parent, input_ids, config.batch_size, config.experts)
        artifacts.write_tensors(self.run_dir / "importance.safetensors", ranking)

    def library_tasks(self, workers: int) -> list[dict]:
        config = self.recipe.library
        jobs = library_jobs(self.space, self.library, config, workers)
        if config.states != "pipeline" or not jobs:
            return [{"start": job.start, "stop": job.stop} for job in jobs]
        group = config.layers_per_job or math.ceil(len(self.space.layers) / workers)
        ends = list(range(group, jobs[-1].stop, group)) + [jobs[-1].stop]  # those below a missing block serve it
        if len(ends) > workers:
            raise RecipeError(
                f"library.states: pipeline needs all {len(ends)} jobs at once, there is room for {workers}: raise "
                "library.layers_per_job"
            )
        queues = [f"{artifacts.fingerprint(str(self.run_dir), time.time_ns())}-{stop}" for stop in ends[:-1]]
        return [
            {"start": start, "stop": stop, "below": below, "above": above}
            for start, stop, below, above in zip([0, *ends], ends, [None, *queues], [*queues, None], strict=False)
        ]

    def build_layers(self, start: int, stop: int, below: str | None = None, above: str | None = None) -> None:
        """One job of BLD; `below` and `above` name the queues from and to its neighbours, in a pipeline."""
        layers, config = range(start, stop), self.each.library
        source, parent = None, None
        if config.states != "resident":
            shards, placed = self.source.shards, {"dtype": self.recipe.parent.dtype, "device": self.device}
            if below is not None:
                source = Upstream(channel(below))
            elif start or config.states == "streamed":
                source = Streamed(shards, self.config, start, config.lookahead, **placed)
            parent = load_layers(shards, self.config, start, stop, with_embeddings=source is None, **placed)
        build_layers(
            parent if parent is not None else self.parent,
            self.space,
            layers,
            artifacts.read_tensors(self.run_dir / "importance.safetensors"),
            self.tokens,
            BlockLibrary(self.library.folder, part=f"layers_{start:02d}_{stop - 1:02d}"),
            dataclasses.replace(config, args={"report_to": self.recipe.report_to} | config.args),
            self.sequence_length,
            self.recipe.seed,
            source,
            channel(above) if above is not None else None,
        )

    def merge_library(self) -> None:
        merge_library(self.space, self.library, self.recipe.library)

    def library_progress(self) -> tuple[int, int]:
        return len(self.library.index), len(planned_names(self.space, self.recipe.library))

    @property
    def _score_parts(self) -> Path:
        """Where tasks put their values: other cuts of the rows do not fit together."""
        return self.run_dir / "scores.parts" / f"{self.recipe.score.tokens_per_task or 'all'}"

    def score_tasks(self, workers: int) -> list[dict]:
        done = set(stored_values(self._score_parts))
        rows, config = self.metric.rows.input_ids, self.score_config
        tasks = score_tasks(self.space, len(rows), rows.shape[1], config, done, workers)
        return [dataclasses.asdict(task) for task in tasks]

    def score(self, **task: int) -> None:
        run_score_task(self.judge, ScoreTask(**task), self._score_parts)

    def merge_scores(self) -> None:
        scores = merge_scores(self.space, self.metric, self._score_parts, not self.judge.is_teacher)
        lines = [artifacts.json_line(score.to_dict()) for score in scores]
        artifacts.write_text(self.run_dir / "scores.jsonl", "".join(lines))

    def score_progress(self) -> tuple[int, int]:
        stored, library = stored_values(self._score_parts), self.library
        rows, config = self.metric.rows.input_ids, self.score_config
        shards = len(row_shards(len(rows), rows.shape[1], config))
        blocks = enumerate(scored_blocks(self.space, config))
        scored = sum(not library.is_dropped(i, block) for i, own in blocks for block in own)
        return sum(len(values) for values in stored.values()), scored * shards

    def solve(self, step: Iteration) -> None:
        search = Search(
            step.judge, self.bench, step.scores, self.costs, step.constraints, self.recipe.solve,
            engines.needs_one_kv_count(self.recipe.deploy),
        )  # fmt: skip
        chosen, measured = search.run() if step.is_last else (search.propose(), None)
        artifacts.write_json(
            step.folder / "solutions.json",
            {
                "constraints": to_dict(step.constraints),
                "chosen": {**chosen.to_dict(), "measured": measured and jsonable(measured)},
                "rounds": search.rounds,
                "judged": search.judged(),
                "forward_tokens": search.forward_tokens,
            },
        )

    def resolve(self) -> list[Candidate]:
        """Solve again from stored scores and costs, in seconds, with this recipe's constraints; nothing is written."""
        check_constraints(self.recipe.constraints, self.recipe.cost)
        margin = read_margin(self.run_dir)
        one_kv_count = engines.needs_one_kv_count(self.recipe.deploy)
        scores = Iteration(self, self.recipe.solve.iterations).scores
        return solve_all(scores, self.costs, self.recipe.constraints, self.recipe.solve, margin, one_kv_count)

    def make_child(self, step: Iteration) -> None:
        blocks, folder = step.blocks, step.folder / "child"
        if not self.recipe.child.refit and not self.source.in_memory and step.number == 1:
            # layer by layer from the parent's files; the refit, and a parent without files, need the child in memory
            p, shards = self.recipe.parent, self.source.shards
            weights = self.network(blocks).weights(shards, p.dtype)
            dtype = resolve_dtype(p.dtype, self.config, shards)
            child = meta_model(self.network(blocks).config, dtype, self.parent_path, p.revision)
            self._write(folder, child, weights)
            return
        child = step.network(blocks).assembled(step.host)
        done = None
        if self.recipe.child.refit:
            tokens, seed = self.tokens["train"], step.seed + 3
            rows = calibration_rows(child, tokens, self.sequence_length, self.recipe.child, seed)
            done = dataclasses.asdict(refit(child, self.teacher, rows, self.recipe.child, kept=self.source.channels))
        self._write(folder, child, refit=done)

    def distill(self, step: Iteration) -> None:
        child, done = self._distilled(step)
        facts = dataclasses.asdict(done) if done is not None else None
        if self._shards_gkd:
            config = hub.read_config(self.run_dir / "child")
            empty = meta_model(config, config.dtype, self.run_dir / "child")
            self._write(step.folder / "distilled", empty, self._gathered(child), gkd=facts)
        else:
            self._write(step.folder / "distilled", child, gkd=facts)
        step.close()

    def _distilled(self, step: Iteration) -> tuple[PreTrainedModel, Distilled | None]:
        config = self.each.distill
        config = dataclasses.replace(config, args={"report_to": self.recipe.report_to} | config.args)
        if self._shards_gkd:
            processes = num_processes()
            if processes == 1:
                raise RecipeError(
                    "distill.fsdp shards over processes: torchrun --nproc-per-node N -m hf_puzzle.cli run RECIPE --only distill"
                )
            folder, p = self.run_dir / "child", self.recipe.parent
            child = load_sharded(folder, hub.read_config(folder), processes, torch.float32)
            parent = load_sharded(self.parent_path, self.config, processes, p.dtype, p.revision)
        else:
            child = hub.open_model_folder(step.folder / "child").to(self.device).eval()
            parent = self.teacher
        folder, seed = step.folder / "distill_checkpoints", step.seed
        rows = validation_rows(self.tokens["validation"], config, self.sequence_length, seed)
        done = None
        if config.num_tokens:
            child, done = distill(
                child,
                parent,
                self.tokens["train"],
                config,
                self.sequence_length,
                folder,
                rows,
                seed,
                self.source.channels,
            )
        if config.on_policy_tokens and step.is_last:
            if num_processes() > 1:
                raise RecipeError(
                    "distill.on_policy_tokens: the child writes in one process; run distill without torchrun"
                )
            stream = self._written_by(child, folder / "on_policy")
            config = dataclasses.replace(
                config, num_tokens=config.on_policy_tokens, divergence=config.on_policy_divergence
            )
            written = folder / "on_policy" / "checkpoints"
            child, further = distill(
                child, parent, stream, config, self.sequence_length, written, rows, seed + 1, self.source.channels
            )
            done = (
                further
                if done is None
                else dataclasses.replace(
                    further, kl_before=done.kl_before, steps=done.steps + further.steps, step=done.step + further.step
                )
            )
        return child, done

    def _written_by(self, child: PreTrainedModel, folder: Path) -> TokenStream:
        """Chats of the child, on what users say in the chats that it is trained on; where there are none, on its own."""
        heldout, ends, config = self.recipe.data.heldout_fraction, self.source.end_tokens, self.recipe.chats
        documents = (
            d for name, d in open_corpus(self.corpus) if isinstance(d, list) and not is_heldout(name, heldout)
        )
        said = (next((m.get("content") for m in d if m["role"] == "user"), None) for d in documents)
        asked = list(itertools.islice((s for s in said if isinstance(s, str)), 4 * config.num_chats))
        prompts = batches_of(list(dict.fromkeys(asked)), config.batch_size) if asked else None
        written = folder / CHATS
        write_chats(written, child, self.tokenizer, config, ends, self.recipe.seed + 1, prompts)
        chats = [row["messages"] for row in artifacts.read_jsonl(written)]
        return data.packed(chats, self.tokenizer, ends, self.recipe.distill.answers_only)

    @property
    def _shards_gkd(self) -> bool:
        return self.recipe.distill.fsdp and self.recipe.distill.num_tokens > 0

    def _gathered(self, child: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
        """Pieces of a sharded child in the dtype it is published in; all processes go through them together."""
        return gathered(child, hub.read_config(self.run_dir / "child").dtype)

    def _write(self, folder: Path, child: PreTrainedModel, weights=None, **facts) -> None:
        provenance = {
            "recipe": to_dict(self.recipe),
            "parent": origin(self.source.original_path),
            "chosen": artifacts.read_json(folder.parent / "solutions.json")["chosen"],
            "environment": artifacts.environment(),
            **({"cache_type": self.cache_type} if self.cache_type else {}),
            **facts,
        }
        named = [Block.parse(text) for text in provenance["chosen"]["blocks"]]
        blocks = [block if folder.name == "distilled" else block.plain for block in named]

        def also(staging: Path) -> None:
            write_formats(staging, child, blocks)
            if asks(self.recipe.data):  # the child asks as its parent does
                self._decider.decision_config.save_pretrained(staging)

        expected = kept_logits(child, blocks)
        hub.write_model_folder(folder, child, self.tokenizer, provenance, also, weights, expected)

    @functools.cached_property
    def _decider(self) -> Decider:
        return Decider(self.parent, self.tokenizer)

    def evaluate(self) -> None:
        artifacts.write_json(self.run_dir / "eval.json", assess(self))

    def baseline_tasks(self, workers: int) -> list[dict]:
        return baseline_tasks(self)

    def baseline(self, name: str, gkd_tokens: int) -> None:
        run_baseline(self, name, gkd_tokens)

    def finish_baselines(self) -> None:
        (self.run_dir / "baselines").mkdir(exist_ok=True)

    def report(self) -> None:
        write_report(self.run_dir, self.recipe)

    def stages(self) -> list[Stage]:
        r = self.recipe
        # the recipe's word for the device: a driver without a GPU may lead workers that have one
        shared = {"seed": r.seed, "device": r.device, "threads": r.threads}
        library, score, evaluated, space = map(to_dict, (self.each.library, r.score, r.evaluate, r.search_space))
        if space["weight_bits"] == [16]:  # the same blocks as before there was this key
            del space["weight_bits"]
        for name in ("layers_per_job", "states", "lookahead"):  # who does the work changes nothing in it
            del library[name]
        del score["tokens_per_task"], evaluated["systems"]
        kept = [to_dict(r.kv_cache)] if self.cache_type else []
        made, asks = self.source.stage(), reads_self(r.data) and self.given_streams is None
        parent = ("parent",) if made else ()
        source = {"parent": to_dict(r.parent), **({} if made else {"content": self.source.fingerprint()})}
        stages = [
            *([made] if made else []),
            *([Stage("chats", self.write_chats, [to_dict(r.chats), prompts_of_self(r.data), source, shared], parent, (CHATS,), (CHATS + PARTS,), estimate=estimate_chats)] if asks else []),
            Stage("data", self.tokenize, [to_dict(r.data), source, data.STREAMS, *(["answers"] if r.distill.answers_only else []), *self._given_text()], ("chats",) if asks else parent, ("tokens.safetensors",), ("tokens.parts",), estimate=estimate_data),
            Stage("importance", self.rank, [to_dict(r.importance), shared], ("data",), ("importance.safetensors",), estimate=estimate_importance),
            Stage("library", self.build_layers, [library, space, r.deploy, r.tensor_parallel, shared], ("importance",), ("library",),
                  tasks=self.library_tasks, merge=self.merge_library, progress=self.library_progress, keeps_parts=True, estimate=estimate_library),
            Stage("score", self.score, [score, *kept] if kept else score, ("library",), ("scores.jsonl",), ("scores.parts",),
                  tasks=self.score_tasks, merge=self.merge_scores, progress=self.score_progress, estimate=estimate_score),
            *cost_stages.stages(self, [space, r.deploy, r.tensor_parallel, source, shared, r.child.format, *kept], ("data",)),
            *iterations.stages(self),
            Stage("evaluate", self.evaluate, evaluated, ("distill",), ("eval.json",), estimate=estimate_evaluate),
            Stage("baselines", self.baseline, [to_dict(r.baselines), evaluated], ("solve", "child", "distill"), ("baselines",),
                  ("baseline_checkpoints",), tasks=self.baseline_tasks, merge=self.finish_baselines, keeps_parts=True, estimate=estimate_baseline),
            Stage("baseline_speeds", functools.partial(time_baselines, self), evaluated, ("baselines",), ("baselines.jsonl",), estimate=estimate_baseline_speeds),
            *systems.stages(self),
            Stage("report", self.report, None, ("evaluate", "baseline_speeds", *(stage.name for stage in systems.stages(self))), ("report.md", "figures"), estimate=estimate_report),
        ]  # fmt: skip
        return stages

    def _given_text(self) -> list[str]:
        """What the data stage depends on besides the recipe; importance that is given depends on the same things."""
        streams = self.given_streams or {}
        marks = [str(stream.prefix) for stream in streams.values() if getattr(stream, "prefix", ())][:1]
        return [hashlib.sha256(streams[name].numpy().tobytes()).hexdigest() for name in sorted(streams)] + marks

    def run(self, only: str | None = None, start: str | None = None, say=logger.info, on: str | None = None) -> None:
        """Run the stages that are missing or stale; a folder in use by another process is refused.

        Args:
            only, start: as of `stages.run_stages`.
            on: where tasks run, as of `fanout.executor_for`; default: in this process.

        Under `torchrun` only `distill` runs on all processes: the first one holds the lock and writes, the others train
        along.

        Raises:
            RecipeError: several processes, and not `only="distill"`.
        """
        processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if processes > 1 and only != "distill":
            raise RecipeError("under torchrun, run one stage at a time: --only distill (all others are one process)")
        if self.recipe.cost.accelerators and (on is None or not on.startswith("ray")):
            raise RecipeError(
                "cost.accelerators are kinds of machines of a Ray cluster: --on ray, or leave the key out"
            )
        if on == "slurm" and self.recipe.library.states == "pipeline":
            raise RecipeError("library.states: pipeline needs --on ray; on Slurm, take streamed")
        if on is not None and self.source.in_memory:
            raise RecipeError(f"--on {on}: a parent in memory cannot be sent to workers; save it and name its folder")
        self.check(here=on is None) if rank == 0 else self.check_recipe()
        if rank > 0:
            child, _ = self._distilled(Iteration(self))
            for _ in self._gathered(child) if self._shards_gkd else ():  # the first process writes them
                pass
            return
        with artifacts.locked(self.run_dir), cpu_threads(self.recipe.threads):
            self._save_recipe()
            run_stages(
                self.run_dir, self.stages(), only, start, say, executor_for(on, self.spec, self.recipe.resources)
            )

    @property
    def spec(self) -> RunSpec:
        """What a worker elsewhere needs to take part in this run."""
        return RunSpec(to_dict(self.recipe), str(self.run_dir.resolve()), str(self.recipe_dir.resolve()))

    def _save_recipe(self) -> None:
        precision.keep(self._asked, self.run_dir, self.device)
        text, overrides = self._text or (yaml.safe_dump(to_dict(self._asked), sort_keys=False), [])
        artifacts.write_text(self.run_dir / "recipe.yaml", text)
        artifacts.write_json(self.run_dir / "overrides.json", overrides)


def stages_of(recipe: PuzzleRecipe, run_dir: Path, recipe_dir: Path) -> list[Stage]:
    """The stages of a run, for a worker of it."""
    return PuzzleRun(recipe, run_dir, recipe_dir).stages()


def load_run(run_dir: Path, overrides: list[str] = (), recipe_dir: str | Path = ".") -> PuzzleRun:
    """A run folder as it was made, with further overrides; enough to look at it and to solve it again.

    Args:
        recipe_dir: folder that a relative parent path starts from.
    """
    saved = parse_as(list[str], artifacts.read_json(run_dir / "overrides.json"), f"{run_dir}/overrides.json")
    return PuzzleRun(load_recipe(run_dir / "recipe.yaml", [*saved, *overrides]), run_dir, recipe_dir)
