"""Numbers in tables: as many digits as they deserve, one below the other."""

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table

_MOST_DECIMALS = 6


def plain_table(first: str, *titles: str) -> Table:
    """A table that fits 80 columns: names to the left, numbers to the right, few lines."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def decimals(values: Iterable[float | None], digits: int) -> int:
    """Decimals at which even the smallest value shows so many digits; zeros do not count."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(min(sizes))), 0), _MOST_DECIMALS)


def fixed(value: float | None, places: int) -> str:
    """A number with so many decimals, or a dash for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{places}f}"
