"""The errors: what can go wrong on the way through a proxy, as data.

    SocksError (OSError)
    ├── ProxyConnectError (ConnectionError)        the proxy itself cannot be reached, or its TLS
    ├── ProxyTimeout (TimeoutError)                the deadline passed
    ├── ResolveError                               this process finds no address of a name
    ├── ProtocolError                              the proxy sent what its protocol does not allow
    │   └── ProxyClosed (ConnectionResetError)     the proxy hung up before the end of its message
    ├── AuthenticationError (PermissionError)      no acceptable method, or credentials refused
    ├── ReplyError                                 the proxy refused the request, and says why
    │   ├── ConnectionNotAllowed (PermissionError)          REP 02, HTTP 403, and their like
    │   ├── ConnectionRefused (ConnectionRefusedError)      REP 05
    │   └── TTLExpired (TimeoutError)                       REP 06
    └── AssociationClosed (ConnectionResetError)   the proxy ended a UDP association

If the caller makes a mistake, such as a name of 256 octets or the port 70000, the library raises a
`ValueError` before it sends any octet, and none of these errors.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from socksclient.protocol.address import HostPort, host_port
from socksclient.protocol.codes import Phase, Reply, ReplyCode
from socksclient.protocol.flow import ConnectionEnded
from socksclient.protocol.proxy import Proxy

__all__ = [
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
]


class SocksError(OSError):
    """The base of all other errors here: something went wrong on the way through a proxy.

    The text names hosts and ports, and never a password. A pickle or a copy of an error has all of
    its attributes and notes. If its proxy has an `ssl.SSLContext`, which cannot be pickled, there
    is True in the place of the context.

    Attributes:
        proxy: The hop at which the error happened; None before this process has turned to a hop.
        hop: The position of that hop in the chain; 0 is the nearest.
        next_hop: The (host, port) of the hop after it, to which it was to connect; None for the
            last hop.
        destination: The (host, port) that the caller wanted to reach, as the caller gave it; None
            for a UDP association, which has no one destination.
        addresses_tried: How many addresses of its target this hop was asked for, if this process
            resolved the target's name to more than one; otherwise 0.
        addresses_left: The other addresses of that name, which this hop was not asked for.
        phase: How far the call had come: "resolve", "connect", "tls", "method selection",
            "authentication", "request" or "relay".
        errno: The error number that fits best, or None.
        strerror: What went wrong, without the place.
    """

    proxy: Proxy | None = None
    hop: int = 0
    next_hop: HostPort | None = None
    destination: HostPort | None = None
    addresses_tried: int = 0
    addresses_left: tuple[str, ...] = ()
    phase: Phase | None = None
    __notes__: list[str]

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(errno, message)

    def __reduce__(self) -> tuple[object, ...]:
        # A pickle of an OSError has `args`, which is (errno, strerror). Subclasses, those of users
        # among them, have other arguments, so their __init__ is not called again.
        state = self.__dict__.copy()
        if self.proxy is not None and self.proxy.tls not in (None, True):
            state["proxy"] = replace(self.proxy, tls=True)
        return _rebuild, (type(self), self.errno, self.strerror), state

    def __str__(self) -> str:
        if self.proxy is None:
            return str(self.strerror)
        place = f"phase: {self.phase}"
        if self.hop or self.next_hop:
            place += f", hop: {self.hop}"
        place += f", proxy: {self.proxy.place}"
        if self.next_hop is not None:
            place += f", next hop: {host_port(*self.next_hop)}"
        if self.destination is not None:
            place += f", destination: {host_port(*self.destination)}"
        if self.addresses_tried:
            place += f", addresses tried: {self.addresses_tried}"
        if self.addresses_left:
            place += f", addresses left: {', '.join(self.addresses_left)}"
        return f"{self.strerror} ({place})"


def _rebuild(kind: type[SocksError], errno: int | None, strerror: str) -> SocksError:
    """Return an error without the attributes that its class adds; unpickling sets those."""
    error = OSError.__new__(kind)
    OSError.__init__(error, errno, strerror)
    return error


class ProxyConnectError(SocksError, ConnectionError):
    """The proxy itself cannot be reached: its name, the connection to it, or its TLS.

    The `errno` is that of the cause. In the phase "resolve" the cause is a `socket.gaierror`. In
    the phase "tls" the cause is an `ssl.SSLError` in most cases, and there is no `errno`.
    """


class ProxyTimeout(SocksError, TimeoutError):
    """The deadline passed; `phase` says how far the call had come."""

    def __init__(self, message: str = "timed out", errno: int | None = errno.ETIMEDOUT) -> None:
        super().__init__(message, errno)


class ResolveError(SocksError):
    """The destination's name, which this process resolves (``socks5://``), has no address.

    The `errno` is that of the cause, which is a `socket.gaierror` in most cases.
    """

    @classmethod
    def of(cls, host: str, error: OSError) -> ResolveError:
        """Return the error that says why the resolver has no address of `host`."""
        return cls(f"cannot resolve {host}: {error.strerror or error}", error.errno)


class ProtocolError(SocksError):
    """The proxy sent what its protocol does not allow, or ended the connection too early.

    Attributes:
        received: The octets that the proxy sent in the place of a good message.
    """

    def __init__(
        self, message: str, received: bytes | bytearray = b"", errno: int | None = None
    ) -> None:
        super().__init__(message, errno)
        self.received = bytes(received)


class ProxyClosed(ProtocolError, ConnectionResetError):
    """The proxy closed or reset the connection, or the connection broke, amid a message."""

    def __init__(
        self, message: str, received: bytes = b"", errno: int | None = errno.ECONNRESET
    ) -> None:
        super().__init__(message, received, errno)

    @classmethod
    def within(
        cls, ended: ConnectionEnded, left: int, before: bytes = b"", hint: str = ""
    ) -> ProxyClosed:
        """Return the error for a connection that ended amid a message.

        Args:
            ended: The error that the driver has thrown into the flow.
            left: How many octets of the message the flow was waiting for.
            before: The octets of the message that had come before.
            hint: The end of the text if no octet has come at all: what that may mean.
        """
        received = before + ended.received
        if ended.broken_by is not None:
            return cls.broken(ended.broken_by, received)
        got = f"got {len(received)} of {len(before) + left} octets{'' if received else hint}"
        return cls(f"the proxy hung up before the end of its message: {got}", received)

    @classmethod
    def within_method(cls, ended: ConnectionEnded, code: int) -> ProxyClosed:
        """Return the error for a connection that ended amid the sub-negotiation of a method."""
        received = ended.received
        if ended.broken_by is not None:
            return cls.broken(ended.broken_by, received)
        got = f"got {len(received)} octets in the sub-negotiation of method {code:02X}"
        return cls(f"the proxy hung up before the end of its message: {got}", received)

    @classmethod
    def broken(cls, error: OSError, received: bytes = b"") -> ProxyClosed:
        """Return the error for a connection that an OSError has ended after some octets."""
        message = f"the connection to the proxy broke: {error.strerror or error}"
        # The errno of an `ssl.SSLError` is an error number of OpenSSL, and not one of the system.
        if hasattr(error, "library"):
            return cls(message, received)
        return cls(message, received, error.errno)


class AuthenticationError(SocksError, PermissionError):
    """The proxy accepts no method that was offered, or it refused the credentials.

    Attributes:
        schemes: The authentication schemes that an HTTP proxy offered with its refusal, such as
            "Basic" and "Digest" (RFC 9110 §11.3). This library speaks Basic.
    """

    def __init__(
        self,
        message: str,
        errno: int | None = errno.EACCES,
        schemes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, errno)
        self.schemes = schemes


class ReplyError(SocksError):
    """The proxy refused the request.

    Attributes:
        reply: The proxy's own code: `Reply` (SOCKS5), `Socks4Reply` or `HTTPReply`.
        reason: The reason phrase of an HTTP proxy, such as "Unable to connect"; otherwise empty.
        fields: The header fields of an HTTP proxy's answer as (name, value) pairs. Some proxies
            say the cause in a field of their own: `X-Squid-Error`, `Tor-Request-Failed`,
            `Proxy-Status` (RFC 9209).

    `reason` and `fields` are the proxy's words. All but printable ASCII is escaped in them, and
    each text is cut after 256 characters.
    """

    def __init__(
        self,
        reply: ReplyCode,
        command: str = "",
        reason: str = "",
        fields: tuple[tuple[str, str], ...] = (),
        hint: str = "",
    ) -> None:
        what = "the proxy refused the request"
        if command and reply is Reply.COMMAND_NOT_SUPPORTED:
            what = f"this proxy does not offer {command}"
        text = f"{what}: {reply.text}"
        if reason.lower() not in ("", reply.meaning):
            text += f", and says: {reason}"
        super().__init__(text + hint, reply.errno)
        self.reply = reply
        self.reason = reason
        self.fields = fields


class ConnectionNotAllowed(ReplyError, PermissionError):
    """The connection is not allowed: REP 02, F4 and F5, SOCKS4 CD 5C and 5D, HTTP 403."""


class ConnectionRefused(ReplyError, ConnectionRefusedError):
    """REP 05: the destination refused the connection."""


class TTLExpired(ReplyError, TimeoutError):
    """REP 06: the TTL of a packet to the destination expired."""


_REPLY_ERRORS: dict[int | None, type[ReplyError]] = {
    errno.EACCES: ConnectionNotAllowed,
    errno.ECONNREFUSED: ConnectionRefused,
    errno.ETIMEDOUT: TTLExpired,
}


def reply_error(
    reply: ReplyCode,
    command: str = "",
    reason: str = "",
    fields: tuple[tuple[str, str], ...] = (),
    hint: str = "",
) -> ReplyError:
    """Return an error of the class that fits `reply`.

    Args:
        reply: The proxy's code.
        command: The command of the request, if it is known.
        reason: The reason phrase of an HTTP proxy.
        fields: The header fields of an HTTP proxy's answer.
        hint: The end of the error text, which says what the reply may mean.
    """
    return _REPLY_ERRORS.get(reply.errno, ReplyError)(reply, command, reason, fields, hint)


class AssociationClosed(SocksError, ConnectionResetError):
    """The proxy ended a UDP association, by ending its control connection (RFC 1928 §7).

    A receive that is waiting raises this at once, and so does every later send and receive.
    """

    def __init__(
        self,
        message: str = "the proxy ended the UDP association",
        errno: int | None = errno.ECONNRESET,
    ) -> None:
        super().__init__(message, errno)


def not_what_speaks(octets: bytes | bytearray, expected: str, wanted: str) -> str:
    """Return the text that says what speaks instead of the proxy that was expected.

    Args:
        octets: The first octets of the first message, two at least.
        expected: The proxy that was expected, such as "a SOCKS5 proxy".
        wanted: What the message should begin with.
    """
    if octets[:2] == b"HT" and b"HTTP/".startswith(octets[:5]):
        return f"this is an HTTP proxy or server, not {expected}: it answered in HTTP"
    if octets[:1] == b"\0" and octets[1:2] in (b"\x5a", b"\x5b", b"\x5c", b"\x5d"):
        return f"this is a SOCKS4 server, not {expected}: it answered in SOCKS4"
    if octets[0] == 0x05:
        return f"this is a SOCKS5 server, not {expected}: it answered in SOCKS5"
    if octets[:2] == b"\x15\x03":
        kind = expected.partition(" ")[2]
        return f"this is a TLS server, not a plain {kind}: it answered with a TLS alert"
    return f"this is not {expected}: it answered with {octets[:2].hex(' ')} instead of {wanted}"
