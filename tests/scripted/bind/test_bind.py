"""BIND: a proxy that listens for one peer. By our test server and by Dante."""

from __future__ import annotations

import errno
import logging
import re
import socket
from contextlib import closing
from typing import Any

import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.protocol.codes import Phase
from socksclient.testing import Faults, SocksServer

from helpers.listeners import (
    ACCOUNTS,
    NOBODY,
    SERVERS,
    Bind,
    assert_carries,
    assert_place,
    local,
    needs_servers,
)
from helpers.support import (
    REFUSED_PORT,
    Address,
    nothing_left_open,
    resolved_names,
)


class TestBindFailures:
    """The first reply, or the phase before it, fails."""

    @pytest.mark.parametrize(
        ("faults", "kind", "words"),
        [
            *(
                (Faults(reply=rep), ReplyError, f"the proxy refused the request: .*REP {rep:02X}")
                for rep in (0x01, 0x02, 0x08, 0x5A)
            ),
            (Faults(reply=0x07), ReplyError, r"this proxy does not offer BIND: .*\(REP 07\)"),
            (
                Faults(close_after=4),
                ProxyClosed,
                "got 0 of 5 octets; perhaps the proxy does not offer BIND",
            ),
            (
                Faults(reset_after=4),
                ProxyClosed,
                "got 0 of 5 octets; perhaps the proxy does not offer BIND",
            ),
            (Faults(close_after=5), ProxyClosed, r"got 1 of 5 octets \("),
            (Faults(close_after=13), ProxyClosed, r"got 9 of 10 octets \("),
            (
                Faults(answers={"request": b"\x04\x00"}),
                ProtocolError,
                "reply to the request has version 04",
            ),
        ],
        ids=str,
    )
    def test_bind_first_reply_failure(
        self, bind: Bind, faults: Faults, kind: type[SocksError], words: str
    ) -> None:
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            with pytest.raises(kind, match=words) as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)

    @needs_servers
    @pytest.mark.parametrize("server", ["microsocks", "ssh -D"])
    def test_bind_not_offered_by_real_proxy(
        self, bind: Bind, server: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        with SERVERS[server](tmp_path_factory.mktemp("server")) as url, nothing_left_open():
            with pytest.raises(SocksError, match="not offer BIND") as held:
                bind(NOBODY, proxy=url)
            assert_place(held.value, url, NOBODY)
            if isinstance(held.value, ReplyError):  # ssh hangs up
                assert held.value.reply == Reply.COMMAND_NOT_SUPPORTED
                assert held.value.errno == errno.EOPNOTSUPP
            else:
                assert isinstance(held.value, ProxyClosed)

    @pytest.mark.parametrize(
        ("faults", "phase"),
        [(Faults(method=0xFF), "method selection"), (Faults(status=0x01), "authentication")],
        ids=str,
    )
    def test_bind_login_refused(self, bind: Bind, faults: Faults, phase: Phase) -> None:
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            with pytest.raises(PermissionError) as held:
                bind(NOBODY, proxy=server.url)
            assert isinstance(held.value, SocksError)
            assert_place(held.value, server.url, NOBODY, phase)

    def test_bind_refused_connection_to_proxy(self, bind: Bind) -> None:
        url = f"socks5h://127.0.0.1:{REFUSED_PORT}"
        with pytest.raises(ProxyConnectError, match="Connection refused") as caught:
            bind(NOBODY, proxy=url)
        assert_place(caught.value, url, NOBODY, "connect")


class TestBindNames:
    SECRET = ("secret-name.test", 80)

    @pytest.mark.parametrize("faults", [Faults(), Faults(reply=0x04), Faults(second_reply=0x01)])
    def test_bind_leaves_names_to_proxy(self, bind: Bind, faults: Faults) -> None:
        routes = {self.SECRET: ("127.0.0.1", 0)}
        with SocksServer(routes=routes, faults=faults) as server:
            with resolved_names() as names:
                try:
                    with closing(bind(self.SECRET, proxy=server.url)) as listener:
                        with socket.create_connection(listener.address):
                            listener.accept().close()
                except ReplyError:
                    assert faults != Faults()
            assert set(names) <= {"127.0.0.1"}  # of the peer
            [request] = server.requests
            assert (request.command, request.address_type) == (0x02, 0x03)
            assert request.destination == self.SECRET

    def test_bind_tries_each_address_of_name_with_socks5(
        self, bind: Bind, names: dict[str, list[str]]
    ) -> None:
        names["peer.test"] = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "127.0.0.1"]
        names["127.0.0.1"] = ["127.0.0.1"]  # for socket.create_connection
        faults = [Faults(reply=0x04), Faults(reply=0x08), Faults(close_after=2)]
        with SocksServer(faults=faults) as server:
            with closing(bind(("peer.test", 80), proxy=local(server.url))) as listener:
                with socket.create_connection(listener.address) as peer:
                    assert_carries(listener.accept(), peer)
            asked = [request.destination for request in server.requests]
            assert asked == [(address, 80) for address in names["peer.test"]]
            assert {request.command for request in server.requests} == {0x02}

    def test_bind_notes_failure_of_each_address(
        self, bind: Bind, names: dict[str, list[str]]
    ) -> None:
        names["peer.test"] = ["192.0.2.1", "192.0.2.2"]
        faults = [Faults(reply=0x04), Faults(reply=0x03)]
        with SocksServer(faults=faults) as server, nothing_left_open():
            with pytest.raises(ReplyError, match="REP 03") as held:
                bind(("peer.test", 80), proxy=local(server.url))
            assert_place(held.value, local(server.url), ("peer.test", 80))
            [note] = held.value.__notes__
            assert "192.0.2.1: " in note
            assert "REP 04" in note

    def test_bind_name_without_address(self, bind: Bind, names: dict[str, list[str]]) -> None:
        with SocksServer() as server:
            with pytest.raises(ResolveError, match=r"cannot resolve nowhere\.test") as caught:
                bind(("nowhere.test", 80), proxy=local(server.url))
            assert_place(caught.value, local(server.url), ("nowhere.test", 80), "resolve")
            assert server.connections == []

    def test_bind_name_unknown_to_proxy(self, bind: Bind) -> None:
        with SocksServer() as server:
            with pytest.raises(ReplyError, match="host unreachable"):
                bind(("nowhere.invalid", 80), proxy=server.url)


