"""Connections through Tor: a whole network of it on loopback, which `tor_network` runs."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import socksclient
import socksclient.anyio
from socksclient import (
    AsyncSocksTransport,
    AuthenticationError,
    HTTPReply,
    Proxy,
    Reply,
    ReplyError,
    Socks4Reply,
    SocksTransport,
)

from helpers import real_servers, tor_network
from helpers.http_clients import Pair
from helpers.origin import Origin
from helpers.support import (
    GREETING,
    LONG,
    Address,
    Dial,
    assert_echoes,
    echo,
    eventually,
    needs,
    receive_exactly,
    resolved_names,
    serving,
)
from helpers.tor_network import WELCOME, TorNetwork

pytest_plugins = ["helpers.http_fixtures"]

MISSING = [*tor_network.missing(), *real_servers.missing(["danted"])]
pytestmark = [
    needs(MISSING),
    # The first test of each worker may have to wait for the network of Tor.
    pytest.mark.timeout(600),
]

# Twice the time in which Tor must build a circuit.
TIMEOUT = 120.0


def url(port: int, scheme: str = "socks5h") -> str:
    return f"{scheme}://127.0.0.1:{port}"


@pytest.fixture(params=["socks5h", "socks4a", "http"])
def proxy(request: pytest.FixtureRequest, tor: TorNetwork) -> str:
    """Return the URL of Tor under each scheme with which Tor resolves names."""
    scheme = request.param
    return url(tor.http_port if scheme == "http" else tor.socks_port, scheme)


def command(tor: TorNetwork, line: str) -> str:
    """Send a command to Tor's control port, and return the answer."""
    with socket.create_connection(("127.0.0.1", tor.control_port), timeout=10) as sock:
        sock.sendall(f"AUTHENTICATE\r\n{line}\r\nQUIT\r\n".encode())
        with sock.makefile(newline="\r\n") as answers:
            authenticated, answer = answers.readline(), answers.read()
    assert (authenticated[:3], answer[:2]) == ("250", "25"), answer
    return answer


def streams_to(tor: TorNetwork, port: int) -> list[tuple[str, list[str]]]:
    """Return the circuit's number and the relays of each open stream to a port, oldest first."""
    streams, circuits = (
        [line.split() for line in part.splitlines()]
        for part in command(tor, "GETINFO stream-status circuit-status").split("circuit-status=")
    )
    relays = {words[0]: words[2].split(",") for words in circuits if words[1:2] == ["BUILT"]}
    return [
        (words[2], relays[words[2]])
        for words in streams
        if words[1:2] == ["SUCCEEDED"] and words[3].endswith(f":{port}")
    ]


def assert_three_hops(tor: TorNetwork, port: int) -> None:
    """Check that there is a stream to the port, and that each takes three relays."""
    streams = streams_to(tor, port)
    assert streams
    for _, relays in streams:
        assert len(set(relays)) == 3


@pytest.mark.parametrize("scheme", ["http", "https"])
class TestHTTP:
    def test_tor_http_blocking(
        self, pair: Pair, tor: TorNetwork, proxy: str, origin: Origin, scheme: str
    ) -> None:
        port = origin.https_port if scheme == "https" else origin.http_port
        with resolved_names() as resolved:
            with pair.client(proxy, verify=origin.trust()) as client:
                response = client.get(f"{scheme}://origin.test:{port}/", timeout=TIMEOUT)
                # The pool keeps the connection, so Tor still has the stream.
                assert_three_hops(tor, port)
        assert response.status_code == 200
        assert "origin.test" not in resolved

    @pytest.mark.anyio
    async def test_tor_http_awaited(
        self, pair: Pair, tor: TorNetwork, proxy: str, origin: Origin, scheme: str
    ) -> None:
        port = origin.https_port if scheme == "https" else origin.http_port
        with resolved_names() as resolved:
            async with pair.async_client(proxy, verify=origin.trust()) as client:
                response = await client.get(f"{scheme}://origin.test:{port}/", timeout=TIMEOUT)
                await anyio.to_thread.run_sync(assert_three_hops, tor, port)
        assert response.status_code == 200
        assert "origin.test" not in resolved


