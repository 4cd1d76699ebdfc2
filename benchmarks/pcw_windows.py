"""What keeping windows in fewer bits, reading fewer of them, and reading their starts again costs in answers, on a real model.

    python benchmarks/pcw_windows.py --texts 24

SmolLM2-135M-Instruct, the demonstrations and texts of recipes/pcw/smollm2.yaml, the most windows. Each variant is compared
with the windows as they are: KL of the labels' probabilities, share of texts with the same first label, calibrated accuracy.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from hf_puzzle import artifacts
from hf_puzzle.pcw import evaluate
from hf_puzzle.recipe import load_recipe
from hf_puzzle.remote.generation_pcw import encode_windows, score_labels
from hf_puzzle.remote.pipeline_pcw import CONTENT_FREE
from hf_puzzle.remote.scoring_pcw import recompute_starts
from hf_puzzle.remote.store_pcw import load_windows, save_windows
from hf_puzzle.remote.windows_pcw import Tokens, tokenize_labels


ROOT = Path(__file__).parent.parent
BITS, TOP_K, STARTS = (8, 4), (1, 3), (16,)


def stored(model, tokenizer, encoded, bits: int | None):
    """(the windows through a store, its bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        save_windows(folder, encoded, model, tokenizer, bits)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        return load_windows(folder, model, tokenizer), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/pcw/smollm2.yaml")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/pcw_windows.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(args.recipe)
    protocol, most = recipe.protocol, max(recipe.protocol.num_windows)
    model, tokenizer = evaluate.open_model(recipe, Path("."), args.recipe.parent)
    examples = evaluate.load_examples(recipe.datasets[0], protocol.test_items, recipe.seed)
    tokens = Tokens(tokenizer)
    labels = tokenize_labels(tokens, examples.labels, examples.template)
    sizes = evaluate.measure(examples, labels, tokens, protocol.context_size)
    shots, layout = evaluate.lay_out(tokenizer, examples, sizes, protocol, most, recipe.seed)
    texts = examples.test[: args.texts]
    inputs = [*(each.inputs for each in texts), *((text,) * len(examples.template.fields) for text in CONTENT_FREE)]
    tasks = [layout.task(examples.template.separator + examples.template.task(each)) for each in inputs]
    right = torch.tensor([labels.names.index(each.label) for each in texts])

    def score(encoded, **settings) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities of the labels after the texts, the same calibrated)."""
        found = score_labels(model, encoded, tasks, labels.tokens, **settings).log_softmax(-1)
        plain, prior = found[: len(texts)], found[len(texts) :].exp().mean(0).log()
        return plain, (plain - prior).log_softmax(-1)

    encoded = encode_windows(model, layout.windows, layout.prefix)
    base, rows = score(encoded), []
    size = stored(model, tokenizer, encoded, None)[1]

    def row(name: str, found, bytes_stored: int) -> None:
        values = {
            "variant": name,
            "bytes": bytes_stored,
            "kl": (base[0].exp() * (base[0] - found[0])).sum(-1).mean().item(),
            "same_label": (base[0].argmax(-1) == found[0].argmax(-1)).double().mean().item(),
            "accuracy": (found[0].argmax(-1) == right).double().mean().item(),
            "accuracy_calibrated": (found[1].argmax(-1) == right).double().mean().item(),
        }
        rows.append(values)
        print(values, flush=True)

    row("as they are", base, size)
    for bits in BITS:
        loaded, few = stored(model, tokenizer, encoded, bits)
        row(f"{bits} bits", score(loaded), few)
    for count in STARTS:
        row(f"first {count} tokens read again", score(recompute_starts(model, encoded, count)), size)
    for count in TOP_K:
        row(f"top {count} of {most} windows", score(encoded, top_k_windows=count), size)
    result = {
        "model": recipe.model.gguf_file, "windows": encoded.lengths, "texts": len(texts), "labels": len(labels.names),
        "rows": rows, "seed": recipe.seed, "threads": 1, "environment": artifacts.environment(),
    }  # fmt: skip
    artifacts.write_json(args.out, result)


if __name__ == "__main__":
    main()