def test_bind_source_address(bind: Bind) -> None:
    with SocksServer() as server:
        bind(NOBODY, proxy=server.url, source="127.0.0.5").close()
        assert server.requests[0].client[0] == "127.0.0.5"


class TestBindArguments:
    @pytest.mark.parametrize(
        ("address", "words"),
        [
            (("", 80), "host is empty"),
            (("n" * 256, 80), "host is 256 octets long"),
            (("fe80::1%eth0", 80), "zone id"),
            (("name.example:80", 80), "has ':' in it"),
            (("name.example", -1), "port -1 is not in the range from 0 to 65535"),
            (("name.example", 65536), "port 65536"),
            (("name.example", "80"), "port must be an integer, not '80'"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
    def test_bind_refuses_invalid_peer(
        self, bind: Bind, address: Address, words: str, scheme: str
    ) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match=re.escape(words)):
                bind(address, proxy=server.url.replace("socks5h", scheme))
            assert server.connections == []

    def test_bind_refuses_host_that_is_not_text(self, bind: Bind) -> None:
        with SocksServer() as server:
            with pytest.raises(TypeError, match="host must be a str, not bytes"):
                bind((b"name.example", 80), proxy=server.url)  # type: ignore[arg-type]
            assert server.connections == []

    @pytest.mark.parametrize("address", ["name.example:80", ("name.example",), None])
    def test_bind_refuses_address_that_is_no_pair(self, address: Any) -> None:
        with SocksServer() as server:
            with pytest.raises(TypeError, match=r"address must be a \(host, port\) pair"):
                socksclient.bind(address, proxy=server.url)
            assert server.connections == []

    def test_bind_refuses_source_address_that_is_a_name(self, bind: Bind) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match="must be an IP address, not 'localhost'"):
                bind(NOBODY, proxy=server.url, source="localhost")
            assert server.connections == []

    def test_bind_refuses_invalid_proxy(self, bind: Bind) -> None:
        with pytest.raises(ValueError, match="scheme"):
            bind(NOBODY, proxy="127.0.0.1:1080")
        with pytest.raises(TypeError, match="proxy must be"):
            bind(NOBODY, proxy=None)  # type: ignore[arg-type]


def test_bind_and_accept_in_log(bind: Bind, caplog: pytest.LogCaptureFixture) -> None:
    with SocksServer() as server, caplog.at_level(logging.DEBUG, "socksclient"):
        with closing(bind(("localhost", 0), proxy=server.url)) as listener:
            with socket.create_connection(listener.address) as peer:
                listener.accept().close()
                places = [listener.address, peer.getsockname()]
    bound, accepted = (f"{host}:{port}" for host, port, *_ in places)
    assert caplog.messages[-2:] == [
        f"BIND localhost:0 via {server.url}: granted, bound address {bound!r}",
        f"BIND localhost:0 via {server.url}: accepted {accepted!r}",
    ]
