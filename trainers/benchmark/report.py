"""The results of `grpo-gym benchmark` as tables, for the terminal and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from grpo_gym.trainers.benchmark.peers import TARGETS


@dataclass(frozen=True)
class ResultTable:
    """A title, names of columns, and rows of text; the first column is text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        """The table with its title as a heading."""
        align = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [self.columns, tuple(align), *self.rows]
        return f"## {self.title}\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(values: Mapping[str, Any]) -> Iterator[ResultTable]:
    """Tables of the measurements that there are.

    Args:
        values: Measurements by key, as `measurements` names them.
    """
    if "rates" in values:
        yield _rates(values["rates"])
    if "ceilings" in values:
        yield _ceilings(values["ceilings"])
    if any(key.startswith("rate/") for key in values):
        yield _peer_rates(values)
    if any(key.startswith(("target/", "process/")) for key in values):
        yield _peer_targets(values)
    growth = [key for key, value in values.items() if _is_cost(value)]
    if growth:
        yield _growth({key: values[key] for key in growth})


def _is_cost(value: Any) -> bool:
    return isinstance(value, Mapping) and "peak_memory_mb" in value


def _rates(rates: Mapping[str, list[float]]) -> ResultTable:
    reference = median(next(iter(rates.values())))
    rows = [
        (
            name,
            *(f"{number:,.0f}" for number in (median(values), min(values), max(values))),
            f"{median(values) / reference:.2f}",
        )
        for name, values in rates.items()
    ]
    repetitions = len(next(iter(rates.values())))
    return ResultTable(
        f"Environment steps/s on one thread, {repetitions} repetitions",
        ("", "median", "least", "most", "x CartPole"),
        rows,
    )


def _ceilings(found: Mapping[str, Any]) -> ResultTable:
    def row(name: str, values: list[float], scale: float, unit: str) -> tuple[str, ...]:
        low, high = min(values) / scale, max(values) / scale
        return (name, f"{median(values) / scale:,.1f} {unit}", f"{low:,.1f} to {high:,.1f}")

    limit = median(found["product"]) / found["operations_per_step"]
    rows = [
        row("3200 x 64 by 64 x 64, float32", found["product"], 1e9, "GFLOP/s"),
        row("copy of 256 MiB", found["copy"], 2**30, "GiB/s"),
        row("training, README's settings", found["training"], 1e3, "thousand steps/s"),
        ("arithmetic of a step", f"{found['operations_per_step']:,} operations", ""),
        ("arithmetic limit", f"{limit / 1e3:,.1f} thousand steps/s", ""),
        ("share that training reaches", f"{found['share']:.0%}", ""),
    ]
    return ResultTable("Ceilings of this machine, one thread", ("", "median", "range"), rows)


def _peer_rates(values: Mapping[str, Any]) -> ResultTable:
    rows = []
    for env in TARGETS:
        if found := values.get(f"rate/{env}"):
            grpo, ppo = (median(found["steps_per_second"][name]) for name in ("grpo", "ppo"))
            rows.append((env, f"{grpo:,.0f}", f"{ppo:,.0f}", f"{grpo / ppo:.1f}"))
    return ResultTable(
        "Training steps/s beside PPO of Stable-Baselines3, best settings of each, in turn",
        ("", "GRPO", "PPO", "ratio"),
        rows,
    )


def _peer_targets(values: Mapping[str, Any]) -> ResultTable:
    rows = []
    for kind, what in (("target", "learning"), ("process", "whole process")):
        for env, target in TARGETS.items():
            pairs = [
                value for key, value in values.items() if key.startswith(f"{kind}/{env}/seed ")
            ]
            if pairs:
                task = f"{env} >= {target.mean_return:g} twice, {what}"
                rows.append((task, *(_times(pairs, name) for name in ("grpo", "ppo"))))
    return ResultTable(
        "Seconds to a target: median of all seeds (least to most; processor time)",
        ("", "GRPO", "PPO"),
        rows,
    )


def _times(pairs: list[Mapping[str, Any]], name: str) -> str:
    reached = [pair[name] for pair in pairs if pair[name]["reached"]]
    if not reached:
        return f"0 of {len(pairs)} reached it"
    seconds = [each["seconds"] for each in reached]
    cpu = median(each["cpu_seconds"] for each in reached)
    text = f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}; {cpu:.2f})"
    return text if len(reached) == len(pairs) else f"{text}, {len(reached)} of {len(pairs)}"


def _growth(values: Mapping[str, Mapping[str, Any]]) -> ResultTable:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = [
        (
            key.replace("/", ": ", 1),
            number(value["steps_per_second"], ",.0f"),
            number(value.get("collect_us"), ",.2f"),
            number(value.get("update_us"), ",.2f"),
            number(value["peak_memory_mb"], ",.0f"),
        )
        for key, value in values.items()
    ]
    return ResultTable(
        "Cost of training by one setting at a time, a process each",
        ("", "steps/s", "collect, us a step", "update, us a step", "peak memory, MiB"),
        rows,
    )
