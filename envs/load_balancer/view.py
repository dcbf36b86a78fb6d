"""What pictures say about an episode: the numbers and words that both kinds of picture show.

Health and requests in flight are the truth; latency and errors are what the balancer sees.
"""

import math
from collections.abc import Sequence

import numpy as np

from grpo_gym.envs.load_balancer.config import FAULT_KINDS, LoadBalancerConfig
from grpo_gym.envs.load_balancer.health import fault_at
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator as Simulator

Event = tuple[int, float, bool]
"""A routed request: its server, its response time (ms), and whether it failed."""

RECENT, CHARTED = 50, 150
"""Numbers of requests: in shares of traffic, and in the chart of response times."""


def time_text(ms: float) -> str:
    """Format a time with its unit, to three digits."""
    if not math.isfinite(ms):
        return "-"
    if ms < 999.5:
        return f"{round(ms, 2):.3g} ms"
    return f"{ms / 1e3:.3g} s" if ms < 999_500 else f"{ms / 1e3:,.0f} s"


class ServerView:
    """What a picture says about server n."""

    def __init__(self, view: "View", simulator: Simulator, member: int, n: int) -> None:
        config, history, seen = view.fleet, view.history, simulator.seen[member, n]
        now_ms, observed_ms = simulator.episodes["now_ms"][member], seen["observed_at_ms"]
        base_ms = float(config.per_server("base_latency_ms")[n])
        self.name = f"server {n}"
        self.speed = self.rate = time_text(base_ms)
        if config.dynamics == "queue":
            extra = f" +{self.speed}" if base_ms > 0.0 else ""
            workers = int(config.per_server("workers")[n])
            several = f"{workers} x " if workers > 1 else ""
            self.rate = f"{several}{config.service_rates[n]:.3g}x"
            self.speed = self.rate + extra
        self.health, self.effect = _health(view.fleet, simulator, member, n)
        self.in_flight = int(simulator.servers["in_flight"][member, n])
        self.seen_in_flight = int(seen["in_flight"])
        self.latency, self.errors, self.age = "-", "-", "nothing yet"
        if observed_ms >= 0.0:
            if seen["latency_ms"] > 0.0:  # otherwise it has refused all requests
                self.latency = time_text(float(seen["latency_ms"]))
            self.errors = f"{seen['error_rate']:.1%}"
            self.age = f"{time_text(now_ms - observed_ms)} ago" if now_ms > observed_ms else "now"
        routed = [event[0] == n for event in history[-RECENT:]]
        self.share = sum(routed) / max(len(routed), 1)
        self.latest = ""  # the outcome of the last request, if it went here
        if routed and routed[-1]:
            outcome = "FAILED" if history[-1][2] else "ok"
            self.latest = f"{time_text(history[-1][1])}, {outcome}"


class View:
    """What a picture says about one environment, which routed `history` in this episode."""

    def __init__(self, simulator: Simulator, history: Sequence[Event], member: int = 0) -> None:
        self.fleet, episode = simulator.fleet(member), simulator.episodes[member]
        config, step, errors = self.fleet, int(episode["step"]), int(episode["errors"])
        count = config.num_servers
        self.history = history[-2 * CHARTED :]
        self.servers = [ServerView(self, simulator, member, n) for n in range(count)]
        self.progress = step / config.episode_length
        self.mean_ms = float(episode["response_total_ms"]) / step if step else math.nan
        queues = config.dynamics == "queue"
        self.title = f"Load balancer: {count} server{'s' * (count > 1)}, "
        self.title += "one queue each" if queues else "load that decays, no queues"
        self.speed_label = "speed" if queues else "base latency"
        latest = [f"{server.name}: {server.latest}" for server in self.servers if server.latest]
        self.facts = {
            "requests routed": f"{step:,} of {config.episode_length:,}",
            "simulated time": time_text(float(episode["now_ms"])),
            "mean response": time_text(self.mean_ms),
            "failed": f"{errors / step:.1%} ({errors:,})" if step else "-",
            "last request": latest[0] if latest else "-" if step else "none yet",
        }
        work_ms = queues * config.size_mean * count / sum(config.service_rates)
        usual_ms = work_ms + float(config.per_server("base_latency_ms").max())
        shown_ms = [event[1] for event in self.history] or [usual_ms]
        # The chart's axis spans two powers of ten or more; the fastest 5 % may lie below.
        low, high = np.log10(np.maximum(np.percentile(shown_ms, [5, 100]), 0.01))
        self.low = math.floor(low)
        self.high = max(math.ceil(high), self.low + 2)

    def height(self, ms: float) -> float:
        """The position of a response time on the chart's logarithmic axis, from 0 to 1."""
        height = (math.log10(max(ms, 1e-9)) - self.low) / (self.high - self.low)
        return min(max(height, 0.0), 1.0)


def _health(
    config: LoadBalancerConfig, simulator: Simulator, member: int, n: int
) -> tuple[str, str]:
    """A server's true health now, and its effects."""
    row = simulator.episodes["trace_row"][member]
    now_ms, ramp_ms = simulator.episodes["now_ms"][member], config.recovery_ramp_ms
    severity, kind, end_ms = fault_at(simulator.faults, row, n, 0, now_ms, ramp_ms)
    if severity == 0.0:
        return "healthy", ""
    name = FAULT_KINDS[kind]
    if now_ms >= end_ms:
        return "recovering", f"from {name}, {severity:.0%} left"
    slow, errors = f"{config.slow_factor:.3g}x slower", f"{config.fault_error_rate:.1%} errors"
    effects = {"degraded": f"{slow}, {errors}", "slow": slow, "erroring": errors}
    return name, effects.get(name, "refuses requests")
