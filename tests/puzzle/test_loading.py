"""Layers read one range at a time say what the whole parent says, in every family."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, family_model
from hub_server import LocalHub
from huggingface_hub import HfApi
from transformers import AutoConfig

from hf_puzzle.formats import FormatError
from hf_puzzle.puzzle.loading import LoadingError, Shards, layer_bytes, load_layers
from hf_puzzle.puzzle.surgery import first_states, only_layers, run_layer


TOKENS = torch.randint(3, 128, (2, 20), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_ranges_are_the_parent_bit_by_bit(family, tmp_path):
    parent = family_model(family)
    parent.save_pretrained(tmp_path, max_shard_size="20KB")
    config = AutoConfig.from_pretrained(tmp_path)
    below = load_layers(tmp_path, config, 0, 0, with_embeddings=True)
    states = first_states(below, TOKENS)
    assert torch.equal(states, first_states(parent, TOKENS))
    for start, stop in ((0, 1), (1, 3)):
        part = load_layers(tmp_path, config, start, stop)
        for i in range(start, stop):
            expected = run_layer(parent, i, states)
            states = run_layer(part, i, states)
            assert torch.equal(states, expected), i
    top = load_layers(tmp_path, config, 3, 4, with_head=True)
    with only_layers(top, 3, 4, states):
        logits = top(inputs_embeds=states, use_cache=False).logits
    assert torch.equal(logits, parent(TOKENS, use_cache=False).logits)


@pytest.fixture
def saved(llama, tmp_path):
    llama.save_pretrained(tmp_path / "llama", max_shard_size="400KB")
    return tmp_path / "llama"


def test_what_is_not_loaded_says_so(llama, saved):
    part = load_layers(saved, llama.config, 1, 3)
    with pytest.raises(RuntimeError, match="loaded without the embeddings"):
        part(TOKENS)
    states = torch.zeros(1, 4, 64)
    with pytest.raises(RuntimeError, match="loaded without layer 3"), only_layers(part, 3, 4, states):
        part.get_decoder()(inputs_embeds=states)
    assert {p.device.type for p in part.parameters()} == {"cpu"}
    assert not any(p.requires_grad for p in part.parameters())


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16])
def test_dtype(llama, saved, dtype):
    part = load_layers(saved, llama.config, 0, 2, with_embeddings=True, dtype=dtype)
    assert {p.dtype for p in part.parameters()} == {torch.float32 if dtype == "auto" else dtype}
    assert part.get_decoder().rotary_emb.inv_freq.dtype == torch.float32


def test_only_what_is_named_is_read(llama, saved):
    shards = Shards(saved)
    load_layers(shards, llama.config, 1, 2)
    assert shards.bytes_read == layer_bytes(shards, [1]) + 4 * 64  # and the final norm
    files = {shards._shard_of[name] for name in shards.names if shards.layer_of(name) == 1} | {
        shards._shard_of["model.norm.weight"]
    }
    assert set(shards._files) == files


def test_one_file_without_an_index(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    assert layer_bytes(Shards(tmp_path), range(4)) == 4 * sum(
        p.numel() for layer in llama.model.layers for p in layer.parameters()
    )


FROM_HUB = """
import json, sys
from transformers import AutoConfig
from hf_puzzle.puzzle.loading import Shards, load_layers
shards = Shards("me/parent")
part = load_layers(shards, AutoConfig.from_pretrained("me/parent"), 2, 3)
print(json.dumps([sorted(shards._files), part.model.layers[2].mlp.up_proj.weight.sum().item()]))
"""


def test_from_a_hub_only_the_shards_of_the_layers_are_fetched(llama, saved, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with LocalHub() as server:
        api = HfApi(endpoint=server.endpoint, token=server.token)
        api.create_repo("me/parent")
        api.upload_folder(repo_id="me/parent", folder_path=saved)
        environment = server.environment(OMP_NUM_THREADS="1")
        run = subprocess.run(
            [sys.executable, "-c", FROM_HUB], env=environment, capture_output=True, text=True, check=True
        )
        fetched = [path.name for path in Path(environment["HF_HOME"]).rglob("*.safetensors")]
    files, total = json.loads(run.stdout)
    assert sorted(fetched) == files
    assert 0 < len(files) < len(list(saved.glob("*.safetensors")))
    assert total == llama.model.layers[2].mlp.up_proj.weight.sum().item()


@pytest.mark.parametrize("start, stop", [(-1, 2), (3, 2), (0, 5)])
def test_ranges_that_do_not_exist(llama, saved, start, stop):
    with pytest.raises(LoadingError, match="parent with 4: name a range within it"):
        load_layers(saved, llama.config, start, stop)


def test_broken_checkpoints_are_named(llama, saved):
    index = saved / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    for shard in ("../elsewhere.safetensors", "/etc/passwd", "pickle.bin", 3):
        index.write_text(json.dumps({**good, "weight_map": {**good["weight_map"], name: shard}}))
        with pytest.raises(LoadingError, match="not the name of a safetensors file"):
            Shards(saved)
    without = {k: v for k, v in good["weight_map"].items() if k != name}
    index.write_text(json.dumps({**good, "weight_map": without}))
    with pytest.raises(FormatError, match=f"missing tensors {name}"):
        load_layers(saved, llama.config, 1, 2)
    index.write_text(json.dumps({**good, "weight_map": {**good["weight_map"], name: "gone.safetensors"}}))
    with pytest.raises(LoadingError, match="gone.safetensors of its index is missing"):
        load_layers(saved, llama.config, 1, 2)
    index.write_text(json.dumps(good))
    shard = saved / good["weight_map"][name]
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(LoadingError, match=f"{shard.name} is truncated or not safetensors"):
        load_layers(saved, llama.config, 1, 2)


def test_a_folder_without_safetensors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadingError, match="holds no safetensors"):
        Shards(tmp_path)
