"""The guard: decides for every action whether the policy may act. See docs/how_to/deployment.md."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Annotated, Any

from pydantic import Field

from grpo_gym.deployment.config import GuardConfig, Mode, Percentage
from grpo_gym.deployment.constraints import Constraint
from grpo_gym.deployment.course import Course
from grpo_gym.deployment.records import Arm, Decision, GuardError, GuardStatus, Transition
from grpo_gym.deployment.shield import Alternatives, Shield
from grpo_gym.deployment.state_file import StateFile
from grpo_gym.settings import ConfigError, check_value


class Guard(AbstractContextManager["Guard"]):
    """A policy and the fallback that it is to replace, behind one `act`.

    All methods are thread-safe: a lock serialises them. A guard has its state file for itself,
    until `close`, the end of a `with` statement, or the end of its process.

    For each decision `act(observation) -> Decision` and, once its outcome is known,
    `report(outcome, decision)`. A quick alarm (`GuardConfig.quick_alarm`) needs every request too,
    as it finishes: `observe_request(ok, latency_ms, decision.arm)`, in time O(1) and bounded
    memory. It judges at the next `act`.

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
        shield = Shield(policy, fallback, constraints, alternatives, self.config.policy_deadline_ms)
        self._lock = threading.RLock()
        self._file = StateFile(state_path, self.config)
        self._course = Course(self.config, shield, clock, self._file)
        try:
            self._file.load(self._course.restore)
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
                return self._course.decide(observation)
            finally:
                # Also when the fallback failed, as a rollback may have happened.
                self._file.save_if_due(self._course.state)

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
            self._course.report(value, decision)
            self._file.save_if_due(self._course.state)

    def observe_request(self, ok: bool, latency_ms: float | None, arm: Arm) -> None:
        """Tell the quick alarm of a request that has finished; without one, do nothing.

        It is judged at the next `act`, and saved with it.

        Args:
            ok: Whether it succeeded.
            latency_ms: How long it took; None if that is unknown, as when nobody answered.
            arm: The `arm` of the decision that it followed from.

        Raises:
            ConfigError: If the latency is not a finite number >= 0, or there is no such arm.
        """
        if latency_ms is not None and not _is_duration(latency_ms):
            raise ConfigError(f"latency_ms must be finite and >= 0, or None, got {latency_ms!r}")
        if arm != "policy" and arm != "fallback":
            raise ConfigError(f"arm must be 'policy' or 'fallback', got {arm!r}: see Decision.arm")
        with self._lock:
            self._course.observe_request(bool(ok), latency_ms, arm)

    def restart(self, reason: str) -> None:
        """Judge another policy from now on, in the present mode.

        What was observed of the last one is forgotten: violations, blocks, evidence, requests of
        the quick alarm, and clean time. What is known of the fallback stays.

        Args:
            reason: For the transitions.
        """
        with self._lock:
            self._course.pass_time()
            self._course.restart(reason)
            self._file.save_if_due(self._course.state)

    # Commands of an operator

    def promote(self, reason: str = "promoted") -> None:
        """Go up one step: from shadow to gradual, to a higher percentage, at 100 to full.

        Raises:
            GuardError: If the mode is full, or the window holds too many violations.
        """
        with self._lock:
            self._course.pass_time()
            self._course.promote("operator", reason)
            self._file.save_if_due(self._course.state)

    def set_mode(self, mode: Mode, reason: str = "set_mode") -> None:
        """Change the mode unconditionally, and forget past violations.

        Raises:
            ConfigError: If the mode is unknown.
        """
        check_value("mode", mode, Mode)
        with self._lock:
            if mode == self.mode:
                return
            self._course.pass_time()
            self._course.rollout.forget_violations()
            self._course.change(mode, None, "operator", reason)
            self._file.save_if_due(self._course.state)

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
            self._course.pass_time()
            self._course.change("gradual", checked, "operator", reason)
            self._file.save_if_due(self._course.state)

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
            self._file.save_if_due(self._course.state)
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
        return self._course.rollout.mode

    @property
    def percentage(self) -> float:
        """Current percentage; 0 in shadow, 100 in full."""
        return self._course.rollout.percentage

    @property
    def history(self) -> tuple[Decision, ...]:
        """The last decisions, newest last."""
        with self._lock:
            return tuple(self._course.history)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The last changes of mode or percentage, newest last."""
        with self._lock:
            return tuple(self._course.rollout.transitions)

    def status(self) -> GuardStatus:
        """Mode, counts and evidence."""
        with self._lock:
            return self._course.status()


def _is_duration(value: Any) -> bool:
    try:
        return 0.0 <= value < math.inf
    except TypeError:
        return False


def _as_number(outcome: Any) -> float:
    try:
        if isinstance(outcome, bool | str):
            raise TypeError
        return float(outcome)
    except (OverflowError, TypeError, ValueError):
        raise ConfigError(f"outcome must be a number, got {outcome!r}") from None
