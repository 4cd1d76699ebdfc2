"""`distill.learning_rate: auto`: short trainings find the rate that is best for their few steps; the whole has a higher one."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .. import artifacts


logger = logging.getLogger(__name__)

SPACING, PROBES = 3.0, 4  # between learning rates that are tried, and how many there are at most
SHARE, PROBE_STEPS = 0.03, 5  # of all steps a try has; fewer than these say nothing
GROWS_UNTIL = 1_000  # steps


def reach(steps: int) -> float:
    """How a good peak rate grows with the steps of a training that ends at zero, 1 for long ones.

    Like their square root: a 4 M and a 135 M child took 2.3 to 2.5 times the rate for 4 to 5 times the steps, and 3.2 times
    for 8 times (benchmarks/learning_rate.json).
    """
    return math.sqrt(min(steps, GROWS_UNTIL) / GROWS_UNTIL)


def guess(kl: float, hidden_size: int, lora: bool, steps: int) -> float:
    """A learning rate to begin with: a child at KL .01 wants a tenth of what one at .3 wants, wide matrices less."""
    rate = 0.3 / hidden_size * min(3.0, max(kl, 1e-4) / 0.2) ** (2 / 3)
    return float(f"{(10 if lora else 1) * reach(steps) * rate:.1g}")


def climb(kl_of: Callable[[float], float], guess: float) -> dict[float, float]:
    """KL at no more than `PROBES` rates, `SPACING` apart: from `guess` upwards while that helps, else downwards."""
    values = {rate: kl_of(rate) for rate in (guess, SPACING * guess)}
    best = min(values, key=values.get)
    factor = SPACING if best != guess else 1 / SPACING
    while len(values) < PROBES:
        values[best * factor] = kl_of(best * factor)
        if values[best * factor] >= values[best] < math.inf:
            break
        best *= factor
    return values


def lowest(values: dict[float, float]) -> float:
    """The rate at which a parabola through the best one and its neighbours is lowest; without two of them, the best one."""
    rates = sorted(values)
    at = min(range(len(rates)), key=lambda i: values[rates[i]])
    if not 0 < at < len(rates) - 1 or not math.isfinite(values[rates[at - 1]] + values[rates[at + 1]]):
        return rates[at]
    left, right = (values[rates[i]] - values[rates[at]] for i in (at - 1, at + 1))
    return rates[at] * SPACING ** ((left - right) / (2 * (left + right))) if left + right else rates[at]


class RateSearch:
    """Tries of learning rates, kept in `output_dir` for a run that continues; all processes get the first one's answers.

    Attributes:
        rates: KL on held-out text after a try of each rate; None where it diverged.
    """

    def __init__(self, kl: float, hidden_size: int, lora: bool, steps: int, output_dir: Path):
        self.kl, self.steps, self.short = kl, steps, round(SHARE * steps)
        self.path = output_dir / "learning_rate.json"
        known = artifacts.read_json(self.path) if self.path.exists() else {}
        if known.get("steps") != steps:
            about = lora, max(self.short, 1) if self.short >= PROBE_STEPS else steps
            known = {"steps": steps, "guess": guess(kl, hidden_size, *about), "rates": {}, "rate": None}
        (self.known,) = broadcast_object_list([known])

    @property
    def rates(self) -> dict[str, float | None]:
        return self.known["rates"]

    def rate(self, tried: Callable[[float, int], float]) -> float:
        """A peak learning rate for all steps; `tried(rate, steps)` is KL after a short training."""
        if self.short < PROBE_STEPS:
            logger.info("GKD: %d steps are too few to try learning rates: %.1e", self.steps, self.known["guess"])
            return self.known["guess"]
        if self.known["rate"] is None:
            best = lowest(climb(lambda rate: self._kl(tried, rate), self.known["guess"]))
            self._keep(rate=float(f"{best * reach(self.steps) / reach(self.short):.3g}"))
        rate = self.known["rate"]
        logger.info(
            "GKD: learning rate %.1e, by %s (KL after %d of %d steps)", rate, self.rates, self.short, self.steps
        )
        return rate

    def falls_back(self, kl: float, error: float = 0.0) -> bool:
        """Whether to train again at a lower rate, after the chosen one has ended at `kl`: a try did better by more than `error`.

        It is the one that was best in tries, if that was better than none; what was trained is deleted.
        """
        values = {float(rate): value for rate, value in self.rates.items() if value is not None}
        best = min(values, key=values.get, default=math.inf)
        if not best < (self.known["rate"] or 0.0) or not values[best] < min(self.kl, kl - error):
            return False
        logger.warning("GKD: %.4f at learning rate %.1e: once more at %.1e", kl, self.known["rate"], best)
        processes = PartialState()
        processes.wait_for_everyone()
        for folder in self.path.parent.glob("checkpoint-*") if processes.is_main_process else ():
            artifacts.remove(folder)
        self._keep(rate=best)
        processes.wait_for_everyone()
        return True

    def _kl(self, tried: Callable[[float, int], float], rate: float) -> float:
        name = f"{rate:.3g}"
        if name not in self.rates:
            kl = tried(rate, self.short)
            self._keep(rates=self.rates | {name: kl if math.isfinite(kl) else None})
        return math.inf if self.rates[name] is None else self.rates[name]

    def _keep(self, **changes) -> None:
        self.known |= changes
        if not PartialState().is_main_process:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(self.path, self.known)
