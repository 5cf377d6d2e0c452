"""What the tests share: small servers on loopback, and ways to look at the process."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import pytest

from socksclient import Proxy, ProxyLike
from socksclient._net.association import Association, Granted
from socksclient._net.relay import routes_of
from socksclient.protocol import socks5
from socksclient.protocol.address import Host, encode_address, host_port
from socksclient.protocol.steps import Grant

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Address = tuple[str, int]
T = TypeVar("T")

LONG = 60.0
"""Seconds of a timeout that must not pass, even if the machine is busy with other things."""

SHORT = 1.0
"""Seconds of a timeout that must pass, but only after the proxy has come to where it stalls."""


def encode_datagram_header(host: str, port: int) -> bytes:
    """Return RSV FRAG ATYP DST.ADDR DST.PORT for any host."""
    return socks5.encode_datagram_header(Host.of(host), port)


BACKENDS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "trio": {"backend": "trio"},
}
# uvloop does not exist for Windows.
if sys.platform != "win32":
    from helpers.uvloop_resolver import Loop

    BACKENDS["uvloop"] = {"backend": "asyncio", "backend_options": {"loop_factory": Loop}}


class Dial(Protocol):
    """Connects by one of the drivers, and returns a blocking socket."""

    def __call__(
        self, address: Address, *, proxy: ProxyLike, timeout: float = LONG
    ) -> socket.socket: ...


@contextmanager
def serving(handler: Handler, host: str = "127.0.0.1") -> Iterator[Address]:
    """Run an asyncio server in a thread of its own, and yield where it listens."""
    loops: list[asyncio.AbstractEventLoop] = []
    tasks: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    started = threading.Event()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=2048)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handle(reader, writer))
        # The event loop itself refers to its tasks only weakly.
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # The connection is closed even if the task was cancelled before it began to run.
        task.add_done_callback(lambda _: writer.close())

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await handler(reader, writer)

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(accept, sock=listener)
        started.set()
        await stop.wait()
        # Whom the server has not attached yet when it is closed, it leaves open (CPython's
        # Server._attach fails then): so it accepts no more, and then attaches the last ones.
        loops[0].remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    started.wait()
    try:
        yield (host, listener.getsockname()[1])
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    while octets := await reader.read(65536):
        writer.write(octets)
        await writer.drain()


GREETING = b"220 the destination speaks first\r\n"


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a greeting first, as SSH, SMTP and FTP do, and then send back what comes."""
    writer.write(GREETING)
    await echo(reader, writer)


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        received = sock.recv(count - len(octets))
        assert received, f"got {len(octets)} of {count} octets"
        octets += received
    return octets


def assert_echoes(sock: socket.socket, token: bytes = b"there and back") -> None:
    """Check that the socket leads to an echo server, and that nothing else comes."""
    sock.sendall(token)
    assert receive_exactly(sock, len(token)) == token
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""


# It never listens, and is kept, so that the system gives the port to nobody else: neither to a
# server of another test, nor to the client that connects to it, which would meet itself there.
_nobody = socket.socket()
_nobody.bind(("0.0.0.0", 0))
atexit.register(_nobody.close)

REFUSED_PORT: int = _nobody.getsockname()[1]
"""A port at which nobody listens, at every IPv4 address."""


@contextmanager
def silence(host: str = "127.0.0.1", port: int = 0) -> Iterator[Address]:
    """Yield an address that lets no connection through: its listener's queue is full.

    With a `port`, give a host that no client has had: a connection that has ended may hold the
    port for a minute.
    """
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        address: Address = listener.getsockname()
        queued = []
        try:
            for _ in range(4):
                sock = socket.socket()
                queued.append(sock)
                sock.setblocking(False)
                sock.connect_ex(address)
            yield address
        finally:
            for sock in queued:
                sock.close()


