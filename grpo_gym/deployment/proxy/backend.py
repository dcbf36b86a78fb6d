"""Requests to backends: one client session, and what may go wrong with it."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from grpo_gym.deployment.proxy.body import RequestBody
from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.routing.records import Failure
from grpo_gym.settings import ConfigError

_DEFAULTS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that aiohttp would add."""


class BackendError(Exception):
    """A backend did not answer.

    Attributes:
        status: The status that tells the client: 502, or 504 after a time-out.
        sent: Whether anything may have reached the backend.
        failure: What tells the core.
    """

    def __init__(self, status: int, reason: str, sent: bool) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent
        self.failure: Failure = "timeout" if status == 504 else "error" if sent else "refused"


def open_session(config: ProxyConfig) -> aiohttp.ClientSession:
    """A client that changes nothing: no cookies, redirects, proxies or decompression of its own.

    Raises:
        ConfigError: If the file of certificates cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise ConfigError(
            f"ca_file must be a file of certificates in PEM, got {config.ca_file}: {error.strerror}"
        ) from None
    # The core bounds the requests in flight, and the proxy the connections of clients.
    connector = aiohttp.TCPConnector(
        limit=0, keepalive_timeout=config.backend_keepalive_s, ssl=context
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_DEFAULTS,
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=config.connect_timeout_s),
        max_line_size=65_536,
        max_field_size=65_536,
    )


async def send(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    headers: CIMultiDict[str],
    body: RequestBody,
    timeout_s: float,
    client_waits: Callable[[bool], None],
) -> aiohttp.ClientResponse:
    """Send a request, and wait for the head of the response.

    Args:
        session: The client.
        method: The method.
        url: The whole URL, encoded.
        headers: The headers as the backend gets them.
        body: The body.
        timeout_s: Longest wait for the response while nothing is sent.
        client_waits: Told when a wait for the client's body begins, and when it ends.

    Raises:
        BackendError: If there is no response.
        RefusedError: If the client's part of the body failed.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            data = body.data(_pausing(limit, timeout_s, client_waits))
            return await session.request(
                method, url, headers=headers, data=data, allow_redirects=False
            )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        is_late = isinstance(error, aiohttp.ConnectionTimeoutError)
        raise BackendError(504 if is_late else 502, "no connection", sent=False) from error
    except TimeoutError as error:
        raise BackendError(504, f"no response within {timeout_s:g} s", sent=True) from error
    except (aiohttp.ClientError, OSError) as error:
        if body.failure is not None:
            raise body.failure from error
        raise BackendError(502, "the connection broke off", sent=True) from error


def _pausing(
    limit: asyncio.Timeout, timeout_s: float, client_waits: Callable[[bool], None]
) -> Callable[[bool], None]:
    """What also stops the clock of a time-out while it is the client that is waited for."""
    loop = asyncio.get_running_loop()

    def waiting(begins: bool) -> None:
        client_waits(begins)
        with suppress(RuntimeError):  # the response came before the end of the body
            limit.reschedule(None if begins else loop.time() + timeout_s)

    return waiting
