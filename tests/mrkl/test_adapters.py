"""Adapters on one frozen model: calls in slot ids, always valid; the model unchanged without them; saved, loaded."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
import transformers

from hf_puzzle.mrkl.adapters import (
    accuracy,
    adapters_of,
    answer_of,
    compare_readers,
    encode_pair,
    fit,
    items_of,
    make_model,
    make_tokenizer,
    pair_rows,
    plan_accuracy,
    train_adapter,
    world_examples,
    world_rows,
    write,
)
from hf_puzzle.mrkl.confidence import fit_judge
from hf_puzzle.mrkl.data import solve
from hf_puzzle.mrkl.pairs import KNOWN, TASKS, arithmetic, pairs_for, plan_items, weather
from hf_puzzle.mrkl.publish import write_custom_generate
from hf_puzzle.mrkl.run import phrase_rows, run_recipe
from hf_puzzle.recipe import RecipeError, load_recipe, parse_recipe
from hf_puzzle.remote.adapters_mrkl import (
    SEPARATOR,
    Adapters,
    Phraser,
    decode_items,
    disabled,
)
from hf_puzzle.remote.caches_puzzle import OUTPUT_NAME, SWITCH
from hf_puzzle.remote.calls_mrkl import MRKLError
from hf_puzzle.remote.experts_mrkl import Calculator, Currency, Experts, Units, Weather
from hf_puzzle.remote.known_mrkl import Known
from hf_puzzle.remote.pipeline_mrkl import MrklPipeline
from hf_puzzle.remote.planner_mrkl import Planner
from hf_puzzle.remote.plans_mrkl import DONE, FEATURES, Judge, PlanGrammar, PlanReader
from hf_puzzle.remote.slots_mrkl import read
from hf_puzzle.remote.soft_prompts_mrkl import soft_prompt_settings


RECIPES = Path(__file__).parents[2] / "recipes" / "mrkl"
EXPERTS = {
    "calculator": Calculator(),
    "units": Units(),
    "currency": Currency({"base": "EUR", "rates": {"2022-05-02": {"USD": "1.05"}}}),
    "weather": Weather({"Kelby|2022-03-01": {"tmax": 9}}),
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def model():
    return make_model(0, **SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A soft prompt and two LoRAs after a few steps."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = {
        "calculator": [(p.question, p.items) for p in arithmetic(64, 0)],
        "plan": pair_rows(["units", "calculator"], 32, 0),
        "phrase": phrase_rows(64, 0),
    }
    for name, pairs in rows.items():
        method = "prompt" if name == "calculator" else "lora"
        trained, facts = train_adapter(
            make_model(0, **SMALL), tokenizer, pairs, name, method, steps=6, virtual_tokens=4, batch_size=8
        )
        assert facts["trainable"] == (4 * 64 if method == "prompt" else facts["trainable"])
        trained.save_pretrained(str(folder))
    return folder


# -- pairs


@pytest.mark.parametrize("operations", [1, 2])
def test_the_call_of_a_pair_comes_to_its_answer(operations):
    for mode in ("slots", "copy", "alone"):
        for pair in arithmetic(60, 3, (1, 2, 5, 9), mode, operations=operations):
            assert answer_of("".join(pair.items), pair, mode) == pair.answer, pair


def test_pools_share_no_wording():
    seen = {p.question for p in arithmetic(800, 0)}
    for pool in ("carrier", "operator"):
        assert not seen & {p.question for p in arithmetic(200, 1, pool=pool)}
    assert not {p.question for p in weather(200, 0)} & {p.question for p in weather(100, 1, "carrier")}


@pytest.mark.parametrize("name", TASKS)
def test_pairs_are_in_the_grammar_of_plans(name):
    for pair in pairs_for(name, 40, 2):
        reading = read(pair.text, KNOWN)
        grammar = PlanGrammar(EXPERTS, reading)
        assert reading.masked == pair.question
        items = []
        for item in items_of(pair):
            assert item in grammar.next(items), (pair, item)
            items.append(item)
        assert grammar.next(items) == []
        plan = grammar.plan(items, KNOWN.today)
        assert [step.expert for step in plan.steps] == [name]
        EXPERTS[name].check(plan.steps[0].arguments)


def test_gold_plans_of_worlds_are_in_the_grammar_and_come_to_the_same(tmp_path):
    kept = 0
    for path, world, example in world_examples("train", 60, 3, tmp_path, 1):
        experts = Experts.from_fixtures(path, world.today)
        known = Known.of(experts, world.today)
        reading = read(example.query, known)
        items, grammar = plan_items(example.calls, reading, world.today), PlanGrammar(experts, reading)
        for i, item in enumerate(items or ()):
            assert item in grammar.next(items[:i]), (example.query, items[:i], item)
        plan = items and grammar.plan(items, world.today)
        if plan:
            kept += 1
            gold, status = solve(example.calls, experts)
            found = Planner(experts, known).run(plan)
            assert (found["status"], found["trace"][-1]["result"]) == (status, gold[-1])
    assert kept > 20


def test_items_are_encoded_as_decoding_writes_them(tokenizer):
    pair = arithmetic(1, 0)[0]
    _, ids = encode_pair(tokenizer, pair.question, pair.items)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "".join(pair.items)


# -- decoding


def test_an_untrained_model_writes_valid_calls_only(model, tokenizer):
    rng = random.Random(0)
    for _ in range(40):
        name = rng.choice(TASKS)
        pair = pairs_for(name, 5, rng.randrange(10**6))[0]
        grammar = PlanGrammar(EXPERTS, read(pair.text, KNOWN))
        prompt = tokenizer(pair.question + SEPARATOR)["input_ids"]
        items, probability = decode_items(model, tokenizer, prompt, grammar.next, 200)
        assert grammar.next(items) == []
        for step in getattr(grammar.plan(items, KNOWN.today), "steps", ()):
            EXPERTS[step.expert].check(step.arguments)
        assert 0 <= probability <= 1


def test_decoding_follows_the_likelier_item(model, tokenizer):
    prompt = tokenizer("which?" + SEPARATOR)["input_ids"]

    def following(items):
        return [] if items else [" <n0>", " <n1>"]

    items, probability = decode_items(model, tokenizer, prompt, following)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    ids = [tokenizer(item)["input_ids"] for item in (" <n0>", " <n1>")]
    assert all(len(each) == 1 for each in ids)
    pair = logits[[each[0] for each in ids]].softmax(0)
    assert items == [[" <n0>", " <n1>"][int(pair.argmax())]]
    assert probability == pytest.approx(pair.max().item(), rel=1e-4)
    with pytest.raises(MRKLError, match="within 3 tokens"):
        decode_items(model, tokenizer, prompt, lambda items: [" <n0>"], max_tokens=3)


def test_an_expert_is_named_only_where_slots_can_be_its_arguments():
    grammar = PlanGrammar(EXPERTS, read("what is the sum of 3 and 4?", KNOWN))
    assert grammar.next([]) == [" calculator", " none"]
    written = [" calculator", " <n0>", " +", " <n0>", " ;", DONE]
    # a slot that the plan does not use may be what the question is about
    assert grammar.plan(written, KNOWN.today) is None
    assert grammar.plan([*written[:3], " <n1>", *written[4:]], KNOWN.today).steps[0].arguments == {
        "expression": "3 + 4"
    }


def test_the_judge_keeps_its_precision():
    rng = random.Random(0)
    rows = [dict.fromkeys(FEATURES, 0.0) | {"logp": -rng.random() * 4} for _ in range(200)]
    right = [row["logp"] > -2 or rng.random() < 0.2 for row in rows]
    judge = fit_judge(rows, right, 0.95)
    taken = [hit for row, hit in zip(rows, right, strict=True) if judge.confidence(row) >= judge.threshold]
    assert len(taken) >= 50
    assert sum(taken) / len(taken) >= 0.95
    assert fit_judge(rows, [False] * 200).threshold == 1.0
    with pytest.raises(ValueError, match="at least one"):
        fit_judge([], [])


# -- adapters


def test_a_model_learns_slots_and_the_grammar_only_helps(tokenizer):
    small = make_model(1, **SMALL)
    pairs = arithmetic(1500, 0, diverse=False)
    loss = fit(small, tokenizer, [(p.question, items_of(p)) for p in pairs], 60, 1e-2, 32, muon=True)
    assert loss < 1.5
    tests = arithmetic(20, 9, (6,), diverse=False)
    free = plan_accuracy(small, tokenizer, EXPERTS, tests, constrained=False)
    bound = plan_accuracy(small, tokenizer, EXPERTS, tests)
    assert 0 <= free <= bound <= 1
    assert accuracy(small, tokenizer, tests, "slots") >= free


def test_other_methods_are_refused(model, tokenizer):
    with pytest.raises(MRKLError, match="lora, prompt, full"):
        train_adapter(model, tokenizer, [], "x", "prefix")


def test_adapters_are_silent_until_they_are_used(model, tokenizer, folders):
    ids = torch.tensor([tokenizer("what is <n0> plus <n1> ?")["input_ids"]])
    with torch.no_grad():
        before = model(ids).logits
        adapters = Adapters(model, {name: folders / name for name in ("calculator", "plan", "phrase")})
        assert torch.equal(model(ids).logits, before)
        outputs = {}
        for name in ("calculator", "plan", "phrase", "plan"):
            with adapters.use(name) as adapted:
                logits = adapted(input_ids=ids).logits[:, -ids.shape[1] :]
                assert not torch.equal(logits, before)
                assert torch.equal(outputs.setdefault(name, logits), logits)
                with disabled(model):
                    assert torch.equal(model(ids).logits, before)
            assert torch.equal(model(ids).logits, before)
    assert "plan" in adapters
    with pytest.raises(MRKLError, match="nearest known: plan"), adapters.use("plans"):
        pass
    with pytest.raises(MRKLError, match="holds no adapter"):
        adapters.load("x", folders)


def soft_prompt(model, kind, seed=1):
    """A PeftModel with random virtual tokens that matter."""
    import peft

    settings = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    kinds = {"prompt": peft.PromptTuningConfig, "p": peft.PromptEncoderConfig, "prefix": peft.PrefixTuningConfig}
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(model, kinds[kind](**settings), adapter_name=kind).eval()
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.5)
    return wrapped


def uncached(wrapped, ids, new):
    for _ in range(new):
        with torch.no_grad():
            logits = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("kind", ["prompt", "p", "prefix"])
def test_soft_prompts_generate_what_they_compute_or_are_refused(tokenizer, tmp_path, kind):
    """transformers 5.24 and peft 0.21.2 generate wrong tokens after each of them."""
    ids = torch.tensor([tokenizer("what is <n0> plus <n1> ?")["input_ids"]])
    soft_prompt(make_model(0, **SMALL), kind).save_pretrained(str(tmp_path))
    adapters = Adapters(make_model(0, **SMALL).eval(), {kind: tmp_path / kind})
    end = tokenizer.eos_token_id
    words = [f" <n{i}>" for i in range(10)]
    with adapters.use(kind) as wrapped:
        expected = uncached(wrapped, ids, 6)
        found, refused = None, None
        try:
            found = decode_items(wrapped, tokenizer, ids[0].tolist(), lambda items: words if len(items) < 4 else [])[0]
            settings = soft_prompt_settings(wrapped)
        except MRKLError as error:
            refused = str(error)
        if refused is None:
            new = wrapped.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, min_new_tokens=6,
                do_sample=False, pad_token_id=end, **settings,
            )  # fmt: skip
            assert torch.equal(new, expected)
            allowed = torch.tensor([tokenizer(word)["input_ids"][0] for word in words])
            tokens = ids
            for word in found:
                with torch.no_grad():
                    logits = wrapped(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0, -1]
                assert word == words[int(logits[allowed].argmax())]
                tokens = torch.cat([tokens, torch.tensor([tokenizer(word)["input_ids"]])], dim=1)
    assert refused is None or re.search(f"transformers {transformers.__version__} and peft .*LoRA", refused)
    if OUTPUT_NAME == "past_key_values" or kind != "prefix":
        assert refused is None


def test_the_proof_of_a_soft_prompt_finds_what_is_right(model, monkeypatch):
    class Bent:
        """`generate` whose logits are wrong with a cache, or always."""

        def __init__(self, wrapped, always):
            self.stock, self.always, self.calls = wrapped.generate, always, []

        def __call__(self, **arguments):
            self.calls.append(arguments.get("use_cache"))
            if arguments.get("use_cache") is None or self.always:
                arguments["logits_processor"] = [lambda ids, scores: scores.roll(1, -1)]
                arguments["output_scores"] = True
                found = self.stock(**arguments)
                found.logits = found.scores
                return found
            return self.stock(**arguments)

    wrapped = soft_prompt(make_model(0, **SMALL), "prompt")
    monkeypatch.setattr(wrapped, "generate", Bent(wrapped, always=False))
    assert soft_prompt_settings(wrapped) == soft_prompt_settings(wrapped) == {"use_cache": False}
    assert wrapped.generate.calls == [None, False]  # once
    other = soft_prompt(make_model(0, **SMALL), "prompt")
    monkeypatch.setattr(other, "generate", Bent(other, always=True))
    with pytest.raises(MRKLError, match=r"\(PROMPT_TUNING; .*transformers 5.23 with peft 0.21.2, or train .* LoRA"):
        soft_prompt_settings(other)
    monkeypatch.setenv(SWITCH, "0")
    assert soft_prompt_settings(other) == {}
    assert soft_prompt_settings(model) == {}


def test_calls_inside_generate_under_a_soft_prompt(tokenizer, tmp_path):
    """The folder's function is called with the model below the PeftModel, which knows nothing of its prompt."""

    def double(value: int) -> int:
        """
        Twice a number.

        Args:
            value: The number
        """
        return 2 * value

    wrapped = soft_prompt(make_model(0, **SMALL), "prompt")
    ids = torch.tensor([tokenizer("what is <n0> plus <n1> ?")["input_ids"]])
    write_custom_generate(tmp_path)
    for _ in range(2):
        found = wrapped.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), custom_generate=str(tmp_path), trust_remote_code=True,
            tokenizer=tokenizer, experts=[double], max_new_tokens=6, min_new_tokens=6, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        assert torch.equal(found, uncached(wrapped, ids, 6))


