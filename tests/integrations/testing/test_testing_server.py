"""`socksclient.testing.SocksServer`: its URLs, unix sockets and TLS, and how it stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import select
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from socksclient import Proxy, create_connection
from socksclient.testing import Faults, SocksServer

from helpers.raw_clients import talk
from helpers.support import (
    GREETING,
    LONG,
    Address,
    assert_echoes,
    echo,
    eventually,
    nothing_left_open,
    receive_exactly,
    reset,
    serving,
)


def test_routes_can_change_while_the_server_runs(
    socks_proxy: SocksServer, echo_server: Address
) -> None:
    socks_proxy.routes["name.test", 80] = echo_server
    with create_connection(("name.test", 80), proxy=socks_proxy.url) as sock:
        assert_echoes(sock)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_url_has_the_first_account(host: str, echo_server: Address) -> None:
    accounts = {"üser:": "p@ss/", "another": "one"}
    with SocksServer(host=host, accounts=accounts) as server:
        proxy = Proxy.from_url(server.url)
        assert (proxy.host, proxy.port) == server.address
        assert (proxy.username, proxy.password) == ("üser:", "p@ss/")
        with create_connection(echo_server, proxy=server.url) as sock:
            assert_echoes(sock)


@pytest.mark.parametrize(
    ("scheme", "userinfo"),
    [
        ("socks5h", "%C3%BCser%3A:p%40ss%2F@"),
        ("socks5", "%C3%BCser%3A:p%40ss%2F@"),
        ("socks4a", "%C3%BCser%3A@"),
        ("socks4", "%C3%BCser%3A@"),
    ],
)
def test_url_as_each_scheme_of_socks(echo_server: Address, scheme: str, userinfo: str) -> None:
    with SocksServer(accounts={"üser:": "p@ss/", "another": "one"}) as server:
        host, port = server.address
        assert server.url_as(scheme) == f"{scheme}://{userinfo}{host}:{port}"
        with create_connection(echo_server, proxy=server.url_as(scheme)) as sock:
            assert_echoes(sock)


def test_url_as_http(echo_server: Address) -> None:
    with SocksServer(host="::1", accounts={"user": "p:w"}) as server:
        assert server.url_as("http") == f"http://user:p%3Aw@[::1]:{server.address[1]}"
        with create_connection(echo_server, proxy=server.url_as("http")) as sock:
            assert_echoes(sock)


def test_exit_closes_all_connections_and_the_listener(echo_server: Address) -> None:
    with SocksServer() as server:
        sock = create_connection(echo_server, LONG, proxy=server.url)
    with sock:
        assert sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address)


def test_server_goes_on_after_clients_that_leave() -> None:
    with serving(echo) as destination, SocksServer() as server:
        for _ in range(3):
            create_connection(destination, proxy=server.url).close()
        assert eventually(lambda: len(server.requests) == 3)


@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "socks4"])
def test_url_of_a_unix_socket(tmp_path: Path, echo_server: Address, scheme: str) -> None:
    path = str(tmp_path / "socket")
    with SocksServer(path=path, accounts={"user": ""}) as server:
        url = server.url_as(scheme)
        assert url.endswith(f"@localhost{path}")
        assert Proxy.from_url(url).path == path
        with create_connection(echo_server, proxy=url) as sock:
            assert sock.getpeername() == path
            assert_echoes(sock)
        assert server.requests[0].client == ("", 0)
    assert not Path(path).exists()


def test_url_of_a_unix_socket_quotes_the_path(tmp_path: Path) -> None:
    path = str(tmp_path / "a socket%")
    with SocksServer(path=path) as server:
        assert Proxy.from_url(server.url).path == path


def test_server_at_a_unix_socket_speaks_http(tmp_path: Path, echo_server: Address) -> None:
    path = str(tmp_path / "socket")
    with SocksServer(path=path) as server:
        with create_connection(echo_server, proxy=Proxy(path=path, scheme="http")) as sock:
            assert_echoes(sock)
        assert server.requests[0].protocol == "HTTP"


def test_server_at_a_unix_socket_serves_bind(tmp_path: Path) -> None:
    with SocksServer(path=str(tmp_path / "socket")) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LONG)
            sock.connect(str(tmp_path / "socket"))
            sock.sendall(bytes.fromhex("04 02 00 00 00 00 00 00 00"))
            reply = receive_exactly(sock, 8)
            with socket.create_connection(("127.0.0.1", int.from_bytes(reply[2:4], "big")), LONG):
                assert receive_exactly(sock, 2) == b"\x00\x5a"
        assert server.requests[0].client == ("", 0)


def test_exit_removes_the_unix_socket_and_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with nothing_left_open():
        with pytest.raises(ZeroDivisionError), SocksServer(path=str(path)):
            assert 1 / (not path.exists())
    assert not path.exists()


def test_enter_leaves_nothing_open_if_the_path_is_not_valid(tmp_path: Path) -> None:
    with nothing_left_open(), pytest.raises(FileNotFoundError):
        SocksServer(path=str(tmp_path / "nowhere" / "socket")).__enter__()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a context for a server, and one for clients that trust the server."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


def assert_is_hung_up(sock: socket.socket) -> None:
    """Assert that the server ends the connection below TLS, now or soon."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    assert poll.poll(LONG * 1000)


