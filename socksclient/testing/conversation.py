"""The octets of a handshake, as a `SocksServer` reads, sends and records them."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socksclient.protocol.codes import Phase
    from socksclient.testing.faults import Faults
    from socksclient.testing.record import Connection


class Over(Exception):
    """The server ends the connection here; nothing is wrong with the server."""


class Conversation:
    """One connection to a client, while the client and the server shake hands.

    A conversation records every octet, and carries out the faults that concern what the server
    sends.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: Connection,
        faults: Faults,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = seen
        self.faults = faults
        self.sent = 0
        limits = (faults.stall_after, faults.close_after, faults.reset_after)
        self._limits = [limit for limit in limits if limit is not None]

    async def read(self, count: int) -> bytes:
        """Read exactly `count` octets."""
        octets = await self.reader.readexactly(count)
        self.seen.note("client", octets)
        return octets

    async def read_until(self, end: bytes) -> str:
        """Read up to and including `end`, and return what comes before `end`."""
        octets = await self.reader.readuntil(end)
        self.seen.note("client", octets)
        return as_text(octets.removesuffix(end))

    async def read_message(self) -> None:
        """Read a message of unknown length: whatever the client has sent so far."""
        self.seen.note("client", await self.reader.read(65536))

    async def send(self, phase: Phase, octets: bytes, data: bytes = b"") -> None:
        """Send the server's answer of `phase`, as far as the faults allow.

        Args:
            phase: It selects the octets of `Faults.answers` that replace the answer.
            octets: The answer.
            data: Octets of the destination. They go out in the segment of the last octets sent.

        Raises:
            Over: The faults end the connection before the whole answer is sent.
        """
        octets = self.faults.answers.get(phase, octets)
        allowed = octets
        if self._limits:
            allowed = octets[: max(0, min(self._limits) - self.sent)]
        pieces = [allowed]
        if self.faults.split or self.faults.drip is not None:
            pieces = [bytes([octet]) for octet in allowed]
        for number, piece in enumerate(pieces, 1):
            await asyncio.sleep(self.faults.drip or 0)
            self.seen.note("server", piece)
            self.sent += len(piece)
            self.writer.write(piece + data if number == len(pieces) else piece)
            await self.writer.drain()
        if len(allowed) < len(octets):
            await self._end()

    async def end_if_due(self) -> None:
        """End the connection if the server has sent just as many octets as a fault allows.

        Raises:
            Over: The connection has ended.
        """
        if self.sent in self._limits:
            await self._end()

    async def _end(self) -> None:
        if self.faults.stall_after is not None:
            while await self.reader.read(65536):
                pass
        elif self.faults.reset_after is not None:
            reset(self.writer)
        raise Over


def as_text(octets: bytes) -> str:
    """Decode UTF-8; an octet that is not valid becomes an escape with its two hex digits."""
    return octets.decode(errors="backslashreplace")


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
