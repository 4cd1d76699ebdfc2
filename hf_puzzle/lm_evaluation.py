"""A model folder against its parent: tasks of lm-eval with paired bootstrap intervals, or distances on test text."""

import difflib
import gc
import logging
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed

from . import artifacts, hub
from .engines.check import check_folder
from .evaluation import Rows, compare
from .training import resolve_device


logger = logging.getLogger(__name__)

CONFIDENCE, RESAMPLES, SEED = 0.95, 1000, 0
SLOW_RESAMPLES = 100  # of metrics that lm-eval computes from all items at once, such as BLEU


class EvaluationError(ValueError):
    """Something asked of an evaluation is wrong; the message names it and the way out."""


# -- which models


@dataclass(frozen=True)
class ParentSource:
    """Where a parent is loaded from.

    Attributes:
        name: folder, or Hub id.
        trust_remote_code: run code of its repository; only ever set by the user.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False

    @property
    def is_local(self) -> bool:
        return (Path(self.name) / "config.json").is_file()


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model folder, and the parent it is compared with, if that is known.

    Attributes:
        run_dir: the run that the folder was made by, where a run was named.
        why_alone: where `parent` is None, why.
    """

    child: Path
    parent: ParentSource | None
    run_dir: Path | None = None
    why_alone: str = ""


def find_subject(folder: str | Path, parent: str | None = None, trust_remote_code: bool = False) -> Subject:
    """The models of a run folder (its distilled child) or of a model folder. Nothing is loaded.

    Args:
        folder: run or model folder.
        parent: folder or Hub id; default: what the folder's `puzzle.json` names.
        trust_remote_code: run code of the parent's repository. No code of `folder` is ever run.

    Raises:
        ValueError: no model is there, it is malformed, or `parent` cannot be opened.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no folder: name a model folder or the folder of a Puzzle run")
    run_dir = None
    if not (folder / "config.json").exists():
        if not (folder / "recipe.yaml").exists():
            raise EvaluationError(f"{folder} holds neither a model (config.json) nor a Puzzle run (recipe.yaml)")
        run_dir, folder = folder, folder / "distilled"
        if not (folder / "config.json").exists():
            raise EvaluationError(f"{run_dir} has no distilled child: finish the run, or name a model folder")
    check_folder(folder)
    if parent is not None:
        source = ParentSource(parent, trust_remote_code=trust_remote_code)
        if (reason := _why_closed(source)) is not None:
            raise EvaluationError(f"--parent {parent}: {reason}")
        return Subject(folder, source, run_dir)
    found = _recorded_parent(folder, trust_remote_code)
    if isinstance(found, str):
        return Subject(folder, None, run_dir, found)
    if (reason := _why_closed(found)) is not None:
        return Subject(folder, None, run_dir, f"its parent {found.name!r} cannot be opened: {reason}")
    return Subject(folder, found, run_dir)


def _recorded_parent(folder: Path, trust_remote_code: bool) -> ParentSource | str:
    """The parent that a folder's `puzzle.json` names, or why there is none."""
    if not (folder / "puzzle.json").exists():
        return "it has no puzzle.json that names its parent"
    notes = artifacts.read_json(folder / "puzzle.json")
    recipe = notes.get("recipe")
    section = recipe.get("parent") if isinstance(recipe, dict) else None
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        return "its puzzle.json names no parent"
    name, revision, dtype = section["name"], section.get("revision"), section.get("dtype")
    chosen = {
        "revision": revision if isinstance(revision, str) else None,
        "dtype": dtype if dtype in ("float32", "bfloat16", "float16") else "auto",
        "trust_remote_code": trust_remote_code,  # the folder may come from anywhere: what it says is no consent
    }
    for local in (Path(name), folder.absolute().parent / "parent"):
        if (local / "config.json").is_file():
            return ParentSource(str(local), **chosen)
    if section.get("recipe") is not None:
        return f"its parent {name!r} was trained by a recipe and is not here"
    return ParentSource(name, **chosen)


def _why_closed(source: ParentSource) -> str | None:
    """Why a parent's config cannot be read, in one line, or None if it can."""
    if Path(source.name).is_dir() and not source.is_local:
        return "the folder has no config.json"
    try:
        if source.is_local and not source.trust_remote_code:
            hub.read_config(source.name)
        else:
            AutoConfig.from_pretrained(
                source.name, revision=source.revision, trust_remote_code=source.trust_remote_code
            )
    except (OSError, ValueError) as error:
        return str(error).strip().split("\n")[0]
    return None


