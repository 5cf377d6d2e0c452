"""Functions and classes for the tests of `socksclient.requests`."""

from __future__ import annotations

import traceback
from typing import Any
from urllib.parse import quote

import pytest
import requests

from socksclient.requests import SocksAdapter
from socksclient.testing import SocksServer

from helpers.http_clients import HTTP, nothing_left_open
from helpers.support import Address

SIZE = 20_000_000
PASSWORD = "Pa55w0rd"


def asked(server: SocksServer) -> list[Address | None]:
    return [request.destination for request in server.requests]


def redirected(to: str) -> str:
    return f"{HTTP}redirect?to={quote(to, safe='')}"


def headers_of(response: requests.Response) -> list[str]:
    """Return the names of the headers that reached the origin."""
    return [name.lower() for name, _ in response.json()["headers"]]


def client_of(response: requests.Response) -> list[object]:
    """Return the address of the client of the origin, which identifies the connection."""
    client: list[object] = response.json()["client"]
    return client


class WithOptions(SocksAdapter):
    """An adapter that passes `pool_kwargs` to its connections, as a user's subclass would."""

    pool_kwargs: dict[str, Any] = {}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(self.pool_kwargs)
        super().init_poolmanager(*args, **kwargs)


def fail(
    session: requests.Session, url: str, expected: type[requests.RequestException], **options: Any
) -> requests.RequestException:
    """Return the error of a request, and check that the request leaves nothing open."""
    with nothing_left_open(), pytest.raises(expected) as caught:
        session.get(url, **{"timeout": 10, **options})
    assert type(caught.value) is expected
    assert caught.value.request is not None
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return caught.value
