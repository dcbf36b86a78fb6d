"""The autoscaler: B clusters, each scaled under a demand of its own.

Shapes: B environments, T steps an episode, R = B trace rows, M numbers of an observation, H steps
of history, A choices.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from typing_extensions import override

from grpo_gym.envs.autoscaler import observation, records, trace
from grpo_gym.envs.autoscaler.actions import count_choices, encode, mask_kernel
from grpo_gym.envs.autoscaler.dynamics import start_kernel, step_kernel
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.state_rules import cluster_rules
from grpo_gym.envs.batch_simulator import BatchSimulator, Infos, Observations, Rule
from grpo_gym.envs.parameters import kernel_parameters


class AutoScalerSimulator(BatchSimulator):
    """State and dynamics of B clusters.

    Attributes:
        config: The settings.
        episodes: `EPISODE` records, shape (B,).
        clusters: The current clusters, `CLUSTER` records, shape (B,).
        starting: Replicas that start up, by the steps until they serve, less one; shape
            (B, start-up steps), int64.
        metrics: Measurements of the last step, `METRIC` records, shape (B,).
        outcomes: Results of the last step, `OUTCOME` records, shape (B,).
        demand: Traces, requests/s, shape (R, T + 1), float32: row `episodes["trace_row"]`, and
            the column of step t of an episode is t, where 0 is before the first step.
        starts: Steps from midnight of the first day to each trace's start, shape (R,), int64.
        history: Metrics as observed, step t at row t % H, shape (B, H, 10), float32.
    """

    state_names = ("episodes", "clusters", "starting", "metrics", "outcomes", "history")
    trace_names = ("demand", "starts")

    def __init__(self, config: AutoScalerConfig, num_envs: int) -> None:
        """Allocate everything; nothing is drawn before `reset`.

        Raises:
            ConfigError: If `demand_csv` cannot be used.
        """
        super().__init__(num_envs, records.EPISODE)
        self.config = config
        self.clusters = np.zeros(num_envs, records.CLUSTER)
        self.starting = np.zeros((num_envs, config.start_up_steps), np.int64)
        self.metrics = np.zeros(num_envs, records.METRIC)
        self.outcomes = np.zeros(num_envs, records.OUTCOME)
        self.demand = np.zeros((num_envs, config.episode_steps + 1), np.float32)
        self.starts = np.zeros(num_envs, np.int64)
        self.history = np.zeros((num_envs, config.history, observation.NUM_METRICS), np.float32)
        self.parameters = _parameters_of(config)
        self._memory = (
            self.episodes,
            self.demand,
            self.clusters,
            self.starting,
            self.metrics,
            self.outcomes,
            self.parameters,
        )
        self.observation_shape = (len(observation.feature_names(config)),)
        self.num_choices = count_choices(config)
        self._recorded = trace.read_demand(config)

    @override
    def reset(self, members: np.ndarray | None = None) -> None:
        members = self._all if members is None else members
        seeds = self._begin_episodes(members)
        distinct, group = np.unique(seeds, return_inverse=True)
        rows = self._free_rows(members, len(distinct))
        self.episodes["trace_row"][members] = rows[group]
        trace.draw_traces(distinct, rows, self.parameters, self._recorded, self.demand, self.starts)
        self.outcomes[members] = np.zeros((), records.OUTCOME)
        start_kernel(members, *self._memory)
        self.remember(members)

    @override
    def step(self, actions: np.ndarray, skip: np.ndarray | None = None) -> Observations:
        if self.config.action == "multi":
            actions = encode("flat", actions)
        step_kernel(actions, self._no_skip if skip is None else skip, *self._memory)
        self.remember(self._all)
        return self.observe()

    @override
    def observe(self) -> Observations:
        """Observations, shape (B, M), float32; with `history` a dictionary, see `AutoScalerEnv`."""
        current = np.empty((self.num_envs, *self.observation_shape), np.float32)
        observation.observe_metrics(self.measured(), current)
        observation.observe_rest(
            self.episodes, self.starts, self.clusters, self.parameters, current
        )
        if self.config.history == 0:
            return current
        return {
            "current_metrics": current,
            "metrics_history": observation.unroll(self.episodes, self.history),
        }

    @override
    def rewards(self) -> np.ndarray:
        return self.outcomes["reward"].copy()

    @override
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        never = np.zeros(self.num_envs, np.bool_)
        return never, self.elapsed() >= self.config.episode_steps

    @override
    def state_infos(self) -> Infos:
        infos = {name: self.outcomes[name] for name in records.STATE_INFOS}
        if self.config.constraints:
            infos["action_mask"] = self.action_masks()
        return infos

    @override
    def step_infos(self, actions: np.ndarray) -> Infos:
        return {name: self.outcomes[name] for name in records.STEP_INFOS}

    def measured(self) -> np.ndarray:
        """The ten metrics of the last step in their units, shape (B, 10), float64: a view."""
        return self.metrics.view(np.float64).reshape(self.num_envs, observation.NUM_METRICS)

    def remember(self, members: np.ndarray) -> None:
        """Put the last metrics of the given environments, shape (M,), into their histories."""
        if self.config.history == 0:
            return
        rows = np.empty((self.num_envs, observation.NUM_METRICS), np.float32)
        observation.observe_metrics(self.measured(), rows)
        observation.remember(members, self.episodes, rows, self.history)

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

    @override
    def state_rules(self, state: Mapping[str, np.ndarray]) -> Iterator[Rule]:
        return cluster_rules(state, self.config, len(self._recorded))

    @override
    def _settings(self) -> Any:
        # Not where the recorded demand lies, but what it is.
        recorded = hashlib.sha256(self._recorded.tobytes()).hexdigest()
        return {**super()._settings(), "demand_csv": recorded}


def _parameters_of(config: AutoScalerConfig) -> np.ndarray:
    """What the kernels read, one record, shape (1,); see `kernel_parameters`."""
    return kernel_parameters(
        config,
        initial_replicas=config.initial_replicas or 0,
        timeout=records.TIMEOUTS_S.index(config.timeout_s),
        noise_sigma=config.noise,
        bursts_per_day=config.bursts,
        burst_size=config.burst_size,
        burst_rise_minutes=config.burst_rise_minutes,
        burst_hold_minutes=config.burst_hold_minutes,
        burst_decay_minutes=config.burst_decay_minutes,
        reward_weights=config.reward_weights,
        steps_per_day=config.steps_per_day,
        observe_week=config.observe_week,
        observe_configuration=config.observe_configuration,
    )
