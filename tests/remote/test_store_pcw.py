"""The window store: what is loaded is what was saved, and nothing else is accepted."""

import json

import pytest
import torch
from pcw_models import byte_level, sentencepiece, tiny_llama
from transformers import MptConfig, MptForCausalLM

from hf_puzzle.remote import store_pcw
from hf_puzzle.remote.generation_pcw import PCWError, encode_windows, task_logits
from hf_puzzle.remote.store_pcw import load_windows, model_hash, save_windows, tokenizer_hash


WINDOWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


@pytest.fixture
def model():
    return tiny_llama(byte_level())


@pytest.fixture
def encoded(model):
    return encode_windows(model, WINDOWS, [1])


def test_what_is_loaded_is_what_was_saved(model, encoded, tmp_path):
    store = save_windows(tmp_path / "deep" / "store", encoded, model, byte_level())
    assert sorted(path.name for path in store.iterdir()) == ["windows.json", "windows.safetensors"]
    loaded = load_windows(store, model, byte_level(), prefix=[1])
    assert (loaded.prefix, loaded.windows, loaded.alignment) == (encoded.prefix, encoded.windows, encoded.alignment)
    for name in ("keys", "values"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(loaded, name), getattr(encoded, name), strict=True))
    assert torch.equal(task_logits(model, loaded, [[3, 4]])[0], task_logits(model, encoded, [[3, 4]])[0])


@pytest.mark.parametrize("bits, share", [(8, 0.32), (4, 0.2)])
def test_few_bits_take_less_room_and_stay_within_half_a_step(tmp_path, bits, share):
    model = tiny_llama(byte_level(), positions=512, hidden_size=256)
    encoded = encode_windows(model, [list(range(3, 203)), list(range(7, 90))], [1])
    folder = save_windows(tmp_path, encoded, model, bits=bits)
    assert (folder / "windows.safetensors").stat().st_size < share * encoded.num_bytes
    assert json.loads((folder / "windows.json").read_text())["bits"] == bits
    loaded = load_windows(folder, model)
    for name, along in store_pcw.GROUPED_ALONG.items():
        for new, old in zip(getattr(loaded, name), getattr(encoded, name), strict=True):
            assert new.shape == old.shape
            first = [each.movedim(along, -1)[..., : store_pcw.GROUP] for each in (new, old)]  # one group of each row
            least, most = first[1].aminmax(dim=-1, keepdim=True)
            # half a step, and what half precision rounds of it and of the least value
            assert ((first[0] - first[1]).abs() <= 0.51 * (most - least) / (2**bits - 1) + 2e-3 * least.abs()).all()
    logits = [task_logits(model, each, [[3, 4]])[0] for each in (loaded, encoded)]
    assert 0 < (logits[0] - logits[1]).abs().max() < (0.2 if bits == 8 else 3)
    # once rounded, rounding again changes next to nothing
    again = load_windows(save_windows(tmp_path / "again", loaded, model, bits=bits), model)
    assert torch.allclose(again.keys[0], loaded.keys[0], atol=1e-2)


def test_other_bits_are_refused(model, encoded, tmp_path):
    with pytest.raises(PCWError, match="bits is 3: expected one of 4, 8, or None"):
        save_windows(tmp_path, encoded, model, bits=3)
    state = store_pcw.pack_state(encoded.state_dict(), 8)
    state["keys.0.packed"][0] = 2
    with pytest.raises(PCWError, match="keys.0 has values of 2 bits"):
        store_pcw.unpack_state(state)


def test_windows_change_in_a_loaded_store(model, encoded, tmp_path):
    save_windows(tmp_path, encoded, model)
    changed = load_windows(tmp_path, model).replace(model, 1, [20, 21, 22]).add(model, [30]).remove(0)
    save_windows(tmp_path, changed, model)
    fresh = encode_windows(model, [[20, 21, 22], [11, 12, 13], [30]], [1])
    loaded = load_windows(tmp_path, model)
    assert loaded.windows == fresh.windows
    assert torch.allclose(task_logits(model, loaded, [[3, 4]])[0], task_logits(model, fresh, [[3, 4]])[0], atol=1e-6)