def open_parent(source: ParentSource) -> PreTrainedModel:
    """The parent's causal LM, on the CPU; a local folder in installed code, also if it is a child itself."""
    if source.is_local and not source.trust_remote_code:
        return hub.open_model_folder(source.name, source.dtype)
    return AutoModelForCausalLM.from_pretrained(
        source.name, revision=source.revision, trust_remote_code=source.trust_remote_code, dtype=source.dtype
    ).eval()


def open_tokenizers(subject: Subject) -> dict:
    """Tokenizers of `parent` (where there is one) and `child`; a model without one takes the other's.

    Raises:
        EvaluationError: neither has one.
    """
    sources = {"child": (str(subject.child), None, False)}
    if subject.parent is not None:
        sources["parent"] = (subject.parent.name, subject.parent.revision, subject.parent.trust_remote_code)
    found = {}
    for who, (name, revision, trust) in sources.items():
        try:
            # the config, because AutoTokenizer would look for the code of ours beside it
            config = hub.read_config(name) if (Path(name) / "config.json").is_file() and not trust else None
            found[who] = AutoTokenizer.from_pretrained(name, config=config, revision=revision, trust_remote_code=trust)
        except (OSError, ValueError, KeyError, AttributeError) as error:  # what AutoTokenizer raises without files
            logger.debug("no tokenizer in %s: %s", name, error)
    if not found:
        raise EvaluationError(f"no tokenizer in {' or '.join(name for name, _, _ in sources.values())}")
    return {who: found.get(who) or next(iter(found.values())) for who in sources}


def _identity(name: str | Path, revision: str | None = None) -> dict:
    """How a result names a model: no absolute path, but content where it is local."""
    local = Path(name)
    if (local / "config.json").is_file():
        return {"name": local.resolve().name, "fingerprint": artifacts.folder_fingerprint(local)}
    return {"name": str(name), "revision": revision}


def _result(subject: Subject, **rest) -> dict:
    parent = subject.parent and _identity(subject.parent.name, subject.parent.revision)
    child = _identity(subject.child)
    return {"child": child, "parent": parent, **rest, "environment": artifacts.environment()}


def _check_numbers(**numbers: int | None) -> None:
    for name, value in numbers.items():
        least = 0 if name == "num_fewshot" else 1
        if value is not None and value < least:
            raise EvaluationError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


# -- distances on text


def compare_on(
    subject: Subject,
    rows: Rows,
    batch_size: int = 8,
    limit: int | None = None,
) -> dict:
    """Child against parent on test text: what `--out` holds, `quality` in it.

    Args:
        limit: at most so many sequences.

    Raises:
        EvaluationError: no parent to compare with, or one of another vocabulary.
    """
    _check_numbers(limit=limit, batch_size=batch_size)
    if subject.parent is None:
        raise EvaluationError(f"{subject.child}: {subject.why_alone}; name it with --parent, or name --tasks")
    device = resolve_device("auto")
    parent, child = open_parent(subject.parent).to(device), hub.open_model_folder(subject.child).to(device)
    sizes = [model.get_input_embeddings().weight.shape[0] for model in (parent, child)]
    if sizes[0] != sizes[1]:
        raise EvaluationError(
            f"{subject.parent.name} has a vocabulary of {sizes[0]}, {subject.child} one of {sizes[1]}: not its parent"
        )
    quality = compare(parent, child, rows[:limit], batch_size)
    for who in ("", "parent_"):
        loss = quality[f"{who}loss"]
        quality[f"{who}perplexity"] = math.exp(loss) if loss < 700 else None
    return _result(subject, quality={name: _number(value) for name, value in quality.items()})


def quality_rows(quality: dict) -> list[tuple[str, str, str, str]]:
    """`(quantity, parent, child, kept or difference)` for the console; errors are standard errors over sequences."""

    def text(name: str, form: str) -> str:
        return "-" if quality[name] is None else format(quality[name], form)

    def with_error(name: str, form: str) -> str:
        return f"{text(name, form)} +- {text(f'{name}_stderr', form)}"

    return [
        ("top-1 accuracy", text("parent_top1", ".2%"), text("top1", ".2%"), with_error("top1_kept", ".2%")),
        ("agreement with the parent", "100.00%", text("agreement", ".2%"), ""),
        ("KL(parent || child), nats", "0", with_error("kl", ".4f"), ""),
        ("loss, nats", text("parent_loss", ".4f"), with_error("loss", ".4f"), ""),
        ("perplexity", text("parent_perplexity", ".3f"), text("perplexity", ".3f"), ""),
    ]


