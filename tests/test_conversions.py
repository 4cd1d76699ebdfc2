"""The proof by logits: it sees what a conversion loses, in any dtype, and leaves the model as it was."""

import pytest
import torch
from families import family_model, own_head

from hf_puzzle import hub
from hf_puzzle.conversions import EXACT, NotTheSame, check_same, probe_logits, probe_tokens, relative_difference


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral", "gpt_oss", "cohere"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_compared_in_float32(family, dtype, state_of, assert_bit_equal):
    model = family_model(family).to(dtype).train()
    before, random = state_of(model), torch.get_rng_state()
    found = probe_logits(model)
    assert found.dtype == torch.float32
    assert relative_difference(probe_logits(model.float()), found) < 1e-6
    model = model.to(dtype)
    assert_bit_equal(state_of(model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_weights_come_back_where_a_forward_fails(state_of, assert_bit_equal):
    model = family_model("llama").to(torch.bfloat16)
    before = state_of(model)
    model.model.layers[2].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        probe_logits(model)
    assert_bit_equal(state_of(model), before)


def test_tokens_are_fixed_and_may_be_named():
    assert torch.equal(probe_tokens(50), probe_tokens(50))
    assert probe_tokens(50).max() < 50
    assert probe_tokens(50, [7, 9]).flatten()[:2].tolist() == [7, 9]
    assert probe_tokens(50, range(40)).flatten().tolist() == list(range(24))


def test_other_logits_are_named():
    logits = torch.ones(2, 3)
    check_same(logits, logits * (1 + EXACT / 2), "x")
    for wrong, figure in ((logits * 1.1, "0.1"), (logits * float("nan"), "nan"), (torch.ones(2, 4), "inf")):
        with pytest.raises(NotTheSame, match=f"x computes something else: .* by {figure} "):
            check_same(logits, wrong, "x")


def test_a_folder_with_other_logits_does_not_appear(tmp_path, monkeypatch):
    model = family_model("llama")
    folder = hub.write_model_folder(tmp_path / "child", model)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(NotTheSame, match="child computes something else"):
        hub.write_model_folder(folder, family_model("llama", seed=1), expected=probe_logits(model))
    # a head that is lost on the way
    model = own_head(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save = type(model).save_pretrained
    monkeypatch.setattr(type(model), "save_pretrained", lambda self, path: save(self, path, state_dict=state))
    monkeypatch.setattr(hub, "tell_tie", lambda model: None)
    with pytest.raises(NotTheSame, match="child computes something else"):
        hub.write_model_folder(folder, model)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["child"]


def test_the_flag_of_a_folder_is_that_of_its_weights(tmp_path):
    model = own_head(family_model("llama"))
    opened = hub.open_model_folder(hub.write_model_folder(tmp_path / "own", model))
    assert not opened.config.tie_word_embeddings
    assert torch.equal(probe_logits(opened), probe_logits(model))
    model = family_model("llama", tie_word_embeddings=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    opened = hub.open_model_folder(hub.write_model_folder(tmp_path / "tied", model))
    assert opened.config.tie_word_embeddings
    assert torch.equal(probe_logits(opened), probe_logits(model))


def test_a_folder_whose_flag_is_wrong_is_read_as_its_weights_are(tmp_path):
    model = own_head(family_model("llama"))
    model.save_pretrained(tmp_path)
    config, state = hub.read_model_folder(tmp_path)
    assert not config.tie_word_embeddings
    assert torch.equal(state["lm_head.weight"], model.lm_head.weight)
