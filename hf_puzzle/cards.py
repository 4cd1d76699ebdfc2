"""Model cards: a template of `model_cards/`, filled with numbers that stand in the JSON files of a run."""

import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCardData,
    eval_result_entries_to_yaml,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from . import artifacts
from .engines.burden import gains, warnings
from .engines.check import NO, FolderError, check_folder
from .recipe import RecipeError, load_recipe, to_dict
from .remote.compositions_mrkl import readable
from .remote.configuration_decilm import DeciLMConfig


_INSTALLED = Path(__file__).with_name("model_cards")  # a wheel has them here, a checkout beside the package
TEMPLATES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "model_cards"
TASKS = "lm_eval.json"  # where `hf-puzzle eval --tasks ... --out` puts its numbers for the card
FIGURE = "figures/architecture.png"
MADE_HERE = "<!-- rendered by hf-puzzle from measured files: a change made here is lost -->"
SYSTEMS = ("puzzle", "pcw", "mrkl")
MODELS_OF_RUNS = ("distilled", "model", "pipeline")  # folders of a run that its measurements are about
LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING")
HUB_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
NO_DERIVATIVES = re.compile(r"(^|[^a-z])nd([^a-z]|$)|no-?_? ?deriv")


class CardError(ValueError):
    """A card cannot be written; the message names the file or value and what to do."""


# -- what may stand on a card


class Measured(float):
    """A number of a JSON file: the only kind that the filters of a card print."""


def _number(format_value):
    """A filter for numbers that refuses what was not read from a file; null prints as a dash."""

    @functools.wraps(format_value)
    def apply(value, *args) -> Markup:
        if value is None:
            return Markup("-")
        if not isinstance(value, Measured):
            raise TypeError(f"{value!r} is no number of a JSON file")
        return Markup(format_value(value, *args))

    return apply


def _printable(text: object) -> str:
    """One line without control, bidirectional and other invisible characters."""
    return "".join(c for c in " ".join(str(text).split()) if c.isprintable())


def code(text: object) -> Markup:
    """A Markdown code span: nothing in it is markup."""
    text = _printable(text) or "-"
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text[0] == "`" or text[-1] == "`" else ""
    return Markup(f"{ticks}{pad}{text}{pad}{ticks}")


def cell(text: object) -> Markup:
    """A code span in a table, where a bar would end the cell."""
    return Markup(str(code(text)).replace("|", "\\|"))


def fence(text: object, language: str = "") -> Markup:
    """A code block with a fence longer than any in `text`."""
    text = "".join(c for c in str(text) if c.isprintable() or c in "\n\t").strip("\n")
    ticks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return Markup(f"{ticks}{language}\n{text}\n{ticks}")


FILTERS = {
    "percent": _number(lambda value, digits=1: f"{value:.{int(digits)}%}"),
    "signed_percent": _number(lambda value: f"{value:+.1%}"),
    "fixed": _number(lambda value, digits=2: f"{value:.{int(digits)}f}"),
    "whole": _number(lambda value: f"{value:,.0f}"),
    "millions": _number(lambda value, digits=1: f"{value / 1e6:,.{int(digits)}f}"),
    "times": _number(lambda value: f"{value:.2f}x"),
    "code": code,
    "cell": cell,
    "fence": fence,
    "quoted": lambda text: Markup(json.dumps(_printable(text), ensure_ascii=False)),  # a Python literal
    "text": lambda text: Markup(text) if _PLAIN.fullmatch(text) else code(text),  # words of a template
}
# an absolute path of two names or more; not the path of a URL, nor the line breaks of a template ("\n==\n")
_NAME = r"[^\s/\\:,;'\"\[\]{}]+"
_PLACE = re.compile(
    rf"(?<![\w.:/\\])(?:(?:~|[A-Za-z]:)?/(?:{_NAME}/)+|[A-Za-z]:\\{{1,2}}(?:{_NAME}\\{{1,2}})+)({_NAME})"
)
_PLAIN = re.compile(r"[A-Za-z0-9_./=, -]*")


