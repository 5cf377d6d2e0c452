"""TLS with the destination, through the transports for httpx and httpx2."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from socksclient.testing import Faults, SocksServer

from helpers.http_clients import (
    HANDSHAKE,
    HTTPS,
    ONE_CONNECTION,
    PROXY_HOST,
    Driver,
    Pair,
    fail,
    nothing_left_open,
    routes_to,
)
from helpers.origin import Origin
from helpers.support import eventually, serving

pytest_plugins = ["helpers.http_fixtures"]


def test_verify_true_refuses_unknown_authority(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, verify=True) as client:
        error = fail(client, HTTPS, "ConnectError")
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_certificate_for_another_name_is_refused(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        error = fail(client, HTTPS, "ConnectError", extensions={"sni_hostname": "other.test"})
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_verify_false_accepts_unknown_authority(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, verify=False) as client:
        assert client.get(HTTPS).status_code == 200


def test_ssl_cert_file_of_environment_and_trust_env(
    driver: Driver,
    server: SocksServer,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with driver.through(server.url, verify=True) as client:
        assert client.get(HTTPS).status_code == 200
    with driver.through(server.url, verify=True, trust_env=False) as client:
        fail(client, HTTPS, "ConnectError")


class Verifier(ssl.SSLContext):
    """A context that looks at the certificate itself, as truststore does on macOS and Windows."""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        sock = super().wrap_socket(*args, **kwargs)
        # The TLS handshake has not been done yet.
        if sock.version() is None:
            sock.close()
            raise ssl.SSLCertVerificationError("no certificate to verify")
        return sock


def test_verify_with_context_that_overrides_wrap_socket(
    driver: Driver, server: SocksServer, origin: Origin
) -> None:
    context = Verifier(ssl.PROTOCOL_TLS_CLIENT)
    origin.ca.configure_trust(context)
    with driver.through(server.url, verify=context) as client:
        assert client.get(HTTPS).status_code == 200


def test_verify_with_path_of_authorities(
    driver: Driver, server: SocksServer, origin: Origin, tmp_path: Path
) -> None:
    """The path is deprecated in httpx, which still takes it."""
    origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        ignored_deprecations(),
        driver.through(server.url, verify=str(tmp_path / "ca.pem")) as client,
    ):
        assert client.get(HTTPS).status_code == 200


def test_cert_option_sends_client_certificate(driver: Driver, tmp_path: Path) -> None:
    path = str(tmp_path / "client.pem")
    with Origin(client_certificate_wanted=True) as strict:
        strict.ca.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(path)
        with SocksServer(host=PROXY_HOST, routes=routes_to(strict)) as server:
            with ignored_deprecations():
                client = driver.through(server.url, verify=strict.trust(), cert=path)
            with client:
                assert client.get(HTTPS).status_code == 200
            with (
                driver.through(server.url, verify=strict.trust()) as client,
                nothing_left_open(),
                pytest.raises(driver.httpx.TransportError),
            ):
                client.get(HTTPS)


@contextmanager
def ignored_deprecations() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.parametrize("answer", [b"220 not TLS\r\n", b""])
def test_destination_without_tls_is_connect_error(
    driver: Driver, server: SocksServer, answer: bytes
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)

    with (
        serving(handle) as (host, port),
        driver.through(server.url, limits=ONE_CONNECTION) as client,
    ):
        fail(client, f"https://{host}:{port}/", "ConnectError")
        assert client.get(HTTPS).status_code == 200


def test_reset_before_tls_handshake(driver: Driver, server: SocksServer) -> None:
    def wait(name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.complete":
            stream = info["return_value"]
            assert eventually(lambda: bool(stream.get_extra_info("is_readable")))

    server.misbehave([Faults(reset_after=HANDSHAKE)])
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        with (
            nothing_left_open(),
            pytest.raises((driver.httpx.ConnectError, driver.httpx.ProxyError)) as caught,
        ):
            client.get(HTTPS, extensions=client.trace(wait))
        assert caught.value.request.url == HTTPS
        assert client.get(HTTPS).status_code == 200


def test_label_too_long_for_tls_is_connect_error(pair: Pair, origin: Origin) -> None:
    url = f"https://{'n' * 64}.test/"
    routes = {(f"{'n' * 64}.test", 443): ("127.0.0.1", origin.https_port)}
    with SocksServer(host=PROXY_HOST, routes=routes) as server:
        with pair.client(server.url) as client:
            with nothing_left_open(), pytest.raises(pair.httpx.ConnectError, match="too long"):
                client.get(url)


def test_keyboard_interrupt_in_tls_handshake_leaves_nothing_open(
    pair: Pair, server: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_self: ssl.SSLSocket, _block: bool = False) -> None:
        raise KeyboardInterrupt

    with pair.client(server.url, verify=origin.trust(), limits=ONE_CONNECTION) as client:
        with nothing_left_open(), monkeypatch.context() as patch:
            patch.setattr(ssl.SSLSocket, "do_handshake", interrupt)
            with pytest.raises(KeyboardInterrupt) as held:
                client.get(HTTPS)
        assert client.get(HTTPS).status_code == 200
        del held


def test_sni_hostname_extension(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        assert "192.0.2.1" in str(fail(client, "https://192.0.2.1/", "ConnectError"))
        response = client.get("https://192.0.2.1/", extensions={"sni_hostname": "origin.test"})
        assert response.status_code == 200


def test_trailing_dot_goes_to_proxy_and_not_into_tls(
    driver: Driver, server: SocksServer, origin: Origin
) -> None:
    server.routes["origin.test.", 443] = ("127.0.0.1", origin.https_port)
    with driver.through(server.url) as client:
        response = client.get("https://origin.test./")
        assert response.status_code == 200
        ssl_object = response.extensions["network_stream"].get_extra_info("ssl_object")
        assert ssl_object.server_hostname == "origin.test"
        extensions = {"sni_hostname": "origin.test."}
        assert client.get("https://192.0.2.1/", extensions=extensions).status_code == 200
    destinations = [request.destination for request in server.requests]
    assert destinations == [("origin.test.", 443), ("192.0.2.1", 443)]
