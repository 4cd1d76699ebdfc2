"""Bits beside shapes in one search, against searching shapes and quantising what was found, at equal bytes.

    python benchmarks/bits.py --work /some/folder --seeds 0 1 2

Parents are trained on the source text of the Python standard library; their blocks are distilled locally. Budgets are shares of
the bytes that the parent's blocks take in 16 bits. `joint`: attention and FFN of each layer in 16 bits, q8_0 or q4_0, chosen
together with its shape. `then uniform`: shapes are searched in 16 bits, as small as it takes to fit the budget when all are
quantised to 16, 8 or 4 bits; the best of the three. `then mixed`: the shapes of those three, and the parent's own, whose bits the
same search gives out afterwards; the best of the four. All choices are made by KL on validation text, all figures are KL(parent
|| child) per token on test text, mean and standard error clustered by document. Nothing is trained after the choice.
"""

import argparse
import dataclasses
import math
import time
from pathlib import Path

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle import artifacts, data
from hf_puzzle.blocks import Block, typed, variant_id
from hf_puzzle.costs import cpu_threads
from hf_puzzle.engines.gguf import read_gguf, rounded_tensors, tensor_types, write_model_gguf
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.formats import DECILM
from hf_puzzle.puzzle.bench import Bench
from hf_puzzle.puzzle.bits import keep_bits
from hf_puzzle.puzzle.block_costs import CostTable, measure_costs
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.scoring import Score, score_blocks, with_sums
from hf_puzzle.puzzle.search import Search
from hf_puzzle.puzzle.search_space import LayerSpace, SearchSpace, build_search_space
from hf_puzzle.puzzle.solver import InfeasibleError
from hf_puzzle.recipe import (
    ConstraintsConfig,
    CostConfig,
    DataConfig,
    LibraryConfig,
    ParentRecipe,
    ScoreConfig,
    SearchSpaceConfig,
    SolveConfig,
)


