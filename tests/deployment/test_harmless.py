"""A policy can neither change what others see, nor hold up or end the process that asks it."""

import contextvars
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from grpo_gym.deployment import Guard, GuardConfig, GuardStateError, state_file
from grpo_gym.deployment.deadline import DeadlineCall, DeadlineError
from grpo_gym.settings import ConfigError
from guard_bench import Forbidden

MODES = pytest.mark.parametrize("mode", ["shadow", "full"])
EVERYWHERE: dict[str, Any] = {"holdout_percentage": 0}


class Readings(NamedTuple):
    used: np.ndarray
    names: list[str]


def spoil(value: Any) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, np.ndarray):
        for item in value.flat if value.dtype == object else ():
            spoil(item)
        value[...] = -1
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value.clear()
    elif isinstance(value, (list, tuple)):
        for item in value:
            spoil(item)
        if isinstance(value, list):
            value.clear()
    elif isinstance(value, SimpleNamespace):
        spoil(value.__dict__)


OBSERVATIONS: list[Callable[[], Any]] = [
    lambda: np.arange(6.0).reshape(2, 3),
    lambda: np.arange(12)[::2],
    lambda: {"replicas": np.ones(3), "inner": {"list": [1, [2]]}},
    lambda: (np.zeros(2), [1, 2], {"a": [3]}),
    lambda: Readings(np.ones(2, np.int8), ["a"]),
    lambda: np.array([[1], {"a": [2]}], dtype=object),
    lambda: SimpleNamespace(load=[1.0], inner={"x": np.ones(1)}),
]


@MODES
@pytest.mark.parametrize("number", range(len(OBSERVATIONS)))
def test_what_the_policy_changes_nobody_sees(number: int, mode: Any) -> None:
    seen: list[str] = []

    def look(observation: Any, *_: Any) -> Any:
        seen.append(repr(observation))
        return ()

    class Look:
        name = "look"

        def __call__(self, observation: Any, action: Any, context: Any) -> bool:
            look(observation)
            return False

    def policy(observation: Any) -> int:
        spoil(observation)
        return 1

    def fallback(observation: Any) -> int:
        look(observation)
        return 0

    config = GuardConfig(mode=mode, **EVERYWHERE)
    guard = Guard(policy, fallback, config, constraints=[Look()], alternatives=look)
    observation = OBSERVATIONS[number]()
    before = repr(observation)
    guard.act(observation)
    assert len(seen) == (3 if mode == "full" else 2)
    assert {*seen, repr(observation)} == {before}


def test_what_cannot_be_copied_the_policy_never_gets() -> None:
    asked: list[Any] = []
    guard = Guard(asked.append, lambda lock: 3, GuardConfig(mode="full", **EVERYWHERE))
    lock = threading.Lock()
    decision = guard.act(lock)
    assert (decision.action, decision.source, asked) == (3, "fallback", [])
    assert "the observation cannot be copied: TypeError" in decision.violations[0].reason


@pytest.mark.parametrize("deadline_ms", [None, 60_000.0])
def test_a_policy_that_ends_the_process_does_not(deadline_ms: float | None) -> None:
    config = GuardConfig(mode="full", policy_deadline_ms=deadline_ms, **EVERYWHERE)
    decision = Guard(lambda observation: sys.exit(0), lambda observation: 3, config).act(1)
    assert (decision.action, decision.violations[0].reason) == (3, "SystemExit: 0")


