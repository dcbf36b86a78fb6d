"""Random picks in shadow and their log: estimates from it, and that no request waits for it."""

import json
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_gym.cli.guard import _probabilities
from grpo_gym.cli.main import main
from grpo_gym.deployment import QuickAlarmConfig
from grpo_gym.deployment.routing import RoutingConfig, exploration
from grpo_gym.deployment.shadow_log import ShadowLog, read_log
from grpo_gym.settings import ConfigError
from grpo_gym.storage.claims import claim_file
from routing_bench import Bench, Script, bench, endpoints

SERVICE_MS = 20.0
MEAN_MS = {"a": (10.0, 60.0), "b": (40.0, 20.0), "c": (25.0, 10.0), "d": (30.0, 30.0)}
"""Mean latencies in even and odd turns, whatever was chosen before."""
ERRORS = {"a": 0.0, "b": 0.0, "c": 0.1, "d": 0.3}


def exploring(path: Path, policy: Any, share: float = 0.3, **settings: Any) -> Bench:
    """A bench in shadow with a log."""
    guard = {"mode": "shadow"} | settings.pop("guard", {})
    return bench(
        policy, choice_log=path, exploration=share, guard=guard, service_ms=SERVICE_MS,
        consecutive_errors=10**6, error_period_requests=10**6, **settings,
    )  # fmt: skip


