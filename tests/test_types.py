"""The types of the public names, as a type checker sees them: mypy reads this file."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ftplib

    import httpx
    from anyio.abc import ByteStream, ConnectedUDPSocket, SocketStream, UDPSocket
    from anyio.streams.tls import TLSStream
    from typing_extensions import assert_type

    import socksclient
    from socksclient import Exchange, Method, Proxy
    from socksclient.anyio import bind, connect_socket, connect_tcp, udp_associate
    from socksclient.exceptions import Phase
    from socksclient.ftp import FTP, FTP_TLS
    from socksclient.testing import Connection, Faults, SocksServer

    def values(proxy: Proxy) -> None:
        assert_type(Proxy.from_url("socks5h://127.0.0.1"), Proxy)
        assert_type(proxy.host, str)
        assert_type(proxy.port, int)
        assert_type(proxy.username, str | None)
        assert_type(proxy.password, str | None)
        assert_type(proxy.remote_dns, bool)
        assert_type(proxy.methods, tuple[Method, ...])
        assert_type(proxy.path, str | None)
        assert_type(proxy.tls, ssl.SSLContext | bool | None)
        assert_type(proxy.isolated(), Proxy)
        assert_type(proxy.isolated("token"), Proxy)
        assert_type(Proxy.from_env(), Proxy | None)
        Proxy.from_env("name.example")
        Proxy.from_env(("name.example", 80))
        Proxy(path="/run/tor/socks")
        Proxy("127.0.0.1", 443, scheme="http", tls=ssl.create_default_context())
        Proxy("127.0.0.1", 1080, scheme="socks5", username="user", password="pass")
        Proxy("127.0.0.1", methods=(socksclient.NO_AUTHENTICATION, Method(0x80, negotiate)))
        Proxy("127.0.0.1", "1080")  # type: ignore[arg-type]
        Proxy("127.0.0.1", 1080, "socks5")  # type: ignore[call-arg]
        proxy.port = 1081  # type: ignore[misc]

    def negotiate(proxy: Proxy) -> socksclient.Flow[None]:
        assert_type((yield Exchange(b"", 2)), bytes)

    def flows(proxy: Proxy) -> None:
        assert_type(negotiate(proxy), Generator[Exchange, bytes, None])

    def blocking(proxy: socksclient.ProxyLike, proxies: list[Proxy]) -> None:
        sock = socksclient.create_connection(("name.example", 80), proxy=proxy)
        assert_type(sock, socket.socket)
        socksclient.create_connection(("name.example", 80), 1.5, ("127.0.0.1", 0), proxy=proxy)
        socksclient.create_connection(("name.example", 80), None, proxy="socks5h://127.0.0.1")
        socksclient.create_connection(("name.example", 80), proxy=[proxies[0], "http://h"])
        socksclient.create_connection(("name.example", 80), proxy=tuple(proxies))
        assert_type(socksclient.resolve("name.example", 5.0, proxy=proxy), str)
        assert_type(socksclient.resolve_ptr("192.0.2.1", proxy=proxy), str)
        with socksclient.SocksSocket(proxy, socket.AF_INET6) as socks_socket:
            plain: socket.socket = socks_socket
            plain.connect(("name.example", 80))
        socksclient.create_connection(("name.example", 80))  # type: ignore[call-arg]
        socksclient.create_connection(("name.example", 80), proxy=None)  # type: ignore[arg-type]

    async def awaited(proxy: Proxy, context: ssl.SSLContext, tls: bool) -> None:
        assert_type(await connect_socket("name.example", 80, proxy=proxy), socket.socket)
        stream = await connect_tcp("name.example", 80, proxy=proxy)
        assert_type(stream, SocketStream | TLSStream)
        byte_stream: ByteStream = await connect_tcp("name.example", 80, proxy=proxy, tls=False)
        assert_type(await byte_stream.receive(), bytes)
        assert_type(await connect_tcp("name.example", 80, proxy=proxy, tls=True), TLSStream)
        assert_type(
            await connect_tcp("name.example", 80, proxy=proxy, ssl_context=context), TLSStream
        )
        assert_type(
            await connect_tcp("name.example", 80, proxy=proxy, tls_hostname="other.example"),
            TLSStream,
        )

    def datagrams(proxy: Proxy) -> None:
        with socksclient.udp_associate(5.0, proxy=proxy, local_address=("127.0.0.1", 0)) as udp:
            assert_type(udp, socksclient.UDPAssociation)
            assert_type(udp.sendto(b"data", ("name.example", 53)), int)
            udp.sendto(bytearray(b"data"), ("2001:db8::1", 53, 0, 0))
            data, source = udp.recvfrom()
            assert_type(data, bytes)
            assert_type(source, tuple[str, int] | tuple[str, int, int, int])
            assert_type(udp.recv_into(bytearray(10)), int)
            assert_type(udp.gettimeout(), float | None)
            assert_type(udp.relay_address, tuple[str, int])
            assert_type(udp.dropped, int)
            udp.sendto("data", ("name.example", 53))  # type: ignore[arg-type]
        socksclient.udp_associate()  # type: ignore[call-arg]

    async def awaited_datagrams(proxy: Proxy) -> None:
        udp: UDPSocket = await udp_associate(proxy=proxy, trust_relay_address=False)
        assert_type(await udp.receive(), tuple[bytes, tuple[str, int]])
        async with await udp_associate(proxy=proxy, local_host="127.0.0.1") as association:
            connected: ConnectedUDPSocket = await association.connected("name.example", 53)
            assert_type(await connected.receive(), bytes)

    def listeners(proxy: Proxy) -> None:
        with socksclient.bind(("192.0.2.1", 21), proxy=proxy) as listener:
            assert_type(listener.address, tuple[str, int])
            assert_type(listener.accept(1.0), tuple[socket.socket, tuple[str, int]])

    async def awaited_listeners(proxy: Proxy) -> None:
        async with await bind("192.0.2.1", 21, proxy=proxy) as listener:
            assert_type(await listener.accept(), SocketStream | TLSStream)
            assert_type(listener.peer_address, tuple[str, int] | None)

    def file_transfer(proxy: Proxy, context: ssl.SSLContext) -> None:
        with FTP("ftp.example", proxy=proxy, timeout=None) as ftp:
            plain: ftplib.FTP = ftp
            plain.quit()
        FTP_TLS(context=context, timeout=1.5, proxy="socks5h://127.0.0.1")
        FTP("ftp.example")  # type: ignore[call-arg]

    def transports(proxy: Proxy, context: ssl.SSLContext) -> None:
        httpx.Client(transport=socksclient.SocksTransport(proxy, verify=context, http2=True))
        httpx.AsyncClient(transport=socksclient.AsyncSocksTransport("socks5h://127.0.0.1"))
        httpx.Client(transport=socksclient.AsyncSocksTransport(proxy))  # type: ignore[arg-type]
        httpx.Client(transport=socksclient.SocksTransport.from_env(http2=True))
        httpx.Client(mounts=socksclient.SocksTransport.mounts_from_env(), trust_env=False)
        httpx.AsyncClient(mounts=socksclient.AsyncSocksTransport.mounts_from_env(verify=context))
        socksclient.SocksTransport.from_env(proxy="socks5h://h")  # type: ignore[call-arg]
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
        assert_type(
            reply_error.reply, socksclient.Reply | socksclient.Socks4Reply | socksclient.HTTPReply
        )
        assert_type(reply_error.reply.name, str)
        assert_type(reply_error.reply.meaning, str)
        assert_type(protocol_error.received, bytes)

    def testing() -> None:
        with SocksServer(accounts={"user": "pass"}, faults=[Faults(reply=0x05)]) as server:
            assert_type(server, SocksServer)
            assert_type(server.url, str)
            assert_type(server.address, tuple[str, int])
            assert_type(server.requests, list[Connection])


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("socksclient").joinpath("py.typed").is_file()
