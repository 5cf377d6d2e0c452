"""The record that a `socksclient.testing.SocksServer` keeps of one connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from socksclient.protocol.address import HostPort

__all__ = ["Connection"]


@dataclass
class Connection:
    """What the server has seen on one connection.

    An attribute is None as long as the connection has not come so far, or if the protocol has no
    such thing.

    Attributes:
        client: The client's (host, port); ("", 0) if the server listens at a unix socket.
        protocol: "SOCKS5", "SOCKS4" (also for 4A) or "HTTP".
        methods: The METHODS that the client offered, one octet each.
        username: The client's username; with SOCKS4, the user id.
        password: The client's password.
        command: CMD of the request.
        address_type: ATYP of the request.
        destination: DST.ADDR and DST.PORT of the request as (host, port), before the server
            resolves anything or looks at its routes.
        reply: The code of the reply: REP with SOCKS5, CD with SOCKS4, the status with HTTP.
        second_reply: The code of the second reply to BIND.
        peer: The (host, port) of the peer that connected after BIND.
        datagrams: The destination and the payload of each datagram from the client.
        transcript: The messages of the handshake, in their order: the sender and the octets.
    """

    client: HostPort
    protocol: Literal["SOCKS5", "SOCKS4", "HTTP"] | None = None
    methods: bytes | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    command: int | None = None
    address_type: int | None = None
    destination: HostPort | None = None
    reply: int | None = None
    second_reply: int | None = None
    peer: HostPort | None = None
    datagrams: list[tuple[HostPort, bytes]] = field(default_factory=list)
    transcript: list[tuple[Literal["client", "server"], bytes]] = field(default_factory=list)

    @property
    def received(self) -> bytes:
        """All octets of the handshake that the client has sent."""
        return b"".join(octets for sender, octets in self.transcript if sender == "client")

    @property
    def sent(self) -> bytes:
        """All octets of the handshake that the server has sent."""
        return b"".join(octets for sender, octets in self.transcript if sender == "server")

    def note(self, sender: Literal["client", "server"], octets: bytes) -> None:
        """Add octets to the transcript; one sender's octets in a row are one message."""
        if self.transcript and self.transcript[-1][0] == sender:
            octets = self.transcript.pop()[1] + octets
        self.transcript.append((sender, octets))
