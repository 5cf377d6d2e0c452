"""TLS with the proxy fails: the proxy speaks something else, hangs up or stalls."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from dataclasses import replace

import pytest

from socksclient import (
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
)
from socksclient.testing import Faults

from helpers.hops import NOBODY, Authority, Connect, MakeHops, connect_blocking
from helpers.http_clients import (
    PROXY_HOST,
    nothing_left_open,
    saying_nothing,
)
from helpers.support import (
    LONG,
    SHORT,
    Address,
    eventually,
    serving,
)
from helpers.tls_servers import (
    dripping,
    has_connection_to,
    resetting,
    speaking_tls,
)

pytest_plugins = ["helpers.hop_fixtures"]


ALERT = bytes.fromhex("15 03 01 00 02 02 28")


class TestTLSFailures:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (b"", ""),
            (b"\x05\x00", ""),
            (b"\x05\xff\x05\xff\x05\xff", "wrong version number"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number"),
            (ALERT, "alert handshake failure"),
            (ALERT[:4], ""),
        ],
    )
    @pytest.mark.parametrize("hears", [False, True])
    def test_tls_failure_after_other_answer(
        self, connect: Connect, authority: Authority, answer: bytes, words: str, hears: bool
    ) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if hears:
                await reader.read(65536)
            writer.write(answer)

        with serving(handle, PROXY_HOST) as address, nothing_left_open():
            proxy = Proxy(*address, tls=authority.client())
            with pytest.raises(ProxyConnectError, match=r"TLS with the proxy failed: \S") as caught:
                connect(NOBODY, proxy=proxy)
        # If the server does not read our part of the handshake, its error may arrive as a reset.
        if hears:
            assert words in str(caught.value)
        assert (caught.value.phase, caught.value.proxy) == ("tls", proxy)

    def test_tls_failure_after_reset(self, connect: Connect, authority: Authority) -> None:
        with resetting() as address, nothing_left_open():
            with pytest.raises(ProxyConnectError, match=r"TLS with the proxy failed: \S") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=authority.client()))
        assert caught.value.phase == "tls"
        assert caught.value.errno in (errno.ECONNRESET, None)

    def test_tls_failure_after_reset_before_handshake(
        self,
        connect: Connect,
        hops: MakeHops,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The nearest hop grants the request for the next hop, and then resets the connection."""

        class WaitsForTheReset(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.getMessage().endswith(": tls"):
                    assert eventually(lambda: not has_connection_to(nearest.address))

        caplog.set_level(logging.DEBUG, "socksclient")
        logger = logging.getLogger("socksclient")
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, WaitsForTheReset()])
        with hops("socks5h", "socks5h+tls", faults={0: Faults(reset_after=12)}) as chain:
            nearest = chain.servers[0]
            with nothing_left_open():
                with pytest.raises(ProxyConnectError, match="the connection has ended") as caught:
                    connect(NOBODY, proxy=chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (1, "tls")
        assert caught.value.errno == errno.ECONNRESET

    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
    def test_tls_failure_with_plain_proxy(
        self, connect: Connect, authority: Authority, hops: MakeHops, scheme: str
    ) -> None:
        with hops(scheme) as chain, nothing_left_open():
            proxy = replace(chain.proxies[0], tls=authority.client())
            with pytest.raises(ProxyConnectError, match=r"TLS with the proxy failed: \S") as caught:
                connect(NOBODY, proxy=proxy)
            assert caught.value.phase == "tls"
            assert chain.servers[0].connections[0].sent == b""

    @pytest.mark.parametrize(
        ("scheme", "words"),
        [
            ("socks5h", "this is a TLS server, not a plain SOCKS5 proxy"),
            ("socks4a", "this is a TLS server, not a plain SOCKS4"),
            ("http", "this is a TLS server, not a"),
        ],
    )
    def test_plain_client_gets_tls_alert(self, connect: Connect, scheme: str, words: str) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write(ALERT)

        with serving(handle, PROXY_HOST) as address, nothing_left_open():
            with pytest.raises(ProtocolError, match=words) as caught:
                connect(NOBODY, proxy=Proxy(*address, scheme=scheme))
        assert caught.value.phase == ("method selection" if scheme == "socks5h" else "request")

    @pytest.mark.parametrize("scheme", ["socks4a", "http"])
    def test_plain_client_gets_hang_up_of_tls_server(
        self, connect: Connect, authority: Authority, scheme: str
    ) -> None:
        """OpenSSL hangs up without an alert."""
        with speaking_tls(authority.server()) as address, nothing_left_open():
            with pytest.raises(ProxyClosed, match="hung up"):
                connect(NOBODY, proxy=Proxy(*address, scheme=scheme))

    def test_tls_handshake_timeout(self, connect: Connect, authority: Authority) -> None:
        with saying_nothing() as address, nothing_left_open():
            proxy = Proxy(*address, tls=authority.client())
            with pytest.raises(TimeoutError) as caught:
                connect(NOBODY, proxy=proxy, timeout=SHORT)
        if connect is connect_blocking:
            assert isinstance(caught.value, ProxyTimeout)
            assert (caught.value.phase, caught.value.proxy) == ("tls", proxy)

    def test_tls_handshake_deadline_covers_all_octets(
        self, connect: Connect, hops: MakeHops
    ) -> None:
        with hops("socks5h+tls") as chain:
            with dripping(chain.servers[0].address, 0.01) as address, nothing_left_open():
                proxy = replace(chain.proxies[0], host=address[0], port=address[1])
                begin = time.monotonic()
                with pytest.raises(TimeoutError):
                    connect(NOBODY, proxy=proxy, timeout=0.2)
                assert 0.19 <= time.monotonic() - begin < LONG

    def test_tls_handshake_split(self, connect: Connect, hops: MakeHops, greeter: Address) -> None:
        with hops("socks5h+tls", "https") as chain:
            with dripping(chain.servers[0].address, 0) as address:
                nearest = replace(chain.proxies[0], host=address[0], port=address[1])
                with connect(greeter, proxy=[nearest, chain.proxies[1]]) as tunnel:
                    tunnel.assert_greets_and_echoes()
