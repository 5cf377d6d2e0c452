"""The peer of a listener at a proxy: who is accepted, and every failure of the second reply."""

from __future__ import annotations

import errno
import select
import socket
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    ProtocolError,
    ProxyClosed,
    ProxyTimeout,
    Reply,
    ReplyError,
    SocksError,
)
from socksclient.protocol.exceptions import ConnectionNotAllowed
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.listeners import (
    ACCOUNTS,
    ANYONE,
    DATA,
    SOON,
    Bind,
    assert_carries,
    assert_place,
    ended,
    needs_servers,
    refuses,
)
from helpers.support import (
    LONG,
    Address,
    eventually,
    in_thread,
    nothing_left_open,
)


class TestAcceptedPeer:
    @pytest.mark.parametrize("expected", [("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ANYONE])
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
    def test_accept_expected_peer(
        self, bind: Bind, proxy: str, scheme: str, expected: Address
    ) -> None:
        with closing(bind(expected, proxy=proxy.replace("socks5h", scheme))) as listener:
            with socket.create_connection(listener.address, 10) as peer:
                connection = listener.accept()
                assert connection.peer == peer.getsockname()[:2]
                assert_carries(connection, peer)

    def test_accept_any_peer(self, bind: Bind, proxy: str) -> None:
        with closing(bind(ANYONE, proxy=proxy)) as listener:
            with socket.create_connection(listener.address, 10, ("127.0.0.2", 0)) as peer:
                connection = listener.accept()
                assert connection.peer == peer.getsockname()
                assert_carries(connection, peer)

    @pytest.mark.parametrize("expected", [("127.0.0.1", 80), ("localhost", 0)])
    def test_accept_refuses_unexpected_peer_and_ends(
        self, bind: Bind, proxy: str, expected: Address
    ) -> None:
        listener = bind(expected, proxy=proxy)
        with socket.create_connection(listener.address, 10, ("127.0.0.2", 0)) as peer:
            with pytest.raises(ConnectionNotAllowed, match="REP 02") as caught:
                listener.accept()
            assert caught.value.reply == Reply.CONNECTION_NOT_ALLOWED_BY_RULESET
            assert isinstance(caught.value, PermissionError)
            assert caught.value.destination == expected
            assert ended(peer)
        listener.assert_accepts_no_more(errno.EBADF)
        assert eventually(partial(refuses, listener.address))

    def test_accept_before_peer_connects(self, bind: Bind) -> None:
        with SocksServer() as server:
            with closing(bind(("127.0.0.1", 0), proxy=server.url)) as listener:
                accepted = in_thread(listener.accept)
                assert not accepted.done()
                with socket.create_connection(listener.address) as peer:
                    connection = accepted.result(LONG)
                    assert connection.peer == peer.getsockname()
                    assert_carries(connection, peer)

    def test_accept_waits_for_late_second_reply(self, bind: Bind) -> None:
        with SocksServer(faults=Faults(late=0.1)) as server:
            with closing(bind(("127.0.0.1", 0), proxy=server.url)) as listener:
                begin = time.monotonic()
                with socket.create_connection(listener.address) as peer:
                    assert_carries(listener.accept(), peer)
                assert time.monotonic() - begin >= 0.1

    def test_accept_after_second_reply(self, bind: Bind) -> None:
        with SocksServer() as server:
            with closing(bind(("127.0.0.1", 0), proxy=server.url)) as listener:
                with socket.create_connection(listener.address) as peer:
                    peer.sendall(DATA)
                    assert eventually(lambda: server.requests[0].second_reply == 0x00)
                    connection = listener.accept()
                    assert connection.peer == peer.getsockname() == server.requests[0].peer
                    assert_carries(connection, peer, DATA)

    @pytest.mark.parametrize("split", [False, True], ids=["in one piece", "octet by octet"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_accept_keeps_data_in_segment_of_second_reply(
        self, bind: Bind, host: str, split: bool
    ) -> None:
        faults = Faults(reply_with_data=True, split=split)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
            with closing(bind((host, 0), proxy=server.url)) as listener:
                with socket.create_connection(listener.address) as peer:
                    # The proxy holds its second reply back until the peer has sent its data.
                    with pytest.raises(TimeoutError):
                        listener.accept(SOON)
                    peer.sendall(DATA)
                    assert_carries(listener.accept(), peer, DATA)

    @pytest.mark.parametrize("times", [2, 3])
    def test_accept_second_call_fails(self, bind: Bind, proxy: str, times: int) -> None:
        listener = bind(("127.0.0.1", 0), proxy=proxy)
        with socket.create_connection(listener.address, 10) as peer:
            connection = listener.accept()
            for _ in range(times - 1):
                listener.assert_accepts_no_more(errno.EINVAL)
            assert_carries(connection, peer)
        listener.assert_accepts_no_more(errno.EINVAL)

    @needs_servers
    def test_accept_ends_listening_of_dante(self, bind: Bind, tmp_path: Path) -> None:
        with real_servers.dante(tmp_path) as url:
            with closing(bind(ANYONE, proxy=url)) as listener:
                with socket.create_connection(listener.address, 10):
                    listener.accept().close()
                assert eventually(partial(refuses, listener.address))


class TestSecondReplyFailures:
    """The first reply is a success, and the second is not."""

    def fail(self, bind: Bind, faults: Faults) -> SocksError:
        with SocksServer(faults=faults) as server, nothing_left_open():
            listener = bind(ANYONE, proxy=server.url)
            with socket.create_connection(listener.address):
                with pytest.raises(SocksError) as held:
                    listener.accept()
            listener.assert_accepts_no_more(errno.EBADF)
            assert_place(held.value, server.url, ANYONE)
        return held.value

    @pytest.mark.parametrize("rep", [*range(1, 9), 0x5A])
    def test_accept_refusal_keeps_reply_code(self, bind: Bind, rep: int) -> None:
        error = self.fail(bind, Faults(second_reply=rep, split=True))
        assert isinstance(error, ReplyError)
        assert error.reply == rep
        assert f"REP {rep:02X}" in str(error)

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ("04 00", "reply to the request has version 04"),
            ("48 54 54 50", "reply to the request has version 48"),
            ("05 00 00 02 00", "the reply has address type 02"),
        ],
    )
    def test_accept_garbage_in_second_reply(self, bind: Bind, answer: str, words: str) -> None:
        octets = bytes.fromhex(answer)
        error = self.fail(bind, Faults(answers={"relay": octets}))
        assert type(error) is ProtocolError
        assert words in str(error)
        assert octets.startswith(error.received)

    @pytest.mark.parametrize(
        ("count", "told"),
        [
            (0, "got 0 of 5 octets"),
            (1, "got 1 of 5 octets"),
            (2, "got 2 of 5 octets"),
            (5, "got 5 of 10 octets"),
            (9, "got 9 of 10 octets"),
        ],
    )
    def test_accept_when_proxy_closes_after_each_prefix(
        self, bind: Bind, count: int, told: str
    ) -> None:
        error = self.fail(bind, Faults(close_after=12 + count))
        assert isinstance(error, ProxyClosed)
        assert told in str(error)
        assert "offer" not in str(error)  # it has listened

    @pytest.mark.parametrize("count", [0, 9])
    def test_accept_when_proxy_resets(self, bind: Bind, count: int) -> None:
        error = self.fail(bind, Faults(reset_after=12 + count))
        assert isinstance(error, ProxyClosed)
        assert isinstance(error, ConnectionResetError)

    def test_accept_when_proxy_closes_before_peer_connects(self, bind: Bind) -> None:
        with SocksServer() as server:
            listener = bind(ANYONE, proxy=server.url)
        with pytest.raises(ProxyClosed, match="got 0 of 5 octets"):
            listener.accept()
        listener.assert_accepts_no_more(errno.EBADF)


class TestAcceptInThreads:
    def test_accept_in_second_thread_is_refused(self) -> None:
        with SocksServer() as server, socksclient.bind(ANYONE, 10, proxy=server.url) as listener:
            accepted = in_thread(listener.accept)
            for _ in range(2):
                with pytest.raises(
                    OSError, match="another thread already waits in accept"
                ) as caught:
                    listener.accept()
                assert caught.value.errno == errno.EBUSY
            with socket.create_connection(listener.address) as peer:
                sock, address = accepted.result(LONG)
                with sock:
                    assert address == peer.getsockname()
            with pytest.raises(OSError, match="accepted its one peer"):
                listener.accept()

    def test_accept_in_second_thread_after_timeout_in_first(self) -> None:
        with SocksServer() as server, socksclient.bind(ANYONE, 10, proxy=server.url) as listener:
            with pytest.raises(ProxyTimeout):
                in_thread(lambda: listener.accept(SOON)).result(LONG)
            with socket.create_connection(listener.address):
                listener.accept()[0].close()

    def test_close_wakes_accept_in_other_thread(self) -> None:
        with SocksServer() as server, nothing_left_open():
            for _ in range(40):  # as threads race
                listener = socksclient.bind(ANYONE, 10, proxy=server.url)
                accepted = in_thread(listener.accept)
                listener.close()
                error = accepted.exception(LONG)
                assert isinstance(error, OSError)
                assert error.errno == errno.EBADF
                assert not isinstance(error, SocksError)


def test_listener_is_readable_when_peer_has_connected() -> None:
    with SocksServer() as server, socksclient.bind(ANYONE, proxy=server.url) as listener:
        assert select.select([listener], [], [], 0) == ([], [], [])
        with socket.create_connection(listener.address):
            assert select.select([listener], [], [], 10) == ([listener], [], [])
            sock, _ = listener.accept()
            sock.close()
