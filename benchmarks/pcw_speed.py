"""What parallel windows cost: encoding, stored windows, many labels, many queries; and what they hold in memory.

    python benchmarks/pcw_speed.py --rounds 15

A random Llama (4 layers, hidden 256, 8 heads, 4 KV heads, vocabulary 2000), one thread, float32. The alternatives of a
comparison run in turn; a ratio is that of paired rounds, with a one-sided 95 % lower bound.
"""

import argparse
import contextlib
import random
import statistics
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.costs import Timing, clock_ms, cpu_threads, speed_ratio
from hf_puzzle.remote import cache_pcw, scoring_pcw
from hf_puzzle.remote.generation_pcw import encode_windows, score_labels, task_logits


ROOT = Path(__file__).parent.parent
SIZES = {
    "vocab_size": 2000,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
WINDOW, TASK, QUERIES, LABELS = 512, 40, 16, 77
PREFIX = (1,)


def random_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.05)).eval().requires_grad_(False)


def random_rows(generator: random.Random, count: int, length: int) -> list[list[int]]:
    return [[generator.randrange(3, SIZES["vocab_size"]) for _ in range(length)] for _ in range(count)]


def random_labels(generator: random.Random, count: int) -> list[tuple[int, ...]]:
    """Different labels of 1 to 4 tokens, from few enough words to share beginnings."""
    words = random_rows(generator, 1, 30)[0]
    labels = set()
    while len(labels) < count:
        labels.add(tuple(generator.choices(words, k=generator.choice([1, 2, 3, 4]))))
    return sorted(labels, key=lambda label: (len(label), label))


def compare(jobs: dict[str, Callable], rounds: int, clock: str) -> dict[str, list[Timing]]:
    """`rounds` timings of every job, in turn, after one warm-up each."""
    now = clock_ms(clock, torch.device("cpu"))
    timings = {name: [] for name in jobs}
    for round_idx in range(rounds + 1):
        for name, job in jobs.items():
            start = now()
            job()
            if round_idx:
                timings[name].append(Timing(now() - start, 0.0))
    return timings


def spread(timings: list[Timing]) -> dict[str, float]:
    """Quartiles over the rounds, in milliseconds."""
    lower, median, upper = statistics.quantiles([t.total_ms for t in timings], n=4, method="inclusive")
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def report(title: str, timings: dict[str, list[Timing]], ratios: dict[str, tuple[str, str]]) -> dict:
    found = {
        "ms": {name: spread(values) for name, values in timings.items()},
        "ratio": {name: speed_ratio(timings[a], timings[b]).to_dict() for name, (a, b) in ratios.items()},
    }
    times = ", ".join(f"{name} {value['median']:.1f} ms" for name, value in found["ms"].items())
    values = ", ".join(f"{name} {r['value']:.2f}x (>= {r['lower_bound']:.2f})" for name, r in found["ratio"].items())
    print(f"{title}: {times}\n    {values}")
    return found


@contextlib.contextmanager
def held_bytes() -> Iterator[list[int]]:
    """A list whose one entry is the most bytes that the caches of one forward held."""
    stock, peak, live = cache_pcw.FullLayer.update, [0], {}

    def update(self, *args, **kwargs):
        answer = stock(self, *args, **kwargs)
        if id(self) not in live:  # what is freed is not held
            weakref.finalize(self, live.pop, id(self), None)
        live[id(self)] = sum(t.numel() * t.element_size() for t in (self.keys, self.values))
        peak[0] = max(peak[0], sum(live.values()))
        return answer

    cache_pcw.FullLayer.update = update
    try:
        yield peak
    finally:
        cache_pcw.FullLayer.update = stock


@contextlib.contextmanager
def head_rows(model) -> Iterator[list[int]]:
    """A list of how many hidden states each call of the language-model head got."""
    rows = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0][..., 0].numel()))
    try:
        yield rows
    finally:
        hook.remove()


def labels_of(model, encoded, generator, rounds, clock) -> dict:
    tasks, labels = random_rows(generator, 1, TASK), random_labels(generator, LABELS)
    jobs = {
        name: lambda name=name: score_labels(model, encoded, tasks, labels, scores=name)
        for name in ("trie", "greedy", "each")
    }
    timings = compare(jobs, rounds, clock)
    found = report(
        f"{LABELS} labels", timings, {"trie against each": ("each", "trie"), "greedy against trie": ("trie", "greedy")}
    )
    trie = scoring_pcw.Trie(labels)
    return found | {
        "labels": len(labels),
        "label_tokens": sum(map(len, labels)),
        "trie_nodes": len(trie.tokens),
        "max_abs_difference": float((jobs["trie"]() - jobs["each"]()).abs().max()),
    }


