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
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from .. import artifacts, data, hub
from ..anatomy import frozen
from ..formats import check_loading, model_is_tied, tell_tie, with_tie
from ..layers import meta_parent
from ..recipe import (
    ChildConfig,
    DataConfig,
    HiddenConfig,
    ParentConfig,
    ParentRecipe,
    RecipeError,
    load_recipe,
    to_dict,
)
from ..stages import Estimate, Stage
from .closed_form import TOKENS_PER_INPUT
from .estimates import PROCESS_BYTES, Pieces
from .hidden import FILE as HIDDEN_FILE
from .hidden import Narrowed, narrowed_config, narrowed_parent, read_narrowed
from .loading import LoadingError, Shards, with_true_tie
from .parent import estimate_parent, train_parent
from .vocabulary import FILE, Trimmed, check_written, planned_config, read_trimmed, trim_model, trimmed_parent


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
        hidden: channels that are left to it, chosen by `text` and corrected as `child` says; so does the narrowed parent.
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
        hidden: HiddenConfig | None = None,
        child: ChildConfig | None = None,
        seed: int = 0,
    ):
        self.asked, self.recipe_dir, self.run_dir, self.device = asked, recipe_dir, run_dir, device
        self._model, self._tokenizer = given
        self.vocabulary, self.text = vocabulary, text
        self.hidden, self.child, self.seed = hidden or HiddenConfig(), child or ChildConfig(), seed
        if asked.gguf_file is not None and asked.recipe is not None:
            raise RecipeError("parent.gguf_file and parent.recipe: a parent is unpacked or trained; leave one out")
        if self.smaller and (self.trained or self.unpacked):
            key = "vocabulary.size" if self.trimmed else "hidden.size"
            raise RecipeError(
                f"{key}: the run makes this parent itself; name the folder `parent` of a run that did so"
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
        """Whether the run leaves the parent some of its tokens only."""
        return self.vocabulary is not None

    @property
    def narrowed(self) -> bool:
        """Whether the run leaves the parent some of its channels only."""
        return self.hidden.size is not None

    @property
    def smaller(self) -> bool:
        """Whether the run makes a smaller parent: its first stage."""
        return self.trimmed or self.narrowed

    @property
    def path(self) -> str:
        """Folder that the parent is read from, or its Hub id."""
        if self.trained or self.unpacked or self.smaller:
            return str(self.run_dir / FOLDER)
        return self._named_path

    @property
    def original_path(self) -> str:
        """Of the parent with all its tokens and channels."""
        return self._named_path if self.smaller else self.path

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
            if self.smaller and not self._is_made()
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
        if self.smaller and not self._is_made():
            return self.planned(self.original_config)
        with contextlib.suppress(LoadingError):  # whoever reads the weights says what is wrong with them
            config = with_true_tie(config, self.shards)
        return config

    @functools.cached_property
    def original_config(self):
        """Of the parent with all its tokens and channels."""
        if not self.smaller:
            return self.config
        config = AutoConfig.from_pretrained(**self._original)
        with contextlib.suppress(LoadingError):
            config = with_true_tie(config, Shards(self.original_path, self.asked.revision))
        return config

    def planned(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config of the smaller parent before it is made of one with this; HiddenError as of `narrowed_config`."""
        config = config if not self.trimmed else planned_config(config, self.vocabulary)
        return config if not self.narrowed else narrowed_config(config, self.hidden.size)

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        return frozen(self._model) if self.in_memory else self._opened(self.path)

    @property
    def original(self) -> PreTrainedModel:
        """The parent with all its tokens and channels, read anew where it was made smaller."""
        return self._opened(self.original_path) if self.smaller else self.model

    @functools.cached_property
    def teacher(self) -> PreTrainedModel:
        """What children learn from and are measured against: the parent with all its channels, and the tokens that are left."""
        if self.channels is None:
            return self.model
        return self.original if not self.trimmed else trim_model(self.original, self.kept.kept)

    @functools.cached_property
    def channels(self) -> torch.Tensor | None:
        """The teacher's channels that a narrowed parent has; None where it has all."""
        if not self.narrowed or (found := read_narrowed(self.run_dir / HIDDEN_FILE)).whole:
            return None
        return torch.tensor(found.kept, device=self.device)

    @property
    def narrowing(self) -> Narrowed | None:
        """What a narrowed parent kept."""
        return read_narrowed(self.run_dir / HIDDEN_FILE) if self.narrowed else None

    @property
    def original_tokenizer(self):
        return AutoTokenizer.from_pretrained(**self._original) if self.smaller else self.tokenizer

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
        if self.smaller:
            about = [to_dict(self.asked), self.fingerprint(), self.vocabulary, to_dict(self.text)]
            if self.narrowed:
                about += [to_dict(self.hidden), to_dict(self.child), self.seed]
            files = [FILE] * self.trimmed + [HIDDEN_FILE] * self.narrowed
            return Stage("parent", self.reduce, about, (), (FOLDER, *files), estimate=estimate_smaller)
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

    def reduce(self) -> None:
        """The parent with some of its tokens and channels as an ordinary folder, `vocabulary.json` and `hidden.json`.

        Raises:
            VocabularyError: a tokenizer or a family that cannot be trimmed, or not so far.
            HiddenError: a family that cannot be narrowed, or not to this width.
        """
        vars(self).pop("config", None)
        model, tokenizer, found = self.original, self.original_tokenizer, {}
        if self.trimmed:
            model, tokenizer, found[FILE] = trimmed_parent(model, tokenizer, self.text, self.vocabulary)
        if self.narrowed:
            model, found[HIDDEN_FILE] = narrowed_parent(
                model, tokenizer, self.text, self.hidden, self.child, self.seed
            )
        checked = functools.partial(check_written, tokenizer=tokenizer, text=self.text)
        hub.write_model_folder(self.run_dir / FOLDER, model, tokenizer, also=checked if self.trimmed else None)
        for name, facts in found.items():
            artifacts.write_json(self.run_dir / name, dataclasses.asdict(facts))
        for name in ("config", "tokenizer", "model", "teacher", "channels"):  # of the parent before
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


def estimate_smaller(p: Pieces) -> Estimate:
    """All weights, and once more while they are written; the text is read by two tokenizers. Of a narrowed parent, also the
    whole one's targets and what enters a layer of either; about two forwards of its calibration text for each sub-block."""
    source, size = p.run.source, p.parameters * p.width
    whole = meta_parent(source.original_config).num_parameters() * p.width
    seconds, states = p.clock.open(size + whole) + 2 * p.clock.tokenize(p.recipe.data), 0.0
    if source.narrowed:
        count, rows = p.batches(
            source.hidden.num_tokens or TOKENS_PER_INPUT * p.shapes.hidden, source.child.batch_size
        )
        seconds += 8 * (whole / size) * count * p.clock.parent(rows, p.length)
        states = 4.0 * count * rows * p.length * source.original_config.hidden_size * p.width
    memory = {"process": PROCESS_BYTES, "weights": size + whole, "states": states}
    return Estimate(seconds, memory, "lower hidden.num_tokens", size)


def estimate_unpack(p: Pieces) -> Estimate:
    """All weights in float32, and once more while they are written."""
    size = 4.0 * p.parameters
    return Estimate(p.parameters / 2e7, {"process": PROCESS_BYTES, "weights": 2 * size}, "", size)
