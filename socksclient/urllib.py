"""HTTP with `urllib.request` through a SOCKS proxy: a handler for its openers."""

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
from socksclient._net.tls import server_name
from socksclient._sync.connect import create_connection
from socksclient.protocol.address import HostPort
from socksclient.protocol.proxy import ProxyLike, as_chain

__all__ = ["SocksHandler"]


class SocksHandler(HTTPHandler, HTTPSHandler, FTPHandler, ProxyHandler):
    """A handler by which an opener of `urllib.request` connects through a SOCKS proxy.

        opener = urllib.request.build_opener(SocksHandler("socks5h://127.0.0.1:1080"))
        with opener.open("https://example.com/", timeout=10.0) as response: ...

    `urllib.request.build_opener` replaces its own handlers for HTTP, HTTPS, FTP and for the proxies
    of the environment by this handler. So no request goes past the proxy, even if a server
    redirects the request. URLs with the scheme ``ftp`` are refused; `socksclient.ftp` does FTP.

    The `timeout` of `urllib.request.OpenerDirector.open`, in seconds, is one deadline for the
    connection through the proxy. After that, it holds for each operation on the connection. If the
    connection cannot be made, the opener raises a `urllib.error.URLError` whose `reason` is the
    `SocksError`.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        context: The `ssl.SSLContext` for TLS with the destination. Without it, the handler verifies
            certificates by the authorities of the system.

    Raises:
        ValueError: The proxy is not valid, or a hop speaks TLS.
    """

    # An opener asks the handler with the smallest number first. Other handlers for HTTP, which
    # connect directly, come later.
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
        """Send a request, and return the response; `http_open` and `https_open` call this.

        Args:
            http_class: The class of the connections that urllib would use: HTTPConnection or
                HTTPSConnection of `http.client`.
            req: The request.
            **http_conn_args: Other arguments of that class.

        Raises:
            urllib.error.URLError: The connection cannot be made; `reason` says why.
        """

        def connection(host: str, **kwargs: Any) -> _HTTPConnection:
            kind = _HTTPSConnection if issubclass(http_class, HTTPSConnection) else _HTTPConnection
            made = kind(host, **kwargs)
            made.destination = (made.host, made.port)
            made.through = self._connect
            return made

        return super().do_open(connection, req, **http_conn_args)

    def ftp_open(self, req: Request) -> Any:  # noqa: ARG002
        """Refuse a URL with the scheme ``ftp``.

        `urllib.request` would resolve the name in this process, and would connect directly.

        Args:
            req: The request.

        Raises:
            urllib.error.URLError: Always.
        """
        raise URLError("SocksHandler does not support FTP; use socksclient.ftp instead")


class _HTTPConnection(HTTPConnection):
    """An HTTP connection that goes through the proxy.

    Attributes:
        destination: The host and the port to connect to.
        through: The function that connects, which takes the destination and a timeout in seconds.
    """

    destination: HostPort
    through: Callable[..., socket.socket]

    def set_tunnel(self, *_args: Any, **_kwargs: Any) -> None:
        raise URLError(
            "SocksHandler does not support Request.set_proxy(); pass it a list of proxies instead"
        )

    def connect(self) -> None:
        self.sock = self.through(self.destination, self.timeout)
        send_at_once(self.sock)


class _HTTPSConnection(HTTPSConnection, _HTTPConnection):
    """An HTTP connection that goes through the proxy, with TLS to the destination.

    `HTTPSConnection.connect` calls `_HTTPConnection.connect`, and then starts TLS on the socket.
    """

    def connect(self) -> None:
        # HTTPSConnection.connect takes the name for TLS from `host`. In TLS, no dot ends a name.
        self.host = server_name(self.host)
        # ssl encodes the name in this way, but only after the connection has been made.
        self.host.encode("idna")
        super().connect()
