"""Every family goes through every stage of Puzzle: importance, cuts, BLD, scores, costs, child, refit, distillation."""

import dataclasses

import pytest
import torch
from families import FAMILIES, family_config, family_model

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block, kv_heads, num_experts
from hf_puzzle.costs import weight_bytes
from hf_puzzle.data import sequences
from hf_puzzle.puzzle.block_costs import non_block_parameters, num_parameters
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.distillation import GKDTrainer, head_of
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.refit import refit
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import (
    check_parent,
    empty_block,
    first_states,
    layers_of,
    load_block,
    only_layers,
    run_layer,
    swapped,
)
from hf_puzzle.recipe import ChildConfig, LibraryConfig, ScoreConfig, SearchSpaceConfig
from hf_puzzle.training import training_arguments


MOE = ("mixtral", "qwen3_moe", "gpt_oss")
TOKENS = torch.randint(3, 128, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def parent(family):
    return family_model(family)


@pytest.fixture(scope="module")
def space(parent, family):
    attention = ["window6", "linear", "none"] if family == "gpt_neox" else [2, "kv2win6", "linear", "none"]
    ffn = [2, "none"] if family in MOE else [32, "linear", "none"]
    config = SearchSpaceConfig(attention=attention, ffn=ffn, width_multiple=8)
    return build_search_space(parent.config, config)


@pytest.fixture(scope="module")
def streams():
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randint(3, 128, (2000,), generator=generator, dtype=torch.int32)
        for name in ("train", "validation")
    }


@pytest.fixture(scope="module")
def library(parent, space, streams, tmp_path_factory):
    config = LibraryConfig(
        num_tokens=64, batch_size=2, ridge_tokens=256, eval_tokens=32, evals=1, ffn_under_no_attention=True
    )
    importance = channel_importance(parent, sequences(streams["train"], 16, 128, 0), 4)
    folder = BlockLibrary(tmp_path_factory.mktemp("library"))
    return build_library(parent, space, importance, streams, folder, config, 16)


def layout(space, parent):
    """A child that has every kind of block; layer 0 has no attention."""
    attention, ffn = space.layers[0].attention, space.layers[0].ffn
    own = space.parent
    return [Block("none", ffn[1]), Block(attention[1], ffn[2]), Block("linear", own.ffn), Block(attention[-3], "none")]


