"""What a proxy of every kind must show, with SOCKS4, 4A and 5 and with HTTP's CONNECT.

What one protocol alone has is in the files that bear its name. TLS with a proxy is in
`test_tls.py`.
"""

from __future__ import annotations

import base64
import errno
import logging
import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest

import socksclient.anyio
from socksclient import (
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    SocksError,
)
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import HTTP, HTTPS, ONE_CONNECTION, PROXY_HOST, Driver, fail, routes_to
from helpers.origin import Origin
from helpers.schemes import SCHEMES, Scheme, failures
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    SHORT,
    Address,
    Dial,
    assert_echoes,
    nothing_left_open,
    receive_exactly,
    resolved_names,
)

pytest_plugins = ["helpers.http_fixtures"]

USERNAME, PASSWORD = "token-as-user-8c1f", "hunter2-p@ss"
BASIC = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()

REMOTE_DNS = ("socks4a", "socks5h", "http")
WITHOUT_PASSWORD = ("socks4", "socks4a", "socks5", "socks5h", "http")


def assert_no_secret_in(text: str) -> None:
    assert text
    # Three octets are four characters of Base64, and an error text may cut off a part of them.
    pieces = [BASIC[start : start + 12] for start in range(0, len(BASIC) - 12, 4)]
    for secret in (USERNAME, PASSWORD, "hunter2", *pieces):
        assert secret not in text


