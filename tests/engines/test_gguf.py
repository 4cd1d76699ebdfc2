"""The GGUF writer: token ids against transformers', what the file holds, and what is refused with which words."""

import json
import random
import sysconfig
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, PreTrainedTokenizerFast, Qwen2Config

from hf_puzzle.artifacts import ArtifactError
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from hf_puzzle.engines.gguf import (  # noqa: E402
    _LLAMA3,
    _QWEN2,
    _QWEN35,
    NotExpressible,
    write_gguf,
    write_model_gguf,
)
from hf_puzzle.engines.llama_cpp import LlamaCpp  # noqa: E402
from hf_puzzle.puzzle.vocabulary import kept_tokens, spec_of, trim_tokenizer  # noqa: E402


HIDDEN, HEADS, VOCAB = 32, 4, 1200
ROOT = Path(__file__).parent.parent.parent
TRICKY = [
    "", " ", "  ", "\t\tx", "a\tb\t c", "x   y    z ", "trailing   ", "   leading", "\n \n  \n", "line\r\nnext\n\n\nend\n",
    "héllo wörld ÀÉÎ", "日本語のテキスト 漢字", "Ελληνικά Русский العربية हिन्दी ไทย", "emoji 😀👍🏽 👨‍👩‍👧 ok",
    "don't DON'T I'll we'Re it's'S", "1 12 123 1234 12345 3.14159 ٣٤٥ ½ ²", "\u00a0nbsp\u2003em\u3000ideo",
    "<|endoftext|>", "a<|endoftext|>b <|endoftext|> c", "<s>hi</s> <unk> <0x0A> <pad>", "<tool_call>{}<tool_call>",
    "x" * 300, "!!!???...---___***", "a_b-c.d/e\\f", "\x00\x01\x7f", "''''\"\"\"\"", "under▁score ▁",
]  # fmt: skip

SCRIPTS = [
    (0x21, 0x7F), (0xA1, 0x180), (0x384, 0x38B), (0x391, 0x3CF), (0x400, 0x482), (0x5D0, 0x5EB), (0x660, 0x66A),
    (0x904, 0x93A), (0x966, 0x970), (0x2010, 0x2028), (0x2150, 0x2180), (0x2190, 0x21B0), (0x3041, 0x3097),
    (0x4E00, 0x4E80), (0xAC00, 0xAC40), (0x1F600, 0x1F640),
]  # fmt: skip


@pytest.fixture(scope="module")
def lines():
    """1000 lines of the standard library's sources, the tricky ones, and 200 of letters, digits and signs of many
    scripts in any order."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(library.glob("*.py")) + sorted((library / "encodings").glob("*.py"))
    text = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    generator = random.Random(0)
    scripts = [chr(code) for start, end in SCRIPTS for code in range(start, end)] + list(" \t\n'") * 60
    mixed = [unicodedata.normalize("NFC", "".join(generator.choices(scripts, k=40))) for _ in range(200)]
    return generator.sample(text, 1000) + TRICKY + mixed


def byte_level(text, *cuts, ignore_merges=False, use_regex=False, normalizer=None):
    """A BPE over bytes that cuts words by `cuts`, trained on `text`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, last]) if cuts else last
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=last.alphabet(), special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_fallback(text, prefix=True):
    """A BPE over characters with bytes for rare ones, as Llama 2 has, trained on `text`."""
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, limit_alphabet=100, special_tokens=special + names, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = spec["added_tokens"][: len(special)]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    if prefix:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


TOKENIZERS = {
    "gpt-2": lambda text: byte_level(text, use_regex=True),
    "smollm": lambda text: byte_level(text, pre_tokenizers.Digits(individual_digits=True), use_regex=True),
    "llama-bpe": lambda text: byte_level(text, split(_LLAMA3), ignore_merges=True),
    "smaug-bpe": lambda text: byte_level(text, split(_LLAMA3)),
    "qwen2": lambda text: byte_level(text, split(_QWEN2), normalizer=normalizers.NFC()),
    "qwen35": lambda text: byte_level(text, split(_QWEN35)),
    "byte fallback": byte_fallback,
    "byte fallback without prefix": lambda text: byte_fallback(text, prefix=False),
}


