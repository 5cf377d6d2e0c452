"""Listeners at the last hop of a chain (BIND)."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace

import pytest

from socksclient import (
    ProtocolError,
    ProxyClosed,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import Phase
from socksclient.protocol.codes import Command
from socksclient.testing import Faults

from helpers.hops import (
    ANYONE,
    HOSTS,
    Bind,
    MakeHops,
    Names,
    leads,
    seen_by,
)
from helpers.http_clients import nothing_left_open
from helpers.support import (
    GREETING,
    receive_exactly,
    resolved_names,
)

pytest_plugins = ["helpers.hop_fixtures"]


class TestChainBind:
    @pytest.mark.parametrize(
        "kinds",
        [
            ("socks5h", "socks5h"),
            ("http", "socks4a"),
            ("socks5h+tls", "socks5h"),
            ("socks4", "socks5h+tls"),
            ("https", "http", "socks4a"),
        ],
        ids=", ".join,
    )
    def test_chain_bind_at_last_hop(
        self, bind: Bind, hops: MakeHops, kinds: tuple[str, ...]
    ) -> None:
        with hops(*kinds) as chain, nothing_left_open():
            with closing(bind(("127.0.0.1", 0), chain.proxies)) as listener:
                assert [seen_by(server).command for server in chain.servers] == [
                    *[Command.CONNECT] * (len(kinds) - 1),
                    Command.BIND,
                ]
                with socket.create_connection(listener.address, 10) as peer:
                    peer.sendall(GREETING)
                    tunnel, address = listener.accept()
                    with tunnel:
                        assert address == peer.getsockname()
                        assert tunnel.receive(len(GREETING)) == GREETING
                        tunnel.send(b"and back")
                        assert receive_exactly(peer, 8) == b"and back"

    @pytest.mark.parametrize(("scheme", "host"), [("socks5h", "second.test"), ("socks5", HOSTS[1])])
    def test_chain_bind_unspecified_address_is_last_hop(
        self, bind: Bind, hops: MakeHops, names: Names, scheme: str, host: str
    ) -> None:
        faults = {1: Faults(bound_address=("0.0.0.0", 4711))}
        with hops(scheme, "socks5h", faults=faults) as chain, nothing_left_open():
            leads(chain, names)
            with closing(bind(ANYONE, chain.named())) as listener:
                assert listener.address == (host, 4711)

    def test_chain_bind_leaves_names_to_hops(self, bind: Bind, hops: MakeHops) -> None:
        with hops("socks5h", "socks4a") as chain, nothing_left_open():
            first, second = chain.servers
            first.routes["second.test", second.address[1]] = second.address
            second.routes["peer.test", 0] = ("127.0.0.1", 0)
            proxies = [chain.proxies[0], replace(chain.proxies[1], host="second.test")]
            with resolved_names() as resolved:
                bind(("peer.test", 0), proxies).close()
            assert resolved == []
            assert seen_by(second).destination == ("peer.test", 0)

    @pytest.mark.parametrize(
        ("fault", "error", "phase"),
        [
            (Faults(reply=0x07), ReplyError, "request"),
            (Faults(bound_address=("127.0.0.1", 0)), ProtocolError, "request"),
            (Faults(close_after=3), ProxyClosed, "request"),
        ],
        ids=str,
    )
    def test_chain_bind_failure_names_hop(
        self, bind: Bind, hops: MakeHops, fault: Faults, error: type[SocksError], phase: Phase
    ) -> None:
        with hops("http", "socks5h", faults={1: fault}) as chain:
            with nothing_left_open(), pytest.raises(error) as caught:
                bind(ANYONE, chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (1, phase)
        assert caught.value.proxy == chain.proxies[1]

    def test_chain_accept_failure_names_hop(self, bind: Bind, hops: MakeHops) -> None:
        with hops("socks4a", "socks5h", faults={1: Faults(second_reply=0x02)}) as chain:
            with nothing_left_open():
                listener = bind(ANYONE, chain.proxies)
                with socket.create_connection(listener.address, 10):
                    with pytest.raises(ReplyError) as caught:
                        listener.accept()
        assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[1])
