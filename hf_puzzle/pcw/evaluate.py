"""The paper's protocol (PCW, arXiv 2212.10947, section 3): accuracy by number of windows and mode, over draws."""

import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from .. import artifacts, hub
from ..evaluation import Decisions
from ..fanout import run_to_report
from ..progress import bar
from ..recipe import RecipeError, to_dict
from ..remote.generation_pcw import PCWError
from ..remote.windows_pcw import (
    Demonstration,
    Labels,
    Template,
    Tokens,
    context_size,
    drop_longest,
    lay_out_demonstrations,
    n_max,
    read_demonstrations,
    tokenize_labels,
)
from ..stages import Stage
from ..training import resolve_device
from . import documents
from .baselines import EMBEDDED, Encoder, sentence_encoder
from .debian import load_sections
from .episodes import SEPARATOR, TEMPLATE, make_dataset, make_tokenizer, train_in_context_model
from .methods import Case, Dealt, is_simpler, names_of
from .recipe import DatasetConfig, PCWRecipe


logger = logging.getLogger(__name__)

EPISODE_TRAIN_ITEMS = 4000
REDRAWN_AT_MOST = 0.2  # of the draws, as in the paper
MANY_LABELS = 20
QUALITIES = ("ece", "brier", "coverage", "set_size")
PARTS = "draws.parts"  # folder of one file per task


@dataclass(frozen=True)
class Examples:
    """A data set as the protocol needs it."""

    title: str
    template: Template
    train: list[Demonstration]
    test: list[Demonstration]
    labels: tuple[str, ...]


# -- data


def title_of(config: DatasetConfig) -> str:
    """Name of a data set in rows and report."""
    return config.title or (f"episode of seed {config.seed}" if config.name == "episode" else config.name)


def load_examples(config: DatasetConfig, test_items: int, seed: int) -> Examples:
    """Training and test examples of a data set; `test_items` of the latter, shuffled by `seed`.

    Raises RecipeError for a split or column that is not there, and what `read_demonstrations` raises.
    """
    title = title_of(config)
    if config.name == "episode":
        template = Template(TEMPLATE, SEPARATOR)
        return _examples(
            title, template, *make_dataset(config.num_classes, EPISODE_TRAIN_ITEMS, test_items, config.seed)
        )
    if config.name == "debian-sections":
        template = Template(config.template, config.separator)
        return _examples(title, template, *load_sections(config.num_classes, test_items, seed))
    from datasets import load_dataset

    template = Template(config.template, config.separator)
    splits = load_dataset(config.name, config.config_name, revision=config.revision)
    if config.train_split not in splits:
        raise RecipeError(f"{config.name} has no split {config.train_split!r}; it has {', '.join(splits)}")
    if config.test_split in splits:
        train, test = splits[config.train_split], splits[config.test_split]
    else:
        parts = splits[config.train_split].train_test_split(test_size=0.25, seed=42)
        train, test = parts["train"], parts["test"]
    for name in (*template.fields, config.label_column):
        if name not in train.column_names:
            raise RecipeError(f"{config.name} has no column {name!r}; it has {', '.join(train.column_names)}")
    test = test.shuffle(seed=seed).select(range(min(test_items, len(test))))
    labels = config.labels
    if labels is None and (names := getattr(train.features[config.label_column], "names", None)) is not None:
        labels = [name.replace("_", " ") for name in names]
    read = []
    for part in (train, test):
        columns = {name: part[name] for name in template.fields}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        pairs = list(zip(rows, part[config.label_column], strict=True))
        found, names = read_demonstrations(pairs, template, labels)
        labels = labels or list(names)
        read.append(found)
    return Examples(title, template, *read, tuple(labels))


def _examples(title: str, template: Template, train: list, test: list, labels: list[str]) -> Examples:
    read = (read_demonstrations(part, template, labels)[0] for part in (train, test))
    return Examples(title, template, *read, tuple(labels))


# -- the protocol


@dataclass(frozen=True)
class Sizes:
    """Token counts of a data set under a tokenizer, in the paper's terms."""

    context: int
    n_max: int
    task_tokens: int
    train: list[int]
    test: list[int]


