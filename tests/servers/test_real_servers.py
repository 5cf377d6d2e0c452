"""SOCKS5 with real proxies: Dante, microsocks and OpenSSH."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from socksclient import (
    AuthenticationError,
    Proxy,
    ProxyClosed,
    Reply,
    ReplyError,
)

from helpers import real_servers
from helpers.http_clients import CLIENT_HOST, Pair
from helpers.origin import Origin
from helpers.support import LONG, REFUSED_PORT, Address, Dial, assert_echoes, needs

pytest_plugins = ["helpers.http_fixtures"]

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

ACCOUNT = ("user", "päss:w@rd")
Start = Callable[[Path], AbstractContextManager[str]]

SERVERS: dict[str, Start] = {
    "dante": real_servers.dante,
    "dante with accounts": lambda path: real_servers.dante(path, accounts=dict([ACCOUNT])),
    "dante on ::1": lambda path: real_servers.dante(path, host="::1"),
    "microsocks": real_servers.microsocks,
    "microsocks with an account": lambda path: real_servers.microsocks(path, account=ACCOUNT),
    "microsocks on ::1": lambda path: real_servers.microsocks(path, host="::1"),
    "ssh -D": real_servers.openssh,
}


@pytest.fixture(scope="module", params=SERVERS)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with SERVERS[request.param](tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
class TestConnect:
    def test_real_socks5_connects_to_ipv4(
        self, proxy: str, scheme: str, dial: Dial, echo_server: Address
    ) -> None:
        with dial(echo_server, proxy=proxy.replace("socks5h", scheme)) as sock:
            assert_echoes(sock)

    def test_real_socks5_connects_to_ipv6(
        self, proxy: str, scheme: str, dial: Dial, echo_server_6: Address
    ) -> None:
        with dial(echo_server_6, proxy=proxy.replace("socks5h", scheme)) as sock:
            assert_echoes(sock)

    def test_real_socks5_connects_to_a_name(
        self, proxy: str, scheme: str, dial: Dial, echo_server: Address
    ) -> None:
        _, port = echo_server
        with dial(("localhost", port), proxy=proxy.replace("socks5h", scheme)) as sock:
            assert_echoes(sock)


def test_real_socks5_reply_if_the_destination_refuses(proxy: str, dial: Dial) -> None:
    with pytest.raises((ReplyError, ProxyClosed)) as caught:
        dial(("127.0.0.1", REFUSED_PORT), proxy=proxy)
    assert caught.value.phase == "request"
    # ssh closes the connection, whatever the reason is.
    if isinstance(caught.value, ReplyError):
        assert caught.value.reply == Reply.CONNECTION_REFUSED


@pytest.mark.parametrize("server", ["dante with accounts", "microsocks with an account"])
def test_real_socks5_refuses_wrong_and_missing_credentials(
    server: str, dial: Dial, echo_server: Address, tmp_path: Path
) -> None:
    with SERVERS[server](tmp_path) as url:
        host, port = url.rpartition("@")[2].split(":")
        with pytest.raises(AuthenticationError, match="STATUS") as caught:
            dial(echo_server, proxy=f"socks5h://user:wrong@{host}:{port}")
        assert caught.value.phase == "authentication"
        with pytest.raises(AuthenticationError, match="no username is given") as caught:
            dial(echo_server, proxy=f"socks5h://{host}:{port}")
        assert caught.value.phase == "method selection"


@pytest.fixture(scope="module")
def without_ipv6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("without-ipv6")
    with real_servers.microsocks_without_ipv6(path) as url:
        yield url.replace("socks5h", "socks5")


class TestMicrosocksWithoutIPv6:
    """The host of microsocks has one address, 127.0.0.1, and an echo server there."""

    def test_microsocks_without_ipv6_replies_rep_01_to_an_ipv6_address(
        self, without_ipv6: str, dial: Dial
    ) -> None:
        with pytest.raises(ReplyError) as caught:
            dial(("2001:db8::1", 80), proxy=without_ipv6)
        assert caught.value.reply is Reply.GENERAL_SOCKS_SERVER_FAILURE
        assert caught.value.addresses_tried == 0

    def test_microsocks_without_ipv6_is_asked_for_the_next_address(
        self, without_ipv6: str, dial: Dial, names: dict[str, list[str]]
    ) -> None:
        names["dual.test"] = ["2001:db8::1", "127.0.0.1"]
        port = Proxy.from_url(without_ipv6).port
        with dial(("dual.test", port), proxy=without_ipv6) as sock:
            assert_echoes(sock)

    def test_microsocks_without_ipv6_error_tells_of_all_addresses(
        self, without_ipv6: str, dial: Dial, names: dict[str, list[str]]
    ) -> None:
        names["dual.test"] = ["2001:db8::1", "127.0.0.1", "2001:db8::2"]
        with pytest.raises(ReplyError, match=r"\(REP 01\) \(.*, addresses tried: 3\)") as caught:
            dial(("dual.test", 80), proxy=without_ipv6)
        assert caught.value.reply is Reply.GENERAL_SOCKS_SERVER_FAILURE
        assert caught.value.addresses_tried == 3
        assert caught.value.addresses_left == ()
        refused = "the proxy refused the request"
        assert caught.value.__notes__ == [
            f"before that, 2001:db8::1: {refused}: general SOCKS server failure (REP 01)",
            f"before that, 127.0.0.1: {refused}: connection refused (REP 05)",
        ]


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SERVERS["dante with accounts"](tmp_path_factory.mktemp("dante")) as url:
        yield url


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
class TestHTTPThroughDante:
    def test_dante_http_blocking(
        self, pair: Pair, dante: str, origin: Origin, scheme: str, http2: bool
    ) -> None:
        options = {"verify": origin.trust(), "http2": http2, "local_address": CLIENT_HOST}
        with pair.client(dante, **options) as client:
            check(client.get(f"{scheme}://localhost:{port_of(origin, scheme)}/"), scheme, http2)

    @pytest.mark.anyio
    async def test_dante_http_awaited(
        self, pair: Pair, dante: str, origin: Origin, scheme: str, http2: bool
    ) -> None:
        options = {"verify": origin.trust(), "http2": http2, "local_address": CLIENT_HOST}
        async with pair.async_client(dante, **options) as client:
            with anyio.fail_after(LONG):
                response = await client.get(f"{scheme}://localhost:{port_of(origin, scheme)}/")
            check(response, scheme, http2)


def port_of(origin: Origin, scheme: str) -> int:
    return origin.https_port if scheme == "https" else origin.http_port


def check(response: Any, scheme: str, http2: bool) -> None:
    assert response.status_code == 200
    # The request came to the origin from Dante.
    assert response.json()["client"][0] != CLIENT_HOST
    # Without TLS there is no ALPN to agree on HTTP/2 by.
    assert response.http_version == ("HTTP/2" if http2 and scheme == "https" else "HTTP/1.1")
