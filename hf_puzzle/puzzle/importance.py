"""Which FFN channels (or experts) matter: one calibration pass ranks them for every width at once."""

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .surgery import layers_of, output_projection, sub_block


@torch.no_grad()
def channel_importance(model: PreTrainedModel, input_ids: torch.Tensor, batch_size: int) -> dict[str, torch.Tensor]:
    """Mean over tokens of |X_k| * ||W_down[:, k]||: how far the output moves if channel k is removed.

    (Puzzle, arXiv 2411.19146, section on channel contribution.) Experts of a mixture: the mean routing weight they get.

    Args:
        input_ids: calibration sequences, shape `(num_sequences, sequence_length)`.

    Returns:
        `layer_{i}` -> float32 scores of shape `(intermediate_size,)`, or `(num_experts,)`.
    """
    totals: dict[int, torch.Tensor] = {}
    ffns = [sub_block(layer, "ffn") for layer in layers_of(model)]

    def channels(layer_idx: int):
        def hook(module, args):
            activations = args[0].detach().float().abs().flatten(0, -2)  # (tokens, intermediate_size)
            totals[layer_idx] = totals.get(layer_idx, 0.0) + activations.sum(0).double().cpu()

        return hook

    def experts(layer_idx: int):
        def hook(module, args):
            _, indices, weights = args  # (tokens, top_k) both
            sums = torch.zeros(module.num_experts, dtype=torch.float64)
            sums.index_add_(0, indices.flatten().cpu(), weights.flatten().double().cpu())
            totals[layer_idx] = totals.get(layer_idx, 0.0) + sums

        return hook

    handles = []
    for i, ffn in enumerate(ffns):
        output = output_projection(ffn)
        watched, hook = (ffn.experts, experts(i)) if output is None else (output, channels(i))
        handles.append(watched.register_forward_pre_hook(hook))
    try:
        for batch in tqdm(input_ids.split(batch_size), desc="importance", leave=False, disable=None):
            model.get_decoder()(input_ids=batch.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    scores = {}
    for i, ffn in enumerate(ffns):
        output = output_projection(ffn)
        norms = 1.0 if output is None else output.weight.detach().float().norm(dim=0).cpu()
        scores[f"layer_{i}"] = (totals[i] / input_ids.numel()).float() * norms
    return scores


def channel_ranking(importance: torch.Tensor) -> torch.Tensor:
    """Channels by falling importance; ties by index, so that the ranking is the same everywhere."""
    return torch.sort(importance, descending=True, stable=True).indices
