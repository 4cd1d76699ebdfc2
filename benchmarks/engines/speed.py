"""A parent, a child of several kinds of block, one of half the depth and a uniform one, in every engine: hf_puzzle/engines/speed.json.

    python benchmarks/engines/speed.py                  # in the environments that `make engines` made
    python benchmarks/engines/speed.py --engines vllm   # this one; the others keep what was measured before

The parent has the layers of SmolLM2-135M, fewer of them and a smaller vocabulary in proportion; weights are random, for time
does not depend on them. Times are processor time on one thread, models in turn, so that other work on the machine counts
little; a ratio is within a round, and its spread is over rounds.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
from pathlib import Path

import cases
import measure
import torch
from transformers import LlamaConfig, PretrainedConfig

from hf_puzzle import artifacts, formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.engines import ENGINES, measured
from hf_puzzle.engines.check import OPENS, check_folder
from hf_puzzle.engines.export import export
from hf_puzzle.engines.openvino import PYTHON as OPENVINO


HERE = Path(__file__).parent
OWN, WIDE = 3, 1536  # the parent's KV heads and FFN width
LAYERS = 12
PARENT = LlamaConfig(
    vocab_size=16_384,
    hidden_size=576,
    intermediate_size=WIDE,
    num_hidden_layers=LAYERS,
    num_attention_heads=9,
    num_key_value_heads=OWN,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)
KINDS = [Block("none", 512), Block(1, 256), Block("linear", 256)]
MODELS = {
    "parent": [Block(OWN, WIDE)] * LAYERS,
    "searched": [Block(OWN, WIDE) if i in (0, LAYERS - 1) else KINDS[i % len(KINDS)] for i in range(LAYERS)],
    "half depth": [Block(OWN, WIDE)] * (LAYERS // 2),
    "uniform": [Block(1, 256)] * LAYERS,
}
WORK = [(1, 128), (1, 1024), (16, 128), (16, 1024)]  # sequences, tokens in
DECODED = 8  # tokens, one by one
WHOLE = 48  # in vLLM, whose steps are known by the difference of two generations alone
ROWS = {"transformers": "transformers", "mlx-lm": "mlx-lm", "openvino": "openvino", "onnxruntime": "onnxruntime"}
ROWS |= {"llama.cpp": "llama.cpp", "vllm": "vllm"}


def config_of(name: str) -> PretrainedConfig:
    blocks = MODELS[name]
    config = LlamaConfig.from_dict(PARENT.to_dict() | {"num_hidden_layers": len(blocks)})
    if name == "searched":
        return formats.decilm_config(config, blocks)
    config.num_key_value_heads, config.intermediate_size = blocks[0]  # as its users get it: a stock architecture
    return config


def write(name: str, place: Path, words) -> Path:
    folder = place / name.replace(" ", "_")
    if not folder.exists():
        config = config_of(name)
        torch.manual_seed(0)
        hub.write_model_folder(folder, formats.model_class(config)(config).eval(), words)
    return folder


def as_engine_opens_it(folder: Path, engine: str) -> Path:
    """The folder itself, or its export in float32."""
    status = {verdict.engine: verdict.status for verdict in check_folder(folder)}[engine]
    if status == OPENS and engine != "llama.cpp" and not ENGINES[engine].graphs:
        return folder
    out = folder.with_name(f"{folder.name}-{engine}" + (".gguf" if engine == "llama.cpp" else ""))
    if not out.exists():
        export(folder, engine, out, **({"outtype": "f32"} if engine == "llama.cpp" else {}))
    return out


def timed(engine: str, place: Path, venvs: Path, words, rounds: int) -> dict:
    python = measure.environment(engine, venvs)
    os.environ[OPENVINO] = str(venvs / "openvino" / "bin" / "python")
    paths = {name: str(as_engine_opens_it(write(name, place, words), engine)) for name in MODELS}
    asked, told = place / f"{engine}.json", place / f"{engine}.told.json"
    asked.write_text(
        json.dumps(
            {
                "models": paths,
                "work": WORK,
                "decoded": WHOLE if engine == "vllm" else DECODED,
                "rounds": rounds,
            }
        )
    )
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [str(python), str(HERE / "speed_worker.py"), engine, str(asked), str(told)]
    subprocess.run(command, check=True, env=os.environ | settings, stdin=subprocess.DEVNULL)
    row = measure.ENGINES[engine]
    known = measure.versions(python, (row.package, *row.beside))
    return {
        "version": known.pop(row.package),
        "with": known,
        "date": datetime.date.today().isoformat(),
        "rounds": rounds,
        "work": [ratios(work) for work in json.loads(told.read_text())],
    }


def ratios(work: dict) -> dict:
    """Speed-ups over the parent of the same round: prefill, a decoding step, and 128 tokens generated."""
    rows = {}
    for name, times in work["times"].items():
        parts = {
            "prefill": [t[0] for t in times],
            "decode": [t[1] for t in times],
            "with 128 out": [t[0] + 127 * t[1] for t in times],
        }
        rows[name] = parts
    found = {}
    for name, parts in rows.items():
        found[name] = {"ms": {part: round(statistics.median(values), 2) for part, values in parts.items()}}
        if name == "parent":
            continue
        for part, values in parts.items():
            each = [own / value for own, value in zip(rows["parent"][part], values, strict=True)]
            found[name][part] = [round(x, 3) for x in (statistics.median(each), min(each), max(each))]
    return {"batch": work["batch"], "tokens": work["tokens"], "models": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--venvs", type=Path, default=measure.ROOT / ".venv-engines")
    parser.add_argument("--place", type=Path, default=measure.ROOT / "runs" / "speed", help="models, not made again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--out", type=Path, default=measured.SPEEDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.place.mkdir(parents=True, exist_ok=True)
    words = cases.tokenizer()
    for engine in args.engines:
        row = timed(engine, args.place, args.venvs, words, args.rounds)
        # as it is now: another engine may have been timed meanwhile
        found = json.loads(args.out.read_text()) if args.out.exists() else {"engines": {}}
        found["engines"][engine] = row
        found |= {
            "environment": artifacts.environment(),
            "note": args.note,
            "parent": f"{LAYERS} layers of SmolLM2-135M, vocabulary {PARENT.vocab_size:,}, random weights, float32, seed 0",
            "blocks": {name: [block.id for block in blocks] for name, blocks in MODELS.items()},
        }
        artifacts.write_json(args.out, found)
        print(engine, json.dumps(found["engines"][engine]["work"]), flush=True)


if __name__ == "__main__":
    main()
