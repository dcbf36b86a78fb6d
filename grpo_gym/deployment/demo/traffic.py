"""The demonstration itself: backends, one contender after the other, and what clients saw."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp

from grpo_gym.deployment.demo import backend
from grpo_gym.deployment.demo.config import PHASES, TrafficConfig
from grpo_gym.deployment.demo.contenders import Contender, contenders, running
from grpo_gym.deployment.demo.load import Requests, send_all
from grpo_gym.deployment.demo.processes import Process, free_ports
from grpo_gym.deployment.routing import Endpoint

_FAILING = 1
"""Which backend fails, counted from 0."""
_HEAD_START_S = 0.2
"""Time between the end of preparations and the first request."""

Runs = dict[Contender, list[Requests]]
Progress = Callable[[Contender, int], None]


async def run_traffic(config: TrafficConfig, progress: Progress) -> Runs:
    """Play all runs of all contenders, one at a time.

    Args:
        config: The load.
        progress: Called before each run of a contender.

    Raises:
        DemoError: If a process does not start.
    """
    runs: Runs = {contender: [] for contender in contenders(config)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        backends = Backends(config, stack)
        await backends.start()
        for run in range(config.runs):
            for contender, results in runs.items():
                progress(contender, run)
                async with running(contender, backends.endpoints, Path(folder)) as url:
                    results.append(await _play(url, config, config.seed + run, backends))
                await backends.recover()
    return runs


async def _play(url: str, config: TrafficConfig, seed: int, backends: "Backends") -> Requests:
    """One run: the load, while one backend fails and comes back."""
    start_s = time.perf_counter() + _HEAD_START_S + config.warmup_seconds
    sending = asyncio.create_task(send_all(url, config, seed, start_s))
    try:
        for number, phase in enumerate(PHASES):
            begin_s = start_s + number * config.phase_seconds
            await asyncio.sleep(max(0.0, begin_s - time.perf_counter()))
            await backends.enter(phase)
        return await sending
    finally:
        sending.cancel()


class Backends:
    """The backends, as processes."""

    def __init__(self, config: TrafficConfig, stack: ExitStack) -> None:
        """Choose their ports; `stack` ends them."""
        ports = free_ports(len(config.service_ms))
        self._ports = ports
        self._config = config
        self._stack = stack
        self._processes: list[Process] = []
        self.endpoints: Sequence[Endpoint] = [
            Endpoint.from_url(f"http://127.0.0.1:{port}", workers=config.workers) for port in ports
        ]

    async def start(self) -> None:
        """Start all of them."""
        self._processes = [self._launch(number) for number in range(len(self._ports))]
        for process, port in zip(self._processes, self._ports, strict=True):
            await process.listens(port)

    async def enter(self, phase: str) -> None:
        """Let the second backend do what it does in a phase."""
        if phase == "dead":
            self._processes[_FAILING].kill()
        elif phase == "back":
            await self.recover()
        else:
            await self._set_mode(phase)

    async def recover(self) -> None:
        """See to it that the second backend runs, and is well."""
        process = self._processes[_FAILING]
        if not process.is_running:
            self._processes[_FAILING] = self._launch(_FAILING)
            await self._processes[_FAILING].listens(self._ports[_FAILING])
        await self._set_mode("well")

    def _launch(self, number: int) -> Process:
        command = [
            sys.executable, "-P", str(Path(backend.__file__)),
            "--port", str(self._ports[number]),
            "--mean-ms", str(self._config.service_ms[number]),
            "--workers", str(self._config.workers),
        ]  # fmt: skip
        return self._stack.enter_context(Process(command))

    async def _set_mode(self, mode: str) -> None:
        async with aiohttp.ClientSession() as session:
            url = f"{self.endpoints[_FAILING].url}/mode/{mode}"
            async with session.post(url) as response:
                response.raise_for_status()
