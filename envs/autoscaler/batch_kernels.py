"""The loops over environments: step, start.

Shapes: B environments, T steps an episode, R trace rows; see `simulator.py`.
"""

import numpy as np

from grpo_gym.envs.autoscaler.actions import allowed_changes, configure, needed_replicas, wanted
from grpo_gym.envs.autoscaler.dynamics import ALL, account, come_up, scale, serve
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
    """Step every environment that is neither skipped nor finished: act, serve, pay, start up."""
    p = parameters[0]
    last = demand.shape[1] - 1
    for b in range(actions.shape[0]):
        if skip.shape[0] and skip[b]:
            continue
        episode, cluster, outcome = episodes[b], clusters[b], outcomes[b]
        if episode.step >= last:
            outcome.reward = 0.0
            continue
        episode.step += 1
        change, configuration, share = wanted(actions[b], metrics[b].requests_per_s, cluster, p)
        fewest, most = allowed_changes(cluster, p)
        allowed = min(max(change, fewest), most)
        scale(allowed, b, cluster, starting)
        if allowed != 0:
            cluster.cooldown = p.cooldown_steps
        configure(configuration, cluster)
        cluster.share = share
        outcome.constrained = allowed != change
        outcome.replicas = cluster.running
        outcome.pending = cluster.pending
        before = cluster.dollars_per_hour
        serve(demand[episode.trace_row, episode.step], cluster, metrics[b], outcome, p)
        account(before, cluster, metrics[b], outcome, p)
        cluster.cooldown = max(0, cluster.cooldown - 1)
        come_up(b, cluster, starting)


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
    """Put the given environments at the beginning of their traces, and measure the first demand."""
    p = parameters[0]
    for m in range(members.shape[0]):
        b = members[m]
        episode, cluster, outcome = episodes[b], clusters[b], outcomes[b]
        episode.step = 0
        starting[b, :] = 0
        cluster.batch = p.initial_batch
        cluster.timeout = p.initial_timeout
        cluster.concurrency = p.initial_concurrency
        cluster.share = ALL
        cluster.pending = cluster.cooldown = 0
        cluster.backlog = cluster.retries = 0.0
        cluster.running = p.initial_replicas
        first = demand[episode.trace_row, 0]
        if p.initial_replicas == 0:
            cluster.running = needed_replicas(first, p.initial_utilisation, cluster, p)
        serve(first, cluster, metrics[b], outcome, p)
        cluster.backlog = cluster.retries = outcome.backlog = 0.0
        outcome.replicas = cluster.running
        cluster.dollars_per_hour = cluster.running * p.dollars_per_replica_hour
