"""The types of the public names, as a type checker sees them: mypy reads this file."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
    from anyio.abc import SocketStream
    from anyio.streams.tls import TLSStream
    from typing_extensions import assert_type

    import socksclient
    from socksclient import Exchange, Method, Proxy
    from socksclient.anyio import connect_socket, connect_tcp
    from socksclient.exceptions import Phase
    from socksclient.testing import Connection, Faults, SocksServer

    def values(proxy: Proxy) -> None:
        assert_type(Proxy.from_url("socks5h://127.0.0.1"), Proxy)
        assert_type(proxy.host, str)
        assert_type(proxy.port, int)
        assert_type(proxy.username, str | None)
        assert_type(proxy.password, str | None)
        assert_type(proxy.remote_dns, bool)
        assert_type(proxy.methods, tuple[Method, ...])
        Proxy("127.0.0.1", 1080, scheme="socks5", username="user", password="pass")
        Proxy("127.0.0.1", methods=(socksclient.NO_AUTHENTICATION, Method(0x80, negotiate)))
        Proxy("127.0.0.1", "1080")  # type: ignore[arg-type]
        Proxy("127.0.0.1", 1080, "socks5")  # type: ignore[call-arg]
        proxy.port = 1081  # type: ignore[misc]

    def negotiate(proxy: Proxy) -> socksclient.Flow[None]:
        assert_type((yield Exchange(b"", 2)), bytes)

    def flows(proxy: Proxy) -> None:
        assert_type(negotiate(proxy), Generator[Exchange, bytes, None])

    def blocking(proxy: socksclient.ProxyLike) -> None:
        sock = socksclient.create_connection(("name.example", 80), proxy=proxy)
        assert_type(sock, socket.socket)
        socksclient.create_connection(("name.example", 80), 1.5, ("127.0.0.1", 0), proxy=proxy)
        socksclient.create_connection(("name.example", 80), None, proxy="socks5h://127.0.0.1")
        socksclient.create_connection(("name.example", 80))  # type: ignore[call-arg]
        socksclient.create_connection(("name.example", 80), proxy=None)  # type: ignore[arg-type]

    async def awaited(proxy: Proxy, context: ssl.SSLContext, tls: bool) -> None:
        assert_type(await connect_socket("name.example", 80, proxy=proxy), socket.socket)
        assert_type(await connect_tcp("name.example", 80, proxy=proxy), SocketStream)
        assert_type(await connect_tcp("name.example", 80, proxy=proxy, tls=False), SocketStream)
        assert_type(await connect_tcp("name.example", 80, proxy=proxy, tls=True), TLSStream)
        assert_type(
            await connect_tcp("name.example", 80, proxy=proxy, ssl_context=context), TLSStream
        )
        assert_type(
            await connect_tcp("name.example", 80, proxy=proxy, tls_hostname="other.example"),
            TLSStream,
        )

    def transports(proxy: Proxy, context: ssl.SSLContext) -> None:
        httpx.Client(transport=socksclient.SocksTransport(proxy, verify=context, http2=True))
        httpx.AsyncClient(transport=socksclient.AsyncSocksTransport("socks5h://127.0.0.1"))
        httpx.Client(transport=socksclient.AsyncSocksTransport(proxy))  # type: ignore[arg-type]
        socksclient.SocksTransport(
            proxy,
            verify=False,
            cert=("cert.pem", "key.pem"),
            trust_env=False,
            http1=True,
            limits=httpx.Limits(max_connections=1),
            local_address="127.0.0.1",
            retries=2,
            socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
        )

    def errors(
        error: socksclient.SocksError,
        reply_error: socksclient.ReplyError,
        protocol_error: socksclient.ProtocolError,
    ) -> None:
        assert_type(error.proxy, Proxy | None)
        assert_type(error.hop, int)
        assert_type(error.destination, tuple[str, int] | None)
        assert_type(error.phase, Phase | None)
        assert_type(reply_error.reply, socksclient.Reply)
        assert_type(protocol_error.received, bytes)

    def testing() -> None:
        with SocksServer(accounts={"user": "pass"}, faults=[Faults(reply=0x05)]) as server:
            assert_type(server, SocksServer)
            assert_type(server.url, str)
            assert_type(server.address, tuple[str, int])
            assert_type(server.requests, list[Connection])


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("socksclient").joinpath("py.typed").is_file()
