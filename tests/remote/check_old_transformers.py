"""Exchange DeciLM folders between transformers versions: `python tests/remote/check_old_transformers.py DIR`.

Run it with one version to write DIR (needs hf_puzzle on the path), with another to check and rewrite, and with the
first again to check what the other wrote. Each run loads every DIR/<child>/<version> with trust_remote_code, compares
it with the logits stored by the first run, cached with uncached, generate with a greedy loop, opens it with the other
auto classes, and saves it once more under its own version, as a classifier too. Prints the largest absolute
differences; exits with 1 where they exceed 1e-4.
"""

import sys
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    StaticCache,
)


TOLERANCE = 1e-4
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3_ROPE |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
CHILDREN = {
    "mixed": ([("none", 256), (4, "none"), ("linear", "linear"), (1, 512), ("none", "none"), (2, "linear")], {}),
    "no_attention": ([("none", 256), ("linear", "linear")], {}),
    "llama3_tied_biased": (
        [(2, 256), (1, 512), ("none", 256)],
        {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "qkv_bias": True, "head_dim": 24},
    ),
}


def write_children(folder: Path):
    from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
    from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM

    for name, (blocks, extra) in CHILDREN.items():
        torch.manual_seed(0)
        sizes = {"vocab_size": 97, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 256}
        ids = {"pad_token_id": 0, "bos_token_id": 1}
        config = DeciLMConfig(
            **sizes, **ids, **extra, block_configs=[block_config(4, 64, *b) for b in blocks], initializer_range=0.1
        )
        model = DeciLMForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
        prompt = torch.randint(2, 97, (2, 40))
        model.save_pretrained(folder / name / transformers.__version__)
        torch.save({"ids": prompt, "logits": model(prompt).logits}, folder / name / "expected.pt")


def differences(model, ids: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """Largest absolute logit difference of each way to compute; for `generate`, how many tokens differ."""
    full = model(ids, use_cache=False).logits
    result = {"stored": (full - expected).abs().max().item()}
    caches = {"dynamic": DynamicCache(), "from config": DynamicCache(config=model.config)}
    caches["static"] = StaticCache(config=model.config, max_cache_len=ids.shape[1] + 2)
    for name, cache in caches.items():
        parts = [model(ids[:, :5], past_key_values=cache, use_cache=True).logits]
        for i in range(5, ids.shape[1]):
            parts.append(model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits)
        result[name] = (torch.cat(parts, dim=1) - full).abs().max().item()

    padded = torch.cat((torch.zeros_like(ids[:, :3]), ids), dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        logits = model(padded, attention_mask=mask, position_ids=position_ids).logits[:, 3:]
        result[f"left padding, {implementation}"] = (logits - full).abs().max().item()

    greedy = ids
    for _ in range(6):
        greedy = torch.cat((greedy, model(greedy, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    for extra in ({}, {"cache_implementation": "static"}, {"past_key_values": DynamicCache()}):
        got = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, **extra)
        result["generate " + "".join(extra)] = float((got != greedy).sum())
    got = model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False)
    result["generate left padded"] = float((got[:, 3:] != greedy).sum())
    beams = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    result["beams"] = float((model.generate(ids, **beams) != model.generate(ids, use_cache=False, **beams)).sum())
    return result


def other_heads(saved: Path, model, ids: torch.Tensor, classifiers: Path) -> dict[str, float]:
    """The folder opened by the other auto classes: largest differences to what the causal LM's decoder gives.

    The first version writes a classifier to `classifiers`, each later one checks all it finds there and adds its own.
    """
    states = model.model(ids).last_hidden_state
    # before AutoModel, which would register the decoder and hide that a classifier asks it to trust this code again
    fresh = AutoModelForSequenceClassification.from_pretrained(saved, trust_remote_code=True, num_labels=3).eval()
    expected = states[:, -1] @ fresh.score.weight.T
    result = {"classifier": (fresh(ids).logits - expected).abs().max().item()}
    decoder = AutoModel.from_pretrained(saved, trust_remote_code=True).eval()
    result["decoder"] = (decoder(ids).last_hidden_state - states).abs().max().item()

    if not classifiers.exists():
        fresh.save_pretrained(classifiers / transformers.__version__)
        torch.save(expected, classifiers / "expected.pt")
    stored = torch.load(classifiers / "expected.pt")
    for written in sorted(path for path in classifiers.iterdir() if path.is_dir()):
        again = AutoModelForSequenceClassification.from_pretrained(written, trust_remote_code=True).eval()
        result[f"classifier of {written.name}"] = (again(ids).logits - stored).abs().max().item()
    if not (own := classifiers / transformers.__version__).exists():
        again.save_pretrained(own)
    return result


@torch.no_grad()
def main(folder: Path) -> int:
    torch.set_num_threads(1)
    if not folder.exists():
        write_children(folder)
    worst = 0.0
    for child in sorted(folder.iterdir()):
        stored = torch.load(child / "expected.pt")
        for saved in sorted(path for path in child.iterdir() if path.is_dir() and path.name != "classifier"):
            model = AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=True).eval()
            found = other_heads(saved, model, stored["ids"], child / "classifier")
            found |= differences(model, stored["ids"], stored["logits"])
            worst = max(worst, *found.values())
            details = ", ".join(f"{name} {value:.0e}" for name, value in found.items())
            print(f"{child.name} saved by {saved.name}, loaded by {transformers.__version__}: {details}")
            if not (own := child / transformers.__version__).exists():
                model.save_pretrained(own)
    print(f"transformers {transformers.__version__}: largest difference {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
