"""A quick alarm: fixed thresholds on the policy's requests, checked every minute.

The outcome test of `sequential.py` notices any difference with a known error rate, and takes hours.
This alarm notices what nobody needs statistics for, such as every second request failing, and takes
minutes. It promises no error rate.

Source: the canary analysis of Flagger (checks every minute of success share and p99; after some
failed checks the traffic goes back).
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from grpo_gym.deployment.config import QuickAlarmConfig
from grpo_gym.deployment.latency_sketch import LatencySketch
from grpo_gym.deployment.records import Arm, QuickAlarmStatus


class Requests:
    """Requests of one arm: how many, how many failed, and how long they took.

    Attributes:
        count: All of them.
        errors: Those that failed.
        latencies: Those whose latency is known.
    """

    def __init__(self) -> None:
        """Start without requests."""
        self.count = 0
        self.errors = 0
        self.latencies = LatencySketch()

    @property
    def success_percentage(self) -> float | None:
        """Share of the requests that succeeded, in %; None without any."""
        return 100.0 * (1.0 - self.errors / self.count) if self.count else None

    @property
    def p99_ms(self) -> float | None:
        """99th percentile of the latencies; None without any."""
        return self.latencies.quantile(0.99)

    def add(self, ok: bool, latency_ms: float | None) -> None:
        """Count one request."""
        self.count += 1
        self.errors += not ok
        if latency_ms is not None:
            self.latencies.add(latency_ms)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON types."""
        return {"count": self.count, "errors": self.errors, "latencies": self.latencies.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.count, self.errors = state["count"], state["errors"]
        self.latencies.restore(state["latencies"])


class QuickAlarm:
    """Counts the requests of both arms, and checks those of the policy.

    Every `check_seconds` a check judges the policy's requests since the last one. It passes with
    `minimum_requests` only; until then they wait for the next. Memory is bounded.

    Attributes:
        checks: Whether each of the last `of_last_checks` checks failed, newest last.
        total: Checks since leaving shadow.
        last_failure: What was wrong in the last check that failed; empty if none has.
    """

    def __init__(self, config: QuickAlarmConfig) -> None:
        """Start without requests."""
        self._config = config
        self._fallback = Requests()
        self._reference: Requests | None = None
        self._reference_s = 0.0
        self._began_s: float | None = None
        self.restart()

    def restart(self) -> None:
        """Forget all of the policy: a new rollout begins."""
        self.checks: deque[bool] = deque(maxlen=self._config.of_last_checks)
        self.total = 0
        self.last_failure = ""
        self._policy = Requests()
        self._decisions = 0
        self._is_blind = True

    @property
    def failed(self) -> int:
        """How many of the last checks failed."""
        return sum(self.checks)

    @property
    def has_alarmed(self) -> bool:
        """Whether enough checks failed."""
        return self.failed >= self._config.failed_checks

    @property
    def reason(self) -> str:
        """Why the alarm rolls the policy back."""
        return (
            f"{self.failed} of the last {len(self.checks)} quick checks failed, at the last "
            f"{self.last_failure}"
        )

    def observe(self, ok: bool, latency_ms: float | None, arm: Arm) -> None:
        """Count one request of an arm."""
        (self._policy if arm == "policy" else self._fallback).add(ok, latency_ms)
        self._is_blind = False

    def count_decision(self) -> None:
        """Count a decision that the policy made, whose requests should be observed."""
        self._decisions += 1

    def check_if_due(self, now_s: float, is_shadow: bool) -> bool:
        """Make a check if it is time for one; return whether the alarm rises.

        In shadow there is nothing to check, but the fallback to compare with later.
        """
        if self._began_s is None or now_s < self._began_s:  # the clock was set back
            self._began_s = now_s
        if now_s - self._began_s < self._config.check_seconds:
            return False
        self._refresh_reference(now_s)
        least = self._config.unobserved_decisions
        if is_shadow:
            self._policy = Requests()
        elif self._is_blind and least is not None and self._decisions >= least:
            self._record(f"no request was observed in {self._decisions} decisions")
        elif (failure := self._failure()) or self._policy.count >= self._config.minimum_requests:
            self._record(failure)
            self._policy = Requests()
        self._began_s, self._decisions, self._is_blind = now_s, 0, True
        return self.has_alarmed and not is_shadow

    def status(self) -> QuickAlarmStatus:
        """Its figures."""
        policy, fallback = self._policy, self._reference or self._fallback
        return QuickAlarmStatus(
            checks=self.total,
            failed_checks=self.failed,
            last_failure=self.last_failure,
            policy_requests=policy.count,
            policy_success_percentage=policy.success_percentage,
            policy_p99_ms=policy.p99_ms,
            fallback_requests=fallback.count,
            fallback_success_percentage=fallback.success_percentage,
            fallback_p99_ms=fallback.p99_ms,
        )

    def _record(self, failure: str) -> None:
        """Record a check, which failed unless `failure` is empty."""
        self.total += 1
        self.checks.append(bool(failure))
        if failure:
            self.last_failure = failure

    def _refresh_reference(self, now_s: float) -> None:
        """Compare with the fallback's latest requests once there are enough, until they are old."""
        age_s = now_s - self._reference_s
        if self._fallback.count >= self._config.reference_requests:
            self._reference, self._reference_s = self._fallback, now_s
            self._fallback = Requests()
        elif not 0.0 <= age_s <= 60.0 * self._config.largest_reference_age_minutes:
            self._reference = None

    def _failure(self) -> str:
        """What is wrong with the policy's requests; empty if nothing is so far.

        A limit is a share of `minimum_requests` at least: few requests fail a check only if it
        would fail whatever the others did.
        """
        policy, config = self._policy, self._config
        counted = max(policy.count, config.minimum_requests)
        allowed = 100.0 - config.minimum_success_percentage
        if 100.0 * policy.errors > allowed * counted:
            return f"{policy.errors} of {policy.count} requests failed, at most {allowed:g} % may"
        limit_ms, origin = self._p99_limit()
        slow = policy.latencies.count_above(limit_ms)
        if slow > 0.01 * counted:
            return (
                f"{slow} of {policy.count} requests took longer than {limit_ms:.4g} ms, {origin}, "
                "at most 1 % may"
            )
        return ""

    def _p99_limit(self) -> tuple[float, str]:
        """The largest p99 allowed in ms, and where it comes from."""
        limits = [(math.inf, "")]
        if (fixed_ms := self._config.maximum_p99_ms) is not None:
            limits.append((fixed_ms, "the p99 allowed"))
        ratio = self._config.maximum_p99_ratio
        reference_ms = None if self._reference is None else self._reference.p99_ms
        if ratio is not None and reference_ms is not None:
            limits.append((ratio * reference_ms, f"{ratio:g} times the fallback's p99"))
        return min(limits)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON types."""
        return {
            "checks": list(self.checks),
            "total": self.total,
            "last_failure": self.last_failure,
            "policy": self._policy.state(),
            "fallback": self._fallback.state(),
            "reference": self._reference and self._reference.state(),
            "reference_s": self._reference_s,
            "began_s": self._began_s,
            "decisions": self._decisions,
            "is_blind": self._is_blind,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.checks.extend(state["checks"])
        self.total = state["total"]
        self.last_failure = state["last_failure"]
        self._policy.restore(state["policy"])
        self._fallback.restore(state["fallback"])
        if state["reference"] is not None:
            self._reference = Requests()
            self._reference.restore(state["reference"])
        self._reference_s, self._began_s = state["reference_s"], state["began_s"]
        self._decisions, self._is_blind = state["decisions"], state["is_blind"]
