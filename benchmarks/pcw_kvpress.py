"""kvpress on the long prompt: all demonstrations read in one prompt, its cache pruned, then the labels scored behind it.

    python benchmarks/pcw_kvpress.py --write runs/kvpress --draws 2    # in hf_puzzle's environment: prompts and model
    KVPRESS/bin/python benchmarks/pcw_kvpress.py --press runs/kvpress  # in kvpress' own: the caches
    python benchmarks/pcw_kvpress.py --score runs/kvpress

pip refuses kvpress 0.5.5 beside hf_puzzle: it wants transformers<5.3, parallel windows need 5.23 (the prompts' caches go through
files). Shots, texts and calibration are those of recipes/pcw/smollm2.yaml. A ratio of 0 is the long prompt as it is, .5
keeps half of its keys.
"""

import argparse
import contextlib
import json
from importlib.metadata import version
from pathlib import Path


ROOT = Path(__file__).parent.parent
PRESSES = ("KnormPress", "SnapKVPress", "ExpectedAttentionPress")
WAYS = (("none", 0.0), *((name, ratio) for name in PRESSES for ratio in (0.5, 0.75)))


def write(folder: Path, recipe_path: Path, draws: int) -> None:
    """Prompts of every draw and number of windows, as tokens, and the model as a folder."""
    import torch
    from transformers import logging

    from hf_puzzle.pcw import evaluate
    from hf_puzzle.recipe import load_recipe
    from hf_puzzle.remote.pipeline_pcw import CONTENT_FREE
    from hf_puzzle.remote.windows_pcw import Tokens, context_size, lay_out_demonstrations, tokenize_labels

    logging.set_verbosity_error()
    recipe = load_recipe(recipe_path)
    protocol = recipe.protocol
    model, tokenizer = evaluate.open_model(recipe, Path("."), recipe_path.parent)
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    examples = evaluate.load_examples(recipe.datasets[0], protocol.test_items, recipe.seed)
    labels = tokenize_labels(Tokens(tokenizer), examples.labels, examples.template)
    sizes = evaluate.measure(examples, labels, Tokens(tokenizer), protocol.context_size)
    cases = []
    for number in range(draws):
        texts = [examples.test[i] for i in evaluate._part_of(sizes.test, protocol.items_per_draw, number)]
        free = [(text,) * len(examples.template.fields) for text in CONTENT_FREE]
        for b in protocol.num_windows:
            shots, layout = evaluate.lay_out(tokenizer, examples, sizes, protocol, b, recipe.seed + number)
            whole = lay_out_demonstrations(
                tokenizer, shots, labels.names, examples.template, context_size(model.config), num_windows=1,
                task_tokens=layout.context - layout.room, tokenization=protocol.tokenization,
            )  # fmt: skip
            task = examples.template.separator
            cases.append(
                {
                    "draw": number,
                    "num_windows": b,
                    "prompt": [*whole.prefix, *whole.windows[0]],
                    "tasks": [list(whole.task(task + examples.template.task(each.inputs))) for each in texts],
                    "free": [list(whole.task(task + examples.template.task(each))) for each in free],
                    "right": [labels.names.index(each.label) for each in texts],
                }
            )
    (folder / "cases.json").write_text(json.dumps({"labels": [list(t) for t in labels.tokens], "cases": cases}))


