"""UDP ASSOCIATE: what all drivers have in common, and the blocking one, which is like a socket."""

from __future__ import annotations

import array
import errno
import math
import os
import re
import select
import selectors
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import anyio
import dns.message
import dns.query
import pytest
from anyio.abc import SocketAttribute
from anyio.from_thread import BlockingPortal, start_blocking_portal

import socksclient.anyio
from socksclient import (
    AssociationClosed,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyLike,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
    UDPAssociation,
)
from socksclient._net.association import Association, Granted
from socksclient._net.relay import _advice, _is_private, routes_of
from socksclient.protocol.address import AddressType, Host, encode_address, host_port
from socksclient.protocol.codes import Command
from socksclient.protocol.steps import Grant
from socksclient.testing import Connection, Faults, SocksServer

from helpers.support import (
    BACKENDS,
    LONG,
    REFUSED_PORT,
    SHORT,
    Address,
    PlayedProxy,
    again_and_again,
    echoing_datagrams,
    encode_datagram_header,
    eventually,
    family_of,
    in_thread,
    make_room,
    no_room,
    nothing_left_open,
    resolved_names,
    resolver,
)

T = TypeVar("T")

DESTINATION = ("192.0.2.1", 53)
DATAGRAM = encode_datagram_header(*DESTINATION) + b"datagram"
SOON = 0.05  # seconds; the timeout passes

ALL_KINDS = [DESTINATION, ("2001:db8::1", 53), ("name.test", 53), ("n" * 255, 53)]

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
"""What is to be dropped: too short for its header, RSV, fragments, unknown types of addresses."""

UDP = socket.socket | UDPAssociation


def name_of(value: object) -> str:
    """For the name of a test."""
    if isinstance(value, tuple):
        return f"({', '.join(map(name_of, value))})"
    if isinstance(value, memoryview):
        return "memoryview"
    return value.__name__ if isinstance(value, type) else str(value)[:40]


# What is the same with a socket. Every test shows of a socket as well what it says.


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(LONG)
        yield peer


@pytest.fixture(params=["socket", "association"])
def udp(request: pytest.FixtureRequest) -> Iterator[UDP]:
    if request.param == "socket":
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(LONG)
            yield sock
    else:
        with SocksServer() as server:
            with socksclient.udp_associate(LONG, proxy=server.url) as association:
                yield association


def reach(udp: UDP, peer: socket.socket) -> Address:
    """Where the peer is to send to, so that it comes back."""
    assert udp.sendto(b"first", peer.getsockname()) == 5
    octets, client = peer.recvfrom(100)
    assert octets == b"first"
    return str(client[0]), int(client[1])


def wait_for(udp: UDP) -> None:
    assert select.select([udp], [], [], LONG)[0] == [udp]


def into(udp: UDP, size: int, flags: int = 0) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: udp.recv_into(buffer, 0, flags)])


def from_into(udp: UDP, size: int, flags: int = 0) -> bytes:
    buffer = bytearray(size + 10)
    return bytes(buffer[: udp.recvfrom_into(buffer, size, flags)[0]])


RECEIVE: dict[str, Callable[[UDP, int], bytes]] = {
    "recvfrom": lambda udp, size: udp.recvfrom(size)[0],
    "recv": lambda udp, size: udp.recv(size),
    "recv_into": into,
    "recvfrom_into": from_into,
}


RECEIVE_WITH_FLAGS: dict[str, Callable[[UDP, int, int], object]] = {
    "recvfrom": lambda udp, size, flags: udp.recvfrom(size, flags)[0],
    "recv": lambda udp, size, flags: udp.recv(size, flags),
    "recv_into": into,
    "recvfrom_into": from_into,
}

SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_CONFIRM


@pytest.fixture(params=RECEIVE)
def receive(request: pytest.FixtureRequest) -> Callable[[UDP, int], bytes]:
    """One test, all ways to receive a datagram of so many octets at most."""
    return RECEIVE[request.param]


