"""The steps of a tunnel, which a driver carries out, and the events that a tunnel reports."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from socksclient.protocol.address import HostPort, SocketAddress
from socksclient.protocol.codes import Phase
from socksclient.protocol.flow import Exchange
from socksclient.protocol.proxy import Proxy

__all__ = [
    "Connect",
    "Direction",
    "Event",
    "Grant",
    "Report",
    "Resolve",
    "ServerAddress",
    "StartTLS",
    "Step",
    "Steps",
]

T = TypeVar("T")

ServerAddress: TypeAlias = SocketAddress | str
"""Where a proxy listens: an address, or the path of a unix socket."""


class Resolve(NamedTuple):
    """The step that asks for the addresses of a name. The answer is a list of `SocketAddress`."""

    host: str
    port: int


class Connect(NamedTuple):
    """The step that asks for a connection to the nearest hop, in place of any that there is.

    The answer is the one of `addresses` that the driver has connected to.
    """

    addresses: Sequence[ServerAddress]


class StartTLS(NamedTuple):
    """The step that asks for TLS with a proxy on the connection. The answer is None."""

    proxy: Proxy


Step: TypeAlias = Resolve | Connect | StartTLS | Exchange
Steps: TypeAlias = Generator[Step, Any, T]
"""A generator that a driver runs: it yields `Step` and returns its result, of the type T."""


class Grant(NamedTuple):
    """The result of a tunnel: the addresses that the last hop grants with its reply.

    Attributes:
        bound_address: BND.ADDR and BND.PORT of its reply.
        own_address: The (host, port) at which the hop before knows the last hop; None if there is
            one hop only.
    """

    bound_address: HostPort
    own_address: HostPort | None


Direction: TypeAlias = Literal["sent", "received", "note"]


class Event(NamedTuple):
    """An event of a call: octets to or from a hop, or a note for the log.

    Attributes:
        hop: The position of the hop in the chain; 0 is the nearest.
        phase: How far the call had come at that hop.
        direction: "sent" for octets to the hop, "received" for octets from it, "note" for words.
        octets: The octets; empty for a note.
        is_secret: Whether the octets hold credentials. No text must show such octets.
        note: The words, which hold no credentials; empty for octets.
    """

    hop: int
    phase: Phase
    direction: Direction
    octets: bytes = b""
    is_secret: bool = False
    note: str = ""


Report: TypeAlias = Callable[[Event], None]
