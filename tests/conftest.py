"""Tiny models, tokens and one trained library, shared by all tests; whoever changes a model copies it first."""

import copy
import os

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

from hf_puzzle.data import sequences
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.recipe import LibraryConfig, SearchSpaceConfig


torch.set_num_threads(1)
os.environ["HF_PUZZLE_LOG_EVERY"] = "0"  # no lines between those that tests look for

SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # spread enough for every block to matter
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def native_adapters():
    """Skips where transformers refuses the installed peft for `model.add_adapter` (5.24.0 asks for an unreleased one)."""
    from importlib.metadata import version

    from packaging.version import parse
    from transformers.integrations.peft import MIN_PEFT_VERSION

    if parse(version("peft")) < parse(MIN_PEFT_VERSION):
        pytest.skip(f"transformers wants peft >= {MIN_PEFT_VERSION} for add_adapter")


@pytest.fixture(scope="session")
def make_parent():
    """A function that builds a tiny parent of a family; biases and norms are not at their trivial values."""

    def make(family="llama", seed=0, **overrides):
        config_class, model_class, own = FAMILIES[family]
        torch.manual_seed(seed)
        model = model_class(config_class(**(SIZES | own | overrides))).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                parameter.data.normal_(float(name.endswith("norm.weight")), 0.2)
        return model

    return make


@pytest.fixture(scope="session")
def llama(make_parent):
    return make_parent("llama")


@pytest.fixture(scope="session")
def qwen2(make_parent):
    return make_parent("qwen2")


@pytest.fixture(scope="session")
def sequence_length():
    return 16


@pytest.fixture(scope="session")
def tokens():
    generator = torch.Generator().manual_seed(0)
    sizes = {"train": 12_000, "validation": 3_000, "test": 3_000}
    return {name: torch.randint(3, 256, (n,), generator=generator, dtype=torch.int32) for name, n in sizes.items()}


@pytest.fixture(scope="session")
def calibration(tokens, sequence_length):
    return sequences(tokens["train"], sequence_length, 512, seed=3)


@pytest.fixture(scope="session")
def space_config():
    return SearchSpaceConfig(attention=[2, 1, "linear", "none"], ffn=[512, 256, "linear", "none"])


@pytest.fixture(scope="session")
def space(llama, space_config):
    return build_search_space(llama.config, space_config, ["transformers"])


@pytest.fixture(scope="session")
def importance(llama, calibration):
    return channel_importance(llama, calibration, batch_size=8)


@pytest.fixture(scope="session")
def library_config():
    return LibraryConfig(
        num_tokens=512, batch_size=4, ridge_tokens=512, eval_tokens=128, evals=2, ffn_under_no_attention=False
    )


@pytest.fixture(scope="session")
def library(llama, space, importance, tokens, library_config, sequence_length, tmp_path_factory):
    """Every block of `space` after eight steps of BLD."""
    library = BlockLibrary(tmp_path_factory.mktemp("library"))
    parent = copy.deepcopy(llama)
    return build_library(parent, space, importance, tokens, library, library_config, sequence_length)


@pytest.fixture
def state_of():
    """A function that copies a model's tensors, for comparisons bit by bit."""
    return lambda model: {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def assert_bit_equal():
    def check(first, second):
        assert set(first) == set(second)
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name

    return check
