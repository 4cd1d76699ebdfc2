"""BLD: jobs may be cut, grouped and killed as one likes, and the library is the same."""

import dataclasses
import logging

import pytest
import torch
from transformers import TrainerCallback

from hf_puzzle.blocks import Block
from hf_puzzle.data import sequences
from hf_puzzle.puzzle import block_distillation, closed_form
from hf_puzzle.puzzle.block_distillation import BLDTrainer, build_library, check_precision
from hf_puzzle.puzzle.block_loss import normalized_mse
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.scoring import score_blocks
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.surgery import layers_of, swapped
from hf_puzzle.recipe import LibraryConfig, RecipeError, ScoreConfig, SearchSpaceConfig
from hf_puzzle.training import last_checkpoint


SMALL = LibraryConfig(num_tokens=512, batch_size=4, ridge_tokens=256, eval_tokens=128, evals=4)

INITS = {"mean_pool", "shared_values", "shared_subspace", "channels", "channels+ridge", "ridge", "product"}


@pytest.fixture(scope="module")
def small_space(llama):
    return build_search_space(llama.config, SearchSpaceConfig(attention=[1, "linear"], ffn=[256]))


@pytest.fixture(scope="module")
def build(llama, small_space, importance, tokens, sequence_length, tmp_path_factory):
    """A function that builds a library of `small_space` in a folder of its own."""

    def run(config=SMALL, space=small_space, folder=None, parent=llama, **changes):
        library = BlockLibrary(folder or tmp_path_factory.mktemp("built"))
        config = dataclasses.replace(config, **changes)
        return build_library(parent, space, importance, tokens, library, config, sequence_length, seed=0)

    return run


@pytest.fixture(scope="module")
def reference(build):
    return build()


def assert_same_libraries(first, second, tolerance=None):
    assert set(first.index) == set(second.index)
    for name in first.index:
        one, two = first.weights(name), second.weights(name)
        assert set(one) == set(two)
        for key, tensor in one.items():
            if tolerance is None:
                assert torch.equal(tensor, two[key]), (name, key)
            else:
                torch.testing.assert_close(tensor, two[key], rtol=0, atol=tolerance, msg=f"{name} {key}")
        if tolerance is None:
            assert first.index[name] == second.index[name]


def test_library_holds_every_variant_once_and_nothing_else(reference):
    kinds = ("attention.kv1", "attention.linear", "ffn.w256")
    assert set(reference.index) == {f"layer_{i:02d}/{kind}" for i in range(4) for kind in kinds}
    files = {p.relative_to(reference.folder).as_posix() for p in reference.folder.rglob("*") if p.is_file()}
    assert files == {f"{name}.safetensors" for name in reference.index} | {"index.jsonl"}


def test_best_is_never_worse_than_the_initialisation(reference):
    for row in reference.index.values():
        assert row["loss_after"] == min(row["losses"])
        assert row["losses"][0] == row["loss_before"]
        assert row["loss_after"] <= row["loss_before"]
        trained = "linear" not in row["name"]
        assert row["trained_tokens"] == (512 if trained else 0)
        assert len(row["losses"]) == (5 if trained else 1)  # before, and after each quarter
        assert len(set(row["losses"])) > 1 or not trained
    assert {row["init"] for row in reference.index.values()} <= INITS


