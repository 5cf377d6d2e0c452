"""Awaited: one exchange of octets with a proxy."""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import suppress
from typing import cast

import anyio

from socksclient._anyio.streams import Channel, Stream
from socksclient._net.sockets import PEEK_SIZE, PlainSocket
from socksclient.protocol.flow import ConnectionEnded, Exchange
from socksclient.protocol.place import is_deadline


async def exchange(
    step: Exchange, channel: Channel, ssl_object: ssl.SSLObject | None = None
) -> bytes:
    """Do what one step of a flow asks for, and return the octets to send into the flow.

    No read takes an octet that the destination has sent, because a step asks only for what the
    proxy owes (`Exchange.read`), or says what belongs to the message (`Exchange.belonging`).

    Args:
        step: What to write and to read.
        channel: The connection to the proxy.
        ssl_object: The SSL object of `channel`, if `channel` is a stream with TLS.

    Raises:
        ConnectionEnded: The connection has ended. The caller throws this error into the flow.
        TimeoutError: A stream of the user's own has a deadline, which has passed.
    """
    octets = b""
    try:
        if step.send:
            if isinstance(channel, PlainSocket):
                octets = await _write_to_socket(channel, step)
            else:
                octets = await _write_to_stream(channel, step, has_tls=ssl_object is not None)
        while len(octets) < (step.enough or step.read):
            received = await _receive(channel, step, octets, ssl_object)
            if not received:
                raise ConnectionResetError("the proxy closed the connection")
            octets += received
    except (OSError, anyio.BrokenResourceError) as error:
        if is_deadline(error):
            raise
        raise ConnectionEnded(octets) from error
    return octets


# A proxy may reply and close the connection before it has read everything. Then the reply has
# arrived, and tells more than the error of the write. So the two functions below may return octets
# of the reply already. They await outside of `except` blocks, so that a cancellation does not get
# the error of the write as its context.


async def _write_to_socket(sock: PlainSocket, step: Exchange) -> bytes:
    """Write what a step says; return what the proxy sent if it closed the connection meanwhile."""
    failure = await _send_all(sock, step)
    try:
        if failure is None:
            return b""
        octets = b""
        with suppress(OSError):
            octets = await _receive(sock, step, b"")
        if not octets:
            raise failure
        return octets
    finally:
        # Otherwise the error and this frame would keep each other alive.
        del failure


async def _send_all(sock: PlainSocket, step: Exchange) -> ConnectionError | None:
    """Write what a step says; return the error of a write after which a reply may have arrived."""
    # The repr of a memoryview hides the octets where a traceback shows variables.
    left = memoryview(step.send)
    while left:
        with suppress(BlockingIOError):
            try:
                left = left[sock.send(left) :]
            except ConnectionError as error:
                return error
            continue
        await anyio.wait_writable(sock)
    return None


async def _write_to_stream(stream: Stream, step: Exchange, *, has_tls: bool) -> bytes:
    """Write what a step says, and return the first octets of the reply, received meanwhile.

    A task of its own writes, because asyncio drops what has arrived when a write fails. So this
    function has to receive before the write can fail.
    """
    octets = b""
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        """Keep an error, which would leave the task group within an exception group."""
        failures.append(error)
        # After a failed write of another kind, a reply may still arrive.
        if is_deadline(error) or not isinstance(error, OSError | anyio.BrokenResourceError):
            group.cancel_scope.cancel()

    async def send() -> None:
        try:
            # The repr of a memoryview hides the octets where a traceback shows variables.
            await stream.send(cast("bytes", memoryview(step.send)))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            fail(error)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(send)
            if step.read:
                try:
                    octets = await _receive(stream, step, b"")
                except Exception as error:  # noqa: BLE001 - the caller gets it
                    fail(error)
        if octets or not failures:
            return octets
        if has_tls and isinstance(failures[0], anyio.BusyResourceError):
            # The proxy asks for a message of TLS itself, such as a KeyUpdate (RFC 8446 §4.6.3),
            # which a TLSStream cannot write while another task writes.
            text = "with TLS, it asked for new keys while it was being written to"
            raise OSError(errno.EPROTO, text)
        raise failures[0]
    finally:
        # Otherwise the errors and this frame would keep each other alive.
        failures.clear()


async def _receive(
    channel: Channel, step: Exchange, octets: bytes, ssl_object: ssl.SSLObject | None = None
) -> bytes:
    """Receive more of what the step asks for, after the `octets` that have come before."""
    size = step.read - len(octets)
    if not isinstance(channel, PlainSocket):
        try:
            return await channel.receive(size)
        except anyio.EndOfStream:
            return b""
        except anyio.BrokenResourceError:
            # After a failed write, a TLSStream does not receive any more. But its SSL object still
            # has the octets that it had decrypted by then.
            with suppress(OSError):
                if ssl_object is not None:
                    return ssl_object.read(size)
            raise
    while True:
        with suppress(BlockingIOError):
            if step.belonging is not None:
                # The head of an HTTP reply does not tell its length. Without a look ahead, this
                # function would read the head a few octets at a time.
                arrived = channel.recv(PEEK_SIZE, socket.MSG_PEEK)
                size = max(size, step.belonging(octets + arrived) - len(octets))
            return channel.recv(size)
        await anyio.wait_readable(channel)
