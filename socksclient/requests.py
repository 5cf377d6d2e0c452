"""HTTP with requests through a SOCKS proxy: an adapter and a session (the extra ``[requests]``).

    with socksclient.requests.Session(proxy="socks5h://127.0.0.1:1080") as session:
        session.get("https://example.com/", timeout=10.0)

PySocks is not needed. Sessions without the adapter keep their own proxies.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterable
from typing import Any, TypedDict, cast
from weakref import WeakSet

from socksclient._net.sockets import SocketOption
from socksclient._net.tls import check_not_shared, server_name
from socksclient._sync.driver import open_tunnel
from socksclient._sync.timeouts import Deadline
from socksclient._sync.tls import (
    TLSChannel,
    TLSSocket,
    check_not_wrapped,
    speaks_tls,
    start_tls,
)
from socksclient.protocol.exceptions import ProxyTimeout, ResolveError
from socksclient.protocol.lazy import typing_extensions
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain
from socksclient.protocol.route import Route

try:
    import requests
    import requests.adapters
    import requests.exceptions
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.exceptions import (
        ConnectTimeoutError,
        LocationValueError,
        NewConnectionError,
        ProxyError,
    )
    from urllib3.util.retry import Retry
    from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs, resolve_ssl_version
except ImportError as error:
    raise ImportError(
        "socksclient.requests needs requests and urllib3: pip install 'socksclient[requests]'"
    ) from error

__all__ = ["Session", "SocksAdapter"]


class AdapterOptions(TypedDict, total=False):
    """The arguments of `requests.adapters.HTTPAdapter`."""

    pool_connections: int
    pool_maxsize: int
    max_retries: int | Retry
    pool_block: bool


class SocksAdapter(requests.adapters.HTTPAdapter):
    """A `requests.adapters.HTTPAdapter` that sends requests through a SOCKS proxy.

    Pass the adapter to `requests.Session.mount`. All its requests go through `proxy`. The adapter
    ignores the proxies of the environment (HTTP_PROXY, ALL_PROXY, NO_PROXY), of ``session.proxies``
    and of ``proxies=``. requests makes a header Proxy-Authorization of the credentials of those
    proxies; the adapter does not send this header.

    The connect timeout, in seconds, is one deadline for the connection to the proxy and all of the
    handshake together. It holds once more for TLS with the destination, as in requests. A request
    raises the errors of requests:

    - `requests.ConnectTimeout`: The connect timeout passed.
    - `requests.exceptions.ProxyError`: The proxy cannot be reached, refused the request, or broke
      the protocol.
    - `requests.ConnectionError` itself, the base class of these two: The name of the destination
      has no address (``socks5`` and ``socks4``, with which this process resolves the name).
    - `requests.exceptions.InvalidURL`: SOCKS cannot carry the destination. Nothing has been sent.

    The `__cause__` of the first three is the `SocksError`, and that of an `InvalidURL` is a
    `ValueError`. `max_retries` counts the first three as failures to connect, and repeats them.

    To set options of the connections (``source_address``, ``socket_options``, ``ssl_context``),
    override `init_poolmanager` as you would in an `HTTPAdapter`, and pass the options to the method
    of this class.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        options: The arguments of `HTTPAdapter`: `pool_connections`, `pool_maxsize`, `max_retries`
            and `pool_block`.

    Attributes:
        proxy: The chain: a tuple of `Proxy`.

    Raises:
        ValueError: The proxy is not valid.
    """

    # The names of the attributes that go into a pickle.
    __attrs__ = [*requests.adapters.HTTPAdapter.__attrs__, "proxy"]  # noqa: RUF012

    def __init__(
        self, proxy: ProxyLike, **options: typing_extensions.Unpack[AdapterOptions]
    ) -> None:
        self.proxy: Chain = as_chain(proxy)
        super().__init__(**options)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make the pool manager; requests calls this, and so does a method that overrides it.

        Args:
            connections: How many pools to keep, one for each destination.
            maxsize: How many connections to keep in each pool.
            block: Whether a request waits when all connections of its pool are in use.
            **pool_kwargs: Other arguments of the connections of urllib3.

        Raises:
            ValueError: A proxy has the same ``ssl_context`` for its own TLS.
        """
        check_not_shared("ssl_context", pool_kwargs.get("ssl_context"), self.proxy)
        # Only urllib3-future lets its users choose versions of HTTP. It would send HTTP/3 over UDP,
        # past the proxy.
        versions = getattr(urllib3, "HttpVersion", None)
        if versions is not None:
            disabled = pool_kwargs.get("disabled_svn") or ()
            pool_kwargs["disabled_svn"] = {*disabled, versions.h3}
        options = {"chain": self.proxy}
        super().init_poolmanager(connections, maxsize, block, _socks_options=options, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": SocksHTTPConnectionPool,
            "https": SocksHTTPSConnectionPool,
        }

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: Any,
        proxies: Any = None,
        cert: Any = None,
    ) -> HTTPConnectionPool:
        """Return the pool for a request; `send` calls this.

        Raises:
            TypeError: A subclass has made a pool manager whose connections do not use the proxy.
        """
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        if not issubclass(pool.ConnectionCls, SocksHTTPConnection):
            raise TypeError(
                f"{type(self).__name__} would connect past the proxy: its init_poolmanager must"
                " call SocksAdapter.init_poolmanager"
            )
        return pool

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,  # noqa: ARG002
    ) -> requests.Response:
        """Send a request, and return the response; a session calls this.

        Args:
            request: The request.
            stream: Whether to leave the body of the response unread.
            timeout: Seconds for the connection and for each read, or a pair of these. None waits
                without end.
            verify: Whether to verify the certificate of the destination, or the path of a file or
                directory with the authorities to trust.
            cert: The path of the client certificate, or a pair of the paths of the certificate and
                its key.
            proxies: Ignored, because the adapter has its own proxy.

        Raises:
            requests.RequestException: The request failed; the docstring of the class says how.
        """
        # Without an HTTP proxy, the destination would get this header.
        request.headers.pop("Proxy-Authorization", None)
        try:
            return super().send(request, stream, timeout, verify, cert, proxies=None)
        except LocationValueError as error:
            raise requests.exceptions.InvalidURL(error, request=request) from error.__cause__
        except requests.ConnectionError as error:
            failure: Any = next(iter(error.args), None)
            # A MaxRetryError has the error of the last attempt as its reason.
            failure = getattr(failure, "reason", failure)
            if isinstance(failure, ConnectTimeoutError | ProxyError):
                raise error from failure.__cause__
            raise


