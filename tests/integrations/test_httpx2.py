"""What is special to `socksclient.httpx2`; test_httpx.py tests both libraries."""

from __future__ import annotations

import asyncio
import importlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import wsproto.events

from socksclient.testing import SocksServer

from helpers.http_clients import PAIRS
from helpers.support import LONG, serving

if sys.version_info < (3, 11):
    pytest.skip("httpx2 needs Python 3.11", allow_module_level=True)

import httpx2

import socksclient.httpx
import socksclient.httpx2
from socksclient.httpx2 import (
    AsyncEnvironmentTransport,
    AsyncSocksTransport,
    EnvironmentTransport,
    SocksTransport,
)

if TYPE_CHECKING:
    import httpx
    from typing_extensions import assert_type

    from socksclient import Proxy

    def types(proxy: Proxy, context: ssl.SSLContext, request: httpx2.Request) -> None:
        httpx2.Client(transport=SocksTransport(proxy, verify=context, http2=True))
        httpx2.AsyncClient(transport=AsyncSocksTransport("socks5h://127.0.0.1"))
        httpx2.Client(transport=AsyncSocksTransport(proxy))  # type: ignore[arg-type]
        httpx2.Client(transport=socksclient.SocksTransport(proxy))  # type: ignore[arg-type]
        httpx.Client(transport=SocksTransport(proxy))  # type: ignore[arg-type]
        httpx2.Client(transport=SocksTransport.from_env(http2=True))
        assert_type(SocksTransport.from_env(), EnvironmentTransport)
        assert_type(AsyncSocksTransport.from_env(), AsyncEnvironmentTransport)
        httpx2.Client(mounts=SocksTransport.mounts_from_env(), trust_env=False)
        httpx2.AsyncClient(mounts=AsyncSocksTransport.mounts_from_env(verify=context))
        httpx.Client(transport=SocksTransport.from_env())  # type: ignore[arg-type]
        with SocksTransport(
            proxy,
            verify=False,
            cert=("cert.pem", "key.pem"),
            trust_env=False,
            http1=True,
            limits=httpx2.Limits(max_connections=1),
            local_address="127.0.0.1",
            retries=2,
            socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
        ) as transport:
            assert_type(transport, SocksTransport)
            assert_type(transport.handle_request(request), httpx2.Response)
        SocksTransport(proxy, limits=1)  # type: ignore[arg-type]
        SocksTransport(proxy, True)  # type: ignore[call-arg]

    async def awaited_types(proxy: Proxy, request: httpx2.Request) -> None:
        async with AsyncSocksTransport(proxy, limits=httpx2.Limits()) as transport:
            assert_type(transport, AsyncSocksTransport)
            assert_type(await transport.handle_async_request(request), httpx2.Response)


OTHER = {"httpx": "httpx2", "httpx2": "httpx"}


