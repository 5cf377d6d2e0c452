"""The transports for httpx and for httpx2, but for what is httpx's or httpx2's own.

httpx comes with httpcore, and httpx2 with httpcore2. The classes of both have the same names and
methods, and are others all the same: so those here have none of them as a base. They get one in
`socksclient.httpx` and in `socksclient.httpx2`, which add what makes objects of theirs.

A SOCKS proxy is an httpcore network backend here, and no proxy of httpcore's: the connection
pool believes that it connects directly, and so TLS, HTTP/2, retries, limits, `sni_hostname` and
the trace extension work as they do without a proxy.
"""

# What the methods here do is told in httpcore and httpx, and its names are as they are there.
# ruff: noqa: D102, N802

from __future__ import annotations

import selectors
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import contextmanager
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    Protocol,
    TypedDict,
    TypeVar,
)

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from socksclient.anyio_driver import open_stream
from socksclient.attempt import Attempt
from socksclient.driver import Deadline, open_tunnel
from socksclient.exceptions import ProxyConnectError, ProxyTimeout, ResolveError, SocksError
from socksclient.proxy import ProxyLike, as_chain
from socksclient.sockets import check_source
from socksclient.tls import start_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable, Iterator
    from types import ModuleType

    from typing_extensions import Self

    from socksclient.proxy import Chain
    from socksclient.sockets import SocketOption
    from socksclient.tls import Channel


# Transports


class Limits(Protocol):
    """`httpx.Limits`, or `httpx2.Limits`."""

    @property
    def max_connections(self) -> int | None: ...
    @property
    def max_keepalive_connections(self) -> int | None: ...
    @property
    def keepalive_expiry(self) -> float | None: ...


class _Limits(NamedTuple):
    max_connections: int
    max_keepalive_connections: int
    keepalive_expiry: float


_LIMITS = _Limits(100, 20, 5.0)  # httpx's own defaults


class TLSOptions(TypedDict):
    """What `httpx.create_ssl_context` takes."""

    verify: ssl.SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    trust_env: bool


class PoolOptions(TypedDict):
    """What `httpcore.ConnectionPool` takes of the transport's arguments."""

    max_connections: int | None
    max_keepalive_connections: int | None
    keepalive_expiry: float | None
    http1: bool
    http2: bool
    retries: int
    local_address: str | None
    socket_options: list[SocketOption] | None


Pool = TypeVar("Pool")


