"""Model cards: every number stands in a JSON file of the run, nothing in a file becomes markup, snippets run as written."""

import functools
import html
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import LocalHub
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from markdown_it import MarkdownIt
from pcw_models import byte_level, tiny_llama

from hf_puzzle import artifacts, cards, hub
from hf_puzzle.blocks import Block
from hf_puzzle.cards import CardError, Measured, write_card
from hf_puzzle.engines.check import check_folder
from hf_puzzle.mrkl.publish import write_custom_generate as write_mrkl
from hf_puzzle.pcw import write_custom_generate as write_pcw
from hf_puzzle.puzzle.network import Network
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "model_cards" / "examples"
SYSTEMS = ("puzzle", "pcw", "mrkl")
CODE = {"puzzle": lambda folder: None, "pcw": write_pcw, "mrkl": write_mrkl}
LICENSES = {"puzzle": None, "pcw": "apache-2.0", "mrkl": "apache-2.0"}
FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.M | re.S)
HOSTILE = "a`b``c|d\n---\nlicense: mit\n# H1\n{{ 7*191 }}{% raw %}<script>alert(1)</script>![x](http://e.vil/p)**b**\u202e\x1b[2J"


@pytest.fixture
def example(tmp_path):
    """A function that copies a rendered example of the repository, as a folder to publish again, without its card."""

    def copy(system):
        folder = tmp_path / system
        shutil.copytree(EXAMPLES / system, folder)
        (folder / "README.md").unlink()
        CODE[system](folder)
        return folder

    return copy


def rendered(folder, system, **options):
    write_card(folder, folder, f"your-name/tiny-{system}", **{"license": LICENSES[system]} | options)
    return (folder / "README.md").read_text()


def change(value, number=lambda x: x, text=lambda x: x):
    """`value` with its numbers and texts put through functions."""
    if isinstance(value, dict):
        return {k: change(v, number, text) for k, v in value.items()}
    if isinstance(value, list):
        return [change(each, number, text) for each in value]
    if isinstance(value, str):
        return text(value)
    return value if value is None or isinstance(value, bool) else number(value)


def leaves(folder):
    """(numbers, texts) of all JSON files in a folder."""
    numbers, texts = [], []
    for path in folder.glob("*.json"):
        change(json.loads(path.read_text()), numbers.append, texts.append)
    return numbers, texts