@torch.no_grad()
def test_the_parent_is_supported_and_its_layers_run_one_by_one(parent):
    check_parent(parent.config)
    full = parent(TOKENS, use_cache=False, output_hidden_states=True)
    state = first_states(parent, TOKENS)
    for i in range(4):
        torch.testing.assert_close(state, full.hidden_states[i], rtol=0, atol=1e-5)
        with only_layers(parent, i, states=state):
            logits = parent(inputs_embeds=torch.zeros_like(state), use_cache=False).logits
        torch.testing.assert_close(logits, full.logits, rtol=0, atol=1e-5)
        state = run_layer(parent, i, state)
    torch.testing.assert_close(head_of(parent)(full.hidden_states[-1]), full.logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_keeping_everything_is_the_identity(parent, space):
    layer = layers_of(parent)[1]
    for kind in ("attention", "ffn"):
        own = getattr(space.parent, kind)
        count = num_experts(own) or own
        weights = initial_weights(layer, kind, own, parent.config, torch.arange(count))
        block = load_block(empty_block(layer, kind, own, parent.config, 1), weights)
        before = parent(TOKENS).logits
        pair = (
            (block, layer.mlp)
            if kind == "attention"
            else (getattr(layer, "self_attn", None) or layer.attention, block)
        )
        with swapped(parent, {1: pair}):
            assert torch.equal(parent(TOKENS).logits, before)


@torch.no_grad()
def test_pooling_equal_heads_changes_no_output(parent, family):
    if family == "gpt_neox":
        pytest.skip("GPT-NeoX has no grouped KV heads")
    layer = layers_of(parent)[1]
    weights = initial_weights(layer, "attention", 2, parent.config)
    pooled = load_block(empty_block(layer, "attention", 2, parent.config, 1), weights)
    # the parent with each head replaced by the mean of its pair is the pooled attention
    doubled = {}
    for name, tensor in layer.self_attn.state_dict().items():
        small = weights[name]
        if small.shape == tensor.shape:
            doubled[name] = tensor
            continue
        fused = small.shape[0] * 2 != tensor.shape[0]
        rows = 2 * (tensor.shape[0] - small.shape[0]) // 2
        queries, rest = (
            (small[: small.shape[0] - rows], small[small.shape[0] - rows :]) if fused else (small[:0], small)
        )
        parts = rest.chunk(2) if fused else [rest]
        doubled[name] = torch.cat(
            [
                queries,
                *(
                    p.reshape(2, 1, -1, *p.shape[1:]).expand(-1, 2, *[-1] * p.ndim).reshape(-1, *p.shape[1:])
                    for p in parts
                ),
            ]
        )
    parent_like = load_block(empty_block(layer, "attention", 4, parent.config, 1), doubled)
    with swapped(parent, {1: (parent_like, layer.mlp)}):
        expected = parent(TOKENS).logits
    with swapped(parent, {1: (pooled, layer.mlp)}):
        torch.testing.assert_close(parent(TOKENS).logits, expected, rtol=0, atol=1e-4)


def test_bld_trained_every_block(library, space):
    assert {name for name, row in library.index.items() if "dropped" in row} == set()
    trained = [row for row in library.index.values() if row["trained_tokens"]]
    assert trained
    assert all(row["loss_after"] <= row["loss_before"] for row in library.index.values())


def test_only_what_fits_a_family_shares_subspaces(library, family):
    inits = {row["init"] for name, row in library.index.items() if "/attention.kv" in name}
    fused, normed = ("phi3", "gpt_neox"), ("qwen3", "gemma3_text", "olmo2", "qwen3_moe")
    assert not inits & {"shared_values", "shared_subspace"} if family in fused else True
    assert "shared_subspace" not in inits if family in normed else True


def test_scores_are_zero_for_the_parent_and_positive_for_less(parent, space, library, streams):
    config = ScoreConfig(num_tokens=64, batch_size=4, blocks="all")
    judge = Judge(parent, space, library, Metric.of(config, streams["validation"], 16, 0))
    scores = score_blocks(judge)
    by_block = {(s.layer_idx, s.block): s.value for s in scores}
    for i in range(4):
        assert by_block[i, space.parent.id] == 0.0
        assert by_block[i, Block("none", "none").id] > 0
    # replacing one block is the distance of that child
    blocks = [space.parent] * 4
    blocks[2] = Block("linear", space.layers[2].ffn[1])
    value, _ = judge.distance(blocks)
    assert value == pytest.approx(by_block[2, blocks[2].id], rel=1e-4, abs=1e-6)


@torch.no_grad()
def test_a_child_is_the_parent_with_its_blocks_and_opens_again(parent, space, library, tmp_path):
    blocks = layout(space, parent)
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    with Network(parent.config, blocks, library).inside(parent):
        expected = parent(TOKENS, use_cache=False).logits
    torch.testing.assert_close(child(TOKENS, use_cache=False).logits, expected, rtol=0, atol=1e-5)
    assert formats.describe(child.config) == blocks
    folder = hub.write_model_folder(tmp_path / "child", child)
    again = hub.open_model_folder(folder)
    assert torch.equal(again(TOKENS, use_cache=False).logits, child(TOKENS, use_cache=False).logits)
    assert formats.describe(hub.read_config(folder)) == blocks


def test_costs_count_what_the_child_holds(parent, space, library):
    blocks = layout(space, parent)
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    counted = non_block_parameters(parent.config) + sum(
        num_parameters(parent.config, kind, variant, formats.PER_LAYER)
        for block in blocks
        for kind, variant in zip(("attention", "ffn"), block, strict=True)
    )
    # norms that both sub-blocks share (parallel layers) belong to neither
    shared = sum(
        p.numel() for layer in layers_of(child) for n, p in layer.named_parameters() if n.startswith("input_")
    )
    slack = shared if type(parent).__name__.startswith("Cohere") else 0
    assert counted + slack == child.num_parameters() == weight_bytes(child) // 4
    assert all(kv_heads(b.attention) is None or kv_heads(b.attention) <= 4 for b in blocks)


def test_refit_brings_the_child_nearer(parent, space, library, streams):
    blocks = [Block(a, f) for a, f in [(space.layers[0].attention[1], space.layers[0].ffn[1])] * 4]
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    rows = sequences(streams["train"], 16, 2_048, 5)
    before = (child(rows).logits - parent(rows).logits).square().mean()
    done = refit(child, parent, rows, ChildConfig(batch_size=32))
    after = (child(rows).logits - parent(rows).logits).square().mean()
    assert after < before if done.kept else after == before
    # of a mixture, the attention alone is refitted: little to win
    assert done.kept or hasattr(layers_of(parent)[0].mlp, "experts")


def test_a_step_of_distillation_reaches_every_weight(parent, space, library, tmp_path):
    from hf_puzzle.recipe import DistillConfig

    child = (
        Network(parent.config, layout(space, parent), library, formats.PER_LAYER)
        .assembled(parent)
        .requires_grad_(True)
    )
    args = training_arguments(tmp_path, "distill", {}, max_steps=1, use_cpu=True)
    trainer = GKDTrainer(teacher=parent, config=DistillConfig(num_tokens=64), model=child, args=args)
    loss = trainer.compute_loss(child, {"input_ids": TOKENS})
    loss.backward()
    assert torch.isfinite(loss)
    still = [n for n, p in child.named_parameters() if p.grad is None and "experts" not in n and "router" not in n]
    assert still == []
    same = Network(parent.config, [space.parent] * 4, library, formats.PER_LAYER).assembled(parent)
    config = dataclasses.replace(DistillConfig(num_tokens=64), cosine_weight=0.0)
    trainer = GKDTrainer(teacher=parent, config=config, model=same, args=args)
    assert abs(trainer.compute_loss(same, {"input_ids": TOKENS}).item()) < 1e-5


def test_family_configs_are_of_the_family(family):
    assert formats.stock_class(family_config(family)) is not None
