"""How many digits the tables of the terminal show."""

from dataclasses import asdict

import numpy as np
import pytest
from rich.table import Table

from grpo_gym.cli.tables import TRAINED, closing_table, statistics_table
from grpo_gym.evaluation.episodes import Evaluation
from grpo_gym.evaluation.statistics import summarise


def evaluation(returns: list[float]) -> Evaluation:
    values = np.array(returns)
    return Evaluation(0, values, np.full(len(values), 5), {})


def column(table: Table, title: str) -> list[str]:
    (found,) = [each for each in table.columns if each.header == title]
    return list(map(str, found.cells))


RETURNS = {
    "equal in every episode": ([[4.1, 4.1], [4.0, 4.0]], ["4.1", "4.0"], ["0.0", "0.0"]),
    "whole and equal": ([[20.0, 20.0], [-3.0, -3.0]], ["20", "-3"], ["0", "0"]),
    "no end of digits": ([[1 / 3, 1 / 3], [0.0, 0.0]], ["0.33333", "0.00000"], ["0.00000"] * 2),
    "one of them varies": ([[5.0, 5.0], [1.0, 3.0]], ["5.0", "2.0"], ["0.0", "1.0"]),
    "a single episode": ([[1.25], [0.5]], ["1.25", "0.50"], ["0.00", "0.00"]),
    "tiny": ([[2e-12, 2e-12], [0.0, 0.0]], ["2.0e-12", "0.000000"], ["0.000000"] * 2),
}


@pytest.mark.parametrize("case", RETURNS)
def test_the_closing_table_shows_what_returns_are(case: str) -> None:
    returns, means, margins = RETURNS[case]
    names = [TRAINED, "random"]
    results = {name: evaluation(each) for name, each in zip(names, returns, strict=True)}
    table = closing_table(results, set(), {})
    assert column(table, "return") == means
    assert column(table, "± 95 %") == margins


@pytest.mark.parametrize(
    ("returns", "mean"),
    {
        "equal": ([20.123, 20.123], "20.123"),
        "varying": ([20.0, 21.0], "20.50"),
        "nearly equal": ([1000.0, 1000.0001], "1000.0"),
        "tiny": ([3e-9, 5e-9], "4.0e-09"),
    }.values(),
)
def test_statistics_show_what_returns_are(returns: list[float], mean: str) -> None:
    summary = asdict(summarise(np.array(returns)))
    result = {"return": summary, "length": summary, "metrics": {}, "exact": False}
    table = statistics_table({**result, "reported": {}, "episodes": len(returns)})
    assert column(table, "mean") == [mean, mean]
