"""The client side of SOCKS: connections through SOCKS4, SOCKS5 and HTTP proxies.

This module has what blocking code needs. `create_connection`, `bind`, `udp_associate` and
`SocksSocket` work in the manner of `socket`; `resolve` and `resolve_ptr` ask Tor; `handshake` works
on a connection that is open already. A `Proxy` says where a proxy is and how to authenticate, and
all errors are `SocksError`. `SocksTransport` and `AsyncSocksTransport` are for httpx.

A file at the top of the package may be imported, and so may the packages without an underscore. A
folder with an underscore is how they are made, and may change in any release:

- `socksclient.anyio`: the same functions, awaited, on asyncio and trio.
- `socksclient.httpx`, `socksclient.httpx2`: transports for httpx and for httpx2.
- `socksclient.requests`: an adapter and a session for requests.
- `socksclient.urllib`: a handler for `urllib.request`.
- `socksclient.redis`: connections for redis-py.
- `socksclient.dnspython`: DNS queries with dnspython.
- `socksclient.ftp`: `ftplib` through a proxy.
- `socksclient.protocol`: the protocols by themselves, for programs that bring their own I/O.
- `socksclient.testing`: a proxy for tests, with the fixture `socks_proxy` for pytest.
- `socksclient.exceptions`: all errors, and the codes of replies.

The names below are loaded when they are first used, so that `import socksclient` alone loads no
httpx, httpcore, anyio, ssl or asyncio.
"""

from __future__ import annotations

from socksclient.protocol.lazy import load_on_use

# Type checkers treat this name as True. To import the name from typing would take longer than all
# other code of this module.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from socksclient._sync.connect import create_connection as create_connection
    from socksclient._sync.handshake import handshake as handshake
    from socksclient._sync.listener import Listener as Listener, bind as bind
    from socksclient._sync.socks_socket import SocksSocket as SocksSocket
    from socksclient._sync.tor import resolve as resolve, resolve_ptr as resolve_ptr
    from socksclient._sync.udp import (
        UDPAssociation as UDPAssociation,
        udp_associate as udp_associate,
    )
    from socksclient.httpx import (
        AsyncSocksTransport as AsyncSocksTransport,
        SocksTransport as SocksTransport,
    )
    from socksclient.protocol.codes import (
        HTTPReply as HTTPReply,
        Reply as Reply,
        Socks4Reply as Socks4Reply,
    )
    from socksclient.protocol.exceptions import (
        AssociationClosed as AssociationClosed,
        AuthenticationError as AuthenticationError,
        ConnectionNotAllowed as ConnectionNotAllowed,
        ConnectionRefused as ConnectionRefused,
        ProtocolError as ProtocolError,
        ProxyClosed as ProxyClosed,
        ProxyConnectError as ProxyConnectError,
        ProxyTimeout as ProxyTimeout,
        ReplyError as ReplyError,
        ResolveError as ResolveError,
        SocksError as SocksError,
        TTLExpired as TTLExpired,
    )
    from socksclient.protocol.flow import Exchange as Exchange, Flow as Flow
    from socksclient.protocol.proxy import Method as Method, Proxy as Proxy, ProxyLike as ProxyLike
    from socksclient.protocol.socks5 import (
        NO_AUTHENTICATION as NO_AUTHENTICATION,
        USERNAME_PASSWORD as USERNAME_PASSWORD,
    )

_NAMES = {
    "socksclient._sync.connect": ("create_connection",),
    "socksclient._sync.listener": (
        "Listener",
        "bind",
    ),
    "socksclient._sync.socks_socket": ("SocksSocket",),
    "socksclient._sync.tor": (
        "resolve",
        "resolve_ptr",
    ),
    "socksclient._sync.handshake": ("handshake",),
    "socksclient._sync.udp": (
        "UDPAssociation",
        "udp_associate",
    ),
    "socksclient.httpx": (
        "AsyncSocksTransport",
        "SocksTransport",
    ),
    "socksclient.protocol.codes": (
        "HTTPReply",
        "Reply",
        "Socks4Reply",
    ),
    "socksclient.protocol.exceptions": (
        "AssociationClosed",
        "AuthenticationError",
        "ConnectionNotAllowed",
        "ConnectionRefused",
        "ProtocolError",
        "ProxyClosed",
        "ProxyConnectError",
        "ProxyTimeout",
        "ReplyError",
        "ResolveError",
        "SocksError",
        "TTLExpired",
    ),
    "socksclient.protocol.flow": (
        "Exchange",
        "Flow",
    ),
    "socksclient.protocol.proxy": (
        "Method",
        "Proxy",
        "ProxyLike",
    ),
    "socksclient.protocol.socks5": (
        "NO_AUTHENTICATION",
        "USERNAME_PASSWORD",
    ),
}
"""The names of this package, by the module that each is loaded from when it is first used."""

__all__ = [name for names in _NAMES.values() for name in names]

__getattr__, __dir__ = load_on_use(__name__, _NAMES)
