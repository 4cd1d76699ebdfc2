"""Parents whose layers differ go through every stage: mixers that recur are kept or replaced, everything else is searched."""

import pytest
import torch
from families import HYBRIDS, family_config, family_model
from torch import nn
from transformers import DynamicCache

from hf_puzzle import formats, hub
from hf_puzzle.blocks import NONE, RECURRENT, Block, kv_heads, num_experts
from hf_puzzle.costs import weight_bytes
from hf_puzzle.data import sequences
from hf_puzzle.layers import parent_blocks, with_layers
from hf_puzzle.puzzle.block_costs import (
    _stacks,
    calibration_layouts,
    non_block_parameters,
    num_parameters,
    state_bytes,
)
from hf_puzzle.puzzle.block_distillation import build_library
from hf_puzzle.puzzle.distillation import GKDTrainer
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.refit import refit
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import (
    UnsupportedParentError,
    check_parent,
    first_states,
    layers_of,
    meta_parent,
    only_layers,
    run_layer,
)
from hf_puzzle.recipe import (
    ChildConfig,
    CostConfig,
    DistillConfig,
    LibraryConfig,
    RecipeError,
    ScoreConfig,
    SearchSpaceConfig,
)
from hf_puzzle.training import training_arguments


TOKENS = torch.randint(3, 128, (2, 20), generator=torch.Generator().manual_seed(0))
SPACE = SearchSpaceConfig(attention=[2, "linear", "none"], ffn=[0.5, "linear", "none"], width_multiple=8)


@pytest.fixture(scope="module", params=list(HYBRIDS))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def parent(family):
    return family_model(family)


@pytest.fixture(scope="module")
def space(parent):
    return build_search_space(parent.config, SPACE)


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


def smaller(space):
    """Every layer's own block with what can be narrowed narrowed; the third layer loses its mixer, or is a dummy."""
    layout = []
    for own, layer in zip(space.parents, space.layers, strict=True):
        attention = next((a for a in layer.attention if kv_heads(a) == 2), own.attention)
        layout.append(Block(attention, layer.ffn[1] if len(layer.ffn) > 1 else own.ffn))
    layout[2] = layout[2]._replace(attention=NONE)
    return layout


def layouts(space):
    """Layouts that caches could trip over: no attention that keeps keys, no mixer that recurs, nothing but the first layer."""
    own = list(space.parents)
    return {
        "smaller": smaller(space),
        "nothing keeps keys": [b._replace(attention=NONE if kv_heads(b.attention) else b.attention) for b in own],
        "nothing recurs": [b._replace(attention="linear" if b.attention == RECURRENT else b.attention) for b in own],
        "dummies": [own[0], Block(NONE, NONE), own[2], Block(NONE, NONE)],
        "neither": [Block(NONE, b.ffn) for b in own],
    }


@torch.no_grad()
def test_layers_run_one_by_one_and_are_what_they_are(parent, family):
    check_parent(parent.config)
    blocks = parent_blocks(parent.config)
    assert len(set(blocks)) > 1
    full = parent(TOKENS, use_cache=False, output_hidden_states=True)
    state = first_states(parent, TOKENS)
    for i in range(4):
        with only_layers(parent, i, states=state):
            logits = parent(inputs_embeds=torch.zeros_like(state), use_cache=False).logits
        torch.testing.assert_close(logits, full.logits, rtol=0, atol=1e-5)
        state = run_layer(parent, i, state)


def test_the_space_offers_each_layer_what_fits_it(space):
    for own, layer in zip(space.parents, space.layers, strict=True):
        assert (layer.attention[0], layer.ffn[0]) == own
        if own.attention == RECURRENT:
            assert layer.attention == (RECURRENT, "linear", "none")
        elif own.attention == NONE:
            assert layer.attention == (NONE,)
        else:
            assert layer.attention == (4, 2, "linear", "none")
        wanted = {NONE: (NONE,), "e4": ("e4", "e2", "linear", "none")}
        assert layer.ffn == wanted.get(own.ffn, (own.ffn, 32, "linear", "none"))


