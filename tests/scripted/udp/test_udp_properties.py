"""Whatever arrives at an association: random datagrams, and random sources."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from socksclient.protocol.address import Host, is_address

from helpers.datagrams import DATAGRAMS, HOSTS, known_as, parse, parsed
from helpers.support import Address, encode_datagram_header, unix_association


@given(st.lists(DATAGRAMS, max_size=9), st.integers(0, 700))
def test_receive_delivers_or_counts_whatever_comes(datagrams: list[bytes], size: int) -> None:
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


SPELLINGS = ["name", "NAME.", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:DB8:0::1"]


@given(
    st.lists(st.tuples(st.sampled_from(SPELLINGS) | HOSTS, st.sampled_from([53, 54])), min_size=1),
    st.data(),
)
def test_connect_hears_only_the_destination_of_all_addresses(
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
