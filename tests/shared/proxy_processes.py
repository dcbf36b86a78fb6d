"""Real processes around a proxy for its tests: backends, `grpo-gym route`, and clients."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BACKEND = Path(__file__).with_name("proxy_backend.py")
_START_S = 120.0


@dataclass
class Process:
    """A process whose lines of output are kept."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def line(self, pattern: str) -> re.Match[str]:
        """The next line of standard output that matches."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line like {pattern!r} in {''.join(self.lines)}")

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self, wait_s: float = 60.0) -> int:
        """Wait for its end, and return the exit status."""
        output, _ = self.popen.communicate(timeout=wait_s)
        self.lines.append(output)
        return self.popen.returncode

    @property
    def output(self) -> str:
        return "".join(self.lines)


@contextmanager
def process(*arguments: str | Path) -> Iterator[Process]:
    """A Python process, killed at the end unless it has ended."""
    popen = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        yield Process(popen)
    finally:
        popen.kill()
        popen.communicate()


@contextmanager
def backend(mean_ms: float = 2.0, port: int = 0) -> Iterator[tuple[Process, int]]:
    """A backend and its port."""
    with process(_BACKEND, str(port), str(mean_ms)) as started:
        yield started, int(started.line(r"^(\d+)$")[1])


@dataclass
class Route:
    """A running `grpo-gym route`."""

    process: Process
    port: int
    admin_port: int

    def get(self, path: str) -> Any:
        """What the admin port says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as got:
            return json.load(got)

    def command(self, method: str, path: str, **body: Any) -> Any:
        """What the admin port answers to a command."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin_port}{path}",
            method=method,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Grpo-Gym": "1"},
        )
        with urllib.request.urlopen(request, timeout=30) as got:
            return json.load(got)

    def in_flight(self) -> int:
        return sum(each["in_flight"] for each in self.get("/status")["endpoints"])

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 10.0
        while self.in_flight():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.popen.pid}/fd"))

    def memory_mb(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.popen.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def terminate(self) -> int:
        """Ask it to end, and return the exit status."""
        self.process.send(signal.SIGTERM)
        return self.process.end()


@contextmanager
def route(*options: str | Path) -> Iterator[Route]:
    """A `grpo-gym route` at free ports."""
    with process(
        "-m", "grpo_gym", "route", "--port", "0", "--admin-port", "0", *options
    ) as started:
        port = int(started.line(r"^listening at http://[^:]+:(\d+)")[1])
        admin_port = int(started.line(r"^admin port: http://[^:]+:(\d+)")[1])
        yield Route(started, port, admin_port)


@contextmanager
def routed(count: int, *options: str | Path) -> Iterator[tuple[Route, list[tuple[Process, int]]]]:
    """A proxy in front of some backends."""
    with ExitStack() as stack:
        backends = [stack.enter_context(backend()) for _ in range(count)]
        urls = [f"http://127.0.0.1:{port}" for _, port in backends]
        yield stack.enter_context(route("--backend", *urls, *options)), backends


@dataclass
class Load:
    """Clients that send requests one after another, each on a connection of its own.

    Attributes:
        answers: Their number, by method and status.
        lost: Requests that were sent and not answered, by method.
    """

    port: int
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    async def run(self, connections: int, methods: Sequence[str] = ("GET",)) -> None:
        """Send until `stopping`, or until the server ends the connections."""
        clients = (self._client(methods[i % len(methods)], i) for i in range(connections))
        await asyncio.gather(*clients)

    async def _client(self, method: str, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = b"a" * (number % 7)
        request = b"%s /%d HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s" % (
            method.encode(),
            number,
            len(body),
            body,
        )
        expected = b"%s /%d %d" % (method.encode(), number, len(body))
        try:
            while not self.stopping:
                writer.write(request)
                head, answer = await self._answer(reader)
                status = int(head.split(b" ", 2)[1])
                assert status != 200 or answer == expected, (answer, expected)
                self.answers[method, status] += 1
                if b"connection: close" in head.lower():
                    break
        except (OSError, asyncio.IncompleteReadError):
            self.lost[method] += 1
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        async with asyncio.timeout(30.0):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            return head, await reader.readexactly(int(length[1]) if length else 0)
