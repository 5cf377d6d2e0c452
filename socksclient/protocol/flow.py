"""The protocols as generators that do no I/O: SOCKS5 in the order of RFC 1928, and SOCKS4.

A flow yields `Exchange` after `Exchange` and returns its result; a driver does what each asks for
and sends the octets back in. Every read asks for no more than the protocol is owed, so what the
destination says first stays in the socket.

A flow knows no time, no sockets and no logging. Someone with another way to do I/O needs this
module and a driver of some fifteen lines.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from socksclient.protocol.address import Host, HostPort, decode_address, is_address, is_onion
from socksclient.protocol.codes import Command, Phase
from socksclient.protocol.exceptions import ProxyClosed
from socksclient.protocol.proxy import Proxy
from socksclient.protocol.socks5 import (
    NO_ACCEPTABLE_METHODS,
    SOCKS4_REPLY_SIZE,
    check_reply,
    check_socks4_reply,
    check_status,
    decode_method,
    decode_socks4_address,
    encode_credentials,
    encode_methods,
    encode_request,
    encode_socks4_request,
    list_of_codes,
    reply_size,
    socks4_carries,
)

__all__ = [
    "NO_AUTHENTICATION",
    "USERNAME_PASSWORD",
    "Exchange",
    "Flow",
    "Method",
    "check_request",
    "handshake",
    "negotiate_password",
    "next_reply",
    "reply",
    "request",
    "select_method",
    "socks4_reply",
]

T = TypeVar("T")


class Exchange(NamedTuple):
    """One step of a flow: write `send`, then bring `read` octets.

    Attributes:
        send: Octets to write, in one write; none if empty.
        read: How many octets to bring at most.
        enough: With how many the driver may come back; all of `read` if 0.
        before: What came of the same message with the exchanges before, for the error when no
            more comes.
        hint: What it may mean that nothing has come of it at all, for that error.
        belonging: A function that is given the octets that have arrived, and returns how many of
            them belong to the message. A driver that can look at octets without taking them
            (MSG_PEEK) may send all of these to the flow, even if they are more than `read`. Other
            drivers ignore the function.
        is_secret: Whether `send` holds credentials.
    """

    send: bytes
    read: int
    enough: int = 0
    before: bytes | bytearray = b""
    hint: str = ""
    belonging: Callable[[bytes], int] | None = None
    is_secret: bool = False

    def closed(self, received: bytes) -> ProxyClosed:
        """The error to raise when the peer hangs up after `received`."""
        got = bytes(self.before) + received
        return ProxyClosed.early(
            got, len(got) - len(received) + self.read, "" if got else self.hint
        )

    def __repr__(self) -> str:
        # Without the octets: they may be credentials, and tracebacks can show local variables.
        return f"<Exchange: send {len(self.send)} octets, read {self.read}>"


Flow = Generator[Exchange, bytes, T]
"""What a driver runs; T is the flow's result."""


@dataclass(frozen=True)
class Method:
    """A method of authentication (RFC 1928 §3): its code and its sub-negotiation.

    `Proxy(methods=…)` takes any number of them, a private one among them::

        def negotiate(proxy: Proxy) -> Flow[None]:
            answer = yield Exchange(b"token", 2)  # write that, and bring two octets
            if answer != b"ok":
                raise AuthenticationError("the proxy refused the token")

        Proxy("proxy.example", methods=(NO_AUTHENTICATION, Method(0x80, negotiate)))

    Attributes:
        code: 0x00 to 0xFE; 0x80 to 0xFE are private methods.
        negotiate: The flow to run when the proxy selects the method. It gets the `Proxy`, and
            raises `socksclient.AuthenticationError` if the proxy says no.

    Raises:
        ValueError: The code is out of that range.
    """

    code: int
    negotiate: Callable[[Proxy], Flow[None]]

    def __post_init__(self) -> None:
        if not 0x00 <= operator.index(self.code) < NO_ACCEPTABLE_METHODS:
            raise ValueError(f"method code {self.code!r} is not in the range from 0x00 to 0xFE")


def select_method(methods: Sequence[Method]) -> Flow[Method]:
    """Offers `methods`; returns the one that the proxy selects (RFC 1928 §3)."""
    codes = [method.code for method in methods]
    hint = ", as servers do that do not speak SOCKS5"
    if codes != [NO_AUTHENTICATION.code]:
        # OpenSSH and asyncssh accept "no authentication" (00) only, and otherwise hang up.
        hint += f", or that accept none of the methods offered ({list_of_codes(codes)})"
    selected = decode_method((yield Exchange(encode_methods(codes), 2, hint=hint)), codes)
    return methods[codes.index(selected)]


def negotiate_nothing(_proxy: Proxy) -> Flow[None]:
    """The sub-negotiation of "no authentication required": there is none."""
    yield from ()


def negotiate_password(proxy: Proxy) -> Flow[None]:
    """The username/password sub-negotiation (RFC 1929 §2)."""
    # In no variable: tracebacks can show these.
    octets = yield Exchange(
        encode_credentials(proxy.username or "", proxy.password or ""), 2, is_secret=True
    )
    check_status(octets, reserved=(proxy.username or "").startswith("<torS0X>"))


NO_AUTHENTICATION = Method(0x00, negotiate_nothing)
USERNAME_PASSWORD = Method(0x02, negotiate_password)


def request(command: Command, host: str, port: int) -> Flow[HostPort]:
    """Send a request, and return BND.ADDR and BND.PORT of its reply (RFC 1928 §4, §6)."""
    hint = f", as proxies do that do not offer {command.text}"
    if command == Command.CONNECT:
        hint = ", as OpenSSH does when it cannot connect"
    return (yield from reply(command, encode_request(command, Host.of(host), port), hint))


