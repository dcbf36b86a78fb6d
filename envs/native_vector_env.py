"""The shell of native vector environments: a simulator with B = num_envs behind `VectorEnv`.

Environment i of `reset(seed=s)` returns the same numbers as the single environment after
`reset(seed=s + i)`, through every automatic reset.

Shapes: B environments, C components of a MultiDiscrete, M chosen environments ("members").
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from grpo_gym.envs.arguments import check_count, check_options
from grpo_gym.envs.batch_simulator import BatchSimulator, Infos, Observations
from grpo_gym.envs.native_task import NativeTask, check_actions
from grpo_gym.envs.randomness import fold_seed, seed_list
from grpo_gym.settings import ConfigError, suggest

MAX_ENVS = 10_000_000
"""Environments in one batch at most."""
StepResult = tuple[Observations, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class NativeVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """B environments in one array program; subclasses name their task.

    Environments that are reset together with equal seeds share one trace.

    Attributes:
        config: The settings.
        simulator: Of B environments.
    """

    task: ClassVar[NativeTask]
    default_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that differ from the single environment's unless given."""
    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "shares_outside_world": True,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *args: Any,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        """Build B environments.

        Args:
            num_envs: B.
            *args: The preset; the class of the single environment documents the arguments.
            render_mode: "rgb_array" renders each environment; None renders nothing.
            autoreset_mode: When finished environments are reset: any of Gymnasium's three modes.
            max_episode_steps: Truncates episodes, as `gym.make` would; None or -1: no limit.
            **settings: The preset too, and fields of the config in place of the preset's.

        Raises:
            ConfigError: If an argument is unknown or makes no sense.
            gymnasium.error.UnsupportedMode: If the render mode is unknown.
        """
        self.config = self.task.configure(*args, **{**self.default_settings, **settings})
        self.num_envs = check_count("num_envs", num_envs, most=MAX_ENVS)
        if render_mode not in (None, "rgb_array"):
            raise gym.error.UnsupportedMode(
                'render_mode must be None or "rgb_array" for a vector environment, got '
                f"{render_mode!r}"
            )
        self.render_mode = render_mode
        self.autoreset_mode = _check_autoreset_mode(autoreset_mode)
        self.max_episode_steps = None
        if max_episode_steps not in (None, -1):
            self.max_episode_steps = check_count("max_episode_steps", max_episode_steps)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.simulator: BatchSimulator = self.task.make_simulator(self.config, self.num_envs)
        self.single_observation_space = self.task.observation_space(self.config)
        self.single_action_space = self.task.action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._finished = np.zeros(self.num_envs, np.bool_)
        self._seeded = np.zeros(self.num_envs, np.bool_)
        self._ready = False
        self._history: list[list[Any]] = [[] for _ in range(self.num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: s seeds environment i with s + i; a sequence has one seed each, where equal seeds
                share one trace. None continues from the current seed, or from a random one at
                first.
            options: `reset_mask`, shape (B,), bool: which environments to reset (default: all);
                and those in `task.reset_options`.

        Raises:
            ConfigError: If a seed or an option makes no sense.
        """
        options = options or {}
        check_options(options, ("reset_mask", *self.task.reset_options))
        members = self._members(options.get("reset_mask"))
        arguments = self.task.reset_arguments(self.simulator, options, len(members))
        self._seed(seed, members)
        self._restart(members, **arguments)
        present = np.zeros(self.num_envs, np.bool_)
        present[members] = True
        return self.simulator.observe(), _marked(self.simulator.state_infos(), present)

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every environment.

        Args:
            actions: Shape (B,), integers; of a MultiDiscrete (B, C).

        Returns:
            Observations (B, ...), for a Dict space a dictionary of such, rewards (B,) float64,
            terminated and truncated (B,) bool, and infos in the format of Gymnasium's vector
            environments.

        Raises:
            gymnasium.error.InvalidAction: If an action is not in the action space.
            gymnasium.error.ResetNeeded: Before the first reset; with DISABLED, if a finished
                environment is stepped.
        """
        everyone = np.ones(self.num_envs, np.bool_)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            return self.step_alive(actions, everyone)
        actions = self._check_actions(actions)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._finished.any():
            stepped = ~self._finished
            self.simulator.step(actions, skip=self._finished)
            self._restart(np.flatnonzero(self._finished))
            return self._result(actions, self.simulator.observe(), stepped, everyone)
        result = self._result(actions, self.simulator.step(actions), everyone, everyone)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._finished.any():
            return self._reset_in_place(result)
        return result

    def step_alive(self, actions: np.ndarray, alive: np.ndarray) -> StepResult:
        """Step some environments; the others stay as they are.

        For episodes that end at different times: with DISABLED, `step` refuses to continue when
        any environment has finished.

        Args:
            actions: As for `step`; those of environments that are not alive are checked too.
            alive: Which environments to step, shape (B,), bool.

        Returns:
            As `step`. Environments not stepped return their current observation, reward 0, no end,
            and infos that are marked absent.

        Raises:
            gymnasium.error.InvalidAction: If an action is not in the action space.
            gymnasium.error.ResetNeeded: Before the first reset, or if a finished environment is
                stepped.
            ConfigError: If `autoreset_mode` is not DISABLED, or `alive` is not bool of shape (B,).
        """
        if self.autoreset_mode is not AutoresetMode.DISABLED:
            raise ConfigError(
                "autoreset_mode must be DISABLED for step_alive, got "
                f"{self.autoreset_mode.value}: use step()"
            )
        alive = np.asarray(alive)
        if alive.shape != (self.num_envs,) or alive.dtype != np.bool_:
            raise ConfigError(
                f"alive must be bool of shape ({self.num_envs},), got {alive.dtype} of shape "
                f"{alive.shape}"
            )
        actions = self._check_actions(actions)
        if (self._finished & alive).any():
            raise gym.error.ResetNeeded(
                "finished environments must be reset before the next step: "
                'call reset(options={"reset_mask": terminated | truncated})'
            )
        observations = self.simulator.step(actions, skip=~alive)
        return self._result(actions, observations, stepped=alive, shown=alive)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per environment, each (height, width, 3), uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(
            self.task.render_rgb(self.simulator, history, b)
            for b, history in enumerate(self._history)
        )

    def observe(self) -> Observations:
        """Current observations of all environments, first axis B."""
        return self.simulator.observe()

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A snapshot of the given environments (default: all); first axis M."""
        return self.simulator.get_state(members)

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments (default: all) into the state of a snapshot.

        Raises:
            ValueError: If the snapshot does not fit this configuration, is of another number of
                environments, or is damaged.
        """
        members = np.arange(self.num_envs) if members is None else np.asarray(members)
        self.simulator.set_state(state, members)
        self._continue(members)

    def restore(self, state: Mapping[str, np.ndarray], members: np.ndarray) -> None:
        """`set_state` without checks, for a snapshot that never left the process."""
        self.simulator.restore(state, members)
        self._continue(members)

    def _continue(self, members: np.ndarray) -> None:
        """Take over what the simulator holds in the states of these environments now."""
        self._mark_seeded(members)
        self._finished = np.logical_or(*self._ends())
        for b in members:  # pictures show recent steps, and those were another episode's
            self._history[b].clear()

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments `target` continue exactly as `source` would, both shape (M,), int."""
        self.simulator.copy_members(np.asarray(source), np.asarray(target))
        self._mark_seeded(target, self._seeded[source])
        self._finished = np.logical_or(*self._ends())
        histories = [self._history[b].copy() for b in source]
        for b, history in zip(target, histories, strict=True):
            self._history[b] = history

    def _result(
        self, actions: np.ndarray, observations: Any, stepped: np.ndarray, shown: np.ndarray
    ) -> StepResult:
        """The result of a step of the `stepped` environments; `shown` ones report their state."""
        terminated, truncated = (ends & stepped for ends in self._ends())
        self._finished |= terminated | truncated
        rewards = np.where(stepped, self.simulator.rewards(), 0.0)
        for b in np.flatnonzero(stepped).tolist() if self.render_mode is not None else ():
            self._history[b].append(self.task.event(self.simulator, b, actions[b]))
        infos = _marked(self.simulator.state_infos_of_step(), shown)
        infos |= _marked(self.simulator.step_infos(actions), stepped)
        return observations, rewards, terminated, truncated, infos

    def _reset_in_place(self, result: StepResult) -> StepResult:
        """SAME_STEP: the last observations and infos move to `final_obs` and `final_info`."""
        observations, rewards, terminated, truncated, infos = result
        done = self._finished.copy()
        final_observations = np.full(self.num_envs, None, dtype=object)
        for b in np.flatnonzero(done).tolist():
            final_observations[b] = _copied_row(observations, b)
        final_infos = {
            name: values & done if name.startswith("_") else values
            for name, values in infos.items()
        }
        self._restart(np.flatnonzero(done))
        infos = {
            **{name: ~done if name.startswith("_") else infos[name] for name in infos},
            **_marked(self.simulator.state_infos(), np.ones(self.num_envs, np.bool_)),
            "final_obs": final_observations,
            "_final_obs": done.copy(),
            "final_info": final_infos,
            "_final_info": done.copy(),
        }
        return self.simulator.observe(), rewards, terminated, truncated, infos

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Which environments are terminated and truncated, time limit included; (B,), bool."""
        terminated, truncated = self.simulator.ends()
        if self.max_episode_steps is not None:
            truncated = truncated | (self.simulator.elapsed() >= self.max_episode_steps)
        return terminated, truncated

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step()")
        return check_actions(
            actions, self.single_action_space, self.num_envs, self.task.action_name
        )

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
        self.simulator.seed(folded[chosen], np.array(chosen, np.int64))
        self._mark_seeded(np.array(chosen))

    def _mark_seeded(self, members: np.ndarray, seeded: np.ndarray | bool = True) -> None:
        self._seeded[members] = seeded
        self._ready = bool(self._seeded.all())

    def _restart(self, members: np.ndarray, **arguments: Any) -> None:
        self.simulator.reset(members, **arguments)
        self._finished[members] = False
        for b in members.tolist() if self.render_mode is not None else ():
            self._history[b].clear()


def _copied_row(observations: Observations, b: int) -> Any:
    if isinstance(observations, dict):
        return {name: rows[b].copy() for name, rows in observations.items()}
    return observations[b].copy()


def _marked(infos: Infos, present: np.ndarray) -> dict[str, Any]:
    """Copies of infos, each with the mask of the environments that it is about."""
    copies = {name: values.copy() for name, values in infos.items()}
    return {**copies, **{f"_{name}": present.copy() for name in copies}}


def _check_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        hint = suggest(str(mode), [known.value for known in AutoresetMode])
        raise ConfigError(f"autoreset_mode must be a known one, got {mode!r}.{hint}") from None
