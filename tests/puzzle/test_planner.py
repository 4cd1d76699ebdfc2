"""Plans of runs: against the machine where it is quick, against arithmetic elsewhere."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from families import HYBRIDS, family_config, family_model
from tiny_run import HYBRID_PARENTS, HYBRID_SPACES, write_recipes
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

from hf_puzzle.cli import main
from hf_puzzle.costs import Workload
from hf_puzzle.formats import parent_block
from hf_puzzle.puzzle import machines, published
from hf_puzzle.puzzle.machines import MACHINES, find_machine
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.puzzle.plan import plan
from hf_puzzle.puzzle.published import parent_config, predictions
from hf_puzzle.puzzle.surgery import layers_of
from hf_puzzle.puzzle.timing import Clock, Measured, Shapes
from hf_puzzle.recipe import RecipeError, load_recipe


ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes/puzzle"
TINY = RECIPES / "tiny_cpu.yaml"


@pytest.fixture(scope="module")
def tiny():
    return load_recipe(TINY)


def stages(made):
    return {stage.stage: stage for stage in made.stages}


# -- sizes


@pytest.mark.parametrize(
    "name, billions",
    [
        ("llama-1b", 1.2358),
        ("llama-8b", 8.0303),
        ("llama-70b", 70.5537),
        ("llama-405b", 405.8534),
        ("qwen3-0.6b", 0.5960),
    ],
)
def test_shapes_have_the_published_number_of_parameters(name, billions):
    assert Shapes(parent_config(name)).parameters / 1e9 == pytest.approx(billions, abs=1e-4)


@pytest.mark.parametrize("name, billions", [("51B", 51.5010), ("49B", 49.8671), ("253B", 253.4013)])
def test_published_children_have_the_published_number_of_parameters(name, billions):
    shapes = Shapes(parent_config(published.PARENT_OF[name]))
    kinds = ("attention", "ffn")
    blocks = published.layout(name, shapes)
    total = shapes.ends + sum(shapes.weights(kind, v) for b in blocks for kind, v in zip(kinds, b, strict=True))
    assert total / 1e9 == pytest.approx(billions, abs=1e-4)


def test_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    config = parent_config("llama-1b")
    config.num_hidden_layers, config.vocab_size, config._attn_implementation = 1, 512, "eager"
    config.hidden_size, config.intermediate_size, config.head_dim, config.num_attention_heads = 64, 256, 8, 8
    shapes, own = Shapes(config), parent_block(config)
    model = LlamaForCausalLM(config)
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=torch.zeros(2, 32, dtype=torch.long), use_cache=False).logits.sum().backward()
    ours = sum(shapes.flops(kind, getattr(own, kind), 2, 32, "whole") for kind in ("attention", "ffn"))
    attention = shapes.part("attention", own.attention)
    masked = 3 * 2 * 32 * 4 * attention.heads * 16  # eager computes the half that the mask hides, too
    head = 3 * 2 * 2 * 32 * 64 * 512
    rotary = counter.get_total_flops() - (ours + masked + head)
    assert abs(rotary) < 0.005 * ours


def test_kv_bound_decoding_takes_bytes_over_bandwidth():
    config, machine = parent_config("llama-8b"), dataclasses.replace(MACHINES["h200"], op_seconds=0.0)
    clock = Clock(machine, Shapes(config), "bfloat16", "bfloat16")
    cached = 2 * 8 * 128 * 2 * 100_000
    matrices = 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    seconds = clock.decode("attention", 8, 1, 100_000)
    assert seconds == pytest.approx((cached + matrices + 12 * 4096 * 2) / machine.memory_bandwidth)
    slow = dataclasses.replace(machine, memory_bandwidth=machine.memory_bandwidth / 2)
    half = Clock(slow, Shapes(config), "bfloat16", "bfloat16")
    workload = Workload(1, 8, 128)
    assert half.generation("ffn", 14336, workload).decode_ms == pytest.approx(2 * clock.generation("ffn", 14336, workload).decode_ms)  # fmt: skip


# -- the graph is the run's own


@pytest.mark.parametrize("workers", [1, 3])
def test_stages_and_tasks_are_those_of_the_run(tiny, workers, tmp_path):
    run = PuzzleRun(tiny, tmp_path, RECIPES)
    made = plan(tiny, RECIPES, "l4", workers)
    assert [(s.stage, s.needs) for s in made.stages] == [(s.name, s.needs) for s in run.stages()]
    assert stages(made)["library"].tasks == len(run.library_tasks(workers)) == workers
    assert not Path("plan-of-no-run").exists()


def test_a_pipeline_is_planned_like_its_jobs_alone(tiny):
    piped = plan(load_recipe(TINY, ["library.states=pipeline", "library.layers_per_job=2"]), RECIPES, "l4", 4)
    alone = plan(load_recipe(TINY, ["library.layers_per_job=2"]), RECIPES, "l4", 4)
    assert stages(piped)["library"].tasks == stages(alone)["library"].tasks > 1
    assert stages(piped)["library"].disk_bytes == stages(alone)["library"].disk_bytes


def test_workers_share_the_tasks(tiny):
    one, four = (stages(plan(tiny, RECIPES, "l4", workers)) for workers in (1, 4))
    assert one["score"].seconds / 4 < four["score"].seconds < one["score"].seconds
    assert four["importance"].seconds == one["importance"].seconds
    assert four["library"].memory["students"] < one["library"].memory["students"]


def test_what_is_asked_for_costs_what_it_should(tiny):
    base = stages(plan(tiny, RECIPES, "l4"))

    def changed(*overrides):
        return stages(plan(load_recipe(TINY, overrides), RECIPES, "l4"))

    twice, more = (changed(f"library.num_tokens={n}") for n in (204_800, 307_200))
    one = changed("library.num_tokens=102_400")["library"].seconds
    assert more["library"].seconds - one == pytest.approx(2 * (twice["library"].seconds - one))
    accumulated = changed("library.num_tokens=102_400", "library.args={gradient_accumulation_steps: 4}")["library"]
    assert accumulated.seconds < one  # the same tokens in a quarter of the optimizer's steps
    assert more["library"].memory == base["library"].memory
    assert changed("library.layers_per_job=2")["library"].memory["students"] < 0.3 * base["library"].memory["students"]
    assert changed("library.layers_per_job=2")["library"].disk_bytes < 0.5 * base["library"].disk_bytes
    assert changed("constraints.speedup=4.0")["distill"].memory["optimizer"] < base["distill"].memory["optimizer"]
    wider = changed("score.batch_size=32")["score"].memory
    assert wider["activations"] == 2 * base["score"].memory["activations"]
    assert wider["logits"] == base["score"].memory["logits"]  # of a chunk, whatever the batch
    assert changed("distill.args={optim: adafactor}", "distill.optimizer=adamw")["distill"].memory["optimizer"] == 0
    plain, checkpointed = (
        changed(f"distill.args={{bf16: true, gradient_checkpointing: {on}}}")["distill"] for on in ("false", "true")
    )
    assert checkpointed.memory["activations"] < plain.memory["activations"]
    assert checkpointed.seconds > plain.seconds
    assert changed("distill.lora={r: 4}")["distill"].memory["optimizer"] < 0.2 * base["distill"].memory["optimizer"]


def test_a_machine_that_is_too_small_says_what_helps(tmp_path):
    (tmp_path / "toy.yaml").write_text(
        "flops: {float32: 1e12}\nmemory_bandwidth: 1.0e11\nmemory_gb: 0.6\ndisk_gb: 0.01\n"
    )
    made = plan(load_recipe(TINY), RECIPES, str(tmp_path / "toy.yaml"))
    assert any(line.startswith("library does not fit") and "library.layers_per_job" in line for line in made.problems)
    assert any(line.startswith("disk:") for line in made.problems)
    assert not plan(load_recipe(TINY), RECIPES, "h200").problems


@pytest.mark.parametrize(
    "recipe, parent, machine",
    [
        ("llama_3.2_1b", "llama-1b", "rtx4090"),
        ("qwen3_0.6b", "qwen3-0.6b", "rtx4090"),
        ("llama_3.1_8b", "llama-8b", "h100-80gb"),
        ("llama_3.1_8b", "llama-8b", "a100-80gb"),
    ],
)
def test_a_shipped_recipe_fits_its_card_in_every_stage(recipe, parent, machine):
    made = plan(load_recipe(RECIPES / f"{recipe}.yaml"), RECIPES, machine, parent=parent)
    assert made.problems == []


def test_sharding_cuts_what_a_device_holds(tmp_path):
    (tmp_path / "two.yaml").write_text(
        "flops: {bfloat16: 1e14}\nmemory_bandwidth: 1e12\nmemory_gb: 80\ncount: 2\nlink_bandwidth: 1e11\n"
    )
    adamw = "distill.optimizer=adamw"
    whole, cut = (
        stages(plan(load_recipe(TINY, [adamw, *more]), RECIPES, str(tmp_path / "two.yaml")))["distill"]
        for more in ((), ["distill.fsdp=true"])
    )
    for part in ("parent", "child", "gradients", "optimizer"):
        assert cut.memory[part] == whole.memory[part] / 2
    assert cut.memory["activations"] == whole.memory["activations"]
    assert cut.seconds < whole.seconds
    sharded = load_recipe(TINY, [adamw, "distill.fsdp=true", "baselines.num_tokens=[1_000_000]", "child.refit=false"])
    alone = stages(plan(sharded, RECIPES, str(tmp_path / "two.yaml")))["baselines"]  # in one process each
    assert alone.memory["child"] == whole.memory["child"]
    streamed = ["library.states=streamed", "library.layers_per_job=2"]
    spread = load_recipe(TINY, ["parent.device_map=auto", "child.refit=false", "distill.fsdp=true", adamw, *streamed])
    spread = stages(plan(spread, RECIPES, str(tmp_path / "two.yaml")))
    assert spread["score"].memory["parent"] == whole.memory["parent"] / 2
    assert spread["library"].memory["parent"] < 0.45 * whole.memory["parent"]


def test_a_parent_that_the_run_makes_is_planned(tmp_path):
    recipe = load_recipe(write_recipes(tmp_path) / "tiny.yaml")
    made = plan(recipe, tmp_path, "l4")
    assert made.stages[0].stage == "parent"
    assert made.stages[0].seconds > 0
    assert made.stages[1].needs == ("parent",)
    assert made.parent_parameters < 300_000


def test_a_family_of_other_shapes_is_planned(tiny, tmp_path):
    Qwen3Config(
        hidden_size=64, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, head_dim=32,
    ).save_pretrained(tmp_path / "parent")  # fmt: skip
    recipe = load_recipe(TINY, ["parent={name: parent, dtype: float32}", "search_space.attention=[1, none]"])
    made = plan(recipe, tmp_path, "l4")
    assert all(stage.seconds > 0 or stage.stage == "baseline_speeds" for stage in made.stages)


# -- this machine


def test_pieces_run_here(tiny):
    config = PuzzleRun(tiny, "none", RECIPES).config
    clock = Measured(Shapes(config), "float32", "float32", torch.device("cpu"))
    clock.MAX_FLOPS = 1e7  # scaled from fewer tokens
    few = clock.part("ffn", 512, 1, 16)
    assert 2 < clock.part("ffn", 512, 64, 16) / few < 640
    assert clock.part("ffn", "none", 8, 128) == 0
    for seconds in (
        clock.part("attention", 4, 1, 16, "whole"), clock.part("attention", "linear", 1, 16, "local"),
        clock.frame(1, 16, "whole"), clock.parent(1, 16, logits=True), clock.divergence(1, 16), clock.judge(2, 16),
        clock.rank(1, 16, 64), clock.global_loss(1, 16, 8), clock.cosine(1, 16), clock.adamw(100), clock.muon((8, 16)),
        clock.gram(16, 8, 32), clock.solve(16, 8), clock.decode(None, "", 1, 4), clock.init(1e6), clock.store(1e6),
        clock.open(1e6), clock.generation(None, "", Workload(1, 4, 4)).total_ms,
    ):  # fmt: skip
        assert 0 < seconds < 10
    assert clock.decode("attention", 8, 4, 64) >= 0


def test_a_parent_too_large_to_time_here_is_refused(tiny):
    with pytest.raises(RecipeError, match="name a machine"):
        plan(tiny, RECIPES, "this", parent="llama-8b")


# -- published children


def test_predicted_speed_ups_are_of_the_reported_size():
    rows = predictions()
    assert {row["child"] for row in rows} == set(published.LAYOUTS)
    for row in rows:
        assert row["predicted"] > 1
        assert abs(row["error"]) < 0.5, row


# -- wrong inputs


@pytest.mark.parametrize(
    "text, message",
    [
        ("flops: 3\nmemory_bandwidth: 1.0\nmemory_gb: 1.0", "flops: expected a mapping"),
        ("memory_bandwith: 1.0", "did you mean 'memory_bandwidth'"),
        ("flops: {float32: 1.0}\nmemory_bandwidth: -1.0\nmemory_gb: 1.0", "memory_bandwidth is -1.0"),
        ("flops: {int3: 1.0}\nmemory_bandwidth: 1.0\nmemory_gb: 1.0", "flops has int3"),
        ("flops: {}\nmemory_bandwidth: 1.0\nmemory_gb: 1.0", "flops has nothing"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_machine_files_are_read_strictly(text, message, tmp_path):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        find_machine(str(tmp_path / "m.yaml"))


def test_every_machine_of_the_table_has_every_dtype():
    for name, machine in MACHINES.items():
        assert machine.name == name
        assert set(machine.flops) == {"float32", "bfloat16", "float16", "float8"}
    assert find_machine(machines.THIS) is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--machine", "h10-80gb"], "did you mean 'h100-80gb'"),
        (["--machine", "nothing.yaml"], "cannot read machine"),
        (["--machine", "l4", "--parent", "llama-7b"], "did you mean"),
        (["--machine", "l4", "--workers", "0"], "at least 1"),
        (["--machine", "l4", "--set", "library.batchsize=3"], "did you mean 'batch_size'"),
        (["--machine", "l4", "--set", "constraints.memory_gb=0.0001"], "impossible"),
        (["--machine", "l4", "--set", "parent={name: nobody/nothing}"], "--parent llama-1b"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["plan", str(TINY), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_command_prints_a_table_and_json(capsys):
    assert main(["plan", str(TINY), "--machine", "h200", "--workers", "2"]) == 0
    assert "library" in capsys.readouterr().out
    assert main(["plan", str(RECIPES / "llama_3.1_8b.yaml"), "--machine", "l4", "--parent", "llama-8b", "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert made["memory_bytes"] > made["machine"]["memory_gb"] * 1e9
    assert made["problems"]
    assert main(["plan", "--published"]) == 0
    assert "253B" in capsys.readouterr().out
    assert main(["plan"]) == 2


def test_seventy_billion_parameters_are_planned_without_their_memory():
    program = (
        "import resource, sys; from hf_puzzle.cli import main; main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = ["plan", str(RECIPES / "llama_3.1_8b.yaml"), "--machine", "h200", "--parent", "llama-70b", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert int(done.stdout.strip().splitlines()[-1]) * 1024 < 2e9


def test_a_menu_without_narrower_ffns_has_a_plan(tmp_path):
    folder = write_recipes(tmp_path)
    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "narrow")
    recipe = load_recipe(folder / "tiny.yaml", ["parent.name=narrow", "parent.recipe=null"])
    assert plan(recipe, folder).stages


# -- mixtures and hybrids


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", *HYBRIDS])
def test_plans_know_the_layers_of_mixtures_and_hybrids(name):
    config = family_config(name)
    shapes, model = Shapes(config), family_model(name)
    assert shapes.parameters == model.num_parameters()
    beside = (
        sum(  # Granite's FFN beside the experts, and the norm of both
            p.numel()
            for layer in layers_of(model)
            if getattr(layer, "block_sparse_moe", None) is not None
            for n, p in layer.named_parameters()
            if n.startswith(("shared_mlp", "post_attention_layernorm"))
        )
        if name == "granite_hybrid"
        else 0
    )
    counted = sum(shapes.weights(kind, getattr(own, kind)) for own in shapes.own for kind in ("attention", "ffn"))
    assert shapes.ends + counted + beside == shapes.parameters
    clock = Clock(MACHINES["l4"], shapes, "float32", "float32")
    assert clock.parent(2, 16) == pytest.approx(
        clock.ends(2, 16) + sum(clock.layer(own, 2, 16) for own in shapes.own), rel=1e-9
    )
    for own in set(shapes.own):
        assert all(
            clock.decode(kind, getattr(own, kind), 1, 64) > 0
            for kind in ("attention", "ffn")
            if getattr(own, kind) != "none"
        )


def test_a_token_passes_its_experts_and_a_batch_reads_nearly_all_of_them():
    part = Shapes(family_config("qwen3_moe")).part("ffn", "e4")
    router, expert = 4 * 32, 3 * 32 * 32
    assert part.matrices == router + 2 * expert
    assert part.read(1) == pytest.approx(part.matrices)
    assert part.read(64) == pytest.approx(router + 4 * expert, rel=1e-6)
    assert Shapes(family_config("qwen3_moe")).part("ffn", "e4top1").matrices == router + expert


def test_a_recurrent_layer_keeps_as_much_of_a_long_sequence_as_of_a_short_one():
    shapes = Shapes(family_config("qwen3_5"))
    assert shapes.kept_bytes("recurrent", 64, "float32") == shapes.kept_bytes("recurrent", 8_192, "float32") > 0
    assert shapes.kept_bytes(4, 8_192, "float32") == 128 * shapes.kept_bytes(4, 64, "float32")


@pytest.mark.parametrize("name", ["qwen3_5_text", "glm4_moe"])
@pytest.mark.parametrize("machine", ["this", "l4"])
def test_hf_puzzle_plan_covers_a_mixture_and_a_hybrid(name, machine, tmp_path, capsys):
    folder = write_recipes(tmp_path)
    parent = yaml.safe_load((folder / "tiny_parent.yaml").read_text()) | {
        "model_type": name,
        "config": HYBRID_PARENTS[name],
    }
    (folder / "tiny_parent.yaml").write_text(yaml.safe_dump(parent))
    recipe = yaml.safe_load((folder / "tiny.yaml").read_text()) | {"search_space": HYBRID_SPACES[name]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["plan", str(folder / "tiny.yaml"), "--machine", machine]) == 0
    assert "library" in capsys.readouterr().out


def test_a_parent_that_is_trained_further_has_its_starts_shapes(tiny):
    made = plan(load_recipe(RECIPES / "tiny_decisions.yaml"), RECIPES, "l4")
    assert made.parent_parameters == plan(tiny, RECIPES, "l4").parent_parameters
    assert stages(made)["parent"].seconds > 0
