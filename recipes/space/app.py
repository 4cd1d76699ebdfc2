"""Three tabs to click through: a child beside its parent, PCW classification, and MRKL with its trace.

`make space` starts it on the small models of this repository; README.md says how it becomes a Space. Models are opened
in installed code: files of a model folder are data, unless whoever starts the page allows more (`--run-code`).
"""

import argparse
import csv
import functools
import html
import io
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import torch
import yaml
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hf_puzzle import hub
from hf_puzzle.blocks import NONE, Block, Variant, kv_heads, num_experts
from hf_puzzle.costs import (
    Workload,
    cache_bytes,
    cpu_threads,
    measure_interleaved,
    median_timing,
    peak_memory_bytes,
    speed_ratio,
    weight_bytes,
)
from hf_puzzle.evaluation import kl_divergence
from hf_puzzle.formats import FormatError, describe
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.generation_pcw import MODES, PCWError
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline
from hf_puzzle.remote.windows_pcw import context_size
from hf_puzzle.training import resolve_device


logger = logging.getLogger("space")

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MAX_NEW_TOKENS, MAX_BATCH, MIN_ROUNDS, MAX_ROUNDS = 128, 64, 3, 20
MAX_PROMPT, MAX_PASTED, MAX_DEMONSTRATIONS = (
    4_000,
    400_000,
    2_000,
)  # characters, characters (and bytes of a CSV), lines
MAX_FILES, MAX_BYTES = 64, 8 * 2**30  # of a model that is uploaded or fetched
GENERATION_SECONDS, MEASURING_SECONDS = 30.0, 60.0
MODEL_FILES = (
    "*.json",
    "*.safetensors",
    "*.model",
    "*.txt",
    "*.jinja",
)  # never pickles, code only where it is allowed
FIXTURES = ("rates.json", "units.json", "weather.json", "wiki.jsonl", "shop.sqlite")
OWN_EXPERTS = "the model's own, else calculator, units and dates"


class DemoError(ValueError):
    """Something on the page cannot be done; the message is shown there."""


@dataclass(frozen=True)
class Settings:
    """What whoever starts the page decides.

    Attributes:
        parent, child: folders or Hub ids that the page starts with; empty: none.
        fixtures: folders of expert fixtures that may be chosen, by the name shown.
        any_folder: visitors may name folders of this machine other than `parent` and `child`.
        run_code: visitors may have code of a model's repository run.
    """

    parent: str = ""
    child: str = ""
    fixtures: tuple[tuple[str, Path], ...] = ()
    any_folder: bool = False
    run_code: bool = False


# -- models


@dataclass(frozen=True)
class Opened:
    """A model with its tokenizer (None: it has none) and the folder that it was read from, kept while it is in use."""

    name: str
    folder: Path
    model: PreTrainedModel
    tokenizer: object
    run_code: bool
    kept: object = None


