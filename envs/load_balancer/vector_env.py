"""`LoadBalancer-v0` for many environments at once: the batch simulator with B = num_envs."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from grpo_gym.envs.arguments import check_vector_arguments
from grpo_gym.envs.load_balancer.env import LoadBalancerEnv
from grpo_gym.envs.load_balancer.presets import make_config
from grpo_gym.envs.load_balancer.rendering import render_rgb
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.load_balancer.spaces import action_space, observation_space
from grpo_gym.envs.native_vector_env import NativeVectorEnv


class LoadBalancerVectorEnv(NativeVectorEnv):
    """Many `LoadBalancerEnv` in one array program; see there for the task.

    Members that are reset together with equal seeds share one trace. `autoreset_mode` is any of
    Gymnasium's three: NEXT_STEP (default), SAME_STEP, DISABLED (with `reset_mask`).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **LoadBalancerEnv.metadata,
        **NativeVectorEnv.metadata,
    }
    actions_are = "servers"

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
        count, mode, limit = check_vector_arguments(
            num_envs, render_mode, autoreset_mode, max_episode_steps
        )
        self.config = make_config(preset, num_servers, **{"infos": "basic", **overrides})
        self.simulator = LoadBalancerSimulator(self.config, count)
        super().__init__(
            self.simulator,
            observation_space(self.config),
            action_space(self.config),
            render_mode=render_mode,
            autoreset_mode=mode,
            max_episode_steps=limit,
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per environment, each (height, width, 3), uint8."""
        if self.render_mode is None:
            return None
        return tuple(
            render_rgb(self.simulator, history, member=b) for b, history in enumerate(self._history)
        )

    def _own_ends(self) -> tuple[np.ndarray, np.ndarray]:
        complete = self.simulator.elapsed() >= self.config.episode_length
        never = np.zeros(self.num_envs, np.bool_)
        return (complete, never) if self.config.reward == "park" else (never, complete)

    def _step_names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = ("response_time_ms", "error")
        if self.config.infos == "full":
            names += ("estimated_rewards", "oracle_action", "regret")
        return names

    def _step_infos(self, actions: np.ndarray, present: np.ndarray) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, np.bool_)
        infos = self._reset_infos(everyone) if self.config.infos == "full" else {}
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

    def _reset_infos(self, present: np.ndarray) -> dict[str, Any]:
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
