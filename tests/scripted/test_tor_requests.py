"""Tor's extensions: RESOLVE, RESOLVE_PTR, reserved user names, reply codes and onion names.

These tests run without Tor: `SocksServer` answers as Tor does.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyLike,
    ProxyTimeout,
    Reply,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import ConnectionNotAllowed, HTTPReply, Socks4Reply
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers.support import (
    BACKENDS,
    LONG,
    REFUSED_PORT,
    Address,
    Dial,
    assert_echoes,
    nothing_left_open,
    resolved_names,
)

NAME = "origin.test"
ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
SOCKS5, SOCKS4 = ("socks5h", "socks5"), ("socks4a", "socks4")


class Tor:
    """`resolve` and `resolve_ptr` by one driver.

    When `timeout` passes, every driver raises a TimeoutError.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def resolve(self, name: str, *, proxy: ProxyLike, timeout: float = LONG) -> str:
        return self._ask("resolve", name, proxy, timeout)

    def resolve_ptr(self, address: str, *, proxy: ProxyLike, timeout: float = LONG) -> str:
        return self._ask("resolve_ptr", address, proxy, timeout)

    def _ask(self, function: str, what: str, proxy: ProxyLike, timeout: float) -> str:
        if self.backend == "blocking":
            answer: str = getattr(socksclient, function)(what, timeout, proxy=proxy)
            return answer
        look_up: Callable[..., Awaitable[str]] = getattr(socksclient.anyio, function)

        async def ask() -> str:
            with anyio.fail_after(timeout):
                return await look_up(what, proxy=proxy)

        return anyio.run(ask, **BACKENDS[self.backend])


@pytest.fixture(params=["blocking", *BACKENDS])
def tor_by(request: pytest.FixtureRequest) -> Tor:
    """Run a test with every driver."""
    return Tor(request.param)


class TestResolve:
    @pytest.mark.parametrize("scheme", SOCKS5)
    @pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
    def test_resolve_octets_and_answer(self, tor_by: Tor, scheme: str, address: str) -> None:
        with SocksServer(routes={(NAME, 0): (address, 0)}) as server:
            with nothing_left_open(), resolved_names() as resolved:
                assert tor_by.resolve(NAME, proxy=server.url_as(scheme)) == address
            assert resolved == []
            [seen] = server.requests
        assert seen.received == b"\x05\x01\x00" + b"\x05\xf0\x00\x03\x0borigin.test\x00\x00"
        assert (seen.command, seen.destination) == (Command.RESOLVE, (NAME, 0))

    @pytest.mark.parametrize("scheme", SOCKS4)
    def test_resolve_by_socks4a(self, tor_by: Tor, scheme: str) -> None:
        with SocksServer(accounts={"me": ""}, routes={(NAME, 0): ("192.0.2.7", 0)}) as server:
            with nothing_left_open(), resolved_names() as resolved:
                assert tor_by.resolve(NAME, proxy=server.url_as(scheme)) == "192.0.2.7"
            assert resolved == []
            [seen] = server.requests
        assert seen.received == b"\x04\xf0\x00\x00\x00\x00\x00\x01me\x00origin.test\x00"
        assert seen.sent == bytes.fromhex("005a 0000 c0000207")

    def test_resolve_with_credentials(self, tor_by: Tor) -> None:
        accounts = {"user": "pass"}
        with SocksServer(accounts=accounts, routes={(NAME, 0): ("192.0.2.7", 0)}) as server:
            assert tor_by.resolve(NAME, proxy=server.url) == "192.0.2.7"

    @pytest.mark.parametrize(
        ("name", "sent"), [("bücher.example", "xn--bcher-kva.example"), ("n" * 255, "n" * 255)]
    )
    def test_resolve_encodes_names(self, tor_by: Tor, name: str, sent: str) -> None:
        with SocksServer(routes={(sent, 0): ("192.0.2.7", 0)}) as server:
            assert tor_by.resolve(name, proxy=server.url) == "192.0.2.7"

    @pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
    def test_resolve_of_ip_address(self, tor_by: Tor, address: str) -> None:
        with SocksServer() as server:
            assert tor_by.resolve(address, proxy=server.url) == address
            assert server.requests[0].address_type == (4 if ":" in address else 1)

    def test_resolve_asks_last_hop_of_chain(self, tor_by: Tor) -> None:
        with SocksServer(routes={(NAME, 0): ("192.0.2.7", 0)}) as last:
            with SocksServer() as first:
                chain = [first.url_as("http"), last.url]
                with resolved_names() as names:
                    assert tor_by.resolve(NAME, proxy=chain) == "192.0.2.7"
                assert names == []
                assert first.requests[0].command == Command.CONNECT
                assert first.requests[0].destination == last.address

    @pytest.mark.parametrize("answer", ["05 00 00 03 04 6e616d65 0000", "05 00 00 03 00 0000"])
    def test_resolve_answer_that_is_no_address(self, tor_by: Tor, answer: str) -> None:
        faults = Faults(answers={"request": bytes.fromhex(answer)})
        with SocksServer(faults=faults, routes={(NAME, 0): ("192.0.2.7", 0)}) as server:
            error = failure(tor_by.resolve, NAME, server.url, (NAME, 0))
        assert type(error) is ProtocolError
        assert str(error.strerror).startswith("the proxy answered RESOLVE with '")