def measure(examples: Examples, labels: Labels, tokens: Tokens, context: int) -> Sizes:
    """n_max, and the indices of training and test examples that stay once the longest 1 % are dropped.

    Raises PCWError where not even one demonstration fits beside the longest test text.
    """
    template, separator = examples.template, examples.template.separator
    sizes = []
    for part, text in (
        (examples.train, lambda e: template.demonstration(e.inputs, e.label) + separator),
        (examples.test, lambda e: separator + template.task(e.inputs)),
    ):
        lengths = [len(tokens.ids(text(example))) for example in part]
        kept = sorted(range(len(part)), key=lengths.__getitem__)[: len(drop_longest(lengths))]
        sizes.append({i: lengths[i] for i in kept})
    train, test = sizes
    task_tokens = max(test.values()) + max(map(len, labels.tokens))
    count = n_max(context - len(tokens.start()), list(test.values()), list(train.values()))
    if count < 1:
        raise PCWError(
            f"{examples.title}: not one demonstration fits beside the longest test text into {context} tokens"
        )
    return Sizes(context, count, task_tokens, sorted(train), sorted(test))


def draw(sizes: Sizes, num_windows: Sequence[int], seed: int) -> list[int]:
    """Indices of max(num_windows) * n_max training examples; those for fewer windows begin them, so that B compare."""
    wanted = max(num_windows) * sizes.n_max
    if wanted > len(sizes.train):
        raise PCWError(f"{wanted} demonstrations are wanted, there are {len(sizes.train)}: take fewer windows")
    order = torch.randperm(len(sizes.train), generator=torch.Generator().manual_seed(seed))[:wanted]
    return [sizes.train[i] for i in order.tolist()]


def evaluate_dataset(
    model,
    tokenizer,
    examples: Examples,
    recipe: PCWRecipe,
    done: set,
    say: Callable,
    draws: Iterable[int] | None = None,
    encoder: Encoder | None = None,
) -> Iterable[dict]:
    """One row per draw (default: all of the protocol's), number of windows and way to classify that is not in `done`.

    encoder: of the baselines on embeddings, and of similar shots; those are by n-grams without.
    """
    protocol = recipe.protocol
    tokens = Tokens(tokenizer, protocol.tokenization)
    labels = tokenize_labels(tokens, examples.labels, examples.template)
    sizes = measure(examples, labels, tokens, protocol.context_size or context_size(model.config))
    say(f"{examples.title}: {len(labels.names)} labels, n_max {sizes.n_max} in {sizes.context} tokens")
    redrawn = 0
    for number in bar(range(protocol.draws) if draws is None else draws, desc=f"{examples.title}: draws"):
        wanted = {
            b: names
            for b in protocol.num_windows
            if (names := [n for n in names_of(protocol, b) if (examples.title, number, b, n) not in done])
        }
        if not wanted:
            continue
        layouts, attempt = None, 0
        while layouts is None:
            seed = recipe.seed + number + 1_000_003 * attempt
            try:
                layouts = {b: lay_out(tokenizer, examples, sizes, protocol, b, seed) for b in protocol.num_windows}
            except PCWError:
                redrawn, attempt = redrawn + 1, attempt + 1
                if redrawn > max(1, REDRAWN_AT_MOST * protocol.draws):
                    raise
        texts = [examples.test[i] for i in _part_of(sizes.test, protocol.items_per_draw, number)]
        for b, names in wanted.items():
            inputs = [example.inputs for example in texts]
            case = Case(model, tokenizer, examples.template, labels, layouts[b], inputs, protocol, encoder)
            for mode, scores in bar(case.scores(names), desc=f"{b} windows: ways", total=len(names)):
                yield {
                    "dataset": examples.title, "labels": len(labels.names), "n_max": sizes.n_max, "draw": number,
                    "num_windows": b, "mode": mode, "redrawn": attempt, **_quality(scores, texts, labels, layouts[b], protocol),
                }  # fmt: skip


def _part_of(test: list[int], items: int | None, number: int) -> list[int]:
    """The test texts of a draw: all, or the next `items`, beginning anew when they are used up."""
    if items is None:
        return test
    return [test[(number * items + i) % len(test)] for i in range(min(items, len(test)))]


