"""Every reader answers hostile input, or says what is wrong with it in an error of the library's own.

A few dozen inputs per reader; `benchmarks/fuzz.py` draws more than 100,000 of the same.
"""

import pytest
from fuzzing import TARGETS, mutated_json, mutated_text, stumbled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


SLOW = {
    "run_folders": 8,
    "mrkl_settings": 10,
    "queries": 25,
    "expert_files": 30,
    "window_stores": 30,
    "call_texts": 30,
}


@pytest.fixture(scope="module", params=TARGETS)
def target(request, tmp_path_factory):
    return TARGETS[request.param](tmp_path_factory.mktemp(request.param)), SLOW.get(request.param, 60)


def test_hostile_input_is_answered_or_named(target):
    reader, examples = target

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.randoms(use_true_random=False))
    def check(rng):
        value = reader.draw(rng)
        if (error := stumbled(reader, value)) is not None:
            raise AssertionError(f"{value!r:.500}") from error

    check()


@given(st.randoms(use_true_random=False))
def test_mutations_leave_the_seed_as_it_is(rng):
    seed = {"a": [1, {"b": "c"}], "d": 0.5}
    mutated_json(seed, rng)
    assert seed == {"a": [1, {"b": "c"}], "d": 0.5}
    assert isinstance(mutated_text("a b", rng), str)


def test_errors_of_python_itself_are_crashes(tmp_path):
    """The harness sees what a reader without checks would do."""

    def reader(run):
        target = TARGETS["block_ids"](tmp_path)
        return type(target)(target.draw, run)

    assert isinstance(stumbled(reader(int), "x"), ValueError)
    assert isinstance(stumbled(reader(lambda value: value["key"]), {}), KeyError)
    assert isinstance(stumbled(reader(str.encode), "\ud800"), UnicodeEncodeError)
    assert stumbled(reader(str), "x") is None
