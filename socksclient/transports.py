"""The transports for httpx and for httpx2, but for what is httpx's or httpx2's own.

httpx comes with httpcore, and httpx2 with httpcore2. The classes of both have the same names and
methods, and are others all the same: so those here have none of them as a base. They get one in
`socksclient.httpx` and in `socksclient.httpx2`, which add what makes objects of theirs.
"""

# What the methods here do is told in httpx and httpcore.
# ruff: noqa: D102

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypedDict, TypeVar

from socksclient.backends import httpx_errors
from socksclient.environment import Environment
from socksclient.proxy import Proxy, ProxyLike, as_chain
from socksclient.sockets import check_source

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from socksclient.backends import ErrorMap
    from socksclient.proxy import Chain
    from socksclient.sockets import SocketOption


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
            ValueError: The proxy or the local address cannot be, or `verify` is the context for
                the proxy's TLS too, which must be one of its own.
        """
        chain = as_chain(proxy)
        check_source(local_address, chain[0].path)
        if any(hop.tls is verify for hop in chain if hop.tls is not True):
            # httpcore sets ALPN on it, which is not for the proxy (RFC 7301).
            raise ValueError("verify is also the context for TLS with the proxy; make it another")
        self._pool = self._new_pool(
            chain,
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


class URL(Protocol):
    """`httpx.URL`, or `httpx2.URL`."""

    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...


AnyTransport = TypeVar("AnyTransport")


class FromEnv(Generic[AnyTransport]):
    """Transports for the proxies of the environment, and a direct one.

    Args:
        new: Makes the transport for a proxy, or the direct one.

    Raises:
        ValueError: A variable's value is no URL of a proxy; the text names the variable.
    """

    def __init__(self, new: Callable[[Proxy | None], AnyTransport]) -> None:
        self._environment = Environment.of(os.environ)
        proxies = [None, *map(self._environment.proxy_for, _PORTS)]
        self._transports = {proxy: new(proxy) for proxy in dict.fromkeys(proxies)}

    def _transport_for(self, url: URL) -> AnyTransport:
        port = url.port or _PORTS.get(url.scheme)
        try:
            proxy = self._environment.proxy_for(url.scheme, url.host, port)
        except ValueError:  # of the host, as the proxy's transport will say
            proxy = self._environment.proxy_for(url.scheme)
        return self._transports[proxy]


_PORTS = {"http": 80, "https": 443}


def url_and_auth(proxy: Proxy) -> tuple[str, tuple[str, str] | None]:
    """An HTTP proxy, as `httpx.Proxy` takes it."""
    url = f"{'https' if proxy.tls else 'http'}://{proxy.place}"
    auth = None if proxy.username is None else (proxy.username, proxy.password or "")
    return url, auth


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