def report_of(error: BaseException) -> str:
    """Return what an error reporter shows: the error, and the local variables of every frame."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join([str(error), repr(error), *report.format()])
    assert re.search("in (tunnel|_carry_out)", text)
    return text


@pytest.fixture(params=list(SCHEMES))
def scheme(request: pytest.FixtureRequest) -> Scheme:
    """Run a test with a proxy of every kind."""
    return SCHEMES[request.param]


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(split=True),
        Faults(drip=0.001),
        Faults(reply_with_data=True),
        Faults(reply_with_data=True, split=True),
        Faults(bound_address=("90.91.92.93", 0x5A5B), split=True),
        Faults(bound_address=("255.255.255.255", 65535)),
    ],
    ids=str,
)
def test_success_reads_no_octet_of_destination(
    dial: Dial, greeter: Address, scheme: Scheme, faults: Faults
) -> None:
    with SocksServer(accounts=scheme.accounts, faults=faults) as server:
        with dial(greeter, proxy=server.url_as(scheme.name)) as sock:
            assert receive_exactly(sock, len(GREETING)) == GREETING
            assert_echoes(sock)
        [seen] = server.requests
    assert seen.protocol == scheme.protocol
    assert seen.destination == greeter


@pytest.mark.parametrize("name", REMOTE_DNS)
def test_remote_dns_resolves_no_name_here(dial: Dial, echo_server: Address, name: str) -> None:
    scheme = SCHEMES[name]
    faults = [Faults(), Faults(reply=scheme.refusal), Faults(close_after=0), Faults(close_after=7)]
    routes = {scheme.destination: echo_server}
    with SocksServer(routes=routes, faults=faults) as server:
        with resolved_names() as resolved:
            with dial(scheme.destination, proxy=server.url_as(name)) as sock:
                assert_echoes(sock)
            for _ in faults[1:]:
                with pytest.raises(SocksError):
                    dial(scheme.destination, proxy=server.url_as(name))
        assert resolved == []
        seen = [connection.destination for connection in server.requests]
        assert seen == [scheme.destination] * len(seen)
        assert len(seen) >= 3


def test_refused_connection_to_proxy(dial: Dial, scheme: Scheme) -> None:
    proxy = Proxy("127.0.0.1", REFUSED_PORT, scheme=scheme.name)
    with nothing_left_open():
        with pytest.raises(ProxyConnectError, match="Connection refused") as held:
            dial(scheme.destination, proxy=proxy)
    assert isinstance(held.value, ConnectionError)
    assert held.value.errno == errno.ECONNREFUSED
    assert held.value.phase == "connect"
    assert (held.value.proxy, held.value.destination) == (proxy, scheme.destination)


def test_refused_request(dial: Dial, scheme: Scheme) -> None:
    """The proxy refuses because the destination does, and by a fault, whole and split."""
    code = scheme.refusal
    faults = [Faults(), Faults(reply=code), Faults(reply=code, split=True)]
    for error in failures(dial, scheme, faults, ("127.0.0.1", REFUSED_PORT)):
        assert isinstance(error, ReplyError)
        assert error.reply == code
        assert error.phase == "request"
        assert error.strerror == f"the proxy refused the request: {scheme.meaning}"


@pytest.mark.parametrize("split", [False, True])
def test_proxy_closes_after_each_prefix(
    dial: Dial, echo_server: Address, scheme: Scheme, split: bool
) -> None:
    prefixes = list(scheme.prefixes())
    faults = [
        Faults(answers=scheme.answers, close_after=count, split=split) for count, _, _ in prefixes
    ]
    errors = failures(dial, scheme, faults, echo_server)
    for error, (_, phase, received) in zip(errors, prefixes, strict=True):
        assert type(error) is ProxyClosed
        assert error.errno == errno.ECONNRESET
        assert error.phase == phase
        words = f"the proxy hung up before the end of its message: got {len(received)} of "
        assert str(error.strerror).startswith(words)
        assert error.received == received


def test_proxy_resets_after_each_prefix(dial: Dial, echo_server: Address, scheme: Scheme) -> None:
    prefixes = list(scheme.prefixes())
    faults = [Faults(answers=scheme.answers, reset_after=count) for count, _, _ in prefixes]
    errors = failures(dial, scheme, faults, echo_server)
    for error, (_, phase, received) in zip(errors, prefixes, strict=True):
        assert type(error) is ProxyClosed
        assert isinstance(error, ConnectionResetError)
        assert error.phase == phase
        assert error.received == received


# Each of these takes a second; where this process resolves names, the flows are the same.
@pytest.mark.parametrize("name", REMOTE_DNS)
def test_proxy_stalls_after_each_prefix_or_drips(
    dial: Dial, echo_server: Address, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All connections wait at the same time, so that the test takes one timeout."""
    caplog.set_level(logging.DEBUG)
    scheme = SCHEMES[name].with_accounts(USERNAME, PASSWORD)
    prefixes = list(scheme.prefixes())
    faults = [Faults(answers=scheme.answers, stall_after=count) for count, _, _ in prefixes]
    # A timeout for each single read would never end this: each octet arrives in time.
    faults.append(Faults(answers=scheme.answers, drip=2 * SHORT / (prefixes[-1][0] + 1)))

    def connect(proxy: Proxy) -> TimeoutError:
        begin = time.monotonic()
        with pytest.raises(TimeoutError) as held:
            dial(scheme.destination, proxy=proxy, timeout=SHORT)
        assert 0.95 * SHORT <= time.monotonic() - begin < LONG
        return held.value

    routes = {scheme.destination: echo_server}
    with SocksServer(accounts=scheme.accounts, faults=faults, routes=routes) as server:
        proxies = [Proxy.from_url(server.url_as(name))] * len(faults)
        with nothing_left_open(), ThreadPoolExecutor(len(faults)) as pool:
            errors = list(pool.map(connect, proxies))
        assert len(server.connections) == len(faults)
    phases = {phase for _, phase, _ in prefixes}
    for error in errors:
        assert_no_secret_in(report_of(error))
        # The awaited functions take no timeout: anyio raises the TimeoutError of their caller.
        if isinstance(error, ProxyTimeout):
            assert error.phase in phases
            assert error.errno == errno.ETIMEDOUT
    assert_no_secret_in(caplog.text)


GARBAGE = {
    b"HTTP/1.1 400 Bad Request\r\n\r\n": (
        "HTTP",
        "this is an HTTP proxy or server, not {}: it answered in HTTP",
    ),
    bytes.fromhex("005b0000 00000000"): (
        "SOCKS4",
        "this is a SOCKS4 server, not {}: it answered in SOCKS4",
    ),
    b"\x05\xff": ("SOCKS5", "this is a SOCKS5 server, not {}: it answered in SOCKS5"),
    bytes.fromhex("15030100020246"): (
        "TLS",
        "this is a TLS server, not a plain {}: it answered with a TLS alert",
    ),
    b"SSH-2.0-OpenSSH_9.2p1\r\n": ("SSH", "this is not {}: it answered with 53 53 instead of "),
    b"CONNECT origin.test:443 HTTP/1.1": (
        "echo",
        "this is not {}: it answered with 43 4f instead of ",
    ),
    bytes.fromhex("045a 0000 00000000"): (
        "-",
        "this is not {}: it answered with 04 5a instead of ",
    ),
    b"\xff" * 100: ("-", "this is not {}: it answered with ff ff instead of "),
}


