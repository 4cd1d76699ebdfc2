"""Parallel windows against one explicit pass with a block mask and shared positions, over architectures."""

import functools
import inspect
import itertools
import math
import sys
import threading

import pytest
import torch
import transformers
from families import FAMILIES, SIZES, block_kinds, family_child, family_model, own_block, spread
from pcw_models import byte_level, tiny_llama
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from hf_puzzle import formats
from hf_puzzle.blocks import Block
from hf_puzzle.pcw.publish import write_custom_generate
from hf_puzzle.remote import cache_pcw, masks_pcw, scoring_pcw
from hf_puzzle.remote import generation_pcw as pcw
from hf_puzzle.remote.caches_puzzle import NAMES, OUTPUT_NAME, SWITCH
from hf_puzzle.remote.generation_pcw import PCWError, encode_windows, generate, score_labels, task_logits
from hf_puzzle.remote.scoring_pcw import recompute_starts


TOKENS = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT = TOKENS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "initializer_range": 0.1}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "n_shared_experts": 1}
MORE = {
    "gpt2": ("GPT2", GPT),
    "gpt_bigcode": ("GPTBigCode", GPT),
    "gptj": ("GPTJ", GPT | {"rotary_dim": 4}),
    "opt": ("OPT", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.1}),
    "phi": ("Phi", SIZES),
    "falcon": ("Falcon", SIZES | {"alibi": False}),
    "gemma": ("Gemma", SIZES | {"head_dim": 16}),
    "deepseek_v3": ("DeepseekV3", SIZES | MLA | EXPERTS | {"moe_intermediate_size": 32, "first_k_dense_replace": 1}),
    "bloom": ("Bloom", TOKENS | {"hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.1}),
    "mpt": (
        "Mpt",
        TOKENS | {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 128, "initializer_range": 0.1},
    ),
    "falcon_alibi": ("Falcon", SIZES | {"alibi": True}),
}
ARCHITECTURES = [*FAMILIES, *MORE]
SLIDING = {"mistral_windowed", "gemma2", "gemma3", "gpt_oss"}
ALIBI = {"bloom", "mpt", "falcon_alibi"}
TOLERANCE = 1e-5
PREFIX = (1, 5, 9)
SIX = {"max_new_tokens": 6, "min_new_tokens": 6}


def random_ids(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 128, (n,), generator=generator).tolist()) for n in lengths]


WINDOWS = random_ids(20, 24, 12)
TASKS = random_ids(7, 4, 9, seed=2)
LABELS = random_ids(1, 3, 2, seed=3)
LABELS += [LABELS[1][:2], LABELS[1][:1] + LABELS[2]]  # one begins another, one shares a beginning


def tiny(name, **overrides):
    if name in FAMILIES:
        return family_model(name, **overrides)
    stock, sizes = MORE[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{stock}Config")(**(sizes | overrides))
    return spread(transformers.AutoModelForCausalLM.from_config(config))


@pytest.fixture(scope="module")
def models():
    """A function from a name to the tiny model, which no test may change."""
    return functools.cache(tiny)


def distance(first, second):
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))


# -- the explicit single pass


def layout(prefix, windows, task, alignment="left"):
    """(ids, positions, allowed (L, L)) of windows and a task as one sequence."""
    longest = max(map(len, windows))
    segments = []  # ids, first position, which segments it sees, whether the task sees it
    if alignment == "left":
        segments.append((prefix, 0, (), True))
        segments += [(window, len(prefix), (0,), True) for window in windows]
    else:
        kept = [len(window) for window in windows].index(longest)
        for i, window in enumerate(windows):
            segments.append((prefix, longest - len(window), (), i == kept))
            segments.append((window, len(prefix) + longest - len(window), (2 * i,), True))
    seen = tuple(i for i, segment in enumerate(segments) if segment[3])
    segments.append((task, len(prefix) + longest, seen, True))
    ids = [i for segment in segments for i in segment[0]]
    positions = [first + i for tokens, first, *_ in segments for i in range(len(tokens))]
    owner = torch.tensor([i for i, segment in enumerate(segments) for _ in segment[0]])
    allowed = (owner[:, None] == owner) & torch.ones(len(ids), len(ids)).tril().bool()
    for i, segment in enumerate(segments):
        for other in segment[2]:
            allowed |= (owner[:, None] == i) & (owner == other)
    return torch.tensor([ids]), torch.tensor([positions]), allowed


def one_pass(model, prefix, windows, task, alignment="left"):
    """(L, V) logits of the task, without any of the code under test."""
    ids, positions, allowed = layout(prefix, windows, task, alignment)
    lowest = torch.finfo(torch.float32).min
    full = torch.where(allowed, 0.0, lowest)[None, None]
    config, inputs = model.config, {"position_ids": positions}
    window = getattr(config, "sliding_window", None)
    if window:
        near = positions[0][:, None] - positions[0] < window
        narrow = torch.where(allowed & near, 0.0, lowest)[None, None]
        mixed = "full_attention" in (getattr(config, "layer_types", None) or ())
        inputs["attention_mask"] = {"full_attention": full, "sliding_attention": narrow} if mixed else narrow
    elif config.model_type in ("bloom", "mpt") or getattr(config, "alibi", False):
        return alibi_pass(model, ids, positions, full)[0, -len(task) :]
    else:
        inputs["attention_mask"] = full
    return model(ids, use_cache=False, **inputs).logits[0, -len(task) :]


def alibi_pass(model, ids, positions, mask):
    module = sys.modules[type(model).__module__]
    heads = model.config.num_attention_heads
    biases = (2.0 ** (-8 * torch.arange(1, heads + 1) / heads))[:, None, None] * positions
    with pytest.MonkeyPatch.context() as patch:
        for name in ("build_alibi_tensor", "build_mpt_alibi_tensor"):
            patch.setattr(module, name, lambda *_, **__: biases, raising=False)
        patch.setattr(module, "create_causal_mask", lambda **_: mask)
        return model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits


def differences(model, windows=WINDOWS, prefix=PREFIX, tasks=TASKS, alignment="left"):
    """Largest differences of logits: against one pass (batched, packed), other orders, one window against plain."""
    expected = [one_pass(model, prefix, windows, task, alignment) for task in tasks]
    encoded = encode_windows(model, windows, prefix, alignment)
    batch = task_logits(model, encoded, tasks)
    found = {
        "batched": distance(batch, expected),
        "packed": distance(task_logits(model, encoded, tasks, packed=True), expected),
        "order": max(
            distance(task_logits(model, encode_windows(model, order, prefix, alignment, batch_size=2), tasks), batch)
            for order in (windows[::-1], windows[1:] + windows[:1])
        ),
    }
    alone = encode_windows(model, windows[:1], prefix, alignment)
    plain = [model(torch.tensor([prefix + windows[0] + task])).logits[0, -len(task) :] for task in tasks]
    return found | {"one window": distance(task_logits(model, alone, tasks), plain)}


