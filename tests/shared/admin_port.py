"""Services as the admin port sees them, and the real server in front of them; needs aiohttp."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from grpo_gym.deployment import Guard, GuardConfig
from grpo_gym.deployment.admin import AdminServer, ScalingStatus, Service, start_admin
from grpo_gym.deployment.config import QuickAlarmConfig
from grpo_gym.deployment.routing import (
    ChoiceLogStatus,
    Endpoint,
    EndpointStatus,
    Observer,
    RoutingStatus,
)
from grpo_gym.settings import ConfigError

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def make_guard() -> Guard:
    config = GuardConfig(quick_alarm=QuickAlarmConfig(), outcome_test=True)
    return Guard(lambda observation: 0, lambda observation: 0, config)


class Router:
    """A service with endpoints whose state the tests set."""

    def __init__(self, names: tuple[str, ...] = ("127.0.0.1:9001", "127.0.0.1:9002")) -> None:
        self.guard = make_guard()
        self.observers: list[Observer] = []
        self.policy = "pretrained:router"
        self.endpoints = {name: endpoint_status(name) for name in names}
        self.counts = {"picks": 0, "finished": 0, "errors": 0, "cancelled": 0}
        self.counts |= {"expired": 3, "unknown_tokens": 4}
        self.before_status: Callable[[], None] = lambda: None

    def status(self) -> RoutingStatus:
        self.before_status()
        guard = self.guard.status()
        return RoutingStatus(
            policy=self.policy,
            mode=guard.mode,
            percentage=guard.percentage,
            guard=guard,
            service_ms=20.0,
            endpoints=tuple(self.endpoints.values()),
            choice_log=ChoiceLogStatus("choices.jsonl", 5, 6, None),
            **self.counts,
        )

    def set(self, name: str, **values: Any) -> None:
        self.endpoints[name] = replace(self.endpoints[name], **values)

    def add(self, endpoint: Endpoint) -> None:
        self.endpoints[endpoint.name] = endpoint_status(endpoint.name, endpoint.weight)

    def remove(self, name: str) -> None:
        del self.endpoints[name]

    def swap_policy(self, policy: str) -> None:
        if policy == "explodes":
            raise RuntimeError("a user's policy")
        if policy != "least_connections":
            raise ConfigError(f"policy must fit, got {policy!r}")
        self.policy = policy


def endpoint_status(name: str, weight: float = 1.0) -> EndpointStatus:
    return EndpointStatus(
        name=name,
        url=f"http://{name}",
        weight=weight,
        in_flight=2,
        latency_ms=25.0,
        error_rate=0.01,
        share=0.5,
        healthy=True,
        ejected=False,
        age_s=0.5,
    )


class Scaler:
    """A service without endpoints, whose policy stays."""

    def __init__(self) -> None:
        self.guard = make_guard()
        self.problem: str | None = None

    def status(self) -> ScalingStatus:
        return ScalingStatus(
            policy="scaler.ckpt",
            guard=self.guard.status(),
            decisions=12,
            failures=2,
            replicas=7.0,
            target=None,
            age_s=15.0,
            problem=self.problem,
        )


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str
    json: Any = field(init=False)

    def __post_init__(self) -> None:
        is_json = self.headers.get("content-type", "").startswith("application/json")
        self.json = json.loads(self.text) if is_json and self.text else None


@dataclass
class Admin:
    """The real server on a free port, in a thread of its own, and a client for it."""

    server: AdminServer
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def command(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {"X-Grpo-Gym": "1"}
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body)
        return self.request(method, path, body, headers)


@contextmanager
def admin_ports() -> Iterator[Callable[..., Admin]]:
    """Opens admin ports of services; closes them at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    servers: list[AdminServer] = []

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=20)

    def start(service: Service, host: str = "127.0.0.1", port: int = 0) -> Admin:
        servers.append(wait(start_admin(service, host, port)))
        return Admin(servers[-1], loop)

    try:
        yield start
    finally:
        for server in servers:
            wait(server.close())
        wait(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def samples_of(text: str) -> Samples:
    return {
        (sample.name.removeprefix("grpo_gym_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples_at(admin: Admin) -> Samples:
    answer = admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples_of(answer.text)
