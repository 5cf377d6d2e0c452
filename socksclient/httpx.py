"""Transports for httpx: ``httpx.Client(transport=SocksTransport("socks5h://…"))``.

A SOCKS proxy is an httpcore network backend here, and no proxy of httpcore's: the connection
pool believes that it connects directly, and so TLS, HTTP/2, retries, limits, `sni_hostname` and
the trace extension work as they do without a proxy.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpcore
import httpx
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from socksclient.anyio_driver import open_stream
from socksclient.attempt import Attempt
from socksclient.driver import Deadline, open_tunnel
from socksclient.exceptions import ProxyConnectError, ProxyTimeout, ResolveError, SocksError
from socksclient.proxy import ProxyLike, as_proxy
from socksclient.sockets import check_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from socksclient.proxy import Proxy
    from socksclient.sockets import SocketOption

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)  # httpx's own defaults


class SocksTransport(httpx.BaseTransport):
    """`httpx.HTTPTransport` through a SOCKS proxy.

    Args:
        proxy: The proxy's URL, or a `Proxy`.
        verify: As for `httpx.HTTPTransport`, and so all that follow.
        cert: A client certificate.
        trust_env: Whether SSL_CERT_FILE and SSL_CERT_DIR count. The environment's proxies never
            do: this transport is the proxy.
        http1: Whether HTTP/1.1 may be spoken.
        http2: Whether HTTP/2 may be spoken; needs ``httpx[http2]``.
        limits: Of connections; one to the proxy for each.
        local_address: The local IP address to connect to the proxy from.
        retries: How often to try again when the proxy could not be reached, or not in time.
        socket_options: Set on the socket before it connects to the proxy.

    Raises:
        ValueError: The proxy or the local address cannot be.

    Requests raise httpx's errors, with the `SocksError` as their `__cause__`:
    `httpx.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx), and `httpx.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    def __init__(
        self,
        proxy: ProxyLike,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _LIMITS,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        check_source(local_address)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
            local_address=local_address,
            socket_options=None if socket_options is None else list(socket_options),
            network_backend=_Backend(as_proxy(proxy)),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        with _httpx_errors():
            response = self._pool.handle_request(_httpcore_request(request))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()


class AsyncSocksTransport(httpx.AsyncBaseTransport):
    """`httpx.AsyncHTTPTransport` through a SOCKS proxy, on asyncio and trio.

    Arguments and errors are those of `SocksTransport`.
    """

    def __init__(
        self,
        proxy: ProxyLike,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _LIMITS,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        check_source(local_address)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
            local_address=local_address,
            socket_options=None if socket_options is None else list(socket_options),
            network_backend=_AsyncBackend(as_proxy(proxy)),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        with _httpx_errors():
            response = await self._pool.handle_async_request(_httpcore_request(request))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_AsyncBody(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()


def _httpcore_request(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        with _httpx_errors():
            self._response.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for octets in self._response.aiter_stream():
                yield octets

    async def aclose(self) -> None:
        with _httpx_errors():
            await self._response.aclose()


# Errors

_HTTPX_ERRORS: Mapping[type[Exception], type[httpx.TransportError]] = {
    getattr(httpcore, name): getattr(httpx, name)
    for name in httpcore.__all__
    if isinstance(error := getattr(httpx, name, None), type)
    and issubclass(error, httpx.TransportError)
}
"""By their names, which are the same."""


@contextmanager
def _httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(_HTTPX_ERRORS) as error:
        # The pool raises what the backend raised `from None`: the cause travels as its argument.
        cause = next((arg for arg in error.args if isinstance(arg, Exception)), error)
        fitting = next(cls for cls in type(error).__mro__ if cls in _HTTPX_ERRORS)
        raise _HTTPX_ERRORS[fitting](str(error)) from cause


@contextmanager
def _httpcore_errors() -> Iterator[None]:
    """Around reaching the destination."""
    try:
        yield
    except ProxyTimeout as error:
        raise httpcore.ConnectTimeout(error) from error
    except (ProxyConnectError, ResolveError) as error:
        raise httpcore.ConnectError(error) from error
    except SocksError as error:
        raise httpcore.ProxyError(error) from error
    except OSError as error:  # of a method of the caller's own; not retried as a ConnectError is
        raise httpcore.ProxyError(error) from error
    except ValueError as error:  # a host that SOCKS cannot carry; a redirection can lead there
        raise httpcore.UnsupportedProtocol(error) from error


@contextmanager
def _stream_errors(timeout: type[Exception], failure: type[Exception]) -> Iterator[None]:
    """Around the use of a connection."""
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error) or "timed out") from error
    except (
        OSError,
        UnicodeError,  # of the name for TLS
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        anyio.EndOfStream,
    ) as error:
        raise failure(str(error) or repr(error)) from error


# Blocking connections


class _Backend(httpcore.NetworkBackend):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        source_address = None if local_address is None else (local_address, 0)
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as httpcore's own streams have it
        options = [no_delay, *(socket_options or ())]
        with _httpcore_errors():
            attempt = Attempt(self._proxy, host, port)
            sock, _ = open_tunnel(attempt, Deadline(timeout), source_address, options)
            return _Stream(sock)


class _Stream(httpcore.NetworkStream):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _stream_errors(httpcore.ReadTimeout, httpcore.ReadError):
            self._sock.settimeout(timeout)
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _stream_errors(httpcore.WriteTimeout, httpcore.WriteError):
            self._sock.settimeout(timeout)
            left = memoryview(buffer)
            while left:  # not sendall, for which the timeout would hold for all of it
                left = left[self._sock.send(left) :]

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        # Other classes of contexts (truststore's) may verify the certificate as soon as they have
        # wrapped the socket. With the plain one the handshake comes by itself: the socket that
        # has taken over the descriptor must be in our hands when it is interrupted.
        plain = type(ssl_context) is ssl.SSLContext
        try:
            with _stream_errors(httpcore.ConnectTimeout, httpcore.ConnectError):
                self._sock.settimeout(timeout)
                # These fail after a reset, and for names with a label that is too long; when
                # wrap_socket finds that out by itself, before Python 3.13, it leaves a socket open.
                self._sock.getpeername()
                (server_hostname or "").encode("idna")
                self._sock = sock = ssl_context.wrap_socket(
                    self._sock, server_hostname=server_hostname, do_handshake_on_connect=not plain
                )
                if plain:
                    sock.do_handshake()
        except BaseException:
            self.close()
            raise
        return _Stream(sock)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        if info == "client_addr":
            return self._sock.getsockname()
        if info == "server_addr":
            return self._sock.getpeername()
        if info == "socket":
            return self._sock
        if info == "is_readable":
            return _is_readable(self._sock)
        return None


# Awaited connections


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _httpcore_errors():
            attempt = Attempt(self._proxy, host, port)
            with attempt, anyio.fail_after(timeout):
                stream = await open_stream(attempt, local_address, socket_options or ())
            return _AsyncStream(stream)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: SocketStream | TLSStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _stream_errors(httpcore.ReadTimeout, httpcore.ReadError), anyio.fail_after(timeout):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:  # HTTP/2 asks for that, on connections that have ended too
            return
        with _stream_errors(httpcore.WriteTimeout, httpcore.WriteError), anyio.fail_after(timeout):
            await self._stream.send(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with (
                _stream_errors(httpcore.ConnectTimeout, httpcore.ConnectError),
                anyio.fail_after(timeout),
            ):
                stream = await TLSStream.wrap(
                    self._stream,
                    server_side=False,
                    hostname=server_hostname,
                    ssl_context=ssl_context,
                    standard_compatible=False,  # HTTP ends without TLS's closing handshake
                )
        except BaseException:
            await anyio.aclose_forcefully(self._stream)
            raise
        return _AsyncStream(stream)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._stream.extra(TLSAttribute.ssl_object, None)
        if info == "client_addr":
            return self._stream.extra(SocketAttribute.local_address, None)
        if info == "server_addr":
            return self._stream.extra(SocketAttribute.remote_address, None)
        if info == "socket":
            return self._stream.extra(SocketAttribute.raw_socket, None)
        if info == "is_readable":
            return _is_readable(self._stream.extra(SocketAttribute.raw_socket, None))
        return None


# epoll would take a descriptor of its own for each question; Windows has select only.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


def _is_readable(sock: socket.socket | None) -> bool:
    """Whether an idle connection has something to read, which can only be its end."""
    if sock is None or sock.fileno() < 0:  # closed
        return True
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))
