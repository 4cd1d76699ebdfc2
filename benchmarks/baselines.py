"""The searched child against simpler choices and searches on the true loss: same library, speed, refit and GKD tokens.

    python benchmarks/baselines.py --runs runs/rivals              # days on two cores; killed, it goes on
    python benchmarks/baselines.py --runs runs/rivals --targets 2.0 --seeds 0 --max-rows 1

Per target, every network gets the time that the child is predicted to take; all are timed in turn by the same fresh
processes, and those that are more than 1 % off, and by more than their error, are chosen again at a corrected budget. A row
is one network, seed, GKD budget and learning rate: a file below `--runs/rows`, from all of which `--out` is made. Every network trains at the learning rate
that is best for it on validation text at the smallest budget and the first seed; test text gives the numbers of `--out`:
KL, how far a network is behind the child (paired, clustered by document), and the GKD-token multiplier: how many times the
child's tokens a network needs to reach the child's KL, by interpolation in log tokens.
"""

import argparse
import functools
import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny_cpu import ROOT, child_of

from hf_puzzle import artifacts
from hf_puzzle.blocks import Block
from hf_puzzle.evaluation import Rows, Targets, mean_and_error
from hf_puzzle.puzzle.assess import baseline_child, baseline_layouts, chosen_blocks, test_targets
from hf_puzzle.puzzle.bench import jsonable
from hf_puzzle.puzzle.network import Network
from hf_puzzle.puzzle.pipeline import PuzzleRun


NAMES = ("searched", "two_blocks", "uniform", "greedy", "evolution", "projection", "drop_layers")
EQUAL = 0.01


def picked(run: PuzzleRun, name: str, budget_ms: float) -> dict | None:
    """A network that is predicted to take `budget_ms`."""
    pickers = baseline_layouts(run, budget_ms)
    blocks = chosen_blocks(run) if name == "searched" else getattr(pickers, name)()
    if blocks is None:
        return None
    return {
        "blocks": [b.id for b in blocks],
        "budget_ms": budget_ms,
        "predicted_ms": pickers.predicted_ms(blocks),
        "validation_kl_before_refit": pickers.distance(blocks),
    }


def networks_of(run: PuzzleRun, names: list[str], path: Path, corrections: int, sessions: int) -> dict[str, dict]:
    """Layouts of all networks of a target, with speeds by the same processes."""
    found = artifacts.read_json(path) if path.exists() else {}
    budget_ms = run.costs.predict(chosen_blocks(run), run.chosen["batch_size"]).total_ms
    for name in names:
        if name not in found:
            found[name] = picked(run, name, budget_ms)
            artifacts.write_json(path, found)
            print(path.stem, name, found[name], flush=True)
    found = {name: network for name, network in found.items() if network is not None}
    while not all("speed" in network for network in found.values()):
        speeds = timed(run, [network["blocks"] for network in found.values()], sessions)
        child = dict(zip(found, speeds, strict=True))["searched"]["total"]
        for (name, network), speed in zip(list(found.items()), speeds, strict=True):
            own = speed["total"]
            ratio = own["value"] / child["value"]
            error = math.hypot(*(math.log(r["value"] / r["lower_bound"]) for r in (own, child)))
            off = abs(ratio - 1) > max(EQUAL, error)
            again = picked(run, name, network["budget_ms"] * ratio) if corrections and off else None
            if again is not None and again["blocks"] != network["blocks"]:
                found[name] = again
            else:
                network["speed"] = speed | {"faster_than_child": ratio - 1, "faster_than_child_error": error}
        corrections -= 1
        if not all("speed" in network for network in found.values()):  # all of them again, by the same processes
            found = {name: {k: v for k, v in n.items() if k != "speed"} for name, n in found.items()}
        artifacts.write_json(path, found)
    return found


def timed(run: PuzzleRun, layouts: list[list[str]], sessions: int) -> list[dict]:
    """Speeds of networks and parents, all in turn, by fresh processes."""
    blocks = [[Block.parse(text) for text in layout] for layout in layouts]
    return [jsonable(speed) for speed in run.bench.confirm(blocks, run.chosen["batch_size"], sessions, 2)]