@pytest.mark.parametrize(
    ("scheme", "with_tls", "protocol"),
    [
        ("socks5h", "socks5h+tls", "SOCKS5"),
        ("socks5", "socks5+tls", "SOCKS5"),
        ("socks4a", "socks4a+tls", "SOCKS4"),
        ("socks4", "socks4+tls", "SOCKS4"),
        ("http", "https", "HTTP"),
        ("https", "https", "HTTP"),
        ("socks5h+tls", "socks5h+tls", "SOCKS5"),
    ],
)
def test_server_with_tls_speaks_every_protocol(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    greeter: Address,
    scheme: str,
    with_tls: str,
    protocol: str,
) -> None:
    with SocksServer(tls=contexts[0], faults=Faults(split=True)) as server:
        url = server.url_as(scheme)
        assert url == "{}://{}:{}".format(with_tls, *server.address)
        proxy = replace(Proxy.from_url(url), tls=contexts[1])
        with create_connection(greeter, LONG, proxy=proxy) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            assert receive_exactly(sock, len(GREETING)) == GREETING
            sock.sendall(b"token")
            assert receive_exactly(sock, 5) == b"token"
        assert server.requests[0].protocol == protocol


def test_exit_does_not_wait_for_the_closing_handshake_of_a_client(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with serving(leave) as destination:
        with SocksServer(tls=contexts[0]) as server:
            proxy = replace(Proxy.from_url(server.url), tls=contexts[1])
            sock = create_connection(destination, LONG, proxy=proxy)
            # TLS has ended, and the connection below has not.
            assert sock.recv(1) == b""
        with sock:
            assert_is_hung_up(sock)
    # The garbage collector warns of sockets that are open.
    gc.collect()


def test_exit_just_after_the_handshake_leaves_nothing_open(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    # A server without the remedy leaves a socket open in most of these rounds.
    for _ in range(20):
        with SocksServer(tls=contexts[0]) as server:
            sock = socket.create_connection(server.address, LONG)
            tls = contexts[1].wrap_socket(sock, server_hostname="127.0.0.1")
        with tls:
            assert_is_hung_up(tls)
    gc.collect()


def test_server_with_tls_closes_the_connection_of_a_client_without_tls(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with SocksServer(tls=contexts[0]) as server, nothing_left_open():
        with socket.create_connection(server.address, LONG) as sock:
            sock.sendall(b"\x05\x01\x00" * 10)
            while sock.recv(100):
                pass
        assert server.connections[0].protocol is None
    gc.collect()
    assert caplog.messages == []


@pytest.mark.parametrize("with_tls", [False, True], ids=["", "TLS"])
def test_exit_after_a_close_with_octets_unsent_to_the_client(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], with_tls: bool
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        SocksServer(tls=contexts[0] if with_tls else None) as server,
    ):
        proxy = replace(Proxy.from_url(server.url), tls=contexts[1] if with_tls else None)
        with create_connection(listener.getsockname(), proxy=proxy) as sock:
            writer = server._sessions[0].writer
            assert writer is not None
            destination, _ = listener.accept()
            flood(destination, writer)
            reset(destination)
            take_the_rest(sock, writer)


def test_exit_after_a_close_with_octets_unsent_to_the_destination() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, SocksServer() as server:
        sock = create_connection(listener.getsockname(), proxy=server.url)
        destination, _ = listener.accept()
        writer = server._sessions[0].outside
        assert writer is not None
        flood(sock, writer)
        reset(sock)
        with destination:
            take_the_rest(destination, writer)


# The two tests above look at the server's own writers, and change nothing there: nothing else shows
# that octets are unsent, and when the server begins to close a connection.
def flood(sock: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Send until the server has octets for `writer` that nobody reads."""
    sock.setblocking(False)
    while writer.transport.get_write_buffer_size() == 0:
        with suppress(BlockingIOError):
            sock.send(bytes(1 << 16))


def take_the_rest(sock: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Make the server notice that the other side is gone and close `writer`; then receive all."""

    # The first octet may only cause the RST; then the server notices it at the second one.
    def is_closing() -> bool:
        with suppress(OSError):
            sock.send(b"x")
        return writer.is_closing()

    assert eventually(is_closing)
    with suppress(OSError):
        # `SSLSocket.shutdown` would end only TLS.
        socket.socket.shutdown(sock, socket.SHUT_WR)
    with suppress(ConnectionError, ssl.SSLError):
        while sock.recv(1 << 20):
            pass


@pytest.mark.parametrize(
    "said",
    [
        b"C\r\n\r\n",
        b"CONNECT\r\n\r\n",
        b"CONNECT host HTTP/1.1\r\n\r\n",
        b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\n\r\n",
        b"CONNECT name.test:80 HTTP/1.1\r\nProxy-Authorization: Basic x\r\n\r\n",
        b"CONNECT name.test:80 HTTP/1.1\r\nProxy-Authorization: Basic /w==\r\n\r\n",
    ],
)
def test_server_closes_the_connection_after_nonsense_and_logs_nothing(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with SocksServer() as server:
        talk(server, (said.hex(), ""))
    gc.collect()
    assert caplog.messages == []


@pytest.mark.parametrize(
    "said",
    [
        b"CRASH",
        b"CONNECT name.test:80 HTTP/1.1\n\n",
        b"C" + b"x" * 100_000,
        b"\x04",
        b"\x04\x01\0\x50\x7f\0\0\1me",
        b"\x04\x01\0\x50\x7f\0\0\1" + b"m" * 100_000,
        b"\x04\x01\0\x50\0\0\0\1\0name.test",
        b"\x05\x01\0\x05\x01\0\x09",
    ],
)
def test_server_waits_for_an_unfinished_request_until_the_client_leaves(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with SocksServer() as server, nothing_left_open():
        with socket.create_connection(server.address, LONG) as sock:
            try:
                sock.sendall(said)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) in (b"", b"\x05\x00")
            # The server resets the connection if it has not read all octets.
            except ConnectionError:
                assert len(said) > 65536
        assert server.requests == []
    gc.collect()
    assert caplog.messages == []
