"""Wrappers that shape rewards by a potential, or rescale them.

With a potential phi of states, the shaped reward is r + discount * phi(s') - phi(s). Over an
episode the added terms sum to minus the potential of the first state, whatever the policy does, if
phi is 0 after termination; so the optimal policy stays optimal. A truncated episode would have
continued, so there phi counts.

Source: Ng, Harada and Russell, Policy invariance under reward transformations (ICML 1999); on the
ends of episodes Grzes, Reward shaping in episodic reinforcement learning (AAMAS 2017).

Shapes: B environments.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from pydantic import Field
from typing_extensions import override

from grpo_gym.settings import ConfigError, Fraction, Integer, Positive, check_value

Potential = Callable[[Any, dict[str, Any]], Any]
"""(observation, infos) -> how good the state is: a number, or for a vector environment shape (B,).
Where infos are marked absent, any number will do."""
Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
VectorStep = tuple[Any, Any, Any, Any, dict[str, Any]]


class ShapeReward(gym.Wrapper[Any, Any, Any, Any]):
    """Adds discount * phi(s') - phi(s) to each reward; `info["reward"]` is the reward itself."""

    def __init__(
        self, env: gym.Env[Any, Any], potential: Potential, discount: float = 0.99
    ) -> None:
        """Wrap an environment.

        Args:
            env: The environment.
            potential: Called with an observation and its infos, after resets and after steps.
            discount: The discount of training, in [0, 1]; another one changes the optimal policy.

        Raises:
            ConfigError: If the discount is outside [0, 1].
        """
        super().__init__(env)
        self.potential = potential
        self.discount = check_value("discount", discount, Fraction)
        self._before = 0.0

    @override
    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**arguments)
        self._before = float(self.potential(observation, info))
        return observation, info

    @override
    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        after = 0.0 if terminated else float(self.potential(observation, info))
        shaped = float(reward) + self.discount * after - self._before
        self._before = after
        return observation, shaped, terminated, truncated, {**info, "reward": float(reward)}


