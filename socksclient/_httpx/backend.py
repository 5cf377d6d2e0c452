"""The network backends for httpcore and httpcore2, which connect through proxies.

httpcore connects by a network backend. These backends connect through a chain of SOCKS proxies, and
the connection pool takes that for a direct connection. So TLS, HTTP/2, retries, limits,
`sni_hostname` and the trace extension work as they do without a proxy.

The classes have the methods of `httpcore.NetworkBackend`, `httpcore.NetworkStream` and their
asynchronous twins, and none of them as a base class, so that httpcore2 can use them too. Each gets
the module, httpcore or httpcore2, whose errors it is to raise.
"""

from __future__ import annotations

import selectors
import time
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from socksclient._anyio.driver import open_stream
from socksclient._net.sockets import NO_DELAY
from socksclient._net.tls import server_name
from socksclient._sync.driver import open_tunnel
from socksclient._sync.timeouts import Deadline
from socksclient._sync.tls import TLSSocket, start_tls
from socksclient.protocol.exceptions import (
    ProxyConnectError,
    ProxyTimeout,
    ResolveError,
    SocksError,
)
from socksclient.protocol.route import Route

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

    from socksclient._net.sockets import SocketOption
    from socksclient._sync.tls import Channel
    from socksclient.protocol.proxy import Chain


@contextmanager
def _httpcore_errors(httpcore: ModuleType) -> Iterator[None]:
    """Turn the errors of connecting to the destination into errors of httpcore."""
    try:
        yield
    except ProxyTimeout as error:
        raise httpcore.ConnectTimeout(error) from error
    except (ProxyConnectError, ResolveError) as error:
        raise httpcore.ConnectError(error) from error
    except SocksError as error:
        raise httpcore.ProxyError(error) from error
    except OSError as error:
        # A `Method` of the caller's own raised it. httpcore would repeat a ConnectError.
        raise httpcore.ProxyError(error) from error
    except ValueError as error:
        # SOCKS cannot carry the host. A server can redirect a request to such a host.
        raise httpcore.UnsupportedProtocol(error) from error


@contextmanager
def _stream_errors(timeout: type[Exception], failure: type[Exception]) -> Iterator[None]:
    """Turn the errors of using a connection into errors of httpcore.

    Args:
        timeout: The class of the error for a timeout.
        failure: The class of the error for all other failures.
    """
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error) or "timed out") from error
    except (
        OSError,
        # ssl raises this for a name that TLS cannot carry.
        UnicodeError,
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        anyio.EndOfStream,
    ) as error:
        raise failure(str(error) or repr(error)) from error


_PIECE = 64 * 1024
"""The most octets that one call of `send` gets."""


class Backend:
    """A blocking network backend of httpcore, which connects through a chain of proxies.

    Args:
        chain: The proxies to connect through.
        httpcore: httpcore or httpcore2.
    """

    def __init__(self, chain: Chain, httpcore: ModuleType) -> None:
        self._chain = chain
        self._httpcore = httpcore

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> Stream:
        source_address = None if local_address is None else (local_address, 0)
        # The streams of httpcore have the option too.
        options = [NO_DELAY, *(socket_options or ())]
        with _httpcore_errors(self._httpcore):
            route = Route.through(self._chain, host, port)
            sock, _ = open_tunnel(route, Deadline(timeout), source_address, options)
            return Stream(sock, self._httpcore)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Stream:
    """A blocking network stream.

    Args:
        sock: The connection.
        httpcore: httpcore or httpcore2.
        tls: Whether `sock` speaks TLS with the destination.
    """

    def __init__(self, sock: Channel, httpcore: ModuleType, *, tls: bool = False) -> None:
        self._sock = sock
        self._httpcore = httpcore
        self._tls = tls

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _stream_errors(self._httpcore.ReadTimeout, self._httpcore.ReadError):
            self._sock.settimeout(timeout)
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _stream_errors(self._httpcore.WriteTimeout, self._httpcore.WriteError):
            self._sock.settimeout(timeout)
            left = memoryview(buffer)
            # The timeout holds for each call of `send`, and with TLS one call sends all that it
            # gets. So a large buffer goes out in pieces.
            while left:
                left = left[self._sock.send(left[:_PIECE]) :]

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        with _stream_errors(self._httpcore.ConnectTimeout, self._httpcore.ConnectError):
            self._sock.settimeout(timeout)
            name = server_hostname and server_name(server_hostname)
            self._sock = start_tls(self._sock, ssl_context, name)
        return Stream(self._sock, self._httpcore, tls=True)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            # httpcore speaks HTTP/2 if this object's ALPN says so. The ALPN of a proxy must not
            # count, so TLS with a proxy has no object here.
            return getattr(self._sock, "ssl_object", self._sock) if self._tls else None
        if info == "client_addr":
            return self._sock.getsockname()
        if info == "server_addr":
            return self._sock.getpeername()
        if info == "socket":
            return self._sock
        if info == "is_readable":
            return _is_readable(self._sock)
        return None


