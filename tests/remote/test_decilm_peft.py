"""PEFT on DeciLM: adapters by name and on all linear maps, merged and published; what cannot work says so."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from test_decilm import MIXED, WIDTH, decilm, tokens
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


@pytest.fixture
def model():
    return decilm(MIXED)


@pytest.fixture
def folder(tmp_path):
    decilm(MIXED).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=tokens()).logits


def lora(model, targets, **settings):
    """A LoRA model whose adapters are not at their neutral start."""
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", **settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    return adapted


def adapted_modules(model):
    return {
        name.removeprefix("base_model.model.model.layers.").removesuffix(".lora_A.default.weight")
        for name, _ in model.named_parameters()
        if ".lora_A." in name
    }


def test_lora_by_names_skips_layers_without_them(model):
    adapted = lora(model, ["q_proj", "linear_mlp"])
    assert adapted_modules(adapted) == {
        *(f"{layer}.self_attn.q_proj" for layer in (1, 3, 5)),
        *(f"{layer}.mlp.linear_mlp" for layer in (2, 5)),
    }


def test_all_linear_reaches_the_linear_replacements_and_not_the_head(model):
    names = adapted_modules(lora(model, "all-linear"))
    assert {"2.self_attn.linear_attn", "2.mlp.linear_mlp", "0.mlp.gate_proj", "1.self_attn.k_proj"} <= names
    assert len(names) == 4 * 3 + 2 * 3 + 3
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("targets", [["q_proj", "down_proj", "linear_attn"], "all-linear"], ids=str)
def test_a_merged_adapter_is_published_with_its_code(folder, tmp_path, targets):
    base = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    before = logits(base)
    adapted = lora(base, targets)
    expected = logits(adapted)
    assert (expected - before).abs().max() > 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh, tmp_path / "adapter")), expected)

    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    code = {path.name for path in (tmp_path / "merged").glob("*.py")}
    assert code == {"caches_puzzle.py", "configuration_decilm.py", "modeling_decilm.py"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", trust_remote_code=True)
    assert torch.equal(logits(again), logits(merged))


def test_only_the_adapter_trains(model):
    adapted = lora(model, "all-linear").train()
    adapted.gradient_checkpointing_enable()
    adapted(input_ids=tokens(), labels=tokens()).loss.backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in adapted.named_parameters() if "lora_" in name}


def test_lora_on_a_classifier(folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, num_labels=3)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj", "linear_mlp"], task_type="SEQ_CLS"))
    adapted(input_ids=tokens(), labels=torch.tensor([0, 2])).loss.backward()
    trained = {name.rsplit(".", 3)[-3] for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained >= {"lora_B", "modules_to_save"}  # the score is trained and saved with the adapter
    expected = logits(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, num_labels=3)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh, tmp_path / "adapter")), expected)


def test_prompt_tuning(folder, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    prompted = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    prompted(input_ids=tokens(), labels=tokens()).loss.backward()
    assert [name for name, p in prompted.named_parameters() if p.grad is not None] == [
        "prompt_encoder.default.embedding.weight"
    ]
    expected = logits(prompted)
    assert expected.shape[1] == 4 + 12
    settings = {"attention_mask": torch.ones(2, 12, dtype=torch.long), "max_new_tokens": 5, "do_sample": False}
    ids = prompted.generate(input_ids=tokens(), **settings)
    assert torch.equal(ids[:, 12], expected[:, -1].argmax(-1))
    prompted.save_pretrained(tmp_path / "prompt")
    fresh = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "prompt")
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(loaded.generate(input_ids=tokens(), **settings), ids)


@pytest.mark.parametrize("blocks", [MIXED, [(2, WIDTH)] * 2], ids=["mixed", "one number of KV heads"])
def test_prefix_tuning_is_refused(blocks):
    """PEFT makes the prefix from one `num_key_value_heads`; DeciLM's is null, so it stops before any model is made.

    The error is PEFT's own: it reads the config as plain JSON and asks nobody. A number there would make prefixes of
    a wrong shape in mixed models, and break the engines that tell this format by the null.
    """
    with pytest.raises(TypeError, match="NoneType"):
        get_peft_model(decilm(blocks), PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))


@pytest.mark.usefixtures("native_adapters")
def test_native_adapters(folder, tmp_path):
    model = DeciLMForCausalLM.from_pretrained(folder)
    before = logits(model)
    for name, target in (("first", "q_proj"), ("second", "linear_mlp")):
        model.add_adapter(LoraConfig(r=2, target_modules=[target], init_lora_weights=False), adapter_name=name)
    found = {}
    for name in ("first", "second"):
        model.set_adapter(name)
        assert model.active_adapters() == [name]
        found[name] = logits(model)
    assert not torch.equal(found["first"], found["second"])
    model.disable_adapters()
    assert torch.equal(logits(model), before)
    model.enable_adapters()
    model.set_adapter("first")
    model.save_pretrained(tmp_path / "adapter")
    fresh = DeciLMForCausalLM.from_pretrained(folder)
    fresh.load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(fresh), found["first"])
