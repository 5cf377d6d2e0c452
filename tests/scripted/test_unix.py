"""Proxies at unix sockets."""

from __future__ import annotations

import errno
import gc
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, UNIXSocketStream
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSAttribute

import socksclient
import socksclient.anyio
from socksclient import (
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
)
from socksclient.ftp import FTP
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers.hops import Associate, Authority, Bind, Connect, MakeHops, connect_blocking, serve_ftp
from helpers.http_clients import Driver, routes_to
from helpers.origin import Origin
from helpers.support import (
    GREETING,
    LONG,
    SHORT,
    Address,
    Dial,
    assert_echoes,
    eventually,
    in_thread,
    receive_exactly,
    resolved_names,
    serving,
)

pytest_plugins = ["helpers.hop_fixtures"]

SCHEMES = ("socks5h", "socks5", "socks4a", "socks4", "http")
NOBODY = ("192.0.2.1", 80)
"""A destination that no hop reaches."""


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Check that the unix sockets which the client opens in the context are closed at its end.

    The garbage collector is off, and what the servers have open takes its own time.
    """
    gc.disable()
    try:
        before = unnamed_sockets()
        yield
        assert eventually(lambda: unnamed_sockets() <= before)
    finally:
        gc.enable()


def unnamed_sockets() -> set[int]:
    """Return the inodes of the unix sockets that have no name; those of servers have one."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if sock.family == socket.AF_UNIX and not sock.getsockname():
                        inodes.add(os.fstat(sock.fileno()).st_ino)
    return inodes


@pytest.fixture
def directory() -> Iterator[str]:
    """Yield a directory with a short name: the path of a unix socket has at most 107 octets."""
    with tempfile.TemporaryDirectory() as directory:
        yield directory


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/socks"


@pytest.fixture
def server(path: str) -> Iterator[SocksServer]:
    with SocksServer(path=path) as server:
        yield server


# Connections


