"""A guard in simulated time: policy, fallback and outcomes are what a test sets them to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_gym.deployment import Context, Decision, Guard, GuardConfig

POLICY, FALLBACK = 1, 0
HOUR = 60
"""Decisions in an hour: one a minute."""


class Forbidden:
    """Allows all actions but some."""

    def __init__(self, *actions: Any, name: str = "forbidden") -> None:
        self.actions = actions
        self.name = name

    def __call__(self, observation: Any, action: Any, context: Context) -> bool:
        return action not in self.actions


@dataclass
class Bench:
    """The policy wants `wanted`; -1 is forbidden. The fallback wants 0."""

    config: GuardConfig
    state_path: Path | None = None
    alternatives: Any = ()
    wanted: Any = POLICY
    now_s: float = 0.0
    outcome: Callable[[Decision], float | None] = lambda decision: 0.5
    constraints: tuple[Any, ...] = field(default_factory=lambda: (Forbidden(-1),))

    def __post_init__(self) -> None:
        self.start()

    def restart(self) -> None:
        self.guard.close()
        self.start()

    def start(self) -> None:
        self.guard = Guard(
            self.policy,
            lambda observation: FALLBACK,
            self.config,
            constraints=self.constraints,
            alternatives=self.alternatives,
            clock=lambda: self.now_s,
            state_path=self.state_path,
        )

    def policy(self, observation: Any) -> Any:
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted

    def step(self, seconds: float = 60.0) -> Decision:
        """One decision, so long after the last, and its outcome."""
        self.now_s += seconds
        decision = self.guard.act(self.now_s)
        outcome = self.outcome(decision)
        if outcome is not None:
            self.guard.report(outcome, decision)
        return decision

    def steps(self, count: int, seconds: float = 60.0) -> list[Decision]:
        return [self.step(seconds) for _ in range(count)]

    def violate(self, count: int = 1) -> list[Decision]:
        """Decisions for which the policy wants what it must not."""
        before, self.wanted = self.wanted, -1
        decisions = self.steps(count)
        self.wanted = before
        return decisions

    @property
    def path(self) -> list[tuple[str, float]]:
        """Modes and percentages after each transition."""
        return [(each.to_mode, each.to_percentage) for each in self.guard.transitions]


def bench(**settings: Any) -> Bench:
    """A bench of settings of the guard, and of the bench itself."""
    own = {name: settings.pop(name) for name in [*settings] if name in Bench.__dataclass_fields__}
    return Bench(GuardConfig(**settings), **own)