def test_a_bare_number_of_two_meanings_is_refused():
    config = family_config("glm4_moe")
    with pytest.raises(RecipeError, match="2 may be a width or a number of experts here: say w2 or e2"):
        build_search_space(config, SearchSpaceConfig(attention=[], ffn=[2]))
    space = build_search_space(config, SearchSpaceConfig(attention=[], ffn=["e2", "w32"], width_multiple=8))
    assert [layer.ffn for layer in space.layers] == [(64, 32), ("e4", "e2"), ("e4", "e2"), ("e4", "e2")]


def test_bld_scores_and_distances(parent, space, library, streams):
    assert {name for name, row in library.index.items() if "dropped" in row} == set()
    assert all(row["loss_after"] <= row["loss_before"] for row in library.index.values())
    assert not any("recurrent" in name.split(".")[1] for name in library.index if "/block." not in name)
    judge = Judge(
        parent,
        space,
        library,
        Metric.of(ScoreConfig(num_tokens=64, batch_size=4, blocks="all"), streams["validation"], 16, 0),
    )
    by_block = {(s.layer_idx, s.block): s.value for s in score_blocks(judge)}
    for i, own in enumerate(space.parents):
        assert by_block[i, own.id] == 0.0
        blocks = list(space.parents)
        blocks[i] = space.layers[i].blocks[-1]
        assert judge.distance(blocks)[0] == pytest.approx(by_block[i, blocks[i].id], rel=1e-4, abs=1e-6)


@torch.no_grad()
def test_children_are_the_parent_with_its_blocks_and_open_again(parent, space, library, tmp_path):
    for name, blocks in layouts(space).items():
        child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
        with Network(parent.config, blocks, library).inside(parent):
            expected = parent(TOKENS, use_cache=False).logits
        torch.testing.assert_close(child(TOKENS, use_cache=False).logits, expected, rtol=0, atol=1e-5)
        assert formats.describe(child.config) == blocks
        folder = hub.write_model_folder(tmp_path / name.replace(" ", "_"), child)
        again = hub.open_model_folder(folder)
        assert torch.equal(again(TOKENS, use_cache=False).logits, child(TOKENS, use_cache=False).logits)
        assert formats.describe(hub.read_config(folder)) == blocks


def greedy(model, tokens, count):
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


