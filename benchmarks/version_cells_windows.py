"""Cells of the matrix of versions for PCW's and MRKL's published folders; `benchmarks/versions.py` runs this file.

    python benchmarks/version_cells_windows.py --make FOLDER                      # with hf_puzzle, on a tested version
    VENV/bin/python benchmarks/version_cells_windows.py --run FOLDER --make-reference FILE
    VENV/bin/python benchmarks/version_cells_windows.py --run FOLDER --reference FILE

`--run` opens the folders in a process in which `import hf_puzzle` fails and prints a JSON line a cell: {"system", "case",
"way", "result", "detail"}. A result is `equal` (tokens to those of the reference, scores within 1e-4; what one window,
batches and label trees equal by definition is checked within the version too), `refused` (an error of ours), `raises`,
or `wrong`.
"""

import argparse
import functools
import importlib.util
import json
import sys
import warnings
from pathlib import Path


ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-4
STOCK = ("llama", "mistral_windowed", "qwen3", "gemma2", "gemma3", "gpt_oss", "phi3", "mixtral", "gpt_neox")
MORE = ("gpt2", "opt", "bloom", "mpt", "falcon_alibi", "deepseek_v3")
SHOTS = [
    ("great film", "good"), ("what a waste", "bad"), ("a great joy", "good"), ("a waste of a cast", "bad"),
    ("how do I get a card", "card lost"), ("my card was lost", "card lost"),
]  # fmt: skip
QUERIES = ["what a joy", "card lost or stolen", "a waste"]
CONTEXTS = ["Mary Shelley wrote it.", "in 1818, in Geneva.", "The film was a great joy from start to end."]
QUESTIONS = ["who wrote it?", "when, and where was it?"]
ASKED = ["What is 12 times 34?", "convert 3 miles to feet", "what is 2 plus 3?", "write a poem about the sea"]
MODES = ("pcw", "ensemble", "nbce", "single")
SIX = {"max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 2}


# -- writing (with hf_puzzle)


def models(size: int):
    """(name, model) of every base model of windows: stock ones of each kind of cache, and children of both formats."""
    import test_generation_pcw as tests
    from families import block_kinds, family_child, own_block

    from hf_puzzle.blocks import Block
    from hf_puzzle.formats import DECILM

    sizes = {"vocab_size": size, "eos_token_id": 2, "pad_token_id": None}
    for name in STOCK + MORE:
        positions = {"mpt": "max_seq_len", "gpt2": "n_positions"}.get(name, "max_position_embeddings")
        yield name, tests.tiny(name, **sizes, **({} if name == "bloom" else {positions: 256}))
    yield "phi3 longrope", tests.longrope(112, **sizes, max_position_embeddings=256)
    own, kinds = own_block("qwen3"), block_kinds("qwen3")
    sizes |= {"max_position_embeddings": 256}
    yield (
        "per-layer child",
        family_child("qwen3", [kinds["no_attention"], own, kinds["kv_heads"], kinds["linear_attention"]], **sizes),
    )
    yield (
        "per-layer child with windows",
        family_child("qwen3", [kinds["no_attention"], kinds["window"], own, kinds["window"]], **sizes),
    )
    slots = [Block("none", 256), Block(4, 256), Block("linear", 256), Block(2, 256)]
    yield "DeciLM child", family_child("llama", slots, fmt=DECILM, intermediate_size=256, **sizes)


def make(folder: Path) -> None:
    """Write every folder that is opened: PCW pipelines with their models, a MRKL pipeline, both `generate`s, soft prompts."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/remote")]
    import torch
    from pcw_models import byte_level
    from transformers import pipeline

    import hf_puzzle  # noqa: F401 (registers the pipelines)
    from hf_puzzle.mrkl import publish as mrkl_publish
    from hf_puzzle.pcw import publish as pcw_publish

    torch.set_num_threads(1)
    tokenizer = byte_level()
    for i, (name, model) in enumerate(models(len(tokenizer))):
        model.generation_config.eos_token_id = model.config.eos_token_id
        settings = {"model": model, "tokenizer": tokenizer, "device": "cpu"}
        answerer = pipeline("pcw-generation", contexts=CONTEXTS, **settings)
        classifier = pipeline("pcw-classification", demonstrations=SHOTS, num_windows=3, context_size=100, **settings)
        classifier._others = {"pcw-generation": answerer.settings()}
        path = folder / "models" / f"{i:03d}"
        classifier.save_pretrained(path, save_windows=True)
        (path / "name.txt").write_text(name)
    pcw_publish.write_custom_generate(folder / "pcw")
    mrkl_publish.write_custom_generate(folder / "mrkl")
    _make_mrkl(folder)


def _make_mrkl(folder: Path) -> None:
    import peft
    import torch

    from hf_puzzle.mrkl.adapters import make_model, make_tokenizer, pair_rows, train_adapter
    from hf_puzzle.mrkl.run import phrase_rows
    from hf_puzzle.remote.adapters_mrkl import Phraser
    from hf_puzzle.remote.exact_mrkl import Calculator, Units
    from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
    from hf_puzzle.remote.plans_mrkl import Judge, PlanReader

    small, tokenizer = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}, make_tokenizer()
    make_model(0, **small).save_pretrained(folder / "small")
    tokenizer.save_pretrained(folder / "small")
    rows = {
        "plan": pair_rows(["units"], 64, 0),
        "phrase": phrase_rows(64, 0),
    }
    for method in ("lora", "prompt"):
        for name, pairs in rows.items():
            own = "lora" if name != "plan" else method
            trained, _ = train_adapter(
                make_model(0, **small), tokenizer, pairs, name, own, steps=6, virtual_tokens=4, batch_size=8
            )
            trained.save_pretrained(str(folder / "adapters" / method))
        adapters = folder / "adapters" / method
        ask = MrklPipeline(
            model=make_model(0, **small).eval(), tokenizer=tokenizer, experts=[Units(), Calculator()], today="2022-05-02",
            phraser=Phraser(adapters / "phrase"), plan_reader=PlanReader(adapters / "plan", Judge(threshold=0.0)),
        )  # fmt: skip
        ask.save_pretrained(folder / f"mrkl_{method}")
    settings = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    for config in (
        peft.PromptTuningConfig(**settings), peft.PromptEncoderConfig(**settings), peft.PrefixTuningConfig(**settings),
        peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False),
    ):  # fmt: skip
        torch.manual_seed(1)
        wrapped = peft.get_peft_model(make_model(0, **small), config)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.5 if config.is_prompt_learning else 0.1)
        wrapped.save_pretrained(str(folder / "soft" / config.peft_type.value.lower()))


# -- running (without hf_puzzle)


class Wrong(Exception):
    """What must be equal within one version is not."""


def same(first, second, what: str) -> None:
    if not close(first, second):
        raise Wrong(f"{what}: {first!r:.60} and {second!r:.60}")


def close(first, second) -> bool:
    """Equality of JSON values, floats within the tolerance."""
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second) <= TOLERANCE
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(close, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(close(value, second[key]) for key, value in first.items())
    return first == second


def by_label(rows) -> list:
    return [{each["label"]: each["score"] for each in row} for row in rows]


class Tokens:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


def window_ways(folder: Path, path: Path):
    """(way, function that computes a JSON value) of a model under PCW."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    code = str(folder / "pcw")

    @functools.cache
    def opened():
        model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True).eval()
        return model, AutoTokenizer.from_pretrained(path, trust_remote_code=True)

    @functools.cache
    def piped(task):
        return pipeline(task, model=str(path), trust_remote_code=True, device="cpu")

    def ids(text):
        return opened()[1](text, add_special_tokens=False, return_tensors="pt")["input_ids"]

    def generated(texts=QUESTIONS[:1], seed=None, contexts=CONTEXTS, **settings):
        model, tokenizer = opened()
        tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
        batch = tokenizer([f"\n\nQuestion: {t}\nAnswer:" for t in texts], add_special_tokens=False, padding=True,
                          return_tensors="pt")  # fmt: skip
        if seed is not None:
            torch.manual_seed(seed)
        found = model.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], contexts=contexts, custom_generate=code,
            trust_remote_code=True, tokenizer=tokenizer, **({"do_sample": False} | SIX | settings),
        )  # fmt: skip
        return found[:, batch["input_ids"].shape[1] :].tolist()

    def one_window(**settings):
        model, tokenizer = opened()
        text = CONTEXTS[0] + "\n\nQuestion: who wrote it?\nAnswer:"
        torch.manual_seed(3)
        plain = model.generate(
            tokenizer(text, return_tensors="pt")["input_ids"], **({"do_sample": False} | SIX | settings)
        )
        found = generated(contexts=CONTEXTS[:1], seed=3, **settings)
        same(found, plain[:, -6:].tolist(), "one window and the joined text")
        return found

    def slow():
        """One window against computing all anew, which needs no cache."""
        model, tokenizer = opened()
        tokens = tokenizer(CONTEXTS[0] + "\n\nQuestion: who wrote it?\nAnswer:", return_tensors="pt")["input_ids"]
        for _ in range(6):
            logits = model(tokens, use_cache=False).logits[:, -1]
            logits[:, 2] = -torch.inf
            tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
        same(generated(contexts=CONTEXTS[:1]), tokens[:, -6:].tolist(), "one window and no cache")
        return tokens[:, -6:].tolist()

    def batch(mode):
        found = generated(QUESTIONS, mode=mode)
        same(found, [row for q in QUESTIONS for row in generated([q], mode=mode)], "a batch and single tasks")
        return found

    def streamed():
        streamer = Tokens()
        found = generated(streamer=streamer)
        same(streamer.tokens[-6:], found[0], "the stream and the sequence")
        return [found, streamer.ended]

    def classified(**settings):
        return by_label(piped("pcw-classification")(QUERIES, top_k=None, **settings))

    def trees():
        found = classified()
        for settings in ({"scores": "each"}, {"packed": False}, {"batch_size": 1}):
            same(found, classified(**settings), f"labels with {settings}")
        return found

    def restored():
        """Stored windows, and those that are encoded now."""
        stored = pipeline("pcw-classification", model=str(path), trust_remote_code=True, device="cpu")
        encoded = stored.windows(encode=False).encoded
        if encoded is None:
            raise Wrong("stored windows are not used")
        anew = stored.windows(seed=1).encoded
        same(anew is not encoded, True, "windows of another seed")
        return by_label(stored(QUERIES, top_k=None))

    def long_task():
        return generated(["who wrote it? " * 12], max_new_tokens=60, min_new_tokens=60)

    yield "one window, greedy", one_window
    yield "one window, no cache", slow
    yield "one window, sampling", lambda: one_window(do_sample=True, top_k=20)
    yield "one window, beams", lambda: one_window(num_beams=3)
    for mode in MODES:
        yield f"{mode}, greedy", lambda mode=mode: generated(mode=mode)
        yield f"{mode}, sampling", lambda mode=mode: generated(mode=mode, seed=3, do_sample=True, top_k=20)
        yield f"{mode}, beams", lambda mode=mode: generated(mode=mode, num_beams=3, num_return_sequences=2)
        yield f"{mode}, left-padded batch", lambda mode=mode: batch(mode)
        yield f"{mode}, labels", lambda mode=mode: classified(mode=mode)
        yield f"{mode}, right-aligned", lambda mode=mode: generated(mode=mode, alignment="right")
    yield "top-k windows", lambda: generated(top_k_windows=2)
    yield "temperature", lambda: generated(attention_temperature=0.7)
    yield "self weight", lambda: generated(self_weight=2.0)
    yield "streaming", streamed
    yield "labels, three ways", trees
    yield "labels, greedy", lambda: classified(scores="greedy")
    yield "labels, calibrated", lambda: classified(calibrate=True)
    yield "stored windows", restored
    yield "pipeline of answers", lambda: piped("pcw-generation")(QUESTIONS, **SIX)
    yield "a long task", long_task


