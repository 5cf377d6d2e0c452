"""The destinations of datagrams: addresses, names, and the one destination of `connect`."""

from __future__ import annotations

import errno
import os
import socket
import threading
from functools import partial

import dns.message
import dns.query
import pytest

import socksclient.anyio
from socksclient import (
    ProxyTimeout,
    ResolveError,
)
from socksclient.testing import SocksServer

from helpers.associations import (
    DATAGRAM,
    DESTINATION,
    Associate,
    Talk,
    assert_echoes,
    associate_with,
    from_,
    name_of,
)
from helpers.support import (
    LONG,
    SHORT,
    Address,
    PlayedProxy,
    echoing_datagrams,
    encode_datagram_header,
    in_thread,
    resolved_names,
    resolver,
)

ALL_KINDS = [DESTINATION, ("2001:db8::1", 53), ("name.test", 53), ("n" * 255, 53)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_association_reaches_all_kinds_of_destinations(
    associate: Associate, poll: str, host: str, udp_echo: Address, udp_echo_6: Address
) -> None:
    with (
        echoing_datagrams() as named,
        echoing_datagrams("::1") as named_6,
        SocksServer(host=host) as server,
    ):
        server.routes = {("name.test", 53): named, ("other.test", 53): named_6}
        talk = associate(server.url)
        assert talk.relay_address[0] == host
        for turn in range(2):
            for address in (udp_echo, ("name.test", 53), udp_echo_6, ("other.test", 53)):
                assert_echoes(talk, address, b"%d" % turn)
        assert_echoes(talk, udp_echo, b"")
        assert_echoes(talk, udp_echo, bytes(range(256)) * 250)
        assert talk.dropped == 0


def test_association_leaves_names_to_the_proxy(associate: Associate, udp_echo: Address) -> None:
    address = ("secret-name.test", 53)
    with SocksServer(routes={address: udp_echo}) as server:
        with resolved_names() as names:
            talk = associate(server.url)
            assert_echoes(talk, address)
            talk.connect(address)
            talk.send(b"once more")
            assert talk.receive() == (b"once more", address)
        assert names == []
        [seen] = server.connections
        assert [destination for destination, _ in seen.datagrams] == [address] * 2


class TestNamesResolvedHere:
    @pytest.fixture
    def looked_up(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        looked_up = []
        known = {
            "name.test": ["192.0.2.1", "2001:db8::1", "192.0.2.2"],
            "six.test": ["2001:db8::2", "192.0.2.3"],
        }

        def look_up(name: str) -> list[str]:
            looked_up.append(name)
            return known.get(name, [])

        monkeypatch.setattr(socket, "getaddrinfo", resolver(look_up))
        return looked_up

    def test_sendto_resolves_each_name_once(
        self, associate: Associate, looked_up: list[str], played: PlayedProxy
    ) -> None:
        talk = associate(played.url.replace("socks5h", "socks5"))
        for _ in range(3):
            for name, address in [("name.test", "192.0.2.1"), ("six.test", "2001:db8::2")]:
                talk.send(b"datagram", (name, 53))
                assert played.hear() == encode_datagram_header(address, 53) + b"datagram"
            talk.send(b"datagram", DESTINATION)
            assert played.hear() == DATAGRAM
        assert looked_up == ["name.test", "six.test"]

    def test_connect_to_a_name_hears_its_first_address_only(
        self, associate: Associate, looked_up: list[str], played: PlayedProxy
    ) -> None:
        talk = associate(played.url.replace("socks5h", "socks5"))
        talk.connect(("name.test", 53))
        talk.send(b"datagram")
        assert played.hear() == DATAGRAM
        played.say(encode_datagram_header("192.0.2.2", 53), DATAGRAM)
        assert talk.receive() == (b"datagram", DESTINATION)
        assert talk.dropped == 1
        assert looked_up == ["name.test"]

    def test_sendto_and_connect_raise_resolve_error(
        self, associate: Associate, looked_up: list[str], played: PlayedProxy
    ) -> None:
        talk = associate(played.url.replace("socks5h", "socks5"))
        for call in (partial(talk.send, b""), talk.connect):
            with pytest.raises(ResolveError, match=r"cannot resolve none\.test") as caught:
                call(("none.test", 53))
            assert caught.value.phase == "resolve"
            assert caught.value.destination == ("none.test", 53)
            assert caught.value.proxy is not None
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM

    def test_sendto_raises_proxy_timeout_while_it_resolves(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = threading.Event()

        def look_up(_name: str) -> list[str]:
            answer.wait()
            return ["127.0.0.1"]

        with SocksServer() as server:
            url = server.url.replace("socks5h", "socks5")
            with socksclient.udp_associate(SHORT, proxy=url) as udp:
                monkeypatch.setattr(socket, "getaddrinfo", resolver(look_up))
                with pytest.raises(ProxyTimeout) as caught:
                    udp.sendto(b"", ("name.test", 53))
                assert caught.value.phase == "resolve"
                answer.set()
                # A socket that never waits may still ask the resolver.
                udp.setblocking(False)
                assert udp.sendto(b"", ("name.test", 53)) == 0


@pytest.mark.parametrize("destination", ALL_KINDS, ids=name_of)
def test_sendto_the_longest_datagram(
    associate: Associate, played: PlayedProxy, destination: Address
) -> None:
    talk = associate(played.url)
    header = encode_datagram_header(*destination)
    most = 65507 - len(header)
    with pytest.raises(OSError, match="Message too long") as caught:
        talk.send(bytes(most + 1), destination)
    assert (caught.type, caught.value.errno) == (OSError, errno.EMSGSIZE)
    payload = os.urandom(most)
    talk.send(payload, destination)
    # The longer datagram has not come before this one.
    assert played.hear() == header + payload
    played.say(header + payload)
    assert talk.receive() == (payload, destination)


def test_dnspython_takes_an_answer_from_a_mapped_address(played: PlayedProxy) -> None:
    """The source of an answer must be the destination of the query."""

    def answer() -> None:
        query = dns.message.from_wire(played.hear()[len(DATAGRAM) - len(b"datagram") :])
        header = encode_datagram_header("::ffff:192.0.2.1", 53)
        played.say(header + dns.message.make_response(query).to_wire())

    with socksclient.udp_associate(LONG, proxy=played.url) as udp:
        answering = in_thread(answer)
        query = dns.message.make_query("name.test", "A")
        assert dns.query.udp(query, DESTINATION[0], LONG, sock=udp).id == query.id
        answering.result(LONG)


def test_sendto_an_ipv4_mapped_destination(associate: Associate, played: PlayedProxy) -> None:
    """The association sends the address as it is, and takes answers from either form of it."""
    talk = associate(played.url)
    header = b"\0\0\0\x04" + bytes(10) + b"\xff\xff\xc0\0\x02\x01" + b"\0\x35"
    mapped = ("::ffff:192.0.2.1", 53)
    talk.send(b"datagram", mapped)
    assert played.hear() == header + b"datagram"
    talk.connect(mapped)
    talk.send(b"datagram")
    assert played.hear() == header + b"datagram"
    other = encode_datagram_header("::ffff:192.0.2.2", 53)
    played.say(other + b"no", DATAGRAM, other + b"no", header + b"as it was sent")
    assert [talk.receive()[0] for _ in range(2)] == [b"datagram", b"as it was sent"]
    assert talk.dropped == 2


def assert_hears(talk: Talk, *sources: Address) -> None:
    for source in sources:
        assert talk.receive()[0] == repr(source).encode()


NOT_HEARD = [
    ("192.0.2.1", 54),
    ("2001:db8::1", 54),
    ("name.test", 54),
    ("other.test", 53),
    ("", 53),
]


@pytest.mark.parametrize(
    ("peer", "heard", "not_heard"),
    [
        (
            ("192.0.2.1", 53),
            [("192.0.2.1", 53), ("::ffff:192.0.2.1", 53)],
            [("192.0.2.2", 53), ("2001:db8::1", 53), ("name.test", 53)],
        ),
        (
            ("2001:DB8:0::1", 53),
            [("2001:db8::1", 53)],
            [("192.0.2.1", 53), ("2001:db8::2", 53), ("name.test", 53)],
        ),
        (
            ("Name.test", 53),
            [("Name.test", 53), ("nAME.TEST.", 53), ("192.0.2.9", 53), ("2001:db8::9", 53)],
            [("name.test.", 54), ("ame.test", 53), ("name..test", 53)],
        ),
    ],
    ids=["IPv4", "IPv6", "name"],
)
def test_connect_hears_one_destination_only(
    associate: Associate,
    played: PlayedProxy,
    peer: Address,
    heard: list[Address],
    not_heard: list[Address],
) -> None:
    talk = associate_with(played, associate)
    not_heard = [*NOT_HEARD, *not_heard]
    # In the second round, all sources are known.
    for _ in range(2):
        played.say(*from_(*heard, *not_heard))
        assert_hears(talk, *heard, *not_heard)
    assert talk.dropped == 0
    talk.connect(peer)
    for turn in range(1, 3):
        played.say(*from_(*not_heard, *heard))
        assert_hears(talk, *heard)
        assert talk.dropped == turn * len(not_heard)
    talk.send(b"datagram")
    host = peer[0].replace(":0::", "::")
    assert played.hear() == encode_datagram_header(host, 53) + b"datagram"


def test_connect_again_hears_the_other_destination(
    associate: Associate, played: PlayedProxy
) -> None:
    talk = associate_with(played, associate)
    one, two = ("192.0.2.1", 53), ("192.0.2.2", 53)
    for turn, (peer, other) in enumerate([(one, two), (two, one), (one, two)], 1):
        talk.connect(peer)
        played.say(*from_(other, peer, other, peer))
        assert_hears(talk, peer, peer)
        assert talk.dropped == 2 * turn
        talk.send(b"datagram")
        assert played.hear() == encode_datagram_header(*peer) + b"datagram"