def _checked(value: object) -> Markup:
    if not isinstance(value, Markup):
        raise TypeError(f"{value!r} goes on a card through no filter")
    return value


@functools.cache
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True, finalize=_checked,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    return environment


def read_measured(text: str) -> dict:
    """JSON with every number as `Measured`.

    Raises:
        ValueError: no JSON, or NaN.
    """

    def refuse(constant: str):
        raise ValueError(f"{constant} is no number")

    return json.loads(text, parse_float=Measured, parse_int=Measured, parse_constant=refuse)


# -- where a model comes from


def _is_repo_id(name: object) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_hub_id(name: str) -> bool:
    """Whether a model is of the Hub: `user/name` that is no folder here, or `name` that was loaded from there."""
    if not _is_repo_id(name):
        return False
    if "/" in name:
        return not Path(name).exists()
    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def origin(name: str) -> dict:
    """What a model folder or Hub id says of itself: `hub_id`, and of a folder the licence its README or files name."""
    folder = Path(name)
    if not folder.is_dir():
        return {"hub_id": name if is_hub_id(name) else None}
    try:
        metadata = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        metadata = {}
    file = next((each for each in LICENSE_FILES if (folder / each).is_file()), None)
    return {"hub_id": None, **_licence_of(metadata), "license_file": file}


def _licence_of(metadata: Mapping) -> dict:
    names = ("license", "license_name", "license_link")
    found = {name: metadata[name] if isinstance(metadata.get(name), str) else None for name in names}
    if found["license"] is not None:
        found["license"] = found["license"].lower() if HUB_LICENSE.fullmatch(found["license"].lower()) else None
    return found


def _licence(
    parent: Mapping, name: str | None, own: str | None, given: str | None = None, online: bool = False
) -> tuple[dict, list[str]]:
    """(what the card says, notes): the parent's licence, unless one was given or the model has none but `own`.

    Args:
        parent: of `origin`; empty where the model has no parent.
        name: of the parent, for the notes.
        own: licence of what was made here and has no parent.
    """
    notes, facts = [], dict(parent)
    if facts.get("hub_id"):
        try:
            facts |= _licence_of(
                metadata_load(hf_hub_download(facts["hub_id"], "README.md", local_files_only=not online)) or {}
            )
        except RemoteEntryNotFoundError:
            pass  # a repository without a card names none
        except Exception as error:  # whatever keeps us from the Hub, the card says that the licence is not known
            facts["unread"] = True
            why = f"could not be read from the Hub ({type(error).__name__})" if online else "was not asked for"
            notes.append(f"the licence of {facts['hub_id']} {why}: pass --license ID if you know it")
    inherited = facts.get("license")
    known = " ".join(filter(None, (inherited, facts.get("license_name"), facts.get("license_link")))).lower()
    found = {
        "id": given or inherited or own,
        "given": given is not None,
        "inherited": given is None and inherited is not None,
        "derived": bool(parent),
        "parent": inherited,
        "name": facts.get("license_name") if given is None else None,
        "link": facts.get("license_link") if given is None else None,
        "file": facts.get("license_file"),
        "unread": facts.get("unread", False),
        "no_derivatives": bool(NO_DERIVATIVES.search(known)),
    }
    if found["no_derivatives"]:
        notes.append(f"the parent's licence {inherited} forbids derivatives: ask its authors before this is passed on")
    elif found["id"] is None and found["unread"]:
        pass  # said already
    elif found["id"] is None and parent:
        notes.append(
            f"the parent {name} names no licence: if you know it, pass --license ID; the card says that none is named"
        )
    elif found["id"] is None:
        notes.append("no licence is named: pass --license ID; without one nobody may use what you publish")
    elif given and inherited and given != inherited:
        notes.append(f"--license {given} differs from the parent's {inherited}")
    return found, notes


# -- what was measured


