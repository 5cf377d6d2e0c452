"""HTTP through a proxy with `urllib.request`: a handler for its openers."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import URLError
from urllib.request import FTPHandler, HTTPHandler, HTTPSHandler, ProxyHandler, Request

from socksclient._net.sockets import refuse_tls, send_at_once
from socksclient._sync.connect import create_connection
from socksclient._sync.tls import server_name
from socksclient.protocol.proxy import ProxyLike, as_chain

__all__ = ["SocksHandler"]


class SocksHandler(HTTPHandler, HTTPSHandler, FTPHandler, ProxyHandler):
    """Has an opener make its connections through a SOCKS proxy.

        opener = urllib.request.build_opener(SocksHandler("socks5h://127.0.0.1:1080"))
        with opener.open("https://example.com/", timeout=10.0) as response: ...

    `urllib.request.build_opener` puts it in the place of its own handlers for HTTP, HTTPS and FTP,
    and of the one for the proxies of the environment: nothing goes around the proxy, wherever a
    redirection leads. FTP is refused; `socksclient.ftp` has it.

    The `timeout` of `open` is one deadline for the connection through the proxy, and then holds
    for each operation on it. What goes wrong with the proxy is a `urllib.error.URLError`, whose
    `reason` is the `SocksError`.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        context: The `ssl.SSLContext` for HTTPS; by default one that verifies certificates.

    Raises:
        ValueError: The proxy cannot be, or speaks TLS.
    """

    # Whatever other handlers the opener is given that connect directly come later.
    handler_order = HTTPHandler.handler_order - 1

    def __init__(self, proxy: ProxyLike, *, context: ssl.SSLContext | None = None) -> None:
        chain = as_chain(proxy)
        # http.client would do the TLS handshake with the destination past the TLS with the proxy,
        # and the name of the destination would be in the clear.
        refuse_tls(chain, "SocksHandler", "httpx or requests")
        HTTPSHandler.__init__(self, context=context)
        ProxyHandler.__init__(self, {})
        self._connect = partial(create_connection, proxy=chain)

    def do_open(self, http_class: Any, req: Request, **http_conn_args: Any) -> HTTPResponse:
        """Called by `http_open` and `https_open`."""

        def connection(host: str, **kwargs: Any) -> _HTTPConnection:
            kind = _HTTPSConnection if issubclass(http_class, HTTPSConnection) else _HTTPConnection
            made = kind(host, **kwargs)
            made.destination = (made.host, made.port)
            made.through = self._connect
            return made

        return super().do_open(connection, req, **http_conn_args)

    def ftp_open(self, req: Request) -> Any:  # noqa: ARG002
        """Called for ``ftp:`` URLs.

        Raises:
            URLError: Always: `urllib.request` would resolve the name here, and connect directly.
        """
        raise URLError("FTP does not go through SocksHandler: see socksclient.ftp")


class _HTTPConnection(HTTPConnection):
    """A connection whose socket to `destination` is made by `through`, as `create_connection`."""

    destination: tuple[str, int]
    through: Callable[..., socket.socket]

    def set_tunnel(self, *_args: Any, **_kwargs: Any) -> None:
        raise URLError(
            "SocksHandler does not support Request.set_proxy(); pass it a list of proxies instead"
        )

    def connect(self) -> None:
        self.sock = self.through(self.destination, self.timeout)
        send_at_once(self.sock)


class _HTTPSConnection(HTTPSConnection, _HTTPConnection):
    """The same with TLS, which `HTTPSConnection.connect` puts around what the other connected."""

    def connect(self) -> None:
        # HTTPSConnection.connect takes the name for TLS from `host`.
        self.host = server_name(self.host)
        # ssl encodes the name too, but only after the connection has been made.
        self.host.encode("idna")
        super().connect()
