"""Tokenizers of the common kinds, trained here in a moment, and a tiny Llama to go with them."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


TEXT = [
    "Text: the film was a great joy from start to end\nLabel: very good\n==\n",
    "Text: what a waste of time, and of a good cast\nLabel: bad\n==\n",
    "Text: my card was lost, or stolen; how do I get another card?\nLabel: card lost\n==\n",
    "Question: who wrote it in 1818?\nAnswer: Mary Shelley, in Geneva (Switzerland).\n\n",
] * 8
SPECIAL = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]


def _wrap(tokenizer: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        start = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@functools.cache
def byte_level(bos: bool = True) -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama-3's: byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL[:3], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return _wrap(tokenizer, bos)


@functools.cache
def sentencepiece(legacy: bool = False, bos: bool = True) -> PreTrainedTokenizerFast:
    """As Llama-2's and Mistral's: byte fallback, a space piece put before every text; legacy: by a normalizer."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=SPECIAL, show_progress=False)
    # a line break is no piece of its own: it falls back to its byte
    tokenizer.train_from_iterator([line for text in TEXT for line in text.split("\n")], trainer)
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrap(tokenizer, bos)


TOKENIZERS = {
    "byte_level": byte_level,
    "byte_level_no_bos": functools.partial(byte_level, bos=False),
    "sentencepiece": sentencepiece,
    "sentencepiece_legacy": functools.partial(sentencepiece, legacy=True),
    "sentencepiece_no_bos": functools.partial(sentencepiece, bos=False),
}


def tiny_llama(tokenizer, positions: int = 256, seed: int = 0, **overrides) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2} | overrides
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, **sizes)).eval()
