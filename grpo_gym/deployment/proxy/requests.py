"""Which requests are refused before anything is done: those that two parties may read differently.

aiohttp's parser has refused before what is not HTTP: two lengths, a length beside chunks, broken
chunks, folded headers, lone CR or LF, control characters, no Host or several.
"""

import re

from aiohttp import HttpVersion10, HttpVersion11, web

from grpo_gym.deployment.proxy.config import ProxyConfig
from grpo_gym.deployment.proxy.headers import tokens
from grpo_gym.deployment.proxy.refusals import RefusedError

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


def check_request(request: web.BaseRequest, config: ProxyConfig) -> None:
    """Refuse what is ambiguous, too large, or not for a reverse proxy.

    Raises:
        RefusedError: If the request is refused.
    """
    if request.version not in (HttpVersion10, HttpVersion11):
        raise RefusedError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if request.method == "CONNECT":
        raise RefusedError(405, "this is no forward proxy: CONNECT is not supported")
    target = request.raw_path
    if not target.startswith("/") or "#" in target:
        raise RefusedError(400, "the request target must be a path that begins with /")
    if not _HOST.fullmatch(request.headers.get("Host", "")):
        raise RefusedError(400, "Host must be a name or an address, with an optional port")
    _check_size(request, config)
    _check_framing(request)


def _check_size(request: web.BaseRequest, config: ProxyConfig) -> None:
    size = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > config.max_header_bytes:
        raise RefusedError(431, f"headers must have at most {config.max_header_bytes} bytes")
    if len(request.raw_headers) > config.max_headers:
        raise RefusedError(431, f"there must be at most {config.max_headers} headers")
    length = request.content_length
    if length is not None and length > config.max_body_bytes:
        raise RefusedError(413, f"the body must have at most {config.max_body_bytes} bytes")


def _check_framing(request: web.BaseRequest) -> None:
    codings = tokens(request.headers, "Transfer-Encoding")
    if codings:
        if request.version == HttpVersion10:
            raise RefusedError(400, "Transfer-Encoding must not be used in HTTP/1.0")
        if codings != ["chunked"]:
            raise RefusedError(501, "the only Transfer-Encoding known here is chunked")
        if "Content-Length" in request.headers:
            raise RefusedError(400, "Content-Length must not be given beside Transfer-Encoding")
    expected = tokens(request.headers, "Expect")
    if expected and expected != ["100-continue"]:
        raise RefusedError(417, "the only Expect known here is 100-continue")
    named = tokens(request.headers, "Connection")
    if {"host", "content-length", "expect", "via"}.intersection(named):
        raise RefusedError(400, "Connection must not name an end-to-end header")
