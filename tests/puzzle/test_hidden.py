"""A narrower residual stream: which channels stay, that nothing but the others is lost, and a run on what is left."""

import shutil

import pytest
import torch
from families import FAMILIES, HYBRIDS, family_config, family_model
from tiny_run import steady_clock, write_recipes
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.cards import write_card
from hf_puzzle.cli import main
from hf_puzzle.conversions import probe_logits
from hf_puzzle.evaluation import Rows, Targets
from hf_puzzle.hub import open_model_folder
from hf_puzzle.puzzle.assess import test_rows as rows_of
from hf_puzzle.puzzle.hidden import (
    HiddenError,
    _norms,
    channel_scores,
    check_hidden,
    correct_inputs,
    correct_norms,
    cut,
    kept_channels,
    narrowed_config,
    read_narrowed,
    residual_axes,
)
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.puzzle.plan import plan
from hf_puzzle.puzzle.refit import refit
from hf_puzzle.recipe import ChildConfig, RecipeError, load_recipe


REFUSED = {
    "gpt_neox": "a width inside its blocks follows that of the stream",
    "stablelm": "a width inside its blocks follows that of the stream",
    "lfm2": "a width inside its blocks follows that of the stream",
    "granite_hybrid": "24 is no width of this granitemoehybrid: The dimensions for the Mamba head state",
    "granite_hybrid_dense": "24 is no width of this granitemoehybrid: The dimensions for the Mamba head state",
}
CENTRED = ("starcoder2", "cohere")  # their norms take the mean of all channels off
# as `epsilon` weighs more where the mean square is small
TOLERANCE = {"olmo2": 2e-2, "ernie4_5_moe": 2e-2, "mixtral": 3e-2} | dict.fromkeys(CENTRED, 0.3)


