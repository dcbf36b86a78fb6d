"""B environments of N servers that move together: the dynamics of request routing in batches.

Batch-first: every array starts with B. The same kernels serve one environment and thousands.
Nothing here knows of Gymnasium or torch.

Shapes: B environments, N servers, T requests an episode, R = B trace rows, D features.
"""

import math
from collections.abc import Mapping

import numpy as np

from grpo_gym.envs.arguments import check_state
from grpo_gym.envs.load_balancer import trace as world
from grpo_gym.envs.load_balancer.batch_kernels import estimate_kernel, start_kernel, step_kernel
from grpo_gym.envs.load_balancer.observation import observe_all
from grpo_gym.envs.load_balancer.parameters import (
    count_features,
    fault_slots,
    scheduled_faults,
    server_constants,
    step_parameters,
    trace_parameters,
)
from grpo_gym.envs.load_balancer.presets import LoadBalancerConfig
from grpo_gym.envs.load_balancer.records import EPISODE, ESTIMATE, OUTCOME, REQUEST, SERVER
from grpo_gym.envs.randomness import episode_seeds


class LoadBalancerSimulator:
    """State and dynamics of B environments under one configuration.

    Environments that are reset together with equal seeds share one trace in memory.

    Attributes:
        config: The settings.
        episodes: `EPISODE` records, shape (B,).
        servers: `SERVER` records, shape (B, N).
        metrics: What the balancer sees of them: the servers themselves, or with staleness a
            copy of `SERVER` records, shape (B, N), that is brought up to date now and then.
        outcomes: What came of the last step, `OUTCOME` records, shape (B,).
        estimates: With `infos="full"`, what each server would have given in the last step,
            `ESTIMATE` records, shape (B, N); else empty.
    """

    def __init__(self, config: LoadBalancerConfig, num_envs: int) -> None:
        """Allocate everything; nothing is drawn before `reset`."""
        self.config = config
        self.num_envs = num_envs
        servers = config.num_servers
        rows = config.episode_length + 1
        self.episodes = np.zeros(num_envs, EPISODE)
        self.servers = np.zeros((num_envs, servers), SERVER)
        self.metrics = self.servers if config.staleness_ms == 0.0 else self.servers.copy()
        self.requests = np.zeros((num_envs, rows), REQUEST)
        self.arrivals = np.zeros((num_envs, rows), world.ARRIVAL)
        self.schedule = scheduled_faults(config)
        self.faults = np.zeros((num_envs, servers, fault_slots(config)), world.FAULT)
        self.outcomes = np.zeros(num_envs, OUTCOME)
        self.estimates = np.zeros((num_envs if config.infos == "full" else 0, servers), ESTIMATE)
        self.constants = server_constants(config)
        self.parameters = step_parameters(config)
        self._trace_parameters = trace_parameters(config)
        self.num_features = count_features(config)
        self._all = np.arange(num_envs)
        self._no_skip = np.zeros(0, np.bool_)

    def seed(self, seeds: np.ndarray, members: np.ndarray | None = None) -> None:
        """Start the given environments (default: all) over from these seeds, at episode 0.

        Args:
            seeds: Shape (M,), uint64.
            members: Which environments, shape (M,), int64.
        """
        members = self._all if members is None else members
        self.episodes["base_seed"][members] = seeds
        self.episodes["episode"][members] = -1

    def reset(self, members: np.ndarray | None = None) -> None:
        """Draw the next episode's trace of the given environments (default: all) and start it."""
        members = self._all if members is None else members
        self.episodes["episode"][members] += 1
        seeds = np.empty(len(members), np.uint64)
        episode_seeds(self.episodes["base_seed"][members], self.episodes["episode"][members], seeds)
        distinct, first, group = np.unique(seeds, return_index=True, return_inverse=True)
        rows = self._free_rows(members, first)
        self.episodes["trace_row"][members] = rows[group]
        world.draw_traces(
            distinct, rows, self._trace_parameters, self.schedule, self.arrivals, self.faults
        )
        self.outcomes[members] = np.zeros((), OUTCOME)
        if len(self.estimates):
            self.estimates[members] = np.zeros((), ESTIMATE)
        start_kernel(
            members,
            self.episodes,
            self.servers,
            self.arrivals,
            self.faults,
            self.metrics,
            self.constants,
            self.parameters,
            seeds,
        )

    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> np.ndarray:
        """Route the waiting request of each environment and move to its next arrival.

        Finished environments stay as they are, with reward 0.

        Args:
            actions: Servers, shape (B,), int64, each in [0, N).
            skip: Environments to leave untouched, shape (B,), bool.

        Returns:
            Observations, shape (B, D), float32, also of environments that were left as they are.
        """
        observations = np.empty((self.num_envs, self.num_features), np.float32)
        step_kernel(
            actions,
            self._no_skip if skip is None else skip,
            self.episodes,
            self.servers,
            self.requests,
            self.arrivals,
            self.faults,
            self.metrics,
            self.constants,
            self.parameters,
            self.outcomes,
            self.estimates,
            observations,
        )
        return observations

    def observe(self) -> np.ndarray:
        """Observations of all environments, shape (B, D), float32."""
        observations = np.empty((self.num_envs, self.num_features), np.float32)
        observe_all(
            self.episodes,
            self.arrivals,
            self.metrics,
            self.parameters[0],
            observations,
            observations.reshape(-1),
        )
        return observations

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return (self.num_features,)

    def elapsed(self) -> np.ndarray:
        """Requests routed since the reset, shape (B,), int64."""
        steps: np.ndarray = self.episodes["step"]
        return steps

    def rewards(self) -> np.ndarray:
        """Of the last step, shape (B,), float64: a copy."""
        return self.outcomes["reward"].copy()

    def counterfactuals(self) -> np.ndarray:
        """What the waiting request would meet at each server: a look that changes nothing.

        Returns:
            `ESTIMATE` records (reward, response_time_ms), shape (B, N). Under `reward="park"`
            the reward is the request's own share of the return: minus its response time.
        """
        estimates = np.empty(self.servers.shape, ESTIMATE)
        estimate_kernel(
            self.episodes,
            self.servers,
            self.arrivals,
            self.faults,
            self.constants,
            self.parameters,
            estimates,
        )
        return estimates

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A copy of everything that decides how the given environments go on.

        Returns:
            Arrays whose first axis is the environment; `set_state` takes them back.
        """
        members = self._all if members is None else members
        rows = self.episodes["trace_row"][members]
        return {
            **{name: getattr(self, name)[members] for name in _STATE},
            "arrivals": self.arrivals[rows],
            "faults": self.faults[rows],
        }

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments where `get_state` found those of the state.

        Raises:
            ValueError: If the state is not one of environments like these.
        """
        members = self._all if members is None else members
        own = {name: getattr(self, name) for name in (*_STATE, "arrivals", "faults")}
        check_state(state, own, len(members))
        rows = self._free_rows(members, np.arange(len(members)))
        for name in _STATE:
            _as_bytes(getattr(self, name))[members] = _as_bytes(state[name])
        _as_bytes(self.arrivals)[rows] = _as_bytes(state["arrivals"])
        _as_bytes(self.faults)[rows] = _as_bytes(state["faults"])
        self.episodes["trace_row"][members] = rows

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments `target` go on exactly as `source`, in the same outside world.

        Args:
            source: Environments to copy from, shape (M,), int64.
            target: Environments to overwrite, shape (M,), int64.
        """
        for name in _STATE:
            rows = _as_bytes(getattr(self, name))
            rows[target] = rows[source]

    def _free_rows(self, members: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Trace rows that no other environment uses: with R = B there are always enough."""
        if len(members) == self.num_envs:
            return first.astype(np.int64)
        used = np.zeros(self.num_envs, np.bool_)
        others = np.ones(self.num_envs, np.bool_)
        others[members] = False
        used[self.episodes["trace_row"][others]] = True
        return np.flatnonzero(~used)[: len(first)]


def _as_bytes(records: np.ndarray) -> np.ndarray:
    """Records of each environment as one row of bytes: NumPy copies these 20 times faster.

    Args:
        records: Shape (B, ...); writing to the result writes to them if they are contiguous.
    """
    size = records.dtype.itemsize * math.prod(records.shape[1:])
    return np.ascontiguousarray(records).view(np.uint8).reshape(len(records), size)


_STATE = ("episodes", "servers", "metrics", "requests", "outcomes")
