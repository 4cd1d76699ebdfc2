"""Documents in, tokens out: what is held out stays out, and every token is used once."""

import dataclasses
import functools
import itertools
import json
import sysconfig
from pathlib import Path

import pytest
import torch

from hf_puzzle import data
from hf_puzzle.data import (
    DataError,
    Documents,
    TokenBlocks,
    is_heldout,
    sequences,
    tokenize,
    tokenize_to,
    train_tokenizer,
)
from hf_puzzle.recipe import DataConfig


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Forty documents, each of words that no other document has."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        (folder / f"d{i:02d}.txt").write_text(" ".join(f"w{i}x{j}" for j in range(60)), encoding="utf-8")
    return folder


def config_for(folder, **overrides):
    settings = {"sequence_length": 16, "num_tokens": 10**6, "heldout_tokens": 10**6, "heldout_fraction": 0.3}
    return DataConfig(name="text", data_files=[str(folder / "*.txt")], **(settings | overrides))


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(config_for(corpus), 400)


def test_text_files_come_in_one_order_and_once(corpus, tmp_path):
    config = config_for(corpus)
    rows = list(Documents(config))
    assert rows == list(Documents(config))
    assert sorted(name for name, _ in rows) == [f"d{i:02d}.txt" for i in range(40)]
    assert [name for name, _ in rows] != sorted(name for name, _ in rows)
    twice = DataConfig(name="text", data_files=[*config.data_files, str(corpus.parent / "**" / "d0*.txt")])
    assert sorted(Documents(twice)) == sorted(rows)


def test_duplicates_blanks_and_undecodable_files_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("the same")
    (tmp_path / "b.txt").write_text("the same")
    (tmp_path / "c.txt").write_text(" \n ")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "e.txt").mkdir()
    assert [text for _, text in Documents(config_for(tmp_path))] == ["the same"]


def test_files_of_nowhere_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"data_files .*nothing.* match no file"):
        list(Documents(DataConfig(name="text", data_files=[str(tmp_path / "nothing*")])))


def test_python_stdlib_has_documents(monkeypatch):
    root = Path(json.__file__).parent
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(root)})  # one package: the whole takes seconds
    rows = dict(Documents(DataConfig(name="python-stdlib")))
    assert rows == {path.name: path.read_text() for path in root.glob("*.py")}
    assert "decoder.py" in rows


def test_split_is_stable_and_of_the_right_size():
    ids = [f"document {i}" for i in range(4000)]
    held = {name for name in ids if is_heldout(name, 0.2)}
    assert abs(len(held) / len(ids) - 0.2) < 0.03
    assert held <= {name for name in ids if is_heldout(name, 0.4)}  # a larger share only adds
    assert [is_heldout(ids[0], share) for share in (0.0, 1.0)] == [False, True]


def test_documents_are_wholly_on_one_side(corpus, tokenizer):
    config = config_for(corpus)
    streams = tokenize(config, tokenizer)
    found = {side: tokenizer.decode(stream).split("<|endoftext|>") for side, stream in streams.items()}
    for side, texts in found.items():
        wanted = [t for name, t in Documents(config) if is_heldout(name, 0.3) == (side == "heldout")]
        assert texts == [*wanted, ""]  # every document whole, each followed by the separator
        assert streams[side].dtype == torch.int32
    assert not set(found["train"][:-1]) & set(found["heldout"][:-1])


def test_more_documents_leave_the_split_of_the_others(corpus, tokenizer, tmp_path):
    for path in sorted(corpus.glob("*.txt"))[:30]:
        (tmp_path / path.name).write_text(path.read_text())
    sides = []
    for folder in (tmp_path, corpus):
        text = tokenizer.decode(tokenize(config_for(folder), tokenizer)["heldout"])
        sides.append(set(text.split("<|endoftext|>")[:-1]))
    assert sides[0] < sides[1]


def test_streams_are_cut_to_what_was_asked_for(corpus, tokenizer):
    config = config_for(corpus)
    full = tokenize(config, tokenizer)
    part = tokenize(config_for(corpus, num_tokens=100, heldout_tokens=50), tokenizer)
    assert torch.equal(part["train"], full["train"][:100])
    assert torch.equal(part["heldout"], full["heldout"][:50])


def test_too_little_text_says_by_how_much(corpus, tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"\d+ train tokens, at least 200000 needed"):
        tokenize(config_for(corpus, sequence_length=100_000), tokenizer)
    with pytest.raises(DataError, match="0 heldout tokens, at least 32 needed"):
        tokenize(config_for(corpus, heldout_fraction=0.0), tokenizer)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="0 train tokens"):
        tokenize(config_for(tmp_path), tokenizer)


def test_a_tokenizer_without_a_separator_is_refused(corpus):
    class Bare:
        eos_token_id = bos_token_id = None

    with pytest.raises(DataError, match="neither an end-of-text nor a begin-of-text"):
        tokenize(config_for(corpus), Bare())


def test_begin_of_text_separates_where_there_is_no_end(corpus, tokenizer):
    class Begin:
        eos_token_id, bos_token_id = None, 399

        def __call__(self, texts, add_special_tokens):
            return tokenizer(texts, add_special_tokens=add_special_tokens)

    streams = tokenize(config_for(corpus), Begin())
    assert sum((stream == 399).sum().item() for stream in streams.values()) == 40


