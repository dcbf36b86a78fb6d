"""The loops over environments: step, start.

Shapes: B environments, T steps an episode, R trace rows; see `simulator.py`.
"""

import numpy as np

from grpo_gym.envs.autoscaler.dynamics import start_one, step_one
from grpo_gym.envs.kernels import kernel


@kernel
def step_kernel(
    actions: np.ndarray,
    skip: np.ndarray,
    episodes: np.ndarray,
    demand: np.ndarray,
    clusters: np.ndarray,
    starting: np.ndarray,
    metrics: np.ndarray,
    outcomes: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """One step of every environment that is neither skipped nor finished."""
    last = demand.shape[1] - 1
    for b in range(actions.shape[0]):
        if skip.shape[0] and skip[b]:
            continue
        if episodes[b].step >= last:
            outcomes[b].reward = 0.0
            continue
        episodes[b].step += 1
        step_one(
            actions[b],
            demand[episodes[b].trace_row, episodes[b].step],
            b,
            clusters[b],
            starting,
            metrics[b],
            outcomes[b],
            parameters[0],
        )


@kernel
def start_kernel(
    members: np.ndarray,
    episodes: np.ndarray,
    demand: np.ndarray,
    clusters: np.ndarray,
    starting: np.ndarray,
    metrics: np.ndarray,
    outcomes: np.ndarray,
    parameters: np.ndarray,
) -> None:
    """Put the given environments at the beginning of their traces."""
    for m in range(members.shape[0]):
        b = members[m]
        episodes[b].step = 0
        start_one(
            demand[episodes[b].trace_row, 0],
            b,
            clusters[b],
            starting,
            metrics[b],
            outcomes[b],
            parameters[0],
        )
