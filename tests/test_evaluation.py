"""Distances and the cloze task against other ways to compute them."""

import copy
import math
import types

import pytest
import torch
from families import FAMILIES, block_kinds, family_child, family_model, own_block
from torch.nn import functional as F

from hf_puzzle import evaluation
from hf_puzzle.anatomy import HeadError
from hf_puzzle.data import TokenStream
from hf_puzzle.evaluation import (
    ClozeTask,
    Decisions,
    Rows,
    Targets,
    compare,
    kl_divergence,
    mean_and_error,
    mean_per_row,
    ratio_and_error,
    surely_lower,
    targets,
    task_accuracy,
    token_losses,
)


def random_logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_kl_is_torchs_in_float64():
    p, c = random_logits(3, 7, 50), random_logits(3, 7, 50, seed=1)
    log_p, log_c = F.log_softmax(p.double(), -1), F.log_softmax(c.double(), -1)
    expected = F.kl_div(log_c, log_p, reduction="none", log_target=True).sum(-1)
    ours = kl_divergence(p, c)
    assert ours.shape == (3, 7)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    assert (kl_divergence(c, p) - ours).abs().min() > 1e-3  # the direction matters


def test_kl_of_equal_logits_is_zero_and_ignores_a_constant():
    p = random_logits(4, 9, 30)
    assert torch.equal(kl_divergence(p, p), torch.zeros(4, 9))
    torch.testing.assert_close(kl_divergence(p, p + 5), torch.zeros(4, 9), rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 27, 28, 1000])
def test_chunks_do_not_change_the_kl(chunk):
    p, c = random_logits(4, 7, 30), random_logits(4, 7, 30, seed=1)
    torch.testing.assert_close(kl_divergence(p, c, chunk), kl_divergence(p, c), rtol=0, atol=1e-6)


def test_token_losses_are_the_models_own(llama, calibration):
    with torch.no_grad():
        outputs = llama(input_ids=calibration, labels=calibration)
    losses = token_losses(outputs.logits, calibration)
    assert losses.shape == (calibration.shape[0], calibration.shape[1] - 1)
    torch.testing.assert_close(losses.mean(), outputs.loss)


def test_parent_against_itself(llama, calibration):
    result = compare(llama, llama, calibration, batch_size=5)
    assert result["top1_kept"] == result["agreement"] == 1.0
    assert result["kl"] == result["kl_stderr"] == result["top1_kept_stderr"] == 0.0
    assert result["loss"] == pytest.approx(result["parent_loss"])
    assert result["top1"] == result["parent_top1"]
    assert result["tokens"] == calibration.numel()


def test_comparison_is_the_one_by_hand(llama, qwen2, calibration):
    result = compare(llama, qwen2, calibration, batch_size=7)
    with torch.no_grad():
        p, c = llama(calibration).logits[:, :-1], qwen2(calibration).logits[:, :-1]
    target = calibration[:, 1:]
    assert result["parent_top1"] == pytest.approx((p.argmax(-1) == target).float().mean().item())
    assert result["agreement"] == pytest.approx((p.argmax(-1) == c.argmax(-1)).float().mean().item())
    assert result["kl"] == pytest.approx(kl_divergence(p, c).mean().item(), rel=1e-5)
    assert result["loss"] == pytest.approx(F.cross_entropy(c.flatten(0, 1), target.flatten()).item(), rel=1e-5)
    per_sequence = kl_divergence(p, c).mean(1)
    assert result["kl_stderr"] == pytest.approx(per_sequence.std().item() / len(per_sequence) ** 0.5, rel=1e-4)


@torch.no_grad()
def test_calibration_is_the_one_by_hand(llama, qwen2, calibration):
    result = Targets(llama, Rows.of(calibration[:8]), 3).compare(qwen2).to_dict()
    right = {}
    for name, model in (("", qwen2), ("parent_", llama)):
        p = model(calibration[:8]).logits[:, :-1].double().softmax(-1)
        following = calibration[:8, 1:]
        truth = torch.nn.functional.one_hot(following, p.shape[-1])
        assert result[f"{name}brier"] == pytest.approx((p - truth).square().sum(-1).mean().item(), rel=1e-4)
        sure, first = p.max(-1)
        right[name] = first == following
        gaps = [(sure - right[name].double())[(sure * 15).floor() == b].sum().abs().item() for b in range(15)]
        assert result[f"{name}ece"] == pytest.approx(sum(gaps) / sure.numel(), abs=1e-5)
    assert result["flips"] == pytest.approx((right[""] != right["parent_"]).double().mean().item())