class Hanging:
    """Acts at once, until it is told to hang."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.calls = 0

    def __call__(self, observation: Any) -> int:
        self.calls += 1
        assert self.go_on.wait(timeout=60.0)
        return 1


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    policy = Hanging()
    yield policy
    policy.go_on.set()


def guard_of(policy: Any, **settings: Any) -> Guard:
    config = GuardConfig(**{"mode": "full", "policy_deadline_ms": 50.0, **EVERYWHERE, **settings})
    return Guard(policy, lambda observation: 0, config, constraints=[Forbidden(-1)])


def test_a_policy_that_hangs_is_left_alone_until_it_returns(hanging: Hanging) -> None:
    guard = guard_of(hanging, missed_deadline_limit=100, window=1000)
    assert guard.act(0).action == 1
    threads = set(threading.enumerate())
    hanging.go_on.clear()
    begun = time.monotonic()
    first, *others = [guard.act(0) for _ in range(20)]
    assert time.monotonic() - begun < 5.0, "only the first one has to wait"
    assert first.violations[0].reason == "no action within 50 ms"
    assert all("busy with an earlier observation" in d.violations[0].reason for d in others)
    assert {(d.source, d.action, d.policy_action) for d in [first, *others]} == {
        ("fallback", 0, None)
    }
    assert hanging.calls == 2
    assert set(threading.enumerate()) <= threads
    status = guard.status()
    assert (status.missed_deadlines, status.violations_in_window) == (20, 20)
    hanging.go_on.set()
    deadline = time.monotonic() + 30.0
    while guard.act(0).source != "policy" and time.monotonic() < deadline:
        time.sleep(0.001)
    assert guard.act(0).action == 1


def test_hanging_again_and_again_costs_one_thread() -> None:
    """It returns too late each time, so it is asked each time."""
    threads = set(threading.enumerate())
    guard = guard_of(lambda observation: time.sleep(0.03), policy_deadline_ms=1.0)
    for _ in range(10):
        guard.act(0)
        time.sleep(0.05)
    assert len(set(threading.enumerate()) - threads) == 1
    assert guard.status().missed_deadlines == 10
    assert guard.mode == "shadow"


@pytest.mark.parametrize("limit", [1, 3])
def test_missing_it_several_times_in_a_row_rolls_back(hanging: Hanging, limit: int) -> None:
    guard = guard_of(hanging, missed_deadline_limit=limit)
    hanging.go_on.clear()
    for _ in range(limit - 1):
        guard.act(0)
    assert guard.mode == "full"
    assert guard.act(0).source == "fallback"
    assert (guard.mode, guard.transitions[-1].by) == ("shadow", "guard")
    assert guard.transitions[-1].reason == f"no action in time, {limit} times in a row"


def test_an_action_in_time_begins_the_count_again() -> None:
    naps = iter([0.5, 0.0] * 3)

    def policy(observation: Any) -> int:
        time.sleep(next(naps))
        return 1

    guard = guard_of(policy, missed_deadline_limit=2)
    for _ in range(3):
        assert guard.act(0).source == "fallback"
        time.sleep(0.6)
        assert guard.act(0).source == "policy"
    assert (guard.mode, guard.status().missed_deadlines) == ("full", 3)


def test_an_operator_may_try_it_again_and_misses_are_kept(hanging: Hanging, tmp_path: Path) -> None:
    def start(policy: Any) -> Guard:
        config = GuardConfig(mode="full", policy_deadline_ms=50.0, **EVERYWHERE)
        return Guard(policy, lambda observation: 0, config, state_path=tmp_path / "guard.json")

    hanging.go_on.clear()
    with start(hanging) as guard:
        for _ in range(3):
            guard.act(0)
        assert guard.status().mode == "shadow"
        guard.set_mode("full")
        guard.act(0)
        guard.act(0)
        assert guard.status().mode == "full"
    with start(hanging) as guard:
        assert guard.status().missed_deadlines == 5
        guard.act(0)
        assert guard.mode == "shadow", "a restart does not begin the count again"


def test_without_a_deadline_it_runs_in_the_callers_thread() -> None:
    guard = guard_of(lambda observation: threading.get_ident(), policy_deadline_ms=None)
    assert guard.act(0).action == threading.get_ident()
    guard = guard_of(lambda observation: threading.get_ident())
    assert guard.act(0).action == guard.act(0).action != threading.get_ident()


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), 1e9, "soon"])
def test_a_deadline_is_a_sensible_number(value: Any) -> None:
    with pytest.raises(ConfigError, match="policy_deadline_ms must be"):
        GuardConfig(policy_deadline_ms=value)


def test_a_model_keeps_its_state_when_it_is_late() -> None:
    class Slow:
        naps = iter([0.0, 0.3, 0.0])

        def predict(self, observation: Any, state: Any, deterministic: bool) -> tuple[int, int]:
            time.sleep(next(self.naps))
            return (state or 0) + 1, (state or 0) + 1

    guard = guard_of(Slow())
    assert guard.act(0).action == 1
    assert guard.act(0).source == "fallback"
    time.sleep(0.5)
    assert guard.act(0).action == 3


# The thread


def test_calls_see_the_callers_context_and_raise_what_is_raised() -> None:
    request = contextvars.ContextVar("request", default="none")
    call = DeadlineCall(lambda number: (request.get(), 1 / number), 60_000.0)
    request.set("seven")
    assert call(2) == ("seven", 0.5)
    with pytest.raises(ZeroDivisionError):
        call(0)
    assert call(4) == ("seven", 0.25)


def test_an_interrupted_wait_counts_as_busy() -> None:
    go_on = threading.Event()
    call = DeadlineCall(lambda number: go_on.wait(60.0), 60_000.0)

    class Interrupted(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupted

    import signal

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(Interrupted):
            call(1)
        with pytest.raises(DeadlineError, match="busy"):
            call(2)
    finally:
        signal.signal(signal.SIGALRM, before)
        go_on.set()


def test_the_thread_ends_with_its_guard() -> None:
    before = set(threading.enumerate())
    guards = [guard_of(lambda observation: 1) for _ in range(5)]
    for guard in guards:
        guard.act(0)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 5
    del guards, guard
    gc.collect()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads, as servers do
def test_a_fork_acts_and_does_not_save(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    config = GuardConfig(policy_deadline_ms=30_000.0)
    guard = Guard(lambda observation: 1, lambda observation: 0, config, state_path=path)
    guard.act(0)
    saved = path.read_bytes()
    if (child := os.fork()) == 0:
        decision = guard.act(0)
        error = guard.status().save_error or ""
        fine = decision.policy_action == 1 and "fork" in error and path.read_bytes() == saved
        os._exit(not fine)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    guard.act(0)
    assert guard.status().save_error is None
    guard.close()


HANG_AT_EXIT = """
import sys, time
from grpo_gym.deployment import Guard, GuardConfig
guard = Guard(lambda o: time.sleep(600), lambda o: 0, GuardConfig(policy_deadline_ms=20))
print(guard.act(0).action)
"""


def test_a_hanging_policy_does_not_keep_the_process_from_ending() -> None:
    command = [sys.executable, "-c", HANG_AT_EXIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# One guard for one file

OTHER_GUARD = """
import sys, time
from grpo_gym.deployment import Guard
guard = Guard(lambda o: 1, lambda o: 0, state_path=sys.argv[1])
print("ready", flush=True)
time.sleep(600)
"""


def test_two_guards_never_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    command = [sys.executable, "-c", OTHER_GUARD, str(path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        with pytest.raises(GuardStateError, match=rf"guard.json is in use by process {other.pid}"):
            Guard(lambda o: 1, lambda o: 0, state_path=path)
    finally:
        other.kill()
        other.wait()
    with Guard(lambda o: 1, lambda o: 0, state_path=path) as guard:
        guard.set_mode("gradual")
        with pytest.raises(GuardStateError, match="in use by this process"):
            Guard(lambda o: 1, lambda o: 0, state_path=path)
    guard.act(0)
    assert "closed" in (guard.status().save_error or "")
    state = state_file.read_state(path)
    assert state is not None and state["decisions"] == 0
    with Guard(lambda o: 1, lambda o: 0, state_path=path) as again:
        assert again.mode == "gradual"
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_from_before_deadlines_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    with Guard(lambda o: 1, lambda o: 0, state_path=path) as guard:
        guard.set_mode("gradual")
    state = json.loads(path.read_text())["state"]
    for name in ("policy_deadline_ms", "missed_deadline_limit"):
        del state["config"][name]
    for name in ("missed", "missed_in_a_row"):
        del state["rollout"][name]
    state_file.write_state(path, state)
    with Guard(lambda o: 1, lambda o: 0, state_path=path) as guard:
        assert (guard.mode, guard.status().missed_deadlines) == ("gradual", 0)
