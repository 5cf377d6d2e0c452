# mypy: ignore-errors
"""Awaited: the driver of the flows, on asyncio (uvloop too) and trio.

The handshake runs on the bare non-blocking socket, which is wrapped last, if at all: it costs
less than over a stream, and any library that takes a socket can have it. Only when a hop speaks
TLS, it goes on over a stream from there.
"""

from __future__ import annotations

import errno
import socket
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import SocketStream, UNIXSocketStream
from anyio.lowlevel import RunVar
from anyio.streams.tls import TLSAttribute, TLSStream

from old_way.net_attempt import is_deadline
from old_way.net_sockets import (
    PEEK_SIZE,
    Address,
    PlainSocket,
    SocketOption,
    Wait,
    addresses_found,
    at_path,
    carried_by,
    check_source,
    interleave,
    is_internet,
    literal,
    look_up,
    name_to_ask,
    race,
    resolver_failures,
)
from socksclient.protocol.exceptions import (
    ProxyClosed,
    ProxyConnectError,
    ResolveError,
    SocksError,
    host_port,
)
from socksclient.protocol.flow import Exchange, Flow, handshake

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable

    from old_way.net_attempt import Attempt
    from socksclient.protocol.proxy import Proxy

T = TypeVar("T")

Stream: TypeAlias = SocketStream | TLSStream
Channel: TypeAlias = PlainSocket | Stream
"""What a tunnel goes through: a non-blocking socket or, with TLS, a stream."""
AnyChannel = TypeVar("AnyChannel", bound=Channel)

_MAX_THREADS = 40
"""How many names one event loop resolves at once, which is anyio's default for all threads."""

_resolving: RunVar[anyio.CapacityLimiter] = RunVar("socksclient resolving")

