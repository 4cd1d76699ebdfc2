"""Scores against whole forward passes: reusing prefixes must not be visible."""

import copy
import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.data import TokenStream
from hf_puzzle.evaluation import ClozeTask, kl_divergence, token_losses
from hf_puzzle.puzzle import judge as judge_module
from hf_puzzle.puzzle.importance import channel_importance
from hf_puzzle.puzzle.judge import Judge, Metric
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.scoring import (
    even_ranges,
    forward_tokens,
    merge_scores,
    run_score_task,
    score_blocks,
    score_tasks,
    stored_values,
    with_sums,
)
from hf_puzzle.puzzle.solver import Choice, Limit
from hf_puzzle.puzzle.surgery import swapped
from hf_puzzle.puzzle.true_loss import Menu, evolve
from hf_puzzle.recipe import ScoreConfig


CONFIG = ScoreConfig(num_tokens=96, batch_size=4, blocks="all")
INCUMBENT = [Block(2, 768), Block(4, 512), Block("none", 768), Block(4, "linear")]


@pytest.fixture(scope="module")
def judging(llama, space, library, tokens, sequence_length):
    def judging(config=CONFIG, parent=llama, stream=tokens["validation"], library=library):
        return Judge(parent, space, library, Metric.of(config, stream, sequence_length, seed=0))

    return judging


@pytest.fixture(scope="module")
def judge(judging):
    return judging()


@pytest.fixture(scope="module")
def scores(judge):
    return score_blocks(judge)


@torch.no_grad()
def test_score_is_the_kl_of_a_full_forward(llama, space, library, judge, scores):
    rows = judge.metric.rows.input_ids
    target = llama(rows).logits[:, :-1]
    for score in scores[::7]:
        swaps = {score.layer_idx: library.modules(llama, score.layer_idx, Block.parse(score.block), space.parent)}
        with swapped(llama, swaps):
            values = kl_divergence(target, llama(rows).logits[:, :-1]).mean(1)
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


def test_score_of_one_block_is_the_distance_of_that_child(space, judge, scores):
    for score in scores[3::11]:
        blocks = [space.parent] * 4
        blocks[score.layer_idx] = Block.parse(score.block)
        value, error = judge.distance(blocks)
        assert score.value == pytest.approx(value, rel=1e-5, abs=1e-6)
        assert score.standard_error == pytest.approx(error, rel=1e-3, abs=1e-7)
    assert judge.distance([space.parent] * 4) == (0.0, 0.0)


def test_scores_around_an_incumbent_are_its_distances(judge):
    scores = score_blocks(judge, INCUMBENT)
    assert len(scores) == 4 * 25
    for score in [s for s in scores if Block.parse(s.block) == INCUMBENT[s.layer_idx]] + scores[::13]:
        blocks = list(INCUMBENT)
        blocks[score.layer_idx] = Block.parse(score.block)
        value, _ = judge.distance(blocks)
        assert score.value == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_incumbent_one_block_away_has_the_parent_at_zero(space, judge):
    incumbent = [space.parent, Block(1, 768), space.parent, space.parent]
    scores = score_blocks(judge, incumbent, done={0, 2, 3})
    assert {s.layer_idx for s in scores} == {1}
    assert [s.value for s in scores if s.block == space.parent.id] == [0.0]
    others = score_blocks(judge, incumbent, done={1, 2, 3})
    assert all(s.value > 0 for s in others)  # the parent's block in layer 0 leaves layer 1 exchanged


@pytest.mark.parametrize("workers, tokens_per_task", [(1, None), (3, None), (1, 32), (4, 64)])
def test_tasks_merge_to_the_scores_of_one_process(space, judge, scores, tmp_path, workers, tokens_per_task):
    rows = judge.metric.rows.input_ids
    config = dataclasses.replace(CONFIG, tokens_per_task=tokens_per_task)
    tasks = score_tasks(space, len(rows), rows.shape[1], config, set(), workers)
    assert len(tasks) >= workers - 1
    assert len({task.first_row for task in tasks}) == (2 if tokens_per_task else 1)  # batches of 4 and 2 rows
    for task in reversed(tasks):
        run_score_task(judge, task, tmp_path)
    assert merge_scores(space, judge.metric, tmp_path) == scores
    done = set(stored_values(tmp_path))
    assert score_tasks(space, len(rows), rows.shape[1], config, done, workers) == []


