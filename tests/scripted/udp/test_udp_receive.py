"""Datagrams that arrive: good ones, garbage, ICMP errors and floods."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import pytest

import socksclient.anyio
from socksclient import (
    UDPAssociation,
)
from socksclient.testing import Faults, SocksServer

from helpers.associations import (
    DATAGRAM,
    DESTINATION,
    GARBAGE,
    SOON,
    Associate,
    Talk,
    address_of,
    assert_echoes,
    assert_ended,
    associate_with,
    free_udp_port,
    from_,
)
from helpers.support import (
    LONG,
    Address,
    PlayedProxy,
    again_and_again,
    eventually,
)


@pytest.mark.parametrize("stranger", [b"", b"strange", DATAGRAM])
def test_association_hears_its_relay_only(
    associate: Associate, poll: str, stranger: bytes, udp_echo: Address
) -> None:
    with SocksServer(faults=Faults(stranger=stranger)) as server:
        talk = associate(server.url)
        for number in range(3):
            assert_echoes(talk, udp_echo, b"%d" % number)
        assert talk.dropped == 0


def test_dropped_counts_garbage(
    associate: Associate, poll: str, played: PlayedProxy, udp_echo: Address
) -> None:
    talk = associate_with(played, associate)
    for number, garbage in enumerate(GARBAGE, 1):
        played.say(garbage, DATAGRAM)
        assert talk.receive() == (b"datagram", DESTINATION)
        assert talk.dropped == number, garbage
    played.say(*GARBAGE)

    def all_are_dropped() -> bool:
        with pytest.raises(TimeoutError):
            talk.receive(SOON)
        return talk.dropped == 2 * len(GARBAGE)

    assert eventually(all_are_dropped)
    talk.send(b"datagram", DESTINATION)
    assert played.hear() == DATAGRAM


def test_dropped_counts_garbage_of_the_test_server(associate: Associate, udp_echo: Address) -> None:
    with SocksServer(faults=Faults(garbage=GARBAGE)) as server:
        talk = associate(server.url)
        assert_echoes(talk, udp_echo, b"datagram")
        assert talk.dropped == len(GARBAGE)


@pytest.mark.parametrize(
    "header", [DATAGRAM[:10], b"\0\0\0\x03\0\0\x35", b"\0\0\0\x03\x01\xff\0\0"]
)
def test_receive_a_datagram_without_payload(
    associate: Associate, played: PlayedProxy, header: bytes
) -> None:
    talk = associate_with(played, associate)
    played.say(header)
    assert talk.receive()[0] == b""


BEHIND: dict[str, Callable[[UDPAssociation], tuple[bytes, object]]] = {
    "blocking": lambda udp: udp.recvfrom(),
    "blocking for a moment": lambda udp: set_timeout(udp, 1e-9).recvfrom(),
    "not blocking": lambda udp: set_timeout(udp, 0).recvfrom(),
    "MSG_DONTWAIT": lambda udp: udp.recvfrom(100, socket.MSG_DONTWAIT),
}


def set_timeout(udp: UDPAssociation, seconds: float) -> UDPAssociation:
    udp.settimeout(seconds)
    return udp


@pytest.mark.parametrize("call", BEHIND.values(), ids=BEHIND)
class TestReceiveBehind:
    """A caller that is woken only once receives the good datagram behind bad ones."""

    def test_receive_behind_garbage(
        self, poll: str, played: PlayedProxy, call: Callable[[UDPAssociation], object]
    ) -> None:
        with socksclient.udp_associate(LONG, proxy=played.url) as udp:
            played.client = address_of(udp)
            played.say(*GARBAGE, DATAGRAM)
            assert call(udp) == (b"datagram", DESTINATION)
            assert udp.dropped == len(GARBAGE)

    def test_receive_behind_other_sources(
        self, poll: str, played: PlayedProxy, call: Callable[[UDPAssociation], object]
    ) -> None:
        with socksclient.udp_associate(LONG, proxy=played.url) as udp:
            played.client = address_of(udp)
            udp.connect(DESTINATION)
            played.say(*from_(("192.0.2.9", 53), ("name.test", 53)), DATAGRAM)
            assert call(udp) == (b"datagram", DESTINATION)
            assert udp.dropped == 2

    def test_receive_behind_an_icmp_error(
        self, poll: str, played: PlayedProxy, call: Callable[[UDPAssociation], object]
    ) -> None:
        with socksclient.udp_associate(LONG, proxy=played.url) as udp:
            played.client = address_of(udp)
            relay = played.relay.getsockname()
            played.relay.close()
            udp.sendto(b"lost", DESTINATION)
            with socket.socket(type=socket.SOCK_DGRAM) as played.relay:
                played.relay.bind(relay)
                played.say(DATAGRAM)
                assert call(udp) == (b"datagram", DESTINATION)


def test_receive_takes_all_datagrams_of_one_edge(played: PlayedProxy) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp, select.epoll() as epoll:
        played.client = address_of(udp)
        udp.setblocking(False)
        epoll.register(udp.fileno(), select.EPOLLIN | select.EPOLLET)
        played.say(DATAGRAM, *GARBAGE, DATAGRAM, *GARBAGE)
        assert epoll.poll(LONG)
        assert [udp.recv() for _ in range(2)] == [b"datagram"] * 2
        with pytest.raises(BlockingIOError):
            udp.recv()
        assert udp.dropped == 2 * len(GARBAGE)
        assert not epoll.poll(0)


class Endless:
    """A UDP socket at which garbage arrives as fast as it is received."""

    received = 0

    def getsockopt(self, level: int, name: int) -> int:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        return 10_000

    def recv(self, size: int) -> bytes:
        self.received += 1
        return b"garbage"


def test_receive_with_msg_dontwait_ends_in_endless_garbage(
    monkeypatch: pytest.MonkeyPatch, played: PlayedProxy
) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        endless = Endless()
        with monkeypatch.context() as patch:
            patch.setattr(udp._association, "udp", endless)
            with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
                udp.recvfrom(100, socket.MSG_DONTWAIT)
            # That is how many fit into the system's buffer if each takes up 256 octets of it.
            assert endless.received == udp.dropped == 1 + 10_000 // 256
            udp.settimeout(SOON)
            with pytest.raises(TimeoutError):
                udp.recvfrom(100)


def test_receive_looks_at_all_datagrams_in_the_buffer(
    played: PlayedProxy,
) -> None:
    """A datagram takes up more of the buffer than the 256 octets that the library reckons with."""
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        played.client = address_of(udp)
        size = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        # Datagrams that find no room are lost.
        played.say(*[b""] * (2 + size // 256))
        udp.setblocking(False)
        with pytest.raises(BlockingIOError):
            udp.recv()
        assert 0 < udp.dropped <= size // 256
        played.say(DATAGRAM)
        assert udp.recv() == b"datagram"


@pytest.mark.parametrize("flood", ["garbage", "control data"])
def test_receive_timeout_passes_in_a_flood(
    associate: Associate, poll: str, played: PlayedProxy, flood: str
) -> None:
    talk = associate_with(played, associate)
    played.control.setblocking(False)
    octets = bytes(0x10000)

    def say() -> None:
        if flood == "garbage":
            played.say(b"garbage")
        else:
            played.control.send(octets)

    with again_and_again(say):
        for timeout in (SOON, 1e-9):
            with pytest.raises(TimeoutError):
                talk.receive(timeout)
        if type(talk) is Talk:
            talk.udp.settimeout(0)
            with pytest.raises(BlockingIOError):
                talk.udp.recvfrom()
        future = talk.begin_to_receive()
        talk.close()
        talk.assert_closed(lambda: future.result(LONG))
    assert talk.dropped > 0 or flood == "control data"


def test_receive_finds_good_datagrams_in_a_flood(
    associate: Associate, poll: str, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    with again_and_again(lambda: played.say(*GARBAGE, DATAGRAM)):
        for _ in range(20):
            assert talk.receive() == (b"datagram", DESTINATION)


class TestRelayThatIsGone:
    def test_icmp_error_is_not_raised_unless_connected(
        self, associate: Associate, poll: str, played: PlayedProxy
    ) -> None:
        talk = associate_with(played, associate)
        played.relay.close()
        for _ in range(3):
            talk.send(b"lost", DESTINATION)
        with pytest.raises(TimeoutError):
            talk.receive(SOON)
        if type(talk) is Talk:
            talk.udp.settimeout(0)
            talk.send(b"lost", DESTINATION)
            with pytest.raises(BlockingIOError):
                talk.udp.recvfrom()

    def test_icmp_error_is_raised_if_connected(
        self, associate: Associate, poll: str, played: PlayedProxy
    ) -> None:
        talk = associate_with(played, associate)
        played.relay.close()
        talk.connect(DESTINATION)
        for _ in range(2):
            talk.send(b"lost")
            with pytest.raises(ConnectionRefusedError) as caught:
                talk.receive()
            assert caught.type is ConnectionRefusedError
            talk.send(b"lost")
            with pytest.raises(ConnectionRefusedError):
                talk.send(b"not even sent")

    def test_icmp_error_yields_to_association_closed(
        self, associate: Associate, poll: str, played: PlayedProxy
    ) -> None:
        talk = associate_with(played, associate)
        talk.connect(DESTINATION)
        played.relay.close()
        talk.send(b"lost")
        played.end()
        assert_ended(talk.receive)
        assert_ended(lambda: talk.send(b"lost"))


def test_icmp_error_is_raised_by_a_connected_socket_too() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", free_udp_port("127.0.0.1")))
        sock.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)
        sock.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            sock.send(b"not even sent")
