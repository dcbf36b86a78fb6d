"""What the numbers of a comparison say: a threshold for times, and GRPO against others.

Shapes: S runs of one algorithm. Times, in steps or CPU seconds, are infinite for runs that never
arrive.
"""

import math
from typing import NamedTuple

import numpy as np

from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.settings import OURS
from grpo_gym.trainers.comparison.task_results import RANDOM, TaskResults, title
from grpo_gym.trainers.comparison.wording import estimate_text, number_text, places_for, time_text

_SHARE = 0.95
"""How far from the untrained return to the lowest final one the threshold lies."""
_EASY = 0.5
"""A threshold is called low if its algorithm learns less than this share of the best one's gain."""


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
    for name in finals:
        if name not in learned:
            reason += f" {title(name)} is ignored: it ends no better than that start."
    if learned[lowest] - start < _EASY * (max(learned.values()) - start):
        reason += (
            " The best algorithm learns more than twice as much: request a higher threshold to "
            "compare the others."
        )
    return Threshold(level, reason)


def conclusion(results: TaskResults, other: str, threshold: float | None) -> str:
    """Sentences about GRPO and another algorithm; times are compared up to the threshold."""
    places = places_for(results.final_iqms.values())
    sentences = [_compare_returns(results, other, places)]
    if threshold is not None:
        sentences.append(_compare_times(results, other, threshold))
        sentences.append(_compare_ends(results, other, places))
    untuned = [title(name) for name in (OURS, other) if not results.trainings[name][0].tuned]
    if untuned:
        sentences.append(f"Not tuned for this task: {', '.join(untuned)}.")
    return " ".join(sentences)


def _compare_returns(results: TaskResults, other: str, places: int) -> str:
    """Whether GRPO ends above the other algorithm."""
    ours, theirs = results.final_returns(OURS), results.final_returns(other)
    difference = statistics.difference_of_iqms(ours, theirs)
    side = "higher" if difference.value > 0.0 else "lower"
    if not difference.has_interval:
        verdict = "A single run says nothing about other training seeds"
    elif difference.low <= 0.0 <= difference.high:
        verdict = "The IQMs do not differ significantly"
    elif results.final_iqms[OURS].apart_from(results.final_iqms[other]):
        verdict = f"GRPO's IQM is {side}, and the intervals do not overlap"
    else:
        verdict = f"GRPO's IQM is {side}: the intervals overlap, but the difference's excludes 0"
    text = f"{verdict}; difference {estimate_text(difference, places)}."
    won, lost = ours.min() > theirs.max(), theirs.min() > ours.max()
    if (won or lost) and difference.has_interval:
        winner, loser = ("GRPO", title(other)) if won else (title(other), "GRPO")
        # All rankings are equally likely by chance: the exact Mann-Whitney test, one-sided.
        rankings = math.comb(len(ours) + len(theirs), len(ours))
        text += f" Every {winner} run ends above every {loser} run (by chance: 1 in {rankings:,})."
    return text


def _compare_times(results: TaskResults, other: str, threshold: float) -> str:
    """How much faster GRPO reaches the threshold."""
    ours, theirs = (
        [results.times_to(threshold, name, axis) for axis in ("steps", "cpu_seconds")]
        for name in (OURS, other)
    )
    ours_arrives, other_arrives = (math.isfinite(np.median(steps)) for steps, _ in (ours, theirs))
    if ours_arrives != other_arrives:
        first, second = ("GRPO", title(other)) if ours_arrives else (title(other), "GRPO")
        return f"{first} reaches the threshold; at least half of {second}'s runs never do."
    ratio = f"{title(other)}/GRPO time-to-threshold ratio"
    by_steps, by_seconds = map(statistics.time_ratio, ours, theirs)
    if not math.isfinite(by_steps.value):  # both at once, or neither
        return f"{ratio}: undefined."
    return (
        f"{ratio}: {estimate_text(by_seconds)} in CPU seconds, {estimate_text(by_steps)} in steps."
    )


def _compare_ends(results: TaskResults, other: str, places: int) -> str:
    """When GRPO reaches the return with which the other algorithm ends."""
    runs = results.trainings[other]
    # The end of their curve, because ours is played on the curve's episodes.
    ends = np.array([run.curve[-1].mean_return for run in runs])
    level = statistics.interquartile_mean(ends).value
    steps, seconds = (
        number_text(float(np.median(whole)))
        for whole in ([run.steps for run in runs], [run.cpu_seconds for run in runs])
    )
    text = (
        f"{title(other)} ends at {number_text(level, places)} on the curve after {steps} steps and "
        f"{seconds} s; "
    )
    our_steps, our_seconds = (
        results.times_to(level, OURS, axis) for axis in ("steps", "cpu_seconds")
    )
    if not math.isfinite(np.median(our_steps)):
        return text + "at least half of GRPO's runs never reach that."
    return (
        text
        + f"GRPO reaches that after {time_text(our_steps)} steps and {time_text(our_seconds)} s."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000.0 else f"{value:.4g}"
