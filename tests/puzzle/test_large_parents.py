"""A parent that is never whole in memory: the run through the command line, against the ordinary one."""

import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_puzzle import artifacts, hub
from hf_puzzle.cli import main
from hf_puzzle.data import train_tokenizer
from hf_puzzle.puzzle.pipeline import load_run
from hf_puzzle.recipe import DataConfig


RECIPE = {
    "search_space": {"attention": [1, "linear"], "ffn": [256]},
    "importance": {"num_tokens": 256},
    "library": {"num_tokens": 256, "batch_size": 4, "eval_tokens": 64, "ridge_tokens": 256, "evals": 2, "layers_per_job": 2},
    "score": {"num_tokens": 96},
    "cost": {
        "batch_sizes": [2], "prefill_tokens": 8, "decode_tokens": 4, "dtype": "float32", "clock": "cpu", "threads": 1,
        "rounds": 2, "stack_layers": 2, "calibration_children": 3,
    },
    "constraints": {"num_parameters": 800_000},
    "solve": {"num_solutions": 1, "measure_rounds": 3, "time_limit_s": 20, "rescore_rounds": 0},
    "child": {"refit": False},
    "distill": {"num_tokens": 512, "batch_size": 4, "learning_rate": 1.0e-3},
}  # fmt: skip
OFFLOADED = {
    "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu",
    "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk", "model.layers.3": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(make_parent, tmp_path_factory):
    """Corpus, parent in several shards, and recipes: `whole`, and `parts`, which never holds the parent."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "text.txt").write_text("words of one, two and three " * 400)
    for i in range(8):
        (folder / f"text{i}.txt").write_text(f"text {i} says " + " ".join(f"{i * j}" for j in range(600)))
    data = {
        "name": "text", "data_files": [str(folder / "*.txt")], "sequence_length": 16, "num_tokens": 6000,
        "heldout_tokens": 900, "heldout_fraction": 0.4,
    }  # fmt: skip
    make_parent("llama").save_pretrained(folder / "parent", max_shard_size="400KB")
    train_tokenizer(DataConfig(**data), 256).save_pretrained(folder / "parent")
    recipe = {"parent": {"name": "parent", "dtype": "float32"}, "data": data, **RECIPE}
    (folder / "whole.yaml").write_text(yaml.safe_dump(recipe))
    recipe["parent"]["device_map"] = OFFLOADED
    recipe["library"] = {**recipe["library"], "states": "streamed", "lookahead": 3}
    recipe["distill"] = {**recipe["distill"], "fsdp": True, "batch_size": 2}
    (folder / "parts.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def tensors_of(path):
    return {name: t for file in path.glob("*.safetensors") for name, t in load_file(file).items()}


def test_run_of_a_parent_in_parts_is_the_run_of_the_whole(folder, capfd):
    for name in ("whole", "parts"):
        for stage in ("data", "importance", "library", "score"):
            assert main(["run", f"{folder}/{name}.yaml", "--out", f"{folder}/{name}", "--only", stage]) == 0
    whole, parts = folder / "whole", folder / "parts"
    blocks = sorted(path.relative_to(whole) for path in (whole / "library").rglob("*.safetensors"))
    assert len(blocks) == 12
    for path in blocks:
        first, second = load_file(whole / path), load_file(parts / path)
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), path
    assert (whole / "scores.jsonl").read_text() == (parts / "scores.jsonl").read_text()
    for stage in ("cost", "solve", "child", "distill"):  # costs are measured: the search runs once
        assert main(["run", f"{folder}/whole.yaml", "--out", f"{folder}/whole", "--only", stage]) == 0
    for name in ("costs.json", "solutions.json"):
        (parts / name).write_bytes((whole / name).read_bytes())
    _take_over(parts, ("cost", "solve"), folder)
    assert main(["run", f"{folder}/parts.yaml", "--out", str(parts), "--only", "child"]) == 0
    assert all(torch.equal(t, tensors_of(parts / "child")[name]) for name, t in tensors_of(whole / "child").items())
    capfd.readouterr()
    assert main(["run", f"{folder}/parts.yaml", "--out", str(parts), "--only", "distill"]) == 2
    assert "torchrun --nproc-per-node" in capfd.readouterr().err
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "hf_puzzle.cli",
    ]
    done = subprocess.run(
        [*command, "run", f"{folder}/parts.yaml", "--out", str(parts), "--only", "distill"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (tensors_of(path / "distilled") for path in (whole, parts))
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-4, msg=name)
    assert (parts / "distilled" / "tokenizer.json").exists()
    assert hub.open_model_folder(parts / "distilled").generation_config is not None


def _take_over(parts, stages, folder):
    """Mark stages whose outputs were copied as finished; their inputs differ only by where the parent lies."""
    run, manifest = load_run(parts, recipe_dir=folder), artifacts.Manifest(parts)
    inputs = {}
    for stage in run.stages():
        inputs[stage.name] = artifacts.fingerprint(stage.settings, [inputs[need] for need in stage.needs])
        if stage.name in stages:
            manifest.begin(stage.name, inputs[stage.name], [])
            manifest.finish(stage.name, 0.0, [parts / name for name in stage.outputs])


@pytest.mark.parametrize(
    "change, message",
    [
        ("child.refit=true", "parent.device_map: the refit needs"),
        ("library.states=resident", "parent.device_map: BLD then reads"),
        ("distill.fsdp=false", "parent.device_map: GKD needs the parent on one device"),
        ("baselines={names: [greedy], num_tokens: [64]}", "baselines.num_tokens [64]: GKD of baselines needs"),
        ("distill.optimizer=muon", "distill.optimizer: muon needs whole matrices"),
        ("distill.lora={r: 2}", "distill.lora: adapters are not sharded"),
    ],
)
def test_what_does_not_go_together_is_one_line(folder, capfd, change, message):
    assert main(["run", f"{folder}/parts.yaml", "--out", f"{folder}/wrong", "--set", change]) == 2
    assert message in capfd.readouterr().err
    assert not (folder / "wrong" / "tokens.safetensors").exists()
