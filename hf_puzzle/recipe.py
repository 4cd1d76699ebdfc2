"""Recipes: YAML files read into the dataclasses below, strictly. Every key a recipe may hold is documented here."""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

from .strict import (  # noqa: F401 (what recipes are read with is part of this module's interface)
    RecipeError,
    describe_keys,
    did_you_mean,
    key,
    parse_as,
    parse_section,
    read_yaml,
    shown,
    to_dict,
)


MAX_RECIPE_BYTES = 256 * 2**10
MAX_DEPTH = 16  # sections in sections


@dataclass(frozen=True)
class ParentConfig:
    """The model that is compressed."""

    name: str = key("Hub id, or folder (relative to the recipe file)")
    revision: str | None = key("Hub revision: a commit makes the run reproducible", None)
    dtype: Literal["auto", "fastest", "float32", "bfloat16", "float16"] = key(
        "dtype the parent is loaded in; `fastest`: bfloat16 where this machine multiplies it faster than float32, else "
        "float32 (also as `bf16: fastest` among the args of library and distill)",
        "auto",
    )
    trust_remote_code: bool = key("run code of the parent's repository", False)
    recipe: str | None = key("recipe (`system: parent`) that makes the parent when the folder `name` is absent", None)
    gguf_file: str | None = key(
        "GGUF file of the folder or repository `name`: its weights are unpacked into the run folder first (pip install gguf); "
        "dtype auto is then float32",
        None,
    )
    device_map: str | dict | None = key(
        "a parent larger than one device: `auto`, `balanced`, `sequential`, or a mapping of modules, as in "
        "`from_pretrained`; needs library.states: streamed and child.refit: false",
        None,
    )


@dataclass(frozen=True)
class CorpusConfig:
    """Documents of one kind."""

    name: str = key(
        "`python-stdlib`, `text` (local text files), `decisions` (JSON lines of solved decision requests: a child for these "
        "decisions) or `python-keywords` (such requests, made of the standard library), `json`, `csv`, `parquet` (local files of rows), `self` (chats that the "
        "parent writes: section `chats`), `mixture` (of `data.sources`), or a dataset id of the Hub or a dataset's folder "
        "(streamed)"
    )
    config_name: str | None = key("configuration of a Hub dataset", None)
    revision: str | None = key("Hub revision of a dataset: a commit makes the run reproducible", None)
    split: str = key("split of a Hub dataset", "train")
    text_column: str = key(
        "column of a dataset that holds the text, or chats: lists of messages (role, content), rendered by the parent's "
        "chat template",
        "text",
    )
    data_files: list[str] = key(
        "globs of local files, for `text`, `json`, `csv`, `parquet`; of a Hub dataset or a folder: only these of its files",
        [],
    )
    prompts: list[str] = key(
        "of `self`: globs of local files with what users ask, one prompt a line; default: the parent writes the user's turns, "
        "too",
        [],
    )


@dataclass(frozen=True)
class SourceConfig(CorpusConfig):
    """One of several corpora."""

    weight: float = key("share of the text, in characters, relative to the other sources' weights", 1.0, above=0)


@dataclass(frozen=True)
class DataConfig(CorpusConfig):
    """Text for calibration, distillation and evaluation; documents are split by hash of their id."""

    sources: list[SourceConfig] = key("with `name: mixture`: the corpora that are mixed, by their weights", [])
    sequence_length: int = key("tokens per sequence", 2048, least=1)
    num_tokens: int = key("training tokens to prepare", 10_000_000, least=1)
    heldout_tokens: int = key("held-out tokens to prepare", 200_000, least=1)
    heldout_fraction: float = key("share of the documents that is held out", 0.04)
    heldout_document_tokens: int = key(
        "at most so many tokens of each held-out document (at least a sequence), from anywhere in it: as evidence, many "
        "documents beat long ones",
        2048,
        least=1,
    )
    seed: int = key("order of a Hub dataset's files", 0)


@dataclass(frozen=True)
class VocabularyConfig:
    """Tokens that a child has."""

    size: int | None = key(
        "so many of the parent's, chosen before the search: bytes and special tokens, and those that the training text uses "
        "most; text then takes more tokens, and speed counts text. BPE only; default: all",
        None,
        least=1,
    )


