"""SOCKS4 and 4A with real proxies: Dante, OpenSSH and V2Ray."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute

import socksclient
import socksclient.anyio
from socksclient import (
    AsyncSocksTransport,
    ProtocolError,
    ProxyClosed,
    ReplyError,
    SocksTransport,
)
from socksclient.exceptions import Socks4Reply

from helpers import real_servers
from helpers.http_clients import CLIENT_HOST
from helpers.origin import Origin
from helpers.support import GREETING, LONG, REFUSED_PORT, Address, Dial, needs, receive_exactly

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

Start = Callable[[Path], AbstractContextManager[str]]

SERVERS: dict[str, Start] = {
    "dante": real_servers.dante,
    "ssh -D": real_servers.openssh,
    "v2ray": real_servers.v2ray,
}
DATA = b"there and back"


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def address(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return where the server listens, as host:port."""
    with SERVERS[server](tmp_path_factory.mktemp("server")) as url:
        yield url.removeprefix("socks5h://")


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
class TestConnect:
    def test_real_socks4_connects_to_ipv4(
        self, address: str, scheme: str, dial: Dial, greeter: Address
    ) -> None:
        with dial(greeter, proxy=f"{scheme}://{address}") as sock:
            assert_greets(sock)

    def test_real_socks4_connects_with_a_user_id(
        self, address: str, scheme: str, dial: Dial, greeter: Address
    ) -> None:
        with dial(greeter, proxy=f"{scheme}://someone@{address}") as sock:
            assert_greets(sock)

    def test_real_socks4_connects_to_a_name(
        self, server: str, address: str, scheme: str, dial: Dial, greeter: Address
    ) -> None:
        destination = ("localhost", greeter[1])
        proxy = f"{scheme}://{address}"
        # Dante does not know SOCKS4A, and takes 0.0.0.1 for an address like any other.
        if (server, scheme) == ("dante", "socks4a"):
            with pytest.raises(ReplyError, match="SOCKS4 CD 5B"):
                dial(destination, proxy=proxy)
        else:
            with dial(destination, proxy=proxy) as sock:
                assert_greets(sock)


def assert_greets(sock: socket.socket) -> None:
    """Check that the socket leads to the server that speaks first."""
    assert receive_exactly(sock, len(GREETING)) == GREETING
    sock.sendall(DATA)
    # The test does not wait for the end of the connection: V2Ray takes a second to close it.
    assert receive_exactly(sock, len(DATA)) == DATA


# V2Ray grants every request, and hangs up a second later.
@pytest.mark.parametrize("server", ["dante", "ssh -D"], indirect=True)
@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_real_socks4_reply_if_the_destination_refuses(
    server: str, address: str, scheme: str, dial: Dial
) -> None:
    destination = ("127.0.0.1", REFUSED_PORT)
    with pytest.raises((ReplyError, ProxyClosed)) as caught:
        dial(destination, proxy=f"{scheme}://{address}")
    assert caught.value.phase == "request"
    assert caught.value.destination == destination
    if server == "ssh -D":
        assert isinstance(caught.value, ProxyClosed)
    else:
        assert isinstance(caught.value, ReplyError)
        assert caught.value.reply is Socks4Reply.REJECTED_OR_FAILED


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
class TestServersWithoutSocks4:
    def test_dante_that_wants_a_login_refuses_socks4(
        self, scheme: str, dial: Dial, echo_server: Address, tmp_path: Path
    ) -> None:
        with real_servers.dante(tmp_path, accounts={"user": "pass"}) as url:
            with pytest.raises(ReplyError) as caught:
                dial(echo_server, proxy=f"{scheme}://user@{url.rpartition('@')[2]}")
        assert caught.value.reply is Socks4Reply.REJECTED_OR_FAILED

    def test_microsocks_answers_socks4_in_socks5(
        self, scheme: str, dial: Dial, echo_server: Address, tmp_path: Path
    ) -> None:
        with real_servers.microsocks(tmp_path) as url:
            with pytest.raises(ProtocolError, match="this is a SOCKS5 server") as caught:
                dial(echo_server, proxy=url.replace("socks5h", scheme))
        assert caught.value.received == b"\x05\xff"

    def test_shadowsocks_hangs_up_on_socks4(
        self, scheme: str, dial: Dial, echo_server: Address, tmp_path: Path
    ) -> None:
        with real_servers.shadowsocks(tmp_path) as url:
            with pytest.raises(ProxyClosed, match="speaks SOCKS5 but not SOCKS4") as caught:
                dial(echo_server, proxy=url.replace("socks5h", scheme))
        assert caught.value.phase == "request"


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante")) as url:
        yield url.replace("socks5h", "socks4")


