from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings

import socksclient
import socksclient.anyio
from socksclient import ProxyLike

from helpers.origin import Origin
from helpers.support import (
    BACKENDS,
    LONG,
    Address,
    Dial,
    PlayedProxy,
    echo,
    echoing_datagrams,
    greet,
    resolver,
    serving,
)
from helpers.tor_network import Plugin, TorNetwork

# Hypothesis must not fail a test for being slow: the machine may be busy with other things.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets a command in the background ignore SIGINT, and the programs that the tests start
    # and interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Plugin(config), "tor_network")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    # The tests wait as long as they compute: for deadlines, and for the other side.
    return 2 * (os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    # The thousands of tests stay for the whole run, and a test that collects garbage need not go
    # through them. Hypothesis must be imported before this, because it looks for objects that refer
    # to trio's Random.
    gc.collect()
    gc.freeze()


@pytest.fixture(params=list(BACKENDS))
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run a test that is marked `anyio` on every event loop."""
    options = BACKENDS[request.param]
    return options["backend"], options.get("backend_options", {})


@pytest.fixture(params=["blocking", *BACKENDS])
def dial(request: pytest.FixtureRequest) -> Dial:
    """Run the test with every driver. When `timeout` passes, every driver raises a TimeoutError."""
    if request.param == "blocking":
        return blocking_dial

    def dial(address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> socket.socket:
        async def connect() -> socket.socket:
            with anyio.fail_after(timeout):
                return await socksclient.anyio.connect_socket(*address, proxy=proxy)

        sock = anyio.run(connect, **BACKENDS[request.param])
        assert sock.gettimeout() == 0.0
        sock.settimeout(timeout)
        return sock

    return dial


def blocking_dial(address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> socket.socket:
    sock = socksclient.create_connection(address, timeout, proxy=proxy)
    assert sock.gettimeout() == timeout
    return sock


@pytest.fixture(scope="session")
def echo_server() -> Iterator[Address]:
    with serving(echo) as address:
        yield address


@pytest.fixture(scope="session")
def echo_server_6() -> Iterator[Address]:
    with serving(echo, "::1") as address:
        yield address


@pytest.fixture(scope="session")
def greeter() -> Iterator[Address]:
    with serving(greet) as address:
        yield address


@pytest.fixture(scope="session")
def udp_echo() -> Iterator[Address]:
    with echoing_datagrams() as address:
        yield address


@pytest.fixture(scope="session")
def udp_echo_6() -> Iterator[Address]:
    with echoing_datagrams("::1") as address:
        yield address


@pytest.fixture
def played() -> Iterator[PlayedProxy]:
    with PlayedProxy() as played:
        yield played


@pytest.fixture(params=["epoll", "selectors"])
def poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on this system with epoll, and as on a system without it."""
    if request.param == "selectors":
        # The library looks for epoll in the module `select`, which the event loops here need too.
        monkeypatch.setattr("socksclient._net.association.select", SimpleNamespace())
    return str(request.param)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Let this process resolve only the names that the test adds, to their addresses."""
    known: dict[str, list[str]] = {}
    monkeypatch.setattr(socket, "getaddrinfo", resolver(lambda name: known.get(name, [])))
    return known


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="session")
def tor(pytestconfig: pytest.Config) -> TorNetwork:
    """Return the Tor network of the whole run, which is for servers/test_tor*.py only."""
    plugin = pytestconfig.pluginmanager.get_plugin("tor_network")
    assert isinstance(plugin, Plugin)
    return plugin.wait()
