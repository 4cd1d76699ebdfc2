"""`pcw-classification`, `pcw-generation` and `pcw-decision`: pipelines over parallel context windows (arXiv 2212.10947).

They keep what they were given (demonstrations, labels, contexts, settings) in `pcw.json` beside the model, and carry
their code, so that a saved folder or Hub repository opens with `pipeline(task, model=..., trust_remote_code=True)` where
hf_puzzle is not installed. With hf_puzzle imported, they are known by their names for every model.
"""

import difflib
import json
import re
import shutil
import threading
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import GenerationConfig, Pipeline
from transformers.utils import logging
from transformers.utils.hub import cached_file

from .cache_pcw import EncodedWindows
from .decisions_pcw import Decider, is_request, label_questions
from .generation_pcw import encode_windows, generate
from .masks_pcw import PCWError, check_count, check_model, column_names, plain_model
from .scoring_pcw import check_knobs, recompute_starts, score_labels
from .store_pcw import load_windows, read_json, save_windows
from .weights_pcw import model_state
from .windows_pcw import (
    Labels,
    Layout,
    Template,
    context_size,
    lay_out_demonstrations,
    lay_out_documents,
    read_demonstrations,
    table_rows,
    tokenize_labels,
)


logger = logging.get_logger(__name__)

SETTINGS_FILE = "pcw.json"
SETTINGS_VERSION = 1
WINDOWS_FOLDER = "pcw_windows"
# averaged into the prior of the labels (Zhao et al. 2021, arXiv 2102.09690)
CONTENT_FREE = ("N/A", "", "[MASK]")
CUSTOM_PIPELINES = {
    "pcw-classification": {"impl": "pipeline_pcw.PCWClassificationPipeline", "pt": ["AutoModelForCausalLM"]},
    "pcw-generation": {"impl": "pipeline_pcw.PCWGenerationPipeline", "pt": ["AutoModelForCausalLM"]},
    "pcw-decision": {"impl": "pipeline_pcw.PCWDecisionPipeline", "pt": ["AutoModelForCausalLM"]},
}
CUSTOM_PIPELINES = {task: {**entry, "type": "text"} for task, entry in CUSTOM_PIPELINES.items()}