class TestResolvePTR:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("203.0.113.7", "05f10001 cb007107 0000"),
            ("2001:db8::7", "05f10004 20010db8000000000000000000000007 0000"),
            ("[2001:db8::7]", "05f10004 20010db8000000000000000000000007 0000"),
        ],
    )
    def test_resolve_ptr_octets_and_answer(self, tor_by: Tor, address: str, message: str) -> None:
        with SocksServer(routes={(address.strip("[]"), 0): ("ptr.test", 0)}) as server:
            with nothing_left_open(), resolved_names() as resolved:
                assert tor_by.resolve_ptr(address, proxy=server.url) == "ptr.test"
            assert resolved == []
            [seen] = server.requests
        assert seen.received == b"\x05\x01\x00" + bytes.fromhex(message)
        assert seen.sent == b"\x05\x00" + b"\x05\x00\x00\x03\x08ptr.test\x00\x00"

    @pytest.mark.parametrize(
        "answer", ["05 00 00 01 c0000207 0000", f"05 00 00 04 {'00' * 16} 0000", "05000003 00 0000"]
    )
    def test_resolve_ptr_answer_that_is_no_name(self, tor_by: Tor, answer: str) -> None:
        faults = Faults(answers={"request": bytes.fromhex(answer)})
        with SocksServer(faults=faults, routes={("192.0.2.7", 0): ("ptr.test", 0)}) as server:
            error = failure(tor_by.resolve_ptr, "192.0.2.7", server.url, ("192.0.2.7", 0))
        assert type(error) is ProtocolError
        assert str(error.strerror).startswith("the proxy answered RESOLVE_PTR with '")


def failure(
    ask: Callable[..., str], what: str, proxy: str, destination: Address, timeout: float = LONG
) -> SocksError:
    """Return the error, after a check that it left nothing open and has its place."""
    with nothing_left_open(), pytest.raises(SocksError) as held:
        ask(what, proxy=proxy, timeout=timeout)
    error = held.value
    assert error.destination == destination
    assert error.proxy == Proxy.from_url(proxy)
    return error


