"""The metrics against `compare`, against values by hand, and as `evaluate` uses them."""

import copy
import json
import math
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

import hf_puzzle
from hf_puzzle.evaluation import compare
from hf_puzzle.metrics import (
    COLUMNS,
    AccuracyKept,
    Agreement,
    KLToParent,
    MetricInputError,
    Perplexity,
    reductions,
)


METRICS = [AccuracyKept, Agreement, KLToParent, Perplexity]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")


def combined():
    return evaluate.combine([metric() for metric in METRICS])


def batches(parent, child, rows, batch_size):
    with torch.no_grad():
        for batch in rows.split(batch_size):
            yield reductions(parent(input_ids=batch).logits, child(input_ids=batch).logits, batch)


def example(num_sequences=4):
    """Sums of sequences of ten tokens."""
    generator = torch.Generator().manual_seed(0)
    counts = {n: torch.randint(1, 10, (num_sequences,), generator=generator) for n in COLUMNS}
    return {name: value.double() for name, value in (counts | {"tokens": torch.full((num_sequences,), 10)}).items()}


@pytest.fixture(scope="module")
def child(llama):
    """The parent with noise on its weights: right sometimes, and not always of the same opinion."""
    child = copy.deepcopy(llama)
    torch.manual_seed(0)
    for parameter in child.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return child


@pytest.fixture(scope="module")
def rows(llama):
    """Text that the parent wrote, so that it is often right; shape (24, 20)."""
    torch.manual_seed(0)
    starts = torch.randint(3, 256, (24, 2))
    return llama.generate(starts, min_new_tokens=18, max_new_tokens=18, do_sample=True, temperature=0.5)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_values_are_those_of_compare(llama, child, rows, batch_size):
    expected = compare(llama, child, rows, batch_size=8)
    metric = combined()
    for sums in batches(llama, child, rows, batch_size):
        metric.add_batch(**sums)
    result = metric.compute()
    calibration = {"flips", "ece", "parent_ece", "brier", "parent_brier"}  # of a run's own evaluation
    shared = set(expected) - {"tokens", "rows", "documents"} - calibration
    assert shared < set(result)
    assert 0.1 < expected["top1_kept"] < 0.99
    for name in shared:
        assert result[name] == pytest.approx(expected[name], rel=1e-5), name
    assert result["perplexity"] == pytest.approx(math.exp(expected["loss"]), rel=1e-5)
    assert result["parent_perplexity"] == pytest.approx(math.exp(expected["parent_loss"]), rel=1e-5)
    assert 0 < result["perplexity_stderr"] < result["perplexity"]
    assert 0 < result["agreement_stderr"] < 0.1


def test_the_parent_keeps_all_of_itself(llama, calibration):
    metric = combined()
    for sums in batches(llama, llama, calibration, 8):
        metric.add_batch(**sums)
    result = metric.compute()
    assert result["top1_kept"] == result["agreement"] == 1.0
    assert result["top1_kept_stderr"] == result["agreement_stderr"] == result["kl"] == 0.0
    assert result["perplexity"] == result["parent_perplexity"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    generator = torch.Generator().manual_seed(0)
    parent, child = (torch.randn(3, 9, 20, generator=generator) for _ in range(2))
    ids = torch.randint(0, 20, (3, 9), generator=generator)
    expected = reductions(parent, child, ids)
    width = (0, 4) if side == "right" else (4, 0)
    padded = [torch.nn.functional.pad(x, (0, 0, *width), value=7.0) for x in (parent, child)]
    mask = torch.nn.functional.pad(torch.ones_like(ids), width)
    sums = reductions(*padded, torch.nn.functional.pad(ids, width, value=3), mask)
    for name in COLUMNS:
        torch.testing.assert_close(sums[name], expected[name])
    assert sums["tokens"].tolist() == [8.0] * 3


def test_tokens_of_long_and_short_sequences_weigh_the_same():
    generator = torch.Generator().manual_seed(0)
    parent, child = (torch.randn(2, 8, 20, generator=generator) for _ in range(2))
    ids = torch.randint(0, 20, (2, 8), generator=generator)
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[1, 3:] = 0
    log_p, log_c = parent.double().log_softmax(-1), child.double().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_c)).sum(-1)
    expected = (kl[0, :7].sum() + kl[1, :2].sum()) / 9
    assert KLToParent().compute(**reductions(parent, child, ids, mask))["kl"] == pytest.approx(
        expected.item(), rel=1e-6
    )


@pytest.mark.parametrize(
    "kind", [torch.Tensor.tolist, torch.Tensor.numpy, lambda t: t, lambda t: t.bfloat16(), lambda t: t.long()]
)
def test_lists_arrays_and_tensors_give_the_same(kind):
    sums = example()
    metric = combined()
    metric.add_batch(**{name: kind(value) for name, value in sums.items()})
    expected = combined()
    for i in range(4):
        expected.add(**{name: value[i].item() for name, value in sums.items()})
    assert metric.compute() == expected.compute()


def test_logits_may_be_arrays_or_half_precision():
    generator = torch.Generator().manual_seed(0)
    parent, child = (torch.randn(2, 6, 20, generator=generator).bfloat16() for _ in range(2))
    ids = torch.randint(0, 20, (2, 6), generator=generator)
    expected = reductions(parent, child, ids)
    arrays = reductions(parent.float().numpy(), child.float().numpy(), ids.numpy().astype(np.int32))
    for name in COLUMNS:
        torch.testing.assert_close(arrays[name], expected[name])