# -- tasks of lm-eval


def check_tasks_can_run() -> None:
    """Raises EvaluationError where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise EvaluationError("--tasks needs lm-eval: pip install 'hf_puzzle[eval]'")


@dataclass(frozen=True)
class TaskSet:
    """lm-eval's objects, by name.

    Attributes:
        top: tasks and groups that were named, without their members.
        tasks, groups: all of them.
    """

    top: dict
    tasks: dict
    groups: dict


def load_tasks(names: list[str], include_path: str | Path | None = None) -> TaskSet:
    """lm-eval's tasks, groups and tags of these names; globs are allowed.

    Args:
        include_path: folder of task YAMLs; its names win over lm-eval's own.

    Raises:
        EvaluationError: an unknown name, with the nearest ones; a task that cannot be loaded or must not be run.
    """
    check_tasks_can_run()
    from lm_eval.tasks import TaskManager

    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise EvaluationError("--tasks names no task; separate names by commas: --tasks arc_easy,hellaswag")
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise EvaluationError(f"--include-path {include_path} is no folder of task YAMLs")
        where, include_path = f"--include-path {include_path}", str(include_path)
        # lm-eval's own 14,000 tasks take seconds to index: only where the folder is not enough
        manager = _calling(TaskManager, where, include_path=include_path, include_defaults=False)
        if all(manager.match_tasks([name]) for name in names):
            try:
                return _load(manager, names)
            except EvaluationError as error:
                logger.debug("%s; trying with lm-eval's own tasks", error)
    logger.info("reading lm-eval's index of tasks")
    return _load(_calling(TaskManager, "lm-eval's tasks", include_path=include_path), names)


def _load(manager, names: list[str]) -> TaskSet:
    top = {}
    for name in names:
        matches = manager.match_tasks([name])
        if not matches:
            nearest = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
            raise EvaluationError(
                f"task {name!r} is unknown to lm-eval{hint}; tasks of your own: --include-path FOLDER"
            )
        for match in matches:
            loaded = _calling(manager.load, f"task {match!r}", match)
            inside = {child for children in loaded["group_map"].values() for child in children}
            members = {**loaded["groups"], **loaded["tasks"]}
            top |= {key: item for key, item in members.items() if key not in inside}
    loaded = _calling(manager.load, "--tasks", list(top.values()))
    for name, task in loaded["tasks"].items():
        if task.get_config("unsafe_code"):
            raise EvaluationError(f"task {name!r} runs code that the model writes: use lm-eval itself, in a sandbox")
    return TaskSet(top, loaded["tasks"], loaded["groups"])


def _calling(function: Callable, what: str, *args, **kwargs):
    """Call lm-eval; what goes wrong in a task's YAML, data or code ends as one line."""
    try:
        return function(*args, **kwargs)
    except Exception as error:  # tasks are YAML, templates and code of others: anything can be raised
        reason = str(error).strip().split("\n")[0] or "no reason given"
        raise EvaluationError(f"{what}: {type(error).__name__}: {reason}") from error


