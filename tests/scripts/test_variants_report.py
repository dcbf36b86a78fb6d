"""The tables of scripts/variants.py: from results by hand, complete, incomplete and missing."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.evaluation.statistics import bootstrap_interval, interquartile_mean
from grpo_gym.trainers.presets import PRESETS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Interquartile mean: a quarter of five, rounded down to one, goes off each end.
FIVE = (1.0, 2.0, 3.0, 7.0, 100.0)
FIVE_IQM = 4.0
REASON = "LunarLander-v3 cannot be branched: copying it raised\nTypeError('a | b')"


@pytest.fixture(scope="module")
def report() -> Iterator[Any]:
    """The script's module, found as it is when scripts/variants.py runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield import_module("variants_report")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def runs(setting: str, returns: tuple[float, ...], steps: int = 100_000) -> dict[str, Any]:
    return {
        f"{setting}/seed {seed}": {
            "return": value,
            "training_steps": steps + 1000 * seed,
            "iterations": 10,
            "training_seconds": 1.0,
        }
        for seed, value in enumerate(returns)
    }


def keep(results: Path, part: str, *settings: dict[str, Any]) -> None:
    merged = {key: value for setting in settings for key, value in setting.items()}
    (results / f"variants_{part}.json").write_text(json.dumps(merged))


def written(report: Any, results: Path) -> str:
    out = results.parent / "variants.md"
    report.write_report(results, out)
    return out.read_text(encoding="utf-8")