class Transport(ABC, Generic[Pool]):
    """A transport's options, and the connection pool that has them."""

    def __init__(
        self,
        proxy: ProxyLike,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: Limits = _LIMITS,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        """All but the proxy is as for `httpx.HTTPTransport`, and so are the defaults.

        Args:
            proxy: The proxy's URL, or a `Proxy`, or a chain of these.
            verify: Whether, or with which context, the destination's certificate is verified.
            cert: A client certificate.
            trust_env: Whether SSL_CERT_FILE and SSL_CERT_DIR count. The environment's proxies
                never do: this transport is the proxy.
            http1: Whether HTTP/1.1 may be spoken.
            http2: Whether HTTP/2 may be spoken; needs ``httpx[http2]``, or ``httpx2[http2]``.
            limits: Of connections; one to the proxy for each.
            local_address: The local IP address to connect to the proxy from.
            retries: How often to try again when the proxy could not be reached, or not in time.
            socket_options: Set on the socket before it connects to the proxy.

        Raises:
            ValueError: The proxy or the local address cannot be.
        """
        check_source(local_address)
        self._pool = self._new_pool(
            as_chain(proxy),
            TLSOptions(verify=verify, cert=cert, trust_env=trust_env),
            PoolOptions(
                max_connections=limits.max_connections,
                max_keepalive_connections=limits.max_keepalive_connections,
                keepalive_expiry=limits.keepalive_expiry,
                http1=http1,
                http2=http2,
                retries=retries,
                local_address=local_address,
                socket_options=None if socket_options is None else list(socket_options),
            ),
        )

    @abstractmethod
    def _new_pool(self, chain: Chain, tls: TLSOptions, options: PoolOptions) -> Pool:
        """A pool whose network backend goes through `chain`."""


class CoreResponse(Protocol):
    """`httpcore.Response`, or `httpcore2.Response`: its body."""

    def iter_stream(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...
    def aiter_stream(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class Body:
    """An `httpx.SyncByteStream`."""

    _errors: ErrorMap

    def __init__(self, response: CoreResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with httpx_errors(self._errors):
            yield from self._response.iter_stream()

    def close(self) -> None:
        with httpx_errors(self._errors):
            self._response.close()


class AsyncBody:
    """An `httpx.AsyncByteStream`."""

    _errors: ErrorMap

    def __init__(self, response: CoreResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with httpx_errors(self._errors):
            async for octets in self._response.aiter_stream():
                yield octets

    async def aclose(self) -> None:
        with httpx_errors(self._errors):
            await self._response.aclose()


# Errors


class HTTPCore(Protocol):
    """httpcore, or httpcore2: the errors that a network backend raises."""

    @property
    def ConnectError(self) -> type[Exception]: ...
    @property
    def ConnectTimeout(self) -> type[Exception]: ...
    @property
    def ProxyError(self) -> type[Exception]: ...
    @property
    def ReadError(self) -> type[Exception]: ...
    @property
    def ReadTimeout(self) -> type[Exception]: ...
    @property
    def UnsupportedProtocol(self) -> type[Exception]: ...
    @property
    def WriteError(self) -> type[Exception]: ...
    @property
    def WriteTimeout(self) -> type[Exception]: ...


ErrorMap = Mapping[type[Exception], type[Exception]]
"""The errors of httpcore, and what each is in httpx."""


def errors_by_name(httpcore: ModuleType, httpx: ModuleType) -> ErrorMap:
    """The errors that both have; they have the same names."""
    return {
        getattr(httpcore, name): error
        for name in httpcore.__all__
        if isinstance(error := getattr(httpx, name, None), type)
        and issubclass(error, httpx.TransportError)
    }


@contextmanager
def httpx_errors(errors: ErrorMap) -> Iterator[None]:
    """Around the use of the pool."""
    try:
        yield
    except tuple(errors) as error:
        # The pool raises what the backend raised `from None`: the cause travels as its argument.
        cause = next((arg for arg in error.args if isinstance(arg, Exception)), error)
        fitting = next(cls for cls in type(error).__mro__ if cls in errors)
        raise errors[fitting](str(error)) from cause


@contextmanager
def _httpcore_errors(httpcore: HTTPCore) -> Iterator[None]:
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


Connection = TypeVar("Connection", bound="Stream")


class Backend(Generic[Connection]):
    """An `httpcore.NetworkBackend`."""

    _httpcore: HTTPCore
    _connection: type[Connection]

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> Connection:
        source_address = None if local_address is None else (local_address, 0)
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as httpcore's own streams have it
        options = [no_delay, *(socket_options or ())]
        with _httpcore_errors(self._httpcore):
            attempt = Attempt(self._chain, host, port)
            sock, _ = open_tunnel(attempt, Deadline(timeout), source_address, options)
            return self._connection(sock)


class Stream:
    """An `httpcore.NetworkStream`."""

    _httpcore: HTTPCore

    def __init__(self, sock: Channel, *, tls: bool = False) -> None:
        self._sock = sock
        self._tls = tls  # with the destination, that is

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _stream_errors(self._httpcore.ReadTimeout, self._httpcore.ReadError):
            self._sock.settimeout(timeout)
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _stream_errors(self._httpcore.WriteTimeout, self._httpcore.WriteError):
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
    ) -> Self:
        with _stream_errors(self._httpcore.ConnectTimeout, self._httpcore.ConnectError):
            self._sock.settimeout(timeout)
            self._sock = start_tls(self._sock, ssl_context, server_hostname)
        return type(self)(self._sock, tls=True)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            # Never that of a proxy: by its ALPN, HTTP/2 would be chosen.
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


# Awaited connections


AsyncConnection = TypeVar("AsyncConnection", bound="AsyncStream")


class AsyncBackend(Generic[AsyncConnection]):
    """An `httpcore.AsyncNetworkBackend`."""

    _httpcore: HTTPCore
    _connection: type[AsyncConnection]

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> AsyncConnection:
        with _httpcore_errors(self._httpcore):
            attempt = Attempt(self._chain, host, port)
            with attempt, anyio.fail_after(timeout):
                stream = await open_stream(attempt, local_address, socket_options or ())
            return self._connection(stream)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class AsyncStream:
    """An `httpcore.AsyncNetworkStream`."""

    _httpcore: HTTPCore

    def __init__(self, stream: SocketStream | TLSStream, *, tls: bool = False) -> None:
        self._stream = stream
        self._tls = tls  # with the destination, that is

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
        if not buffer:  # HTTP/2 asks for that, on connections that have ended too
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
    ) -> Self:
        try:
            with (
                _stream_errors(self._httpcore.ConnectTimeout, self._httpcore.ConnectError),
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
        return type(self)(stream, tls=True)

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
        except AttributeError:  # uvloop may have no socket to tell of once it is closed
            return None


# epoll would take a descriptor of its own for each question; Windows has select only.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


def _is_readable(sock: Channel | None) -> bool:
    """Whether an idle connection has something to read, which can only be its end."""
    if sock is None or sock.fileno() < 0:  # closed
        return True
    with _Selector() as selector:
        selector.register(sock.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
