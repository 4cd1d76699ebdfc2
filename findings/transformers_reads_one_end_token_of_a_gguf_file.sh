#!/bin/sh
# A GGUF file may name three tokens that end a generation: of the text (eos), of a turn (eot), of a message (eom). llama.cpp
# stops at all of them. Which of them does a model have that transformers opens from the file?
#
# Guess before running: generation_config.eos_token_id is the list of the three.
# Seen with transformers 5.24.0, gguf 0.19.0, torch 2.13.0: eos alone, in config and generation config, so that a chat model
# whose file has eos "end of text" and eot "end of turn" writes on behind its turn.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0 torch==2.13.0 gguf==0.19.0
cd "$folder"
cat > make.py <<'PY'
import gguf
import numpy as np

writer = gguf.GGUFWriter("tiny.gguf", "llama")
writer.add_block_count(1)
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_feed_forward_length(64)
writer.add_head_count(4)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_vocab_size(16)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([f"t{i}" for i in range(16)])
writer.add_token_types([1] * 16)
writer.add_token_merges(["t 1"])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_eot_token_id(3)
writer.add_eom_token_id(4)
rng = np.random.default_rng(0)
for name, shape in {
    "token_embd.weight": (16, 32), "output.weight": (16, 32), "output_norm.weight": (32,), "blk.0.attn_norm.weight": (32,),
    "blk.0.ffn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_gate.weight": (64, 32),
    "blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_down.weight": (32, 64),
}.items():
    writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
cat > look.py <<'PY'
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
print("config", model.config.eos_token_id)
print("generation", model.generation_config.eos_token_id)
PY
venv/bin/python make.py
seen=$(venv/bin/python look.py 2>/dev/null)
echo "$seen"
[ "$seen" = "$(printf 'config 2\ngeneration 2')" ]
