"""The load balancer: B environments that each route requests to N servers.

Shapes: B environments, N servers, T requests an episode, R = B trace rows, D features.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from typing_extensions import override

from grpo_gym.envs.batch_simulator import BatchSimulator, Infos, Rule
from grpo_gym.envs.load_balancer import trace
from grpo_gym.envs.load_balancer.batch_kernels import (
    compare_estimates,
    estimate_kernel,
    measure_ages,
    start_kernel,
    step_kernel,
)
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.dynamics import Memory
from grpo_gym.envs.load_balancer.fleets import draw_config
from grpo_gym.envs.load_balancer.observation import count_features, observe_all
from grpo_gym.envs.load_balancer.parameters import (
    fault_slots,
    parameters_of,
    recorded_requests,
    scheduled_faults,
    server_constants,
)
from grpo_gym.envs.load_balancer.records import EPISODE, ESTIMATE, OUTCOME, REQUEST, SERVER
from grpo_gym.envs.load_balancer.state_rules import balancer_rules

_SEEN = ("in_flight", "latency_ms", "error_rate")
"""Infos about servers as the balancer sees them."""


class LoadBalancerSimulator(BatchSimulator):
    """State and dynamics of B environments.

    Attributes:
        config: The settings.
        episodes: `EPISODE` records, shape (B,).
        servers: `SERVER` records, shape (B, N): how they are, and with one balancer what it has
            observed of them.
        views: The servers as each of M balancers has observed them, shape (B, M * N), balancer by
            balancer: with one balancer `servers` itself.
        metrics: What of that is published: `views` itself, or with staleness `SERVER` records that
            are written now and then. `seen` has those of the current balancer.
        requests: The requests of the episode, `REQUEST` records, shape (B, T + 1), or (B, 2 T + 2)
            with retries.
        constants: The servers' settings, `SERVER_CONSTANTS` records, shape (1, N), or (R, N) if
            each trace has its own.
        parameters: The other settings as records, shape (1,) or (R,).
        outcomes: Results of the last step, `OUTCOME` records, shape (B,).
        estimates: With `infos="full"`, what each server would have returned in the last step,
            `ESTIMATE` records, shape (B, N); else empty.
    """

    def __init__(self, config: LoadBalancerConfig, num_envs: int) -> None:
        """Allocate everything; nothing is drawn before `reset`.

        Raises:
            ConfigError: If the file of recorded arrivals cannot be used.
        """
        super().__init__(num_envs, EPISODE)
        self.config = config
        servers = config.server_slots
        rows = config.episode_length + 1
        self.recording = recorded_requests(config)
        self.servers = self.views = np.zeros((num_envs, servers), SERVER)
        if config.balancer_slots > 1:
            self.views = np.zeros((num_envs, config.balancer_slots * servers), SERVER)
        self.metrics = self.views if config.staleness_ms == 0.0 else self.views.copy()
        self.requests = np.zeros((num_envs, rows * (1 + config.retry)), REQUEST)
        self.arrivals = np.zeros((num_envs, rows), trace.ARRIVAL)
        self.schedule = scheduled_faults(config)
        self.faults = np.zeros(
            (num_envs, servers, fault_slots(config, self.recording)), trace.FAULT
        )
        self.outcomes = np.zeros(num_envs, OUTCOME)
        self.estimates = np.zeros((num_envs if config.infos == "full" else 0, servers), ESTIMATE)
        drawn = bool(config.distributions)
        self.constants = np.repeat(server_constants(config)[None], num_envs if drawn else 1, axis=0)
        self.parameters = np.repeat(parameters_of(config), num_envs if drawn else 1)
        self._never = np.zeros(num_envs, np.bool_)
        self.num_features = count_features(config)
        self.memory = Memory(*(getattr(self, name) for name in Memory._fields))
        self.observation_shape = (self.num_features,)
        self.state_names = ("episodes", "servers", "metrics", "requests", "outcomes")
        self.trace_names = ("arrivals", "faults")
        if drawn:
            self.trace_names += ("constants", "parameters")

    @property
    def num_balancers(self) -> int:
        """Balancers that share the servers, M: the most that an episode may have."""
        return self.config.balancer_slots

    @property
    def seen(self) -> np.ndarray:
        """The servers as the balancer of the waiting request sees them, `SERVER`, shape (B, N)."""
        if self.num_balancers == 1:
            return self.metrics
        views = self.metrics.reshape(self.num_envs, self.num_balancers, -1)
        seen: np.ndarray = views[self._all, self.episodes["balancer"]]
        return seen

    @property
    def weights(self) -> np.ndarray:
        """Configured weights of the servers, 0 for those that are absent, float64, shape (B, N)."""
        return self._of_environments(self.constants["weight"])

    @property
    def rates(self) -> np.ndarray:
        """The servers' true service rates, 0 for those that are absent, float64, shape (B, N)."""
        return self._of_environments(self.constants["rate"])

    @property
    def present(self) -> np.ndarray:
        """Which servers each environment has, bool, shape (B, N)."""
        return self.weights > 0.0

    def setting(self, name: str) -> np.ndarray:
        """A field of `parameters` for each environment, shape (B,)."""
        return self._of_environments(self.parameters[name])

    def _of_environments(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) == 1:
            return np.broadcast_to(rows, (self.num_envs, *rows.shape[1:]))
        chosen: np.ndarray = rows[self.episodes["trace_row"]]
        return chosen

    def fleet(self, b: int) -> LoadBalancerConfig:
        """The settings of environment b's episode, with all that it drew."""
        return draw_config(self.config, int(self.episodes["seed"][b]))

    @cached_property
    def _state_views(self) -> Infos:
        """Fields of the records, made once: making them takes as long as a step."""
        return {name: self.metrics[name] for name in _SEEN} | {"degraded": self.servers["degraded"]}

    @cached_property
    def _rewards(self) -> np.ndarray:
        rewards: np.ndarray = self.outcomes["reward"]
        return rewards

    @cached_property
    def _done(self) -> np.ndarray:
        done: np.ndarray = self.outcomes["done"]
        return done

    @cached_property
    def _step_views(self) -> Infos:
        names = {"response_time_ms": "response_time_ms", "error": "error"}
        if self.config.retry:
            names |= {"error": "failures", "retries": "retries"}
        for setting, name in (("timeout_ms", "timed_out"), ("connection_limit", "rejected")):
            if getattr(self.config, setting) is not None or setting in self.config.distributions:
                names[name] = name
        views = {info: self.outcomes[name] for info, name in names.items()}
        full = self.config.infos == "full"
        return {**views, "estimated_rewards": self.estimates["reward"]} if full else views

    def __getstate__(self) -> dict[str, Any]:
        # A copied view would no longer be one.
        views = ("_state_views", "_step_views", "_rewards", "_done")
        return {name: value for name, value in vars(self).items() if name not in views}

    @override
    def reset(self, members: np.ndarray | None = None) -> None:
        members = self._all if members is None else members
        seeds = self._begin_episodes(members)
        distinct, first, group = np.unique(seeds, return_index=True, return_inverse=True)
        everyone = len(members) == self.num_envs
        rows = first if everyone else self._free_rows(members, len(distinct))
        self.episodes["trace_row"][members] = rows[group]
        if self.config.distributions:
            self._draw_fleets(distinct, rows)
        trace.draw_traces(
            distinct,
            rows,
            self.parameters,
            self.schedule,
            self.recording,
            self.arrivals,
            self.faults,
        )
        self.outcomes[members] = np.zeros((), OUTCOME)
        if len(self.estimates):
            self.estimates[members] = np.zeros((), ESTIMATE)
        start_kernel(self.memory, members, seeds)

    def _draw_fleets(self, seeds: np.ndarray, rows: np.ndarray) -> None:
        for seed, row in zip(seeds.tolist(), rows.tolist(), strict=False):
            fleet = draw_config(self.config, seed)
            self.constants[row] = server_constants(fleet)
            self.parameters[row] = parameters_of(fleet)[0]

    @override
    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> np.ndarray:
        observations = np.empty((self.num_envs, self.num_features), np.float32)
        skip = self._no_skip if skip is None else skip
        step_kernel(actions, skip, self.estimates, observations, *self.memory)
        return observations

    @override
    def observe(self) -> np.ndarray:
        observations = np.empty((self.num_envs, self.num_features), np.float32)
        observe_all(
            self.episodes,
            self.arrivals,
            self.metrics,
            self.constants,
            self.parameters,
            observations,
            observations.reshape(-1),
        )
        return observations

    @override
    def rewards(self) -> np.ndarray:
        return self._rewards.copy()

    @override
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        complete, never = self._done, self._never
        return (complete, never) if self.config.reward == "park" else (never, complete)

    @override
    def state_infos(self) -> Infos:
        views, seen = self._state_views, self.seen
        if self.num_balancers > 1:
            views = {**views, **{name: seen[name] for name in _SEEN}}
        ages_ms = np.empty(seen.shape)
        measure_ages(self.episodes, seen, ages_ms)
        return {**views, "age_ms": ages_ms, **self.masks()}

    @override
    def state_infos_of_step(self) -> Infos:
        return self.state_infos() if self.config.infos == "full" else self.masks()

    def masks(self) -> Infos:
        """Which servers there are, as `action_mask`, int8, shape (B, N), if some may be absent."""
        return {"action_mask": self.present.view(np.int8)} if self.config.is_padded else {}

    @override
    def step_infos(self, actions: np.ndarray) -> Infos:
        if self.config.infos != "full":
            return self._step_views
        best, regrets = np.empty(self.num_envs, np.int64), np.empty(self.num_envs)
        compare_estimates(self.estimates, actions, best, regrets)
        return {**self._step_views, "oracle_action": best, "regret": regrets}

    @override
    def state_rules(self, state: Mapping[str, np.ndarray]) -> Iterator[Rule]:
        return balancer_rules(state, self.config)

    @override
    def _settings(self) -> Any:
        # Not where the recorded arrivals lie, but what they are.
        recorded = hashlib.sha256(self.recording.tobytes()).hexdigest()
        return {**super()._settings(), "arrivals_csv": recorded}

    def counterfactuals(self) -> np.ndarray:
        """What each server would return for the waiting request; changes nothing.

        Returns:
            `ESTIMATE` records (reward, response_time_ms), shape (B, N). Under `reward="park"`
            the reward is the request's own share of the return: minus its response time.
        """
        estimates = np.empty(self.servers.shape, ESTIMATE)
        estimate_kernel(self.memory, estimates)
        return estimates
