"""Tasks over encoded windows: logits, and exact probabilities of whole labels by a trie of their tokens.

Shapes: Q tasks, R rows, L task tokens, V vocabulary, N nodes of a trie, S streams (contexts that a mode reads).
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .cache_pcw import Context, EncodedWindows, check_encoded, check_read, filled_cache, held_tokens, run_decoder
from .masks_pcw import (
    PCWError,
    View,
    accepts,
    cache_name,
    check_count,
    check_length,
    check_masks,
    decoder_of,
    listed,
    plain_model,
    seen_by,
    sites_of,
    token_ids,
)
from .modes_pcw import MODES, Mixture, least_entropy


# longer packed rows pay more for the blocks that are masked out than they save in calls (measured: 100 to 1400)
PACKED_TOKENS = 512
# logits held at once: 256 MiB
SCORED_LOGITS = 1 << 26


@dataclass(frozen=True)
class Reader:
    """Runs tasks of a model over contexts."""

    model: torch.nn.Module
    kind: str
    self_weight: float = 1.0

    @contextlib.contextmanager
    def seeing(self, context: Context, positions: torch.Tensor, allowed: torch.Tensor | None = None):
        """The view of tasks at `positions` (R, L) over `context`; nothing where stock masks are right."""
        if self.kind == "plain" and allowed is None and self.self_weight == 1.0:
            yield
            return
        decoder = decoder_of(self.model)
        keys = context.positions.to(self.model.device)
        view = View(decoder.config, keys, positions.to(self.model.device), allowed, self.self_weight)
        with seen_by(view, sites_of(self.model, self.kind)):
            yield
        if not view.calls and getattr(decoder, "has_attention", True):
            raise PCWError(f"{type(self.model).__name__} does not make its masks with transformers' mask functions")

    def run(self, context: Context, ids, positions, allowed=None, keep=None, cache=None) -> torch.Tensor:
        """Logits (R, kept, V) of `ids` (R, L); keep: the columns wanted, (kept,).

        positions: (R or 1, L), longer by the tokens that `cache` holds behind the context, if it is given.
        """
        model, device = self.model, self.model.device
        cache = cache or filled_cache(model, context.layers, rows=ids.shape[0])
        inputs = {}
        if accepts(model, "position_ids"):
            inputs["position_ids"] = positions[:, -ids.shape[1] :].expand(ids.shape).to(device)
        kept_by_model = keep is not None and accepts(model, "logits_to_keep")
        if kept_by_model:
            inputs["logits_to_keep"] = keep.to(device)
        with self.seeing(context, positions, allowed):
            before = held_tokens(cache)
            logits = model(input_ids=ids.to(device), use_cache=True, **{cache_name(model): cache}, **inputs).logits
        check_read(model, cache, before, ids.shape[1])
        return logits if keep is None or kept_by_model else logits[:, keep.to(logits.device)]

    def batch(self, context: Context, tasks: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        """Per task its logits (L, V), from one right-padded batch."""
        width = max(map(len, tasks))
        ids = torch.tensor([task + (0,) * (width - len(task)) for task in tasks])
        positions = context.next_position + torch.arange(width)[None]
        return [row[: len(task)] for row, task in zip(self.run(context, ids, positions), tasks, strict=True)]

    def packed(self, context: Context, pieces: Sequence["Piece"]) -> Iterator[torch.Tensor]:
        """Per piece its logits (places, V), from rows that hold many pieces over one copy of the context, row by row."""
        rows, used, total = [[]], 0, sum(piece.size for piece in pieces)
        room = max(
            PACKED_TOKENS // 2, -(-total // -(-total // PACKED_TOKENS)) + PACKED_TOKENS // 16
        )  # rows of about one length
        for piece in pieces:
            if used and used + piece.size > min(PACKED_TOKENS, room):
                rows, used = [*rows, []], 0
            rows[-1].append(piece)
            used += piece.size
        for row in rows:
            ids, positions, allowed = _row(context, row)
            starts = [0, *itertools.accumulate(piece.size for piece in row)]
            keep = torch.tensor([start + i for start, piece in zip(starts, row, strict=False) for i in piece.places])
            logits = self.run(context, ids, positions, allowed, keep)[0]
            yield from logits.split([len(piece.places) for piece in row])

    def extended(self, context: Context, pieces: Sequence["Piece"]) -> Context:
        """`context` and behind it the keys of `pieces`, read in one row; its next position is after the last of all."""
        ids, positions, allowed = _row(context, pieces)
        model, device = self.model, self.model.device
        with self.seeing(context, positions, allowed):
            layers = run_decoder(model, ids.to(device), positions.to(device), filled_cache(model, context.layers))
        known = torch.cat([context.positions.to(device), positions[0].to(device)])
        return Context(layers, known, int(known.max()) + 1)


def _row(context: Context, pieces: Sequence["Piece"]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(ids (1, L), positions (1, L), what sees what (L, M + L), or None where that is all before it) of pieces in a row."""
    ids, positions = [], []
    for piece in pieces:
        first = context.next_position if piece.first is None else piece.first
        depths = [len(piece.tokens) - 1 + depth for depth in piece.trie.depths] if piece.trie else []
        ids += [*piece.tokens, *(piece.trie.tokens if piece.trie else ())]
        positions += [first + i for i in (*range(len(piece.tokens)), *depths)]
    allowed = None
    if len(pieces) > 1 or pieces[0].size > len(pieces[0].tokens) or pieces[0].sees is not None:
        allowed = torch.cat(
            [
                torch.cat([piece.seen(len(context.positions)) for piece in pieces]),
                torch.block_diag(*(piece.inside() for piece in pieces)).bool(),
            ],
            dim=1,
        )
    return torch.tensor([ids]), torch.tensor([positions]), allowed


