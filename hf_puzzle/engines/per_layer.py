"""Per-layer folders for vLLM, which runs them through its Transformers backend: attention in every layer.

There every layer must go through the attention interface. A missing attention becomes one of zeros with one KV head; a
linear map in an attention's place moves behind such an attention into the FFN's place, with its norms: the layer's FFN,
if it has one, gets a layer of its own.
"""

import re

import torch
from transformers import PretrainedConfig

from ..blocks import LINEAR, NONE, Block
from ..formats import as_tied, describe, has_kv_heads, model_class, per_layer_config, stock_of
from ..remote.modeling_puzzle import layer_list, norms_of, place_of


State = dict[str, torch.Tensor]


class NoRoom(ValueError):
    """A linear attention has no FFN's place to move to, with a norm of its own."""


def needs(block: Block) -> str | None:
    """What is changed in a layer; None where it stays."""
    if block == Block(NONE, NONE):
        return "dropped, for it has neither attention nor FFN"
    if block.attention == NONE:
        return "an attention of zeros with 1 KV head put in the place of none"
    if block.attention == LINEAR:
        return "linear attention moved to a linear FFN, behind an attention of zeros"
    return None


def with_attention_everywhere(config: PretrainedConfig, state: State) -> tuple[PretrainedConfig, State, list[str]]:
    """A per-layer child whose every layer has attention: config, tensors, and what was changed.

    Dummy layers must be gone (`formats.simplify`).

    Raises:
        NoRoom: the family has no norm that only the FFN passes through.
    """
    config = as_tied(config, state)
    with torch.device("meta"):
        model = model_class(config)(config)
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    prefix = f"{prefix}.{layer_list(decoder)}."
    layers = getattr(decoder, layer_list(decoder))
    zeros = 1 if has_kv_heads(config) else config.num_attention_heads
    kept, blocks, moved, notes = [], [], {}, {}
    for i, block in enumerate(describe(config)):
        if text := needs(block):
            notes.setdefault(text, []).append(i)
        if block.attention == LINEAR:
            moved[len(kept)] = i
            kept, blocks = [*kept, i], [*blocks, Block(zeros, LINEAR)]
            if block.ffn == NONE:
                continue
        kept.append(i)
        blocks.append(Block(zeros, block.ffn) if text else block)
    if not notes:
        return config, state, []
    renamed = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    for new, old in enumerate(kept):
        own = {n.removeprefix(f"{prefix}{old}."): t for n, t in state.items() if n.startswith(f"{prefix}{old}.")}
        names = _moves(layers[old], own) if new in moved else _stays(layers[old], own)
        renamed |= {f"{prefix}{new}.{to}": own[name] for name, to in names.items()}
    target = per_layer_config(stock_of(config, kept), blocks)
    target.tie_word_embeddings = config.tie_word_embeddings
    with torch.device("meta"):
        expected = model_class(target)(target)
    like = next(iter(state.values()))
    for name, tensor in expected.state_dict().items():
        if name not in renamed and re.match(re.escape(prefix), name):
            renamed[name] = torch.zeros(tensor.shape, dtype=like.dtype, device=like.device)
    changes = [f"layer{'s' * (len(n) > 1)} {', '.join(map(str, n))}: {text}" for text, n in notes.items()]
    return target, renamed, changes


def _moves(layer, own: State) -> dict[str, str]:
    """Names of a linear attention and its norms in a layer, and those of the FFN whose place it takes."""
    norms = norms_of(layer, "attention"), norms_of(layer, "ffn")
    if not norms[0] or len(norms[0]) != len(norms[1]):
        raise NoRoom("a linear attention cannot move to a linear FFN: attention and FFN share a norm")
    ours, theirs = place_of(layer, "attention"), place_of(layer, "ffn")
    names = {f"{ours}.linear_attn.weight": f"{theirs}.linear_mlp.weight"}
    for name in own:
        norm, _, part = name.partition(".")
        if norm in norms[0]:
            names[name] = f"{norms[1][norms[0].index(norm)]}.{part}"
    return names


def _stays(layer, own: State) -> dict[str, str]:
    """Names that a layer keeps: all, or all but those of a linear attention that moved, with its norms."""
    attention = place_of(layer, "attention")
    if f"{attention}.linear_attn.weight" not in own:
        return {name: name for name in own}
    gone = {attention, *norms_of(layer, "attention")}
    return {name: name for name in own if name.partition(".")[0] not in gone}
