"""Settings of the algorithms that GRPO is compared with: found, checked, told."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.settings import ConfigError, from_mapping, load_yaml, save_yaml
from grpo_gym.storage.checkpoint import weights_sha256
from grpo_gym.trainers.comparison.contenders import Contender, find_contender
from grpo_gym.trainers.comparison.settings import (
    ALGORITHMS,
    SB3_CLASSES,
    SB3Settings,
    check_algorithm,
    keyword_arguments,
    require,
)
from grpo_gym.trainers.grpo import GRPO
from grpo_gym.trainers.settings import TrainSettings
from grpo_gym.trainers.shipped import default_config
from optional import require_environment

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

SCRIPTS = Path(__file__).parents[3] / "scripts"
SHIPPED = sorted(
    (algorithm, Path(str(entry)))
    for algorithm in SB3_CLASSES
    if (files("grpo_gym.configs") / "comparison" / algorithm).is_dir()
    for entry in (files("grpo_gym.configs") / "comparison" / algorithm).iterdir()
)


@pytest.mark.parametrize(
    ("algorithm", "path"), SHIPPED, ids=lambda value: getattr(value, "stem", value)
)
def test_shipped_files_are_found_by_what_they_are_for(algorithm: str, path: Path) -> None:
    values = load_yaml(path)
    preset = {name: v for name, v in values.get("env_kwargs", {}).items() if name == "preset"}
    found = find_contender(algorithm, values["env"], preset)
    assert isinstance(found.settings, SB3Settings)
    assert found.settings.env_kwargs == values.get("env_kwargs", {})
    assert found.tuned == values.get("tuned", False)
    keywords = keyword_arguments(found.settings)
    assert keywords["learning_rate"] == values["settings"]["learning_rate"]
    assert keywords["clip_range"] == values["settings"].get("clip_range", 0.2)  # theirs


@pytest.mark.parametrize(
    ("algorithm", "path"), SHIPPED, ids=lambda value: getattr(value, "stem", value)
)
def test_two_iterations(algorithm: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = load_yaml(path)
    monkeypatch.syspath_prepend(str(SCRIPTS))  # ids of our own
    require_environment(values["env"])
    few = {**values["settings"], "n_steps": 8, "batch_size": 8, "n_epochs": 1}
    shipped = from_mapping(SB3Settings, values, str(path))
    small = replace(shipped, num_envs=2, settings=few)
    training = Contender(settings=small, tuned=True).new_training(seed=0)
    before = weights_sha256(training.network.state_dict())
    assert training.learn(32, lambda steps: None) == 32
    assert weights_sha256(training.network.state_dict()) != before


def test_another_preset_has_nothing_of_the_file_for_its_environment() -> None:
    own = find_contender("maskable_ppo", "Battleship-v0", {})
    other = find_contender("maskable_ppo", "grpo_gym:Battleship-v0", {"preset": "uniform-5x5"})
    assert own.settings.training_env_kwargs == {"hit_bonus": 2.6}
    assert other.settings.training_env_kwargs == {}
    assert other.settings.env_kwargs == {"preset": "uniform-5x5"}
    ours = find_contender("grpo", "LoadBalancer-v0", {})
    assert ours.tuned and not find_contender("grpo", "LoadBalancer-v0", {"preset": "loop"}).tuned


def test_ours_are_those_for_short_trainings_where_there_are_such() -> None:
    short = find_contender("grpo", "LoadBalancer-v0", {}).settings
    values = load_yaml(str(files("grpo_gym.configs") / "comparison/grpo/LoadBalancer-v0.yaml"))
    assert isinstance(short, TrainSettings)
    assert short.grpo.num_groups * short.grpo.group_size == 64
    assert default().grpo.num_groups * default().grpo.group_size == 128
    assert short.grpo.learning_rate == values["grpo"]["learning_rate"]
    other = find_contender("grpo", "LoadBalancer-v0", {"preset": "hetero2"}).settings
    assert other == default(preset="hetero2")


def default(**env_kwargs: str) -> TrainSettings:
    """What a training without options has."""
    values = default_config("LoadBalancer-v0", env_kwargs)
    return from_mapping(TrainSettings, {"env": "LoadBalancer-v0", **values}, "default")


def test_without_a_file_there_are_defaults() -> None:
    found = find_contender("ppo", "MountainCar-v0", {})
    assert isinstance(found.settings, SB3Settings) and not found.tuned
    assert found.settings.num_envs * keyword_arguments(found.settings)["n_steps"] == 2048
    assert keyword_arguments(find_contender("a2c", "Acrobot-v1", {}).settings)["n_steps"] == 5  # type: ignore[arg-type]


def test_settings_from_the_task_where_nothing_chose_any() -> None:
    """As `train` and `GRPO` take them: an environment of one's own is no worse off here."""
    adapted = find_contender("grpo", "MountainCar-v0", {}).trained_for(50_000)
    model = GRPO("mlp", "MountainCar-v0")
    model.learn(1_000)  # of fewer steps, with the same smallest groups
    assert isinstance(adapted.settings, TrainSettings) and adapted.from_task
    assert adapted.settings.grpo == model.config
    for name, value in adapted.from_task.items():
        assert getattr(adapted.settings.grpo, name) == value
    for tuned in ("CartPole-v1", "LoadBalancer-v0"):
        found = find_contender("grpo", tuned, {})
        assert found.trained_for(50_000) == found
    other = find_contender("ppo", "MountainCar-v0", {})
    assert other.trained_for(50_000) == other


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    mine = {"env": "CartPole-v1", "algorithm": "ppo", "tuned": True, "settings": {"gamma": 0.5}}
    save_yaml(mine, path)
    found = find_contender("ppo", "CartPole-v1", {}, str(path))
    assert found.tuned and found.settings.settings == {"gamma": 0.5}  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="for Acrobot-v1"):
        find_contender("ppo", "Acrobot-v1", {}, str(path))
    with pytest.raises(ConfigError, match="algorithm must be a2c, got ppo"):
        find_contender("a2c", "CartPole-v1", {}, str(path))
    save_yaml({**mine, "env_kwargs": {"preset": "park"}, "env": "LoadBalancer-v0"}, path)
    with pytest.raises(ConfigError, match="with preset None"):
        find_contender("ppo", "LoadBalancer-v0", {}, str(path))


