"""The linear router learns, calibrates, is saved without packages, and takes an eighth expert."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hf_puzzle.remote.known_mrkl import Known
from hf_puzzle.remote.router_mrkl import (
    CLASSES,
    FEATURES,
    Calibration,
    DecisionRouter,
    LinearRouter,
    features,
    fit_confidence,
    fit_temperature,
    hashed,
    read_safetensors,
    write_safetensors,
)
from hf_puzzle.remote.slots_mrkl import read


KNOWN = Known("2023-06-14", places=("Oldtown",), currencies=("EUR", "USD"))
TEXTS = {
    "calculator": ["What is 3 plus 4", "Multiply 5 by 6", "Divide nine by three", "The sum of 2 and 8"],
    "weather": [
        "How warm was it in Oldtown on 2023-05-01",
        "Rain in Oldtown on 2023-05-02",
        "Oldtown wind, 2023-05-03",
    ],
    "none": ["Hello there", "Write a poem", "Tell me a joke", "What is love?"],
}


def examples():
    rows = [(read(text, KNOWN), name) for name, texts in TEXTS.items() for text in texts]
    return [r for r, _ in rows], [n for _, n in rows]


@pytest.fixture(scope="module")
def router():
    return LinearRouter(tuple(TEXTS)).fit(*examples(), epochs=30)


def best(router, text):
    found = router.probabilities(read(text, KNOWN))
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    return max(found, key=found.get)


def test_it_learns_wording_and_not_numbers(router):
    assert best(router, "What is 987654321 plus 12") == "calculator"
    assert best(router, "Tell me a poem") == "none"
    assert features(read("3 plus 4", KNOWN)) == features(read("9,876 plus seventy two", KNOWN))


def test_same_seed_same_weights(router):
    assert torch.equal(LinearRouter(tuple(TEXTS)).fit(*examples(), epochs=30).weight, router.weight)


def test_hashes_are_fixed():
    assert hashed(["1 plus", "2 a b"]) == [25922, 13828]


def test_saved_and_loaded(router, tmp_path):
    router.calibration = Calibration({"cost": -1.0}, 0.5, 1.5, 0.6)
    router.save(tmp_path / "router")
    loaded = LinearRouter.load(tmp_path / "router")
    assert loaded.classes == router.classes
    assert vars(loaded.calibration) == vars(router.calibration)
    assert torch.equal(loaded.weight, router.weight.half().float())
    assert torch.equal(load_file(tmp_path / "router.safetensors")["weight"], router.weight.half())
    facts = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps(facts | {"buckets": 3}))
    with pytest.raises(ValueError, match="buckets"):
        LinearRouter.load(tmp_path / "router")


def test_safetensors_refuses_other_files(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)}
    write_safetensors(tmp_path / "x", tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in read_safetensors(tmp_path / "x").items())
    (tmp_path / "y").write_bytes(b"12345678{broken")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_safetensors(tmp_path / "y")


def test_another_expert(router):
    router = LinearRouter(router.classes, router.weight, router.bias)
    readings, labels = examples()
    trains = [read(text, KNOWN) for text in ("Next train to Oldtown", "When does the train leave", "Train platform?")]
    router.fit(readings + trains, labels + ["trains"] * 3, epochs=20)
    assert router.classes == (*TEXTS, "trains")
    assert best(router, "Which train goes to Oldtown") == "trains"
    assert best(router, "Multiply 7 by 8") == "calculator"


def test_wrong_input():
    with pytest.raises(ValueError, match="one label per reading"):
        LinearRouter().fit([], [])
    with pytest.raises(ValueError, match="weight must have shape"):
        LinearRouter(weight=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least one query"):
        fit_confidence([], [])


def test_temperature_of_overconfident_scores():
    labels = torch.tensor([0, 1] * 50)
    scores = torch.nn.functional.one_hot(labels, 2).float() * 20
    scores[:20] = scores[:20].flip(1)
    assert fit_temperature(scores, labels) > 3


def test_confidence_orders_and_threshold_is_kept():
    rows = [dict.fromkeys(FEATURES, 0.0) | {"found": 1.0, "cost": i / 10} for i in range(40)]
    right = [i < 25 for i in range(40)]
    fitted = fit_confidence(rows, right)
    scores = [fitted.confidence(row) for row in rows]
    assert scores == sorted(scores, reverse=True)
    kept = [hit for score, hit in zip(scores, right, strict=True) if score >= fitted.threshold]
    assert sum(kept) / len(kept) >= 0.95


def test_decision_router_asks_a_pipeline():
    asked = []

    def pipeline(request):
        asked.append(request)
        return {"route": {"probabilities": {"weather": 0.6, "none": 0.3, "many": 0.1}}}

    router = DecisionRouter(pipeline, {"weather": "measured weather"}, calibration=Calibration(temperature=0.5))
    found = router.probabilities(read("Was it warm?", KNOWN))
    assert found["weather"] == pytest.approx(0.36 / 0.46)
    assert asked[0]["state"] == "Was it warm?"
    assert set(asked[0]["questions"]["route"]["criteria"]) == {"none", "many", "weather"}
    with pytest.raises(ValueError, match="label-logits"):
        DecisionRouter(pipeline, {}, kind="magic")


def test_the_shipped_router():
    router = LinearRouter.default()
    assert router.classes == CLASSES
    assert best(router, "What is 12 times 13?") == "calculator"
    assert best(router, "Write me a love song") == "none"
    assert router.weight.numel() * 2 < 2_000_000
