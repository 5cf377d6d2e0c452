"""DNS through a proxy: dnspython with our sockets, and `socksclient.dnspython`."""

from __future__ import annotations

import importlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import anyio
import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.resolver
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import dns.versioned
import dns.zone
import pytest
import trustme

import socksclient
from socksclient import (
    AssociationClosed,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ResolveError,
)
from socksclient.dnspython import Backend, Nameserver, udp_with_fallback
from socksclient.exceptions import ConnectionNotAllowed, ConnectionRefused
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers import real_servers, real_services
from helpers.http_clients import routes_to
from helpers.origin import Origin
from helpers.support import (
    BACKENDS,
    LONG,
    REFUSED_PORT,
    Address,
    descriptors,
    encode_datagram_header,
    eventually,
    needs,
    resolved_names,
)

LOOPS = ["asyncio", "trio"]

# Addresses of name servers that are nowhere: only the proxy knows where they are.
IPV4 = ("192.0.2.53", 53)
IPV6 = ("2001:db8::53", 53)
NAME = ("dns.test", 53)

DNS_QUERY = "https://origin.test/dns-query"


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    before = descriptors()
    yield
    assert eventually(lambda: descriptors() <= before)


# The ways to ask, each as a function that blocks


class Ask(Protocol):
    def __call__(
        self,
        proxy: str,
        name: str = "a.test",
        kind: str = "A",
        *,
        server: Address = IPV4,
        timeout: float = LONG,
    ) -> dns.message.Message: ...


def by_function(
    proxy: str, name: str, kind: str, server: Address, timeout: float
) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    answer, _ = udp_with_fallback(query, server[0], timeout, server[1], proxy=proxy)
    return answer


def by_nameserver(
    proxy: str, name: str, kind: str, server: Address, timeout: float
) -> dns.message.Message:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [Nameserver(*server, proxy=proxy)]
    # dnspython gives a single try two seconds, unless it is told otherwise.
    resolver.timeout = timeout
    return resolver.resolve(name, kind, lifetime=timeout).response


async def by_awaited_nameserver(
    proxy: str, name: str, kind: str, server: Address, timeout: float
) -> dns.message.Message:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [Nameserver(*server, proxy=proxy)]
    # dnspython gives a single try two seconds, unless it is told otherwise.
    resolver.timeout = timeout
    backend = Backend("socks5h://nowhere.invalid")  # has only to sleep
    return (await resolver.resolve(name, kind, lifetime=timeout, backend=backend)).response


async def by_backend(
    proxy: str, name: str, kind: str, server: Address, timeout: float
) -> dns.message.Message:
    answer, _ = await dns.asyncquery.udp_with_fallback(
        dns.message.make_query(name, kind),
        server[0],
        timeout,
        server[1],
        ignore_unexpected=True,
        ignore_errors=True,
        backend=Backend(proxy),
    )
    return answer


async def by_backend_of_resolver(
    proxy: str, name: str, kind: str, server: Address, timeout: float
) -> dns.message.Message:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server[0]], server[1]
    # dnspython gives a single try two seconds, unless it is told otherwise.
    resolver.timeout = timeout
    answer = await resolver.resolve(name, kind, lifetime=timeout, backend=Backend(proxy))
    return answer.response