def test_windows_of_another_adapter_are_neither_saved_nor_loaded(model, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config, adapter_name="one")
    wrapped.add_adapter("two", config)
    encoded = encode_windows(model, WINDOWS, [1])
    save_windows(tmp_path, encoded, model)
    load_windows(tmp_path, model)
    wrapped.set_adapter("two")
    with pytest.raises(PCWError, match="encode them again"):
        save_windows(tmp_path / "other", encoded, model)
    with pytest.raises(PCWError, match="another model"):
        load_windows(tmp_path, model)


def test_a_loaded_model_has_the_hash_of_the_saved_one(tmp_path):
    sizes = {"vocab_size": 128, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}
    model = MptForCausalLM(MptConfig(**sizes))  # whose nested config learns its dtype when it is loaded
    model.save_pretrained(tmp_path)
    assert model_hash(MptForCausalLM.from_pretrained(tmp_path)) == model_hash(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    model = tiny_llama(byte_level()).to(dtype)
    encoded = encode_windows(model, WINDOWS, [1])
    loaded = load_windows(save_windows(tmp_path, encoded, model), model)
    assert loaded.keys[0].dtype == dtype
    assert torch.equal(loaded.keys[1], encoded.keys[1])


def test_stores_of_other_models_tokenizers_and_prefixes_are_refused(model, encoded, tmp_path):
    save_windows(tmp_path, encoded, model, byte_level())
    with pytest.raises(PCWError, match="another model"):
        load_windows(tmp_path, tiny_llama(byte_level(), seed=1))
    with pytest.raises(PCWError, match="another model"):
        load_windows(tmp_path, tiny_llama(byte_level(), rope_parameters={"rope_type": "default", "rope_theta": 5e5}))
    with pytest.raises(PCWError, match="another tokenizer"):
        load_windows(tmp_path, model, sentencepiece())
    with pytest.raises(PCWError, match="another prefix"):
        load_windows(tmp_path, model, prefix=[1, 2])
    model.lm_head.weight.data += 0.1
    with pytest.raises(PCWError, match="another model"):
        load_windows(tmp_path, model)


def test_hashes_do_not_depend_on_where_a_model_came_from(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    again.config.custom_pipelines = {"pcw-classification": {}}
    assert model_hash(again) == model_hash(model)
    assert tokenizer_hash(byte_level()) != tokenizer_hash(byte_level(bos=False))


def test_broken_stores_are_refused(model, encoded, tmp_path):
    with pytest.raises(PCWError, match="holds no window store: windows.json is missing"):
        load_windows(tmp_path, model)
    save_windows(tmp_path, encoded, model)
    header = (tmp_path / "windows.json").read_text()
    save_windows(tmp_path, encoded, model)
    (tmp_path / "windows.json").write_text(header)
    with pytest.raises(PCWError, match="half written"):
        load_windows(tmp_path, model)
    (tmp_path / "windows.json").write_text(json.dumps({**json.loads(header), "pcw_store_version": 7}))
    with pytest.raises(PCWError, match="version 7: this code reads 2"):
        load_windows(tmp_path, model)
    (tmp_path / "windows.json").write_text(header[:20])
    with pytest.raises(PCWError, match="broken window store"):
        load_windows(tmp_path, model)
    (tmp_path / "windows.json").write_text(header)
    tensors = (tmp_path / "windows.safetensors").read_bytes()
    (tmp_path / "windows.safetensors").write_bytes(tensors[:100])
    with pytest.raises(PCWError, match="broken window store"):
        load_windows(tmp_path, model)


def test_a_failed_save_leaves_the_old_store(model, encoded, tmp_path, monkeypatch):
    save_windows(tmp_path, encoded, model)

    def fail(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(store_pcw, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_windows(tmp_path, encoded, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["windows.json", "windows.safetensors"]
    assert load_windows(tmp_path, model).windows == encoded.windows
