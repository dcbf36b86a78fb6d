"""The guard: decides for every action whether the policy may act. See docs/deployment.md."""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from grpo_gym.deployment.config import GuardConfig, Mode, Percentage
from grpo_gym.deployment.constraints import Constraint
from grpo_gym.deployment.experiment import Experiment
from grpo_gym.deployment.records import (
    Author,
    Context,
    Decision,
    GuardError,
    GuardStatus,
    Transition,
    Violation,
    decision_from,
    plain_decision,
)
from grpo_gym.deployment.rollout import Rollout
from grpo_gym.deployment.shield import Alternatives, Shield
from grpo_gym.deployment.state_file import State, StateFile
from grpo_gym.settings import ConfigError, Integer, check_value


class Guard(AbstractContextManager["Guard"]):
    """A policy and the fallback that it is to replace, behind one `act`.

    All methods are thread-safe: a lock serialises them. A guard has its state file for itself,
    until `close`, the end of a `with` statement, or the end of its process.

    Attributes:
        config: Its settings.
    """

    def __init__(
        self,
        policy: Any,
        fallback: Any,
        config: GuardConfig | None = None,
        *,
        constraints: Iterable[Constraint] = (),
        alternatives: Alternatives = (),
        clock: Callable[[], float] = time.time,
        state_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start, or continue from the saved state.

        Args:
            policy: A callable observation -> action, or a model with `predict`.
            fallback: Likewise: today's controller, which is trusted without constraints.
            config: Settings; None: the defaults.
            constraints: Constraints on every action of the policy.
            alternatives: Actions to try in order when the policy's is forbidden in its own block,
                before the fallback's; or (observation, policy's action) -> such actions.
                `SCALING_ALTERNATIVES` is for changes of replicas.
            clock: Returns seconds; must continue across restarts.
            state_path: File of the state; None: it is not saved.

        Raises:
            ConfigError: If an argument cannot be used.
            GuardStateError: If a saved state cannot be read, has another config, or is that of
                another guard that still runs.
            GuardError: If the state cannot be saved.
        """
        self.config = GuardConfig() if config is None else config
        self._shield = Shield(
            policy, fallback, constraints, alternatives, self.config.policy_deadline_ms
        )
        self._clock = clock
        self._lock = threading.RLock()
        self._rollout = Rollout(self.config)
        self._experiment = Experiment(self.config)
        self._history: deque[Decision] = deque(maxlen=self.config.history_size)
        self._decisions = 0
        self._file = StateFile(state_path, self.config)
        try:
            self._file.load(self._restore)
            if state_path is not None:
                self.save()
        except BaseException:
            self._file.close()
            raise

    def act(self, observation: Any) -> Decision:
        """Decide on the next action.

        Args:
            observation: Passed unchanged to fallback, constraints and alternatives; the policy
                gets a deep copy, which it may change. One that cannot be copied is a violation.

        Returns:
            The decision; execute its `action`.

        Raises:
            GuardError: If the fallback is needed and fails, so that no action is known to be safe.
        """
        with self._lock:
            try:
                now_s = self._pass_time()
                self._review()
                decision = self._decide(observation, now_s)
                self._history.append(plain_decision(decision))
                self._decisions += 1
            finally:
                # Also when the fallback failed, as a rollback may have happened.
                self._file.save_if_due(self._state)
            return decision

    def report(self, outcome: float, decision: Decision | None = None) -> None:
        """Report the outcome of a decision; higher is better.

        Outcomes that come after the decision's block has ended are ignored.

        Args:
            outcome: In any unit. One that is not finite gives its block the worst outcome.
            decision: The decision; None: the last one.

        Raises:
            ConfigError: If the outcome is not a number.
            GuardError: If there was no decision yet.
        """
        value = _as_number(outcome)
        with self._lock:
            if decision is None:
                if not self._history:
                    raise GuardError("report needs a decision: call act first")
                decision = self._history[-1]
            self._experiment.report(value, decision)
            self._file.save_if_due(self._state)

    # Commands of an operator

    def promote(self, reason: str = "promoted") -> None:
        """Go up one step: from shadow to gradual, to a higher percentage, at 100 to full.

        Raises:
            GuardError: If the mode is full, or the window holds too many violations.
        """
        with self._lock:
            self._pass_time()
            self._change(*self._rollout.next_step(self._recent_violations()), "operator", reason)
            self._file.save_if_due(self._state)

    def set_mode(self, mode: Mode, reason: str = "set_mode") -> None:
        """Change the mode unconditionally, and forget past violations.

        Raises:
            ConfigError: If the mode is unknown.
        """
        check_value("mode", mode, Mode)
        with self._lock:
            if mode == self.mode:
                return
            self._pass_time()
            self._rollout.forget_violations()
            self._change(mode, None, "operator", reason)
            self._file.save_if_due(self._state)

    def set_percentage(self, percentage: float, reason: str = "set_percentage") -> None:
        """Change the policy's share of the blocks in gradual, in %.

        Raises:
            ConfigError: If it is not > 0 and <= 100.
            GuardError: If the mode is not gradual.
        """
        # Unlike in a file of settings, text is a mistake here.
        strictly = Annotated[Percentage, Field(strict=True)]
        checked = check_value("percentage", percentage, strictly)
        with self._lock:
            if self.mode != "gradual":
                raise GuardError(
                    f"set_percentage needs mode 'gradual', it is {self.mode!r}: "
                    "call set_mode('gradual') first"
                )
            self._pass_time()
            self._change("gradual", checked, "operator", reason)
            self._file.save_if_due(self._state)

    def save(self) -> None:
        """Save the state now.

        Raises:
            GuardError: If there is no `state_path`, or it cannot be written.
        """
        with self._lock:
            path = self._file.path
            if path is None:
                raise GuardError("save needs a state_path: give one to the guard")
            self._file.save_soon()
            self._file.save_if_due(self._state)
            if self._file.error is not None:
                raise GuardError(f"cannot save the state to {path}: {self._file.error}")

    def close(self) -> None:
        """Save the state, and let another guard have its file; this one can no longer save.

        Raises:
            GuardError: If the state cannot be saved.
        """
        with self._lock:
            try:
                if self._file.is_owned:
                    self.save()
            finally:
                self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    # State

    @property
    def mode(self) -> Mode:
        """Current mode."""
        return self._rollout.mode

    @property
    def percentage(self) -> float:
        """Current percentage; 0 in shadow, 100 in full."""
        return self._rollout.percentage

    @property
    def history(self) -> tuple[Decision, ...]:
        """The last decisions, newest last."""
        with self._lock:
            return tuple(self._history)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The last changes of mode or percentage, newest last."""
        with self._lock:
            return tuple(self._rollout.transitions)

    def status(self) -> GuardStatus:
        """Mode, counts and evidence."""
        with self._lock:
            experiment = self._experiment
            return GuardStatus(
                mode=self.mode,
                percentage=self.percentage,
                decisions=self._decisions,
                missed_deadlines=self._rollout.missed,
                violations_in_window=sum(self._rollout.violated),
                clean_hours=self._rollout.clean_s / 3600.0,
                waiting_for=self._waiting_for(),
                evidence=experiment.test.evidence,
                policy_blocks=experiment.counts["policy"],
                fallback_blocks=experiment.counts["fallback"],
                policy_outcome=experiment.mean("policy"),
                fallback_outcome=experiment.mean("fallback"),
                late_outcomes=experiment.late,
                save_error=self._file.error,
            )

    def _decide(self, observation: Any, now_s: float) -> Decision:
        context = Context(now_s, tuple(self._history), self._decisions == len(self._history))
        situation = self._shield.assess(observation, context)
        self._rollout.observe(bool(situation.violations), situation.policy.missed_deadline)
        reason = self._rollout.rollback_reason(self._recent_violations(situation.violations))
        if self.mode != "shadow" and reason is not None:
            self._change("shadow", None, "guard", reason)
        block = self._experiment.open_block(self._rollout.share)
        source, action, violations = self._shield.select(situation, block.arm)
        block.steps += 1
        return Decision(
            number=self._decisions,
            time_s=now_s,
            mode=self.mode,
            percentage=self.percentage,
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

    def _review(self) -> None:
        """Roll back or promote by the outcomes and the clean time so far."""
        if self._experiment.close_finished_block() and self.mode != "shadow":
            self._change("shadow", None, "guard", self._experiment.alarm_reason())
        if self._waiting_for() == "nothing":
            reason = f"{self._rollout.clean_s / 3600.0:.2f} clean hours"
            self._change(*self._rollout.next_step(self._recent_violations()), "guard", reason)

    def _recent_violations(
        self, latest: tuple[Violation, ...] | None = None
    ) -> Iterator[Violation]:
        """Those in the window, `latest` of a decision that is not in the history yet included.

        Lazily: few decisions need them.
        """
        before = len(self._rollout.violated)
        if latest is not None:
            before -= 1
            yield from latest
        for decision in islice(reversed(self._history), before):
            yield from decision.violations

    def _pass_time(self) -> float:
        now_s = float(self._clock())
        if not math.isfinite(now_s):
            raise GuardError(f"clock must return finite seconds, got {now_s}")
        self._rollout.pass_time(now_s)
        return now_s

    def _waiting_for(self) -> str:
        return self._rollout.waiting_for(self._experiment.measured, self._file.error)

    def _change(self, mode: Mode, percentage: float | None, by: Author, reason: str) -> None:
        if self.mode == "shadow":
            self._experiment.restart()
        # The guard's own step-ups wait for the block's end, so that the test gets every block.
        elif mode == "shadow" or by == "operator":
            self._experiment.abort()
        self._rollout.change(mode, percentage, by, reason, self._experiment.measured)
        self._file.save_soon()

    def _state(self) -> State:
        return {
            "decisions": self._decisions,
            "rollout": self._rollout.state(),
            "experiment": self._experiment.state(),
            "history": list(self._history),
        }

    def _restore(self, state: State) -> None:
        self._decisions = check_value("decisions", state["decisions"], Integer)
        self._rollout.restore(state["rollout"])
        self._experiment.restore(state["experiment"])
        self._history.extend(decision_from(each) for each in state["history"])


def _as_number(outcome: Any) -> float:
    try:
        if isinstance(outcome, bool | str):
            raise TypeError
        return float(outcome)
    except (OverflowError, TypeError, ValueError):
        raise ConfigError(f"outcome must be a number, got {outcome!r}") from None