def with_dead_channels(name: str, size: int):
    """A parent of a family with 32 channels, of which nothing writes to or reads but `size`, and which those are."""
    model = family_model(name)
    axes = residual_axes(model.config, size)
    torch.manual_seed(0)
    kept = sorted(torch.randperm(32)[:size].tolist())
    dead, norms = torch.tensor([i for i in range(32) if i not in kept]), _norms(model, axes)
    for key, tensor in model.state_dict().items():
        if key in axes and key.removesuffix(".weight") not in norms:
            tensor.index_fill_(axes[key], dead, 0)
    return model, axes, kept


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in FAMILIES | HYBRIDS if name not in REFUSED])
def test_a_parent_that_uses_no_other_channels_loses_nothing(name):
    model, axes, kept = with_dead_channels(name, 24)
    ids = torch.randint(3, 128, (8, 12))
    expected, channels = probe_logits(model), torch.tensor(kept)
    narrow, batches = cut(model, axes, kept), list(ids.split(2))
    assert narrow.config.hidden_size == 24
    assert narrow.num_parameters() < model.num_parameters()

    def error() -> float:
        return ((probe_logits(narrow) - expected).norm() / expected.norm()).item()

    before = error()
    correct_norms(narrow, model, axes, channels, batches)
    after = error()
    assert after < min(before, TOLERANCE.get(name, 2e-4))
    correct_inputs(narrow, model, axes, channels, batches)
    assert error() < TOLERANCE.get(name, 2e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_families_whose_inner_widths_follow_the_stream_are_refused_by_name(name):
    with pytest.raises(HiddenError, match=f"hidden.size: .*{REFUSED[name]}"):
        residual_axes(family_config(name), 24)


def test_a_width_that_the_config_does_not_take_is_named_with_its_neighbours():
    with pytest.raises(
        HiddenError, match=r"hidden.size: 30 is no width of this llama: .*30.*; near it, 24 and 28 would do"
    ):
        narrowed_config(family_config("llama"), 30)
    config = family_config("llama")
    assert narrowed_config(config, 32) is config
    with pytest.raises(
        HiddenError, match="hidden.size: this llama has 32 channels, not 36; take fewer, or leave it out"
    ):
        narrowed_config(config, 36)
    assert (narrowed_config(config, 24).head_dim, config.head_dim) == (8, 8)


@torch.no_grad()
def test_channels_are_ranked_by_what_norms_answer():
    model = family_model("llama")
    axes, ids = residual_axes(model.config, 24), torch.randint(3, 128, (4, 12))
    seen = []
    handles = [
        norm.register_forward_hook(lambda module, args, out: seen.append(out)) for norm in _norms(model, axes).values()
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    expected = torch.stack([out.abs().double().mean((0, 1)) for out in seen]).sum(0)
    scores = channel_scores(model, axes, list(ids.split(2)))
    assert len(seen) == 9
    assert torch.allclose(scores, expected, rtol=1e-6)
    assert kept_channels(torch.tensor([1.0, 3.0, 2.0, 3.0]), 2) == [1, 3]
    assert kept_channels(torch.tensor([1.0, 1.0, 0.5]), 2) == [0, 1]


@torch.no_grad()
def test_corrections_come_nearer_to_the_parent():
    """On text that they were not fitted to."""
    model = family_model("mistral")
    axes, channels = residual_axes(model.config, 24), torch.arange(24)
    ids = torch.randint(3, 128, (400, 12), generator=torch.Generator().manual_seed(0))
    targets, narrow = Targets(model, Rows.of(ids[320:]), 8), cut(model, axes, channels.tolist())
    found = [targets.compare(narrow).mean("kl")[0]]
    assert correct_inputs(narrow, model, axes, channels, list(ids[:320].split(16))) == 9
    found.append(targets.compare(narrow).mean("kl")[0])
    assert found[1] < found[0]


@torch.no_grad()
def test_what_writes_to_the_stream_is_refitted_to_the_channels_that_are_kept():
    model = family_model("mistral")
    axes, channels = residual_axes(model.config, 24), torch.arange(4, 28)
    ids = torch.randint(3, 128, (200, 12), generator=torch.Generator().manual_seed(0))
    narrow = cut(model, axes, channels.tolist())
    for layer in narrow.model.layers:  # a wrong scale, that least squares must find
        layer.mlp.down_proj.weight *= 0.3
        layer.self_attn.o_proj.weight *= 0.3
    done = refit(narrow, model, ids, ChildConfig(batch_size=20), kept=channels)
    assert done.kept
    assert done.accepted >= 6
    assert done.kl_after < 0.7 * done.kl_before


# -- runs


def run_of(folder, name, *more):
    changes = [a for s in ("baselines.names=[]", *more) for a in ("--set", s)]
    return main(["run", str(folder / "tiny.yaml"), "--out", str(folder / name), *changes])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The parent beside its recipe, and a run that leaves it 24 of its 32 channels."""
    folder = write_recipes(tmp_path_factory.mktemp("hidden"))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        train_parent(load_recipe(folder / "tiny_parent.yaml"), folder / "tiny_parent")
        assert (
            run_of(folder, "narrow", "hidden.size=24", "constraints={speedup: 1.4}", "baselines.names=[greedy]") == 0
        )
    return folder


def test_a_narrow_child_is_an_ordinary_folder(folder):
    run = load_run(folder / "narrow", recipe_dir=folder)
    child = run.load_child("distilled")
    assert run.config.hidden_size == child.config.hidden_size == 24
    assert child.config.head_dim == 16
    again = AutoModelForCausalLM.from_pretrained(
        folder / "narrow/distilled", trust_remote_code=True, dtype=torch.float32
    ).eval()
    assert torch.equal(probe_logits(again), probe_logits(child))
    provenance = artifacts.read_json(folder / "narrow/distilled/puzzle.json")
    assert provenance["recipe"]["hidden"]["size"] == 24
    assert provenance["parent"] == artifacts.read_json(folder / "narrow/child/puzzle.json")["parent"]
    stock = AutoModelForCausalLM.from_pretrained(folder / "narrow/parent", dtype=torch.float32).eval()
    assert torch.equal(probe_logits(stock), probe_logits(run.parent))


def test_everything_is_measured_against_the_whole_parent(folder):
    run = load_run(folder / "narrow", recipe_dir=folder)
    assert (run.teacher.config.hidden_size, run.parent.config.hidden_size) == (32, 24)
    found, evaluation = read_narrowed(folder / "narrow/hidden.json"), artifacts.read_json(folder / "narrow/eval.json")
    assert (len(found.kept), found.parent_size) == (24, 32)
    assert set(found.kl) == {"cut", "norms", "inputs", "outputs"}
    kept = [found.kl[name] for name in ("cut", *found.accepted)]
    assert kept == sorted(kept, reverse=True)
    # scores add up to the distance of a whole network from the whole parent
    own = sum(s.value for s in run.scores if s.block == run.space.parents[s.layer_idx].id)
    assert own == pytest.approx(run.judge.distance(list(run.space.parents))[0], rel=1e-3)
    memory = evaluation["memory"]
    assert memory["parent"]["num_parameters"] == run.teacher.num_parameters()
    assert memory["parent"]["weight_bytes"] == 4 * run.teacher.num_parameters()
    assert memory["child"]["num_parameters"] == run.load_child("distilled").num_parameters()
    verdict = Targets(run.teacher, rows_of(run), run.recipe.evaluate.batch_size).compare(run.load_child("distilled"))
    assert evaluation["quality"]["distilled"]["kl"] == pytest.approx(verdict.mean("kl")[0], rel=1e-4)
    assert run.chosen["measured"]["total"]["value"] >= 1.4
    parent_ms = 1.0 + run.teacher.num_parameters() / 20_000  # of the clock in these tests
    assert run.chosen["measured"]["parent_ms"] == pytest.approx(parent_ms, rel=1e-3)


def test_its_report_and_card_say_what_the_width_costs(folder, tmp_path):
    report = (folder / "narrow/report.md").read_text()
    assert "| channels of the residual stream | 32 | 24 | 75.0% |" in report
    evaluation = artifacts.read_json(folder / "narrow/eval.json")
    assert f"| {evaluation['hidden']['quality']['kl']:.4f} |" in report
    shutil.copytree(folder / "narrow/distilled", tmp_path / "staged")
    write_card(tmp_path / "staged", folder / "narrow", "me/x")
    assert "| channels of the residual stream | 32 | 24 | |" in (tmp_path / "staged/README.md").read_text()


def test_a_gguf_file_of_a_narrow_parent_reads_back_equal(folder, tmp_path):
    pytest.importorskip("gguf")
    from hf_puzzle.engines.gguf import NotExpressible, read_gguf, write_gguf

    run = load_run(folder / "narrow", recipe_dir=folder)
    path = write_gguf(folder / "narrow/parent", tmp_path / "parent.gguf", "f32", vocabulary=False)
    found = read_gguf(path, run.config, torch.float32)
    for name, tensor in run.parent.state_dict().items():
        assert torch.equal(found[name], tensor), name
    if run.fmt == "decilm":  # heads as wide as they were: its loader has no way to say that
        with pytest.raises(NotExpressible, match="head_dim 16 is not hidden_size / num_attention_heads = 24/2"):
            write_gguf(folder / "narrow/distilled", tmp_path / "child.gguf", "f32", vocabulary=False)


def test_a_graph_of_a_narrow_child_has_its_logits(folder, tmp_path):
    from hf_puzzle.engines import onnx

    for package in onnx.PACKAGES:
        pytest.importorskip(package)
    assert max(onnx.export_onnx(folder / "narrow/distilled", tmp_path / "onnx").values()) < 1e-4


def test_both_formats_hold_a_narrow_child(folder):
    """The same blocks in either format answer alike."""
    run = load_run(folder / "narrow", recipe_dir=folder)
    assert run.fmt == "decilm"
    blocks, logits = [Block.parse(text) for text in run.chosen["blocks"]], []
    for fmt in ("decilm", "per_layer"):
        child = Network(run.config, blocks, run.library, fmt).assembled(run.parent)
        child.save_pretrained(folder / fmt)
        again = open_model_folder(folder / fmt).eval()
        assert again.config.hidden_size == 24
        logits.append(probe_logits(again))
        assert torch.equal(logits[-1], probe_logits(child))
    assert torch.allclose(*logits, atol=1e-5)


def test_all_channels_are_the_same_run(folder, monkeypatch):
    steady_clock(monkeypatch)
    assert run_of(folder, "plain") == 0
    assert run_of(folder, "all", "hidden.size=32") == 0
    for name in ("child", "distilled"):
        one, two = (artifacts.read_tensors(folder / f"{run}/{name}/model.safetensors") for run in ("plain", "all"))
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())


def test_both_outer_axes_at_once(folder, monkeypatch):
    steady_clock(monkeypatch)
    assert run_of(folder, "both", "hidden.size=24", "vocabulary.size=280", "hidden.refit=false") == 0
    run = load_run(folder / "both", recipe_dir=folder)
    assert (run.config.hidden_size, run.config.vocab_size) == (24, 280)
    assert (run.teacher.config.hidden_size, run.teacher.config.vocab_size) == (32, 280)
    assert set(read_narrowed(folder / "both/hidden.json").kl) == {"cut"}
    evaluation = artifacts.read_json(folder / "both/eval.json")
    assert evaluation["vocabulary"]["size"] == 280
    assert evaluation["hidden"]["size"] == 24
    assert evaluation["memory"]["parent"]["num_parameters"] == run.source.original.num_parameters()


def test_plans_know_the_width_before_it_is_made(folder):
    def made(*changes, **more):
        return plan(load_recipe(folder / "tiny.yaml", list(changes)), folder, "l4", **more)

    whole, narrow = made(), made("hidden.size=24")
    assert narrow.stages[0].stage == "parent"
    assert narrow.parent_parameters == load_run(folder / "narrow", recipe_dir=folder).parent.num_parameters()
    assert narrow.parent_parameters < whole.parent_parameters
    (score,) = (stage for stage in narrow.stages if stage.stage == "score")
    assert score.memory["teacher"] == 4 * whole.parent_parameters
    named = made("hidden.size=512", "constraints={speedup: 2.0}", parent="qwen3-0.6b")
    assert named.parent_parameters < made("constraints={speedup: 2.0}", parent="qwen3-0.6b").parent_parameters


@pytest.mark.parametrize(
    "changes, message",
    [
        (["data={name: self}"], "not by decisions or chats"),
        (["distill.fsdp=true"], "leave parent.device_map and distill.fsdp out"),
        (["evaluate.gguf=[q8_0]"], "evaluate.gguf: q8_0 keeps rows in blocks of 32 weights, and hidden.size 24 is no multiple"),
        (["cost.gguf_type=q4_k_m"], "cost.gguf_type: q4_k_m keeps rows in blocks of 256 weights.* take 256"),
        (["deploy=[llama.cpp]", "search_space.weight_bits=[16, 8]"], "search_space.weight_bits: q8_0 keeps rows in blocks of 32"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it_is_refused_by_name(folder, changes, message):
    recipe = load_recipe(folder / "tiny.yaml", ["hidden.size=24", *changes])
    with pytest.raises(RecipeError, match=message):
        check_hidden(recipe, PuzzleRun(recipe, folder / "none", folder).source.original_config, False)


def test_what_the_run_makes_itself_and_what_is_in_memory_is_refused(folder, tmp_path, llama):
    recipe = load_recipe(folder / "tiny.yaml", ["hidden.size=24"])
    with pytest.raises(RecipeError, match="a parent in memory keeps its width"):
        check_hidden(recipe, llama.config, True)
    with pytest.raises(RecipeError, match="hidden.size: the run makes this parent itself"):
        PuzzleRun(recipe, tmp_path / "run", write_recipes(tmp_path))


@pytest.mark.parametrize(
    "change, key",
    [
        ("deploy=[llama.cpp]", "deploy: llama.cpp"),
        ("deploy=[portable]", "deploy: portable"),
        ("cost.engine=llama.cpp", "cost.engine: llama.cpp"),
        ("evaluate.gguf=[f16]", "evaluate.gguf: llama.cpp"),
    ],
)
def test_engines_that_take_the_size_of_heads_from_the_stream_are_refused(folder, tmp_path, change, key):
    recipe = load_recipe(folder / "tiny.yaml", ["hidden.size=24", change])
    with pytest.raises(RecipeError, match=f"{key} .* head_dim 16 must be hidden_size / num_attention_heads"):
        PuzzleRun(recipe, tmp_path / "run", folder).check_recipe()
