"""The steps of a flow: a generator that says what to write and what to read, and does neither.

A flow yields `Exchange` after `Exchange`, and returns its result. A driver does what each of them
asks for, and sends the octets that it has read into the flow. No read asks for more than the proxy
owes by then, so the first octets of the destination stay in the socket. A flow knows no time, no
sockets and no log.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol, TypeVar

__all__ = ["ConnectionEnded", "Exchange", "Flow", "HiddenOctets", "Protection"]

T = TypeVar("T")


class Exchange(NamedTuple):
    """One step of a flow: write `send`, then read `read` octets.

    Attributes:
        send: The octets to write, in one write; if empty, there is nothing to write.
        read: How many octets to read at most.
        enough: With how many octets the driver may come back; 0 means all of `read`.
        belonging: A function that is given the octets that have arrived, and returns how many of
            them belong to the message. A driver that can look at octets without taking them
            (MSG_PEEK) may send all of these to the flow, even if they are more than `read`. Other
            drivers ignore the function.
        is_secret: Whether `send` holds credentials, which the answer may repeat. No log may show
            such octets.
    """

    send: bytes
    read: int
    enough: int = 0
    belonging: Callable[[bytes], int] | None = None
    is_secret: bool = False

    def __repr__(self) -> str:
        # The octets may be credentials, and a traceback can show variables.
        return f"<Exchange: send {len(self.send)} octets, read {self.read}>"


class HiddenOctets(bytearray):
    """The octets of a reply so far, which a traceback with variables does not show.

    The proxy may have repeated the credentials in them, and a timeout that is thrown into a flow
    has the variables of the flow in its traceback.
    """

    def __repr__(self) -> str:
        return f"<{len(self)} octets>"


Flow = Generator[Exchange, bytes, T]
"""A generator that a driver runs: it yields `Exchange` and returns its result, of the type T."""


class Protection(Protocol):
    """The functions that protect all octets after a sub-negotiation (RFC 1961 §5).

    A method of authentication whose flow returns one asks for the connection to be wrapped: the
    request, its reply and everything after them go through the two functions. No driver wraps
    connections yet, so a handshake with such a method ends with a NotImplementedError before the
    request is sent.
    """

    def protect(self, octets: bytes) -> bytes:
        """Return the protected form of `octets`, which the driver sends in their place."""

    def unprotect(self, octets: bytes) -> bytes:
        """Return the plain octets that the received `octets` hold.

        `octets` may be any piece of the stream, from the middle of one message to the middle of
        another. The object keeps the part of an incomplete message until the rest arrives.
        """


class ConnectionEnded(ConnectionError):
    """The error that a driver throws into a flow if the connection ends before a step is done.

    The flow then raises a `socksclient.ProxyClosed` that says what was missing. A driver does not
    have to throw its other errors, such as a timeout, into the flow.

    Args:
        received: The octets of this step that came before the end.
        error: The error that told the driver of the end; None if a read returned no octet. It
            becomes the cause, as with ``raise ConnectionEnded(octets) from error``.

    Attributes:
        received: The argument.
    """

    def __init__(self, received: bytes = b"", error: BaseException | None = None) -> None:
        # The text does not show the octets, because a proxy may have repeated the credentials.
        super().__init__(f"the connection ended after {len(received)} octets")
        self.received = received
        if error is not None:
            self.__cause__ = error

    @property
    def broken_by(self) -> OSError | None:
        """The error that broke the connection; None if the proxy hung up or reset it."""
        cause = self.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
            return cause
        return None
