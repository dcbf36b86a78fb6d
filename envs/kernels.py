"""Compilation of the simulators' kernels: the one place for numba's options."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import njit

_log = logging.getLogger(__name__)

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
    options |= {"error_model": "numpy", "_nrt": False}
    usual = numba.config.CACHE_DIR
    cache = _cache_folder(Path(function.__code__.co_filename).resolve().parent, usual)
    if cache is None:
        return njit(**options)(function)
    numba.config.CACHE_DIR = str(cache)
    try:
        return njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = usual


@lru_cache
def _cache_folder(folder: Path, usual: str) -> Path | None:
    """Where compiled code of the sources in a folder is kept; None if nothing can be written.

    numba notices a change of a kernel's own file but not of functions in other files that it calls,
    and would run stale code after an update: so each version of the sources has a cache.

    Args:
        folder: Of the sources.
        usual: The folder that `NUMBA_CACHE_DIR` names, or "".
    """
    for parent in [Path(usual)] if usual else _parents(folder):
        cache = parent / f"kernels-{_fingerprint(folder)}"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache):
                return cache
        except OSError:
            continue
    _warn_of_no_cache()
    return None


def _parents(folder: Path) -> Iterator[Path]:
    """Folders for caches: beside the sources, or the user's own."""
    yield folder / "__pycache__"
    try:
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo-gym"
    except RuntimeError:  # a user without a home, as in containers
        return


@lru_cache
def _warn_of_no_cache() -> None:
    """Warn once in a process."""
    _log.warning(
        "compiled kernels cannot be kept, so each process compiles them again: set "
        "NUMBA_CACHE_DIR to a folder that can be written"
    )


@lru_cache
def _fingerprint(folder: Path) -> str:
    """A hash of all modules in a folder and of all environments."""
    digest = hashlib.sha256()
    sources = {*Path(__file__).resolve().parent.rglob("*.py"), *folder.glob("*.py")}
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
