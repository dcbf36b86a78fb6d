"""A real Envoy as a child process: for demonstrations, measurements and tests."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from grpo_gym.settings import ConfigError

_START_S = 30.0
_OPTIONS = ("--use-dynamic-base-id", "--log-level", "warning")


class EnvoyError(RuntimeError):
    """Envoy ended, or did not become ready; the message has what it wrote last."""


def find_envoy() -> str | None:
    """The path of the Envoy that belongs to this Python, or else of the one on PATH; None: none."""
    beside = Path(sys.executable).with_name("envoy")
    return str(beside) if beside.exists() else shutil.which("envoy")


class EnvoyProcess(AbstractContextManager["EnvoyProcess"]):
    """An Envoy that runs until `close`.

    Attributes:
        url: Where clients send their requests: the address of its first listener.
        admin_url: Its admin page.
        log: File of what it writes.
    """

    def __init__(self, config: dict[str, Any], folder: Path, workers: int = 1) -> None:
        """Start it, and wait until it is ready.

        Args:
            config: Such as `envoy_config` makes.
            folder: For its configuration and its log.
            workers: Threads that serve.

        Raises:
            ConfigError: If there is no Envoy.
            EnvoyError: If it does not start.
        """
        path = find_envoy()
        if path is None:
            raise ConfigError("there is no envoy: pip install 'grpo-gym[envoy]'")
        self.url = _url(config["static_resources"]["listeners"][0])
        self.admin_url = _url(config["admin"])
        name = self.admin_url.rpartition(":")[2]
        file, self.log = folder / f"envoy-{name}.yaml", folder / f"envoy-{name}.log"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [path, "-c", str(file), "--concurrency", str(workers), *_OPTIONS],
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches a regular expression.

        Raises:
            OSError: If Envoy does not answer.
        """
        found = json.loads(self.get(f"/stats?filter={pattern}&format=json"))["stats"]
        return {each["name"]: each["value"] for each in found if "name" in each}

    def get(self, path: str) -> str:
        """A page of the admin port.

        Raises:
            OSError: If Envoy does not answer.
        """
        with urllib.request.urlopen(f"{self.admin_url}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = self.log.read_text().strip().splitlines()[-1:]
                raise EnvoyError(f"Envoy does not start: {''.join(last)}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return self.get("/ready").strip() == "LIVE"
        except OSError:
            return False


def _url(part: dict[str, Any]) -> str:
    address = part["address"]["socket_address"]
    host = address["address"]
    written = f"[{host}]" if ":" in host else host
    return f"http://{written}:{address['port_value']}"
