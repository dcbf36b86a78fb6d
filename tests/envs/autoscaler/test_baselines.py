"""Baselines against their rules in closed form, forecasts against recurrences, and a table."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from grpo_gym.envs.autoscaler.actions import ALL_TRAFFIC, NO_CONFIGURATION, decode
from grpo_gym.envs.autoscaler.baselines import BASELINES, Hpa, Scaler, make_baseline
from grpo_gym.envs.autoscaler.env import AutoScalerEnv
from grpo_gym.envs.autoscaler.forecasting import HoltWinters, SeasonalNaive
from grpo_gym.envs.autoscaler.vector_env import AutoScalerVectorEnv
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.named_policies import baseline_names, is_deterministic, privileged_names

KINDS = ("scaling", "scaling_config", "flat", "multi", "replicas", "target")

PUBLISHED = {
    "static_25": (0.003, 36.9, 7497),
    "static": (0.224, 1.53, 14992),
    "static_64": (0.178, 0.40, 19189),
    "static_100": (0.147, 0.0, 29982),
    "hpa_50": (0.254, 0.0, 12886),
    "hpa": (0.310, 0.14, 9316),
    "hpa_80": (0.323, 0.63, 8150),
    "clairvoyant": (0.331, 0.0, 7745),
}
"""Reward per step, steps with a p99 above 200 ms (%), and dollars a day: means of eight days."""


def clusters(num_envs: int = 1, seed: int = 0, **settings: Any) -> AutoScalerVectorEnv:
    """Environments after a reset; by default with absolute numbers and no constraints, like HPA."""
    settings = {"action": "replicas", "constraints": False, **settings}
    env = AutoScalerVectorEnv(num_envs, **settings)
    env.reset(seed=seed)
    return env


def totals(env: AutoScalerVectorEnv) -> list[int]:
    now = env.simulator.clusters
    found: list[int] = (now["running"] + now["pending"]).tolist()
    return found


def play(env: AutoScalerVectorEnv, scaler: Scaler, steps: int) -> list[int]:
    """Totals of the first cluster after each decision."""
    state, found = None, []
    for _ in range(steps):
        actions, state = scaler.predict(env.observe(), state)
        env.step(actions)
        found.append(
            int(env.simulator.outcomes[0]["replicas"] + env.simulator.outcomes[0]["pending"])
        )
    return found


def measured(
    name: str, cpu_percent: float, serving: int, pending: int = 0, **settings: Any
) -> tuple[Any, AutoScalerVectorEnv]:
    """A baseline on a cluster with given measurements."""
    env = clusters()
    env.simulator.metrics["cpu_percent"] = cpu_percent
    env.simulator.metrics["replicas"] = serving
    env.simulator.clusters["running"], env.simulator.clusters["pending"] = serving, pending
    return make_baseline(name, env, **settings), env


@pytest.mark.parametrize("constraints", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_baseline_takes_legal_actions_of_every_kind(kind: str, constraints: bool) -> None:
    for name in BASELINES:
        env = clusters(3, action=kind, constraints=constraints, history=4)
        scaler, state = make_baseline(name, env), None
        for _ in range(25):
            legal = env.action_masks()
            actions, state = scaler.predict(env.observe(), state)
            assert env.action_space.contains(actions)
            if kind == "multi":
                first = actions + np.array([0, 7, 14])
                assert np.take_along_axis(legal, first, axis=1).all()
            else:
                assert legal[np.arange(3), actions].all()
            *_, infos = env.step(actions)
            if not (kind == "target" and constraints):  # which are clipped, whoever sends them
                assert not infos["constrained"].any()


def test_components_other_than_scaling_stay_neutral() -> None:
    for kind in ("scaling_config", "flat", "multi"):
        env = clusters(2, action=kind)
        actions, _ = make_baseline("static_100", env).predict(env.observe())
        assert decode(kind, actions).tolist() == [[6, NO_CONFIGURATION, ALL_TRAFFIC]] * 2


@pytest.mark.parametrize("replicas", [2, 37, 100])
def test_absolute_numbers_are_reached_at_once(replicas: int) -> None:
    env = clusters(2)
    env.step(make_baseline("static", env, replicas=replicas).predict(env.observe())[0])
    assert totals(env) == [replicas] * 2


@pytest.mark.parametrize(
    ("wanted", "path"),
    [(21, [21, 21]), (23, [24, 23]), (29, [24, 28, 29]), (17, [18, 17]), (13, [16, 14, 13])],
)
def test_changes_lead_nearest_to_the_number_wanted_and_ties_to_the_larger_one(
    wanted: int, path: list[int]
) -> None:
    env = clusters(action="scaling", initial_replicas=20)
    assert play(env, make_baseline("static", env, replicas=wanted), len(path)) == path


def test_constraints_hold_on_the_way() -> None:
    env = clusters(constraints=True, initial_replicas=20, cooldown_steps=3)
    scaler = make_baseline("static", env, replicas=60)
    assert play(env, scaler, 8) == [30, 30, 30, 45, 45, 45, 60, 60]


@pytest.mark.parametrize("target", [50, 70, 90])
@pytest.mark.parametrize("start_up_steps", [0, 3])
@pytest.mark.parametrize("initial", [15, 18, 20, 22, 24, 26, 29, 32, 36, 42, 48, 60])
def test_hpa_under_constant_demand(target: int, start_up_steps: int, initial: int) -> None:
    demand = 1_730.0
    env = clusters(
        preset="constant", base_demand=demand, initial_replicas=initial,
        start_up_steps=start_up_steps,
    )  # fmt: skip
    found = play(env, make_baseline("hpa", env, target_percent=target), 30)
    # Use is min(1, 17.3 / n); n replicas stay where it is within 10 % of the target.
    use = min(100.0, demand / initial)
    if abs(use / target - 1.0) <= 0.1:
        assert found == [initial] * 30
        return
    # Otherwise n * use / target, rounded up, which is enough at once unless use was cut off.
    assert found[-1] == found[-10]
    final_use = demand / found[-1]
    assert abs(final_use / target - 1.0) <= 0.1
    if use < target:  # down: what was there counts for four steps, then goes at once
        assert found[:4] == [initial] * 4
        assert found[4:] == [math.ceil(demand / target)] * 26
    elif demand <= 100.0 * initial:
        assert found == [math.ceil(demand / target)] * 30


def test_hpa_scales_down_to_the_maximum_of_five_steps() -> None:
    rng = np.random.default_rng(0)
    env = clusters(start_up_steps=0)
    scaler = make_baseline("hpa", env)
    state = scaler.initial_state()
    wishes = totals(env) * 4  # before the episode it wanted what there was
    for _ in range(200):
        total, cpu = totals(env)[0], float(rng.uniform(30.0, 100.0))
        env.simulator.metrics["cpu_percent"], env.simulator.metrics["replicas"] = cpu, total
        wish = total if abs(cpu / 70.0 - 1.0) <= 0.1 else math.ceil(total * cpu / 70.0)
        wishes.append(wish)
        found, state = scaler.wanted(state)
        assert found[0] == (wish if wish > total else min(total, max(wishes[-5:])))
        env.simulator.clusters["running"] = min(max(found[0], 5), 60)


@pytest.mark.parametrize(
    ("step_seconds", "total", "most"),
    [(60, 1, 40), (60, 2, 48), (60, 4, 64), (60, 10, 160), (15, 2, 6), (15, 4, 8), (15, 5, 10),
     (30, 3, 14), (5, 3, 7)],
)  # fmt: skip
def test_hpa_scales_up_within_a_limit_per_synchronisation(
    step_seconds: float, total: int, most: int
) -> None:
    env = clusters(step_seconds=step_seconds, max_replicas=400, min_replicas=1)
    scaler = make_baseline("hpa", env, target_percent=0.5)
    assert isinstance(scaler, Hpa)
    assert scaler.most(np.array([total])).tolist() == [most]
    env.simulator.metrics["cpu_percent"], env.simulator.metrics["replicas"] = 100.0, total
    env.simulator.clusters["running"], env.simulator.clusters["pending"] = total, 0
    assert scaler.wanted(scaler.initial_state())[0].tolist() == [most]  # of 200 * total


@pytest.mark.parametrize(
    ("cpu", "serving", "pending", "desired"),
    [
        (90.0, 10, 0, 13),  # ceil(10 * 90 / 70)
        (90.0, 10, 3, 13),  # 900 / 13 = 69.2 for all: on target
        (100.0, 10, 3, 13),  # 76.9: within 10 %
        (100.0, 10, 2, 15),  # 83.3: ceil(1000 / 70)
        (80.0, 10, 5, 15),  # 53.3 for all would turn the direction: nothing
        (77.0, 10, 0, 10),  # exactly 10 % above
        (77.1, 10, 0, 12),
        (63.0, 10, 0, 10),  # exactly 10 % below
        (62.9, 10, 0, 9),
        (35.0, 10, 4, 5),  # down: those that start up are left out
    ],
)
def test_hpa_counts_replicas_without_measurements_as_idle_when_scaling_up(
    cpu: float, serving: int, pending: int, desired: int
) -> None:
    scaler, _ = measured("hpa", cpu, serving, pending)
    assert scaler.desired().tolist() == [desired]


@pytest.mark.parametrize(
    ("cpu", "serving", "pending", "wanted"),
    [
        # The example of the user guide: 10 % from 60 on, 30 % from 70 on, and so below.
        (59.9, 10, 0, 10),
        (60.0, 10, 0, 11),
        (70.0, 11, 0, 14),
        (40.0, 14, 0, 13),
        (30.0, 13, 0, 10),
        (40.1, 14, 0, 14),
        (60.0, 3, 0, 4),  # a part of a replica is one
        (40.0, 3, 0, 2),
        (100.0, 20, 0, 26),
        (100.0, 20, 4, 26),  # four of the six start up already
        (60.0, 20, 4, 24),
        (30.0, 20, 4, 24),  # nothing is removed meanwhile
    ],
)
def test_threshold_follows_the_steps_of_the_user_guide(
    cpu: float, serving: int, pending: int, wanted: int
) -> None:
    scaler, _ = measured("threshold", cpu, serving, pending)
    assert scaler.wanted(())[0].tolist() == [wanted]


@pytest.mark.parametrize("start_up_steps", [0, 2, 5])
def test_clairvoyant_orders_at_the_last_moment_and_is_never_late(start_up_steps: int) -> None:
    env = clusters(preset="constant", episode_steps=60, start_up_steps=start_up_steps)
    env.simulator.demand[:, 20:40] *= 2.0
    found = play(env, make_baseline("clairvoyant", env), 60)
    few, many = math.ceil(2_000 / 85), math.ceil(4_000 / 85)
    # found[t - 1] is the total in step t; demand doubles in steps 20 to 39.
    assert found == [many if 20 - start_up_steps <= t < 40 else few for t in range(1, 61)]


def test_clairvoyant_covers_the_cool_down() -> None:
    env = clusters(
        preset="constant", episode_steps=60, constraints=True, cooldown_steps=4,
        largest_change_share=1.0, initial_replicas=24,
    )  # fmt: skip
    env.simulator.demand[:, 20:41] += 150.0 * np.arange(21)
    env.simulator.demand[:, 41:] += 3_000.0
    state, scaler = None, make_baseline("clairvoyant", env)
    for _ in range(60):
        actions, state = scaler.predict(env.observe(), state)
        *_, infos = env.step(actions)
        assert infos["cpu_percent"][0] <= 85.0


def test_forecasts_of_a_line_are_exact() -> None:
    forecaster = HoltWinters(period=1_000, level_weight=0.6, trend_weight=1.0)
    state = forecaster.start(2)
    slopes, intercepts = np.array([3.0, -2.0]), np.array([10.0, 500.0])
    for t in range(60):
        state = forecaster.observe(state, intercepts + slopes * t, np.full(2, t))
    expected = intercepts[:, None] + slopes[:, None] * (59 + np.arange(1, 5))
    np.testing.assert_allclose(forecaster.ahead(state, np.full(2, 59), 4), expected, rtol=1e-6)


def test_forecasts_of_a_season_are_exact_from_the_second_one_on() -> None:
    rng = np.random.default_rng(1)
    season = rng.uniform(0.0, 100.0, (3, 7))
    begin = np.array([0, 2, 6])
    for forecaster in (HoltWinters(period=7), SeasonalNaive(period=7)):
        state = forecaster.start(3)
        for t in range(30):
            phases = (begin + t) % 7
            state = forecaster.observe(state, season[np.arange(3), phases], phases)
            if t >= 6:
                ahead = (phases[:, None] + np.arange(1, 10)) % 7
                expected = np.take_along_axis(season, ahead, axis=1)
                np.testing.assert_allclose(forecaster.ahead(state, phases, 9), expected)


def test_holt_winters_follows_its_recurrence() -> None:
    m, alpha, beta, gamma = 5, 0.7, 0.3, 0.4
    values = np.random.default_rng(2).normal(100.0, 20.0, 23).tolist()
    forecaster = HoltWinters(period=m, level_weight=alpha, trend_weight=beta, season_weight=gamma)
    state = forecaster.start(1)
    level, trend, season = values[0], 0.0, [0.0] * m
    for t, value in enumerate(values):
        state = forecaster.observe(state, np.array([value]), np.array([t % m]))
        if t > 0:
            last = level
            level = alpha * (value - season[t % m]) + (1 - alpha) * (level + trend)
            trend = beta * (level - last) + (1 - beta) * trend
        if t >= m:
            season[t % m] = gamma * (value - level) + (1 - gamma) * season[t % m]
        if t == m - 1:
            level, trend = sum(values[:m]) / m, 0.0
            season = [first - level for first in values[:m]]
        expected = [level + h * trend + season[(t + h) % m] for h in range(1, 8)]
        np.testing.assert_allclose(forecaster.ahead(state, np.array([t % m]), 7)[0], expected)


def test_seasonal_naive_repeats_the_last_value_during_the_first_season() -> None:
    forecaster = SeasonalNaive(period=4)
    state = forecaster.start(1)
    for t, value in enumerate([5.0, 6.0, 9.0]):
        state = forecaster.observe(state, np.array([value]), np.array([t]))
    assert forecaster.ahead(state, np.array([2]), 3).tolist() == [[9.0, 5.0, 6.0]]


@pytest.mark.parametrize("name", ["seasonal_naive", "holt_winters"])
def test_predictive_scaling_is_in_time_from_the_second_day_on(name: str) -> None:
    env = clusters(
        step_seconds=3_600, episode_steps=96, noise_sigma=0.0, bursts_per_day=0.0,
        start_up_steps=4, random_start=True, seed=3,
    )  # fmt: skip
    scaler, state, late = make_baseline(name, env), None, []
    for _ in range(96):
        actions, state = scaler.predict(env.observe(), state)
        *_, infos = env.step(actions)
        late.append(bool(infos["cpu_percent"][0] > 80.0 + 1e-6))
    assert any(late[:24])
    assert not any(late[29:])


def test_states_start_over_with_an_episode() -> None:
    env = clusters(2)
    for name in ("holt_winters", "seasonal_naive", "hpa"):
        scaler = make_baseline(name, env)
        _, state = scaler.predict(env.observe())
        for _ in range(3):
            _, state = scaler.predict(env.observe(), state)
        _, once = scaler.predict(env.observe())
        _, again = scaler.predict(env.observe(), state, np.array([False, True]))
        assert again is not None and once is not None and state is not None
        for new, fresh in zip(again, once, strict=True):
            np.testing.assert_array_equal(new[1], fresh[1])
        if name == "holt_winters":
            assert again[2].tolist() == [5, 1]  # values seen


def test_returned_states_are_not_modified() -> None:
    env = clusters(2)
    for name in BASELINES:
        scaler = make_baseline(name, env)
        _, state = scaler.predict(env.observe())
        assert state is not None
        kept = [array.copy() for array in state]
        env.simulator.metrics["requests_per_s"] += 500.0
        env.simulator.metrics["cpu_percent"] = 90.0
        scaler.predict(env.observe(), state)
        for array, before in zip(state, kept, strict=True):
            np.testing.assert_array_equal(array, before)


def test_random_actions_are_uniform_over_legal_ones() -> None:
    env = clusters(7_000, action="scaling", constraints=True, initial_replicas=5)
    actions, _ = make_baseline("random", env).predict(env.observe())
    counts = np.bincount(actions, minlength=7)
    legal = env.action_masks()[0]
    assert legal.tolist() == [False, True, True, True, True, True, False]
    assert counts[~legal].sum() == 0
    assert stats.chisquare(counts[legal]).pvalue > 1e-3


def test_sizes_follow_the_capacity_of_a_replica() -> None:
    slow = clusters(preset="constant", batch_overhead_ms=70.0)  # 50 requests/s a replica
    assert make_baseline("clairvoyant", slow).wanted(())[0].tolist() == [math.ceil(2_000 / 42.5)]


def test_names_settings_and_environments() -> None:
    env = AutoScalerEnv()
    assert baseline_names("AutoScaler-v0") == list(BASELINES)
    assert privileged_names("AutoScaler-v0") == {"clairvoyant"}
    assert not is_deterministic("random", "AutoScaler-v0")
    assert is_deterministic("hpa_60", "AutoScaler-v0")
    assert all(make_baseline(name, env).name == name for name in BASELINES)
    with pytest.raises(ConfigError, match=r"'hpa_8'.*Did you mean 'hpa_80'"):
        make_baseline("hpa_8", env)
    with pytest.raises(ConfigError, match=r"hpa has no setting 'target'"):
        make_baseline("hpa", env, target=60)
    for target in (0.0, 101.0, math.nan, True):
        with pytest.raises(ConfigError, match="target_percent must be "):
            make_baseline("hpa", env, target_percent=target)
    for replicas in (0, 2.5, True):
        with pytest.raises(ConfigError, match="replicas must be"):
            make_baseline("static", env, replicas=replicas)
    with pytest.raises(ConfigError, match="level_weight"):
        make_baseline("holt_winters", env, level_weight=1.5)
    with pytest.raises(ConfigError, match="must be a AutoScaler environment"):
        make_baseline("hpa", gym.make("CartPole-v1"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_table(name: str) -> None:
    days = 32
    env = clusters(days, autoreset_mode="Disabled", seed=100)
    scaler, state = make_baseline(name, env), None
    sums = np.zeros((3, days))
    for _ in range(1_440):
        actions, state = scaler.predict(env.observe(), state)
        _, rewards, _, _, infos = env.step(actions)
        sums += [rewards, 100.0 * infos["violation"], 1_440.0 * infos["cost_dollars"]]
    found = sums / 1_440.0
    # The published means are of eight days; 0.1 % for rounding and how an episode begins.
    noise = 3.0 * found.std(axis=1) * math.sqrt(1 / 8 + 1 / days) + [1e-3, 2e-2, 0.0]
    published = np.array(PUBLISHED[name])
    assert (np.abs(found.mean(axis=1) - published) <= noise + 1e-3 * np.abs(published)).all()
