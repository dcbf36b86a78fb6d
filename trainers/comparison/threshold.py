"""The return to which the speed of algorithms is compared."""

from dataclasses import dataclass

from grpo_gym.trainers.comparison.statistics import interquartile_mean
from grpo_gym.trainers.comparison.task_results import RANDOM, TaskResults, title

_SHARE = 0.95
_EASY = 0.5


@dataclass(frozen=True)
class Threshold:
    """A return to reach.

    Attributes:
        level: The return; None if there is no sensible one.
        reason: Sentences that say why this one.
    """

    level: float | None
    reason: str


def choose_threshold(results: TaskResults, asked: float | None = None) -> Threshold:
    """A return that every algorithm that has learned reaches, so that times can be compared.

    It lies 95 % of the way from where learning starts to the lowest interquartile mean at the end;
    algorithms that end no better than the start do not count.

    Args:
        results: What was measured.
        asked: The level to take instead.
    """
    if asked is not None:
        return Threshold(asked, f"Threshold: {_number(asked)}, as was asked for.")
    start = results.start()
    finals = {name: interquartile_mean(results.final_returns(name)).value for name in results.runs}
    learned = {name: final for name, final in finals.items() if final > start}
    where = "random actions" if RANDOM in results.baselines else "the worst first evaluation"
    if not learned:
        return Threshold(None, f"No threshold: no algorithm ends above {where} ({_number(start)}).")
    lowest = min(learned, key=lambda name: learned[name])
    level = start + _SHARE * (learned[lowest] - start)
    reason = (
        f"Threshold: {_number(level)}, {_SHARE:.0%} of the way from {where} ({_number(start)}) to "
        f"the lowest final IQM ({title(lowest)}'s, {_number(learned[lowest])}), which every "
        "algorithm can be expected to reach."
    ).replace("95%", "95 %")
    for name in finals.keys() - learned.keys():
        reason += f" {title(name)} ends no better than that start and is left out of this."
    if learned[lowest] - start < _EASY * (max(learned.values()) - start):
        reason += (
            " That is less than half of what the best one learns: give a threshold to see how "
            "fast the others get further."
        )
    return Threshold(level, reason)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.4g}"
