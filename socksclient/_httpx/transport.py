"""The transports for httpx and for httpx2, but for what is httpx's or httpx2's own.

httpx comes with httpcore, and httpx2 with httpcore2. What is in both has the same names, and is not
the same. So the classes here are told which `Pair` they are for, and get its own classes as bases
and for their types, where there is a need, in `socksclient.httpx` and in `socksclient.httpx2`.
"""

# What the methods here do is told in httpx and httpcore.

from __future__ import annotations

import os
import ssl
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    NoReturn,
    Protocol,
    TypedDict,
    TypeVar,
    cast,
)

from socksclient._httpx.backend import AsyncBackend, Backend
from socksclient._net.sockets import SocketOption, check_source
from socksclient._sync.tls import check_not_shared
from socksclient.protocol.environment import Environment
from socksclient.protocol.lazy import LazyModule
from socksclient.protocol.proxy import Proxy, ProxyLike, as_chain

if TYPE_CHECKING:
    import typing_extensions
else:
    # typing itself has Unpack since Python 3.11.
    typing_extensions = LazyModule("typing" if sys.version_info >= (3, 11) else "typing_extensions")

Request = TypeVar("Request")
Response = TypeVar("Response")
Transport = TypeVar("Transport")
"""Those of httpx, or of httpx2."""