def reset(sock: socket.socket) -> None:
    """End a connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def answering_datagrams(
    answer: Callable[[bytes], bytes | None], host: str = "127.0.0.1", port: int = 0
) -> Iterator[Address]:
    """Run a UDP server in a thread of its own; yield its (host, port).

    Args:
        answer: Returns the answer to a datagram; None if there is none.
        host: The IP address to listen at.
        port: The port to listen at; 0 lets the system choose.

    Raises:
        OSError: The port is taken.
    """
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        address: Address = sock.getsockname()[:2]

        def serve() -> None:
            while True:
                data, client = sock.recvfrom(65535)
                if client[:2] == address:
                    return
                if (answered := answer(data)) is not None:
                    sock.sendto(answered, client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            # A datagram from the server to itself ends the thread.
            sock.sendto(b"", address)
            thread.join()


def echoing_datagrams(host: str = "127.0.0.1", port: int = 0) -> AbstractContextManager[Address]:
    """Run a UDP server that sends back every datagram, as `answering_datagrams` does."""
    return answering_datagrams(lambda data: data, host, port)


class PlayedProxy:
    """A proxy that grants one UDP association, and whose part the test plays from then on.

    Args:
        host: The IP address at which the proxy and its relay listen.
        bound_host: The host in the reply, in place of `host`.

    Attributes:
        control: The connection on which the association was granted.
        handshake: The octets that the client sent on `control`.
        relay: The socket of the relay.
        client: The source of the client's datagrams; `hear` sets it.
    """

    client: Address

    def __init__(self, host: str = "127.0.0.1", bound_host: str | None = None) -> None:
        self._host = host
        self._bound_host = bound_host or host

    def __enter__(self) -> PlayedProxy:
        family = family_of(self._host)
        with ExitStack() as stack:
            self._listener = socket.create_server((self._host, 0), family=family)
            stack.enter_context(self._listener)
            self.relay = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            self.relay.bind((self._host, 0))
            self.relay.settimeout(LONG)
            self._stack = stack.pop_all()
        self._listener.settimeout(LONG)
        self.url = f"socks5h://{host_port(self._host, self._listener.getsockname()[1])}"
        thread = threading.Thread(target=self._grant, daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _grant(self) -> None:
        self.control, _ = self._listener.accept()
        self._stack.enter_context(self.control)
        self.handshake = receive_exactly(self.control, 3)
        self.control.sendall(b"\x05\x00")
        self.handshake += self.control.recv(300)
        bound_address = encode_address(Host.of(self._bound_host), self.relay.getsockname()[1])
        self.control.sendall(b"\x05\x00\x00" + bound_address)

    def hear(self) -> bytes:
        """Return the next datagram of the client, with its header."""
        octets, self.client = self.relay.recvfrom(65535)
        return octets

    def say(self, *datagrams: bytes) -> None:
        """Send datagrams to the client."""
        for datagram in datagrams:
            self.relay.sendto(datagram, self.client)

    def end(self) -> None:
        """End the association by a hang-up."""
        self.control.close()

    def reset(self) -> None:
        """End the association with RST."""
        reset(self.control)


@contextmanager
def unix_association() -> Iterator[tuple[Association, socket.socket]]:
    """Yield an association over sockets of Unix, and the socket of its relay."""
    with ExitStack() as stack:
        control, proxy = socket.socketpair()
        udp, relay = socket.socketpair(type=socket.SOCK_DGRAM)
        for sock in (control, proxy, udp, relay):
            stack.enter_context(sock)
        udp.setblocking(False)
        relay.settimeout(LONG)
        [route] = routes_of((Proxy("127.0.0.1"),), ("0.0.0.0", 0))
        granted = Granted(route, control, Grant(("127.0.0.1", 1), None))
        association = Association([granted], udp, [(Host.of("127.0.0.1"), 1)])
        stack.callback(association.close)
        yield association, relay


@contextmanager
def no_room() -> Iterator[tuple[Association, socket.socket]]:
    """Yield an association that has no room for a datagram until the relay receives."""
    with unix_association() as (association, relay):
        with suppress(BlockingIOError):
            while True:
                association.udp.send(b"")
        yield association, relay


def make_room(relay: socket.socket) -> bytes:
    """Return the first datagram that did not have room before."""
    while not (octets := relay.recv(65535)):
        pass
    return octets


@contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` in another thread, again and again, and ignore each OSError."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            with suppress(OSError):
                act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def in_thread(function: Callable[[], T]) -> Future[T]:
    """Call the function in a thread, and return when the thread waits for something."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        # The error is raised where the test asks for the result.
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    # If the test fails, the function may never return.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    state = Path(f"/proc/self/task/{thread.native_id}/stat")
    asleep = 0
    while asleep < 3 and not future.done():
        # This wait also lets the thread run, in case the thread waits for that alone.
        threading.Event().wait(0.002)
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            asleep = asleep + 1 if state.read_text().rpartition(")")[2].split()[0] == "S" else 0
    return future


