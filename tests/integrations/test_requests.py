"""`socksclient.requests`: requests, redirections, the environment, pools, options, chains."""

from __future__ import annotations

import inspect
import pickle
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import ProxyError
from urllib3 import PoolManager, Retry

import socksclient.requests
from socksclient import Proxy, ProxyConnectError, SocksError
from socksclient._sync.driver import open_tunnel
from socksclient.requests import Session, SocksAdapter
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import (
    ACCOUNTS,
    HTTP,
    HTTPS,
    OK,
    PROXY_HOST,
    answering,
    nothing_left_open,
    routes_to,
)
from helpers.origin import Origin, content, digest, digest_of
from helpers.requests_clients import SIZE, WithOptions, asked, client_of, headers_of, redirected
from helpers.support import REFUSED_PORT, Address, eventually, resolved_names

pytest_plugins = ["helpers.http_fixtures", "helpers.requests_fixtures"]
pytestmark = pytest.mark.usefixtures("requests_environment")


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        (HTTP, ("origin.test", 80)),
        (HTTPS, ("origin.test", 443)),
        ("HTTP://Origin.Test", ("origin.test", 80)),
        ("http://other.test:8080/", ("other.test", 8080)),
        ("http://origin.test./", ("origin.test.", 80)),
        ("https://origin.test./", ("origin.test.", 443)),
        ("http://bücher.test/", ("xn--bcher-kva.test", 80)),
        ("http://[2001:db8::1]/", ("2001:db8::1", 80)),
        ("http://192.0.2.1/", ("192.0.2.1", 80)),
        ("http://under_score.test/", ("under_score.test", 80)),
    ],
)
def test_session_request_by_url(
    server: SocksServer, origin: Origin, url: str, destination: Address
) -> None:
    port = origin.https_port if url.startswith("https") else origin.http_port
    server.routes[destination] = ("127.0.0.1", port)
    with resolved_names() as names, Session(server.url) as session:
        response = session.get(url, headers={"x-token": "there"}, timeout=10)
    seen = response.json()
    assert response.ok
    assert seen["scheme"] == url.partition(":")[0].lower()
    assert ["x-token", "there"] in seen["headers"]
    assert asked(server) == [destination]
    assert names == []


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_session_request_and_response_bodies(session: Session, url: str) -> None:
    assert session.post(f"{url}echo", data=b"and back").content == b"and back"
    assert session.put(f"{url}echo", data=iter([b"and ", b"back"])).content == b"and back"
    response = session.post(f"{url}upload", data=content(SIZE))
    assert response.json() == {"sha256": digest(SIZE), "octets": SIZE}
    with session.get(f"{url}download?octets={SIZE}", stream=True) as response:
        assert digest_of(response.iter_content(65536)) == digest(SIZE)


def test_session_with_socks5_tries_every_address(
    server: SocksServer, origin: Origin, names: dict[str, list[str]]
) -> None:
    """The session tries each address of the name on a connection of its own."""
    names["here.test"] = ["192.0.2.7", "192.0.2.8"]
    server.routes["192.0.2.8", 80] = ("127.0.0.1", origin.http_port)
    server.misbehave([Faults(reply=0x04)])
    with Session(server.url_as("socks5")) as session:
        assert session.get("http://here.test/").json()["headers"][0] == ["host", "here.test"]
    assert asked(server) == [("192.0.2.7", 80), ("192.0.2.8", 80)]


def test_session_redirections_and_cookies(session: Session, server: SocksServer) -> None:
    session.get(f"{HTTP}cookie/set")
    assert session.get(f"{HTTP}cookie/show").text == "seen=yes"
    response = session.get(redirected("http://other.test/cookie/show"))
    # The cookie belongs to another host.
    assert response.text == ""
    assert [past.url for past in response.history] == [redirected("http://other.test/cookie/show")]
    assert session.get(redirected(HTTPS)).json()["scheme"] == "https"
    assert asked(server) == [
        ("origin.test", 80),
        ("other.test", 80),
        ("origin.test", 443),
    ]


def test_session_body_ended_by_connection_close(session: Session) -> None:
    with answering(b"HTTP/1.0 200 OK\r\n\r\nuntil the end") as url, nothing_left_open():
        assert session.get(url).text == "until the end"


def test_socks_adapter_in_plain_session(server: SocksServer) -> None:
    """The adapter serves one prefix of URLs in a plain session."""
    with requests.Session() as session:
        session.mount("http://origin.test", SocksAdapter(server.url))
        assert session.get(HTTP).status_code == 200
        session.proxies = {"http": f"http://127.0.0.1:{REFUSED_PORT}"}
        with pytest.raises(ProxyError) as caught:
            session.get("http://other.test/")
        assert not isinstance(caught.value.__cause__, SocksError)
    assert asked(server) == [("origin.test", 80)]


