"""Transports for httpx2 (the extra ``[httpx2]``).

``httpx2.Client(transport=SocksTransport("socks5h://…"))``.
"""

from __future__ import annotations

from socksclient._httpx import transport as transports

try:
    import httpcore2
    import httpx2
except ImportError as error:
    raise ImportError(
        "socksclient.httpx2 needs Python 3.11 and httpx2: pip install 'socksclient[httpx2]'"
    ) from error

__all__ = ["AsyncSocksTransport", "SocksTransport"]

_PAIR = transports.Pair(httpx2, httpcore2)


class _ByEnvironment(transports.ByEnvironment, httpx2.BaseTransport):
    _pair = _PAIR


class _AsyncByEnvironment(transports.AsyncByEnvironment, httpx2.AsyncBaseTransport):
    _pair = _PAIR


class SocksTransport(
    transports.SocksTransport[httpx2.BaseTransport, httpx2.Request, httpx2.Response],
    httpx2.HTTPTransport,
):
    """`httpx2.HTTPTransport` through a SOCKS proxy.

    Requests raise httpx2's errors, with the `SocksError` as their `__cause__`:
    `httpx2.ConnectError` when the proxy cannot be reached or the destination not be resolved here,
    `httpx2.ConnectTimeout` when the connect timeout passed, which holds for the connection to the
    proxy and its handshake together (and once more for TLS, as in httpx2), and `httpx2.ProxyError`
    for all that the proxy refused or got wrong. A destination that SOCKS cannot carry is an
    `httpx2.UnsupportedProtocol`, with a `ValueError` as its cause.
    """

    _pair = _PAIR
    _by_environment = _ByEnvironment


class AsyncSocksTransport(
    transports.AsyncSocksTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response],
    httpx2.AsyncHTTPTransport,
):
    """`httpx2.AsyncHTTPTransport` through a SOCKS proxy, on asyncio and trio.

    Arguments and errors are those of `SocksTransport`.
    """

    _pair = _PAIR
    _by_environment = _AsyncByEnvironment
