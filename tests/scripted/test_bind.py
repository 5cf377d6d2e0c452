"""BIND: a proxy that listens for one peer. By our test server and by Dante."""

from __future__ import annotations

import errno
import logging
import math
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyLike,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.protocol.address import host_port
from socksclient.protocol.codes import Phase
from socksclient.protocol.exceptions import ConnectionNotAllowed
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.support import (
    BACKENDS,
    LONG,
    REFUSED_PORT,
    SHORT,
    Address,
    eventually,
    in_thread,
    needs,
    nothing_left_open,
    open_first_stream,
    receive_exactly,
    resolved_names,
    resolver,
    silence,
)

MISSING = real_servers.missing()
needs_servers = needs(MISSING)

ACCOUNTS = {"user": "pass"}
ANYONE = ("0.0.0.0", 0)
NOBODY = ("192.0.2.1", 80)
SOON = 0.02  # seconds; the timeout passes
DATA = b"data of the peer"


class Connection(NamedTuple):
    """What `accept` returned."""

    peer: Address | None
    send: Callable[[bytes], object]
    receive: Callable[[], bytes]
    close: Callable[[], object]


class Bound:
    """A listener, with the same methods whichever the driver is."""

    def __init__(self, listener: socksclient.Listener) -> None:
        self.listener = listener
        self.address = listener.address

    def accept(self, timeout: float = LONG) -> Connection:
        """When `timeout` passes, it is a TimeoutError in all of them."""
        sock, peer = self.listener.accept(timeout)
        assert type(sock) is socket.socket
        assert sock.gettimeout() == timeout
        return Connection(peer, sock.sendall, partial(sock.recv, 65536), sock.close)

    def assert_accepts_no_more(self, number: int) -> None:
        with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")) as caught:
            self.listener.accept()
        assert not isinstance(caught.value, SocksError)

    def close(self) -> None:
        self.listener.close()


class AwaitedBound(Bound):
    def __init__(
        self, portal: anyio.from_thread.BlockingPortal, listener: socksclient.anyio.Listener
    ) -> None:
        assert listener.peer_address is None
        self.portal = portal
        self.awaited = listener
        self.address = listener.address

    def accept(self, timeout: float = LONG) -> Connection:
        async def accept() -> SocketStream | TLSStream:
            with anyio.fail_after(timeout):
                return await self.awaited.accept()

        stream = self.portal.call(accept)
        assert isinstance(stream, SocketStream)

        async def receive() -> bytes:
            try:
                return await stream.receive()
            except anyio.EndOfStream:
                return b""

        call = self.portal.call
        send, close = partial(call, stream.send), partial(call, stream.aclose)
        return Connection(self.awaited.peer_address, send, partial(call, receive), close)

    def assert_accepts_no_more(self, number: int) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            self.portal.call(self.awaited.accept)

    def close(self) -> None:
        self.portal.call(self.awaited.aclose)


class Bind(Protocol):
    """Binds by one of the drivers. When `timeout` passes, it is a TimeoutError in all of them."""

    def __call__(
        self, address: Address, *, proxy: ProxyLike, timeout: float = LONG, source: str = ""
    ) -> Bound: ...


@pytest.fixture(params=["blocking", *BACKENDS])
def bind(request: pytest.FixtureRequest) -> Iterator[Bind]:
    """One test, every driver."""
    if request.param == "blocking":
        yield bind_blocking
        return
    with anyio.from_thread.start_blocking_portal(**BACKENDS[request.param]) as portal:
        portal.call(open_first_stream)

        def bind_awaited(
            address: Address, *, proxy: ProxyLike, timeout: float = LONG, source: str = ""
        ) -> Bound:
            async def bind() -> socksclient.anyio.Listener:
                with anyio.fail_after(timeout):
                    local_host = source or None
                    return await socksclient.anyio.bind(
                        *address, proxy=proxy, local_host=local_host
                    )

            return AwaitedBound(portal, portal.call(bind))

        yield bind_awaited


def bind_blocking(
    address: Address, *, proxy: ProxyLike, timeout: float = LONG, source: str = ""
) -> Bound:
    source_address = (source, 0) if source else None
    return Bound(socksclient.bind(address, timeout, source_address, proxy=proxy))


@pytest.fixture(scope="module", autouse=True)
def every_event_loop_has_run() -> None:
    """Uvloop opens descriptors for the process when it runs for the first time."""
    for options in BACKENDS.values():
        anyio.run(anyio.sleep, 0, **options)


