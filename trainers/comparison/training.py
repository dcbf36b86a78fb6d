"""The interface through which a comparison trains every algorithm, and GRPO behind it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from torch import nn
from typing_extensions import override

from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.trainers.comparison.settings import SB3Settings, Settings
from grpo_gym.trainers.grpo import GRPO, IterationStats
from grpo_gym.trainers.settings import TrainSettings, new_model


class Training(Protocol):
    """An algorithm in its environment, before, during and after training."""

    @property
    def num_steps(self) -> int:
        """Environment steps trained so far."""

    @property
    def parameters(self) -> int:
        """Number of learned parameters, including a critic's."""

    @property
    def policy_parameters(self) -> int:
        """Number of those that choose actions."""

    @property
    def network(self) -> nn.Module:
        """The trained network; without the critic where that is a network of its own."""

    def learn(self, total_steps: int, record: Callable[[int], None]) -> None:
        """Train.

        Args:
            total_steps: Environment steps, rounded up to whole iterations; schedules span them.
            record: Called between iterations with the steps so far; it may evaluate the policy.
        """

    def action_function(self, deterministic: bool) -> ActionFunction:
        """The current policy; further training changes what the function returns."""


class GRPOTraining(Training):
    """GRPO."""

    def __init__(self, settings: TrainSettings, seed: int) -> None:
        """Make the model and its environments without collecting anything.

        Args:
            settings: Everything but the number of steps.
            seed: Seed of the training.

        Raises:
            ConfigError: If the settings or the environment cannot be used.
        """
        self._model = new_model(replace(settings, grpo=replace(settings.grpo, seed=seed)))
        self._model.prepare()

    @property
    @override
    def num_steps(self) -> int:
        return self._model.num_steps

    @property
    @override
    def parameters(self) -> int:
        critic = self._model.value_baseline
        return self.policy_parameters + (0 if critic is None else count_parameters(critic.network))

    @property
    @override
    def policy_parameters(self) -> int:
        return count_parameters(self._model.policy)

    @property
    @override
    def network(self) -> nn.Module:
        return self._model.policy

    @override
    def learn(self, total_steps: int, record: Callable[[int], None]) -> None:
        def callback(_: GRPO, stats: IterationStats) -> None:
            record(stats.num_steps)

        self._model.learn(total_steps, callback=callback)

    @override
    def action_function(self, deterministic: bool) -> ActionFunction:
        return self._model.action_function(deterministic)


def new_training(settings: Settings, seed: int) -> Training:
    """An algorithm before training.

    Raises:
        ConfigError: If it cannot play the environment, or not with these settings.
    """
    if isinstance(settings, SB3Settings):
        from grpo_gym.trainers.comparison.sb3_training import SB3Training  # of the extra `compare`

        return SB3Training(settings, seed)
    return GRPOTraining(settings, seed)


def count_parameters(module: nn.Module) -> int:
    """Number of learned parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
