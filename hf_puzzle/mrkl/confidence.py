"""Fitting and judging confidences: logistic and isotonic regression, calibration error, risk against coverage (MRKL)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from ..remote.confidence_mrkl import FEATURES, Confidence
from ..remote.plans_mrkl import FEATURES as PLAN_FEATURES
from ..remote.plans_mrkl import Judge


def _logistic(rows, right, decay: float, names=FEATURES) -> tuple[list[float], float]:
    x = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
    y = torch.tensor([float(each) for each in right], dtype=torch.float64)
    weights, bias = torch.zeros(len(names), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [weights.requires_grad_(), bias.requires_grad_()], max_iter=300, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights + bias, y, reduction="sum")
        value = value + decay * (weights**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.tolist(), float(bias.detach())


def isotonic(
    scores: Sequence[float], right: Sequence[bool], sure: float = 0.95, precision: float = 0.99
) -> list[tuple[float, float]]:
    """(least score, share right) by pooling neighbours that fall; shares as of half a hit and half a miss more.

    Only scores from which on `precision` are right may be `sure`: lower ones stay below it.
    """
    groups = defaultdict(lambda: [0, 0])
    for score, hit in zip(scores, right, strict=True):
        groups[round(score, 6)][0] += 1
        groups[round(score, 6)][1] += bool(hit)
    pools: list[list] = []
    for score in sorted(groups):
        count, hits = groups[score]
        pools.append([score, count, hits])
        while len(pools) > 1 and _share(pools[-2]) >= _share(pools[-1]):
            _, more, also = pools.pop()
            pools[-1][1] += more
            pools[-1][2] += also
    found, count, hits = [], 0, 0
    for pool in reversed(pools):
        count, hits = count + pool[1], hits + pool[2]
        found.append((pool[0], _share(pool) if hits >= precision * count else min(_share(pool), sure - 0.01)))
    return found[::-1]


def _share(pool) -> float:
    return (pool[2] + 0.5) / (pool[1] + 1)


def fit(rows: Sequence[Mapping[str, float]], right: Sequence[bool], folds: int = 5, decay: float = 0.1) -> Confidence:
    """The confidence of rows over FEATURES, of which `right` were.

    Raises: ValueError for fewer rows than folds.
    """
    if len(rows) < folds:
        raise ValueError(f"{len(rows)} rows for {folds} folds")
    scores = [0.0] * len(rows)
    for fold in range(folds):
        kept = [i for i in range(len(rows)) if i % folds != fold]
        weights, bias = _logistic([rows[i] for i in kept], [right[i] for i in kept], decay)
        held = Confidence(dict(zip(FEATURES, weights, strict=True)), bias, ())
        for i in range(fold, len(rows), folds):
            scores[i] = held.score(rows[i])
    weights, bias = _logistic(rows, right, decay)
    steps = tuple((round(least, 6), round(share, 4)) for least, share in isotonic(scores, right))
    return Confidence({n: round(w, 4) for n, w in zip(FEATURES, weights, strict=True)}, round(bias, 4), steps)


def fit_judge(rows: Sequence[Mapping[str, float]], right: Sequence[bool], precision: float = 0.95) -> Judge:
    """The judge of a language model's plans, from rows over `plans_mrkl.FEATURES`, of which `right` were.

    Its threshold is the lowest above which `precision` are right. Raises: ValueError without rows. Where no threshold
    reaches the precision, none is ever taken.
    """
    if not rows:
        raise ValueError("a judge needs at least one plan of held-out questions")
    weights, bias = _logistic(rows, right, 1e-3 * len(rows), PLAN_FEATURES)
    fitted = Judge(dict(zip(PLAN_FEATURES, weights, strict=True)), bias, 1.0, precision)
    scored = sorted(((fitted.confidence(row), hit) for row, hit in zip(rows, right, strict=True)), reverse=True)
    hits = 0
    for i, (score, hit) in enumerate(scored, 1):
        hits += hit
        # few plans prove nothing
        if i >= 20 and hits / i >= precision:
            fitted.threshold = score
    return fitted


# -- judging


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins."""
    groups = defaultdict(list)
    for confidence, hit in zip(confidences, right, strict=True):
        groups[min(bins - 1, int(confidence * bins))].append((confidence, hit))
    gaps = (abs(sum(c for c, _ in group) - sum(h for _, h in group)) for group in groups.values())
    return sum(gaps) / max(1, len(right))


def risk_coverage(confidences: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float]]:
    """(share answered, share of these that is wrong) for every threshold, the surest first."""
    found, hits, ranked = [], 0, sorted(zip(confidences, right, strict=True), key=lambda pair: -pair[0])
    for i, (confidence, hit) in enumerate(ranked, 1):
        hits += bool(hit)
        if i == len(ranked) or ranked[i][0] < confidence:
            found.append((round(i / len(ranked), 4), round(1 - hits / i, 4)))
    return found


def coverage(confidences: Sequence[float], right: Sequence[bool], precision: float = 0.95) -> float:
    """The largest share that a threshold answers with at least `precision` right."""
    kept = (share for share, risk in risk_coverage(confidences, right) if 1 - risk >= precision - 1e-9)
    return max(kept, default=0.0)


def reliability(confidences: Sequence[float], right: Sequence[bool], sure: float = 0.95) -> dict:
    """Calibration error, Brier score, coverage at 99 % precision, the risk-coverage curve, and who is sure and right."""
    surely = [bool(hit) for confidence, hit in zip(confidences, right, strict=True) if confidence >= sure]
    brier = sum((c - bool(h)) ** 2 for c, h in zip(confidences, right, strict=True)) / max(1, len(right))
    return {
        "answers": len(right),
        "right": sum(map(bool, right)),
        "ece": round(calibration_error(confidences, right), 4),
        "brier": round(brier, 4),
        "coverage_at_99_precision": round(coverage(confidences, right, 0.99), 4),
        "sure": {"least": sure, "answers": len(surely), "right": sum(surely)},
        "risk_coverage": risk_coverage(confidences, right),
    }
