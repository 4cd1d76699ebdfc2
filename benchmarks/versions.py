"""Children of every kind under several versions of transformers: each way of generating against none of its caches.

    python benchmarks/versions.py --python 4.57.6=VENV/bin/python --python 5.23.0=... --python 5.24.0=... --out FILE.json

This process (with hf_puzzle) writes the children; one process per version, in which `import hf_puzzle` fails, opens them
with `trust_remote_code=True`. A cell is `equal` (to greedy decoding that computes everything anew), `refused` (an error of
ours that says why), `unsupported` (the stock parent cannot do it under that version either), `raises`, or `wrong`.
The stock parents run through the same ways.
"""

import argparse
import collections
import copy
import inspect
import json
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parent.parent
WINDOWS = Path(__file__).with_name("version_cells_windows.py")
NEW, NEVER = 6, 10_000  # tokens generated, and one that is not in the vocabulary
DECILM_FAMILIES = ("llama", "mistral", "qwen2")
CACHE_NAMES = ("past_key_values", "cache")


# -- writing (with hf_puzzle)


def children():
    """(name, model) of every child, and of the stock parents that they are compared with."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from families import block_kinds, family_child, family_model, own_block

    from hf_puzzle.blocks import Block
    from hf_puzzle.formats import DECILM, PER_LAYER

    def layouts(family, fmt):
        own, kinds = own_block(family), block_kinds(family)
        free, smaller = kinds["no_attention"], kinds.get("ffn_width") or kinds["experts"]
        fewer = kinds.get("kv_heads", own)
        yield "parent", [own] * 4
        yield "mixed", [Block(fewer.attention, smaller.ffn), Block("linear", "linear"), Block("none", "none"), own]
        yield "layer 0 free", [free, own, Block(fewer.attention, "none"), own]
        yield "middle free", [own, free, kinds["linear_attention"], Block(fewer.attention, smaller.ffn)]
        if family == "llama":
            yield "one KV head", [Block(1, own.ffn)] * 4
            yield "no attention", [free, kinds["linear_attention"], free, free]
        if fmt == PER_LAYER:
            yield "window", [own, kinds["window"], own, kinds["window"]]
            yield "window in layer 0", [kinds["window"], free, own, kinds["linear_ffn"]]
            yield "low rank", [Block("r4", own.ffn), own, Block(own.attention, "r4"), Block("r4", "r4")]
        if fmt == PER_LAYER and family == "llama":
            yield "windows only", [kinds["window"]] * 4
            yield "window of one", [own, block_kinds(family, window=1)["window"], own, own]
            yield "window of two", [own, block_kinds(family, window=2)["window"], free, own]

    for family in ("llama", "mistral_windowed", "qwen2", "qwen3", "gemma3", "mixtral", "gpt_oss", "phi3", "gpt_neox"):
        yield f"stock {family}", family_model(family)
    for fmt, families in (
        (DECILM, DECILM_FAMILIES),
        (PER_LAYER, ("llama", "mistral_windowed", "qwen3", "gemma3", "mixtral", "gpt_oss", "phi3", "gpt_neox")),
    ):
        for family in families:
            for layout, blocks in layouts(family, fmt):
                if layout == "parent" and fmt == PER_LAYER:
                    continue  # that is the stock model
                yield f"{fmt} {family}, {layout}", family_child(family, blocks, fmt=fmt)


def write(folder: Path) -> None:
    import torch

    from hf_puzzle import hub

    torch.set_num_threads(1)
    for i, (name, model) in enumerate(children()):
        model.generation_config.eos_token_id = model.config.eos_token_id = None
        hub.write_model_folder(folder / f"{i:03d}", model)
        (folder / f"{i:03d}" / "name.txt").write_text(name)


# -- generating (without hf_puzzle)


def ways(model, ids):
    """(name, function that gives tokens, function that gives the right ones) of every way to generate."""
    import torch
    from transformers import DynamicCache, StaticCache

    mask = torch.ones_like(ids)
    padded = torch.cat((torch.zeros_like(ids[:, :3]), ids), dim=1)
    padded[0, :3] = ids[0, :3]
    padded_mask = torch.cat((torch.zeros_like(ids[:, :3]), mask), dim=1)
    padded_mask[0] = 1

    def slow(tokens, mask=None):
        for _ in range(NEW):
            positions = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
            logits = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1:]
            tokens = torch.cat((tokens, logits.argmax(-1)), dim=1)
            mask = None if mask is None else torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
        return tokens

    def generate(tokens=ids, mask=mask, **settings):
        # an end that never comes: without one, prompt look-up of 4.57 raises
        settings = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": NEVER, **settings}
        return model.generate(tokens, attention_mask=mask, **settings)

    def sampled(**settings):
        torch.manual_seed(3)
        return generate(do_sample=True, top_k=0, temperature=0.7, **settings)

    def beams(**settings):
        return generate(num_beams=3, **settings)

    def loop(call):
        """Chunks of several tokens, then one at a time; `call(tokens)` gives logits."""
        parts = ids.split((ids.shape[1] - 4, 3, 1), dim=1)
        logits = [call(part) for part in parts][-1]
        tokens = ids
        for _ in range(NEW):
            best = logits[:, -1:].argmax(-1)
            tokens = torch.cat((tokens, best), dim=1)
            logits = call(best)
        return tokens

    def named(name, cache):
        return lambda: loop(lambda tokens: model(tokens, use_cache=True, **{name: cache()}).logits)

    def held(make):
        kept = []

        def get():
            if not kept:
                kept.append(make())
            return kept[0]

        return get

    def from_outputs():
        state = {}

        def call(tokens):
            output = model(tokens, use_cache=True, **state)
            name = next(n for n in CACHE_NAMES if n in list(output.keys()))
            state[name] = getattr(output, name)
            return output.logits

        return loop(call)

    def prefilled(name):
        cache = DynamicCache(config=model.config)
        model(ids[:, :7], use_cache=True, **{name: cache})
        return generate(**{name: cache})

    def embedded():
        tokens = generate(None, inputs_embeds=model.get_input_embeddings()(ids))
        return torch.cat((ids, tokens), dim=1)

    def drafted(target, draft):
        return target.generate(
            ids[:1],
            attention_mask=mask[:1],
            assistant_model=draft,
            do_sample=False,
            max_new_tokens=NEW,
            pad_token_id=0,
        )

    yield "greedy", generate, lambda: slow(ids)
    yield "sampling", sampled, lambda: sampled(use_cache=False)
    yield "beams", beams, lambda: beams(use_cache=False)
    yield "static cache", lambda: generate(cache_implementation="static", disable_compile=True), lambda: slow(ids)
    yield "chunked prefill", lambda: generate(prefill_chunk_size=5), lambda: slow(ids)
    yield "prompt look-up", lambda: generate(ids[:1], mask[:1], prompt_lookup_num_tokens=3), lambda: slow(ids[:1])
    yield "left padding", lambda: generate(padded, padded_mask), lambda: slow(padded, padded_mask)
    yield "assisted, as target", lambda: drafted(model, copy.deepcopy(model)), lambda: slow(ids[:1])
    yield "inputs_embeds", embedded, lambda: slow(ids)
    for name in CACHE_NAMES:
        yield f"generate from a filled {name}", lambda name=name: prefilled(name), lambda: slow(ids)
        yield f"loop, {name}=DynamicCache()", named(name, held(DynamicCache)), lambda: slow(ids)
    for name in CACHE_NAMES:
        make = held(lambda: StaticCache(config=model.config, max_cache_len=ids.shape[1] + NEW))
        yield f"loop, {name}=StaticCache", named(name, make), lambda: slow(ids)
    takes = list(inspect.signature(model.forward).parameters)
    before = [None] * (min(takes.index(name) for name in CACHE_NAMES if name in takes) - 1)
    positional = held(lambda: DynamicCache(config=model.config))
    yield "loop, positional", lambda: loop(lambda t: model(t, *before, positional()).logits), lambda: slow(ids)
    yield "loop, cache of the outputs", from_outputs, lambda: slow(ids)


def run(folder: Path) -> None:
    """One JSON line a cell."""
    sys.modules["hf_puzzle"] = None
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    ids = torch.randint(3, 128, (2, 14), generator=torch.Generator().manual_seed(0))
    for path in sorted(folder.iterdir()):
        name = (path / "name.txt").read_text()
        try:
            model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True).eval()
        except Exception as error:
            print(
                json.dumps({"child": name, "way": "open", "result": judged(error), "detail": said(error)}), flush=True
            )
            continue
        for way, compute, reference in ways(model, ids):
            detail = ""
            try:
                right, got = reference(), compute()
                result = "equal" if torch.equal(right, got) else "wrong"
            except Exception as error:
                result, detail = judged(error), said(error)
            print(json.dumps({"child": name, "way": way, "result": result, "detail": detail}), flush=True)


def judged(error: Exception) -> str:
    return "refused" if type(error).__name__ == "CacheError" or "install transformers >=" in str(error) else "raises"


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


# -- both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="VERSION=PYTHON")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        return run(args.run)
    pythons = dict(each.partition("=")[::2] for each in args.python)
    with tempfile.TemporaryDirectory() as folder:
        cells = children_cells(Path(folder) / "children", pythons)
        windows = windows_cells(Path(folder), pythons)
    counts = collections.defaultdict(collections.Counter)
    for cell in [*cells, *windows]:
        if not cell["child"].startswith("stock"):
            counts[f"{cell['transformers']}, {cell['child'].split()[0]}"][cell["result"]] += 1
    from hf_puzzle import artifacts

    artifacts.write_json(
        args.out,
        {
            "written_by": artifacts.environment(),
            "versions": list(pythons),
            "counts": counts,
            "children": len({c["child"] for c in cells if not c["child"].startswith("stock")}),
            "folders": len({c["child"] for c in windows}),
            "ways": list(dict.fromkeys(c["way"] for c in [*cells, *windows])),
            "not_equal": [c for c in [*cells, *windows] if c["result"] != "equal"],
        },
    )
    for name, count in counts.items():
        print(name, dict(count))


def told(command: list) -> list[dict]:
    """The JSON lines that a process away from this checkout prints."""
    process = subprocess.run([*map(str, command)], cwd="/", check=True, capture_output=True, text=True)
    return [json.loads(line) for line in process.stdout.splitlines()]


def children_cells(folder: Path, pythons: dict[str, str]) -> list[dict]:
    write(folder)
    cells = []
    for version, python in pythons.items():
        found = told([python, "-W", "ignore", __file__, "--run", folder])
        cells += [{"transformers": version, **cell} for cell in found]
    # what the stock parent cannot do is not asked of its children
    cannot = {(c["transformers"], c["child"].split()[1], c["way"]) for c in cells
              if c["child"].startswith("stock") and c["result"] != "equal"}  # fmt: skip
    for cell in cells:
        family = cell["child"].split()[1].rstrip(",")
        if cell["result"] == "raises" and (cell["transformers"], family, cell["way"]) in cannot:
            cell["result"] = "unsupported"
    return cells


def windows_cells(folder: Path, pythons: dict[str, str]) -> list[dict]:
    """The same for PCW and MRKL, which exist since 5.23: tokens and scores of that version are the reference."""
    made, reference, cells = folder / "windows", folder / "reference.json", []
    subprocess.run([sys.executable, WINDOWS, "--make", made], check=True)
    first = next(python for version, python in pythons.items() if version.startswith("5.23"))
    told([first, "-W", "ignore", WINDOWS, "--run", made, "--make-reference", reference])
    for version, python in pythons.items():
        for cell in told([python, "-W", "ignore", WINDOWS, "--run", made, "--reference", reference]):
            child = f"{cell['system']} {cell['case']}"
            cell["detail"] = cell["detail"].replace(str(folder), "FOLDER")
            cells.append(
                {"transformers": version, "child": child, **{k: cell[k] for k in ("way", "result", "detail")}}
            )
    return cells


if __name__ == "__main__":
    main()
