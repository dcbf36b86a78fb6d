"""Recorded time series from CSV files: the times and sizes of arrivals, or one number a step.

Shapes: L arrivals or rows.
"""

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from grpo_gym.envs.csv_table import Table, parse_moment, parse_number, read_table, shown
from grpo_gym.settings import ConfigError

TimeUnit = Literal["s", "ms", "us", "ns"]
"""A setting for the unit of times that are numbers."""

_MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_SHORTEST_MS = 1e-3
"""Shortest recording: times are precise to a microsecond."""
_UNIX = {"ms": 1e12, "us": 1e15, "ns": 1e18}
"""Unix times of 2001; in 2286 they are ten times as large."""
_LATEST_S = 1e10

_NAMES = {
    "s": "s|secs?|seconds?",
    "ms": "ms|msecs?|millis|milliseconds?",
    "us": "[uµμ]s|usecs?|microseconds?",
    "ns": "ns|nanos|nanoseconds?",
}
_NAME = "|".join(_NAMES.values())
_TIME = re.compile(rf"time(stamp)?(\W*[\W_]({_NAME})\W?)?", re.IGNORECASE)
_SIZE = re.compile("size", re.IGNORECASE)
_DEMAND = re.compile("demand|value", re.IGNORECASE)


@dataclass(frozen=True)
class Arrivals:
    """Recorded arrivals, in order.

    Args:
        times_ms: Times since the first arrival, ms, shape (L,), float64; ascending from 0, and
            some may be equal, but not all.
        sizes: In the unit of the file, shape (L,), float64; from 0, and some are greater. None if
            only times were recorded.
    """

    times_ms: np.ndarray
    sizes: np.ndarray | None


def read_arrivals(
    path: str | os.PathLike[str],
    time_column: int | str | None = None,
    size_column: int | str | None = None,
    time_unit: TimeUnit | None = None,
) -> Arrivals:
    """Read the file of the setting `arrivals_csv`: docs/reference/csv_formats.md has its format.

    Args:
        path: The file.
        time_column: Name or number (from 1) of the column of times; None: the one that is named
            time or timestamp, or else the first.
        size_column: Name or number of the column of sizes; None: the one that is named size, or
            the second of two without a header, or else no sizes.
        time_unit: Unit of times that are numbers; None: the unit at the end of the column's name,
            as in `time_ms`, or that of Unix times of this age, or else seconds.

    Raises:
        ConfigError: If the file cannot be read, there is no such column, or a row breaks a rule.
    """
    table = read_table("arrivals_csv", path)
    times = _time_column(table, time_column)
    sizes = _size_column(table, size_column)
    if sizes == times:
        raise ConfigError(
            f"arrivals_size_column must differ from arrivals_time_column, got column {times + 1} "
            f"of {table.path!r} for both"
        )
    return Arrivals(
        times_ms=_read_times(table, times, time_unit),
        sizes=None if sizes is None else _read_sizes(table, sizes),
    )


def read_series(path: str | os.PathLike[str], column: int | str | None = None) -> np.ndarray:
    """Read the file of the setting `demand_csv`: docs/reference/csv_formats.md has its format.

    Args:
        path: The file.
        column: Name or number (from 1) of the column; None: the only one, or the one that is named
            demand or value.

    Returns:
        One number from 0 to 1e30 a row, shape (L,), float64.

    Raises:
        ConfigError: If the file cannot be read, there is no such column, or a cell is no number.
    """
    table = read_table("demand_csv", path)
    if column is not None:
        return table.numbers(table.find("demand_column", column))
    index = 0 if table.width == 1 else table.find_named(_DEMAND)
    if index is None:
        raise ConfigError(
            f"demand_csv must have one column, or one named demand or value, got {table.width} in "
            f"{table.path!r}: choose one with demand_column"
        )
    return table.numbers(index)


def _time_column(table: Table, column: int | str | None) -> int:
    if column is not None:
        return table.find("arrivals_time_column", column)
    return table.find_named(_TIME) or 0


def _size_column(table: Table, column: int | str | None) -> int | None:
    if column is not None:
        return table.find("arrivals_size_column", column)
    if table.header is None and table.width == 2:
        return 1
    return table.find_named(_SIZE)


def _read_times(table: Table, column: int, unit: TimeUnit | None) -> np.ndarray:
    """Times since the first, ms, shape (L,), float64."""
    if len(table.rows) < 2:
        raise ConfigError(f"arrivals_csv must have at least two arrivals, got 1 in {table.path!r}")
    first = table.rows[0][column]
    moment = parse_moment(first)
    if parse_number(first) is not None:
        times_ms = _from_numbers(table, column, unit)
    elif moment is None:
        rule = "numbers, or timestamps such as 2023-11-16T18:17:03.979,"
        raise table.error(column, rule, 0)
    elif unit is not None:
        remedy = ": arrivals_time_unit is only for numbers"
        raise table.error(column, f"numbers of {unit}", 0, remedy)
    else:
        times_ms = _from_timestamps(table, column, moment)
    falls = np.diff(times_ms) < 0.0
    if falls.any():
        row = int(falls.argmax()) + 1
        before = shown(table.rows[row - 1][column])
        raise table.error(
            column, f"times in order, after {before},", row, ": sort the rows by time"
        )
    if times_ms[-1] < _SHORTEST_MS:
        raise ConfigError(
            f"arrivals_csv must span at least a microsecond, got {times_ms[-1]:g} ms from the "
            f"first arrival to the last in {table.path!r}"
        )
    return times_ms


def _from_timestamps(table: Table, column: int, first: datetime) -> np.ndarray:
    times_ms = np.empty(len(table.rows))
    for row, cell in enumerate(table.cells(column)):
        moment = parse_moment(cell)
        # Zones may differ, but a time in a zone cannot be compared with one in no zone.
        if moment is None or (moment.tzinfo is None) != (first.tzinfo is None):
            zone = "without" if first.tzinfo is None else "with"
            raise table.error(column, f"timestamps {zone} a time zone, as in the first row,", row)
        times_ms[row] = (moment - first) / timedelta(milliseconds=1)
    return times_ms


def _from_numbers(table: Table, column: int, unit: TimeUnit | None) -> np.ndarray:
    times = table.numbers(column)
    known = unit or _named_unit(table, column) or _unit_of(float(times[0]))
    if known is None:
        rule = f"seconds below {_LATEST_S:g}, or Unix times,"
        raise table.error(column, rule, 0, ": name the unit with arrivals_time_unit")
    return (times - times[0]) * _MILLISECONDS[known]


def _named_unit(table: Table, column: int) -> str | None:
    """The unit at the end of the column's name."""
    if table.header is None:
        return None
    for unit, names in _NAMES.items():
        if re.fullmatch(rf"(.*[\W_])?({names})\W?", table.header[column], re.IGNORECASE):
            return unit
    return None


def _unit_of(time: float) -> str | None:
    """Seconds for a time that could be one, or the unit in which it is a Unix time."""
    if time < _LATEST_S:
        return "s"
    return next((unit for unit, low in _UNIX.items() if low <= time < 10.0 * low), None)


def _read_sizes(table: Table, column: int) -> np.ndarray:
    sizes = table.numbers(column)
    if not sizes.any():
        raise ConfigError(
            f"arrivals_csv must have a size above 0, got {len(sizes)} of 0 in {table.path!r}"
        )
    return sizes
