"""The other two systems on a run's parent and on its child: windows read in parallel, and exact experts.

    python benchmarks/systems.py --run runs/smollm2_135m --recipe recipes/puzzle/smollm2_135m.yaml

What `evaluate.systems` puts into a run's report, for a run that is there; killed, it goes on with the next recipe or draw.
"""

import argparse
from pathlib import Path

from hf_puzzle import artifacts
from hf_puzzle.puzzle import systems
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import load_recipe


ROOT = Path(__file__).parent.parent
RECIPES = ["smollm2_questions.yaml", "smollm2_windows.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as it was run")
    parser.add_argument("--systems", nargs="+", default=RECIPES, help="recipes of pcw and mrkl, relative to --recipe")
    parser.add_argument("--note", help="what else ran meanwhile, and what the child is")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/systems.json")
    args = parser.parse_args()
    wanted = f"evaluate.systems=[{', '.join(args.systems)}]"
    run = PuzzleRun(load_recipe(args.recipe, [*args.overrides, wanted]), args.run, args.recipe.parent)
    (stage,) = systems.stages(run)
    for task in stage.tasks(1):
        print(task, flush=True)
        stage.run(**task)
    stage.merge()
    rows = artifacts.read_json(args.run / systems.TABLE)
    for row in rows:
        print(row)
    artifacts.write_json(args.out, {"environment": artifacts.environment(), "note": args.note, "rows": rows})


if __name__ == "__main__":
    main()
