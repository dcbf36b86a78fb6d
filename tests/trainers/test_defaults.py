"""Settings that a training takes from its task: the rule, and what overrides it."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from grpo_gym.cli.settings import parse_train
from grpo_gym.settings import ConfigError
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.defaults import Task, task_of, task_settings
from grpo_gym.trainers.grpo import GRPO
from probe_envs import BestAction

STATES = {"baseline": "auto", "gae_lambda": 0.95}
SMALL_STEPS = {
    "learning_rate": 7e-4,
    "epochs": 8,
    "num_minibatches": 4,
    "minibatch_size": 128,
    "target_kl": 0.02,
}


def sizes(num_groups: int, group_size: int) -> dict[str, int]:
    return {"num_groups": num_groups, "group_size": group_size}


@pytest.mark.parametrize(
    ("task", "total_steps", "expected"),
    [
        (Task(4, False, 500), 150_000, sizes(3, 8)),
        (Task(4, False, 100), 100_000, sizes(8, 16)),
        (Task(4, False, 1000), 300_000, {**sizes(1, 8), "max_episode_steps": 750}),
        (Task(4, False, 1000), 1_000_000, sizes(1, 8)),
        (Task(4, False, 1000), 10_000_000, sizes(6, 16)),
        (Task(4, False, None), 1_000_000, {}),
        (Task(4, True, 1000), 300_000, {**sizes(1, 8), "max_episode_steps": 750}),
        (Task(4, True, 1000), 10_000, {**sizes(1, 8), "max_episode_steps": 200}),
        (Task(4, True, 200), 300_000, sizes(2, 8)),
        (Task(4, True, 1), 300_000, sizes(8, 16)),
    ],
)
def test_sizes_follow_from_the_limit_and_the_number_of_steps(
    task: Task, total_steps: int, expected: dict[str, int]
) -> None:
    further = {**STATES, **SMALL_STEPS} if task.is_continuous else STATES
    assert task_settings(task, total_steps, ()) == {**expected, **further}


def test_continuous_actions_get_smaller_steps_and_images_no_regression() -> None:
    assert task_settings(Task(4, True, None), 1000, ()) == {**STATES, **SMALL_STEPS}
    assert task_settings(Task(84 * 84, False, None), 1000, ()) == {}


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"learning_rate"}, {"learning_rate"}),
        ({"minibatches"}, {"num_minibatches", "minibatch_size"}),
        ({"group_size"}, {"num_groups", "group_size"}),
        ({"learned_baseline"}, {"baseline", "gae_lambda"}),
        ({"returns"}, {"baseline", "gae_lambda"}),
        ({"max_episode_steps"}, {"max_episode_steps"}),
    ],
)
def test_what_is_given_is_left_alone_with_what_belongs_to_it(
    given: set[str], gone: set[str]
) -> None:
    task = Task(4, True, 1000)
    everything = task_settings(task, 300_000, ())
    assert set(task_settings(task, 300_000, given)) == set(everything) - gone


@pytest.mark.parametrize(
    ("env", "frame_history", "expected"),
    [
        ("CartPole-v1", 1, Task(4, False, 500)),
        ("CartPole-v1", 3, Task(12, False, 500)),
        ("Pendulum-v1", 1, Task(3, True, 200)),
        ("FrozenLake-v1", 1, Task(16, False, 100)),
        (lambda: gym.wrappers.TimeLimit(BestAction(), 300), 1, Task(1, False, 300)),
        (lambda num_envs: gym.make_vec("CartPole-v1", num_envs), 1, Task(4, False, None)),
        ("LoadBalancer-v0", 1, None),
        ("grpo_gym:Battleship-v0", 1, None),
    ],
)
def test_the_task_of_an_environment(env: Any, frame_history: int, expected: Task | None) -> None:
    assert task_of(env, {}, frame_history) == expected


def test_learn_takes_them_once_and_a_checkpoint_keeps_them(tmp_path: Any) -> None:
    model = GRPO("linear", "CartPole-v1", learning_rate=0.01).learn(400)
    assert model.config.num_envs == 24
    assert model.config.baseline == "auto"
    assert model.config.learning_rate == 0.01
    model.learn(40_000_000, callback=lambda *_: False)
    assert model.config.num_envs == 24
    model.save(tmp_path / "model.ckpt")
    assert GRPO.load(tmp_path / "model.ckpt").config == model.config


@pytest.mark.parametrize(
    ("env", "keywords"),
    [
        ("CartPole-v1", {"config": GRPOConfig(num_groups=1, group_size=2)}),
        ("LoadBalancer-v0", {"num_groups": 1, "group_size": 2}),
    ],
)
def test_a_whole_config_and_our_environments_stay_as_they_are(
    env: str, keywords: dict[str, Any]
) -> None:
    model = GRPO("linear", env, **keywords)
    before = model.config
    assert model.learn(1).config == before


def test_an_environment_that_is_made_has_a_task_too() -> None:
    limited = gym.wrappers.TimeLimit(BestAction(), 300)
    model = GRPO("linear", lambda: gym.wrappers.TimeLimit(BestAction(), 300)).learn(1)
    assert model.config.num_envs == 32
    assert limited.spec is None


def test_the_command_line_takes_them_where_there_is_no_file_and_shows_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, _ = parse_train(["--env", "MountainCar-v0", "--total-steps", "2e5", "--seed", "3"])
    assert (settings.grpo.num_envs, settings.grpo.baseline, settings.grpo.seed) == (64, "auto", 3)
    shown = capsys.readouterr().err
    assert shown.startswith("settings from the task: num_groups 4, group_size 16")
    with pytest.raises(ConfigError, match="env must be a registered id"):
        parse_train(["--env", "NoSuchEnvironment-v0"])
    shipped, _ = parse_train(["--env", "CartPole-v1"])
    assert shipped.grpo.baseline == "time_step"
    parse_train(["--env", "MountainCar-v0", "--quiet"])
    assert capsys.readouterr().err == ""


def test_the_command_line_says_why_an_environment_cannot_be_made() -> None:
    def fail(**_: Any) -> gym.Env[Any, Any]:
        raise RuntimeError("no licence")

    gym.register("NoLicence-v0", fail)
    try:
        with pytest.raises(ConfigError, match=r"cannot be made .*no licence"):
            parse_train(["--env", "NoLicence-v0"])
    finally:
        del gym.registry["NoLicence-v0"]


@pytest.mark.parametrize("frame_history", [1, 8])
def test_the_command_line_and_python_take_the_same(frame_history: int) -> None:
    """8 observations of 84 numbers are more than states are compared by."""
    environment = "WideCartPole-v0"
    gym.register(
        environment,
        lambda **_: gym.wrappers.TransformObservation(
            gym.make("CartPole-v1"),
            lambda seen: np.tile(seen, 21),
            gym.spaces.Box(-np.inf, np.inf, (84,), np.float32),
        ),
    )
    try:
        options = ["--env", environment, "--frame-history", str(frame_history), "--quiet"]
        there, _ = parse_train([*options, "--total-steps", "400"])
        here = GRPO("linear", environment, frame_history=frame_history).learn(400)
    finally:
        del gym.registry[environment]
    assert there.grpo == here.config
    assert (here.config.baseline == "auto") == (frame_history == 1)
