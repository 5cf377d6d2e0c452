"""How often this process parses an IP address on the way: the destination and the relay once."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter

import pytest

import socksclient
from socksclient import Proxy
from socksclient.testing import Faults, SocksServer

RELAY = "127.0.0.9"


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
def test_a_destination_is_parsed_once(parsed: Counter[object], scheme: str) -> None:
    destination = ("127.0.0.8", 80)
    with SocksServer() as server:
        proxy = Proxy.from_url(server.url_as(scheme))
        parsed.clear()
        with pytest.raises(socksclient.ReplyError):
            socksclient.create_connection(destination, 60, proxy=proxy)
    # The proxy is at 127.0.0.1.
    assert parsed.pop("127.0.0.1") == 1
    assert parsed == {"127.0.0.8": 1}


def test_a_relay_and_the_destination_of_a_datagram_are_parsed_once(
    parsed: Counter[object],
) -> None:
    with SocksServer(faults=Faults(bound_address=(RELAY, 4711))) as server:
        with socksclient.udp_associate(60, proxy=server.url) as udp:
            assert parsed[RELAY] == 1
            udp.sendto(b"datagram", ("192.0.2.7", 53))
            udp.sendto(b"datagram", ("192.0.2.7", 53))
    assert (parsed[RELAY], parsed["192.0.2.7"]) == (1, 1)