@dataclass(frozen=True)
class HiddenConfig:
    """Width of the residual stream that a child has."""

    size: int | None = key(
        "so many channels, the same in all layers, chosen before the search: those with the largest mean absolute value behind "
        "the norms; heads keep their number and size, and the whole parent stays the teacher; default: all",
        None,
        least=1,
    )
    refit: bool = key("correct norms and matrices in closed form, where held-out text says that it helps", True)
    num_tokens: int | None = key(
        "calibration tokens that channels are chosen on and matrices are corrected by; default: 32 per channel that stays",
        None,
        least=1,
    )


@dataclass(frozen=True)
class KVCacheConfig:
    """Number format of keys and values, one for all layers of a child."""

    bits: int | str = key(
        "8 or 4 (or q8_0, q4_0): llama.cpp's cache types, for children of `deploy: [llama.cpp]`, which are then scored, sized and "
        "served with such a cache; default: 16, the dtype",
        16,
    )


@dataclass(frozen=True)
class ChatsConfig:
    """Chats that the parent writes, for `data.name: self`: what it was trained on, as far as it tells."""

    num_chats: int = key("different chats", 2_000, least=1)
    batch_size: int = key("chats that are sampled at once", 16, least=1)
    max_prompt_tokens: int = key("longer prompts are skipped, and counted", 128, least=1)
    max_new_tokens: int = key("of an answer: longer ones are cut", 256, least=1)
    temperature: float = key("of sampling", 0.8, above=0)
    min_p: float = key(
        "of sampling: tokens less likely than this share of the most likely one are left out", 0.05, least=0
    )


@dataclass(frozen=True)
class SearchSpaceConfig:
    """Blocks offered besides the parent's own, which always is."""

    attention: list[int | str] | None = key(
        "KV-head counts (must divide the parent's), `window512` (the last 512 tokens), `gla` (gated linear attention, whose "
        "state does not grow with the text; `gla2`: of two states, not one for each KV head) and `r64` (a map of rank 64; all "
        "three in the per-layer format only), `linear`, `none`; default: all divisors below it, and both words",
        None,
    )
    ffn: list[float | int | str] = key(
        "widths (integers), shares of the parent's width (0..1), `r64` (a map of rank 64; per-layer format only), `linear`, "
        "`none`; of a mixture: numbers or shares of its experts; default: the paper's",
        [0.87, 0.75, 0.5, 0.25, 0.2, 0.1, "linear", "none"],
    )
    width_multiple: int = key("FFN widths are rounded to a multiple of this; a DeciLM child pads to 256", 256)
    layers: dict[int, dict] = key("per layer (negative: from the end): other `attention` / `ffn` lists", {})
    weight_bits: list[int | str] = key(
        "of the matrices of each attention and FFN, besides 16 (the dtype): 8 and 4, in the format of the engine in `deploy`, or "
        "its name: q8_0, q4_0 (llama.cpp: GGUF types per tensor), int8, int4 (transformers: optimum-quanto, one of them)",
        [16],
    )


@dataclass(frozen=True)
class ImportanceConfig:
    """Training-free ranking of FFN channels."""

    num_tokens: int = key("calibration tokens", 65_536, least=1)
    batch_size: int = key("sequences per forward pass", 8, least=1)
    experts: Literal["reap", "output_norm", "routing_weight"] = key(
        "what ranks experts: `reap`, the mean over an expert's tokens of gate x norm of its answer; `output_norm`, the same over "
        "all tokens, so that experts that few tokens see matter less; or the mean gate",
        "output_norm",
    )


