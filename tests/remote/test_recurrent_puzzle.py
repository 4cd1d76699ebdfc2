"""Gated linear attention: chunks against its definition, caches and padding, from an attention to a folder that opens."""

import json
import subprocess
import sys

import pytest
import torch
from families import family_child, family_config, family_model
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, StaticCache

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block, kv_heads, parse_variant, row_of, sizes_of
from hf_puzzle.costs import weight_bytes
from hf_puzzle.data import sequences
from hf_puzzle.engines import ENGINES, refuses
from hf_puzzle.engines.check import check_folder
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token, state_bytes
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import empty_block, layers_of, load_block, sub_block
from hf_puzzle.recipe import LibraryConfig, RecipeError, ScoreConfig, SearchSpaceConfig
from hf_puzzle.remote import recurrent_puzzle
from hf_puzzle.remote.caches_puzzle import OUTPUT_NAME, CacheError
from hf_puzzle.remote.recurrent_puzzle import GatedLinearAttention


TOKENS = torch.randint(3, 128, (2, 20), generator=torch.Generator().manual_seed(0))
FAMILIES = (
    "llama",
    "qwen2",
    "gemma2",
    "granite",
    "mixtral",
)  # plain, biases, sliding layers, a config of its own, experts
OPEN = """
import json, sys
sys.modules["hf_puzzle"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model(torch.tensor(json.loads(sys.argv[2]))).logits.tolist()))
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(recurrent_puzzle, "CHUNK", 4)


def layouts(own):
    """One state among attentions, first and last, states everywhere, a state where the others are gone."""
    return {
        "one": [own, Block("gla4", own.ffn), own, Block("gla2", own.ffn)],
        "first": [Block("gla2", own.ffn), own, own, Block("none", own.ffn)],
        "all": [Block("gla4", own.ffn)] * 4,
        "beside nothing": [
            Block("none", own.ffn),
            Block("gla1", own.ffn),
            Block("linear", own.ffn),
            Block("none", own.ffn),
        ],
    }


def child_of(family, blocks):
    torch.manual_seed(0)
    child = family_child(family, blocks)
    for module in child.modules():  # gates and taps that matter
        if isinstance(module, GatedLinearAttention):
            torch.nn.init.normal_(module.gate_proj.weight, std=0.5)
            torch.nn.init.normal_(module.conv1d.weight, std=0.5)
    child.generation_config.eos_token_id = None
    return child


def test_an_id_says_what_it_is():
    assert parse_variant("attention", "gla4") == "gla4"
    assert sizes_of("attention", "gla4") == {"state_heads": 4}
    assert row_of("attention", "gla4").trained
    assert kv_heads("gla4") is None
    assert kv_bytes_per_token(family_config("llama"), "gla4", "float32") == 0
    with pytest.raises(ValueError, match="'gla4' is not an ffn variant"):
        parse_variant("ffn", "gla4")


@torch.no_grad()
def test_chunks_are_the_sum_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.rand(2, 2, 3, 11, 6, generator=generator)
    values, log_gate = torch.randn(2, 3, 11, 5, generator=generator), -torch.rand(2, 3, 11, generator=generator)
    state = torch.zeros(2, 3, 6, 5)
    answers = []
    for t in range(11):
        state = state * log_gate[:, :, t, None, None].exp() + keys[:, :, t, :, None] * values[:, :, t, None]
        answers.append(torch.einsum("bhn,bhnm->bhm", queries[:, :, t], state))
    found, end = recurrent_puzzle._run(queries, keys, values, log_gate, None)
    torch.testing.assert_close(found, torch.stack(answers, dim=2))
    torch.testing.assert_close(end, state)
    first = recurrent_puzzle._run(queries[:, :, :5], keys[:, :, :5], values[:, :, :5], log_gate[:, :, :5], None)
    rest = recurrent_puzzle._run(queries[:, :, 5:], keys[:, :, 5:], values[:, :, 5:], log_gate[:, :, 5:], first[1])
    torch.testing.assert_close(torch.cat([first[0], rest[0]], dim=2), found)


@torch.no_grad()
def test_it_starts_from_the_attention_whose_place_it_takes():
    parent = family_model("llama")
    attention = sub_block(layers_of(parent)[1], "attention")
    weights = initial_weights(layers_of(parent)[1], "attention", "gla2", parent.config, layer_idx=1)
    pooled = attention.k_proj.weight.view(2, 2, 8, 32).mean(1).reshape(16, 32)
    torch.testing.assert_close(weights["k_proj.weight"], pooled)
    block = load_block(empty_block(layers_of(parent)[1], "attention", "gla2", parent.config, 1), weights)
    x = torch.randn(2, 9, 32)
    answer, nothing = block(x, attention_mask=None)
    assert nothing is None
    # averages of values over what came before: at the first token, of the mean of the values of heads that share a state
    value = (
        attention.v_proj(x[:, :1]).view(2, 1, 2, 2, 8).mean(3, keepdim=True).expand(2, 1, 2, 2, 8).reshape(2, 1, 32)
    )
    torch.testing.assert_close(answer[:, :1], attention.o_proj(value), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", layouts(Block(4, 64)))
@torch.no_grad()
def test_caches_are_right_in_every_way_of_generating(family, name):
    blocks = layouts(formats.parent_block(family_config(family)))[name]
    child = child_of(family, blocks)
    assert formats.describe(child.config) == blocks
    full = child(TOKENS, use_cache=False).logits
    static = StaticCache(config=child.config, max_cache_len=32)
    for cache in (DynamicCache(), DynamicCache(config=child.config), static):
        chunks = TOKENS.split((9, 1, 7, 1, 2), dim=1)
        cached = torch.cat([child(chunk, past_key_values=cache, use_cache=True).logits for chunk in chunks], dim=1)
        torch.testing.assert_close(cached, full, rtol=0, atol=1e-5)
        assert cache.get_seq_length() == TOKENS.shape[1]
    expected = TOKENS
    for _ in range(5):
        expected = torch.cat([expected, child(expected, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    settings = {"max_new_tokens": 5, "num_beams": 1, "do_sample": False}
    ways = (
        dict,
        lambda: {"cache_implementation": "static"},
        lambda: {OUTPUT_NAME: DynamicCache()},
        lambda: {"use_cache": False},
    )
    padded = torch.cat([torch.zeros_like(TOKENS[:1, :4]), TOKENS[:1]], dim=1)
    for way in ways:
        assert torch.equal(child.generate(TOKENS, **settings, **way()), expected), way()
        found = child.generate(padded, attention_mask=(padded != 0).long(), **settings, **way())
        assert torch.equal(found[:, 4:], expected[:1]), way()
    beams = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    assert torch.equal(child.generate(TOKENS, **beams), child.generate(TOKENS, use_cache=False, **beams))


@torch.no_grad()
def test_padded_rows_are_the_rows_alone():
    child = child_of("llama", [Block("gla2", 64), Block(4, 64), Block("gla4", 64), Block(4, 64)])
    for pad in (1, 5):
        padded = torch.cat([torch.zeros_like(TOKENS[:, :pad]), TOKENS], dim=1)
        mask = torch.cat([torch.zeros_like(TOKENS[:, :pad]), torch.ones_like(TOKENS)], dim=1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        found = child(padded, attention_mask=mask, position_ids=positions).logits[:, pad:]
        torch.testing.assert_close(found, child(TOKENS).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_bytes_of_states_are_what_a_cache_holds_however_long_the_text():
    child = child_of("llama", [Block("gla2", 64)] * 4)
    for length in (3, 20):
        layer = child(TOKENS[:1, :length], use_cache=True).past_key_values.layers[1]
        held = [*layer.conv_states.values(), *layer.recurrent_states.values()]
        assert sum(s.numel() * s.element_size() for s in held) == state_bytes(child.config, "gla2", "float32")


def test_drafted_tokens_cannot_be_taken_back_and_other_caches_are_refused():
    child = child_of("llama", [Block("gla2", 64), *[Block(4, 64)] * 3])
    with pytest.raises(ValueError, match="stateful"):
        child.generate(TOKENS[:1], assistant_model=family_model("llama"), max_new_tokens=3)

    class Paged:
        def update(self, *args):
            raise AssertionError

        def get_seq_length(self, *args):
            return 0

        free_blocks = layers = ()

    block = GatedLinearAttention(family_config("llama"), "attention", True, 2)
    block.layer_idx = 3
    with pytest.raises(
        CacheError, match="layer 3 keeps a state .gated linear attention., for which Paged has no place"
    ):
        block(torch.zeros(1, 2, 32), past_key_values=Paged())


def test_continuous_batching_is_refused_where_it_would_mix_requests():
    child = child_of("llama", [Block("gla2", 64), *[Block(4, 64)] * 3])
    found = child.generate_batch(
        [TOKENS[0].tolist()],
        GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=8, page_size=16, max_batch_tokens=32),
        progress_bar=False,
    )
    (output,) = found.values()
    assert "keeps a state (gated linear attention), for which PagedAttentionCache has no place" in output.error


# -- through the stages


@pytest.fixture(scope="module")
def parent():
    return family_model("llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def space(parent):
    return build_search_space(parent.config, SearchSpaceConfig(["gla", "gla2", "none"], [32], 8))


@pytest.fixture(scope="module")
def stream():
    return torch.randint(3, 128, (2000,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


@pytest.fixture(scope="module")
def library(parent, space, stream, tmp_path_factory):
    config = LibraryConfig(num_tokens=256, batch_size=2, ridge_tokens=1024, eval_tokens=64, evals=2)
    importance = channel_importance(parent, sequences(stream, 16, 128, 0), 4)
    folder, streams = BlockLibrary(tmp_path_factory.mktemp("library")), {"train": stream, "validation": stream}
    return build_library(parent, space, importance, streams, folder, config, 16)


def test_it_is_offered_trained_and_judged(parent, space, library, stream):
    assert space.variants["attention"] == [4, "gla4", "gla2", "none"]
    for name in ("attention.gla4", "attention.gla2"):
        row = library.index[f"layer_01/{name}"]
        assert row["trained_tokens"] == 256
        assert row["init"] in ("attention", "attention+ridge")
        assert row["loss_after"] <= row["loss_before"] < 1
    judge = Judge(parent, space, library, Metric.of(ScoreConfig(num_tokens=64), stream, 16, 0))
    scores = {score.block: score.value for score in score_blocks(judge) if score.layer_idx == 0}
    alone = judge.distance([Block("gla2", 64), *[space.parent] * 3])[0]
    assert alone == pytest.approx(scores["gla2+w64"], rel=1e-4)
    assert alone > 0


@torch.no_grad()
def test_a_child_opens_bit_equal_where_hf_puzzle_is_not_installed(parent, library, tmp_path):
    blocks = [Block("gla4", 64), Block(4, 32), Block("gla2", 64), Block("none", 32)]
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    with Network(parent.config, blocks, library).inside(parent):
        expected = parent(TOKENS, use_cache=False).logits
    torch.testing.assert_close(child(TOKENS, use_cache=False).logits, expected, rtol=0, atol=1e-5)
    folder = hub.write_model_folder(tmp_path / "child", child)
    command = [sys.executable, "-P", "-c", OPEN, folder, json.dumps(TOKENS.tolist())]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    torch.testing.assert_close(
        torch.tensor(json.loads(run.stdout.splitlines()[-1])), child(TOKENS).logits, rtol=0, atol=1e-5
    )
    assert formats.describe(hub.read_config(folder)) == blocks
    assert weight_bytes(child) == 4 * child.num_parameters()
    verdicts = {verdict.engine: verdict for verdict in check_folder(folder)}
    assert verdicts["transformers"].status == "opens"
    opens = {name for name, verdict in verdicts.items() if verdict.status != "no"}
    assert opens == {"transformers", "transformers-serve"}
    assert verdicts["onnxruntime"].reason == verdicts["continuous-batching"].reason == verdicts["vllm"].reason
    assert verdicts["vllm"].reason == "layer 0 (gla4+w64): no gated linear attention"
    assert "DeciLM has no gated linear attention" in verdicts["mlx-lm"].reason


# -- what cannot be


def test_engines_refuse_it_by_name():
    reasons = {engine: refuses(engine, 1, 4, "gla2", 64) for engine in ENGINES}
    assert {engine for engine, reason in reasons.items() if reason is None} == {"transformers", "transformers-serve"}
    assert set(reasons.values()) == {None, "no gated linear attention"}


def test_sizes_and_families_that_have_no_such_start_are_refused():
    with pytest.raises(RecipeError, match="'gla3': 3 states do not divide the parent's 4 KV heads"):
        build_search_space(family_config("llama"), SearchSpaceConfig(attention=["gla3"]))
    with pytest.raises(
        RecipeError, match="GPTNeoXAttention has no plain q_proj, k_proj, v_proj and o_proj to start from"
    ):
        build_search_space(family_config("gpt_neox"), SearchSpaceConfig(attention=["gla4"]))
    hybrid = build_search_space(family_config("granite_hybrid_dense"), SearchSpaceConfig(attention=["gla"]))
    assert [layer.attention for layer in hybrid.layers] == [("recurrent",), (4, "gla4")] * 2
