"""UDP through real proxies: Dante, V2Ray and Shadowsocks; and proxies that do not offer it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Protocol

import pytest

from socksclient import AssociationClosed, ProxyClosed, ReplyError

from helpers import real_servers
from helpers.associations import Associate, Talk, associating
from helpers.real_servers.dante_server import dante_config
from helpers.support import (
    BACKENDS,
    SHORT,
    Address,
    answering_datagrams,
    echoing_datagrams,
    encode_datagram_header,
    needs,
)

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

DRIVERS = ["blocking", *BACKENDS]
ACCOUNT = ("user", "päss:w@rd")
Start = Callable[[Path], AbstractContextManager[str]]

SERVERS: dict[str, Start] = {
    "dante": real_servers.dante,
    "dante with accounts": lambda path: real_servers.dante(path, accounts=dict([ACCOUNT])),
    "dante on ::1": lambda path: real_servers.dante(path, host="::1"),
    "v2ray": real_servers.v2ray,
    "v2ray with an account": lambda path: real_servers.v2ray(path, account=ACCOUNT),
    "v2ray on ::1": lambda path: real_servers.v2ray(path, host="::1"),
    "shadowsocks": real_servers.shadowsocks,
    "shadowsocks on ::1": lambda path: real_servers.shadowsocks(path, host="::1"),
}
MAX_PAYLOAD = {"dante": 65507 - 10, "v2ray": 2048 - 10, "shadowsocks": 2600}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SERVERS[server](tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=DRIVERS)
def associate(request: pytest.FixtureRequest) -> Iterator[Associate]:
    with associating(request.param) as associate:
        yield associate


@pytest.fixture(scope="module")
def echo() -> Iterator[Address]:
    """Yield the address of a server that has the same port at ::1: "localhost" may be either."""
    while True:
        with ExitStack() as stack:
            address = stack.enter_context(echoing_datagrams("127.0.0.1"))
            try:
                stack.enter_context(echoing_datagrams("::1", address[1]))
            except OSError:
                continue
            yield address
            return


def assert_echoes(talk: Talk, address: Address, token: bytes = b"there and back") -> None:
    host, port = address
    talk.send(token, address)
    data, source = talk.receive()
    assert data == token
    # Only the proxy knows the address of a name, and the source may be either address.
    hosts = {host, "127.0.0.1", "::1"} if host == "localhost" else {host}
    assert source in {(host, port) for host in hosts}


class Open(Protocol):
    def __call__(
        self, *addresses: Address, scheme: str = "socks5h", trust: bool = True
    ) -> Talk: ...


@pytest.fixture
def open_talk(server: str, proxy: str, associate: Associate) -> Open:
    """Return a function that makes an association to speak with some addresses.

    V2Ray sends to each address from a socket of its own. All these sockets have SO_REUSEPORT, so
    two of them may get the same port, and then one of the two receives nothing. The function tries
    out an association of V2Ray, and makes another one if an address does not answer.
    """

    def open_talk(*addresses: Address, scheme: str = "socks5h", trust: bool = True) -> Talk:
        url = proxy.replace("socks5h", scheme)
        for _ in range(5 if server.startswith("v2ray") else 0):
            talk = associate(url, trust=trust)
            if hears_from(talk, *addresses):
                return talk
        return associate(url, trust=trust)

    return open_talk


def hears_from(talk: Talk, *addresses: Address) -> bool:
    with suppress(TimeoutError):
        for address in addresses:
            talk.send(b"hello", address)
            talk.receive(SHORT)
        return True
    return False


@pytest.mark.parametrize("trust", [True, False], ids=["trust", "distrust"])
@pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
def test_real_udp_association_reaches_all_kinds_of_destinations(
    scheme: str, trust: bool, open_talk: Open, echo: Address
) -> None:
    addresses = [(host, echo[1]) for host in ("127.0.0.1", "::1", "localhost")]
    talk = open_talk(*addresses, scheme=scheme, trust=trust)
    for number, address in enumerate([*addresses, *reversed(addresses)]):
        assert_echoes(talk, address, b"%d" % number)


def test_real_udp_to_an_ipv4_mapped_address(open_talk: Open, echo: Address) -> None:
    """Shadowsocks gives the mapped address as the source; the other servers give the IPv4 one."""
    host, port = echo
    mapped = (f"::ffff:{host}", port)
    talk = open_talk(mapped)
    talk.send(b"there and back", mapped)
    assert talk.receive() == (b"there and back", echo)
    talk.connect(mapped)
    talk.send(b"there and back")
    assert talk.receive()[0] == b"there and back"


def test_real_udp_empty_datagram(server: str, open_talk: Open, echo: Address) -> None:
    talk = open_talk(echo)
    talk.send(b"", echo)
    talk.send(b"next", echo)
    # V2Ray drops an empty datagram.
    if not server.startswith("v2ray"):
        assert talk.receive() == (b"", echo)
    assert talk.receive() == (b"next", echo)


def test_real_udp_sizes(server: str, open_talk: Open, echo: Address) -> None:
    talk = open_talk(echo)
    for size in (1, 512, 1472, MAX_PAYLOAD[server.split(maxsplit=1)[0]]):
        assert_echoes(talk, echo, os.urandom(size))


def test_real_udp_many_datagrams(open_talk: Open, echo: Address) -> None:
    talk = open_talk(echo)
    # Each round sends only as many datagrams as surely find room in every buffer.
    for first in range(0, 200, 20):
        sent = [b"%d" % number for number in range(first, first + 20)]
        for data in sent:
            talk.send(data, echo)
        received = [talk.receive() for _ in sent]
        assert sorted(received) == sorted((data, echo) for data in sent)


class TestClosedPort:
    @pytest.fixture
    def closed(self) -> Iterator[Address]:
        """Yield an address that refuses datagrams: its socket takes only its own datagrams."""
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.connect(sock.getsockname())
            yield sock.getsockname()

    def test_real_udp_to_a_closed_port_is_silent(
        self, open_talk: Open, echo: Address, closed: Address
    ) -> None:
        talk = open_talk(echo)
        talk.send(b"lost", closed)
        with pytest.raises(TimeoutError):
            talk.receive(0.1)
        assert_echoes(talk, echo)

    def test_real_udp_to_a_closed_port_may_refuse_a_connected_socket(
        self, server: str, open_talk: Open, echo: Address, closed: Address
    ) -> None:
        talk = open_talk(echo)
        talk.connect(closed)
        talk.send(b"lost")
        # Dante passes ICMP errors on, if it has the rights to receive them.
        if server.startswith("dante"):
            with pytest.raises((ConnectionRefusedError, TimeoutError)):
                talk.receive(0.5)
        else:
            with pytest.raises(TimeoutError):
                talk.receive(0.1)
        talk.connect(echo)
        talk.send(b"there and back")
        assert talk.receive()[0] == b"there and back"


@pytest.mark.parametrize("server", ["dante"], indirect=True)
class TestLocalAddress:
    """Dante relays datagrams from the announced address only, or else from the first sender."""

    @pytest.fixture
    def stranger(self) -> Iterator[socket.socket]:
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.settimeout(10)
            yield stranger

    def test_dante_udp_relays_only_from_the_announced_address(
        self, proxy: str, associate: Associate, stranger: socket.socket
    ) -> None:
        received: list[bytes] = []

        def answer(data: bytes) -> bytes:
            received.append(data)
            return data

        talk = associate(proxy, local_address=("127.0.0.1", 0))
        assert talk.local_address[0] == "127.0.0.1"
        with answering_datagrams(answer) as address:
            header = encode_datagram_header(*address)
            stranger.sendto(header + b"stranger", talk.relay_address)
            assert_echoes(talk, address)
        assert received == [b"there and back"]

    def test_dante_udp_relays_from_the_first_sender_if_none_is_announced(
        self, proxy: str, associate: Associate, stranger: socket.socket, echo: Address
    ) -> None:
        talk = associate(proxy)
        datagram = encode_datagram_header(*echo) + b"stranger"
        stranger.sendto(datagram, talk.relay_address)
        assert stranger.recv(65535) == datagram


@pytest.fixture(scope="module")
def dante_on_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Yield the IPv4 address of a Dante that listens on ::1 too, at the same port."""

    def prepare(home: Path, port: int) -> list[str]:
        config = dante_config(f"::1 port = {port}\ninternal: 127.0.0.1", port)
        (home / "danted.conf").write_text(config)
        return [real_servers.path_of("danted"), "-f", "danted.conf", "-p", "danted.pid"]

    path = tmp_path_factory.mktemp("server")
    with real_servers.running(path, "dante", "127.0.0.1", prepare) as address:
        yield address