def _sources(source: Path) -> list[Path]:
    """Folders that measurements and recipe of the model in `source` are looked for in."""
    source = source.resolve()
    run = source.parent
    return [source, run] if source.name in MODELS_OF_RUNS and (run / "manifest.json").exists() else [source]


def _first(source: Path, *names: str) -> Path | None:
    """The first file of these names in the folders of `source`."""
    return next((p / name for p in _sources(source) for name in names if (p / name).is_file()), None)


def measurements(system: str, source: Path) -> str | None:
    """The measured numbers as JSON text, or None where there are none: what becomes `eval.json`.

    Puzzle and PCW: the file of the run as it is; MRKL: its files under `evaluation`, `training`, `adapters` and
    `replies`, with the `recipe` for the headings of a table. A published folder holds that text already.

    Raises:
        CardError: they are of an older model than the one in the run.
    """
    path = _first(source, "eval.json")
    if path is None and system == "pcw":
        # the folder of a pipeline has settings of the same name
        found = [folder / "pcw.json" for folder in _sources(source) if (folder / "draws.jsonl").exists()]
        path = next((each for each in found if each.exists()), None)
    if path is not None:
        _check_fresh(path.parent)
        return path.read_text(encoding="utf-8")
    files = {
        "evaluation": _first(source, "evaluation.json"),
        "replies": _first(source, "replies.json"),
        "adapters": _first(source, "adapters/training.json"),
        "training": _first(source, "model/training.json"),
    }
    if system != "mrkl" or not (files["evaluation"] or files["replies"]):
        return None
    _check_fresh((files["evaluation"] or files["replies"]).parent)
    found = {name: path and artifacts.read_json(path) for name, path in files.items()}
    return json.dumps({**found, "recipe": _recipe(source)[2]}, indent=2) + "\n"


def _check_fresh(run: Path) -> None:
    if not (run / "manifest.json").exists():
        return
    stages = artifacts.read_json(run / "manifest.json")
    for made, measured in (("distill", "evaluate"), ("model", "evaluate"), ("adapters", "evaluate")):
        before, after = (stages.get(name, {}).get("finished") for name in (made, measured))
        if measured in stages and before is not None and (after is None or after < before):
            raise CardError(
                f"{run}: stage {measured!r} is older than {made!r}, so its numbers are of another model: "
                "run the recipe again, which measures what changed"
            )


def _recipe(source: Path) -> tuple[str | None, list[str], dict | None]:
    """(text of the recipe, its `--set`, the recipe as parsed), as far as the run or folder has them."""
    path = _first(source, "recipe.yaml")
    if path is None:
        return None, [], None
    overrides = path.with_name("overrides.json")
    changed = artifacts.read_json(overrides) if overrides.exists() else []
    return path.read_text(encoding="utf-8"), changed, to_dict(load_recipe(path, changed))


def _without_folders(text: str | None) -> str | None:
    """A recipe that is published says what a local folder or file is called, not where it lies, nor whose home that is."""
    return text and _PLACE.sub(r"\1", text)


# -- the card


def code_card(system: str) -> str:
    """The card of a folder that holds `custom_generate/` alone; `<this repository>` stands for its name."""
    found, _ = _licence({}, None, "apache-2.0")
    metadata = ModelCardData(library_name="transformers", license="apache-2.0", tags=_tags(system, generates=True))
    title = {"pcw": "Parallel Context Windows", "mrkl": "Calls of exact experts while generating"}[system]
    context = {"weights": False, "recipe_text": None, "overrides": [], "pipelines": {}, "found": found}
    return _render(system, metadata, Markup(title), "<this repository>", context)


