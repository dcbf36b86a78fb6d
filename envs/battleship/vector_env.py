"""`Battleship-v0` for many games at once: the batch simulator with B = num_envs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.arguments import check_vector_arguments
from grpo_gym.envs.battleship.boards import chosen_layouts
from grpo_gym.envs.battleship.env import BattleshipEnv
from grpo_gym.envs.battleship.presets import make_config
from grpo_gym.envs.battleship.rendering import render_rgb
from grpo_gym.envs.battleship.simulator import BattleshipSimulator
from grpo_gym.envs.battleship.spaces import action_space, observation_space
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class BattleshipVectorEnv(NativeVectorEnv):
    """Many `BattleshipEnv` in one array program; see there for the game.

    Members that are reset together with equal seeds have the same board. `autoreset_mode` is any
    of Gymnasium's three: NEXT_STEP (default), SAME_STEP, DISABLED (with `reset_mask`). The reset
    options `board`, (rows, columns) or one for each reset environment, and `layout`, a number or
    one for each, set up boards.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **BattleshipEnv.metadata,
        **NativeVectorEnv.metadata,
    }
    actions_are = "cells"
    reset_options = ("board", "layout")

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "classic-10x10",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        """Build the environments.

        Args:
            num_envs: How many, B.
            preset: As for `BattleshipEnv`.
            render_mode: "rgb_array" renders each environment.
            autoreset_mode: What happens after an episode's end.
            max_episode_steps: Shortens episodes, as `gym.make` would; None or -1: no limit.
            **overrides: Fields of `BattleshipConfig`.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        count, mode, limit = check_vector_arguments(
            num_envs, render_mode, autoreset_mode, max_episode_steps
        )
        self.config = make_config(preset, **overrides)
        self.simulator = BattleshipSimulator(self.config, count)
        super().__init__(
            self.simulator,
            observation_space(self.config),
            action_space(self.config),
            render_mode=render_mode,
            autoreset_mode=mode,
            max_episode_steps=limit,
        )

    def action_masks(self) -> np.ndarray:
        """Cells not shot at, shape (B, cells), bool."""
        return self.simulator.unknown()

    def count_initial_states(self) -> int:
        """Number of all legal boards, which `reset(options={"layout": ...})` numbers from 0.

        Raises:
            ConfigError: If there are too many to list.
        """
        return len(self.simulator.listed_layouts())

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per environment, each (height, width, 3), uint8."""
        if self.render_mode is None:
            return None
        return tuple(
            render_rgb(self.simulator, history, member=b) for b, history in enumerate(self._history)
        )

    def _world(self, options: Mapping[str, Any], members: np.ndarray) -> dict[str, Any]:
        board, layout = options.get("board"), options.get("layout")
        return {"layouts": chosen_layouts(self.simulator, board, layout, len(members))}

    def _own_ends(self) -> tuple[np.ndarray, np.ndarray]:
        won = self.simulator.won()
        return won, ~won & (self.simulator.elapsed() >= self.config.cells)

    def _step_names(self) -> tuple[str, ...]:
        return ("hit", "repeated", "sunk_length")

    def _step_infos(self, actions: np.ndarray, present: np.ndarray) -> dict[str, Any]:
        infos = self._reset_infos(np.ones(self.num_envs, np.bool_))
        for name in self._step_names():
            infos[name] = self.simulator.episodes[name].copy()
            infos[f"_{name}"] = present.copy()
        for b in np.flatnonzero(present) if self.render_mode is not None else ():
            self._history[b].append(int(actions[b]))
        return infos

    def _reset_infos(self, present: np.ndarray) -> dict[str, Any]:
        if not self.config.mask_repeats:
            return {}
        masks = self.action_masks().astype(np.int8)
        return {"action_mask": masks, "_action_mask": present.copy()}
