"""The transports that go by the proxies of the environment."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import pytest

from socksclient import Proxy
from socksclient.testing import SocksServer

from http_clients import Driver
from origin import Origin
from support import REFUSED_PORT, resolved_names

pytest_plugins = ["http_fixtures"]

HTTP = "http://origin.test/"
HTTPS = "https://origin.test/"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of the variables is set in the beginning."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)
    return monkeypatch


def from_env(driver: Driver, **options: Any) -> Any:
    return driver.transport_class.from_env(verify=driver.origin.trust(), **options)


@pytest.mark.parametrize("scheme", ["socks", "socks5h", "socks4a", "SOCKS5H"])
@pytest.mark.parametrize("variable", ["all_proxy", "ALL_PROXY"])
def test_one_proxy_for_all(
    driver: Driver,
    server: SocksServer,
    environment: pytest.MonkeyPatch,
    scheme: str,
    variable: str,
) -> None:
    environment.setenv(variable, server.url_as(scheme))
    with resolved_names() as resolved, driver.client(from_env(driver)) as client:
        assert client.get(HTTP).status_code == 200
        assert client.get(HTTPS).status_code == 200
    assert resolved == []
    ports = [request.destination and request.destination[1] for request in server.requests]
    assert ports == [80, 443]


def test_one_for_each_scheme(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{REFUSED_PORT}")
    environment.setenv("HTTPS_PROXY", server.url)
    with driver.client(from_env(driver)) as client:
        assert client.get(HTTPS).status_code == 200
        with pytest.raises(client.httpx.ConnectError):
            client.get(HTTP)
        environment.setenv("http_proxy", server.url)  # too late for this one
        with pytest.raises(client.httpx.ConnectError):
            client.get(HTTP)
    with driver.client(from_env(driver)) as client:
        assert client.get(HTTP).status_code == 200


@pytest.mark.parametrize("with_account", [False, True])
def test_http_proxies_are_those_of_httpx(
    driver: Driver, origin: Origin, environment: pytest.MonkeyPatch, with_account: bool
) -> None:
    routes = {("origin.test", 443): ("127.0.0.1", origin.https_port)}
    accounts = {"user": "p@ss"} if with_account else None
    with SocksServer(routes=routes, accounts=accounts) as proxy:
        environment.setenv("https_proxy", proxy.url_as("http"))
        with driver.client(from_env(driver)) as client:
            assert client.get(HTTPS).status_code == 200
        [seen] = proxy.requests
        assert seen.protocol == "HTTP"
        assert seen.password == ("p@ss" if with_account else None)


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "localhost", False),  # nothing is resolved for it
        ("localhost", "localhost", True),
        ("localhost", "127.0.0.1", False),
        ("*", "localhost", True),
        ("127.0.0.1:{port}", "127.0.0.1", True),
        ("127.0.0.1:1", "127.0.0.1", False),
    ],
)
def test_destinations_that_need_none(
    driver: Driver,
    origin: Origin,
    environment: pytest.MonkeyPatch,
    no_proxy: str,
    host: str,
    direct: bool,
) -> None:
    with SocksServer() as server:
        environment.setenv("all_proxy", server.url)
        environment.setenv("no_proxy", no_proxy.format(port=origin.http_port))
        with driver.client(from_env(driver)) as client:
            assert client.get(f"http://{host}:{origin.http_port}/").status_code == 200
        assert len(server.connections) == (0 if direct else 1)


def test_ports_of_the_schemes(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("all_proxy", server.url)
    environment.setenv("no_proxy", "127.0.0.1:80")
    with driver.client(from_env(driver)) as client:
        with suppress(client.httpx.TransportError):  # whoever listens there, or not
            client.get("http://127.0.0.1/")
        assert server.connections == []
        with suppress(client.httpx.TransportError):
            client.get("https://127.0.0.1/")
        assert [request.destination for request in server.requests] == [("127.0.0.1", 443)]


def test_an_environment_without_any(driver: Driver, origin: Origin) -> None:
    with driver.client(from_env(driver)) as client:
        assert client.get(f"http://127.0.0.1:{origin.http_port}/").status_code == 200


def test_mounted_beside_others(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", server.url_as("socks"))  # httpx itself dies of it
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
        ("https_proxy", "socks5h://us3r:p4ss@h:x", "https_proxy: proxy URL is not of the form"),
        ("http_proxy", "us3r:p4ss@h:99999", "http_proxy: proxy port 99999 is not in the range"),
    ],
)
def test_a_value_that_is_none(
    driver: Driver, environment: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValueError, match=text) as caught:
        from_env(driver)
    assert "p4ss" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "socks5h://127.0.0.1/"])
def test_a_scheme_that_cannot_be(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("http_proxy", server.url)
    environment.setenv("https_proxy", server.url)
    environment.setenv("all_proxy", f"socks5h://127.0.0.1:{REFUSED_PORT}")
    with driver.client(from_env(driver)) as client:
        with pytest.raises(client.httpx.UnsupportedProtocol):
            client.get(url)
    assert server.connections == []


def test_websockets_go_by_the_proxy_for_http(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", server.url)
    with driver.client(from_env(driver)) as client:
        assert client.get("ws://origin.test/").status_code == 200
    assert [request.destination for request in server.requests] == [("origin.test", 80)]


def test_a_host_that_cannot_be(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", server.url)
    environment.setenv("NO_PROXY", "origin.test")
    with driver.client(from_env(driver)) as client:
        with pytest.raises(client.httpx.UnsupportedProtocol):
            client.get(f"http://{'n' * 256}/")
    assert server.connections == []


def test_the_options_are_those_of_the_transport(
    driver: Driver, server: SocksServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("ALL_PROXY", server.url)
    with driver.client(from_env(driver, http2=True, local_address="127.0.0.9")) as client:
        assert client.get(HTTPS).http_version == "HTTP/2"
    assert server.connections[0].client[0] == "127.0.0.9"
    with pytest.raises(TypeError, match="surprise"):
        from_env(driver, surprise=True)


def test_one_context_is_not_for_both(driver: Driver) -> None:
    context = driver.origin.trust()
    for chain in ([Proxy("h", tls=context)], ["socks5h://h", Proxy("h", tls=context)]):
        with pytest.raises(ValueError, match="verify is also the context for TLS with the proxy"):
            driver.transport_class(chain, verify=context)
