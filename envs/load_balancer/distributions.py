"""Settings that are drawn at each reset: a distribution in place of a value.

    "uniform 0.4 0.85"    "loguniform 0.4 1.6"    "choice 2000 4000 8000"
    {"one_of": ["loguniform 0.4 1.6", 1.0], "weights": [0.7, 0.3]}

The first three draw each server's value on its own where a setting has one per server; whole
numbers are drawn from all between the bounds, both included. `one_of` draws once, for all servers;
its options are values or distributions, equally likely without `weights`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from zlib import crc32

import numpy as np

from grpo_gym.envs.randomness import stream_key, uniform
from grpo_gym.settings import ConfigError, parse_value

Coins = Iterator[float]
"""Uniform numbers in (0, 1]."""


@dataclass(frozen=True)
class Range:
    """A uniform distribution of a number, or of its logarithm."""

    low: float
    high: float
    logarithmic: bool

    def draw(self, coins: Coins, whole: bool) -> float | int:
        """Draw a number."""
        low, high = self.low, self.high + whole
        share = 1.0 - next(coins)
        if self.logarithmic:
            value = low * math.exp(share * math.log(high / low))
        else:
            value = low + share * (high - low)
        return min(int(value), int(self.high)) if whole else min(value, self.high)

    def extremes(self) -> list[Any]:
        """Values of which one is the least and one the greatest."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Choice:
    """One of several values or distributions; `shared`: by all servers together."""

    options: tuple[Any, ...]
    weights: tuple[float, ...]
    shared: bool

    def draw(self, coins: Coins, whole: bool) -> Any:
        """Draw an option; a distribution is not drawn from."""
        mark = next(coins) * sum(self.weights)
        for option, weight in zip(self.options, self.weights, strict=True):
            mark -= weight
            if mark <= 0.0:
                return option
        return self.options[-1]

    def extremes(self) -> list[Any]:
        """Values of which one is the least and one the greatest."""
        return [
            value
            for option in self.options
            for value in (option.extremes() if isinstance(option, Distribution) else [option])
        ]


Distribution = Range | Choice


def is_law(value: Any) -> bool:
    """Whether a parsed setting is a distribution."""
    return isinstance(value, Distribution)


def parse(name: str, value: Any) -> Any:
    """A setting's value, or the distribution that it describes.

    Raises:
        ConfigError: If a distribution is incomplete or empty.
    """
    if isinstance(value, Mapping) and "one_of" in value:
        return _one_of(name, value)
    words = value.split() if isinstance(value, str) else []
    if len(words) < 2 or words[0] not in _KINDS:
        return value
    numbers = [parse_value(word) for word in words[1:]]
    return _KINDS[words[0]](name, value, numbers)


def draw(
    distribution: Distribution, name: str, seed: int, *, servers: int | None, whole: bool
) -> Any:
    """Draw a setting's value.

    Args:
        distribution: What to draw from.
        name: The setting's; each has random numbers of its own.
        seed: Of the episode or fleet.
        servers: Number of values to draw, for a setting with one per server; None: one value.
        whole: Whether the values are whole numbers.
    """
    key = np.uint64(stream_key(np.uint64(seed), crc32(name.encode())))
    coins = (uniform(key, index) for index in count())
    drawn: Any = distribution
    while isinstance(drawn, Choice) and drawn.shared:
        drawn = drawn.draw(coins, whole)
    if not isinstance(drawn, Distribution):
        return drawn
    values = tuple(_value(drawn, coins, whole) for _ in range(servers or 1))
    return values[0] if servers is None else values


def _value(distribution: Distribution, coins: Coins, whole: bool) -> Any:
    drawn: Any = distribution
    while isinstance(drawn, Distribution):
        drawn = drawn.draw(coins, whole)
    return drawn


def _range(name: str, text: Any, numbers: list[Any]) -> Range:
    logarithmic = text.split()[0] == "loguniform"
    plain = len(numbers) == 2 and all(type(number) in (int, float) for number in numbers)
    if not plain or not -math.inf < numbers[0] <= numbers[1] < math.inf:
        raise ConfigError(f"{name} must have two bounds, the lower first, got {text!r}")
    if logarithmic and numbers[0] <= 0:
        raise ConfigError(f"{name} must have bounds above 0, got {text!r}: use uniform")
    return Range(float(numbers[0]), float(numbers[1]), logarithmic)


def _choice(name: str, text: Any, options: list[Any]) -> Choice:
    return Choice(tuple(options), (1.0,) * len(options), shared=False)


def _one_of(name: str, value: Mapping[str, Any]) -> Choice:
    options = value["one_of"]
    if (
        not isinstance(options, (list, tuple))
        or not options
        or value.keys() - {"one_of", "weights"}
    ):
        raise ConfigError(
            f"{name} must have a list one_of, and weights if they are unequal, got {dict(value)}"
        )
    weights = value.get("weights", [1.0] * len(options))
    valid = isinstance(weights, (list, tuple)) and len(weights) == len(options)
    valid = valid and all(isinstance(weight, (int, float)) for weight in weights)
    if not valid or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ConfigError(
            f"{name} must have one weight >= 0 for each of one_of's {len(options)} options, with a "
            f"finite sum above 0, got {weights!r}"
        )
    parsed = tuple(parse(name, option) for option in options)
    return Choice(parsed, tuple(map(float, weights)), shared=True)


_KINDS: dict[str, Callable[[str, Any, list[Any]], Distribution]] = {
    "uniform": _range,
    "loguniform": _range,
    "choice": _choice,
}