def test_session_needs_no_pysocks() -> None:
    code = """
    import sys
    sys.modules["socks"] = None  # which is: not installed
    from socksclient.requests import Session
    from socksclient.testing import Faults, SocksServer
    with SocksServer(faults=Faults(reply=2)) as server, Session(server.url) as session:
        try:
            session.get("http://origin.test/")
        except Exception as error:
            print(error.__cause__.reply.name)
    """
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("CONNECTION_NOT_ALLOWED_BY_RULESET\n", "")


@pytest.mark.parametrize("missing", ["requests", "urllib3"])
def test_import_error_names_extra_requests(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import socksclient.requests"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'socksclient[requests]'" in run.stderr.splitlines()[-1]


# The environment


@pytest.fixture
def other_proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """Fill the environment with an HTTP proxy that does not answer, and return its URL."""
    url = f"http://name:password@127.0.0.1:{REFUSED_PORT}"
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.lower(), url)
    return url


@pytest.fixture(params=["a session of ours", "a session of requests"])
def either(request: pytest.FixtureRequest, server: SocksServer) -> Iterator[requests.Session]:
    session = Session(server.url)
    if request.param == "a session of requests":
        session = requests.Session()  # type: ignore[assignment]
        session.mount("http://", SocksAdapter(server.url))
        session.mount("https://", SocksAdapter(server.url))
    with session:
        yield session


