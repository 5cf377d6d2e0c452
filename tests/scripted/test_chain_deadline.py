"""Deadlines and cancellation of connections through chains."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import anyio
import httpx
import pytest
from anyio.from_thread import BlockingPortal

import socksclient
import socksclient.anyio
from socksclient import (
    AsyncSocksTransport,
    Proxy,
    ProxyTimeout,
    SocksTransport,
)
from socksclient.exceptions import Phase
from socksclient.testing import Faults

from helpers.hops import (
    ANYONE,
    NOBODY,
    Connect,
    MakeHops,
    connect_blocking,
)
from helpers.http_clients import nothing_left_open, saying_nothing
from helpers.origin import Origin
from helpers.support import (
    LONG,
    Address,
    eventually,
    resolver,
    silence,
)

pytest_plugins = ["helpers.hop_fixtures"]


# Long enough for some forty simultaneous connections to come to where they stall.
SECONDS = 3.0


PHASES: list[tuple[int, Phase]] = [(1, "method selection"), (3, "authentication"), (5, "request")]
"""After how many octets of a hop that asks for credentials the phases are."""


class Stall(NamedTuple):
    """A chain with a hop that stalls, and the phase in which that hop stalls."""

    schemes: tuple[str, ...]
    hop: int
    faults: Faults
    phase: Phase
    account: bool = False


STALLS = [
    *(
        Stall((scheme,) * 3, hop, Faults(stall_after=count), phase, account=True)
        for scheme in ("socks5h", "socks5h+tls")
        for hop in range(3)
        for count, phase in PHASES
    ),
    *(
        Stall((scheme,) * 2, hop, Faults(stall_after=count), "request")
        for scheme in ("socks4a", "https")
        for hop in range(2)
        for count in (0, 7)
    ),
]


class Place(NamedTuple):
    """A chain, and the hop and the phase in which a timeout passes."""

    chain: list[Proxy]
    hop: int
    phase: Phase


@pytest.fixture
def places(hops: MakeHops) -> Iterator[list[Place]]:
    with ExitStack() as stack:
        places = []
        for stall in STALLS:
            accounts = {stall.hop: {"user": "pass"}} if stall.account else {}
            made = hops(*stall.schemes, faults={stall.hop: stall.faults}, accounts=accounts)
            places.append(Place(stack.enter_context(made).proxies, stall.hop, stall.phase))
        good = stack.enter_context(hops("socks5h", "socks5h+tls")).proxies
        host, port = stack.enter_context(saying_nothing())
        silent = replace(good[1], host=host, port=port)
        unreachable = Proxy(*stack.enter_context(silence()))
        yield [
            *places,
            Place([silent, *good], 0, "tls"),
            Place([good[0], silent], 1, "tls"),
            Place([*good, silent], 2, "tls"),
            Place([unreachable, *good], 0, "connect"),
        ]


def assert_timed_out(error: object, place: Place, begin: float) -> None:
    assert 0.95 * SECONDS <= time.monotonic() - begin < LONG
    assert isinstance(error, ProxyTimeout)
    assert (error.hop, error.phase) == (place.hop, place.phase)
    assert error.proxy == place.chain[place.hop]


class TestChainDeadline:
    """All places of one test stall at the same time, so that the test takes one timeout."""

    def test_chain_deadline_in_each_phase_blocking(
        self, places: list[Place], listening: Address
    ) -> None:
        def fail(place: Place) -> None:
            begin = time.monotonic()
            with pytest.raises(ProxyTimeout) as caught:
                connect_blocking(listening, proxy=place.chain, timeout=SECONDS)
            assert_timed_out(caught.value, place, begin)
            assert caught.value.destination == listening

        with nothing_left_open(), ThreadPoolExecutor(len(places)) as threads:
            assert len(list(threads.map(fail, places))) == len(places)

    def test_chain_deadline_in_each_phase_awaited(
        self, portal: BlockingPortal, places: list[Place], listening: Address, origin: Origin
    ) -> None:
        """Use the transport: the other awaited functions take no timeout."""
        context = origin.trust()

        async def fail(place: Place) -> None:
            begin = time.monotonic()
            transport = AsyncSocksTransport(place.chain, verify=context)
            timeout = httpx.Timeout(None, connect=SECONDS)
            async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
                with pytest.raises(httpx.ConnectTimeout) as caught:
                    await client.get(f"http://127.0.0.1:{listening[1]}/")
            assert_timed_out(caught.value.__cause__, place, begin)

        with nothing_left_open():
            all_done = [portal.start_task_soon(fail, place) for place in places]
            assert [done.result() for done in all_done] == [None] * len(places)

    def test_chain_deadline_of_udp_associate(self, hops: MakeHops) -> None:
        """Each of the three control connections begins at the nearest hop."""

        def fail(case: tuple[int, int]) -> None:
            hop, before = case
            faults = {hop: [*[Faults()] * before, Faults(stall_after=3)]}
            with hops(*["socks5h"] * 3, faults=faults) as chain:
                begin = time.monotonic()
                with pytest.raises(ProxyTimeout) as caught:
                    socksclient.udp_associate(SECONDS, proxy=chain.proxies)
                assert_timed_out(caught.value, Place(chain.proxies, hop, "request"), begin)

        cases = [(hop, before) for hop in range(3) for before in range(3 - hop)]
        with nothing_left_open(), ThreadPoolExecutor(len(cases)) as threads:
            assert len(list(threads.map(fail, cases))) == 6

    @pytest.mark.parametrize("hop", [0, 1])
    def test_chain_deadline_of_resolver(self, monkeypatch: pytest.MonkeyPatch, hop: int) -> None:
        answer = threading.Event()

        def wait(_name: str) -> list[str]:
            answer.wait()
            return []

        monkeypatch.setattr(socket, "getaddrinfo", resolver(wait))
        proxies = [Proxy("192.0.2.1"), Proxy("192.0.2.2"), Proxy("192.0.2.3")]
        proxies[hop] = replace(proxies[hop], scheme="socks5")
        proxies[hop + 1] = replace(proxies[hop + 1], host="slow.test")
        with pytest.raises(ProxyTimeout) as caught:
            connect_blocking(NOBODY, proxy=proxies, timeout=0.05)
        answer.set()
        assert (caught.value.hop, caught.value.phase) == (hop, "resolve")

    def test_chain_deadline_covers_all_hops(
        self, connect: Connect, hops: MakeHops, listening: Address
    ) -> None:
        """Each hop alone answers in time, but all of them together do not."""
        faults = dict.fromkeys(range(3), Faults(drip=0.03))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            with pytest.raises(TimeoutError):
                connect(listening, proxy=chain.proxies, timeout=0.6)

    @pytest.mark.parametrize("command", ["BIND", "RESOLVE", "httpx"])
    def test_chain_deadline_covers_all_hops_for_each_command(
        self, hops: MakeHops, command: str
    ) -> None:
        faults = dict.fromkeys(range(3), Faults(drip=0.03))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            if command == "BIND":
                act: Callable[[], object] = partial(
                    socksclient.bind, ("0.0.0.0", 0), 0.6, proxy=chain.proxies
                )
            elif command == "RESOLVE":
                act = partial(socksclient.resolve, "192.0.2.1", timeout=0.6, proxy=chain.proxies)
            else:
                transport = SocksTransport(chain.proxies)
                client = httpx.Client(transport=transport, timeout=httpx.Timeout(10, connect=0.6))
                act = partial(client.get, "http://192.0.2.1/")
            with pytest.raises((ProxyTimeout, httpx.ConnectTimeout)):
                act()

    def test_chain_deadline_of_awaited_bind(self, portal: BlockingPortal, hops: MakeHops) -> None:
        async def fail() -> None:
            with pytest.raises(TimeoutError), anyio.fail_after(0.2):
                await socksclient.anyio.bind(*ANYONE, proxy=chain.proxies)

        faults = dict.fromkeys(range(3), Faults(drip=0.01))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            portal.call(fail)

    def test_chain_deadline_covers_all_associations(self, hops: MakeHops) -> None:
        """The association of the last hop alone, through the others, takes half of the timeout."""
        faults = dict.fromkeys(range(3), Faults(drip=0.02))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            with pytest.raises(ProxyTimeout):
                socksclient.udp_associate(1.1, proxy=chain.proxies)


@pytest.mark.parametrize("hop", [0, 1, 2])
@pytest.mark.parametrize("count", [0, 2, 4])
@pytest.mark.parametrize("kind", ["socks5h", "socks5h+tls"])
def test_chain_cancellation_leaves_nothing_open(
    portal: BlockingPortal, hops: MakeHops, listening: Address, kind: str, hop: int, count: int
) -> None:
    faults, accounts = {hop: Faults(stall_after=count)}, {hop: {"user": "pass"}}
    with hops(kind, kind, kind, faults=faults, accounts=accounts) as chain, nothing_left_open():
        connect = partial(socksclient.anyio.connect_tcp, *listening, proxy=chain.proxies)
        connecting = portal.start_task_soon(connect)
        seen = chain.servers[hop].connections
        assert eventually(lambda: bool(seen and seen[0].methods and len(seen[0].sent) == count))
        connecting.cancel()
        with pytest.raises(CancelledError):
            connecting.result()