@pytest.mark.parametrize("function", ["resolve", "resolve_ptr"])
class TestResolveFailures:
    def fail(self, tor_by: Tor, function: str, faults: Faults, scheme: str = "socks5h") -> Any:
        what = NAME if function == "resolve" else "192.0.2.7"
        routes = {(NAME, 0): ("192.0.2.7", 0), ("192.0.2.7", 0): (NAME, 0)}
        with SocksServer(faults=faults, routes=routes) as server:
            proxy = server.url_as(scheme)
            error = failure(getattr(tor_by, function), what, proxy, (what, 0))
            assert len(server.connections) == 1
        assert error.phase == "request"
        return error

    @pytest.mark.parametrize("rep", [0x01, 0x02, 0x04, 0x05, 0xF6])
    def test_resolve_refusal_keeps_reply_code(self, tor_by: Tor, function: str, rep: int) -> None:
        error = self.fail(tor_by, function, Faults(reply=rep))
        assert isinstance(error, ReplyError)
        assert error.reply is Reply(rep)
        assert f"REP {rep:02X}" in str(error)

    def test_resolve_refusal_with_atyp_0(self, tor_by: Tor, function: str) -> None:
        answer = bytes.fromhex("05040000 00000000 0000")
        error = self.fail(tor_by, function, Faults(answers={"request": answer}))
        assert isinstance(error, ReplyError)
        assert error.reply is Reply.HOST_UNREACHABLE
        assert error.errno == errno.EHOSTUNREACH

    def test_resolve_not_offered_by_proxy(self, tor_by: Tor, function: str) -> None:
        error = self.fail(tor_by, function, Faults(reply=0x07))
        assert error.reply is Reply.COMMAND_NOT_SUPPORTED
        words = f"this proxy does not offer {function.upper()}: command not supported (REP 07)"
        assert error.strerror == words

    @pytest.mark.parametrize(
        ("count", "words"),
        [(2, "got 0 of 5 octets; perhaps the proxy does not offer "), (6, "got 4 of 5 octets (")],
    )
    def test_resolve_when_proxy_closes_connection(
        self, tor_by: Tor, function: str, count: int, words: str
    ) -> None:
        error = self.fail(tor_by, function, Faults(close_after=count))
        assert isinstance(error, ProxyClosed)
        assert words in str(error)
        assert (function.upper() in str(error)) == (count == 2)

    def test_resolve_timeout(self, tor_by: Tor, function: str) -> None:
        """Tor does not reply when the resolver at its exit does not answer."""
        with SocksServer(faults=Faults(stall_after=2)) as server:
            ask = partial(getattr(tor_by, function), "192.0.2.7", proxy=server.url, timeout=0.2)
            with nothing_left_open(), pytest.raises(TimeoutError) as held:
                ask()
        # The awaited functions take no timeout: anyio raises the TimeoutError.
        if isinstance(held.value, ProxyTimeout):
            assert held.value.phase == "request"

    def test_resolve_when_proxy_refuses_connection(self, tor_by: Tor, function: str) -> None:
        with pytest.raises(ProxyConnectError, match="Connection refused"):
            getattr(tor_by, function)("192.0.2.7", proxy=f"socks5h://127.0.0.1:{REFUSED_PORT}")


def test_resolve_refusal_by_socks4a(tor_by: Tor) -> None:
    with SocksServer(faults=Faults(reply=0x5B)) as server:
        error = failure(tor_by.resolve, NAME, server.url_as("socks4a"), (NAME, 0))
    assert isinstance(error, ReplyError)
    assert error.reply is Socks4Reply.REJECTED_OR_FAILED


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            "",
            ProxyClosed,
            " speaks SOCKS5 but not SOCKS4, or does not offer RESOLVE (",
        ),
        ("00", ProxyClosed, "got 1 of 8 octets ("),
        ("00 5a 00 00 c0 00 02", ProxyClosed, "got 7 of 8 octets ("),
        ("00 5b", ReplyError, "(SOCKS4 CD 5B)"),
        ("04 5a 00 00 c0 00 02 07", ProtocolError, "it answered with 04 5a instead of version 00"),
        ("05 00 00 01 c0 00 02 07", ProtocolError, "this is a SOCKS5 server"),
    ],
)
def test_resolve_invalid_answer_by_socks4a(
    tor_by: Tor, answer: str, error: type[SocksError], words: str
) -> None:
    faults = Faults(answers={"request": bytes.fromhex(answer)})
    routes = {(NAME, 0): ("192.0.2.7", 0)}
    with SocksServer(faults=faults, routes=routes) as server:
        caught = failure(tor_by.resolve, NAME, server.url_as("socks4a"), (NAME, 0))
    assert type(caught) is error
    assert caught.phase == "request"
    assert words in str(caught)


