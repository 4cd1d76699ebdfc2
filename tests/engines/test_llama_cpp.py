"""llama.cpp against transformers: the same logits in three modes, the same greedy tokens, timings that add up."""

import copy
import sys

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hf_puzzle.blocks import Block
from hf_puzzle.costs import Workload, measure_interleaved, time_generation
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from hf_puzzle.engines.gguf import rounded_tensors, tensor_types, write_gguf, write_model_gguf  # noqa: E402
from hf_puzzle.engines.llama_cpp import LlamaCpp, LlamaCppError, _library, from_model  # noqa: E402


VOCAB, HIDDEN, HEADS, LENGTH, NEW = 97, 64, 4, 40, 12
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # spread enough for every block to matter
    "bos_token_id": None,
    "eos_token_id": None,
}
UNIFORM = {"intermediate_size": 192, "num_hidden_layers": 3, "num_key_value_heads": 2}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
MIXED = [(4, 256), (2, 512), (1, 256), (4, 768)]
HOLES = [(2, 256), ("none", 512), ("linear", 256), ("none", "none"), (1, 256)]
LINEAR_FIRST = [("linear", 256), (4, 256), ("linear", 512), (2, 256)]


def randomised(model):
    """`model` with norms and biases away from their trivial values."""
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            parameter.data.normal_(float(name.endswith("norm.weight")), 0.2)
    return model.eval().requires_grad_(False)


def decilm(blocks, seed=0, **overrides):
    torch.manual_seed(seed)
    entries = [block_config(HEADS, HIDDEN, *block) for block in blocks]
    return randomised(DeciLMForCausalLM(DeciLMConfig(**(SIZES | {"block_configs": entries} | overrides))))


def stock(config_class, model_class, **overrides):
    torch.manual_seed(0)
    return randomised(model_class(config_class(**(SIZES | UNIFORM | overrides))))


