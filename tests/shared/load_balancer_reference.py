"""A plain simulator, event by event, lists and loops, no kernels.

`envs/load_balancer/test_dynamics.py` holds the compiled simulator against it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from grpo_gym.envs.load_balancer.config import LoadBalancerConfig
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator
from grpo_gym.envs.load_balancer.trace import balancer_of

KINDS = ("degraded", "slow", "erroring", "down")


@dataclass
class Seen:
    """What a balancer knows of one server."""

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
    balancer: int = 0
    timed_out: bool = False


class Answer(NamedTuple):
    """What a request would meet at a server."""

    start: float
    departure: float
    response: float
    errors: float
    refused: bool
    rejected: bool = False
    timed_out: bool = False
    abandoned: bool = False
    """Timed out in the queue: no worker ever had it."""


@dataclass
class Diary:
    """What one balancer noted about one server, in the order in which it learned of it."""

    latencies: list[float] = field(default_factory=list)
    errors: list[bool] = field(default_factory=list)
    services: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    paces: list[float] = field(default_factory=list)
    last_answer: float | None = None
    observed_at: float = -1.0

    def note(self, job: Job) -> None:
        self.latencies.append(job.response)
        self.note_error(job.error, job.departure)
        if job.timed_out:
            return
        began = job.arrival if self.last_answer is None else max(job.arrival, self.last_answer)
        self.services.append(job.departure - began)
        self.sizes.append(job.size)
        self.paces.append((job.departure - began) / job.size)
        self.last_answer = job.departure

    def note_error(self, error: bool, time: float) -> None:
        self.errors.append(error)
        self.observed_at = time

    def errors_in_a_row(self) -> int:
        count = 0
        while count < len(self.errors) and self.errors[-1 - count]:
            count += 1
        return count


def average(values: Sequence[float], w: float) -> float:
    """Exponential moving average from its definition: weights w (1 - w)^age, first value 1."""
    if not values:
        return 0.0
    count = len(values)
    weights = [w * (1 - w) ** (count - 1 - i) for i in range(count)]
    weights[0] = (1 - w) ** (count - 1)
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))


class Server:
    """One server: its workers, its jobs, and each balancer's diary of it."""

    def __init__(
        self,
        config: LoadBalancerConfig,
        index: int,
        faults: list[tuple[float, float, str]],
        next_publication: float = 0.0,
    ) -> None:
        """Idle; `faults` are (start, end, kind) in order."""
        self.config, self.index, self.faults = config, index, faults
        self.next_publication = next_publication
        self.exists = index < config.num_servers
        self.free_at = [0.0] * (int(self.setting("workers")) if self.exists else 1)
        self.jobs: list[Job] = []
        self.everything: list[Job] = []
        self.diaries = [Diary() for _ in range(config.num_balancers)]
        self.active = 0
        self.published = Seen()

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

    @property
    def count(self) -> int:
        return self.active if self.config.dynamics == "decaying_load" else len(self.jobs)

    @property
    def is_full(self) -> bool:
        if not self.exists:
            return True
        limited = self.config.connection_limit is not None
        return limited and self.count >= self.setting("connection_limit")

    def meet(self, now: float, size: float) -> Answer:
        timeout = math.inf if self.config.timeout_ms is None else self.config.timeout_ms
        rejected = self.is_full
        if rejected or self.fault(now)[1] == "down":
            response = self.config.down_response_ms
            late = response > timeout
            return Answer(now, now, min(response, timeout), 1.0, True, rejected, late)
        extra = self.setting("base_latency_ms") * self.slowdown(now)
        extra += self.setting("latency_per_request_ms") * (self.count + 1)
        start = departure = now
        if self.config.dynamics == "queue":
            start = max(now, min(self.free_at))
            while self.fault(start)[1] == "down":
                start = min(end for _, end, kind in self.faults if kind == "down" and end > start)
            departure = start + size / self.setting("service_rates") * self.slowdown(start)
        response = departure - now + extra
        if response > timeout:
            gone = min(departure, now + timeout)
            abandoned = start >= gone and self.config.dynamics == "queue"
            return Answer(min(start, gone), gone, timeout, 1.0, False, False, True, abandoned)
        errors = self.error_probability(now, self.count + 1)
        return Answer(start, departure, response, errors, False)

    def accept(self, job: Job, abandoned: bool = False) -> None:
        """Take a job that is not refused."""
        self.jobs.append(job)
        self.everything.append(job)
        if not abandoned:
            worker = self.free_at.index(min(self.free_at))
            self.free_at[worker] = job.departure

    def leave(self, until: float) -> None:
        gone = sorted((job for job in self.jobs if job.departure <= until), key=_departure)
        for job in gone:
            self.diaries[job.balancer].note(job)
        self.jobs = [job for job in self.jobs if job.departure > until]

    def publish(self, now: float) -> None:
        """What the only balancer sees, unless what it saw is recent enough."""
        staleness = self.config.staleness_ms
        if staleness > 0.0:
            if now < self.next_publication:
                return
            while self.next_publication <= now:
                self.next_publication += staleness
        self.published = self.seen_by(0, now)

    def seen_by(self, balancer: int, now: float) -> Seen:
        if self.config.dynamics == "decaying_load":
            base = self.setting("base_latency_ms") * self.slowdown(now)
            latency = base + self.setting("latency_per_request_ms") * self.active
            errors = self.error_probability(now, self.active)
            if self.fault(now)[1] == "down":
                latency, errors = self.config.down_response_ms, 1.0
            return Seen(self.active, latency, errors, 0, now, now)
        diary, weight = self.diaries[balancer], self.config.metrics_weight
        own = [job for job in self.jobs if job.balancer == balancer]
        service, pace = average(diary.services, weight), average(diary.paces, weight)
        if self.config.num_balancers > 1 or len(self.free_at) > 1:
            pace = service / average(diary.sizes, weight) if diary.sizes else 0.0
        return Seen(
            len(own),
            average(diary.latencies, weight),
            average(diary.errors, weight),
            diary.errors_in_a_row(),
            diary.observed_at,
            min((job.arrival for job in own), default=self.published.oldest_arrival_ms),
            service,
            pace,
            math.fsum(job.size for job in own),
        )