@functools.cache
def texts(run: PuzzleRun) -> tuple[Targets, Targets]:
    """The parent's answers on test text, and on the validation text that chooses learning rates."""
    config = run.recipe.evaluate
    rows = Rows.draw(run.tokens["validation"], run.sequence_length, config.num_tokens, run.recipe.seed + 13)
    return test_targets(run), Targets(run.parent, rows, config.batch_size, "validation parent")


def quality(run: PuzzleRun, name: str, network: dict, setting: dict) -> dict:
    """One row: a network after refit (unless told not to) and GKD."""
    blocks = [Block.parse(text) for text in network["blocks"]]
    if not setting["refit"]:
        child = Network(run.parent.config, blocks, run.library, run.fmt).assembled(run.parent)
    elif not setting["gkd_tokens"]:
        child = baseline_child(run, name, blocks, 0)
    else:
        rate = setting["learning_rate"]
        child = baseline_child(run, f"{name}_{rate}", blocks, setting["gkd_tokens"], learning_rate=rate)
    test, validation = texts(run)
    verdict = test.compare(child)
    return {
        "blocks": network["blocks"],
        "validation_kl": validation.compare(child).mean("kl")[0],
        "quality": verdict.to_dict(),
        "kl": verdict.columns["kl"].tolist(),
        "documents": verdict.documents.tolist(),
    }


def settings(rows: Path, row: dict, tokens: list[int], rates: list[float], first_seed: int) -> Iterator[dict]:
    """What is done to a network of a target and seed: nothing, the refit, and GKD by budget, at `rates` the first time."""
    for refit in (False, True):
        yield {"refit": refit, "gkd_tokens": 0, "learning_rate": None}
    smallest, *larger = sorted({count for count in tokens if count}) or [None]
    if smallest is None:
        return
    tried = [{"refit": True, "gkd_tokens": smallest, "learning_rate": rate} for rate in rates]
    if row["seed"] == first_seed:
        yield from tried
    known = [artifacts.read_json(row_file(rows, row | {"seed": first_seed} | each)) for each in tried]
    best = min(known, key=lambda each: each["validation_kl"])["learning_rate"]
    for count in [smallest, *larger] if row["seed"] != first_seed else larger:
        yield {"refit": True, "gkd_tokens": count, "learning_rate": best}


def row_file(rows: Path, row: dict) -> Path:
    names = ("target", "name", "seed", "refit", "gkd_tokens", "learning_rate")
    return rows / ("_".join(str(row[name]) for name in names) + ".json")


# -- what the rows say


def tokens_to_reach(kl: float, curve: list[tuple[int, float]]) -> tuple[float, str]:
    """GKD tokens at which a curve of `(tokens, KL)` reaches `kl`, linear in log tokens, and `=`; or an end of the curve
    and `>` or `<` where it is not reached, or is from the start."""
    lowest = list(zip((t for t, _ in curve), itertools.accumulate((k for _, k in curve), min), strict=True))
    if kl >= lowest[0][1]:
        return lowest[0][0], "=" if kl == lowest[0][1] else "<"
    for (t0, k0), (t1, k1) in itertools.pairwise(lowest):
        if k1 <= kl:
            return t0 * (t1 / t0) ** ((k0 - kl) / (k0 - k1)), "="
    return lowest[-1][0], ">"


def chosen_rates(rows: list[dict]) -> dict[tuple, dict]:
    """The row with the best learning rate on validation text, by `(target, name, seed, refit, gkd_tokens)`."""
    best: dict[tuple, dict] = {}
    for row in rows:
        key = tuple(row[name] for name in ("target", "name", "seed", "refit", "gkd_tokens"))
        if key not in best or row["validation_kl"] < best[key]["validation_kl"]:
            best[key] = row
    return best