class TestConnect:
    def test_tor_connects_to_a_name(self, proxy: str, dial: Dial, echo_server: Address) -> None:
        with dial(("loopback.test", echo_server[1]), proxy=proxy, timeout=TIMEOUT) as sock:
            assert_echoes(sock)

    def test_tor_connects_to_ipv4(self, proxy: str, dial: Dial, echo_server: Address) -> None:
        with dial(echo_server, proxy=proxy, timeout=TIMEOUT) as sock:
            assert_echoes(sock)

    @pytest.mark.parametrize("host", ["::1", "loopback6.test"])
    def test_tor_connects_to_ipv6(
        self, tor: TorNetwork, dial: Dial, echo_server_6: Address, host: str
    ) -> None:
        _, port = echo_server_6
        with dial((host, port), proxy=url(tor.socks_port), timeout=TIMEOUT) as sock:
            assert_echoes(sock)

    def test_tor_loses_no_octet_behind_its_reply(
        self, tor: TorNetwork, dial: Dial, greeter: Address
    ) -> None:
        with dial(greeter, proxy=url(tor.socks_port), timeout=TIMEOUT) as sock:
            assert receive_exactly(sock, len(GREETING)) == GREETING

    def test_tor_reply_if_a_name_does_not_exist(self, proxy: str, dial: Dial) -> None:
        with pytest.raises(ReplyError) as caught:
            dial(("nowhere.test", 80), proxy=proxy, timeout=TIMEOUT)
        assert caught.value.reply in (
            Reply.HOST_UNREACHABLE,
            Socks4Reply.REJECTED_OR_FAILED,
            HTTPReply.SERVICE_UNAVAILABLE,
        )

    def test_tor_http_port_tells_why(self, tor: TorNetwork, dial: Dial) -> None:
        text = r"\(HTTP 503\), and says: Service Unavailable \(resolve failed\)"
        with pytest.raises(ReplyError, match=text) as caught:
            dial(("nowhere.test", 80), proxy=url(tor.http_port, "http"), timeout=TIMEOUT)
        assert caught.value.reason == "Service Unavailable (resolve failed)"
        assert dict(caught.value.fields)["tor-request-failed"] == "end/RESOLVEFAILED"


class TestUnixSocket:
    def test_tor_unix_socket_by_its_path(
        self, tor: TorNetwork, dial: Dial, echo_server: Address
    ) -> None:
        with dial(echo_server, proxy=Proxy(path=tor.unix_path), timeout=TIMEOUT) as sock:
            assert_echoes(sock)

    def test_tor_unix_socket_by_a_url(
        self, tor: TorNetwork, dial: Dial, echo_server: Address
    ) -> None:
        with resolved_names() as resolved:
            proxy = f"socks5h://localhost{tor.unix_path}"
            with dial(("loopback.test", echo_server[1]), proxy=proxy, timeout=TIMEOUT) as sock:
                assert_echoes(sock)
        assert resolved == []

    def test_tor_unix_socket_refusal(self, tor: TorNetwork, dial: Dial) -> None:
        # Tor's refusals always have an IPv6 address as their bound address.
        with pytest.raises(ReplyError) as caught:
            dial(("nowhere.test", 80), proxy=Proxy(path=tor.unix_path), timeout=TIMEOUT)
        assert caught.value.reply == Reply.HOST_UNREACHABLE


