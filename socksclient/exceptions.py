"""All errors that the library raises, with the codes of a proxy's replies.

The tree of the errors stands in `socksclient.protocol.exceptions`.
"""

from socksclient.protocol.codes import HTTPReply, Phase, Reply, ReplyCode, Socks4Reply
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
