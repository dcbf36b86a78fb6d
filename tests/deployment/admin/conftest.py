from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from admin_port import Admin, Router


@pytest.fixture
def open_admin() -> Iterator[Callable[..., "Admin"]]:
    """Opens the admin port of a service; closes it after the test."""
    from admin_port import admin_ports  # needs aiohttp

    with admin_ports() as start:
        yield start


@pytest.fixture
def router() -> "Router":
    from admin_port import Router

    return Router()


@pytest.fixture
def admin(router: "Router", open_admin: "Callable[..., Admin]") -> "Admin":
    """The admin port of `router`."""
    return open_admin(router)