@pytest.mark.parametrize("chunk, in_cache", [(1024, 1 << 10), (7, 1 << 20), (16, 1)])
def test_pieces_do_not_change_the_comparison(llama, qwen2, calibration, monkeypatch, chunk, in_cache):
    rows = Rows.of(calibration[:4])
    expected = Targets(llama, rows, 2).compare(qwen2)
    monkeypatch.setattr("hf_puzzle.evaluation.CHUNK", chunk)
    monkeypatch.setattr("hf_puzzle.evaluation.IN_CACHE", in_cache)
    found = Targets(llama, rows, 2).compare(qwen2)
    for name, column in expected.columns.items():
        torch.testing.assert_close(found.columns[name], column, rtol=1e-5, atol=1e-6)


def test_tokens_that_inference_is_given_are_no_targets():
    rows = torch.tensor([[9, 1, 2, 0, 9, 3], [9, 4, 5, 6, 7, 8]])
    assert torch.equal(targets(rows), rows[:, 1:])
    assert targets(rows, (9,)).tolist() == [[1, 2, 0, -100, 3], [4, 5, 6, 7, 8]]
    values = torch.tensor([[1.0, 2, 3, 100, 4], [1, 1, 1, 1, 6]])
    assert mean_per_row(values, rows, (9,)).tolist() == [2.5, 2.0]
    assert mean_per_row(torch.cat([values, torch.tensor([[5.0], [8.0]])], 1), rows, (9,)).tolist() == [3.0, 3.0]
    assert torch.equal(mean_per_row(values, rows), values.mean(1))


def test_comparison_leaves_out_what_is_given(llama, qwen2, calibration):
    rows = calibration.clone()
    rows[:, 0] = rows[::2, 7] = 1
    result = compare(llama, qwen2, rows, batch_size=7, given=(1,))
    with torch.no_grad():
        p, c = llama(rows).logits[:, :-1], qwen2(rows).logits[:, :-1]
    asked = rows[:, 1:] != 1
    assert not asked.all()

    def mean(values):
        return torch.stack([row[mask].mean() for row, mask in zip(values.float(), asked, strict=True)]).mean().item()

    losses = F.cross_entropy(c.transpose(1, 2), rows[:, 1:], reduction="none")
    assert result["loss"] == pytest.approx(mean(losses), rel=1e-5)
    assert result["kl"] == pytest.approx(mean(kl_divergence(p, c)), rel=1e-5)
    assert result["agreement"] == pytest.approx(mean(p.argmax(-1) == c.argmax(-1)))


def successor_stream(length=4000, vocab=97):
    """A stream in which every token is the one before plus 1: an oracle exists."""
    return torch.arange(length, dtype=torch.int32) % vocab


def test_cloze_items_are_text_of_the_stream():
    stream = successor_stream()
    task = ClozeTask.from_tokens(stream, num_items=50, context=10, continuation=4, seed=0)
    rows = task.rows.view(50, 4, 14)
    assert torch.equal(rows[:, 0].diff() % 97, torch.ones(50, 13, dtype=torch.int64))
    assert torch.equal(rows[:, :, :10], rows[:, :1, :10].expand(-1, 4, -1))
    assert torch.equal(rows[:, 1:, 10:].diff() % 97, torch.ones(50, 3, 3, dtype=torch.int64))
    again = ClozeTask.from_tokens(stream, num_items=50, context=10, continuation=4, seed=0)
    assert torch.equal(task.rows, again.rows)