class TestBindByDante:
    @pytest.mark.parametrize("expected", ["127.0.0.1", "0.0.0.0"])
    def test_dante_bind_by_socks4_blocking(self, dante: str, expected: str) -> None:
        with socksclient.bind((expected, 0), 10.0, proxy=dante) as listener:
            with socket.create_connection(listener.address, 10.0) as peer:
                sock, address = listener.accept()
                assert address == peer.getsockname()
                with sock:
                    sock.sendall(DATA)
                    assert receive_exactly(peer, len(DATA)) == DATA
                    peer.sendall(DATA)
                    assert receive_exactly(sock, len(DATA)) == DATA

    @pytest.mark.anyio
    @pytest.mark.parametrize("expected", ["127.0.0.1", "0.0.0.0"])
    async def test_dante_bind_by_socks4_awaited(self, dante: str, expected: str) -> None:
        with anyio.fail_after(LONG):
            async with await socksclient.anyio.bind(expected, 0, proxy=dante) as listener:
                async with await anyio.connect_tcp(*listener.address) as peer:
                    async with await listener.accept() as stream:
                        local_address = peer.extra(SocketAttribute.local_address)
                        assert listener.peer_address == local_address
                        await stream.send(DATA)
                        assert await peer.receive() == DATA
                        await peer.send(DATA)
                        assert await stream.receive() == DATA

    def test_dante_bind_by_socks4_turns_another_peer_away(self, dante: str) -> None:
        with socksclient.bind(("127.0.0.1", 0), 10.0, proxy=dante) as listener:
            with socket.create_connection(listener.address, 10.0, ("127.0.0.2", 0)):
                with pytest.raises(ReplyError) as caught:
                    listener.accept()
        assert caught.value.reply is Socks4Reply.REJECTED_OR_FAILED


@pytest.mark.parametrize("server", ["ssh -D", "v2ray"], indirect=True)
@pytest.mark.parametrize("scheme", ["http", "https"])
class TestHTTP:
    def test_real_socks4_http_blocking(self, address: str, origin: Origin, scheme: str) -> None:
        transport = SocksTransport(
            f"socks4a://{address}", verify=origin.trust(), local_address=CLIENT_HOST
        )
        with httpx.Client(transport=transport, timeout=LONG) as client:
            check(client.get(url_of(origin, scheme)), scheme)

    @pytest.mark.anyio
    async def test_real_socks4_http_awaited(
        self, address: str, origin: Origin, scheme: str
    ) -> None:
        transport = AsyncSocksTransport(
            f"socks4a://{address}", verify=origin.trust(), local_address=CLIENT_HOST
        )
        async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:
            with anyio.fail_after(LONG):
                response = await client.get(url_of(origin, scheme))
            check(response, scheme)


def check(response: httpx.Response, scheme: str) -> None:
    seen = response.json()
    assert seen["scheme"] == scheme
    # The request came to the origin from the proxy.
    assert seen["client"][0] != CLIENT_HOST


def url_of(origin: Origin, scheme: str) -> str:
    port = origin.https_port if scheme == "https" else origin.http_port
    return f"{scheme}://localhost:{port}/"
