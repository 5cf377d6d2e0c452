"""One deadline for all of it: no proxy and no resolver can make a caller wait longer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

import socksclient
import socksclient.anyio
from socksclient import ProxyTimeout
from socksclient.exceptions import Phase
from socksclient.testing import Faults, SocksServer

from helpers.support import LONG, Address, Dial, assert_echoes, resolver, silence

SECONDS = 1.5


@contextmanager
def ends_in_time(*phases: Phase) -> Iterator[None]:
    """Check that a timeout of `SECONDS` ends in a TimeoutError, and not earlier."""
    begin = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        yield
    assert 0.95 * SECONDS <= time.monotonic() - begin < LONG
    # The awaited functions take no timeout; their caller's own TimeoutError is anyio's.
    if isinstance(caught.value, ProxyTimeout):
        assert caught.value.phase in phases


@pytest.mark.parametrize(
    ("faults", "phase"),
    [
        (Faults(stall_after=0), "method selection"),
        (Faults(stall_after=1), "method selection"),
        (Faults(drip=0.8), "method selection"),
        (Faults(stall_after=2), "authentication"),
        (Faults(stall_after=3), "authentication"),
        (Faults(drip=0.4), "authentication"),
        (Faults(stall_after=4), "request"),
        (Faults(stall_after=5), "request"),
        (Faults(stall_after=7), "request"),
        (Faults(stall_after=13), "request"),
        (Faults(drip=0.15), "request"),
    ],
    ids=str,
)
def test_deadline_in_each_phase(
    dial: Dial, echo_server: Address, faults: Faults, phase: Phase
) -> None:
    with SocksServer(accounts={"user": "pass"}, faults=faults) as server, ends_in_time(phase):
        dial(echo_server, proxy=server.url, timeout=SECONDS)


def test_deadline_in_connect(dial: Dial) -> None:
    with silence() as (host, port), ends_in_time("connect"):
        dial(("192.0.2.1", 80), proxy=f"socks5h://{host}:{port}", timeout=SECONDS)


def test_deadline_in_connect_to_several_addresses(dial: Dial, names: dict[str, list[str]]) -> None:
    names["proxy.test"] = ["127.0.0.10", "127.0.0.11"]
    with (
        silence("127.0.0.10") as (_, port),
        silence("127.0.0.11", port),
        ends_in_time("connect"),
    ):
        dial(("192.0.2.1", 80), proxy=f"socks5h://proxy.test:{port}", timeout=SECONDS)


def test_deadline_covers_all_addresses_of_destination(
    dial: Dial, names: dict[str, list[str]]
) -> None:
    names["origin.test"] = [f"192.0.2.{n}" for n in range(1, 10)]
    # Each refusal takes a fifth of the timeout, so that there is no time for all nine addresses.
    with SocksServer(faults=Faults(drip=SECONDS / 20, reply=0x05)) as server:
        url = server.url.replace("socks5h", "socks5")
        with ends_in_time("connect", "method selection", "request"):
            dial(("origin.test", 80), proxy=url, timeout=SECONDS)
        assert 2 <= len(server.connections) < 9


@contextmanager
def resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    asked, answer = threading.Event(), threading.Event()

    def wait(_name: str) -> list[str]:
        asked.set()
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolver(wait))
    try:
        yield answer
    finally:
        assert asked.is_set()
        answer.set()


@pytest.mark.parametrize(
    ("host", "proxy"),
    [("origin.test", "socks5://127.0.0.1:1"), ("192.0.2.1", "socks5h://proxy.test:1")],
)
class TestDeadlineOfResolver:
    def test_deadline_of_resolver_blocking(
        self, monkeypatch: pytest.MonkeyPatch, host: str, proxy: str
    ) -> None:
        with resolver_that_does_not_answer(monkeypatch), ends_in_time("resolve"):
            socksclient.create_connection((host, 80), timeout=SECONDS, proxy=proxy)

    @pytest.mark.anyio
    async def test_deadline_of_resolver_awaited(
        self, monkeypatch: pytest.MonkeyPatch, host: str, proxy: str
    ) -> None:
        with resolver_that_does_not_answer(monkeypatch), ends_in_time():
            with anyio.fail_after(SECONDS):
                await socksclient.anyio.connect_tcp(host, 80, proxy=proxy)


def test_socket_keeps_timeout_of_caller(echo_server: Address) -> None:
    with SocksServer() as server:
        for timeout in (75.0, None):
            with socksclient.create_connection(echo_server, timeout, proxy=server.url) as sock:
                assert sock.gettimeout() == timeout
                assert_echoes(sock)


def test_default_timeout_of_socket(echo_server: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 65.0)
    # http.client and others hand on the default of socket.create_connection, which is no number.
    default = (socket.create_connection.__defaults__ or ())[0]
    with SocksServer() as server:
        with socksclient.create_connection(echo_server, proxy=server.url) as sock:
            assert sock.gettimeout() == 65.0
        with socksclient.create_connection(echo_server, default, proxy=server.url) as sock:
            assert sock.gettimeout() == 65.0


@pytest.mark.parametrize("timeout", [0, 0.0, -1, float("nan"), float("inf")])
def test_invalid_timeout(timeout: float) -> None:
    with SocksServer() as server:
        with pytest.raises(ValueError, match="timeout"):
            socksclient.create_connection(("127.0.0.1", 80), timeout, proxy=server.url)
        assert server.connections == []
