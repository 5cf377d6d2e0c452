"""The transports for httpx and for httpx2, but for what is httpx's or httpx2's own.

httpx comes with httpcore, and httpx2 with httpcore2. What is in both has the same names, and is not
the same. So the classes here are told which `Pair` they are for, and get its own classes as bases
and for their types, where there is a need, in `socksclient.httpx` and in `socksclient.httpx2`.
"""

# What the methods here do is told in httpx and httpcore.
# ruff: noqa: D102

from __future__ import annotations

import os
import ssl
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    Protocol,
    TypedDict,
    TypeVar,
    cast,
)

from socksclient.backends import AsyncBackend, Backend, ErrorMap, errors_by_name, httpx_errors
from socksclient.environment import Environment
from socksclient.lazy import LazyModule
from socksclient.proxy import Chain, Proxy, ProxyLike, as_chain
from socksclient.sockets import SocketOption, check_source
from socksclient.tls import check_not_shared

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
        self.errors: ErrorMap = errors_by_name(httpcore, httpx)

    def core_request(self, request: Any) -> Any:
        """What httpcore takes in place of an `httpx.Request`."""
        url = request.url
        return self.httpcore.Request(
            request.method,
            self.httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )

    def response(self, response: Any, body: Any) -> Any:
        """The `httpx.Response` for what httpcore has brought."""
        return self.httpx.Response(
            response.status, headers=response.headers, stream=body, extensions=response.extensions
        )

    def proxy(self, proxy: Proxy | None) -> Any:
        """The `httpx.Proxy` for an HTTP proxy."""
        if proxy is None:
            return None
        auth = None if proxy.username is None else (proxy.username, proxy.password or "")
        scheme = "https" if proxy.tls else "http"
        return self.httpx.Proxy(f"{scheme}://{proxy.place}", auth=auth)


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


class _Base(ABC, Generic[Transport]):
    """What both kinds of transports have in common."""

    _pair: ClassVar[Pair]

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
        self._pool = self._new_pool(
            chain,
            ssl_context=self._pair.httpx.create_ssl_context(
                verify=verify, cert=cert, trust_env=trust_env
            ),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            retries=retries,
            local_address=local_address,
            socket_options=None if socket_options is None else list(socket_options),
        )

    @abstractmethod
    def _new_pool(self, chain: Chain, **options: Any) -> Any:
        """A pool whose network backend goes through `chain`."""

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


class SocksTransport(_Base[Transport], Generic[Transport, Request, Response]):
    """A blocking transport."""

    _body: ClassVar[type[Body]]
    _by_environment: ClassVar[type[ByEnvironment]]

    def _new_pool(self, chain: Chain, **options: Any) -> Any:
        backend = Backend(chain, self._pair.httpcore)
        return self._pair.httpcore.ConnectionPool(network_backend=backend, **options)

    @classmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> Transport:
        def new(proxy: Proxy | None) -> Any:
            if proxy is not None and proxy.scheme != "http":
                return cls(proxy, **options)
            return cls._pair.httpx.HTTPTransport(proxy=cls._pair.proxy(proxy), **options)

        return cast("Transport", cls._by_environment(new))

    def handle_request(self, request: Request) -> Response:
        """Sends one request."""
        with httpx_errors(self._pair.errors):
            answer = self._pool.handle_request(self._pair.core_request(request))
        response: Response = self._pair.response(answer, self._body(answer))
        return response

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()


class AsyncSocksTransport(_Base[Transport], Generic[Transport, Request, Response]):
    """A transport on asyncio and trio."""

    _body: ClassVar[type[AsyncBody]]
    _by_environment: ClassVar[type[AsyncByEnvironment]]

    def _new_pool(self, chain: Chain, **options: Any) -> Any:
        backend = AsyncBackend(chain, self._pair.httpcore)
        return self._pair.httpcore.AsyncConnectionPool(network_backend=backend, **options)

    @classmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> Transport:
        def new(proxy: Proxy | None) -> Any:
            if proxy is not None and proxy.scheme != "http":
                return cls(proxy, **options)
            return cls._pair.httpx.AsyncHTTPTransport(proxy=cls._pair.proxy(proxy), **options)

        return cast("Transport", cls._by_environment(new))

    async def handle_async_request(self, request: Request) -> Response:
        """Sends one request."""
        with httpx_errors(self._pair.errors):
            answer = await self._pool.handle_async_request(self._pair.core_request(request))
        response: Response = self._pair.response(answer, self._body(answer))
        return response

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()


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
        proxies = [None, *map(self._environment.proxy_for, _PORTS)]
        self.transports = {proxy: new(proxy) for proxy in dict.fromkeys(proxies)}

    def transport_for(self, url: Any) -> Any:
        scheme = _AS.get(url.scheme, url.scheme)
        if scheme not in _PORTS:  # httpx says that it does not know it
            return self.transports[None]
        try:
            proxy = self._environment.proxy_for(scheme, url.host, url.port or _PORTS[scheme])
        except ValueError:  # of the host, as the proxy's transport will say
            proxy = self._environment.proxy_for(scheme)
        return self.transports[proxy]


class ByEnvironment(_Routes):
    """An `httpx.BaseTransport` that goes by them."""

    def handle_request(self, request: Any) -> Any:
        return self.transport_for(request.url).handle_request(request)

    def close(self) -> None:
        for transport in self.transports.values():
            transport.close()


class AsyncByEnvironment(_Routes):
    """The same, awaited."""

    async def handle_async_request(self, request: Any) -> Any:
        return await self.transport_for(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self.transports.values():
            await transport.aclose()


class CoreResponse(Protocol):
    """`httpcore.Response`, or `httpcore2.Response`: its body."""

    def iter_stream(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...
    def aiter_stream(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class Body:
    """An `httpx.SyncByteStream`."""

    _errors: ClassVar[ErrorMap]

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

    _errors: ClassVar[ErrorMap]

    def __init__(self, response: CoreResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with httpx_errors(self._errors):
            async for octets in self._response.aiter_stream():
                yield octets

    async def aclose(self) -> None:
        with httpx_errors(self._errors):
            await self._response.aclose()
