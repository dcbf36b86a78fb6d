"""Every number of a step against a slow reference in plain Python, and invariants."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler_reference import CHANGES, Cluster
from grpo_gym.envs.autoscaler.actions import ALL_TRAFFIC, NO_CHANGE, decode, encode
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.service import batch_fill, slowdown
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv

VARIANTS: dict[str, dict[str, Any]] = {
    "calm": {"action": "scaling"},
    "overloaded": {
        "preset": "flash-crowd", "bursts_per_day": 100, "max_replicas": 40, "action": "multi",
        "constraints": True, "reward": "dollars", "cooldown_steps": 2,
    },
    "batches": {
        "action": "scaling_config", "batch_size": 16, "timeout_s": 1.0, "concurrency": 8,
        "retry_share": 0.7, "service_scv": 2.5, "initial_utilisation": 1.0,
    },
    "two regions": {"action": "flat", "constraints": False, "start_up_steps": 0},
    "small": {
        "action": "multi", "base_demand": 250.0, "max_replicas": 6, "min_replicas": 1,
        "step_seconds": 15.0, "start_up_steps": 6, "largest_change_share": 0.0,
        "largest_change_replicas": 1, "batch_wait_ms": 20.0, "contention": 0.2,
    },
    "absolute": {"action": "replicas", "bursts_per_day": 40, "constraints": False},
    "absolute, with constraints": {"action": "replicas", "cooldown_steps": 1},
}  # fmt: skip


def drive(env: AutoScalerEnv, rng: np.random.Generator) -> tuple[Any, tuple[int, int, float]]:
    """A random action, and the replicas, configuration and share that it asks for."""
    if env.config.action == "replicas":
        total = env.simulator.clusters["running"][0] + env.simulator.clusters["pending"][0]
        action = rng.integers(env.config.max_replicas - env.config.min_replicas + 1)
        return action, (int(action) + env.config.min_replicas - int(total), 6, 1.0)
    choices = np.array([rng.integers(7), rng.integers(7), rng.integers(11)])
    if rng.random() < 0.5:
        choices[2] = ALL_TRAFFIC
    number = encode(env.config.action, choices)
    change, configuration, share = decode(env.config.action, number)
    return number, (CHANGES[change], int(configuration), share / 10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_against_the_reference(variant: str) -> None:
    env = AutoScalerEnv(**VARIANTS[variant], episode_steps=300)
    seen: dict[str, list[float]] = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        info = env.reset(seed=seed)[1]
        cluster = Cluster(env.config, info["replicas"])
        for name, value in cluster.serve(
            info["demand"]
        ).items():  # the measurements before the first step
            if name in info and name != "backlog":
                assert info[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        cluster.backlog = cluster.retries = 0.0
        for step in range(300):
            action, wanted = drive(env, rng)
            _, reward, terminated, truncated, info = env.step(action)
            expected = cluster.step(*wanted, info["demand"])
            assert reward == pytest.approx(expected.pop("reward"), rel=1e-6, abs=1e-9)
            for name, value in expected.items():
                assert info[name] == pytest.approx(value, rel=1e-6, abs=1e-7), (step, name)
                seen.setdefault(name, []).append(value)
            assert set(info) - set(expected) <= {"action_mask"}
            assert not terminated
            assert truncated == (step == 299)
    assert max(seen["pending"]) > 0 or env.config.start_up_steps == 0
    if variant == "overloaded":
        for name in ("dropped", "retried", "timed_out", "overflow", "backlog"):
            assert max(seen[name]) > 1.0, name


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    base_demand=st.floats(1.0, 2e4),
    retry_share=st.floats(0.0, 1.0),
    batch=st.sampled_from([1, 4, 32]),
    timeout=st.sampled_from([0.25, 1.0, 4.0]),
    bursts=st.sampled_from([0.0, 50.0]),
)
def test_every_request_is_accounted_for(
    seed: int, base_demand: float, retry_share: float, batch: int, timeout: float, bursts: float
) -> None:
    env = AutoScalerVectorEnv(
        4, action="multi", episode_steps=60, base_demand=base_demand, retry_share=retry_share,
        batch_size=batch, timeout_s=timeout, bursts_per_day=bursts,
    )  # fmt: skip
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    backlog = np.zeros(4)
    retries = np.zeros(4)
    for _ in range(60):
        infos = env.step(rng.integers(0, [7, 7, 11], (4, 3)))[4]
        np.testing.assert_allclose(infos["arrivals"], infos["demand"] * 60.0, rtol=1e-12)
        # Summed exactly, so that only the parts are rounded.
        for b in range(4):
            into = [infos[name][b] for name in ("arrivals", "retried")] + [backlog[b]]
            out = [
                infos[name][b]
                for name in ("served", "failed", "timed_out", "dropped", "overflow", "backlog")
            ]
            assert min(out) >= 0.0
            assert math.fsum(out) == pytest.approx(math.fsum(into), rel=1e-12)
        np.testing.assert_allclose(infos["retried"], retries, rtol=1e-9, atol=1e-9)
        backlog, retries = infos["backlog"], infos["dropped"] * retry_share


def test_start_up_and_order_of_removal() -> None:
    env = AutoScalerEnv(
        "constant", action="replicas", constraints=False, start_up_steps=3, initial_replicas=10
    )
    env.reset(seed=0)
    wanted = [14, 14, 20, 17, 8, 8, 9, 9, 9, 9]
    infos = [env.step(n - 2)[4] for n in wanted]
    assert [info["replicas"] for info in infos] == [10, 10, 10, 14, 8, 8, 8, 8, 8, 9]
    # Of 4 + 6 that start up the first 4 have come up when 3 of the 6 go again.
    assert [info["pending"] for info in infos] == [4, 4, 10, 3, 0, 0, 1, 1, 1, 0]
    costs = [info["cost_dollars"] for info in infos]
    np.testing.assert_allclose(costs, np.array(wanted) * 12.5 / 60.0)


def test_a_cooldown_counts_from_change_to_change() -> None:
    env = AutoScalerEnv("constant", cooldown_steps=5)
    env.reset(seed=0)
    infos = [env.step(4)[4] for _ in range(17)]
    total = [info["replicas"] + info["pending"] for info in infos]
    changed = np.flatnonzero(np.diff([total[0] - 1, *total]))
    assert changed.tolist() == [0, 5, 10, 15]
    assert [info["constrained"] for info in infos] == [step % 5 != 0 for step in range(17)]


def test_constant_demand_is_a_fixed_point() -> None:
    """With constant demand, a cluster that is left alone does not change."""
    env = AutoScalerEnv("constant", base_demand=1_234.0)
    env.reset(seed=0)
    first, *others = [env.step(NO_CHANGE)[4] for _ in range(30)]
    for info in others:
        for name in ("served", "p99_latency_ms", "replicas", "reward_efficiency", "cpu_percent"):
            assert info[name] == first[name]


def constant(**settings: Any) -> dict[str, Any]:
    env = AutoScalerEnv("constant", **settings)
    env.reset(seed=0)
    info: dict[str, Any] = env.step(NO_CHANGE)[4]
    return info


def test_the_neutral_configuration_is_the_simple_cluster() -> None:
    """25 replicas of 4 servers of 25 requests/s at 80 %: M/M/100."""
    info = constant(initial_replicas=25)
    assert info["cpu_percent"] == pytest.approx(80.0)
    assert info["memory_percent"] == pytest.approx(54.0)
    assert info["p50_latency_ms"] == pytest.approx(40.0 * math.log(2.0), rel=0.02)
    assert slowdown(4, 0.05, 0.01) == 1.0
    assert batch_fill(1.0, 80.0, 0.1) == (1.0, 0.0)


def test_batches_trade_latency_for_capacity() -> None:
    infos = [constant(initial_replicas=25, batch_size=b) for b in (1, 2, 4, 8)]
    latency = [info["p50_latency_ms"] for info in infos]
    cpu = [info["cpu_percent"] for info in infos]
    assert latency == sorted(latency)
    assert cpu == sorted(cpu, reverse=True)
    # 80 requests/s fill a batch of 8 in 87.5 ms, less than the 100 that it waits at most.
    assert batch_fill(8.0, 80.0, 0.1) == pytest.approx((8.0, 0.0875))
    assert cpu[3] == pytest.approx(100 * 2000 / (100 * 8 / 0.110))
    # 40 requests/s do not: it goes with 5.
    assert batch_fill(8.0, 40.0, 0.1) == pytest.approx((5.0, 0.1))


def test_concurrency_trades_speed_for_capacity_up_to_a_point() -> None:
    workers = (1, 2, 3, 4, 6, 8, 12)
    infos = [constant(initial_replicas=90, concurrency=n) for n in workers]
    latency = [info["p50_latency_ms"] for info in infos]
    cpu = [info["cpu_percent"] for info in infos]
    assert latency == sorted(latency)
    assert cpu[:6] == sorted(cpu[:6], reverse=True)
    assert cpu[6] > cpu[5], "beyond the peak more workers do less"
    # The peak of Gunther's law is at sqrt((1 - contention) / coherency).
    throughput = [n / slowdown(n, 0.05, 0.01) for n in range(1, 20)]
    assert int(np.argmax(throughput)) + 1 == round(math.sqrt(0.95 / 0.01))


def test_shorter_timeouts_trade_errors_for_latency() -> None:
    infos = [constant(initial_replicas=21, timeout_s=t) for t in (0.25, 0.5, 1.0, 2.0, 4.0)]
    errors = [info["error_percent"] for info in infos]
    latency = [info["p99_latency_ms"] for info in infos]
    assert errors == sorted(errors, reverse=True)
    assert latency == sorted(latency)
    assert latency[0] <= 250.0
    assert errors[-1] == pytest.approx(0.02, abs=1e-6), "4 s are no limit"


def test_traffic_in_the_second_region_costs_more_and_is_slower() -> None:
    env = AutoScalerEnv("constant", action="multi", initial_replicas=30)
    env.reset(seed=0)
    infos = [env.step(np.array([NO_CHANGE, 6, share]))[4] for share in range(11)]
    assert [info["p50_latency_ms"] for info in infos] == sorted(
        (info["p50_latency_ms"] for info in infos), reverse=True
    )
    assert infos[0]["p50_latency_ms"] == pytest.approx(60.0 + 40.0 * math.log(2.0))
    assert infos[0]["p99_latency_ms"] == pytest.approx(60.0 + 40.0 * math.log(100.0))
    assert infos[0]["cpu_percent"] == 0.0
    for share, info in enumerate(infos):
        assert info["overflow"] == pytest.approx(120_000 * (1 - share / 10))
        remote = (1 - share / 10) * 120_000 * 60e-6
        assert info["cost_dollars"] == pytest.approx(30 * 12.5 / 60 + remote)


def test_an_overloaded_cluster_fills_its_backlog_and_drops_the_rest() -> None:
    """2,000 requests/s for 1,600: the backlog is one second of work; then 400/s are dropped."""
    env = AutoScalerEnv("constant", initial_replicas=16, retry_share=0.0)
    env.reset(seed=0)
    first, second = (env.step(NO_CHANGE)[4] for _ in range(2))
    assert first["backlog"] == second["backlog"] == pytest.approx(1_600)
    assert first["dropped"] == pytest.approx(400 * 60 - 1_600)
    assert second["dropped"] == pytest.approx(400 * 60)
    assert second["cpu_percent"] == 100.0
    assert second["memory_percent"] == pytest.approx(80.0)
    assert second["p50_latency_ms"] > 1_000.0
    assert second["violation"]


def test_retries_repeat_until_there_is_room() -> None:
    env = AutoScalerEnv("constant", initial_replicas=16, retry_share=1.0, constraints=False)
    env.reset(seed=0)
    infos = [env.step(NO_CHANGE)[4] for _ in range(3)]
    retried = [info["retried"] for info in infos]
    np.testing.assert_allclose(retried, [0.0, 22_400.0, 46_400.0])
    assert infos[2]["lost"] == pytest.approx(infos[2]["failed"] + infos[2]["timed_out"])
