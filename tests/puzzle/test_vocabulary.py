"""Fewer tokens: every text still encodes, the model is the parent's on what is left, and a run counts text."""

import copy
import json
import shutil
from collections import Counter

import pytest
import torch
from tiny_run import steady_clock, write_recipes
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_puzzle import artifacts
from hf_puzzle.cards import write_card
from hf_puzzle.cli import main
from hf_puzzle.data import train_tokenizer
from hf_puzzle.puzzle.bench import OWN, PARENT, Bench
from hf_puzzle.puzzle.parent import train_parent
from hf_puzzle.puzzle.pipeline import PuzzleRun, load_run
from hf_puzzle.puzzle.plan import plan
from hf_puzzle.puzzle.vocabulary import (
    VocabularyError,
    bits_per_byte,
    check_vocabulary,
    chosen,
    counted,
    kept_tokens,
    read_trimmed,
    spec_of,
    trim_model,
    trim_tokenizer,
)
from hf_puzzle.recipe import CostConfig, DataConfig, RecipeError, load_recipe


TEXTS = ["def forward(self, states):\n    return states", "naïve café — 你好 \U0001f600", "\x00\x07 \t\r\n", "x" * 60]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return DataConfig(name="python-stdlib", num_tokens=20_000, heldout_tokens=5_000, heldout_fraction=0.3)


@pytest.fixture(scope="module")
def tokenizer(text):
    made = train_tokenizer(text, 600, 40)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", made.eos_token_id)]
    )
    made.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return made


@pytest.fixture(scope="module")
def kept(text, tokenizer):
    return kept_tokens(spec_of(tokenizer), counted(text, tokenizer), 400)


def test_every_text_still_encodes(tokenizer, kept):
    after = trim_tokenizer(tokenizer, kept)
    assert len(after) == len(kept) == 400
    names = tokenizer.convert_ids_to_tokens(kept)
    assert after.convert_ids_to_tokens(range(400)) == names
    for sample in TEXTS:
        ids = after(sample)["input_ids"]
        assert after.decode(ids, skip_special_tokens=True) == sample
        # the same tokens in the parent's numbers stand for the same text
        assert tokenizer.decode([kept[i] for i in ids], skip_special_tokens=True) == sample
        assert ids[0] == after.eos_token_id == kept.index(tokenizer.eos_token_id)
    assert after.chat_template == tokenizer.chat_template


def test_the_most_used_tokens_stay_with_what_they_are_merged_of(tokenizer):
    spec = spec_of(tokenizer)
    vocab = spec["model"]["vocab"]
    deep = max(vocab, key=len)
    must = {*pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"}
    left = {tokenizer.convert_ids_to_tokens(i) for i in kept_tokens(spec, Counter({vocab[deep]: 5}), 300)}
    assert left >= must | {deep}
    after = trim_tokenizer(tokenizer, kept_tokens(spec, Counter({vocab[deep]: 5}), 300))
    word = tokenizer.convert_tokens_to_string([deep])
    assert after.tokenize(word) == tokenizer.tokenize(word) == [deep]


def test_all_tokens_are_the_same_tokenizer(tokenizer):
    every = list(range(len(tokenizer)))
    assert kept_tokens(spec_of(tokenizer), Counter(), len(tokenizer)) == every
    assert json.loads(trim_tokenizer(tokenizer, every).backend_tokenizer.to_str()) == spec_of(tokenizer)


def test_a_saved_tokenizer_reads_the_same(tokenizer, kept, tmp_path):
    after = trim_tokenizer(tokenizer, kept)
    after.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(t)["input_ids"] for t in TEXTS] == [after(t)["input_ids"] for t in TEXTS]
    assert again.eos_token_id == after.eos_token_id


def test_what_cannot_be_trimmed_is_refused_by_name(tokenizer):
    with pytest.raises(VocabularyError, match="100 is too few: bytes and special tokens alone are 257"):
        kept_tokens(spec_of(tokenizer), Counter(), 100)
    pieces = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram([("a", 0.0)])))
    with pytest.raises(VocabularyError, match="Unigram is not trimmed"):
        spec_of(pieces)
    letters = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])))
    with pytest.raises(VocabularyError, match="knows no bytes"):
        spec_of(letters)
    with pytest.raises(RecipeError, match="a parent in memory keeps its tokens"):
        check_vocabulary(300, DataConfig(name="text"), True)
    with pytest.raises(RecipeError, match="not by decisions or chats"):
        check_vocabulary(300, DataConfig(name="self"), False)


