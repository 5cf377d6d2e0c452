"""`socksclient.requests`: TLS with the destination, and within the TLS with proxies."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from requests.exceptions import ProxyError, SSLError
from urllib3.exceptions import InsecureRequestWarning

from socksclient import Proxy, ProxyConnectError, ProxyTimeout
from socksclient._sync.tls import TLSSocket, start_tls
from socksclient.requests import Session, SocksAdapter
from socksclient.testing import Faults, SocksServer

from helpers.hops import Verifier
from helpers.http_clients import (
    HANDSHAKE,
    HTTP,
    HTTPS,
    PROXY_HOST,
    nothing_left_open,
    routes_to,
    saying_nothing,
)
from helpers.origin import Origin, content, digest, digest_of
from helpers.requests_clients import SIZE, WithOptions, client_of, fail
from helpers.support import SHORT, resolved_names, serving

pytest_plugins = ["helpers.http_fixtures", "helpers.requests_fixtures"]
pytestmark = pytest.mark.usefixtures("requests_environment")

# TLS with the destination


def test_certificate_is_verified(
    session: Session, server: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.routes["impostor.test", 443] = ("127.0.0.1", origin.https_port)
    assert "impostor.test" in str(fail(session, "https://impostor.test/", SSLError))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    error = fail(session, HTTPS, SSLError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert error.__cause__ is None


def test_verify_option(
    session: Session,
    server: SocksServer,
    certificates: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each value has a pool of its own."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert session.get(HTTPS, verify=certificates).ok
    with pytest.warns(InsecureRequestWarning):
        assert session.get(HTTPS, verify=False).ok
    fail(session, HTTPS, SSLError)
    # This directory has no certificate.
    fail(session, HTTPS, SSLError, verify=str(tmp_path))
    assert len(server.connections) == 4


def test_cert_option_sends_client_certificate(tmp_path: Path) -> None:
    path, ca = str(tmp_path / "client.pem"), str(tmp_path / "ca.pem")
    with Origin(client_certificate_wanted=True) as strict:
        strict.ca.cert_pem.write_to_path(ca)
        strict.ca.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(path)
        with (
            SocksServer(host=PROXY_HOST, routes=routes_to(strict)) as server,
            Session(server.url) as session,
        ):
            assert session.get(HTTPS, verify=ca, cert=path).ok
            assert session.get(HTTPS, verify=ca, cert=(path, path)).ok
            with nothing_left_open(), pytest.raises(requests.ConnectionError):
                session.get(HTTPS, verify=ca)


def test_ssl_context_option(
    server: SocksServer, origin: Origin, pool_kwargs: dict[str, Any]
) -> None:
    pool_kwargs["ssl_context"] = context = origin.trust()
    with Session(server.url) as session:
        session.mount("https://", WithOptions(server.url))
        with session.get(HTTPS, stream=True) as response:
            connection: Any = response.raw.connection
            assert connection.ssl_context is context
            assert connection.sock.context is context
            assert response.ok
        assert session.get(HTTPS).ok
    assert len(server.connections) == 2


def test_ssl_context_class_that_replaces_ssl(
    server: SocksServer,
    origin: Origin,
    pool_kwargs: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """truststore.inject_into_ssl replaces `ssl.SSLContext` in this way."""
    context = pool_kwargs["ssl_context"] = Verifier(ssl.PROTOCOL_TLS_CLIENT)
    origin.ca.configure_trust(context)
    monkeypatch.setattr(ssl, "SSLContext", Verifier)
    with Session(server.url) as session:
        session.mount("https://", WithOptions(server.url))
        assert session.get(HTTPS, timeout=10).ok


def test_ssl_version_options(server: SocksServer, pool_kwargs: dict[str, Any]) -> None:
    pool_kwargs["ssl_maximum_version"] = ssl.TLSVersion.TLSv1_2
    with Session(server.url) as session:
        session.mount("https://", WithOptions(server.url))
        with session.get(HTTPS, stream=True) as response:
            connection: Any = response.raw.connection
            assert connection.sock.version() == "TLSv1.2"
        pool_kwargs["ssl_minimum_version"] = ssl.TLSVersion.TLSv1_3
        del pool_kwargs["ssl_maximum_version"]
        session.mount("https://", WithOptions(server.url))
        with session.get(HTTPS, stream=True) as response:
            connection = response.raw.connection
            assert connection.sock.context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_pool_manager_trusts_authorities_of_system(
    server: SocksServer, certificates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 trusts the authorities of the system by default. requests passes its own."""
    monkeypatch.setenv("SSL_CERT_FILE", certificates)
    manager = SocksAdapter(server.url).poolmanager
    assert manager.request("GET", HTTPS).status == 200
    manager.clear()


def test_assert_hostname_option(
    server: SocksServer, origin: Origin, pool_kwargs: dict[str, Any]
) -> None:
    server.routes["impostor.test", 443] = ("127.0.0.1", origin.https_port)
    pool_kwargs["assert_hostname"] = "origin.test"
    with Session(server.url) as session:
        session.mount("https://", WithOptions(server.url))
        assert session.get("https://impostor.test/").ok


