"""The log of choices: what is written is read, files stay small, and damage is told."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.deployment.shadow_log import ShadowLog, read_log
from grpo_gym.settings import ConfigError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ShadowLog(path) as log:
        log.write(1, 0.25, -3.5, policy=[0.1, 0.9], observation=[1.0, 2.0])
        log.write(np.int64(0), np.float64(1.0), np.float32(2.0), policy=1,
                  observation=np.ones(2, np.float32))  # fmt: skip
    rows = read_log(path)
    assert len(rows) == log.rows == 2
    assert rows.actions.tolist() == [1, 0]
    assert rows.propensities.tolist() == [0.25, 1.0]
    assert rows.rewards.tolist() == [-3.5, 2.0]
    assert rows.policy is not None and rows.policy.tolist() == [[0.1, 0.9], [0.0, 1.0]]
    assert rows.observations is not None and rows.observations.tolist() == [[1, 2], [1, 1]]
    assert (rows.damaged, log.dropped, log.error) == (0, 0, None)


def test_what_only_some_rows_have_is_absent_and_fleets_may_change(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ShadowLog(path) as log:
        log.write(0, 1.0, 1.0, policy=[1.0], observation=[1.0])
        log.write(2, 0.5, 1.0, policy=[0.25, 0.25, 0.5], observation=[1.0, 2.0])
    rows = read_log(path)
    assert rows.policy is not None and rows.policy.tolist() == [[1, 0, 0], [0.25, 0.25, 0.5]]
    assert rows.observations is None
    with ShadowLog(path) as log:
        log.write(0, 1.0, 1.0)
    rows = read_log(path)
    assert (len(rows), rows.policy, rows.observations) == (3, None, None)


@pytest.mark.parametrize("files", [1, 2, 3])
def test_only_the_last_files_are_kept_in_order(tmp_path: Path, files: int) -> None:
    path = tmp_path / "log.jsonl"
    with ShadowLog(path, maximum_bytes=500, files=files) as log:
        for number in range(200):
            log.write(0, 1.0, float(number))
            kept = sum(each.stat().st_size for each in tmp_path.iterdir())
            assert kept <= 500 * files
    assert len(list(tmp_path.iterdir())) == files
    rewards = read_log(path).rewards.tolist()
    assert rewards == [float(number) for number in range(200 - len(rewards), 200)]
    assert len(rewards) > 8 * files


def test_a_killed_process_costs_the_line_it_was_writing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ShadowLog(path) as log:
        log.write(0, 1.0, 1.0)
    path.write_bytes(path.read_bytes() + b'{"action": 1, "prop')
    assert (len(read_log(path)), read_log(path).damaged) == (1, 1)
    with ShadowLog(path) as log:
        log.write(0, 1.0, 2.0)
    rows = read_log(path)
    assert (rows.rewards.tolist(), rows.damaged) == ([1.0, 2.0], 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"action": -1}, "line 2: action cannot be used"),
        ({"action": 1.5}, "line 2: action cannot be used"),
        ({"action": 10**9}, "line 2: action cannot be used"),
        ({"propensity": 0.0}, "line 2: propensity cannot be used"),
        ({"propensity": 1.1}, "line 2: propensity cannot be used"),
        ({"reward": "NaN"}, "line 2: reward cannot be used"),
        ({"reward": None}, "line 2: reward cannot be used"),
        ({"policy": [0.5, 0.4]}, "line 2: policy.* must have the sum 1, got 0.9"),
        ({"policy": [1.5, -0.5]}, "line 2: policy"),
        ({"observation": [1.0, None]}, "line 2: observation cannot be used"),
        ({"extra": 1}, "line 2: extra cannot be used"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "log.jsonl"
    right = {"action": 0, "propensity": 1.0, "reward": 0.0}
    path.write_text("\n".join(json.dumps(each) for each in (right, {**right, **row})))
    with pytest.raises(ConfigError, match=message):
        read_log(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\n", b"[[[[" * 100_000])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="must have rows, got"):
        read_log(path)


def test_a_full_disk_drops_rows_and_not_traffic(tmp_path: Path) -> None:
    log = ShadowLog("/dev/full")
    for _ in range(20_000):
        log.write(0, 1.0, 0.0)
    assert log.dropped > 0
    assert log.error is not None and "No space left" in log.error


def test_a_place_that_takes_no_files_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ShadowLog(tmp_path / "none" / "log.jsonl")
    with pytest.raises(ConfigError, match="files must be"):
        ShadowLog(tmp_path / "log.jsonl", files=0)


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ShadowLog(path, maximum_bytes=20_000, files=100) as log:

        def write(first: int) -> None:
            for number in range(first, first + 250):
                log.write(number, 1.0, 0.0)

        threads = [threading.Thread(target=write, args=(250 * each,)) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = read_log(path)
    assert (sorted(rows.actions.tolist()), rows.damaged) == (list(range(2_000)), 0)
