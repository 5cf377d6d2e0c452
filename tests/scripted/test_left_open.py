"""Nothing is left open: after every failure, timeout and cancellation, at every phase.

The exception is still held, with all its frames, and the garbage collector is off.
"""

from __future__ import annotations

import gc
import selectors
import signal
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream

import socksclient
import socksclient.anyio
from socksclient.testing import Faults, SocksServer

from helpers.support import (
    LONG,
    REFUSED_PORT,
    Address,
    Dial,
    descriptors,
    echo,
    eventually,
    greet,
    serving,
    settled_descriptors,
    silence,
)

ACCOUNTS = {"user": "pass"}


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def destination() -> Iterator[Address]:
    """Yield an address where the system completes connections, and nobody accepts them.

    So the destination opens no descriptors in this process.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.mark.parametrize(
    "faults",
    [
        Faults(reply=0x01),
        Faults(status=0x01),
        Faults(method=0xFF),
        Faults(method=0x01),
        Faults(answers={"method selection": b"HTTP/1.1 400 Bad Request\r\n\r\n"}),
    ],
    ids=str,
)
def test_left_open_after_failure(dial: Dial, destination: Address, faults: Faults) -> None:
    with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
        before = settled_descriptors()
        with pytest.raises(socksclient.SocksError) as held:
            dial(destination, proxy=server.url)
        assert eventually(lambda: descriptors() <= before), held


def test_left_open_after_connect_timeout(dial: Dial, names: dict[str, list[str]]) -> None:
    names["proxy.test"] = ["127.0.0.10", "127.0.0.11"]
    with silence("127.0.0.10") as (_, port), silence("127.0.0.11", port):
        before = settled_descriptors()
        for host in ("127.0.0.10", "proxy.test"):
            with pytest.raises(TimeoutError) as held:
                dial(("192.0.2.1", 80), proxy=f"socks5h://{host}:{port}", timeout=0.3)
            assert eventually(lambda: descriptors() <= before), held


def test_left_open_after_lost_race(dial: Dial, names: dict[str, list[str]]) -> None:
    names["proxy.test"] = ["127.0.0.12", "127.0.0.1"]
    with (
        serving(echo) as destination,
        SocksServer() as server,
        silence("127.0.0.12", server.address[1]),
    ):
        before = settled_descriptors()
        with dial(destination, proxy=f"socks5h://proxy.test:{server.address[1]}"):
            pass
        assert eventually(lambda: descriptors() <= before)


def test_left_open_after_source_address_of_other_family(names: dict[str, list[str]]) -> None:
    names["proxy.test"] = ["127.0.0.8", "127.0.0.9"]
    before = settled_descriptors()
    for host in ("127.0.0.1", "proxy.test"):
        with pytest.raises(socksclient.ProxyConnectError, match="Address family") as held:
            socksclient.create_connection(
                ("192.0.2.1", 80),
                source_address=("::1", 0),
                proxy=f"socks5h://{host}",
            )
        assert descriptors() <= before, held


@pytest.mark.anyio
async def test_left_open_after_cancellation_in_from_socket(
    destination: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []

    async def from_socket(sock: socket.socket) -> None:
        opened.append(sock)
        group.cancel_scope.cancel()
        await anyio.sleep_forever()

    monkeypatch.setattr(SocketStream, "from_socket", from_socket)
    with SocksServer() as server:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(socksclient.anyio.connect_tcp, *destination, proxy=server.url))
    with pytest.raises(OSError, match="Bad file descriptor"):
        opened[0].getsockname()


@pytest.mark.anyio
async def test_left_open_after_failed_tls_with_destination() -> None:
    with serving(greet) as destination, SocksServer() as server:
        before = settled_descriptors()
        with pytest.raises(ssl.SSLError) as held:
            await socksclient.anyio.connect_tcp(*destination, proxy=server.url, tls=True)
        assert await settles(before), held


async def settles(before: int) -> bool:
    """Return whether the event loop closes sockets until no more than `before` are open."""
    with anyio.move_on_after(LONG):
        while descriptors() > before:
            await anyio.lowlevel.checkpoint()
        return True
    return False


def test_left_open_after_interrupt_in_connect(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]
) -> None:
    names["proxy.test"] = ["127.0.0.10", "127.0.0.11"]

    class InterruptedSelector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> NoReturn:
            raise KeyboardInterrupt

    with silence("127.0.0.10") as (_, port), silence("127.0.0.11", port):
        before = settled_descriptors()
        monkeypatch.setattr(selectors, "DefaultSelector", InterruptedSelector)
        with pytest.raises(KeyboardInterrupt) as held:
            socksclient.create_connection(("192.0.2.1", 80), proxy=f"socks5h://proxy.test:{port}")
        assert descriptors() <= before, held


def test_left_open_after_interrupt_in_handshake() -> None:
    interrupted = threading.Event()

    def interrupt(*_args: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def kill(thread: int) -> None:
        eventually(lambda: bool(server.connections and server.connections[0].methods))
        # More than once: just before the system call, a signal does not end it.
        while not interrupted.wait(0.01):
            signal.pthread_kill(thread, signal.SIGUSR1)

    original = signal.signal(signal.SIGUSR1, interrupt)
    with SocksServer(faults=Faults(stall_after=0)) as server:
        before = settled_descriptors()
        killer = threading.Thread(target=kill, args=(threading.get_ident(),))
        killer.start()
        with pytest.raises(KeyboardInterrupt) as held:
            socksclient.create_connection(("192.0.2.1", 80), proxy=server.url)
        killer.join()
        assert eventually(lambda: descriptors() <= before), held
    signal.signal(signal.SIGUSR1, original)


def test_error_keeps_no_frame(names: dict[str, list[str]]) -> None:
    """An error that nobody holds frees its frames at once: it is in no reference cycle."""

    class Local:
        pass

    def fail(proxy: str, timeout: float | None) -> weakref.ref[Local]:
        local = Local()
        with pytest.raises(socksclient.SocksError):
            socksclient.create_connection(("192.0.2.1", 80), timeout, proxy=proxy)
        return weakref.ref(local)

    for timeout in (LONG, None):
        assert fail(f"socks5h://127.0.0.1:{REFUSED_PORT}", timeout)() is None
        assert fail("socks5h://nowhere.test:1080", timeout)() is None
