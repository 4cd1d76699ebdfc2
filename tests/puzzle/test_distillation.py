"""GKD: the loss in chunks, in micro-batches, after a crash, and on two processes is the loss."""

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainerCallback

from hf_puzzle import hub
from hf_puzzle.anatomy import Head
from hf_puzzle.blocks import Block
from hf_puzzle.evaluation import Rows, compare, kl_divergence
from hf_puzzle.puzzle import distillation, learning_rate
from hf_puzzle.puzzle.distillation import GKDTrainer, check_fsdp, chunked_kl, cosine_distance, distill
from hf_puzzle.puzzle.network import Network, cast_parameters
from hf_puzzle.recipe import DistillConfig, RecipeError
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM
from hf_puzzle.training import last_checkpoint


OWN = Block(4, 768)
MIXED = [Block(2, 256), Block("none", 512), OWN, Block("linear", "linear")]
CONFIG = DistillConfig(num_tokens=512, batch_size=4, learning_rate=1e-3, optimizer="adamw", chunk_tokens=24, evals=2)


@pytest.fixture
def child(llama, library):
    return Network(llama.config, MIXED, library).assembled(llama)


@pytest.fixture
def validation(tokens, sequence_length):
    return Rows.draw(tokens["validation"], sequence_length, 512, seed=1)


@pytest.fixture
def judged(llama, tokens, sequence_length, tmp_path, validation):
    """A function that distils and gives the child and what was measured."""

    def distilled(child, folder="gkd", rows=validation, **changes):
        config = dataclasses.replace(CONFIG, **changes)
        return distill(child, llama, tokens["train"], config, sequence_length, tmp_path / folder, rows, seed=0)

    return distilled


@pytest.fixture
def run(judged):
    return lambda *args, **kwargs: judged(*args, **kwargs)[0]


HEADS = {
    "matrix": lambda linear: Head(linear),
    "scaled": lambda linear: Head(linear, scale=0.25),
    "capped": lambda linear: Head(linear, scale=0.5, cap=1.5),
    "any map": lambda linear: linear.forward,
}


@pytest.mark.parametrize("chunk", [1, 7, 20, 21, 1000])
@pytest.mark.parametrize(
    "kind, bias", [("matrix", False), ("matrix", True), ("scaled", False), ("capped", True), ("any map", False)]
)
@pytest.mark.parametrize("reverse", [0.0, 0.5, 1.0])
def test_chunked_kl_and_its_gradients_are_the_whole(chunk, kind, bias, reverse):
    generator = torch.Generator().manual_seed(0)
    matrices = [nn.Linear(8, 50, bias=bias) for _ in range(2)]
    heads = [HEADS[kind](matrix) for matrix in matrices]
    student, teacher = (torch.randn(3, 7, 8, generator=generator, requires_grad=True) for _ in range(2))
    trained = [student, *matrices[0].parameters()]
    theirs, ours = heads[1](teacher).detach(), heads[0](student)
    whole = ((1 - reverse) * kl_divergence(theirs, ours) + reverse * kl_divergence(ours, theirs)).mean()
    expected = torch.autograd.grad(3 * whole, trained)
    got = chunked_kl(student, teacher.detach(), *heads, chunk, reverse)
    torch.testing.assert_close(got, whole)
    for mine, theirs in zip(torch.autograd.grad(3 * got, trained), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_chunked_kl_of_a_tied_and_of_a_frozen_head():
    matrix, ids = nn.Linear(8, 50, bias=False), torch.arange(12).view(2, 6)
    teacher = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))

    def gradient(loss):
        return torch.autograd.grad(loss(F.embedding(ids, matrix.weight).tanh()), matrix.weight)[0]

    expected = gradient(lambda states: kl_divergence(matrix(teacher).detach(), matrix(states)).mean())
    mine = gradient(lambda states: chunked_kl(states, teacher, Head(matrix), Head(matrix), 5))
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)
    states = torch.randn(2, 6, 8, requires_grad=True)
    chunked_kl(states, teacher, Head(matrix.requires_grad_(False)), Head(matrix), 5).backward()
    assert matrix.weight.grad is None
    assert states.grad is not None


