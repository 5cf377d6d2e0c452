"""Blocking: one exchange of octets with a proxy."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from socksclient._net.sockets import PEEK_SIZE, can_peek, has_ended
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.flow import ConnectionEnded, Exchange
from socksclient.protocol.place import is_deadline

if TYPE_CHECKING:
    from socksclient._sync.tls import Channel


def exchange(step: Exchange, sock: Channel, deadline: Deadline) -> bytes:
    """Do what one step of a flow asks for, and return the octets to send into the flow.

    No read takes an octet that the destination has sent, because a step asks only for what the
    proxy owes (`Exchange.read`), or says what belongs to the message (`Exchange.belonging`).

    Args:
        step: What to write and to read.
        sock: The connection to the proxy.
        deadline: The instant by which the exchange is done.

    Raises:
        ConnectionEnded: The connection has ended. The caller throws this error into the flow.
        TimeoutError: The deadline has passed.
    """
    octets = b""
    try:
        if step.send:
            deadline.limit(sock)
            try:
                # The repr of a memoryview hides the octets where a traceback shows variables.
                sock.sendall(memoryview(step.send))
            except OSError as error:
                if not has_ended(error):
                    raise
                # A proxy may reply and close the connection before it has read everything. Then
                # the reply has arrived, and tells more than the error of the write.
                octets = _arrived(step, sock, deadline)
                if not octets:
                    raise
        while len(octets) < (step.enough or step.read):
            received = _receive(step, octets, sock, deadline)
            if not received:
                raise ConnectionResetError("the proxy closed the connection")
            octets += received
    except OSError as error:
        if is_deadline(error):
            raise
        raise ConnectionEnded(octets) from error
    return octets


def _arrived(step: Exchange, sock: Channel, deadline: Deadline) -> bytes:
    """Return what the proxy sent before it closed the connection; nothing if that is lost."""
    with suppress(OSError):
        return _receive(step, b"", sock, deadline)
    return b""


def _receive(step: Exchange, octets: bytes, sock: Channel, deadline: Deadline) -> bytes:
    """Receive more of what the step asks for, after the `octets` that have come before."""
    count = step.read - len(octets)
    if step.belonging is not None and can_peek(sock):
        # The head of an HTTP reply does not tell its length. Without a look ahead, this function
        # would read the head a few octets at a time.
        deadline.limit(sock)
        arrived = sock.recv(PEEK_SIZE, socket.MSG_PEEK)
        count = max(count, step.belonging(octets + arrived) - len(octets))
    deadline.limit(sock)
    return sock.recv(count)
