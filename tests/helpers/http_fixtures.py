"""Fixtures for the tests of the transports for httpx and httpx2; a plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from socksclient.testing import SocksServer

from helpers.http_clients import PAIRS, PROXY_HOST, Driver, Pair, routes_to
from helpers.origin import Origin
from helpers.support import BACKENDS


@pytest.fixture(params=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> Pair:
    """Run a test with httpx and with httpx2."""
    return PAIRS[request.param]


@pytest.fixture(scope="module")
def portals() -> Iterator[dict[str, BlockingPortal | None]]:
    with ExitStack() as stack:
        yield {
            "blocking": None,
            **{
                name: stack.enter_context(start_blocking_portal(**options))
                for name, options in BACKENDS.items()
            },
        }


@pytest.fixture(params=["blocking", *BACKENDS])
def driver(
    request: pytest.FixtureRequest,
    pair: Pair,
    portals: dict[str, BlockingPortal | None],
    origin: Origin,
) -> Driver:
    """Run a test with the blocking transport, and with the asynchronous one on each event loop."""
    return Driver(pair, portals[request.param], origin)


@pytest.fixture
def server(origin: Origin) -> Iterator[SocksServer]:
    """Start a proxy behind which the origin has names of its own."""
    with SocksServer(host=PROXY_HOST, routes=routes_to(origin)) as server:
        yield server
