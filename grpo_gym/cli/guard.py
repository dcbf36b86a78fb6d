"""`guard`: see and change what the guard of a running process allows, and estimate a policy."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_gym.cli.admin_port import AdminError, ask
from grpo_gym.cli.failures import reported
from grpo_gym.cli.options import CommandLine
from grpo_gym.deployment.estimates import (
    MINIMUM_EFFECTIVE_ROWS,
    Estimates,
    MinimumRows,
    estimate,
)
from grpo_gym.deployment.shadow_log import LoggedRows, read_log
from grpo_gym.inference.numpy_policy import NumpyPolicy
from grpo_gym.settings import ConfigError, Flag, checked_dataclass, suggest

_SHOWN_TRANSITIONS = 5
_ADMIN = "http://127.0.0.1:9901"


@checked_dataclass
class StatusOptions:
    """Which process, and how to show it."""

    admin: str = _ADMIN
    """Address of its admin port."""
    json: Flag = False
    """Print everything as JSON."""


@checked_dataclass
class CommandOptions:
    """Which process, and why."""

    admin: str = _ADMIN
    """Address of its admin port."""
    reason: Annotated[str, Field(min_length=1, max_length=200)] = "by grpo-gym guard"
    """Why; the guard's transitions keep it."""


@checked_dataclass
class EstimateOptions:
    """Which log and which policy."""

    log: Path | None = None
    """File that a ShadowLog wrote; its older files .1, .2, ... are read too."""
    policy: Path | None = None
    """An exported policy or a checkpoint, asked for each logged observation; by default what the
    log says of its policy."""
    stochastic: Flag = False
    """Estimate that policy's samples instead of its most probable actions."""
    minimum_effective_rows: MinimumRows = MINIMUM_EFFECTIVE_ROWS
    """Effective sample size below which there is no estimate."""
    json: Flag = False
    """Print the result as JSON."""


_STATUS = CommandLine(
    "guard status", "Show the guard of a running process.", {"guard": StatusOptions}
)
_PROMOTE = CommandLine(
    "guard promote",
    "Go up one step: from shadow to gradual, to a larger share, at 100 % to full.",
    {"guard": CommandOptions},
)
_SHADOW = CommandLine(
    "guard shadow", "Take all traffic from the policy at once.", {"guard": CommandOptions}
)
_ESTIMATE = CommandLine(
    "guard estimate",
    "Estimate what a policy would earn from a log of other choices: grpo-gym guard estimate LOG.",
    {"guard": EstimateOptions},
)
_HELP = """usage: grpo-gym guard COMMAND [OPTIONS]

  status     show the guard of a running process
  promote    give the policy more of its traffic
  shadow     take all traffic from the policy at once
  estimate   estimate what a policy would earn, from a log

COMMAND --help shows its options."""


@reported
def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        Console(stderr=not arguments).print(_HELP, markup=False, highlight=False)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in _COMMANDS:
        raise ConfigError(f"guard has no command {name!r}: see --help.{suggest(name, _COMMANDS)}")
    return _COMMANDS[name](rest)


def _status(arguments: Sequence[str]) -> int:
    options: StatusOptions = _STATUS.read(arguments)["guard"]
    report = _guard_report(ask(options.admin, "/guard"), options.admin)
    console = Console()
    if options.json:
        console.print_json(json.dumps(report))
        return 0
    console.print(_facts(status_rows(report)))
    if transitions := report.get("transitions"):
        console.print(_transition_table(transitions[-_SHOWN_TRANSITIONS:]))
    return 0


def _promote(arguments: Sequence[str]) -> int:
    return _command(_PROMOTE.read(arguments)["guard"], "/guard/promote")


def _to_shadow(arguments: Sequence[str]) -> int:
    return _command(_SHADOW.read(arguments)["guard"], "/guard/shadow")


def _command(options: CommandOptions, path: str) -> int:
    report = ask(options.admin, path, {"reason": options.reason})
    print(f"the guard is in {_mode(_guard_report(report, options.admin))}")
    return 0


