"""Chains of real proxies, with hops at a unix socket and behind TLS as well."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import anyio
import httpx
import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    AssociationClosed,
    AsyncSocksTransport,
    AuthenticationError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    Reply,
    ReplyError,
    SocksError,
    SocksTransport,
)
from socksclient.exceptions import HTTPReply, Phase, ReplyCode, Socks4Reply

from helpers import real_servers
from helpers.origin import Origin
from helpers.support import (
    BACKENDS,
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    needs,
    receive_exactly,
    resolved_names,
)

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

DATA = b"there and back"
DRIVERS = ["blocking", *BACKENDS]

CHAINS = {
    "unix": ["ssh at unix"],
    "tls": ["dante behind tls"],
    "https": ["tinyproxy behind tls"],
    "tinyproxy, dante": ["tinyproxy", "dante"],
    "privoxy, dante": ["privoxy", "dante with accounts"],
    "microsocks, dante": ["microsocks", "dante"],
    "dante, ssh, tinyproxy": ["dante", "ssh", "tinyproxy"],
    "dante, dante": ["dante", "dante with accounts"],
    "unix, dante": ["ssh at unix", "dante with accounts"],
    "socks4a, socks4": ["ssh by socks4a", "dante by socks4"],
    "tls, dante": ["dante behind tls", "dante with accounts"],
    "dante, tls": ["dante", "dante behind tls"],
    "unix, https": ["ssh at unix", "tinyproxy behind tls"],
}
IN_ONE = {name: names for name, names in CHAINS.items() if "tls" in name or "https" in name}
"""Chains with TLS with one hop, which one `ssl.SSLSocket` can do."""

IN_TWO = {
    "tls, tls": ["dante behind tls", "microsocks behind tls"],
    "https, tls": ["tinyproxy behind tls", "dante behind tls"],
    "tls, tinyproxy, tls": ["dante behind tls", "tinyproxy", "microsocks behind tls"],
}
"""Chains with TLS within TLS, which one `ssl.SSLSocket` cannot do."""


@dataclass(frozen=True)
class Servers:
    """The servers that run, by their names."""

    proxies: dict[str, Proxy]

    def chain(self, names: list[str]) -> list[Proxy]:
        return [self.proxies[name] for name in names]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    path = tmp_path_factory.mktemp("servers")
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    with ExitStack() as stack:
        start = stack.enter_context
        urls = {
            "dante": start(real_servers.dante(path)),
            "dante with accounts": start(real_servers.dante(path, accounts={"user": "pässword"})),
            "microsocks": start(real_servers.microsocks(path, account=("user", "pässword"))),
            "ssh": start(real_servers.openssh(path)),
            "ssh at unix": start(real_servers.openssh(path, unix=True)),
            "tinyproxy": start(real_servers.tinyproxy(path, account=("user", "pass.word"))),
            "privoxy": start(real_servers.privoxy(path)),
        }
        certificate = ca.issue_cert("127.0.0.1")
        for name in ("dante", "microsocks", "tinyproxy"):
            urls[f"{name} behind tls"] = start(real_servers.stunnel(path, urls[name], certificate))
        urls["ssh by socks4a"] = urls["ssh"].replace("socks5h", "socks4a")
        urls["dante by socks4"] = urls["dante"].replace("socks5h", "socks4")
        proxies = {name: Proxy.from_url(url) for name, url in urls.items()}
        for name, proxy in proxies.items():
            if proxy.tls:
                proxies[name] = replace(proxy, tls=context)
        yield Servers(proxies)


class Talk(Protocol):
    """A function that sends `DATA` to a server that speaks first, and returns what it receives."""

    def __call__(self, address: Address, *, proxy: socksclient.ProxyLike) -> bytes: ...


@pytest.fixture(params=DRIVERS)
def talk(request: pytest.FixtureRequest) -> Talk:
    """Run the test with every driver. Unlike `dial`, this can do TLS with the proxies."""
    if request.param == "blocking":
        return talk_blocking

    def talk(address: Address, *, proxy: socksclient.ProxyLike) -> bytes:
        async def talk() -> bytes:
            received = b""
            with anyio.fail_after(LONG):
                async with await socksclient.anyio.connect_tcp(*address, proxy=proxy) as stream:
                    await stream.send(DATA)
                    while len(received) < len(GREETING + DATA):
                        received += await stream.receive()
            return received

        return anyio.run(talk, **BACKENDS[request.param])

    return talk


def talk_blocking(address: Address, *, proxy: socksclient.ProxyLike) -> bytes:
    with socksclient.create_connection(address, 10, proxy=proxy) as sock:
        sock.sendall(DATA)
        return receive_exactly(sock, len(GREETING + DATA))


ROUTES = {
    f"{chain}-{driver}": (names, driver)
    for chain, names in (CHAINS | IN_TWO).items()
    for driver in DRIVERS
    if chain in CHAINS or driver != "blocking"
}
each_route = pytest.mark.parametrize(
    ("names", "talk"), ROUTES.values(), ids=ROUTES, indirect=["talk"]
)


class TestConnect:
    @each_route
    def test_real_chain_connects_to_an_address(
        self, servers: Servers, names: list[str], talk: Talk, greeter: Address
    ) -> None:
        assert talk(greeter, proxy=servers.chain(names)) == GREETING + DATA

    @each_route
    def test_real_chain_connects_to_a_name(
        self, servers: Servers, names: list[str], talk: Talk, greeter: Address
    ) -> None:
        destination = ("localhost", greeter[1])
        assert talk(destination, proxy=servers.chain(names)) == GREETING + DATA

    @pytest.mark.parametrize("names", IN_TWO.values(), ids=IN_TWO)
    def test_real_chain_refuses_a_blocking_socket_for_tls_in_tls(
        self, servers: Servers, names: list[str], greeter: Address
    ) -> None:
        with pytest.raises(ValueError, match="more than one proxy with TLS"):
            socksclient.create_connection(greeter, 10, proxy=servers.chain(names))

    def test_real_chain_without_tls_is_a_plain_socket(
        self, servers: Servers, greeter: Address
    ) -> None:
        chain = servers.chain(CHAINS["dante, ssh, tinyproxy"])
        with socksclient.create_connection(greeter, 10, proxy=chain) as sock:
            assert type(sock) is socket.socket
            assert sock.gettimeout() == 10


class TestMissingHop:
    """The hop before the missing one reports it, which proves that no hop is left out."""

    @each_route
    def test_real_chain_error_if_the_nearest_hop_is_missing(
        self, servers: Servers, names: list[str], talk: Talk, greeter: Address
    ) -> None:
        nearest, *others = servers.chain(names)
        if nearest.path:
            nearest = replace(nearest, path=f"{nearest.path}.nowhere")
        else:
            nearest = replace(nearest, port=REFUSED_PORT)
        with pytest.raises(ProxyConnectError) as caught:
            talk(greeter, proxy=[nearest, *others])
        assert_place(caught.value, nearest, 0, "connect")

    @each_route
    def test_real_chain_error_if_another_hop_is_missing(
        self, servers: Servers, names: list[str], talk: Talk, greeter: Address
    ) -> None:
        chain = servers.chain(names)
        for number in range(1, len(chain)):
            nowhere = replace(chain[number], port=REFUSED_PORT)
            with pytest.raises((ReplyError, ProxyClosed)) as caught:
                talk(greeter, proxy=[*chain[:number], nowhere, *chain[number + 1 :]])
            assert_refusal(caught.value, names[number - 1], chain[number - 1], number - 1)
            assert caught.value.next_hop == (nowhere.host, nowhere.port)

    @each_route
    def test_real_chain_error_if_the_destination_refuses(
        self, servers: Servers, names: list[str], talk: Talk
    ) -> None:
        chain = servers.chain(names)
        destination = ("127.0.0.1", REFUSED_PORT)
        with pytest.raises((ReplyError, ProxyClosed)) as caught:
            talk(destination, proxy=chain)
        assert_refusal(caught.value, names[-1], chain[-1], len(chain) - 1)
        assert caught.value.destination == destination


REFUSALS: dict[str, ReplyCode | None] = {
    "dante": Reply.CONNECTION_REFUSED,
    "dante with accounts": Reply.CONNECTION_REFUSED,
    "dante by socks4": Socks4Reply.REJECTED_OR_FAILED,
    "microsocks": Reply.CONNECTION_REFUSED,
    # ssh closes the connection, whatever the reason is.
    "ssh": None,
    "ssh at unix": None,
    "ssh by socks4a": None,
    "tinyproxy": HTTPReply.INTERNAL_SERVER_ERROR,
    "privoxy": HTTPReply.SERVICE_UNAVAILABLE,
}


def assert_refusal(error: SocksError, name: str, proxy: Proxy, hop: int) -> None:
    assert_place(error, proxy, hop, "request")
    reply = error.reply if isinstance(error, ReplyError) else None
    assert reply is REFUSALS[name.removesuffix(" behind tls")]


def assert_place(error: SocksError, proxy: Proxy, hop: int, phase: Phase) -> None:
    assert (error.proxy, error.hop, error.phase) == (proxy, hop, phase)


@each_route
def test_real_chain_error_names_the_hop_with_wrong_credentials(
    servers: Servers, names: list[str], talk: Talk, greeter: Address
) -> None:
    chain = servers.chain(names)
    for number, hop in enumerate(chain):
        if hop.username is not None:
            wrong = replace(hop, password="wrong")
            with pytest.raises(AuthenticationError) as caught:
                talk(greeter, proxy=[*chain[:number], wrong, *chain[number + 1 :]])
            assert (caught.value.proxy, caught.value.hop) == (wrong, number)


class TestTLS:
    @pytest.mark.parametrize("names", IN_ONE.values(), ids=IN_ONE)
    def test_real_chain_with_tls_is_an_ssl_socket(
        self, servers: Servers, names: list[str], greeter: Address
    ) -> None:
        with socksclient.create_connection(greeter, 10, proxy=servers.chain(names)) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.gettimeout() == 10
            assert receive_exactly(sock, len(GREETING)) == GREETING

    @pytest.mark.anyio
    @pytest.mark.parametrize("names", (IN_ONE | IN_TWO).values(), ids=IN_ONE | IN_TWO)
    async def test_real_chain_with_tls_is_a_tls_stream(
        self, servers: Servers, names: list[str], greeter: Address
    ) -> None:
        with anyio.fail_after(LONG):
            proxy = servers.chain(names)
            async with await socksclient.anyio.connect_tcp(*greeter, proxy=proxy) as stream:
                assert isinstance(stream, TLSStream)
                assert await stream.receive() == GREETING

    @pytest.mark.parametrize("before", [[], ["ssh at unix"], ["tinyproxy", "microsocks"]], ids=str)
    class TestTLSFailures:
        @pytest.mark.parametrize("hop", ["dante behind tls", "tinyproxy behind tls"])
        def test_real_chain_tls_fails_if_the_certificate_is_not_trusted(
            self, servers: Servers, before: list[str], hop: str, talk: Talk, greeter: Address
        ) -> None:
            stranger = replace(servers.proxies[hop], tls=True)
            with pytest.raises(ProxyConnectError, match="certificate verify failed") as caught:
                talk(greeter, proxy=[*servers.chain(before), stranger])
            assert_place(caught.value, stranger, len(before), "tls")

        def test_real_chain_tls_fails_if_the_certificate_has_another_name(
            self, servers: Servers, before: list[str], talk: Talk, greeter: Address
        ) -> None:
            other = replace(servers.proxies["dante behind tls"], host="localhost")
            with pytest.raises(ProxyConnectError, match="not valid for 'localhost'") as caught:
                talk(greeter, proxy=[*servers.chain(before), other])
            assert_place(caught.value, other, len(before), "tls")

        def test_real_chain_tls_fails_if_the_proxy_does_not_speak_tls(
            self, servers: Servers, before: list[str], talk: Talk, greeter: Address
        ) -> None:
            context = servers.proxies["dante behind tls"].tls
            plain = replace(servers.proxies["dante"], tls=context)
            with pytest.raises(ProxyConnectError, match="TLS with the proxy failed") as caught:
                talk(greeter, proxy=[*servers.chain(before), plain])
            assert_place(caught.value, plain, len(before), "tls")


@pytest.mark.parametrize("names", (CHAINS | IN_TWO).values(), ids=CHAINS | IN_TWO)
class TestHTTPS:
    def test_real_chain_https_blocking(
        self, servers: Servers, names: list[str], origin: Origin
    ) -> None:
        transport = SocksTransport(servers.chain(names), verify=origin.trust(), http2=True)
        with httpx.Client(transport=transport, timeout=LONG) as client:
            check(client.get(f"https://localhost:{origin.https_port}/"))

    @pytest.mark.anyio
    async def test_real_chain_https_awaited(
        self, servers: Servers, names: list[str], origin: Origin
    ) -> None:
        transport = AsyncSocksTransport(servers.chain(names), verify=origin.trust(), http2=True)
        async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:
            with anyio.fail_after(LONG):
                check(await client.get(f"https://localhost:{origin.https_port}/"))


def check(response: httpx.Response) -> None:
    assert response.json()["scheme"] == "https"
    assert response.http_version == "HTTP/2"


BIND = {name: CHAINS[name] for name in ("dante, dante", "tinyproxy, dante", "unix, dante", "tls")}


@pytest.mark.parametrize("names", BIND.values(), ids=BIND)
class TestBind:
    def test_real_chain_bind_blocking(self, servers: Servers, names: list[str]) -> None:
        proxy = servers.chain(names)
        with socksclient.bind(("127.0.0.1", 0), 10.0, proxy=proxy) as listener:
            with socket.create_connection(listener.address, 10.0) as peer:
                sock, address = listener.accept()
                assert address == peer.getsockname()
                with sock:
                    sock.sendall(DATA)
                    assert receive_exactly(peer, len(DATA)) == DATA
                    peer.sendall(DATA)
                    assert receive_exactly(sock, len(DATA)) == DATA

    @pytest.mark.anyio
    async def test_real_chain_bind_awaited(self, servers: Servers, names: list[str]) -> None:
        proxy = servers.chain(names)
        with anyio.fail_after(LONG):
            async with await socksclient.anyio.bind("127.0.0.1", 0, proxy=proxy) as listener:
                async with await anyio.connect_tcp(*listener.address) as peer:
                    async with await listener.accept() as stream:
                        local_address = peer.extra(SocketAttribute.local_address)
                        assert listener.peer_address == local_address
                        await stream.send(DATA)
                        assert await peer.receive() == DATA
                        await peer.send(DATA)
                        assert await stream.receive() == DATA


MAX_PAYLOAD = 65507 - 2 * 10
"""The most octets of a datagram, which has one more header for each of the two relays."""


class TestUDP:
    NAMES = CHAINS["dante, dante"]

    def test_real_chain_udp_blocking(self, servers: Servers, udp_echo: Address) -> None:
        proxy = servers.chain(self.NAMES)
        with socksclient.udp_associate(10.0, proxy=proxy) as udp:
            for data in (DATA, b"", bytes(MAX_PAYLOAD)):
                udp.sendto(data, udp_echo)
                assert udp.recvfrom() == (data, udp_echo)
            with pytest.raises(OSError, match="Message too long"):
                udp.sendto(bytes(MAX_PAYLOAD + 1), udp_echo)

    @pytest.mark.anyio
    async def test_real_chain_udp_awaited(self, servers: Servers, udp_echo: Address) -> None:
        proxy = servers.chain(self.NAMES)
        with anyio.fail_after(LONG):
            async with await socksclient.anyio.udp_associate(proxy=proxy) as udp:
                for data in (DATA, b"", bytes(MAX_PAYLOAD)):
                    await udp.sendto(data, *udp_echo)
                    assert await udp.receive() == (data, udp_echo)
                with pytest.raises(OSError, match="Message too long"):
                    await udp.sendto(bytes(MAX_PAYLOAD + 1), *udp_echo)

    def test_real_chain_udp_sends_a_name_to_the_last_hop(
        self, servers: Servers, udp_echo: Address
    ) -> None:
        with resolved_names() as resolved:
            with socksclient.udp_associate(10.0, proxy=servers.chain(self.NAMES)) as udp:
                udp.sendto(DATA, ("localhost", udp_echo[1]))
                assert udp.recvfrom() == (DATA, udp_echo)
        assert "localhost" not in resolved

    @pytest.mark.parametrize(
        ("names", "hop"), [(["microsocks", "dante"], 0), (["dante", "microsocks"], 1)], ids=str
    )
    def test_real_chain_udp_error_names_the_hop_without_udp(
        self, servers: Servers, names: list[str], hop: int
    ) -> None:
        chain = servers.chain(names)
        with pytest.raises(ReplyError, match="does not offer UDP ASSOCIATE") as caught:
            socksclient.udp_associate(10.0, proxy=chain)
        assert_place(caught.value, chain[hop], hop, "request")

    @pytest.mark.parametrize("ended", [0, 1])
    def test_real_chain_udp_ends_with_either_hop(
        self, ended: int, udp_echo: Address, tmp_path: Path
    ) -> None:
        with ExitStack() as nearest, ExitStack() as last:
            chain = [stack.enter_context(real_servers.dante(tmp_path)) for stack in (nearest, last)]
            with socksclient.udp_associate(10.0, proxy=chain) as udp:
                udp.sendto(DATA, udp_echo)
                assert udp.recvfrom() == (DATA, udp_echo)
                (nearest, last)[ended].close()
                with pytest.raises(AssociationClosed) as caught:
                    udp.recvfrom()
        # The connection to the last hop goes through the nearest hop, and ends with it.
        assert caught.value.hop in ((0, 1), (1,))[ended]
