"""Recorded arrivals and series: what is read and refused, and docs/reference/csv_formats.md."""

import codecs
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grpo_gym.envs.recordings import Arrivals, read_arrivals, read_series
from grpo_gym.settings import ConfigError

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "reference" / "csv_formats.md").read_text("utf-8")

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.0319600,3180,8\r
2023-11-16 18:17:04.0319600,110,0\r
2023-11-16 18:17:05.9799610,549,173"""


_GZIPPED = gzip.compress(b"5\n7\n", mtime=0)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def to(content: str | bytes) -> Path:
        path = tmp_path / "recording.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


Writer = Callable[[str | bytes], Path]


def is_read_as(arrivals: Arrivals, times_ms: list[float], sizes: list[float] | None) -> None:
    assert arrivals.times_ms.dtype == np.float64
    np.testing.assert_allclose(arrivals.times_ms, times_ms, rtol=1e-9, atol=1e-3)
    if sizes is None:
        assert arrivals.sizes is None
    else:
        assert arrivals.sizes is not None
        assert arrivals.sizes.dtype == np.float64
        np.testing.assert_array_equal(arrivals.sizes, sizes)


def test_a_trace_of_language_models(write: Writer) -> None:
    path = write(AZURE)
    times_ms = [0.0, 52.0, 52.0, 2_000.001]
    is_read_as(read_arrivals(path), times_ms, None)
    is_read_as(read_arrivals(path, size_column="GeneratedTokens"), times_ms, [10, 8, 0, 173])
    is_read_as(read_arrivals(path, 1, 2), times_ms, [4808, 3180, 110, 549])


@pytest.mark.parametrize(
    ("text", "times_ms", "sizes"),
    [
        ("0.5\n1\n2.5\n", [0, 500, 2_000], None),  # a file without a header
        ("5,1\n7,0\n", [0, 2_000], [1, 0]),  # of two columns, the second is the size
        ("5,1,3\n7,0,3\n", [0, 2_000], None),  # of three, none
        ("time,size\n5,1\n7,2\n", [0, 2_000], [1, 2]),
        ("time,user\n5,1\n7,2\n", [0, 2_000], None),
        ("Size,Timestamp\n1,5\n2,7\n", [0, 2_000], [1, 2]),  # by name
        ("user,size,time (ms)\n1,2,5\n2,3,7\n", [0, 2], [2, 3]),
        (",timestamp,size\n0,5,1\n1,7,2\n", [0, 2_000], [1, 2]),  # an index without a name
        ('"time","size"\n"5", "1"\n 7 ,2\n', [0, 2_000], [1, 2]),
        ("time;size\n5;1\n7;2\n", [0, 2_000], [1, 2]),
        ("time\tsize\r\n5\t1\r\n7\t2\r\n", [0, 2_000], [1, 2]),
        ("time,size\r\r\n5,1\r\r\n7,2\r\r\n", [0, 2_000], [1, 2]),
        ("time,size\r5,1\r7,2", [0, 2_000], [1, 2]),
        ('"time; since start",size\n5,1\n7,2\n', [0, 2_000], [1, 2]),
        ("\n# it's \"a\n# comment\ntime\n5\n # and another\n7\n\n , \n \n", [0, 2_000], None),
        ("1e3\n1.5e3\n", [0, 500_000], None),
        ("time_ms\n5\n7\n", [0, 2], None),
        ("Time [s]\n5\n7\n", [0, 2_000], None),
        ("arrived in microseconds\n5000\n7000\n", [0, 2], None),
        ("timestamp_ns\n5000000\n7000000\n", [0, 2], None),
        ("times\n5\n7\n", [0, 2_000], None),  # no unit
        ("1700000000.25\n1700000001\n", [0, 750], None),  # Unix times
        ("1700000000000\n1700000000250.5\n", [0, 250.5], None),
        ("1700000000000000\n1700000000250500\n", [0, 250.5], None),
        ("1700000000000000000\n1700000000250500000\n", [0, 250.5], None),
        ("2023-11-16\n2023-11-17\n", [0, 86_400_000], None),
        ("2023-11-16T18:17:03Z\n2023-11-16T18:17:03.979960012Z\n", [0, 979.96], None),
        ("2023-11-16T18:17:03+00:00\n2023-11-16T19:17:04+01:00\n", [0, 1_000], None),
        ("2023-11-16 18:17:03,5;2\n2023-11-16 18:17:04,5;3\n", [0, 1_000], [2, 3]),
    ],
)
def test_files_that_are_read(
    write: Writer, text: str, times_ms: list[float], sizes: list[float] | None
) -> None:
    is_read_as(read_arrivals(write(text)), times_ms, sizes)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_given_unit_counts_more_than_all_others(write: Writer, unit: Any) -> None:
    factor = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}[unit]
    path = write("time_ms\n1700000000000\n1700000900000\n")
    is_read_as(read_arrivals(path, time_unit=unit), [0.0, 9e5 * factor], None)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(codecs.BOM_UTF8 + text.encode()),
    ],
)
@pytest.mark.parametrize("header", ["", "time,größe\n"])
def test_encodings_and_compression(
    write: Writer, encode: Callable[[str], bytes], header: str
) -> None:
    """No first row is lost to a byte order mark."""
    path = write(encode(header + "5,1\n7,2\n"))
    is_read_as(read_arrivals(path, size_column=2), [0.0, 2_000.0], [1, 2])
    np.testing.assert_array_equal(read_series(path, 1), [5.0, 7.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "have at least one row of numbers, got 0"),
        ("\n \n# nothing\n", "have at least one row of numbers, got 0"),
        ("time,size\n", "have at least one row of numbers, got 0"),
        ("time\n5\n", "have at least two arrivals, got 1"),
        ('"time\nin ms"\n5\nx\n', "a number .* in 'time in ms', got 'x' in line 4"),
        ("time\n5\n5\n5\n", "span at least a microsecond, got 0 ms from the first"),
        (
            "time\n5\n9\n7\n",
            "have times in order, after '9', in 'time', got '7' in line 4.*: sort the rows",
        ),
        ("2023-11-16\n2023-11-15\n", "have times in order.* '2023-11-15' in line 2"),
        ("time,size\n5,1\n7,-2\n", r"from 0 to 1e\+30 in 'size', got '-2' in line 3"),
        ("5,1\n7,\n", "a number from 0 .* in column 2, got '' in line 2"),
        ("# a\n5,1\n\n# b\n", "at least two arrivals"),
        ("5,1\n7,nan\n", "got 'nan' in line 2"),
        ("nan,1\n7,1\n", "got 'nan' in line 1"),
        ("5,1\n-inf,1\n", "got '-inf' in line 2"),
        ("5,1\n1e31,1\n", "got '1e31' in line 2"),
        ("-5\n7\n", "got '-5' in line 1"),
        (",1\n7,1\n", "have numbers, or timestamps such as .*got '' in line 1"),
        ("time\n16/11/2023\n17/11/2023\n", "have numbers, or timestamps such as .*'16/11/2023' in"),
        ("5\n2023-11-16\n", "a number .*got '2023-11-16' in line 2"),
        ("2023-11-16\n5\n", "timestamps without a time zone, .*got '5' in line 2"),
        ("2023-11-16\n2023-11-16T00:00Z\n", "timestamps without a time zone"),
        ("2023-11-16T00:00Z\n2023-11-16\n", "timestamps with a time zone"),
        ("20000000000\n20000000001\n", r"below 1e\+10, or Unix times.*with arrivals_time_unit"),
        ("5,0\n7,0\n", "have a size above 0, got 2 of 0"),
        ("5,1\n7\n", r"as many cells in every row as in the first, 2, got 1 in line 2 .*: '7'"),
        ("time\n5,1\n7,2\n", "as many cells in every row as in the first, 1, got 2 in line 2"),
        ("5,1\n\n7,2\n", "readable CSV file, .*: line 2 is blank: remove it, or fill it in"),
        ("5,1\n,\n7,2\n", "line 2 is blank"),
        ('5,"1\n7,2\n', "readable CSV file, .*: line 2: unexpected end of data"),
        ('5,"1"0\n7,2\n', "readable CSV file, .*: line 1: ',' expected"),
        ("5\n" + "7" * 200_000, "readable CSV file, .*: line 2: field larger than"),
        ("5,1\nx" + "7" * 90 + ",2\n", r"got 'x7{36}\.\.\.' in line 2"),
        ("5,é\n7,2\n".encode("latin-1"), "line 1 is not UTF-8 text: save the file as UTF-8"),
        ("5\n7\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"5\n7", "line 2 is not UTF-16 text"),
        (b"\x00\x01\x02", "binary file"),
        (
            _GZIPPED[:-9],
            "readable CSV file, .*: Compressed file ended before",
        ),
        (
            _GZIPPED[:10] + b"\xff" * 20,
            "readable CSV file, .*: Error -3 while",
        ),
        (b"\x1f\x8bnot gzip at all", "readable CSV file, .*: Unknown compression method"),
        (
            _GZIPPED[:-8] + bytes(8),
            "readable CSV file, .*: CRC check failed",
        ),
    ],
)
def test_files_that_are_refused(write: Writer, content: str | bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(ConfigError, match=f"^arrivals_csv must .*{message}") as caught:
        read_arrivals(path)
    assert "\n" not in str(caught.value)
    assert repr(str(path)) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_column": "clock"}, "arrivals_time_column must be the name of one column .*'clock'"),
        ({"size_column": "generatedtokens"}, "Did you mean 'GeneratedTokens'?"),
        ({"size_column": "x"}, "Choose from: TIMESTAMP, ContextTokens, GeneratedTokens"),
        ({"size_column": 4}, "arrivals_size_column must be a column .* from 1 to 3, got 4"),
        ({"size_column": 0}, "arrivals_size_column must be a column .* from 1 to 3, got 0"),
        ({"size_column": 1}, "arrivals_size_column must differ from arrivals_time_column"),
        (
            {"time_unit": "ms"},
            "arrivals_csv must have numbers of ms .*: arrivals_time_unit is only",
        ),
        ({"time_column": 2}, "times in order"),
    ],
)
def test_choices_that_are_refused(write: Writer, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_arrivals(write(AZURE), **arguments)
    assert "\n" not in str(caught.value)


def test_names_need_a_header_where_each_is_used_once(write: Writer) -> None:
    with pytest.raises(ConfigError, match=r"must be a column's number, .*'size': .*has no header"):
        read_arrivals(write("5,1\n7,2\n"), size_column="size")
    with pytest.raises(ConfigError, match="got 'load', the name of 2: choose it by number"):
        read_arrivals(write("time,load,load\n5,1,2\n7,2,3\n"), size_column="load")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    paths: dict[str | Path, str] = {
        tmp_path / "none.csv": "No such file or directory",
        tmp_path: "it is not a file",
        "": "it is not a file",
        "nul\0": "embedded null byte",
        "x" * 5_000: "File name too long",
    }
    for path, message in paths.items():
        with pytest.raises(ConfigError, match=f"arrivals_csv must be a readable .*{message}"):
            read_arrivals(path)


@pytest.mark.parametrize(
    ("text", "column", "values"),
    [
        ("5\n7\n", None, [5, 7]),
        ("rate\n5\n", None, [5]),
        ("timestamp,value\n2014-04-10 00:04:00,94.0\n2014-04-10 00:09:00,56.0\n", None, [94, 56]),
        ("timestamp,value,Demand\n1,94.0,3\n2,56,4\n", 3, [3, 4]),
        ("a,b\n94.0,3\n56,4\n", "b", [3, 4]),
    ],
)
def test_series(write: Writer, text: str, column: int | str | None, values: list[float]) -> None:
    np.testing.assert_array_equal(read_series(write(text), column), values)


def test_series_that_are_refused(write: Writer) -> None:
    with pytest.raises(
        ConfigError, match=r"demand_csv must have one column.* got 2 .*demand_column"
    ):
        read_series(write("1,5\n2,7\n"))
    with pytest.raises(ConfigError, match=r"demand_column must be the name of one column.*'x'"):
        read_series(write("a,b\n2,7\n"), "x")


def test_a_large_file_is_read_exactly(write: Writer) -> None:
    rng = np.random.default_rng(0)
    times_ms = np.cumsum(rng.integers(0, 5, 20_000)).astype(float)
    sizes = rng.random(20_000)
    rows = [f"{time},{size!r}" for time, size in zip(times_ms, sizes.tolist(), strict=True)]
    arrivals = read_arrivals(write("time_ms,size\n" + "\n".join(rows)))
    assert arrivals.sizes is not None
    np.testing.assert_array_equal(arrivals.times_ms, times_ms - times_ms[0])
    np.testing.assert_array_equal(arrivals.sizes, sizes)


GOOD = [
    AZURE.encode(),
    codecs.BOM_UTF8 + b"time_ms,size\n1,2\n2,3\n5,1\n",
    "time;size\n1;2\n2;3\n".encode("utf-16"),
    gzip.compress(b'# comment\n"1.5","2"\n"1.6","3"\n', mtime=0),
    b"1700000000000\n1700000000001\n",
    b"2023-11-16T18:17:03+01:00\t1\n2023-11-16T18:17:04Z\t2\n",
]
PIECES = [b"\n", b"\r", b",", b";", b"\t", b'"', b"#", b"\0", b"-", b"e", b"1e999", b"nan", b"T",
          b"0001-01-01", b"9999-12-31T23:59:59.999999", b"+23:59", b"-23:59", b"24:00", b"\xff",
          b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\xc2\x85",
          "٣".encode(), b"_", b" "]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with pieces cut out, moved and put in."""
    content = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, len(content)))
        end = draw(st.integers(begin, min(len(content), begin + 12)))
        piece = draw(st.sampled_from([b"", *PIECES]) | st.binary(max_size=4))
        content = content[:begin] + piece + content[end:]
    return content


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings") / "damaged.csv"


