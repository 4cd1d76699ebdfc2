"""Linear sub-blocks in closed form: ridge regression, where it beats the paper's products of weights."""

import torch

from ..blocks import LINEAR, row_of
from ..progress import bar
from ..recipe import LibraryConfig
from .initialisation import initial_weights
from .states import LayerStream
from .surgery import hidden_states_of, layers_of, sub_block


@torch.no_grad()
def closed_form_linear(
    parent, wanted, input_ids: torch.Tensor, config: LibraryConfig, stream: LayerStream | None = None
) -> dict[tuple[int, str], torch.Tensor]:
    """Ridge regression of each sub-block's output on its input, where that beats the paper's weight products.

    W = Y^T X (X^T X + lambda I)^-1 with lambda 1e-4 of the mean input power; only Gram matrices are kept. The winner is
    chosen on the second half of the tokens, which the regression has not seen.

    Args:
        stream: runs the parent; default: all of its layers.

    Returns:
        `(layer_idx, kind)` -> weight of shape `(hidden_size, hidden_size)`, float32.
    """
    places = sorted(
        {(layer, kind) for _, layer, kind, variant in wanted if kind != "block" and row_of(kind, variant).module}
    )
    stream = stream or LayerStream(parent)
    if not places and stream.hand_on is None:
        return {}
    size, device = parent.config.hidden_size, parent.device
    layers = layers_of(parent)
    products = {(i, kind): _product(layers[i], kind, parent.config) for i, kind in places}
    gram = {place: torch.zeros(size, size, device=device, dtype=torch.float64) for place in places}
    cross = {place: torch.zeros(size, size, device=device, dtype=torch.float64) for place in places}
    errors = {place: torch.zeros(2, device=device, dtype=torch.float64) for place in places}
    solved: dict[tuple[int, str], torch.Tensor] = {}

    def hook_of(place):
        def hook(module, args, kwargs, output):
            x = (args[0] if args else kwargs["hidden_states"]).flatten(0, -2).float()
            y = hidden_states_of(output).flatten(0, -2).float()
            if solved:
                for j, weight in enumerate((solved[place], products[place])):
                    if weight is not None:
                        errors[place][j] += (x @ weight.T - y).square().sum().double()
            else:
                gram[place] += (x.T @ x).double()
                cross[place] += (y.T @ x).double()

        return hook

    handles = []
    for i, kind in places:
        module = sub_block(layers[i], kind)
        handles.append(module.register_forward_hook(hook_of((i, kind)), with_kwargs=True))
    batches = input_ids.split(config.batch_size)
    half = max(1, len(batches) // 2)
    try:
        pairs = bar(stream.with_states(batches), total=len(batches), desc="linear blocks")
        for number, (batch, states) in enumerate(pairs):
            if number == half:
                for place in places:
                    ridge = 1e-4 * gram[place].diagonal().mean() * torch.eye(size, device=device, dtype=torch.float64)
                    solved[place] = torch.linalg.solve(gram[place] + ridge, cross[place].T).T.float()
            stream.run(batch, states)
    finally:
        for handle in handles:
            handle.remove()
    return {
        place: weight
        for place, weight in solved.items()
        if products[place] is None or errors[place][0] < errors[place][1]
    }


def _product(layer, kind: str, config) -> torch.Tensor | None:
    """The paper's product of weights, `(hidden_size, hidden_size)`; None where a family has none (mixtures)."""
    try:
        return next(iter(initial_weights(layer, kind, LINEAR, config).values())).float()
    except ValueError:
        return None
