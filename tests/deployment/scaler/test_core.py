"""Decisions: when, by whom, how long they hold, and that no broken metric becomes one."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")
from grpo_gym import GRPO
from grpo_gym.deployment import Guard, GuardConfig
from grpo_gym.deployment.scaler.controllers import make_baseline, make_policy
from grpo_gym.deployment.scaler.core import NoAnswerError, ScalingCore
from grpo_gym.envs.autoscaler.baselines import BASELINES
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.measured import MEASUREMENTS
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.settings import ConfigError
from grpo_gym.storage import CheckpointError
from scaler_world import FULL, MONDAY_NOON_S, READING, Clock, make_core, settings
from sensors import measurements

REAL_BASELINES = [name for name, each in BASELINES.items() if not each.privileged]
BAD = {
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "negative": -1.0, "absurd": 1e13,
    "missing": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy, untrained, for each kind of actions."""
    folder = tmp_path_factory.mktemp("policies")
    kinds: dict[str, dict[str, Any]] = {
        "scaling": {},
        "target": {"preset": "bursty"},
        "replicas": {"action": "replicas", "constraints": False},
    }
    for name, env_kwargs in kinds.items():
        frames = {"frame_history": 3} if name == "target" else {}
        model = GRPO("mlp", "AutoScaler-v0", env_kwargs=env_kwargs, seed=1, **frames)
        model.save(folder / f"{name}.ckpt")
    return {name: folder / f"{name}.ckpt" for name in kinds}


def run(core: ScalingCore, clock: Clock, minutes: int, **changes: float) -> list[int]:
    """The answers of so many decisions."""
    found = []
    for _ in range(minutes):
        core.take({**READING, **changes})
        found.append(core.replicas())
        clock.now_s += 60.0
    return found


# When


