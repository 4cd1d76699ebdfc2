#!/usr/bin/env bash
# mlx-lm 0.32.2 opens a Llama and a Qwen2 that transformers 5.24.0 saved, and computes them with a rope_theta of its own.
# Guess: it reads rope_parameters, where transformers 5 writes rope_theta, for all architectures or says that it is missing:
# its Qwen3 does both.
# Seen: only Qwen3 is right. Llama and Qwen2 load without a word, and take 10,000 and 1,000,000 for the file's 123,456 (and
# drop llama3's scaling): the logits of any model of these families that was fine-tuned and saved by transformers 5 are
# wrong unless its theta is that default. A top-level rope_theta (and rope_scaling) beside rope_parameters makes them right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0 "mlx[cpu]==0.32.4" mlx-lm==0.32.2
cat > "$work/compare.py" <<'PY'
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
import transformers
from mlx_lm.utils import load_model

SIZES = dict(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=4, initializer_range=0.2, tie_word_embeddings=False)
SCALED = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
ids = np.arange(3, 43)[None] % 64


def compare(folder, expected):
    model, _ = load_model(Path(folder))
    got = np.array(model(mx.array(ids)).astype(mx.float32))
    return "right" if np.abs(got - expected).max() < 1e-3 else "wrong"


mx.set_default_device(mx.cpu)
for stock, theta, scaling in [("Llama", 10_000.0, {}), ("Llama", 123_456.0, {}), ("Llama", 10_000.0, SCALED),
                              ("Qwen2", 123_456.0, {}), ("Qwen3", 123_456.0, {})]:
    torch.manual_seed(0)
    own = {"head_dim": 16} if stock == "Qwen3" else {}
    rope = {"rope_type": "default", **scaling, "rope_theta": theta}
    config = getattr(transformers, f"{stock}Config")(**SIZES, **own, rope_parameters=rope)
    model = getattr(transformers, f"{stock}ForCausalLM")(config).eval()
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    folder = Path(sys.argv[1]) / f"{stock}{theta:.0f}{len(scaling)}"
    model.save_pretrained(folder)
    saved = compare(folder, expected)
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | {"rope_theta": theta}
    if scaling:
        raw["rope_scaling"] = scaling
    path.write_text(json.dumps(raw))
    print(stock, f"{theta:.0f}", rope["rope_type"], "as saved:", saved, "with both:", compare(folder, expected))
PY
got=$(OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/compare.py" "$work" 2> "$work/err")
echo "$got"
want='Llama 10000 default as saved: right with both: right
Llama 123456 default as saved: wrong with both: right
Llama 10000 llama3 as saved: wrong with both: right
Qwen2 123456 default as saved: wrong with both: right
Qwen3 123456 default as saved: right with both: right'
[ "$got" = "$want" ] || { echo "changed"; exit 1; }
if grep -qi rope "$work/err"; then echo "changed: it says something now"; exit 1; fi
