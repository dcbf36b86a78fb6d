"""A configuration as the records that the kernels read."""

import math

import numpy as np

from grpo_gym.envs.load_balancer.config import FAULT_KINDS, LoadBalancerConfig
from grpo_gym.envs.load_balancer.fleets import busiest_for_faults
from grpo_gym.envs.load_balancer.records import SERVER_CONSTANTS
from grpo_gym.envs.load_balancer.trace import RECORDED, SCHEDULED_FAULT
from grpo_gym.envs.parameters import kernel_parameters
from grpo_gym.envs.recordings import read_arrivals
from grpo_gym.settings import ConfigError

_UNLIMITED = np.iinfo(np.int64).max


def server_constants(config: LoadBalancerConfig) -> np.ndarray:
    """The servers' settings, `SERVER_CONSTANTS` records, shape (server slots,)."""
    constants = np.zeros(config.server_slots, SERVER_CONSTANTS)
    servers = constants[: config.num_servers]
    servers["rate"] = config.per_server("service_rates")
    servers["workers"] = config.per_server("workers")
    servers["base_latency_ms"] = config.per_server("base_latency_ms")
    servers["latency_per_request_ms"] = config.per_server("latency_per_request_ms")
    servers["error_rate"] = config.per_server("error_rates")
    servers["load_decay"] = config.per_server("load_decay")
    servers["connection_limit"] = _UNLIMITED
    if config.connection_limit is not None:
        servers["connection_limit"] = config.per_server("connection_limit")
    weighted = config.weights is not None
    weights = config.per_server("weights") if weighted else servers["rate"] * servers["workers"]
    servers["weight"] = weights
    servers["share"] = 10.0 * weights / weights.mean()
    return constants


def parameters_of(config: LoadBalancerConfig) -> np.ndarray:
    """What the kernels read, one record, shape (1,); see `kernel_parameters`."""
    mean_service_ms = config.size_mean * config.num_servers / sum(config.service_rates)
    fault_weights = np.array([config.fault_mix.get(kind, 0.0) for kind in FAULT_KINDS])
    return kernel_parameters(
        config,
        num_servers=config.num_servers,
        max_servers=config.server_slots,
        mean_gap_ms=config.mean_gap_ms,
        timeout_ms=config.timeout_ms or math.inf,
        mean_time_to_failure_ms=config.mean_time_to_failure_ms or math.inf,
        fault_mix=fault_weights / fault_weights.sum(),
        # A tenth of a mean service time: what is shorter need not be told apart.
        feature_time_ms=0.1 * mean_service_ms,
    )


def scheduled_faults(config: LoadBalancerConfig) -> np.ndarray:
    """The fault schedule as `SCHEDULED_FAULT` records."""
    entries = [
        (server, FAULT_KINDS.index(kind), first, last)
        for server, kind, first, last in config.fault_schedule
    ]
    return np.array(entries, SCHEDULED_FAULT)


def recorded_requests(config: LoadBalancerConfig) -> np.ndarray:
    """The requests of `arrivals_csv` after its first one, `RECORDED` records; none without a file.

    Raises:
        ConfigError: If the file cannot be used, or is too short for an episode.
    """
    if config.arrivals_csv is None:
        return np.empty(0, RECORDED)
    recorded = read_arrivals(
        config.arrivals_csv,
        config.arrivals_time_column,
        config.arrivals_size_column,
        config.arrivals_time_unit,
    )
    needed = config.episode_length + 2
    if len(recorded.times_ms) < needed:
        raise ConfigError(
            f"arrivals_csv must have at least episode_length + 2 = {needed} arrivals, got "
            f"{len(recorded.times_ms)} in {config.arrivals_csv}: choose a shorter episode_length"
        )
    requests = np.full(len(recorded.times_ms) - 1, -1.0, RECORDED)
    gaps_ms = np.diff(recorded.times_ms)
    requests["gap"] = gaps_ms / gaps_ms.mean()
    if recorded.sizes is not None:
        sizes = recorded.sizes[1:]
        if not sizes.any():
            raise ConfigError(
                f"arrivals_csv must have a size above 0 after its first row: {config.arrivals_csv}"
            )
        requests["size"] = sizes / sizes.mean()
    return requests


def fault_slots(config: LoadBalancerConfig, recording: np.ndarray) -> int:
    """Slots for the faults of one server: six standard deviations above the expected number."""
    scheduled = 1 + max(np.bincount([entry[0] for entry in config.fault_schedule] or [0]))
    drawn = [_random_fault_slots(each, recording) for each in busiest_for_faults(config)]
    return int(max(scheduled, *drawn))


def _random_fault_slots(config: LoadBalancerConfig, recording: np.ndarray) -> int:
    if config.mean_time_to_failure_ms is None:
        return 0
    requests = config.episode_length + 1
    cycle_ms = config.mean_time_to_failure_ms + config.mean_time_to_recovery_ms
    expected = _longest_duration_ms(config, recording) / cycle_ms
    variance = expected + expected**2 / requests
    return int(expected + 6.0 * variance**0.5) + 4


def _longest_duration_ms(config: LoadBalancerConfig, recording: np.ndarray) -> float:
    """Mean length of an episode that falls into the least busy hours of its arrivals."""
    requests = config.episode_length + 1
    if len(recording):
        times = np.concatenate([[0.0], np.cumsum(recording["gap"])])
        return float((times[requests:] - times[:-requests]).max() * config.mean_gap_ms)
    duration_ms = requests * config.mean_gap_ms
    if config.arrival_process == "diurnal":
        return duration_ms + config.diurnal_period_ms
    if config.arrival_process == "markov_modulated":
        cycle_ms = config.mean_burst_ms + config.mean_calm_ms
        return duration_ms * (1.0 + config.mean_burst_ms / cycle_ms * (config.burst_ratio - 1.0))
    return duration_ms
