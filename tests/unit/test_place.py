"""The place of an error: the proxy, the hop, the next hop, the addresses and the phase."""

from __future__ import annotations

import errno

import pytest

from socksclient.exceptions import (
    SocksError,
)
from socksclient.protocol import HostPort, Phase
from socksclient.protocol.address import Host
from socksclient.protocol.place import is_deadline, place

from helpers.step_player import RESOLVER, route

CHAIN = route(RESOLVER, "socks5h://far.test")
HOSTS = [Host.of("192.0.2.1"), Host.of("192.0.2.2"), Host.of("192.0.2.3")]
# The kernel gives up a connection with an errno; a deadline of this library has none.
GAVE_UP = TimeoutError(errno.ETIMEDOUT, "Connection timed out")


@pytest.mark.parametrize(
    ("hop", "phase", "hosts", "failed", "next_hop", "tried", "left"),
    [
        (0, "connect", [], 0, ("far.test", 1080), 0, ()),
        (0, "request", HOSTS[:1], 0, ("192.0.2.1", 1080), 0, ()),
        (0, "connect", HOSTS, 1, ("192.0.2.2", 1080), 1, ("192.0.2.2", "192.0.2.3")),
        (0, "request", HOSTS, 1, ("192.0.2.2", 1080), 2, ("192.0.2.3",)),
        (1, "request", HOSTS, 2, None, 3, ()),
        (1, "connect", HOSTS, 0, None, 0, ()),
        (1, "relay", HOSTS, 1, None, 0, ()),
    ],
)
def test_place_of_an_error(
    hop: int,
    phase: Phase,
    hosts: list[Host],
    failed: int,
    next_hop: HostPort | None,
    tried: int,
    left: tuple[str, ...],
) -> None:
    error = SocksError("broken")
    assert place(error, CHAIN, hop, phase, hosts, failed, ["a note"]) is error
    assert (error.proxy, error.hop) == (CHAIN.requests[hop].proxy, hop)
    assert (error.phase, error.next_hop) == (phase, next_hop)
    assert (error.addresses_tried, error.addresses_left) == (tried, left)
    assert error.__notes__ == ["a note"]


def test_place_keeps_the_notes_that_an_error_has() -> None:
    error = SocksError("broken")
    error.__notes__ = ["mine"]
    place(error, CHAIN, 0, "request", earlier=["before that"])
    assert error.__notes__ == ["mine", "before that"]


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (TimeoutError(), True),
        (TimeoutError("timed out"), True),
        (GAVE_UP, False),
        (OSError(), False),
        (KeyError(), False),
        (None, False),
    ],
)
def test_is_deadline(error: BaseException | None, found: bool) -> None:
    assert is_deadline(error) is found


def test_error_text_names_the_addresses_that_place_has_counted() -> None:
    error = SocksError("broken")
    place(error, CHAIN, 1, "request", HOSTS, 1)
    assert str(error).endswith("addresses tried: 2, addresses left: 192.0.2.3)")
