"""Every shipped configuration loads, names what exists, and trains."""

import dataclasses
import re
from dataclasses import replace
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, get_origin

import gymnasium as gym
import pytest

from grpo_gym import GRPO
from grpo_gym.deployment.config import GuardConfig
from grpo_gym.envs.autoscaler import presets as autoscaler
from grpo_gym.envs.battleship import presets as battleship
from grpo_gym.envs.load_balancer import presets as load_balancer
from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.settings import ConfigError, from_mapping, load_yaml
from grpo_gym.trainers.comparison.settings import SB3Settings
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.online.config import OnlineConfig
from grpo_gym.trainers.settings import TrainSettings
from grpo_gym.trainers.shipped import default_config, task_names
from optional import require_environment

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = sorted(
    entry.name for entry in files("grpo_gym.configs").iterdir() if entry.name.endswith(".yaml")
)

SHORT = sorted(
    f"comparison/grpo/{entry.name}"
    for entry in (files("grpo_gym.configs") / "comparison/grpo").iterdir()
)


def load(name: str) -> dict[str, Any]:
    with as_file(files("grpo_gym.configs") / name) as path:
        return load_yaml(path)


def source(env: str, monkeypatch: pytest.MonkeyPatch) -> EnvSource:
    """What makes an environment; those of MiniGrid without the text of the mission."""
    if env.startswith("MiniGrid-"):
        gym.register_envs(pytest.importorskip("minigrid"))
        wrappers = import_module("minigrid.wrappers")
        return lambda: wrappers.ImgObsWrapper(gym.make(env))
    monkeypatch.syspath_prepend(str(SCRIPTS))  # ids of our own
    require_environment(env)
    return env


@pytest.mark.parametrize("name", [*NAMES, *SHORT])
def test_two_iterations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_mapping(TrainSettings, load(name), name)
    env = source(settings.env, monkeypatch)
    # Games of Battleship are as good as each other until one of them ends.
    steps = 100 if settings.env.startswith("Battleship") else 20
    small = replace(settings.grpo, num_groups=2, group_size=2, max_episode_steps=steps)
    model = GRPO(
        settings.policy,
        env,
        env_kwargs=settings.env_kwargs,
        training_env_kwargs=settings.training_env_kwargs,
        config=small,
    )
    before = model.weights_sha256()
    model.train_iteration()
    model.train_iteration()
    assert model.iteration == 2
    assert model.weights_sha256() != before


@pytest.mark.parametrize("name", NAMES)
def test_is_found_by_the_environment_that_it_names(name: str) -> None:
    values = load(name)
    assert Path(name).stem in task_names(values["env"], values.get("env_kwargs", {}))
    assert default_config(values["env"], values.get("env_kwargs", {})) == values


@pytest.mark.parametrize(
    ("env", "presets", "default"),
    [
        ("LoadBalancer-v0", load_balancer.PRESETS, "flaky"),
        ("Battleship-v0", battleship.PRESETS, "classic-10x10"),
        ("AutoScaler-v0", autoscaler.PRESETS, "diurnal"),
    ],
)
def test_every_preset_has_settings_with_a_result(
    env: str, presets: dict[str, Any], default: str
) -> None:
    without = {preset for preset in presets if f"{env}-{preset}.yaml" not in NAMES}
    assert without == {default}  # its file has the environment's name
    for name in NAMES:
        if name.startswith(env):
            text = (files("grpo_gym.configs") / name).read_text()
            assert re.search(r"^# .*Result (over|on)", text, re.MULTILINE), name


@pytest.mark.parametrize(
    "config",
    [
        TrainSettings(),
        GRPOConfig(),
        OnlineConfig(),
        GuardConfig(),
        SB3Settings(env="CartPole-v1"),
        load_balancer.make_config(),
        battleship.make_config(),
        autoscaler.make_config(),
    ],
    ids=lambda config: type(config).__name__,
)
def test_true_is_no_number(config: Any) -> None:
    """Numbers of settings are `Integer` or `Number`: pydantic takes True for a plain int."""
    for field in dataclasses.fields(config):
        is_number = type(getattr(config, field.name)) in (int, float)
        if is_number and get_origin(field.type) is not Literal:
            with pytest.raises(ConfigError, match=f"{field.name} must be an? (integer|number)"):
                dataclasses.replace(config, **{field.name: True})