def test_bytes_of_a_bpe_that_falls_back_to_them_stay():
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "é", "ab", "▁ab"]
    vocab = {name: number for number, name in enumerate(names)}
    model = models.BPE(vocab, [("a", "b"), ("▁", "ab")], unk_token="<unk>", byte_fallback=True)
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    left = kept_tokens(spec_of(made), Counter({vocab["ab"]: 3}), 261)
    assert [names[i] for i in left if i > 256] == ["▁", "a", "b", "ab"]
    after = trim_tokenizer(made, left)
    assert after.tokenize("é") == ["<0xC3>", "<0xA9>"]


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_parents_without_the_other_tokens(make_parent, tied):
    parent = make_parent(tie_word_embeddings=tied)
    kept = sorted({0, 1, 2, *range(40, 200, 3)})
    trimmed = trim_model(copy.deepcopy(parent), kept)
    assert trimmed.config.vocab_size == trimmed.get_output_embeddings().out_features == len(kept)
    assert (trimmed.lm_head.weight is trimmed.get_input_embeddings().weight) is tied
    tokens = torch.randint(0, len(kept), (2, 9))
    expected = parent(torch.tensor(kept)[tokens]).logits[..., kept]
    assert torch.equal(trimmed(tokens).logits, expected)


def test_special_tokens_are_renumbered(make_parent):
    parent = copy.deepcopy(make_parent())
    parent.generation_config.eos_token_id, parent.generation_config.suppress_tokens = [2, 90], [5, 90]
    trimmed = trim_model(parent, [1, 2, 90, 91])
    assert (trimmed.config.bos_token_id, trimmed.config.eos_token_id, trimmed.config.pad_token_id) == (0, 1, None)
    assert trimmed.generation_config.eos_token_id == [1, 2]
    assert trimmed.generation_config.suppress_tokens == [2]