SERVERS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "dante": real_servers.dante,
    "dante on ::1": lambda path: real_servers.dante(path, host="::1"),
    "microsocks": real_servers.microsocks,
    "ssh -D": real_servers.openssh,
}


@pytest.fixture(
    scope="module",
    params=[
        "ours",
        "ours on ::1",
        pytest.param("dante", marks=needs_servers),
        pytest.param("dante on ::1", marks=needs_servers),
    ],
)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Start a proxy that offers BIND, and yield its URL."""
    if request.param in SERVERS:
        with SERVERS[request.param](tmp_path_factory.mktemp("server")) as url:
            yield url
    else:
        with SocksServer(host="::1" if "::1" in request.param else "127.0.0.1") as server:
            yield server.url


def receive(connection: Connection, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        received = connection.receive()
        assert received, f"got {len(octets)} of {count} octets"
        octets += received
    return octets


def assert_carries(connection: Connection, peer: socket.socket, before: bytes = b"") -> None:
    """Check that the connection leads to the peer, and that only `before` came earlier."""
    peer.sendall(b"there")
    assert receive(connection, len(before) + 5) == before + b"there"
    connection.send(b"and back")
    assert receive_exactly(peer, 8) == b"and back"
    peer.shutdown(socket.SHUT_WR)
    assert connection.receive() == b""
    connection.close()
    assert peer.recv(1) == b""


def ended(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection, however it did."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def refuses(address: Address) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as sock:
        sock.settimeout(10)
        return sock.connect_ex(address) == errno.ECONNREFUSED


def local(url: str) -> str:
    """Return the URL with the scheme under which this process resolves names."""
    return url.replace("socks5h://", "socks5://")


class ScriptedProxy:
    """It grants BIND on its one connection; after that, it says what the test has it say."""

    SECOND_REPLY = bytes.fromhex("05 00 00 01 c0 00 02 01 00 50")

    def __enter__(self) -> ScriptedProxy:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"socks5h://127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self.grant)
        self.thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.thread.join()
        self.sock.close()
        self.server.close()

    def grant(self) -> None:
        self.sock, _ = self.server.accept()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receive_exactly(self.sock, 3)
        self.sock.sendall(b"\x05\x00")
        receive_exactly(self.sock, 10)
        self.sock.sendall(bytes.fromhex("05 00 00 01 c0 00 02 09 10 00"))

    def say(self, octets: bytes) -> None:
        self.thread.join()
        self.sock.sendall(octets)


class TestPeer:
    @pytest.mark.parametrize("expected", [("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ANYONE])
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
    def test_who_is_expected_is_accepted_with_his_address_and_data_goes_both_ways(
        self, bind: Bind, proxy: str, scheme: str, expected: Address
    ) -> None:
        with closing(bind(expected, proxy=proxy.replace("socks5h", scheme))) as listener:
            with socket.create_connection(listener.address, 10) as peer:
                connection = listener.accept()
                assert connection.peer == peer.getsockname()[:2]
                assert_carries(connection, peer)

    def test_anyone_may_come_if_so_it_is_wanted(self, bind: Bind, proxy: str) -> None:
        with closing(bind(ANYONE, proxy=proxy)) as listener:
            with socket.create_connection(listener.address, 10, ("127.0.0.2", 0)) as peer:
                connection = listener.accept()
                assert connection.peer == peer.getsockname()
                assert_carries(connection, peer)

    @pytest.mark.parametrize("expected", [("127.0.0.1", 80), ("localhost", 0)])
    def test_another_is_turned_away_and_that_is_the_end(
        self, bind: Bind, proxy: str, expected: Address
    ) -> None:
        listener = bind(expected, proxy=proxy)
        with socket.create_connection(listener.address, 10, ("127.0.0.2", 0)) as peer:
            with pytest.raises(ConnectionNotAllowed, match="REP 02") as caught:
                listener.accept()
            assert caught.value.reply == Reply.CONNECTION_NOT_ALLOWED_BY_RULESET
            assert isinstance(caught.value, PermissionError)
            assert caught.value.destination == expected
            assert ended(peer)
        listener.assert_accepts_no_more(errno.EBADF)
        assert eventually(partial(refuses, listener.address))

    def test_accept_may_come_before_the_peer(self, bind: Bind) -> None:
        with SocksServer() as server:
            with closing(bind(("127.0.0.1", 0), proxy=server.url)) as listener:
                accepted = in_thread(listener.accept)
                assert not accepted.done()
                with socket.create_connection(listener.address) as peer:
                    connection = accepted.result(LONG)
                    assert connection.peer == peer.getsockname()
                    assert_carries(connection, peer)

    def test_a_second_reply_that_is_late_is_waited_for(self, bind: Bind) -> None:
        with SocksServer(faults=Faults(late=0.1)) as server:
            with closing(bind(("127.0.0.1", 0), proxy=server.url)) as listener:
                begin = time.monotonic()
                with socket.create_connection(listener.address) as peer:
                    assert_carries(listener.accept(), peer)
                assert time.monotonic() - begin >= 0.1

    def test_the_second_reply_may_come_before_accept(self, bind: Bind) -> None:
        with SocksServer() as server:
            with closing(bind(("127.0.0.1", 0), proxy=server.url)) as listener:
                with socket.create_connection(listener.address) as peer:
                    peer.sendall(DATA)
                    assert eventually(lambda: server.requests[0].second_reply == 0x00)
                    connection = listener.accept()
                    assert connection.peer == peer.getsockname() == server.requests[0].peer
                    assert_carries(connection, peer, DATA)

    @pytest.mark.parametrize("split", [False, True], ids=["in one piece", "octet by octet"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_no_octet_in_the_segment_of_the_second_reply_is_lost(
        self, bind: Bind, host: str, split: bool
    ) -> None:
        faults = Faults(reply_with_data=True, split=split)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
            with closing(bind((host, 0), proxy=server.url)) as listener:
                with socket.create_connection(listener.address) as peer:
                    # The proxy holds its second reply back until the peer has sent its data.
                    with pytest.raises(TimeoutError):
                        listener.accept(SOON)
                    peer.sendall(DATA)
                    assert_carries(listener.accept(), peer, DATA)

    @pytest.mark.parametrize("times", [2, 3])
    def test_he_is_accepted_once(self, bind: Bind, proxy: str, times: int) -> None:
        listener = bind(("127.0.0.1", 0), proxy=proxy)
        with socket.create_connection(listener.address, 10) as peer:
            connection = listener.accept()
            for _ in range(times - 1):
                listener.assert_accepts_no_more(errno.EINVAL)
            assert_carries(connection, peer)
        listener.assert_accepts_no_more(errno.EINVAL)

    @needs_servers
    def test_dante_listens_for_one_only(self, bind: Bind, tmp_path: Path) -> None:
        with real_servers.dante(tmp_path) as url:
            with closing(bind(ANYONE, proxy=url)) as listener:
                with socket.create_connection(listener.address, 10):
                    listener.accept().close()
                assert eventually(partial(refuses, listener.address))


class TestAddress:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    @pytest.mark.parametrize("unspecified", ["0.0.0.0", "::"])
    def test_an_unspecified_one_is_that_of_the_proxy(
        self, bind: Bind, host: str, unspecified: str
    ) -> None:
        faults = Faults(bound_address=(unspecified, 4711))
        with SocksServer(host=host, faults=faults) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                assert listener.address == (host, 4711)

    @pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "name.test"])
    def test_any_other_is_what_the_proxy_says(self, bind: Bind, host: str) -> None:
        with SocksServer(faults=Faults(bound_address=(host, 4711))) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                assert listener.address == (host, 4711)

    def test_a_mapped_one_is_that_of_ipv4(self, bind: Bind) -> None:
        with SocksServer(faults=Faults(bound_address=("::ffff:192.0.2.7", 4711))) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                assert listener.address == ("192.0.2.7", 4711)

    def test_a_mapped_one_of_the_peer_is_that_of_ipv4(self, bind: Bind) -> None:
        with ScriptedProxy() as proxy, closing(bind(NOBODY, proxy=proxy.url)) as listener:
            proxy.say(b"\x05\0\0\x04" + bytes(10) + b"\xff\xff\xc0\0\x02\x01" + b"\0\x50")
            accepted = listener.accept()
            assert accepted.peer == NOBODY
            accepted.close()

    @pytest.mark.parametrize(
        "host",
        ["224.0.0.1", "255.255.255.255", "0.1.2.3", "ff02::1", "4000::1", "::ffff:240.0.0.1"],
    )
    def test_none_that_a_peer_can_connect_to(self, bind: Bind, host: str) -> None:
        with SocksServer(faults=Faults(bound_address=(host, 4711))) as server, nothing_left_open():
            with pytest.raises(ProtocolError, match="no host can have its bound address") as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    @pytest.mark.parametrize("told", ["its own", "0.0.0.0", "::"])
    def test_that_of_the_proxy_itself_is_none(self, bind: Bind, host: str, told: str) -> None:
        """3proxy 0.9.6 to 1.0.0 replies with the address at which it serves SOCKS."""
        with SocksServer(host=host) as server, nothing_left_open():
            _, port = server.address
            bound_address = (host if told == "its own" else told, port)
            server.misbehave(Faults(bound_address=bound_address))
            with pytest.raises(ProtocolError, match="which is where it serves SOCKS") as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)
            assert host_port(host, port) in str(held.value.strerror)

    def test_that_of_the_proxy_itself_is_known_by_a_mapped_address_too(self, bind: Bind) -> None:
        with SocksServer() as server:
            server.misbehave(Faults(bound_address=("::ffff:127.0.0.1", server.address[1])))
            for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "localhost"):
                with pytest.raises(ProtocolError, match="where it serves SOCKS"):
                    bind(NOBODY, proxy=server.url.replace("127.0.0.1", host))

    @pytest.mark.parametrize("host", ["127.0.0.1", "last.test"])
    @pytest.mark.parametrize("told", ["its own", "0.0.0.0"])
    def test_that_of_the_last_hop_is_the_one_that_the_hop_before_reaches(
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

    def test_its_port_may_be_that_of_the_proxy_at_another_address(self, bind: Bind) -> None:
        with SocksServer() as server:
            bound_address = ("192.0.2.7", server.address[1])
            server.misbehave(Faults(bound_address=bound_address))
            with closing(bind(NOBODY, proxy=server.url)) as listener:
                assert listener.address == bound_address

    def test_of_a_proxy_at_a_unix_socket_is_what_it_says(self, bind: Bind, tmp_path: Path) -> None:
        with SocksServer(path=str(tmp_path / "proxy")) as server:
            with closing(bind(ANYONE, proxy=server.url)) as listener:
                with socket.create_connection(listener.address) as peer:
                    assert_carries(listener.accept(), peer)

    @pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "name.test"])
    def test_there_is_no_port_0(self, bind: Bind, host: str) -> None:
        with SocksServer(faults=Faults(bound_address=(host, 0))) as server, nothing_left_open():
            with pytest.raises(ProtocolError, match="bound address has port 0") as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)


def assert_place(
    error: SocksError, url: str, destination: Address, phase: Phase = "request"
) -> None:
    assert error.phase == phase
    assert error.proxy == Proxy.from_url(url)
    assert error.destination == destination
    assert f"destination: {destination[0]}:{destination[1]}" in str(error)


SECOND_REPLIES = {
    "IPv4": (ScriptedProxy.SECOND_REPLY, NOBODY),
    "IPv6": (
        bytes.fromhex("05 00 00 04 20010db8 0000000000000000 00000001 0050"),
        ("2001:db8::1", 80),
    ),
    "a name": (b"\x05\x00\x00\x03\x04name\x00\x50", ("name", 80)),
    "no name at all": (b"\x05\x00\x00\x03\x00\x00\x50", ("", 80)),
}


class TestTimeout:
    @pytest.mark.parametrize("second_reply", SECOND_REPLIES)
    def test_wherever_the_second_reply_pauses_accept_goes_on_and_loses_no_octet(
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

    def test_it_may_pass_after_every_octet(self, bind: Bind) -> None:
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

    def test_a_peer_that_comes_after_it_is_accepted(self, bind: Bind, proxy: str) -> None:
        with closing(bind(("127.0.0.1", 0), proxy=proxy)) as listener:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    listener.accept(SOON)
            with socket.create_connection(listener.address, 10) as peer:
                assert_carries(listener.accept(), peer)

    def test_without_a_peer_it_tells_the_place(self) -> None:
        with SocksServer() as server, socksclient.bind(NOBODY, proxy=server.url) as listener:
            with pytest.raises(ProxyTimeout, match="timed out") as caught:
                listener.accept(SOON)
            assert_place(caught.value, server.url, NOBODY)
            assert caught.value.errno == errno.ETIMEDOUT

    def test_of_accept_is_that_of_bind_if_none_is_given(self) -> None:
        with SocksServer() as server:
            with socksclient.bind(NOBODY, SHORT, proxy=server.url) as listener:
                with pytest.raises(ProxyTimeout):
                    listener.accept()

    def test_of_accept_is_the_default_of_socket_when_bind_was_called(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 65.0)
        with SocksServer() as server, socksclient.bind(ANYONE, proxy=server.url) as listener:
            monkeypatch.undo()
            with socket.create_connection(listener.address):
                sock, _ = listener.accept()
                assert sock.gettimeout() == 65.0
                sock.close()

    def test_that_is_no_number_is_a_type_error_and_changes_nothing(self) -> None:
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
    def test_is_set_on_the_socket_that_comes_back(
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
    def test_that_cannot_be_is_a_value_error_and_changes_nothing(self, timeout: float) -> None:
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
    def test_until_the_proxy_listens_leaves_nothing_open(
        self, bind: Bind, stall_after: int
    ) -> None:
        faults = Faults(stall_after=stall_after)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            with pytest.raises(TimeoutError) as held:
                bind(NOBODY, proxy=server.url, timeout=0.05)
            assert held

    @pytest.mark.parametrize(
        ("stall_after", "phase"),
        [(0, "method selection"), (2, "authentication"), (4, "request"), (13, "request")],
    )
    def test_until_the_proxy_listens_tells_the_phase(self, stall_after: int, phase: Phase) -> None:
        faults = Faults(stall_after=stall_after)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
            with pytest.raises(ProxyTimeout) as caught:
                socksclient.bind(NOBODY, SHORT, proxy=server.url)
            assert_place(caught.value, server.url, NOBODY, phase)

    def test_in_connecting_leaves_nothing_open(self, bind: Bind) -> None:
        with silence() as (host, port), nothing_left_open():
            with pytest.raises(TimeoutError) as held:
                bind(NOBODY, proxy=f"socks5h://{host}:{port}", timeout=SOON)
            assert held

    def test_in_resolving_leaves_nothing_open(
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
    def test_of_accept_leaves_the_listener_open_and_its_end_nothing(
        self, bind: Bind, count: int
    ) -> None:
        faults = Faults(stall_after=count)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            listener = bind(ANYONE, proxy=server.url)
            with socket.create_connection(listener.address):
                for _ in range(2):
                    with pytest.raises(TimeoutError):
                        listener.accept(SOON)
                listener.close()


class TestSecondReply:
    """One that is no success; the first was one."""

    def fail(self, bind: Bind, faults: Faults) -> SocksError:
        with SocksServer(faults=faults) as server, nothing_left_open():
            listener = bind(ANYONE, proxy=server.url)
            with socket.create_connection(listener.address):
                with pytest.raises(SocksError) as held:
                    listener.accept()
            listener.assert_accepts_no_more(errno.EBADF)
            assert_place(held.value, server.url, ANYONE)
        return held.value

    @pytest.mark.parametrize("rep", [*range(1, 9), 0x5A])
    def test_a_failure_keeps_its_number(self, bind: Bind, rep: int) -> None:
        error = self.fail(bind, Faults(second_reply=rep, split=True))
        assert isinstance(error, ReplyError)
        assert error.reply == rep
        assert f"REP {rep:02X}" in str(error)

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ("04 00", "reply to the request has version 04"),
            ("48 54 54 50", "reply to the request has version 48"),
            ("05 00 00 02 00", "the reply has address type 02"),
        ],
    )
    def test_garbage(self, bind: Bind, answer: str, words: str) -> None:
        octets = bytes.fromhex(answer)
        error = self.fail(bind, Faults(answers={"relay": octets}))
        assert type(error) is ProtocolError
        assert words in str(error)
        assert octets.startswith(error.received)

    @pytest.mark.parametrize(
        ("count", "told"),
        [
            (0, "got 0 of 5 octets"),
            (1, "got 1 of 5 octets"),
            (2, "got 2 of 5 octets"),
            (5, "got 5 of 10 octets"),
            (9, "got 9 of 10 octets"),
        ],
    )
    def test_hanging_up_is_told_with_the_octets_that_came(
        self, bind: Bind, count: int, told: str
    ) -> None:
        error = self.fail(bind, Faults(close_after=12 + count))
        assert isinstance(error, ProxyClosed)
        assert told in str(error)
        assert "offer" not in str(error)  # it has listened

    @pytest.mark.parametrize("count", [0, 9])
    def test_a_reset(self, bind: Bind, count: int) -> None:
        error = self.fail(bind, Faults(reset_after=12 + count))
        assert isinstance(error, ProxyClosed)
        assert isinstance(error, ConnectionResetError)

    def test_hanging_up_with_no_peer_there(self, bind: Bind) -> None:
        with SocksServer() as server:
            listener = bind(ANYONE, proxy=server.url)
        with pytest.raises(ProxyClosed, match="got 0 of 5 octets"):
            listener.accept()
        listener.assert_accepts_no_more(errno.EBADF)


class TestFirstReply:
    """One that is no success."""

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
    def test_is_told_for_what_it_is(
        self, bind: Bind, faults: Faults, kind: type[SocksError], words: str
    ) -> None:
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            with pytest.raises(kind, match=words) as held:
                bind(NOBODY, proxy=server.url)
            assert_place(held.value, server.url, NOBODY)

    @needs_servers
    @pytest.mark.parametrize("server", ["microsocks", "ssh -D"])
    def test_real_proxies_that_do_not_offer_bind(
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
    def test_does_not_come_without_the_login(
        self, bind: Bind, faults: Faults, phase: Phase
    ) -> None:
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            with pytest.raises(PermissionError) as held:
                bind(NOBODY, proxy=server.url)
            assert isinstance(held.value, SocksError)
            assert_place(held.value, server.url, NOBODY, phase)

    def test_does_not_come_from_a_proxy_that_is_not_there(self, bind: Bind) -> None:
        url = f"socks5h://127.0.0.1:{REFUSED_PORT}"
        with pytest.raises(ProxyConnectError, match="Connection refused") as caught:
            bind(NOBODY, proxy=url)
        assert_place(caught.value, url, NOBODY, "connect")


class TestClosing:
    def test_frees_all_and_the_proxy_listens_no_more(self, bind: Bind, proxy: str) -> None:
        with nothing_left_open():
            listener = bind(ANYONE, proxy=proxy)
            listener.close()
        assert eventually(partial(refuses, listener.address))
        listener.assert_accepts_no_more(errno.EBADF)

    def test_is_what_the_context_does(self) -> None:
        with SocksServer() as server:
            with nothing_left_open():
                with pytest.raises(ZeroDivisionError):
                    with socksclient.bind(ANYONE, proxy=server.url) as listener:
                        assert listener.fileno() / 0
                assert listener.fileno() == -1
            assert eventually(partial(refuses, listener.address))

    def test_twice_is_closing_once(self, bind: Bind) -> None:
        with SocksServer() as server:
            listener = bind(ANYONE, proxy=server.url)
            for _ in range(3):
                listener.close()
            listener.assert_accepts_no_more(errno.EBADF)

    def test_leaves_what_was_accepted_open(self, bind: Bind, proxy: str) -> None:
        listener = bind(ANYONE, proxy=proxy)
        with socket.create_connection(listener.address, 10) as peer:
            connection = listener.accept()
            for _ in range(2):
                listener.close()
            assert_carries(connection, peer)

    def test_leaves_what_was_accepted_open_by_the_context_too(self) -> None:
        with SocksServer() as server:
            with socksclient.bind(ANYONE, proxy=server.url) as listener:
                peer = socket.create_connection(listener.address)
                sock, _ = listener.accept()
            with peer, sock:
                sock.sendall(DATA)
                assert receive_exactly(peer, len(DATA)) == DATA


class TestThreads:
    def test_one_waits_and_another_is_refused(self) -> None:
        with SocksServer() as server, socksclient.bind(ANYONE, 10, proxy=server.url) as listener:
            accepted = in_thread(listener.accept)
            for _ in range(2):
                with pytest.raises(
                    OSError, match="another thread already waits in accept"
                ) as caught:
                    listener.accept()
                assert caught.value.errno == errno.EBUSY
            with socket.create_connection(listener.address) as peer:
                sock, address = accepted.result(LONG)
                with sock:
                    assert address == peer.getsockname()
            with pytest.raises(OSError, match="accepted its one peer"):
                listener.accept()

    def test_after_a_timeout_in_one_another_may_wait(self) -> None:
        with SocksServer() as server, socksclient.bind(ANYONE, 10, proxy=server.url) as listener:
            with pytest.raises(ProxyTimeout):
                in_thread(lambda: listener.accept(SOON)).result(LONG)
            with socket.create_connection(listener.address):
                listener.accept()[0].close()

    def test_closing_wakes_the_one_that_waits(self) -> None:
        with SocksServer() as server, nothing_left_open():
            for _ in range(40):  # as threads race
                listener = socksclient.bind(ANYONE, 10, proxy=server.url)
                accepted = in_thread(listener.accept)
                listener.close()
                error = accepted.exception(LONG)
                assert isinstance(error, OSError)
                assert error.errno == errno.EBADF
                assert not isinstance(error, SocksError)


def test_its_descriptor_is_readable_when_the_peer_has_come() -> None:
    with SocksServer() as server, socksclient.bind(ANYONE, proxy=server.url) as listener:
        assert select.select([listener], [], [], 0) == ([], [], [])
        with socket.create_connection(listener.address):
            assert select.select([listener], [], [], 10) == ([listener], [], [])
            sock, _ = listener.accept()
            sock.close()


class TestNames:
    SECRET = ("secret-name.test", 80)

    @pytest.mark.parametrize("faults", [Faults(), Faults(reply=0x04), Faults(second_reply=0x01)])
    def test_go_to_the_proxy_as_they_are(self, bind: Bind, faults: Faults) -> None:
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

    def test_are_resolved_here_with_socks5_and_all_addresses_tried(
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

    def test_of_which_every_address_fails_are_told_of_each(
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

    def test_without_an_address_are_not_asked_for(
        self, bind: Bind, names: dict[str, list[str]]
    ) -> None:
        with SocksServer() as server:
            with pytest.raises(ResolveError, match=r"cannot resolve nowhere\.test") as caught:
                bind(("nowhere.test", 80), proxy=local(server.url))
            assert_place(caught.value, local(server.url), ("nowhere.test", 80), "resolve")
            assert server.connections == []

    def test_that_the_proxy_cannot_resolve_are_its_reply(self, bind: Bind) -> None:
        with SocksServer() as server:
            with pytest.raises(ReplyError, match="host unreachable"):
                bind(("nowhere.invalid", 80), proxy=server.url)


def test_the_address_to_connect_from(bind: Bind) -> None:
    with SocksServer() as server:
        bind(NOBODY, proxy=server.url, source="127.0.0.5").close()
        assert server.requests[0].client[0] == "127.0.0.5"


class TestInput:
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
    def test_a_peer_that_cannot_be(
        self, bind: Bind, address: Address, words: str, scheme: str
    ) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match=re.escape(words)):
                bind(address, proxy=server.url.replace("socks5h", scheme))
            assert server.connections == []

    def test_a_host_that_is_no_text(self, bind: Bind) -> None:
        with SocksServer() as server:
            with pytest.raises(TypeError, match="host must be a str, not bytes"):
                bind((b"name.example", 80), proxy=server.url)  # type: ignore[arg-type]
            assert server.connections == []

    @pytest.mark.parametrize("address", ["name.example:80", ("name.example",), None])
    def test_an_address_that_is_no_pair(self, address: Any) -> None:
        with SocksServer() as server:
            with pytest.raises(TypeError, match=r"address must be a \(host, port\) pair"):
                socksclient.bind(address, proxy=server.url)
            assert server.connections == []

    def test_a_name_to_connect_from(self, bind: Bind) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match="must be an IP address, not 'localhost'"):
                bind(NOBODY, proxy=server.url, source="localhost")
            assert server.connections == []

    def test_a_proxy_that_cannot_be(self, bind: Bind) -> None:
        with pytest.raises(ValueError, match="scheme"):
            bind(NOBODY, proxy="127.0.0.1:1080")
        with pytest.raises(TypeError, match="proxy must be"):
            bind(NOBODY, proxy=None)  # type: ignore[arg-type]


def test_the_log_tells_of_the_listener_and_of_the_peer(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
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


@pytest.mark.anyio
class TestAwaited:
    async def test_the_context_leaves_what_was_accepted_open(self) -> None:
        with SocksServer() as server:
            async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                peer = socket.create_connection(listener.address)
                stream = await listener.accept()
            async with stream:
                with peer:
                    assert listener.peer_address == peer.getsockname()
                    await stream.send(DATA)
                    assert receive_exactly(peer, len(DATA)) == DATA

    async def test_the_stream_is_as_those_of_connect_tcp(self) -> None:
        with SocksServer() as server:
            async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                with socket.create_connection(listener.address):
                    async with await listener.accept() as stream:
                        assert stream.extra(SocketAttribute.remote_address) == server.address
                        sock = stream.extra(SocketAttribute.raw_socket)
                        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    @pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
    async def test_after_a_cancellation_accept_goes_on_and_loses_no_octet(self, count: int) -> None:
        with ScriptedProxy() as proxy:
            async with await socksclient.anyio.bind(*NOBODY, proxy=proxy.url) as listener:
                proxy.say(proxy.SECOND_REPLY[:count])
                async with anyio.create_task_group() as group:
                    group.start_soon(listener.accept)
                    await anyio.wait_all_tasks_blocked()
                    group.cancel_scope.cancel()
                proxy.say(proxy.SECOND_REPLY[count:] + DATA)
                async with await listener.accept() as stream:
                    assert listener.peer_address == NOBODY
                    assert await stream.receive() == DATA

    async def test_who_is_cancelled_already_does_not_begin(self) -> None:
        with ScriptedProxy() as proxy:
            async with await socksclient.anyio.bind(*NOBODY, proxy=proxy.url) as listener:
                proxy.say(proxy.SECOND_REPLY)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await listener.accept()
                assert scope.cancelled_caught
                await (await listener.accept()).aclose()

    @pytest.mark.parametrize("count", [0, 2, 4, 13])
    async def test_a_cancellation_of_bind_leaves_nothing_open(self, count: int) -> None:
        faults = Faults(stall_after=count)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            async with anyio.create_task_group() as group:
                group.start_soon(partial(socksclient.anyio.bind, *NOBODY, proxy=server.url))
                while not server.connections or len(server.connections[0].sent) < count:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()

    @pytest.mark.parametrize("turns", range(5))
    async def test_closing_wakes_who_waits_also_when_octets_have_just_come(
        self, turns: int
    ) -> None:
        with ScriptedProxy() as proxy, anyio.fail_after(LONG):
            listener = await socksclient.anyio.bind(*NOBODY, proxy=proxy.url)
            async with anyio.create_task_group() as group:
                group.start_soon(self.wait_in_vain, listener)
                await anyio.wait_all_tasks_blocked()
                proxy.say(proxy.SECOND_REPLY[:6])
                # In one of these turns, the event loop wakes the task that waits for the peer.
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await listener.aclose()

    async def wait_in_vain(self, listener: socksclient.anyio.Listener) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await listener.accept()

    @pytest.mark.parametrize("cancelled", [False, True])
    async def test_closing_is_what_the_context_does(self, cancelled: bool) -> None:
        await open_first_stream()
        with SocksServer() as server:
            with nothing_left_open(), anyio.CancelScope() as scope:
                async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                    if cancelled:
                        scope.cancel()
            assert eventually(partial(refuses, listener.address))

    @pytest.mark.parametrize(
        "peer_is_there", [False, True], ids=["", "when the peer has just come"]
    )
    async def test_two_that_wait_are_one_too_many(self, peer_is_there: bool) -> None:
        outcomes: list[object] = []

        async def accept() -> None:
            try:
                async with await listener.accept() as stream:
                    outcomes.append(await stream.receive())
            except (anyio.BusyResourceError, anyio.ClosedResourceError):
                outcomes.append("refused")

        with ScriptedProxy() as proxy, anyio.fail_after(LONG):
            async with await socksclient.anyio.bind(*NOBODY, proxy=proxy.url) as listener:
                async with anyio.create_task_group() as group:
                    group.start_soon(accept)
                    await anyio.wait_all_tasks_blocked()
                    if peer_is_there:
                        proxy.say(proxy.SECOND_REPLY + DATA)
                        await accept()
                    else:
                        await accept()
                        assert outcomes == ["refused"]
                        proxy.say(proxy.SECOND_REPLY + DATA)
        assert set(outcomes) == {DATA, "refused"}

    async def test_a_proxy_that_resets_the_connection_after_its_second_reply(self) -> None:
        with SocksServer(faults=Faults(reset_after=22)) as server:
            async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                with socket.create_connection(listener.address):
                    async with await listener.accept() as stream:
                        with pytest.raises(anyio.BrokenResourceError):
                            await stream.receive()