@dataclass(frozen=True)
class LibraryConfig:
    """Initialisation and blockwise local distillation (BLD) of every block of the search space."""

    num_tokens: int = key("tokens of BLD; 0 keeps the training-free initialisation", least=0)
    batch_size: int = key("sequences per step", 8, least=1)
    attention_learning_rate: float = key("peak learning rate of attention blocks", 1e-3, above=0)
    ffn_learning_rate: float = key("peak learning rate of FFN blocks", 1e-3, above=0)
    coupling: Literal["decoupled", "coupled"] = key(
        "train sub-blocks apart (m + n jobs a layer) or pairs (m x n)", "decoupled"
    )
    coupled_blocks: list[str] | None = key("with `coupled`: only these blocks, e.g. [kv2+w512]", None)
    ffn_under_no_attention: bool = key("also train FFNs for blocks whose attention is `none`", False)
    layers_per_job: int | None = key("layers trained over one parent forward; default: all", None, least=1)
    states: Literal["resident", "streamed", "pipeline"] = key(
        "how a job gets what enters its layers. `resident`: from the whole parent; `streamed`: it reads its own layers only, "
        "and those below one at a time for `lookahead` batches at once; `pipeline`: on Ray, from the job below, all at once",
        "resident",
    )
    lookahead: int = key("batches whose hidden states are held in memory, with `streamed`", 32, least=1)
    ridge_tokens: int | None = key(
        "calibration tokens of the closed forms that blocks start from; default: 32 per input of the widest of them",
        None,
        least=1,
    )
    eval_tokens: int = key("held-out tokens that choose the best step of each block", 8_192, least=1)
    evals: int = key("evaluations during BLD", 4, least=1)
    skip_below: float = key("blocks whose loss before training is below this are not trained", 1e-3)
    max_grad_norm: float = key("gradient clipping, per block", 1.0, above=0)
    args: dict = key("further `transformers.TrainingArguments`, by their own names", {})


@dataclass(frozen=True)
class ScoreConfig:
    """Replace-1-block scores."""

    metric: Literal["kl", "lm_loss", "accuracy"] = key(
        "KL(parent || modified), rise of the LM loss, or loss of task accuracy", "kl"
    )
    num_tokens: int = key("held-out tokens per score", 8_192, least=1)
    batch_size: int = key("sequences per forward pass", 8, least=1)
    blocks: Literal["sub_blocks", "all"] = key(
        "what is measured: exchanges of one attention or FFN, whose sums stand for the other blocks until the search has "
        "found where to look; or every block",
        "sub_blocks",
    )
    tokens_per_task: int | None = key(
        "held-out tokens of one task where tasks are fanned out; default: all", None, least=1
    )


@dataclass(frozen=True)
class CostConfig:
    """What each block costs, measured on this machine."""

    engine: Literal["transformers", "llama.cpp", "vllm", "openvino"] = key(
        "what the models are timed in; children of Llama-shaped parents only, except `transformers` and `openvino`, which "
        "gets graphs in float32",
        "transformers",
    )
    gguf_type: Literal["auto", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"] = key(
        "of the files that llama.cpp is timed with, as users deploy them; `auto`: as `cost.dtype`. Memory is counted in "
        "`cost.dtype`",
        "auto",
    )
    batch_sizes: list[int] = key("sequences generated at once; the search sweeps them", [1], least=1)
    prefill_tokens: int | list[int] = key(
        "prompt tokens per sequence; a list: every length is measured, and as many batches of each are what throughput and "
        "speed-up count; latency_ms and prefill_ms hold at each, memory at the longest",
        512,
        least=1,
    )
    decode_tokens: int = key("generated tokens per sequence", 512, least=1)
    dtype: Literal["fastest", "float32", "bfloat16", "float16"] = key(
        "dtype of weights and cache when deployed; `fastest` as of `parent.dtype`", "bfloat16"
    )
    clock: Literal["wall", "cpu"] = key("`cpu` counts processor time: steady on a shared machine", "wall")
    threads: int | None = key("CPU threads while measuring; default: torch's", None, least=1)
    stack_layers: int = key("copies of a block in the measured stack", 4, least=1)
    rounds: int = key("interleaved rounds, at most: three are enough on a quiet machine", 5, least=1)
    calibration_children: int = key("assembled children the cost model is fitted on, from cheap to dear", 6, least=1)
    unseen_children: int = key("further ones, drawn from the whole space, that tell its error", 2, least=0)
    accelerators: list[str] = key(
        "measure on each of these kinds (Ray's accelerator types), to `costs.<kind>.json`; the search uses the first",
        [],
    )

    @property
    def lengths(self) -> list[int]:
        """Prompt tokens of the workloads that are measured, one or several."""
        return self.prefill_tokens if isinstance(self.prefill_tokens, list) else [self.prefill_tokens]


