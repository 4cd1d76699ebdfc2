"""The low-rank map: from a recipe through training and scores to a folder that opens where hf_puzzle is not installed."""

import copy
import json
import logging
import subprocess
import sys

import pytest
import torch
from families import family_child, family_config, family_model
from transformers import AutoConfig, ContinuousBatchingConfig, DynamicCache, GenerationConfig

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block, kv_heads, parse_variant, row_of, sizes_of
from hf_puzzle.data import sequences
from hf_puzzle.engines import ENGINES, refuses
from hf_puzzle.engines.check import check_folder
from hf_puzzle.puzzle.block_costs import kv_bytes_per_token, num_parameters
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.refit import refit
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import empty_block, layers_of, load_block
from hf_puzzle.recipe import ChildConfig, LibraryConfig, RecipeError, ScoreConfig, SearchSpaceConfig
from hf_puzzle.remote.lowrank_puzzle import LowRank


TOKENS = torch.randint(3, 128, (2, 14), generator=torch.Generator().manual_seed(0))
BLOCKS = [Block("r4", 64), Block(2, "r8"), Block("r4", "r8"), Block(4, "r8")]
PER_LAYER_ENGINES = {"transformers", "transformers-serve", "continuous-batching", "onnxruntime", "openvino"}
OPEN = """
import json, sys
sys.modules["hf_puzzle"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
print(json.dumps(model(torch.tensor(json.loads(sys.argv[2]))).logits.tolist()))
"""


def test_an_id_says_what_it_is():
    for kind in ("attention", "ffn"):
        assert parse_variant(kind, "r64") == "r64"
        assert sizes_of(kind, "r64") == {"rank": 64}
        assert row_of(kind, "r64").trained
    assert kv_heads("r64") is None
    assert kv_bytes_per_token(family_config("llama"), "r8", "float32") == 0
    norm = 32
    assert num_parameters(family_config("llama"), "ffn", "r8", formats.PER_LAYER) == 2 * 32 * 8 + norm


@pytest.mark.parametrize("text", ["r", "r0", "r08", "r-1", "lowrank8"])
def test_other_ids_are_refused_with_the_known_ones(text):
    with pytest.raises(
        ValueError,
        match=f"'{text}' is not an ffn variant: expected w<number>, e4, e4w512, e4top2, e4w512top2, r4, linear or none",
    ):
        parse_variant("ffn", text)


def test_it_starts_from_the_nearest_map_of_its_rank():
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(weight)
    for rank in (1, 8):
        weights = LowRank.from_map(weight, "ffn", rank)
        made = weights["out_proj.weight"] @ weights["in_proj.weight"]
        torch.testing.assert_close((made - weight).norm(), values[rank:].norm())
    exact = LowRank.from_map(made, "ffn", 8)
    torch.testing.assert_close(exact["out_proj.weight"] @ exact["in_proj.weight"], made)


def test_the_start_minds_what_goes_in():
    generator = torch.Generator().manual_seed(0)
    weight, mixing = torch.randn(2, 16, 16, generator=generator)
    inputs = torch.randn(400, 16, generator=generator) @ (mixing * torch.linspace(3, 0.1, 16))
    errors = {}
    for name, moments in (("plain", None), ("aware", inputs.T @ inputs)):
        pair = LowRank.from_map(weight, "ffn", 4, moments)
        answers = inputs @ (pair["out_proj.weight"] @ pair["in_proj.weight"]).T
        errors[name] = (answers - inputs @ weight.T).square().sum()
    # Eckart and Young on the answers themselves
    best = torch.linalg.svdvals(inputs.double() @ weight.double().T)[4:].square().sum()
    torch.testing.assert_close(errors["aware"].double(), best, rtol=1e-3, atol=0)
    assert errors["aware"] < errors["plain"]


@torch.no_grad()
def test_cut_from_a_parent_it_is_the_product_of_its_weights():
    parent = family_model("llama")
    layer, x = layers_of(parent)[1], torch.randn(2, 5, 32)
    for kind in ("attention", "ffn"):
        (product,) = initial_weights(layer, kind, "linear", parent.config).values()
        weights = initial_weights(layer, kind, "r8", parent.config)
        block = load_block(empty_block(layer, kind, "r8", parent.config, 1), weights)
        expected = x @ (weights["out_proj.weight"] @ weights["in_proj.weight"]).T
        output = block(x, attention_mask=None) if kind == "attention" else block(x)
        torch.testing.assert_close(output[0] if kind == "attention" else output, expected)
        assert (expected - x @ product.T).norm() < (x @ product.T).norm()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "gpt_neox"])
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(family):
    own = formats.parent_block(family_config(family))
    blocks = [Block("r4", own.ffn), Block(own.attention, "r8"), Block("r4", "r8"), own]
    child = family_child(family, blocks)
    assert formats.describe(child.config) == blocks
    full, cache = child(TOKENS, use_cache=False).logits, DynamicCache(config=child.config)
    parts = [child(part, past_key_values=cache, use_cache=True).logits for part in TOKENS.split((9, 1, 4), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=0, atol=1e-5)


def test_continuous_batching_generates_the_same():
    child = family_child("llama", [Block("r4", 64), Block(4, "r8"), Block("r4", "r8")])
    child.generation_config.eos_token_id = None
    prompts = [row[:length] for row, length in zip(TOKENS, (5, 9), strict=True)]
    alone = [child.generate(ids[None], max_new_tokens=4, do_sample=False)[0, len(ids) :].tolist() for ids in prompts]
    settings = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=8, page_size=16, max_batch_tokens=32)
    ids = [prompt.tolist() for prompt in prompts]
    found = child.generate_batch(ids, settings, continuous_batching_config=small, progress_bar=False)
    assert [output.generated_tokens for output in found.values()] == alone


