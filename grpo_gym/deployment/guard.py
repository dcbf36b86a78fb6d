"""A guard in front of a policy: it decides, action by action, whether the policy may act.

See docs/deployment.md for how it is used and what it promises.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

from grpo_gym.deployment.config import GuardConfig, Mode, Percentage
from grpo_gym.deployment.constraints import Constraint
from grpo_gym.deployment.experiment import Experiment
from grpo_gym.deployment.records import (
    Context,
    Decision,
    GuardError,
    GuardStatus,
    Transition,
    decision_as_mapping,
    decision_from,
    plain_decision,
)
from grpo_gym.deployment.rollout import Rollout
from grpo_gym.deployment.shield import Alternatives, Shield
from grpo_gym.deployment.state_file import State, StateFile
from grpo_gym.settings import ConfigError, Integer, check_value


class Guard:
    """A policy and the fallback that it is to replace, behind one `act`.

    Methods may be called from any thread; they take turns. One guard owns its state file.

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
        """Start, or go on from the saved state.

        Args:
            policy: A callable observation -> action, or a model with `predict`.
            fallback: The same: what has acted until now, and is trusted without constraints.
            config: Settings; None: all defaults.
            constraints: What every action of the policy must satisfy.
            alternatives: Actions to try in order where the policy's is not allowed in its own
                block, before the fallback's; or (observation, policy's action) -> such actions.
                `SCALING_ALTERNATIVES` for changes of replicas.
            clock: Seconds; must go on over restarts.
            state_path: Where the state is kept; None: nowhere. What is there is gone on from.

        Raises:
            ConfigError: If an argument cannot be used.
            GuardStateError: If there is a state that cannot be read, or of another config.
            GuardError: If the state cannot be saved.
        """
        self.config = GuardConfig() if config is None else config
        self._shield = Shield(policy, fallback, constraints, alternatives)
        self._clock = clock
        self._lock = threading.RLock()
        self._rollout = Rollout(self.config)
        self._experiment = Experiment(self.config)
        self._history: deque[Decision] = deque(maxlen=self.config.history_size)
        self._decisions = 0
        self._file = StateFile(state_path, self.config)
        self._file.load(self._restore)
        if state_path is not None:
            self.save()

    def act(self, observation: Any) -> Decision:
        """Decide what to do now.

        Args:
            observation: Handed to policy, fallback and constraints as it is.

        Returns:
            The decision; execute its `action`.

        Raises:
            GuardError: If the fallback is needed and fails: nothing is known to be safe.
        """
        with self._lock:
            try:
                now_s = self._pass_time()
                self._review()
                decision = self._decide(observation, now_s)
                self._history.append(plain_decision(decision))
                self._decisions += 1
            finally:
                # Also where no action was safe: a rollback must not be forgotten.
                self._save_if_due()
            return decision

    def report(self, outcome: float, decision: Decision | None = None) -> None:
        """Say how a decision turned out; higher is better.

        What comes after the decision's block has ended is too late and ignored.

        Args:
            outcome: Any unit. What is not finite makes its block as bad as can be.
            decision: Which; None: the last one.

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
            self._save_if_due()

    # What an operator may do

    def promote(self, reason: str = "promoted") -> None:
        """Go up by one step: from shadow to gradual, to a higher percentage, at 100 to full.

        Raises:
            GuardError: If the mode is full, or the window holds too many violations.
        """
        with self._lock:
            self._pass_time()
            self._promote("operator", reason)
            self._save_if_due()

    def set_mode(self, mode: Mode, reason: str = "set_mode") -> None:
        """Change the mode at once, whatever speaks against it; past violations are forgotten.

        Raises:
            ConfigError: If there is no such mode.
        """
        check_value("mode", mode, Mode)
        with self._lock:
            if mode == self.mode:
                return
            self._pass_time()
            self._rollout.violated.clear()
            self._change(mode, None, "operator", reason)
            self._save_if_due()

    def set_percentage(self, percentage: float, reason: str = "set_percentage") -> None:
        """Change at once the share of the blocks, in %, that the policy gets in gradual.

        Raises:
            ConfigError: If it is not > 0 and <= 100.
            GuardError: If the mode is not gradual.
        """
        checked = check_value("percentage", percentage, Percentage)
        with self._lock:
            if self.mode != "gradual":
                raise GuardError(
                    f"set_percentage needs mode 'gradual', it is {self.mode!r}: "
                    "call set_mode('gradual') first"
                )
            self._pass_time()
            self._change("gradual", checked, "operator", reason)
            self._save_if_due()

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
            self._save_if_due()
            if self._file.error is not None:
                raise GuardError(f"cannot save the state to {path}: {self._file.error}")

    # What can be seen

    @property
    def mode(self) -> Mode:
        """Now."""
        return self._rollout.mode

    @property
    def percentage(self) -> float:
        """Now; 0 in shadow, 100 in full."""
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
        """How things stand."""
        with self._lock:
            experiment = self._experiment
            return GuardStatus(
                mode=self.mode,
                percentage=self.percentage,
                decisions=self._decisions,
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

    # A decision

    def _decide(self, observation: Any, now_s: float) -> Decision:
        context = Context(now_s, tuple(self._history), self._decisions == len(self._history))
        situation = self._shield.look(observation, context)
        self._rollout.observe(bool(situation.violations))
        if self.mode != "shadow" and self._rollout.has_too_many_violations:
            self._roll_back(self._rollout.violation_reason())
        block = self._experiment.open_block(self._rollout.share)
        choice = self._shield.choose(situation, block.arm)
        block.steps += 1
        return Decision(
            number=self._decisions,
            time_s=now_s,
            mode=self.mode,
            percentage=self.percentage,
            arm=block.arm,
            source=choice.source,
            action=choice.action,
            policy_action=situation.wanted.action,
            fallback_action=situation.usual.action,
            fallback_error=situation.usual.error,
            violations=choice.violations,
            block=block.number,
            block_step=block.steps - 1,
        )

    # Changes of mode

    def _review(self) -> None:
        """Roll back or promote for what is known by now."""
        if self._experiment.close_finished_block() and self.mode != "shadow":
            self._roll_back(self._experiment.alarm_reason())
        if self._waiting_for() == "nothing":
            self._promote("guard", f"{self._rollout.clean_s / 3600.0:.2f} clean hours")

    def _pass_time(self) -> float:
        now_s = float(self._clock())
        if not math.isfinite(now_s):
            raise GuardError(f"clock must return finite seconds, got {now_s}")
        self._rollout.pass_time(now_s)
        return now_s

    def _waiting_for(self) -> str:
        return self._rollout.waiting_for(self._experiment.measured, self._file.error)

    def _promote(self, by: Literal["guard", "operator"], reason: str) -> None:
        mode, percentage = self._rollout.next_step()
        self._change(mode, percentage, by, reason)

    def _roll_back(self, reason: str) -> None:
        self._change("shadow", None, "guard", reason)

    def _change(
        self,
        mode: Mode,
        percentage: float | None,
        by: Literal["guard", "operator"],
        reason: str,
    ) -> None:
        if self.mode == "shadow":
            self._experiment.restart()
        # A step-up by the guard waits for the block's end: that keeps every block in the test.
        elif mode == "shadow" or by == "operator":
            self._experiment.abort()
        self._rollout.change(mode, percentage, by, reason, self._experiment.measured)
        self._file.save_soon()

    # The state

    def _save_if_due(self) -> None:
        self._file.save_if_due(self._state)

    def _state(self) -> State:
        return {
            "decisions": self._decisions,
            "rollout": self._rollout.state(),
            "experiment": self._experiment.state(),
            "history": [decision_as_mapping(each) for each in self._history],
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
