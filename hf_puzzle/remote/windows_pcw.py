"""From demonstrations or documents to parallel context windows (PCW, arXiv 2212.10947, section 3 and appendix).

Text in, token ids out: how many windows of what length, which example goes into which window, where the prefix (BOS)
ends, and how a task and its labels are tokenized so that window and task are the tokens of the joined text. No model is
needed here, only a tokenizer.
"""

import difflib
import operator
import random
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import ceil, floor

import torch

from .masks_pcw import PCWError, check_count, column_names, scale_switch


TOKENIZATIONS = ("joint", "separate")


# -- templates and what users hand in


@dataclass(frozen=True)
class Template:
    """How a demonstration reads; a task is the same without its label, right-stripped (appendix of the paper).

    Attributes:
        text: a format string that ends with `{label}`; its other fields are the inputs.
        separator: between demonstrations, and between a window's last demonstration and the task.
    """

    text: str = "Text: {text}\nLabel: {label}"
    separator: str = "\n==\n"

    def __post_init__(self):
        for name, value in (("template", self.text), ("separator", self.separator)):
            if not isinstance(value, str):
                raise PCWError(f"{name} is {value!r:.80}: expected a text")
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise PCWError(f"template {self.text!r} is not a format string: {error}") from None
        names = [name for _, name, _, _ in parts if name is not None]
        # `{text:>9999999999}` would be all the memory there is
        if wrong := [name for _, name, spec, conversion in parts if spec or conversion]:
            raise PCWError(f"template {self.text!r}: {{{wrong[0]}}} takes no format or conversion")
        if parts[-1:] == [] or parts[-1][1] != "label" or names.count("label") != 1:
            raise PCWError(f"template {self.text!r} must hold {{label}} once, at its end: the label is what is scored")
        if len(names) < 2 or not all(name.isidentifier() for name in names):
            raise PCWError(f"template {self.text!r} must name its inputs before {{label}}, for example {{text}}")
        if not self.separator:
            raise PCWError("the separator is empty: demonstrations would run into each other")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the inputs, without the label."""
        names = [name for _, name, _, _ in string.Formatter().parse(self.text) if name not in (None, "label")]
        return tuple(dict.fromkeys(names))

    def inputs(self, value, what: str = "an input") -> tuple[str, ...]:
        """The fields' texts, in order, of a text (one field) or of a mapping; PCWError for anything else."""
        if isinstance(value, str) and len(self.fields) == 1:
            return (value,)
        if not isinstance(value, Mapping):
            names = ", ".join(self.fields)
            wanted = f"a text or a mapping with {names}" if len(self.fields) == 1 else f"a mapping with {names}"
            raise PCWError(f"{what} is {value!r}: expected {wanted}")
        if missing := [name for name in self.fields if not isinstance(value.get(name), str)]:
            raise PCWError(f"{what} has no text {missing[0]!r}, which the template names; it has {', '.join(value)}")
        return tuple(value[name] for name in self.fields)

    def _head(self, inputs: tuple[str, ...]) -> str:
        return self.text[: self.text.rindex("{label}")].format(**dict(zip(self.fields, inputs, strict=True)))

    def task(self, inputs: tuple[str, ...]) -> str:
        """The text that a label continues."""
        return self._head(inputs).rstrip()

    def answer(self, inputs: tuple[str, ...], label: str) -> str:
        """`label` as it follows `task`: with the white space before it, which belongs to its first token."""
        head = self._head(inputs)
        return head[len(head.rstrip()) :] + label

    def demonstration(self, inputs: tuple[str, ...], label: str) -> str:
        return self._head(inputs) + label


@dataclass(frozen=True)
class Demonstration:
    """One labelled example: the texts of the template's fields, and the label's words."""

    inputs: tuple[str, ...]
    label: str


