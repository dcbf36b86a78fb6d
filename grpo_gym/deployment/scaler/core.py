"""Decisions: once per interval, by the policy or the fallback, and repeated for a bounded time.

It knows neither Prometheus nor gRPC. Times are seconds since 1970.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from grpo_gym.deployment.admin.service import ScalingStatus
from grpo_gym.deployment.constraints import (
    Constraint,
    Cooldown,
    MaximumChange,
    MinimumReplicas,
)
from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.records import Decision, GuardError
from grpo_gym.deployment.scaler.controllers import (
    COOLDOWN,
    STEP,
    Reading,
    make_baseline,
    make_policy,
)
from grpo_gym.deployment.scaler.settings import ScalerSettings
from grpo_gym.envs.autoscaler.measured import MeasuredCluster, check_measurements
from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.settings import ConfigError

INITIAL_TARGET_PERCENT = 70.0
"""The target before the first decision: a specification without metrics would leave KEDA with
Kubernetes' own metric, for good (keda #7729)."""
_SMALLEST_TARGET_PERCENT = 0.001
"""Kubernetes counts in thousandths."""


class NoAnswerError(Exception):
    """There is no safe answer; the message says why."""


@dataclass(frozen=True)
class _Said:
    """A decision as KEDA is told; `target_percent` is unknown for one from before a restart."""

    replicas: int
    decided_s: float
    target_percent: float = INITIAL_TARGET_PERCENT


class ScalingCore:
    """Scales one deployment.

    One thread at a time calls `take` and `fail`; the others may call everything else.

    Attributes:
        settings: What it scales, and how.
        config: The environment that stands for the service.
        problem: Why the last reading gave no decision; None if nothing is wrong.
        guard: Decides whether the policy may act.
    """

    def __init__(self, settings: ScalerSettings, *, clock: Callable[[], float] = time.time) -> None:
        """Start, or continue from the guard's saved state.

        Raises:
            ConfigError: If the policy or another setting cannot be used.
            CheckpointError: If the policy's file cannot be used.
            GuardStateError: If the guard's state cannot be used.
        """
        self.settings = settings
        self._clock = clock
        self._policy = make_policy(settings.policy, settings.env_kwargs)
        self.config: AutoScalerConfig = self._policy.config
        self._cluster = MeasuredCluster(self.config)
        self.guard = Guard(
            self._ask_policy,
            make_baseline("fallback", settings.fallback, self.config),
            settings.guard,
            constraints=_constraints(settings, self.config),
            alternatives=_smaller_changes,
            clock=clock,
            state_path=settings.state_path,
        )
        self._last: Decision | None = None
        self._said = _last_said(self.guard)
        self._load: float | None = None
        self._read_s: float | None = None
        self._failures = 0
        self.problem: str | None = "no metrics have been read yet"

    def take(self, measured: Mapping[str, float]) -> None:
        """Take a reading, and decide if a decision is due.

        What is not plausible, and a guard without a safe action, count as a failed reading.

        Args:
            measured: Measurements in their units, by name.
        """
        try:
            check_measurements(measured, self.settings.largest_plausible)
            now_s = self._clock()
            self._load = self._cluster.load(measured["requests_per_s"])
            self._read_s = now_s
            if self._is_due(now_s):
                self._decide(measured, now_s)
        except (GuardError, ValueError) as error:
            self.fail(str(error))
        else:
            self.problem = None

    def fail(self, problem: str) -> None:
        """Note that there is no usable reading.

        Args:
            problem: Why; it becomes one line.
        """
        self._failures += 1
        self.problem = " ".join(problem.split())

    def replicas(self) -> int:
        """How many replicas there are to be.

        Raises:
            NoAnswerError: If the last decision is too old to be safe, or there was none.
        """
        said = self._said
        if said is None:
            raise NoAnswerError(f"no decision yet: {self.problem}")
        age_s = self._clock() - said.decided_s
        if not abs(age_s) <= self.config.step_seconds + self.settings.hold_seconds:
            raise NoAnswerError(f"the last decision was {age_s:.0f} s ago: {self.problem}")
        return said.replicas

    def load_percent(self) -> float:
        """The load of the last reading in % of one replica: what a target divides.

        Raises:
            NoAnswerError: If there is no safe number of replicas, or no load.
        """
        self.replicas()
        if self._load is None:
            raise NoAnswerError(f"no load yet: {self.problem}")
        return 100.0 * self._load

    def target_percent(self) -> float:
        """The utilisation at which the load of the last decision needs its replicas."""
        return INITIAL_TARGET_PERCENT if self._said is None else self._said.target_percent

    def swap_policy(self, policy: str) -> None:
        """Let another policy act from the next decision on, in the guard's present mode.

        Raises:
            ConfigError: If there is no such policy, or it does not fit; the old one stays.
            CheckpointError: If its file cannot be used; the old one stays.
        """
        new = make_policy(policy, self.settings.env_kwargs)
        for name in ("step_seconds", "min_replicas", "max_replicas"):
            here, learnt = getattr(self.config, name), getattr(new.config, name)
            if here != learnt:
                raise ConfigError(
                    f"policy must have {name} = {here:g}, got {learnt:g}: say it in env_kwargs"
                )
        self._policy = new

    def status(self) -> ScalingStatus:
        """The state in figures."""
        guard, said, read_s = self.guard.status(), self._said, self._read_s
        return ScalingStatus(
            policy=self._policy.name,
            guard=guard,
            decisions=guard.decisions,
            failures=self._failures,
            replicas=None if said is None else said.replicas,
            target=self.target_percent() if self.settings.answer == "target" else None,
            age_s=None if read_s is None else max(0.0, self._clock() - read_s),
            problem=self.problem,
        )

    def close(self) -> None:
        """Save the guard's state.

        Raises:
            GuardError: If it cannot be saved.
        """
        self.guard.close()

    def _ask_policy(self, reading: Reading) -> dict[str, int]:
        """What the present policy wants; `swap_policy` replaces it."""
        return self._policy(reading)

    def _is_due(self, now_s: float) -> bool:
        """Whether an interval has passed, give or take half the time to the next reading.

        Also if the clock was set back.
        """
        if self._said is None:
            return True
        interval_s = self.config.step_seconds
        poll_s = min(self.settings.poll_seconds, interval_s)
        return abs(now_s - self._said.decided_s) >= interval_s - 0.5 * poll_s

    def _decide(self, measured: Mapping[str, float], now_s: float) -> None:
        """Report the outcome of the last decision, and make the next.

        Raises:
            GuardError: If the guard has no safe action.
        """
        step = self._step(now_s)
        reward = self._cluster.measure(measured, step)
        if self._last is not None and self._passed(self._last, now_s) == 1:
            self.guard.report(reward, self._last)
        reading = {**measured, STEP: step, COOLDOWN: self._cooldown(now_s)}
        self._last = decision = self.guard.act(reading)
        replicas = int(decision.action["replicas"])
        self._said = _Said(replicas, now_s, _target_percent(self._load or 0.0, replicas))

    def _step(self, now_s: float) -> int:
        """Steps from midnight of Monday to now, to the nearest."""
        local = datetime.fromtimestamp(now_s, self.settings.zone)
        seconds = 3600 * local.hour + 60 * local.minute + local.second + 1e-6 * local.microsecond
        of_day = round(seconds / self.config.step_seconds)
        return local.weekday() * self.config.steps_per_day + of_day

    def _cooldown(self, now_s: float) -> int:
        """Steps until the number of replicas may change again, where the settings say so."""
        config = self._policy.config
        if config.constraints:
            for past in reversed(self.guard.history):
                left = config.cooldown_steps - self._passed(past, now_s)
                if left <= 0:
                    break
                if past.action["change"] != 0:
                    return left
        return 0

    def _passed(self, decision: Decision, now_s: float) -> int:
        """Intervals since a decision."""
        return round((now_s - decision.time_s) / self.config.step_seconds)