def lay_out(tokenizer, examples: Examples, sizes: Sizes, protocol, b: int, seed: int) -> Dealt:
    chosen = [examples.train[i] for i in draw(sizes, protocol.num_windows, seed)[: b * sizes.n_max]]
    layout = lay_out_demonstrations(
        tokenizer, chosen, examples.labels, examples.template, sizes.context,
        num_windows=b, task_tokens=sizes.task_tokens, seed=seed, tokenization=protocol.tokenization,
    )  # fmt: skip
    return Dealt(chosen, layout)


def _quality(scores: torch.Tensor, texts: list[Demonstration], labels: Labels, dealt: Dealt, protocol) -> dict:
    """Accuracy in [0, 1] over the texts, and over those whose label the windows show; how good the probabilities are."""
    right = [labels.names.index(example.label) for example in texts]
    hit = [i == j for i, j in zip(scores.argmax(-1).tolist(), right, strict=True)]
    shown = {each.label for each in dealt.shots}
    seen = [r for r, example in zip(hit, texts, strict=True) if example.label in shown]
    found = {
        "accuracy": sum(hit) / len(hit),
        "seen": len(seen) / len(hit),
        "accuracy_seen": sum(seen) / max(1, len(seen)),
        "test_items": len(hit),
        "window_tokens": max(map(len, dealt.layout.windows)),
    }
    if protocol.scores != "greedy":  # greedy decoding has no probabilities
        # every other text is the development split of the conformal sets
        parts = [Decisions(list(scores.softmax(-1)[i::2]), right[i::2]) for i in (0, 1)]
        whole = Decisions(list(scores.softmax(-1)), right).to_dict()
        found |= {name: whole[name] for name in ("ece", "brier", "coverage")}
        if parts[1].right:
            found["set_size"] = parts[1].to_dict(parts[0])["set_size"]
    return found


# -- what came out


