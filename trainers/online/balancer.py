"""Online GRPO in the load balancer, compiled: estimates of servers not chosen, and whole stretches.

Shapes: A servers, F weights, K members of a group.
"""

from typing import Any, NamedTuple

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer.dynamics import estimate_rewards, reward_of, step_one
from grpo_gym.envs.load_balancer.observation import observe_all, queue_ms
from grpo_gym.envs.load_balancer.records import DECAYING_LOAD
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.trainers.online.kernels import Workspace, choose_one, learn_one, write_features


class World(NamedTuple):
    """The arrays of a `LoadBalancerSimulator` with B = 1, and its observation."""

    episodes: np.ndarray
    servers: np.ndarray
    requests: np.ndarray
    arrivals: np.ndarray
    faults: np.ndarray
    metrics: np.ndarray
    constants: np.ndarray
    parameters: np.ndarray
    outcomes: np.ndarray
    estimates: np.ndarray
    observations: np.ndarray
    flat: np.ndarray


def world_of(simulator: LoadBalancerSimulator) -> World:
    """The arrays of a simulator with B = 1, which it never replaces."""
    observations = np.zeros((1, simulator.num_features), np.float32)
    arrays = {name: getattr(simulator, name) for name in World._fields[:-2]}
    return World(**arrays, observations=observations, flat=observations.reshape(-1))


@inlined
def estimated_reward(now: float, size: float, seen: Any, nominal: Any, p: Any) -> float:
    """What the waiting request would get at a server, from what a balancer can know.

    It knows the published metrics and the servers' nominal settings, but neither their health nor
    how much of a service is left. With a queue the request is answered after
        pace * (work in flight + own work) + nominal latency,
    where the pace (ms a unit of work) is the average of what came back, the nominal one before
    anything did, and at least (time in service so far) / (work in flight), as a server that
    keeps silent has become slow. Work counts as sizes where they are observed, else as requests.
    That the request in service is partly done is left out: a slow server would look nearly free.

    Args:
        now: Time, ms.
        size: Size of the waiting request.
        seen: The server's metrics, a `SERVER` record.
        nominal: Its settings, a `SERVER_CONSTANTS` record.
        p: The `PARAMETERS` record.
    """
    if p.dynamics == DECAYING_LOAD:
        response = seen.latency_ms + nominal.latency_per_request_ms
    else:
        pace, own = seen.service_ms, 1.0
        work, nominal_pace = np.float64(seen.in_flight), p.size_mean / nominal.rate
        if p.observe_size:
            pace, own = seen.pace, size
            work, nominal_pace = seen.work, 1.0 / nominal.rate
        if pace <= 0.0:  # nothing came back yet
            pace = nominal_pace
        if seen.in_flight > 0 and work > 0.0:
            in_service_ms = now - max(seen.oldest_arrival_ms, seen.observed_at_ms)
            pace = max(pace, in_service_ms / work)
        response = pace * (work + own) + nominal.base_latency_ms
        response += nominal.latency_per_request_ms * (seen.in_flight + 1)
    errors = min(1.0, seen.error_rate + p.error_per_request)
    return reward_of(response, errors, queue_ms(seen.in_flight + 1), p)


@kernel
def play_kernel(
    weights: np.ndarray,
    work: Workspace,
    settings: np.ndarray,
    world: World,
    key: np.uint64,
    decision: int,
    rewards: np.ndarray,
    policies: np.ndarray,
) -> None:
    """Decide, execute, estimate and learn, once for each entry of `rewards`.

    Args:
        weights: Changed, shape (F,), float64.
        work: Overwritten; its features fit `settings`.
        settings: One `LEARNING` record, shape (1,).
        world: One environment, with at least as many requests left in its episode.
        key: Stream of random numbers.
        decision: Decisions made before, which the random numbers depend on.
        rewards: Written, shape (steps,), float64: the rewards of what was executed.
        policies: Written, shape (steps, A), float64: what decisions were made with; or empty.
    """
    learning, p = settings[0], world.parameters[0]
    group = work.group
    for t in range(rewards.shape[0]):
        observe_all(
            world.episodes, world.arrivals, world.metrics, p, world.observations, world.flat
        )
        write_features(world.observations[0], learning.own_features, work.features)
        choose_one(weights, work, learning, key, decision + t)
        for a in range(policies.shape[1] if policies.shape[0] else 0):
            policies[t, a] = work.pi[a]
        if learning.privileged:
            estimate_rewards(
                world.episodes,
                world.servers,
                world.arrivals,
                world.faults,
                world.constants,
                p,
                world.estimates,
                0,
            )
        episode = world.episodes[0]
        size = world.arrivals[episode.trace_row, episode.step].size
        for k in range(1, group.shape[0]):
            n = group[k]
            if learning.privileged:
                work.rewards[k] = world.estimates[0, n].reward
            else:
                work.rewards[k] = estimated_reward(
                    episode.now_ms, size, world.metrics[0, n], world.constants[n], p
                )
        step_one(
            group[0],
            world.episodes,
            world.servers,
            world.requests,
            world.arrivals,
            world.faults,
            world.metrics,
            world.constants,
            p,
            world.outcomes,
            0,
        )
        work.rewards[0] = world.outcomes[0].reward
        rewards[t] = work.rewards[0]
        learn_one(weights, work, learning)


@kernel
def estimates_kernel(world: World, out: np.ndarray) -> None:
    """Write `estimated_reward` of every server for the waiting request, shape (A,), float64."""
    episode = world.episodes[0]
    size = world.arrivals[episode.trace_row, episode.step].size
    for n in range(out.shape[0]):
        out[n] = estimated_reward(
            episode.now_ms, size, world.metrics[0, n], world.constants[n], world.parameters[0]
        )