class _PCWPipeline(Pipeline):
    """What both pipelines share: settings that are saved and restored, windows that are encoded once."""

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.tokenizer is None:
            raise PCWError(f"{type(self).__name__} needs a tokenizer")
        check_model(self.model)
        self._lock = threading.Lock()
        self._others, saved = self._restore()
        if "demonstrations" in self._preprocess_params:
            saved.pop("labels", None)  # they are those of the saved demonstrations
        prepare, forward, finish = self._sanitize_parameters(**saved)
        self._preprocess_params = prepare | self._preprocess_params
        self._forward_params = forward | self._forward_params
        self._postprocess_params = finish | self._postprocess_params

    # -- settings beside the model

    def _task(self) -> str:
        return next(t for t, e in CUSTOM_PIPELINES.items() if e["impl"].endswith(f".{type(self).__name__}"))

    def _saved_file(self, name: str) -> Path | None:
        """A file beside a model that was saved with these pipelines, from the folder or the Hub."""
        config = self.model.config
        if self._task() not in (getattr(config, "custom_pipelines", None) or {}) or not config._name_or_path:
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
        """(settings of the other pipelines, own settings) saved with the model."""
        path = self._saved_file(SETTINGS_FILE)
        if path is None:
            return {}, {}
        try:
            saved = read_json(path)
        except ValueError as error:
            raise PCWError(f"{path} is not valid JSON ({error}): save the pipeline again") from None
        if not isinstance(saved, dict) or saved.pop("pcw_version", None) != SETTINGS_VERSION:
            raise PCWError(f"{path} is not of version {SETTINGS_VERSION}: save the pipeline again, or update its code")
        own = saved.pop(self._task(), {})
        # never arguments of `generate`: among them are `custom_generate` and `trust_remote_code`
        known = {name for names in self._SAVED for name in getattr(self, names)}
        if not isinstance(own, dict) or not set(own) <= known:
            raise PCWError(f"{path} has other settings than {', '.join(sorted(known))}: save the pipeline again")
        return saved, own

    def settings(self) -> dict:
        """What `save_pretrained` writes, as JSON values: the arguments that make this pipeline again."""
        raise NotImplementedError

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Write model, tokenizer, settings and code: a folder that opens with `trust_remote_code=True`.

        kwargs: as for the model's `save_pretrained`. Unlike transformers' own, this keeps the code of a pipeline that
        was itself loaded from such a folder, and the entries of other pipelines.
        """
        if plain_model(self.model) is not self.model:
            raise PCWError(
                "a PeftModel is saved without its base: make the pipeline of model.merge_and_unload() to save it"
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"pcw_version": SETTINGS_VERSION, **self._others, self._task(): self.settings()}
        text = json.dumps(settings, indent=1, ensure_ascii=False)
        (folder / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        config = self.model.config
        before = getattr(config, "custom_pipelines", None)
        # loading a pipeline leaves classes in the config, where JSON needs their names
        others = {
            task: {**entry, "pt": [each if isinstance(each, str) else each.__name__ for each in entry.get("pt", ())]}
            for task, entry in (before or {}).items()
        }
        config.custom_pipelines = others | CUSTOM_PIPELINES
        try:
            _copy_modules(["pipeline_pcw", *_modules(config)], folder)
            self.tokenizer.save_pretrained(folder, **kwargs)
            self.model.save_pretrained(folder, **kwargs)
        finally:
            if before is None:
                del config.custom_pipelines
            else:
                config.custom_pipelines = before

    # -- calls

    def _sanitize(self, settings: dict, *groups: Sequence[str]) -> list[dict]:
        known = [name for group in groups for name in group]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
                raise PCWError(f"{type(self).__name__} has no argument {name!r}{hint}")
        return [{name: settings[name] for name in group if name in settings} for group in groups]

    def _check_reading(
        self,
        count: int,
        mode: str = "pcw",
        attention_temperature: float = 1.0,
        self_weight: float = 1.0,
        top_k_windows: int | None = None,
        weights=None,
        beta: float = 0.25,
    ) -> None:
        """What the core would refuse, before `count` windows are encoded."""
        knobs = (mode, attention_temperature, self_weight, top_k_windows, weights, beta)
        check_knobs(self.model, check_model(self.model), count, *knobs)

    def _run(self, rows: list, prepare: dict, forward: dict, finish: dict) -> list:
        return self.postprocess(self.forward(self.preprocess(rows, **prepare), **forward), **finish)

    def _stream(self, inputs, size: int, *parameters: dict) -> Iterator:
        rows = []
        for row in inputs:
            rows.append(row)
            if len(rows) == size:
                yield from self._run(rows, *parameters)
                rows = []
        if rows:
            yield from self._run(rows, *parameters)

    def __call__(self, inputs, batch_size: int | None = None, **kwargs):
        """`inputs`: one, a list, a data set or a generator (then a generator comes back), `batch_size` at a time."""
        given = self._sanitize_parameters(**kwargs)
        kept = (self._preprocess_params, self._forward_params, self._postprocess_params)
        parameters = [a | b for a, b in zip(kept, given, strict=True)]
        self.call_count += 1
        check_count(batch_size, "batch_size")
        size = batch_size or self._batch_size or 64
        if isinstance(inputs, str | Mapping):
            return self._single(self._run([inputs], *parameters)[0], **kwargs)
        if isinstance(inputs, types.GeneratorType):
            return self._stream(inputs, size, *parameters)
        if not (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")):
            raise PCWError(f"inputs are {inputs!r}: give a text, a mapping, or a list, data set or generator of them")
        if column_names(inputs) is not None:
            rows = table_rows(inputs)
        else:  # a series has an index of its own
            rows = list(inputs) if hasattr(inputs, "__iter__") else [inputs[i] for i in range(len(inputs))]
        if not rows:
            return []
        if len(rows) > size:  # what is wrong with a later batch must be said before the first one is computed
            self.preprocess(rows, **parameters[0])
        return list(self._stream(rows, size, *parameters))

    def _single(self, output, **kwargs):
        return output


def _modules(config) -> list[str]:
    """Files of this folder that the model's `auto_map` names: a compressed model keeps its code."""
    references = (getattr(config, "auto_map", None) or {}).values()
    names = dict.fromkeys(str(r).split("--")[-1].split(".")[0] for r in references)
    return [name for name in names if (Path(__file__).parent / f"{name}.py").exists()]


