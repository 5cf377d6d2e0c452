"""`socksclient.urllib`: openers of `urllib.request` through Dante and through `SocksServer`."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import (
    CacheFTPHandler,
    HTTPCookieProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

import pytest

from socksclient import ProxyTimeout, Reply, ReplyError
from socksclient.testing import Faults, SocksServer
from socksclient.urllib import SocksHandler

from helpers import real_servers
from helpers.origin import Origin, digest, digest_of
from helpers.support import Address, needs, nothing_left_open, resolved_names

needs_dante = needs(real_servers.missing(["danted"]))
HTTP = "http://origin.test/"
HTTPS = "https://origin.test/"
SIZE = 5_000_000
SOON = 0.05  # seconds; the timeout passes


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante")) as url:
        yield url


@pytest.fixture
def proxy(origin: Origin) -> Iterator[SocksServer]:
    routes = {
        ("origin.test", 80): ("127.0.0.1", origin.http_port),
        ("origin.test", 443): ("127.0.0.1", origin.https_port),
        ("impostor.test", 443): ("127.0.0.1", origin.https_port),
    }
    with SocksServer(routes=routes) as server:
        yield server


@pytest.fixture
def opener(proxy: SocksServer, origin: Origin) -> OpenerDirector:
    return build_opener(SocksHandler(proxy.url, context=origin.trust()))


def asked(proxy: SocksServer) -> list[Address | None]:
    return [request.destination for request in proxy.requests]


def redirected(to: str) -> str:
    return f"{HTTP}redirect?to={quote(to)}"


@needs_dante
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_socks_handler_through_dante(scheme: str, origin: Origin, dante: str) -> None:
    opener = build_opener(SocksHandler(dante, context=origin.trust()))
    port = origin.https_port if scheme == "https" else origin.http_port
    url = f"{scheme}://localhost:{port}/"
    with resolved_names() as names, nothing_left_open():
        with opener.open(url, timeout=10) as response:
            assert json.load(response)["scheme"] == scheme
        with opener.open(f"{url}download?octets={SIZE}", timeout=10) as response:
            assert digest_of(iter(lambda: response.read(65536), b"")) == digest(SIZE)
        with opener.open(f"{url}upload", b"x" * SIZE, timeout=10) as response:
            assert json.load(response)["octets"] == SIZE
    assert names == []


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_socks_handler_sends_name_to_proxy(
    url: str, opener: OpenerDirector, proxy: SocksServer
) -> None:
    with resolved_names() as names:
        with opener.open(url, timeout=10) as response:
            assert response.status == 200
    assert names == []
    assert asked(proxy) == [("origin.test", 443 if url == HTTPS else 80)]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_socks_handler_trailing_dot_is_not_for_tls(
    scheme: str, opener: OpenerDirector, proxy: SocksServer
) -> None:
    port = 443 if scheme == "https" else 80
    proxy.routes["origin.test.", port] = proxy.routes["origin.test", port]
    with opener.open(f"{scheme}://origin.test./", timeout=10) as response:
        assert ["host", "origin.test."] in json.load(response)["headers"]
    assert asked(proxy) == [("origin.test.", port)]


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_socks_handler_with_proxy_at_unix_socket(
    url: str, proxy: SocksServer, origin: Origin, tmp_path: Path
) -> None:
    with SocksServer(path=str(tmp_path / "s"), routes=proxy.routes) as unix:
        opener = build_opener(SocksHandler(unix.url, context=origin.trust()))
        with opener.open(url, timeout=10) as response:
            assert response.status == 200


def test_socks_handler_label_too_long_for_tls(opener: OpenerDirector, proxy: SocksServer) -> None:
    with nothing_left_open(), pytest.raises(UnicodeError, match="label"):
        opener.open(f"https://{'n' * 64}.test/", timeout=10)
    assert proxy.connections == []


def test_socks_handler_refuses_request_set_proxy(
    opener: OpenerDirector, proxy: SocksServer
) -> None:
    request = Request(HTTPS)
    request.set_proxy("proxy.test:3128", "https")
    with pytest.raises(URLError, match=r"SocksHandler does not support Request\.set_proxy\(\)"):
        opener.open(request, timeout=10)
    assert proxy.connections == []


def test_socks_handler_redirection_goes_through_proxy(
    opener: OpenerDirector, proxy: SocksServer
) -> None:
    with opener.open(redirected(HTTPS), timeout=10) as response:
        assert response.url == HTTPS
        assert json.load(response)["scheme"] == "https"
    assert asked(proxy) == [("origin.test", 80), ("origin.test", 443)]


def test_socks_handler_refuses_ftp(opener: OpenerDirector, proxy: SocksServer) -> None:
    with resolved_names() as names, nothing_left_open():
        with pytest.raises(URLError, match=r"use socksclient\.ftp instead"):
            opener.open("ftp://origin.test/file", timeout=10)
        with pytest.raises(URLError, match=r"use socksclient\.ftp instead"):
            opener.open(redirected("ftp://origin.test/file"), timeout=10)
    assert names == []
    assert asked(proxy) == [("origin.test", 80)]


def test_socks_handler_replaces_connecting_handlers(proxy: SocksServer) -> None:
    opener: Any = build_opener(SocksHandler(proxy.url), HTTPCookieProcessor())
    schemes = {
        scheme: [type(handler) for handler in handlers]
        for scheme, handlers in opener.handle_open.items()
    }
    assert [schemes.pop(scheme) for scheme in ("http", "https", "ftp")] == [[SocksHandler]] * 3
    assert set(schemes) == {"file", "data", "unknown"}
    assert not [each for each in opener.handlers if type(each) is urllib.request.ProxyHandler]


def test_socks_handler_precedes_handlers_that_connect_directly(
    proxy: SocksServer, origin: Origin
) -> None:
    context = origin.trust()
    direct: list[Any] = [HTTPHandler(), HTTPSHandler(context=context), CacheFTPHandler()]
    opener = build_opener(*direct, SocksHandler(proxy.url, context=context))
    with resolved_names() as names:
        for url in (HTTP, HTTPS):
            opener.open(url, timeout=10).close()
        with pytest.raises(URLError, match=r"use socksclient\.ftp instead"):
            opener.open("ftp://origin.test/file", timeout=10)
    assert names == []
    assert asked(proxy) == [("origin.test", 80), ("origin.test", 443)]


@pytest.mark.parametrize("bypass", ["", "*"])
@pytest.mark.parametrize("url", [HTTP, HTTPS, redirected(HTTPS)])
def test_socks_handler_ignores_proxies_of_environment(
    url: str, bypass: str, proxy: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", bypass)
    opener = build_opener(SocksHandler(proxy.url, context=origin.trust()))
    with opener.open(url, timeout=10) as response:
        assert response.status == 200
    assert {name for name, _ in filter(None, asked(proxy))} == {"origin.test"}


def test_socks_handler_beside_other_handlers(proxy: SocksServer, origin: Origin) -> None:
    cookies = HTTPCookieProcessor()
    opener = build_opener(SocksHandler(proxy.url, context=origin.trust()), cookies)
    opener.addheaders = [("x-token", "added")]
    opener.open(f"{HTTPS}cookie/set", timeout=10).close()
    with opener.open(f"{HTTPS}cookie/show", timeout=10) as response:
        assert response.read() == b"seen=yes"
    with opener.open(HTTPS, timeout=10) as response:
        assert ["x-token", "added"] in json.load(response)["headers"]


def test_socks_handler_http_error(opener: OpenerDirector) -> None:
    with pytest.raises(HTTPError) as caught:
        opener.open(redirected("file:///etc/passwd"), timeout=10)
    assert caught.value.code == 302
    caught.value.close()


def test_socks_handler_verifies_certificates(
    opener: OpenerDirector, proxy: SocksServer, origin: Origin
) -> None:
    with nothing_left_open():
        with pytest.raises(URLError, match="certificate verify failed") as unknown:
            build_opener(SocksHandler(proxy.url)).open(HTTPS, timeout=10)
        with pytest.raises(URLError, match="Hostname mismatch") as mismatch:
            opener.open("https://impostor.test/", timeout=10)
        for error in (unknown.value, mismatch.value):
            assert isinstance(error.reason, ssl.SSLCertVerificationError)


def test_socks_handler_refusal_of_proxy_is_url_error(
    opener: OpenerDirector, proxy: SocksServer
) -> None:
    proxy.misbehave(Faults(reply=0x04))
    with nothing_left_open():
        with pytest.raises(URLError) as caught:
            opener.open(HTTPS, timeout=10)
        assert isinstance(caught.value.reason, ReplyError)
        assert caught.value.reason.reply == Reply.HOST_UNREACHABLE
        assert caught.value.reason.destination == ("origin.test", 443)


def test_socks_handler_timeout_is_one_deadline(opener: OpenerDirector, proxy: SocksServer) -> None:
    # Each wait by itself is shorter than the timeout.
    proxy.misbehave(Faults(drip=SOON * 2 / 3))
    with nothing_left_open():
        with pytest.raises(URLError) as caught:
            opener.open(HTTP, timeout=SOON)
        assert isinstance(caught.value.reason, ProxyTimeout)


def test_socks_handler_refuses_invalid_proxy_url() -> None:
    with pytest.raises(ValueError, match="scheme"):
        SocksHandler("gopher://127.0.0.1")


@pytest.mark.parametrize("proxy", ["socks5h+tls://127.0.0.1", ["socks5h://a", "https://b"]])
def test_socks_handler_refuses_tls_chain(proxy: str | list[str]) -> None:
    with pytest.raises(ValueError, match="cannot go through a proxy with TLS"):
        SocksHandler(proxy)
