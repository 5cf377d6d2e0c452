"""Several addresses: of the proxy, raced; and of the destination, tried in order."""

from __future__ import annotations

import pickle
import socket

import pytest

from socksclient import (
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
    create_connection,
)
from socksclient._net.bound_address import reachable
from socksclient.protocol.address import Host
from socksclient.protocol.steps import Grant
from socksclient.protocol.tunnel import interleave
from socksclient.testing import Faults, SocksServer

from helpers.support import REFUSED_PORT, Address, Dial, assert_echoes, nothing_left_open, silence

Names = dict[str, list[str]]


class TestAddressesOfProxy:
    def test_connects_to_next_address_of_proxy_after_refusal(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["proxy.test"] = ["::1", "127.0.0.9", "127.0.0.1"]
        with SocksServer() as server:
            proxy = f"socks5h://proxy.test:{server.address[1]}"
            with dial(echo_server, proxy=proxy) as sock:
                assert sock.getpeername() == server.address
                assert_echoes(sock)

    def test_connects_to_next_address_of_proxy_if_first_is_silent(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["proxy.test"] = ["127.0.0.12", "127.0.0.1"]
        with SocksServer() as server, silence("127.0.0.12", server.address[1]):
            proxy = f"socks5h://proxy.test:{server.address[1]}"
            with dial(echo_server, proxy=proxy) as sock:
                assert sock.getpeername() == server.address
                assert_echoes(sock)

    def test_connects_to_only_address_of_proxy(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["proxy.test"] = ["127.0.0.1"]
        with SocksServer() as server:
            proxy = f"socks5h://proxy.test:{server.address[1]}"
            with dial(echo_server, proxy=proxy) as sock:
                assert_echoes(sock)

    def test_connect_error_names_each_address_of_proxy(self, dial: Dial, names: Names) -> None:
        names["proxy.test"] = ["127.0.0.8", "127.0.0.9"]
        with pytest.raises(ProxyConnectError) as caught:
            dial(("192.0.2.1", 80), proxy=f"socks5h://proxy.test:{REFUSED_PORT}")
        assert "127.0.0.8: Connection refused; 127.0.0.9: Connection refused" in str(caught.value)
        assert caught.value.phase == "connect"

    def test_proxy_name_without_address(self, dial: Dial, names: Names) -> None:
        with pytest.raises(ProxyConnectError, match="Name or service not known") as caught:
            dial(("192.0.2.1", 80), proxy="socks5h://nowhere.test")
        assert caught.value.phase == "resolve"
        assert caught.value.errno == socket.EAI_NONAME

    def test_proxy_ipv6_address_with_zone(self, dial: Dial) -> None:
        # The loopback interface has no link-local address; but its zone is known here.
        with pytest.raises(ProxyConnectError) as caught:
            dial(("192.0.2.1", 80), proxy="socks5h://[fe80::1%lo]:1080")
        assert caught.value.phase == "connect"

    def test_proxy_name_resolved_by_system(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer() as server:
            proxy = f"socks5h://localhost:{server.address[1]}"
            with dial(echo_server, proxy=proxy) as sock:
                assert_echoes(sock)


def test_race_without_timeout(names: Names, echo_server: Address) -> None:
    names["proxy.test"] = ["127.0.0.9", "127.0.0.1"]
    with SocksServer() as server:
        proxy = f"socks5h://proxy.test:{server.address[1]}"
        with create_connection(echo_server, None, proxy=proxy) as sock:
            assert sock.gettimeout() is None
            assert_echoes(sock)


def test_interleave_alternates_families() -> None:
    addresses = [("::a", 1), ("::b", 1), ("192.0.2.1", 1), ("::d", 1), ("192.0.2.2", 1)]
    order = ["::a", "192.0.2.1", "::b", "192.0.2.2", "::d"]
    assert [host for host, *_ in interleave(addresses)] == order


def local(server: SocksServer) -> str:
    """Return the server's URL with the scheme under which this process resolves names."""
    return server.url.replace("socks5h://", "socks5://")


class TestAddressesOfDestination:
    def test_request_carries_resolved_address(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        _, port = echo_server
        names["origin.test"] = ["127.0.0.1"]
        with (
            SocksServer() as server,
            dial(("origin.test", port), proxy=local(server)) as sock,
        ):
            assert_echoes(sock)
            assert server.requests[0].destination == ("127.0.0.1", port)
            assert server.requests[0].address_type == 0x01

    @pytest.mark.parametrize(
        "faults",
        [
            *(Faults(reply=rep) for rep in (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x09, 0x5A)),
            *(Faults(reply=rep) for rep in (0x5C, 0x5D, 0xF0, 0xFF)),
            Faults(answers={"request": b"\x05\x01"}, close_after=4),
            Faults(close_after=2),
            Faults(close_after=3),
            Faults(reset_after=2),
        ],
        ids=str,
    )
    def test_tries_next_address_after_failure(
        self, dial: Dial, names: Names, echo_server: Address, faults: Faults
    ) -> None:
        _, port = echo_server
        names["origin.test"] = ["2001:db8::1", "127.0.0.1"]
        routes = {("2001:db8::1", port): echo_server}
        with SocksServer(faults=[faults], routes=routes) as server:
            with dial(("origin.test", port), proxy=local(server)) as sock:
                assert_echoes(sock)
            seen = [request.destination for request in server.requests]
            assert seen == [("2001:db8::1", port), ("127.0.0.1", port)]

    @pytest.mark.parametrize(
        "faults",
        [
            Faults(reply=0x07),
            Faults(close_after=0),
            Faults(method=0xFF),
            Faults(answers={"request": b"\x04\x00"}),
        ],
        ids=str,
    )
    def test_tries_no_next_address_after_final_failure(
        self, dial: Dial, names: Names, faults: Faults
    ) -> None:
        names["origin.test"] = ["192.0.2.1", "192.0.2.2"]
        with SocksServer(faults=faults) as server:
            with pytest.raises(SocksError) as caught:
                dial(("origin.test", 80), proxy=local(server))
            assert len(server.connections) == 1
        if caught.value.phase == "request":
            assert str(caught.value).endswith(", addresses tried: 1, addresses left: 192.0.2.2)")
        else:
            assert "address" not in str(caught.value)

    def test_timeout_error_names_addresses_left(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = [f"192.0.2.{number}" for number in (1, 2, 3, 4)]
        faults = [Faults(reply=0x01), Faults(stall_after=2)]
        with SocksServer(faults=faults) as server, nothing_left_open():
            with pytest.raises(TimeoutError) as caught:
                dial(("origin.test", 80), proxy=local(server), timeout=1.0)
            assert len(server.connections) == 2
        # A deadline of anyio cancels the call, and anyio's TimeoutError has no addresses.
        if isinstance(caught.value, ProxyTimeout):
            assert caught.value.addresses_tried == 2
            assert caught.value.addresses_left == ("192.0.2.3", "192.0.2.4")
            words = ", addresses tried: 2, addresses left: 192.0.2.3, 192.0.2.4)"
            assert str(caught.value).endswith(words)

    def test_last_error_notes_earlier_errors(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        names["origin.test"] = ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
        faults = [Faults(reply=0x03), Faults(close_after=2), Faults(reply=0x05)]
        routes = {("2001:db8::1", 80): echo_server}
        with SocksServer(faults=faults, routes=routes) as server:
            with pytest.raises(ReplyError) as caught:
                dial(("origin.test", 80), proxy=local(server))
        assert caught.value.reply == Reply.CONNECTION_REFUSED
        assert caught.value.destination == ("origin.test", 80)
        assert (caught.value.addresses_tried, caught.value.addresses_left) == (3, ())
        assert str(caught.value).endswith("destination: origin.test:80, addresses tried: 3)")
        copied = pickle.loads(pickle.dumps(caught.value))
        assert (str(copied), copied.addresses_tried) == (str(caught.value), 3)
        first, second = caught.value.__notes__
        assert "192.0.2.1: " in first
        assert "network unreachable" in first
        assert "2001:db8::1: " in second
        assert "got 0 of 5 octets" in second

    def test_destination_name_without_address(self, dial: Dial, names: Names) -> None:
        with SocksServer() as server:
            with pytest.raises(ResolveError, match=r"cannot resolve nowhere\.test") as caught:
                dial(("nowhere.test", 80), proxy=local(server))
            assert server.connections == []
        assert caught.value.phase == "resolve"
        assert caught.value.errno == socket.EAI_NONAME
        assert isinstance(caught.value.__cause__, socket.gaierror)

    def test_tries_addresses_in_order_of_resolver(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        with SocksServer(faults=Faults(reply=0x05)) as server:
            with pytest.raises(ReplyError):
                dial(("origin.test", 80), proxy=local(server))
            hosts = [request.destination[0] for request in server.requests if request.destination]
            assert hosts == names["origin.test"]

    def test_leaves_out_addresses_with_zone(self, dial: Dial, names: Names) -> None:
        names["origin.test"] = ["fe80::1%lo", "192.0.2.2"]
        with SocksServer(faults=Faults(reply=0x05)) as server:
            with pytest.raises(ReplyError):
                dial(("origin.test", 80), proxy=local(server))
            names["origin.test"] = ["fe80::1%lo"]
            with pytest.raises(ResolveError, match="no address that the proxy could reach"):
                dial(("origin.test", 80), proxy=local(server))
            assert [request.destination for request in server.requests] == [("192.0.2.2", 80)]

    def test_waits_for_dead_address_of_proxy_once(
        self, dial: Dial, names: Names, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The delay is no argument of any function. Nine delays of a second, one for each address,
        # would be longer than the timeout.
        monkeypatch.setattr("socksclient._net.sockets.CONNECTION_ATTEMPT_DELAY", 1.0)
        names["proxy.test"] = ["127.0.0.12", "127.0.0.1"]
        names["origin.test"] = [f"192.0.2.{n}" for n in range(1, 10)]
        with SocksServer(faults=Faults(reply=0x05)) as server:
            proxy = f"socks5://proxy.test:{server.address[1]}"
            with silence("127.0.0.12", server.address[1]), pytest.raises(ReplyError):
                dial(("origin.test", 80), proxy=proxy, timeout=8.5)
            assert len(server.requests) == 9

    def test_ip_address_is_not_resolved(
        self, dial: Dial, names: Names, echo_server: Address
    ) -> None:
        with SocksServer() as server, dial(echo_server, proxy=local(server)) as sock:
            assert_echoes(sock)


def test_reachable_of_closed_connection() -> None:
    with socket.socket() as gone, pytest.raises(ProxyClosed, match="not connected"):
        reachable(gone, Grant(("0.0.0.0", 1080), None))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.1.1", "192.0.2.1", "198.18.0.1", "100.64.0.1"),
        *("::1", "2001:db8::1", "fd00::1", "fe80::1", "fec0::1", "2002:c000:201::1"),
        # `ipaddress` calls the addresses of NAT64 and Yggdrasil reserved.
        *("64:ff9b::192.0.2.1", "64:ff9b:1::1", "200::1", "301:2::3"),
    ],
)
def test_reachable_accepts_address_of_a_host(host: str) -> None:
    with socket.socket() as control:
        found = Host.parse(host)
        assert reachable(control, Grant((host, 1080), None)) == (found, (found.text, 1080))


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.1", "0.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "::2", "::192.0.2.1", "100:0:0:1::", "4000::1", "ff00::", "ff02::1"),
    ],
)
def test_reachable_refuses_address_that_no_host_can_have(
    dial: Dial, echo_server: Address, host: str
) -> None:
    with socket.socket() as control, pytest.raises(ProtocolError) as caught:
        reachable(control, Grant((host, 1080), None))
    assert f"no host can have its bound address, {Host.parse(host)}" in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as control:
            for own, expected in ((None, "127.0.0.1"), (("name.test", 1), "name.test")):
                untrusted = reachable(control, Grant((host, 1080), own), trust=False)
                assert untrusted == (Host.of(expected), (expected, 1080))
    # The bound address of a connection does not count, and proxies send anything there.
    with SocksServer(faults=Faults(bound_address=(host, 1080))) as server:
        with dial(echo_server, proxy=server.url) as sock:
            assert_echoes(sock)