class TestResolveArguments:
    """An invalid argument raises a ValueError before anything is sent."""

    @pytest.mark.parametrize(
        ("function", "what", "scheme", "words"),
        [
            ("resolve", NAME, "http", "an HTTP proxy does not support RESOLVE"),
            ("resolve_ptr", "192.0.2.7", "http", "an HTTP proxy does not support RESOLVE_PTR"),
            ("resolve_ptr", "192.0.2.7", "socks4a", "a SOCKS4 proxy does not support RESOLVE_PTR"),
            ("resolve_ptr", "192.0.2.7", "socks4", "a SOCKS4 proxy does not support RESOLVE_PTR"),
            ("resolve_ptr", NAME, "socks5h", r"'origin\.test' is not an IP address"),
            ("resolve_ptr", "127.1", "socks5h", r"'127\.1' is not an IP address"),
            ("resolve_ptr", NAME, "http", r"'origin\.test' is not an IP address"),
            ("resolve", "2001:db8::7", "socks4a", "SOCKS4 cannot carry the IPv6 address"),
            ("resolve", "0.0.0.7", "socks4a", "SOCKS4 cannot carry the address"),
            ("resolve", "", "socks5h", "host is empty"),
            ("resolve", "n" * 256, "socks5h", "host is 256 octets long"),
            ("resolve", "a b", "socks5h", "has ' ' in it"),
            ("resolve", "name.test:80", "socks5h", "has ':' in it"),
            ("resolve_ptr", "fe80::1%eth0", "socks5h", "zone id"),
        ],
    )
    def test_resolve_refuses_invalid_argument(
        self, tor_by: Tor, function: str, what: str, scheme: str, words: str
    ) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match=words):
                getattr(tor_by, function)(what, proxy=server.url_as(scheme))
            assert server.connections == []


