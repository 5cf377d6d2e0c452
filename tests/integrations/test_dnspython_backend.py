"""`socksclient.dnspython.Backend`: sockets, zone transfers, DNS over TLS and over HTTPS."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import dns.asyncquery
import dns.exception
import dns.message
import dns.query
import dns.versioned
import dns.zone
import pytest
import trustme

import socksclient
from socksclient.dnspython import Backend
from socksclient.protocol.codes import Command
from socksclient.testing import SocksServer

from helpers.http_clients import routes_to
from helpers.name_server import (
    IPV4,
    IPV6,
    LOOPS,
    Answers,
    Elsewhere,
    answer,
    answer_by_tcp,
    hang_up,
    proxied,
    say_nothing,
    texts,
)
from helpers.origin import Origin
from helpers.support import LONG, REFUSED_PORT, resolved_names

pytest_plugins = ["helpers.dns_fixtures"]
pytestmark = pytest.mark.usefixtures("no_descriptor_left_open")

DNS_QUERY = "https://origin.test/dns-query"


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.anyio
class TestBackend:
    query = dns.message.make_query("a.test", "A")

    async def test_backend_tcp_query(self) -> None:
        with proxied() as proxy:
            response = await dns.asyncquery.tcp(
                self.query, IPV6[0], 10, source="192.0.2.7", backend=Backend(proxy.url)
            )
        assert texts(response) == ["192.0.2.1"]
        assert [seen.destination for seen in proxy.requests] == [IPV6]

    async def test_backend_query_without_timeout(self) -> None:
        with proxied() as proxy:
            _, used_tcp = await dns.asyncquery.udp_with_fallback(
                self.query, IPV4[0], source_port=9, backend=Backend(proxy.url)
            )
        assert used_tcp

    async def test_backend_raises_unexpected_source(self) -> None:
        def answer_from_elsewhere(query: bytes) -> Iterator[bytes]:
            yield from map(Elsewhere, answer(query))

        with proxied(answer_from_elsewhere) as proxy, pytest.raises(dns.query.UnexpectedSource):
            await dns.asyncquery.udp(self.query, IPV4[0], 10, backend=Backend(proxy.url))

    async def test_backend_socket_serves_many_queries(self) -> None:
        with proxied(answer) as proxy:
            backend = Backend(proxy.url)
            async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for number in range(3):
                    query = dns.message.make_query(f"{number}.test", "A")
                    response = await dns.asyncquery.udp(query, IPV4[0], 10, sock=sock)
                    assert texts(response) == ["192.0.2.1"]
        assert len(proxy.requests) == 1

    async def test_backend_name_sleep_and_wait_for(self) -> None:
        backend = Backend("socks5h://127.0.0.1")
        assert backend.name() == "socksclient"
        await backend.sleep(0)
        assert await backend.wait_for(anyio.to_thread.run_sync(lambda: "result"), 10) == "result"
        with pytest.raises(dns.exception.Timeout):
            await backend.wait_for(anyio.sleep_forever(), 0.01)
        async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM):
            # The socket has not connected to the proxy yet.
            pass
        assert not backend.datagram_connection_required()
        with pytest.raises(NotImplementedError, match="client with an AsyncSocksTransport"):
            backend.get_transport_class()

    async def test_backend_refuses_dns_over_quic(self) -> None:
        with SocksServer() as proxy:
            with pytest.raises(dns.query.NoDOQ, match="does not go through socksclient's Backend"):
                await dns.asyncquery.quic(
                    self.query, "127.0.0.1", 10, REFUSED_PORT, backend=Backend(proxy.url)
                )
            assert proxy.connections == []

    async def test_backend_make_socket_refuses_bad_arguments(self) -> None:
        backend = Backend("socks5h://127.0.0.1")
        with pytest.raises(NotImplementedError, match="SOCK_RAW"):
            await backend.make_socket(socket.AF_INET, socket.SOCK_RAW)
        with pytest.raises(ValueError, match="a connection needs a destination"):
            await backend.make_socket(socket.AF_INET, socket.SOCK_STREAM)
        async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="a datagram needs a destination"):
                await sock.sendto(b"", None, 10)

    async def test_backend_socket_getsockname_and_getpeername(self) -> None:
        with proxied() as proxy:
            backend = Backend(proxy.url)
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                async with await backend.make_socket(socket.AF_INET, kind, 0, None, IPV4) as sock:
                    host, port, *_ = await sock.getsockname()
                    assert host in ("127.0.0.1", "0.0.0.0")
                    assert port
                    assert await sock.getpeername() == IPV4
            assert await sock.getpeercert(10) is None

    async def test_backend_socket_receives_before_it_sends(self) -> None:
        with proxied(answer) as proxy:
            backend = Backend(proxy.url)
            async with await backend.make_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                async with anyio.create_task_group() as group:

                    async def hear() -> None:
                        octets, source = await sock.recvfrom(512, 10)
                        assert texts(dns.message.from_wire(octets)) == ["192.0.2.1"]
                        assert source == IPV4

                    group.start_soon(hear)
                    await sock.sendto(self.query.to_wire(), IPV4, 10)
        assert [seen.command for seen in proxy.requests] == [Command.UDP_ASSOCIATE]

    @pytest.mark.parametrize(
        ("by_udp", "forged"),
        [(True, []), (True, [Elsewhere(b"forged")]), (False, [])],
        ids=["UDP", "UDP, with forgery", "TCP"],
    )
    async def test_backend_inbound_xfr(self, by_udp: bool, forged: list[bytes]) -> None:
        soa = "zone.test. 60 IN SOA a.test. b.test. 1 2 3 4 5"

        def answer_that_there_are_none(query: bytes) -> Iterator[bytes]:
            response = dns.message.make_response(dns.message.from_wire(query))
            response.answer = dns.message.from_text(f";ANSWER\n{soa}").answer
            yield from forged
            yield response.to_wire(prepend_length=not by_udp)

        zone = dns.zone.from_text(
            f"{soa}\n@ 60 IN NS a.test.", "zone.test", zone_factory=dns.versioned.Zone
        )
        with proxied(answer_that_there_are_none, answer_that_there_are_none) as proxy:
            mode = dns.query.UDPMode.ONLY if by_udp else dns.query.UDPMode.NEVER
            await dns.asyncquery.inbound_xfr(
                IPV4[0], zone, timeout=10, udp_mode=mode, backend=Backend(proxy.url)
            )
        assert len(proxy.requests) == 1


class TestZoneTransfersOverAnAssociation:
    """`dns.query.socket_factory` makes an association, whose `connect_ex` dnspython calls."""

    soa = "zone.test. 60 IN SOA a.test. b.test. 1 2 3 4 5"

    def answer_that_there_are_no_changes(self, query: bytes) -> Iterator[bytes]:
        # dnspython 2.8 and later take an object that is no `socket.socket` for a TCP socket, and
        # put a length before the message. The association carries the length as well.
        framed = int.from_bytes(query[:2], "big") == len(query) - 2
        asked = dns.message.from_wire(query[2:] if framed else query)
        response = dns.message.make_response(asked)
        response.answer = dns.message.from_text(f";ANSWER\n{self.soa}").answer
        wire = response.to_wire()
        if framed:
            yield len(wire).to_bytes(2, "big")
        yield wire

    @pytest.fixture
    def zone(self) -> dns.zone.Zone:
        text = f"{self.soa}\n@ 60 IN NS a.test."
        return dns.zone.from_text(text, "zone.test", zone_factory=dns.versioned.Zone)

    @contextmanager
    def factory(self, monkeypatch: pytest.MonkeyPatch, udp: Answers) -> Iterator[SocksServer]:
        """Make dnspython use associations instead of UDP sockets in the `with` block."""

        def associate(_family: int, kind: int, _proto: int = 0) -> socksclient.UDPAssociation:
            assert kind == socket.SOCK_DGRAM
            return socksclient.udp_associate(10, proxy=proxy.url)

        with proxied(udp) as proxy:
            monkeypatch.setattr(dns.query, "socket_factory", associate)
            yield proxy

    def test_inbound_xfr_over_association(
        self, zone: dns.zone.Zone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with self.factory(monkeypatch, self.answer_that_there_are_no_changes) as proxy:
            dns.query.inbound_xfr(IPV4[0], zone, lifetime=10, udp_mode=dns.query.UDPMode.ONLY)
            [seen] = proxy.requests
        assert seen.command == Command.UDP_ASSOCIATE
        assert {destination for destination, _ in seen.datagrams} == {IPV4}

    def test_xfr_over_association(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.factory(monkeypatch, self.answer_that_there_are_no_changes):
            [response] = dns.query.xfr(
                IPV4[0], "zone.test", "IXFR", serial=1, lifetime=10, use_udp=True, relativize=False
            )
        assert [rrset.to_text() for rrset in response.answer] == [self.soa]

    def test_xfr_over_association_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with self.factory(monkeypatch, say_nothing):
            with pytest.raises(dns.exception.Timeout):
                list(dns.query.xfr(IPV4[0], "zone.test", "IXFR", lifetime=0.2, use_udp=True))


@pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
@pytest.mark.anyio
class TestBackendOverTLS:
    query = dns.message.make_query("a.test", "A")
    authority = trustme.CA()

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("dns.test", IPV4[0]).configure_cert(context)
        return context

    async def ask(
        self, proxy: SocksServer, authority: trustme.CA, hostname: str | None, timeout: float = LONG
    ) -> dns.message.Message:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return await dns.asyncquery.tls(
            self.query,
            *(IPV4[0], timeout, IPV4[1]),
            ssl_context=context,
            server_hostname=hostname,
            backend=Backend(proxy.url),
        )

    @pytest.mark.parametrize("hostname", ["dns.test", "dns.test.", None])
    async def test_dns_over_tls_goes_through_proxy(self, hostname: str | None) -> None:
        with proxied(tls=self.context()) as proxy:
            response = await self.ask(proxy, self.authority, hostname)
        assert texts(response) == ["192.0.2.1"]
        assert [seen.destination for seen in proxy.requests] == [IPV4]

    async def test_dns_over_tls_socket_getpeercert(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        with proxied(tls=self.context()) as proxy:
            sock = await Backend(proxy.url).make_socket(
                *(socket.AF_INET, socket.SOCK_STREAM, 0, None, IPV4, 10, context)
            )
            async with sock:
                certificate = await sock.getpeercert(10)
        assert ("DNS", "dns.test") in certificate["subjectAltName"]

    async def test_dns_over_tls_server_closes_connection(self) -> None:
        with proxied(tcp=hang_up, tls=self.context()) as proxy:
            with pytest.raises((EOFError, OSError)):
                await self.ask(proxy, self.authority, None)

    async def test_dns_over_tls_server_stays_connected(self) -> None:
        def answer_and_stay(query: bytes) -> Iterator[bytes]:
            yield from answer_by_tcp(query)
            left.wait()

        left = threading.Event()
        with proxied(tcp=answer_and_stay, tls=self.context()) as proxy:
            try:
                with anyio.fail_after(LONG):
                    response = await self.ask(proxy, self.authority, None)
            finally:
                left.set()
        assert texts(response) == ["192.0.2.1"]

    async def test_dns_over_tls_refuses_untrusted_certificate(self) -> None:
        with proxied(tls=self.context()) as proxy:
            with pytest.raises(ssl.SSLCertVerificationError):
                await self.ask(proxy, trustme.CA(), None)
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                await self.ask(proxy, self.authority, "other.test")

    async def test_dns_over_tls_timeout(self) -> None:
        with proxied(tcp=say_nothing) as proxy, pytest.raises(dns.exception.Timeout):
            await self.ask(proxy, self.authority, None, 0.2)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 is for Python 3.11 and later")
class TestOverHTTPS:
    """dnspython gets a client of httpx2, as the docstring of `Backend` says."""

    query = dns.message.make_query("a.test", "A")

    @pytest.fixture
    def proxy(self, origin: Origin) -> Iterator[SocksServer]:
        with SocksServer(routes=routes_to(origin)) as proxy:
            yield proxy

    def test_dns_over_https_with_blocking_client(self, proxy: SocksServer, origin: Origin) -> None:
        import httpx2

        from socksclient.httpx2 import SocksTransport

        transport = SocksTransport(proxy.url, verify=origin.trust())
        with resolved_names() as names, httpx2.Client(transport=transport) as client:
            response = dns.query.https(self.query, DNS_QUERY, 10, session=client)
        assert (response.id, names) == (self.query.id, [])
        assert [seen.destination for seen in proxy.requests] == [("origin.test", 443)]

    @pytest.mark.parametrize("anyio_backend", LOOPS, indirect=True)
    @pytest.mark.anyio
    async def test_dns_over_https_with_async_client(
        self, proxy: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import httpx2

        from socksclient.httpx2 import AsyncSocksTransport

        # dnspython keeps the backend of the event loop that it detected first.
        monkeypatch.setattr("dns.asyncbackend._default_backend", None)
        transport = AsyncSocksTransport(proxy.url, verify=origin.trust())
        with resolved_names() as names:
            async with httpx2.AsyncClient(transport=transport) as client:
                response = await dns.asyncquery.https(self.query, DNS_QUERY, 10, client=client)
        assert (response.id, names) == (self.query.id, [])
        assert [seen.destination for seen in proxy.requests] == [("origin.test", 443)]
