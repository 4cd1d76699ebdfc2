"""The language model's side of MRKL: adapters on one frozen model, calls in slot ids, routing by label logits.

One adapter per expert reads the masked question and writes the values of a call's arguments (MRKL, arXiv 2205.00445,
calculator study: prompt tuning on a frozen model); LoRA is the default on small models, which prompts alone cannot
teach a new output. Values are slot ids (`<n0>`, `<d1>`), never digits: a number has one id however long it is.
Decoding walks a grammar of whole items made from the expert's schema and the query's slots, so that every output is a
valid call.
"""

import contextlib
import itertools
import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from .calls_mrkl import Expert, MRKLError, exact_text, nearest, need, read_json
from .known_mrkl import Known
from .router_mrkl import MANY, NONE, Calibration, LinearRouter, Router
from .slots_mrkl import Reading, read
from .soft_prompts_mrkl import soft_prompt_settings


# between a masked question and what the adapter writes
SEPARATOR = "\n=>"
END = "\n"
OPERATORS = ("+", "-", "*", "/")
MAX_OPERANDS = 6
MAX_CHOICES = 200
_peft_lock = threading.Lock()


# -- the model with and without adapters


@contextlib.contextmanager
def disabled(model, merged: bool = False) -> Iterator[dict | None]:
    """Within it `model` computes as it did before any adapter was put on it.

    merged: also yields the state dict of the model without adapters, or None where it has none on it.
    """
    layers = [m for m in model.modules() if hasattr(m, "base_layer") and hasattr(m, "enable_adapters")]
    before = [layer.disable_adapters for layer in layers]
    state = None
    if merged and layers:
        kept = {name: tensor for name, tensor in model.state_dict().items() if not _is_adapter(name)}
        state = {name.replace(".base_layer.", "."): tensor for name, tensor in kept.items()}
    with contextlib.ExitStack() as stack:
        if merged and getattr(model, "_hf_peft_config_loaded", False):
            # transformers would save the adapter alone
            model._hf_peft_config_loaded = False
            stack.callback(setattr, model, "_hf_peft_config_loaded", True)
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield state
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer.enable_adapters(not was)


def _is_adapter(name) -> bool:
    return re.search(r"\.(?:lora_\w+|modules_to_save|vera_\w+|ia3_\w+|hada_\w+|lokr_\w+)\.", name) is not None


def plain_generate(model, **arguments):
    """Stock `generate` of the model below any PeftModel, whatever `custom_generate` its folder brought."""
    model = getattr(model, "get_base_model", lambda: model)()
    return type(model).generate(model, **arguments)


