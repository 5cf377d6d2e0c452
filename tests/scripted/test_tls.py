"""TLS with the proxy: certificates, contexts and ALPN."""

from __future__ import annotations

import errno
import ssl
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from socksclient import (
    Proxy,
    ProxyClosed,
    ProxyConnectError,
)
from socksclient.testing import SocksServer

from helpers.hops import NOBODY, Authority, Connect, MakeHops, Verifier
from helpers.http_clients import (
    PROXY_HOST,
    Driver,
    nothing_left_open,
    routes_to,
)
from helpers.origin import Origin
from helpers.support import (
    Address,
)
from helpers.tls_servers import (
    KINDS,
    both_versions,
    certificate_error,
    speaking_tls,
    watched,
)

pytest_plugins = ["helpers.hop_fixtures"]


class TestCertificate:
    @pytest.mark.parametrize("kind", KINDS)
    def test_certificate_is_verified_by_default(
        self, connect: Connect, hops: MakeHops, kind: str
    ) -> None:
        with hops(kind) as chain, nothing_left_open():
            proxy = replace(chain.proxies[0], tls=True)
            with pytest.raises(ProxyConnectError, match="certificate verify failed") as caught:
                connect(NOBODY, proxy=proxy)
            assert certificate_error(caught.value).verify_code in (19, 20)
            assert caught.value.proxy == proxy
            assert caught.value.destination == NOBODY
            assert chain.servers[0].connections[0].received == b""

    def test_certificate_for_other_host(
        self, connect: Connect, hops: MakeHops, names: dict[str, list[str]]
    ) -> None:
        names["other.test"] = [PROXY_HOST]
        with hops("socks5h+tls") as chain, nothing_left_open():
            proxy = replace(chain.proxies[0], host="other.test")
            with pytest.raises(ProxyConnectError, match=r"not valid for 'other\.test'") as caught:
                connect(NOBODY, proxy=proxy)
            assert certificate_error(caught.value).verify_code == 62
            assert chain.servers[0].connections[0].received == b""

    def test_certificate_expired(self, connect: Connect, authority: Authority) -> None:
        yesterday = datetime.now(timezone.utc) - timedelta(days=1)
        expired = authority.ca.issue_cert(PROXY_HOST, not_after=yesterday)
        with SocksServer(host=PROXY_HOST, tls=authority.server(expired)) as server:
            proxy = Proxy(*server.address, tls=authority.client())
            with nothing_left_open(), pytest.raises(ProxyConnectError, match="expired") as caught:
                connect(NOBODY, proxy=proxy)
            assert certificate_error(caught.value).verify_code == 10
            assert server.connections[0].received == b""

    def test_certificate_not_verified_by_context(
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
    def test_certificate_name_without_final_dot(
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
    def test_certificate_for_ip_address(
        self, connect: Connect, authority: Authority, greeter: Address, host: str
    ) -> None:
        context, seen = watched(authority.server())
        with SocksServer(host=host, tls=context) as server:
            proxy = Proxy(*server.address, tls=authority.client())
            with connect(greeter, proxy=proxy) as tunnel:
                tunnel.assert_greets_and_echoes()
        # SNI is for names only (RFC 6066 §3).
        assert [name for _, name in seen] == [None]

    def test_certificate_for_other_ip_address(self, connect: Connect, authority: Authority) -> None:
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
# Nothing public shows that the process keeps the context.
context = socksclient._net.tls.context_of(proxy)
assert context is socksclient._net.tls.context_of(socksclient.Proxy("other.test", tls=True))
"""


def test_default_context_reads_environment(
    authority: Authority, hops: MakeHops, echo_server: Address, tmp_path: Path
) -> None:
    """A process keeps its default context, so that this test needs a process of its own."""
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


@pytest.mark.parametrize("kind", ["socks5h", "http"])
class TestALPN:
    """The proxy is offered no protocol: what is spoken with it is not what is spoken through it."""

    def test_alpn_is_not_offered_to_proxy(
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

    def test_alpn_of_callers_context(
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

    def test_alpn_http2_is_offered_to_destination(
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
    """Return all that can be read from a context. Its ALPN protocols cannot be read."""
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
    def test_context_is_not_changed(
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

    def test_context_shared_with_verify_is_refused(self, driver: Driver, origin: Origin) -> None:
        context = origin.trust()
        for proxy in (Proxy("h", tls=context), [Proxy("h"), Proxy("h", tls=context)]):
            with pytest.raises(ValueError, match="verify is also the context for TLS with the"):
                driver.transport(proxy, verify=context)

    def test_context_that_verifies_itself(
        self, connect: Connect, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        """The contexts of truststore verify the certificate after they have wrapped the socket."""
        context = Verifier(ssl.PROTOCOL_TLS_CLIENT)
        authority.ca.configure_trust(context)
        with hops("socks5h+tls") as chain:
            with connect(greeter, proxy=replace(chain.proxies[0], tls=context)) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_context_if_ssl_context_is_replaced(
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

    def test_context_if_ssl_context_is_replaced_for_https(
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
    def test_context_with_each_tls_version(
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

    def test_context_without_common_tls_version(
        self, connect: Connect, authority: Authority
    ) -> None:
        server_context, context = authority.server(), authority.client()
        server_context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with speaking_tls(server_context) as address, nothing_left_open():
            with pytest.raises(ProxyConnectError, match="alert protocol version") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=context))
        assert (caught.value.phase, caught.value.errno) == ("tls", None)
        assert isinstance(caught.value.__cause__, ssl.SSLError)


class TestClientCertificate:
    @pytest.fixture
    def strict(self, authority: Authority) -> ssl.SSLContext:
        context = authority.server()
        context.verify_mode = ssl.CERT_REQUIRED
        authority.ca.configure_trust(context)
        return context

    @both_versions
    def test_client_certificate_in_context(
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

    def test_client_certificate_missing_with_tls_1_2(
        self, connect: Connect, authority: Authority, strict: ssl.SSLContext
    ) -> None:
        strict.maximum_version = ssl.TLSVersion.TLSv1_2
        with speaking_tls(strict) as address, nothing_left_open():
            with pytest.raises(ProxyConnectError, match="alert handshake failure") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=authority.client()))
        assert (caught.value.phase, caught.value.errno) == ("tls", None)

    def test_client_certificate_missing_with_tls_1_3(
        self, connect: Connect, authority: Authority, strict: ssl.SSLContext
    ) -> None:
        """The server refuses after the client has finished its part of the handshake.

        So the client sees a hang-up if the alert of the server comes too late.
        """
        with speaking_tls(strict) as address, nothing_left_open():
            with pytest.raises(ProxyClosed, match=r"hung up|broke") as caught:
                connect(NOBODY, proxy=Proxy(*address, tls=authority.client()))
        assert caught.value.phase == "method selection"
        assert caught.value.errno == errno.ECONNRESET