def generated(model, task, **options):
    """(ids, logits (new, V)) of greedy generation."""
    options |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, **SIX}
    out = generate(torch.tensor([task]), model=model, **options)
    return tuple(out.sequences[0].tolist()), torch.cat(out.logits)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_one_pass_with_a_block_mask(name):
    model = tiny(name)
    assert pcw.check_model(model) == ("sliding" if name in SLIDING else "alibi" if name in ALIBI else "plain")
    found = differences(model)
    assert max(found.values()) <= TOLERANCE, found

    encoded = encode_windows(model, WINDOWS, PREFIX)
    ids, logits = generated(model, TASKS[0], encoded=encoded)
    assert distance([logits], [one_pass(model, PREFIX, WINDOWS, ids)[len(TASKS[0]) - 1 : -1]]) <= TOLERANCE
    assert ids == tuple(TASKS[0] + tuple(logits.argmax(-1).tolist()))

    trie, each = (score_labels(model, encoded, TASKS, LABELS, scores=s) for s in ("trie", "each"))
    assert distance(trie, each) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom"])
@pytest.mark.parametrize("prefix", [PREFIX, ()])
def test_alignment_and_prefix(name, prefix):
    model = tiny(name)
    for alignment in ("left", "right"):
        found = differences(model, prefix=prefix, alignment=alignment)
        assert max(found.values()) <= TOLERANCE, (alignment, found)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_attention_implementations(name, implementation):
    model = tiny(name)
    model.set_attn_implementation(implementation)
    assert max(differences(model).values()) <= TOLERANCE


def children():
    own = own_block("qwen3")
    kinds = block_kinds("qwen3")
    first = [kinds["no_attention"], own, kinds["kv_heads"], kinds["linear_attention"]]
    yield "layer 0 without attention", family_child("qwen3", first)
    yield "no attention at all", family_child("qwen3", [kinds["no_attention"]] * 4)
    yield "own windows", family_child("qwen3", [kinds["no_attention"], kinds["window"], own, kinds["window"]])
    slots = [Block("none", 256), Block(4, 256), Block("linear", 256), Block(2, 256)]
    yield "DeciLM", family_child("llama", slots, fmt=formats.DECILM, intermediate_size=256)


def test_puzzle_children():
    for name, model in children():
        encoded = encode_windows(model, WINDOWS, PREFIX)
        logits = task_logits(model, encoded, TASKS)
        if name != "own windows":  # their hooks count indices in a single pass
            assert distance(logits, [one_pass(model, PREFIX, WINDOWS, task) for task in TASKS]) <= TOLERANCE, name
        assert distance(task_logits(model, encoded, TASKS, packed=True), logits) <= TOLERANCE, name
        other = encode_windows(model, WINDOWS[::-1], PREFIX)
        assert distance(task_logits(model, other, TASKS), logits) <= TOLERANCE, name
        ids, new = generated(model, TASKS[0], encoded=encoded)
        assert distance([new], [task_logits(model, encoded, [ids])[0][len(TASKS[0]) - 1 : -1]]) <= TOLERANCE, name
        plain = model(torch.tensor([PREFIX + WINDOWS[0] + TASKS[0]])).logits[0, -len(TASKS[0]) :]
        alone = encode_windows(model, WINDOWS[:1], PREFIX)
        assert distance(task_logits(model, alone, TASKS[:1]), [plain]) <= TOLERANCE, name
        assert torch.equal(
            generate(torch.tensor([TASKS[0]]), model=model, encoded=alone, num_beams=3, **SIX)[:, len(TASKS[0]) :],
            model.generate(torch.tensor([PREFIX + WINDOWS[0] + TASKS[0]]), num_beams=3, **SIX)[:, -6:],
        ), name


# -- generation


WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 0.7},
    "beams": {"num_beams": 3},
    "beam samples": {"num_beams": 2, "num_return_sequences": 2, "do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 3},
}


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bloom", "mpt"])
def test_one_window_generates_as_plain(name):
    model, (window, task) = tiny(name), (WINDOWS[0], TASKS[0])
    for way, mode in itertools.product(WAYS, ("pcw", "ensemble", "single")):
        torch.manual_seed(0)
        plain = model.generate(torch.tensor([PREFIX + window + task]), use_cache=True, **WAYS[way], **SIX)
        torch.manual_seed(0)
        found = generate(
            torch.tensor([task]), model=model, contexts=[window], prefix=PREFIX, mode=mode, **WAYS[way], **SIX
        )
        assert torch.equal(found[:, : len(task)], torch.tensor([task]).expand(len(found), -1))
        assert torch.equal(found[:, len(task) :], plain[:, -6:]), (way, mode)


@pytest.mark.parametrize("name", ["llama", "mistral_windowed", "opt", "falcon_alibi"])
def test_batches_generate_as_single_tasks(name):
    model = tiny(name)
    encoded = encode_windows(model, WINDOWS, PREFIX)
    width = max(map(len, TASKS))
    batch = torch.tensor([(0,) * (width - len(task)) + task for task in TASKS])
    for mode in pcw.MODES:
        found = generate(batch, model=model, encoded=encoded, mode=mode, do_sample=False, **SIX)
        masked = generate(
            input_ids=batch.masked_fill(batch == 0, 7), attention_mask=(batch != 0).long(),
            model=model, encoded=encoded, mode=mode, do_sample=False, **SIX,
        )  # fmt: skip
        alone = [generated(model, task, encoded=encoded, mode=mode)[0][-6:] for task in TASKS]
        assert found[:, width:].tolist() == masked[:, width:].tolist() == list(map(list, alone)), mode


def test_streamer_criteria_and_processors(models):
    model, encoded = models("gemma2"), encode_windows(models("gemma2"), WINDOWS, PREFIX)

    class Stream:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    stream = Stream()
    task = torch.tensor([TASKS[0]])
    found = generate(
        task, model=model, encoded=encoded, do_sample=False, streamer=stream, max_new_tokens=9,
        stopping_criteria=[lambda ids, scores: torch.full(ids.shape[:1], ids.shape[1] >= 11)],
        logits_processor=[lambda ids, scores: scores.index_fill(1, torch.tensor([2, 50]), -math.inf)],
    )  # fmt: skip
    assert found.shape == (1, 11)
    assert 50 not in found[0, 7:]
    assert stream.tokens == found[0].tolist()
    assert stream.ended
    config = transformers.GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False)
    again = generate(task, config, model=model, encoded=encoded, logits_processor=None, assistant_model=None)
    assert again.shape == (1, 10)


