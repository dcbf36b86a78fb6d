"""Tables from CSV files: text, delimiter, header, and columns by name or number.

docs/reference/csv_formats.md has the rules. Every message names the setting that holds the path.
"""

import codecs
import csv
import gzip
import io
import math
import os
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from grpo_gym.settings import ConfigError, suggest
from grpo_gym.settings.fields import NoFlag

Column = Annotated[Annotated[int, Field(ge=1)] | str, NoFlag]
"""A setting that chooses a column, by name, or by number from 1."""

LARGEST = 1e30
"""Largest number in a cell; float32 holds it, and its square fits into a float64."""

_LARGEST_FILE = 1_000_000_000
"""Bytes of a file that is compressed: a small one may hide any number."""
_GZIP = b"\x1f\x8b"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = "\t;,"
_COMMENT = "#"


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file, all of the same width; at least one."""

    setting: str
    """Name of the setting that holds the path."""
    path: str
    header: list[str] | None
    rows: list[list[str]]
    lines: list[int]
    """Number of each row's line in the file, from 1."""

    @property
    def width(self) -> int:
        """Cells in a row."""
        return len(self.rows[0])

    def find(self, setting: str, column: int | str) -> int:
        """Index of the column that a setting chooses by name, or by number from 1.

        Raises:
            ConfigError: If there is no such column, or two have that name.
        """
        if isinstance(column, int):
            if not 1 <= column <= self.width:
                raise ConfigError(
                    f"{setting} must be a column of {self.path!r}, from 1 to {self.width}, "
                    f"got {column}"
                )
            return column - 1
        if self.header is None:
            raise ConfigError(
                f"{setting} must be a column's number, from 1 to {self.width}, got {column!r}: "
                f"{self.path!r} has no header"
            )
        same = self.header.count(column)
        if same != 1:
            remedy = ": choose it by number" if same else "." + suggest(column, self.header)
            raise ConfigError(
                f"{setting} must be the name of one column of {self.path!r}, got {column!r}, the "
                f"name of {same or 'none'}{remedy}"
            )
        return self.header.index(column)

    def find_named(self, pattern: re.Pattern[str]) -> int | None:
        """Index of the first column whose whole name matches; None if there is none."""
        names = enumerate(self.header or [])
        return next((i for i, name in names if pattern.fullmatch(name)), None)

    def cells(self, column: int) -> list[str]:
        """All cells of a column."""
        return [row[column] for row in self.rows]

    def numbers(self, column: int) -> np.ndarray:
        """All numbers of a column, shape (rows,), float64.

        Raises:
            ConfigError: If a cell is not a number from 0 to `LARGEST`.
        """
        parsed = [parse_number(cell) for cell in self.cells(column)]
        values = np.array([math.nan if number is None else number for number in parsed])
        valid = (values >= 0.0) & (values <= LARGEST)
        if not valid.all():
            raise self.error(column, f"a number from 0 to {LARGEST:g}", int(valid.argmin()))
        return values

    def error(self, column: int, rule: str, row: int, remedy: str = "") -> ConfigError:
        """The error about a cell that breaks the rule of its column."""
        name = f"column {column + 1}" if self.header is None else repr(self.header[column])
        return ConfigError(
            f"{self.setting} must have {rule} in {name}, got {shown(self.rows[row][column])} in "
            f"line {self.lines[row]} of {self.path!r}{remedy}"
        )


def read_table(setting: str, path: str | os.PathLike[str]) -> Table:
    """Read a CSV file, compressed with gzip or not.

    Args:
        setting: Name of the setting that holds the path, for messages.
        path: The file.

    Raises:
        ConfigError: If it cannot be read, has no rows, or has rows of different widths.
    """
    path = os.fspath(path)
    try:
        rows, lines = _split(_read_text(path))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{setting} must be a readable CSV file, got {path!r}: {reason}"
        ) from None
    header = None
    if rows and not any(_is_value(cell) for cell in rows[0]):
        header = [" ".join(cell.split()) for cell in rows[0]]
    begin = 0 if header is None else 1
    table = Table(setting, path, header, rows[begin:], lines[begin:])
    if not table.rows:
        raise ConfigError(f"{setting} must have at least one row of numbers, got 0 in {path!r}")
    width = len(rows[0])
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise ConfigError(
                f"{setting} must have as many cells in every row as in the first, {width}, got "
                f"{len(row)} in line {line} of {path!r}: {shown(','.join(row))}"
            )
    return table


def shown(text: str) -> str:
    """A cell as messages show it: in one short line."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def parse_number(cell: str) -> float | None:
    """A number, also nan or infinity; None for any other text."""
    try:
        return float(cell)
    except ValueError:
        return None


def parse_moment(cell: str) -> datetime | None:
    """A timestamp of ISO 8601, to the microsecond; None for any other text."""
    try:
        return datetime.fromisoformat(cell.strip())
    except ValueError:
        return None


def _read_text(path: str) -> str:
    file = Path(path)
    if file.exists() and not file.is_file():  # a folder, or a pipe, which ends only once
        raise ValueError("it is not a file")
    data = file.read_bytes()
    if data.startswith(_GZIP):  # by its content: many programs drop or keep ".gz" wrongly
        with gzip.open(io.BytesIO(data)) as content:
            data = content.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE:,} bytes when uncompressed")
    encoding = "UTF-16" if data.startswith(_UTF_16) else "UTF-8"
    try:
        text = data.decode("utf-8-sig" if encoding == "UTF-8" else encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not {encoding} text: save the file as UTF-8") from None
    if "\0" in text:
        raise ValueError("it is a binary file, or UTF-16 without a byte order mark")
    return text.replace("\r\r\n", "\n")  # `csv.writer` on Windows, without newline=""


def _split(text: str) -> tuple[list[list[str]], list[int]]:
    """Rows of cells, and the numbers of their lines; without comments and blank lines."""
    numbered = [
        _COMMENT if line.lstrip().startswith(_COMMENT) else line
        for line in io.StringIO(text, newline=None)
    ]
    first = next((line for line in numbered if line != _COMMENT and line.strip()), "")
    unquoted = re.sub('"[^"]*"', "", first)
    # A semicolon's file may have decimal or other commas; a comma's has no semicolons.
    delimiter = next((each for each in _DELIMITERS if each in unquoted), ",")
    reader = csv.reader(numbered, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    blank = 0
    try:
        for row in reader:
            content = "".join(row).strip()
            if content == _COMMENT:
                continue
            if not content:
                blank = reader.line_num
            elif blank and rows:  # a missing value, which would move all later ones
                raise ValueError(f"line {blank} is blank: remove it, or fill it in")
            else:
                rows.append(row)
                lines.append(reader.line_num)
                blank = 0
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return rows, lines


def _is_value(cell: str) -> bool:
    return parse_number(cell) is not None or parse_moment(cell) is not None
