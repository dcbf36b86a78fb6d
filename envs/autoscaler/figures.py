"""One episode under one or several policies as a matplotlib figure.

`evaluate --plot` calls `snapshot` and `draw`. matplotlib is an optional extra, so only `draw`
imports it.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_gym.envs.autoscaler.presets import AutoScalerConfig
from grpo_gym.envs.autoscaler.rendering import Frame, current_frame, latency_text

COLOURS = ("#005cb8", "#e0792d", "#0c8a5c", "#962482", "#8a6200", "#465878")
"""Of policies, in turn."""
_DEMAND, _PROMISE = "#1c2028", "#cc1428"
_LEAST_ERROR_PERCENT = 0.01
_WIDTH, _APART = 1.1, 1.5 / 72.0
"""Of a curve (pt), and the distance between equal curves (inches)."""


def snapshot(env: Any) -> Frame:
    """Read the last step of the first environment.

    Args:
        env: An AutoScaler environment, single or vector.
    """
    return current_frame(env.unwrapped.simulator)


def draw(
    episodes: Mapping[str, Sequence[Frame]],
    config: AutoScalerConfig,
    title: str,
    file_format: str = "png",
) -> bytes:
    """Draw demand and each policy's capacity, latencies, costs and errors over time.

    Args:
        episodes: The steps of each policy, by its name; all met the same demand.
        config: Settings of their environment.
        title: Title of the figure.
        file_format: "png", "pdf" or "svg".

    Returns:
        The content of a file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 9.0), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 2, 2))
    rates, latencies, _, errors = axes
    hours = config.step_seconds / 3600.0
    first = next(iter(episodes.values()))
    demand, times = _column(first, "demand"), _column(first, "clock") * hours
    rates.plot(times, demand, color=_DEMAND, label="demand", linewidth=_WIDTH)
    for number, (name, frames) in enumerate(episodes.items()):
        colour, place = COLOURS[number % len(COLOURS)], number - (len(episodes) - 1) / 2.0
        _plot_policy(axes, name, frames, colour, place, hours, len(episodes) == 1)
    promise = f"promised {latency_text(config.sla_p99_ms)}"
    latencies.axhline(config.sla_p99_ms, color=_PROMISE, linestyle="--", label=promise)
    _format_axes(axes, len(first) * hours / 24.0)
    every = [frame for frames in episodes.values() for frame in frames]
    slowest, most = _column(every, "p99_latency_ms").max(), _column(every, "error_percent").max()
    # Several policies show no medians, so that their p99 may fill the panel.
    quickest = _column(every, "p50_latency_ms" if len(episodes) == 1 else "p99_latency_ms").min()
    latencies.set_ylim(0.8 * quickest, max(1.3 * config.sla_p99_ms, 1.2 * slowest))
    errors.set_ylim(_LEAST_ERROR_PERCENT, max(1.0, 1.2 * most))
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format=file_format, dpi=150)
    return content.getvalue()


def _plot_policy(
    axes: Any,
    name: str,
    frames: Sequence[Frame],
    colour: str,
    place: float,
    hours: float,
    alone: bool,
) -> None:
    """Draw a policy's curves, moved a little, so that equal ones lie side by side."""
    from matplotlib.transforms import ScaledTranslation

    rates, latencies, costs, errors = axes
    move = ScaledTranslation(place * _APART, place * _APART, rates.figure.dpi_scale_trans)
    times, paid = _column(frames, "clock") * hours, _column(frames, "cost_dollars")

    def plot(panel: Any, values: np.ndarray, label: str, **style: Any) -> None:
        style = {"color": colour, "linewidth": _WIDTH, "label": label, **style}
        (line,) = panel.plot(times, values, **style)
        line.set_transform(line.get_transform() + move)

    plot(rates, _column(frames, "capacity"), f"capacity, {name}", drawstyle="steps-pre")
    label = f"p99, {name}:\nabove in {_column(frames, 'violation').mean():.2%} of steps"
    plot(latencies, _column(frames, "p99_latency_ms"), label)
    if alone:
        plot(latencies, _column(frames, "p50_latency_ms"), "median", linestyle=":")
    plot(costs, paid / hours, f"{name}: \\${paid.sum():,.0f}", drawstyle="steps-pre")
    failed = _column(frames, "error_percent")
    shown = np.maximum(failed, _LEAST_ERROR_PERCENT)
    plot(errors, shown, f"{name}: {failed.mean():.3g} % on average")


def _format_axes(axes: Any, days: float) -> None:
    from matplotlib.ticker import LogLocator, MultipleLocator, NullFormatter

    rates, latencies, costs, errors = axes
    for axis in (latencies, errors):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    latencies.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    labels = ("requests/s", "latency (ms)", "cost (\\$/h)", "errors (%)")
    errors.set_xlabel("time since midnight of the first day (h)")
    for axis in (rates, costs):
        axis.set_ylim(bottom=0.0)
    for axis, label in zip(axes, labels, strict=True):
        axis.set_ylabel(label)
        if days > 0.25:
            axis.xaxis.set_major_locator(MultipleLocator(3.0 if days <= 1.5 else 24.0))
        axis.grid(alpha=0.3)
        axis.margins(x=0.0)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)


def _column(frames: Sequence[Frame], name: str) -> np.ndarray:
    return np.array([getattr(frame, name) for frame in frames])