@dataclass(frozen=True)
class ConstraintsConfig:
    """What the child must satisfy; any combination. Tokens count prompt and generated ones, as in the paper."""

    speedup: float | None = key(
        "throughput of the child / throughput of the parent, measured: of the stock parent and of the parent's blocks in "
        "the child's code, whichever is faster",
        None,
    )
    throughput_tokens_per_s: float | None = key("at least", None)
    latency_ms: float | None = key("prefill and decode of one batch, at most", None)
    prefill_ms: float | None = key("time to first token of one batch, at most", None)
    memory_gb: float | None = key(
        "weights + KV cache of the batch, at most, in 1e9 bytes; so is the measured peak of the child that is chosen",
        None,
    )
    num_parameters: int | None = key("at most", None)
    max_batch_size: int | None = key("largest batch the application has", None)


@dataclass(frozen=True)
class SolveConfig:
    """The search: MIP, rescoring around its solution, and measuring until the target is met."""

    solver: Literal["auto", "HIGHS", "CBC"] = key("`auto`: HiGHS where it works, else CBC", "auto")
    num_solutions: int = key("diverse solutions kept per solve", 3, least=1)
    min_distance: float = key("share of layers in which solutions must differ", 0.2)
    relative_gap: float = key("proven gap at which the solver may stop", 1e-5)
    time_limit_s: float = key("per solve", 60.0, above=0)
    rescore_rounds: int = key("rounds of scoring around the incumbent child, then solving again near it", 1, least=0)
    rescore_distance: float = key("share of layers that may change in one such round", 0.5)
    refine: Literal["none", "swap"] = key(
        "`swap`: the child found is polished by exchanges judged whole, at the forward tokens that finding it took",
        "none",
    )
    iterations: int = key(
        "compress so many times, each child but the last being what the next one's blocks are cut from and scored in; its "
        "targets lie between the parent and the constraints, and the tokens of library and distill are split among all",
        1,
        least=1,
    )
    max_rounds: int = key("target -> measure -> recalibrate rounds", 6, least=1)
    sessions: int = key(
        "fresh processes that a winner's speed is confirmed in; up to three times as many where noise hides how fast it is",
        4,
        least=1,
    )
    measure_rounds: int = key("timing rounds of parent and child in turn, over all sessions", 12, least=1)
    confidence: float = key("of the lower bound of the speed-up that must clear the target", 0.95)


@dataclass(frozen=True)
class ChildConfig:
    """Assembling the child."""

    format: Literal["auto", "decilm", "per_layer"] = key(
        "`decilm` opens in most engines and fits Llama-shaped parents; `per_layer` fits every family", "auto"
    )
    refit: bool = key("closed-form refit of the assembled child, no gradients", True)
    refit_tokens: int | None = key(
        "calibration tokens of the refit; default: 43 per input channel of the child's widest output matrix, a quarter of "
        "which judge",
        None,
        least=1,
    )
    batch_size: int = key("sequences per forward pass", 8, least=1)
    ridge: float = key(
        "strength that pulls the refit to the current weights, relative to the input's variance", 1e-2, above=0
    )


@dataclass(frozen=True)
class DistillConfig:
    """Global knowledge distillation (GKD)."""

    num_tokens: int = key("tokens of GKD; 0 skips it", least=0)
    batch_size: int = key("sequences per step and process", 8, least=1)
    learning_rate: Literal["auto"] | float = key(
        "peak learning rate; `auto`: three or four are tried for 3 % of the steps each, and the best is scaled to all steps",
        "auto",
        above=0,
    )
    eval_tokens: int = key("held-out tokens that choose the best step, and the learning rate", 32_768, least=1)
    evals: int = key("evaluations during GKD, besides the one before it", 8, least=1)
    optimizer: Literal["adamw", "muon"] = key(
        "`muon` drives the hidden matrices with Muon, the rest with AdamW", "adamw"
    )
    kl_weight: float = key("weight of KL(parent || child) on the logits", 1.0, least=0)
    divergence: Literal["forward", "reverse", "mixed"] = key(
        "KL(parent || child), KL(child || parent), or their mean", "forward"
    )
    answers_only: bool = key("of chats, only what the assistant wrote counts in the losses", False)
    document_masks: bool = key(
        "documents of a sequence do not see each other, and the positions of each begin at 0; refused where a family or its "
        "attention cannot",
        False,
    )
    on_policy_tokens: int = key(
        "tokens of a further phase on chats that the child writes, as of section `chats`; 0 skips it", 0, least=0
    )
    on_policy_divergence: Literal["forward", "reverse", "mixed"] = key("in that phase", "reverse")
    cosine_weight: float = key("weight of 1 - cosine of the hidden states, mean over layers", 1.0, least=0)
    lm_weight: float = key("weight of the LM loss; the paper finds it harmful", 0.0, least=0)
    attn_implementation: str | None = key(
        "attention while training; on a CPU in bf16, `eager` is faster on short text", None
    )
    chunk_tokens: int = key("tokens whose vocabulary logits are compared at once", 256, least=1)
    fsdp: bool = key("under `torchrun`: shard child, parent and optimizer over the processes (FSDP2)", False)
    lora: dict | None = key("train adapters only: `peft.LoraConfig` by its own names", None)
    args: dict = key("further `transformers.TrainingArguments`, by their own names", {})


