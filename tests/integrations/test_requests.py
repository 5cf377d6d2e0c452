"""`socksclient.requests`: what requests does, all of it through a proxy."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import select
import socket
import ssl
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import requests
import trustme
import urllib3
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL, ProxyError, SSLError
from urllib3 import PoolManager, Retry
from urllib3.exceptions import InsecureRequestWarning

import socksclient.requests
from socksclient import (
    AuthenticationError,
    Flow,
    Method,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient._sync.driver import open_tunnel
from socksclient._sync.tls import TLSSocket, start_tls
from socksclient.exceptions import Phase
from socksclient.requests import Session, SocksAdapter
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.hops import Verifier
from helpers.http_clients import (
    ACCOUNTS,
    HANDSHAKE,
    HTTP,
    HTTPS,
    OK,
    PROXY_HOST,
    answering,
    nothing_left_open,
    routes_to,
    saying_nothing,
)
from helpers.origin import Origin, content, digest, digest_of
from helpers.support import (
    REFUSED_PORT,
    SHORT,
    Address,
    eventually,
    needs,
    resolved_names,
    resolver,
    serving,
    silence,
)

SIZE = 20_000_000
PASSWORD = "Pa55w0rd"
needs_dante = needs(real_servers.missing(["danted"]))


@pytest.fixture(scope="module")
def certificates(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a file with the one authority that is to be trusted."""
    path = str(tmp_path_factory.mktemp("requests") / "ca.pem")
    origin.ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture(autouse=True)
def _environment(certificates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates)


@pytest.fixture
def server(origin: Origin) -> Iterator[SocksServer]:
    """Start a proxy behind which the origin has names of its own."""
    with SocksServer(host=PROXY_HOST, routes=routes_to(origin)) as server:
        yield server


@pytest.fixture
def session(server: SocksServer) -> Iterator[Session]:
    with Session(server.url) as session:
        yield session


def asked(server: SocksServer) -> list[Address | None]:
    return [request.destination for request in server.requests]


def redirected(to: str) -> str:
    return f"{HTTP}redirect?to={quote(to, safe='')}"


def headers_of(response: requests.Response) -> list[str]:
    """Return the names of the header fields that came to the origin."""
    return [name.lower() for name, _ in response.json()["headers"]]


def client_of(response: requests.Response) -> list[object]:
    """Return the address of the client's socket, as the origin saw it."""
    client: list[object] = response.json()["client"]
    return client


# HTTP


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante"), accounts=ACCOUNTS) as url:
        yield url


@needs_dante
class TestDante:
    @pytest.fixture(params=["http", "https"])
    def url(self, request: pytest.FixtureRequest, origin: Origin) -> str:
        port = origin.http_port if request.param == "http" else origin.https_port
        return f"{request.param}://localhost:{port}/"

    def test_session_through_dante(self, dante: str, url: str) -> None:
        with resolved_names() as names, Session(dante) as session:
            first = session.get(url, timeout=10)
            assert first.json()["scheme"] == url.partition(":")[0]
            assert client_of(session.get(url, timeout=10)) == client_of(first)
            response = session.get(f"{url}download?octets={SIZE}", stream=True, timeout=10)
            assert digest_of(response.iter_content(65536)) == digest(SIZE)
            response = session.post(f"{url}upload", data=content(SIZE), timeout=10)
            assert response.json() == {"sha256": digest(SIZE), "octets": SIZE}
        assert names == []

    def test_session_through_dante_with_socks5(self, dante: str, url: str) -> None:
        with resolved_names() as names, Session(dante.replace("socks5h", "socks5")) as session:
            assert session.get(url, timeout=10).status_code == 200
        assert names == ["localhost"]

    def test_session_through_dante_to_refusing_destination(self, dante: str) -> None:
        with Session(dante, max_retries=1) as session, pytest.raises(ProxyError) as caught:
            session.get(f"http://127.0.0.1:{REFUSED_PORT}/", timeout=10)
        assert isinstance(caught.value.__cause__, ReplyError)
        assert caught.value.__cause__.reply == Reply.CONNECTION_REFUSED

    def test_session_through_dante_with_refused_login(self, dante: str, url: str) -> None:
        with (
            Session(dante.replace(ACCOUNTS["user"], "nobody", 1)) as session,
            pytest.raises(ProxyError) as caught,
        ):
            session.get(url, timeout=10)
        assert isinstance(caught.value.__cause__, AuthenticationError)


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
    """Each of its addresses is tried on a connection of its own."""
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
    """A plain session, and one prefix of it only."""
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
    """After a redirection, requests adds them to the header by itself."""
    proxies = {"http": other_proxy} if given else None
    response = either.get(redirected("http://other.test/"), proxies=proxies)
    assert "host" in headers_of(response)
    assert "proxy-authorization" not in headers_of(response)
    response = either.get(HTTP, headers={"Proxy-Authorization": "Basic bmFtZQ=="})
    assert "proxy-authorization" not in headers_of(response)


