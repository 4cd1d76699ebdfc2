"""Generated worlds and examples: same seed, same data; gold calls run; pools share no wording."""

import json
from fractions import Fraction

import pytest

from hf_puzzle.mrkl.data import CHAT, POOLS, UNITS, Generator, W, in_words, make_world, solve
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.known_mrkl import Known
from hf_puzzle.remote.slots_mrkl import read


@pytest.mark.parametrize("british", [True, False])
@pytest.mark.parametrize("number", [0, 7, 21, 100, 305, 1_000, 1_012, 45_678, 700_000, 1_000_001, 123_456_789])
def test_words_are_read_back(number, british):
    known = Known("2023-01-01")
    for hyphen in (True, False):
        (slot,) = read(in_words(number, british, hyphen), known).of("n")
        assert slot.value == number


def test_worlds_are_reproducible_and_different(tmp_path):
    worlds = {pool: make_world(tmp_path / pool, pool, 0) for pool in POOLS}
    again = make_world(tmp_path / "again", "dev", 0)
    assert vars(again) == vars(worlds["dev"])
    for name in ("rates.json", "weather.json", "wiki.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "dev" / name).read_bytes()
    assert not set(worlds["train"].towns) & set(worlds["held"].towns)
    assert not set(worlds["train"].people) & set(worlds["held"].people)
    with pytest.raises(ValueError, match="none of train, dev, held"):
        make_world(tmp_path / "x", "test", 0)


def test_pools_share_no_wording_but_the_page_question():
    for task, pools in W.items():
        assert not set(pools["train"]) & set(pools["held"]) - {"{q}"}, task
        assert not set(pools["dev"]) & set(pools["held"]) - {"{q}"}, task
    assert not set(CHAT["train"] + CHAT["dev"]) & set(CHAT["held"])


@pytest.mark.parametrize("pool", POOLS)
def test_gold_calls_run(tmp_path, pool):
    world = make_world(tmp_path, pool, 1)
    experts = Experts.from_fixtures(tmp_path, world.today)
    examples = Generator(world, pool, 1).draw(150)
    assert [vars(e) for e in Generator(world, pool, 1).draw(150)] == [vars(e) for e in examples]
    done = [solve(example.calls, experts)[1] for example in examples]
    # a town without people has no highest salary
    assert done.count("ok") >= 145
    assert set(done) <= {"ok", "no_data"}
    assert {example.route for example in examples} >= {"calculator", "many", "none", "database"}


def test_solve_follows_references(tmp_path):
    world = make_world(tmp_path, "train", 0)
    experts = Experts.from_fixtures(tmp_path, world.today)
    calls = [
        {"expert": "calculator", "arguments": {"expression": "2-5"}},
        {"expert": "units", "arguments": {"value": "$1", "from": "kilometer", "to": "meter"}},
        {"expert": "calculator", "arguments": {"expression": "$1*$2"}},
    ]
    assert solve(calls, experts) == (["-3", "-3000", "9000"], "ok")
    assert solve([{"expert": "calculator", "arguments": {"expression": "1/0"}}], experts) == ([], "error")


def test_units_of_worlds_are_exact(tmp_path):
    make_world(tmp_path, "train", 0)
    table = json.loads((tmp_path / "units.json").read_text())
    assert set(table) == set(UNITS)
    assert Fraction(table["mile"]["factor"]) == Fraction("1609.344")
