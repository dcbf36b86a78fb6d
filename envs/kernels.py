"""Compilation of the simulators' kernels: the one place for numba's options."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function of arrays, records and numbers that allocates nothing.

    Division by zero gives infinity as in NumPy, the interpreter lock is released, and compiled
    code is cached on disk. Reference counting is off: the caller holds all arrays, and counting
    each access costs more than the arithmetic.
    """
    return _compiled(function, nogil=True)


def inlined(function: Function) -> Function:
    """Compile like `kernel`, as a part of the kernels that call it."""
    return _compiled(function, inline="always")


def _compiled(function: Function, **options: Any) -> Function:
    # numba notices a change of a kernel's own file but not of functions in other files that it
    # calls, and would run stale code after an update: so each version of the sources has a cache.
    folder = Path(function.__code__.co_filename).resolve().parent
    usual = numba.config.CACHE_DIR
    parent = Path(usual) if usual else folder / "__pycache__"
    numba.config.CACHE_DIR = str(parent / f"kernels-{_fingerprint(folder)}")
    try:
        return njit(cache=True, error_model="numpy", _nrt=False, **options)(function)
    finally:
        numba.config.CACHE_DIR = usual


@lru_cache
def _fingerprint(folder: Path) -> str:
    """A hash of all modules in a folder and of all environments."""
    digest = hashlib.sha256()
    sources = {*Path(__file__).resolve().parent.rglob("*.py"), *folder.glob("*.py")}
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
