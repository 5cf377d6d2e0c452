"""All errors that the library raises, with the codes of a proxy's replies.

The tree of the errors stands in `socksclient.protocol.exceptions`.
"""

from socksclient.protocol.exceptions import (
    AssociationClosed,
    AuthenticationError,
    ConnectionNotAllowed,
    ConnectionRefused,
    HTTPReply,
    Phase,
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    ReplyCode,
    ReplyError,
    ResolveError,
    Socks4Reply,
    SocksError,
    TTLExpired,
)

__all__ = [
    "AssociationClosed",
    "AuthenticationError",
    "ConnectionNotAllowed",
    "ConnectionRefused",
    "HTTPReply",
    "Phase",
    "ProtocolError",
    "ProxyClosed",
    "ProxyConnectError",
    "ProxyTimeout",
    "Reply",
    "ReplyCode",
    "ReplyError",
    "ResolveError",
    "Socks4Reply",
    "SocksError",
    "TTLExpired",
]