@settings(max_examples=600)
@given(content=damaged() | st.binary(max_size=60), column=st.sampled_from([None, 1, 2, "size"]))
@example(b"0001-01-01T00:00+23:59\n9999-12-31T23:59-23:59\n", None)
@example(b"1e-320\n2e-320\n", None)
def test_no_file_breaks_the_reader(scratch: Path, content: bytes, column: Any) -> None:
    """It is read, within its promises, or refused with one line."""
    scratch.write_bytes(content)
    try:
        arrivals = read_arrivals(scratch, size_column=column)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        times_ms, sizes = arrivals.times_ms, arrivals.sizes
        assert len(times_ms) >= 2
        assert times_ms[0] == 0.0
        assert (np.diff(times_ms) >= 0.0).all()
        assert 1e-3 <= times_ms[-1] < np.inf
        assert sizes is None or (sizes.min() >= 0.0 < sizes.max() <= 1e30)
    try:
        series = read_series(scratch, column)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert len(series) >= 1
        assert (series >= 0.0).all()
        assert np.isfinite(series).all()


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"`(\w+\.csv)`[^`]*```csv\n(.*?)```", PAGE, re.DOTALL)
    assert len(files) == PAGE.count("```csv") == 3
    for name, content in files:
        Path(name).write_text(content, encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "docs/reference/csv_formats.md", "exec"), {"__name__": "csv_formats_page"})
