#!/usr/bin/env bash
# transformers 5.24.0: packed documents, told apart by positions that begin again at 0, see each other in gpt_oss.
# Guess: as in Llama (`position_ids` without a mask and a cache: masking_utils finds the documents in them), in every family.
# Seen: gpt_oss makes its masks without the positions; the second document's logits change with the first one, and nothing is
# said. Llama's do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cat > "$work/pack.py" <<'PY'
import torch
import transformers

SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=64)
OWN = {"Llama": {}, "GptOss": dict(num_local_experts=2, num_experts_per_tok=1, sliding_window=32)}
torch.manual_seed(0)
first, second, other = (torch.randint(0, 64, (1, 6)) for _ in range(3))
positions = torch.arange(6).repeat(2)[None]
for name, own in OWN.items():
    config = getattr(transformers, f"{name}Config")(**SIZES, **own, attn_implementation="eager", initializer_range=0.2)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        a, b = (
            model(input_ids=torch.cat([front, second], 1), position_ids=positions, use_cache=False).logits[:, 6:]
            for front in (first, other)
        )
    print(name, "apart" if torch.allclose(a, b, atol=1e-5) else "seen")
PY
got=$("$work/venv/bin/python" "$work/pack.py" 2> /dev/null | tr '\n' ' ')
echo "$got"
[ "$got" = "Llama apart GptOss seen " ] || { echo "changed"; exit 1; }