def test_bits_per_byte_are_the_loss_of_texts(make_parent, tokenizer):
    parent = make_parent(vocab_size=len(tokenizer), pad_token_id=None)
    texts, nats = ["def f():", "return a + b"], 0.0
    for each in texts:
        ids = torch.tensor([[7, *tokenizer(each, add_special_tokens=False)["input_ids"]]])
        nats += parent(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    found = bits_per_byte(parent, tokenizer, texts, 7)
    assert found == pytest.approx(nats / 0.6931472 / sum(map(len, texts)), rel=1e-4)


def test_the_parent_with_all_its_tokens_is_timed_and_takes_less_for_the_same_text(make_parent, monkeypatch):
    from hf_puzzle import costs
    from hf_puzzle.costs import Timing

    monkeypatch.setattr(costs, "time_generation", lambda model, *_: Timing(1.0, float(model.config.vocab_size)))
    full = make_parent().config
    trimmed = trim_model(copy.deepcopy(make_parent()), list(range(100)))
    bench = Bench(trimmed, CostConfig(dtype="float32", threads=1), "decilm", original=(full, 0.5))
    timings = bench.timings({"child": bench.own}, 1, 1)
    assert {name: each[0].decode_ms for name, each in timings.items()} == {PARENT: 128.0, OWN: 128.0, "child": 100.0}
    assert timings[PARENT][0].prefill_ms == 0.5


# -- runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The parent beside its recipe, and a run that leaves it 280 of its 300 tokens."""
    folder = write_recipes(tmp_path_factory.mktemp("vocabulary"))
    with pytest.MonkeyPatch.context() as patch:
        steady_clock(patch)
        train_parent(load_recipe(folder / "tiny_parent.yaml"), folder / "tiny_parent")
        assert run_of(folder, "trimmed", "vocabulary.size=280", "constraints={speedup: 1.2}") == 0
    return folder


def run_of(folder, name, *more):
    changes = [a for s in ("baselines.names=[]", *more) for a in ("--set", s)]
    return main(["run", str(folder / "tiny.yaml"), "--out", str(folder / name), *changes])


def test_a_child_with_fewer_tokens_is_an_ordinary_folder(folder):
    run = load_run(folder / "trimmed", recipe_dir=folder)
    assert run.config.vocab_size == run.load_child("distilled").config.vocab_size == 280
    tokenizer = AutoTokenizer.from_pretrained(folder / "trimmed/distilled")
    original = AutoTokenizer.from_pretrained(run.source.original_path)
    assert (len(tokenizer), len(original)) == (280, 300)
    for sample in TEXTS:
        assert tokenizer.decode(tokenizer(sample)["input_ids"]) == sample
    parent = AutoModelForCausalLM.from_pretrained(folder / "trimmed/parent", dtype=torch.float32)
    full, kept = run.source.original, read_trimmed(folder / "trimmed/vocabulary.json").kept
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    assert torch.allclose(parent(ids).logits, full(torch.tensor(kept)[ids]).logits[..., kept], atol=1e-6)
    provenance = artifacts.read_json(folder / "trimmed/distilled/puzzle.json")
    assert provenance["recipe"]["vocabulary"] == {"size": 280}


def test_its_report_compares_texts(folder):
    evaluation = artifacts.read_json(folder / "trimmed/eval.json")
    found, memory = evaluation["vocabulary"], evaluation["memory"]
    assert (found["size"], found["parent_size"]) == (280, 300)
    assert found["parent_tokens"] <= found["tokens"] <= found["text_bytes"]
    assert all(bits > 0 for bits in found["bits_per_byte"].values())
    run = load_run(folder / "trimmed", recipe_dir=folder)
    assert memory["parent"]["num_parameters"] == run.source.original.num_parameters()
    assert memory["child"]["num_parameters"] == run.load_child("distilled").num_parameters()
    report = (folder / "trimmed/report.md").read_text()
    assert "| tokens of the vocabulary | 300 | 280 | 93.3% |" in report
    assert "bits per byte of text, each with its tokens" in report


def test_its_card_names_both_vocabularies(folder, tmp_path):
    shutil.copytree(folder / "trimmed/distilled", tmp_path / "staged")
    write_card(tmp_path / "staged", folder / "trimmed", "me/x")
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "| tokens of the vocabulary | 300 | 280 | |" in card
    bits = artifacts.read_json(folder / "trimmed/eval.json")["vocabulary"]["bits_per_byte"]["distilled"]
    assert f"| {bits:.4f} |" in card


def test_all_tokens_are_the_same_run(folder, monkeypatch):
    steady_clock(monkeypatch)
    assert run_of(folder, "plain") == 0
    assert run_of(folder, "all", "vocabulary.size=300") == 0
    for name in ("child", "distilled"):
        one, two = (artifacts.read_tensors(folder / f"{run}/{name}/model.safetensors") for run in ("plain", "all"))
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())


def test_plans_know_the_size_before_it_is_made(folder, tmp_path):
    def made(*changes):
        return plan(load_recipe(folder / "tiny.yaml", list(changes)), folder, "l4")

    whole, fewer = made(), made("vocabulary.size=280")
    assert whole.parent_parameters - fewer.parent_parameters == 20 * 32
    assert fewer.stages[0].stage == "parent"
    shapes = load_recipe(folder / "tiny.yaml", ["vocabulary.size=20000", "constraints={speedup: 2.0}"])
    named = plan(shapes, folder, "l4", parent="qwen3-0.6b")
    assert (
        named.parent_parameters
        == plan(
            load_recipe(folder / "tiny.yaml", ["constraints={speedup: 2.0}"]), folder, "l4", parent="qwen3-0.6b"
        ).parent_parameters
        - (151_936 - 20_000) * 1024
    )


def test_a_parent_that_the_run_makes_is_refused(tmp_path):
    folder = write_recipes(tmp_path)
    recipe = load_recipe(folder / "tiny.yaml", ["vocabulary.size=280"])
    with pytest.raises(RecipeError, match="vocabulary.size: the run makes this parent itself"):
        PuzzleRun(recipe, tmp_path / "run", folder)


def test_what_is_chosen_is_stored(text, tokenizer):
    found = chosen(text, tokenizer, len(tokenizer), 400)
    assert len(found.kept) == 400
    assert 0 < found.share < 1
    assert found.text_bytes > found.tokens > found.parent_tokens
