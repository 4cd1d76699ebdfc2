"""Documents of a packed sequence are what each is alone, in every family; models that cannot are refused by name."""

import dataclasses

import pytest
import torch
import transformers
from families import FAMILIES, block_kinds, family_child, family_model, own_block

from hf_puzzle.data import DataError, TokenBlocks, TokenStream
from hf_puzzle.evaluation import Rows
from hf_puzzle.puzzle.distillation import GKDTrainer, distill
from hf_puzzle.puzzle.document_masks import check_document_masks
from hf_puzzle.recipe import DistillConfig, RecipeError
from hf_puzzle.training import training_arguments


REFUSED = ("gpt_oss",)  # transformers 5.24 makes its masks without the positions
LENGTHS = (7, 1, 14, 10)  # one longer than the windows of the families that have one
CONFIG = DistillConfig(
    num_tokens=512, batch_size=2, learning_rate=1e-3, document_masks=True, evals=1, cosine_weight=0.0
)


@pytest.fixture
def documents():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 128, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture
def stream(documents):
    """The documents one behind the other, three times."""
    starts = torch.tensor([0, *LENGTHS * 3][:-1]).cumsum(0)
    return TokenStream.of(torch.cat(documents * 3).int(), (), 2, starts)


def models_of(family, **overrides):
    kinds = block_kinds(family)
    blocks = [own_block(family), *kinds.values()]
    children = [family_child(family, [*blocks[i : i + 3], blocks[0]][:4], **overrides) for i in range(0, len(blocks) - 2, 3)]  # fmt: skip
    return [family_model(family, **overrides), *children]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in REFUSED])
def test_packed_documents_have_the_logits_of_each_alone(family, implementation, documents, stream):
    rows = TokenBlocks(stream, sum(LENGTHS), positions=True)
    batch = {name: torch.stack([rows[i][name] for i in range(2)]) for name in ("input_ids", "position_ids")}
    for model in models_of(family):
        if implementation == "sdpa" and not model._supports_sdpa:
            continue
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            packed = model(**batch, use_cache=False).logits
            alone = torch.cat([model(input_ids=d[None], use_cache=False).logits for d in documents], 1)
            seen = model(input_ids=batch["input_ids"], use_cache=False).logits
        assert torch.allclose(packed, alone.expand_as(packed), atol=1e-4)
        assert not torch.allclose(seen, alone.expand_as(packed), atol=1e-2)  # without masks they do see each other
        check_document_masks(model, 2)


@pytest.mark.parametrize("family", REFUSED)
def test_families_of_the_suite_that_cannot_are_refused_by_name(family):
    for model in models_of(family):
        with pytest.raises(
            RecipeError, match="document_masks: family .* with eager attention lets the documents of a"
        ):
            check_document_masks(model, 2)


@pytest.mark.parametrize("family, config", [
    ("bloom", transformers.BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4)),
    ("mamba", transformers.MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2)),
])  # fmt: skip
def test_families_that_cannot_are_refused_by_name(family, config):
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(RecipeError, match=f"distill.document_masks: family '{family}' with"):
        check_document_masks(model, 2)


def test_an_attention_without_masks_is_refused_by_name(monkeypatch):
    model = family_model("llama")
    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(
        RecipeError, match="'llama' with sdpa attention lets the documents of a sequence see each other"
    ):
        check_document_masks(model, 1)


def test_the_loss_is_that_of_each_document_alone(documents, stream, tmp_path):
    parent, child = family_model("llama"), family_model("llama", seed=1)
    args = training_arguments(tmp_path, "distill", {}, use_cpu=True)
    trainer = GKDTrainer(parent, CONFIG, args, model=child)
    row = TokenBlocks(stream, sum(LENGTHS), positions=True)[0]
    packed = trainer.compute_loss(child, {name: value[None] for name, value in row.items()})
    alone = sum(len(d) * trainer.compute_loss(child, {"input_ids": d[None]}) for d in documents) / sum(LENGTHS)
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    assert trainer.compute_loss(child, {"input_ids": row["input_ids"][None]}).item() != pytest.approx(alone.item(), rel=1e-3)  # fmt: skip


def test_gkd_trains_on_masked_documents(stream, tmp_path, monkeypatch):
    parent, child, seen = family_model("llama"), family_model("llama", seed=1), []
    plain = GKDTrainer.compute_loss

    def noted(self, model, inputs, **kwargs):
        seen.append(inputs["position_ids"])
        return plain(self, model, inputs, **kwargs)

    monkeypatch.setattr(GKDTrainer, "compute_loss", noted)
    rows = Rows.draw(stream, 16, 64, 0)
    config = dataclasses.replace(CONFIG, num_tokens=64, learning_rate=1e-3)
    _, done = distill(child, parent, stream, config, 16, tmp_path / "gkd", rows)
    assert done.steps == 2
    assert all((positions[:, 0] == 0).all() for positions in seen)
    assert any((positions.diff(dim=1) < 0).any() for positions in seen)
    with pytest.raises(DataError, match="does not say where its documents begin"):
        distill(child, parent, torch.arange(96, dtype=torch.int32), config, 16, tmp_path / "plain", rows)
