"""Machines that a run can be planned on: a table of data sheets, a YAML file, or the machine at hand."""

from dataclasses import dataclass
from pathlib import Path

from ..recipe import MAX_RECIPE_BYTES, RecipeError, did_you_mean, key, parse_section, read_yaml


@dataclass(frozen=True)
class Machine:
    """What one machine does in a second, per device; `count` devices share its disk."""

    flops: dict[str, float] = key("dense matrix FLOP/s by dtype: float32, bfloat16, float16, float8")
    memory_bandwidth: float = key("bytes/s between a device and its memory")
    memory_gb: float = key("memory of a device, in 1e9 bytes")
    name: str = key("shown in the plan; default: the name of its file", "machine")
    count: int = key("devices", 1)
    utilisation: float = key("share of `flops` that large matrix products reach", 0.5)
    op_seconds: float = key("start of one operation, when it has nothing to wait for", 5e-6)
    disk_gb: float | None = key("room for the run folder, in 1e9 bytes; default: not checked", None)
    disk_bandwidth: float = key("bytes/s to the run folder", 1e9)
    link_bandwidth: float = key("bytes/s between two devices, one direction", 25e9)
    link_seconds: float = key("start of an all-reduce", 10e-6)
    tokens_per_s: float = key("tokens/s that the tokenizer makes of text", 1e6)

    @property
    def memory_bytes(self) -> float:
        return self.memory_gb * 1e9


def _card(
    name: str, tf32: float, half: float, eight: float, bandwidth: float, memory_gb: float, link: float
) -> Machine:
    flops = {"float32": tf32, "bfloat16": half, "float16": half, "float8": eight}
    flops = {dtype: tera * 1e12 for dtype, tera in flops.items()}
    return Machine(flops, bandwidth * 1e9, memory_gb, name, link_bandwidth=link * 1e9)


# NVIDIA's data sheets: A100 80GB SXM (nvidia-a100-datasheet-nvidia-us-2188504), H100 SXM (h100-datasheet-2287922), H200 SXM
# (hpc-datasheet-sc23-h200), L4 (l4-datasheet-2595652), RTX 4090 (Ada GPU architecture whitepaper, table 2). Dense
# TFLOP/s, half of what sheets give "with sparsity"; float32 is TF32, for which `torch.backends.cuda.matmul.fp32_precision`
# must be set; bfloat16 with float32 accumulation; without FP8 units the 16-bit rate. GB/s; NVLink (PCIe for L4, 4090)
# in one direction. Memory as nvidia-smi reports it (81,559 MiB of the H100's "80 GB"), in 1e9 bytes.
MACHINES = {
    "a100-80gb": _card("a100-80gb", 156, 312, 312, 2039, 85.9, 300),
    "h100-80gb": _card("h100-80gb", 494.7, 989.4, 1978.9, 3350, 85.5, 450),
    "h200": _card("h200", 494.7, 989.4, 1978.9, 4800, 150.8, 450),
    "l4": _card("l4", 60, 121, 242.5, 300, 24.2, 32),
    "rtx4090": _card("rtx4090", 82.6, 165.2, 330.3, 1008, 25.8, 32),
}
THIS = "this"


def find_machine(name: str) -> Machine | None:
    """A machine of the table, or of a YAML file with the keys of `Machine`; None for `this`, which is measured.

    Raises:
        RecipeError: a name that is neither, or a file with unknown keys or impossible values.
    """
    if name == THIS:
        return None
    if name in MACHINES:
        return MACHINES[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = [THIS, *MACHINES]
        raise RecipeError(
            f"machine {name[:200]!r} is unknown{did_you_mean(name, known)}; known: {', '.join(known)}, or a FILE.yaml "
            "with the keys of hf_puzzle.puzzle.machines.Machine"
        )
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_RECIPE_BYTES)
    except OSError as error:
        raise RecipeError(f"cannot read machine {path}: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8
        raise RecipeError(f"machine {path} is not valid YAML: {error}") from None
    raw = read_yaml(text, f"machine {path}")
    where = f"machine {path.name}"
    machine = parse_section(Machine, {"name": path.stem, **raw} if isinstance(raw, dict) else raw, where)
    numbers = {f"flops.{dtype}": value for dtype, value in machine.flops.items()}
    numbers |= {name: value for name, value in vars(machine).items() if isinstance(value, (int, float))}
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise RecipeError(f"machine {path.name}: {name} is {value}; give a positive number")
    if not machine.flops or set(machine.flops) - set(MACHINES["h200"].flops):
        raise RecipeError(f"machine {path.name}: flops has {', '.join(machine.flops) or 'nothing'}; dtypes: float32, bfloat16, float16, float8")  # fmt: skip
    return machine