def queries_of(model, encoded, generator, rounds, clock) -> dict:
    tasks, labels = random_rows(generator, QUERIES, TASK), random_labels(generator, 6)
    jobs = {
        "one by one": lambda: [task_logits(model, encoded, [task]) for task in tasks],
        "batch": lambda: task_logits(model, encoded, tasks),
        "packed": lambda: task_logits(model, encoded, tasks, packed=True),
    }
    found = report(
        f"{QUERIES} queries",
        compare(jobs, rounds, clock),
        {"packed against one by one": ("one by one", "packed"), "packed against batch": ("batch", "packed")},
    )
    scoring = {
        "one by one": lambda: [score_labels(model, encoded, [task], labels) for task in tasks],
        "packed": lambda: score_labels(model, encoded, tasks, labels),
    }
    found["six_labels"] = report(
        f"{QUERIES} queries of 6 labels",
        compare(scoring, rounds, clock),
        {"packed against one by one": ("one by one", "packed")},
    )
    memory = []
    for count in (1, 4, QUERIES, 4 * QUERIES):
        row = {"queries": count, "context_bytes": encoded.num_bytes}
        for name, packed in (("packed", True), ("batch", False)):
            with held_bytes() as peak:
                task_logits(model, encoded, (tasks * 4)[:count], packed=packed)
            row[name] = {"peak_cache_bytes": peak[0], "copies_of_context": peak[0] / encoded.num_bytes}
        memory.append(row)
        print(f"    {count} queries: {row}")
    pairs = zip(jobs["packed"](), jobs["batch"](), strict=True)
    return found | {"memory": memory, "max_abs_difference": max(float((a - b).abs().max()) for a, b in pairs)}


def stored_windows(model, windows, encoded, generator, rounds, clock) -> dict:
    tasks = random_rows(generator, 1, TASK)
    jobs = {
        "stored": lambda: task_logits(model, encoded, tasks),
        "encode again": lambda: task_logits(model, encode_windows(model, windows, PREFIX), tasks),
    }
    ratios = {"stored against encode again": ("encode again", "stored")}
    return report(f"query after {len(windows)} windows", compare(jobs, rounds, clock), ratios)


def encoding(model, generator, rounds, clock) -> list[dict]:
    rows = []
    for count in (1, 2, 4, 8):
        windows = random_rows(generator, count, WINDOW - len(PREFIX))
        sequence = torch.tensor([[*PREFIX, *(i for window in windows for i in window)]])
        jobs = {
            "windows": lambda windows=windows: encode_windows(model, windows, PREFIX),
            "one sequence": torch.no_grad()(
                lambda sequence=sequence: model.model(sequence, past_key_values=DynamicCache(), use_cache=True)
            ),
        }
        found = report(
            f"{count} windows of {WINDOW}",
            compare(jobs, rounds, clock),
            {"windows against one sequence": ("one sequence", "windows")},
        )
        with head_rows(model) as head:
            encode_windows(model, windows, PREFIX)
        rows.append({"windows": count, "tokens": sequence.shape[1], "head_rows": sum(head)} | found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="cpu: other jobs do not count")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_speed.json")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    model = random_model(args.seed)
    measure = {"rounds": args.rounds, "clock": args.clock}
    with cpu_threads(1):
        windows = random_rows(generator, 3, WINDOW - len(PREFIX))
        encoded = encode_windows(model, windows, PREFIX)
        found = {
            "encoding": encoding(model, generator, **measure),
            "stored": stored_windows(model, windows, encoded, generator, **measure),
            "queries": queries_of(model, encoded, generator, **measure),
            "labels": labels_of(model, encoded, generator, **measure),
        }
    settings = {"sizes": SIZES, "window_tokens": WINDOW, "windows": len(windows), "task_tokens": TASK, "threads": 1}
    artifacts.write_json(
        args.out, {"environment": artifacts.environment(), "seed": args.seed} | settings | measure | found
    )


if __name__ == "__main__":
    main()
