"""Online GRPO: learning from one decision at a time. `OnlinePolicy` alone needs no torch."""

from typing import TYPE_CHECKING, Any

from grpo_gym.trainers.online.config import TINY_GRPO, OnlineConfig
from grpo_gym.trainers.online.policy import Choice, OnlinePolicy

if TYPE_CHECKING:
    from grpo_gym.trainers.online.trainer import OnlineGRPO, OnlineStats

__all__ = ["TINY_GRPO", "Choice", "OnlineConfig", "OnlineGRPO", "OnlinePolicy", "OnlineStats"]


def __getattr__(name: str) -> Any:
    """Import the trainer, which needs torch, on first use (PEP 562)."""
    if name in __all__:
        from grpo_gym.trainers.online import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