def reply(command: Command, send: bytes = b"", hint: str = "") -> Flow[HostPort]:
    """Brings one reply, after `send` if it answers that; returns BND.ADDR and BND.PORT.

    It takes whatever has come, so that nothing is lost if the driver gives up in between and
    goes on later.
    """
    octets = b""
    is_first = bool(send)
    size = 5  # a success has at least seven octets, and the first five tell how many come
    while len(octets) < size:
        octets += yield Exchange(send, size - len(octets), 1, octets, hint)
        send = b""
        # A failure may end after REP: heroku's server sends nothing more.
        if len(octets) >= 2:
            check_reply(octets, command, is_first=is_first)
        if len(octets) == 5:
            size = reply_size(octets)
    return decode_address(octets[3:])


def socks4_reply(step: Exchange | None = None) -> Flow[HostPort]:
    """Bring one reply of SOCKS4, as `reply` does for SOCKS5, and return DSTIP and DSTPORT.

    Args:
        step: The exchange that sends the request, if the reply answers one. It is an `Exchange`
            because a traceback can show variables, and the request may hold a token.
    """
    octets = b""
    step = step or Exchange(b"", SOCKS4_REPLY_SIZE, 1)
    while len(octets) < SOCKS4_REPLY_SIZE:
        octets += yield step
        if len(octets) >= 2:
            check_socks4_reply(octets)
        step = Exchange(b"", SOCKS4_REPLY_SIZE - len(octets), 1, octets)
    return decode_socks4_address(octets[2:])


def next_reply(proxy: Proxy, command: Command) -> Flow[HostPort]:
    """Brings a reply that answers no request of its own: the second one to BIND."""
    return socks4_reply() if proxy.scheme in ("socks4", "socks4a") else reply(command)


_COMMANDS_OF_SOCKS4 = (Command.CONNECT, Command.BIND)


def check_request(proxy: Proxy, command: Command, host: str) -> None:
    """Check that a proxy's protocol can carry a request.

    Args:
        proxy: The proxy that would get the request.
        command: The command of the request.
        host: DST.ADDR of the request, as `Host.parse` gave it. It may be a name that is still
            to be resolved here.

    Raises:
        ValueError: The proxy's protocol cannot carry the command or the host.
    """
    if "%" in host and is_address(host.partition("%")[0]):
        raise ValueError(f"host {host!r} has a zone id, which means nothing to a proxy")
    if is_onion(host) and not proxy.remote_dns:
        raise ValueError(f"{host} is known to Tor only, and {proxy.scheme} resolves names here")
    if proxy.tls and command == Command.UDP_ASSOCIATE:
        raise ValueError("UDP cannot use TLS: datagrams would go to the proxy in the clear")
    if command == Command.RESOLVE_PTR and not is_address(host):
        raise ValueError(f"{host!r} is no IP address")
    if proxy.scheme == "http" and command != Command.CONNECT:
        raise ValueError(f"an HTTP proxy cannot do {command.text}")
    if proxy.scheme not in ("socks4", "socks4a"):
        return
    if command in (Command.UDP_ASSOCIATE, Command.RESOLVE_PTR):
        raise ValueError(f"SOCKS4 cannot do {command.text}")
    if is_address(host) and not socks4_carries(Host.of(host)):
        kind = "IPv6 address" if ":" in host else "address"
        raise ValueError(f"SOCKS4 cannot carry the {kind} {host}")


def handshake(
    proxy: Proxy, command: Command, host: str, port: int, enter: Callable[[Phase], None]
) -> Flow[HostPort]:
    """All of it, from the greeting to the reply; returns the bound address.

    Args:
        proxy: Says which protocol it speaks, which methods to offer, and the credentials.
        command: What to ask for.
        host: DST.ADDR of the request, as `Host.parse` gave it.
        port: DST.PORT.
        enter: Called as each phase begins.

    Raises:
        ValueError: The proxy's protocol cannot carry the request. Nothing has been sent.
    """
    check_request(proxy, command, host)
    if proxy.scheme == "socks4" and command in _COMMANDS_OF_SOCKS4 and not is_address(host):
        raise ValueError(f"socks4 carries addresses only, and {host!r} is a name; use socks4a")
    if proxy.scheme == "http":
        from socksclient.protocol.http import http_connect

        enter("request")
        return (yield from http_connect(proxy, host, port))
    if proxy.scheme in ("socks4", "socks4a"):
        enter("request")
        # ss-local, mitmproxy and many others close the connection on a version that is not 05.
        hint = ", as servers do that speak SOCKS5 but not SOCKS4"
        if command == Command.CONNECT:
            hint += ", or that cannot connect"
        else:
            hint += f", or that do not offer {command.text}"
        return (
            yield from socks4_reply(
                Exchange(
                    encode_socks4_request(command, Host.of(host), port, proxy.username or ""),
                    SOCKS4_REPLY_SIZE,
                    1,
                    hint=hint,
                    is_secret=True,
                )
            )
        )
    enter("method selection")
    method = yield from select_method(_methods(proxy))
    if method is not NO_AUTHENTICATION:
        enter("authentication")
    yield from method.negotiate(proxy)
    enter("request")
    return (yield from request(command, host, port))


def _methods(proxy: Proxy) -> Sequence[Method]:
    if proxy.methods:
        return proxy.methods
    if proxy.username is None:
        return (NO_AUTHENTICATION,)
    return (NO_AUTHENTICATION, USERNAME_PASSWORD)