class TestLikeASocket:
    @pytest.mark.parametrize(
        "data",
        [b"datagram", bytearray(b"datagram"), memoryview(array.array("i", [1, 2])), b""],
        ids=["bytes", "bytearray", "memoryview", "empty"],
    )
    def test_a_datagram_goes_there_and_back(
        self,
        udp: UDP,
        peer: socket.socket,
        data: bytes | bytearray | memoryview,
        receive: Callable[[UDP, int], bytes],
    ) -> None:
        assert udp.sendto(data, peer.getsockname()) == len(bytes(data))
        octets, client = peer.recvfrom(65535)
        assert octets == bytes(data)
        peer.sendto(data, client)
        assert receive(udp, 65535) == bytes(data)

    def test_a_datagram_has_its_source(self, udp: UDP, peer: socket.socket) -> None:
        client = reach(udp, peer)
        for octets in (b"one", b""):
            peer.sendto(octets, client)
            peer.sendto(octets, client)
            assert udp.recvfrom(100) == (octets, peer.getsockname())
            assert udp.recvfrom_into(bytearray(10)) == (len(octets), peer.getsockname())

    @pytest.mark.parametrize("size", [1, 7, 8, 9, 65535])
    def test_a_datagram_that_is_too_long_is_cut_off(
        self, udp: UDP, peer: socket.socket, receive: Callable[[UDP, int], bytes], size: int
    ) -> None:
        client = reach(udp, peer)
        peer.sendto(b"datagram", client)
        peer.sendto(b"next", client)
        assert receive(udp, size) == b"datagram"[:size]
        assert receive(udp, 65535) == b"next"

    @pytest.mark.parametrize(
        ("call", "result", "takes_one"),
        [
            (lambda udp: udp.recvfrom(0)[0], b"", True),
            (lambda udp: udp.recvfrom_into(bytearray())[0], 0, True),
            (lambda udp: udp.recv(0), b"", False),
            (lambda udp: udp.recv_into(bytearray()), 0, False),
        ],
        ids=["recvfrom", "recvfrom_into", "recv", "recv_into"],
    )
    def test_no_room_at_all(
        self,
        udp: UDP,
        peer: socket.socket,
        call: Callable[[UDP], object],
        result: object,
        takes_one: bool,
    ) -> None:
        client = reach(udp, peer)
        peer.sendto(b"datagram", client)
        peer.sendto(b"next", client)
        assert call(udp) == result
        assert udp.recv(100) == (b"next" if takes_one else b"datagram")

    @pytest.mark.parametrize(
        ("nbytes", "result"), [(0, b"datagram"), (3, b"dat....."), (8, b"datagram")]
    )
    def test_a_buffer_is_written_no_further_than_asked_for(
        self, udp: UDP, peer: socket.socket, nbytes: int, result: bytes
    ) -> None:
        client = reach(udp, peer)
        items = array.array("i", [-1, -1])
        words = memoryview(bytearray(b"." * 12))
        for buffer, call in [
            (bytearray(b"." * 8), "recv_into"),
            (bytearray(b"." * 8), "recvfrom_into"),
            (words[2:10], "recv_into"),
            (items, "recvfrom_into"),
        ]:
            peer.sendto(b"datagram", client)
            getattr(udp, call)(buffer, nbytes)
            if buffer is not items:
                assert bytes(buffer) == result
        assert words == b".." + result + b".."
        assert items.tobytes() == result.replace(b".", b"\xff")

    @pytest.mark.parametrize(
        ("error", "name", "args"),
        [
            (ValueError, "recvfrom", (-1,)),
            (ValueError, "recv", (-1,)),
            (ValueError, "recvfrom_into", (bytearray(4), -1)),
            (ValueError, "recvfrom_into", (bytearray(4), 5)),
            (ValueError, "recv_into", (bytearray(4), -1)),
            (ValueError, "recv_into", (bytearray(4), 5)),
            (ValueError, "settimeout", (-1,)),
            (ValueError, "settimeout", (math.nan,)),
            (TypeError, "recvfrom", ("1",)),
            (TypeError, "recv_into", (b"read-only",)),
            (TypeError, "recvfrom_into", (memoryview(b"read-only"),)),
            (TypeError, "recvfrom_into", ("text",)),
            (TypeError, "recv_into", (None,)),
            (TypeError, "recv_into", (memoryview(bytearray(8))[::2],)),
            (TypeError, "recv_into", (bytearray(4), "1")),
            (TypeError, "sendto", ("text", DESTINATION)),
            (TypeError, "sendto", (None, DESTINATION)),
            (TypeError, "sendto", ([1], DESTINATION)),
            (TypeError, "sendto", (1, DESTINATION)),
            (TypeError, "sendto", (b"", None)),
            (TypeError, "sendto", (b"", "192.0.2.1")),
            (TypeError, "sendto", (b"", [*DESTINATION])),
            (TypeError, "sendto", (b"", (["192.0.2.1"], 53))),
            (TypeError, "sendto", (b"", ())),
            (TypeError, "sendto", (b"", ("192.0.2.1",))),
            (TypeError, "sendto", (b"", ("192.0.2.1", 53, 0))),
            (TypeError, "sendto", (b"", ("192.0.2.1", 53, 0, 0, 0))),
            (TypeError, "sendto", (b"", (1, 53))),
            (TypeError, "connect", ([*DESTINATION],)),
            (TypeError, "connect", (("192.0.2.1",),)),
            (TypeError, "settimeout", ("1",)),
        ],
        ids=name_of,
    )
    def test_what_cannot_be_leaves_all_as_it_was(
        self,
        udp: UDP,
        peer: socket.socket,
        error: type[Exception],
        name: str,
        args: tuple[object, ...],
    ) -> None:
        client = reach(udp, peer)
        peer.sendto(b"waiting", client)
        wait_for(udp)
        with pytest.raises(error) as caught:
            getattr(udp, name)(*args)
        assert caught.type is error
        assert udp.gettimeout() == LONG
        assert udp.recv(100) == b"waiting"

    @pytest.mark.parametrize("seconds", [SOON, 1e-9])
    def test_a_timeout_passes(
        self, udp: UDP, receive: Callable[[UDP, int], bytes], seconds: float
    ) -> None:
        udp.settimeout(seconds)
        with pytest.raises(TimeoutError, match=r"^timed out$") as caught:
            receive(udp, 100)
        assert caught.value.errno is None

    def test_one_that_does_not_block_says_so(
        self, udp: UDP, peer: socket.socket, receive: Callable[[UDP, int], bytes]
    ) -> None:
        client = reach(udp, peer)
        udp.setblocking(False)
        with pytest.raises(BlockingIOError) as caught:
            receive(udp, 100)
        assert caught.value.errno == errno.EAGAIN
        peer.sendto(b"datagram", client)
        wait_for(udp)
        assert receive(udp, 100) == b"datagram"
        assert udp.sendto(b"more", peer.getsockname()) == 4
        assert peer.recv(100) == b"more"

    @pytest.mark.parametrize(
        ("call", "value", "timeout", "blocking"),
        [
            ("settimeout", None, None, True),
            ("settimeout", 5, 5.0, True),
            ("settimeout", 2.5, 2.5, True),
            ("settimeout", 0, 0.0, False),
            ("settimeout", -0.0, 0.0, False),
            ("setblocking", True, None, True),
            ("setblocking", False, 0.0, False),
        ],
    )
    def test_the_timeout_is_what_was_set(
        self, udp: UDP, call: str, value: float | None, timeout: float | None, blocking: bool
    ) -> None:
        getattr(udp, call)(value)
        assert udp.gettimeout() == timeout
        assert type(udp.gettimeout()) is type(timeout)
        assert udp.getblocking() is blocking

    def test_connected_it_hears_its_peer_only(
        self, udp: UDP, peer: socket.socket, receive: Callable[[UDP, int], bytes]
    ) -> None:
        client = reach(udp, peer)
        udp.connect(peer.getsockname())
        assert udp.getpeername() == peer.getsockname()
        assert udp.family == socket.AF_INET
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.settimeout(LONG)
            stranger.sendto(b"strange", client)
            assert udp.send(b"hello") == 5
            octets, client = peer.recvfrom(100)
            assert octets == b"hello"
            peer.sendto(b"and back", client)
            assert receive(udp, 100) == b"and back"
            assert udp.sendto(b"elsewhere", stranger.getsockname()) == 9  # as Linux has it
            assert stranger.recv(100) == b"elsewhere"
            udp.connect(stranger.getsockname())
            assert udp.getpeername() == stranger.getsockname()
            assert udp.send(b"once more") == 9
            assert stranger.recv(100) == b"once more"

    @pytest.mark.parametrize(
        ("name", "args", "number"),
        [("send", (b"",), errno.EDESTADDRREQ), ("getpeername", (), errno.ENOTCONN)],
        ids=name_of,
    )
    def test_what_needs_a_peer(
        self, udp: UDP, name: str, args: tuple[object, ...], number: int
    ) -> None:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
            getattr(udp, name)(*args)
        assert (caught.type, caught.value.errno) == (OSError, number)

    def test_more_than_a_datagram_can_carry(self, udp: UDP, peer: socket.socket) -> None:
        with pytest.raises(OSError, match="Message too long") as caught:
            udp.sendto(bytes(65508), peer.getsockname())
        assert (caught.type, caught.value.errno) == (OSError, errno.EMSGSIZE)
        reach(udp, peer)

    def test_its_options_are_those_of_a_socket(self, udp: UDP) -> None:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) in (100_000, 200_000)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, b"\x01\0\0\0")
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
        assert udp.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
        assert udp.type == socket.SOCK_DGRAM
        assert udp.family == socket.AF_INET
        with pytest.raises(OSError, match="Protocol not available"):
            udp.getsockopt(socket.SOL_SOCKET, 9999)
        with socket.socket(fileno=os.dup(udp.fileno())) as same:
            assert same.getsockname() == udp.getsockname()

    def test_connect_ex_returns_the_number_of_an_error(self, udp: UDP, peer: socket.socket) -> None:
        assert udp.connect_ex(peer.getsockname()) == 0
        assert udp.getpeername() == peer.getsockname()
        assert udp.send(b"hello") == 5
        assert peer.recv(100) == b"hello"
        udp.setblocking(False)
        assert udp.connect_ex(peer.getsockname()) == 0
        with pytest.raises(TypeError):
            udp.connect_ex("192.0.2.1")  # type: ignore[arg-type]
        udp.close()
        assert udp.connect_ex(peer.getsockname()) == errno.EBADF

    @pytest.mark.parametrize(
        "flags",
        [0, socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL, socket.MSG_CONFIRM, SEND_FLAGS],
        ids=str,
    )
    def test_sends_with_flags(self, udp: UDP, peer: socket.socket, flags: int) -> None:
        assert udp.sendto(b"one", flags, peer.getsockname()) == 3
        assert peer.recv(100) == b"one"
        udp.connect(peer.getsockname())
        assert udp.send(b"three", flags) == 5
        assert peer.recv(100) == b"three"

    @pytest.mark.parametrize("flags", [0, socket.MSG_DONTWAIT], ids=str)
    @pytest.mark.parametrize("call", RECEIVE_WITH_FLAGS.values(), ids=RECEIVE_WITH_FLAGS)
    def test_receives_with_flags(
        self, udp: UDP, peer: socket.socket, flags: int, call: Callable[[UDP, int, int], object]
    ) -> None:
        client = reach(udp, peer)
        peer.sendto(b"datagram", client)
        wait_for(udp)
        assert call(udp, 4, flags) == b"data"

    @pytest.mark.parametrize("call", RECEIVE_WITH_FLAGS.values(), ids=RECEIVE_WITH_FLAGS)
    def test_a_call_that_is_not_to_wait_does_not(
        self, udp: UDP, call: Callable[[UDP, int, int], object]
    ) -> None:
        udp.settimeout(None)
        with pytest.raises(BlockingIOError) as caught:
            call(udp, 4, socket.MSG_DONTWAIT)
        assert caught.value.errno == errno.EAGAIN
        assert udp.gettimeout() is None

    @pytest.mark.parametrize(
        "call",
        [
            lambda udp, flags: udp.sendto(b"", flags, DESTINATION),
            lambda udp, flags: udp.send(b"", flags),
            lambda udp, flags: udp.recvfrom(9, flags),
            lambda udp, flags: udp.recv(9, flags),
            lambda udp, flags: udp.recvfrom_into(bytearray(9), 9, flags),
            lambda udp, flags: udp.recv_into(bytearray(9), 9, flags),
        ],
        ids=["sendto", "send", "recvfrom", "recv", "recvfrom_into", "recv_into"],
    )
    @pytest.mark.parametrize("flags", [None, "1", DESTINATION], ids=str)
    def test_flags_that_are_no_number(
        self, udp: UDP, call: Callable[[UDP, object], object], flags: object
    ) -> None:
        udp.setblocking(False)
        with pytest.raises(TypeError):
            call(udp, flags)

    @pytest.mark.parametrize("connected", [False, True], ids=["", "connected"])
    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("sendto", (b"", DESTINATION)),
            ("sendto", (b"", 0, DESTINATION)),
            ("send", (b"",)),
            ("recvfrom", (100,)),
            ("recv", (100,)),
            ("recvfrom_into", (bytearray(100),)),
            ("recv_into", (bytearray(100),)),
            ("connect", (DESTINATION,)),
            ("getpeername", ()),
            ("getsockname", ()),
            ("getsockopt", (socket.SOL_SOCKET, socket.SO_RCVBUF)),
            ("setsockopt", (socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)),
        ],
        ids=name_of,
    )
    def test_closed_it_does_nothing_any_more(
        self,
        udp: UDP,
        peer: socket.socket,
        name: str,
        args: tuple[object, ...],
        connected: bool,
    ) -> None:
        if connected:
            udp.connect(peer.getsockname())
            udp.send(b"known")
        with udp as entered:
            assert entered is udp
        assert udp.fileno() == -1
        udp.close()
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            getattr(udp, name)(*args)
        assert (caught.type, caught.value.errno) == (OSError, errno.EBADF)
        assert "closed" in repr(udp)


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
def test_flags_that_an_association_cannot_honour(
    played: PlayedProxy, flags: int, told: str, room: int
) -> None:
    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        played.client = address_of(udp)
        played.say(DATAGRAM)
        for receive in RECEIVE_WITH_FLAGS.values():
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


