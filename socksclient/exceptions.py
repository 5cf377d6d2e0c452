"""What can go wrong, as data.

    SocksError (OSError)
    ├── ProxyConnectError (ConnectionError)        the proxy itself cannot be reached
    ├── ProxyTimeout (TimeoutError)                the deadline passed
    ├── ResolveError                               a destination resolved here has no address
    ├── ProtocolError                              the peer does not speak SOCKS as it should
    │   └── ProxyClosed (ConnectionResetError)     it hung up before it had answered
    ├── AuthenticationError (PermissionError)      no acceptable method, or credentials refused
    ├── ReplyError                                 the proxy refused the request, and says why
    │   ├── ConnectionNotAllowed (PermissionError)          REP 02
    │   ├── ConnectionRefused (ConnectionRefusedError)      REP 05
    │   └── TTLExpired (TimeoutError)                       REP 06
    └── AssociationClosed (ConnectionResetError)   the proxy ended a UDP association

A caller's own mistake (a name of 256 octets, port 70000) is a `ValueError`, raised before any
octet is sent, and none of these.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from socksclient.proxy import Proxy

__all__ = [
    "AssociationClosed",
    "AuthenticationError",
    "ConnectionNotAllowed",
    "ConnectionRefused",
    "Phase",
    "ProtocolError",
    "ProxyClosed",
    "ProxyConnectError",
    "ProxyTimeout",
    "Reply",
    "ReplyError",
    "ResolveError",
    "SocksError",
    "TTLExpired",
]

Phase = Literal[
    "resolve", "connect", "tls", "method selection", "authentication", "request", "relay"
]
"""How far an attempt had come when it failed."""


class Reply(IntEnum):
    """The REP field of a SOCKS5 reply (RFC 1928 §6).

    A number that nobody has assigned is kept as it came: `Reply(0x5A)` is a `Reply` with the
    value 0x5A and the name ``UNASSIGNED_5A``.
    """

    SUCCEEDED = 0x00
    GENERAL_SOCKS_SERVER_FAILURE = 0x01
    CONNECTION_NOT_ALLOWED_BY_RULESET = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08

    @classmethod
    def _missing_(cls, value: object) -> Reply | None:
        if not isinstance(value, int) or not 0 <= value <= 0xFF:
            return None
        reply = int.__new__(cls, value)
        reply._name_ = f"UNASSIGNED_{value:02X}"
        reply._value_ = value
        return reply

    @property
    def meaning(self) -> str:
        """The reply in words, such as "connection refused"."""
        return self.name.replace("_", " ").lower().replace("socks", "SOCKS").replace("ttl", "TTL")


_ERRNO = {
    Reply.CONNECTION_NOT_ALLOWED_BY_RULESET: errno.EACCES,
    Reply.NETWORK_UNREACHABLE: errno.ENETUNREACH,
    Reply.HOST_UNREACHABLE: errno.EHOSTUNREACH,
    Reply.CONNECTION_REFUSED: errno.ECONNREFUSED,
    Reply.TTL_EXPIRED: errno.ETIMEDOUT,
    Reply.COMMAND_NOT_SUPPORTED: errno.EOPNOTSUPP,
    Reply.ADDRESS_TYPE_NOT_SUPPORTED: errno.EAFNOSUPPORT,
}


class SocksError(OSError):
    """Something went wrong on the way through a proxy: the base of all the others.

    Its text names hosts and ports, never a password.

    Attributes:
        proxy: The hop that the error speaks of, or None where no proxy was involved yet.
        hop: Its position among the hops; 0 is the nearest.
        destination: The (host, port) that was asked for, as the caller gave it; None where there
            is none, as for a UDP association.
        phase: How far the attempt had come: "resolve", "connect", "tls", "method selection",
            "authentication", "request" or "relay".
        errno: The error number that fits best, or None.
        strerror: What went wrong, without the place.
    """

    proxy: Proxy | None = None
    hop: int = 0
    destination: tuple[str, int] | None = None
    phase: Phase | None = None
    __notes__: list[str]

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(errno, message)
        self.args = (message, errno)  # what pickle and copy call the class with

    def __str__(self) -> str:
        if self.proxy is None:
            return str(self.strerror)
        place = f"phase: {self.phase}, proxy: {host_port(self.proxy.host, self.proxy.port)}"
        if self.destination is not None:
            place += f", destination: {host_port(*self.destination)}"
        return f"{self.strerror} ({place})"


class ProxyConnectError(SocksError, ConnectionError):
    """The proxy itself cannot be reached: its name, or the TCP connection to it.

    Its `errno` is that of the cause; in the phase "resolve" that is a `socket.gaierror`.
    """


class ProxyTimeout(SocksError, TimeoutError):
    """The deadline passed; `phase` says in what."""

    def __init__(self, message: str = "timed out", errno: int | None = errno.ETIMEDOUT) -> None:
        super().__init__(message, errno)


class ResolveError(SocksError):
    """The destination's name, which this side resolves (``socks5://``), has no address.

    Its `errno` is that of the `socket.gaierror` that is its cause.
    """

    @classmethod
    def of(cls, host: str, error: OSError) -> ResolveError:
        """What `error` of the resolver means."""
        return cls(f"cannot resolve {host}: {error.strerror}", error.errno)


class ProtocolError(SocksError):
    """The peer does not speak SOCKS as it should.

    Attributes:
        received: The octets that it sent in place of a good message.
    """

    def __init__(self, message: str, received: bytes = b"") -> None:
        super().__init__(message)
        self.received = received
        self.args = (message, received)


class ProxyClosed(ProtocolError, ConnectionResetError):
    """The connection to the proxy ended before it had answered; most often, it hung up."""

    def __init__(self, message: str, received: bytes = b"") -> None:
        super().__init__(message, received)
        self.errno = errno.ECONNRESET

    @classmethod
    def early(cls, received: bytes, wanted: int, hint: str = "") -> ProxyClosed:
        """Its message of `wanted` octets ended after those `received`."""
        got = f"got {len(received)} of {wanted} octets"
        return cls(f"the proxy hung up before it had answered: {got}{hint}", received)

    @classmethod
    def broken(cls, error: OSError, received: bytes) -> ProxyClosed:
        """The connection to it ended otherwise than by its own doing, after those `received`."""
        closed = cls(f"the connection to the proxy broke: {error.strerror or error}", received)
        closed.errno = error.errno
        return closed


class AuthenticationError(SocksError, PermissionError):
    """No method was acceptable to the proxy, or it refused the credentials."""

    def __init__(self, message: str, errno: int | None = errno.EACCES) -> None:
        super().__init__(message, errno)


class ReplyError(SocksError):
    """The proxy refused the request.

    Attributes:
        reply: The proxy's own code.
    """

    def __init__(self, reply: Reply, command: str = "") -> None:
        reply = Reply(reply)
        what = "the proxy refused the request"
        if command and reply == Reply.COMMAND_NOT_SUPPORTED:
            what = f"this proxy does not offer {command}"
        super().__init__(f"{what}: {reply.meaning} (REP {reply:02X})", _ERRNO.get(reply))
        self.reply = reply
        self.args = (reply, command)


class ConnectionNotAllowed(ReplyError, PermissionError):
    """REP 02: the connection is not allowed by the proxy's ruleset."""


class ConnectionRefused(ReplyError, ConnectionRefusedError):
    """REP 05: the destination refused the connection."""


class TTLExpired(ReplyError, TimeoutError):
    """REP 06: the proxy gave up on the destination, its TTL expired."""


_REPLY_ERRORS: dict[Reply, type[ReplyError]] = {
    Reply.CONNECTION_NOT_ALLOWED_BY_RULESET: ConnectionNotAllowed,
    Reply.CONNECTION_REFUSED: ConnectionRefused,
    Reply.TTL_EXPIRED: TTLExpired,
}


def reply_error(reply: Reply, command: str = "") -> ReplyError:
    """The error of the class that fits `reply`; `command` is what was asked for, if known."""
    return _REPLY_ERRORS.get(reply, ReplyError)(reply, command)


class AssociationClosed(SocksError, ConnectionResetError):
    """The proxy ended a UDP association: the connection that it lives by (RFC 1928 §7).

    A receive that waits is woken by it, and every later send and receive raises it too.
    """

    def __init__(
        self,
        message: str = "the proxy ended the UDP association",
        errno: int | None = errno.ECONNRESET,
    ) -> None:
        super().__init__(message, errno)


def host_port(host: str, port: int) -> str:
    """A host and port as people write them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