def split(card):
    """(metadata, prose outside fences, comments, code spans and link targets; code spans)."""
    body = card.split("\n---\n", 1)[1]
    prose = re.sub(r"<!--.*?-->", "", FENCE.sub("", body), flags=re.S)
    spans = re.findall(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", prose)
    prose = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", prose)
    return ModelCard(card).data.to_dict(), re.sub(r"\]\([^)]*\)", "]", prose), [text for _, text in spans]


def unexplained(prose, numbers):
    """Numerals of `prose` that are no number of a file in any form that a card prints."""
    left = []
    for numeral in re.findall(r"\d[\d,]*(?:\.\d+)?", prose):
        digits, plain = len(numeral.partition(".")[2]), numeral.replace(",", "")
        forms = (f"{abs(x) * scale:.{digits}f}" for x in numbers for scale in (1, 100, 1e-6))
        if plain not in forms:
            left.append(numeral)
    return left


# -- numbers


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_number_of_a_card_stands_in_a_json_file_of_the_run(example, system):
    folder = example(system)
    card = rendered(folder, system)
    numbers, texts = leaves(folder)
    metadata, prose, spans = split(card)
    assert re.search(r"\d", prose)
    assert unexplained(prose, numbers) == []
    results = [metric["value"] for each in metadata["model-index"][0]["results"] for metric in each["metrics"]]
    assert results
    assert set(results) <= set(numbers)
    template = (cards.TEMPLATES / f"{system}.md.jinja").read_text()
    keys = {key for path in folder.glob("*.json") for key in re.findall(r'"([^"]*)":', path.read_text())}
    said = "\n".join([*texts, *keys, (folder / "recipe.yaml").read_text(), template, f"tiny-{system}", "apache-2.0"])
    assert [span for span in spans if re.search(r"\d", span) and span.removeprefix("--set ") not in said] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_other_measurements_give_another_card(example, system):
    folder = example(system)
    before, _ = leaves(folder)
    measured = json.loads((folder / "eval.json").read_text())
    # integers stay integers, and different
    moved = change(measured, lambda x: 3 * x + 1_000 if isinstance(x, int) else 0.731 * x + 0.00137)
    (folder / "eval.json").write_text(json.dumps(moved))
    _, prose, _ = split(rendered(folder, system))
    assert unexplained(prose, leaves(folder)[0]) == []
    numerals = re.findall(r"\d[\d,]*(?:\.\d+)?", prose)
    assert len(unexplained(prose, before)) > 0.5 * len(numerals)


@pytest.mark.parametrize("name", ["parts", *SYSTEMS])
def test_templates_hold_no_number(name):
    text = (cards.TEMPLATES / f"{name}.md.jinja").read_text()
    assert not re.search(r"{{\s*\d", text)
    text = re.sub(r"{#.*?#}|{% filter fence.*?endfilter %}|{{.*?}}|{%.*?%}|`[^`]*`|\]\([^)]*\)", "", text, flags=re.S)
    assert re.findall(r".*\d.*", text) == []


@pytest.mark.parametrize("template", ["{{ 0.5 | percent }}", "{{ (x + x) | fixed }}", "{{ x }}", "{{ name }}"])
def test_a_value_that_is_no_number_of_a_file_is_not_printed(template):
    environment = cards._environment()
    with pytest.raises(TypeError, match="no number of a JSON file|through no filter"):
        environment.from_string(template).render(x=Measured(0.5), name="text")
    assert environment.from_string("{{ x | percent(2) }} {{ none | fixed }}").render(x=Measured(0.5)) == "50.00% -"


@pytest.mark.parametrize("system", SYSTEMS)
def test_examples_are_what_the_templates_make_now(example, system):
    assert rendered(example(system), system) == (EXAMPLES / system / "README.md").read_text()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_published_folder_gives_the_same_card_again(example, system):
    folder = example(system)
    first = rendered(folder, system)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert rendered(folder, system) == first
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_examples_are_of_the_recipes_in_this_repository():
    for system in SYSTEMS:
        recipe = ROOT / "recipes" / system / "tiny_cpu.yaml"
        assert load_recipe(EXAMPLES / system / "recipe.yaml") == load_recipe(recipe)  # but for its `--set`


# -- texts of others


def check_harmless(card, tables):
    data = ModelCard(card).data.to_dict()
    assert data.get("license") != "mit"
    assert "1337" not in card
    assert "\x1b" not in card
    assert "\u202e" not in card
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("\n---\n", 1)[1])
    assert not re.search(r"<script|<img[^>]*e\.vil|<strong>b</strong>|<h1>H1", page)
    assert page.count("<h1>") == 1
    assert page.count("<table>") == tables
    return page


@pytest.mark.parametrize("system, tables", [("puzzle", 1), ("pcw", 3), ("mrkl", 2)])
def test_texts_of_the_measurements_stay_text(example, system, tables):
    folder = example(system)
    measured = json.loads((folder / "eval.json").read_text())
    looked_up = {"pcw", "ensemble", "nbce", "single", "calculator", "alone"}
    names = {*measured.get("gains", ()), "units", "currency", "weather"}

    def spoil(value):
        if isinstance(value, dict):
            return {k + HOSTILE if k in names else k: spoil(v) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(each) for each in value]
        return value + HOSTILE if isinstance(value, str) and value not in looked_up else value

    (folder / "eval.json").write_text(json.dumps(spoil(measured)))
    if system == "puzzle":
        made = json.loads((folder / "puzzle.json").read_text())
        made["recipe"]["data"]["name"] += HOSTILE
        made["recipe"]["parent"]["name"] = f"x/{HOSTILE}"
        made["chosen"]["blocks"] = [each + HOSTILE for each in made["chosen"]["blocks"]]
        made["parent"] = {"hub_id": None, "license": HOSTILE}
        (folder / "puzzle.json").write_text(json.dumps(made))
    card = rendered(folder, system, license=None)
    assert HOSTILE.split("\n")[0].split("|")[0] in card
    check_harmless(card, tables)


