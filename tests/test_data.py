"""Documents in, tokens out: what is held out stays out, and every token is used once."""

import copy
import dataclasses
import functools
import itertools
import json
import sysconfig
from pathlib import Path

import pytest
import torch
from tokenizers import processors

from hf_puzzle import data
from hf_puzzle.corpora import DataError, Documents, first_document, is_heldout, reserved_chats
from hf_puzzle.data import (
    Marks,
    TokenBlocks,
    TokenStream,
    answers_of,
    as_used,
    cut,
    end_tokens,
    marks_of,
    packed,
    read_streams,
    sequences,
    tokenize,
    tokenize_to,
    train_tokenizer,
    write_streams,
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
    twice = DataConfig(name="text", data_files=[*config.data_files, str(corpus / "**" / "d0*.txt")])
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


# -- streams look like inference


def with_marks(tokenizer, single, bos="<s>", **special):
    """A copy of the tokenizer that puts the special tokens of `single` around a text."""
    marked = copy.deepcopy(tokenizer)
    names = [name for name in single.split() if name != "$A"]
    marked.add_special_tokens({"bos_token": bos, **special, "additional_special_tokens": sorted({*names} - {bos})})
    ids = [(name, marked.convert_tokens_to_ids(name)) for name in {*names}]
    marked.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return marked


CHAT = "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|over|>{% endfor %}"


@pytest.fixture(scope="module")
def begins(tokenizer):
    """A tokenizer that puts <s> in front of a text."""
    return with_marks(tokenizer, "<s> $A")


def text_of(rows, prefix):
    return [row[len(prefix) :].tolist() for row in rows]


@pytest.mark.parametrize("single", ["<s> $A", "<m> <s> $A", "<s> $A <|endoftext|>"])
def test_documents_and_sequences_begin_as_a_prompt_does(corpus, tokenizer, single):
    marked = with_marks(tokenizer, single)
    config = config_for(corpus)
    streams = tokenize(config, marked)
    prefix = tuple(marked("w1")["input_ids"][: single.split().index("$A")])
    wanted = {"train": [], "heldout": []}
    for name, text in Documents(config):
        side = "heldout" if is_heldout(name, 0.3) else "train"
        ids = marked(text)["input_ids"]  # as a user has them
        wanted[side] += ids if single.endswith("<|endoftext|>") else [*ids, marked.eos_token_id]
    for side, stream in streams.items():
        assert stream.tolist() == wanted[side]
        assert stream.prefix == stream[len(stream) // 3 :].prefix == prefix
        assert stream.given == prefix
        rows = TokenBlocks(stream, 16).tensor()
        assert torch.equal(rows[:, : len(prefix)], torch.tensor(prefix).expand(len(rows), -1))
        doubled = rows.unfold(1, 2 * len(prefix), 1) == torch.tensor(prefix * 2)
        assert not doubled.all(-1).any()
        # without the special tokens, the sequences are the text: nothing is lost, nothing comes twice
        marks = {*prefix, marked.eos_token_id}
        text = [t for row in rows.tolist() for t in row if t not in marks]
        assert text == [t for t in stream.tolist() if t not in marks][: len(text)]
        assert len(text) > len(stream) - 16 - (len(stream) // 16) - 3 * (stream == prefix[0]).sum()
        assert torch.equal(sequences(stream, 16, 32, 0)[:, : len(prefix)], torch.tensor(prefix).expand(2, -1))


def test_a_sequence_never_has_part_of_a_prefix_at_its_start():
    stream = TokenStream.of(torch.tensor([8, 9, 1, 2, 3, 0, 8, 9, 4, 5, 6, 7]), (8, 9), 0)
    rows = [cut(stream, start, 5) for start in range(8)]
    assert [row.tolist() for row, _ in rows] == [
        [8, 9, 1, 2, 3], [8, 9, 1, 2, 3], [8, 9, 1, 2, 3], [8, 9, 2, 3, 0], [8, 9, 3, 0, 8],
        [8, 9, 4, 5, 6], [8, 9, 4, 5, 6], [8, 9, 4, 5, 6],
    ]  # fmt: skip
    assert [stop for _, stop in rows] == [5, 5, 5, 6, 7, 11, 11, 11]
    with pytest.raises(DataError, match="sequence_length 2 has no room behind the 2 tokens"):
        TokenBlocks(stream, 2)


def test_tokenizers_that_add_nothing_leave_plain_streams(corpus, tokenizer, begins, tmp_path):
    streams = tokenize(config_for(corpus), tokenizer)
    texts = [text for name, text in Documents(config_for(corpus)) if is_heldout(name, 0.3)]
    plain = [t for text in texts for t in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert streams["heldout"].tolist() == plain
    rows = TokenBlocks(streams["heldout"], 16, seed=3)
    views = torch.tensor(plain)[: len(rows) * 16].view(-1, 16)
    assert torch.equal(rows.tensor(), views[torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))])
    assert streams["train"].given == ()
    silenced = copy.deepcopy(begins)  # as add_bos_token: false leaves it: prompts have none either
    silenced.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert marks_of(silenced) == Marks((), tokenizer.eos_token_id, True)


def test_a_token_that_begins_texts_and_separates_them_is_not_doubled(corpus, tokenizer):
    marked = with_marks(tokenizer, "<|endoftext|> $A", bos="<|endoftext|>")
    stream = tokenize(config_for(corpus), marked)["heldout"]
    ids = [marked(text)["input_ids"] for name, text in Documents(config_for(corpus)) if is_heldout(name, 0.3)]
    assert stream.tolist() == sum(ids, [])
    assert stream.given == ()  # to end a text is predicted
    assert (TokenBlocks(stream, 16).tensor()[:, 0] == marked.bos_token_id).all()


def test_documents_do_not_end_with_the_end_of_a_turn(tokenizer):
    chat = with_marks(tokenizer, "<s> $A", eos_token="<|over|>")
    over, end = chat.eos_token_id, chat.convert_tokens_to_ids("<|endoftext|>")
    assert marks_of(chat, [end, over]).separator == over  # no template: a base model's eos ends texts
    chat.chat_template = CHAT
    assert marks_of(chat, [over, 10**6, end]).separator == end
    assert marks_of(chat).separator == over  # the only one that is known
    chat.chat_template = {"default": CHAT, "tools": CHAT}
    assert marks_of(chat, [end]).separator == end

    class Generation:
        eos_token_id = [7, 5]

    class Config:
        eos_token_id = 5

    assert end_tokens(None, Generation, Config) == [7, 5]
    assert end_tokens(Config, None) == [5]


def test_a_tokenizer_whose_special_tokens_change_the_text_is_refused(tokenizer):
    class Odd:
        eos_token_id = 3

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [1, 7, 8] if add_special_tokens else [6]}

    with pytest.raises(DataError, match=r"makes \[1, 7, 8\] of 'abc', and \[6\] without"):
        marks_of(Odd())


def test_streams_keep_their_prefix_in_the_file(tmp_path):
    streams = {name: TokenStream.of(torch.arange(n, dtype=torch.int32), (4, 5), 2) for name, n in (("a", 9), ("b", 7))}
    write_streams(tmp_path / "marked", streams)
    write_streams(tmp_path / "plain", {"a": torch.arange(3)})
    found = read_streams(tmp_path / "marked")
    assert [(s.prefix, s.separator, s.given) for s in found.values()] == [((4, 5), 2, (4, 5))] * 2
    assert torch.equal(found["b"], streams["b"])
    assert read_streams(tmp_path / "plain")["a"].prefix == ()
    own = torch.arange(3)
    assert TokenStream.of(own, (1,))[1:].prefix == (1,)
    assert type(own) is torch.Tensor


# -- rows that are no text


def rows_of(folder, rows, **settings):
    """A configuration of a dataset whose rows are written to a file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"sequence_length": 8, "heldout_fraction": 0.5} | settings
    return DataConfig(name="json", data_files=[str(path)], **options)


def test_rows_without_text_are_skipped_and_counted_once(corpus, tokenizer, tmp_path, caplog):
    texts = [path.read_text() for path in sorted(corpus.glob("*.txt"))]
    config = rows_of(tmp_path, [{"text": t} for t in [None, *texts[:20], "", None, *texts[20:], " \n"]])
    assert [text for _, text in Documents(config)] == texts
    assert [r.getMessage() for r in caplog.records] == ["json: 4 rows without text in column text were skipped"]
    caplog.clear()
    streams = tokenize(config, tokenizer)
    assert sum((s == tokenizer.eos_token_id).sum().item() for s in streams.values()) == len(texts)
    assert sum("4 rows without text" in r.getMessage() for r in caplog.records) == 1
    half = Documents(config)
    assert len(list(itertools.islice(half, 30))) == 30
    again = Documents(config, json.loads(json.dumps(half.state())))
    assert len(list(again)) == 10
    assert sum("4 rows without text" in r.getMessage() for r in caplog.records) == 2  # of the whole corpus
    with pytest.raises(DataError, match="'text': the first 1000 rows have no text"):
        list(Documents(rows_of(tmp_path, [{"text": None, "other": "a"}] * 1001)))


def chats(count=40):
    return [
        [{"role": "user", "content": f"w{i}x1 w{i}x2"}, {"role": "assistant", "content": f"w{i}x{i} w{i}x3"}]
        for i in range(count)
    ]


@pytest.mark.parametrize("prefix", [(), (1,), (1, 5)])
def test_positions_begin_again_with_each_document(prefix):
    lengths = [3, 9, 1, 30, 4, 4, 17]
    pieces = [[*prefix, *range(10 * i, 10 * i + length), 2] for i, length in enumerate(lengths, 1)]
    starts = torch.tensor([0, *(len(piece) for piece in pieces[:-1])]).cumsum(0)
    stream = TokenStream.of(torch.tensor(sum(pieces, []), dtype=torch.int32), prefix, 2, starts)
    place = torch.cat([torch.arange(len(piece)) for piece in pieces])
    blocks = TokenBlocks(stream, 11, positions=True)
    for i, begin in enumerate(blocks.starts):
        row, stop = data.cut(stream, begin, 11)
        found = blocks[i]["position_ids"].tolist()
        text = place[stop - 11 + len(prefix) : stop].tolist()
        # of documents that begin in the sequence, the place in them; before, the place in the sequence
        first = next((k for k, p in enumerate(text) if p == 0 and k), len(text))
        assert found[: len(prefix) + first] == list(range(len(prefix) + first))
        assert found[len(prefix) + first :] == text[first:]
    assert sum(len(blocks[i]["position_ids"]) for i in range(len(blocks))) == 11 * len(blocks)
    assert "position_ids" not in TokenBlocks(stream, 11)[0]
    with pytest.raises(DataError, match="does not say where its documents begin"):
        TokenBlocks(torch.arange(40), 11, positions=True)


def test_about_half_of_the_heldout_chats_are_in_no_stream(tokenizer, tmp_path):
    talking = copy.deepcopy(tokenizer)
    talking.chat_template = CHAT
    config = rows_of(tmp_path, [{"messages": chat} for chat in chats(400)], text_column="messages")
    kept_out, heldout = list(reserved_chats(config)), [c for name, c in Documents(config) if is_heldout(name, config.heldout_fraction)]  # fmt: skip
    assert all(chat in heldout for chat in kept_out)
    assert 0.35 < len(kept_out) / len(heldout) < 0.65
    streams = tokenize(config, talking)
    said = {side: talking.decode(stream.tolist()) for side, stream in streams.items()}
    for chat in chats(400):
        places = [side for side, text in said.items() if f"{chat[0]['content']}" in text]
        expected = [] if chat in kept_out else ["heldout"] if chat in heldout else ["train"]
        assert places == expected


def test_texts_are_all_in_a_stream(tmp_path):
    config = rows_of(tmp_path, [{"text": f"text {i}"} for i in range(50)])
    assert not list(reserved_chats(config))


def test_chats_go_through_the_template_as_in_inference(begins, tokenizer, tmp_path):
    config = rows_of(tmp_path, [{"messages": chat, "id": i} for i, chat in enumerate(chats())], text_column="messages")
    talking = copy.deepcopy(begins)
    talking.chat_template = CHAT
    streams = tokenize(config, talking)
    kept_out = list(reserved_chats(config))
    rendered = [talking.apply_chat_template(chat, return_dict=False) for chat in chats() if chat not in kept_out]
    assert rendered[0].count(talking.bos_token_id) == 1
    found = sum((s.tolist() for s in streams.values()), [])
    assert sorted(found) == sorted(sum(rendered, []))  # nothing is added: the next <s> begins the next chat
    assert all(s[0] == talking.bos_token_id and s.prefix == (talking.bos_token_id,) for s in streams.values())
    with pytest.raises(DataError, match="'messages' holds chats, and the parent's tokenizer has no chat template"):
        tokenize(config, begins)
    with pytest.raises(DataError, match="'messages' holds chats: a parent that is made here"):
        train_tokenizer(config, 300)


@pytest.mark.parametrize(
    "single, template, prefix",
    [
        ("$A", CHAT, ["<s>"]),  # only the template begins with <s>
        ("<s> $A", CHAT.replace("{{ bos_token }}", ""), []),  # a chat has no <s>, though a text has
        ("$A", CHAT.replace("<|turn|>", "{{ bos_token }}"), []),  # <s> begins every turn
    ],
)
def test_chats_begin_as_their_template_says(tokenizer, single, template, prefix):
    marked = with_marks(tokenizer, single)
    marked.chat_template = template
    marks = marks_of(marked, document=chats()[0])
    assert marked.convert_ids_to_tokens(list(marks.prefix)) == prefix
    assert marks.closes == (not prefix)


def test_empty_fields_of_messages_are_absent_and_templates_may_refuse(begins, tmp_path):
    message = {"role": "user", "content": "w1", "tool_calls": None}
    config = rows_of(tmp_path, [{"messages": [message]}], text_column="messages")
    assert first_document(config) == [{"role": "user", "content": "w1"}]
    strict = copy.deepcopy(begins)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="text_column 'messages': the chat template refuses a chat: roles must"):
        as_used([first_document(config)], strict, "messages")


@pytest.mark.parametrize(
    "value, message",
    [
        ([1, 2, 3], "lists of numbers"),
        (["a", "b"], "lists of texts; join them"),
        ([{"from": "human", "value": "a"}], r"messages with the keys \['from', 'value'\]; rename them to role"),
        (7, "values of type int"),
        (0.5, "values of type float"),
        ({"de": "a"}, "values of type dict"),
    ],
)
def test_what_is_neither_text_nor_chat_is_refused_by_column(value, message, tmp_path):
    with pytest.raises(DataError, match=f"data.text_column 'what' holds {message}"):
        first_document(rows_of(tmp_path, [{"what": value}], text_column="what"))


def test_a_missing_column_names_those_there_are(tmp_path):
    with pytest.raises(DataError, match=r"'text' is not a column; columns: \['completion', 'prompt'\]; prompts and"):
        first_document(rows_of(tmp_path, [{"prompt": "a", "completion": "b"}]))


def test_data_files_are_read_or_refused(tmp_path, monkeypatch):
    for folder, text in (("mine", "my corpus"), ("private", "not to be read")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
        (tmp_path / folder / "a.csv").write_text(f"text\n{text}\n")
    monkeypatch.chdir(tmp_path)
    for name, files in (("json", "mine/*.jsonl"), ("csv", "mine/a.csv"), (str(tmp_path), "mine/*.jsonl")):
        assert [t for _, t in Documents(DataConfig(name=name, data_files=[files]))] == ["my corpus"]
    with pytest.raises(DataError, match="name the files of data.name json"):
        Documents(DataConfig(name="json"))
    with pytest.raises(DataError, match="python-stdlib has none"):
        Documents(DataConfig(name="python-stdlib", data_files=["mine/*"]))
    with pytest.raises(DataError, match=r"'json' with data_files \['nothing/\*'\] cannot be opened"):
        Documents(DataConfig(name="json", data_files=["nothing/*"]))


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
    return dataclasses.replace(config_for(corpus), name="somebody/corpus", data_files=[])


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
        calls.extend([len(texts)] * isinstance(texts, list))  # and not the question what is put around a text
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
        again.extend([len(texts)] * isinstance(texts, list))
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


def test_held_out_documents_are_cut_from_anywhere_and_keep_their_borders(corpus, tokenizer):
    whole = tokenize(config_for(corpus), tokenizer)
    cut_short = tokenize(config_for(corpus, heldout_document_tokens=20), tokenizer)
    assert torch.equal(cut_short["train"], whole["train"])
    starts, long = cut_short["heldout"].documents, whole["heldout"].documents
    assert len(starts) == len(long) >= 10
    lengths = torch.diff(torch.cat([starts, torch.tensor([len(cut_short["heldout"])])]))
    assert lengths.max() <= 21  # and the token between documents
    text, places = whole["heldout"].tolist(), []
    for i, start in enumerate(starts.tolist()):
        piece = cut_short["heldout"][start : start + 20].tolist()
        document = text[long[i] : long[i + 1] if i + 1 < len(long) else None]
        places.append(next(k for k in range(len(document)) if document[k : k + len(piece)] == piece))
    assert len(set(places)) > 3  # not beginnings alone
    at_least = tokenize(config_for(corpus, heldout_document_tokens=3), tokenizer)["heldout"]
    assert torch.diff(at_least.documents).min() > 16  # a sequence
    first, second = cut_short["heldout"].split_at_document(len(cut_short["heldout"]) // 3)
    assert torch.equal(torch.cat([first, second]), cut_short["heldout"])
    assert len(first) in starts.tolist()
    assert second.documents[0] == 0
    assert len(first.documents) + len(second.documents) == len(starts)


# -- what assistants wrote

TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def chatting(tokenizer, tmp_path):
    """A tokenizer with turns, and a corpus of chats of one to three turns whose answers alone have the word `yes`."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    other.chat_template = TURNS
    rows = []
    for i in range(60):
        turns = [{"role": "system", "content": f"s{i}"}] if i % 3 else []
        for k in range(1 + i % 3):
            turns += [
                {"role": "user", "content": f"w{i}x{k} please"},
                {"role": "assistant", "content": f"yes {i} {k}"},
            ]
        rows.append({"messages": turns if i % 5 else turns[:-1]})  # the last turn may be the user's
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(name="json", data_files=[str(path)], text_column="messages", sequence_length=16, num_tokens=10**6, heldout_tokens=10**6, heldout_fraction=0.3)  # fmt: skip
    return other, config, [row["messages"] for row in rows]


def said(tokenizer, ids, spans):
    return [tokenizer.decode(ids[a:b]) for a, b in spans]


def test_answers_are_what_the_assistant_wrote_and_its_end(chatting):
    tokenizer, _, chats = chatting
    for chat in chats:
        (ids,) = as_used([chat], tokenizer)
        expected = [m["content"] + "<|end|>" for m in chat if m["role"] == "assistant"]
        assert said(tokenizer, ids, answers_of(chat, tokenizer)) == expected


def test_streams_know_their_answers_and_so_do_sequences(chatting):
    tokenizer, config, _ = chatting
    stream = tokenize(config, tokenizer, answers=True)["train"]
    expected = [text + "<|end|>" for text in tokenizer.decode(stream).split("<|turn|>assistant\n")[1:]]
    expected = [text.split("<|end|>")[0] + "<|end|>" for text in expected]
    assert said(tokenizer, stream.tolist(), stream.answers.tolist()) == expected
    inside = torch.zeros(len(stream), dtype=torch.bool)
    for a, b in stream.answers.tolist():
        inside[a:b] = True
    blocks = TokenBlocks(stream, config.sequence_length)
    assert len(blocks.tokens.prefix) == 1  # the template begins with BOS
    counted = 0
    for i in range(len(blocks)):
        row = blocks[i]
        assert row["answers"].shape == row["input_ids"].shape
        assert not row["answers"][0]
        counted += int(row["answers"].sum())
    covered = sum(cut(stream, start, config.sequence_length)[1] - start for start in blocks.starts)
    assert inside[:covered].sum() - 1 <= counted <= inside.sum()
    assert "answers" not in TokenBlocks(tokenize(config, tokenizer)["train"], 16)[0]
    packed_too = packed(list(chatting[2][:9]), tokenizer, answers=True)
    texts = said(tokenizer, packed_too.tolist(), packed_too.answers.tolist())
    assert texts == [m["content"] + "<|end|>" for chat in chatting[2][:9] for m in chat if m["role"] == "assistant"]


def test_killed_tokenization_keeps_its_answers(chatting, tmp_path, monkeypatch):
    tokenizer, config, _ = chatting
    monkeypatch.setattr(data, "_batches", functools.partial(data._batches, batch_size=3))
    monkeypatch.setattr(data._Streams, "EVERY", 50)
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    tokenize_to(whole, config, tokenizer, answers=True)
    append, calls = data._Streams.append, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return append(self, *arguments)

    monkeypatch.setattr(data._Streams, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        tokenize_to(killed, config, tokenizer, answers=True)
    monkeypatch.setattr(data._Streams, "append", append)
    tokenize_to(killed, config, tokenizer, answers=True)
    for side, stream in read_streams(whole).items():
        again = read_streams(killed)[side]
        assert torch.equal(again, stream)
        assert torch.equal(again.answers, stream.answers)
        assert torch.equal(again.documents, stream.documents)


def test_a_template_that_rewrites_earlier_turns_is_refused(chatting):
    tokenizer, _, chats = chatting
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + (m['content'] if loop.last else '...') }}{% endfor %}"
    )
    with pytest.raises(DataError, match="answers_only"):
        answers_of(next(c for c in chats if len(c) > 4), tokenizer)
