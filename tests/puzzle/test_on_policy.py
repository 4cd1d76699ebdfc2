"""A second phase of GKD on what the child writes: on prompts of training chats, gated, and resumable."""

import json

import pytest
import torch
from tiny_run import write_recipes
from transformers import LlamaConfig, LlamaForCausalLM

from hf_puzzle import artifacts
from hf_puzzle.corpora import is_heldout, open_corpus
from hf_puzzle.data import DataError, train_tokenizer
from hf_puzzle.puzzle import pipeline
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import DataConfig, load_recipe


TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + ' ' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A chat parent of random weights, chats, and a recipe that distils on both texts."""
    folder = write_recipes(tmp_path_factory.mktemp("on_policy"))
    tokenizer = train_tokenizer(DataConfig(name="python-stdlib", heldout_fraction=0.5), 300, num_documents=5)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=512, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2, max_position_embeddings=256,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|end|>"),
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "chatter")
    tokenizer.save_pretrained(folder / "chatter")
    rows = [{"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"so {i} " * 9}]} for i in range(400)]  # fmt: skip
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run_of(folder, out, *settings):
    changes = [
        "parent.name=chatter", "parent.recipe=null", "data.name=json", "data.text_column=messages",
        f"data.data_files=[{folder / 'chats.jsonl'}]", "distill.on_policy_tokens=256", "chats.num_chats=12",
        "chats.batch_size=6", "chats.max_new_tokens=24", "baselines.names=[]", *settings,
    ]  # fmt: skip
    return PuzzleRun(load_recipe(folder / "tiny.yaml", changes), out, folder)


def run_to(run, last):
    for stage in run.stages():
        run.run(only=stage.name)
        if stage.name == last:
            return


@pytest.fixture(scope="module")
def distilled(folder, tmp_path_factory):
    """A run up to GKD, with what its second phase was given."""
    seen, run = {}, run_of(folder, tmp_path_factory.mktemp("run"))
    plain = pipeline.write_chats

    def noted(path, model, tokenizer, config, ends, seed, prompts):
        seen["prompts"] = list(prompts)
        seen["model"] = model.config.model_type
        result = plain(path, model, tokenizer, config, ends, seed, iter(seen["prompts"]))
        seen["chats"] = [row["messages"] for row in artifacts.read_jsonl(path)]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_chats", noted)
        run_to(run, "distill")
    return run, seen


def test_the_child_answers_training_prompts_only(distilled):
    run, seen = distilled
    fraction = run.recipe.data.heldout_fraction
    heldout = {d[0]["content"] for name, d in open_corpus(run.corpus) if is_heldout(name, fraction)}
    asked = {prompt for batch in seen["prompts"] for prompt in batch}
    assert asked
    assert not asked & heldout
    assert seen["model"] == "nemotron-nas"
    assert len(seen["chats"]) == 12


def test_both_phases_are_told_and_neither_makes_it_worse(distilled):
    run, _ = distilled
    facts = artifacts.read_json(run.run_dir / "distilled" / "puzzle.json")["gkd"]
    assert facts["kl_after"] <= facts["kl_before"]
    assert facts["steps"] == 256 // (4 * 16) + 256 // (4 * 16)
    assert not (run.run_dir / "distill_checkpoints").exists()


def test_a_parent_that_cannot_chat_is_refused_before_any_compute(folder, tmp_path):
    run = run_of(folder, tmp_path / "run", "data.name=text", f"data.data_files=[{folder / 'corpus' / '*.txt'}]")
    run.tokenizer.chat_template = None
    with pytest.raises(DataError, match="on_policy_tokens"):
        run.check()
