"""How much memory there is, and one clear error before more is asked for."""

import os
from pathlib import Path

from grpo_gym.settings.errors import ConfigError

LIMIT_VARIABLE = "GRPO_GYM_MEMORY_GB"
"""Environment variable with the memory to stay within, in GB, instead of what is free."""
_CGROUP = Path("/sys/fs/cgroup")
_GB = 1e9


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Refuse what needs more memory than there is; everything passes where that is unknown.

    Args:
        needed: An estimate, in bytes.
        what: The settings that ask for it, with their values.
        remedy: What to do.

    Raises:
        ConfigError: If there is less.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"{what} must fit into the {_in_gb(available)} of memory that are free, got about "
            f"{_in_gb(needed)}: {remedy} (or set {LIMIT_VARIABLE})"
        )


def available_memory() -> float | None:
    """Bytes that can still be allocated; None if the system does not say.

    Raises:
        ConfigError: If the environment variable is not a positive number.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    if given:
        return _given(given)
    free = [each for each in (_of_machine(), _of_container()) if each is not None]
    return min(free) if free else None


def _given(text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0.0:
        raise ConfigError(f"{LIMIT_VARIABLE} must be a number of GB > 0, got {text!r}")
    return limit * _GB


def _of_machine() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return 1024.0 * int(kilobytes)
    except (OSError, ValueError, StopIteration):  # not Linux
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> float | None:
    """What the limit of a container leaves."""
    try:
        limit = float((_CGROUP / "memory.max").read_text())
        used = float((_CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").open())
        # Cached files make room when it is needed.
        return max(0.0, limit - used + float(statistics["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no cgroup, or "max"
        return None


def _in_gb(size: float) -> str:
    return f"{size / _GB:,.1f} GB" if size < 1e15 else f"{size / _GB:.1e} GB"
