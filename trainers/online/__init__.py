"""Online GRPO: learning from one decision at a time. `OnlinePolicy` alone needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from grpo_gym.trainers.online.config import TINY_GRPO, OnlineConfig

if TYPE_CHECKING:
    from grpo_gym.trainers.online.policy import Choice, OnlinePolicy
    from grpo_gym.trainers.online.trainer import OnlineGRPO, OnlineStats

__all__ = ["TINY_GRPO", "Choice", "OnlineConfig", "OnlineGRPO", "OnlinePolicy", "OnlineStats"]


def __getattr__(name: str) -> Any:
    """Import what needs numba, and the trainer, which needs torch, on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "policy" if name in ("Choice", "OnlinePolicy") else "trainer"
    return getattr(import_module(f"{__name__}.{module}"), name)
