#!/usr/bin/env bash
# transformers 4.57.6 and 5.23.0: `cache=`, the name that 5.24.0 gives `past_key_values`, is accepted and ignored.
# Guess: a TypeError or at least a warning for a keyword that the class does not know.
# Seen: no error and no warning; the given cache stays empty, and a second call with one more token computes as if nothing had
# come before it. 5.24.0 takes both names. So a loop written for 5.24 decodes garbage on 5.23 without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/loop.py" <<'PY'
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.2)).eval()
ids = torch.arange(3, 13)[None]
with torch.no_grad():
    right = model(ids, use_cache=False).logits[:, -1]
    for name in ("past_key_values", "cache"):
        cache = DynamicCache()
        model(ids[:, :-1], use_cache=True, **{name: cache})
        got = model(ids[:, -1:], use_cache=True, **{name: cache}).logits[:, -1]
        print(name, cache.get_seq_length(), "right" if torch.allclose(got, right, atol=1e-4) else "wrong")
PY
for version in 4.57.6 5.23.0 5.24.0; do
    "$work/venv/bin/python" -m pip install --quiet transformers==$version
    got=$("$work/venv/bin/python" "$work/loop.py" 2> "$work/err")
    echo "transformers $version: $got"
    case $version in
        5.24.0) want=$'past_key_values 10 right\ncache 10 right' ;;
        *) want=$'past_key_values 10 right\ncache 0 wrong' ;;
    esac
    [ "$got" = "$want" ] || { echo "changed"; exit 1; }
    if [ $version != 5.24.0 ] && grep -qi cache "$work/err"; then echo "changed: it says something now"; exit 1; fi
done
