"""An episode as a figure: demand and capacity, latency, cost, and errors, of one policy or several.

`evaluate --plot` looks for `snapshot` and `draw`. matplotlib is an optional extra, so only drawing
imports it.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.rendering import Moment, latency_text, moment
from grpo_gym.envs.autoscaler.simulator import AutoScalerSimulator

COLOURS = ("#005cb8", "#e0792d", "#0c8a5c", "#962482", "#8a6200", "#465878")
"""Of policies, in turn."""
_DEMAND, _PROMISE = "#1c2028", "#cc1428"
_LEAST_ERROR_PERCENT = 0.01
_LEAST_LATENCY_MS = 10.0
_INCHES = (12.0, 9.0)


def snapshot(env: Any) -> Moment:
    """What a figure shows of the last step of the first environment.

    Args:
        env: An AutoScaler environment, single or vector.
    """
    simulator: AutoScalerSimulator = env.unwrapped.simulator
    return moment(simulator)


def draw(
    episodes: Mapping[str, Sequence[Moment]],
    config: AutoScalerConfig,
    title: str,
    file_format: str = "png",
) -> bytes:
    """Draw an episode as different policies played it.

    Args:
        episodes: The steps of each policy, by its name; all met the same demand.
        config: Of their environment.
        title: Of the figure.
        file_format: "png", "pdf" or "svg".

    Returns:
        The content of a file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator, NullFormatter

    figure = Figure(figsize=_INCHES, layout="constrained")
    rates, latencies, costs, errors = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 2, 2))
    hours = config.step_seconds / 3600.0
    per_hour = 1.0 / hours
    first = next(iter(episodes.values()))
    thin = {"linewidth": 1.1}
    rates.plot(
        _hours(first, hours), [past.demand for past in first], color=_DEMAND, label="demand", **thin
    )
    for number, (name, steps) in enumerate(episodes.items()):
        times, colour = _hours(steps, hours), COLOURS[number % len(COLOURS)]
        stairs = {"color": colour, "drawstyle": "steps-pre", **thin}
        rates.plot(times, [past.capacity for past in steps], label=f"capacity, {name}", **stairs)
        broken = np.mean([past.violation for past in steps])
        label = f"p99, {name}:\nabove in {broken:.2%} of steps"
        slowest = [past.p99_latency_ms for past in steps]
        latencies.plot(times, slowest, label=label, color=colour, **thin)
        if len(episodes) == 1:
            medians = [past.p50_latency_ms for past in steps]
            latencies.plot(times, medians, label="median", color=colour, linestyle=":")
        paid = [past.cost_dollars for past in steps]
        label = f"{name}: \\${sum(paid):,.0f}"
        costs.plot(times, np.array(paid) * per_hour, label=label, **stairs)
        wrong = [max(past.error_percent, _LEAST_ERROR_PERCENT) for past in steps]
        errors.plot(times, wrong, label=name, color=colour, **thin)
    promise = f"promised {latency_text(config.sla_p99_ms)}"
    latencies.axhline(config.sla_p99_ms, color=_PROMISE, linestyle="--", label=promise)
    for axis in (latencies, errors):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    highest = max(past.p99_latency_ms for steps in episodes.values() for past in steps)
    latencies.set_ylim(_LEAST_LATENCY_MS, max(2.0 * config.sla_p99_ms, 1.2 * highest))
    most_wrong = max(past.error_percent for steps in episodes.values() for past in steps)
    errors.set_ylim(_LEAST_ERROR_PERCENT, max(1.0, 1.2 * most_wrong))
    rates.set_ylabel("requests/s")
    latencies.set_ylabel("latency (ms)")
    costs.set_ylabel("cost (\\$/h)")
    errors.set_ylabel("errors (%)")
    errors.set_xlabel("time since midnight of the first day (h)")
    days = len(first) * hours / 24.0
    for axis in (rates, costs):
        axis.set_ylim(bottom=0.0)
    for axis in (rates, latencies, costs, errors):
        if days > 0.25:
            axis.xaxis.set_major_locator(MultipleLocator(3.0 if days <= 1.5 else 24.0))
        axis.grid(alpha=0.3)
        axis.margins(x=0.0)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format=file_format, dpi=100)
    return content.getvalue()


def _hours(steps: Sequence[Moment], step_hours: float) -> np.ndarray:
    return np.array([past.clock for past in steps]) * step_hours