def test_server_hostname_option(
    server: SocksServer, origin: Origin, pool_kwargs: dict[str, Any]
) -> None:
    server.routes["n" * 64, 443] = ("127.0.0.1", origin.https_port)
    pool_kwargs.update(server_hostname="origin.test", assert_hostname="origin.test")
    with Session(server.url) as session:
        session.mount("https://", WithOptions(server.url))
        assert session.get(f"https://{'n' * 64}/").ok


@pytest.mark.parametrize("answer", [b"220 not TLS\r\n", b""])
def test_destination_without_tls_is_connection_error(
    session: Session, server: SocksServer, answer: bytes
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)

    with serving(handle) as (host, port), nothing_left_open():
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(f"https://{host}:{port}/")
        assert not isinstance(caught.value, ProxyError)
        session.close()
        del caught


def test_reset_before_tls_handshake(
    session: Session, server: SocksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def when_it_has_come(sock: socket.socket, *args: Any) -> Any:
        select.select([sock], [], [])
        return start_tls(sock, *args)

    monkeypatch.setattr("socksclient.requests.start_tls", when_it_has_come)
    server.misbehave(Faults(reset_after=HANDSHAKE))
    with (
        nothing_left_open(),
        pytest.raises(requests.ConnectionError, match="the connection has ended"),
    ):
        session.get(HTTPS)


def test_keyboard_interrupt_in_tls_handshake_leaves_nothing_open(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_self: ssl.SSLSocket, _block: bool = False) -> None:
        raise KeyboardInterrupt

    with nothing_left_open(), monkeypatch.context() as patch:
        patch.setattr(ssl.SSLSocket, "do_handshake", interrupt)
        with pytest.raises(KeyboardInterrupt) as held:
            session.get(HTTPS)
    assert session.get(HTTPS).ok
    del held


# TLS with proxies, and TLS with the destination within that


@pytest.fixture(scope="module")
def proxy_ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_proxies(proxy_ca: trustme.CA, origin: Origin) -> Iterator[list[SocksServer]]:
    """Two proxies with TLS. The origin is behind each of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    proxy_ca.issue_cert(PROXY_HOST, "127.0.0.4").configure_cert(context)
    routes = routes_to(origin)
    with (
        SocksServer(host=PROXY_HOST, tls=context, routes=routes) as first,
        SocksServer(host="127.0.0.4", tls=context, routes=routes) as second,
    ):
        yield [first, second]


@pytest.fixture(params=["one", "two"])
def chain(
    request: pytest.FixtureRequest, proxy_ca: trustme.CA, tls_proxies: list[SocksServer]
) -> list[Proxy]:
    """Return a chain with TLS at one hop or at two. No `ssl.SSLSocket` can speak TLS within TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    proxy_ca.configure_trust(context)
    hops = [Proxy(*server.address, tls=context) for server in tls_proxies]
    return hops if request.param == "two" else hops[:1]


@pytest.mark.parametrize("url", [HTTP, HTTPS])
class TestTLSChain:
    def test_tls_chain_down_and_up(
        self, chain: list[Proxy], tls_proxies: list[SocksServer], url: str
    ) -> None:
        with resolved_names() as names, nothing_left_open(), Session(chain) as session:
            first = session.get(url, timeout=10)
            assert first.json()["scheme"] == url.partition(":")[0]
            assert client_of(session.get(url)) == client_of(first)
            with session.get(f"{url}download?octets={SIZE}", stream=True) as response:
                assert digest_of(response.iter_content(65536)) == digest(SIZE)
            response = session.post(f"{url}upload", data=content(SIZE))
            assert response.json() == {"sha256": digest(SIZE), "octets": SIZE}
            del first, response
        assert names == []
        assert len(tls_proxies[0].connections) == 1

    def test_tls_chain_connections_are_closed(self, chain: list[Proxy], url: str) -> None:
        with nothing_left_open():
            session = Session(chain)
            response = session.get(url, headers={"connection": "close"}, stream=True)
            # The body is still to come.
            assert response.headers["connection"] == "close"
            assert response.json()["scheme"]
            with session.get(f"{url}download?octets=10000000", stream=True) as response:
                assert response.ok
            assert session.get(url).ok
            session.close()
            del response

    def test_tls_chain_read_timeout(self, chain: list[Proxy], url: str) -> None:
        with nothing_left_open(), Session(chain) as session:
            response = session.get(f"{url}stall", stream=True, timeout=(10, SHORT))
            with pytest.raises(requests.ConnectionError, match="Read timed out"):
                response.content  # noqa: B018
            del response

    def test_tls_chain_connect_timeout(
        self, chain: list[Proxy], tls_proxies: list[SocksServer], url: str
    ) -> None:
        tls_proxies[len(chain) - 1].misbehave(Faults(stall_after=2))
        with Session(chain) as session:
            error = fail(session, url, requests.ConnectTimeout, timeout=(2 * SHORT, None))
        assert isinstance(error.__cause__, ProxyTimeout)
        assert (error.__cause__.phase, error.__cause__.hop) == ("request", len(chain) - 1)

    def test_tls_chain_unverified_proxy_is_proxy_error(self, chain: list[Proxy], url: str) -> None:
        chain[-1] = replace(chain[-1], tls=True)
        with Session(chain) as session:
            error = fail(session, url, ProxyError)
        assert isinstance(error.__cause__, ProxyConnectError)
        assert error.__cause__.phase == "tls"

    def test_tls_chain_socket_refuses_wrap_socket(self, chain: list[Proxy], url: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with Session(chain) as session, session.get(url, stream=True) as response:
            connection: Any = response.raw.connection
            with pytest.raises(ValueError, match="this socket speaks TLS with the proxy"):
                context.wrap_socket(connection.sock, server_hostname="origin.test")
            assert response.json()["scheme"]

    def test_tls_chain_connection_has_socket_methods(
        self, chain: list[Proxy], tls_proxies: list[SocksServer], url: str
    ) -> None:
        with Session(chain) as session, session.get(url, stream=True) as response:
            connection: Any = response.raw.connection
            sock = connection.sock
            assert sock.getpeername() == tls_proxies[0].address
            assert sock.getsockname() == tls_proxies[0].connections[0].client
            assert sock.type == socket.SOCK_STREAM
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.gettimeout() is None
            # Only TLS with the destination has a version for users.
            assert hasattr(sock, "version") == (url == HTTPS)

    def test_tls_chain_pool(self, chain: list[Proxy], url: str) -> None:
        with Session(chain, pool_maxsize=2, pool_block=True) as session:
            with ThreadPoolExecutor(8) as threads:
                answers = threads.map(session.get, [f"{url}download?octets=200000"] * 16)
                assert {digest_of([answer.content]) for answer in answers} == {digest(200000)}


class TestTLSInTLS:
    def test_tls_in_tls_verifies_certificate(
        self,
        chain: list[Proxy],
        tls_proxies: list[SocksServer],
        origin: Origin,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tls_proxies[len(chain) - 1].routes["impostor.test", 443] = ("127.0.0.1", origin.https_port)
        with Session(chain) as session:
            fail(session, "https://impostor.test/", SSLError)
            monkeypatch.delenv("REQUESTS_CA_BUNDLE")
            fail(session, HTTPS, SSLError)
            with pytest.warns(InsecureRequestWarning):
                assert session.get(HTTPS, verify=False).ok

    def test_tls_in_tls_connection_has_tls_methods(
        self, chain: list[Proxy], origin: Origin, pool_kwargs: dict[str, Any]
    ) -> None:
        context = pool_kwargs["ssl_context"] = origin.trust()
        context.set_alpn_protocols(["http/1.1"])
        with Session(chain) as session:
            session.mount("https://", WithOptions(chain))
            with session.get(HTTPS, stream=True) as response:
                connection: Any = response.raw.connection
                sock = connection.sock
                assert sock.version() == "TLSv1.3"
                assert sock.cipher()[1] == "TLSv1.3"
                assert sock.selected_alpn_protocol() == "http/1.1"
                assert ("DNS", "origin.test") in sock.getpeercert()["subjectAltName"]
                assert sock.getpeercert(binary_form=True)
                assert sock.context is context

    def test_tls_in_tls_trailing_dot(
        self, chain: list[Proxy], tls_proxies: list[SocksServer]
    ) -> None:
        routes = tls_proxies[len(chain) - 1].routes
        routes["origin.test.", 443] = routes["origin.test", 443]
        with Session(chain) as session:
            assert session.get("https://origin.test./").ok

    def test_tls_in_tls_options(
        self,
        chain: list[Proxy],
        origin: Origin,
        pool_kwargs: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A fingerprint is checked, and a context is left unchanged."""
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        certificate = ssl.get_server_certificate(("127.0.0.1", origin.https_port))
        fingerprint = sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
        pool_kwargs["assert_fingerprint"] = fingerprint
        with Session(chain) as session:
            session.mount("https://", WithOptions(chain))
            assert session.get(HTTPS, verify=False).ok
            pool_kwargs["assert_fingerprint"] = fingerprint[::-1]
            session.mount("https://", WithOptions(chain))
            fail(session, HTTPS, SSLError, verify=False)
            del pool_kwargs["assert_fingerprint"]
            pool_kwargs["ssl_context"] = origin.trust()
            session.mount("https://", WithOptions(chain))
            assert session.get(HTTPS).ok
            assert session.get(HTTPS, headers={"connection": "close"}).ok
            assert session.get(HTTPS).ok

    def test_tls_in_tls_connect_timeout(self, chain: list[Proxy]) -> None:
        with saying_nothing() as (host, port), Session(chain) as session:
            fail(
                session, f"https://{host}:{port}/", requests.ReadTimeout, timeout=(2 * SHORT, None)
            )

    def test_tls_in_tls_keyboard_interrupt_leaves_nothing_open(
        self, chain: list[Proxy], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_self: object) -> None:
            raise KeyboardInterrupt

        with Session(chain) as session, nothing_left_open():
            with monkeypatch.context() as patch:
                patch.setattr(TLSSocket, "do_handshake", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    session.get(HTTPS)
            assert session.get(HTTPS).ok
            session.close()
