"""The state on disk: a restart changes nothing, damage is noticed; and many threads at once."""

import json
import math
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.deployment import (
    Decision,
    Guard,
    GuardConfig,
    GuardError,
    GuardStateError,
    state_file,
)
from guard_bench import Bench, bench

SETTINGS: dict[str, Any] = {
    "window": 20, "history_size": 20, "block_steps": 5, "warmup_steps": 1, "start_percentage": 30,
    "clean_hours": 0.5, "resume_after_hours": 0.25, "false_alarm_rate": 0.3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a loss of power is for the tests of `write_atomic`."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def lived(path: Path, steps: int) -> None:
    """Leave the state of a guard that has made some decisions."""
    world = bench(state_path=path)
    world.steps(steps)
    world.guard.close()


def eventful(world: Bench, restart_every: int | None) -> list[Decision]:
    """A life with step-ups, violations, rollbacks of both kinds, resumptions, broken outcomes."""
    chance = random.Random(5)
    world.outcome = lambda decision: (
        chance.choice([math.nan, -math.inf]) if chance.random() < 0.002 else chance.random()
        - 1.0 * (decision.source == "policy" and decision.number >= 300)
    )  # fmt: skip
    world.guard.promote()
    decisions = []
    for number in range(480):
        if number == 120 and world.guard.mode == "shadow":
            world.guard.promote()
        if number // 120 == 1:
            world.wanted = -1 if chance.random() < 0.2 else 1
        if restart_every is not None and number % restart_every == 0:
            world.restart()
        decisions += world.steps(1)
    return decisions


@pytest.mark.parametrize("restart_every", [1, 23])
def test_a_life_with_restarts_equals_one_without(tmp_path: Path, restart_every: int) -> None:
    steady = bench(**SETTINGS, state_path=tmp_path / "steady.json", save_every=10**6)
    restarted = bench(**SETTINGS, state_path=tmp_path / "restarted.json")
    expected = eventful(steady, None)
    assert eventful(restarted, restart_every) == expected
    assert restarted.guard.history == steady.guard.history
    assert restarted.guard.transitions == steady.guard.transitions
    assert restarted.guard.status() == steady.guard.status()
    steady.guard.save()
    states = [state_file.read_state(tmp_path / f"{name}.json") for name in ("steady", "restarted")]
    first, second = ({**(state or {}), "config": None} for state in states)
    assert first == second
    assert first["decisions"] == len(expected)
    reasons = " ".join(each.reason for each in steady.guard.transitions)
    assert len(steady.guard.transitions) >= 8, "eventful"
    assert all(kind in reasons for kind in ("allowed", "blocks", "hours"))


def test_a_guard_that_was_rolled_back_comes_back_in_shadow(tmp_path: Path) -> None:
    world = bench(mode="full", state_path=tmp_path / "guard.json")
    world.violate(11)
    world.restart()
    assert (world.guard.mode, world.guard.config.mode) == ("shadow", "full")


def test_even_where_nothing_safe_was_left_to_do(tmp_path: Path) -> None:
    def broken(observation: Any) -> Any:
        raise OSError("no route")

    path = tmp_path / "guard.json"
    guard = Guard(broken, broken, GuardConfig(mode="full"), state_path=path)
    for _ in range(11):
        with pytest.raises(GuardError, match="the fallback failed"):
            guard.act(None)
    guard.close()
    assert Guard(broken, broken, GuardConfig(mode="full"), state_path=path).mode == "shadow"


def test_transitions_are_saved_at_once_and_the_rest_as_often_as_set(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    world = bench(state_path=path, save_every=10)
    before = path.read_bytes()
    world.outcome = lambda decision: None
    world.steps(9)
    assert path.read_bytes() == before
    world.steps(1)
    assert path.read_bytes() != before
    before = path.read_bytes()
    world.guard.set_mode("gradual")
    assert path.read_bytes() != before
    world.steps(3)
    world.guard.save()
    world.restart()
    assert world.guard.status().decisions == 13


def test_the_mode_of_the_config_is_only_where_a_new_guard_starts(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    lived(path, 3)
    world = bench(state_path=path, mode="full", save_every=5)
    assert (world.guard.mode, world.guard.status().decisions) == ("shadow", 3)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    lived(path, 0)
    with pytest.raises(GuardStateError, match=r"made with tolerance=0.0, the guard has 0.1\. Put"):
        bench(state_path=path, tolerance=0.1)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    document = json.loads(content)
    if kind == "mode":
        content = content.replace(
            b'"mode": "shadow", "percentage"', b'"mode": "full", "percentage"'
        )
        content = content.replace(b'"mode": "shadow"', b'"mode": "full"')
    elif kind == "truncated":
        content = content[:-20]
    elif kind == "empty":
        content = b""
    elif kind == "binary":
        content = bytes(range(256))
    elif kind == "nested":
        content = b"[" * 100_000
    elif kind == "nan":
        content = content.replace(b'"clean_s": 180.0', b'"clean_s": NaN')
    elif kind == "list":
        content = b"[]"
    elif kind == "kind":
        content = json.dumps({**document, "kind": "recipe"}).encode()
    elif kind == "version":
        content = json.dumps({**document, "version": 2}).encode()
    else:
        content = json.dumps({**document, "state": kind}).encode()
    assert content != path.read_bytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mode", "its SHA-256 does not match"),
        ("truncated", "not JSON"),
        ("empty", "not JSON"),
        ("binary", "not JSON"),
        ("nested", "not JSON"),
        ("nan", "its SHA-256 does not match"),
        ("list", "not the state of a guard"),
        ("kind", "not the state of a guard"),
        ("version", "its version must be 1, got 2"),
        ("state", "its SHA-256 does not match"),
    ],
)
def test_a_damaged_state_is_refused_and_left_alone(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "guard.json"
    lived(path, 4)
    damage(path, kind)
    content = path.read_bytes()
    with pytest.raises(GuardStateError, match=message) as raised:
        bench(state_path=path, mode="full")
    assert str(raised.value).startswith(f"cannot go on from {path}: ")
    assert "move it away to start anew in the configured mode" in str(raised.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("part", ["rollout", "experiment", "history", "decisions"])
@pytest.mark.parametrize("value", [None, [3], {"mode": "full"}])
def test_a_state_that_is_whole_but_not_understood_is_refused(
    tmp_path: Path, part: str, value: Any
) -> None:
    path = tmp_path / "guard.json"
    lived(path, 4)
    state = state_file.read_state(path)
    assert state is not None
    state_file.write_state(path, {**state, part: value})
    with pytest.raises(GuardStateError, match="its content is not a guard's"):
        bench(state_path=path)


def test_a_folder_is_not_a_state(tmp_path: Path) -> None:
    with pytest.raises(GuardStateError, match="check the path and its permissions"):
        bench(state_path=tmp_path)


def test_a_place_that_cannot_be_written_is_noticed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GuardError, match="cannot"):
        bench(state_path=tmp_path / "file" / "guard.json")


def test_a_full_disk_stops_promotion_but_not_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    world = bench(mode="gradual", state_path=tmp_path / "guard.json")
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "write_atomic", full)
        world.steps(90)
        assert world.path == []
        status = world.guard.status()
        assert status.waiting_for == "the state to be saved"
        assert status.save_error == "OSError: [Errno 28] No space left on device"
        with pytest.raises(GuardError, match=r"cannot save the state to .*No space left"):
            world.guard.save()
    world.steps(2)
    assert world.path == [("gradual", 20.0)]
    assert world.guard.status().save_error is None


def test_saving_needs_a_place() -> None:
    with pytest.raises(GuardError, match="save needs a state_path: give one to the guard"):
        bench().guard.save()


@pytest.mark.skipif(os.name == "nt", reason="a reader may keep Windows from replacing the file")
def test_many_threads(tmp_path: Path) -> None:
    """Every decision is counted once, blocks are whole, and the file is always a state."""
    threads, calls, path = 16, 50, tmp_path / "guard.json"
    config = GuardConfig(
        mode="gradual", start_percentage=50, history_size=100, block_steps=7, save_every=20
    )
    active, most_active = 0, 0

    def policy(observation: int) -> int:
        nonlocal active, most_active
        active += 1
        most_active = max(most_active, active)
        active -= 1
        return observation

    guard = Guard(policy, lambda observation: -observation, config, state_path=path)
    decisions: list[Decision] = []
    problems: list[Exception] = []
    barrier = threading.Barrier(threads)

    def use(first: int) -> None:
        try:
            barrier.wait(timeout=30)
            for number in range(first, first + calls):
                decision = guard.act(number)
                assert decision.policy_action == number == -decision.fallback_action
                guard.report(0.5, decision)
                guard.status()
                decisions.append(decision)
                if number % 10 == 0:
                    assert state_file.read_state(path) is not None
        # Whatever goes wrong in a thread must fail the test.
        except Exception as error:
            problems.append(error)

    workers = [threading.Thread(target=use, args=(1 + calls * each,)) for each in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert problems == []
    assert most_active == 1, "a policy with a memory must not be asked twice at once"
    total = threads * calls
    ordered = sorted(decisions, key=lambda each: each.number)
    assert [each.number for each in ordered] == list(range(total))
    assert [(each.block, each.block_step) for each in ordered] == [
        divmod(number, 7) for number in range(total)
    ]
    assert {each.policy_action for each in ordered} == set(range(1, total + 1))
    status = guard.status()
    assert status.decisions == total
    assert 0 < status.policy_blocks + status.fallback_blocks <= total // 7
