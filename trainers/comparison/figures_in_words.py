"""Estimates as text: with the digits they deserve, and what may be concluded from them.

Shapes: S runs of one algorithm.
"""

import math
from collections.abc import Iterable

import numpy as np

from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.statistics import Estimate

NOTHING = "–"
"""In the cell of a table."""
_MOST_PLACES = 4
_SIGNIFICANT = 3

Pair = tuple[np.ndarray, np.ndarray]


def places_for(estimates: Iterable[Estimate]) -> int:
    """Decimals at which the narrowest interval shows two digits of its half-width.

    Args:
        estimates: Of one quantity; without any interval their size decides.

    Returns:
        At most 4; below 0 for large numbers: -3 rounds to thousands.
    """
    estimates = list(estimates)
    widths = [(each.high - each.low) / 2.0 for each in estimates if each.high > each.low]
    size = min(widths) if widths else 0.01 * max(abs(each.value) for each in estimates)
    if size == 0.0:
        return 0
    return min(1 - math.floor(math.log10(size)), _MOST_PLACES)


def number_text(value: float, places: int) -> str:
    """A number with so many decimals, or rounded to tens, hundreds, ... where they are below 0."""
    return f"{round(value, places):,.{max(places, 0)}f}"


def estimate_text(estimate: Estimate, places: int) -> str:
    """The figure and, where there is one, its interval."""
    text = number_text(estimate.value, places)
    if not estimate.has_interval:
        return text
    return f"{text} [{number_text(estimate.low, places)}, {number_text(estimate.high, places)}]"


def probability_text(probability: Estimate) -> str:
    """A probability with its interval."""
    return estimate_text(probability, 2)


def time_text(times: np.ndarray) -> str:
    """Median of the times to a threshold, and how many runs reached it if not all did.

    Args:
        times: Steps or seconds of each run, shape (S,), infinite if never.
    """
    reached = int(np.isfinite(times).sum())
    censored = "" if reached == len(times) else f" ({reached} of {len(times)} runs)"
    median = statistics.median_time(times)
    if math.isinf(median.value):
        return f"never{censored}"
    interval = f" [{_rounded(median.low)}, {_rounded(median.high)}]" if median.has_interval else ""
    return f"{_rounded(median.value)}{interval}{censored}"


def compare_returns(other: str, ours: np.ndarray, theirs: np.ndarray, places: int) -> str:
    """Whether our algorithm ends above another.

    Args:
        other: The other's name.
        ours: Final returns of our runs, shape (S,).
        theirs: Of the other's; not necessarily as many.
        places: Decimals.
    """
    difference = statistics.difference_of_iqms(ours, theirs)
    first, second = (statistics.interquartile_mean(runs) for runs in (ours, theirs))
    side = "above" if difference.value > 0.0 else "below"
    if not difference.has_interval:
        verdict = "Nothing follows yet about other training seeds: there is a single run"
    elif difference.low <= 0.0 <= difference.high:
        verdict = f"GRPO's IQM is not distinguishable from {other}'s"
    elif first.apart_from(second):
        verdict = f"GRPO's IQM is {side} {other}'s, intervals apart"
    else:
        verdict = (
            f"GRPO's IQM is {side} {other}'s: the intervals overlap, but that of the difference "
            "leaves out 0"
        )
    text = f"{verdict}; the difference is {estimate_text(difference, places)}."
    return text + _all_won(other, ours, theirs)


def compare_times(other: str, steps: Pair, seconds: Pair) -> str:
    """How much faster our algorithm reaches the threshold than another.

    Args:
        other: The other's name.
        steps: Steps of our runs and of the other's, shape (S,) each, infinite if never.
        seconds: Seconds, likewise.
    """
    by_steps, by_seconds = statistics.speed_ratio(*steps), statistics.speed_ratio(*seconds)
    ours_arrives, other_arrives = (math.isfinite(np.median(times)) for times in steps)
    if ours_arrives and not other_arrives:
        return f"GRPO reaches the threshold, and half of {other}'s runs or more never do."
    if other_arrives and not ours_arrives:
        return f"{other} reaches the threshold, and half of GRPO's runs or more never do."
    if not math.isfinite(by_steps.value):  # there at once, or never
        return "Times to the threshold cannot be compared."
    return (
        f"To the threshold, {other} takes {_ratio_text(by_steps)} times GRPO's steps and "
        f"{_ratio_text(by_seconds)} times its seconds."
    )


def compare_ends(other: str, level: str, ours: Pair, theirs: Pair) -> str:
    """When our algorithm is as good as another one at its end.

    Args:
        other: The other's name.
        level: The return that the other ends with.
        ours: Steps and seconds at which each of our runs reached it, shape (S,), infinite if never.
        theirs: Steps and seconds of the other's whole runs, likewise.
    """
    steps, seconds = (_rounded(float(np.median(times))) for times in theirs)
    place = f"where {other} ends after {steps} steps and {seconds} s ({level} on the curve)"
    if not math.isfinite(np.median(ours[0])):
        return f"Half of GRPO's runs or more never come to {place}."
    return f"GRPO is {place} after {time_text(ours[0])} steps and {time_text(ours[1])} s."


def _all_won(other: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    """What it means that one side won all its comparisons, where resampling shows no doubt."""
    won, lost = ours.min() > theirs.max(), theirs.min() > ours.max()
    if not (won or lost) or min(len(ours), len(theirs)) < 2:
        return ""
    chance = statistics.chance_of_winning_all(len(ours), len(theirs))
    side = "above" if won else "below"
    return (
        f" All runs of GRPO end {side} all of {other}; by chance alone that happens once in "
        f"{1.0 / chance:,.0f}."
    )


def _ratio_text(ratio: Estimate) -> str:
    interval = f" [{_rounded(ratio.low)}, {_rounded(ratio.high)}]" if ratio.has_interval else ""
    return f"{_rounded(ratio.value)}{interval}"


def _rounded(value: float) -> str:
    """Three significant digits."""
    if math.isinf(value):
        return "∞"
    if value == 0.0:
        return "0"
    return number_text(value, _SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))
