"""BIND with SOCKS4 and 4A: both replies, the peer, and every failure."""

from __future__ import annotations

import socket
from contextlib import closing

import anyio
import anyio.lowlevel
import pytest

from socksclient import (
    ProtocolError,
    Proxy,
    ProxyClosed,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import ConnectionNotAllowed, Socks4Reply
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers.listeners import ANYONE, DATA, NOBODY, SOON, Bind, ScriptedProxy, receive
from helpers.support import (
    LONG,
    SHORT,
    Address,
    nothing_left_open,
    receive_exactly,
)

REJECTED = bytes.fromhex("005b 0000 00000000")

Names = dict[str, list[str]]


class TestBind:
    @pytest.mark.parametrize(
        ("scheme", "expected", "message"),
        [
            ("socks4", ("127.0.0.1", 0), "0402 0000 7f000001 6d65 00"),
            ("socks4", ANYONE, "0402 0000 00000000 6d65 00"),
            ("socks4", ("localhost", 80), "0402 0050 7f000001 6d65 00"),
            ("socks4a", ("127.0.0.1", 80), "0402 0050 7f000001 6d65 00"),
            ("socks4a", ("localhost", 80), "0402 0050 00000001 6d65 00 6c6f63616c686f7374 00"),
        ],
    )
    def test_bind_both_replies(
        self, bind: Bind, names: Names, scheme: str, expected: Address, message: str
    ) -> None:
        # For the server too, and for who comes as the peer.
        names.update({"localhost": ["127.0.0.1", "::1"], "127.0.0.1": ["127.0.0.1"]})
        with SocksServer(accounts={"me": ""}) as server:
            with closing(bind(expected, proxy=server.url_as(scheme))) as listener:
                assert listener.address[0] == "127.0.0.1"
                with socket.create_connection(listener.address, 10) as sock:
                    peer = listener.accept()
                    assert peer.peer == sock.getsockname()
                    sock.sendall(DATA)
                    assert receive(peer, len(DATA)) == DATA
                    peer.send(b"and back")
                    assert receive_exactly(sock, 8) == b"and back"
                    peer.close()
            [seen] = server.requests
        assert seen.received == bytes.fromhex(message)
        assert (seen.command, seen.reply, seen.second_reply) == (Command.BIND, 0x5A, 0x5A)
        port = listener.address[1].to_bytes(2, "big")
        assert seen.sent[:8] == b"\x00\x5a" + port + b"\x7f\x00\x00\x01"
        assert len(seen.sent) == 16

    def test_bind_unexpected_peer_ends_listener(self, bind: Bind) -> None:
        with SocksServer() as server, nothing_left_open():
            listener = bind(("127.0.0.1", 0), proxy=server.url_as("socks4"))
            with socket.create_connection(listener.address, 10, ("127.0.0.2", 0)) as sock:
                with pytest.raises(ReplyError) as held:
                    listener.accept()
                assert sock.recv(1) == b""
            assert held.value.reply is Socks4Reply.REJECTED_OR_FAILED
            assert held.value.destination == ("127.0.0.1", 0)
            assert held.value.phase == "request"
            # anyio's is no OSError
            with pytest.raises((OSError, anyio.ClosedResourceError)) as caught:
                listener.accept()
            assert not isinstance(caught.value, SocksError)

    @pytest.mark.parametrize("split", [False, True])
    def test_bind_second_reply_with_data_in_one_segment(self, bind: Bind, split: bool) -> None:
        with SocksServer(faults=Faults(reply_with_data=True, split=split)) as server:
            with closing(bind(ANYONE, proxy=server.url_as("socks4a"))) as listener:
                with socket.create_connection(listener.address) as sock:
                    # The proxy holds its second reply back until the peer has sent its data.
                    with pytest.raises(TimeoutError):
                        listener.accept(SOON)
                    sock.sendall(DATA)
                    peer = listener.accept()
                    assert receive(peer, len(DATA)) == DATA
                    peer.close()

    def test_bind_accept_timeout_at_each_octet_loses_nothing(self, bind: Bind) -> None:
        second_reply = bytes.fromhex("005a 0050 c0000201")
        for count in range(len(second_reply)):
            with (
                ScriptedProxy("socks4") as proxy,
                closing(bind(NOBODY, proxy=proxy.url)) as listener,
            ):
                assert listener.address == ("192.0.2.9", 0x1000)
                proxy.say(second_reply[:count])
                for _ in range(2):
                    with pytest.raises(TimeoutError):
                        listener.accept(0.005)
                proxy.say(second_reply[count:] + DATA)
                peer = listener.accept()
                assert peer.peer == NOBODY
                assert receive(peer, len(DATA)) == DATA
                peer.close()

    @pytest.mark.parametrize(
        ("faults", "kind", "words"),
        [
            (Faults(reply=0x5B), ReplyError, "SOCKS4 CD 5B"),
            (Faults(reply=0x5D), ConnectionNotAllowed, "SOCKS4 CD 5D"),
            (
                Faults(close_after=0),
                ProxyClosed,
                "SOCKS5 but not SOCKS4, or does not offer BIND",
            ),
            (Faults(close_after=1), ProxyClosed, r"got 1 of 8 octets \("),
            (Faults(close_after=7), ProxyClosed, r"got 7 of 8 octets \("),
            (Faults(bound_address=("127.0.0.1", 0)), ProtocolError, "bound address has port 0"),
            (Faults(answers={"request": b"\x05\xff"}), ProtocolError, "this is a SOCKS5 server"),
            (Faults(stall_after=7), TimeoutError, None),
        ],
        ids=str,
    )
    def test_bind_first_reply_failure(
        self, bind: Bind, faults: Faults, kind: type[OSError], words: str | None
    ) -> None:
        timeout = LONG if faults.stall_after is None else SHORT
        with SocksServer(faults=faults) as server, nothing_left_open():
            with pytest.raises(kind, match=words) as held:
                bind(ANYONE, proxy=server.url_as("socks4a"), timeout=timeout)
            assert held

    @pytest.mark.parametrize(
        ("faults", "kind", "words"),
        [
            (Faults(second_reply=0x5B), ReplyError, "SOCKS4 CD 5B"),
            (Faults(second_reply=0x5C, split=True), ConnectionNotAllowed, "SOCKS4 CD 5C"),
            (Faults(second_reply=0x00), ReplyError, "SOCKS4 CD 00"),
            (Faults(answers={"relay": REJECTED[:2]}), ReplyError, "SOCKS4 CD 5B"),
            (Faults(answers={"relay": b"\x05\x00"}), ProtocolError, "this is a SOCKS5 server"),
            *(
                (Faults(close_after=8 + count), ProxyClosed, rf"got {count} of 8 octets \(")
                for count in range(8)
            ),
            (Faults(reset_after=8), ProxyClosed, "got 0 of 8 octets"),
        ],
        ids=str,
    )
    def test_bind_second_reply_failure(
        self, bind: Bind, faults: Faults, kind: type[SocksError], words: str
    ) -> None:
        with SocksServer(faults=faults) as server, nothing_left_open():
            proxy = Proxy.from_url(server.url_as("socks4"))
            listener = bind(ANYONE, proxy=proxy)
            with socket.create_connection(listener.address):
                with pytest.raises(kind, match=words) as held:
                    listener.accept()
            assert type(held.value) is kind
            place = (held.value.proxy, held.value.destination, held.value.phase)
            assert place == (proxy, ANYONE, "request")

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
    def test_bind_unspecified_bound_address_is_proxy(self, bind: Bind, host: str) -> None:
        faults = Faults(bound_address=("0.0.0.0", 4711))
        with SocksServer(host=host, faults=faults) as server:
            with closing(bind(ANYONE, proxy=server.url_as("socks4"))) as listener:
                assert listener.address == (host, 4711)

    def test_bind_tries_next_address_of_expected_name(self, bind: Bind, names: Names) -> None:
        names["peer.test"] = ["2001:db8::1", "192.0.2.1", "127.0.0.1"]
        with SocksServer(faults=[Faults(reply=0x5B)]) as server:
            with closing(bind(("peer.test", 0), proxy=server.url_as("socks4"))):
                asked = [seen.destination for seen in server.requests]
        assert asked == [("192.0.2.1", 0), ("127.0.0.1", 0)]
