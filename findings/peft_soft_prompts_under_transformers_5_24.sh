#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0: prompt tuning generates other tokens than under 5.23.0; no error.
# Guess: either equal tokens, or a refusal (5.24.0 does refuse this peft in `model.add_adapter`, by version).
# Seen: `generate` of a prompt-tuned model equals decoding without a cache under 5.23.0 and differs from it under 5.24.0, from the
# second new token on: the cache that 5.24 hands on as `cache` is not looked for under that name.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/prompt.py" <<'PY'
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
base = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.2, eos_token_id=None)).eval()
model = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")).eval()
model.prompt_encoder["default"].embedding.weight.data.normal_()
ids = torch.arange(3, 13)[None]
mask = torch.ones_like(ids)
got = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, -6:]
right = ids
with torch.no_grad():
    for _ in range(6):
        logits = model(input_ids=right, attention_mask=torch.ones_like(right), use_cache=False).logits
        right = torch.cat((right, logits[:, -1:].argmax(-1)), dim=1)
print("first", bool(got[0] == right[0, -6]), "all", bool((got == right[0, -6:]).all()))
PY
for version in 5.23.0 5.24.0; do
    "$work/venv/bin/python" -m pip install --quiet transformers==$version peft==0.21.2
    got=$("$work/venv/bin/python" "$work/prompt.py" 2> /dev/null | tail -n 1)
    echo "transformers $version: $got"
    case "$version $got" in
        "5.23.0 first True all True" | "5.24.0 first True all False") ;;
        *) echo "changed"; exit 1 ;;
    esac
done
