"""What the stages of a Puzzle run need of this machine; every function tries one thing, before any compute."""

import dataclasses
import logging
from pathlib import Path

from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import NotASafetensorsRepoError

from ..corpora import MIXTURE, SELF, TRAINERS_DATA, DataError, first_document, prompts_of_self, reads_self
from ..data import as_used
from ..engines.measuring import open_engine
from ..key_retrieval import check_length
from ..preflight import NotReadyError, check_folder, check_room, check_tokenizer, first_line
from ..recipe import DataConfig
from .chats import prompts_of_files
from .loading import LoadingError, Shards
from .planner import disk_still_needed, plan_here
from .solver import pick_solver


logger = logging.getLogger(__name__)


def check_machine(run, here: bool = True) -> None:
    """All that follows for a `PuzzleRun`, the quick ones first; `here` as of `PuzzleRun.check`.

    Raises:
        ValueError: a named subclass, with the reason and the way out.
    """
    check_folder(run.run_dir)
    if run.source.known:
        _check_room(run, here)
    if not run.source.trained:  # one that was made here is mended by its stage
        if not run.source.in_memory and not run.source.unpacked:
            check_weights(run.source.original_path, run.recipe.parent.revision)
        check_tokenizer(lambda: run.tokenizer, run.recipe.parent.name)
    if run.recipe.distill.on_policy_tokens:
        check_chats(None if run.source.trained else run.tokenizer, "distill.on_policy_tokens: the child")
    if not (run.run_dir / "tokens.safetensors").exists():
        check_text(run.recipe.data, None if run.source.trained else run.tokenizer)
    if run.recipe.evaluate.keys and not run.source.trained:
        check_length(run.tokenizer, run.sequence_length)
    pick_solver(run.recipe.solve.solver)
    open_engine(run.recipe.cost.engine)


def _check_room(run, here: bool) -> None:
    """Of the disk; what may not fit into memory is an estimate, and only said."""
    plan = plan_here(run)
    for line in plan.problems if here else ():
        logger.warning("%s", line)
    check_room(
        run.run_dir,
        disk_still_needed(run, plan),
        "--out on a larger disk, or fewer blocks in search_space (hf-puzzle plan has more)",
    )


def check_chats(tokenizer, who: str) -> None:
    """Raises DataError where there is no chat template to write chats with."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(f"{who} writes no chats: the parent's tokenizer has no chat template")


def check_text(config: DataConfig, tokenizer) -> None:
    """Read the first document of a corpus, local or of the Hub, and render it where it is a chat.

    Args:
        tokenizer: None where the run makes the parent, whose tokenizer will have no chat template.

    Raises:
        DataError: no such corpus, file or column; rows that are neither text nor chats; chats without a template.
    """
    if reads_self(config):
        check_chats(tokenizer, "data.name self: the parent")
        prompts_of_files(prompts_of_self(config), 1)
    if config.name == SELF:
        return
    if config.name == MIXTURE:
        config = dataclasses.replace(config, sources=[each for each in config.sources if each.name != SELF])
        if not config.sources:
            return
    if config.name != TRAINERS_DATA and isinstance(document := first_document(config), list):
        as_used([document], tokenizer, config.text_column)


def check_weights(source: str, revision: str | None = None) -> None:
    """Read the headers of a checkpoint in a folder; of a repository, over the network, or in the Hub's cache without one.

    Raises:
        LoadingError: no safetensors, a shard that is missing or truncated, or that lacks a tensor of its index.
        NotReadyError: a repository without safetensors, or that is neither in reach nor in the cache.
    """
    if Path(source).is_dir():
        _read_headers(source)
        return
    try:
        get_safetensors_metadata(source, revision=revision)
        return
    except NotASafetensorsRepoError:
        raise NotReadyError(f"parent.name {source!r} holds no safetensors: convert it with save_pretrained") from None
    except Exception as error:  # whatever the network says, the cache may do
        why = first_line(error)
    try:
        _read_headers(source, revision)
    except (LoadingError, OSError) as error:
        raise NotReadyError(
            f"parent.name {source!r} is neither in reach ({why}) nor whole in the cache ({first_line(error)}): fetch it "
            "where there is a network"
        ) from None


def _read_headers(source: str, revision: str | None = None) -> None:
    shards = Shards(source, revision)
    for name in shards.names:
        shards.dtype_of(name)
