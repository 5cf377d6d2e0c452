"""How a `socksclient.testing.SocksServer` misbehaves, as a value."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from socksclient.protocol.codes import Phase

__all__ = ["Faults"]


@dataclass(frozen=True, repr=False)
class Faults:
    """What the server does otherwise than asked, on one connection. By default nothing.

    The counts are of the octets that it says in the handshake: 2 select the method, 2 answer the
    credentials, if any, and the reply has 10 for an IPv4 address. When a count is reached, it
    acts in place of saying more, having read what the client said last.

    Attributes:
        split: Says every octet in a segment of its own.
        drip: Seconds to wait before every octet.
        stall_after: Says nothing more after so many octets, and stays connected.
        close_after: Hangs up after so many octets.
        reset_after: Resets the connection (RST) after so many octets.
        method: The METHOD to select, whatever was offered.
        status: The STATUS that answers the credentials, whatever they are.
        reply: The REP of the reply, the CD with SOCKS4, the status with HTTP; no connection is
            made, unless it is 0.
        bound_address: The (host, port) that the reply bears; a host that is no IP address goes as
            a name of 0 to 255 octets.
        answers: The octets to say in place of the answer in that phase ("method selection",
            "authentication", "request"; "relay" is the second reply to BIND): garbage of any kind.
        reply_with_data: Says the reply only when the destination has sent something, together
            with that, in one segment. With BIND, that is the second reply and the peer.
        second_reply: The REP of the second reply to BIND; the peer is let go, unless it is 0.
        late: Seconds to wait before the second reply, when the peer has come.
        relay_host: The IP address at which the UDP relay listens, and which the reply bears: of
            another family than the server's, or 0.0.0.0.
        garbage: Datagrams that the relay sends before each one that it delivers.
        stranger: A datagram that comes from another port than the relay's before each of them.
        end_after: Ends a UDP association after so many datagrams of the client, by hanging up.
        control_data: What is said on the control connection of a UDP association, after the reply.
    """

    split: bool = False
    drip: float | None = None
    stall_after: int | None = None
    close_after: int | None = None
    reset_after: int | None = None
    method: int | None = None
    status: int | None = None
    reply: int | None = None
    bound_address: tuple[str, int] | None = None
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
                raise ValueError(f"{name} is {value!r}, which is not from 0 to {limit[-1]}")
        for phase in self.answers:
            if phase not in ("method selection", "authentication", "request", "relay"):
                raise ValueError(f"answers are for no phase {phase!r}")

    def __repr__(self) -> str:
        """Only what differs from the defaults: it names parametrized tests."""
        told = []
        for fault in fields(self):
            value = getattr(self, fault.name)
            if value is not None and value is not False and value not in ({}, (), b""):
                told.append(f"{fault.name}={value!r}")
        return f"Faults({', '.join(told)})"
