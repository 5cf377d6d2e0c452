"""Transports for httpx2 (the extra ``[httpx2]``).

``httpx2.Client(transport=SocksTransport("socks5h://…"))``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from socksclient import transports

try:
    import httpcore2
    import httpx2
except ImportError as error:
    raise ImportError(
        "socksclient.httpx2 needs httpx2: pip install 'socksclient[httpx2]'"
    ) from error

if TYPE_CHECKING:
    from socksclient.proxy import Chain

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_ERRORS = transports.errors_by_name(httpcore2, httpx2)


class SocksTransport(transports.Transport[httpcore2.ConnectionPool], httpx2.BaseTransport):
    """`httpx2.HTTPTransport` through a SOCKS proxy.

    Requests raise httpx2's errors, with the `SocksError` as their `__cause__`:
    `httpx2.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx2.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx2), and `httpx2.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx2.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends one request."""
        with transports.httpx_errors(_ERRORS):
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

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends one request."""
        with transports.httpx_errors(_ERRORS):
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


class _Stream(transports.Stream, httpcore2.NetworkStream):
    _httpcore = httpcore2


class _AsyncStream(transports.AsyncStream, httpcore2.AsyncNetworkStream):
    _httpcore = httpcore2


class _Backend(transports.Backend[_Stream], httpcore2.NetworkBackend):
    _httpcore = httpcore2
    _connection = _Stream


class _AsyncBackend(transports.AsyncBackend[_AsyncStream], httpcore2.AsyncNetworkBackend):
    _httpcore = httpcore2
    _connection = _AsyncStream
