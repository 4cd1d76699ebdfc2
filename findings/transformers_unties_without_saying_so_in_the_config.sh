#!/usr/bin/env bash
# transformers 5.24.0: a checkpoint whose config ties its head, with a head of its own in the file, loads untied and stays "tied".
# Guess: the config decides: the head of the file is dropped (as in 4.x), or the flag is set to false with it.
# Seen: both weights are kept and differ, while `config.tie_word_embeddings` is still True, also after saving again. Whoever reads
# the flag (converters, engines) drops a head that this model computes with.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/tied.py" <<'PY'
import json, pathlib, sys, tempfile
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

folder = pathlib.Path(tempfile.mkdtemp())
torch.manual_seed(0)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).save_pretrained(folder)
config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
(folder / "config.json").write_text(json.dumps(config))
model = AutoModelForCausalLM.from_pretrained(folder)
one = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
model.save_pretrained(folder / "again")
again = json.loads((folder / "again" / "config.json").read_text())["tie_word_embeddings"]
print("one tensor", one, "flag", model.config.tie_word_embeddings, "flag saved", again)
PY
for version in 4.57.6 5.24.0; do
    "$work/venv/bin/python" -m pip install --quiet transformers==$version
    got=$("$work/venv/bin/python" "$work/tied.py" 2> /dev/null | tail -n 1)
    echo "transformers $version: $got"
    case "$version $got" in
        "4.57.6 one tensor True flag True flag saved True" | "5.24.0 one tensor False flag True flag saved True") ;;
        *) echo "changed"; exit 1 ;;
    esac
done
