"""SOCKS4 and 4A: what is sent, what comes of every answer, and what cannot be."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, Protocol

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyLike,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.exceptions import ConnectionNotAllowed, Socks4Reply
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import Driver
from helpers.schemes import SCHEMES, failures
from helpers.support import (
    BACKENDS,
    LONG,
    REFUSED_PORT,
    SHORT,
    Address,
    Dial,
    assert_echoes,
    nothing_left_open,
    receive_exactly,
)

pytest_plugins = ["helpers.http_fixtures"]

BOTH = ("socks4", "socks4a")
ORIGIN = ("192.0.2.1", 80)
NAME = ("origin.test", 80)
ANYONE = ("0.0.0.0", 0)
DATA = b"data of the peer"
SOON = 0.02  # seconds; the timeout passes
GRANTED, REJECTED = bytes.fromhex("005a 0000 00000000"), bytes.fromhex("005b 0000 00000000")

Names = dict[str, list[str]]

by_each_scheme = pytest.mark.parametrize("scheme", BOTH)


class TestRequest:
    @pytest.mark.parametrize(
        ("scheme", "username", "address", "message"),
        [
            ("socks4", "me", ("192.0.2.1", 80), "0401 0050 c0000201 6d65 00"),
            ("socks4", None, ("192.0.2.1", 80), "0401 0050 c0000201 00"),
            ("socks4", "", ("192.0.2.1", 80), "0401 0050 c0000201 00"),
            ("socks4", "ü€", ("192.0.2.1", 80), "0401 0050 c0000201 c3bce282ac 00"),
            ("socks4", "m" * 255, ("192.0.2.1", 80), f"0401 0050 c0000201 {'6d' * 255} 00"),
            ("socks4", None, ("[192.0.2.1]", 65535), "0401 ffff c0000201 00"),
            ("socks4", None, ("0.0.1.0", 80), "0401 0050 00000100 00"),
            ("socks4", None, ("0.0.0.0", 80), "0401 0050 00000000 00"),
            ("socks4a", "me", ("192.0.2.1", 80), "0401 0050 c0000201 6d65 00"),
            (
                "socks4a",
                None,
                ("example.com", 80),
                "0401 0050 00000001 00 6578616d706c652e636f6d 00",
            ),
            (
                "socks4a",
                "me",
                ("example.com.", 443),
                "0401 01bb 00000001 6d65 00 6578616d706c652e636f6d2e 00",
            ),
            (
                "socks4a",
                None,
                ("bücher.example", 80),
                "0401 0050 00000001 00 786e2d2d62636865722d6b76612e6578616d706c65 00",
            ),
            ("socks4a", None, ("127.1", 80), "0401 0050 00000001 00 3132372e31 00"),
            (
                "socks4a",
                "m" * 255,
                ("n" * 255, 80),
                f"04010050 00000001{'6d' * 255}00{'6e' * 255}00",
            ),
        ],
    )
    def test_its_octets(
        self,
        dial: Dial,
        echo_server: Address,
        scheme: str,
        username: str | None,
        address: Address,
        message: str,
    ) -> None:
        host = {"bücher.example": "xn--bcher-kva.example"}.get(address[0], address[0].strip("[]"))
        with SocksServer(routes={(host, address[1]): echo_server}) as server:
            proxy = Proxy(*server.address, scheme=scheme, username=username)
            with dial(address, proxy=proxy) as sock:
                assert_echoes(sock)
            [seen] = server.requests
        assert seen.received == bytes.fromhex(message)
        assert [who for who, _ in seen.transcript] == ["client", "server"]
        assert (seen.protocol, seen.command) == ("SOCKS4", Command.CONNECT)
        assert (seen.username, seen.destination) == (username or "", (host, address[1]))
        assert seen.reply == Socks4Reply.GRANTED

    def test_a_user_id_that_is_known_and_one_that_is_not(
        self, dial: Dial, echo_server: Address
    ) -> None:
        with SocksServer(accounts={"m€": "pass"}) as server:
            for scheme in BOTH:
                with dial(echo_server, proxy=server.url_as(scheme)) as sock:
                    assert_echoes(sock)
                for username in "me", "", None:
                    proxy = Proxy(*server.address, scheme=scheme, username=username)
                    with pytest.raises(ConnectionNotAllowed, match="SOCKS4 CD 5D"):
                        dial(echo_server, proxy=proxy)

    def test_an_isolated_one_has_its_token_for_a_user_id(
        self, dial: Dial, echo_server: Address
    ) -> None:
        with SocksServer() as server:
            proxy = Proxy.from_url(server.url_as("socks4a"))
            for token in ("token", ""):
                dial(echo_server, proxy=proxy.isolated(token)).close()
            dial(echo_server, proxy=proxy.isolated()).close()
            sent = [seen.username for seen in server.requests]
        assert sent[:2] == ["token", ""]
        assert len(sent[2] or "") == 32


@by_each_scheme
class TestWhatItCannotCarry:
    @pytest.mark.parametrize(
        ("host", "words"),
        [
            ("2001:db8::1", "SOCKS4 cannot carry the IPv6 address 2001:db8::1"),
            ("[::1]", "SOCKS4 cannot carry the IPv6 address ::1"),
            ("::ffff:192.0.2.1", "SOCKS4 cannot carry the IPv6 address ::ffff:"),
            ("0.0.0.1", r"SOCKS4 cannot carry the address 0\.0\.0\.1"),
            ("0.0.0.255", r"SOCKS4 cannot carry the address 0\.0\.0\.255"),
            ("nul\0.example", "has '.x00' in it"),
            ("n" * 256, "host is 256 octets long"),
        ],
    )
    def test_destinations(self, dial: Dial, scheme: str, host: str, words: str) -> None:
        with SocksServer() as server:
            proxy = server.url_as(scheme)
            with pytest.raises(ValueError, match=words):
                dial((host, 80), proxy=proxy)
            with pytest.raises(ValueError, match=words):
                socksclient.bind((host, 0), 5, proxy=proxy)
            with pytest.raises(ValueError, match=words):
                anyio.run(partial(socksclient.anyio.bind, host, 0, proxy=proxy))
            assert server.connections == []

    def test_datagrams(self, scheme: str) -> None:
        with SocksServer() as server:
            proxy = server.url_as(scheme)
            words = "a SOCKS4 proxy cannot do UDP ASSOCIATE"
            with nothing_left_open():
                with pytest.raises(ValueError, match=words) as held:
                    socksclient.udp_associate(5, proxy=proxy, local_address=("127.0.0.1", 0))
                with pytest.raises(ValueError, match=words) as also_held:
                    anyio.run(partial(socksclient.anyio.udp_associate, proxy=proxy))
                assert held, also_held
            assert server.connections == []

    @pytest.mark.parametrize(
        ("userinfo", "words"),
        [
            ("m%00e", "proxy username has a NUL in it, which SOCKS4 cannot carry"),
            ("%C3%BC" * 128, "proxy username is 256 octets long in UTF-8; SOCKS carries 255"),
        ],
    )
    def test_credentials(self, dial: Dial, scheme: str, userinfo: str, words: str) -> None:
        with SocksServer() as server:
            host, port = server.address
            with pytest.raises(ValueError, match=words):
                dial(ORIGIN, proxy=f"{scheme}://{userinfo}@{host}:{port}")
            assert server.connections == []


class TestNamesResolvedHere:
    """Under ``socks4://``; never under ``socks4a://``."""

    def test_the_request_carries_an_address(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["origin.test"] = ["127.0.0.1"]
        with SocksServer() as server:
            with dial(("origin.test", echo_server[1]), proxy=server.url_as("socks4")) as sock:
                assert_echoes(sock)
            assert server.requests[0].destination == echo_server

    def test_what_it_cannot_carry_is_left_out(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["origin.test"] = ["2001:db8::1", "::1", "0.0.0.9", "127.0.0.1"]
        with SocksServer() as server:
            with dial(("origin.test", echo_server[1]), proxy=server.url_as("socks4")) as sock:
                assert_echoes(sock)
            assert [seen.destination for seen in server.requests] == [echo_server]

    def test_a_name_with_nothing_else(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = ["2001:db8::1", "0.0.0.9"]
        with SocksServer() as server, nothing_left_open():
            with pytest.raises(ResolveError) as held:
                dial(NAME, proxy=server.url_as("socks4"))
            assert server.connections == []
        words = "origin.test has no address that the proxy could reach: 2001:db8::1, 0.0.0.9"
        assert held.value.strerror == words
        assert held.value.phase == "resolve"
        assert held.value.destination == NAME

    def test_a_name_that_nobody_knows(self, dial: Dial, names: Names) -> None:
        with SocksServer() as server:
            with pytest.raises(ResolveError, match=r"cannot resolve origin\.test") as caught:
                dial(NAME, proxy=server.url_as("socks4"))
            assert server.connections == []
        assert caught.value.errno == socket.EAI_NONAME

    @pytest.mark.parametrize(
        "faults",
        [
            *(Faults(reply=code) for code in (0x5B, 0x5E, 0x59)),
            Faults(answers={"request": REJECTED[:2]}, close_after=2),
            *(Faults(close_after=count) for count in (0, 1, 7)),
            Faults(reset_after=0),
        ],
        ids=str,
    )
    def test_after_a_failure_the_next_address_is_tried(
        self, dial: Dial, names: Names, echo_server: Address, faults: Faults
    ) -> None:
        names["origin.test"] = ["127.0.0.2", "127.0.0.1"]
        port = echo_server[1]
        with SocksServer(faults=[faults], routes={("127.0.0.2", port): echo_server}) as server:
            with dial(("origin.test", port), proxy=server.url_as("socks4")) as sock:
                assert_echoes(sock)
            seen = [request.destination for request in server.requests]
            assert seen == [("127.0.0.2", port), ("127.0.0.1", port)]

    @pytest.mark.parametrize(
        "faults",
        [
            *(Faults(reply=code) for code in (0x5C, 0x5D)),
            Faults(answers={"request": b"\x05\xff"}),
        ],
        ids=str,
    )
    def test_after_any_other_it_is_not(self, dial: Dial, names: Names, faults: Faults) -> None:
        names["origin.test"] = ["192.0.2.1", "192.0.2.2"]
        routes = {(host, 80): ("127.0.0.1", REFUSED_PORT) for host in names["origin.test"]}
        with SocksServer(faults=faults, routes=routes) as server:
            with pytest.raises(SocksError) as caught:
                dial(NAME, proxy=server.url_as("socks4"))
            assert len(server.connections) == 1
        assert not hasattr(caught.value, "__notes__")

    def test_when_all_fail_the_last_error_tells_of_the_others(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["origin.test"] = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]
        faults = [Faults(reply=0x5B), Faults(close_after=3), Faults(reply=0x5C)]
        routes = {("192.0.2.2", 80): echo_server}
        with SocksServer(faults=faults, routes=routes) as server, nothing_left_open():
            with pytest.raises(ReplyError) as held:
                dial(NAME, proxy=server.url_as("socks4"))
        assert held.value.reply is Socks4Reply.NO_IDENTD
        assert held.value.destination == NAME
        assert held.value.__notes__ == [
            (
                "before that, 192.0.2.1: the proxy refused the request:"
                " rejected or failed (SOCKS4 CD 5B)"
            ),
            "before that, 192.0.2.2: the proxy hung up before it had answered: got 3 of 8 octets",
        ]


def refuse(dial: Dial, echo_server: Address, faults: Faults, scheme: str = "socks4a") -> SocksError:
    """Return the error of a connection with this fault, after the checks of `failures`."""
    [error] = failures(dial, SCHEMES[scheme], [faults], echo_server)
    assert error.phase == "request"
    return error


class TestFailure:
    @by_each_scheme
    @pytest.mark.parametrize(
        ("code", "kind", "number", "words"),
        [
            (0x5B, ReplyError, None, "rejected or failed (SOCKS4 CD 5B)"),
            (0x5C, ConnectionNotAllowed, errno.EACCES, "no identd (SOCKS4 CD 5C)"),
            (
                0x5D,
                ConnectionNotAllowed,
                errno.EACCES,
                "identd reports another user (SOCKS4 CD 5D)",
            ),
            (0x5E, ReplyError, None, "unassigned 5e (SOCKS4 CD 5E)"),
            (0x59, ReplyError, None, "unassigned 59 (SOCKS4 CD 59)"),
            (0x01, ReplyError, None, "unassigned 01 (SOCKS4 CD 01)"),
            (0xFF, ReplyError, None, "unassigned ff (SOCKS4 CD FF)"),
        ],
    )
    def test_it_keeps_its_number(
        self,
        dial: Dial,
        echo_server: Address,
        scheme: str,
        code: int,
        kind: type[ReplyError],
        number: int | None,
        words: str,
    ) -> None:
        error = refuse(dial, echo_server, Faults(reply=code), scheme)
        assert type(error) is kind
        assert isinstance(error.reply, Socks4Reply)
        assert error.reply == code
        assert error.errno == number
        assert error.strerror == f"the proxy refused the request: {words}"

    @pytest.mark.parametrize("answer", ["005b", "005b00", "005b000000000000", "005bffffffffffff0a"])
    @pytest.mark.parametrize("split", [False, True])
    @pytest.mark.parametrize("then", ["stall_after", "close_after"])
    def test_it_is_known_as_soon_as_cd_is(
        self, dial: Dial, echo_server: Address, answer: str, split: bool, then: str
    ) -> None:
        octets = bytes.fromhex(answer)
        count: Any = {then: len(octets)}
        error = refuse(dial, echo_server, Faults(answers={"request": octets}, split=split, **count))
        assert isinstance(error, ReplyError)
        assert error.reply is Socks4Reply.REJECTED_OR_FAILED

    @pytest.mark.parametrize(
        ("count", "hint"),
        [
            (0, ", as servers do that speak SOCKS5 but not SOCKS4, or that cannot connect"),
            (1, ""),
        ],
    )
    def test_socks4_hint_if_proxy_closes_at_once(
        self, dial: Dial, echo_server: Address, count: int, hint: str
    ) -> None:
        error = refuse(dial, echo_server, Faults(close_after=count))
        words = f"the proxy hung up before it had answered: got {count} of 8 octets"
        assert error.strerror == words + hint

    def test_a_success_with_the_version_of_a_request_is_one_in_the_wrong_place(
        self, dial: Dial, echo_server: Address
    ) -> None:
        # An echo server sends the request back.
        request = bytes.fromhex("0401 0050 c0000201 00")
        error = refuse(dial, echo_server, Faults(answers={"request": request}), "socks4")
        assert type(error) is ProtocolError
        assert "it answered with 04 01" in str(error)


class TestDeadline:
    def test_it_is_one_for_all_addresses(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = [f"192.0.2.{number}" for number in range(1, 10)]
        with SocksServer(faults=Faults(drip=0.05, reply=0x5B)) as server:
            with pytest.raises(TimeoutError):
                dial(NAME, proxy=server.url_as("socks4"), timeout=0.5)
            assert 1 <= len(server.connections) < 9


class Peer(NamedTuple):
    """Whom `accept` returned."""

    address: Address | None
    receive: Callable[[int], bytes]
    send: Callable[[bytes], object]
    close: Callable[[], object]


class Bound:
    """A listener of either driver; without a portal it is the blocking one."""

    def __init__(self, listener: Any, portal: BlockingPortal | None = None) -> None:
        self.listener = listener
        self.portal = portal
        self.address: Address = listener.address

    def accept(self, timeout: float = LONG) -> Peer:
        """When `timeout` passes, it is a TimeoutError in both."""
        if self.portal is None:
            sock, address = self.listener.accept(timeout)
            return Peer(address, partial(receive_exactly, sock), sock.sendall, sock.close)

        async def accept() -> SocketStream | TLSStream:
            with anyio.fail_after(timeout):
                stream: SocketStream | TLSStream = await self.listener.accept()
                return stream

        call = self.portal.call
        stream = call(accept)

        async def receive(count: int) -> bytes:
            octets = b""
            while len(octets) < count:
                octets += await stream.receive(count - len(octets))
            return octets

        close = partial(call, stream.aclose)
        return Peer(
            self.listener.peer_address, partial(call, receive), partial(call, stream.send), close
        )

    def close(self) -> None:
        if self.portal is None:
            self.listener.close()
        else:
            self.portal.call(self.listener.aclose)


class Bind(Protocol):
    def __call__(self, address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> Bound: ...


@pytest.fixture(params=["blocking", *BACKENDS])
def bind(request: pytest.FixtureRequest, portals: dict[str, BlockingPortal | None]) -> Bind:
    """One test, every driver."""
    portal = portals[request.param]

    def bind(address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> Bound:
        if portal is None:
            return Bound(socksclient.bind(address, timeout, proxy=proxy))

        async def bind() -> socksclient.anyio.Listener:
            with anyio.fail_after(timeout):
                return await socksclient.anyio.bind(*address, proxy=proxy)

        return Bound(portal.call(bind), portal)

    return bind


class ScriptedProxy:
    """It grants BIND on its one connection; after that, it says what the test has it say."""

    def __enter__(self) -> ScriptedProxy:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"socks4://127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self.grant)
        self.thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.thread.join()
        self.sock.close()
        self.server.close()

    def grant(self) -> None:
        self.sock, _ = self.server.accept()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert receive_exactly(self.sock, 9) == bytes.fromhex("0402 0050 c0000201 00")
        self.sock.sendall(bytes.fromhex("005a 1000 c0000209"))

    def say(self, octets: bytes) -> None:
        self.thread.join()
        self.sock.sendall(octets)


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
    def test_both_replies(
        self, bind: Bind, names: Names, scheme: str, expected: Address, message: str
    ) -> None:
        # For the server too, and for who comes as the peer.
        names.update({"localhost": ["127.0.0.1", "::1"], "127.0.0.1": ["127.0.0.1"]})
        with SocksServer(accounts={"me": ""}) as server:
            with closing(bind(expected, proxy=server.url_as(scheme))) as listener:
                assert listener.address[0] == "127.0.0.1"
                with socket.create_connection(listener.address, 10) as sock:
                    peer = listener.accept()
                    assert peer.address == sock.getsockname()
                    sock.sendall(DATA)
                    assert peer.receive(len(DATA)) == DATA
                    peer.send(b"and back")
                    assert receive_exactly(sock, 8) == b"and back"
                    peer.close()
            [seen] = server.requests
        assert seen.received == bytes.fromhex(message)
        assert (seen.command, seen.reply, seen.second_reply) == (Command.BIND, 0x5A, 0x5A)
        port = listener.address[1].to_bytes(2, "big")
        assert seen.sent[:8] == b"\x00\x5a" + port + b"\x7f\x00\x00\x01"
        assert len(seen.sent) == 16

    def test_another_is_turned_away_and_that_is_the_end(self, bind: Bind) -> None:
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
    def test_no_octet_in_the_segment_of_the_second_reply_is_lost(
        self, bind: Bind, split: bool
    ) -> None:
        with SocksServer(faults=Faults(reply_with_data=True, split=split)) as server:
            with closing(bind(ANYONE, proxy=server.url_as("socks4a"))) as listener:
                with socket.create_connection(listener.address) as sock:
                    # The proxy holds its second reply back until the peer has sent its data.
                    with pytest.raises(TimeoutError):
                        listener.accept(SOON)
                    sock.sendall(DATA)
                    peer = listener.accept()
                    assert peer.receive(len(DATA)) == DATA
                    peer.close()

    def test_a_timeout_at_any_octet_of_it_loses_nothing(self, bind: Bind) -> None:
        second_reply = bytes.fromhex("005a 0050 c0000201")
        for count in range(len(second_reply)):
            with ScriptedProxy() as proxy, closing(bind(ORIGIN, proxy=proxy.url)) as listener:
                assert listener.address == ("192.0.2.9", 0x1000)
                proxy.say(second_reply[:count])
                for _ in range(2):
                    with pytest.raises(TimeoutError):
                        listener.accept(0.005)
                proxy.say(second_reply[count:] + DATA)
                peer = listener.accept()
                assert peer.address == ORIGIN
                assert peer.receive(len(DATA)) == DATA
                peer.close()

    @pytest.mark.parametrize(
        ("faults", "kind", "words"),
        [
            (Faults(reply=0x5B), ReplyError, "SOCKS4 CD 5B"),
            (Faults(reply=0x5D), ConnectionNotAllowed, "SOCKS4 CD 5D"),
            (
                Faults(close_after=0),
                ProxyClosed,
                "SOCKS5 but not SOCKS4, or that do not offer BIND",
            ),
            (Faults(close_after=1), ProxyClosed, r"got 1 of 8 octets \("),
            (Faults(close_after=7), ProxyClosed, r"got 7 of 8 octets \("),
            (Faults(bound_address=("127.0.0.1", 0)), ProtocolError, "bound address has port 0"),
            (Faults(answers={"request": b"\x05\xff"}), ProtocolError, "this is a SOCKS5 server"),
            (Faults(stall_after=7), TimeoutError, None),
        ],
        ids=str,
    )
    def test_a_first_reply_that_is_no_success(
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
    def test_a_second_reply_that_is_no_success(
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
    def test_an_unspecified_address_is_that_of_the_proxy(self, bind: Bind, host: str) -> None:
        faults = Faults(bound_address=("0.0.0.0", 4711))
        with SocksServer(host=host, faults=faults) as server:
            with closing(bind(ANYONE, proxy=server.url_as("socks4"))) as listener:
                assert listener.address == (host, 4711)

    def test_the_next_address_of_an_expected_name_is_tried(self, bind: Bind, names: Names) -> None:
        names["peer.test"] = ["2001:db8::1", "192.0.2.1", "127.0.0.1"]
        with SocksServer(faults=[Faults(reply=0x5B)]) as server:
            with closing(bind(("peer.test", 0), proxy=server.url_as("socks4"))):
                asked = [seen.destination for seen in server.requests]
        assert asked == [("192.0.2.1", 0), ("127.0.0.1", 0)]


class TestHTTP:
    """By httpx and httpx2."""

    def test_what_it_cannot_carry(self, driver: Driver, server: SocksServer) -> None:
        with driver.through(server.url_as("socks4a")) as client:
            with pytest.raises(driver.httpx.UnsupportedProtocol, match="IPv6 address") as caught:
                client.get("http://[2001:db8::1]/")
            assert isinstance(caught.value.__cause__, ValueError)
        assert server.connections == []
