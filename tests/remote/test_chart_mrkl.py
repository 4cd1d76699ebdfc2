"""Rules as data: what a pattern stands for, what is an error at once, and the bound of the chart."""

import pytest

from hf_puzzle.remote import reader_mrkl
from hf_puzzle.remote.chart_mrkl import MEANINGS, Chart, Grammar, GrammarError, TooComplex, expansions, meaning
from hf_puzzle.remote.grammar_mrkl import BLOCKS


@pytest.fixture(scope="module", autouse=True)
def arithmetic():
    @meaning("test_plus")
    def plus(context, left, right):
        return left + right

    @meaning("test_less")
    def less(context, left, right, by):
        return left - right - int(by)

    yield
    del MEANINGS["test_plus"], MEANINGS["test_less"]


def chart(rules, words, lexical, skippable=frozenset()):
    return Chart(Grammar([rules]), words.split(), lexical, None, skippable)


def test_patterns_stand_for_sequences():
    found = {("a", "c"), ("a", "d", "e"), ("a", "b", "c"), ("a", "b", "d", "e")}
    assert set(expansions("a [b] (c|d e)")) == found
    assert expansions("'(' N ')'") == [("(", ("N",), ")")]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("S -> a", "is no rule"),
        ("S <- a : nobody_wrote_this", "nobody defined"),
        ("S <- a\nS <- a", "is there twice"),
        ("S <- [a]", "may be empty"),
        ("S <- {LIST} N", "there is no list"),
        ("S <- N : test_plus", "does not take 1 values"),
        ("S <- (a|b", "a bracket is not closed"),
    ],
)
def test_wrong_rules_are_errors_when_they_are_read(rules, message):
    with pytest.raises(GrammarError, match=message):
        Grammar([rules])


def test_a_meaning_is_defined_once():
    with pytest.raises(GrammarError, match="defined twice"):

        @meaning("test_plus")
        def another(context):
            return None


def test_all_readings_are_kept_and_dispreferred_ones_come_last():
    rules = "S <- N and N : test_plus\nS <- N and N : test_less 1 !\nN <- N and N : test_plus"
    lexical = [("N", 0, 1, 1), ("N", 2, 3, 2)]
    assert chart(rules, "x and x", lexical).readings("S") == [(0, 3), (1, -2)]


def test_every_word_is_explained_or_there_is_no_reading():
    rules = "S <- N plus N : test_plus"
    lexical = [("N", 0, 1, 1), ("N", 2, 3, 2)]
    assert chart(rules, "x plus y", lexical).readings("S") == [(0, 3)]
    assert chart(rules, "x plus y purple", lexical).readings("S") == []
    assert chart(rules, "x plus y ,", lexical, frozenset([3])).readings("S") == [(0, 3)]


def test_arguments_change_places():
    lexical = [("N", 0, 1, 9), ("N", 2, 3, 2)]
    assert chart("S <- N from N : test_less/10 0", "x from y", lexical).readings("S") == [(0, -7)]


def test_lists_of_phrases_mean_nothing():
    rules = "AND = and|together with|\nS <- N {AND} N : test_plus"
    for words, end in (("x and y", 2), ("x together with y", 3), ("x y", 1)):
        assert chart(rules, words, [("N", 0, 1, 1), ("N", end, end + 1, 2)]).readings("S") == [(0, 3)]


def test_the_chart_is_bounded(monkeypatch):
    monkeypatch.setattr("hf_puzzle.remote.chart_mrkl.MAX_EDGES", 50)
    with pytest.raises(TooComplex):
        chart("S <- S S : test_plus", " ".join("x" * 30), [("S", i, i + 1, 1) for i in range(30)])


def test_every_meaning_of_the_grammar_is_used():
    # `settled_acts` is called by the rows' own meanings, from a module that reads theirs
    used = {meant.split()[0].split("/")[0] for _, _, meant in reader_mrkl.grammar().rules}
    assert {name for name in MEANINGS if not name.startswith("test_")} - used - {
        "nothing",
        "last",
        "same",
        "settled_acts",
    } == set()
    assert len(Grammar(BLOCKS).rules) == len(reader_mrkl.grammar().rules)
