"""Routers: which expert a query goes to, with probabilities that mean what they say (MRKL, arXiv 2205.00445).

`LinearRouter` is one linear layer over hashed words and characters of the slot-masked text and counts of slots; it
trains in seconds and is the default. `DecisionRouter` asks a language model through transformers' `decision` pipeline,
by the logits of labels or zero-shot; both have `kind`, `classes`, `probabilities` and `confidence`, so a planner takes
either. Classes are the experts, `none`, and `many` (a question that needs more than one call).
"""

import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .calls_mrkl import read_json
from .known_mrkl import Known
from .slots_mrkl import Reading, read


NONE, MANY = "none", "many"
EXPERTS = ("calculator", "currency", "units", "dates", "database", "weather", "wiki")
CLASSES = (*EXPERTS, NONE, MANY)
BUCKETS = 1 << 15
FEATURES = ("found", "cost", "logp", "none", "calls", "margin")


def features(reading: Reading) -> list:
    """Texts that are hashed: words, pairs and triples of words, characters of words, slots and their number."""
    entity = {}
    for name, slot in zip(reading.ids, reading.slots, strict=True):
        kinds = sorted({reference[0] for reference in slot.value}) if slot.kind == "e" else ()
        entity[name] = "<" + ("+".join(kinds) if kinds else slot.kind) + ">"
    text = re.sub(r"<(\w+)>", lambda m: entity.get(m[1], "<n>"), reading.masked)
    words = ["^", *re.findall(r"<[\w+]+>|[a-z]+(?:'[a-z]+)?|[^\w\s]", text), "$"]
    # what a word says beyond its letters: the name of a table or of a column
    named = ["<" + reading.mentions[w] + ">" if w in reading.mentions else w for w in words]
    found = [f"1 {w}" for w in words] + [f"1 {w}" for w in named if w.startswith("<")]
    found += [f"2 {a} {b}" for a, b in zip(named, named[1:], strict=False)]
    found += [f"3 {a} {b} {c}" for a, b, c in zip(named, named[1:], named[2:], strict=False)]
    for word in words:
        if word[0].isalpha() and len(word) > 3:
            padded = f"<{word}>"
            found += [f"c {padded[i : i + n]}" for n in (3, 4, 5) for i in range(len(padded) - n + 1)]
    counts = {}
    for slot in reading.slots:
        counts[slot.kind] = counts.get(slot.kind, 0) + 1
    found += [f"n {kind} {min(count, 3)}" for kind, count in counts.items()]
    found += ["n " + "".join(sorted(counts))]
    found += [f"m {kind}" for kind in set(reading.mentions.values())]
    return found


def hashed(texts: Iterable, buckets: int = BUCKETS) -> list:
    """Bucket of each text; equal on every machine."""
    return [zlib.crc32(text.encode(errors="replace")) % buckets for text in texts]


