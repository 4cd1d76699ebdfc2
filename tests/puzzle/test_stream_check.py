"""The parent as users run it against the parent in the streams."""

import copy
import types

import pytest
import torch
from tokenizers import processors

from hf_puzzle.data import DataError, TokenStream, tokenize, train_tokenizer
from hf_puzzle.puzzle.stream_check import check_streams
from hf_puzzle.recipe import DataConfig


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(60):
        (folder / f"d{i:02d}.txt").write_text(" ".join(f"w{i}x{j * i}" for j in range(20 + i)))
    return DataConfig(
        name="text", data_files=[str(folder / "*.txt")], sequence_length=64, heldout_fraction=0.4,
        num_tokens=10**5, heldout_tokens=10**5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(config):
    tokenizer = train_tokenizer(config, 300)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


class Sink:
    """A parent that is good (1 nat a token, or 1.2 behind other texts) where <s> stands in front, and bad (4) elsewhere."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, crowded=1.2):
        self.bos, self.size, self.crowded = tokenizer.bos_token_id, len(tokenizer), crowded

    def get_input_embeddings(self):
        return torch.nn.Embedding(1, 1)

    def __call__(self, input_ids, use_cache):
        following = torch.cat([input_ids[:, 1:], input_ids[:, :1]], 1)
        seen = (input_ids == self.bos).cumsum(1)
        loss = torch.where(seen == 0, 4.0, torch.where(seen == 1, 1.0, self.crowded))
        # logit x over zeros: log(1 + (n - 1) exp(-x)) nats
        logit = torch.log((self.size - 1) / (loss.exp() - 1))
        logits = torch.zeros(*input_ids.shape, self.size)
        return types.SimpleNamespace(logits=logits.scatter(-1, following[..., None], logit[..., None]))


def test_both_losses_are_of_the_same_tokens(config, tokenizer, caplog):
    caplog.set_level("INFO", "hf_puzzle")
    streams = tokenize(config, tokenizer)
    used, streamed = check_streams(Sink(tokenizer, crowded=1.05), tokenizer, config, streams["heldout"])
    assert used == pytest.approx(1.0)
    assert 1.0 < streamed < 1.05 + 1e-5  # the first document has nothing before it
    assert "1.000 nats as users run it and 1.0" in caplog.messages[-1]


def test_streams_without_the_prefix_are_refused_with_both_numbers(config, tokenizer):
    streams = tokenize(config, tokenizer)
    plain = streams["heldout"].as_subclass(torch.Tensor)
    without = TokenStream.of(plain[plain != tokenizer.bos_token_id])
    with pytest.raises(DataError, match=r"1\.000 nats as users run it and 4\.000 in the streams .*tokenizer\('abc'\)"):
        check_streams(Sink(tokenizer), tokenizer, config, without)


def test_a_parent_that_other_texts_disturb_is_refused(config, tokenizer):
    with pytest.raises(DataError, match=r"and 1\.\d+ in the streams .*longer than data.sequence_length"):
        check_streams(Sink(tokenizer, crowded=1.5), tokenizer, config, tokenize(config, tokenizer)["heldout"])


def test_a_real_parent_without_a_prefix_passes(config, tokenizer, make_parent):
    plain = copy.deepcopy(tokenizer)
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    streams = tokenize(config, plain)
    assert streams["heldout"].prefix == ()
    parent = make_parent("llama", vocab_size=len(plain))
    used, streamed = check_streams(parent, plain, config, streams["heldout"])
    assert streamed == pytest.approx(used, rel=0.05)


def test_too_few_documents_or_none_any_more_are_not_compared(config, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "hf_puzzle")
    heldout = tokenize(config, tokenizer)["heldout"]
    assert check_streams(Sink(tokenizer), tokenizer, config, heldout[:70]) is None
    assert "too few to compare" in caplog.messages[-1]
    gone = DataConfig(name="text", data_files=[str(tmp_path / "gone*")])
    assert check_streams(Sink(tokenizer), tokenizer, gone, heldout) is None
    assert "not compared" in caplog.messages[-1]
