"""GKD with sharded models on the processes of torchrun, or with whole ones without: `fsdp_distill.py FOLDER BATCH_SIZE`.

FOLDER holds `parent` and `child`; the trained child goes to `FOLDER/<processes>`, what this process held to a JSON.
A third argument kills the run after so many steps.
"""

import json
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from hf_puzzle import hub
from hf_puzzle.evaluation import Rows
from hf_puzzle.puzzle.distillation import GKDTrainer, distill, num_processes
from hf_puzzle.puzzle.loading import gathered, load_sharded
from hf_puzzle.puzzle.network import meta_model
from hf_puzzle.recipe import DistillConfig


torch.set_num_threads(1)


class KillAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            sys.exit(3)


def main(folder: Path, batch_size: int, kill_after: int | None) -> None:
    processes = num_processes()
    sharded = processes > 1
    paths = [folder / name for name in ("child", "parent")]
    if sharded:
        child, parent = (load_sharded(path, hub.read_config(path), processes, torch.float32) for path in paths)
    else:
        child, parent = (hub.open_model_folder(path) for path in paths)
    tokens = torch.randint(3, 64, (2000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    args = {"ddp_backend": "gloo"} if sharded else {}
    config = DistillConfig(
        num_tokens=512, batch_size=batch_size, learning_rate=1e-3, chunk_tokens=24, evals=2, fsdp=sharded, args=args
    )
    if kill_after is not None:
        original = GKDTrainer.__init__

        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            self.add_callback(KillAfter(kill_after))

        GKDTrainer.__init__ = init
    seen = {}
    original_step = GKDTrainer.training_step

    def step(self, model, inputs, *args):
        loss = original_step(self, model, inputs, *args)
        seen["steps"] = seen.get("steps", 0) + 1
        for name, module in (("child", self.model), ("parent", self.teacher)):
            seen[name] = sum(
                (p.to_local() if isinstance(p, DTensor) else p).nbytes
                for p in module.get_decoder().layers.parameters()
            )
        states = [t for state in self.optimizer.state.values() for t in state.values() if t.ndim]
        seen["optimizer"] = sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in states)
        return loss

    GKDTrainer.training_step = step
    rows = Rows.draw(tokens, 16, 512, seed=1)
    child, done = distill(child, parent, tokens, config, 16, folder / f"run{processes}", rows)
    assert 0 < done.step <= done.steps
    assert done.kl_after < done.kl_before
    rank = torch.distributed.get_rank() if sharded else 0
    (folder / f"bytes{processes}_{rank}.json").write_text(json.dumps(seen))
    if not sharded:
        hub.write_model_folder(folder / "1", child)
        return
    pieces = gathered(child, torch.float32)
    if rank == 0:
        empty = meta_model(hub.read_config(folder / "child"), torch.float32, folder / "child")
        hub.write_model_folder(folder / str(processes), empty, weights=pieces)
    else:
        for _ in pieces:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
