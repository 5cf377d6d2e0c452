"""SOCKS4 and SOCKS4A: their messages, their flow, and the kinds of hops.

SOCKS4 has a form for IPv4 addresses only. SOCKS4A has one for names too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from socksclient.protocol.address import Host, HostPort
from socksclient.protocol.codes import Command, Phase, Socks4Reply
from socksclient.protocol.exceptions import (
    ProtocolError,
    ProxyClosed,
    not_what_speaks,
    reply_error,
)
from socksclient.protocol.fields import encode_credential
from socksclient.protocol.flow import ConnectionEnded, Exchange, Flow, HiddenOctets
from socksclient.protocol.proxy import Kind, Proxy

__all__ = [
    "REPLY_SIZE",
    "Socks4",
    "Socks4a",
    "check_reply",
    "decode_address",
    "encode_request",
    "reply",
]

REPLY_SIZE = 8
"""The octets of a reply: VN CD DSTPORT DSTIP."""


def encode_request(command: int, host: Host, port: int, username: str) -> bytes:
    """Return VN CD DSTPORT DSTIP USERID NUL, and for a name, which is 4A, the name and NUL.

    Args:
        command: The command of the request.
        host: A name, or an address that SOCKS4 carries (`Socks4.carries`).
        port: The port of the target.
        username: The user id.
    """
    ip = host.ip
    name = b"" if ip is not None else host.text.encode("ascii") + b"\0"
    address = b"\0\0\0\x01" if ip is None else ip.packed
    head = b"\x04%c%b%b" % (command, port.to_bytes(2, "big"), address)
    return head + username.encode() + b"\0" + name


def check_reply(octets: bytes | bytearray) -> None:
    """Check the beginning of a reply, VN CD. Two octets are enough.

    Raises:
        ReplyError: The proxy refused the request.
        ProtocolError: The proxy does not speak SOCKS4.
    """
    version, code = octets[:2]
    if version != 0x00:
        raise ProtocolError(not_what_speaks(octets[:2], Socks4.title, "version 00"), octets)
    if code != Socks4Reply.GRANTED:
        raise reply_error(Socks4Reply(code))


def decode_address(octets: bytes) -> HostPort:
    """Return (host, port) of DSTPORT DSTIP, which is the bound address in a reply."""
    return str(ipaddress.IPv4Address(octets[2:])), int.from_bytes(octets[:2], "big")


def reply(send: bytes = b"", hint: str = "", is_secret: bool = False) -> Flow[HostPort]:
    """Read one reply, and return its DSTIP and DSTPORT.

    The flow takes whatever octets have come. So nothing is lost if the driver gives up amid a
    reply, and goes on later.

    Args:
        send: The request, if the reply answers one.
        hint: The end of the error text if the proxy hangs up and has sent no octet of the reply.
        is_secret: Whether the request has a user id in it.
    """
    octets = HiddenOctets()
    step = Exchange(send, REPLY_SIZE, 1, is_secret=is_secret)
    # The request has no variable any more when an error is raised: a traceback can show variables.
    del send
    while True:
        try:
            octets += yield step
        except ConnectionEnded as ended:
            raise ProxyClosed.within(ended, step.read, bytes(octets), hint) from ended.__cause__
        if len(octets) >= 2:
            check_reply(octets)
        if len(octets) == REPLY_SIZE:
            return decode_address(bytes(octets[2:]))
        step = Exchange(b"", REPLY_SIZE - len(octets), 1, is_secret=is_secret)


class Socks4(Kind):
    """A SOCKS4 proxy that is asked for addresses, because this process resolves names."""

    scheme = "socks4"
    tls_scheme = "socks4+tls"
    title = "a SOCKS4 proxy"
    remote_dns = False
    has_password = False
    commands = frozenset((Command.CONNECT, Command.BIND, Command.RESOLVE))

    def check_proxy(self, proxy: Proxy) -> None:
        """Check that a request can carry the user id."""
        if proxy.username is None:
            return
        encode_credential("proxy username", proxy.username)
        if "\0" in proxy.username:
            raise ValueError("proxy username has a NUL in it, which SOCKS4 cannot carry")

    def check_request(self, proxy: Proxy, command: Command, host: Host) -> None:
        """Check that a request can carry the command and the host, if that is an IP address."""
        super().check_request(proxy, command, host)
        if not (host.is_name or self.carries(host)):
            kind = "IPv6 address" if ":" in host.text else "address"
            raise ValueError(f"SOCKS4 cannot carry the {kind} {host}")

    def carries(self, host: Host) -> bool:
        """Return whether a host is an IPv4 address, other than 0.0.0.1 to 0.0.0.255."""
        ip = host.ip
        # With 0.0.0.x, SOCKS4A says that a name follows.
        return ip is not None and ip.version == 4 and not 0 < int(ip) <= 0xFF

    def handshake(
        self,
        proxy: Proxy,
        command: Command,
        host: Host,
        port: int,
        begin_phase: Callable[[Phase], None],
    ) -> Flow[HostPort]:
        """Send the request, and return the address in its reply."""
        # Tor resolves a name under both schemes.
        if host.is_name and not self.remote_dns and command != Command.RESOLVE:
            raise ValueError(
                f"socks4 carries addresses only, and {host.text!r} is a name; use socks4a"
            )
        begin_phase("request")
        # ss-local, mitmproxy and many others close the connection on a version that is not 05.
        hint = "; perhaps the server speaks SOCKS5 but not SOCKS4"
        if command == Command.CONNECT:
            hint += ", or cannot connect"
        else:
            hint += f", or does not offer {command.text}"
        # Neither the user id nor the request has a variable: a traceback can show variables.
        return (
            yield from reply(
                encode_request(command, host, port, proxy.username or ""),
                hint,
                is_secret=bool(proxy.username),
            )
        )

    def next_reply(self, command: Command) -> Flow[HostPort]:  # noqa: ARG002 - all replies are alike
        """Read the second reply to BIND."""
        return reply()


class Socks4a(Socks4):
    """A SOCKS4A proxy, which resolves names."""

    scheme = "socks4a"
    tls_scheme = "socks4a+tls"
    remote_dns = True