def test_a_killed_task_continues_with_the_next_layer(space, judge, scores, tmp_path, monkeypatch):
    rows = judge.metric.rows.input_ids
    (task,) = score_tasks(space, len(rows), rows.shape[1], CONFIG, set(), 1)
    append, lines = artifacts.append_jsonl, []

    def killed_in_layer_two(path, row):
        if row["layer_idx"] == 2:
            raise KeyboardInterrupt
        lines.append(row["layer_idx"])
        append(path, row)

    monkeypatch.setattr(artifacts, "append_jsonl", killed_in_layer_two)
    with pytest.raises(KeyboardInterrupt):
        run_score_task(judge, task, tmp_path)
    monkeypatch.setattr(artifacts, "append_jsonl", append)
    assert lines == [0, 1]
    (task,) = score_tasks(space, len(rows), rows.shape[1], CONFIG, set(stored_values(tmp_path)), 1)
    assert (task.start, task.stop) == (2, 4)
    with open(tmp_path / f"{task.name}.jsonl", "w") as file:  # and power was lost while it wrote
        file.write('{"layer_idx": 2, "first_row": 0, "val')
    run_score_task(judge, task, tmp_path)
    assert merge_scores(space, judge.metric, tmp_path) == scores


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


def test_parent_is_left_as_it_was(llama, judge, state_of, assert_bit_equal):
    before, modules = state_of(llama), [(layer.self_attn, layer.mlp) for layer in llama.model.layers]
    score_blocks(judge, INCUMBENT, done={1, 2, 3})
    assert_bit_equal(before, state_of(llama))
    assert [(layer.self_attn, layer.mlp) for layer in llama.model.layers] == modules


@torch.no_grad()
def test_lm_loss_is_the_rise_of_the_models_own_loss(llama, space, library, judging):
    judge = judging(dataclasses.replace(CONFIG, metric="lm_loss"))
    rows, ids = score_blocks(judge, done={0, 1, 2}), judge.metric.rows.input_ids
    before = llama(ids, labels=ids).loss.item()
    for score in rows[::6]:
        with swapped(llama, {3: library.modules(llama, 3, Block.parse(score.block), space.parent)}):
            after = llama(ids, labels=ids).loss.item()
        assert score.value == pytest.approx(after - before, rel=1e-4, abs=2e-6)
    assert rows[0].value == 0.0


@torch.no_grad()
def test_scores_leave_out_what_inference_is_given(llama, qwen2, judging, tokens):
    stream = tokens["validation"].clone()
    stream[::10] = 1
    for name in ("kl", "lm_loss"):
        judge = judging(ScoreConfig(metric=name, num_tokens=96, batch_size=8), stream=TokenStream.of(stream, (1,), 2))
        ids = judge.metric.rows.input_ids
        assert (ids[:, 0] == 1).all()
        states = qwen2.model(ids).last_hidden_state
        wild = states.clone()
        wild[:, :-1][ids[:, 1:] == 1] *= -3  # what comes after a text's end changes nothing
        assert torch.equal(*(torch.cat(judge.values(0, [each])) for each in (states, wild)))
        assert judge.values(0, [states])[0].abs().min() > 0


@torch.no_grad()
def test_accuracy_is_the_share_of_cloze_items_lost(llama, space, library, judging, tokens):
    judge = judging(ScoreConfig(metric="accuracy", num_tokens=160 * 12, batch_size=8, blocks="all"))
    ids = judge.metric.rows.input_ids
    assert ids.shape == (4 * 12, 40)
    task = ClozeTask.from_tokens(tokens["validation"], 12, 32, 8, 0)
    assert torch.equal(task.rows, ids)
    rows = score_blocks(judge, done={0, 1, 2})
    before = task.correct(token_losses(llama(ids).logits, ids))
    for score in rows[::6]:
        with swapped(llama, {3: library.modules(llama, 3, Block.parse(score.block), space.parent)}):
            after = task.correct(token_losses(llama(ids).logits, ids))
        assert score.value == pytest.approx((before - after).mean().item(), abs=1e-6)


