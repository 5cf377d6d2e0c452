"""Clients of httpx and httpx2, blocking and awaited, for tests of all of them."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import anyio
import httpcore
import httpx
import pytest
from anyio.from_thread import BlockingPortal

import socksclient.httpx
from socksclient import ProxyLike

from helpers.origin import Origin, digest_of
from helpers.support import LONG, Address, eventually, serving

HTTP = "http://origin.test/"
HTTPS = "https://origin.test/"
# No other server has this address.
PROXY_HOST = "127.0.0.3"
# Clients come from here if a test must tell them from servers.
CLIENT_HOST = "127.0.0.9"
ACCOUNTS = {"user": "pass"}
# The octets that a proxy says in the handshake, without authentication.
HANDSHAKE = 2 + 10
ONE_CONNECTION = {"max_connections": 1}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Pair(NamedTuple):
    """httpx or httpx2, its httpcore, and the module of socksclient for it."""

    httpx: Any
    httpcore: Any
    socksclient: Any

    def transport(
        self,
        proxy: ProxyLike,
        *,
        blocking: bool,
        limits: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Return a transport through `proxy`."""
        kind = "SocksTransport" if blocking else "AsyncSocksTransport"
        if limits is not None:
            options["limits"] = self.httpx.Limits(**limits)
        return getattr(self.socksclient, kind)(proxy, **options)

    def client(self, proxy: ProxyLike, **options: Any) -> Any:
        """Return a blocking client that goes through `proxy`."""
        transport = self.transport(proxy, blocking=True, **options)
        return self.httpx.Client(transport=transport, timeout=LONG)

    def async_client(self, proxy: ProxyLike, **options: Any) -> Any:
        """Return an asynchronous client that goes through `proxy`."""
        transport = self.transport(proxy, blocking=False, **options)
        return self.httpx.AsyncClient(transport=transport, timeout=LONG)


PAIRS = {"httpx": Pair(httpx, httpcore, socksclient.httpx)}
# httpx2 has never existed for Python 3.10.
if sys.version_info >= (3, 11):
    import httpcore2
    import httpx2

    import socksclient.httpx2

    PAIRS["httpx2"] = Pair(httpx2, httpcore2, socksclient.httpx2)


