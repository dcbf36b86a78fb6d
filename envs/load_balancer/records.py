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
        ("timeouts", "i8"),
        ("rejections", "i8"),
        ("retries", "i8"),
        ("seed", "u8"),
        ("balancer", "i4"),
        ("next_retry", "i4"),
    ]
)
"""An episode: totals, the balancer that the waiting request came to, and the request to be retried
next, of those that failed."""

SERVER = np.dtype(
    [
        ("free_at_ms", "f8"),
        ("next_departure_ms", "f8"),
        ("oldest_arrival_ms", "f8"),
        ("last_departure_ms", "f8"),
        ("latency_ms", "f8"),
        ("service_ms", "f8"),
        ("pace", "f8"),
        ("mean_size", "f8"),
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
        ("server", "i4"),
        ("balancer", "i4"),
        ("in_flight", "i4"),
        ("error", "i2"),
        ("timed_out", "i2"),
    ]
)
"""A routed request, by the step that routed it, or one more episode's length later for a retry.

`next` links the requests in flight at one server in the order in which they leave, and those to be
retried in the order of time. `in_flight` is the number at the server when the request arrived,
itself included. Slots of steps to come hold what an earlier episode left; `server` is -1 in those
of retries that did not happen."""

SERVER_CONSTANTS = np.dtype(
    [
        ("rate", "f8"),
        ("weight", "f8"),
        ("share", "f8"),
        ("base_latency_ms", "f8"),
        ("latency_per_request_ms", "f8"),
        ("error_rate", "f8"),
        ("load_decay", "f8"),
        ("workers", "i8"),
        ("connection_limit", "i8"),
    ]
)
"""A server's settings; `share` is its weight in tenths of the mean weight, as it is observed."""

OUTCOME = np.dtype(
    [
        ("reward", "f8"),
        ("response_time_ms", "f8"),
        ("wait_ms", "f8"),
        ("error_probability", "f8"),
        ("retries", "i8"),
        ("failures", "i8"),
        ("error", "?"),
        ("degraded", "?"),
        ("done", "?"),
        ("timed_out", "?"),
        ("rejected", "?"),
        ("unused", "u1", (3,)),
    ]
)
"""What came of the request just routed: `degraded` is the health of the server it went to. With
retries, `response_time_ms`, `retries` and `failures` (requests that failed for good) are those of
everything sent in this step."""

ESTIMATE = np.dtype([("reward", "f8"), ("response_time_ms", "f8")])
"""What one server would give to the waiting request."""

# Choices of `LoadBalancerConfig` by number, in the order of their `Literal`.
QUEUE, DECAYING_LOAD = range(2)
PER_SERVER, AGGREGATE = range(2)
LATENCY, DEMO, PARK = range(3)

NO_REQUEST = -1
