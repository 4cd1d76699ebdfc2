"""What the same shots give without a language model: nearest neighbour and a linear classifier, on n-grams or embeddings.

They are the plain choice for text with a few examples per label; what windows are worth is what they add to these.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from transformers import AutoModel, AutoTokenizer


FEATURES = 1 << 14  # n-grams are hashed to so many columns
RIDGE = 0.05  # weight of the squared weights against the sum of the losses (C = 10 in common terms)
BASELINES = ("nearest", "linear")
EMBEDDED = ("nearest_embeddings", "linear_embeddings")  # the same, by a sentence encoder
BATCH = 64

# texts to rows of length 1: those of shots, and those of texts in the same space
Encoder = Callable[[Sequence[str], Sequence[str]], tuple[torch.Tensor, torch.Tensor]]


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


def by_ngrams(shots: Sequence[str], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of n-grams: those of the shots and of the texts, in the shots' space."""
    known, weights = features(shots)
    return known, features(texts, weights)[0]


def sentence_encoder(name: str) -> Encoder:
    """An `Encoder` of a model on the Hub or in a folder: the mean of its last hidden states (as MiniLM's).

    A text is read once, however often it is asked for.
    """
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def encode(shots: Sequence[str], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        new = [text for text in dict.fromkeys([*shots, *texts]) if text not in known]
        for start in range(0, len(new), BATCH):
            chunk = new[start : start + BATCH]
            inputs = tokenizer(chunk, padding=True, truncation=True, return_tensors="pt")
            mask = inputs["attention_mask"][..., None].float()
            states = (model(**inputs).last_hidden_state.float() * mask).sum(1) / mask.sum(1)
            known.update(zip(chunk, torch.nn.functional.normalize(states, dim=1), strict=True))
        return tuple(torch.stack([known[text] for text in part]) for part in (shots, texts))

    return encode


def scores(
    name: str, shots: Sequence[tuple[str, int]], texts: Sequence[str], labels: int, encoder: Encoder = by_ngrams
) -> torch.Tensor:
    """(texts, labels) log-probabilities after `shots` (text, label).

    nearest: the cosine of the most similar shot of each label, sharpened to a distribution. linear: multinomial logistic
    regression with squared weights, to convergence. Labels without a shot keep the least.
    """
    known, asked = encoder([text for text, _ in shots], texts)
    right = torch.tensor([label for _, label in shots])
    if name.startswith("nearest"):
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
