"""The page of recipes/space: what it shows is the library's own result, and text of strangers stays text."""

import contextlib
import html
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hub_server import LocalHub
from huggingface_hub import HfApi
from transformers import AutoTokenizer

from hf_puzzle import formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.costs import weight_bytes
from hf_puzzle.remote.experts_mrkl import Experts
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.pipeline_pcw import PCWClassificationPipeline


gr = pytest.importorskip("gradio", reason="the extra `demo` is not installed")

ROOT = Path(__file__).parents[2]
PARENT = ROOT / "recipes/puzzle/tiny_parent"
FIXTURES = ROOT / "recipes/mrkl/jurassic_x"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">${document.title='owned'}{{constructor}}`"
QUESTION = "Which of the green-energy companies rose most last month?"
NEW = 8


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("space_app", ROOT / "recipes/space/app.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["space_app"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["space_app"]


@pytest.fixture(scope="module")
def child_folder(tmp_path_factory):
    """The tiny parent without an attention and without an FFN; the code in its folder must never run."""
    parent = hub.open_model_folder(PARENT, "float32")
    blocks = [formats.parent_block(parent.config)] * parent.config.num_hidden_layers
    blocks[2], blocks[5] = Block(blocks[2].attention, "none"), Block("none", blocks[5].ffn)
    gone = re.compile(r"model\.layers\.(2\.(mlp|post_attention_layernorm)|5\.(self_attn|input_layernorm))\.")
    state = {name: tensor for name, tensor in parent.state_dict().items() if not gone.match(name)}
    child = formats.build_model(formats.child_config(parent.config, blocks, formats.DECILM), state)
    folder = tmp_path_factory.mktemp("space") / "child"
    hub.write_model_folder(folder, child, AutoTokenizer.from_pretrained(PARENT))
    for name in ("modeling_decilm.py", "configuration_decilm.py", "caches_puzzle.py"):
        (folder / name).write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


@pytest.fixture(scope="module")
def settings(app, child_folder):
    return app.Settings(str(PARENT), str(child_folder), (("jurassic_x", FIXTURES),))


@pytest.fixture(scope="module")
def models(app, settings):
    return app.Models(settings)


@pytest.fixture(scope="module")
def parent(models):
    return models.get("parent", str(PARENT))


@pytest.fixture(scope="module")
def child(models, child_folder):
    return models.get("child", str(child_folder))


def greedy(opened, prompt, new_tokens=NEW):
    inputs = opened.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = opened.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)[0]
    return opened.tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True)


# -- Puzzle


@pytest.fixture(scope="module")
def comparison(app, parent, child):
    return app.compare(parent, child, app.PROMPT, NEW, 2, 3, False)


def test_comparison_is_what_the_models_say(app, parent, child, comparison):
    assert comparison.texts == (greedy(parent, app.PROMPT), greedy(child, app.PROMPT))
    assert comparison.weight_bytes == (weight_bytes(parent.model), weight_bytes(child.model))
    config = parent.model.config
    ids = parent.tokenizer(app.PROMPT)["input_ids"]
    layer = 2 * 4 * config.num_key_value_heads * config.head_dim  # bytes of a token, float32
    assert comparison.kv_bytes == tuple(2 * n * layer * (len(ids) + comparison.tokens) for n in (8, 7))
    assert comparison.blocks[1][2].ffn == comparison.blocks[1][5].attention == "none"
    assert comparison.workload.prefill_tokens == len(ids)
    assert comparison.peak_bytes == (None, None)
    # the child's choices behind the parent's text, once more by hand
    text = parent.model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
    chosen = child.model(text).logits.argmax(-1)[0, len(ids) - 1 : -1]
    assert comparison.agreement == pytest.approx((chosen == text[0, len(ids) :]).float().mean().item())


def test_a_model_beside_itself_agrees(app, parent):
    found = app.compare(parent, parent, app.PROMPT, NEW, 1, 3, False)
    assert (found.same, found.agreement) == (found.tokens, 1.0)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert len(set(found.texts)) == len(set(found.weight_bytes)) == len(set(found.kv_bytes)) == 1


