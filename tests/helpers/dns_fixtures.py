"""Fixtures for the tests of `socksclient.dnspython`; a plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator

import dns.message
import pytest

from helpers.name_server import IPV4, WAYS, Ask
from helpers.support import LONG, Address, descriptors, eventually


@pytest.fixture
def no_descriptor_left_open() -> Iterator[None]:
    """Check after the test that this process has no more descriptors than before."""
    before = descriptors()
    yield
    assert eventually(lambda: descriptors() <= before)


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    def ask(
        proxy: str,
        name: str = "a.test",
        kind: str = "A",
        *,
        server: Address = IPV4,
        timeout: float = LONG,
    ) -> dns.message.Message:
        return way(proxy, name, kind, server, timeout)

    way = WAYS[request.param]
    return ask