@dataclass
class Calibration:
    """From features of a chosen plan to the probability that its route is right, and where to abstain.

    `weights` per name in FEATURES, and `bias`; `temperature` of the router's own logits; plans below `threshold` are
    not run; `precision` is what the threshold was fitted for.
    """

    weights: dict = field(default_factory=dict)
    bias: float = 0.0
    temperature: float = 1.0
    threshold: float = 0.5
    precision: float = 0.95

    def confidence(self, values: Mapping) -> float:
        score = self.bias + sum(self.weights.get(name, 0.0) * values[name] for name in FEATURES)
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature of least cross-entropy; `logits` (N, C), `labels` (N,)."""
    best = min(
        (math.exp(step / 20) for step in range(-50, 51)),
        key=lambda t: float(torch.nn.functional.cross_entropy(logits / t, labels)),
    )
    return best


def fit_confidence(rows: Sequence, right: Sequence, precision: float = 0.95, steps: int = 400) -> Calibration:
    """Logistic regression of `right` (bools) on `rows` (dicts over FEATURES), and the threshold for `precision`.

    The threshold is the lowest confidence above which at least `precision` of the plans are right, and at least 1/2:
    a plan that is more likely wrong than right is not run even where the precision would allow it.
    Raises: ValueError when there are no rows.
    """
    if not rows:
        raise ValueError("calibration needs at least one query of the development split")
    x = torch.tensor([[row[name] for name in FEATURES] for row in rows], dtype=torch.float64)
    y = torch.tensor([float(each) for each in right], dtype=torch.float64)
    weights = torch.zeros(len(FEATURES), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights + bias, y)
        value = value + 1e-3 * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = Calibration(dict(zip(FEATURES, weights.tolist(), strict=True)), float(bias.detach()), precision=precision)
    plans = [(fitted.confidence(row), hit) for row, hit in zip(rows, right, strict=True) if row["found"]]
    scored = sorted(plans, reverse=True)
    hits, threshold = 0, 1.0
    for i, (score, hit) in enumerate(scored, 1):
        hits += hit
        if hits / i >= precision:
            threshold = score
    fitted.threshold = max(threshold, 0.5)
    return fitted


class Router:
    """What a planner needs of a router."""

    kind = "none"
    classes: tuple = CLASSES
    calibration: Calibration

    def probabilities(self, reading: Reading) -> dict:
        """{class: probability}, summing to 1."""
        raise NotImplementedError

    def confidence(self, values: Mapping) -> float:
        """Probability that the route of a plan with these FEATURES is right."""
        return self.calibration.confidence(values)

    @property
    def threshold(self) -> float:
        return self.calibration.threshold


class LinearRouter(Router):
    """One linear layer over hashed n-grams. `weight` (C, BUCKETS) and `bias` (C,), float32 in memory, half on disk."""

    kind = "linear"

    def __init__(self, classes: Sequence = CLASSES, weight=None, bias=None, calibration=None):
        self.classes = tuple(classes)
        self.weight = torch.zeros(len(self.classes), BUCKETS) if weight is None else weight.float()
        self.bias = torch.zeros(len(self.classes)) if bias is None else bias.float()
        self.calibration = calibration or Calibration()
        if self.weight.shape != (len(self.classes), BUCKETS):
            raise ValueError(
                f"weight must have shape ({len(self.classes)}, {BUCKETS}), not {tuple(self.weight.shape)}"
            )

    def logits(self, reading: Reading) -> torch.Tensor:
        """Uncalibrated scores, (C,)."""
        buckets = torch.tensor(hashed(features(reading)), dtype=torch.long)
        return self.weight[:, buckets].sum(1) / math.sqrt(len(buckets)) + self.bias

    def probabilities(self, reading: Reading) -> dict:
        scores = (self.logits(reading) / self.calibration.temperature).softmax(0)
        return dict(zip(self.classes, scores.tolist(), strict=True))

    def fit(
        self,
        readings: Sequence,
        labels: Sequence,
        epochs: int = 12,
        rate: float = 0.05,
        seed: int = 0,
        decay: float = 1e-5,
    ):
        """Train on masked readings and class names; new names in `labels` become classes. Returns self.

        Classes in the data are retrained from where they are, so that adding an expert needs its examples and those
        of the others once more, and seconds. Raises: ValueError when lengths differ or nothing is given.
        """
        if len(readings) != len(labels) or not readings:
            raise ValueError(f"{len(readings)} readings and {len(labels)} labels: one label per reading, at least one")
        new = [name for name in dict.fromkeys(labels) if name not in self.classes]
        if new:
            self.classes = (*self.classes, *new)
            self.weight = torch.cat([self.weight, torch.zeros(len(new), BUCKETS)])
            self.bias = torch.cat([self.bias, torch.full((len(new),), -1.0)])
        rows = [torch.tensor(hashed(features(r)), dtype=torch.long) for r in readings]
        targets = torch.tensor([self.classes.index(name) for name in labels])
        table = torch.nn.Parameter(self.weight.t().contiguous())
        bias = torch.nn.Parameter(self.bias.clone())
        optimizer = torch.optim.Adam([table, bias], lr=rate)
        generator = torch.Generator().manual_seed(seed)
        size = 256
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - epoch / epochs)
            for batch in torch.randperm(len(rows), generator=generator).split(size):
                flat = torch.cat([rows[i] for i in batch])
                lengths = torch.tensor([len(rows[i]) for i in batch])
                offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)[:-1]])
                sums = torch.nn.functional.embedding_bag(flat, table, offsets, mode="sum")
                scores = sums / lengths.sqrt().unsqueeze(1) + bias
                loss = torch.nn.functional.cross_entropy(scores, targets[batch], label_smoothing=0.02)
                loss = loss + decay * (table**2).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.weight, self.bias = table.detach().t().contiguous(), bias.detach()
        return self

    def save(self, stem) -> None:
        """Write `<stem>.safetensors` (half precision) and `<stem>.json` (classes, calibration)."""
        stem = Path(stem)
        write_safetensors(stem.with_suffix(".safetensors"), {"weight": self.weight.half(), "bias": self.bias.half()})
        facts = {
            "kind": self.kind,
            "classes": list(self.classes),
            "buckets": BUCKETS,
            "calibration": vars(self.calibration),
        }
        stem.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, stem) -> "LinearRouter":
        """Read what `save` wrote. Raises: ValueError when the files are of another kind or size; OSError when absent."""
        stem = Path(stem)
        facts = read_json(stem.with_suffix(".json"))
        if not isinstance(facts, Mapping) or facts.get("kind") != cls.kind or facts.get("buckets") != BUCKETS:
            facts = facts if isinstance(facts, Mapping) else {}
            raise ValueError(
                f"{stem}.json holds a {facts.get('kind')!r} router of {facts.get('buckets')} buckets, not linear of {BUCKETS}"
            )
        tensors = read_safetensors(stem.with_suffix(".safetensors"))
        try:
            return cls(facts["classes"], tensors["weight"], tensors["bias"], Calibration(**facts["calibration"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"{stem}.json is not what a router writes: {error}") from None

    @classmethod
    def default(cls) -> "LinearRouter":
        """The router shipped beside this file, trained by `python -m hf_puzzle.mrkl.train`."""
        return cls.load(Path(__file__).with_name("router_mrkl"))


class DecisionRouter(Router):
    """A language model as router, through transformers' `decision` pipeline: one forward pass, one choice.

    Args:
        pipeline: a `decision` pipeline, or anything called as `pipeline({"state", "questions"})` that answers
            `{"route": {"probabilities": {class: p}}}`.
        descriptions: class -> what it can answer; experts' own descriptions.
        kind: "label-logits" for a model tuned on routes (soft prompt or LoRA), "zero-shot" for one that is not.
    """

    def __init__(
        self, pipeline, descriptions: Mapping, kind: str = "zero-shot", calibration: Calibration | None = None
    ):
        if kind not in ("label-logits", "zero-shot"):
            raise ValueError(f"kind is 'label-logits' or 'zero-shot', not {kind!r}")
        self.pipeline, self.kind = pipeline, kind
        self.descriptions = {
            NONE: "chat, opinions, writing, general knowledge: nothing the others hold",
            MANY: "needs more than one of the others, one after another",
        } | dict(descriptions)
        self.classes = tuple(self.descriptions)
        self.calibration = calibration or Calibration()

    def probabilities(self, reading: Reading) -> dict:
        question = {
            "type": "choice",
            "instructions": "Which of these can answer the query exactly?",
            "criteria": self.descriptions,
        }
        answer = self.pipeline({"state": reading.text, "questions": {"route": question}})["route"]
        found = {name: max(float(answer["probabilities"].get(name, 0.0)), 1e-6) for name in self.classes}
        powers = {name: p ** (1 / self.calibration.temperature) for name, p in found.items()}
        total = sum(powers.values())
        return {name: p / total for name, p in powers.items()}


# -- files

_TYPES = {"F16": torch.float16, "F32": torch.float32}


def write_safetensors(path, tensors: Mapping) -> None:
    """The safetensors format, so that the file needs no package to be read: 8 bytes of length, JSON header, bytes."""
    header, blobs, at = {}, [], 0
    names = {dtype: name for name, dtype in _TYPES.items()}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        blob = tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(blob)],
        }
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path) -> dict:
    """Tensors of a safetensors file of half or single precision. Raises: ValueError when it is none."""
    data = Path(path).read_bytes()
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            low, high = entry["data_offsets"]
            body = bytearray(data[8 + size + low : 8 + size + high])
            flat = torch.frombuffer(body, dtype=_TYPES[entry["dtype"]]) if body else torch.empty(0)
            found[name] = flat.reshape(entry["shape"])
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} is not a safetensors file of half or single precision: {error}") from error
    return found


def readings(texts: Iterable, known: Known) -> list:
    """`read` for many texts."""
    return [read(text, known) for text in texts]
