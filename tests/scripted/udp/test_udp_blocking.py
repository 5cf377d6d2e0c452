"""`UDPAssociation`: the behaviour that a UDP socket does not have, or has otherwise."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

import socksclient.anyio
from socksclient import (
    UDPAssociation,
)
from socksclient.testing import SocksServer

from helpers.associations import (
    DATAGRAM,
    DESTINATION,
    RECEIVE,
    SOON,
    address_of,
    from_,
)
from helpers.support import (
    LONG,
    Address,
    PlayedProxy,
    in_thread,
    make_room,
    no_room,
)


@pytest.mark.parametrize("room", [0, 9])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (socket.MSG_PEEK, "0x2"),
        (socket.MSG_TRUNC, "0x20"),
        (socket.MSG_OOB | socket.MSG_DONTWAIT, "0x1"),
        (1 << 29, "0x20000000"),
        (-1, "-0x"),
    ],
)
def test_association_refuses_flags_that_it_cannot_honour(
    played: PlayedProxy, flags: int, told: str, room: int
) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        played.client = address_of(udp)
        played.say(DATAGRAM)
        for receive in RECEIVE.values():
            with pytest.raises(ValueError, match=rf"cannot honour .*{told}.*only MSG_DONTWAIT$"):
                receive(udp, room, flags)
        assert udp.recvfrom() == (b"datagram", DESTINATION)
        allowed = r" -?0x[0-9a-f]+; it takes only MSG_CONFIRM, MSG_DONTWAIT, MSG_NOSIGNAL$"
        with pytest.raises(ValueError, match=allowed):
            udp.sendto(b"", flags, DESTINATION)
        udp.connect(DESTINATION)
        with pytest.raises(ValueError, match=allowed):
            udp.send(b"", flags)
        udp.send(b"datagram")
        assert played.hear() == DATAGRAM


def test_connect_ex_with_a_name_that_has_no_address(names: dict[str, list[str]]) -> None:
    with SocksServer() as server:
        url = server.url.replace("socks5h", "socks5")
        with socksclient.udp_associate(LONG, proxy=url) as udp:
            assert udp.connect_ex(("none.test", 53)) == errno.EIO
            names["name.test"] = ["192.0.2.1"]
            assert udp.connect_ex(("name.test", 53)) == 0
            with pytest.raises(ValueError, match="port"):
                udp.connect_ex(("192.0.2.1", 0))


def test_recvfrom_returns_four_values_for_an_ipv6_address(udp_echo_6: Address) -> None:
    with SocksServer() as server, ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        association = stack.enter_context(socksclient.udp_associate(LONG, proxy=server.url))
        sock.settimeout(LONG)
        for udp in (sock, association):
            for address in (udp_echo_6, (*udp_echo_6, 0, 0)):
                udp.sendto(b"datagram", address)
                assert udp.recvfrom(100) == (b"datagram", (*udp_echo_6, 0, 0))
                udp.connect(address)
                assert udp.getpeername() == (*udp_echo_6, 0, 0)
                assert udp.family == socket.AF_INET6
                udp.send(b"more")
                assert udp.recvfrom_into(bytearray(9)) == (4, (*udp_echo_6, 0, 0))


def test_sendto_and_connect_refuse_a_scope_id() -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for call in (lambda *address: udp.sendto(b"", address), lambda *to: udp.connect(to)):
            with pytest.raises(ValueError, match="scope id"):
                call("fe80::1", 53, 0, 1)
            with pytest.raises(ValueError, match="zone id"):
                call("fe80::1%lo", 53)
        # A flow label has no meaning in a datagram through a proxy.
        assert udp.sendto(b"", ("2001:db8::1", 53, 7, 0)) == 0


@pytest.mark.parametrize(
    "address",
    [
        *[(host, 53) for host in ("", "two words", "n" * 256, "[2001", "2001:db8::1:")],
        *[("192.0.2.1", port) for port in (0, 65536, -1, "53")],
    ],
)
def test_sendto_and_connect_refuse_an_invalid_destination(address: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^host|^port"):
                udp.sendto(b"", address)
            with pytest.raises(ValueError, match=r"^host|^port"):
                udp.connect(address)
        with pytest.raises(OSError, match="not connected"):
            udp.getpeername()


def test_udp_associate_sets_its_timeout_on_the_association(monkeypatch: pytest.MonkeyPatch) -> None:
    with SocksServer() as server:
        for timeout in (75.0, None):
            with socksclient.udp_associate(timeout, proxy=server.url) as udp:
                assert udp.gettimeout() == timeout
        monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 65.0)
        with socksclient.udp_associate(proxy=server.url) as udp:
            assert udp.gettimeout() == 65.0
            udp.settimeout(1e10)
            assert udp.sendto(b"", DESTINATION) == 0


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf])
def test_udp_associate_refuses_an_invalid_timeout(timeout: float) -> None:
    with SocksServer() as server:
        with pytest.raises(ValueError, match="timeout"):
            socksclient.udp_associate(timeout, proxy=server.url)
        assert server.connections == []


def test_repr_of_association_hides_the_password() -> None:
    with SocksServer(accounts={"user": "secret"}) as server:
        with socksclient.udp_associate(LONG, proxy=server.url) as udp:
            told = f"socks5h://***@127.0.0.1:{server.address[1]}, relay"
            relay = f"127.0.0.1:{udp.relay_address[1]}"
            assert repr(udp) == f"<UDPAssociation {told} {relay}>"
        assert repr(udp) == f"<UDPAssociation closed, {told} {relay}>"


def test_family_is_that_of_the_connected_destination() -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for host, family in [
            ("2001:db8::1", socket.AF_INET6),
            ("192.0.2.1", socket.AF_INET),
            ("name.test", socket.AF_INET),
        ]:
            udp.connect((host, 53))
            assert udp.getpeername()[:2] == (host, 53)
            assert udp.family == family


def test_association_remembers_a_bounded_number_of_addresses(played: PlayedProxy) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        played.client = address_of(udp)
        udp.connect(("name.test", 53))
        for number in range(10_000):
            host = f"10.0.{number >> 8}.{number & 255}"
            udp.sendto(b"", (host, 53))
            played.say(*from_((host, 54), (host, 53)))
            assert udp.recvfrom()[1] == (host, 53)
        assert udp.dropped == 10_000
        assert len(udp._association._headers) <= 4096
        assert len(udp._association._sources) <= 4096
        assert udp.send(b"the peer is not forgotten") == 25


def test_association_carries_20_000_datagrams(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for first in range(0, 20_000, 64):
            window = [number.to_bytes(4, "big") for number in range(first, first + 64)]
            for payload in window:
                udp.sendto(payload, udp_echo)
            assert [udp.recvfrom() for _ in window] == [(payload, udp_echo) for payload in window]
        assert udp.dropped == 0


def test_association_is_used_by_several_threads(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:

        def exchange(first: int) -> list[bytes]:
            received = []
            for number in range(first, first + 100):
                udp.sendto(b"%d" % number, udp_echo)
                received.append(udp.recv())
            return received

        threads = [in_thread(partial(exchange, first)) for first in range(0, 400, 100)]
        received = [data for thread in threads for data in thread.result(LONG)]
        assert sorted(map(int, received)) == list(range(400))


class TestRoom:
    @pytest.fixture
    def relay(self, request: pytest.FixtureRequest) -> Iterator[socket.socket]:
        with no_room() as (self.association, relay):
            yield relay

    def full(self, timeout: float | None) -> UDPAssociation:
        return UDPAssociation(self.association, timeout)

    @pytest.mark.parametrize("timeout", [LONG, None])
    def test_sendto_waits_for_room(self, relay: socket.socket, timeout: float | None) -> None:
        future = in_thread(partial(self.full(timeout).sendto, b"datagram", DESTINATION))
        assert not future.done()
        assert make_room(relay) == DATAGRAM
        assert future.result(LONG) == 8

    def test_sendto_waits_for_room_no_longer_than_the_timeout(self, relay: socket.socket) -> None:
        for timeout in (SOON, 1e-9):
            with pytest.raises(TimeoutError, match=r"^timed out$"):
                self.full(timeout).sendto(b"datagram", DESTINATION)

    def test_sendto_with_timeout_0_does_not_wait_for_room(self, relay: socket.socket) -> None:
        udp = self.full(0)
        with pytest.raises(BlockingIOError):
            udp.sendto(b"lost", DESTINATION)
        relay.recv(100)
        assert udp.sendto(b"datagram", DESTINATION) == 8
        assert make_room(relay) == DATAGRAM

    def test_close_ends_a_sendto_that_waits_for_room(self, relay: socket.socket) -> None:
        udp = self.full(None)
        future = in_thread(partial(udp.sendto, b"datagram", DESTINATION))
        udp.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            future.result(LONG)


class Refusing:
    """A UDP socket that reports a number of ICMP errors before it sends."""

    def __init__(self, errors: int, *, is_full: bool = False) -> None:
        self.errors = errors
        self.is_full = is_full
        self.sent: list[bytes] = []

    def send(self, datagram: bytes, flags: int) -> int:
        if self.errors:
            self.errors -= 1
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if self.is_full:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.sent.append(datagram)
        return len(datagram)


@pytest.mark.parametrize("errors", range(5))
def test_sendto_sends_again_after_icmp_errors(
    monkeypatch: pytest.MonkeyPatch, played: PlayedProxy, errors: int
) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        refusing = Refusing(errors)
        with monkeypatch.context() as patch:
            patch.setattr(udp._association, "udp", refusing)
            # The errors may never end.
            if errors == 4:
                with pytest.raises(ConnectionRefusedError):
                    udp.sendto(b"datagram", DESTINATION)
            else:
                assert udp.sendto(b"datagram", DESTINATION) == 8
                assert refusing.sent == [DATAGRAM]


def test_sendto_raises_blocking_io_error_after_an_icmp_error(
    monkeypatch: pytest.MonkeyPatch, played: PlayedProxy
) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        udp.setblocking(False)
        refusing = Refusing(1, is_full=True)
        with monkeypatch.context() as patch:
            patch.setattr(udp._association, "udp", refusing)
            with pytest.raises(BlockingIOError) as caught:
                udp.sendto(b"datagram", DESTINATION)
            assert caught.value.errno == errno.EAGAIN
            refusing.is_full = False
            assert udp.sendto(b"datagram", DESTINATION) == 8
            assert refusing.sent == [DATAGRAM]
