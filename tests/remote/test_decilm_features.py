"""What users expect of any transformers model: caches, assistants, compilers, dtypes, heads and auto classes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_decilm import HEADS, HIDDEN, MIXED, VOCAB, WIDTH, decilm, tokens
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from hf_puzzle.remote import modeling_decilm
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM, DeciLMForSequenceClassification, DeciLMModel


TINY_PARENT = Path(__file__).parents[2] / "recipes/puzzle/tiny_parent"
AUTO_MAP = {
    "AutoConfig": "configuration_decilm.DeciLMConfig",
    "AutoModel": "modeling_decilm.DeciLMModel",
    "AutoModelForCausalLM": "modeling_decilm.DeciLMForCausalLM",
    "AutoModelForDecision": "modeling_decilm.DeciLMForCausalLM",
    "AutoModelForSequenceClassification": "modeling_decilm.DeciLMForSequenceClassification",
}
NO_ATTENTION = [("none", WIDTH), ("linear", "linear")]
GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def model():
    return decilm(MIXED)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


def generate(model, ids, **settings):
    return model.generate(ids, **({"attention_mask": torch.ones_like(ids)} | GREEDY | settings))


@pytest.mark.parametrize("blocks", [MIXED, NO_ATTENTION], ids=["mixed", "no attention"])
@pytest.mark.parametrize("cache", ["dynamic", "static", "sliding_window"])  # offloading needs an accelerator
def test_every_cache_gives_the_same_tokens(blocks, cache):
    model, ids = decilm(blocks), tokens(length=9)
    expected = generate(model, ids, use_cache=False)
    assert torch.equal(generate(model, ids, cache_implementation=cache), expected)


@pytest.mark.parametrize("blocks", [MIXED, NO_ATTENTION], ids=["mixed", "no attention"])
def test_samples_beams_and_prompt_lookup(blocks):
    model, ids = decilm(blocks), tokens(length=9)
    for settings in ({"do_sample": True, "num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 3}):
        cached, uncached = [], []
        for use_cache, outputs in ((True, cached), (False, uncached)):
            torch.manual_seed(0)
            outputs.append(generate(model, ids, use_cache=use_cache, **settings))
        assert cached[0].shape[0] == 6
        assert torch.equal(cached[0], uncached[0])
    # a prompt that repeats itself, so that looking up finds something
    ids = tokens(batch=1, length=4).repeat(1, 4)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=3), generate(model, ids))


@pytest.fixture(scope="module")
def parent():
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": WIDTH}
    ids = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    return LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=3, num_key_value_heads=2, initializer_range=0.1, **sizes, **ids)
    ).eval()


DRAFTS = {
    "itself": [(2, WIDTH)] * 3,
    "layer 0 without attention": [("none", WIDTH), (2, WIDTH), (2, "linear")],
    "last layer gone": [(2, WIDTH), (2, WIDTH), ("none", "none")],
    "no attention": [("none", WIDTH)] * 3,
}


@pytest.mark.parametrize("name", DRAFTS)
def test_a_child_drafts_for_its_parent(parent, name):
    child = decilm(DRAFTS[name], rms_norm_eps=parent.config.rms_norm_eps)
    child.load_state_dict({k: v for k, v in parent.state_dict().items() if k in child.state_dict()}, strict=False)
    ids, calls = tokens(batch=1, length=9), []
    handle = parent.register_forward_hook(lambda *_: calls.append(1))
    expected = generate(parent, ids)
    assert len(calls) == 8
    calls.clear()
    assert torch.equal(generate(parent, ids, assistant_model=child), expected)
    if name == "itself":
        assert len(calls) < 8
    handle.remove()
    assert torch.equal(generate(child, ids, assistant_model=parent), generate(child, ids))


def compiled_differences(model, backend):
    """Largest logit difference of a compiled forward, without a cache and with a static one."""
    torch._dynamo.reset()
    compiled, ids = torch.compile(model.forward, fullgraph=True, backend=backend), tokens(length=8)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        cache = StaticCache(config=model.config, max_cache_len=16)
        parts = [compiled(part, past_key_values=cache, use_cache=True).logits for part in ids.split([6, 1, 1], dim=1)]
        got = [compiled(ids, use_cache=False).logits, torch.cat(parts, dim=1)]
    return [(each - expected).abs().max().item() for each in got]


def test_forward_is_one_graph(model):
    assert max(compiled_differences(model, "eager")) < 1e-4


@pytest.mark.slow
def test_inductor_compiles_it(model):
    assert max(compiled_differences(model, "inductor")) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_loading_in_half_precision(model, folder, dtype):
    loaded, ids = DeciLMForCausalLM.from_pretrained(folder, dtype=dtype).eval(), tokens()
    logits = loaded(ids).logits
    assert {p.dtype for p in loaded.parameters()} == {logits.dtype} == {dtype}
    # rotary angles in half precision would be wrong after a few hundred tokens
    assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32
    expected = model(ids).logits
    assert (logits.float() - expected).abs().max() < 0.1 * expected.std()
    assert generate(loaded, ids).shape == (2, 20)


@torch.no_grad()
def test_loading_ways(model, folder, monkeypatch):
    devices, init = [], DeciLMModel.__init__

    def recording_init(self, config):
        init(self, config)
        devices.append(self.embed_tokens.weight.device.type)

    monkeypatch.setattr(DeciLMModel, "__init__", recording_init)
    ids = tokens()
    expected = model(ids).logits
    for settings in ({}, {"device_map": "cpu"}, {"attn_implementation": "sdpa"}):
        assert torch.equal(DeciLMForCausalLM.from_pretrained(folder, **settings).eval()(ids).logits, expected)
    eager = DeciLMForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert eager(ids, output_attentions=True).attentions[1].shape == (2, HEADS, 12, 12)
    eager.set_attn_implementation("sdpa")
    assert torch.equal(eager(ids).logits, expected)
    assert devices == ["meta"] * 4  # no memory is spent on weights that the files replace


def test_generation_reports_states_and_attentions():
    model, ids = decilm(MIXED), tokens()
    model.set_attn_implementation("eager")
    report = {"output_attentions": True, "output_hidden_states": True, "output_logits": True}
    out = generate(model, ids, return_dict_in_generate=True, **report)
    assert len(out.attentions) == len(out.hidden_states) == len(out.logits) == 8
    for attentions, states in zip(out.attentions, out.hidden_states, strict=True):
        assert [a is not None for a in attentions] == [isinstance(attention, int) for attention, _ in MIXED]
        assert len(states) == len(MIXED) + 1
    with torch.no_grad():
        full = model(out.sequences[:, :-1]).logits[:, -8:]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_resized_model_can_be_saved(tmp_path, tied):
    model, ids = decilm(MIXED, tie_word_embeddings=tied), tokens()
    expected = model(ids).logits
    model.resize_token_embeddings(VOCAB + 7)
    model.save_pretrained(tmp_path)
    loaded = DeciLMForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.vocab_size == loaded.lm_head.out_features == VOCAB + 7
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    torch.testing.assert_close(loaded(ids).logits[..., :VOCAB], expected)


@pytest.mark.parametrize("tied", [False, True])
def test_sequence_classification(tmp_path, tied):
    causal = decilm(MIXED, tie_word_embeddings=tied)
    causal.save_pretrained(tmp_path / "causal")
    model = DeciLMForSequenceClassification.from_pretrained(tmp_path / "causal", num_labels=3).eval()
    ids, labels = tokens(length=8), torch.tensor([0, 2])
    with torch.no_grad():
        states = causal.model(ids).last_hidden_state
        expected = states[:, -1] @ model.score.weight.T
        torch.testing.assert_close(model(ids).logits, expected)
        pad = torch.zeros_like(ids[:, :3])
        for padded, mask in (
            (torch.cat((ids, pad), 1), torch.cat((ids > 0, pad > 0), 1)),
            (torch.cat((pad, ids), 1), torch.cat((pad > 0, ids > 0), 1)),
        ):
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            got = model(padded, attention_mask=mask.long(), position_ids=positions).logits
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    loss = model(ids, labels=labels).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(expected, labels))
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    model.save_pretrained(tmp_path / "classifier")
    saved = json.loads((tmp_path / "classifier/config.json").read_text())
    assert saved["architectures"] == ["DeciLMForSequenceClassification"]
    assert saved["auto_map"] == AUTO_MAP
    again = DeciLMForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["DeciLMModel", "DeciLMForCausalLM", "DeciLMForSequenceClassification"])
def test_whichever_class_is_saved_all_are_in_the_map(model, tmp_path, name):
    getattr(modeling_decilm, name)(model.config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == AUTO_MAP
    assert saved["architectures"] == [name]
    assert {path.name for path in tmp_path.glob("*.py")} == {
        "caches_puzzle.py",
        "configuration_decilm.py",
        "modeling_decilm.py",
    }


def test_the_map_names_classes_of_the_file():
    for path in modeling_decilm.AUTO_MAP.values():
        assert hasattr(modeling_decilm, path.removeprefix("modeling_decilm."))


# The classifier comes first: that its decoder needs no second trust shows only while AutoModel has not seen the code.
LOAD_ALONE = """
import json, sys
sys.modules["hf_puzzle"] = None
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForDecision, AutoModelForSequenceClassification
from transformers import AutoTokenizer, DecisionConfig, pipeline
torch.set_num_threads(1)
folder = sys.argv[1]
trust = {"trust_remote_code": True}
stored = torch.load(folder + "/expected.pt")
with torch.no_grad():
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **trust).eval()
    assert torch.equal(classifier.model(stored["ids"]).last_hidden_state, stored["states"])
    classifier.save_pretrained(folder + "/classifier")
    again = AutoModelForSequenceClassification.from_pretrained(folder + "/classifier", **trust).eval()
    assert torch.equal(again(stored["ids"]).logits, classifier(stored["ids"]).logits)

    decoder = AutoModel.from_pretrained(folder, **trust).eval()
    assert torch.equal(decoder(stored["ids"]).last_hidden_state, stored["states"])
    decoder.save_pretrained(folder + "/decoder")
    again = AutoModelForDecision.from_pretrained(folder, **trust).eval()
    assert torch.equal(again(stored["ids"]).logits, stored["logits"])
    again.save_pretrained(folder + "/again")
    for each in ("classifier", "decoder", "again"):
        assert json.load(open(f"{folder}/{each}/config.json"))["auto_map"] == stored["auto_map"], each
    causal = AutoModelForCausalLM.from_pretrained(folder + "/again", **trust).eval()
    assert torch.equal(causal(stored["ids"]).logits, stored["logits"])

    settings = {"do_sample": False, "max_new_tokens": 5}
    text = pipeline("text-generation", model=folder, **trust)("import os", return_tensors=True, **settings)
    ids = AutoTokenizer.from_pretrained(folder, **trust)("import os", return_tensors="pt")
    assert text[0]["generated_token_ids"] == causal.generate(**ids, **settings)[0].tolist()

    decide = pipeline("decision", model=folder, **trust)
    question = {"type": "choice", "instructions": "What?", "criteria": {"code": "a program", "prose": "a text"}}
    request = {"state": "import os", "questions": {"what": question}}
    (inputs, questions), = DecisionConfig().prepare_inputs(request, decide.tokenizer)
    labels = decide.label_token_ids(tuple(questions[0].labels))
    expected = causal(inputs["input_ids"]).logits[0, inputs["marks"] - 1][0, labels].softmax(-1)
    got = decide(request)["what"]["probabilities"]
    torch.testing.assert_close(torch.tensor([got["code"], got["prose"]]), expected)

from transformers.cli.serving.model_manager import ModelManager
served = ModelManager(device="cpu", **trust)._load_model(folder + "@main")
assert type(served).__name__ == "DeciLMForCausalLM"
print("same")
"""
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def test_every_auto_class_opens_the_folder_without_the_library(tmp_path):
    model, ids = decilm(MIXED, vocab_size=2048), tokens()
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_PARENT / name, tmp_path / name)
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    with torch.no_grad():
        states = model.model(ids).last_hidden_state
        expected = {"ids": ids, "states": states, "logits": model(ids).logits, "auto_map": AUTO_MAP}
    torch.save(expected, tmp_path / "expected.pt")
    run = subprocess.run(
        [sys.executable, "-c", LOAD_ALONE, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout.strip().endswith("same"), run.stderr
