"""Deploy a trained policy to real traffic, behind a guard that decides when it may act."""

from grpo_gym.deployment.config import GuardConfig, QuickAlarmConfig
from grpo_gym.deployment.constraints import (
    SCALING_ALTERNATIVES,
    Constraint,
    Cooldown,
    MaximumChange,
    MinimumReplicas,
)
from grpo_gym.deployment.guard import Guard
from grpo_gym.deployment.records import (
    Context,
    Decision,
    GuardError,
    GuardStatus,
    QuickAlarmStatus,
    Transition,
    Violation,
)
from grpo_gym.deployment.state_file import GuardStateError

__all__ = [
    "SCALING_ALTERNATIVES",
    "Constraint",
    "Context",
    "Cooldown",
    "Decision",
    "Guard",
    "GuardConfig",
    "GuardError",
    "GuardStateError",
    "GuardStatus",
    "MaximumChange",
    "MinimumReplicas",
    "QuickAlarmConfig",
    "QuickAlarmStatus",
    "Transition",
    "Violation",
]
