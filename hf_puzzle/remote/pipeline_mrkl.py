"""`pipeline("mrkl")`: exact experts where one fits, the untouched language model elsewhere (MRKL, arXiv 2205.00445).

The planner turns a query into calls of experts and runs them; what no expert covers is answered by the model with all
adapters disabled, token for token as `model.generate` would. The pipeline keeps experts, their data and
settings beside the model (`mrkl.json`) and carries its code, so that a saved folder or Hub repository opens with
`pipeline(model=..., trust_remote_code=True)` where hf_puzzle is not installed.
"""

import contextlib
import difflib
import json
import re
import shutil
import tempfile
import types
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from transformers import GenerationConfig, Pipeline
from transformers.utils.hub import cached_file

from .adapters_mrkl import Phraser, disabled, plain_generate
from .caches_puzzle import REQUIREMENTS
from .calls_mrkl import (
    MRKLError,
    NumberError,
    nearest,
    parse_number,
    plain_path,
    read_json,
    reading,
)
from .compositions_mrkl import Composition
from .dates_mrkl import Dates
from .exact_mrkl import Calculator, Units
from .experts_mrkl import Experts
from .generation_mrkl import CUSTOM_GENERATE
from .known_mrkl import Known
from .planner_mrkl import Limits, Planner
from .plans_mrkl import PlanReader
from .saved_mrkl import BUILDERS, sha256
from .slots_mrkl import MAX_CHARS, read
from .toolcalls_mrkl import CHOICES, ToolCalls


SETTINGS_FILE = "mrkl.json"
SETTINGS_VERSION = 2
DATA_FOLDER = "mrkl_data"
CUSTOM_PIPELINES = {
    "mrkl": {"impl": "pipeline_mrkl.MrklPipeline", "pt": ["AutoModelForCausalLM"], "type": "text"},
}
ON_ERROR = ("report", "lm", "raise")
# a model's own calls: 3 of 18 gave the answer that was asked for, by a model of 135 M (benchmarks/tool_calls.json)
OWN_CALLS = 0.17
# phrasing is asked for as a continuation where the model has no chat template
PHRASING = (
    "Say the answer to the question in one sentence. Keep every number, date and name exactly as it is in the answer."
)


class ExpertCallError(MRKLError):
    """An expert gave no answer and `on_error="raise"` was asked for; `reply` has status, trace and message."""

    def __init__(self, reply: dict):
        super().__init__(f"{reply['status']}: {reply['message'] or 'no answer'}")
        self.reply = reply