@dataclass(frozen=True)
class EvaluateConfig:
    """Quality and speed of the child against the parent, on held-out text."""

    num_tokens: int = key("held-out tokens", 49_152, least=1)
    batch_size: int = key("sequences per forward pass", 8, least=1)
    task_items: int = key("items of the cloze task (chance: 25 %)", 1000, least=1)
    task_context: int = key("context tokens of an item", 32, least=1)
    task_continuation: int = key("tokens of each of the four continuations", 8, least=1)
    assisted_prompts: int = key("prompts generated with the child as draft of its parent; 0 skips it", 8, least=0)
    assisted_new_tokens: int = key("tokens generated after each of them", 64, least=1)
    assisted_draft_tokens: int = key("tokens the child drafts per step of the parent", 4, least=1)
    quantized: list[str] = key("also evaluate the child with weights in int8, int4 (extra `quanto`)", [])
    gguf: list[str] = key(
        "also evaluate parent and child in llama.cpp, as GGUF files of these types: f32, f16, bf16, q8_0 (extra `llama-cpp`)",
        [],
    )
    chats: int = key("held-out chats whose prompts parent and child answer greedily; 0 skips it", 0, least=0)
    chat_tokens: int = key("tokens of such an answer, at most", 128, least=1)
    batch_sizes: list[int] = key(
        "short requests at once, whose times to the first and for each further token are measured", [1], least=1
    )
    keys: int = key(
        "texts in which numbers are hidden and asked for, of 1, 2 and 4 times data.sequence_length; 0 skips it",
        0,
        least=0,
    )
    systems: list[str] = key(
        "recipes of `system: pcw` and `system: mrkl` (relative to this one) that are run on the parent and on the child",
        [],
    )
    measure_rounds: int = key("interleaved timing rounds, over `solve.sessions` fresh processes", 12, least=1)


@dataclass(frozen=True)
class BaselinesConfig:
    """What simpler methods, and searches on the true loss, reach at the child's speed."""

    names: list[str] = key(
        "any of drop_layers, uniform, two_blocks, greedy, evolution, projection, random, scratch", []
    )
    num_tokens: list[int] = key("GKD tokens of each baseline, ascending; the curve of the report", [0], least=0)
    num_random: int = key("random feasible children; the median by KL is kept", 8, least=1)


@dataclass(frozen=True)
class ResourcesConfig:
    """What one task asks of a cluster (`--on ray`, `--on slurm`)."""

    cpu: float = key("CPUs of a task; also its threads, unless `threads` says otherwise", 1.0)
    gpu: float = key("GPUs of a task", 0.0)
    memory_gb: float | None = key("memory of a task that the scheduler sets aside, in 1e9 bytes", None)
    accelerator: str | None = key("Ray's accelerator type that every task asks for, e.g. H100", None)
    workers: int | None = key("tasks a stage is cut for; default: as many as the Ray cluster holds, 4 on Slurm", None)
    slurm: dict = key("further parameters of submitit, e.g. {slurm_partition: gpu, timeout_min: 600}", {})