def read_demonstrations(
    demonstrations,
    template: Template,
    labels: Sequence[str] | None = None,
    text_column: str | None = None,
    label_column: str = "label",
) -> tuple[list[Demonstration], tuple[str, ...]]:
    """Demonstrations and label set of what a user hands in.

    Args:
        demonstrations: pairs (text or mapping, label), mappings with the template's fields and `label_column`, or a
            `datasets.Dataset` or data frame with such columns; integer labels (NumPy's and tensors too) index the
            column's names, or `labels`.
        labels: the label set, in the order of the scores; default: the demonstrations' labels, sorted.
        text_column: the column of the only field, where it is not named as the field.

    Raises PCWError for no demonstrations, unreadable ones, and labels that are empty, equal, or not in `labels`.
    """
    given = None if labels is None else _label_set(labels)
    columns = {name: name for name in template.fields}
    if text_column is not None:
        if len(columns) != 1:
            raise PCWError(f"text_column is for templates with one input, this one has {', '.join(columns)}")
        columns = {template.fields[0]: text_column}
    if (found := column_names(demonstrations)) is not None:
        rows, names = _read_table(demonstrations, found, columns, label_column)
        given = given or names
    else:
        if not isinstance(demonstrations, Iterable | None) or isinstance(demonstrations, str):
            raise PCWError(f"demonstrations is {demonstrations!r:.80}: expected pairs (text, label), or mappings")
        rows = [
            _read_row(row, i, columns, label_column)
            for i, row in enumerate(() if demonstrations is None else demonstrations)
        ]
    if not rows:
        raise PCWError("there are no demonstrations: no windows can be made")
    found = []
    for i, (value, label) in enumerate(rows):
        what = f"demonstration {i}"
        if (index := _index(label)) is not None and given is not None:
            if not 0 <= index < len(given):
                raise PCWError(f"{what} has label {index}: expected 0 to {len(given) - 1}, an index of labels")
            label = given[index]
        if not isinstance(label, str):
            raise PCWError(f"{what} has label {label!r}: expected a text, or an index of labels=")
        if given is not None and label not in given:
            near = difflib.get_close_matches(label, given, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PCWError(f"{what} has label {label!r}, which is not in labels{hint}")
        found.append(Demonstration(template.inputs(value, what), str(label)))
    return found, given or _label_set(sorted({each.label for each in found}))


def _index(value) -> int | None:
    """`value` as an integer, also of NumPy and of a tensor with one element; None for what is none."""
    if isinstance(value, str | bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _read_table(table, found: list[str], columns: dict[str, str], label_column: str):
    wanted = [*columns.values(), label_column]
    if missing := [name for name in wanted if name not in found]:
        raise PCWError(f"the demonstrations have no column {missing[0]!r}; they have {', '.join(map(str, found))}")
    features = getattr(table, "features", None) or {}
    names = getattr(features.get(label_column), "names", None)
    values = {name: _column(table[name]) for name in wanted}
    rows = zip(*(values[name] for name in columns.values()), strict=True)
    pairs = zip((dict(zip(columns, row, strict=True)) for row in rows), values[label_column], strict=True)
    return list(pairs), None if names is None else _label_set(names)


def _column(column) -> list:
    return column.to_pylist() if hasattr(column, "to_pylist") else list(column)


def table_rows(table) -> list[dict]:
    """The rows of a data set or data frame, each a mapping from column to value."""
    names = column_names(table)
    return [dict(zip(names, row, strict=True)) for row in zip(*(_column(table[name]) for name in names), strict=True)]


def _read_row(row, index: int, columns: dict[str, str], label_column: str):
    if isinstance(row, Demonstration):
        return dict(zip(columns, row.inputs, strict=True)), row.label
    if isinstance(row, Mapping):
        if missing := [name for name in (*columns.values(), label_column) if name not in row]:
            raise PCWError(f"demonstration {index} has no {missing[0]!r}; it has {', '.join(row)}")
        return {name: row[column] for name, column in columns.items()}, row[label_column]
    if isinstance(row, str | Set) or not hasattr(row, "__getitem__") or not hasattr(row, "__len__") or len(row) != 2:
        raise PCWError(f"demonstration {index} is {row!r}: expected a pair (text, label) or a mapping")
    return row


def _label_set(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str | Mapping | Set) or not isinstance(labels, Collection) or not len(labels):
        raise PCWError(f"labels is {labels!r:.80}: expected a list of at least one text")
    for i, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise PCWError(f"label {i} is {label!r}: expected words")
    if twice := [label for label, n in Counter(labels).items() if n > 1]:
        raise PCWError(f"label {twice[0]!r} is there twice")
    return tuple(map(str, labels))


# -- tokens


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's ids of joined and of separate texts.

    tokenization: "joint": a text behind another has the ids it has in the joined text, where a token boundary lies
    between; "separate": every text has the ids it has alone, as in the authors' code, which for sentencepiece
    tokenizers puts a space before the task.
    """

    tokenizer: Callable
    tokenization: str = "joint"

    def __post_init__(self):
        if self.tokenization not in TOKENIZATIONS:
            raise PCWError(f"tokenization is {self.tokenization!r}: expected one of {', '.join(TOKENIZATIONS)}")

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of `text` alone, without special tokens."""
        try:
            return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else ()
        except TypeError:  # what the Rust tokenizers say to half a surrogate pair
            raise PCWError(f"{text!r:.80} is not Unicode text") from None

    def start(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text: BOS, or nothing. No real token is ever taken for it."""
        probe = "a"
        plain, whole = self.ids(probe), tuple(self.tokenizer(probe, verbose=False)["input_ids"])
        for first in range(len(whole) - len(plain) + 1):
            if whole[first : first + len(plain)] == plain:
                return whole[:first]
        return ()

    def split(self, before: str, after: str) -> tuple[int, ...] | None:
        """Ids of `after` in `before + after`; None if no token of it ends where `before` ends."""
        head, whole = self.ids(before), self.ids(before + after)
        return whole[len(head) :] if whole[: len(head)] == head else None

    def behind(self, befores: Sequence[str], after: str) -> tuple[int, ...]:
        """Ids of `after` behind each of `befores`; those it has alone if they are not the same behind all of them."""
        alone = None
        if self.tokenization == "joint":
            found = {self.split(before, after) for before in befores}
            alone = found.pop() if len(found) == 1 else None
        return self.ids(after) if alone is None else alone

    def shared(self, before: str, afters: Sequence[str]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """(ids of BOS and `before`, ids of each of `afters`): of the joined texts, as far as those begin alike."""
        head = self.ids(before)
        if self.tokenization == "separate":
            return self.start() + head, tuple(map(self.ids, afters))
        joined = [self.ids(before + after) for after in afters]
        most = min(len(head), *(len(ids) - 1 for ids in joined))
        common = next((n for n in range(most) if len({head[n], *(ids[n] for ids in joined)}) > 1), most)
        return self.start() + head[:common], tuple(ids[common:] for ids in joined)


@dataclass(frozen=True)
class Labels:
    """The label set in context.

    Attributes:
        names: as the user wrote them.
        tokens: per label the ids behind a task; a label that begins another one ends with the first token of the
            separator, so that the two exclude each other as continuations.
    """

    names: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]


def tokenize_labels(tokens: Tokens, names: Sequence[str], template: Template) -> Labels:
    """PCWError for labels that tokenize to nothing or to the same tokens."""
    names = _label_set(names)
    probe = ("a",) * len(template.fields)
    before = template.separator + template.task(probe)
    found = []
    for name in names:
        ids = tokens.behind([before], template.answer(probe, name))
        if not ids:
            raise PCWError(f"label {name!r} has no tokens")
        if ids in found:
            raise PCWError(f"labels {names[found.index(ids)]!r} and {name!r} have the same tokens {list(ids)}")
        found.append(ids)
    for i, (name, ids) in enumerate(zip(names, found, strict=True)):
        if any(other != ids and other[: len(ids)] == ids for other in found):
            found[i] += tokens.behind([before + template.answer(probe, name)], template.separator)[:1]
    return Labels(names, tuple(found))


# -- sizes


def context_size(config) -> int:
    """N: positions a model of this config can use at once.

    The trained positions, or the sliding window where every layer has one: beyond it nothing of a window is seen; with
    longrope those before its scale changes, which windows and task must share.
    Raises PCWError if the config does not say (ALiBi models may not).
    """
    config = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len", "seq_length", "n_positions")
    size = next((n for name in names if (n := getattr(config, name, None))), None)
    if size is None:
        raise PCWError(f"{config.model_type} does not say how many positions it was trained on: give context_size")
    size = min(size, scale_switch(config)[0])
    window = getattr(config, "sliding_window", None)
    slides = getattr(config, "use_sliding_window", True)
    types = getattr(config, "layer_types", None) or ["sliding_attention"]
    if window and slides and set(types) == {"sliding_attention"}:
        return min(size, window)
    return size


def drop_longest(lengths: Sequence[int], share: float = 0.01) -> list[int]:
    """Without the longest `share`, as the paper drops 1 % of training and test prompts (appendix)."""
    kept = ceil(len(lengths) * (1 - share))
    return sorted(lengths)[: max(1, kept)]


def n_max(context: int, tasks: Sequence[int], demonstrations: Sequence[int]) -> int:
    """Demonstrations per window: floor((N - T_max) / D90) of the paper (section 3).

    Args:
        context: N, in tokens.
        tasks: tokens per task; T_max is the longest but for the dropped 1 %.
        demonstrations: tokens per demonstration with its separator; D90 is their 90th percentile, without the longest 1 %.
    """
    longest = max(drop_longest(tasks))
    d90 = torch.quantile(torch.tensor(drop_longest(demonstrations), dtype=torch.float64), 0.9).item()
    return max(0, floor((context - longest) / d90))


# -- dealing examples to windows


def deal(lengths: Sequence[int], classes: Sequence, num_windows: int, seed: int = 0) -> list[list[int]]:
    """Indices of the examples of each window, in the window's order.

    Every window gets the same number of examples and of each class, give or take one, and as nearly as possible the
    same number of tokens: rows of each class, its longest example to the window that is shortest so far (appendix of
    the paper, without the authors' mix-up of windows for B >= 3), then exchanges between the longest and the shortest
    window. Shuffled inside windows; equal arguments give equal results.
    """
    generator = random.Random(seed)
    order = list(range(len(lengths)))
    generator.shuffle(order)
    rows: dict = {}
    for i in order:
        rows.setdefault(classes[i], []).append(i)
    windows: list[list[int]] = [[] for _ in range(num_windows)]
    tokens = [0] * num_windows
    for members in rows.values():
        members.sort(key=lambda i: -lengths[i])
        for start in range(0, len(members), num_windows):
            row = members[start : start + num_windows]
            # a last, shorter row goes to the windows with the fewest examples
            chosen = sorted(range(num_windows), key=lambda w: (len(windows[w]), tokens[w]))[: len(row)]
            for i, w in zip(row, sorted(chosen, key=lambda w: tokens[w]), strict=True):
                windows[w].append(i)
                tokens[w] += lengths[i]
    _even_out(windows, tokens, lengths, classes)
    for window in windows:
        generator.shuffle(window)
    return windows


def _even_out(windows: list[list[int]], tokens: list[int], lengths: Sequence[int], classes: Sequence) -> None:
    """Exchange examples between the longest and the shortest window while that brings the two closer."""
    counts = [Counter(classes[i] for i in window) for window in windows]
    for _ in range(64 * len(windows)):
        long, short = (
            max(range(len(windows)), key=tokens.__getitem__),
            min(range(len(windows)), key=tokens.__getitem__),
        )
        gap = tokens[long] - tokens[short]
        names = [[classes[i] for i in windows[w]] for w in (long, short)]
        # an exchange may move the spare example of a class, never make its counts more uneven
        spare = [
            torch.tensor([counts[a][name] > counts[b][name] for name in each])
            for each, a, b in zip(names, (long, short), (short, long), strict=True)
        ]
        index = {name: n for n, name in enumerate({*names[0], *names[1]})}
        first, second = (torch.tensor([index[name] for name in each]) for each in names)
        allowed = (first[:, None] == second) | (spare[0][:, None] & spare[1])
        a, b = (torch.tensor([lengths[i] for i in windows[w]]) for w in (long, short))
        left = (gap - 2 * (a[:, None] - b)).abs().masked_fill(~allowed, gap)
        best = int(left.argmin())
        if left.flatten()[best] >= gap:
            return
        i, j = divmod(best, len(windows[short]))
        moved = lengths[windows[long][i]] - lengths[windows[short][j]]
        for w, gone, new in ((long, names[0][i], names[1][j]), (short, names[1][j], names[0][i])):
            counts[w][gone] -= 1
            counts[w][new] += 1
        windows[long][i], windows[short][j] = windows[short][j], windows[long][i]
        tokens[long] -= moved
        tokens[short] += moved


def deal_documents(count: int, num_windows: int) -> list[list[int]]:
    """Indices of ranked documents per window: dealt in turn, the best-ranked of a window last (section 5 of the paper)."""
    return [list(range(count))[w::num_windows][::-1] for w in range(num_windows)]


# -- layouts


@dataclass(frozen=True)
class Layout:
    """Windows as token ids, and how a task continues them.

    Attributes:
        prefix: ids shared by all windows (BOS, and a prompt).
        texts: of the windows.
        windows: their ids, without the prefix.
        members: per window the indices of its examples.
        tails: per window a text that ends as the window does; tasks are tokenized behind it.
        room: tokens a window may have, prefix included.
        context: N, in tokens.
    """

    tokens: Tokens = field(repr=False)
    prefix: tuple[int, ...]
    texts: tuple[str, ...] = field(repr=False)
    windows: tuple[tuple[int, ...], ...] = field(repr=False)
    members: tuple[tuple[int, ...], ...]
    tails: tuple[str, ...] = field(repr=False)
    room: int
    context: int
    classes: tuple[str, ...] | None = field(repr=False, default=None)

    def task(self, text: str) -> tuple[int, ...]:
        """Ids of a task's text behind the windows."""
        return self.tokens.behind(self.tails, text)

    def is_clean(self, text: str) -> bool:
        """Whether `task` has the ids of the joined text behind every window."""
        found = {self.tokens.split(tail, text) for tail in self.tails}
        return self.tokens.tokenization == "joint" and len(found) == 1 and None not in found

    def report(self) -> str:
        """The layout as a table: tokens and examples per window, labels and their counts, gap before the task."""
        longest = max(map(len, self.windows))
        left = self.context - len(self.prefix) - longest
        head = (
            f"{len(self.windows)} windows, {sum(map(len, self.members))} examples; prefix {len(self.prefix)}, longest window "
            f"{longest} of {self.room - len(self.prefix)} tokens; the task starts at position {len(self.prefix) + longest}, "
            f"{left} of {self.context} positions are left for it"
        )
        lines = [head, "window  tokens  examples  labels (each)  gap"]
        for w, (ids, members) in enumerate(zip(self.windows, self.members, strict=True)):
            labels = "-"
            if self.classes is not None:
                counts = Counter(self.classes[i] for i in members).values()
                fewest, most = min(counts), max(counts)
                labels = f"{len(counts)} ({fewest if fewest == most else f'{fewest} to {most}'})"
            lines.append(f"{w:6}  {len(ids):6}  {len(members):8}  {labels:>13}  {longest - len(ids):3}")
        return "\n".join(lines)


def _layout(tokens: Tokens, prompt: str, groups, pieces, separator: str, room, context, classes=None) -> Layout:
    texts = tuple(separator.join(pieces[i] for i in group) for group in groups)
    prefix, windows = tokens.shared(prompt, texts)
    # long windows are not tokenized again with every task: the last piece decides how its end and the task join
    tails = tuple(
        dict.fromkeys(
            separator + pieces[group[-1]] if len(group) > 1 else prompt + pieces[group[-1]] for group in groups
        )
    )
    return Layout(tokens, prefix, texts, windows, tuple(map(tuple, groups)), tails, room, context, classes)


def _room(context: int, task_tokens: int, window_size: int | None) -> int:
    if task_tokens >= context:
        raise PCWError(
            f"a task and its answer need {task_tokens} tokens (task_tokens, or the question and max_new_tokens), and the model "
            f"has {context} positions: nothing would be left for windows"
        )
    room = context - task_tokens
    if window_size is None:
        return room
    if window_size > room:
        raise PCWError(
            f"window_size {window_size} is {window_size - room} tokens too long: the model has {context} positions, of "
            f"which the task and its answer need {task_tokens}"
        )
    return window_size


def _check_num_windows(num_windows: int | None, count: int, what: str) -> None:
    check_count(num_windows, "num_windows")
    if num_windows is not None and num_windows > count:
        raise PCWError(f"there are {count} {what} for {num_windows} windows: some would be empty")


def _check_fit(layout: Layout, advice: str) -> Layout:
    sizes = [len(layout.prefix) + len(window) for window in layout.windows]
    worst = max(range(len(sizes)), key=sizes.__getitem__)
    if (excess := sizes[worst] - layout.room) > 0:
        raise PCWError(
            f"window {worst} is {excess} tokens too long: it has {sizes[worst]} tokens with the prefix, and {layout.room} "
            f"of the {layout.context} positions are for windows; {advice}"
        )
    return layout


def lay_out_demonstrations(
    tokenizer,
    demonstrations: Sequence[Demonstration],
    labels: Sequence[str],
    template: Template,
    context: int,
    *,
    num_windows: int | None = None,
    window_size: int | None = None,
    task_tokens: int | None = None,
    prompt: str = "",
    seed: int = 0,
    tokenization: str = "joint",
) -> Layout:
    """Deal demonstrations to windows, stratified and balanced.

    Args:
        context: N, see `context_size`.
        num_windows: default: as few as hold all demonstrations.
        window_size: tokens a window may have, prefix included; default: N minus the budget of the task.
        task_tokens: the budget: separator, task and label; default: that of the longest demonstration but for 1 %.
        prompt: read before every window, once.

    Raises PCWError for fewer demonstrations than windows, and where they do not fit (saying by how many tokens).
    """
    tokens = Tokens(tokenizer, tokenization)
    for name, value in (("context_size", context), ("window_size", window_size), ("task_tokens", task_tokens)):
        check_count(value, name)
    _check_num_windows(num_windows, len(demonstrations), "demonstrations")
    pieces = [template.demonstration(each.inputs, each.label) for each in demonstrations]
    alone = [len(tokens.ids(piece)) for piece in pieces]
    lengths = [n + len(tokens.ids(template.separator)) for n in alone]
    answers = [len(each) for each in tokenize_labels(tokens, labels, template).tokens]
    if task_tokens is None:
        own = [len(tokens.ids(template.separator + template.task(each.inputs))) for each in demonstrations]
        task_tokens = max(drop_longest(own)) + max(answers)
    room = _room(context, task_tokens, window_size)
    prefix = len(tokens.start() + tokens.ids(prompt))
    longest = max(range(len(alone)), key=alone.__getitem__)
    if (excess := prefix + alone[longest] - room) > 0:
        raise PCWError(
            f"demonstration {longest} is {excess} tokens too long: it has {alone[longest]}, and a window has "
            f"{room - prefix} of the {context} positions"
        )
    classes = tuple(each.label for each in demonstrations)

    def arrange(count: int) -> Layout:
        groups = deal(lengths, classes, count, seed)
        return _layout(tokens, prompt, groups, pieces, template.separator, room, context, classes)

    if num_windows is not None:
        needed = max(num_windows + 1, ceil(sum(lengths) / (room - prefix)))
        return _check_fit(arrange(num_windows), f"take fewer demonstrations or {needed} windows")
    for count in range(max(1, ceil(sum(alone) / (room - prefix))), len(pieces) + 1):
        layout = arrange(count)
        if max(map(len, layout.windows)) + prefix <= room:
            return layout
    raise PCWError(f"{len(pieces)} demonstrations do not fit into windows of {room - prefix} tokens")


def lay_out_documents(
    tokenizer,
    documents: Sequence[str],
    context: int,
    *,
    task_tokens: int,
    num_windows: int | None = None,
    separator: str = "\n\n",
    prompt: str = "",
    tokenization: str = "joint",
) -> Layout:
    """Deal ranked documents to windows, the best-ranked of each window last; default: one window per document.

    task_tokens: positions kept for the question and what is generated. Raises PCWError for no document, an empty one,
    and where they do not fit (saying by how many tokens).
    """
    check_count(context, "context_size")
    not_listed = isinstance(documents, str | Mapping | Set) or column_names(documents) is not None
    if not_listed or not isinstance(documents, Collection) or not len(documents):
        raise PCWError(f"contexts is {documents!r:.80}: expected at least one text")
    for i, document in enumerate(documents):
        if not isinstance(document, str) or not document.strip():
            raise PCWError(f"context {i} is {document!r}: expected a text that is not empty")
    _check_num_windows(num_windows, len(documents), "contexts")
    tokens = Tokens(tokenizer, tokenization)
    groups = deal_documents(len(documents), num_windows or len(documents))
    room = _room(context, task_tokens, None)
    layout = _layout(tokens, prompt, groups, list(documents), separator, room, context)
    return _check_fit(layout, "shorten it, take more windows, or generate fewer tokens")
