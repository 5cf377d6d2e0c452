"""TLS with the proxy, and TLS with the destination within it."""

from __future__ import annotations

import asyncio
import copy
import errno
import logging
import pickle
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpcore
import pytest
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
)
from socksclient._httpx.backend import Stream
from socksclient._net.sockets import make_socket
from socksclient._sync.tls import TLSSocket, guard, speaks_tls, start_tls
from socksclient.ftp import FTP_TLS
from socksclient.testing import Faults, SocksServer
from socksclient.testing.conversation import reset

from helpers.hops import Authority, Connect, MakeHops, Verifier, connect_blocking
from helpers.http_clients import (
    ONE_CONNECTION,
    PROXY_HOST,
    Driver,
    nothing_left_open,
    routes_to,
    saying_nothing,
)
from helpers.origin import Origin, content, digest
from helpers.support import (
    GREETING,
    LONG,
    SHORT,
    Address,
    eventually,
    in_thread,
    receive_exactly,
    serving,
)

pytest_plugins = ["helpers.hop_fixtures"]

KINDS = ("socks5h+tls", "socks4a+tls", "https")
NOBODY = ("192.0.2.1", 80)
"""To whom no hop gets."""

both_versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError:
    """Return the cause of the error that ended the TLS handshake with a proxy."""
    assert isinstance(error, ProxyConnectError)
    assert error.phase == "tls"
    assert error.errno is None
    assert str(error).startswith("TLS with the proxy failed: ")
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return error.__cause__


# Verification


