"""The stages that measure costs: one for each prompt length of the recipe, and what is made of them."""

import functools

from .. import artifacts
from ..recipe import to_dict
from ..stages import Estimate, Stage
from .block_costs import CostTable, estimate_cost, measure_costs
from .estimates import PROCESS_BYTES, Pieces


def table_name(accelerator: str | None = None, length: int | None = None) -> str:
    """File of the costs of a kind of machine, of one of several lengths or of the recipe's workload."""
    return ".".join(
        ["costs", *([accelerator] if accelerator else []), *([f"{length}_tokens"] if length else []), "json"]
    )


def stages(run, settings: list, needs: tuple[str, ...]) -> list[Stage]:
    """`cost`, which measures; of several lengths `cost_<tokens>` for each, which is reused when others come or go, and
    `cost`, which puts their tables together.

    Args:
        settings: what the measurements depend on besides `recipe.cost`.
    """
    config = run.recipe.cost
    several = config.lengths if len(config.lengths) > 1 else []
    kinds = [None, *config.accelerators]
    tasks = [{"accelerator": kind} for kind in config.accelerators] or [{}]
    measuring = []
    for length in several or [None]:
        cost = to_dict(config) | ({"prefill_tokens": length} if length else {})
        measuring.append(
            Stage(f"cost_{length}" if length else "cost", functools.partial(measure, run, length=length), [cost, *settings], needs,
                  tuple(table_name(kind, length) for kind in kinds), tasks=lambda workers: tasks,
                  estimate=functools.partial(estimate_cost, length=length))
        )  # fmt: skip
    if not several:
        return measuring
    together = Stage("cost", functools.partial(put_together, run), None, tuple(stage.name for stage in measuring),
                     tuple(table_name(kind) for kind in kinds), estimate=estimate)  # fmt: skip
    return [*measuring, together]


def measure(run, accelerator: str | None = None, length: int | None = None) -> None:
    """Costs on the machine this runs on; those of the first kind of accelerator are the search's."""
    table = measure_costs(run.bench, run.space, run.recipe.seed, length).to_dict()
    kinds = run.recipe.cost.accelerators
    if accelerator is not None:
        artifacts.write_json(artifacts.inside(run.run_dir, table_name(accelerator, length)), table)
    if accelerator in (None, *kinds[:1]):
        artifacts.write_json(run.run_dir / table_name(None, length), table)


def put_together(run) -> None:
    """One batch of every length, for each kind of machine."""
    for kind in (None, *run.recipe.cost.accelerators):
        paths = [artifacts.inside(run.run_dir, table_name(kind, n)) for n in run.recipe.cost.lengths]
        tables = [CostTable.from_dict(artifacts.read_json(path), str(path)) for path in paths]
        artifacts.write_json(artifacts.inside(run.run_dir, table_name(kind)), CostTable.mixed(tables).to_dict())


def estimate(p: Pieces) -> Estimate:
    """Tables of a few hundred numbers."""
    return Estimate(1.0, {"process": PROCESS_BYTES}, "free some memory")
