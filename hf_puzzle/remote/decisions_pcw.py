"""Decisions: typed questions about a state, in the request and answer format of transformers' `decision` package.

    {"state": ..., "questions": {name: {"type": "choice" | "score" | "noul", "instructions": ..., "criteria": ...}}}

Prompts, temperatures and answers are those of transformers. What is added: the beginning that the questions about a state
share is read once, and all questions behind it in few packed rows; several states share rows too; solved requests and
documents stand before them as parallel windows, encoded once; options of several tokens are scored whole, by a trie.

Shapes: K options of a question, M cached keys.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .cache_pcw import Context, EncodedWindows, check_encoded
from .caches_puzzle import remedy
from .generation_pcw import encode_windows
from .masks_pcw import PCWError, check_count, check_length, check_masks, check_model, column_names, plain_model
from .scoring_pcw import Piece, Reader, Trie
from .windows_pcw import Tokens, context_size, deal, deal_documents


try:
    from transformers.decision import DECISION_PROMPT, DecisionConfig, Question
    from transformers.decision.template_utils import MARK, SPLIT, read_marks
except ImportError:  # named where one is made: the other pipelines do without
    DecisionConfig = None


# tokens of states that are read in one row, each state with its own mask
STATE_TOKENS = 1024
OPTIONS = ("labels", "whole")


# -- requests


def read_request(request, where: str = "the request") -> dict:
    """A request as a dictionary with `state` and `questions`; PCWError for what would be read as something else.

    JSON with a key twice, two equal options or levels, and no question are named; the questions themselves are
    transformers' to check (`parse_questions`).
    """
    if isinstance(request, str):
        try:
            request = json.loads(request, object_pairs_hook=functools.partial(_unique, where))
        except json.JSONDecodeError as error:
            raise PCWError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(request, Mapping) or not {"state", "questions"} <= set(request):
        raise PCWError(f'{where} is {request!r:.80}: expected {{"state": ..., "questions": {{name: question, ...}}}}')
    if request.get("assets"):
        raise PCWError(f"{where} has assets: images are not read together with windows")
    questions = request["questions"]
    if not isinstance(questions, Mapping) or not questions:
        raise PCWError(f"{where} has the questions {questions!r:.80}: expected at least one, by name")
    for name, question in questions.items():
        criteria = question.get("criteria") if isinstance(question, Mapping) else None
        options = criteria if isinstance(criteria, Mapping | list | tuple) else ()
        texts = [each.strip() if isinstance(each, str) else json.dumps(each, sort_keys=True) for each in options]
        if twice := [text for i, text in enumerate(texts) if text in texts[:i]]:
            raise PCWError(f"{where}, question {name!r}: option {twice[0]!r} is there twice")
    return dict(request)


def _unique(where: str, pairs: list[tuple]) -> dict:
    names = [name for name, _ in pairs]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise PCWError(f"{where}: {twice[0]!r} is there twice")
    return dict(pairs)


def is_request(value) -> bool:
    """Whether a mapping is meant as a request."""
    return isinstance(value, Mapping) and {"state", "questions"} <= set(value)


def label_questions(request: Mapping, labels: Sequence[str], where: str) -> list:
    """The questions of a request that a classifier of `labels` answers; PCWError for any other than a choice of them."""
    config, found = DecisionConfig(labels={"choice": list(labels)}), []
    for name, question in read_request(request, where)["questions"].items():
        try:
            asked = Question.from_request(name, question, config)
        except ValueError as error:
            raise PCWError(f"{where}: {error}") from None
        if asked.type != "choice" or set(asked.options) != set(labels):
            raise PCWError(
                f"{where}, question {name!r}: this classifier answers a choice among {', '.join(labels)}; ask other "
                'questions of pipeline("pcw-decision")'
            )
        found.append(asked)
    return found


@dataclass(frozen=True)
class Prompt:
    """One prompt of a request: its tokens, and per question where it is read and what it may say.

    ids: all tokens. marks: per question the number of tokens before its answer. labels: per question and option, in the
    order of `questions[i].options`, the tokens of its label.
    """

    ids: tuple[int, ...]
    marks: tuple[int, ...]
    questions: tuple
    labels: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def trie(self) -> Trie:
        return Trie(self.labels[0])

    @property
    def plain(self) -> bool:
        """Whether one logit per option says all."""
        return all(len(label) == 1 for labels in self.labels for label in labels)


# -- tokens around a prompt


class _Together:
    """Stands for a tokenizer in `DecisionConfig.prepare_inputs`: the chats of all prompts are tokenized in one call."""

    image_processor = None

    def __init__(self, tokenizer):
        self.tokenizer, self.chats, self.settings = tokenizer, [], []

    def apply_chat_template(self, conversation, **settings) -> dict:
        self.chats.append(conversation)
        self.settings.append(settings)
        return {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    def inputs(self) -> list[dict]:
        """What `prepare_inputs` would have returned, per prompt."""
        first = {**self.settings[0], "return_tensors": None}
        if all(each == self.settings[0] for each in self.settings):
            rows = self.tokenizer.apply_chat_template(self.chats, **first)["input_ids"]
        else:  # a decision template of its own has the question among its settings
            both = zip(self.chats, self.settings, strict=True)
            rows = [
                self.tokenizer.apply_chat_template(chat, **{**each, "return_tensors": None})["input_ids"]
                for chat, each in both
            ]
        sentinels = self.tokenizer.convert_tokens_to_ids([MARK, SPLIT])
        found = (read_marks({"input_ids": torch.tensor([row])}, sentinels) for row in rows)
        return [{**inputs, "marks": marks} for inputs, marks in found]


@dataclass(frozen=True)
class _Turns:
    """What a chat template puts around turns, as tokens: `head` once before the first, `tail` behind each answer."""

    head: tuple[int, ...]
    tail: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer, config: "DecisionConfig") -> "_Turns":
        request = {"state": "a", "questions": {"a": {"type": "noul", "instructions": "a"}}}
        prompt = tuple(config.prepare_inputs(request, tokenizer)[0][0]["input_ids"][0].tolist())
        tokens = Tokens(tokenizer)
        head, tail = tokens.start(), tokens.ids("\n\n")
        with contextlib.suppress(
            Exception
        ):  # no chat template, or one that takes no such turns and raises what it likes
            head, tail = _of_chat(tokenizer)
        heads = (head, tokens.start(), ())  # a decision template of its own may begin in another way
        return cls(next(each for each in heads if prompt[: len(each)] == each), tail)


def _of_chat(tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(what comes once before the first turn, what ends an answer) in chats; ValueError where turns do not add up."""

    def ids(*texts: str) -> tuple[int, ...]:
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        options = {"add_generation_prompt": len(texts) % 2 == 1, "enable_thinking": False}
        return tuple(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **options)["input_ids"])

    first, solved, both, second = ids("a"), ids("a", "b"), ids("a", "b", "c"), ids("c")
    answer = (*first, *Tokens(tokenizer).ids("b"))
    length = len(second) - (len(both) - len(solved))
    if solved[: len(answer)] != answer or both[: len(solved)] != solved or second[length:] != both[len(solved) :]:
        raise ValueError("turns of this chat template change what stands before them")
    return second[:length], solved[len(answer) :]


