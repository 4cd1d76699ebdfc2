"""Refitting: nothing to correct changes nothing, damage shrinks, and each step is a ridge regression."""

import copy

import pytest
import torch
from families import FAMILIES, family_model

from hf_puzzle.blocks import Block
from hf_puzzle.data import sequences
from hf_puzzle.evaluation import compare
from hf_puzzle.puzzle import refit as refits
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.refit import refit
from hf_puzzle.recipe import ChildConfig


OWN = Block(4, 768)
MIXED = [Block(4, 256), Block("none", 768), Block(1, "linear"), Block("linear", 512)]
CONFIG = ChildConfig(batch_size=8)


def test_a_child_of_the_parents_blocks_stays(llama, library, calibration, state_of):
    child = Network(llama.config, [OWN] * 4, library).assembled(llama)
    before = state_of(child)
    refit(child, llama, calibration, CONFIG)
    for name, tensor in child.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-5, msg=name)


def test_a_damaged_child_comes_nearer_to_the_parent(llama, library, tokens, calibration):
    rows = sequences(tokens["train"], 16, 6000, seed=3)
    heldout = sequences(tokens["test"], 16, 1600, seed=0)
    child = Network(llama.config, MIXED, library).assembled(llama)
    before = compare(llama, child, heldout, 16)["kl"]
    refit(child, llama, rows, CONFIG)
    assert compare(llama, child, heldout, 16)["kl"] < 0.9 * before


def test_scaled_output_matrices_are_put_right(llama, library, calibration):
    """A child that differs from its parent in one matrix only is the parent again, but for the ridge."""
    child = Network(llama.config, [OWN] * 4, library).assembled(llama)
    child.model.layers[2].self_attn.o_proj.weight.data.mul_(0.5)
    refit(child, llama, calibration, ChildConfig(batch_size=8, ridge=1e-6))
    with torch.no_grad():
        torch.testing.assert_close(child(calibration).logits, llama(calibration).logits, rtol=0, atol=5e-3)


