"""Hostile input for every reader: valid values, structured mutations of them, and what a reader may answer.

A `Target` is made in a folder of its own and takes one mutated value at a time. It answers, or raises an error that the
library names; anything else is a crash. `test_fuzz.py` draws a few inputs per target, `benchmarks/fuzz.py` many.
"""

import contextlib
import copy
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from pcw_models import byte_level, tiny_llama
from transformers import LlamaConfig, Qwen2Config

from hf_puzzle import artifacts, cli, hub
from hf_puzzle.blocks import Block
from hf_puzzle.engines.check import check_folder
from hf_puzzle.formats import decilm_config, describe, per_layer_config, stock_class
from hf_puzzle.mrkl.data import make_world
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.puzzle.search import check_constraints
from hf_puzzle.recipe import load_recipe, parse_recipe
from hf_puzzle.remote.calls_mrkl import check_schema, coerce, parse_number
from hf_puzzle.remote.compositions_mrkl import Composition
from hf_puzzle.remote.dates_mrkl import Dates, parse_date
from hf_puzzle.remote.exact_mrkl import Calculator
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.generation_mrkl import call_grammar
from hf_puzzle.remote.generation_pcw import encode_windows
from hf_puzzle.remote.known_mrkl import Known
from hf_puzzle.remote.masks_mrkl import Machine, text
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline
from hf_puzzle.remote.planner_mrkl import Planner
from hf_puzzle.remote.store_pcw import load_windows, save_windows
from hf_puzzle.remote.windows_pcw import (
    Template,
    lay_out_demonstrations,
    lay_out_documents,
    read_demonstrations,
    tokenize_labels,
)


RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
QUERY_STATUSES = {"ok", "error", "no_data", "refused", "abstain"}
CALL_STATUSES = {"ok", "error", "no_data", "refused"}

# -- mutations

ODD_VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, "", "x", "0", "-1", "1e999", "nan",
    "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "[bold]", "{label}", "${HOME}", "!!python/object:os.system",
    "\u0663", "\u00b2", "kv4+w512", "none", "9" * 5000, [], [1], [None], ["x"], [[]], {}, {"a": 1}, {"": None}, {"0": {}}, [{}],
]  # fmt: skip
ODD_TEXTS = [
    "", " ", "\n", "\t", "\r\n", "\0", "\ufeff", "\u202e", "\u2028", "\ud800", "\U0001f600", "\u0663", "\u00b2", "\u00bd", "0", "-1", "1e999",
    "1e-9999", "9" * 400, "0x10", "1_000", "1,000", "nan", "inf", "%", "(", ")", "((((((((", "[[[[[[[[", "{{{{{{{{", "{}", "'", '"', "\\",
    "*", "/", "**", "^", "&a ", "*a", "<<: ", "!!python/object/apply:os.system ", "!!int ", "---\n", ": ", "- ", "? ", "| ", "#", "=",
    "+", "kv", "win", "none", "linear", "{label}", "{text!r:>9}", "{0}", "%s", "$1", "$(id)", ";", "--", "'; DROP TABLE x; --", "<e1>", "<n1>",
    "today", "yesterday", "30 February", "next friday", "31/12/0000", "year 10000", "half", "minus", "divided by zero", "euro", "km", "of",
]  # fmt: skip


def mutated_text(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice([1, 1, 1, 2, 3, 5])):
        a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        b = min(b, a + rng.choice([0, 1, 4, 40]))
        kind = rng.randint(0, 5)
        if kind == 0:
            text = text[:a] + text[b:]
        elif kind == 1:
            text = text[:a] + rng.choice(ODD_TEXTS) + text[b:]
        elif kind == 2:
            text = text[:b] + text[a:b] * rng.choice([1, 2, 9]) + text[b:]
        elif kind == 3:
            text = text[:a] + chr(rng.choice([rng.randint(32, 126), rng.randint(0, 0x2FF), 0x2212])) + text[b:]
        elif kind == 4:
            words = text.split(" ")
            rng.shuffle(words)
            text = " ".join(words)
        else:
            text = text[:a]
    return text[:5000]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randint(0, max(0, len(data) - 1))
        if rng.random() < 0.5:  # headers break more readers than bodies do
            place = min(place, rng.randint(0, 200))
        kind = rng.randint(0, 4)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randint(0, 7)
        elif kind == 1:
            del data[place : place + rng.choice([1, 8, 100, len(data)])]
        elif kind == 2:
            data[place:place] = rng.choice([b"\0", b"\xff" * 8, b"{", b'"', b"9" * 30, b"[" * 50, b"-1"])
        elif kind == 3 and data:
            data[place : place + 8] = (rng.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1])).to_bytes(8, "little")
        else:
            data = data[: place + 1]
    return bytes(data)