ROOT = Path(__file__).parent.parent
LENGTH = 128
DATA = DataConfig(name="python-stdlib", sequence_length=LENGTH, num_tokens=1_600_000, heldout_tokens=60_000)
PARENT = {
    "hidden_size": 96, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip
SPACE = SearchSpaceConfig(attention=[2, 1, "none"], ffn=[384, 256, 128], width_multiple=128, weight_bits=[16, 8, 4])
COST = CostConfig(
    prefill_tokens=1, decode_tokens=1, stack_layers=1, rounds=1, calibration_children=2, unseen_children=0, threads=1
)
SCORE = ScoreConfig(num_tokens=4_096, batch_size=16)
SOLVE = SolveConfig(num_solutions=3, rescore_rounds=0)
TYPES = {16: None, 8: "q8_0", 4: "q4_0"}
SHARES = (0.15, 0.2, 0.25, 0.32, 0.42)


@dataclasses.dataclass
class Seed:
    """One trained parent with everything that searches read."""

    parent: torch.nn.Module
    space: SearchSpace
    judge: Judge
    costs: CostTable
    scores: list[Score]
    test: Targets

    def search(self, space: SearchSpace, costs: CostTable, budget: float) -> list[Block] | None:
        """The best by true distance of the layouts that the MIP finds in a part of the space."""
        offered = [{block.id for block in layer.blocks} for layer in space.layers]
        scores = [s for s in self.scores if s.block in offered[s.layer_idx]]
        judge = Judge(self.parent, space, self.judge.library, self.judge.metric)
        judge.judged, judge.targets = self.judge.judged, self.judge.targets  # the same text: nothing is judged twice
        limits = ConstraintsConfig(memory_gb=budget / 1e9)
        try:
            return Search(judge, None, scores, costs, limits, SOLVE)._best_candidate(1.0).blocks
        except InfeasibleError:
            return None

    def held(self, blocks: list[Block]) -> int:
        return sum(map(self.costs.held_bytes, (None, *blocks)))

    def best(self, layouts: list[list[Block] | None]) -> list[Block]:
        return min(filter(None, layouts), key=lambda blocks: self.judge.distance(blocks)[0])

    def kl(self, blocks: list[Block]) -> tuple[float, float]:
        child = Network(self.parent.config, blocks, self.judge.library).assembled(self.parent)
        keep_bits(child, blocks)
        return mean_and_error(self.test.compare(child, "child").columns["kl"], self.test.rows.documents)


def trained(seed: int, tokens: int, work: Path) -> Path:
    path = work / f"llama_{seed}"
    if not (path / "training.json").exists():
        recipe = ParentRecipe(
            DATA, seed=seed, vocab_size=1024, model_type="llama", config=PARENT, batch_size=16, learning_rate=3e-3,
            num_tokens=tokens, device="cpu",
        )  # fmt: skip
        train_parent(recipe, path)
    return path


@torch.no_grad()
def prepared(seed: int, path: Path, block_tokens: int) -> Seed:
    """Library, scores and bytes of a parent."""
    parent = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
    streams = data.tokenize(DATA, AutoTokenizer.from_pretrained(path))
    heldout = streams.pop("heldout")
    streams["validation"], test = heldout.split_at_document(len(heldout) // 3)
    space = build_search_space(parent.config, SPACE, ["llama.cpp"])
    importance = channel_importance(parent, data.sequences(streams["train"], LENGTH, 16_384, seed), 16)
    library = BlockLibrary(path / f"library_{block_tokens}")
    config = LibraryConfig(num_tokens=block_tokens, batch_size=8, eval_tokens=2_048, ridge_tokens=16_384)
    with torch.enable_grad():
        build_library(parent, space, importance, streams, library, config, LENGTH, seed)
    judge = Judge(parent, space, library, Metric.of(SCORE, streams["validation"], LENGTH, seed))
    costs = measure_costs(Bench(parent, COST, DECILM), space, seed)
    scores = with_sums(score_blocks(judge), space)
    targets = Targets(parent, Rows.draw(test, LENGTH, 12_288, seed), 16, "parent")
    return Seed(parent, space, judge, costs, scores, targets)


def part(space: SearchSpace, keep) -> SearchSpace:
    """The blocks of each layer that `keep(layer_idx, block)`."""
    layers = [
        LayerSpace(layer.attention, layer.ffn, tuple(b for b in layer.blocks if keep(i, b)))
        for i, layer in enumerate(space.layers)
    ]
    return SearchSpace(space.parents, tuple(layers))


def quantised(blocks: list[Block], bits: int) -> list[Block]:
    return [Block(typed("attention", b.attention, TYPES[bits]), typed("ffn", b.ffn, TYPES[bits])) for b in blocks]


def shapes_for(seed: Seed, bits: int, budget: float) -> list[Block] | None:
    """Shapes found in 16 bits that fit the budget once all their matrices are quantised."""
    held = dict(seed.costs.weight_bytes)
    for kind, variants in seed.space.variants.items():
        for v in variants:
            held[f"{kind}:{variant_id(kind, v)}"] = held[f"{kind}:{variant_id(kind, typed(kind, v, TYPES[bits]))}"]
    costs = dataclasses.replace(seed.costs, weight_bytes=held)
    return seed.search(part(seed.space, lambda i, b: b == b.plain), costs, budget)


def searches(seed: Seed, budget: float) -> dict[str, list[Block]]:
    """The layout of every way at a budget, in bytes of all weights and two tokens of cache."""
    joint = seed.search(seed.space, seed.costs, budget)
    shapes = {bits: shapes_for(seed, bits, budget) for bits in TYPES}
    uniform = [blocks and quantised(blocks, bits) for bits, blocks in shapes.items()]
    mixed = [
        seed.search(part(seed.space, lambda i, b, own=own: b.plain == own[i]), seed.costs, budget)
        for own in (list(seed.space.parents), *shapes.values())
        if own is not None
    ]
    return {"joint": joint, "then uniform": seed.best(uniform), "then mixed": seed.best(mixed)}


def file_of(seed: Seed, blocks: list[Block], folder: Path) -> dict:
    """A GGUF file of a layout: its bytes beside those that the search counted, and whether it is read back equal."""
    child = Network(seed.parent.config, blocks, seed.judge.library).assembled(seed.parent)
    for parameter in child.parameters():  # what is in 16 bits loses nothing in the file
        parameter.data = parameter.data.bfloat16().float()
    types = tensor_types(blocks)
    path = write_model_gguf(child, folder / "child.gguf", "bf16", types)
    tensors, found = gguf.GGUFReader(path).tensors, read_gguf(path, child.config, torch.float32)
    expected = rounded_tensors(child.config, child.state_dict(), types)
    return {
        "bytes_predicted": seed.held(blocks),
        "bytes_held": sum(tensor.n_bytes for tensor in tensors),
        "types": sorted({tensor.tensor_type.name for tensor in tensors}),
        "read_back_equal": all(torch.equal(found[name], tensor) for name, tensor in expected.items()),
    }


def compared(seed: Seed, folder: Path) -> list[dict]:
    ends, rows = seed.costs.held_bytes(None), []
    whole = seed.held(list(seed.space.parents)) - ends
    cache = seed.costs.block_costs(seed.space.parents[0], 1)["memory_bytes"] - seed.costs.held_bytes(
        seed.space.parents[0]
    )
    for share in SHARES:
        budget = ends + share * whole + cache * len(seed.space.parents)
        for way, blocks in searches(seed, budget).items():
            kl, error = seed.kl(blocks)
            row = {
                "share": share, "way": way, "kl": kl, "kl_error": error, "budget_bytes": math.floor(ends + share * whole),
                "blocks": [b.id for b in blocks], "validation_kl": seed.judge.distance(blocks)[0],
            }  # fmt: skip
            rows.append(row | file_of(seed, blocks, folder))
            assert row["budget_bytes"] + cache * len(blocks) >= rows[-1]["bytes_held"]
    return rows


def summary(runs: list[dict]) -> list[dict]:
    """KL of `joint` over the others, at each budget."""
    found = []
    for share in SHARES:
        by_way = [{r["way"]: r["kl"] for r in run["rows"] if r["share"] == share} for run in runs]
        for other in ("then uniform", "then mixed"):
            ratios = [kls["joint"] / kls[other] for kls in by_way]
            found.append({"share": share, "against": other, "ratios": ratios, "mean": math.exp(sum(map(math.log, ratios)) / len(ratios))})  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parent-tokens", type=int, default=1_500_000)
    parser.add_argument("--block-tokens", type=int, default=40_960)
    parser.add_argument("--work", type=Path, required=True, help="folder for parents and libraries")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "bits.json")
    arguments = parser.parse_args()
    runs = []
    with cpu_threads(1):
        for number in arguments.seeds:
            began = time.time()
            path = trained(number, arguments.parent_tokens, arguments.work)
            seed = prepared(number, path, arguments.block_tokens)
            rows = compared(seed, path)
            runs.append({"seed": number, "parent": artifacts.read_json(path / "training.json"), "rows": rows})
            print(f"seed {number}: {time.time() - began:.0f} s", flush=True)
            for row in rows:
                print(f"  {row['share']:.2f} {row['way']:13s} {row['kl']:.4f} +- {row['kl_error']:.4f} {row['bytes_held']} {' '.join(row['blocks'])}", flush=True)  # fmt: skip
            artifacts.write_json(
                arguments.out,
                {
                    "what": "KL(parent || child) per token on held-out files, at equal bytes of a GGUF file; shares are of the bytes of the parent's blocks in 16 bits",
                    "parent": PARENT, "space": dataclasses.asdict(SPACE), "parent_tokens": arguments.parent_tokens,
                    "block_tokens": arguments.block_tokens, "ratios": summary(runs), "runs": runs,
                    "environment": artifacts.environment(),
                },
            )  # fmt: skip


if __name__ == "__main__":
    main()
