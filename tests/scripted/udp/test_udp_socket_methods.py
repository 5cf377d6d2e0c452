"""`UDPAssociation` and a UDP socket show the same behaviour, method by method."""

from __future__ import annotations

import array
import errno
import math
import os
import re
import select
import socket
from collections.abc import Callable, Iterator

import pytest

import socksclient.anyio
from socksclient.testing import SocksServer

from helpers.associations import (
    DESTINATION,
    RECEIVE,
    SOON,
    UDP,
    Receive,
    name_of,
)
from helpers.support import (
    LONG,
    Address,
)


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
    """Return the address to which the peer sends what `udp` is to receive."""
    assert udp.sendto(b"first", peer.getsockname()) == 5
    octets, client = peer.recvfrom(100)
    assert octets == b"first"
    return str(client[0]), int(client[1])


def wait_for(udp: UDP) -> None:
    assert select.select([udp], [], [], LONG)[0] == [udp]


SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_CONFIRM


@pytest.fixture(params=RECEIVE)
def receive(request: pytest.FixtureRequest) -> Receive:
    """One test, all ways to receive a datagram of so many octets at most."""
    return RECEIVE[request.param]


class TestLikeASocket:
    @pytest.mark.parametrize(
        "data",
        [b"datagram", bytearray(b"datagram"), memoryview(array.array("i", [1, 2])), b""],
        ids=["bytes", "bytearray", "memoryview", "empty"],
    )
    def test_sendto_and_every_receive_carry_a_datagram(
        self,
        udp: UDP,
        peer: socket.socket,
        data: bytes | bytearray | memoryview,
        receive: Receive,
    ) -> None:
        assert udp.sendto(data, peer.getsockname()) == len(bytes(data))
        octets, client = peer.recvfrom(65535)
        assert octets == bytes(data)
        peer.sendto(data, client)
        assert receive(udp, 65535) == bytes(data)

    def test_recvfrom_returns_the_source(self, udp: UDP, peer: socket.socket) -> None:
        client = reach(udp, peer)
        for octets in (b"one", b""):
            peer.sendto(octets, client)
            peer.sendto(octets, client)
            assert udp.recvfrom(100) == (octets, peer.getsockname())
            assert udp.recvfrom_into(bytearray(10)) == (len(octets), peer.getsockname())

    @pytest.mark.parametrize("size", [1, 7, 8, 9, 65535])
    def test_receive_cuts_off_a_datagram_longer_than_bufsize(
        self, udp: UDP, peer: socket.socket, receive: Receive, size: int
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
    def test_receive_with_a_size_of_0(
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
    def test_recv_into_writes_no_more_than_nbytes(
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
    def test_invalid_arguments_change_nothing(
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
    def test_receive_raises_timeout_error(self, udp: UDP, receive: Receive, seconds: float) -> None:
        udp.settimeout(seconds)
        with pytest.raises(TimeoutError, match=r"^timed out$") as caught:
            receive(udp, 100)
        assert caught.value.errno is None

    def test_receive_raises_blocking_io_error_with_timeout_0(
        self, udp: UDP, peer: socket.socket, receive: Receive
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
    def test_settimeout_and_gettimeout(
        self, udp: UDP, call: str, value: float | None, timeout: float | None, blocking: bool
    ) -> None:
        getattr(udp, call)(value)
        assert udp.gettimeout() == timeout
        assert type(udp.gettimeout()) is type(timeout)
        assert udp.getblocking() is blocking

    def test_connect_drops_datagrams_of_other_sources(
        self, udp: UDP, peer: socket.socket, receive: Receive
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
            # Linux allows a connected socket to send elsewhere.
            assert udp.sendto(b"elsewhere", stranger.getsockname()) == 9
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
    def test_send_and_getpeername_raise_unless_connected(
        self, udp: UDP, name: str, args: tuple[object, ...], number: int
    ) -> None:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
            getattr(udp, name)(*args)
        assert (caught.type, caught.value.errno) == (OSError, number)

    def test_sendto_raises_emsgsize(self, udp: UDP, peer: socket.socket) -> None:
        with pytest.raises(OSError, match="Message too long") as caught:
            udp.sendto(bytes(65508), peer.getsockname())
        assert (caught.type, caught.value.errno) == (OSError, errno.EMSGSIZE)
        reach(udp, peer)

    def test_getsockopt_and_setsockopt(self, udp: UDP) -> None:
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
    def test_sendto_and_send_take_flags(self, udp: UDP, peer: socket.socket, flags: int) -> None:
        assert udp.sendto(b"one", flags, peer.getsockname()) == 3
        assert peer.recv(100) == b"one"
        udp.connect(peer.getsockname())
        assert udp.send(b"three", flags) == 5
        assert peer.recv(100) == b"three"

    @pytest.mark.parametrize("flags", [0, socket.MSG_DONTWAIT], ids=str)
    @pytest.mark.parametrize("call", RECEIVE.values(), ids=RECEIVE)
    def test_receive_takes_flags(
        self, udp: UDP, peer: socket.socket, flags: int, call: Receive
    ) -> None:
        client = reach(udp, peer)
        peer.sendto(b"datagram", client)
        wait_for(udp)
        assert call(udp, 4, flags) == b"data"

    @pytest.mark.parametrize("call", RECEIVE.values(), ids=RECEIVE)
    def test_receive_with_msg_dontwait_does_not_wait(self, udp: UDP, call: Receive) -> None:
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
    def test_flags_that_are_no_integer(
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
    def test_every_method_raises_ebadf_after_close(
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
