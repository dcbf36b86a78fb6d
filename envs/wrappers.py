"""Rewards shaped by a potential, which leaves the best policy what it is, and rewards rescaled.

With a potential phi of states, the shaped reward is r + discount * phi(s') - phi(s). Over an
episode that adds up to minus the potential of its first state, whatever one does, if phi is 0
after termination. A truncated episode would have gone on, so there phi counts.

Source: Ng, Harada and Russell, Policy invariance under reward transformations (ICML 1999); on the
ends of episodes Grzes, Reward shaping in episodic reinforcement learning (AAMAS 2017).

Shapes: B environments.
"""

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from grpo_gym.settings import ConfigError

Potential = Callable[[Any, dict[str, Any]], Any]
"""From an observation and the infos that came with it, how good the state is: a number, or for
the batch of a vector environment shape (B,). Where infos are marked absent, any number will do."""


class ShapeReward(gym.Wrapper[Any, Any, Any, Any]):
    """Adds discount * phi(s') - phi(s) to each reward; the reward itself is `info["reward"]`."""

    def __init__(
        self, env: gym.Env[Any, Any], potential: Potential, discount: float = 0.99
    ) -> None:
        """Wrap an environment.

        Args:
            env: The environment.
            potential: Of an observation and its infos, after resets as after steps.
            discount: With which the policy is trained, in [0, 1]: another one changes what is
                best.

        Raises:
            ConfigError: If the discount makes no sense.
        """
        super().__init__(env)
        self.potential = potential
        self.discount = check_discount(discount)
        self._before = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._before = float(self.potential(observation, info))
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """A step with a shaped reward; see the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        after = 0.0 if terminated else float(self.potential(observation, info))
        shaped = float(reward) + self.discount * after - self._before
        self._before = after
        return observation, shaped, terminated, truncated, {**info, "reward": float(reward)}


class ShapeRewardVector(VectorWrapper):
    """`ShapeReward` for many environments, in any of Gymnasium's modes of automatic resets."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], potential: Potential, discount: float = 0.99
    ) -> None:
        """Wrap a vector environment; see `ShapeReward`.

        Raises:
            ConfigError: If the discount makes no sense, or it is not known when environments
                are reset.
        """
        super().__init__(env)
        self.potential = potential
        self.discount = check_discount(discount)
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ConfigError(
                f'env.metadata["autoreset_mode"] must be one of Gymnasium\'s modes, got {mode!r}'
            )
        self._mode = mode
        self._before = np.zeros(self.num_envs)
        self._finished = np.zeros(self.num_envs, np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes, with the option `reset_mask` some; see the environment."""
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        begun = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        self._before = np.where(begun, self._potentials(observations, infos), self._before)
        self._finished = self._finished & ~begun
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step with shaped rewards; see the environment."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        now = self._potentials(observations, infos)
        after = now
        done = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP and done.any():
            last = self._potentials(_last(observations, infos, done), infos["final_info"])
            after = np.where(done, last, now)
        after = np.where(terminated, 0.0, after)
        shaped = rewards + self.discount * after - self._before
        if self._mode is AutoresetMode.NEXT_STEP:  # those that had finished were reset instead
            shaped = np.where(self._finished, rewards, shaped)
        self._before = now if self._mode is AutoresetMode.SAME_STEP else after
        self._finished = done
        infos = {**infos, "reward": rewards, "_reward": np.ones(self.num_envs, np.bool_)}
        return observations, shaped, terminated, truncated, infos

    def _potentials(self, observations: Any, infos: dict[str, Any]) -> np.ndarray:
        values = np.asarray(self.potential(observations, infos), np.float64)
        return np.broadcast_to(values, (self.num_envs,))


class RewardScale:
    """The spread of the last rewards, to divide by.

    One of them may serve several environments: members of a group must share theirs, or their
    returns cannot be compared.
    """

    def __init__(self, window: int = 1_000, clip: float = 10.0, center: bool = False) -> None:
        """Begin without any rewards.

        Args:
            window: Rewards that count, the newest; >= 2.
            clip: Largest size of a scaled reward, > 0.
            center: Whether to subtract their mean first. Where actions decide how long an episode
                is, that changes which policy is best.

        Raises:
            ConfigError: If a number makes no sense.
        """
        if not window >= 2:
            raise ConfigError(f"window must be >= 2, got {window}")
        if not clip > 0.0:
            raise ConfigError(f"clip must be > 0, got {clip}")
        self.clip = clip
        self.center = center
        self._values = np.zeros(window)
        self._count = 0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """Take new rewards in, and scale them.

        Args:
            rewards: Shape (...), float64.

        Returns:
            Rewards over the standard deviation of the last ones, these included, clipped; the same
            shape. As long as they are all equal, they are divided by 1.
        """
        self._remember(np.ravel(rewards))
        known = self._values[: min(self._count, len(self._values))]
        spread = float(known.std())
        mean = float(known.mean()) if self.center else 0.0
        scaled = (rewards - mean) / (spread if spread > 1e-8 else 1.0)
        return np.clip(scaled, -self.clip, self.clip)

    def _remember(self, rewards: np.ndarray) -> None:
        window = len(self._values)
        first = max(0, len(rewards) - window)
        places = (self._count + np.arange(first, len(rewards))) % window
        self._values[places] = rewards[first:]
        self._count += len(rewards)


class ScaleReward(gym.Wrapper[Any, Any, Any, Any]):
    """Divides rewards by their running spread; the reward itself is `info["reward"]`."""

    def __init__(self, env: gym.Env[Any, Any], scale: RewardScale | None = None) -> None:
        """Wrap an environment; without a scale it has one of its own."""
        super().__init__(env)
        self.scale = RewardScale() if scale is None else scale

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """A step with a scaled reward; see the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        scaled = float(self.scale(np.float64(reward)))  # type: ignore[arg-type]
        info = {"reward": float(reward), **info}
        return observation, scaled, terminated, truncated, info


class ScaleRewardVector(VectorWrapper):
    """`ScaleReward` for many environments, which share the scale.

    Rewards of steps that only reset, 0, are neither counted nor changed.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], scale: RewardScale | None = None) -> None:
        """Wrap a vector environment; without a scale it has one of its own."""
        super().__init__(env)
        self.scale = RewardScale() if scale is None else scale
        self._resets_next = env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP
        self._finished = np.zeros(self.num_envs, np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; see the environment."""
        self._finished[(options or {}).get("reset_mask", slice(None))] = False
        return self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step with scaled rewards; see the environment."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        stepped = ~self._finished
        scaled = np.array(rewards, np.float64)
        if stepped.any():
            scaled[stepped] = self.scale(scaled[stepped])
        self._finished = (terminated | truncated) if self._resets_next else self._finished
        everyone = np.ones(self.num_envs, np.bool_)
        infos = {"reward": rewards, "_reward": everyone, **infos}
        return observations, scaled, terminated, truncated, infos


def check_discount(discount: float) -> float:
    """The discount itself.

    Raises:
        ConfigError: If it is not in [0, 1].
    """
    if not 0.0 <= discount <= 1.0:
        raise ConfigError(f"discount must be >= 0 and <= 1, got {discount}")
    return discount


def _last(observations: Any, infos: dict[str, Any], done: np.ndarray) -> Any:
    """Observations with the last ones of episodes where those ended, in the same step."""
    final = infos["final_obs"]
    if isinstance(observations, dict):
        last = {name: rows.copy() for name, rows in observations.items()}
        for b in np.flatnonzero(done):
            for name, rows in last.items():
                rows[b] = final[b][name]
        return last
    last = observations.copy()
    for b in np.flatnonzero(done):
        last[b] = final[b]
    return last