class TestCertificate:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_verified_by_default(self, connect: Connect, hops: MakeHops, kind: str) -> None:
        with hops(kind) as chain, nothing_left_open():
            proxy = replace(chain.proxies[0], tls=True)
            with pytest.raises(ProxyConnectError, match="certificate verify failed") as caught:
                connect(NOBODY, proxy=proxy)
            assert certificate_error(caught.value).verify_code in (19, 20)
            assert caught.value.proxy == proxy
            assert caught.value.destination == NOBODY
            assert chain.servers[0].connections[0].received == b""

    def test_it_is_for_the_host_of_the_proxy(
        self, connect: Connect, hops: MakeHops, names: dict[str, list[str]]
    ) -> None:
        names["other.test"] = [PROXY_HOST]
        with hops("socks5h+tls") as chain, nothing_left_open():
            proxy = replace(chain.proxies[0], host="other.test")
            with pytest.raises(ProxyConnectError, match=r"not valid for 'other\.test'") as caught:
                connect(NOBODY, proxy=proxy)
            assert certificate_error(caught.value).verify_code == 62
            assert chain.servers[0].connections[0].received == b""

    def test_it_has_an_end(self, connect: Connect, authority: Authority) -> None:
        yesterday = datetime.now(timezone.utc) - timedelta(days=1)
        expired = authority.ca.issue_cert(PROXY_HOST, not_after=yesterday)
        with SocksServer(host=PROXY_HOST, tls=authority.server(expired)) as server:
            proxy = Proxy(*server.address, tls=authority.client())
            with nothing_left_open(), pytest.raises(ProxyConnectError, match="expired") as caught:
                connect(NOBODY, proxy=proxy)
            assert certificate_error(caught.value).verify_code == 10
            assert server.connections[0].received == b""

    def test_it_need_not_be_verified(
        self, connect: Connect, hops: MakeHops, greeter: Address
    ) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with hops("socks5h+tls") as chain:
            proxy = replace(chain.proxies[0], tls=context)
            with connect(greeter, proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()

    @pytest.mark.parametrize("host", ["first.test", "First.TEST", "first.test."])
    def test_a_name_with_a_dot_at_its_end_is_verified_without(
        self,
        connect: Connect,
        authority: Authority,
        names: dict[str, list[str]],
        greeter: Address,
        host: str,
    ) -> None:
        names[host.lower()] = [PROXY_HOST]
        context, seen = watched(authority.server())
        with SocksServer(host=PROXY_HOST, tls=context) as server:
            proxy = Proxy(host, server.address[1], tls=authority.client())
            with connect(greeter, proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()
        assert [name for _, name in seen] == ["first.test"]

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_an_ip_address(
        self, connect: Connect, authority: Authority, greeter: Address, host: str
    ) -> None:
        context, seen = watched(authority.server())
        with SocksServer(host=host, tls=context) as server:
            proxy = Proxy(*server.address, tls=authority.client())
            with connect(greeter, proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()
        # SNI is for names only (RFC 6066 §3).
        assert [name for _, name in seen] == [None]

    def test_another_ip_address(self, connect: Connect, authority: Authority) -> None:
        with SocksServer(host="127.0.0.5", tls=authority.server()) as server:
            proxy = Proxy(*server.address, tls=authority.client())
            with pytest.raises(ProxyConnectError, match=r"not valid for '127\.0\.0\.5'") as caught:
                connect(NOBODY, proxy=proxy)
        assert certificate_error(caught.value).verify_code == 64


BY_DEFAULT = """
import sys
import anyio
import httpx
import socksclient, socksclient.anyio, socksclient._net.tls

proxy, host, port = socksclient.Proxy.from_url(sys.argv[1]), sys.argv[2], int(sys.argv[3])
assert proxy.tls is True
with socksclient.create_connection((host, port), 10, proxy=proxy) as sock:
    sock.sendall(b"blocking")
    print(sock.recv(100).decode())

async def main():
    with anyio.fail_after(60):
        async with await socksclient.anyio.connect_tcp(host, port, proxy=proxy) as stream:
            await stream.send(b"awaited")
            print((await stream.receive()).decode())

anyio.run(main)
context = socksclient._net.tls.context_of(proxy)
assert context is socksclient._net.tls.context_of(socksclient.Proxy("other.test", tls=True))
"""


def test_the_default_context_is_of_the_environment(
    authority: Authority, hops: MakeHops, echo_server: Address, tmp_path: Path
) -> None:
    """It is kept, and so this takes a process of its own."""
    path = tmp_path / "ca.pem"
    authority.ca.cert_pem.write_to_path(str(path))
    with hops("socks5h+tls") as chain:
        url = chain.servers[0].url
        assert url.startswith("socks5h+tls://")
        command = [sys.executable, "-c", BY_DEFAULT, url, echo_server[0], str(echo_server[1])]
        done = subprocess.run(
            command, env={"SSL_CERT_FILE": str(path)}, capture_output=True, text=True, check=False
        )
    assert (done.stdout, done.stderr) == ("blocking\nawaited\n", "")


# What the proxy is told, and the context


def watched(context: ssl.SSLContext) -> tuple[ssl.SSLContext, list[tuple[Any, str | None]]]:
    """Return the context, and a list that gets each client of the server with its SNI."""
    seen: list[tuple[Any, str | None]] = []
    context.sni_callback = lambda client, name, _context: seen.append((client, name))
    return context, seen


@pytest.mark.parametrize("kind", ["socks5h", "http"])
class TestALPN:
    """The proxy is offered no protocol: what is spoken with it is not what is spoken through it."""

    def test_none_is_offered(
        self, connect: Connect, authority: Authority, greeter: Address, kind: str
    ) -> None:
        context, seen = watched(authority.server())
        context.set_alpn_protocols(["h2", "http/1.1"])
        with SocksServer(host=PROXY_HOST, tls=context) as server:
            proxy = replace(Proxy.from_url(server.url_as(kind)), tls=authority.client())
            with connect(greeter, proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()
                [(client, _)] = seen
                assert client.selected_alpn_protocol() is None

    def test_but_those_of_the_callers_context(
        self, connect: Connect, authority: Authority, greeter: Address, kind: str
    ) -> None:
        context, seen = watched(authority.server())
        context.set_alpn_protocols(["h2", "http/1.1"])
        of_the_caller = authority.client()
        of_the_caller.set_alpn_protocols(["http/1.1"])
        with SocksServer(host=PROXY_HOST, tls=context) as server:
            proxy = replace(Proxy.from_url(server.url_as(kind)), tls=of_the_caller)
            with connect(greeter, proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()
                [(client, _)] = seen
                assert client.selected_alpn_protocol() == "http/1.1"

    def test_http2_is_for_the_destination(
        self, driver: Driver, authority: Authority, origin: Origin, kind: str
    ) -> None:
        context, seen = watched(authority.server())
        context.set_alpn_protocols(["h2", "http/1.1"])
        of_the_caller = authority.client()
        before = state_of(of_the_caller)
        with SocksServer(host=PROXY_HOST, tls=context, routes=routes_to(origin)) as server:
            proxy = replace(Proxy.from_url(server.url_as(kind)), tls=of_the_caller)
            with driver.through(proxy, http2=True) as client:
                response = client.get("https://origin.test/")
                assert response.http_version == "HTTP/2"
                assert [one.selected_alpn_protocol() for one, _ in seen] == [None]
                # Nor has the pool set any on the proxy's context meanwhile.
                client.get("http://origin.test/")
                assert [one.selected_alpn_protocol() for one, _ in seen] == [None, None]
        assert state_of(of_the_caller) == before


def state_of(context: ssl.SSLContext) -> dict[str, object]:
    """Return what can be read from a context, which its ALPN cannot."""
    names = (
        "options",
        "verify_mode",
        "verify_flags",
        "check_hostname",
        "hostname_checks_common_name",
        "minimum_version",
        "maximum_version",
        "post_handshake_auth",
        "keylog_filename",
        "sni_callback",
        "security_level",
    )
    state: dict[str, object] = {name: getattr(context, name) for name in names}
    state["ciphers"] = [cipher["name"] for cipher in context.get_ciphers()]
    state["certificates"] = context.get_ca_certs(binary_form=True)
    return state


class TestContext:
    def test_it_is_used_as_it_is_and_not_changed(
        self, connect: Connect, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        context = authority.client()
        before = state_of(context)
        with hops("socks5h+tls", "https") as chain:
            for hop in (0, 1):
                proxies = list(chain.proxies)
                proxies[hop] = replace(proxies[hop], tls=context)
                with connect(greeter, proxy=proxies) as tunnel:
                    tunnel.assert_greets_and_echoes()
        assert state_of(context) == before

    def test_it_must_not_be_that_for_the_destination_too(
        self, driver: Driver, origin: Origin
    ) -> None:
        context = origin.trust()
        for proxy in (Proxy("h", tls=context), [Proxy("h"), Proxy("h", tls=context)]):
            with pytest.raises(ValueError, match="verify is also the context for TLS with the"):
                driver.transport(proxy, verify=context)

    def test_one_that_verifies_in_its_own_way(
        self, connect: Connect, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        """As those of truststore do, when they have wrapped the socket."""
        context = Verifier(ssl.PROTOCOL_TLS_CLIENT)
        authority.ca.configure_trust(context)
        with hops("socks5h+tls") as chain:
            with connect(greeter, proxy=replace(chain.proxies[0], tls=context)) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_one_in_the_place_of_that_of_ssl(
        self,
        connect: Connect,
        authority: Authority,
        hops: MakeHops,
        greeter: Address,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """truststore.inject_into_ssl replaces `ssl.SSLContext` in this way."""
        context = Verifier(ssl.PROTOCOL_TLS_CLIENT)
        authority.ca.configure_trust(context)
        with hops("socks5h+tls") as chain:
            monkeypatch.setattr(ssl, "SSLContext", Verifier)
            with connect(greeter, proxy=replace(chain.proxies[0], tls=context)) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_one_in_the_place_of_that_of_ssl_for_https(
        self, driver: Driver, origin: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = Verifier(ssl.PROTOCOL_TLS_CLIENT)
        origin.ca.configure_trust(context)
        with SocksServer(routes=routes_to(origin)) as server:
            transport = driver.transport(server.url, verify=context)
            monkeypatch.setattr(ssl, "SSLContext", Verifier)
            with driver.client(transport) as client:
                assert client.get("https://origin.test/").status_code == 200

    @both_versions
    def test_both_versions_of_tls(
        self,
        connect: Connect,
        authority: Authority,
        greeter: Address,
        version: ssl.TLSVersion,
    ) -> None:
        server_context, seen = watched(authority.server())
        server_context.maximum_version = version
        with SocksServer(host=PROXY_HOST, tls=server_context) as server:
            with connect(greeter, proxy=Proxy(*server.address, tls=authority.client())) as tunnel:
                tunnel.assert_greets_and_echoes()
                assert seen[0][0].version() == version.name.replace("_", ".")

    def test_no_version_in_common(self, connect: Connect, authority: Authority) -> None:
        server_context, context = authority.server(), authority.client()
        server_context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with speaking_tls(server_context) as address, nothing_left_open():
            with pytest.raises(ProxyConnectError, match="alert protocol version") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=context))
        assert (caught.value.phase, caught.value.errno) == ("tls", None)
        assert isinstance(caught.value.__cause__, ssl.SSLError)


class TestCertificateOfTheClient:
    @pytest.fixture
    def strict(self, authority: Authority) -> ssl.SSLContext:
        context = authority.server()
        context.verify_mode = ssl.CERT_REQUIRED
        authority.ca.configure_trust(context)
        return context

    @both_versions
    def test_it_is_in_the_context(
        self,
        connect: Connect,
        authority: Authority,
        strict: ssl.SSLContext,
        greeter: Address,
        version: ssl.TLSVersion,
    ) -> None:
        strict.maximum_version = version
        context = authority.client()
        authority.ca.issue_cert("client.test").configure_cert(context)
        with SocksServer(host=PROXY_HOST, tls=strict) as server:
            with connect(greeter, proxy=Proxy(*server.address, tls=context)) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_there_is_none_with_tls_1_2(
        self, connect: Connect, authority: Authority, strict: ssl.SSLContext
    ) -> None:
        strict.maximum_version = ssl.TLSVersion.TLSv1_2
        with speaking_tls(strict) as address, nothing_left_open():
            with pytest.raises(ProxyConnectError, match="alert handshake failure") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=authority.client()))
        assert (caught.value.phase, caught.value.errno) == ("tls", None)

    def test_there_is_none_with_tls_1_3(
        self, connect: Connect, authority: Authority, strict: ssl.SSLContext
    ) -> None:
        """The server says so when the client is through with the handshake already.

        So it may just have hung up, if its alert has come too late.
        """
        with speaking_tls(strict) as address, nothing_left_open():
            with pytest.raises(ProxyClosed, match=r"hung up|broke") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=authority.client()))
        assert caught.value.phase == "method selection"
        assert caught.value.errno == errno.ECONNRESET


# Servers that do otherwise


@contextmanager
def speaking_tls(
    context: ssl.SSLContext, talk: Callable[[ssl.SSLSocket], object] = lambda sock: sock.recv(1)
) -> Iterator[Address]:
    """Run a server that does TLS with one client after the other, and then calls `talk`.

    Unlike those of asyncio, it says an alert when TLS fails.
    """
    stopped = threading.Event()

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            with sock, suppress(OSError):
                if stopped.is_set():
                    return
                with context.wrap_socket(sock, server_side=True) as peer:
                    talk(peer)

    with socket.create_server((PROXY_HOST, 0)) as listener:
        address: Address = listener.getsockname()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            stopped.set()
            socket.create_connection(address).close()
            thread.join()


ALERT = bytes.fromhex("15 03 01 00 02 02 28")


class TestNoTLS:
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
    def test_a_server_that_answers_otherwise_and_hangs_up(
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

    def test_a_reset(self, connect: Connect, authority: Authority) -> None:
        with resetting() as address, nothing_left_open():
            with pytest.raises(ProxyConnectError, match=r"TLS with the proxy failed: \S") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=authority.client()))
        assert caught.value.phase == "tls"
        assert caught.value.errno in (errno.ECONNRESET, None)

    def test_a_reset_before_it_begins(
        self,
        connect: Connect,
        hops: MakeHops,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The nearest grants the connection to the next, and then resets its own."""
        made: list[socket.socket] = []

        def make(*args: Any) -> socket.socket:
            made.append(make_socket(*args))
            return made[-1]

        class WaitsForTheReset(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.getMessage().endswith(": tls"):
                    assert eventually(lambda: is_reset(made[0]))

        monkeypatch.setattr("socksclient._sync.driver.make_socket", make)
        monkeypatch.setattr("socksclient._net.sockets.make_socket", make)
        caplog.set_level(logging.DEBUG, "socksclient")
        logger = logging.getLogger("socksclient")
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, WaitsForTheReset()])
        with hops("socks5h", "socks5h+tls", faults={0: Faults(reset_after=12)}) as chain:
            with nothing_left_open():
                with pytest.raises(ProxyConnectError, match="the connection has ended") as caught:
                    connect(NOBODY, proxy=chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (1, "tls")
        assert caught.value.errno == errno.ECONNRESET

    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
    def test_a_socks_server(
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
    def test_tls_where_there_should_be_none(
        self, connect: Connect, scheme: str, words: str
    ) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write(ALERT)

        with serving(handle, PROXY_HOST) as address, nothing_left_open():
            with pytest.raises(ProtocolError, match=words) as caught:
                connect(NOBODY, proxy=Proxy(*address, scheme=scheme))
        assert caught.value.phase == ("method selection" if scheme == "socks5h" else "request")

    @pytest.mark.parametrize("scheme", ["socks4a", "http"])
    def test_tls_that_says_no_alert_where_there_should_be_none(
        self, connect: Connect, authority: Authority, scheme: str
    ) -> None:
        """OpenSSL hangs up without one."""
        with speaking_tls(authority.server()) as address, nothing_left_open():
            with pytest.raises(ProxyClosed, match="hung up"):
                connect(NOBODY, proxy=Proxy(*address, scheme=scheme))

    def test_the_deadline_passes(self, connect: Connect, authority: Authority) -> None:
        with saying_nothing() as address, nothing_left_open():
            proxy = Proxy(*address, tls=authority.client())
            with pytest.raises(TimeoutError) as caught:
                connect(NOBODY, proxy=proxy, timeout=SHORT)
        if connect is connect_blocking:
            assert isinstance(caught.value, ProxyTimeout)
            assert (caught.value.phase, caught.value.proxy) == ("tls", proxy)

    def test_the_deadline_is_one_for_all_of_the_handshake(
        self, connect: Connect, hops: MakeHops
    ) -> None:
        with hops("socks5h+tls") as chain:
            with dripping(chain.servers[0].address, 0.01) as address, nothing_left_open():
                proxy = replace(chain.proxies[0], host=address[0], port=address[1])
                begin = time.monotonic()
                with pytest.raises(TimeoutError):
                    connect(NOBODY, proxy=proxy, timeout=0.2)
                assert 0.19 <= time.monotonic() - begin < LONG

    def test_octet_by_octet(self, connect: Connect, hops: MakeHops, greeter: Address) -> None:
        with hops("socks5h+tls", "https") as chain:
            with dripping(chain.servers[0].address, 0) as address:
                nearest = replace(chain.proxies[0], host=address[0], port=address[1])
                with connect(greeter, proxy=[nearest, chain.proxies[1]]) as tunnel:
                    tunnel.assert_greets_and_echoes()


def is_reset(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


@contextmanager
def resetting() -> Iterator[Address]:
    """Run a server that resets each connection when it has heard something on it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        reset(writer)

    with serving(handle, PROXY_HOST) as address:
        yield address


@contextmanager
def dripping(destination: Address, seconds: float) -> Iterator[Address]:
    """Run a forwarder that passes on what the destination says octet by octet."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(*destination)

        async def forward() -> None:
            while octets := await reader.read(65536):
                here.write(octets)
            here.close()

        forwarding = asyncio.ensure_future(forward())
        try:
            while octet := await there.read(1):
                await asyncio.sleep(seconds)
                writer.write(octet)
                await writer.drain()
        finally:
            here.close()
            forwarding.cancel()

    with serving(handle, PROXY_HOST) as address:
        yield address


# TLS within TLS, blocking


class Inner:
    """The part of a server that speaks TLS within the TLS of `sock`."""

    def __init__(self, sock: ssl.SSLSocket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._pump(self._tls.do_handshake)

    def _pump(self, operation: Callable[[], Any]) -> Any:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                octets = self.sock.recv(65536)
                if not octets:
                    raise ConnectionAbortedError from None
                self._incoming.write(octets)
            else:
                self.sock.sendall(self._outgoing.read())
                return result

    def hear(self) -> bytes:
        octets: bytes = self._pump(lambda: self._tls.read(65536))
        return octets

    def record_of(self, data: bytes) -> bytes:
        """Return the record that carries `data`."""
        self._tls.write(data)
        return self._outgoing.read()

    def record_of_the_end(self) -> bytes:
        """Return the record that says the end of TLS."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._outgoing.read()


class TestTLSSocket:
    @pytest.fixture
    def play(self, authority: Authority) -> Any:
        """Return a maker of a `TLSSocket` whose other side a function plays."""
        context, server_context = authority.client(), authority.server()

        @contextmanager
        def play(part: Callable[[Inner], object]) -> Iterator[TLSSocket]:
            def talk(sock: ssl.SSLSocket) -> None:
                inner = Inner(sock, server_context)
                part(inner)

            with speaking_tls(server_context, talk) as address, nothing_left_open():
                outer = start_tls(socket.create_connection(address, 10), context, PROXY_HOST)
                sock = start_tls(outer, context, PROXY_HOST)
                assert isinstance(sock, TLSSocket)
                try:
                    yield sock
                finally:
                    sock.close()

        return play

    def test_what_comes_is_whole(self, play: Any) -> None:
        data = random.Random(0).randbytes(100_000)

        def echo(inner: Inner) -> None:
            while True:
                inner.sock.sendall(inner.record_of(inner.hear()))

        with play(echo) as sock:
            for size in (1, 100, 16384, 16385, 100_000):
                sock.sendall(data[:size])
                assert b"".join(exactly(sock, size, 4096)) == data[:size]

    def test_it_is_like_a_socket(self, play: Any) -> None:
        with play(Inner.hear) as sock:
            assert sock.gettimeout() == 10
            sock.settimeout(None)
            assert sock.gettimeout() is None
            assert sock.getpeername()[0] == PROXY_HOST
            with socket.socket(fileno=socket.dup(sock.fileno())) as same:
                assert same.getsockname() == sock.getsockname()
            assert sock.ssl_object.version() == "TLSv1.3"

    @pytest.mark.parametrize(
        "end",
        [
            lambda inner: inner.sock.sendall(inner.record_of_the_end()),
            lambda inner: inner.sock.unwrap(),
            lambda inner: inner.sock.shutdown(socket.SHUT_RDWR),
        ],
        ids=["of the inner TLS", "of the outer TLS", "of the connection"],
    )
    def test_the_end(self, play: Any, end: Callable[[Inner], object]) -> None:
        def part(inner: Inner) -> None:
            inner.sock.sendall(inner.record_of(b"last words"))
            end(inner)

        with play(part) as sock:
            assert b"".join(exactly(sock, 10, 10)) == b"last words"
            assert sock.recv(1) == b""
            assert sock.recv(1) == b""

    def test_a_reset(self, play: Any) -> None:
        def part(inner: Inner) -> None:
            inner.hear()
            linger = struct.pack("ii", 1, 0)
            inner.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        with play(part) as sock:
            sock.sendall(b"words")
            # ssl of Python 3.11 takes the reset for the end of the data.
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            with pytest.raises(OSError, match=r"\S"):
                sock.sendall(b"more")

    def test_garbage(self, play: Any) -> None:
        with play(lambda inner: inner.sock.sendall(b"\x17\x03\x03\x00\x05words")) as sock:
            with pytest.raises(ssl.SSLError):
                sock.recv(1)

    def test_a_timeout_holds_for_all_that_comes_and_loses_nothing(self, play: Any) -> None:
        def drip(inner: Inner) -> None:
            for octet in inner.record_of(b"data"):
                inner.sock.sendall(bytes([octet]))
                threading.Event().wait(0.02)

        with play(drip) as sock:
            sock.settimeout(0.1)
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                sock.recv(4)
            assert 0.09 <= time.monotonic() - begin < LONG
            sock.settimeout(10)
            assert sock.recv(4) == b"data"

    def test_it_tells_of_an_end_that_it_has_read_already(self, play: Any) -> None:
        def part(inner: Inner) -> None:
            record = inner.record_of(b"data")
            inner.sock.sendall(record + inner.record_of_the_end())
            inner.sock.recv(1)

        with play(part) as sock:
            assert b"".join(exactly(sock, 4, 4)) == b"data"
            assert Stream(sock, httpcore).get_extra_info("is_readable")

    def test_a_timeout_of_what_is_sent(self, play: Any) -> None:
        done = threading.Event()
        with play(lambda inner: done.wait()) as sock:
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.sendall(bytes(10_000_000))
            done.set()

    def test_more_than_two(self, authority: Authority, hops: MakeHops, greeter: Address) -> None:
        with hops("socks5h+tls", "https", "socks4a+tls") as chain:
            with connect_blocking(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
                assert isinstance(tunnel.channel._sock, TLSSocket)

    @pytest.mark.parametrize("within", [False, True])
    def test_an_interrupt(self, authority: Authority, within: bool) -> None:
        """By a signal, while it waits for the proxy in the TLS handshake."""
        heard, interrupted = threading.Event(), threading.Event()

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            heard.set()
            await reader.read()

        def hear_within(sock: ssl.SSLSocket) -> None:
            sock.recv(1)
            heard.set()
            while sock.recv(65536):
                pass

        def interrupt(*_args: object) -> None:
            if not interrupted.is_set():
                interrupted.set()
                raise KeyboardInterrupt

        def kill(thread: int) -> None:
            assert heard.wait(LONG)
            # A signal just before the system call does not interrupt that, so there are several.
            while not interrupted.wait(0.01):
                signal.pthread_kill(thread, signal.SIGUSR1)

        context = authority.client()
        with ExitStack() as stack:
            address = stack.enter_context(
                speaking_tls(authority.server(), hear_within)
                if within
                else serving(hear, PROXY_HOST)
            )
            before = signal.signal(signal.SIGUSR1, interrupt)
            stack.callback(signal.signal, signal.SIGUSR1, before)
            killer = threading.Thread(target=kill, args=(threading.get_ident(),))
            killer.start()
            stack.callback(killer.join)
            with nothing_left_open():
                sock: Any = socket.create_connection(address)
                if within:
                    sock = start_tls(sock, context, PROXY_HOST)
                with pytest.raises(KeyboardInterrupt) as held:
                    start_tls(sock, context, PROXY_HOST)
                assert sock.fileno() == -1, held


def exactly(sock: TLSSocket, count: int, most: int) -> Iterator[bytes]:
    while count:
        octets = sock.recv(min(count, most))
        assert 0 < len(octets) <= most
        count -= len(octets)
        yield octets


# Sockets


class TestSocket:
    def test_tls_around_it_is_refused(
        self, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        """It would go to the proxy in the clear."""
        with hops("socks5h+tls") as chain:
            with socksclient.create_connection(greeter, 10, proxy=chain.proxies) as sock:
                assert isinstance(sock, ssl.SSLSocket)
                with pytest.raises(ValueError, match="this socket speaks TLS with the proxy"):
                    authority.client().wrap_socket(sock, server_hostname="greeter.test")
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def test_it_is_known_whatever_has_the_place_of_sslsocket(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = authority.client()
        with speaking_tls(authority.server()) as address:
            connection = socket.create_connection(address, 10)
            assert not speaks_tls(connection)
            sock = start_tls(connection, context, PROXY_HOST)
            assert isinstance(sock, ssl.SSLSocket)
            monkeypatch.setattr(ssl, "SSLSocket", type("SSLSocket", (), {}))
            assert speaks_tls(sock)
            guard(sock)
            with sock, pytest.raises(ValueError, match="this socket speaks TLS with the proxy"):
                context.wrap_socket(sock, server_hostname="destination.test")

    def test_it_is_of_the_class_that_the_context_has(
        self, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        class Special(ssl.SSLSocket):
            pass

        context = authority.client()
        context.sslsocket_class = Special
        with hops("socks5h+tls") as chain:
            proxy = replace(chain.proxies[0], tls=context)
            with socksclient.create_connection(greeter, 10, proxy=proxy) as sock:
                assert type(sock) is Special

    def test_ftp_with_tls_is_refused(self, hops: MakeHops) -> None:
        said: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 ready\r\n")
            while line := await reader.readline():
                said.append(line)
                writer.write(b"230 fine\r\n")

        def log_in(proxy: list[Proxy], address: Address) -> None:
            with FTP_TLS(timeout=10, proxy=proxy) as ftp:
                ftp.connect(*address)
                ftp.login("user", "secret")

        with serving(serve) as address, hops("http", "socks5h+tls") as chain:
            with nothing_left_open(), pytest.raises(ValueError, match="TLS"):
                log_in(chain.proxies, address)
        assert not [line for line in said if line.startswith((b"USER", b"PASS"))]

    def test_much_both_ways(self, connect: Connect, hops: MakeHops, echo_server: Address) -> None:
        data = random.Random(0).randbytes(300_000)
        with hops("socks5h+tls", "socks4a+tls") as chain:
            with connect(echo_server, proxy=chain.proxies) as tunnel:
                for start in range(0, len(data), 50_000):
                    piece = data[start : start + 50_000]
                    tunnel.send(piece)
                    assert tunnel.receive(len(piece)) == piece

    def test_an_end_without_the_closing_handshake(
        self, connect: Connect, authority: Authority
    ) -> None:
        def talk(sock: ssl.SSLSocket) -> None:
            receive_exactly(sock, 3)
            sock.sendall(b"\x05\x00")
            receive_exactly(sock, 10)
            sock.sendall(bytes.fromhex("05 00 00 01 7f 00 00 01 00 50") + GREETING)
            sock.shutdown(socket.SHUT_RDWR)

        with speaking_tls(authority.server(), talk) as address:
            proxy = Proxy(*address, tls=authority.client())
            with connect(NOBODY, proxy=proxy) as tunnel:
                assert tunnel.receive(len(GREETING) + 1) == GREETING

    @pytest.mark.parametrize("faults", [Faults(close_after=n) for n in range(12)], ids=str)
    def test_the_proxy_hangs_up(
        self, connect: Connect, hops: MakeHops, listening: Address, faults: Faults
    ) -> None:
        with hops("socks5h+tls", faults={0: faults}) as chain, nothing_left_open():
            with pytest.raises(ProxyClosed, match=r"got \d of") as caught:
                connect(listening, proxy=chain.proxies)
        assert caught.value.errno == errno.ECONNRESET

    def test_credentials_go_by_tls_and_are_refused_there(
        self, connect: Connect, hops: MakeHops
    ) -> None:
        with hops("https", accounts={0: {"user": "pass"}}) as chain:
            proxy = replace(chain.proxies[0], password="wrong")
            with nothing_left_open(), pytest.raises(AuthenticationError) as caught:
                connect(NOBODY, proxy=proxy)
            assert chain.servers[0].connections[0].password == "wrong"
        assert caught.value.phase == "request"


def test_pickling() -> None:
    proxy = Proxy("h", tls=True)
    error = ProxyConnectError("no")
    error.proxy = proxy
    assert pickle.loads(pickle.dumps(proxy)) == proxy == copy.deepcopy(proxy)
    assert pickle.loads(pickle.dumps(error)).proxy == proxy
    with pytest.raises(TypeError, match="SSLContext"):
        pickle.dumps(replace(proxy, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


# BIND


class TestBind:
    @pytest.mark.parametrize("kind", ["socks5h+tls", "socks4a+tls"])
    def test_a_timeout_loses_nothing(self, hops: MakeHops, kind: str) -> None:
        with hops(kind, faults={0: Faults(split=True)}) as chain, nothing_left_open():
            with socksclient.bind(("127.0.0.1", 0), 10, proxy=chain.proxies) as listener:
                with pytest.raises(ProxyTimeout) as caught:
                    listener.accept(0.02)
                assert caught.value.proxy == chain.proxies[0]
                with socket.create_connection(listener.address, 10) as peer:
                    sock, address = listener.accept()
                    with sock:
                        assert address == peer.getsockname()
                        assert isinstance(sock, ssl.SSLSocket)
                        peer.sendall(GREETING)
                        assert receive_exactly(sock, len(GREETING)) == GREETING

    def test_closing_wakes_who_waits(self, hops: MakeHops) -> None:
        with hops("socks5h+tls") as chain, nothing_left_open():
            for timeout in (10, None):
                listener = socksclient.bind(("127.0.0.1", 0), timeout, proxy=chain.proxies)
                waiting = in_thread(listener.accept)
                listener.close()
                with pytest.raises(OSError, match="Bad file descriptor") as caught:
                    waiting.result(LONG)
                assert caught.value.errno == errno.EBADF

    @pytest.mark.parametrize("kinds", [("https", "socks5h+tls"), ("socks4a+tls",)], ids=", ".join)
    def test_awaited(self, portal: BlockingPortal, hops: MakeHops, kinds: tuple[str, ...]) -> None:
        async def accept(listener: socksclient.anyio.Listener) -> Any:
            with anyio.move_on_after(0.02):
                await listener.accept()
            with socket.create_connection(listener.address, 10) as peer:
                peer.sendall(GREETING)
                async with await listener.accept() as stream:
                    assert isinstance(stream, TLSStream)
                    assert listener.peer_address == peer.getsockname()
                    received = await stream.receive()
                    await stream.send(received)
                    return await anyio.to_thread.run_sync(peer.recv, 100)

        with hops(*kinds) as chain, nothing_left_open():
            bind = partial(socksclient.anyio.bind, "127.0.0.1", 0, proxy=chain.proxies)
            assert portal.call(accept, portal.call(bind)) == GREETING
            listener = portal.call(bind)
            waiting = portal.start_task_soon(listener.accept)
            portal.call(anyio.wait_all_tasks_blocked)
            portal.call(listener.aclose)
            with pytest.raises(anyio.ClosedResourceError):
                waiting.result(LONG)


# HTTPS within


@pytest.fixture(params=[("socks5h+tls",), ("https", "socks4a+tls")], ids=", ".join)
def within(request: pytest.FixtureRequest, hops: MakeHops, origin: Origin) -> Iterator[list[Proxy]]:
    """Yield a chain of which one hop speaks TLS, or two."""
    with hops(*request.param) as chain:
        chain.servers[-1].routes.update(routes_to(origin))
        yield chain.proxies


HTTPS = "https://origin.test/"
SIZE = 2_000_000


class TestHTTPS:
    def test_a_connection_is_kept(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within) as client, nothing_left_open():
            ports = set()
            for url in (HTTPS, HTTPS, "http://origin.test/", "http://origin.test/"):
                response = client.get(url)
                assert response.json()["scheme"] == url.partition(":")[0]
                ports.add((url, response.json()["client"][1]))
            assert len(ports) == 2
            client.close()

    def test_large_bodies(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within) as client:
            with client.stream(f"{HTTPS}download?octets={SIZE}") as response:
                assert client.digest(response) == digest(SIZE)
            answer = client.send(content(SIZE), f"{HTTPS}upload")
            assert answer.json() == {"sha256": digest(SIZE), "octets": SIZE}

    def test_the_read_timeout(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within, limits=ONE_CONNECTION) as client, nothing_left_open():
            timeout = driver.httpx.Timeout(LONG, read=SHORT)
            with client.stream(f"{HTTPS}stall", timeout=timeout) as response:
                with pytest.raises(driver.httpx.ReadTimeout):
                    client.digest(response)
            assert client.get(HTTPS).status_code == 200
            client.close()

    def test_a_body_that_breaks_off(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within, limits=ONE_CONNECTION) as client:
            with pytest.raises(driver.httpx.RemoteProtocolError, match="without sending complete"):
                client.get(f"{HTTPS}break")
            with client.stream(f"{HTTPS}stall") as response:
                # The test leaves the body unread.
                assert response.status_code == 200
            assert client.get(HTTPS).status_code == 200

    def test_what_the_stream_tells(
        self, driver: Driver, within: list[Proxy], origin: Origin
    ) -> None:
        with driver.through(within) as client:
            stream = client.get(HTTPS).extensions["network_stream"]
            tls = stream.get_extra_info("ssl_object")
            assert ("DNS", "origin.test") in tls.getpeercert()["subjectAltName"]
            assert tls.selected_alpn_protocol() == "http/1.1"
            assert stream.get_extra_info("server_addr")[:2] == (within[0].host, within[0].port)
            assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
            assert stream.get_extra_info("socket") is not None
            assert stream.get_extra_info("is_readable") is False
            plain = client.get("http://origin.test/").extensions["network_stream"]
            assert plain.get_extra_info("ssl_object") is None
            assert plain.get_extra_info("server_addr")[1] == within[0].port
        assert eventually(lambda: bool(stream.get_extra_info("is_readable")))

    def test_the_certificate_of_the_destination_is_verified_too(
        self, driver: Driver, within: list[Proxy], authority: Authority
    ) -> None:
        with driver.through(within, verify=authority.client()) as client, nothing_left_open():
            with pytest.raises(driver.httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                client.get(HTTPS)

    def test_an_error_of_the_proxys_tls(self, driver: Driver, within: list[Proxy]) -> None:
        within[-1] = replace(within[-1], tls=True)
        with driver.through(within) as client, nothing_left_open():
            with pytest.raises(driver.httpx.ConnectError, match="TLS with the proxy") as caught:
                client.get(HTTPS)
        certificate_error(caught.value.__cause__)

    def test_the_connect_timeout_in_the_tls_of_the_destination(
        self, driver: Driver, within: list[Proxy]
    ) -> None:
        with saying_nothing() as (host, port):
            with driver.through(within, limits=ONE_CONNECTION) as client, nothing_left_open():
                timeout = driver.httpx.Timeout(LONG, connect=SHORT)
                with pytest.raises(driver.httpx.ConnectTimeout):
                    client.get(f"https://{host}:{port}/", timeout=timeout)
                assert client.get(HTTPS).status_code == 200
                client.close()

    @pytest.mark.parametrize("tls", [False, True])
    def test_a_connection_that_ends_meanwhile_is_not_used_again(
        self, driver: Driver, within: list[Proxy], origin: Origin, tls: bool
    ) -> None:
        ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        leave = threading.Event()

        # On asyncio anyio's streams read ahead until they had to wait once, and what has been
        # read is not readable any more: TLS's closing handshake would not be seen.
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.to_thread(driver.wait_until_it_waits)
            writer.write(ok)
            await asyncio.to_thread(leave.wait, 10)

        def answer_in_tls(sock: ssl.SSLSocket) -> None:
            sock.recv(65536)
            driver.wait_until_it_waits()
            sock.sendall(ok)
            leave.wait(10)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        origin.ca.issue_cert(PROXY_HOST).configure_cert(context)
        server = speaking_tls(context, answer_in_tls) if tls else serving(answer)
        with server as (host, port), driver.through(within) as client:
            for _ in range(3):
                leave.clear()
                response = client.get(f"{'https' if tls else 'http'}://{host}:{port}/")
                assert response.text == "ok"
                tell = response.extensions["network_stream"].get_extra_info
                assert not tell("is_readable")
                leave.set()
                assert eventually(partial(tell, "is_readable"))