def test_trained_adapters_can_be_used_without_a_folder(tokenizer):
    small = make_model(0, **SMALL)
    rows = [(p.question, p.items) for p in arithmetic(16, 0)]
    trained, _ = train_adapter(small, tokenizer, rows, "calculator", "lora", 2, batch_size=4)
    adapters = adapters_of(small, {"calculator": trained})
    questions = [p.question for p in arithmetic(3, 1)]
    plain = write(small, tokenizer, questions, 6)
    with adapters.use("calculator") as adapted:
        assert len(write(adapted, tokenizer, questions, 6)) == 3
    assert write(small, tokenizer, questions, 6) == plain


# -- plan reader, phraser: saved with a pipeline


def test_the_model_reads_where_the_judge_is_sure(model, tokenizer, folders):
    reader = PlanReader(folders / "plan", Judge(threshold=0.0))
    reader.attach(model, tokenizer)
    query = "fiddle 5 miles round to feet"
    plan, confidence = reader.plan(query, KNOWN, {"units": EXPERTS["units"]}) or (None, None)
    if plan is not None:
        assert {plan.steps[0].arguments["from"], plan.steps[0].arguments["to"]} == {"mile", "foot"}
        assert 0 < confidence < 1
    assert PlanReader(folders / "plan").plan(query, KNOWN, EXPERTS) is None
    assert reader.plan("write a poem", KNOWN, EXPERTS) is None