class Turns(Script):
    """Prefers a, then c, in even turns; in odd ones d, then b."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0

    def preferred(self) -> str:
        return "acbd" if self.turn % 2 == 0 else "dbac"

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        names = [each.name for each in self.fleet.endpoints]
        return np.array([-float(self.preferred().index(name)) for name in names])


def play(world: Bench, policy: Turns, requests: int, seed: int) -> float:
    """Requests one after the other, some of which may not go to a; what the policy would earn."""
    chance = np.random.default_rng(seed)
    earned = 0.0
    for number in range(requests):
        policy.turn = number
        excluded = {"a"} if number % 4 == 0 else set()
        pick = world.pick(exclude=excluded)
        name = pick.endpoints[0]
        world.now_s += chance.exponential(MEAN_MS[name][number % 2]) / 1_000.0
        world.core.finish(pick.token, ok=chance.random() >= ERRORS[name])
        known = {each.name for each in world.core.endpoints} - excluded
        best = next(each for each in policy.preferred() if each in known)
        earned -= MEAN_MS[best][number % 2] / SERVICE_MS + 7.5 * ERRORS[best]
    return earned


@pytest.mark.parametrize("changing", [False, True])
def test_the_estimate_is_right_where_choices_have_no_consequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changing: bool
) -> None:
    path, policy = tmp_path / "choices.jsonl", Turns()
    world = exploring(path, policy)
    with world.core:
        truth = play(world, policy, 2_000, seed=1)
        if changing:  # places of endpoints move
            world.core.remove("b")
        truth += play(world, policy, 2_000, seed=2)
    truth /= 4_000
    capsys.readouterr()
    assert main(["guard", "estimate", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 4_000
    assert result["mean_weight"] == pytest.approx(1.0, abs=0.1)
    for name in ("inverse_propensity", "self_normalised", "doubly_robust"):
        assert result[name]["low"] <= truth <= result[name]["high"], name
    # What was logged is something else.
    assert changing or not result["logged"]["low"] <= truth <= result["logged"]["high"]


def test_the_logged_policy_is_the_one_that_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    world = exploring(path, "pretrained:router", 0.1)
    chance = np.random.default_rng(0)
    waiting: list[int] = []
    for number in range(400):
        world.now_s += chance.exponential(0.008)
        waiting.append(world.pick(exclude={"b"} if number % 5 == 0 else ()).token)
        if len(waiting) > chance.integers(1, 9):
            world.core.finish(waiting.pop(int(chance.integers(len(waiting)))), ok=True)
    world.core.close()
    log = read_log(path)
    assert log.policy is not None and log.allowed is not None
    checkpoint = Path(str(files("grpo_gym.trainers"))) / "pretrained" / "router.ckpt"
    sampled = _probabilities(checkpoint, log, stochastic=True)
    masked = np.array([each is not None for each in log.allowed])
    assert 50 < masked.sum() < 100
    assert (sampled[masked][:, 1] == 0.0).all() and (log.policy[masked][:, 1] == 0.0).all()
    assert sampled.sum(axis=1) == pytest.approx(np.ones(len(log)))
    likeliest = sampled == sampled.max(axis=1, keepdims=True)
    # Of equal ones the core takes the one that has waited longest.
    assert (likeliest & (log.policy > 0.0))[~masked].any(axis=1).all()
    assert (likeliest & (log.policy > 0.0))[masked].any(axis=1).mean() > 0.9


def test_only_choices_of_the_core_in_shadow_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    world = exploring(path, Script(0), 1.0)
    world.one()
    world.core.finish(world.pick(at="b").token, ok=True)  # somebody else's choice
    world.core.cancel(world.pick().token)
    world.pick()
    world.now_s += 1_000.0  # it is forgotten
    world.core.guard.set_mode("full")
    assert [world.one() for _ in range(20)] == ["a"] * 20
    world.core.guard.set_mode("shadow")
    world.one()
    world.core.close()
    log = read_log(path)
    assert len(log) == 2
    assert log.propensities.tolist() == [0.25, 0.25]
    assert log.policy is not None and (log.policy[:, 0] == 1.0).all()


def test_where_the_policy_fails_the_fallback_would_act(tmp_path: Path) -> None:
    class Broken(Script):
        def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
            raise RuntimeError("broken")

    path = tmp_path / "choices.jsonl"
    world = exploring(path, Broken(), 0.5)
    for _ in range(40):
        world.one()
    world.core.close()
    log = read_log(path)
    assert log.policy is not None
    fallbacks = log.propensities > 0.5
    assert (log.policy.argmax(axis=1) == log.actions).tolist() == fallbacks.tolist()


def test_the_guard_hears_of_the_fallbacks_choices_only(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    world = exploring(path, Script(0), 0.5, guard={"quick_alarm": QuickAlarmConfig()})
    for _ in range(200):
        world.one()
    status = world.core.status()
    world.core.close()
    propensities = read_log(path).propensities
    assert set(propensities.tolist()) == {0.125, 0.625}
    assert status.guard.quick_alarm is not None
    assert status.guard.quick_alarm.fallback_requests == (propensities == 0.625).sum()
    assert 80 < status.guard.quick_alarm.fallback_requests < 170


def test_no_request_waits_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(ShadowLog, "write", lambda *_: answers.wait())
    monkeypatch.setattr(exploration, "_MOST_WAITING", 5)
    monkeypatch.setattr(exploration, "_PATIENCE_S", 0.1)
    world = exploring(tmp_path / "choices.jsonl", Script(0))
    try:
        for _ in range(50):
            world.one()
        log = world.core.status().choice_log
        assert log is not None and log.dropped in (44, 45)  # one may have left the queue
        began_s = time.monotonic()
        world.core.close()
        assert time.monotonic() - began_s < 5.0
    finally:
        answers.set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exploration, "claim_file", lambda _: claim_file(tmp_path / "claim"))
    world = exploring(Path("/dev/full"), Script(0))
    for _ in range(20):
        world.one()
    world.core.close()
    world.core.close()
    assert "the last rows of /dev/full are lost: " in caplog.text


def test_a_log_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    for settings in ({"choice_log": path}, {"exploration": 0.1}):
        with pytest.raises(ConfigError, match="choice_log and exploration must be set together"):
            RoutingConfig(**settings)
    with pytest.raises(ConfigError, match="choice_log must be a file that can be written"):
        exploring(tmp_path, Script(0))
    world = exploring(path, Script(0))
    with pytest.raises(ConfigError, match=r"choice_log cannot be used: .*in use by"):
        exploring(path, Script(0))
    world.core.close()
    exploring(path, Script(0)).core.close()


def test_what_cannot_start_leaves_the_log_to_others(tmp_path: Path) -> None:
    path, state = tmp_path / "choices.jsonl", tmp_path / "guard.json"
    state.write_text("damaged")
    with pytest.raises(RuntimeError, match="damaged"):
        exploring(path, Script(0), state_path=state)
    exploring(path, Script(0)).core.close()


def test_a_core_without_a_log_has_no_thread() -> None:
    world = bench(endpoints=endpoints(2))
    world.one()
    assert world.core.status().choice_log is None
    assert "choice log" not in [each.name for each in threading.enumerate()]