@torch.no_grad()
def test_stored_weights_have_the_loss_that_the_index_says(reference, llama, tokens, sequence_length):
    heldout = sequences(tokens["validation"], sequence_length, SMALL.eval_tokens, 2)
    for name, kind, block in (
        ("layer_02/ffn.w256", "ffn", Block(4, 256)),
        ("layer_01/attention.kv1", "attention", Block(1, 768)),
    ):
        layer_idx = int(name[6:8])
        module = reference.modules(llama, layer_idx, block, Block(4, 768))[kind == "ffn"]
        losses = []

        def judge(m, args, kwargs, output, module=module, losses=losses):
            out = module(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            losses.append(normalized_mse(first, output[0] if isinstance(output, tuple) else output).item())

        layer = layers_of(llama)[layer_idx]
        handle = (layer.mlp if kind == "ffn" else layer.self_attn).register_forward_hook(judge, with_kwargs=True)
        for batch in heldout.split(SMALL.batch_size):
            llama(input_ids=batch, use_cache=False)
        handle.remove()
        assert sum(losses) / len(losses) == pytest.approx(reference.index[name]["loss_after"], rel=1e-4)


def test_one_job_for_all_layers_is_a_job_per_layer(build, reference):
    assert_same_libraries(reference, build(layers_per_job=1), tolerance=1e-6)
    assert_same_libraries(reference, build(layers_per_job=3), tolerance=1e-6)


def test_finished_variants_are_not_made_again(build, reference, monkeypatch):
    before = (reference.folder / "index.jsonl").read_bytes()
    monkeypatch.setattr(block_distillation, "_run_job", None)
    build(folder=reference.folder)
    assert (reference.folder / "index.jsonl").read_bytes() == before


class _KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def with_callback(monkeypatch, callback):
    """Every BLDTrainer that is made from now on has `callback` too."""
    original = BLDTrainer.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(callback)

    monkeypatch.setattr(BLDTrainer, "__init__", init)


def kill_and_rerun(build, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch:
        with_callback(patch, _KillAfter(step))
        with pytest.raises(KeyboardInterrupt):
            build(folder=tmp_path)
    assert not any(tmp_path.glob("layer_*"))
    newest = last_checkpoint(next(tmp_path.glob("job_00_*")))
    assert newest.name == f"checkpoint-{2 * ((step - 1) // 2)}"
    return build(folder=tmp_path)


@pytest.mark.parametrize("step", [3, 8])
def test_killed_and_rerun_is_uninterrupted(build, reference, tmp_path, monkeypatch, step):
    assert_same_libraries(reference, kill_and_rerun(build, tmp_path, monkeypatch, step))


def test_hooks_are_gone_after_an_interruption(build, tmp_path, monkeypatch, llama):
    def hooks():
        # transformers leaves some of its own on models that once returned hidden states
        return [list(m._forward_hooks) for layer in layers_of(llama) for m in (layer, layer.self_attn, layer.mlp)]

    before = hooks()
    with_callback(monkeypatch, _KillAfter(1))
    with pytest.raises(KeyboardInterrupt):
        build(folder=tmp_path)
    assert hooks() == before


class _Poison(TrainerCallback):
    """Makes one student's weights NaN before a step."""

    def __init__(self, name, step):
        self.name, self.step = name, step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            for parameter in self.student.parameters:
                parameter.data.fill_(float("nan"))


def poisoned(monkeypatch, name, step):
    poison = _Poison(name, step)
    original = BLDTrainer.__init__

    def init(self, parent, students, *args, **kwargs):
        poison.student = next(s for s in students if s.name == name)
        original(self, parent, students, *args, **kwargs)
        self.add_callback(poison)

    monkeypatch.setattr(BLDTrainer, "__init__", init)


def assert_dropped_alone(library, reference, name):
    assert "dropped" in library.index[name]
    assert set(library.index) == set(reference.index)
    for other in set(reference.index) - {name}:
        assert library.index[other] == reference.index[other]
        for key, tensor in reference.weights(other).items():
            assert torch.equal(tensor, library.weights(other)[key]), other


def test_nan_in_one_block_drops_that_block_alone(
    build, reference, llama, small_space, tokens, sequence_length, monkeypatch, caplog
):
    name = "layer_01/ffn.w256"
    poisoned(monkeypatch, name, step=3)
    with caplog.at_level(logging.WARNING, logger="hf_puzzle"):
        library = build()
    assert [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()] == [
        f"{name} is dropped: loss became nan at step 3"
    ]
    assert_dropped_alone(library, reference, name)
    config = ScoreConfig(num_tokens=64, blocks="all")
    judge = Judge(llama, small_space, library, Metric.of(config, tokens["validation"], sequence_length, 0))
    scored = {(s.layer_idx, s.block) for s in score_blocks(judge)}
    everything = {(i, b.id) for i, layer in enumerate(small_space.layers) for b in layer.blocks}
    assert everything - scored == {(1, "kv4+w256"), (1, "kv1+w256"), (1, "linear+w256")}


def test_a_block_that_is_nan_from_the_start_is_dropped_alone(build, reference, monkeypatch):
    name, original = "layer_02/attention.kv1", block_distillation._student

    def student(*args):
        made = original(*args)
        if made.name == name:
            made.modules["attention"].o_proj.weight.data.fill_(float("nan"))
        return made

    monkeypatch.setattr(block_distillation, "_student", student)
    assert_dropped_alone(build(), reference, name)


def test_killed_after_a_block_was_dropped(build, reference, tmp_path, monkeypatch):
    name = "layer_01/ffn.w256"
    poisoned(monkeypatch, name, step=1)
    assert_dropped_alone(kill_and_rerun(build, tmp_path, monkeypatch, step=5), reference, name)


def test_gradient_accumulation_of_whole_batches(build, monkeypatch):
    # the normalised loss divides by each micro-batch's own power; the plain one is exactly additive
    monkeypatch.setattr(block_distillation, "normalized_mse", lambda output, target: (output - target).square().mean())
    monkeypatch.setattr(closed_form, "token_weights", lambda target: torch.ones(target.shape[:-1]))
    one = build(batch_size=8, num_tokens=512)
    four = build(batch_size=2, num_tokens=512, args={"gradient_accumulation_steps": 4})
    # the held-out batches differ, so that the best step might: compare where both kept the last
    last = [
        n for n in one.index if all(lib.index[n]["losses"][-1] == lib.index[n]["loss_after"] for lib in (one, four))
    ]
    trained = [name for name in last if one.index[name]["trained_tokens"]]
    assert len(trained) >= 4
    for name in trained:
        for key, tensor in one.weights(name).items():
            torch.testing.assert_close(tensor, four.weights(name)[key], rtol=0, atol=1e-4, msg=name)


def test_fp16_is_refused_with_a_way_out():
    with pytest.raises(RecipeError, match="library.args.fp16: true .* leave it out .float32., or set bf16: true"):
        check_precision(dataclasses.replace(SMALL, args={"fp16": True}))
    check_precision(dataclasses.replace(SMALL, args={"bf16": True, "fp16": False}))


def test_parent_is_left_bit_by_bit(make_parent, build, state_of, assert_bit_equal):
    parent = make_parent()
    before = state_of(parent)
    build(parent=parent)
    assert_bit_equal(before, state_of(parent))
    assert all(p.grad is None and not p.requires_grad for p in parent.parameters())


def test_no_tokens_keep_what_blocks_start_from(build, llama, importance, tokens, sequence_length):
    library = build(num_tokens=0)
    calibration = sequences(tokens["train"], sequence_length, SMALL.ridge_tokens, 1)
    wanted = [(f"layer_{i:02d}/ffn.w256", i, "ffn", 256) for i in range(4)]
    for (i, _, _), (weights, init) in closed_form.closed_form(llama, wanted, importance, calibration, SMALL).items():
        assert library.index[f"layer_{i:02d}/ffn.w256"]["init"] == init
        assert all(torch.equal(weights[k], v) for k, v in library.weights(f"layer_{i:02d}/ffn.w256").items())
    assert all(row["losses"] == [row["loss_before"]] for row in library.index.values())


def test_coupled_pairs(build, reference, llama, tmp_path):
    library = build(coupling="coupled", coupled_blocks=["kv1+w256"])
    pairs = {name for name in library.index if "/block." in name}
    assert pairs == {f"layer_{i:02d}/block.kv1+w256" for i in range(4)}
    own = layers_of(llama)[0]
    weights = library.weights("layer_00/block.kv1+w256")
    assert {k for k in weights if k.startswith("attention.")} == {f"attention.{k}" for k in own.self_attn.state_dict()}
    assert {k for k in weights if k.startswith("ffn.")} == {f"ffn.{k}" for k in own.mlp.state_dict()}
    assert all(library.index[n]["loss_after"] <= library.index[n]["loss_before"] for n in pairs)
    # the sub-blocks are trained as they are without pairs
    for name in reference.index:
        for key, tensor in reference.weights(name).items():
            torch.testing.assert_close(tensor, library.weights(name)[key], rtol=0, atol=1e-6)


def test_coupled_pairs_keep_the_parents_half(build, llama):
    library = build(coupling="coupled")
    ids = {name.partition("/block.")[2] for name in library.index if "/block." in name}
    assert ids == {"kv4+w256", "kv1+w768", "kv1+w256", "linear+w768", "linear+w256"}
    own = layers_of(llama)[2]
    for block, half, module in (("kv4+w256", "attention", own.self_attn), ("kv1+w768", "ffn", own.mlp)):
        weights = library.weights(f"layer_02/block.{block}")
        for key, tensor in module.state_dict().items():
            assert torch.equal(weights[f"{half}.{key}"], tensor)


@torch.no_grad()
def test_ffn_under_no_attention_is_trained_for_the_whole_layer(build, llama, tokens, sequence_length):
    space = build_search_space(llama.config, SearchSpaceConfig(attention=["none"], ffn=[256, "none"]))
    library = build(space=space, ffn_under_no_attention=True, num_tokens=2048)
    ids = {name.partition("/block.")[2] for name in library.index if "/block." in name}
    assert ids == {"none+w768", "none+w256"}
    weights = library.weights("layer_01/block.none+w768")
    own = layers_of(llama)[1].mlp.state_dict()
    assert set(weights) == {f"ffn.{name}" for name in own}
    rows = [library.index[f"layer_{i:02d}/block.none+w768"] for i in range(4)]
    assert all(row["loss_after"] < row["loss_before"] for row in rows)
    # and scoring uses it: the layer's output is nearer to the parent's than with the parent's own FFN
    block, batch = Block("none", 768), tokens["validation"][:256].view(16, 16).long()
    attention, ffn = library.modules(llama, 1, block, space.parent)
    target = llama(batch, output_hidden_states=True).hidden_states
    errors = []
    for used in (ffn, layers_of(llama)[1].mlp):
        with swapped(llama, {1: (attention, used)}):
            got = llama(batch, output_hidden_states=True).hidden_states[2]
        errors.append((got - target[2]).square().mean().item())
    assert errors[0] < errors[1]
