"""The mode of a policy: clean time promotes it step by step, violations roll it back."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from grpo_gym.deployment.config import GuardConfig, Mode
from grpo_gym.deployment.records import Author, GuardError, Transition, Violation
from grpo_gym.settings import check_value


class Rollout:
    """Mode and percentage, and the counts that change them.

    Attributes:
        mode: Current mode.
        percentage: Current percentage; 0 in shadow, 100 in full.
        violated: Whether each of the policy's last actions violated a constraint, newest last.
        violations: How many of them did.
        missed: Actions of the policy that did not come in time, since the guard first started.
        clean_s: Seconds counted as clean since the last transition or violation.
        transitions: The last transitions, newest last.
    """

    def __init__(self, config: GuardConfig) -> None:
        """Start in the configured mode."""
        self._config = config
        self.mode: Mode = config.mode
        self.percentage = self._initial_percentage(config.mode)
        self.violated: deque[bool] = deque(maxlen=config.window)
        self.violations = 0
        self.missed = 0
        self._missed_in_a_row = 0
        self.clean_s = 0.0
        self.transitions: deque[Transition] = deque(maxlen=config.history_size)
        self._last_time_s: float | None = None
        self._measured_at_change = 0
        self._was_rolled_back = False

    @property
    def share(self) -> float:
        """Probability that a block is the policy's: its percentage, without the holdout."""
        return min(self.percentage, 100.0 - self._config.holdout_percentage) / 100.0

    @property
    def has_too_many_violations(self) -> bool:
        """Whether the window exceeds its limit."""
        return self.violations > self._config.most_violations

    def rollback_reason(self, violations: Iterable[Violation]) -> str | None:
        """Why the policy's last actions roll it back; None if they do not.

        `violations` are those of the window.
        """
        if self._missed_in_a_row >= self._config.missed_deadline_limit:
            return f"no action in time, {self._missed_in_a_row} times in a row"
        if self.has_too_many_violations:
            return (
                f"{self.violations} violations in the last {len(self.violated)} actions, at "
                f"most {self._config.most_violations:g} allowed: {_by_constraint(violations)}"
            )
        return None

    def pass_time(self, now_s: float) -> None:
        """Add the time since the last call to the clean time, up to the largest gap."""
        if self._last_time_s is not None:
            passed_s = max(now_s - self._last_time_s, 0.0)
            self.clean_s += min(passed_s, 60.0 * self._config.largest_gap_minutes)
        self._last_time_s = now_s

    def observe(self, violated: bool, missed_deadline: bool) -> None:
        """Add one action of the policy to the window."""
        if len(self.violated) == self.violated.maxlen:
            self.violations -= self.violated[0]
        self.violated.append(violated)
        self.violations += violated
        if violated:
            self.clean_s = 0.0
        self.missed += missed_deadline
        self._missed_in_a_row = self._missed_in_a_row + 1 if missed_deadline else 0

    def forget_violations(self) -> None:
        """Begin with an empty window."""
        self.violated.clear()
        self.violations = 0
        self._missed_in_a_row = 0

    def waiting_for(self, measured: int, save_error: str | None) -> str:
        """What the next automatic promotion waits for; "nothing" when it is due.

        Empty if none is to come: in full, and in shadow until an operator promotes. `measured` is
        the number of blocks with outcomes so far.
        """
        needed_hours: float | None = None
        if self.mode == "gradual":
            needed_hours = self._config.clean_hours
        elif self._was_rolled_back:
            needed_hours = self._config.resume_after_hours
        if needed_hours is None:
            return ""
        if self.has_too_many_violations:
            return "fewer violations"
        if self.clean_s < 3600.0 * needed_hours:
            return "clean time"
        if self._config.outcome_test and measured == self._measured_at_change:
            return "outcomes"
        return "the state to be saved" if save_error else "nothing"

    def next_step(self, violations: Iterable[Violation]) -> tuple[Mode, float]:
        """Mode and percentage after the next promotion; `violations` are those of the window.

        Raises:
            GuardError: If the mode is full, or the window holds too many violations.
        """
        if self.mode == "full":
            raise GuardError("promote needs mode 'shadow' or 'gradual', it is 'full' already")
        if self.has_too_many_violations:
            raise GuardError(
                f"promote needs at most {self._config.most_violations:g} violations in the last "
                f"{self._config.window} actions, got {self.violations} "
                f"({_by_constraint(violations)}): wait in shadow, or decide with set_mode, which "
                "forgets them"
            )
        percentage = self._config.start_percentage
        if self.mode == "gradual":
            percentage = self.percentage + self._config.step_percentage
        return ("gradual", percentage) if percentage < 100.0 else ("full", 100.0)

    def change(
        self, mode: Mode, percentage: float | None, by: Author, reason: str, measured: int
    ) -> None:
        """Change mode and percentage, by default the mode's initial one, and record it."""
        before = self.mode, self.percentage
        after = mode, self._initial_percentage(mode) if percentage is None else percentage
        self.mode, self.percentage = after
        self.transitions.append(Transition(self._last_time_s or 0.0, *before, *after, by, reason))
        self.clean_s = 0.0
        self._measured_at_change = measured
        self._was_rolled_back = by == "guard" and mode == "shadow"

    def restart(self, reason: str, measured: int) -> None:
        """Begin to judge another policy, in the same mode, and record it."""
        self.forget_violations()
        now = self.mode, self.percentage
        time_s = self._last_time_s or 0.0
        self.transitions.append(Transition(time_s, *now, *now, "operator", reason))
        self.clean_s = 0.0
        self._measured_at_change = measured

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON types and records."""
        return {
            "mode": self.mode,
            "percentage": self.percentage,
            "violated": list(self.violated),
            "missed": self.missed,
            "missed_in_a_row": self._missed_in_a_row,
            "clean_s": self.clean_s,
            "transitions": list(self.transitions),
            "last_time_s": self._last_time_s,
            "measured_at_change": self._measured_at_change,
            "was_rolled_back": self._was_rolled_back,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.mode = check_value("mode", state["mode"], Mode)
        self.percentage = state["percentage"]
        self.violated.extend(state["violated"])
        self.violations = sum(self.violated)
        self.missed = state.get("missed", 0)  # older files have none
        self._missed_in_a_row = state.get("missed_in_a_row", 0)
        self.clean_s = state["clean_s"]
        self.transitions.extend(Transition(**each) for each in state["transitions"])
        self._last_time_s = state["last_time_s"]
        self._measured_at_change = state["measured_at_change"]
        self._was_rolled_back = state["was_rolled_back"]

    def _initial_percentage(self, mode: Mode) -> float:
        return {"shadow": 0.0, "gradual": self._config.start_percentage, "full": 100.0}[mode]


def _by_constraint(violations: Iterable[Violation]) -> str:
    """Which constraints were violated, and how often."""
    counts = Counter(violation.constraint for violation in violations)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())
