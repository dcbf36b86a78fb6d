"""Readings from Prometheus' HTTP API: complete and fresh, or an error.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/, instant queries.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from grpo_gym.deployment.scaler.settings import ScalerSettings

_LARGEST_ANSWER = 1_000_000
"""Bytes of an answer that has one series."""
_LONGEST_REASON = 200


class MetricsError(Exception):
    """A measurement is missing or stale; the message says which, and why."""


class Prometheus:
    """Asks Prometheus for all measurements at once."""

    def __init__(
        self,
        settings: ScalerSettings,
        queries: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Choose what is asked; a connection is made at the first reading.

        Args:
            settings: Where Prometheus is, and what its answers may be.
            queries: PromQL by measurement.
            clock: Returns seconds since 1970.
        """
        self._settings = settings
        self._url = settings.prometheus.rstrip("/") + "/api/v1/query"
        self._queries = dict(queries)
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> dict[str, float]:
        """All measurements in their units.

        Raises:
            MetricsError: If one is missing or stale.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession()
        tasks = [asyncio.create_task(self._value(self._session, each)) for each in self._queries]
        try:
            async with asyncio.timeout(self._settings.query_seconds):
                values = await asyncio.gather(*tasks)
        except TimeoutError:
            raise MetricsError(
                f"Prometheus has not answered within {self._settings.query_seconds:g} s"
            ) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return dict(zip(self._queries, values, strict=True))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _value(self, session: aiohttp.ClientSession, name: str) -> float:
        """The value of one query.

        Raises:
            MetricsError: If there is none, or it is stale.
        """
        try:
            time_s, value = _sample(await self._answer(session, self._queries[name]))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise MetricsError(f"{name}: {reason[:_LONGEST_REASON]}") from None
        age_s = self._clock() - time_s
        if not abs(age_s) <= self._settings.stale_seconds:
            raise MetricsError(
                f"{name}: its sample must be at most {self._settings.stale_seconds:g} s from now, "
                f"got {age_s:.0f} s ago"
            )
        return value

    async def _answer(self, session: aiohttp.ClientSession, query: str) -> bytes:
        settings, headers = self._settings, dict(self._settings.headers)
        if settings.bearer_token_file is not None:
            token = Path(settings.bearer_token_file).read_text().strip()
            headers["Authorization"] = f"Bearer {token}"
        # Redirects are not followed, so that the token goes nowhere else.
        async with session.get(
            self._url, params={"query": query}, headers=headers, allow_redirects=False
        ) as response:
            body = await response.content.read(_LARGEST_ANSWER + 1)
            while len(body) <= _LARGEST_ANSWER and (more := await response.content.readany()):
                body += more
            if len(body) > _LARGEST_ANSWER:
                raise ValueError(f"the answer has more than {_LARGEST_ANSWER:,} bytes")
            if response.status != 200:
                raise ValueError(f"HTTP status {response.status}: {_error_of(body)}")
            return body


def _sample(body: bytes) -> tuple[float, float]:
    """Time, in seconds since 1970, and value of the one sample in an answer.

    Raises:
        ValueError: If it is not an answer with one sample.
    """
    try:
        answer = json.loads(body)
        if answer["status"] != "success":
            raise ValueError(f"{answer['status']}: {answer.get('error')}")
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind not in ("vector", "scalar"):
            raise ValueError(f"a query must give a vector or a scalar, got a {kind}")
        if kind == "vector":
            if len(result) != 1:
                raise ValueError(
                    f"a query must give one series, got {len(result)}"
                    + (": aggregate them, as sum(...) does" if result else "")
                )
            result = result[0]["value"]
        time_s, text = result
        return float(time_s), float(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError("the answer is not JSON") from None
    except (AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"the answer is not one of Prometheus ({error!r})") from None


def _error_of(body: bytes) -> Any:
    """What Prometheus says is wrong."""
    try:
        return json.loads(body)["error"]
    except (LookupError, RecursionError, TypeError, ValueError):
        return "no reason given"
