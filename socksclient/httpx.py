"""Transports for httpx: ``httpx.Client(transport=SocksTransport("socks5h://…"))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import httpcore
import httpx

from socksclient import backends, transports

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from socksclient.proxy import Chain, Proxy

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_ERRORS = backends.errors_by_name(httpcore, httpx)


class SocksTransport(transports.Transport[httpcore.ConnectionPool], httpx.BaseTransport):
    """`httpx.HTTPTransport` through a SOCKS proxy.

    Requests raise httpx's errors, with the `SocksError` as their `__cause__`:
    `httpx.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx), and `httpx.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    @classmethod
    def from_env(cls, **options: Unpack[transports.Options]) -> httpx.BaseTransport:
        """A transport that goes by the proxies of the environment, as they are now.

        For each request that is the one of http_proxy or https_proxy, or else that of all_proxy,
        unless no_proxy has the destination; capitals will do. It knows SOCKS proxies of all
        schemes, and leaves HTTP proxies to `httpx.HTTPTransport`, as what needs none.

        Args:
            **options: All that this class takes but the proxy.

        Raises:
            ValueError: A value is no URL of a proxy; the text names the variable.
        """
        return _FromEnv(lambda proxy: _transport(cls, proxy, options))

    @classmethod
    def mounts_from_env(
        cls, **options: Unpack[transports.Options]
    ) -> dict[str, httpx.BaseTransport]:
        """The same for ``httpx.Client(mounts=…, trust_env=False)``, where others are mounted too.

        Without ``trust_env=False`` httpx mounts its own for the environment's proxies beside it,
        and fails with those that it does not know, such as ``socks://``.
        """
        return {"all://": cls.from_env(**options)}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        with backends.httpx_errors(_ERRORS):
            response = self._pool.handle_request(_httpcore_request(request))
        return _httpx_response(response, _Body(response))

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()

    def _new_pool(
        self, chain: Chain, tls: transports.TLSOptions, options: transports.PoolOptions
    ) -> httpcore.ConnectionPool:
        context = httpx.create_ssl_context(**tls)
        return httpcore.ConnectionPool(context, network_backend=_Backend(chain), **options)


class AsyncSocksTransport(
    transports.Transport[httpcore.AsyncConnectionPool], httpx.AsyncBaseTransport
):
    """`httpx.AsyncHTTPTransport` through a SOCKS proxy, on asyncio and trio.

    Arguments and errors are those of `SocksTransport`.
    """

    @classmethod
    def from_env(cls, **options: Unpack[transports.Options]) -> httpx.AsyncBaseTransport:
        """As `SocksTransport.from_env`."""
        return _AsyncFromEnv(lambda proxy: _async_transport(cls, proxy, options))

    @classmethod
    def mounts_from_env(
        cls, **options: Unpack[transports.Options]
    ) -> dict[str, httpx.AsyncBaseTransport]:
        """As `SocksTransport.mounts_from_env`."""
        return {"all://": cls.from_env(**options)}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        with backends.httpx_errors(_ERRORS):
            response = await self._pool.handle_async_request(_httpcore_request(request))
        return _httpx_response(response, _AsyncBody(response))

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()

    def _new_pool(
        self, chain: Chain, tls: transports.TLSOptions, options: transports.PoolOptions
    ) -> httpcore.AsyncConnectionPool:
        context = httpx.create_ssl_context(**tls)
        return httpcore.AsyncConnectionPool(
            context, network_backend=_AsyncBackend(chain), **options
        )


class _FromEnv(transports.FromEnv[httpx.BaseTransport], httpx.BaseTransport):
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._transport_for(request.url).handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


class _AsyncFromEnv(transports.FromEnv[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport_for(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _transport(
    kind: type[SocksTransport], proxy: Proxy | None, options: transports.Options
) -> httpx.BaseTransport:
    if proxy is None or proxy.scheme == "http":
        return httpx.HTTPTransport(proxy=_httpx_proxy(proxy), **cast("Any", options))
    return kind(proxy, **options)


def _async_transport(
    kind: type[AsyncSocksTransport], proxy: Proxy | None, options: transports.Options
) -> httpx.AsyncBaseTransport:
    if proxy is None or proxy.scheme == "http":
        return httpx.AsyncHTTPTransport(proxy=_httpx_proxy(proxy), **cast("Any", options))
    return kind(proxy, **options)


def _httpx_proxy(proxy: Proxy | None) -> httpx.Proxy | None:
    if proxy is None:
        return None
    url, auth = transports.url_and_auth(proxy)
    return httpx.Proxy(url, auth=auth)


def _httpcore_request(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _httpx_response(
    response: httpcore.Response, body: httpx.SyncByteStream | httpx.AsyncByteStream
) -> httpx.Response:
    return httpx.Response(
        response.status, headers=response.headers, stream=body, extensions=response.extensions
    )


class _Body(transports.Body, httpx.SyncByteStream):
    _errors = _ERRORS


class _AsyncBody(transports.AsyncBody, httpx.AsyncByteStream):
    _errors = _ERRORS


class _Stream(backends.Stream, httpcore.NetworkStream):
    _httpcore = httpcore


class _AsyncStream(backends.AsyncStream, httpcore.AsyncNetworkStream):
    _httpcore = httpcore


class _Backend(backends.Backend[_Stream], httpcore.NetworkBackend):
    _httpcore = httpcore
    _connection = _Stream


class _AsyncBackend(backends.AsyncBackend[_AsyncStream], httpcore.AsyncNetworkBackend):
    _httpcore = httpcore
    _connection = _AsyncStream
