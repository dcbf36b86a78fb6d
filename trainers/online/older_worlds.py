"""The episode in a checkpoint of version 0.1.0, which keeps less of requests and servers."""

from collections.abc import Mapping

import numpy as np

from grpo_gym.envs.load_balancer.records import SERVER
from grpo_gym.envs.load_balancer.simulator import LoadBalancerSimulator

_EPISODE = np.dtype(
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
_SERVER = np.dtype(
    [
        ("peak_latency_ms" if name == "mean_size" else name, SERVER[name])
        for name in (
            *("free_at_ms", "next_departure_ms", "oldest_arrival_ms", "last_departure_ms"),
            *("latency_ms", "mean_size", "service_ms", "pace", "work", "error_rate"),
            *("observed_at_ms", "next_refresh_ms", "next_change_ms", "in_flight", "routed"),
            *("head", "tail", "fault", "consecutive_errors", "degraded", "unused"),
        )
    ]
)
_REQUEST = np.dtype(
    [
        ("arrival_ms", "f8"),
        ("departure_ms", "f8"),
        ("response_ms", "f8"),
        ("size", "f4"),
        ("next", "i4"),
        ("error", "i4"),
    ]
)
_OUTCOME = np.dtype(
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
_LAYOUT = {
    "episodes": _EPISODE,
    "servers": _SERVER,
    "metrics": _SERVER,
    "requests": _REQUEST,
    "outcomes": _OUTCOME,
}


def is_older(world: Mapping[str, bytes]) -> bool:
    """Whether a world has the layout of 0.1.0."""
    return len(world.get("episodes", b"")) == _EPISODE.itemsize


def upgraded(world: Mapping[str, bytes], simulator: LoadBalancerSimulator) -> dict[str, np.ndarray]:
    """The state of today that a world of 0.1.0 stands for.

    The trace is drawn again from its seed. Of requests that were answered, the servers are unknown.

    Args:
        world: Arrays as bytes, by name.
        simulator: Of one environment with the same settings; it is reset.

    Raises:
        KeyError: If an array is missing.
        ValueError: If one does not fit.
    """
    older = {name: np.frombuffer(world[name], layout) for name, layout in _LAYOUT.items()}
    episode = older["episodes"][0]
    simulator.seed(older["episodes"]["base_seed"])
    simulator.episodes["episode"] = max(int(episode["episode"]), 0) - 1
    simulator.reset()
    state = simulator.get_state()
    for name, found in older.items():
        target = state[name]
        for field in set(found.dtype.names or ()) & set(target.dtype.names or ()):
            target[field] = found[field].reshape(target[field].shape)
    # Another processor, or Python, may round the trace otherwise: its times are those that count.
    now = state["arrivals"]["arrival_ms"][0, state["episodes"]["step"]]
    if np.allclose(now, state["episodes"]["now_ms"], rtol=1e-9, atol=0.0):
        state["episodes"]["now_ms"] = now
    state["requests"]["server"] = -1
    slots = state["requests"].shape[1]
    for n, server in enumerate(state["servers"][0]):
        slot = int(server["head"])
        for _ in range(min(int(server["in_flight"]), slots)):
            if not 0 <= slot < slots:
                raise ValueError("a queue leads out of its requests")
            state["requests"]["server"][0, slot] = n
            slot = int(state["requests"]["next"][0, slot])
    return state
