"""No snapshot, however damaged, ends the process or an endless loop: it is refused, or plays on.

Each fuzz is a process of its own; with `-m slow` it runs 20 times as long.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import state_fuzz
from grpo_gym.registration import DESCRIPTORS
from grpo_gym.rollouts.batches import make_batch
from native_cases import CASES, NativeCase, assert_same, some_actions
from state_fuzz import FUZZED

_FUZZ = Path(state_fuzz.__file__)
_IDS = [each.env_id for each in DESCRIPTORS]
PER_CASE = pytest.mark.parametrize("case", FUZZED.values(), ids=FUZZED)


def fuzz(env_id: str, trials: int, timeout_s: float) -> None:
    command = [sys.executable, str(_FUZZ), env_id, str(trials)]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as hang:
        output = (hang.stdout or b"").decode()
        pytest.fail(f"hangs after {output.splitlines()[-1:]}")
    last = run.stdout.splitlines()[-1:]
    assert run.returncode == 0, f"exit status {run.returncode} after {last}: {run.stderr[-2000:]}"
    assert int(last[0].removeprefix("accepted: ")) > trials // 4, "nothing was played"


@pytest.mark.parametrize("env_id", _IDS)
def test_damaged_snapshots_are_refused_or_play_on(env_id: str) -> None:
    fuzz(env_id, trials=42, timeout_s=120)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", _IDS)
def test_many_damaged_snapshots_are_refused_or_play_on(env_id: str) -> None:
    fuzz(env_id, trials=840, timeout_s=1800)


@pytest.mark.parametrize(
    ("env_id", "ours", "theirs"),
    [
        ("Battleship-v0", {}, {"reward": "hits"}),
        ("Battleship-v0", {}, {"repeat_penalty": 0.5}),
        ("Battleship-v0", {"fleet": (3, 2)}, {"fleet": (2, 3)}),
        ("Battleship-v0", {}, {"allow_touch": False}),
        ("AutoScaler-v0", {}, {"reward": "dollars"}),
        ("AutoScaler-v0", {}, {"max_replicas": 101}),
        ("AutoScaler-v0", {}, {"action": "target"}),
        ("LoadBalancer-v0", {}, {"reward": "demo"}),
        ("LoadBalancer-v0", {}, {"timeout_ms": 100.0}),
        ("LoadBalancer-v0", {}, {"error_rates": 0.5}),
    ],
)
def test_a_snapshot_holds_only_for_its_settings(
    env_id: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    env, other = (NativeCase(env_id, settings).single() for settings in (ours, theirs))
    env.reset(seed=0)
    other.reset(seed=0)
    env.set_state(env.get_state())
    with pytest.raises(ValueError, match="environment with the same settings"):
        env.set_state(other.get_state())


def test_recorded_demand_is_known_by_its_numbers_not_its_path(tmp_path: Path) -> None:
    rows = [f"{100 + row}" for row in range(12)]
    for name, lines in {"a": rows, "b": rows, "c": rows[::-1]}.items():
        (tmp_path / name).write_text("\n".join(lines))
    make = [
        NativeCase("AutoScaler-v0", {"demand_csv": str(tmp_path / name), "episode_steps": 9})
        for name in "abc"
    ]
    a, b, c = (case.single() for case in make)
    a.reset(seed=0)
    b.set_state(a.get_state())
    with pytest.raises(ValueError, match="environment with the same settings"):
        c.set_state(a.get_state())


@PER_CASE
def test_every_state_of_an_episode_is_accepted(case: NativeCase) -> None:
    env, other = (case.vector(4, autoreset_mode="Disabled") for _ in range(2))
    env.reset(seed=[1, 2, 1, 3])
    other.reset(seed=8)
    rng = np.random.default_rng(0)
    alive = np.ones(4, np.bool_)
    while alive.any():
        other.set_state(env.get_state())
        actions = some_actions(env, rng)
        result = env.step_alive(actions, alive)
        assert_same(other.step_alive(actions, alive)[:4], result[:4])
        alive &= ~(result[2] | result[3])
    other.set_state(env.get_state())


@PER_CASE
def test_a_refused_snapshot_changes_nothing(case: NativeCase) -> None:
    env = case.vector(2, autoreset_mode="Disabled")
    env.reset(seed=3)
    env.step(some_actions(env, np.random.default_rng(0)))
    before = env.get_state()
    damaged = env.get_state(np.array([0]))
    damaged["episodes"]["step"] = 2**40
    with pytest.raises(ValueError, match=r"state must have .* but that of member 0 has not"):
        env.set_state(damaged, np.array([1]))
    after = env.get_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("members", [[0, 0], [2], [-1], [0.5], [[0]], [True]])
def test_members_are_different_environments(members: Any) -> None:
    env = CASES["Battleship-v0 flat"].vector(2)
    env.reset(seed=0)
    state = env.get_state(np.arange(len(members)))
    with pytest.raises(ValueError, match="members must be"):
        env.set_state(state, np.array(members))


def test_a_game_that_never_began_is_no_state() -> None:
    env = gym.make("Battleship-v0").unwrapped
    other: Any = CASES["Battleship-v0 flat"].single()
    with pytest.raises(ValueError, match="must be an array of shape"):
        other.set_state(env.get_state())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="state must have"):
        other.set_state(other.get_state())


@PER_CASE
def test_branching_takes_the_trusted_path(
    case: NativeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch: Any = make_batch(case.env_id, case.settings, 4)
    batch.reset([1, 2, 3, 4])

    def fail(*_: Any) -> None:
        raise AssertionError("checked")

    monkeypatch.setattr(type(batch.env.simulator), "check_state", fail)
    batch.restore(batch.snapshot(np.array([0])), np.array([[1, 2, 3]]))
    with pytest.raises(AssertionError, match="checked"):
        batch.env.set_state(batch.env.get_state())