def test_batch_size_does_not_matter(judging, scores):
    whole = score_blocks(judging(dataclasses.replace(CONFIG, batch_size=64)), done={0, 1, 3})
    for one, two in zip(whole, [s for s in scores if s.layer_idx == 2], strict=True):
        assert one.value == pytest.approx(two.value, rel=1e-5, abs=1e-6)
        assert one.standard_error == pytest.approx(two.standard_error, rel=1e-3, abs=1e-7)


def test_dropped_blocks_are_not_scored(space, library, judging):
    dropping = BlockLibrary(library.folder)
    dropping.index = dict(library.index)
    dropping.index["layer_03/attention.kv1"] = {"name": "layer_03/attention.kv1", "dropped": "nan"}
    for blocks in ("all", "sub_blocks"):
        judge = judging(dataclasses.replace(CONFIG, blocks=blocks), library=dropping)
        scored = {s.block for s in with_sums(score_blocks(judge, done={0, 1, 2}), space)}
        assert scored == {b.id for b in space.layers[3].blocks if b.attention != 1}


def test_sums_of_sub_blocks_stand_for_the_blocks_that_were_not_run(space, judging, scores):
    some = score_blocks(judging(dataclasses.replace(CONFIG, blocks="sub_blocks")))
    values = {(s.layer_idx, s.block): s.value for s in scores}
    assert len(some) == 4 * (5 + 5 - 1)
    assert {(s.layer_idx, s.block): s.value for s in some}.items() <= values.items()
    filled = with_sums(some, space)
    assert [(s.layer_idx, s.block) for s in filled] == [(s.layer_idx, s.block) for s in scores]
    for score in filled:
        block = Block.parse(score.block)
        halves = [Block(block.attention, space.parent.ffn), Block(space.parent.attention, block.ffn)]
        assert score.value == pytest.approx(sum(values[score.layer_idx, half.id] for half in halves))
    assert with_sums(scores, space) == scores


def test_sums_around_a_child_count_what_the_rest_of_it_loses_once(space, judging):
    offered = [[b for b in layer.blocks if b.attention == own.attention or b.ffn == own.ffn] for layer, own in zip(space.layers, INCUMBENT, strict=True)]  # fmt: skip
    scores = score_blocks(judging(), INCUMBENT, offered)
    values = {(s.layer_idx, s.block): s.value for s in scores}
    for score in with_sums(scores, space, INCUMBENT):
        own, block = INCUMBENT[score.layer_idx], Block.parse(score.block)
        attention, ffn, base = (
            values[score.layer_idx, b.id]
            for b in (Block(block.attention, own.ffn), Block(own.attention, block.ffn), own)
        )
        assert base > 0
        assert score.value == pytest.approx(attention + ffn - base)


def test_a_layout_is_judged_once(judging, monkeypatch):
    judge = judging()
    first = judge.distance(INCUMBENT)
    monkeypatch.setattr(judge, "values", None)
    assert judge.distance(tuple(INCUMBENT)) == first


