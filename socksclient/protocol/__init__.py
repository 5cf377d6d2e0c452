"""The protocols by themselves: bring your own I/O.

Nothing here opens a socket, reads a clock or writes a log. `start` returns a flow: a generator that
yields an `Exchange` for each message, and returns the bound address in the end. Whatever can write
and read octets can drive a flow. This is a whole driver for a blocking socket::

    def drive(flow: Flow[HostPort], sock: socket.socket) -> HostPort:
        try:
            step = next(flow)
            while True:
                octets = b""
                try:
                    sock.sendall(step.send)
                    while len(octets) < (step.enough or step.read):
                        received = sock.recv(step.read - len(octets))
                        if not received:
                            raise ConnectionResetError
                        octets += received
                except ConnectionError as error:
                    step = flow.throw(ConnectionEnded(octets, error))
                else:
                    step = flow.send(octets)
        except StopIteration as stop:
            return stop.value

    with socket.create_connection(("127.0.0.1", 1080)) as sock:
        drive(start("socks5h://127.0.0.1:1080", "example.com", 443), sock)

The names below are loaded when they are first used.
"""

from __future__ import annotations

from socksclient.protocol.lazy import load_on_use

# Type checkers know the name. Importing it from typing would cost more than all else here.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from socksclient.protocol.address import Host as Host, HostPort as HostPort
    from socksclient.protocol.codes import (
        Command as Command,
        HTTPReply as HTTPReply,
        Phase as Phase,
        Reply as Reply,
        ReplyCode as ReplyCode,
        Socks4Reply as Socks4Reply,
    )
    from socksclient.protocol.exceptions import (
        AuthenticationError as AuthenticationError,
        ConnectionNotAllowed as ConnectionNotAllowed,
        ConnectionRefused as ConnectionRefused,
        ProtocolError as ProtocolError,
        ProxyClosed as ProxyClosed,
        ReplyError as ReplyError,
        SocksError as SocksError,
        TTLExpired as TTLExpired,
    )
    from socksclient.protocol.flow import (
        ConnectionEnded as ConnectionEnded,
        Exchange as Exchange,
        Flow as Flow,
        Protection as Protection,
    )
    from socksclient.protocol.handshake import start as start
    from socksclient.protocol.proxy import Method as Method, Proxy as Proxy, ProxyLike as ProxyLike
    from socksclient.protocol.socks5 import (
        NO_AUTHENTICATION as NO_AUTHENTICATION,
        USERNAME_PASSWORD as USERNAME_PASSWORD,
    )

_NAMES = {
    "socksclient.protocol.address": (
        "Host",
        "HostPort",
    ),
    "socksclient.protocol.codes": (
        "Command",
        "HTTPReply",
        "Phase",
        "Reply",
        "ReplyCode",
        "Socks4Reply",
    ),
    "socksclient.protocol.exceptions": (
        "AuthenticationError",
        "ConnectionNotAllowed",
        "ConnectionRefused",
        "ProtocolError",
        "ProxyClosed",
        "ReplyError",
        "SocksError",
        "TTLExpired",
    ),
    "socksclient.protocol.flow": (
        "ConnectionEnded",
        "Exchange",
        "Flow",
        "Protection",
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
    "socksclient.protocol.handshake": ("start",),
}
"""The names of this package, by the module that each is loaded from when it is first used."""

__all__ = [name for names in _NAMES.values() for name in names]

__getattr__, __dir__ = load_on_use(__name__, _NAMES)
