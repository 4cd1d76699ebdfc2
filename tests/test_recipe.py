"""Recipes are read strictly: a wrong key or value is one RecipeError that says what would be right."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_puzzle.recipe import (
    SYSTEMS,
    ParentRecipe,
    PuzzleRecipe,
    RecipeError,
    SourceConfig,
    describe_keys,
    load_recipe,
    parse_recipe,
    to_dict,
)


RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
SMALLEST = {
    "parent": {"name": "p"},
    "data": {"name": "text"},
    "library": {"num_tokens": 0},
    "distill": {"num_tokens": 0},
}


def with_key(path, value):
    """`SMALLEST` with one more key, `a.b` meaning key b of section a."""
    head, _, rest = path.partition(".")
    return {**SMALLEST, head: {**SMALLEST.get(head, {}), rest: value} if rest else value}


@pytest.mark.parametrize(
    "path, nearest",
    [
        ("sarch_space", "search_space"),
        ("sede", "seed"),
        ("library.num_token", "num_tokens"),
        ("constraints.speed_up", "speedup"),
        ("cost.batchsizes", "batch_sizes"),
    ],
)
def test_unknown_key_names_the_nearest(path, nearest):
    with pytest.raises(RecipeError, match=rf"unknown key '{path}'; did you mean '{nearest}'\?"):
        parse_recipe(with_key(path, 1))


def test_unknown_key_far_from_all_lists_them():
    with pytest.raises(
        RecipeError,
        match=r"unknown key 'score\.qqqqq' \(keys: metric, num_tokens, batch_size, blocks, tokens_per_task\)",
    ):
        parse_recipe(with_key("score.qqqqq", 1))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("seed", "zero", "seed: expected int, got 'zero'"),
        ("seed", True, "seed: expected int, got True"),
        ("seed", 1.0, "seed: expected int, got 1.0"),
        ("child.refit", 1, "child.refit: expected bool, got 1"),
        ("distill.learning_rate", "fast", "distill.learning_rate: expected a number, got 'fast'"),
        ("distill.learning_rate", ".nan", "distill.learning_rate: expected a number, got '.nan'"),
        ("distill.learning_rate", float("nan"), "distill.learning_rate: not a number"),
        ("distill.learning_rate", True, "distill.learning_rate: expected float, got True"),
        ("parent.name", 3, "parent.name: expected str, got 3"),
        ("deploy", "vllm", "deploy: expected a list, got 'vllm'"),
        ("cost.batch_sizes", [1, "2"], r"cost.batch_sizes\[1\]: expected int, got '2'"),
        ("score.metric", "KL", "score.metric: 'KL' is not one of kl, lm_loss, accuracy"),
        ("score.metric", "accurcy", "did you mean 'accuracy'"),
        ("score.metric", ["kl"], "is not one of"),
        ("search_space.layers", {"first": {}}, "search_space.layers key: expected int, got 'first'"),
        ("search_space.layers", {0: 4}, "search_space.layers.0: expected dict, got 4"),
        ("search_space.attention", [[1]], r"search_space.attention\[0\]: expected"),
        ("search_space", None, "search_space: expected a mapping of keys, got None"),
        ("library.args", [], "library.args: expected dict"),
        ("distill.lora", 8, "distill.lora: expected dict, got 8"),
        pytest.param("distill.learning_rate", 10**400, "distill.learning_rate: too large", id="huge"),
        ("system", "puzle", "system: 'puzle' is unknown; did you mean 'puzzle'"),
        ("system", ["puzzle"], "system: .* is unknown"),
        ("system", {}, "system: .* is unknown"),
    ],
)
def test_wrong_values_are_named(path, value, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(with_key(path, value))


@pytest.mark.parametrize("text, value", [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("2", 2.0), ("1E4", 1e4), ("'0.5'", 0.5)])
def test_numbers_that_yaml_calls_text_are_floats(text, value):
    recipe = parse_recipe(with_key("distill.learning_rate", yaml.safe_load(text)))
    assert recipe.distill.learning_rate == value
    assert type(recipe.distill.learning_rate) is float


def test_unions_keep_the_exact_type():
    space = parse_recipe(with_key("search_space.ffn", [512, 0.5, 1, 1.0, "none"])).search_space
    assert [(type(v), v) for v in space.ffn] == [(int, 512), (float, 0.5), (int, 1), (float, 1.0), (str, "none")]
    constraints = parse_recipe(with_key("constraints.speedup", 2)).constraints
    assert type(constraints.speedup) is float
    assert parse_recipe(with_key("constraints.speedup", None)).constraints.speedup is None
    assert parse_recipe(with_key("distill.lora", {"r": 4})).distill.lora == {"r": 4}


@pytest.mark.parametrize("path", ["parent", "data", "library", "distill", "parent.name", "library.num_tokens"])
def test_missing_keys_are_named(path):
    head, _, rest = path.partition(".")
    raw = {key: value for key, value in SMALLEST.items() if key != head} | ({head: {}} if rest else {})
    with pytest.raises(RecipeError, match=f"missing key '{path}'"):
        parse_recipe(raw)


def test_overrides():
    recipe = parse_recipe(
        SMALLEST, ["seed=3", "distill.learning_rate=1e-3", "cost.batch_sizes=[1, 2]", "parent.dtype=float32"]
    )
    assert recipe == parse_recipe(
        {
            **SMALLEST,
            "seed": 3,
            "distill": {"num_tokens": 0, "learning_rate": 1e-3},
            "cost": {"batch_sizes": [1, 2]},
            "parent": {"name": "p", "dtype": "float32"},
        }
    )
    assert parse_recipe(SMALLEST, ["seed=1", "seed=2"]).seed == 2
    assert parse_recipe(SMALLEST, ["library.args.bf16=true"]).library.args == {"bf16": True}
    assert SMALLEST["distill"] == {"num_tokens": 0}


@pytest.mark.parametrize(
    "override, message",
    [
        ("seed", "--set takes key=value, got 'seed'"),
        ("sed=1", "unknown key 'sed'; did you mean 'seed'"),
        ("distill.num_token=1", r"unknown key 'distill\.num_token'; did you mean 'num_tokens'"),
        ("seed.x=1", "--set .*'seed' is not a section"),
        ("parent.name.x=1", "--set .*'name' is not a section"),
        ("seed=[", "not valid YAML"),
        ("seed=2001-13-01", "seed"),
        ("=1", "unknown key ''"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**SMALLEST, "seed": 1}, [override])


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot read recipe .*absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")
    for name, content in (
        ("open.yaml", b"a: ["),
        ("binary.yaml", b"\xff\xfe\x00"),
        ("date.yaml", b"seed: 2001-13-01"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecipeError, match=name):
            load_recipe(tmp_path / name)
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        load_recipe(tmp_path / "list.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_parse(path):
    recipe = load_recipe(path)
    assert recipe.system in SYSTEMS
    if isinstance(recipe, PuzzleRecipe) and recipe.parent.recipe:
        assert isinstance(load_recipe(path.parent / recipe.parent.recipe), ParentRecipe)


def test_there_are_shipped_recipes():
    assert "tiny_cpu.yaml" in {path.name for path in RECIPES}


def leaves(value, prefix=""):
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        if dataclasses.is_dataclass(item):
            yield from leaves(item, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, item


def test_describe_keys_covers_every_key_with_default_and_help():
    recipe = parse_recipe(SMALLEST)
    rows = {name: (default, help_text) for name, default, help_text in describe_keys(PuzzleRecipe)}
    values = dict(leaves(recipe))
    assert all(help_text.strip() for _, help_text in rows.values())
    sources = {name.removeprefix("data.sources[].") for name in rows if "[]" in name}
    assert sources == {field.name for field in dataclasses.fields(SourceConfig)}
    rows = {name: row for name, row in rows.items() if "[]" not in name}
    assert set(rows) == set(values)
    for name, (default, _) in rows.items():
        assert default in ("required", str(values[name])), name
    required = {name for name, (default, _) in rows.items() if default == "required"}
    assert required == {"parent.name", "data.name", "library.num_tokens", "distill.num_tokens"}
    assert all(help_text for _, _, help_text in describe_keys(ParentRecipe))


def test_a_recipe_survives_its_own_dict():
    recipe = parse_recipe({**SMALLEST, "search_space": {"layers": {-1: {"ffn": [0.5]}}}})
    assert parse_recipe(to_dict(recipe)) == recipe


def test_mutable_defaults_are_not_shared():
    first, second = parse_recipe(SMALLEST), parse_recipe(SMALLEST)
    first.cost.batch_sizes.append(8)
    assert second.cost.batch_sizes == [1]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(-9, 9), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = [name for name, _, _ in describe_keys(PuzzleRecipe)] + ["system", "search_space", "parent", "cost"]


def parsed_or_refused(raw, overrides=()):
    """The recipe, or the message of the one error that wrong input may raise."""
    try:
        return parse_recipe(raw, overrides)
    except RecipeError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(raw=ANYTHING)
def test_anything_is_a_recipe_or_a_recipe_error(raw):
    assert parsed_or_refused(raw)


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(KEYS), value=ANYTHING, override=st.text(max_size=20) | st.just("a.b=1"))
def test_any_value_of_any_key_is_accepted_or_named(path, value, override):
    for overrides in ([], [override]):
        result = parsed_or_refused(with_key(path, value), overrides)
        assert result
        assert isinstance(result, str) or result.system in SYSTEMS


BOUNDED = [
    (f"{section.name}.{f.name}", f)
    for section in dataclasses.fields(PuzzleRecipe)
    if dataclasses.is_dataclass(section.type)
    for f in dataclasses.fields(section.type)
    if f.metadata.get("least") is not None or f.metadata.get("above") is not None
]


@pytest.mark.parametrize("path, field", BOUNDED, ids=[path for path, _ in BOUNDED])
def test_numbers_that_make_no_sense_are_refused_where_they_are_read(path, field):
    least, above = field.metadata["least"], field.metadata["above"]
    wrong, way_out = (above, f"more than {above}") if least is None else (least - 1, f"{least} or more")
    value = [wrong] if field.type == list[int] else wrong
    with pytest.raises(RecipeError, match=rf"^{path}: {wrong}(\.0)? is impossible; give {way_out}$"):
        parse_recipe(with_key(path, value))


def test_keys_that_count_have_a_least_value():
    assert len(BOUNDED) > 50