@pytest.mark.parametrize("split", [False, True])
def test_garbage_in_place_of_first_answer(
    dial: Dial, echo_server: Address, scheme: Scheme, split: bool
) -> None:
    garbage = [octets for octets in GARBAGE if GARBAGE[octets][0] != scheme.protocol]
    faults = [Faults(answers={scheme.first_phase: octets}, split=split) for octets in garbage]
    errors = failures(dial, scheme, faults, echo_server)
    for error, octets in zip(errors, garbage, strict=True):
        assert type(error) is ProtocolError
        assert error.phase == scheme.first_phase
        speaks, words = GARBAGE[octets]
        title = scheme.title.partition(" ")[2] if speaks == "TLS" else scheme.title
        assert str(error.strerror).startswith(words.format(title))
        assert octets.startswith(error.received)
        assert len(error.received) >= 2


@pytest.mark.anyio
async def test_cancellation_after_each_prefix(echo_server: Address, scheme: Scheme) -> None:
    faults = [
        Faults(answers=scheme.answers, stall_after=count) for count, _, _ in scheme.prefixes()
    ]
    held: list[BaseException] = []

    async def connect() -> None:
        try:
            await socksclient.anyio.connect_tcp(*echo_server, proxy=server.url_as(scheme.name))
        except BaseException as error:
            held.append(error)
            raise

    with SocksServer(accounts=scheme.accounts, faults=faults) as server, nothing_left_open():
        for number, (count, _, _) in enumerate(scheme.prefixes()):
            async with anyio.create_task_group() as group:
                group.start_soon(connect)
                while (
                    len(server.connections) <= number
                    or len(server.connections[number].sent) < count
                ):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        assert len(held) == len(server.connections) == len(faults)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("name", WITHOUT_PASSWORD)
class TestChain:
    """The proxy is the first and the last hop of a chain of two; the other hop is SOCKS5."""

    def test_chain_success(self, dial: Dial, greeter: Address, name: str, position: int) -> None:
        faults = Faults(split=True, reply_with_data=bool(position))
        with SocksServer() as other, SocksServer(faults=faults) as server:
            servers, chain = [other], [other.url]
            servers.insert(position, server)
            chain.insert(position, server.url_as(name))
            with dial(greeter, proxy=chain) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock)
            targets = [seen.destination for server in servers for seen in server.requests]
            assert targets == [servers[1].address, greeter]

    def test_chain_failure(self, dial: Dial, greeter: Address, name: str, position: int) -> None:
        scheme = SCHEMES[name]
        faults = [Faults(reply=scheme.refusal), Faults(close_after=0), Faults(reset_after=1)]
        with SocksServer() as other, SocksServer(faults=faults) as server:
            chain = [other.url]
            chain.insert(position, server.url_as(name))
            with nothing_left_open():
                for kind in ReplyError, ProxyClosed, ProxyClosed:
                    with pytest.raises(kind) as held:
                        dial(greeter, proxy=chain)
                    assert held.value.hop == position
                    assert held.value.proxy == Proxy.from_url(chain[position])
                    assert held.value.destination == greeter