def test_readers_are_compared_on_what_the_judge_was_not_fitted_on(model, tokenizer, folders, tmp_path):
    reader = PlanReader(folders / "plan")
    reader.attach(model, tokenizer)
    found = compare_readers(reader, world_examples("dev", 12, 1, tmp_path, 1))
    for name in ("grammar", "model", "both"):
        assert found[name]["n"] == 6 == sum(found[name][key] for key in ("right", "left", "wrong"))
    # an untrained reader gains nothing, and is left out
    assert found["both"]["right"] == found["grammar"]["right"]
    assert not found["earns"]


def test_a_pipeline_keeps_its_adapters(model, tokenizer, folders, tmp_path):
    reader, phraser = PlanReader(folders / "plan", Judge(threshold=0.25)), Phraser(folders / "phrase")
    ask = MrklPipeline(
        model=model, tokenizer=tokenizer, experts=[Units(), Calculator()], today="2022-05-02", plan_reader=reader,
        phraser=phraser,
    )  # fmt: skip
    queries = ["convert 3 miles to feet", "what is 2 plus 3?", "fiddle 5 miles round to feet"]
    replies = ask(queries, max_new_tokens=5, phrase=True, do_sample=False)
    ask.save_pretrained(tmp_path / "p")
    from transformers import pipeline

    loaded = pipeline("mrkl", model=str(tmp_path / "p"), pipeline_class=MrklPipeline)
    assert loaded(queries, max_new_tokens=5, phrase=True, do_sample=False) == replies
    assert loaded.plan_reader.judge == reader.judge
    assert loaded.phraser.say("q", "5", KNOWN) == ask.phraser.say("q", "5", KNOWN)


