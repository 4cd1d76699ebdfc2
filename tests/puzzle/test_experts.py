"""Experts against their definitions: what one computes, what ranks them, cuts by number, width and top-k, the refit."""

import pytest
import torch
from families import FAMILIES, HYBRIDS, family_config, family_model

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.layers import parent_blocks
from hf_puzzle.puzzle.closed_form import closed_form
from hf_puzzle.puzzle.experts import ExpertData, ExpertSums, channels, experts_of, output, refitted, routed
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.initialisation import initial_weights
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import empty_block, layers_of, load_block, sub_block, sub_blocks, swapped
from hf_puzzle.recipe import LibraryConfig, RecipeError, SearchSpaceConfig


MIXTURES = [name for name in (*FAMILIES, *HYBRIDS) if "e4" in {b.ffn for b in parent_blocks(family_config(name))}]
TOKENS = torch.randint(3, 128, (4, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=MIXTURES)
def parent(request):
    return family_model(request.param)


@pytest.fixture(scope="module")
def layer(parent):
    """The last layer: of a dense-first mixture, one with experts."""
    return len(layers_of(parent)) - 1


@pytest.fixture(scope="module")
def seen(parent, layer):
    """The experts of a layer, and what they were called with."""
    experts, calls = experts_of(sub_block(layers_of(parent)[layer], "ffn")), []
    handle = experts.register_forward_hook(lambda module, args, answer: calls.append((*args, answer)))
    with torch.no_grad():
        parent(TOKENS, use_cache=False)
    handle.remove()
    return experts, *calls[0]


def test_gates_times_outputs_are_what_the_module_answers(seen):
    experts, states, indices, weights, answer = seen
    total = torch.zeros_like(answer)
    for expert, rows, gate in routed(experts, indices, weights):
        total.index_add_(0, rows, gate[:, None] * output(experts, expert, channels(experts, expert, states[rows])))
    torch.testing.assert_close(total, answer, rtol=1e-5, atol=1e-6)


def test_reap_is_the_mean_over_an_expert_s_tokens_of_gate_times_norm(seen):
    experts, states, indices, weights, _ = seen
    sums = ExpertSums(experts, "cpu")
    for part in range(2):  # batches add up
        sums.add(experts, *(tensor.chunk(2)[part] for tensor in (states, indices, weights)))
    reap, inner = sums.importance(experts, sums.flat, "reap")
    gates, _ = sums.importance(experts, sums.flat, "routing_weight")
    ones = torch.ones(len(states), 1)
    for expert in range(experts.num_experts):
        alone = experts(states, torch.full((len(states), 1), expert), ones).norm(dim=-1)  # its answer to every token
        gate = (weights * (indices == expert)).sum(-1)
        chosen = (indices == expert).any(-1)
        expected = (gate * alone)[chosen].mean() if chosen.any() else torch.tensor(0.0)
        torch.testing.assert_close(reap[expert], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gates[expert], gate.mean(), rtol=1e-5, atol=1e-7)
    assert inner.shape == (experts.num_experts, sums.width)


def test_both_criteria_come_out_of_one_model_and_may_disagree(parent, layer):
    reap, gates = (
        channel_importance(parent, TOKENS, 2, which)[f"layer_{layer}"] for which in ("reap", "routing_weight")
    )
    assert reap.shape == gates.shape
    assert not torch.allclose(reap / reap.sum(), gates / gates.sum())


def test_narrower_experts_are_the_parent_s_with_the_other_channels_at_zero(parent, layer):
    block, ranking = sub_block(layers_of(parent)[layer], "ffn"), torch.arange(4)
    experts = experts_of(block)
    width = experts.down_proj.shape[1 if experts.is_transposed else 2]
    generator = torch.Generator().manual_seed(0)
    inner = torch.stack([torch.randperm(width, generator=generator) for _ in range(4)])
    variant = f"e4w{width // 2}"
    if parent.config.model_type in ("glm4_moe", "ernie4_5_moe"):
        with pytest.raises(ValueError, match="shared_experts.* would change its width, too"):
            initial_weights(layers_of(parent)[layer], "ffn", variant, parent.config, ranking, inner, layer)
        return
    weights = initial_weights(layers_of(parent)[layer], "ffn", variant, parent.config, ranking, inner, layer)
    narrow = load_block(empty_block(layers_of(parent)[layer], "ffn", variant, parent.config, layer), weights)
    attention = sub_blocks(layers_of(parent)[layer]).get("attention")
    with torch.no_grad(), swapped(parent, {layer: (attention, narrow)}):
        found = parent(TOKENS, use_cache=False).logits
    kept = experts.down_proj.clone()
    for expert in range(4):
        dropped = inner[expert, width // 2 :]
        (experts.down_proj[expert] if experts.is_transposed else experts.down_proj[expert].T)[dropped] = 0
    try:
        expected = parent(TOKENS, use_cache=False).logits
    finally:
        experts.down_proj.copy_(kept)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_child_with_other_counts_per_layer_opens_bit_equal(parent, tmp_path):
    own = parent_blocks(parent.config)
    menu = ["e3", "e2top1", "e4top1", "e3top1"]
    blocks = [Block(b.attention, menu[i] if b.ffn == "e4" else b.ffn) for i, b in enumerate(own)]
    importance = channel_importance(parent, TOKENS, 2)
    wanted = [(BlockLibrary.name(i, "ffn", b.ffn), i, "ffn", b.ffn) for i, b in enumerate(blocks) if b != own[i]]
    starts = closed_form(parent, wanted, importance, TOKENS, LibraryConfig(num_tokens=0, batch_size=2))
    library = BlockLibrary(tmp_path / "library")
    for name, i, kind, variant in wanted:
        library.put(name, starts[i, kind, variant][0])
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    assert formats.describe(child.config) == blocks
    again = hub.open_model_folder(hub.write_model_folder(tmp_path / "child", child))
    saved, read = child.state_dict(), again.state_dict()
    assert saved.keys() == read.keys()
    assert all(torch.equal(saved[name], read[name]) for name in saved)
    # the same weights elsewhere in memory: some processors' kernels differ in the last bit
    torch.testing.assert_close(again(TOKENS).logits, child(TOKENS).logits, atol=2e-6, rtol=0)
    assert formats.describe(again.config) == blocks


def test_the_refit_finds_what_is_missing_and_refuses_what_is_noise(seen):
    experts, states, indices, weights, _ = seen
    generator = torch.Generator().manual_seed(0)
    lost = 0.3 * torch.randn(experts.down_proj.shape, generator=generator)
    width = experts.down_proj.shape[1 if experts.is_transposed else 2]
    states = torch.randn(40 * width, states.shape[1], generator=generator)
    indices = torch.stack([torch.randperm(experts.num_experts, generator=generator)[:2] for _ in states])
    weights = torch.rand(indices.shape, generator=generator)
    missing = torch.zeros_like(states)
    for expert, rows, gate in routed(experts, indices, weights):
        change = lost[expert] if experts.is_transposed else lost[expert].T
        missing.index_add_(0, rows, gate[:, None] * (channels(experts, expert, states[rows]) @ change))
    cut = 3 * len(states) // 4
    fit, judge = (
        ExpertData(*(t[part] for t in (states, indices, weights, missing))) for part in (slice(cut), slice(cut, None))
    )
    before = experts.down_proj.clone()
    found = refitted(experts, fit, judge, [1e-6, 1.0])
    assert torch.equal(experts.down_proj, before)  # the caller decides
    left = judge.missing.clone()
    for expert, rows, gate in routed(experts, judge.indices, judge.weights):
        change = found[expert]
        change = change if experts.is_transposed else change.T
        left.index_add_(0, rows, gate[:, None] * (channels(experts, expert, judge.states[rows]) @ change), alpha=-1)
    assert left.norm() < 0.05 * judge.missing.norm()
    noise = [
        ExpertData(d.states[:64], d.indices[:64], d.weights[:64], torch.randn(64, states.shape[1]))
        for d in (fit, judge)
    ]
    assert refitted(experts, *noise, [1e-6]) is None


def test_sizes_that_a_router_cannot_have_are_refused():
    config = family_config("qwen3_moe")
    for variant, message in (
        ("e8", "experts 8 is more than the parent's 4"),
        ("e4w64", "moe_intermediate_size 64 is more than the parent's 32"),
        ("e2top3", "more than the parent's 2"),
        ("e1top2", "2 of 1 experts for each token"),
    ):
        with pytest.raises(RecipeError, match=message):
            build_search_space(config, SearchSpaceConfig(attention=[], ffn=[variant]))
    space = build_search_space(config, SearchSpaceConfig(attention=[], ffn=["e4w32top2", "e2w32", "e3top2", "e2top1"]))
    assert space.layers[0].ffn == ("e4", "e2", "e3", "e2top1")  # the parent's own sizes are not said
