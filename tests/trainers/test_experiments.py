"""The driver of experiments: shipped settings with changes, trainings, measurements kept."""

import json
from functools import partial
from pathlib import Path

import pytest

from grpo_gym.settings import ConfigError
from grpo_gym.trainers import experiments
from grpo_gym.trainers.experiments import shipped_settings


def test_shipped_settings_are_those_of_the_preset() -> None:
    settings = shipped_settings("LoadBalancer-v0", "park")
    assert settings.env_kwargs == {"preset": "park"}
    assert settings.training_env_kwargs == {"reward": "latency", "latency_scale_ms": 1000.0}
    assert (settings.total_steps, settings.grpo.num_groups) == (8_000_000, 4)
    assert shipped_settings("MountainCar-v0").total_steps == 1_000_000  # nothing is shipped for it


def test_changes_are_merged_into_the_shipped_settings() -> None:
    settings = shipped_settings(
        "LoadBalancer-v0",
        "park",
        env_kwargs={"num_servers": 3},
        training_env_kwargs={"reward": "jobs"},
        grpo={"num_groups": 2},
        total_steps=100,
    )
    assert settings.env_kwargs == {"preset": "park", "num_servers": 3}
    assert settings.training_env_kwargs == {"reward": "jobs", "latency_scale_ms": 1000.0}
    assert (settings.grpo.num_groups, settings.grpo.group_size) == (2, 32)
    assert settings.total_steps == 100
    with pytest.raises(ConfigError, match="num_group"):
        shipped_settings("LoadBalancer-v0", grpo={"num_group": 2})


def test_a_training_is_a_matter_of_its_seed() -> None:
    settings = shipped_settings("CartPole-v1", grpo={"num_groups": 2}, total_steps=1)
    first, again, other = (experiments.train(settings, seed) for seed in (3, 3, 4))
    assert first.model.iteration == 1
    assert first.model.weights_sha256() == again.model.weights_sha256()
    assert first.model.weights_sha256() != other.model.weights_sha256()
    assert experiments.train(settings, 3, iterations=2).model.iteration == 2


@pytest.mark.parametrize("processes", [None, 1])
def test_only_missing_measurements_are_made(tmp_path: Path, processes: int | None) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"a": 1}')
    measurements = {"a": partial(int, "not measured again"), "b": partial(int, "2")}
    assert experiments.measure(path, measurements, processes) == {"a": 1, "b": 2}
    assert json.loads(path.read_text()) == {"a": 1, "b": 2}