NO_DELAY: SocketOption = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""As the streams of `anyio.connect_tcp` have it."""

_EXCHANGES_PER_TURN = 8
"""More than a handshake with one proxy has, so that an ordinary one takes no turn for this."""


async def open_stream(
    attempt: Attempt,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> Stream:
    """`open_tunnel`, with the socket wrapped."""
    channel, _ = await open_tunnel(attempt, local_host, [NO_DELAY, *socket_options])
    return await stream_of(attempt, channel)


async def stream_of(attempt: Attempt, channel: Channel) -> Stream:
    """The stream that `channel` is, or makes."""
    return await wrap(attempt, channel) if isinstance(channel, PlainSocket) else channel


async def wrap(attempt: Attempt, sock: PlainSocket) -> SocketStream:
    """The socket as a stream; closes it if that cannot be."""
    stream: SocketStream
    try:
        if is_internet(sock.family):
            stream = await SocketStream.from_socket(sock)
        else:
            stream = await UNIXSocketStream.from_socket(sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, ValueError):  # says anyio of a socket that is not connected any more
            with attempt:
                if attempt.phase == "tls":
                    text = "TLS with the proxy failed: the connection has ended"
                    raise ProxyConnectError(text, errno.ECONNRESET) from error
                attempt.phase = "relay"
                raise ProxyClosed("the connection ended after the proxy's reply") from error
        raise
    return await handed_over(stream)


async def handed_over(channel: AnyChannel) -> AnyChannel:
    """Return what has just been made, or close it if the task has been cancelled meanwhile.

    A task that is cancelled in the same turn of the event loop in which its wait ends goes on
    until it waits again. A caller that waits before it has put the channel where it will be closed
    would leave it open: httpcore's pool does so, and loses the place of the connection.
    """
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        await close(channel)
        raise
    return channel


async def open_tunnel(
    attempt: Attempt,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> tuple[Channel, tuple[str, int]]:
    """The connection on which the last hop has granted `attempt`, and the bound address.

    Where a target is resolved here (``socks5``), each of its addresses is tried on a connection
    of its own.
    """
    nearest = attempt.chain[0]
    check_source(local_host, nearest.path)
    source_address = None if local_host is None else (local_host, 0)
    # For a connection may fail at once, and who tries again without end is to be cancellable.
    await anyio.lowlevel.checkpoint()
    with attempt:
        for number, _ in enumerate(attempt.chain):
            attempt.hop = number
            attempt.targets[number] = await targets(attempt)
        attempt.hop = 0
        if nearest.path is not None:
            servers = [at_path(nearest.path)]
        else:
            servers = interleave(await _resolve(attempt, nearest.host, nearest.port))
    while True:
        try:
            with attempt:
                attempt.start()
                sock = await _connect(servers, source_address, socket_options)
                return await _through(attempt, sock)
        except SocksError as error:
            if not attempt.try_next_address(error):
                raise


async def targets(attempt: Attempt) -> list[tuple[str, int]]:
    """What to ask the hop for that the attempt stands at, one after the other."""
    host, port = target = attempt.target
    if not attempt.resolves_here:
        return [target]
    try:
        addresses = await _resolve(attempt, host, port)
    except OSError as error:
        if is_deadline(error):
            raise
        raise ResolveError.of(host, error) from error
    return [(address, port) for address in carried_by(attempt.proxy, host, addresses)]


async def _through(attempt: Attempt, sock: PlainSocket) -> tuple[Channel, tuple[str, int]]:
    """From one hop to the next, each on the connection through those before; closes it if not."""
    channel: Channel = sock
    bound_address = ("", 0)
    family = sock.family
    try:
        for number, hop in enumerate(attempt.chain):
            attempt.hop = number
            if hop.tls:
                attempt.enter("tls")
                channel = await stream_of(attempt, channel)
                channel = await _start_tls(hop, channel)
            flow = handshake(hop, *attempt.request_over(family), attempt.enter)
            bound_address = await run(flow, channel)
            attempt.log(f"granted, bound address {host_port(*bound_address)!r}")
    except BaseException:
        await close(channel)
        raise
    return await handed_over(channel), bound_address


async def close(channel: Channel) -> None:
    """Closes it at once."""
    if isinstance(channel, PlainSocket):
        channel.close()
    else:
        await anyio.aclose_forcefully(channel)


async def _start_tls(proxy: Proxy, stream: Stream) -> TLSStream:
    """Speaks TLS with `proxy` on `stream`, which stays open if that fails."""
    from socksclient._sync import tls

    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=tls.server_name(proxy.host),
            ssl_context=tls.context_of(proxy),
            standard_compatible=False,  # as an SSLSocket: many end without its closing handshake
        )
    except (OSError, ValueError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise tls.tls_failure(error) from error


async def run(flow: Flow[T], channel: Channel) -> T:
    """Drive `flow` on `channel`, which stays open whatever happens."""
    ssl_object = None
    if not isinstance(channel, PlainSocket):
        # uvloop tells nothing of a connection that has failed, so it is asked before.
        ssl_object = channel.extra(TLSAttribute.ssl_object)
    with closing(flow):
        try:
            step = next(flow)
            exchanges = 0
            while True:
                step = flow.send(await exchange(step, channel, ssl_object))
                exchanges += 1
                # Where octets are available already, an exchange does not wait. A proxy that says
                # very much in small pieces must not keep the other tasks from their turns.
                if exchanges % _EXCHANGES_PER_TURN == 0:
                    await anyio.lowlevel.checkpoint()
        except StopIteration as stop:
            result: T = stop.value
            return result


async def exchange(
    step: Exchange, channel: Channel, ssl_object: ssl.SSLObject | None = None
) -> bytes:
    """Do what one step of a flow asks for, and return the octets that it is to be sent.

    Args:
        step: What to write and to read.
        channel: What to write to and to read from.
        ssl_object: That of `channel`, if there is anything to write and `channel` is a stream.
    """
    octets = b""
    try:
        if step.send and isinstance(channel, PlainSocket):
            octets = await _say_to_socket(channel, step)
        elif step.send and not isinstance(channel, PlainSocket):
            octets = await _say_to_stream(channel, step)
        while len(octets) < (step.enough or step.read):
            received = await _receive(channel, step, octets, ssl_object)
            if not received:
                raise ConnectionResetError("it hung up")
            octets += received
    except (ConnectionError, anyio.BrokenResourceError) as error:
        raise step.closed(octets) from error
    except OSError as error:
        raise ProxyClosed.broken(error, octets) from error
    return octets


# A proxy may answer and close before it has read everything. Its answer has arrived then, and tells
# more than the failed write. So both of these functions may return octets of the answer already.
# They await outside of `except`: a cancellation is to have no other error as its context.


async def _say_to_socket(sock: PlainSocket, step: Exchange) -> bytes:
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
        # Or the error and this frame would hold each other.
        del failure


async def _send_all(sock: PlainSocket, step: Exchange) -> ConnectionError | None:
    """Send what a step says; return the error that says that the peer has hung up, if any does."""
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


async def _say_to_stream(stream: Stream, step: Exchange) -> bytes:
    # asyncio drops what has arrived when a write fails. So the stream receives meanwhile.
    octets = b""
    failures: list[Exception] = []

    async def send() -> None:
        try:
            # The repr of a memoryview shows no octets in any frame below.
            await stream.send(cast("bytes", memoryview(step.send)))
        except (OSError, anyio.BrokenResourceError) as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        try:
            octets = await _receive(stream, step, b"")
        except anyio.BusyResourceError:
            # The proxy asks for a message of TLS itself, such as a KeyUpdate (RFC 8446 §4.6.3),
            # which a TLSStream cannot write while another task writes.
            text = "with TLS, it asked for new keys while it was being written to"
            failures.append(OSError(errno.EPROTO, text))
            group.cancel_scope.cancel()
        except (OSError, anyio.BrokenResourceError) as error:
            failures.append(error)
    try:
        if failures and not octets:
            raise failures[0]
        return octets
    finally:
        # Or the errors and this frame would hold each other.
        failures.clear()


async def _receive(
    channel: Channel, step: Exchange, octets: bytes, ssl_object: ssl.SSLObject | None = None
) -> bytes:
    """Receive more of what the step asks for, after `octets`."""
    size = step.read - len(octets)
    if not isinstance(channel, PlainSocket):
        try:
            return await channel.receive(size)
        except anyio.EndOfStream:
            return b""
        except anyio.BrokenResourceError:
            # After a failed write, a TLSStream lets nobody receive. What it has decrypted is there.
            with suppress(OSError):
                if ssl_object is not None:
                    return ssl_object.read(size)
            raise
    while True:
        with suppress(BlockingIOError):
            if step.belonging is not None:
                arrived = channel.recv(PEEK_SIZE, socket.MSG_PEEK)
                size = max(size, step.belonging(octets + arrived) - len(octets))
            return channel.recv(size)
        await anyio.wait_readable(channel)


async def _connect(
    servers: list[Address],
    source_address: tuple[str, int] | None,
    socket_options: Iterable[SocketOption],
) -> socket.socket:
    """A socket connected to the first of `servers` that answers."""
    with closing(race(servers, source_address, socket_options)) as steps:
        try:
            step = next(steps)
            while True:
                step = steps.send(await _writable(step))
        except StopIteration as won:
            sock: PlainSocket = won.value
            return sock


async def _writable(step: Wait) -> list[socket.socket]:
    if len(step.sockets) == 1 and step.seconds is None:
        await anyio.wait_writable(step.sockets[0])
        return [step.sockets[0]]
    return await first_ready(anyio.wait_writable, step.sockets, step.seconds)


async def first_ready(
    wait: Callable[[socket.socket], Awaitable[None]],
    sockets: Iterable[socket.socket],
    seconds: float | None,
) -> list[socket.socket]:
    """Has `wait` wait for each of `sockets` until one is ready; returns those that are."""
    ready: list[socket.socket] = []
    failures: list[Exception] = []

    async def wait_for(sock: PlainSocket) -> None:
        try:
            await wait(sock)
            ready.append(sock)
        except Exception as error:  # noqa: BLE001 - it leaves the group without an exception group
            failures.append(error)
        group.cancel_scope.cancel()

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for sock in sockets:
                group.start_soon(wait_for, sock)
    if failures:
        raise failures.pop()
    return ready


async def _resolve(attempt: Attempt, host: str, port: int) -> list[Address]:
    """Return the addresses of `host`, in the order to try them.

    The resolver runs in a thread, which is left to itself when the caller is cancelled. Where no
    thread can be started, it runs in that of the event loop, and holds up all other tasks.
    """
    if address := literal(host, port):
        return [address]
    attempt.log(f"resolve {host}")
    if getaddrinfo := _resolver_of_the_event_loop():
        with resolver_failures():
            found = await getaddrinfo(name_to_ask(host), port, type=socket.SOCK_STREAM)
            return addresses_found(found)
    # Not by anyio.getaddrinfo: on asyncio and on trio that asks with octets.
    try:
        return await anyio.to_thread.run_sync(
            look_up, host, port, abandon_on_cancel=True, limiter=_limiter()
        )
    except RuntimeError:
        # As in the blocking driver: no thread can be started.
        return look_up(host, port)


def _resolver_of_the_event_loop() -> Callable[..., Awaitable[Iterable[tuple[Any, ...]]]] | None:
    """Return what the event loop has in place of `socket.getaddrinfo`, if it has anything."""
    # On asyncio, the token is the loop. uvloop has a resolver of its own, as others may have.
    getaddrinfo = getattr(anyio.lowlevel.current_token().native_token, "getaddrinfo", None)
    if getaddrinfo is not None:
        return None if getaddrinfo.__module__ == "asyncio.base_events" else getaddrinfo
    import trio

    # trio tells what has been set only to who sets it. No other task runs in between.
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(resolver)
    return None if resolver is None else trio.socket.getaddrinfo


def _limiter() -> anyio.CapacityLimiter:
    """Return what limits how many names this event loop resolves at once.

    The default limiter will not do. It is that of the caller, all of whose threads may be waiting
    for what is to be connected here.
    """
    try:
        return _resolving.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_MAX_THREADS)
        _resolving.set(limiter)
        return limiter
