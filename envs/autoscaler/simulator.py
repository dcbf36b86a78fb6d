"""B clusters that are scaled together: the dynamics of autoscaling in batches.

Batch-first: every array starts with B. The same kernels serve one environment and thousands.
Nothing here knows of Gymnasium or torch.

Shapes: B environments, T steps an episode, R = B trace rows, M numbers of an observation, H steps
of history, A choices.
"""

from collections.abc import Mapping

import numpy as np

from grpo_gym.envs.arguments import check_state
from grpo_gym.envs.autoscaler import trace as world
from grpo_gym.envs.autoscaler.actions import count_choices, encode, mask_kernel
from grpo_gym.envs.autoscaler.batch_kernels import start_kernel, step_kernel
from grpo_gym.envs.autoscaler.observation import (
    NUM_METRICS,
    feature_names,
    observe_metrics,
    observe_rest,
    remember,
    unroll,
)
from grpo_gym.envs.autoscaler.parameters import step_parameters
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.records import CLUSTER, EPISODE, METRIC, OUTCOME
from grpo_gym.envs.randomness import episode_seeds

_STATE = ("episodes", "clusters", "starting", "metrics", "outcomes", "history")


class AutoScalerSimulator:
    """State and dynamics of B clusters under one configuration.

    Environments that are reset together with equal seeds share one trace in memory.

    Attributes:
        config: The settings.
        episodes: `EPISODE` records, shape (B,).
        clusters: `CLUSTER` records, shape (B,): what each cluster is now.
        starting: Replicas that start up, by the steps until they serve, less one; shape
            (B, start-up steps), int64.
        metrics: What was measured in the last step, `METRIC` records, shape (B,).
        outcomes: What came of it, `OUTCOME` records, shape (B,).
        demand: Traces, requests/s, shape (R, T + 1), float32: row `episodes["trace_row"]`, and
            the column of step t of an episode is t, where 0 is before the first step.
        starts: Steps from midnight of the first day to each trace's start, shape (R,), int64.
        history: Metrics as observed, step t at row t % H, shape (B, H, 10), float32.
    """

    def __init__(self, config: AutoScalerConfig, num_envs: int) -> None:
        """Allocate everything; nothing is drawn before `reset`.

        Raises:
            ConfigError: If `demand_csv` cannot be used.
        """
        self.config = config
        self.num_envs = num_envs
        self.episodes = np.zeros(num_envs, EPISODE)
        self.clusters = np.zeros(num_envs, CLUSTER)
        self.starting = np.zeros((num_envs, config.start_up_steps), np.int64)
        self.metrics = np.zeros(num_envs, METRIC)
        self.outcomes = np.zeros(num_envs, OUTCOME)
        self.demand = np.zeros((num_envs, config.episode_steps + 1), np.float32)
        self.starts = np.zeros(num_envs, np.int64)
        self.history = np.zeros((num_envs, config.history, NUM_METRICS), np.float32)
        self.parameters = step_parameters(config)
        self.num_features = len(feature_names(config))
        self.num_choices = count_choices(config)
        self._recorded = world.read_demand(config)
        self._trace_parameters = world.trace_parameters(config)
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
        """Draw the next episode's demand of the given environments (default: all) and start it."""
        members = self._all if members is None else members
        self.episodes["episode"][members] += 1
        seeds = np.empty(len(members), np.uint64)
        episode_seeds(self.episodes["base_seed"][members], self.episodes["episode"][members], seeds)
        distinct, group = np.unique(seeds, return_inverse=True)
        rows = self._free_rows(members, len(distinct))
        self.episodes["trace_row"][members] = rows[group]
        world.draw_traces(
            distinct, rows, self._trace_parameters, self._recorded, self.demand, self.starts
        )
        self.outcomes[members] = np.zeros((), OUTCOME)
        start_kernel(
            members,
            self.episodes,
            self.demand,
            self.clusters,
            self.starting,
            self.metrics,
            self.outcomes,
            self.parameters,
        )
        self._remember(members)

    def step(
        self, actions: np.ndarray, skip: np.ndarray | None = None
    ) -> np.ndarray | dict[str, np.ndarray]:
        """One step of each environment; finished ones stay as they are, with reward 0.

        Args:
            actions: Numbers of the configured kind, shape (B,) or for "multi" (B, 3), int64.
            skip: Environments to leave untouched, shape (B,), bool.

        Returns:
            Observations, also of environments that were left as they are; see `observe`.
        """
        numbers = encode("flat", actions) if self.config.action == "multi" else actions
        skip = self._no_skip if skip is None else skip
        step_kernel(
            numbers,
            skip,
            self.episodes,
            self.demand,
            self.clusters,
            self.starting,
            self.metrics,
            self.outcomes,
            self.parameters,
        )
        self._remember(self._all)
        return self.observe()

    def observe(self) -> np.ndarray | dict[str, np.ndarray]:
        """Observations of all environments, float32.

        Returns:
            Shape (B, M); with `history` a dictionary of that, as "current_metrics", and of
            "metrics_history", shape (B, H, 10), oldest first.
        """
        current = np.empty((self.num_envs, self.num_features), np.float32)
        observe_metrics(self.measured(), current)
        observe_rest(
            self.episodes,
            self.starts,
            self.clusters,
            self.config.steps_per_day,
            self.parameters,
            current,
        )
        if self.config.history == 0:
            return current
        history = np.empty(self.history.shape, np.float32)
        unroll(self.episodes, self.history, history)
        return {"current_metrics": current, "metrics_history": history}

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation's current numbers."""
        return (self.num_features,)

    def measured(self) -> np.ndarray:
        """The ten metrics of the last step in their units, shape (B, 10), float64: a view."""
        return self.metrics.view(np.float64).reshape(self.num_envs, NUM_METRICS)

    def demand_ahead(self, steps: int) -> np.ndarray:
        """Demand of the next steps, requests/s, shape (B, steps): what no policy can know.

        Beyond the episode's end it stays as it is there.
        """
        last = self.demand.shape[1] - 1
        columns = self.episodes["step"][:, None] + np.arange(1, steps + 1)
        return self.demand[self.episodes["trace_row"][:, None], np.minimum(columns, last)]

    def action_masks(self) -> np.ndarray:
        """Safe actions as 1, others as 0, shape (B, A), int8; see `actions.mask_kernel`."""
        masks = np.empty((self.num_envs, self.num_choices), np.int8)
        mask_kernel(self.clusters, self.parameters, masks)
        return masks

    def elapsed(self) -> np.ndarray:
        """Steps since the reset, shape (B,), int64."""
        steps: np.ndarray = self.episodes["step"]
        return steps

    def rewards(self) -> np.ndarray:
        """Of the last step, shape (B,), float64: a copy."""
        return self.outcomes["reward"].copy()

    def get_state(self, members: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """A copy of everything that decides how the given environments go on.

        Returns:
            Arrays whose first axis is the environment; `set_state` takes them back.
        """
        members = self._all if members is None else members
        rows = self.episodes["trace_row"][members]
        return {
            **{name: getattr(self, name)[members] for name in _STATE},
            "demand": self.demand[rows],
            "starts": self.starts[rows],
        }

    def set_state(self, state: Mapping[str, np.ndarray], members: np.ndarray | None = None) -> None:
        """Put the given environments where `get_state` found those of the state.

        Raises:
            ValueError: If the state is not one of environments like these.
        """
        members = self._all if members is None else members
        own = {name: getattr(self, name) for name in (*_STATE, "demand", "starts")}
        check_state(state, own, len(members))
        rows = self._free_rows(members, len(members))
        for name in _STATE:
            getattr(self, name)[members] = state[name]
        self.demand[rows] = state["demand"]
        self.starts[rows] = state["starts"]
        self.episodes["trace_row"][members] = rows

    def copy_members(self, source: np.ndarray, target: np.ndarray) -> None:
        """Make environments `target` go on exactly as `source`, in the same outside world.

        Args:
            source: Environments to copy from, shape (M,), int64.
            target: Environments to overwrite, shape (M,), int64.
        """
        for name in _STATE:
            rows = getattr(self, name)
            rows[target] = rows[source]

    def _remember(self, members: np.ndarray) -> None:
        if self.config.history == 0:
            return
        rows = np.empty((self.num_envs, NUM_METRICS), np.float32)
        observe_metrics(self.measured(), rows)
        remember(members, self.episodes, rows, self.history)

    def _free_rows(self, members: np.ndarray, count: int) -> np.ndarray:
        """Trace rows that no other environment uses: with R = B there are always enough."""
        used = np.zeros(self.num_envs, np.bool_)
        others = np.ones(self.num_envs, np.bool_)
        others[members] = False
        used[self.episodes["trace_row"][others]] = True
        return np.flatnonzero(~used)[:count]
