"""What only the awaited driver has: streams, TLS, and sockets for other libraries."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import uvloop
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from socksclient import Exchange, Flow, ProxyClosed, ProxyConnectError
from socksclient._anyio.driver import Driver
from socksclient.anyio import connect_socket, connect_tcp
from socksclient.protocol import start
from socksclient.testing import Faults, SocksServer

from helpers.origin import Origin
from helpers.support import GREETING, REFUSED_PORT, Address, receive_exactly, resolved_names

pytestmark = pytest.mark.anyio

HTTP_GET = b"GET / HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n"


async def echoes(stream: anyio.abc.ByteStream) -> bool:
    await stream.send(b"there and back")
    received = b""
    while len(received) < 14:
        received += await stream.receive()
    return received == b"there and back"


async def test_connect_tcp_stream(echo_server: Address) -> None:
    with SocksServer() as server:
        async with await connect_tcp(*echo_server, proxy=server.url) as stream:
            assert isinstance(stream, SocketStream)
            assert stream.extra(SocketAttribute.remote_address) == server.address
            assert await echoes(stream)
            await stream.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_connect_tcp_keeps_data_in_segment_of_reply(greeter: Address) -> None:
    with SocksServer(faults=Faults(reply_with_data=True)) as server:
        async with await connect_tcp(*greeter, proxy=server.url) as stream:
            received = b""
            while len(received) < len(GREETING):
                received += await stream.receive()
            assert received == GREETING
            assert await echoes(stream)


async def test_connect_tcp_and_connect_socket_local_host(echo_server: Address) -> None:
    with SocksServer() as server:
        for connect in (connect_tcp, connect_socket):
            connection = await connect(*echo_server, proxy=server.url, local_host="127.0.0.6")
            await close(connection)
        assert {request.client[0] for request in server.requests} == {"127.0.0.6"}


async def close(connection: SocketStream | TLSStream | socket.socket) -> None:
    if isinstance(connection, socket.socket):
        connection.close()
    else:
        await connection.aclose()


async def test_connect_tcp_when_proxy_resets_after_reply(echo_server: Address) -> None:
    with SocksServer(faults=Faults(reset_after=12)) as server:
        original = SocketStream.from_socket

        async def from_socket(sock: socket.socket) -> SocketStream:
            assert isinstance(sock, socket.socket)
            await anyio.wait_readable(sock)  # until the reset is here
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            return await original(sock)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SocketStream, "from_socket", from_socket)
            with pytest.raises(ProxyClosed, match="ended after the proxy's reply") as caught:
                await connect_tcp(*echo_server, proxy=server.url)
        assert caught.value.phase == "relay"
        assert caught.value.destination == echo_server


@pytest.mark.parametrize("proxy", ["socks5h://255.255.255.255:1", "socks5h://127.0.0.1:1"])
async def test_connect_socket_retried_without_end_can_be_cancelled(proxy: str) -> None:
    with anyio.move_on_after(0.1) as scope:
        while True:
            with pytest.raises(ProxyConnectError):
                await connect_socket("192.0.2.1", 80, proxy=proxy)
    assert scope.cancelled_caught


async def test_connect_socket_error_of_event_loop_in_race(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["proxy.test"] = ["127.0.0.1", "127.0.0.2"]

    async def wait_writable(_sock: socket.socket) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anyio, "wait_writable", wait_writable)
    with pytest.raises(ProxyConnectError, match="No space left"):
        await connect_socket("192.0.2.1", 80, proxy=f"socks5h://proxy.test:{REFUSED_PORT}")


class TestConnectTCPWithTLS:
    async def fetch(self, port: int, **options: Any) -> bool:
        routes = {("origin.test", 443): ("127.0.0.1", port)}
        with SocksServer(routes=routes) as server:
            stream = await connect_tcp("origin.test", 443, proxy=server.url, **options)
            assert isinstance(stream, TLSStream)
            async with stream:
                await stream.send(HTTP_GET)
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")
                return stream.extra(TLSAttribute.standard_compatible)

    async def test_connect_tcp_ssl_context(self, origin: Origin) -> None:
        options = {"ssl_context": origin.trust(), "tls_standard_compatible": False}
        assert await self.fetch(origin.https_port, **options) is False

    async def test_connect_tcp_verifies_name_resolved_here(
        self, origin: Origin, names: dict[str, list[str]]
    ) -> None:
        names["origin.test"] = ["127.0.0.1"]
        with SocksServer() as server:
            stream = await connect_tcp(
                "origin.test",
                origin.https_port,
                proxy=server.url_as("socks5"),
                ssl_context=origin.trust(),
                tls_standard_compatible=False,
            )
            async with stream:
                ssl_object = stream.extra(TLSAttribute.ssl_object)
                assert ssl_object.server_hostname == "origin.test"
            assert server.requests[0].destination == ("127.0.0.1", origin.https_port)

    async def test_connect_tcp_tls_hostname(self, origin: Origin) -> None:
        options = {"ssl_context": origin.trust(), "tls_standard_compatible": False}
        await self.fetch(origin.https_port, tls_hostname="localhost", **options)
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'another\.test'"):
            await self.fetch(origin.https_port, tls_hostname="another.test", **options)

    @pytest.mark.parametrize(
        ("host", "name"), [("origin.test.", None), ("192.0.2.1", "origin.test.")]
    )
    async def test_connect_tcp_tls_name_without_final_dot(
        self, origin: Origin, host: str, name: str | None
    ) -> None:
        routes = {(host, 443): ("127.0.0.1", origin.https_port)}
        with SocksServer(routes=routes) as server:
            stream = await connect_tcp(
                host,
                443,
                proxy=server.url,
                ssl_context=origin.trust(),
                tls_hostname=name,
                tls_standard_compatible=False,
            )
            async with stream:
                assert stream.extra(TLSAttribute.ssl_object).server_hostname == "origin.test"
            assert server.requests[0].destination == (host, 443)

    @pytest.mark.parametrize("option", [{"tls": True}, {"tls_hostname": "origin.test"}])
    async def test_connect_tcp_default_context_refuses_unknown_authority(
        self, origin: Origin, option: dict[str, Any]
    ) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self"):
            await self.fetch(origin.https_port, **option)


async def test_connect_tcp_twice_on_one_loop(echo_server: Address) -> None:
    with SocksServer(faults=[Faults(stall_after=0), Faults()]) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(stalled, echo_server, server.url)
            while not server.connections:
                await anyio.lowlevel.checkpoint()
            async with await connect_tcp(*echo_server, proxy=server.url) as stream:
                assert await echoes(stream)
            group.cancel_scope.cancel()


async def stalled(address: Address, proxy: str) -> None:
    await connect_tcp(*address, proxy=proxy)


async def test_driver_sends_message_larger_than_buffer() -> None:
    message = bytes(range(256)) * 4096

    def flow() -> Flow[bytes]:
        return (yield Exchange(message, 2))

    here, there = socket.socketpair()
    with here, there:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        here.setblocking(False)
        there.setblocking(False)

        async def answer() -> None:
            received = b""
            while len(received) < len(message):
                await anyio.wait_readable(there)
                received += there.recv(65536)
            assert received == message
            there.send(b"ok")

        async with anyio.create_task_group() as group:
            group.start_soon(answer)
            assert await Driver(here).run(flow()) == b"ok"


async def test_driver_error_of_broken_connection() -> None:
    class Broken(socket.socket):
        def send(self, *_args: object) -> int:
            raise OSError(113, "No route to host")

    with Broken() as sock:
        with pytest.raises(
            ProxyClosed, match="the connection to the proxy broke: No route"
        ) as held:
            await Driver(sock).run(start("socks5h://proxy.test", "origin.test", 80))
    assert held.value.errno == 113


class TestConnectSocketForOtherLibraries:
    """Other libraries use the socket on their own event loops, without anyio's runner."""

    def test_connect_socket_for_asyncio(self, greeter: Address) -> None:
        async def main() -> None:
            with SocksServer() as server:
                sock = await connect_socket(*greeter, proxy=server.url)
                reader, writer = await asyncio.open_connection(sock=sock)
                assert await reader.readexactly(len(GREETING)) == GREETING
                writer.close()
                await writer.wait_closed()

        asyncio.run(main())

    def test_connect_socket_for_trio(self, greeter: Address) -> None:
        async def main() -> None:
            with SocksServer() as server:
                sock = await connect_socket(*greeter, proxy=server.url)
                async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                    assert await stream.receive_some(len(GREETING)) == GREETING

        trio.run(main)

    def test_connect_socket_for_plain_uvloop(self, greeter: Address) -> None:
        async def main() -> None:
            with SocksServer() as server, resolved_names() as names:
                url = server.url.replace("127.0.0.1", "localhost")
                sock = await connect_socket(*greeter, proxy=url)
                # uvloop has a resolver of its own, which the audit hook does not see.
                assert names == []
                sock.setblocking(True)
                assert receive_exactly(sock, len(GREETING)) == GREETING
                sock.close()

        uvloop.run(main())
