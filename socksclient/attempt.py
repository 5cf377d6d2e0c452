"""`Attempt`: how far one attempt has come, for the log and for every error that ends it."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from socksclient.exceptions import (
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    ReplyError,
    SocksError,
    host_port,
)
from socksclient.wire import Command, parse_host, parse_port

if TYPE_CHECKING:
    from types import TracebackType

    from socksclient.exceptions import Phase
    from socksclient.proxy import Proxy

NOT_KNOWN = ("0.0.0.0", 0)
"""The address that a UDP association announces if its source is not known."""

_logger = logging.getLogger("socksclient")


class Attempt:
    """One attempt to have something of `proxy`: a context manager around it.

    It is the one border at which the deadline and what keeps the proxy from being reached become
    a `SocksError`, and at which every `SocksError` gets its place. All else passes untouched:
    cancellation, a caller's mistakes, whatever a method of the caller's own raises.

    Attributes:
        destination: The (host, port) as the caller gave it; None of a UDP association, which
            has no one destination.
        target: DST.ADDR and DST.PORT of the request.
        phase: Where the attempt stands.
        earlier: What became of other addresses of the destination, for the notes of the last error.

    Raises:
        ValueError: Host or port cannot be.
    """

    def __init__(
        self, proxy: Proxy, host: str, port: int, command: Command = Command.CONNECT
    ) -> None:
        self.proxy = proxy
        self.command = command
        self.destination = None if command == Command.UDP_ASSOCIATE else (host, port)
        # Only a connection needs its port: BIND and UDP ASSOCIATE have 0 for "not known".
        least = 1 if command == Command.CONNECT else 0
        self.target = (parse_host(host), parse_port(port, least=least))
        self.phase: Phase = "resolve"
        self.earlier: list[str] = []

    def ask_over(self, family: int, target: tuple[str, int]) -> tuple[str, int]:
        """DST.ADDR and DST.PORT of the request for `target` on a connection of that family.

        A UDP association whose source is not known has all zeros there (RFC 1928 §7), and by
        their family Dante chooses that of its relay: where it listens at IPv6 addresses only, it
        refuses the zeros of IPv4 (REP 08).
        """
        if self.command == Command.UDP_ASSOCIATE and target == NOT_KNOWN:
            return ("::" if family == socket.AF_INET6 else NOT_KNOWN[0]), 0
        return target

    def enter(self, phase: Phase) -> None:
        """A new phase begins."""
        self.phase = phase
        self.log(phase)

    def log(self, event: str) -> None:
        """One line at DEBUG. The proxy's `str` has no credentials in it."""
        if _logger.isEnabledFor(logging.DEBUG):
            what = "" if self.command == Command.CONNECT else f"{self.command.text} "
            if self.destination is not None:
                what += host_port(*self.destination)
            _logger.debug("%s via %s: %s", what.rstrip(), self.proxy, event)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        error = self._socks_error(exc)
        if error is None or error.proxy is not None:  # the latter has been here before
            return
        error.proxy = self.proxy
        error.destination = self.destination
        error.phase = self.phase
        if self.earlier:
            error.__notes__ = [*getattr(error, "__notes__", ()), *self.earlier]
        self.log(f"failed: {error.strerror}")
        if error is not exc:
            try:
                raise error from exc
            finally:
                del error, exc  # or they and this frame would hold each other

    def _socks_error(self, exc: BaseException | None) -> SocksError | None:
        if isinstance(exc, SocksError):
            return exc
        if is_deadline(exc):
            return ProxyTimeout()
        if isinstance(exc, OSError) and self.phase in ("resolve", "connect"):
            return ProxyConnectError(f"cannot reach the proxy: {exc.strerror or exc}", exc.errno)
        return None


def is_deadline(exc: BaseException | None) -> bool:
    """Whether it is a deadline of ours, and not the kernel giving up (ETIMEDOUT)."""
    return isinstance(exc, TimeoutError) and exc.errno is None


def next_address_may_do(error: SocksError) -> bool:
    """Whether another address of the same destination could succeed where one has failed.

    After REP 03, 04, 05 and 08, and when the proxy hangs up on the request: `ssh -D` does so for
    every failure.
    """
    if isinstance(error, ReplyError):
        return error.reply in (
            Reply.NETWORK_UNREACHABLE,
            Reply.HOST_UNREACHABLE,
            Reply.CONNECTION_REFUSED,
            Reply.ADDRESS_TYPE_NOT_SUPPORTED,
        )
    return isinstance(error, ProxyClosed) and error.phase == "request"
