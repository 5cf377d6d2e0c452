"""Errors of chains: which hop failed, and in which phase."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from typing import NamedTuple

import pytest

from socksclient import (
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    Reply,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import HTTPReply, Phase, Socks4Reply
from socksclient.testing import Faults

from helpers.hops import (
    NOBODY,
    Associate,
    Authority,
    Connect,
    MakeHops,
)
from helpers.http_clients import PROXY_HOST, nothing_left_open
from helpers.support import (
    REFUSED_PORT,
    Address,
)

pytest_plugins = ["helpers.hop_fixtures"]


class Failure(NamedTuple):
    """A fault of a hop, and the error that the caller gets."""

    faults: Faults
    error: type[SocksError]
    phase: Phase
    words: str
    account: bool = False


def of_socks5(number: int, phase: Phase) -> list[Failure]:
    return [
        Failure(Faults(close_after=number), ProxyClosed, phase, "hung up"),
        Failure(Faults(reset_after=number), ProxyClosed, phase, "hung up"),
    ]


FAILURES = {
    "socks5h": [
        *of_socks5(0, "method selection"),
        *of_socks5(1, "method selection"),
        *of_socks5(2, "request"),
        *of_socks5(5, "request"),
        Failure(Faults(reply=0x05), ReplyError, "request", "connection refused (REP 05)"),
        Failure(Faults(method=0x01), ProtocolError, "method selection", "was not offered"),
        Failure(
            Faults(answers={"method selection": b"220 hello"}),
            ProtocolError,
            "method selection",
            "this is not a SOCKS5 proxy",
        ),
        Failure(Faults(), AuthenticationError, "authentication", "STATUS 01", account=True),
    ],
    "socks4a": [
        Failure(Faults(close_after=0), ProxyClosed, "request", "got 0 of 8 octets"),
        Failure(Faults(reset_after=1), ProxyClosed, "request", "hung up"),
        Failure(Faults(reply=0x5B), ReplyError, "request", "rejected or failed (SOCKS4 CD 5B)"),
        Failure(Faults(answers={"request": b"\x05\x00"}), ProtocolError, "request", "SOCKS5"),
        Failure(Faults(), ReplyError, "request", "SOCKS4 CD 5D", account=True),
    ],
    "http": [
        Failure(Faults(close_after=0), ProxyClosed, "request", "got 0 of"),
        Failure(Faults(reset_after=20), ProxyClosed, "request", "hung up"),
        Failure(Faults(reply=403), ReplyError, "request", "forbidden (HTTP 403)"),
        Failure(Faults(answers={"request": b"\x05\x00" * 9}), ProtocolError, "request", "SOCKS5"),
        Failure(Faults(), AuthenticationError, "request", "(HTTP 407)", account=True),
    ],
}


class TestChainErrors:
    @pytest.mark.parametrize("hop", [0, 1, 2])
    @pytest.mark.parametrize(
        ("scheme", "failure"),
        [(scheme, failure) for scheme, failures in FAILURES.items() for failure in failures],
        ids=lambda value: value if isinstance(value, str) else f"{value.faults} {value.account}",
    )
    def test_chain_error_names_hop(
        self,
        connect: Connect,
        hops: MakeHops,
        listening: Address,
        hop: int,
        scheme: str,
        failure: Failure,
    ) -> None:
        schemes = ["http", "socks5h+tls", "socks5h"]
        schemes[hop] = scheme
        accounts = {hop: {"user": "right"}} if failure.account else {}
        with hops(*schemes, faults={hop: failure.faults}, accounts=accounts) as chain:
            proxies = list(chain.proxies)
            if failure.account:
                wrong = "" if scheme == "socks4a" else "wrong"
                proxies[hop] = replace(proxies[hop], username="else", password=wrong)
            with nothing_left_open(), pytest.raises(failure.error) as caught:
                connect(listening, proxy=proxies)
            heard = [[one.received for one in server.connections] for server in chain.servers]
        error = caught.value
        assert (error.hop, error.proxy, error.phase) == (hop, proxies[hop], failure.phase)
        assert error.destination == listening
        assert failure.words in str(error)
        place = f"(phase: {failure.phase}, hop: {hop}, proxy: {proxies[hop].place}"
        if hop < 2:
            place += f", next hop: {proxies[hop + 1].place}"
        assert str(error).endswith(f"{place}, destination: 127.0.0.1:{listening[1]})")
        next_hops = [*((proxy.host, proxy.port) for proxy in proxies[1:]), None]
        assert error.next_hop == next_hops[hop]
        assert all(heard[: hop + 1])
        assert not any(map(any, heard[hop + 1 :]))

    @pytest.mark.parametrize(
        ("scheme", "reply"),
        [
            ("socks5h", Reply.CONNECTION_REFUSED),
            ("socks4", Socks4Reply.REJECTED_OR_FAILED),
            ("http", HTTPReply.BAD_GATEWAY),
        ],
    )
    def test_chain_refused_connection_to_next_hop(
        self, connect: Connect, hops: MakeHops, scheme: str, reply: object
    ) -> None:
        with hops("socks5h", scheme) as chain, nothing_left_open():
            nowhere = Proxy(PROXY_HOST, REFUSED_PORT)
            with pytest.raises(ReplyError) as caught:
                connect(NOBODY, proxy=[*chain.proxies, nowhere])
            assert caught.value.reply is reply
            assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[1])
            assert caught.value.next_hop == (nowhere.host, nowhere.port)
            assert f"hop: 1, proxy: {chain.proxies[1].place}, next hop: {nowhere.place}" in str(
                caught.value
            )

    def test_chain_refused_connection_to_nearest_hop(
        self, connect: Connect, hops: MakeHops
    ) -> None:
        nowhere = Proxy(PROXY_HOST, REFUSED_PORT)
        with pytest.raises(ProxyConnectError, match="Connection refused") as caught:
            connect(NOBODY, proxy=[nowhere, "socks4a://192.0.2.1"])
        assert (caught.value.hop, caught.value.proxy) == (0, nowhere)
        assert caught.value.errno == errno.ECONNREFUSED

    def test_chain_tls_failure_names_hop(
        self, connect: Connect, hops: MakeHops, authority: Authority
    ) -> None:
        with hops("socks5h", "socks5h+tls", "https") as chain, nothing_left_open():
            for number in (1, 2):
                proxies = list(chain.proxies)
                proxies[number] = replace(proxies[number], tls=True)  # that CA is not trusted
                with pytest.raises(ProxyConnectError, match="certificate verify fail") as caught:
                    connect(NOBODY, proxy=proxies)
                error = caught.value
                assert (error.hop, error.proxy) == (number, proxies[number])
                assert error.phase == "tls"
                assert not hasattr(error, "__notes__")
            assert chain.servers[2].requests == []

    def test_chain_connection_lost_between_hops(self, connect: Connect, hops: MakeHops) -> None:
        """The nearest hop grants the request, loses the next hop, and hangs up."""
        with hops("socks5h", "socks5h", faults={0: Faults(close_after=12)}) as chain:
            with nothing_left_open(), pytest.raises(ProxyClosed) as caught:
                connect(NOBODY, proxy=chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (1, "method selection")


def test_chain_log_names_hops(
    connect: Connect,
    associate: Associate,
    hops: MakeHops,
    greeter: Address,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with hops("socks5h", "socks5h") as chain, caplog.at_level(logging.DEBUG, "socksclient"):
        connect(greeter, proxy=chain.proxies).close()
        associate(chain.proxies).close()
    first, second = (f"hop {number}, {proxy}" for number, proxy in enumerate(chain.proxies))
    destination = f"127.0.0.1:{greeter[1]}"
    assert f"{destination} via {first}: method selection" in caplog.messages
    assert f"{destination} via {second}: request" in caplog.messages
    assert f"UDP ASSOCIATE via {second}: request" in caplog.messages
