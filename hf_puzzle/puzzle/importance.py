"""Which FFN channels matter: one calibration pass ranks them for every width at once."""

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .surgery import layers_of


@torch.no_grad()
def channel_importance(model: PreTrainedModel, input_ids: torch.Tensor, batch_size: int) -> dict[str, torch.Tensor]:
    """Mean over tokens of |X_k| * ||W_down[:, k]||: how far the output moves if channel k is removed.

    (Puzzle, arXiv 2411.19146, section on channel contribution.)

    Args:
        input_ids: calibration sequences, shape `(num_sequences, sequence_length)`.

    Returns:
        `layer_{i}` -> float32 scores of shape `(intermediate_size,)`.
    """
    layers = layers_of(model)
    totals = [torch.zeros(layer.mlp.down_proj.in_features, dtype=torch.float64) for layer in layers]

    def record(layer_idx: int):
        def hook(module, args):
            activations = args[0].detach().float().abs().flatten(0, -2)  # (tokens, intermediate_size)
            totals[layer_idx] += activations.sum(0).double().cpu()

        return hook

    handles = [layer.mlp.down_proj.register_forward_pre_hook(record(i)) for i, layer in enumerate(layers)]
    try:
        for batch in tqdm(input_ids.split(batch_size), desc="importance", leave=False, disable=None):
            model.get_decoder()(input_ids=batch.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {
        f"layer_{i}": (total / input_ids.numel()).float()
        * layers[i].mlp.down_proj.weight.detach().float().norm(dim=0).cpu()
        for i, total in enumerate(totals)
    }


def channel_ranking(importance: torch.Tensor) -> torch.Tensor:
    """Channels by falling importance; ties by index, so that the ranking is the same everywhere."""
    return torch.sort(importance, descending=True, stable=True).indices
