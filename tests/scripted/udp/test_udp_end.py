"""The end of an association: the proxy ends it, or this process closes it."""

from __future__ import annotations

import os
import selectors
import socket
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import socksclient.anyio
from socksclient.protocol.address import Host, encode_address
from socksclient.testing import Faults, SocksServer

from helpers.associations import (
    DATAGRAM,
    DESTINATION,
    Associate,
    Talk,
    assert_echoes,
    assert_ended,
    associate_with,
)
from helpers.support import (
    LONG,
    Address,
    PlayedProxy,
    in_thread,
    nothing_left_open,
)


def assert_ended_after_an_echo(talk: Talk) -> None:
    """Check the end of an association; the echo of the last datagram may come before it, or not."""

    def receive() -> None:
        assert talk.receive()[0] == b"last"
        talk.receive()

    assert_ended(receive)


def test_association_closed_wakes_a_waiting_receive(
    associate: Associate, poll: str, played: PlayedProxy, end: Callable[[], None]
) -> None:
    talk = associate_with(played, associate)
    future = talk.receiving()
    end()
    assert_ended(lambda: future.result(LONG))
    for _ in range(2):
        assert_ended(talk.receive)
        assert_ended(lambda: talk.send(b"", DESTINATION))
    talk.connect(DESTINATION)
    assert_ended(lambda: talk.send(b""))
    assert_ended(talk.receive)


def test_association_closed_stops_sendto_at_once(
    associate: Associate, poll: str, played: PlayedProxy, end: Callable[[], None]
) -> None:
    talk = associate_with(played, associate)
    talk.send(b"datagram", DESTINATION)
    assert played.hear() == DATAGRAM
    end()
    assert_ended(lambda: talk.send(b"datagram", DESTINATION))
    played.relay.setblocking(False)
    with pytest.raises(BlockingIOError):
        played.hear()


def test_association_closed_wakes_all_threads(played: PlayedProxy) -> None:
    with socksclient.udp_associate(None, proxy=played.url) as udp:
        futures = [in_thread(udp.recvfrom) for _ in range(4)]
        played.end()
        for future in futures:
            assert_ended(lambda future=future: future.result(LONG))  # type: ignore[misc]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_association_closed_by_the_test_server(
    associate: Associate, count: int, udp_echo: Address
) -> None:
    with SocksServer(faults=Faults(end_after=count)) as server:
        talk = associate(server.url)
        for number in range(count - 1):
            assert_echoes(talk, udp_echo, b"%d" % number)
        if count:
            talk.send(b"last", udp_echo)
        assert_ended_after_an_echo(talk)
        assert len(server.connections[0].datagrams) == count


@pytest.mark.parametrize("garbage", [[], [b"", b"garbage"]], ids=["", "garbage"])
def test_association_closed_follows_the_datagrams_before_it(
    associate: Associate, poll: str, played: PlayedProxy, garbage: list[bytes]
) -> None:
    talk = associate_with(played, associate)
    played.say(DATAGRAM, *garbage, DATAGRAM, *garbage, DATAGRAM)
    played.end()
    for _ in range(3):
        assert talk.receive() == (b"datagram", DESTINATION)
    assert_ended(talk.receive)
    assert talk.dropped == 2 * len(garbage)


