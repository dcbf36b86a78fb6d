"""A slow autoscaled cluster in plain Python, after the words of the documentation."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig

BATCHES = [1, 2, 4, 8, 16, 32]
TIMEOUTS = [0.25, 0.5, 1.0, 2.0, 4.0]
WORKERS = [1, 2, 3, 4, 6, 8, 12]
CHANGES = [-4, -2, -1, 0, 1, 2, 4]


def erlang_c(servers: int, load: float) -> float:
    """The textbook's sum, by logarithms of factorials."""
    if load >= servers:
        return 1.0
    if load == 0.0:
        return 0.0
    terms = [k * math.log(load) - math.lgamma(k + 1) for k in range(servers)]
    last = servers * math.log(load) - math.lgamma(servers + 1) - math.log(1.0 - load / servers)
    largest = max(*terms, last)
    top = math.exp(last - largest)
    return top / (sum(math.exp(term - largest) for term in terms) + top)


def tail(time: float, waiting: float, drain: float) -> float:
    """P(wait + service > time): no wait, or an exponential one, before an exponential service."""
    if time <= 0.0:
        return 1.0
    without = math.exp(-time)
    if abs(drain - 1.0) < 1e-7:
        with_wait = (1.0 + time) * math.exp(-time)
    else:
        with_wait = (drain * math.exp(-time) - math.exp(-drain * time)) / (drain - 1.0)
    return (1.0 - waiting) * without + waiting * with_wait


def invert(function: Callable[[float], float], value: float) -> float:
    """Where a falling function has this value."""
    low, high = 0.0, 1.0
    while function(high) > value:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if function(middle) > value else (low, middle)
    return high