def llama_config(**overrides):
    sizes = {
        "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    return LlamaConfig(**(sizes | overrides))


@pytest.fixture
def folder(tmp_path):
    """A Llama folder without a tokenizer."""
    torch.manual_seed(0)
    LlamaForCausalLM(llama_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def fields(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_ids_are_those_of_transformers(folder, lines, name):
    TOKENIZERS[name](lines[:500]).save_pretrained(folder)
    path = write_gguf(folder, folder / "model.gguf")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    different = []
    with LlamaCpp(path, 16) as model:
        for line in lines:
            ids = tokenizer(line, add_special_tokens=False)["input_ids"]
            if model.tokenize(line) != ids or model.tokenize(line, add_special=True) != tokenizer(line)["input_ids"]:
                different.append(line)
            if "fallback" not in name:
                assert model.detokenize(ids) == line
        assert different == []
        assert model.detokenize(model.tokenize("  two words é")) == "  two words é"
    if "fallback" not in name:
        assert fields(path)["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "byte fallback"])
def test_a_trimmed_vocabulary_is_read_as_transformers_reads_it(folder, lines, name):
    whole = TOKENIZERS[name](lines[:500])
    used = Counter(i for line in lines[:200] for i in whole(line)["input_ids"])
    tokenizer = trim_tokenizer(whole, kept_tokens(spec_of(whole), used, 600))
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) == 600 < len(whole)
    with LlamaCpp(write_gguf(folder, folder / "model.gguf"), 16) as model:
        assert [line for line in lines if model.tokenize(line, add_special=True) != tokenizer(line)["input_ids"]] == []


def test_the_demo_parent(lines, tmp_path):
    source = ROOT / "recipes/puzzle/tiny_parent"
    path = write_gguf(source, tmp_path / "tiny.gguf")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float16).float().eval()
    prompt = tokenizer("def read(self, size=-1):\n    return self._")["input_ids"]
    with LlamaCpp(path, 64) as engine, torch.no_grad():
        assert [line for line in lines if engine.tokenize(line) != tokenizer(line)["input_ids"]] == []
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, use_cache=True)
        assert engine.greedy(prompt, 16) == expected[0, len(prompt) :].tolist()


def test_special_tokens_and_padding_rows(folder, lines):
    tokenizer = byte_level(lines[:100], use_regex=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 0, 7]}))
    held = fields(write_gguf(folder, folder / "model.gguf"))
    tokens, types = held["tokenizer.ggml.tokens"], held["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == VOCAB
    ids = tokenizer.get_vocab()
    kinds = gguf.TokenType
    assert types[ids["<|endoftext|>"]] == kinds.CONTROL
    assert types[ids["<tool_call>"]] == kinds.USER_DEFINED
    assert types[ids["a"]] == kinds.NORMAL
    assert (tokens[-1], types[-1]) == (f"[PAD{VOCAB - 1}]", kinds.UNUSED)
    assert held["tokenizer.ggml.eos_token_id"] == held["tokenizer.ggml.bos_token_id"] == 0
    assert (held["tokenizer.ggml.eot_token_id"], held["tokenizer.ggml.eom_token_id"]) == (5, 7)
    assert held["tokenizer.ggml.add_bos_token"] is False
    assert held["tokenizer.chat_template"] == tokenizer.chat_template


def test_decomposed_text_of_an_nfc_tokenizer_warns(folder, lines, caplog):
    TOKENIZERS["qwen2"](lines[:100]).save_pretrained(folder)
    write_gguf(folder, folder / "model.gguf")
    assert "llama.cpp does not: decomposed text gets other tokens" in caplog.text


def word_level():
    return Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))


def characters():
    return Tokenizer(models.BPE({"a": 0}, []))


def raw(tokenizer, **changes):
    """A `tokenizers` tokenizer with entries of its JSON replaced."""
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.backend_tokenizer.to_str()) | changes))


