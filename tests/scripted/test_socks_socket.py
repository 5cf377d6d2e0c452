"""`SocksSocket`: a socket that connects through a proxy, and is a plain one in all else."""

from __future__ import annotations

import errno
import select
import selectors
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from socksclient import (
    Flow,
    Method,
    Proxy,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    SocksSocket,
)
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.origin import Origin
from helpers.support import (
    REFUSED_PORT,
    Address,
    assert_echoes,
    needs,
    nothing_left_open,
    receive_exactly,
    resolved_names,
    silence,
)

MISSING = real_servers.missing()


class TestConnect:
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4", "socks4a", "http"])
    def test_socks_socket_connect_with_each_scheme(self, scheme: str, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url_as(scheme)) as sock:
            sock.connect(echo_server)
            assert_echoes(sock)
            assert server.requests[0].destination == echo_server

    def test_socks_socket_connect_through_chain(self, echo_server: Address) -> None:
        with SocksServer() as one, SocksServer() as two, SocksSocket([one.url, two.url]) as sock:
            sock.connect(echo_server)
            assert_echoes(sock)
            assert one.requests[0].destination == two.address
            assert two.requests[0].destination == echo_server

    def test_socks_socket_connect_leaves_name_to_proxy(self, echo_server: Address) -> None:
        with SocksServer(routes={("origin.test", 80): echo_server}) as server:
            with resolved_names() as resolved, SocksSocket(server.url) as sock:
                sock.connect(("origin.test", 80))
            assert resolved == []
            assert server.requests[0].destination == ("origin.test", 80)

    def test_socks_socket_connect_to_ipv6_address_of_four_values(
        self, echo_server_6: Address
    ) -> None:
        host, port = echo_server_6
        with SocksServer(host="::1") as server:
            with SocksSocket(server.url, socket.AF_INET6) as sock:
                sock.connect((host, port, 0, 0))
                assert sock.family == socket.AF_INET6
                assert_echoes(sock)

    def test_socks_socket_family_becomes_that_of_proxy(
        self, echo_server: Address, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "s")
        with SocksServer(host="::1") as server, SocksServer(path=path) as unix:
            for one, family in ((server, socket.AF_INET6), (unix, socket.AF_UNIX)):
                with SocksSocket(one.url) as sock:
                    assert sock.family == socket.AF_INET
                    sock.connect(echo_server)
                    assert sock.family == family
                    assert sock.getpeername() == (path if one is unix else (*one.address, 0, 0))
                    assert_echoes(sock)

    def test_socks_socket_connect_timeout_is_one_deadline(self, echo_server: Address) -> None:
        with SocksServer(faults=[Faults(drip=0.1)]) as server, SocksSocket(server.url) as sock:
            sock.settimeout(0.3)
            with pytest.raises(ProxyTimeout):
                sock.connect(echo_server)
            sock.settimeout(10)
            # After a failure, the socket can connect again.
            sock.connect(echo_server)
            assert sock.gettimeout() == 10
            assert_echoes(sock)

    def test_socks_socket_connect_default_timeout(self, echo_server: Address) -> None:
        with silence() as (host, port):
            socket.setdefaulttimeout(0.1)
            try:
                with SocksSocket(Proxy(host, port)) as sock, pytest.raises(ProxyTimeout):
                    sock.connect(echo_server)
            finally:
                socket.setdefaulttimeout(None)

    def test_socks_socket_options_before_connect(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.connect(echo_server)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM

    def test_socks_socket_refuses_invalid_option(self) -> None:
        with SocksSocket("socks5h://127.0.0.1") as sock, pytest.raises(OSError, match=r"\[Errno"):
            sock.setsockopt(socket.SOL_SOCKET, -1, 1)

    def test_socks_socket_bind_before_connect(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.bind(("127.0.0.3", 0))
            sock.connect(echo_server)
            assert sock.getsockname()[0] == "127.0.0.3"
            assert server.connections[0].client == sock.getsockname()

    def test_socks_socket_bind_to_any_address_before_connect(
        self, echo_server: Address, tmp_path: Path
    ) -> None:
        with SocksServer(path=str(tmp_path / "s")) as server, SocksSocket(server.url) as sock:
            sock.bind(("", 0))
            sock.connect(echo_server)
            assert_echoes(sock)

    def test_socks_socket_connect_leaves_nothing_open(self, echo_server: Address) -> None:
        with SocksServer(faults=[Faults(reply=0x05)]) as server, nothing_left_open():
            with SocksSocket(server.url) as sock:
                with pytest.raises(ConnectionRefusedError):
                    sock.connect(echo_server)
                sock.connect(echo_server)
                sock.dup().close()

    def test_socks_socket_closed_during_connect(self, echo_server: Address) -> None:
        """The caller's own method of authentication closes the socket."""

        def close(_proxy: Proxy) -> Flow[None]:
            sock.close()
            yield from ()

        with SocksServer() as server:
            proxy = Proxy(*server.address, methods=(Method(0x00, close),))
            with nothing_left_open():
                sock = SocksSocket(proxy)
                with pytest.raises(OSError, match="Bad file descriptor") as held:
                    sock.connect(echo_server)
        assert held.value.errno == errno.EBADF
        assert sock.fileno() == -1

    def test_socks_socket_interrupt_before_it_takes_connection(
        self, echo_server: Address, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = socket.socket.__init__

        def interrupted(self: socket.socket, *args: Any, **kwargs: Any) -> None:
            if isinstance(self, SocksSocket) and kwargs.get("fileno") is not None:
                raise KeyboardInterrupt
            original(self, *args, **kwargs)

        with SocksServer() as server, nothing_left_open():
            sock = SocksSocket(server.url)
            with monkeypatch.context() as patched:
                patched.setattr(socket.socket, "__init__", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    sock.connect(echo_server)
            sock.close()

    def test_socks_socket_interrupt_after_it_has_taken_connection(
        self, echo_server: Address, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = socket.socket.__init__

        def interrupted(self: socket.socket, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if isinstance(self, SocksSocket) and kwargs.get("fileno") is not None:
                raise KeyboardInterrupt

        with SocksServer() as server, nothing_left_open():
            sock = SocksSocket(server.url)
            with monkeypatch.context() as patched:
                patched.setattr(socket.socket, "__init__", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    sock.connect(echo_server)
            sock.close()


class TestConnectEx:
    def test_socks_socket_connect_ex_returns_errno(self, echo_server: Address) -> None:
        replies = {
            Reply.CONNECTION_REFUSED: errno.ECONNREFUSED,
            Reply.HOST_UNREACHABLE: errno.EHOSTUNREACH,
            Reply.GENERAL_SOCKS_SERVER_FAILURE: errno.EIO,  # it has none
        }
        with SocksServer(faults=[Faults(reply=reply) for reply in replies]) as server:
            with SocksSocket(server.url) as sock:
                for number in replies.values():
                    assert sock.connect_ex(echo_server) == number
                assert sock.connect_ex(echo_server) == 0
                assert sock.connect_ex(echo_server) == errno.EISCONN
                assert_echoes(sock)

    def test_socks_socket_connect_ex_if_proxy_is_unreachable(
        self, names: dict[str, list[str]]
    ) -> None:
        with SocksSocket(Proxy("127.0.0.1", REFUSED_PORT)) as sock:
            assert sock.connect_ex(("origin.test", 80)) == errno.ECONNREFUSED
        with SocksSocket("socks5h://nowhere.test") as sock:  # the resolver's numbers are negative
            assert sock.connect_ex(("origin.test", 80)) == errno.EIO

    def test_socks_socket_connect_ex_raises_value_error(self) -> None:
        with SocksSocket("socks5h://127.0.0.1") as sock:
            with pytest.raises(ValueError, match="port 70000"):
                sock.connect_ex(("origin.test", 70000))


class TestListen:
    def test_socks_socket_listen_for_one_peer(self) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.settimeout(10)
            sock.bind(("", 0))
            sock.listen(5)
            address = sock.getsockname()
            assert select.select([sock], [], [], 0) == ([], [], [])
            with socket.create_connection(address, 10) as peer:
                assert select.select([sock], [], [], 10) == ([sock], [], [])
                connection, peer_address = sock.accept()
                with connection:
                    assert peer_address == peer.getsockname()
                    assert type(connection) is socket.socket
                    assert connection.gettimeout() == 10
                    peer.sendall(b"over the wire")
                    assert receive_exactly(connection, 13) == b"over the wire"
                    with pytest.raises(OSError, match="accepted its one peer"):
                        sock.accept()
                    sock.close()
                    connection.sendall(b"back")
                    assert receive_exactly(peer, 4) == b"back"
            assert server.requests[0].destination == ("0.0.0.0", 0)

    def test_socks_socket_listen_ipv6(self) -> None:
        with SocksServer(host="::1") as server, SocksSocket(server.url, socket.AF_INET6) as sock:
            sock.settimeout(10)
            sock.listen()
            assert server.requests[0].destination == ("::", 0)
            host, *_ = address = sock.getsockname()
            assert (host, address[2:]) == ("::1", (0, 0))
            with socket.create_connection(address[:2], 10) as peer:
                connection, peer_address = sock.accept()
                connection.close()
                assert peer_address == peer.getsockname()

    @pytest.mark.parametrize("schemes", [["socks4"], ["http", "socks5h"]])
    def test_socks_socket_listen_with_each_kind_of_proxy(self, schemes: list[str]) -> None:
        with ExitStack() as stack:
            servers = [stack.enter_context(SocksServer()) for _ in schemes]
            chain = [server.url_as(scheme) for server, scheme in zip(servers, schemes, strict=True)]
            sock = stack.enter_context(SocksSocket(chain))
            sock.settimeout(10)
            with accepted_by(sock) as (connection, peer):
                assert_passes(connection, peer)

    def test_socks_socket_options_before_listen(self) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.settimeout(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with accepted_by(sock) as (connection, _):
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    def test_socks_socket_bind_before_listen(self) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.bind(("127.0.0.3", 0))
            sock.listen()
            assert server.connections[0].client[0] == "127.0.0.3"

    def test_socks_socket_accept_after_timeout(self) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.listen()
            sock.settimeout(0.05)
            with pytest.raises(ProxyTimeout):
                sock.accept()
            sock.settimeout(10)
            with socket.create_connection(sock.getsockname(), 10):
                sock.accept()[0].close()

    def test_socks_socket_listen_leaves_nothing_open(self) -> None:
        with SocksServer() as server, nothing_left_open():
            with SocksSocket(server.url) as sock:
                sock.listen()

    def test_socks_socket_listen_and_accept_in_wrong_state(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            with pytest.raises(OSError, match="Invalid argument"):
                sock.accept()
            sock.bind(("127.0.0.1", REFUSED_PORT))
            with pytest.raises(
                OSError, match="the proxy chooses the port to listen at; bind to port 0"
            ):
                sock.listen()
            assert server.connections == []
            sock.bind(("", 0))
            sock.listen()
            with pytest.raises(OSError, match="Invalid argument"):
                sock.listen()
            with pytest.raises(OSError, match="Invalid argument"):
                sock.connect(echo_server)
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.connect(echo_server)
            with pytest.raises(OSError, match="Invalid argument"):
                sock.listen()

    def test_socks_socket_listen_refuses_http_proxy(self) -> None:
        with SocksSocket("http://127.0.0.1") as sock:
            with pytest.raises(ValueError, match="an HTTP proxy does not support BIND"):
                sock.listen()


@needs(MISSING)
@pytest.mark.parametrize("scheme", ["socks5h", "socks4"])
def test_socks_socket_with_dante(scheme: str, echo_server: Address, tmp_path: Path) -> None:
    with real_servers.dante(tmp_path) as url:
        proxy = url.replace("socks5h", scheme)
        with SocksSocket(proxy) as sock:
            sock.settimeout(10)
            sock.connect(echo_server)
            assert_echoes(sock)
        with SocksSocket(proxy) as sock:
            sock.settimeout(10)
            with accepted_by(sock) as (connection, peer):
                assert_passes(connection, peer)
                assert_passes(peer, connection)


@contextmanager
def accepted_by(sock: SocksSocket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the connection that the socket accepts, and the other end of it."""
    sock.listen()
    with socket.create_connection(sock.getsockname(), 10) as peer:
        connection, address = sock.accept()
        with connection:
            assert address == peer.getsockname()
            yield connection, peer


def assert_passes(source: socket.socket, target: socket.socket) -> None:
    source.sendall(b"over the wire")
    assert receive_exactly(target, 13) == b"over the wire"


class TestLikeASocket:
    def test_socks_socket_methods_of_socket(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            assert isinstance(sock, socket.socket)
            sock.connect(echo_server)
            assert sock.sendmsg([b"a", b"b"]) == 2
            assert receive_exactly(sock, 2) == b"ab"
            with selectors.DefaultSelector() as selector:
                selector.register(sock, selectors.EVENT_READ)
                sock.sendall(b"more")
                assert selector.select(10)[0][0].fileobj is sock
                assert receive_exactly(sock, 4) == b"more"
            with sock.makefile("rwb") as file:
                file.write(b"line\n")
                file.flush()
                assert file.readline() == b"line\n"
            assert sock.fileno() >= 0
        assert sock.fileno() == -1

    def test_socks_socket_timeout_after_connect(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.settimeout(10)
            sock.connect(echo_server)
            assert sock.gettimeout() == 10
            sock.settimeout(0.01)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            sock.settimeout(None)
            assert_echoes(sock)

    def test_socks_socket_dup_is_plain_socket(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.connect(echo_server)
            sock.settimeout(10)
            with sock.dup() as double:
                assert type(double) is socket.socket
                assert double.gettimeout() == 10
                sock.close()
                assert_echoes(double)

    def test_socks_socket_dup_unconnected_is_refused(self) -> None:
        with SocksSocket("socks5h://127.0.0.1") as sock:
            with pytest.raises(OSError, match="not connected"):
                sock.dup()

    def test_socks_socket_wrap_socket(self, origin: Origin) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.connect(("localhost", origin.https_port))
            with origin.trust().wrap_socket(sock, server_hostname="localhost") as tls:
                tls.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                assert tls.recv(8) == b"HTTP/1.1"

    def test_socks_socket_wrap_socket_unconnected_is_refused(self) -> None:
        with SocksSocket("socks5h://127.0.0.1") as sock, nothing_left_open():
            with pytest.raises(ValueError, match="connect a SocksSocket before you put TLS around"):
                ssl.create_default_context().wrap_socket(sock, server_hostname="origin.test")

    def test_socks_socket_refuses_to_send_past_proxy(self, echo_server: Address) -> None:
        with resolved_names() as resolved, SocksSocket("socks5h://127.0.0.1") as sock:
            with pytest.raises(OSError, match="would go past the proxy"):
                sock.sendto(b"x", ("origin.test", 80))
            with pytest.raises(OSError, match="would go past the proxy"):
                sock.sendto(b"x", 0, ("origin.test", 80))
            with pytest.raises(OSError, match="not supported"):
                sock.sendmsg([b"x"], [], 0, ("origin.test", 80))
            assert resolved == []

    def test_socks_socket_closed(self, echo_server: Address) -> None:
        sock = SocksSocket("socks5h://127.0.0.1")
        sock.close()
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.connect(echo_server)
        with pytest.raises(OSError, match="Bad file descriptor"):
            sock.listen()


class TestFileno:
    def test_socks_socket_fileno_connected(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with socket.create_connection(listener.getsockname()) as peer:
                accepted, _ = listener.accept()
                with SocksSocket("socks5h://127.0.0.1", fileno=accepted.detach()) as sock:
                    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    assert_passes(sock, peer)
                    assert_passes(peer, sock)
                    with sock.dup() as double:
                        assert_passes(double, peer)
                    assert sock.connect_ex(("origin.test", 80)) == errno.EISCONN

    def test_socks_socket_fileno_listening(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            descriptor = socket.dup(listener.fileno())
            with SocksSocket("socks5h://127.0.0.1", fileno=descriptor) as sock:
                with socket.create_connection(sock.getsockname()) as peer:
                    accepted, address = sock.accept()
                    with accepted:
                        assert address == peer.getsockname()
                        assert_passes(peer, accepted)

    def test_socks_socket_fileno_unconnected(self) -> None:
        with SocksServer() as server, resolved_names() as resolved:
            plain = socket.socket()
            with SocksSocket(server.url, fileno=plain.detach()) as sock:
                with pytest.raises(OSError, match="made from a descriptor cannot connect"):
                    sock.connect(("origin.test", 80))
                for refused in (lambda: sock.bind(("127.0.0.1", 0)), sock.listen, sock.accept):
                    with pytest.raises(OSError, match="Invalid argument"):
                        refused()
                # These would make plain sockets, which would connect past the proxy.
                with pytest.raises(OSError, match="not connected"):
                    sock.dup()
                with pytest.raises(ValueError, match="connect a SocksSocket before you put TLS"):
                    ssl.create_default_context().wrap_socket(sock, server_hostname="origin.test")
            assert resolved == []
            assert server.connections == []

    def test_socks_socket_fileno_of_datagram_socket_stays_open(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as plain, nothing_left_open():
            with pytest.raises(ValueError, match="type must be SOCK_STREAM"):
                SocksSocket("socks5h://127.0.0.1", fileno=plain.fileno())
            plain.bind(("127.0.0.1", 0))

    def test_socks_socket_fileno_invalid(self) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            SocksSocket("socks5h://127.0.0.1", fileno=10**6)


class TestWithinTheMachine:
    """Sockets of AF_UNIX and of AF_NETLINK are plain ones, and use no proxy."""

    def test_socks_socket_unix_stream(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        url = "socks5h://127.0.0.1:1"
        with SocksSocket(url, socket.AF_UNIX) as listener, SocksSocket(url, socket.AF_UNIX) as sock:
            listener.bind(path)
            listener.listen(1)
            sock.setblocking(False)
            sock.connect(path)
            peer, _ = listener.accept()
            with peer, sock.dup() as double:
                assert_passes(sock, peer)
                assert_passes(double, peer)
                assert sock.getpeername() == path
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        with SocksSocket(url, socket.AF_UNIX) as sock:
            assert sock.connect_ex(str(tmp_path / "none")) == errno.ENOENT

    def test_socks_socket_unix_datagrams(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        kind = (socket.AF_UNIX, socket.SOCK_DGRAM)
        with SocksSocket("socks5h://h", *kind) as one, SocksSocket("socks5h://h", *kind) as two:
            one.bind(path)
            two.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            two.sendto(b"a", path)
            two.sendto(b"b", 0, path)
            two.sendmsg([b"c"], [], 0, path)
            two.connect(path)
            two.sendmsg([b"d"])
            assert [one.recv(10) for _ in range(4)] == [b"a", b"b", b"c", b"d"]

    def test_socks_socket_unix_pair(self) -> None:
        one, two = socket.socketpair()
        wrapped = SocksSocket("socks5h://h", socket.AF_INET, socket.SOCK_STREAM, 0, one.detach())
        with wrapped, two:
            assert wrapped.family == socket.AF_UNIX
            assert_passes(wrapped, two)

    def test_socks_socket_netlink(self) -> None:
        with SocksSocket("socks5h://h", socket.AF_NETLINK, socket.SOCK_RAW) as sock:
            sock.bind((0, 0))


class TestInvalidUse:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"proxy": "127.0.0.1:1080"}, "has no scheme"),
            ({"proxy": []}, "empty sequence"),
            ({"proxy": "socks5h+tls://h"}, "a proxy with TLS; use create_connection"),
            (
                {"proxy": ["socks5h://h", "https://i"]},
                "SocksSocket cannot go through a proxy with TLS",
            ),
            ({"type": socket.SOCK_DGRAM}, "type must be SOCK_STREAM.* use udp_associate"),
            ({"family": socket.AF_INET6, "type": socket.SOCK_DGRAM}, "type must be SOCK_STREAM"),
            ({"family": socket.AF_VSOCK}, "family must be AF_INET, AF_INET6 or AF_UNIX"),
        ],
    )
    def test_socks_socket_refuses_invalid_arguments(
        self, arguments: dict[str, Any], text: str
    ) -> None:
        with nothing_left_open(), pytest.raises(ValueError, match=text):
            SocksSocket(**{"proxy": "socks5h://h", **arguments})

    def test_socks_socket_refuses_non_blocking_connect(self, echo_server: Address) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.setblocking(False)
            for connect in (sock.connect, sock.connect_ex):
                with pytest.raises(ValueError, match=r"socksclient\.anyio\.connect_socket can"):
                    connect(echo_server)
            assert server.connections == []

    def test_socks_socket_refuses_non_blocking_listen_and_accept(self) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            sock.setblocking(False)
            with pytest.raises(ValueError, match=r"cannot listen; socksclient\.anyio\.bind can"):
                sock.listen()
            assert server.connections == []
            sock.settimeout(10)
            sock.listen()
            sock.setblocking(False)
            with pytest.raises(ValueError, match=r"cannot accept; socksclient\.anyio\.bind can"):
                sock.accept()

    def test_socks_socket_refuses_class_without_methods_of_socket(self) -> None:
        """The class of eventlet is one of these, as integrations/test_green_threads.py shows."""
        with pytest.raises(NotImplementedError, match="cannot be made from eventlet's sockets"):
            SocksSocket.__new__(type("GreenSocket", (), {}))

    def test_socks_socket_refuses_invalid_addresses(self) -> None:
        with SocksServer() as server, SocksSocket(server.url) as sock:
            with pytest.raises(ValueError, match="port 0 is not in the range"):
                sock.connect(("origin.test", 0))
            with pytest.raises(ValueError, match="host is empty"):
                sock.connect(("", 80))
            with pytest.raises(ValueError, match="has a scope id"):
                sock.connect(("fe80::1", 80, 0, 3))
            with pytest.raises(ValueError, match=r"must be an IP address, not 'a\.test'"):
                sock.bind(("a.test", 0))
            assert server.connections == []

    def test_socks_socket_connect_if_proxy_is_unreachable(self, echo_server: Address) -> None:
        with SocksSocket(Proxy("127.0.0.1", REFUSED_PORT)) as sock:
            with pytest.raises(ProxyConnectError):
                sock.connect(echo_server)
