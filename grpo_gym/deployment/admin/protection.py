"""Who may read the admin port, and who may command it.

A web page that an operator has open can send requests to loopback, too. It cannot set a header of
its own without being asked first (CSRF), and its requests carry the name of its own host, whatever
address that name points to (DNS rebinding).
"""

import ipaddress
from urllib.parse import urlsplit

from aiohttp import web

COMMAND_HEADER = "X-Grpo-Gym"
"""Every command needs it, with the value 1."""
_READING = ("GET", "HEAD")


def check_request(request: web.Request, bound_to_loopback: bool) -> None:
    """Refuse what may come from a foreign web page, or commands from another machine.

    A port that is bound to other addresses may be read from there, under any name.

    Raises:
        web.HTTPForbidden: If it is refused.
    """
    is_command = request.method not in _READING
    if (is_command or bound_to_loopback) and not _names_loopback(request):
        raise web.HTTPForbidden(
            text=f"Host must be localhost or a loopback address, got {request.host!r}"
        )
    if not is_command:
        return
    if not is_loopback(request.remote or ""):
        raise web.HTTPForbidden(
            text=f"commands must come from this machine, got one from {request.remote}: use "
            "`kubectl port-forward` or `ssh -L`"
        )
    if request.headers.getall(COMMAND_HEADER, []) != ["1"]:
        raise web.HTTPForbidden(text=f"commands need the header `{COMMAND_HEADER}: 1`")


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, is this machine's loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names_loopback(request: web.Request) -> bool:
    hosts = request.headers.getall("Host", [])
    try:
        return len(hosts) == 1 and is_loopback(urlsplit(f"//{hosts[0]}").hostname or "")
    except ValueError:
        return False
