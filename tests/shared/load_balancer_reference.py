"""A plain simulator, event by event, lists and loops, no kernels.

`envs/load_balancer/test_dynamics.py` holds the compiled simulator against it.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator

KINDS = ("degraded", "slow", "erroring", "down")


@dataclass
class Seen:
    """What the balancer knows of one server."""

    in_flight: int = 0
    latency_ms: float = 0.0
    error_rate: float = 0.0
    consecutive_errors: int = 0
    observed_at_ms: float = -1.0
    oldest_arrival_ms: float = 0.0
    service_ms: float = 0.0
    pace: float = 0.0
    work: float = 0.0


@dataclass
class Job:
    arrival: float
    departure: float
    response: float
    error: bool
    size: float = 1.0


@dataclass
class Server:
    """One server as a list of jobs; `faults` are (start, end, kind) in order."""

    config: LoadBalancerConfig
    index: int
    faults: list[tuple[float, float, str]]
    next_publication: float
    jobs: list[Job] = field(default_factory=list)
    everything: list[Job] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    errors: list[bool] = field(default_factory=list)
    services: list[float] = field(default_factory=list)
    paces: list[float] = field(default_factory=list)
    departures: list[float] = field(default_factory=list)
    observed_at: float = -1.0
    active: int = 0
    seen: Seen = field(default_factory=Seen)

    def setting(self, name: str) -> float:
        return float(self.config.per_server(name)[self.index])

    def fault(self, time: float) -> tuple[float, str]:
        """Severity and kind of the fault that began last."""
        begun = [fault for fault in self.faults if fault[0] <= time]
        if not begun:
            return 0.0, "none"
        _, end, kind = begun[-1]
        ramp = self.config.recovery_ramp_ms
        if time < end:
            return 1.0, kind
        if time < end + ramp:
            return 1.0 - (time - end) / ramp, kind + " ramp"
        return 0.0, "none"

    def slowdown(self, time: float) -> float:
        severity, kind = self.fault(time)
        return 1.0 + (self.config.slow_factor - 1.0) * severity * ("erroring" not in kind)

    def error_probability(self, time: float, count: int) -> float:
        severity, kind = self.fault(time)
        errors = self.setting("error_rates")
        if kind.startswith(("degraded", "erroring")):
            errors = (1.0 - severity) * errors + severity * self.config.fault_error_rate
        return min(1.0, errors + self.config.error_per_request * count)

    def meet(self, now: float, size: float) -> tuple[float, float, float, float, bool]:
        """Start, departure, response, error probability, refused."""
        count = (self.active if self.config.dynamics == "decaying_load" else len(self.jobs)) + 1
        if self.fault(now)[1] == "down":
            return now, now, self.config.down_response_ms, 1.0, True
        extra = self.setting("base_latency_ms") * self.slowdown(now)
        extra += self.setting("latency_per_request_ms") * count
        errors = self.error_probability(now, count)
        if self.config.dynamics == "decaying_load":
            return now, now, extra, errors, False
        start = max([now, *(job.departure for job in self.jobs)])
        while self.fault(start)[1] == "down":
            start = min(end for _, end, kind in self.faults if kind == "down" and end > start)
        departure = start + size / self.setting("service_rates") * self.slowdown(start)
        return start, departure, departure - now + extra, errors, False

    def leave(self, until: float) -> None:
        while self.jobs and self.jobs[0].departure <= until:
            job = self.jobs.pop(0)
            self.latencies.append(job.response)
            self.errors.append(job.error)
            began = max(job.arrival, self.departures[-1]) if self.departures else job.arrival
            self.services.append(job.departure - began)
            self.paces.append((job.departure - began) / job.size)
            self.departures.append(job.departure)
            self.observed_at = job.departure

    def publish(self, now: float) -> None:
        staleness = self.config.staleness_ms
        if staleness > 0.0:
            if now < self.next_publication:
                return
            while self.next_publication <= now:
                self.next_publication += staleness
        if self.config.dynamics == "decaying_load":
            base = self.setting("base_latency_ms") * self.slowdown(now)
            latency = base + self.setting("latency_per_request_ms") * self.active
            errors = self.error_probability(now, self.active)
            if self.fault(now)[1] == "down":
                latency, errors = self.config.down_response_ms, 1.0
            self.seen = Seen(self.active, latency, errors, 0, now, now)
            return
        trailing = 0
        while trailing < len(self.errors) and self.errors[-1 - trailing]:
            trailing += 1
        self.seen = Seen(
            len(self.jobs),
            self.average(self.latencies),
            self.average(self.errors),
            trailing,
            self.observed_at,
            self.jobs[0].arrival if self.jobs else self.seen.oldest_arrival_ms,
            self.average(self.services),
            self.average(self.paces),
            math.fsum(job.size for job in self.jobs),
        )

    def average(self, values: Any) -> float:
        """Exponential moving average from its definition: weights (1 - w)^age, first value 1."""
        if not values:
            return 0.0
        w, count = self.config.metrics_weight, len(values)
        weights = [w * (1 - w) ** (count - 1 - i) for i in range(count)]
        weights[0] = (1 - w) ** (count - 1)
        return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))


class Reference:
    """One environment in the outside world of member `b` of a simulator."""

    def __init__(self, simulator: LoadBalancerSimulator, b: int) -> None:
        self.config = simulator.config
        row = simulator.episodes["trace_row"][b]
        self.arrivals = simulator.arrivals[row].copy()
        self.servers = []
        for n, faults in enumerate(simulator.faults[row]):
            known = [
                (float(fault["start_ms"]), float(fault["end_ms"]), KINDS[fault["kind"]])
                for fault in faults
                if fault["start_ms"] < np.inf
            ]
            phase = float(simulator.servers["next_refresh_ms"][b, n])
            self.servers.append(Server(self.config, n, known, phase))
        self.step_index = 0
        for server in self.servers:
            if self.config.staleness_ms > 0.0:
                # The first publication may have happened at the first arrival already.
                server.next_publication %= self.config.staleness_ms
                server.next_publication = server.next_publication or self.config.staleness_ms
            server.publish(self.now)

    @property
    def now(self) -> float:
        return float(self.arrivals["arrival_ms"][self.step_index])

    def reward(self, server: Server, response: float, errors: float) -> float:
        config = self.config
        if config.reward == "latency":
            return -response / config.latency_scale_ms - config.error_penalty * errors
        queue = server.active if config.dynamics == "decaying_load" else len(server.jobs)
        if config.reward == "demo":
            return -(response + 1500.0 * errors + 0.3 * 5.0 * max(0, queue + 1 - 10))
        return -response

    def estimates(self) -> list[float]:
        size = float(self.arrivals["size"][self.step_index])
        met = [server.meet(self.now, size) for server in self.servers]
        return [
            self.reward(server, response, errors)
            for server, (_, _, response, errors, _) in zip(self.servers, met, strict=True)
        ]

    def step(self, action: int) -> dict[str, float]:
        server, request, now = self.servers[action], self.arrivals[self.step_index], self.now
        degraded = self.fault_visible(server, now)
        start, departure, response, errors, refused = server.meet(now, float(request["size"]))
        error = bool(request["error_coin"] <= errors)
        reward = self.reward(server, response, errors)
        if self.config.dynamics == "decaying_load":
            server.active += not refused
        elif refused:
            server.errors.append(True)
            server.observed_at = now
        else:
            server.jobs.append(Job(now, departure, response, error, float(request["size"])))
            server.everything.append(server.jobs[-1])
        self.step_index += 1
        done = self.step_index == self.config.episode_length
        if self.config.reward == "park":
            until = math.inf if done else self.now
            jobs = [job for each in self.servers for job in each.everything]
            reward = -sum(
                max(0.0, min(job.departure, until) - max(job.arrival, now)) for job in jobs
            )
        for each in self.servers:
            each.active = int(each.active * each.setting("load_decay"))
            each.leave(self.now)
            each.publish(self.now)
        return {
            "reward": reward,
            "response_time_ms": response,
            "wait_ms": start - now,
            "error_probability": errors,
            "error": error,
            "degraded": degraded,
            "done": done,
        }

    @staticmethod
    def fault_visible(server: Server, time: float) -> bool:
        return server.fault(time)[1] != "none"

    def observation(self) -> list[float]:
        config, seen = self.config, [server.seen for server in self.servers]
        unit = 0.1 * config.size_mean / float(np.mean(config.service_rates))
        size = [
            log_feature(10.0 * float(self.arrivals["size"][self.step_index]) / config.size_mean)
        ]
        size = size if config.observe_size else []
        if config.observation == "aggregate":
            worst = [
                max(one.in_flight for one in seen) / 100.0,
                max(one.latency_ms for one in seen) / 300.0,
                max(one.error_rate for one in seen) / 0.1,
                max(5.0 * max(0, one.in_flight - 10) for one in seen) / 500.0,
            ]
            return [min(1.0, value) for value in worst] + size
        features = []
        for one in seen:
            unknown = one.observed_at_ms < 0.0
            features += [
                log_feature(one.in_flight),
                log_feature(one.latency_ms / unit),
                log_feature(1e4 * one.error_rate),
                1.0 if unknown else log_feature((self.now - one.observed_at_ms) / unit),
                log_feature((self.now - one.oldest_arrival_ms) / unit) if one.in_flight else 0.0,
                log_feature(one.service_ms / unit),
            ]
            if config.observe_size:
                work = log_feature(10.0 * one.work / config.size_mean)
                features += [work, log_feature(10.0 * one.pace)]
        return features + size


def log_feature(x: float) -> float:
    return min(1.0, math.log1p(x) / math.log1p(1e4))