def test_files_hold_the_same_as_memory(tmp_path):
    sums = example()
    in_files = KLToParent(keep_in_memory=False, cache_dir=str(tmp_path))
    in_files.add_batch(**sums)
    in_files.add_batch(**sums)
    in_memory = KLToParent()
    in_memory.add_batch(**{name: torch.cat([value, value]) for name, value in sums.items()})
    assert in_files.compute() == in_memory.compute()


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_alone_takes_all_columns_or_its_own(metric):
    sums = example()
    whole, own = metric(), metric()
    whole.add_batch(**sums)
    assert whole.compute() == own.compute(**{name: sums[name] for name in metric.columns})
    whole.add_batch(**sums)  # usable again
    assert whole.compute() == own.compute(**sums)


def test_values_by_hand():
    sums = {"tokens": [10, 30], "parent_hits": [5, 15], "child_hits": [4, 15], "agreements": [9, 27]}
    assert AccuracyKept().compute(**sums) == {
        "top1_kept": 0.95,
        "top1_kept_stderr": pytest.approx(
            0.075
        ),  # std of the residuals (4 - 4.75, 15 - 14.25) / 10, over the root of 2
        "top1": pytest.approx(19 / 40),
        "parent_top1": 0.5,
    }
    assert Agreement().compute(**sums) == {"agreement": 0.9, "agreement_stderr": pytest.approx(0)}


def test_what_is_not_defined_is_none():
    one = {"tokens": [4], "parent_hits": [0], "child_hits": [1], "agreements": [2]}
    assert AccuracyKept().compute(**one) == {
        "top1_kept": None, "top1_kept_stderr": None, "top1": 0.25, "parent_top1": 0.0,
    }  # fmt: skip
    assert Agreement().compute(**one) == {"agreement": 0.5, "agreement_stderr": None}
    assert Perplexity().compute(tokens=[1], parent_loss=[0.0], child_loss=[1e4])["perplexity"] == math.inf


def test_results_are_saved_as_json(tmp_path):
    result = combined().compute(**example())
    path = evaluate.save(tmp_path, **result)
    saved = json.loads(path.read_text())
    assert {name: saved[name] for name in result} == result


@pytest.mark.parametrize(
    "change, message",
    [
        ({"predictions": [1]}, "takes sums per sequence, not predictions and references"),
        ({"child_hit": [1]}, "unknown column 'child_hit'; did you mean 'child_hits'"),
        ({"child_hits": None}, "child_hits missing"),
        ({"child_hits": "abcd"}, "child_hits is no list of numbers"),
        ({"child_hits": 3.0}, r"child_hits has shape \(\)"),
        ({"child_hits": [[1.0] * 4]}, r"child_hits has shape \(1, 4\)"),
        ({"child_hits": []}, r"child_hits has shape \(0,\)"),
        ({"child_hits": [1, 2]}, "4 tokens, but 2 child_hits"),
        ({"child_hits": [1, 2, math.nan, 3]}, "child_hits of sequence 2 is nan"),
        ({"child_hits": [1, 2, 11, 3]}, "sums, not means"),
        ({"tokens": [0, 1, 1, 1]}, "tokens must be predicted tokens of each sequence"),
    ],
)
def test_wrong_columns_are_named(change, message):
    metric = AccuracyKept()
    with pytest.raises(MetricInputError, match=message):
        metric.add_batch(**(example() | change))
    assert len(metric) == 0


def test_nothing_added_is_an_error():
    with pytest.raises(MetricInputError, match="before compute"):
        Agreement().compute()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"child_logits": torch.zeros(2, 5, 21)}, r"parent \(2, 5, 20\) and child \(2, 5, 21\)"),
        ({"parent_logits": torch.zeros(2, 5), "child_logits": torch.zeros(2, 5)}, r"expected the same \(batch"),
        ({"input_ids": torch.zeros(2, 4, dtype=torch.int64)}, r"input_ids has shape \(2, 4\)"),
        ({"input_ids": torch.full((2, 5), -100)}, "not by -100"),
        ({"input_ids": torch.full((2, 5), 20)}, "token ids from 0 to 19"),
        ({"input_ids": torch.zeros(2, 5)}, "token ids from 0 to 19"),
        ({"attention_mask": torch.ones(2, 4)}, r"attention_mask has shape \(2, 4\)"),
        ({"attention_mask": torch.full((2, 5), 2)}, "0 and 1"),
        ({"attention_mask": torch.tensor([[1] * 5, [1, 0, 1, 0, 1]])}, "sequence 1 of the batch has no next token"),
        ({k: torch.zeros(2, 1, 20) for k in ("parent_logits", "child_logits")} | {"input_ids": torch.zeros(2, 1, dtype=torch.int64)}, "sequence 0"),
    ],
)  # fmt: skip
def test_wrong_batches_are_named(change, message):
    logits = torch.zeros(2, 5, 20)
    given = {"parent_logits": logits, "child_logits": logits, "input_ids": torch.zeros(2, 5, dtype=torch.int64)}
    with pytest.raises(MetricInputError, match=message):
        reductions(**(given | change))


def test_they_are_a_lazy_attribute_of_the_library(tmp_path):
    assert hf_puzzle.metrics.AccuracyKept is AccuracyKept
    assert "metrics" in dir(hf_puzzle)
    code = "import sys, hf_puzzle; assert 'evaluate' not in sys.modules; hf_puzzle.metrics.KLToParent()"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    )


def test_a_batch_of_a_trainer_may_hold_more():
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    plain = reductions(logits, logits, input_ids=ids)
    more = reductions(logits, logits, input_ids=ids, labels=ids, position_ids=ids)
    assert all(torch.equal(plain[name], more[name]) for name in plain)
