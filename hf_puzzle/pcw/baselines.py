"""What the same shots give without a language model: nearest neighbour and a linear classifier on n-grams.

Both are the plain choice for text with a few examples per label; what windows are worth is what they add to these.
"""

import math
import zlib
from collections import Counter
from collections.abc import Sequence

import torch


FEATURES = 1 << 14  # n-grams are hashed to so many columns
RIDGE = 0.05  # weight of the squared weights against the sum of the losses (C = 10 in common terms)
BASELINES = ("nearest", "linear")


def ngrams(text: str) -> Counter:
    """Words, pairs of words, and runs of 3 to 5 characters within words, as columns."""
    words = text.lower().split()
    found = [f"w {word}" for word in words] + [f"p {a} {b}" for a, b in zip(words, words[1:], strict=False)]
    found += [
        f"c {' ' + w + ' '}"[i : i + n + 2] for w in words for n in (3, 4, 5) for i in range(max(0, len(w) + 3 - n))
    ]
    return Counter(zlib.crc32(each.encode()) % FEATURES for each in found)


def features(texts: Sequence[str], weights: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """((texts, FEATURES) rows of length 1, the weights (FEATURES,) of the columns): logarithmic counts times the inverse
    document frequency, which is that of `texts` unless it is given."""
    rows = torch.zeros(len(texts), FEATURES)
    for row, text in zip(rows, texts, strict=True):
        for column, count in ngrams(text).items():
            row[column] = 1 + math.log(count)
    if weights is None:
        weights = ((1 + len(texts)) / (1 + (rows > 0).sum(0))).log() + 1
    rows = rows * weights
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-9), weights


def scores(name: str, shots: Sequence[tuple[str, int]], texts: Sequence[str], labels: int) -> torch.Tensor:
    """(texts, labels) log-probabilities after `shots` (text, label).

    nearest: the cosine of the most similar shot of each label, sharpened to a distribution. linear: multinomial logistic
    regression with squared weights, to convergence. Labels without a shot keep the least.
    """
    known, weights = features([text for text, _ in shots])
    asked, _ = features(texts, weights)
    right = torch.tensor([label for _, label in shots])
    if name == "nearest":
        similar = asked @ known.T
        found = torch.full((len(texts), labels), -1.0)
        found.scatter_reduce_(1, right.expand(len(texts), -1), similar, "amax")
        return (10 * found).log_softmax(1)
    return _linear(known, right, asked, labels).log_softmax(1)


def _linear(known: torch.Tensor, right: torch.Tensor, asked: torch.Tensor, labels: int) -> torch.Tensor:
    """Logits of the regression, in the span of the shots: as many weights per label as there are shots."""
    kernel = known @ known.T
    alpha = torch.zeros(len(known), labels, requires_grad=True)
    bias = torch.zeros(labels, requires_grad=True)
    seen = torch.zeros(labels).index_fill(0, right, 1.0)
    penalty = RIDGE / len(known)
    optimizer = torch.optim.LBFGS([alpha, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = kernel @ alpha + bias + (seen - 1) * 1e4
        loss = torch.nn.functional.cross_entropy(logits, right) + penalty * (alpha * (kernel @ alpha)).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return (asked @ known.T @ alpha + bias + (seen - 1) * 1e4).detach()
