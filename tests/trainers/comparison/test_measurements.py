"""Trainings of a comparison: what evaluation must not change, what is kept, what is refused."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from grpo_gym.settings import ConfigError, from_mapping, to_mapping
from grpo_gym.trainers.comparison.contenders import Contender, find_contender
from grpo_gym.trainers.comparison.curves import learn_with_curve
from grpo_gym.trainers.comparison.measurements import Comparison, play_baseline, train_and_evaluate
from grpo_gym.trainers.comparison.records import Plan, TrainingResult
from grpo_gym.trainers.comparison.settings import SB3Settings

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

ENV_KWARGS = {"episode_length": 16}
PLAN = Plan(
    env="LoadBalancer-v0",
    env_kwargs=ENV_KWARGS,
    total_steps=512,
    evaluations=4,
    curve_episodes=3,
    final_episodes=5,
)


def contender(algorithm: str) -> Contender:
    if algorithm == "grpo":
        found = find_contender("grpo", "LoadBalancer-v0", ENV_KWARGS)
        small = replace(found.settings.grpo, num_groups=2, group_size=4)  # type: ignore[union-attr]
        settings = replace(found.settings, grpo=small)  # type: ignore[arg-type]
        return Contender(settings=settings, tuned=False)
    settings = SB3Settings(
        env="LoadBalancer-v0",
        algorithm=algorithm,  # type: ignore[arg-type]
        env_kwargs=ENV_KWARGS,
        num_envs=8,
        normalise_rewards=True,
        normalise_observations=True,
        settings={"n_steps": 16} if algorithm == "a2c" else {"n_steps": 16, "batch_size": 64},
    )
    return Contender(settings=settings, tuned=False)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "a2c"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluation_does_not_disturb_training(algorithm: str, deterministic: bool) -> None:
    plan = replace(PLAN, deterministic=deterministic)
    often = train_and_evaluate(contender(algorithm), 3, plan)
    once = train_and_evaluate(
        contender(algorithm), 3, replace(plan, evaluations=1, curve_episodes=1)
    )
    assert often.weights_sha256 == once.weights_sha256
    assert often.final == once.final
    assert (len(often.curve), len(once.curve)) == (5, 2)
    other = train_and_evaluate(contender(algorithm), 4, plan)
    assert other.weights_sha256 != often.weights_sha256


@pytest.mark.parametrize("algorithm", ["grpo", "trpo"])
def test_what_is_kept_of_a_run(algorithm: str) -> None:
    result = train_and_evaluate(contender(algorithm), 0, PLAN)
    found = json.loads(json.dumps(to_mapping(result)))
    assert from_mapping(TrainingResult, found, "result") == result
    assert set(found) == {
        *("settings", "tuned", "parameters", "policy_parameters", "peak_memory_mb", "steps"),
        *("cpu_seconds", "wall_seconds", "weights_sha256", "curve", "final"),
    }
    assert found["steps"] == 512 and 0 < found["policy_parameters"] <= found["parameters"]
    assert 50 < found["peak_memory_mb"] < 50_000
    assert [point["steps"] for point in found["curve"]] == [0, 128, 256, 384, 512]
    for name in ("cpu_seconds", "wall_seconds"):
        seconds = [point[name] for point in found["curve"]]
        assert seconds == sorted(seconds) and seconds[0] < 0.1 and seconds[-1] == found[name]
    assert set(found["final"]) == {"mean_return", "sem", "metrics"}
    assert "response_time_ms" in found["final"]["metrics"]


def test_the_curve_starts_untrained_and_plays_other_episodes_than_the_end() -> None:
    found = train_and_evaluate(contender("grpo"), 0, replace(PLAN, curve_episodes=5))
    assert found.curve[-1].mean_return != found.final.mean_return
    again = train_and_evaluate(
        contender("grpo"), 0, replace(PLAN, total_steps=128, curve_episodes=5)
    )
    assert again.curve[0].mean_return == found.curve[0].mean_return


def test_a_baseline_plays_the_final_episodes() -> None:
    found = play_baseline("least_connections", PLAN)
    assert set(found) == {"mean_return", "sem"}
    assert found == play_baseline("least_connections", replace(PLAN, curve_episodes=50))
    assert found != play_baseline("least_connections", replace(PLAN, evaluation_seed=1))


def test_points_lie_evenly_and_take_no_time() -> None:
    def slow() -> float:
        time.sleep(0.2)
        np.random.random(3)
        return 1.0

    class Sevens:
        def learn(self, total_steps: int, record: Callable[[int], None]) -> int:
            for steps in range(0, 106, 7):
                record(steps)
            return 105

    np.random.seed(0)
    wanted = np.random.random()
    np.random.seed(0)
    told: list[Any] = []
    curve = learn_with_curve(cast(Any, Sevens()), slow, 100, 4, told.append)
    assert [point.steps for point in curve] == [0, 28, 56, 77, 105]
    assert told == curve[1:]
    assert curve[-1].wall_seconds < 0.2  # of 1.0 in all
    assert np.random.random() == wanted


def stored(tmp_path: Path, **task: Any) -> Path:
    path = tmp_path / "results.json"
    ppo = contender("ppo")
    values = {
        "env": "LoadBalancer-v0",
        "env_kwargs": ENV_KWARGS,
        "total_steps": 512,
        "evaluations": 4,
        "evaluation_seed": 5_000_000,
        "curve_episodes": 3,
        "final_episodes": 5,
        "deterministic": True,
        **task,
    }
    run_of_seed = {"settings": ppo.describe()}
    path.write_text(json.dumps({"task": values, "ppo/seed 0": run_of_seed}))
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_steps", 513),
        ("final_episodes", 6),
        ("curve_episodes", 1),
        ("evaluations", 5),
        ("deterministic", False),
        ("env", "CartPole-v1"),
    ],
)
def test_a_file_of_another_task_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    Comparison(PLAN, [contender("ppo")], range(1)).open_results(stored(tmp_path), print)
    with pytest.raises(ConfigError, match=f"task.{name} was .* choose another --out"):
        Comparison(PLAN, [], range(1)).open_results(stored(tmp_path, **{name: value}), print)


def test_runs_of_other_settings_are_refused(tmp_path: Path) -> None:
    path, ppo = stored(tmp_path), contender("ppo")
    assert isinstance(ppo.settings, SB3Settings)
    changed = replace(ppo.settings, settings={"n_steps": 16, "batch_size": 64, "gamma": 0.5})
    other = Contender(settings=changed, tuned=False)
    with pytest.raises(ConfigError, match=r"seed 0: settings.settings.gamma was 0.99 .* 0.5 now"):
        Comparison(PLAN, [other], range(1)).open_results(path, print)
    # Being called tuned, or what else the file has, changes no training.
    same = Contender(settings=replace(ppo.settings, tuned=True), tuned=True)
    Comparison(PLAN, [same, contender("a2c")], range(3)).open_results(path, print)


@pytest.mark.parametrize("text", ["{broken", "[1]", '{"a": 1}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="choose another --out"):
        Comparison(PLAN, [], range(1)).open_results(path, print)
    assert path.read_text() == text