def test_the_context_is_not_changed_by_generation(models):
    encoded = encode_windows(models("llama"), WINDOWS, PREFIX)
    before = {name: tensor.clone() for name, tensor in encoded.state_dict().items()}
    generate(torch.tensor([TASKS[0]]), model=models("llama"), encoded=encoded, num_beams=2, **SIX)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoded.state_dict().items())


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, 128))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


def text_of(ids):
    return " ".join(f"w{i}" for i in ids)


def test_texts(models, tokenizer):
    model = models("qwen3")
    expected = generate(torch.tensor([TASKS[0]]), model=model, contexts=WINDOWS, prefix=(1,), do_sample=False, **SIX)
    texts = {"contexts": [text_of(window) for window in WINDOWS], "tokenizer": tokenizer}
    found = generate(torch.tensor([(1, *TASKS[0])]), model=model, do_sample=False, **texts, **SIX)
    assert found[0].tolist() == [1, *expected[0].tolist()]  # the second BOS stays in the ids, unseen
    with_prompt = generate(torch.tensor([TASKS[0]]), model=model, prefix="w5 w9", do_sample=False, **texts, **SIX)
    other = generate(torch.tensor([TASKS[0]]), model=model, contexts=WINDOWS, prefix=PREFIX, do_sample=False, **SIX)
    assert with_prompt.tolist() == other.tolist()
    batch = tokenizer([text_of(task) for task in TASKS], padding=True, return_tensors="pt")
    rows = generate(**batch, model=model, do_sample=False, **texts, **SIX)
    assert rows[0, -6:].tolist() == expected[0, -6:].tolist()


def test_custom_generate_folder(models, tokenizer, tmp_path):
    write_custom_generate(tmp_path)
    task, options = torch.tensor([TASKS[0]]), {"contexts": WINDOWS, "prefix": PREFIX, "do_sample": False, **SIX}
    found = models("llama").generate(task, custom_generate=str(tmp_path), trust_remote_code=True, **options)
    assert torch.equal(found, generate(task, model=models("llama"), **options))


# -- labels


def test_labels_by_hand(models):
    model, encoded = models("llama"), encode_windows(models("llama"), WINDOWS, PREFIX)
    found = score_labels(model, encoded, TASKS, LABELS)
    assert found.shape == (3, 5)
    for row, task in zip(found, TASKS, strict=True):
        for value, label in zip(row, LABELS, strict=True):
            logs = one_pass(model, PREFIX, WINDOWS, task + label)[len(task) - 1 : -1].log_softmax(-1)
            assert abs(sum(logs[i, token] for i, token in enumerate(label)) - value) <= TOLERANCE
    assert distance(found, score_labels(model, encoded, TASKS, LABELS, packed=False)) <= TOLERANCE
    some = score_labels(model, encoded, TASKS[1:2], LABELS[::-1])
    assert distance(some, found[1:2].flip(1)) <= TOLERANCE
    every = [(i,) for i in range(128)]
    assert abs(score_labels(model, encoded, TASKS[:1], every).exp().sum() - 1) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gemma3", "mpt"])
def test_greedy_is_the_restricted_argmax(name):
    model = tiny(name)
    encoded = encode_windows(model, WINDOWS, PREFIX)
    labels = [(50, 60, 70), (50, 61), (51,), (50, 60, 71), (52, 3)]
    tasks = random_ids(*[5] * 12, seed=7)
    found = score_labels(model, encoded, tasks, labels, scores="greedy")
    for row, task in zip(found, tasks, strict=True):
        left, score, depth = labels, 0.0, 0
        while len(left) > 1:
            logs = one_pass(model, PREFIX, WINDOWS, task + left[0][:depth])[-1].log_softmax(-1)
            token = max({label[depth] for label in left}, key=lambda t: logs[t])
            left, score, depth = [label for label in left if label[depth] == token], score + logs[token], depth + 1
        chosen = labels.index(left[0])
        assert abs(row[chosen] - score) <= TOLERANCE
        assert row[[i for i in range(5) if i != chosen]].max() == -math.inf


def test_greedy_and_a_label_that_begins_another(models):
    model, encoded = models("llama"), encode_windows(models("llama"), WINDOWS, PREFIX)
    nxt = int(task_logits(model, encoded, [TASKS[0] + (50,)])[0][-1].argmax())
    other = (nxt + 1) % 128
    continued = score_labels(model, encoded, TASKS[:1], [(50,), (50, nxt)], scores="greedy")
    ended = score_labels(model, encoded, TASKS[:1], [(50,), (50, other)], scores="greedy")
    assert continued.argmax() == 1
    assert ended.argmax() == 0


# -- modes and knobs


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_modes_are_their_formulas(name):
    model = tiny(name)
    encoded = encode_windows(model, WINDOWS, PREFIX)
    weights = torch.tensor([0.2, 0.5, 0.3])
    for task in TASKS:
        logs = torch.stack([one_pass(model, PREFIX, [window], task).log_softmax(-1) for window in WINDOWS])
        empty = model(torch.tensor([PREFIX + task])).logits[0, -len(task) :].log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        best = logs.gather(0, entropy.argmin(0)[None, :, None].expand(1, -1, 128))[0]
        expected = {
            "ensemble": (logs.exp() * weights[:, None, None]).sum(0).log(),
            "nbce": (1.25 * best - 0.25 * empty).log_softmax(-1),
            "single": logs[entropy[:, -1].argmin()],
        }
        for mode, value in expected.items():
            own = {"weights": (2 * weights).tolist()} if mode == "ensemble" else {}
            for packed in (False, True):
                found = task_logits(model, encoded, [task], mode=mode, packed=packed, **own)
                assert distance(found, [value]) <= TOLERANCE, mode
            scores = score_labels(model, encoded, [task], LABELS, mode=mode, **own)
            each = score_labels(model, encoded, [task], LABELS, scores="each", mode=mode, **own)
            assert distance(scores, each) <= TOLERANCE, mode
        two = entropy[:, -1].argsort()[:2].tolist()
        expected = one_pass(model, PREFIX, [WINDOWS[i] for i in two], task)
        assert distance(task_logits(model, encoded, [task], top_k_windows=2), [expected]) <= TOLERANCE
        for mode in ("ensemble", "nbce"):
            ids, new = generated(model, task, encoded=encoded, mode=mode)
            again = task_logits(model, encoded, [ids], mode=mode)[0][len(task) - 1 : -1]
            assert distance([new], [again]) <= TOLERANCE, mode


