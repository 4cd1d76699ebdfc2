"""What a Puzzle recipe's text and parent rule out, known before any compute; the rest of `PuzzleRun.check_recipe`'s questions."""

import logging

from ..corpora import TRAINERS_DATA
from ..engines.cache_types import ATTENTION
from ..engines.weight_types import GGUF_GROUP
from ..layers import parent_blocks
from ..recipe import RecipeError
from .distillation import check_validation
from .refit import check_tokens


logger = logging.getLogger(__name__)

VALIDATION_SHARE = 3  # a third of the held-out text chooses, the rest tests
MIN_VALIDATION_ROWS = 256


def check_heldout(run) -> None:
    """Choosing blocks needs validation text: a third of what is held out."""
    if run.given_streams is not None or run.recipe.data.name == TRAINERS_DATA:
        return
    config, length = run.recipe.data, run.sequence_length
    rows = config.heldout_tokens // VALIDATION_SHARE // length
    if rows < MIN_VALIDATION_ROWS:
        logger.warning(
            "data.heldout_tokens: %d leave %d validation sequences of %d to choose blocks with, which is noise; %d would "
            "do (%d sequences)", config.heldout_tokens, rows, length, MIN_VALIDATION_ROWS * VALIDATION_SHARE * length,
            MIN_VALIDATION_ROWS,
        )  # fmt: skip


def check_refit(run) -> None:
    """The refit needs a sequence to fit to and one to judge by; a callback's are not known before its search."""
    config, length = run.recipe.child, run.sequence_length
    if not config.refit or (run.recipe.data.name == TRAINERS_DATA and run.given_streams is None):
        return
    widths = (block.ffn for block in parent_blocks(run.config)) if run.source.known else ()
    widest = max((width for width in widths if isinstance(width, int)), default=0)
    check_tokens(config, length, run.recipe.data.num_tokens, widest)


def check_gkd_text(run) -> None:
    """GKD's step is chosen on validation text; how much a callback has is known with its streams."""
    if run.given_streams is not None:
        heldout = len(run.given_streams["heldout"])
    elif run.recipe.data.name != TRAINERS_DATA:
        heldout = run.recipe.data.heldout_tokens
    else:
        return
    check_validation(run.recipe.distill, heldout // VALIDATION_SHARE, run.sequence_length)


def check_parts(run) -> None:
    """What a parent that is never whole in memory rules out."""
    recipe = run.recipe
    if run.source.in_memory and recipe.library.states != "resident":
        raise RecipeError(
            f"library.states: {recipe.library.states} reads the parent's files; a parent in memory is resident"
        )
    if recipe.parent.device_map is None:
        return
    if run.source.in_memory:
        raise RecipeError("parent.device_map: this parent is in memory already; leave the key out")
    if recipe.library.states == "resident":
        raise RecipeError("parent.device_map: BLD then reads layers from files; set library.states: streamed")
    if recipe.child.refit:
        raise RecipeError("parent.device_map: the refit needs parent and child whole; set child.refit: false")
    if recipe.distill.num_tokens and not recipe.distill.fsdp:
        raise RecipeError(
            "parent.device_map: GKD needs the parent on one device, or sharded; set distill.fsdp: true, or "
            "distill.num_tokens: 0"
        )
    if recipe.baselines.names and any(recipe.baselines.num_tokens):
        raise RecipeError(
            f"baselines.num_tokens {recipe.baselines.num_tokens}: GKD of baselines needs the parent on one device; with "
            "parent.device_map, set baselines.num_tokens: [0]"
        )


def check_kv_cache(run) -> None:
    """Keys and values in fewer bits are llama.cpp's, of one type for all layers; where costs are measured elsewhere, that is said."""
    name, deploy, engine = run.cache_type, list(run.recipe.deploy), run.recipe.cost.engine
    if name is None:
        return
    if deploy != ["llama.cpp"]:
        raise RecipeError(
            f"kv_cache.bits: {name} is a cache type of llama.cpp, for all layers at once, and deploy is {deploy}: set "
            "`deploy: [llama.cpp]`, or leave kv_cache out"
        )
    if not run.source.known:
        return
    config = run.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim % GGUF_GROUP:
        raise RecipeError(
            f"kv_cache.bits: {name} keeps groups of {GGUF_GROUP} numbers, and heads of {head_dim} are no multiple of it; leave "
            "kv_cache out"
        )
    attention = config._attn_implementation or ATTENTION
    if attention != ATTENTION:
        raise RecipeError(
            f"kv_cache.bits: keys are rounded in {ATTENTION}, and the parent runs {attention}; load it without"
        )
    if engine != "llama.cpp":
        logger.info("cost: %s does not run a cache of %s: its time is that of %s here; its bytes count in full",
                    engine, name, run.recipe.cost.dtype)  # fmt: skip
