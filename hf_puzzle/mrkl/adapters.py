"""Training the language model's side of MRKL: small models, and adapters on one frozen model that write plans.

MRKL (arXiv 2205.00445, calculator study) trains a soft prompt on a frozen model to write a call's arguments; so does
`train_adapter(method="prompt")`. On small models a prompt can select a skill but not create one, and LoRA is the
default. Everything trains with `Trainer` on (question, items) pairs; the loss counts the items alone.
"""

import functools
import logging
import random
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    get_cosine_schedule_with_warmup,
)

from ..optim import MuonWithAdamW
from ..progress import bar
from ..remote.adapters_mrkl import SEPARATOR, Adapters, decode_items, encode_items
from ..remote.calls_mrkl import MRKLError, NumberError, parse_number
from ..remote.exact_mrkl import Calculator
from ..remote.experts_mrkl import Experts
from ..remote.known_mrkl import Known
from ..remote.planner_mrkl import Planner
from ..remote.plans_mrkl import DONE, MAX_ITEM_TOKENS, NOTHING, PlanGrammar, PlanReader
from ..remote.slots_mrkl import read
from ..remote.soft_prompts_mrkl import soft_prompt_settings
from ..training import show_progress, training_arguments
from .confidence import fit_judge
from .data import Generator, make_world, solve
from .pairs import KNOWN, Pair, arithmetic, chat, conversions, pairs_for, plan_items, skills, weather


logger = logging.getLogger(__name__)

METHODS = ("lora", "prompt", "full")
VOCABULARY = 480
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.05,
    "tie_word_embeddings": True,
}


# -- a small model


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over generated questions and items, digits one by one, slot ids whole."""
    texts = [text for mode in ("slots", "copy", "alone") for pair in arithmetic(600, 11, (1, 2, 3, 6, 9), mode)
             for text in (pair.question, "".join(pair.items))]  # fmt: skip
    for made in (conversions(300, 12, "units"), conversions(300, 13, "currency"), weather(300, 14)):
        texts += [text for pair in made for text in (pair.question, "".join(pair.items), pair.text)]
    texts += chat(200, 15)
    tokenizer = Tokenizer(models.BPE())
    slots = pre_tokenizers.Split(Regex(r" ?<\w\d+>|\d| ?[^\s<\d]+|\s"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [slots, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def make_model(seed: int = 0, **sizes) -> LlamaForCausalLM:
    """An untrained Llama of about a million parameters for `make_tokenizer`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{**SIZES, **sizes}, vocab_size=len(make_tokenizer()), pad_token_id=0, eos_token_id=1, bos_token_id=None
    )
    return LlamaForCausalLM(config)


def encode_pair(tokenizer, question: str, items: Sequence[str]) -> tuple[list[int], list[int]]:
    """(ids before the call, ids of the call and its end)."""
    prompt = tokenizer(question + SEPARATOR, add_special_tokens=False)["input_ids"]
    return prompt, [*encode_items(tokenizer, items), tokenizer.eos_token_id]


class _Collator:
    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, rows) -> dict:
        width = max(len(prompt) + len(call) for prompt, call in rows)
        batch = {"input_ids": [], "attention_mask": [], "labels": []}
        for prompt, call in rows:
            rest = width - len(prompt) - len(call)
            batch["input_ids"].append([*prompt, *call, *[self.pad] * rest])
            batch["attention_mask"].append([1] * (width - rest) + [0] * rest)
            batch["labels"].append([-100] * len(prompt) + call + [-100] * rest)
        return {name: torch.tensor(values) for name, values in batch.items()}


