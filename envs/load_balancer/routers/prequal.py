"""Prequal: probing to reduce queuing and latency.

Shapes: B environments, M balancers, N servers, P places of a pool.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field
from typing_extensions import override

from grpo_gym.envs.kernels import kernel
from grpo_gym.envs.load_balancer.routers.probes import (
    FREE,
    PROBE,
    SAMPLES,
    Scratch,
    best_probe,
    find_answers,
    hot_limit,
    oldest_probe,
    place_for,
    pool_size,
    similar_latency,
    worst_probe,
)
from grpo_gym.envs.load_balancer.routers.router import Memory, Router
from grpo_gym.settings import Count, Fraction, Natural, NonNegative, Positive

_SETTINGS = np.dtype(
    [
        ("pool", "i8"),
        ("probes", "i8"),
        ("removals", "i8"),
        ("age_ms", "f8"),
        ("hot_quantile", "f8"),
        ("reuse_delta", "f8"),
        ("few_servers_reuses", "i8"),
    ]
)


class Prequal(Router):
    """The server with the best probe, in Google's hot-cold lexicographic order.

    A balancer keeps the answers to its latest probes, one per server and at most `pool`. A probe
    is hot if the server's requests in flight exceed the quantile `hot_quantile` of the pool. The
    request goes to the cold server of least latency, and if all are hot, to that of fewest
    requests in flight; a pool of fewer than two is no choice, and the server is drawn at random.
    The probe used counts one more in flight. Then `removals` probes go, in turn the oldest and the
    worst, and `probes` servers drawn at random are asked. They answer at once, with all their
    requests in flight, also those of other balancers, and the median response time of recent
    answers at a similar number. Probes older than `age_ms` are dropped, and those used
        b = max(1, (1 + delta) / ((1 - pool / N) * probes - removals))
    times, rounded at random. With few servers the formula has no positive denominator, and b is
    chosen by hand: `few_servers_reuses`.

    Source: Wydrowski et al., Load is not what you should balance: Introducing Prequal (NSDI 2024).
    """

    name = "prequal"
    pool: Annotated[Count, Field(ge=2, le=1_000)] = 16
    probes: Count = 3
    removals: Natural = 1
    age_ms: Positive = 1_000.0
    hot_quantile: Fraction = 2.0**-0.25
    reuse_delta: NonNegative = 1.0
    few_servers_reuses: Count = 1

    def __init__(self, env: Any, seed: int = 0, **settings: Any) -> None:
        """Bind to an environment; see `Baseline`."""
        super().__init__(env, seed, **settings)
        self._settings = np.array(
            [tuple(getattr(self, name) for name in _SETTINGS.names or ())], _SETTINGS
        )
        servers = self.simulator.servers.shape[1]
        probes = min(self.probes, servers)
        self._scratch = Scratch(
            order=np.empty(servers, np.int64),
            responses_ms=np.empty((probes, SAMPLES)),
            in_flight=np.empty((probes, SAMPLES), np.int64),
            counts=np.empty(probes, np.int64),
            numbers=np.empty(max(SAMPLES, self.pool)),
        )

    @override
    def memory(self) -> Memory:
        """The pool, shape (B, P), and the number of removals so far."""
        environments = self.simulator.num_envs
        pool = np.zeros((environments, self.pool), PROBE)
        pool["server"] = FREE
        return pool, np.zeros(environments, np.int64)

    @override
    def decide(self, memory: Memory) -> tuple[np.ndarray, Memory]:
        pool, removed = memory
        simulator = self.simulator
        actions = np.empty(simulator.num_envs, np.int64)
        noise = self._noise(1 + 2 * self.probes)
        choose_by_probes(
            noise, self.now_ms, self.present, self._settings, self._scratch, pool, removed, actions
        )
        send_probes(
            noise,
            simulator.episodes,
            simulator.servers,
            self.seen,
            self.log,
            self.has_queues,
            self.present,
            self._settings,
            self._scratch,
            actions,
            pool,
        )
        return actions, (pool, removed)


@kernel
def choose_by_probes(
    noise: np.ndarray,
    times_ms: np.ndarray,
    present: np.ndarray,
    settings: np.ndarray,
    scratch: Scratch,
    pool: np.ndarray,
    removed: np.ndarray,
    actions: np.ndarray,
) -> None:
    """Choose a server in each environment, and remove probes from its pool.

    Args:
        noise: Uniforms in (0, 1], shape (B, 1 + 2 K).
        times_ms: The time, shape (B,).
        present: Which servers there are, shape (B, N).
        settings: Those of the baseline, one record.
        scratch: Overwritten.
        pool: `PROBE` records, shape (B, P), updated.
        removed: Number of removals, shape (B,), updated.
        actions: Output, shape (B,).
    """
    p = settings[0]
    for b in range(actions.shape[0]):
        for i in range(p.pool):
            if times_ms[b] - pool[b, i].probed_ms > p.age_ms:
                pool[b, i].server = FREE
        limit = hot_limit(pool, b, p.hot_quantile, scratch.numbers)
        if pool_size(pool, b) < 2:
            servers = _list_present(present, b, scratch.order)
            actions[b] = scratch.order[min(int(noise[b, 0] * servers), servers - 1)]
        else:
            probe = pool[b, best_probe(pool, b, limit)]
            actions[b] = probe.server
            probe.in_flight += 1
            probe.uses_left -= 1
            if probe.uses_left == 0:
                probe.server = FREE
        for _ in range(p.removals):
            worst = removed[b] % 2 == 1
            place = worst_probe(pool, b, limit) if worst else oldest_probe(pool, b)
            if place >= 0:
                pool[b, place].server = FREE
                removed[b] += 1


@kernel
def send_probes(
    noise: np.ndarray,
    episodes: np.ndarray,
    servers: np.ndarray,
    seen: np.ndarray,
    log: np.ndarray,
    has_queues: bool,
    present: np.ndarray,
    settings: np.ndarray,
    scratch: Scratch,
    actions: np.ndarray,
    pool: np.ndarray,
) -> None:
    """Ask K servers in each environment, once the request is on its way, and keep the answers.

    Args:
        noise: Uniforms in (0, 1], shape (B, 1 + 2 K).
        episodes: `EPISODE` records, shape (B,).
        servers: The servers as they are, shape (B, N).
        seen: As the balancer sees them, shape (B, N).
        log: The requests, shape (B, R, T + 1).
        has_queues: Whether latencies come from the log; otherwise they are those seen.
        present: Which servers there are, shape (B, N).
        settings: Those of the baseline, one record.
        scratch: Overwritten.
        actions: Where the requests go, shape (B,).
        pool: `PROBE` records, shape (B, P), updated.
    """
    p, order = settings[0], scratch.order
    for b in range(actions.shape[0]):
        now_ms, count = episodes[b].now_ms, _list_present(present, b, order)
        asked = min(p.probes, count)
        for k in range(asked):
            drawn = k + min(int(noise[b, 1 + 2 * k] * (count - k)), count - k - 1)
            order[k], order[drawn] = order[drawn], order[k]
        for k in range(asked, scratch.counts.shape[0]):
            order[k] = FREE
        if has_queues:
            find_answers(log, b, episodes[b], p.age_ms, scratch)
        uses = reuse_budget(count, p)
        for k in range(asked):
            n = order[k]
            in_flight = servers[b, n].in_flight + (n == actions[b])
            latency_ms = seen[b, n].latency_ms
            if has_queues:
                latency_ms = similar_latency(k, in_flight + 1, scratch)
            probe = pool[b, place_for(pool, b, n)]
            probe.server, probe.in_flight = n, in_flight
            probe.latency_ms, probe.probed_ms = latency_ms, now_ms
            probe.uses_left = int(uses) + (noise[b, 2 + 2 * k] <= uses - int(uses))


@kernel
def _list_present(present: np.ndarray, b: int, order: np.ndarray) -> int:
    """Write which servers there are, and return their number."""
    count = 0
    for n in range(present.shape[1]):
        if present[b, n]:
            order[count] = n
            count += 1
    return count


@kernel
def reuse_budget(servers: int, p: Any) -> float:
    """How often a probe may be used, before rounding; see `Prequal`."""
    gain = (1.0 - p.pool / servers) * p.probes - p.removals
    if gain <= 0.0:
        return np.float64(p.few_servers_reuses)
    return max(1.0, (1.0 + p.reuse_delta) / gain)
