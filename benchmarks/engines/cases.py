"""Model folders of every kind for the engines to open, with what transformers computes in float32.

    python benchmarks/engines/cases.py OUT [--engines mlx-lm llama.cpp ...] [--only TEXT]

Writes `OUT/CASE/raw` (the folder as hf_puzzle saves a child), `OUT/CASE/ENGINE` (its export), `OUT/CASE/reference.npz`
and `OUT/manifest.json`, which the runners read. Weights are random and spread, so that every block matters.
"""

import argparse
import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.engines import ENGINES
from hf_puzzle.engines.check import NO, OPENS, check_folder
from hf_puzzle.engines.export import export, from_graph


ROOT = Path(__file__).parent.parent.parent
HIDDEN, HEADS, WIDTH, VOCABULARY = 256, 8, 768, 512
SPREAD = 0.8 * HIDDEN**-0.5  # of the weights: logits with a deviation near 1
PROMPTS, NEW = (48, 17, 33), 16  # tokens
PLAIN = "plain"  # a stock architecture
OWN, NONE, LINEAR = Block(4, WIDTH), "none", "linear"
FIRST, MIDDLE, LAST = (0,), (1,), (2,)  # of three
PLACES = {"first": FIRST, "middle": MIDDLE, "last": LAST}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ALTERNATING = ["sliding_attention", "full_attention"] * 3
# class, settings of its own
FAMILIES = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "phi3": ("Phi3", {"sliding_window": None, "pad_token_id": 0}),
    "gemma2": ("Gemma2", {"head_dim": 32, "sliding_window": 16, "layer_types": ALTERNATING, "query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3Text", {"head_dim": 32, "sliding_window": 16, "layer_types": ALTERNATING, "query_pre_attn_scalar": 32}),
    "granite": (
        "Granite",
        {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    ),
    "granite_unscaled": ("Granite", {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 1, 0, 1, 1, 1]}),
    "olmo2": ("Olmo2", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "head_dim": 32}),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A child; `config` are settings of its parent, `layout` changes what stands in config.json afterwards."""

    name: str
    blocks: list[Block]
    family: str = "llama"
    fmt: str = formats.DECILM
    config: dict = dataclasses.field(default_factory=dict)
    layout: str = ""


def at(layers: tuple[int, ...], block: Block, own: Block = OWN) -> list[Block]:
    return [block if i in layers else own for i in range(3)]


def rope(theta: float, **scaling) -> dict:
    return {"rope_parameters": {"rope_type": "default", **scaling, "rope_theta": theta}}


def decilm_cases() -> list[Case]:
    mixed = [Block(n, WIDTH) for n in (8, 4, 2, 1, 8, 2)]
    cases = [
        Case("uniform", [OWN] * 3),
        Case("KV heads differ", mixed),
        Case("widths differ", [Block(4, w) for w in (768, 256, 1280, 512, 768, 1024)]),
        Case("KV heads and widths differ", [Block(n.attention, w) for n, w in zip(mixed, (768, 256, 1280, 512, 768, 1024), strict=True)]),
    ]  # fmt: skip
    for place, layers in PLACES.items():
        cases += [
            Case(f"attention none, {place}", at(layers, Block(NONE, WIDTH))),
            Case(f"attention linear, {place}", at(layers, Block(LINEAR, WIDTH))),
            Case(f"FFN none, {place}", at(layers, Block(4, NONE))),
            Case(f"FFN linear, {place}", at(layers, Block(4, LINEAR))),
            Case(f"both none, {place}", at(layers, Block(NONE, NONE))),
        ]
    cases += [
        Case("attention none, first two", at((0, 1), Block(NONE, WIDTH))),
        Case("both linear, middle", at(MIDDLE, Block(LINEAR, LINEAR))),
        Case("attention linear and FFN none, middle", at(MIDDLE, Block(LINEAR, NONE))),
        Case("attention none anywhere", [Block(NONE, WIDTH), Block(NONE, 256)] * 2),
        Case("attention linear everywhere", [Block(LINEAR, WIDTH), Block(LINEAR, 256)] * 2),
        Case("every kind", [Block(8, WIDTH), Block(NONE, 512), Block(LINEAR, 256), Block(1, LINEAR), Block(2, NONE), Block(4, 512)]),
    ]  # fmt: skip
    other = at(MIDDLE, Block(4, 256))  # no stock architecture, and nothing else
    settings = {
        "tied head": {"tie_word_embeddings": True},
        "rope_theta 123456": rope(123_456.0),
        "biases on q, k, v, o": {"attention_bias": True},
        "biases in the FFN": {"mlp_bias": True},
        "RoPE linear": rope(500_000.0, rope_type="linear", factor=4.0),
        "RoPE llama3, theta 500000": rope(500_000.0, **LLAMA3),
        "RoPE llama3, theta 10000": rope(10_000.0, **LLAMA3),
        "RoPE yarn, theta 10000": rope(10_000.0, **YARN),
        "RoPE dynamic": rope(10_000.0, rope_type="dynamic", factor=4.0) | {"max_position_embeddings": 32},
        "head_dim 64": {"head_dim": 64},
        "hidden size 320": {"hidden_size": 320},
    }
    cases += [Case(name, other, config=config) for name, config in settings.items()]
    cases.append(Case("biases on q, k, v", other, family="qwen2"))
    for kind, scaling, theta in (
        ("llama3", LLAMA3, 500_000.0),
        ("llama3", LLAMA3, 10_000.0),
        ("yarn", YARN, 10_000.0),
    ):
        name = f"NVIDIA's layout, RoPE {kind}, theta {theta:.0f}"
        cases.append(Case(name, other, config=rope(theta, **scaling), layout="nvidia"))
    theta = rope(123_456.0)  # a uniform child becomes a stock architecture, whose other readers look for it elsewhere
    alike = [OWN] * 3
    cases += [
        Case("uniform, rope_theta 123456", alike, config=theta),
        Case("uniform, RoPE llama3", alike, config=rope(500_000.0, **LLAMA3)),
        Case("uniform, biases on q, k, v", alike, family="qwen2", config=theta),
        Case("plain llama, rope_theta 123456", alike, fmt=PLAIN, config=theta),
        Case("plain qwen2, rope_theta 123456", alike, family="qwen2", fmt=PLAIN, config=theta),
    ]
    return cases


def per_layer_cases() -> list[Case]:
    def case(name: str, blocks: list[Block], family: str, **config) -> Case:
        return Case(f"per-layer {family}: {name}", blocks, family, formats.PER_LAYER, config)

    mixed = [Block(n, WIDTH) for n in (8, 4, 2, 1, 4, 2)]
    cases = [
        case("KV heads differ", mixed, "qwen3"),
        case("widths differ", [Block(4, w) for w in (768, 256, 300, 512, 768, 1000)], "qwen3"),
        case("uniform", [Block(2, WIDTH)] * 3, "qwen3"),
        case("window 8", at(MIDDLE, Block("kv4win8", WIDTH)), "qwen3"),
        case("RoPE yarn", at(MIDDLE, Block(4, 300)), "qwen3", **rope(10_000.0, **YARN)),
        case("widths differ", at(MIDDLE, Block(4, 300)), "llama"),
        case("window 8", at(MIDDLE, Block("kv4win8", WIDTH)), "llama"),
        case("hidden_act gelu", at(MIDDLE, Block(4, 512)), "llama", hidden_act="gelu"),
    ]
    kinds = {
        "attention none": Block(NONE, WIDTH),
        "attention linear": Block(LINEAR, WIDTH),
        "FFN none": Block(4, NONE),
        "FFN linear": Block(4, LINEAR),
        "both none": Block(NONE, NONE),
    }
    for (name, block), (place, layers) in itertools.product(kinds.items(), PLACES.items()):
        cases.append(case(f"{name}, {place}", at(layers, block), "qwen3"))
    for family in FAMILIES:
        if family in ("llama", "qwen2", "qwen3", "mixtral", "qwen3_moe"):
            continue
        every = [OWN, Block(NONE, WIDTH), Block(4, 300), Block(LINEAR, WIDTH), Block(4, LINEAR), Block(2, NONE)]
        cases += [
            case("KV heads and widths differ", [OWN, Block(2, 300), Block(1, WIDTH), OWN, Block(8, 512), OWN], family),
            case("every kind", every, family),
        ]
    for family in ("mixtral", "qwen3_moe"):
        cases.append(case("experts differ", [Block(4, f"e{n}") for n in (4, 2, 3, 4, 4, 2)], family))
    return cases


def cases() -> list[Case]:
    return [*decilm_cases(), *per_layer_cases()]


# -- writing


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as Llama 3 cuts words, of the README's text."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((ROOT / "README.md").read_text().splitlines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )


def config_of(case: Case) -> PretrainedConfig:
    stock, own = FAMILIES[case.family]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": len(case.blocks),
        "num_attention_heads": HEADS,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "initializer_range": SPREAD,
    }
    parent = getattr(transformers, f"{stock}Config")(**(sizes | own | case.config))
    return parent if case.fmt == PLAIN else formats.child_config(parent, case.blocks, case.fmt)


def child_of(case: Case) -> PreTrainedModel:
    """The child, its norms and biases away from their trivial values."""
    config = config_of(case)
    torch.manual_seed(0)
    model = formats.model_class(config)(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.normal_(0.0 if "gemma" in case.family or name.endswith("bias") else 1.0, 0.2)
        elif "experts" in name or "router" in name:
            parameter.normal_(0.0, SPREAD)
    model.generation_config.eos_token_id = None  # no prompt ends early
    return model


def write(case: Case, folder: Path, words: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The folder of a case, as hf_puzzle saves a child."""
    model = child_of(case)
    hub.write_model_folder(folder, model, words)
    _lay_out(case, folder)
    return model


