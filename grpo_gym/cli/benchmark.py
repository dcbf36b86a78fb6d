"""`benchmark`: speed of environments and training on this machine, beside peers and its limits.

Rates depend on the machine and its other work. What is compared is measured in turn within one run:
compare ratios, on a quiet machine. Results are kept one by one, so that the same command resumes.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.cli.outputs import claim_output
from grpo_gym.cli.resumable import run_resumable
from grpo_gym.settings import ConfigError, Count, Flag, checked_dataclass
from grpo_gym.storage.files import write_atomic
from grpo_gym.storage.results import Results
from grpo_gym.trainers.benchmark.ceilings import measure_ceilings
from grpo_gym.trainers.benchmark.growth import growth_measurements
from grpo_gym.trainers.benchmark.peers import peer_measurements
from grpo_gym.trainers.benchmark.rates import measure_rates
from grpo_gym.trainers.benchmark.report import ResultTable, tables
from grpo_gym.trainers.comparison.machine import machine, versions
from grpo_gym.trainers.comparison.settings import require

_QUIET = 0.25
"""Load per core above which other work disturbs measurements."""


@checked_dataclass
class BenchmarkOptions:
    """What to measure, and how thoroughly."""

    peers: Flag = False
    """Measure training beside PPO of Stable-Baselines3: steps/s, and seconds to a target. Needs
    the extra compare. About 5 minutes."""
    limits: Flag = False
    """Measure the ceilings of this machine, the share of them that training reaches, and how costs
    grow with batches, servers, boards, networks, groups, processes and workers. About 5 minutes."""
    quick: Flag = False
    """Measure for a moment only: to see that everything works."""
    repetitions: Count = 5
    """Repetitions of each measurement that takes turns with others, and trainings to a target."""
    num_envs: Count = 1024
    """Environments of the vectorised measurements."""
    json: Path | None = None
    """Keep results in this file; what it holds is not measured again."""
    markdown: Path | None = None
    """Write the tables to this file."""


_LINE = CommandLine(
    "benchmark",
    "Measure environment and training steps per second on one thread. With --peers or --limits, "
    "measure those instead.",
    {"benchmark": BenchmarkOptions},
)


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    return run_resumable(_LINE, arguments, _measure_and_show)


def _measure_and_show(configs: dict[str, Any], command: str, console: Console) -> None:
    options: BenchmarkOptions = configs["benchmark"]
    if options.peers:
        require(["stable_baselines3", "sb3_contrib"], "compare")
    if options.markdown is not None:
        claim_output(options.markdown, "--markdown")
    measurements = _measurements(options)
    with tempfile.TemporaryDirectory() as folder:
        path = options.json or Path(folder) / "results.json"
        results = claim_output(path, "--json", partial(_open, report=console.print))
        _check_machine(results, console)
        results.measure_all(measurements, processes=1)
        values = {key: results.values[key] for key in measurements}
    where = _where(results.values["machine"])
    found = list(tables(values))
    shown = Console()
    for each in found:
        shown.print(_terminal(each))
    shown.print(where, highlight=False)
    if options.markdown is not None:
        text = "\n".join(each.markdown() for each in found)
        source = f"# Speed, measured\n{where} Measured by `{command}`.\n\n"
        write_atomic(options.markdown, f"{source}{text}".encode())


def _measurements(options: BenchmarkOptions) -> dict[str, Callable[[], Any]]:
    """What to measure by key, each in a fresh process."""
    seconds, repetitions = (0.01, 1) if options.quick else (2.0, options.repetitions)
    found: dict[str, Callable[[], Any]] = {}
    if options.limits:
        found["ceilings"] = partial(measure_ceilings, seconds / 2, 2 * repetitions)
        found |= growth_measurements(seconds, os.cpu_count() or 1)
    if options.peers:
        found |= peer_measurements(repetitions, seconds, repetitions)
    if not found:
        found["rates"] = partial(measure_rates, options.num_envs, repetitions)
    return found


def _open(path: Path, report: Callable[[str], None]) -> Results:
    """Open the file of results.

    Raises:
        ConfigError: If it holds something else.
    """
    other = ConfigError(
        f"--json must be new or of an earlier benchmark, got {path}: remove it, or choose another "
        "file"
    )
    try:
        results = Results(path, report)
    except ValueError as error:
        raise other from error
    if results.values and not isinstance(results.values.get("machine"), dict):
        results.close()
        raise other
    return results


def _check_machine(results: Results, console: Console) -> None:
    """Note where the results come from, and how busy it is.

    Raises:
        ConfigError: If the file has results of another machine or other versions.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    here = {**machine(), "versions": versions()}
    kept = results.measure("machine", lambda: {**here, "load_average": load})
    if {name: kept.get(name) for name in here} != here:
        raise ConfigError(
            f"--json must be new or of this machine and these versions, got {results.path}: "
            "remove it, or choose another file"
        )
    if load is not None and load > _QUIET * (os.cpu_count() or 1):
        console.print(f"load average {load:.2f}: other work slows what is measured")


def _where(found: dict[str, Any]) -> str:
    installed = found["versions"]
    load = "unknown" if found["load_average"] is None else f"{found['load_average']:.2f}"
    return (
        f"{found['cores']} x {found['processor']}, Python {installed['python']}, torch "
        f"{installed['torch']}; load average at the start: {load}."
    )


def _terminal(found: ResultTable) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=found.title, title_justify="left")
    for name in found.columns:
        table.add_column(name, justify="right" if name else "left")
    for row in found.rows:
        table.add_row(*row)
    return table
