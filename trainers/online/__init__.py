"""Online GRPO: one decision at a time. `OnlinePolicy` alone needs no torch."""

from importlib import import_module
from typing import Any

_LAZY = {
    "TINY_GRPO": "config",
    "OnlineConfig": "config",
    "Decision": "policy",
    "OnlinePolicy": "policy",
    "OnlineGRPO": "trainer",
    "OnlineStats": "trainer",
    "changed_at": "trainer",
}


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
