"""`LoadBalancer-v0` for many environments at once: the batch simulator with B = num_envs.

Environment i of `reset(seed=s)` gives the same numbers as the single environment after
`reset(seed=s + i)`, through every automatic reset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from grpo_gym.config import ConfigError, suggest
from grpo_gym.envs.load_balancer.batch_kernels import are_servers
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import check_count, make_config
from grpo_gym.envs.load_balancer.rendering import render_rgb
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator, fold_seed
from grpo_gym.envs.load_balancer.spaces import action_space, check_options, observation_space


class LoadBalancerVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many `LoadBalancerEnv` in one array program; see there for the task.

    Members that are reset together with equal seeds share one trace. `autoreset_mode` is any of
    Gymnasium's three: NEXT_STEP (default), SAME_STEP, DISABLED (with `reset_mask`).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **LoadBalancerEnv.metadata,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "shares_outside_world": True,
    }

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "flaky",
        num_servers: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **overrides: Any,
    ) -> None:
        """Build the environments.

        Args:
            num_envs: How many, B.
            preset: As for `LoadBalancerEnv`.
            num_servers: As for `LoadBalancerEnv`.
            render_mode: "rgb_array" renders each environment.
            autoreset_mode: What happens after an episode's end.
            max_episode_steps: Shortens episodes, as `gym.make` would; None or -1: no limit.
            **overrides: Fields of `LoadBalancerConfig`; `infos` is "basic" unless given.

        Raises:
            ConfigError: If a setting is unknown or makes no sense.
        """
        self.num_envs = check_count("num_envs", num_envs)
        if render_mode not in (None, "rgb_array"):
            raise gym.error.UnsupportedMode(
                f'render_mode must be None or "rgb_array" for many, got {render_mode!r}'
            )
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            hint = suggest(str(autoreset_mode), [mode.value for mode in AutoresetMode])
            raise ConfigError(
                f"autoreset_mode must be a known one, got {autoreset_mode!r}.{hint}"
            ) from None
        self.config = make_config(preset, num_servers, **{"infos": "basic", **overrides})
        self.render_mode = render_mode
        self.max_episode_steps = (
            check_count("max_episode_steps", max_episode_steps)
            if max_episode_steps not in (None, -1)
            else None
        )
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.simulator = LoadBalancerSimulator(self.config, self.num_envs)
        self.single_observation_space = observation_space(self.config)
        self.single_action_space = action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._finished = np.zeros(self.num_envs, np.bool_)
        self._seeded = np.zeros(self.num_envs, np.bool_)
        self._ready = False
        self._history: list[list[tuple[int, float, bool]]] = [[] for _ in range(self.num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: s gives environment i the seed s + i; a sequence gives one seed each, where
                equal seeds share one outside world. None goes on from the current seed, or from
                a random one at first.
            options: `reset_mask`, shape (B,), bool: which environments to reset (default: all).

        Raises:
            ConfigError: If a seed or an option makes no sense.
        """
        check_options(options, known=("reset_mask",))
        members = self._members((options or {}).get("reset_mask"))
        self._seed(seed, members)
        self._restart(members)
        present = np.zeros(self.num_envs, np.bool_)
        present[members] = True
        return self.simulator.observe(), self._server_infos(present)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Route the waiting request of every environment.

        Args:
            actions: Servers, shape (B,), integers.

        Returns:
            Observations (B, D) float32, rewards (B,) float64, terminated and truncated (B,) bool,
            and infos as Gymnasium's vector environments give them.

        Raises:
            gymnasium.error.InvalidAction: If there is no such server, or actions are not (B,).
            gymnasium.error.ResetNeeded: Before the first reset; with DISABLED, if a finished
                environment is stepped.
        """
        if self.autoreset_mode is AutoresetMode.DISABLED:
            return self.step_alive(actions, np.ones(self.num_envs, np.bool_))
        actions = self._checked(actions)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._finished.any():
            return self._step_with_resets(actions)
        observations = self.simulator.step(actions)
        outcomes = self.simulator.outcomes
        done = outcomes["done"].copy()
        if self.max_episode_steps is not None:
            done |= self._past_limit()
        infos = self._step_infos(actions)
        rewards = outcomes["reward"].copy()
        self._finished = done.copy()
        terminated, truncated = self._ends(done)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            observations, infos = self._reset_in_place(done, observations, infos)
        return observations, rewards, terminated, truncated, infos

    def step_alive(
        self, actions: np.ndarray, alive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Route the waiting requests of some environments; the others stay as they are.

        For episodes that end, or that one wants to go on with, at different moments: `step` with
        DISABLED refuses to go on when any environment has finished.

        Args:
            actions: Servers, shape (B,), integers, also where they change nothing.
            alive: Which environments to step, shape (B,), bool.

        Returns:
            As `step`. Environments not stepped show what they showed, with reward 0 and no end,
            and their infos are marked absent.

        Raises:
            gymnasium.error.InvalidAction: If there is no such server, or actions are not (B,).
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
        actions = self._checked(actions)
        if (self._finished & alive).any():
            raise gym.error.ResetNeeded(
                "finished environments must be reset before the next step: "
                'call reset(options={"reset_mask": terminated | truncated})'
            )
        observations = self.simulator.step(actions, skip=~alive)
        outcomes = self.simulator.outcomes
        done = (outcomes["done"] | self._past_limit()) & alive
        self._finished |= done
        rewards = np.where(alive, outcomes["reward"], 0.0)
        infos = self._step_infos(actions, present=alive)
        return observations, rewards, *self._ends(done), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per environment, each (height, width, 3), uint8."""
        if self.render_mode is None:
            return None
        return tuple(
            render_rgb(self.simulator, history, member=b) for b, history in enumerate(self._history)
        )

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A snapshot of the given environments (default: all); the first axis is theirs."""
        return self.simulator.get_state(members)

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments (default: all) where the snapshot was taken.

        Raises:
            ValueError: If the snapshot does not fit this configuration, or is of another number
                of environments.
        """
        self.simulator.set_state(state, members)
        self._seeded[slice(None) if members is None else members] = True
        self._ready = bool(self._seeded.all())
        self._finished = self._past_end()
        # Pictures show recent requests, and those were another episode's.
        for b in range(self.num_envs) if members is None else members:
            self._history[b].clear()

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments `target` continue exactly as `source` would, both shape (M,), int."""
        self.simulator.copy_members(np.asarray(source), np.asarray(target))
        self._seeded[target] = self._seeded[source]
        self._ready = bool(self._seeded.all())
        self._finished = self._past_end()
        histories = [self._history[b].copy() for b in source]
        for b, history in zip(target, histories, strict=True):
            self._history[b] = history

    def observe(self) -> np.ndarray:
        """Current observations of all environments, shape (B, D), float32."""
        return self.simulator.observe()

    def _past_limit(self) -> np.ndarray:
        if self.max_episode_steps is None:
            return np.zeros(self.num_envs, np.bool_)
        return self.simulator.episodes["step"] >= self.max_episode_steps

    def _past_end(self) -> np.ndarray:
        return self._past_limit() | (self.simulator.episodes["step"] >= self.config.episode_length)

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step()")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise gym.error.InvalidAction(
                f"actions must be integers of shape ({self.num_envs},), got {actions.dtype} of "
                f"shape {actions.shape}"
            )
        actions = np.ascontiguousarray(actions, np.int64)
        if not are_servers(actions, self.config.num_servers):
            raise gym.error.InvalidAction(
                f"actions must be servers from 0 to {self.config.num_servers - 1}, got "
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
        seeds = _seed_list(seed, self.num_envs)
        chosen = [b for b in members.tolist() if seeds[b] is not None or not self._seeded[b]]
        if not chosen:
            return
        folded = np.random.SeedSequence().generate_state(self.num_envs, np.uint64)
        for b in chosen:
            one = seeds[b]
            if one is not None:
                folded[b] = fold_seed(one)
        self.simulator.seed(folded[chosen], np.array(chosen, np.int64))
        self._seeded[chosen] = True
        self._ready = bool(self._seeded.all())

    def _restart(self, members: np.ndarray) -> None:
        self.simulator.reset(members)
        self._finished[members] = False
        for b in members.tolist() if self.render_mode is not None else ():
            self._history[b].clear()

    def _step_with_resets(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """NEXT_STEP: environments that ended before ignore their action and start over."""
        started = self._finished.copy()
        self.simulator.step(actions, skip=started)
        self._restart(np.flatnonzero(started))
        outcomes = self.simulator.outcomes
        rewards = np.where(started, 0.0, outcomes["reward"])
        done = outcomes["done"] & ~started
        if self.max_episode_steps is not None:
            done |= self._past_limit()
        self._finished = done
        infos = self._step_infos(actions, present=~started)
        return self.simulator.observe(), rewards, *self._ends(done), infos

    def _reset_in_place(
        self, done: np.ndarray, observations: np.ndarray, infos: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """SAME_STEP: the last observation and infos move to `final_obs` and `final_info`."""
        final_observations = np.full(self.num_envs, None, dtype=object)
        for b in np.flatnonzero(done):
            final_observations[b] = observations[b].copy()
        final_infos = {
            name: (values & done if name.startswith("_") else values)
            for name, values in infos.items()
        }
        self._restart(np.flatnonzero(done))
        infos = {
            **self._server_infos(np.ones(self.num_envs, np.bool_)),
            **{name: infos[name] for name in self._step_names()},
            **{f"_{name}": ~done for name in self._step_names()},
            "final_obs": final_observations,
            "_final_obs": done.copy(),
            "final_info": final_infos,
            "_final_info": done.copy(),
        }
        return self.simulator.observe(), infos

    def _ends(self, done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Terminated and truncated, both shape (B,), as `gym.make` with its time limit says."""
        if self.config.reward != "park":
            return np.zeros(self.num_envs, np.bool_), done.copy()
        complete = self.simulator.episodes["step"] >= self.config.episode_length
        return done & complete, done & self._past_limit()

    def _step_names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = ("response_time_ms", "error")
        if self.config.infos == "full":
            names += ("estimated_rewards", "oracle_action", "regret")
        return names

    def _step_infos(self, actions: np.ndarray, present: np.ndarray | None = None) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, np.bool_)
        infos = self._server_infos(everyone) if self.config.infos == "full" else {}
        present = everyone if present is None else present
        outcomes = self.simulator.outcomes
        infos["response_time_ms"] = outcomes["response_time_ms"].copy()
        infos["error"] = outcomes["error"].copy()
        if self.config.infos == "full":
            estimates = self.simulator.estimates["reward"].copy()
            best = estimates.argmax(axis=1)
            members = np.arange(self.num_envs)
            infos["estimated_rewards"] = estimates
            infos["oracle_action"] = best
            infos["regret"] = estimates[members, best] - estimates[members, actions]
        for name in self._step_names():
            infos[f"_{name}"] = present.copy()
        for b in np.flatnonzero(present) if self.render_mode is not None else ():
            outcome = outcomes[b]
            event = (int(actions[b]), float(outcome["response_time_ms"]), bool(outcome["error"]))
            self._history[b].append(event)
        return infos

    def _server_infos(self, present: np.ndarray) -> dict[str, Any]:
        seen = self.simulator.metrics
        now = self.simulator.episodes["now_ms"][:, None]
        infos: dict[str, Any] = {
            "in_flight": seen["in_flight"].copy(),
            "latency_ms": seen["latency_ms"].copy(),
            "error_rate": seen["error_rate"].copy(),
            "age_ms": np.where(seen["observed_at_ms"] < 0, np.inf, now - seen["observed_at_ms"]),
            "degraded": self.simulator.servers["degraded"].copy(),
        }
        return {**infos, **{f"_{name}": present.copy() for name in infos}}


def _seed_list(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed or None for each environment.

    Raises:
        ConfigError: If they are not that many, or one of them is no integer >= 0.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        seeds: list[int | None] = [int(seed) + b for b in range(num_envs)]
    else:
        seeds = list(seed) if isinstance(seed, (Sequence, np.ndarray)) else [-1]
        if len(seeds) != num_envs:
            raise ConfigError(f"seed must be one number or {num_envs}, got {seed!r}")
    for one in seeds:
        if one is not None and (not isinstance(one, (int, np.integer)) or one < 0):
            raise ConfigError(f"seed must be an integer >= 0, got {seed!r}")
    return [None if one is None else int(one) for one in seeds]