@dataclass
class Cluster:
    """One cluster that is stepped with choices and demands."""

    config: AutoScalerConfig
    running: int
    starting: list[int] = field(default_factory=list)
    """Steps until each replica serves, oldest first."""
    backlog: float = 0.0
    retries: float = 0.0
    wait: int = 0
    """Steps until the next change."""
    per_hour: float = 0.0

    def __post_init__(self) -> None:
        self.batch = BATCHES.index(self.config.batch_size)
        self.timeout = TIMEOUTS.index(self.config.timeout_s)
        self.workers = WORKERS.index(self.config.concurrency)
        self.share = 1.0
        self.per_hour = self.running * self.config.dollars_per_replica_hour

    @property
    def total(self) -> int:
        return self.running + len(self.starting)

    def allowed(self, change: int) -> bool:
        config = self.config
        if not config.min_replicas <= self.total + change <= config.max_replicas:
            return False
        if change == 0 or not config.constraints:
            return True
        half = math.floor(config.largest_change_share * self.total)
        return self.wait == 0 and abs(change) <= max(half, config.largest_change_replicas)

    def configurable(self, choice: int) -> bool:
        ladders = [(self.batch, BATCHES), (self.timeout, TIMEOUTS), (self.workers, WORKERS)]
        if choice == 6:
            return True
        position, ladder = ladders[choice // 2]
        return 0 <= position + (1 if choice % 2 else -1) < len(ladder)  # type: ignore[arg-type]

    def step(self, change: int, choice: int, share: float, demand: float) -> dict[str, Any]:
        wanted = change
        while not self.allowed(change):
            change -= 1 if change > 0 else -1
        for _ in range(change):
            self.starting.append(self.config.start_up_steps)
        if self.config.start_up_steps == 0:
            self.running += len(self.starting)
            self.starting = []
        for _ in range(-change):
            if self.starting:
                self.starting.pop()
            else:
                self.running -= 1
        if change:
            self.wait = self.config.cooldown_steps
        if choice < 6 and self.configurable(choice):
            move = 1 if choice % 2 else -1
            self.batch += move if choice // 2 == 0 else 0
            self.timeout += move if choice // 2 == 1 else 0
            self.workers += move if choice // 2 == 2 else 0
        self.share = share
        infos: dict[str, Any] = {
            "constrained": wanted != change,
            "replicas": self.running,
            "pending": len(self.starting),
        }
        infos |= self.serve(demand)
        infos |= self.pay(infos)
        self.wait = max(0, self.wait - 1)
        self.starting = [steps - 1 for steps in self.starting]
        self.running += self.starting.count(0)
        self.starting = [steps for steps in self.starting if steps > 0]
        return infos

    def serve(self, demand: float) -> dict[str, Any]:
        config = self.config
        dt = config.step_seconds
        arrivals = demand * dt
        offered = arrivals + self.retries
        own = offered * self.share
        rate = own / dt

        workers = WORKERS[self.workers]
        servers = self.running * workers
        per_replica = rate / self.running
        size = min(BATCHES[self.batch], 1.0 + per_replica * config.batch_wait_ms / 1000.0)
        fill = (size - 1.0) / per_replica if size > 1.0 else 0.0
        service = (config.batch_overhead_ms + config.request_ms * size) / 1000.0
        service *= self.scalability(workers) / self.scalability(4)
        capacity = servers / service * size
        timeout = TIMEOUTS[self.timeout]
        room = capacity * min(timeout, config.patience_s)

        before = self.backlog
        processed = min(before + own, capacity * dt)
        self.backlog = min(room, before + own - processed)
        dropped = before + own - processed - self.backlog
        self.retries = dropped * config.retry_share

        load = min(rate / size * service, config.max_utilisation * servers)
        waiting = erlang_c(servers, load)
        drain = (servers - load) / ((1.0 / size + config.service_scv) / 2.0)
        delay = self.backlog / capacity + fill / 2.0
        slow = self.backlog / capacity + fill * 0.99
        too_late = max(
            waiting * math.exp(-drain * config.patience_s / service),
            tail((timeout - delay) / service, waiting, drain),
        )
        timed_out = processed * min(too_late, 1.0 - config.error_rate)
        failed = processed * config.error_rate
        share_lost = config.error_rate + too_late + (dropped / own if own else 0.0)
        errors = self.share * min(1.0, share_lost) + (1.0 - self.share) * config.error_rate

        def both(extra: float) -> Callable[[float], float]:
            far = config.remote_latency_ms / 1000.0
            far_service = (config.batch_overhead_ms + config.request_ms) / 1000.0
            return lambda t: (
                self.share * tail((t - extra) / service, waiting, drain)
                + (1.0 - self.share) * (1.0 if t < far else math.exp((far - t) / far_service))
            )

        p99 = 1000.0 * min(timeout, invert(both(slow), 0.01))
        busy = rate / capacity
        return {
            "demand": demand,
            "arrivals": arrivals,
            "retried": offered - arrivals,
            "overflow": offered - own,
            "served": processed - timed_out - failed,
            "failed": failed,
            "timed_out": timed_out,
            "dropped": dropped,
            "backlog": self.backlog,
            "lost": failed + timed_out + dropped * (1.0 - config.retry_share),
            "p50_latency_ms": 1000.0 * min(timeout, invert(both(delay), 0.5)),
            "p99_latency_ms": p99,
            "error_percent": 100.0 * errors,
            "cpu_percent": 100.0 * min(1.0, busy + before / (capacity * dt)),
            "memory_percent": min(100.0, 30 + 30 * min(1, busy) + 20 * self.backlog / room),
            "violation": p99 > config.sla_p99_ms,
        }

    def scalability(self, workers: int) -> float:
        config = self.config
        return 1 + config.contention * (workers - 1) + config.coherency * workers * (workers - 1)

    def pay(self, infos: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        hours = config.step_seconds / 3600.0
        cost = self.total * config.dollars_per_replica_hour * hours
        cost += infos["overflow"] / 1e6 * config.remote_dollars_per_million
        penalty = infos["lost"] * config.lost_request_dollars
        penalty += config.sla_dollars_per_step if infos["violation"] else 0.0
        saved = (self.per_hour - cost / hours) / config.cost_scale_dollars_per_hour
        cheap = cost / hours < 0.8 * config.cost_scale_dollars_per_hour
        self.per_hour = cost / hours

        answered = infos["served"] + infos["overflow"]
        throughput = answered / infos["arrivals"] - 0.9
        excess = infos["error_percent"] - 0.1
        load = (infos["cpu_percent"] + infos["memory_percent"]) / 2
        bell = math.exp(-(((load - 70) / 20) ** 2) / 2)
        bell -= 0.3 if load < 30 else 0.5 if load > 90 else 0.0
        parts = {
            "reward_cost": clip(saved + 0.1 * cheap, -1, 1),
            "reward_performance": 0.5 * clip(200 / infos["p99_latency_ms"] - 1, -1, 0.5)
            + 0.5 * clip(throughput, -1, 0.5),
            "reward_reliability": 0.5
            if excess <= 0
            else clip(((1 - math.exp(min(excess, 50))) + -10 * excess / 100) / 2, -2, 1),
            "reward_efficiency": clip(bell, -1, 1),
        }
        chapter = sum(w * x for w, x in zip(config.reward_weights, parts.values(), strict=True))
        reward = chapter if config.reward == "chapter" else -cost - penalty
        return {**parts, "cost_dollars": cost, "penalty_dollars": penalty, "reward": reward}


def clip(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))
