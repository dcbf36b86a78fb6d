"""Answers that the proxy gives by itself."""

from http import HTTPStatus

from aiohttp import web


class RefusedError(Exception):
    """A request that ends with an answer of the proxy.

    Attributes:
        status: Its HTTP status.
        reason: Why, in one line; nothing that the client sent.
        retry_after_s: When to try again; None: not at all, or at once.
    """

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s

    def response(self) -> web.Response:
        """The answer."""
        headers = {"Server": "grpo-gym"}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        text = f"{self.status} {HTTPStatus(self.status).phrase}: {self.reason}\n"
        answer = web.Response(status=self.status, text=text, headers=headers)
        if self.status in _CLOSING:
            answer.force_close()
        return answer


_CLOSING = frozenset({400, 405, 408, 413, 431, 501, 505})
"""Statuses after which nobody knows where the next request begins, or it would take too long."""
