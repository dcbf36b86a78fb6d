"""Native vector environments for the algorithms of Stable-Baselines3.

Needs `pip install "grpo-gym[compare]"`.

Shapes: B environments.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import override

from grpo_gym.settings import ConfigError


def to_sb3(vec_env: VectorEnv[Any, Any, Any], infos: Literal["ends", "all"] = "ends") -> VecEnv:
    """Adapt a vector environment of Gymnasium to Stable-Baselines3.

    ```python
    vec_env = gym.make_vec("Battleship-v0", num_envs=64, autoreset_mode="SameStep")
    MaskablePPO("MlpPolicy", to_sb3(vec_env)).learn(100_000)
    ```

    Args:
        vec_env: With the autoreset mode SAME_STEP, which is how Stable-Baselines3 resets.
        infos: "all" returns the infos of every step; "ends" only those of an episode's last step,
            which is much faster.

    Returns:
        An environment with `terminal_observation` and `TimeLimit.truncated` at an episode's end,
        and with `action_masks` for `sb3_contrib.MaskablePPO` if `vec_env` has them. Episodes are
        not recorded: wrap it in Stable-Baselines3's `VecMonitor`.

    Raises:
        ConfigError: If `vec_env` has another autoreset mode, or `infos` is neither.
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
    """The adapter that `to_sb3` returns.

    Attributes:
        vec_env: The environments.
    """

    def __init__(self, vec_env: VectorEnv[Any, Any, Any], infos: Literal["ends", "all"]) -> None:
        """Wrap the environments; the arguments are those of `to_sb3`."""
        self.vec_env = vec_env
        self._infos = infos
        self._actions = np.zeros(0)
        super().__init__(
            vec_env.num_envs, vec_env.single_observation_space, vec_env.single_action_space
        )

    @override
    def reset(self) -> Any:
        """Start episodes with the seeds of `seed` and the options of `set_options`, used once.

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

    @override
    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    @override
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
                **self.reset_infos[b],  # where wrappers put theirs
                **_infos_of(infos["final_info"], b),
                "terminal_observation": infos["final_obs"][b],
                "TimeLimit.truncated": bool(truncated[b] and not terminated[b]),
            }
        return observations, rewards.astype(np.float32), dones, each

    @override
    def close(self) -> None:
        self.vec_env.close()

    @override
    def get_images(self) -> Sequence[np.ndarray | None]:
        frames: Any = self.vec_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    @override
    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        value = getattr(self.vec_env, attr_name)
        return [value for _ in self._get_indices(indices)]

    @override
    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment.

        Raises:
            ConfigError: If `indices` leaves environments out.
        """
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ConfigError(f"{attr_name} must be set for all environments of a native batch")
        setattr(self.vec_env, attr_name, value)

    @override
    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment; its results for the chosen environments."""
        results = getattr(self.vec_env, method_name)(*method_args, **method_kwargs)
        return [None if results is None else results[b] for b in self._get_indices(indices)]

    @override
    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def _equal(options: dict[str, Any], others: dict[str, Any]) -> bool:
    return options.keys() == others.keys() and all(
        np.array_equal(value, others[name]) for name, value in options.items()
    )


def _infos_of(infos: dict[str, Any], b: int) -> dict[str, Any]:
    """The infos of environment b; those of wrappers may be dictionaries themselves."""
    own = {}
    for name, values in infos.items():
        if name.startswith("_") or name in ("final_obs", "final_info"):
            continue
        present = infos.get(f"_{name}")
        if present is None or present[b]:
            own[name] = _infos_of(values, b) if isinstance(values, dict) else values[b]
    return own
