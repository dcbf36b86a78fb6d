"""The return up to which the speed of algorithms is compared."""

from typing import NamedTuple

from grpo_gym.trainers.comparison.task_results import RANDOM, TaskResults, title

_SHARE = 0.95
_EASY = 0.5


class Threshold(NamedTuple):
    """A return to reach, or None if no level makes sense, and sentences that explain it."""

    level: float | None
    reason: str


def choose_threshold(results: TaskResults, requested: float | None = None) -> Threshold:
    """A return that every algorithm that has learned reaches, so that times can be compared.

    It lies 95 % of the way from an untrained policy's return to the lowest final interquartile
    mean; algorithms that end no better than untrained are ignored. A requested level comes first.
    """
    if requested is not None:
        return Threshold(requested, f"Threshold: {_number(requested)}, as requested.")
    start = results.untrained_return
    finals = {name: iqm.value for name, iqm in results.final_iqms.items()}
    learned = {name: final for name, final in finals.items() if final > start}
    where = "random actions" if RANDOM in results.baselines else "the worst first evaluation"
    if not learned:
        return Threshold(None, f"No threshold: no algorithm ends above {where} ({_number(start)}).")
    lowest = min(learned, key=learned.__getitem__)
    level = start + _SHARE * (learned[lowest] - start)
    reason = (
        f"Threshold: {_number(level)}, {100 * _SHARE:.0f} % of the way from {where} "
        f"({_number(start)}) to the lowest final IQM ({title(lowest)}, {_number(learned[lowest])})."
    )
    for name in finals.keys() - learned.keys():
        reason += f" {title(name)} is ignored: it ends no better than that start."
    if learned[lowest] - start < _EASY * (max(learned.values()) - start):
        reason += (
            " The best algorithm learns more than twice as much: request a higher threshold to "
            "compare the others."
        )
    return Threshold(level, reason)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.4g}"