@pytest.mark.parametrize("name", WITHOUT_PASSWORD)
class TestSecrets:
    """The credentials are in no text. SOCKS4 carries only a user id, which can be a token."""

    @pytest.mark.parametrize("fault", ["none", "refusal", "end", "reset", "garbage"])
    def test_credentials_in_no_error_and_no_log(
        self,
        dial: Dial,
        echo_server: Address,
        name: str,
        fault: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        scheme = SCHEMES[name].with_accounts(USERNAME, PASSWORD)
        prefixes = [count for count, _, _ in scheme.prefixes()]
        faults = {
            "none": [Faults()],
            "refusal": [Faults(reply=scheme.refusal)],
            "end": [Faults(answers=scheme.answers, close_after=count) for count in prefixes],
            "reset": [Faults(answers=scheme.answers, reset_after=count) for count in prefixes],
            "garbage": [
                Faults(answers={phase: octets})
                for phase in scheme.answers
                for octets in (b"\x07\xff", b"HTTP/1.1 OK\r\n\r\n")
            ],
        }[fault]
        caplog.set_level(logging.DEBUG)
        with SocksServer(accounts=scheme.accounts, faults=faults) as server:
            proxy = Proxy.from_url(server.url_as(name))
            assert_no_secret_in(f"{proxy} {proxy!r}")
            for _ in faults:
                try:
                    dial(echo_server, proxy=proxy).close()
                except OSError as error:
                    assert_no_secret_in(report_of(error))
                else:
                    assert fault == "none"
            assert server.connections[-1].username == USERNAME
        assert_no_secret_in(caplog.text)

    def test_log_line_for_each_phase(
        self, dial: Dial, echo_server: Address, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheme = SCHEMES[name].with_accounts(USERNAME, PASSWORD)
        caplog.set_level(logging.DEBUG, logger="socksclient")
        faults = [Faults(), Faults(reply=scheme.refusal)]
        with SocksServer(accounts=scheme.accounts, faults=faults) as server:
            dial(echo_server, proxy=server.url_as(name)).close()
            with pytest.raises(ReplyError):
                dial(echo_server, proxy=server.url_as(name))
        where = "{}:{} via {}://***@{}:{}: ".format(*echo_server, name, *server.address)
        lines = [record.getMessage() for record in caplog.records if record.name == "socksclient"]
        phases = [where + phase for phase in ("connect", *scheme.answers)]
        granted = lines[len(phases)]
        refused = f"{where}failed: the proxy refused the request: {scheme.meaning}"
        assert lines == [*phases, granted, *phases, refused]
        bound_host = "0.0.0.0" if name == "http" else "127.0.0.1"
        assert granted.startswith(f"{where}granted, bound address '{bound_host}:")


@pytest.mark.parametrize("name", ["socks4", "socks4a", "http"])
class TestHTTPClients:
    """The transports for httpx and httpx2. `integrations/test_httpx.py` tests SOCKS5."""

    @pytest.fixture(autouse=True)
    def addresses(self, names: dict[str, list[str]]) -> None:
        """Let this process resolve the name, for SOCKS4 also to an address that it cannot carry."""
        names["origin.test"] = ["2001:db8::1", "192.0.2.1"]

    @pytest.mark.parametrize("http2", [False, True])
    def test_http_client_requests(
        self, driver: Driver, origin: Origin, name: str, http2: bool
    ) -> None:
        routes = {**routes_to(origin), ("192.0.2.1", 80): ("127.0.0.1", origin.http_port)}
        with SocksServer(host=PROXY_HOST, routes=routes) as server:
            with driver.through(server.url_as(name), http2=http2) as client:
                assert client.get(HTTP).json()["http_version"] == "1.1"
                assert client.get(HTTPS).http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            host = "origin.test" if name in REMOTE_DNS else "192.0.2.1"
            assert [seen.destination for seen in server.requests] == [(host, 80), (host, 443)]

    def test_http_client_proxy_errors(self, driver: Driver, origin: Origin, name: str) -> None:
        scheme = SCHEMES[name]
        faults = [
            Faults(reply=scheme.refusal),
            Faults(close_after=1),
            Faults(reset_after=0),
            Faults(answers={scheme.first_phase: b"\x07\xff"}),
        ]
        with SocksServer(host=PROXY_HOST, routes=routes_to(origin), faults=faults) as server:
            with driver.through(server.url_as(name), limits=ONE_CONNECTION) as client:
                for cause in ReplyError, ProxyClosed, ProxyClosed, ProtocolError:
                    error = fail(client, HTTPS, "ProxyError")
                    assert isinstance(error.__cause__, cause)
                assert client.get(HTTPS).status_code == 200
