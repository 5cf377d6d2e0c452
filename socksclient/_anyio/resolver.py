"""Awaited: resolve a name, with the resolver of the event loop if the loop has one."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.lowlevel import RunVar

from socksclient._net.resolver import addresses_found, look_up, name_to_ask, resolver_failures
from socksclient.protocol.address import SocketAddress
from socksclient.protocol.steps import Resolve

_MAX_THREADS = 40
"""How many names one event loop resolves at once, which is anyio's default for all threads."""

_limiter: RunVar[anyio.CapacityLimiter] = RunVar("socksclient resolver")
"""Counts the threads that resolve names, for each event loop by itself."""


async def addresses_of(step: Resolve) -> list[SocketAddress]:
    """Return the addresses of the name that a step asks for.

    Nothing can interrupt getaddrinfo. So getaddrinfo runs in a thread, and this function leaves
    that thread to itself when the caller is cancelled. Where no thread can be started, getaddrinfo
    runs in the thread of the event loop, and holds up all other tasks.

    Raises:
        OSError: The resolver has failed (`socksclient._net.resolver.look_up`).
    """
    if getaddrinfo := _resolver_of_the_event_loop():
        with resolver_failures():
            found = await getaddrinfo(name_to_ask(step.host), step.port, type=socket.SOCK_STREAM)
            return addresses_found(found)
    try:
        # `anyio.getaddrinfo` will not do, because on asyncio and on trio it passes the name as
        # octets (see `name_to_ask`).
        return await anyio.to_thread.run_sync(
            look_up, *step, abandon_on_cancel=True, limiter=_limiter_of_the_event_loop()
        )
    except RuntimeError:
        # No thread can be started, as `socksclient._sync.resolver` tells.
        return look_up(*step)


def _resolver_of_the_event_loop() -> Callable[..., Awaitable[Iterable[tuple[Any, ...]]]] | None:
    """Return the event loop's own replacement of `socket.getaddrinfo`, if the loop has one.

    uvloop has a resolver of its own, and so may other event loops for asyncio. A program can set
    one for trio.
    """
    # On asyncio, the token is the loop.
    getaddrinfo = getattr(anyio.lowlevel.current_token().native_token, "getaddrinfo", None)
    if getaddrinfo is not None:
        return None if getaddrinfo.__module__ == "asyncio.base_events" else getaddrinfo
    import trio

    # trio tells which resolver has been set only to a program that sets another. No other task runs
    # between the two lines.
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(resolver)
    return None if resolver is None else trio.socket.getaddrinfo


def _limiter_of_the_event_loop() -> anyio.CapacityLimiter:
    """Return the limiter of the threads that resolve names.

    anyio's default limiter will not do: it belongs to the caller, whose threads may all be waiting
    for the connection that needs the name.
    """
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_MAX_THREADS)
        _limiter.set(limiter)
        return limiter