class AsyncBackend:
    """An asynchronous network backend of httpcore, for asyncio and trio.

    Args:
        chain: The proxies to connect through.
        httpcore: httpcore or httpcore2.
    """

    def __init__(self, chain: Chain, httpcore: ModuleType) -> None:
        self._chain = chain
        self._httpcore = httpcore

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> AsyncStream:
        with _httpcore_errors(self._httpcore):
            route = Route.through(self._chain, host, port)
            stream, _ = await open_stream(route, local_address, socket_options or (), timeout)
            return AsyncStream(stream, self._httpcore)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class AsyncStream:
    """An asynchronous network stream.

    Args:
        stream: The connection.
        httpcore: httpcore or httpcore2.
        tls: Whether `stream` speaks TLS with the destination.
    """

    def __init__(
        self, stream: SocketStream | TLSStream, httpcore: ModuleType, *, tls: bool = False
    ) -> None:
        self._stream = stream
        self._httpcore = httpcore
        self._tls = tls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with (
            _stream_errors(self._httpcore.ReadTimeout, self._httpcore.ReadError),
            anyio.fail_after(timeout),
        ):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # HTTP/2 writes empty buffers too, even on connections that have ended.
        if not buffer:
            return
        with (
            _stream_errors(self._httpcore.WriteTimeout, self._httpcore.WriteError),
            anyio.fail_after(timeout),
        ):
            await self._stream.send(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncStream:
        try:
            with (
                _stream_errors(self._httpcore.ConnectTimeout, self._httpcore.ConnectError),
                anyio.fail_after(timeout),
            ):
                stream = await TLSStream.wrap(
                    self._stream,
                    server_side=False,
                    hostname=server_hostname and server_name(server_hostname),
                    ssl_context=ssl_context,
                    # HTTP servers end a connection without the closing handshake of TLS.
                    standard_compatible=False,
                )
                await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await anyio.aclose_forcefully(self._stream)
            raise
        return AsyncStream(stream, self._httpcore, tls=True)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._extra(TLSAttribute.ssl_object) if self._tls else None
        if info == "client_addr":
            return self._extra(SocketAttribute.local_address)
        if info == "server_addr":
            return self._extra(SocketAttribute.remote_address)
        if info == "socket":
            return self._extra(SocketAttribute.raw_socket)
        if info == "is_readable":
            return _is_readable(self._extra(SocketAttribute.raw_socket))
        return None

    def _extra(self, attribute: Any) -> Any:
        try:
            return self._stream.extra(attribute, None)
        except AttributeError:
            # A transport of uvloop may have no socket any more after it has been closed.
            return None


# epoll would need a descriptor of its own for each call. Windows has no poll.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


def _is_readable(sock: Channel | None) -> bool:
    """Return whether an idle connection has something to read, which can only be its end."""
    # The descriptor of a closed socket is -1.
    if sock is None or sock.fileno() < 0:
        return True
    if isinstance(sock, TLSSocket) and sock.has_read_ahead():
        return True
    with _Selector() as selector:
        selector.register(sock.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
