"""UDP associations of every driver, with the same methods, and the datagrams of their tests."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.from_thread import BlockingPortal, start_blocking_portal

import socksclient.anyio
from socksclient import (
    AssociationClosed,
    ProxyLike,
    UDPAssociation,
)
from socksclient._net.association import Association

from helpers.support import (
    BACKENDS,
    LONG,
    Address,
    PlayedProxy,
    encode_datagram_header,
    family_of,
    in_thread,
)

DESTINATION = ("192.0.2.1", 53)

DATAGRAM = encode_datagram_header(*DESTINATION) + b"datagram"

SOON = 0.05
"""Seconds of a timeout that must pass."""

GARBAGE = [
    b"",
    b"\0\0\0",
    b"\0\0\0\x01",
    b"\0\0\0\x01" + bytes(4 + 1),
    b"\0\0\0\x04" + bytes(16 + 1),
    b"\0\0\0\x03",
    b"\0\0\0\x03\x04name\0",
    b"\0\0\0\x03\xff" + bytes(254 + 2),
    b"\x01" + DATAGRAM[1:],
    b"\0\x01" + DATAGRAM[2:],
    *(b"\0\0%c" % frag + DATAGRAM[3:] for frag in (0x01, 0x7F, 0x80, 0xFF)),
    *(b"\0\0\0%c" % atyp + DATAGRAM[4:] for atyp in (0x00, 0x02, 0x05, 0xFF)),
]
"""Datagrams to drop: too short for their header, with an RSV, fragments, unknown address types."""


def name_of(value: object) -> str:
    """Return a value in the form for the name of a test."""
    if isinstance(value, tuple):
        return f"({', '.join(map(name_of, value))})"
    if isinstance(value, memoryview):
        return "memoryview"
    return value.__name__ if isinstance(value, type) else str(value)[:40]


UDP = socket.socket | UDPAssociation


class Receive(Protocol):
    """Receives a datagram of so many octets at most, by one of the methods that receive."""

    def __call__(self, udp: UDP, size: int, flags: int = 0, /) -> bytes: ...


def recvfrom(udp: UDP, size: int, flags: int = 0) -> bytes:
    return udp.recvfrom(size, flags)[0]


def recv(udp: UDP, size: int, flags: int = 0) -> bytes:
    return udp.recv(size, flags)


def recvfrom_into(udp: UDP, size: int, flags: int = 0) -> bytes:
    buffer = bytearray(size + 10)
    return bytes(buffer[: udp.recvfrom_into(buffer, size, flags)[0]])


def recv_into(udp: UDP, size: int, flags: int = 0) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: udp.recv_into(buffer, 0, flags)])


RECEIVE: dict[str, Receive] = {
    "recvfrom": recvfrom,
    "recv": recv,
    "recv_into": recv_into,
    "recvfrom_into": recvfrom_into,
}
"""All ways to receive a datagram, each by its name."""


def address_of(udp: UDPAssociation) -> Address:
    host, port, *_ = udp.getsockname()
    return host, port


class Talk:
    """A blocking association, with the methods that the tests of all drivers need."""

    def __init__(self, udp: UDPAssociation) -> None:
        self.udp = udp

    @property
    def association(self) -> Association:
        return self.udp._association

    @property
    def relay_address(self) -> Address:
        return self.udp.relay_address

    @property
    def local_address(self) -> Address:
        return address_of(self.udp)

    @property
    def dropped(self) -> int:
        return self.udp.dropped

    def send(self, data: bytes, address: Address | None = None) -> None:
        """Send to an address; without one, to the connected destination."""
        sent = self.udp.send(data) if address is None else self.udp.sendto(data, address)
        assert sent == len(data)

    def receive(self, timeout: float = LONG) -> tuple[bytes, Address]:
        """Return the next datagram and its source. Every driver raises a TimeoutError."""
        self.udp.settimeout(timeout)
        data, (host, port, *_) = self.udp.recvfrom()
        return data, (host, port)

    def begin_to_receive(self) -> Future[Any]:
        """Begin to receive a datagram, without a timeout."""
        self.udp.settimeout(None)
        return in_thread(self.udp.recvfrom)

    def receiving(self) -> Future[Any]:
        """Begin to receive a datagram, and return when the receive waits."""
        return self.begin_to_receive()

    def connect(self, address: Address) -> None:
        self.udp.connect(address)

    def close(self) -> None:
        self.udp.close()

    def assert_closed(self, call: Callable[[], object]) -> None:
        """Check that a call says that this process has closed the association."""
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


class AwaitedTalk(Talk):
    """An awaited association, with the same methods."""

    def __init__(self, udp: socksclient.anyio.UDPAssociation, portal: BlockingPortal) -> None:
        self.awaited = udp
        self.connected: socksclient.anyio.ConnectedUDPAssociation | None = None
        self.portal = portal

    @property
    def association(self) -> Association:
        return self.awaited._association

    @property
    def relay_address(self) -> Address:
        return self.awaited.relay_address

    @property
    def local_address(self) -> Address:
        address = self.awaited.extra(SocketAttribute.local_address)
        return str(address[0]), int(address[1])

    @property
    def dropped(self) -> int:
        return self.awaited.dropped

    def send(self, data: bytes, address: Address | None = None) -> None:
        if address is None:
            assert self.connected is not None
            self.portal.call(self.connected.send, data)
        else:
            self.portal.call(self.awaited.sendto, data, *address)

    def receive(self, timeout: float = LONG) -> tuple[bytes, Address]:
        async def receive() -> tuple[bytes, Address]:
            with anyio.fail_after(timeout):
                if self.connected is None:
                    return await self.awaited.receive()
                return await self.connected.receive(), self.connected.extra(
                    SocketAttribute.remote_address
                )  # type: ignore[return-value]

        return self.portal.call(receive)

    def begin_to_receive(self) -> Future[Any]:
        return self.portal.start_task_soon(self.awaited.receive)

    def receiving(self) -> Future[Any]:
        future = self.begin_to_receive()
        self.portal.call(anyio.wait_all_tasks_blocked)
        return future

    def connect(self, address: Address) -> None:
        self.connected = self.portal.call(self.awaited.connected, *address)

    def close(self) -> None:
        self.portal.call(self.awaited.aclose)

    def assert_closed(self, call: Callable[[], object]) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            call()


class Associate(Protocol):
    """Associates by one of the drivers."""

    def __call__(
        self,
        proxy: ProxyLike,
        *,
        timeout: float = LONG,
        local_address: Address | None = None,
        trust: bool = True,
    ) -> Talk: ...


@contextmanager
def associating(driver: str) -> Iterator[Associate]:
    """Yield a function that associates by a driver, and close all its associations in the end."""

    def block(
        proxy: ProxyLike,
        *,
        timeout: float = LONG,
        local_address: Address | None = None,
        trust: bool = True,
    ) -> Talk:
        udp = socksclient.udp_associate(
            timeout, proxy=proxy, local_address=local_address, trust_relay_address=trust
        )
        return Talk(stack.enter_context(udp))

    def wait(
        proxy: ProxyLike,
        *,
        timeout: float = LONG,
        local_address: Address | None = None,
        trust: bool = True,
    ) -> Talk:
        async def associate() -> socksclient.anyio.UDPAssociation:
            host, port = local_address or (None, 0)
            with anyio.fail_after(timeout):
                return await socksclient.anyio.udp_associate(
                    proxy=proxy, local_host=host, local_port=port, trust_relay_address=trust
                )

        udp = portal.call(associate)
        stack.callback(portal.call, udp.aclose)
        return AwaitedTalk(udp, portal)

    with ExitStack() as stack:
        if driver == "blocking":
            yield block
        else:
            portal = stack.enter_context(start_blocking_portal(**BACKENDS[driver]))
            yield wait


def associate_with(played: PlayedProxy, associate: Associate) -> Talk:
    """Return an association that the proxy can speak to at once."""
    talk = associate(played.url)
    played.client = talk.local_address
    return talk


def assert_echoes(talk: Talk, address: Address, token: bytes = b"there and back") -> None:
    talk.send(token, address)
    assert talk.receive() == (token, address)


def assert_ended(call: Callable[[], object]) -> None:
    """Check that a call says that the proxy has ended the association."""
    with pytest.raises(AssociationClosed, match="ended the UDP association") as caught:
        call()
    assert caught.type is AssociationClosed
    assert caught.value.phase == "relay"
    assert caught.value.proxy is not None
    assert caught.value.destination is None
    assert caught.value.errno == errno.ECONNRESET


def from_(*sources: Address) -> list[bytes]:
    """Return a datagram of each source, which names its source."""
    return [encode_datagram_header(*source) + repr(source).encode() for source in sources]


def free_udp_port(host: str) -> int:
    """Return a port at which nobody listens."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port