class TestIsolation:
    @pytest.fixture
    def destination(self) -> Iterator[Address]:
        """Yield a destination of this test alone, which has all streams to its port."""
        with serving(echo) as (_, port):
            yield "loopback.test", port

    def test_tor_isolated_proxies_have_circuits_of_their_own(
        self, tor: TorNetwork, proxy: str, dial: Dial, destination: Address
    ) -> None:
        shared = Proxy.from_url(proxy)
        with (
            dial(destination, proxy=shared, timeout=TIMEOUT) as first,
            dial(destination, proxy=shared.isolated(), timeout=TIMEOUT) as second,
            dial(destination, proxy=shared.isolated(), timeout=TIMEOUT) as third,
        ):
            circuits = [circuit for circuit, _ in streams_to(tor, destination[1])]
            for sock in (first, second, third):
                assert_echoes(sock)
        assert len(circuits) == 3
        assert len(set(circuits)) == 3

    def test_tor_isolation_at_a_unix_socket(
        self, tor: TorNetwork, dial: Dial, destination: Address
    ) -> None:
        shared = Proxy(path=tor.unix_path)
        with (
            dial(destination, proxy=shared.isolated("a"), timeout=TIMEOUT) as first,
            dial(destination, proxy=shared.isolated("b"), timeout=TIMEOUT) as second,
        ):
            circuits = [circuit for circuit, _ in streams_to(tor, destination[1])]
            for sock in (first, second):
                assert_echoes(sock)
        assert len(set(circuits)) == 2

    def test_tor_isolated_proxies_with_one_token_share_a_circuit(
        self, tor: TorNetwork, proxy: str, dial: Dial, destination: Address
    ) -> None:
        token = secrets.token_hex()
        first_proxy, second_proxy = (Proxy.from_url(proxy).isolated(token) for _ in range(2))
        with (
            dial(destination, proxy=first_proxy, timeout=TIMEOUT) as first,
            dial(destination, proxy=second_proxy, timeout=TIMEOUT) as second,
        ):
            circuits = [circuit for circuit, _ in streams_to(tor, destination[1])]
            for sock in (first, second):
                assert_echoes(sock)
        assert len(circuits) == 2
        assert len(set(circuits)) == 1


NAMES = [
    ("a.test", "192.0.2.1"),
    ("aaaa.test", "2001:db8::1"),
    ("192.0.2.7", "192.0.2.7"),
]
ADDRESSES = [("192.0.2.1", "a.test"), ("2001:db8::1", "aaaa.test")]


class TestResolve:
    @pytest.mark.parametrize(("name", "address"), NAMES)
    def test_tor_resolve_blocking(self, tor: TorNetwork, name: str, address: str) -> None:
        with resolved_names() as resolved:
            answer = socksclient.resolve(name, timeout=TIMEOUT, proxy=url(tor.socks_port))
        assert answer == address
        assert name not in resolved

    @pytest.mark.anyio
    @pytest.mark.parametrize(("name", "address"), NAMES)
    async def test_tor_resolve_awaited(self, tor: TorNetwork, name: str, address: str) -> None:
        with resolved_names() as resolved, anyio.fail_after(TIMEOUT):
            answer = await socksclient.anyio.resolve(name, proxy=url(tor.socks_port))
        assert answer == address
        assert name not in resolved

    @pytest.mark.parametrize(("address", "name"), ADDRESSES)
    def test_tor_resolve_ptr_blocking(self, tor: TorNetwork, address: str, name: str) -> None:
        proxy = url(tor.socks_port)
        assert socksclient.resolve_ptr(address, timeout=TIMEOUT, proxy=proxy) == name

    @pytest.mark.anyio
    @pytest.mark.parametrize(("address", "name"), ADDRESSES)
    async def test_tor_resolve_ptr_awaited(self, tor: TorNetwork, address: str, name: str) -> None:
        with anyio.fail_after(TIMEOUT):
            answer = await socksclient.anyio.resolve_ptr(address, proxy=url(tor.socks_port))
        assert answer == name

    def test_tor_resolve_by_socks4a(self, tor: TorNetwork) -> None:
        proxy = url(tor.socks_port, "socks4a")
        assert socksclient.resolve("a.test", timeout=TIMEOUT, proxy=proxy) == "192.0.2.1"

    def test_tor_resolve_at_a_unix_socket(self, tor: TorNetwork) -> None:
        proxy = Proxy(path=tor.unix_path)
        assert socksclient.resolve("a.test", timeout=TIMEOUT, proxy=proxy) == "192.0.2.1"
        assert socksclient.resolve_ptr("192.0.2.1", timeout=TIMEOUT, proxy=proxy) == "a.test"

    def test_tor_resolve_of_an_unknown_name_blocking(self, tor: TorNetwork) -> None:
        proxy = url(tor.socks_port)
        with pytest.raises(ReplyError) as caught:
            socksclient.resolve("nowhere.test", timeout=TIMEOUT, proxy=proxy)
        assert caught.value.reply == Reply.HOST_UNREACHABLE
        with pytest.raises(ReplyError) as caught:
            socksclient.resolve_ptr("192.0.2.99", timeout=TIMEOUT, proxy=proxy)
        assert caught.value.reply == Reply.HOST_UNREACHABLE

    @pytest.mark.anyio
    async def test_tor_resolve_of_an_unknown_name_awaited(self, tor: TorNetwork) -> None:
        proxy = url(tor.socks_port)
        with anyio.fail_after(TIMEOUT):
            with pytest.raises(ReplyError) as caught:
                await socksclient.anyio.resolve("nowhere.test", proxy=proxy)
            assert caught.value.reply == Reply.HOST_UNREACHABLE
            with pytest.raises(ReplyError) as caught:
                await socksclient.anyio.resolve_ptr("192.0.2.99", proxy=proxy)
            assert caught.value.reply == Reply.HOST_UNREACHABLE


