"""Fixtures of the tests of UDP associations."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from helpers.associations import Associate, associating
from helpers.support import BACKENDS, LONG, PlayedProxy


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """Yield a UDP socket on this host, to speak with."""
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(LONG)
        yield peer


@pytest.fixture(params=["hang-up", "RST"])
def end(request: pytest.FixtureRequest, played: PlayedProxy) -> Callable[[], None]:
    """Return a function by which the played proxy ends its association."""
    return played.end if request.param == "hang-up" else played.reset


@pytest.fixture(params=["blocking", *BACKENDS])
def associate(request: pytest.FixtureRequest) -> Iterator[Associate]:
    """One test, every driver."""
    with associating(request.param) as associate:
        yield associate
