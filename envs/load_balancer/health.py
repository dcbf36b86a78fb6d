"""The health of servers: which fault is in force, and what it does to answers.

Indices: row of a trace, n: server.
"""

from typing import Any

import numpy as np

from grpo_gym.envs.kernels import inlined, kernel
from grpo_gym.envs.load_balancer import trace


@inlined
def fault_at(
    faults: np.ndarray, row: int, n: int, first: int, time_ms: float, ramp_ms: float
) -> tuple[float, int, float]:
    """Severity in [0, 1], kind and end (ms) of the fault in force at `time_ms`."""
    severity, kind, end = 0.0, 0, 0.0
    for f in range(first, faults.shape[2]):
        fault = faults[row, n, f]
        if time_ms < fault.start_ms:
            break
        kind, end = fault.kind, fault.end_ms
        if time_ms < end:
            severity = 1.0
        elif time_ms < end + ramp_ms:
            severity = 1.0 - (time_ms - end) / ramp_ms
        else:
            severity = 0.0
    return severity, kind, end


@inlined
def slowdown_under(severity: float, kind: int, p: Any) -> float:
    """Factor on service time and base latency."""
    return 1.0 if kind == trace.ERRORING else 1.0 + (p.slow_factor - 1.0) * severity


@inlined
def answer_under(
    constants: Any, severity: float, kind: int, refused: bool, in_flight: int, p: Any
) -> tuple[float, float]:
    """A server's latency without queueing and service (ms), and its error probability."""
    if refused:
        latency, errors = p.down_response_ms, 1.0
    else:
        latency = constants.base_latency_ms * slowdown_under(severity, kind, p)
        latency += constants.latency_per_request_ms * in_flight
        errors = constants.error_rate
        if kind == trace.DEGRADED or kind == trace.ERRORING:
            errors = errors + (p.fault_error_rate - errors) * severity
        errors = min(1.0, errors + p.error_per_request * in_flight)
    return latency, errors


@kernel
def refresh_health(
    server: Any, faults: np.ndarray, row: int, n: int, now: float, ramp_ms: float
) -> None:
    """Find the current or next fault, and the time of the next change."""
    last = faults.shape[2] - 1
    f = server.fault
    while f < last and (
        now >= faults[row, n, f].end_ms + ramp_ms or now >= faults[row, n, f + 1].start_ms
    ):
        f += 1
    fault = faults[row, n, f]
    server.fault = f
    over = fault.end_ms + ramp_ms
    server.degraded = fault.start_ms <= now < over
    server.next_change_ms = np.inf
    if now < fault.start_ms:
        server.next_change_ms = fault.start_ms
    elif now < over:
        server.next_change_ms = over
        if f < last:
            server.next_change_ms = min(over, faults[row, n, f + 1].start_ms)