def unknown_onion() -> str:
    """Return the name of an onion service that does not exist (Tor's rend-spec-v3 §6)."""
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    checksum = hashlib.sha3_256(b".onion checksum" + key + b"\x03").digest()[:2]
    return base64.b32encode(key + checksum + b"\x03").decode().lower() + ".onion"


class TestOnionServices:
    def test_tor_onion_service_blocking(self, tor: TorNetwork, proxy: str) -> None:
        with resolved_names() as resolved:
            with httpx.Client(transport=SocksTransport(proxy), timeout=TIMEOUT) as client:
                assert client.get(f"http://{tor.onion}/").content == WELCOME
        assert tor.onion not in resolved

    @pytest.mark.anyio
    async def test_tor_onion_service_awaited(self, tor: TorNetwork, proxy: str) -> None:
        transport = AsyncSocksTransport(proxy)
        with resolved_names() as resolved:
            async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
                assert (await client.get(f"http://{tor.onion}/")).content == WELCOME
        assert tor.onion not in resolved

    def test_tor_onion_service_that_does_not_exist(self, tor: TorNetwork, dial: Dial) -> None:
        with pytest.raises(ReplyError) as caught:
            dial((unknown_onion(), 80), proxy=url(tor.extended_port), timeout=TIMEOUT)
        assert caught.value.reply == Reply.ONION_SERVICE_DESCRIPTOR_NOT_FOUND

    @pytest.mark.parametrize("name", ["a" * 56, "short"])
    def test_tor_onion_name_that_is_not_valid(self, tor: TorNetwork, dial: Dial, name: str) -> None:
        with pytest.raises(ReplyError) as caught:
            dial((f"{name}.onion", 80), proxy=url(tor.extended_port), timeout=TIMEOUT)
        assert caught.value.reply == Reply.ONION_ADDRESS_INVALID

    def test_tor_onion_service_refuses_a_closed_port(self, tor: TorNetwork, dial: Dial) -> None:
        with pytest.raises(ConnectionRefusedError):
            dial((tor.onion, 81), proxy=url(tor.extended_port), timeout=TIMEOUT)

    def test_tor_onion_service_without_extended_errors(self, tor: TorNetwork) -> None:
        address = (unknown_onion(), 80)
        with pytest.raises(ReplyError) as caught:
            socksclient.create_connection(address, TIMEOUT, proxy=url(tor.socks_port))
        assert caught.value.reply == Reply.HOST_UNREACHABLE

    # This is one test, because all tests share one client, which either has the key or not.
    def test_tor_onion_service_that_needs_a_key(self, tor: TorNetwork) -> None:
        service = tor.private_onion.removesuffix(".onion")
        wrong_key = base64.b64encode(secrets.token_bytes(32)).decode()

        def connect() -> socket.socket:
            address = (tor.private_onion, 80)
            return socksclient.create_connection(address, TIMEOUT, proxy=url(tor.extended_port))

        with pytest.raises(PermissionError) as caught:
            connect()
        assert isinstance(caught.value, ReplyError)
        assert caught.value.reply == Reply.ONION_SERVICE_MISSING_CLIENT_AUTHORIZATION
        try:
            command(tor, f"ONION_CLIENT_AUTH_ADD {service} x25519:{wrong_key}")
            with pytest.raises(PermissionError) as caught:
                connect()
            assert isinstance(caught.value, ReplyError)
            assert caught.value.reply == Reply.ONION_SERVICE_WRONG_CLIENT_AUTHORIZATION
            command(tor, f"ONION_CLIENT_AUTH_ADD {service} x25519:{tor.private_key}")
            connect().close()
        finally:
            command(tor, f"ONION_CLIENT_AUTH_REMOVE {service}")


