"""Where a run's parent comes from: memory, a folder or the Hub, a GGUF file, or a recipe that trains it."""

import contextlib
import dataclasses
import functools
import logging
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from .. import artifacts, data, hub
from ..anatomy import frozen
from ..formats import check_loading, model_is_tied, tell_tie, with_tie
from ..recipe import DataConfig, ParentConfig, ParentRecipe, RecipeError, load_recipe, to_dict
from ..stages import Estimate, Stage
from .estimates import PROCESS_BYTES, Pieces
from .loading import LoadingError, Shards, with_true_tie
from .parent import estimate_parent, train_parent
from .vocabulary import FILE, Trimmed, check_written, planned_config, read_trimmed, trimmed_parent


logger = logging.getLogger(__name__)

FOLDER = "parent"  # of a run: a parent that it made


class ParentSource:
    """The parent of a run, opened when it is asked for.

    Args:
        asked: the recipe's `parent`.
        recipe_dir: folder that relative paths start from.
        run_dir: a parent that is trained or unpacked goes to its folder `parent`.
        device: that the model is put on, unless `parent.device_map` spreads it.
        given: a model and its tokenizer that the caller has in memory.
        vocabulary: tokens that are left to it, chosen by `text`; the trimmed parent goes to the folder, too.
    """

    def __init__(
        self,
        asked: ParentConfig,
        recipe_dir: Path,
        run_dir: Path,
        device: torch.device,
        given: tuple[PreTrainedModel | None, object] = (None, None),
        vocabulary: int | None = None,
        text: DataConfig | None = None,
    ):
        self.asked, self.recipe_dir, self.run_dir, self.device = asked, recipe_dir, run_dir, device
        self._model, self._tokenizer = given
        self.vocabulary, self.text = vocabulary, text
        if asked.gguf_file is not None and asked.recipe is not None:
            raise RecipeError("parent.gguf_file and parent.recipe: a parent is unpacked or trained; leave one out")
        if self.trimmed and (self.trained or self.unpacked):
            raise RecipeError(
                "vocabulary.size: the run makes this parent itself; name the folder `parent` of a run that did so"
            )

    # -- where

    @property
    def in_memory(self) -> bool:
        return self._model is not None

    @property
    def _beside(self) -> Path:
        return self.recipe_dir / self.asked.name

    @property
    def trained(self) -> bool:
        """Whether the run trains the parent: its first stage."""
        asked = self.asked
        return not self.in_memory and asked.recipe is not None and not (self._beside / "config.json").exists()

    @property
    def unpacked(self) -> bool:
        """Whether the run takes the parent out of a GGUF file: its first stage."""
        return not self.in_memory and self.asked.gguf_file is not None

    @property
    def trimmed(self) -> bool:
        """Whether the run leaves the parent some of its tokens only: its first stage."""
        return self.vocabulary is not None

    @property
    def path(self) -> str:
        """Folder that the parent is read from, or its Hub id."""
        if self.trained or self.unpacked or self.trimmed:
            return str(self.run_dir / FOLDER)
        return self._named_path

    @property
    def original_path(self) -> str:
        """Of the parent with all its tokens."""
        return self._named_path if self.trimmed else self.path

    @property
    def _named_path(self) -> str:
        return str(self._beside) if (self._beside / "config.json").exists() else self.asked.name

    @property
    def known(self) -> bool:
        """Whether there is a parent to look at; where a disk lost the config of one made here, it is made again."""
        return not self.trained or self._is_made()

    def _is_made(self) -> bool:
        try:
            return bool(artifacts.read_json(self.run_dir / FOLDER / "config.json"))
        except artifacts.ArtifactError:
            return False

    @property
    def shards(self) -> Shards:
        return Shards(self.path, self.asked.revision)

    def fingerprint(self) -> str:
        """Of the content, as far as it is here."""
        if self.in_memory:
            return artifacts.fingerprint({k: v.double().sum().item() for k, v in self._model.state_dict().items()})
        if self.unpacked:
            file = self._beside / self.asked.gguf_file
            if file.is_file():
                return artifacts.file_sha256(file)
        path = Path(self.original_path)
        if path.is_dir() and not self.unpacked:
            return artifacts.folder_fingerprint(path)
        return f"{self.asked.name}@{self.asked.revision}"

    # -- what

    def _origin(self) -> dict:
        """What `from_pretrained` needs to open config and tokenizer: of a GGUF file, until it is unpacked."""
        asked = self.asked
        if self.unpacked and not self._is_made():
            name = str(self._beside) if self._beside.is_dir() else asked.name
            return {"pretrained_model_name_or_path": name, "gguf_file": asked.gguf_file, "revision": asked.revision}
        return (
            self._original
            if self.trimmed and not self._is_made()
            else {**self._original, "pretrained_model_name_or_path": self.path}
        )

    @property
    def _original(self) -> dict:
        asked = self.asked
        return {
            "pretrained_model_name_or_path": self.original_path,
            "revision": asked.revision,
            "trust_remote_code": asked.trust_remote_code,
        }

    @functools.cached_property
    def config(self):
        """The parent's, saying whether the head is tied as the weights have it."""
        if self.in_memory:
            return with_tie(self._model.config, model_is_tied(self._model))
        origin = self._origin()
        try:
            config = AutoConfig.from_pretrained(**origin)
        except _opening(origin) as error:
            file = f" (gguf_file {self.asked.gguf_file!r})" if self.unpacked else ""
            raise RecipeError(f"parent.name {self.asked.name!r}{file} cannot be opened: {error}") from None
        if "gguf_file" in origin:  # it says itself whether it holds a head
            return config
        if self.trimmed and not self._is_made():
            return planned_config(self.original_config, self.vocabulary)
        with contextlib.suppress(LoadingError):  # whoever reads the weights says what is wrong with them
            config = with_true_tie(config, self.shards)
        return config

    @functools.cached_property
    def original_config(self):
        """Of the parent with all its tokens."""
        if not self.trimmed:
            return self.config
        config = AutoConfig.from_pretrained(**self._original)
        with contextlib.suppress(LoadingError):
            config = with_true_tie(config, Shards(self.original_path, self.asked.revision))
        return config

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        return frozen(self._model) if self.in_memory else self._opened(self.path)

    @property
    def original(self) -> PreTrainedModel:
        """The parent with all its tokens, read anew where it was trimmed."""
        return self._opened(self.original_path) if self.trimmed else self.model

    @property
    def original_tokenizer(self):
        return AutoTokenizer.from_pretrained(**self._original) if self.trimmed else self.tokenizer

    @property
    def kept(self) -> Trimmed | None:
        """What a trimmed parent kept."""
        return read_trimmed(self.run_dir / FILE) if self.trimmed else None

    def _opened(self, path: str) -> PreTrainedModel:
        asked = self.asked
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            revision=asked.revision,
            trust_remote_code=asked.trust_remote_code,
            dtype=asked.dtype,
            use_safetensors=True,
            device_map=asked.device_map,
            offload_folder=self.run_dir / "offload" if asked.device_map is not None else None,
            output_loading_info=True,
        )
        check_loading({**info, "unexpected_keys": ()})  # of a vision tower, say
        tell_tie(model)
        model = model if asked.device_map is not None else model.to(self.device)
        return frozen(model)

    @functools.cached_property
    def tokenizer(self):
        return self._tokenizer or AutoTokenizer.from_pretrained(**self._origin())

    @property
    def end_tokens(self) -> list[int]:
        """Tokens that end the parent's generation."""
        if self.in_memory:
            return data.end_tokens(self._model.generation_config, self.config)
        try:
            generation = GenerationConfig.from_pretrained(self.path, revision=self.asked.revision)
        except OSError:  # it has no such file
            generation = None
        return data.end_tokens(generation, self.config)

    # -- making it

    @functools.cached_property
    def recipe(self) -> ParentRecipe:
        """That the parent is trained by.

        Raises:
            RecipeError: `parent.recipe` is one of another system.
        """
        recipe = load_recipe(self.recipe_file)
        if not isinstance(recipe, ParentRecipe):
            raise RecipeError(f"parent.recipe {self.asked.recipe} is not a recipe with `system: parent`")
        return recipe

    def stage(self) -> Stage | None:
        """The stage that makes the parent, where the run does."""
        if self.trained:
            return Stage("parent", self._train, to_dict(self.recipe), (), (FOLDER,), (f"{FOLDER}-checkpoints",), estimate=estimate_parent)  # fmt: skip
        if self.unpacked:
            return Stage("parent", self.unpack, [to_dict(self.asked), self.fingerprint()], (), (FOLDER,), estimate=estimate_unpack)  # fmt: skip
        if self.trimmed:
            about = [to_dict(self.asked), self.fingerprint(), self.vocabulary, to_dict(self.text)]
            return Stage("parent", self.trim, about, (), (FOLDER, FILE), estimate=estimate_trim)
        return None

    @property
    def recipe_file(self) -> Path:
        return self.recipe_dir / self.asked.recipe

    def _train(self) -> None:
        train_parent(self.recipe, self.run_dir / FOLDER, self.recipe_file.parent)

    def unpack(self) -> None:
        """The GGUF file's model as an ordinary folder: weights of its quantised values, tokenizer, chat template.

        Raises:
            RecipeError: a file of an architecture that transformers does not read, or without one of its tensors.
        """
        asked, dtype = self.asked, "float32" if self.asked.dtype == "auto" else self.asked.dtype
        vars(self).pop("config", None)
        name = str(self._beside) if self._beside.is_dir() else asked.name
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                name, gguf_file=asked.gguf_file, revision=asked.revision, dtype=getattr(torch, dtype),
                quantization_config=GgufConfig(dequantize=True), output_loading_info=True,
            )  # fmt: skip
        except _opening({"gguf_file": asked.gguf_file}) as error:
            raise RecipeError(f"parent.gguf_file {asked.gguf_file!r} cannot be opened: {error}") from None
        check_loading(info)
        tell_tie(model)
        file = cached_file(name, asked.gguf_file, revision=asked.revision)
        ends = list(dict.fromkeys([*data.end_tokens(model.generation_config, model.config), *_ends(file)]))
        model.generation_config.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
        tokenizer = AutoTokenizer.from_pretrained(name, gguf_file=asked.gguf_file, revision=asked.revision)
        hub.write_model_folder(self.run_dir / FOLDER, model, tokenizer)

    def trim(self) -> None:
        """The parent with some of its tokens as an ordinary folder, and `vocabulary.json`.

        Raises:
            VocabularyError: a tokenizer or a family that cannot be trimmed, or not so far.
        """
        vars(self).pop("config", None)
        model, tokenizer, found = trimmed_parent(self.original, self.original_tokenizer, self.text, self.vocabulary)
        checked = functools.partial(check_written, tokenizer=tokenizer, text=self.text)
        hub.write_model_folder(self.run_dir / FOLDER, model, tokenizer, also=checked)
        artifacts.write_json(self.run_dir / FILE, dataclasses.asdict(found))
        for name in ("config", "tokenizer", "model"):  # of the parent before
            vars(self).pop(name, None)


def _ends(file: str) -> list[int]:
    """Tokens that a GGUF file names as ends besides eos, of a turn or a message: transformers does not read them."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    found = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return [int(field.contents()) for field in found if field is not None]


def _opening(origin: dict) -> tuple[type[Exception], ...]:
    """What opening may raise: a broken GGUF file, whatever its reader meets in it."""
    return (Exception,) if "gguf_file" in origin else (OSError, ValueError)


def estimate_trim(p: Pieces) -> Estimate:
    """All weights, and once more while they are written; the text is read by two tokenizers."""
    source, size = p.run.source, p.parameters * p.width
    more = (
        (source.original_config.vocab_size - p.shapes.vocab) * p.shapes.hidden * p.width * (1 if p.shapes.tied else 2)
    )
    seconds = p.clock.open(2 * size) + 2 * p.clock.tokenize(p.recipe.data)
    return Estimate(seconds, {"process": PROCESS_BYTES, "weights": 2 * size + more}, "", size)


def estimate_unpack(p: Pieces) -> Estimate:
    """All weights in float32, and once more while they are written."""
    size = 4.0 * p.parameters
    return Estimate(p.parameters / 2e7, {"process": PROCESS_BYTES, "weights": 2 * size}, "", size)
