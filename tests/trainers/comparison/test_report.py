"""The report of a comparison: what it says of numbers by hand, and files that do not fit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from comparison_files import task, training, write

pytest.importorskip("matplotlib")

from grpo_gym.settings import ConfigError
from grpo_gym.trainers.comparison import statistics
from grpo_gym.trainers.comparison.conclusions import choose_threshold
from grpo_gym.trainers.comparison.report import write_report
from grpo_gym.trainers.comparison.task_results import read_task


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)


def reported(path: Path, threshold: float | None = None) -> str:
    report = write_report([path], path.parent / "report", threshold)
    assert report == path.parent / "report" / "report.md"
    return report.read_text(encoding="utf-8")


def row_of(text: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(name)} \|.*$", text, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_and_statements_of_a_clear_case(tmp_path: Path) -> None:
    ours = [
        training(final, steps_per_second=100.0, reached_at=0.2) for final in (110.0, 111.0, 112.0)
    ]
    theirs = [training(final) for final in (100.0, 101.0, 102.0)]
    path = write(tmp_path / "case.json", {"ppo": theirs, "grpo": ours}, {"random": 0.0})
    text = reported(path, threshold=80.0)
    grpo, ppo = row_of(text, "**GRPO**"), row_of(text, "**PPO**")
    assert grpo[1:5] == ["3", "111.0 [110.0, 112.0]", "111.0", "–"]
    assert ppo[1:5] == ["3", "101.0 [100.0, 102.0]", "101.0", "1.00 [1.00, 1.00]"]
    # The way up is even: 80 of 101 within 500 steps of 10 a second.
    assert ppo[5].startswith(f"{500 * 80 / 101:.0f} [") and ppo[6].startswith("39.6 [")
    assert ppo[7:] == ["10", "4,500 / 9,000", "512"]
    assert row_of(text, "random")[3] == "0.0 ± 1.0"
    assert "GRPO's IQM is higher, and the intervals do not overlap; difference 10.0 [" in text
    assert "Every GRPO run ends above every PPO run (by chance: 1 in 20)." in text
    # 2.5 times as many steps, by 111 / 101; 10 times as slow.
    steps, seconds = rf"{2.5 * 111 / 101:.2f} \[.*\]", rf"{25 * 111 / 101:.1f} \[.*\]"
    ratio = "PPO/GRPO time-to-threshold ratio"
    assert re.search(rf"{ratio}: {seconds} in CPU seconds, {steps} in steps\.", text)
    assert "Threshold: 80, as requested." in text
    assert "Runs of 1,000 environment steps with different training seeds: GRPO 3, PPO 3." in text
    assert "processor a processor, cores 2" in text and "grpo_gym 0.1.0" in text
    assert "`grpo-gym compare --env CartPole-v1`" in text
    assert "Settings of PPO (tuned)" in text
    assert "learning_rate: 0.0003\nhidden_sizes: [64, 64]\n```" in text
    assert (tmp_path / "report" / "case.png").read_bytes().startswith(b"\x89PNG")


def test_another_reward_in_training_is_said(tmp_path: Path) -> None:
    shaped = {"training_env_kwargs": {"reward": "latency", "latency_scale_ms": 1000.0}}
    ours, theirs = [training(100.0, settings=shaped)], [training(90.0)]
    text = reported(write(tmp_path / "case.json", {"grpo": ours, "ppo": theirs}))
    note = "GRPO trains with reward=latency, latency_scale_ms=1000.0; evaluations are of the task"
    assert note in text and "PPO trains with" not in text


@pytest.mark.parametrize(
    ("ours", "statement"),
    [
        ((90.0, 91.0, 92.0), "GRPO's IQM is lower, and the intervals do not overlap"),
        ((95.0, 101.0, 105.0), "The IQMs do not differ significantly"),
        ((100.0, 101.0, 102.0), "The IQMs do not differ significantly"),
        ((101.5, 103.0, 103.5), "GRPO's IQM is higher: the intervals overlap"),
        ((110.0,), "A single run says nothing about other training seeds"),
    ],
)
def test_statements_follow_the_numbers(
    tmp_path: Path, ours: tuple[float, ...], statement: str
) -> None:
    theirs = [training(final) for final in (100.0, 101.0, 102.0)]
    path = write(tmp_path / "case.json", {"grpo": [training(each) for each in ours], "ppo": theirs})
    text = reported(path)
    assert statement in text
    assert len(re.findall(r"GRPO's IQM is|The IQMs do|A single run says", text)) == 1


def test_who_never_reaches_the_threshold_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "case.json",
        {
            "grpo": [training(100.0), training(101.0), training(102.0)],
            "a2c": [training(60.0), training(61.0), training(95.0)],
            "ppo": [training(60.0), training(95.0), training(96.0, tuned=False)],
        },
    )
    text = reported(path, threshold=90.0)
    assert row_of(text, "**A2C**")[5] == "never (1 of 3 runs)"
    assert re.fullmatch(r"474 \[.*, ∞\] \(2 of 3 runs\)", row_of(text, "**PPO**")[5])
    assert "GRPO reaches the threshold; at least half of A2C's runs never do." in text
    # At the median 474 steps, and 446.
    assert re.search(r"PPO/GRPO time-to-threshold ratio: .*, 1\.06 \[1\.0\d, ∞\] in steps", text)
    assert "Not tuned" not in text


def test_when_ours_is_where_another_ends_is_said(tmp_path: Path) -> None:
    ours = [training(100.0), training(100.0)]  # rising by 20 in 100 steps, 10 s
    lower = [training(80.0, steps_per_second=2.0)] * 2
    text = reported(write(tmp_path / "lower.json", {"grpo": ours, "ppo": lower}))
    assert re.search(
        r"PPO ends at 80[.0]* on the curve after 1,000 steps and 500 s; "
        r"GRPO reaches that after 400 \[.*\] steps and 40\.0 \[.*\] s\.",
        text,
    )
    text = reported(write(tmp_path / "higher.json", {"grpo": ours, "ppo": [training(120.0)]}))
    assert "; at least half of GRPO's runs never reach that." in text


def test_what_is_not_tuned_is_said(tmp_path: Path) -> None:
    runs = {"grpo": [training(1.0)], "ppo": [training(2.0, tuned=False)]}
    text = reported(write(tmp_path / "case.json", runs))
    assert "Not tuned for this task: PPO." in text
    assert "Settings of PPO (not tuned)" in text and "Settings of GRPO (tuned)" in text


def test_every_algorithm_reaches_the_default_threshold(tmp_path: Path) -> None:
    runs = {"grpo": [training(110.0, start=10.0)], "ppo": [training(90.0, start=10.0)]}
    started = read_task(write(tmp_path / "without.json", runs))
    assert choose_threshold(started).level == pytest.approx(10.0 + 0.95 * 80.0)
    random = read_task(write(tmp_path / "with.json", runs, {"random": 50.0, "better": 60.0}))
    chosen = choose_threshold(random)
    assert chosen.level == pytest.approx(50.0 + 0.95 * 40.0)
    assert "95 % of the way from random actions (50) to the lowest final IQM (PPO, 90)" in (
        chosen.reason
    )
    assert "more than twice" not in chosen.reason


def test_threshold_where_some_or_all_learned_nothing(tmp_path: Path) -> None:
    runs = {"grpo": [training(100.0)], "ppo": [training(20.0)], "a2c": [training(-5.0)]}
    some = choose_threshold(read_task(write(tmp_path / "some.json", runs, {"random": 0.0})))
    assert some.level == pytest.approx(19.0)
    assert "A2C is ignored: it ends no better than that start" in some.reason
    assert "The best algorithm learns more than twice as much" in some.reason
    path = write(tmp_path / "all.json", runs, {"random": 1000.0})
    assert choose_threshold(read_task(path)).level is None
    swapped = {"grpo": [training(20.0)], "ppo": [training(100.0)]}
    text = reported(write(tmp_path / "swapped.json", swapped), threshold=50.0)
    assert "PPO reaches the threshold; at least half of GRPO's runs never do." in text
    assert "time-to-threshold ratio: undefined." in reported(path, threshold=500.0)
    assert "No threshold: no algorithm ends above random actions (1,000)." in reported(path)


def test_several_tasks(tmp_path: Path) -> None:
    won = {"grpo": [training(2.0), training(3.0)], "ppo": [training(0.0), training(1.0)]}
    drawn = {
        "grpo": [training(5.0), training(5.0)],
        "ppo": [training(5.0), training(5.0)],
        "a2c": [training(4.0)],
    }
    files = [
        write(tmp_path / "one.json", won),
        write(tmp_path / "two.json", drawn, head=task("LoadBalancer-v0", preset="park")),
    ]
    text = write_report(files, tmp_path / "report").read_text()
    assert "ends above a run of PPO with probability 0.75 [0.75, 0.75] (mean over 2 tasks)" in text
    assert text.index("## All tasks") < text.index("## CartPole-v1")
    assert row_of(text, "LoadBalancer-v0 park")[3] == "4.000"
    assert row_of(text, "CartPole-v1")[3] == "–"
    for name in ("overview", "one", "two"):
        assert (tmp_path / "report" / f"{name}.png").exists()
        assert f"]({name}.png)" in text
    with pytest.raises(ConfigError, match="threshold must be left out"):
        write_report(files, tmp_path, 3.0)
    with pytest.raises(ConfigError, match="different names, got 'one' twice"):
        write_report([files[0], files[0]], tmp_path)


def test_without_ours_there_is_a_table_and_no_statement(tmp_path: Path) -> None:
    text = reported(
        write(tmp_path / "case.json", {"ppo": [training(1.0)], "own_one": [training(2.0)]})
    )
    assert row_of(text, "**own_one**")[4] == "–"
    assert "- **GRPO" not in text


RUN = "grpo/seed 0"


def damaged(change: Any) -> str:
    values = {"task": task(), RUN: training(1.0)}
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a result file of compare"),
        ("[]", "must be a result file of compare"),
        (damaged(lambda v: v.pop("task")), "no key 'task'"),
        (damaged(lambda v: v["task"].pop("machine")), "task: machine is required"),
        (
            damaged(lambda v: v["task"].update(total_steps="many")),
            "total_steps must be an integer",
        ),
        (damaged(lambda v: v.pop("grpo/seed 0")), "no finished training yet"),
        (damaged(lambda v: v[RUN].pop("curve")), "grpo/seed 0: curve is required"),
        (damaged(lambda v: v[RUN].update(curve=[])), "at least 2 points"),
        (
            damaged(lambda v: v[RUN].update(tuned=1)),
            "tuned must be true or false, got 1",
        ),
        (
            damaged(lambda v: v[RUN].update(steps=True)),
            "steps must be an integer, got True",
        ),
        (
            damaged(lambda v: v[RUN]["curve"].reverse()),
            "steps of the curve must not fall",
        ),
        (
            damaged(lambda v: v[RUN]["final"].update(mean_return=float("nan"))),
            "mean_return must be a finite number, got nan",
        ),
        (damaged(lambda v: v.update({"random": {}})), "got the key 'random'"),
        (damaged(lambda v: v.update({"baseline/random": 3})), "baseline/random must be a mapping"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        write_report([path], tmp_path / "report")
    assert str(path) in str(error.value)
    assert not (tmp_path / "report").exists()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json must be a result file of compare"):
        write_report([tmp_path / "nowhere.json"], tmp_path)
