"""The connection of `socksclient connect` where a proxy of the chain speaks TLS.

Only this module imports `ssl`: ssh starts the command for each connection, and waits for it.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from contextlib import suppress

from socksclient._cli.stdio import SIZE, Connection, explained, wait

__all__ = ["TLSConnection"]

# A system calls a socket writable only when there is room for much more than one octet. A record
# of this size fits, so that OpenSSL is not left with a part of a record to send. In that state it
# cannot answer a key update of TLS 1.3, and fails with BAD_LENGTH (OpenSSL issue 13729).
_PIECE = 8192


class TLSConnection(Connection):
    """A connection with TLS. One thread may receive while another one sends.

    OpenSSL does not allow two threads to use one connection at once. So each thread holds a lock
    while it uses the socket, which never waits; a thread waits only while it does not hold the
    lock.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lock = threading.Lock()

    def receive(self) -> bytes:
        """Return at least one octet, or none after the connection's end."""
        with explained("the connection broke"):
            while True:
                event = selectors.EVENT_READ
                try:
                    with self._lock, suppress(ssl.SSLWantReadError):
                        return self._sock.recv(SIZE)
                # In TLS 1.2 the other side can renegotiate, which needs octets in both directions.
                except ssl.SSLWantWriteError:
                    event = selectors.EVENT_WRITE
                wait(self._sock, event)

    def send(self, octets: bytes) -> None:
        """Send all of the octets."""
        left = memoryview(octets)
        with explained("the connection broke"):
            while left:
                wait(self._sock, selectors.EVENT_WRITE)
                try:
                    with self._lock, suppress(ssl.SSLWantWriteError):
                        left = left[self._sock.send(left[:_PIECE]) :]
                # This is a renegotiation too. The receiving thread may read the octets that are
                # wanted, and then nothing makes the socket readable: so do not wait for long.
                except ssl.SSLWantReadError:
                    wait(self._sock, selectors.EVENT_READ, 0.05)

    def finish(self) -> None:
        """Do nothing. Up to TLS 1.2, the end of one direction ends the other (RFC 5246 §7.2.1)."""
