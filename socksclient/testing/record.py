"""What a `socksclient.testing.SocksServer` has seen of one connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Connection"]


@dataclass
class Connection:
    """What the server saw of one connection; None where it did not come so far.

    Attributes:
        client: The client's (host, port); ("", 0) at a unix socket.
        protocol: "SOCKS5", "SOCKS4" (4A too) or "HTTP".
        methods: The METHODS offered.
        username: Of the credentials; with SOCKS4 the user id.
        password: Of the credentials.
        command: CMD of the request.
        address_type: ATYP of the request.
        destination: DST.ADDR and DST.PORT of the request, as they came: a name is not resolved.
        reply: REP of the reply; CD with SOCKS4, the status with HTTP.
        second_reply: REP or CD of the second reply to BIND.
        peer: The (host, port) of the peer that came after BIND.
        datagrams: What the client sent over UDP: the destination of each, and its payload.
        transcript: The octets of the handshake, message by message, with who said them.
    """

    client: tuple[str, int]
    protocol: Literal["SOCKS5", "SOCKS4", "HTTP"] | None = None
    methods: bytes | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    command: int | None = None
    address_type: int | None = None
    destination: tuple[str, int] | None = None
    reply: int | None = None
    second_reply: int | None = None
    peer: tuple[str, int] | None = None
    datagrams: list[tuple[tuple[str, int], bytes]] = field(default_factory=list)
    transcript: list[tuple[Literal["client", "server"], bytes]] = field(default_factory=list)

    @property
    def received(self) -> bytes:
        """All octets of the handshake that came from the client."""
        return b"".join(octets for who, octets in self.transcript if who == "client")

    @property
    def sent(self) -> bytes:
        """All octets of the handshake that went to the client."""
        return b"".join(octets for who, octets in self.transcript if who == "server")

    def note(self, who: Literal["client", "server"], octets: bytes) -> None:
        """Adds to the transcript."""
        if self.transcript and self.transcript[-1][0] == who:
            octets = self.transcript.pop()[1] + octets
        self.transcript.append((who, octets))