@torch.no_grad()
def test_first_update_is_the_ridge_solution(llama, library, calibration):
    child = Network(llama.config, [Block(4, 256), OWN, OWN, OWN], library).assembled(llama)
    before = copy.deepcopy(child)
    refit(child, llama, calibration, CONFIG)
    down = child.model.layers[0].mlp.down_proj.weight
    # attention of layer 0 is the parent's, so the FFN is the first to be corrected
    seen, target = {}, {}
    layer = before.model.layers[0]
    handles = [
        layer.mlp.down_proj.register_forward_hook(lambda m, a, o: seen.update(z=a[0], o=o)),
        llama.model.layers[0].mlp.register_forward_hook(lambda m, a, o: target.update(o=o)),
    ]
    fitting = calibration[: len(calibration) - len(calibration) // refits.JUDGES]
    before(fitting)
    llama(fitting)
    for handle in handles:
        handle.remove()
    z, missing = (t.flatten(0, 1).double() for t in (seen["z"], target["o"] - seen["o"]))
    gram = z.T @ z
    differences = []
    for strength in refits.RIDGES:
        penalty = strength * CONFIG.ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        expected = layer.mlp.down_proj.weight.double() + torch.linalg.solve(gram + penalty, z.T @ missing).T
        differences.append((down.double() - expected).abs().max().item())
    assert min(differences) < 1e-4


def test_only_output_matrices_change(llama, library, calibration, state_of):
    child = Network(llama.config, MIXED, library).assembled(llama)
    before = state_of(child)
    done = refit(child, llama, calibration, CONFIG)
    changed = {name for name, tensor in child.state_dict().items() if not torch.equal(tensor, before[name])}
    matrices = {n for n in before if n.rsplit(".", 2)[-2] in ("o_proj", "down_proj", "linear_attn", "linear_mlp")}
    assert changed < matrices  # blocks that start in closed form need none
    assert (done.matrices, done.accepted, done.kept) == (len(matrices), len(changed), True)


@pytest.mark.parametrize("block", [Block("none", "none"), Block("none", 768), Block(4, "none")])
def test_missing_sub_blocks_are_skipped(llama, calibration, tmp_path, block):
    child = Network(llama.config, [OWN, block, OWN, block], BlockLibrary(tmp_path)).assembled(llama)
    refit(child, llama, calibration, CONFIG)
    assert all(torch.isfinite(p).all() for p in child.parameters())


def test_batches_do_not_matter(llama, library, calibration):
    children = [Network(llama.config, MIXED, library).assembled(llama) for _ in range(2)]
    for child, batch_size in zip(children, (3, 64), strict=True):
        refit(child, llama, calibration, ChildConfig(batch_size=batch_size))
    with torch.no_grad():
        torch.testing.assert_close(
            children[0](calibration).logits, children[1](calibration).logits, rtol=1e-3, atol=1e-3
        )


def judging(rows):
    return rows[-(len(rows) // refits.JUDGES) :]


@pytest.mark.parametrize("num_tokens", [64, 256, 1024, 6000])
def test_however_few_tokens_the_child_is_no_worse_on_those_that_judge(llama, library, tokens, state_of, num_tokens):
    rows = sequences(tokens["train"], 16, num_tokens, seed=3)
    child = Network(llama.config, MIXED, library).assembled(llama)
    before, kl = state_of(child), compare(llama, child, judging(rows), 16)["kl"]
    done = refit(child, llama, rows, CONFIG)
    if not done.kept:
        assert all(torch.equal(tensor, before[name]) for name, tensor in child.state_dict().items())
    assert not done.kept or done.kl_after < done.kl_before
    after = compare(llama, child, judging(rows), 16)["kl"]
    assert (done.kl_after if done.kept else done.kl_before) == pytest.approx(after, rel=1e-4)
    assert done.kl_before == pytest.approx(kl, rel=1e-4)


def test_a_matrix_that_fits_its_tokens_by_heart_is_refused():
    """More channels than tokens: the fit is perfect, and worse than nothing on other tokens."""
    torch.manual_seed(0)
    z, missing = torch.randn(2, 16, 64, dtype=torch.float64), torch.randn(2, 16, 8, dtype=torch.float64)
    problem = refits._Problem(z.transpose(1, 2) @ z, missing.transpose(1, 2) @ z)
    assert problem.solve(1e-6) is None
    weight = torch.randn(8, 64, dtype=torch.float64)
    z = torch.randn(2, 640, 64, dtype=torch.float64)
    problem = refits._Problem(z.transpose(1, 2) @ z, (z @ weight.T).transpose(1, 2) @ z)
    torch.testing.assert_close(problem.solve(1e-9), weight, rtol=0, atol=1e-6)


def test_a_refit_that_made_the_child_worse_is_taken_back(llama, library, calibration, state_of, monkeypatch):
    child = Network(llama.config, MIXED, library).assembled(llama)
    before = state_of(child)
    monkeypatch.setattr(refits._Problem, "solve", lambda self, ridge: torch.ones_like(self.cross[0]))
    done = refit(child, llama, calibration, CONFIG)
    assert done.accepted == done.matrices
    assert not done.kept
    for name, tensor in child.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_one_sequence_is_an_error_that_says_what_to_do(llama, library, calibration):
    child = Network(llama.config, MIXED, library).assembled(llama)
    with pytest.raises(ValueError, match="raise child.refit_tokens"):
        refit(child, llama, calibration[:1], CONFIG)


SCALES = {"granite": 0.5, "gemma2": None, "gemma3": None, "olmo2": None}  # None: a norm behind the sub-block


@pytest.mark.parametrize("family, expected", [(name, SCALES.get(name, 1.0)) for name in sorted(FAMILIES)])
@pytest.mark.parametrize("loud", [1.0, 1e3])
def test_what_stands_behind_a_sub_block_is_seen_in_half_precision(family, expected, loud):
    """The stream may be a thousand times larger than what a layer adds to it."""
    model = family_model(family).to(torch.bfloat16)
    state = loud * refits.first_states(model, torch.arange(3, 35)[None])
    found = refits._residual_scale(model, 1, state)
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-2))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_child_that_is_not_finite_is_left_alone(llama, calibration):
    child = Network(llama.config, [OWN] * 4).random(torch.float32)
    child.model.layers[3].mlp.up_proj.weight.data.fill_(float("nan"))
    before = child.model.layers[3].mlp.down_proj.weight.clone()
    refit(child, llama, calibration, CONFIG)
    assert torch.equal(child.model.layers[3].mlp.down_proj.weight, before)
