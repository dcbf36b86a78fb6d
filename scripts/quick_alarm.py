"""How soon the quick alarm takes the traffic back, and how often it does so without a reason.

Simulated requests: a share of .2 % fails, latencies are lognormal (p99 ten times the median) with a
daily wave of +-30 %. In gradual the policy has 10 % of the blocks of 500 requests, in full 95 %.
Shadow comes before, for 60 minutes, or at 100 a second for 2. All in simulated time.

    python scripts/quick_alarm.py --out docs/results/quick_alarm.json
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from grpo_gym.deployment import QuickAlarmConfig
from grpo_gym.deployment.quick_alarm import QuickAlarm
from grpo_gym.storage.results import Results

BLOCK = 500
SHARES = {"gradual 10 %": 0.10, "full": 0.95}
HEALTHY_ERRORS = 0.002
SIGMA = 0.99
"""Of the lognormal latencies: exp(2.326 * .99) = 10."""
FAULTS = {
    "1 % errors": (0.01, 1.0),
    "5 % errors": (0.05, 1.0),
    "50 % errors": (0.5, 1.0),
    "2 x p99": (HEALTHY_ERRORS, 2.0),
    "10 x p99": (HEALTHY_ERRORS, 10.0),
}
"""Share of errors and factor of latencies, of the policy's requests."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path = Path("docs/results/quick_alarm.json")
    """Results; what is there already is not measured again."""
    rates: tuple[int, ...] = (1, 10, 100)
    """Requests a second."""
    runs: int = 20
    """Runs of each fault."""
    longest_minutes: int = 480
    """After which a fault counts as unnoticed; at over 10 requests a second a quarter of it."""
    days: int = 30
    """Of a simulated month when all is well, at all rates up to 10 requests a second."""


class Traffic:
    """Minutes of requests in front of an alarm; blocks are the policy's at random."""

    def __init__(self, rate: int, share: float, seed: int) -> None:
        self.alarm = QuickAlarm(QuickAlarmConfig())
        self.requests = 60 * rate
        self.share = share
        self.chance = np.random.default_rng(seed)
        self.minute = 0
        self.left = 0
        self.is_policys = False
        self.policy_requests = 0

    def pass_minute(self, errors: float, slowness: float, share: float | None = None) -> bool:
        """One minute; whether the alarm rose at its end. `share` 0: in shadow."""
        share = self.share if share is None else share
        level = 50.0 * (1.0 + 0.3 * np.sin(2.0 * np.pi * self.minute / 1440))
        latencies = level * np.exp(SIGMA * self.chance.standard_normal(self.requests))
        draws = self.chance.random(self.requests)
        observe = self.alarm.observe
        for latency_ms, draw in zip(latencies.tolist(), draws.tolist(), strict=True):
            if self.left == 0:
                self.left, self.is_policys = BLOCK, self.chance.random() < share
            self.left -= 1
            if self.is_policys:
                self.policy_requests += 1
                self.alarm.count_decision()
                observe(draw >= errors, slowness * latency_ms, "policy")
            else:
                observe(draw >= HEALTHY_ERRORS, latency_ms, "fallback")
        self.minute += 1
        return self.alarm.check_if_due(60.0 * self.minute, share == 0.0)

    def leave_shadow(self, minutes: int) -> None:
        """Some minutes of shadow before."""
        for _ in range(minutes):
            self.pass_minute(HEALTHY_ERRORS, 1.0, share=0.0)
        self.alarm.restart()
        self.left = self.policy_requests = 0


def main() -> None:
    """Measure what is missing."""
    options = tyro.cli(Options, description=__doc__)
    measurements: dict[str, Callable[[], Any]] = {}
    for rate in options.rates:
        for mode in SHARES:
            for fault in FAULTS:
                key = f"{rate} a second, {mode}, {fault}"
                measurements[key] = partial(detection, rate, mode, fault, options)
            if rate <= 10:
                key = f"{rate} a second, {mode}, well for {options.days} days"
                measurements[key] = partial(false_alarms, rate, mode, options)
    with Results(options.out, print) as results:
        for key, measurement in measurements.items():
            results.measure(key, measurement)


def detection(rate: int, mode: str, fault: str, options: Options) -> dict[str, Any]:
    """Minutes from the start of a fault to the alarm, and the policy's requests until then."""
    longest = options.longest_minutes // (4 if rate > 10 else 1)
    minutes, requests = [], []
    for seed in range(options.runs):
        traffic = Traffic(rate, SHARES[mode], seed)
        traffic.leave_shadow(60 if rate <= 10 else 2)
        for minute in range(1, longest + 1):
            if traffic.pass_minute(*FAULTS[fault]):
                minutes.append(minute)
                requests.append(traffic.policy_requests)
                break
    return {
        "runs": options.runs,
        "noticed": len(minutes),
        "longest_minutes": longest,
        "minutes": {
            "median": float(np.median(minutes)),
            "least": min(minutes),
            "most": max(minutes),
        }
        if minutes
        else None,
        "policy_requests": float(np.median(requests)) if requests else None,
    }


def false_alarms(rate: int, mode: str, options: Options) -> dict[str, Any]:
    """Alarms and failed checks while all is well; after an alarm it starts again."""
    traffic = Traffic(rate, SHARES[mode], seed=1)
    traffic.leave_shadow(60)
    alarms = checks = failed = 0
    for _ in range(1440 * options.days):
        before = traffic.alarm.total
        rose = traffic.pass_minute(HEALTHY_ERRORS, 1.0)
        if traffic.alarm.total > before:
            checks += 1
            failed += traffic.alarm.checks[-1]
        if rose:
            alarms += 1
            traffic.leave_shadow(60)
    return {"alarms": alarms, "checks": checks, "failed_checks": failed}


if __name__ == "__main__":
    main()
