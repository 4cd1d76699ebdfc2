"""Several corpora as one, by their shares; what a mixture refuses."""

import itertools
import json

import pytest

from hf_puzzle.corpora import DataError, Mixture, first_document, open_corpus, reads_self, with_files_of_self
from hf_puzzle.data import tokenize, train_tokenizer
from hf_puzzle.recipe import DataConfig, RecipeError, SourceConfig, parse_as


def make_files(folder, name, count, words):
    (folder / name).mkdir(parents=True)
    for i in range(count):
        (folder / name / f"{i:03d}.txt").write_text(" ".join([f"{name}{i}"] * words))
    return SourceConfig(name="text", data_files=[str(folder / name / "*.txt")])


@pytest.fixture
def sources(tmp_path):
    """120 long and 400 short documents, three quarters of the text and a quarter."""
    long, short = make_files(tmp_path, "long", 120, 40), make_files(tmp_path, "short", 400, 8)
    return [SourceConfig(**{**vars(long), "weight": 3.0}), short]


def test_each_source_gives_its_share_of_the_characters(sources):
    taken = list(itertools.islice(Mixture(sources), 200))
    lengths = {kind: sum(len(text) for name, text in taken if text.startswith(kind)) for kind in ("long", "short")}
    longest = max(len(text) for _, text in taken)
    assert abs(lengths["long"] - 3 * lengths["short"]) <= 4 * longest


def test_a_source_without_more_documents_leaves_the_rest_to_the_others(sources, caplog):
    taken = list(Mixture(sources))
    assert len(taken) == len({name + text for name, text in taken}) == 520
    assert [r.getMessage() for r in caplog.records if "no more documents" in r.getMessage()]


@pytest.mark.parametrize("count", [0, 1, 77])
def test_a_mixture_is_taken_up_where_it_was(sources, count):
    whole = list(Mixture(sources))
    first = Mixture(sources)
    begun = list(itertools.islice(first, count))
    state = json.loads(json.dumps(first.state()))
    assert begun + list(Mixture(sources, state)) == whole


def test_streams_of_texts_and_chats_end_each_document_once(tmp_path, sources):
    chats = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"what {i}"}, {"role": "assistant", "content": "that"}]} for i in range(200)]  # fmt: skip
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = DataConfig(
        name="mixture", sources=[sources[0], SourceConfig(name="self")], sequence_length=16, num_tokens=20_000,
        heldout_tokens=5_000, heldout_fraction=0.3,
    )  # fmt: skip
    assert reads_self(mixed)
    config = with_files_of_self(mixed, chats)
    assert not reads_self(config)
    tokenizer = train_tokenizer(DataConfig(**{**vars(config), "name": "text", "data_files": sources[0].data_files, "sources": []}), 400)  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|turn|>' + m['role'] + ' ' + m['content'] + '<|endoftext|>' }}{% endfor %}"
    )
    train = tokenize(config, tokenizer)["train"]
    end, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|turn|>")
    stream = train.tolist()
    assert not any(a == b == end for a, b in itertools.pairwise(stream))
    for start in train.documents.tolist()[1:]:
        assert stream[start - 1] == end
    assert {stream[s] == turn for s in train.documents.tolist()} == {True, False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mixture"}, "name its corpora"),
        ({"name": "text", "data_files": ["x"], "sources": [SourceConfig(name="python-stdlib")]}, "name: mixture"),
        ({"name": "mixture", "sources": [SourceConfig(name="mixture")]}, "within a mixture"),
        ({"name": "mixture", "sources": [SourceConfig(name="text", data_files=["nowhere/*.txt"])]}, "match no file"),
        ({"name": "self"}, "Puzzle run"),
        ({"name": "python-stdlib", "prompts": ["x.txt"]}, "name: self"),
    ],
)
def test_what_is_no_mixture_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        first_document(DataConfig(**changes))
    with pytest.raises(DataError, match=message):
        list(open_corpus(DataConfig(**changes)))


def test_weights_are_above_zero():
    with pytest.raises(RecipeError, match="weight"):
        parse_as(DataConfig, {"name": "mixture", "sources": [{"name": "self", "weight": 0.0}]}, "data")
