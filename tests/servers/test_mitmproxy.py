"""Requests through mitmproxy, which records what it sees: what was sent and what was received."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import anyio
import httpx
import pytest

from socksclient import (
    AuthenticationError,
    Proxy,
    ProxyClosed,
    Reply,
    ReplyError,
    SocksTransport,
)
from socksclient.exceptions import HTTPReply
from socksclient.requests import Session

from helpers import real_servers
from helpers.http_clients import Pair
from helpers.origin import Origin
from helpers.real_servers.mitmproxy_server import Flow, MITMProxy
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    Dial,
    assert_echoes,
    needs,
    receive_exactly,
)

pytest_plugins = ["helpers.http_fixtures"]

MISSING = real_servers.missing([real_servers.MITMDUMP])
pytestmark = needs(MISSING)

ACCOUNT = ("user", "päss w@rd")
NOT_IN_HTTP2 = ("host", "connection")
Header = tuple[str, str]
BODY = random.Random(0).randbytes(200_000)

SERVERS: dict[str, tuple[Literal["socks5", "regular"], tuple[str, str] | None]] = {
    "SOCKS5": ("socks5", None),
    "SOCKS5 with an account": ("socks5", ACCOUNT),
    "HTTP with an account": ("regular", ACCOUNT),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def mitmproxy(
    server: str, origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MITMProxy]:
    path = tmp_path_factory.mktemp("mitmproxy")
    mode, account = SERVERS[server]
    with real_servers.mitmproxy(path, origin.ca, mode=mode, account=account) as mitmproxy:
        yield mitmproxy


class Response(Protocol):
    """A response of httpx or of requests."""

    @property
    def status_code(self) -> int: ...

    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True)
class Post:
    """A request that the origin answers with its body."""

    scheme: str
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/echo?token={self.token}"

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Token": self.token, "Content-Type": "application/octet-stream"}

    def flow_of(self, mitmproxy: MITMProxy) -> Flow:
        """Return the one flow that mitmproxy has recorded of this request."""
        [flow] = [flow for flow in mitmproxy.flows() if self.token in flow.url]
        return flow

    def check(self, mitmproxy: MITMProxy, response: Response, headers: list[Header]) -> None:
        """Check what mitmproxy saw, with these headers, and what the client received."""
        flow = self.flow_of(mitmproxy)
        assert flow.destination == ("localhost", self.port)
        assert (flow.method, flow.url) == ("POST", self.url)
        assert ("x-token", self.token) in headers
        assert [(name.lower(), value) for name, value in flow.headers] == headers
        assert flow.sent == BODY
        assert flow.status == response.status_code == 200
        assert flow.received == response.content == BODY

    def check_httpx(self, mitmproxy: MITMProxy, response: Any, http2: bool) -> None:
        headers = response.request.headers.multi_items()
        http_version = "HTTP/1.1"
        # Client and server agree on HTTP/2 by ALPN, which is a part of TLS.
        if http2 and self.scheme == "https":
            headers = [(name, value) for name, value in headers if name not in NOT_IN_HTTP2]
            http_version = "HTTP/2.0"
        self.check(mitmproxy, response, headers)
        assert self.flow_of(mitmproxy).http_version == http_version


@pytest.fixture(params=["http", "https"])
def post(request: pytest.FixtureRequest, origin: Origin) -> Post:
    port = origin.https_port if request.param == "https" else origin.http_port
    return Post(request.param, port, secrets.token_hex())


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
class TestHTTPXThroughMITMProxy:
    def test_mitmproxy_httpx_post_blocking(
        self, pair: Pair, mitmproxy: MITMProxy, post: Post, http2: bool
    ) -> None:
        with pair.client(mitmproxy.url, verify=mitmproxy.trust(), http2=http2) as client:
            response = client.post(post.url, content=BODY, headers=post.headers)
        post.check_httpx(mitmproxy, response, http2)

    @pytest.mark.anyio
    async def test_mitmproxy_httpx_post_awaited(
        self, pair: Pair, mitmproxy: MITMProxy, post: Post, http2: bool
    ) -> None:
        async with pair.async_client(
            mitmproxy.url, verify=mitmproxy.trust(), http2=http2
        ) as client:
            with anyio.fail_after(LONG):
                response = await client.post(post.url, content=BODY, headers=post.headers)
        post.check_httpx(mitmproxy, response, http2)


def test_mitmproxy_requests_post(mitmproxy: MITMProxy, post: Post) -> None:
    with Session(proxy=mitmproxy.url) as session:
        response = session.post(
            post.url, BODY, headers=post.headers, verify=str(mitmproxy.ca_file), timeout=LONG
        )
    headers = [(name.lower(), str(value)) for name, value in response.request.headers.items()]
    post.check(mitmproxy, response, [("host", f"localhost:{post.port}"), *headers])


@pytest.mark.parametrize("server", ["SOCKS5"], indirect=True)
def test_mitmproxy_with_socks5_gets_an_address(mitmproxy: MITMProxy, post: Post) -> None:
    proxy = mitmproxy.url.replace("socks5h", "socks5")
    transport = SocksTransport(proxy, verify=mitmproxy.trust())
    with httpx.Client(transport=transport, timeout=LONG) as client:
        client.post(post.url, content=BODY, headers=post.headers)
    assert post.flow_of(mitmproxy).destination == ("127.0.0.1", post.port)


@pytest.mark.parametrize("server", ["SOCKS5"], indirect=True)
@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_mitmproxy_hangs_up_on_socks4(
    mitmproxy: MITMProxy, scheme: str, dial: Dial, echo_server: Address
) -> None:
    proxy = mitmproxy.url.replace("socks5h", scheme)
    with pytest.raises(ProxyClosed, match="speaks SOCKS5 but not SOCKS4") as caught:
        dial(echo_server, proxy=proxy)
    assert caught.value.phase == "request"


def test_mitmproxy_passes_on_what_the_destination_says_first(
    mitmproxy: MITMProxy, dial: Dial, greeter: Address
) -> None:
    with dial(greeter, proxy=mitmproxy.url) as sock:
        assert receive_exactly(sock, len(GREETING)) == GREETING
        assert_echoes(sock)


def test_mitmproxy_reply_if_the_destination_refuses(
    server: str, mitmproxy: MITMProxy, dial: Dial
) -> None:
    with pytest.raises(ReplyError) as caught:
        dial(("127.0.0.1", REFUSED_PORT), proxy=mitmproxy.url)
    if server.startswith("SOCKS5"):
        assert caught.value.reply is Reply.HOST_UNREACHABLE
    else:
        assert caught.value.reply is HTTPReply.BAD_GATEWAY
        assert caught.value.reason == "Bad Gateway"


@pytest.mark.parametrize(
    "server", ["SOCKS5 with an account", "HTTP with an account"], indirect=True
)
class TestCredentials:
    def test_mitmproxy_refuses_wrong_credentials(
        self, server: str, mitmproxy: MITMProxy, dial: Dial, echo_server: Address
    ) -> None:
        wrong = replace(Proxy.from_url(mitmproxy.url), password="wrong")
        reason = "STATUS 01" if server.startswith("SOCKS5") else "HTTP 407"
        with pytest.raises(AuthenticationError, match=reason):
            dial(echo_server, proxy=wrong)

    def test_mitmproxy_refuses_missing_credentials(
        self, mitmproxy: MITMProxy, dial: Dial, echo_server: Address
    ) -> None:
        without = replace(Proxy.from_url(mitmproxy.url), username=None, password=None)
        with pytest.raises(AuthenticationError, match="no username is given"):
            dial(echo_server, proxy=without)