def _target_percent(load: float, replicas: int) -> float:
    """The utilisation at which a load, in replicas, needs so many.

    Half a replica fewer, so that their number, rounded up, stays while the load changes little.
    """
    return max(100.0 * load / (replicas - 0.5), _SMALLEST_TARGET_PERCENT)


def _total(reading: Reading) -> float:
    return reading["running"] + reading["pending"]


def _change(action: Mapping[str, int]) -> float:
    return float(action["change"])


def _constraints(settings: ScalerSettings, config: AutoScalerConfig) -> list[Constraint]:
    return [
        MaximumChange(
            share=settings.largest_change_share,
            at_least=settings.largest_change_replicas,
            change=_change,
            replicas=_total,
        ),
        MinimumReplicas(minimum=config.min_replicas, change=_change, replicas=_total),
        Cooldown(seconds=settings.cooldown_seconds, change=_change),
    ]


def _smaller_changes(reading: Reading, action: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """What to try instead of a forbidden change: the next smaller ones, down to none."""
    change, total = action["change"], round(_total(reading))
    towards_0 = -1 if change > 0 else 1
    for each in range(change, 0, towards_0):
        smaller = each + towards_0
        yield {"change": smaller, "replicas": total + smaller}


def _last_said(guard: Guard) -> _Said | None:
    """The last decision before a restart."""
    if not guard.history:
        return None
    last = guard.history[-1]
    return _Said(int(last.action["replicas"]), last.time_s)