@dataclass(frozen=True)
class Piece:
    """A part of a packed row, which sees the context and itself.

    tokens: read in order. trie: of labels behind them. keep: the places whose logits are wanted; default: the end and the
    nodes with a trie, else all. first: position of the first token; default: the context's next one. sees: (M,) bool,
    which keys of the context; default: all.
    """

    tokens: tuple[int, ...]
    trie: "Trie | None" = None
    keep: tuple[int, ...] | None = None
    first: int | None = None
    sees: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Tokens and nodes."""
        return len(self.tokens) + (len(self.trie.tokens) if self.trie else 0)

    @property
    def places(self) -> Sequence[int]:
        if self.keep is not None:
            return self.keep
        return range(len(self.tokens) - 1 if self.trie else 0, self.size)

    def seen(self, keys: int) -> torch.Tensor:
        """(size, keys) bool."""
        sees = torch.ones(keys, dtype=torch.bool) if self.sees is None else self.sees
        return sees.expand(self.size, -1)

    def inside(self) -> torch.Tensor:
        """(size, size) bool: tokens see those before, nodes all tokens and their own beginnings."""
        block = torch.ones(self.size, self.size, dtype=torch.bool).tril()
        if self.trie and self.trie.tokens:
            block[len(self.tokens) :, len(self.tokens) :] = self.trie.ancestors
        return block


class Trie:
    """Labels as a tree: a node per distinct proper beginning of a label, an edge per distinct beginning.

    tokens, depths: of the N nodes, depth 1 after the task. ancestors: (N, N), which nodes a node sees, itself too.
    edges: (E, 2), node (0: the task's end, i + 1: node i) and next token. paths: (labels, E), the edges of each label.
    """

    def __init__(self, labels: Sequence[tuple[int, ...]]):
        beginnings = sorted({label[:n] for label in labels for n in range(1, len(label))}, key=len)
        index = {(): 0} | {beginning: i for i, beginning in enumerate(beginnings, 1)}
        edges = sorted({label[:n] for label in labels for n in range(1, len(label) + 1)}, key=len)
        edge_index = {edge: i for i, edge in enumerate(edges)}
        self.tokens = [beginning[-1] for beginning in beginnings]
        self.depths = [len(beginning) for beginning in beginnings]
        self.ancestors = torch.zeros(len(beginnings), len(beginnings), dtype=torch.bool)
        for i, beginning in enumerate(beginnings):
            self.ancestors[i, [index[beginning[:n]] - 1 for n in range(1, len(beginning) + 1)]] = True
        self.edges = torch.tensor([(index[edge[:-1]], edge[-1]) for edge in edges])
        self.paths = torch.zeros(len(labels), len(edges))
        for i, label in enumerate(labels):
            self.paths[i, [edge_index[label[:n]] for n in range(1, len(label) + 1)]] = 1.0

    def score(self, logits: torch.Tensor) -> torch.Tensor:
        """(labels,) log-probabilities, the sums over each label's own tokens, from logits (1 + N, V)."""
        node, token = self.edges.to(logits.device).T
        logits = logits.float()
        return self.paths.to(logits.device) @ (logits[node, token] - logits.logsumexp(-1)[node])


@dataclass(frozen=True)
class Plan:
    """A checked request: what to read, how, and which windows."""

    encoded: EncodedWindows
    reader: Reader
    mixture: Mixture
    temperature: float
    top_k: int | None

    def groups(self, tasks: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
        """Tasks by the windows they read; top-k ones are those after which the task's end has the least entropy."""
        count = len(self.encoded.windows)
        if self.top_k is None or self.top_k >= count:
            return {tuple(range(count)): list(range(len(tasks)))}
        found = {}
        contexts = [self.encoded.context([i], self.temperature) for i in range(count)]
        for number, task in enumerate(tasks):
            ends = torch.stack([self.reader.batch(context, [task])[0][-1] for context in contexts])
            entropy = torch.special.entr(ends.float().softmax(-1)).sum(-1)
            best = entropy.argsort(stable=True)[: self.top_k].sort().values
            found.setdefault(tuple(best.tolist()), []).append(number)
        return found

    def logits(self, indices, tasks, packed: bool = False, trie: Trie | None = None, end: int = -1):
        """Per task the logits of the mode, (L, V) or with a trie (1 + N, V); end: the row of the task's last token."""

        def read(context: Context, tasks) -> list[torch.Tensor]:
            if packed or trie:
                return list(self.reader.packed(context, [Piece(task, trie) for task in tasks]))
            return self.reader.batch(context, tasks)

        contexts = self.mixture.contexts(self.encoded, indices, self.temperature)
        if packed or trie is None:
            streams = [read(context, tasks) for context in contexts]
        else:
            streams = [[read(context, [task])[0] for task in tasks] for context in contexts]
        return [self.combined(torch.stack(rows), indices, end) for rows in zip(*streams, strict=True)]

    def combined(self, rows: torch.Tensor, indices, end: int) -> torch.Tensor:
        """Logits (S, L, V) of one task's streams put together by the mode."""
        chosen = None
        if self.mixture.mode.chooses:
            chosen = least_entropy(rows[:, end].float().log_softmax(-1)).expand(rows.shape[1])
        return self.mixture.combine(rows, indices, chosen)


def _plan(model, encoded: EncodedWindows, *knobs) -> Plan:
    kind = check_encoded(model, encoded)
    return Plan(encoded, **check_knobs(model, kind, len(encoded.windows), *knobs))


def check_knobs(model, kind, count: int, mode, temperature, self_weight, top_k_windows, weights, beta) -> dict:
    """The parts of a `Plan` over `count` windows; PCWError for a knob out of its range."""
    if mode not in MODES:
        raise PCWError(f"mode is {mode!r}: expected one of {', '.join(MODES)}")
    for name, value in (("temperature", temperature), ("self_weight", self_weight)):
        if not 0 < value < math.inf:
            raise PCWError(f"{name} is {value!r}: expected a positive number")
    if self_weight != 1.0:
        if kind == "alibi":
            raise PCWError(f"self_weight is not available for {model.config.model_type}, whose masks take no weights")
        check_masks(model)
    if top_k_windows is not None and not 1 <= top_k_windows <= count:
        raise PCWError(f"top_k_windows is {top_k_windows!r}: expected 1 to {count}")
    if weights is not None:
        if not MODES[mode].weighted:
            weighted = " or ".join(repr(name) for name, each in MODES.items() if each.weighted)
            raise PCWError(f"weights are for mode {weighted}, not {mode!r}")
        weights = torch.as_tensor(weights, dtype=torch.float32)
        if weights.shape != (count,) or not 0 < weights.sum() < math.inf or (weights < 0).any():
            raise PCWError(f"weights are {weights.tolist()}: expected {count} numbers, none negative, not all zero")
    return {
        "reader": Reader(model, kind, self_weight),
        "mixture": Mixture(mode, beta, weights),
        "temperature": temperature,
        "top_k": top_k_windows,
    }


def _check_tasks(model, kind, encoded, tasks, extra: int = 0) -> list[tuple[int, ...]]:
    """`tasks` as tuples; PCWError for none, empty ones, and those that `extra` tokens later are past the positions."""
    tasks = [token_ids(model, task, f"task {i}") for i, task in enumerate(listed(tasks, "tasks"))]
    for i, task in enumerate(tasks):
        if not task:
            raise PCWError(f"task {i} is empty")
        check_length(model, kind, encoded.next_position, len(task), extra, f"task {i}")
    return tasks


@torch.no_grad()
def recompute_starts(model, encoded: EncodedWindows, tokens: int) -> EncodedWindows:
    """`encoded` with the first `tokens` of every window but the first read again, behind the windows before it.

    What CacheBlend (arXiv 2405.16444) does where it deviates most: the start of a window, read alone, draws attention that
    a later part of one long text does not. Later tokens keep what they have. No longer exact for one window of many, and
    dependent on their order. PCWError as `task_logits`.
    """
    model = plain_model(model)
    reader = Reader(model, check_encoded(model, encoded))
    check_masks(model)
    check_count(tokens, "recompute_starts")
    prefix, longest = len(encoded.prefix), max(encoded.lengths)
    found = [encoded.window_layers(0)]
    for i, window in enumerate(encoded.windows[1:], 1):
        count = min(tokens, len(window))
        first = prefix if encoded.alignment == "left" else prefix + longest - len(window)
        new = reader.extended(encoded.context(range(i)), [Piece(window[:count], first=first)]).layers
        pairs = zip(new, encoded.window_layers(i), strict=True)
        found.append(
            [
                tuple(
                    o if o is None else torch.cat([n[:, :, -count:], o[:, :, count:]], 2)
                    for n, o in zip(*pair, strict=True)
                )
                for pair in pairs
            ]
        )
    return encoded._with(encoded.windows, found)


def _check_labels(model, labels) -> list[tuple[int, ...]]:
    """`labels` as tuples; PCWError for none, one without tokens, and two equal ones."""
    labels = [token_ids(model, label, f"label {i}") for i, label in enumerate(listed(labels, "labels"))]
    for i, label in enumerate(labels):
        if not label:
            raise PCWError(f"label {i} has no tokens")
        if (first := labels.index(label)) < i:
            raise PCWError(f"labels {first} and {i} have the same tokens {list(label)}")
    return labels


@torch.no_grad()
def task_logits(
    model,
    encoded: EncodedWindows,
    tasks: Sequence[Sequence[int]],
    *,
    mode: str = "pcw",
    temperature: float = 1.0,
    self_weight: float = 1.0,
    top_k_windows: int | None = None,
    packed: bool = False,
    weights: Sequence[float] | None = None,
    beta: float = 0.25,
) -> list[torch.Tensor]:
    """Logits (L, V) of every token of every task, read after the windows.

    Args:
        mode: "pcw" (logits), or "ensemble", "nbce", "single" (log-probabilities); the formulas are those of `MODES`.
        temperature: below 1 sharpens the attention to windows (APE, arXiv 2502.05431).
        self_weight: weight of the task's own keys in the softmax over keys (Structured Prompting, arXiv 2212.06713:
            the number of windows).
        top_k_windows: each task reads only that many windows: those with which its last token is the surest about the
            next one (least entropy).
        packed: tasks share one copy of the cache in few rows; otherwise a right-padded batch, one copy per task.
        weights: of the windows in an ensemble; they need not sum to 1.
        beta: of nbce.

    Raises PCWError for windows of another model, an unknown mode or a knob out of range, and for tasks that are empty
    or do not fit into the model's positions.
    """
    model = plain_model(model)
    plan = _plan(model, encoded, mode, temperature, self_weight, top_k_windows, weights, beta)
    tasks = _check_tasks(model, plan.reader.kind, encoded, tasks)
    if packed:
        check_masks(model)
    found = {}
    for indices, members in plan.groups(tasks).items():
        logits = plan.logits(indices, [tasks[i] for i in members], packed)
        found |= dict(zip(members, logits, strict=True))
    return [found[i] for i in range(len(tasks))]


@torch.no_grad()
def score_labels(
    model,
    encoded: EncodedWindows,
    tasks: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    scores: str = "trie",
    mode: str = "pcw",
    packed: bool = True,
    temperature: float = 1.0,
    self_weight: float = 1.0,
    top_k_windows: int | None = None,
    weights: Sequence[float] | None = None,
    beta: float = 0.25,
) -> torch.Tensor:
    """Log-probabilities (tasks, labels) of whole labels after the tasks, float32 on the CPU: sums over own tokens.

    A label that begins another is scored like any other; give both an end token where they must exclude each other.

    Args:
        scores: "trie": exact, all labels in one forward (a tree of label tokens behind the task, position = depth).
            "each": the same, one forward per label. "greedy": the paper's restricted greedy decoding (section 3): at
            each step the likeliest token among those that continue a label, until one label is left; -inf but for the
            label it chose, whose value is the log-probability of the tokens decided on. A complete label that begins
            others is chosen if the model's likeliest token continues none of them. Mode "pcw" only.
        packed: tasks share rows and one copy of the cache; otherwise one forward per task.

    The other arguments, and PCWError: as `task_logits`; also for no labels, one without tokens, and two equal ones.
    """
    model = plain_model(model)
    plan = _plan(model, encoded, mode, temperature, self_weight, top_k_windows, weights, beta)
    if scores not in ("trie", "each", "greedy"):
        raise PCWError(f"scores is {scores!r}: expected 'trie', 'each' or 'greedy'")
    if scores == "greedy" and not MODES[mode].together:
        raise PCWError(f"scores='greedy' is for mode 'pcw', not {mode!r}")
    labels = _check_labels(model, labels)
    tasks = _check_tasks(model, plan.reader.kind, encoded, tasks, extra=max(map(len, labels)) - 1)
    if scores == "trie":
        check_masks(model)
    score = {"trie": _score_trie, "each": _score_each, "greedy": _score_greedy}[scores]
    found = torch.empty(len(tasks), len(labels))
    for indices, members in plan.groups(tasks).items():
        rows = score(plan, indices, [tasks[i] for i in members], labels, packed)
        found[members] = torch.stack(rows).cpu()
    return found


@torch.no_grad()
def score_modes(
    model,
    encoded: EncodedWindows,
    tasks: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    modes: Sequence[str] = tuple(MODES),
    *,
    temperature: float = 1.0,
    self_weight: float = 1.0,
    beta: float = 0.25,
) -> dict[str, torch.Tensor]:
    """Per mode what `score_labels` gives by trie; a context that several modes read is read once for all of them.

    Arguments and PCWError: as `score_labels`.
    """
    model = plain_model(model)
    plans = {mode: _plan(model, encoded, mode, temperature, self_weight, None, None, beta) for mode in modes}
    reader = next(iter(plans.values())).reader
    labels = _check_labels(model, labels)
    tasks = _check_tasks(model, reader.kind, encoded, tasks, extra=max(map(len, labels)) - 1)
    check_masks(model)
    trie, indices = Trie(labels), tuple(range(len(encoded.windows)))
    parts = {part for plan in plans.values() for part in plan.mixture.parts(indices)}
    contexts = {part: encoded.context(part, temperature) for part in parts}
    found: dict[str, list[torch.Tensor]] = {mode: [] for mode in plans}
    step = _tasks_at_once(model, trie, len(parts))
    for start in range(0, len(tasks), step):
        pieces = [Piece(task, trie) for task in tasks[start : start + step]]
        read = {part: list(reader.packed(context, pieces)) for part, context in contexts.items()}
        for mode, plan in plans.items():
            for i in range(len(pieces)):
                rows = torch.stack([read[part][i] for part in plan.mixture.parts(indices)])
                found[mode].append(trie.score(plan.combined(rows, indices, 0)))
    return {mode: torch.stack(rows).cpu() for mode, rows in found.items()}


def _tasks_at_once(model, trie: Trie, streams: int) -> int:
    vocabulary = model.get_input_embeddings().num_embeddings
    return max(1, SCORED_LOGITS // (streams * (1 + len(trie.tokens)) * vocabulary))


def _score_trie(plan: Plan, indices, tasks, labels, packed: bool) -> list[torch.Tensor]:
    trie = Trie(labels)
    step = _tasks_at_once(plan.reader.model, trie, plan.mixture.streams(len(indices)))
    rows = []
    for start in range(0, len(tasks), step):
        logits = plan.logits(indices, tasks[start : start + step], packed, trie, end=0)
        rows += [trie.score(each) for each in logits]
    return rows


def _score_each(plan: Plan, indices, tasks, labels, packed: bool) -> list[torch.Tensor]:
    def score(task: tuple[int, ...], label: tuple[int, ...]) -> torch.Tensor:
        end = len(task) - 1
        logs = plan.logits(indices, [task + label[:-1]], end=end)[0][end:].float().log_softmax(-1)
        return logs.gather(1, torch.tensor(label, device=logs.device)[:, None]).sum()

    return [torch.stack([score(task, label) for label in labels]) for task in tasks]


def _score_greedy(plan: Plan, indices, tasks, labels, packed: bool) -> list[torch.Tensor]:
    reader, context = plan.reader, plan.encoded.context(indices, plan.temperature)
    rows = []
    for task in tasks:
        cache = filled_cache(reader.model, context.layers)
        taken, score, ids = (), 0.0, torch.tensor([task])
        while True:
            left = [label for label in labels if label[: len(taken)] == taken]
            if len(left) == 1:
                break
            positions = context.next_position + torch.arange(len(task) + len(taken))[None]
            keep = torch.tensor([ids.shape[1] - 1])
            logs = reader.run(context, ids, positions, keep=keep, cache=cache)[0, 0].float().log_softmax(-1)
            allowed = sorted({label[len(taken)] for label in left if len(label) > len(taken)})
            if taken in left and int(logs.argmax()) not in allowed:
                left = [taken]
                break
            token = allowed[int(logs[allowed].argmax())]
            taken, score, ids = (*taken, token), score + float(logs[token]), torch.tensor([[token]])
        row = torch.full((len(labels),), -math.inf)
        row[labels.index(left[0])] = score
        rows.append(row)
    return rows
