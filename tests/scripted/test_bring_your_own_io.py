"""The driver in the documentation of `socksclient.protocol`, as it stands there."""

from __future__ import annotations

import inspect
import socket
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import socksclient.protocol
from socksclient import ProxyClosed, ReplyError
from socksclient.protocol import Flow, HostPort, start
from socksclient.testing import Faults, SocksServer

from helpers.support import Address, receive_exactly

Drive = Callable[[Flow[HostPort], socket.socket], HostPort]


@pytest.fixture
def drive() -> Drive:
    text = inspect.getdoc(socksclient.protocol) or ""
    example = text[text.index("    def drive(") : text.index("    with socket.create_connection")]
    assert len([line for line in example.splitlines() if line.strip()]) <= 18
    names: dict[str, Any] = {**vars(socket), "socket": socket}
    for name in ("ConnectionEnded", "Flow", "HostPort"):
        names[name] = getattr(socksclient.protocol, name)
    exec(textwrap.dedent(example), names)
    found: Drive = names["drive"]
    return found


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_bring_your_own_io_through_proxy(drive: Drive, echo_server: Address, scheme: str) -> None:
    with SocksServer(accounts={"user": "pass"} if scheme != "socks4a" else None) as server:
        with socket.create_connection(server.address) as sock:
            drive(start(server.url_as(scheme), *echo_server), sock)
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_bring_your_own_io_errors(drive: Drive, scheme: str) -> None:
    refusal = {"socks5h": 0x05, "socks4a": 0x5B, "http": 502}[scheme]
    with SocksServer(faults=[Faults(reply=refusal), Faults(reset_after=0)]) as server:
        with socket.create_connection(server.address) as sock, pytest.raises(ReplyError):
            drive(start(server.url_as(scheme), "h", 80), sock)
        with socket.create_connection(server.address) as sock:
            with pytest.raises(ProxyClosed, match="got 0 of "):
                drive(start(server.url_as(scheme), "h", 80), sock)