PUBLISHED = sorted((Path(__file__).parents[3] / "docs" / "results").glob("comparison_*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_comparisons_go_on_with_the_shipped_settings(path: Path) -> None:
    """Also files of before a setting existed, such as `initial_log_std`."""
    values = json.loads(path.read_text(encoding="utf-8"))
    task = values["task"]
    for key, training in values.items():
        algorithm = key.partition("/")[0]
        if algorithm in ALGORITHMS:
            found = find_contender(algorithm, task["env"], task["env_kwargs"])
            found = found.trained_for(task["total_steps"])
            assert found.completed(training["settings"]) == found.describe()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_stepz": 8}, r"not an argument of PPO. Did you mean 'n_steps'"),
        ({"n_steps": "many"}, "must be an integer"),
        ({"n_steps": 0}, "must be >= 1, got 0"),
        ({"gamma": 1.5}, "must be <= 1"),
        ({"target_kl": -0.1}, "must be > 0"),
        ({"normalize_advantage": 1}, "must be true or false"),
        ({"n_steps": 100, "batch_size": 96}, "must divide num_envs [*] n_steps = 1600, got 96"),
    ],
)
def test_keyword_arguments_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keyword_arguments(SB3Settings(env="CartPole-v1", settings=settings))


def test_what_cannot_be_is_refused_when_made() -> None:
    with pytest.raises(ConfigError, match="the comparison sets it"):
        SB3Settings(env="CartPole-v1", settings={"seed": 3})
    with pytest.raises(ConfigError, match='policy must be "mlp"'):
        SB3Settings(env="Battleship-v0", algorithm="recurrent_ppo", policy="board")
    with pytest.raises(ConfigError, match="Did you mean 'trpo'"):
        check_algorithm("trop")
    with pytest.raises(ConfigError, match=r'pip install "grpo-gym\[compare\]"'):
        require(("json", "no_such_module"), "compare")


def test_all_that_decides_a_training_is_told() -> None:
    settings = SB3Settings(env="CartPole-v1", settings={"n_steps": 64})
    told = Contender(settings=settings, tuned=False).describe()
    assert told["settings"]["n_steps"] == 64 and told["settings"]["n_epochs"] == 10
    assert not {"tuned", "env", "channels", "lstm_width"} & set(told)
    ours = find_contender("grpo", "CartPole-v1", {}).describe()
    assert "seed" not in ours["grpo"] and ours["grpo"]["group_size"] == 8
