"""What learning from single requests in compiled code needs: features, and estimated rewards.

Functions are inlined into the learner's loop, which plays environment 0 of a simulator's `Memory`.

Shapes: B observations, N servers, D observed numbers, F features per server.
"""

import math

import numpy as np

from grpo_gym.envs.kernels import inlined
from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.dynamics import Memory, reward_of
from grpo_gym.envs.load_balancer.observation import count_features, observe_all, queue_ms
from grpo_gym.envs.load_balancer.records import DECAYING_LOAD, PER_SERVER

# Observations are log1p(x) / log1p(10,000). Times this they are base-2 logarithms: a unit of a
# feature is one doubling.
_DOUBLINGS = math.log2(1.0 + 10_000.0)


def count_server_features(config: LoadBalancerConfig) -> int:
    """F, the number of features per server; see `write_features`."""
    observed, servers = count_features(config), config.num_servers
    return observed // servers if config.observation == "per_server" else observed * servers


@inlined
def write_features(observations: np.ndarray, parameters: np.ndarray, features: np.ndarray) -> None:
    """Write one row of features per server, for policies that share one weight vector.

    If servers are observed one by one, the features of a server are its own, so all servers share
    their weights. What the observation says about all of them is left out: it cannot matter to a
    softmax. An aggregate observation is written into a block of its own for each server, so each
    has weights of its own.

    Args:
        observations: Shape (B, D), float32.
        parameters: The settings as a record, shape (1,).
        features: Output, shape (B, N, F), float64; zeros outside of the blocks are left alone.
    """
    per_server = parameters[0].observation == PER_SERVER
    size = features.shape[2] if per_server else observations.shape[1]
    for b in range(observations.shape[0]):
        for n in range(features.shape[1]):
            for i in range(size):
                if per_server:
                    features[b, n, i] = _DOUBLINGS * observations[b, n * size + i]
                else:
                    features[b, n, n * size + i] = observations[b, i]


@inlined
def observe_features(memory: Memory, observations: np.ndarray, features: np.ndarray) -> None:
    """Write the current observation, shape (1, D), float32, and features, shape (1, N, F)."""
    observe_all(
        memory.episodes,
        memory.arrivals,
        memory.metrics,
        memory.constants,
        memory.parameters,
        observations,
        observations.reshape(-1),
    )
    write_features(observations, memory.parameters, features)


@inlined
def estimated_reward(memory: Memory, n: int) -> float:
    """Estimate the reward at server n for the waiting request from what a balancer can observe.

    Unlike `dynamics.estimate` it knows neither a server's health nor how much of a service is
    left, only the published metrics and nominal settings. With a queue, the response takes
        pace * (work in flight + own work) + nominal latency,
    where the pace (ms per unit of work) is the observed average, or the nominal pace before the
    first response. It is at least (time in service so far) / (work in flight), because a server
    that stays silent has become slow. Work is measured in sizes if they are observed, otherwise
    in requests. Progress on the request in service is ignored: it would make a slow server look
    nearly free.
    """
    p, episode = memory.parameters[0], memory.episodes[0]
    seen = memory.metrics[0, episode.balancer * p.max_servers + n]
    nominal = memory.constants[0, n]
    if p.dynamics == DECAYING_LOAD:
        response = seen.latency_ms + nominal.latency_per_request_ms
    else:
        pace, own = seen.service_ms, 1.0
        work, nominal_pace = np.float64(seen.in_flight), p.size_mean / nominal.rate
        if p.observe_size:
            pace, own = seen.pace, memory.arrivals[episode.trace_row, episode.step].size
            work, nominal_pace = seen.work, 1.0 / nominal.rate
        if pace <= 0.0:
            pace = nominal_pace
        if seen.in_flight > 0 and work > 0.0:
            in_service_ms = episode.now_ms - max(seen.oldest_arrival_ms, seen.observed_at_ms)
            pace = max(pace, in_service_ms / work)
        response = pace * (work + own) + nominal.base_latency_ms
        response += nominal.latency_per_request_ms * (seen.in_flight + 1)
    errors = min(1.0, seen.error_rate + p.error_per_request)
    return reward_of(response, errors, queue_ms(seen.in_flight + 1), p)