def test_association_closed_hides_later_datagrams(
    associate: Associate, poll: str, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    played.end()
    assert_ended(talk.receive)
    played.say(DATAGRAM)
    assert_ended(talk.receive)


def test_control_connection_data_is_ignored_and_not_kept(
    associate: Associate, poll: str, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    future = talk.receiving()
    octets = bytes(0x10000)
    tracemalloc.start()
    for _ in range(256):
        # This makes 16 MiB, more than the buffers of the system would keep.
        played.control.sendall(octets)
    played.say(DATAGRAM)
    data, source = future.result(LONG)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (data, source) == (b"datagram", DESTINATION)
    assert most < 1_000_000
    played.control.sendall(b"more")
    # Data that waits on the control connection does not keep the client from sending.
    talk.send(b"datagram", DESTINATION)
    assert played.hear() == DATAGRAM
    played.end()
    assert_ended(talk.receive)


def test_control_connection_data_does_not_hide_the_end(
    associate: Associate, udp_echo: Address
) -> None:
    faults = Faults(control_data=bytes(4_000_000), end_after=3)
    with SocksServer(faults=faults) as server:
        talk = associate(server.url)
        for number in range(2):
            assert_echoes(talk, udp_echo, b"%d" % number)
        talk.send(b"last", udp_echo)
        assert_ended_after_an_echo(talk)


def test_control_connection_carries_nothing_from_the_client(
    associate: Associate, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    assert played.handshake == b"\x05\x01\x00" + b"\x05\x03\x00" + encode_address(
        Host.parse("0.0.0.0"), 0
    )
    for _ in range(3):
        talk.send(b"datagram", DESTINATION)
        played.say(played.hear())
        assert talk.receive() == (b"datagram", DESTINATION)
        with pytest.raises(BlockingIOError):
            played.control.recv(1, socket.MSG_DONTWAIT)
    talk.close()
    played.control.settimeout(LONG)
    assert played.control.recv(1) == b""


def test_close_wakes_a_waiting_receive(associate: Associate, poll: str) -> None:
    with SocksServer() as server:
        talk = associate(server.url)
        future = talk.receiving()
        talk.close()
        talk.assert_closed(lambda: future.result(LONG))


def test_close_wakes_all_threads(poll: str) -> None:
    with SocksServer() as server:
        udp = socksclient.udp_associate(None, proxy=server.url)
        futures = [in_thread(udp.recvfrom) for _ in range(4)]
        udp.close()
        for future in futures:
            with pytest.raises(OSError, match="Bad file descriptor"):
                future.result(LONG)


def test_wait_returns_at_once_after_close(poll: str) -> None:
    with SocksServer() as server:
        udp = socksclient.udp_associate(None, proxy=server.url)
        association = udp._association
        udp.close()
        begin = time.monotonic()
        association.wait(LONG)
        association.wait_for_room(LONG)
        assert time.monotonic() - begin < LONG


def test_close_keeps_descriptors_open_while_threads_wait(
    monkeypatch: pytest.MonkeyPatch, poll: str
) -> None:
    """Gevent or eventlet may watch the descriptors. With epoll, there is no such danger."""
    closed_meanwhile: list[object] = []

    class Selector(selectors.PollSelector):
        def select(self, timeout: float | None = None) -> Any:
            ready = super().select(timeout)
            closed_meanwhile.extend(key for key in self.get_map() if not is_open(key))
            return ready

    def is_open(descriptor: object) -> bool:
        return os.path.exists(f"/proc/self/fd/{descriptor}")

    monkeypatch.setattr(selectors, "PollSelector", Selector)
    with SocksServer() as server, nothing_left_open():
        udp = socksclient.udp_associate(None, proxy=server.url)
        futures = [in_thread(udp.recvfrom) for _ in range(4)]
        udp.close()
        assert udp.fileno() == -1
        for future in futures:
            with pytest.raises(OSError, match="Bad file descriptor"):
                future.result(LONG)
    assert closed_meanwhile == []


def test_close_closes_all_sockets(associate: Associate, poll: str, udp_echo: Address) -> None:
    with SocksServer() as server:
        # The first association lets the event loop open what the loop opens only once.
        associate(server.url).close()
        with nothing_left_open():
            talk = associate(server.url)
            assert_echoes(talk, udp_echo)
            for _ in range(2):
                talk.close()
                talk.assert_closed(talk.receive)
                talk.assert_closed(lambda: talk.send(b"", udp_echo))
                talk.assert_closed(lambda: talk.send(b"", ("name.test", 53)))


def test_close_after_the_proxy_has_ended_the_association(
    associate: Associate, poll: str, played: PlayedProxy, end: Callable[[], None]
) -> None:
    associate_with(played, associate)
    with SocksServer() as server:
        associate(server.url).close()
    with PlayedProxy() as second:
        with nothing_left_open():
            talk = associate_with(second, associate)
            second.reset()
            assert_ended(talk.receive)
            talk.close()