# -- the decider


class Decider:
    """Answers decision requests with a causal LM.

    >>> decide = Decider(model, tokenizer)
    >>> decide({"state": "I was charged twice.", "questions": {"refund": {"type": "noul", "instructions": "A refund?"}}})
    {'refund': {'type': 'noul', 'noul': 0.97}}

    Args:
        decision_config: a `DecisionConfig`, or a folder or Hub id with `decision.json`; default: the model's own.
        demonstrations: solved requests, with `answers` by question (an option, a level as integer, or a bool); each
            answered question is one turn of a window.
        contexts: documents, the best-ranked first, as windows before everything.
        num_windows, or window_size (tokens): default: as few as hold all demonstrations; one per document.
        encoded: windows from an earlier `windows()`, or from a store; they must be those of the arguments above.
        options: "labels": what is scored is an option's label, as in transformers (A, B, ...; Yes, No), and all of its
            tokens where one does not tell it apart; "whole": the labels are the options' own words, in any number.
        permute: probabilities are averaged over that many orders of the options of `choice` and `noul` questions, the
            given one first; answers then say in `moved` the share of the others that have another best option.
        seed: of orders, and of the deal of demonstrations to windows.

    Raises PCWError for a model that windows cannot be read with, and for whatever does not fit.
    """

    def __init__(
        self,
        model,
        tokenizer,
        decision_config: "DecisionConfig | str | None" = None,
        *,
        demonstrations: Sequence[Mapping] = (),
        contexts: Sequence[str] = (),
        num_windows: int | None = None,
        window_size: int | None = None,
        encoded: EncodedWindows | None = None,
        options: str = "labels",
        permute: int = 1,
        seed: int = 0,
    ):
        if DecisionConfig is None:
            raise PCWError(f"this transformers has no decision package. {remedy()}")
        if hasattr(model, "decide"):
            raise PCWError(
                f"{type(model).__name__} has a decision head of its own: use transformers' decision pipeline"
            )
        if options not in OPTIONS:
            raise PCWError(f"options is {options!r}: expected one of {', '.join(OPTIONS)}")
        for name, value in (("permute", permute), ("num_windows", num_windows), ("window_size", window_size)):
            check_count(value, name)
        if demonstrations and contexts:
            raise PCWError("give either demonstrations or contexts: a window holds one or the other")
        if isinstance(demonstrations, str | Mapping):
            raise PCWError(f"demonstrations is {demonstrations!r:.80}: expected a list of requests with their answers")
        if window_size is not None and not demonstrations:
            raise PCWError("window_size is for demonstrations; of contexts, num_windows says how many go together")
        repo = decision_config if isinstance(decision_config, str) else plain_model(model).name_or_path
        if not isinstance(decision_config, DecisionConfig):
            decision_config = DecisionConfig.from_pretrained(repo)
        self.model = _adapted(model, decision_config, repo)
        self.kind = check_model(self.model)
        check_masks(plain_model(self.model))
        # transformers adds its marks to the vocabulary, which windows are stored with
        self.tokenizer = copy.deepcopy(tokenizer)
        if tokenizer.chat_template is None and decision_config.chat_template is None:
            # a model that is no chat model answers the same words as text
            decision_config = dataclasses.replace(decision_config, chat_template=DECISION_PROMPT + "\nAnswer:\n")
        self.decision_config = decision_config
        self._label_ids = functools.cache(Tokens(self.tokenizer).ids)
        self.tokens, self.turns = Tokens(self.tokenizer), _Turns.of(self.tokenizer, decision_config)
        self.options, self.permute, self.seed = options, permute, seed
        self._layout = self._lay_out(demonstrations, contexts, num_windows, window_size)
        if encoded is not None and (tuple(encoded.windows), encoded.prefix) != (self._layout, self.turns.head):
            raise PCWError("the encoded windows are not those of these demonstrations or contexts: encode them again")
        self._encoded = encoded

    # -- windows

    def _lay_out(self, demonstrations, contexts, num_windows, window_size) -> tuple[tuple[int, ...], ...]:
        if demonstrations:
            return self._lay_out_solved(list(demonstrations), num_windows, window_size)
        if contexts is None or isinstance(contexts, str | Mapping) or column_names(contexts) is not None:
            raise PCWError(f"contexts is {contexts!r:.80}: expected a list of texts")
        documents = list(contexts)
        if wrong := [each for each in documents if not isinstance(each, str) or not each.strip()]:
            raise PCWError(f"contexts hold {wrong[0]!r:.80}: expected texts that are not empty")
        if not documents:
            return ()
        groups = deal_documents(len(documents), num_windows or len(documents))
        if not all(groups):
            raise PCWError(f"there are {len(documents)} contexts for {num_windows} windows: some would be empty")
        return tuple(self.tokens.ids("\n\n".join([documents[i] for i in group]) + "\n\n") for group in groups)

    def _lay_out_solved(self, demonstrations, num_windows, window_size) -> tuple[tuple[int, ...], ...]:
        bodies, answers = [], []
        for i, each in enumerate(demonstrations):
            for ids, answer in self._solved(each, f"demonstration {i}"):
                bodies.append(ids)
                answers.append(answer)
        lengths = [len(ids) for ids in bodies]
        limit = context_size(self.model.config) - len(self.turns.head)
        room = limit - max(lengths) if window_size is None else window_size - len(self.turns.head)
        if max(lengths) > room or room > limit:
            raise PCWError(
                f"demonstrations have up to {max(lengths)} tokens, and a window {room} of the {limit} positions: "
                "shorten them, or give another window_size"
            )
        counts = [num_windows] if num_windows else range(-(-sum(lengths) // room), len(bodies) + 1)
        if num_windows is not None and num_windows > len(bodies):
            raise PCWError(f"num_windows is {num_windows}: expected 1 to {len(bodies)}, the answered questions")
        for count in counts:
            groups = deal(lengths, answers, count, self.seed)
            if (longest := max(sum(lengths[i] for i in group) for group in groups)) <= room:
                return tuple(tuple(t for i in group for t in bodies[i]) for group in groups)
        raise PCWError(f"a window is {longest - room} tokens too long for its {room}: take more than {count} windows")

    def _solved(self, demonstration, where: str) -> Iterator[tuple[tuple[int, ...], str]]:
        """(tokens of a solved prompt as one turn, its answer) per answered question."""
        request = read_request(demonstration, where)
        answers = request.get("answers")
        if not isinstance(answers, Mapping) or not answers or not set(answers) <= set(request["questions"]):
            raise PCWError(
                f"{where} has answers {answers!r:.80}: expected one to one or more of its questions, by name"
            )
        request["questions"] = {name: request["questions"][name] for name in answers}
        for prompt in self._prompts(request, where):
            if len(prompt.questions) > 1:
                raise PCWError(
                    "this decision template asks all questions at once: demonstrations would have no places"
                )
            question, value = prompt.questions[0], answers[prompt.questions[0].name]
            option = str(value).lower() if isinstance(value, bool) else str(value)
            if option not in question.options:
                raise PCWError(
                    f"{where}: {question.name!r} is answered {value!r}, expected one of {', '.join(question.options)}"
                )
            label = prompt.labels[0][question.options.index(option)]
            yield (*self._body(prompt), *label, *self.turns.tail), f"{question.name}: {option}"

    def _body(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens behind what all prompts begin with, which the windows have as prefix."""
        head = self.turns.head
        if prompt.ids[: len(head)] != head:
            raise PCWError(
                "prompts of this chat template begin differently behind others: windows cannot stand before them"
            )
        return prompt.ids[len(head) :]

    @torch.no_grad()
    def windows(self) -> EncodedWindows | None:
        """The windows, encoded once and again after a change of the weights; None without any."""
        if not self._layout:
            return None
        if self._encoded is not None:
            try:
                check_encoded(self.model, self._encoded)
            except PCWError:
                self._encoded = None
        if self._encoded is None:
            self._encoded = encode_windows(self.model, self._layout, self.turns.head)
        return self._encoded

    def set_temperature(self, temperature: Mapping[str, float]) -> None:
        """Take these temperatures of question types, as fitted on held-out requests; others stay."""
        config = self.decision_config
        self.decision_config = dataclasses.replace(config, temperature={**config.temperature, **temperature})

    # -- prompts

    def _prompts(self, request: dict, where: str, order: int = 0) -> list[Prompt]:
        """The prompts of a request, the options of its questions in one of their orders."""
        config, questions = self.decision_config, dict(request["questions"])
        if order:
            questions = {name: _reordered(question, order, self.seed) for name, question in questions.items()}
            config = _with_noul_reversed(config)
        groups = [(config, questions)]
        if self.options == "whole":
            groups = [(_with_own_words(config, each), {name: each}) for name, each in questions.items()]
        found = []
        for config, asked in groups:
            try:
                together = _Together(self.tokenizer)
                groups_asked = [
                    group
                    for _, group in config.prepare_inputs({"state": request["state"], "questions": asked}, together)
                ]
                inputs = zip(together.inputs(), groups_asked, strict=True)
            except ValueError as error:
                hint = ' (options="whole" takes any number)' if "reads at most" in str(error) else ""
                raise PCWError(f"{where}: {error}{hint}") from None
            found += [self._prompt(each, group, where) for each, group in inputs]
        return found

    def _prompt(self, inputs: dict, questions: list, where: str) -> Prompt:
        ids, marks = tuple(inputs["input_ids"][0].tolist()), tuple(inputs["marks"].tolist())
        labels = tuple(self._labels(question, f"{where}, question {question.name!r}") for question in questions)
        prompt = Prompt(ids, marks, tuple(questions), labels)
        if len(marks) != len(questions):
            raise PCWError(f"{where}: this decision template has {len(marks)} marks for {len(questions)} questions")
        if not prompt.plain and (len(questions) > 1 or marks != (len(ids),)):
            raise PCWError(
                f"{where}: labels of several tokens are read at the end of a prompt, this template reads within"
            )
        return prompt

    def _labels(self, question, where: str) -> tuple[tuple[int, ...], ...]:
        """Tokens of each option's label; PCWError for two that are the same."""
        found = [self._label_ids(text) for text in question.labels]
        for i, (text, ids) in enumerate(zip(question.labels, found, strict=True)):
            if not ids or self.tokenizer.unk_token_id in ids:
                raise PCWError(f"{where}: label {text!r} has no tokens of its own in this vocabulary")
            if (first := found.index(ids)) < i:
                raise PCWError(
                    f"{where}: labels {question.labels[first]!r} and {text!r} have the same tokens {list(ids)}"
                )
        # one that begins another ends with the turn, so that the two exclude each other
        ends = [any(other != ids and other[: len(ids)] == ids for other in found) for ids in found]
        return tuple(ids + self.turns.tail[:1] if end else ids for ids, end in zip(found, ends, strict=True))

    def prepare(self, requests: Sequence) -> list["_Asked"]:
        """Everything that can be wrong with `requests` is named here, before any compute."""
        first = 0
        if self._layout:
            first = len(self.turns.head) + max(map(len, self._layout))
        asked = []
        for i, each in enumerate(requests):
            where = f"request {i}"
            request = read_request(each, where)
            orders = [self._prompts(request, where)]
            if self.permute > 1 and any(len(prompt.questions) > 1 for prompt in orders[0]):
                raise PCWError("this decision template asks all questions at once: permute is for one prompt each")
            for order in range(1, self.permute):
                turned = {
                    name: question for name, question in request["questions"].items() if order < _num_orders(question)
                }
                if turned:
                    orders.append(self._prompts(request | {"questions": turned}, where, order))
            prompts = [prompt for order in orders for prompt in order]
            bodies = [self._body(prompt) if self._layout else prompt.ids for prompt in prompts]
            for prompt, body in zip(prompts, bodies, strict=True):
                names = ", ".join(repr(question.name) for question in prompt.questions)
                deepest = max(len(label) for labels in prompt.labels for label in labels) - 1
                model = plain_model(self.model)
                check_length(model, self.kind, first, len(body), deepest, f"{where}, question {names}")
            asked.append(_Asked(prompts, bodies))
        return asked

    # -- answers

    @torch.no_grad()
    def probabilities(self, asked: Sequence["_Asked"]) -> list[list[torch.Tensor]]:
        """Per request, prompt and question the probabilities (K,) of its options, in the order they were shown in."""
        model, encoded = plain_model(self.model), self.windows()
        reader = Reader(model, self.kind)
        empty = Context([], torch.arange(0, device=model.device), 0)
        context = empty if encoded is None else encoded.context()
        found: list[list[torch.Tensor]] = []
        for group in _groups(asked):
            pieces, behind = [], context
            if any(each.shared for each in group):
                states = [Piece(each.bodies[0][: each.shared]) for each in group if each.shared]
                behind = reader.extended(context, states)
            start = len(context.positions)
            for each in group:
                sees = None
                if len(group) > 1:
                    sees = torch.zeros(len(behind.positions), dtype=torch.bool)
                    sees[: len(context.positions)] = sees[start : start + each.shared] = True
                start += each.shared
                pieces += each.pieces(context.next_position + each.shared, sees)
            logits = reader.packed(behind, pieces)
            found += [[scores for p in each.prompts for scores in self._scores(p, next(logits))] for each in group]
        return found

    def _scores(self, prompt: Prompt, logits: torch.Tensor) -> list[torch.Tensor]:
        if prompt.plain:
            rows = zip(logits.float(), prompt.labels, strict=True)
            scores = [row[torch.tensor(labels, device=row.device)[:, 0]] for row, labels in rows]
        else:
            scores = [prompt.trie.score(logits)]
        warp = self.decision_config.logits_processors
        return [warp[q.type](None, s).softmax(-1).cpu() for q, s in zip(prompt.questions, scores, strict=True)]

    def answer(self, asked: Sequence["_Asked"]) -> list[dict]:
        """The answers to prepared requests, each a dictionary by question."""
        return [each.answers(found) for each, found in zip(asked, self.probabilities(asked), strict=True)]

    def __call__(self, requests):
        """The answers to a request, as a dictionary or JSON, or to each of a list of them."""
        if isinstance(requests, str | Mapping) or not hasattr(requests, "__iter__"):
            return self.answer(self.prepare([requests]))[0]
        return self.answer(self.prepare(list(requests)))


@dataclass(frozen=True)
class _Asked:
    """A request as prompts, and the tokens of each behind the windows; the first `shared` of them are the same in all."""

    prompts: list[Prompt]
    bodies: list[tuple[int, ...]]
    shared: int = field(init=False)

    def __post_init__(self):
        shared = 0
        if len(self.prompts) > 1:
            # where an answer is read must lie behind what is shared
            cut = [len(prompt.ids) - len(body) for prompt, body in zip(self.prompts, self.bodies, strict=True)]
            most = min(min(prompt.marks) - 1 - n for prompt, n in zip(self.prompts, cut, strict=True))
            first, last = min(self.bodies), max(self.bodies)  # what these share, all do
            shared = next((n for n in range(min(most, len(first), len(last))) if first[n] != last[n]), most)
        object.__setattr__(self, "shared", max(0, shared))

    def pieces(self, first: int, sees: torch.Tensor | None) -> list[Piece]:
        found = []
        for prompt, body in zip(self.prompts, self.bodies, strict=True):
            own, cut = body[self.shared :], len(prompt.ids) - len(body) + self.shared
            keep = tuple(mark - 1 - cut for mark in prompt.marks) if prompt.plain else None
            found.append(Piece(own, None if prompt.plain else prompt.trie, keep, first, sees))
        return found

    def answers(self, found: list[torch.Tensor]) -> dict:
        """In transformers' format; `moved` where a question was asked in several orders."""
        rows: dict[str, list[tuple]] = {}
        asked = [question for prompt in self.prompts for question in prompt.questions]
        for question, values in zip(asked, found, strict=True):
            rows.setdefault(question.name, []).append(
                (question, dict(zip(question.options, values.tolist(), strict=True)))
            )
        answers = {}
        for name, orders in rows.items():
            question = orders[0][0]
            mean = [sum(values[option] for _, values in orders) / len(orders) for option in question.options]
            answers[name] = question.answer(mean)
            if len(orders) > 1:
                best = [max(values, key=values.get) for _, values in orders]
                answers[name] |= {
                    "orders": len(orders),
                    "moved": sum(b != best[0] for b in best[1:]) / (len(best) - 1),
                }
        return answers


def _groups(asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """Requests whose states are read in one row."""
    group, used = [], 0
    for each in asked:
        if group and used + each.shared > STATE_TOKENS:
            yield group
            group, used = [], 0
        group.append(each)
        used += each.shared
    if group:
        yield group


# -- orders and words of options


def _num_orders(question: Mapping) -> int:
    """How many orders the options of a question have; levels of a score have one."""
    if question["type"] == "score":
        return 1
    return 2 if question["type"] == "noul" else math.factorial(len(question["criteria"]))


def _reordered(question: Mapping, order: int, seed: int) -> dict:
    """A choice with its options in the `order`-th of distinct orders; the 0th is as given."""
    if question["type"] != "choice":
        return dict(question)
    options, drawn = list(question["criteria"]), random.Random(seed)
    seen = [tuple(options)]
    while len(seen) <= order:
        drawn.shuffle(options)
        if tuple(options) not in seen:
            seen.append(tuple(options))
    return {**question, "criteria": {option: question["criteria"][option] for option in seen[order]}}


def _with_noul_reversed(config: "DecisionConfig") -> "DecisionConfig":
    labels = config.labels.get("noul") or ["Yes", "No"]
    return dataclasses.replace(
        config, noul_options=config.noul_options[::-1], labels=config.labels | {"noul": labels[1::-1]}
    )


def _with_own_words(config: "DecisionConfig", question) -> "DecisionConfig":
    """Labels of a question that are its options: the names of a choice, the words of a score's levels."""
    kind, criteria = (
        (question.get("type"), question.get("criteria")) if isinstance(question, Mapping) else (None, None)
    )
    if kind not in ("choice", "score") or not criteria:
        return config
    words = [each if isinstance(each, str) else json.dumps(each) for each in criteria]
    return dataclasses.replace(config, labels=config.labels | {kind: words})


def _adapted(model, config: "DecisionConfig", repo: str):
    """`model` with the adapter that the decision config names, if it has none of its own."""
    if config.adapter and not getattr(model, "_hf_peft_config_loaded", False) and plain_model(model) is model:
        model.load_adapter(repo, adapter_kwargs={"subfolder": config.adapter})
    return model
