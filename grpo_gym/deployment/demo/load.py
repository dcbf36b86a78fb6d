"""Open-loop load: requests go out when they are due, whether or not earlier ones were answered.

Latency counts from the moment at which a request was due, so a client that is late, or waits, hides
nothing (no "coordinated omission").

Shapes: R requests.
"""

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import numpy as np

from grpo_gym.deployment.demo.config import TrafficConfig


@dataclass
class Requests:
    """The requests of a run, in the order in which they were due.

    Attributes:
        due_s: When, since the end of the warm-up, shape (R,); below 0 in it.
        latency_ms: Until the answer, or until the client gave up, shape (R,).
        ok: Whether the answer was good, shape (R,), bool.
        lag_ms: How late the client sent it, shape (R,).
    """

    due_s: np.ndarray
    latency_ms: np.ndarray
    ok: np.ndarray
    lag_ms: np.ndarray


def arrivals(config: TrafficConfig, seed: int) -> np.ndarray:
    """Poisson arrivals of a run, in s since the end of the warm-up, shape (R,)."""
    length_s = config.warmup_seconds + config.seconds
    generator = np.random.default_rng(seed)
    count = int(config.rate * length_s)
    most = count + int(10.0 * count**0.5) + 10
    times = np.cumsum(generator.exponential(1.0 / config.rate, most))
    return times[times < length_s] - config.warmup_seconds


async def send_all(url: str, config: TrafficConfig, seed: int, start_s: float) -> Requests:
    """Send the requests of a run and wait for all answers.

    Args:
        url: Where to.
        config: The load.
        seed: Of arrivals and service times.
        start_s: When the warm-up ends, by `time.perf_counter`.
    """
    due_s = arrivals(config, seed)
    count = len(due_s)
    requests = Requests(due_s, np.full(count, np.nan), np.zeros(count, np.bool_), np.zeros(count))
    timeout = aiohttp.ClientTimeout(total=config.timeout_seconds)
    connector = aiohttp.TCPConnector(limit=0)

    async def send(number: int) -> None:
        due = start_s + due_s[number]
        requests.lag_ms[number] = 1_000.0 * (time.perf_counter() - due)
        try:
            async with session.get(f"{url}/{seed}/{number}") as response:
                await response.read()
                requests.ok[number] = response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass  # an error, which `ok` says
        requests.latency_ms[number] = 1_000.0 * (time.perf_counter() - due)

    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(count):
            wait_s = start_s + due_s[number] - time.perf_counter()
            if wait_s > 0.0:
                await asyncio.sleep(wait_s)
            tasks.create_task(send(number))
    return requests
