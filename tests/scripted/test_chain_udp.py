"""UDP associations through chains: each hop's relay takes its header off."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial

import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    AssociationClosed,
    ProtocolError,
    Proxy,
    ReplyError,
    ResolveError,
)
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers.hops import (
    HOSTS,
    Associate,
    MakeHops,
    Names,
    leads,
)
from helpers.http_clients import PROXY_HOST, nothing_left_open
from helpers.support import (
    Address,
    encode_datagram_header,
    eventually,
)

pytest_plugins = ["helpers.hop_fixtures"]


@pytest.fixture
def nowhere() -> Iterator[Address]:
    """Yield the address of a UDP socket that never answers."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


class TestChainUDP:
    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
    def test_chain_relay_removes_its_header(
        self,
        associate: Associate,
        hops: MakeHops,
        udp_echo: Address,
        count: int,
        scheme: str,
    ) -> None:
        with hops(*[scheme] * count) as chain, nothing_left_open():
            with associate(chain.proxies) as udp:
                for data in (b"datagram", b"", bytes(30_000)):
                    udp.send(data, udp_echo)
                    assert udp.receive() == (data, udp_echo)
                assert udp.udp.dropped == 0
                *outer, last = (server.connections[0].datagrams for server in chain.servers)
                assert [address for address, _ in last] == [udp_echo] * 3
                carried = encode_datagram_header(*udp_echo) + b"datagram"
                for datagrams in reversed(outer):
                    [relay] = {address for address, _ in datagrams}
                    assert relay[0] == HOSTS[1]
                    assert datagrams[0] == (relay, carried)
                    carried = encode_datagram_header(*relay) + carried
            commands = [[one.command for one in server.connections] for server in chain.servers]
            udp_associate, connect = Command.UDP_ASSOCIATE, Command.CONNECT
            for number, seen in enumerate(commands):
                assert sorted(seen, key=str) == [*[connect] * (count - 1 - number), udp_associate]

    def test_chain_udp_associate_announces_source_to_nearest_hop(
        self, associate: Associate, hops: MakeHops
    ) -> None:
        """Only the nearest hop sees the client's socket; any other hop sees the relay before it."""
        with hops("socks5h", "socks5h") as chain:
            with associate(chain.proxies, local_address=("127.0.0.1", 0)) as udp:
                port = udp.local_port
            assert chain.servers[0].connections[0].destination == ("127.0.0.1", port)
            assert chain.servers[1].connections[0].destination == ("0.0.0.0", 0)

    @pytest.mark.parametrize("last", ["socks5h", "socks5"])
    def test_chain_datagrams_to_names(
        self, associate: Associate, hops: MakeHops, names: Names, udp_echo: Address, last: str
    ) -> None:
        names["echo.test"] = ["127.0.0.1"]
        destination = ("echo.test", udp_echo[1])
        with hops("socks5h", last) as chain, associate(chain.proxies) as udp:
            udp.send(b"datagram", destination)
            assert udp.receive() == (b"datagram", udp_echo)
            [(seen, _)] = chain.servers[1].connections[0].datagrams
            assert seen == (destination if last == "socks5h" else udp_echo)
            send, receive = udp.connect(destination)
            send(b"connected")
            assert receive() == b"connected"

    @pytest.mark.parametrize(
        ("scheme", "host"), [("socks5h", "second.test"), ("socks5", "127.0.0.1")]
    )
    def test_chain_unspecified_relay_address_is_hop(
        self,
        associate: Associate,
        hops: MakeHops,
        names: Names,
        udp_echo: Address,
        scheme: str,
        host: str,
    ) -> None:
        # A socket at 0.0.0.0 sends from this address.
        names["second.test"] = ["127.0.0.1"]
        faults = Faults(relay_host="0.0.0.0")
        with hops(scheme) as chain, SocksServer(host="127.0.0.1", faults=faults) as second:
            last = Proxy("second.test", second.address[1])
            with associate([*chain.proxies, last]) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)
                [(relay, _)] = chain.servers[0].connections[0].datagrams
                assert relay[0] == host

    def test_chain_trust_relay_address_false(
        self, associate: Associate, hops: MakeHops, names: Names, udp_echo: Address
    ) -> None:
        faults = {1: Faults(bound_address=("192.0.2.1", 4711))}
        with hops("socks5h", "socks5h", faults=faults) as chain:
            leads(chain, names)
            with associate(chain.named(), trust_relay_address=False) as udp:
                assert udp.udp.relay_address[0] == PROXY_HOST
                udp.send(b"datagram", ("192.0.2.7", 1))
                seen = chain.servers[0].connections[0].datagrams
                assert eventually(lambda: bool(seen))
                inner = encode_datagram_header("192.0.2.7", 1) + b"datagram"
                assert seen == [(("second.test", 4711), inner)]

    def test_chain_relay_of_hop_with_ipv6_address(
        self, associate: Associate, hops: MakeHops, udp_echo_6: Address
    ) -> None:
        with hops("socks5h") as chain, SocksServer(host="::1") as second:
            with associate([*chain.proxies, second.url]) as udp:
                udp.send(b"datagram", udp_echo_6)
                assert udp.receive() == (b"datagram", udp_echo_6)
            assert second.connections[0].destination == ("::", 0)

    @pytest.mark.parametrize(
        ("told", "words"),
        [
            (("relay.test", 4711), "its relay is at 'relay.test', which is not an IP address"),
            (("127.0.0.1", 0), "port 0"),
        ],
    )
    @pytest.mark.parametrize("hop", [0, 1])
    def test_chain_invalid_relay_address(
        self, associate: Associate, hops: MakeHops, told: Address, words: str, hop: int
    ) -> None:
        faults = {hop: [Faults(bound_address=told)]}
        with hops("socks5h", "socks5h", faults=faults) as chain:
            with nothing_left_open(), pytest.raises(ProtocolError, match=words) as caught:
                associate(chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (hop, "relay")
        assert caught.value.proxy == chain.proxies[hop]

    @pytest.mark.parametrize("hop", [0, 1, 2])
    def test_chain_udp_associate_not_offered_by_hop(
        self, associate: Associate, hops: MakeHops, hop: int
    ) -> None:
        # To the nearest, the first connection is for its own association.
        with hops(*["socks5h"] * 3, faults={hop: [Faults(reply=0x07)]}) as chain:
            with (
                nothing_left_open(),
                pytest.raises(ReplyError, match="does not offer UDP ASSOCIATE") as caught,
            ):
                associate(chain.proxies, local_address=("127.0.0.1", 0))
        assert (caught.value.hop, caught.value.proxy) == (hop, chain.proxies[hop])
        assert caught.value.destination is None

    def test_chain_drops_datagrams_of_other_relays(
        self, associate: Associate, hops: MakeHops, udp_echo: Address
    ) -> None:
        forged: list[bytes] = []
        with hops("socks5h", "socks5h", faults={0: Faults(garbage=forged)}) as chain:
            with associate(chain.proxies) as udp:
                udp.send(b"first", udp_echo)
                assert udp.receive() == (b"first", udp_echo)
                [(relay, inner)] = chain.servers[0].connections[0].datagrams
                header = encode_datagram_header(*relay)
                forged += [
                    encode_datagram_header("127.0.0.9", relay[1]) + inner,
                    encode_datagram_header(relay[0], relay[1] ^ 1) + inner,
                    encode_datagram_header("relay.test", relay[1]) + inner,
                    inner,
                    header,
                    header + inner[:9],
                    header + b"\0\0\x01" + inner[3:],
                    b"\0\0\x01" + header[3:] + inner,
                    b"garbage",
                    b"",
                ]
                # In the second round the relays are known, and are judged as in the first.
                for number in (1, 2):
                    udp.send(b"second", udp_echo)
                    assert udp.receive() == (b"second", udp_echo)
                    assert udp.udp.dropped == number * len(forged)

    def test_chain_drops_garbage_of_last_relay(
        self, associate: Associate, hops: MakeHops, udp_echo: Address
    ) -> None:
        garbage = [b"", b"garbage", b"\0\0\x01\x01" + bytes(6), b"\0\0\0\x01" + bytes(5)]
        with hops("socks5h", "socks5h", faults={1: Faults(garbage=garbage)}) as chain:
            with associate(chain.proxies) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)
                assert udp.udp.dropped == len(garbage)

    def test_chain_connected_association_hears_its_destination_only(
        self, associate: Associate, hops: MakeHops, udp_echo: Address
    ) -> None:
        stranger = encode_datagram_header("192.0.2.1", 53) + b"strange"
        with hops("socks5h", "socks5h", faults={1: Faults(garbage=[stranger])}) as chain:
            with associate(chain.proxies) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"strange", ("192.0.2.1", 53))
                assert udp.receive() == (b"datagram", udp_echo)
                send, receive = udp.connect(udp_echo)
                send(b"connected")
                assert receive() == b"connected"
                assert udp.udp.dropped == 1

    @pytest.mark.parametrize(("count", "hop"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
    def test_chain_association_closed_by_any_hop(
        self, associate: Associate, hops: MakeHops, nowhere: Address, count: int, hop: int
    ) -> None:
        faults = {hop: [Faults(end_after=1)]}
        with hops(*["socks5h"] * count, faults=faults) as chain, nothing_left_open():
            with associate(chain.proxies) as udp:
                waiting = udp.receive_soon()
                udp.send(b"datagram", nowhere)
                errors = [waiting.exception(10)]
                for use in (udp.receive, partial(udp.send, b"more", nowhere)):
                    with pytest.raises(AssociationClosed) as caught:
                        use()
                    errors.append(caught.value)
        for error in errors:
            assert isinstance(error, AssociationClosed)
            assert (error.hop, error.proxy) == (hop, chain.proxies[hop])
            assert (error.phase, error.destination) == ("relay", None)
        number = f", hop: {hop}" if hop else ""
        assert f"(phase: relay{number}, proxy: {chain.proxies[hop].place})" in str(errors[0])

    @pytest.mark.parametrize("hop", [0, 1])
    def test_chain_control_connection_data_is_ignored(
        self, associate: Associate, hops: MakeHops, udp_echo: Address, hop: int
    ) -> None:
        faults = {hop: Faults(control_data=b"news" * 100)}
        with hops("socks5h", "socks5h", faults=faults) as chain, associate(chain.proxies) as udp:
            for _ in range(3):
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)

    def test_chain_longest_datagram(
        self, associate: Associate, hops: MakeHops, nowhere: Address
    ) -> None:
        most = 65507 - 3 * 10
        with hops(*["socks5h"] * 3) as chain, associate(chain.proxies) as udp:
            udp.send(bytes(most), nowhere)
            with pytest.raises(OSError, match="Message too long"):
                udp.send(bytes(most + 1), nowhere)

    def test_chain_receive_timeout(self, hops: MakeHops) -> None:
        with hops("socks5h", "socks5h") as chain:
            with socksclient.udp_associate(10, proxy=chain.proxies) as udp:
                udp.settimeout(0.02)
                with pytest.raises(TimeoutError, match=r"^timed out$"):
                    udp.recvfrom()

    def test_chain_datagram_to_unknown_name(
        self, associate: Associate, hops: MakeHops, names: Names
    ) -> None:
        with hops("socks5h", "socks5") as chain, associate(chain.proxies) as udp:
            with pytest.raises(ResolveError, match=r"nowhere\.test") as caught:
                udp.send(b"", ("nowhere.test", 53))
        assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[1])
