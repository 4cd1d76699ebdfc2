#!/bin/sh
# A subclass of a mixture, defined in a file of its own: may its experts implementation be set? transformers reads the source
# file of the class that is asked and looks for a decorator's name in it, then remembers the answer on the class, where
# subclasses find it. So the same subclass says no when it is asked first, and yes once its parent class has been asked.
#
# Guess before running: the subclass answers as its parent does, whoever is asked first.
# Seen with transformers 5.24.0, torch 2.13.0:
#   subclass first:  subclass False, parent True
#   parent first:    parent True, subclass True
# For attention implementations the same way of asking says True in both orders: a file without an attention class passes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet transformers==5.24.0 torch==2.13.0
cat > "$folder/mine.py" <<'PY'
from transformers import MixtralForCausalLM


class MyMixtral(MixtralForCausalLM):
    pass
PY
cat > "$folder/ask.py" <<'PY'
import sys

from mine import MixtralForCausalLM, MyMixtral

order = {"subclass": MyMixtral, "parent": MixtralForCausalLM}
for name in sys.argv[1:]:
    print(name, order[name]._can_set_experts_implementation(), order[name]._can_set_attn_implementation())
PY
cd "$folder"
first=$("$folder/venv/bin/python" ask.py subclass parent)
second=$("$folder/venv/bin/python" ask.py parent subclass)
echo "$first"
echo "--"
echo "$second"
[ "$first" = "$(printf 'subclass False True\nparent True True')" ]
[ "$second" = "$(printf 'parent True True\nsubclass True True')" ]
