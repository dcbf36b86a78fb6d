"""The loops over environments: start, step, look at alternatives, and compute infos.

Shapes: B environments, N servers, D features; see `simulator.py`.
"""

import numpy as np

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.dynamics import (
    Memory,
    estimate_all,
    has_own_views,
    refresh,
    settings_row,
)
from grpo_gym.envs.load_balancer.observation import copy_metrics, observe_all
from grpo_gym.envs.load_balancer.records import NO_REQUEST, SERVER
from grpo_gym.envs.load_balancer.stepping import step_one
from grpo_gym.envs.load_balancer.trace import balancer_of, refresh_phase

_IDLE = np.zeros(1, SERVER)
"""A server at the start of an episode."""
_IDLE["next_departure_ms"] = np.inf
_IDLE["last_departure_ms"] = _IDLE["observed_at_ms"] = -1.0
_IDLE["head"] = _IDLE["tail"] = NO_REQUEST
_IDLE["next_change_ms"] = -np.inf


@kernel
def step_kernel(
    actions: np.ndarray,
    skip: np.ndarray,
    estimates: np.ndarray,
    observations: np.ndarray,
    episodes: np.ndarray,
    servers: np.ndarray,
    views: np.ndarray,
    requests: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    outcomes: np.ndarray,
) -> None:
    """Step every environment that is neither skipped nor finished, and observe all of them.

    `estimates`, shape (B, N) or empty, receives what each server would have given. The arrays of
    `Memory` come one by one, because numba looks up the types of a tuple more slowly.
    """
    memory = Memory(
        episodes,
        servers,
        views,
        requests,
        arrivals,
        faults,
        metrics,
        constants,
        parameters,
        outcomes,
    )
    last = arrivals.shape[1] - 1
    for b in range(actions.shape[0]):
        if skip.shape[0] and skip[b]:
            continue
        if episodes[b].step >= last:
            outcomes[b].reward = 0.0
            continue
        if estimates.shape[0]:
            estimate_all(memory, b, estimates)
        step_one(memory, b, actions[b])
    flat = observations.reshape(-1)
    observe_all(episodes, arrivals, metrics, constants, parameters, observations, flat)


@kernel
def estimate_kernel(memory: Memory, estimates: np.ndarray) -> None:
    """Write what each server would give to the waiting requests, `ESTIMATE` records (B, N)."""
    for b in range(estimates.shape[0]):
        estimate_all(memory, b, estimates)


@kernel
def start_kernel(memory: Memory, members: np.ndarray, seeds: np.ndarray) -> None:
    """Empty the given environments and take them to the first arrival of their traces.

    `members`, shape (M,), int64, are their indices, and `seeds`, uint64, those of their episodes.
    """
    servers, views, requests = memory.servers, memory.views, memory.requests
    for m in range(members.shape[0]):
        b = members[m]
        episode = memory.episodes[b]
        p = memory.parameters[settings_row(memory.parameters, episode.trace_row)]
        k = settings_row(memory.constants, episode.trace_row)
        episode.step = 0
        episode.now_ms = memory.arrivals[episode.trace_row, 0].arrival_ms
        episode.response_total_ms = 0.0
        episode.errors = episode.timeouts = episode.rejections = episode.retries = 0
        episode.seed = seeds[m]
        episode.next_retry = NO_REQUEST
        episode.balancer = 0
        if has_own_views(memory):
            episode.balancer = balancer_of(seeds[m], 0, p.num_balancers)
            for v in range(views.shape[1]):
                views[b, v] = _IDLE[0]
        if p.retry:
            for slot in range(memory.arrivals.shape[1], requests.shape[1]):
                requests[b, slot].server = NO_REQUEST
        for n in range(servers.shape[1]):
            servers[b, n] = _IDLE[0]
            if p.staleness_ms > 0.0:
                servers[b, n].next_refresh_ms = refresh_phase(seeds[m], n) * p.staleness_ms
                copy_metrics(servers[b, n], memory.metrics[b, n])
            refresh(memory, b, n, episode.now_ms, p, k)


@kernel
def measure_ages(episodes: np.ndarray, metrics: np.ndarray, ages_ms: np.ndarray) -> None:
    """Write the time since the last response of each server, shape (B, N); infinite before any."""
    for b in range(ages_ms.shape[0]):
        for n in range(ages_ms.shape[1]):
            observed_at_ms = metrics[b, n].observed_at_ms
            age_ms = episodes[b].now_ms - observed_at_ms
            ages_ms[b, n] = age_ms if observed_at_ms >= 0.0 else np.inf


@kernel
def compare_estimates(
    estimates: np.ndarray, actions: np.ndarray, best: np.ndarray, regrets: np.ndarray
) -> None:
    """Write the best server of each environment, shape (B,), and its lead over the chosen one.

    Of several best servers it is the first.
    """
    for b in range(best.shape[0]):
        best[b] = 0
        for n in range(1, estimates.shape[1]):
            if estimates[b, n].reward > estimates[b, best[b]].reward:
                best[b] = n
        regrets[b] = estimates[b, best[b]].reward - estimates[b, actions[b]].reward