def test_nbce_without_a_prefix(models):
    encoded = encode_windows(models("llama"), WINDOWS)
    ids, new = generated(models("llama"), TASKS[0], encoded=encoded, mode="nbce")
    again = task_logits(models("llama"), encoded, [ids], mode="nbce")[0][len(TASKS[0]) - 1 : -1]
    assert distance([new], [again]) <= TOLERANCE


@pytest.mark.parametrize("temperature, self_weight", [(0.5, 1.0), (1.0, 3.0), (0.8, 2.0)])
def test_temperature_and_self_weight_are_their_formulas(temperature, self_weight, monkeypatch):
    model = tiny("llama")
    encoded = encode_windows(model, WINDOWS, PREFIX)
    knobs = {"temperature": temperature, "self_weight": self_weight}
    found = task_logits(model, encoded, TASKS, **knobs)
    assert distance(task_logits(model, encoded, TASKS, packed=True, **knobs), found) <= TOLERANCE
    scores = [score_labels(model, encoded, TASKS, LABELS, scores=s, **knobs) for s in ("trie", "each")]
    assert distance(*scores) <= TOLERANCE
    ids, new = generated(model, TASKS[0], encoded=encoded, attention_temperature=temperature, self_weight=self_weight)
    again = task_logits(model, encoded, [ids], **knobs)[0][len(TASKS[0]) - 1 : -1]
    assert distance([new], [again]) <= TOLERANCE

    start, end = len(PREFIX), encoded.num_tokens

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        logits = query @ key.transpose(2, 3) * scaling
        logits[:, :, end:, start:end] /= temperature
        weights = logits.exp() * (attention_mask == 0)
        weights[:, :, end:, end:] *= self_weight
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ value).transpose(1, 2), weights

    model.set_attn_implementation("eager")
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
    expected = [one_pass(model, PREFIX, WINDOWS, task) for task in TASKS]
    assert distance(found, expected) <= TOLERANCE


# -- windows


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom"])
def test_changing_windows(name):
    model = tiny(name)
    fresh = lambda *windows: task_logits(model, encode_windows(model, windows, PREFIX), TASKS)  # noqa: E731
    first, second, third = WINDOWS
    one = encode_windows(model, [first], PREFIX)
    calls = []
    hook = masks_pcw.decoder_of(model).register_forward_hook(
        lambda module, args, kwargs, output: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    two = one.add(model, second)
    three = two.add(model, third)
    replaced = three.replace(model, -1, first)
    removed = three.remove(0)
    assert calls == [(1, len(second)), (1, len(third)), (1, len(first))]
    hook.remove()
    assert one.windows == [first]
    for encoded, windows in (
        (three, WINDOWS), (replaced, [first, second, first]), (removed, [second, third]), (removed.remove(0), [third])
    ):  # fmt: skip
        assert encoded.windows == list(windows)
        assert encoded.num_tokens == len(PREFIX) + sum(map(len, windows))
        assert encoded.next_position == len(PREFIX) + max(map(len, windows))
        assert distance(task_logits(model, encoded, TASKS), fresh(*windows)) <= 1e-6 * 5


def test_changing_right_aligned_windows(models):
    model, (first, longest, third) = models("llama"), WINDOWS
    encoded = encode_windows(model, [longest, first], PREFIX, "right").add(model, third)
    expected = task_logits(model, encode_windows(model, [longest, first, third], PREFIX, "right"), TASKS)
    assert distance(task_logits(model, encoded, TASKS), expected) <= TOLERANCE
    with pytest.raises(PCWError, match="end at token 24, now at 20"):
        encoded.remove(0)
    with pytest.raises(PCWError, match="now at 25"):
        encoded.add(model, range(3, 28))


def test_state_dict(models, tmp_path):
    from safetensors.torch import load_file, save_file

    assert (
        pcw.EncodedWindows.from_state(encode_windows(models("gpt2"), WINDOWS).state_dict(), models("gpt2")).prefix
        == ()
    )
    for name, model in (("llama", models("llama")), *children()):
        encoded = encode_windows(model, WINDOWS, PREFIX, "right")
        save_file(encoded.state_dict(), tmp_path / "windows.safetensors")
        loaded = pcw.EncodedWindows.from_state(load_file(tmp_path / "windows.safetensors"), model)
        assert (loaded.windows, loaded.prefix, loaded.alignment) == (WINDOWS, PREFIX, "right")
        assert distance(task_logits(model, loaded, TASKS), task_logits(model, encoded, TASKS)) == 0, name
        with pytest.raises(PCWError, match="encoded by"):
            pcw.EncodedWindows.from_state(encoded.state_dict(), models("qwen2"))


def test_no_logits_of_window_tokens(models):
    model, rows = models("llama"), []
    hook = model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0][..., 0].numel()))
    try:
        encoded = encode_windows(model, WINDOWS, PREFIX)
        assert rows == []
        score_labels(model, encoded, TASKS, LABELS)
        assert rows == [len(TASKS) * (1 + len(scoring_pcw.Trie(LABELS).tokens))]
        rows.clear()
        generate(torch.tensor([TASKS[0]]), model=model, encoded=encoded, **SIX)
        assert rows == [1] * 6
    finally:
        hook.remove()


def test_packed_rows_hold_one_cache(models, monkeypatch):
    model, shapes, stock = models("llama"), [], cache_pcw.FullLayer.update
    encoded = encode_windows(model, WINDOWS, PREFIX)

    def update(layer, *args, **kwargs):
        shapes.append(layer.keys.shape)
        return stock(layer, *args, **kwargs)

    monkeypatch.setattr(cache_pcw.FullLayer, "update", update)
    for count in (1, 8):
        score_labels(model, encoded, TASKS[:1] * count, LABELS)
    assert set(shapes) == {(1, 4, encoded.num_tokens, 8)}
    assert encoded.num_bytes == 2 * 4 * 4 * encoded.num_tokens * 8 * 4


# -- threads


