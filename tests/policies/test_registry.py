"""A user's own network: as a callable, as a features extractor, registered, saved and loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from grpo_gym import GRPO, register_policy
from grpo_gym.policies.registry import make_policy, policy_names
from grpo_gym.settings import ConfigError
from grpo_gym.storage.checkpoint import CheckpointError
from probe_envs import BestAction, Recall

SMALL: dict[str, Any] = {"num_groups": 3, "group_size": 6, "seed": 3}


class Small(nn.Module):
    """Logits or means from one hidden layer."""

    def __init__(self, observation_space: Any, action_space: Any, width: int = 8) -> None:
        super().__init__()
        outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 1
        inputs = spaces.flatdim(observation_space)
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, observations: Tensor) -> Tensor:
        found: Tensor = self.layers(observations)
        return found


class Extractor(nn.Module):
    """Features for our last layer."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        super().__init__()
        self.features_dim = 5
        self.layer = nn.Linear(spaces.flatdim(observation_space), 5)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.relu(self.layer(observations))


def make_small(observation_space: Any, action_space: Any) -> nn.Module:
    return Small(observation_space, action_space, 4)


@pytest.mark.parametrize("network", [Small, make_small, Extractor])
def test_an_own_network_learns_is_saved_and_loaded(network: Any, tmp_path: Path) -> None:
    model = GRPO(network, BestAction, learning_rate=0.02, **SMALL).learn(1_500)
    assert model.evaluate(episodes=20).mean_return == 1.0
    path = tmp_path / "own.grpo"
    model.save(path)
    loaded = GRPO.load(path, BestAction, policy=network)
    assert loaded.weights_sha256() == model.weights_sha256()
    assert loaded.learn(100).weights_sha256() == model.learn(100).weights_sha256()


def test_a_file_does_not_say_how_to_build_an_own_network(tmp_path: Path) -> None:
    path = tmp_path / "own.grpo"
    GRPO(Small, BestAction, policy_kwargs={"width": 5}, **SMALL).save(path)
    with pytest.raises(CheckpointError, match=rf"{__name__}.Small: pass it as policy="):
        GRPO.load(path, BestAction)
    assert GRPO.load(path, BestAction, policy=Small).policy_kwargs == {"width": 5}
    with pytest.raises(CheckpointError, match="the weights do not fit the policy"):
        GRPO.load(path, BestAction, policy=Small, policy_kwargs={"width": 6})
    with pytest.raises(CheckpointError, match=rf"policy {__name__}.Small, not 'mlp'"):
        GRPO.load(path, BestAction, policy="mlp")


def test_arguments_that_no_file_can_hold_are_asked_for(tmp_path: Path) -> None:
    def build(observation_space: Any, action_space: Any, make: Any = Small) -> nn.Module:
        module: nn.Module = make(observation_space, action_space)
        return module

    path = tmp_path / "own.grpo"
    GRPO(build, BestAction, policy_kwargs={"make": make_small}, **SMALL).save(path)
    with pytest.raises(CheckpointError, match="pass policy_kwargs="):
        GRPO.load(path, BestAction, policy=build)
    GRPO.load(path, BestAction, policy=build, policy_kwargs={"make": make_small})


def test_the_seed_decides_the_weights_of_an_own_network() -> None:
    first, second = (GRPO(Small, Recall, **SMALL).weights_sha256() for _ in range(2))
    assert first == second
    assert GRPO(Small, Recall, **{**SMALL, "seed": 4}).weights_sha256() != first


