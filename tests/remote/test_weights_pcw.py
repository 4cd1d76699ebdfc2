"""The hash of the weights: equal while nothing changed, another one after any change; windows kept through changes."""

import copy

import pytest
import torch
from pcw_models import byte_level, tiny_llama

from hf_puzzle.remote.weights_pcw import _checksum, model_state, weights_hash


pytest.importorskip("peft")
from stale import live  # noqa: E402


@pytest.fixture
def model():
    return tiny_llama(byte_level())


@pytest.mark.parametrize("seed", [*range(12), 122, 619, 720])  # the last: adapters that a pass unmerges
def test_kept_windows_are_right_or_refused(seed):
    happened, found = live(seed)
    assert "wrong" not in found, (happened, found)


def test_one_value_of_any_weight_changes_the_state(model):
    seen = {model_state(model)}
    for i, weight in enumerate(model.parameters()):
        with torch.no_grad():
            weight.view(-1)[weight.numel() // 3] += 1
        seen.add(model_state(model))
        assert len(seen) == i + 2


def test_the_state_says_devices_modes_and_dtypes_and_comes_back(model):
    first = model_state(model)
    assert model_state(model) == first == model_state(copy.deepcopy(model))
    model.model.layers[1].mlp.train()
    assert model_state(model) != first
    model.eval()
    assert model_state(model) == first
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert model_state(model) == first
    assert weights_hash(model) == weights_hash(model, fresh=True)
    model.to(torch.bfloat16).to(torch.float32)
    assert model_state(model) != first


def test_a_few_values_through_data_are_seen_on_disk_alone(model):
    before, state = weights_hash(model, fresh=True), model_state(model)
    model.lm_head.weight.data[5, 7] += 1
    assert model_state(model) == state  # what the module's docstring says
    assert weights_hash(model, fresh=True) != before


def test_models_of_other_scales_have_other_states(model):
    other = tiny_llama(byte_level(), rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert model_state(other) != model_state(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_checksums_see_every_place_and_every_exchange(dtype):
    values = torch.arange(1, 70).to(dtype)
    seen = {_checksum(values)}
    for i in range(len(values) - 1):
        changed = values.clone()
        changed[i] = 0
        seen.add(_checksum(changed))
    assert len(seen) == len(values)
    tops = torch.zeros(16, 8, dtype=torch.uint8)  # the highest bit of two words each
    pairs = [(i, j) for i in range(16) for j in range(i)]
    found = {_checksum(tops)}
    for pair in pairs:
        tops[pair, 7] ^= 128
        found.add(_checksum(tops))
        tops[pair, 7] ^= 128
    assert len(found) == 1 + len(pairs)
    values = torch.arange(1, 65).to(torch.float32)
    rows = {_checksum(torch.cat([-values[:n], values[n:]]).to(dtype)) for n in range(0, 65, 4)}
    assert len(rows) == (17 if dtype != torch.bool else 1)
    signs = torch.randn(64)
    assert _checksum(signs) != _checksum(torch.cat([-signs[:2], signs[2:]]))
    assert _checksum(signs) != _checksum(signs.flip(0))
