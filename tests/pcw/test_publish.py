"""The `custom_generate` folder; the process without hf_puzzle is in tests/remote/test_pipeline_pcw.py."""

import pytest
import torch
from pcw_models import byte_level, tiny_llama
from transformers import AutoModelForCausalLM

from hf_puzzle.pcw import PCWError, write_custom_generate


TASK = torch.tensor([[5, 6, 7]])
CONTEXTS = [[8, 9, 10, 11], [12, 13]]


@pytest.fixture
def model():
    return tiny_llama(byte_level())


def test_the_folder_generates_as_the_package(model, tmp_path):
    from hf_puzzle.pcw import generate

    folder = write_custom_generate(tmp_path / "pcw")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "README.md",
        "custom_generate/cache_pcw.py",
        "custom_generate/caches_puzzle.py",
        "custom_generate/generate.py",
        "custom_generate/generation_pcw.py",
        "custom_generate/masks_pcw.py",
        "custom_generate/modes_pcw.py",
        "custom_generate/requirements.txt",
        "custom_generate/scoring_pcw.py",
        "custom_generate/weights_pcw.py",
    ]
    settings = {"contexts": CONTEXTS, "prefix": [1], "max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
    expected = generate(TASK, model=model, **settings)
    assert torch.equal(model.generate(TASK, custom_generate=str(folder), trust_remote_code=True, **settings), expected)
    beams = model.generate(
        input_ids=TASK,
        custom_generate=str(folder),
        trust_remote_code=True,
        num_beams=3,
        num_return_sequences=2,
        **settings,
    )
    assert beams.shape[0] == 2


def test_one_context_generates_as_the_joined_prompt(model, tmp_path):
    folder = write_custom_generate(tmp_path / "pcw")
    plain = model.generate(
        torch.tensor([[1, *CONTEXTS[0], 5, 6, 7]]), max_new_tokens=5, do_sample=False, pad_token_id=2
    )
    found = model.generate(
        TASK, contexts=CONTEXTS[:1], prefix=[1], custom_generate=str(folder), trust_remote_code=True,
        max_new_tokens=5, do_sample=False, pad_token_id=2,
    )  # fmt: skip
    assert found[0, 3:].tolist() == plain[0, 8:].tolist()


def test_a_model_folder_that_holds_it_generates_so_by_itself(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    write_custom_generate(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    expected = model.generate(
        TASK, contexts=CONTEXTS, custom_generate=str(tmp_path), trust_remote_code=True, max_new_tokens=4
    )
    assert torch.equal(loaded.generate(TASK, contexts=CONTEXTS, max_new_tokens=4), expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "contexts"),
        ({"contexts": []}, "contexts is"),
        ({"contexts": [[5], []]}, "window 1 is empty"),
        ({"contexts": [[5] * 300]}, r"window 0 is \d+ tokens too long"),
        ({"contexts": CONTEXTS, "use_cache": False}, "use_cache=False"),
    ],
)
def test_bad_input_is_refused(model, tmp_path, settings, message):
    folder = write_custom_generate(tmp_path / "pcw")
    # the folder's PCWError is a class of its own copy, hence its base
    with pytest.raises(ValueError, match=message):
        model.generate(TASK, custom_generate=str(folder), trust_remote_code=True, **settings)
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.generate(TASK, contexts=CONTEXTS, custom_generate=str(folder), trust_remote_code=False)
    assert issubclass(PCWError, ValueError)
