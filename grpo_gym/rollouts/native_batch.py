"""Batches of native vector environments, in which equal seeds draw one shared trace."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from typing_extensions import override

from grpo_gym.rollouts.env_batch import BatchStep, EnvBatch
from grpo_gym.rollouts.spaces import flatten_batch


class NativeBatch(EnvBatch):
    """A native vector environment.

    Attributes:
        env: The vector environment. Beyond Gymnasium's interface it has `step_alive`, `get_state`,
            `restore` and `copy_members`, as documented in `envs.native_vector_env`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Wrap a native vector environment that was made with autoreset disabled."""
        self.env: Any = env
        spaces = env.single_observation_space, env.single_action_space
        super().__init__(env, env.num_envs, *spaces, has_time_limit=True)
        box = self.single_observation_space
        self._gives_rows = isinstance(box, Box) and box.dtype == np.float32 and len(box.shape) == 1

    @override
    def _reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        return self._reset_env(seed=[int(seed) for seed in seeds])

    @override
    def _step(self, actions: np.ndarray, alive: np.ndarray) -> BatchStep:
        observations, rewards, terminated, truncated, infos = self.env.step_alive(actions, alive)
        masks = _action_masks(infos)
        if masks is not None:
            masks[~alive | terminated | truncated] = True
        everyone = alive.all()
        return BatchStep(
            observations=self._rows_of(observations),
            rewards=np.asarray(rewards, np.float64),
            terminated=terminated,
            truncated=truncated,
            infos={
                name: values.astype(np.float64, copy=False)
                if everyone
                else np.where(infos[f"_{name}"], values, np.nan)
                for name, values in infos.items()
                if isinstance(values, np.ndarray) and values.ndim == 1 and not name.startswith("_")
            },
            action_masks=masks,
        )

    @override
    def _snapshot(self, members: np.ndarray) -> dict[str, np.ndarray]:
        state: dict[str, np.ndarray] = self.env.get_state(members)
        return state

    @override
    def _restore(self, states: dict[str, np.ndarray], members: np.ndarray) -> None:
        # Copying members, unlike setting their states, shares one trace in memory.
        first, others = members[:, 0], members[:, 1:]
        self.env.restore(states, first)
        self.env.copy_members(np.repeat(first, others.shape[1]), others.reshape(-1))

    @override
    def close(self) -> None:
        self.env.close()

    def _reset_env(self, **arguments: Any) -> tuple[np.ndarray, np.ndarray | None]:
        observations, infos = self.env.reset(**arguments)
        return self._rows_of(observations), _action_masks(infos)

    def _rows_of(self, observations: Any) -> np.ndarray:
        if self._gives_rows:
            rows: np.ndarray = observations
            return rows
        return flatten_batch(self.single_observation_space, observations)


class EnumeratedBatch(NativeBatch):
    """Native environments that play every possible initial state once.

    Where other batches take seeds, this one takes the indices of initial states. The environment
    has `count_initial_states()`, and `reset(options={"layout": indices})` starts from them.

    Attributes:
        num_initial_states: Number of possible initial states.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.num_initial_states: int = self.env.count_initial_states()

    @override
    def _reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        # The last round may have environments to spare, which repeat the last state.
        indices = np.minimum(np.asarray(seeds), self.num_initial_states - 1)
        return self._reset_env(seed=0, options={"layout": indices})


def _action_masks(infos: Mapping[str, Any]) -> np.ndarray | None:
    """A copy of the masks, shape (B, A), bool."""
    masks = infos.get("action_mask")
    return None if masks is None else np.array(masks, np.bool_)