def descriptors() -> int:
    """Return how many file descriptors this process has open, those of /dev/null left out.

    A loop of uvloop opens /dev/null when a transport is made for its first stream, and keeps that
    descriptor until the loop is closed.
    """
    folder = "/proc/self/fd"
    count = 0
    for name in os.listdir(folder):
        # The descriptor of the listing itself, and others meanwhile, are closed already.
        with suppress(FileNotFoundError):
            count += os.readlink(f"{folder}/{name}") != os.devnull
    return count


@cache
def run_every_event_loop() -> None:
    """Run each kind of event loop once: the first of uvloop's opens a pipe for the process."""

    def run() -> None:
        for options in BACKENDS.values():
            anyio.run(anyio.sleep, 0, **options)

    # The caller may be inside an event loop, which allows no other loop in its thread.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


async def open_first_stream() -> None:
    """Open a stream and close it: a loop of uvloop opens /dev/null for its first stream."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await (await anyio.connect_tcp(*listener.getsockname())).aclose()


def settled_descriptors() -> int:
    """Return the number of descriptors when other threads have closed those of earlier tests."""
    run_every_event_loop()
    counts = [descriptors()]
    while len(counts) < 10 or len(set(counts[-10:])) > 1:
        threading.Event().wait(0.005)
        counts.append(descriptors())
    return counts[-1]


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Check that what the context opens is closed at its end, and not by the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        before = settled_descriptors()
        yield
        assert eventually(lambda: descriptors() <= before)
    finally:
        gc.enable()


_resolved: list[str] | None = None


def _audit(event: str, args: tuple[object, ...]) -> None:
    if _resolved is not None and event in (
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.getnameinfo",
    ):
        host = args[0][0] if isinstance(args[0], tuple) else args[0]
        _resolved.append(host.decode() if isinstance(host, bytes) else str(host))


sys.addaudithook(_audit)


def needs(missing: Sequence[str]) -> pytest.MarkDecorator:
    """Skip a test if servers are missing, except with CI=true, where the test then fails."""
    return pytest.mark.skipif(
        bool(missing) and os.environ.get("CI") != "true",
        reason=f"not installed: {', '.join(missing)}",
    )


@contextmanager
def resolved_names() -> Iterator[list[str]]:
    """Yield a list that gets each name that this process gives to a resolver of Python."""
    # An audit hook cannot be removed, so that there is one for all tests.
    global _resolved  # noqa: PLW0603
    _resolved = []
    try:
        yield _resolved
    finally:
        _resolved = None


def eventually(condition: Callable[[], bool], seconds: float = LONG) -> bool:
    """Return whether the condition comes true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.005)
    return True


def resolver(
    look_up: Callable[[str], Sequence[str]],
) -> Callable[..., list[tuple[int, int, int, str, tuple[object, ...]]]]:
    """Return a `socket.getaddrinfo` that finds the IP addresses of a name by `look_up`."""

    def getaddrinfo(
        host: bytes | str,
        port: int,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as socket names it
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        name = host.decode() if isinstance(host, bytes) else host
        # trio asks so first, to learn whether there is anything to look up.
        addresses = [] if flags & socket.AI_NUMERICHOST else look_up(name)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, type, proto, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, type, proto, "", (address, port))
            for address in addresses
        ]

    return getaddrinfo
