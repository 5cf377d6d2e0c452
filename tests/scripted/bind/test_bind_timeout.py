"""Timeouts of `bind` and of `accept`."""

from __future__ import annotations

import errno
import math
import socket
import threading
from contextlib import closing
from typing import Any

import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    ProxyTimeout,
)
from socksclient.protocol.codes import Phase
from socksclient.testing import Faults, SocksServer

from helpers.listeners import (
    ACCOUNTS,
    ANYONE,
    DATA,
    NOBODY,
    SOON,
    Bind,
    ScriptedProxy,
    assert_carries,
    assert_place,
    receive,
)
from helpers.support import (
    SHORT,
    nothing_left_open,
    resolver,
    silence,
)

SECOND_REPLIES = {
    "IPv4": (ScriptedProxy.SECOND_REPLY, NOBODY),
    "IPv6": (
        bytes.fromhex("05 00 00 04 20010db8 0000000000000000 00000001 0050"),
        ("2001:db8::1", 80),
    ),
    "a name": (b"\x05\x00\x00\x03\x04name\x00\x50", ("name", 80)),
    "no name at all": (b"\x05\x00\x00\x03\x00\x00\x50", ("", 80)),
}


class TestBindTimeout:
    @pytest.mark.parametrize("second_reply", SECOND_REPLIES)
    def test_accept_timeout_after_each_prefix_loses_no_octet(
        self, bind: Bind, second_reply: str
    ) -> None:
        octets, address = SECOND_REPLIES[second_reply]
        for count in range(len(octets)):
            with ScriptedProxy() as proxy, closing(bind(NOBODY, proxy=proxy.url)) as listener:
                proxy.say(octets[:count])
                with pytest.raises(TimeoutError):
                    listener.accept(0.005)
                proxy.say(octets[count:] + DATA)
                connection = listener.accept()
                assert connection.peer == address
                assert receive(connection, len(DATA)) == DATA
                connection.close()

    def test_accept_timeout_after_every_octet_loses_no_octet(self, bind: Bind) -> None:
        with ScriptedProxy() as proxy, closing(bind(NOBODY, proxy=proxy.url)) as listener:
            for octet in proxy.SECOND_REPLY:
                for _ in range(2):
                    with pytest.raises(TimeoutError):
                        listener.accept(0.01)
                proxy.say(bytes([octet]))
            proxy.say(DATA)
            connection = listener.accept()
            assert receive(connection, len(DATA)) == DATA
            connection.close()

    def test_accept_peer_after_timeout(self, bind: Bind, proxy: str) -> None:
        with closing(bind(("127.0.0.1", 0), proxy=proxy)) as listener:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    listener.accept(SOON)
            with socket.create_connection(listener.address, 10) as peer:
                assert_carries(listener.accept(), peer)

    def test_accept_timeout_error_has_place(self) -> None:
        with SocksServer() as server, socksclient.bind(NOBODY, proxy=server.url) as listener:
            with pytest.raises(ProxyTimeout, match="timed out") as caught:
                listener.accept(SOON)
            assert_place(caught.value, server.url, NOBODY)
            assert caught.value.errno == errno.ETIMEDOUT

    def test_accept_timeout_is_that_of_bind_by_default(self) -> None:
        with SocksServer() as server:
            with socksclient.bind(NOBODY, SHORT, proxy=server.url) as listener:
                with pytest.raises(ProxyTimeout):
                    listener.accept()

    def test_accept_timeout_is_default_of_socket_at_bind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 65.0)
        with SocksServer() as server, socksclient.bind(ANYONE, proxy=server.url) as listener:
            monkeypatch.undo()
            with socket.create_connection(listener.address):
                sock, _ = listener.accept()
                assert sock.gettimeout() == 65.0
                sock.close()

    def test_bind_and_accept_refuse_timeout_that_is_no_number(self) -> None:
        timeout: Any = "10"
        with SocksServer() as server:
            with pytest.raises(TypeError, match="timeout must be a number of seconds, not 'str'"):
                socksclient.bind(ANYONE, timeout, proxy=server.url)
            assert server.connections == []
            with socksclient.bind(ANYONE, 10, proxy=server.url) as listener:
                with pytest.raises(TypeError, match="timeout must be a number"):
                    listener.accept(timeout)
                with socket.create_connection(listener.address):
                    listener.accept()[0].close()

    @pytest.mark.parametrize("of_bind", [75.0, None])
    @pytest.mark.parametrize("arguments", [(), (35.0,), (None,)])
    def test_accepted_socket_has_timeout_of_accept(
        self, of_bind: float | None, arguments: tuple[float | None, ...]
    ) -> None:
        with SocksServer(faults=Faults(split=True, late=SOON)) as server:
            with socksclient.bind(ANYONE, of_bind, proxy=server.url) as listener:
                with pytest.raises(ProxyTimeout):
                    listener.accept(0.01)
                with socket.create_connection(listener.address):
                    sock, _ = listener.accept(*arguments)
                    assert sock.gettimeout() == (arguments[0] if arguments else of_bind)
                    sock.close()

    @pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf])
    def test_bind_and_accept_refuse_invalid_timeout(self, timeout: float) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match="timeout"):
                socksclient.bind(ANYONE, timeout, proxy=server.url)
            assert server.connections == []
            with socksclient.bind(ANYONE, 10, proxy=server.url) as listener:
                with pytest.raises(ValueError, match="timeout"):
                    listener.accept(timeout)
                with socket.create_connection(listener.address):
                    listener.accept()[0].close()

    @pytest.mark.parametrize("stall_after", [0, 1, 2, 3, 4, 5, 13])
    def test_bind_timeout_leaves_nothing_open(self, bind: Bind, stall_after: int) -> None:
        faults = Faults(stall_after=stall_after)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            with pytest.raises(TimeoutError) as held:
                bind(NOBODY, proxy=server.url, timeout=0.05)
            assert held

    @pytest.mark.parametrize(
        ("stall_after", "phase"),
        [(0, "method selection"), (2, "authentication"), (4, "request"), (13, "request")],
    )
    def test_bind_timeout_error_has_phase(self, stall_after: int, phase: Phase) -> None:
        faults = Faults(stall_after=stall_after)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
            with pytest.raises(ProxyTimeout) as caught:
                socksclient.bind(NOBODY, SHORT, proxy=server.url)
            assert_place(caught.value, server.url, NOBODY, phase)

    def test_bind_timeout_in_connect_leaves_nothing_open(self, bind: Bind) -> None:
        with silence() as (host, port), nothing_left_open():
            with pytest.raises(TimeoutError) as held:
                bind(NOBODY, proxy=f"socks5h://{host}:{port}", timeout=SOON)
            assert held

    def test_bind_timeout_in_resolver_leaves_nothing_open(
        self, bind: Bind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = threading.Event()

        def wait(_name: str) -> list[str]:
            answer.wait()
            return []

        monkeypatch.setattr(socket, "getaddrinfo", resolver(wait))
        with nothing_left_open():
            try:
                with pytest.raises(TimeoutError):
                    bind(("peer.test", 0), proxy="socks5://127.0.0.1:1", timeout=SOON)
            finally:
                answer.set()

    @pytest.mark.parametrize("count", [14, 15, 18, 19, 23])
    def test_close_after_accept_timeout_leaves_nothing_open(self, bind: Bind, count: int) -> None:
        faults = Faults(stall_after=count)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            listener = bind(ANYONE, proxy=server.url)
            with socket.create_connection(listener.address):
                for _ in range(2):
                    with pytest.raises(TimeoutError):
                        listener.accept(SOON)
                listener.close()
