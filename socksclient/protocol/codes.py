"""The numbers of the protocols: commands, and the codes of replies."""

from __future__ import annotations

import errno
from abc import abstractmethod
from enum import IntEnum
from typing import Literal, TypeAlias

__all__ = ["Command", "HTTPReply", "Phase", "Reply", "ReplyCode", "Socks4Reply"]

Phase: TypeAlias = Literal[
    "resolve", "connect", "tls", "method selection", "authentication", "request", "relay"
]
"""How far a call has come at a hop."""


class Command(IntEnum):
    """CMD of a request: RFC 1928 §4, and the two commands that Tor adds ("SOCKS extensions")."""

    CONNECT = 0x01
    BIND = 0x02
    UDP_ASSOCIATE = 0x03
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1

    @property
    def text(self) -> str:
        """The command as RFC 1928 writes it, such as "UDP ASSOCIATE", or as Tor writes it."""
        return self.name if self >= Command.RESOLVE else self.name.replace("_", " ")


class ReplyCode(IntEnum):
    """A proxy's own code for its reply: the base of `Reply`, `Socks4Reply` and `HTTPReply`.

    The numbers of these three overlap, and equal numbers compare equal: look at the class too.

    A number that nobody has assigned is kept as it came: `Reply(0x5A)` is a `Reply` with the value
    0x5A and the name ``UNASSIGNED_5A``.

    Attributes:
        errno: The error number that fits best; None if none fits.
    """

    errno: int | None

    def __new__(cls, number: int, errno: int | None = None) -> ReplyCode:
        """Return the member for a number."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.errno = errno
        return code

    @classmethod
    def _missing_(cls, value: object) -> ReplyCode | None:
        if not isinstance(value, int) or value not in cls._numbers():
            return None
        code = int.__new__(cls, value)
        code._name_ = f"UNASSIGNED_{value:{cls._number_format()}}"
        code._value_ = value
        code.errno = None
        return code

    @classmethod
    def _numbers(cls) -> range:
        """Return the numbers that the field can hold."""
        return range(0x100)

    @classmethod
    def _number_format(cls) -> str:
        """Return the form in which people write the numbers of the field."""
        return "02X"

    @classmethod
    @abstractmethod
    def _field(cls) -> str:
        """Return the name of the field."""

    @property
    def meaning(self) -> str:
        """The code in words, such as "connection refused"."""
        return self.name.replace("_", " ").lower().replace("socks", "SOCKS").replace("ttl", "TTL")

    @property
    def text(self) -> str:
        """The code in words and as a number, such as "connection refused (REP 05)"."""
        return f"{self.meaning} ({self._field()} {int(self):{self._number_format()}})"


class Reply(ReplyCode):
    """The REP field of a SOCKS5 reply (RFC 1928 §6); Tor adds those from F0 on (proposal 304)."""

    SUCCEEDED = 0x00
    GENERAL_SOCKS_SERVER_FAILURE = 0x01
    CONNECTION_NOT_ALLOWED_BY_RULESET = 0x02, errno.EACCES
    NETWORK_UNREACHABLE = 0x03, errno.ENETUNREACH
    HOST_UNREACHABLE = 0x04, errno.EHOSTUNREACH
    CONNECTION_REFUSED = 0x05, errno.ECONNREFUSED
    TTL_EXPIRED = 0x06, errno.ETIMEDOUT
    COMMAND_NOT_SUPPORTED = 0x07, errno.EOPNOTSUPP
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08, errno.EAFNOSUPPORT
    ONION_SERVICE_DESCRIPTOR_NOT_FOUND = 0xF0, errno.EHOSTUNREACH
    ONION_SERVICE_DESCRIPTOR_INVALID = 0xF1, errno.EHOSTUNREACH
    ONION_SERVICE_INTRODUCTION_FAILED = 0xF2, errno.EHOSTUNREACH
    ONION_SERVICE_RENDEZVOUS_FAILED = 0xF3, errno.EHOSTUNREACH
    ONION_SERVICE_MISSING_CLIENT_AUTHORIZATION = 0xF4, errno.EACCES
    ONION_SERVICE_WRONG_CLIENT_AUTHORIZATION = 0xF5, errno.EACCES
    ONION_ADDRESS_INVALID = 0xF6, errno.EHOSTUNREACH
    ONION_SERVICE_INTRODUCTION_TIMED_OUT = 0xF7, errno.EHOSTUNREACH

    @classmethod
    def _field(cls) -> str:
        return "REP"


class Socks4Reply(ReplyCode):
    """The CD field of a SOCKS4 reply."""

    GRANTED = 0x5A
    REJECTED_OR_FAILED = 0x5B
    NO_IDENTD = 0x5C, errno.EACCES
    IDENTD_REPORTS_ANOTHER_USER = 0x5D, errno.EACCES

    @classmethod
    def _field(cls) -> str:
        return "SOCKS4 CD"


class HTTPReply(ReplyCode):
    """The status of an HTTP proxy's reply to CONNECT (RFC 9110 §15), if it is not a success.

    The statuses that proxies use have names here. Every other status from 100 to 999 is kept, such
    as ``UNASSIGNED_418``.
    """

    BAD_REQUEST = 400
    FORBIDDEN = 403, errno.EACCES
    NOT_FOUND = 404
    METHOD_NOT_ALLOWED = 405
    REQUEST_TIMEOUT = 408
    TOO_MANY_REQUESTS = 429
    INTERNAL_SERVER_ERROR = 500
    NOT_IMPLEMENTED = 501
    BAD_GATEWAY = 502
    SERVICE_UNAVAILABLE = 503
    GATEWAY_TIMEOUT = 504

    @classmethod
    def _numbers(cls) -> range:
        return range(100, 1000)

    @classmethod
    def _number_format(cls) -> str:
        return "d"

    @classmethod
    def _field(cls) -> str:
        return "HTTP"
