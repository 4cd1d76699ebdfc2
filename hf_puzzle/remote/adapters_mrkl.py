"""Adapters on one frozen language model, decoding of whole items, and sentences in slot ids (MRKL, arXiv 2205.00445).

As in the paper's calculator study an adapter on a frozen model writes a call's arguments; LoRA is the default on small
models, which prompts alone cannot teach a new output. Values are slot ids (`<n0>`, `<d1>`), never digits: a number has
one id however long it is. Decoding walks a grammar of whole items (`plans_mrkl`), so that every output is a valid plan.
"""

import contextlib
import functools
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from .calls_mrkl import MRKLError, nearest, need, read_json
from .known_mrkl import Known
from .slots_mrkl import read
from .soft_prompts_mrkl import soft_prompt_settings


# between a masked question and what the adapter writes
SEPARATOR = "\n=>"
END = "\n"
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

    @functools.cache
    def ids_of(item):
        return tuple(tokenizer(item, add_special_tokens=False)["input_ids"])

    state = {"items": [], "partial": ()}
    chosen: list[float] = []

    def settle(token):
        """Take one generated token into the state."""
        partial = (*state["partial"], token)
        done = next((item for item in following(state["items"]) if ids_of(item) == partial), None)
        state["items"], state["partial"] = (
            ([*state["items"], done], ()) if done is not None else (state["items"], partial)
        )

    def allowed():
        partial, length = state["partial"], len(state["partial"])
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


class Adapted:
    """What an adapter on the language model writes; `name`: of the adapter, and of its folder when it is saved.

    Args:
        folder: PEFT folder of the adapter.
    """

    name: str

    def __init__(self, folder):
        self.folder = Path(folder)
        self.adapters = self.tokenizer = None

    def attach(self, model, tokenizer) -> None:
        """Load the adapter on `model`."""
        if self.adapters is None or self.adapters.base is not model:
            self.adapters = Adapters(model, {self.name: self.folder})
        self.tokenizer = tokenizer

    def save(self, data: Path) -> dict:
        """Copies the adapter under `data`; returns what `load` needs."""
        target = data / self.name
        target.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name.startswith("adapter_"):
                shutil.copyfile(path, target / path.name)
        return {"folder": f"{data.name}/{self.name}"}

    @staticmethod
    def saved_folder(saved: Mapping, files: Mapping[str, Path]) -> Path:
        """Where what `save` described lies; files: name in the folder -> local path."""
        return files[f"{saved['folder']}/adapter_config.json"].parent


class Phraser(Adapted):
    """Puts an answer into a sentence in slot ids, so that the model never writes a digit or a name of its own.

    The adapter reads the masked question and answer and writes a sentence in which slot ids stand for numbers, dates
    and names; they are replaced by what the question or answer said.

    Args:
        folder: PEFT folder of the adapter.
    """

    name = "phrase"

    def __init__(self, folder, max_tokens: int = 48):
        super().__init__(folder)
        self.max_tokens = max_tokens

    def say(self, question: str, answer: str, known: Known) -> str:
        """A sentence; "" where the model wrote a slot that is not there."""
        reading = read(f"{question} | {answer}", known)
        prompt = self.tokenizer(reading.masked + SEPARATOR, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        with self.adapters.use(self.name) as model, torch.no_grad():
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
        return super().save(data) | {"max_tokens": self.max_tokens}

    @classmethod
    def load(cls, saved: Mapping, files: Mapping[str, Path]) -> "Phraser":
        """What `save` described."""
        return cls(cls.saved_folder(saved, files), saved["max_tokens"])


def tidy(text: str) -> str:
    """A sentence with its first letter large and no space before its punctuation."""
    text = re.sub(r" +([,.?!;:%])", r"\1", re.sub(r"\s+", " ", text))
    return text[:1].upper() + text[1:]
