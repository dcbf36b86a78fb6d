"""Fleets: settings that are drawn, each from the seed of an episode or of a whole environment."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations_with_replacement, product
from typing import Any

from grpo_gym.envs.load_balancer.config import (
    MOST_SERVERS,
    PER_SERVER_FIELDS,
    WHOLE_NUMBERS,
    LoadBalancerConfig,
)
from grpo_gym.envs.load_balancer.distributions import Choice, Distribution, draw, is_law, parse
from grpo_gym.settings import ConfigError, from_mapping

_FIXED = (
    "episode_length",
    "dynamics",
    "retry",
    "arrivals_csv",
    "arrivals_time_column",
    "arrivals_size_column",
    "arrivals_time_unit",
    "fault_schedule",
    "staleness_ms",
    "observation",
    "observe_size",
    "observe_weights",
    "reward",
    "infos",
    "max_servers",
    "distributions",
)
"""Settings of the task, which no episode can change."""


def random_config(settings: Mapping[str, Any], servers: int, source: str) -> LoadBalancerConfig:
    """The configuration of settings of which some are distributions.

    Args:
        settings: By field, and `num_servers` if that is drawn.
        servers: Number of servers; the largest number if it is drawn.
        source: Where the settings come from, for messages.

    Raises:
        ConfigError: If a setting cannot be drawn, or a value or a bound of a distribution makes no
            sense.
    """
    laws = {name: law for name, value in settings.items() if is_law(law := parse(name, value))}
    if not laws:
        return from_mapping(LoadBalancerConfig, settings, source)
    _check_names(laws, source)
    fixed = {name: value for name, value in settings.items() if name not in laws}
    if "num_servers" in laws:
        fixed["max_servers"] = fixed.get("max_servers") or servers
    examples = {name: _draw(law, name, 0, servers) for name, law in laws.items()}
    examples.pop("num_servers", None)
    for names in combinations_with_replacement(examples, 2):  # rules are about one or two settings
        for values in product(*(laws[name].extremes() for name in names)):
            changed = {
                name: _listed(name, laws[name], value, servers)
                for name, value in zip(names, values, strict=True)
            }
            config = from_mapping(LoadBalancerConfig, {**fixed, **examples, **changed}, source)
            if config.num_servers != servers:
                raise ConfigError(
                    f"{source}: service_rates must have lists of {servers} rates, one per server, "
                    f"got {config.num_servers}"
                )
    raw = {name: settings[name] for name in laws}
    return from_mapping(LoadBalancerConfig, {**fixed, **examples, "distributions": raw}, source)


def draw_config(config: LoadBalancerConfig, seed: int) -> LoadBalancerConfig:
    """Draw what a configuration leaves open: a fleet.

    Args:
        config: With or without distributions.
        seed: An unsigned integer of 64 bits.

    Returns:
        A configuration without distributions. It has room for as many servers as the one drawn
        from.
    """
    laws = config.laws
    if not laws:
        return config
    servers = config.num_servers
    if "num_servers" in laws:
        servers = int(draw(laws["num_servers"], "num_servers", seed, servers=None, whole=True))
    changes: dict[str, Any] = {
        name: value[:servers]
        for name in PER_SERVER_FIELDS
        if isinstance(value := getattr(config, name), tuple)
    }
    changes |= {name: _draw(law, name, seed, servers) for name, law in laws.items()}
    changes.pop("num_servers", None)
    changes["fault_schedule"] = tuple(each for each in config.fault_schedule if each[0] < servers)
    return replace(config, max_servers=config.server_slots, distributions={}, **changes)


def busiest_for_faults(config: LoadBalancerConfig) -> list[LoadBalancerConfig]:
    """Configurations of which one has the most faults that any fleet can have in an episode."""
    laws = config.laws
    servers = config.num_servers
    if "num_servers" in laws:
        servers = math.ceil(min(laws["num_servers"].extremes()))
    changes: dict[str, Any] = {"distributions": {}}
    for name, greatest in _MORE_FAULTS.items():
        if name in laws:
            extremes = laws[name].extremes()
            lists = [value if isinstance(value, (tuple, list)) else [value] for value in extremes]
            values = [value for values in lists for value in values if value is not None]
            changes[name] = (max if greatest else min)(values, default=None)
    for name in PER_SERVER_FIELDS:
        value = changes.get(name, getattr(config, name))
        if isinstance(value, tuple) or name == "service_rates":
            changes[name] = (min(value) if isinstance(value, tuple) else value,) * servers
    processes = [config.arrival_process]
    if "arrival_process" in laws:
        processes = laws["arrival_process"].extremes()
    changes["fault_schedule"] = tuple(each for each in config.fault_schedule if each[0] < servers)
    return [replace(config, **changes, arrival_process=process) for process in processes]


_MORE_FAULTS = {
    "service_rates": False,
    "workers": False,
    "utilisation": False,
    "size_mean": True,
    "mean_time_to_failure_ms": False,
    "mean_time_to_recovery_ms": False,
    "diurnal_period_ms": True,
    "burst_ratio": True,
    "mean_calm_ms": False,
    "mean_burst_ms": True,
}
"""Settings that decide how many faults an episode has: whether more of them means more."""


def _check_names(drawn: Mapping[str, Any], source: str) -> None:
    for name in drawn:
        if name in _FIXED:
            raise ConfigError(f"{source}: {name} must be the same in all episodes: give one value")


def most_servers(law: Distribution) -> int:
    """The largest number of servers that a distribution can draw.

    Raises:
        ConfigError: If it can draw something that is no number of servers.
    """
    numbers = law.extremes()
    if not all(type(each) in (int, float) and each == each // 1 for each in numbers) or not (
        1 <= min(numbers) <= max(numbers) <= MOST_SERVERS
    ):
        raise ConfigError(
            f"num_servers must have whole bounds from 1 to {MOST_SERVERS:,}, got {numbers}"
        )
    return int(max(numbers))


def _draw(law: Distribution, name: str, seed: int, servers: int) -> Any:
    """A setting's value for some servers; of a list for more, that of the first ones."""
    count = servers if name in PER_SERVER_FIELDS else None
    value = draw(law, name, seed, servers=count, whole=name in WHOLE_NUMBERS)
    if name == "service_rates" and not isinstance(value, (tuple, list)):
        return (value,) * servers  # listed, because they say how many servers there are
    return tuple(value[:servers]) if isinstance(value, (tuple, list)) else value


def _listed(name: str, law: Distribution, value: Any, servers: int) -> Any:
    """A value that a distribution can draw, one per server if each server has its own draw."""
    shared = isinstance(law, Choice) and law.shared and name != "service_rates"
    if name not in PER_SERVER_FIELDS or shared or isinstance(value, (tuple, list)):
        return value
    return (value,) * servers