def test_chunked_kl_in_half_precision_is_near_and_its_gradients_have_their_parameters_dtype():
    generator = torch.Generator().manual_seed(0)
    matrix = nn.Linear(32, 100, bias=False)
    student, teacher = (torch.randn(40, 32, generator=generator, requires_grad=True) for _ in range(2))
    expected = torch.autograd.grad(
        chunked_kl(student, teacher, Head(matrix), Head(matrix), 16), [student, matrix.weight]
    )
    with torch.autocast("cpu", torch.bfloat16):
        got = chunked_kl(student, teacher, Head(matrix), Head(matrix), 16)
    for mine, theirs in zip(torch.autograd.grad(got, [student, matrix.weight]), expected, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


class _Largest(TorchDispatchMode):
    """Notes the most elements that any tensor has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
        return result


@pytest.mark.parametrize("kind", ["capped", "any map"])
def test_no_tensor_has_all_tokens_by_the_vocabulary(kind):
    head = HEADS[kind](nn.Linear(8, 500))
    student, teacher = (torch.randn(64, 8, requires_grad=True) for _ in range(2))
    with _Largest() as largest:
        chunked_kl(student, teacher.detach(), head, head, 10).backward()
    assert largest.elements == 10 * 500


def test_cosine_distance_keeps_no_float32_copies():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        tuple(torch.randn(2, 3, 8, generator=generator).bfloat16().requires_grad_() for _ in range(4))
        for _ in range(2)
    )
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = cosine_distance(student, teacher)
    assert not [t for t in kept if t.dtype == torch.float32 and t.ndim]
    loss.backward()
    plain = [
        (1 - F.cosine_similarity(s.float(), t.float(), dim=-1)).mean() for s, t in zip(student, teacher, strict=True)
    ]
    expected = torch.autograd.grad(torch.stack(plain[1:]).mean(), student[1:])
    for state, gradient in zip(student[1:], expected, strict=True):
        assert torch.equal(state.grad, gradient)


def test_cosine_distance_ignores_length_and_the_embeddings():
    generator = torch.Generator().manual_seed(0)
    states = tuple(torch.randn(2, 3, 8, generator=generator) for _ in range(4))
    torch.testing.assert_close(
        cosine_distance(tuple(3 * s for s in states), states), torch.tensor(0.0), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(cosine_distance((states[0], *(-s for s in states[1:])), states), torch.tensor(2.0))
    other = (torch.zeros_like(states[0]), -states[1], *states[2:])
    torch.testing.assert_close(cosine_distance(other, states), torch.tensor(2 / 3))


def loss_of(trainer, rows):
    return trainer.compute_loss(trainer.model, {"input_ids": rows})


def trainer_for(child, parent, tmp_path, **changes):
    from hf_puzzle.training import training_arguments

    args = training_arguments(tmp_path / "t", "distill", {}, use_cpu=True)
    return GKDTrainer(parent, dataclasses.replace(CONFIG, **changes), model=child, args=args)


def test_loss_of_the_parent_itself_is_zero(llama, library, calibration, tmp_path):
    same = Network(llama.config, [OWN] * 4, library).assembled(llama)
    assert loss_of(trainer_for(same, llama, tmp_path), calibration).item() == pytest.approx(0, abs=1e-5)


def test_loss_is_its_parts_by_hand(llama, child, calibration, tmp_path):
    rows = calibration[:5]
    with torch.no_grad():
        p, c = (m(rows, output_hidden_states=True) for m in (llama, child))
        kl = kl_divergence(p.logits, c.logits).mean()
        cosine = (
            1
            - torch.stack(
                [
                    F.cosine_similarity(a, b, dim=-1).mean()
                    for a, b in zip(p.hidden_states[1:], c.hidden_states[1:], strict=True)
                ]
            ).mean()
        )
        lm = child(rows, labels=rows).loss
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1.0, 0.5, 0.25)):
        names = dict(zip(("kl_weight", "cosine_weight", "lm_weight"), weights, strict=True))
        got = loss_of(trainer_for(child, llama, tmp_path, **names), rows)
        expected = weights[0] * kl + weights[1] * cosine + weights[2] * lm
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_lm_loss_leaves_out_what_inference_is_given(llama, child, calibration, tmp_path):
    rows = calibration[:5].clone()
    rows[:, 6] = 1
    trainer = trainer_for(child, llama, tmp_path, kl_weight=0, cosine_weight=0, lm_weight=1)
    trainer.given = (1,)
    got = loss_of(trainer, rows)
    with torch.no_grad():
        expected = child(rows, labels=rows.masked_fill(rows == 1, -100)).loss
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


class _Losses(TrainerCallback):
    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def with_callback(monkeypatch, callback):
    original = GKDTrainer.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(callback)

    monkeypatch.setattr(GKDTrainer, "__init__", init)


def assert_close_states(first, second, tolerance):
    states = [m.state_dict() if isinstance(m, nn.Module) else m for m in (first, second)]
    assert set(states[0]) == set(states[1])
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_with_answers_only_they_count(child, llama, calibration, tmp_path, weights):
    kl, cosine, lm = weights
    config = dataclasses.replace(CONFIG, kl_weight=kl, cosine_weight=cosine, lm_weight=lm)
    short = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no", "load_best_model_at_end": False}
    args = distillation.gkd_arguments(config, calibration.shape[1], tmp_path, True, **short)
    trainer = GKDTrainer(llama, config, args, model=child)
    batch = calibration[:3]
    answers = torch.zeros_like(batch, dtype=torch.bool)
    answers[0, 4:7] = answers[2, 1:3] = answers[2, 15] = True
    loss = trainer.compute_loss(child, {"input_ids": batch, "answers": answers})
    with torch.no_grad():
        outputs, parents = (m(batch, output_hidden_states=True) for m in (child, llama))
        places = [(0, t) for t in (3, 4, 5)] + [(2, 0), (2, 1), (2, 14)]
        p, q = (torch.stack([o.logits[place] for place in places]) for o in (parents, outputs))
        following = torch.tensor([batch[i, t + 1] for i, t in places])
        states = [
            torch.stack([1 - F.cosine_similarity(a[place], b[place], dim=-1) for place in places]).mean()
            for a, b in zip(outputs.hidden_states[1:], parents.hidden_states[1:], strict=True)
        ]
    expected = (
        kl * kl_divergence(p, q).mean() + cosine * torch.stack(states).mean() + lm * F.cross_entropy(q, following)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    none = trainer.compute_loss(child, {"input_ids": batch, "answers": torch.zeros_like(answers)})
    assert none == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_micro_batches_add_up_to_the_batch(run, child, monkeypatch, optimizer):
    children, losses = [], []
    for folder, batch_size, accumulation in (("one", 4, 1), ("four", 1, 4)):
        log = _Losses()
        with monkeypatch.context() as patch:
            with_callback(patch, log)
            args = {"gradient_accumulation_steps": accumulation, "logging_steps": 1}
            children.append(
                run(
                    copy.deepcopy(child),
                    folder,
                    batch_size=batch_size,
                    num_tokens=512,
                    args=args,
                    optimizer=optimizer,
                )
            )
        losses.append(log.losses)
    assert len(losses[0]) == 8
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert_close_states(*children, 1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_distillation_brings_the_child_nearer(run, child, llama, tokens, sequence_length, optimizer):
    from hf_puzzle.data import sequences

    heldout = sequences(tokens["test"], sequence_length, 1600, seed=0)
    before = compare(llama, child, heldout, 16)
    after = compare(llama, run(child, num_tokens=4096, optimizer=optimizer, learning_rate=2e-3), heldout, 16)
    assert after["kl"] < before["kl"]


def test_child_comes_back_in_its_dtype_and_the_parent_untouched(
    run, child, llama, calibration, state_of, assert_bit_equal, tmp_path
):
    before = state_of(llama)
    for parameter in child.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    result = run(child, num_tokens=128)
    assert_bit_equal(before, state_of(llama))
    assert {p.dtype for p in result.parameters()} == {torch.bfloat16}
    assert not result.training
    result.save_pretrained(tmp_path / "saved")
    again = DeciLMForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto").eval()
    with torch.no_grad():  # what is measured in memory is what is published
        assert torch.equal(again(calibration).logits, result(calibration).logits)
    tied = result.get_input_embeddings().weight.data_ptr() == result.get_output_embeddings().weight.data_ptr()
    assert tied == result.config.tie_word_embeddings


def test_lora_gives_a_plain_model_with_merged_weights(run, child, calibration, state_of):
    before = state_of(child)
    result = run(child, num_tokens=512, lora={"r": 4, "lora_alpha": 8}, learning_rate=1e-2)
    assert type(result) is DeciLMForCausalLM
    after = result.state_dict()
    assert set(after) == set(before)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    for name in changed:
        update = after[name] - before[name]
        assert torch.linalg.matrix_rank(update, rtol=1e-3) <= 4, name
    assert not any("norm" in name or "embed" in name for name in changed)


def test_wrong_lora_options_are_named(run, child):
    with pytest.raises(RecipeError, match=r"distill\.lora: .*rank"):
        run(child, lora={"rank": 4})


class _KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"lora": {"r": 2}}], ids=str)
def test_killed_and_continued_is_uninterrupted(run, child, monkeypatch, tmp_path, changes):
    straight = run(copy.deepcopy(child), "straight", **changes)
    with monkeypatch.context() as patch:
        with_callback(patch, _KillAfter(5))
        with pytest.raises(KeyboardInterrupt):
            run(copy.deepcopy(child), "killed", **changes)
    assert last_checkpoint(tmp_path / "killed").name == "checkpoint-4"
    continued = run(copy.deepcopy(child), "killed", **changes)
    assert_close_states(straight, continued, 0)


def test_a_child_that_is_no_number_is_an_error(run, child):
    child.model.layers[0].mlp.up_proj.weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="no number before GKD"):
        run(child, num_tokens=128)


# -- the gate


def kl_of(llama, child, rows):
    return compare(llama, child, rows, 4)["kl"]


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 3.0},
        {"learning_rate": 3.0, "optimizer": "muon"},
        {"learning_rate": 3.0, "args": {"load_best_model_at_end": False}},
        {"learning_rate": 3.0, "args": {"bf16": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_child_that_gkd_makes_worse_comes_back_bit_by_bit(
    judged, child, state_of, assert_bit_equal, caplog, changes, dtype
):
    child = cast_parameters(child, dtype)
    before = state_of(child)
    with caplog.at_level("INFO"):
        result, done = judged(child, num_tokens=256, **changes)
    assert_bit_equal(before, state_of(result))
    assert type(result) is DeciLMForCausalLM
    assert (done.step, done.kl_after) == (0, done.kl_before)
    assert done.kl_last is None or done.kl_last > done.kl_before
    assert "step 0 is kept" in caplog.text


@pytest.mark.parametrize("changes", [{}, {"lora": {"r": 2}}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_parent_itself_stays(judged, llama, library, state_of, assert_bit_equal, dtype, changes):
    same = cast_parameters(Network(llama.config, [OWN] * 4, library).assembled(llama), dtype)
    before = state_of(same)
    result, done = judged(same, learning_rate=1e-2, **changes)
    assert done.step == 0
    assert_bit_equal(before, state_of(result))


class _DivergeAfter(TrainerCallback):
    """A learning rate of 1, or what is said, from a step on."""

    def __init__(self, step, rate=1.0):
        self.step, self.rate = step, rate

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step >= self.step:
            for group in optimizer.param_groups:
                group["lr"] = self.rate


@pytest.mark.parametrize("changes", [{}, {"lora": {"r": 4}, "learning_rate": 1e-2}], ids=str)
def test_the_best_step_is_kept_not_the_last(judged, child, llama, validation, monkeypatch, changes):
    with_callback(monkeypatch, _DivergeAfter(48))
    result, done = judged(child, num_tokens=4096, evals=4, **changes)
    assert (done.steps, done.step) == (64, 48)
    assert done.kl_after < min(done.kl_before, done.kl_last)
    assert kl_of(llama, result, validation) == pytest.approx(done.kl_after, rel=1e-4)


def test_a_training_that_is_no_number_ends_at_the_next_evaluation(
    judged, child, monkeypatch, state_of, assert_bit_equal
):
    before = state_of(child)
    with_callback(monkeypatch, _DivergeAfter(1, math.nan))
    result, done = judged(child, num_tokens=2048, evals=4)
    assert (done.steps, done.step, done.kl_last) == (8, 0, None)
    assert_bit_equal(before, state_of(result))


def test_killed_behind_its_best_step_it_still_keeps_it(judged, child, monkeypatch, tmp_path):
    with_callback(monkeypatch, _DivergeAfter(32))
    straight, expected = judged(copy.deepcopy(child), "straight", num_tokens=4096, evals=4)
    with monkeypatch.context() as patch:
        with_callback(patch, _KillAfter(50))
        with pytest.raises(KeyboardInterrupt):
            judged(copy.deepcopy(child), "killed", num_tokens=4096, evals=4)
    assert last_checkpoint(tmp_path / "killed").name == "checkpoint-48"
    continued, done = judged(copy.deepcopy(child), "killed", num_tokens=4096, evals=4)
    assert done == expected
    assert done.step == 32
    assert_close_states(straight, continued, 0)


@pytest.mark.parametrize(
    "args", [{"eval_strategy": "steps"}, {"eval_strategy": "steps", "eval_steps": 3}, {"save_steps": 2}], ids=str
)
def test_users_may_say_when_it_is_judged(judged, child, args):
    _, done = judged(child, args=args, learning_rate=3e-3)
    assert done.steps == 8
    assert done.kl_after <= done.kl_before


@pytest.mark.parametrize(
    "args, message",
    [({"metric_for_best_model": "loss"}, "GKD measures kl only"), ({"eval_strategy": "no"}, "eval strategy to match")],
    ids=str,
)
def test_arguments_that_cannot_choose_a_step_are_named(judged, child, args, message):
    with pytest.raises(RecipeError, match=message):
        judged(child, args=args)


def test_one_row_cannot_choose(judged, child, validation):
    with pytest.raises(RecipeError, match=r"1 held-out sequences .*data\.heldout_tokens .*to 96 or more"):
        judged(child, rows=validation[:1])


@pytest.fixture
def trained(monkeypatch):
    """(learning rate, steps) of every training of GKD."""
    original, found = GKDTrainer.train, []

    def train(self, **kwargs):
        found.append((self.args.learning_rate, self.args.max_steps))
        return original(self, **kwargs)

    monkeypatch.setattr(GKDTrainer, "train", train)
    return found


PROBED = {"num_tokens": 16 * 200, "batch_size": 1, "learning_rate": "auto", "evals": 1}


def test_tries_begin_at_the_start_and_are_not_repeated(judged, child, monkeypatch, trained, state_of):
    original, before = GKDTrainer.train, state_of(child)

    def train(self, **kwargs):
        if self.gate is None:
            assert all(torch.equal(tensor, before[name]) for name, tensor in self.model.state_dict().items())
        return original(self, **kwargs)

    monkeypatch.setattr(GKDTrainer, "train", train)
    _, done = judged(child, "probed", **PROBED)
    assert {steps for _, steps in trained[:-1]} == {6}
    assert trained[-1] == (done.learning_rate, 200)
    best = float(min(done.rates, key=done.rates.get))
    assert best * 200**0.5 / 6**0.5 / 3 < done.learning_rate < best * 200**0.5 / 6**0.5 * 3
    again = len(trained)
    _, repeated = judged(child, "probed", **PROBED)
    assert len(trained) == again + 1
    assert repeated.rates == done.rates


def test_a_rate_too_high_for_all_steps_gives_way_to_the_best_that_was_tried(judged, child, monkeypatch, trained):
    monkeypatch.setattr(learning_rate, "reach", lambda steps: steps**3)
    monkeypatch.setattr(learning_rate, "guess", lambda *about: 3e-3)
    _, done = judged(child, "fell back", **PROBED)
    (high, _), (low, _) = [each for each in trained if each[1] == 200]
    assert high > 30 * low
    assert low == done.learning_rate == float(min(done.rates, key=done.rates.get))
    assert done.step > 0
    assert done.kl_after < done.kl_before


def test_short_runs_take_the_guess(judged, child):
    _, done = judged(child, learning_rate="auto")
    assert done.rates == {}
    assert done.learning_rate > 0


def test_a_frozen_base_stays_in_half_precision(judged, child, monkeypatch):
    seen, original = {}, GKDTrainer.training_step

    def step(self, model, *args):
        for parameter in model.parameters():
            seen.setdefault(parameter.requires_grad, set()).add(parameter.dtype)
        return original(self, model, *args)

    monkeypatch.setattr(GKDTrainer, "training_step", step)
    result, _ = judged(cast_parameters(child, torch.bfloat16), lora={"r": 2}, learning_rate=1e-2)
    assert seen == {False: {torch.bfloat16}, True: {torch.float32}}
    assert {p.dtype for p in result.parameters()} == {torch.bfloat16}


def test_two_processes_are_one(tmp_path):
    script = Path(__file__).with_name("ddp_distill.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, batch_size, prefix in (("one", 4, []), ("two", 2, launch)):
        command = [sys.executable, *prefix, script, tmp_path / f"{name}.safetensors", str(batch_size)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_close_states(load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors"), 1e-4)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(request, make_parent, tmp_path):
    """A folder with `parent` and `child`, as tests/puzzle/fsdp_distill.py takes it."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 256, "num_hidden_layers": 3}
    parent = make_parent(**sizes, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=request.param)
    blocks = [Block(1, 256), Block("none", 256), Block(2, "linear")]
    for name, model in (("parent", parent), ("child", Network(parent.config, blocks).random(torch.float32))):
        hub.write_model_folder(tmp_path / name, model)
    return tmp_path


def test_sharded_models_train_as_whole_ones(folder):
    """FSDP2 on two processes, killed and continued, against one process on the same global batch."""
    script = str(Path(__file__).with_name("fsdp_distill.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def run(prefix, *args):
        return subprocess.run(
            [sys.executable, *prefix, script, str(folder), *args], env=environment, capture_output=True, text=True
        )

    assert run([], "4").returncode == 0
    killed = run(launch, "2", "5")
    assert killed.returncode != 0
    assert last_checkpoint(folder / "run2").name == "checkpoint-4"
    assert not (folder / "2").exists()
    continued = run(launch, "2")
    assert continued.returncode == 0, continued.stderr[-3000:]
    assert sorted(p.name for p in (folder / "1").iterdir()) == sorted(p.name for p in (folder / "2").iterdir())
    first, second = (hub.open_model_folder(folder / name) for name in ("1", "2"))
    assert_close_states(first, second, 1e-5)
    start = hub.open_model_folder(folder / "child").state_dict()
    assert any((tensor - start[name]).abs().max() > 1e-3 for name, tensor in second.state_dict().items())
    whole = json.loads((folder / "bytes1_0.json").read_text())
    assert whole.pop("steps") == 8
    for rank in (0, 1):
        held = json.loads((folder / f"bytes2_{rank}.json").read_text())
        assert held.pop("steps") == 4  # the rest was done before the kill
        assert all(held[name] <= 0.51 * whole[name] for name in whole)


def test_models_that_are_not_sharded_are_refused(llama, run, child):
    with pytest.raises(RuntimeError, match="is not sharded over 1 processes"):
        run(child, fsdp=True)


@pytest.mark.parametrize("changes", [{"lora": {"r": 2}}, {"optimizer": "muon"}], ids=str)
def test_what_cannot_be_sharded_is_named(changes):
    with pytest.raises(RecipeError, match=r"distill\.(lora|optimizer): .*fsdp"):
        check_fsdp(dataclasses.replace(CONFIG, fsdp=True, **changes))