def _copy_modules(names: list[str], folder: Path) -> None:
    """Files of this folder and, one after the other, the siblings they take names from."""
    for name in names:  # which grows
        source, target = Path(__file__).with_name(f"{name}.py"), folder / f"{name}.py"
        if not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)
        found = re.findall(r"^ *from \.(\w+) import", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
        names += [sibling for sibling in dict.fromkeys(found) if sibling not in names]


# -- classification


@dataclass
class ClassificationWindows:
    """Demonstrations as windows: the text layer's result, and the caches once something was classified."""

    template: Template
    labels: Labels
    layout: Layout
    alignment: str
    encoded: EncodedWindows | None = None
    recompute_starts: int = 0
    priors: dict = field(default_factory=dict)

    def task(self, inputs: tuple[str, ...]) -> tuple[int, ...]:
        """Ids of a text to classify."""
        return self.layout.task(self.template.separator + self.template.task(inputs))


class PCWClassificationPipeline(_PCWPipeline):
    """In-context classification with any number of demonstrations (PCW, arXiv 2212.10947, section 3).

    >>> classifier = pipeline("pcw-classification", model=name, demonstrations=[("great film", "good"), ...])
    >>> classifier("what a waste")
    [{'label': 'bad', 'score': 0.93}]

    Args, at construction or per call:
        demonstrations: pairs (text, label), mappings, or a `datasets.Dataset` (`text_column`, `label_column`).
        labels: the label set; default: the demonstrations' labels, sorted.
        num_windows, or window_size (tokens, prefix included): default: as few windows as hold all demonstrations.
        template, separator: see `Template`. prompt: read before every window, once.
        seed: of the deal of demonstrations to windows. task_tokens: positions kept for a text and its label.
        context_size: positions of the model; default: as its config says.
        tokenization: "joint", or "separate" as in the authors' code. alignment: "left" or "right".
        recompute_starts: tokens of each window that are read again behind the windows before it; 0: none.
        calibrate: divide by the labels' probabilities after content-free texts (arXiv 2102.09690).
        scores: "trie" (exact, one forward), "each" (the same, one forward per label), "greedy" (the paper's: no
            probabilities, the chosen label has score 1).
        mode, attention_temperature, self_weight, top_k_windows, weights, beta, packed: see `score_labels`.
        top_k: number of labels returned; None: all.

    Returns: as `text-classification`: dictionaries with `label` and `score`, the labels' scores sum to 1.
    Raises PCWError, before any compute, for what cannot be done: see `read_demonstrations`,
    `lay_out_demonstrations`, `tokenize_labels`, and for a text that does not fit.
    """

    _LAYOUT = (
        "demonstrations", "labels", "num_windows", "window_size", "template", "separator", "text_column", "label_column",
        "prompt", "seed", "task_tokens", "context_size", "tokenization", "alignment",
        "recompute_starts",
    )  # fmt: skip
    _SCORING = (
        "calibrate", "scores", "mode", "attention_temperature", "self_weight", "top_k_windows", "weights", "beta",
        "packed",
    )  # fmt: skip
    _SAVED = ("_LAYOUT", "_SCORING", "_FINISH")
    _FINISH = ("top_k",)

    def _sanitize_parameters(self, **settings) -> tuple[dict, dict, dict]:
        prepare, forward, finish = self._sanitize(settings, self._LAYOUT, self._SCORING, self._FINISH)
        check_count(finish.get("top_k"), "top_k")
        return prepare, forward, finish

    def windows(self, encode: bool = True, **settings) -> ClassificationWindows:
        """The windows of these settings (by default the pipeline's), encoded once; `.layout.report()` describes them."""
        settings = self._preprocess_params | settings
        windows = self._windows(**settings)
        return self._encoded(windows) if encode else windows

    def _windows(
        self,
        demonstrations=None,
        labels=None,
        num_windows: int | None = None,
        window_size: int | None = None,
        template: str | Template = Template.text,
        separator: str = Template.separator,
        text_column: str | None = None,
        label_column: str = "label",
        prompt: str = "",
        seed: int = 0,
        task_tokens: int | None = None,
        context_size: int | None = None,
        tokenization: str = "joint",
        alignment: str = "left",
        recompute_starts: int = 0,
    ) -> ClassificationWindows:
        template = template if isinstance(template, Template) else Template(template, separator)
        if demonstrations is None:
            raise PCWError(
                "there are no demonstrations: give demonstrations=[(text, label), ...], at construction or call"
            )
        shots, names = read_demonstrations(demonstrations, template, labels, text_column, label_column)
        sizes = {"num_windows": num_windows, "window_size": window_size, "task_tokens": task_tokens}
        sizes |= {"prompt": prompt, "seed": seed, "tokenization": tokenization}
        context = _context_size(self.model.config) if context_size is None else context_size
        key = (
            tuple(shots),
            names,
            template,
            context,
            alignment,
            recompute_starts,
            *sizes.values(),
            model_state(plain_model(self.model)),
        )
        known = getattr(self, "_known", None)
        if known is not None and known[0] == key:
            return known[1]
        if alignment not in ("left", "right"):
            raise PCWError(f"alignment is {alignment!r}: expected 'left' or 'right'")
        check_count(recompute_starts, "recompute_starts", 0)
        layout = lay_out_demonstrations(self.tokenizer, shots, names, template, context, **sizes)
        windows = ClassificationWindows(
            template,
            tokenize_labels(layout.tokens, names, template),
            layout,
            alignment,
            None if recompute_starts else self._saved_windows(layout, alignment),
            recompute_starts=recompute_starts,
        )
        self._known = (key, windows)
        return windows

    def _saved_windows(self, layout: Layout, alignment: str) -> EncodedWindows | None:
        """The caches saved beside the model, if they are this model's (not in another dtype) and of `layout`."""
        path = self._saved_file(f"{WINDOWS_FOLDER}/windows.json")
        if path is None or self._saved_file(f"{WINDOWS_FOLDER}/windows.safetensors") is None:
            return None
        try:
            encoded = load_windows(path.parent, self.model, self.tokenizer, layout.prefix)
        except PCWError as error:
            logger.warning("saved windows are not used, they are encoded again: %s", error)
            return None
        same = encoded.alignment == alignment and tuple(encoded.windows) == layout.windows
        return encoded if same else None

    def _encoded(self, windows: ClassificationWindows) -> ClassificationWindows:
        with self._lock:
            if windows.encoded is None:
                layout = windows.layout
                encoded = encode_windows(self.model, layout.windows, layout.prefix, windows.alignment)
                if windows.recompute_starts:
                    encoded = recompute_starts(self.model, encoded, windows.recompute_starts)
                windows.encoded = encoded
        return windows

    def preprocess(self, inputs: list, **settings) -> dict:
        """`inputs`: texts or mappings. PCWError for those that are neither, or too long."""
        windows = self._windows(**settings)
        column, template = settings.get("text_column"), windows.template
        texts = []
        for i, value in enumerate(inputs):
            if column is not None and isinstance(value, Mapping) and column in value:
                value = value[column]
            texts.append(template.inputs(value, f"input {i}"))
        tasks = [windows.task(each) for each in texts]
        layout = windows.layout
        first = len(layout.prefix) + max(map(len, layout.windows))
        left = layout.context - first - max(map(len, windows.labels.tokens)) + 1
        for i, task in enumerate(tasks):
            if len(task) > left:
                raise PCWError(
                    f"input {i} is {len(task) - left} tokens too long: it has {len(task)} tokens with template and "
                    f"separator, and the windows and labels leave {left} of {layout.context} positions; take more "
                    "windows, or a larger task_tokens"
                )
        return {"windows": windows, "tasks": tasks}

    def _forward(
        self, model_inputs: dict, calibrate: bool = False, attention_temperature: float = 1.0, **scoring
    ) -> dict:
        scores = scoring.get("scores", "trie")
        if scores not in ("trie", "each", "greedy"):
            raise PCWError(f"scores is {scores!r}: expected 'trie', 'each' or 'greedy'")
        if calibrate and scores == "greedy":
            raise PCWError("calibrate needs probabilities: take scores='trie' or 'each'")
        windows = model_inputs["windows"]
        reading = {name: value for name, value in scoring.items() if name not in ("scores", "packed")}
        self._check_reading(len(windows.layout.windows), attention_temperature=attention_temperature, **reading)
        scoring["temperature"] = attention_temperature
        self._encoded(windows)
        scores = self._scores(windows, model_inputs["tasks"], scoring)
        if calibrate:
            scores = scores - self._prior(windows, scoring)
        return {"scores": scores.softmax(-1), "names": windows.labels.names}

    def _scores(self, windows: ClassificationWindows, tasks, scoring: dict) -> torch.Tensor:
        return score_labels(self.model, windows.encoded, tasks, windows.labels.tokens, **scoring)

    def _prior(self, windows: ClassificationWindows, scoring: dict) -> torch.Tensor:
        """(labels,) log of the mean probability of each label after texts without content."""
        key = repr(sorted(scoring.items()))
        if key not in windows.priors:
            tasks = [windows.task((text,) * len(windows.template.fields)) for text in CONTENT_FREE]
            windows.priors[key] = self._scores(windows, tasks, scoring).softmax(-1).mean(0).log()
        return windows.priors[key]

    def postprocess(self, outputs: dict, top_k: int | None | str = "") -> list:
        found = []
        for row in outputs["scores"]:
            order = row.argsort(descending=True, stable=True).tolist()
            if top_k == "":
                found.append({"label": outputs["names"][order[0]], "score": row[order[0]].item()})
            else:
                found.append([{"label": outputs["names"][i], "score": row[i].item()} for i in order[:top_k]])
        return found

    def _single(self, output, **kwargs):
        return output if "top_k" in kwargs else [output]  # as text-classification does

    def __call__(self, inputs, batch_size: int | None = None, **kwargs):
        """As above; decision requests whose questions are choices among the labels get answers in that format."""
        requests = [inputs] if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list) else []
        if not requests or not all(map(is_request, requests)):
            return super().__call__(inputs, batch_size, **kwargs)
        layout = {name: value for name, value in kwargs.items() if name in self._LAYOUT}
        names = self.windows(encode=False, **layout).labels.names
        asked = [label_questions(each, names, f"request {i}") for i, each in enumerate(requests)]
        scored = super().__call__([each["state"] for each in requests], batch_size, **kwargs, top_k=None)
        found = []
        for questions, row in zip(asked, scored, strict=True):
            scores = {each["label"]: each["score"] for each in row}
            found.append({q.name: q.answer([scores[option] for option in q.options]) for q in questions})
        return found[0] if isinstance(inputs, Mapping) else found

    def settings(self) -> dict:
        """The arguments that make this pipeline again; demonstrations as read, with the label's words."""
        settings = {**self._preprocess_params, **self._forward_params, **self._postprocess_params}
        windows_of = {k: v for k, v in settings.items() if k in self._LAYOUT}
        template = settings.get("template", Template.text)
        if not isinstance(template, Template):
            template = Template(template, settings.get("separator", Template.separator))
        settings |= {"template": template.text, "separator": template.separator}
        if settings.get("demonstrations") is not None:
            columns = (windows_of.get("text_column"), windows_of.get("label_column", "label"))
            shots, names = read_demonstrations(settings["demonstrations"], template, settings.get("labels"), *columns)
            rows = [[dict(zip(template.fields, shot.inputs, strict=True)), shot.label] for shot in shots]
            settings |= {"demonstrations": rows, "labels": list(names)}
            settings.pop("label_column", None)
        if isinstance(settings.get("weights"), torch.Tensor):
            settings["weights"] = settings["weights"].tolist()
        return settings

    def save_pretrained(
        self, save_directory, save_windows: bool = False, window_bits: int | None = None, **kwargs
    ) -> None:
        """As `_PCWPipeline.save_pretrained`; `save_windows`: the encoded windows too, so that loading computes nothing.

        window_bits: 8 or 4 for their keys and values, as `save_windows` of the store.
        """
        if save_windows and self._preprocess_params.get("recompute_starts"):
            raise PCWError("windows with recomputed starts are not those of their tokens: save without save_windows")
        super().save_pretrained(save_directory, **kwargs)
        if save_windows:
            folder, encoded = Path(save_directory) / WINDOWS_FOLDER, self.windows().encoded
            _save_windows(folder, encoded, self.model, self.tokenizer, window_bits)


