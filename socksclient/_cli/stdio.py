"""Standard input and output through a connection: what `socksclient connect` does with one."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from socksclient._net.sockets import PlainSocket
from socksclient._sync.tls import speaks_tls

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RelayError", "relay"]

_SIZE = 65536

# Of those that take any descriptor; Windows has select only.
_Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class RelayError(Exception):
    """What broke, and how; for the user to read."""


def relay(sock: socket.socket, stdin: int | None, stdout: int) -> None:
    """Takes octets from `stdin` to `sock` and from `sock` to `stdout`, until both have ended.

    The end of `stdin` is passed on (the other side reads to its end, and may go on sending), but
    not through TLS, which has no such thing: there it waits for the end of the other side. That
    is passed on as well: `stdout` leads nowhere from then on. A terminal's input would not end
    by itself, so that the end of the other side is the end of all where `stdin` is one.

    Args:
        sock: It is non-blocking afterwards, and still open.
        stdin: A descriptor of any kind; None is one that has ended.
        stdout: A descriptor of any kind.

    Raises:
        BrokenPipeError: Nobody reads `stdout` any more.
        RelayError: Something else failed.
    """
    end = _End(sock)
    failures: list[Exception] = []

    def send() -> None:
        try:
            _send(stdin, end)
        except (RelayError, ValueError) as error:  # the latter when `sock` is closed by then
            failures.append(error)
            end.abort()

    try:
        # The thread may read for ever, so the process must be able to end without it.
        sending = threading.Thread(target=send, name="stdin", daemon=True)
        sending.start()
    except RuntimeError as error:
        raise RelayError(f"cannot start the thread that reads standard input: {error}") from error
    try:
        while octets := end.receive():
            _write(stdout, octets)
    except RelayError as error:
        failures.append(error)  # if it is the sending that failed, that was the first
    else:
        _close(stdout)
        if stdin is None or not os.isatty(stdin):
            sending.join()
    if failures:
        raise failures[0]


def _send(stdin: int | None, end: _End) -> None:
    while stdin is not None and (octets := _read(stdin)):
        end.send(octets)
    end.finish()


class _End:
    """This end of the connection: one thread may receive while another sends.

    OpenSSL does not allow that by itself. So each operation has the connection to itself, and
    does not wait while it has; the waiting is done outside.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._turn = threading.Lock()

    def receive(self) -> bytes:
        with _told("the connection broke"):
            while True:
                event = selectors.EVENT_READ
                try:
                    with self._turn, suppress(BlockingIOError, ssl.SSLWantReadError):
                        return self._sock.recv(_SIZE)
                except ssl.SSLWantWriteError:  # TLS 1.2 is negotiated anew
                    event = selectors.EVENT_WRITE
                _wait(self._sock, event)

    def send(self, octets: bytes) -> None:
        left = memoryview(octets)
        with _told("the connection broke"):
            while left:
                sent = 0
                try:
                    with self._turn, suppress(BlockingIOError, ssl.SSLWantWriteError):
                        sent = self._sock.send(left)
                except ssl.SSLWantReadError:  # TLS 1.2 is negotiated anew
                    # It may be the other thread that reads what is wanted.
                    _wait(self._sock, selectors.EVENT_READ, 0.05)
                    continue
                left = left[sent:]
                if not sent:
                    _wait(self._sock, selectors.EVENT_WRITE)

    def finish(self) -> None:
        """Nothing more will be sent."""
        if not speaks_tls(self._sock):
            with suppress(OSError):  # it has broken: who receives is told
                self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Make a thread that receives find the end."""
        with suppress(OSError):
            # `SSLSocket.shutdown` drops the TLS layer, and that thread would receive ciphertext.
            PlainSocket.shutdown(self._sock, socket.SHUT_RDWR)


def _read(fd: int) -> bytes:
    with _told("cannot read the standard input"):
        while True:
            with suppress(BlockingIOError):  # whoever shares it with us has made it so
                return os.read(fd, _SIZE)
            _wait(fd, selectors.EVENT_READ)


def _write(fd: int, octets: bytes) -> None:
    left = memoryview(octets)
    with _told("cannot write to the standard output", besides=BrokenPipeError):
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                _wait(fd, selectors.EVENT_WRITE)


def _close(stdout: int) -> None:
    """Lets its reader see the end, and keeps the descriptor from being anything else."""
    if stat.S_ISSOCK(os.fstat(stdout).st_mode):
        # It may be the standard input too, which holds it open.
        with suppress(OSError), PlainSocket(fileno=os.dup(stdout)) as sock:
            sock.shutdown(socket.SHUT_WR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)


def _wait(descriptor: int | socket.socket, event: int, seconds: float | None = None) -> None:
    with _Selector() as selector:
        selector.register(descriptor, event)
        selector.select(seconds)


@contextmanager
def _told(what: str, besides: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """An OSError, `besides` that one, becomes a `RelayError` that says what has failed."""
    try:
        yield
    except besides:
        raise
    except OSError as error:
        raise RelayError(f"{what}: {error.strerror or error}") from error
