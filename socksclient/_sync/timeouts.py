"""`Deadline`: the instant by which all of a blocking call must be done."""

from __future__ import annotations

import time
from typing import Protocol

from socksclient._net.sockets import MAX_TIMEOUT


class HasTimeout(Protocol):
    """A socket, or an object that has a timeout as a socket has."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Set the seconds for which one operation may wait; None sets no limit."""


class Deadline:
    """The instant by which all must be done."""

    def __init__(self, timeout: float | None) -> None:
        self._instant = None if timeout is None else time.monotonic() + min(timeout, MAX_TIMEOUT)

    def left(self) -> float | None:
        """The seconds left, more than 0; None without a deadline.

        Raises:
            TimeoutError: None are left.
        """
        if self._instant is None:
            return None
        left = self._instant - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def limit(self, sock: HasTimeout) -> None:
        """Has the next operation of `sock` end by then; each time anew, for what is left shrinks.

        Without a deadline the socket stays as it is: setting a timeout is a system call.
        """
        if self._instant is not None:
            sock.settimeout(self.left())