@pytest.mark.parametrize("local_host", [None, "127.0.0.1", "::1"])
@pytest.mark.parametrize("proxy_host", ["127.0.0.1", "[::1]"])
def test_dante_udp_relay_has_the_family_of_the_local_address_or_of_the_proxy(
    dante_on_both: Address,
    proxy_host: str,
    local_host: str | None,
    associate: Associate,
    echo: Address,
) -> None:
    local_address = (local_host, 0) if local_host else None
    url = f"socks5h://{proxy_host}:{dante_on_both[1]}"
    talk = associate(url, local_address=local_address)
    assert talk.relay_address[0] == (local_host or proxy_host.strip("[]"))
    for host in ("127.0.0.1", "::1", "localhost"):
        assert_echoes(talk, (host, echo[1]))


def receive_all(talk: Talk) -> None:
    while True:
        talk.receive(30)


@pytest.mark.parametrize("server", ["dante", "v2ray", "shadowsocks"])
def test_real_udp_end_of_the_proxy_wakes_a_receive(
    server: str, tmp_path: Path, echo: Address
) -> None:
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        with SERVERS[server](tmp_path) as url:
            talks = [stack.enter_context(associating(driver))(url) for driver in DRIVERS]
            for talk in talks:
                hears_from(talk, echo)
            waiting = [threads.submit(receive_all, talk) for talk in talks]
        for future in waiting:
            with pytest.raises(AssociationClosed) as caught:
                future.result(10)
            assert caught.value.phase == "relay"
        for talk in talks:
            with pytest.raises(AssociationClosed):
                talk.send(b"lost", echo)
            with pytest.raises(AssociationClosed):
                receive_all(talk)


@pytest.mark.parametrize(
    ("start", "error"),
    [(real_servers.microsocks, ReplyError), (real_servers.openssh, ProxyClosed)],
    ids=["microsocks", "ssh -D"],
)
def test_microsocks_and_openssh_do_not_offer_udp_associate(
    start: Start, error: type[ReplyError | ProxyClosed], tmp_path: Path
) -> None:
    with start(tmp_path) as url:
        for driver in DRIVERS:
            with associating(driver) as associate:
                with pytest.raises(error, match="not offer UDP ASSOCIATE") as caught:
                    associate(url)
                assert caught.value.phase == "request"