def test_threads_do_not_disturb_one_another(models):
    model, plain = models("gemma2"), torch.tensor([PREFIX + WINDOWS[0] + WINDOWS[1] + TASKS[0]])
    encoded = [encode_windows(model, WINDOWS[: n + 1], PREFIX) for n in range(3)]
    jobs = [
        lambda: model.generate(plain, do_sample=False, **SIX),
        lambda: model(plain).logits,
        *(lambda e=e: torch.cat(task_logits(model, e, TASKS, packed=True)) for e in encoded),
        *(lambda e=e: generate(torch.tensor([TASKS[0]]), model=model, encoded=e, num_beams=2, **SIX) for e in encoded),
        lambda: score_labels(models("bloom"), bloom, TASKS, LABELS),
        lambda: models("bloom").generate(plain, do_sample=False, **SIX),
    ]
    bloom = encode_windows(models("bloom"), WINDOWS, PREFIX)
    registered = dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping)
    expected = [job() for job in jobs]
    wrong = []

    def work(number):
        torch.set_num_threads(1)
        for i in range(3 * len(jobs)):
            job = (i + number) % len(jobs)
            if not torch.equal(jobs[job](), expected[job]):
                wrong.append(job)

    threads = [threading.Thread(target=work, args=(2 * n,)) for n in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping) == registered
    assert masks_pcw._installed == {}


@pytest.mark.parametrize("name", ["gemma2", "bloom"])
def test_calls_that_begin_and_end_within_another(models, name):
    """Deterministic interleaving: at each step of one generation, other threads run from beginning to end."""
    model, plain = models(name), torch.tensor([PREFIX + WINDOWS[0] + WINDOWS[1]])
    encoded, other = encode_windows(model, WINDOWS, PREFIX), encode_windows(model, WINDOWS[1:], PREFIX)
    jobs = {
        "windows": lambda: score_labels(model, other, TASKS, LABELS),
        "plain": lambda: model(plain).logits,
        "plain generation": lambda: model.generate(plain, do_sample=False, **SIX),
    }
    expected = {name: job() for name, job in jobs.items()}
    found, steps = {}, []

    def interrupt(ids, scores):
        for name, job in jobs.items():
            thread = threading.Thread(target=lambda name=name, job=job: found.update({name: job()}))
            thread.start()
            thread.join()
            assert torch.equal(found.pop(name), expected[name]), name
        steps.append(1)
        return scores

    options = {"model": model, "encoded": encoded, "do_sample": False, **SIX}
    alone = generate(torch.tensor([TASKS[0]]), **options)
    assert torch.equal(generate(torch.tensor([TASKS[0]]), logits_processor=[interrupt], **options), alone)
    assert len(steps) == 6


def test_everything_is_restored_after_an_error(models):
    model, encoded = models("bloom"), encode_windows(models("bloom"), WINDOWS, PREFIX)
    module = sys.modules[type(model).__module__]
    before = (module.build_alibi_tensor, module.BloomModel.forward, dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping))

    def fail(ids, scores):
        assert module.build_alibi_tensor is not before[0]
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        generate(torch.tensor([TASKS[0]]), model=model, encoded=encoded, logits_processor=[fail], **SIX)
    after = (module.build_alibi_tensor, module.BloomModel.forward, dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping))
    assert after == before
    assert masks_pcw._VIEW.get() is None


# -- mistakes


UNSUPPORTED = {
    "qwen3_next": "qwen3_next has recurrent layers",
    "mamba": "mamba has recurrent layers",
    "llama4_text": "llama4_text has layers of kind chunked_attention",
    "gpt_neo": "gpt_neo has local attention",
    "t5": "t5 is an encoder-decoder",
    "openai-gpt": "openai-gpt has no key-value cache",
    "roberta": "roberta attends in both directions",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models(name):
    config = transformers.AutoConfig.for_model(name)
    auto = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    with pytest.raises(PCWError, match=UNSUPPORTED[name]):
        encode_windows(model, WINDOWS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, e: encode_windows(m, []), "at least one"),
        (lambda m, e: encode_windows(m, {"a": [5]}), "windows is a dict with the keys 'a'"),
        (lambda m, e: encode_windows(m, {(5, 6)}), "at least one"),
        (lambda m, e: encode_windows(m, [5, 6]), "window 0 is 5: expected a list of token ids"),
        (lambda m, e: encode_windows(m, [[5.5]]), r"window 0 is \[5.5\]: expected a list of token ids"),
        (lambda m, e: encode_windows(m, [{5: 6}]), "window 0 is {5: 6}: expected a list"),
        (lambda m, e: task_logits(m, e, {"a": [5]}), "tasks is a dict"),
        (lambda m, e: score_labels(m, e, TASKS, {"good": [5]}), "labels is a dict with the keys 'good'"),
        (
            lambda m, e: generate(IDS, model=m, contexts=transformers.BatchEncoding({"input_ids": [[5]]})),
            r"contexts is a BatchEncoding with the keys 'input_ids': expected a list, .* contexts\['input_ids'\]",
        ),
        (lambda m, e: generate(IDS, model=m, contexts={"title": "text"}), "contexts is a dict with the keys 'title'"),
        (lambda m, e: generate(IDS, model=m, contexts=(t for t in "ab")), "contexts is <generator"),
        (lambda m, e: encode_windows(m, [[5], []]), "window 1 is empty"),
        (lambda m, e: encode_windows(m, [[5] * 131]), "window 0 is 4 tokens too long.*128 positions"),
        (lambda m, e: encode_windows(m, [[5] * 126], PREFIX), "2 tokens too long"),
        (lambda m, e: encode_windows(m, [[5, 128]]), "token id 128, outside"),
        (lambda m, e: encode_windows(m, [[5]], [-1]), "prefix holds token id -1"),
        (lambda m, e: encode_windows(m, [[5]], alignment="middle"), "'left' or 'right'"),
        (lambda m, e: encode_windows(m, [[5]], batch_size=0), "batch_size is 0"),
        (lambda m, e: task_logits(m, e, []), "tasks"),
        (lambda m, e: task_logits(m, e, [[5], []]), "task 1 is empty"),
        (lambda m, e: task_logits(m, e, [[5] * 105]), "task 0 is 4 tokens too long.*position 27.*128 positions"),
        (lambda m, e: task_logits(m, e, TASKS, mode="best"), "mode is 'best'"),
        (lambda m, e: task_logits(m, e, TASKS, temperature=0), "temperature is 0"),
        (lambda m, e: task_logits(m, e, TASKS, self_weight=-1), "self_weight is -1"),
        (lambda m, e: task_logits(m, e, TASKS, top_k_windows=4), "top_k_windows is 4: expected 1 to 3"),
        (lambda m, e: task_logits(m, e, TASKS, weights=[1, 1, 1]), "weights are for mode 'ensemble'"),
        (lambda m, e: task_logits(m, e, TASKS, mode="ensemble", weights=[1, 1]), "3 numbers, none negative"),
        (lambda m, e: task_logits(m, {}, TASKS), "encoded is a dict"),
        (lambda m, e: score_labels(m, e, TASKS, []), "labels"),
        (lambda m, e: score_labels(m, e, TASKS, [[5], []]), "label 1 has no tokens"),
        (lambda m, e: score_labels(m, e, TASKS, [[5, 6], [7], [5, 6]]), "labels 0 and 2 have the same tokens"),
        (lambda m, e: score_labels(m, e, TASKS, [[5]], scores="beam"), "scores is 'beam'"),
        (lambda m, e: score_labels(m, e, TASKS, [[5]], scores="greedy", mode="nbce"), "scores='greedy'"),
        (lambda m, e: score_labels(m, e, [[5] * 100], [[5] * 4]), "2 tokens too long.*3 tokens after it"),
        (lambda m, e: e.replace(m, 3, [5]), "no window 3"),
        (lambda m, e: e.add(m, []), "empty"),
        (lambda m, e: e.remove(0).remove(0).remove(0), "last window"),
        (lambda m, e: generate(IDS, model=m), "either contexts, with"),
        (lambda m, e: generate(IDS, model=m, contexts=[[5]], encoded=e), "either contexts, with"),
        (lambda m, e: generate(IDS, model=m, encoded=e, prefix=[5]), "which have theirs"),
        (lambda m, e: generate(IDS, model=m, encoded=e, max_length=103), "1 tokens too long"),
        (lambda m, e: generate(IDS, model=m, contexts=[]), "at least one"),
        (lambda m, e: generate(IDS, model=m, contexts=[[5], []]), "window 1 is empty"),
        (lambda m, e: generate(IDS, model=m, contexts=["a", [5]]), "all texts or all token ids"),
        (lambda m, e: generate(IDS, model=m, contexts=["a"]), "give tokenizer="),
        (lambda m, e: generate(IDS, model=m, encoded=e, use_cache=False), "use_cache=False"),
        (
            lambda m, e: generate(IDS, transformers.GenerationConfig(use_cache=False), model=m, encoded=e),
            "use_cache=False",
        ),
        (
            lambda m, e: generate(IDS, model=m, encoded=e, past_key_values=transformers.DynamicCache()),
            "past_key_values",
        ),
        (lambda m, e: generate(IDS, model=m, encoded=e, cache=transformers.DynamicCache()), "cache cannot be given"),
        (lambda m, e: generate(IDS, model=m, encoded=e, cache_implementation="static"), "cache_implementation"),
        (lambda m, e: generate(IDS, model=m, encoded=e, assistant_model=m), "assistant_model"),
        (lambda m, e: generate(None, model=m, encoded=e), "tensor of task ids"),
        (lambda m, e: generate(IDS + 130, model=m, encoded=e), "outside the model's vocabulary"),
        (lambda m, e: generate(IDS, model=m, encoded=e, attention_mask=torch.ones(2, 3)), "attention_mask"),
        (lambda m, e: generate(IDS, model=m, encoded=e, attention_mask=torch.tensor([[1, 1, 0]])), "pad on the left"),
        (lambda m, e: generate(IDS.repeat(2, 1), model=m, encoded=e, top_k_windows=2), "one at a time"),
        (lambda m, e: generate(IDS, model=m, contexts=[[5]], mode="best"), "mode is 'best'"),
        (lambda m, e: generate(IDS, model=m, encoded=e, max_new_tokens=100), "1 tokens too long"),
    ],
)
def test_mistakes_are_named_before_any_compute(call, message, gpt2_and_windows):
    model, encoded, calls = gpt2_and_windows
    calls.clear()
    with pytest.raises(PCWError, match=message):
        call(model, encoded)
    assert calls == []


