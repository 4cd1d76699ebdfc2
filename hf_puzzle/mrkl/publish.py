"""The Hub folder behind `model.generate(..., custom_generate=folder)` with experts."""

from pathlib import Path

from .. import cards, hub
from ..remote.caches_puzzle import REQUIREMENTS
from ..remote.generation_mrkl import CUSTOM_GENERATE


def write_custom_generate(folder: str | Path) -> Path:
    """Write `custom_generate/` (code and requirements) and a README to `folder`, which may hold a model already.

    In a folder that holds a model, `from_pretrained(..., trust_remote_code=True)` makes this function the model's
    `generate`; a README that is there is kept.
    """
    return hub.write_custom_generate(folder, CUSTOM_GENERATE, REQUIREMENTS, cards.code_card("mrkl"))
