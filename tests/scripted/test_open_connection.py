"""`handshake` on a connection that is open already, blocking and awaited."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    AuthenticationError,
    Exchange,
    Flow,
    Method,
    Proxy,
    ProxyClosed,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient._anyio import driver as anyio_driver
from socksclient._anyio.streams import close
from socksclient._sync import driver
from socksclient._sync.timeouts import Deadline
from socksclient.protocol import Protection
from socksclient.protocol.proxy import as_chain
from socksclient.protocol.route import Route
from socksclient.protocol.steps import Event
from socksclient.testing import Faults, SocksServer

from helpers.hops import Authority
from helpers.support import GREETING, LONG, SHORT, Address, receive_exactly

pytest_plugins = ["helpers.hop_fixtures"]

SCHEMES = ["socks5h", "socks5", "socks4a", "socks4", "http"]


class Duck:
    """A connection as another library may have it: it has only `sendall` and `recv`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sendall(self, data: bytes) -> None:
        assert type(data) is bytes
        self._sock.sendall(data)

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)


class DuckStream(ByteStream):
    """A stream as another library may have it, on top of a stream of anyio."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def send(self, item: bytes) -> None:
        assert type(item) is bytes
        await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def connection(server: SocksServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, LONG) as sock:
        yield sock


class TestHandshake:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_handshake_leads_to_destination_and_reads_nothing_of_it(
        self, scheme: str, greeter: Address
    ) -> None:
        with SocksServer(accounts={"user": "pass"}) as server, connection(server) as sock:
            url = server.url_as(scheme)
            host, port = socksclient.handshake(sock, *greeter, proxy=url, timeout=LONG)
            assert receive_exactly(sock, len(GREETING)) == GREETING
            assert (host == "0.0.0.0") == (scheme == "http")
            assert server.requests[0].destination == greeter
            assert 0 <= port <= 0xFFFF

    def test_handshake_restores_timeout_of_socket(self, greeter: Address) -> None:
        with SocksServer() as server, connection(server) as sock:
            sock.settimeout(17.0)
            socksclient.handshake(sock, *greeter, proxy=server.url, timeout=LONG)
            assert sock.gettimeout() == 17.0

    def test_handshake_on_object_with_sendall_and_recv(self, greeter: Address) -> None:
        with SocksServer() as server, connection(server) as sock:
            socksclient.handshake(Duck(sock), *greeter, proxy=server.url)
            assert receive_exactly(sock, len(GREETING)) == GREETING

    def test_handshake_on_connection_with_tls(self, greeter: Address, authority: Authority) -> None:
        with SocksServer(tls=authority.server()) as server, connection(server) as plain:
            context = authority.client()
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
                url = server.url.replace("+tls", "")
                socksclient.handshake(sock, *greeter, proxy=url, timeout=LONG)
                assert receive_exactly(sock, len(GREETING)) == GREETING

    def test_handshake_resolves_name_with_socks5(
        self, names: dict[str, list[str]], greeter: Address
    ) -> None:
        names.update({"origin.test": ["127.0.0.1", "192.0.2.1"], "127.0.0.1": ["127.0.0.1"]})
        with SocksServer() as server, connection(server) as sock:
            url = server.url_as("socks5")
            socksclient.handshake(sock, "origin.test", greeter[1], proxy=url, timeout=LONG)
            assert server.requests[0].destination == greeter
            with pytest.raises(ResolveError) as caught:
                socksclient.handshake(sock, "none.test", 80, proxy=url, timeout=LONG)
            assert (caught.value.phase, caught.value.destination) == ("resolve", ("none.test", 80))

    @pytest.mark.parametrize(
        ("faults", "kind", "phase"),
        [
            (Faults(reply=5), ReplyError, "request"),
            (Faults(close_after=0), ProxyClosed, "method selection"),
            (Faults(method=0xFF), AuthenticationError, "method selection"),
            (Faults(stall_after=2), ProxyTimeout, "request"),
        ],
    )
    def test_handshake_error_has_place_and_closes_nothing(
        self, faults: Faults, kind: type[SocksError], phase: str, echo_server: Address
    ) -> None:
        timeout = LONG if faults.stall_after is None else SHORT
        with SocksServer(faults=faults) as server, connection(server) as sock:
            with pytest.raises(kind) as caught:
                socksclient.handshake(sock, *echo_server, proxy=server.url, timeout=timeout)
            assert sock.fileno() >= 0
            place = (caught.value.proxy, caught.value.phase, caught.value.destination)
            assert place == (Proxy.from_url(server.url), phase, echo_server)

    def test_handshake_heeds_timeout_of_socket(self, echo_server: Address) -> None:
        with SocksServer(faults=Faults(stall_after=2)) as server, connection(server) as sock:
            sock.settimeout(SHORT)
            with pytest.raises(ProxyTimeout):
                socksclient.handshake(sock, *echo_server, proxy=server.url)
            assert sock.gettimeout() == SHORT

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"host": ""}, "host is empty"),
            ({"port": 0}, "port 0 is not in the range"),
            ({"host": "::1", "proxy": "socks4://p"}, "SOCKS4 cannot carry the IPv6 address"),
            ({"proxy": "socks5h+tls://p"}, "start TLS with the proxy on the connection first"),
            ({"proxy": ["socks5h://p", "socks5h://q"]}, "handshake takes one proxy, not a chain"),
            ({"timeout": 0}, "timeout must be more than 0"),
        ],
    )
    def test_handshake_refuses_invalid_arguments_before_any_octet(
        self, arguments: dict[str, Any], words: str
    ) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with pytest.raises(ValueError, match=words):
                socksclient.handshake(
                    **{"sock": ours, "host": "h", "port": 1, "proxy": "socks5h://p", **arguments}
                )
            ours.close()
            assert theirs.recv(1) == b""

    def test_handshake_refuses_non_blocking_socket_without_timeout(self) -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ValueError, match="the socket is non-blocking"):
                socksclient.handshake(sock, "h", 1, proxy="socks5h://p")

    def test_handshake_refuses_connection_that_lacks_method(self) -> None:
        with pytest.raises(
            TypeError, match="sock must have the method sendall, and object has none"
        ):
            socksclient.handshake(object(), "h", 1, proxy="socks5h://p")  # type: ignore[arg-type]
        with (
            socket.socket() as sock,
            pytest.raises(
                TypeError, match="timeout must be None, because Duck has no method settimeout"
            ),
        ):
            socksclient.handshake(Duck(sock), "h", 1, proxy="socks5h://p", timeout=1)

    def test_handshake_stopiteration_of_connection_is_no_success(self) -> None:
        sock = Mock(spec=["sendall", "recv"])
        sock.recv.side_effect = [b"\x05\x00"]
        with pytest.raises(RuntimeError, match="the connection raised StopIteration"):
            socksclient.handshake(sock, "h", 1, proxy="socks5h://p")

    def test_handshake_timeout_on_foreign_object_with_settimeout(
        self, echo_server: Address
    ) -> None:
        class WithTimeout(Duck):
            def settimeout(self, timeout: float | None) -> None:
                self._sock.settimeout(timeout)

        with SocksServer(faults=Faults(stall_after=2)) as server, connection(server) as sock:
            with pytest.raises(ProxyTimeout):
                socksclient.handshake(
                    WithTimeout(sock), *echo_server, proxy=server.url, timeout=SHORT
                )


@pytest.mark.anyio
class TestAwaitedHandshake:
    @pytest.mark.parametrize("scheme", SCHEMES)
    async def test_awaited_handshake_leads_to_destination_and_reads_nothing_of_it(
        self, scheme: str, greeter: Address
    ) -> None:
        with SocksServer(accounts={"user": "pass"}) as server:
            async with await anyio.connect_tcp(*server.address) as stream:
                url = server.url_as(scheme)
                await socksclient.anyio.handshake(stream, *greeter, proxy=url)
                assert await stream.receive() == GREETING
            assert server.requests[0].destination == greeter

    async def test_awaited_handshake_on_any_byte_stream(self, greeter: Address) -> None:
        with SocksServer() as server:
            async with await anyio.connect_tcp(*server.address) as stream:
                await socksclient.anyio.handshake(DuckStream(stream), *greeter, proxy=server.url)
                assert await stream.receive() == GREETING

    async def test_awaited_handshake_on_stream_with_tls(
        self, greeter: Address, authority: Authority
    ) -> None:
        with SocksServer(tls=authority.server()) as server:
            plain = await anyio.connect_tcp(*server.address)
            async with await TLSStream.wrap(
                plain, hostname="127.0.0.1", ssl_context=authority.client()
            ) as stream:
                url = server.url.replace("+tls", "")
                await socksclient.anyio.handshake(stream, *greeter, proxy=url)
                assert await stream.receive() == GREETING

    async def test_awaited_handshake_refusal_has_place_and_closes_nothing(
        self, echo_server: Address
    ) -> None:
        with SocksServer(faults=Faults(reply=5)) as server:
            async with await anyio.connect_tcp(*server.address) as stream:
                with pytest.raises(ReplyError) as caught:
                    await socksclient.anyio.handshake(stream, *echo_server, proxy=server.url)
                assert caught.value.destination == echo_server
                # The rest of the reply can be read, as from any open stream.
                assert await stream.receive() != b""

    async def test_awaited_handshake_on_closed_stream(self) -> None:
        with SocksServer() as server:
            stream = await anyio.connect_tcp(*server.address)
            await stream.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await socksclient.anyio.handshake(stream, "h", 1, proxy=server.url)

    async def test_awaited_handshake_while_another_task_reads(self) -> None:
        with SocksServer(faults=Faults(stall_after=0)) as server:
            async with await anyio.connect_tcp(*server.address) as stream:
                async with anyio.create_task_group() as group:
                    group.start_soon(stream.receive)
                    await anyio.wait_all_tasks_blocked()
                    with pytest.raises(anyio.BusyResourceError):
                        await socksclient.anyio.handshake(stream, "h", 1, proxy=server.url)
                    group.cancel_scope.cancel()

    async def test_awaited_handshake_stopiteration_of_stream_is_no_success(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(_argument: object) -> bytes:
            raise StopIteration

        with SocksServer(faults=Faults(stall_after=0)) as server:
            async with await anyio.connect_tcp(*server.address) as plain:
                stream = DuckStream(plain)
                monkeypatch.setattr(stream, "receive", fail)
                with pytest.raises(RuntimeError, match="raised StopIteration"):
                    await socksclient.anyio.handshake(stream, "h", 1, proxy=server.url)

    @pytest.mark.parametrize("name", ["send", "receive"])
    async def test_awaited_handshake_keeps_error_of_foreign_stream(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(_argument: object) -> bytes:
            raise LookupError("of the stream")

        with SocksServer(faults=Faults(stall_after=0)) as server:
            async with await anyio.connect_tcp(*server.address) as plain:
                stream = DuckStream(plain)
                monkeypatch.setattr(stream, name, fail)
                with anyio.fail_after(LONG), pytest.raises(LookupError, match="of the stream"):
                    await socksclient.anyio.handshake(stream, "h", 1, proxy=server.url)

    @pytest.mark.parametrize("name", ["send", "receive"])
    async def test_awaited_handshake_timeout_of_foreign_stream_has_place(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(_argument: object) -> bytes:
            raise TimeoutError

        with SocksServer(faults=Faults(stall_after=0)) as server:
            async with await anyio.connect_tcp(*server.address) as plain:
                stream = DuckStream(plain)
                monkeypatch.setattr(stream, name, fail)
                with anyio.fail_after(LONG), pytest.raises(ProxyTimeout) as caught:
                    await socksclient.anyio.handshake(stream, "h", 1, proxy=server.url)
        assert caught.value.phase == "method selection"

    async def test_awaited_handshake_method_writes_without_read(self) -> None:
        def negotiate(_proxy: Proxy) -> Flow[None]:
            yield Exchange(b"one", 0)
            assert (yield Exchange(b"two", 2)) == b"ok"

        proxy = Proxy("proxy.test", methods=(Method(0x80, negotiate),))
        ours, theirs = socket.socketpair()
        with theirs:
            async with await anyio.abc.UNIXSocketStream.from_socket(ours) as stream:
                theirs.sendall(b"\x05\x80ok\x05\x00\x00\x01" + bytes(6))
                await socksclient.anyio.handshake(stream, "h", 1, proxy=proxy)
            assert receive_exactly(theirs, 9) == b"\x05\x01\x80onetwo"

    async def test_awaited_handshake_refuses_invalid_arguments_before_any_octet(self) -> None:
        with SocksServer() as server:
            async with await anyio.connect_tcp(*server.address) as stream:
                with pytest.raises(ValueError, match="port 0 is not in the range"):
                    await socksclient.anyio.handshake(stream, "h", 0, proxy=server.url)


class TestObserver:
    """The observer of a driver, which the log uses, and which a trace can use."""

    def test_observer_sees_every_octet_and_marks_secrets(self, echo_server: Address) -> None:
        events: list[tuple[Event, float]] = []
        with SocksServer(accounts={"user": "pass"}) as server:
            route = Route.through(as_chain(server.url), *echo_server)
            channel, _ = driver.open_tunnel(
                route, Deadline(LONG), observer=lambda event, time: events.append((event, time))
            )
            channel.close()
        octets = [
            (event.hop, event.phase, event.direction, event.octets, event.is_secret)
            for event, _ in events
            if event.direction != "note"
        ]
        assert octets[:4] == [
            (0, "method selection", "sent", b"\x05\x02\x00\x02", False),
            (0, "method selection", "received", b"\x05\x02", False),
            (0, "authentication", "sent", b"\x01\x04user\x04pass", True),
            (0, "authentication", "received", b"\x01\x00", True),
        ]
        assert {phase for _, phase, *_ in octets[4:]} == {"request"}
        sent = [event[3] for event in octets if event[2] == "sent"]
        assert b"".join(sent[2:]).startswith(b"\x05\x01\x00\x01\x7f\x00\x00\x01")
        times = [time for _, time in events]
        assert times == sorted(times)
        notes = [event.note for event, _ in events if event.direction == "note"]
        assert notes[:4] == ["connect", "method selection", "authentication", "request"]
        assert notes[4].startswith("granted, bound address")

    @pytest.mark.anyio
    async def test_observer_sees_hops_of_chain(self, echo_server: Address) -> None:
        hops: list[int] = []
        with SocksServer() as near, SocksServer() as far:
            route = Route.through(as_chain([near.url, far.url]), *echo_server)
            channel, _ = await anyio_driver.open_tunnel(
                route, observer=lambda event, _: hops.append(event.hop)
            )
            await close(channel)
        assert hops == sorted(hops)
        assert set(hops) == {0, 1}

    def test_observer_sees_octets_before_hang_up(self, echo_server: Address) -> None:
        received: list[bytes] = []
        with SocksServer(faults=Faults(close_after=1)) as server:
            route = Route.through(as_chain(server.url), *echo_server)
            with pytest.raises(ProxyClosed):
                driver.open_tunnel(
                    route,
                    Deadline(LONG),
                    observer=lambda event, _: received.append(event.octets),
                )
        assert [octets for octets in received if octets][1:] == [b"\x05"]

    @pytest.mark.parametrize("credentials", ["user:pass@", ""])
    def test_observer_marks_http_head_with_credentials(
        self, credentials: str, echo_server: Address
    ) -> None:
        secret: list[bool] = []
        with SocksServer(accounts={"user": "pass"} if credentials else None) as server:
            route = Route.through(as_chain(server.url_as("http")), *echo_server)
            channel, _ = driver.open_tunnel(
                route,
                Deadline(LONG),
                observer=lambda event, _: secret.append(event.is_secret or not event.octets),
            )
            channel.close()
        assert all(secret) == bool(credentials)


@pytest.mark.anyio
async def test_deadline_holds_if_method_catches_timeout(
    echo_server: Address,
) -> None:
    def negotiate(_proxy: Proxy) -> Flow[None]:
        with suppress(TimeoutError):
            yield Exchange(b"", 2)
        yield Exchange(b"", 2)

    faults = Faults(method=0x80, stall_after=2)
    with SocksServer(faults=faults) as server:
        proxy = Proxy(*server.address, methods=(Method(0x80, negotiate),))
        route = Route.through((proxy,), *echo_server)
        with pytest.raises(ProxyTimeout):
            await anyio_driver.open_tunnel(route, timeout=SHORT)


def negotiate_for_ever(_proxy: Proxy) -> Flow[None]:
    while True:
        with suppress(OSError):
            yield Exchange(b"", 2)


def test_deadline_holds_if_method_always_catches_timeout(echo_server: Address) -> None:
    with SocksServer(faults=Faults(method=0x80, stall_after=2)) as server:
        proxy = Proxy(*server.address, methods=(Method(0x80, negotiate_for_ever),))
        with pytest.raises(ProxyTimeout) as caught:
            socksclient.create_connection(echo_server, SHORT, proxy=proxy)
        assert (caught.value.proxy, caught.value.destination) == (proxy, echo_server)
        with connection(server) as sock, pytest.raises(ProxyTimeout) as caught:
            socksclient.handshake(sock, *echo_server, proxy=proxy, timeout=SHORT)
        assert (caught.value.proxy, caught.value.destination) == (proxy, echo_server)


@pytest.mark.anyio
async def test_deadline_is_in_log_once(
    echo_server: Address, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "socksclient")
    with SocksServer(faults=Faults(stall_after=2)) as server:
        route = Route.through(as_chain([server.url, "socks5h://far.test"]), *echo_server)
        with pytest.raises(ProxyTimeout) as caught:
            await anyio_driver.open_tunnel(route, timeout=SHORT)
    assert caught.value.hop == 0
    failed = [text for text in caplog.messages if "failed" in text]
    assert [text.partition(" via ")[2][:5] for text in failed] == ["hop 0"]


class TestProtection:
    """A method may return a `Protection` for the connection. No driver applies one yet."""

    class Xor:
        def protect(self, octets: bytes) -> bytes:
            return bytes(octet ^ 1 for octet in octets)

        unprotect = protect

    def test_protection_ends_handshake(self) -> None:
        def negotiate(_proxy: Proxy) -> Flow[Protection]:
            assert (yield Exchange(b"token", 2)) == b"ok"
            return self.Xor()

        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"\x05\x80ok")
            proxy = Proxy("proxy.test", methods=(Method(0x80, negotiate),))
            with pytest.raises(NotImplementedError, match="method 80 protects everything after it"):
                socksclient.handshake(ours, "origin.test", 80, proxy=proxy, timeout=LONG)
            ours.shutdown(socket.SHUT_WR)
            assert receive_exactly(theirs, 8) == b"\x05\x01\x80token"
            assert theirs.recv(1) == b""