def test_half_precision_has_no_floor(llama, space, library, judging, monkeypatch):
    half = copy.deepcopy(llama).to(torch.bfloat16)
    judge = judging(dataclasses.replace(CONFIG, num_tokens=1024, batch_size=64), parent=half)
    nearly = Block(4, 512)  # stands for the parent's own FFN, with another rounding in its inside
    original = library.modules

    class Nearly(torch.nn.Module):
        def __init__(self, ffn):
            super().__init__()
            self.ffn = copy.deepcopy(ffn).double()

        def forward(self, hidden_states):
            return self.ffn(hidden_states.double()).to(hidden_states.dtype)

    def modules(model, layer_idx, block, own, loaded=None):
        attention, ffn = original(model, layer_idx, own, own)
        return (attention, Nearly(ffn) if block == nearly else ffn)

    monkeypatch.setattr(library, "modules", modules)

    def values():
        scores = score_blocks(judge, offered=[[space.parent, nearly]] * 4)
        assert [s.value for s in scores if s.block == space.parent.id] == [0.0] * 4
        return torch.tensor([s.value for s in scores if s.block == nearly.id])

    without = values()
    monkeypatch.setattr(judge_module, "HALF", ())
    assert values().min() > 1e-6
    assert without.abs().sum() < 0.1 * values().sum()


@pytest.mark.parametrize("offloaded", ["some", "all"])
def test_a_parent_that_does_not_fit_scores_the_same(llama, space, judging, tokens, tmp_path, offloaded):
    llama.save_pretrained(tmp_path / "parent")
    device_map = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    device_map |= {f"model.layers.{i}": "disk" if offloaded == "all" or i in (1, 2) else "cpu" for i in range(4)}
    split = AutoModelForCausalLM.from_pretrained(
        tmp_path / "parent", device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    assert next(split.model.layers[1].parameters()).device.type == "meta"
    judges = [judging(ScoreConfig(num_tokens=64, blocks="all"), parent=m) for m in (llama, split)]
    incumbent = [Block(1, 256), space.parent, space.parent, Block(2, 512)]
    for blocks in (None, incumbent):
        whole, divided = (score_blocks(judge, blocks) for judge in judges)
        assert [s.to_dict() for s in divided] == [s.to_dict() for s in whole]
    rows = tokens["train"][:256].view(16, 16).long()
    first, second = (channel_importance(m, rows, 8) for m in (llama, split))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_search_on_task_accuracy_keeps_its_items_whole(space, judging):
    layers = [[Choice(b.id, 0.0, {"size": float(b != space.parent)}) for b in layer.blocks] for layer in space.layers]
    judge = judging(ScoreConfig(metric="accuracy", num_tokens=160 * 5, batch_size=8))
    tokens = 200 * judge.metric.rows.input_ids.numel()
    found = evolve(judge, Menu(layers, [Limit("size", "size", 4.0)]), tokens)
    assert judge.distance(found)[0] == min(value for value, _ in judge.judged.values())


@torch.no_grad()
def test_an_offloaded_parent_of_half_precision_is_left_as_it_was(llama, judging, tmp_path):
    copy.deepcopy(llama).to(torch.bfloat16).save_pretrained(tmp_path / "parent")
    parts = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", "model.layers.0", "model.layers.3")
    device_map = dict.fromkeys(parts, "cpu") | {"model.layers.1": "disk", "model.layers.2": "disk"}
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "parent").eval()
    split = AutoModelForCausalLM.from_pretrained(
        tmp_path / "parent", device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    ids = torch.arange(3, 35)[None]
    before = split(ids, use_cache=False).logits
    config = ScoreConfig(num_tokens=64, blocks="sub_blocks")
    ours, theirs = ([s.to_dict() for s in score_blocks(judging(config, parent=m))] for m in (whole, split))
    assert torch.equal(split(ids, use_cache=False).logits, before)
    for one, two in zip(ours, theirs, strict=True):
        assert one == two or one["layer_idx"] in (1, 2)  # whose floor of rounding stays


def test_forward_tokens_are_those_of_every_layer_that_runs(space, judging):
    judge = judging()
    scores, tokens = score_blocks(judge), judge.metric.rows.input_ids.numel()
    run = sum((4 - s.layer_idx) / 4 for s in scores if s.block != space.parent.id)
    assert judge.forward_tokens == pytest.approx((2 + run) * tokens)
    assert forward_tokens(scores, space) == pytest.approx(judge.forward_tokens)
    judge.distance(INCUMBENT)
    judge.distance(INCUMBENT)  # known
    assert judge.forward_tokens == pytest.approx((3 + run) * tokens)
