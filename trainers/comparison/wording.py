"""Numbers and tables as text, rounded to the digits they deserve."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.statistics import Estimate

NOTHING = "–"
"""An empty cell of a table."""
_MOST_PLACES = 4
_SIGNIFICANT = 3


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


def markdown_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], alignment: str = "---"
) -> str:
    """A table of Markdown, one line a row; all columns but the first are aligned as given."""
    lines = [titles, ["---", *[alignment] * (len(titles) - 1)], *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )
