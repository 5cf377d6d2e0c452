"""Errors as data: what went wrong, where, and the proxy's own code; the same for every driver."""

from __future__ import annotations

import errno

import pytest

from socksclient import (
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import Phase
from socksclient.testing import Faults, SocksServer

from helpers.support import Address, Dial

DESTINATION = ("origin.test", 443)
ACCOUNTS = {"user": "pass"}


def fail(
    dial: Dial,
    faults: Faults,
    accounts: dict[str, str] | None = None,
    url: str = "",
    origin: Address = DESTINATION,
) -> SocksError:
    routes = {DESTINATION: origin}
    with SocksServer(faults=faults, accounts=accounts, routes=routes) as server:
        proxy = Proxy.from_url(url.format(*server.address) if url else server.url)
        with pytest.raises(SocksError) as caught:
            dial(DESTINATION, proxy=proxy)
    error = caught.value
    assert error.proxy == proxy
    assert error.hop == 0
    assert error.destination == DESTINATION
    host, port = server.address
    assert f"proxy: {host}:{port}, destination: origin.test:443" in str(error)
    return error


@pytest.mark.parametrize("rep", [*range(1, 9), 0x09, 0x5A, 0xF0, 0xFF])
def test_reply_error_keeps_reply_code(dial: Dial, rep: int) -> None:
    error = fail(dial, Faults(reply=rep))
    assert isinstance(error, ReplyError)
    assert error.reply == rep
    assert error.phase == "request"
    assert f"REP {rep:02X}" in str(error)


@pytest.mark.parametrize(
    ("rep", "builtin", "number"),
    [
        (0x02, PermissionError, errno.EACCES),
        (0x05, ConnectionRefusedError, errno.ECONNREFUSED),
        (0x06, TimeoutError, errno.ETIMEDOUT),
    ],
)
def test_reply_error_is_builtin_error(
    dial: Dial, rep: int, builtin: type[OSError], number: int
) -> None:
    error = fail(dial, Faults(reply=rep))
    assert isinstance(error, builtin)
    assert error.errno == number


def test_credentials_refused(dial: Dial) -> None:
    error = fail(dial, Faults(), ACCOUNTS, url="socks5h://user:wrong@{}:{}")
    assert isinstance(error, AuthenticationError)
    assert error.phase == "authentication"
    assert "STATUS 01" in str(error)


def test_no_acceptable_method(dial: Dial) -> None:
    error = fail(dial, Faults(), ACCOUNTS, url="socks5h://{}:{}")
    assert isinstance(error, AuthenticationError)
    assert error.phase == "method selection"
    assert "the proxy wants authentication, but no username is given (offered: 00)" in str(error)


def test_method_not_offered(dial: Dial) -> None:
    error = fail(dial, Faults(method=0x01))
    assert isinstance(error, ProtocolError)
    assert error.phase == "method selection"
    assert error.received == b"\x05\x01"
    assert "method 01, which was not offered (00)" in str(error)


@pytest.mark.parametrize(
    ("phase", "answer", "words"),
    [
        ("authentication", b"\x02\x00", "the answer to the credentials has version 02"),
        ("request", b"\x04\x00", "reply to the request has version 04"),
        ("request", bytes.fromhex("05000002 00000000"), "the reply has address type 02"),
    ],
)
def test_garbage_in_later_answer(dial: Dial, phase: Phase, answer: bytes, words: str) -> None:
    error = fail(dial, Faults(answers={phase: answer}), ACCOUNTS)
    assert isinstance(error, ProtocolError)
    assert error.phase == phase
    assert words in str(error)


@pytest.mark.parametrize(
    ("octets", "phase", "count"),
    [
        (0, "method selection", "got 0 of 2 octets"),
        (1, "method selection", "got 1 of 2 octets"),
        (2, "authentication", "got 0 of 2 octets"),
        (3, "authentication", "got 1 of 2 octets"),
        (4, "request", "got 0 of 5 octets"),
        (5, "request", "got 1 of 5 octets"),
        (6, "request", "got 2 of 5 octets"),
        (8, "request", "got 4 of 5 octets"),
        (9, "request", "got 5 of 10 octets"),
        (13, "request", "got 9 of 10 octets"),
    ],
)
def test_proxy_closed_counts_octets(
    dial: Dial, echo_server: Address, octets: int, phase: Phase, count: str
) -> None:
    error = fail(dial, Faults(close_after=octets), ACCOUNTS, origin=echo_server)
    assert isinstance(error, ProxyClosed)
    assert isinstance(error, ConnectionResetError)
    assert error.phase == phase
    assert count in str(error)


def test_every_error_is_oserror(dial: Dial, echo_server: Address) -> None:
    with SocksServer(faults=Faults(reply=0x01)) as server, pytest.raises(OSError, match="SOCKS"):
        dial(echo_server, proxy=server.url)
