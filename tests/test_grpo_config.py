import dataclasses
from typing import Any

import pytest

from grpo_gym.config import ConfigError, from_mapping, to_mapping
from grpo_gym.trainers.config import PRESETS, GRPOConfig, make_config


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings_and_survive_a_round_trip(preset: str) -> None:
    config = make_config(preset)
    for name, value in PRESETS[preset].items():
        assert getattr(config, name) == value
    assert from_mapping(GRPOConfig, to_mapping(config), "test") == config
    changed = make_config(preset, seed=7, num_groups=3)
    assert (changed.seed, changed.num_groups) == (7, 3)
    assert dataclasses.replace(changed, seed=config.seed, num_groups=config.num_groups) == config


def test_presets_are_all_different() -> None:
    configs = [make_config(preset) for preset in PRESETS]
    assert len({repr(config) for config in configs}) == len(configs)
    assert make_config() == GRPOConfig()


def test_published_variants_are_what_their_papers_say() -> None:
    grpo, dr_grpo, loop = (make_config(name) for name in ("grpo", "dr_grpo", "loop"))
    assert (grpo.scale, grpo.loss_normalisation, grpo.kl_coefficient) == (
        "group",
        "per_sequence",
        0.04,
    )
    assert (dr_grpo.scale, dr_grpo.loss_normalisation) == ("none", "constant")
    assert (loop.center, loop.min_advantage, loop.epochs) == ("leave_one_out", 0.01, 2)
    assert 1.0 - loop.clip_low == pytest.approx(1.0 / 1.1)
    assert (make_config("dapo").clip_low, make_config("dapo").clip_high) == (0.2, 0.28)
    magistral = make_config("magistral")
    assert (magistral.scale, magistral.loss_normalisation) == ("batch", "per_group")
    papers = [make_config(name) for name in PRESETS if name != "default"]
    assert all(
        (c.returns, c.baseline, c.discount) == ("outcome", "trajectory", 1.0) for c in papers
    )


def test_number_of_environments() -> None:
    assert make_config(num_groups=3, group_size=5).num_envs == 15


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"group_size": 1}, "group_size must be .*>= 2, got 1"),
        ({"num_groups": 0}, "num_groups must be .*>= 1"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate must be .*> 0"),
        ({"discount": 1.5}, "discount"),
        ({"discount": 0.0}, "discount"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"scale": "all"}, "scale must be"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes"),
        ({"seed": -1}, "seed"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"initial_log_std": 2.0}, "initial_log_std must lie inside log_std_bounds"),
        ({"log_std_bounds": (0.5, -3.0)}, "log_std_bounds"),
        ({"loss_constant": 10.0}, 'loss_constant must be None unless loss_normalisation is "cons'),
        ({"groupsize": 4}, "group_size"),
    ],
)
def test_nonsense_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**overrides)


def test_unknown_presets_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="preset must be a known name, got 'drgrpo'.*dr_grpo"):
        make_config("drgrpo")


def test_a_loss_constant_goes_with_its_normalisation() -> None:
    assert make_config("dr_grpo", loss_constant=100).loss_constant == 100.0
