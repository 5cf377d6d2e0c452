"""Fixtures of the tests of BIND."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    ProxyLike,
)
from socksclient.testing import SocksServer

from helpers.listeners import (
    SERVERS,
    AwaitedBound,
    Bind,
    Bound,
    bind_blocking,
    needs_servers,
)
from helpers.support import (
    BACKENDS,
    LONG,
    Address,
)


@pytest.fixture(params=["blocking", *BACKENDS])
def bind(request: pytest.FixtureRequest) -> Iterator[Bind]:
    """Run a test with every driver."""
    if request.param == "blocking":
        yield bind_blocking
        return
    with anyio.from_thread.start_blocking_portal(**BACKENDS[request.param]) as portal:

        def bind_awaited(
            address: Address, *, proxy: ProxyLike, timeout: float = LONG, source: str = ""
        ) -> Bound:
            async def bind() -> socksclient.anyio.Listener:
                with anyio.fail_after(timeout):
                    local_host = source or None
                    return await socksclient.anyio.bind(
                        *address, proxy=proxy, local_host=local_host
                    )

            return AwaitedBound(portal, portal.call(bind))

        yield bind_awaited


@pytest.fixture(
    scope="module",
    params=[
        "ours",
        "ours on ::1",
        pytest.param("dante", marks=needs_servers),
        pytest.param("dante on ::1", marks=needs_servers),
    ],
)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Start a proxy that offers BIND, and yield its URL."""
    if request.param in SERVERS:
        with SERVERS[request.param](tmp_path_factory.mktemp("server")) as url:
            yield url
    else:
        with SocksServer(host="::1" if "::1" in request.param else "127.0.0.1") as server:
            yield server.url
