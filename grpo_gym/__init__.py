"""Critic-free reinforcement learning (GRPO) for Gymnasium.

Importing this package registers its environments and imports no torch; `GRPO` and what comes
with it are loaded when first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from grpo_gym.registration import register_environments

try:
    __version__ = version("grpo-gym")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0+unknown"

_LAZY = {
    "GRPO": "grpo_gym.trainers.grpo",
    "GRPOConfig": "grpo_gym.trainers.config",
    "OnlineGRPO": "grpo_gym.trainers.online",
    "evaluate_baseline": "grpo_gym.trainers.named_policies",
    "evaluate_policy": "grpo_gym.evaluation.episodes",
    "pretrained": "grpo_gym.trainers.pretrained",
    "register_policy": "grpo_gym.policies.registry",
}

__all__ = [
    "GRPO",
    "GRPOConfig",
    "OnlineGRPO",
    "__version__",
    "evaluate_baseline",
    "evaluate_policy",
    "pretrained",
    "register_policy",
]

register_environments()


def __getattr__(name: str) -> Any:
    """Load the trainer on first use (PEP 562), so that `import grpo_gym` stays light."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