def write_card(
    folder: str | Path,
    source: str | Path,
    repo_id: str,
    license: str | None = None,
    online: bool = True,
    code_repo: str | None = None,
) -> list[str]:
    """Write README.md, recipe.yaml, eval.json, the picture and `.eval_results/` to a folder that will be published.

    A README that was written by hand is kept.

    Args:
        folder: a copy of the model's folder; written to.
        source: the run, or the model's own folder, where the measured files lie; only read.
        license: Hub id of a licence instead of the parent's.
        online: ask the Hub for the licence of a parent that lies there; else only the local cache is read.
        code_repo: where the code will lie, if not beside the weights.

    Returns: what the log should say, one line each.

    Raises:
        CardError: files that no run writes, numbers of another model, or a licence that is no id.
    """
    folder, source = Path(folder), Path(source)
    if license is not None and not HUB_LICENSE.fullmatch(license):
        raise CardError(
            f"licence {license!r} is no id of the Hub: lower-case as in apache-2.0, mit, llama3.2 or other"
        )
    system = system_of(folder, source)
    licence = functools.partial(_licence, given=license, online=online)
    try:
        text = measurements(system, source)
        recipe_text, overrides, recipe = _recipe(source)
        recipe_text, overrides = _without_folders(recipe_text), [_without_folders(str(each)) for each in overrides]
        measured, raw = (None, {}) if text is None else (read_measured(text), json.loads(text))
        if text is not None and not (isinstance(measured, dict) and measured):
            raise TypeError("eval.json holds no measurements")
        context, metadata, notes = _DESCRIBE[system](folder, source, measured, raw, recipe, licence)
        if measured is None and context.get("weights", True):
            notes.append("no measurements came with this model: its card prints no number")
        name, results = repo_id.split("/")[-1], metadata.pop("results")
        entries = [EvalResult(**{k: _one_line(v) for k, v in each.items()}) for each in results]
        named = {"model_name": name, "eval_results": entries} if entries else {}
        data = ModelCardData(**_one_line(metadata), **named)
        if recipe_text is None and context["settings"]:
            recipe_text = yaml.safe_dump(context["settings"], sort_keys=False, allow_unicode=True)
        context |= {
            "code_repo": code_repo,
            "eval": measured,
            "recipe_text": recipe_text,
            "overrides": overrides,
        }
        card = _render(system, data, code(name), repo_id, context)
        also = {**context.get("also", {}), **(_hub_results(raw, recipe) if system == "pcw" else {})}
    except (CardError, RecipeError, artifacts.ArtifactError, FolderError):
        raise
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CardError(
            f"{source}: eval.json, {TASKS}, puzzle.json or recipe.yaml is not what its writer writes "
            f"({type(error).__name__}: {error}): run the recipe again, or remove the file to publish without numbers"
        ) from None
    readme = folder / "README.md"
    if readme.exists() and MADE_HERE not in readme.read_text(encoding="utf-8", errors="replace"):
        notes.append("README.md was written by hand and is kept: remove it to get the card")
    else:
        artifacts.write_text(readme, card)
    for path, content in also.items():
        artifacts.write_text(folder / path, content)
    if context.get("figure") and not (folder / FIGURE).exists():
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copyfile(context["figure"], folder / FIGURE)
    if text is not None:
        artifacts.write_text(folder / "eval.json", text)
    if recipe_text is not None:
        artifacts.write_text(folder / "recipe.yaml", recipe_text)
        if overrides:
            artifacts.write_json(folder / "overrides.json", overrides)
    return notes


def system_of(folder: Path, source: Path) -> str:
    """Which system made the model in `folder`.

    Raises:
        CardError: none did.
    """
    config = _config(folder)
    code_of_child = any((folder / name).exists() for name in ("modeling_decilm.py", "modeling_puzzle.py"))
    if (folder / "puzzle.json").exists() or code_of_child or config.get("model_type") == DeciLMConfig.model_type:
        return "puzzle"
    recipe = _recipe(source)[2]
    if recipe is not None and recipe["system"] in SYSTEMS:
        return recipe["system"]
    pipelines = config.get("custom_pipelines") or {}
    for system in ("mrkl", "pcw"):
        named = any(task.split("-")[0] == system for task in pipelines)
        if named or (folder / "custom_generate" / f"generation_{system}.py").exists():
            return system
    raise CardError(
        f"{folder} holds no model of hf_puzzle: expected puzzle.json, a pcw or mrkl pipeline, or custom_generate/"
    )


