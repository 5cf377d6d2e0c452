"""Transports for httpx2 (the extra ``[httpx2]``).

``httpx2.Client(transport=SocksTransport("socks5h://…"))``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from socksclient import backends, transports

try:
    import httpcore2
    import httpx2
except ImportError as error:
    raise ImportError(
        "socksclient.httpx2 needs httpx2: pip install 'socksclient[httpx2]'"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from socksclient.proxy import Chain, Proxy

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_ERRORS = backends.errors_by_name(httpcore2, httpx2)


class SocksTransport(transports.Transport[httpcore2.ConnectionPool], httpx2.BaseTransport):
    """`httpx2.HTTPTransport` through a SOCKS proxy.

    Requests raise httpx2's errors, with the `SocksError` as their `__cause__`:
    `httpx2.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx2.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx2), and `httpx2.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx2.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    @classmethod
    def from_env(cls, **options: Unpack[transports.Options]) -> httpx2.BaseTransport:
        """A transport that goes by the proxies of the environment, as they are now.

        For each request that is the one of http_proxy or https_proxy, or else that of all_proxy,
        unless no_proxy has the destination; capitals will do. It knows SOCKS proxies of all
        schemes, and leaves HTTP proxies to `httpx2.HTTPTransport`, as what needs none.

        Args:
            **options: All that this class takes but the proxy.

        Raises:
            ValueError: A value is no URL of a proxy; the text names the variable.
        """
        return _FromEnv(lambda proxy: _transport(cls, proxy, options))

    @classmethod
    def mounts_from_env(
        cls, **options: Unpack[transports.Options]
    ) -> dict[str, httpx2.BaseTransport]:
        """The same for ``httpx2.Client(mounts=…, trust_env=False)``, where others are mounted too.

        Without ``trust_env=False`` httpx2 mounts its own for the environment's proxies beside it,
        and fails with those that it does not know, such as ``socks://``.
        """
        return {"all://": cls.from_env(**options)}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends one request."""
        with backends.httpx_errors(_ERRORS):
            response = self._pool.handle_request(_httpcore_request(request))
        return _httpx_response(response, _Body(response))

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()

    def _new_pool(
        self, chain: Chain, tls: transports.TLSOptions, options: transports.PoolOptions
    ) -> httpcore2.ConnectionPool:
        context = httpx2.create_ssl_context(**tls)
        return httpcore2.ConnectionPool(context, network_backend=_Backend(chain), **options)


class AsyncSocksTransport(
    transports.Transport[httpcore2.AsyncConnectionPool], httpx2.AsyncBaseTransport
):
    """`httpx2.AsyncHTTPTransport` through a SOCKS proxy, on asyncio and trio.

    Arguments and errors are those of `SocksTransport`.
    """

    @classmethod
    def from_env(cls, **options: Unpack[transports.Options]) -> httpx2.AsyncBaseTransport:
        """As `SocksTransport.from_env`."""
        return _AsyncFromEnv(lambda proxy: _async_transport(cls, proxy, options))

    @classmethod
    def mounts_from_env(
        cls, **options: Unpack[transports.Options]
    ) -> dict[str, httpx2.AsyncBaseTransport]:
        """As `SocksTransport.mounts_from_env`."""
        return {"all://": cls.from_env(**options)}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends one request."""
        with backends.httpx_errors(_ERRORS):
            response = await self._pool.handle_async_request(_httpcore_request(request))
        return _httpx_response(response, _AsyncBody(response))

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()

    def _new_pool(
        self, chain: Chain, tls: transports.TLSOptions, options: transports.PoolOptions
    ) -> httpcore2.AsyncConnectionPool:
        context = httpx2.create_ssl_context(**tls)
        return httpcore2.AsyncConnectionPool(
            context, network_backend=_AsyncBackend(chain), **options
        )


class _FromEnv(transports.FromEnv[httpx2.BaseTransport], httpx2.BaseTransport):
    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._transport_for(request.url).handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


class _AsyncFromEnv(transports.FromEnv[httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._transport_for(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _transport(
    kind: type[SocksTransport], proxy: Proxy | None, options: transports.Options
) -> httpx2.BaseTransport:
    if proxy is None or proxy.scheme == "http":
        return httpx2.HTTPTransport(proxy=_httpx_proxy(proxy), **cast("Any", options))
    return kind(proxy, **options)


def _async_transport(
    kind: type[AsyncSocksTransport], proxy: Proxy | None, options: transports.Options
) -> httpx2.AsyncBaseTransport:
    if proxy is None or proxy.scheme == "http":
        return httpx2.AsyncHTTPTransport(proxy=_httpx_proxy(proxy), **cast("Any", options))
    return kind(proxy, **options)


def _httpx_proxy(proxy: Proxy | None) -> httpx2.Proxy | None:
    if proxy is None:
        return None
    url, auth = transports.url_and_auth(proxy)
    return httpx2.Proxy(url, auth=auth)


def _httpcore_request(request: httpx2.Request) -> httpcore2.Request:
    url = request.url
    return httpcore2.Request(
        request.method,
        httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _httpx_response(
    response: httpcore2.Response, body: httpx2.SyncByteStream | httpx2.AsyncByteStream
) -> httpx2.Response:
    return httpx2.Response(
        response.status, headers=response.headers, stream=body, extensions=response.extensions
    )


class _Body(transports.Body, httpx2.SyncByteStream):
    _errors = _ERRORS


class _AsyncBody(transports.AsyncBody, httpx2.AsyncByteStream):
    _errors = _ERRORS


class _Stream(backends.Stream, httpcore2.NetworkStream):
    _httpcore = httpcore2


class _AsyncStream(backends.AsyncStream, httpcore2.AsyncNetworkStream):
    _httpcore = httpcore2


class _Backend(backends.Backend[_Stream], httpcore2.NetworkBackend):
    _httpcore = httpcore2
    _connection = _Stream


class _AsyncBackend(backends.AsyncBackend[_AsyncStream], httpcore2.AsyncNetworkBackend):
    _httpcore = httpcore2
    _connection = _AsyncStream
