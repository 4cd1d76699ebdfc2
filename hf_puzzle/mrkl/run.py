"""`hf-puzzle run` for recipes of `system: mrkl`: model, adapters, evaluation, questions, report, saved pipeline."""

import contextlib
import logging
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .. import artifacts
from ..anatomy import frozen
from ..fanout import run_to_report
from ..progress import bar
from ..recipe import RecipeError, to_dict
from ..remote.adapters_mrkl import Adapters, Phraser
from ..remote.compositions_mrkl import Composition, readable
from ..remote.dates_mrkl import Dates
from ..remote.exact_mrkl import Calculator, Currency, Units
from ..remote.experts_mrkl import Experts
from ..remote.known_mrkl import Known
from ..remote.pipeline_mrkl import MrklPipeline
from ..remote.plans_mrkl import Judge, PlanReader
from ..remote.slots_mrkl import read
from ..remote.sources_mrkl import Weather
from ..stages import Stage
from ..training import resolve_device
from .adapters import (
    accuracy,
    compare_readers,
    make_tokenizer,
    pair_rows,
    plan_accuracy,
    pretrain,
    train_adapter,
    world_examples,
    world_rows,
)
from .evaluate import answers_at
from .pairs import CODES, PLACES, arithmetic, pairs_for
from .recipe import MRKLRecipe


logger = logging.getLogger(__name__)

POOLS = {"calculator": ("seen", "carrier", "operator")}


def run_recipe(
    recipe: MRKLRecipe,
    out: Path,
    base: Path,
    only: str | None = None,
    start: str | None = None,
    say=logger.info,
    on: str | None = None,
) -> str:
    """Run the stages that the recipe asks for in `out`, `on` what `fanout.executor_for` says; the text of `report.md`.

    Raises RecipeError for a recipe with both or neither of `train` and `model.name`, or changes without a database.
    """
    _check(recipe, base)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    out, base = Path(out), Path(base)
    return run_to_report(recipe, stages_of(recipe, out, base, say), out, base, only, start, say, on)


def _check(recipe: MRKLRecipe, base: Path) -> None:
    if (recipe.train is None) == (recipe.model.name is None):
        raise RecipeError("give either train (a small model made here) or model.name")
    if recipe.changes and (recipe.experts is None or not (base / recipe.experts / "shop.sqlite").is_file()):
        raise RecipeError("changes need a shop.sqlite in the folder of experts")


def stages_of(recipe: MRKLRecipe, out: Path, base: Path, say: Callable = logger.info) -> list[Stage]:
    """The stages that the recipe asks for; also for a worker of the run."""
    run = _Run(recipe, out, base, say)
    settings = to_dict(recipe)
    shared = {"seed": recipe.seed, "device": recipe.device}
    stages = []
    if recipe.train is not None:
        stages.append(Stage("model", run.train, {"train": settings["train"]} | shared, (), ("model",)))
    needs = ("model",) if recipe.train else ()
    if recipe.adapters is not None or recipe.phrase is not None:
        own = {k: settings[k] for k in ("adapters", "phrase", "model")} | shared
        stages.append(Stage("adapters", run.adapters, own, needs, ("adapters",)))
        needs = ("adapters",)
    if recipe.adapters is not None:
        own = {"evaluate": settings["evaluate"]}
        stages.append(Stage("evaluate", run.evaluate, own, needs, ("evaluation.json",)))
        needs = (*needs, "evaluate")
    data = None
    if recipe.experts is not None:
        data = {p.name: artifacts.file_sha256(p) for p in sorted((base / recipe.experts).iterdir()) if p.is_file()}
    own = {k: settings[k] for k in ("today", "compositions", "questions", "changes")} | {"data": data}
    stages.append(Stage("ask", run.ask, own, needs, ("replies.json", "pipeline")))
    stages.append(Stage("report", run.report, {}, ("ask",), ("report.md",)))
    return stages


def _own_file_only(action: int, *_) -> int:
    """SQLite authorizer: a recipe's statements change the run's copy, and reach no other file of the machine."""
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH) else sqlite3.SQLITE_OK