@dataclass(frozen=True)
class PuzzleRecipe:
    """`system: puzzle`: from a parent to a deployable child."""

    parent: ParentConfig
    data: DataConfig
    library: LibraryConfig
    distill: DistillConfig
    system: Literal["puzzle"] = key("which system runs", "puzzle")
    seed: int = key("seeds everything random", 0)
    device: str = key("`auto`, `cpu`, `cuda`, `cuda:1`", "auto")
    threads: int | None = key("CPU threads of training stages; default: torch's", None)
    deploy: list[str] = key(
        "engines the child must run in, as it is or after `hf-puzzle export`; `portable`: in all of them as it is",
        ["transformers"],
    )
    tensor_parallel: int = key("devices that the engines of `deploy` split attention heads over", 1)
    report_to: list[str] = key("trackers of the trainings, as in `transformers.TrainingArguments`", [])
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    hidden: HiddenConfig = field(default_factory=HiddenConfig)
    kv_cache: KVCacheConfig = field(default_factory=KVCacheConfig)
    chats: ChatsConfig = field(default_factory=ChatsConfig)
    search_space: SearchSpaceConfig = field(default_factory=SearchSpaceConfig)
    importance: ImportanceConfig = field(default_factory=ImportanceConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    solve: SolveConfig = field(default_factory=SolveConfig)
    child: ChildConfig = field(default_factory=ChildConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)


@dataclass(frozen=True)
class ParentRecipe:
    """`system: parent`: a small model trained from scratch, for demos and tests without downloads."""

    data: DataConfig
    system: Literal["parent"] = key("which system runs", "parent")
    seed: int = key("seeds everything random", 0)
    device: str = key("`auto`, `cpu`, `cuda`", "auto")
    threads: int | None = key("CPU threads; default: torch's", None)
    start: str | None = key(
        "model that is trained further, with its tokenizer, instead of one from scratch: folder (relative to the recipe file) or "
        "Hub id",
        None,
    )
    vocab_size: int = key("tokens of the byte-level BPE trained on the data", 2048, least=1)
    model_type: str = key("family: a decoder of transformers", "llama")
    config: dict = key("the family's config (of `llama`: `transformers.LlamaConfig`), by its own names", {})
    batch_size: int = key("sequences per step", 32, least=1)
    learning_rate: float = key("peak learning rate (Muon for matrices, AdamW for the rest)", 4e-3, above=0)
    num_tokens: int = key("training tokens", 5_000_000, least=1)
    args: dict = key("further `transformers.TrainingArguments`, by their own names", {})


# a name is imported when a recipe of its system is read
SYSTEMS = {
    "puzzle": PuzzleRecipe,
    "parent": ParentRecipe,
    "pcw": "hf_puzzle.pcw.recipe.PCWRecipe",
    "mrkl": "hf_puzzle.mrkl.recipe.MRKLRecipe",
}


def recipe_class(system: str) -> type:
    """The dataclass of a system's recipes."""
    found = SYSTEMS[system]
    if isinstance(found, str):
        module, _, name = found.rpartition(".")
        found = getattr(import_module(module), name)
    return found


def load_recipe(path: str | Path, overrides: list[str] = ()) -> PuzzleRecipe | ParentRecipe:
    """Read a recipe; `overrides` are `a.b=value` with the value in YAML.

    Raises:
        RecipeError: unreadable file, unknown key (with the nearest name), or a value of the wrong type.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8
        raise RecipeError(f"recipe {path} is not valid YAML: {error}") from None
    if len(text) > MAX_RECIPE_BYTES:
        raise RecipeError(f"recipe {path} has more than {MAX_RECIPE_BYTES} characters: that is no recipe")
    return parse_recipe(read_yaml(text, f"recipe {path}"), overrides)


def parse_recipe(raw: object, overrides: list[str] = ()) -> PuzzleRecipe | ParentRecipe:
    if not isinstance(raw, dict):
        raise RecipeError("a recipe is a mapping of keys; see `hf-puzzle keys`")
    for override in overrides:
        if not isinstance(override, str) or override.partition("=")[0].count(".") > MAX_DEPTH:
            raise RecipeError(f"--set takes a.b=value, got {shown(override)}")
        raw = _override(raw, override)
    system = raw.get("system", "puzzle")
    if not isinstance(system, str) or system not in SYSTEMS:
        raise RecipeError(
            f"system: {shown(system)} is unknown{did_you_mean(shown(system), SYSTEMS)}; known: {', '.join(SYSTEMS)}"
        )
    return parse_section(recipe_class(system), raw, "")


def _override(raw: dict, override: str) -> dict:
    path, separator, value = override.partition("=")
    if not separator:
        raise RecipeError(f"--set takes key=value, got {shown(override)}")
    head, _, rest = path.strip().partition(".")
    if rest:
        inner = raw.get(head) or {}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: {shown(head)} is not a section")
        return {**raw, head: _override(inner, f"{rest}={value}")}
    return {**raw, head: read_yaml(value, f"--set {override}: the value")}
