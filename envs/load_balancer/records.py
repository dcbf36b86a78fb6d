"""The memory layout of the simulator: one NumPy record per environment, server and request.

Records keep what is used together side by side, and let kernels read `server.in_flight`.
"""

import numpy as np

EPISODE = np.dtype(
    [
        ("step", "i8"),
        ("now_ms", "f8"),
        ("trace_row", "i8"),
        ("base_seed", "u8"),
        ("episode", "i8"),
        ("response_total_ms", "f8"),
        ("errors", "i8"),
    ]
)
SERVER = np.dtype(
    [
        ("free_at_ms", "f8"),
        ("next_departure_ms", "f8"),
        ("oldest_arrival_ms", "f8"),
        ("last_departure_ms", "f8"),
        ("latency_ms", "f8"),
        ("peak_latency_ms", "f8"),
        ("service_ms", "f8"),
        ("pace", "f8"),
        ("work", "f8"),
        ("error_rate", "f8"),
        ("observed_at_ms", "f8"),
        ("next_refresh_ms", "f8"),
        ("next_change_ms", "f8"),
        ("in_flight", "i4"),
        ("routed", "i4"),
        ("head", "i4"),
        ("tail", "i4"),
        ("fault", "i2"),
        ("consecutive_errors", "i2"),
        ("degraded", "?"),
        ("unused", "u1", (3,)),
    ]
)
"""A server: its queue, what the balancer could observe of it, and its health; two cache lines.

The unused bytes are a field, because NumPy copies fields and leaves gaps as they happen to be."""

REQUEST = np.dtype(
    [
        ("arrival_ms", "f8"),
        ("departure_ms", "f8"),
        ("response_ms", "f8"),
        ("size", "f4"),
        ("next", "i4"),
        ("error", "i4"),
    ]
)
"""A routed request. `next` links the requests waiting at one server, oldest first."""

SERVER_CONSTANTS = np.dtype(
    [
        ("rate", "f8"),
        ("base_latency_ms", "f8"),
        ("latency_per_request_ms", "f8"),
        ("error_rate", "f8"),
        ("load_decay", "f8"),
    ]
)
OUTCOME = np.dtype(
    [
        ("reward", "f8"),
        ("response_time_ms", "f8"),
        ("wait_ms", "f8"),
        ("error_probability", "f8"),
        ("error", "?"),
        ("degraded", "?"),
        ("done", "?"),
    ]
)
"""What came of the request just routed; `degraded` is the health of the server it went to."""

ESTIMATE = np.dtype([("reward", "f8"), ("response_time_ms", "f8")])
"""What one server would give to the waiting request."""

# Choices of `LoadBalancerConfig` by number, in the order of their `Literal`.
QUEUE, DECAYING_LOAD = range(2)
PER_SERVER, AGGREGATE = range(2)
LATENCY, DEMO, PARK = range(3)

NO_REQUEST = -1
