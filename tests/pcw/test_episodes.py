"""The small model's tasks: tokens, classes that differ between episodes, labels where the mask says."""

import pytest
import torch

from hf_puzzle.pcw.episodes import (
    FEATURES,
    LABELS,
    SPECIAL,
    WORDS_PER_CLASS,
    episodes,
    make_dataset,
    make_tokenizer,
    train_in_context_model,
)
from hf_puzzle.pcw.recipe import TrainConfig
from hf_puzzle.recipe import RecipeError


def test_every_word_is_one_token():
    tokenizer = make_tokenizer()
    assert len({*FEATURES, *LABELS}) == len(FEATURES) + len(LABELS)
    assert tokenizer(f"{FEATURES[0]} {LABELS[3]}\n{FEATURES[1]}")["input_ids"] == [
        1, len(SPECIAL), len(SPECIAL) + len(FEATURES) + 3, SPECIAL.index("\n"), len(SPECIAL) + 1,
    ]  # fmt: skip


def test_a_dataset_keeps_its_words_and_another_seed_has_others():
    train, test, labels = make_dataset(24, 400, 100, seed=1)
    assert (len(train), len(test), len(labels)) == (400, 100, 24)
    words = {}
    for text, label in train + test:
        words.setdefault(label, set()).add(text)
    assert set(words) == set(labels)
    assert max(map(len, words.values())) <= WORDS_PER_CLASS
    assert sum(map(len, words.values())) == len(set.union(*words.values()))  # no word has two labels
    assert make_dataset(24, 400, 100, seed=1) == (train, test, labels)
    assert make_dataset(24, 400, 100, seed=2)[2] != labels
    with pytest.raises(RecipeError, match="num_classes is 1"):
        make_dataset(1, 2, 2, 0)


def test_episodes_have_words_and_their_labels_in_turn():
    config = TrainConfig(num_steps=1, tokens_per_step=640, sequence_length=64, max_classes=12)
    ids = episodes(config, torch.Generator().manual_seed(0))
    assert ids.shape == (10, 64)
    first = len(SPECIAL) + len(FEATURES)
    assert (ids[:, 0] == SPECIAL.index("<s>")).all()
    assert ((ids[:, 1::3] >= len(SPECIAL)) & (ids[:, 1::3] < first)).all()
    assert (ids[:, 2::3] >= first).all()
    assert (ids[:, 3::3] == SPECIAL.index("\n")).all()
    labels = [dict(zip(row[1::3].tolist(), row[2::3].tolist(), strict=True)) for row in ids]
    for row, of_word in zip(ids, labels, strict=True):
        assert [of_word[word] for word in row[1::3].tolist()] == row[2::3].tolist()
        assert 2 <= len(set(of_word.values())) <= 12
    assert len({label for of_word in labels for label in of_word.values()}) > 20


def test_training_is_repeatable_and_refuses_bad_sizes():
    config = TrainConfig(
        num_steps=3, tokens_per_step=128, sequence_length=32, max_classes=6, config={"hidden_size": 16}
    )
    first, second = (train_in_context_model(config, 0, torch.device("cpu")) for _ in range(2))
    assert first[1] == second[1]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))
    for settings, message in (
        ({"max_classes": 99}, "max_classes is 99"),
        ({"config": {"vocab_size": 3}}, "train.config"),
        ({"config": {"num_hidden_layers": 1}}, "at least 2"),
    ):
        with pytest.raises(RecipeError, match=message):
            train_in_context_model(TrainConfig(num_steps=1, **settings), 0, torch.device("cpu"))
