"""`SocksTransport.from_env`: transports that use the proxies of the environment."""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64encode
from contextlib import suppress
from typing import Any, Protocol

import pytest

from socksclient import Proxy
from socksclient.testing import SocksServer

from helpers.http_clients import CLIENT_HOST, OK, PROXY_HOST, Client, Driver, nothing_left_open
from helpers.origin import Origin
from helpers.support import REFUSED_PORT, resolved_names, serving

pytest_plugins = ["helpers.http_fixtures"]

HTTP = "http://origin.test/"
HTTPS = "https://origin.test/"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Clear all variables before the test."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)
    return monkeypatch


class Make(Protocol):
    """A function that makes a client which uses the proxies of the environment."""

    def __call__(self, **options: Any) -> Client: ...


@pytest.fixture(params=["transport", "mounts"])
def make(request: pytest.FixtureRequest, driver: Driver) -> Make:
    """Make one test of `from_env` and `mounts_from_env`; `options` are for the transport."""

    def make(**options: Any) -> Client:
        options = {"verify": driver.origin.trust(), **options}
        if request.param == "transport":
            return driver.client(driver.transport_class.from_env(**options))
        mounts = driver.transport_class.mounts_from_env(**options)
        # httpx makes a transport for direct connections, which the tests never use.
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return driver.client(None, mounts=mounts, trust_env=False, verify=nobody)

    return make


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("all_proxy", "socks"),
        ("ALL_PROXY", "socks5h"),
        ("all_proxy", "socks4a"),
        ("ALL_PROXY", "SOCKS5H"),
    ],
)
def test_from_env_all_proxy(
    make: Make,
    server: SocksServer,
    environment: pytest.MonkeyPatch,
    variable: str,
    scheme: str,
) -> None:
    environment.setenv(variable, server.url_as(scheme))
    with resolved_names() as resolved, make() as client:
        assert client.get(HTTP).status_code == 200
        assert client.get(HTTPS).status_code == 200
    assert resolved == []
    ports = [request.destination and request.destination[1] for request in server.requests]
    assert ports == [80, 443]


def test_from_env_proxy_for_each_scheme(
    make: Make, origin: Origin, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{REFUSED_PORT}")
    environment.setenv("HTTPS_PROXY", server.url)
    with nothing_left_open(), make() as client:
        assert client.get(HTTPS).status_code == 200
        with pytest.raises(client.httpx.ConnectError):
            client.get(HTTP)
        # The client has read the environment already.
        environment.setenv("http_proxy", server.url)
        with pytest.raises(client.httpx.ConnectError):
            client.get(HTTP)
    with SocksServer(host=PROXY_HOST, routes=dict(server.routes)) as other:
        environment.setenv("http_proxy", other.url)
        environment.setenv("no_proxy", "127.0.0.1")
        with nothing_left_open(), make(local_address=CLIENT_HOST) as client:
            assert client.get(HTTP).status_code == 200
            assert client.get(HTTPS).status_code == 200
            assert client.get(f"http://127.0.0.1:{origin.http_port}/").status_code == 200
        assert [request.destination for request in other.requests] == [("origin.test", 80)]
    assert [request.destination for request in server.requests] == [("origin.test", 443)] * 2


def test_from_env_http_proxy_in_capitals(
    make: Make, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{REFUSED_PORT}")
    environment.setenv("HTTP_PROXY", server.url)
    with make() as client:
        assert client.get(HTTP).status_code == 200
    # In CGI, HTTP_PROXY may be a header field of the client's request.
    environment.setenv("REQUEST_METHOD", "GET")
    with make() as client:
        with pytest.raises(client.httpx.ConnectError):
            client.get(HTTP)
    assert len(server.connections) == 1


@pytest.mark.parametrize("with_account", [False, True])
def test_from_env_http_proxy_with_httpx_transport(
    make: Make, origin: Origin, environment: pytest.MonkeyPatch, with_account: bool
) -> None:
    routes = {("origin.test", 443): ("127.0.0.1", origin.https_port)}
    accounts = {"user": "p@ss"} if with_account else None
    with SocksServer(routes=routes, accounts=accounts) as proxy:
        environment.setenv("https_proxy", proxy.url_as("http"))
        with make() as client:
            assert client.get(HTTPS).status_code == 200
        [seen] = proxy.requests
        assert seen.protocol == "HTTP"
        assert seen.password == ("p@ss" if with_account else None)


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("account", ["", "user:p%40ss@"])
def test_from_env_http_proxy_gets_absolute_url(
    make: Make, environment: pytest.MonkeyPatch, account: str, variable: str
) -> None:
    heads = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    with serving(answer) as (host, port):
        environment.setenv(variable, f"http://{account}{host}:{port}")
        with make() as client:
            assert client.get("http://origin.test:8080/path?query").text == "ok"
    [head] = heads
    request, *headers = head.decode().split("\r\n")
    assert request == "GET http://origin.test:8080/path?query HTTP/1.1"
    assert [line for line in headers if line.lower().startswith("host:")] == [
        "Host: origin.test:8080"
    ]
    logins = [line for line in headers if line.lower().startswith("proxy-authorization:")]
    login = b64encode(b"user:p@ss").decode()
    assert logins == ([f"Proxy-Authorization: Basic {login}"] if account else [])


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        # Nothing is resolved to match no_proxy.
        ("127.0.0.0/8", "localhost", False),
        ("localhost", "localhost", True),
        ("localhost", "127.0.0.1", False),
        ("*", "localhost", True),
        ("127.0.0.1:{port}", "127.0.0.1", True),
        ("127.0.0.1:1", "127.0.0.1", False),
    ],
)
def test_from_env_no_proxy_connects_directly(
    make: Make,
    origin: Origin,
    environment: pytest.MonkeyPatch,
    no_proxy: str,
    host: str,
    direct: bool,
) -> None:
    with SocksServer(host=PROXY_HOST) as server:
        environment.setenv("all_proxy", server.url)
        environment.setenv("no_proxy", no_proxy.format(port=origin.http_port))
        with nothing_left_open(), make(local_address=CLIENT_HOST) as client:
            assert client.get(f"http://{host}:{origin.http_port}/").status_code == 200
        assert len(server.connections) == (0 if direct else 1)


