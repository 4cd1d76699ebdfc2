"""Children in llama.cpp: the same logits, greedy tokens and token ids as in transformers, and how much faster they are.

    python benchmarks/llamacpp.py --rounds 12

Equality is measured on random DeciLM models of every block kind, in float32 with a float32 KV cache; token ids on lines
of the standard library's sources. Speed: f16, one thread, all models generating in turn. (Not named llama_cpp.py: a
script's folder comes first on the path, and would hide the package.)
"""

import argparse
import itertools
import random
import statistics
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.costs import Timing, Workload, measure_interleaved, median_timing, speed_ratio
from hf_puzzle.engines.gguf import write_gguf
from hf_puzzle.engines.llama_cpp import LlamaCpp, from_model
from hf_puzzle.engines.measuring import as_engine_runs_it
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


ROOT = Path(__file__).parent.parent
TINY_PARENT = ROOT / "recipes/puzzle/tiny_parent"
PROMPT, NEW = 96, 32

Layout = Sequence[Block]
EQUALITY_SIZES = {"hidden_size": 256, "num_attention_heads": 8, "vocab_size": 512}
EQUALITY = {
    "parent": [Block(8, 768)] * 4,
    "kv heads 4": [Block(4, 768)] * 4,
    "kv heads 2": [Block(2, 768)] * 4,
    "kv heads 1": [Block(1, 768)] * 4,
    "kv heads mixed": [Block(8, 768), Block(1, 768), Block(4, 768), Block(2, 768)],
    "widths mixed": [Block(8, 256), Block(8, 1280), Block(8, 512), Block(8, 768)],
    "attention none": [Block(8, 768), Block("none", 768), Block("none", 512), Block(4, 768)],
    "attention linear": [Block(8, 768), Block("linear", 768), Block("linear", 512), Block(4, 768)],
    "attention linear in layer 0": [Block("linear", 768), Block(8, 768), Block("none", 512), Block(4, 768)],
    "layer dropped in place": [Block(8, 768), Block("none", "none"), Block(4, 512), Block(2, 768)],
    "everything": [Block(8, 768), Block("none", 512), Block("linear", 256), Block(1, 1280), Block("none", "none"), Block(2, 512)],
}  # fmt: skip
# every block of a search space at once in the first, a middle and the last layer; exact rewrites where one is needed
REWRITTEN = {
    block.id: [block, EQUALITY["parent"][0], block, EQUALITY["parent"][0], block]
    for block in itertools.starmap(
        Block, itertools.product([8, 4, 2, 1, "linear", "none"], [768, 256, "linear", "none"])
    )
    if block != Block("none", "none")
}
SPEED_SIZES = {"hidden_size": 768, "num_attention_heads": 12, "vocab_size": 4096}
WIDE = 2048
SPEED = {
    "parent": [Block(12, WIDE)] * 12,
    "half the layers": [Block(12, WIDE)] * 6,
    "half the layers dropped in place": [Block(12, WIDE), *[Block("none", "none")] * 6, *[Block(12, WIDE)] * 5],
    "half the FFN width": [Block(12, WIDE // 2)] * 12,
    "half the attentions none": [Block(12, WIDE), Block("none", WIDE)] * 6,
    "half the attentions linear": [Block(12, WIDE), Block("linear", WIDE)] * 6,
    "one KV head": [Block(1, WIDE)] * 12,
}  # fmt: skip


def random_model(layout: Layout, sizes: Mapping[str, int], seed: int, **overrides) -> DeciLMForCausalLM:
    """A DeciLM with weights spread enough for every block to matter, norms away from 1."""
    torch.manual_seed(seed)
    blocks = [block_config(sizes["num_attention_heads"], sizes["hidden_size"], *block) for block in layout]
    # keeps the logits' deviation near 1 at any size
    settings = {"block_configs": blocks, "initializer_range": 0.8 * sizes["hidden_size"] ** -0.5}
    settings |= {"max_position_embeddings": 2048, "bos_token_id": None, "eos_token_id": None}
    model = DeciLMForCausalLM(DeciLMConfig(**(settings | sizes | overrides))).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.normal_(1.0, 0.2)
    return model


@torch.inference_mode()
def equality(
    layouts: Mapping[str, Layout],
    seed: int,
    sizes: Mapping[str, int] = EQUALITY_SIZES,
    rewrite: Callable[[DeciLMForCausalLM], DeciLMForCausalLM] = lambda model: model,
) -> list[dict]:
    """Each layout in transformers against llama.cpp: all positions at once, the last only, and token by token.

    Args:
        rewrite: makes of each model the one that llama.cpp runs; transformers runs the model itself.
    """
    rows = []
    prompt = torch.randint(0, sizes["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(seed))
    tokens = prompt[0].tolist()
    for name, layout in layouts.items():
        model = random_model(layout, sizes, seed)
        expected = model(prompt).logits[0].numpy()
        greedy = model.generate(prompt, max_new_tokens=NEW, do_sample=False)[0, PROMPT:].tolist()
        with tempfile.TemporaryDirectory() as folder:
            with from_model(rewrite(model), folder, PROMPT + NEW, "f32", kv_dtype="f32") as engine:
                found = {
                    "all positions": engine.logits(tokens) - expected,
                    "last position": engine.last_logits(tokens) - expected[-1],
                    "token by token": engine.logits(tokens, chunk=1) - expected,
                }
                same = engine.greedy(tokens, NEW) == greedy
        rows.append(
            {
                "layout": name,
                "blocks": [block.id for block in layout],
                "logit_std": float(expected.std()),
                "max_abs_difference": {mode: float(np.abs(diff).max()) for mode, diff in found.items()},
                "greedy_tokens": NEW,
                "greedy_identical": same,
            }
        )
    return rows


def token_ids(num_lines: int, seed: int) -> dict:
    """Lines of Python's standard library that llama.cpp and transformers tokenize differently, by the demo's parent."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted(library.rglob("*.py")) if "site-packages" not in file.parts]
    text = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    generator = random.Random(seed)
    beyond_ascii = [line for line in text if not line.isascii()]
    beyond_ascii = generator.sample(beyond_ascii, min(len(beyond_ascii), num_lines // 4))
    lines = beyond_ascii + generator.sample(text, num_lines - len(beyond_ascii))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY_PARENT)
    with tempfile.TemporaryDirectory() as folder:
        with LlamaCpp(write_gguf(TINY_PARENT, Path(folder) / "tiny.gguf"), 16) as engine:
            different = [line for line in lines if engine.tokenize(line) != tokenizer(line)["input_ids"]]
    return {
        "tokenizer": str(TINY_PARENT.relative_to(ROOT)),
        "lines": len(lines),
        "beyond_ascii": sum(not line.isascii() for line in lines),
        "different": len(different),
        "examples": different[:5],
    }


def speed(
    layouts: Mapping[str, Layout],
    workload: Workload,
    rounds: int,
    clock: str,
    outtype: str,
    seed: int,
    sizes: Mapping[str, int] = SPEED_SIZES,
) -> list[dict]:
    """Generation times of each layout, and how many times faster than the first one it is."""
    context = workload.prefill_tokens + workload.decode_tokens
    engines = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            parameters = {}
            for name, layout in layouts.items():
                model = random_model(layout, sizes, seed)
                parameters[name] = sum(p.numel() for p in model.parameters())
                engines[name] = from_model(model, folder, context, outtype, n_seq_max=workload.batch_size)
            timings = measure_interleaved(engines, workload, rounds, clock, "llama.cpp")
        finally:
            for engine in engines.values():
                engine.close()
    parent = timings[next(iter(layouts))]
    return [
        {
            "layout": name,
            "blocks": [block.id for block in layout],
            "parameters": parameters[name],
            **{f"{part}_ms": spread(timings[name], f"{part}_ms") for part in ("prefill", "decode")},
            "tokens_per_second": workload.tokens / median_timing(timings[name]).total_ms * 1e3,
            "ratio": {
                part: speed_ratio(parent, timings[name], part=f"{part}_ms").to_dict()
                for part in ("prefill", "decode", "total")
            },
        }
        for name, layout in layouts.items()
    ]


def spread(timings: list[Timing], part: str) -> dict[str, float]:
    """Quartiles over the rounds, in milliseconds."""
    values = [getattr(timing, part) for timing in timings]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outtype", default="f16")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="cpu: other jobs do not count")
    parser.add_argument("--workload", type=int, nargs=3, default=[1, 128, 64], metavar=("BATCH", "PREFILL", "DECODE"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/llamacpp.json")
    args = parser.parse_args()
    torch.set_num_threads(1)

    equal = equality(EQUALITY, args.seed)
    rewritten = equality(REWRITTEN, args.seed, rewrite=lambda model: as_engine_runs_it(model, "llama.cpp"))
    for row in [*equal, *rewritten]:
        worst = max(row["max_abs_difference"].values())
        print(f"{row['layout']:34} largest logit difference {worst:.1e}, greedy identical: {row['greedy_identical']}")
    ids = token_ids(args.lines, args.seed)
    print(f"token ids: {ids['different']} of {ids['lines']} lines differ")
    workload = Workload(*args.workload)
    times = speed(SPEED, workload, args.rounds, args.clock, args.outtype, args.seed)
    for row in times:
        ratio = row["ratio"]
        print(
            f"{row['layout']:34} prefill {ratio['prefill']['value']:.2f}x (>= {ratio['prefill']['lower_bound']:.2f}), "
            f"decode {ratio['decode']['value']:.2f}x (>= {ratio['decode']['lower_bound']:.2f})"
        )
    engine = {name: metadata.version(name) for name in ("llama_cpp_python", "gguf")}
    artifacts.write_json(
        args.out,
        {
            "environment": artifacts.environment(),
            "engine": engine,
            "seed": args.seed,
            "equality": {"sizes": EQUALITY_SIZES, "prompt_tokens": PROMPT, "rows": equal, "rewritten": rewritten},
            "token_ids": ids,
            "speed": {
                "sizes": SPEED_SIZES,
                "outtype": args.outtype,
                "threads": 1,
                "clock": args.clock,
                "rounds": args.rounds,
                "workload": dict(zip(("batch_size", "prefill_tokens", "decode_tokens"), args.workload, strict=True)),
                "rows": times,
            },
        },
    )


if __name__ == "__main__":
    main()
