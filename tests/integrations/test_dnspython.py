"""`socksclient.dnspython`: all ways to ask, `udp_with_fallback`, and `Nameserver`."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.resolver
import dns.tsigkeyring
import pytest

from socksclient import (
    AssociationClosed,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ResolveError,
)
from socksclient.dnspython import Backend, Nameserver, udp_with_fallback
from socksclient.exceptions import ConnectionNotAllowed, ConnectionRefused
from socksclient.protocol.codes import Command
from socksclient.testing import Faults

from helpers.name_server import (
    IPV4,
    IPV6,
    KEYRING,
    LOOPS,
    NAME,
    Answers,
    Ask,
    Elsewhere,
    answer,
    answer_by_tcp,
    drip,
    failing,
    garbage_without_end,
    hang_up,
    proxied,
    respond,
    run,
    say_nothing,
    texts,
    truncate,
)
from helpers.support import LONG, REFUSED_PORT, Address, encode_datagram_header, resolved_names

pytest_plugins = ["helpers.dns_fixtures"]
pytestmark = pytest.mark.usefixtures("no_descriptor_left_open")


@pytest.mark.parametrize("server", [IPV4, IPV6])
def test_query_udp_and_tcp_go_through_proxy(ask: Ask, server: Address) -> None:
    with proxied() as proxy, resolved_names() as names:
        assert texts(ask(proxy.url, server=server)) == ["192.0.2.1"]
    assert set(names) <= {"127.0.0.1"}
    udp, tcp = proxy.requests
    assert udp.command == Command.UDP_ASSOCIATE
    assert [destination for destination, _ in udp.datagrams] == [server]
    assert (tcp.command, tcp.destination) == (Command.CONNECT, server)


def test_query_answered_by_udp_uses_no_tcp(ask: Ask) -> None:
    with proxied(answer) as proxy:
        assert texts(ask(proxy.url)) == ["192.0.2.1"]
    assert [seen.command for seen in proxy.requests] == [Command.UDP_ASSOCIATE]


def test_query_ignores_datagrams_other_than_answer(ask: Ask) -> None:
    def answer_at_last(query: bytes) -> Iterator[bytes]:
        good = respond(query, "192.0.2.1")
        forged = respond(query, "192.0.2.66", id=good.id ^ 1).to_wire()
        other = dns.message.make_query("other.test", "A")
        other.id = good.id
        cut = respond(query, id=good.id ^ 1, flags=int(good.flags | dns.flags.TC)).to_wire()
        yield from [b"", b"garbage", query, forged, other.to_wire(), cut, good.to_wire()[:-1]]
        yield from [*answer(other.to_wire()), Elsewhere(respond(query, "192.0.2.66").to_wire())]
        yield good.to_wire()

    garbage = [b"", b"\0\0\0", b"\0\0\1\1no fragments", encode_datagram_header(*IPV4)[:-1]]
    faults = Faults(garbage=garbage, stranger=encode_datagram_header(*IPV4) + b"stranger")
    with proxied(answer_at_last, faults=faults) as proxy:
        assert texts(ask(proxy.url)) == ["192.0.2.1"]
    assert len(proxy.requests) == 1


ENDLESS: dict[str, tuple[Answers, Answers, Faults | list[Faults]]] = {
    "no answer": (say_nothing, say_nothing, []),
    "garbage": (garbage_without_end, say_nothing, []),
    "no answer by TCP": (truncate, say_nothing, []),
    "an answer by TCP that drips": (truncate, drip, []),
    "a proxy that stalls": (answer, say_nothing, Faults(stall_after=2)),
    "a proxy that drips": (answer, say_nothing, Faults(drip=0.1)),
    "a proxy that stalls for TCP": (truncate, answer_by_tcp, [Faults(), Faults(stall_after=2)]),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_query_timeout(ask: Ask, case: str) -> None:
    udp, tcp, faults = ENDLESS[case]
    with proxied(udp, tcp, faults=faults) as proxy:
        start = time.monotonic()
        with failing(dns.exception.Timeout, ProxyTimeout):
            ask(proxy.url, timeout=0.2)
        assert time.monotonic() - start < LONG / 2


ERRORS: dict[str, tuple[Answers, Faults | list[Faults], type[Exception]]] = {
    "UDP is not allowed": (answer, Faults(reply=0x02), ConnectionNotAllowed),
    "TCP is refused": (truncate, [Faults(), Faults(reply=0x05)], ConnectionRefused),
    "it hangs up at once": (answer, Faults(close_after=0), ProxyClosed),
    "it ends the association": (say_nothing, Faults(end_after=1), AssociationClosed),
}


@pytest.mark.parametrize("case", ERRORS)
def test_query_raises_errors_of_proxy(ask: Ask, case: str) -> None:
    udp, faults, error = ERRORS[case]
    with proxied(udp, faults=faults) as proxy, failing(error) as errors:
        ask(proxy.url)
    assert "proxy: 127.0.0.1:" in str(errors[0])


def test_query_when_proxy_refuses_connection(ask: Ask) -> None:
    with failing(ProxyConnectError):
        ask(f"socks5h://127.0.0.1:{REFUSED_PORT}")


# The reset may arrive in any step, so the test repeats it.
@pytest.mark.parametrize("faults", [[], [Faults(), Faults(reset_after=12)] * 5], ids=["FIN", "RST"])
def test_query_when_tcp_connection_ends_early(ask: Ask, faults: list[Faults]) -> None:
    with proxied(tcp=hang_up, faults=faults) as proxy:
        for number in range(len(faults) // 2 or 1):
            with failing(EOFError, OSError):
                ask(proxy.url)
            assert len(proxy.requests) == 2 * (number + 1)


class TestUDPWithFallback:
    query = dns.message.make_query("a.test", "A")

    @pytest.mark.parametrize(("udp", "by_tcp"), [(answer, False), (truncate, True)])
    @pytest.mark.parametrize("timeout", [10.0, None])
    def test_udp_with_fallback_returns_whether_tcp_was_used(
        self, udp: Answers, by_tcp: bool, timeout: float | None
    ) -> None:
        with proxied(udp) as proxy:
            response, used_tcp = udp_with_fallback(self.query, *IPV4[:1], timeout, proxy=proxy.url)
        assert texts(response) == ["192.0.2.1"]
        assert used_tcp is by_tcp

    def test_udp_with_fallback_sends_server_name_to_proxy(self) -> None:
        with proxied() as proxy, resolved_names() as names:
            udp_with_fallback(self.query, NAME[0], 10, proxy=Proxy.from_url(proxy.url))
        assert set(names) <= {"127.0.0.1"}
        udp, tcp = proxy.requests
        assert [destination for destination, _ in udp.datagrams] == [NAME]
        assert (tcp.address_type, tcp.destination) == (0x03, NAME)

    def test_udp_with_fallback_resolves_server_name_with_socks5(
        self, names: dict[str, list[str]]
    ) -> None:
        with proxied() as proxy:
            url = proxy.url.replace("socks5h", "socks5")
            with pytest.raises(ResolveError):
                udp_with_fallback(self.query, NAME[0], 10, proxy=url)
            names[NAME[0]] = [IPV4[0]]
            udp_with_fallback(self.query, NAME[0], 10, proxy=url)
        udp, tcp = proxy.requests[-2:]
        assert [destination for destination, _ in udp.datagrams] == [IPV4]
        assert tcp.destination == IPV4

    def test_udp_with_fallback_timeout_in_resolver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def getaddrinfo(*_args: object, **_kwargs: object) -> list[object]:
            resolved.wait(LONG)
            return []

        resolved = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with proxied() as proxy:
            url = proxy.url.replace("socks5h", "socks5")
            with pytest.raises(ProxyTimeout) as caught:
                udp_with_fallback(self.query, NAME[0], 0.2, proxy=url)
        resolved.set()
        assert caught.value.phase == "resolve"

    @pytest.mark.parametrize(("host", "port"), [("", 53), ("a b", 53), (IPV4[0], 70000)])
    def test_udp_with_fallback_refuses_invalid_host_or_port(self, host: str, port: int) -> None:
        with proxied() as proxy, pytest.raises(ValueError, match=r"host|port"):
            udp_with_fallback(self.query, host, 10, port, proxy=proxy.url)
        assert proxy.connections == []

    def test_udp_with_fallback_has_one_deadline(self) -> None:
        def truncate_at_last(query: bytes) -> Iterator[bytes]:
            threading.Event().wait(1.5)
            yield from truncate(query)

        with proxied(truncate_at_last, say_nothing) as proxy:
            start = time.monotonic()
            with pytest.raises(dns.exception.Timeout):
                udp_with_fallback(self.query, IPV4[0], 3.0, proxy=proxy.url)
            assert 2.9 < time.monotonic() - start < 4.5
        assert len(proxy.requests) == 2

    def test_udp_with_fallback_refuses_answer_to_other_query(self) -> None:
        def answer_another(query: bytes) -> Iterator[bytes]:
            yield respond(query, id=0).to_wire(prepend_length=True)

        query = dns.message.make_query("a.test", "A", id=1)
        with proxied(tcp=answer_another) as proxy, pytest.raises(dns.query.BadResponse):
            udp_with_fallback(query, IPV4[0], 10, proxy=proxy.url)

    def test_udp_with_fallback_checks_tsig(self) -> None:
        def forge(query: bytes) -> Iterator[bytes]:
            forged = respond(query, "192.0.2.66")
            forged.use_tsig(dns.tsigkeyring.from_text({"key.test": "Zm9yZ2Vk"}))
            yield forged.to_wire()
            yield from truncate(query)

        query = dns.message.make_query("a.test", "A")
        query.use_tsig(KEYRING)
        with proxied(forge) as proxy:
            response, used_tcp = udp_with_fallback(query, IPV4[0], 10, proxy=proxy.url)
        assert response.had_tsig
        assert used_tcp


class TestNameserver:
    def test_nameserver_address_in_resolver(self) -> None:
        with proxied(answer) as proxy:
            nameserver = Nameserver(*IPV6, proxy=proxy.url)
            assert nameserver.proxy == (Proxy.from_url(proxy.url),)
            assert str(nameserver) == "Do53:2001:db8::53@53"
            resolver = dns.resolver.Resolver(configure=False)
            resolver.nameservers = [nameserver]
            found = resolver.resolve("a.test", source="192.0.2.7")
        assert (found.nameserver, found.port) == IPV6

    @pytest.mark.parametrize("by_tcp", [False, True])
    @pytest.mark.parametrize("loop", [None, *LOOPS])
    def test_nameserver_query_options(self, loop: str | None, by_tcp: bool) -> None:
        def answer_with_junk(query: bytes) -> Iterator[bytes]:
            octets = respond(query, "192.0.2.1", "192.0.2.2").to_wire() + b"junk"
            yield len(octets).to_bytes(2, "big") + octets if by_tcp else octets

        query = dns.message.make_query("a.test", "A")
        options: dict[str, Any] = {"one_rr_per_rrset": True, "ignore_trailing": True}
        with proxied(answer_with_junk, answer_with_junk) as proxy:
            nameserver = Nameserver(*IPV4, proxy=proxy.url)
            if loop is None:
                response = nameserver.query(query, 10, None, 0, by_tcp, **options)
            else:
                ask = partial(nameserver.async_query, backend=None, **options)
                response = run(loop, ask, query, 10, None, 0, by_tcp)
        assert [len(rrset) for rrset in response.answer] == [1, 1]

    @pytest.mark.parametrize(("host", "port"), [NAME, ("", 53), (IPV4[0], 0)])
    def test_nameserver_refuses_invalid_address_or_port(self, host: str, port: int) -> None:
        with pytest.raises(ValueError, match=r"address|host|port"):
            Nameserver(host, port, proxy="socks5h://127.0.0.1")

    @pytest.mark.parametrize("made", [partial(Nameserver, "192.0.2.53"), Backend])
    def test_nameserver_and_backend_refuse_invalid_proxy(self, made: Callable[..., object]) -> None:
        with pytest.raises(ValueError, match="scheme"):
            made(proxy="192.0.2.1:1080")


def test_import_error_names_extra_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "socksclient.dnspython")
    with pytest.raises(ImportError, match=r"pip install 'socksclient\[dns\]'"):
        importlib.import_module("socksclient.dnspython")
