#!/usr/bin/env bash
# transformers 5.24.0: a Mistral with sliding_window=1 decodes wrong tokens with its default cache; 2 and 3 are right.
# Guess: a window of one is an edge that is either refused or right.
# Seen: the sliding cache layer keeps the last `window - 1` keys by a negative slice, which for 0 keeps all of them, so cached
# decoding attends to everything and differs from decoding without a cache; a static cache is right. No error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cat > "$work/windows.py" <<'PY'
import torch
from transformers import MistralConfig, MistralForCausalLM

ids = torch.arange(3, 13)[None]
for window in (1, 2, 3):
    torch.manual_seed(0)
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    config = MistralConfig(**sizes, num_key_value_heads=4, sliding_window=window, initializer_range=0.3, eos_token_id=None)
    model = MistralForCausalLM(config).eval()
    settings = dict(attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0)
    right = model.generate(ids, use_cache=False, **settings)
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **settings)
    equal = [torch.equal(got, right) for got in (model.generate(ids, **settings), static)]
    print(window, *("right" if each else "wrong" for each in equal))
PY
got=$("$work/venv/bin/python" "$work/windows.py" 2> /dev/null)
printf 'window, dynamic cache, static cache\n%s\n' "$got"
[ "$got" = "$(printf '1 wrong right\n2 right right\n3 right right')" ] || { echo "changed"; exit 1; }
