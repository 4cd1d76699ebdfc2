import copy
import json
import subprocess
import sys

import pytest
import torch
from published_layouts import LAYOUTS
from transformers import (
    AutoConfig,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)

from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config, ffn_mult, ffn_width
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM, DeciLMModel


VOCAB, HIDDEN, HEADS, WIDTH = 97, 64, 4, 256
ATTENTIONS, FFNS = (4, 2, 1, "linear", "none"), (WIDTH, "linear", "none")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def decilm(blocks, seed=0, **overrides):
    """A tiny DeciLM in eval mode; `blocks` are (attention, ffn) pairs of `block_config`. Weights are spread enough
    for every block to matter."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "initializer_range": 0.1}
    settings |= {"max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    config = DeciLMConfig(
        **(settings | {"block_configs": [block_config(HEADS, HIDDEN, *block) for block in blocks]} | overrides)
    )
    model = DeciLMForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            parameter.data.normal_(float(name.endswith("norm.weight")), 0.2)
    return model


MIXED = [("none", WIDTH), (4, "none"), ("linear", "linear"), (1, 2 * WIDTH), ("none", "none"), (2, "linear")]


def tokens(batch=2, length=12, seed=1):
    return torch.randint(2, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits_token_by_token(model, ids, cache):
    steps = [model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(ids.shape[1])]
    return torch.cat(steps, dim=1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "config_class, model_class, ours",
    [
        (LlamaConfig, LlamaForCausalLM, {}),
        (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
        (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE}),
        (LlamaConfig, LlamaForCausalLM, {"head_dim": 24}),
        (MistralConfig, MistralForCausalLM, {}),
        (Qwen2Config, Qwen2ForCausalLM, {"qkv_bias": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_all_gqa_is_the_stock_parent(config_class, model_class, ours, tied, dtype):
    model = decilm([(2, WIDTH)] * 3, tie_word_embeddings=tied, rms_norm_eps=1e-6, **ours).to(dtype)
    rope = {"rope_parameters": dict(model.config.rope_parameters)}
    shared = {key: value for key, value in ours.items() if key != "qkv_bias"} | rope
    parent_config = config_class(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=WIDTH,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-6,
        max_position_embeddings=256,
        **({"sliding_window": None} if model_class is MistralForCausalLM else {}),
        **shared,
    )
    parent = model_class(parent_config).eval().to(dtype)
    assert set(parent.state_dict()) == set(model.state_dict())
    parent.load_state_dict(model.state_dict())
    ids = tokens(length=40)
    torch.testing.assert_close(model(ids).logits, parent(ids).logits, rtol=0, atol=0)
    ours_cached = logits_token_by_token(model, ids[:, :6], DynamicCache())
    torch.testing.assert_close(ours_cached, logits_token_by_token(parent, ids[:, :6], DynamicCache()), rtol=0, atol=0)
    ours_out, theirs = model(ids, output_hidden_states=True), parent(ids, output_hidden_states=True)
    assert len(ours_out.hidden_states) == 4
    for mine, stock in zip(ours_out.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(mine, stock)
    for keep in (1, 3, torch.tensor([0, 5])):
        assert torch.equal(model(ids, logits_to_keep=keep).logits, parent(ids, logits_to_keep=keep).logits)


@torch.no_grad()
def test_loss_and_gradients_are_the_stock_parents():
    model = decilm([(2, WIDTH)] * 2, rms_norm_eps=1e-6)
    rope = dict(model.config.rope_parameters)
    sizes = {"intermediate_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": 2}
    parent = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, rope_parameters=rope, **sizes)
    )
    parent.load_state_dict(model.state_dict())
    ids = tokens()
    for extra in ({}, {"num_items_in_batch": torch.tensor(50)}):
        losses = []
        for each in (model, parent):
            each.train().zero_grad()
            with torch.enable_grad():
                loss = each(ids, labels=ids, **extra).loss
                loss.backward()
            losses.append(loss)
        assert torch.equal(*losses)
        stock = dict(parent.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, stock[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("ffn", FFNS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(attention, ffn, position):
    blocks = [(2, WIDTH), (2, WIDTH)]
    blocks.insert(position, (attention, ffn))
    model, ids = decilm(blocks), tokens()
    full = model(ids, use_cache=False).logits
    caches = [DynamicCache(), DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=16)]
    for cache in caches:
        torch.testing.assert_close(logits_token_by_token(model, ids, cache), full, rtol=1e-4, atol=1e-4)
        assert int(cache.get_seq_length()) == ids.shape[1]
    prefill = model(ids[:, :7], use_cache=True)
    assert len(prefill.past_key_values) == 2 + (attention not in ("linear", "none"))
    rest = model(ids[:, 7:], past_key_values=prefill.past_key_values).logits
    torch.testing.assert_close(torch.cat((prefill.logits, rest), dim=1), full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", [MIXED, [("none", WIDTH), ("linear", "linear")], [("none", "none")], [(4, "none")]])
@torch.no_grad()
def test_generate_is_a_greedy_loop(blocks):
    model, ids = decilm(blocks), tokens(length=9)
    expected = ids
    for _ in range(6):
        expected = torch.cat((expected, model(expected, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    for extra in (
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"past_key_values": DynamicCache()},
        {"past_key_values": StaticCache(config=model.config, max_cache_len=32)},
        {"prefill_chunk_size": 4},
    ):
        assert torch.equal(model.generate(ids, **settings, **extra), expected), extra
    embeds = model.get_input_embeddings()(ids)
    from_embeds = model.generate(inputs_embeds=embeds, **settings)
    assert torch.equal(from_embeds, expected[:, 9:])
    beams = model.generate(ids, num_beams=3, num_return_sequences=2, **settings)
    uncached_beams = model.generate(ids, num_beams=3, num_return_sequences=2, use_cache=False, **settings)
    assert torch.equal(beams, uncached_beams)


@torch.no_grad()
def test_cache_without_any_attention_still_counts_tokens():
    model, ids = decilm([("none", WIDTH), ("linear", "none")]), tokens()
    cache = model(ids, use_cache=True).past_key_values
    assert cache.get_seq_length() == ids.shape[1]
    cache = model(ids[:, :1], past_key_values=cache).past_key_values
    assert cache.get_seq_length() == ids.shape[1] + 1


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_left_padding_changes_nothing(implementation):
    model, ids = decilm(MIXED), tokens(batch=1, length=8)
    model.set_attn_implementation(implementation)
    padded = torch.cat((torch.zeros_like(ids[:, :3]), ids), dim=1)
    mask = (torch.arange(11) >= 3).long()[None]
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = model(ids).logits
    got = model(padded, attention_mask=mask, position_ids=position_ids).logits[:, 3:]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    two = torch.cat((padded, tokens(batch=1, length=11)))
    masks = torch.cat((mask, torch.ones_like(mask)))
    batched = model.generate(two, attention_mask=masks, max_new_tokens=5, do_sample=False)
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
    assert torch.equal(batched[0, 3:], alone[0])


@torch.no_grad()
def test_four_dimensional_mask_and_positions_are_used_as_given():
    model, windows = decilm(MIXED), tokens(batch=2, length=6)
    apart = model(windows).logits
    block_diagonal = torch.block_diag(*[torch.ones(6, 6).tril()] * 2).bool()[None, None]
    position_ids = torch.arange(6).repeat(2)[None]
    together = model(windows.view(1, 12), attention_mask=block_diagonal, position_ids=position_ids).logits
    torch.testing.assert_close(together.view_as(apart), apart, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_implementation_can_be_switched():
    model, ids = decilm(MIXED), tokens()
    sdpa = model(ids).logits
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    out = model(ids, output_attentions=True)
    torch.testing.assert_close(out.logits, sdpa, rtol=1e-5, atol=1e-5)
    assert [a is not None for a in out.attentions] == [isinstance(attention, int) for attention, _ in MIXED]
    assert isinstance(model(ids, return_dict=False), tuple)


def test_gradient_checkpointing_gives_the_same_gradients():
    model, ids = decilm(MIXED).train(), tokens()
    model(ids, labels=ids).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    calls = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for reentrant in (False, True):
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
        model.zero_grad()
        calls.clear()
        model(ids, labels=ids).loss.backward()
        assert len(calls) == 2
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_inputs_embeds_and_resizing():
    model, ids = decilm(MIXED, tie_word_embeddings=True), tokens()
    embeds = model.get_input_embeddings()(ids)
    expected = model(ids).logits
    assert torch.equal(model(inputs_embeds=embeds).logits, expected)
    with pytest.raises(ValueError, match="exactly one"):
        model(ids, inputs_embeds=embeds)
    model.resize_token_embeddings(VOCAB + 7)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(model(ids).logits[..., :VOCAB], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    model, ids = decilm(MIXED), tokens()
    expected = model(ids).logits
    assert (model.to(dtype)(ids).logits.float() - expected).abs().max() < 0.1 * expected.std()


def test_tensor_names():
    names = {key.removeprefix("model.layers.") for key in decilm(MIXED).state_dict() if "layers" in key}
    attention = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    gated = ["post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    linear_attention, linear_mlp = ["input_layernorm", "self_attn.linear_attn"], [gated[0], "mlp.linear_mlp"]
    layers = [gated, attention, linear_attention + linear_mlp, attention + gated, [], attention + linear_mlp]
    assert names == {f"{i}.{name}.weight" for i, layer in enumerate(layers) for name in layer}


LOAD_ALONE = """
import sys
sys.modules["hf_puzzle"] = None
try:
    import hf_puzzle
    raise SystemExit("hf_puzzle must not be importable here")