NESTED = "(nested without end)"  # what `as_json` writes in its place


def _places(value, place=()):
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _places(each, (*place, key))


def mutated_json(value, rng: random.Random, deep: bool = True):
    """A value with places that are gone, doubled, renamed, of another type, or exchanged with another place."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = list(_places(value))
        if not places:
            return copy.deepcopy(rng.choice(ODD_VALUES))
        *path, key = rng.choice(places)
        holder = value
        for each in path:
            holder = holder[each]
        kind = rng.randint(0, 7)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 1:
            holder[rng.choice([f"{key}s", "x", "", "../x", "0", "-1"])] = holder.pop(key)
        elif kind == 2 and isinstance(holder[key], str):
            holder[key] = mutated_text(holder[key], rng)
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = rng.choice(
                [-holder[key], holder[key] * 1000, holder[key] + 1, float(holder[key]), str(holder[key])]
            )
        elif kind == 4:
            *other_path, other = rng.choice(places)
            donor = value
            with contextlib.suppress(LookupError, TypeError):
                for each in other_path:
                    donor = donor[each]
                holder[key] = copy.deepcopy(donor[other])
        elif kind == 5 and deep and rng.random() < 0.1:
            holder[key] = NESTED
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value


def as_json(value, rng: random.Random) -> bytes:
    """JSON of a mutated value, at times with bytes that are broken too."""
    data = json.dumps(value).encode().replace(json.dumps(NESTED).encode(), b"[" * rng.choice([99, 99_999]))
    return mutated_bytes(data, rng) if rng.random() < 0.1 else data


# -- targets


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        draw: a mutated input from a random generator.
        run: reads it; raises `allowed` or nothing.
    """

    draw: Callable
    run: Callable
    allowed: tuple[type[Exception], ...] = (ValueError, OSError)


