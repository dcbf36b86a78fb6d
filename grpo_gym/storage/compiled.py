"""Compiled code kept on disk: the one place for numba's cache."""

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


def compiled(function: Function, sources: Path, **options: Any) -> Function:
    """Compile a function of arrays, records and numbers that allocates nothing.

    Division by zero gives infinity as in NumPy, and compiled code is cached on disk. Reference
    counting is off: the caller holds all arrays, and counting each access costs more than the
    arithmetic.

    Args:
        function: The function.
        sources: A folder of modules whose functions it may call, beside those of its own folder.
        options: Of numba.
    """
    options |= {"error_model": "numpy", "_nrt": False}
    usual = numba.config.CACHE_DIR
    own = Path(function.__code__.co_filename).resolve().parent
    cache = _cache_folder(own, sources, usual)
    if cache is None:
        return njit(**options)(function)
    numba.config.CACHE_DIR = str(cache)
    try:
        return njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = usual


@lru_cache
def _cache_folder(own: Path, sources: Path, usual: str) -> Path | None:
    """Where compiled code of a folder's modules is kept; None if nothing can be written.

    numba notices a change of a kernel's own file but not of functions in other files that it calls,
    and would run stale code after an update: so each version of the sources has a cache.

    Args:
        own: Of the modules.
        sources: Of others that they may call.
        usual: The folder that `NUMBA_CACHE_DIR` names, or "".
    """
    for parent in [Path(usual)] if usual else _parents(own):
        cache = parent / f"kernels-{_fingerprint(own, sources)}"
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
def _fingerprint(own: Path, sources: Path) -> str:
    """A hash of all modules in a folder and below another."""
    digest = hashlib.sha256()
    for path in sorted({*sources.rglob("*.py"), *own.glob("*.py")}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
