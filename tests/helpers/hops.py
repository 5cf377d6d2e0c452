"""Chains of test servers, TLS with them, and connections through them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import anyio
import trustme
from anyio.abc import SocketAttribute
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import Proxy, ProxyLike
from socksclient._sync.driver import open_tunnel
from socksclient._sync.timeouts import Deadline
from socksclient._sync.tls import TLSSocket
from socksclient.protocol.proxy import as_chain
from socksclient.protocol.route import Route
from socksclient.testing import Connection, Faults, SocksServer

from helpers.http_clients import PROXY_HOST
from helpers.support import GREETING, LONG, Address, in_thread

NAMES = ("first.test", "second.test", "third.test")
"""The names of the hops of a chain."""

HOSTS = (PROXY_HOST, "127.0.0.4", "127.0.0.4")
"""The addresses of the hops. Only the connections to the nearest hop come from a client."""

CERTIFIED = (*NAMES, *set(HOSTS), "localhost", "127.0.0.1", "::1")
"""The names and addresses in the certificate of the hops."""


Names = dict[str, list[str]]
"""The addresses of names, as the fixture `names` has them."""

NOBODY = ("192.0.2.1", 80)
"""A destination that no hop reaches."""

ANYONE = ("0.0.0.0", 0)
"""The expected peer of a listener that accepts any IPv4 host."""


class Authority:
    """A certification authority for the hops, which makes the contexts for TLS with them."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.certificate = self.ca.issue_cert(*CERTIFIED)

    def server(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a context for a hop."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.certificate).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """Return a context for a client that trusts this authority only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context


class Verifier(ssl.SSLContext):
    """A context that verifies the certificate after it has wrapped a socket, as truststore does."""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        sock = super().wrap_socket(*args, **kwargs)
        # The handshake has not been done.
        if sock.version() is None:
            sock.close()
            raise ssl.SSLCertVerificationError("no certificate to verify")
        return sock


# The setters of ssl.SSLContext look up that class by its name, which a test may give to this class.
for _name in ("options", "minimum_version", "maximum_version", "verify_flags", "verify_mode"):
    _attribute = getattr(ssl.SSLContext.__base__, _name)
    setattr(Verifier, _name, property(_attribute.__get__, _attribute.__set__))


@dataclass(frozen=True)
class Hops:
    """A chain, and the servers that are its hops."""

    servers: list[SocksServer]
    proxies: list[Proxy]

    def named(self) -> list[Proxy]:
        """Return the same chain with names for hosts. `leads` lets the names lead to the hops."""
        return [replace(proxy, host=name) for proxy, name in zip(self.proxies, NAMES, strict=False)]


class MakeHops:
    """Starts a server for each of the schemes."""

    def __init__(self, authority: Authority) -> None:
        self._context = authority.client()
        self._server_context = authority.server()

    @contextmanager
    def __call__(
        self,
        *schemes: str,
        faults: Mapping[int, Faults | Sequence[Faults]] | None = None,
        accounts: Mapping[int, Mapping[str, str]] | None = None,
    ) -> Iterator[Hops]:
        """Start the servers of a chain, and stop them at the end of the context.

        Args:
            *schemes: The scheme of each hop, the nearest hop first. A server speaks TLS if its
                scheme is "https" or ends in "+tls".
            faults: The faults of a hop, by the number of the hop.
            accounts: The accounts of a hop, by the number of the hop.
        """
        hops = Hops([], [])
        with ExitStack() as stack:
            for number, scheme in enumerate(schemes):
                tls = is_tls(scheme)
                server = SocksServer(
                    host=HOSTS[number],
                    tls=self._server_context if tls else None,
                    faults=(faults or {}).get(number, ()),
                    accounts=(accounts or {}).get(number),
                )
                stack.enter_context(server)
                bare = "http" if scheme == "https" else scheme.removesuffix("+tls")
                proxy = Proxy.from_url(server.url_as(bare))
                hops.servers.append(server)
                hops.proxies.append(replace(proxy, tls=self._context) if tls else proxy)
            yield hops


def is_tls(scheme: str) -> bool:
    return scheme == "https" or scheme.endswith("+tls")


def seen_by(server: SocksServer) -> Connection:
    """Return the only connection that came to the server."""
    [connection] = server.connections
    return connection


def leads(chain: Hops, names: Names) -> None:
    """Let the names of the hops lead to the hops, for the hops and for this process."""
    for server in chain.servers:
        for name, other in zip(NAMES, chain.servers, strict=False):
            host, port = other.address
            server.routes[name, port] = (host, port)
            names[name] = [host]


class Tunnel:
    """A connection through proxies, with the same methods for every driver."""

    def __init__(self, channel: Any, portal: BlockingPortal | None) -> None:
        self.channel = channel
        self._portal = portal

    @property
    def tls(self) -> bool:
        """Whether a hop speaks TLS."""
        return isinstance(self.channel, ssl.SSLSocket | TLSSocket | TLSStream)

    def send(self, octets: bytes) -> None:
        if self._portal is None:
            self.channel.sendall(octets)
        else:
            self._portal.call(self.channel.send, octets)

    def receive(self, count: int) -> bytes:
        """Return `count` octets, or fewer at the end of the data."""
        octets = b""
        while len(octets) < count:
            received = self._receive(count - len(octets))
            if not received:
                break
            octets += received
        return octets

    def _receive(self, count: int) -> bytes:
        octets: bytes
        if self._portal is None:
            octets = self.channel.recv(count)
        else:
            octets = self._portal.call(self._receive_awaited, count)
        return octets

    async def _receive_awaited(self, count: int) -> Any:
        try:
            with anyio.fail_after(LONG):
                return await self.channel.receive(count)
        except anyio.EndOfStream:
            return b""

    def close(self) -> None:
        if self._portal is None:
            self.channel.close()
        else:
            self._portal.call(self.channel.aclose)

    def assert_greets_and_echoes(self) -> None:
        """Check that the tunnel leads to `support.greet`, and that its greeting is whole."""
        assert self.receive(len(GREETING)) == GREETING
        self.send(b"there and back")
        assert self.receive(14) == b"there and back"

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


class Connect(Protocol):
    """Connects by one of the drivers. Every driver raises TimeoutError when `timeout` passes."""

    def __call__(self, address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> Tunnel: ...


def connect_blocking(address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> Tunnel:
    """Connect by `create_connection`, or for TLS within TLS as the transports do."""
    chain = as_chain(proxy)
    if sum(hop.tls is not None for hop in chain) < 2:
        return Tunnel(socksclient.create_connection(address, timeout, proxy=proxy), None)
    channel, _ = open_tunnel(Route.through(chain, *address), Deadline(timeout))
    channel.settimeout(timeout)
    return Tunnel(channel, None)


def connect_awaited(portal: BlockingPortal) -> Connect:
    """Return a function that connects by `connect_tcp` in the event loop of the portal."""

    def connect(address: Address, *, proxy: ProxyLike, timeout: float = LONG) -> Tunnel:
        async def connect() -> Any:
            with anyio.fail_after(timeout):
                return await socksclient.anyio.connect_tcp(*address, proxy=proxy)

        return Tunnel(portal.call(connect), portal)

    return connect


class Listening:
    """A listener, with the same methods for every driver."""

    def __init__(self, listener: Any, portal: BlockingPortal | None) -> None:
        self.address: Address = listener.address
        self._listener = listener
        self._portal = portal

    def accept(self) -> tuple[Tunnel, Address]:
        """Return the connection of the peer, and the address of the peer."""
        if self._portal is None:
            sock, peer = self._listener.accept(LONG)
            return Tunnel(sock, None), peer
        stream = self._portal.call(self._listener.accept)
        return Tunnel(stream, self._portal), self._listener.peer_address

    def close(self) -> None:
        if self._portal is None:
            self._listener.close()
        else:
            self._portal.call(self._listener.aclose)


Bind = Callable[[Address, ProxyLike], Listening]
"""Binds by one of the drivers."""


class Udp:
    """An association, with the same methods for every driver."""

    def __init__(self, udp: Any, portal: BlockingPortal | None) -> None:
        self.udp = udp
        self._portal = portal

    @property
    def local_port(self) -> int:
        """The port of this process from which the datagrams go to the nearest relay."""
        if self._portal is None:
            port: int = self.udp.getsockname()[1]
        else:
            port = self.udp.extra(SocketAttribute.local_port)
        return port

    def send(self, data: bytes, address: Address) -> None:
        if self._portal is None:
            assert self.udp.sendto(data, address) == len(data)
        else:
            self._portal.call(self.udp.send, (data, address))

    def receive(self) -> tuple[bytes, Address]:
        if self._portal is None:
            data, address = self.udp.recvfrom()
        else:
            data, address = self._portal.call(self._receive)
        return data, address[:2]

    async def _receive(self) -> Any:
        with anyio.fail_after(LONG):
            return await self.udp.receive()

    def receive_soon(self) -> Future[Any]:
        """Begin to receive; the result of the future is the next datagram with its source."""
        if self._portal is None:
            return in_thread(self.udp.recvfrom)
        return self._portal.start_task_soon(self._receive)

    def connect(self, address: Address) -> tuple[Callable[[bytes], Any], Callable[[], bytes]]:
        """Return a function that sends to that destination, and one that receives from it."""
        if self._portal is None:
            self.udp.connect(address)
            return self.udp.send, partial(self.udp.recv, 65535)
        call = self._portal.call
        connected = call(partial(self.udp.connected, *address))
        return partial(call, connected.send), partial(call, connected.receive)

    def close(self) -> None:
        if self._portal is None:
            self.udp.close()
        else:
            self._portal.call(self.udp.aclose)

    def __enter__(self) -> Udp:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


class Associate(Protocol):
    """Associates by one of the drivers."""

    def __call__(
        self,
        proxy: ProxyLike,
        *,
        local_address: Address | None = None,
        trust_relay_address: bool = True,
    ) -> Udp: ...


async def serve_ftp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one file by FTP, in active and in passive mode."""
    writer.write(b"220 ready\r\n")
    where = ("", 0)
    listener: asyncio.Server | None = None
    coming: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    while line := (await reader.readline()).decode().split():
        if line[0] == "EPSV":
            listener = await asyncio.start_server(
                lambda _, client: coming.put_nowait(client), "127.0.0.1", 0
            )
            port = listener.sockets[0].getsockname()[1]
            writer.write(f"229 here (|||{port}|)\r\n".encode())
        elif line[0] == "PORT":
            *octets, high, low = line[1].split(",")
            where = (".".join(octets), int(high) * 256 + int(low))
            writer.write(b"200 there\r\n")
        elif line[0] == "RETR":
            writer.write(b"150 coming\r\n")
            if listener is None:
                _, data = await asyncio.open_connection(*where)
            else:
                data = await coming.get()
                listener.close()
            data.write(b"the file")
            data.close()
            await data.wait_closed()
            writer.write(b"226 done\r\n")
        else:
            writer.write(b"200 fine\r\n")