class Session(requests.Session):
    """A `requests.Session` with a `SocksAdapter` for HTTP and HTTPS.

    The session never looks for proxies in the environment. requests does that for every request,
    and on macOS it may resolve the name of the destination to do so. The other settings of the
    environment count as they do in requests: REQUESTS_CA_BUNDLE, and the passwords in .netrc.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        options: The arguments of `SocksAdapter`.

    Raises:
        ValueError: The proxy is not valid.
    """

    def __init__(
        self, proxy: ProxyLike, **options: typing_extensions.Unpack[AdapterOptions]
    ) -> None:
        super().__init__()
        adapter = SocksAdapter(proxy, **options)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, and return the response; all other methods call this.

        Args:
            request: The request.
            **kwargs: The arguments of `requests.Session.send`.

        Raises:
            requests.RequestException: The request failed; `SocksAdapter` says how.
        """
        kwargs.setdefault("proxies", dict(self.proxies))
        return super().send(request, **kwargs)

    def merge_environment_settings(
        self,
        url: str,  # noqa: ARG002
        proxies: Any,
        stream: Any,
        verify: Any,
        cert: Any,
    ) -> dict[str, Any]:
        """Return the settings of a request, without proxies of the environment.

        A request in the session calls this method.

        Args:
            url: Ignored: requests would use it only to look for proxies in the environment.
            proxies: The proxies for adapters other than `SocksAdapter`.
            stream: Whether to leave the body of the response unread.
            verify: Whether, or by which authorities, to verify the certificate of the destination.
            cert: The client certificate.
        """
        return super().merge_environment_settings("", proxies, stream, verify, cert)

    def rebuild_proxies(self, prepared_request: requests.PreparedRequest, proxies: Any) -> Any:
        """Return the proxies for a redirected request, unchanged; requests calls this.

        Args:
            prepared_request: The request. It loses its header Proxy-Authorization.
            proxies: The proxies for adapters other than `SocksAdapter`.
        """
        prepared_request.headers.pop("Proxy-Authorization", None)
        return proxies


class SocksHTTPConnection(HTTPConnection):
    """A connection of urllib3 that goes through the proxy."""

    def __init__(
        self, host: str, *args: Any, _socks_options: dict[str, Chain], **options: Any
    ) -> None:
        super().__init__(host, *args, **options)
        self._chain = _socks_options["chain"]
        # urllib3 takes a dot at the end of the name off the attribute `host`.
        self._destination = host

    def _new_conn(self) -> socket.socket:
        try:
            route = Route.through(self._chain, self._destination, self.port)
        except ValueError as error:
            raise LocationValueError(str(error)) from error
        options = _options_for_tcp(self.socket_options or ())
        try:
            deadline = Deadline(self.timeout)
            channel, _ = open_tunnel(route, deadline, self.source_address, options)
        except ProxyTimeout as error:
            raise ConnectTimeoutError(self, str(error)) from error
        except ResolveError as error:
            raise NewConnectionError(self, str(error)) from error
        except OSError as error:
            # urllib3 looks at the wrapped error: with a NewConnectionError, it counts the failure
            # as one to connect, and not as a failed read.
            failure = NewConnectionError(self, str(error))
            raise ProxyError("cannot connect through the proxy", failure) from error
        channel.settimeout(self.timeout)
        return cast("socket.socket", _Socket(channel)) if speaks_tls(channel) else channel


class SocksHTTPSConnection(SocksHTTPConnection, HTTPSConnection):
    """A connection of urllib3 that goes through the proxy, with TLS to the destination."""

    def connect(self) -> None:
        """Connect, and do the TLS handshake; urllib3 calls this."""
        name = self.server_hostname or self.host
        try:
            # ssl encodes the name in this way, but only after the connection has been made.
            name.encode("idna")
        except UnicodeError as error:
            raise LocationValueError(f"TLS cannot carry the name {name!r}: {error}") from error
        given = self.ssl_context
        self.ssl_context = cast("ssl.SSLContext", _Context(given or self._context()))
        try:
            super().connect()
        finally:
            self.ssl_context = given

    def _context(self) -> ssl.SSLContext:
        """Return the context that urllib3 would make for a connection without one."""
        context = create_urllib3_context(
            ssl_version=resolve_ssl_version(self.ssl_version),
            ssl_minimum_version=self.ssl_minimum_version,
            ssl_maximum_version=self.ssl_maximum_version,
            cert_reqs=resolve_cert_reqs(self.cert_reqs),
        )
        if not (self.ca_certs or self.ca_cert_dir or self.ca_cert_data):
            context.load_default_certs()
        return context


def _options_for_tcp(options: Iterable[Any]) -> list[SocketOption]:
    """Return those options of urllib3 that are for a TCP socket, as `socket.setsockopt` takes them.

    niquests replaces urllib3 by urllib3-future. There, an option can end with the name of its
    protocol: ``(level, option, value, "tcp")``, or "udp" for HTTP/3.
    """
    bare: list[SocketOption] = []
    for option in options:
        *arguments, protocol = option
        if not isinstance(protocol, str):
            bare.append(option)
        elif protocol.lower() == "tcp":
            bare.append(cast("SocketOption", tuple(arguments)))
    return bare


class SocksHTTPConnectionPool(HTTPConnectionPool):
    """The connections to one destination."""

    ConnectionCls = SocksHTTPConnection


class SocksHTTPSConnectionPool(HTTPSConnectionPool):
    """The connections to one destination, with TLS."""

    ConnectionCls = SocksHTTPSConnection


class _Context:
    """A stand-in for an `ssl.SSLContext`, with a `wrap_socket` that can do TLS within TLS.

    `ssl.SSLContext.wrap_socket` would bypass the TLS with the proxy. Also, before Python 3.13, it
    leaves a socket open whose connection has been reset.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.__dict__["_context"] = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._context, name, value)

    def wrap_socket(
        self, sock: socket.socket | _Socket, *, server_hostname: str | None = None
    ) -> ssl.SSLSocket | _Socket:
        channel = sock.channel if isinstance(sock, _Socket) else sock
        name = None if server_hostname is None else server_name(server_hostname)
        wrapped = start_tls(channel, self._context, name)
        return _TLSSocket(wrapped) if isinstance(wrapped, TLSSocket) else wrapped


