"""ONNX graphs of a model folder, by transformers' own exporter: one for the prompt, one for a decoding step."""

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import Cache, PreTrainedModel

from .. import artifacts, hub


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXTRA = "pip install 'hf_puzzle[export]'"
TOLERANCE = 1e-4
DECODE_STEPS = 3


def _random_prompts(vocab_size: int, batch_size: int, length: int, padding: int) -> dict[str, torch.Tensor]:
    """Random tokens whose last row is left-padded by `padding`."""
    tokens = torch.randint(0, vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[-1, :padding] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def export_onnx(folder: str | Path, out: str | Path, check: bool = True) -> dict[str, float]:
    """Write `prefill.onnx` and `decode.onnx` of a model folder, in float32, to `out`; runs none of the code in `folder`.

    Batch size, lengths and left padding are free. Inputs are input_ids, attention_mask and position_ids, and for
    `decode` one token per row and the keys and values of every layer that has attention. Each graph has its own copy of
    the weights. `transformers.exporters.ExportedModel.from_pretrained(out, trust_remote_code=True)` opens `out`, which
    appears only when it is complete.

    Returns:
        With `check`, the largest absolute difference to the model's logits, by graph, on prompts of another shape.

    Raises:
        ImportError: a package of the extra `export` is missing.
        ValueError: a graph that the exporter cannot make, or that differs by more than `TOLERANCE` times the largest
            logit (at least 1).
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"exporting to ONNX needs {', '.join(missing)}: {EXTRA}")
    from transformers.exporters import OnnxConfig, OnnxExporter

    out = Path(out)
    staging = out.with_name(f".{out.name}.tmp")
    artifacts.remove(staging)
    model = hub.open_model_folder(folder, torch.float32)
    try:
        try:
            # a mask without padding would be left out of the graphs, and every size must differ from 0 and 1
            sample = _random_prompts(model.config.vocab_size, batch_size=2, length=9, padding=2)
            exported = OnnxExporter().export_for_generation(model, sample, OnnxConfig(dynamic=True))
        except RuntimeError as error:
            raise ValueError(
                f"transformers' ONNX exporter cannot express {folder}: {error} {error.__cause__ or ''}"
            ) from error
        exported.generation_config = model.generation_config
        exported.save_pretrained(staging)
        found = onnx_differences(model, staging) if check else {}
        artifacts.remove(out)
        staging.rename(out)
    finally:
        artifacts.remove(staging)
    return found


@torch.no_grad()
def onnx_differences(model: PreTrainedModel, exported: str | Path) -> dict[str, float]:
    """Largest absolute logit difference of each graph in `exported` to `model`, on random left-padded prompts.

    Raises:
        ValueError: one exceeds `TOLERANCE` times the largest logit (at least 1).
    """
    import onnxruntime
    from transformers.exporters import ExportedModel

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    runners = ExportedModel.from_pretrained(exported, trust_remote_code=True, session_options=options).runners

    prompts = _random_prompts(model.config.vocab_size, batch_size=3, length=13 + DECODE_STEPS, padding=5)
    tokens, mask = prompts["input_ids"], prompts["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = model(**prompts, position_ids=positions, use_cache=False).logits
    length = tokens.shape[1] - DECODE_STEPS
    found, cache = dict.fromkeys(runners, 0.0), None
    for name, start, end in [("prefill", 0, length), *(("decode", i, i + 1) for i in range(length, tokens.shape[1]))]:
        inputs = {"input_ids": tokens[:, start:end], "attention_mask": mask[:, :end]}
        inputs |= {"position_ids": positions[:, start:end]}
        graph = runners[name].metadata.kwargs
        if cache is not None:  # `past_key_values` before transformers 5.24, `cache` since
            inputs |= dict.fromkeys(graph.keys() - inputs, cache)
        output = runners[name](**{key: inputs[key] for key in graph if key in inputs})
        cache = next(value for value in output.values() if isinstance(value, Cache))
        difference = (output.logits - expected[:, start:end])[mask[:, start:end] > 0]
        found[name] = max(found[name], difference.abs().max().item())
    allowed = TOLERANCE * max(1.0, expected.abs().max().item())
    if wrong := {name: value for name, value in found.items() if not value <= allowed}:
        raise ValueError(f"ONNX graphs differ from the model by {wrong}: more than {allowed:.1e}")
    return found
