"""The last numbers of a run: child and baselines against the parent, on text and clock that the search never saw."""

import dataclasses
import itertools
import logging
import math
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import torch

from .. import artifacts
from ..blocks import Block
from ..chat_evaluation import compare_chats, prompt_ids
from ..corpora import reserved_chats
from ..costs import (
    Timing,
    Workload,
    assisted_generation,
    cpu_threads,
    measure_interleaved,
    median_timing,
    peak_memory_bytes,
    speed_ratio,
    time_generation,
    weight_bytes,
)
from ..energy import Counters
from ..engines.cache_types import cache_bytes, rounded_cache
from ..engines.gguf import OutType
from ..engines.quanto import WEIGHTS, quantized, weight_bytes_of
from ..engines.weight_types import GGUF_GROUP
from ..evaluation import ClozeTask, Rows, Targets, mean_and_error, ratio_and_error, task_accuracy
from ..key_retrieval import TIMES, compare_keys
from ..layers import meta_parent
from ..progress import bar
from ..recipe import EvaluateConfig, RecipeError
from ..stages import Estimate
from .baselines import FINALISTS, Baselines, describe
from .bench import START_SECONDS, jsonable, memory_of_confirmation, rounds_per_session, seconds_of_confirmation
from .bits import keep_bits
from .block_costs import BYTES, non_block_parameters
from .deployed import in_llama_cpp
from .distillation import distill, estimate_distill, validation_rows
from .estimates import PROCESS_BYTES, Pieces, largest
from .judge import seconds_of_distance
from .network import cast_parameters
from .refit import calibration_rows, estimate_child, refit
from .search import seconds_of_rival
from .vocabulary import bits_per_byte


logger = logging.getLogger(__name__)

GGUF_TYPES = get_args(OutType)
SHORT = 32  # tokens in and out of a request: where a cheaper child may gain nothing
ROWS = "baselines"  # folder of one file per network and GKD budget


def test_rows(run) -> Rows:
    """Sequences of the test text."""
    return Rows.draw(run.tokens["test"], run.sequence_length, run.recipe.evaluate.num_tokens, run.recipe.seed + 11)


def test_targets(run) -> Targets:
    """The parent's answers on the test text, which every network of a run is compared with."""
    return Targets(run.teacher, test_rows(run), run.recipe.evaluate.batch_size, "evaluate parent")


def _compared(targets: Targets, model, name: str) -> dict:
    return targets.compare(model, f"evaluate {name}").to_dict() | {"tokens": targets.rows.input_ids.numel()}


def check_evaluated(config: EvaluateConfig) -> None:
    """Raises RecipeError for weights that optimum-quanto does not have, types that our GGUF files do not have, or without
    the packages."""
    for name in config.gguf:
        if name not in GGUF_TYPES:
            raise RecipeError(f"evaluate.gguf: {name!r} is none of {', '.join(GGUF_TYPES)}")
        if find_spec("llama_cpp") is None or find_spec("gguf") is None:
            raise RecipeError("evaluate.gguf needs llama-cpp-python and gguf: pip install 'hf_puzzle[llama-cpp]'")
    for name in config.quantized:
        if name not in WEIGHTS:
            raise RecipeError(f"evaluate.quantized: {name!r} is none of {', '.join(WEIGHTS)}")
        if find_spec("optimum") is None or find_spec("optimum.quanto") is None:
            raise RecipeError("evaluate.quantized needs optimum-quanto: pip install 'hf_puzzle[quanto]'")


