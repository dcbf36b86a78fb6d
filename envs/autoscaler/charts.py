"""Charts over time, drawn with Pillow: a canvas, panels on it, and round ticks for their axes."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, LINE, INK, GREY = "#ffffff", "#dee1e6", "#1c2028", "#5c636f"
_SCALE = 2
_ROUND = [factor * 10.0**power for power in range(-3, 9) for factor in (1.0, 2.0, 5.0)]


class Canvas:
    """An image drawn at twice its size and then reduced, for smooth lines; positions are in px."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (_SCALE * width, _SCALE * height), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def pixels(self) -> np.ndarray:
        """The finished image, shape (height, width, 3), uint8: a fresh array."""
        return np.array(self._image.reduce(_SCALE))

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
        """Draw a line; its width is in half pixels."""
        scaled = [(_SCALE * x, _SCALE * y) for x, y in points]
        self._draw.line(scaled, colour, width, joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle: nothing without height, but at least half a pixel wide."""
        x, y, low = round(_SCALE * left), round(_SCALE * top), round(_SCALE * bottom) - 1
        if low >= y:
            self._draw.rectangle((x, y, max(round(_SCALE * right) - 1, x), low), colour)

    def text(
        self, x: float, y: float, text: str, colour: str, size: int, anchor: str = "lm"
    ) -> float:
        """Write a text and return its width (px)."""
        self._draw.text((_SCALE * x, _SCALE * y), text, colour, _font(size), anchor)
        return _font(size).getlength(text) / _SCALE


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_SCALE * size)


class Panel(NamedTuple):
    """A chart on a canvas; its vertical axis is logarithmic unless it begins at 0."""

    canvas: Canvas
    left: int
    right: int
    top: int
    bottom: int
    ticks: Sequence[float]
    spans: Sequence[tuple[float, float]]
    """Horizontal extent of each step (px)."""

    def y(self, value: float) -> float:
        """Place a value on the vertical axis (px), or at its end if it is beyond."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        if low > 0.0:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def axis(self, heading: str, legend: dict[str, str], tick_text: Callable[[float], str]) -> None:
        """Draw the heading, the legend (colours by name) and a line for each tick."""
        self.canvas.text(self.left, self.top - 13, heading, INK, 12)
        x = float(self.right)
        for name, colour in reversed(legend.items()):
            x -= self.canvas.text(x, self.top - 13, name, GREY, 11, "rm") + 6
            self.canvas.box(x - 14, self.top - 15, x, self.top - 11, colour)
            x -= 30
        for tick in self.ticks:
            self.level(tick, LINE, 1)
            self.canvas.text(self.left - 8, self.y(tick), tick_text(tick), GREY, 11, "rm")

    def level(self, value: float, colour: str, width: int) -> None:
        """Draw a line at one value across the panel."""
        y = self.y(value)
        self.canvas.line([(self.left, y), (self.right, y)], colour, width)

    def bars(self, stacks: Sequence[Sequence[float]], *colours: str) -> None:
        """Draw stacked bars in each step: one between consecutive values, where they increase."""
        for (left, right), stack in zip(self.spans, stacks, strict=True):
            for low, high, colour in zip(stack[:-1], stack[1:], colours, strict=True):
                self.canvas.box(left, self.y(high), right, self.y(low), colour)

    def line(self, values: Sequence[float], colour: str, width: int = 3) -> None:
        """Connect the values of all steps, each at the end of its step."""
        ends = zip(self.spans, values, strict=True)
        self.canvas.line([(right, self.y(value)) for (_, right), value in ends], colour, width)


def linear_ticks(highest: float, count: int) -> tuple[float, ...]:
    """Roughly `count` round numbers from 0 to at least `highest`."""
    power = 10.0 ** math.floor(math.log10(max(highest, 1e-9) / count))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power * count >= highest * (1 - 1e-9))
    return tuple(step * number for number in range(math.ceil(highest / step - 1e-9) + 1))


def logarithmic_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten between two round numbers that enclose `low` and `high`."""
    first = max(number for number in _ROUND if number <= max(low, _ROUND[0]))
    last = min(number for number in _ROUND if number >= min(high, _ROUND[-1]))
    return (first, *(number for number in _ROUND[::3] if first < number < last), last)
