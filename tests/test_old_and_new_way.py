"""The generator `tunnel` comes to the same end as the code before it (`old_way`), case by case.

Both connect through the same kind of proxy, with the same fault, to the same target. Success, or
the class, the text, all attributes, the notes and the cause's class of the error must be equal.
No descriptor must stay open. The stalls end by the deadline, or by a cancellation from outside.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import pytest
from old_way.anyio_driver import open_stream as old_open_stream
from old_way.anyio_driver import open_tunnel as old_open_tunnel_awaited
from old_way.net_attempt import Attempt
from old_way.sync_driver import open_tunnel as old_open_tunnel

from socksclient import Proxy, SocksError
from socksclient._anyio import driver as anyio_driver
from socksclient._sync import driver
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.route import Route
from socksclient.protocol.socks5 import Command
from socksclient.testing import Faults, SocksServer

from hop_fixtures import authority  # noqa: F401 - a fixture
from hops import Authority
from support import REFUSED_PORT, Address, nothing_left_open

SCHEMES = ("socks5h", "socks5", "socks4a", "socks4", "http")
FAULTS = [
    (),
    Faults(reply=5),
    Faults(reply=2),
    Faults(reply=7),
    Faults(stall_after=2),
    Faults(stall_after=0),
    Faults(close_after=3),
    Faults(close_after=0),
    Faults(reset_after=2),
    Faults(method=0xFF),
    Faults(status=1),
    Faults(answers={"request": b"\x05\x00\x00\x09\x00"}),
    Faults(split=True),
]
Chain = tuple[Proxy, ...]
Way = Callable[[Chain, Address, Command, float], object]


def old_blocking(chain: Chain, target: Address, command: Command, timeout: float) -> object:
    channel, bound = old_open_tunnel(Attempt(chain, *target, command), Deadline(timeout))
    channel.close()
    return type(channel).__name__, bound[0]


def new_blocking(chain: Chain, target: Address, command: Command, timeout: float) -> object:
    route = Route.through(chain, *target, command)
    channel, grant = driver.open_tunnel(route, Deadline(timeout))
    channel.close()
    return type(channel).__name__, grant.bound_address[0]


async def old_way_awaited(
    chain: Chain, target: Address, command: Command, timeout: float
) -> object:
    attempt = Attempt(chain, *target, command)
    with attempt, anyio.fail_after(timeout):
        channel, bound = await old_open_tunnel_awaited(attempt)
    await anyio_driver.close(channel)
    return type(channel).__name__, bound[0]


async def new_way_awaited(
    chain: Chain, target: Address, command: Command, timeout: float
) -> object:
    route = Route.through(chain, *target, command)
    channel, grant = await anyio_driver.open_tunnel(route, timeout=timeout)
    await anyio_driver.close(channel)
    return type(channel).__name__, grant.bound_address[0]


async def old_way_cancelled(
    chain: Chain, target: Address, command: Command, timeout: float
) -> object:
    with anyio.move_on_after(timeout) as scope:
        stream = await old_open_stream(Attempt(chain, *target, command))
        await anyio_driver.close(stream)
        return type(stream).__name__
    return scope.cancelled_caught


async def new_way_cancelled(
    chain: Chain, target: Address, command: Command, timeout: float
) -> object:
    with anyio.move_on_after(timeout) as scope:
        stream, _ = await anyio_driver.open_stream(Route.through(chain, *target, command))
        await anyio_driver.close(stream)
        return type(stream).__name__
    return scope.cancelled_caught


def awaited(function: Callable[..., Any], backend: str) -> Way:
    return lambda *arguments: anyio.run(partial(function, *arguments), backend=backend)


WAYS: dict[str, tuple[Way, Way]] = {
    "blocking": (old_blocking, new_blocking),
    **{
        backend: (awaited(old_way_awaited, backend), awaited(new_way_awaited, backend))
        for backend in ("asyncio", "trio")
    },
    "cancelled-asyncio": (
        awaited(old_way_cancelled, "asyncio"),
        awaited(new_way_cancelled, "asyncio"),
    ),
    "cancelled-trio": (awaited(old_way_cancelled, "trio"), awaited(new_way_cancelled, "trio")),
}


def end_of(way: Way, servers: Sequence[SocksServer], *arguments: Any) -> str:
    """How it ended, with the ports of the proxies replaced by their positions in the chain."""
    try:
        end = repr(way(*arguments))
    except SocksError as error:
        state = {name: value for name, value in vars(error).items() if name != "proxy"}
        if "received" in state:
            # What follows may be part of a port.
            state["received"] = (state["received"][:2], len(state["received"]))
            state.pop("_arguments", None)
        place = error.proxy and error.proxy.place
        end = repr((type(error), str(error), error.errno, place, state, type(error.__cause__)))
    except (OSError, ValueError) as error:
        end = repr((type(error), str(error)))
    for number, server in enumerate(servers):
        end = re.sub(rf"\b{server.address[1]}\b", f"<port {number}>", end)
    return end


@pytest.fixture
def targets(names: dict[str, list[str]], echo_server: Address) -> list[Address]:
    names["three.test"] = ["127.0.0.77", "127.0.0.78", "127.0.0.1"]
    names["none.test"] = []
    names["six.test"] = ["::1", "127.0.0.1"]
    names["proxy.test"] = ["127.0.0.79", "127.0.0.1"]
    port = echo_server[1]
    return [
        echo_server,
        ("127.0.0.1", REFUSED_PORT),
        ("three.test", port),
        ("six.test", port),
        ("none.test", 80),
        ("nowhere.invalid", 80),
    ]


def compare(
    ways: tuple[Way, Way],
    schemes: Sequence[str],
    faults: Sequence[Any],
    cases: Sequence[tuple[Address, Command]],
    routes: dict[Address, Address],
    tls: Sequence[tuple[ssl.SSLContext, ssl.SSLContext] | None] = (),
    host: str | None = None,
) -> None:
    stalls = any(fault != () and fault.stall_after is not None for fault in faults)
    timeout = 0.5 if stalls else 20.0
    differing = []
    for target, command in cases:
        ends = []
        for way in ways:
            contexts = [*tls, *[None] * (len(schemes) - len(tls))]
            servers = [
                SocksServer(
                    accounts={"user": "pass"},
                    faults=fault,
                    routes=routes,
                    tls=context and context[0],
                )
                for fault, context in zip(faults, contexts, strict=True)
            ]
            try:
                for server in servers:
                    server.__enter__()
                chain = tuple(
                    Proxy.from_url(server.url_as(scheme), tls=context and context[1])
                    for server, scheme, context in zip(servers, schemes, contexts, strict=True)
                )
                if host is not None:
                    chain = (Proxy(host, chain[0].port, scheme=chain[0].scheme), *chain[1:])
                with nothing_left_open():
                    ends.append(end_of(way, servers, chain, target, command, timeout))
            finally:
                for server in servers:
                    server.__exit__(None, None, None)
        if ends[0] != ends[1]:
            differing.append((target, command, *ends))
    assert differing == []


@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_one_proxy(ways: tuple[Way, Way], scheme: str, fault: Any, targets: list[Address]) -> None:
    if scheme == "http" and isinstance(fault, Faults) and fault.reply:
        fault = Faults(reply=502)
    routes = {(host, targets[0][1]): targets[0] for host in ("three.test", "six.test", "::1")}
    compare(ways, [scheme], [fault], [(target, Command.CONNECT) for target in targets], routes)


@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("first", ["socks5h", "socks5", "socks4", "http"])
@pytest.mark.parametrize("second", ["socks5h", "socks5", "http"])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    "fault", [(), Faults(reply=5), Faults(close_after=2), Faults(stall_after=0)], ids=str
)
def test_chains_of_two(
    ways: tuple[Way, Way], first: str, second: str, at: int, fault: Any, targets: list[Address]
) -> None:
    if "http" in (first, second) and isinstance(fault, Faults) and fault.reply:
        fault = Faults(reply=502)
    faults = [fault, ()] if at == 0 else [(), fault]
    compare(ways, [first, second], faults, [(t, Command.CONNECT) for t in targets[:4]], {})


@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4"])
@pytest.mark.parametrize(
    "fault", [(), Faults(reply=1), Faults(reply=7), Faults(close_after=2)], ids=str
)
@pytest.mark.parametrize("hops", [1, 2])
def test_the_other_commands(
    ways: tuple[Way, Way], scheme: str, fault: Any, hops: int, targets: list[Address]
) -> None:
    commands = (Command.BIND, Command.UDP_ASSOCIATE, Command.RESOLVE, Command.RESOLVE_PTR)
    cases = [(("127.0.0.1", 0), command) for command in commands]
    cases += [(("0.0.0.0", 0), Command.UDP_ASSOCIATE), (targets[2], Command.BIND)]
    compare(ways, [scheme] * hops, [()] * (hops - 1) + [fault], cases, {})


@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("case", ["good", "good-twice", "unknown", "no TLS", "stall", "refused"])
def test_tls_with_the_proxy(
    ways: tuple[Way, Way],
    case: str,
    targets: list[Address],
    authority: Authority,  # noqa: F811
) -> None:
    good = authority.server(), authority.client()
    tls: list[Any] = [good]
    schemes = ["socks5h"]
    faults: list[Any] = [()]
    if case == "good-twice":
        schemes, faults, tls = ["socks5h", "socks5"], [(), ()], [good, good]
    if case == "unknown":
        tls = [(authority.server(), Authority().client())]
    if case == "no TLS":
        tls = [(None, authority.client())]
    if case == "stall":
        faults = [Faults(stall_after=0)]
    if case == "refused":
        faults = [Faults(reply=5)]
    cases = [(target, Command.CONNECT) for target in targets[:3]]
    compare(ways, schemes, faults, cases, {}, tls)


@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("host", ["proxy.test", "none.test", "nowhere.invalid", "127.0.0.79"])
@pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
def test_the_name_of_the_proxy(
    ways: tuple[Way, Way], host: str, scheme: str, targets: list[Address]
) -> None:
    cases = [(target, Command.CONNECT) for target in targets[:3]]
    compare(ways, [scheme], [()], cases, {}, host=host)