# -- the recipe

TINY = {
    "system": "mrkl", "today": "2022-05-02", "threads": 1, "train": {"num_steps": 3, "batch_size": 8, "config": SMALL},
    "adapters": {"experts": ["calculator"], "num_steps": 2, "num_pairs": 16, "batch_size": 4},
    "phrase": {"num_steps": 2, "num_pairs": 16}, "evaluate": {"questions": 4, "digits": [1]},
    "questions": ["What is 2 plus 3?"],
}  # fmt: skip


def test_a_recipe_runs_from_end_to_end_and_not_twice(tmp_path):
    said = []
    report = run_recipe(parse_recipe(TINY), tmp_path / "run", tmp_path, say=said.append)
    assert "=> 5" in report
    assert "| calculator |" in report
    assert (tmp_path / "run" / "pipeline" / "mrkl.json").exists()
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert set(evaluation) >= {"calls", "digits"}
    again = []
    assert run_recipe(parse_recipe(TINY), tmp_path / "run", tmp_path, say=again.append) == report
    assert not any("done" in line for line in again)


def test_training_questions_of_worlds_are_reproducible():
    rows = world_rows(24, 5, 1)
    assert rows == world_rows(24, 5, 1)
    assert {items[0] for _, items in rows} > {" calculator", " none"}


@pytest.mark.parametrize("name", ["tiny_cpu", "jurassic_x", "smollm2"])
def test_shipped_recipes_parse(name):
    assert load_recipe(RECIPES / f"{name}.yaml").system == "mrkl"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": {"name": "x"}}, "either train"),
        ({"train": None}, "either train"),
        ({"changes": [{"sql": "x", "ask": "y"}]}, "shop.sqlite"),
        ({"questionz": []}, "questions"),
    ],
)
def test_wrong_recipes_are_said(tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        run_recipe(parse_recipe({**TINY, **change}), tmp_path / "run", tmp_path)