def quietly(*arguments: object) -> None:
    """The command line; an answer other than success or a named error is a crash."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = cli.main([str(each) for each in arguments])
    assert code in (0, 2), code
    assert code == 0 or said.getvalue().startswith("hf-puzzle: "), said.getvalue()


def recipes_as_values(folder: Path) -> Target:
    seeds = [yaml.safe_load(path.read_text()) for path in RECIPES]
    texts = ["a.b=1", "constraints.speedup=2", "seed=[", "solve={a: 1}", ".=1", "library.args.x=1", "=", "system=pcw"]

    def draw(rng):
        overrides = [mutated_text(rng.choice(texts), rng) for _ in range(rng.choice([0, 0, 1, 2]))]
        return mutated_json(rng.choice(seeds), rng), overrides

    def run(value):
        recipe = parse_recipe(*value)
        if recipe.system == "puzzle":
            PuzzleRun(recipe, folder)
            check_constraints(recipe.constraints, recipe.cost)

    return Target(draw, run)


def recipes_as_text(folder: Path) -> Target:
    seeds = [path.read_text() for path in RECIPES]

    def run(text):
        path = folder / "recipe.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        load_recipe(path)

    return Target(lambda rng: mutated_text(rng.choice(seeds), rng), run)


def json_files(folder: Path) -> Target:
    seeds = [{"a": [1, 2.5, None, {"b": "x"}]}, [1, {"c": 1e5}], {"stage": {"inputs": "x", "finished": "y"}}]

    def run(data):
        for name in ("a.json", "manifest.json"):
            (folder / name).write_bytes(data)
        with contextlib.suppress(artifacts.ArtifactError):
            artifacts.Manifest(folder).is_finished("stage", "x")
        artifacts.read_json(folder / "a.json")

    return Target(lambda rng: as_json(mutated_json(rng.choice(seeds), rng), rng), run)


def json_lines(folder: Path) -> Target:
    rows = [{"name": "layer_00/ffn.w512", "loss": 0.5}, {"name": "layer_01/attention.kv2", "dropped": "NaN"}]

    def draw(rng):
        lines = [as_json(mutated_json(rng.choice(rows), rng), rng) for _ in range(rng.randint(1, 4))]
        return b"\n".join(lines) + rng.choice([b"\n", b""])

    def run(data):
        (folder / "index.jsonl").write_bytes(data)
        library = BlockLibrary(folder)
        for name in library.index:
            with contextlib.suppress(ValueError):
                library.weights(name)

    return Target(draw, run)


def tensor_files(folder: Path) -> Target:
    path = folder / "x.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16), "c": torch.tensor([1])}
    artifacts.write_tensors(path, tensors, {"id": "x"})
    seed = path.read_bytes()
    artifacts.write_tensors(path, {name: tensors[name] for name in ("a", "b")})
    seeds = [seed, path.read_bytes()]

    def run(data):
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            artifacts.read_tensors(path)

    return Target(lambda rng: mutated_bytes(rng.choice(seeds), rng), run)


def block_ids(folder: Path) -> Target:
    seeds = ["kv4+w512", "kv4win512+e4", "linear+none", "none+none", "kv1+e1", "kv16+linear"]

    def run(text):
        assert Block.parse(text).id == text

    return Target(lambda rng: mutated_text(rng.choice(seeds), rng), run)


def _configs() -> list[dict]:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 256, "num_hidden_layers": 3}
    found = []
    for family in (LlamaConfig, Qwen2Config):
        config = family(**sizes, num_attention_heads=4, num_key_value_heads=4)
        blocks = [Block(2, 256), Block("none", 256), Block("linear", "linear")]
        child = decilm_config(config, blocks)
        config.architectures, child.architectures = [stock_class(config).__name__], ["DeciLMForCausalLM"]
        found += [config, per_layer_config(config, blocks), child]
    return [json.loads(config.to_json_string(use_diff=False)) for config in found]


def model_configs(folder: Path) -> Target:
    seeds = _configs()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    artifacts.write_tensors(folder / "model-00001-of-00002.safetensors", {"model.norm.weight": torch.ones(32)})
    notes = {"puzzle_format_version": 1, "recipe": {}}
    tokenizer = {"model": {"type": "BPE", "byte_fallback": False}}

    def draw(rng):
        files = {"config.json": rng.choice(seeds)}
        files |= {"model.safetensors.index.json": index} if rng.random() < 0.3 else {}
        files |= {"puzzle.json": notes} if rng.random() < 0.2 else {}
        files |= {"tokenizer.json": tokenizer} if rng.random() < 0.2 else {}
        hit = rng.choice(list(files))
        return {
            n: as_json(mutated_json(v, rng), rng) if n in (hit, "config.json") else as_json(v, random.Random(1))
            for n, v in files.items()
        }

    def run(files):
        for path in folder.glob("*.json"):
            path.unlink()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        with contextlib.suppress(ValueError, OSError):
            check_folder(folder)
        describe(hub.read_config(folder))

    return Target(draw, run)


def _run_folder(folder: Path) -> dict[str, object]:
    """What a finished run stores and `show` and `solve` read, made by hand."""
    parent, layers = Block(4, 512), 3
    offered = [
        parent,
        Block(2, 512),
        Block(4, 256),
        Block("none", 256),
        Block("linear", "none"),
        Block("kv2win8", 256),
    ]
    scores = [
        {"layer_idx": i, "block": b.id, "value": 0.01 * j * (i + 1), "standard_error": 0.001, "tokens": 96, "metric": "kl"}
        for i in range(layers)
        for j, b in enumerate(offered)
    ]  # fmt: skip
    names = {f"attention:{b.id.split('+')[0]}" for b in offered} | {f"ffn:{b.id.split('+')[1]}" for b in offered}
    sizes = {name: 1000 + 10 * i for i, name in enumerate(sorted(names))}
    phases = {"prefill_ms": 1.5, "decode_ms": 2.5}
    fit = {"offset_ms": 0.5, "slope": 1.1, "error_mean": 0.01, "error_max": 0.02}
    child = {"name": "parent", "blocks": [parent.id] * layers, "spread": 0.01, "prefill_ms": 5.0, "decode_ms": 9.0}
    costs = {
        "workload": {"prefill_tokens": 8, "decode_tokens": 4, "clock": "cpu", "engine": "transformers"},
        "parameters": sizes,
        "kv_bytes_per_token": {n: 64 for n in sizes if n.startswith("attention")},
        "non_block_parameters": 5000,
        "dtype": "float32",
        "times": {"2": {name: {"prefill_ms": 0.1 + i / 20, "decode_ms": 0.5} for i, name in enumerate(sorted(names))}},
        "fits": {"2": dict.fromkeys(phases, fit)},
        "children": {"2": [child, {**child, "name": "0"}]},
    }
    ratio = {"value": 2.0, "lower_bound": 1.9, "rounds": 3, "confidence": 0.95}
    round_ = {"round": 0, "margin": 1.02, "batch_size": 2, "total": ratio, "distance": 0.1, "child_ms": 3.0}
    chosen = {"batch_size": 2, "blocks": [b.id for b in offered[:layers]], "distance": 0.1, "measured": None}
    quality = {
        "top1": 0.4,
        "parent_top1": 0.5,
        "top1_kept": 0.8,
        "top1_kept_stderr": 0.01,
        "loss": 2.0,
        "parent_loss": 1.9,
    }
    quality |= {"kl": 0.1, "kl_stderr": 0.01, "tokens": 256}
    memory = {"num_parameters": 9000, "weight_bytes": 36000, "kv_bytes": 64, "peak_bytes": None}
    answers = {"accuracy": 0.4, "items": 8, "kept": 0.9, "kept_stderr": 0.1}
    evaluation = {
        "speed": {"parent_tokens_per_s": 10.0, "tokens_per_s": 20.0, **dict.fromkeys(("total", "prefill", "decode", "same_code"), ratio)},
        "memory": {"parent": memory, "child": memory},
        "quality": {"distilled": quality, "child": quality},
        "task": {"distilled": answers, "parent": answers},
        "quantized": [{"weights": "int8", "weight_bytes": 900, "quality": quality}],
        "assisted": {"draft_tokens": 4, "median_ms": {"plain": 9.0, "assisted": 8.0}, "speed": ratio, "identical": 8, "prompts": 8},
    }  # fmt: skip
    recipe = {
        "parent": {"name": "p"},
        "data": {"name": "text"},
        "library": {"num_tokens": 0},
        "distill": {"num_tokens": 0},
    }
    recipe |= {
        "constraints": {"speedup": 1.8},
        "cost": {"batch_sizes": [2]},
        "solve": {"num_solutions": 2, "time_limit_s": 5.0},
    }
    return {
        "recipe.yaml": recipe,
        "overrides.json": ["constraints.num_parameters=30000"],
        "scores.jsonl": scores,
        "costs.json": costs,
        "solutions.json": {"constraints": {}, "chosen": chosen, "rounds": [round_]},
        "eval.json": evaluation,
    }


def write_run_folder(folder: Path, files: dict[str, object]) -> None:
    """`files` as `_run_folder` has them; bytes are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        if not isinstance(value, bytes):
            rows = value if name.endswith(".jsonl") else [value]
            value = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / name).write_bytes(value)