def test_a_recipe_is_shown_as_it_was_written(example):
    folder = example("puzzle")
    text = (
        f"# {HOSTILE.splitlines()[0]}\n# ```\n# ~~~\n#{{{{ 7*191 }}}}<script>\n\n\n\n"
        + (folder / "recipe.yaml").read_text()
    )
    (folder / "recipe.yaml").write_text(text)
    page = check_harmless(rendered(folder, "puzzle"), tables=1)
    shown = re.search(r'<code class="language-yaml">(.*?)</code>', page, re.S)[1]
    assert html.unescape(shown) == text
    assert (folder / "recipe.yaml").read_text() == text


def test_changes_to_the_recipe_are_shown_beside_it(example):
    folder = example("puzzle")
    (folder / "overrides.json").write_text(json.dumps(["distill.num_tokens=0"]))
    assert "with `--set distill.num_tokens=0`" in rendered(folder, "puzzle")


@pytest.mark.parametrize(
    "written, published",
    [
        ("parent.name=/home/jane/models/llama", "parent.name=llama"),
        ("parent.name=C:\\Users\\jane\\llama", "parent.name=llama"),
        ("parent.name=~/models/llama", "parent.name=llama"),
        ("data.data_files=[/data/jane/a.jsonl, '/data/jane/b.jsonl']", "data.data_files=[a.jsonl, 'b.jsonl']"),
        ("data.name=hf://datasets/me/x", "data.name=hf://datasets/me/x"),
        ("data.data_files=https://x.org/a/b.jsonl", "data.data_files=https://x.org/a/b.jsonl"),
        ("parent.name=me/model", "parent.name=me/model"),
        ('parent.name="C:\\\\Users\\\\jane\\\\llama"', 'parent.name="llama"'),
        (r'separator: "\n==\nand\n"', r'separator: "\n==\nand\n"'),
        (r'template: "{text}\n\nLabel:\n{label}"', r'template: "{text}\n\nLabel:\n{label}"'),
        ("parent.name=../models/model", "parent.name=../models/model"),
    ],
)
def test_nobody_learns_where_files_lie_on_the_machine_of_a_run(example, written, published):
    folder = example("puzzle")
    (folder / "overrides.json").write_text(json.dumps(["distill.num_tokens=0"]))
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text() + f"# {written}\n")
    page = html.unescape(rendered(folder, "puzzle"))
    assert f"# {published}\n" in page
    assert (folder / "recipe.yaml").read_text().endswith(f"# {published}\n")


def test_folders_are_left_out_of_changes_to_the_recipe(example):
    folder = example("puzzle")
    (folder / "overrides.json").write_text(json.dumps(["parent.name=/home/jane/models/llama"]))
    assert "jane" not in rendered(folder, "puzzle")
    assert json.loads((folder / "overrides.json").read_text()) == ["parent.name=llama"]