def evaluate_tasks(
    subject: Subject,
    tasks: list[str],
    include_path: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    num_fewshot: int | None = None,
) -> dict:
    """Run lm-eval's tasks on parent and child, one model in memory at a time.

    Intervals are percentile bootstraps over items (`RESAMPLES` of them, seeded): both models on the same items, so
    that differences and ratios are paired. A group's items are drawn within each of its tasks.

    Args:
        limit: items per task.
        num_fewshot: demonstrations; a task that fixes 0 keeps it.

    Returns:
        What `--out` holds: `tasks` has a row per task (groups first) and metric with `parent`, `child`, `ratio`,
        `difference` and their intervals; without a parent `child` alone.

    Raises:
        EvaluationError: unknown tasks, tasks that fail, or numbers out of range.
    """
    _check_numbers(limit=limit, batch_size=batch_size, num_fewshot=num_fewshot)
    loaded = load_tasks(tasks, include_path)
    tokenizers = open_tokenizers(subject)
    # the child first: it is the faster one, so what is wrong with a task shows sooner
    openers = {"child": lambda: hub.open_model_folder(subject.child), "parent": lambda: open_parent(subject.parent)}
    results = {
        who: _run_model(open_model, tokenizers[who], loaded, limit, batch_size, num_fewshot)
        for who, open_model in openers.items()
        if who in tokenizers
    }
    child = results["child"]
    return _result(
        subject,
        tasks=_rows(loaded, results),
        limit=limit,
        num_fewshot={name: child["n-shot"].get(name) for name in loaded.tasks},
        task_versions={name: child["versions"].get(name) for name in loaded.tasks},
        lm_eval=metadata.version("lm_eval"),
        bootstrap={"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED},
    )


def _set_fewshot(loaded: TaskSet, num_fewshot: int | None) -> None:
    """Number and seed of the demonstrations, by the rules of lm-eval's `simple_evaluate`."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    for task in loaded.tasks.values():
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _run_model(
    open_model: Callable, tokenizer, loaded: TaskSet, limit: int | None, batch_size: int, num_fewshot: int | None
) -> dict:
    """lm-eval's result of one model, which is freed before this returns."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    # not `simple_evaluate`: it runs pip and git to describe the machine, which `environment` does
    task_dict = {"tasks": loaded.tasks, "groups": loaded.groups}
    set_seed(DEFAULT_OTHER_SEED)
    _set_fewshot(loaded, num_fewshot)  # here, so that both models get the same demonstrations
    noisy = logging.getLogger("lm_eval.models.huggingface")
    level = noisy.level
    noisy.setLevel(logging.ERROR)  # it warns about every model that is given as an object
    model = lm = None
    try:
        model = open_model().to(resolve_device("auto"))
        lm = _calling(HFLM, "lm-eval", model, backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        return _calling(evaluate, "lm-eval", lm, task_dict, limit=limit, bootstrap_iters=0)
    finally:
        noisy.setLevel(level)
        del model, lm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


# -- intervals


def _rows(loaded: TaskSet, results: dict[str, dict]) -> list[dict]:
    """One row per task or group and metric; a group stands before its members."""
    models = list(results)
    draws, counts = {}, {}  # (task, metric key) -> shape (models, resamples), items
    for name, task in loaded.tasks.items():
        values = [_item_values(results[who]["samples"][name]) for who in models]
        asked = [
            {sample["doc_id"]: sample["prompt_hash"] for sample in results[who]["samples"][name]} for who in models
        ]
        if any(prompts != asked[0] for prompts in asked):
            raise EvaluationError(f"task {name!r} asks the two models different questions: it cannot be compared")
        if not values[0]:
            raise EvaluationError(f"task {name!r} has no metric that lm-eval knows: see its metric_list")
        aggregations = task.aggregation()
        for key in values[0]:
            items = sorted(set.intersection(*(set(v[key]) for v in values)))
            columns = [[v[key][i] for i in items] for v in values]
            # one generator per task: all its metrics see the same items, other tasks see other draws
            rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
            draws[name, key] = bootstrap(columns, aggregations.get(key.split(",")[0]), rng)
            counts[name, key] = len(items)
    rows = []

    def add(name: str, level: int) -> None:
        group = loaded.groups.get(name)
        if group is not None:
            _add_group(group, results["child"]["results"], draws, counts)
        for key, child in results["child"]["results"][name].items():
            if (name, key) in draws and isinstance(child, int | float | np.number):
                values = {who: results[who]["results"][name][key] for who in models}
                higher = results["child"]["higher_is_better"].get(name, {}).get(key.split(",")[0])
                paired = dict(zip(models, draws[name, key], strict=True))
                rows.append(_row(name, level, key, counts[name, key], higher, values, paired))
        for member in group.child_names if group is not None else ():
            add(member, level + 1)

    for name in loaded.top:
        add(name, 0)
    return rows


def _item_values(samples: list[dict]) -> dict[str, dict[int, object]]:
    """`metric,filter` -> document -> value, from lm-eval's logged samples."""
    values: dict[str, dict[int, object]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            values.setdefault(f"{metric},{sample['filter']}", {})[sample["doc_id"]] = sample[metric]
    return values


def bootstrap(
    columns: list[list], aggregation: Callable | None, rng: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray:
    """A metric on items drawn with replacement, the same ones for every model.

    Args:
        columns: per model the value of each item, as the task's metric gives it.
        aggregation: from the items' values to the metric; default: mean, as in lm-eval.

    Returns:
        Shape `(models, resamples)`; fewer resamples where the aggregation is slow. NaN where it is not
        defined, and for one item.
    """
    fast = _fast_aggregations().get(aggregation)
    if fast is not None:
        arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    draws = np.full((len(columns), resamples if fast else min(resamples, SLOW_RESAMPLES)), np.nan)
    num_items = len(columns[0])
    for i in range(draws.shape[1] if num_items > 1 else 0):  # one item has no spread
        drawn = rng.integers(num_items, size=num_items)
        for j, column in enumerate(columns):
            draws[j, i] = fast(arrays[j][drawn]) if fast else _or_nan(aggregation, [column[k] for k in drawn])
    return draws


def _fast_aggregations() -> dict[Callable | None, Callable[[np.ndarray], float]]:
    """lm-eval's aggregations that numpy computes as well; keys are lm-eval's own functions."""
    from lm_eval.api import metrics

    def weighted(pairs: np.ndarray) -> float:
        return pairs[:, 0].sum() / pairs[:, 1].sum()

    return {
        None: np.mean,
        metrics.mean: np.mean,
        metrics.perplexity: lambda values: np.exp(-values.mean()),
        metrics.weighted_perplexity: lambda pairs: np.exp(-weighted(pairs)),
        metrics.bits_per_byte: lambda pairs: -weighted(pairs) / math.log(2),
    }


def _or_nan(aggregation: Callable, values: list) -> float:
    try:
        return float(aggregation(values))
    except (ValueError, ArithmeticError, TypeError):  # e.g. a draw in which only one class is left
        return math.nan


def _add_group(group, results: dict, draws: dict, counts: dict) -> None:
    """Add a group's metrics on the draws of its tasks, weighted as lm-eval does."""
    weights = {config.metric: config.weight_by_size for config in group.aggregate_metric_list or ()}
    names = [task.task_name for task in group.get_all_tasks()]
    for key in results[group.name]:
        members = [name for name in names if (name, key) in draws]
        if key.split(",")[0] in weights and members:
            by_size = weights[key.split(",")[0]]
            shares = np.array([results[name]["sample_len"] if by_size else 1.0 for name in members], dtype=float)
            resamples = min(draws[name, key].shape[1] for name in members)
            stacked = np.stack([draws[name, key][:, :resamples] for name in members])
            draws[group.name, key] = np.tensordot(shares / shares.sum(), stacked, axes=1)
            counts[group.name, key] = sum(counts[name, key] for name in members)


def _row(
    name: str, level: int, key: str, items: int, higher_is_better, values: dict, draws: dict[str, np.ndarray]
) -> dict:
    metric, _, filter_name = key.partition(",")
    row = {"task": name, "level": level, "metric": metric, "filter": filter_name, "items": int(items)}
    row |= {"higher_is_better": higher_is_better}
    for who, value in values.items():
        row |= {who: _number(value), f"{who}_interval": interval(draws[who])}
    if "parent" in values:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = draws["child"] / draws["parent"]
        ratio = values["child"] / values["parent"] if values["parent"] else None
        row |= {
            "ratio": _number(ratio),
            "ratio_interval": interval(ratios) if ratio is not None else None,
            "difference": _number(values["child"] - values["parent"]),
            "difference_interval": interval(draws["child"] - draws["parent"]),
        }
    return row


def interval(draws: np.ndarray) -> list[float] | None:
    """Percentile interval of bootstrap draws; None where the metric is not defined on all of them."""
    if not np.isfinite(draws).all():
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(edge) for edge in np.quantile(draws, [tail, 1 - tail])]


def _number(value) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


# -- the console


def table_rows(result: dict) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of the console's table; without a parent, of the child alone."""
    share = f"{CONFIDENCE:.0%}"
    alone = result["parent"] is None
    header = ["task", "metric", "items"]
    header += (
        [f"child [{share}]"] if alone else ["parent", "child", f"kept / ratio [{share}]", f"difference [{share}]"]
    )
    rows = []
    for row in result["tasks"]:
        arrow = {True: " ↑", False: " ↓"}.get(row["higher_is_better"], "")
        metric = row["metric"] + (f", {row['filter']}" if row["filter"] != "none" else "") + arrow
        cells = ["  " * row["level"] + row["task"], metric, str(row["items"])]
        if alone:
            cells.append(_with_interval(row["child"], row["child_interval"], ".5g"))
        else:
            cells += [_text(row["parent"], ".5g"), _text(row["child"], ".5g")]
            cells.append(_with_interval(row["ratio"], row["ratio_interval"], ".1%"))
            cells.append(_with_interval(row["difference"], row["difference_interval"], "+.3g"))
        rows.append(tuple(cells))
    return header, rows


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _with_interval(value: float | None, edges: list[float] | None, form: str) -> str:
    if edges is None:
        return _text(value, form)
    return f"{_text(value, form)} [{_text(edges[0], form)}, {_text(edges[1], form)}]"