@torch.no_grad()
def test_caches_of_mixed_kinds_are_right_in_every_way_of_generating(parent, space):
    for name, blocks in layouts(space).items():
        torch.manual_seed(0)
        child = Network(parent.config, blocks, fmt=formats.PER_LAYER).random(torch.float32)
        child.generation_config.eos_token_id = None
        full = child(TOKENS, use_cache=False).logits
        for cache in (DynamicCache(), DynamicCache(config=child.config)):
            chunks = TOKENS.split((13, 1, 4, 1, 1), dim=1)
            cached = torch.cat([child(chunk, past_key_values=cache, use_cache=True).logits for chunk in chunks], dim=1)
            torch.testing.assert_close(cached, full, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
            assert cache.get_seq_length() == TOKENS.shape[1]
        expected = greedy(child, TOKENS, 5)
        settings = {"max_new_tokens": 5, "num_beams": 1, "do_sample": False}
        for more in (
            {},
            {"cache_implementation": "static"},
            {"past_key_values": DynamicCache()},
            {"use_cache": False},
        ):
            assert torch.equal(child.generate(TOKENS, **settings, **more), expected), (name, more)
        beams = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
        assert torch.equal(child.generate(TOKENS, **beams), child.generate(TOKENS, use_cache=False, **beams)), name
        padded = torch.cat([torch.zeros_like(TOKENS[:1, :4]), TOKENS[:1]], dim=1)
        mask = (padded != 0).long()
        found = child.generate(padded, attention_mask=mask, **settings)
        assert torch.equal(found[:, 4:], expected[:1]), name


def test_costs_count_what_the_child_holds(parent, space, library):
    blocks = smaller(space)
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    counted = non_block_parameters(parent.config) + sum(
        num_parameters(parent.config, kind, variant, formats.PER_LAYER)
        for block in blocks
        for kind, variant in zip(("attention", "ffn"), block, strict=True)
    )
    beside = sum(  # Granite's experts stand beside an FFN that no layer can lose, with a norm for both
        p.numel()
        for layer in layers_of(child)
        if hasattr(layer, "block_sparse_moe") and layer.block_sparse_moe is not None
        for n, p in layer.named_parameters()
        if n.startswith(("shared_mlp", "post_attention"))
    )
    assert counted + beside == child.num_parameters() == weight_bytes(child) // 4


@torch.no_grad()
def test_states_are_as_large_as_the_parents_cache_holds(parent, space):
    cache = parent(TOKENS, use_cache=True).past_key_values
    for layer, own in zip(cache.layers, space.parents, strict=True):
        states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
        held = sum(s.numel() * s.element_size() for s in states if s is not None) // len(TOKENS)
        assert state_bytes(parent.config, own.attention, "float32") == held


def test_models_of_any_layers_can_be_timed(parent, space):
    fitted, unseen = calibration_layouts(space, CostConfig(calibration_children=3, unseen_children=1), 0)
    for blocks in (*fitted, *unseen, *_stacks(space, CostConfig(stack_layers=4)).values()):
        model = Network(parent.config, blocks, fmt=formats.PER_LAYER).random(torch.float32)
        assert formats.describe(model.config) == blocks
        assert model.generate(TOKENS, max_new_tokens=2, do_sample=False).shape[1] == TOKENS.shape[1] + 2


def test_refit_and_a_step_of_distillation(parent, space, library, streams, tmp_path):
    blocks = smaller(space)
    child = Network(parent.config, blocks, library, formats.PER_LAYER).assembled(parent)
    rows = sequences(streams["train"], 16, 2_048, 5)
    before = (child(rows).logits - parent(rows).logits).square().mean()
    done = refit(child, parent, rows, ChildConfig(batch_size=32))
    after = (child(rows).logits - parent(rows).logits).square().mean()
    assert after < before if done.kept else after == before
    child.requires_grad_(True)
    args = training_arguments(tmp_path, "distill", {}, max_steps=1, use_cpu=True)
    trainer = GKDTrainer(teacher=parent, config=DistillConfig(num_tokens=64), model=child, args=args)
    trainer.compute_loss(child.train(), {"input_ids": TOKENS}).backward()
    unused = {n for n, p in child.named_parameters() if p.grad is None and not n.endswith("e_score_correction_bias")}
    assert not unused, unused


def test_dropping_layers_leaves_a_stock_model_and_so_does_one_count_everywhere(parent, space, library):
    kept = [0, 1, 2, 3] if hasattr(layers_of(parent)[0], "shared_mlp") and space.parents[0].ffn == "e4" else [1, 2, 3]
    dropped = [Block(NONE, NONE), *space.parents[1:]]
    child = Network(parent.config, dropped, library, formats.PER_LAYER).assembled(parent)
    config, _, changes = formats.simplify(child.config, child.state_dict())
    assert formats.describe(config) == [dropped[i] for i in kept]
    assert (formats.UNIFORM in changes) == (len(kept) == 3)
    if any(num_experts(b.ffn) for b in space.parents):
        fewer = [b._replace(ffn="e2") if num_experts(b.ffn) else b for b in space.parents]
        child = Network(parent.config, fewer, library, formats.PER_LAYER).assembled(parent)
        config, state, _ = formats.simplify(child.config, child.state_dict())
        assert formats.format_of(config) is None
        assert parent_blocks(config) == fewer
        plain = formats.build_model(config, state)
        assert torch.equal(plain(TOKENS).logits, child(TOKENS).logits)


def test_layers_in_another_order_are_said_or_refused(parent):
    own = parent_blocks(parent.config)
    for sources in ([0, 1], [2, 3], [0, 0, 1, 1, 2, 3]):
        config = with_layers(type(parent.config).from_dict(parent.config.to_dict()), sources)
        assert parent_blocks(config) == [own[i] for i in sources]
    config = type(parent.config).from_dict(parent.config.to_dict())
    if parent.config.model_type in ("glm4_moe", "ernie4_5_moe"):
        with pytest.raises(formats.FormatError, match="cannot say that its layers are"):
            with_layers(config, [1, 0])


def test_an_unknown_kind_of_layer_is_named_with_what_could_be_searched(monkeypatch):
    config = family_config("qwen3_next")

    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(4, 4)

    layer = layers_of(meta_parent(config))[2]
    mixer = layer._modules.pop("linear_attn")
    layer.spectral = Spectral()
    try:
        with pytest.raises(
            UnsupportedParentError,
            match=r"layer 2: spectral \(Spectral\) is neither .* its ffn `mlp` could be searched",
        ):
            check_parent(config)
    finally:
        del layer.spectral
        layer.linear_attn = mixer