class Client:
    """A `Client` of httpx, or an `AsyncClient` whose event loop runs in another thread."""

    def __init__(
        self, httpx: Any, transport: Any, portal: BlockingPortal | None, options: dict[str, Any]
    ) -> None:
        kind = httpx.Client if portal is None else httpx.AsyncClient
        self.client = kind(transport=transport, **{"timeout": LONG, **options})
        self.httpx = httpx
        self._portal = portal

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of the function, which is awaited if the client is asynchronous."""
        if self._portal is None:
            return function(*args, **kwargs)
        return self._portal.call(partial(function, *args, **kwargs))

    def request(self, method: str, url: str, **options: Any) -> Any:
        return self.run(self.client.request, method, url, **options)

    def get(self, url: str, **options: Any) -> Any:
        return self.request("GET", url, **options)

    def send(self, pieces: Iterable[bytes], url: str, **options: Any) -> Any:
        """Post a body that the client gets piece by piece."""
        body = iter(pieces) if self._portal is None else _awaited(pieces)
        return self.request("POST", url, content=body, **options)

    @contextmanager
    def stream(self, url: str, **options: Any) -> Iterator[Any]:
        """Yield a response whose body has not been read."""
        request = self.client.build_request("GET", url, **options)
        response = self.run(self.client.send, request, stream=True)
        try:
            yield response
        finally:
            self.run(response.close if self._portal is None else response.aclose)

    def digest(self, response: Any) -> str:
        """Return the SHA-256 of the body, which is read in pieces."""
        if self._portal is None:
            return digest_of(response.iter_raw())

        async def digest() -> str:
            return digest_of([piece async for piece in response.aiter_raw()])

        return self._portal.call(digest)

    def trace(self, note: Callable[[str, dict[str, Any]], object]) -> dict[str, Any]:
        """Return the request extension that calls `note` with the name of each event, and more."""

        async def note_awaited(name: str, info: dict[str, Any]) -> None:
            note(name, info)

        return {"trace": note if self._portal is None else note_awaited}

    def close(self) -> None:
        self.run(self.client.close if self._portal is None else self.client.aclose)

    def __enter__(self) -> Client:
        self.run(self.client.__enter__ if self._portal is None else self.client.__aenter__)
        return self

    def __exit__(self, *exc_info: object) -> None:
        leave = self.client.__exit__ if self._portal is None else self.client.__aexit__
        self.run(leave, *exc_info)


async def _awaited(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Driver:
    """Makes clients of one library: blocking ones, or those of one event loop."""

    def __init__(self, pair: Pair, portal: BlockingPortal | None, origin: Origin) -> None:
        self.httpx = pair.httpx
        self.httpcore = pair.httpcore
        self._pair = pair
        self._portal = portal
        self.origin = origin

    @property
    def blocking(self) -> bool:
        return self._portal is None

    @property
    def transport_class(self) -> Any:
        """`SocksTransport` or `AsyncSocksTransport`."""
        kind = "SocksTransport" if self.blocking else "AsyncSocksTransport"
        return getattr(self._pair.socksclient, kind)

    def transport(self, proxy: ProxyLike, **options: Any) -> Any:
        """Return a transport that trusts the origin, unless the test says otherwise."""
        options = {"verify": self.origin.trust(), **options}
        return self._pair.transport(proxy, blocking=self.blocking, **options)

    def client(self, transport: Any, **options: Any) -> Client:
        return Client(self.httpx, transport, self._portal, options)

    def through(self, proxy: ProxyLike, **options: Any) -> Client:
        """Return a client that goes through `proxy`."""
        return self.client(self.transport(proxy, **options))

    def wait_until_it_waits(self) -> None:
        """Wait until all tasks of the event loop wait for something."""
        if self._portal is not None:
            self._portal.call(anyio.wait_all_tasks_blocked)

    def direct(self, **options: Any) -> Client:
        """Return a client without a proxy, with httpx's own transport, to compare with."""
        kind = self.httpx.HTTPTransport if self.blocking else self.httpx.AsyncHTTPTransport
        return self.client(kind(**{"verify": self.origin.trust(), **options}))


def routes_to(origin: Origin) -> dict[Address, Address]:
    http = ("127.0.0.1", origin.http_port)
    https = ("127.0.0.1", origin.https_port)
    return {
        ("origin.test", 80): http,
        ("origin.test", 443): https,
        ("other.test", 80): http,
        ("192.0.2.1", 443): https,
        ("xn--bcher-kva.test", 80): http,
        ("2001:db8::1", 80): http,
    }


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Check that the sockets which the client opens in the context are closed at its end.

    The garbage collector is off in the block. The sockets of the servers do not count, because they
    are closed later.
    """
    gc.disable()
    try:
        before = client_sockets()
        yield
        assert eventually(lambda: client_sockets() <= before), client_sockets() - before
    finally:
        gc.enable()


def client_sockets() -> set[int]:
    """Return the inodes of the sockets that lead to a proxy, to nobody or from CLIENT_HOST."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if not belongs_to_a_server(sock):
                        inodes.add(os.fstat(sock.fileno()).st_ino)
    return inodes


def belongs_to_a_server(sock: socket.socket) -> bool:
    """Return whether a socket belongs to a proxy or to a destination."""
    if sock.family != socket.AF_INET or sock.getsockname()[0] == PROXY_HOST:
        return True
    if sock.getsockname()[0] == CLIENT_HOST:
        return False
    try:
        return bool(sock.getpeername()[0] != PROXY_HOST)
    except OSError:
        return False


def fail(client: Client, url: str, name: str, **options: Any) -> Exception:
    """Return httpx's error of that name from a request that leaves nothing open behind it."""
    expected = getattr(client.httpx, name)
    with nothing_left_open(), pytest.raises(expected) as caught:
        client.get(url, **options)
    assert type(caught.value) is expected
    assert caught.value.request.url == url
    error: Exception = caught.value
    return error


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yield the URL of a server that hears one request, says `answer`, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    with serving(handle) as (host, port):
        yield f"http://{host}:{port}/"


@contextmanager
def saying_nothing() -> Iterator[Address]:
    """Yield the address of a server that accepts connections, and never reads or writes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()
