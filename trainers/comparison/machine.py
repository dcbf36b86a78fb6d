"""Where a comparison runs: versions, hardware and memory."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("grpo_gym", "torch", "gymnasium", "stable_baselines3", "sb3_contrib", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages that decide results, and of Python."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "python": platform.python_version()}


def machine() -> dict[str, Any]:
    """Processor, number of cores and operating system."""
    return {
        "processor": _proc_field("/proc/cpuinfo", "model name")
        or platform.processor()
        or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


def peak_memory_mb() -> float | None:
    """Peak memory of this process so far, MiB; None where the system does not report it."""
    # Under Linux, getrusage would include the process that started this one.
    if peak := _proc_field("/proc/self/status", "VmHWM"):
        return round(int(peak.split()[0]) / 1024, 1)
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak_rss / (1024**2 if sys.platform == "darwin" else 1024), 1)


def _proc_field(file: str, name: str) -> str:
    """A field of one of Linux's /proc files; empty elsewhere."""
    path = Path(file)
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
