"""The course of a deployment: every decision, its evidence, and how that changes the mode."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from grpo_gym.deployment.config import GuardConfig, Mode
from grpo_gym.deployment.experiment import Experiment
from grpo_gym.deployment.quick_alarm import QuickAlarm
from grpo_gym.deployment.records import (
    Arm,
    Author,
    Context,
    Decision,
    GuardError,
    GuardStatus,
    Violation,
    decision_from,
    plain_decision,
)
from grpo_gym.deployment.rollout import Rollout
from grpo_gym.deployment.shield import Shield, Situation
from grpo_gym.deployment.state_file import State, StateFile
from grpo_gym.settings import Integer, check_value


class Course:
    """All that a guard remembers, for one caller at a time.

    Attributes:
        rollout: Mode and percentage, and the violations that change them.
        experiment: Blocks of decisions and their outcomes.
        alarm: Requests and their quick checks; None without a quick alarm.
        history: The last decisions, newest last.
        decisions: Number of decisions ever.
    """

    def __init__(
        self, config: GuardConfig, shield: Shield, clock: Callable[[], float], file: StateFile
    ) -> None:
        """Start in the configured mode; `file` is told of changes, and may prevent promotions."""
        self._shield = shield
        self._clock = clock
        self._file = file
        self.rollout = Rollout(config)
        self.experiment = Experiment(config)
        self.alarm = None if config.quick_alarm is None else QuickAlarm(config.quick_alarm)
        self.history: deque[Decision] = deque(maxlen=config.history_size)
        self.decisions = 0

    def decide(self, observation: object) -> Decision:
        """Review what has been observed so far, which may change the mode, and decide.

        Raises:
            GuardError: If the fallback is needed and fails.
        """
        now_s = self.pass_time()
        self._review(now_s)
        # Nobody else reads the history, and a copy of it for each decision is slow.
        history = tuple(self.history) if self._shield.has_constraints else ()
        context = Context(now_s, history, self.decisions == len(history))
        decision = self._decide(self._shield.assess(observation, context), now_s)
        self.history.append(plain_decision(decision))
        self.decisions += 1
        return decision

    def report(self, outcome: float, decision: Decision | None) -> None:
        """Add the outcome of a decision, by default the last.

        Raises:
            GuardError: If there was no decision yet.
        """
        if decision is None:
            if not self.history:
                raise GuardError("report needs a decision: call act first")
            decision = self.history[-1]
        self.experiment.report(outcome, decision)

    def observe_request(self, ok: bool, latency_ms: float | None, arm: Arm) -> None:
        """Add one request of an arm."""
        if self.alarm is not None:
            self.alarm.observe(ok, latency_ms, arm)

    def pass_time(self) -> float:
        """Read the clock, in seconds.

        Raises:
            GuardError: If it is not finite.
        """
        now_s = float(self._clock())
        if not math.isfinite(now_s):
            raise GuardError(f"clock must return finite seconds, got {now_s}")
        self.rollout.pass_time(now_s)
        return now_s

    def promote(self, by: Author, reason: str) -> None:
        """Go up one step.

        Raises:
            GuardError: If the mode is full, or the window holds too many violations.
        """
        self.change(*self.rollout.next_step(self._recent_violations()), by, reason)

    def change(self, mode: Mode, percentage: float | None, by: Author, reason: str) -> None:
        """Change mode and percentage, by default the mode's initial one."""
        before = self.rollout.mode
        if before == "shadow":
            self.experiment.restart()
        # The guard's own step-ups wait for the block's end, so that the test gets every block.
        elif mode == "shadow" or by == "operator":
            self.experiment.abort()
        if self.alarm is not None and before == "shadow":
            self.alarm.restart()
        self.rollout.change(mode, percentage, by, reason, self.experiment.measured)
        self._file.save_soon()

    def restart(self, reason: str) -> None:
        """Forget what was observed of the policy, and go on in the present mode with another."""
        self.experiment.restart()
        if self.alarm is not None:
            self.alarm.restart()
        self.rollout.restart(reason, self.experiment.measured)
        self._file.save_soon()

    def status(self) -> GuardStatus:
        """Mode, counts and evidence."""
        experiment, rollout = self.experiment, self.rollout
        return GuardStatus(
            mode=rollout.mode,
            percentage=rollout.percentage,
            decisions=self.decisions,
            missed_deadlines=rollout.missed,
            violations_in_window=rollout.violations,
            clean_hours=rollout.clean_s / 3600.0,
            waiting_for=self._waiting_for(),
            evidence=experiment.test.evidence,
            policy_blocks=experiment.counts["policy"],
            fallback_blocks=experiment.counts["fallback"],
            policy_outcome=experiment.mean("policy"),
            fallback_outcome=experiment.mean("fallback"),
            late_outcomes=experiment.late,
            save_error=self._file.error,
            quick_alarm=None if self.alarm is None else self.alarm.status(),
        )

    def state(self) -> State:
        """What `restore` needs, in JSON types and records."""
        return {
            "decisions": self.decisions,
            "rollout": self.rollout.state(),
            "experiment": self.experiment.state(),
            "history": list(self.history),
            **({} if self.alarm is None else {"alarm": self.alarm.state()}),
        }

    def restore(self, state: State) -> None:
        """Continue from a state."""
        self.decisions = check_value("decisions", state["decisions"], Integer)
        self.rollout.restore(state["rollout"])
        self.experiment.restore(state["experiment"])
        self.history.extend(decision_from(each) for each in state["history"])
        if self.alarm is not None:
            self.alarm.restore(state["alarm"])

    def _review(self, now_s: float) -> None:
        """Roll back or promote by what was observed, and by the clean time so far."""
        mode, has_alarmed = self.rollout.mode, self.experiment.close_finished_block()
        if mode != "shadow" and has_alarmed:
            self.change("shadow", None, "guard", self.experiment.alarm_reason())
        elif self.alarm is not None and self.alarm.check_if_due(now_s, mode == "shadow"):
            self.change("shadow", None, "guard", self.alarm.reason)
        if self._waiting_for() == "nothing":
            self.promote("guard", f"{self.rollout.clean_s / 3600.0:.2f} clean hours")

    def _decide(self, situation: Situation, now_s: float) -> Decision:
        rollout = self.rollout
        rollout.observe(bool(situation.violations), situation.policy.missed_deadline)
        reason = rollout.rollback_reason(self._recent_violations(situation.violations))
        if rollout.mode != "shadow" and reason is not None:
            self.change("shadow", None, "guard", reason)
        block = self.experiment.open_block(rollout.share)
        source, action, violations = self._shield.select(situation, block.arm)
        block.steps += 1
        if self.alarm is not None and block.arm == "policy":
            self.alarm.count_decision()
        return Decision(
            number=self.decisions,
            time_s=now_s,
            mode=rollout.mode,
            percentage=rollout.percentage,
            arm=block.arm,
            source=source,
            action=action,
            policy_action=situation.policy.action,
            fallback_action=situation.fallback.action,
            fallback_error=situation.fallback.error,
            violations=violations,
            block=block.number,
            block_step=block.steps - 1,
        )

    def _recent_violations(
        self, latest: tuple[Violation, ...] | None = None
    ) -> Iterator[Violation]:
        """Those in the window, `latest` of a decision that is not in the history yet included.

        Lazily: few decisions need them.
        """
        before = len(self.rollout.violated)
        if latest is not None:
            before -= 1
            yield from latest
        for decision in islice(reversed(self.history), before):
            yield from decision.violations

    def _waiting_for(self) -> str:
        return self.rollout.waiting_for(self.experiment.measured, self._file.error)