IDS = torch.tensor([[5, 6, 7]])


@pytest.fixture(scope="module")
def gpt2_and_windows():
    model, calls = tiny("gpt2"), []
    encoded = encode_windows(model, WINDOWS, PREFIX)
    model.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    return model, encoded, calls


SETTINGS = {
    "cache_implementation": "static",
    "prefill_chunk_size": 4,
    "guidance_scale": 2.0,
    "prompt_lookup_num_tokens": 3,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_generation_config_hides_nothing(name, models):
    model, setting = models("llama"), {name: SETTINGS[name]}
    options = {"contexts": WINDOWS, "prefix": PREFIX, **SIX}
    with pytest.raises(PCWError, match=f"^{name} cannot be given"):
        generate(IDS, model=model, **options, **setting)
    config = transformers.GenerationConfig(do_sample=False, **SIX, **setting)
    with pytest.raises(PCWError, match=f"^generation_config.{name} is"):
        generate(IDS, config, model=model, contexts=WINDOWS, prefix=PREFIX)
    assert getattr(config, name) == SETTINGS[name]
    own = tiny("llama")
    setattr(own.generation_config, name, SETTINGS[name])
    if name in pcw.CACHE_SETTINGS:  # how a cache would be made, not what is read
        assert torch.equal(generate(IDS, model=own, **options), generate(IDS, model=model, **options))
        assert getattr(own.generation_config, name) == SETTINGS[name]
    else:
        with pytest.raises(PCWError, match=f"^model.generation_config.{name} is"):
            generate(IDS, model=own, **options)


def test_windows_of_another_model(models):
    encoded = encode_windows(models("llama"), WINDOWS, PREFIX)
    for other in (models("qwen2"), tiny("llama", num_hidden_layers=2), tiny("llama", num_key_value_heads=2)):
        for call in (
            lambda m: task_logits(m, encoded, TASKS),
            lambda m: generate(IDS, model=m, encoded=encoded),
            lambda m: encoded.add(m, [5]),
        ):
            with pytest.raises(PCWError, match="were encoded by LlamaForCausalLM with 4 layers"):
                call(other)


def test_masks_that_cannot_go_by_position(models):
    model = tiny("mistral_windowed")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(PCWError, match="set_attn_implementation"):
        encode_windows(model, WINDOWS)
    bloom = encode_windows(models("bloom"), WINDOWS)
    with pytest.raises(PCWError, match="self_weight is not available for bloom"):
        task_logits(models("bloom"), bloom, TASKS, self_weight=2.0)
    mpt = encode_windows(models("mpt"), WINDOWS)
    with pytest.raises(PCWError, match="one bias for all rows"):
        generate(torch.tensor([[0, 5], [5, 6]]), model=models("mpt"), encoded=mpt)


def test_rotary_models_generate_past_their_positions(models):
    encoded = encode_windows(models("llama"), [[5] * 100])
    assert generate(IDS, model=models("llama"), encoded=encoded, min_new_tokens=40, max_new_tokens=40).shape == (1, 43)


def test_learned_positions_end_generation(models):
    encoded = encode_windows(models("gpt2"), [[5] * 115])
    assert generate(IDS, model=models("gpt2"), encoded=encoded, eos_token_id=None).shape == (1, 3 + 128 - 118 + 1)
    generate(IDS, model=models("gpt2"), encoded=encoded, max_length=14)


def longrope(original=48, **overrides):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope |= {"original_max_position_embeddings": original}
    return tiny("phi3", rope_parameters=rope, original_max_position_embeddings=original, **overrides)


def test_positions_that_change_their_scale():
    """Phi-3's code drops a cache of documents when the task alone passes the switch; a batch shares its longest row's."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    for model, switch in ((longrope(), 48), (tiny("llama", rope_parameters=dynamic, max_position_embeddings=48), 48)):
        assert pcw.scale_switch(model.config)[0] == switch
        encoded = encode_windows(model, WINDOWS, PREFIX)  # ends at 27
        room = switch - encoded.next_position
        (task,) = random_ids(room - 5)
        fits = {"encoded": encoded, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        found = generate(torch.tensor([task]), model=model, max_new_tokens=6, min_new_tokens=6, **fits)
        expected = one_pass(model, PREFIX, WINDOWS, tuple(found.sequences[0, :-1].tolist()))[-6:]
        assert distance([torch.cat(found.logits)], [expected]) <= TOLERANCE
        assert generate(torch.tensor([task]), model=model, encoded=encoded, eos_token_id=None).shape == (1, room + 1)
        rows = task_logits(model, encoded, [task, task[:5]])
        assert distance(rows[1:], task_logits(model, encoded, [task[:5]])) <= TOLERANCE
        for call in (
            lambda m, e, t: generate(torch.tensor([t]), model=m, encoded=e, max_new_tokens=7),
            lambda m, e, t: generate(torch.tensor([t]), model=m, encoded=e, max_new_tokens=7, mode="ensemble"),
            lambda m, e, t: task_logits(m, e, [t[:3], (*t, *range(3, 9))]),
            lambda m, e, t: score_labels(m, e, [t], [tuple(range(3, 10)), (3, 4)]),
            lambda m, e, t: encode_windows(m, [[5] * 48]),
        ):
            with pytest.raises(PCWError, match=f"has {switch} positions before its (longrope|dynamic) scale changes"):
                call(model, encoded, task)


def test_padding_that_phi3_counts_as_tokens():
    model = longrope()
    encoded = encode_windows(model, [[5, 6, 7]], PREFIX)
    padded = torch.tensor([[0] * 39 + [5, 6, 7]])
    with pytest.raises(PCWError, match="3 tokens too long.*longrope"):
        generate(padded, model=model, encoded=encoded, max_new_tokens=4)
    rest = generate(padded[:, 20:], model=model, encoded=encoded, do_sample=False, **SIX)[:, -6:]
    assert torch.equal(rest, generate(padded[:, 39:], model=model, encoded=encoded, do_sample=False, **SIX)[:, -6:])


# -- names of caches, and what must not be lost


def called(name):
    """A Llama class whose forward takes its cache under `name`, and swallows other keywords as remote code does."""

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, use_cache=None, logits_to_keep=0, **kwargs
    ):
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
        if kwargs.get(name) is not None:
            inputs[OUTPUT_NAME] = kwargs[name]
        return transformers.LlamaForCausalLM.forward(self, input_ids, logits_to_keep=logits_to_keep, **inputs)

    parameters = inspect.signature(forward).parameters.values()
    own = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    forward.__signature__ = inspect.Signature([*list(parameters)[:-1], own, list(parameters)[-1]])
    return type("OtherLlama", (transformers.LlamaForCausalLM,), {"forward": forward})


OTHER_NAME = next(name for name in NAMES if name != OUTPUT_NAME)


def test_a_cache_is_given_by_the_name_that_the_model_takes(models, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    model = called(OTHER_NAME)(models("llama").config).eval()
    model.load_state_dict(models("llama").state_dict())
    encoded, expected = (encode_windows(m, WINDOWS, PREFIX) for m in (model, models("llama")))
    for mode in pcw.MODES:
        found = task_logits(model, encoded, TASKS, mode=mode)
        assert distance(found, task_logits(models("llama"), expected, TASKS, mode=mode)) <= TOLERANCE
    for call in (lambda: generate(IDS, model=model, encoded=encoded), lambda: encode_windows(model, WINDOWS)):
        with pytest.raises(PCWError, match=f"cache as {OTHER_NAME}, but generate .* passes it as {OUTPUT_NAME}"):
            call()
        monkeypatch.setenv(SWITCH, "1")


def test_a_cache_under_a_name_that_nobody_knows_is_named(models):
    model = called("states")(models("llama").config)
    with pytest.raises(PCWError, match=f"takes none of {', '.join(NAMES)}"):
        encode_windows(model, WINDOWS)
    with pytest.raises(PCWError, match="states cannot be given"):
        generate(IDS, model=models("llama"), contexts=WINDOWS, states=transformers.DynamicCache())


def test_a_model_that_drops_its_cache_is_refused(models, monkeypatch):
    stock = transformers.LlamaForCausalLM.forward

    @functools.wraps(stock)
    def deaf(self, *args, **kwargs):
        return stock(self, *args, **{name: value for name, value in kwargs.items() if name not in NAMES})

    model, encoded = models("llama"), encode_windows(models("llama"), WINDOWS, PREFIX)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", deaf)
    with pytest.raises(PCWError, match="cache of 59 tokens and left it at 59, not 66"):
        task_logits(model, encoded, TASKS[:1])
    for mode, message in (("pcw", "began a cache of its own"), ("ensemble", "the windows were not read")):
        with pytest.raises(PCWError, match=message):
            generate(IDS, model=model, encoded=encoded, mode=mode)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "bloom", "mpt", "deepseek_v3"])
def test_windows_are_proven_on_unknown_versions(name, monkeypatch):
    model, calls = tiny(name), []
    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    model.register_forward_hook(lambda *_: calls.append(1))
    encode_windows(model, WINDOWS)
    proof = len(calls)
    assert proof > 4
    encode_windows(model, WINDOWS)
    assert len(calls) == proof  # once per model
    monkeypatch.setenv(SWITCH, "0")
    encode_windows(tiny(name), WINDOWS)
    assert len(calls) == proof


def test_positions_that_generate_loses_are_found_on_unknown_versions(models, monkeypatch):
    class Lost(transformers.LlamaForCausalLM):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            inputs = super().prepare_inputs_for_generation(*args, **kwargs)
            return inputs | {"position_ids": inputs["position_ids"] + 1}

    model = Lost(models("llama").config).eval()
    model.load_state_dict(models("llama").state_dict())
    monkeypatch.setenv(SWITCH, "0")
    encoded = encode_windows(model, WINDOWS)
    monkeypatch.delenv(SWITCH)
    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    for call in (lambda: encode_windows(model, WINDOWS), lambda: generate(IDS, model=model, contexts=WINDOWS)):
        with pytest.raises(PCWError, match="other logits behind windows.*5.99.0 is installed.*HF_PUZZLE_SELF_CHECK=0"):
            call()
    with pytest.raises(PCWError, match="other logits"):
        pcw.EncodedWindows.from_state(encoded.state_dict(), model)
    monkeypatch.setattr(Lost, "prepare_inputs_for_generation", lambda *_, **__: {})
    with pytest.raises(PCWError, match="windows cannot be read .*5.99.0 is installed"):
        encode_windows(model, WINDOWS)


# -- windows of weights that changed


def lora(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config, adapter_name="one")
    wrapped.add_adapter("two", config)
    return wrapped


def test_windows_of_other_weights_are_refused():
    def trained(model):
        model.requires_grad_()(torch.tensor([TASKS[0]]), labels=torch.tensor([TASKS[0]])).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.zero_grad()

    def in_place(model):
        model.lm_head.weight.data.mul_(1.5)

    def loaded(model):
        model.load_state_dict({name: tensor + 0.01 for name, tensor in model.state_dict().items()})

    changes = [trained, in_place, loaded, lambda m: m.to(torch.bfloat16), lambda m: m.train()]
    for change in changes:
        model = tiny("llama")
        encoded = encode_windows(model, WINDOWS, PREFIX)
        change(model)
        for call in (
            lambda m, e: task_logits(m, e, TASKS),
            lambda m, e: score_labels(m, e, TASKS, LABELS),
            lambda m, e: generate(IDS, model=m, encoded=e),
            lambda m, e: e.add(m, [5]),
        ):
            with pytest.raises(PCWError, match="encode them again"):
                call(model, encoded)
    model = tiny("llama")
    encoded = encode_windows(model, WINDOWS, PREFIX)
    model.train().eval()
    assert distance(task_logits(model, encoded, TASKS), task_logits(tiny("llama"), encoded, TASKS)) == 0


def test_windows_of_another_adapter_are_refused():
    model = tiny("llama")
    wrapped = lora(model)
    encoded = encode_windows(model, WINDOWS, PREFIX)
    first = task_logits(model, encoded, TASKS)
    wrapped.set_adapter("two")
    with pytest.raises(PCWError, match="other adapters"):
        task_logits(model, encoded, TASKS)
    with wrapped.disable_adapter(), pytest.raises(PCWError, match="other adapters"):
        task_logits(model, encoded, TASKS)
    wrapped.set_adapter("one")
    assert distance(task_logits(model, encoded, TASKS), first) == 0


def test_a_peft_model_reads_as_the_model_its_adapters_are_in():
    wrapped = lora(tiny("llama"))
    model, encoded = wrapped.get_base_model(), encode_windows(wrapped, WINDOWS, PREFIX)
    assert distance(task_logits(wrapped, encoded, TASKS), task_logits(model, encoded, TASKS)) == 0
    plain = wrapped(input_ids=torch.tensor([PREFIX + WINDOWS[0] + TASKS[0]])).logits[0, -len(TASKS[0]) :]
    assert (
        distance(task_logits(wrapped, encode_windows(wrapped, WINDOWS[:1], PREFIX), TASKS[:1]), [plain]) <= TOLERANCE
    )
    assert torch.equal(
        score_labels(wrapped, encoded.add(wrapped, [5]), TASKS, LABELS),
        score_labels(model, encoded.add(model, [5]), TASKS, LABELS),
    )
    found = generate(IDS, model=wrapped, encoded=encoded, do_sample=False, **SIX)
    assert torch.equal(found, generate(IDS, model=model, encoded=encoded, do_sample=False, **SIX))


def test_soft_prompts_are_refused(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped = peft.get_peft_model(tiny("llama"), config)
    with pytest.raises(PCWError, match="a soft prompt stands before"):
        encode_windows(wrapped, WINDOWS)
    folder = str(write_custom_generate(tmp_path))
    with pytest.raises(ValueError, match="a soft prompt stands before"):
        wrapped.generate(input_ids=IDS, contexts=WINDOWS, custom_generate=folder, trust_remote_code=True)


def test_no_pad_token(models):
    model = tiny("llama", pad_token_id=None)
    encoded = encode_windows(model, WINDOWS, PREFIX)
    assert (
        distance(task_logits(model, encoded, TASKS), [one_pass(model, PREFIX, WINDOWS, t) for t in TASKS]) <= TOLERANCE
    )
    batch, mask = torch.tensor([[2, 2, 5], [5, 6, 7]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    found = generate(batch, attention_mask=mask, model=model, encoded=encoded, do_sample=False, **SIX)
    assert found[0, 3:].tolist() == list(generated(model, (5,), encoded=encoded)[0][-6:])


def test_recomputed_starts_are_those_of_one_text_and_the_rest_stays():
    """Behind the windows before it, a whole window is read as in one sequence of these positions."""
    model = tiny_llama(byte_level())
    prefix, windows = [1], [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]]
    encoded = encode_windows(model, windows, prefix)
    some, whole = (recompute_starts(model, encoded, tokens) for tokens in (2, 9))
    positions = torch.tensor([[0, 1, 2, 3, 4, 1, 2, 3]])
    ids = torch.tensor([[1, *windows[0], *windows[1]]])
    with torch.no_grad():
        cache = model.model(
            ids, position_ids=positions, attention_mask=torch.ones(1, 1, 8, 8).tril().bool()
        ).past_key_values
    for layer, kept, changed, before in zip(cache.layers, some.keys, whole.keys, encoded.keys, strict=True):
        torch.testing.assert_close(changed[:, :, 5:8], layer.keys[:, :, 5:8], atol=1e-5, rtol=0)
        torch.testing.assert_close(kept[:, :, 5:7], layer.keys[:, :, 5:7], atol=1e-5, rtol=0)
        assert torch.equal(kept[:, :, 7], before[:, :, 7])
        assert torch.equal(kept[:, :, :5], before[:, :, :5])
    assert not torch.allclose(some.keys[1][:, :, 8:10], encoded.keys[1][:, :, 8:10], atol=1e-3)
    one = encode_windows(model, windows[:1], prefix)
    assert all(torch.equal(a, b) for a, b in zip(recompute_starts(model, one, 2).keys, one.keys, strict=True))
    with pytest.raises(PCWError, match="recompute_starts is 0"):
        recompute_starts(model, encoded, 0)
