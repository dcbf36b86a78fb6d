"""Fleets: settings that are drawn, each from the seed of an episode or of a whole environment."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from grpo_gym.envs.load_balancer.config import (
    PER_SERVER_FIELDS,
    WHOLE_NUMBERS,
    LoadBalancerConfig,
)
from grpo_gym.envs.load_balancer.distributions import Distribution, draw, is_law, parse
from grpo_gym.settings import ConfigError, from_mapping, suggest

_FIXED = (
    "episode_length",
    "dynamics",
    "num_balancers",
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


def random_config(
    settings: Mapping[str, Any], servers: int | None, source: str
) -> LoadBalancerConfig:
    """The configuration of settings of which some are distributions.

    Args:
        settings: By field, and `num_servers` if that is drawn.
        servers: Number of servers, if it is not drawn.
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
    if servers is None:
        servers = _most_servers(laws["num_servers"], source)
        fixed["max_servers"] = fixed.get("max_servers") or servers
    examples = {name: _draw(law, name, 0, servers) for name, law in laws.items()}
    examples.pop("num_servers", None)
    for name in examples:
        for value in laws[name].extremes():
            changed = {**examples, name: _per_server(name, value, servers)}
            from_mapping(LoadBalancerConfig, {**fixed, **changed}, source)
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
        servers = _draw(laws["num_servers"], "num_servers", seed, None)
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
            values = [value for value in laws[name].extremes() if value is not None]
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
    known = [each.name for each in fields(LoadBalancerConfig)] + ["num_servers"]  # type: ignore[arg-type]
    for name in drawn:
        if name not in known:
            raise ConfigError(f"{source}: there is no setting {name!r}.{suggest(name, known)}")
        if name in _FIXED:
            raise ConfigError(f"{source}: {name} must be the same in all episodes: give one value")


def _most_servers(law: Distribution, source: str) -> int:
    numbers = law.extremes()
    whole = all(isinstance(each, (int, float)) and each == int(each) >= 1 for each in numbers)
    if not whole:
        raise ConfigError(f"{source}: num_servers must have whole bounds from 1 on, got {numbers}")
    return int(max(numbers))


def _draw(law: Distribution, name: str, seed: int, servers: int | None) -> Any:
    count = servers if name in PER_SERVER_FIELDS else None
    value = draw(law, name, seed, servers=count, whole=name in WHOLE_NUMBERS)
    return _per_server(name, value, servers)


def _per_server(name: str, value: Any, servers: int | None) -> Any:
    """A setting's value; the rates are always listed, because they say how many servers are."""
    if name != "service_rates" or isinstance(value, tuple) or servers is None:
        return value
    return (value,) * servers