class Pair:
    """httpx and httpcore, or httpx2 and httpcore2."""

    def __init__(self, httpx: ModuleType, httpcore: ModuleType) -> None:
        self.httpx: Any = httpx
        self.httpcore: Any = httpcore

    def proxy(self, proxy: Proxy | None) -> Any:
        """The `httpx.Proxy` for an HTTP proxy."""
        if proxy is None:
            return None
        auth = None if proxy.username is None else (proxy.username, proxy.password or "")
        scheme = "https" if proxy.tls else "http"
        return self.httpx.Proxy(f"{scheme}://{proxy.place}", auth=auth)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Make the error of the proxy the `__cause__` of the error that httpx raises for it.

        httpx raises its error from httpcore's error, and httpcore's pool raises that one
        ``from None``. So the network backend gives the error of the proxy to httpcore's error as
        an argument.
        """
        try:
            yield
        except self.httpx.TransportError as error:
            for argument in getattr(error.__cause__, "args", ()):
                if isinstance(argument, Exception):
                    error.__cause__ = argument
            raise


class _Kind:
    """A kind of transport. It tells a client of another kind what that client takes instead."""

    _pair: ClassVar[Pair]
    _client: ClassVar[str]
    _transport: ClassVar[str]
    _other_client: ClassVar[str]
    _other_transport: ClassVar[str]

    def _check(self, request: object) -> None:
        """Check that `request` is one of this transport's library.

        Raises:
            TypeError: If it is not. Nothing has been sent.
        """
        if isinstance(request, self._pair.httpx.Request):
            return
        ours = self._pair.httpx.__name__
        modules = [cls.__module__.partition(".")[0] for cls in type(request).__mro__]
        theirs = next((name for name in modules if name in ("httpx", "httpx2")), None)
        if theirs is None:
            name = type(request).__name__
            raise TypeError(f"the request must be an {ours}.Request, not a {name}")
        raise TypeError(
            f"{theirs}.{self._client} takes a socksclient.{theirs}.{self._transport}, "
            f"not a socksclient.{ours}.{self._transport}"
        )

    # A type checker is not to take this for every attribute that there is not.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in _METHODS:
                text = f"{self._other_client} takes {self._other_transport}, not {self._transport}"
            # An AttributeError, so that `hasattr` is False: OpenTelemetry goes by it.
            raise AttributeError(text, name=name, obj=self)


# What clients of both kinds call; a transport lacks those for the other kind.
_METHODS = ("__enter__", "handle_request", "close", "__aenter__", "handle_async_request", "aclose")


class _Blocking(_Kind):
    _client = "Client"
    _transport = "SocksTransport"
    _other_client = "AsyncClient"
    _other_transport = "AsyncSocksTransport"


class _Awaited(_Kind):
    _client = "AsyncClient"
    _transport = "AsyncSocksTransport"
    _other_client = "Client"
    _other_transport = "SocksTransport"


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


class Options(TypedDict, total=False):
    """The arguments of a transport but for the proxy."""

    verify: ssl.SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    trust_env: bool
    http1: bool
    http2: bool
    limits: Limits
    local_address: str | None
    retries: int
    socket_options: Iterable[SocketOption] | None


class _Base(ABC, _Kind, Generic[Transport]):
    """What both kinds of transports have in common."""

    _backend: ClassVar[type[Backend | AsyncBackend]]

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
            ValueError: The proxy or the local address cannot be, or `verify` is the context for
                the proxy's TLS too, which must be one of its own.
        """
        chain = as_chain(proxy)
        check_source(local_address, chain[0].path)
        check_not_shared("verify", verify, chain)
        context = self._pair.httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        cast("Any", super()).__init__(verify=context)
        # httpx has no public way to give a transport's pool a network backend, so this replaces
        # the pool, which has connected nowhere. Where a version of httpx keeps it under another
        # name, this line fails, and no request goes past the proxy.
        self._pool: Any = type(self._pool)(
            network_backend=self._backend(chain, self._pair.httpcore),
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

    @classmethod
    @abstractmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> Transport:
        """A transport that goes by the proxies of the environment, as they are now.

        For each request that is the one of http_proxy or https_proxy, or else that of all_proxy,
        unless no_proxy has the destination; capitals will do. It knows SOCKS proxies of all
        schemes, and leaves HTTP proxies to httpx's own transport, as well as what needs none (with
        an HTTP proxy, httpx heeds neither `local_address` nor `retries`).

        Args:
            **options: All that this class takes but the proxy.

        Raises:
            ValueError: A value is no URL of a proxy; the text names the variable.
        """

    @classmethod
    def mounts_from_env(cls, **options: typing_extensions.Unpack[Options]) -> dict[str, Transport]:
        """The same for ``httpx.Client(mounts=…, trust_env=False)``, where others are mounted too.

        Without ``trust_env=False`` httpx mounts its own for the environment's proxies beside it,
        and fails with those that it does not know, such as ``socks://``.
        """
        return {"all://": cls.from_env(**options)}


class SocksTransport(_Blocking, _Base[Transport], Generic[Transport, Request, Response]):
    """A blocking transport."""

    _backend = Backend
    _by_environment: ClassVar[type[ByEnvironment]]

    @classmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> Transport:
        def new(proxy: Proxy | None) -> Any:
            if proxy is not None and proxy.scheme != "http":
                return cls(proxy, **options)
            return cls._pair.httpx.HTTPTransport(proxy=cls._pair.proxy(proxy), **options)

        return cast("Transport", cls._by_environment(new))

    def handle_request(self, request: Request) -> Response:
        """Sends one request."""
        self._check(request)
        with self._pair.errors():
            response: Response = cast("Any", super()).handle_request(request)
            return response


class AsyncSocksTransport(_Awaited, _Base[Transport], Generic[Transport, Request, Response]):
    """A transport on asyncio and trio."""

    _backend = AsyncBackend
    _by_environment: ClassVar[type[AsyncByEnvironment]]

    @classmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> Transport:
        def new(proxy: Proxy | None) -> Any:
            if proxy is not None and proxy.scheme != "http":
                return cls(proxy, **options)
            return cls._pair.httpx.AsyncHTTPTransport(proxy=cls._pair.proxy(proxy), **options)

        return cast("Transport", cls._by_environment(new))

    async def handle_async_request(self, request: Request) -> Response:
        """Sends one request."""
        self._check(request)
        with self._pair.errors():
            response: Response = await cast("Any", super()).handle_async_request(request)
            return response


_PORTS = {"http": 80, "https": 443}
_AS = {"ws": "http", "wss": "https"}  # which httpcore connects for as well


class _Routes:
    """Transports for the proxies of the environment, and a direct one.

    Args:
        new: Makes the transport for a proxy, or the direct one.

    Raises:
        ValueError: A variable's value is no URL of a proxy; the text names the variable.
    """

    def __init__(self, new: Callable[[Proxy | None], Any]) -> None:
        self._environment = Environment.of(os.environ)
        settings = [None, *map(self._environment.proxy_for, _PORTS)]
        self._proxies = {
            setting: None if setting is None else setting.parsed(Proxy.from_url)
            for setting in settings
        }
        self.transports = {proxy: new(proxy) for proxy in dict.fromkeys(self._proxies.values())}

    def transport_for(self, url: Any) -> Any:
        scheme = _AS.get(url.scheme, url.scheme)
        if scheme not in _PORTS:  # httpx says that it does not know it
            return self.transports[None]
        try:
            setting = self._environment.proxy_for(scheme, url.host, url.port or _PORTS[scheme])
        except ValueError:  # of the host, as the proxy's transport will say
            setting = self._environment.proxy_for(scheme)
        return self.transports[self._proxies[setting]]


class ByEnvironment(_Blocking, _Routes):
    """An `httpx.BaseTransport` that goes by them."""

    def handle_request(self, request: Any) -> Any:
        self._check(request)
        return self.transport_for(request.url).handle_request(request)

    def close(self) -> None:
        for transport in self.transports.values():
            transport.close()


class AsyncByEnvironment(_Awaited, _Routes):
    """The same, awaited."""

    async def handle_async_request(self, request: Any) -> Any:
        self._check(request)
        return await self.transport_for(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self.transports.values():
            await transport.aclose()
