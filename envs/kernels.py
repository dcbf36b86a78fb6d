"""How the simulators' kernels are compiled: one place for numba's options."""

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
    code is cached on disk. Reference counts are off: kernels only look into arrays that their
    caller holds, and counting each look costs more than the arithmetic.
    """
    return _compiled(function, nogil=True)


def inlined(function: Function) -> Function:
    """Compile like `kernel`, as a part of the kernels that call it."""
    return _compiled(function, inline="always")


def _compiled(function: Function, **options: Any) -> Function:
    # numba only sees a change of a kernel's own file, not of the functions it calls elsewhere,
    # and would run old code after an update: so every state of the sources has its own cache.
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
    """A short name for the content of all modules in a folder, and of all simulators."""
    digest = hashlib.sha256()
    sources = {*Path(__file__).resolve().parent.rglob("*.py"), *folder.glob("*.py")}
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
