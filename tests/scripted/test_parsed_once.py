"""This process parses the destination and the address of each relay once on the whole way."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from contextlib import ExitStack

import anyio
import pytest

import socksclient.anyio
from socksclient import Proxy
from socksclient.testing import Faults, SocksServer

from helpers.support import BACKENDS, Address

RELAYS = ["127.0.0.9", "127.0.0.10"]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[object]:
    """Count what this thread parses. The test server runs in another thread."""
    found: Counter[object] = Counter()
    ours = threading.get_ident()
    parse = ipaddress.ip_address

    def count(address: object) -> object:
        if threading.get_ident() == ours:
            found[address] += 1
        return parse(address)  # type: ignore[arg-type]

    monkeypatch.setattr(ipaddress, "ip_address", count)
    return found


@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "socks4", "http"])
def test_destination_is_parsed_once(parsed: Counter[object], scheme: str) -> None:
    destination = ("127.0.0.8", 80)
    with SocksServer() as server:
        proxy = Proxy.from_url(server.url_as(scheme))
        parsed.clear()
        with pytest.raises(socksclient.ReplyError):
            socksclient.create_connection(destination, 60, proxy=proxy)
    # The proxy is at 127.0.0.1.
    assert parsed.pop("127.0.0.1") == 1
    assert parsed == {"127.0.0.8": 1}


def associate_and_send(driver: str, proxies: list[str], destination: Address) -> None:
    """Associate by a driver, and send two datagrams."""

    async def run() -> None:
        async with await socksclient.anyio.udp_associate(proxy=proxies) as udp:
            for _ in range(2):
                await udp.sendto(b"datagram", *destination)

    if driver == "blocking":
        with socksclient.udp_associate(60, proxy=proxies) as udp:
            for _ in range(2):
                udp.sendto(b"datagram", destination)
    else:
        anyio.run(run, **BACKENDS[driver])


@pytest.mark.parametrize("driver", ["blocking", *BACKENDS])
def test_addresses_of_datagram_are_parsed_once(parsed: Counter[object], driver: str) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(SocksServer(faults=Faults(bound_address=(relay, 4711))))
            for relay in RELAYS
        ]
        for count in (1, 2):
            urls = [server.url for server in servers[:count]]
            parsed.clear()
            associate_and_send(driver, urls, ("192.0.2.7", 53))
            assert [parsed[relay] for relay in RELAYS[:count]] == [1] * count
            assert parsed["192.0.2.7"] == 1
