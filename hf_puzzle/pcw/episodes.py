"""A small model that classifies in context, and the kind of task it learned it from; no text is needed.

An episode has its own classes. A class is a label word and two feature words; an example of it is one of the two and then
the label. Which words belong together is drawn anew in every episode, so the weights cannot hold it: only demonstrations
tell, and those in one window tell of part of the words.
"""

import logging
from itertools import islice, product

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..optim import MuonWithAdamW
from ..progress import bar
from ..recipe import RecipeError
from .recipe import TrainConfig


logger = logging.getLogger(__name__)

TEMPLATE, SEPARATOR = "{text} {label}", "\n"
NUM_FEATURES, NUM_LABELS, WORDS_PER_CLASS = 64, 32, 2
HINTED = 0.5  # share of the training in which the hints fade
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", SEPARATOR]


def words(count: int, syllables: int, capital: bool = False) -> list[str]:
    """`count` different pronounceable words."""
    made = (
        "".join(each) for each in product(["".join(p) for p in product("bdfgklmnprstvz", "aeiou")], repeat=syllables)
    )
    spread = islice(made, 0, None, 61)
    return [word.capitalize() if capital else word for word in islice(spread, count)]


FEATURES, LABELS = words(NUM_FEATURES, 3), words(NUM_LABELS, 2, capital=True)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word and one per line break; BOS in front."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *FEATURES, *LABELS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    breaks = pre_tokenizers.Split(Regex(r"\n"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([breaks, pre_tokenizers.Split(Regex(" +"), "removed")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def _classes(rows: int, num_classes: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Per row the features (rows, classes, WORDS_PER_CLASS) and label (rows, classes) of its classes, as word numbers."""
    features = torch.rand(rows, NUM_FEATURES, generator=generator).argsort(1)[:, : num_classes * WORDS_PER_CLASS]
    labels = torch.rand(rows, NUM_LABELS, generator=generator).argsort(1)[:, :num_classes]
    return features.view(rows, num_classes, WORDS_PER_CLASS), labels


def make_dataset(num_classes: int, train_items: int, test_items: int, seed: int):
    """(training pairs, test pairs, label set) of one task, as (text, label)."""
    if not 2 <= num_classes <= NUM_LABELS:
        raise RecipeError(f"num_classes is {num_classes}: expected 2 to {NUM_LABELS}")
    generator = torch.Generator().manual_seed(seed)
    features, labels = (each[0].tolist() for each in _classes(1, num_classes, generator))
    chosen = torch.randint(num_classes, (train_items + test_items,), generator=generator).tolist()
    which = torch.randint(WORDS_PER_CLASS, (len(chosen),), generator=generator).tolist()
    pairs = [(FEATURES[features[c][w]], LABELS[labels[c]]) for c, w in zip(chosen, which, strict=True)]
    return pairs[:train_items], pairs[train_items:], [LABELS[i] for i in sorted(labels)]


def episodes(config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    """Ids (rows, sequence_length) of episodes with two to `max_classes` classes: BOS, word, label, line break, word, ..."""
    rows, count = max(1, config.tokens_per_step // config.sequence_length), config.sequence_length // 3 + 1
    features, labels = _classes(rows, config.max_classes, generator)
    sizes = torch.randint(2, config.max_classes + 1, (rows, 1), generator=generator)
    chosen = (torch.rand(rows, count, generator=generator) * sizes).long()
    which = torch.randint(WORDS_PER_CLASS, (rows, count, 1), generator=generator)
    word = features.gather(1, chosen[..., None].expand(-1, -1, WORDS_PER_CLASS)).gather(2, which) + len(SPECIAL)
    label = labels.gather(1, chosen)[..., None] + len(SPECIAL) + NUM_FEATURES
    example = torch.cat([word, label, torch.full_like(label, SPECIAL.index(SEPARATOR))], 2)
    start = torch.full((rows, 1), SPECIAL.index("<s>"))
    return torch.cat([start, example.flatten(1)], 1)[:, : config.sequence_length]


def _known(ids: torch.Tensor) -> torch.Tensor:
    """(rows, words, words): which earlier examples have the word of an example; every third id is one."""
    words = ids[:, 1::3]
    return (words[:, :, None] == words[:, None]).tril(-1)


def train_in_context_model(config: TrainConfig, seed: int, device: torch.device) -> tuple[LlamaForCausalLM, dict]:
    """The small model, and its accuracy on labels that something tells (mean of the last 50 steps).

    The loss is that of the labels. In so few steps it alone does not lead to matching words, so two hints that fade
    over the first half say how: after the first layer a label knows the word before it, and in the second one head of
    a word attends to the labels that followed it earlier.
    """
    if not 2 <= config.max_classes <= NUM_LABELS:
        raise RecipeError(f"train.max_classes is {config.max_classes}: expected 2 to {NUM_LABELS}")
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 4, "initializer_range": 0.05, "tie_word_embeddings": True} | config.config
    try:
        llama = LlamaConfig(
            **sizes,
            vocab_size=len(tokenizer),
            max_position_embeddings=config.sequence_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",  # shows its attention
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"train.config: {error}") from None
    if llama.num_hidden_layers < 2:
        raise RecipeError("train.config: num_hidden_layers must be at least 2")
    model = LlamaForCausalLM(llama).to(device)
    logger.info("training a model of %.2f M parameters to classify in context", model.num_parameters() / 1e6)
    read_word = torch.nn.Linear(llama.hidden_size, NUM_FEATURES, device=device)
    named = [*model.named_parameters(), *((f"lm_head.hint.{name}", p) for name, p in read_word.named_parameters())]
    optimizer = MuonWithAdamW(named, lr=config.learning_rate)
    generator, accuracies = torch.Generator().manual_seed(seed), []
    cross_entropy = torch.nn.functional.cross_entropy
    steps = bar(total=config.num_steps, desc="model")
    for step in range(config.num_steps):
        share = step / config.num_steps
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 50) * min(1.0, (1 - share) / 0.3)
        ids = episodes(config, generator).to(device)
        labels = ids[:, 2::3]
        count = labels.shape[1]
        output = model.model(input_ids=ids, output_hidden_states=True, output_attentions=True)
        logits, known = model.lm_head(output.last_hidden_state[:, 1::3][:, :count]), _known(ids)[:, :count]
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten())
        if (hints := 1 - share / HINTED) > 0:
            words = ids[:, 1::3][:, :count] - len(SPECIAL)
            read = cross_entropy(read_word(output.hidden_states[1][:, 2::3]).flatten(0, 1), words.flatten())
            found = (output.attentions[1][:, 0, 1::3, 2::3][:, :count] * known[..., :count]).sum(-1)[known.any(-1)]
            loss = loss + hints * (read - (found + 1e-6).log().mean())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        accuracies.append((logits.argmax(-1) == labels)[known.any(-1)].float().mean().item())
        steps.update()
        if step % 50 == 49:
            logger.debug("step %d: accuracy %.3f", step + 1, sum(accuracies[-50:]) / 50)
            steps.set_postfix(accuracy=f"{sum(accuracies[-50:]) / 50:.3f}")
    steps.close()
    model.set_attn_implementation("sdpa")
    return model.eval(), {"accuracy": sum(accuracies[-50:]) / len(accuracies[-50:])}
