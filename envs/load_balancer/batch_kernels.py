"""The loops over environments: step, look at alternatives, start.

Shapes: B environments, N servers, D features; see `simulator.py`.
"""

import numpy as np

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.dynamics import estimate_rewards, start_one, step_one
from grpo_gym.envs.load_balancer.observation import observe_all


@kernel
def step_kernel(
    actions: np.ndarray,
    skip: np.ndarray,
    episodes: np.ndarray,
    servers: np.ndarray,
    requests: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    outcomes: np.ndarray,
    estimates: np.ndarray,
    observations: np.ndarray,
) -> None:
    """One step of every environment that is neither skipped nor finished.

    `estimates`, shape (B, N) or empty, receives what each server would have given.
    """
    p = parameters[0]
    last = arrivals.shape[1] - 1
    for b in range(actions.shape[0]):
        if skip.shape[0] and skip[b]:
            continue
        if episodes[b].step >= last:
            outcomes[b].reward = 0.0
            continue
        if estimates.shape[0]:
            estimate_rewards(episodes, servers, arrivals, faults, constants, p, estimates, b)
        step_one(
            actions[b],
            episodes,
            servers,
            requests,
            arrivals,
            faults,
            metrics,
            constants,
            p,
            outcomes,
            b,
        )
    observe_all(episodes, arrivals, metrics, p, observations, observations.reshape(-1))


@kernel
def estimate_kernel(
    episodes: np.ndarray,
    servers: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    estimates: np.ndarray,
) -> None:
    """What each server would give to the waiting requests, `ESTIMATE` records (B, N)."""
    for b in range(episodes.shape[0]):
        estimate_rewards(
            episodes, servers, arrivals, faults, constants, parameters[0], estimates, b
        )


@kernel
def start_kernel(
    members: np.ndarray,
    episodes: np.ndarray,
    servers: np.ndarray,
    arrivals: np.ndarray,
    faults: np.ndarray,
    metrics: np.ndarray,
    constants: np.ndarray,
    parameters: np.ndarray,
    seeds: np.ndarray,
) -> None:
    """Take the given environments to the first arrival of their traces."""
    for m in range(members.shape[0]):
        start_one(
            episodes,
            servers,
            arrivals,
            faults,
            metrics,
            constants,
            parameters[0],
            seeds[m],
            members[m],
        )
