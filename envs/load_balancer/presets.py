"""The named presets of the load balancer, and how settings become a configuration."""

from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from grpo_gym.envs.arguments import check_count, check_preset
from grpo_gym.envs.load_balancer.config import (
    MOST_SERVERS,
    PER_SERVER_FIELDS,
    LoadBalancerConfig,
)
from grpo_gym.envs.load_balancer.distributions import is_law, parse
from grpo_gym.envs.load_balancer.fleets import draw_config, most_servers, random_config
from grpo_gym.envs.randomness import fold_seed
from grpo_gym.settings import (
    ConfigError,
    Natural,
    UnknownSettingError,
    check_value,
    suggest,
)


def _park_rates(num_servers: int) -> tuple[float, ...]:
    return tuple(np.linspace(0.15, 1.05, num_servers).tolist())


_FLAKY: dict[str, Any] = {
    "service_rates": (1.0, 0.8, 0.5, 1.1),
    "error_rates": 0.001,
    "mean_time_to_failure_ms": 4_000.0,
    "mean_time_to_recovery_ms": 500.0,
    "observe_size": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Heterogeneous servers that degrade and recover at random, 20 -> 180 ms, 0.1 -> 6 %.
    "flaky": _FLAKY,
    # The servers of flaky; sizes of infinite variance, so a few requests are most of the work.
    "heavy-tails": {**_FLAKY, "size_distribution": "pareto", "size_shape": 1.5},
    # The servers of flaky under traffic that comes in bursts, six times as dense as the calm.
    "bursts": {**_FLAKY, "arrival_process": "markov_modulated", "burst_ratio": 6.0},
    # The demonstration of github.com/karimluna/tiny-grpo: server 0 degrades, then recovers.
    "tiny-grpo": {
        "service_rates": (1.0, 1.0, 1.0, 1.0),
        "dynamics": "decaying_load",
        "episode_length": 3_000,
        "arrival_process": "deterministic",
        "size_distribution": "deterministic",
        "base_latency_ms": (20.0, 40.0, 80.0, 25.0),
        "latency_per_request_ms": (3.0, 2.0, 1.0, 3.5),
        "error_rates": (0.001, 0.003, 0.002, 0.05),
        "load_decay": (0.92, 0.90, 0.88, 0.90),
        "error_per_request": 0.01,
        "fault_schedule": ((0, "degraded", 1_000, 2_000),),
        "observation": "aggregate",
        "reward": "demo",
    },
    # Park's load_balance (Mao et al., NeurIPS 2019): heavy-tailed jobs, servers 1 to 7 fast.
    "park": {
        "service_rates": _park_rates(10),
        "episode_length": 1_000,
        "utilisation": 10.0 / 11.0,
        "size_distribution": "pareto",
        "size_mean": 300.0,
        "size_shape": 1.5,
        "integer_times": True,
        "observe_size": True,
        "reward": "park",
    },
    # Equal exponential servers of rate 1 and mean size 1: times read as in queueing theory.
    "mm4": {
        "service_rates": (1.0, 1.0, 1.0, 1.0),
        "episode_length": 20_000,
        "utilisation": 0.7,
        "size_mean": 1.0,
        "latency_scale_ms": 1.0,
    },
    # Fleets that differ in everything that makes servers differ; each episode draws one.
    "fleets": {
        **_FLAKY,
        "max_servers": 24,
        "service_rates": {"one_of": ["loguniform 0.4 1.6", 1.0], "weights": [0.7, 0.3]},
        "utilisation": "uniform 0.4 0.85",
        "size_distribution": "choice exponential pareto deterministic",
        "arrival_process": "choice poisson markov_modulated",
        "mean_time_to_failure_ms": "choice 2000 4000 8000",
        "observe_weights": True,
    },
    # A fast and a slow exponential server: when is the slow one worth using?
    "hetero2": {
        "service_rates": (1.0, 0.25),
        "utilisation": 0.6,
        "size_mean": 1.0,
        "latency_scale_ms": 1.0,
    },
}
"""Each is the settings of a named task."""


