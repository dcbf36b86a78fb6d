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

METRIC_RANGES = {
    "cpu_percent": (0.0, 100.0),
    "memory_percent": (0.0, 100.0),
    "network_mbit_per_s": (0.0, 10_000.0),
    "disk_io_per_s": (0.0, 100_000.0),
    "p50_latency_ms": (0.0, 1_000.0),
    "p99_latency_ms": (0.0, 10_000.0),
    "requests_per_s": (0.0, 100_000.0),
    "error_percent": (0.0, 100.0),
    "queue_depth": (0.0, 10_000.0),
    "replicas": (0.0, 100.0),
}
"""What is measured in each step, in the order of observations: the values observed as -1 and 1."""
METRICS = tuple(METRIC_RANGES)
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

# Choices of `AutoScalerConfig` by number, in the order of their `Literal`.
SCALING_ONLY, SCALING_CONFIG, FLAT, MULTI, REPLICAS, TARGET = range(6)
CHAPTER, DOLLARS = range(2)
