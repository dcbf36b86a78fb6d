"""Training GRPO as the comparison trains every algorithm."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from torch import nn

from grpo_gym.evaluation.episodes import ActionFunction
from grpo_gym.trainers.grpo import GRPO, IterationStats
from grpo_gym.trainers.settings import TrainSettings, new_model


class Training(Protocol):
    """An algorithm in its environment, before, while and after it learns."""

    @property
    def num_steps(self) -> int:
        """Environment steps taken in training."""

    @property
    def parameters(self) -> int:
        """Numbers that are learned, a critic's included."""

    @property
    def policy_parameters(self) -> int:
        """Those of them that act."""

    def learn(self, total_steps: int, record: Callable[[int], None]) -> None:
        """Train for so many environment steps, rounded up to whole iterations.

        Args:
            total_steps: Environment steps; schedules span them.
            record: Called between iterations with the steps so far; it may look at the policy.
        """

    def action_function(self, deterministic: bool) -> ActionFunction:
        """The policy as it is now; it goes on changing with the training."""

    def weights(self) -> nn.Module:
        """All that is learned, but for a critic that lies elsewhere."""


class OurTraining:
    """GRPO."""

    def __init__(self, settings: TrainSettings, seed: int) -> None:
        """Make the model and its environments; nothing is collected yet.

        Args:
            settings: What to train with; how long is said to `learn`.
            seed: Decides everything that is random.

        Raises:
            ConfigError: If the settings or the environment cannot be used.
        """
        self._model = new_model(replace(settings, grpo=replace(settings.grpo, seed=seed)))
        self._model.prepare()

    @property
    def num_steps(self) -> int:
        """See `Training.num_steps`."""
        return self._model.num_steps

    @property
    def parameters(self) -> int:
        """See `Training.parameters`."""
        critic = self._model.value_baseline
        learned = () if critic is None else critic.network.parameters()
        return self.policy_parameters + sum(parameter.numel() for parameter in learned)

    @property
    def policy_parameters(self) -> int:
        """See `Training.policy_parameters`."""
        return sum(parameter.numel() for parameter in self._model.policy.parameters())

    def learn(self, total_steps: int, record: Callable[[int], None]) -> None:
        """See `Training.learn`."""

        def tell(_: GRPO, stats: IterationStats) -> None:
            record(stats.num_steps)

        self._model.learn(total_steps, callback=tell)

    def action_function(self, deterministic: bool) -> ActionFunction:
        """See `Training.action_function`."""
        return self._model.action_function(deterministic)

    def weights(self) -> nn.Module:
        """See `Training.weights`."""
        return self._model.policy