def test_peak_memory_is_measured_in_installed_code(app, parent, child, child_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(app, "peak_memory_bytes", lambda *arguments: asked.append(arguments) or 10**6 * len(asked))
    found = app.compare(parent, child, app.PROMPT, NEW, 2, 3, True)
    assert found.peak_bytes == (10**6, 2 * 10**6)
    shape = found.workload
    assert asked == [(PARENT, shape, "float32", "cpu", False), (child_folder, shape, "float32", "cpu", False)]
    assert "2.00 MB" in app.comparison_html(found)


def test_comparison_shows_its_numbers(app, comparison):
    shown = app.comparison_html(comparison)
    for value in (*comparison.weight_bytes, *comparison.kv_bytes):
        assert f"{value / 1e6:,.2f} MB" in shown
    assert f"{comparison.agreement:.1%}" in shown
    assert app.layers_html(*comparison.blocks).count("width:0.0%") == 2  # the two missing sub-blocks


def test_code_of_a_folder_is_not_run(child, child_folder):
    assert not (child_folder / "ran").exists()


# -- opening


def test_uploaded_files_are_the_model(app, models, child, child_folder):
    files = [str(path) for path in sorted(child_folder.iterdir())]
    opened = models.get("child", "", files)
    assert not list(opened.folder.glob("*.py"))
    assert all(torch.equal(a, b) for a, b in zip(opened.model.parameters(), child.model.parameters(), strict=True))
    assert models.get("child", "ignored", files) is opened


@pytest.mark.parametrize("name", ["..", ".json", "a b.json", "x.py", "pytorch_model.bin", "é.json"])
def test_other_files_are_left_out(app, tmp_path, name):
    target = tmp_path / "target"
    target.mkdir()
    source = tmp_path / "up"
    source.mkdir()
    if name != "..":
        (source / name).write_text("{}")
    (source / "config.json").write_text("{}")
    app.take_files([str(source / "config.json"), f"{source}/{name}"], target)
    assert os.listdir(target) == ["config.json"]


def test_uploads_that_are_refused(app, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "a").mkdir()
    for name in ("config.json", "a/config.json", "code.py"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    for files, message in (
        (["config.json", "a/config.json"], "two files are called config.json"),
        (["link.json"], "link.json: not a file"),
        (["code.py"], "none of the 1 files"),
        (["code.py"] * 65, "65 files: at most 64"),
    ):
        with pytest.raises(app.DemoError, match=message):
            app.take_files([str(tmp_path / name) for name in files], target)
        shutil.rmtree(target)
        target.mkdir()


def test_folders_and_code_only_as_whoever_starts_it_says(app, tmp_path, monkeypatch):
    public = app.Models(app.Settings(parent=str(PARENT)))
    with pytest.raises(app.DemoError, match="no folder that can be opened here"):
        public.get("child", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").mkdir()
    with pytest.raises(app.DemoError, match="no folder that can be opened here"):
        public.get("child", "private")
    with pytest.raises(app.DemoError, match="not started with --run-code"):
        public.get("parent", str(PARENT), run_code=True)
    with pytest.raises(app.DemoError, match=r"config\.json and \*\.safetensors are needed"):
        app.Models(app.Settings(any_folder=True)).get("child", str(tmp_path))


# -- PCW and MRKL


def test_classification_is_the_pipelines(app, parent):
    shots = app.read_demonstrations(app.DEMONSTRATIONS, None)
    found = app.classify(parent, shots, "import re", 4, "single", "{text} -> {label}", True)
    own = PCWClassificationPipeline(
        model=parent.model, tokenizer=parent.tokenizer, demonstrations=shots, num_windows=4, mode="single",
        template="{text} -> {label}", separator="\n", calibrate=True,
    )  # fmt: skip
    assert found.scores == [(each["label"], each["score"]) for each in own("import re", top_k=None)]
    assert found.layout == own.windows(encode=False).layout.report()
    for label, score in found.scores:
        assert f"<td>{label}</td>" in app.classified_html(found)
        assert f"{score:.4f}" in app.classified_html(found)


def test_demonstrations_are_lines_or_a_csv_file(app, tmp_path):
    assert app.read_demonstrations("a => b => c\n\n x  =>  y ", None) == [("a => b", "c"), ("x", "y")]
    path = tmp_path / "shots.csv"
    path.write_text('label,text\nyes,"one, two\nthree"\n', encoding="utf-8-sig")
    assert app.read_demonstrations("ignored", str(path)) == [("one, two\nthree", "yes")]


@pytest.mark.parametrize("content", [b"text,label\na,", b"a,b\nc,d", b"text,label\n\xff,b", b'text,label\n"a'])
def test_csv_files_that_are_refused(app, tmp_path, content):
    (tmp_path / "shots.csv").write_bytes(content)
    with pytest.raises(app.DemoError, match=r"shots\.csv"):
        app.read_demonstrations("", str(tmp_path / "shots.csv"))


def test_answers_are_the_pipelines(app, parent, settings):
    compositions = app.compositions_of(FIXTURES)
    experts = Experts.from_fixtures(FIXTURES, "2022-05-02")
    own = MrklPipeline(
        model=parent.model, tokenizer=parent.tokenizer, experts=experts, today="2022-05-02", compositions=compositions
    )
    for question in (QUESTION, "What was the price of Solvane Power on 29 April 2030?", "Who are you?"):
        reply, _ = app.ask(parent, question, "2022-05-02", "jurassic_x", None, settings)
        assert reply == own(question, max_new_tokens=64, do_sample=False)
        shown = app.reply_html(reply, 0.0)
        assert shown.count("<tr>") == len(reply["trace"]) + bool(reply["trace"])
        for step in reply["trace"]:
            assert html.escape(step["result"]) in shown
    assert "none: the language model answered" in shown


def test_status_of_the_call_that_failed(app, parent, settings):
    question = "What was the price of Solvane Power on 29 April 2030?"
    reply, _ = app.ask(parent, question, "2022-05-02", "jurassic_x", None, settings)
    assert app.reply_html(reply, 0.0).count("<td>no_data</td>") == 2  # its result and its status


def test_uploaded_fixtures_are_the_experts(app, parent, settings, tmp_path):
    (tmp_path / "wiki.jsonl").write_text(
        json.dumps({"id": "p", "title": "Zork Works", "text": "Zork Works was founded in 1777."}) + "\n"
    )
    shutil.copy(FIXTURES / "make_data.py", tmp_path)
    files = [str(path) for path in tmp_path.iterdir()]
    reply, _ = app.ask(parent, "When was Zork Works founded?", "2022-05-02", app.OWN_EXPERTS, files, settings)
    assert (reply["answer"], app.route(reply)) == ("1777", "wiki")


# -- what strangers write


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = set(), ""

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        assert not any(name.startswith("on") or name == "src" for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def test_hostile_text_stays_text(app):
    step = {"expert": HOSTILE, "arguments": {HOSTILE: HOSTILE}, "result": HOSTILE, "doc": HOSTILE}
    reply = {"status": HOSTILE, "trace": [step], "confidence": 1.0}
    for shown in (
        app.classified_html(app.Classified([(HOSTILE, 1.0)], "", 0.0, 0.0)),
        app.reply_html(reply, 0.0),
        app.layers_html([Block(8, 8)], [Block(HOSTILE, HOSTILE)]),
    ):
        tags = Tags()
        tags.feed(shown)
        assert HOSTILE in tags.text
        assert tags.seen <= {"table", "thead", "tbody", "tr", "th", "td", "div", "i", "span", "p", "b", "br"}
        assert not set("{}$`") & set(shown)  # gradio's templates would read them


def events(page, name):
    """The function behind a button."""
    return next(each.fn for each in page.fns.values() if each.api_name == name)


def test_wrong_inputs_are_one_message(app, settings, child_folder):
    page = app.build(settings)
    compare, classify, ask = (events(page, name) for name in ("compare", "classify", "ask"))
    parent, child = settings.parent, settings.child
    good_shots = (app.DEMONSTRATIONS, None, "import re", 4, "pcw", "{text} -> {label}", True)
    good_question = (QUESTION, "2022-05-02", "jurassic_x", None)

    def puzzle(prompt="def", tokens=4, batch=1, rounds=3, first=parent, second=child):
        return compare, (first, None, second, None, False, prompt, tokens, batch, rounds, False)

    def pcw(**changed):
        names = ("pasted", "file", "query", "windows", "mode", "template", "calibrate")
        return classify, (parent, None, False, *(dict(zip(names, good_shots, strict=True)) | changed).values())

    def mrkl(**changed):
        names = ("question", "today", "choice", "fixtures")
        return ask, (parent, None, False, *(dict(zip(names, good_question, strict=True)) | changed).values())

    for (function, arguments), message in (
        (puzzle(second=""), "child: name a folder or a Hub id"),
        (puzzle(second="/etc"), "no folder that can be opened here"),
        (puzzle(second="../../etc"), "no folder that can be opened here"),
        (puzzle(prompt="  "), "the prompt has 2 characters"),
        (puzzle(prompt="def " * 600), "the models have 512 positions"),
        (puzzle(tokens=10**6), "new tokens: 1000000 is not a number from 2 to 128"),
        (puzzle(tokens=float("nan")), "new tokens: nan"),
        (puzzle(batch=None), "sequences at once: None"),
        (pcw(pasted="no label"), "line 1 is 'no label': expected text => label"),
        (pcw(pasted=""), "there are no demonstrations"),
        (pcw(pasted="a => b\n" * 3000), "3,000 demonstrations: at most 2,000"),
        (pcw(query=""), "the text to classify has 0 characters"),
        (pcw(windows=13), "there are 12 demonstrations for 13 windows"),
        (pcw(mode="best"), "mode is 'best'"),
        (pcw(template="{text}"), "must hold"),
        (pcw(pasted="a => b\nc => d\n", windows=1, query="x " * 1500), "too long"),
        (mrkl(question=""), "the question has 0 characters"),
        (mrkl(today="tomorrow"), "tomorrow"),
        (mrkl(today=""), "say which day is today"),
        (mrkl(choice="/etc"), "experts '/etc': expected one of"),
        (mrkl(today=HOSTILE), "a date of more than 60 characters"),
        (mrkl(today=HOSTILE[:40]), "&lt;img src=x"),
    ):
        with pytest.raises(gr.Error) as error:
            function(*arguments)
        shown = error.value.message
        assert message in html.unescape(shown) or message in shown
        assert not set("<>{}$`\n") & set(shown)
        assert not error.value.print_exception
        assert error.value.__suppress_context__ or error.value.__cause__ is None


def test_nothing_leaves_and_one_runs_at_a_time(app, settings):
    page = app.build(settings)
    assert not page.analytics_enabled
    runs = [each for each in page.fns.values() if each.api_name in ("compare", "classify", "ask")]
    assert {(each.concurrency_limit, each.concurrency_id) for each in runs} == {(1, "model")}


def test_front_matter_names_what_is_there(app):
    import yaml

    folder = ROOT / "recipes/space"
    text = (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["sdk"], front["license"]) == ("gradio", "apache-2.0")
    assert (folder / front["app_file"]).exists()
    for name in re.findall(r"\]\(([\w.]+)\)", text):
        assert (folder / name).stat().st_size < 200_000


# -- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
TIMEOUT_MS = 240_000


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def address(child_folder, tmp_path_factory):
    """The page in a process of its own, its child from a local Hub, where a private repository has one as well."""
    with LocalHub() as server, contextlib.ExitStack() as stack:
        # the local Hub has no Xet
        stack.enter_context(pytest.MonkeyPatch.context()).setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        api = HfApi(endpoint=server.endpoint, token=server.token)
        for name, private in (("me/child", False), ("me/secret", True)):
            api.create_repo(name, private=private)
            api.upload_folder(repo_id=name, folder_path=child_folder)
        port, log = free_port(), tmp_path_factory.mktemp("log") / "app.log"
        command = [sys.executable, str(ROOT / "recipes/space/app.py"), "--port", str(port)]
        command += ["--parent", str(PARENT), "--child", "me/child"]
        env = server.environment(OMP_NUM_THREADS="1", TMPDIR=str(tmp_path_factory.mktemp("uploads")))
        process = subprocess.Popen(
            command, env=env, stdout=stack.enter_context(log.open("w")), stderr=subprocess.STDOUT
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        for _ in range(2400):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's package chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """The page, opened; afterwards: no errors in the console, no request to another host, nothing executed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    found, wrong = context.new_page(), []
    found.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("dialog", lambda dialog: wrong.append("a dialog"))
    found.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or wrong.append(r.url))
    found.goto(address)
    found.wait_for_selector("#compare")
    yield found
    assert wrong == []
    assert found.title() == "hf_puzzle"
    context.close()


def fill(page, name, text):
    page.locator(f"#{name} textarea, #{name} input").first.fill(text)


def message(page) -> str:
    """The text of the error that is shown, which has no markup of its own."""
    toast = page.locator(".toast-body").last
    toast.wait_for()
    assert page.locator(".toast-body img").count() == 0
    return toast.inner_text()


def test_puzzle_tab(page, app, parent, child, child_folder):
    page.locator("#peak input").uncheck()
    page.locator("#compare").click()
    page.wait_for_selector("#numbers table")
    texts = [page.locator(f"#{who}_text textarea").input_value() for who in ("parent", "child")]
    assert texts == [greedy(parent, app.PROMPT, 32), greedy(child, app.PROMPT, 32)]
    for opened in (parent, child):
        assert f"{weight_bytes(opened.model) / 1e6:,.2f} MB" in page.locator("#numbers").inner_text()
    assert page.locator("#layers tbody tr").count() == 8
    fill(page, "child_name", "me/secret")  # a repository that only the token of whoever started the page can read
    page.locator("#compare").click()
    assert "me/secret cannot be fetched: it does not exist, is not public" in message(page)
    assert not (child_folder / "ran").exists()


def test_a_child_is_uploaded(page, app, child, child_folder):
    page.locator("#peak input").uncheck()
    page.get_by_role("button", name="or upload a model folder").nth(1).click()
    page.locator("#child_files input[type=file]").set_input_files(str(child_folder))
    page.wait_for_selector("#child_files :text('model')")
    fill(page, "child_name", "no/such")
    page.locator("#compare").click()
    page.wait_for_selector("#numbers table")
    assert page.locator("#child_text textarea").input_value() == greedy(child, app.PROMPT, 32)
    assert not (child_folder / "ran").exists()


def test_pcw_tab(page, app, parent):
    page.get_by_role("tab", name="PCW").click()
    page.locator("#classify").click()
    page.wait_for_selector("#scores table")
    shots = app.read_demonstrations(app.DEMONSTRATIONS, None)
    expected = app.classify(parent, shots, "from io import BytesIO", 4, "pcw", "{text} -> {label}", True)
    columns = [page.locator(f"#scores tbody td:nth-child({n})").all_inner_texts() for n in (1, 2)]
    rows = [(label, score.strip()) for label, score in zip(*columns, strict=True)]
    assert rows == [(label, f"{score:.4f}") for label, score in expected.scores]
    assert page.locator("#layout textarea").input_value() == expected.layout


def test_hostile_labels_and_demonstrations_are_shown_as_text(page):
    page.get_by_role("tab", name="PCW").click()
    fill(page, "shots", f"{HOSTILE} => {HOSTILE}\nimport os => import")
    page.locator("#template input, #template textarea").first.fill("{text} -> {label}")
    page.get_by_label("number input for Windows").fill("1")
    page.locator("#classify").click()
    page.wait_for_selector("#scores table")
    assert HOSTILE in page.locator("#scores tbody").inner_text()
    assert page.locator("#scores img, #layout img").count() == 0
    fill(page, "shots", f"{HOSTILE} without a label")
    page.locator("#classify").click()
    assert "<img src=x onerror=" in message(page)


def test_mrkl_tab(page, app, parent, settings):
    page.get_by_role("tab", name="MRKL").click()
    fill(page, "question", QUESTION)
    page.locator("#ask").click()
    page.wait_for_selector("#trace table")
    reply, _ = app.ask(parent, QUESTION, "2022-05-02", "jurassic_x", None, settings)
    assert page.locator("#answer textarea").input_value() == reply["generated_text"]
    cells = page.locator("#trace tbody tr td:nth-child(2)").all_inner_texts()
    assert cells == [step["expert"] for step in reply["trace"]]
    assert app.route(reply) in page.locator("#trace").inner_text()
    fill(page, "question", f"How much is 7 {HOSTILE} plus 5?")
    page.locator("#ask").click()
    page.wait_for_function("document.querySelector('#answer textarea').value !== 'Tidemark Energy: 15 %'")
    assert page.locator("#trace img, #answer img").count() == 0
    fill(page, "today", "1 May")
    page.locator("#ask").click()
    assert "1 May" in message(page)
