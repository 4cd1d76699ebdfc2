"""The ONNX graph of a model folder: any tokens behind any cache, an empty one too."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from .. import artifacts, hub
from ..remote.caches_puzzle import OUTPUT_NAME


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXTRA = "pip install 'hf_puzzle[export]'"
GRAPH = "model.onnx"
OWN_INPUTS = ("input_ids", "attention_mask", "position_ids")  # all others are keys and values
TOLERANCE = 1e-4
DECODE_STEPS = 3
# besides the graph: what a reader of the folder needs to turn text into tokens
_TEXT_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template*", "LICENSE*")


def _random_prompts(vocab_size: int, batch_size: int, length: int, padding: int) -> dict[str, torch.Tensor]:
    """Random tokens whose last row is left-padded by `padding`."""
    tokens = torch.randint(0, vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[-1, :padding] = 0
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


@torch.no_grad()
def _sample(model: PreTrainedModel) -> dict:
    """The second part of prompts, behind a cache of the first.

    A mask without padding would be left out of the graph, and every size must differ from 0 and 1. The exporter lets windows
    be masks over a whole cache, so the first part has to be shorter than any.
    """
    given, cache = _random_prompts(model.config.get_text_config().vocab_size, 2, 7, padding=2), DynamicCache()
    first = {name: value[:, :3] for name, value in given.items()}
    model(**first, **{OUTPUT_NAME: cache}, use_cache=True)
    rest = {name: value[:, 3:] for name, value in given.items() if name != "attention_mask"}
    return rest | {"attention_mask": given["attention_mask"], OUTPUT_NAME: cache, "use_cache": True}


def export_onnx(folder: str | Path, out: str | Path, check: bool = True) -> dict[str, float]:
    """Write `model.onnx` of a model folder, in float32, to `out`, with its tokenizer; runs none of the code in `folder`.

    Batch size, lengths and left padding are free. Inputs are input_ids, attention_mask (over the cache, too), position_ids,
    and `past_key_values.N.key` and `.value` of every layer that has attention, counted without the others, which are empty
    for a prompt; outputs are logits and `present.N.key` and `.value`. `out` appears only when it is complete.

    Returns:
        With `check`, the largest absolute difference to the model's logits, of prefill and of decoding steps, on prompts
        of another shape.

    Raises:
        ImportError: a package of the extra `export` is missing.
        ValueError: a graph that the exporter cannot make, or that differs by more than `TOLERANCE` times the largest
            logit (at least 1).
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"exporting to ONNX needs {', '.join(missing)}: {EXTRA}")
    import onnx_ir

    out = Path(out)
    staging = out.with_name(f".{out.name}.tmp")
    artifacts.remove(staging)
    model = hub.open_model_folder(folder, torch.float32)
    try:
        staging.mkdir(parents=True)
        onnx_ir.save(_graph_of(model, folder), staging / GRAPH, external_data=f"{GRAPH}.data")
        config = model.config.to_dict()
        config.pop("auto_map", None)  # the graph needs no code
        artifacts.write_json(staging / "config.json", config)
        model.generation_config.save_pretrained(staging)
        for pattern in _TEXT_FILES:
            for path in Path(folder).glob(pattern):
                # a link to a file of yours would be copied into what you publish
                shutil.copyfile(artifacts.inside(folder, path.name), staging / path.name)
        found = onnx_differences(model, staging) if check else {}
        artifacts.remove(out)
        staging.rename(out)
    finally:
        artifacts.remove(staging)
    return found


def _graph_of(model: PreTrainedModel, folder: str | Path):
    """An `onnx_ir.Model`: written where the model is Llama-shaped, else by transformers' own exporter."""
    from .onnx_graph import decilm_graph, decilm_parts

    if (parts := decilm_parts(model)) is not None:
        return decilm_graph(model, *parts)
    from transformers.exporters import OnnxConfig, OnnxExporter

    try:
        exported = OnnxExporter().export(model, _sample(model), OnnxConfig(dynamic=True))
    except RuntimeError as error:
        raise ValueError(
            f"transformers' ONNX exporter cannot express {folder}: {error} {error.__cause__ or ''}"
        ) from error
    _name(exported.program.graph)
    return exported.program