def row(page: str, section: str, first: str) -> list[str]:
    """The cells of a row, by the heading it stands under and its first cell."""
    _, _, below = page.partition(section)
    line = next(line for line in below.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_preset_has_a_row_and_a_citation(report: Any, results: Path) -> None:
    page = written(report, results)
    for preset in PRESETS:
        *parts, paper = row(page, "## What each preset sets", f"`{preset}`")
        assert len(parts) == 6
        assert all(parts)
        if preset == "chapter":
            assert paper == "GRPO Implementation Deep Dive"  # a chapter of a book
        else:
            assert re.fullmatch(r"\[[^]]+\]\(https://arxiv\.org/abs/\d{4}\.\d{5}\)", paper)


def test_preset_rows_say_what_the_preset_resolves_to(report: Any, results: Path) -> None:
    page = written(report, results)
    _, advantage, ratio, loss, kl, other, paper = row(page, "## What each preset sets", "`grpo`")
    assert advantage == (
        "**outcome**, **undiscounted**, **baseline trajectory**, mean of all, **scale group**"
    )
    assert ratio == "clipped, ratio of the step, -0.2, **+0.2**"
    assert (loss, kl, other) == ("**per sequence**", "**0.04**, **k3**, initial", "–")
    assert "2402.03300" in paper
    assert row(page, "## What each preset sets", "`vine`")[5] == "**grouping: branch**"
    assert row(page, "## What each preset sets", "`rloo`")[2] == "**reinforce**"


def test_every_setting_that_a_preset_changes_is_shown(
    report: Any, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"dual_clip": 3.0, "loss_normalisation": "constant", "entropy_coefficient": 0.5}
    monkeypatch.setitem(PRESETS, "mine", changes)
    monkeypatch.setitem(import_module("variants_presets").PAPERS, "mine", ("Mine", "2601.00001"))
    line = " ".join(row(written(report, results), "## What each preset sets", "`mine`"))
    for shown in ("**dual clip 3**", "**constant**", "**entropy_coefficient: 0.5**"):
        assert shown in line


def test_interquartile_mean_and_steps_of_five_seeds(report: Any, results: Path) -> None:
    keep(results, "presets", runs("CartPole-v1/grpo", FIVE))
    cells = row(written(report, results), "## Presets", "`grpo`")
    low, high = bootstrap_interval(np.array(FIVE), interquartile_mean, 10_000)
    assert cells[3] == f"**{FIVE_IQM:.1f}** [{low:.1f}, {high:.1f}], 5/5"
    assert cells[4] == "102,000"


def test_only_the_best_of_a_column_is_bold(report: Any, results: Path) -> None:
    keep(
        results,
        "presets",
        runs("Acrobot-v1/grpo", (-90.0,) * 5),
        runs("Acrobot-v1/loop", (-80.0,) * 5),
        runs("CartPole-v1/grpo", (500.0,) * 5),
    )
    page = written(report, results)
    assert row(page, "## Presets", "`grpo`")[5] == "-90.0 [-90.0, -90.0], 5/5"
    assert row(page, "## Presets", "`loop`")[5] == "**-80.0** [-80.0, -80.0], 5/5"
    assert row(page, "## Presets", "`grpo`")[3] == "**500.0** [500.0, 500.0], 5/5"


def test_incomplete_settings_say_how_many_seeds_there_are(report: Any, results: Path) -> None:
    keep(results, "presets", runs("LoadBalancer-v0 flaky/dapo", (-300.0, -200.0)))
    cells = row(written(report, results), "## Presets", "`dapo`")
    assert cells[1:3] == ["**-250.0** [-300.0, -200.0], 2/5", "100,500"]
    assert cells[3:] == ["–"] * 4


def test_preset_names_that_begin_alike_are_kept_apart(report: Any, results: Path) -> None:
    keep(results, "presets", runs("CartPole-v1/gr2po", (9.0,)), runs("CartPole-v1/grpo", (1.0,)))
    assert row(written(report, results), "## Presets", "`grpo`")[3] == "1.0, 1/5"


def test_without_results_every_cell_is_empty(report: Any, results: Path) -> None:
    page = written(report, results)
    assert row(page, "## Presets", "`default`")[1:] == ["–"] * 6
    assert row(page, "## How a group starts", "Pendulum-v1")[2:5] == ["–"] * 3
    assert row(page, "**CartPole-v1**", "8")[1:] == ["–"] * 6
    assert row(page, "## With a critic", "critic")[1:] == ["–"] * 2
    for part in ("presets", "branching", "group_size"):
        assert f"python scripts/variants.py --part {part}" in page


def test_refused_runs_give_their_reason_once(report: Any, results: Path) -> None:
    refused = {f"LunarLander-v3/branching/seed {seed}": {"refused": REASON} for seed in range(5)}
    keep(results, "branching", refused, runs("LunarLander-v3/shared", (100.0,)))
    page = written(report, results)
    cells = row(page, "## How a group starts", "LunarLander-v3")
    assert cells[3] == "refused[^1]"
    assert cells[2] == "**100.0**, 1/5"
    assert page.count("cannot be branched") == 1
    assert f"\n[^1]: {REASON.replace(chr(10), ' ')}\n" in page


def test_published_returns_stand_beside_ours(report: Any, results: Path) -> None:
    page = written(report, results)
    assert "-172.2 (100k)" in row(page, "## How a group starts", "Pendulum-v1")[-1]
    assert row(page, "## How a group starts", "LoadBalancer-v0 park")[-1] == "–"


def test_sizes_and_baselines(report: Any, results: Path) -> None:
    keep(
        results,
        "group_size",
        runs("CartPole-v1/equal environment steps/shared/8", (400.0,)),
        runs("CartPole-v1/equal environment steps/unrelated/8", (300.0,)),
        runs("CartPole-v1/equal gradient steps/shared/128", (500.0,), steps=640_000),
        runs("Acrobot-v1/equal environment steps/shared/8", (-85.0,)),
        runs("Acrobot-v1/baseline/group and critic", (-84.0,)),
    )
    page = written(report, results)
    eight = row(page, "**CartPole-v1**", "8")
    assert [eight[1][:9], eight[2][:9]] == ["**400.0**", "**300.0**"]
    assert eight[3:] == ["–"] * 4
    large = row(page, "**CartPole-v1**", "128")
    assert large[3].startswith("**500.0**")
    assert large[5:] == ["640,000", "–"]
    assert row(page, "**Acrobot-v1**", "8")[1].startswith("**-85.0**")
    assert row(page, "## With a critic", "group and critic")[2].startswith("**-84.0**")


def test_conclusions_survive_the_next_report(report: Any, results: Path) -> None:
    conclusions = results.parent / "variants_conclusions.md"
    conclusions.write_text("## Conclusions\n\nNone of them is best – everywhere.\n", "utf-8")
    for _ in range(2):
        page = written(report, results)
    assert page.count("None of them is best – everywhere.") == 1
    assert conclusions.exists()


def test_keys_are_those_of_the_experiment(report: Any, results: Path) -> None:
    """The tables show each run that the experiment would make: no key is written twice."""
    protocol = import_module("variants_protocol")
    variants = {part: make_variants() for part, make_variants in protocol.PARTS.items()}
    for part, names in variants.items():
        keep(results, part, *(runs(name, (1.0, 1.0)) for name in names))
    page = written(report, results)
    tables = page[page.index("## Presets") :]
    assert tables.count("2/5") == sum(map(len, variants.values()))
    assert "| – | – |" not in tables
