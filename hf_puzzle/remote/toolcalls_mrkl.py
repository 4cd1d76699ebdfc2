"""Calls that a chat model makes by itself, in the format of its own template (MRKL, arXiv 2205.00445).

The model is given the experts' schemas through its chat template and writes what it likes; from the opening of a call
on, only valid calls of these experts go on. A call ends the model's turn: it is run under a deadline, what it returned
is added as the template has it, and the model goes on. Only what the model itself wrote is a call.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .adapters_mrkl import disabled, plain_generate
from .calls_mrkl import MRKLError
from .experts_mrkl import Budget, Experts
from .generation_mrkl import Constrained, said_of, vocabulary
from .masks_mrkl import Masks
from .toolformats_mrkl import SYSTEM, ToolFormat


CHOICES = ("auto", "required")
# tokens that close a call which is as long as it may be
CLOSING = 64


class _Calls(Constrained):
    """Keeps the calls of the first row, and ends the turn behind each, or behind `most` tokens that are none of a call."""

    def __init__(self, *args, end: int, most: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.end, self.most, self.calls = end, most, []

    def _allowed(self, row):
        free = row.matcher is None and not row.pending
        return torch.tensor([self.end]) if free and row.free >= self.most else super()._allowed(row)

    def completed(self, number, call) -> list[int]:
        self.calls.append(call)
        return [self.end]


@dataclass
class Turns:
    """What came of a question: the messages behind it, and the calls as a trace has them."""

    messages: list = field(default_factory=list)
    trace: list = field(default_factory=list)
    results: list = field(default_factory=list)
    text: str = ""


class ToolCalls:
    """A chat model with experts as its tools.

    Args:
        experts: What `Experts` takes.
        engine: What holds calls to the grammar, as `Masks` has it.
        max_calls: Of one question; the model then answers with what it has.
        seconds_per_call: Deadline of one call.
        max_call_tokens: A call longer than this is closed in the shortest valid way.
    Raises:
        MRKLError: No chat template, or one whose calls cannot be read off.
    """

    def __init__(
        self, model, tokenizer, experts, engine: str = "auto", max_calls: int = 4, seconds_per_call: float = 2.0,
        max_call_tokens: int = 128,
    ):  # fmt: skip
        self.model, self.tokenizer = model, tokenizer
        self.experts = experts if isinstance(experts, Experts) else Experts(experts)
        self.engine, self.max_calls = engine, max_calls
        self.seconds, self.max_call_tokens = seconds_per_call, max_call_tokens
        self.format = ToolFormat.of(tokenizer)
        self.schemas = {name: expert.parameters for name, expert in self.experts.items()}

    @functools.cache  # noqa: B019
    def masks(self, opened: bool) -> Masks:
        """The grammar of calls, with what opens them or behind it."""
        known = vocabulary(self.tokenizer, self.model.get_input_embeddings().num_embeddings)
        return Masks(self.format.grammar(self.schemas, known, opened), known, self.engine)

    def encode(self, chat: Sequence[Mapping]) -> dict:
        """Ids and mask of a chat with its tools; control tokens in it are encoded as text."""
        options = {"add_generation_prompt": True, "sanitize_control_tokens": True, "return_tensors": "pt"}
        options |= {"return_dict": True}
        tools = [expert.schema for expert in self.experts.values()]
        if self.format.system:
            said = SYSTEM.format(tools=json.dumps([tool["function"] for tool in tools], default=str))
            own = [message["content"] for message in chat[:1] if message["role"] == "system"]
            chat = [{"role": "system", "content": "\n\n".join([*own, said])}, *chat[len(own) :]]
            return self.tokenizer.apply_chat_template(chat, **options)
        try:
            return self.tokenizer.apply_chat_template(chat, tools=tools, **options)
        except TypeError:
            # some templates want arguments as text
            return self.tokenizer.apply_chat_template(_dumped(chat), tools=tools, **options)

    def __call__(self, chat: Sequence[Mapping], choice: str = "auto", **generate) -> Turns:
        """What the model answers to a chat; `choice`: "required" makes it begin with a call."""
        if choice not in CHOICES:
            raise MRKLError(f"tool_calls {choice!r} is none of {', '.join(CHOICES)}")
        found, budget = Turns(), Budget(self.experts, self.max_calls, self.seconds)
        while True:
            last = len(found.trace) >= self.max_calls
            calls = self._turn(
                [*chat, *found.messages], choice == "required" and not found.trace, last, found, generate
            )
            if not calls:
                found.messages.append({"role": "assistant", "content": found.text})
                return found
            for call in calls:
                self._run(*call, found, budget)

    def call_once(self, chat: Sequence[Mapping], choice: str = "auto", **generate) -> Turns:
        """As a call of this, without the model's sentence behind its calls."""
        found, budget = Turns(), Budget(self.experts, self.max_calls, self.seconds)
        for call in self._turn(chat, choice == "required", False, found, generate):
            self._run(*call, found, budget)
        return found

    def _turn(self, chat, required, last, found, generate) -> list:
        encoded = {name: tensor.to(self.model.device) for name, tensor in self.encode(chat).items()}
        settings = dict(generate)
        config = settings.get("generation_config") or self.model.generation_config
        most = settings.get("max_new_tokens") or config.max_new_tokens or 256
        processor = _Calls(
            self.masks(True), self.format.opening, self.max_call_tokens, self.masks(False) if required else None,
            self.format.at_start, end=self._end(), most=most,
        )  # fmt: skip
        if not last:
            settings["logits_processor"] = [*settings.get("logits_processor", ()), processor]
            settings["max_new_tokens"] = most + self.max_call_tokens + CLOSING
        with disabled(self.model):
            output = plain_generate(self.model, **encoded, **settings)
        ids = getattr(output, "sequences", output)[0, encoded["input_ids"].shape[1] :]
        found.text = self._content(ids, encoded["input_ids"][0])
        calls = [call for written in processor.calls for call in self.format.parse(written, self.schemas)]
        if calls and self.format.system:
            found.messages.append(
                {"role": "assistant", "content": self.tokenizer.decode(ids, skip_special_tokens=True)}
            )
        return calls

    def _content(self, ids, prompt) -> str:
        """The text of an answer, without what the tokenizer's own response template takes for thoughts."""
        if getattr(self.tokenizer, "response_template", None):
            said = self.tokenizer.parse_response(ids.tolist(), prefix=prompt.tolist())
            return (said.get("content") or "").strip()
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _end(self) -> int:
        end = self.model.generation_config.eos_token_id
        end = end[0] if isinstance(end, list | tuple) else end
        return self.tokenizer.eos_token_id if end is None else end

    def _run(self, name, arguments, found, budget) -> None:
        """One call, its result as a message and in the trace."""
        result = budget.call(name, arguments, len(found.trace))
        identity = f"call{len(found.trace):05d}"
        if not self.format.system:
            call = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
            found.messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        found.messages.append({"role": "tool", "tool_call_id": identity, "name": name, "content": said_of(result)})
        found.results.append(result)
        found.trace.append({"expert": name, "arguments": arguments, "result": result.exact})


def _dumped(chat) -> list:
    """The chat with arguments as JSON text."""

    def called(call):
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return [
        {**message, "tool_calls": [called(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in chat
    ]
