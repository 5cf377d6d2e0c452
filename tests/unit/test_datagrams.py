"""The headers of datagrams (RFC 1928 §7): the octets, the headers of all hops, and the source."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from socksclient._net.datagrams import encode_headers, is_from, size_of_headers, unwrap
from socksclient.protocol.address import (
    Host,
    decode_address,
    decode_destination,
    is_address,
    without_mapping,
)
from socksclient.protocol.socks5 import MAX_HEADER_SIZE, datagram_header_size

from helpers.datagrams import ADDRESSES, DATAGRAMS, PAYLOADS, parse, parsed
from helpers.support import Address, encode_datagram_header


@given(ADDRESSES, PAYLOADS)
@example(("n" * 255, 0xFFFF), b"payload")
@example(("127.0.0.1", 0), b"")
@example(("::ffff:127.0.0.1", 53), b"payload")
def test_encode_datagram_header_and_decode_address(address: Address, payload: bytes) -> None:
    host, port = Host.parse(address[0]).text, address[1]
    header = encode_datagram_header(host, port)
    assert datagram_header_size(header + payload) == len(header) <= MAX_HEADER_SIZE
    assert decode_destination(header[3:]) == (host, port)
    source = decode_address(header[3:])
    assert source == (without_mapping(host), port)
    assert parse(header + payload) == parsed(source, payload, name=not is_address(host))


@pytest.mark.parametrize(
    ("host", "size"), [("192.0.2.1", 10), ("2001:db8::1", 22), ("name", 7 + 4), ("n" * 255, 262)]
)
def test_datagram_header_size(host: str, size: int) -> None:
    header = encode_datagram_header(host, 53)
    assert len(header) == size
    assert datagram_header_size(header) == size
    for short in range(size):
        assert datagram_header_size(header[:short]) == 0


@given(DATAGRAMS)
@example(b"\0\0\0\x03\0\0\0")
def test_datagram_header_size_of_whatever_comes(octets: bytes) -> None:
    size = datagram_header_size(octets)
    expected = parse(octets)
    if expected is None:
        assert size == 0
    else:
        address = decode_address(octets[3:size])
        assert parsed(address, octets[size:], name=octets[3] == 0x03) == expected


def headers_of(*addresses: Address) -> bytes:
    """Return one header for each (host, port)."""
    return b"".join(encode_datagram_header(*address) for address in addresses)


RELAY = ("192.0.2.7", 1080)
NEXT_RELAY = ("2001:db8::7", 1081)
SOURCE = ("name.test", 53)


def test_encode_headers_begins_with_the_nearest_hop() -> None:
    targets = [(Host.of(host), port) for host, port in (RELAY, NEXT_RELAY)]
    assert encode_headers(targets) == headers_of(RELAY, NEXT_RELAY)
    assert encode_headers([]) == b""


@given(st.lists(ADDRESSES, min_size=1, max_size=4), PAYLOADS)
def test_size_of_headers_of_all_hops(addresses: list[Address], payload: bytes) -> None:
    headers = headers_of(*addresses)
    assert size_of_headers(headers + payload, len(addresses)) == len(headers)


@pytest.mark.parametrize("addresses", [[RELAY], [RELAY, NEXT_RELAY], [RELAY, SOURCE, NEXT_RELAY]])
def test_size_of_headers_that_are_cut_off_is_0(addresses: list[Address]) -> None:
    headers = headers_of(*addresses)
    for size in range(len(headers)):
        assert size_of_headers(headers[:size], len(addresses)) == 0


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("bad", [b"\0\0\x01\x01", b"\0\x01\0\x01", b"\0\0\0\x02"])
def test_size_of_headers_with_a_bad_one_is_0(number: int, bad: bytes) -> None:
    """A fragment, an RSV that is not 0, and an address type that RFC 1928 does not know."""
    headers = [encode_datagram_header(*RELAY) for _ in range(3)]
    headers[number] = bad + headers[number][4:]
    assert size_of_headers(b"".join(headers) + b"payload", 3) == 0


@given(st.lists(DATAGRAMS, min_size=1, max_size=3))
def test_size_of_headers_of_whatever_comes(datagrams: list[bytes]) -> None:
    octets = rest = b"".join(datagrams)
    for _ in datagrams:
        header = parse(rest)
        if header is None:
            assert size_of_headers(octets, len(datagrams)) == 0
            return
        rest = header[2]
    assert size_of_headers(octets, len(datagrams)) == len(octets) - len(rest)


def test_unwrap_returns_the_source_in_the_last_header() -> None:
    relays = [(Host.of(host), port) for host, port in (RELAY, NEXT_RELAY)]
    assert unwrap(headers_of(SOURCE), []) == SOURCE
    assert unwrap(headers_of(RELAY, SOURCE), relays[:1]) == SOURCE
    assert unwrap(headers_of(RELAY, NEXT_RELAY, SOURCE), relays) == SOURCE
    mapped = ("::ffff:192.0.2.7", 1080)
    assert unwrap(headers_of(mapped, NEXT_RELAY, mapped), relays) == RELAY


@pytest.mark.parametrize(
    "sources",
    [
        [("192.0.2.8", 1080), NEXT_RELAY],
        [("192.0.2.7", 1081), NEXT_RELAY],
        [RELAY, ("2001:db8::7", 1080)],
        [RELAY, ("name.test", 1081)],
        [NEXT_RELAY, RELAY],
    ],
)
def test_unwrap_drops_a_datagram_that_no_relay_of_the_chain_has_sent(
    sources: list[Address],
) -> None:
    relays = [(Host.of(host), port) for host, port in (RELAY, NEXT_RELAY)]
    assert unwrap(headers_of(*sources, SOURCE), relays) is None


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "relay.test", "RELAY.test."])
def test_unwrap_takes_any_address_for_a_relay_with_a_name(host: str) -> None:
    relays = [(Host.of("Relay.test"), 1080)]
    assert unwrap(headers_of((host, 1080), SOURCE), relays) == SOURCE
    assert unwrap(headers_of((host, 1081), SOURCE), relays) is None


@pytest.mark.parametrize(
    ("source", "target", "result"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "name.test", True),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:DB8::1", "2001:db8::1", True),
        ("2001:db8::1", "name.test", True),
        ("2001:db8::1", "192.0.2.1", False),
        ("name.test", "name.test", True),
        ("NAME.test.", "name.TEST", True),
        ("name.test", "other.test", False),
        ("name.test", "192.0.2.1", False),
        ("", "name.test", False),
    ],
)
def test_is_from(source: str, target: str, result: bool) -> None:
    assert is_from((source, 53), (Host.of(target), 53)) is result
    assert is_from((source, 54), (Host.of(target), 53)) is False
