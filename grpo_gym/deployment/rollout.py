"""Which mode a policy is in: clean time takes it up step by step, violations take it down."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from grpo_gym.deployment.config import GuardConfig, Mode
from grpo_gym.deployment.records import GuardError, Transition
from grpo_gym.settings import check_value


class Rollout:
    """Mode, percentage, and what decides about them.

    Attributes:
        mode: Now.
        percentage: Now; 0 in shadow, 100 in full.
        violated: Whether each of the last actions of the policy was violating, newest last.
        clean_s: Seconds watched since the last change or violation.
        transitions: The last ones, newest last.
    """

    def __init__(self, config: GuardConfig) -> None:
        """Start in the configured mode."""
        self._config = config
        self.mode: Mode = config.mode
        self.percentage = self._first_percentage(config.mode)
        self.violated: deque[bool] = deque(maxlen=config.window)
        self.clean_s = 0.0
        self.transitions: deque[Transition] = deque(maxlen=config.history_size)
        self._last_time_s: float | None = None
        self._measured_at_change = 0
        self._was_rolled_back = False

    @property
    def share(self) -> float:
        """Probability that a block is the policy's."""
        return self._config.policy_share(self.mode, self.percentage)

    @property
    def has_too_many_violations(self) -> bool:
        """Whether the window holds more than it may."""
        return sum(self.violated) > self._config.most_violations

    def violation_reason(self) -> str:
        """In words why the window is a reason to roll back."""
        return (
            f"{sum(self.violated)} violations in the last {len(self.violated)} actions, at most "
            f"{self._config.most_violations:g} allowed"
        )

    def pass_time(self, now_s: float) -> None:
        """Add the time since the last call to the clean time, as far as it was watched."""
        if self._last_time_s is not None:
            passed_s = max(now_s - self._last_time_s, 0.0)
            self.clean_s += min(passed_s, self._config.largest_gap_s)
        self._last_time_s = now_s

    def observe(self, violated: bool) -> None:
        """Add one action of the policy to the window."""
        self.violated.append(violated)
        if violated:
            self.clean_s = 0.0

    def waiting_for(self, measured: int, save_error: str | None) -> str:
        """What the next automatic promotion lacks; "nothing" when it is due.

        Args:
            measured: Blocks with outcomes so far.
            save_error: Why the state could not be saved.

        Returns:
            Empty if none is to come: in full, and in shadow until an operator promotes.
        """
        needed_s = self._promotion_after_s()
        if needed_s is None:
            return ""
        if self.has_too_many_violations:
            return "fewer violations"
        if self.clean_s < needed_s:
            return "clean time"
        if self._lacks_outcomes(measured):
            return "outcomes"
        return "the state to be saved" if save_error else "nothing"

    def next_step(self) -> tuple[Mode, float]:
        """What comes next: after shadow gradual, then a higher percentage, at 100 full.

        Raises:
            GuardError: If the mode is full, or the window holds too many violations.
        """
        if self.mode == "full":
            raise GuardError("promote needs mode 'shadow' or 'gradual', it is 'full' already")
        if self.has_too_many_violations:
            raise GuardError(
                f"promote needs at most {self._config.most_violations:g} violations in the last "
                f"{self._config.window} actions, got {sum(self.violated)}: wait in shadow, or "
                "decide with set_mode, which forgets them"
            )
        percentage = self._config.start_percentage
        if self.mode == "gradual":
            percentage = self.percentage + self._config.step_percentage
        return ("gradual", percentage) if percentage < 100.0 else ("full", 100.0)

    def change(
        self,
        mode: Mode,
        percentage: float | None,
        by: Literal["guard", "operator"],
        reason: str,
        measured: int,
    ) -> None:
        """Change mode and percentage, and write down why.

        Args:
            mode: The new one.
            percentage: In gradual; None: where it starts.
            by: Who decides.
            reason: Why.
            measured: Blocks with outcomes so far.
        """
        before = self.mode, self.percentage
        self.mode = mode
        self.percentage = self._first_percentage(mode)
        if mode == "gradual" and percentage is not None:
            self.percentage = percentage
        time_s = self._last_time_s if self._last_time_s is not None else 0.0
        after = self.mode, self.percentage
        self.transitions.append(Transition(time_s, *before, *after, by, reason))
        self.clean_s = 0.0
        self._measured_at_change = measured
        self._was_rolled_back = by == "guard" and mode == "shadow"

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON's types."""
        return {
            "mode": self.mode,
            "percentage": self.percentage,
            "violated": list(self.violated),
            "clean_s": self.clean_s,
            "transitions": [vars(each) for each in self.transitions],
            "last_time_s": self._last_time_s,
            "measured_at_change": self._measured_at_change,
            "was_rolled_back": self._was_rolled_back,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.mode = check_value("mode", state["mode"], Mode)
        self.percentage = state["percentage"]
        self.violated.extend(state["violated"])
        self.clean_s = state["clean_s"]
        self.transitions.extend(Transition(**each) for each in state["transitions"])
        self._last_time_s = state["last_time_s"]
        self._measured_at_change = state["measured_at_change"]
        self._was_rolled_back = state["was_rolled_back"]

    def _first_percentage(self, mode: Mode) -> float:
        return {"shadow": 0.0, "gradual": self._config.start_percentage, "full": 100.0}[mode]

    def _promotion_after_s(self) -> float | None:
        if self.mode == "gradual":
            return self._config.clean_s
        return self._config.resume_after_s if self._was_rolled_back else None

    def _lacks_outcomes(self, measured: int) -> bool:
        return self._config.outcome_test and measured == self._measured_at_change
