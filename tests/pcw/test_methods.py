"""Ways to classify the same texts: each equals what it is by definition, and names the rows it makes."""

import pytest
import torch
from pcw_models import tiny_llama

from hf_puzzle import parse_recipe
from hf_puzzle.pcw import evaluate
from hf_puzzle.pcw.methods import CALIBRATED, Case, is_simpler, names_of
from hf_puzzle.remote.generation_pcw import encode_windows, score_labels
from hf_puzzle.remote.modes_pcw import MODES
from hf_puzzle.remote.windows_pcw import Tokens, lay_out_demonstrations, tokenize_labels


WAYS = ["nearest", "linear_embeddings", "long_prompt", "similar", "similar_windows"]
RECIPE = {
    "system": "pcw", "device": "cpu", "train": {"num_steps": 1}, "datasets": [{"name": "episode", "num_classes": 8}],
    "protocol": {"num_windows": [1, 2], "test_items": 6, "context_size": 40, "calibrate": "both", "similar_shots": 3,
                 "baselines": WAYS, "embeddings": "none"},
}  # fmt: skip


def encoder(shots, texts):
    """Texts by their letters."""
    rows = [torch.tensor([float(text.count(c)) for c in "abcdefghijklmnopqrstuvwxyz"]) for text in (*shots, *texts)]
    rows = torch.nn.functional.normalize(torch.stack(rows), dim=1)
    return rows[: len(shots)], rows[len(shots) :]


@pytest.fixture(scope="module")
def case():
    recipe = parse_recipe(RECIPE)
    tokenizer = evaluate.make_tokenizer()
    examples = evaluate.load_examples(recipe.datasets[0], 6, 0)
    labels = tokenize_labels(Tokens(tokenizer), examples.labels, examples.template)
    sizes = evaluate.measure(examples, labels, Tokens(tokenizer), 40)
    dealt = evaluate.lay_out(tokenizer, examples, sizes, recipe.protocol, 2, 0)
    model = tiny_llama(tokenizer, positions=256)
    texts = [example.inputs for example in examples.test]
    return Case(model, tokenizer, examples.template, labels, dealt, texts, recipe.protocol, encoder)


@pytest.fixture(scope="module")
def rows(case):
    return dict(case.scores(names_of(case.protocol, 2)))


def test_rows_are_those_that_are_named(case, rows):
    read = [*MODES, "long_prompt", "similar", "similar_windows"]
    assert (
        sorted(rows)
        == sorted([*MODES, *WAYS, *(name + CALIBRATED for name in read)])
        == sorted(names_of(case.protocol, 2))
    )
    assert list(dict(case.scores(["similar", "pcw" + CALIBRATED]))) == ["pcw" + CALIBRATED, "similar"]
    assert "similar" not in names_of(case.protocol, 1)
    simpler = {name for name in rows if is_simpler(name)}
    assert simpler == {"nearest", "linear_embeddings"} | {
        n + c for n in ("long_prompt", "similar") for c in ("", CALIBRATED)
    }


def test_modes_read_together_say_what_each_says_alone(case, rows):
    layout = case.dealt.layout
    encoded = encode_windows(case.model, layout.windows, layout.prefix)
    tasks = [layout.task(case.template.separator + case.template.task(inputs)) for inputs in case.texts]
    for mode in MODES:
        alone = score_labels(case.model, encoded, tasks, case.labels.tokens, mode=mode).log_softmax(-1)
        torch.testing.assert_close(rows[mode], alone, atol=1e-5, rtol=0)
    calibrated = rows["pcw" + CALIBRATED].log_softmax(-1)
    assert (calibrated - rows["pcw"]).abs().max() > 1e-3


def prompts(case, pieces, inputs):
    """(prefix, ids) of one plain prompt of demonstrations and the text."""
    tokens, template = Tokens(case.tokenizer), case.template
    text = template.separator.join([*pieces, template.task(inputs)])
    return tokens.start(), tokens.ids(text)


def plain_scores(case, ids):
    """Labels after one plain prompt, by the model itself."""
    logits = case.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    assert all(len(label) == 1 for label in case.labels.tokens)
    return logits[[label[0] for label in case.labels.tokens]].log_softmax(-1)


def test_similar_is_a_plain_prompt_of_the_most_similar_shots(case, rows):
    shots = case.dealt.shots
    known, asked = encoder([" ".join(each.inputs) for each in shots], [" ".join(each) for each in case.texts])
    for row, inputs, similar in zip(rows["similar"], case.texts, asked @ known.T, strict=True):
        chosen = similar.topk(3).indices.flip(0).tolist()
        pieces = [case.template.demonstration(shots[i].inputs, shots[i].label) for i in chosen]
        prefix, ids = prompts(case, pieces, inputs)
        torch.testing.assert_close(row, plain_scores(case, [*prefix, *ids]), atol=1e-5, rtol=0)


def test_the_long_prompt_is_a_plain_prompt_of_all_shots(case, rows):
    shots, layout = case.dealt
    whole = lay_out_demonstrations(
        case.tokenizer,
        shots,
        case.labels.names,
        case.template,
        256,
        num_windows=1,
        task_tokens=layout.context - layout.room,
    )
    assert sorted(whole.members[0]) == list(range(len(shots)))
    for row, inputs in zip(rows["long_prompt"], case.texts, strict=True):
        task = whole.task(case.template.separator + case.template.task(inputs))
        torch.testing.assert_close(
            row, plain_scores(case, [*whole.prefix, *whole.windows[0], *task]), atol=1e-5, rtol=0
        )