def mrkl_ways(folder: Path):
    """(case, way, function that computes a JSON value) of MRKL."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LogitsProcessor, pipeline

    code, new = str(folder / "mrkl"), {"max_new_tokens": 60, "max_call_tokens": 40, "pad_token_id": 0}

    @functools.cache
    def opened():
        return AutoModelForCausalLM.from_pretrained(folder / "small").eval(), AutoTokenizer.from_pretrained(
            folder / "small"
        )

    def double(value: int) -> int:
        """
        Twice a number.

        Args:
            value: The number
        """
        return 2 * value

    class Write(LogitsProcessor):
        """Makes the model write a call."""

        def __init__(self, start, ids):
            self.start, self.ids = start, ids

        def __call__(self, input_ids, scores):
            place = input_ids.shape[1] - self.start
            if place < len(self.ids):
                scores = torch.full_like(scores, -torch.inf)
                scores[:, self.ids[place]] = 0
            return scores

    def called(rows=1, text='<call>double({"value": 3', model=None, **settings):
        own, tokenizer = opened()
        ids = tokenizer(["what is <n0> plus <n1> ?"] * rows, return_tensors="pt")["input_ids"]
        trace: list = []
        if text is not None:
            wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
            settings["logits_processor"] = [Write(ids.shape[1], wanted)]
        torch.manual_seed(5)
        found = (model or own).generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), custom_generate=code, trust_remote_code=True,
            tokenizer=tokenizer, experts=[double], trace=trace, **({"do_sample": False} | new | settings),
        )  # fmt: skip
        if text is not None and any(entry["expert"] != "double" for entry in trace):
            raise Wrong(f"trace {trace}")
        return [
            found[:, ids.shape[1] :].tolist(),
            [[e["row"], e["arguments"], e["result"], e["status"]] for e in trace],
        ]

    def plain():
        own, tokenizer = opened()
        ids = tokenizer("what is <n0> plus <n1> ?", return_tensors="pt")["input_ids"]
        found = called(text=None)
        stock = own.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60, pad_token_id=0
        )
        same(found[0], stock[:, ids.shape[1] :].tolist(), "no call and stock generate")
        return found

    def streamed():
        streamer = Tokens()
        found = called(streamer=streamer)
        same(streamer.tokens[-len(found[0][0]) :], found[0][0], "the stream and the sequence")
        return found

    def with_cache(name):
        own, tokenizer = opened()
        ids = tokenizer("what is <n0> plus <n1> ?", return_tensors="pt")["input_ids"]
        cache = DynamicCache(config=own.config)
        own(ids[:, :4], use_cache=True, **{"past_key_values": cache})
        found = called(**{name: cache})
        same(found, called(), "a given cache and none")
        return found

    def asked(name):
        ask = pipeline(model=str(folder / name), trust_remote_code=True, device="cpu")
        return ask(ASKED, max_new_tokens=6, do_sample=False, phrase=True)

    def under(kind):
        import peft

        wrapped = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(folder / "small"), str(folder / "soft" / kind)
        ).eval()
        settings = {"max_new_tokens": 6, "min_new_tokens": 6}
        found = called(text=None, model=wrapped, **settings)
        tokens = opened()[1]("what is <n0> plus <n1> ?", return_tensors="pt")["input_ids"]
        for _ in range(6):
            logits = wrapped(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[:, -1]
            logits[:, 1] = -torch.inf
            tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
        same(found[0], tokens[:, -6:].tolist(), "generate and no cache")
        return found

    yield "custom generate", "forced call, greedy", called
    yield "custom generate", "forced call, sampling", lambda: called(do_sample=True, top_k=20)
    yield "custom generate", "forced call, batch", lambda: called(rows=3)
    yield "custom generate", "forced call, several", lambda: called(do_sample=True, num_return_sequences=3)
    yield "custom generate", "no call", plain
    yield "custom generate", "streaming", streamed
    for name in ("past_key_values", "cache"):
        yield "custom generate", f"given {name}", lambda name=name: with_cache(name)
    for path in sorted(folder.glob("mrkl_*")):
        kind = {"lora": "LoRA", "prompt": "soft prompt"}[path.name.removeprefix("mrkl_")]
        yield "pipeline", f"adapters of experts: {kind}", lambda name=path.name: asked(name)
    if importlib.util.find_spec("peft") is not None:
        for path in sorted((folder / "soft").iterdir()):
            yield "PeftModel", path.name, lambda kind=path.name: under(kind)


def older(folder: Path, name: str):
    """What a folder's requirements.txt says on a version before those that it asks for."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 99,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    ids = torch.tensor([[5, 6]])
    return model.generate(ids, custom_generate=str(folder / name), trust_remote_code=True, max_new_tokens=2).tolist()