class Adapters:
    """Named adapters on one frozen causal LM.

    Args:
        model: The LM; LoRA layers are put into it, and are silent outside of `use`.
        folders: name -> PEFT folder.
    Raises:
        MRKLError: A folder holds no adapter.
    """

    def __init__(self, model, folders: Mapping[str, Path] = {}):  # noqa: B006
        self.base = getattr(model, "get_base_model", lambda: model)()
        self.peft, self.names = {}, ()
        for name, folder in folders.items():
            self.load(name, folder)

    def load(self, name: str, folder) -> None:
        """Puts the adapter saved in `folder` on the model, silent until it is used."""
        peft = need("peft")
        folder = Path(folder)
        if not (folder / "adapter_config.json").is_file():
            raise MRKLError(f"{folder} holds no adapter (no adapter_config.json): train or save it first")
        if not (folder / "adapter_model.safetensors").is_file():
            raise MRKLError(f"{folder} holds no adapter_model.safetensors: other formats can carry code")
        settings = read_json(folder / "adapter_config.json")
        if not isinstance(settings, Mapping) or settings.get("megatron_config") is not None:
            # PEFT imports the module that such a config names
            raise MRKLError(f"{folder}/adapter_config.json asks for Megatron, or is no JSON object: train it again")
        key = "prompt" if peft.PeftConfig.from_pretrained(str(folder)).is_prompt_learning else "layers"
        if key in self.peft:
            self.peft[key].load_adapter(str(folder), adapter_name=name)
        else:
            self.peft[key] = peft.PeftModel.from_pretrained(self.base, str(folder), adapter_name=name)
        self.add(name, self.peft[key], key)

    def add(self, name: str, peft_model, key: str) -> None:
        """Takes an adapter that is on the model already."""
        self.peft[key] = peft_model.eval()
        self.names = (*self.names, (name, key))
        self._silence()

    def _silence(self):
        for module in self.base.modules():
            if hasattr(module, "base_layer") and hasattr(module, "enable_adapters"):
                module.enable_adapters(False)

    def __contains__(self, name) -> bool:
        return name in dict(self.names)

    @contextlib.contextmanager
    def use(self, name: str):
        """The model with the adapter `name`; yields what has `generate` and can be called. Not for several threads."""
        kinds = dict(self.names)
        if name not in kinds:
            raise MRKLError(f"there is no adapter {name!r}{nearest(name, kinds)}")
        peft_model = self.peft[kinds[name]]
        with _peft_lock:
            peft_model.set_adapter(name)
            for module in self.base.modules():
                if hasattr(module, "base_layer") and hasattr(module, "enable_adapters"):
                    module.enable_adapters(kinds[name] == "layers")
            try:
                yield peft_model
            finally:
                self._silence()

    def save(self, folder) -> list[str]:
        """Writes one PEFT folder per adapter, named as it is; returns the names."""
        for name, key in self.names:
            self.peft[key].save_pretrained(str(folder), selected_adapters=[name])
            # PEFT writes the adapter called "default" beside the others
            if name == "default":
                raise MRKLError("an adapter needs another name than 'default'")
        return [name for name, _ in self.names]


# -- calls in slot ids


class CallGrammar:
    """Items that an expert's call can consist of, given a query's slots: what decoding may choose from at each place.

    The call is the values of the schema's required arguments in order, each followed by ` ;`. A value is a slot id of
    a fitting kind, one of an enum, or for a calculator's `expression` operands, operators and brackets.
    """

    def __init__(self, expert: Expert, reading: Reading):
        self.expert, self.reading = expert, reading
        self.ids = dict(zip(reading.ids, reading.slots, strict=True))
        properties = expert.parameters.get("properties", {})
        names = expert.parameters.get("required") or list(properties)
        self.fields = [(name, self._choices(name, properties[name])) for name in names]

    def _choices(self, name, schema) -> list[str] | None:
        """Items for one argument; None for an expression."""
        kinds = schema.get("type", "string")
        if "enum" in schema:
            return [f" {value}" for value in schema["enum"]][:MAX_CHOICES]
        if name == "expression":
            return None
        if {"number", "integer"} & ({kinds} if isinstance(kinds, str) else set(kinds)):
            return self._of("nz")
        if re.search(r"date|day|start|end|when", name):
            return self._of("dm")
        if re.search(r"unit|currency|^from$|^to$", name):
            return self._of("cut")
        return self._of("exn")

    def _of(self, kinds) -> list[str]:
        return [f" <{name}>" for name, slot in self.ids.items() if slot.kind in kinds]

    @property
    def possible(self) -> bool:
        """Whether the query has slots for every required argument."""
        return all(self._of("nz") if choices is None else choices for _, choices in self.fields)

    def next(self, items: Sequence[str]) -> list[str]:
        """Items that may follow `items`; empty when the call is complete."""
        done = [list(group) for end, group in itertools.groupby(items, lambda i: i == " ;") if not end]
        closed = sum(item == " ;" for item in items)
        if closed == len(self.fields):
            return []
        current = done[closed] if len(done) > closed else []
        choices = self.fields[closed][1]
        if choices is not None:
            return [" ;"] if current else choices
        return self._expression(current)

    def _expression(self, items) -> list[str]:
        depth = items.count(" (") - items.count(" )")
        operands = sum(item.startswith(" <") for item in items)
        if not items or items[-1] == " (" or items[-1][1:] in OPERATORS:
            opened = [" ("] if depth < 2 and operands + depth < MAX_OPERANDS - 1 else []
            return self._of("nz") + opened
        following = [f" {op}" for op in OPERATORS] if operands + depth < MAX_OPERANDS else []
        return following + ([" )"] if depth else [" ;"])

    def arguments(self, items: Sequence[str]) -> dict:
        """The arguments that complete `items` say, slot ids replaced by their values."""
        text, values = "".join(items), {}
        for (name, _), part in zip(self.fields, text.split(" ;"), strict=False):
            values[name] = re.sub(r"<(\w+)>", lambda m: self._value(m[1]), part.strip())
        return values

    def _value(self, name) -> str:
        slot = self.ids[name]
        if slot.kind in "ex":
            return slot.text
        value = slot.value if isinstance(slot.value, str) else exact_text(slot.value)
        return f"({value})" if value.startswith("-") or "/" in value else value


