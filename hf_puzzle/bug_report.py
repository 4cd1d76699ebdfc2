"""`hf-puzzle env`: what a bug report should say of a machine; no tokens, no names, the home folder as `~`."""

import os
import platform
import shutil
import site
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from . import artifacts
from .engines.measuring import open_engine
from .puzzle.solver import SOLVERS, SolverUnusableError, pick_solver, solver_state
from .recipe import RecipeError


# of processors, as /proc/cpuinfo spells them: those that kernels of torch, llama.cpp or ONNX Runtime choose by
FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
ENGINES = ("transformers", "llama.cpp", "vllm", "openvino")


def bug_report() -> dict[str, Any]:
    """Everything as JSON-like values; bytes in their keys' names, reasons where something does not work."""
    environment = artifacts.environment()
    memory = psutil.virtual_memory()
    report = {
        "hf_puzzle": environment["versions"].get("hf_puzzle"),
        "python": f"{platform.python_implementation()} {environment['python']}",
        "platform": platform.platform(),
        "processor": {
            "name": environment["cpu"],
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
            "features": _features(),
            "cores": psutil.cpu_count(logical=False),
            "threads": environment["cpu_count"],
            "torch_threads": torch.get_num_threads(),
        },
        "memory_bytes": {"total": memory.total, "available": memory.available},
        "gpus": _gpus(),
        "solvers": {"auto": _solver(), **{name: vars(solver_state(name)) for name in SOLVERS[1:]}},
        "engines": {engine: _engine(engine) for engine in ENGINES},
        "packages": _packages(environment["versions"]),
        "extras": _extras(),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "HF_HOME": "set" if "HF_HOME" in os.environ else None,
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE"),
    }
    return _without_personal_paths(report)


def rows(report: dict[str, Any]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Tables of a report, each `(header, rows)`."""
    cpu, memory = report["processor"], report["memory_bytes"]
    solvers, gpus = report["solvers"], report["gpus"]
    facts = [
        ("hf_puzzle", report["hf_puzzle"] or "a checkout that is not installed"),
        ("Python", report["python"]),
        ("platform", report["platform"]),
        ("processor", f"{cpu['name']}; {cpu['torch_capability']} in torch; {' '.join(cpu['features'])}"),
        ("cores", f"{cpu['cores']}, {cpu['threads']} threads, {cpu['torch_threads']} of them torch's"),
        ("memory", f"{memory['total'] / 1e9:.1f} GB, {memory['available'] / 1e9:.1f} GB available"),
        ("GPU", "; ".join(f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:.1f} GB" for gpu in gpus) or "none"),
        ("disk", f"{report['disk_free_bytes'] / 1e9:.1f} GB free in the current folder"),
        ("HF_HOME", report["HF_HOME"] or "not set"),
        ("HF_HUB_OFFLINE", report["HF_HUB_OFFLINE"] or "not set"),
        ("solver `auto`", solvers["auto"]),
    ]
    for name in SOLVERS[1:]:
        state = solvers[name]
        works = f"works: {state['version'] or ''} {state['library']}".replace("  ", " ")
        facts.append((f"solver {name}", works if state["reason"] is None else state["reason"]))
    facts += [(f"engine {name}", state["version"] or state["reason"]) for name, state in report["engines"].items()]
    facts += [(f"extra {name}", f"lacks {', '.join(lacks)}" if lacks else "installed") for name, lacks in report["extras"].items()]  # fmt: skip
    packages = [
        (each["name"], each["installed"] or "missing", each["needed"], "" if each["fits"] else "does not fit")
        for each in report["packages"]
    ]
    return [(("what", "here"), facts), (("package", "installed", "needed", ""), packages)]


def _features() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [feature for feature in FEATURES if feature in flags]


def _gpus() -> list[dict]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": each.name, "memory_bytes": each.total_memory} for each in found]


def _solver() -> str:
    try:
        return pick_solver("auto")
    except SolverUnusableError as error:
        return str(error)


def _engine(engine: str) -> dict[str, str | None]:
    try:
        return {"version": open_engine(engine), "reason": None}
    except RecipeError as error:
        return {"version": None, "reason": str(error)}


def _packages(versions: dict[str, str]) -> list[dict]:
    """Packages that are always needed, and others that are there; `fits` says whether the version is one asked for."""
    always, needed = artifacts.requirements().get("", []), {}
    for extra, each in ((extra, each) for extra, group in artifacts.requirements().items() for each in group):
        if extra not in artifacts.TOOLS:
            needed.setdefault(each.name, each.specifier)
    names = {each.name for each in always}.union(versions)
    return [
        {
            "name": name,
            "installed": versions.get(name),
            "needed": str(needed.get(name, "")),
            "fits": name in versions
            and (name not in needed or needed[name].contains(versions[name], prereleases=True)),
        }
        for name in sorted(names, key=str.lower)
    ]


def _extras() -> dict[str, list[str]]:
    """What each extra lacks."""
    found = {}
    for extra, needed in artifacts.requirements().items():
        if extra and extra != "dev":
            found[extra] = [str(each.name) for each in needed if not _fits(each)]
    return found


def _fits(requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _without_personal_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_personal_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_personal_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    for folder in sorted({*site.getsitepackages(), site.getusersitepackages(), sys.prefix}, key=len, reverse=True):
        value = value.replace(folder + os.sep, "")
    home = str(Path.home())
    return value if home == os.sep else value.replace(home, "~")