def run(loop: str, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
    return anyio.run(partial(function, *args), **BACKENDS[loop])


WAYS: dict[str, Callable[..., dns.message.Message]] = {
    "udp_with_fallback": by_function,
    "Nameserver": by_nameserver,
    **{
        f"{name} on {loop}": partial(run, loop, function)
        for name, function in [
            ("Nameserver", by_awaited_nameserver),
            ("Backend", by_backend),
            ("Backend of a resolver", by_backend_of_resolver),
        ]
        for loop in LOOPS
    },
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    def ask(
        proxy: str,
        name: str = "a.test",
        kind: str = "A",
        *,
        server: Address = IPV4,
        timeout: float = LONG,
    ) -> dns.message.Message:
        return way(proxy, name, kind, server, timeout)

    way = WAYS[request.param]
    return ask


@contextmanager
def failing(*expected: type[Exception]) -> Iterator[list[Exception]]:
    """Check that one of `expected` is raised, also in a resolver's error; append it."""
    errors: list[Exception] = []
    resolvers = (dns.resolver.NoNameservers, dns.resolver.LifetimeTimeout)
    with pytest.raises((*expected, *resolvers)) as caught:
        yield errors
    error = caught.value
    if isinstance(error, resolvers) and error.kwargs["errors"]:
        error = error.kwargs["errors"][-1][3]
    assert isinstance(error, expected)
    errors.append(error)


def texts(response: dns.message.Message) -> list[str]:
    return sorted(record.to_text() for records in response.answer for record in records)


# A name server that does as the test wants, and its answers

KEYRING = dns.tsigkeyring.from_text({"key.test": "c2VjcmV0"})
Answers = Callable[[bytes], Iterable[bytes]]


class Elsewhere(bytes):
    """A datagram that comes from another port."""


class NameServer:
    """It answers a query with what `udp` gives, or `tcp` if it came so; both have one port.

    Over TCP it answers one client after the other, and one query, after which it waits for the
    client to leave. TCP is TLS with a context.
    """

    def __init__(self, udp: Answers, tcp: Answers, tls: ssl.SSLContext | None = None) -> None:
        self._answers = udp, tcp
        self._tls = tls
        self._stopped = threading.Event()

    def __enter__(self) -> Address:
        with ExitStack() as stack:
            self._tcp, self._udp = stack.enter_context(one_port())
            self._elsewhere = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            self._stack = stack.pop_all()
        address: Address = self._tcp.getsockname()
        self._address = address
        for serve in (self._serve_udp, self._serve_tcp):
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            self._stack.callback(thread.join)
        return address

    def __exit__(self, *_exc_info: object) -> None:
        self._stopped.set()
        self._udp.sendto(b"", self._address)
        with socket.socket() as sock:
            sock.connect(self._address)
        self._stack.close()

    def _serve_udp(self) -> None:
        while True:
            query, client = self._udp.recvfrom(65535)
            if self._stopped.is_set():
                return
            for datagram in self._answers[0](query):
                if self._stopped.is_set():
                    return
                sender = self._elsewhere if isinstance(datagram, Elsewhere) else self._udp
                sender.sendto(datagram, client)

    def _serve_tcp(self) -> None:
        while True:
            sock, _ = self._tcp.accept()
            with sock, suppress(OSError):
                if self._stopped.is_set():
                    return
                with self._tls.wrap_socket(sock, server_side=True) if self._tls else sock as peer:
                    self._converse(peer)

    def _converse(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            query = file.read(int.from_bytes(file.read(2), "big"))
            for octets in self._answers[1](query) if query else ():
                sock.sendall(octets)
            file.read()


@contextmanager
def one_port() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sockets for TCP and UDP."""
    while True:
        with (
            socket.create_server(("127.0.0.1", 0)) as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            try:
                udp.bind(tcp.getsockname())
            except OSError:  # taken
                continue
            yield tcp, udp
            return


def respond(query: bytes, *addresses: str, **changes: int) -> dns.message.Message:
    """Return the response to `query`, with its attributes changed by `changes`."""
    asked = dns.message.from_wire(query, keyring=KEYRING)
    [question] = asked.question
    response = dns.message.make_response(asked)
    if addresses:
        answer = dns.rrset.from_text(question.name, 60, question.rdclass, "A", *addresses)
        response.answer.append(answer)
    for name, value in changes.items():
        setattr(response, name, value)
    return response


def answer(query: bytes) -> Iterator[bytes]:
    yield respond(query, "192.0.2.1").to_wire()


def truncate(query: bytes) -> Iterator[bytes]:
    response = respond(query)
    response.flags |= dns.flags.TC
    yield response.to_wire()


def answer_by_tcp(query: bytes) -> Iterator[bytes]:
    yield respond(query, "192.0.2.1").to_wire(prepend_length=True)


def drip(query: bytes) -> Iterator[bytes]:
    for octet in respond(query, "192.0.2.1").to_wire(prepend_length=True):
        yield bytes([octet])
        threading.Event().wait(0.05)


def hang_up(query: bytes) -> Iterator[bytes]:
    yield b"\0"
    raise ConnectionAbortedError


def say_nothing(_query: bytes) -> Iterable[bytes]:
    return ()


def garbage_without_end(_query: bytes) -> Iterator[bytes]:
    for garbage in repeat(b"garbage"):
        yield garbage
        threading.Event().wait(0.001)


@contextmanager
def proxied(
    udp: Answers = truncate,
    tcp: Answers = answer_by_tcp,
    *,
    faults: Faults | Iterable[Faults] = (),
    tls: ssl.SSLContext | None = None,
) -> Iterator[SocksServer]:
    """Run a name server behind a proxy; by default, its answers over UDP are truncated."""
    with NameServer(udp, tcp, tls) as address:
        routes = dict.fromkeys([IPV4, IPV6, NAME], address)
        with SocksServer(routes=routes, faults=faults) as proxy:
            yield proxy


# Tests


@pytest.mark.parametrize("server", [IPV4, IPV6])
def test_query_udp_and_tcp_go_through_proxy(ask: Ask, server: Address) -> None:
    with proxied() as proxy, resolved_names() as names:
        assert texts(ask(proxy.url, server=server)) == ["192.0.2.1"]
    assert set(names) <= {"127.0.0.1"}
    udp, tcp = proxy.requests
    assert udp.command == Command.UDP_ASSOCIATE
    assert [destination for destination, _ in udp.datagrams] == [server]
    assert (tcp.command, tcp.destination) == (Command.CONNECT, server)


def test_query_answered_by_udp_uses_no_tcp(ask: Ask) -> None:
    with proxied(answer) as proxy:
        assert texts(ask(proxy.url)) == ["192.0.2.1"]
    assert [seen.command for seen in proxy.requests] == [Command.UDP_ASSOCIATE]


def test_query_ignores_datagrams_other_than_answer(ask: Ask) -> None:
    def answer_at_last(query: bytes) -> Iterator[bytes]:
        good = respond(query, "192.0.2.1")
        forged = respond(query, "192.0.2.66", id=good.id ^ 1).to_wire()
        other = dns.message.make_query("other.test", "A")
        other.id = good.id
        cut = respond(query, id=good.id ^ 1, flags=int(good.flags | dns.flags.TC)).to_wire()
        yield from [b"", b"garbage", query, forged, other.to_wire(), cut, good.to_wire()[:-1]]
        yield from [*answer(other.to_wire()), Elsewhere(respond(query, "192.0.2.66").to_wire())]
        yield good.to_wire()

    garbage = [b"", b"\0\0\0", b"\0\0\1\1no fragments", encode_datagram_header(*IPV4)[:-1]]
    faults = Faults(garbage=garbage, stranger=encode_datagram_header(*IPV4) + b"stranger")
    with proxied(answer_at_last, faults=faults) as proxy:
        assert texts(ask(proxy.url)) == ["192.0.2.1"]
    assert len(proxy.requests) == 1


ENDLESS: dict[str, tuple[Answers, Answers, Faults | list[Faults]]] = {
    "no answer": (say_nothing, say_nothing, []),
    "garbage": (garbage_without_end, say_nothing, []),
    "no answer by TCP": (truncate, say_nothing, []),
    "an answer by TCP that drips": (truncate, drip, []),
    "a proxy that stalls": (answer, say_nothing, Faults(stall_after=2)),
    "a proxy that drips": (answer, say_nothing, Faults(drip=0.1)),
    "a proxy that stalls for TCP": (truncate, answer_by_tcp, [Faults(), Faults(stall_after=2)]),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_query_timeout(ask: Ask, case: str) -> None:
    udp, tcp, faults = ENDLESS[case]
    with proxied(udp, tcp, faults=faults) as proxy:
        start = time.monotonic()
        with failing(dns.exception.Timeout, ProxyTimeout):
            ask(proxy.url, timeout=0.2)
        assert time.monotonic() - start < LONG / 2


ERRORS: dict[str, tuple[Answers, Faults | list[Faults], type[Exception]]] = {
    "UDP is not allowed": (answer, Faults(reply=0x02), ConnectionNotAllowed),
    "TCP is refused": (truncate, [Faults(), Faults(reply=0x05)], ConnectionRefused),
    "it hangs up at once": (answer, Faults(close_after=0), ProxyClosed),
    "it ends the association": (say_nothing, Faults(end_after=1), AssociationClosed),
}


@pytest.mark.parametrize("case", ERRORS)
def test_query_raises_errors_of_proxy(ask: Ask, case: str) -> None:
    udp, faults, error = ERRORS[case]
    with proxied(udp, faults=faults) as proxy, failing(error) as errors:
        ask(proxy.url)
    assert "proxy: 127.0.0.1:" in str(errors[0])


def test_query_when_proxy_refuses_connection(ask: Ask) -> None:
    with failing(ProxyConnectError):
        ask(f"socks5h://127.0.0.1:{REFUSED_PORT}")


# The reset may be met with in any step, so it is done again and again.
@pytest.mark.parametrize("faults", [[], [Faults(), Faults(reset_after=12)] * 5], ids=["FIN", "RST"])
def test_query_when_tcp_connection_ends_early(ask: Ask, faults: list[Faults]) -> None:
    with proxied(tcp=hang_up, faults=faults) as proxy:
        for number in range(len(faults) // 2 or 1):
            with failing(EOFError, OSError):
                ask(proxy.url)
            assert len(proxy.requests) == 2 * (number + 1)


class TestUDPWithFallback:
    query = dns.message.make_query("a.test", "A")

    @pytest.mark.parametrize(("udp", "by_tcp"), [(answer, False), (truncate, True)])
    @pytest.mark.parametrize("timeout", [10.0, None])
    def test_udp_with_fallback_returns_whether_tcp_was_used(
        self, udp: Answers, by_tcp: bool, timeout: float | None
    ) -> None:
        with proxied(udp) as proxy:
            response, used_tcp = udp_with_fallback(self.query, *IPV4[:1], timeout, proxy=proxy.url)
        assert texts(response) == ["192.0.2.1"]
        assert used_tcp is by_tcp

    def test_udp_with_fallback_sends_server_name_to_proxy(self) -> None:
        with proxied() as proxy, resolved_names() as names:
            udp_with_fallback(self.query, NAME[0], 10, proxy=Proxy.from_url(proxy.url))
        assert set(names) <= {"127.0.0.1"}
        udp, tcp = proxy.requests
        assert [destination for destination, _ in udp.datagrams] == [NAME]
        assert (tcp.address_type, tcp.destination) == (0x03, NAME)

    def test_udp_with_fallback_resolves_server_name_with_socks5(
        self, names: dict[str, list[str]]
    ) -> None:
        with proxied() as proxy:
            url = proxy.url.replace("socks5h", "socks5")
            with pytest.raises(ResolveError):
                udp_with_fallback(self.query, NAME[0], 10, proxy=url)
            names[NAME[0]] = [IPV4[0]]
            udp_with_fallback(self.query, NAME[0], 10, proxy=url)
        udp, tcp = proxy.requests[-2:]
        assert [destination for destination, _ in udp.datagrams] == [IPV4]
        assert tcp.destination == IPV4

    def test_udp_with_fallback_timeout_in_resolver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def getaddrinfo(*_args: object, **_kwargs: object) -> list[object]:
            resolved.wait(LONG)
            return []

        resolved = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with proxied() as proxy:
            url = proxy.url.replace("socks5h", "socks5")
            with pytest.raises(ProxyTimeout) as caught:
                udp_with_fallback(self.query, NAME[0], 0.2, proxy=url)
        resolved.set()
        assert caught.value.phase == "resolve"

    @pytest.mark.parametrize(("host", "port"), [("", 53), ("a b", 53), (IPV4[0], 70000)])
    def test_udp_with_fallback_refuses_invalid_host_or_port(self, host: str, port: int) -> None:
        with proxied() as proxy, pytest.raises(ValueError, match=r"host|port"):
            udp_with_fallback(self.query, host, 10, port, proxy=proxy.url)
        assert proxy.connections == []

    def test_udp_with_fallback_has_one_deadline(self) -> None:
        def truncate_at_last(query: bytes) -> Iterator[bytes]:
            threading.Event().wait(1.5)
            yield from truncate(query)

        with proxied(truncate_at_last, say_nothing) as proxy:
            start = time.monotonic()
            with pytest.raises(dns.exception.Timeout):
                udp_with_fallback(self.query, IPV4[0], 3.0, proxy=proxy.url)
            assert 2.9 < time.monotonic() - start < 4.5
        assert len(proxy.requests) == 2

    def test_udp_with_fallback_refuses_answer_to_other_query(self) -> None:
        def answer_another(query: bytes) -> Iterator[bytes]:
            yield respond(query, id=0).to_wire(prepend_length=True)

        query = dns.message.make_query("a.test", "A", id=1)
        with proxied(tcp=answer_another) as proxy, pytest.raises(dns.query.BadResponse):
            udp_with_fallback(query, IPV4[0], 10, proxy=proxy.url)

    def test_udp_with_fallback_checks_tsig(self) -> None:
        def forge(query: bytes) -> Iterator[bytes]:
            forged = respond(query, "192.0.2.66")
            forged.use_tsig(dns.tsigkeyring.from_text({"key.test": "Zm9yZ2Vk"}))
            yield forged.to_wire()
            yield from truncate(query)

        query = dns.message.make_query("a.test", "A")
        query.use_tsig(KEYRING)
        with proxied(forge) as proxy:
            response, used_tcp = udp_with_fallback(query, IPV4[0], 10, proxy=proxy.url)
        assert response.had_tsig
        assert used_tcp


class TestNameserver:
    def test_nameserver_address_in_resolver(self) -> None:
        with proxied(answer) as proxy:
            nameserver = Nameserver(*IPV6, proxy=proxy.url)
            assert nameserver.proxy == (Proxy.from_url(proxy.url),)
            assert str(nameserver) == "Do53:2001:db8::53@53"
            resolver = dns.resolver.Resolver(configure=False)
            resolver.nameservers = [nameserver]
            found = resolver.resolve("a.test", source="192.0.2.7")
        assert (found.nameserver, found.port) == IPV6

    @pytest.mark.parametrize("by_tcp", [False, True])
    @pytest.mark.parametrize("loop", [None, *LOOPS])
    def test_nameserver_query_options(self, loop: str | None, by_tcp: bool) -> None:
        def answer_with_junk(query: bytes) -> Iterator[bytes]:
            octets = respond(query, "192.0.2.1", "192.0.2.2").to_wire() + b"junk"
            yield len(octets).to_bytes(2, "big") + octets if by_tcp else octets

        query = dns.message.make_query("a.test", "A")
        options: dict[str, Any] = {"one_rr_per_rrset": True, "ignore_trailing": True}
        with proxied(answer_with_junk, answer_with_junk) as proxy:
            nameserver = Nameserver(*IPV4, proxy=proxy.url)
            if loop is None:
                response = nameserver.query(query, 10, None, 0, by_tcp, **options)
            else:
                ask = partial(nameserver.async_query, backend=None, **options)
                response = run(loop, ask, query, 10, None, 0, by_tcp)
        assert [len(rrset) for rrset in response.answer] == [1, 1]

    @pytest.mark.parametrize(("host", "port"), [NAME, ("", 53), (IPV4[0], 0)])
    def test_nameserver_refuses_invalid_address_or_port(self, host: str, port: int) -> None:
        with pytest.raises(ValueError, match=r"address|host|port"):
            Nameserver(host, port, proxy="socks5h://127.0.0.1")

    @pytest.mark.parametrize("made", [partial(Nameserver, "192.0.2.53"), Backend])
    def test_nameserver_and_backend_refuse_invalid_proxy(self, made: Callable[..., object]) -> None:
        with pytest.raises(ValueError, match="scheme"):
            made(proxy="192.0.2.1:1080")


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.anyio
class TestBackend:
    query = dns.message.make_query("a.test", "A")

    async def test_backend_tcp_query(self) -> None:
        with proxied() as proxy:
            response = await dns.asyncquery.tcp(
                self.query, IPV6[0], 10, source="192.0.2.7", backend=Backend(proxy.url)
            )
        assert texts(response) == ["192.0.2.1"]
        assert [seen.destination for seen in proxy.requests] == [IPV6]

    async def test_backend_query_without_timeout(self) -> None:
        with proxied() as proxy:
            _, used_tcp = await dns.asyncquery.udp_with_fallback(
                self.query, IPV4[0], source_port=9, backend=Backend(proxy.url)
            )
        assert used_tcp

    async def test_backend_raises_unexpected_source(self) -> None:
        def answer_from_elsewhere(query: bytes) -> Iterator[bytes]:
            yield from map(Elsewhere, answer(query))

        with proxied(answer_from_elsewhere) as proxy, pytest.raises(dns.query.UnexpectedSource):
            await dns.asyncquery.udp(self.query, IPV4[0], 10, backend=Backend(proxy.url))

    async def test_backend_socket_serves_many_queries(self) -> None:
        with proxied(answer) as proxy:
            backend = Backend(proxy.url)
            async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for number in range(3):
                    query = dns.message.make_query(f"{number}.test", "A")
                    response = await dns.asyncquery.udp(query, IPV4[0], 10, sock=sock)
                    assert texts(response) == ["192.0.2.1"]
        assert len(proxy.requests) == 1

    async def test_backend_name_sleep_and_wait_for(self) -> None:
        backend = Backend("socks5h://127.0.0.1")
        assert backend.name() == "socksclient"
        await backend.sleep(0)
        assert await backend.wait_for(anyio.to_thread.run_sync(lambda: "result"), 10) == "result"
        with pytest.raises(dns.exception.Timeout):
            await backend.wait_for(anyio.sleep_forever(), 0.01)
        async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM):
            # Making the socket has asked no proxy for anything.
            pass
        assert not backend.datagram_connection_required()
        with pytest.raises(NotImplementedError, match="client with an AsyncSocksTransport"):
            backend.get_transport_class()

    async def test_backend_refuses_dns_over_quic(self) -> None:
        with SocksServer() as proxy:
            with pytest.raises(dns.query.NoDOQ, match="does not go through socksclient's Backend"):
                await dns.asyncquery.quic(
                    self.query, "127.0.0.1", 10, REFUSED_PORT, backend=Backend(proxy.url)
                )
            assert proxy.connections == []

    async def test_backend_make_socket_refuses_bad_arguments(self) -> None:
        backend = Backend("socks5h://127.0.0.1")
        with pytest.raises(NotImplementedError, match="SOCK_RAW"):
            await backend.make_socket(socket.AF_INET, socket.SOCK_RAW)
        with pytest.raises(ValueError, match="a connection needs a destination"):
            await backend.make_socket(socket.AF_INET, socket.SOCK_STREAM)
        async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="a datagram needs a destination"):
                await sock.sendto(b"", None, 10)

    async def test_backend_socket_getsockname_and_getpeername(self) -> None:
        with proxied() as proxy:
            backend = Backend(proxy.url)
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                async with await backend.make_socket(socket.AF_INET, kind, 0, None, IPV4) as sock:
                    host, port, *_ = await sock.getsockname()
                    assert host in ("127.0.0.1", "0.0.0.0")
                    assert port
                    assert await sock.getpeername() == IPV4
            assert await sock.getpeercert(10) is None

    async def test_backend_socket_receives_before_it_sends(self) -> None:
        with proxied(answer) as proxy:
            backend = Backend(proxy.url)
            async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                async with anyio.create_task_group() as group:

                    async def hear() -> None:
                        octets, source = await sock.recvfrom(512, 10)
                        assert texts(dns.message.from_wire(octets)) == ["192.0.2.1"]
                        assert source == IPV4

                    group.start_soon(hear)
                    await sock.sendto(self.query.to_wire(), IPV4, 10)
        assert [seen.command for seen in proxy.requests] == [Command.UDP_ASSOCIATE]

    @pytest.mark.parametrize(
        ("by_udp", "forged"),
        [(True, []), (True, [Elsewhere(b"forged")]), (False, [])],
        ids=["UDP", "UDP, with forgery", "TCP"],
    )
    async def test_backend_inbound_xfr(self, by_udp: bool, forged: list[bytes]) -> None:
        soa = "zone.test. 60 IN SOA a.test. b.test. 1 2 3 4 5"

        def answer_that_there_are_none(query: bytes) -> Iterator[bytes]:
            response = dns.message.make_response(dns.message.from_wire(query))
            response.answer = dns.message.from_text(f";ANSWER\n{soa}").answer
            yield from forged
            yield response.to_wire(prepend_length=not by_udp)

        zone = dns.zone.from_text(
            f"{soa}\n@ 60 IN NS a.test.", "zone.test", zone_factory=dns.versioned.Zone
        )
        with proxied(answer_that_there_are_none, answer_that_there_are_none) as proxy:
            mode = dns.query.UDPMode.ONLY if by_udp else dns.query.UDPMode.NEVER
            await dns.asyncquery.inbound_xfr(
                IPV4[0], zone, timeout=10, udp_mode=mode, backend=Backend(proxy.url)
            )
        assert len(proxy.requests) == 1


class TestZoneTransfersOverAnAssociation:
    """`dns.query.socket_factory` makes an association, and dnspython calls its connect_ex."""

    soa = "zone.test. 60 IN SOA a.test. b.test. 1 2 3 4 5"

    def answer_that_there_are_no_changes(self, query: bytes) -> Iterator[bytes]:
        # Since 2.8, dnspython takes an object that is no socket.socket for TCP, and puts a length
        # before the message. The association carries that as well.
        framed = int.from_bytes(query[:2], "big") == len(query) - 2
        asked = dns.message.from_wire(query[2:] if framed else query)
        response = dns.message.make_response(asked)
        response.answer = dns.message.from_text(f";ANSWER\n{self.soa}").answer
        wire = response.to_wire()
        if framed:
            yield len(wire).to_bytes(2, "big")
        yield wire

    @pytest.fixture
    def zone(self) -> dns.zone.Zone:
        text = f"{self.soa}\n@ 60 IN NS a.test."
        return dns.zone.from_text(text, "zone.test", zone_factory=dns.versioned.Zone)

    @contextmanager
    def factory(self, monkeypatch: pytest.MonkeyPatch, udp: Answers) -> Iterator[SocksServer]:
        """Make dnspython use associations instead of UDP sockets in the `with` block."""

        def associate(_family: int, kind: int, _proto: int = 0) -> socksclient.UDPAssociation:
            assert kind == socket.SOCK_DGRAM
            return socksclient.udp_associate(10, proxy=proxy.url)

        with proxied(udp) as proxy:
            monkeypatch.setattr(dns.query, "socket_factory", associate)
            yield proxy

    def test_inbound_xfr_over_association(
        self, zone: dns.zone.Zone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with self.factory(monkeypatch, self.answer_that_there_are_no_changes) as proxy:
            dns.query.inbound_xfr(IPV4[0], zone, lifetime=10, udp_mode=dns.query.UDPMode.ONLY)
            [seen] = proxy.requests
        assert seen.command == Command.UDP_ASSOCIATE
        assert {destination for destination, _ in seen.datagrams} == {IPV4}

    def test_xfr_over_association(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.factory(monkeypatch, self.answer_that_there_are_no_changes):
            [response] = dns.query.xfr(
                IPV4[0], "zone.test", "IXFR", serial=1, lifetime=10, use_udp=True, relativize=False
            )
        assert [rrset.to_text() for rrset in response.answer] == [self.soa]

    def test_xfr_over_association_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.factory(monkeypatch, say_nothing):
            with pytest.raises(dns.exception.Timeout):
                list(dns.query.xfr(IPV4[0], "zone.test", "IXFR", lifetime=0.2, use_udp=True))


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.anyio
class TestBackendOverTLS:
    query = dns.message.make_query("a.test", "A")
    authority = trustme.CA()

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("dns.test", IPV4[0]).configure_cert(context)
        return context

    async def ask(
        self, proxy: SocksServer, authority: trustme.CA, hostname: str | None, timeout: float = LONG
    ) -> dns.message.Message:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return await dns.asyncquery.tls(
            self.query,
            *(IPV4[0], timeout, IPV4[1]),
            ssl_context=context,
            server_hostname=hostname,
            backend=Backend(proxy.url),
        )

    @pytest.mark.parametrize("hostname", ["dns.test", "dns.test.", None])
    async def test_dns_over_tls_goes_through_proxy(self, hostname: str | None) -> None:
        with proxied(tls=self.context()) as proxy:
            response = await self.ask(proxy, self.authority, hostname)
        assert texts(response) == ["192.0.2.1"]
        assert [seen.destination for seen in proxy.requests] == [IPV4]

    async def test_dns_over_tls_socket_getpeercert(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        with proxied(tls=self.context()) as proxy:
            sock = await Backend(proxy.url).make_socket(
                *(socket.AF_INET, socket.SOCK_STREAM, 0, None, IPV4, 10, context)
            )
            async with sock:
                certificate = await sock.getpeercert(10)
        assert ("DNS", "dns.test") in certificate["subjectAltName"]

    async def test_dns_over_tls_server_closes_connection(self) -> None:
        with proxied(tcp=hang_up, tls=self.context()) as proxy:
            with pytest.raises((EOFError, OSError)):
                await self.ask(proxy, self.authority, None)

    async def test_dns_over_tls_server_stays_connected(self) -> None:
        def answer_and_stay(query: bytes) -> Iterator[bytes]:
            yield from answer_by_tcp(query)
            left.wait()

        left = threading.Event()
        with proxied(tcp=answer_and_stay, tls=self.context()) as proxy:
            try:
                with anyio.fail_after(LONG):
                    response = await self.ask(proxy, self.authority, None)
            finally:
                left.set()
        assert texts(response) == ["192.0.2.1"]

    async def test_dns_over_tls_refuses_untrusted_certificate(self) -> None:
        with proxied(tls=self.context()) as proxy:
            with pytest.raises(ssl.SSLCertVerificationError):
                await self.ask(proxy, trustme.CA(), None)
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                await self.ask(proxy, self.authority, "other.test")

    async def test_dns_over_tls_timeout(self) -> None:
        with proxied(tcp=say_nothing) as proxy, pytest.raises(dns.exception.Timeout):
            await self.ask(proxy, self.authority, None, 0.2)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 is for Python 3.11 and later")
class TestOverHTTPS:
    """dnspython gets a client of httpx2, as the docstring of `Backend` says."""

    query = dns.message.make_query("a.test", "A")

    @pytest.fixture
    def proxy(self, origin: Origin) -> Iterator[SocksServer]:
        with SocksServer(routes=routes_to(origin)) as proxy:
            yield proxy

    def test_dns_over_https_with_blocking_client(self, proxy: SocksServer, origin: Origin) -> None:
        import httpx2

        from socksclient.httpx2 import SocksTransport

        transport = SocksTransport(proxy.url, verify=origin.trust())
        with resolved_names() as names, httpx2.Client(transport=transport) as client:
            response = dns.query.https(self.query, DNS_QUERY, 10, session=client)
        assert (response.id, names) == (self.query.id, [])
        assert [seen.destination for seen in proxy.requests] == [("origin.test", 443)]

    @pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
    @pytest.mark.anyio
    async def test_dns_over_https_with_async_client(
        self, proxy: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import httpx2

        from socksclient.httpx2 import AsyncSocksTransport

        # dnspython keeps using the first event loop that it has detected.
        monkeypatch.setattr("dns.asyncbackend._default_backend", None)
        transport = AsyncSocksTransport(proxy.url, verify=origin.trust())
        with resolved_names() as names:
            async with httpx2.AsyncClient(transport=transport) as client:
                response = await dns.asyncquery.https(self.query, DNS_QUERY, 10, client=client)
        assert (response.id, names) == (self.query.id, [])
        assert [seen.destination for seen in proxy.requests] == [("origin.test", 443)]


def test_import_error_names_extra_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "socksclient.dnspython")
    with pytest.raises(ImportError, match=r"pip install 'socksclient\[dns\]'"):
        importlib.import_module("socksclient.dnspython")


# Against proxies and a name server that we did not write

PROXIES: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "dante": real_servers.dante,
    "v2ray": real_servers.v2ray,
    "shadowsocks": real_servers.shadowsocks,
}
RECORDS = {
    ("a.test", "A"): ["192.0.2.1"],
    ("aaaa.test", "AAAA"): ["2001:db8::1"],
    ("txt.test", "TXT"): ['"hello"'],
}
TOO_LONG = {("big.test", "TXT"): [f'"{text}"' for text in real_services.BIG]}
MISSING = [*real_servers.missing(), *real_services.missing()]


def patiently(ask: Callable[[float], dns.message.Message]) -> dns.message.Message:
    """Asks again if no answer came, as whoever uses UDP has to.

    V2Ray sends to each address from a socket of its own, and as they all have SO_REUSEPORT, now
    and then two have the same port. One of them is deaf then.
    """
    for _ in range(4):
        with suppress(dns.exception.Timeout, TimeoutError):
            return ask(1.0)
    return ask(LONG)


@pytest.fixture(scope="module", params=PROXIES)
def real_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with PROXIES[request.param](tmp_path_factory.mktemp("proxy")) as url:
        yield url


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def real_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    with real_services.name_server(tmp_path_factory.mktemp("dns"), request.param) as address:
        yield address


@needs(MISSING)
class TestRealServers:
    @pytest.mark.parametrize(("name", "kind"), RECORDS | TOO_LONG)
    def test_query_through_real_proxy_to_real_name_server(
        self, real_proxy: str, real_server: Address, ask: Ask, name: str, kind: str
    ) -> None:
        response = patiently(
            lambda timeout: ask(real_proxy, name, kind, server=real_server, timeout=timeout)
        )
        assert texts(response) == (RECORDS | TOO_LONG)[name, kind]

    @pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
    @pytest.mark.parametrize(("name", "kind"), RECORDS)
    def test_dnspython_query_udp_over_association(
        self, real_proxy: str, real_server: Address, name: str, kind: str, blocking: bool
    ) -> None:
        def ask(timeout: float) -> dns.message.Message:
            with socksclient.udp_associate(timeout, proxy=real_proxy) as udp:
                if not blocking:
                    udp.setblocking(False)
                # The relay may be of another family than the name server, and the socket has the
                # family of the relay.
                if ":" in host:
                    udp.connect(real_server)
                return dns.query.udp(query, host, timeout, port, sock=udp)

        host, port = real_server
        query = dns.message.make_query(name, kind)
        assert texts(patiently(ask)) == RECORDS[name, kind]

    def test_dnspython_udp_with_fallback_over_two_sockets(
        self, real_proxy: str, real_server: Address
    ) -> None:
        def ask(timeout: float) -> dns.message.Message:
            with (
                socksclient.udp_associate(timeout, proxy=real_proxy) as udp,
                socksclient.create_connection(real_server, timeout, proxy=real_proxy) as tcp,
            ):
                udp.connect(real_server)
                udp.setblocking(False)
                tcp.setblocking(False)
                response, used_tcp = dns.query.udp_with_fallback(
                    query, host, timeout, port, udp_sock=udp, tcp_sock=tcp
                )
            assert used_tcp
            return response

        host, port = real_server
        query = dns.message.make_query("big.test", "TXT")
        assert texts(patiently(ask)) == TOO_LONG["big.test", "TXT"]
