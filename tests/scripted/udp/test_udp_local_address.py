"""The local address of an association, and sockets that the system refuses."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import socksclient.anyio
from socksclient import (
    ProxyConnectError,
)
from socksclient.protocol.address import AddressType
from socksclient.protocol.codes import Command
from socksclient.testing import Connection, Faults, SocksServer

from helpers.associations import (
    DESTINATION,
    Associate,
    assert_echoes,
    free_udp_port,
)
from helpers.support import (
    Address,
    PlayedProxy,
    nothing_left_open,
    resolved_names,
)


def only_request(server: SocksServer) -> Connection:
    [seen] = server.requests
    assert seen.command == Command.UDP_ASSOCIATE
    return seen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_udp_associate_announces_no_address_by_default(associate: Associate, host: str) -> None:
    with SocksServer(host=host) as server:
        associate(server.url)
        seen = only_request(server)
        # In the family of the connection: Dante takes that for the relay's.
        if host == "::1":
            assert (seen.address_type, seen.destination) == (AddressType.IPV6, ("::", 0))
        else:
            assert (seen.address_type, seen.destination) == (AddressType.IPV4, ("0.0.0.0", 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
@pytest.mark.parametrize("which_port", ["any port", "a port"])
def test_udp_associate_announces_local_address(
    associate: Associate, host: str, which_port: str, udp_echo: Address
) -> None:
    with SocksServer(faults=Faults(relay_host="::1" if host == "::1" else None)) as server:
        port = free_udp_port(host) if which_port == "a port" else 0
        talk = associate(server.url, local_address=(host, port))
        assert talk.local_address[0] == host
        assert talk.local_address[1] == port or port == 0
        assert only_request(server).destination == talk.local_address
        assert_echoes(talk, udp_echo)


@pytest.mark.parametrize("host", ["localhost", "name.test", "127.1"])
def test_local_address_that_is_a_name(associate: Associate, host: str) -> None:
    with SocksServer() as server, nothing_left_open(), resolved_names() as names:
        with pytest.raises(ValueError, match="must be an IP address") as held:
            associate(server.url, local_address=(host, 0))
        assert server.connections == [], held
        assert names == []


def test_local_address_of_another_family(associate: Associate) -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(ProxyConnectError, match="another address family") as caught:
            associate(server.url, local_address=("::1", 0))
        assert caught.value.errno == errno.EAFNOSUPPORT
        assert caught.value.phase == "relay"


@pytest.mark.parametrize("local_address", [("192.0.2.1", 0), ("::1%lo", 0), ("127.0.0.1", 65536)])
def test_local_address_that_is_not_of_this_host(
    associate: Associate, local_address: Address
) -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises((OSError, ValueError, OverflowError)) as held:
            associate(server.url, local_address=local_address)
        assert server.connections == [], held


@pytest.mark.parametrize(
    ("host", "port", "number"),
    [("192.0.2.1", 0, errno.EADDRNOTAVAIL), ("127.0.0.1", "taken", errno.EADDRINUSE)],
)
def test_local_address_that_the_system_refuses(
    associate: Associate, peer: socket.socket, host: str, port: int | str, number: int
) -> None:
    with SocksServer() as server, nothing_left_open():
        taken = peer.getsockname()[1]
        where = (host, taken if port == "taken" else 0)
        text = f"^cannot send datagrams from {host}:{where[1]}: {os.strerror(number)} .phase: conn"
        with pytest.raises(ProxyConnectError, match=text) as caught:
            associate(server.url, local_address=where)
        assert caught.value.errno == number
        assert caught.value.proxy is not None
        assert server.connections == []


def test_source_address_that_the_system_refuses() -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(ProxyConnectError, match="Cannot assign requested") as caught:
            socksclient.create_connection(
                DESTINATION, source_address=("192.0.2.1", 0), proxy=server.url
            )
        assert (caught.value.errno, caught.value.phase) == (errno.EADDRNOTAVAIL, "connect")
        assert server.connections == []


@pytest.mark.parametrize("port", [65536, -1, "1", None])
def test_local_address_with_an_invalid_port(associate: Associate, port: Any) -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(ValueError, match=r"^port "):
            associate(server.url, local_address=("127.0.0.1", port))
        assert server.connections == []


def test_udp_associate_refuses_socks4_before_it_makes_a_socket(associate: Associate) -> None:
    with pytest.raises(ValueError, match="a SOCKS4 proxy does not support UDP ASSOCIATE"):
        associate("socks4://127.0.0.1:1", local_address=("192.0.2.1", 0))


def test_local_address_that_is_no_pair() -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(TypeError, match="pair") as held:
            socksclient.udp_associate(
                proxy=server.url,
                local_address="127.0.0.1",  # type: ignore[arg-type]
            )
        assert server.connections == [], held


class TestSystemLimits:
    """The system makes the control connection, and then refuses a socket or an epoll."""

    def assert_refused(
        self, call: Callable[[], object], text: str, number: int, phase: str = "relay"
    ) -> None:
        with pytest.raises(ProxyConnectError) as caught:
            call()
        assert str(caught.value).startswith(f"{text}: {os.strerror(number)}")
        assert (caught.value.errno, caught.value.phase) == (number, phase)
        assert caught.value.proxy is not None

    @pytest.fixture
    def refuse(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
        """Return a function after which the system makes no UDP sockets (of a family)."""

        def refuse(number: int, family: int | None = None) -> None:
            class Socket(socket.socket):
                def __init__(self, of: int = -1, kind: int = -1, *args: Any, **others: Any) -> None:
                    if kind == socket.SOCK_DGRAM and family in (None, of):
                        raise OSError(number, os.strerror(number))
                    super().__init__(of, kind, *args, **others)

            monkeypatch.setattr("socksclient._net.relay.PlainSocket", Socket)

        return refuse

    def test_udp_associate_without_ipv6(
        self, associate: Associate, refuse: Callable[[int, int], None]
    ) -> None:
        with PlayedProxy(bound_host="::1") as played, nothing_left_open():
            refuse(errno.EAFNOSUPPORT, socket.AF_INET6)
            where = f"[::1]:{played.relay.getsockname()[1]}"
            self.assert_refused(
                lambda: associate(played.url),
                f"cannot make a UDP socket for the relay, {where}",
                errno.EAFNOSUPPORT,
            )
            assert played.control.recv(1) == b""
            played.end()

    def test_udp_associate_without_a_descriptor(
        self, associate: Associate, played: PlayedProxy, refuse: Callable[[int], None]
    ) -> None:
        with nothing_left_open():
            refuse(errno.EMFILE)
            host, port = played.relay.getsockname()
            self.assert_refused(
                lambda: associate(played.url),
                f"cannot make a UDP socket for the relay, {host}:{port}",
                errno.EMFILE,
            )
            played.end()

    def test_local_address_without_a_descriptor(
        self, associate: Associate, refuse: Callable[[int], None]
    ) -> None:
        with SocksServer() as server, nothing_left_open():
            refuse(errno.EMFILE)
            self.assert_refused(
                lambda: associate(server.url, local_address=("127.0.0.1", 0)),
                "cannot send datagrams from 127.0.0.1:0",
                errno.EMFILE,
                "connect",
            )
            assert server.connections == []

    @pytest.mark.parametrize("local_address", [None, ("127.0.0.1", 0)], ids=["", "bound"])
    @pytest.mark.parametrize("at", ["epoll", "register"])
    def test_udp_associate_without_an_epoll(
        self,
        associate: Associate,
        played: PlayedProxy,
        monkeypatch: pytest.MonkeyPatch,
        at: str,
        local_address: Address | None,
    ) -> None:
        number = errno.EMFILE if at == "epoll" else errno.ENOSPC
        closed = []

        class Epoll:
            def __init__(self) -> None:
                if at == "epoll":
                    raise OSError(number, os.strerror(number))

            def register(self, sock: socket.socket, events: int) -> None:
                raise OSError(number, os.strerror(number))

            def close(self) -> None:
                closed.append(self)

        lacking = SimpleNamespace(epoll=Epoll, EPOLLIN=select.EPOLLIN)
        with nothing_left_open():
            monkeypatch.setattr("socksclient._net.association.select", lacking)
            host, port = played.relay.getsockname()
            self.assert_refused(
                lambda: associate(played.url, local_address=local_address),
                f"cannot wait for datagrams of the relay, {host}:{port}",
                number,
            )
            assert len(closed) == (at == "register")
            played.end()
