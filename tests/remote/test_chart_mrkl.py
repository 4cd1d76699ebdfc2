"""Rules as data: what a pattern stands for, what is an error at once, and the bound of the chart."""

import re
from fractions import Fraction

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

    @meaning("test_both")
    def both(context, value):
        return [value, -value if isinstance(value, int) else ("minus", value)]

    @meaning("test_all")
    def every(context, *values):
        return values

    @meaning("test_none")
    def none(context, value):
        return None

    @meaning("test_holes")
    def holes(context, left, right):
        return [left, None, right]

    yield
    for name in [name for name in MEANINGS if name.startswith("test_")]:
        del MEANINGS[name]


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
        ("S <- N : test_plus($0, test_less($0))", "test_less does not take 1 values"),
        ("S <- N : test_both($0) $0", "goes on behind"),
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


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("S <- N from N : test_less($1, $0, 0)", [(0, -7)]),
        ("S <- N from N : test_less(test_plus($0, $0), $1, 1)", [(0, 15)]),
        ("S <- N from N [N] : test_all($1, $2, $0)", [(0, (2, 9))]),
        ("S <- N from N : test_plus(test_both($0), $1)", [(0, 11), (0, -7)]),
        ("S <- N from N : test_plus(test_none($0), $1)", []),
        ("S <- N from N : test_holes($0, $1)", [(0, 9), (0, 2)]),
    ],
)
def test_a_meaning_is_made_of_others(rule, found):
    """`$2` is left out where the pattern has no third category; of several meanings each has its own."""
    lexical = [("N", 0, 1, 9), ("N", 2, 3, 2)]
    assert set(chart(rule, "x from y", lexical).readings("S")) == set(found)


def test_numbers_in_rules_are_trees():
    found = chart("S <- one N : test_both(#1/2)", "one x", [("N", 1, 2, 0)]).readings("S")
    assert set(found) == {(0, ("n", Fraction(1, 2))), (0, ("minus", ("n", Fraction(1, 2))))}


def test_every_meaning_of_the_grammar_is_used():
    used = {name for _, _, meant in reader_mrkl.grammar().rules for name in re.findall(r"[a-z]\w*(?=\()|^\w+", meant)}
    unused = {name for name in MEANINGS if not name.startswith("test_")} - used
    assert unused <= {"nothing", "last", "same"}
    assert len(Grammar(BLOCKS).rules) == len(reader_mrkl.grammar().rules)