def run_folders(folder: Path) -> Target:
    seeds = _run_folder(folder)

    def draw(rng):
        name = rng.choice(list(seeds))
        if name != "scores.jsonl":
            return {name: as_json(mutated_json(seeds[name], rng), rng)}
        rows = mutated_json(seeds[name], rng, deep=False)
        return {
            name: b"".join(as_json(row, rng) + b"\n" for row in rows) if isinstance(rows, list) else as_json(rows, rng)
        }

    def run(files):
        write_run_folder(folder, {**seeds, **files})
        quietly("show", folder)
        quietly("solve", folder)

    return Target(draw, run)


def demonstrations(folder: Path) -> Target:
    tokenizer = byte_level()
    seeds = [
        {"demonstrations": [["great film", "good"], ["a waste", "bad"]], "template": "Text: {text}\nLabel: {label}", "separator": "\n==\n",
         "labels": ["bad", "good"], "context": 64},
        {"demonstrations": [{"premise": "a", "hypothesis": "b", "label": 0}], "template": "{premise} {hypothesis}: {label}", "separator": " ",
         "labels": ["yes", "no"], "context": 100, "num_windows": 1, "seed": 3},
        {"documents": ["one text", "another"], "context": 80, "task_tokens": 8, "num_windows": 2, "separator": "\n\n", "prompt": "Read."},
    ]  # fmt: skip

    def run(value):
        value = dict(value) if isinstance(value, dict) else {"documents": value, "context": 40, "task_tokens": 3}
        if not isinstance(value.setdefault("context", 64), int) or not -10 < value["context"] < 10_000:
            value["context"] = 64  # an argument of code, not of a file
        sizes = {n: value[n] for n in ("num_windows", "task_tokens", "seed") if type(value.get(n)) is int}
        texts = {n: value[n] for n in ("prompt",) if isinstance(value.get(n), str)}
        if "documents" in value:
            sizes.pop("seed", None)
            lay_out_documents(tokenizer, value["documents"], value["context"], **{"task_tokens": 8, **sizes, **texts})
            return
        template = Template(value.get("template", Template.text), value.get("separator", "\n"))
        shots, names = read_demonstrations(value.get("demonstrations"), template, value.get("labels"))
        layout = lay_out_demonstrations(tokenizer, shots, names, template, value["context"], **sizes, **texts)
        tokenize_labels(layout.tokens, names, template)
        layout.report()

    return Target(lambda rng: mutated_json(rng.choice(seeds), rng, deep=False), run)