class _Run:
    def __init__(self, recipe: MRKLRecipe, out: Path, base: Path, say: Callable):
        self.recipe, self.out, self.base, self.say = recipe, out, base, say
        self.device = resolve_device(recipe.device)

    def train(self) -> None:
        config, began = self.recipe.train, time.process_time()
        try:
            model, loss = pretrain(
                config.num_steps, self.recipe.seed, tuple(range(1, 10)), config.batch_size, **config.config
            )
        except TypeError as error:
            raise RecipeError(f"train.config: {error}") from None
        model.save_pretrained(self.out / "model")
        make_tokenizer().save_pretrained(self.out / "model")
        facts = {
            "loss": loss,
            "parameters": model.num_parameters(),
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        artifacts.write_json(self.out / "model" / "training.json", facts | {"environment": artifacts.environment()})

    def load(self):
        """(model, tokenizer), the model frozen."""
        config = self.recipe.model
        name, options = str(self.out / "model"), {"dtype": config.dtype}
        if config.name is not None:
            beside = self.base / config.name
            name = str(beside) if beside.exists() else config.name
            options |= {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        model = frozen(AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **options).to(self.device))
        options.pop("dtype")
        return model, AutoTokenizer.from_pretrained(name, **options)

    def adapters(self) -> None:
        """Every adapter starts from the same frozen model, loaded anew."""
        facts, seed = {}, self.recipe.seed
        config = self.recipe.adapters
        jobs = {}
        if config is not None:
            if config.questions == "worlds":
                jobs["plan"] = world_rows(config.num_pairs, seed)
            else:
                jobs["plan"] = pair_rows(config.experts, config.num_pairs, seed)
            if config.alone:
                made = arithmetic(config.num_pairs, seed, (1, 2, 3), "alone")
                jobs["alone"] = [(p.question, p.items) for p in made]
        if self.recipe.phrase is not None:
            jobs["phrase"] = phrase_rows(self.recipe.phrase.num_pairs, seed)
        for name, rows in bar(jobs.items(), desc="adapters"):
            random.Random(seed).shuffle(rows)
            model, tokenizer = self.load()
            options = {"steps": self.recipe.phrase.num_steps} if name == "phrase" else {
                "method": config.method, "steps": config.num_steps, "rate": config.learning_rate, "rank": config.rank,
                "virtual_tokens": config.virtual_tokens, "batch_size": config.batch_size,
            }  # fmt: skip
            trained, facts[name] = train_adapter(model, tokenizer, rows, name, seed=seed, **options)
            trained.save_pretrained(str(self.out / "adapters"))
            self.say(f"adapter {name}: {facts[name]}")
        artifacts.write_json(self.out / "adapters" / "training.json", facts)

    def evaluate(self) -> None:
        config = self.recipe.adapters
        count = self.recipe.evaluate.questions
        model, tokenizer = self.load()
        folder = self.out / "adapters"
        adapters = Adapters(model, {name: folder / name for name in ("plan", *(["alone"] if config.alone else []))})
        experts = Experts([Calculator(), Units(), *_stand_ins()])
        result = {"calls": {}, "digits": {}}
        for name in config.experts if config.questions == "pairs" else ():
            result["calls"][name] = {}
            for pool in POOLS.get(name, ("seen", "carrier")):
                pairs = pairs_for(name, count, self.recipe.seed + 1000, pool)
                with adapters.use("plan") as adapted:
                    result["calls"][name][pool] = plan_accuracy(adapted, tokenizer, experts, pairs)
        for name, mode in (("plan", "slots"), ("alone", "alone")):
            if name in adapters and config.questions == "pairs":
                with adapters.use(name) as adapted:
                    result["digits"][name] = [
                        accuracy(adapted, tokenizer, arithmetic(count, 2000 + n, (n,), mode), mode)
                        for n in self.recipe.evaluate.digits
                    ]
        if config.questions == "worlds":
            reader = PlanReader(folder / "plan")
            reader.attach(model, tokenizer)
            with tempfile.TemporaryDirectory() as worlds:
                # wordings and worlds that training never had: the judge is fitted on one half, measured on the other
                examples = world_examples("dev", count, self.recipe.seed + 1000, worlds)
                random.Random(self.recipe.seed).shuffle(examples)
                result["readers"] = compare_readers(reader, examples, config.precision)
        with tempfile.TemporaryDirectory() as worlds:
            result["answers"] = answers_at(2 * count, self.recipe.seed + 2000, worlds)
        artifacts.write_json(self.out / "evaluation.json", result | {"environment": artifacts.environment()})

    def ask(self) -> None:
        recipe = self.recipe
        data = self.out / "data"
        artifacts.remove(data)
        if recipe.experts is not None:
            folder = self.base / recipe.experts
            for path in folder.rglob("*"):  # what a link points to would be saved with the pipeline
                artifacts.inside(folder, path.relative_to(folder).as_posix())
            shutil.copytree(folder, data)
        replies = [self._reply(data, question) for question in bar(recipe.questions, desc="ask")]
        changes = []
        for change in recipe.changes:
            before = self._reply(data, change.ask)
            with contextlib.closing(sqlite3.connect(data / "shop.sqlite")) as connection:
                connection.set_authorizer(_own_file_only)
                try:
                    connection.executescript(change.sql)
                except (sqlite3.Error, sqlite3.Warning) as error:
                    raise RecipeError(f"changes: {change.sql!r:.200} fails: {error}") from None
                connection.commit()
            changes.append({"sql": change.sql, "before": before, "after": self._reply(data, change.ask)})
        self.pipeline(data).save_pretrained(self.out / "pipeline")
        artifacts.remove(data)
        artifacts.write_json(self.out / "replies.json", {"questions": replies, "changes": changes})

    def _reply(self, data, question) -> dict:
        began = time.perf_counter()
        reply = self.pipeline(data)(question, phrase=self.recipe.phrase is not None)
        seconds = round(time.perf_counter() - began, 3)
        self.say(f"{question} {reply['generated_text']}")
        return {"question": question, "seconds_with_loading": seconds, **reply}

    def pipeline(self, data: Path) -> MrklPipeline:
        """What the recipe describes, on the files in `data` as they are now."""
        recipe = self.recipe
        model, tokenizer = self.load()
        experts = (
            Experts.from_fixtures(data, recipe.today)
            if recipe.experts
            else Experts([Calculator(), Units(), Dates(recipe.today)])
        )
        compositions = [Composition(**each) for each in recipe.compositions]
        reader = phraser = None
        readers = artifacts.read_json(self.out / "evaluation.json").get("readers") if recipe.adapters else None
        if readers and readers["earns"]:
            reader = PlanReader(self.out / "adapters" / "plan", Judge(**readers["judge"]))
        if recipe.phrase is not None:
            phraser = Phraser(self.out / "adapters" / "phrase")
        return MrklPipeline(
            model=model, tokenizer=tokenizer, experts=experts, today=recipe.today, compositions=compositions,
            plan_reader=reader, phraser=phraser,
        )  # fmt: skip

    def report(self) -> None:
        lines = ["# MRKL", ""]
        if (self.out / "evaluation.json").exists():
            lines += _tables(artifacts.read_json(self.out / "evaluation.json"), self.recipe.evaluate.digits)
        if (self.out / "adapters" / "training.json").exists():
            facts = artifacts.read_json(self.out / "adapters" / "training.json")
            lines += ["", "| adapter | trainable numbers | loss | CPU seconds |", "|---|---|---|---|"]
            lines += [f"| {n} | {f['trainable']:,} | {f['loss']} | {f['cpu_seconds']} |" for n, f in facts.items()]
            lines.append("")
        replies = artifacts.read_json(self.out / "replies.json")
        for reply in replies["questions"]:
            lines += _shown(reply)
        for change in replies["changes"]:
            lines += [
                "## A fresh fact",
                "",
                *_shown(change["before"]),
                "After",
                "",
                "```sql",
                change["sql"].strip(),
                "```",
                "",
            ]
            lines += ["and with no weight touched:", "", *_shown(change["after"])]
        lines += ["The pipeline with its experts, data, adapters and code is in `pipeline/`.", ""]
        artifacts.write_text(self.out / "report.md", "\n".join(lines))


def _shown(reply) -> list[str]:
    text = f"{reply['generated_text']}\n[{reply['status']}, confidence {reply['confidence']}]"
    trace = readable(reply)
    return [f"**{reply['question']}**", "", "```text", *([trace] if trace else []), f"=> {text}", "```", ""]


def _tables(result, digits) -> list[str]:
    lines = []
    if result["calls"]:
        lines += ["Plans written item for item, under the grammar of the experts' schemas:", ""]
        lines += ["| expert | seen wordings | unseen openings | unseen words for the operation |", "|---|---|---|---|"]
    for name, row in result["calls"].items():
        cells = [f"{row[pool]:.2f}" if pool in row else "" for pool in ("seen", "carrier", "operator")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if result["digits"]:
        lines += [
            "",
            "Exact answers to arithmetic by digits of the operands (the model alone was trained on 1 to 3):",
            "",
        ]
        lines += ["| | " + " | ".join(map(str, digits)) + " |", "|---" * (len(digits) + 1) + "|"]
        titles = {"plan": "MRKL, slots", "alone": "the model alone"}
        for name, row in result["digits"].items():
            lines.append(f"| {titles[name]} | " + " | ".join(f"{cell:.2f}" for cell in row) + " |")
    if "readers" in result:
        lines += _reader_table(result["readers"])
    return lines + (_answer_lines(result["answers"]) if "answers" in result else [])


def _reader_table(readers) -> list[str]:
    lines = ["", "Held-out questions of other wordings, read by the grammar, by the model, and by both:", ""]
    lines += ["| | questions | right | left to the model | wrong |", "|---|---|---|---|---|"]
    for name in ("grammar", "model", "both"):
        row = readers[name]
        cells = [f"{row[key] / max(1, row['n']):.3f}" for key in ("right", "left", "wrong")]
        lines.append(f"| {name} | {row['n']} | {' | '.join(cells)} |")
    kept = "is kept: it earns its place" if readers["earns"] else "is left out: it does not earn its place"
    return [*lines, "", f"The model's reader {kept} (threshold {readers['judge']['threshold']:.3f})."]


def _answer_lines(answers) -> list[str]:
    sure, curve = answers["sure"], answers["risk_coverage"]
    said = (
        f"Of {answers['asked']} generated questions kept apart {answers['answers']} were answered, {answers['right']} rightly; "
        f"of those with a confidence of at least {sure['least']} {sure['right']} of {sure['answers']}. Calibration error "
        f"{answers['ece']:.3f}, coverage at 99 % precision {answers['coverage_at_99_precision']:.3f}."
    )
    table = ["| answered, the surest first | wrong of these |", "|---|---|"]
    return ["", said, "", *table, *(f"| {share:.3f} | {risk:.4f} |" for share, risk in curve)]


def _stand_ins() -> list:
    """Experts whose schemas the generated questions are about."""
    rates = {"base": "EUR", "rates": {"2022-05-02": {code: "1.5" for code in CODES if code != "EUR"}}}
    table = {f"{place}|2022-03-01": {"tmax": 10, "tmin": 2, "rain": 0, "wind": 9} for place in PLACES}
    return [Currency(rates, "2022-05-02"), Weather(table, "2022-05-02")]


# -- sentences for answers

PHRASE_WORDINGS = [
    ("which of the {e} companies {verb} most {when}?", "{name}: {n} %", "{name} {verb} most: {n} %."),
    ("which {e} company {verb} the most {when}?", "{name}: {n} %", "{name} {verb} most: {n} %."),
    ("when was {name} founded?", "{n}", "{name} was founded in {n}."),
    ("in which year was {name} founded?", "{n}", "{name} was founded in {n}."),
    ("how many employees does {name} have?", "{n}", "{name} has {n} employees."),
    ("what was the price of {name} on {d}?", "{n}", "The price of {name} on {d} was {n}."),
    ("what is the highest price of {name}?", "{n}", "The highest price of {name} is {n}."),
    ("what is {n2} times {n3}?", "{n}", "The answer is {n}."),
    ("what is {n2} % of {n3}?", "{n}", "{n2} % of {n3} is {n}."),
    ("how many days are there between {d} and {d2}?", "{n}", "There are {n} days between {d} and {d2}."),
    ("what day of the week was {d}?", "{day}", "{d} was a {day}."),
]  # fmt: skip
_VERBS = ("rose", "gained", "fell", "lost")
_SECTORS = ("Old glass", "Copper mining", "Paper", "Road haulage")
_NAMES = ("Brightwater Mills", "Harrow Stone", "Quillon Press", "Ferrand Works", "Larkfield", "Moss Harbour")


def phrase_rows(count: int, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """(masked question and answer, sentence in slot ids): names and numbers differ from those of any demonstration."""
    rng = random.Random(seed)
    known = Known("2022-05-02", titles=(*_SECTORS, *_NAMES))
    rows = []
    while len(rows) < count:
        question, answer, sentence = rng.choice(PHRASE_WORDINGS)
        day = f"2021-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        values = {
            "e": rng.choice(_SECTORS), "name": rng.choice(_NAMES), "verb": rng.choice(_VERBS), "d": day,
            "when": rng.choice(["last month", "this month", "in April 2022", "in May 2021", "two months ago"]),
            "n": rng.choice([f"{rng.randint(-4000, 9000) / 100:.2f}", str(rng.randint(2, 9999))]),
            "n2": str(rng.randint(2, 999)), "n3": str(rng.randint(2, 9999)),
            "day": rng.choice(["Monday", "Friday", "Sunday"]),
            "d2": f"2022-{rng.randint(1, 4):02d}-{rng.randint(1, 28):02d}",
        }  # fmt: skip
        said, answered = question.format(**values), answer.format(**values)
        reading = read(f"{said} | {answered}", known)
        ids = {}
        for name, slot in zip(reading.ids, reading.slots, strict=True):
            ids[slot.text.casefold()] = name
        wanted = {key: ids.get(values[key].casefold()) for key in ("name", "n", "d", "n2", "n3", "d2")}
        used = [key for key in wanted if f"{{{key}}}" in sentence]
        if any(wanted[key] is None for key in used) or len({wanted[key] for key in used}) < len(used):
            continue
        target = sentence.format(**{**values, **{key: f"<{wanted[key]}>" for key in used}})
        rows.append((reading.masked, (f" {target.lower()}",)))
    return rows
