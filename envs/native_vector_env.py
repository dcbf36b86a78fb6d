"""What the vector environments of ours share: seeds, automatic resets, limits of time, snapshots.

Environment i of `reset(seed=s)` gives the same numbers as the single environment after
`reset(seed=s + i)`, through every automatic reset.

Shapes: B environments, M chosen ones.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from grpo_gym.envs.arguments import check_options
from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.seeding import fold_seed, seed_list
from grpo_gym.settings.config import ConfigError

Observations = Any
"""Of B environments: an array, or for a Dict space a dictionary of them; the first axis is B."""
StepResult = tuple[Observations, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class BatchSimulator(Protocol):
    """B environments that move together."""

    num_envs: int

    def seed(self, seeds: np.ndarray, members: np.ndarray | None = None) -> None:
        """Start environments over from these seeds, shape (M,), uint64."""

    @property
    def reset(self) -> Callable[..., None]:
        """Draws the next outside world of environments, or takes the one given.

        Its first argument is `members`; the rest, if any, is the simulator's own.
        """

    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> Observations:
        """Move all environments but the skipped ones; observations (B, ...) of all."""

    def observe(self) -> Observations:
        """Observations of all environments, (B, ...): arrays of their own at each call."""

    def elapsed(self) -> np.ndarray:
        """Steps since the reset, shape (B,)."""

    def rewards(self) -> np.ndarray:
        """Of the last step, shape (B,), float64: the caller's own."""

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A copy of all that decides how environments go on; the first axis is theirs."""

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put environments at a state."""

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments go on as others do, in the same outside world."""


class NativeVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """Many environments in one array program.

    Members that are reset together with equal seeds share one outside world. `autoreset_mode` is
    any of Gymnasium's three: NEXT_STEP (default), SAME_STEP, DISABLED (with `reset_mask`).
    Subclasses say what actions are legal, when episodes end, and what infos hold.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "shares_outside_world": True,
    }

    actions_are = "actions"
    """What messages call the numbers that stand for actions."""
    reset_options: tuple[str, ...] = ()
    """Options of `reset` beside `reset_mask`; `_world` makes something of them."""

    def __init__(
        self,
        simulator: BatchSimulator,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        render_mode: str | None,
        autoreset_mode: AutoresetMode,
        max_episode_steps: int | None,
    ) -> None:
        """Wrap a simulator; `check_vector_arguments` checks the arguments.

        Args:
            simulator: Of B environments.
            observation_space: Of one environment.
            action_space: Of one environment.
            render_mode: None or "rgb_array".
            autoreset_mode: What happens after an episode's end.
            max_episode_steps: Shortens episodes, as `gym.make` would; None: no limit.
        """
        self.num_envs = simulator.num_envs
        self.render_mode = render_mode
        self.autoreset_mode = autoreset_mode
        self.max_episode_steps = max_episode_steps
        self.metadata = {**self.metadata, "autoreset_mode": autoreset_mode}
        self._batch = simulator
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self._finished = np.zeros(self.num_envs, np.bool_)
        self._seeded = np.zeros(self.num_envs, np.bool_)
        self._ready = False
        self._history: list[list[Any]] = [[] for _ in range(self.num_envs)]

    @abstractmethod
    def _own_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Terminal states, and truncations other than by `max_episode_steps`; (B,), bool."""

    @abstractmethod
    def _reset_infos(self, present: np.ndarray) -> dict[str, Any]:
        """Infos that a reset gives, present where this mask says, shape (B,), bool."""

    @abstractmethod
    def _step_infos(self, actions: np.ndarray, present: np.ndarray) -> dict[str, Any]:
        """Infos that a step gives, those about it present where this mask says, (B,), bool."""

    @abstractmethod
    def _step_names(self) -> tuple[str, ...]:
        """Names of infos that are about a step, and absent after a reset."""

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: s gives environment i the seed s + i; a sequence gives one seed each, where
                equal seeds share one outside world. None goes on from the current seed, or from
                a random one at first.
            options: `reset_mask`, shape (B,), bool: which environments to reset (default: all);
                and those in `reset_options`.

        Raises:
            ConfigError: If a seed or an option makes no sense.
        """
        check_options(options, known=("reset_mask", *self.reset_options))
        members = self._members((options or {}).get("reset_mask"))
        world = self._world(options or {}, members)
        self._seed(seed, members)
        self._restart(members, world)
        present = np.zeros(self.num_envs, np.bool_)
        present[members] = True
        return self._batch.observe(), self._reset_infos(present)

    def step(self, actions: np.ndarray) -> StepResult:
        """Move every environment.

        Args:
            actions: Shape (B,), integers; of a MultiDiscrete with C components (B, C).

        Returns:
            Observations (B, ...), for a Dict space a dictionary of such, rewards (B,) float64,
            terminated and truncated (B,) bool, and infos as Gymnasium's vector environments give
            them.

        Raises:
            gymnasium.error.InvalidAction: If an action is none, or they are not (B,) or (B, C).
            gymnasium.error.ResetNeeded: Before the first reset; with DISABLED, if a finished
                environment is stepped.
        """
        everyone = np.ones(self.num_envs, np.bool_)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            return self.step_alive(actions, everyone)
        actions = self._ready_for(actions)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._finished.any():
            return self._step_with_resets(actions)
        observations = self._batch.step(actions)
        rewards = self._batch.rewards()
        terminated, truncated = self._ends(everyone)
        infos = self._step_infos(actions, everyone)
        self._finished = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._finished.any():
            observations, infos = self._reset_in_place(observations, infos)
        return observations, rewards, terminated, truncated, infos

    def step_alive(self, actions: np.ndarray, alive: np.ndarray) -> StepResult:
        """Move some environments; the others stay as they are.

        For episodes that end, or that one wants to go on with, at different moments: `step` with
        DISABLED refuses to go on when any environment has finished.

        Args:
            actions: As for `step`, also where they change nothing.
            alive: Which environments to step, shape (B,), bool.

        Returns:
            As `step`. Environments not stepped show what they showed, with reward 0 and no end,
            and infos about the step are marked absent.

        Raises:
            gymnasium.error.InvalidAction: If an action is none, or they are not (B,) or (B, C).
            gymnasium.error.ResetNeeded: Before the first reset, or if a finished environment is
                stepped.
            ConfigError: If `autoreset_mode` is not DISABLED, or `alive` is not bool of shape (B,).
        """
        if self.autoreset_mode is not AutoresetMode.DISABLED:
            raise ConfigError(
                "autoreset_mode must be DISABLED for step_alive, got "
                f"{self.autoreset_mode.value}: otherwise step() decides who is stepped"
            )
        alive = np.asarray(alive)
        if alive.shape != (self.num_envs,) or alive.dtype != np.bool_:
            raise ConfigError(
                f"alive must be bool of shape ({self.num_envs},), got {alive.dtype} of shape "
                f"{alive.shape}"
            )
        actions = self._ready_for(actions)
        if (self._finished & alive).any():
            raise gym.error.ResetNeeded(
                "finished environments must be reset before the next step: "
                'call reset(options={"reset_mask": terminated | truncated})'
            )
        observations = self._batch.step(actions, skip=~alive)
        terminated, truncated = self._ends(alive)
        self._finished |= terminated | truncated
        rewards = np.where(alive, self._batch.rewards(), 0.0)
        return observations, rewards, terminated, truncated, self._step_infos(actions, alive)

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A snapshot of the given environments (default: all); the first axis is theirs."""
        return self._batch.get_state(members)

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments (default: all) where the snapshot was taken.

        Raises:
            ValueError: If the snapshot does not fit this configuration, or is of another number
                of environments.
        """
        self._batch.set_state(state, members)
        self._seeded[slice(None) if members is None else members] = True
        self._ready = bool(self._seeded.all())
        self._finished = self._over()
        # Pictures show recent steps, and those were another episode's.
        for b in range(self.num_envs) if members is None else members:
            self._history[b].clear()

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments `target` continue exactly as `source` would, both shape (M,), int."""
        self._batch.copy_members(np.asarray(source), np.asarray(target))
        self._seeded[target] = self._seeded[source]
        self._ready = bool(self._seeded.all())
        self._finished = self._over()
        histories = [self._history[b].copy() for b in source]
        for b, history in zip(target, histories, strict=True):
            self._history[b] = history

    def observe(self) -> Observations:
        """Current observations of all environments, first axis B."""
        return self._batch.observe()

    def _past_limit(self) -> np.ndarray:
        if self.max_episode_steps is None:
            return np.zeros(self.num_envs, np.bool_)
        return self._batch.elapsed() >= self.max_episode_steps

    def _over(self) -> np.ndarray:
        terminal, cut = self._own_ends()
        return terminal | cut | self._past_limit()

    def _ends(self, stepped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Terminated and truncated of this step, as `gym.make` with its time limit says."""
        terminal, cut = self._own_ends()
        return terminal & stepped, (cut | self._past_limit()) & stepped

    def _world(self, options: Mapping[str, Any], members: np.ndarray) -> dict[str, Any]:
        """Arguments of the simulator's `reset` that options of `reset` stand for.

        Raises:
            ConfigError: If an option makes no sense.
        """
        return {}

    def _ready_for(self, actions: np.ndarray) -> np.ndarray:
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape or actions.dtype.kind not in "iu":
            raise gym.error.InvalidAction(
                f"actions must be integers of shape {self.action_space.shape}, got "
                f"{actions.dtype} of shape {actions.shape}"
            )
        actions = np.ascontiguousarray(actions, np.int64)
        space = self.single_action_space
        if isinstance(space, gym.spaces.MultiDiscrete):
            if ((actions < 0) | (actions >= space.nvec)).any():
                raise gym.error.InvalidAction(
                    f"actions must be {self.actions_are} from 0 and below {space.nvec.tolist()}, "
                    f"got {actions.min(axis=0).tolist()} to {actions.max(axis=0).tolist()}"
                )
            return actions
        count = int(space.n)  # type: ignore[attr-defined]
        if not are_below(actions, count):
            raise gym.error.InvalidAction(
                f"actions must be {self.actions_are} from 0 to {count - 1}, got "
                f"{actions.min()} to {actions.max()}"
            )
        return actions

    def _members(self, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(
                f"reset_mask must be bool of shape ({self.num_envs},) with a True in it, got "
                f"{mask.dtype} of shape {mask.shape}"
            )
        return np.flatnonzero(mask)

    def _seed(self, seed: int | Sequence[int | None] | None, members: np.ndarray) -> None:
        seeds = seed_list(seed, self.num_envs)
        chosen = [b for b in members.tolist() if seeds[b] is not None or not self._seeded[b]]
        if not chosen:
            return
        folded = np.random.SeedSequence().generate_state(self.num_envs, np.uint64)
        for b in chosen:
            one = seeds[b]
            if one is not None:
                folded[b] = fold_seed(one)
        self._batch.seed(folded[chosen], np.array(chosen, np.int64))
        self._seeded[chosen] = True
        self._ready = bool(self._seeded.all())

    def _restart(self, members: np.ndarray, world: Mapping[str, Any] | None = None) -> None:
        self._batch.reset(members, **(world or {}))
        self._finished[members] = False
        for b in members.tolist() if self.render_mode is not None else ():
            self._history[b].clear()

    def _step_with_resets(self, actions: np.ndarray) -> StepResult:
        """NEXT_STEP: environments that ended before ignore their action and start over."""
        stepped = ~self._finished
        self._batch.step(actions, skip=~stepped)
        self._restart(np.flatnonzero(~stepped))
        rewards = np.where(stepped, self._batch.rewards(), 0.0)
        terminated, truncated = self._ends(stepped)
        self._finished = terminated | truncated
        infos = self._step_infos(actions, stepped)
        return self._batch.observe(), rewards, terminated, truncated, infos

    def _reset_in_place(
        self, observations: Observations, infos: dict[str, Any]
    ) -> tuple[Observations, dict[str, Any]]:
        """SAME_STEP: the last observation and infos move to `final_obs` and `final_info`."""
        done = self._finished.copy()
        final_observations = np.full(self.num_envs, None, dtype=object)
        for b in np.flatnonzero(done):
            final_observations[b] = observation_of(observations, int(b))
        final_infos = {
            name: (values & done if name.startswith("_") else values)
            for name, values in infos.items()
        }
        self._restart(np.flatnonzero(done))
        infos = {
            **self._reset_infos(np.ones(self.num_envs, np.bool_)),
            **{name: infos[name] for name in self._step_names()},
            **{f"_{name}": ~done for name in self._step_names()},
            "final_obs": final_observations,
            "_final_obs": done.copy(),
            "final_info": final_infos,
            "_final_info": done.copy(),
        }
        return self._batch.observe(), infos


def observation_of(observations: Observations, b: int) -> Any:
    """A copy of what one environment shows: an array, or a dictionary of arrays."""
    if isinstance(observations, dict):
        return {name: rows[b].copy() for name, rows in observations.items()}
    return observations[b].copy()


@kernel
def are_below(actions: np.ndarray, count: int) -> bool:
    """Whether every action, shape (B,), int64, is one of `count`."""
    for b in range(actions.shape[0]):  # noqa: SIM110 -- kernels have no generators
        if actions[b] < 0 or actions[b] >= count:
            return False
    return True
