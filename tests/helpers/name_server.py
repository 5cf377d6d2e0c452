"""A name server that answers as a test says, and the ways to ask it through a proxy."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import repeat
from typing import Any, Protocol

import anyio
import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import dns.tsigkeyring
import pytest

from socksclient.dnspython import Backend, Nameserver, udp_with_fallback
from socksclient.testing import Faults, SocksServer

from helpers.support import BACKENDS, LONG, Address

LOOPS = ["asyncio", "trio"]


# Addresses of name servers that do not exist. The routes of the proxy lead to a real server.
IPV4 = ("192.0.2.53", 53)
IPV6 = ("2001:db8::53", 53)
NAME = ("dns.test", 53)


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
    # By default, dnspython gives a single try two seconds.
    resolver.timeout = timeout
    return resolver.resolve(name, kind, lifetime=timeout).response


async def by_awaited_nameserver(
    proxy: str, name: str, kind: str, server: Address, timeout: float
) -> dns.message.Message:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [Nameserver(*server, proxy=proxy)]
    # By default, dnspython gives a single try two seconds.
    resolver.timeout = timeout
    # The resolver uses this backend only to sleep.
    backend = Backend("socks5h://nowhere.invalid")
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
    # By default, dnspython gives a single try two seconds.
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


@contextmanager
def failing(*expected: type[Exception]) -> Iterator[list[Exception]]:
    """Check that one of `expected` is raised, maybe within the error of a resolver; append it."""
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


KEYRING = dns.tsigkeyring.from_text({"key.test": "c2VjcmV0"})
Answers = Callable[[bytes], Iterable[bytes]]


class Elsewhere(bytes):
    """A datagram that comes from another port."""


class NameServer:
    """A name server whose answers are what `udp` and `tcp` return. Both use the same port.

    Over TCP, the server serves one client after the other. It answers one query, and then waits
    until the client closes the connection. With a context, TCP means TLS.
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
    """Yield a listening TCP socket and a UDP socket at the same port."""
    while True:
        with (
            socket.create_server(("127.0.0.1", 0)) as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                # The UDP port is in use.
                continue
            yield tcp, udp
            return


def respond(query: bytes, *addresses: str, **changes: int) -> dns.message.Message:
    """Return the response to a query; `changes` are attributes to set on the response."""
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
    """Yield a proxy with a name server behind it; by default, answers over UDP are truncated."""
    with NameServer(udp, tcp, tls) as address:
        routes = dict.fromkeys([IPV4, IPV6, NAME], address)
        with SocksServer(routes=routes, faults=faults) as proxy:
            yield proxy