class TestReservedUserNames:
    """The user names that begin with <torS0X>, which Tor reserves (Tor's proposal 351)."""

    def test_tor_accepts_a_reserved_user_name_with_a_meaning(
        self, tor: TorNetwork, dial: Dial, echo_server: Address
    ) -> None:
        proxy = Proxy("127.0.0.1", tor.socks_port, username="<torS0X>0", password="any")
        with dial(echo_server, proxy=proxy, timeout=TIMEOUT) as sock:
            assert_echoes(sock)

    def test_tor_refuses_a_reserved_user_name_without_a_meaning(
        self, tor: TorNetwork, dial: Dial, echo_server: Address
    ) -> None:
        proxy = Proxy("127.0.0.1", tor.socks_port, username="<torS0X>1x")
        with pytest.raises(AuthenticationError, match="<torS0X>") as caught:
            dial(echo_server, proxy=proxy, timeout=TIMEOUT)
        assert caught.value.phase == "authentication"

    def test_tor_octets_of_the_refusal_of_a_reserved_user_name(self, tor: TorNetwork) -> None:
        with socket.create_connection(("127.0.0.1", tor.socks_port), timeout=10) as sock:
            sock.sendall(b"\x05\x01\x02")
            assert receive_exactly(sock, 2) == b"\x05\x02"
            sock.sendall(b"\x01\x0a<torS0X>1x\x01x")
            assert receive_exactly(sock, 10) == bytes.fromhex("05010001000000000000")
            assert sock.recv(1) == b""


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante")) as dante:
        yield dante


class TestChains:
    def test_tor_chain_with_dante_behind_tor(
        self, tor: TorNetwork, proxy: str, dial: Dial, dante: str, echo_server: Address
    ) -> None:
        with dial(echo_server, proxy=[proxy, dante], timeout=TIMEOUT) as sock:
            assert_three_hops(tor, Proxy.from_url(dante).port)
            assert streams_to(tor, echo_server[1]) == []
            assert_echoes(sock)

    def test_tor_chain_with_dante_before_tor(
        self, tor: TorNetwork, proxy: str, dial: Dial, dante: str
    ) -> None:
        with dial((tor.onion, 80), proxy=[dante, proxy], timeout=TIMEOUT) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with sock.makefile("rb") as answer:
                assert answer.read().endswith(WELCOME)

    def test_tor_chain_resolves_behind_dante(self, tor: TorNetwork, dante: str) -> None:
        chain = [dante, url(tor.socks_port)]
        assert socksclient.resolve("a.test", timeout=TIMEOUT, proxy=chain) == "192.0.2.1"


def processes_in(directory: Path) -> list[str]:
    """Return the command lines of the processes that run in the directory, or that name it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # The process may have ended since.
        with suppress(OSError):
            arguments = (process / "cmdline").read_text()
            if str(directory) in arguments + os.readlink(process / "cwd"):
                found.append(arguments)
    return found


START_AND_WAIT = """
import sys
from pathlib import Path
from helpers import tor_network
tor_network.start(Path(sys.argv[1])).wait()
"""


def test_tor_network_ends_with_a_run_that_was_killed() -> None:
    directory = Path(f"/tmp/tor-{secrets.token_hex(8)}")
    command = [sys.executable, "-c", START_AND_WAIT, str(directory)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as run:
        last = directory / tor_network.RELAYS[-1] / "log"
        started = eventually(last.exists, seconds=4 * LONG)
        run.kill()
    assert started
    assert eventually(
        lambda: not processes_in(directory) and not directory.exists(), seconds=4 * LONG
    )
