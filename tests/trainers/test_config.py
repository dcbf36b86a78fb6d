import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from grpo_gym import GRPO
from grpo_gym.settings import ConfigError, from_mapping, to_mapping
from grpo_gym.trainers.config import GRPOConfig
from grpo_gym.trainers.presets import PRESETS, make_config
from probe_envs import BestAction


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
        ({"groupsize": 4}, "group_size"),
        ({"branch_every": 0}, "branch_every must be .*>= 1"),
        ({"branch_lookahead": -1}, "branch_lookahead must be .*>= 0"),
        ({"branch_from": "worst"}, "branch_from must be one of 'random', 'first', 'best'"),
        ({"frame_history": 0}, "frame_history must be .*>= 1"),
        ({"refill_rounds": -1}, "refill_rounds must be .*>= 0"),
        ({"reference_decay": 1.0}, "reference_decay must be < 1, got 1.0"),
        ({"dual_clip": 1.0}, "dual_clip must be > 1"),
        ({"max_kl": 0.0}, "max_kl must be > 0"),
        ({"state_bin_width": -0.5}, "state_bin_width must be >= 0"),
        ({"anchor_discount": 0.0}, "anchor_discount"),
        ({"minibatch_size": 0}, "minibatch_size must be .*>= 1"),
        ({"minibatches": "group"}, "minibatches must be .*'groups'"),
    ],
)
def test_nonsense_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**overrides)


COMBINATIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    *[
        (
            {"center": "leave_one_out", "baseline": baseline},
            {"baseline": "trajectory"},
            'center must be "mean" unless baseline is "trajectory" or "time_step", got '
            f'"leave_one_out" with "{baseline}"',
        )
        for baseline in ("none", "batch", "time_bin", "state_bin")
    ],
    *[
        (
            {"dual_clip": 3.0, "objective": objective},
            {"objective": "clipped"},
            f'dual_clip must be None unless objective is "clipped", got 3.0 with "{objective}"',
        )
        for objective in ("unclipped", "upper_clipped", "cispo", "reinforce")
    ],
    *[
        (
            {"update": "trust_region", "ratio": ratio},
            {"ratio": "step"},
            f'ratio must be "step" with update "trust_region", got "{ratio}"',
        )
        for ratio in ("sequence", "sequence_mean")
    ],
    (
        {"update": "trust_region", "objective": "cispo"},
        {"objective": "unclipped"},
        'objective must be "clipped" with update "trust_region", got "cispo"',
    ),
    (
        {"update": "trust_region", "dual_clip": 3.0},
        {"dual_clip": None},
        'dual_clip must be null with update "trust_region", got 3.0',
    ),
    (
        {"objective": "reinforce", "ratio": "sequence"},
        {"ratio": "step"},
        'ratio must be "step" with objective "reinforce", got "sequence": it has none',
    ),
    (
        {"refill_rounds": 2, "baseline": "batch"},
        {"baseline": "trajectory"},
        'refill_rounds must be 0 with baseline "batch", got 2: no group would be replaced',
    ),
    (
        {"refill_rounds": 2, "drop_uniform_groups": False},
        {"drop_uniform_groups": True},
        "refill_rounds must be 0 unless drop_uniform_groups is true, got 2: no group would be "
        "replaced",
    ),
    *[
        (
            {"ratio": ratio, "minibatches": minibatches},
            {"minibatches": "groups"},
            f'minibatches must be "trajectories" or "groups" with ratio "{ratio}", got '
            f'"{minibatches}": a trajectory\'s ratio needs all its steps',
        )
        for ratio in ("sequence", "sequence_mean")
        for minibatches in ("steps", "time_steps")
    ],
    (
        {"minibatches": "time_steps", "minibatch_size": 15},
        {"minibatch_size": 16},
        'minibatch_size must be >= group_size 16 with minibatches "time_steps", got 15: groups '
        "would be split",
    ),
    (
        {"loss_constant": 10.0},
        {"loss_normalisation": "constant"},
        'loss_constant must be None unless loss_normalisation is "constant", got 10.0',
    ),
]


@pytest.mark.parametrize(("overrides", "remedy", "message"), COMBINATIONS)
def test_settings_that_contradict_each_other_are_refused(
    overrides: dict[str, Any], remedy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**overrides)
    assert str(caught.value).endswith(message)
    make_config(**{**overrides, **remedy})


def test_unknown_presets_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"preset must be a known name, got 'drgrpo'.*dr_grpo"):
        make_config("drgrpo")


def test_a_loss_constant_goes_with_its_normalisation() -> None:
    assert make_config("dr_grpo", loss_constant=100).loss_constant == 100.0


# The trainer's arguments


def test_bad_arguments_are_refused_before_anything_is_made() -> None:
    made: list[int] = []

    def env() -> gym.Env[Any, Any]:
        made.append(1)
        return BestAction()

    bad: list[tuple[dict[str, Any], str]] = [
        ({"policy": "mpl"}, "policy must be a known name, got 'mpl'.*mlp"),
        ({"preset": "gpro"}, "preset must be a known name, got 'gpro'"),
        ({"group_size": 1}, "group_size"),
        ({"lr": 0.1}, "lr"),
        ({"config": GRPOConfig(), "preset": "loop"}, "preset must be None when config is given"),
        ({"env_kwargs": {"a": 1}}, "env_kwargs must be empty"),
    ]
    for arguments, message in bad:
        with pytest.raises(ConfigError, match=message):
            GRPO(env=env, **arguments)
    assert not made


def test_a_config_of_ones_own() -> None:
    config = GRPOConfig(num_groups=3, group_size=2, hidden_sizes=(5,))
    model = GRPO("mlp", BestAction, config=config)
    assert model.config is config or model.config == config
    assert GRPO("mlp", BestAction, config=config, seed=4).config.seed == 4
    assert config.seed == 0
    assert model.train_iteration().rollout_steps == 6
    linear = GRPO("linear", BestAction, config=config)
    assert sum(p.numel() for p in linear.policy.parameters()) == 3 + 3


def test_arguments_for_training_only(tmp_path: Path) -> None:
    model = GRPO(
        "linear",
        "LoadBalancer-v0",
        env_kwargs={"episode_length": 30},
        training_env_kwargs={"episode_length": 20},
        num_groups=2,
        group_size=2,
    )
    assert model.train_iteration().rollout["length_mean"] == 20.0
    assert model.evaluate(2).lengths.tolist() == [30, 30]
    model.save(tmp_path / "m.grpo")
    loaded = GRPO.load(tmp_path / "m.grpo")
    assert loaded.train_iteration().rollout["length_mean"] == 20.0
    assert loaded.evaluate(2).lengths.tolist() == [30, 30]
    with pytest.raises(ConfigError, match="training_env_kwargs must not change the spaces"):
        GRPO("linear", "LoadBalancer-v0", training_env_kwargs={"num_servers": 7})
