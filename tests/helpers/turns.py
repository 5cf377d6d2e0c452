"""Cancels a call in each turn of the event loop, one run of the call after the other.

The proxy and the destination are played on the same event loop. So each run of a call takes the
same turns, and a test can cancel in every turn.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from helpers.http_clients import OK
from helpers.support import BACKENDS, Address

T = TypeVar("T")

REPLY = bytes.fromhex("05 00 00 01 7f 00 00 01 00 09")
WAYS = [*((name, False) for name in BACKENDS), ("asyncio", True), ("uvloop", True)]
"""The event loops, and whether `asyncio.Task.cancel` cancels there, in place of a cancel scope."""

ways = pytest.mark.parametrize(
    ("loop", "natively"),
    WAYS,
    ids=[f"{name}-natively" if natively else name for name, natively in WAYS],
)


async def cancelled_in_turn(
    number: int, call: Callable[[], Awaitable[T]], *, natively: bool
) -> tuple[bool, list[T]]:
    """Cancel the call in turn `number` of the event loop.

    Returns:
        Whether that was before its end, and what it returned, if it did.
    """
    results: list[T] = []

    async def run() -> None:
        results.append(await call())

    if natively:
        task = asyncio.ensure_future(run())
        await turns(number)
        in_time = task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return in_time, results
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await turns(number)
        in_time = not results
        group.cancel_scope.cancel()
    return in_time, results


async def turns(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class Played:
    """A proxy that is played on this event loop.

    Attributes:
        address: Where it listens.
        open: How many connections its clients have not closed.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.url = f"socks5h://{address[0]}:{address[1]}"
        self.open = 0

    async def handle(
        self, then: Callable[[ByteStream], Awaitable[None]], stream: SocketStream
    ) -> None:
        self.open += 1
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                await hear(stream, 3)
                await say(stream, b"\x05\x00")
                *_, address_type = await hear(stream, 4)
                size = {1: 4, 3: 1, 4: 16}[address_type]
                host = await hear(stream, size)
                await hear(stream, 2 + (host[0] if address_type == 3 else 0))
                await say(stream, REPLY)
                await then(stream)
                await hear(stream, 1)
        self.open -= 1

    async def wait_until_all_is_closed(self) -> None:
        with anyio.fail_after(20):
            while self.open:
                await anyio.lowlevel.checkpoint()


async def hear(stream: ByteStream, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        octets += await stream.receive(count - len(octets))
    return octets


async def say(stream: ByteStream, octets: bytes) -> None:
    """Send each octet by itself, so that the client waits for each."""
    for octet in octets:
        await stream.send(bytes([octet]))


async def nothing_more(_stream: ByteStream) -> None:
    pass


@asynccontextmanager
async def playing(
    then: Callable[[ByteStream], Awaitable[None]] = nothing_more,
) -> AsyncIterator[Played]:
    """Run a proxy that grants every request, and then calls `then` with each of its connections."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        played = Played(listener.extra(SocketAttribute.local_address))  # type: ignore[arg-type]
        group.start_soon(listener.serve, partial(played.handle, then))
        yield played
        group.cancel_scope.cancel()


async def speak_tls(context: ssl.SSLContext, stream: ByteStream) -> TLSStream:
    return await TLSStream.wrap(
        stream, server_side=True, ssl_context=context, standard_compatible=False
    )


async def speak_http(stream: ByteStream) -> None:
    """Answer requests for as long as they come."""
    while True:
        octets = b""
        while not octets.endswith(b"\r\n\r\n"):
            octets += await stream.receive()
        await stream.send(OK)
