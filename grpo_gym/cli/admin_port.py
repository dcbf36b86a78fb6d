"""Ask the admin port of a running process, and command it."""

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from grpo_gym.settings import ConfigError

_TIMEOUT_S = 10.0
_LARGEST_ANSWER = 2**24
_OPENER = build_opener(ProxyHandler({}))
"""Without the proxies of environment variables: the port is on loopback."""


class AdminError(OSError):
    """The admin port did not do what was asked; the message says why."""


def ask(admin: str, path: str, command: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object that an admin port answers.

    Args:
        admin: Its address, such as "http://127.0.0.1:9901".
        path: What is asked for, such as "/guard".
        command: The body of a command; None: a question.

    Raises:
        ConfigError: If the address is not one.
        AdminError: If nobody answers, it is not an admin port, or it refuses.
    """
    request = Request(_checked(admin) + path, headers={"Accept": "application/json"})
    if command is not None:
        request.data = json.dumps(command).encode()
        request.add_header("Content-Type", "application/json")
        request.add_header("X-Grpo-Gym", "1")
    try:
        with _OPENER.open(request, timeout=_TIMEOUT_S) as response:
            return _object(response.read(_LARGEST_ANSWER), admin)
    except HTTPError as error:
        refusal = _object(error.read(_LARGEST_ANSWER), admin).get("error")
        if not isinstance(refusal, str):
            raise _foreign(admin) from None
        raise AdminError(refusal) from None
    except TimeoutError:
        raise AdminError(f"{admin} has not answered within {_TIMEOUT_S:g} s") from None
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise AdminError(
            f"nobody answers at {admin} ({reason}): start grpo-gym route, picker or scaler, or say "
            "with --admin where its admin port is"
        ) from None
    except (HTTPException, ConnectionError):
        raise _foreign(admin) from None


def _checked(admin: str) -> str:
    try:
        parts = urlsplit(admin)
        is_address = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not admin.isascii() or not admin.isprintable() or " " in admin:
        raise ConfigError(f"admin must be an address such as http://127.0.0.1:9901, got {admin!r}")
    return f"http://{parts.netloc}"


def _object(body: bytes, admin: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise _foreign(admin) from None
    if not isinstance(answer, dict):
        raise _foreign(admin)
    return answer


def _foreign(admin: str) -> AdminError:
    return AdminError(f"what answers at {admin} is not an admin port of grpo-gym: see --admin")
