"""The types of the public names, as a type checker sees them: mypy reads this file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any, get_type_hints

import socksclient
from socksclient import Exchange, Method, Proxy

if TYPE_CHECKING:
    import ftplib

    import httpx
    from anyio.abc import ByteStream, ConnectedUDPSocket, SocketStream, UDPSocket
    from anyio.streams.tls import TLSStream
    from typing_extensions import assert_type

    from socksclient.anyio import bind, connect_socket, connect_tcp, udp_associate
    from socksclient.exceptions import Phase, ReplyCode
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
        assert_type(proxy.headers, tuple[tuple[str, str], ...])
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
        Proxy("127.0.0.1", methods=[socksclient.NO_AUTHENTICATION])
        Proxy("127.0.0.1", scheme="http", headers={"X-Tenant": "a"})
        Proxy("127.0.0.1", scheme="http", headers=[("X-Tenant", "a"), ("X-Tenant", "b")])
        Proxy("127.0.0.1", scheme="http", headers={"X-Tenant": b"a"})  # type: ignore[arg-type]
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
            udp.sendto("data", ("name.example", 53))  # type: ignore[call-overload]
            assert_type(udp.sendto(b"data", 0, ("name.example", 53)), int)
            assert_type(udp.recvfrom(10, 0)[0], bytes)
            assert_type(udp.connect_ex(("name.example", 53)), int)
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
        assert_type(reply_error.reply, ReplyCode)
        assert_type(reply_error.reply.name, str)
        assert_type(reply_error.reply.meaning, str)
        assert_type(protocol_error.received, bytes)

    def testing() -> None:
        with SocksServer(accounts={"user": "pass"}, faults=[Faults(reply=0x05)]) as server:
            assert_type(server, SocksServer)
            assert_type(server.url, str)
            assert_type(server.address, tuple[str, int])
            assert_type(server.requests, list[Connection])


def public_names() -> Iterator[tuple[str, Any]]:
    """Yield the place and the object of every class, function and method that is exported."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(socksclient.__path__, "socksclient.")
        # httpx2 needs Python 3.11.
        if not module.name.endswith("__main__")
        and (module.name != "socksclient.httpx2" or sys.version_info >= (3, 11))
    ]
    for module in [socksclient, *modules]:
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            place = f"{module.__name__}.{name}"
            if inspect.isfunction(value):
                yield place, value
            elif inspect.isclass(value):
                for owner in value.__mro__:
                    if owner.__module__.startswith("socksclient"):
                        yield from names_of(owner, place)


def names_of(owner: type, place: str) -> Iterator[tuple[str, Any]]:
    """Yield what a class itself has. Its bases may belong to another library."""
    own = type(owner.__name__, (), {"__module__": owner.__module__})
    own.__annotations__ = inspect.get_annotations(owner)
    yield place, own
    for name, member in vars(owner).items():
        function = getattr(member, "__func__", getattr(member, "fget", member))
        if inspect.isfunction(function):
            yield f"{place}.{name}", function


def test_annotations_of_every_public_name_can_be_evaluated() -> None:
    failures = {}
    places = set()
    for place, value in public_names():
        places.add(place)
        try:
            get_type_hints(value)
        except NameError as error:
            failures[place] = str(error)
    assert failures == {}
    assert {
        "socksclient.create_connection",
        "socksclient.Proxy",
        "socksclient.Proxy.from_url",
        "socksclient.Proxy.place",
        "socksclient.SocksError",
        "socksclient.anyio.connect_tcp",
        "socksclient.exceptions.SocksError",
        "socksclient.httpx.SocksTransport.from_env",
        "socksclient.requests.SocksAdapter.__init__",
        "socksclient.testing.Faults",
        "socksclient._sync.udp.UDPAssociation.sendto",
    } <= places


def test_annotations_are_those_that_a_type_checker_sees() -> None:
    hints = get_type_hints(Proxy)
    assert hints["tls"] == ssl.SSLContext | bool | None
    assert hints["methods"] == tuple[Method, ...]
    assert hints["headers"] == tuple[tuple[str, str], ...]
    assert get_type_hints(socksclient.SocksError)["proxy"] == Proxy | None


def test_annotations_load_their_module_when_they_are_evaluated() -> None:
    code = (
        "import sys, typing, socksclient; Proxy = socksclient.Proxy; print('ssl' in sys.modules);"
        " typing.get_type_hints(Proxy); print('ssl' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "False\nTrue\n"


def test_package_says_that_it_is_typed() -> None:
    assert resources.files("socksclient").joinpath("py.typed").is_file()
