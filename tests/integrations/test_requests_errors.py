"""`socksclient.requests`: the errors of requests and their causes, timeouts, and retries."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL, ProxyError
from urllib3 import Retry

from socksclient import (
    AuthenticationError,
    Flow,
    Method,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient._sync.tls import start_tls
from socksclient.exceptions import Phase
from socksclient.requests import Session, SocksAdapter
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import (
    HTTP,
    HTTPS,
    PROXY_HOST,
    answering,
    nothing_left_open,
    routes_to,
    saying_nothing,
)
from helpers.origin import Origin
from helpers.requests_clients import PASSWORD, asked, fail, redirected
from helpers.support import REFUSED_PORT, SHORT, resolved_names, resolver, silence

pytest_plugins = ["helpers.http_fixtures", "helpers.requests_fixtures"]
pytestmark = pytest.mark.usefixtures("requests_environment")


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
        # The pool has room for one connection only.
        assert session.get(url).ok


def test_unreachable_proxy_is_proxy_error() -> None:
    with Session(f"socks5h://127.0.0.1:{REFUSED_PORT}") as session:
        error = fail(session, HTTP, ProxyError)
    # ProxyError is a subclass.
    assert isinstance(error, requests.ConnectionError)
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
    """Each hop would end in time, but not one hop after the other."""
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
        # No octet of the 12 is late by itself, but all of them together are.
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
        (f"http://{LONG}/", "SOCKS carries at most 255"),
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
    """Return a method of authentication that raises an error."""

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
    """The error has no such cause even while a `SocksError` is being handled."""
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
    """An adapter that raises an error without a cause."""

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
    """The connect timeout holds once more. As in requests, it raises a ReadTimeout then."""
    timeouts = []

    def look_at(sock: socket.socket, *args: Any) -> Any:
        timeouts.append(sock.gettimeout())
        return start_tls(sock, *args)

    monkeypatch.setattr("socksclient.requests.start_tls", look_at)
    with saying_nothing() as (host, port):
        fail(session, f"https://{host}:{port}/", requests.ReadTimeout, timeout=(SHORT, None))
    assert timeouts == [SHORT]
