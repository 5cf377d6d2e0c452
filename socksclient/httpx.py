"""Transports that send the requests of httpx through a SOCKS proxy.

    with httpx.Client(transport=SocksTransport("socks5h://127.0.0.1:1080")) as client:
        client.get("https://example.com/")

`SocksTransport` is for `httpx.Client`, and `AsyncSocksTransport` for `httpx.AsyncClient`.
"""

from __future__ import annotations

import httpcore
import httpx

from socksclient._httpx import transport
from socksclient._httpx.transport import Library, Options
from socksclient.protocol.lazy import typing_extensions

__all__ = [
    "AsyncEnvironmentTransport",
    "AsyncSocksTransport",
    "EnvironmentTransport",
    "SocksTransport",
]

_LIBRARY = Library(httpx, httpcore)


class SocksTransport(transport.SocksTransport, httpx.HTTPTransport):
    """An `httpx.HTTPTransport` that connects through a SOCKS proxy, or through a chain of proxies.

    A request raises the errors of httpx:

    - `httpx.ConnectError`: The proxy cannot be reached, or the name of the destination has no
      address (``socks5`` and ``socks4``, with which this process resolves the name).
    - `httpx.ConnectTimeout`: The connect timeout passed. The timeout holds for the connection to
      the proxy and all of the handshake together, and then once more for TLS with the destination,
      as it does without a proxy.
    - `httpx.ProxyError`: The proxy refused the request, or broke the protocol.
    - `httpx.UnsupportedProtocol`: SOCKS cannot carry the destination, for example because the name
      is longer than 255 octets. Nothing has been sent.

    The `__cause__` of the first three is the `SocksError`, which says at which hop and in which
    phase the request failed; or it is the OSError of a `Method` of your own. The cause of an
    `httpx.UnsupportedProtocol` is a `ValueError`. Errors after the proxy has granted the request
    are those that httpx raises without a proxy.
    """

    _library = _LIBRARY

    @classmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> EnvironmentTransport:
        """Return a transport that uses the proxies of the environment, as they are now.

        Args:
            **options: The arguments of this class, except for the proxy.

        Raises:
            ValueError: The value of a variable is not the URL of a proxy (the text names the
                variable), or an argument is not valid.
        """
        return EnvironmentTransport(cls, options)

    @classmethod
    def mounts_from_env(
        cls, **options: typing_extensions.Unpack[Options]
    ) -> dict[str, EnvironmentTransport]:
        """Return the transport of `from_env` as the ``mounts`` of a client.

        With ``httpx.Client(mounts=…, trust_env=False)``, other transports can be mounted beside
        it. Without ``trust_env=False``, httpx would mount its own transports for the proxies of
        the environment, and would raise an error for schemes that it does not know (``socks://``).

        Args:
            **options: The arguments of this class, except for the proxy.

        Raises:
            ValueError: `from_env` raises it.
        """
        return {"all://": cls.from_env(**options)}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, and return the response. `httpx.Client` calls this method.

        Raises:
            httpx.TransportError: The request failed; the docstring of the class says how.
            TypeError: The request is not an `httpx.Request`.
        """
        self._check(request)
        with self._library.errors():
            return super().handle_request(request)


class AsyncSocksTransport(transport.AsyncSocksTransport, httpx.AsyncHTTPTransport):
    """An `httpx.AsyncHTTPTransport` that connects through a SOCKS proxy, or through a chain.

    It runs on asyncio and trio. The arguments and the errors are those of `SocksTransport`.
    """

    _library = _LIBRARY

    @classmethod
    def from_env(cls, **options: typing_extensions.Unpack[Options]) -> AsyncEnvironmentTransport:
        """Return a transport that uses the proxies of the environment, as they are now.

        Args:
            **options: The arguments of this class, except for the proxy.

        Raises:
            ValueError: `SocksTransport.from_env` says when.
        """
        return AsyncEnvironmentTransport(cls, options)

    @classmethod
    def mounts_from_env(
        cls, **options: typing_extensions.Unpack[Options]
    ) -> dict[str, AsyncEnvironmentTransport]:
        """Return the transport of `from_env` as the ``mounts`` of a client.

        `SocksTransport.mounts_from_env` says what this is for.

        Args:
            **options: The arguments of this class, except for the proxy.

        Raises:
            ValueError: `SocksTransport.from_env` says when.
        """
        return {"all://": cls.from_env(**options)}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, and return the response. `httpx.AsyncClient` calls this method.

        Raises:
            httpx.TransportError: The request failed; the docstring of `SocksTransport` says how.
            TypeError: The request is not an `httpx.Request`.
        """
        self._check(request)
        with self._library.errors():
            return await super().handle_async_request(request)


class EnvironmentTransport(transport.EnvironmentTransport, httpx.BaseTransport):
    """A transport that chooses the proxy for each request by the environment.

    `SocksTransport.from_env` makes such a transport. The variable http_proxy or https_proxy, by the
    scheme of the URL, names the proxy; if that variable is not set, all_proxy does. The names may
    be in capitals. If no_proxy covers the destination, or if there is no proxy, the request goes to
    the destination directly.
    The variables are read once, when the transport is made.

    SOCKS proxies of all schemes get a `SocksTransport` with the same options. HTTP proxies and
    direct connections get an `httpx.HTTPTransport`, which ignores `local_address` and `retries`
    when it connects to an HTTP proxy.
    """

    _library = _LIBRARY


class AsyncEnvironmentTransport(transport.AsyncEnvironmentTransport, httpx.AsyncBaseTransport):
    """A transport that chooses the proxy for each request by the environment.

    `AsyncSocksTransport.from_env` makes such a transport. It chooses the proxy by the rules of
    `EnvironmentTransport`.
    """

    _library = _LIBRARY
