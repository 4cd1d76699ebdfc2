"""Which experts to remove: REAP and a closed-form refit against the mean routing weight, on mixtures trained here.

    python benchmarks/experts.py --seeds 0 1 2

A mixture is trained on the source text of the Python standard library; in every layer a quarter, then half of its experts
are removed. KL(parent || child) per token in nats on held-out files, mean and standard error clustered by document. Nothing
is trained after the cut. `refit` is the whole refit of a child; `attention only` leaves the experts as they are.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_puzzle import artifacts, data
from hf_puzzle.blocks import Block
from hf_puzzle.costs import cpu_threads
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.layers import parent_block
from hf_puzzle.puzzle import refit as refit_module
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import ChildConfig, DataConfig, LibraryConfig, ParentRecipe, SearchSpaceConfig


ROOT = Path(__file__).parent.parent
LENGTH = 128
DATA = DataConfig(name="python-stdlib", sequence_length=LENGTH, num_tokens=1_000_000, heldout_tokens=60_000)
MIXTURES = {
    "qwen3_moe": {
        "hidden_size": 96, "moe_intermediate_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "head_dim": 24,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": True,
        "max_position_embeddings": 256, "tie_word_embeddings": True, "output_router_logits": True,
        "router_aux_loss_coef": 0.001,
    },
}  # fmt: skip
CUTS = {"25 %": 12, "50 %": 8}
WAYS = {  # ranking, refit of the attention, refit of the experts
    name + ending: (name, attention, experts)
    for name in ("routing_weight", "output_norm", "reap")
    for ending, attention, experts in (("", False, False), (", attention refit", True, False), (", refit", True, True))
}


def trained(family: str, seed: int, tokens: int, folder: Path) -> Path:
    recipe = ParentRecipe(
        DATA, seed=seed, vocab_size=1024, model_type=family, config=MIXTURES[family], batch_size=16, learning_rate=4e-3,
        num_tokens=tokens, device="cpu",
    )  # fmt: skip
    path = folder / f"{family}_{seed}"
    if not (path / "training.json").exists():
        train_parent(recipe, path)
    return path


@torch.no_grad()
def compared(parent, streams: dict, folder: Path, seed: int) -> list[dict]:
    """KL of every way and cut."""
    test = Rows.draw(streams["test"], LENGTH, 12_288, seed)
    targets = Targets(parent, test, 16, "parent")
    calibration = data.sequences(streams["train"], LENGTH, 32_768, seed)
    own, rows = parent_block(parent.config), []
    for criterion in ("routing_weight", "output_norm", "reap"):
        importance = channel_importance(parent, calibration, 16, criterion)
        space = build_search_space(parent.config, SearchSpaceConfig(attention=[], ffn=list(CUTS.values())))
        library = BlockLibrary(folder / f"library_{criterion}")
        config = LibraryConfig(num_tokens=0, eval_tokens=256, ridge_tokens=1_024)
        build_library(parent, space, importance, streams, library, config, LENGTH)
        for cut, count in CUTS.items():
            blocks = [Block(own.attention, f"e{count}")] * parent.config.num_hidden_layers
            for way, (ranking, refit, experts) in WAYS.items():
                if ranking != criterion:
                    continue
                child, done = Network(parent.config, blocks, library, "per_layer").assembled(parent), None
                if refit:
                    done = refitted(child, parent, calibration, experts)
                kl = targets.compare(child, way).columns["kl"]
                value, error = mean_and_error(kl, test.documents)
                rows.append({"way": way, "removed": cut, "kl": value, "kl_error": error, "refit": done})
    return rows


def refitted(child, parent, rows: torch.Tensor, experts: bool) -> dict:
    found, none = refit_module.experts_of, lambda block: None
    refit_module.experts_of = found if experts else none
    try:
        return dataclasses.asdict(refit_module.refit(child, parent, rows, ChildConfig(batch_size=16)))
    finally:
        refit_module.experts_of = found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=800_000, help="training tokens of each mixture")
    parser.add_argument("--work", type=Path, required=True, help="folder for the mixtures")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "experts.json")
    arguments = parser.parse_args()
    runs = []
    with cpu_threads(1):
        for family in MIXTURES:
            for seed in arguments.seeds:
                began = time.time()
                path = trained(family, seed, arguments.tokens, arguments.work)
                parent = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
                parent.config.output_router_logits = False
                streams = data.tokenize(DATA, AutoTokenizer.from_pretrained(path))
                heldout = streams.pop("heldout")
                streams["validation"], streams["test"] = heldout.split_at_document(len(heldout) // 3)
                rows = compared(parent, streams, path, seed)
                runs.append(
                    {
                        "family": family,
                        "seed": seed,
                        "parent": artifacts.read_json(path / "training.json"),
                        "rows": rows,
                    }
                )
                print(f"{family} seed {seed}: {time.time() - began:.0f} s")
                for row in rows:
                    print(f"  {row['removed']} {row['way']:34s} {row['kl']:.4f} +- {row['kl_error']:.4f}")
                artifacts.write_json(arguments.out, summary(runs, arguments.tokens))


def summary(runs: list[dict], tokens: int) -> dict:
    ratios = []
    for cut in CUTS:
        for way in WAYS:
            pairs = [
                (next(r["kl"] for r in run["rows"] if (r["way"], r["removed"]) == (way, cut)),
                 next(r["kl"] for r in run["rows"] if (r["way"], r["removed"]) == ("routing_weight, attention refit", cut)))
                for run in runs
            ]  # fmt: skip
            each = [kl / base for kl, base in pairs]
            ratios.append({"removed": cut, "way": way, "kl_of_attention_refit": each, "mean": sum(each) / len(each)})
    return {
        "what": "KL(parent || child) per token on held-out files, every layer loses the same number of experts; ratios to the mean routing weight with the attention's refit",
        "mixtures": MIXTURES, "training_tokens": tokens, "ratios": ratios, "runs": runs,
        "environment": artifacts.environment(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