class TestUnixConnect:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_unix_proxy_by_path(
        self, dial: Dial, server: SocksServer, path: str, scheme: str, echo_server: Address
    ) -> None:
        with resolved_names() as resolved:
            with dial(echo_server, proxy=Proxy(path=path, scheme=scheme)) as sock:
                assert type(sock) is socket.socket
                assert sock.family == socket.AF_UNIX
                assert sock.getpeername() == path
                assert_echoes(sock)
        assert resolved == []
        assert server.requests[0].destination == echo_server

    @pytest.mark.parametrize("scheme", SCHEMES[:-1])
    def test_unix_proxy_by_url(
        self, dial: Dial, server: SocksServer, path: str, scheme: str, echo_server: Address
    ) -> None:
        url = server.url_as(scheme)
        assert url == f"{scheme}://localhost{path}"
        with dial(echo_server, proxy=url) as sock:
            assert_echoes(sock)

    @pytest.mark.parametrize("name", ["a b", "a@b:c", "100%", "?#", "ünïx", "[::1]"])
    def test_unix_proxy_by_odd_paths(
        self, dial: Dial, directory: str, echo_server: Address, name: str
    ) -> None:
        proxy = Proxy(path=f"{directory}/{name}")
        assert Proxy.from_url(str(proxy)) == proxy
        with SocksServer(path=f"{directory}/{name}"):
            with dial(echo_server, proxy=str(proxy)) as sock:
                assert_echoes(sock)

    def test_unix_proxy_credentials(self, dial: Dial, path: str, echo_server: Address) -> None:
        with SocksServer(path=path, accounts={"user": "p@ss"}) as server:
            with dial(echo_server, proxy=server.url) as sock:
                assert_echoes(sock)
            with pytest.raises(AuthenticationError) as caught:
                dial(echo_server, proxy=Proxy(path=path, username="user", password="wrong"))
        assert caught.value.proxy == Proxy(path=path, username="user", password="wrong")

    def test_unix_proxy_gets_names(
        self, connect: Connect, server: SocksServer, greeter: Address
    ) -> None:
        server.routes["greeter.test", 25] = greeter
        with resolved_names() as resolved:
            with connect(("greeter.test", 25), proxy=server.url) as tunnel:
                tunnel.assert_greets_and_echoes()
        assert resolved == []

    def test_unix_proxy_tries_each_address_on_new_connection(
        self, connect: Connect, path: str, names: dict[str, list[str]], greeter: Address
    ) -> None:
        names["greeter.test"] = ["192.0.2.1", greeter[0]]
        with SocksServer(path=path, faults=[Faults(reply=0x05)]) as server:
            proxy = server.url_as("socks5")
            with connect(("greeter.test", greeter[1]), proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()
            assert len(server.connections) == 2

    def test_unix_proxy_connect_tcp(
        self, portal: BlockingPortal, server: SocksServer, path: str
    ) -> None:
        async def connect(address: Address) -> None:
            stream: Any = await socksclient.anyio.connect_tcp(*address, proxy=server.url)
            async with stream:
                assert isinstance(stream, UNIXSocketStream)
                assert stream.extra(SocketAttribute.remote_address) == path
                assert await stream.receive() == GREETING
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()

        with serving(greet_until_the_end) as address, nothing_left_open():
            portal.call(connect, address)

    def test_unix_proxy_connect_tcp_with_tls(
        self, portal: BlockingPortal, server: SocksServer, origin: Origin
    ) -> None:
        async def connect() -> None:
            stream = await socksclient.anyio.connect_tcp(
                "127.0.0.1",
                origin.https_port,
                proxy=server.url,
                ssl_context=origin.trust(),
                tls_hostname="origin.test",
                tls_standard_compatible=False,
            )
            async with stream:
                assert stream.extra(TLSAttribute.tls_version) == "TLSv1.3"
                await stream.send(b"GET / HTTP/1.0\r\nHost: origin.test\r\n\r\n")
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")

        portal.call(connect)

    def test_unix_proxy_without_timeout(self, server: SocksServer, echo_server: Address) -> None:
        with socksclient.create_connection(echo_server, None, proxy=server.url) as sock:
            assert sock.gettimeout() is None
            assert_echoes(sock)


async def greet_until_the_end(reader: Any, writer: Any) -> None:
    writer.write(GREETING)
    await reader.read()


def forward(listener: socket.socket, address: Address) -> None:
    """Forward one connection from `listener` to `address`, until both sides have ended it."""
    with listener.accept()[0] as here, socket.create_connection(address) as there:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            while octets := source.recv(65536):
                sink.sendall(octets)
            sink.shutdown(socket.SHUT_WR)

        back = in_thread(partial(pump, there, here))
        pump(here, there)
        back.result(LONG)


@contextmanager
def refused(words: str) -> Iterator[None]:
    """Check that the error tells the caller of a mistake, and is no OSError."""
    with pytest.raises(ValueError, match=words) as caught:
        yield
    assert not isinstance(caught.value, OSError)


class TestUnixLocalAddress:
    """A proxy at a unix socket has no local address to connect from."""

    WORDS = "no IP address leads to the unix socket"

    @pytest.mark.parametrize("source", [("127.0.0.1", 0), ("", 0), ("localhost", 0)])
    @pytest.mark.parametrize("function", [socksclient.create_connection, socksclient.bind])
    def test_unix_proxy_refuses_source_address(
        self, server: SocksServer, function: Callable[..., object], source: Address
    ) -> None:
        with refused(self.WORDS):
            function(NOBODY, 10, source, proxy=server.url)
        with refused(self.WORDS):
            function(NOBODY, 10, source, proxy=[server.url, "socks5h://192.0.2.1"])
        assert server.connections == []

    @pytest.mark.anyio
    @pytest.mark.parametrize("name", ["connect_tcp", "connect_socket", "bind"])
    async def test_unix_proxy_refuses_local_host(self, server: SocksServer, name: str) -> None:
        with refused(self.WORDS):
            function = getattr(socksclient.anyio, name)
            await function(*NOBODY, proxy=server.url, local_host="127.0.0.1")
        assert server.connections == []

    def test_unix_proxy_refuses_local_address_of_transport(
        self, driver: Driver, server: SocksServer
    ) -> None:
        with refused(self.WORDS):
            driver.transport(server.url, local_address="127.0.0.1")


# What goes wrong


class TestUnixErrors:
    @pytest.fixture(autouse=True)
    def _nothing_is_left_open(self) -> Iterator[None]:
        with nothing_left_open():
            yield

    def fail(self, connect: Connect, path: str, code: int | None, words: str) -> None:
        proxy = Proxy(path=path)
        with pytest.raises(ProxyConnectError, match=f"^cannot reach the proxy: .*{words}") as held:
            connect(NOBODY, proxy=proxy)
        assert (held.value.errno, held.value.phase) == (code, "connect")
        assert held.value.proxy == proxy
        assert f"(phase: connect, proxy: {path}, destination: 192.0.2.1:80)" in str(held.value)

    def test_unix_proxy_path_missing(self, connect: Connect, path: str) -> None:
        self.fail(connect, path, errno.ENOENT, "No such file or directory")

    def test_unix_proxy_nobody_listens(self, connect: Connect, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
        self.fail(connect, path, errno.ECONNREFUSED, "Connection refused")

    def test_unix_proxy_path_is_a_file(self, connect: Connect, path: str) -> None:
        Path(path).write_text("no socket")
        self.fail(connect, path, errno.ECONNREFUSED, "Connection refused")

    def test_unix_proxy_path_is_datagram_socket(self, connect: Connect, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            self.fail(connect, path, errno.EPROTOTYPE, "Protocol wrong type for socket")

    def test_unix_proxy_path_too_long(self, connect: Connect, path: str) -> None:
        self.fail(connect, path + "n" * 108, None, "AF_UNIX path too long")

    def test_unix_proxy_permission_denied(
        self, connect: Connect, server: SocksServer, path: str
    ) -> None:
        os.chmod(path, 0)
        with unprivileged():
            self.fail(connect, path, errno.EACCES, "Permission denied")
        assert server.connections == []

    def test_unix_proxy_queue_is_full(self, connect: Connect, path: str) -> None:
        with full_queue(path):
            self.fail(connect, path, errno.EAGAIN, "Resource temporarily unavailable")

    def test_unix_proxy_queue_is_full_without_timeout(
        self, path: str, echo_server: Address
    ) -> None:
        with SocksServer() as server, full_queue(path) as listener:
            connecting = in_thread(
                lambda: socksclient.create_connection(echo_server, None, proxy=Proxy(path=path))
            )
            assert not connecting.done()
            # This connection was in the queue before, and makes room.
            listener.accept()[0].close()
            thread = threading.Thread(target=forward, args=(listener, server.address))
            thread.start()
            with connecting.result(LONG) as sock:
                assert_echoes(sock)
            thread.join()

    def test_unix_proxy_on_system_without_unix_sockets(
        self, connect: Connect, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.delattr(socket, "AF_UNIX")
            with pytest.raises(ProxyConnectError, match="Python has no unix sockets") as caught:
                connect(NOBODY, proxy=Proxy(path=path))
        assert caught.value.errno == errno.EAFNOSUPPORT

    @pytest.mark.parametrize(
        ("faults", "error"),
        [
            *((Faults(close_after=count), ProxyClosed) for count in (0, 1, 2, 11)),
            (Faults(method=0x01), ProtocolError),
            (Faults(reply=0x02), ReplyError),
        ],
        ids=str,
    )
    def test_unix_proxy_failure_in_handshake(
        self,
        connect: Connect,
        path: str,
        listening: Address,
        faults: Faults,
        error: type[Exception],
    ) -> None:
        with SocksServer(path=path, faults=faults) as server:
            with pytest.raises(error, match=f"proxy: {path}, destination"):
                connect(listening, proxy=server.url)

    @pytest.mark.parametrize("count", [0, 2, 5])
    def test_unix_proxy_timeout(
        self, connect: Connect, path: str, listening: Address, count: int
    ) -> None:
        with SocksServer(path=path, faults=Faults(stall_after=count)) as server:
            with pytest.raises(TimeoutError) as caught:
                connect(listening, proxy=server.url, timeout=SHORT)
        if connect is connect_blocking:
            assert isinstance(caught.value, ProxyTimeout)
            assert caught.value.phase in ("method selection", "request")

    def test_unix_proxy_error_in_httpx(self, driver: Driver, path: str) -> None:
        with driver.through(Proxy(path=path)) as client:
            with pytest.raises(driver.httpx.ConnectError, match="No such file") as caught:
                client.get("http://origin.test/")
        assert isinstance(caught.value.__cause__, ProxyConnectError)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Drop the rights of root, who may open every socket."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@contextmanager
def full_queue(path: str) -> Iterator[socket.socket]:
    """Yield a listener at which no more connections can wait."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        while True:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            if sock.connect_ex(path) != 0:
                break
        yield listener


# Chains and TLS


class TestUnixTLS:
    @pytest.mark.parametrize("kind", ["socks5h", "socks4a", "http"])
    def test_unix_proxy_with_tls(
        self, connect: Connect, authority: Authority, path: str, greeter: Address, kind: str
    ) -> None:
        with SocksServer(path=path, tls=authority.server()):
            for host in ("", "first.test"):  # "" is localhost
                proxy = Proxy(host, path=path, scheme=kind, tls=authority.client())
                with connect(greeter, proxy=proxy) as tunnel:
                    assert tunnel.tls
                    tunnel.assert_greets_and_echoes()

    def test_unix_proxy_certificate_is_for_host(
        self, connect: Connect, authority: Authority, path: str
    ) -> None:
        proxy = Proxy("other.test", path=path, tls=authority.client())
        with SocksServer(path=path, tls=authority.server()) as server, nothing_left_open():
            with pytest.raises(ProxyConnectError, match=r"not valid for 'other\.test'") as caught:
                connect(NOBODY, proxy=proxy)
            assert server.connections[0].received == b""
        assert caught.value.phase == "tls"

    def test_unix_proxy_with_tls_by_url(self, authority: Authority, path: str) -> None:
        with SocksServer(path=path, tls=authority.server()) as server:
            assert server.url == f"socks5h+tls://localhost{path}"
            assert Proxy.from_url(server.url) == Proxy(path=path, tls=True)


class TestUnixChain:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize(
        "others", [("socks5h",), ("https",), ("socks4a", "socks5h+tls")], ids=", ".join
    )
    def test_unix_proxy_is_nearest_hop(
        self,
        connect: Connect,
        hops: MakeHops,
        server: SocksServer,
        path: str,
        greeter: Address,
        scheme: str,
        others: tuple[str, ...],
    ) -> None:
        with hops(*others) as chain:
            proxies = [Proxy(path=path, scheme=scheme), *chain.proxies]
            with connect(greeter, proxy=proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
            assert server.requests[0].destination == chain.servers[0].address

    def test_unix_proxy_in_chain_with_tls_within_tls(
        self, connect: Connect, authority: Authority, hops: MakeHops, path: str, greeter: Address
    ) -> None:
        with SocksServer(path=path, tls=authority.server()), hops("socks5h+tls") as chain:
            proxies = [Proxy(path=path, tls=authority.client()), *chain.proxies]
            with connect(greeter, proxy=proxies) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_unix_proxy_in_chain_errors(
        self, connect: Connect, hops: MakeHops, server: SocksServer
    ) -> None:
        with hops("socks5h", faults={0: Faults(reply=0x02)}) as chain:
            with nothing_left_open(), pytest.raises(ReplyError) as caught:
                connect(NOBODY, proxy=[server.url, *chain.proxies])
        assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[0])

    @pytest.mark.parametrize("passive", [True, False])
    def test_unix_proxy_in_chain_ftp(
        self, hops: MakeHops, server: SocksServer, passive: bool
    ) -> None:
        received: list[bytes] = []
        with serving(serve_ftp) as (_, port), hops("socks5h") as chain, nothing_left_open():
            with FTP(timeout=10, proxy=[server.url, *chain.proxies]) as ftp:
                ftp.connect("127.0.0.1", port)
                ftp.set_pasv(passive)
                ftp.retrbinary("RETR file", received.append)
            assert chain.servers[0].connections[1].command == (
                Command.CONNECT if passive else Command.BIND
            )
        assert b"".join(received) == b"the file"


# BIND and UDP: an address that is not specified is one of this machine.


class TestUnixBind:
    @pytest.mark.parametrize("passive", [True, False])
    def test_unix_proxy_bind_ftp(self, server: SocksServer, passive: bool) -> None:
        received: list[bytes] = []
        with serving(serve_ftp) as (_, port), nothing_left_open():
            with FTP(timeout=10, proxy=server.url) as ftp:
                ftp.connect("127.0.0.1", port)
                ftp.set_pasv(passive)
                ftp.retrbinary("RETR file", received.append)
        assert b"".join(received) == b"the file"

    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a"])
    def test_unix_proxy_bind_peer(
        self, bind: Bind, server: SocksServer, path: str, scheme: str
    ) -> None:
        with nothing_left_open():
            with closing(bind(("127.0.0.1", 0), Proxy(path=path, scheme=scheme))) as listener:
                with socket.create_connection(listener.address, 10) as peer:
                    peer.sendall(GREETING)
                    tunnel, address = listener.accept()
                    with tunnel:
                        assert address == peer.getsockname()
                        assert tunnel.receive(len(GREETING)) == GREETING
                        tunnel.send(b"and back")
                        assert receive_exactly(peer, 8) == b"and back"

    @pytest.mark.parametrize(
        ("told", "meant"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.9", "192.0.2.9")]
    )
    def test_unix_proxy_bind_address(self, bind: Bind, path: str, told: str, meant: str) -> None:
        faults = Faults(bound_address=(told, 4711))
        with SocksServer(path=path, faults=faults) as server, nothing_left_open():
            with closing(bind(("0.0.0.0", 0), server.url)) as listener:
                assert listener.address == (meant, 4711)


class TestUnixUDP:
    @pytest.mark.parametrize("relay_host", [None, "0.0.0.0"])
    def test_unix_proxy_datagrams(
        self, associate: Associate, path: str, udp_echo: Address, relay_host: str | None
    ) -> None:
        with SocksServer(path=path, faults=Faults(relay_host=relay_host)) as server:
            with nothing_left_open(), associate(server.url) as udp:
                assert udp.udp.relay_address[0] == "127.0.0.1"
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)
                assert server.connections[0].destination == ("0.0.0.0", 0)

    @pytest.mark.parametrize("relay_host", ["::", "::1"])
    def test_unix_proxy_datagrams_ipv6(
        self, associate: Associate, path: str, udp_echo_6: Address, relay_host: str
    ) -> None:
        with SocksServer(path=path, faults=Faults(relay_host=relay_host)) as server:
            with nothing_left_open(), associate(server.url) as udp:
                assert udp.udp.relay_address[0] == "::1"
                udp.send(b"datagram", udp_echo_6)
                assert udp.receive() == (b"datagram", udp_echo_6)

    def test_unix_proxy_udp_local_address(
        self, associate: Associate, server: SocksServer, udp_echo: Address
    ) -> None:
        """The local address is that of the datagrams, and not of the connection to the proxy."""
        with associate(server.url, local_address=("127.0.0.1", 0)) as udp:
            udp.send(b"datagram", udp_echo)
            assert udp.receive() == (b"datagram", udp_echo)
            assert (server.connections[0].destination or [""])[0] == "127.0.0.1"

    def test_unix_proxy_udp_chain(
        self, associate: Associate, hops: MakeHops, server: SocksServer, udp_echo: Address
    ) -> None:
        with hops("socks5h") as chain, nothing_left_open():
            with associate([server.url, *chain.proxies]) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)
                [(_, carried)] = server.connections[0].datagrams
                assert carried.endswith(b"datagram")


# The transports

OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]


class TestUnixHTTPX:
    @pytest.mark.parametrize("url", ["http://origin.test/", "https://origin.test/"])
    @pytest.mark.parametrize("http2", [False, True])
    def test_unix_proxy_httpx_requests(
        self, driver: Driver, server: SocksServer, origin: Origin, path: str, url: str, http2: bool
    ) -> None:
        server.routes.update(routes_to(origin))
        with resolved_names() as resolved, nothing_left_open():
            options: dict[str, Any] = {"http2": http2, "socket_options": OPTIONS}
            with driver.through(server.url, **options) as client:
                for _ in range(2):
                    response = client.get(url)
                    wanted = "HTTP/2" if http2 and url.startswith("https") else "HTTP/1.1"
                    assert response.http_version == wanted
                tell = response.extensions["network_stream"].get_extra_info
                assert tell("server_addr") == path
                assert tell("client_addr") == ""
                sock = tell("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert resolved == []
        assert len(server.connections) == 1

    def test_unix_proxy_httpx_tls_within_tls(
        self, driver: Driver, authority: Authority, origin: Origin, path: str
    ) -> None:
        with SocksServer(path=path, tls=authority.server(), routes=routes_to(origin)):
            proxy = Proxy(path=path, tls=authority.client())
            with driver.through(proxy) as client:
                assert client.get("https://origin.test/").json()["scheme"] == "https"
