"""The protocols as generators that do no I/O, under the name that this module has always had.

`socksclient.protocol` is the place to import these names from.
"""

from socksclient.protocol.address import is_onion
from socksclient.protocol.flow import (
    NO_AUTHENTICATION,
    USERNAME_PASSWORD,
    Exchange,
    Flow,
    Method,
    check_request,
    handshake,
    negotiate_password,
    next_reply,
    reply,
    request,
    select_method,
    socks4_reply,
)

__all__ = [
    "NO_AUTHENTICATION",
    "USERNAME_PASSWORD",
    "Exchange",
    "Flow",
    "Method",
    "check_request",
    "handshake",
    "is_onion",
    "negotiate_password",
    "next_reply",
    "reply",
    "request",
    "select_method",
    "socks4_reply",
]