class TestOnionNames:
    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
    @pytest.mark.parametrize("name", [ONION, ONION.upper() + ".", f"www.{ONION}"])
    def test_onion_name_goes_to_proxy(
        self, dial: Dial, echo_server: Address, scheme: str, name: str
    ) -> None:
        with SocksServer(routes={(name, 80): echo_server}) as server:
            with resolved_names() as resolved:
                with dial((name, 80), proxy=server.url_as(scheme)) as sock:
                    assert_echoes(sock)
            assert resolved == []
            assert server.requests[0].destination == (name, 80)

    @pytest.mark.parametrize("scheme", ["socks5", "socks4"])
    @pytest.mark.parametrize("name", [ONION, ONION.upper(), ONION + ".", f"www.{ONION}", "x.onion"])
    def test_onion_name_is_refused_where_this_process_resolves(
        self, dial: Dial, scheme: str, name: str
    ) -> None:
        words = f"{name} is known to Tor only, and {scheme}:// does not let the proxy"
        with SocksServer() as server:
            with resolved_names() as resolved, pytest.raises(ValueError, match=words):
                dial((name, 80), proxy=server.url_as(scheme))
            assert resolved == []
            assert server.connections == []

    @pytest.mark.parametrize("name", [ONION, ONION.upper() + "."])
    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
    def test_onion_name_of_nearest_proxy_is_refused(
        self, dial: Dial, scheme: str, name: str
    ) -> None:
        words = f"{name.lower()} is known to Tor only, and this process cannot resolve it"
        proxy = Proxy(name, scheme=scheme)
        with resolved_names() as resolved:
            for behind in ([], [Proxy("proxy.test")]):
                with pytest.raises(ValueError, match=words):
                    dial(("192.0.2.1", 80), proxy=[proxy, *behind])
        assert resolved == []

    def test_onion_name_of_hop_behind_tor(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer() as last, SocksServer(routes={(ONION, 80): last.address}) as tor:
            with resolved_names() as resolved:
                with dial(echo_server, proxy=[tor.url, Proxy(ONION, scheme="http")]) as sock:
                    assert_echoes(sock)
            assert resolved == []
            assert tor.requests[0].destination == (ONION, 80)

    def test_names_similar_to_onion_are_resolved(
        self, dial: Dial, names: dict[str, list[str]], echo_server: Address
    ) -> None:
        with SocksServer() as server:
            for name in ("notonion", "x.onion.test", "onion"):
                names[name] = ["127.0.0.1"]
                with dial((name, echo_server[1]), proxy=server.url_as("socks5")) as sock:
                    assert_echoes(sock)

    @pytest.mark.parametrize(
        ("rep", "meaning", "number"),
        [
            (0xF0, "onion service descriptor not found", errno.EHOSTUNREACH),
            (0xF1, "onion service descriptor invalid", errno.EHOSTUNREACH),
            (0xF2, "onion service introduction failed", errno.EHOSTUNREACH),
            (0xF3, "onion service rendezvous failed", errno.EHOSTUNREACH),
            (0xF4, "onion service missing client authorization", errno.EACCES),
            (0xF5, "onion service wrong client authorization", errno.EACCES),
            (0xF6, "onion address invalid", errno.EHOSTUNREACH),
            (0xF7, "onion service introduction timed out", errno.EHOSTUNREACH),
        ],
    )
    def test_onion_service_reply_codes(
        self, dial: Dial, rep: int, meaning: str, number: int
    ) -> None:
        with SocksServer(faults=Faults(reply=rep)) as server:
            with pytest.raises(ReplyError) as caught:
                dial((ONION, 80), proxy=server.url)
        error = caught.value
        assert type(error) is (ConnectionNotAllowed if number == errno.EACCES else ReplyError)
        assert error.reply is Reply(rep)
        assert error.reply.name == meaning.upper().replace(" ", "_")
        assert error.errno == number
        assert error.strerror == f"the proxy refused the request: {meaning} (REP {rep:02X})"

    def test_onion_name_by_http_tunnel_port(self, dial: Dial) -> None:
        answer = b"HTTP/1.0 503 Service Unavailable\r\nTor-Request-Failed: end/RESOLVEFAILED\r\n"
        with SocksServer(faults=Faults(reply=503, answers={"request": answer + b"\r\n"})) as server:
            with pytest.raises(ReplyError) as caught:
                dial((ONION, 80), proxy=server.url_as("http"))
        assert caught.value.reply is HTTPReply.SERVICE_UNAVAILABLE


class TestIsolation:
    def test_isolated_sends_reserved_credentials(self, dial: Dial, echo_server: Address) -> None:
        accounts = {"<torS0X>0": "token"}
        with SocksServer(accounts=accounts) as server:
            proxy = Proxy(*server.address)
            with dial(echo_server, proxy=proxy.isolated("token")) as sock:
                assert_echoes(sock)
            credentials = b"\x01\x09<torS0X>0\x05token"
            assert server.requests[0].received.startswith(b"\x05\x02\x00\x02" + credentials)
            with pytest.raises(AuthenticationError):
                dial(echo_server, proxy=proxy.isolated())
            assert len(server.connections[1].password or "") == 32

    # Tor sends this where two octets are due if it does not know the form (proposal 351).
    REFUSED = bytes.fromhex("05010001 00000000 0000")

    @pytest.mark.parametrize("octets", [REFUSED, REFUSED[:2]])
    def test_isolated_form_unknown_to_tor(
        self, dial: Dial, echo_server: Address, octets: bytes
    ) -> None:
        faults = Faults(answers={"authentication": octets})
        username = "<torS0X>1secret"
        with SocksServer(accounts={username: "pass"}, faults=faults) as server:
            with nothing_left_open(), pytest.raises(AuthenticationError) as held:
                dial(echo_server, proxy=server.url)
        assert held.value.phase == "authentication"
        assert held.value.strerror == (
            "the proxy refused the credentials (STATUS 01): Tor reserves user names that begin with"
            " <torS0X>, and this Tor does not know this one"
        )
        assert "secret" not in repr(held.value)

    @pytest.mark.parametrize(
        ("username", "octets"),
        [
            # Tor gives a meaning only to user names that begin with "<torS0X>", and sends REFUSED.
            ("user", REFUSED),
            ("<torS0X>1", b"\x01\x01"),
            ("<TORS0X>1", REFUSED),
            (" <torS0X>1", REFUSED),
        ],
    )
    def test_isolated_other_refusal_has_no_hint(
        self, dial: Dial, echo_server: Address, username: str, octets: bytes
    ) -> None:
        faults = Faults(answers={"authentication": octets})
        with SocksServer(accounts={username: "pass"}, faults=faults) as server:
            with pytest.raises(AuthenticationError) as caught:
                dial(echo_server, proxy=server.url)
        assert caught.value.strerror == "the proxy refused the credentials (STATUS 01)"
