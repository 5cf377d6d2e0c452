"""The errors of `tunnel`: what those of a driver become, their place, and what passes as it is."""

from __future__ import annotations

import errno
import gc
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from socksclient import NO_AUTHENTICATION, AuthenticationError, Exchange, Flow, Method, Proxy
from socksclient.exceptions import (
    ConnectionRefused,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.protocol import Command, HostPort, Phase
from socksclient.protocol.route import NOT_KNOWN
from socksclient.protocol.steps import Event
from socksclient.protocol.tunnel import tunnel

from helpers.step_player import (
    DEADLINE,
    GRANTED,
    HOP,
    NOT_FOUND,
    OPEN,
    RESOLVER,
    SERVER,
    THREE,
    Answer,
    drive,
    error_of,
    refusal,
    route,
)


def test_tunnel_tells_of_all_addresses_when_the_last_one_fails() -> None:
    driven = drive(
        tunnel(route(RESOLVER)),
        *(THREE, SERVER, OPEN, refusal(5), SERVER, OPEN, b"", SERVER, OPEN, refusal(4)),
    )
    error = error_of(driven, ReplyError)
    assert (error.addresses_tried, error.addresses_left) == (3, ())
    assert error.__notes__ == [
        "before that, 192.0.2.1: the proxy refused the request: connection refused (REP 05)",
        (
            "before that, 2001:db8::2: the proxy hung up before the end of its message: got 0 of 5"
            " octets; OpenSSH hangs up when it cannot connect"
        ),
    ]


@pytest.mark.parametrize(
    ("answers", "phase", "tried", "left"),
    [
        ([TimeoutError()], "connect", 0, ()),
        ([SERVER, TimeoutError()], "method selection", 0, ()),
        ([SERVER, OPEN, TimeoutError()], "request", 1, ("2001:db8::2", "192.0.2.3")),
        (
            [SERVER, OPEN, refusal(1), TimeoutError()],
            "connect",
            1,
            ("2001:db8::2", "192.0.2.3"),
        ),
        (
            [SERVER, OPEN, refusal(1), SERVER, OPEN, TimeoutError()],
            "request",
            2,
            ("192.0.2.3",),
        ),
    ],
)
def test_tunnel_tells_which_addresses_a_deadline_has_left(
    answers: list[Answer], phase: Phase, tried: int, left: tuple[str, ...]
) -> None:
    error = error_of(drive(tunnel(route(RESOLVER)), THREE, *answers), ProxyTimeout)
    assert error.phase == phase
    assert (error.addresses_tried, error.addresses_left) == (tried, left)
    failed = tried - (phase == "request")
    assert len(getattr(error, "__notes__", ())) == failed


def test_tunnel_counts_no_addresses_of_a_target_with_one() -> None:
    driven = drive(tunnel(route(RESOLVER)), [("192.0.2.1", 80)], SERVER, OPEN, refusal(5))
    error = error_of(driven, ConnectionRefused)
    assert (error.addresses_tried, error.addresses_left) == (0, ())
    assert not hasattr(error, "__notes__")


def test_tunnel_of_udp_tells_no_destination_in_an_error() -> None:
    udp = route(HOP, host=NOT_KNOWN[0], port=0, command=Command.UDP_ASSOCIATE)
    error = error_of(drive(tunnel(udp), SERVER, OPEN, refusal(7)), ReplyError)
    assert (error.destination, error.phase) == (None, "request")
    assert str(error).startswith("this proxy does not offer UDP ASSOCIATE: ")


# The errors of a driver, and what they become


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
# The kernel gives up a connection with an errno; a deadline of this library has none.
GAVE_UP = TimeoutError(errno.ETIMEDOUT, "Connection timed out")


@pytest.mark.parametrize(
    ("url", "answers", "kind", "phase", "number", "text"),
    [
        (
            "socks5h://near.test",
            [NOT_FOUND],
            ProxyConnectError,
            "resolve",
            socket.EAI_NONAME,
            "cannot resolve the proxy's name: not known",
        ),
        (
            "socks5h://near.test",
            [OSError("no threads")],
            ProxyConnectError,
            "resolve",
            None,
            "cannot resolve the proxy's name: no threads",
        ),
        ("socks5h://near.test", [DEADLINE], ProxyTimeout, "resolve", errno.ETIMEDOUT, "timed out"),
        (
            RESOLVER,
            [NOT_FOUND],
            ResolveError,
            "resolve",
            socket.EAI_NONAME,
            "cannot resolve g.test: not known",
        ),
        (
            RESOLVER,
            [GAVE_UP],
            ResolveError,
            "resolve",
            errno.ETIMEDOUT,
            "cannot resolve g.test: Connection timed out",
        ),
        (RESOLVER, [DEADLINE], ProxyTimeout, "resolve", errno.ETIMEDOUT, "timed out"),
        (
            HOP,
            [REFUSED],
            ProxyConnectError,
            "connect",
            errno.ECONNREFUSED,
            "cannot reach the proxy: Connection refused",
        ),
        (
            HOP,
            [GAVE_UP],
            ProxyConnectError,
            "connect",
            errno.ETIMEDOUT,
            "cannot reach the proxy: Connection timed out",
        ),
        (HOP, [DEADLINE], ProxyTimeout, "connect", errno.ETIMEDOUT, "timed out"),
        (
            "socks5h+tls://192.0.2.9",
            [SERVER, DEADLINE],
            ProxyTimeout,
            "tls",
            errno.ETIMEDOUT,
            "timed out",
        ),
        (
            HOP,
            [SERVER, DEADLINE],
            ProxyTimeout,
            "method selection",
            errno.ETIMEDOUT,
            "timed out before the proxy selected a method; does the proxy speak SOCKS5?",
        ),
        (
            "socks5h://u@192.0.2.9",
            [SERVER, b"\x05\x02", DEADLINE],
            ProxyTimeout,
            "authentication",
            errno.ETIMEDOUT,
            "timed out",
        ),
        (HOP, [SERVER, OPEN, DEADLINE], ProxyTimeout, "request", errno.ETIMEDOUT, "timed out"),
        (
            HOP,
            [SERVER, b"\x05"],
            ProxyClosed,
            "method selection",
            errno.ECONNRESET,
            "the proxy hung up before the end of its message: got 1 of 2 octets",
        ),
        (
            "http://192.0.2.9",
            [("192.0.2.9", 80), b"HTTP/1.1"],
            ProxyClosed,
            "request",
            errno.ECONNRESET,
            "the proxy hung up before the end of its message: got 8 of 14 octets",
        ),
    ],
)
def test_tunnel_turns_the_error_of_a_driver_into_one_with_its_place(
    url: str,
    answers: list[Answer],
    kind: type[SocksError],
    phase: Phase,
    number: int | None,
    text: str,
) -> None:
    driven = drive(tunnel(route(url)), *answers)
    error = error_of(driven, kind)
    assert (error.strerror, error.errno, error.phase) == (text, number, phase)
    assert error.proxy == Proxy.from_url(url)
    assert (error.hop, error.next_hop, error.destination) == (0, None, ("g.test", 80))
    if isinstance(answers[-1], BaseException):
        assert error.__cause__ is answers[-1]


@pytest.mark.parametrize(
    ("url", "answers"),
    [
        ("socks5h+tls://192.0.2.9", [SERVER]),
        (HOP, [SERVER]),
        (HOP, [SERVER, OPEN]),
        ("socks5h://near.test", []),
        (HOP, []),
    ],
)
@pytest.mark.parametrize("error", [KeyError("mine"), ValueError("mine"), RuntimeError("mine")])
def test_tunnel_leaves_the_error_of_a_mistake_as_it_is(
    url: str, answers: list[Answer], error: Exception
) -> None:
    assert drive(tunnel(route(url)), *answers, error).ends is error


@pytest.mark.parametrize("answers", [[SERVER], [SERVER, OPEN]])
def test_tunnel_leaves_an_oserror_in_an_exchange_as_it_is(answers: list[Answer]) -> None:
    # A driver tells the end of a connection by a ConnectionEnded. Any other OSError is not known.
    error = OSError(errno.EIO, "no idea")
    assert drive(tunnel(route(HOP)), *answers, error).ends is error


def test_tunnel_adds_the_place_to_a_failure_of_tls() -> None:
    failure = ProxyConnectError("TLS with the proxy failed: no idea")
    chain = route(HOP, "https://far.test")
    error = drive(tunnel(chain), SERVER, OPEN, GRANTED, failure).ends
    assert error is failure
    assert (error.phase, error.hop, error.next_hop) == ("tls", 1, None)
    assert error.proxy == Proxy.from_url("https://far.test")


# The errors of a user's method


def raising(error: Exception) -> Callable[[Proxy], Flow[None]]:
    """Return a sub-negotiation that sends a token, and then raises an error."""

    def negotiate(proxy: Proxy) -> Flow[None]:
        yield Exchange(b"token", 1, is_secret=True)
        raise error

    return negotiate


def with_method(error: Exception) -> Proxy:
    return Proxy("192.0.2.9", methods=(NO_AUTHENTICATION, Method(0x80, raising(error))))


@pytest.mark.parametrize(
    "error", [ValueError("mine"), OSError(errno.EIO, "mine"), GAVE_UP, ConnectionError("mine")]
)
def test_tunnel_leaves_the_error_of_a_users_method_as_it_is(error: Exception) -> None:
    events: list[Event] = []
    steps = tunnel(route(with_method(error)), events.append)
    driven = drive(steps, SERVER, b"\x05\x80", b"!")
    assert driven.ends is error
    # No note says what stands in the text of such an error.
    assert all("mine" not in event.note for event in events)


def test_tunnel_takes_a_timeout_of_a_users_method_for_the_deadline() -> None:
    error = error_of(
        drive(tunnel(route(with_method(DEADLINE))), SERVER, b"\x05\x80", b"!"), ProxyTimeout
    )
    assert error.phase == "authentication"


def test_tunnel_adds_the_place_to_a_sockserror_of_a_users_method() -> None:
    mine = AuthenticationError("mine")
    error = drive(tunnel(route(with_method(mine), HOP)), SERVER, b"\x05\x80", b"!").ends
    assert error is mine
    assert (error.phase, error.hop, error.next_hop) == ("authentication", 0, ("192.0.2.9", 1080))


def test_tunnel_leaves_a_sockserror_that_has_a_place_as_it_is() -> None:
    # A method may itself connect through another proxy. Its error speaks of that proxy.
    mine = AuthenticationError("mine")
    mine.proxy, mine.phase = Proxy("other.test"), "request"
    error = drive(tunnel(route(with_method(mine))), SERVER, b"\x05\x80", b"!").ends
    assert error is mine
    assert (error.proxy, error.phase) == (Proxy("other.test"), "request")
    assert error.destination is None


# The place of an error in a chain


@pytest.mark.parametrize(
    ("answers", "hop", "phase", "next_hop"),
    [
        ([REFUSED], 0, "connect", ("middle.test", 80)),
        ([SERVER, b"\x05\xff"], 0, "method selection", ("middle.test", 80)),
        ([SERVER, OPEN, refusal(5)], 0, "request", ("middle.test", 80)),
        ([SERVER, OPEN, GRANTED, b"HTTP/1.1 502\n\n"], 1, "request", ("far.test", 1080)),
        (
            [SERVER, OPEN, GRANTED, b"HTTP/1.1 200\n\n", b"\x04\x00"],
            2,
            "method selection",
            None,
        ),
        (
            [SERVER, OPEN, GRANTED, b"HTTP/1.1 200\n\n", OPEN, refusal(5)],
            2,
            "request",
            None,
        ),
    ],
)
def test_tunnel_tells_the_hop_and_the_next_hop(
    answers: list[Answer], hop: int, phase: Phase, next_hop: HostPort | None
) -> None:
    urls = (HOP, "http://middle.test", "socks5h://far.test")
    error = drive(tunnel(route(*urls)), *answers).ends
    assert isinstance(error, SocksError)
    assert (error.hop, error.phase, error.next_hop) == (hop, phase, next_hop)
    assert error.proxy == Proxy.from_url(urls[hop])
    assert error.destination == ("g.test", 80)


@pytest.mark.parametrize("error", [DEADLINE, REFUSED])
def test_tunnel_tells_the_nearest_hop_if_the_next_way_cannot_begin(error: OSError) -> None:
    # The last hop has refused the first address, and a new way begins at the nearest hop.
    driven = drive(
        tunnel(route(HOP, "socks5://far.test")),
        *(THREE, SERVER, OPEN, GRANTED, OPEN, refusal(5), error),
    )
    assert isinstance(driven.ends, SocksError)
    assert (driven.ends.hop, driven.ends.phase) == (0, "connect")
    assert driven.ends.proxy == Proxy.from_url(HOP)
    assert len(driven.ends.__notes__) == 1


def test_tunnel_tells_the_next_hop_by_the_address_that_was_asked_for() -> None:
    two: list[Any] = [("192.0.2.2", 1080), ("192.0.2.4", 1080)]
    driven = drive(
        tunnel(route(RESOLVER, "socks5h://far.test")),
        *(two, SERVER, OPEN, refusal(5), SERVER, OPEN, refusal(5)),
    )
    assert error_of(driven, ConnectionRefused).next_hop == ("192.0.2.4", 1080)


def test_tunnel_keeps_no_reference_to_the_error_that_it_raised() -> None:
    class Ours(ValueError):
        """An error that can have a weak reference."""

    gc.disable()
    try:
        error = Ours()
        gone = weakref.ref(error)
        steps = tunnel(route(HOP))
        next(steps)
        with pytest.raises(Ours):
            steps.throw(error)
        del error, steps
        assert gone() is None
    finally:
        gc.enable()