_context_size, _save_windows = context_size, save_windows


# -- generation


class PCWGenerationPipeline(_PCWPipeline):
    """Questions over documents that are read in parallel windows (PCW, arXiv 2212.10947, section 5).

    >>> answerer = pipeline("pcw-generation", model=name)
    >>> answerer({"question": "Who wrote it?", "contexts": [first_document, second_document]}, max_new_tokens=8)
    [{'generated_text': ' Mary Shelley'}]

    Args, at construction or per call:
        contexts: documents, the best-ranked first, for questions that bring none.
        num_windows: they are dealt to, the best-ranked of each window last; default: one window per document.
        question_template: holds `{question}`; continues every window. separator: between documents of a window.
        prompt: read before every window, once. context_size, tokenization, alignment: as in classification.
        mode, attention_temperature, self_weight, top_k_windows, weights, beta: see the core's `generate`.
        Everything else goes to the model's `generate`: max_new_tokens, do_sample, num_beams, streamer, ...

    Returns: per question a list of dictionaries with `generated_text`, one per returned sequence.
    Raises PCWError, before any compute, for no or empty documents and for what does not fit.
    """

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=64)

    _LAYOUT = ("contexts", "num_windows", "question_template", "separator", "prompt", "context_size", "tokenization")
    _READING = (
        "alignment", "mode", "attention_temperature", "self_weight", "top_k_windows", "weights", "beta",
    )  # fmt: skip
    _SAVED = ("_LAYOUT", "_READING")

    def _sanitize_parameters(self, **settings) -> tuple[dict, dict, dict]:
        prepare = {name: settings.pop(name) for name in self._LAYOUT if name in settings}
        forward = {name: settings.pop(name) for name in self._READING if name in settings}
        if settings:
            forward["generate"] = settings
        # the budget of the windows depends on the tokens that are generated
        return {**prepare, **({"generate": settings} if settings else {})}, forward, {}

    def preprocess(
        self, inputs: list, contexts=None, question_template="\n\nQuestion: {question}\nAnswer:", **settings
    ):
        """`inputs`: questions, or mappings with `question` and `contexts`; those over the same documents go together."""
        if question_template.count("{question}") != 1:
            raise PCWError(f"question_template {question_template!r} must hold {{question}} once")
        new = self._new_tokens(settings.pop("generate", {}))
        groups: dict[tuple, list[int]] = {}
        texts = []
        for i, value in enumerate(inputs):
            row = value if isinstance(value, Mapping) else {"question": value}
            documents = row.get("contexts", contexts)
            if not isinstance(row.get("question"), str) or set(row) - {"question", "contexts"}:
                raise PCWError(f"input {i} is {value!r}: expected a question, or a mapping with question and contexts")
            texts.append(question_template.replace("{question}", row["question"]))
            groups.setdefault(_documents(documents, f"input {i}"), []).append(i)
        size = settings.pop("context_size", None)
        size = context_size(self.model.config) if size is None else size
        batches = []
        for documents, members in groups.items():
            longest = max(len(self.tokenizer(texts[i], add_special_tokens=False)["input_ids"]) for i in members)
            layout = lay_out_documents(self.tokenizer, documents, size, task_tokens=longest + 1 + new, **settings)
            batches.append((members, layout, [layout.task(texts[i]) for i in members]))
        return {"batches": batches, "count": len(texts)}

    def _new_tokens(self, given: dict) -> int:
        params = self._get_set_generation_params(self._prepare_generate_kwargs(given))
        return params.get("max_new_tokens") or 1

    def _forward(self, model_inputs: dict, generate: dict | None = None, alignment: str = "left", **reading) -> dict:
        settings = self._prepare_generate_kwargs(generate or {})
        if (pad := settings.get("pad_token_id", self.model.generation_config.pad_token_id)) is None:
            end = self.model.generation_config.eos_token_id
            pad = settings["pad_token_id"] = (end[0] if isinstance(end, list) else end) or 0
        found = [None] * model_inputs["count"]
        if settings.get("use_cache") is False:
            raise PCWError("use_cache=False: parallel windows are a cache")
        for _, layout, _ in model_inputs["batches"]:
            self._check_reading(len(layout.windows), **reading)
        for members, layout, tasks in model_inputs["batches"]:
            encoded = self._encoded(layout, alignment)
            width = max(map(len, tasks))
            ids = torch.tensor([(pad,) * (width - len(task)) + task for task in tasks], device=self.model.device)
            mask = torch.tensor([[0] * (width - len(task)) + [1] * len(task) for task in tasks], device=ids.device)
            output = _generate(
                ids,
                model=self.model,
                encoded=encoded,
                attention_mask=mask,
                tokenizer=self.tokenizer,
                **reading,
                **settings,
            )
            sequences = getattr(output, "sequences", output)[:, width:]
            for i, rows in zip(members, sequences.chunk(len(members)), strict=True):
                found[i] = rows
        return {"sequences": found}

    def _encoded(self, layout: Layout, alignment: str) -> EncodedWindows:
        """The windows' caches; those of the last documents are kept for the next question."""
        key = (layout.prefix, layout.windows, alignment, model_state(plain_model(self.model)))
        with self._lock:
            known = getattr(self, "_known", None)
            if known is None or known[0] != key:
                known = (key, encode_windows(self.model, layout.windows, layout.prefix, alignment))
                self._known = known
        return known[1]

    def postprocess(self, outputs: dict) -> list[list[dict]]:
        return [
            [{"generated_text": text} for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]
            for rows in outputs["sequences"]
        ]

    def settings(self) -> dict:
        """The arguments that make this pipeline again; those of `generate` are the generation config's business."""
        settings = {**self._preprocess_params, **self._forward_params}
        settings.pop("generate", None)
        if settings.get("contexts") is not None:
            settings["contexts"] = list(_documents(settings["contexts"], "the pipeline"))
        return settings


