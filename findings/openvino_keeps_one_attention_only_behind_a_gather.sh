#!/usr/bin/env bash
# OpenVINO 2026.4.1's CPU plugin runs an attention over keys and values in its state as one kernel only if it is the operation of
# its own opset and the past goes through a Gather of rows first.
# Guess: its own operation stays one, with state or without, and product, mask, softmax, product are joined into it likewise, as
# they are without a state.
# Seen: without a state both are one node. With a state that is only appended to, both are two products and a softmax, the own
# operation, too. With a Gather (of beam_idx) between state and concatenation the own operation stays, and the four parts are
# never joined. Scores of every layer are then held, and keys and values copied at each step.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet openvino==2026.4.1 numpy==2.4.6
cat > "$work/nodes.py" <<'PY'
import collections

import numpy as np
import openvino
import openvino.opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation

SHAPE = [-1, 4, -1, 16]  # batch, heads, tokens, channels


def named(node, name):
    node.output(0).get_tensor().set_names({name})
    return node


def graph(own, state, gather):
    new = {name: named(ops.parameter(SHAPE, np.float32), name) for name in "qkv"}
    mask = named(ops.parameter([-1, 1, -1, -1], np.float32), "mask")
    rows = named(ops.parameter([-1], np.int32), "beam_idx")
    inputs, whole, states = [*new.values(), mask], {"k": new["k"], "v": new["v"]}, {}
    if gather:
        inputs.append(rows)
    for name in "kv" if state else "":
        past = named(ops.parameter(SHAPE, np.float32), f"past_{name}")
        before = ops.gather(past, rows, ops.constant(np.int64(0))) if gather else past
        whole[name] = ops.concat([before, new[name]], 2)
        states[f"past_{name}"] = named(ops.result(whole[name]), f"now_{name}")
        inputs.append(past)
    if own:
        out = ops.scaled_dot_product_attention(new["q"], whole["k"], whole["v"], mask, ops.constant(np.float32(1)), causal=False)
    else:
        turned = ops.transpose(whole["k"], ops.constant(np.array([0, 1, 3, 2])))
        scores = ops.add(ops.matmul(new["q"], turned, False, False), mask)
        out = ops.matmul(ops.softmax(scores, -1), whole["v"], False, False)
    model = openvino.Model([ops.result(out), *states.values()], inputs, "attention")
    if state:
        apply_make_stateful_transformation(model, {past: past.replace("past", "now") for past in states})
        batch = ops.gather(ops.shape_of(new["q"]), ops.constant(np.array([0])), ops.constant(np.int64(0)))
        sizes = [batch, ops.constant(np.array([4])), ops.subtract(batch, batch), ops.constant(np.array([16]))]
        empty = ops.broadcast(ops.constant(np.float32(0)), ops.concat(sizes, 0))
        for op in model.get_ops():
            if op.get_type_name() == "ReadValue":
                op.set_arguments([empty])
        model.validate_nodes_and_infer_types()
    return model


for state, gather in ((False, False), (True, False), (True, True)):
    for own in (True, False):
        compiled = openvino.Core().compile_model(graph(own, state, gather), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        kinds = collections.Counter(op.get_rt_info()["layerType"].value for op in compiled.get_runtime_model().get_ops())
        seen = [f"{kinds[kind]} {kind}" for kind in ("Subgraph", "ScaledDotProductAttention", "MatMul", "Softmax") if kinds[kind]]
        print("state" if state else "no state", "gather" if gather else "-", "own" if own else "parts", *seen)
PY
got=$("$work/venv/bin/python" "$work/nodes.py")
echo "$got"
want='no state - own 1 Subgraph
no state - parts 1 Subgraph
state - own 2 MatMul 1 Softmax
state - parts 2 MatMul 1 Softmax
state gather own 1 ScaledDotProductAttention
state gather parts 2 MatMul 1 Softmax'
[ "$got" = "$want" ] || { echo "changed"; exit 1; }
