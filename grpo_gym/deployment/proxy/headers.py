"""Which headers go on, and which the proxy sets.

Source: RFC 9110 (7.6: forwarding), RFC 9112 (6: framing), RFC 7239 (Forwarded).
"""

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from grpo_gym.deployment.proxy.refusals import RefusedError

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that are about one connection only."""
_NEVER_NAMED = frozenset({"host", "content-length", "expect", "via"})
"""Headers that `Connection` may not take away: the message would mean something else."""
_FORWARDED = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Real-IP",
)


def tokens(headers: MultiMapping[str], name: str) -> list[str]:
    """The elements of a header that is a list, in lower case."""
    elements = ",".join(headers.getall(name, ())).lower().split(",")
    return [token for each in elements if (token := each.strip())]


def end_to_end(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """The headers that are not about one connection only."""
    left_out = _HOP_BY_HOP.union(tokens(headers, "Connection")) - _NEVER_NAMED
    return CIMultiDict(
        (name, value if value.isascii() else _in_utf8(value))
        for name, value in headers.items()
        if name.lower() not in left_out
    )


def _in_utf8(value: str) -> str:
    """A value that aiohttp can write: bytes that are not UTF-8 are taken for Latin-1."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def request_headers(
    request: web.BaseRequest, pseudonym: str, host: str | None, trust_forwarded: bool
) -> CIMultiDict[str]:
    """The headers of a request as a backend gets them.

    Args:
        request: The client's request.
        pseudonym: The proxy's name in `Via`.
        host: The value of `Host`; None: the client's.
        trust_forwarded: Whether to keep what the client says in X-Forwarded-* and Forwarded.

    Raises:
        RefusedError: If the request has come through this proxy before.
    """
    headers = end_to_end(request.headers)
    via = headers.popall("Via", [])
    if any(pseudonym in each for each in via):
        raise RefusedError(508, "the request was here before: a backend leads back here")
    version = f"{request.version.major}.{request.version.minor}"
    headers["Via"] = ", ".join([*via, f"{version} {pseudonym}"])
    headers.popall("Expect", None)
    peer = request.remote or "unknown"
    if not trust_forwarded:
        for name in _FORWARDED:
            headers.popall(name, None)
    headers["X-Forwarded-For"] = ", ".join([*headers.popall("X-Forwarded-For", []), peer])
    headers.setdefault("X-Forwarded-Proto", "http")
    headers.setdefault("X-Forwarded-Host", request.headers.get("Host", ""))
    if host is not None:
        headers["Host"] = host
    return headers


def response_headers(headers: MultiMapping[str]) -> CIMultiDict[str]:
    """The headers of a backend's response as the client gets them."""
    passed = end_to_end(headers)
    if "Transfer-Encoding" in headers:  # a length beside it means nothing
        passed.popall("Content-Length", None)
    return passed