def test_from_env_no_proxy_with_default_ports(
    make: Make, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("all_proxy", server.url)
    environment.setenv("no_proxy", "127.0.0.1:80")
    with make() as client:
        # Whether a server listens there does not matter.
        with suppress(client.httpx.TransportError):
            client.get("http://127.0.0.1/")
        assert server.connections == []
        with suppress(client.httpx.TransportError):
            client.get("https://127.0.0.1/")
        assert [request.destination for request in server.requests] == [("127.0.0.1", 443)]


def test_from_env_without_proxies(make: Make, origin: Origin) -> None:
    with make() as client:
        assert client.get(f"http://127.0.0.1:{origin.http_port}/").status_code == 200


def test_mounts_from_env_beside_other_mounts(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    # httpx itself fails with this URL.
    environment.setenv("ALL_PROXY", server.url_as("socks"))
    with SocksServer(routes=dict(server.routes)) as other:
        mounts = driver.transport_class.mounts_from_env(verify=driver.origin.trust())
        mounts["http://other.test"] = driver.transport(other.url)
        with driver.client(None, mounts=mounts, trust_env=False) as client:
            assert client.get(HTTPS).status_code == 200
            assert client.get("http://other.test/").status_code == 200
        assert [request.destination for request in server.requests] == [("origin.test", 443)]
        assert [request.destination for request in other.requests] == [("other.test", 80)]


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("ALL_PROXY", "ftp://us3r:p4ss@h", "ALL_PROXY: proxy scheme 'ftp' is not one of"),
        ("https_proxy", "socks5h://us3r:p4ss@h:x", "https_proxy: proxy port is not a number"),
        ("http_proxy", "us3r:p4ss@h:99999", "http_proxy: proxy port is not in the range"),
    ],
)
def test_from_env_value_that_is_no_url(
    make: Make, environment: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValueError, match=text) as caught:
        make()
    assert "p4ss" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "socks5h://127.0.0.1/"])
def test_from_env_unsupported_scheme(
    make: Make, server: SocksServer, environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("http_proxy", server.url)
    environment.setenv("https_proxy", server.url)
    environment.setenv("all_proxy", f"socks5h://127.0.0.1:{REFUSED_PORT}")
    with make() as client:
        with pytest.raises(client.httpx.UnsupportedProtocol):
            client.get(url)
    assert server.connections == []


def test_from_env_websocket_uses_http_proxy(
    make: Make, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", server.url)
    with make() as client:
        assert client.get("ws://origin.test/").status_code == 200
    assert [request.destination for request in server.requests] == [("origin.test", 80)]


def test_from_env_invalid_host(
    make: Make, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", server.url)
    environment.setenv("NO_PROXY", "origin.test")
    with make() as client:
        with pytest.raises(client.httpx.UnsupportedProtocol):
            client.get(f"http://{'n' * 256}/")
    assert server.connections == []


def test_from_env_passes_options_to_transports(
    make: Make, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", server.url)
    with make(http2=True, local_address="127.0.0.9") as client:
        assert client.get(HTTPS).http_version == "HTTP/2"
    assert server.connections[0].client[0] == "127.0.0.9"
    with pytest.raises(TypeError, match="surprise"):
        make(surprise=True)


def test_from_env_refuses_context_shared_with_proxy(driver: Driver) -> None:
    context = driver.origin.trust()
    for chain in ([Proxy("h", tls=context)], ["socks5h://h", Proxy("h", tls=context)]):
        with pytest.raises(ValueError, match="verify is also the context for TLS with the proxy"):
            driver.transport_class(chain, verify=context)
