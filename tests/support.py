"""What the tests share: small servers on loopback, and ways to look at the process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import uvloop

from socksclient import ProxyLike

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Address = tuple[str, int]


class Loop(uvloop.Loop):
    """uvloop, but with Python's resolver, which tests can watch and replace."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return await self.run_in_executor(None, partial(socket.getaddrinfo, *args, **kwargs))


BACKENDS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"loop_factory": Loop}},
    "trio": {"backend": "trio"},
}


class Dial(Protocol):
    """Connects by one of the drivers, and returns a blocking socket."""

    def __call__(
        self, address: Address, *, proxy: ProxyLike, timeout: float = 10.0
    ) -> socket.socket: ...


@contextmanager
def serving(handler: Handler, host: str = "127.0.0.1") -> Iterator[Address]:
    """An asyncio server in a thread of its own; yields where it listens."""
    loops: list[asyncio.AbstractEventLoop] = []
    tasks: set[asyncio.Task[None]] = set()
    stop = asyncio.Event()
    started = threading.Event()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=2048)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handle(reader, writer))
        tasks.add(task)  # the event loop itself holds them weakly only
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also when it never got to run

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await handler(reader, writer)

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(accept, sock=listener)
        started.set()
        await stop.wait()
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
    """Sends back what comes."""
    while octets := await reader.read(65536):
        writer.write(octets)
        await writer.drain()


GREETING = b"220 the destination speaks first\r\n"


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks first, as SSH, SMTP and FTP do; then sends back what comes."""
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
    """That the socket leads to an echo server, and that nothing else comes."""
    sock.sendall(token)
    assert receive_exactly(sock, len(token)) == token
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""


def refused_port(host: str = "127.0.0.1") -> int:
    """A port at which nobody listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def silence(host: str = "127.0.0.1", port: int = 0) -> Iterator[Address]:
    """An address that lets no connection through: its listener's queue is full."""
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


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def settled_descriptors() -> int:
    """The same, when what earlier tests have left to other threads is closed as well."""
    counts = [descriptors()]
    while len(counts) < 10 or len(set(counts[-10:])) > 1:
        threading.Event().wait(0.005)
        counts.append(descriptors())
    return counts[-1]


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


@contextmanager
def resolved_names() -> Iterator[list[str]]:
    """Every name that anything in this process gives to a resolver of Python's, meanwhile."""
    global _resolved  # noqa: PLW0603 - an audit hook cannot be taken away
    _resolved = []
    try:
        yield _resolved
    finally:
        _resolved = None


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether the condition comes true, as what it waits for goes on in another thread."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.005)
    return True


def resolver(
    look_up: Callable[[str], Sequence[str]],
) -> Callable[..., list[tuple[int, int, int, str, tuple[object, ...]]]]:
    """A `socket.getaddrinfo` that finds the IP addresses of a name by `look_up`."""

    def getaddrinfo(
        host: bytes | str,
        port: int,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as it is called in the original
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
