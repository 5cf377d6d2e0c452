"""Libraries and protocols through chains: httpx, TLS with the destination, FTP and DNS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import dns.asyncresolver
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSAttribute

import socksclient
import socksclient.anyio
from socksclient import (
    ReplyError,
)
from socksclient.dnspython import Backend, Nameserver, udp_with_fallback
from socksclient.exceptions import Socks4Reply
from socksclient.ftp import FTP
from socksclient.protocol.codes import Command
from socksclient.testing import Faults

from helpers.hops import (
    MakeHops,
    serve_ftp,
)
from helpers.http_clients import Driver, nothing_left_open
from helpers.origin import Origin
from helpers.support import (
    Address,
    answering_datagrams,
    resolved_names,
    serving,
)

pytest_plugins = ["helpers.hop_fixtures"]


CHAIN = ("https", "socks4a", "socks5h")


class TestChainWithHTTPX:
    @pytest.mark.parametrize("kinds", [CHAIN, ("socks5h+tls", "http", "https")], ids=", ".join)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize("http2", [False, True])
    def test_chain_httpx_requests(
        self,
        driver: Driver,
        hops: MakeHops,
        origin: Origin,
        kinds: tuple[str, ...],
        scheme: str,
        http2: bool,
    ) -> None:
        port = origin.https_port if scheme == "https" else origin.http_port
        with hops(*kinds) as chain, nothing_left_open():
            chain.servers[-1].routes["origin.test", 4711] = ("127.0.0.1", port)
            with (
                resolved_names() as resolved,
                driver.through(chain.proxies, http2=http2) as client,
            ):
                for _ in range(2):
                    response = client.get(f"{scheme}://origin.test:4711/")
                    version = "2" if http2 and scheme == "https" else "1.1"
                    assert response.json()["http_version"] == version
            assert resolved == []
            assert len(chain.servers[-1].connections) == 1  # it was kept

    def test_chain_httpx_error(self, driver: Driver, hops: MakeHops) -> None:
        with hops(*CHAIN, faults={1: Faults(reply=0x5B)}) as chain:
            with driver.through(chain.proxies) as client, nothing_left_open():
                with pytest.raises(driver.httpx.ProxyError) as caught:
                    client.get("https://origin.test/")
        error = caught.value.__cause__
        assert isinstance(error, ReplyError)
        assert (error.hop, error.reply) == (1, Socks4Reply.REJECTED_OR_FAILED)


@pytest.mark.anyio
async def test_chain_tls_with_destination(hops: MakeHops, origin: Origin) -> None:
    with hops(*CHAIN) as chain:
        chain.servers[-1].routes["origin.test", 443] = ("127.0.0.1", origin.https_port)
        stream = await socksclient.anyio.connect_tcp(
            "origin.test",
            443,
            proxy=chain.proxies,
            ssl_context=origin.trust(),
            tls_standard_compatible=False,
        )
        async with stream:
            certificate = stream.extra(TLSAttribute.peer_certificate)
            assert certificate is not None
            assert ("DNS", "origin.test") in certificate["subjectAltName"]
            await stream.send(b"GET / HTTP/1.0\r\nHost: origin.test\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("passive", [True, False])
@pytest.mark.parametrize("kinds", [("http", "socks5h"), ("socks4a", "socks5h+tls")], ids=", ".join)
def test_chain_ftp(hops: MakeHops, kinds: tuple[str, ...], passive: bool) -> None:
    received: list[bytes] = []
    with serving(serve_ftp) as (_, port), hops(*kinds) as chain, nothing_left_open():
        with FTP(timeout=10, proxy=chain.proxies) as ftp:
            ftp.connect("127.0.0.1", port)
            ftp.set_pasv(passive)
            ftp.retrbinary("RETR file", received.append)
        commands = [one.command for one in chain.servers[-1].connections]
        assert commands == [Command.CONNECT, Command.CONNECT if passive else Command.BIND]
    assert b"".join(received) == b"the file"


@contextmanager
def name_server() -> Iterator[Address]:
    """Run a name server that says over TCP where a.test is, and truncates over UDP."""

    def respond(query: bytes) -> dns.message.Message:
        asked = dns.message.from_wire(query)
        response = dns.message.make_response(asked)
        records = dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", "192.0.2.1")
        response.answer.append(records)
        return response

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        writer.write(respond(await reader.readexactly(size)).to_wire(prepend_length=True))

    def truncate(query: bytes) -> bytes:
        response = respond(query)
        response.flags |= dns.flags.TC
        return response.to_wire()

    with serving(answer) as address, answering_datagrams(truncate, *address):
        yield address


class TestChainDNS:
    def test_chain_dns_falls_back_to_tcp_blocking(self, hops: MakeHops) -> None:
        query = dns.message.make_query("a.test", "A")
        with name_server() as (host, port), hops("socks5h", "socks5h") as chain:
            with nothing_left_open():
                answer, by_tcp = udp_with_fallback(query, host, 10, port, proxy=chain.proxies)
            assert (answer.answer[0][0].to_text(), by_tcp) == ("192.0.2.1", True)

    def test_chain_dns_over_tcp_within_tls(self, hops: MakeHops) -> None:
        resolver = dns.resolver.Resolver(configure=False)
        with name_server() as address, hops("socks4a", "socks5h+tls") as chain:
            resolver.nameservers = [Nameserver(*address, proxy=chain.proxies)]
            answer = resolver.resolve("a.test", "A", tcp=True, lifetime=10)
        assert [record.to_text() for record in answer] == ["192.0.2.1"]

    def test_chain_dns_falls_back_to_tcp_awaited(
        self, portal: BlockingPortal, hops: MakeHops
    ) -> None:
        resolver = dns.asyncresolver.Resolver(configure=False)
        with name_server() as address, hops("socks5h", "socks5h") as chain, nothing_left_open():
            resolver.nameservers, resolver.port = [address[0]], address[1]
            ask = partial(
                resolver.resolve, "a.test", "A", lifetime=10, backend=Backend(chain.proxies)
            )
            answer = portal.call(ask)
        assert [record.to_text() for record in answer] == ["192.0.2.1"]