def encode_items(tokenizer, items: Sequence[str]) -> list[int]:
    """Ids of a call, item by item, as decoding writes them."""
    return [token for item in items for token in tokenizer(item, add_special_tokens=False)["input_ids"]]


def decode_items(
    model, tokenizer, prompt: Sequence[int], following: Callable[[list[str]], list[str]], max_tokens: int = 64
) -> tuple[list[str], float]:
    """Greedy decoding of items.

    Args:
        model: An LM or PeftModel.
        prompt: Ids before the first item.
        following: Items so far -> items allowed next; empty at the end.
    Returns: (items, product of the probabilities of the chosen tokens among the allowed ones).
    Raises MRKLError when `max_tokens` do not suffice, and for a soft prompt that the installed PEFT does not carry.
    """
    known: dict[str, tuple[int, ...]] = {}

    def ids_of(item):
        if item not in known:
            known[item] = tuple(tokenizer(item, add_special_tokens=False)["input_ids"])
        return known[item]

    state = {"items": [], "partial": ()}
    chosen: list[float] = []

    def settle(token):
        """Take one generated token into the state."""
        partial = (*state["partial"], token)
        for item in following(state["items"]):
            if ids_of(item) == partial:
                state["items"], partial = [*state["items"], item], ()
                break
        state["partial"] = partial

    def allowed():
        partial = state["partial"]
        length = len(partial)
        return sorted({ids_of(i)[length] for i in following(state["items"]) if ids_of(i)[:length] == partial})

    def process(input_ids, scores):
        if chosen:
            settle(int(input_ids[0, -1]))
        choice = allowed() or [stop]
        masked = torch.full_like(scores, -torch.inf)
        masked[0, choice] = scores[0, choice]
        chosen.append(masked[0].softmax(-1).max().item())
        return masked

    ids = torch.tensor([list(prompt)], device=next(model.parameters()).device)
    stop = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else ids_of(END)[-1]
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[process],
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=stop,
        pad_token_id=stop,
        **soft_prompt_settings(model),
    )
    if allowed():
        settle(int(output[0, -1]))
    if allowed():
        raise MRKLError(f"no complete call within {max_tokens} tokens")
    return state["items"], math.prod(chosen)


