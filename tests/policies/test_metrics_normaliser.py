"""Named metrics scaled by ranges, statistics or logarithms."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from grpo_gym import GRPO
from grpo_gym.policies.metrics_normaliser import MetricsNormaliser, NormaliseMetrics
from grpo_gym.settings import ConfigError

RANGES = {"cpu_percent": (0.0, 100.0), "latency_ms": (10.0, 1010.0), "balance": (-4.0, -2.0)}


class Machine(gym.Env[Any, Any]):
    """Three steps with a known metric, an unknown one, a count and a constant."""

    observation_space: gym.Space[Any] = spaces.Dict(
        {
            "cpu_percent": spaces.Box(0.0, 100.0, (), np.float32),
            "surprise": spaces.Box(-np.inf, np.inf, (1,), np.float64),
            "constant": spaces.Box(0.0, 10.0, (), np.float32),
            "replicas": spaces.Discrete(5, start=1),
        }
    )
    action_space: gym.Space[Any] = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._observe(), float(action), self.time == 3, False, {}

    def _observe(self) -> dict[str, Any]:
        return {
            "cpu_percent": np.array(25.0 * self.time, np.float32),
            "surprise": self.np_random.normal(1e3, 50.0, size=1),
            "constant": np.array(7.0, np.float32),
            "replicas": np.int64(1 + self.time),
        }


def seen(values: list[float], name: str = "x", **options: Any) -> MetricsNormaliser:
    normaliser = MetricsNormaliser(RANGES, **options)
    for value in values:
        normaliser.observe({name: value})
    return normaliser


def scaled(normaliser: MetricsNormaliser, value: float, name: str = "x") -> float:
    return normaliser.normalise({name: value})[name]


# Known ranges


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("cpu_percent", 0.0, -1.0),
        ("cpu_percent", 25.0, -0.5),
        ("cpu_percent", 100.0, 1.0),
        ("cpu_percent", 120.0, 1.0),
        ("cpu_percent", -1e300, -1.0),
        ("latency_ms", 510.0, 0.0),
        ("latency_ms", 885.0, 0.75),
        ("balance", -3.5, -0.5),
        ("balance", 0.0, 1.0),
    ],
)
def test_a_known_range_becomes_minus_one_to_one(name: str, value: float, wanted: float) -> None:
    assert scaled(MetricsNormaliser(RANGES), value, name) == pytest.approx(wanted, abs=1e-12)
    observed = seen([50.0] * 40 + [51.0] * 40, name)
    assert scaled(observed, value, name) == pytest.approx(wanted, abs=1e-12)


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), share=st.floats(0.0, 1.0))
def test_a_range_is_linear_inside(low: float, width: float, share: float) -> None:
    normaliser = MetricsNormaliser({"x": (low, low + width)})
    found = scaled(normaliser, low + share * width)
    assert -1.0 <= found <= 1.0
    assert found == pytest.approx(2.0 * share - 1.0, abs=1e-5)


@pytest.mark.parametrize("limits", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_empty_and_infinite_ranges_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="the range of 'x' must be two finite numbers"):
        MetricsNormaliser({"x": limits})


# Unknown ranges


@given(values=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=60), probe=st.floats(-1e5, 1e5))
def test_statistics_are_those_of_everything_seen(values: list[float], probe: float) -> None:
    normaliser = seen(values, enough=2)
    mean, deviation = float(np.mean(values)), float(np.std(values))
    if deviation <= 1e-6 * max(abs(mean), 1.0):
        return
    wanted = np.clip((probe - mean) / (3.0 * deviation), -1.0, 1.0)
    assert scaled(normaliser, probe) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_three_deviations_are_one() -> None:
    normaliser = seen([90.0, 110.0] * 15)  # mean 100, deviation 10
    for value, wanted in {100.0: 0.0, 115.0: 0.5, 130.0: 1.0, 70.0: -1.0, 1e9: 1.0}.items():
        assert scaled(normaliser, value) == pytest.approx(wanted)


def test_a_signed_logarithm_has_to_do_until_enough_was_seen() -> None:
    values = [90.0, 110.0] * 15
    few, many = seen(values[:29]), seen(values)
    for value in (0.0, 1.0, -1.0, 250.0, -1e4):
        wanted = math.copysign(math.log(1.0 + abs(value)), value)
        assert scaled(few, value) == pytest.approx(wanted)
        assert scaled(MetricsNormaliser(), value, "never seen") == pytest.approx(wanted)
        assert abs(scaled(many, value)) <= 1.0
    assert scaled(seen(values[:4], enough=4), 115.0) == pytest.approx(0.5)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.0, 1e15])
def test_a_signed_logarithm_has_to_do_where_nothing_varies(constant: float) -> None:
    normaliser = seen([constant] * 1000)
    wanted = math.copysign(math.log1p(abs(constant)), constant)
    assert scaled(normaliser, constant) == pytest.approx(wanted)


def test_metrics_know_nothing_of_each_other() -> None:
    normaliser = MetricsNormaliser(enough=2)
    for value in (0.0, 2.0):
        normaliser.observe({"a": value, "b": 100.0 * value})
    normaliser.observe({"a": 1.0})
    assert normaliser.normalise({"b": 100.0, "a": 1.0}) == {"b": 0.0, "a": 0.0}
    assert scaled(normaliser, 400.0, "b") == 1.0
    assert list(normaliser.normalise({"b": 1.0, "a": 1.0})) == ["b", "a"], "the caller's order"


def test_normalising_learns_nothing_and_neither_does_a_frozen_normaliser() -> None:
    normaliser = seen([90.0, 110.0] * 15)
    before = normaliser.state()
    scaled(normaliser, 1e6)
    assert normaliser.state() == before
    normaliser.frozen = True
    normaliser.observe({"x": 1e6, "new": 1.0})
    assert normaliser.state() == {**before, "frozen": True}
    normaliser.frozen = False
    normaliser.observe({"x": 1e6})
    assert normaliser.state() != before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["cpu_percent", "x"])
def test_what_is_not_finite_is_refused_and_changes_nothing(name: str, value: float) -> None:
    normaliser = seen([90.0, 110.0] * 15)
    before = normaliser.state()
    with pytest.raises(ValueError, match=f"metric '{name}' must be finite, got"):
        normaliser.normalise({name: value})
    with pytest.raises(ValueError, match=f"metric '{name}' must be finite, got"):
        normaliser.observe({"other": 1.0, name: value})
    assert normaliser.state() == before


def test_saved_and_restored_it_goes_on_as_before() -> None:
    normaliser = seen([1.0, 5.0, 2.0] * 12)
    normaliser.frozen = True
    restored = MetricsNormaliser.from_state(json.loads(json.dumps(normaliser.state())))
    assert restored.state() == normaliser.state()
    assert restored.ranges == RANGES
    for each in (normaliser, restored):
        each.frozen = False
        each.observe({"x": 11.0, "y": 2.0})
    assert restored.state() == normaliser.state()
    assert scaled(restored, 3.3) == scaled(normaliser, 3.3)


def test_too_few_are_never_enough() -> None:
    with pytest.raises(ConfigError, match="enough must be >= 2, got 1"):
        MetricsNormaliser(enough=1)


# The wrapper


def test_the_wrapper_gives_rows_in_the_order_of_names() -> None:
    env = NormaliseMetrics(Machine(), MetricsNormaliser(RANGES))
    assert env.names == ("constant", "cpu_percent", "replicas", "surprise")
    row, _ = env.reset(seed=0)
    raw, _ = Machine().reset(seed=0)
    wanted = [math.log1p(7.0), -1.0, math.log1p(1.0), math.log1p(float(raw["surprise"][0]))]
    np.testing.assert_allclose(row, wanted, rtol=1e-6)
    assert row.dtype == np.float32
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space.high.tolist() == [math.inf, 1.0, math.inf, math.inf]
    assert env.observation_space.contains(row)
    assert env.step(0)[0][1] == -0.5


def test_the_wrapper_observes_until_frozen() -> None:
    normaliser = MetricsNormaliser(RANGES)
    env = NormaliseMetrics(Machine(), normaliser)
    for seed in range(10):
        env.reset(seed=seed)
        for _ in range(3):
            row = env.step(0)[0]
    assert [count for count, *_ in normaliser.state()["statistics"].values()] == [40, 40, 40]
    assert abs(row[3]) <= 1.0
    assert row[0] == np.float32(math.log1p(7.0)), "a constant has no spread"
    normaliser.frozen = True
    rows = [env.reset(seed=3)[0] for _ in range(2)]
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0.0, 1.0, (3,)),
        spaces.Dict({}),
        spaces.Dict({"a": spaces.Box(0.0, 1.0, (2,))}),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
    ],
)
def test_other_observations_are_refused(space: gym.Space[Any]) -> None:
    env = Machine()
    env.observation_space = space
    with pytest.raises(ConfigError, match="must be a Dict of metrics"):
        NormaliseMetrics(env, MetricsNormaliser())


def test_it_is_saved_with_the_policy(tmp_path: Path) -> None:
    normaliser = seen([90.0, 110.0] * 15, "surprise")
    normaliser.frozen = True

    def env() -> gym.Env[Any, Any]:
        return NormaliseMetrics(Machine(), normaliser)

    model = GRPO("gru", env, frame_history=3, num_groups=2, group_size=2, gru_width=4)
    model.save(tmp_path / "without.grpo")
    assert GRPO.load(tmp_path / "without.grpo", env=env).metrics_normaliser is None
    model.metrics_normaliser = normaliser
    model.train_iteration()
    model.save(tmp_path / "with.grpo")
    loaded = GRPO.load(tmp_path / "with.grpo", env=env).metrics_normaliser
    assert loaded is not None
    assert loaded.state() == normaliser.state()
    assert scaled(loaded, 115.0, "surprise") == pytest.approx(0.5)
