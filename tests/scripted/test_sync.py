"""What only the blocking driver has, and what both have but one test is enough for."""

from __future__ import annotations

import http.client
import socket

import pytest

import socksclient
from socksclient import (
    NO_AUTHENTICATION,
    AuthenticationError,
    Exchange,
    Flow,
    Method,
    Proxy,
    ProxyConnectError,
    create_connection,
)
from socksclient._sync.driver import open_socket
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.route import Route
from socksclient.testing import Faults, SocksServer

from helpers.origin import Origin
from helpers.support import REFUSED_PORT, Address, Dial, assert_echoes


def test_create_connection_returns_plain_socket(echo_server: Address) -> None:
    with SocksServer() as server, create_connection(echo_server, proxy=server.url) as sock:
        assert type(sock) is socket.socket
        assert sock.getpeername() == server.address


@pytest.mark.parametrize("address", ["name.example:80", ("name.example",), None])
def test_create_connection_refuses_address_that_is_no_pair(address: Address) -> None:
    with pytest.raises(TypeError, match=r"address must be a \(host, port\) pair"):
        create_connection(address, proxy="socks5h://127.0.0.1")


def test_create_connection_source_address(echo_server: Address) -> None:
    with SocksServer() as server:
        source = ("127.0.0.5", 0)
        with create_connection(echo_server, source_address=source, proxy=server.url) as sock:
            assert sock.getsockname()[0] == "127.0.0.5"
        assert server.requests[0].client[0] == "127.0.0.5"


def test_open_socket_socket_options(echo_server: Address) -> None:
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with SocksServer() as server:
        route = Route.through((Proxy.from_url(server.url),), *echo_server)
        sock, _ = open_socket(route, Deadline(5), socket_options=[option])
        with sock:
            assert sock.getsockopt(*option[:2]) != 0
        route = Route.through((Proxy.from_url(server.url),), *echo_server)
        with pytest.raises(ProxyConnectError):
            open_socket(route, Deadline(5), socket_options=[(socket.SOL_SOCKET, -1, 1)])


def test_create_connection_in_http_client(origin: Origin) -> None:
    with SocksServer() as server:
        connection = http.client.HTTPConnection("127.0.0.1", origin.http_port)
        # Libraries that use http.client replace the function that it calls, and it has no argument.
        connection._create_connection = lambda *args, **kwargs: create_connection(  # type: ignore[attr-defined]
            *args, **kwargs, proxy=server.url
        )
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        assert len(server.requests) == 1


def test_create_connection_without_timeout_resolves_in_same_thread(
    names: dict[str, list[str]], echo_server: Address
) -> None:
    names["proxy.test"] = ["127.0.0.1"]
    with SocksServer() as server:
        proxy = f"socks5h://proxy.test:{server.address[1]}"
        with create_connection(echo_server, None, proxy=proxy) as sock:
            assert_echoes(sock)
        with pytest.raises(ProxyConnectError, match="not known"):
            create_connection(echo_server, None, proxy="socks5h://nowhere.test")


TOKEN = b"\x01\x05token"


def negotiate_token(proxy: Proxy) -> Flow[None]:
    answer = yield Exchange(TOKEN, 2)
    if answer != b"\x01\x00":
        raise AuthenticationError(f"the proxy refused the token ({answer.hex()})")


class TestPrivateMethod:
    METHODS = (NO_AUTHENTICATION, Method(0x80, negotiate_token))

    def test_private_method_accepted(self, dial: Dial, echo_server: Address) -> None:
        faults = Faults(method=0x80, answers={"authentication": b"\x01\x00"}, split=True)
        with SocksServer(faults=faults) as server:
            proxy = Proxy(*server.address, methods=self.METHODS)
            with dial(echo_server, proxy=proxy) as sock:
                assert_echoes(sock)
            [request] = server.requests
            assert request.methods == b"\x00\x80"
            assert request.transcript[2] == ("client", TOKEN)

    def test_private_method_refused(self, dial: Dial, echo_server: Address) -> None:
        faults = Faults(method=0x80, answers={"authentication": b"\x01\x07"})
        with SocksServer(faults=faults) as server:
            proxy = Proxy(*server.address, methods=self.METHODS)
            with pytest.raises(AuthenticationError, match="refused the token") as caught:
                dial(echo_server, proxy=proxy)
        assert caught.value.phase == "authentication"
        assert caught.value.proxy is proxy

    def test_private_method_error_stays_as_it_is(self, dial: Dial, echo_server: Address) -> None:
        def negotiate(_proxy: Proxy) -> Flow[None]:
            yield from ()
            raise FileNotFoundError("no keytab")

        with SocksServer(faults=Faults(method=0x80)) as server:
            proxy = Proxy(*server.address, methods=(Method(0x80, negotiate),))
            with pytest.raises(FileNotFoundError, match="no keytab"):
                dial(echo_server, proxy=proxy)

    def test_private_method_not_selected(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer() as server:
            proxy = Proxy(*server.address, methods=self.METHODS)
            with dial(echo_server, proxy=proxy) as sock:
                assert_echoes(sock)


def test_create_connection_to_proxy_with_ipv6_address(dial: Dial, echo_server: Address) -> None:
    with SocksServer(host="::1") as server, dial(echo_server, proxy=server.url) as sock:
        assert_echoes(sock)


def test_create_connection_timeout_of_kernel_is_no_deadline(names: dict[str, list[str]]) -> None:
    # ETIMEDOUT, with which the kernel gives up on a connection, is a TimeoutError as well.
    def give_up(*_args: object) -> None:
        raise TimeoutError(110, "Connection timed out")

    class Socket(socket.socket):
        connect = give_up

    # No public function lets the kernel give up: its own timeout takes minutes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socksclient._net.sockets.PlainSocket", Socket)
        with pytest.raises(ProxyConnectError, match="Connection timed out"):
            create_connection(("192.0.2.1", 80), proxy=f"socks5h://127.0.0.1:{REFUSED_PORT}")


def test_create_connection_broken_in_handshake(echo_server: Address) -> None:
    def break_off(*_args: object) -> bytes:
        raise OSError(113, "No route to host")

    class Socket(socket.socket):
        sendall = break_off  # type: ignore[assignment]

    # On loopback a connection ends by a FIN or by a reset, and by no other error.
    with SocksServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("socksclient._net.sockets.PlainSocket", Socket)
        with pytest.raises(
            socksclient.ProxyClosed, match="the connection to the proxy broke: No route to host"
        ) as caught:
            create_connection(echo_server, proxy=server.url)
    assert caught.value.phase == "method selection"
    assert str(caught.value.__cause__) == "[Errno 113] No route to host"