def window_stores(folder: Path) -> Target:
    model, tokenizer = tiny_llama(byte_level()), byte_level()
    save_windows(folder, encode_windows(model, [[5, 6, 7], [9, 10]], [1]), model, tokenizer)
    header = json.loads((folder / "windows.json").read_text())
    # copies: the file they are mapped from is overwritten
    tensors = {n: t.clone() for n, t in artifacts.read_tensors(folder / "windows.safetensors").items()}
    whole = (folder / "windows.safetensors").read_bytes()

    def draw(rng):
        if rng.random() < 0.3:
            return header, mutated_bytes(whole, rng)
        if rng.random() < 0.5:
            return mutated_json(header, rng), whole
        changed = dict(tensors)
        name = rng.choice(list(changed))
        odd = [
            torch.zeros(0),
            torch.tensor(3),
            torch.full((3,), -7),
            torch.ones(2, 2),
            changed[name].float(),
            changed[name][:1],
            2**40 * torch.ones(2, dtype=torch.long),
        ]
        changed[name] = rng.choice(odd)
        if rng.random() < 0.2:
            del changed[name]
        artifacts.write_tensors(folder / "changed", changed, {"id": header["id"]})
        return header, (folder / "changed").read_bytes()

    def run(files):
        (folder / "windows.json").write_bytes(as_json(files[0], random.Random(1)))
        (folder / "windows.safetensors").write_bytes(files[1])
        load_windows(folder, model, tokenizer)

    return Target(draw, run)


def pcw_settings(folder: Path) -> Target:
    model, tokenizer = tiny_llama(byte_level()), byte_level()
    shots = [["great film", "good"], ["a waste", "bad"]]
    PCWClassificationPipeline(model=model, tokenizer=tokenizer, demonstrations=shots).save_pretrained(folder)
    seed = json.loads((folder / "pcw.json").read_text())
    model = copy.deepcopy(model)
    model.config._name_or_path, model.config.custom_pipelines = str(folder), {"pcw-classification": {}}

    def run(value):
        (folder / "pcw.json").write_bytes(as_json(value, random.Random(1)))
        PCWClassificationPipeline(model=model, tokenizer=tokenizer)("so so")

    return Target(lambda rng: mutated_json(seed, rng), run)


def mrkl_settings(folder: Path) -> Target:
    world = make_world(folder / "world", "train", 2)
    model, tokenizer = tiny_llama(byte_level(), positions=1024), byte_level()
    experts = Experts.from_fixtures(folder / "world", world.today)
    composition = {
        "name": "sums", "description": "adds", "arguments": {"a": "number", "b": "number"}, "examples": ["add 1 and 2"],
        "steps": [{"id": "s", "expert": "calculator", "arguments": {"expression": "{a}+{b}"}}], "answer": "{s}",
    }  # fmt: skip
    made = MrklPipeline(
        model=model, tokenizer=tokenizer, experts=experts, today=world.today, compositions=[composition]
    )
    made.save_pretrained(folder / "saved")
    seed = json.loads((folder / "saved" / "mrkl.json").read_text())
    model = copy.deepcopy(model)
    model.config._name_or_path, model.config.custom_pipelines = str(folder / "saved"), {"mrkl": {}}

    def run(value):
        (folder / "saved" / "mrkl.json").write_bytes(as_json(value, random.Random(1)))
        opened = MrklPipeline(model=model, tokenizer=tokenizer)
        assert opened("What is 12 times 12?", max_new_tokens=1)["status"] in QUERY_STATUSES

    return Target(lambda rng: mutated_json(seed, rng), run)