except ImportError:
    pass
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
torch.set_num_threads(1)
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
stored = torch.load(folder + "/expected.pt")
with torch.no_grad():
    assert torch.equal(model(stored["ids"]).logits, stored["logits"])
assert config.block_configs == stored["block_configs"] == model.config.block_configs
assert config.block_configs[0].attention.no_op and not hasattr(config.block_configs[1].ffn, "hidden_act")
model.set_attn_implementation("eager")
assert model.config._attn_implementation == "eager"
model.save_pretrained(folder + "/again")
again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True).eval()
with torch.no_grad():
    assert torch.equal(again(stored["ids"]).logits, stored["logits"])
print("same")
"""


@pytest.mark.parametrize("extra", [{"tie_word_embeddings": True}, {"rope_parameters": LLAMA3_ROPE, "qkv_bias": True}])
def test_saved_folder_loads_without_the_library(tmp_path, extra):
    model, ids = decilm(MIXED, **extra), tokens()
    model.save_pretrained(tmp_path)
    plain = json.loads(json.dumps(model.config.to_dict()["block_configs"]))
    with torch.no_grad():
        expected = {"ids": ids, "logits": model(ids).logits, "block_configs": plain}
    torch.save(expected, tmp_path / "expected.pt")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["DeciLMForCausalLM"]
    assert saved["auto_map"] == {
        "AutoConfig": "configuration_decilm.DeciLMConfig",
        "AutoModel": "modeling_decilm.DeciLMModel",
        "AutoModelForCausalLM": "modeling_decilm.DeciLMForCausalLM",
        "AutoModelForDecision": "modeling_decilm.DeciLMForCausalLM",
        "AutoModelForSequenceClassification": "modeling_decilm.DeciLMForSequenceClassification",
    }
    run = subprocess.run(
        [sys.executable, "-c", LOAD_ALONE, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.stdout.strip().endswith("same"), run.stderr


def test_block_config_is_the_published_json():
    attention = {"sparsify": None, "window_length": None, "num_sink_tokens": None}
    attention |= {"use_prefill_window_in_sink_attention": False, "unshifted_sink": False}
    assert block_config(64, 8192, 8, 14336) == {
        "attention": {"n_heads_in_group": 8, "no_op": False, "replace_with_linear": False, **attention},
        "ffn": {"ffn_mult": 2.625, "no_op": False, "replace_with_linear": False, "sparsify": None},
    }
    assert block_config(64, 8192, "linear", "linear") == {
        "attention": {"n_heads_in_group": None, "no_op": False, "replace_with_linear": True, **attention},
        "ffn": {"ffn_mult": None, "no_op": False, "replace_with_linear": True, "sparsify": None},
    }
    assert block_config(64, 8192, "none", "none") == {
        "attention": {"n_heads_in_group": None, "no_op": True, "replace_with_linear": False, **attention},
        "ffn": {"ffn_mult": None, "no_op": True, "replace_with_linear": False, "sparsify": None},
    }


def saved_config(config, folder):
    config.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    reloaded = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert reloaded.to_dict()["block_configs"] == saved["block_configs"]
    return saved, reloaded


def test_config_json_of_an_unscaled_parent(tmp_path):
    blocks = [block_config(4, 64, 2, 256), block_config(4, 64, "none", "linear")]
    config = DeciLMConfig(
        vocab_size=97,
        hidden_size=64,
        num_attention_heads=4,
        block_configs=blocks,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_id=[2, 3],
        dtype="bfloat16",
        architectures=["DeciLMForCausalLM"],
    )
    saved, _ = saved_config(config, tmp_path)
    saved.pop("transformers_version")
    assert saved == {
        "architectures": ["DeciLMForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "block_configs": blocks,
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": [2, 3],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "nemotron-nas",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": None,
        "pad_token_id": None,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 97,
    }
    assert isinstance(saved["block_configs"][0]["ffn"]["ffn_mult"], float)


@pytest.mark.parametrize("layout", ["rope_parameters", "published", "both"])
def test_config_json_of_a_llama3_parent(tmp_path, layout):
    scaling = {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"}
    given = {
        "rope_parameters": {"rope_parameters": LLAMA3_ROPE},
        "published": {"rope_theta": 500000.0, "rope_scaling": scaling},
        "both": {"rope_scaling": LLAMA3_ROPE, "rope_parameters": LLAMA3_ROPE},
    }[layout]
    config = DeciLMConfig(hidden_size=64, num_attention_heads=4, head_dim=24, tie_word_embeddings=True, **given)
    saved, reloaded = saved_config(config, tmp_path)
    assert "rope_theta" not in saved
    assert saved["rope_scaling"] == saved["rope_parameters"] == LLAMA3_ROPE
    assert saved["head_dim"] == 24
    assert saved["tie_word_embeddings"] is True
    for each in (config, reloaded, copy.deepcopy(config)):
        assert each.rope_theta == 500000.0
        assert each.rope_scaling == each.rope_parameters == LLAMA3_ROPE
        assert each.pad_token_id is None
        assert each.head_dim == 24
        assert each.tie_word_embeddings
        each.num_key_value_heads = [2, 0]  # TensorRT-LLM does this
        assert each.to_dict()["num_key_value_heads"] is None


def broken(part, **changes):
    block = copy.deepcopy(block_config(4, 64, 2, 256))
    block[part] |= changes
    return block


@pytest.mark.parametrize(
    "block, message",
    [
        (broken("attention", n_heads_in_group=3), r"\[1\]\.attention\.n_heads_in_group is 3.*num_attention_heads=4"),
        (broken("attention", n_heads_in_group=None), r"\[1\]\.attention\.n_heads_in_group is None"),
        (broken("attention", no_op=True), r"\[1\]\.attention\.n_heads_in_group must be null"),
        (
            broken("attention", no_op=True, replace_with_linear=True),
            r"\[1\]\.attention: no_op and replace_with_linear",
        ),
        (broken("attention", no_op=True, n_heads_in_group=None, window_length=8), r"window_length must be null"),
        (broken("attention", window_length=8), r"\[1\]\.attention\.window_length is 8.*full attention only"),
        (broken("attention", kv_heads=2), r"\[1\]\.attention has unknown keys \['kv_heads'\]"),
        (broken("ffn", ffn_mult=None), r"\[1\]\.ffn\.ffn_mult is None"),
        (broken("ffn", ffn_mult=-1.0), r"\[1\]\.ffn\.ffn_mult is -1.0"),
        (broken("ffn", replace_with_linear=True), r"\[1\]\.ffn\.ffn_mult must be null"),
        (broken("ffn", intermediate_size=256), r"\[1\]\.ffn has unknown keys \['intermediate_size'\]"),
        ({"attention": block_config(4, 64, 2, 256)["attention"]}, r"\[1\]\.ffn is None"),
        ({**broken("ffn"), "parallel_blocks": None}, r"\[1\] has unknown keys \['parallel_blocks'\]"),
    ],
)
def test_wrong_blocks_are_named(block, message):
    blocks = [block_config(4, 64, 2, 256), block]
    with pytest.raises(ValueError, match=message):
        DeciLMConfig(hidden_size=64, num_attention_heads=4, block_configs=blocks)


def test_wrong_sizes_are_named():
    blocks = [block_config(4, 64, 2, 256)]
    with pytest.raises(ValueError, match="1 entries for num_hidden_layers=2"):
        DeciLMConfig(hidden_size=64, num_attention_heads=4, block_configs=blocks, num_hidden_layers=2)
    with pytest.raises(ValueError, match="must divide hidden_size=66"):
        DeciLMConfig(hidden_size=66, num_attention_heads=4)
    with pytest.raises(ValueError, match="KV heads must divide num_attention_heads=4"):
        block_config(4, 64, 3, 256)
    with pytest.raises(ValueError, match="ffn='noop'"):
        block_config(4, 64, 2, "noop")
    config = DeciLMConfig(hidden_size=64, num_attention_heads=4, block_configs=[broken("ffn", ffn_mult=6)])
    assert repr(config.block_configs[0].ffn.ffn_mult) == "6.0"


def test_ffn_widths_survive_the_format():
    assert [ffn_width(m, 8192) for m in (0.5, 1.0, 1.3125, 2.625, 3.28125, 5.25)] == [
        2816,
        5632,
        7168,
        14336,
        17920,
        28672,
    ]
    assert ffn_width(39.0, 16384) == 425984
    for hidden in (64, 96, 128, 192, 256, 320, 576, 768, 960, 1024, 1536, 2048, 3072, 4096, 5120, 8192, 16384):
        for width in range(256, 8 * hidden + 1, 256):
            assert ffn_width(ffn_mult(width, hidden), hidden) == width
    for width in (0, -256, 255, 1000):
        with pytest.raises(ValueError, match=f"width {width} "):
            ffn_mult(width, 1024)


def published_blocks(layout):
    blocks = []
    for item in layout.split():
        kind, _, count = item.partition("x")
        attention, ffn = kind.split("/")
        block = block_config(64, 64, "none" if attention == "N" else "linear", "none" if ffn == "n" else "linear")
        if attention.startswith("g"):
            block["attention"] |= {"n_heads_in_group": int(attention[1:]), "replace_with_linear": False}
        if ffn != "n":
            block["ffn"] |= {"ffn_mult": float(ffn), "replace_with_linear": False}
        blocks += [copy.deepcopy(block) for _ in range(int(count or 1))]
    return blocks


@pytest.mark.parametrize("name, layers, live", [("51B", 80, 54), ("49B", 80, 49), ("253B", 162, None)])
@torch.no_grad()
def test_published_layouts(name, layers, live):
    blocks = published_blocks(LAYOUTS[name])
    config = DeciLMConfig(
        vocab_size=VOCAB, hidden_size=128, num_attention_heads=64, block_configs=blocks, num_hidden_layers=layers
    )
    model, ids = DeciLMModel(config).eval(), tokens(batch=1, length=5)
    out = model(ids, use_cache=True)
    assert out.last_hidden_state.isfinite().all()
    assert len(out.past_key_values) == sum(b["attention"]["n_heads_in_group"] is not None for b in blocks)
    assert live is None or len(out.past_key_values) == live
