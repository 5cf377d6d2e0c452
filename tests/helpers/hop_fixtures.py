"""What the tests of chains, TLS with proxies and unix sockets share; a plugin of pytest."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

import socksclient
import socksclient.anyio
from socksclient import ProxyLike

from helpers.hops import (
    Associate,
    Authority,
    Bind,
    Connect,
    Listening,
    MakeHops,
    Udp,
    connect_awaited,
    connect_blocking,
)
from helpers.support import BACKENDS, LONG, Address

pytest_plugins = ["helpers.http_fixtures"]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def hops(authority: Authority) -> MakeHops:
    return MakeHops(authority)


@pytest.fixture(params=list(BACKENDS))
def portal(
    request: pytest.FixtureRequest, portals: dict[str, BlockingPortal | None]
) -> BlockingPortal:
    """Run the test with every event loop, which runs in a thread of its own."""
    portal = portals[request.param]
    assert portal is not None
    return portal


@pytest.fixture(params=["blocking", *BACKENDS])
def connect(request: pytest.FixtureRequest, portals: dict[str, BlockingPortal | None]) -> Connect:
    """Run the test with every driver. Any number of hops may speak TLS."""
    portal = portals[request.param]
    return connect_blocking if portal is None else connect_awaited(portal)


@pytest.fixture
def listening() -> Iterator[Address]:
    """Yield an address where the system completes connections, and nobody accepts them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture(params=["blocking", *BACKENDS])
def bind(request: pytest.FixtureRequest, portals: dict[str, BlockingPortal | None]) -> Bind:
    portal = portals[request.param]

    def bind(address: Address, proxy: ProxyLike) -> Listening:
        if portal is None:
            return Listening(socksclient.bind(address, LONG, proxy=proxy), None)
        listener = portal.call(partial(socksclient.anyio.bind, *address, proxy=proxy))
        return Listening(listener, portal)

    return bind


@pytest.fixture(params=["blocking", *BACKENDS])
def associate(
    request: pytest.FixtureRequest, portals: dict[str, BlockingPortal | None]
) -> Associate:
    portal = portals[request.param]

    def associate(
        proxy: ProxyLike,
        *,
        local_address: Address | None = None,
        trust_relay_address: bool = True,
    ) -> Udp:
        options: dict[str, Any] = {"proxy": proxy, "trust_relay_address": trust_relay_address}
        if portal is None:
            options["local_address"] = local_address
            return Udp(socksclient.udp_associate(LONG, **options), None)
        options["local_host"], options["local_port"] = local_address or (None, 0)
        associate = partial(socksclient.anyio.udp_associate, **options)
        return Udp(portal.call(associate), portal)

    return associate
