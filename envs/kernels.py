"""How the simulators' kernels are compiled: one place for numba's options."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function of arrays, records and numbers that allocates nothing.

    Division by zero gives infinity as in NumPy, the interpreter lock is released, and compiled
    code is cached on disk. Reference counts are off: kernels only look into arrays that their
    caller holds, and counting each look costs more than the arithmetic.
    """
    return njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)


def inlined(function: Function) -> Function:
    """Compile like `kernel`, as a part of the kernels that call it."""
    return njit(cache=True, inline="always", error_model="numpy", _nrt=False)(function)
