"""Datagrams of all kinds for property tests, and a second parser to compare the library with."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import strategies as st

from helpers.support import Address, encode_datagram_header

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


def known_as(host: str) -> str:
    """Return the same text for all spellings of a host."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".").lower()
    return str(getattr(ip, "ipv4_mapped", None) or ip)
