"""Muon and AdamW as one optimizer: for schedulers, for checkpoints, and for the parameters each must drive."""

import copy

import pytest
import torch
from torch import nn

from hf_puzzle.optim import MuonWithAdamW


@pytest.fixture
def model(make_parent):
    return make_parent(num_hidden_layers=1, intermediate_size=256, tie_word_embeddings=False).requires_grad_(True)


def step(model, optimizer, seed, scheduler=None):
    ids = torch.randint(3, 256, (2, 8), generator=torch.Generator().manual_seed(seed))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if scheduler is not None:
        scheduler.step()


def test_matrices_go_to_muon_and_the_rest_to_adamw(model):
    muon, adamw = MuonWithAdamW(model.named_parameters(), lr=1e-3).inner
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    driven = [{names[id(p)] for group in o.param_groups for p in group["params"]} for o in (muon, adamw)]
    assert driven[0] == {name for name in names.values() if name.endswith("proj.weight")}
    assert driven[1] == set(names.values()) - driven[0]
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= driven[1]


def test_frozen_parameters_are_left_out(model):
    model.requires_grad_(False).get_input_embeddings().requires_grad_(True)
    (adamw,) = MuonWithAdamW(model.named_parameters(), lr=1e-3).inner
    assert [p.shape for group in adamw.param_groups for p in group["params"]] == [(256, 64)]


def test_scheduler_reaches_both(model):
    optimizer = MuonWithAdamW(model.named_parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0 / (1 + i))
    for i in range(3):
        assert [group["lr"] for o in optimizer.inner for group in o.param_groups] == [
            pytest.approx(1e-2 / (1 + i))
        ] * 2
        step(model, optimizer, i, scheduler)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, 5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_each_half_takes_the_step_of_its_own_optimizer(model):
    other = copy.deepcopy(model)
    step(model, MuonWithAdamW(model.named_parameters(), lr=1e-2, weight_decay=0.1), 0)
    matrices = [p for name, p in other.named_parameters() if name.endswith("proj.weight")]
    rest = [p for name, p in other.named_parameters() if not name.endswith("proj.weight")]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    step(other, muon, 0)
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight"):
            assert torch.equal(parameter, dict(other.named_parameters())[name])
    assert len(rest) + len(matrices) == len(list(model.parameters()))


def test_state_dict_continues_bit_equal(model):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1.0 / (1 + i))

    optimizer = MuonWithAdamW(model.named_parameters(), lr=1e-2)
    scheduler = schedule(optimizer)
    for i in range(3):
        step(model, optimizer, i, scheduler)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    for i in range(3, 6):
        step(model, optimizer, i, scheduler)
    straight = copy.deepcopy(model.state_dict())

    model.load_state_dict(saved[0])
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.5)
    scheduler = schedule(optimizer)
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[2])
    for i in range(3, 6):
        step(model, optimizer, i, scheduler)
    assert all(torch.equal(straight[name], tensor) for name, tensor in model.state_dict().items())
    assert [id(g) for g in optimizer.param_groups] == [id(g) for o in optimizer.inner for g in o.param_groups]


def test_closure_and_zero_grad():
    layer = nn.Linear(4, 4)
    optimizer = MuonWithAdamW(layer.named_parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(20)]
    assert losses[-1] < losses[0]
    optimizer.zero_grad()
    assert all(p.grad is None for p in layer.parameters())