@pytest.mark.parametrize("url", [HTTP, HTTPS])
@pytest.mark.parametrize("bypass", ["", "*", "origin.test", "other.test"])
def test_socks_adapter_ignores_other_proxies(
    either: requests.Session,
    server: SocksServer,
    other_proxy: str,
    url: str,
    bypass: str,
    certificates: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", bypass)
    # `send` does not ask the environment for the certificates.
    either.verify = certificates
    proxies = {"http": other_proxy, "https": other_proxy, "all": other_proxy}
    with resolved_names() as names:
        assert either.get(url).status_code == 200
        assert either.get(url, proxies=proxies).status_code == 200
        prepared = either.prepare_request(requests.Request("GET", url))
        assert either.send(prepared).status_code == 200
        either.proxies = proxies
        assert either.get(url).status_code == 200
        assert either.send(prepared).status_code == 200
    assert len(server.requests) == 1
    assert names == []


@pytest.mark.parametrize("given", [False, True])
def test_socks_adapter_drops_proxy_authorization(
    either: requests.Session, other_proxy: str, given: bool
) -> None:
    """After a redirection, requests adds the header by itself."""
    proxies = {"http": other_proxy} if given else None
    response = either.get(redirected("http://other.test/"), proxies=proxies)
    assert "host" in headers_of(response)
    assert "proxy-authorization" not in headers_of(response)
    response = either.get(HTTP, headers={"Proxy-Authorization": "Basic bmFtZQ=="})
    assert "proxy-authorization" not in headers_of(response)


def test_session_never_calls_proxy_bypass(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS, Python resolves the name if the system excepts a range of addresses."""

    def proxy_bypass(host: str) -> bool:
        raise AssertionError(f"on macOS, {host} would be resolved")

    monkeypatch.setattr("requests.utils.proxy_bypass", proxy_bypass)
    with pytest.raises(AssertionError, match=r"origin\.test would be resolved"):
        requests.get(HTTP)
    assert session.get(redirected("http://other.test/"), verify=None).status_code == 200
    assert session.get(redirected("http://other.test/"), allow_redirects=False).next
    assert session.send(session.prepare_request(requests.Request("GET", HTTP))).ok


def test_session_heeds_netrc_and_ca_bundle(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine origin.test login name password secret\n")
    monkeypatch.setenv("NETRC", str(path))
    assert "authorization" in headers_of(session.get(HTTPS))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(requests.exceptions.SSLError):
        session.get(HTTPS)
    session.trust_env = False
    assert "authorization" not in headers_of(session.get(HTTP))


def test_other_adapters_keep_their_proxies(
    session: Session, other_proxy: str, origin: Origin
) -> None:
    """The other adapters get the proxies of the session, and not those of the environment."""
    session.mount("http://127.0.0.1", HTTPAdapter())
    url = f"http://127.0.0.1:{origin.http_port}/"
    header = {"Proxy-Authorization": "Basic bmFtZQ=="}
    response = session.get(f"{url}redirect", params={"to": url}, headers=header)
    # requests always does this.
    assert "proxy-authorization" not in headers_of(response)
    session.proxies = {"http": other_proxy}
    with pytest.raises(ProxyError) as caught:
        session.get("http://127.0.0.1:1/")
    assert "Unable to connect to proxy" in str(caught.value)
    prepared = session.prepare_request(requests.Request("GET", "http://127.0.0.1:1/"))
    with pytest.raises(ProxyError):
        session.send(prepared)


# The pool


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_pool_reuses_connection(session: Session, server: SocksServer, url: str) -> None:
    with nothing_left_open():
        clients = [client_of(session.get(url)) for _ in range(3)]
        assert clients == clients[:1] * 3
        assert session.head(url).status_code == 200
        session.close()
    assert len(server.connections) == 1


def test_pool_replaces_connection_closed_by_server(session: Session, server: SocksServer) -> None:
    with answering(OK) as url:
        response = session.get(url, stream=True)
        connection: Any = response.raw.connection
        assert response.text == "ok"
        assert eventually(lambda: not connection.is_connected)
        assert session.get(url).text == "ok"
    assert len(server.connections) == 2


def test_socks_adapters_share_no_connections(origin: Origin, server: SocksServer) -> None:
    with (
        SocksServer(host=PROXY_HOST, routes=routes_to(origin), accounts=ACCOUNTS) as other,
        Session(server.url) as session,
    ):
        session.get(HTTP)
        session.mount("http://", SocksAdapter(other.url))
        session.get(HTTP)
        assert other.requests[0].username == "user"
    assert len(server.requests) == len(other.requests) == 1


def test_session_in_many_threads(server: SocksServer) -> None:
    url = f"{HTTP}download?octets=200000"
    with Session(server.url, pool_maxsize=3, pool_block=True) as session:
        with ThreadPoolExecutor(12) as threads:
            answers = threads.map(session.get, [url] * 24)
            assert {digest_of([answer.content]) for answer in answers} == {digest(200000)}
        assert len(server.connections) <= 3


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_unread_body_leaves_nothing_open(session: Session, url: str) -> None:
    with nothing_left_open():
        with session.get(f"{url}download?octets=10000000", stream=True) as response:
            assert response.ok
        session.get(f"{url}stall", stream=True).close()
        session.close()


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_session_close_closes_idle_connections(server: SocksServer, url: str) -> None:
    with nothing_left_open():
        session = Session(server.url)
        session.get(url)
        with session.get(f"{url}download?octets=1000000", stream=True) as response:
            # The session does not close the connection that is in use.
            session.close()
            assert digest_of(response.iter_content(65536)) == digest(1000000)
        # The response refers to its pool, and the pool to the connection.
        del response
    assert len(server.connections) == 1


def test_source_address_option(server: SocksServer, pool_kwargs: dict[str, Any]) -> None:
    pool_kwargs["source_address"] = ("127.0.0.2", 0)
    with Session(server.url) as session:
        session.mount("http://", WithOptions(server.url))
        session.get(HTTP)
    [connection] = server.connections
    assert connection.client[0] == "127.0.0.2"


def test_source_address_refuses_host_name(server: SocksServer, pool_kwargs: dict[str, Any]) -> None:
    """The author of the adapter made the mistake, so the error is not about the URL."""
    pool_kwargs["source_address"] = ("localhost", 0)
    with Session(server.url) as session:
        session.mount("http://", WithOptions(server.url))
        with pytest.raises(ValueError, match="must be an IP address, not 'localhost'") as caught:
            session.get(HTTP)
        assert not isinstance(caught.value, requests.RequestException)


@pytest.mark.parametrize(
    "options",
    [
        None,
        [],
        [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
        # urllib3-future has such options.
        [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1, "TCP"),
            (socket.IPPROTO_UDP, 1, 1, "udp"),
        ],
    ],
)
def test_socket_options_option(
    server: SocksServer,
    pool_kwargs: dict[str, Any],
    options: list[tuple[Any, ...]] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_ones = []

    def look_at(*args: Any) -> Any:
        sock, address = open_tunnel(*args)
        assert isinstance(sock, socket.socket)
        set_ones.append(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
        set_ones.append(bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        return sock, address

    monkeypatch.setattr("socksclient.requests.open_tunnel", look_at)
    if options is not None:
        pool_kwargs["socket_options"] = options
    with Session(server.url) as session:
        session.mount("http://", WithOptions(server.url))
        assert session.get(HTTP).ok
    # urllib3 sets TCP_NODELAY by default.
    assert set_ones == [bool(options), options is None]


def test_socket_option_with_four_arguments(
    server: SocksServer, pool_kwargs: dict[str, Any]
) -> None:
    pool_kwargs["socket_options"] = [(socket.IPPROTO_IP, socket.IP_OPTIONS, None, 0)]
    with Session(server.url) as session:
        session.mount("http://", WithOptions(server.url))
        assert session.get(HTTP).ok


@pytest.mark.parametrize("given", [None, {"HTTP/1.1"}])
def test_socks_adapter_disables_http3_of_urllib3_future(
    pool_kwargs: dict[str, Any], given: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP/3 would use UDP, past the proxy. test_niquests.py tests the real urllib3-future."""
    monkeypatch.setattr(urllib3, "HttpVersion", SimpleNamespace(h3="HTTP/3"), raising=False)
    pool_kwargs["disabled_svn"] = given
    manager: Any = WithOptions("socks5h://127.0.0.1").poolmanager
    assert manager.connection_pool_kw["disabled_svn"] == {"HTTP/3", *(given or ())}


def test_subclass_that_bypasses_proxy_is_refused(server: SocksServer) -> None:
    """Adapters of requests_toolbelt make a pool manager in this way."""

    class Careless(SocksAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            self.poolmanager = PoolManager()

    with Session(server.url) as session, resolved_names() as names:
        session.mount("http://", Careless(server.url))
        with pytest.raises(TypeError, match="Careless would connect past the proxy"):
            session.get(HTTP)
    assert names == []
    assert server.connections == []


def test_socks_adapter_options_equal_http_adapter(server: SocksServer) -> None:
    theirs = set(inspect.signature(HTTPAdapter).parameters)
    assert set(socksclient.requests.AdapterOptions.__annotations__) == theirs
    for name in theirs:
        assert f"`{name}`" in str(SocksAdapter.__doc__)
    retry = Retry(connect=1)
    adapter = SocksAdapter(
        server.url, pool_connections=1, pool_maxsize=2, max_retries=retry, pool_block=True
    )
    assert adapter.max_retries is retry
    assert adapter.poolmanager.connection_pool_kw["maxsize"] == 2
    assert adapter.poolmanager.connection_pool_kw["block"] is True
    assert SocksAdapter(server.url).max_retries.total == HTTPAdapter().max_retries.total == 0


@pytest.mark.parametrize("proxy", ["127.0.0.1:1080", "ftp://127.0.0.1", []])
def test_socks_adapter_refuses_invalid_proxy(proxy: Any) -> None:
    with pytest.raises(ValueError, match="proxy"):
        SocksAdapter(proxy)
    with pytest.raises(ValueError, match="proxy"):
        Session(proxy)


def test_session_and_adapter_can_be_pickled(server: SocksServer) -> None:
    with Session([server.url], max_retries=3) as original:
        original.headers["x-token"] = "there"
        original.get(HTTP)
        session = pickle.loads(pickle.dumps(original))
    with session:
        assert type(session) is Session
        assert session.get_adapter(HTTP) is session.get_adapter(HTTPS)
        adapter: Any = session.get_adapter(HTTP)
        assert adapter.proxy == (Proxy.from_url(server.url),)
        assert adapter.max_retries.total == 3
        response = session.get(HTTP)
        assert "x-token" in headers_of(response)
        assert session.get(HTTPS).ok
    assert len(server.requests) == 3
    adapter = pickle.loads(pickle.dumps(SocksAdapter(server.url, pool_maxsize=7)))
    assert adapter.poolmanager.connection_pool_kw["maxsize"] == 7


def test_socks_adapter_with_context_cannot_be_pickled() -> None:
    adapter = SocksAdapter(Proxy("127.0.0.1", tls=ssl.create_default_context()))
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(adapter)


# Other schemes, and chains


@pytest.mark.parametrize("scheme", ["socks4a", "http"])
def test_session_with_socks4a_and_http_proxies(
    session: Session, server: SocksServer, scheme: str
) -> None:
    with Session(server.url_as(scheme)) as session:
        assert session.get(HTTP).ok
        assert session.get(HTTPS).ok
    assert asked(server) == [("origin.test", 80), ("origin.test", 443)]


def test_session_with_proxy_at_unix_socket(origin: Origin, tmp_path: Path) -> None:
    with (
        SocksServer(path=str(tmp_path / "socket"), routes=routes_to(origin)) as server,
        Session(server.url) as session,
    ):
        assert session.get(HTTP).ok
        assert session.get(HTTPS).ok


def test_session_through_chain(server: SocksServer) -> None:
    with SocksServer() as near, Session([near.url, server.url]) as session:
        with resolved_names() as names:
            assert session.get(HTTP).ok
            assert session.get(HTTPS).ok
        assert names == []
        assert asked(near) == [server.address] * 2
        server.misbehave(Faults(reply=0x02))
        with pytest.raises(ProxyError) as caught:
            session.get("http://other.test/")
        assert isinstance(caught.value.__cause__, SocksError)
        assert caught.value.__cause__.hop == 1
    with Session([near.url, server.url]) as session, pytest.raises(ProxyError) as caught:
        session.get(HTTP)
    assert isinstance(caught.value.__cause__, ProxyConnectError)
