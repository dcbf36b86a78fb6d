"""The named presets of the load balancer, and how settings become a configuration."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from grpo_gym.envs.arguments import check_count, check_preset
from grpo_gym.envs.load_balancer.config import PER_SERVER_FIELDS, LoadBalancerConfig
from grpo_gym.envs.load_balancer.distributions import is_law, parse
from grpo_gym.envs.load_balancer.fleets import draw_config, random_config
from grpo_gym.envs.randomness import fold_seed
from grpo_gym.settings import ConfigError, Natural, check_value


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
    settings: dict[str, Any] = {**PRESETS[preset], **overrides}
    servers = _number_of_servers(preset, num_servers, settings, overrides)
    if isinstance(servers, int):
        settings = _for_servers(preset, servers, settings, overrides)
        if num_servers is not None and "max_servers" not in overrides:
            settings.pop("max_servers", None)
        config = random_config(settings, servers, f"LoadBalancer ({preset})")
    else:
        settings["num_servers"] = servers
        config = random_config(settings, None, f"LoadBalancer ({preset})")
    if fleet_seed is None:
        return config
    fleet = draw_config(config, fold_seed(check_value("fleet_seed", fleet_seed, Natural)))
    return replace(fleet, max_servers=None)


def _number_of_servers(
    preset: str, num_servers: Any, settings: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Any:
    """The number of servers, an int, or its distribution.

    Raises:
        ConfigError: If it is not a number of at least 1, or not that of the given rates.
    """
    rates, most = settings["service_rates"], settings.get("max_servers")
    listed = len(rates) if isinstance(rates, (tuple, list)) else None
    if is_law(parse("num_servers", num_servers)):
        return num_servers
    if num_servers is None:
        if is_law(parse("service_rates", rates)) and most is not None:
            return f"loguniform 2 {max(check_count('max_servers', most), 2)}"
        usual = PRESETS[preset]["service_rates"]
        return len(usual) if listed is None and isinstance(usual, tuple) else listed or 0
    count = check_count("num_servers", num_servers)
    if "service_rates" in overrides and listed not in (None, count):
        raise ConfigError(
            f"service_rates must have num_servers = {count} entries, got {listed}: "
            "give one of the two"
        )
    return count


def _for_servers(
    preset: str, count: int, settings: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings in which those of the preset are for another number of servers."""
    changed = dict(settings)
    for name in PER_SERVER_FIELDS:
        if name not in overrides and isinstance(settings.get(name), tuple):
            changed[name] = tuple(islice(cycle(settings[name]), count))
    if preset == "park" and "service_rates" not in overrides:
        changed["service_rates"] = _park_rates(count)
    return changed
