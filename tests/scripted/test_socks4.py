"""SOCKS4 and 4A: the octets of requests, invalid arguments, local DNS and refusals."""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    ProtocolError,
    Proxy,
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
    REFUSED_PORT,
    Address,
    Dial,
    assert_echoes,
    nothing_left_open,
)

pytest_plugins = ["helpers.http_fixtures"]

BOTH = ("socks4", "socks4a")
ORIGIN = ("192.0.2.1", 80)
NAME = ("origin.test", 80)
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
    def test_socks4_request_octets(
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

    def test_socks4_user_id_known_and_unknown(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer(accounts={"m€": "pass"}) as server:
            for scheme in BOTH:
                with dial(echo_server, proxy=server.url_as(scheme)) as sock:
                    assert_echoes(sock)
                for username in "me", "", None:
                    proxy = Proxy(*server.address, scheme=scheme, username=username)
                    with pytest.raises(ConnectionNotAllowed, match="SOCKS4 CD 5D"):
                        dial(echo_server, proxy=proxy)

    def test_socks4_isolated_sends_token_as_user_id(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer() as server:
            proxy = Proxy.from_url(server.url_as("socks4a"))
            for token in ("token", ""):
                dial(echo_server, proxy=proxy.isolated(token)).close()
            dial(echo_server, proxy=proxy.isolated()).close()
            sent = [seen.username for seen in server.requests]
        assert sent[:2] == ["token", ""]
        assert len(sent[2] or "") == 32


@by_each_scheme
class TestInvalidArguments:
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
    def test_socks4_refuses_invalid_destination(
        self, dial: Dial, scheme: str, host: str, words: str
    ) -> None:
        with SocksServer() as server:
            proxy = server.url_as(scheme)
            with pytest.raises(ValueError, match=words):
                dial((host, 80), proxy=proxy)
            with pytest.raises(ValueError, match=words):
                socksclient.bind((host, 0), 5, proxy=proxy)
            with pytest.raises(ValueError, match=words):
                anyio.run(partial(socksclient.anyio.bind, host, 0, proxy=proxy))
            assert server.connections == []

    def test_socks4_refuses_udp_associate(self, scheme: str) -> None:
        with SocksServer() as server:
            proxy = server.url_as(scheme)
            words = "a SOCKS4 proxy does not support UDP ASSOCIATE"
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
            (
                "%C3%BC" * 128,
                "proxy username is 256 octets long in UTF-8; SOCKS carries at most 255",
            ),
        ],
    )
    def test_socks4_refuses_invalid_user_id(
        self, dial: Dial, scheme: str, userinfo: str, words: str
    ) -> None:
        with SocksServer() as server:
            host, port = server.address
            with pytest.raises(ValueError, match=words):
                dial(ORIGIN, proxy=f"{scheme}://{userinfo}@{host}:{port}")
            assert server.connections == []


class TestLocalDNS:
    """This process resolves names with ``socks4://``, and never with ``socks4a://``."""

    def test_socks4_request_carries_resolved_address(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["origin.test"] = ["127.0.0.1"]
        with SocksServer() as server:
            with dial(("origin.test", echo_server[1]), proxy=server.url_as("socks4")) as sock:
                assert_echoes(sock)
            assert server.requests[0].destination == echo_server

    def test_socks4_leaves_out_addresses_it_cannot_carry(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["origin.test"] = ["2001:db8::1", "::1", "0.0.0.9", "127.0.0.1"]
        with SocksServer() as server:
            with dial(("origin.test", echo_server[1]), proxy=server.url_as("socks4")) as sock:
                assert_echoes(sock)
            assert [seen.destination for seen in server.requests] == [echo_server]

    def test_socks4_name_without_usable_address(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = ["2001:db8::1", "0.0.0.9"]
        with SocksServer() as server, nothing_left_open():
            with pytest.raises(ResolveError) as held:
                dial(NAME, proxy=server.url_as("socks4"))
            assert server.connections == []
        words = "origin.test has no address that the proxy could reach: 2001:db8::1, 0.0.0.9"
        assert held.value.strerror == words
        assert held.value.phase == "resolve"
        assert held.value.destination == NAME

    def test_socks4_unknown_name(self, dial: Dial, names: Names) -> None:
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
    def test_socks4_tries_next_address_after_failure(
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
    def test_socks4_tries_no_next_address_after_final_failure(
        self, dial: Dial, names: Names, faults: Faults
    ) -> None:
        names["origin.test"] = ["192.0.2.1", "192.0.2.2"]
        routes = {(host, 80): ("127.0.0.1", REFUSED_PORT) for host in names["origin.test"]}
        with SocksServer(faults=faults, routes=routes) as server:
            with pytest.raises(SocksError) as caught:
                dial(NAME, proxy=server.url_as("socks4"))
            assert len(server.connections) == 1
        assert not hasattr(caught.value, "__notes__")

    def test_socks4_last_error_notes_earlier_errors(
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
            (
                "before that, 192.0.2.2: the proxy hung up before the end of its message:"
                " got 3 of 8 octets"
            ),
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
    def test_socks4_error_keeps_reply_code(
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
    def test_socks4_error_needs_only_vn_and_cd(
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
            (0, "; perhaps the server speaks SOCKS5 but not SOCKS4, or cannot connect"),
            (1, ""),
        ],
    )
    def test_socks4_hint_if_proxy_closes_at_once(
        self, dial: Dial, echo_server: Address, count: int, hint: str
    ) -> None:
        error = refuse(dial, echo_server, Faults(close_after=count))
        words = f"the proxy hung up before the end of its message: got {count} of 8 octets"
        assert error.strerror == words + hint

    def test_socks4_echoed_request_is_protocol_error(
        self, dial: Dial, echo_server: Address
    ) -> None:
        # An echo server sends the request back.
        request = bytes.fromhex("0401 0050 c0000201 00")
        error = refuse(dial, echo_server, Faults(answers={"request": request}), "socks4")
        assert type(error) is ProtocolError
        assert "it answered with 04 01" in str(error)


class TestDeadline:
    def test_socks4_deadline_covers_all_addresses(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = [f"192.0.2.{number}" for number in range(1, 10)]
        with SocksServer(faults=Faults(drip=0.05, reply=0x5B)) as server:
            with pytest.raises(TimeoutError):
                dial(NAME, proxy=server.url_as("socks4"), timeout=0.5)
            assert 1 <= len(server.connections) < 9


class TestHTTP:
    """The transports for httpx and httpx2."""

    def test_http_client_refuses_ipv6_destination(
        self, driver: Driver, server: SocksServer
    ) -> None:
        with driver.through(server.url_as("socks4a")) as client:
            with pytest.raises(driver.httpx.UnsupportedProtocol, match="IPv6 address") as caught:
                client.get("http://[2001:db8::1]/")
            assert isinstance(caught.value.__cause__, ValueError)
        assert server.connections == []