def _config(folder: Path) -> dict:
    path = folder / "config.json"
    return artifacts.read_json(path) if path.exists() else {}


def _tags(system: str, *more: str, generates: bool) -> list[str]:
    return ["hf_puzzle", system, *more, *(["custom_generate"] if generates else [])]


def _render(system: str, metadata: ModelCardData, title: Markup, repo: str, context: dict) -> str:
    body = _environment().get_template(f"{system}.md.jinja").render(title=title, repo=repo, **context)
    # one blank line where parts were left out; what stands in fences is left alone
    body = re.sub(r"^(`{3,}).*?^\1$|\n{3,}", lambda m: m[0] if m[1] else "\n\n", body, flags=re.M | re.S).strip()
    return f"---\n{metadata.to_yaml()}\n---\n{MADE_HERE}\n\n{body}\n"


def _one_line(value):
    """`value` with every text in it on one line: nothing in it can end the front matter."""
    if isinstance(value, dict):
        return {_one_line(k): _one_line(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_one_line(each) for each in value]
    return _printable(value) if isinstance(value, str) else value


# -- one system each: (what its template reads, metadata, notes)


def _parent(name: str | None, known: dict | None = None) -> tuple[dict, Markup | None, str | None]:
    """(`origin` of a recipe's model, how the card calls it, Hub id or None); a path is called by its last part."""
    if name is None:
        return {}, None, None
    facts = dict(known or origin(name))
    if known:  # read from a folder, which may be anyone's
        facts |= _licence_of(known) | {"hub_id": known["hub_id"] if _is_repo_id(known["hub_id"]) else None}
    return facts, code(facts["hub_id"] or Path(name).name), facts["hub_id"]


def _puzzle(folder: Path, source: Path, measured, raw: dict, recipe: dict | None, licence: Callable) -> tuple:
    path = folder / "puzzle.json"
    made = artifacts.read_json(path) if path.exists() else {}
    settings = made.get("recipe") or recipe
    if settings is None and measured is not None:
        raise CardError(f"{folder} has measurements but neither puzzle.json nor recipe.yaml, which say of what")
    name = settings and str(settings["parent"]["name"])
    facts, parent, hub_id = _parent(name, made.get("parent"))
    found, notes = licence(facts, name, None)
    blocks = [str(each).split("+") for each in (made.get("chosen") or {}).get("blocks", [])]
    has_code = (folder / "config.json").exists()
    figure, tasks = _first(source, FIGURE), _first(source, TASKS)
    tasks = tasks and _fresh_tasks(tasks)
    context = {
        "parent": parent or Markup("a language model"),
        "settings": settings,
        "engines": [v.engine for v in check_folder(folder) if v.status != NO] if has_code else [],
        "no_gain": [each.text for each in (*warnings(folder, raw), *gains(folder)) if each.nothing]
        if has_code
        else [],
        "layers": "\n".join(
            f"layer {i:<3} " + " ".join(f"{x:<8}" for x in each).strip() for i, each in enumerate(blocks)
        ),
        "figure": figure,
        "tasks": tasks and read_measured(tasks),
        "also": {TASKS: tasks} if tasks else {},
        "found": found,
    }
    decilm = _config(folder).get("model_type") == DeciLMConfig.model_type
    data = settings["data"]["name"] if settings else None
    metadata = {
        **_common(found, hub_id),
        "base_model_relation": hub_id and "finetune",
        "tags": _tags(
            "puzzle", *([DeciLMConfig.model_type] if decilm else []), generates=(folder / "custom_generate").exists()
        ),
        "datasets": [data] if data not in (None, "python-stdlib", "text") and is_hub_id(data) else None,
        "results": [*(_puzzle_results(raw, str(data)) if raw else []), *_task_results(json.loads(tasks or "{}"))],
    }
    return context, metadata, notes


def _fresh_tasks(path: Path) -> str:
    """Text of lm-eval's numbers; CardError where the run's child is another one by now."""
    text, child = path.read_text(encoding="utf-8"), path.parent / "distilled"
    of = (json.loads(text).get("child") or {}).get("fingerprint")
    if child.is_dir() and of != artifacts.folder_fingerprint(child):
        raise CardError(f"{path} has the numbers of another model than {child.name}/: evaluate again, or remove it")
    return text


def _puzzle_results(raw: dict, data: str) -> list[dict]:
    quality, task = raw["quality"]["distilled"], (raw["task"] or {}).get("distilled")
    kind = "text" if " " in data else data  # a Trainer's own data sets have no name
    text = {"task_type": "text-generation", "dataset_type": kind, "dataset_name": f"{data}, held out"}
    cloze = text | {"dataset_config": "cloze", "dataset_name": f"cloze of {data}, held out"}
    return [
        text | {"metric_type": "accuracy", "metric_name": "next-token accuracy", "metric_value": quality["top1"]},
        text | {"metric_type": "loss", "metric_name": "loss, nats", "metric_value": quality["loss"]},
        text
        | {"metric_type": "kl_divergence", "metric_name": "KL from the parent, nats", "metric_value": quality["kl"]},
        *(
            [cloze | {"metric_type": "accuracy", "metric_name": "cloze accuracy", "metric_value": task["accuracy"]}]
            if task
            else []
        ),
    ]


def _task_results(raw: dict) -> list[dict]:
    return [
        {
            "task_type": "text-generation", "dataset_type": row["task"], "dataset_name": f"lm-eval {row['task']}",
            "metric_type": row["metric"], "metric_name": row["metric"], "metric_value": row["child"],
        }
        for row in raw.get("tasks", [])
        if row["level"] == 0
    ]  # fmt: skip


def _common(found: dict, hub_id: str | None) -> dict:
    return {
        "base_model": hub_id,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": found["id"],
        "license_name": found["name"],
        "license_link": found["link"],
    }


def _beside_model(folder: Path, licence: Callable, recipe: dict | None) -> tuple[dict, dict, list[str]]:
    """(context, metadata, notes) of a folder that holds the code of PCW or MRKL, and perhaps an unchanged model."""
    config = _config(folder)
    facts, parent, hub_id = _parent(((recipe or {}).get("model") or {}).get("name"))
    made_here = (recipe or {}).get("train") is not None
    words = Markup("A small language model trained by the recipe" if made_here else "A causal language model")
    found, notes = licence(facts, parent, None if config else "apache-2.0")
    context = {
        "weights": bool(config),
        "made_here": made_here,
        "parent": parent or words,
        "pipelines": config.get("custom_pipelines") or {},
        "settings": recipe,
    }
    metadata = _common(found, hub_id)
    if not config:
        metadata.pop("pipeline_tag")
    return context | {"found": found}, metadata, notes


def _pcw(folder: Path, source: Path, measured, raw: dict, recipe: dict | None, licence: Callable) -> tuple:
    recipe = recipe or raw.get("recipe")
    context, metadata, notes = _beside_model(folder, licence, recipe)
    settings = folder / "pcw.json"
    context["saved"] = settings.exists() and "pcw-classification" in artifacts.read_json(settings)
    context["tables"] = _pcw_tables(measured) if measured else []
    metadata["tags"] = _tags("pcw", generates=(folder / "custom_generate").exists())
    ids = {each["title"] or each["name"]: each["name"] for each in (recipe or {}).get("datasets", [])}
    metadata["datasets"] = sorted({name for name in ids.values() if name != "episode" and is_hub_id(name)}) or None
    metadata["results"] = [
        {
            "task_type": "text-classification", "dataset_name": row["dataset"], "dataset_config": row["dataset"],
            "dataset_type": ids.get(row["dataset"], "generated"), "metric_type": "accuracy",
            "metric_name": f"accuracy, {row['num_windows']} parallel windows", "metric_value": row["accuracy"],
        }
        for row in _largest(raw)
    ]  # fmt: skip
    return context, metadata, notes


def _largest(raw: dict) -> list[dict]:
    """The rows of mode `pcw` with most windows, one per data set."""
    rows = {}
    for row in raw.get("summary", []):
        if row["mode"] == "pcw" and row["num_windows"] >= rows.get(row["dataset"], row)["num_windows"]:
            rows[row["dataset"]] = row
    return list(rows.values())


def _pcw_tables(measured: dict) -> list[dict]:
    tables = []
    for title in dict.fromkeys(row["dataset"] for row in measured["summary"]):
        own = [row for row in measured["summary"] if row["dataset"] == title]
        windows = sorted({row["num_windows"] for row in own})
        by_mode = {row["mode"]: {} for row in own}
        for row in own:
            by_mode[row["mode"]][row["num_windows"]] = row
        missing = {"accuracy": None, "half_interval": None}
        rows = [{"mode": mode, "cells": [cells.get(b, missing) for b in windows]} for mode, cells in by_mode.items()]
        facts = {name: own[0][name] for name in ("labels", "n_max", "draws")}
        tables.append(
            {"title": title, "windows": windows, "rows": rows, "gain": measured["gains"].get(title), **facts}
        )
    return tables


def _hub_results(raw: dict, recipe: dict | None) -> dict[str, str]:
    """`.eval_results` files, by name: for data sets of the Hub alone."""
    recipe = recipe or raw.get("recipe") or {"datasets": []}
    known = {each["title"] or each["name"]: each for each in recipe["datasets"] if each["name"] != "episode"}
    files = {}
    for row in _largest(raw):
        data = known.get(row["dataset"])
        if data is None or not is_hub_id(data["name"]):
            continue
        notes = f"in-context classification, {row['num_windows']} parallel windows, {row['draws']} draws"
        entry = EvalResultEntry(
            dataset_id=data["name"], task_id=data["config_name"] or "default", value=row["accuracy"],
            dataset_revision=data["revision"], notes=notes,
        )  # fmt: skip
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{data['name']}-{entry.task_id}").strip(".-")
        rows = _one_line(eval_result_entries_to_yaml([entry]))
        files[f".eval_results/{name}.yaml"] = yaml.safe_dump(rows, sort_keys=False, allow_unicode=True)
    return files


def _mrkl(folder: Path, source: Path, measured, raw: dict, recipe: dict | None, licence: Callable) -> tuple:
    recipe = recipe or raw.get("recipe")
    context, metadata, notes = _beside_model(folder, licence, recipe)
    said = raw.get("replies") or {"questions": [], "changes": []}
    parts = [_reply(each) for each in said["questions"]]
    for each in said["changes"]:
        parts += [_reply(each["before"]), f"After {each['sql'].strip()}", _reply(each["after"])]
    asked = [*said["questions"], *(each["before"] for each in said["changes"])]
    context["question"] = asked[0]["question"] if asked else "What is 12 times 12?"
    context["replies"] = "\n\n".join(parts)
    metadata["tags"] = _tags("mrkl", generates=(folder / "custom_generate").exists())
    metadata["results"] = [
        {
            "task_type": "text-generation", "dataset_type": "generated", "dataset_name": f"questions for {expert}",
            "dataset_config": f"{expert}, unseen openings", "metric_type": "accuracy",
            "metric_name": "calls written exactly", "metric_value": row["carrier"],
        }
        for expert, row in ((raw.get("evaluation") or {}).get("calls") or {}).items()
    ]  # fmt: skip
    return context, metadata, notes


def _reply(reply: dict) -> str:
    lines = [reply["question"], readable(reply), f"=> {reply['generated_text']} [{reply['status']}]"]
    return "\n".join(line for line in lines if line)


_DESCRIBE = {"puzzle": _puzzle, "pcw": _pcw, "mrkl": _mrkl}
