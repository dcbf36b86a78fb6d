"""The load balancer: B environments that each route requests to N servers.

Shapes: B environments, N servers, T requests an episode, R = B trace rows, D features.
"""

from functools import cached_property
from typing import Any

import numpy as np
from typing_extensions import override

from grpo_gym.envs.batch_simulator import BatchSimulator, Infos
from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.batch_kernels import (
    compare_estimates,
    estimate_kernel,
    measure_ages,
    start_kernel,
    step_kernel,
)
from grpo_gym.envs.load_balancer.dynamics import Memory
from grpo_gym.envs.load_balancer.observation import count_features, observe_all
from grpo_gym.envs.load_balancer.parameters import (
    fault_slots,
    parameters_of,
    scheduled_faults,
    server_constants,
)
from grpo_gym.envs.load_balancer.presets import LoadBalancerConfig
from grpo_gym.envs.load_balancer.records import EPISODE, ESTIMATE, OUTCOME, REQUEST, SERVER


class LoadBalancerSimulator(BatchSimulator):
    """State and dynamics of B environments.

    Attributes:
        config: The settings.
        episodes: `EPISODE` records, shape (B,).
        servers: `SERVER` records, shape (B, N).
        metrics: The servers as the balancer observes them, shape (B, N): `servers` itself, or with
            staleness `SERVER` records that are published now and then.
        outcomes: Results of the last step, `OUTCOME` records, shape (B,).
        estimates: With `infos="full"`, what each server would have returned in the last step,
            `ESTIMATE` records, shape (B, N); else empty.
    """

    state_names = ("episodes", "servers", "metrics", "requests", "outcomes")
    trace_names = ("arrivals", "faults")

    def __init__(self, config: LoadBalancerConfig, num_envs: int) -> None:
        """Allocate everything; nothing is drawn before `reset`."""
        super().__init__(num_envs, EPISODE)
        self.config = config
        servers = config.num_servers
        rows = config.episode_length + 1
        self.servers = np.zeros((num_envs, servers), SERVER)
        self.metrics = self.servers if config.staleness_ms == 0.0 else self.servers.copy()
        self.requests = np.zeros((num_envs, rows), REQUEST)
        self.arrivals = np.zeros((num_envs, rows), trace.ARRIVAL)
        self.schedule = scheduled_faults(config)
        self.faults = np.zeros((num_envs, servers, fault_slots(config)), trace.FAULT)
        self.outcomes = np.zeros(num_envs, OUTCOME)
        self.estimates = np.zeros((num_envs if config.infos == "full" else 0, servers), ESTIMATE)
        self.constants = server_constants(config)
        self.parameters = parameters_of(config)
        self.num_features = count_features(config)
        self.memory = Memory(*(getattr(self, name) for name in Memory._fields))
        self.observation_shape = (self.num_features,)

    @cached_property
    def _state_views(self) -> Infos:
        """Fields of the records, made once: making them takes as long as a step."""
        seen = ("in_flight", "latency_ms", "error_rate")
        views = {name: self.metrics[name] for name in seen}
        return {**views, "degraded": self.servers["degraded"]}

    @cached_property
    def _step_views(self) -> Infos:
        views = {name: self.outcomes[name] for name in ("response_time_ms", "error")}
        full = self.config.infos == "full"
        return {**views, "estimated_rewards": self.estimates["reward"]} if full else views

    def __getstate__(self) -> dict[str, Any]:
        # A copied view would no longer be one.
        views = ("_state_views", "_step_views")
        return {name: value for name, value in vars(self).items() if name not in views}

    @override
    def reset(self, members: np.ndarray | None = None) -> None:
        members = self._all if members is None else members
        seeds = self._begin_episodes(members)
        distinct, first, group = np.unique(seeds, return_index=True, return_inverse=True)
        everyone = len(members) == self.num_envs
        rows = first if everyone else self._free_rows(members, len(distinct))
        self.episodes["trace_row"][members] = rows[group]
        trace.draw_traces(
            distinct, rows, self.parameters, self.schedule, self.arrivals, self.faults
        )
        self.outcomes[members] = np.zeros((), OUTCOME)
        if len(self.estimates):
            self.estimates[members] = np.zeros((), ESTIMATE)
        start_kernel(self.memory, members, seeds)

    @override
    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> np.ndarray:
        observations = np.empty((self.num_envs, self.num_features), np.float32)
        skip = self._no_skip if skip is None else skip
        step_kernel(actions, skip, self.estimates, observations, *self.memory)
        return observations

    @override
    def observe(self) -> np.ndarray:
        observations = np.empty((self.num_envs, self.num_features), np.float32)
        p, flat = self.parameters[0], observations.reshape(-1)
        observe_all(self.episodes, self.arrivals, self.metrics, p, observations, flat)
        return observations

    @override
    def rewards(self) -> np.ndarray:
        return self.outcomes["reward"].copy()

    @override
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        complete, never = self.outcomes["done"], np.zeros(self.num_envs, np.bool_)
        return (complete, never) if self.config.reward == "park" else (never, complete)

    @override
    def state_infos(self) -> Infos:
        ages_ms = np.empty(self.metrics.shape)
        measure_ages(self.episodes, self.metrics, ages_ms)
        return {**self._state_views, "age_ms": ages_ms}

    @override
    def step_infos(self, actions: np.ndarray) -> Infos:
        if self.config.infos != "full":
            return self._step_views
        best, regrets = np.empty(self.num_envs, np.int64), np.empty(self.num_envs)
        compare_estimates(self.estimates, actions, best, regrets)
        return {**self._step_views, "oracle_action": best, "regret": regrets}

    def counterfactuals(self) -> np.ndarray:
        """What each server would return for the waiting request; changes nothing.

        Returns:
            `ESTIMATE` records (reward, response_time_ms), shape (B, N). Under `reward="park"`
            the reward is the request's own share of the return: minus its response time.
        """
        estimates = np.empty(self.servers.shape, ESTIMATE)
        estimate_kernel(self.memory, estimates)
        return estimates