class ShapeRewardVector(VectorWrapper):
    """`ShapeReward` for vector environments with any autoreset mode."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], potential: Potential, discount: float = 0.99
    ) -> None:
        """Wrap a vector environment; `potential` is called with all observations and infos.

        Raises:
            ConfigError: If the discount is outside [0, 1], or `env` names no autoreset mode.
        """
        super().__init__(env)
        self.potential = potential
        self.discount = check_value("discount", discount, Fraction)
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ConfigError(
                f'env.metadata["autoreset_mode"] must be one of Gymnasium\'s modes, got {mode!r}'
            )
        self._mode = mode
        self._before = np.zeros(self.num_envs)
        self._finished = np.zeros(self.num_envs, np.bool_)

    @override
    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(**arguments)
        begun = _reset_mask(self.num_envs, **arguments)
        self._before = np.where(begun, self._potentials(observations, infos), self._before)
        self._finished = self._finished & ~begun
        return observations, infos

    @override
    def step(self, actions: Any) -> VectorStep:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        now = self._potentials(observations, infos)
        after = now
        done = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP and done.any():
            final = self._potentials(_final(observations, infos, done), infos["final_info"])
            after = np.where(done, final, now)
        after = np.where(terminated, 0.0, after)
        shaped = rewards + self.discount * after - self._before
        if self._mode is AutoresetMode.NEXT_STEP:  # finished environments were reset instead
            shaped = np.where(self._finished, rewards, shaped)
        self._before = now if self._mode is AutoresetMode.SAME_STEP else after
        self._finished = done
        infos = {**infos, "reward": rewards, "_reward": np.ones(self.num_envs, np.bool_)}
        return observations, shaped, terminated, truncated, infos

    def _potentials(self, observations: Any, infos: dict[str, Any]) -> np.ndarray:
        values = np.asarray(self.potential(observations, infos), np.float64)
        return np.broadcast_to(values, (self.num_envs,))


class RewardScale:
    """The standard deviation of the most recent rewards, to divide by.

    Several environments may share one: members of a group must, or their returns are not
    comparable.
    """

    def __init__(self, window: int = 1_000, clip: float = 10.0, center: bool = False) -> None:
        """Start without any rewards.

        Args:
            window: Number of recent rewards that count, >= 2.
            clip: Largest absolute value of a scaled reward, > 0.
            center: Whether to subtract the mean first. Where actions decide how long an episode
                is, that changes which policy is optimal.

        Raises:
            ConfigError: If `window` or `clip` is too small.
        """
        self.clip = check_value("clip", clip, Positive)
        self.center = center
        self._values = np.zeros(check_value("window", window, Annotated[Integer, Field(ge=2)]))
        self._count = 0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """Record new rewards, and scale them.

        Args:
            rewards: Shape (...), float64.

        Returns:
            Rewards over the standard deviation of the recent ones, these included, clipped; the
            same shape. While all recent rewards are equal, the divisor is 1.
        """
        self._record(np.ravel(rewards))
        known = self._values[: min(self._count, len(self._values))]
        spread = float(known.std())
        mean = float(known.mean()) if self.center else 0.0
        scaled = (rewards - mean) / (spread if spread > 1e-8 else 1.0)
        return np.clip(scaled, -self.clip, self.clip)

    def _record(self, rewards: np.ndarray) -> None:
        window = len(self._values)
        first = max(0, len(rewards) - window)
        places = (self._count + np.arange(first, len(rewards))) % window
        self._values[places] = rewards[first:]
        self._count += len(rewards)


class ScaleReward(gym.Wrapper[Any, Any, Any, Any]):
    """Divides rewards by their running spread; `info["reward"]` is the reward itself."""

    def __init__(self, env: gym.Env[Any, Any], scale: RewardScale | None = None) -> None:
        """Wrap an environment; without a scale it gets its own."""
        super().__init__(env)
        self.scale = RewardScale() if scale is None else scale

    @override
    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        scaled = float(self.scale(np.float64(reward)))  # type: ignore[arg-type]
        info = {"reward": float(reward), **info}
        return observation, scaled, terminated, truncated, info


class ScaleRewardVector(VectorWrapper):
    """`ScaleReward` for vector environments, whose environments share the scale.

    The zero rewards of steps that only reset are neither recorded nor changed.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], scale: RewardScale | None = None) -> None:
        """Wrap a vector environment; without a scale it gets its own."""
        super().__init__(env)
        self.scale = RewardScale() if scale is None else scale
        self._resets_next = env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP
        self._finished = np.zeros(self.num_envs, np.bool_)

    @override
    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self._finished &= ~_reset_mask(self.num_envs, **arguments)
        return self.env.reset(**arguments)

    @override
    def step(self, actions: Any) -> VectorStep:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        stepped = ~self._finished
        scaled = np.array(rewards, np.float64)
        if stepped.any():
            scaled[stepped] = self.scale(scaled[stepped])
        self._finished = (terminated | truncated) if self._resets_next else self._finished
        everyone = np.ones(self.num_envs, np.bool_)
        infos = {"reward": rewards, "_reward": everyone, **infos}
        return observations, scaled, terminated, truncated, infos


def _reset_mask(
    num_envs: int, seed: Any = None, options: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Which environments a call of `reset` with these arguments resets, shape (B,), bool."""
    mask: np.ndarray = (options or {}).get("reset_mask", np.ones(num_envs, np.bool_))
    return mask


def _final(observations: Any, infos: dict[str, Any], done: np.ndarray) -> Any:
    """Observations, where episodes ended replaced by the final ones; with SAME_STEP."""
    final = infos["final_obs"]
    if isinstance(observations, dict):
        return {
            name: _replaced(rows, [one and one[name] for one in final], done)
            for name, rows in observations.items()
        }
    return _replaced(observations, final, done)


def _replaced(rows: np.ndarray, others: Sequence[Any], chosen: np.ndarray) -> np.ndarray:
    result = rows.copy()
    for b in np.flatnonzero(chosen).tolist():
        result[b] = others[b]
    return result
