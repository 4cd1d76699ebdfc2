#!/usr/bin/env bash
# OpenVINO 2026.4.1's CPU plugin takes KV_CACHE_PRECISION from the runtime_options of a graph's file, INFERENCE_PRECISION_HINT not.
# Guess: both, or none: transformers 5.24's OpenVINOExporter records both, "as the graph's compile options", so that a model
# exported in float32 is computed in float32.
# Seen: on a processor with bfloat16 the graph is computed in bfloat16 whatever its file says (a product of two matrices is off
# by a percent), while the precision of the cache is that of the file. Given to compile_model, the hint is obeyed.
set -euo pipefail
if ! grep -q avx512_bf16 /proc/cpuinfo; then echo "needs a processor whose default in OpenVINO is bfloat16"; exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet openvino==2026.4.1 numpy==2.4.6
cat > "$work/compare.py" <<'PY'
import sys

import numpy as np
import openvino
import openvino.opset13 as ops

draw = np.random.default_rng(0)
weights, states = (draw.standard_normal(shape).astype(np.float32) for shape in ((256, 256), (8, 256)))
given = ops.parameter([8, 256], np.float32, name="states")
model = openvino.Model([ops.matmul(given, ops.constant(weights), False, False)], [given], "product")
for option in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"):
    model.set_rt_info("f32", ["runtime_options", option])
path = f"{sys.argv[1]}/product.xml"
openvino.save_model(model, path, compress_to_fp16=False)
for told in ({}, {"INFERENCE_PRECISION_HINT": "f32"}):
    compiled = openvino.Core().compile_model(path, "CPU", told)
    (product,) = compiled([states]).values()
    off = np.abs(product - states @ weights).max() / np.abs(product).max()
    precisions = [compiled.get_property(o).to_string() for o in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION")]
    print("told" if told else "from the file:", *precisions, "off" if off > 1e-4 else "exact")
PY
got=$("$work/venv/bin/python" "$work/compare.py" "$work")
echo "$got"
want='from the file: bf16 f32 off
told f32 f32 exact'
[ "$got" = "$want" ] || { echo "changed"; exit 1; }