def oversized(tokenizer):
    tokenizer.add_tokens([f"<{i}>" for i in range(len(tokenizer), 1301)])
    return tokenizer


REFUSED_TOKENIZERS = {
    "a tokenizer of type WordLevel": lambda text: word_level(),
    "a tokenizer of type Unigram": lambda text: Tokenizer(models.Unigram([("a", 0.0)], 0)),
    "neither byte-level nor has byte_fallback": lambda text: characters(),
    r"words cut by \['\\\\w\+'\] with ignore_merges=False; known are gpt-2,": lambda text: byte_level(text, split(r"\w+")),
    r"words cut by \['gpt-2'\] with ignore_merges=True": lambda text: byte_level(text, use_regex=True, ignore_merges=True),
    "the normalizer .*Lowercase": lambda text: byte_level(text, use_regex=True, normalizer=normalizers.Lowercase()),
    "the pre-tokenizer step .*Punctuation": lambda text: byte_level(text, pre_tokenizers.Punctuation()),
    "no end-of-sequence token": lambda text: raw(byte_level(text, use_regex=True)),
    r"1301 tokens up to id 1300 for vocab_size=1200": lambda text: oversized(byte_level(text, use_regex=True)),
    "the added token '<x>' with lstrip": lambda text: raw(
        byte_level(text, use_regex=True),
        added_tokens=[{"id": 1100, "content": "<x>", "special": True, "lstrip": True} | dict.fromkeys(
            ("single_word", "rstrip", "normalized"), False
        )],
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED_TOKENIZERS)
def test_tokenizers_without_a_form_in_gguf(folder, lines, message):
    tokenizer = REFUSED_TOKENIZERS[message](lines[:50])
    (tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer.backend_tokenizer).save(
        str(folder / "tokenizer.json")
    )
    with pytest.raises(NotExpressible, match=f"{message}.*vocabulary=False"):
        write_gguf(folder, folder / "model.gguf")
    assert list(folder.parent.rglob("*.gguf*")) == []
    write_gguf(folder, folder / "model.gguf", vocabulary=False)


def test_a_folder_without_a_tokenizer(folder):
    with pytest.raises(NotExpressible, match="has no tokenizer.json: save the tokenizer .* vocabulary=False"):
        write_gguf(folder, folder / "model.gguf")
    path = write_gguf(folder, folder / "model.gguf", vocabulary=False)
    with LlamaCpp(path, 16) as model:
        assert model.vocab_size == VOCAB
        assert model.logits([1, 2, 3]).shape == (3, VOCAB)
        with pytest.raises(ValueError, match="this GGUF file has no vocabulary"):
            model.tokenize("a")


def decilm(*blocks, **overrides):
    torch.manual_seed(0)
    entries = [block_config(HEADS, HIDDEN, *block) for block in blocks]
    config = DeciLMConfig(
        **(
            {"vocab_size": 64, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "block_configs": entries}
            | overrides
        )
    )
    return DeciLMForCausalLM(config)


REWRITE = "run `hf-puzzle export DIR --target llama.cpp`, which rewrites it exactly"


@pytest.mark.parametrize(
    "blocks, message",
    [
        ([(4, 256), (4, "none"), (4, 256)], f"layer 1 has no FFN behind its attention.*{REWRITE}"),
        ([(4, 256), ("linear", "none"), (4, 256)], f"layer 1 has no FFN behind its attention.*{REWRITE}"),
        ([(4, 256), (4, "linear")], f"layer 1 has a linear FFN.*{REWRITE}"),
        ([("none", 256), (4, 256)], f"layer 0 has no attention.*{REWRITE}"),
        ([(4, 256), ("none", "none")], f"layer 1 is the last and has no FFN.*{REWRITE}"),
        ([("linear", 256), ("none", 256)], "no layer has attention: .*keep one attention"),
    ],
)
def test_layers_that_llama_cpp_runs_wrong(tmp_path, blocks, message):
    with pytest.raises(NotExpressible, match=message):
        write_model_gguf(decilm(*blocks), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "RoPE .*'linear'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "RoPE .*'yarn'"),
        ({"head_dim": 16}, "head_dim 16 is not hidden_size / num_attention_heads = 32/4.*deploy on vLLM"),
    ],
)
def test_configurations_that_llama_cpp_runs_wrong(tmp_path, overrides, message):
    with pytest.raises(NotExpressible, match=message):
        write_model_gguf(decilm((4, 256), **overrides), tmp_path / "model.gguf")