def _estimate(arguments: Sequence[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--log", *arguments]
    options: EstimateOptions = _ESTIMATE.read(arguments)["guard"]
    if options.log is None:
        raise ConfigError("estimate needs a log: grpo-gym guard estimate LOG")
    log = read_log(options.log)
    policy = (
        None if options.policy is None else _probabilities(options.policy, log, options.stochastic)
    )
    result = estimate(log, policy, options.minimum_effective_rows)
    console = Console()
    if options.json:
        console.print_json(json.dumps({**asdict(result), "damaged_lines": log.damaged}))
    else:
        _show_estimates(console, result, log.damaged)
    return 1 if result.refusal else 0


_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "status": _status,
    "promote": _promote,
    "shadow": _to_shadow,
    "estimate": _estimate,
}


# A running guard


def _guard_report(report: dict[str, Any], admin: str) -> dict[str, Any]:
    if not isinstance(report.get("mode"), str) or not isinstance(
        report.get("percentage"), int | float
    ):
        raise AdminError(f"what answers at {admin} is not an admin port of grpo-gym: see --admin")
    return report


def status_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an operator wants to know of a guard, as names and values."""
    rows = [
        ("mode", _mode(report)),
        ("decisions", _count(report.get("decisions"))),
        ("next step waits for", report.get("waiting_for") or "an operator"),
        ("clean hours", _hours(report.get("clean_hours"))),
        ("evidence against the policy", _number(report.get("evidence"))),
    ]
    for arm in ("policy", "fallback"):
        blocks, outcome = report.get(f"{arm}_blocks"), report.get(f"{arm}_outcome")
        rows.append((f"{arm}'s outcome", f"{_number(outcome)} in {_count(blocks)} blocks"))
    rows.append(("violations in the window", _count(report.get("violations_in_window"))))
    rows.append(("missed deadlines", _count(report.get("missed_deadlines"))))
    alarm = report.get("quick_alarm")
    if isinstance(alarm, dict):
        rows += _alarm_rows(alarm)
    if report.get("save_error"):
        rows.append(("the state cannot be saved", str(report["save_error"])))
    return rows


def _alarm_rows(alarm: Mapping[str, Any]) -> list[tuple[str, str]]:
    failed, checks = _count(alarm.get("failed_checks")), _count(alarm.get("checks"))
    rows = [("quick checks failed lately", f"{failed} ({checks} since leaving shadow)")]
    if alarm.get("last_failure"):
        rows.append(("the last failure", str(alarm["last_failure"])))
    for arm in ("policy", "fallback"):
        requests = _count(alarm.get(f"{arm}_requests"))
        success = _number(alarm.get(f"{arm}_success_percentage"))
        p99 = _number(alarm.get(f"{arm}_p99_ms"))
        rows.append((f"{arm}'s latest requests", f"{requests}, {success} % well, p99 {p99} ms"))
    return rows


def _mode(report: Mapping[str, Any]) -> str:
    mode, percentage = _clean(report["mode"]), report["percentage"]
    return f"{mode} {percentage:g} %" if mode == "gradual" else mode


def _transition_table(transitions: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("when", "to", "by", "why", box=box.SIMPLE_HEAD)
    for each in transitions:
        try:
            when = datetime.fromtimestamp(each["time_s"]).strftime("%Y-%m-%d %H:%M:%S")
            mode = _mode({"mode": each["to_mode"], "percentage": each["to_percentage"]})
            table.add_row(when, Text(mode), Text(_clean(each["by"])), Text(_clean(each["reason"])))
        except (KeyError, OSError, OverflowError, TypeError, ValueError):
            continue  # of a version that says other things
    return table


# A log


def _probabilities(path: Path, log: LoggedRows, stochastic: bool) -> np.ndarray:
    """What a policy does in each logged situation, (n, A)."""
    if log.observations is None:
        raise ConfigError(
            "the log must have an observation in each row, all of one length, to ask a policy"
        )
    policy = NumpyPolicy.load(path)
    scores = np.array([policy.scores(row.astype(np.float32)) for row in log.observations])
    for number, allowed in enumerate(log.allowed or ()):
        if allowed is not None:
            forbidden = np.setdiff1d(np.arange(scores.shape[1]), allowed)
            scores[number, forbidden] = -np.inf
    if not stochastic:
        return np.eye(scores.shape[1])[scores.argmax(axis=1)]
    rows = np.exp(scores - scores.max(axis=1, keepdims=True))
    table: np.ndarray = rows / rows.sum(axis=1, keepdims=True)
    return table


def _show_estimates(console: Console, result: Estimates, damaged: int) -> None:
    rows = [
        ("rows", _count(result.rows)),
        ("effective sample size", f"{result.effective_rows:,.0f}"),
        ("mean weight", f"{result.mean_weight:.3f}"),
    ]
    if damaged:
        rows.append(("damaged lines", _count(damaged)))
    console.print(_facts(rows))
    if result.refusal:
        console.print(result.refusal, highlight=False, soft_wrap=True)
        return
    table = Table("mean reward", "estimate", "95 % low", "high", box=box.SIMPLE_HEAD)
    for title in ("logged", "inverse_propensity", "self_normalised", "doubly_robust"):
        each = getattr(result, title)
        cells = [f"{value:.5g}" for value in (each.value, each.low, each.high)]
        table.add_row(title.replace("_", " "), *cells)
    console.print(table)
    console.print(
        "They hold if an action changes its own reward only: docs/how_to/deployment.md",
        highlight=False,
        soft_wrap=True,
    )


def _facts(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in rows:
        table.add_row(name, Text(_clean(value)))
    return table


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def _hours(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "-"


def _clean(value: Any) -> str:
    """Text of another process without what would command the terminal."""
    return "".join(each if each.isprintable() else "?" for each in str(value))
