"""Blocks of decisions, randomly assigned to the two arms, whose outcomes are compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grpo_gym.deployment.config import GuardConfig
from grpo_gym.deployment.records import Arm, Decision, plain
from grpo_gym.deployment.sequential import OutcomeLevel, OutcomeTest, cautious_share

_ARMS: tuple[Arm, Arm] = ("policy", "fallback")


@dataclass
class Block:
    """Consecutive decisions by one arm."""

    number: int
    """Counted from 0."""
    share: float
    """Probability that the block is the policy's."""
    arm: Arm
    steps: int = 0
    """Decisions so far."""
    outcomes: int = 0
    """Outcomes after the warm-up."""
    total: float = 0.0
    """Their sum; -inf once one was not finite."""


class Experiment:
    """Blocks, their arms, and the test that compares the arms.

    Attributes:
        block: The current block, which may be complete; None before the first or after `abort`.
        next_number: Number of the next block.
        measured: Blocks with outcomes, ever.
        late: Outcomes that came after their block, ever.
        level: Recent level of the outcomes of all blocks.
        test: Test of the current rollout.
        counts: Blocks with outcomes of each arm in the current rollout.
        totals: Sums of their outcomes.
    """

    def __init__(self, config: GuardConfig) -> None:
        """Start before the first block."""
        self._config = config
        self.next_number = 0
        self.measured = 0
        self.late = 0
        self.level = OutcomeLevel(config)
        self.restart()

    def restart(self) -> None:
        """Begin a new rollout, with a new test and a new block."""
        self.block: Block | None = None
        self.test = OutcomeTest(self._config)
        self.counts = dict.fromkeys(_ARMS, 0)
        self.totals = dict.fromkeys(_ARMS, 0.0)

    def abort(self) -> None:
        """Drop the current block and its outcomes."""
        self.block = None

    def close_finished_block(self) -> bool:
        """Count the current block if it is complete; return whether the test raises the alarm."""
        block = self.block
        if block is None or block.steps < self._config.block_steps:
            return False
        self.block = None
        if block.outcomes == 0:
            return False
        outcome = block.total / block.outcomes
        self.measured += 1
        self.counts[block.arm] += 1
        self.totals[block.arm] += outcome
        residual, limits = self.level.residual(outcome), self.level.limits()
        self.test.update(block.arm == "policy", block.share, residual, limits)
        self.level.learn(outcome)
        return self._config.outcome_test and self.test.has_alarmed

    def open_block(self, share: float) -> Block:
        """The current block, or a new one that is the policy's with this probability."""
        if self.block is None:
            if self._config.outcome_test:
                share = cautious_share(share, self.test.evidence)
            is_policys = _uniform(self._config.seed, self.next_number) < share
            self.block = Block(self.next_number, share, "policy" if is_policys else "fallback")
            self.next_number += 1
        return self.block

    def report(self, outcome: float, decision: Decision) -> None:
        """Add a decision's outcome to its block; if that has ended, count it as late."""
        block = self.block
        if block is None or block.number != decision.block:
            self.late += 1
        elif decision.block_step >= self._config.warmup_steps:
            block.outcomes += 1
            block.total += outcome if math.isfinite(outcome) else -math.inf

    def alarm_reason(self) -> str:
        """Reason of a rollback for outcomes."""
        arms = " and ".join(
            f"{self.mean(arm):.4g} in {self.counts[arm]} {arm} blocks"
            for arm in _ARMS
            if self.counts[arm]
        )
        return (
            f"outcomes worse than the fallback's: evidence {self.test.evidence:.0f}, means {arms}"
        )

    def mean(self, arm: Arm) -> float | None:
        """Mean outcome of an arm's blocks in the current rollout; None without blocks."""
        return self.totals[arm] / self.counts[arm] if self.counts[arm] else None

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in JSON types."""
        values = {
            "block": self.block and vars(self.block),
            "next_number": self.next_number,
            "measured": self.measured,
            "late": self.late,
            "level": {"mean": self.level.mean, "deviation": self.level.deviation},
            "test": {"wealth": self.test.wealth, "blocks": self.test.blocks},
            "counts": self.counts,
            "totals": self.totals,
        }
        return {name: plain(value) for name, value in values.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        block = state["block"]
        self.block = block and Block(**{**block, "total": float(block["total"])})
        self.next_number, self.measured = state["next_number"], state["measured"]
        self.late = state["late"]
        self.level = replace(self.level, **state["level"])
        self.test = replace(self.test, **state["test"])
        self.counts = {arm: state["counts"][arm] for arm in _ARMS}
        self.totals = {arm: float(state["totals"][arm]) for arm in _ARMS}


def _uniform(seed: int, number: int) -> float:
    """A uniform number in [0, 1) as a pure function, so that no generator needs saving."""
    state = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
    return float(int(state[0]) >> 11) / 2.0**53