def _documents(value, who: str) -> tuple[str, ...]:
    """Documents in their order; PCWError for what iterates over something else, or would lose the order."""
    if value is None or isinstance(value, str) or not (hasattr(value, "__len__") and hasattr(value, "__iter__")):
        raise PCWError(f"{who} has no contexts: give a list of texts, there or as contexts=")
    columns = column_names(value)
    if isinstance(value, Mapping | Set) or columns is not None:
        keys = list(value)[:4] if isinstance(value, Mapping) else columns
        keys = f" with the keys {', '.join(map(repr, keys))}" if keys else ""
        raise PCWError(
            f"{who} has contexts of type {type(value).__name__}{keys}: give a list of texts, the best-ranked first"
        )
    if wrong := [each for each in value if not isinstance(each, str)]:
        raise PCWError(f"{who} has the context {wrong[0]!r:.80}: expected texts")
    if not len(value):
        raise PCWError(f"{who} has no contexts: give a list of texts, there or as contexts=")
    return tuple(value)


_generate = generate


# -- decisions


class PCWDecisionPipeline(_PCWPipeline):
    """Typed questions about a state, as transformers' `decision` pipeline answers them, many in one packed forward.

    >>> decide = pipeline("pcw-decision", model=name)
    >>> decide({"state": "Charged twice.", "questions": {"refund": {"type": "noul", "instructions": "A refund?"}}})
    {'refund': {'type': 'noul', 'noul': 0.97}}

    Args, at construction or per call: demonstrations, contexts, num_windows, window_size, options, permute, seed and
    decision_config of `Decider`; `save_pretrained` writes the last one as `decision.json`.
    `batch_size` requests are read at a time.

    Returns: a dictionary by question, or a list of them. Raises PCWError, before any compute, as `Decider`.
    """

    _ASKING = (
        "demonstrations", "contexts", "num_windows", "window_size", "options", "permute", "seed",
    )  # fmt: skip
    _SAVED = ("_ASKING",)

    def _sanitize_parameters(self, **settings) -> tuple[dict, dict, dict]:
        (prepare,) = self._sanitize(settings, (*self._ASKING, "decision_config"))
        return prepare, {}, {}

    def decider(self, **settings) -> Decider:
        """The `Decider` of these settings (by default the pipeline's), made once."""
        settings = self._preprocess_params | settings
        with self._lock:
            known = getattr(self, "_known", None)
            if known is None or known.model is not self.model or self._known_settings != settings:
                known = self._known = Decider(self.model, self.tokenizer, **settings)
                self._known_settings = settings
        return known

    def preprocess(self, inputs: list, **settings) -> dict:
        decider = self.decider(**settings)
        return {"decider": decider, "asked": decider.prepare(inputs)}

    def _forward(self, model_inputs: dict) -> dict:
        return {"answers": model_inputs["decider"].answer(model_inputs["asked"])}

    def postprocess(self, outputs: dict) -> list[dict]:
        return outputs["answers"]

    def settings(self) -> dict:
        return {name: value for name, value in self._preprocess_params.items() if name in self._ASKING}

    def save_pretrained(self, save_directory, **kwargs) -> None:
        super().save_pretrained(save_directory, **kwargs)
        self.decider().decision_config.save_pretrained(save_directory)
