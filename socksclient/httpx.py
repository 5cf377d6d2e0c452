"""Transports for httpx: ``httpx.Client(transport=SocksTransport("socks5h://…"))``."""

from __future__ import annotations

import httpcore
import httpx

from socksclient import transports

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_PAIR = transports.Pair(httpx, httpcore)


class _Body(transports.Body, httpx.SyncByteStream):
    _errors = _PAIR.errors


class _AsyncBody(transports.AsyncBody, httpx.AsyncByteStream):
    _errors = _PAIR.errors


class _ByEnvironment(transports.ByEnvironment, httpx.BaseTransport):
    pass


class _AsyncByEnvironment(transports.AsyncByEnvironment, httpx.AsyncBaseTransport):
    pass


class SocksTransport(
    transports.SocksTransport[httpx.BaseTransport, httpx.Request, httpx.Response],
    httpx.BaseTransport,
):
    """`httpx.HTTPTransport` through a SOCKS proxy.

    Requests raise httpx's errors, with the `SocksError` as their `__cause__`:
    `httpx.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx), and `httpx.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    _pair = _PAIR
    _body = _Body
    _by_environment = _ByEnvironment


class AsyncSocksTransport(
    transports.AsyncSocksTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response],
    httpx.AsyncBaseTransport,
):
    """`httpx.AsyncHTTPTransport` through a SOCKS proxy, on asyncio and trio.

    Arguments and errors are those of `SocksTransport`.
    """

    _pair = _PAIR
    _body = _AsyncBody
    _by_environment = _AsyncByEnvironment