def assess(run) -> dict:
    """Everything `eval.json` holds: quality before and after GKD, a task, speed in turn with the parent, memory."""
    config, parent = run.recipe.evaluate, run.teacher
    targets = test_targets(run)
    rows = targets.rows.input_ids
    # one child at a time is on the device
    with rounded_cache(run.cache_type):
        quality = {"child": _compared(targets, load_kept(run, "child"), "child")}
        distilled = load_kept(run, "distilled")
        quality["distilled"] = _compared(targets, distilled, "distilled")
    decides = targets.rows.decisions is not None
    tasks = None if decides else _cloze(run, {"parent": parent, "distilled": distilled})
    drafted = None
    stateful = [name for name, model in (("parent", parent), ("child", distilled)) if model._is_stateful]
    if stateful and config.assisted_prompts:
        logger.info(
            "evaluate: a state cannot take drafted tokens back: no assisted generation (%s)", " and ".join(stateful)
        )
    elif config.assisted_prompts:
        prompts = rows[:, : rows.shape[1] // 2][: config.assisted_prompts]
        drafted = assisted_generation(
            parent, distilled, prompts, config.assisted_new_tokens, config.assisted_draft_tokens,
            run.recipe.cost.clock,
        )  # fmt: skip
    trimmed = _vocabulary(run, targets, distilled)
    narrowed = _hidden(run, targets)
    requests = [_short_requests(run, distilled, size) for size in config.batch_sizes]
    chats = _chats(run, distilled) if config.chats else None
    keys = compare_keys(
        parent, distilled, run.tokens["test"], run.tokenizer, config.keys, run.sequence_length, config.batch_size,
        run.recipe.seed + 13,
    ) if config.keys else []  # fmt: skip
    gguf = [
        in_llama_cpp(
            parent,
            run.load_child("distilled"),
            targets.rows,
            outtype,
            config.measure_rounds,
            run.recipe.cost.threads,
            clock=run.recipe.cost.clock,
            blocks=chosen_blocks(run),
            cache_type=run.cache_type,
        )
        for outtype in config.gguf
    ]
    costs, batch_size = run.costs, run.chosen["batch_size"]
    del distilled
    blocks, sessions = chosen_blocks(run), run.recipe.solve.sessions
    (speed,) = run.bench.confirm([blocks], batch_size, sessions, rounds_per_session(config.measure_rounds, sessions))
    return {
        "quality": quality,
        "task": tasks,
        "decides": decides,
        "speed": jsonable(speed),
        "assisted": drafted,
        "requests": requests,
        **({} if trimmed is None else {"vocabulary": trimmed}),
        **({} if narrowed is None else {"hidden": narrowed}),
        **({} if run.cache_type is None else {"cache_type": run.cache_type}),
        "chats": chats,
        "keys": keys,
        "gguf": gguf,
        "quantized": [_quantized(run, targets, weights) for weights in config.quantized],
        "memory": _memory(run, blocks, costs.workload_of(batch_size)),
        "gkd_tokens": run.recipe.solve.iterations * run.each.distill.num_tokens,
        "workload": {
            "batch_size": batch_size,
            **{name: costs.workload[name] for name in ("prefill_tokens", "decode_tokens")},
        },
        "environment": artifacts.environment(),
    }


def _cloze(run, models: dict) -> dict:
    """Accuracy on the cloze task of each of `models`, the first of which is the parent."""
    config = run.recipe.evaluate
    task = ClozeTask.from_tokens(
        run.tokens["test"], config.task_items, config.task_context, config.task_continuation, run.recipe.seed + 12
    )
    hits = {name: task_accuracy(m, task, config.batch_size, run.device) for name, m in models.items()}
    tasks = {}
    for name, values in hits.items():
        accuracy, error = mean_and_error(values, task.documents)
        # a parent without one right answer keeps nothing to compare with
        known = hits["parent"].any()
        kept, kept_error = ratio_and_error(values, hits["parent"], task.documents) if known else (None, None)
        tasks[name] = {
            "accuracy": accuracy,
            "stderr": error,
            "kept": kept,
            "kept_stderr": kept_error,
            "items": len(values),
            "documents": len(task.documents.unique()),
        }
    return tasks


def _vocabulary(run, targets: Targets, child) -> dict | None:
    """Of a run that leaves the parent some of its tokens only: what all three need for the same text, in bits per byte."""
    if (kept := run.source.kept) is None:
        return None
    texts = [run.tokenizer.decode(row, skip_special_tokens=True) for row in targets.rows.input_ids.tolist()]
    first, size = next(iter(run.source.end_tokens), 0), run.recipe.evaluate.batch_size
    bits = {
        "parent": bits_per_byte(run.source.original, run.source.original_tokenizer, texts, kept.kept[first], size),
        **{name: bits_per_byte(m, run.tokenizer, texts, first, size) for name, m in (("trimmed", run.teacher), ("distilled", child))},
    }  # fmt: skip
    facts = {name: getattr(kept, name) for name in ("parent_size", "parent_tokens", "tokens", "text_bytes")}
    return {"size": len(kept.kept), **facts, "bits_per_byte": bits}


def _hidden(run, targets: Targets) -> dict | None:
    """Of a run that leaves the parent some of its channels only: how far that alone, with its corrections, is from it."""
    if (found := run.source.narrowing) is None:
        return None
    quality = _compared(targets, run.parent, "narrowed parent")
    steps = {"validation_kl": found.kl, "accepted": found.accepted}
    return {"size": len(found.kept), "parent_size": found.parent_size, **steps, "quality": quality}


def _short_requests(run, child, batch_size: int) -> dict:
    """So many at once, by parent and child in turn in this process; of a prefill-only workload its prompts.

    Where the child has fewer tokens, the parent's times are those of the same text.
    """
    cost, models, kept = run.recipe.cost, {"parent": run.source.original, "child": child}, run.source.kept
    shape = (SHORT, SHORT) if cost.decode_tokens > 1 else (max(cost.lengths), 1)
    workload = Workload(batch_size, *shape)
    clock, counters = run.recipe.cost.clock, Counters()
    with cpu_threads(run.recipe.cost.threads):
        timings = measure_interleaved(models, workload, 4, clock, f"batch {batch_size}")
        if kept is not None:
            timings["parent"] = [Timing(*(kept.share * ms for ms in vars(t).values())) for t in timings["parent"]]
        joules = {}
        for name, model in models.items() if counters.zones else ():
            used = counters.joules(lambda model=model: [time_generation(model, workload) for _ in range(3)])
            tokens = workload.tokens / (kept.share if kept is not None and name == "parent" else 1.0)
            joules[name] = None if used is None else used / 3 / tokens
    ratios = {
        part: speed_ratio(timings["parent"], timings["child"], part=f"{part}_ms").to_dict()
        for part in ("total", "prefill", "decode")
    }
    medians = {name: vars(median_timing(rounds)) for name, rounds in timings.items()}
    return {"workload": vars(workload), **ratios, "median_ms": medians, "joules_per_token": joules}


def _chats(run, child) -> dict | None:
    """Parent and child answering what users say in chats that no stream has."""
    config = run.recipe.evaluate
    prompts = prompt_ids(list(itertools.islice(reserved_chats(run.corpus), config.chats)), run.tokenizer)
    if len(prompts) < config.chats:
        # after hours of work: what is there is said, the rest of the report does not fall with it
        logger.warning("evaluate.chats: %d asked for, the text has %d that were kept out of it", config.chats, len(prompts))  # fmt: skip
    if not prompts:
        return None
    return compare_chats(run.teacher, child, prompts, run.source.end_tokens, config.chat_tokens, config.batch_size)


def _quantized(run, targets: Targets, weights: str) -> dict:
    """The distilled child with its matrices in fewer bits: quality, and the bytes its weights hold."""
    model = quantized(run.run_dir / "distilled", weights).to(run.device)
    quality = _compared(targets, model, weights)
    return {"weights": weights, "quality": quality, "weight_bytes": weight_bytes_of(model)}


def _memory(run, blocks: list[Block], workload: Workload) -> dict:
    """Bytes by formula, and the peak of a fresh process that loads the model and generates."""
    costs = run.costs
    parent_blocks = list(run.space.parents)
    rows = {}
    subjects = (
        ("parent", parent_blocks, run.source.original_path, run.recipe.parent.trust_remote_code),
        ("child", blocks, str(run.run_dir / "distilled"), False),
    )
    for name, layout, folder, trust in bar(subjects, desc="peak memory"):
        parts = [costs.block_costs(block, workload.batch_size) for block in layout]
        in_blocks = sum(part["num_parameters"] for part in parts)
        held = [costs.held_bytes(each) for each in (None, *layout)]
        parameters = costs.non_block_parameters + in_blocks
        kv = sum(part["memory_bytes"] for part in parts) - sum(held[1:])
        if name == "parent" and run.cache_type:  # the table has the child's type
            kv = kv * GGUF_GROUP * BYTES[costs.dtype] // cache_bytes(GGUF_GROUP, run.cache_type)
        if name == "parent" and run.source.narrowed:
            parameters = meta_parent(run.source.original_config).num_parameters()
            held = [parameters * BYTES[costs.dtype]]
        elif name == "parent" and run.source.trimmed:
            ends = non_block_parameters(run.source.original_config)
            parameters, held[0] = ends + in_blocks, ends * BYTES[costs.dtype]
        rows[name] = {
            "num_parameters": parameters,
            "weight_bytes": sum(held),
            "kv_bytes": kv,
            "peak_bytes": None
            if run.source.in_memory and name == "parent"
            else peak_memory_bytes(folder, workload, costs.dtype, str(run.device), trust),
        }
    return rows


def load_kept(run, name: str):
    """A child of a run, `child` or `distilled`, with the weights that the number formats of its blocks leave."""
    child = run.load_child(name)
    if not hasattr(child.config, "quantization_config"):  # else it was opened so
        keep_bits(child, chosen_blocks(run))
    return child


def chosen_blocks(run) -> list[Block]:
    """The blocks of the searched child."""
    return [Block.parse(text) for text in run.chosen["blocks"]]


def baseline_layouts(run, budget_ms: float | None = None) -> Baselines:
    """Pickers of layouts that are predicted to take `budget_ms` a batch (default: as long as the searched child); searches
    among them spend the forward tokens that the child's did."""
    batch_size = run.chosen["batch_size"]
    if budget_ms is None:
        budget_ms = run.costs.predict(chosen_blocks(run), batch_size).total_ms
    path = run.run_dir / "solutions.json"
    with artifacts.reading(path):
        tokens = artifacts.read_json(path)["forward_tokens"]
    return Baselines(run.space, run.scores, run.costs, batch_size, budget_ms, run.judge, tokens, run.recipe.seed)


def baseline_tasks(run) -> list[dict]:
    """A task per network and GKD budget that is not stored yet: the recipe's baselines, and the searched child."""
    config = run.recipe.baselines
    names = ["searched", *config.names] if config.names else []
    wanted = [(name, tokens) for name in names for tokens in config.num_tokens if (name, tokens) != ("scratch", 0)]
    return [
        {"name": name, "gkd_tokens": tokens} for name, tokens in wanted if not _row_path(run, name, tokens).exists()
    ]


def _row_path(run, name: str, gkd_tokens: int) -> Path:
    return run.run_dir / ROWS / f"{name}_{gkd_tokens}.json"


def run_baseline(run, name: str, gkd_tokens: int) -> None:
    """Make one baseline and judge it; its file says null where nothing in the search space is as fast as the child."""
    blocks = _baseline_blocks(run, name)
    row = None
    if blocks is None:
        logger.warning("baseline %s: nothing in the search space is as fast as the child", name)
    else:
        logger.info("baseline %s: %s", name, describe(blocks))
        child = baseline_child(run, name, blocks, gkd_tokens)
        keep_bits(child, blocks)
        targets = test_targets(run)
        with rounded_cache(run.cache_type):
            quality = _compared(targets, child, name)
        child = cast_parameters(child, getattr(torch, run.costs.dtype))
        row = {"name": name, "blocks": [block.id for block in blocks], "gkd_tokens": gkd_tokens, "quality": quality}
        row["weight_bytes"] = weight_bytes(child)
        if any(block != block.plain for block in blocks):
            row["weight_bytes"] = sum(map(run.costs.held_bytes, (None, *blocks)))
    artifacts.write_json(_row_path(run, name, gkd_tokens), row)
    artifacts.remove(run.run_dir / "baseline_checkpoints" / f"{name}_{gkd_tokens}")


def _baseline_blocks(run, name: str) -> list[Block] | None:
    """The layout of a baseline; found once, whatever its GKD budgets."""
    if name in ("searched", "scratch"):
        return chosen_blocks(run)
    for path in sorted((run.run_dir / ROWS).glob(f"{name}_*.json")):
        if (row := artifacts.read_json(path)) is not None:
            return [Block.parse(text) for text in row["blocks"]]
    pickers = baseline_layouts(run)
    return pickers.random(run.recipe.baselines.num_random) if name == "random" else getattr(pickers, name)()


def time_baselines(run) -> None:
    """`baselines.jsonl`: every row with its speed. All layouts are timed in turn by fresh processes: weights do not matter."""
    config = run.recipe.baselines
    paths = [_row_path(run, name, tokens) for name in ["searched", *config.names] for tokens in config.num_tokens]
    rows = [row for path in paths if path.exists() and (row := artifacts.read_json(path)) is not None]
    layouts = {row["name"]: [Block.parse(text) for text in row["blocks"]] for row in rows}
    if rows:
        sessions = run.recipe.solve.sessions
        rounds = rounds_per_session(run.recipe.evaluate.measure_rounds, sessions)
        found = run.bench.confirm(list(layouts.values()), run.chosen["batch_size"], sessions, rounds)
        speeds = dict(zip(layouts, found, strict=True))
        rows = [row | {"speed": jsonable(speeds[row["name"]])} for row in rows]
    artifacts.write_text(run.run_dir / "baselines.jsonl", "".join(artifacts.json_line(row) for row in rows))


def baseline_child(run, name: str, blocks: list[Block], gkd_tokens: int, **settings):
    """A network of `blocks`: assembled and refitted like the child (`scratch`: random weights), then `gkd_tokens` of GKD.

    `settings` replace those of `distill`.
    """
    parent, teacher, kept, recipe = run.parent, run.teacher, run.source.channels, run.recipe
    if name == "scratch":
        torch.manual_seed(recipe.seed)
        child = run.network(blocks).random(parent.dtype, parent.device)
    else:
        child = run.network(blocks).assembled(parent)
        if recipe.child.refit:
            tokens = run.tokens["train"]
            rows = calibration_rows(child, tokens, run.sequence_length, recipe.child, recipe.seed + 3)
            refit(child, teacher, rows, recipe.child, kept=kept)
    if gkd_tokens:
        config = dataclasses.replace(recipe.distill, num_tokens=gkd_tokens, fsdp=False, **settings)  # one process
        folder = run.run_dir / "baseline_checkpoints" / f"{name}_{gkd_tokens}"
        rows = validation_rows(run.tokens["validation"], config, run.sequence_length, recipe.seed)
        child, _ = distill(
            child, teacher, run.tokens["train"], config, run.sequence_length, folder, rows, recipe.seed, kept
        )
    return child


# -- what that takes


def _comparison(p: Pieces) -> tuple[float, dict[str, float]]:
    """Seconds of a child on the test text, and of the parent's targets; P w + C w + targets + A(T)."""
    config = p.recipe.evaluate
    count, rows = p.batches(config.num_tokens, config.batch_size)
    child = p.child_forward(rows, p.length) + p.clock.logits(rows, p.length) + p.clock.judge(rows, p.length)
    memory = p.held(
        child=p.child_bytes,
        activations=p.activations(rows * p.length, p.width),
        **p.judging(config.num_tokens, rows * p.length, heads=2),
    )
    return count * (child + p.teacher_share * p.clock.parent(rows, p.length)), memory


def estimate_evaluate(p: Pieces) -> Estimate:
    """As a comparison; or a confirmation; or P w, targets and a process that generates with the parent."""
    config = p.recipe.evaluate
    length = config.task_context + config.task_continuation
    rows = 4 * max(1, config.batch_size // 4)
    # contexts are read once for their four continuations
    read = rows // 4 * config.task_context / length + rows * config.task_continuation / length
    task = p.clock.parent(rows, length, logits=True) + p.child_forward(rows, length)
    task = task * read / rows + p.clock.divergence(rows, config.task_continuation)
    compared, memory = _comparison(p)
    seconds = p.open(2) + (2 + len(config.quantized)) * compared + math.ceil(4 * config.task_items / rows) * task
    if config.assisted_prompts:
        # plain, then the draft's tokens and the parent's steps, about half of the tokens
        own, child = p.generations(Workload(1, p.length // 2, config.assisted_new_tokens))
        seconds += (config.assisted_prompts + 1) * (1.5 * own + child)
    seconds += 3 * compared if p.recipe.vocabulary.size is not None else 0.0
    seconds += compared if p.recipe.hidden.size is not None else 0.0
    seconds += sum(5 * sum(p.generations(Workload(size, SHORT, SHORT))) for size in config.batch_sizes)
    if config.chats:
        batch = min(config.batch_size, config.chats)
        seconds += math.ceil(config.chats / batch) * sum(
            p.generations(Workload(batch, p.length // 2, config.chat_tokens))
        )
    if config.keys:
        texts = p.clock.parent(config.batch_size, p.length) + p.child_forward(config.batch_size, p.length)
        seconds += math.ceil(sum(TIMES) * config.keys / config.batch_size) * texts
    seconds += seconds_of_confirmation(p, config.measure_rounds) + 2 * START_SECONDS
    # the cloze task's logits are of its continuations, in float32, with their logarithms and a copy
    memory["logits"] = max(memory["logits"], 12.0 * rows * config.task_continuation * p.shapes.vocab)
    moments, targets = [memory], memory["targets"]
    if p.on_gpu:
        alone = p.held(targets=targets, **p.generating())
        alone |= {"process": 2 * alone["process"], "parent again": p.parameters * BYTES[p.recipe.cost.dtype]}
        moments += [memory_of_confirmation(p, targets), alone]
    return Estimate(seconds, largest(*moments), "lower evaluate.batch_size, evaluate.num_tokens or cost.batch_sizes")


def estimate_baseline(p: Pieces, name: str, gkd_tokens: int) -> Estimate:
    """As `child`, `distill` or a comparison, beside the targets of the judge that picked it."""
    layers = p.shapes.num_layers
    dropped = min(layers - 1, max(1, round(layers * (1 - p.share))))
    subsets = math.comb(layers, dropped)
    greedy = sum(range(layers - dropped + 1, layers + 1))
    distances = {"drop_layers": subsets if subsets <= 200 else greedy, "uniform": FINALISTS, "two_blocks": FINALISTS, "random": p.recipe.baselines.num_random}  # fmt: skip
    (compared, memory), child = _comparison(p), estimate_child(p)
    seconds = child.seconds + compared + distances.get(name, 0) * seconds_of_distance(p)
    seconds += seconds_of_rival(p) if name in ("evolution", "projection") else 0.0
    # what an allocator keeps of the refit stands beside the logits of the comparison
    moments, scratch = [child.memory | {"logits": memory["logits"]}, memory], 0.0
    if gkd_tokens:
        trained = estimate_distill(p, gkd_tokens, alone=True)
        seconds, scratch = seconds + trained.seconds, trained.scratch
        moments.append(trained.memory)
    judge = p.judging(p.run.metric.rows.input_ids.numel(), 0)["targets"]
    help = "lower score.num_tokens, evaluate.batch_size and distill.batch_size"
    return Estimate(seconds, {**largest(*moments), "judge": judge}, help, scratch=scratch)


def estimate_baseline_speeds(p: Pieces) -> Estimate:
    """Confirmations of all networks at once."""
    names, help = p.recipe.baselines.names, "name fewer baselines.names"
    if not names:
        return Estimate(0.0, {"process": PROCESS_BYTES}, help)
    children = 1 + len(names)
    seconds = p.open() + seconds_of_confirmation(p, p.recipe.evaluate.measure_rounds, children)
    return Estimate(seconds, memory_of_confirmation(p, 0.0, children), help)
