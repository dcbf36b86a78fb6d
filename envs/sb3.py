"""Vector environments as Stable-Baselines3 wants them, so that its algorithms run on ours.

It needs `pip install "grpo-gym[compare]"`.

Shapes: B environments.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from grpo_gym.settings import ConfigError


def to_sb3(vec_env: VectorEnv[Any, Any, Any], infos: Literal["ends", "all"] = "ends") -> VecEnv:
    """A vector environment of Gymnasium as one of Stable-Baselines3.

    ```python
    vec_env = gym.make_vec("Battleship-v0", num_envs=64, autoreset_mode="SameStep")
    MaskablePPO("MlpPolicy", to_sb3(vec_env)).learn(100_000)
    ```

    Args:
        vec_env: With the mode of automatic resets SAME_STEP, which is Stable-Baselines3's own.
        infos: "ends" gives infos of the last step of an episode only, which is much faster; "all"
            of every step.

    Returns:
        An environment with `terminal_observation` and `TimeLimit.truncated` at an episode's end,
        and with `action_masks` for `sb3_contrib.MaskablePPO` if `vec_env` has them. Episodes are
        not counted: put Stable-Baselines3's `VecMonitor` around it.

    Raises:
        ConfigError: If `vec_env` resets otherwise, or `infos` is neither.
    """
    if not isinstance(vec_env, VectorEnv):
        raise ConfigError(f"vec_env must be a VectorEnv, as gym.make_vec makes it, got {vec_env}")
    mode = vec_env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ConfigError(
            f"vec_env must reset with autoreset_mode='SameStep', got {mode}: "
            "gym.make_vec(..., autoreset_mode='SameStep')"
        )
    if infos not in ("ends", "all"):
        raise ConfigError(f"infos must be 'ends' or 'all', got {infos!r}")
    return SB3VecEnv(vec_env, infos)


class SB3VecEnv(VecEnv):  # type: ignore[misc,unused-ignore]
    """What `to_sb3` gives.

    Attributes:
        vec_env: The environments.
    """

    def __init__(self, vec_env: VectorEnv[Any, Any, Any], infos: Literal["ends", "all"]) -> None:
        """Wrap the environments; see `to_sb3`."""
        self.vec_env = vec_env
        self._infos = infos
        self._actions = np.zeros(0)
        super().__init__(
            vec_env.num_envs, vec_env.single_observation_space, vec_env.single_action_space
        )

    def reset(self) -> Any:
        """Start over with the seeds of `seed` and the options of `set_options`, used once.

        Raises:
            ConfigError: If environments have different options.
        """
        first = self._options[0]
        if any(options is not first and not _equal(options, first) for options in self._options):
            raise ConfigError("options must be the same for all environments of a native batch")
        observations, infos = self.vec_env.reset(
            seed=self._seeds if any(seed is not None for seed in self._seeds) else None,
            options=first or None,
        )
        self.reset_infos = [_infos_of(infos, b) for b in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, first axis B, for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations, rewards (B,) float32, dones (B,) bool, and infos, one dict each."""
        observations, rewards, terminated, truncated, infos = self.vec_env.step(self._actions)
        dones = terminated | truncated
        each: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if self._infos == "all":
            each = [_infos_of(infos, b) for b in range(self.num_envs)]
        for b in np.flatnonzero(dones).tolist():
            self.reset_infos[b] = _infos_of(infos, b)
            each[b] = {
                **self.reset_infos[b],  # wrappers put theirs there
                **_infos_of(infos["final_info"], b),
                "terminal_observation": infos["final_obs"][b],
                "TimeLimit.truncated": bool(truncated[b] and not terminated[b]),
            }
        return observations, rewards.astype(np.float32), dones, each

    def close(self) -> None:
        """Close the environments."""
        self.vec_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A frame of each environment."""
        frames: Any = self.vec_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, once for each index."""
        value = getattr(self.vec_env, attr_name)
        return [value for _ in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment.

        Raises:
            ConfigError: If not all environments are meant.
        """
        if len(self._chosen(indices)) != self.num_envs:
            raise ConfigError(f"{attr_name} must be set for all environments of a native batch")
        setattr(self.vec_env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment; what it gives for the chosen environments."""
        results = getattr(self.vec_env, method_name)(*method_args, **method_kwargs)
        if results is None:
            return [None for _ in self._chosen(indices)]
        return [results[b] for b in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never: the environments of a batch have no wrappers of their own."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: Any) -> list[int]:
        chosen: Iterable[int] = self._get_indices(indices)
        return list(chosen)


def _equal(options: dict[str, Any], others: dict[str, Any]) -> bool:
    return options.keys() == others.keys() and all(
        np.array_equal(value, others[name]) for name, value in options.items()
    )


def _infos_of(infos: dict[str, Any], b: int) -> dict[str, Any]:
    """The infos of one environment, from those of all; wrappers' may lie in others."""
    return {
        name: _infos_of(values, b) if isinstance(values, dict) else values[b]
        for name, values in infos.items()
        if not name.startswith("_")
        and name not in ("final_obs", "final_info")
        and infos.get(f"_{name}", _PRESENT)[b]
    }


class _Present:
    """A mask without an entry that is False."""

    def __getitem__(self, index: int) -> bool:
        return True


_PRESENT = _Present()
