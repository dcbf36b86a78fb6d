"""What clients saw, in figures: by contender, over all and by phase."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from grpo_gym.deployment.demo.config import PHASES, TrafficConfig
from grpo_gym.deployment.demo.load import Requests
from grpo_gym.deployment.demo.traffic import Runs
from grpo_gym.settings import to_mapping

BUSY_LAG_MS = 10.0
"""Lag of the load generator, at its 99th percentile, above which figures say little."""


@dataclass(frozen=True)
class Figures:
    """Latencies of good answers, and errors; means over runs.

    Attributes:
        requests: How many.
        mean_ms: Mean latency.
        p50_ms: Median.
        p99_ms: 99th percentile.
        errors: Requests without a good answer.
        lag_p99_ms: 99th percentile of the load generator's own lag.
    """

    requests: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    errors: float
    lag_p99_ms: float


def figures_of(requests: Requests, config: TrafficConfig, phase: str | None = None) -> Figures:
    """The figures of one run, of one phase or of all."""
    begin_s, end_s = 0.0, config.seconds
    if phase is not None:
        begin_s = PHASES.index(phase) * config.phase_seconds
        end_s = begin_s + config.phase_seconds
    chosen = (requests.due_s >= begin_s) & (requests.due_s < end_s)
    good = requests.latency_ms[chosen & requests.ok]
    nothing = len(good) == 0
    return Figures(
        requests=float(chosen.sum()),
        mean_ms=float("nan") if nothing else float(good.mean()),
        p50_ms=float("nan") if nothing else float(np.quantile(good, 0.5)),
        p99_ms=float("nan") if nothing else float(np.quantile(good, 0.99)),
        errors=float((chosen & ~requests.ok).sum()),
        lag_p99_ms=float(np.quantile(requests.lag_ms[chosen], 0.99)) if chosen.any() else 0.0,
    )


def mean_figures(runs: Sequence[Figures]) -> Figures:
    """The means over runs, figure by figure."""
    names = [each.name for each in fields(Figures)]
    return Figures(**{name: float(np.mean([getattr(run, name) for run in runs])) for name in names})


def summary(runs: Runs, config: TrafficConfig) -> dict[str, Any]:
    """All figures in JSON types: the settings, and for each contender every run and the means."""
    contenders = []
    for contender, results in runs.items():
        each = [_one_run(requests, config) for requests in results]
        parts = ("all", *PHASES)
        means = {part: asdict(mean_figures([run[part] for run in each])) for part in parts}
        written = [{part: asdict(run[part]) for part in parts} for run in each]
        contenders.append({**contender._asdict(), "mean": means, "runs": written})
    return {"settings": to_mapping(config), "contenders": contenders}


def _one_run(requests: Requests, config: TrafficConfig) -> dict[str, Figures]:
    parts = {phase: figures_of(requests, config, phase) for phase in PHASES}
    return {"all": figures_of(requests, config), **parts}
