"""Tables of numbers, aligned and rounded to the digits that carry information."""

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table

_MOST_DECIMALS = 6


def plain_table(first: str, *titles: str) -> Table:
    """A table for 80 columns: names on the left, numbers right-aligned, few lines."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def decimals(values: Iterable[float | None], digits: int) -> int:
    """Decimals at which the smallest value shows `digits` digits; zeros do not count."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(min(sizes))), 0), _MOST_DECIMALS)


def fixed(value: float | None, places: int) -> str:
    """A number with `places` decimals, or a dash if it is missing."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{places}f}"
