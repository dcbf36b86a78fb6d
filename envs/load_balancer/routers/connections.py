"""Rules that count requests in flight, as proxies do.

Shapes: B environments, N servers.
"""

import numpy as np
from typing_extensions import override

from grpo_gym.envs.load_balancer.routers.router import Memory, Router, TwoChoices
from grpo_gym.envs.load_balancer.routers.turns import smooth_turn, whole_weights

_HAPROXY_WEIGHTS = 256
"""The largest weight of a server in HAProxy."""


class LeastConnections(Router):
    """The server with the fewest requests in flight: Envoy's `LEAST_REQUEST` with `FULL_SCAN`."""

    name = "least_connections"

    @override
    def costs(self) -> np.ndarray:
        return self.seen["in_flight"]


class PowerOfTwo(TwoChoices, LeastConnections):
    """Of two servers drawn at random, the one with fewer requests in flight.

    Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (IEEE TPDS 2001).
    """

    name = "power_of_two"


class ShortestExpectedDelay(Router):
    """The least (requests in flight + 1) / weight: scheduler `sed` of Linux IPVS."""

    name = "shortest_expected_delay"

    @override
    def costs(self) -> np.ndarray:
        return (self.seen["in_flight"] + 1) / np.where(self.present, self.weights, 1.0)


class NginxLeastConnections(Router):
    """The least requests in flight / weight; among equals smooth weighted round robin.

    Source: NGINX, `ngx_http_upstream_least_conn_module.c`, without its passive health checks.
    """

    name = "nginx_least_conn"

    @override
    def memory(self) -> Memory:
        return (np.zeros(self.weights.shape, np.int64),)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        (credit,) = memory
        weights = whole_weights(self.weights)
        # Quotients of whole numbers are equal as floats if they are equal.
        load = np.where(self.present, self.seen["in_flight"] / np.maximum(weights, 1), np.inf)
        least = load == load.min(axis=1, keepdims=True)
        actions, credit = smooth_turn(credit, weights, least)
        return actions, (credit,)


class HaproxyLeastConnections(Router):
    """The least (requests in flight + 1) / weight, idle servers before all others.

    Of several, the one whose number of requests has not changed for the longest time: HAProxy
    inserts a server into its tree behind those with the same key. Weights are whole numbers, here
    scaled so that the largest is 256.

    Source: HAProxy 2.6, `lb_fwlc.c`.
    """

    name = "haproxy_leastconn"

    @override
    def memory(self) -> Memory:
        """Each server's key and when it got it (ms); the server chosen last, if any, and when."""
        shape = self.weights.shape
        inserted = np.broadcast_to(np.arange(shape[1]) - float(shape[1]), shape)
        return np.zeros(shape, np.int64), inserted, np.full(shape[0], -1), np.zeros(shape[0])

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        old, inserted_ms, last, chosen_ms = memory
        in_flight = self.seen["in_flight"].astype(np.int64)
        scale = _HAPROXY_WEIGHTS / self.weights.max(axis=1, keepdims=True)
        weights = np.maximum(np.rint(self.weights * scale), 1.0).astype(np.int64)
        key = np.where(in_flight > 0, (in_flight + 1) * _HAPROXY_WEIGHTS // weights, 0)
        # A server moves when it takes a request, and when it answers one.
        answered_ms, taken = self.seen["observed_at_ms"], np.arange(key.shape[1]) == last[:, None]
        inserted_ms = np.where(taken, np.maximum(chosen_ms[:, None], answered_ms), inserted_ms)
        inserted_ms = np.where((key != old) & ~taken, answered_ms, inserted_ms)
        key_among = np.where(self.present, key, np.iinfo(np.int64).max)
        first = key_among == key_among.min(axis=1, keepdims=True)
        actions = np.where(first, inserted_ms, np.inf).argmin(axis=1)
        return actions, (key, inserted_ms, actions, self.now_ms.copy())