def _name(graph) -> None:
    """Keys and values under the names that readers look for, their sizes as numbers, what is free by its name."""
    import onnx_ir

    def say(value, name: str, length: str) -> None:
        _, heads, _, size = (str(each.value if hasattr(each, "value") else each) for each in value.shape)
        value.shape, value.name = onnx_ir.Shape(["batch", int(heads), length, int(size)]), name

    for value in list(graph.inputs):
        if len(value.shape) == 0:  # the size of a window, which comes out as it goes in
            _drop(graph, value)
        elif value.name in OWN_INPUTS:
            value.shape = onnx_ir.Shape(["batch", "total" if value.name == "attention_mask" else "tokens"])
    past = [value for value in graph.inputs if value.name not in OWN_INPUTS]
    for i, (given, kept) in enumerate(zip(past, list(graph.outputs)[1:], strict=True)):
        name = f"{i // 2}.{('key', 'value')[i % 2]}"
        say(given, f"past_key_values.{name}", "past")
        say(kept, f"present.{name}", "total")
    logits = graph.outputs[0]
    logits.name, logits.shape = "logits", onnx_ir.Shape(["batch", "tokens", logits.shape[2]])


def _drop(graph, value) -> None:
    nodes = [node for node, _ in value.uses()]
    copies = [node.outputs[0] for node in nodes]
    if any(node.op_type != "Identity" for node in nodes) or any(copy.uses() for copy in copies):
        raise ValueError(f"{value.name} of the graph is more than a size that is handed on")
    kept = [output for output in graph.outputs if output not in copies]
    graph.outputs[:] = kept
    graph.inputs[:] = [each for each in graph.inputs if each is not value]
    graph.remove(nodes, safe=False)


class OnnxGraph:
    """An exported graph in onnxruntime, on the CPU."""

    def __init__(self, folder: str | Path, threads: int | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        path = str(Path(folder) / GRAPH)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.caches = [each for each in self.session.get_inputs() if each.name not in OWN_INPUTS]
        self._takes = {each.name for each in self.session.get_inputs()}

    def __call__(
        self, inputs: dict[str, torch.Tensor], cache: list[np.ndarray] | None
    ) -> tuple[torch.Tensor, list[np.ndarray]]:
        """Logits of all tokens, and the cache with them; `inputs` as of transformers, the mask over the cache too."""
        if cache is None:
            batch = len(inputs["input_ids"])
            cache = [np.zeros((batch, e.shape[1], 0, e.shape[3]), np.float32) for e in self.caches]
        given = {name: value.numpy() for name, value in inputs.items() if name in self._takes}
        given |= {each.name: value for each, value in zip(self.caches, cache, strict=True)}
        logits, *cache = self.session.run(None, given)
        return torch.from_numpy(logits), cache


@torch.no_grad()
def onnx_differences(model: PreTrainedModel, exported: str | Path) -> dict[str, float]:
    """Largest absolute logit difference of the graph in `exported` to `model`, on random left-padded prompts.

    Raises:
        ValueError: one exceeds `TOLERANCE` times the largest logit (at least 1).
    """
    return differences(model, OnnxGraph(exported))


@torch.no_grad()
def differences(model: PreTrainedModel, graph) -> dict[str, float]:
    """As `onnx_differences`, of anything that is called as `OnnxGraph` is."""
    prompts = _random_prompts(model.config.get_text_config().vocab_size, 3, 21 + DECODE_STEPS, padding=5)
    mask = prompts["attention_mask"]
    expected = model(**prompts, use_cache=False).logits
    length = mask.shape[1] - DECODE_STEPS
    found, cache = {"prefill": 0.0, "decode": 0.0}, None
    for start, end in [(0, length), *((i, i + 1) for i in range(length, mask.shape[1]))]:
        inputs = {name: value[:, start:end] for name, value in prompts.items()} | {"attention_mask": mask[:, :end]}
        logits, cache = graph(inputs, cache)
        difference = (logits - expected[:, start:end])[mask[:, start:end] > 0].abs().max().item()
        name = "decode" if start else "prefill"
        # a NaN is larger than any number
        found[name] = difference if not difference <= found[name] else found[name]
    allowed = TOLERANCE * max(1.0, expected.abs().max().item())
    if wrong := {name: value for name, value in found.items() if not value <= allowed}:
        raise ValueError(f"graphs differ from the model by {wrong}: more than {allowed:.1e}")
    return found
