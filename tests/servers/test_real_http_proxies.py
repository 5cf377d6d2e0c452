"""HTTP's CONNECT with real proxies: tinyproxy, Privoxy, Squid and tiny-proxy."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest

from socksclient import (
    AsyncSocksTransport,
    AuthenticationError,
    ConnectionNotAllowed,
    ProtocolError,
    Proxy,
    ReplyError,
    SocksTransport,
)
from socksclient.exceptions import HTTPReply

from helpers import library_servers, real_servers
from helpers.origin import Origin
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    Dial,
    assert_echoes,
    needs,
    receive_exactly,
    serving,
)

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

DATA = b"there and back"
ACCOUNT = ("user", "pass.word")
Start = Callable[[Path], AbstractContextManager[str]]

SERVERS: dict[str, Start] = {
    "tinyproxy": real_servers.tinyproxy,
    "tinyproxy with an account": lambda path: real_servers.tinyproxy(path, account=ACCOUNT),
    "tinyproxy on ::1": lambda path: real_servers.tinyproxy(path, host="::1"),
    "privoxy": real_servers.privoxy,
    "privoxy on ::1": lambda path: real_servers.privoxy(path, host="::1"),
    "squid": lambda _: real_servers.squid(),
    "squid with an account": lambda _: real_servers.squid(
        account=ACCOUNT, schemes=["Digest", "Basic"]
    ),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SERVERS[server](tmp_path_factory.mktemp("server")) as url:
        yield url


class TestConnect:
    def test_real_http_proxy_connects_to_ipv4(
        self, proxy: str, dial: Dial, echo_server: Address
    ) -> None:
        with dial(echo_server, proxy=proxy) as sock:
            assert_echoes(sock)

    def test_real_http_proxy_connects_to_ipv6(
        self, proxy: str, dial: Dial, echo_server_6: Address
    ) -> None:
        with dial(echo_server_6, proxy=proxy) as sock:
            assert_echoes(sock)

    def test_real_http_proxy_connects_to_a_name(
        self, proxy: str, dial: Dial, echo_server: Address
    ) -> None:
        with dial(("localhost", echo_server[1]), proxy=proxy) as sock:
            assert_echoes(sock)

    def test_real_http_proxy_connects_to_a_server_that_speaks_first(
        self, proxy: str, dial: Dial, greeter: Address
    ) -> None:
        with dial(greeter, proxy=proxy) as sock:
            assert receive_exactly(sock, len(GREETING)) == GREETING
            assert_echoes(sock)

    def test_real_http_proxy_loses_no_octet_behind_its_reply(
        self, proxy: str, dial: Dial, greeter: Address
    ) -> None:
        with in_one_segment(Proxy.from_url(proxy)) as held_back:
            with dial(greeter, proxy=held_back) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock, DATA)


@contextmanager
def in_one_segment(proxy: Proxy) -> Iterator[Proxy]:
    """Pass on what `proxy` says, as soon as the destination's greeting has come too."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy_reader, proxy_writer = await asyncio.open_connection(proxy.host, proxy.port)
        try:
            proxy_writer.write(await reader.readuntil(b"\r\n\r\n"))
            writer.write(await proxy_reader.readuntil(GREETING))
            proxy_writer.write(await reader.readexactly(len(DATA)))
            writer.write(await proxy_reader.readexactly(len(DATA)))
            await reader.read()
        finally:
            proxy_writer.close()

    with serving(relay) as (host, port):
        yield replace(proxy, host=host, port=port)


REFUSALS = {
    "tinyproxy": (
        HTTPReply.INTERNAL_SERVER_ERROR,
        "Unable to connect",
        "internal server error (HTTP 500), and says: Unable to connect",
    ),
    "privoxy": (
        HTTPReply.SERVICE_UNAVAILABLE,
        "Connect failed",
        "service unavailable (HTTP 503), and says: Connect failed",
    ),
    "squid": (
        HTTPReply.SERVICE_UNAVAILABLE,
        "Service Unavailable",
        "service unavailable (HTTP 503)",
    ),
}
"""The status, the reason phrase and the error's text if the destination refuses."""


def test_real_http_proxy_reply_if_the_destination_refuses(
    server: str, proxy: str, dial: Dial
) -> None:
    destination = ("127.0.0.1", REFUSED_PORT)
    with pytest.raises(ReplyError) as caught:
        dial(destination, proxy=proxy)
    error = caught.value
    reply, reason, text = REFUSALS[server.partition(" ")[0]]
    assert (error.reply, error.reason) == (reply, reason)
    assert error.strerror == f"the proxy refused the request: {text}"
    assert error.phase == "request"
    assert error.destination == destination


@pytest.mark.parametrize("server", ["squid"], indirect=True)
class TestRefusalsOfSquid:
    def test_squid_tells_why_it_cannot_connect(self, proxy: str, dial: Dial) -> None:
        with pytest.raises(ReplyError) as caught:
            dial(("127.0.0.1", REFUSED_PORT), proxy=proxy)
        cause = dict(caught.value.fields)["x-squid-error"]
        assert cause == f"ERR_CONNECT_FAIL {errno.ECONNREFUSED}"

    def test_squid_tells_that_its_rules_do_not_allow_a_port(self, proxy: str, dial: Dial) -> None:
        with pytest.raises(ConnectionNotAllowed) as caught:
            dial(("127.0.0.1", 25), proxy=proxy)
        assert caught.value.reply is HTTPReply.FORBIDDEN
        assert caught.value.reason == "Forbidden"
        assert dict(caught.value.fields)["x-squid-error"] == "ERR_ACCESS_DENIED 0"


