"""The body of the transports for httpx and for httpx2.

httpx comes with httpcore, and httpx2 comes with httpcore2. The names in both pairs are the same, so
one body serves both. The body gets the pair as one value, a `Library`. `socksclient.httpx` binds
the body to its library, and `socksclient.httpx2` does the same with httpx2 and httpcore2:

    _LIBRARY = Library(httpx, httpcore)

    class SocksTransport(transport.SocksTransport, httpx.HTTPTransport):
        _library = _LIBRARY

Methods whose types or documentation name the library stand in those two modules.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypedDict

from socksclient._httpx.backend import AsyncBackend, Backend
from socksclient._net.sockets import SocketOption, check_source
from socksclient._net.tls import check_not_shared
from socksclient.protocol.environment import Environment
from socksclient.protocol.proxy import Proxy, ProxyLike, as_chain


@dataclass(frozen=True)
class Library:
    """One HTTP library.

    Attributes:
        httpx: The module httpx or httpx2.
        httpcore: The module that it sends requests with: httpcore or httpcore2.
    """

    httpx: ModuleType
    httpcore: ModuleType

    def http_proxy(self, proxy: Proxy | None) -> Any:
        """Return the `httpx.Proxy` that stands for an HTTP proxy, or None without a proxy."""
        if proxy is None:
            return None
        auth = None if proxy.username is None else (proxy.username, proxy.password or "")
        scheme = "https" if proxy.tls else "http"
        return self.httpx.Proxy(f"{scheme}://{proxy.place}", auth=auth)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Make the error of socksclient the `__cause__` of the error that httpx raises for it.

        httpx raises its error from the error of httpcore. The pool of httpcore raises that one
        ``from None``, so it has no cause. Therefore the network backend passes the error of
        socksclient to the error of httpcore as an argument.
        """
        try:
            yield
        except self.httpx.TransportError as error:
            for argument in getattr(error.__cause__, "args", ()):
                if isinstance(argument, Exception):
                    error.__cause__ = argument
            raise


# The methods by which a client uses its transport. A transport has those for one kind of client.
_METHODS = ("__enter__", "handle_request", "close", "__aenter__", "handle_async_request", "aclose")


class _Transport:
    """A transport that tells a client of another library or kind which transport to use.

    Attributes:
        _library: The library to which the transport belongs.
        _prefix: "" for `httpx.Client`, or "Async" for `httpx.AsyncClient`.
    """

    _library: Library
    _prefix: str

    def _check(self, request: object) -> None:
        """Check that a request is one of the transport's library.

        Raises:
            TypeError: The request is something else. Nothing has been sent.
        """
        if isinstance(request, self._library.httpx.Request):
            return
        ours = self._library.httpx.__name__
        modules = [cls.__module__.partition(".")[0] for cls in type(request).__mro__]
        theirs = next((name for name in modules if name in ("httpx", "httpx2")), None)
        if theirs is None:
            name = type(request).__name__
            raise TypeError(f"the request must be an {ours}.Request, not a {name}")
        name = f"{self._prefix}SocksTransport"
        raise TypeError(
            f"{theirs}.{self._prefix}Client takes a socksclient.{theirs}.{name}, "
            f"not a socksclient.{ours}.{name}"
        )

    # If a type checker saw this method, it would accept every misspelt attribute.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in _METHODS:
                own, other = ("Async", "") if self._prefix else ("", "Async")
                text = f"{other}Client takes {other}SocksTransport, not {own}SocksTransport"
            # OpenTelemetry asks `hasattr` which methods a transport has, so this must be an
            # AttributeError.
            raise AttributeError(text, name=name, obj=self)


class Limits(Protocol):
    """`httpx.Limits` or `httpx2.Limits`."""

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


# The limits that httpx has by default.
_LIMITS = _Limits(100, 20, 5.0)


class Options(TypedDict, total=False):
    """The arguments of a transport, except for the proxy."""

    verify: ssl.SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    trust_env: bool
    http1: bool
    http2: bool
    limits: Limits
    local_address: str | None
    retries: int
    socket_options: Iterable[SocketOption] | None


