"""The replies of real proxies that cannot do a request, and the errors that tell of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from socksclient import (
    USERNAME_PASSWORD,
    ConnectionNotAllowed,
    Proxy,
    ProxyClosed,
    Reply,
    ReplyError,
)

from helpers import library_servers, real_servers
from helpers.hops import Authority, Connect
from helpers.support import REFUSED_PORT, Address, Dial, assert_echoes, needs

pytest_plugins = ["helpers.hop_fixtures"]

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

Start = Callable[[Path], AbstractContextManager[str]]

SERVERS: dict[str, Start] = {
    "ssh -D": real_servers.openssh,
    "asyncssh": lambda _: library_servers.asyncssh_socks(),
    "ss-local": real_servers.shadowsocks,
    "i2pd": real_servers.i2pd,
}


@pytest.fixture(scope="module")
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with SERVERS[request.param](tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.mark.parametrize("proxy", ["ssh -D", "asyncssh"], indirect=True)
def test_openssh_and_asyncssh_hang_up_if_only_a_password_is_offered(
    proxy: str, dial: Dial, echo_server: Address
) -> None:
    with_password = replace(
        Proxy.from_url(proxy), username="user", password="pass", methods=(USERNAME_PASSWORD,)
    )
    text = r"hung up .*, or accepts none of the methods offered \(02\)"
    with pytest.raises(ProxyClosed, match=text) as caught:
        dial(echo_server, proxy=with_password)
    assert caught.value.phase == "method selection"


# ss-local does not speak SOCKS4.
@pytest.mark.parametrize(
    ("proxy", "scheme"),
    [("asyncssh", "socks5h"), ("asyncssh", "socks4a"), ("ss-local", "socks5h")],
    indirect=["proxy"],
)
class TestReplyBeforeConnect:
    def test_proxy_that_replies_before_it_connects_passes_data(
        self, proxy: str, scheme: str, dial: Dial, echo_server: Address
    ) -> None:
        with dial(echo_server, proxy=proxy.replace("socks5h", scheme)) as sock:
            assert_echoes(sock)

    def test_proxy_that_replies_before_it_connects_hangs_up_if_the_destination_refuses(
        self, proxy: str, scheme: str, dial: Dial
    ) -> None:
        destination = ("127.0.0.1", REFUSED_PORT)
        with dial(destination, proxy=proxy.replace("socks5h", scheme)) as sock:
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""


@pytest.mark.parametrize("proxy", ["i2pd"], indirect=True)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "name.test"])
def test_i2pd_replies_rep_08_to_any_address(proxy: str, host: str, dial: Dial) -> None:
    with pytest.raises(ReplyError) as caught:
        dial((host, 80), proxy=proxy)
    assert caught.value.reply is Reply.ADDRESS_TYPE_NOT_SUPPORTED


def test_stunnel_socks_allows_no_destination_on_loopback(
    connect: Connect, authority: Authority, echo_server: Address, tmp_path: Path
) -> None:
    with real_servers.stunnel_socks(tmp_path, authority.certificate) as url:
        proxy = replace(Proxy.from_url(url), tls=authority.client())
        with pytest.raises(
            ConnectionNotAllowed, match=r"not allowed by ruleset \(REP 02\)"
        ) as caught:
            connect(echo_server, proxy=proxy)
    assert caught.value.phase == "request"
