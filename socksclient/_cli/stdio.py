"""Standard input and output through a connection, for `socksclient connect`."""

from __future__ import annotations

import os
import selectors
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from socksclient._net.sockets import PlainSocket

__all__ = ["SIZE", "Connection", "CopyError", "copy_both_ways", "explained", "wait"]

SIZE = 65536
"""The number of octets to read at once, at most."""

# These two can wait for descriptors of any kind, also for files. Windows has `select` only.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class CopyError(Exception):
    """Copying has failed. The text tells the user what failed, and why."""


def copy_both_ways(connection: Connection, stdin: int | None, stdout: int) -> None:
    """Copy octets from `stdin` to the connection, and from there to `stdout`, until both end.

    The end of `stdin` is passed on as a half-close: the destination reads up to the end, and may
    go on sending. TLS has no half-close, so there this function waits for the destination's end.

    The end of the destination is passed on too. From then on the descriptor `stdout` leads nowhere,
    so that the reader of standard output sees the end. If `stdin` is a terminal, this function then
    returns, because the input from a terminal does not end by itself.

    Args:
        connection: The connection through the proxy. The caller closes it.
        stdin: A descriptor of any kind; None stands for an input that has ended.
        stdout: A descriptor of any kind.

    Raises:
        BrokenPipeError: If nobody reads `stdout` any more.
        CopyError: If anything else fails.
    """
    failures: list[Exception] = []

    def send() -> None:
        try:
            while stdin is not None and (octets := _read(stdin)):
                connection.send(octets)
            connection.finish()
        # A ValueError says that the main thread has closed the connection meanwhile.
        except (CopyError, ValueError) as error:
            failures.append(error)
            connection.abort()

    try:
        # Nothing can interrupt a thread that reads from a pipe or a terminal. The process does not
        # wait for a daemon thread when the process ends.
        sending = threading.Thread(target=send, name="stdin", daemon=True)
        sending.start()
    except RuntimeError as error:
        raise CopyError(f"cannot start the thread that reads standard input: {error}") from error
    try:
        while octets := connection.receive():
            _write(stdout, octets)
    except CopyError as error:
        failures.append(error)
    else:
        _close(stdout)
        if stdin is None or not os.isatty(stdin):
            sending.join()
    # If the other thread failed first, it aborted the connection, and that is what failed here.
    if failures:
        raise failures[0]


class Connection:
    """A connection without TLS. One thread may receive while another one sends."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        self._sock = sock

    def receive(self) -> bytes:
        """Return at least one octet, or none after the connection's end."""
        with explained("the connection broke"):
            return self._sock.recv(SIZE)

    def send(self, octets: bytes) -> None:
        """Send all of the octets."""
        with explained("the connection broke"):
            self._sock.sendall(octets)

    def finish(self) -> None:
        """Tell the destination that nothing more will be sent."""
        # If the connection has broken, `receive` reports that.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Make a thread that receives find the end of the connection."""
        # `SSLSocket.shutdown` would drop the TLS layer, and that thread would receive ciphertext.
        with suppress(OSError):
            PlainSocket.shutdown(self._sock, socket.SHUT_RDWR)


def _read(fd: int) -> bytes:
    with explained("cannot read standard input"):
        while True:
            # Another process that shares the descriptor can make it non-blocking at any time.
            with suppress(BlockingIOError):
                return os.read(fd, SIZE)
            wait(fd, selectors.EVENT_READ)


def _write(fd: int, octets: bytes) -> None:
    left = memoryview(octets)
    with explained("cannot write to standard output", besides=BrokenPipeError):
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                wait(fd, selectors.EVENT_WRITE)


def _close(stdout: int) -> None:
    """Make the reader of `stdout` see the end, and let the descriptor lead nowhere."""
    if stat.S_ISSOCK(os.fstat(stdout).st_mode):
        # The socket may be standard input too, which keeps it open.
        with suppress(OSError), PlainSocket(fileno=os.dup(stdout)) as sock:
            sock.shutdown(socket.SHUT_WR)
    # If the descriptor were closed, the next file or socket would get its number.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)


def wait(descriptor: int | socket.socket, event: int, seconds: float | None = None) -> None:
    """Wait until `descriptor` is ready for `event`, or until the seconds have passed."""
    with _Selector() as selector:
        selector.register(descriptor, event)
        selector.select(seconds)


@contextmanager
def explained(what: str, besides: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Turn every OSError, except those of the class `besides`, into a `CopyError`."""
    try:
        yield
    except besides:
        raise
    except OSError as error:
        raise CopyError(f"{what}: {error.strerror or error}") from error
