"""A real headless Chromium, driven by its DevTools protocol; needs aiohttp."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_PATIENCE_S = 20.0


class Tab:
    """One tab of a browser.

    Attributes:
        complaints: Uncaught exceptions, console errors, and what the page's policy blocked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: Any) -> None:
        self._loop = loop
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        return self._loop.run_until_complete(
            asyncio.wait_for(self._call(method, parameters), _PATIENCE_S)
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        until = time.monotonic() + _PATIENCE_S
        while not self.evaluate(expression):
            if time.monotonic() > until:
                text = self.evaluate("document.body.innerText")
                pytest.fail(f"{expression} did not become true: {text}\n{self.complaints}")
            time.sleep(0.05)

    def show(self, url: str, width: int = 1000, height: int = 800, theme: str = "light") -> None:
        """Open a page in a window of a size, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": theme}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        # The page before, whose server may be gone, must not complain any more.
        self.call("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")
        self.complaints.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        answer = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads(await self._socket.receive_str())
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            event, details = message.get("method"), message.get("params", {})
            if event == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(details["exceptionDetails"]))
            elif event == "Log.entryAdded" and details["entry"]["level"] == "error":
                self.complaints.append(details["entry"]["text"])
            elif event == "Runtime.consoleAPICalled" and details["type"] == "error":
                self.complaints.append(json.dumps(details["args"]))


@contextmanager
def open_tab() -> Iterator[Tab]:
    """A tab of a new browser; skips the test if there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = _socket_url(Path(profile) / "DevToolsActivePort")
            session = loop.run_until_complete(_session())
            try:
                socket = loop.run_until_complete(session.ws_connect(url, max_msg_size=0))
                yield Tab(loop, socket)
            finally:
                loop.run_until_complete(session.close())
        finally:
            process.terminate()
            process.wait(timeout=20)
            loop.close()


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


def _socket_url(port_file: Path) -> str:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if port_file.exists() and (lines := port_file.read_text().split()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                for target in json.load(answer):
                    if target["type"] == "page":
                        return str(target["webSocketDebuggerUrl"])
        time.sleep(0.05)
    pytest.fail("Chromium did not start")