def write_without_weights(case: Case, folder: Path, words: PreTrainedTokenizerFast) -> None:
    """All of the folder that `check` reads of a child that it does not weigh."""
    config = config_of(case)
    with torch.device("meta"):
        model = formats.model_class(config)(config)
    model.save_pretrained(folder, state_dict={})
    hub.write_code(folder)
    words.save_pretrained(folder)
    _lay_out(case, folder)


def _lay_out(case: Case, folder: Path) -> None:
    if case.layout == "nvidia":
        path = folder / "config.json"
        raw = json.loads(path.read_text())
        rope_parameters = raw.pop("rope_parameters")
        raw["rope_theta"] = rope_parameters.pop("rope_theta")
        raw["rope_scaling"] = rope_parameters
        path.write_text(json.dumps(raw, indent=2))


@torch.no_grad()
def reference(model: PreTrainedModel, out: Path) -> None:
    """Greedy tokens without a cache, and the logits that they were taken from."""
    generator = torch.Generator().manual_seed(1)
    arrays = {}
    for i, length in enumerate(PROMPTS):
        tokens = torch.randint(3, VOCABULARY, (1, length), generator=generator)
        for _ in range(NEW):
            logits = model(tokens, use_cache=False).logits[0]
            tokens = torch.cat([tokens, logits[-1].argmax()[None, None]], 1)
        logits = model(tokens, use_cache=False).logits[0]
        arrays |= {f"prompt{i}": tokens[0, :length].numpy(), f"greedy{i}": tokens[0, length:].numpy()}
        arrays[f"logits{i}"] = logits[length - 1 : -1].float().numpy()
    np.savez(out, **arrays)