@pytest.mark.parametrize("batch_size", [1, 4, 33])
def test_an_oracle_answers_every_item_and_chance_a_quarter(batch_size):
    task = ClozeTask.from_tokens(successor_stream(), num_items=800, context=10, continuation=4, seed=0)

    class Model:
        """Its final states are logits already."""

        device = torch.device("cpu")
        config = types.SimpleNamespace()

        def __init__(self, answer):
            self.answer = answer

        def get_decoder(self):
            return lambda input_ids, use_cache: types.SimpleNamespace(last_hidden_state=self.answer(input_ids))

        def get_output_embeddings(self):
            head = torch.nn.Linear(97, 97, bias=False)
            torch.nn.init.eye_(head.weight)
            return head

    generator = torch.Generator().manual_seed(0)
    oracle = Model(lambda ids: 10 * F.one_hot((ids + 1) % 97, 97).float())
    guesser = Model(lambda ids: torch.randn(*ids.shape, 97, generator=generator))
    assert task_accuracy(oracle, task, batch_size, "cpu").tolist() == [1.0] * 800
    guesses = task_accuracy(guesser, task, batch_size, "cpu")
    assert set(guesses.tolist()) == {0.0, 1.0}
    assert abs(guesses.mean().item() - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("continuation", [1, 5])
def test_a_context_read_once_gives_what_whole_rows_give(family, continuation):
    stream = torch.randint(3, 128, (400,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    task = ClozeTask.from_tokens(stream, 6, 12, continuation, 0)
    child = family_child(family, [own_block(family), *block_kinds(family).values()][:4])
    for model in (family_model(family), child):
        assert evaluation._reads_contexts_once(model, task, "cpu")
        whole, once = (read(model, task.rows, continuation) for read in (evaluation._whole_rows, evaluation._behind_contexts))  # fmt: skip
        assert torch.allclose(whole, once, atol=1e-4)


def test_whole_rows_are_read_where_a_cache_is_wrong(monkeypatch):
    task = ClozeTask.from_tokens(successor_stream(vocab=128), 8, 10, 4, 0)
    model = family_model("llama")
    expected = task_accuracy(model, task, 4, "cpu")
    right = evaluation._behind_contexts
    monkeypatch.setattr(evaluation, "_behind_contexts", lambda model, rows, n: right(model, rows, n).flip(1))
    assert torch.equal(task_accuracy(model, task, 4, "cpu"), expected)


def test_cloze_items_know_the_document_of_their_context():
    documents = torch.tensor([0, 100, 2500])
    stream = TokenStream.of(torch.cat([torch.full((size,), 10 * i + 1, dtype=torch.int32) for i, size in enumerate((100, 2400, 1500))]), (), 0, documents)  # fmt: skip
    task = ClozeTask.from_tokens(stream, 60, 10, 4, 0)
    assert ((task.rows[::4, 0] - 1) // 10 + 1).tolist() == task.documents.tolist()
    assert len(task.documents.unique()) > 1


def test_cloze_items_begin_as_a_prompt_and_ask_for_text():
    documents = [[250, *range(i % 97, i % 97 + 20), 251] for i in range(200)]
    stream = TokenStream.of(torch.tensor(sum(documents, []), dtype=torch.int32), (250,), 251)
    rows = ClozeTask.from_tokens(stream, num_items=50, context=10, continuation=4, seed=0).rows.view(50, 4, 14)
    assert (rows[:, :, 0] == 250).all()
    assert not (rows[:, :, 1] == 250).any()
    assert not (rows[:, :, 10:] == 250).any()
    flat = torch.tensor(sum(documents, []))
    assert all((flat.unfold(0, 13, 1) == row[1:]).all(-1).any() for row in rows[:, 0])
    with pytest.raises(ValueError, match="a context of 1 tokens has no text"):
        ClozeTask.from_tokens(stream, 1, 1, 4, 0)
    with pytest.raises(ValueError, match="documents are too short for continuations of 30 tokens"):
        ClozeTask.from_tokens(stream, 1, 10, 30, 0)


def test_cloze_needs_two_items_of_text():
    with pytest.raises(ValueError, match="27 held-out tokens are too few for cloze items of 14 tokens"):
        ClozeTask.from_tokens(successor_stream(27), 1, 10, 4, 0)


def test_ratio_and_error_agree_with_a_bootstrap():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(300, generator=generator, dtype=torch.float64) + 0.5
    c = 0.9 * p + 0.1 * torch.randn(300, generator=generator, dtype=torch.float64)
    ratio, error = ratio_and_error(c, p)
    draws = torch.randint(0, 300, (4000, 300), generator=generator)
    ratios = c[draws].mean(1) / p[draws].mean(1)
    assert ratio == pytest.approx((c.mean() / p.mean()).item())
    assert error == pytest.approx(ratios.std().item(), rel=0.1)
    # paired: far tighter than if child and parent were measured on different text
    assert error < 0.5 * ratio_and_error(c[torch.randperm(300, generator=generator)], p)[1]


def test_mean_and_error():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    mean, error = mean_and_error(values)
    assert (mean, error) == (3.0, pytest.approx(values.double().std().item() / 2))
    assert mean_and_error(values[:1]) == (1.0, 0.0)


def test_a_lower_mean_by_chance_is_none():
    clear = torch.tensor([0.9, 1.1, 0.8, 1.2])
    assert surely_lower(clear - 0.3, clear)
    assert not surely_lower(clear, clear)
    assert not surely_lower(clear + torch.tensor([0.5, -0.6, 0.5, -0.6]), clear)
    assert not surely_lower(clear[:1] - 0.3, clear[:1])
    assert not surely_lower(clear - 0.3, clear, torch.zeros(4, dtype=torch.int64))  # one document
    assert not surely_lower(torch.full((4,), math.inf), clear)
    assert not surely_lower(torch.full((4,), math.inf), torch.full((4,), math.inf))


def test_a_family_with_an_unknown_scale_behind_its_head_is_refused(llama, calibration, monkeypatch):
    forward = type(llama).forward

    def scaled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = 1.2 * output.logits
        return output

    child = copy.deepcopy(llama)
    monkeypatch.setattr(type(llama), "forward", scaled)
    with pytest.raises(HeadError, match=r"family 'llama': logits differ by 16.7%"):
        Targets(llama, Rows.of(calibration), 8)
    monkeypatch.undo()
    targets = Targets(llama, Rows.of(calibration), 8)
    monkeypatch.setattr(type(llama), "forward", scaled)
    with pytest.raises(HeadError):
        targets.compare(child)


def test_errors_are_clustered():
    values, clusters = torch.tensor([1.0, 1.0, 3.0, 3.0, 2.0, 2.0]), torch.tensor([4, 4, 7, 7, 9, 9])
    assert mean_and_error(values, clusters) == pytest.approx(mean_and_error(torch.tensor([1.0, 3.0, 2.0])))
    assert mean_and_error(values, torch.arange(6)) == pytest.approx(mean_and_error(values))
    ones = torch.ones(6)
    assert ratio_and_error(values, ones, clusters) == pytest.approx(mean_and_error(values, clusters))
    assert mean_and_error(values, torch.zeros(6))[1] == 0.0  # one document says nothing of its error


# -- decisions


def random_decisions(count: int = 400, seed: int = 0, sharpness: float = 1.0) -> Decisions:
    """Items whose answers are drawn from softmax(scores), said with softmax(sharpness * scores)."""
    generator = torch.Generator().manual_seed(seed)
    scores = [2 * torch.randn(2 + i % 4, generator=generator) for i in range(count)]
    right = [int(torch.multinomial(each.softmax(0), 1, generator=generator)) for each in scores]
    return Decisions([(sharpness * each).softmax(0) for each in scores], right)


def test_decisions_by_their_definitions():
    items = random_decisions()
    found = items.to_dict()
    pairs = [
        (p.double().max().item(), int(p.argmax()) == i) for p, i in zip(items.probabilities, items.right, strict=True)
    ]
    assert found["accuracy"] == pytest.approx(sum(hit for _, hit in pairs) / len(pairs))
    gaps = 0.0
    for low in range(evaluation.BINS):
        own = [(p, hit) for p, hit in pairs if min(int(p * evaluation.BINS), evaluation.BINS - 1) == low]
        gaps += abs(sum(p for p, _ in own) - sum(hit for _, hit in own)) / len(pairs)
    assert found["ece"] == pytest.approx(gaps)
    brier = [
        sum((float(p[k]) - (k == i)) ** 2 for k in range(len(p)))
        for p, i in zip(items.probabilities, items.right, strict=True)
    ]
    assert found["brier"] == pytest.approx(sum(brier) / len(brier), rel=1e-5)
    ranked = sorted(pairs, key=lambda pair: -pair[0])
    shares = [n / len(ranked) for n in range(1, len(ranked) + 1) if sum(not hit for _, hit in ranked[:n]) / n <= 0.05]
    assert found["coverage"] == max(shares, default=0.0)


def test_the_conformal_set_holds_the_right_option_as_often_as_asked():
    held = [random_decisions(600, seed).to_dict(random_decisions(600, seed + 50), error=0.1) for seed in range(8)]
    mean = sum(each["set_holds"] for each in held) / len(held)
    assert abs(mean - 0.9) < 0.02
    assert 1 < held[0]["set_size"] < 4
    few = random_decisions(5)
    assert few.threshold(0.05) == 0.0  # five items cannot promise 95 %: the set is everything
    assert few.set_sizes(0.0)[1] == 1.0


def test_a_temperature_is_found_and_one_stays():
    for sharpness in (0.5, 3.0):
        items = random_decisions(2000, 1, sharpness)
        found = items.temperature()
        assert found == pytest.approx(sharpness, rel=0.1)
        calm = Decisions([(p.log() / found).softmax(0) for p in items.probabilities], items.right)
        assert calm.to_dict()["nll"] < items.to_dict()["nll"]
        assert calm.to_dict()["ece"] < items.to_dict()["ece"]
    certain = Decisions([torch.tensor([1.0, 0.0])] * 3, [0, 0, 0])
    assert certain.temperature() == 1.0
    assert certain.to_dict()["coverage"] == 1.0


def test_equally_sure_answers_are_covered_together():
    items = Decisions([torch.tensor([0.9, 0.1])] * 4, [0, 0, 0, 1])
    assert items.coverage(0.05) == 0.0
    assert items.coverage(0.25) == 1.0