def run(code: str) -> str:
    """Return what a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("module", "expected"),
    [("socksclient.httpx", "httpcore httpx"), ("socksclient.httpx2", "httpcore2 httpx2")],
)
def test_httpx_modules_load_only_their_own_library(module: str, expected: str) -> None:
    names = ("httpcore", "httpx", "httpcore2", "httpx2")
    code = f"import sys, {module}; print(*(name for name in {names} if name in sys.modules))"
    assert run(code).strip() == expected


def test_httpx_and_httpx2_modules_are_equal_up_to_names() -> None:
    """A change in one of the two modules belongs into the other as well."""
    bodies = []
    for module in (socksclient.httpx, socksclient.httpx2):
        source = Path(str(module.__file__)).read_text()
        _, _, body = source.partition("__all__ = ")
        bodies.append(body.replace("httpx2", "httpx").replace("httpcore2", "httpcore"))
    assert "class SocksTransport" in bodies[0]
    assert bodies[0] == bodies[1]


def test_import_error_names_extra_httpx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.delitem(sys.modules, "socksclient.httpx2")
    with pytest.raises(ImportError, match=r"pip install 'socksclient\[httpx2\]'"):
        importlib.import_module("socksclient.httpx2")


def test_alias_httpx_binds_transports_to_httpx2() -> None:
    """After `httpx2.alias_httpx()`, the transports of `socksclient.httpx` are for httpx2."""
    printed = run(
        """if True:
        import httpx2
        httpx2.alias_httpx()
        import socksclient, socksclient.httpx2
        from socksclient.testing import Faults, SocksServer

        for transport in (socksclient.SocksTransport, socksclient.httpx2.SocksTransport):
            with SocksServer(faults=Faults(reply=0x05)) as server:
                with httpx2.Client(transport=transport(server.url)) as client:
                    try:
                        client.get("http://origin.test/")
                    except httpx2.ProxyError as error:
                        print(error.__cause__.reply.name)
        """
    )
    assert printed.split() == ["CONNECTION_REFUSED"] * 2


@pytest.mark.parametrize("client_is_of", ["httpx", "httpx2"])
@pytest.mark.parametrize("by_environment", [False, True])
def test_client_of_other_library_is_told_transport_class(
    client_is_of: str, by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx = PAIRS[client_is_of].httpx
    other = PAIRS[OTHER[client_is_of]].socksclient

    def transport(kind: Any, proxy: str) -> Any:
        return kind.from_env() if by_environment else kind(proxy)

    def text(client: str, transport: str) -> str:
        return (
            f"^{client_is_of}.{client} takes a socksclient.{client_is_of}.{transport}, "
            f"not a socksclient.{OTHER[client_is_of]}.{transport}$"
        )

    async def fetch(proxy: str) -> None:
        awaited = transport(other.AsyncSocksTransport, proxy)
        async with httpx.AsyncClient(transport=awaited) as client:
            with pytest.raises(TypeError, match=text("AsyncClient", "AsyncSocksTransport")):
                await client.get("http://origin.test/")

    with SocksServer() as server:
        monkeypatch.setenv("all_proxy", server.url)
        blocking = transport(other.SocksTransport, server.url)
        with httpx.Client(transport=blocking) as client:
            with pytest.raises(TypeError, match=text("Client", "SocksTransport")):
                client.get("http://origin.test/")
        anyio.run(fetch, server.url)
        assert server.connections == []


@pytest.fixture
def url() -> Iterator[str]:
    """Yield the URL of a server that sends WebSocket messages back."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        while octets := await reader.read(1000):
            connection.receive_data(octets)
            for event in connection.events():
                if isinstance(event, wsproto.events.Request):
                    writer.write(connection.send(wsproto.events.AcceptConnection()))
                elif isinstance(event, wsproto.events.TextMessage):
                    writer.write(connection.send(wsproto.events.TextMessage(event.data)))
                elif isinstance(event, wsproto.events.CloseConnection):
                    writer.write(connection.send(event.response()))
                    return

    with serving(handle) as (host, port):
        yield f"ws://{host}:{port}/"


def test_websocket_over_socks_transport(url: str) -> None:
    """httpx2 reads and writes at the same time, in two threads."""
    with SocksServer() as server, httpx2.Client(transport=SocksTransport(server.url)) as client:
        with client.websocket(url) as messages:
            messages.send_text("there")
            assert messages.receive_text(LONG) == "there"
            messages.send_text("and there")
            assert messages.receive_text(LONG) == "and there"
        assert len(server.requests) == 1


@pytest.mark.anyio
async def test_websocket_over_async_socks_transport(url: str) -> None:
    with SocksServer() as server:
        transport = AsyncSocksTransport(server.url)
        async with httpx2.AsyncClient(transport=transport) as client:
            async with client.websocket(url) as messages:
                await messages.send_text("there")
                assert await messages.receive_text(LONG) == "there"
        assert len(server.requests) == 1
