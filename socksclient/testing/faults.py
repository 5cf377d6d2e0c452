"""The faults that a `socksclient.testing.SocksServer` shows, as a value."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from socksclient.protocol.address import HostPort
from socksclient.protocol.codes import Phase

__all__ = ["Faults"]

_ANSWERED: tuple[Phase, ...] = ("method selection", "authentication", "request", "relay")


@dataclass(frozen=True, repr=False)
class Faults:
    """How the server misbehaves on one connection; by default not at all.

    Three faults count the octets that the server sends during the handshake. Selecting the method
    takes 2 octets, answering the credentials 2 octets (if the server asks for credentials), and a
    reply with an IPv4 address 10 octets. When the server has sent as many octets as the fault
    allows, and has read the client's next message, the fault happens in place of the next octet.
    If the count ends with a reply that grants the request, the fault happens before any octet goes
    to or comes from the destination.

    Attributes:
        split: Whether the server sends each octet in a segment of its own.
        drip: The seconds that the server waits before each octet.
        stall_after: The number of octets after which the server sends nothing more, while the
            connection stays open.
        close_after: The number of octets after which the server closes the connection.
        reset_after: The number of octets after which the server resets the connection (RST).
        method: The METHOD that the server selects, whatever the client offers.
        status: The STATUS with which the server answers the credentials, whatever they are.
        reply: The code of the reply: REP with SOCKS5, CD with SOCKS4, the status with HTTP. With
            any code but 0, the server does nothing else for the request.
        bound_address: The (host, port) in the reply. A host that is not an IP address is sent as
            a name of 0 to 255 octets.
        answers: The octets to send in place of an answer, by phase: "method selection",
            "authentication", "request", or "relay" for the second reply to BIND. These octets may
            be any garbage.
        reply_with_data: Whether the server delays its reply until the destination has sent
            something, and then sends both in one segment. With BIND, this is about the second
            reply and the peer.
        second_reply: The code of the second reply to BIND. With any code but that of a success,
            the server closes the connection to the peer.
        late: The seconds between the arrival of BIND's peer and the second reply.
        relay_host: The IP address at which the UDP relay listens, and which the reply bears. Use
            it for an address of another family than the server's, or for 0.0.0.0.
        garbage: The datagrams that the UDP relay sends to the client before each datagram that it
            delivers.
        stranger: A datagram that a port other than the relay's sends to the client before each of
            the relay's datagrams.
        end_after: The number of datagrams from the client after which the server ends the UDP
            association, by closing the control connection.
        control_data: The octets that the server sends on the control connection of a UDP
            association, after the reply.

    Raises:
        ValueError: If a count is negative, if `method`, `status` or `second_reply` is not between
            0 and 255, if `reply` is not between 0 and 999, or if `answers` names another phase.
    """

    split: bool = False
    drip: float | None = None
    stall_after: int | None = None
    close_after: int | None = None
    reset_after: int | None = None
    method: int | None = None
    status: int | None = None
    reply: int | None = None
    bound_address: HostPort | None = None
    answers: Mapping[Phase, bytes] = field(default_factory=dict)
    reply_with_data: bool = False
    second_reply: int | None = None
    late: float | None = None
    relay_host: str | None = None
    garbage: Sequence[bytes] = ()
    stranger: bytes | None = None
    end_after: int | None = None
    control_data: bytes = b""

    def __post_init__(self) -> None:
        octet, status, count = range(0x100), range(1000), range(sys.maxsize)
        limits = {"method": octet, "status": octet, "reply": status, "second_reply": octet}
        counts = ("stall_after", "close_after", "reset_after", "end_after")
        for name, limit in {**limits, **dict.fromkeys(counts, count)}.items():
            value = getattr(self, name)
            if value is not None and value not in limit:
                raise ValueError(f"{name} is {value!r}, and must be between 0 and {limit[-1]}")
        for phase in self.answers:
            if phase not in _ANSWERED:
                raise ValueError(f"answers has the phase {phase!r}; use {', '.join(_ANSWERED)}")

    def __repr__(self) -> str:
        """Show the faults only, so that the text can name a parametrized test."""
        shown = []
        for fault in fields(self):
            value = getattr(self, fault.name)
            if value is not None and value is not False and value not in ({}, (), b""):
                shown.append(f"{fault.name}={value!r}")
        return f"Faults({', '.join(shown)})"
