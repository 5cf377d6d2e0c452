"""Timeouts of blocking calls: what a caller may pass, and the instant that follows from it."""

from __future__ import annotations

import socket
import time
from typing import Any, Protocol

__all__ = ["DEFAULT_TIMEOUT", "MAX_TIMEOUT", "Deadline", "checked_timeout", "is_default"]

DEFAULT_TIMEOUT: Any = object()
"""Stands for the timeout of `socket.setdefaulttimeout`, when a caller passes no timeout."""

MAX_TIMEOUT = 0x7FFFFFFF // 1000
"""The longest timeout in seconds, 24 days. Systems take at most 31 bits of milliseconds."""


def checked_timeout(timeout: float | None) -> float | None:
    """Return the seconds that a caller means by `timeout`; None means no limit.

    Args:
        timeout: The seconds, None, or `DEFAULT_TIMEOUT`.

    Raises:
        TypeError: The timeout is not a number and not None.
        ValueError: The timeout is not above 0, or above `MAX_TIMEOUT`.
    """
    if is_default(timeout):
        timeout = socket.getdefaulttimeout()
    if not isinstance(timeout, int | float | None):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__!r}")
    if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(
            f"timeout must be more than 0 and at most {MAX_TIMEOUT} seconds, or None, not"
            f" {timeout}; for non-blocking sockets see socksclient.anyio"
        )
    return timeout


def is_default(timeout: object) -> bool:
    """Return whether `timeout` stands for the default.

    http.client passes on the object that stands for the default in `socket.create_connection`. Like
    `DEFAULT_TIMEOUT`, that is a bare object.
    """
    return type(timeout) is object


class HasTimeout(Protocol):
    """A socket, or an object that has a timeout as a socket has."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Set the seconds for which one operation may wait; None sets no limit."""


class Deadline:
    """The instant by which all of a call is done.

    Args:
        timeout: The seconds from now to the instant; with None there is no deadline.
    """

    def __init__(self, timeout: float | None) -> None:
        self._instant = None if timeout is None else time.monotonic() + min(timeout, MAX_TIMEOUT)

    def left(self) -> float | None:
        """Return the seconds until the deadline, more than 0; None if there is no deadline.

        Raises:
            TimeoutError: The deadline has passed.
        """
        if self._instant is None:
            return None
        left = self._instant - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def limit(self, sock: HasTimeout) -> None:
        """Let the next operation of `sock` wait until the deadline, and no longer.

        A driver calls this before each operation, because the time that is left shrinks. Without a
        deadline the timeout of the socket stays, because setting a timeout is a system call.

        Raises:
            TimeoutError: The deadline has passed.
        """
        if self._instant is not None:
            sock.settimeout(self.left())
