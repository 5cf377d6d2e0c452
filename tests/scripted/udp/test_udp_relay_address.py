"""Where the relay is, by the bound address of the reply, and what errors say about that address."""

from __future__ import annotations

import errno
import os
import re
import socket

import pytest

import socksclient.anyio
from socksclient import (
    ProtocolError,
    Proxy,
    ProxyConnectError,
    SocksError,
)
from socksclient._net.association import Granted
from socksclient._net.relay import advice_about, routes_of
from socksclient.protocol.address import Host, host_port
from socksclient.protocol.steps import Grant
from socksclient.testing import Faults, SocksServer

from helpers.associations import (
    DATAGRAM,
    DESTINATION,
    RECEIVE,
    SOON,
    Associate,
    assert_echoes,
)
from helpers.support import (
    Address,
    PlayedProxy,
    encode_datagram_header,
    nothing_left_open,
    resolved_names,
)


@pytest.mark.parametrize(
    ("host", "relay_host", "trust", "reached_at"),
    [
        ("127.0.0.1", "0.0.0.0", True, "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0", False, "127.0.0.1"),
        ("127.0.0.1", "::1", True, "::1"),
        ("::1", "127.0.0.1", True, "127.0.0.1"),
        ("::1", "::", True, "::1"),
        ("::1", "::", False, "::1"),
    ],
)
def test_relay_address_follows_the_bound_address(
    associate: Associate,
    host: str,
    relay_host: str,
    trust: bool,
    reached_at: str,
    udp_echo: Address,
    udp_echo_6: Address,
) -> None:
    with SocksServer(host=host, faults=Faults(relay_host=relay_host)) as server:
        talk = associate(server.url, trust=trust)
        assert talk.relay_address[0] == reached_at
        assert talk.local_address[0] == reached_at
        for address in (udp_echo, udp_echo_6):
            assert_echoes(talk, address)


@pytest.mark.parametrize("bound_host", ["192.0.2.1", "2001:db8::1", "relay.test", "0.0.0.0"])
def test_relay_address_with_trust_relay_address_false(
    associate: Associate, bound_host: str
) -> None:
    with PlayedProxy(bound_host=bound_host) as played:
        with resolved_names() as names:
            talk = associate(played.url, trust=False)
        assert names == []
        assert talk.relay_address == played.relay.getsockname()
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM
        played.say(DATAGRAM)
        assert talk.receive() == (b"datagram", DESTINATION)


@pytest.mark.parametrize("local_host", [None, "127.0.0.1"])
def test_relay_address_that_is_ipv4_mapped(associate: Associate, local_host: str | None) -> None:
    """A proxy with one socket for IPv4 and IPv6 writes its own IPv4 address in this form."""
    with PlayedProxy(bound_host="::ffff:127.0.0.1") as played:
        local_address = None if local_host is None else (local_host, 0)
        talk = associate(played.url, local_address=local_address)
        assert talk.relay_address == played.relay.getsockname()
        assert talk.association.udp.family == socket.AF_INET
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM
        played.say(encode_datagram_header("::ffff:192.0.2.1", 53) + b"datagram")
        assert talk.receive() == (b"datagram", DESTINATION)


def test_relay_address_that_is_unspecified_and_ipv4_mapped(associate: Associate) -> None:
    with PlayedProxy(bound_host="::ffff:0.0.0.0") as played:
        assert associate(played.url).relay_address == played.relay.getsockname()


def test_relay_address_of_a_proxy_with_an_ipv4_mapped_address(associate: Associate) -> None:
    """The control connection is an IPv6 one then, but an IPv4 socket can reach the relay."""
    with PlayedProxy(bound_host="0.0.0.0") as played:
        url = played.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        talk = associate(url, local_address=("127.0.0.1", 0))
        assert talk.association.controls[0].family == socket.AF_INET6
        assert talk.relay_address == played.relay.getsockname()
        talk.send(b"datagram", DESTINATION)
        assert played.hear() == DATAGRAM


@pytest.mark.parametrize(
    ("bound_address", "trust", "error", "text"),
    [
        (
            ("relay.test", 1),
            True,
            ProtocolError,
            "'relay.test', which is not an IP address; with trust_relay_address=False",
        ),
        (("", 1), True, ProtocolError, "host is empty"),
        (("127.0.0.1", 0), True, ProtocolError, "port 0"),
        (("0.0.0.0", 0), True, ProtocolError, "port 0"),
        (("relay.test", 0), False, ProtocolError, "port 0"),
        (("255.255.255.255", 1), True, ProtocolError, "no host can have its bound address"),
        (("239.1.2.3", 1), True, ProtocolError, "bound address, 239.1.2.3"),
        (("::ffff:239.1.2.3", 1), True, ProtocolError, "bound address, 239.1.2.3"),
        (("ff02::1", 1), True, ProtocolError, "bound address, ff02::1"),
    ],
)
def test_relay_address_that_no_relay_can_have(
    associate: Associate,
    bound_address: Address,
    trust: bool,
    error: type[SocksError],
    text: str,
) -> None:
    with SocksServer(faults=Faults(bound_address=bound_address)) as server:
        for local_address in (None, ("127.0.0.1", 0)):
            with nothing_left_open():
                with pytest.raises(error, match=re.escape(text)) as caught:
                    associate(server.url, trust=trust, local_address=local_address)
                assert caught.type is error
                assert caught.value.phase == "relay"
                assert caught.value.proxy is not None
                assert caught.value.destination is None


