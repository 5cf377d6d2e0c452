"""Datagrams (RFC 1928 §7): what they are on the wire, and what becomes of whatever comes."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import example, given, strategies as st

from socksclient.protocol.address import (
    Host,
    decode_address,
    decode_destination,
    is_address,
    without_mapping,
)
from socksclient.protocol.socks5 import MAX_HEADER_SIZE, datagram_header_size

from helpers.support import Address, encode_datagram_header, unix_association

HOSTS = st.ip_addresses().map(str) | st.from_regex(r"[!-.0-9;-?A-Z\\^-~]{1,255}", fullmatch=True)
ADDRESSES = st.tuples(HOSTS, st.integers(0, 0xFFFF))
PAYLOADS = st.binary(max_size=300)
GOOD = st.builds(
    lambda address, payload: encode_datagram_header(*address) + payload, ADDRESSES, PAYLOADS
)
BEGINNINGS = [b"\0\0\0" + rest for rest in (b"", b"\x01", b"\x03", b"\x03\x05", b"\x04")]
ALMOST = st.tuples(st.sampled_from(BEGINNINGS), PAYLOADS).map(b"".join)
DATAGRAMS = GOOD | ALMOST | st.binary(max_size=600)

Parsed = tuple[str | ipaddress.IPv4Address | ipaddress.IPv6Address, int, bytes]


def parse(octets: bytes) -> Parsed | None:
    """Read a datagram as RFC 1928 says: return source and payload, or None if it must be dropped.

    An IPv4-mapped source becomes the IPv4 address (RFC 4291 §2.5.5.2).
    """
    try:
        rsv, frag, atyp = struct.unpack_from("!HBB", octets)
        size = struct.unpack_from("!B", octets, 4)[0] if atyp == 0x03 else {1: 4, 4: 16}[atyp]
        begin = 5 if atyp == 0x03 else 4
        addr, port = struct.unpack_from(f"!{size}sH", octets, begin)
    except (struct.error, KeyError):
        return None
    if rsv or frag:
        return None
    payload = octets[begin + size + 2 :]
    if atyp == 0x03:
        return addr.decode("ascii", "backslashreplace"), port, payload
    ip = ipaddress.ip_address(addr)
    return getattr(ip, "ipv4_mapped", None) or ip, port, payload


def parsed(address: Address, payload: bytes, *, name: bool) -> Parsed:
    """Return what `parse` returns for what the library has found."""
    host, port = address
    return host if name else ipaddress.ip_address(host), port, payload


@given(ADDRESSES, PAYLOADS)
@example(("n" * 255, 0xFFFF), b"payload")
@example(("127.0.0.1", 0), b"")
@example(("::ffff:127.0.0.1", 53), b"payload")
def test_a_header_survives_the_wire(address: Address, payload: bytes) -> None:
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
def test_the_size_of_a_header(host: str, size: int) -> None:
    header = encode_datagram_header(host, 53)
    assert len(header) == size
    assert datagram_header_size(header) == size
    for short in range(size):
        assert datagram_header_size(header[:short]) == 0


@given(DATAGRAMS)
@example(b"\0\0\0\x03\0\0\0")
def test_whatever_comes_has_a_header_or_has_not(octets: bytes) -> None:
    size = datagram_header_size(octets)
    expected = parse(octets)
    if expected is None:
        assert size == 0
    else:
        address = decode_address(octets[3:size])
        assert parsed(address, octets[size:], name=octets[3] == 0x03) == expected


@given(st.lists(DATAGRAMS, max_size=9), st.integers(0, 700))
def test_whatever_comes_is_delivered_or_counted(datagrams: list[bytes], size: int) -> None:
    dropped = 0
    with unix_association() as (udp, relay):
        # In the second round, the sources are known.
        for octets in datagrams * 2:
            relay.send(octets)
            received = udp.receive(size)
            expected = parse(octets)
            if received is None:
                assert expected is None
                dropped += 1
            else:
                got, header_size, source = received
                payload = got[header_size : header_size + size]
                assert expected is not None
                host, port, whole = expected
                assert parsed(source, payload, name=octets[3] == 0x03) == (host, port, whole[:size])
            assert udp.dropped == dropped
            with pytest.raises(BlockingIOError):
                udp.receive(size)
        assert udp.dropped == dropped


def known_as(host: str) -> str:
    """Return the same text for all spellings of a host."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".").lower()
    return str(getattr(ip, "ipv4_mapped", None) or ip)


SPELLINGS = ["name", "NAME.", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:DB8:0::1"]


@given(
    st.lists(st.tuples(st.sampled_from(SPELLINGS) | HOSTS, st.sampled_from([53, 54])), min_size=1),
    st.data(),
)
def test_connected_to_an_address_that_alone_is_heard(
    addresses: list[Address], data: st.DataObject
) -> None:
    addresses = [(Host.parse(host).text, port) for host, port in addresses]
    peer, peer_port = data.draw(st.sampled_from(addresses))
    with unix_association() as (udp, relay):
        udp.connect((Host.parse(peer), peer_port))
        for host, port in addresses * 2:
            relay.send(encode_datagram_header(host, port) + b"payload")
            same = known_as(host) == known_as(peer) or (is_address(host) and not is_address(peer))
            assert (udp.receive(100) is not None) == (same and port == peer_port)