def behind(best: dict[tuple, dict]) -> list[dict]:
    """KL of every network less the child's on the same text; over seeds the mean, clustered by document."""
    groups: dict[tuple, list] = {}
    for (target, name, seed, *setting), row in best.items():
        child = best.get((target, "searched", seed, *setting))
        if name != "searched" and child is not None:
            difference = torch.tensor(row["kl"], dtype=torch.float64) - torch.tensor(child["kl"], dtype=torch.float64)
            groups.setdefault((target, name, *setting), []).append((difference, torch.tensor(row["documents"])))
    found = []
    for (target, name, refit, tokens), seeds in groups.items():
        differences, documents = (torch.cat(parts) for parts in zip(*seeds, strict=True))
        value, error = mean_and_error(differences, documents)
        row = {"target": target, "name": name, "refit": refit, "gkd_tokens": tokens, "kl": value, "kl_stderr": error}
        found.append(row | {"seeds": [each.mean().item() for each, _ in seeds]})
    return found


def multipliers(best: dict[tuple, dict]) -> list[dict]:
    """By target, network and the child's GKD tokens; of the mean curves over the seeds that have every budget."""
    budgets = {tokens for *_, tokens in best if tokens}
    seeds: dict[int, set] = {}
    for _, _, seed, _, tokens in best:
        seeds.setdefault(seed, set()).update({tokens} - {0})
    whole = {seed for seed, known in seeds.items() if known == budgets}
    curves: dict[tuple, dict[int, list[float]]] = {}
    for (target, name, seed, _, tokens), row in best.items():
        if tokens and seed in whole:
            curves.setdefault((target, name), {}).setdefault(tokens, []).append(row["quality"]["kl"])
    means = {key: sorted((t, statistics.fmean(kl)) for t, kl in curve.items()) for key, curve in curves.items()}
    found = []
    for (target, name), curve in means.items():
        for tokens, kl in means.get((target, "searched"), []) if name != "searched" else []:
            reached, relation = tokens_to_reach(kl, curve)
            row = {"target": target, "name": name, "gkd_tokens": tokens, "multiplier": reached / tokens}
            found.append(row | {"relation": relation})
    return found


def write_summary(runs: Path, out: Path) -> None:
    """`--out` from all rows that are there."""
    rows = [artifacts.read_json(path) for path in sorted((runs / "rows").glob("*.json"))]
    best = chosen_rates(rows)
    order = {name: place for place, name in enumerate(NAMES)}
    shown = sorted(
        best.values(), key=lambda r: (-r["target"], r["refit"], r["gkd_tokens"], order[r["name"]], r["seed"])
    )
    networks = {
        path.stem.removeprefix("networks_"): artifacts.read_json(path) for path in runs.glob("networks_*.json")
    }
    summary = {
        "environment": artifacts.environment(),
        "networks": networks,
        "rows": [{k: v for k, v in row.items() if k not in ("kl", "documents", "blocks")} for row in shown],
        "behind": behind(best),
        "multipliers": multipliers(best),
    }
    artifacts.write_json(out, summary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.17, 2.0, 1.45])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--tokens", type=int, nargs="+", default=[125_000, 250_000, 500_000])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--sessions", type=int, default=12, help="fresh processes that time all networks")
    parser.add_argument("--corrections", type=int, default=2, help="layouts chosen again where measured speeds differ")
    parser.add_argument("--max-rows", type=float, default=math.inf, help="stop after so many new rows")
    parser.add_argument("--set", nargs="+", default=[], help="further settings of the recipe, as of hf-puzzle run")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/baselines.json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    names, first = list(dict.fromkeys(["searched", *args.names])), args.seeds[0]
    rows = args.runs / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    made = 0
    for seed, target in itertools.product(args.seeds, args.targets):
        run = child_of(target, seed, first, args.runs, args.set)
        path = args.runs / f"networks_{target}.json"
        if seed == first:
            networks_of(run, names, path, args.corrections, args.sessions)
        networks = {name: n for name, n in artifacts.read_json(path).items() if name in names and n is not None}
        for name, network in networks.items():
            row = {"target": target, "name": name, "seed": seed}
            for setting in settings(rows, row, args.tokens, args.rates, first):
                file = row_file(rows, row | setting)
                if file.exists():
                    continue
                if made >= args.max_rows:
                    return write_summary(args.runs, args.out)
                made += 1
                found = row | setting | quality(run, name, network, setting)
                artifacts.write_json(file, found)
                print(file.stem, f"KL {found['quality']['kl']:.4f}", flush=True)
        write_summary(args.runs, args.out)


if __name__ == "__main__":
    main()