def test_a_folder_that_decides_says_how(example):
    folder = example("pcw")
    assert "pcw-decision" not in rendered(folder, "pcw")
    config = json.loads((folder / "config.json").read_text())
    config["custom_pipelines"] |= {"pcw-decision": {"impl": "pipeline_pcw.PCWDecisionPipeline"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "README.md").unlink()
    card = rendered(folder, "pcw")
    code = next(block for block in re.findall(r"```python\n(.*?)```", card, re.S) if "pcw-decision" in block)
    compile(code, "card", "exec")
    assert 'model="your-name/tiny-pcw", trust_remote_code=True' in code


def test_a_card_written_by_hand_is_kept(example):
    folder = example("pcw")
    (folder / "README.md").write_text("# mine\n")
    notes = write_card(folder, folder, "me/x")
    assert (folder / "README.md").read_text() == "# mine\n"
    assert any("by hand" in note for note in notes)


# -- where the measurements are


@pytest.fixture
def run(tmp_path):
    """A run folder of Puzzle with the JSON files of the example."""
    source, folder = EXAMPLES / "puzzle", tmp_path / "run"
    for name in ("child", "distilled"):
        (folder / name).mkdir(parents=True)
        shutil.copy(source / "puzzle.json", folder / name)
    for name in ("eval.json", "recipe.yaml"):
        shutil.copy(source / name, folder)
    shutil.copytree(source / "figures", folder / "figures")
    (folder / "overrides.json").write_text("[]")
    stages = {
        name: {"inputs": "x", "finished": f"2026-01-01T00:0{i}:00Z"} for i, name in enumerate(["distill", "evaluate"])
    }
    (folder / "manifest.json").write_text(json.dumps(stages))
    return folder


@pytest.mark.parametrize("source, measured", [("", True), ("distilled", True), ("child", False)])
def test_numbers_are_those_of_the_distilled_child(run, tmp_path, source, measured):
    folder = tmp_path / "staged"
    shutil.copytree(run / "distilled", folder)
    notes = write_card(folder, run / source, "me/x")
    card = (folder / "README.md").read_text()
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert ("No measurements came" in card) == (not measured)
    assert any("prints no number" in note for note in notes) == (not measured)
    assert ("model-index" in card) == measured
    assert {"eval.json", "recipe.yaml", "figures/architecture.png"} <= names or not measured
    if measured:
        assert (folder / "eval.json").read_bytes() == (run / "eval.json").read_bytes()
        assert "![KV heads" in card
    else:
        assert unexplained(split(card)[1], []) == []


def test_numbers_of_an_older_child_are_refused(run, tmp_path):
    stages = json.loads((run / "manifest.json").read_text())
    stages["distill"]["finished"] = "2026-02-01T00:00:00Z"
    (run / "manifest.json").write_text(json.dumps(stages))
    with pytest.raises(CardError, match="'evaluate' is older than 'distill'.*run the recipe again"):
        write_card(run / "distilled", run, "me/x")


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1, 2]", b"\xff\xfe", b'{"quality": {}}', b'{"quality": NaN}', b"null", b"[" * 100_000, b'"text"', b"{}"],
)
@pytest.mark.parametrize("name", ["eval.json", "distilled/puzzle.json"])
def test_files_that_no_run_writes_are_one_clear_error(run, name, content):
    (run / name).write_bytes(content)
    if name == "distilled/puzzle.json" and content in (b"{}", b'{"quality": {}}'):
        assert write_card(run / "distilled", run, "me/x")  # the recipe beside it says the same
        return
    with pytest.raises(ValueError, match="eval.json|puzzle.json"):
        write_card(run / "distilled", run, "me/x")
    assert not (run / "distilled" / "README.md").exists()


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(CardError, match="holds no model of hf_puzzle: expected"):
        write_card(tmp_path, tmp_path, "me/x")


def test_tasks_of_lm_eval_are_shown_and_published(run, tmp_path):
    row = {"task": "arc_easy", "level": 0, "metric": "acc", "filter": "none", "items": 2376, "higher_is_better": True}
    row |= {"parent": 0.6591, "parent_interval": [0.6412, 0.6773], "child": 0.6237, "child_interval": [0.6031, 0.6449]}
    row |= {"ratio": 0.9463, "ratio_interval": [0.9217, 0.9719], "difference": -0.0354, "difference_interval": None}
    machine = json.loads((run / "eval.json").read_text())["environment"]
    result = {
        "child": {"name": "distilled", "fingerprint": artifacts.folder_fingerprint(run / "distilled")},
        "tasks": [row],
        "limit": None,
        "lm_eval": "0.4.13",
        "bootstrap": {"confidence": 0.95},
        "environment": machine,
    }
    (run / "lm_eval.json").write_text(json.dumps(result))
    folder = shutil.copytree(run / "distilled", tmp_path / "staged")
    write_card(folder, run, "me/x")
    card = (folder / "README.md").read_text()
    assert "| `arc_easy`, `acc` | 2,376 | 0.6591 (0.6412 to 0.6773) | 0.6237 (0.6031 to 0.6449) |" in card
    assert json.loads((folder / "lm_eval.json").read_text()) == result
    assert unexplained(split(card)[1], leaves(folder)[0]) == []
    assert {"type": "arc_easy", "name": "lm-eval arc_easy"} in [
        each["dataset"] for each in ModelCard(card).data.to_dict()["model-index"][0]["results"]
    ]


