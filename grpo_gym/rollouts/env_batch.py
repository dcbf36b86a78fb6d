"""The interface of a batch: B environments that are stepped, saved and restored together.

Shapes: B environments, W numbers of an observation's row (`rollouts.rows`), A choices, M saved
environments, K copies of each.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from grpo_gym.rollouts.returned import have_choice
from grpo_gym.rollouts.rows import row_format
from grpo_gym.rollouts.spaces import flat_size, is_finite, validate_action_space
from grpo_gym.settings import ConfigError

ENDLESS = 50_000
"""Steps after which an episode without a time limit is considered endless."""
LARGEST_REWARD = 1e100
"""So that no sum of rewards overflows, nor any sum of squared returns."""


@dataclass(frozen=True)
class BatchStep:
    """The result of one step of B environments.

    Attributes:
        observations: Rows, shape (B, W).
        rewards: Shape (B,), float64; 0 where no step was taken.
        terminated: Shape (B,), bool.
        truncated: Shape (B,), bool.
        infos: Per-step quantities by name, shape (B,), float64; NaN where an environment did not
            report one or was not stepped.
        action_masks: Legal actions, shape (B, A), bool, or None if the environment has no mask;
            everything is legal where an episode has ended.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: dict[str, np.ndarray]
    action_masks: np.ndarray | None


@dataclass(frozen=True)
class BatchSnapshot:
    """The saved states of M environments.

    Attributes:
        states: In the form of the kind of batch.
        seeds: Of their episodes, shape (M,), object.
        steps: Taken since their resets, shape (M,), int64.
    """

    states: Any
    seeds: np.ndarray
    steps: np.ndarray


class EnvError(RuntimeError):
    """An environment failed, or returned what it must not.

    The message names the environment, the call, the seed of the episode and the step.
    """


class EnvNumberError(EnvError, FloatingPointError):
    """An environment returned an observation or a reward that is not finite, or nearly so."""


class EnvBatch(ABC):
    """B environments, each reset from its own seed and stepped until its episode ends.

    What they return is checked here and nowhere else: observations and rewards are finite, and
    masks leave a choice.

    Attributes:
        name: What messages call the environment.
        num_envs: B.
        single_observation_space: Of one environment.
        single_action_space: Of one environment.
        rows: How observations are stored.
        has_time_limit: Whether every episode is known to end.
    """

    can_branch = True
    """Whether single environments can be saved and restored."""
    seeding_rule = "the environment must draw all its randomness from its seed (self.np_random)"
    """What an environment breaks if equal seeds start it differently."""

    def __init__(
        self,
        env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any],
        num_envs: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        has_time_limit: bool,
    ) -> None:
        """Describe the batch; `env` gives its name.

        Raises:
            ConfigError: If a space is not supported.
        """
        flat_size(observation_space)
        validate_action_space(action_space)
        self.rows = row_format(observation_space)
        self.name = env_name(env)
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.has_time_limit = has_time_limit
        self._seeds = np.full(num_envs, None, np.object_)
        self._steps = np.zeros(num_envs, np.int64)

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Start an episode in every environment, each from its own seed.

        Returns:
            Observations as rows, shape (B, W), and action masks, shape (B, A), bool, or None.

        Raises:
            EnvError: If an environment fails, or returns what it must not.
        """
        self._seeds[:] = list(seeds)
        self._steps[:] = 0
        observations, masks = self._reset(seeds)
        self._check_observations("reset", observations)
        self._check_masks("reset", masks)
        return observations, masks

    def step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """Step the environments that are alive, shape (B,), bool; the others stay as they are.

        `actions` have first axis B, also for environments that are not stepped.

        Raises:
            EnvError: If an environment fails, or returns what it must not.
            FloatingPointError: If an action is not finite.
        """
        self._steps += alive
        if actions.dtype.kind == "f" and not is_finite(actions[alive]):
            raise FloatingPointError(
                f"the actions for {self} must be finite, got nan or inf: the weights or outputs of "
                "the policy are not; lower learning_rate"
            )
        step = self._step(actions, alive)
        self._check_observations("step", step.observations)
        self._check_rewards(step.rewards, alive)
        self._check_masks("step", step.action_masks)
        return step

    def snapshot(self, members: np.ndarray) -> BatchSnapshot:
        """Save the states of the environments with these indices, shape (M,), int64."""
        return BatchSnapshot(self._snapshot(members), self._seeds[members], self._steps[members])

    def restore(self, snapshot: BatchSnapshot, members: np.ndarray) -> None:
        """Put environments into saved states, from which they continue exactly as the originals.

        The state includes all future randomness and the steps left until a time limit.

        Args:
            snapshot: Of M environments; it can be restored any number of times.
            members: Row i lists the environments that take the i-th saved state; shape (M, K),
                int64, all distinct.
        """
        self._restore(snapshot.states, members)
        self._seeds[members] = snapshot.seeds[:, None]
        self._steps[members] = snapshot.steps[:, None]

    @abstractmethod
    def close(self) -> None:
        """Release the environments' resources."""

    @abstractmethod
    def _reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """As `reset`, unchecked."""

    @abstractmethod
    def _step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        """As `step`, unchecked."""

    @abstractmethod
    def _snapshot(self, members: np.ndarray) -> Any:
        """The states of the environments with these indices."""

    @abstractmethod
    def _restore(self, states: Any, members: np.ndarray) -> None:
        """Put environments into states that `_snapshot` returned."""

    def error(self, call: str, b: int, problem: str, kind: type[EnvError] = EnvError) -> EnvError:
        """What to raise about a call, `reset` or `step`, of environment b."""
        seed, step = self._seeds[b], self._steps[b]
        return kind(f"{self}.{call}(), seed {seed}, step {step}: {problem}")

    def check_ending(self, steps: int) -> None:
        """Refuse to continue episodes of `ENDLESS` steps that no time limit will end.

        Raises:
            ConfigError: If there is one.
        """
        if steps >= ENDLESS and not self.has_time_limit:
            raise ConfigError(
                f"episodes of {self} must end, got one of {steps:,} steps: limit them with "
                "env_kwargs max_episode_steps=..., or a TimeLimit wrapper"
            )

    def __str__(self) -> str:
        return self.name

    def _check_observations(self, call: str, observations: np.ndarray) -> None:
        numbers = self.rows.floats(observations)
        if is_finite(numbers):
            return
        wrong = ~np.isfinite(numbers)
        b = int(wrong.any(axis=1).argmax())
        value = numbers[b, wrong[b].argmax()]
        raise self.error(call, b, f"observations must be finite, got {value}", EnvNumberError)

    def _check_rewards(self, rewards: np.ndarray, alive: np.ndarray) -> None:
        if np.vdot(rewards, rewards) <= LARGEST_REWARD**2:
            return
        wrong = alive & ~(np.abs(rewards) <= LARGEST_REWARD)
        if wrong.any():
            b = int(wrong.argmax())
            rule = f"rewards must be finite, and at most {LARGEST_REWARD:g} in size"
            raise self.error("step", b, f"{rule}, got {rewards[b]}", EnvNumberError)

    def _check_masks(self, call: str, masks: np.ndarray | None) -> None:
        if masks is None:
            return
        legal = have_choice(self.single_action_space, masks)
        if not legal.all():
            raise self.error(
                call, int(legal.argmin()), "action_mask must allow an action, got none"
            )


def env_name(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """The id of an environment, or else the name of its class."""
    return getattr(env.spec, "id", None) or type(env.unwrapped).__name__