def test_registered_names_are_saved_by_name(tmp_path: Path) -> None:
    register_policy("test-small", make_small)
    register_policy("test-small", make_small)
    with pytest.raises(ConfigError, match="name must not be taken, got 'test-small'"):
        register_policy("test-small", Small)
    with pytest.raises(ConfigError, match="name must not be taken, got 'mlp'"):
        register_policy("mlp", Small)
    assert "test-small" in policy_names()
    path = tmp_path / "own.grpo"
    model = GRPO("test-small", BestAction, **SMALL)
    model.save(path)
    assert GRPO.load(path, BestAction).weights_sha256() == model.weights_sha256()
    with pytest.raises(CheckpointError, match="trained with the policy 'test-small', not 'mlp'"):
        GRPO.load(path, BestAction, policy="mlp")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda o, a: "net", "must return a torch.nn.Module, got 'net'"),
        (lambda o: nn.Identity(), r"failed with \(observation_space, action_space.*TypeError"),
        (lambda o, a: a.nowhere, r"failed with .*Discrete\(4\).*AttributeError"),
        (lambda o, a: nn.Linear(3, 7), r"must map \(N, 3\) to \(N, 4\), got \(N, 7\): one logit"),
        (lambda o, a: nn.Linear(2, 4), r"must map observations of shape \(N, 3\), float32"),
        (
            lambda o, a: nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 4)),
            "must not contain Dropout: it would compute other probabilities",
        ),
        (
            lambda o, a: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)),
            "must not contain BatchNorm1d.*LayerNorm would not",
        ),
        (lambda o, a: nn.Flatten(0), r"must map \(N, 3\) to \(N, 4\)"),
    ],
)
def test_networks_that_do_not_fit_are_refused(factory: Any, message: str) -> None:
    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    options = GRPO("linear", BestAction).config
    with pytest.raises(ConfigError, match=message):
        make_policy(factory, box, spaces.Discrete(4), options, {})


def test_features_dim_must_be_a_width() -> None:
    class Wrong(Extractor):
        def __init__(self, observation_space: Any, action_space: Any) -> None:
            super().__init__(observation_space, action_space)
            self.features_dim = 0

    with pytest.raises(ConfigError, match=r"features_dim of policy .*Wrong must be >= 1, got 0"):
        GRPO(Wrong, BestAction)


def test_policies_that_are_none_are_refused() -> None:
    for policy, message in (
        (3, "policy must be a name or a callable, got 3"),
        ("mpl", "policy must be a known name, got 'mpl'. Did you mean 'mlp'?"),
        ("nowhere.nets:small", "policy 'nowhere.nets:small' cannot be imported: No module named"),
    ):
        wrong: Any = policy
        with pytest.raises(ConfigError) as caught:
            GRPO(wrong, BestAction)
        assert message in str(caught.value)


def test_policy_kwargs_of_built_in_policies_are_their_options() -> None:
    model = GRPO("mlp", Recall, policy_kwargs={"hidden_sizes": [5], "activation": "relu"})
    assert (model.config.hidden_sizes, model.config.activation) == ((5,), "relu")
    with pytest.raises(ConfigError, match="policy_kwargs: 'channels' is not an option of 'mlp'"):
        GRPO("mlp", Recall, policy_kwargs={"channels": 3})
    with pytest.raises(ConfigError, match="Did you mean 'hidden_sizes'"):
        GRPO("mlp", Recall, policy_kwargs={"hidden_size": [3]})


def test_box_actions_need_a_mean_per_dimension() -> None:
    model = GRPO(Small, "Pendulum-v1", max_episode_steps=20, **SMALL)
    model.train_iteration()
    action, _ = model.predict(np.zeros(3, np.float32))
    assert action.shape == (1,)


MODULE = """
import gymnasium as gym
from torch import nn

from grpo_gym import register_policy

gym.register("Pole-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv",
             max_episode_steps=50)


def tiny(observation_space, action_space, width=4):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))


register_policy("tiny", tiny)
"""


ONE_BY_ONE = """
import os, sys
import grpo_gym.cli.training  # loads torch, once
from grpo_gym.cli.main import main

for command in sys.argv[1:]:
    child = os.fork()  # which knows nothing that another one has imported or registered
    if child == 0:
        sys.exit(main(command.split()))
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {command}")
"""


@pytest.mark.parametrize("words", [["own_nets:Pole-v0", "tiny"], ["CartPole-v1", "own_nets:tiny"]])
def test_the_command_line_trains_and_evaluates_registered_names(
    words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own_nets.py").write_text(MODULE)
    env, policy = words
    (tmp_path / "train.yaml").write_text(
        f"env: {env}\npolicy: {policy}\npolicy_kwargs: {{width: 6}}\n"
    )

    # A checkpoint imports nothing: the environment's module registers the policy.
    imported = env if ":" in env else f"own_nets:{env}"
    commands = [
        "train --config train.yaml --total-steps 300 --run-dir run --evaluations 1 "
        "--evaluation-episodes 2 --final-episodes 2",
        "train --resume run",
        f"evaluate --policy run --env {imported} --episodes 2",
    ]
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE, *commands],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "run on" in done.stdout