MODELS = {
    "KV heads and widths": lambda: decilm(MIXED),
    "no attention and linear attention": lambda: decilm(HOLES),
    "linear attention in layer 0": lambda: decilm(LINEAR_FIRST),
    "one kind of layer": lambda: decilm([(2, 256)] * 3),
    "tied": lambda: decilm(MIXED, tie_word_embeddings=True),
    "llama3 rope": lambda: decilm(MIXED, rope_parameters=LLAMA3_ROPE),
    "llama3 rope, linear attention in layer 0": lambda: decilm(LINEAR_FIRST, rope_parameters=LLAMA3_ROPE),
    "another theta": lambda: decilm(HOLES, rope_theta=500.0),
    "qkv_bias": lambda: decilm(HOLES, qkv_bias=True),
    "attention_bias": lambda: decilm(HOLES, attention_bias=True),
    "mlp_bias": lambda: decilm(HOLES, mlp_bias=True),
    "llama": lambda: stock(LlamaConfig, LlamaForCausalLM),
    "llama, tied, biases, llama3 rope, wide heads": lambda: stock(
        LlamaConfig, LlamaForCausalLM, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=32,
        rope_parameters=LLAMA3_ROPE,
    ),
    "mistral": lambda: stock(MistralConfig, MistralForCausalLM, sliding_window=None),
    "qwen2": lambda: stock(Qwen2Config, Qwen2ForCausalLM),
    "qwen2, tied": lambda: stock(Qwen2Config, Qwen2ForCausalLM, tie_word_embeddings=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_are_those_of_transformers(name, prompt, tmp_path):
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    path = write_gguf(tmp_path, tmp_path / "model.gguf", "f32", vocabulary=False)
    with torch.no_grad(), LlamaCpp(path, LENGTH + NEW, kv_dtype="f32") as engine:
        expected = model(torch.tensor([prompt])).logits[0].numpy()
        assert expected.std() > 0.5
        np.testing.assert_allclose(engine.logits(prompt), expected, atol=1e-4)
        np.testing.assert_allclose(engine.logits(prompt, chunk=1), expected, atol=1e-4)
        np.testing.assert_allclose(engine.last_logits(prompt), expected[-1], atol=1e-4)
        generated = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False)
        assert engine.greedy(prompt, NEW) == generated[0, LENGTH:].tolist()


def test_a_model_in_memory_makes_the_same_file(tmp_path):
    model = decilm(HOLES, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    path = write_gguf(tmp_path, tmp_path / "model.gguf", "q8_0", vocabulary=False)
    (tmp_path / "engine").mkdir()
    from_model(model, tmp_path / "engine", 16, "q8_0").close()
    (written,) = (tmp_path / "engine").iterdir()
    assert written.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("outtype, tolerance", [("f16", 0.01), ("bf16", 0.05), ("q8_0", 0.05)])
def test_other_types_stay_close(prompt, tmp_path, outtype, tolerance):
    model = decilm(MIXED)
    with torch.no_grad(), from_model(model, tmp_path, LENGTH, outtype) as engine:
        expected = model(torch.tensor([prompt])).logits[0].numpy()
        assert np.abs(engine.logits(prompt) - expected).mean() < tolerance


def test_a_file_of_mixed_types_says_what_the_rounded_weights_say(prompt, tmp_path):
    blocks = [Block("kv4@q4_0", "w256@q8_0"), Block(2, "w512@q4_0"), Block("linear@q8_0", 256), Block("kv1@q8_0", 768)]
    model = decilm([block.plain for block in blocks])
    types = tensor_types(blocks)
    rounded = copy.deepcopy(model)
    rounded.load_state_dict(rounded_tensors(model.config, model.state_dict(), types))
    path = write_model_gguf(model, tmp_path / "mixed.gguf", "f32", types)
    with torch.no_grad(), LlamaCpp(path, LENGTH, kv_dtype="f32") as engine:
        found = engine.logits(prompt)
        expected, whole = (m(torch.tensor([prompt])).logits[0].numpy() for m in (rounded, model))
    # llama.cpp rounds what it multiplies such weights with to 8 bits
    assert np.abs(found - expected).mean() < 0.03 * expected.std()
    assert np.abs(found - expected).mean() < 0.2 * np.abs(whole - expected).mean()


def test_sequences_of_a_batch_do_not_see_each_other(tmp_path):
    model = decilm(MIXED)
    prompts = torch.randint(0, VOCAB, (3, 300), generator=torch.Generator().manual_seed(2)).numpy()
    with from_model(model, tmp_path, 310, "f32", n_seq_max=3, kv_dtype="f32") as engine:
        together = np.array(list(engine._greedy(prompts, 8))).T  # 900 tokens: more than one chunk of the prefill
        assert together.tolist() == [engine.greedy(row, 8) for row in prompts]


def test_timing_runs_the_workload(tmp_path):
    models = {"long": decilm([(4, 1024)] * 12), "short": decilm([(4, 1024)] * 2)}
    workload = Workload(batch_size=2, prefill_tokens=48, decode_tokens=9)
    engines = {name: from_model(model, tmp_path, 64, n_seq_max=2) for name, model in models.items()}
    timings = measure_interleaved(engines, workload, 5, "cpu")
    for part in ("prefill_ms", "decode_ms"):
        long, short = (min(getattr(t, part) for t in timings[name]) for name in ("long", "short"))
        assert long > 2 * short > 0
    assert time_generation(engines["short"], Workload(1, 4, 1)).decode_ms < 1
    for wrong in (Workload(3, 8, 8), Workload(1, 60, 6)):
        with pytest.raises(ValueError, match=r"do not fit n_seq_max = 2 and n_ctx = 64"):
            time_generation(engines["short"], wrong)
    for engine in engines.values():
        engine.close()


def test_wrong_tokens_and_lengths_are_named(tmp_path):
    with from_model(decilm(MIXED), tmp_path, 16) as engine:
        with pytest.raises(ValueError, match="17 tokens: expected 1 to n_ctx = 16"):
            engine.logits([0] * 17)
        with pytest.raises(ValueError, match="0 tokens: expected 1"):
            engine.last_logits([])
        with pytest.raises(ValueError, match="token ids 0 to 97: expected 0 to 96"):
            engine.logits([0, VOCAB])
        with pytest.raises(ValueError, match=r"1 sequences of 10 \+ 8 tokens do not fit"):
            engine.greedy([0] * 10, 8)
        assert len(engine.greedy([0] * 10, 7)) == 7


def test_files_that_do_not_load_say_why(tmp_path, capfd):
    with pytest.raises(LlamaCppError, match="nothing.gguf does not exist: write it with .*write_gguf"):
        LlamaCpp(tmp_path / "nothing.gguf", 16)
    (tmp_path / "broken.gguf").write_bytes(b"GGUFnonsense")
    with pytest.raises(LlamaCppError, match="llama.cpp does not load .*broken.gguf: .*fail"):
        LlamaCpp(tmp_path / "broken.gguf", 16)
    with pytest.raises(ValueError, match="kv_dtype 'q4': expected one of f16, f32"):
        LlamaCpp(tmp_path / "broken.gguf", 16, kv_dtype="q4")
    assert capfd.readouterr().err == ""


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    _library.cache_clear()
    for package in ("gguf", "llama_cpp"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=r'pip install "hf_puzzle\[llama-cpp\]"'):
                from_model(decilm(MIXED), tmp_path, 16)
    from_model(decilm(MIXED), tmp_path, 16).close()
