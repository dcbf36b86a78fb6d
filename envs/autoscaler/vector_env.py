"""`AutoScaler-v0` for many clusters at once: the batch simulator with B = num_envs."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.arguments import check_vector_arguments
from grpo_gym.envs.autoscaler.env import MEASURED, STEP_INFOS, AutoScalerEnv
from grpo_gym.envs.autoscaler.presets import make_config
from grpo_gym.envs.autoscaler.rendering import current_frame, render_rgb
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator
from grpo_gym.envs.autoscaler.spaces import action_space, observation_space
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class AutoScalerVectorEnv(NativeVectorEnv):
    """Many `AutoScalerEnv` in one array program; see there for the task.

    Members that are reset together with equal seeds share one demand. `autoreset_mode` is any of
    Gymnasium's three: NEXT_STEP (default), SAME_STEP, DISABLED (with `reset_mask`).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **AutoScalerEnv.metadata,
        **NativeVectorEnv.metadata,
    }
    actions_are = "choices"

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "diurnal",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        """Build the environments.

        Args:
            num_envs: How many, B.
            preset: As for `AutoScalerEnv`.
            render_mode: None or "rgb_array".
            autoreset_mode: What happens after an episode's end.
            max_episode_steps: Shortens episodes, as `gym.make` would; None or -1: no limit.
            **overrides: Fields of `AutoScalerConfig`.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        count, mode, limit = check_vector_arguments(
            num_envs, render_mode, autoreset_mode, max_episode_steps
        )
        self.config = make_config(preset, **overrides)
        self.simulator = AutoScalerSimulator(self.config, count)
        super().__init__(
            self.simulator,
            observation_space(self.config),
            action_space(self.config),
            render_mode=render_mode,
            autoreset_mode=mode,
            max_episode_steps=limit,
        )

    def action_masks(self) -> np.ndarray:
        """Safe actions, shape (B, A), bool; of "multi" all components side by side."""
        return self.simulator.action_masks().astype(np.bool_)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per environment, each (640, 800, 3), uint8."""
        if self.render_mode is None:
            return None
        return tuple(
            render_rgb(self.simulator, history, member=b) for b, history in enumerate(self._history)
        )

    def _own_ends(self) -> tuple[np.ndarray, np.ndarray]:
        never = np.zeros(self.num_envs, np.bool_)
        return never, self.simulator.elapsed() >= self.config.episode_steps

    def _step_names(self) -> tuple[str, ...]:
        return STEP_INFOS

    def _step_infos(self, actions: np.ndarray, present: np.ndarray) -> dict[str, Any]:
        # Where episodes end by themselves, those not stepped have just been reset.
        disabled = self.autoreset_mode is AutoresetMode.DISABLED
        infos = self._reset_infos(present if disabled else np.ones(self.num_envs, np.bool_))
        for name in STEP_INFOS:
            infos[name] = self.simulator.outcomes[name].copy()
            infos[f"_{name}"] = present.copy()
        for b in np.flatnonzero(present) if self.render_mode is not None else ():
            self._history[b].append(current_frame(self.simulator, int(b)))
        return infos

    def _reset_infos(self, present: np.ndarray) -> dict[str, Any]:
        infos: dict[str, Any] = {name: self.simulator.outcomes[name].copy() for name in MEASURED}
        if self.config.constraints:
            infos["action_mask"] = self.simulator.action_masks()
        return {**infos, **{f"_{name}": present.copy() for name in infos}}