class TestPrivateRelayAddress:
    """A relay whose private address is not the proxy's: often the proxy is behind a NAT."""

    # Another proxy of this machine could have this address.
    HERE = "127.0.0.2"

    def advice(self, played: PlayedProxy, host: str = HERE) -> str:
        where = host_port(host, played.relay.getsockname()[1])
        return (
            f"the relay, {where}, has a private address that is not the proxy's own, 127.0.0.1;"
            " with trust_relay_address=False, datagrams go to the proxy's own address"
        )

    def test_timeout_error_has_the_advice(self, poll: str) -> None:
        with PlayedProxy(bound_host=self.HERE) as played:
            with socksclient.udp_associate(SOON, proxy=played.url) as udp:
                for receive in RECEIVE.values():
                    with pytest.raises(TimeoutError) as caught:
                        receive(udp, 100)
                    assert str(caught.value) == f"timed out; {self.advice(played)}"
                    assert caught.value.errno is None

    def test_connection_refused_has_the_advice(self, associate: Associate) -> None:
        with PlayedProxy(bound_host=self.HERE) as played:
            talk = associate(played.url)
            talk.connect(DESTINATION)
            refused = f"{os.strerror(errno.ECONNREFUSED)}; {self.advice(played)}"
            talk.send(b"lost")
            for call in (lambda: talk.send(b"not even sent"), talk.receive):
                with pytest.raises(ConnectionRefusedError) as caught:
                    call()
                assert caught.value.strerror == refused
                assert caught.value.errno == errno.ECONNREFUSED
                talk.send(b"lost")

    @pytest.mark.parametrize("host", ["fe80::1", "169.254.0.1"])
    def test_relay_out_of_reach_has_the_advice(self, associate: Associate, host: str) -> None:
        # A link-local IPv6 address cannot be reached without its zone, and a link-local IPv4
        # address cannot be reached from a loopback address.
        local_address = None if host == "fe80::1" else ("127.0.0.1", 0)
        with PlayedProxy(bound_host=host) as played:
            with pytest.raises(ProxyConnectError) as caught:
                associate(played.url, local_address=local_address)
            assert str(caught.value).startswith("cannot reach the relay")
            assert self.advice(played, host) in str(caught.value)

    def test_log_has_the_advice(
        self, associate: Associate, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The TimeoutError of an awaited call is anyio's, which has no advice in its text."""
        with PlayedProxy(bound_host=self.HERE) as played:
            with caplog.at_level("DEBUG", "socksclient"):
                associate(played.url)
            assert [line for line in caplog.messages if self.advice(played) in line]

    def test_timeout_error_has_no_advice_after_a_datagram(self) -> None:
        with PlayedProxy(bound_host=self.HERE) as played:
            with socket.socket(type=socket.SOCK_DGRAM) as relay:
                relay.bind((self.HERE, played.relay.getsockname()[1]))
                with socksclient.udp_associate(SOON, proxy=played.url) as udp:
                    relay.sendto(DATAGRAM, udp.getsockname())
                    assert udp.recvfrom() == (b"datagram", DESTINATION)
                    with pytest.raises(TimeoutError, match=r"^timed out$"):
                        udp.recvfrom()

    @pytest.mark.parametrize("trust", [True, False])
    @pytest.mark.parametrize("bound_host", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"])
    def test_timeout_error_has_no_advice_about_the_address_of_the_proxy(
        self, bound_host: str, trust: bool
    ) -> None:
        with PlayedProxy(bound_host=bound_host) as played:
            with socksclient.udp_associate(
                SOON, proxy=played.url, trust_relay_address=trust
            ) as udp:
                with pytest.raises(TimeoutError, match=r"^timed out$"):
                    udp.recvfrom()

    def test_advice_is_empty_after_the_end_of_the_control_connection(self) -> None:
        """The association reports the end of the proxy, so that `advice_about` need not fail."""
        [route] = routes_of((Proxy("127.0.0.1"),), ("0.0.0.0", 0))
        # The socket is not connected any more.
        with socket.socket() as control:
            granted = Granted(route, control, Grant((self.HERE, 1), None))
            assert advice_about(granted, Host.of(self.HERE), (self.HERE, 1)) == ""
