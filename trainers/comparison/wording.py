"""Estimates as text, rounded to the digits they deserve, and the conclusions they allow.

Times, in steps or seconds, are infinite for runs that never arrive. Shapes: S runs.
"""

import math
from collections.abc import Iterable

import numpy as np

from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.statistics import Estimate

NOTHING = "–"
"""An empty cell of a table."""
_MOST_PLACES = 4
_SIGNIFICANT = 3

Pair = tuple[np.ndarray, np.ndarray]


def places_for(estimates: Iterable[Estimate]) -> int:
    """Decimals (-3: thousands) at which the narrowest interval shows two digits of its half-width.

    Without any interval, three digits of the largest estimate are shown.
    """
    estimates = list(estimates)
    widths = [(each.high - each.low) / 2.0 for each in estimates if each.high > each.low]
    size = min(widths) if widths else 0.01 * max(abs(each.value) for each in estimates)
    if size == 0.0:
        return 0
    return min(1 - math.floor(math.log10(size)), _MOST_PLACES)


def number_text(value: float, places: int | None = None) -> str:
    """A number with some decimals (-3: rounded to thousands), or three significant digits."""
    if places is None:
        if math.isinf(value):
            return "∞"
        if value == 0.0:
            return "0"
        places = _SIGNIFICANT - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(places, 0)}f}"


def estimate_text(estimate: Estimate, places: int | None = None) -> str:
    """The estimate with its interval, if it has one, rounded as by `number_text`."""
    text = number_text(estimate.value, places)
    if not estimate.has_interval:
        return text
    return f"{text} [{number_text(estimate.low, places)}, {number_text(estimate.high, places)}]"


def time_text(times: np.ndarray) -> str:
    """Median of times, shape (S,), and how many runs arrive if not all do."""
    reached = int(np.isfinite(times).sum())
    median = statistics.median_time(times)
    text = "never" if math.isinf(median.value) else estimate_text(median)
    return text if reached == len(times) else f"{text} ({reached} of {len(times)} runs)"


def compare_returns(other: str, ours: np.ndarray, theirs: np.ndarray, places: int) -> str:
    """Whether GRPO ends above another algorithm, by their final returns, shape (S,) each."""
    difference = statistics.difference_of_iqms(ours, theirs)
    first, second = (statistics.interquartile_mean(runs) for runs in (ours, theirs))
    side = "higher" if difference.value > 0.0 else "lower"
    if not difference.has_interval:
        verdict = "A single run says nothing about other training seeds"
    elif difference.low <= 0.0 <= difference.high:
        verdict = "The IQMs do not differ significantly"
    elif first.apart_from(second):
        verdict = f"GRPO's IQM is {side}, and the intervals do not overlap"
    else:
        verdict = f"GRPO's IQM is {side}: the intervals overlap, but the difference's excludes 0"
    text = f"{verdict}; difference {estimate_text(difference, places)}."
    won, lost = ours.min() > theirs.max(), theirs.min() > ours.max()
    if (won or lost) and difference.has_interval:
        winner, loser = ("GRPO", other) if won else (other, "GRPO")
        orders = 1.0 / statistics.chance_of_winning_all(len(ours), len(theirs))
        text += f" Every {winner} run ends above every {loser} run (by chance: 1 in {orders:,.0f})."
    return text


def compare_times(other: str, steps: Pair, seconds: Pair) -> str:
    """How much faster GRPO reaches the threshold; both pairs are GRPO's times and the other's."""
    by_steps, by_seconds = statistics.time_ratio(*steps), statistics.time_ratio(*seconds)
    ours_arrives, other_arrives = (math.isfinite(np.median(times)) for times in steps)
    if ours_arrives and not other_arrives:
        return f"GRPO reaches the threshold; at least half of {other}'s runs never do."
    if other_arrives and not ours_arrives:
        return f"{other} reaches the threshold; at least half of GRPO's runs never do."
    ratio = f"{other}/GRPO time-to-threshold ratio"
    if not math.isfinite(by_steps.value):  # both at once, or neither
        return f"{ratio}: undefined."
    return (
        f"{ratio}: {estimate_text(by_seconds)} in CPU seconds, {estimate_text(by_steps)} in steps."
    )


def compare_ends(other: str, level: str, ours: Pair, theirs: Pair) -> str:
    """When GRPO reaches the return with which another algorithm ends; pairs are steps and seconds.

    Args:
        other: The other's name.
        level: That return.
        ours: When GRPO's runs reach it, shape (S,) each.
        theirs: How long the other's runs take as a whole, likewise.
    """
    steps, seconds = (number_text(float(np.median(times))) for times in theirs)
    text = f"{other} ends at {level} on the curve after {steps} steps and {seconds} s; "
    if not math.isfinite(np.median(ours[0])):
        return text + "at least half of GRPO's runs never reach that."
    return text + f"GRPO reaches that after {time_text(ours[0])} steps and {time_text(ours[1])} s."
