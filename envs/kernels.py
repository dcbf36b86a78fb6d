"""How simulators' kernels are compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from grpo_gym.storage.compiled import compiled

Function = TypeVar("Function", bound=Callable[..., Any])

_SOURCES = Path(__file__).resolve().parent
"""Kernels may call those of all environments."""


def kernel(function: Function) -> Function:
    """Compile a function with `compiled`; the interpreter lock is released while it runs."""
    return compiled(function, _SOURCES, nogil=True)


def inlined(function: Function) -> Function:
    """Compile like `kernel`, as a part of the kernels that call it."""
    return compiled(function, _SOURCES, inline="always")
