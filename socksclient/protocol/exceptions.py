"""What can go wrong, as data.

    SocksError (OSError)
    ├── ProxyConnectError (ConnectionError)        the proxy itself cannot be reached, or its TLS
    ├── ProxyTimeout (TimeoutError)                the deadline passed
    ├── ResolveError                               a destination resolved here has no address
    ├── ProtocolError                              the peer does not speak SOCKS as it should
    │   └── ProxyClosed (ConnectionResetError)     it hung up before it had answered
    ├── AuthenticationError (PermissionError)      no acceptable method, or credentials refused
    ├── ReplyError                                 the proxy refused the request, and says why
    │   ├── ConnectionNotAllowed (PermissionError)          REP 02, HTTP 403, and their like
    │   ├── ConnectionRefused (ConnectionRefusedError)      REP 05
    │   └── TTLExpired (TimeoutError)                       REP 06
    └── AssociationClosed (ConnectionResetError)   the proxy ended a UDP association

A caller's own mistake (a name of 256 octets, port 70000) is a `ValueError`, raised before any
octet is sent, and none of these.
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
    """Something went wrong on the way through a proxy: the base of all the others.

    Its text names hosts and ports, never a password.

    Attributes:
        proxy: The hop that the error speaks of, or None where no proxy was involved yet.
        hop: Its position in the chain; 0 is the nearest.
        next_hop: The (host, port) of the hop after it, to which it was to connect; None if that was
            the last.
        destination: The (host, port) that was asked for, as the caller gave it; None where there
            is none, as for a UDP association.
        addresses_tried: How many addresses of its target this hop was asked for, if this process
            resolved the target's name to more than one; otherwise 0.
        addresses_left: The other addresses of that name, which this hop was not asked for.
        phase: How far the attempt had come: "resolve", "connect", "tls", "method selection",
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
        self._arguments: tuple[object, ...] = (message, errno)

    def __reduce__(self) -> tuple[object, ...]:
        # A pickle needs the arguments of the class; the `args` of an OSError are errno, strerror.
        # It needs the text too, because socksclient.ftp adds to that.
        state = {**self.__dict__, "strerror": self.strerror}
        if self.proxy is not None and self.proxy.tls not in (None, True):
            state["proxy"] = replace(self.proxy, tls=True)  # a context cannot be pickled
        return type(self), self._arguments, state

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


class ProxyConnectError(SocksError, ConnectionError):
    """The proxy itself cannot be reached: its name, the connection to it, or its TLS.

    Its `errno` is that of the cause; in the phase "resolve" that is a `socket.gaierror`. In the
    phase "tls" the cause is an `ssl.SSLError` mostly, and there is no `errno`.
    """


class ProxyTimeout(SocksError, TimeoutError):
    """The deadline passed; `phase` says in what."""

    def __init__(self, message: str = "timed out", errno: int | None = errno.ETIMEDOUT) -> None:
        super().__init__(message, errno)


class ResolveError(SocksError):
    """The destination's name, which this side resolves (``socks5://``), has no address.

    Its `errno` is that of its cause, which is usually a `socket.gaierror`.
    """

    @classmethod
    def of(cls, host: str, error: OSError) -> ResolveError:
        """Return the error that says why the resolver has no address of `host`."""
        return cls(f"cannot resolve {host}: {error.strerror or error}", error.errno)


class ProtocolError(SocksError):
    """The peer does not speak SOCKS as it should.

    Attributes:
        received: The octets that it sent in place of a good message.
    """

    def __init__(self, message: str, received: bytes = b"") -> None:
        super().__init__(message)
        self.received = received
        self._arguments = (message, received)


class ProxyClosed(ProtocolError, ConnectionResetError):
    """The connection to the proxy ended before it had answered; most often, it hung up."""

    def __init__(
        self, message: str, received: bytes = b"", errno: int | None = errno.ECONNRESET
    ) -> None:
        super().__init__(message, received)
        self.errno = errno
        self._arguments = (message, received, errno)

    @classmethod
    def within(
        cls, ended: ConnectionEnded, left: int, before: bytes = b"", hint: str = ""
    ) -> ProxyClosed:
        """Return the error for a connection that ended amid a message.

        Args:
            ended: What the driver has thrown into the flow.
            left: How many octets of the message the flow was waiting for.
            before: The octets of the message that had come before.
            hint: The end of the text if no octet has come at all: what that may mean.
        """
        received = before + ended.received
        if ended.broken_by is not None:
            return cls.broken(ended.broken_by, received)
        got = f"got {len(received)} of {len(before) + left} octets{'' if received else hint}"
        return cls(f"the proxy hung up before it had answered: {got}", received)

    @classmethod
    def within_method(cls, ended: ConnectionEnded, code: int) -> ProxyClosed:
        """Return the error for a connection that ended amid the sub-negotiation of a method."""
        received = ended.received
        if ended.broken_by is not None:
            return cls.broken(ended.broken_by, received)
        got = f"got {len(received)} octets in the sub-negotiation of method {code:02X}"
        return cls(f"the proxy hung up before it had answered: {got}", received)

    @classmethod
    def broken(cls, error: OSError, received: bytes = b"") -> ProxyClosed:
        """Return the error for a connection that an OSError has ended after some octets."""
        message = f"the connection to the proxy broke: {error.strerror or error}"
        # The errno of an SSLError is a number of OpenSSL's.
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
        self._arguments = (message, errno, schemes)


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
        self._arguments = (reply, command, reason, fields, hint)


class ConnectionNotAllowed(ReplyError, PermissionError):
    """The connection is not allowed: REP 02, F4 and F5, SOCKS4 CD 5C and 5D, HTTP 403."""


class ConnectionRefused(ReplyError, ConnectionRefusedError):
    """REP 05: the destination refused the connection."""


class TTLExpired(ReplyError, TimeoutError):
    """REP 06: the proxy gave up on the destination, its TTL expired."""


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
    """The proxy ended a UDP association: the connection that it lives by (RFC 1928 §7).

    A receive that waits is woken by it, and every later send and receive raises it too.
    """

    def __init__(
        self,
        message: str = "the proxy ended the UDP association",
        errno: int | None = errno.ECONNRESET,
    ) -> None:
        super().__init__(message, errno)


def not_what_speaks(octets: bytes, expected: str, wanted: str) -> str:
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
    return f"this is not {expected}: it answered with {octets[:2].hex(' ')}, {wanted} is wanted"