def exported(raw: Path, engine: str, path: Path) -> list[str]:
    if not ENGINES[engine].graphs or engine == "onnxruntime":
        return export(raw, engine, path, **({"outtype": "f32"} if engine == "llama.cpp" else {}))
    graph = raw.parent / "onnxruntime"  # the graph, made once for all that run it
    if not graph.exists():
        export(raw, "onnxruntime", graph)
    found = from_graph(graph, engine, path, raw)
    return [f"{name}: {value:.1e}" for name, value in found.items()]


def prepare(case: Case, out: Path, engines: list[str], words: PreTrainedTokenizerFast) -> list[dict]:
    """Entries of the manifest: a folder or file, or why there is none."""
    place = out / "".join(c if c.isalnum() else "_" for c in case.name)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "reference.npz").exists():
        reference(write(case, place / "raw", words), place / "reference.npz")
    opens = [engine for engine in engines if engine != "llama.cpp" and not ENGINES[engine].graphs]
    entries = [{"case": case.name, "folder": "raw", "path": str(place / "raw"), "engines": opens}]
    verdicts = {verdict.engine: verdict for verdict in check_folder(place / "raw")}
    for engine in engines:
        if verdicts[engine].status == OPENS and engine != "llama.cpp":
            continue  # an export adds nothing
        path = place / (f"{engine}.gguf" if engine == "llama.cpp" else engine)
        entry = {"case": case.name, "folder": "exported", "engines": [engine], "path": str(path)}
        said = place / f"{engine}.json"
        if not said.exists():
            told = {"refused": verdicts[engine].reason}
            if verdicts[engine].status != NO:
                try:
                    told = {"changes": exported(place / "raw", engine, path)}
                except ValueError as error:
                    told = {"refused": str(error)}
            said.write_text(json.dumps(told))
        entries.append(entry | json.loads(said.read_text()))
    return [entry | {"reference": str(place / "reference.npz")} for entry in entries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--engines", nargs="*", default=[])
    parser.add_argument("--only", default="", help="cases whose name has this regular expression")
    parser.add_argument("--manifest", default="manifest.json", help="its name in OUT")
    args = parser.parse_args()
    torch.set_num_threads(1)
    words, entries = tokenizer(), []
    for case in cases():
        if re.search(args.only, case.name):
            entries += prepare(case, args.out, args.engines, words)
            print(case.name, flush=True)
    path = args.out / args.manifest
    path.write_text(json.dumps(entries, indent=1))


if __name__ == "__main__":
    main()