def test_replies_without_an_evaluation(tmp_path):
    asked = {"question": "What is 2 times 3?", "generated_text": "6", "status": "ok", "trace": []}
    change = {"sql": "DELETE FROM shares", "before": asked, "after": asked | {"generated_text": "7"}}
    run, folder = tmp_path / "run", write_mrkl(tmp_path / "staged")
    (run / "pipeline").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run / "replies.json").write_text(json.dumps({"questions": [], "changes": [change]}))
    (folder / "config.json").write_text(
        json.dumps({"custom_pipelines": {"mrkl": {"impl": "pipeline_mrkl.MrklPipeline"}}})
    )
    write_card(folder, run / "pipeline", "me/x")
    card = (folder / "README.md").read_text()
    assert "=> 6 [ok]\n\nAfter DELETE FROM shares\n\nWhat is 2 times 3?\n=> 7 [ok]" in card
    assert "## Measured" not in card
    assert 'ask("What is 2 times 3?")' in card


def test_results_on_data_sets_of_the_hub_also_go_to_eval_results(example):
    folder = example("pcw")
    measured = json.loads((folder / "eval.json").read_text())
    title = measured["summary"][0]["dataset"]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["datasets"] = [{"name": "PolyAI/banking77", "title": title, "revision": "abc", "config_name": "all"}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card = rendered(folder, "pcw")
    (entry,) = yaml.safe_load((folder / ".eval_results" / "PolyAI-banking77-all.yaml").read_text())
    best = [row for row in measured["summary"] if row["dataset"] == title and row["mode"] == "pcw"][-1]
    assert entry["dataset"] == {"id": "PolyAI/banking77", "task_id": "all", "revision": "abc"}
    assert entry["value"] == best["accuracy"]
    assert ModelCard(card).data.datasets == ["PolyAI/banking77"]


# -- licence and parent


def with_parent(folder, parent):
    made = json.loads((folder / "puzzle.json").read_text())
    (folder / "puzzle.json").write_text(json.dumps(made | {"parent": parent}))


@pytest.mark.parametrize(
    "parent, given, license, said, noted",
    [
        ({"license": "apache-2.0"}, None, "apache-2.0", "`apache-2.0`, inherited from the parent.", None),
        ({"license": "mit"}, "apache-2.0", "apache-2.0", "the parent's is `mit`", "differs from the parent's mit"),
        ({"license": None}, None, None, "**No licence is named.**", "names no licence"),
        ({"license": None, "license_file": "LICENSE"}, None, None, "comes with `LICENSE`", "names no licence"),
        ({"license": "cc-by-nd-4.0"}, None, "cc-by-nd-4.0", "forbids derivatives", "forbids derivatives"),
        ({"license": "cc-by-nc-nd-4.0"}, "mit", "mit", "forbids derivatives", "forbids derivatives"),
        ({"license": "other", "license_name": "acme-no-derivatives"}, None, "other", "forbids derivatives", "forbids"),
        ({"license": "other", "license_name": "brand-x", "license_link": "LICENSE"}, None, "other", "`LICENSE`", None),
    ],
)
def test_the_licence_is_the_parents_and_never_made_up(example, parent, given, license, said, noted):
    folder = example("puzzle")
    with_parent(folder, {"hub_id": None, **parent})
    notes = write_card(folder, folder, "me/x", given)
    card = (folder / "README.md").read_text()
    assert ModelCard(card).data.to_dict().get("license") == license
    assert said in card.split("## Licence")[1]
    assert any(noted in note for note in notes) if noted else not notes


@pytest.mark.parametrize("license", ["Apache 2.0", "MIT", "", "mit\n---\nx: y"])
def test_a_licence_that_is_no_id_is_refused(example, license):
    with pytest.raises(CardError, match="is no id of the Hub"):
        write_card(example("puzzle"), EXAMPLES / "puzzle", "me/x", license)


def test_what_a_parent_folder_says_of_itself(tmp_path):
    assert cards.origin(str(tmp_path)) == {
        "hub_id": None, "license": None, "license_name": None, "license_link": None, "license_file": None
    }  # fmt: skip
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (tmp_path / "LICENSE").write_text("MIT License")
    assert cards.origin(str(tmp_path))["license"] == "mit"
    assert cards.origin(str(tmp_path))["license_file"] == "LICENSE"
    for broken in ("---\nlicense: [\n---\n", "---\nlicense: {a: b}\n---\n", "---\n- x\n---\n", "\x00"):
        (tmp_path / "README.md").write_text(broken)
        assert cards.origin(str(tmp_path))["license"] is None


def test_a_path_is_never_a_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    for name in ("models/llama", "tiny_parent", "../x", "/data/llama", "a/b/c", "a b", "https://e.vil/x", ""):
        assert not cards.is_hub_id(name), name
    assert cards.is_hub_id("meta-llama/Llama-3.2-1B")


def test_licence_and_base_model_of_a_parent_on_the_hub(example, monkeypatch, tmp_path):
    folder = example("puzzle")
    with LocalHub() as server:
        fetch = functools.partial(
            hf_hub_download, endpoint=server.endpoint, token=server.token, cache_dir=tmp_path / "c"
        )
        monkeypatch.setattr(cards, "hf_hub_download", fetch)
        api = HfApi(endpoint=server.endpoint, token=server.token)
        for name, readme in (
            ("me/licensed", "---\nlicense: llama3.2\n---\n"),
            ("me/silent", "# no metadata\n"),
            ("me/empty", ""),
        ):
            api.create_repo(name)
            if readme:
                api.upload_file(path_or_fileobj=readme.encode(), path_in_repo="README.md", repo_id=name)
        for name, license, noted in (
            ("me/licensed", "llama3.2", []),
            ("me/silent", None, ["names no licence"]),
            ("me/empty", None, ["names no licence"]),
            ("me/absent", None, ["could not be read from the Hub"]),
        ):
            with_parent(folder, {"hub_id": name})
            notes = write_card(folder, folder, "me/x")
            data = ModelCard((folder / "README.md").read_text()).data.to_dict()
            assert (data["base_model"], data["base_model_relation"]) == (name, "finetune")
            assert data.get("license") == license
            assert ("could not be read when" in (folder / "README.md").read_text()) == (name == "me/absent")
            assert len(notes) == len(noted)
            assert all(part in note for part, note in zip(noted, notes, strict=True))
    with_parent(folder, {"hub_id": "me/other"})  # the server is gone
    notes = write_card(folder, folder, "me/x")
    assert "could not be read from the Hub" in notes[0]


def test_numbers_of_another_child_are_refused(run, tmp_path):
    stale = {"child": {"name": "distilled", "fingerprint": "of another"}, "tasks": []}
    (run / "lm_eval.json").write_text(json.dumps(stale))
    folder = shutil.copytree(run / "distilled", tmp_path / "staged")
    with pytest.raises(CardError, match=r"lm_eval.json has the numbers of another model than distilled/"):
        write_card(folder, run, "me/x")


def test_a_card_says_where_the_code_is(example):
    folder = example("puzzle")
    assert "# its code lies beside the weights" in rendered(folder, "puzzle")
    (folder / "README.md").unlink()
    assert "# its code is in me/code" in rendered(folder, "puzzle", code_repo="me/code")


def test_offline_the_hub_is_not_asked(example, monkeypatch, tmp_path):
    folder, asked = example("puzzle"), []
    fetch = functools.partial(hf_hub_download, endpoint="http://127.0.0.1:9", cache_dir=tmp_path)
    monkeypatch.setattr(
        cards, "hf_hub_download", lambda *args, **options: asked.append(options) or fetch(*args, **options)
    )
    with_parent(folder, {"hub_id": "me/parent"})
    notes = write_card(folder, folder, "me/x", online=False)
    assert asked == [{"local_files_only": True}]
    assert "was not asked for: pass --license ID" in notes[0]


@pytest.mark.parametrize("hub_id", ["../../etc/passwd", "a b", HOSTILE, 7, ["x"]])
def test_a_parent_that_is_no_repository_is_no_base_model(example, hub_id):
    folder = example("puzzle")
    with_parent(folder, {"hub_id": hub_id, "license": "mit", "license_name": 7})
    write_card(folder, folder, "me/x")
    data = ModelCard((folder / "README.md").read_text()).data.to_dict()
    assert "base_model" not in data
    assert data["license"] == "mit"


# -- snippets


def snippet(folder, repo):
    """Run the first Python block of a card, with the folder in the place of the repository; what it printed."""
    card = (folder / "README.md").read_text()
    source = next(text for _, language, text in FENCE.findall(card) if language == "python")
    assert f'"{repo}"' in source
    printed = []
    exec(source.replace(repo, str(folder)), {"print": lambda *args: printed.append(args)})  # noqa: S102
    return printed


@pytest.mark.parametrize("fmt", ["decilm", "per_layer"])
def test_the_snippet_of_a_child_runs(llama, tmp_path, fmt):
    torch.manual_seed(0)
    config = type(llama.config)(**(llama.config.to_dict() | {"vocab_size": 512}))
    blocks = [Block.parse(text) for text in ("kv2+w512", "none+w256", "kv4+none", "kv4+w768")]
    child = Network(config, blocks, fmt=fmt).random(torch.float32)
    provenance = {"recipe": {"parent": {"name": "org/parent"}, "data": {"name": "text"}}, "parent": {"hub_id": None}}
    folder = hub.write_model_folder(tmp_path / "child", child, byte_level(), provenance)
    write_card(folder, folder, "me/child")
    card = (folder / "README.md").read_text()
    assert ("nemotron-nas" in ModelCard(card).data.tags) == (fmt == "decilm")
    opening = {verdict.engine for verdict in check_folder(folder) if verdict.status != "no"}
    assert {name for name in ("vllm", "llama.cpp") if f"--target {name} " in card} == opening & {"vllm", "llama.cpp"}
    ((text,),) = snippet(folder, "me/child")
    assert text.removeprefix("<s>").startswith("Once upon a time")


def test_the_snippets_of_pcw_run(tmp_path):
    from hf_puzzle.pcw import PCWClassificationPipeline

    tokenizer = byte_level()
    model = tiny_llama(tokenizer, positions=512)
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    write_pcw(tmp_path / "plain")
    shots = [("lost it", "card lost"), ("it is late", "card late")]
    pipe = PCWClassificationPipeline(model=model, tokenizer=tokenizer, demonstrations=shots, num_windows=2)
    pipe.save_pretrained(tmp_path / "saved")
    for name in ("plain", "saved"):
        folder = tmp_path / name
        write_card(folder, folder, "me/pcw")
        ((found,),) = snippet(folder, "me/pcw")
        assert found if name == "plain" else found[0]["label"] in ("card lost", "card late")


def test_the_snippet_of_mrkl_runs(tmp_path):
    from hf_puzzle.remote.exact_mrkl import Calculator
    from hf_puzzle.remote.experts_mrkl import Experts
    from hf_puzzle.remote.pipeline_mrkl import MrklPipeline

    tokenizer = byte_level()
    pipe = MrklPipeline(
        model=tiny_llama(tokenizer, positions=512),
        tokenizer=tokenizer,
        experts=Experts([Calculator()]),
        today="2022-05-02",
    )
    pipe.save_pretrained(tmp_path)
    write_card(tmp_path, tmp_path, "me/mrkl")
    ((answer, trace),) = snippet(tmp_path, "me/mrkl")
    assert answer == "144"
    assert trace[0]["expert"] == "calculator"


@pytest.mark.parametrize("system", ["pcw", "mrkl"])
def test_code_alone_has_a_card_without_a_model(tmp_path, system):
    folder = CODE[system](tmp_path)
    assert "<this repository>" in (folder / "README.md").read_text()
    assert write_card(folder, folder, "me/code") == []
    card = (folder / "README.md").read_text()
    data = ModelCard(card).data.to_dict()
    assert data == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["hf_puzzle", system, "custom_generate"],
    }
    assert '"me/code"' in card
    assert "Measured" not in card
