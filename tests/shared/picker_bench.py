"""A picker between real backends and a real Envoy."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envoy_bench import Backend, Envoy, Loop, backends, free_port, wait_until
from grpo_gym.deployment.picker.config import EnvoyConfig, PickerConfig
from grpo_gym.deployment.picker.envoy_config import envoy_config
from grpo_gym.deployment.picker.server import PickerServer
from grpo_gym.deployment.routing import Endpoint, RoutingConfig, RoutingCore, routing_guard
from grpo_gym.deployment.routing.fleet import Fleet, Layout


class Steered:
    """A policy that takes turns, or prefers what a test says."""

    layout = Layout()
    needs_service_time = False

    def __init__(self) -> None:
        self.favourite: int | None = None
        self._turn = -1

    def check(self, count: int) -> None:
        """Any number is fine."""

    def bind(self, fleet: Fleet) -> None:
        """Nothing is remembered of the endpoints."""

    def rank(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """The favourite, or the next, comes first, and then those after it."""
        self._turn += 1
        first = self._turn if self.favourite is None else self.favourite
        return -((np.arange(len(allowed)) - first) % len(allowed)).astype(np.float64)

    def sent(self, n: int) -> Any:
        """Nothing is learnt."""

    def learn(self, memo: Any, ok: bool, latency_ms: float) -> None:
        """Nothing is learnt."""

    def log_moved(self) -> None:
        """Nothing is remembered of the log."""


class Picks:
    """Writes down what a core hears."""

    def __init__(self) -> None:
        self.picked: list[str] = []
        self.finished: list[tuple[str, bool, float]] = []
        self.cancelled: list[str] = []

    def on_pick(self, endpoint: str, *_: Any) -> None:
        """A request goes to an endpoint."""
        self.picked.append(endpoint)

    def on_finish(self, endpoint: str, arm: Any, ok: bool, latency_ms: float) -> None:
        """An endpoint has answered, or failed."""
        self.finished.append((endpoint, ok, latency_ms))

    def on_cancel(self, endpoint: str, *_: Any) -> None:
        """A client went away."""
        self.cancelled.append(endpoint)


@dataclass
class Bench:
    """Everything that a test needs."""

    backends: list[Backend]
    policy: Steered
    core: RoutingCore
    seen: Picks
    loop: Loop
    config: PickerConfig
    server: PickerServer
    envoy: Envoy

    @property
    def in_flight(self) -> int:
        """What the core believes to be in flight."""
        return sum(each.in_flight for each in self.core.status().endpoints)

    def wait_until_idle(self) -> None:
        """Wait until everything is finished: outcomes come a little later than answers."""
        wait_until(lambda: self.in_flight == 0)

    def assert_no_failures(self) -> None:
        """Envoy's counters: the picker answered everything."""
        name = self.config.mode
        if name == "ext_proc":
            for counter in ("spurious_msgs_received", "streams_failed", "message_timeouts"):
                assert self.envoy.stat(f"ext_proc.{counter}") == 0
            assert self.envoy.stat("ext_proc.rejected_header_mutations") == 0
        else:
            assert self.envoy.stat("ext_authz.error") == 0
            assert self.envoy.stat("logs_dropped") == 0
        assert self.envoy.stat(f"{name}.failure_mode_allowed") == 0


Start = Callable[..., Bench]


@contextmanager
def starter(folder: Path) -> Iterator[Start]:
    """A function that starts a bench of a mode; at the end, everything stops."""
    with ExitStack() as stack:

        def start(
            mode: str = "ext_proc",
            count: int = 3,
            timeout_ms: float = 10_000.0,
            change: Callable[[dict[str, Any]], None] = lambda config: None,
            max_in_flight: int | None = None,
            **settings: Any,
        ) -> Bench:
            servers = stack.enter_context(backends(count))
            endpoints = [
                Endpoint.from_url(f"http://{each.name}", max_in_flight=max_in_flight)
                for each in servers
            ]
            policy, seen = Steered(), Picks()
            guard = routing_guard(mode="full", holdout_percentage=0.0)
            core = stack.enter_context(RoutingCore(endpoints, policy, RoutingConfig(guard=guard)))
            core.observers.append(seen)
            loop = Loop()
            stack.callback(loop.close)
            config = PickerConfig(
                mode=mode,  # type: ignore[arg-type]
                port=free_port(),
                http_port=free_port(),
                eds_file=folder / "endpoints.json",
                **{"drain_s": 0.0, **settings},
            )
            server = loop.run(_started(core, config))
            stack.callback(lambda: loop.run(server.close()))
            written = envoy_config(
                config,
                EnvoyConfig(
                    listen_host="127.0.0.1",
                    listen_port=free_port(),
                    envoy_admin_port=free_port(),
                    pick_timeout_ms=timeout_ms,
                ),
                endpoints,
            )
            change(written)
            envoy = Envoy(written, folder)
            stack.callback(envoy.close)
            return Bench(servers, policy, core, seen, loop, config, server, envoy)

        yield start


def never_eject(config: dict[str, Any]) -> None:
    """Change an Envoy configuration: a backend that fails stays among Envoy's choices."""
    (pool,) = [each for each in config["static_resources"]["clusters"] if each["name"] == "pool"]
    del pool["outlier_detection"]


async def _started(core: RoutingCore, config: PickerConfig) -> PickerServer:
    server = PickerServer(core, config)
    await server.start()
    return server