def expert_files(folder: Path) -> Target:
    """Tables, documents and the database of a folder of experts."""
    world = make_world(folder / "world", "train", 2)
    names = ("rates.json", "units.json", "weather.json", "wiki.jsonl", "shop.sqlite")
    seeds = {name: (folder / "world" / name).read_bytes() for name in names}
    values = {n: json.loads(seeds[n]) for n in names[:3]}
    pages = [json.loads(line) for line in seeds["wiki.jsonl"].decode().splitlines()]
    other = folder / "other"

    def draw(rng):
        name = rng.choice(names)
        if name == "shop.sqlite":
            return name, mutated_bytes(seeds[name], rng)
        if name == "wiki.jsonl":
            return name, b"\n".join(as_json(mutated_json(page, rng), rng) for page in rng.sample(pages, 2))
        return name, as_json(mutated_json(values[name], rng), rng)

    def run(value):
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        (other / value[0]).write_bytes(value[1])
        experts = Experts.from_fixtures(other, world.today)
        known = Known.of(experts, world.today)
        Planner(experts, known).ask("What is 3 USD in EUR?")
        for name, query in (
            ("currency", {"amount": 1, "from": "USD", "to": "EUR"}),
            ("units", {"value": 1, "from": "km", "to": "m"}),
        ):
            if name in experts:
                experts[name].run(experts[name].check(query))

    return Target(draw, run)


def queries(folder: Path) -> Target:
    world = make_world(folder, "train", 2)
    experts = Experts.from_fixtures(folder, world.today)
    known = Known.of(experts, world.today)
    planners = [Planner(experts, known)]
    table = next(iter(known.schema.columns))
    seeds = [
        "What is three hundred and five plus seven?", "take 15% off 80", "How many days are between 3 May 2021 and today?",
        f"How warm was it in {world.towns[0]} on {world.days[0]}?", f"How many {table} are there?", "Convert 12 km to miles, then double it.",
        f"What is 20 USD in {world.codes[-1]} on {world.rate_days[0]}?", "Which day of the week was 2020-02-29?", "Who are you?",
        f"What is the highest of all {table} whose name is {world.towns[1]}, divided by (12.5 - 3/4)^2?",
    ]  # fmt: skip

    def run(text):
        for planner in planners:
            answer = planner.ask(text)
            assert answer["status"] in QUERY_STATUSES, answer
            for step in answer["trace"]:
                assert " failed: " not in str(step), step

    return Target(lambda rng: mutated_text(rng.choice(seeds), rng), run)


def calculations(folder: Path) -> Target:
    seeds = [
        "12345678 * 87654321",
        "(1.5 + 3/4)^2 - -7",
        "15% of 80",
        "2**10 / 3",
        "1e300 * 1e300",
        "200 + 10%",
        "((1))",
        "1,234.5 - 7",
    ]
    calculator = Calculator()

    def run(text):
        assert calculator.run(calculator.check({"expression": text})).status in CALL_STATUSES
        parse_number(text)

    return Target(lambda rng: mutated_text(rng.choice(seeds), rng), run)


def dates(folder: Path) -> Target:
    today = "2022-05-02"
    seeds = [
        "2022-05-02",
        "3 May 2021",
        "the day after tomorrow",
        "last Friday",
        "three weeks ago",
        "29 February 2023",
        "Easter 2022",
    ]
    expert = Dates(today)
    calls = [
        {"op": "shift", "start": "2020-02-29", "years": 1, "months": -3, "days": 40}, {"op": "weekday", "date": "today"},
        {"op": "days_between", "start": "2020-01-01", "end": "2022-05-02"}, {"op": "years_between", "start": "1900-02-29", "end": "today"},
    ]  # fmt: skip

    def draw(rng):
        return mutated_text(rng.choice(seeds), rng) if rng.random() < 0.6 else mutated_json(rng.choice(calls), rng)

    def run(value):
        if isinstance(value, str):
            parse_date(value, expert.today)
        else:
            assert expert.run(expert.check(value)).status in CALL_STATUSES

    return Target(draw, run)


