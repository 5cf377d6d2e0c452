"""Tor's RESOLVE and RESOLVE_PTR, as `socksclient.testing.SocksServer` answers them."""

from __future__ import annotations

import pytest

from socksclient.testing import SocksServer

from helpers.raw_clients import NOWHERE, talk

TOR = {
    ("name.test", 0): ("192.0.2.7", 0),
    ("six.test", 0): ("2001:db8::7", 0),
    ("192.0.2.7", 0): ("ptr.test", 0),
    ("2001:db8::7", 0): ("ptr.test", 0),
}


@pytest.mark.parametrize(
    ("asked", "reply"),
    [
        ("f0 00 03 09 6e616d652e74657374", "00 00 01 c0 00 02 07 00 00"),
        ("f0 00 03 08 7369782e74657374", f"00 00 04 20 01 0d b8 {'00 ' * 11}07 00 00"),
        ("f0 00 01 c6336401", "00 00 01 c6 33 64 01 00 00"),
        ("f0 00 03 0c 6e616d652e696e76616c6964", f"04 00 {NOWHERE}"),
        ("f1 00 01 c0000207", f"00 00 03 08 {b'ptr.test'.hex(' ')} 00 00"),
        (f"f1 00 04 20010db8 {'00' * 11}07", f"00 00 03 08 {b'ptr.test'.hex(' ')} 00 00"),
        ("f1 00 01 c0000208", f"04 00 {NOWHERE}"),
        (f"f1 00 04 {'00' * 15}01", f"04 00 {NOWHERE}"),
    ],
)
def test_tor_resolve_answers_by_the_routes_and_closes_the_connection(
    asked: str, reply: str
) -> None:
    with SocksServer(routes=TOR) as server:
        talk(server, ("05 01 00", "05 00"), (f"05 {asked} 00 00", f"05 {reply}"))
        assert server.requests[0].command == int(asked[:2], 16)


def test_tor_resolve_asks_the_resolver_for_a_name_without_a_route(
    names: dict[str, list[str]],
) -> None:
    names.update({"real.test": ["192.0.2.9", "192.0.2.8"], "127.0.0.1": ["127.0.0.1"]})
    with SocksServer() as server:
        request = "05 f0 00 03 09 7265616c2e74657374 00 00"
        talk(server, ("05 01 00", "05 00"), (request, "05 00 00 01 c0 00 02 09 00 00"))


def test_tor_resolve_works_by_socks4a() -> None:
    with SocksServer(routes=TOR) as server:
        request = f"04 f0 00 00 00 00 00 01 00 {b'name.test'.hex()} 00"
        talk(server, (request, "00 5a 00 00 c0 00 02 07"))
