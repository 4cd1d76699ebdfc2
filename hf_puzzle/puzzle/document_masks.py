"""Documents of one sequence that do not see each other: their positions restart, from which transformers makes the masks.

Which models do so depends on the family, the attention implementation, and with some of them on the number of sequences at
once. It is not looked up in a table: two documents in a sequence are compared with each alone.
"""

import torch
from transformers import PreTrainedModel

from ..anatomy import ROUNDING, input_device
from ..recipe import RecipeError


LENGTHS = (9, 5, 12)  # tokens of the documents that are compared
TOLERANCE = 1e-3  # relative, in float32


@torch.no_grad()
def check_document_masks(model: PreTrainedModel, batch_size: int) -> None:
    """Compare the logits of documents in a sequence with those of each alone, in as many sequences as are trained at once
    (two at most).

    Raises:
        RecipeError: they differ by more than rounding, or the model takes no positions.
    """
    generator, device = torch.Generator().manual_seed(0), input_device(model)
    vocabulary, rows = model.config.get_text_config().vocab_size, min(2, batch_size)
    documents = [torch.randint(0, vocabulary, (rows, length), generator=generator).to(device) for length in LENGTHS]
    who = f"family {model.config.model_type!r} with {model.config._attn_implementation} attention"
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).expand(rows, -1).to(device)
    training = model.training
    model.eval()
    try:
        packed = model(input_ids=torch.cat(documents, 1), position_ids=positions, use_cache=False).logits.float()
        alone = torch.cat([model(input_ids=each, use_cache=False).logits.float() for each in documents], 1)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"distill.document_masks: {who} takes no positions of documents ({error}): set it to false"
        ) from None
    finally:
        model.train(training)
    difference = ((packed - alone).norm() / alone.norm().clamp_min(1e-30)).item()
    if not difference <= (TOLERANCE if model.dtype in (torch.float32, torch.float64) else ROUNDING):
        raise RecipeError(
            f"distill.document_masks: {who} lets the documents of a sequence see each other (logits differ by "
            f"{difference:.1%} from each document's alone, {rows} sequences at once): set it to false, or "
            "distill.attn_implementation to sdpa or eager"
        )