def fit(
    model,
    tokenizer,
    rows: Sequence[tuple[str, Sequence[str]]],
    steps: int,
    rate: float,
    batch_size: int = 48,
    seed: int = 0,
    muon: bool = False,
    name: str = "pairs",
) -> float:
    """Trains what requires a gradient in `model` on (question, items) rows; the mean loss of the last steps."""
    encoded = [encode_pair(tokenizer, *row) for row in rows]
    torch.manual_seed(seed)
    folder = tempfile.mkdtemp()  # Trainer wants one, and nothing is saved
    arguments = training_arguments(
        folder, name, {}, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=rate, seed=seed,
        use_cpu=not torch.cuda.is_available(), logging_steps=max(1, steps // 10), disable_tqdm=True,
    )  # fmt: skip
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = (
        MuonWithAdamW(named, lr=rate) if muon else torch.optim.AdamW([p for _, p in named], lr=rate, weight_decay=0.0)
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, min(30, steps // 5), steps)
    trainer = Trainer(
        model, arguments, _Collator(tokenizer.pad_token_id or 0), encoded, optimizers=(optimizer, schedule)
    )
    show_progress(trainer, name)
    trainer.train()
    shutil.rmtree(folder, ignore_errors=True)
    model.eval()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row][-1]


def pretrain(steps: int = 500, seed: int = 0, digits=(1, 2, 3), batch_size: int = 48, **sizes):
    """The frozen model of the demonstrations: six small tasks over slot-masked questions of four experts.

    Returns: (model, last loss).
    """
    count = min(steps * batch_size, 20_000)
    rows = list(skills(count // 2, seed, digits))
    made = [
        *conversions(count // 6, seed, "units"),
        *conversions(count // 6, seed, "currency"),
        *weather(count // 6, seed),
    ]
    rows += [(f"echo: {pair.question}", (f" {pair.question}", " ;")) for pair in made[::3]]
    rows += [(f"slots: {pair.question}", (*_slots(pair.question), " ;")) for pair in made]
    random.Random(seed).shuffle(rows)
    model = make_model(seed, **sizes)
    return model, fit(model, make_tokenizer(), rows, steps, 1e-2, batch_size, seed, muon=True, name="pretrain")


def _slots(question) -> list[str]:
    return [f" {slot}" for slot in re.findall(r"<\w\d+>", question)]


# -- adapters


def train_adapter(
    model,
    tokenizer,
    rows: Sequence[tuple[str, Sequence[str]]],
    name: str,
    method: str = "lora",
    steps: int = 150,
    rate: float | None = None,
    rank: int = 8,
    virtual_tokens: int = 20,
    batch_size: int = 48,
    seed: int = 0,
):
    """One adapter on the frozen `model`.

    Args:
        rows: (question, items) pairs.
        name: Of the adapter.
        method: "lora" (rank `rank`, all linear layers), "prompt" (soft prompt of `virtual_tokens`, as in the paper) or
            "full" (no adapter; for comparison).
    Returns: (PeftModel, or `model` itself for "full"; facts: trainable parameters, loss, CPU seconds).
    Raises MRKLError for another method.
    """
    if method not in METHODS:
        raise MRKLError(f"method {method!r} is none of {', '.join(METHODS)}")
    torch.manual_seed(seed)
    trained = model.requires_grad_(method == "full")
    if method != "full":
        from peft import LoraConfig, PromptTuningConfig, get_peft_model

        if method == "lora":
            config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        else:
            config = PromptTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=virtual_tokens, num_transformer_submodules=1,
                num_attention_heads=model.config.num_attention_heads, num_layers=model.config.num_hidden_layers,
                token_dim=model.config.hidden_size,
            )  # fmt: skip
        trained = get_peft_model(model, config, adapter_name=name)
    rate = rate or {"lora": 3e-3, "prompt": 0.1, "full": 1e-3}[method]
    began = time.process_time()
    loss = fit(trained, tokenizer, rows, steps, rate, batch_size, seed, name=f"{name} ({method})")
    count = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    return trained, {"trainable": count, "loss": round(loss, 4), "cpu_seconds": round(time.process_time() - began, 1)}


def adapters_of(model, trained: dict) -> Adapters:
    """`Adapters` over {name: PeftModel} that `train_adapter` made on `model`, one PeftModel per kind."""
    found = Adapters(model)
    for name, peft_model in trained.items():
        key = "prompt" if peft_model.peft_config[name].is_prompt_learning else "layers"
        found.add(name, peft_model, key)
    return found


# -- measuring


@torch.no_grad()
def write(model, tokenizer, questions: Sequence[str], max_tokens: int = 48, batch_size: int = 64) -> list[str]:
    """What `model` writes after each question, greedily and without a grammar, up to its end."""
    found = []
    device = next(model.parameters()).device
    for start in bar(range(0, len(questions), batch_size), desc="answers"):
        rows = [
            tokenizer(question + SEPARATOR, add_special_tokens=False)["input_ids"]
            for question in questions[start : start + batch_size]
        ]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0,
            eos_token_id=tokenizer.eos_token_id, **soft_prompt_settings(model),
        )  # fmt: skip
        found += tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return found


def answer_of(written: str, pair: Pair, mode: str) -> Fraction | None:
    """The number that a written call comes to, by the calculator in modes "slots" and "copy"; None if it is none."""
    body = written.split(";")[0].strip().removeprefix("calculator").strip()
    if mode == "slots":
        reading = read(pair.text, KNOWN)
        slots = {f"<{n}>": s.value for n, s in zip(reading.ids, reading.slots, strict=True) if s.kind == "n"}
        body = re.sub(r"<\w+>", lambda m: str(slots.get(m[0], "?")), body)
    elif mode == "copy":
        pieces = re.split(r"(?:^|\s)([-+*/()])(?=\s|$)", body)
        body = " ".join(_copied(piece) for piece in pieces if piece and piece.strip())
    try:
        if mode == "alone":
            return parse_number(body)
        result = Calculator()(expression=body)
        return parse_number(result.exact) if result.status == "ok" else None
    except NumberError:
        return None


def _copied(piece: str) -> str:
    piece = piece.strip()
    if piece in {"+", "-", "*", "/", "(", ")"} or piece.isdigit():
        return piece
    values = [slot.value for slot in read(piece, KNOWN).slots if slot.kind == "n"]
    return str(values[0]) if len(values) == 1 else "?"


def accuracy(model, tokenizer, pairs: Sequence[Pair], mode: str) -> float:
    """Share of arithmetic pairs whose written call (or answer) comes to the right number."""
    longest = max(len(encode_items(tokenizer, pair.items)) for pair in pairs)
    texts = write(model, tokenizer, [pair.question for pair in pairs], min(longest + 8, 96))
    return sum(answer_of(text, pair, mode) == pair.answer for text, pair in zip(texts, pairs, strict=True)) / len(
        pairs
    )


def plan_accuracy(model, tokenizer, experts, pairs: Sequence[Pair], constrained: bool = True) -> float:
    """Share of slot pairs whose plan is written item for item; `constrained`: under the grammar of all experts."""
    hits = 0
    if not constrained:
        texts = write(model, tokenizer, [pair.question for pair in pairs])
        return sum(t == "".join(items_of(p)) for t, p in zip(texts, pairs, strict=True)) / len(pairs)
    for pair in bar(pairs, desc="plans"):
        grammar = PlanGrammar(experts, read(pair.text, KNOWN))
        prompt = tokenizer(pair.question + SEPARATOR, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            items, _ = decode_items(model, tokenizer, prompt, grammar.next, MAX_ITEM_TOKENS)
        hits += tuple(items) == items_of(pair)
    return hits / len(pairs)


def items_of(pair: Pair) -> tuple[str, ...]:
    """A pair's call as a plan of one."""
    return (f" {pair.expert}", *pair.items, DONE)


def pair_rows(names: Sequence[str], count: int, seed: int) -> list[tuple[str, tuple[str, ...]]]:
    """(masked question, items of its plan) of `count` questions for each expert, and of chat that needs none."""
    rows = [(pair.question, items_of(pair)) for name in names for pair in pairs_for(name, count, seed)]
    return rows + [(read(text, KNOWN).masked, (NOTHING,)) for text in chat(count // 4, seed)]


# -- questions about generated worlds, and what the grammar, the model and both of them make of them

SHARES = {"arithmetic": 6, "currency": 3, "units": 3, "dates": 5, "weather": 3, "multi": 4, "none": 3}


def world_examples(pool: str, count: int, seed: int, folder, worlds: int = 2) -> list[tuple]:
    """(folder, World, Example) of `count` questions of a pool about `worlds` invented worlds written to `folder`."""
    found = []
    for number in range(worlds):
        path = Path(folder) / f"{pool}-{seed + number}"
        world = make_world(path, pool, seed + number)
        found += [(path, world, e) for e in Generator(world, pool, seed + number).draw(count // worlds, SHARES)]
    return found


def world_rows(count: int, seed: int, worlds: int = 4) -> list[tuple[str, tuple[str, ...]]]:
    """(masked question, items of its plan) of training wordings; what slots cannot say is left out."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        known: dict = {}
        for path, world, example in world_examples("train", count, seed, folder, worlds):
            if path not in known:
                known[path] = Known.of(Experts.from_fixtures(path, world.today), world.today)
            reading = read(example.query, known[path])
            items = plan_items(example.calls, reading, world.today)
            if items is not None:
                rows.append((reading.masked, items))
    return rows


def compare_readers(reader: PlanReader, examples: Sequence[tuple], precision: float = 0.95) -> dict:
    """Fits the reader's judge on the first half of `examples`; right, left and wrong of the second by each reader.

    Returns: {"grammar", "model", "both": {"n", "right", "left", "wrong"}, "judge", "earns"}; "earns" is whether both
    together are right more often than the grammar alone, and not wrong more often than the precision allows.
    """
    systems, rows, replies = {}, [], []
    for path, world, example in bar(examples, desc="readers"):
        if path not in systems:
            experts = Experts.from_fixtures(path, world.today)
            known = Known.of(experts, world.today)
            systems[path] = Planner(experts, known), known, experts
        planner, known, experts = systems[path]
        by_grammar, written = planner.ask(example.query), reader.read(example.query, known, experts)
        by_model = planner.run(written[0]) if written else None
        results, status = solve(example.calls, experts) if example.calls else ([], "ok")
        gold = results[-1] if results and status == "ok" else None
        verdicts = [_verdict(gold, reply) for reply in (by_grammar, by_model or {"status": "abstain"})]
        replies.append((*verdicts, written))
        rows.append((written[1], verdicts[1] == "right") if written else None)
    half = len(rows) // 2
    fitted = [row for row in rows[:half] if row]
    if fitted:
        reader.judge = fit_judge([row[0] for row in fitted], [row[1] for row in fitted], precision)
    found = {name: {"n": 0, "right": 0, "left": 0, "wrong": 0} for name in ("grammar", "model", "both")}
    for by_grammar, by_model, written in replies[half:]:
        sure = written and reader.judge.confidence(written[1]) >= reader.judge.threshold
        by_model = by_model if sure else "left"
        both = by_model if by_grammar == "left" else by_grammar
        for name, verdict in (("grammar", by_grammar), ("model", by_model), ("both", both)):
            found[name]["n"] += 1
            found[name][verdict] += 1
    gained = found["both"]["right"] - found["grammar"]["right"]
    lost = found["both"]["wrong"] - found["grammar"]["wrong"]
    earns = gained > 0 and lost <= (1 - precision) * (gained + lost)
    return {**found, "judge": dict(vars(reader.judge)), "earns": earns}


def _verdict(gold, reply) -> str:
    """right, left or wrong; a question that no expert answers is right when it is left."""
    if reply["status"] != "ok":
        return "right" if gold is None else "left"
    if gold is None or not reply["trace"]:
        return "wrong"
    said = reply["trace"][-1]["result"]
    try:
        same = abs(parse_number(said) - parse_number(gold)) <= Fraction(1, 10**6) * max(1, abs(parse_number(gold)))
    except NumberError:
        same = str(said) == str(gold)
    return "right" if same else "wrong"
