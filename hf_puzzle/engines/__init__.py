"""What each deployment engine can run of a DeciLM child: a constraint of the search, not a surprise after it.

One row per engine, read off its sources or run (llama.cpp): linear blocks, missing sub-blocks and mixed KV-head
counts each break some of them, a few silently.
"""

from dataclasses import dataclass

from ..recipe import RecipeError, did_you_mean


@dataclass(frozen=True)
class Engine:
    """Block kinds an engine runs correctly in the DeciLM format."""

    linear_attention: bool
    linear_ffn: bool
    ffn_none_after_attention: bool
    attention_free_first_layer: bool
    ffn_free_last_layer: bool
    mixed_kv_heads: bool = True


ENGINES = {
    "transformers": Engine(True, True, True, True, True),
    "vllm": Engine(False, False, True, False, True),
    "sglang": Engine(False, False, True, False, True, mixed_kv_heads=False),
    "tensorrt-llm": Engine(True, True, True, True, True),
    "llama.cpp": Engine(True, False, False, False, False),
    "mlx-lm": Engine(False, False, True, False, True),
    "exllamav3": Engine(False, False, True, True, True),
}


def check_engines(names: list[str]) -> None:
    """Raises RecipeError for an engine without a row in the table."""
    for name in names:
        if name not in ENGINES:
            raise RecipeError(
                f"deploy: unknown engine {name!r}{did_you_mean(name, ENGINES)}; known: {', '.join(ENGINES)}"
            )


def refuses(engine: str, layer_idx: int, num_layers: int, attention: int | str, ffn: int | str) -> str | None:
    """Why `engine` cannot run this block in this layer, or None if it can."""
    row = ENGINES[engine]
    if attention == "linear" and not row.linear_attention:
        return "no linear attention"
    if ffn == "linear" and not row.linear_ffn:
        return "no linear FFN"
    if ffn == "none" and attention != "none" and not row.ffn_none_after_attention:
        return "drops the attention output of a layer without FFN"
    if layer_idx == 0 and not isinstance(attention, int) and not row.attention_free_first_layer:
        return "needs attention in layer 0"
    if layer_idx == num_layers - 1 and ffn == "none" and not row.ffn_free_last_layer:
        return "needs an FFN in the last layer"
    return None


def needs_one_kv_count(names: list[str]) -> bool:
    """Whether an engine wants the same number of KV heads in all layers that have attention."""
    return any(not ENGINES[name].mixed_kv_heads for name in names)