class Models:
    """The last few models that were asked for."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._open = functools.lru_cache(maxsize=3)(_open)

    def get(self, what: str, name: str, files: Sequence[str] | None = None, run_code: bool = False) -> Opened:
        """The model of uploaded `files`, else of `name`; `what` is it in errors.

        Raises:
            DemoError: no name, no such folder, or one that may not be named here. ValueError: not a model.
        """
        if run_code and not self.settings.run_code:
            raise DemoError("this page was not started with --run-code: code of repositories is not run here")
        if files:
            return self._open("uploaded files", tuple(map(str, files)), False, 0)
        name = (name or "").strip()
        if not name:
            raise DemoError(f"{what}: name a folder or a Hub id, or upload the files of a model folder")
        is_own = name in (self.settings.parent, self.settings.child)
        if Path(name).is_dir() and (is_own or self.settings.any_folder):
            return self._open(name, (), run_code, _changed(Path(name)))
        if Path(name).is_dir() or name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
            raise DemoError(f"{what}: {name!r:.200} is no folder that can be opened here; name a Hub id (user/model)")
        return self._open(name, (), run_code, 0)


def _changed(folder: Path) -> int:
    config = folder / "config.json"
    return config.stat().st_mtime_ns if config.is_file() else 0


def _open(name: str, files: tuple[str, ...], run_code: bool, changed: int) -> Opened:
    # `changed` is part of the cache's key: a folder may be written again while the page runs
    kept = None
    if files:
        kept = tempfile.TemporaryDirectory(prefix="space_")
        folder = take_files(files, Path(kept.name))
    else:
        folder = Path(name) if Path(name).is_dir() else fetch(name, run_code)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise DemoError(f"{name}: no model: config.json and *.safetensors are needed")
    device = resolve_device("auto")
    dtype = dtype_of(device)
    if run_code:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=True).eval()
        config = None
    else:
        model = hub.open_model_folder(folder, dtype)
        config = model.config  # else AutoTokenizer would look for the code of ours beside it
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=run_code)
    except (OSError, ValueError, KeyError, AttributeError) as error:  # what AutoTokenizer raises without files
        logger.info("no tokenizer in %s: %s", name, error)
        tokenizer = None
    return Opened(name, folder, model.to(device), tokenizer, run_code, kept)


def dtype_of(device: torch.device) -> str:
    """Half precision is slower than float32 on most CPUs."""
    return "float32" if device.type == "cpu" else "auto"


def take_files(files: Sequence[str], folder: Path, names: Sequence[str] | None = None) -> Path:
    """Copy uploaded files that are data of a model (or are called one of `names`) to `folder`, flat.

    Raises:
        DemoError: too many or too large, two of one name, a link, or none that is wanted.
    """
    if len(files) > MAX_FILES or sum(os.path.getsize(file) for file in files) > MAX_BYTES:
        raise DemoError(f"{len(files)} files: at most {MAX_FILES} and {MAX_BYTES // 2**30} GiB can be uploaded")
    for file in map(Path, files):
        wanted = file.name in names if names else any(file.match(pattern) for pattern in MODEL_FILES)
        if not wanted or not re.fullmatch(r"\w[\w.-]*", file.name, re.ASCII):
            continue
        if file.is_symlink() or not file.is_file():
            raise DemoError(f"{file.name}: not a file")
        if (folder / file.name).exists():
            raise DemoError(f"two files are called {file.name}: upload one folder without those below it")
        shutil.copyfile(file, folder / file.name)
    if not any(folder.iterdir()):
        raise DemoError(f"none of the {len(files)} files is one of {', '.join(names or MODEL_FILES)}")
    return folder


def fetch(repo_id: str, run_code: bool) -> Path:
    """The snapshot of a Hub repository's model files, without the token of whoever started the page.

    Raises:
        DemoError: it cannot be fetched, or is too large. ValueError: not a Hub id.
    """
    patterns = [*MODEL_FILES, *(["*.py"] if run_code else [])]
    try:
        files = snapshot_download(repo_id, allow_patterns=patterns, token=False, dry_run=True)
    except OSError as error:
        logger.info("%s: %s", repo_id, error)
        raise DemoError(
            f"{repo_id} cannot be fetched: it does not exist, is not public, or the Hub cannot be reached"
        ) from error
    size = sum(file.file_size or 0 for file in files)
    if size > MAX_BYTES:
        raise DemoError(f"{repo_id} has {size / 2**30:.1f} GiB: at most {MAX_BYTES // 2**30} GiB are fetched here")
    return Path(snapshot_download(repo_id, allow_patterns=patterns, token=False))


# -- Puzzle


@dataclass(frozen=True)
class Comparison:
    """A child beside its parent; of what is a pair, the parent's is the first.

    Attributes:
        texts: continuations of the prompt, greedy.
        same: tokens at their beginning that are equal; `tokens`: of the parent's continuation.
        agreement: share of the parent's tokens that are the child's choice too, behind the parent's own text.
        kl: KL(parent || child) there, nats.
        on_cpu: times are processor time of one thread, else wall time.
        first_ms, tokens_per_s: medians; tokens after the first, of the whole batch.
        speed: how many times faster the child is, with its lower bound.
        kv_bytes: of the batch at its end. peak_bytes: None where it was not measured.
    """

    texts: tuple[str, str]
    same: int
    tokens: int
    agreement: float
    kl: float
    workload: Workload
    rounds: int
    on_cpu: bool
    first_ms: tuple[float, float]
    tokens_per_s: tuple[float, float]
    speed: dict
    parameters: tuple[int, int]
    weight_bytes: tuple[int, int]
    kv_bytes: tuple[int, int]
    peak_bytes: tuple[int | None, int | None]
    blocks: tuple[list[Block], list[Block]]


def compare(
    parent: Opened, child: Opened, prompt: str, new_tokens: int, batch_size: int, rounds: int, measure_peak: bool
) -> Comparison:
    """Both models on one prompt: greedy text once, then `rounds` timings in turn of a batch of that shape.

    Raises:
        DemoError: not one vocabulary, no tokenizer, an empty or too long prompt, or numbers out of range.
    """
    new_tokens = in_range("new tokens", new_tokens, 2, MAX_NEW_TOKENS)
    batch_size = in_range("sequences at once", batch_size, 1, MAX_BATCH)
    rounds = in_range("rounds", rounds, MIN_ROUNDS, MAX_ROUNDS)
    tokenizer = parent.tokenizer or child.tokenizer
    if tokenizer is None:
        raise DemoError("neither model has a tokenizer")
    if child.tokenizer and parent.tokenizer and child.tokenizer.get_vocab() != parent.tokenizer.get_vocab():
        raise DemoError(f"{child.name} and {parent.name} have different vocabularies: not a child and its parent")
    sizes = [each.model.get_input_embeddings().weight.shape[0] for each in (parent, child)]
    if sizes[0] != sizes[1]:
        raise DemoError(f"{parent.name} has {sizes[0]} tokens, {child.name} {sizes[1]}: not a child and its parent")
    if not (prompt or "").strip() or len(prompt) > MAX_PROMPT:
        raise DemoError(f"the prompt has {len(prompt or '')} characters: expected 1 to {MAX_PROMPT:,}")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(parent.model.device)
    room = min((size for each in (parent, child) if (size := _positions(each.model))), default=None)
    if room is not None and ids.shape[1] + new_tokens > room:
        raise DemoError(
            f"the prompt has {ids.shape[1]} tokens and {new_tokens} are to follow: the models have {room} positions"
        )
    models = {"parent": parent.model, "child": child.model}
    on_cpu = parent.model.device.type == "cpu"
    threads = 1 if on_cpu else None
    with cpu_threads(threads):
        began = time.perf_counter()
        written = [continuation(model, ids, new_tokens) for model in models.values()]
        seconds = time.perf_counter() - began
    text = torch.cat((ids, written[0][None]), 1)
    logits, caches = zip(*(read(model, text) for model in models.values()), strict=True)
    logits = [each[:, ids.shape[1] - 1 : -1] for each in logits]  # those that chose the parent's new tokens
    shape = Workload(batch_size, ids.shape[1], max(2, *map(len, written)))
    # a batch is slower than the one sequence just written, by less than its size
    rounds = max(MIN_ROUNDS, min(rounds, int(MEASURING_SECONDS / (seconds * batch_size**0.5)) - 1))
    with cpu_threads(threads):  # processor time of one thread: what else runs on a shared machine does not count
        timings = measure_interleaved(models, shape, rounds, "cpu" if on_cpu else "wall")
    medians = [median_timing(timings[name]) for name in models]
    after_first = batch_size * (shape.decode_tokens - 1)
    return Comparison(
        texts=tuple(tokenizer.decode(each, skip_special_tokens=True) for each in written),
        same=common_prefix(*(each.tolist() for each in written)),
        tokens=len(written[0]),
        agreement=(logits[1].argmax(-1)[0] == written[0]).float().mean().item(),
        kl=kl_divergence(*logits).mean().item(),
        workload=shape,
        rounds=rounds,
        on_cpu=on_cpu,
        first_ms=tuple(median.prefill_ms for median in medians),
        tokens_per_s=tuple(after_first / median.decode_ms * 1e3 for median in medians),
        speed=speed_ratio(timings["parent"], timings["child"]).to_dict(),
        parameters=tuple(model.num_parameters() for model in models.values()),
        weight_bytes=tuple(weight_bytes(model) for model in models.values()),
        kv_bytes=tuple(batch_size * each for each in caches),
        peak_bytes=tuple(_peak(each, shape) if measure_peak else None for each in (parent, child)),
        blocks=(layers(parent.model), layers(child.model)),
    )


def in_range(what: str, value: object, least: int, most: int) -> int:
    """`value` as an integer; DemoError if it is none from `least` to `most`."""
    if not isinstance(value, int | float) or value != value or not least <= value <= most:
        raise DemoError(f"{what}: {value!r:.40} is not a number from {least} to {most}")
    return int(value)


def _positions(model: PreTrainedModel) -> int | None:
    try:
        return context_size(model.config)
    except PCWError:  # ALiBi: no limit
        return None


def continuation(model: PreTrainedModel, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy tokens behind `ids` (1, length), shape (new,); fewer where the text ends or time is up."""
    own = model.generation_config
    # not the model's own settings: sampling or penalties would not be comparable
    config = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, max_time=GENERATION_SECONDS,
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id,
    )  # fmt: skip
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return found[0, ids.shape[1] :]