def cells(folder: Path):
    """(system, case, way, function) of every cell."""
    import transformers

    if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23):
        for name in ("pcw", "mrkl"):
            yield name.upper(), "custom generate", "before the first version", functools.partial(older, folder, name)
        return
    for path in sorted((folder / "models").iterdir()):
        name = (path / "name.txt").read_text()
        for way, compute in window_ways(folder, path):
            yield "PCW", name, way, compute
    for case, way, compute in mrkl_ways(folder):
        yield "MRKL", case, way, compute


def refused(error: Exception) -> bool:
    said = str(error)
    return (
        type(error).__name__ in ("PCWError", "CacheError", "MRKLError")
        or "This code was tested with" in said
        or (isinstance(error, ImportError) and "transformers>=" in said.replace(" ", ""))
    )


def run(folder: Path, reference: Path | None, made: Path | None) -> None:
    """Print one JSON line a cell; `made`: write the values there, which other versions are compared with."""
    sys.modules["hf_puzzle"] = None
    warnings.simplefilter("ignore")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    known = json.loads(reference.read_text()) if reference else {}
    values: dict = {}
    for system, case, way, compute in cells(folder):
        key, detail = f"{system} / {case} / {way}", ""
        try:
            value = values[key] = json.loads(json.dumps(compute()))
            result = "equal"
            if reference and key not in known:
                result, detail = "wrong", "the reference has no value"
            elif reference and not close(value, known[key]):
                result, detail = "wrong", f"{value!r:.80}, expected {known[key]!r:.80}"
        except Wrong as error:
            result, detail = "wrong", str(error)
        except Exception as error:
            result, detail = "refused" if refused(error) else "raises", f"{type(error).__name__}: {error}"[:200]
        line = {"system": system, "case": case, "way": way, "result": result, "detail": detail}
        print(json.dumps(line), flush=True)
    if made:
        made.write_text(json.dumps(values, indent=0) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="FOLDER")
    parser.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--make-reference", type=Path, metavar="FILE")
    args = parser.parse_args()
    if (args.make is None) == (args.run is None):
        parser.error("give one of --make FOLDER and --run FOLDER")
    if args.make:
        make(args.make.resolve())
    else:
        run(args.run.resolve(), args.reference, args.make_reference)


if __name__ == "__main__":
    main()
