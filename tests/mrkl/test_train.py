"""The router's training, small: it learns, is calibrated, and the same seed gives the same weights."""

import torch

from hf_puzzle.mrkl.train import labelled, train


def test_small_training_is_reproducible_and_calibrated():
    router, facts = train(count=120, worlds=2, dev=60, epochs=4)
    assert facts["examples"] == 240
    assert facts["dev_router_accuracy"] > 0.4
    assert 0.5 <= router.calibration.threshold <= 1
    again, _ = train(count=120, worlds=2, dev=60, epochs=4)
    assert torch.equal(router.weight, again.weight)
    assert vars(router.calibration) == vars(again.calibration)


def test_labelled_rows_have_a_class(tmp_path):
    rows = labelled("train", 40, 1, 0, tmp_path)
    assert len(rows) == 40
    assert {example.route for _, _, _, example in rows} <= {
        "calculator", "currency", "units", "dates", "database", "weather", "wiki", "none", "many",
    }  # fmt: skip
