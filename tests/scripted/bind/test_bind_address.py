"""The address at which a proxy listens, as its first reply tells it."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from socksclient import (
    ProtocolError,
)
from socksclient.protocol.address import host_port
from socksclient.testing import Faults, SocksServer

from helpers.listeners import (
    ANYONE,
    NOBODY,
    Bind,
    ScriptedProxy,
    assert_carries,
    assert_place,
)
from helpers.support import (
    nothing_left_open,
)


class TestListenerAddress:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    @pytest.mark.parametrize("unspecified", ["0.0.0.0", "::"])
    def test_address_unspecified_is_host_of_proxy(
        self, bind: Bind, host: str, unspecified: str
    ) -> None:
        faults = Faults(bound_address=(unspecified, 4711))
        with SocksServer(host=host, faults=faults) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                assert listener.address == (host, 4711)

    @pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "name.test"])
    def test_address_is_bound_address_of_reply(self, bind: Bind, host: str) -> None:
        with SocksServer(faults=Faults(bound_address=(host, 4711))) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                assert listener.address == (host, 4711)

    def test_address_ipv4_mapped_is_ipv4(self, bind: Bind) -> None:
        with SocksServer(faults=Faults(bound_address=("::ffff:192.0.2.7", 4711))) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                assert listener.address == ("192.0.2.7", 4711)

    def test_accept_ipv4_mapped_peer_is_ipv4(self, bind: Bind) -> None:
        with ScriptedProxy() as proxy, closing(bind(NOBODY, proxy=proxy.url)) as listener:
            proxy.say(b"\x05\0\0\x04" + bytes(10) + b"\xff\xff\xc0\0\x02\x01" + b"\0\x50")
            accepted = listener.accept()
            assert accepted.peer == NOBODY
            accepted.close()

    @pytest.mark.parametrize(
        "host",
        ["224.0.0.1", "255.255.255.255", "0.1.2.3", "ff02::1", "4000::1", "::ffff:240.0.0.1"],
    )
    def test_bind_refuses_bound_address_that_no_host_can_have(self, bind: Bind, host: str) -> None:
        with SocksServer(faults=Faults(bound_address=(host, 4711))) as server, nothing_left_open():
            with pytest.raises(ProtocolError, match="no host can have its bound address") as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    @pytest.mark.parametrize("told", ["its own", "0.0.0.0", "::"])
    def test_bind_refuses_bound_address_of_proxy_itself(
        self, bind: Bind, host: str, told: str
    ) -> None:
        """3proxy 0.9.6 to 1.0.0 replies with the address at which it serves SOCKS."""
        with SocksServer(host=host) as server, nothing_left_open():
            _, port = server.address
            bound_address = (host if told == "its own" else told, port)
            server.misbehave(Faults(bound_address=bound_address))
            with pytest.raises(ProtocolError, match="which is where it serves SOCKS") as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)
            assert host_port(host, port) in str(held.value.strerror)

    def test_bind_refuses_ipv4_mapped_bound_address_of_proxy_itself(self, bind: Bind) -> None:
        with SocksServer() as server:
            server.misbehave(Faults(bound_address=("::ffff:127.0.0.1", server.address[1])))
            for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "localhost"):
                with pytest.raises(ProtocolError, match="where it serves SOCKS"):
                    bind(NOBODY, proxy=server.url.replace("127.0.0.1", host))

    @pytest.mark.parametrize("host", ["127.0.0.1", "last.test"])
    @pytest.mark.parametrize("told", ["its own", "0.0.0.0"])
    def test_bind_refuses_bound_address_of_last_hop_itself(
        self, bind: Bind, host: str, told: str
    ) -> None:
        with SocksServer() as nearest, SocksServer() as last:
            _, port = last.address
            nearest.routes[host, port] = last.address
            chain = [nearest.url, last.url.replace("127.0.0.1", host)]
            last.misbehave(Faults(bound_address=(host if told == "its own" else told, port)))
            with pytest.raises(ProtocolError, match="where it serves SOCKS") as caught:
                bind(NOBODY, proxy=chain)
            assert caught.value.hop == 1
            # The last hop may listen at the port of the nearest one, because it is another host.
            last.misbehave(Faults(bound_address=("192.0.2.7", nearest.address[1])))
            with closing(bind(NOBODY, proxy=chain)) as listener:
                assert listener.address == ("192.0.2.7", nearest.address[1])

    def test_address_with_port_of_proxy_at_other_host(self, bind: Bind) -> None:
        with SocksServer() as server:
            bound_address = ("192.0.2.7", server.address[1])
            server.misbehave(Faults(bound_address=bound_address))
            with closing(bind(NOBODY, proxy=server.url)) as listener:
                assert listener.address == bound_address

    def test_address_from_proxy_at_unix_socket(self, bind: Bind, tmp_path: Path) -> None:
        with SocksServer(path=str(tmp_path / "proxy")) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                with socket.create_connection(listener.address) as peer:
                    assert_carries(listener.accept(), peer)

    @pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "name.test"])
    def test_bind_refuses_bound_address_with_port_0(self, bind: Bind, host: str) -> None:
        with SocksServer(faults=Faults(bound_address=(host, 0))) as server, nothing_left_open():
            with pytest.raises(ProtocolError, match="bound address has port 0") as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)