def tables(folder: Path) -> Target:
    """Calls of the experts with a table: units, currency, weather, documents, SQL."""
    world = make_world(folder, "train", 2)
    experts = Experts.from_fixtures(folder, world.today)
    table = next(iter(experts["database"].tables))
    calls = [
        ("units", {"value": "12.5", "from": "km", "to": "miles"}), ("units", {"value": 3, "from": "°C", "to": "fahrenheit"}),
        ("currency", {"amount": 20, "from": "EUR", "to": world.codes[-1], "date": world.rate_days[0]}),
        ("weather", {"place": world.towns[0], "date": world.days[0], "field": "tmax"}),
        ("wiki", {"query": f"How many people live in {world.towns[0]}?"}), ("database", {"sql": f"SELECT COUNT(*) FROM {table}"}),
        ("database", {"sql": f"WITH x AS (SELECT * FROM {table}) SELECT a.*, 1/0, 'x' || NULL FROM x a LIMIT 3"}),
    ]  # fmt: skip

    def draw(rng):
        name, arguments = rng.choice(calls)
        if rng.random() < 0.5:
            key = rng.choice(list(arguments))
            return name, {**arguments, key: mutated_text(str(arguments[key]), rng)}
        return name, mutated_json(arguments, rng)

    def run(value):
        expert = experts[value[0]]
        assert expert.run(expert.check(value[1])).status in CALL_STATUSES

    return Target(draw, run)


def call_texts(folder: Path) -> Target:
    """The grammar of calls while generating, and schemas of strangers' tools."""
    world = make_world(folder, "train", 2)
    schemas = {name: expert.parameters for name, expert in Experts.from_fixtures(folder, world.today).items()}
    schemas["tool"] = {
        "type": "object", "required": ["a"],
        "properties": {"a": {"type": "array", "items": {"type": "integer"}}, "b": {"type": "string", "enum": ["x", "y"], "nullable": True}},
    }  # fmt: skip
    seeds = [
        'calculator({"expression": "1+2"})',
        'units({"value": 1.5, "from": "km", "to": "m"})',
        'tool({"a": [1, 2], "b": "x"})',
    ]
    arguments = {"a": [1, 2], "b": "x"}

    def draw(rng):
        return (
            mutated_text(rng.choice(seeds), rng),
            mutated_json(schemas["tool"], rng, deep=False),
            mutated_json(arguments, rng),
        )

    known = Machine(call_grammar(schemas, text("]")))

    def run(value):
        written, schema, given = value
        state = known.start
        for byte in written.encode(errors="surrogatepass"):
            if (following := known.step(state, byte)) is None:
                break
            state = following
        known.ending(state)
        check_schema(schema)
        machine = Machine(call_grammar({"tool": schema}, text("]")))
        machine.ending(machine.start)
        for name, each in schema.get("properties", {}).items():
            coerce(name, given.get(name) if isinstance(given, dict) else given, each)

    return Target(draw, run)


def compositions(folder: Path) -> Target:
    seed = {
        "name": "dearest", "description": "The dearest thing", "arguments": {"n": "number", "kind": {"a": ["alpha"], "b": ["beta"]}},
        "examples": ["what is the dearest alpha of 3"], "digits": 6, "answer": "{best.0} costs {best}",
        "steps": [
            {"id": "rows", "expert": "database", "arguments": {"sql": "SELECT name FROM x LIMIT {n}"}},
            {"id": "each", "each": "rows", "expert": "currency", "arguments": {"amount": "{row.0}", "from": "EUR", "to": "USD"}},
            {"id": "best", "pick": "each", "order": "max"},
        ],
    }  # fmt: skip
    return Target(lambda rng: mutated_json(seed, rng), Composition.read)


TARGETS = {
    make.__name__: make
    for make in (
        recipes_as_values, recipes_as_text, json_files, json_lines, tensor_files, block_ids, model_configs, run_folders,
        demonstrations, window_stores, pcw_settings, mrkl_settings, expert_files, queries, calculations, dates, tables,
        call_texts, compositions,
    )
}  # fmt: skip


def stumbled(target: Target, value: object) -> Exception | None:
    """What `target` raised for `value` that it may not, or None."""
    try:
        target.run(value)
    except target.allowed as error:
        # a ValueError of Python's own tells a user nothing; sqlite3's errors and KeyError are no ValueError at all
        return None if is_named(error) else error
    except Exception as error:
        return error
    return None


def is_named(error: Exception) -> bool:
    """Whether an error was raised on purpose: by a `raise` of ours or of a library, and not by Python's built-ins."""
    if isinstance(error, OSError) or type(error).__module__ != "builtins":
        return True
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    lines = Path(traceback.tb_frame.f_code.co_filename)
    if not lines.exists():
        return False
    return lines.read_text().splitlines()[traceback.tb_lineno - 1].lstrip().startswith(("raise ", "raise"))
