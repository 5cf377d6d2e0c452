"""dnspython through Dante, V2Ray and shadowsocks, to a real name server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

import socksclient

from helpers import real_servers, real_services
from helpers.name_server import Ask, texts
from helpers.support import LONG, Address, needs

pytest_plugins = ["helpers.dns_fixtures"]
pytestmark = pytest.mark.usefixtures("no_descriptor_left_open")

PROXIES: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "dante": real_servers.dante,
    "v2ray": real_servers.v2ray,
    "shadowsocks": real_servers.shadowsocks,
}


RECORDS = {
    ("a.test", "A"): ["192.0.2.1"],
    ("aaaa.test", "AAAA"): ["2001:db8::1"],
    ("txt.test", "TXT"): ['"hello"'],
}


TOO_LONG = {("big.test", "TXT"): [f'"{text}"' for text in real_services.BIG]}
MISSING = [*real_servers.missing(), *real_services.missing()]


def patiently(ask: Callable[[float], dns.message.Message]) -> dns.message.Message:
    """Ask again if no answer came, as every user of UDP must.

    V2Ray sends to each address from a socket of its own. All of them have SO_REUSEPORT, so now and
    then two have the same port, and one of these receives nothing.
    """
    for _ in range(4):
        with suppress(dns.exception.Timeout, TimeoutError):
            return ask(1.0)
    return ask(LONG)


@pytest.fixture(scope="module", params=PROXIES)
def real_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with PROXIES[request.param](tmp_path_factory.mktemp("proxy")) as url:
        yield url


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def real_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    with real_services.name_server(tmp_path_factory.mktemp("dns"), request.param) as address:
        yield address


@needs(MISSING)
class TestRealServers:
    @pytest.mark.parametrize(("name", "kind"), RECORDS | TOO_LONG)
    def test_query_through_real_proxy_to_real_name_server(
        self, real_proxy: str, real_server: Address, ask: Ask, name: str, kind: str
    ) -> None:
        response = patiently(
            lambda timeout: ask(real_proxy, name, kind, server=real_server, timeout=timeout)
        )
        assert texts(response) == (RECORDS | TOO_LONG)[name, kind]

    @pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
    @pytest.mark.parametrize(("name", "kind"), RECORDS)
    def test_dnspython_query_udp_over_association(
        self, real_proxy: str, real_server: Address, name: str, kind: str, blocking: bool
    ) -> None:
        def ask(timeout: float) -> dns.message.Message:
            with socksclient.udp_associate(timeout, proxy=real_proxy) as udp:
                if not blocking:
                    udp.setblocking(False)
                # The relay may have another family than the name server.
                if ":" in host:
                    udp.connect(real_server)
                return dns.query.udp(query, host, timeout, port, sock=udp)

        host, port = real_server
        query = dns.message.make_query(name, kind)
        assert texts(patiently(ask)) == RECORDS[name, kind]

    def test_dnspython_udp_with_fallback_over_two_sockets(
        self, real_proxy: str, real_server: Address
    ) -> None:
        def ask(timeout: float) -> dns.message.Message:
            with (
                socksclient.udp_associate(timeout, proxy=real_proxy) as udp,
                socksclient.create_connection(real_server, timeout, proxy=real_proxy) as tcp,
            ):
                udp.connect(real_server)
                udp.setblocking(False)
                tcp.setblocking(False)
                response, used_tcp = dns.query.udp_with_fallback(
                    query, host, timeout, port, udp_sock=udp, tcp_sock=tcp
                )
            assert used_tcp
            return response

        host, port = real_server
        query = dns.message.make_query("big.test", "TXT")
        assert texts(patiently(ask)) == TOO_LONG["big.test", "TXT"]
