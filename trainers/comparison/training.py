"""The interface through which a comparison trains every algorithm, and GRPO behind it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

from torch import nn
from typing_extensions import override

from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.trainers.grpo import GRPO, IterationStats
from grpo_gym.trainers.settings import TrainSettings, new_model
from grpo_gym.trainers.standstill import Standstill


class Training(ABC):
    """An algorithm in its environment, before, during and after training.

    Attributes:
        network: The trained network; without the critic where that is a network of its own.
        parameters: Number of learned parameters, including a critic's.
        policy_parameters: Number of those that choose actions.
    """

    network: nn.Module
    parameters: int
    policy_parameters: int

    @abstractmethod
    def learn(self, total_steps: int, record: Callable[[int], None]) -> int:
        """Train.

        Args:
            total_steps: Environment steps, rounded up to whole iterations; schedules span them.
            record: Called between iterations with the steps so far; it may evaluate the policy.

        Returns:
            Environment steps trained.
        """

    @abstractmethod
    def action_function(self, deterministic: bool) -> ActionFunction:
        """The current policy; further training changes what the function returns."""


class GRPOTraining(Training):
    """GRPO."""

    def __init__(self, settings: TrainSettings, seed: int) -> None:
        """Make the model and its environments without collecting anything.

        Raises:
            ConfigError: If the settings or the environment cannot be used.
        """
        self._model = new_model(replace(settings, grpo=replace(settings.grpo, seed=seed)))
        self._model.prepare()
        critic = self._model.value_baseline
        self.network = self._model.policy
        self.policy_parameters = count_parameters(self.network)
        self.parameters = self.policy_parameters
        if critic is not None:
            self.parameters += count_parameters(critic.network)

    @override
    def learn(self, total_steps: int, record: Callable[[int], None]) -> int:
        def callback(model: GRPO, stats: IterationStats) -> None:
            model.standstill = Standstill()  # each training takes the steps that were planned
            record(stats.num_steps)

        with self._model:
            self._model.learn(total_steps, callback=callback)
        return self._model.num_steps

    @override
    def action_function(self, deterministic: bool) -> ActionFunction:
        return self._model.action_function(deterministic)


def count_parameters(module: nn.Module) -> int:
    """Number of learned parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