class _Socket:
    """TLS with a proxy, with the methods of a socket that http.client, urllib3 and users call.

    Callers never get the `ssl.SSLSocket` itself. If they put TLS around it, the handshake would
    bypass the TLS with the proxy, and would show the name of the destination. Also, urllib3-future
    would take the ALPN protocol of the proxy for that of the destination.
    """

    # `urllib3.util.ssltransport.SSLTransport` (2.8) cannot take the place of this class. It goes
    # around an `ssl.SSLSocket` only, so it cannot serve a chain with TLS at two hops. It lacks
    # getpeername, getsockname, getsockopt, setsockopt, type and context. Its timeout holds for each
    # read and write of a handshake, and not for all of the handshake.

    def __init__(self, channel: TLSChannel) -> None:
        self.channel = channel
        self.type = channel.type
        self.fileno = channel.fileno
        self.getpeername = channel.getpeername
        self.getsockname = channel.getsockname
        self.gettimeout = channel.gettimeout
        self.settimeout = channel.settimeout
        self.setsockopt = channel.setsockopt
        self.recv = channel.recv
        self.sendall = channel.sendall
        self._readers: WeakSet[_Reader] = WeakSet()
        self._closed = False

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        check_not_wrapped(level, optname)
        return self.channel.getsockopt(level, optname, *args)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader. The connection stays open until the reader has been closed as well."""
        reader = _Reader(self)
        self._readers.add(reader)
        return io.BufferedReader(reader)

    def forget(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        self._close_if_unused()

    def close(self) -> None:
        self._closed = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._readers:
            self.channel.close()


class _TLSSocket(_Socket):
    """TLS with the destination inside TLS with a proxy, with methods of `ssl.SSLSocket`.

    urllib3-future needs `context` and `selected_alpn_protocol`.
    """

    def __init__(self, channel: TLSSocket) -> None:
        super().__init__(channel)
        tls = channel.ssl_object
        self.context = tls.context
        self.cipher = tls.cipher
        self.getpeercert = tls.getpeercert
        self.selected_alpn_protocol = tls.selected_alpn_protocol
        self.version = tls.version


class _Reader(io.RawIOBase):
    """A file that reads from a `_Socket`."""

    def __init__(self, sock: _Socket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        octets = self._sock.channel.recv(len(buffer))
        buffer[: len(octets)] = octets
        return len(octets)

    def close(self) -> None:
        super().close()
        self._sock.forget(self)