class MrklPipeline(Pipeline):
    """Answers queries by exact experts, and by the untouched model where none fits.

    >>> ask = pipeline("mrkl", model=name, experts=[Calculator(), my_function], today="2022-05-02")
    >>> ask("What is 12345678 times 87654321?")
    {'generated_text': '1082152022374638', 'answer': '1082152022374638', 'status': 'ok', 'trace': [...], ...}

    Args, at construction:
        experts: a list of whatever `expert_from` takes (Experts, functions with type hints and a Google docstring,
            (schema, callable), smolagents tools), or a mapping of them by name. Default: those saved with the model,
            else calculator, units and dates. Those given replace saved ones of the same name.
        today: ISO date that "today" means; default: the saved one, or that of an expert. No clock is ever read.
        examples: expert -> example queries, of experts of your own; they are found by their words.
        compositions: `Composition`s, or mappings of their arguments: questions that take several experts.
        plan_reader: a `PlanReader`, by which the model reads queries that the grammar cannot; see `plans_mrkl`.
        phraser: a `Phraser`, which puts answers into sentences where `phrase` asks for it; see `adapters_mrkl`.
        limits: `planner_mrkl.Limits`.
    Args, at construction or per call:
        on_error: what is said when an expert fails, has no entry or refuses: "report" its message, "lm" the untouched
            model's text (the status still tells), "raise" an ExpertCallError.
        return_trace: False returns only [{"generated_text"}], as text-generation does.
        chat_template: put a plain text through the tokenizer's chat template, where it has one, as a user's message;
            False gives it to the model as it is.
        tool_calls: where no expert is found by the question, let the model call them itself, in its template's own
            format: "auto" as it likes, "required" always. Without a call the untouched model answers.
        mask_engine: what holds such calls to the schemas: "llguidance", "own", or "auto".
        phrase: let the model put an expert's answer into a sentence; kept only if its numbers are the trace's.
        Everything else goes to the model's `generate`: max_new_tokens, do_sample, streamer, ...

    Input: a text, a chat (list of messages, the last one the user's), or a list or generator of them.
    Returns: {"generated_text", "answer", "status", "trace", "confidence"}, or a list of them. status: "ok", "error",
        "no_data", "refused", or "abstain" where the model alone answered; then answer is None and trace empty. For a
        chat `generated_text` is the chat with the calls as `tool_calls` and `tool` messages and the answer.
    Raises MRKLError, before any compute, for other inputs, unknown arguments and experts that are not valid.
    """

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=64)
    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(
        self, *args, experts=None, today=None, examples=None,
        compositions=(), plan_reader=None, phraser=None, limits=None, **kwargs,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        if self.tokenizer is None:
            raise MRKLError("MrklPipeline needs a tokenizer")
        saved, self._saved_calls = self._restore()
        self.experts = _all_experts(saved.get("experts"), experts, saved.get("missing", {}))
        self.today = _reference_date(today or saved.get("today"), self.experts)
        self.known = Known.of(self.experts, self.today)
        made = [each if isinstance(each, Composition) else Composition.read(each) for each in compositions]
        self.compositions = list({each.name: each for each in (*saved.get("compositions", ()), *made)}.values())
        for name in examples or {}:
            if name not in self.experts:
                raise MRKLError(f"examples of {name!r}, which is no expert{nearest(name, self.experts)}")
        self.plan_reader = plan_reader if plan_reader is not None else saved.get("plan_reader")
        self.phraser = phraser if phraser is not None else saved.get("phraser")
        for part in (self.plan_reader, self.phraser):
            if part is not None:
                part.attach(self.model, self.tokenizer)
        if isinstance(limits, Mapping):
            limits = Limits(**limits)
        limits = limits or saved.get("limits")
        self.planner = Planner(self.experts, self.known, limits, examples, self.compositions)
        self._tools: ToolCalls | None = None

    # -- settings beside the model

    def _saved_file(self, name: str) -> Path | None:
        """A file beside a model that was saved with this pipeline, from the folder or the Hub."""
        config = self.model.config
        if "mrkl" not in (getattr(config, "custom_pipelines", None) or {}) or not config._name_or_path:
            return None
        found = cached_file(
            config._name_or_path,
            name,
            revision=getattr(config, "_commit_hash", None),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else Path(found)

    def _restore(self) -> tuple[dict, dict]:
        """(what was saved with the model, as objects; saved arguments of calls)."""
        path = self._saved_file(SETTINGS_FILE)
        if path is None:
            return {}, {}
        saved = read_json(path)
        with reading(path):
            return self._read(path, saved)

    def _read(self, path: Path, saved: dict) -> tuple[dict, dict]:
        if saved.get("mrkl_version") != SETTINGS_VERSION:
            raise MRKLError(
                f"{path} is not of version {SETTINGS_VERSION}: save the pipeline again, or update its code"
            )
        files = {name: self._checked_file(name, digest) for name, digest in saved["files"].items()}
        experts, missing = {}, {}
        for entry in saved["experts"]:
            if entry["kind"] not in BUILDERS:
                missing[entry["name"]] = entry
                continue
            expert = BUILDERS[entry["kind"]][1](entry["options"], files, saved["today"])
            expert.name = entry["name"]
            if expert.hash != entry["hash"]:
                raise MRKLError(
                    f"expert {entry['name']!r} of {path} has another description or schema than this code: "
                    "save the pipeline again"
                )
            experts[entry["name"]] = expert
        found = {"experts": experts, "missing": missing, "today": saved["today"], "limits": Limits(**saved["limits"])}
        found["compositions"] = [Composition.read(each) for each in saved["compositions"]]
        if saved["plan_reader"] is not None:
            found["plan_reader"] = PlanReader.load(saved["plan_reader"], files)
        if saved["phraser"] is not None:
            found["phraser"] = Phraser.load(saved["phraser"], files)
        if wrong := set(saved["calls"]) - set(self._CALL):
            raise MRKLError(f"{path} sets {sorted(wrong)[0]!r} for calls; it may set {', '.join(self._CALL)}")
        self._sanitize_parameters(**saved["calls"])
        return found, saved["calls"]

    def _checked_file(self, name: str, digest: str) -> Path:
        if not plain_path(name):
            raise MRKLError(f"{SETTINGS_FILE} names {name!r:.80}, which is no file of its folder: do not use it")
        path = self._saved_file(name)
        home = Path(self.model.config._name_or_path)
        # a folder's file may not be a link to elsewhere; the cache of a Hub repository is links
        if path is not None and home.is_dir() and not path.resolve().is_relative_to(home.resolve()):
            raise MRKLError(f"{name}, which {SETTINGS_FILE} names, is a link that leaves its folder: do not use it")
        if path is None or sha256(path) != digest:
            state = "is missing" if path is None else "changed since the pipeline was saved"
            raise MRKLError(f"{name}, which {SETTINGS_FILE} names, {state}: save the pipeline again")
        return path

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Write model, tokenizer, experts with their data, adapters, settings and code to a folder.

        The folder opens with `pipeline(model=folder, trust_remote_code=True)` where hf_puzzle is not installed.
        Data of tables, documents and databases is copied; functions and tools of a user are not code of the folder:
        their schema and hash are, and who loads it passes them again. Unlike transformers' own, this keeps the code of
        a pipeline that was itself loaded from such a folder. kwargs: as for the model's `save_pretrained`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".mrkl_") as fresh:
            # beside the old data, which this pipeline may still read from, and then in its place
            settings = self._settings(Path(fresh) / DATA_FOLDER)
            shutil.rmtree(folder / DATA_FOLDER, ignore_errors=True)
            if (Path(fresh) / DATA_FOLDER).exists():
                shutil.move(Path(fresh) / DATA_FOLDER, folder / DATA_FOLDER)
        text = json.dumps(settings, indent=1, ensure_ascii=False)
        (folder / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        code = folder / "custom_generate"
        code.mkdir(exist_ok=True)
        (code / "generate.py").write_text(CUSTOM_GENERATE, encoding="utf-8")
        (code / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
        copy_module("generation_mrkl", code)
        self._save_model(folder, kwargs)

    def _settings(self, data: Path) -> dict:
        """What `mrkl.json` says; writes the files that it names to `data`."""
        experts = []
        for expert in self.experts.values():
            kind = next((name for name, (cls, _, _) in BUILDERS.items() if type(expert) is cls), "function")
            options = BUILDERS[kind][2](expert, data) if kind in BUILDERS else {}
            entry = {"name": expert.name, "kind": kind, "hash": expert.hash, "exact": expert.exact}
            experts.append(entry | {"limits": expert.limits, "options": options, "schema": expert.schema})
        plan_reader, phraser = (None if each is None else each.save(data) for each in (self.plan_reader, self.phraser))
        names = sorted(path.relative_to(data.parent).as_posix() for path in data.rglob("*") if path.is_file())
        calls = {**self._saved_calls, **self._postprocess_params}
        return {
            "mrkl_version": SETTINGS_VERSION,
            "today": self.today,
            "experts": experts,
            "plan_reader": plan_reader,
            "phraser": phraser,
            "compositions": [each.settings() for each in self.compositions],
            "limits": vars(self.planner.limits),
            "calls": calls,
            "files": {name: sha256(data.parent / name) for name in names},
        }

    def _save_model(self, folder: Path, kwargs: dict) -> None:
        model = getattr(self.model, "get_base_model", lambda: self.model)()
        config = model.config
        before = getattr(config, "custom_pipelines", None)
        # loading a pipeline leaves classes in the config, where JSON needs their names
        others = {
            task: {**entry, "pt": [each if isinstance(each, str) else each.__name__ for each in entry.get("pt", ())]}
            for task, entry in (before or {}).items()
        }
        config.custom_pipelines = others | CUSTOM_PIPELINES
        try:
            for name in ("pipeline_mrkl", *_modules(config)):
                copy_module(name, folder)
            self.tokenizer.save_pretrained(folder, **kwargs)
            with disabled(model, merged=True) as state:
                model.save_pretrained(folder, **({"state_dict": state} if state is not None else {}), **kwargs)
        finally:
            if before is None:
                del config.custom_pipelines
            else:
                config.custom_pipelines = before

    # -- calls

    _CALL = ("on_error", "return_trace", "phrase", "chat_template", "tool_calls", "mask_engine")

    def _sanitize_parameters(self, **settings) -> tuple[dict, dict, dict]:
        finish = {name: settings.pop(name) for name in self._CALL if name in settings}
        if finish.get("on_error", "report") not in ON_ERROR:
            raise MRKLError(f"on_error {finish['on_error']!r} is none of {', '.join(ON_ERROR)}")
        if finish.get("tool_calls") not in (None, False, *CHOICES):
            raise MRKLError(f"tool_calls {finish['tool_calls']!r} is none of {', '.join(CHOICES)}, False")
        known = (
            *self._CALL, "experts", "today", "examples", "compositions", "plan_reader", "phraser", "limits",
        )  # fmt: skip
        for name in settings:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            if near and not hasattr(GenerationConfig(), name):
                where = "" if near[0] in self._CALL else " (an argument of the pipeline, not of a call)"
                raise MRKLError(f"MrklPipeline has no argument {name!r}; did you mean {near[0]!r}{where}?")
        return {}, {"generate": settings} if settings else {}, finish

    def __call__(self, inputs, batch_size: int | None = None, **kwargs):
        """See the class. Queries are answered one after the other: `batch_size` changes nothing but is accepted."""
        _, forward, finish = self._sanitize_parameters(**kwargs)
        generate = {**self._forward_params.get("generate", {}), **forward.get("generate", {})}
        finish = {**self._saved_calls, **self._postprocess_params, **finish}
        self.call_count += 1
        if isinstance(inputs, types.GeneratorType):
            return (self._answer(_checked_input(each, i), generate, **finish) for i, each in enumerate(inputs))
        if isinstance(inputs, str) or _is_chat(inputs):
            return self._answer(_checked_input(inputs, 0), generate, **finish)
        if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
            raise MRKLError(f"inputs are a {type(inputs).__name__}: give a text, a chat, or a list of them")
        # what is wrong with a later input must be said before the first one is computed
        rows = [_checked_input(each, i) for i, each in enumerate(inputs)]
        return [self._answer(row, generate, **finish) for row in rows]

    def preprocess(self, inputs):
        return _checked_input(inputs, 0)

    def _forward(self, model_inputs, generate=None):
        return self._answer(model_inputs, generate or {})

    def postprocess(self, outputs, **finish):
        return outputs

    def _answer(
        self, row, generate, on_error="report", return_trace=True, phrase=False, chat_template=True, tool_calls=False,
        mask_engine="auto",
    ) -> dict | list[dict]:  # fmt: skip
        """One input to its result."""
        chat = None if isinstance(row, str) else [dict(message) for message in row]
        query = row if chat is None else _text_of(chat[-1]["content"])
        if len(query) > MAX_CHARS:
            # a document with a question in it is the model's business
            reply = {"answer": None, "status": "abstain", "trace": [], "confidence": 1.0, "message": ""}
        else:
            reply = {"message": "", **self.planner.ask(query)}
        if reply["status"] == "abstain" and self.plan_reader is not None and len(query) <= MAX_CHARS:
            reply = self._planned(query, reply)
        called = None
        if reply["status"] == "abstain" and tool_calls:
            called = self._called(chat or [{"role": "user", "content": query}], tool_calls, mask_engine, generate)
            reply = {**reply, **(called or {})}
        status, trace = reply["status"], reply["trace"]
        generate = dict(generate)
        if status == "abstain" or (status != "ok" and on_error == "lm"):
            prompt = self._prompt(query, chat_template) if chat is None else chat
            text = self._untouched(prompt, generate)
        else:
            if status != "ok" and on_error == "raise":
                raise ExpertCallError(reply)
            text = reply["answer"] if status == "ok" else f"{status}: {reply['message']}"
            text = (
                called["said"] if called and status == "ok" and faithful(called["said"], reply, self.known) else text
            )
            streamer = generate.pop("streamer", None)
            if status == "ok" and phrase and not called:
                text = self._phrased(query, reply, generate)
            if streamer is not None:
                self._stream(streamer, query if chat is None else chat, text)
        if chat is not None:
            text = [*chat, *tool_messages(trace), {"role": "assistant", "content": text}]
        if not return_trace:
            return [{"generated_text": text}]
        kept = {"answer": reply["answer"], "status": status, "trace": trace, "confidence": reply["confidence"]}
        return {"generated_text": text, **kept}

    def _planned(self, query, reply) -> dict:
        """The reply by the plan that the model's adapter writes, where its judge is sure enough; the same otherwise."""
        found = self.plan_reader.plan(query, self.known, self.experts)
        if found is None:
            return reply
        reply = {"message": "", **self.planner.run(found[0]), "confidence": round(found[1], 4)}
        return reply | {"message": reply["message"] or "read by the language model"}

    def _called(self, chat, choice, engine, generate) -> dict | None:
        """What the model's own calls give: its last result, and its sentence as "said"; None where it made none."""
        if self._tools is None or self._tools.engine != engine:
            limits = self.planner.limits
            self._tools = ToolCalls(
                self.model, self.tokenizer, self.experts, engine, limits.calls, limits.call_seconds
            )
        settings = self._prepare_generate_kwargs({k: v for k, v in generate.items() if k != "streamer"})
        with torch.no_grad():
            turns = self._tools(chat, choice, **settings)
        if not turns.trace:
            return None
        result = turns.results[-1]
        found = {
            "status": result.status,
            "trace": turns.trace,
            "answer": result.text if result.status == "ok" else None,
        }
        message = result.message or "called by the language model"
        return {**found, "message": message, "confidence": OWN_CALLS, "said": turns.text}

    # -- the language model

    def _prompt(self, query: str, templated: bool):
        """A plain question as the model was trained to be asked."""
        return (
            [{"role": "user", "content": query}]
            if templated and query.strip() and self.tokenizer.chat_template
            else query
        )

    def encode(self, query) -> dict:
        """Ids (1, length) and mask of a text or chat, control tokens in it encoded as text."""
        if isinstance(query, str):
            return self.tokenizer(query, return_tensors="pt", split_special_tokens=True, return_token_type_ids=False)
        if not self.tokenizer.chat_template:
            raise MRKLError(
                "this tokenizer has no chat template: give the query as a text, or set tokenizer.chat_template"
            )
        return self.tokenizer.apply_chat_template(
            query, add_generation_prompt=True, sanitize_control_tokens=True, return_tensors="pt", return_dict=True
        )

    def _untouched(self, query, generate) -> str:
        """What the model without adapters says; `generate`: its arguments."""
        encoded = {name: tensor.to(self.model.device) for name, tensor in self.encode(query).items()}
        if not encoded["input_ids"].shape[1]:
            return ""
        settings = self._prepare_generate_kwargs(generate)
        with disabled(self.model), torch.no_grad():
            output = plain_generate(self.model, **encoded, tokenizer=_if_needed(self.tokenizer, settings), **settings)
        sequence = getattr(output, "sequences", output)[0]
        return self.tokenizer.decode(sequence[encoded["input_ids"].shape[1] :], skip_special_tokens=True)

    def _stream(self, streamer, query, text) -> None:
        """Tokens of an expert's answer, as `generate` streams: the prompt, then one by one."""
        if isinstance(query, str) or self.tokenizer.chat_template:
            streamer.put(self.encode(query)["input_ids"])
        else:
            streamer.put(torch.tensor([[]], dtype=torch.long))
        for token in _plain_ids(self.tokenizer, text):
            streamer.put(torch.tensor([token]))
        streamer.end()

    def _phrased(self, query, reply, generate) -> str:
        """The model's sentence for an answer, or the bare answer where that has another number or misses it."""
        answer = reply["answer"]
        if self.phraser is not None:
            text = self.phraser.say(query, answer, self.known)
            return text if faithful(text, reply, self.known) else answer
        said = f"{PHRASING}\n\nQuestion: {query}\nAnswer: {answer}"
        prompt = [{"role": "user", "content": said}] if self.tokenizer.chat_template else f"{said}\nSentence:"
        text = self._untouched(prompt, generate).strip().split("\n")[0].strip()
        return text if faithful(text, reply, self.known) else answer


# -- texts


def faithful(text: str, reply: Mapping, known: Known) -> bool:
    """Whether a sentence says the answer of `reply` and no number or date that its trace has not.

    Numbers are compared by value, in figures or in words; an answer without a number must stand in the text.
    """
    values = [reply["answer"], *(str(step["result"]) for step in reply["trace"])]
    values += [str(value) for step in reply["trace"] for value in step["arguments"].values()]
    allowed = set().union(*(_numbers(value, known) for value in values))
    said, asked = _numbers(text, known), _numbers(reply["answer"], known)
    return (
        bool(text)
        and said <= allowed
        and asked <= said
        and (bool(asked) or reply["answer"].casefold() in text.casefold())
    )


def _numbers(text: str, known: Known) -> set:
    """Values of the numbers and dates in `text`; every figure counts, also where the slot finder sees none."""
    found = set()
    for figure in re.findall(r"\d+/\d+|\d[\d,]*(?:\.\d+)?", text):
        with contextlib.suppress(NumberError):
            found.add(parse_number(figure.rstrip(",")))
    for slot in read(text[:2000], known).slots:
        if slot.kind == "n" and isinstance(slot.value, Fraction):
            found.add(abs(slot.value))
        if slot.kind == "d" and isinstance(slot.value, str):
            found.update(Fraction(part) for part in slot.value.split("-") if part)
    return found


def _plain_ids(tokenizer, text) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _if_needed(tokenizer, settings):
    return tokenizer if settings.get("stop_strings") else None


def _is_chat(value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def _checked_input(value, i):
    """A text, or the messages of a chat whose last one is the user's; MRKLError otherwise."""
    if isinstance(value, str):
        return value
    value = getattr(value, "messages", value)
    if not _is_chat(value):
        raise MRKLError(f"input {i} is {str(value)[:60]!r}: give a text, or a chat as a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or "role" not in message or not {"content", "tool_calls"} & set(message):
            raise MRKLError(f"input {i}: {str(message)[:60]!r} is no message with 'role' and 'content'")
    if value[-1]["role"] != "user" or "content" not in value[-1]:
        raise MRKLError(f"input {i}: the last message is by {value[-1]['role']!r}; it must be the user's question")
    return value


def _text_of(content) -> str:
    """The text of a message's content, which may come in parts."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if isinstance(part, Mapping))


def tool_messages(trace: Sequence[Mapping]) -> list[dict]:
    """A trace as chat messages: `tool_calls` of the assistant and the `tool` messages that answer them.

    Calls that do not need each other stand in one message; `$n` is replaced by the result of step n, so that another
    framework can go on with the conversation.
    """
    levels, results, messages = [], {}, []
    for number, step in enumerate(trace, 1):
        text = json.dumps(step["arguments"], default=str)
        needs = [int(n) for n in re.findall(r"\$(\d+)", text) if 0 < int(n) < number] + list(step.get("needs", ()))
        levels.append(1 + max((levels[n - 1] for n in needs), default=0))
        results[number] = str(step["result"])
    for level in sorted(set(levels)):
        chosen = [(n, step) for n, step in enumerate(trace, 1) if levels[n - 1] == level]
        calls = [
            {
                "id": f"call_{n}",
                "type": "function",
                "function": {"name": step["expert"], "arguments": _resolved(step["arguments"], results)},
            }
            for n, step in chosen
        ]
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": f"call_{n}", "name": step["expert"], "content": results[n]}
            for n, step in chosen
        ]
    return messages


def _resolved(arguments, results):
    def value_of(value):
        if not isinstance(value, str):
            return value
        alone = re.fullmatch(r"\$(\d+)", value)
        if alone:
            return results.get(int(alone[1]), value)
        return re.sub(r"\$(\d+)", lambda m: f"({results[int(m[1])]})" if int(m[1]) in results else m[0], value)

    return {name: value_of(value) for name, value in arguments.items()}


# -- experts and their data


def _all_experts(saved, given, missing) -> Experts:
    if isinstance(given, Experts):
        given = dict(given)
    given = Experts([] if given is None else given)
    for name, entry in missing.items():
        if name not in given:
            raise MRKLError(
                f"expert {name!r} is a function of whoever saved this pipeline: pass it again in experts=[...]"
            )
        if given[name].hash != entry["hash"]:
            raise MRKLError(f"expert {name!r} has another description or schema than the one that was saved")
    if saved is None:
        return given if given else Experts([Calculator(), Units(), Dates()])
    return Experts({**saved, **given})


def _reference_date(today, experts) -> str:
    if today is None:
        dates = (getattr(expert, "today", None) for expert in experts.values())
        today = next((date for date in dates if date is not None), None)
    if today is None:
        raise MRKLError("give today='2022-05-02', the ISO date that \"today\" means: no clock is read")
    return str(today)


# -- code


def _modules(config) -> list[str]:
    """Files of this folder that the model's `auto_map` names: a compressed model keeps its code."""
    references = (getattr(config, "auto_map", None) or {}).values()
    names = dict.fromkeys(str(r).split("--")[-1].split(".")[0] for r in references)
    return [name for name in names if (Path(__file__).parent / f"{name}.py").exists()]


def copy_module(name: str, folder: Path) -> None:
    """A file of this folder and the siblings it takes names from."""
    source = Path(__file__).with_name(f"{name}.py")
    target = folder / source.name
    if target.exists() and target.samefile(source):
        return
    shutil.copyfile(source, target)
    for sibling in re.findall(r"^from \.(\w+) import", source.read_text(encoding="utf-8"), flags=re.MULTILINE):
        copy_module(sibling, folder)
