"""HTTP through a proxy with requests: an adapter, and a session with one (extra ``[requests]``).

    with socksclient.requests.Session(proxy="socks5h://127.0.0.1:1080") as session:
        session.get("https://example.com/", timeout=10.0)

It needs nothing of PySocks, and leaves alone what requests itself does with ``proxies=``.
"""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterable
from typing import Any, TypedDict, cast
from weakref import WeakSet

from socksclient._net.sockets import SocketOption
from socksclient._sync.driver import open_tunnel
from socksclient._sync.timeouts import Deadline
from socksclient._sync.tls import (
    TLSChannel,
    TLSSocket,
    check_not_shared,
    check_not_wrapped,
    server_name,
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
    """What `requests.adapters.HTTPAdapter` takes."""

    pool_connections: int
    pool_maxsize: int
    max_retries: int | Retry
    pool_block: bool


class SocksAdapter(requests.adapters.HTTPAdapter):
    """`requests.adapters.HTTPAdapter` through a SOCKS proxy, for `requests.Session.mount`.

    All that is sent by it goes through `proxy`: neither the environment's proxies (HTTP_PROXY,
    ALL_PROXY, NO_PROXY) count nor those of ``session.proxies`` and ``proxies=``, and a header
    Proxy-Authorization, which requests makes of them, is not sent.

    The connect timeout is one deadline for the connection to the proxy and its handshake together
    (and holds once more for TLS, as in requests). Requests raise the errors of requests, with the
    `SocksError` as their `__cause__`:

    - `requests.ConnectTimeout`: the connect timeout passed.
    - `requests.exceptions.ProxyError`: the proxy cannot be reached, refused, or got it wrong.
    - `requests.ConnectionError`, which is the base of both, itself: the destination's name has no
      address (``socks5`` and ``socks4`` only).
    - `requests.exceptions.InvalidURL`: SOCKS cannot carry the destination; its cause is a
      `ValueError`.

    `max_retries` counts the first three as failures to connect, and repeats them.

    For options of the connections (``source_address``, ``socket_options``, ``ssl_context`` …)
    override `init_poolmanager`, as of an `HTTPAdapter`, and call this one with them.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        options: As of `HTTPAdapter`: `pool_connections`, `pool_maxsize`, `max_retries` and
            `pool_block`.

    Raises:
        ValueError: The proxy cannot be.
    """

    # What goes into pickles.
    __attrs__ = [*requests.adapters.HTTPAdapter.__attrs__, "proxy"]  # noqa: RUF012

    def __init__(
        self, proxy: ProxyLike, **options: typing_extensions.Unpack[AdapterOptions]
    ) -> None:
        self.proxy: Chain = as_chain(proxy)
        super().__init__(**options)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Called by requests, and by what overrides it.

        Raises:
            ValueError: ``ssl_context`` is also the context for TLS with a proxy.
        """
        check_not_shared("ssl_context", pool_kwargs.get("ssl_context"), self.proxy)
        # Only urllib3-future lets its users choose among versions of HTTP. HTTP/3 uses UDP, which
        # would go past the proxy.
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
        """Called by `send`."""
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        if not issubclass(pool.ConnectionCls, SocksHTTPConnection):
            raise TypeError(
                f"{type(self).__name__} would go around the proxy: its init_poolmanager must call"
                " that of SocksAdapter"
            )
        return pool

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,  # noqa: ARG002 - this adapter is the proxy
    ) -> requests.Response:
        """Called by the session.

        Raises:
            RequestException: As told of the class.
        """
        request.headers.pop("Proxy-Authorization", None)  # the destination would get it
        try:
            return super().send(request, stream, timeout, verify, cert, proxies=None)
        except LocationValueError as error:
            raise requests.exceptions.InvalidURL(error, request=request) from error.__cause__
        except requests.ConnectionError as error:
            failure: Any = next(iter(error.args), None)
            failure = getattr(failure, "reason", failure)  # of a MaxRetryError
            if isinstance(failure, ConnectTimeoutError | ProxyError):
                raise error from failure.__cause__
            raise


class Session(requests.Session):
    """`requests.Session` with a `SocksAdapter` for both HTTP and HTTPS.

    It never asks for the environment's proxies, where requests does so for every request, which
    on macOS can resolve the destination's name here. What else is in the environment counts as
    ever: REQUESTS_CA_BUNDLE, and the passwords of .netrc.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        options: As of `SocksAdapter`.

    Raises:
        ValueError: The proxy cannot be.
    """

    def __init__(
        self, proxy: ProxyLike, **options: typing_extensions.Unpack[AdapterOptions]
    ) -> None:
        super().__init__()
        adapter = SocksAdapter(proxy, **options)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Called by all the others."""
        kwargs.setdefault("proxies", dict(self.proxies))
        return super().send(request, **kwargs)

    def merge_environment_settings(
        self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> dict[str, Any]:
        """Called by requests."""
        url = ""  # all that it is for is to find the environment's proxies for its host
        return super().merge_environment_settings(url, proxies, stream, verify, cert)

    def rebuild_proxies(self, prepared_request: requests.PreparedRequest, proxies: Any) -> Any:
        """Called by requests, for a redirection."""
        prepared_request.headers.pop("Proxy-Authorization", None)
        return proxies


class SocksHTTPConnection(HTTPConnection):
    """A connection of urllib3 that is made through the proxy."""

    def __init__(
        self, host: str, *args: Any, _socks_options: dict[str, Chain], **options: Any
    ) -> None:
        super().__init__(host, *args, **options)
        self._chain = _socks_options["chain"]
        self._destination = host  # the attribute `host` has no dot at its end

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
            # By what is in it, urllib3 counts it as a failure to connect.
            failure = NewConnectionError(self, str(error))
            raise ProxyError("no connection through the proxy", failure) from error
        channel.settimeout(self.timeout)
        return cast("socket.socket", _Socket(channel)) if speaks_tls(channel) else channel


class SocksHTTPSConnection(SocksHTTPConnection, HTTPSConnection):
    """The same with TLS."""

    def connect(self) -> None:
        """Called by urllib3."""
        name = self.server_hostname or self.host
        try:
            name.encode("idna")  # ssl will as well, but only when the connection is there
        except UnicodeError as error:
            raise LocationValueError(f"TLS cannot carry the name {name!r}: {error}") from error
        given = self.ssl_context
        self.ssl_context = cast("ssl.SSLContext", _Context(given or self._context()))
        try:
            super().connect()
        finally:
            self.ssl_context = given

    def _context(self) -> ssl.SSLContext:
        """The context that urllib3 makes where it was given none."""
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
    """Return the `options` of urllib3 for a TCP socket, as `socket.setsockopt` takes them.

    In urllib3-future, which niquests puts in the place of urllib3, an option can end with the
    protocol that it is for: ``(level, option, value, "tcp")``, or "udp" for HTTP/3.
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
    """For one host."""

    ConnectionCls = SocksHTTPConnection


class SocksHTTPSConnectionPool(HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls = SocksHTTPSConnection


class _Context:
    """An `ssl.SSLContext` but for `wrap_socket`, which can do TLS within TLS here.

    The plain one would go beneath the TLS that is there. Also, before Python 3.13 it leaves the
    socket open when that has been reset.
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

    The `ssl.SSLSocket` that may speak TLS with the proxy is never handed out: code that wraps it
    again goes beneath it, and would send the destination's name in the clear.
    """

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
        """A reader; the connection stays open until that is closed as well."""
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
    """TLS with the destination inside TLS with a proxy; it adds methods of `ssl.SSLSocket`.

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