@pytest.mark.parametrize("where", ["decilm", "mistral", "qwen2"])
def test_windows_are_refused(folder, where):
    if where == "decilm":
        config = decilm((4, 256), (4, 256)).config.to_dict()
        config["block_configs"][1]["attention"]["window_length"] = 8
    elif where == "mistral":
        config = MistralConfig(num_hidden_layers=2, sliding_window=8).to_dict()
    else:
        config = Qwen2Config(
            num_hidden_layers=2, use_sliding_window=True, sliding_window=8, max_window_layers=1
        ).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    layer = 0 if where == "mistral" else 1
    with pytest.raises(NotExpressible, match=f"layer {layer} has a sliding window, which llama.cpp ignores"):
        write_gguf(folder, folder / "model.gguf", vocabulary=False)


def test_other_architectures_and_types_are_named(folder):
    with pytest.raises(ValueError, match="outtype 'q4': expected one of f32, f16, bf16, q8_0, q4_k_m"):
        write_gguf(folder, folder / "model.gguf", "q4", vocabulary=False)
    (folder / "config.json").write_text('{"model_type": "gemma2"}')
    with pytest.raises(NotExpressible, match="'gemma2' cannot be written as GGUF here; known: nemotron-nas, llama"):
        write_gguf(folder, folder / "model.gguf", vocabulary=False)


def test_tensors_must_fit_the_configuration(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}, weights)
    with pytest.raises(NotExpressible, match="no place for the tensors model.layers.0.self_attn.q_norm.weight"):
        write_gguf(folder, folder / "model.gguf", vocabulary=False)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, weights)
    with pytest.raises(ArtifactError, match="no tensor model.layers.0.mlp.up_proj.weight"):
        write_gguf(folder, folder / "model.gguf", vocabulary=False)
    weights.unlink()
    with pytest.raises(ArtifactError, match="model.safetensors is missing"):
        write_gguf(folder, folder / "model.gguf", vocabulary=False)


def test_shards_are_one_file(folder):
    whole = write_gguf(folder, folder / "whole.gguf", vocabulary=False).read_bytes()
    model = LlamaForCausalLM.from_pretrained(folder)
    sharded = folder.parent / "sharded"
    model.save_pretrained(sharded, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert write_gguf(sharded, folder / "parts.gguf", vocabulary=False).read_bytes() == whole


def test_a_failed_write_leaves_the_old_file(folder):
    path = write_gguf(folder, folder / "model.gguf", vocabulary=False)
    before = path.read_bytes()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(NotExpressible, match="up_proj.weight has values beyond float16's range: use outtype='bf16'"):
        write_gguf(folder, path, vocabulary=False)
    assert path.read_bytes() == before
    assert sorted(p.name for p in folder.glob(".*")) == []
    write_gguf(folder, path, "bf16", vocabulary=False)


@pytest.mark.parametrize("outtype, tolerance", [("f32", 0), ("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 2**-7)])
def test_types_of_tensors(tmp_path, outtype, tolerance):
    model = decilm((2, 256), ("linear", 512))
    path = write_model_gguf(model, tmp_path / "model.gguf", outtype)
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    norm, matrix = held["blk.0.attn_norm.weight"], held["blk.1.ffn_down.weight"]
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32
    assert matrix.tensor_type == gguf.GGMLQuantizationType[outtype.upper()]
    expected = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    values = gguf.dequantize(matrix.data, matrix.tensor_type)
    assert np.abs(values - expected).max() <= tolerance * np.abs(expected).max()
    assert fields(path)["deci.attention.head_count_kv"] == [2, 0]
    assert fields(path)["deci.feed_forward_length"] == [256, 512]