class _SocksTransport(_Transport):
    """A transport whose connection pool connects through proxies.

    Attributes:
        _backend: The network backend by which the connection pool connects.
    """

    _backend: type[Backend | AsyncBackend]

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
        """Make the transport; nothing connects yet.

        The arguments other than the proxy, and their defaults, are those of `httpx.HTTPTransport`.

        Args:
            proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest
                hop first.
            verify: Whether to verify the certificate of the destination, or the
                `ssl.SSLContext` for TLS with the destination.
            cert: The client certificate for TLS with the destination.
            trust_env: Whether the variables SSL_CERT_FILE and SSL_CERT_DIR count. The proxies of
                the environment never count here: this transport has its proxy.
            http1: Whether to offer HTTP/1.1.
            http2: Whether to offer HTTP/2, which needs ``httpx[http2]`` or ``httpx2[http2]``.
            limits: The limits of the connection pool. Each connection to a destination is one
                connection to the proxy.
            local_address: The IP address of this machine from which to connect to the proxy.
            retries: How many more times to try when the proxy cannot be reached, or when the
                connect timeout passes.
            socket_options: Arguments of `socket.socket.setsockopt`; each is set on the socket
                before the socket connects to the proxy.

        Raises:
            ValueError: The proxy or the local address is not valid, or `verify` is the context
                that a proxy of the chain has for its own TLS.
        """
        chain = as_chain(proxy)
        check_source(local_address, chain[0].path)
        check_not_shared("verify", verify, chain)
        context = self._library.httpx.create_ssl_context(
            verify=verify, cert=cert, trust_env=trust_env
        )
        # The next class is the `HTTPTransport` or `AsyncHTTPTransport` of the library.
        base: Any = super()
        base.__init__(verify=context)
        # httpx has no public way to give the connection pool of a transport a network backend. So
        # the next line replaces the pool, which has not connected to anything yet. If another
        # version of httpx has the pool under another name, then that line fails, and no request can
        # go past the proxy.
        self._pool: Any = type(self._pool)(
            network_backend=self._backend(chain, self._library.httpcore),
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
            local_address=local_address,
            socket_options=None if socket_options is None else list(socket_options),
        )


class SocksTransport(_SocksTransport):
    """The body of a transport for `httpx.Client`."""

    _prefix = ""
    _backend = Backend


class AsyncSocksTransport(_SocksTransport):
    """The body of a transport for `httpx.AsyncClient`."""

    _prefix = "Async"
    _backend = AsyncBackend


_PORTS = {"http": 80, "https": 443}
# httpcore connects for WebSocket URLs as well.
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}


class _EnvironmentTransport(_Transport):
    """A transport with one transport for each proxy of the environment, and a direct one.

    Args:
        socks_transport: The class of the transports through SOCKS proxies.
        options: The arguments of each transport.

    Raises:
        ValueError: The value of a variable is not the URL of a proxy. The text names the variable.
    """

    def __init__(self, socks_transport: Callable[..., Any], options: Options) -> None:
        self._environment = Environment.of(os.environ)
        settings = [None, *map(self._environment.proxy_for, _PORTS)]
        self._proxies = {
            setting: None if setting is None else setting.parsed(Proxy.from_url)
            for setting in settings
        }
        http_transport = getattr(self._library.httpx, f"{self._prefix}HTTPTransport")
        self._transports = {
            proxy: socks_transport(proxy, **options)
            if proxy is not None and proxy.scheme != "http"
            else http_transport(proxy=self._library.http_proxy(proxy), **options)
            for proxy in dict.fromkeys(self._proxies.values())
        }

    def _transport_for(self, request: Any) -> Any:
        """Return the transport for a request, after a check of the request."""
        self._check(request)
        url = request.url
        scheme = _HTTP_SCHEMES.get(url.scheme, url.scheme)
        # httpx raises its UnsupportedProtocol for any other scheme.
        if scheme not in _PORTS:
            return self._transports[None]
        try:
            setting = self._environment.proxy_for(scheme, url.host, url.port or _PORTS[scheme])
        except ValueError:
            # The host is not valid. The transport of the proxy raises an error that says so.
            setting = self._environment.proxy_for(scheme)
        return self._transports[self._proxies[setting]]


class EnvironmentTransport(_EnvironmentTransport):
    """The body of a transport for `httpx.Client` that uses the proxies of the environment."""

    _prefix = ""

    def handle_request(self, request: Any) -> Any:
        """Send one request, and return the response."""
        return self._transport_for(request).handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            transport.close()


class AsyncEnvironmentTransport(_EnvironmentTransport):
    """The body of a transport for `httpx.AsyncClient` that uses the proxies of the environment."""

    _prefix = "Async"

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request, and return the response."""
        return await self._transport_for(request).handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            await transport.aclose()
