"""`socksclient.redis`: redis-py, blocking and awaited, with a real server and real proxies."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import trustme
from anyio.from_thread import BlockingPortal, start_blocking_portal

from socksclient import Proxy, ProxyTimeout, ReplyError, SocksError
from socksclient.redis import AsyncConnection, AsyncSSLConnection, Connection, SSLConnection
from socksclient.testing import Faults, SocksServer

from helpers import library_servers, real_servers
from helpers.support import SHORT, Address, eventually, needs, nothing_left_open, resolved_names

MISSING = [*real_servers.missing(["danted"]), *library_servers.missing()]
pytestmark = needs(MISSING)

NAME = "redis.test"


class Blocking:
    """A client of `redis`, or one of `redis.asyncio` whose event loop runs in another thread.

    Each command is a method that waits for the answer.
    """

    def __init__(self, client: Any, call: Callable[..., Any]) -> None:
        self.client = client
        self.call = call

    def __getattr__(self, command: str) -> Callable[..., Any]:
        return partial(self.call, getattr(self.client, command))

    def reset(self) -> None:
        """Close all connections, such as those that the server or the proxy has ended."""
        self.call(self.client.connection_pool.disconnect)


Dial = Callable[..., AbstractContextManager[Blocking]]


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture(params=["blocking", "awaited"])
def dial(request: pytest.FixtureRequest, portal: BlockingPortal, ca: trustme.CA) -> Dial:
    """Return a function that makes a client with options of redis-py's."""
    module: Any = redis
    classes: list[Any] = [Connection, SSLConnection]
    if request.param == "awaited":
        module, classes = redis.asyncio, [AsyncConnection, AsyncSSLConnection]

    async def make(options: Any) -> Any:
        return module.Redis.from_pool(module.ConnectionPool(**options))

    @contextmanager
    def dial(scheme: str, host: str, port: int = 6379, **options: Any) -> Iterator[Blocking]:
        tls = scheme == "rediss"
        if tls:
            options.setdefault("ssl_ca_data", ca.cert_pem.bytes().decode())
        options |= {"host": host, "port": port, "connection_class": classes[tls]}
        client = portal.call(make, {"socket_connect_timeout": 10, **options})
        if module is redis:
            with client:
                yield Blocking(client, lambda function, *args: function(*args))
        else:
            try:
                yield Blocking(client, portal.call)
            finally:
                portal.call(client.aclose)

    return dial


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=["redis", "rediss"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(
    scheme: str, ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    directory = tmp_path_factory.mktemp("redis")
    certificate = ca.issue_cert(NAME, "localhost")
    with library_servers.redis_server(directory, certificate, tls=scheme == "rediss") as address:
        yield address


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante")) as url:
        yield url


@pytest.fixture
def proxy(server: Address) -> Iterator[SocksServer]:
    routes = {(name, 6379): server for name in (NAME, "impostor.test")}
    with SocksServer(routes=routes) as proxy:
        yield proxy


def test_redis_through_dante(dial: Dial, scheme: str, server: Address, dante: str) -> None:
    value = os.urandom(1_000_000)
    with resolved_names() as names, nothing_left_open():
        with dial(scheme, "localhost", server[1], db=1, proxy=dante) as client:
            assert client.ping()
            assert client.set("key", value)
            assert client.get("key") == value
            assert client.delete("key") == 1
    assert names == []


def test_redis_name_goes_to_proxy(dial: Dial, scheme: str, proxy: SocksServer) -> None:
    with resolved_names() as names:
        with dial(scheme, NAME, proxy=proxy.url) as client:
            assert client.ping()
    assert names == []
    assert [request.destination for request in proxy.requests] == [(NAME, 6379)]


def test_redis_trailing_dot_is_not_for_tls(dial: Dial, scheme: str, proxy: SocksServer) -> None:
    proxy.routes[f"{NAME}.", 6379] = proxy.routes[NAME, 6379]
    with dial(scheme, f"{NAME}.", proxy=proxy.url) as client:
        assert client.ping()
        client.reset()
        assert client.ping()
        proxy.misbehave(Faults(reply=0x05))
        client.reset()
        with pytest.raises(redis.ConnectionError, match=f"{NAME}.:6379"):
            client.ping()
    assert [request.destination for request in proxy.requests[:2]] == [(f"{NAME}.", 6379)] * 2


def test_redis_with_proxy_at_unix_socket(
    dial: Dial, scheme: str, proxy: SocksServer, tmp_path: Path
) -> None:
    with SocksServer(path=str(tmp_path / "s"), routes=proxy.routes) as unix:
        with dial(scheme, NAME, proxy=unix.url, socket_keepalive=True) as client:
            assert client.ping()


def test_redis_reconnects_through_proxy(dial: Dial, scheme: str, proxy: SocksServer) -> None:
    with nothing_left_open():
        with dial(scheme, NAME, proxy=proxy.url) as client:
            assert client.ping()
            client.reset()
            assert client.ping()
            # redis-py may notice only at the next command that the server has closed the
            # connection.
            with suppress(redis.ConnectionError):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
            with suppress(redis.ConnectionError):
                client.ping()
            assert client.ping()
    assert [request.destination for request in proxy.requests] == [(NAME, 6379)] * 3


def test_redis_subscription_has_its_own_connection(
    dial: Dial, scheme: str, proxy: SocksServer
) -> None:
    with dial(scheme, NAME, proxy=proxy.url) as client:
        channel = client.client.pubsub()
        client.call(channel.subscribe, "channel")
        hear = partial(client.call, channel.get_message, False, 10)
        assert hear()["type"] == "subscribe"
        assert client.publish("channel", "told") == 1
        assert hear()["data"] == b"told"
        client.call(channel.aclose if hasattr(channel, "aclose") else channel.close)
    assert len(proxy.requests) == 2


def test_redis_refusal_of_proxy_is_connection_error(
    dial: Dial, scheme: str, proxy: SocksServer
) -> None:
    proxy.misbehave(Faults(reply=0x05))
    with nothing_left_open():
        with dial(scheme, NAME, proxy=proxy.url) as client:
            with pytest.raises(redis.ConnectionError, match=f"{NAME}:6379") as caught:
                client.ping()
        assert isinstance(caught.value.__context__, ReplyError)
        assert caught.value.__context__.destination == (NAME, 6379)


def test_redis_socket_connect_timeout_is_one_deadline(
    dial: Dial, scheme: str, proxy: SocksServer
) -> None:
    # Each wait by itself is shorter than the timeout.
    proxy.misbehave(Faults(drip=SHORT * 2 / 3))
    with nothing_left_open():
        with dial(scheme, NAME, proxy=proxy.url, socket_connect_timeout=SHORT) as client:
            with pytest.raises(redis.TimeoutError) as caught:
                client.ping()
        assert isinstance(caught.value.__context__, TimeoutError)


@pytest.mark.parametrize("kind", [Connection, AsyncConnection])
def test_redis_timeout_error_names_phase(
    kind: Any, proxy: SocksServer, portal: BlockingPortal
) -> None:
    proxy.misbehave(Faults(stall_after=2))
    connection = kind(host=NAME, port=6379, proxy=proxy.url, socket_connect_timeout=SHORT)
    run = (lambda connect: connect()) if kind is Connection else portal.call
    with pytest.raises(redis.TimeoutError) as caught:
        run(connection.connect)
    assert isinstance(caught.value.__context__, ProxyTimeout)
    assert caught.value.__context__.phase == "request"


def test_redis_socket_timeout_holds_after_connecting(
    dial: Dial, scheme: str, proxy: SocksServer
) -> None:
    with dial(scheme, NAME, proxy=proxy.url, socket_timeout=SHORT) as client:
        with pytest.raises(redis.TimeoutError) as caught:
            client.execute_command("BLPOP", "nothing", 10)
    assert not isinstance(caught.value.__context__, SocksError)


@pytest.mark.parametrize("scheme", ["rediss"], indirect=True)
class TestTLS:
    def test_redis_tls_verifies_server_name(self, dial: Dial, proxy: SocksServer) -> None:
        with nothing_left_open():
            with dial("rediss", "impostor.test", proxy=proxy.url) as client:
                with pytest.raises(redis.ConnectionError, match="Hostname mismatch") as caught:
                    client.ping()
            assert isinstance(caught.value.__context__, ssl.SSLCertVerificationError)

    def test_redis_tls_refuses_unknown_authority(self, dial: Dial, proxy: SocksServer) -> None:
        other = trustme.CA().cert_pem.bytes().decode()
        with dial("rediss", NAME, proxy=proxy.url, ssl_ca_data=other) as client:
            with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
                client.ping()

    def test_redis_tls_refuses_label_too_long(self, dial: Dial, proxy: SocksServer) -> None:
        with nothing_left_open():
            with dial("rediss", f"{'n' * 64}.test", proxy=proxy.url) as client:
                with pytest.raises((UnicodeError, redis.ConnectionError), match="label"):
                    client.ping()
        assert proxy.connections == []

    def test_redis_async_deadline_holds_for_tls(self, scheme: str, portal: BlockingPortal) -> None:
        with nothing_left_open(), socket.create_server(("127.0.0.1", 0)) as silent:
            with SocksServer(routes={(NAME, 6379): silent.getsockname()}) as proxy:
                connection = AsyncSSLConnection(
                    host=NAME, port=6379, proxy=proxy.url, socket_connect_timeout=SHORT
                )
                with pytest.raises(redis.TimeoutError):
                    portal.call(connection.connect)
                peer, _ = silent.accept()
                with peer:
                    peer.settimeout(10)
                    # The client closes the connection.
                    while peer.recv(4096):
                        pass
                    assert not connection.is_connected


def options_of(sock: Any) -> list[int]:
    names = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    ]
    return [sock.getsockopt(*name) for name in names]


@pytest.mark.parametrize("keepalive", [False, True])
def test_redis_socket_options_are_set(
    keepalive: bool, proxy: SocksServer, scheme: str, portal: BlockingPortal, ca: trustme.CA
) -> None:
    given: dict[str, Any] = {"host": NAME, "port": 6379, "proxy": proxy.url}
    given |= {
        "socket_keepalive": keepalive,
        "socket_keepalive_options": {socket.TCP_KEEPIDLE: 77},
    }
    if scheme == "rediss":
        given["ssl_ca_data"] = ca.cert_pem.bytes().decode()
    connection: Any = (SSLConnection if scheme == "rediss" else Connection)(**given)
    connection.connect()
    found = options_of(connection._sock)
    connection.disconnect()

    async def awaited() -> list[int]:
        connection: Any = (AsyncSSLConnection if scheme == "rediss" else AsyncConnection)(**given)
        await connection.connect()
        try:
            return options_of(connection._writer.get_extra_info("socket"))
        finally:
            await connection.disconnect()

    for nodelay, on, idle in (found, portal.call(awaited)):
        assert nodelay
        assert bool(on) == keepalive
        assert (idle == 77) == keepalive


def test_redis_unknown_socket_option_is_connection_error(
    dial: Dial, scheme: str, proxy: SocksServer
) -> None:
    with nothing_left_open():
        with dial(
            scheme,
            NAME,
            proxy=proxy.url,
            socket_keepalive=True,
            socket_keepalive_options={9999: 1},
        ) as client:
            with pytest.raises(redis.ConnectionError, match="Protocol not available") as held:
                client.ping()
        assert held


def test_redis_cancelled_connect_leaves_nothing_open(proxy: SocksServer) -> None:
    proxy.misbehave(Faults(stall_after=2))
    connection = AsyncConnection(host=NAME, port=6379, proxy=proxy.url)

    async def connect_and_cancel() -> None:
        connecting: Any = connection.connect()  # type: ignore[no-untyped-call]
        task = asyncio.ensure_future(connecting)
        assert await asyncio.to_thread(eventually, lambda: bool(proxy.requests))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with nothing_left_open():
        asyncio.run(connect_and_cancel())
    assert not connection.is_connected


@pytest.mark.parametrize("cls", [Connection, SSLConnection, AsyncConnection, AsyncSSLConnection])
class TestClasses:
    @pytest.mark.parametrize("proxy", ["socks5h+tls://127.0.0.1", ["socks5h://a", "https://b"]])
    def test_redis_connection_refuses_tls_chain(self, cls: Any, proxy: str | list[str]) -> None:
        with pytest.raises(ValueError, match="cannot go through a proxy with TLS"):
            cls(host=NAME, proxy=proxy)

    def test_redis_connection_refuses_invalid_proxy_url(self, cls: Any) -> None:
        with pytest.raises(ValueError, match="scheme"):
            cls(host=NAME, proxy="gopher://127.0.0.1")

    def test_redis_get_resolved_ip_is_none(self, cls: Any) -> None:
        assert cls(host=NAME, proxy="socks5h://127.0.0.1").get_resolved_ip() is None


@pytest.mark.parametrize("module", [redis, redis.asyncio])
def test_redis_pool_repr_hides_proxy_password(module: Any) -> None:
    cls = Connection if module is redis else AsyncConnection
    proxy = Proxy("127.0.0.1", username="user", password="secret")
    pool = module.ConnectionPool(connection_class=cls, proxy=proxy)
    assert "127.0.0.1:1080" in repr(pool)
    assert "secret" not in repr(pool) + repr(module.Redis(connection_pool=pool))


def test_import_error_names_extra_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "socksclient.redis")
    with pytest.raises(ImportError, match=r"pip install 'socksclient\[redis\]'"):
        importlib.import_module("socksclient.redis")