def summarize(rows: Sequence[dict]) -> list[dict]:
    """Per data set, mode and B: mean and standard deviation over draws, and the mean's 95 % interval."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["mode"], row["num_windows"]), []).append(row)
    summary = []
    for (dataset, mode, b), members in groups.items():
        values = [row["accuracy"] for row in members]
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        summary.append(
            {
                "dataset": dataset, "labels": members[0]["labels"], "mode": mode, "num_windows": b, "n_max": members[0]["n_max"],
                "draws": len(values), "accuracy": statistics.mean(values),
                "deviation": None if math.isnan(deviation) else deviation,
                "half_interval": None if math.isnan(deviation) else 1.96 * deviation / math.sqrt(len(values)),
                "seen": statistics.mean(row["seen"] for row in members),
                "accuracy_seen": statistics.mean(row["accuracy_seen"] for row in members),
                **{name: statistics.mean(row[name] for row in members) for name in QUALITIES if name in members[0]},
            }
        )  # fmt: skip
    return summary


def compare(rows: Sequence[dict], dataset: str, mode: str = "pcw", few: int = 1, many: int = 3) -> dict | None:
    """Accuracy with `many` windows minus that with `few`, paired by draw; its mean and standard error."""
    by_draw: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["dataset"] == dataset and row["mode"] == mode:
            by_draw.setdefault(row["draw"], {})[row["num_windows"]] = row["accuracy"]
    gains = [each[many] - each[few] for each in by_draw.values() if few in each and many in each]
    if len(gains) < 2:
        return None
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return {"gain": statistics.mean(gains), "standard_error": error, "draws": len(gains), "few": few, "many": many}


def verdict(summary: Sequence[dict], dataset: str, gain: dict) -> str:
    """One sentence on `compare`: the gain, or why there is none."""
    few, many = (
        next(r for r in summary if (r["dataset"], r["mode"], r["num_windows"]) == (dataset, "pcw", gain[name]))
        for name in ("few", "many")
    )
    what = f"B={gain['many']} against B={gain['few']}: {gain['gain']:+.1%} +- {gain['standard_error']:.1%} (standard error)"
    if gain["gain"] > gain["standard_error"]:
        seen = f"labels shown for {few['seen']:.0%} > {many['seen']:.0%} of the texts"
        return f"{what}; {seen}, accuracy where shown {few['accuracy_seen']:.0%} > {many['accuracy_seen']:.0%}"
    if few["labels"] <= MANY_LABELS:
        return f"{what}: few labels, which one window shows already ({few['seen']:.0%}); the paper finds no gain there either"
    if few["accuracy"] > 0.98:
        return f"{what}: one window is enough ({few['accuracy']:.1%})"
    if many["accuracy_seen"] < few["accuracy_seen"]:
        return (
            f"{what}: more labels are shown ({few['seen']:.0%} > {many['seen']:.0%}), but where they are shown accuracy falls "
            f"({few['accuracy_seen']:.0%} > {many['accuracy_seen']:.0%}): the attention is spread over more windows than it "
            "was trained on"
        )
    return f"{what}: within the noise of {gain['draws']} draws"


def losses(rows: Sequence[dict], dataset: str) -> list[str]:
    """Sentences on where something simpler is better on the same shots than the best of windows, beyond the standard error."""
    own = [row for row in rows if row["dataset"] == dataset]
    said = []
    for b in sorted({row["num_windows"] for row in own}):
        by_mode: dict[str, dict[int, float]] = {}
        for row in own:
            if row["num_windows"] == b:
                by_mode.setdefault(row["mode"], {})[row["draw"]] = row["accuracy"]
        modes, plain = ([m for m in by_mode if is_simpler(m) == kind] for kind in (False, True))
        if not modes or not plain:
            continue
        best, rival = (max(each, key=lambda m: statistics.mean(by_mode[m].values())) for each in (modes, plain))
        gaps = [by_mode[rival][draw] - value for draw, value in by_mode[best].items() if draw in by_mode[rival]]
        error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
        if statistics.mean(gaps) > error:
            said.append(
                f"B={b}: `{rival}` on the same shots beats `{best}` by {statistics.mean(gaps):.1%} +- {error:.1%}"
            )
    return said


def report(rows: Sequence[dict], model: str) -> str:
    """`report.md`: a table per data set, B across, one line per mode."""
    summary = summarize(rows)
    lines = [
        "# Parallel context windows",
        "",
        f"Model: {model}. Accuracy in %, mean over draws +- 95 % interval of the mean",
    ]
    lines[-1] += (
        " (normal), standard deviation over draws in brackets. The demonstrations of B windows begin those of B + 1."
    )
    for dataset in dict.fromkeys(row["dataset"] for row in summary):
        own = [row for row in summary if row["dataset"] == dataset]
        counts = sorted({row["num_windows"] for row in own})
        lines += ["", f"## {dataset}: {own[0]['labels']} labels, {own[0]['n_max']} demonstrations per window", ""]
        lines += ["| mode | " + " | ".join(f"B={b}" for b in counts) + " |", "|---" * (len(counts) + 1) + "|"]
        for mode in dict.fromkeys(row["mode"] for row in own):
            cells = {row["num_windows"]: _cell(row) for row in own if row["mode"] == mode}
            lines.append(f"| {mode} | " + " | ".join(cells.get(b, "-") for b in counts) + " |")
        if (gain := compare(rows, dataset)) is not None:
            lines += ["", verdict(summary, dataset, gain) + "."]
        if any(is_simpler(row["mode"]) for row in own):
            lost = losses(rows, dataset)
            lines += [
                "",
                f"Windows lose: {'; '.join(lost)}." if lost else "Windows lose to no baseline on the same shots.",
            ]
        if own and "ece" in own[0]:
            lines += [
                "",
                f"| mode, B={counts[-1]} | ECE | Brier | coverage at 5 % error | conformal set at 95 % |",
                "|---" * 5 + "|",
            ]
            for row in own:
                if row["num_windows"] == counts[-1]:
                    cells = [f"{row[name]:.3f}" if name in row else "-" for name in QUALITIES]
                    lines.append(f"| {row['mode']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict) -> str:
    if row["deviation"] is None:
        return f"{100 * row['accuracy']:.1f}"
    return f"{100 * row['accuracy']:.1f} +- {100 * row['half_interval']:.1f} ({100 * row['deviation']:.1f})"


# -- a run


def run_recipe(
    recipe: PCWRecipe,
    out: Path,
    base: Path,
    only: str | None = None,
    start: str | None = None,
    say=logger.info,
    on: str | None = None,
) -> str:
    """Run `model` (where the recipe trains one), `evaluate` and `report` in `out`; the text of `report.md`.

    A killed evaluation continues at the draw it was in; `on` as of `fanout.executor_for`. Raises RecipeError for a recipe with both or neither of
    `train` and `model.name`, and what the stages raise.
    """
    _check(recipe)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    out, base = Path(out), Path(base)
    return run_to_report(recipe, stages_of(recipe, out, base, say), out, base, only, start, say, on)


def _check(recipe: PCWRecipe) -> None:
    if (recipe.train is None) == (recipe.model.name is None):
        raise RecipeError("give either train (a small model made here) or model.name")
    titles = [title_of(dataset) for dataset in recipe.datasets]
    if len(set(titles)) < len(titles):
        raise RecipeError(f"datasets: two have the title {max(titles, key=titles.count)!r}; give each its own `title`")
    if set(EMBEDDED) & set(recipe.protocol.baselines) and recipe.protocol.embeddings is None:
        raise RecipeError("protocol.embeddings: name the sentence encoder of nearest_embeddings and linear_embeddings")
    if "pcw" not in recipe.protocol.modes or min(recipe.protocol.num_windows, default=0) < 1:
        raise RecipeError("protocol: modes must hold pcw, and num_windows numbers from 1 on")


def stages_of(recipe: PCWRecipe, out: Path, base: Path, say: Callable = logger.info) -> list[Stage]:
    """The stages of a run; also for a worker of it."""
    settings = to_dict(recipe)
    shared = {"seed": recipe.seed, "device": recipe.device}
    if recipe.model.name is not None and (folder := Path(hub.located(recipe.model.name, base))).is_dir():
        file = recipe.model.gguf_file
        shared["content"] = (
            artifacts.folder_fingerprint(folder) if file is None else artifacts.file_sha256(folder / file)
        )
    stages = [
        Stage("evaluate", lambda **task: _evaluate(recipe, out, base, say, **task),
              {k: settings[k] for k in ("datasets", "protocol", "model")} | shared,
              ("model",) if recipe.train else (), ("draws.jsonl",), (PARTS,),
              tasks=lambda workers: _tasks(recipe, out, workers), merge=lambda: _merge(recipe, out)),
        Stage("report", lambda: _write_report(recipe, out), {},
              ("evaluate", *(("documents",) if recipe.documents else ())), ("pcw.json", "report.md")),
    ]  # fmt: skip
    if recipe.documents is not None:
        about = {k: settings[k] for k in ("documents", "model")} | {"datasets": settings["datasets"][:1]} | shared
        read = Stage(
            "documents",
            lambda: _ask(recipe, out, base),
            about,
            ("model",) if recipe.train else (),
            ("documents.jsonl",),
        )
        stages.insert(1, read)
    if recipe.train is not None:
        train = Stage("model", lambda: _train(recipe, out), {"train": settings["train"]} | shared, (), ("model",))
        stages.insert(0, train)
    return stages


def _train(recipe: PCWRecipe, out: Path) -> None:
    began = time.process_time()
    model, reached = train_in_context_model(recipe.train, recipe.seed, resolve_device(recipe.device))
    model.save_pretrained(out / "model")
    make_tokenizer().save_pretrained(out / "model")
    seconds = round(time.process_time() - began, 1)
    row = {**reached, "parameters": model.num_parameters(), "cpu_seconds": seconds}
    artifacts.write_json(out / "model" / "training.json", row | {"environment": artifacts.environment()})


def _tasks(recipe: PCWRecipe, out: Path, workers: int) -> list[dict]:
    """Draws of a data set that are left, in as many tasks as there are workers."""
    protocol = recipe.protocol
    per_draw = sum(len(names_of(protocol, b)) for b in protocol.num_windows)
    stored = Counter((row["dataset"], row["draw"]) for row in _rows(out))
    step = math.ceil(protocol.draws / max(1, math.ceil(workers / len(recipe.datasets))))
    tasks = []
    for number, dataset in enumerate(recipe.datasets):
        for first in range(0, protocol.draws, step):
            draws = range(first, min(first + step, protocol.draws))
            if any(stored[title_of(dataset), each] < per_draw for each in draws):
                tasks.append({"dataset": number, "first_draw": draws.start, "last_draw": draws.stop - 1})
    return tasks


def _rows(out: Path) -> list[dict]:
    """Rows of all tasks, each draw once, also where two tasks did it."""
    rows = [row for path in sorted((out / PARTS).glob("*.jsonl")) for row in artifacts.read_jsonl(path)]
    return list({(row["dataset"], row["draw"], row["num_windows"], row["mode"]): row for row in rows}.values())


def _merge(recipe: PCWRecipe, out: Path) -> None:
    """`draws.jsonl`: the rows of all tasks, in the order of data sets, draws, windows and modes."""
    protocol, titles = recipe.protocol, [title_of(dataset) for dataset in recipe.datasets]

    def place(row: dict) -> tuple:
        windows = protocol.num_windows.index(row["num_windows"])
        mode = names_of(protocol, max(protocol.num_windows)).index(row["mode"])
        return titles.index(row["dataset"]), row["draw"], windows, mode

    lines = [artifacts.json_line(row) for row in sorted(_rows(out), key=place)]
    artifacts.write_text(out / "draws.jsonl", "".join(lines))


def _evaluate(
    recipe: PCWRecipe, out: Path, base: Path, say: Callable, dataset: int, first_draw: int, last_draw: int
) -> None:
    model, tokenizer = open_model(recipe, out, base)
    encoder = None
    if recipe.protocol.embeddings is not None:
        encoder = sentence_encoder(hub.located(recipe.protocol.embeddings, base))
    done = {(r["dataset"], r["draw"], r["num_windows"], r["mode"]) for r in _rows(out)}
    examples = load_examples(recipe.datasets[dataset], recipe.protocol.test_items, recipe.seed)
    path = out / PARTS / f"dataset_{dataset}_draws_{first_draw}_{last_draw}.jsonl"
    draws = range(first_draw, last_draw + 1)
    for row in evaluate_dataset(model, tokenizer, examples, recipe, done, say, draws, encoder):
        artifacts.append_jsonl(path, row)


def _ask(recipe: PCWRecipe, out: Path, base: Path) -> None:
    model, tokenizer = open_model(recipe, out, base)
    examples = load_examples(recipe.datasets[0], recipe.protocol.test_items, recipe.seed)
    texts = [" ".join(each.inputs) for each in examples.train]
    rows = documents.ask(model, tokenizer, texts, recipe.documents, recipe.seed)
    artifacts.write_text(out / "documents.jsonl", "".join(map(artifacts.json_line, rows)))


def open_model(recipe: PCWRecipe, out: Path, base: Path) -> tuple[torch.nn.Module, object]:
    """The model that reads the windows, on its device, and its tokenizer."""
    config, name, options = recipe.model, str(out / "model"), {}
    if config.name is not None:
        name = hub.located(config.name, base)
        options = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    weights: dict = {"use_safetensors": True, "dtype": config.dtype}
    if config.gguf_file is not None:
        options["gguf_file"] = config.gguf_file
        dtype = "float32" if config.dtype == "auto" else config.dtype
        weights = {"dtype": dtype, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(name, **options, **weights)
    model = model.to(resolve_device(recipe.device)).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(name, **options)


def _write_report(recipe: PCWRecipe, out: Path) -> None:
    rows = artifacts.read_jsonl(out / "draws.jsonl")
    datasets = dict.fromkeys(row["dataset"] for row in rows)
    results = {
        "summary": summarize(rows),
        "gains": {dataset: compare(rows, dataset) for dataset in datasets},
        "recipe": to_dict(recipe),
        "environment": artifacts.environment(),
    }
    if recipe.train is not None:
        results["training"] = artifacts.read_json(out / "model" / "training.json")
    text = report(rows, recipe.model.name or "a small Llama trained here")
    if recipe.documents is not None:
        results["documents"] = documents.summarize(artifacts.read_jsonl(out / "documents.jsonl"))
        text += "\n".join([*documents.table(results["documents"], recipe.documents), ""])
    artifacts.write_json(out / "pcw.json", results)
    artifacts.write_text(out / "report.md", text)
