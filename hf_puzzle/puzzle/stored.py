"""Files of a run folder as typed values: also of a folder that a stranger made, whose every value may be another one."""

from pathlib import Path

from .. import artifacts
from ..artifacts import ArtifactError
from ..blocks import Block
from ..recipe import RecipeError, parse_as
from .block_costs import CostTable
from .scoring import Score


def read_scores(run_dir: str | Path) -> list[Score]:
    """`scores.jsonl`; ArtifactError that names the line and the value for a row that is no score."""
    path, scores = Path(run_dir) / "scores.jsonl", []
    for number, row in enumerate(artifacts.read_jsonl(path), start=1):
        try:
            scores.append(parse_as(Score, row, f"{path}, line {number}"))
            Block.parse(scores[-1].block)
        except RecipeError as error:
            raise ArtifactError(f"{error}: run the stage `score` again") from None
        if scores[-1].layer_idx < 0:
            raise ArtifactError(f"{path}, line {number}: layer_idx is {scores[-1].layer_idx}: run `score` again")
    return scores


def read_costs(run_dir: str | Path) -> CostTable:
    """`costs.json`; ArtifactError that names the value where it is not as it was written."""
    path = Path(run_dir) / "costs.json"
    return CostTable.from_dict(artifacts.read_json(path), str(path))


def read_chosen(run_dir: str | Path) -> list[Block]:
    """The blocks of the child in `solutions.json`."""
    path = Path(run_dir) / "solutions.json"
    with artifacts.reading(path):
        blocks = artifacts.read_json(path)["chosen"]["blocks"]
        return [Block.parse(text) for text in parse_as(list[str], blocks, f"{path}: chosen.blocks")]


def read_margin(run_dir: str | Path) -> float:
    """What measuring taught about the predictions, from the last round in `solutions.json`; 1 where there is none."""
    path = Path(run_dir) / "solutions.json"
    if not path.exists():
        return 1.0
    with artifacts.reading(path):
        rounds = artifacts.read_json(path)["rounds"]
        margin = parse_as(float, rounds[-1]["margin"], f"{path}: margin") if rounds else 1.0
    if not 0.01 < margin < 100:
        raise ArtifactError(f"{path}: a margin of {margin}: run the stage `solve` again")
    return margin


def check_run(run_dir: str | Path) -> None:
    """Raises ValueError for a run folder whose stored values are not those that solving again reads."""
    if not isinstance(overrides := artifacts.read_json(Path(run_dir) / "overrides.json"), list):
        raise ArtifactError(f"{run_dir}/overrides.json holds {type(overrides).__name__}, not a list")
    read_scores(run_dir)
    read_costs(run_dir)
    read_margin(run_dir)
