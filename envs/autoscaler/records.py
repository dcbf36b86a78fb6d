"""The memory layout of the simulator, and what numbers stand for."""

import numpy as np

EPISODE = np.dtype([("base_seed", "u8"), ("episode", "i8"), ("step", "i8"), ("trace_row", "i8")])
"""One environment: its seed, how far it is, and the row of its demand."""

CLUSTER = np.dtype(
    [
        ("running", "i8"),
        ("pending", "i8"),
        ("cooldown", "i8"),
        ("batch", "i8"),
        ("timeout", "i8"),
        ("concurrency", "i8"),
        ("share", "i8"),
        ("backlog", "f8"),
        ("retries", "f8"),
        ("dollars_per_hour", "f8"),
    ]
)
"""What a cluster carries from step to step.

Replicas that serve, and those that start up; steps until the next change of their number is
allowed; positions on the ladders of batch sizes, timeouts and concurrencies; the share of traffic
that it takes itself, in tenths; requests that wait, and those that come again in the next step;
and what it cost in the last step.
"""

METRICS = (
    "cpu_percent",
    "memory_percent",
    "network_mbit_per_s",
    "disk_io_per_s",
    "p50_latency_ms",
    "p99_latency_ms",
    "requests_per_s",
    "error_percent",
    "queue_depth",
    "replicas",
)
"""What is measured in each step, in the order of observations."""
METRIC = np.dtype([(name, "f8") for name in METRICS])

OUTCOME = np.dtype(
    [
        ("p50_latency_ms", "f8"),
        ("p99_latency_ms", "f8"),
        ("error_percent", "f8"),
        ("cpu_percent", "f8"),
        ("memory_percent", "f8"),
        ("replicas", "i8"),
        ("pending", "i8"),
        ("demand", "f8"),
        ("arrivals", "f8"),
        ("retried", "f8"),
        ("served", "f8"),
        ("failed", "f8"),
        ("timed_out", "f8"),
        ("dropped", "f8"),
        ("overflow", "f8"),
        ("backlog", "f8"),
        ("lost", "f8"),
        ("cost_dollars", "f8"),
        ("penalty_dollars", "f8"),
        ("violation", "?"),
        ("constrained", "?"),
        ("reward_cost", "f8"),
        ("reward_performance", "f8"),
        ("reward_reliability", "f8"),
        ("reward_efficiency", "f8"),
        ("reward", "f8"),
    ]
)
"""What came of the last step; all but the reward are infos of the same names."""
STATE_INFOS = (
    "p50_latency_ms",
    "p99_latency_ms",
    "error_percent",
    "cpu_percent",
    "memory_percent",
    "replicas",
    "pending",
    "demand",
    "backlog",
)
"""Infos about the last measurement, which resets report as well."""
STEP_INFOS = tuple(name for name in OUTCOME.names or () if name not in (*STATE_INFOS, "reward"))
"""Infos that only steps report."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
"""Requests that a server takes at once."""
TIMEOUTS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""How long a client waits for its answer."""
CONCURRENCIES = (1, 2, 3, 4, 6, 8, 12)
"""Servers (workers) a replica."""
NEUTRAL_CONCURRENCY = 4
"""Where a server has the speed that the settings say."""

SCALING = (-4, -2, -1, 0, 1, 2, 4)
"""Replicas that a choice of the first component adds."""
CONFIGURATION = ("batch-", "batch+", "timeout-", "timeout+", "concurrency-", "concurrency+", "none")
"""What a choice of the second component does."""
SHARES = 11
"""Choices of the third component: tenths of the traffic that stay in the own region."""

TARGETS_PERCENT = tuple(range(30, 101, 5))
"""Utilisations that an action of the kind "target" aims for."""

ACTIONS = ("scaling", "scaling_config", "flat", "multi", "replicas", "target")
SCALING_ONLY, SCALING_CONFIG, FLAT, MULTI, REPLICAS, TARGET = range(6)

REWARDS = ("chapter", "dollars")
CHAPTER, DOLLARS = range(2)

PARAMETERS = np.dtype(
    [
        ("action", "i8"),
        ("reward", "i8"),
        ("history", "i8"),
        ("observe_pending", "?"),
        ("observe_time", "?"),
        ("observe_week", "?"),
        ("observe_configuration", "?"),
        ("constraints", "?"),
        ("cooldown_steps", "i8"),
        ("largest_change_share", "f8"),
        ("largest_change_replicas", "i8"),
        ("min_replicas", "i8"),
        ("max_replicas", "i8"),
        ("initial_replicas", "i8"),
        ("initial_utilisation", "f8"),
        ("initial_batch", "i8"),
        ("initial_timeout", "i8"),
        ("initial_concurrency", "i8"),
        ("step_seconds", "f8"),
        ("batch_overhead_ms", "f8"),
        ("request_ms", "f8"),
        ("batch_wait_ms", "f8"),
        ("service_scv", "f8"),
        ("contention", "f8"),
        ("coherency", "f8"),
        ("patience_s", "f8"),
        ("max_utilisation", "f8"),
        ("error_rate", "f8"),
        ("retry_share", "f8"),
        ("mbit_per_request", "f8"),
        ("disk_io_per_request", "f8"),
        ("remote_latency_ms", "f8"),
        ("remote_dollars_per_million", "f8"),
        ("dollars_per_replica_hour", "f8"),
        ("cost_scale_dollars_per_hour", "f8"),
        ("reward_weights", "f8", (4,)),
        ("sla_p99_ms", "f8"),
        ("sla_dollars_per_step", "f8"),
        ("lost_request_dollars", "f8"),
    ]
)
"""What the kernels read; one record, made from an `AutoScalerConfig`."""
