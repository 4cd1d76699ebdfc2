"""Scores against whole forward passes: reusing prefixes must not be visible."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.data import TokenStream
from hf_puzzle.evaluation import ClozeTask, kl_divergence
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.scoring import (
    distance,
    even_ranges,
    make_metric,
    merge_scores,
    run_score_task,
    score_blocks,
    score_tasks,
    stored_values,
)
from hf_puzzle.puzzle.surgery import swapped
from hf_puzzle.recipe import ScoreConfig


CONFIG = ScoreConfig(num_tokens=96, batch_size=4)
INCUMBENT = [Block(2, 768), Block(4, 512), Block("none", 768), Block(4, "linear")]


@pytest.fixture(scope="module")
def metric(tokens, sequence_length):
    return make_metric(CONFIG, tokens["validation"], sequence_length, seed=0)


@pytest.fixture(scope="module")
def scores(llama, space, library, metric):
    return score_blocks(llama, space, library, metric, CONFIG)


@torch.no_grad()
def test_score_is_the_kl_of_a_full_forward(llama, space, library, metric, scores):
    target = llama(metric.rows).logits
    for score in scores[::7]:
        swaps = {score.layer_idx: library.modules(llama, score.layer_idx, Block.parse(score.block), space.parent)}
        with swapped(llama, swaps):
            values = kl_divergence(target, llama(metric.rows).logits).mean(1)
        assert score.value == pytest.approx(values.mean().item(), rel=1e-5, abs=1e-6)
        assert score.standard_error == pytest.approx(values.std().item() / len(values) ** 0.5, rel=1e-3, abs=1e-7)
        assert score.tokens == 96
        assert score.metric == "kl"


def test_every_block_of_every_layer_once_and_the_parents_is_zero(space, scores):
    assert [(s.layer_idx, s.block) for s in scores] == [
        (i, b.id) for i, layer in enumerate(space.layers) for b in layer.blocks
    ]
    for score in scores:
        if score.block == space.parent.id:
            assert (score.value, score.standard_error) == (0.0, 0.0)
        else:
            assert score.value > 0


def test_score_of_one_block_is_the_distance_of_that_child(llama, space, library, metric, scores):
    for score in scores[3::11]:
        blocks = [space.parent] * 4
        blocks[score.layer_idx] = Block.parse(score.block)
        value, error = distance(llama, space, library, metric, 4, blocks)
        assert score.value == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert score.standard_error == pytest.approx(error, rel=1e-3, abs=1e-7)
    assert distance(llama, space, library, metric, 4, [space.parent] * 4) == (0.0, 0.0)


def test_scores_around_an_incumbent_are_its_distances(llama, space, library, metric):
    scores = score_blocks(llama, space, library, metric, CONFIG, INCUMBENT)
    assert len(scores) == 4 * 25
    for score in [s for s in scores if Block.parse(s.block) == INCUMBENT[s.layer_idx]] + scores[::13]:
        blocks = list(INCUMBENT)
        blocks[score.layer_idx] = Block.parse(score.block)
        value, _ = distance(llama, space, library, metric, 4, blocks)
        assert score.value == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_incumbent_one_block_away_has_the_parent_at_zero(llama, space, library, metric):
    incumbent = [space.parent, Block(1, 768), space.parent, space.parent]
    scores = score_blocks(llama, space, library, metric, CONFIG, incumbent, done={0, 2, 3})
    assert {s.layer_idx for s in scores} == {1}
    assert [s.value for s in scores if s.block == space.parent.id] == [0.0]
    others = score_blocks(llama, space, library, metric, CONFIG, incumbent, done={1, 2, 3})
    assert all(s.value > 0 for s in others)  # the parent's block in layer 0 leaves layer 1 exchanged


@pytest.mark.parametrize("workers, tokens_per_task", [(1, None), (3, None), (1, 32), (4, 64)])
def test_tasks_merge_to_the_scores_of_one_process(
    llama, space, library, metric, scores, tmp_path, workers, tokens_per_task
):
    config = dataclasses.replace(CONFIG, tokens_per_task=tokens_per_task)
    tasks = score_tasks(space, len(metric.rows), metric.rows.shape[1], config, set(), workers)
    assert len(tasks) >= workers - 1
    assert len({task.first_row for task in tasks}) == (2 if tokens_per_task else 1)  # batches of 4 and 2 rows
    for task in reversed(tasks):
        run_score_task(llama, space, library, metric, config, task, tmp_path)
    assert merge_scores(space, metric.rows.numel(), config, tmp_path) == scores
    done = set(stored_values(tmp_path))
    assert score_tasks(space, len(metric.rows), metric.rows.shape[1], config, done, workers) == []


def test_a_killed_task_continues_with_the_next_layer(llama, space, library, metric, scores, tmp_path, monkeypatch):
    (task,) = score_tasks(space, len(metric.rows), metric.rows.shape[1], CONFIG, set(), 1)
    append, lines = artifacts.append_jsonl, []

    def killed_in_layer_two(path, row):
        if row["layer_idx"] == 2:
            raise KeyboardInterrupt
        lines.append(row["layer_idx"])
        append(path, row)

    monkeypatch.setattr(artifacts, "append_jsonl", killed_in_layer_two)
    with pytest.raises(KeyboardInterrupt):
        run_score_task(llama, space, library, metric, CONFIG, task, tmp_path)
    monkeypatch.setattr(artifacts, "append_jsonl", append)
    assert lines == [0, 1]
    (task,) = score_tasks(space, len(metric.rows), metric.rows.shape[1], CONFIG, set(stored_values(tmp_path)), 1)
    assert (task.start, task.stop) == (2, 4)
    with open(tmp_path / f"{task.name}.jsonl", "w") as file:  # and power was lost while it wrote
        file.write('{"layer_idx": 2, "first_row": 0, "val')
    run_score_task(llama, space, library, metric, CONFIG, task, tmp_path)
    assert merge_scores(space, metric.rows.numel(), CONFIG, tmp_path) == scores


@pytest.mark.parametrize(
    "costs, count, expected",
    [
        ([1, 1, 1, 1], 2, [(0, 2), (2, 4)]),
        ([4, 3, 2, 1], 2, [(0, 2), (2, 4)]),
        ([9, 1, 1], 2, [(0, 1), (1, 3)]),
        ([1, 1, 9], 3, [(0, 3)]),
        ([1, 1], 5, [(0, 1), (1, 2)]),
        ([1], 1, [(0, 1)]),
    ],
)
def test_ranges_of_about_equal_cost(costs, count, expected):
    assert even_ranges(costs, count) == expected


def test_parent_is_left_as_it_was(llama, space, library, metric, state_of, assert_bit_equal):
    before, modules = state_of(llama), [(layer.self_attn, layer.mlp) for layer in llama.model.layers]
    score_blocks(llama, space, library, metric, CONFIG, INCUMBENT, done={1, 2, 3})
    assert_bit_equal(before, state_of(llama))
    assert [(layer.self_attn, layer.mlp) for layer in llama.model.layers] == modules


@torch.no_grad()
def test_lm_loss_is_the_rise_of_the_models_own_loss(llama, space, library, tokens, sequence_length):
    config = ScoreConfig(metric="lm_loss", num_tokens=96, batch_size=4)
    metric = make_metric(config, tokens["validation"], sequence_length, 0)
    rows = score_blocks(llama, space, library, metric, config, done={0, 1, 2})
    before = llama(metric.rows, labels=metric.rows).loss.item()
    for score in rows[::6]:
        with swapped(llama, {3: library.modules(llama, 3, Block.parse(score.block), space.parent)}):
            after = llama(metric.rows, labels=metric.rows).loss.item()
        assert score.value == pytest.approx(after - before, rel=1e-4, abs=2e-6)
    assert rows[0].value == 0.0


@torch.no_grad()
def test_scores_leave_out_what_inference_is_given(llama, qwen2, tokens, sequence_length):
    stream = tokens["validation"].clone()
    stream[::10] = 1
    stream = TokenStream.of(stream, (1,), 2)
    for name in ("kl", "lm_loss"):
        metric = make_metric(ScoreConfig(metric=name, num_tokens=96), stream, sequence_length, 0)
        assert (metric.rows[:, 0] == 1).all()
        p, c = llama(metric.rows).logits, qwen2(metric.rows).logits
        wild = c.clone()
        wild[:, :-1][metric.rows[:, 1:] == 1] *= -3  # what comes after a text's end changes nothing
        assert torch.equal(metric.values(p, c, metric.rows), metric.values(p, wild, metric.rows))
        assert metric.values(p, c, metric.rows).abs().min() > 0


@torch.no_grad()
def test_accuracy_is_the_share_of_cloze_items_lost(llama, space, library, tokens, sequence_length):
    config = ScoreConfig(metric="accuracy", num_tokens=160 * 12, batch_size=8)
    metric = make_metric(config, tokens["validation"], sequence_length, 0)
    assert metric.rows.shape == (4 * 12, 40)
    task = ClozeTask.from_tokens(tokens["validation"], 12, 32, 8, 0)
    assert torch.equal(task.rows, metric.rows)
    rows = score_blocks(llama, space, library, metric, config, done={0, 1, 2})
    before = task.correct(llama(metric.rows).logits, metric.rows)
    for score in rows[::6]:
        with swapped(llama, {3: library.modules(llama, 3, Block.parse(score.block), space.parent)}):
            after = task.correct(llama(metric.rows).logits, metric.rows)
        assert score.value == pytest.approx((before - after).mean().item(), abs=1e-6)


def test_batch_size_does_not_matter(llama, space, library, metric, scores):
    whole = score_blocks(llama, space, library, metric, ScoreConfig(num_tokens=96, batch_size=64), done={0, 1, 3})
    for one, two in zip(whole, [s for s in scores if s.layer_idx == 2], strict=True):
        assert one.value == pytest.approx(two.value, rel=1e-5, abs=1e-6)
        assert one.standard_error == pytest.approx(two.standard_error, rel=1e-3, abs=1e-7)


def test_dropped_blocks_are_not_scored(llama, space, library, metric, tmp_path):
    dropping = BlockLibrary(library.folder)
    dropping.index = dict(library.index)
    dropping.index["layer_03/attention.kv1"] = {"name": "layer_03/attention.kv1", "dropped": "nan"}
    scored = {s.block for s in score_blocks(llama, space, dropping, metric, CONFIG, done={0, 1, 2})}
    assert scored == {b.id for b in space.layers[3].blocks if b.attention != 1}


@pytest.mark.parametrize("offloaded", ["some", "all"])
def test_a_parent_that_does_not_fit_scores_the_same(
    llama, space, library, tokens, sequence_length, tmp_path, offloaded
):
    llama.save_pretrained(tmp_path / "parent")
    device_map = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    device_map |= {f"model.layers.{i}": "disk" if offloaded == "all" or i in (1, 2) else "cpu" for i in range(4)}
    split = AutoModelForCausalLM.from_pretrained(
        tmp_path / "parent", device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    assert next(split.model.layers[1].parameters()).device.type == "meta"
    config = ScoreConfig(num_tokens=64)
    metric = make_metric(config, tokens["validation"], sequence_length, 0)
    incumbent = [Block(1, 256), space.parent, space.parent, Block(2, 512)]
    for blocks in (None, incumbent):
        whole, divided = (list(score_blocks(m, space, library, metric, config, blocks)) for m in (llama, split))
        assert [s.to_dict() for s in divided] == [s.to_dict() for s in whole]
    rows = tokens["train"][:256].view(16, 16).long()
    first, second = (channel_importance(m, rows, 8) for m in (llama, split))
    assert all(torch.equal(first[name], second[name]) for name in first)
