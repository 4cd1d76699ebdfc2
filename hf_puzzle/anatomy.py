"""Where a causal LM's ends are, whatever its family: its device, its final hidden states, its map to the vocabulary."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from accelerate.hooks import AlignDevicesHook
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import PreTrainedModel


ROUNDING = 0.05  # relative, of logits in half precision and quantised; unknown scales are larger


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
    if isinstance(model, FSDPModule):  # gathers its ends only when it is called as a whole
        return model(input_ids=input_ids, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states[
            -1
        ]
    return model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """`model` for inference, its weights without gradients; as fast as with them.

    torch's matmul makes one matrix of a batch's last positions only where the weight takes gradients, or they lie one
    behind the other; else it multiplies by a head for each row, and copies them all in bfloat16 (torch 2.13, CPU).
    """
    head = model.get_output_embeddings()
    if head is not None and _close_together not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_close_together)
    return model.eval().requires_grad_(False)


def _close_together(head: nn.Module, args: tuple) -> tuple:
    return tuple(arg.contiguous() if isinstance(arg, torch.Tensor) else arg for arg in args)


@dataclass(frozen=True)
class Head:
    """The map from final hidden states to logits: a matrix, and the scale and cap that some families put behind it."""

    matrix: Callable[[torch.Tensor], torch.Tensor]
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return self.finished(self.matrix(states))

    def finished(self, logits: torch.Tensor) -> torch.Tensor:
        """What the matrix gives, scaled and capped."""
        logits = logits * self.scale if self.scale != 1.0 else logits
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


class HeadError(ValueError):
    """A family does something between its final hidden states and its logits that `head_of` does not know."""


@torch.no_grad()
def check_head(model: PreTrainedModel, head: Callable[[torch.Tensor], torch.Tensor], input_ids: torch.Tensor) -> None:
    """Compare the model's own logits with `head` on its final states, for a few tokens of `(batch, length)`.

    Raises:
        HeadError: they differ by more than rounding.
    """
    ids = input_ids[:1, :8]
    own, ours = model(input_ids=ids, use_cache=False).logits.float(), head(final_states(model, ids))
    difference = ((ours - own).norm() / own.norm().clamp_min(1e-30)).item()
    if difference > ROUNDING:
        raise HeadError(
            f"family {model.config.model_type!r}: logits differ by {difference:.1%} from its head on its final hidden states; a "
            "scale or a cap behind them is unknown here (anatomy.head_of)"
        )


def head_of(model: PreTrainedModel) -> Head:
    """The head of any family."""
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(model.get_output_embeddings(), scale, getattr(config, "final_logit_softcapping", None) or None)


def float_head_of(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """`head_of` in float32, whatever the model's dtype; of a sharded model, gathered: all processes must come here."""
    head = head_of(model)
    weight, bias = head.matrix.weight.detach(), getattr(head.matrix, "bias", None)
    if isinstance(weight, DTensor):
        weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
    if type(head.matrix) is not nn.Linear or weight.device.type == "meta" or not weight.dtype.is_floating_point:
        return lambda states: head(states.to(model.dtype)).float()  # offloaded, quantised
    half = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _has_bf16_tiles()
    weight, bias = weight.float(), None if bias is None else bias.detach().float()

    def linear(states: torch.Tensor) -> torch.Tensor:
        # values that bfloat16 holds: their products are exact there, and are summed in float32 all the same
        with _products_in_bf16() if half and states.dtype == torch.bfloat16 else contextlib.nullcontext():
            return F.linear(states.float().contiguous(), weight, bias)  # as in `frozen`

    return replace(head, matrix=linear)


def _has_bf16_tiles() -> bool:
    """Whether this processor multiplies matrices of bfloat16 (AMX), and torch lets float32 ones be multiplied so."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return hasattr(matmul, "fp32_precision") and torch.cpu._is_amx_tile_supported()


@contextlib.contextmanager
def _products_in_bf16() -> Iterator[None]:
    matmul = torch.backends.mkldnn.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
