"""The log, and the place of errors: what both drivers tell about the way through a chain.

The log has the name ``socksclient``, and one line at DEBUG for each step. No line has credentials
in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from socksclient.protocol.address import host_port
from socksclient.protocol.codes import Command, Phase
from socksclient.protocol.exceptions import SocksError
from socksclient.protocol.place import place
from socksclient.protocol.route import Route
from socksclient.protocol.steps import Event, Report

__all__ = ["Observer", "log", "placed", "report_to"]

Observer: TypeAlias = Callable[[Event, float], None]
"""A function that gets each event of a call, and the time of the event (`time.monotonic`)."""

_logger = logging.getLogger("socksclient")


def log(route: Route, hop: int, text: str) -> None:
    """Write one line at DEBUG about a hop.

    Args:
        route: The requests to the hops.
        hop: The position of the hop in the chain; -1 is the last one.
        text: What has happened. It has no credentials in it, and neither has the text of a `Proxy`.
    """
    if not _logger.isEnabledFor(logging.DEBUG):
        return
    command = route.last.command
    what = "" if command == Command.CONNECT else f"{command.text} "
    if route.destination is not None:
        what += host_port(*route.destination)
    proxy = route.requests[hop].proxy
    where = f"hop {hop}, {proxy}" if len(route.requests) > 1 else proxy
    _logger.debug("%s via %s: %s", what.rstrip(), where, text)


def report_to(route: Route, observer: Observer | None) -> Report | None:
    """Return the function to which `tunnel` reports: it writes the log and calls the observer.

    Without an observer and without a log at DEBUG this returns None, so that `tunnel` saves the
    time of making events.
    """
    if observer is None and not _logger.isEnabledFor(logging.DEBUG):
        return None

    def report(event: Event) -> None:
        if event.note:
            log(route, event.hop, event.note)
        if observer is not None:
            observer(event, time.monotonic())

    return report


@contextmanager
def placed(route: Route, phase: Phase, hop: int = -1) -> Iterator[None]:
    """Add its place to an error that is raised when the way through the chain is open already.

    An error that has a place already is in the log too, and goes on as it is.

    Args:
        route: The requests to the hops.
        phase: How far the way has come.
        hop: The position of the hop; by default the last one.

    Raises:
        SocksError: The error that `place` returns.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, SocksError) and error.proxy is not None:
            raise
        hop %= len(route.requests)
        failure = place(error, route, hop, phase)
        try:
            # The text of another error may hold what a method of the user's own has put there.
            if isinstance(failure, SocksError):
                log(route, hop, f"failed: {failure.strerror}")
            raise failure
        finally:
            # Otherwise the error and this frame would keep each other alive.
            del failure
