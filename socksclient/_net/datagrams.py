"""The headers of datagrams (RFC 1928 §7), one for each hop of an association: pure functions.

Each hop's relay takes off one header and sends the rest to the target in that header. So a datagram
that leaves this process begins with a header that names the relay of the next hop, then one for the
relay behind that, and so on; the last header names the destination. A datagram that arrives begins
with as many headers, each of which names the source as the relay of that hop saw it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from socksclient.protocol.address import Host, HostPort, decode_address, is_address
from socksclient.protocol.socks5 import datagram_header_size, encode_datagram_header

__all__ = ["MAX_DATAGRAM_SIZE", "Target", "encode_headers", "is_from", "size_of_headers", "unwrap"]

Target: TypeAlias = tuple[Host, int]
"""The host and the port that one header names."""

MAX_DATAGRAM_SIZE = 0xFFFF - 20 - 8
"""The octets that a UDP datagram in an IPv4 packet can carry: 65,507."""


def encode_headers(targets: Iterable[Target]) -> bytes:
    """Return one header for each target, the header for the nearest hop first."""
    return b"".join(encode_datagram_header(host, port) for host, port in targets)


def size_of_headers(octets: bytes, count: int) -> int:
    """Return how many octets the first `count` headers of a datagram have.

    Returns:
        The octets of all headers together; 0 if the datagram is to be dropped, because one of them
        is cut off, belongs to a fragment, or has a form that RFC 1928 does not know.
    """
    total = 0
    for _ in range(count):
        size = datagram_header_size(octets[total:])
        if size == 0:
            return 0
        total += size
    return total


def unwrap(headers: bytes, relays: Sequence[Target]) -> HostPort | None:
    """Return the source that the last header of a datagram names.

    Args:
        headers: All headers of the datagram, and nothing else: one more than there are relays.
        relays: Where the relays of all hops but the nearest one are. Each header but the last one
            must name the relay of the next hop as the source.

    Returns:
        The (host, port) of the source; None if a host other than the relay of a next hop has sent
        the datagram to the relay of the hop before.
    """
    for relay in relays:
        size = datagram_header_size(headers)
        if not is_from(decode_address(headers[3:size]), relay):
            return None
        headers = headers[size:]
    return decode_address(headers[3:])


def is_from(source: HostPort, target: Target) -> bool:
    """Return whether a datagram from `source` may have been sent by `target`.

    If the target is a name, only the proxy knows the address of that name. Dante gives the address
    as the source, and v2ray gives the name. So this function accepts every address as the source
    if the port is that of the target.

    Args:
        source: The (host, port) in the header of the datagram.
        target: The host and the port that datagrams are sent to. The host may be an IPv4-mapped
            address if the caller has written it so; no source is one, because `decode_address`
            has replaced it.
    """
    (host, port), (wanted, wanted_port) = source, target
    if port != wanted_port:
        return False
    if _without_case(host) == _without_case(wanted.unmapped.text):
        return True
    return wanted.is_name and is_address(host)


def _without_case(host: str) -> str:
    """Return a host in the form to compare: in lower case, without the dot at its end."""
    return host.rstrip(".").lower()