def make_config(
    preset: str = "flaky",
    num_servers: Any = None,
    fleet_seed: int | None = None,
    **overrides: Any,
) -> LoadBalancerConfig:
    """The settings of a preset with any of them replaced.

    Args:
        preset: A name from `PRESETS`.
        num_servers: How many servers, or a distribution; by default the preset's number, and with
            `max_servers` any number from 2 on, small ones more often. Per-server settings of the
            preset are repeated in turn (park: spread over the same range of rates).
        fleet_seed: Draw what is drawn at reset once, from this seed, so that all episodes have the
            same fleet.
        **overrides: Fields of `LoadBalancerConfig`; those of the world can be distributions.

    Raises:
        ConfigError: If a name is unknown or a value makes no sense.
    """
    check_preset(preset, PRESETS)
    laws = dict(overrides.pop("distributions", None) or {})
    if num_servers is None and "service_rates" in laws:  # they replace an example for each server
        num_servers = len(overrides.get("service_rates") or ()) or None
    num_servers = laws.pop("num_servers", num_servers)
    overrides |= laws
    _check_names(overrides, f"LoadBalancer ({preset})")
    settings: dict[str, Any] = {**PRESETS[preset], **overrides}
    if num_servers is None:
        num_servers = _usual_number(preset, settings)
    elif "max_servers" not in overrides:
        settings.pop("max_servers", None)
    law = parse("num_servers", num_servers)
    if is_law(law):
        servers, settings["num_servers"] = most_servers(law), num_servers
    else:
        servers = check_count("num_servers", num_servers, most=MOST_SERVERS)
    settings = _for_servers(preset, servers, settings, overrides)
    config = random_config(settings, servers, f"LoadBalancer ({preset})")
    if fleet_seed is None:
        return config
    fleet = draw_config(config, fold_seed(check_value("fleet_seed", fleet_seed, Natural)))
    return replace(fleet, max_servers=None)


def _check_names(overrides: Mapping[str, Any], source: str) -> None:
    """Refuse unknown settings here, where all arguments are known, for a good suggestion.

    Raises:
        UnknownSettingError: At the first of them.
    """
    known = [each.name for each in fields(LoadBalancerConfig)]
    for name in overrides:
        if name not in known:
            hint = suggest(name, [*known, "preset", "num_servers", "fleet_seed"])
            raise UnknownSettingError(
                f"{source}: {name!r} is not a setting of LoadBalancerConfig.{hint}", name
            )


def _usual_number(preset: str, settings: Mapping[str, Any]) -> Any:
    """The number of servers, or its distribution, where none is given.

    Raises:
        ConfigError: If nothing says how many there are.
    """
    rates, usual = settings["service_rates"], PRESETS[preset]["service_rates"]
    if isinstance(rates, (tuple, list)):
        if not rates:
            raise ConfigError("service_rates must name at least one server, got none")
        return len(rates)
    if is_law(parse("service_rates", rates)) and settings.get("max_servers") is not None:
        most = check_count("max_servers", settings["max_servers"], most=MOST_SERVERS)
        return f"loguniform 2 {max(most, 2)}"
    if isinstance(usual, tuple):
        return len(usual)
    raise ConfigError(f"num_servers or max_servers must come with preset {preset!r}, got neither")


def _for_servers(
    preset: str, count: int, settings: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings in which those of the preset are for another number of servers.

    Raises:
        ConfigError: If that is not the number of the given rates.
    """
    given = overrides.get("service_rates")
    if isinstance(given, (tuple, list)) and len(given) != count:
        raise ConfigError(
            f"service_rates must have num_servers = {count} entries, got {len(given)}: "
            "give one of the two"
        )
    changed = dict(settings)
    for name in PER_SERVER_FIELDS:
        if name not in overrides and isinstance(settings.get(name), tuple):
            changed[name] = tuple(islice(cycle(settings[name]), count))
    if preset == "park" and "service_rates" not in overrides:
        changed["service_rates"] = _park_rates(count)
    return changed