class Extractor:
    """Questions to calls by adapters, one per expert, where the symbolic grammar reads nothing.

    Args:
        folders: expert name -> PEFT folder.
        threshold: Least probability of router and decoding together for which the call is made.
    """

    def __init__(self, folders: Mapping[str, Path], threshold: float = 0.5):
        self.folders = {name: Path(folder) for name, folder in folders.items()}
        self.threshold = threshold
        self.adapters = self.tokenizer = None

    def attach(self, model, tokenizer) -> None:
        """Load the adapters on `model`."""
        if self.adapters is None or self.adapters.base is not model:
            self.adapters = Adapters(model, self.folders)
        self.tokenizer = tokenizer

    def write(self, expert: Expert, reading: Reading) -> tuple[dict, float] | None:
        """(arguments, probability) that the expert's adapter writes; None when the slots cannot fill them."""
        grammar = CallGrammar(expert, reading)
        if not grammar.possible:
            return None
        prompt = self.tokenizer(reading.masked + SEPARATOR, add_special_tokens=False)["input_ids"]
        with self.adapters.use(expert.name) as model, torch.no_grad():
            items, probability = decode_items(model, self.tokenizer, prompt, grammar.next)
        return grammar.arguments(items), probability

    def call(self, query: str, known: Known, experts: Mapping, router: Router | None):
        """(expert, arguments, probability) for `query`, or None when no expert with an adapter is likely enough."""
        if router is None:
            return None
        reading = read(query, known)
        routes = {n: p for n, p in router.probabilities(reading).items() if n in self.folders and n in experts}
        if not routes:
            return None
        name = max(routes, key=routes.get)
        if routes[name] < self.threshold:
            return None
        written = self.write(experts[name], reading)
        if written is None or routes[name] * written[1] < self.threshold:
            return None
        return name, written[0], routes[name] * written[1]

    def save(self, data: Path) -> dict:
        """Copies the adapters under `data`; returns what `load` needs."""
        for name, folder in self.folders.items():
            _copy_adapter(folder, data / "adapters" / name)
        return {"names": sorted(self.folders), "threshold": self.threshold, "folder": f"{data.name}/adapters"}

    @classmethod
    def load(cls, saved: Mapping, files: Mapping[str, Path]) -> "Extractor":
        """What `save` described; files: name in the folder -> local path."""
        folders = {name: files[f"{saved['folder']}/{name}/adapter_config.json"].parent for name in saved["names"]}
        return cls(folders, saved["threshold"])


class Phraser:
    """Puts an answer into a sentence in slot ids, so that the model never writes a digit or a name of its own.

    The adapter reads the masked question and answer and writes a sentence in which slot ids stand for numbers, dates
    and names; they are replaced by what the question or answer said.

    Args:
        folder: PEFT folder of the adapter.
    """

    def __init__(self, folder, max_tokens: int = 48):
        self.folder, self.max_tokens = Path(folder), max_tokens
        self.adapters = self.tokenizer = None

    def attach(self, model, tokenizer) -> None:
        """Load the adapter on `model`."""
        if self.adapters is None or self.adapters.base is not model:
            self.adapters = Adapters(model, {"phrase": self.folder})
        self.tokenizer = tokenizer

    def say(self, question: str, answer: str, known: Known) -> str:
        """A sentence; "" where the model wrote a slot that is not there."""
        reading = read(f"{question} | {answer}", known)
        prompt = self.tokenizer(reading.masked + SEPARATOR, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        with self.adapters.use("phrase") as model, torch.no_grad():
            ids = torch.tensor([prompt], device=next(model.parameters()).device)
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_tokens, do_sample=False,
                pad_token_id=end if end is not None else 0, **soft_prompt_settings(model),
            )  # fmt: skip
        text = self.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()
        said = dict(zip(reading.ids, (slot.text for slot in reading.slots), strict=True))
        if not set(re.findall(r"<(\w+)>", text)) <= set(said):
            return ""
        return tidy(re.sub(r"<(\w+)>", lambda m: said[m[1]], text))

    def save(self, data: Path) -> dict:
        """Copies the adapter under `data`; returns what `load` needs."""
        _copy_adapter(self.folder, data / "phrase")
        return {"folder": f"{data.name}/phrase", "max_tokens": self.max_tokens}

    @classmethod
    def load(cls, saved: Mapping, files: Mapping[str, Path]) -> "Phraser":
        """What `save` described; files: name in the folder -> local path."""
        return cls(files[f"{saved['folder']}/adapter_config.json"].parent, saved["max_tokens"])


