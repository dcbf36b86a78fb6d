from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym import GRPO, evaluate_policy
from grpo_gym.evaluation.episodes import evaluate
from grpo_gym.evaluation.statistics import summarise
from grpo_gym.rollouts.batches import make_batch
from grpo_gym.settings import ConfigError
from probe_envs import Context, Countdown, OneStep


def lengths_by_row(observations: np.ndarray, masks: Any, state: Any, start: np.ndarray) -> Any:
    """Environment b plays b % 4 + 1 steps; the state counts the calls."""
    assert start.all() == (state is None)
    return np.arange(len(observations)) % 4, (state or 0) + 1


def zeros(observations: np.ndarray, masks: Any, state: Any, start: np.ndarray) -> Any:
    return np.zeros(len(observations), np.int64), state


def by_context(observations: np.ndarray, masks: Any, state: Any, start: np.ndarray) -> Any:
    """Right where the context is 0 or 1, wrong where it is 2."""
    return observations.argmax(axis=1) % 2, state


# Episodes


def test_numbers_by_hand() -> None:
    batch = make_batch(Countdown, None, 4)
    result = evaluate(lengths_by_row, batch, episodes=4, seed=0)
    assert result.returns.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert result.lengths.tolist() == [1, 2, 3, 4]
    assert result.metrics["time"].tolist() == [1.0, 1.5, 2.0, 2.5]
    assert result.metrics["last"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert result.mean_return == 2.5
    assert result.seed == 0


def test_warmup_leaves_first_steps_out_of_the_metrics_only() -> None:
    batch = make_batch(Countdown, None, 4)
    result = evaluate(lengths_by_row, batch, episodes=4, seed=0, warmup=2)
    np.testing.assert_array_equal(result.metrics["time"], [np.nan, np.nan, 3.0, 3.5])
    assert result.returns.tolist() == [1.0, 2.0, 3.0, 4.0]
    summary = result.summary()["metrics"]["time"]
    assert summary["mean"] == 3.25


def test_differences_are_paired_by_episode() -> None:
    long, short = (
        evaluate(act, make_batch(Countdown, None, 4), episodes=8, seed=0)
        for act in (lengths_by_row, zeros)
    )
    difference = long.difference(short)
    assert difference.returns.tolist() == [0.0, 1.0, 2.0, 3.0] * 2
    assert difference.lengths.tolist() == [0, 1, 2, 3] * 2
    assert difference.metrics["last"].tolist() == [0.0, 1.0, 2.0, 3.0] * 2
    assert difference.summary()["return"]["ci95"] == list(summarise(difference.returns).ci95)
    same = long.difference(long).summary()["return"]
    assert (same["mean"], same["ci95"]) == (0.0, [0.0, 0.0])
    few = evaluate(zeros, make_batch(Countdown, None, 4), episodes=4, seed=0)
    later = evaluate(zeros, make_batch(Countdown, None, 4), episodes=8, seed=1)
    for other in (few, later):
        with pytest.raises(ConfigError, match="other must be of the 8 episodes from seed 0, got"):
            long.difference(other)


@pytest.mark.parametrize("num_envs", [1, 3, 8, 50])
def test_episodes_do_not_depend_on_how_many_play_side_by_side(num_envs: int) -> None:
    contexts = []
    for seed in range(30, 50):
        env = Context()
        env.reset(seed=seed)
        contexts.append(env.context)
    rounds: list[int] = []
    batch = make_batch(Context, None, num_envs)
    result = evaluate(by_context, batch, 20, seed=30, on_progress=rounds.append)
    assert result.returns.tolist() == [float(context != 2) for context in contexts]
    assert len(set(contexts)) == 3
    assert rounds == sorted({*range(num_envs, 20, num_envs), 20})


def test_no_environment_is_stepped_beyond_its_episode() -> None:
    batch: Any = make_batch(Countdown, None, 4)
    evaluate(zeros, batch, episodes=6, seed=0)
    assert [env.calls for env in batch.envs] == [2, 2, 1, 1]


class Endless(OneStep):
    """Nothing ever ends it."""

    action_space: gym.Space[Any] = gym.spaces.Discrete(2)

    def step(self, action: Any) -> Any:
        return self.observe(), 1.0, False, False, {}


def test_episodes_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_gym.rollouts.env_batch.ENDLESS", 20)
    limited = make_batch(lambda: gym.wrappers.TimeLimit(Endless(), 30), None, 2)
    assert evaluate(zeros, limited, 3, seed=0).lengths.tolist() == [30, 30, 30]
    batch = make_batch(Endless, None, 2)
    with pytest.raises(ConfigError, match=r"episodes of Endless must end, got one of 20 steps"):
        evaluate(zeros, batch, 1, seed=0)
    with pytest.raises(ConfigError, match="max_episode_steps"):
        GRPO("linear", Endless, num_groups=1, group_size=2).learn(10)
    model = GRPO("linear", Endless, num_groups=1, group_size=2, max_episode_steps=5).learn(10)
    assert model.num_steps == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes must be >= 1, got 0"),
        ({"episodes": 5, "seed": -1}, "seed must be >= 0, got -1"),
        ({"episodes": 5, "warmup": -1}, "warmup must be >= 0, got -1"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(zeros, make_batch(Countdown, None, 2), **{"seed": 0, **arguments})
    with pytest.raises(ConfigError, match=message):
        GRPO("linear", Countdown).evaluate(**arguments)


def test_a_model_is_evaluated_on_the_same_episodes_by_either_name() -> None:
    model = GRPO("linear", lambda: Context("box"), seed=1)
    first = model.evaluate(150, seed=7)  # more than fit side by side
    again = evaluate_policy(model, episodes=150, seed=7)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert len(first.returns) == 150
    few = model.evaluate(5, seed=7)
    np.testing.assert_array_equal(few.returns, first.returns[:5])
    sampled = [model.evaluate(150, seed=7, deterministic=False).returns for _ in range(2)]
    np.testing.assert_array_equal(*sampled)
    assert (sampled[0] != first.returns).any()


# Results as JSON


def test_nothing_finite_is_null_in_json() -> None:
    batch = make_batch(Countdown, None, 4)
    result = evaluate(zeros, batch, episodes=4, seed=0, warmup=3)
    assert result.summary()["metrics"]["time"] == {
        "mean": None,
        "sem": None,
        "median": None,
        "iqm": None,
        "ci95": [None, None],
    }


class ReportsSometimes(Countdown):
    """Infos of all kinds: one that is infinite, one of long episodes only, one too large to add."""

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        info |= {"huge": 1.7e308, "infinite": np.inf if self.time == 2 else 1.0}
        if self.time == 3:
            info["late"] = 1.0
        return *rest, info


def test_metrics_say_in_how_many_episodes_they_are_finite() -> None:
    batch = make_batch(ReportsSometimes, None, 4)
    summary = evaluate(lengths_by_row, batch, episodes=8, seed=0).summary()
    assert summary["reported"] == {"time": 8, "last": 8, "huge": 2, "infinite": 2, "late": 4}
    assert summary["metrics"]["infinite"]["mean"] == 1.0
    assert summary["metrics"]["huge"]["mean"] is None  # even their sum is too large
    assert summary["return"]["mean"] == 2.5
