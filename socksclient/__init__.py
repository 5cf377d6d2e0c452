"""The client side of SOCKS.

Blocking code finds all that it needs here. Beside it there are, by what they integrate with:
`socksclient.anyio` (asyncio and trio), `socksclient.httpx`, `socksclient.httpx2`,
`socksclient.requests`, `socksclient.urllib`, `socksclient.redis`, `socksclient.dnspython` and
`socksclient.ftp`; `socksclient.testing` has a proxy for tests, `socksclient.exceptions` all errors,
`socksclient.flows` the protocol without I/O. What other modules there are is not for use.

The names below are loaded when they are first touched, so that `import socksclient` alone loads
no httpx, httpcore, anyio, ssl or asyncio.
"""

from __future__ import annotations

from importlib import import_module

# As type checkers know it; importing typing would cost more than all else here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from socksclient._sync.connect import (
        Listener,
        UDPAssociation,
        bind,
        create_connection,
        resolve,
        resolve_ptr,
        udp_associate,
    )
    from socksclient._sync.socks_socket import SocksSocket
    from socksclient.httpx import AsyncSocksTransport, SocksTransport
    from socksclient.protocol.codes import HTTPReply, Reply, Socks4Reply
    from socksclient.protocol.exceptions import (
        AssociationClosed,
        AuthenticationError,
        ConnectionNotAllowed,
        ConnectionRefused,
        ProtocolError,
        ProxyClosed,
        ProxyConnectError,
        ProxyTimeout,
        ReplyError,
        ResolveError,
        SocksError,
        TTLExpired,
    )
    from socksclient.protocol.flow import Exchange, Flow
    from socksclient.protocol.proxy import Method, Proxy, ProxyLike
    from socksclient.protocol.socks5 import NO_AUTHENTICATION, USERNAME_PASSWORD

__all__ = [
    "NO_AUTHENTICATION",
    "USERNAME_PASSWORD",
    "AssociationClosed",
    "AsyncSocksTransport",
    "AuthenticationError",
    "ConnectionNotAllowed",
    "ConnectionRefused",
    "Exchange",
    "Flow",
    "HTTPReply",
    "Listener",
    "Method",
    "ProtocolError",
    "Proxy",
    "ProxyClosed",
    "ProxyConnectError",
    "ProxyLike",
    "ProxyTimeout",
    "Reply",
    "ReplyError",
    "ResolveError",
    "Socks4Reply",
    "SocksError",
    "SocksSocket",
    "SocksTransport",
    "TTLExpired",
    "UDPAssociation",
    "bind",
    "create_connection",
    "resolve",
    "resolve_ptr",
    "udp_associate",
]

_HOME = {
    "AsyncSocksTransport": "httpx",
    "SocksTransport": "httpx",
    "SocksSocket": "_sync.socks_socket",
    "Method": "protocol.proxy",
    "Proxy": "protocol.proxy",
    "ProxyLike": "protocol.proxy",
    **dict.fromkeys(
        (
            "Listener",
            "UDPAssociation",
            "bind",
            "create_connection",
            "resolve",
            "resolve_ptr",
            "udp_associate",
        ),
        "_sync.connect",
    ),
    **dict.fromkeys(("Exchange", "Flow"), "protocol.flow"),
    **dict.fromkeys(("NO_AUTHENTICATION", "USERNAME_PASSWORD"), "protocol.socks5"),
}
"""The modules of the names that are not errors."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'exceptions')}"), name)
    globals()[name] = value  # so that the next time costs nothing
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