def test_session_never_calls_proxy_bypass(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python does so on macOS, where a range of addresses is to be reached directly."""

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
    """Those that are told to them, and not those of the environment."""
    session.mount("http://127.0.0.1", HTTPAdapter())
    url = f"http://127.0.0.1:{origin.http_port}/"
    header = {"Proxy-Authorization": "Basic bmFtZQ=="}
    response = session.get(f"{url}redirect", params={"to": url}, headers=header)
    assert "proxy-authorization" not in headers_of(response)  # as ever
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


# Options


class WithOptions(SocksAdapter):
    """As `HTTPAdapter` is given options for its connections."""

    pool_kwargs: dict[str, Any] = {}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(self.pool_kwargs)
        super().init_poolmanager(*args, **kwargs)


@pytest.fixture
def pool_kwargs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(WithOptions, "pool_kwargs", {})
    return WithOptions.pool_kwargs


def test_source_address_option(server: SocksServer, pool_kwargs: dict[str, Any]) -> None:
    pool_kwargs["source_address"] = ("127.0.0.2", 0)
    with Session(server.url) as session:
        session.mount("http://", WithOptions(server.url))
        session.get(HTTP)
    [connection] = server.connections
    assert connection.client[0] == "127.0.0.2"


def test_source_address_refuses_host_name(server: SocksServer, pool_kwargs: dict[str, Any]) -> None:
    """It is a mistake of who made the adapter, and not of the URL."""
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
    """HTTP/3 uses UDP. test_niquests.py tests the real urllib3-future."""
    monkeypatch.setattr(urllib3, "HttpVersion", SimpleNamespace(h3="HTTP/3"), raising=False)
    pool_kwargs["disabled_svn"] = given
    manager: Any = WithOptions("socks5h://127.0.0.1").poolmanager
    assert manager.connection_pool_kw["disabled_svn"] == {"HTTP/3", *(given or ())}


def test_subclass_that_bypasses_proxy_is_refused(server: SocksServer) -> None:
    """As those of requests_toolbelt would, which make a pool manager without asking others."""

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


# Other proxies than those of SOCKS5, and chains


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


# Errors on the way to the destination


def fail(
    session: requests.Session, url: str, expected: type[requests.RequestException], **options: Any
) -> requests.RequestException:
    """Return the error of a request that leaves nothing open behind it."""
    with nothing_left_open(), pytest.raises(expected) as caught:
        session.get(url, **{"timeout": 10, **options})
    assert type(caught.value) is expected
    assert caught.value.request is not None
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.parametrize("url", [HTTP, HTTPS])
@pytest.mark.parametrize(
    ("faults", "cause", "phase"),
    [
        *((Faults(reply=rep), ReplyError, "request") for rep in (1, 2, 3, 4, 5, 6, 7, 8, 0x5A)),
        (Faults(method=0xFF), AuthenticationError, "method selection"),
        (Faults(status=0x01), AuthenticationError, "authentication"),
        (Faults(answers={"method selection": b"HTTP/1.1 400"}), ProtocolError, "method selection"),
        (Faults(answers={"request": b"\x05\x00\x00\x09\x00"}), ProtocolError, "request"),
        (Faults(close_after=0), ProxyClosed, "method selection"),
        (Faults(close_after=4), ProxyClosed, "request"),
        (Faults(reset_after=4), ProxyClosed, "request"),
    ],
    ids=str,
)
def test_refusal_or_fault_of_proxy_is_proxy_error(
    origin: Origin, url: str, faults: Faults, cause: type[SocksError], phase: Phase
) -> None:
    accounts = {"user": PASSWORD}
    with (
        SocksServer(
            host=PROXY_HOST, accounts=accounts, routes=routes_to(origin), faults=[faults]
        ) as server,
        Session(server.url, pool_maxsize=1, pool_block=True) as session,
    ):
        error = fail(session, url, ProxyError).__cause__
        assert isinstance(error, cause)
        assert (error.phase, error.proxy) == (phase, Proxy.from_url(server.url))
        assert error.destination == ("origin.test", 443 if url == HTTPS else 80)
        if isinstance(error, ReplyError):
            assert error.reply == faults.reply
        # The pool may have one connection only: the failed one has given its place back.
        assert session.get(url).ok


def test_unreachable_proxy_is_proxy_error() -> None:
    with Session(f"socks5h://127.0.0.1:{REFUSED_PORT}") as session:
        error = fail(session, HTTP, ProxyError)
    assert isinstance(error, requests.ConnectionError)  # ProxyError is one
    assert isinstance(error.__cause__, ProxyConnectError)


def test_name_without_address_is_connection_error(
    server: SocksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def look_up(name: str) -> list[str]:
        names.append(name)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolver(look_up))
    for retries in (0, 2):
        names.clear()
        with Session(server.url_as("socks5"), max_retries=retries) as session:
            error = fail(session, HTTP, requests.ConnectionError)
        assert isinstance(error.__cause__, ResolveError)
        assert names == ["origin.test"] * (1 + retries)
    assert server.connections == []


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_ipv6_destination_with_socks4_is_invalid_url(server: SocksServer, scheme: str) -> None:
    for proxy in (server.url_as(scheme), [server.url, server.url_as(scheme)]):
        with Session(proxy) as session:
            error = fail(session, "http://[2001:db8::1]/", InvalidURL)
        assert "SOCKS4 cannot carry the IPv6 address" in str(error)
    assert server.connections == []


def test_connect_timeout_is_deadline_of_all_hops(origin: Origin) -> None:
    """Each of them would be done in time, but not one after the other."""
    drip = Faults(drip=0.03)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(SocksServer(faults=drip, routes=routes_to(origin)))
            for _ in range(3)
        ]
        session = stack.enter_context(Session([server.url for server in servers]))
        error = fail(session, HTTP, requests.ConnectTimeout, timeout=(0.6, 10))
    assert isinstance(error.__cause__, ProxyTimeout)


def test_ssl_context_shared_with_proxy_is_refused() -> None:
    context = ssl.create_default_context()

    class Adapter(SocksAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **options)

    for hop in ("socks5h", "https"):
        chain = [Proxy("h"), Proxy("h", scheme=hop, tls=context)]
        with pytest.raises(ValueError, match="ssl_context is also the context for TLS with the p"):
            Adapter(chain)
    Adapter(Proxy("h", tls=True))


@pytest.mark.parametrize("url", [HTTP, HTTPS])
@pytest.mark.parametrize(
    ("faults", "phase"),
    [
        (Faults(stall_after=0), "method selection"),
        (Faults(stall_after=2), "request"),
        # None of the 12 octets is late by itself, but together they are.
        (Faults(drip=0.15), "request"),
    ],
    ids=str,
)
def test_connect_timeout_is_deadline_of_handshake(
    session: Session, server: SocksServer, url: str, faults: Faults, phase: Phase
) -> None:
    server.misbehave(faults)
    error = fail(session, url, requests.ConnectTimeout, timeout=(SHORT, None))
    assert isinstance(error.__cause__, ProxyTimeout)
    assert error.__cause__.phase == phase
    assert len(server.connections) == 1


def test_connect_timeout_when_proxy_does_not_answer() -> None:
    with silence() as (host, port), Session(f"socks5h://{host}:{port}") as session:
        error = fail(session, HTTP, requests.ConnectTimeout, timeout=0.1)
    assert isinstance(error.__cause__, ProxyTimeout)
    assert error.__cause__.phase == "connect"


def test_session_without_timeout(session: Session, server: SocksServer) -> None:
    server.misbehave(Faults(drip=0.001))
    assert session.get(HTTP, timeout=None).ok
    assert session.get(HTTPS, timeout=(None, None)).ok


LONG = f"{'n' * 63}.{'n' * 63}.{'n' * 63}.{'n' * 64}"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"http://{LONG}/", "SOCKS carries 255"),
        (f"https://{LONG}/", "label too long|label empty or too long"),
        (f"https://{'n' * 64}.test/", "too long"),
        ("http://[fe80::1%25lo]/", "zone id"),
    ],
)
def test_destination_beyond_socks_is_invalid_url(
    session: Session, server: SocksServer, url: str, text: str
) -> None:
    error = fail(session, url, InvalidURL)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, ValueError)
    with pytest.raises(InvalidURL, match=text):
        session.get(redirected(url))
    assert asked(server) == [("origin.test", 80)]


def test_onion_name_with_socks5_is_invalid_url(server: SocksServer) -> None:
    with resolved_names() as names, Session(server.url_as("socks5")) as session:
        fail(session, f"http://{'a' * 56}.onion/", InvalidURL)
    assert names == []
    assert server.connections == []


def failing(error: Exception) -> Method:
    """Return a method of authentication that raises the error."""

    def negotiate(_proxy: Proxy) -> Flow[None]:
        yield from ()
        raise error

    return Method(0x80, negotiate)


@pytest.mark.parametrize("failure", [FileNotFoundError("no keytab"), BrokenPipeError(32, "no")])
def test_os_error_of_own_method_is_proxy_error(server: SocksServer, failure: OSError) -> None:
    server.misbehave(Faults(method=0x80))
    with Session(Proxy(*server.address, methods=(failing(failure),))) as session:
        assert fail(session, HTTP, ProxyError).__cause__ is failure


def test_value_error_of_own_method_is_raised(server: SocksServer) -> None:
    server.misbehave(Faults(method=0x80))
    mistake = ValueError("a mistake")
    with (
        Session(Proxy(*server.address, methods=(failing(mistake),))) as session,
        nothing_left_open(),
        pytest.raises(ValueError, match="a mistake") as caught,
    ):
        session.get(HTTP)
    assert caught.value is mistake


def test_proxy_error_can_be_pickled(session: Session, server: SocksServer) -> None:
    server.misbehave(Faults(reply=0x05))
    error = pickle.loads(pickle.dumps(fail(session, HTTP, ProxyError)))
    assert type(error) is ProxyError


def contexts_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def test_error_within_tunnel_has_no_socks_error_as_cause(
    session: Session, server: SocksServer
) -> None:
    """Not even if another one is being handled."""
    with answering(b"garbage") as url:
        server.misbehave([Faults(reply=0x05)])
        try:
            fail(session, url, ProxyError, timeout=None)
            raise ResolveError("another one")
        except ResolveError as another:
            error = fail(session, url, requests.ConnectionError)
            contexts = list(contexts_of(error))
            assert another in contexts  # noqa: PT017
    assert error.__cause__ is None


class Failed(HTTPAdapter):
    """It may have its errors from elsewhere."""

    def send(self, *_args: Any, **_kwargs: Any) -> requests.Response:
        raise requests.ConnectionError


def test_error_of_another_adapter_is_raised_unchanged(
    session: Session, server: SocksServer
) -> None:
    class Both(SocksAdapter, Failed):
        pass

    session.mount("http://", Both(server.url))
    with pytest.raises(requests.ConnectionError) as caught:
        session.get(HTTP)
    assert caught.value.args == ()


# Retries


def test_max_retries_repeats_failures_to_connect(session: Session, server: SocksServer) -> None:
    several = [Faults(reply=0x04), Faults(close_after=0), Faults(stall_after=0)]
    server.misbehave(several)
    session.mount("http://", SocksAdapter(server.url, max_retries=Retry(connect=3, total=10)))
    response = session.post(f"{HTTP}echo", data=b"and back", timeout=(SHORT, 10))
    assert response.content == b"and back"
    assert len(server.connections) == 4


@pytest.mark.parametrize("url", [HTTP, HTTPS])
@pytest.mark.parametrize(
    ("retries", "connections"),
    [
        (0, 1),
        (2, 3),
        (Retry(connect=2), 3),
        (Retry(total=5, connect=0), 1),
        (Retry(total=5, connect=1, read=0, other=0), 2),
        (Retry(total=False), 1),
        (Retry(connect=False), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("reply", [0x02, 0x05, 0x06])
def test_max_retries_counts_refusals(
    server: SocksServer, url: str, retries: int | Retry, connections: int, reply: int
) -> None:
    server.misbehave(Faults(reply=reply))
    with Session(server.url, max_retries=retries) as session:
        with nothing_left_open(), pytest.raises(ProxyError) as caught:
            session.get(url)
        assert isinstance(caught.value.__cause__, ReplyError)
    assert len(server.connections) == connections


def test_max_retries_repeats_unreachable_proxy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Session(f"socks5h://user:{PASSWORD}@127.0.0.1:{REFUSED_PORT}", max_retries=2) as session:
        fail(session, HTTP, ProxyError)
    assert caplog.text.count("Retrying") == 2
    assert PASSWORD not in caplog.text


# Within the tunnel


def test_read_timeout(session: Session) -> None:
    with saying_nothing() as (host, port):
        error = fail(session, f"http://{host}:{port}/", requests.ReadTimeout, timeout=(10, 0.1))
    assert error.__cause__ is None
    with session.get(f"{HTTP}stall", stream=True, timeout=(10, SHORT)) as response:
        with pytest.raises(requests.ConnectionError, match="Read timed out"):
            response.iter_content().__next__() and list(response.iter_content())


def test_incomplete_body_is_chunked_encoding_error(session: Session) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        session.get(f"{HTTP}break")


def test_connect_timeout_holds_again_for_tls(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connect timeout holds once more; as in requests, it is a ReadTimeout then."""
    timeouts = []

    def look_at(sock: socket.socket, *args: Any) -> Any:
        timeouts.append(sock.gettimeout())
        return start_tls(sock, *args)

    monkeypatch.setattr("socksclient.requests.start_tls", look_at)
    with saying_nothing() as (host, port):
        fail(session, f"https://{host}:{port}/", requests.ReadTimeout, timeout=(SHORT, None))
    assert timeouts == [SHORT]


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
    """Each of these has a pool of its own."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert session.get(HTTPS, verify=certificates).ok
    with pytest.warns(InsecureRequestWarning):
        assert session.get(HTTPS, verify=False).ok
    fail(session, HTTPS, SSLError)
    fail(session, HTTPS, SSLError, verify=str(tmp_path))  # a directory without a certificate
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
    """Those are what urllib3 trusts if it is not told otherwise; requests does tell it."""
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


# TLS with the proxy, and within that


@pytest.fixture(scope="module")
def proxy_ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_proxies(proxy_ca: trustme.CA, origin: Origin) -> Iterator[list[SocksServer]]:
    """Two of them, behind either of which the origin is; what connects to the first is ours."""
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
    """TLS with one proxy, or within that with another: no `ssl.SSLSocket` could do that."""
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
            # The body of the response is still to come.
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
            # Only TLS with the destination has such values.
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
        """A context is not changed, and a fingerprint is looked at."""
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
