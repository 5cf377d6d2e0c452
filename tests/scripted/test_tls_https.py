"""HTTPS to the destination within TLS with the proxy."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from socksclient import (
    Proxy,
)

from helpers.hops import Authority, MakeHops
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
    LONG,
    SHORT,
    eventually,
    serving,
)
from helpers.tls_servers import (
    certificate_error,
    speaking_tls,
)

pytest_plugins = ["helpers.hop_fixtures"]


@pytest.fixture(params=[("socks5h+tls",), ("https", "socks4a+tls")], ids=", ".join)
def within(request: pytest.FixtureRequest, hops: MakeHops, origin: Origin) -> Iterator[list[Proxy]]:
    """Yield a chain in which one hop or two hops speak TLS."""
    with hops(*request.param) as chain:
        chain.servers[-1].routes.update(routes_to(origin))
        yield chain.proxies


HTTPS = "https://origin.test/"


SIZE = 2_000_000


class TestHTTPSWithinTLS:
    def test_https_within_tls_keeps_connection(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within) as client, nothing_left_open():
            ports = set()
            for url in (HTTPS, HTTPS, "http://origin.test/", "http://origin.test/"):
                response = client.get(url)
                assert response.json()["scheme"] == url.partition(":")[0]
                ports.add((url, response.json()["client"][1]))
            assert len(ports) == 2
            client.close()

    def test_https_within_tls_large_bodies(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within) as client:
            with client.stream(f"{HTTPS}download?octets={SIZE}") as response:
                assert client.digest(response) == digest(SIZE)
            answer = client.send(content(SIZE), f"{HTTPS}upload")
            assert answer.json() == {"sha256": digest(SIZE), "octets": SIZE}

    def test_https_within_tls_read_timeout(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within, limits=ONE_CONNECTION) as client, nothing_left_open():
            timeout = driver.httpx.Timeout(LONG, read=SHORT)
            with client.stream(f"{HTTPS}stall", timeout=timeout) as response:
                with pytest.raises(driver.httpx.ReadTimeout):
                    client.digest(response)
            assert client.get(HTTPS).status_code == 200
            client.close()

    def test_https_within_tls_body_ends_early(self, driver: Driver, within: list[Proxy]) -> None:
        with driver.through(within, limits=ONE_CONNECTION) as client:
            with pytest.raises(driver.httpx.RemoteProtocolError, match="without sending complete"):
                client.get(f"{HTTPS}break")
            with client.stream(f"{HTTPS}stall") as response:
                # The test leaves the body unread.
                assert response.status_code == 200
            assert client.get(HTTPS).status_code == 200

    def test_https_within_tls_network_stream(
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

    def test_https_within_tls_verifies_destination(
        self, driver: Driver, within: list[Proxy], authority: Authority
    ) -> None:
        with driver.through(within, verify=authority.client()) as client, nothing_left_open():
            with pytest.raises(driver.httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                client.get(HTTPS)

    def test_https_within_tls_certificate_error_of_proxy(
        self, driver: Driver, within: list[Proxy]
    ) -> None:
        within[-1] = replace(within[-1], tls=True)
        with driver.through(within) as client, nothing_left_open():
            with pytest.raises(driver.httpx.ConnectError, match="TLS with the proxy") as caught:
                client.get(HTTPS)
        certificate_error(caught.value.__cause__)

    def test_https_within_tls_connect_timeout(self, driver: Driver, within: list[Proxy]) -> None:
        with saying_nothing() as (host, port):
            with driver.through(within, limits=ONE_CONNECTION) as client, nothing_left_open():
                timeout = driver.httpx.Timeout(LONG, connect=SHORT)
                with pytest.raises(driver.httpx.ConnectTimeout):
                    client.get(f"https://{host}:{port}/", timeout=timeout)
                assert client.get(HTTPS).status_code == 200
                client.close()

    @pytest.mark.parametrize("tls", [False, True])
    def test_https_within_tls_does_not_reuse_ended_connection(
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