CREDENTIALS = {
    # tinyproxy replies 401, as if it were the destination.
    "tinyproxy with an account": (401, ("Basic",)),
    "squid with an account": (407, ("Digest", "Basic")),
}
"""The status of the refusal of wrong credentials, and the schemes that the proxy offers."""


@pytest.mark.parametrize("server", CREDENTIALS, indirect=True)
class TestCredentials:
    def test_real_http_proxy_refuses_wrong_credentials(
        self, server: str, proxy: str, dial: Dial, echo_server: Address
    ) -> None:
        status, schemes = CREDENTIALS[server]
        with pytest.raises(AuthenticationError) as caught:
            dial(echo_server, proxy=proxy.replace("pass.word", "wrong"))
        assert caught.value.strerror == f"the proxy refused the credentials (HTTP {status})"
        assert caught.value.schemes == schemes

    def test_real_http_proxy_refuses_missing_credentials(
        self, server: str, proxy: str, dial: Dial, echo_server: Address
    ) -> None:
        with pytest.raises(
            AuthenticationError, match=r"no username is given \(HTTP 407\)"
        ) as caught:
            dial(echo_server, proxy=f"http://{proxy.rpartition('@')[2]}")
        assert caught.value.schemes == CREDENTIALS[server][1]


@pytest.fixture(scope="module")
def digest() -> Iterator[str]:
    with real_servers.squid(account=ACCOUNT, schemes=["Digest"]) as url:
        yield url


@pytest.mark.parametrize("has_username", [True, False])
def test_squid_with_digest_alone_is_an_authentication_error(
    has_username: bool, digest: str, dial: Dial, echo_server: Address
) -> None:
    url = digest if has_username else f"http://{digest.rpartition('@')[2]}"
    text = "wants authentication by Digest, but socksclient speaks only Basic"
    with pytest.raises(AuthenticationError, match=text) as caught:
        dial(echo_server, proxy=url)
    assert caught.value.schemes == ("Digest",)


@pytest.fixture(scope="module")
def tiny_proxy() -> Iterator[str]:
    with library_servers.tiny_proxy_http(ACCOUNT) as url:
        yield url


class TestTinyProxy:
    """tiny-proxy's answers have no header fields, and it accepts no IPv6 addresses."""

    def test_tiny_proxy_connects(self, tiny_proxy: str, dial: Dial, greeter: Address) -> None:
        with dial(greeter, proxy=tiny_proxy) as sock:
            assert receive_exactly(sock, len(GREETING)) == GREETING
            assert_echoes(sock, DATA)

    @pytest.mark.parametrize(
        ("host", "text"),
        [
            ("127.0.0.1", "the proxy refused the request: bad gateway (HTTP 502)"),
            ("::1", "the proxy refused the request: bad request (HTTP 400)"),
        ],
    )
    def test_tiny_proxy_refuses_a_destination(
        self, tiny_proxy: str, host: str, text: str, dial: Dial
    ) -> None:
        with pytest.raises(ReplyError) as caught:
            dial((host, REFUSED_PORT), proxy=tiny_proxy)
        assert caught.value.strerror == text
        assert caught.value.fields == ()

    def test_tiny_proxy_refuses_missing_credentials(
        self, tiny_proxy: str, dial: Dial, echo_server: Address
    ) -> None:
        with pytest.raises(
            AuthenticationError, match=r"no username is given \(HTTP 401\)"
        ) as caught:
            dial(echo_server, proxy=f"http://{tiny_proxy.rpartition('@')[2]}")
        assert caught.value.schemes == ()

    def test_tiny_proxy_refuses_wrong_credentials(
        self, tiny_proxy: str, dial: Dial, echo_server: Address
    ) -> None:
        text = (
            r"does not accept the credentials, and does not say which scheme it wants \(HTTP 401\)"
        )
        with pytest.raises(AuthenticationError, match=text) as caught:
            dial(echo_server, proxy=tiny_proxy.replace("pass.word", "wrong"))
        assert caught.value.schemes == ()


def test_microsocks_asked_in_http_is_named(
    dial: Dial, echo_server: Address, tmp_path: Path
) -> None:
    with real_servers.microsocks(tmp_path) as url:
        with pytest.raises(ProtocolError, match="this is a SOCKS5 server, not an HTTP proxy"):
            dial(echo_server, proxy=url.replace("socks5h", "http"))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
class TestHTTP:
    def test_real_http_proxy_with_httpx_blocking(
        self, proxy: str, origin: Origin, scheme: str, http2: bool
    ) -> None:
        transport = SocksTransport(proxy, verify=origin.trust(), http2=http2)
        with httpx.Client(transport=transport, timeout=LONG) as client:
            check(client.get(url_of(origin, scheme)), scheme, http2)

    @pytest.mark.anyio
    async def test_real_http_proxy_with_httpx_awaited(
        self, proxy: str, origin: Origin, scheme: str, http2: bool
    ) -> None:
        transport = AsyncSocksTransport(proxy, verify=origin.trust(), http2=http2)
        async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:
            with anyio.fail_after(LONG):
                check(await client.get(url_of(origin, scheme)), scheme, http2)


def url_of(origin: Origin, scheme: str) -> str:
    port = origin.https_port if scheme == "https" else origin.http_port
    return f"{scheme}://localhost:{port}/"


def check(response: httpx.Response, scheme: str, http2: bool) -> None:
    assert response.json()["scheme"] == scheme
    # Without TLS there is no ALPN to agree on HTTP/2 by.
    assert response.http_version == ("HTTP/2" if http2 and scheme == "https" else "HTTP/1.1")
    headers = [name for name, _ in response.json()["headers"]]
    assert "proxy-authorization" not in headers