def _departure(job: Job) -> float:
    return job.departure


class Retry(NamedTuple):
    """A request that failed and is to be sent once more."""

    time: float
    coin: float
    size: float
    balancer: int
    failed: int


class Reference:
    """One environment in the outside world of member `b` of a simulator."""

    def __init__(self, simulator: LoadBalancerSimulator, b: int) -> None:
        self.config = simulator.fleet(b)
        self.slots = simulator.config.server_slots
        episode = simulator.episodes[b]
        self.arrivals = simulator.arrivals[episode["trace_row"]].copy()
        self.balancers = [0] * len(self.arrivals)
        if self.config.num_balancers > 1:
            self.balancers = [
                balancer_of(episode["seed"], t, self.config.num_balancers)
                for t in range(len(self.arrivals))
            ]
        self.servers = []
        for n, faults in enumerate(simulator.faults[episode["trace_row"]]):
            known = [
                (float(fault["start_ms"]), float(fault["end_ms"]), KINDS[fault["kind"]])
                for fault in faults
                if fault["start_ms"] < np.inf
            ]
            phase = float(simulator.servers["next_refresh_ms"][b, n])
            self.servers.append(Server(self.config, n, known, phase))
        self.present = self.servers[: self.config.num_servers]
        self.step_index = 0
        self.now = float(self.arrivals["arrival_ms"][0])
        self.planned: list[Retry] = []
        self.totals = dict.fromkeys(("errors", "timeouts", "rejections", "retries"), 0)
        self.response_total_ms = 0.0
        for server in self.present:
            if self.config.staleness_ms > 0.0:
                # The first publication may have happened at the first arrival already.
                server.next_publication %= self.config.staleness_ms
                server.next_publication = server.next_publication or self.config.staleness_ms
            server.publish(self.now)

    @property
    def balancer(self) -> int:
        """That of the waiting request."""
        return self.balancers[self.step_index]

    def reward(self, server: Server, response: float, errors: float) -> float:
        config = self.config
        if config.reward == "latency":
            return -response / config.latency_scale_ms - config.error_penalty * errors
        if config.reward == "demo":
            return -(response + 1500.0 * errors + 0.3 * 5.0 * max(0, server.count + 1 - 10))
        return -response

    def estimates(self) -> list[float]:
        size = float(self.arrivals["size"][self.step_index])
        rewards = [-math.inf] * self.slots
        for n, server in enumerate(self.present):
            answer = server.meet(self.now, size)
            rewards[n] = self.reward(server, answer.response, answer.errors)
        return rewards

    def step(self, action: int) -> dict[str, float]:
        server, request, now = self.servers[action], self.arrivals[self.step_index], self.now
        config, balancer = self.config, self.balancer
        degraded = self.fault_visible(server, now)
        size, coin = float(request["size"]), float(request["error_coin"])
        answer = server.meet(now, size)
        error = coin <= answer.errors
        reward = self.reward(server, answer.response, 0.0 if config.retry else answer.errors)
        self.send(server, answer, size, error, balancer)
        out = {
            "wait_ms": answer.start - now,
            "error_probability": answer.errors,
            "error": error,
            "degraded": degraded,
            "timed_out": answer.timed_out,
            "rejected": answer.rejected,
        }
        response, failures, retries = answer.response, int(error), 0
        self.step_index += 1
        done = self.step_index == config.episode_length
        arrival = float(self.arrivals["arrival_ms"][self.step_index])
        if config.retry:
            failures = 0
            if error:
                time = max(now + answer.response, answer.departure)
                self.planned.append(Retry(time, coin / answer.errors, size, balancer, action))
                self.planned.sort(key=lambda retry: retry.time)
            while self.planned and (done or self.planned[0].time <= arrival):
                sent = self.send_again(self.planned.pop(0))
                reward += sent[0]
                response += sent[1]
                failures += sent[2]
                retries += 1
        if config.reward == "park":
            until = math.inf if done else arrival
            jobs = [job for each in self.present for job in each.everything]
            reward = -sum(
                max(0.0, min(job.departure, until) - max(job.arrival, now)) for job in jobs
            )
        self.pass_time(max(arrival, self.now))
        self.totals["errors"] += failures
        self.totals["retries"] += retries
        self.response_total_ms += response
        return {
            **out,
            "reward": reward,
            "response_time_ms": response,
            "failures": failures,
            "retries": retries,
            "done": done,
        }

    def send(self, server: Server, answer: Answer, size: float, error: bool, balancer: int) -> None:
        self.totals["timeouts"] += answer.timed_out
        self.totals["rejections"] += answer.rejected
        if self.config.dynamics == "decaying_load":
            server.active += not answer.refused
        elif answer.refused:
            server.diaries[balancer].note_error(True, self.now)
        else:
            job = Job(
                self.now, answer.departure, answer.response, error, size, balancer, answer.timed_out
            )
            server.accept(job, answer.abandoned)

    def send_again(self, retry: Retry) -> tuple[float, float, bool]:
        """Reward, response and failure of a retry, which happens at its time."""
        self.pass_time(retry.time)
        server = self.retry_server(retry)
        answer = server.meet(self.now, retry.size)
        error = retry.coin <= answer.errors
        reward = self.reward(server, answer.response, answer.errors)
        self.send(server, answer, retry.size, error, retry.balancer)
        return reward, answer.response, error

    def retry_server(self, retry: Retry) -> Server:
        """The first of the cheapest that its balancer sees, other than the one that failed."""
        weights = self.weights()
        others = [server for server in self.present if server.index != retry.failed]
        costs = []
        for server in others:
            own = sum(job.balancer == retry.balancer for job in server.jobs)
            in_flight = server.active if self.config.dynamics == "decaying_load" else own
            costs.append((in_flight + 1) / weights[server.index])
        return others[costs.index(min(costs))] if others else self.servers[retry.failed]

    def weights(self) -> list[float]:
        if self.config.weights is not None:
            return [server.setting("weights") for server in self.present]
        return [server.setting("service_rates") * len(server.free_at) for server in self.present]

    def pass_time(self, until: float) -> None:
        self.now = until
        for each in self.present:
            each.active = int(each.active * each.setting("load_decay"))
            each.leave(until)
            each.publish(until)

    @staticmethod
    def fault_visible(server: Server, time: float) -> bool:
        return server.fault(time)[1] != "none"

    def seen(self, balancer: int | None = None) -> list[Seen]:
        """What a balancer, by default that of the waiting request, sees of all servers."""
        if self.config.num_balancers == 1:
            return [server.published for server in self.present]
        balancer = self.balancer if balancer is None else balancer
        return [server.seen_by(balancer, self.now) for server in self.present]

    def observation(self) -> list[float]:
        config, seen = self.config, self.seen()
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
        features, weights = [], self.weights()
        for one, weight in zip(seen, weights, strict=True):
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
            if config.observe_weights:
                features.append(log_feature(10.0 * weight * len(weights) / sum(weights)))
        absent = self.slots - len(self.present)
        return features + [-1.0] * (absent * (len(features) // len(self.present))) + size


def log_feature(x: float) -> float:
    return min(1.0, math.log1p(x) / math.log1p(1e4))