def test_there_is_one_decision_an_interval_however_often_metrics_are_read() -> None:
    clock = Clock()
    core = make_core(clock)
    counts = []
    for _ in range(9):  # two minutes, a reading every 15 s
        core.take(READING)
        counts.append(core.status().decisions)
        clock.now_s += 15.0
    assert counts == [1, 1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("late_s", [-7.0, 0.0, 7.0])
def test_readings_a_little_early_or_late_move_no_decision(late_s: float) -> None:
    clock = Clock()
    core = make_core(clock)
    core.take(READING)
    for minute in range(1, 5):
        clock.now_s = clock.now_s + 60.0 + (late_s if minute % 2 else -late_s)
        core.take(READING)
    assert core.status().decisions == 5


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    clock = Clock()
    core = make_core(clock)
    core.take(READING)
    clock.now_s -= 86_400.0
    with pytest.raises(NoAnswerError):
        core.replicas()
    core.take(READING)
    assert core.replicas() == 14


# What


def test_hpa_wants_what_kubernetes_would() -> None:
    """14 replicas at 90 % are 18 at 70 %."""
    core = make_core(policy="hpa", fallback="static_64")
    core.take({**READING, "cpu_percent": 90.0})
    assert core.replicas() == 18
    assert core.guard.history[-1].action == {"change": 4, "replicas": 18}


@pytest.mark.parametrize("name", REAL_BASELINES)
def test_every_baseline_can_be_policy_and_fallback(name: str) -> None:
    clock = Clock()
    core = make_core(clock, policy=name, fallback=name)
    assert all(2 <= found <= 100 for found in run(core, clock, 4))


@pytest.mark.parametrize("kind", ["scaling", "target", "replicas"])
def test_a_trained_policy_acts_as_in_its_environment(
    checkpoints: dict[str, Path], kind: str
) -> None:
    clock = Clock()
    policy = make_policy(str(checkpoints[kind]), {})
    core = make_core(clock, policy=str(checkpoints[kind]))
    for _ in range(3):
        reading = {**READING, "step": core._step(clock.now_s), "cooldown": 0.0}
        wanted = policy(reading)
        core.take(READING)
        assert core.guard.history[-1].policy_action == wanted
        clock.now_s += 300.0 if kind == "scaling" else 60.0


@pytest.mark.parametrize("kind", ["scaling", "target", "replicas", "holt_winters"])
def test_a_day_through_the_scaler_is_a_day_in_the_simulator(
    checkpoints: dict[str, Path], kind: str
) -> None:
    """The same policy in its environment, and through the scaler on a cluster that obeys KEDA."""
    policy = str(checkpoints.get(kind, kind))
    clock = Clock(MONDAY_NOON_S - 43_200.0)
    core = make_core(clock, policy=policy, largest_change_share=100.0)
    simulated = AutoScalerEnv(**vars(core.config))
    real = AutoScalerEnv(**{**vars(core.config), "action": "replicas", "constraints": False})
    observation, _ = simulated.reset(seed=11)
    real.reset(seed=11)
    alone: Any = BASELINES[kind](simulated) if kind in BASELINES else NumpyPolicy.load(policy)
    state: Any = None
    for _ in range(250):
        masks = {} if kind in BASELINES else {"action_masks": simulated.action_masks()}
        action, state = alone.predict(observation, state, **masks)
        observation, *_, info = simulated.step(int(action))
        core.take(measurements(real))
        real.step(core.replicas() - core.config.min_replicas)
        clock.now_s += 60.0
        assert core.replicas() == info["replicas"] + info["pending"]
    assert core.guard.status().violations_in_window == 0
    changes = {each.action["change"] for each in core.guard.history}
    assert len(changes) > 2


def test_an_exported_policy_acts_like_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs the extra export")
    model = GRPO("mlp", "AutoScaler-v0", env_kwargs={"preset": "bursty"}, frame_history=2, seed=2)
    model.save(tmp_path / "policy.ckpt")
    model.export(tmp_path / "policy.safetensors")
    found = []
    for name in ("policy.ckpt", "policy.safetensors"):
        clock = Clock()
        found.append(run(make_core(clock, policy=str(tmp_path / name)), clock, 3))
    assert found[0] == found[1]


def test_a_change_that_is_too_large_becomes_the_largest_allowed_one() -> None:
    core = make_core(policy="static_100", fallback="hpa")
    core.take(READING)
    decision = core.guard.history[-1]
    assert (decision.source, decision.policy_action["replicas"]) == ("alternative", 100)
    assert core.replicas() == 28  # twice as many
    assert [each.constraint for each in decision.violations] == ["maximum_change"]


def test_the_policy_keeps_its_cool_down_and_so_do_the_masks(checkpoints: dict[str, Path]) -> None:
    """The environment allows no change for five steps after one."""
    clock = Clock()
    core = make_core(clock, policy="static", cooldown_seconds=180.0)
    assert run(core, clock, 5) == [28, 14, 14, 28, 14]  # nothing else changes the replicas here
    clock = Clock()
    core = make_core(clock, policy=str(checkpoints["scaling"]))
    left = []
    for _ in range(7):
        left.append(core._cooldown(clock.now_s))
        core.take(READING)
        clock.now_s += 60.0
    changes = [each.action["change"] for each in core.guard.history]
    assert changes[0] != 0
    assert left[:6] == [0, 4, 3, 2, 1, 0]
    assert changes[1:5] == [0, 0, 0, 0]


def test_outcomes_are_rewards_of_the_environment() -> None:
    clock = Clock()
    guard = GuardConfig(mode="gradual", block_steps=4, warmup_steps=1)
    core = make_core(clock, guard=guard, env_kwargs={"reward": "dollars"})
    for decisions in (6, 7, 8, 9):
        clock.now_s += 3_600.0
        core.take({**READING, "error_percent": 50.0})  # long after the last decision
        clock.now_s += 60.0
        run(core, clock, decisions, error_percent=0.0)
    status = core.guard.status()
    means = [each for each in (status.policy_outcome, status.fallback_outcome) if each is not None]
    assert status.policy_blocks + status.fallback_blocks >= 3
    assert means == pytest.approx([-14 * 12.5 / 60.0] * len(means))


def test_steps_are_those_since_monday_in_the_time_zone() -> None:
    core = make_core(time_zone="Europe/Berlin")
    assert core._step(Clock().now_s) == 13 * 60
    assert core._step(Clock().now_s + 29.0) == 13 * 60
    assert core._step(Clock().now_s + 31.0) == 13 * 60 + 1
    assert core._step(Clock().now_s + 6 * 86_400.0) == (6 * 24 + 13) * 60


def test_a_forecast_survives_missing_minutes() -> None:
    """Steps without a reading count as like the next; their demand was not zero."""
    clock = Clock()
    core = make_core(clock, policy="holt_winters")
    for _ in range(1_440):
        if not 200 <= core.status().decisions < 210 or clock.now_s % 600.0 == 0.0:
            core.take(READING)
        clock.now_s += 60.0
    wanted = run(core, clock, 1_440)
    assert set(wanted) == {13}  # 10 replicas' worth at 80 %, rounded up


def test_after_a_long_gap_a_policy_begins_anew() -> None:
    holt_winters = make_baseline("fallback", "holt_winters", make_core().config)
    reading = {**READING, "cooldown": 0.0}
    assert holt_winters({**reading, "step": 10})["replicas"] == 13
    assert holt_winters({**reading, "step": 11, "requests_per_s": 2_000.0})["replicas"] > 30
    assert holt_winters({**reading, "step": 12})["replicas"] > 13  # it was more just now
    assert holt_winters({**reading, "step": 200})["replicas"] == 13


# How long


def test_the_last_decision_holds_for_a_bounded_time() -> None:
    clock = Clock()
    core = make_core(clock, hold_seconds=120.0)
    with pytest.raises(NoAnswerError, match="no decision yet: no metrics have been read yet"):
        core.replicas()
    core.fail("cpu_percent: no series")
    with pytest.raises(NoAnswerError, match="no decision yet: cpu_percent: no series"):
        core.replicas()
    core.take(READING)
    clock.now_s += 180.0
    core.fail("requests_per_s: no series")
    assert core.replicas() == 14
    clock.now_s += 1.0
    with pytest.raises(NoAnswerError, match="decision was 181 s ago: requests_per_s: no series"):
        core.replicas()
    status = core.status()
    assert (status.failures, status.problem, status.age_s) == (2, "requests_per_s: no series", 181)
    core.take(READING)
    assert core.replicas() == 14
    assert core.status().problem is None


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_broken_metric_never_becomes_an_action(
    name: str, bad: str, checkpoints: dict[str, Path]
) -> None:
    clock = Clock()
    core = make_core(clock, policy=str(checkpoints["scaling"]))
    core.take(READING)
    before = core.replicas(), core.status().decisions
    clock.now_s += 60.0
    broken: dict[str, Any] = {**READING, name: BAD[bad]}
    if bad == "missing":
        del broken[name]
    core.take(broken)
    assert (core.replicas(), core.status().decisions) == before
    assert f"{name} must be from 0 to" in (core.problem or "")


def test_limits_of_the_service_make_smaller_values_absurd() -> None:
    core = make_core(limits={"requests_per_s": 500.0})
    core.take(READING)
    assert core.problem == "requests_per_s must be from 0 to 500, got 1000"


@pytest.mark.parametrize("kind", [*REAL_BASELINES, "scaling", "target", "replicas"])
def test_controllers_refuse_what_is_not_finite_and_so_does_a_guard_in_full(
    kind: str, checkpoints: dict[str, Path]
) -> None:
    """Without the core's own check: NaN was 'four replicas fewer' once."""
    config = make_core().config
    policy = make_policy(str(checkpoints.get(kind, kind)), {})
    reading = {**READING, "step": 0.0, "cooldown": 0.0}
    for name in MEASUREMENTS:
        with pytest.raises(ValueError, match=name):
            policy({**reading, name: math.nan})
    guard = Guard(policy, lambda _: {"change": 0, "replicas": 14}, FULL)
    decision = guard.act({**reading, "cpu_percent": math.nan})
    assert (decision.source, decision.action["change"]) == ("fallback", 0)
    assert "must be finite" in decision.violations[0].reason
    fallback = make_baseline("fallback", "hpa", config)
    decision = Guard(policy, fallback, replace(FULL, mode="shadow")).act(reading)
    assert decision.source == "fallback"


def test_a_fallback_that_fails_is_a_failed_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    core = make_core(clock, guard=GuardConfig())
    core.take(READING)

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("no replicas")

    monkeypatch.setattr(BASELINES["hpa"], "predict", broken)
    clock.now_s += 60.0
    core.take(READING)
    assert core.replicas() == 14
    assert "the fallback failed where it was needed: ZeroDivisionError" in (core.problem or "")


# Restarts, targets, and other policies


def test_a_restart_repeats_the_last_decision_until_the_next_is_due(tmp_path: Path) -> None:
    clock = Clock()
    path = str(tmp_path / "guard.json")
    core = make_core(clock, state_path=path)
    core.take({**READING, "cpu_percent": 90.0})
    core.close()
    clock.now_s += 20.0
    core = make_core(clock, state_path=path)
    assert core.replicas() == 18
    core.take(READING)
    assert core.status().decisions == 1
    clock.now_s += 40.0
    core.take(READING)
    assert core.status().decisions == 2
    core.close()
    clock.now_s += 3_600.0
    core = make_core(clock, state_path=path)
    with pytest.raises(NoAnswerError):
        core.replicas()
    core.close()


@pytest.mark.parametrize("requests", [0.0, 3.0, 999.0, 1_000.0, 1_001.0, 54_321.0])
@pytest.mark.parametrize("cpu", [20.0, 70.0, 95.0])
def test_a_target_leads_to_the_replicas_decided_by_kubernetes_formula(
    requests: float, cpu: float
) -> None:
    core = make_core(answer="target")
    core.take({**READING, "requests_per_s": requests, "cpu_percent": cpu})
    # In thousandths, as Kubernetes counts.
    target, load = round(core.target_percent(), 3), round(core.load_percent(), 3)
    desired = math.ceil(load / target)
    assert desired == (core.replicas() if requests else 0)
    status = core.status()
    assert (status.replicas, status.target) == (core.replicas(), core.target_percent())


def test_between_decisions_the_load_follows_the_metrics_and_the_target_does_not() -> None:
    clock = Clock()
    core = make_core(clock, answer="target")
    core.take(READING)
    target = core.target_percent()
    assert core.load_percent() == pytest.approx(1_000.0)
    clock.now_s += 15.0
    core.take({**READING, "requests_per_s": 1_500.0})
    assert core.load_percent() == pytest.approx(1_500.0)
    assert core.target_percent() == target
    assert math.ceil(core.load_percent() / target) == 21  # half as many again


def test_another_policy_takes_over_and_one_that_does_not_fit_does_not(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    core = make_core(policy="hpa")
    core.swap_policy("static_25")
    core.take(READING)
    assert core.replicas() == 25
    assert core.status().policy == "static_25"
    model = GRPO("linear", "AutoScaler-v0", env_kwargs={"step_seconds": 30})
    model.save(tmp_path / "faster.ckpt")
    with pytest.raises(ConfigError, match="policy must have step_seconds = 60, got 30"):
        core.swap_policy(str(tmp_path / "faster.ckpt"))
    with pytest.raises(ConfigError, match=r"got 'statik'\. Did you mean"):
        core.swap_policy("statik")
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError):
        core.swap_policy(str(tmp_path / "bad.ckpt"))
    assert core.status().policy == "static_25"


def test_a_runs_folder_stands_for_its_best_checkpoint(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="must be a run's folder with a checkpoint"):
        make_core(policy=str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for name, kind in (("latest", "scaling"), ("best", "target")):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_bytes(checkpoints[kind].read_bytes())
    assert make_core(policy=str(tmp_path)).config.action == "target"


def test_policies_that_cannot_scale_are_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def make(**changes: Any) -> None:
        make_core(**changes)

    with pytest.raises(ConfigError, match=r"policy must be one of .*, which knows the future"):
        make(policy="clairvoyant")
    with pytest.raises(ConfigError, match=r"fallback must be one of .*, got 'hpa_71'"):
        make(fallback="hpa_71")
    with pytest.raises(ConfigError, match=r"action_space Discrete.99. of these env_kwargs"):
        make(policy=str(checkpoints["scaling"]), env_kwargs={"action": "replicas"})
    with pytest.raises(ConfigError, match=r"observation_space .* of these env_kwargs"):
        make(policy=str(checkpoints["scaling"]), env_kwargs={"observe_time": False})
    with pytest.raises(ConfigError, match="action must be one of scaling, replicas, target"):
        model = GRPO("linear", "AutoScaler-v0", env_kwargs={"action": "flat"})
        model.save(tmp_path / "flat.ckpt")
        make(policy=str(tmp_path / "flat.ckpt"))
    with pytest.raises(ConfigError, match="policy must be one of AutoScaler-v0"):
        model = GRPO("linear", "LoadBalancer-v0")
        model.save(tmp_path / "router.ckpt")
        make(policy=str(tmp_path / "router.ckpt"))


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deployment": "Web"}, "deployment"),
        ({"deployment": 'web"}'}, "deployment"),
        ({"queries": {"cpu": "1"}}, "queries must be by measurement, got 'cpu'"),
        ({"limits": {"cpu": 1.0}}, "limits must be by measurement, got 'cpu'"),
        ({"prometheus": "localhost:9090"}, r"prometheus must be http://HOST\[:PORT\], got"),
        ({"prometheus": "http://[::1"}, r"prometheus must be http://HOST\[:PORT\], got"),
        ({"time_zone": "Mars/Olympus"}, "time_zone must be a name such as Europe/Berlin"),
        ({"time_zone": "../etc/passwd"}, "time_zone must be a name such as Europe/Berlin"),
        ({"hold_seconds": -1.0}, "hold_seconds"),
        ({"answer": "pods"}, "answer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)
