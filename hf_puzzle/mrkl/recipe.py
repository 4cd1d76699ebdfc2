"""Recipes of `system: mrkl`: which experts, which adapters on which model, which questions. Every key is here."""

from dataclasses import dataclass, field
from typing import Literal

from ..recipe import ResourcesConfig, key


@dataclass(frozen=True)
class ModelConfig:
    """The language model."""

    name: str | None = key("Hub id, or folder (relative to the recipe file); default: the one of `train`", None)
    revision: str | None = key("Hub revision: a commit makes the run reproducible", None)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key("dtype the model is loaded in", "auto")
    trust_remote_code: bool = key("run code of the model's repository", False)


@dataclass(frozen=True)
class TrainConfig:
    """A small Llama trained on six tasks over slot-masked questions; see `mrkl.pairs.skills`."""

    num_steps: int = key("optimizer steps", 300)
    batch_size: int = key("pairs per step", 48)
    config: dict = key("`transformers.LlamaConfig`, by its own names", {})


@dataclass(frozen=True)
class AdaptersConfig:
    """An adapter that writes plans of calls, trained from generated questions."""

    experts: list[Literal["calculator", "units", "currency", "weather"]] = key(
        "experts that questions of `pairs` are for", ["calculator", "units", "currency", "weather"]
    )
    method: Literal["lora", "prompt"] = key("`prompt` is the paper's; LoRA is for small models", "lora")
    num_steps: int = key("optimizer steps per adapter", 100)
    questions: Literal["pairs", "worlds"] = key(
        "`pairs`: short ones per expert, for small models; `worlds`: of all kinds, with plans of several calls",
        "pairs",
    )
    num_pairs: int = key("generated questions (`pairs`: per expert)", 3000)
    precision: float = key("share of accepted plans that must be right on held-out questions", 0.95)
    batch_size: int = key("pairs per step", 48)
    learning_rate: float | None = key("default: 3e-3 for LoRA, 0.1 for a prompt", None)
    rank: int = key("of LoRA", 8)
    virtual_tokens: int = key("of a prompt", 20)
    alone: bool = key("also one that answers arithmetic by itself, for comparison", True)


@dataclass(frozen=True)
class PhraseConfig:
    """An adapter that puts answers into sentences, in slot ids."""

    num_steps: int = key("optimizer steps", 120)
    num_pairs: int = key("generated pairs", 3000)


@dataclass(frozen=True)
class EvaluateConfig:
    """Questions per cell of the tables."""

    questions: int = key("per expert and wording pool", 100)
    digits: list[int] = key("lengths of operands", [1, 2, 3, 4, 5, 6, 7, 8, 9])


@dataclass(frozen=True)
class ChangeConfig:
    """A changed fact: the same question before and after, with no weight touched."""

    sql: str = key("statements on the run's own copy of the database")
    ask: str = key("the question")


@dataclass(frozen=True)
class MRKLRecipe:
    """`system: mrkl`: experts, adapters on one frozen model, and questions to them."""

    today: str = key("ISO date that `today` means; no clock is read")
    system: Literal["mrkl"] = key("which system runs", "mrkl")
    seed: int = key("seeds everything random", 0)
    device: str = key("`auto`, `cpu`, `cuda`, `cuda:1`", "auto")
    threads: int | None = key("CPU threads; default: torch's", None)
    experts: str | None = key(
        "folder with any of rates.json, units.json, weather.json, wiki.jsonl, shop.sqlite (relative to the recipe)",
        None,
    )
    compositions: list[dict] = key("`Composition`s, by their own names", [])
    train: TrainConfig | None = key("train the small model of the demo", None)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    adapters: AdaptersConfig | None = key("an adapter that writes plans", None)
    phrase: PhraseConfig | None = key("an adapter for sentences", None)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    questions: list[str] = key("asked at the end, with their traces in the report", [])
    changes: list[ChangeConfig] = key("facts that change", [])