def tidy(text: str) -> str:
    """A sentence with its first letter large and no space before its punctuation."""
    text = re.sub(r" +([,.?!;:%])", r"\1", re.sub(r"\s+", " ", text))
    return text[:1].upper() + text[1:]


def _copy_adapter(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name.startswith("adapter_"):
            shutil.copyfile(path, target / path.name)


# -- routers of the language model


class LabelRouter(Router):
    """Routes by the logits of class names after the masked question: zero-shot, or with a soft prompt or LoRA.

    Args:
        descriptions: class -> what it answers, read before the question (zero-shot) or only named (adapter).
        adapter: PEFT folder of an adapter trained for this prompt; None: zero-shot.
        calibration: As in `Router`.
        prompt: "names" or "descriptions": what stands before the question.
    """

    kind = "label-logits"

    def __init__(self, descriptions: Mapping[str, str], adapter=None, calibration=None, prompt: str | None = None):
        self.descriptions = {NONE: "none of them", MANY: "several of them"} | dict(descriptions)
        self.classes = tuple(self.descriptions)
        self.adapter = None if adapter is None else Path(adapter)
        self.calibration = calibration or Calibration()
        self.prompt = prompt or ("names" if adapter else "descriptions")
        self.model = self.tokenizer = self.adapters = None

    def attach(self, model, tokenizer) -> None:
        """Set the language model that is asked."""
        self.model, self.tokenizer = model, tokenizer
        if self.adapter is not None and (self.adapters is None or self.adapters.base is not model):
            self.adapters = Adapters(model, {"router": self.adapter})

    def prompt_ids(self, reading: Reading) -> list[int]:
        """Ids before the class name."""
        text = reading.masked + SEPARATOR
        if self.prompt == "descriptions":
            lines = "".join(f"{name}: {what}\n" for name, what in self.descriptions.items())
            text = f"{lines}Which of these answers the question?\n{reading.text}{SEPARATOR}"
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def label_ids(self) -> list[list[int]]:
        """Ids of every class name, ended by a line break."""
        return [encode_items(self.tokenizer, [f" {name}", END]) for name in self.classes]

    def logits(self, reading: Reading) -> torch.Tensor:
        """Log-probability of every class name, (C,)."""
        if self.model is None:
            raise MRKLError("this router has no language model yet: attach(model, tokenizer)")
        use = self.adapters.use("router") if self.adapters else contextlib.nullcontext(self.model)
        silent = contextlib.nullcontext() if self.adapters else disabled(self.model)
        with silent, use as model, torch.no_grad():
            return label_scores(model, self.prompt_ids(reading), self.label_ids())

    def probabilities(self, reading: Reading) -> dict:
        scores = (self.logits(reading) / self.calibration.temperature).softmax(0)
        return dict(zip(self.classes, scores.tolist(), strict=True))


def label_scores(model, prompt: Sequence[int], labels: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probability of each label's ids after `prompt`, (C,), in one padded batch."""
    rows = [[*prompt, *label] for label in labels]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=next(model.parameters()).device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=ids.device)
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    # a soft prompt stands before the ids
    logits = logits[:, logits.shape[1] - width :].log_softmax(-1)
    scores = logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    places = torch.arange(1, width, device=ids.device) >= len(prompt)
    return (scores * (mask[:, 1:].bool() & places)).sum(1).cpu()


class WordRouter(Router):
    """Gives a router that was trained without them the experts that a user brought, by the words they share with it.

    An expert's words, as `content_words` has them, are those of its description and example queries. Its probability
    grows with the share of the query's own words that are among them, above one half, and is mostly taken from what
    the other router leaves to none and many.

    Args:
        router: The router of the other experts; None: everything else is `none`.
        words: expert -> its words.
    """

    kind = "words"

    def __init__(self, router: Router | None, words: Mapping[str, Sequence[str]]):
        self.router, self.words = router, {name: frozenset(each) for name, each in words.items()}
        self.classes = tuple(dict.fromkeys([*(router.classes if router else (NONE,)), *words]))
        self.calibration = router.calibration if router else Calibration()

    def attach(self, model, tokenizer) -> None:
        """Set the language model of the other router, if it has one."""
        if hasattr(self.router, "attach"):
            self.router.attach(model, tokenizer)

    def probabilities(self, reading: Reading) -> dict:
        found = dict(self.router.probabilities(reading)) if self.router else {NONE: 1.0}
        said = content_words(reading.masked)
        shares = {name: len(said & words) / max(len(said), 1) for name, words in self.words.items()}
        for name, share in shares.items():
            free = found.get(NONE, 0.0) + found.get(MANY, 0.0)
            # most words must be shared before a query is taken, and all of the rest is then the expert's
            p = max(0.0, 2 * share - 1) * max(free, share**4)
            found = {key: value * (1 - p) for key, value in found.items()} | {name: p}
        return found

    def confidence(self, values: Mapping) -> float:
        return self.router.confidence(values) if self.router else float(values["cost"] < 1.5 and values["found"])


STOPWORDS = frozenset(
    str.split(
        "a an the of in on at to for from by with as is are was were be been do does did will would can could should "
        "may what which who whom whose when where why how much many me my you your i we us our it its this that these "
        "those there here and or not no please tell give show find get let know need want any some about into than "
        "then so one two s t return returns"
    )
)


def content_words(text: str) -> frozenset[str]:
    """Stems of the words of a text that are no stopwords; slot ids are left out."""
    words = re.findall(r"[a-z]+", re.sub(r"<\w+>", " ", text.lower().replace("_", " ")))
    return frozenset(re.sub(r"(?:ing|es|s|ed|e)$", "", w) if len(w) > 3 else w for w in words if w not in STOPWORDS)


# -- files


def save_router(router, data: Path) -> dict:
    """Writes a router under the folder `data`; returns what `load_router` needs.

    Raises MRKLError for a router of the user's own, which cannot be written.
    """
    data.mkdir(parents=True, exist_ok=True)
    if isinstance(router, LinearRouter):
        router.save(data / "router")
        return {"kind": router.kind, "file": f"{data.name}/router.json"}
    if isinstance(router, WordRouter):
        inner = None if router.router is None else save_router(router.router, data)
        return {"kind": router.kind, "router": inner, "words": {n: sorted(w) for n, w in router.words.items()}}
    if isinstance(router, LabelRouter):
        saved = {"kind": router.kind, "descriptions": router.descriptions, "prompt": router.prompt, "adapter": None}
        if router.adapter is not None:
            _copy_adapter(router.adapter, data / "router_adapter")
            saved["adapter"] = f"{data.name}/router_adapter/adapter_config.json"
        return saved | {"calibration": json.loads(json.dumps(vars(router.calibration)))}
    raise MRKLError(
        f"a router of kind {type(router).__name__} cannot be saved: use a LinearRouter, LabelRouter or WordRouter, "
        "or save without it (pipeline.router = None)"
    )


def load_router(saved: Mapping, files: Mapping[str, Path]) -> Router:
    """What `save_router` described; files: name in the folder -> local path."""
    if saved["kind"] == LinearRouter.kind:
        return LinearRouter.load(files[saved["file"]].with_suffix(""))
    if saved["kind"] == WordRouter.kind:
        inner = None if saved["router"] is None else load_router(saved["router"], files)
        return WordRouter(inner, saved["words"])
    if saved["kind"] == LabelRouter.kind:
        adapter = None if saved["adapter"] is None else files[saved["adapter"]].parent
        calibration = Calibration(**saved["calibration"])
        return LabelRouter(saved["descriptions"], adapter, calibration, saved["prompt"])
    raise MRKLError(f"a saved router of kind {saved['kind']!r} is unknown to this code: update it")