def test_ipv6_has_addresses_of_four_parts(udp_echo_6: Address) -> None:
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


def test_a_scope_means_nothing_to_a_proxy() -> None:
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
def test_a_destination_that_cannot_be(address: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^host|^port"):
                udp.sendto(b"", address)
            with pytest.raises(ValueError, match=r"^host|^port"):
                udp.connect(address)
        with pytest.raises(OSError, match="not connected"):
            udp.getpeername()


def test_the_timeout_is_kept_from_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_timeout_that_cannot_be(timeout: float) -> None:
    with SocksServer() as server:
        with pytest.raises(ValueError, match="timeout"):
            socksclient.udp_associate(timeout, proxy=server.url)
        assert server.connections == []


def test_repr_names_the_proxy_without_its_password() -> None:
    with SocksServer(accounts={"user": "secret"}) as server:
        with socksclient.udp_associate(LONG, proxy=server.url) as udp:
            told = f"socks5h://***@127.0.0.1:{server.address[1]}, relay"
            relay = f"127.0.0.1:{udp.relay_address[1]}"
            assert repr(udp) == f"<UDPAssociation {told} {relay}>"
        assert repr(udp) == f"<UDPAssociation closed, {told} {relay}>"


# All drivers


def address_of(udp: UDPAssociation) -> Address:
    host, port, *_ = udp.getsockname()
    return host, port


class Talk:
    """A blocking association, with what tests of all drivers ask for."""

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
        """Without an address: to the one connected to."""
        sent = self.udp.send(data) if address is None else self.udp.sendto(data, address)
        assert sent == len(data)

    def receive(self, timeout: float = LONG) -> tuple[bytes, Address]:
        """When the timeout passes, it is a TimeoutError in all of them."""
        self.udp.settimeout(timeout)
        data, (host, port, *_) = self.udp.recvfrom()
        return data, (host, port)

    def begin_to_receive(self) -> Future[Any]:
        """Without a timeout."""
        self.udp.settimeout(None)
        return in_thread(self.udp.recvfrom)

    def receiving(self) -> Future[Any]:
        """Begin to receive a datagram."""
        return self.begin_to_receive()

    def connect(self, address: Address) -> None:
        self.udp.connect(address)

    def close(self) -> None:
        self.udp.close()

    def assert_closed(self, call: Callable[[], object]) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


class AwaitedTalk(Talk):
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
    def __call__(
        self,
        proxy: ProxyLike,
        *,
        timeout: float = LONG,
        local_address: Address | None = None,
        trust: bool = True,
    ) -> Talk: ...


@pytest.fixture(params=["blocking", *BACKENDS])
def associate(request: pytest.FixtureRequest) -> Iterator[Associate]:
    """One test, every driver; what they have associated is closed in the end."""

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
        if request.param == "blocking":
            yield block
        else:
            portal = stack.enter_context(start_blocking_portal(**BACKENDS[request.param]))
            yield wait


def associate_with(played: PlayedProxy, associate: Associate) -> Talk:
    """Return an association that the proxy can speak to at once."""
    talk = associate(played.url)
    played.client = talk.local_address
    return talk


def assert_echoes(talk: Talk, address: Address, token: bytes = b"there and back") -> None:
    talk.send(token, address)
    assert talk.receive() == (token, address)


# Destinations


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_association_reaches_all_kinds_of_destinations(
    associate: Associate, poll: str, host: str, udp_echo: Address, udp_echo_6: Address
) -> None:
    with (
        echoing_datagrams() as named,
        echoing_datagrams("::1") as named_6,
        SocksServer(host=host) as server,
    ):
        server.routes = {("name.test", 53): named, ("other.test", 53): named_6}
        talk = associate(server.url)
        assert talk.relay_address[0] == host
        for turn in range(2):
            for address in (udp_echo, ("name.test", 53), udp_echo_6, ("other.test", 53)):
                assert_echoes(talk, address, b"%d" % turn)
        assert_echoes(talk, udp_echo, b"")
        assert_echoes(talk, udp_echo, bytes(range(256)) * 250)
        assert talk.dropped == 0


def test_names_are_left_to_the_proxy(associate: Associate, udp_echo: Address) -> None:
    address = ("secret-name.test", 53)
    with SocksServer(routes={address: udp_echo}) as server:
        with resolved_names() as names:
            talk = associate(server.url)
            assert_echoes(talk, address)
            talk.connect(address)
            talk.send(b"once more")
            assert talk.receive() == (b"once more", address)
        assert names == []
        [seen] = server.connections
        assert [destination for destination, _ in seen.datagrams] == [address] * 2


class TestNamesResolvedHere:
    @pytest.fixture
    def looked_up(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        looked_up = []
        known = {
            "name.test": ["192.0.2.1", "2001:db8::1", "192.0.2.2"],
            "six.test": ["2001:db8::2", "192.0.2.3"],
        }

        def look_up(name: str) -> list[str]:
            looked_up.append(name)
            return known.get(name, [])

        monkeypatch.setattr(socket, "getaddrinfo", resolver(look_up))
        return looked_up

    def test_once_each_and_to_the_first_address(
        self, associate: Associate, looked_up: list[str], played: PlayedProxy
    ) -> None:
        talk = associate(played.url.replace("socks5h", "socks5"))
        for _ in range(3):
            for name, address in [("name.test", "192.0.2.1"), ("six.test", "2001:db8::2")]:
                talk.send(b"datagram", (name, 53))
                assert played.hear() == encode_datagram_header(address, 53) + b"datagram"
            talk.send(b"datagram", DESTINATION)
            assert played.hear() == DATAGRAM
        assert looked_up == ["name.test", "six.test"]

    def test_connected_only_the_first_address_is_heard(
        self, associate: Associate, looked_up: list[str], played: PlayedProxy
    ) -> None:
        talk = associate(played.url.replace("socks5h", "socks5"))
        talk.connect(("name.test", 53))
        talk.send(b"datagram")
        assert played.hear() == DATAGRAM
        played.say(encode_datagram_header("192.0.2.2", 53), DATAGRAM)
        assert talk.receive() == (b"datagram", DESTINATION)
        assert talk.dropped == 1
        assert looked_up == ["name.test"]

    def test_one_that_has_no_address(
        self, associate: Associate, looked_up: list[str], played: PlayedProxy
    ) -> None:
        talk = associate(played.url.replace("socks5h", "socks5"))
        for call in (partial(talk.send, b""), talk.connect):
            with pytest.raises(ResolveError, match=r"cannot resolve none\.test") as caught:
                call(("none.test", 53))
            assert caught.value.phase == "resolve"
            assert caught.value.destination == ("none.test", 53)
            assert caught.value.proxy is not None
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM

    def test_a_resolver_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = threading.Event()

        def look_up(_name: str) -> list[str]:
            answer.wait()
            return ["127.0.0.1"]

        with SocksServer() as server:
            url = server.url.replace("socks5h", "socks5")
            with socksclient.udp_associate(SHORT, proxy=url) as udp:
                monkeypatch.setattr(socket, "getaddrinfo", resolver(look_up))
                with pytest.raises(ProxyTimeout) as caught:
                    udp.sendto(b"", ("name.test", 53))
                assert caught.value.phase == "resolve"
                answer.set()
                # A socket that never waits may still ask the resolver.
                udp.setblocking(False)
                assert udp.sendto(b"", ("name.test", 53)) == 0


@pytest.mark.parametrize("destination", ALL_KINDS, ids=name_of)
def test_the_longest_datagram(
    associate: Associate, played: PlayedProxy, destination: Address
) -> None:
    talk = associate(played.url)
    header = encode_datagram_header(*destination)
    most = 65507 - len(header)
    with pytest.raises(OSError, match="Message too long") as caught:
        talk.send(bytes(most + 1), destination)
    assert (caught.type, caught.value.errno) == (OSError, errno.EMSGSIZE)
    payload = os.urandom(most)
    talk.send(payload, destination)
    assert played.hear() == header + payload  # and nothing came before
    played.say(header + payload)
    assert talk.receive() == (payload, destination)


# The relay


def only_request(server: SocksServer) -> Connection:
    [seen] = server.requests
    assert seen.command == Command.UDP_ASSOCIATE
    return seen


@pytest.mark.parametrize(
    ("host", "relay_host", "trust", "reached_at"),
    [
        ("127.0.0.1", "0.0.0.0", True, "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0", False, "127.0.0.1"),
        ("127.0.0.1", "::1", True, "::1"),
        ("::1", "127.0.0.1", True, "127.0.0.1"),
        ("::1", "::", True, "::1"),
        ("::1", "::", False, "::1"),
    ],
)
def test_where_the_relay_is(
    associate: Associate,
    host: str,
    relay_host: str,
    trust: bool,
    reached_at: str,
    udp_echo: Address,
    udp_echo_6: Address,
) -> None:
    with SocksServer(host=host, faults=Faults(relay_host=relay_host)) as server:
        talk = associate(server.url, trust=trust)
        assert talk.relay_address[0] == reached_at
        assert talk.local_address[0] == reached_at
        for address in (udp_echo, udp_echo_6):
            assert_echoes(talk, address)


@pytest.mark.parametrize("bound_host", ["192.0.2.1", "2001:db8::1", "relay.test", "0.0.0.0"])
def test_a_relay_address_that_is_not_trusted(associate: Associate, bound_host: str) -> None:
    with PlayedProxy(bound_host=bound_host) as played:
        with resolved_names() as names:
            talk = associate(played.url, trust=False)
        assert names == []
        assert talk.relay_address == played.relay.getsockname()
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM
        played.say(DATAGRAM)
        assert talk.receive() == (b"datagram", DESTINATION)


@pytest.mark.parametrize("local_host", [None, "127.0.0.1"])
def test_a_relay_at_a_mapped_address_is_at_that_of_ipv4(
    associate: Associate, local_host: str | None
) -> None:
    """A proxy with one socket for IPv4 and IPv6 writes its own IPv4 address in this form."""
    with PlayedProxy(bound_host="::ffff:127.0.0.1") as played:
        local_address = None if local_host is None else (local_host, 0)
        talk = associate(played.url, local_address=local_address)
        assert talk.relay_address == played.relay.getsockname()
        assert talk.association.udp.family == socket.AF_INET
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM
        played.say(encode_datagram_header("::ffff:192.0.2.1", 53) + b"datagram")
        assert talk.receive() == (b"datagram", DESTINATION)


def test_dnspython_takes_an_answer_from_a_mapped_address(played: PlayedProxy) -> None:
    """The source of an answer must be the destination of the query."""

    def answer() -> None:
        query = dns.message.from_wire(played.hear()[len(DATAGRAM) - len(b"datagram") :])
        header = encode_datagram_header("::ffff:192.0.2.1", 53)
        played.say(header + dns.message.make_response(query).to_wire())

    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        answering = in_thread(answer)
        query = dns.message.make_query("name.test", "A")
        assert dns.query.udp(query, DESTINATION[0], LONG, sock=udp).id == query.id
        answering.result(LONG)


def test_an_unspecified_mapped_relay_address_is_that_of_the_proxy(associate: Associate) -> None:
    with PlayedProxy(bound_host="::ffff:0.0.0.0") as played:
        assert associate(played.url).relay_address == played.relay.getsockname()


def test_a_proxy_that_the_caller_gives_by_a_mapped_address(associate: Associate) -> None:
    """The control connection is an IPv6 one then, but an IPv4 socket can reach the relay."""
    with PlayedProxy(bound_host="0.0.0.0") as played:
        url = played.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        talk = associate(url, local_address=("127.0.0.1", 0))
        assert talk.association.controls[0].family == socket.AF_INET6
        assert talk.relay_address == played.relay.getsockname()
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM


def test_a_destination_that_the_caller_gives_by_a_mapped_address(
    associate: Associate, played: PlayedProxy
) -> None:
    """The address is sent as it is, and answers come from either form of it."""
    talk = associate(played.url)
    header = b"\0\0\0\x04" + bytes(10) + b"\xff\xff\xc0\0\x02\x01" + b"\0\x35"
    mapped = ("::ffff:192.0.2.1", 53)
    talk.send(b"datagram", mapped)
    assert played.hear() == header + b"datagram"
    talk.connect(mapped)
    talk.send(b"datagram")
    assert played.hear() == header + b"datagram"
    other = encode_datagram_header("::ffff:192.0.2.2", 53)
    played.say(other + b"no", DATAGRAM, other + b"no", header + b"as it was sent")
    assert [talk.receive()[0] for _ in range(2)] == [b"datagram", b"as it was sent"]
    assert talk.dropped == 2


@pytest.mark.parametrize(
    ("bound_address", "trust", "error", "text"),
    [
        (
            ("relay.test", 1),
            True,
            ProtocolError,
            "its relay is at 'relay.test', which is no IP address; with trust_relay_address=False",
        ),
        (("", 1), True, ProtocolError, "host is empty"),
        (("127.0.0.1", 0), True, ProtocolError, "port 0"),
        (("0.0.0.0", 0), True, ProtocolError, "port 0"),
        (("relay.test", 0), False, ProtocolError, "port 0"),
        (("255.255.255.255", 1), True, ProtocolError, "no host can have its bound address"),
        (("239.1.2.3", 1), True, ProtocolError, "bound address, 239.1.2.3"),
        (("::ffff:239.1.2.3", 1), True, ProtocolError, "bound address, 239.1.2.3"),
        (("ff02::1", 1), True, ProtocolError, "bound address, ff02::1"),
    ],
)
def test_a_relay_that_cannot_be(
    associate: Associate,
    bound_address: Address,
    trust: bool,
    error: type[SocksError],
    text: str,
) -> None:
    with SocksServer(faults=Faults(bound_address=bound_address)) as server:
        for local_address in (None, ("127.0.0.1", 0)):
            with nothing_left_open():
                with pytest.raises(error, match=re.escape(text)) as caught:
                    associate(server.url, trust=trust, local_address=local_address)
                assert caught.type is error
                assert caught.value.phase == "relay"
                assert caught.value.proxy is not None
                assert caught.value.destination is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_by_default_no_address_is_announced(associate: Associate, host: str) -> None:
    with SocksServer(host=host) as server:
        associate(server.url)
        seen = only_request(server)
        # In the family of the connection: Dante takes that for the relay's.
        if host == "::1":
            assert (seen.address_type, seen.destination) == (AddressType.IPV6, ("::", 0))
        else:
            assert (seen.address_type, seen.destination) == (AddressType.IPV4, ("0.0.0.0", 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
@pytest.mark.parametrize("which_port", ["any port", "a port"])
def test_the_local_address_is_announced(
    associate: Associate, host: str, which_port: str, udp_echo: Address
) -> None:
    with SocksServer(faults=Faults(relay_host="::1" if host == "::1" else None)) as server:
        port = free_udp_port(host) if which_port == "a port" else 0
        talk = associate(server.url, local_address=(host, port))
        assert talk.local_address[0] == host
        assert talk.local_address[1] == port or port == 0
        assert only_request(server).destination == talk.local_address
        assert_echoes(talk, udp_echo)


def free_udp_port(host: str) -> int:
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("host", ["localhost", "name.test", "127.1"])
def test_a_name_as_the_local_address(associate: Associate, host: str) -> None:
    with SocksServer() as server, nothing_left_open(), resolved_names() as names:
        with pytest.raises(ValueError, match="must be an IP address") as held:
            associate(server.url, local_address=(host, 0))
        assert server.connections == [], held
        assert names == []


def test_a_local_address_of_another_family(associate: Associate) -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(ProxyConnectError, match="another address family") as caught:
            associate(server.url, local_address=("::1", 0))
        assert caught.value.errno == errno.EAFNOSUPPORT
        assert caught.value.phase == "relay"


@pytest.mark.parametrize("local_address", [("192.0.2.1", 0), ("::1%lo", 0), ("127.0.0.1", 65536)])
def test_a_local_address_that_is_not_here(associate: Associate, local_address: Address) -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises((OSError, ValueError, OverflowError)) as held:
            associate(server.url, local_address=local_address)
        assert server.connections == [], held


@pytest.mark.parametrize(
    ("host", "port", "number"),
    [("192.0.2.1", 0, errno.EADDRNOTAVAIL), ("127.0.0.1", "taken", errno.EADDRINUSE)],
)
def test_a_local_address_that_cannot_be_had(
    associate: Associate, peer: socket.socket, host: str, port: int | str, number: int
) -> None:
    with SocksServer() as server, nothing_left_open():
        taken = peer.getsockname()[1]
        where = (host, taken if port == "taken" else 0)
        text = f"^cannot send datagrams from {host}:{where[1]}: {os.strerror(number)} .phase: conn"
        with pytest.raises(ProxyConnectError, match=text) as caught:
            associate(server.url, local_address=where)
        assert caught.value.errno == number
        assert caught.value.proxy is not None
        assert server.connections == []


def test_a_source_address_that_cannot_be_had_is_the_same_error() -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(ProxyConnectError, match="Cannot assign requested") as caught:
            socksclient.create_connection(
                DESTINATION, source_address=("192.0.2.1", 0), proxy=server.url
            )
        assert (caught.value.errno, caught.value.phase) == (errno.EADDRNOTAVAIL, "connect")
        assert server.connections == []


@pytest.mark.parametrize("port", [65536, -1, "1", None])
def test_a_local_port_that_cannot_be(associate: Associate, port: Any) -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(ValueError, match=r"^port "):
            associate(server.url, local_address=("127.0.0.1", port))
        assert server.connections == []


def test_a_proxy_that_cannot_relay_needs_no_socket(associate: Associate) -> None:
    with pytest.raises(ValueError, match="a SOCKS4 proxy cannot do UDP ASSOCIATE"):
        associate("socks4://127.0.0.1:1", local_address=("192.0.2.1", 0))


class TestWhatTheSystemLacks:
    """The control connection can be made, but what the datagrams need cannot."""

    def assert_refused(
        self, call: Callable[[], object], text: str, number: int, phase: str = "relay"
    ) -> None:
        with pytest.raises(ProxyConnectError) as caught:
            call()
        assert str(caught.value).startswith(f"{text}: {os.strerror(number)}")
        assert (caught.value.errno, caught.value.phase) == (number, phase)
        assert caught.value.proxy is not None

    @pytest.fixture
    def refuse(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
        """Make it impossible to make UDP sockets of this family, or any at all."""

        def refuse(number: int, family: int | None = None) -> None:
            class Socket(socket.socket):
                def __init__(self, of: int = -1, kind: int = -1, *args: Any, **others: Any) -> None:
                    if kind == socket.SOCK_DGRAM and family in (None, of):
                        raise OSError(number, os.strerror(number))
                    super().__init__(of, kind, *args, **others)

            monkeypatch.setattr("socksclient._net.relay.PlainSocket", Socket)

        return refuse

    def test_ipv6(self, associate: Associate, refuse: Callable[[int, int], None]) -> None:
        with PlayedProxy(bound_host="::1") as played, nothing_left_open():
            refuse(errno.EAFNOSUPPORT, socket.AF_INET6)
            where = f"[::1]:{played.relay.getsockname()[1]}"
            self.assert_refused(
                lambda: associate(played.url),
                f"cannot make a UDP socket for the relay, {where}",
                errno.EAFNOSUPPORT,
            )
            assert played.control.recv(1) == b""
            played.end()

    def test_a_descriptor_for_the_socket(
        self, associate: Associate, played: PlayedProxy, refuse: Callable[[int], None]
    ) -> None:
        with nothing_left_open():
            refuse(errno.EMFILE)
            host, port = played.relay.getsockname()
            self.assert_refused(
                lambda: associate(played.url),
                f"cannot make a UDP socket for the relay, {host}:{port}",
                errno.EMFILE,
            )
            played.end()

    def test_a_descriptor_for_the_socket_that_is_bound(
        self, associate: Associate, refuse: Callable[[int], None]
    ) -> None:
        with SocksServer() as server, nothing_left_open():
            refuse(errno.EMFILE)
            self.assert_refused(
                lambda: associate(server.url, local_address=("127.0.0.1", 0)),
                "cannot send datagrams from 127.0.0.1:0",
                errno.EMFILE,
                "connect",
            )
            assert server.connections == []

    @pytest.mark.parametrize("local_address", [None, ("127.0.0.1", 0)], ids=["", "bound"])
    @pytest.mark.parametrize("at", ["epoll", "register"])
    def test_what_waits(
        self,
        associate: Associate,
        played: PlayedProxy,
        monkeypatch: pytest.MonkeyPatch,
        at: str,
        local_address: Address | None,
    ) -> None:
        number = errno.EMFILE if at == "epoll" else errno.ENOSPC
        closed = []

        class Epoll:
            def __init__(self) -> None:
                if at == "epoll":
                    raise OSError(number, os.strerror(number))

            def register(self, sock: socket.socket, events: int) -> None:
                raise OSError(number, os.strerror(number))

            def close(self) -> None:
                closed.append(self)

        lacking = SimpleNamespace(epoll=Epoll, EPOLLIN=select.EPOLLIN)
        with nothing_left_open():
            monkeypatch.setattr("socksclient._net.association.select", lacking)
            host, port = played.relay.getsockname()
            self.assert_refused(
                lambda: associate(played.url, local_address=local_address),
                f"cannot wait for datagrams of the relay, {host}:{port}",
                number,
            )
            assert len(closed) == (at == "register")
            played.end()


class TestARelayAtAPrivateAddress:
    """A relay whose private address is not the proxy's: often the proxy is behind a NAT."""

    # Another proxy of this machine could have this address.
    HERE = "127.0.0.2"

    def advice(self, played: PlayedProxy, host: str = HERE) -> str:
        where = host_port(host, played.relay.getsockname()[1])
        return (
            f"the relay, {where}, has a private address that is not the proxy's own, 127.0.0.1;"
            " with trust_relay_address=False, datagrams go to the proxy's own address"
        )

    def test_is_named_when_the_timeout_passes(self, poll: str) -> None:
        with PlayedProxy(bound_host=self.HERE) as played:
            with socksclient.udp_associate(SOON, proxy=played.url) as udp:
                for receive in RECEIVE.values():
                    with pytest.raises(TimeoutError) as caught:
                        receive(udp, 100)
                    assert str(caught.value) == f"timed out; {self.advice(played)}"
                    assert caught.value.errno is None

    def test_is_named_when_it_refuses(self, associate: Associate) -> None:
        with PlayedProxy(bound_host=self.HERE) as played:
            talk = associate(played.url)
            talk.connect(DESTINATION)
            refused = f"{os.strerror(errno.ECONNREFUSED)}; {self.advice(played)}"
            talk.send(b"lost")
            for call in (lambda: talk.send(b"not even sent"), talk.receive):
                with pytest.raises(ConnectionRefusedError) as caught:
                    call()
                assert caught.value.strerror == refused
                assert caught.value.errno == errno.ECONNREFUSED
                talk.send(b"lost")

    @pytest.mark.parametrize("host", ["fe80::1", "169.254.0.1"])
    def test_is_named_when_it_cannot_be_reached(self, associate: Associate, host: str) -> None:
        # A link-local IPv6 address cannot be reached without its zone, and a link-local IPv4
        # address cannot be reached from a loopback address.
        local_address = None if host == "fe80::1" else ("127.0.0.1", 0)
        with PlayedProxy(bound_host=host) as played:
            with pytest.raises(ProxyConnectError) as caught:
                associate(played.url, local_address=local_address)
            assert str(caught.value).startswith("cannot reach the relay")
            assert self.advice(played, host) in str(caught.value)

    def test_is_in_the_log(self, associate: Associate, caplog: pytest.LogCaptureFixture) -> None:
        """anyio, and not this library, raises the timeout of an awaited call."""
        with PlayedProxy(bound_host=self.HERE) as played:
            with caplog.at_level("DEBUG", "socksclient"):
                associate(played.url)
            assert [line for line in caplog.messages if self.advice(played) in line]

    def test_is_not_named_once_it_is_heard_of(self) -> None:
        with PlayedProxy(bound_host=self.HERE) as played:
            with socket.socket(type=socket.SOCK_DGRAM) as relay:
                relay.bind((self.HERE, played.relay.getsockname()[1]))
                with socksclient.udp_associate(SOON, proxy=played.url) as udp:
                    relay.sendto(DATAGRAM, udp.getsockname())
                    assert udp.recvfrom() == (b"datagram", DESTINATION)
                    with pytest.raises(TimeoutError, match=r"^timed out$"):
                        udp.recvfrom()

    @pytest.mark.parametrize("trust", [True, False])
    @pytest.mark.parametrize("bound_host", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"])
    def test_of_the_proxy_itself_is_not_named(self, bound_host: str, trust: bool) -> None:
        with PlayedProxy(bound_host=bound_host) as played:
            with socksclient.udp_associate(
                SOON, proxy=played.url, trust_relay_address=trust
            ) as udp:
                with pytest.raises(TimeoutError, match=r"^timed out$"):
                    udp.recvfrom()

    def test_the_end_of_the_proxy_is_told_of_as_ever(self) -> None:
        [route] = routes_of((Proxy("127.0.0.1"),), ("0.0.0.0", 0))
        with socket.socket() as control:  # not connected any more
            granted = Granted(route, control, Grant((self.HERE, 1), None))
            assert _advice(granted, Host.of(self.HERE), (self.HERE, 1)) == ""

    @pytest.mark.parametrize(
        ("host", "private"),
        [
            *[(f"{host}{last}", True) for host in ("10.0.0.", "172.31.255.") for last in (0, 255)],
            *[(host, True) for host in ("192.168.1.1", "127.0.0.1", "169.254.1.1", "::1")],
            *[(host, True) for host in ("fd00::1", "fe80::1", "::ffff:10.0.0.1", "fe80::1%eth0")],
            *[(host, False) for host in ("192.0.2.1", "172.32.0.0", "8.8.8.8", "100.64.0.1")],
            *[(host, False) for host in ("2001:db8::1", "::ffff:8.8.8.8", "localhost")],
        ],
    )
    def test_is_what_the_rfcs_say(self, host: str, private: bool) -> None:
        assert _is_private(Host.of(host)) is private


def test_the_local_address_is_a_pair() -> None:
    with SocksServer() as server, nothing_left_open():
        with pytest.raises(TypeError, match="pair") as held:
            socksclient.udp_associate(
                proxy=server.url,
                local_address="127.0.0.1",  # type: ignore[arg-type]
            )
        assert server.connections == [], held


# Only the relay is heard, and only what is as it should be


@pytest.mark.parametrize("stranger", [b"", b"strange", DATAGRAM])
def test_strangers_are_not_heard(
    associate: Associate, poll: str, stranger: bytes, udp_echo: Address
) -> None:
    with SocksServer(faults=Faults(stranger=stranger)) as server:
        talk = associate(server.url)
        for number in range(3):
            assert_echoes(talk, udp_echo, b"%d" % number)
        assert talk.dropped == 0


def test_garbage_is_dropped_and_counted(
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


def test_garbage_of_the_test_server(associate: Associate, udp_echo: Address) -> None:
    with SocksServer(faults=Faults(garbage=GARBAGE)) as server:
        talk = associate(server.url)
        assert_echoes(talk, udp_echo, b"datagram")
        assert talk.dropped == len(GARBAGE)


@pytest.mark.parametrize(
    "header", [DATAGRAM[:10], b"\0\0\0\x03\0\0\x35", b"\0\0\0\x03\x01\xff\0\0"]
)
def test_a_datagram_may_have_no_payload(
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
class TestAGoodDatagram:
    """A good datagram behind bad ones is received by a caller that is woken only once."""

    def test_behind_garbage(
        self, poll: str, played: PlayedProxy, call: Callable[[UDPAssociation], object]
    ) -> None:
        with socksclient.udp_associate(LONG, proxy=played.url) as udp:
            played.client = address_of(udp)
            played.say(*GARBAGE, DATAGRAM)
            assert call(udp) == (b"datagram", DESTINATION)
            assert udp.dropped == len(GARBAGE)

    def test_behind_others_than_the_peer(
        self, poll: str, played: PlayedProxy, call: Callable[[UDPAssociation], object]
    ) -> None:
        with socksclient.udp_associate(LONG, proxy=played.url) as udp:
            played.client = address_of(udp)
            udp.connect(DESTINATION)
            played.say(*from_(("192.0.2.9", 53), ("name.test", 53)), DATAGRAM)
            assert call(udp) == (b"datagram", DESTINATION)
            assert udp.dropped == 2

    def test_behind_an_icmp_error(
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


def test_one_edge_tells_of_all_that_came(played: PlayedProxy) -> None:
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


def test_garbage_without_end_does_not_hold_who_does_not_wait(
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


def test_a_datagram_takes_up_more_of_the_buffer_than_is_reckoned_with(
    played: PlayedProxy,
) -> None:
    """On Linux even the shortest one does, so all datagrams in the buffer are looked at."""
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
def test_a_flood_does_not_outlast_a_timeout(
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


def test_in_a_flood_all_else_is_received(
    associate: Associate, poll: str, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    with again_and_again(lambda: played.say(*GARBAGE, DATAGRAM)):
        for _ in range(20):
            assert talk.receive() == (b"datagram", DESTINATION)


# The control connection


@pytest.fixture(params=["hang-up", "RST"])
def end(request: pytest.FixtureRequest, played: PlayedProxy) -> Callable[[], None]:
    return played.end if request.param == "hang-up" else played.reset


def assert_ended(call: Callable[[], object]) -> None:
    with pytest.raises(AssociationClosed, match="ended the UDP association") as caught:
        call()
    assert caught.type is AssociationClosed
    assert caught.value.phase == "relay"
    assert caught.value.proxy is not None
    assert caught.value.destination is None
    assert caught.value.errno == errno.ECONNRESET


def assert_ended_after_an_echo(talk: Talk) -> None:
    """Check the end of an association; the echo of the last datagram may come before it, or not."""

    def receive() -> None:
        assert talk.receive()[0] == b"last"
        talk.receive()

    assert_ended(receive)


def test_its_end_wakes_who_receives(
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


def test_its_end_stops_sending_at_once(
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


def test_its_end_wakes_all_threads(played: PlayedProxy) -> None:
    with socksclient.udp_associate(None, proxy=played.url) as udp:
        futures = [in_thread(udp.recvfrom) for _ in range(4)]
        played.end()
        for future in futures:
            assert_ended(lambda future=future: future.result(LONG))  # type: ignore[misc]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_test_server_ends_it(associate: Associate, count: int, udp_echo: Address) -> None:
    with SocksServer(faults=Faults(end_after=count)) as server:
        talk = associate(server.url)
        for number in range(count - 1):
            assert_echoes(talk, udp_echo, b"%d" % number)
        if count:
            talk.send(b"last", udp_echo)
        assert_ended_after_an_echo(talk)
        assert len(server.connections[0].datagrams) == count


@pytest.mark.parametrize("garbage", [[], [b"", b"garbage"]], ids=["", "garbage"])
def test_what_came_before_its_end_is_delivered(
    associate: Associate, poll: str, played: PlayedProxy, garbage: list[bytes]
) -> None:
    talk = associate_with(played, associate)
    played.say(DATAGRAM, *garbage, DATAGRAM, *garbage, DATAGRAM)
    played.end()
    for _ in range(3):
        assert talk.receive() == (b"datagram", DESTINATION)
    assert_ended(talk.receive)
    assert talk.dropped == 2 * len(garbage)


def test_what_comes_after_its_end_is_not(
    associate: Associate, poll: str, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    played.end()
    assert_ended(talk.receive)
    played.say(DATAGRAM)
    assert_ended(talk.receive)


def test_what_is_said_on_it_is_ignored_and_not_kept(
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
    talk.send(b"datagram", DESTINATION)  # the data waiting there notwithstanding
    assert played.hear() == DATAGRAM
    played.end()
    assert_ended(talk.receive)


def test_its_data_does_not_hide_its_end(associate: Associate, udp_echo: Address) -> None:
    faults = Faults(control_data=bytes(4_000_000), end_after=3)
    with SocksServer(faults=faults) as server:
        talk = associate(server.url)
        for number in range(2):
            assert_echoes(talk, udp_echo, b"%d" % number)
        talk.send(b"last", udp_echo)
        assert_ended_after_an_echo(talk)


def test_nothing_is_said_on_it_and_it_is_never_half_closed(
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


# Closing


def test_closing_wakes_who_receives(associate: Associate, poll: str) -> None:
    with SocksServer() as server:
        talk = associate(server.url)
        future = talk.receiving()
        talk.close()
        talk.assert_closed(lambda: future.result(LONG))


def test_closing_wakes_all_threads(poll: str) -> None:
    with SocksServer() as server:
        udp = socksclient.udp_associate(None, proxy=server.url)
        futures = [in_thread(udp.recvfrom) for _ in range(4)]
        udp.close()
        for future in futures:
            with pytest.raises(OSError, match="Bad file descriptor"):
                future.result(LONG)


def test_who_comes_to_wait_when_it_has_just_been_closed_does_not(poll: str) -> None:
    with SocksServer() as server:
        udp = socksclient.udp_associate(None, proxy=server.url)
        association = udp._association
        udp.close()
        begin = time.monotonic()
        association.wait(LONG)
        association.wait_for_room(LONG)
        assert time.monotonic() - begin < LONG


def test_closing_closes_no_descriptor_that_others_wait_for(
    monkeypatch: pytest.MonkeyPatch, poll: str
) -> None:
    """Descriptors may be watched by gevent or eventlet. With epoll, there is no such danger."""
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


def test_closing_ends_all(associate: Associate, poll: str, udp_echo: Address) -> None:
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


def test_closing_what_the_proxy_has_ended(
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


# ICMP


class TestARelayThatIsGone:
    def test_is_not_told_of_unless_connected(
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

    def test_is_told_of_to_who_is_connected(
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

    def test_is_no_matter_once_the_association_has_ended(
        self, associate: Associate, poll: str, played: PlayedProxy
    ) -> None:
        talk = associate_with(played, associate)
        talk.connect(DESTINATION)
        played.relay.close()
        talk.send(b"lost")
        played.end()
        assert_ended(talk.receive)
        assert_ended(lambda: talk.send(b"lost"))


class Refusing:
    """A UDP socket for which the system reports so many ICMP errors before it sends."""

    def __init__(self, errors: int) -> None:
        self.errors = errors
        self.sent: list[bytes] = []

    def send(self, datagram: bytes, flags: int) -> int:
        if self.errors:
            self.errors -= 1
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self.sent.append(datagram)
        return len(datagram)


@pytest.mark.parametrize("errors", range(5))
def test_several_icmp_errors_do_not_keep_a_datagram_from_being_sent(
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


def test_a_connected_socket_is_told_of_a_closed_port_too() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", free_udp_port("127.0.0.1")))
        sock.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(1)
        sock.send(b"lost")
        with pytest.raises(ConnectionRefusedError):
            sock.send(b"not even sent")


# Failures of the handshake


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (Faults(reply=0x07), ReplyError),
        (Faults(close_after=2), ProxyClosed),
        (Faults(reset_after=2), ProxyClosed),
    ],
    ids=str,
)
def test_a_proxy_without_it(
    associate: Associate, faults: Faults, error: type[ReplyError | ProxyClosed]
) -> None:
    with SocksServer(faults=faults) as server:
        with pytest.raises(error, match="not offer UDP ASSOCIATE") as caught:
            associate(server.url)
        assert caught.type is error
        assert caught.value.phase == "request"
        assert caught.value.destination is None
        if isinstance(caught.value, ReplyError):
            assert caught.value.reply == Reply.COMMAND_NOT_SUPPORTED


ACCOUNTS = {"user": "pass"}
WHOLE_HANDSHAKE = 2 + 2 + 10


@pytest.mark.parametrize("local_address", [None, ("127.0.0.1", 0)], ids=["", "bound"])
def test_nothing_is_left_open_by_a_failure(
    associate: Associate, local_address: Address | None
) -> None:
    faults = [
        *(Faults(close_after=count) for count in range(WHOLE_HANDSHAKE)),
        *(Faults(reset_after=count) for count in range(0, WHOLE_HANDSHAKE, 2)),
        Faults(reply=0x01),
        Faults(status=0x01),
        Faults(method=0xFF),
    ]
    held = []
    with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
        unreachable = f"socks5h://127.0.0.1:{REFUSED_PORT}"
        with nothing_left_open():
            for url in [*(server.url for _ in faults), unreachable]:
                with pytest.raises(SocksError) as caught:
                    associate(url, local_address=local_address)
                held.append(caught)
        assert len(server.connections) == len(faults)


@pytest.mark.parametrize("local_address", [None, ("127.0.0.1", 0)], ids=["", "bound"])
def test_nothing_is_left_open_by_a_timeout(
    associate: Associate, local_address: Address | None
) -> None:
    faults = [Faults(stall_after=count) for count in range(WHOLE_HANDSHAKE)]
    held = []
    with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
        for _ in faults:
            with pytest.raises(TimeoutError) as caught:
                associate(server.url, local_address=local_address, timeout=SOON)
            held.append(caught)


# Room for what is sent


class TestRoom:
    @pytest.fixture
    def relay(self, request: pytest.FixtureRequest) -> Iterator[socket.socket]:
        with no_room() as (self.association, relay):
            yield relay

    def full(self, timeout: float | None) -> UDPAssociation:
        return UDPAssociation(self.association, timeout)

    @pytest.mark.parametrize("timeout", [LONG, None])
    def test_is_waited_for(self, relay: socket.socket, timeout: float | None) -> None:
        future = in_thread(partial(self.full(timeout).sendto, b"datagram", DESTINATION))
        assert not future.done()
        assert make_room(relay) == DATAGRAM
        assert future.result(LONG) == 8

    def test_is_waited_for_no_longer_than_the_timeout(self, relay: socket.socket) -> None:
        for timeout in (SOON, 1e-9):
            with pytest.raises(TimeoutError, match=r"^timed out$"):
                self.full(timeout).sendto(b"datagram", DESTINATION)

    def test_is_not_waited_for_by_one_that_does_not_block(self, relay: socket.socket) -> None:
        udp = self.full(0)
        with pytest.raises(BlockingIOError):
            udp.sendto(b"lost", DESTINATION)
        relay.recv(100)
        assert udp.sendto(b"datagram", DESTINATION) == 8
        assert make_room(relay) == DATAGRAM

    def test_is_not_waited_for_once_closed(self, relay: socket.socket) -> None:
        udp = self.full(None)
        future = in_thread(partial(udp.sendto, b"datagram", DESTINATION))
        udp.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            future.result(LONG)


# Many


def test_20_000_datagrams_there_and_back(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for first in range(0, 20_000, 64):
            window = [number.to_bytes(4, "big") for number in range(first, first + 64)]
            for payload in window:
                udp.sendto(payload, udp_echo)
            assert [udp.recvfrom() for _ in window] == [(payload, udp_echo) for payload in window]
        assert udp.dropped == 0


def test_several_threads_may_use_it(udp_echo: Address) -> None:
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


# Connecting


def from_(*sources: Address) -> list[bytes]:
    """Return a datagram of each source, which names its source."""
    return [encode_datagram_header(*source) + repr(source).encode() for source in sources]


def assert_hears(talk: Talk, *sources: Address) -> None:
    for source in sources:
        assert talk.receive()[0] == repr(source).encode()


NOT_HEARD = [
    ("192.0.2.1", 54),
    ("2001:db8::1", 54),
    ("name.test", 54),
    ("other.test", 53),
    ("", 53),
]


@pytest.mark.parametrize(
    ("peer", "heard", "not_heard"),
    [
        (
            ("192.0.2.1", 53),
            [("192.0.2.1", 53), ("::ffff:192.0.2.1", 53)],
            [("192.0.2.2", 53), ("2001:db8::1", 53), ("name.test", 53)],
        ),
        (
            ("2001:DB8:0::1", 53),
            [("2001:db8::1", 53)],
            [("192.0.2.1", 53), ("2001:db8::2", 53), ("name.test", 53)],
        ),
        (
            ("Name.test", 53),
            [("Name.test", 53), ("nAME.TEST.", 53), ("192.0.2.9", 53), ("2001:db8::9", 53)],
            [("name.test.", 54), ("ame.test", 53), ("name..test", 53)],
        ),
    ],
    ids=["IPv4", "IPv6", "name"],
)
def test_connected_it_hears_one_only(
    associate: Associate,
    played: PlayedProxy,
    peer: Address,
    heard: list[Address],
    not_heard: list[Address],
) -> None:
    talk = associate_with(played, associate)
    not_heard = [*NOT_HEARD, *not_heard]
    # In the second round, all sources are known.
    for _ in range(2):
        played.say(*from_(*heard, *not_heard))
        assert_hears(talk, *heard, *not_heard)
    assert talk.dropped == 0
    talk.connect(peer)
    for turn in range(1, 3):
        played.say(*from_(*not_heard, *heard))
        assert_hears(talk, *heard)
        assert talk.dropped == turn * len(not_heard)
    talk.send(b"datagram")
    host = peer[0].replace(":0::", "::")
    assert played.hear() == encode_datagram_header(host, 53) + b"datagram"


def test_connected_anew_it_hears_the_other(associate: Associate, played: PlayedProxy) -> None:
    talk = associate_with(played, associate)
    one, two = ("192.0.2.1", 53), ("192.0.2.2", 53)
    for turn, (peer, other) in enumerate([(one, two), (two, one), (one, two)], 1):
        talk.connect(peer)
        played.say(*from_(other, peer, other, peer))
        assert_hears(talk, peer, peer)
        assert talk.dropped == 2 * turn
        talk.send(b"datagram")
        assert played.hear() == encode_datagram_header(*peer) + b"datagram"


def test_the_family_is_that_of_the_peer_if_it_is_known() -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        for host, family in [
            ("2001:db8::1", socket.AF_INET6),
            ("192.0.2.1", socket.AF_INET),
            ("name.test", socket.AF_INET),
        ]:
            udp.connect((host, 53))
            assert udp.getpeername()[:2] == (host, 53)
            assert udp.family == family


def test_what_is_remembered_is_bounded(played: PlayedProxy) -> None:
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


# The relay of the test server


def test_the_relay_serves_the_first_sender_only(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        datagram = encode_datagram_header(*udp_echo) + b"strange"
        udp.sendto(b"first", udp_echo)
        assert udp.recv() == b"first"
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.sendto(datagram, udp.relay_address)
        udp.sendto(b"second", udp_echo)
        assert udp.recv() == b"second"
        [seen] = server.connections
        assert seen.datagrams == [(udp_echo, b"first"), (udp_echo, b"second")]


def test_the_relay_does_not_take_who_sends_garbage_for_the_client(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"garbage", udp.relay_address)
        udp.sendto(b"datagram", udp_echo)
        assert udp.recv() == b"datagram"


def test_the_relay_does_not_mind_what_the_client_says(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        udp._association.controls[0].send(b"as no client of ours does")
        udp.sendto(b"datagram", udp_echo)
        assert udp.recv() == b"datagram"


@pytest.mark.parametrize(
    "lost",
    [
        b"no header",
        b"\0\0\x01" + DATAGRAM[3:],
        encode_datagram_header("nowhere.invalid", 53) + b"no such name",
        encode_datagram_header("n" * 64, 53) + b"no name at all",
        encode_datagram_header("255.255.255.255", 53) + b"not allowed",
        encode_datagram_header("127.0.0.1", 1) + b"nobody listens",
    ],
)
def test_the_relay_outlives_what_it_cannot_deliver(
    lost: bytes, udp_echo: Address, names: dict[str, list[str]]
) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        udp._association.udp.send(lost)
        udp.sendto(b"datagram", udp_echo)
        assert udp.recv() == b"datagram"


def test_the_relay_resolves_names(
    associate: Associate, udp_echo: Address, names: dict[str, list[str]]
) -> None:
    names["echo.test"] = ["127.0.0.1", "127.0.0.9"]
    with SocksServer() as server:
        talk = associate(server.url)
        talk.send(b"datagram", ("echo.test", udp_echo[1]))
        assert talk.receive() == (b"datagram", udp_echo)
