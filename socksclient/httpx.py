"""Transports for httpx: ``httpx.Client(transport=SocksTransport("socks5h://…"))``."""

from __future__ import annotations

import httpcore
import httpx

from socksclient._httpx import transport as transports

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_PAIR = transports.Pair(httpx, httpcore)


class _ByEnvironment(transports.ByEnvironment, httpx.BaseTransport):
    _pair = _PAIR


class _AsyncByEnvironment(transports.AsyncByEnvironment, httpx.AsyncBaseTransport):
    _pair = _PAIR


class SocksTransport(
    transports.SocksTransport[httpx.BaseTransport, httpx.Request, httpx.Response],
    httpx.HTTPTransport,
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
    _by_environment = _ByEnvironment


class AsyncSocksTransport(
    transports.AsyncSocksTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response],
    httpx.AsyncHTTPTransport,
):
    """`httpx.AsyncHTTPTransport` through a SOCKS proxy, on asyncio and trio.

    Arguments and errors are those of `SocksTransport`.
    """

    _pair = _PAIR
    _by_environment = _AsyncByEnvironment
