"""Compiled code on disk is never older than the sources it was made from."""

import os
import subprocess
import sys
from pathlib import Path

LAWS = """
from grpo_gym.envs.kernels import inlined

@inlined
def law(x):
    return x + {number}.0
"""
PROGRAM = """
from grpo_gym.envs.kernels import kernel
from laws import law

@kernel
def compute(x):
    return law(x)

if __name__ == "__main__":
    print(compute(1.0), sum(compute.stats.cache_hits.values()))
"""


def run(folder: Path, **environment: str) -> list[str]:
    command = [sys.executable, str(folder / "program.py")]
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def test_a_change_of_an_inlined_function_is_seen(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "laws.py").write_text(LAWS.format(number=1))
    assert run(tmp_path) == ["2.0", "0"]
    assert run(tmp_path) == ["2.0", "1"]
    (tmp_path / "laws.py").write_text(LAWS.format(number=29))
    assert run(tmp_path) == ["30.0", "0"]


def test_the_cache_goes_where_numba_is_told(tmp_path: Path) -> None:
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    sources.mkdir()
    (sources / "program.py").write_text(PROGRAM)
    (sources / "laws.py").write_text(LAWS.format(number=1))
    assert run(sources, NUMBA_CACHE_DIR=str(cache)) == ["2.0", "0"]
    assert list(cache.rglob("program.compute-*.nbi"))
    assert not list(sources.rglob("*.nbi"))


def test_the_cache_of_sources_that_cannot_be_written_is_the_users(tmp_path: Path) -> None:
    sources, cache = read_only_sources(tmp_path), tmp_path / "cache"
    assert run(sources, XDG_CACHE_HOME=str(cache)) == ["2.0", "0"]
    assert run(sources, XDG_CACHE_HOME=str(cache)) == ["2.0", "1"]
    (sources / "laws.py").write_text(LAWS.format(number=29))
    assert run(sources, XDG_CACHE_HOME=str(cache)) == ["30.0", "0"]


def test_where_nothing_can_be_written_kernels_run_uncached_with_one_warning(
    tmp_path: Path,
) -> None:
    sources, no_folder = read_only_sources(tmp_path), tmp_path / "file"
    no_folder.touch()
    command = [sys.executable, str(sources / "program.py")]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"},
        "HOME": str(no_folder),
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["2.0", "0"]
    assert result.stderr.count("NUMBA_CACHE_DIR") == len(result.stderr.splitlines()) == 1


def read_only_sources(tmp_path: Path) -> Path:
    """The program, in a folder beside which no cache can be made: not even by root."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "program.py").write_text(PROGRAM)
    (sources / "laws.py").write_text(LAWS.format(number=1))
    (sources / "__pycache__").touch()
    return sources
