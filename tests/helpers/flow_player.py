"""Drives a flow with the octets of a table, with no socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from socksclient import Flow, Proxy, ProxyClosed, SocksError
from socksclient.protocol.address import Host, HostPort
from socksclient.protocol.codes import Command
from socksclient.protocol.flow import ConnectionEnded

BOUND = ("127.0.0.1", 8080)
"""The bound address of the replies in the tables."""

GRANTED_BY_SOCKS5 = "050000017f0000011f90"
GRANTED_BY_SOCKS4 = "005a1f907f000001"

OPEN = Proxy("proxy.example")
USER = Proxy("proxy.example", username="user", password="pass")
SOCKS4A = Proxy("proxy.example", scheme="socks4a")
SOCKS4 = Proxy("proxy.example", scheme="socks4", username="me")
HTTP = Proxy("proxy.example", scheme="http")
BASIC = Proxy("proxy.example", scheme="http", username="user", password="pass")


class Fails(NamedTuple):
    """The end of a flow by an error of that very class, with that in its text."""

    kind: type[SocksError]
    text: str


class Case(NamedTuple):
    """A handshake, in hex.

    If the handshake fails, the last octet of `answers` is the one that makes the error known.
    """

    name: str
    proxy: Proxy
    sent: list[str]
    answers: list[str]
    ends: HostPort | Fails


class Played(NamedTuple):
    """How a flow has gone; `ends` is its result or its error."""

    ends: HostPort | SocksError
    sent: list[str]
    left: bytes


octet_by_octet = pytest.mark.parametrize("least", [False, True], ids=["whole", "octet by octet"])


def play(flow: Flow[HostPort], octets: bytes, *, least: bool, peeks: bool = False) -> Played:
    """Drive a flow, and return how it has gone.

    Args:
        flow: The flow.
        octets: All octets that the proxy sends before it hangs up.
        least: Whether each step gets no more octets than it needs, as if they came one by one.
        peeks: Whether each step gets all octets that belong to the message.
    """
    sent = []
    try:
        step = next(flow)
        while True:
            assert 0 <= step.enough <= step.read > 0, step
            if step.send:
                sent.append(step.send.hex())
            enough = step.enough or step.read
            most = enough if least else step.read
            if peeks and step.belonging is not None:
                most = max(most, step.belonging(octets))
            brought = octets[:most]
            octets = octets[len(brought) :]
            if len(brought) < enough:
                step = flow.throw(ConnectionEnded(brought))
            step = flow.send(brought)
    except StopIteration as stop:
        return Played(stop.value, sent, octets)
    except SocksError as error:
        return Played(error, sent, octets)


def connecting(proxy: Proxy) -> Flow[HostPort]:
    """Return the flow that asks a proxy to connect to example.com:443."""
    host = Host.parse("example.com")
    return proxy.kind.handshake(proxy, Command.CONNECT, host, 443, lambda phase: None)


def check_end(played: Played, ends: HostPort | Fails) -> None:
    """Check that a flow has ended as the table says."""
    if isinstance(ends, Fails):
        assert type(played.ends) is ends.kind, played
        assert ends.text in str(played.ends), played
    else:
        assert played.ends == ends, played


def check_conversation(case: Case, behind: bytes, *, least: bool) -> None:
    """Check what a flow sends, how it ends, and that it reads no octet too many.

    Args:
        case: The conversation.
        behind: The octets that follow the last answer.
        least: Whether each step gets no more octets than it needs.
    """
    octets = bytes.fromhex("".join(case.answers)) + behind
    played = play(connecting(case.proxy), octets, least=least)
    check_end(played, case.ends)
    assert played.sent == case.sent, played
    # A refusal may be read together with the octets behind it.
    if least or not isinstance(case.ends, Fails):
        assert played.left == behind, played


class HangUp(NamedTuple):
    """A proxy that hung up amid an answer.

    Attributes:
        sent: The message of the client that the answer is to, in hex.
        answer: The whole answer.
        got: How many octets of it came.
        text: The text of the error.
    """

    sent: str
    answer: bytes
    got: int
    text: str


def hang_ups(case: Case, *, least: bool) -> Iterator[HangUp]:
    """Play a conversation again and again, and let the proxy hang up one octet later each time.

    This checks that each error is a ProxyClosed with the octets that came, and yields its text.
    """
    before = b""
    for number, answer in enumerate(map(bytes.fromhex, case.answers)):
        for got in range(len(answer)):
            played = play(connecting(case.proxy), before + answer[:got], least=least)
            assert type(played.ends) is ProxyClosed, played
            assert answer[:got].endswith(played.ends.received), played
            assert played.sent == case.sent[: number + 1], played
            yield HangUp(case.sent[number], answer, got, str(played.ends))
        before += answer
