"""Where a causal LM's ends are, whatever its family: its device, its final hidden states, its map to the vocabulary."""

from collections.abc import Callable

import torch
from accelerate.hooks import AlignDevicesHook
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: of its parameters, or, where `device_map` offloads them, where its hook brings them."""
    parameter = next(module.parameters())
    if parameter.device.type != "meta":
        return parameter.device
    hooks = (m._hf_hook for m in module.modules() if "_hf_hook" in vars(m))
    places = (hook.execution_device for hook in hooks if isinstance(hook, AlignDevicesHook))
    return torch.device(next(place for place in places if place is not None))


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token batches go: to the embeddings."""
    return device_of(model.get_input_embeddings())


def final_states(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """What enters the head, `(batch, length, hidden_size)`."""
    return model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state


def head_of(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """The map from final hidden states to logits, with the scales and caps that some families put behind the matrix."""
    return _scaled(model.get_output_embeddings(), model.config)


def float_head_of(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """`head_of` in float32, whatever the model's dtype."""
    head = model.get_output_embeddings()
    weight, bias = head.weight.detach(), getattr(head, "bias", None)
    if type(head) is not nn.Linear or weight.device.type == "meta" or not weight.dtype.is_floating_point:
        return lambda states: head_of(model)(states.to(model.dtype)).float()  # offloaded, quantised
    weight, bias = weight.float(), None if bias is None else bias.detach().float()
    return _scaled(lambda states: F.linear(states.float(), weight, bias), model.config)


def _scaled(head: Callable[[torch.Tensor], torch.Tensor], config) -> Callable[[torch.Tensor], torch.Tensor]:
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def logits(hidden_states: torch.Tensor) -> torch.Tensor:
        values = head(hidden_states) * scale if scale != 1.0 else head(hidden_states)
        return cap * torch.tanh(values / cap) if cap else values

    return logits
