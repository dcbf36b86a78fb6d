"""Style of the figures of a comparison: colours, sizes, titles, numbers."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from grpo_gym.trainers.comparison.task_results import title

COLOURS = {
    "grpo": "#0072b2",
    "ppo": "#d55e00",
    "a2c": "#009e73",
    "trpo": "#cc79a7",
    "maskable_ppo": "#e69f00",
    "recurrent_ppo": "#56b4e9",
}
"""Colours of the algorithms, distinct for colour-blind readers (Okabe and Ito)."""
_OTHER_COLOUR = "#666666"
LINE_COLOUR = "#4a4f57"
"""Colour of lines and text that belong to no algorithm."""
_AXIS_COLOUR = "#9aa0a8"
_TITLE, MEDIUM, SMALL = 17, 13, 11
"""Font sizes, points."""
WIDTH = 12.8
"""Inches: 1600 pixels."""
_DOTS_PER_INCH = 125
_LARGE = 1e4
"""Size above which numbers are in thousands or millions."""


def colour_of(algorithm: str) -> str:
    """An algorithm's colour."""
    return COLOURS.get(algorithm, _OTHER_COLOUR)


def plain_numbers(axis: Any, limits: tuple[float, float]) -> None:
    """Format tick labels: numbers in full, large ones with a letter (250, -5.5 M)."""
    if max(abs(limit) for limit in limits) >= _LARGE:
        axis.set_major_formatter(EngFormatter(sep=" "))
    else:
        axis.get_major_formatter().set_useOffset(False)


def short_number(value: float) -> str:
    """A number for a label: 0.21, -15.4 M."""
    formatted = EngFormatter(places=1, sep=" ")(value) if abs(value) >= _LARGE else f"{value:.3g}"
    return str(formatted).replace("-", "\N{MINUS SIGN}")


def tidy(axes: Axes) -> None:
    """Add a light grid, and leave two sides of the frame."""
    axes.grid(color="#d9dce1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, color=_AXIS_COLOUR)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_AXIS_COLOUR)


def add_title(figure: Figure, text: str, algorithms: Sequence[str], height: float) -> None:
    """Add a title and below it the legend; `height` is the figure's, in inches."""
    figure.text(0.02, 1.0 - 0.2 / height, text, va="top", fontsize=_TITLE, weight="bold")
    handles = [
        Line2D([], [], color=colour_of(name), linewidth=3, label=title(name)) for name in algorithms
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.012, 1.0 - 0.55 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=MEDIUM,
        handlelength=1.4,
        columnspacing=1.6,
    )


def add_caption(figure: Figure, text: str) -> None:
    """Add small text at the bottom."""
    figure.text(0.02, 0.02, text, va="bottom", fontsize=SMALL, color=LINE_COLOUR)


def as_png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DOTS_PER_INCH)
    return content.getvalue()