def read(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Logits (1, length, vocabulary) of a text, and the bytes of its keys and values."""
    with torch.inference_mode():
        output = model(input_ids=ids, use_cache=True)
    return output.logits, cache_bytes(output.past_key_values)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _peak(opened: Opened, shape: Workload) -> int | None:
    device = opened.model.device
    return peak_memory_bytes(opened.folder, shape, dtype_of(device), str(device), opened.run_code)


def layers(model: PreTrainedModel) -> list[Block]:
    """The blocks of a model; empty for a family that hf_puzzle does not know."""
    try:
        return describe(model.config)
    except (FormatError, AttributeError):
        return []


# -- PCW


def read_demonstrations(pasted: str, file: str | None) -> list[tuple[str, str]]:
    """Pairs (text, label) of lines `text => label`, or of a CSV file with the columns `text` and `label`.

    Raises:
        DemoError: a line that is none, a file that is none, or too much of either.
    """
    if file:
        found = _read_csv(Path(file))
    else:
        if len(pasted or "") > MAX_PASTED:
            raise DemoError(f"{len(pasted):,} characters of demonstrations: at most {MAX_PASTED:,}")
        found = []
        for number, line in enumerate((pasted or "").splitlines(), 1):
            text, arrow, label = (part.strip() for part in line.rpartition("=>"))
            if line.strip() and not (arrow and text and label):
                raise DemoError(f"line {number} is {line.strip()!r:.80}: expected text => label")
            if line.strip():
                found.append((text, label))
    if len(found) > MAX_DEMONSTRATIONS:
        raise DemoError(f"{len(found):,} demonstrations: at most {MAX_DEMONSTRATIONS:,}")
    return found


def _read_csv(path: Path) -> list[tuple[str, str]]:
    if path.stat().st_size > MAX_PASTED:
        raise DemoError(f"{path.name} has {path.stat().st_size:,} bytes: at most {MAX_PASTED:,}")
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DemoError(f"{path.name} is not CSV in UTF-8 ({error})") from None
    for number, row in enumerate(rows, 2):
        if not (row.get("text") and row.get("label")):
            raise DemoError(f"{path.name}, row {number}: expected the columns text and label, both filled")
    return [(row["text"], row["label"]) for row in rows]


@dataclass(frozen=True)
class Classified:
    """Probabilities of the labels, the highest first; `layout` as text; seconds to encode the windows and to score."""

    scores: list[tuple[str, float]]
    layout: str
    encode_s: float
    score_s: float


def classify(
    opened: Opened,
    demonstrations: list[tuple[str, str]],
    query: str,
    num_windows: int,
    mode: str,
    template: str,
    calibrate: bool,
) -> Classified:
    """`query` by PCW. `num_windows` 0: as few as hold all demonstrations.

    Without demonstrations, those that were saved with the model, and their template.

    Raises:
        DemoError, PCWError: what cannot be done, before any compute.
    """
    if not (query or "").strip() or len(query) > MAX_PROMPT:
        raise DemoError(f"the text to classify has {len(query or '')} characters: expected 1 to {MAX_PROMPT:,}")
    if opened.tokenizer is None:
        raise DemoError(f"{opened.name} has no tokenizer")
    settings = {"num_windows": in_range("windows", num_windows, 0, 64) or None, "mode": mode, "calibrate": calibrate}
    if demonstrations:
        settings |= {"demonstrations": demonstrations, "template": template or "", "separator": "\n"}
    model = opened.model
    pipeline = PCWClassificationPipeline(model=model, tokenizer=opened.tokenizer, device=model.device, **settings)
    pipeline.preprocess([query], **pipeline._preprocess_params)
    began = time.perf_counter()
    windows = pipeline.windows()
    encoded = time.perf_counter()
    scores = pipeline(query, top_k=None)
    done = time.perf_counter()
    pairs = [(each["label"], each["score"]) for each in scores]
    return Classified(pairs, windows.layout.report(), encoded - began, done - encoded)


# -- MRKL


def ask(
    opened: Opened, question: str, today: str, choice: str, files: Sequence[str] | None, settings: Settings
) -> tuple[dict, float]:
    """(reply of the pipeline `mrkl`, seconds) with the experts of `choice`, or of uploaded fixtures.

    Raises:
        DemoError, MRKLError: no question, no such choice, fixtures or a date that are not valid.
    """
    if not (question or "").strip() or len(question) > MAX_PROMPT:
        raise DemoError(f"the question has {len(question or '')} characters: expected 1 to {MAX_PROMPT:,}")
    if opened.tokenizer is None:
        raise DemoError(f"{opened.name} has no tokenizer")
    offered = dict(settings.fixtures)
    if choice not in (OWN_EXPERTS, *offered):
        raise DemoError(f"experts {choice!r:.80}: expected one of {', '.join((OWN_EXPERTS, *offered))}")
    today = (today or "").strip() or None
    with tempfile.TemporaryDirectory(prefix="space_") as scratch:
        folder = take_files(files, Path(scratch), FIXTURES) if files else offered.get(choice)
        if folder is not None and today is None:
            raise DemoError("say which day is today, as 2022-05-02")
        pipeline = MrklPipeline(
            model=opened.model,
            tokenizer=opened.tokenizer,
            device=opened.model.device,
            experts=None if folder is None else Experts.from_fixtures(folder, today),
            compositions=() if files or folder is None else compositions_of(folder),
            today=today,
        )
        began = time.perf_counter()
        reply = pipeline(question, max_new_tokens=64, do_sample=False, max_time=GENERATION_SECONDS)
        return reply, time.perf_counter() - began


def compositions_of(folder: Path) -> list[dict]:
    """Those of the recipe beside a folder of fixtures: `jurassic_x.yaml` for `jurassic_x/`."""
    recipe = folder.with_suffix(".yaml")
    return yaml.safe_load(recipe.read_text(encoding="utf-8")).get("compositions", []) if recipe.is_file() else []


def route(reply: dict) -> str:
    """The experts of a reply, in the order in which they were first called."""
    return " → ".join(dict.fromkeys(step["expert"] for step in reply["trace"])) or "none: the language model answered"


# -- HTML. Gradio fills its HTML component through templates, so that braces and dollars are escaped as well


_TEMPLATE = str.maketrans({char: f"&#{ord(char)};" for char in "{}$`"})


def safe(text: object) -> str:
    """`text` as it stands, inside an element or a quoted attribute."""
    return html.escape(str(text)).translate(_TEMPLATE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table; `head` and `rows` are HTML."""
    line = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="plain {kind}"><thead><tr>{line}</tr></thead><tbody>{body}</tbody></table>'


def bar(share: float, text: str, kind: str = "") -> str:
    """A bar of `share` of the cell's width with `text` beside it."""
    width = max(0.0, min(1.0, share)) * 100
    return f'<div class="bar"><i class="{kind}" style="width:{width:.1f}%"></i></div><span>{safe(text)}</span>'


def comparison_html(found: Comparison) -> str:
    """The numbers of both models."""
    shape = found.workload

    def megabytes(name: str, pair: Sequence[int | None]) -> tuple[str, ...]:
        if None in pair:
            return name, "-", "-", "not measured"
        return name, *(f"{value / 1e6:,.2f} MB" for value in pair), f"{pair[1] / pair[0]:.1%}" if pair[0] else "-"

    rows = [
        ("tokens/s after the first", *(f"{value:,.0f}" for value in found.tokens_per_s),
         f"{found.tokens_per_s[1] / found.tokens_per_s[0]:.2f}x"),
        ("first token", *(f"{value:,.1f} ms" for value in found.first_ms),
         f"{found.first_ms[0] / found.first_ms[1]:.2f}x"),
        ("time of the whole batch", "", "", f"{found.speed['value']:.2f}x (&ge; {found.speed['lower_bound']:.2f}x)"),
        ("parameters", *(f"{value / 1e6:,.2f} M" for value in found.parameters),
         f"{found.parameters[1] / found.parameters[0]:.1%}"),
        megabytes("weights", found.weight_bytes),
        megabytes("KV cache", found.kv_bytes),
        megabytes("peak memory", found.peak_bytes),
    ]  # fmt: skip
    clock = " of the processor time of one thread" if found.on_cpu else ""
    note = (
        f"{shape.batch_size} sequences at once, {shape.prefill_tokens} tokens in and {shape.decode_tokens} out, "
        f"{found.rounds} rounds in turn, medians{clock}; lower bound at 95 %. The first {found.same} of {found.tokens} "
        f"greedy tokens are the same. Behind the parent's text the child chooses {found.agreement:.1%} of its tokens, "
        f"KL {found.kl:.3f} nats."
    )
    return (
        table(("", "parent", "child", "child against parent"), rows, "numbers") + f'<p class="note">{safe(note)}</p>'
    )


def layers_html(parent: list[Block], child: list[Block]) -> str:
    """A row per layer of the child: KV heads and FFN width as shares of the parent's."""
    if not parent or not child:
        return '<p class="note">The layers of this family cannot be shown.</p>'
    full = parent[0]
    rows = []
    for i, block in enumerate(child):
        cells = []
        for variant, own, size in ((block.attention, full.attention, kv_heads), (block.ffn, full.ffn, _ffn_size)):
            count, of = size(variant), size(own)
            share = count / of if count and of else 0.0
            cells.append(bar(share, "-" if variant == NONE else variant, "" if size is kv_heads else "ffn"))
        rows.append((str(i), *cells))
    head = ("layer", f"KV heads (parent {safe(full.attention)})", f"FFN width (parent {safe(full.ffn)})")
    return f'<div class="scroll">{table(head, rows, "bars")}</div>'


def _ffn_size(variant: Variant) -> int | None:
    return variant if isinstance(variant, int) else num_experts(variant)


def classified_html(found: Classified) -> str:
    """Labels with their probabilities."""
    rows = [(safe(label), bar(score, f"{score:.4f}")) for label, score in found.scores]
    note = f"windows encoded in {found.encode_s * 1e3:,.0f} ms, the text scored in {found.score_s * 1e3:,.0f} ms"
    return f'<div class="scroll">{table(("label", "probability"), rows, "bars")}</div><p class="note">{safe(note)}</p>'


def reply_html(reply: dict, seconds: float) -> str:
    """Status, route and the calls of a reply."""
    facts = (
        f"<p><b>{safe(reply['status'])}</b>, routed to <b>{safe(route(reply))}</b>, "
        f"confidence {reply['confidence']:.4f}, {seconds * 1e3:,.0f} ms</p>"
    )
    rows = []
    for number, step in enumerate(reply["trace"], 1):
        arguments = "<br>".join(f"{safe(name)}: {safe(value)}" for name, value in step["arguments"].items())
        page = f" (page {safe(step['doc'])})" if "doc" in step else ""
        failed = reply["status"] != "ok" and step["result"] == reply["status"]
        status = reply["status"] if failed else "ok"
        rows.append((str(number), safe(step["expert"]), arguments, safe(step["result"]) + page, safe(status)))
    calls = table(("#", "expert", "arguments", "result", "status"), rows, "calls") if rows else ""
    return facts + f'<div class="scroll">{calls}</div>'


# -- the page


CSS = """
table.plain { width: 100%; border-collapse: collapse; border: none; font-size: var(--text-sm); }
table.plain th, table.plain td { text-align: left; padding: 2px 8px; border: none;
  border-bottom: 1px solid var(--border-color-primary); vertical-align: top; }
table.plain tr { border: none; }
table.plain th { font-weight: 600; white-space: nowrap; }
table.numbers td:not(:first-child), table.numbers th:not(:first-child) { text-align: right;
  font-variant-numeric: tabular-nums; }
table.calls td:nth-child(3), table.calls td:nth-child(4) { font-family: var(--font-mono); overflow-wrap: anywhere; }
table.bars td { white-space: nowrap; }
.labels table.bars td:first-child { width: 30%; white-space: normal; overflow-wrap: anywhere; }
.bar { display: inline-block; width: 65%; height: 0.8em; margin-right: 8px; background: var(--border-color-primary); }
.bar i { display: block; height: 100%; background: #2a6fbb; }
.bar i.ffn { background: #c46a2d; }
.scroll { max-height: 40rem; overflow: auto; }
.note { color: var(--body-text-color-subdued); font-size: var(--text-sm); margin-top: 4px; }
.code textarea { font-family: var(--font-mono); font-size: var(--text-sm); }
#layout textarea { white-space: pre; overflow-x: auto; }
"""
INTRODUCTION = """# hf_puzzle
A cheaper **child** of a language model beside its parent, **parallel context windows** for many demonstrations, and
**MRKL**: exact experts beside a model. Everything is computed on this page's machine when you press a button."""
PROMPT = "def main(argv=None):\n    parser = argparse.ArgumentParser("
DEMONSTRATIONS = """\
import os => import
from collections import deque => import
import sys => import
import json, re => import
self.assertEqual(first, second) => test
self.assertTrue(value) => test
self.assertRaises(ValueError, call) => test
self.assertIn(name, names) => test
raise ValueError("bad value") => error
raise TypeError("not a string") => error
raise KeyError(name) => error
raise OSError(path) => error
"""
QUESTIONS = (
    "Which of the green-energy companies rose most last month?",
    "What was the price of Solvane Power on 29 April 2022?",
    "When was Tidemark Energy founded?",
    "What is 12345678 times 87654321?",
    "Who are you?",
)


def shown(function: Callable) -> Callable:
    """`function` with its errors as messages of the page: one line, no trace of the stack, no markup."""

    @functools.wraps(function)
    def call(*arguments):
        try:
            return function(*arguments)
        except (ValueError, OSError) as error:
            message = str(error)
        except Exception as error:  # the last resort of a page that runs models of strangers
            logger.exception("%s failed", function.__name__)
            message = f"{type(error).__name__}: {error}"
        line = next((line for line in message.splitlines() if line.strip()), "failed without a message")
        raise gr.Error(safe(line[:600]), print_exception=False)

    return call


def build(settings: Settings) -> gr.Blocks:
    """The page. One run at a time: timings would disturb each other."""
    models = Models(settings)

    @shown
    def on_compare(parent, parent_files, child, child_files, run_code, prompt, new_tokens, batch, rounds, peak):
        opened = [
            models.get("parent", parent, parent_files, run_code), models.get("child", child, child_files, run_code)
        ]  # fmt: skip
        found = compare(*opened, prompt, new_tokens, batch, rounds, peak)
        return *found.texts, comparison_html(found), layers_html(*found.blocks)

    @shown
    def on_classify(model, files, run_code, pasted, file, query, windows, mode, template, calibrate):
        demonstrations = read_demonstrations(pasted, file)
        opened = models.get("model", model, files, run_code)
        found = classify(opened, demonstrations, query, windows, mode, template, calibrate)
        return classified_html(found), found.layout

    @shown
    def on_ask(model, files, run_code, question, today, choice, fixtures):
        opened = models.get("model", model, files, run_code)
        reply, seconds = ask(opened, question, today, choice, fixtures, settings)
        return reply["generated_text"], reply_html(reply, seconds)

    def model_inputs(label: str, value: str, name: str) -> list:
        with gr.Column(min_width=240):
            box = gr.Textbox(value, label=label, info="folder or Hub id", elem_id=f"{name}_name", max_length=500)
            with gr.Accordion("or upload a model folder", open=False):
                files = gr.File(label="config, weights, tokenizer", file_count="directory", elem_id=f"{name}_files")
        return [box, files]

    def consent(name: str) -> gr.Checkbox:
        label = "run this repository's code"
        return gr.Checkbox(False, label=label, visible=settings.run_code, elem_id=f"{name}_code")

    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model"}
    # files of visitors go an hour after they came
    with gr.Blocks(title="hf_puzzle", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Puzzle: child and parent"):
            with gr.Row():
                inputs = model_inputs("Parent", settings.parent, "parent")
                inputs += model_inputs("Child", settings.child, "child")
                with gr.Column(min_width=240):
                    prompt = gr.Textbox(
                        PROMPT, label="Prompt", lines=3, max_length=MAX_PROMPT, elem_id="prompt", elem_classes="code"
                    )
                    inputs += [consent("compare"), prompt]
            with gr.Row():
                inputs += [
                    gr.Slider(2, MAX_NEW_TOKENS, 32, step=1, label="New tokens"),
                    gr.Slider(1, MAX_BATCH, 8, step=1, label="Sequences at once, timed"),
                    gr.Slider(MIN_ROUNDS, MAX_ROUNDS, 7, step=1, label="Rounds, timed"),
                    gr.Checkbox(True, label="peak memory, in a process each", elem_id="peak"),
                ]
            button = gr.Button("Compare", variant="primary", elem_id="compare")
            with gr.Row():
                texts = [
                    gr.Textbox(
                        label="The parent goes on",
                        lines=4,
                        buttons=["copy"],
                        elem_id="parent_text",
                        elem_classes="code",
                    ),
                    gr.Textbox(
                        label="The child goes on", lines=4, buttons=["copy"], elem_id="child_text", elem_classes="code"
                    ),
                ]
            with gr.Row():
                numbers = gr.HTML(elem_id="numbers", min_height=60)
                picture = gr.HTML(elem_id="layers", min_height=60)
            button.click(on_compare, inputs, [*texts, numbers, picture], api_name="compare", **one_at_a_time)

        with gr.Tab("PCW: classification"):
            with gr.Row():
                with gr.Column():
                    inputs = [*model_inputs("Model", settings.parent, "pcw"), consent("pcw")]
                    shots = gr.Textbox(
                        DEMONSTRATIONS, label="Demonstrations", info="one a line: text => label; none: the model's own",
                        lines=9, max_lines=14, elem_id="shots", elem_classes="code",
                    )  # fmt: skip
                    with gr.Accordion("or a CSV file", open=False):
                        file = gr.File(label="columns text and label", file_types=[".csv"], elem_id="csv")
                    query = gr.Textbox(
                        "from io import BytesIO", label="Text to classify", max_length=MAX_PROMPT, elem_id="query"
                    )
                    with gr.Row():
                        windows = gr.Slider(0, 16, 4, step=1, label="Windows (0: as few as hold all)")
                        mode = gr.Dropdown(list(MODES), value="pcw", label="Mode", elem_id="mode", min_width=100)
                    with gr.Row():
                        template = gr.Textbox(
                            "{text} -> {label}", label="Template", max_length=500, elem_id="template"
                        )
                        calibrate = gr.Checkbox(True, label="calibrate", elem_id="calibrate", min_width=100)
                    button = gr.Button("Classify", variant="primary", elem_id="classify")
                with gr.Column():
                    scores = gr.HTML(elem_id="scores", elem_classes="labels", min_height=60)
                    layout = gr.Textbox(label="Windows", lines=8, elem_id="layout", elem_classes="code")
            inputs += [shots, file, query, windows, mode, template, calibrate]
            button.click(on_classify, inputs, [scores, layout], api_name="classify", **one_at_a_time)

        with gr.Tab("MRKL: experts and trace"):
            offered = [*(name for name, _ in settings.fixtures), OWN_EXPERTS]
            with gr.Row():
                with gr.Column():
                    inputs = [*model_inputs("Model, for what no expert covers", settings.parent, "mrkl")]
                    inputs += [consent("mrkl")]
                    question = gr.Textbox(
                        QUESTIONS[0] if settings.fixtures else QUESTIONS[3], label="Question", max_length=MAX_PROMPT,
                        elem_id="question",
                    )  # fmt: skip
                    gr.Examples([[each] for each in QUESTIONS], question, label="For example")
                    with gr.Row():
                        today = gr.Textbox("2022-05-02", label="Today", max_length=10, elem_id="today", min_width=120)
                        choice = gr.Dropdown(offered, value=offered[0], label="Experts", elem_id="experts", scale=2)
                    with gr.Accordion("or upload their fixtures", open=False):
                        file = gr.File(label=", ".join(FIXTURES), file_count="multiple", elem_id="fixtures")
                    button = gr.Button("Ask", variant="primary", elem_id="ask")
                with gr.Column(scale=2):
                    answer = gr.Textbox(label="Answer", lines=2, buttons=["copy"], elem_id="answer")
                    trace = gr.HTML(elem_id="trace", min_height=60)
            inputs += [question, today, choice, file]
            button.click(on_ask, inputs, [answer, trace], api_name="ask", **one_at_a_time)
    return page.queue(max_size=16, default_concurrency_limit=1)


def default_settings(arguments: argparse.Namespace) -> Settings:
    """What was asked for, else the small models of this repository where they are."""
    offered = [Path(arguments.experts)] if arguments.experts else [REPOSITORY / "recipes/mrkl/jurassic_x"]
    if arguments.experts and not offered[0].is_dir():
        raise DemoError(f"--experts {arguments.experts}: no such folder")
    return Settings(
        parent=arguments.parent or _if_there("recipes/puzzle/tiny_parent"),
        child=arguments.child or _if_there("runs/tiny_cpu/distilled"),
        fixtures=tuple((folder.name, folder.resolve()) for folder in offered if folder.is_dir()),
        any_folder="SPACE_ID" not in os.environ,
        run_code=arguments.run_code,
    )


def _if_there(name: str) -> str:
    folder = REPOSITORY / name
    return os.path.relpath(folder) if (folder / "config.json").is_file() else ""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments, and the variables of a Space as their defaults."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    env = os.environ.get
    parser.add_argument("--parent", default=env("HF_PUZZLE_PARENT"), help="folder or Hub id (HF_PUZZLE_PARENT)")
    parser.add_argument("--child", default=env("HF_PUZZLE_CHILD"), help="folder or Hub id (HF_PUZZLE_CHILD)")
    parser.add_argument("--experts", default=env("HF_PUZZLE_EXPERTS"), help="folder of fixtures (HF_PUZZLE_EXPERTS)")
    parser.add_argument(
        "--run-code", action="store_true", default=env("HF_PUZZLE_RUN_CODE") == "1",
        help="let visitors run code of the repositories they name (HF_PUZZLE_RUN_CODE=1): only among friends",
    )  # fmt: skip
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.disable_progress_bar()
    try:
        page = build(default_settings(options))
    except DemoError as error:
        raise SystemExit(f"error: {error}") from None
    # gradio's own semi-bold cut of this font lacks most letters
    font = (gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif")
    theme = gr.themes.Default(text_size="sm", spacing_size="sm", radius_size="none", font=font)
    page.launch(
        server_port=options.port, share=False, ssr_mode=False, footer_links=["gradio"], max_file_size=MAX_BYTES,
        theme=theme, css=CSS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
