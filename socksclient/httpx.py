"""Transports for httpx: ``httpx.Client(transport=SocksTransport("socks5h://…"))``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpcore
import httpx

from socksclient import transports

if TYPE_CHECKING:
    from socksclient.proxy import Chain

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_ERRORS = transports.errors_by_name(httpcore, httpx)


class SocksTransport(transports.Transport[httpcore.ConnectionPool], httpx.BaseTransport):
    """`httpx.HTTPTransport` through a SOCKS proxy.

    Requests raise httpx's errors, with the `SocksError` as their `__cause__`:
    `httpx.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx), and `httpx.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        with transports.httpx_errors(_ERRORS):
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

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request."""
        with transports.httpx_errors(_ERRORS):
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


class _Stream(transports.Stream, httpcore.NetworkStream):
    _httpcore = httpcore


class _AsyncStream(transports.AsyncStream, httpcore.AsyncNetworkStream):
    _httpcore = httpcore


class _Backend(transports.Backend[_Stream], httpcore.NetworkBackend):
    _httpcore = httpcore
    _connection = _Stream


class _AsyncBackend(transports.AsyncBackend[_AsyncStream], httpcore.AsyncNetworkBackend):
    _httpcore = httpcore
    _connection = _AsyncStream
