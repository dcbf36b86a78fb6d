"""A configuration as the records that the kernels read."""

import numpy as np

from grpo_gym.envs.load_balancer.presets import FAULT_KINDS, LoadBalancerConfig
from grpo_gym.envs.load_balancer.records import SERVER_CONSTANTS
from grpo_gym.envs.load_balancer.trace import SCHEDULED_FAULT
from grpo_gym.envs.parameters import kernel_parameters


def server_constants(config: LoadBalancerConfig) -> np.ndarray:
    """The servers' settings, `SERVER_CONSTANTS` records, shape (N,)."""
    constants = np.zeros(config.num_servers, SERVER_CONSTANTS)
    constants["rate"] = config.per_server("service_rates")
    constants["base_latency_ms"] = config.per_server("base_latency_ms")
    constants["latency_per_request_ms"] = config.per_server("latency_per_request_ms")
    constants["error_rate"] = config.per_server("error_rates")
    constants["load_decay"] = config.per_server("load_decay")
    return constants


def parameters_of(config: LoadBalancerConfig) -> np.ndarray:
    """What the kernels read, one record, shape (1,); see `kernel_parameters`."""
    mean_service_ms = config.size_mean * config.num_servers / sum(config.service_rates)
    fault_weights = np.array([config.fault_mix.get(kind, 0.0) for kind in FAULT_KINDS])
    return kernel_parameters(
        config,
        mean_gap_ms=config.mean_gap_ms,
        mean_time_to_failure_ms=config.mean_time_to_failure_ms or np.inf,
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


def fault_slots(config: LoadBalancerConfig) -> int:
    """Slots for the faults of one server: six standard deviations above the expected number."""
    slots = 1 + max(np.bincount([entry[0] for entry in config.fault_schedule] or [0]))
    if config.mean_time_to_failure_ms is not None:
        requests = config.episode_length + 1
        cycle_ms = config.mean_time_to_failure_ms + config.mean_time_to_recovery_ms
        expected = _longest_duration_ms(config) / cycle_ms
        variance = expected + expected**2 / requests
        slots = max(slots, int(expected + 6.0 * variance**0.5) + 4)
    return int(slots)


def _longest_duration_ms(config: LoadBalancerConfig) -> float:
    """Mean length of an episode that falls into the least busy hours of its arrivals."""
    duration_ms = (config.episode_length + 1) * config.mean_gap_ms
    if config.arrival_process == "diurnal":
        return duration_ms + config.diurnal_period_ms
    if config.arrival_process == "markov_modulated":
        cycle_ms = config.mean_burst_ms + config.mean_calm_ms
        return duration_ms * (1.0 + config.mean_burst_ms / cycle_ms * (config.burst_ratio - 1.0))
    return duration_ms