# -- through the stages


@pytest.fixture(scope="module")
def parent():
    return family_model("llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def space(parent):
    return build_search_space(parent.config, SearchSpaceConfig([2, "r4", "none"], ["r8", "linear"], 8))


@pytest.fixture(scope="module")
def stream():
    return torch.randint(3, 128, (2000,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


@pytest.fixture(scope="module")
def library(parent, space, stream, tmp_path_factory):
    config = LibraryConfig(num_tokens=256, batch_size=2, ridge_tokens=1024, eval_tokens=64, evals=2)
    importance = channel_importance(parent, sequences(stream, 16, 128, 0), 4)
    folder, streams = BlockLibrary(tmp_path_factory.mktemp("library")), {"train": stream, "validation": stream}
    return build_library(parent, space, importance, streams, folder, config, 16)


@pytest.fixture(scope="module")
def child(parent, space, library):
    return Network(parent.config, BLOCKS, library, formats.PER_LAYER).assembled(parent)


def test_it_is_offered_trained_and_judged(parent, space, library, stream):
    assert space.variants == {"attention": [4, 2, "r4", "none"], "ffn": [64, "r8", "linear"]}
    for name in ("attention.r4", "ffn.r8"):
        row = library.index[f"layer_01/{name}"]
        assert (row["trained_tokens"], row["init"] in ("ridge", "product")) == (256, True)
        assert row["loss_after"] <= row["loss_before"] < 1
    judge = Judge(parent, space, library, Metric.of(ScoreConfig(num_tokens=64), stream, 16, 0))
    scores = {score.block: score.value for score in score_blocks(judge) if score.layer_idx == 0}
    alone = judge.distance([Block(4, "r8"), *[space.parent] * 3])[0]
    assert alone == pytest.approx(scores["kv4+r8"], rel=1e-4)
    assert judge.distance(BLOCKS)[0] > alone > 0


def test_a_child_opens_bit_equal_where_hf_puzzle_is_not_installed(child, tmp_path):
    folder = hub.write_model_folder(tmp_path / "child", child)
    command = [sys.executable, "-P", "-c", OPEN, folder, json.dumps(TOKENS.tolist())]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert torch.equal(torch.tensor(json.loads(run.stdout.splitlines()[-1])), child(TOKENS).logits)
    assert formats.describe(AutoConfig.from_pretrained(folder)) == BLOCKS
    verdicts = {verdict.engine: verdict for verdict in check_folder(folder)}
    assert verdicts["transformers"].status == "opens"
    assert verdicts["vllm"].status == "no"
    assert verdicts["vllm"].reason == "layer 0 (r4+w64): no low-rank maps"
    assert verdicts["mlx-lm"].status == "no"
    assert "layer 0, block r4+w64: DeciLM has no low-rank maps" in verdicts["mlx-lm"].reason


def test_its_last_matrix_is_refitted(parent, child, stream):
    refitted = copy.deepcopy(child)
    refit(refitted, parent, sequences(stream, 16, 1024, 0), ChildConfig())
    before, after = child.state_dict(), refitted.state_dict()
    changed = {name.rsplit(".", 2)[-2] for name in before if not torch.equal(before[name], after[name])}
    assert "out_proj" in changed
    assert "in_proj" not in changed


# -- what cannot be


@pytest.mark.parametrize("kind, block", [("attention", Block("r8", 64)), ("ffn", Block(4, "r8"))])
def test_engines_refuse_it_by_name(kind, block):
    reasons = {engine: refuses(engine, 1, 4, *block) for engine in ENGINES}
    assert {engine for engine, reason in reasons.items() if reason is None} == PER_LAYER_ENGINES
    assert set(reasons.values()) == {None, "no low-rank maps"}


def test_a_rank_that_saves_nothing_is_refused():
    message = "'r16': rank 16 takes as many weights as the linear map, 32 x 32: use linear"
    with pytest.raises(RecipeError, match=f"search_space.ffn: {message}"):
        build_search_space(family_config("llama"), SearchSpaceConfig(ffn=["r16"]))
    with pytest.raises(formats.FormatError, match="layer 0, block kv4.r16: rank 16 takes as many weights"):
        formats.per_layer_config(family_config("llama"), [Block(4, "r16")])


def test_the_variant_that_rules_decilm_out_is_named(space, caplog):
    config = family_config("llama")
    with caplog.at_level(logging.INFO, logger="hf_puzzle.formats"):
        assert formats.choose_format(config, [b for b in space.blocks if "r8" not in b]) == formats.PER_LAYER
    assert "attention r4: DeciLM has no low-rank maps" in caplog.text
    caplog.clear()
    plain = [b for b in space.blocks if not {"r4", "r8"} & set(b)]
    assert formats.choose_format(config, plain) == formats.DECILM
    with pytest.raises(formats.FormatError, match="block kv4.r8: DeciLM has no low-rank maps; use the per_layer"):
        formats.choose_format(config, [Block(4, "r8")], formats.DECILM)
    assert caplog.text == ""


def test_an_id_of_newer_code_is_named(child):
    config = formats.per_layer_config(family_config("llama"), [Block(4, "r8")])
    config.per_layer_config = {0: {"replace_with": {"ffn": "zz9"}, "rms_norm_eps": 0.0}}
    with pytest.raises(formats.FormatError, match="per_layer_config: 'zz9' is not an ffn variant"):
        formats.describe(config)
    with pytest.raises(ValueError, match="replace_with: unknown ffn 'zz9'; this code has linear, r<number>"):
        formats.model_class(config)(config)