@pytest.mark.parametrize("text", ["w1x2 w3x4", "Straße, naïve\n\tdef f(x): return 'ü'", "🙂 日本語", " leading", ""])
def test_tokenizer_round_trips_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_tokenizer_is_trained_on_training_documents_only(corpus, tokenizer):
    config = config_for(corpus)
    assert train_tokenizer(config, 400).get_vocab() == tokenizer.get_vocab()
    everything_held = config_for(corpus, heldout_fraction=1.0)
    assert len(train_tokenizer(everything_held, 400)) == 257  # bytes and the separator: nothing was learnt
    assert len(tokenizer) > 257


def test_token_blocks_partition_the_stream():
    stream = torch.arange(103, dtype=torch.int32)
    for seed in (None, 0, 5):
        blocks = TokenBlocks(stream, 10, seed)
        rows = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
        assert rows.dtype == torch.int64
        assert torch.equal(rows, blocks.tensor())
        assert torch.equal(rows[rows[:, 0].argsort()], torch.arange(100).view(10, 10))
    assert torch.equal(TokenBlocks(stream, 10).tensor(), torch.arange(100).view(10, 10))
    assert len(TokenBlocks(stream, 10, limit=3)) == 3


def test_sequences_depend_on_the_seed_alone(tokens):
    first = sequences(tokens["train"], 16, 400, seed=1)
    assert first.shape == (25, 16)
    assert torch.equal(first, sequences(tokens["train"], 16, 400, seed=1))
    assert not torch.equal(first, sequences(tokens["train"], 16, 400, seed=2))
    assert torch.equal(first[:10], sequences(tokens["train"], 16, 160, seed=1))  # fewer tokens: the same, cut
    assert sequences(tokens["train"], 16, 3, seed=1).shape == (1, 16)
    with pytest.raises(DataError, match="15 tokens do not fill one sequence of 16"):
        sequences(tokens["train"][:15], 16, 16, seed=0)


@pytest.fixture(params=["text", "hub"])
def streamed(request, corpus, tmp_path, monkeypatch):
    """A corpus of local files, and one that `datasets` streams from four files."""
    if request.param == "text":
        return config_for(corpus)
    import datasets

    texts = [path.read_text() for path in sorted(corpus.glob("*.txt"))]
    for i in range(4):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts[i::4])
        (tmp_path / f"{i}.jsonl").write_text(rows)
    real, files = datasets.load_dataset, [str(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config_name, split, revision, streaming: real(
            "json", data_files=files, split=split, streaming=streaming
        ),
    )
    return dataclasses.replace(config_for(corpus), name="somebody/corpus")


@pytest.mark.parametrize("count", [1, 9, 10, 11, 39, 40])
def test_a_reader_is_taken_up_where_it_was(streamed, count):
    every = list(Documents(streamed))
    assert len(every) == 40
    first = Documents(streamed)
    given = list(itertools.islice(first, count))
    state = json.loads(json.dumps(first.state()))
    assert given + list(Documents(streamed, state)) == every


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_killed_tokenization_continues_and_writes_the_same_file(streamed, tokenizer, tmp_path, monkeypatch, batches):
    monkeypatch.setattr(data, "_batches", functools.partial(data._batches, batch_size=3))
    monkeypatch.setattr(data._Streams, "EVERY", 100)
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    tokenize_to(whole, streamed, tokenizer)
    calls = []

    def dying(texts, **options):
        calls.append(len(texts))
        if len(calls) > batches:
            raise KeyboardInterrupt
        return tokenizer(texts, **options)

    dying.eos_token_id = tokenizer.eos_token_id
    with pytest.raises(KeyboardInterrupt):
        tokenize_to(killed, streamed, dying)
    for file in tmp_path.glob("killed.parts/*.int32"):  # and tokens behind the last position had been written
        with open(file, "ab") as tail:
            tail.write(b"\1\2\3")
    again = []

    def counting(texts, **options):
        again.append(len(texts))
        return tokenizer(texts, **options)

    counting.eos_token_id = tokenizer.eos_token_id
    tokenize_to(killed, streamed, counting)
    assert sum(again) < 40  # what was tokenized before the kill is not tokenized again
    assert killed.read_bytes() == whole.read_bytes()


def test_what_is_left_of_the_parts_does_not_stop_a_rerun(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(data._Streams, "EVERY", 100)
    path = tmp_path / "tokens.safetensors"
    tokenize_to(path, config_for(corpus), tokenizer)
    expected = path.read_bytes()
    (path.with_suffix(".parts") / "train.int32").unlink()  # killed while the folder was deleted
    tokenize_to(path, config_for(corpus), tokenizer)
    assert path.read_bytes() == expected


def test_a_position_that_a_disk_lost_starts_afresh(corpus, tokenizer, tmp_path):
    config, path = config_for(corpus), tmp_path / "tokens.safetensors"
    tokenize_to(path, config, tokenizer)
    expected = path.read_bytes()
    parts = path.with_suffix(".parts")
    (parts / "state.json").write_text('{"tokens": {"train": 50, "heldout": 7}, "reader": {"docum')
    (parts / "train.int32").write_bytes(b"rubbish")
    tokenize_to(path, config, tokenizer)
    assert path.read_bytes() == expected