def press(folder: Path) -> None:
    """The caches of every prompt, as they are and pruned; needs kvpress, and nothing of hf_puzzle."""
    import kvpress
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).eval().requires_grad_(False)
    given = json.loads((folder / "cases.json").read_text())
    (folder / "caches").mkdir(exist_ok=True)
    for number, case in enumerate(given["cases"]):
        for name, ratio in WAYS:
            pruning = contextlib.nullcontext()
            if name != "none":
                pruning = getattr(kvpress, name)(compression_ratio=ratio)(model)
            cache = DynamicCache()
            with torch.no_grad(), pruning:
                model.model(input_ids=torch.tensor([case["prompt"]]), past_key_values=cache, use_cache=True)
            layers = {f"{kind}.{i}": t for i, each in enumerate(cache.layers) for kind, t in (("k", each.keys), ("v", each.values))}  # fmt: skip
            save_file({key: t.contiguous() for key, t in layers.items()}, folder / "caches" / f"{number}_{name}_{ratio}.safetensors")  # fmt: skip
        print(case["draw"], case["num_windows"], flush=True)
    versions = {"kvpress": version("kvpress"), "transformers": transformers.__version__, "torch": torch.__version__}
    (folder / "versions.json").write_text(json.dumps(versions))


def score(folder: Path, out: Path, note: str | None) -> None:
    """Accuracy of every press and ratio, plain and calibrated."""
    import torch
    from pcw_real import wilson
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from hf_puzzle import artifacts
    from hf_puzzle.remote.cache_pcw import Context
    from hf_puzzle.remote.masks_pcw import check_model
    from hf_puzzle.remote.scoring_pcw import Piece, Reader, Trie

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).eval().requires_grad_(False)
    given = json.loads((folder / "cases.json").read_text())
    reader, trie = Reader(model, check_model(model)), Trie([tuple(t) for t in given["labels"]])

    @torch.no_grad()
    def scores(context: Context, tasks) -> torch.Tensor:
        pieces = [Piece(tuple(task), trie) for task in tasks]
        return torch.stack([trie.score(logits).log_softmax(-1) for logits in reader.packed(context, pieces)])

    hits: dict[tuple, list[bool]] = {}
    kept: dict[tuple, list[float]] = {}
    for number, case in enumerate(given["cases"]):
        for name, ratio in WAYS:
            state = load_file(folder / "caches" / f"{number}_{name}_{ratio}.safetensors")
            layers = [(state[f"k.{i}"], state[f"v.{i}"]) for i in range(len(state) // 2)]
            # where a key stood is in it already; which they are, full attention does not ask
            context = Context(layers, torch.arange(layers[0][0].shape[2]), len(case["prompt"]))
            found, free = scores(context, case["tasks"]), scores(context, case["free"])
            for calibrated, values in ((False, found), (True, found - free.exp().mean(0).log())):
                key = (case["num_windows"], name, ratio, calibrated)
                right = [i == j for i, j in zip(values.argmax(-1).tolist(), case["right"], strict=True)]
                hits.setdefault(key, []).extend(right)
                kept.setdefault(key, []).append(len(context.positions) / len(case["prompt"]))
    rows = []
    for key, values in sorted(hits.items()):
        b, name, ratio, calibrated = key
        share = sum(values) / len(values)
        rows.append(
            {"num_windows": b, "press": name, "compression_ratio": ratio, "calibrated": calibrated, "accuracy": share,
             "texts": len(values), "interval": wilson(share, len(values)), "keys_kept": sum(kept[key]) / len(kept[key])}
        )  # fmt: skip
        print(rows[-1], flush=True)
    result = {
        "note": note, "draws": 1 + max(case["draw"] for case in given["cases"]), "labels": len(given["labels"]), "dtype": "bfloat16",
        "prompt_tokens": [len(case["prompt"]) for case in given["cases"]], "rows": rows,
        "pressed_with": json.loads((folder / "versions.json").read_text()), "threads": 1,
        "environment": artifacts.environment(),
    }  # fmt: skip
    artifacts.write_json(out, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("--press", type=Path, metavar="FOLDER")
    parser.add_argument("--score", type=Path, metavar="FOLDER")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/pcw/smollm2.yaml")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--note")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_kvpress.json")
    args = parser.parse_args()
    if args.write is not None:
        args.write.mkdir(parents=True, exist_ok=True)
        write(args.write, args.recipe, args.draws)
    if args.press is not None:
        press(args.press)
    if args.score is not None:
        score(args.score, args.out, args.note)


if __name__ == "__main__":
    main()
