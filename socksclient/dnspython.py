"""DNS queries through a proxy, with dnspython (the extra ``[dns]``).

`dns.query.udp` and its kind take a `UDPAssociation` as it is (``sock=``). What more dnspython
needs is here: `udp_with_fallback`, a `Nameserver` for its resolvers, and a `Backend` for its
asynchronous functions.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from socksclient._anyio.connect import (
    UDPAssociation as AsyncUDPAssociation,
    connect_tcp,
    udp_associate as async_udp_associate,
)
from socksclient._sync.connect import create_connection, udp_associate
from socksclient._sync.timeouts import Deadline
from socksclient._sync.tls import server_name
from socksclient._sync.udp import UDPAssociation
from socksclient.protocol.address import Host, parse_port, socket_address
from socksclient.protocol.exceptions import SocksError
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain

try:
    import dns.asyncbackend
    import dns.exception
    import dns.message
    import dns.nameserver
    import dns.query
except ImportError as error:
    raise ImportError(
        "socksclient.dnspython needs dnspython: pip install 'socksclient[dns]'"
    ) from error

__all__ = ["Backend", "Nameserver", "udp_with_fallback"]


def udp_with_fallback(
    q: dns.message.Message,
    where: str,
    timeout: float | None = None,
    port: int = 53,
    *,
    proxy: ProxyLike,
) -> tuple[dns.message.Message, bool]:
    """Queries a name server over UDP, and over TCP if that answer was truncated.

    As `dns.query.udp_with_fallback`, but both go through `proxy`, and the server may be a name,
    which the proxy resolves with ``socks5h``. Answers to other queries are passed over.

    Args:
        q: The query.
        where: The name server.
        timeout: Seconds for all of it; None waits without end.
        port: Its port.
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.

    Returns:
        The answer, and whether TCP brought it.

    Raises:
        ValueError: Host or port cannot be.
        dns.exception.Timeout: The name server did not answer in time.
        dns.exception.DNSException: What dnspython finds wrong with the answer.
        SocksError: As of `socksclient.udp_associate` and `socksclient.create_connection`.
    """
    server, deadline = (Host.parse(where).text, parse_port(port)), Deadline(timeout)
    with _dnspython_errors():
        try:
            return _udp(q, server, deadline, proxy), False
        except dns.message.Truncated:
            return _tcp(q, server, deadline, proxy), True


def _udp(
    q: dns.message.Message,
    server: tuple[str, int],
    deadline: Deadline,
    proxy: ProxyLike,
    **options: bool,
) -> dns.message.Message:
    with udp_associate(deadline.left(), proxy=proxy) as udp:
        udp.settimeout(deadline.left())  # for it may resolve the server's name
        udp.connect(server)
        dns.query.send_udp(udp, q, None)
        answer: dns.message.Message
        answer, *_ = dns.query.receive_udp(
            _Until(udp, deadline),
            keyring=q.keyring,
            request_mac=q.mac,
            raise_on_truncation=True,
            ignore_errors=True,
            query=q,
            **options,
        )
        return answer


class _Until:
    """What dnspython receives from: an association, with one deadline for whatever comes."""

    def __init__(self, udp: UDPAssociation, deadline: Deadline) -> None:
        self.family = udp.family
        self._udp = udp
        self._deadline = deadline

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        self._udp.settimeout(self._deadline.left())
        return self._udp.recvfrom(size)


def _tcp(
    q: dns.message.Message,
    server: tuple[str, int],
    deadline: Deadline,
    proxy: ProxyLike,
    **options: Any,
) -> dns.message.Message:
    with create_connection(server, deadline.left(), proxy=proxy) as tcp:
        tcp.setblocking(False)  # as dnspython wants it
        return dns.query.tcp(q, server[0], deadline.left(), server[1], sock=tcp, **options)


@contextmanager
def _dnspython_errors() -> Iterator[None]:
    """Those that dnspython knows; the proxy's part in a deadline remains a `ProxyTimeout`."""
    try:
        yield
    except TimeoutError as error:
        if isinstance(error, SocksError):
            raise
        raise dns.exception.Timeout from error
    except anyio.BrokenResourceError as error:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


class Nameserver(dns.nameserver.Do53Nameserver):
    """A name server that is reached through a proxy, for the resolvers of dnspython.

        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [Nameserver("192.0.2.53", proxy="socks5h://127.0.0.1:1080")]

    It serves `dns.asyncresolver.Resolver` as well.

    Args:
        address: Its IP address.
        port: Its port.
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.

    Raises:
        ValueError: One of these cannot be.
    """

    def __init__(self, address: str, port: int = 53, *, proxy: ProxyLike) -> None:
        host = Host.parse(address)
        if host.is_name:
            raise ValueError(f"address must be an IP address, not {address!r}")
        super().__init__(host.text, parse_port(port))
        self.proxy: Chain = as_chain(proxy)

    def query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,  # noqa: ARG002 - a local address, which is the proxy's affair
        source_port: int,  # noqa: ARG002
        max_size: bool,
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        """Called by the resolver."""
        ask = _tcp if max_size else _udp
        with _dnspython_errors():
            return ask(
                request,
                (self.address, self.port),
                Deadline(timeout),
                self.proxy,
                one_rr_per_rrset=one_rr_per_rrset,
                ignore_trailing=ignore_trailing,
            )

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,
        source_port: int,
        max_size: bool,
        backend: Any,  # noqa: ARG002 - ours is in its place
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        """Called by the asynchronous resolver."""
        return await super().async_query(
            request,
            timeout,
            source,
            source_port,
            max_size,
            Backend(self.proxy),
            one_rr_per_rrset,
            ignore_trailing,
        )


class Backend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc] # a re-export
    """For `dns.asyncquery`, and for `dns.asyncresolver`: ``backend=Backend(proxy)``.

    It runs on asyncio and trio. The local addresses that dnspython may ask for (``source=``) are
    not heeded: the proxy has its own.

    DNS over QUIC does not go through it: `dns.asyncquery.quic` raises `dns.query.NoDOQ`. For DNS
    over HTTPS, dnspython asks no backend; give it a client that goes through the proxy:
    ``dns.asyncquery.https(query, url, client=client)`` with
    ``client = httpx2.AsyncClient(transport=AsyncSocksTransport(proxy))``, or
    ``dns.query.https(query, url, session=client)`` with a blocking client. dnspython 2.9 takes a
    client of httpx2, with a transport of `socksclient.httpx2`; 2.7 and 2.8 take one of httpx.

    Beware of what does not ask a backend: in a resolver, name servers of DNS over HTTPS (URLs
    among them), TLS and QUIC, `DoHNameserver` and its kind, connect directly (dnspython 2.9).

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
    """

    def __init__(self, proxy: ProxyLike) -> None:
        self.proxy = as_chain(proxy)

    def name(self) -> str:
        """Return the name by which dnspython looks up its classes for DNS over QUIC."""
        return _Name("socksclient")

    def get_transport_class(self) -> NoReturn:
        """Refuse; dnspython asks its default backend instead.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "DNS over HTTPS does not go through this backend; give dns.asyncquery.https a client"
            " with an AsyncSocksTransport"
        )

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,  # noqa: ARG002
        source: Any = None,  # noqa: ARG002 - a local address, which is the proxy's affair
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> _DatagramSocket | _StreamSocket:
        """Return a UDP association, or a connection to `destination`, with TLS if asked for.

        Raises:
            NotImplementedError: `socktype` is neither SOCK_STREAM nor SOCK_DGRAM.
            ValueError: `socktype` is SOCK_STREAM, and `destination` is None.
            dns.exception.Timeout: The connection was not made before the timeout.
            SocksError: The proxy cannot be reached, refuses the request, or does not speak as it
                should.
        """
        if socktype == socket.SOCK_DGRAM:
            return _DatagramSocket(af, self.proxy, destination)
        if socktype != socket.SOCK_STREAM:
            raise NotImplementedError(f"a socket of type {socktype!r} cannot go through a proxy")
        if destination is None:
            raise ValueError("a connection needs a destination")
        host, port = destination[:2]
        with _dnspython_errors(), anyio.fail_after(timeout):
            stream = await connect_tcp(
                host,
                port,
                proxy=self.proxy,
                tls=ssl_context is not None,
                ssl_context=ssl_context,
                tls_hostname=None if server_hostname is None else server_name(server_hostname),
                tls_standard_compatible=False,  # every message tells its length
            )
        return _StreamSocket(af, stream, destination)

    async def sleep(self, interval: float) -> None:
        """Seconds."""
        await anyio.sleep(interval)

    async def wait_for(self, awaitable: Awaitable[Any], timeout: float | None) -> Any:
        """The result of `awaitable`, if it comes within so many seconds."""
        with _dnspython_errors(), anyio.fail_after(timeout):
            return await awaitable


class _Name(str):
    """The name of the `Backend`: a string that cannot be looked up in a dict."""

    __slots__ = ()

    def __hash__(self) -> NoReturn:
        # dnspython looks up only its classes for QUIC by this name. They would connect directly.
        raise dns.query.NoDOQ(  # type: ignore[no-untyped-call]
            "DNS over QUIC does not go through socksclient's Backend; UDP, TCP and TLS do"
        )


class _DatagramSocket(dns.asyncbackend.DatagramSocket):  # type: ignore[name-defined,misc]
    """Makes its association when it is first used: only then does dnspython give a timeout."""

    def __init__(self, family: int, proxy: Chain, peer: Any) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self._proxy = proxy
        self._peer = peer
        self._udp: AsyncUDPAssociation | None = None
        self._turn = anyio.Lock()

    async def _association(self) -> AsyncUDPAssociation:
        # One task may receive while another one sends for the first time; both need the same one.
        async with self._turn:
            if self._udp is None:
                self._udp = await async_udp_associate(proxy=self._proxy)
                # A zone transfer must take datagrams from its name server only.
                if self._peer is not None:
                    await self._udp.connected(*self._peer[:2])
            return self._udp

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        destination = destination or self._peer
        if destination is None:
            raise ValueError("a datagram needs a destination")
        with _dnspython_errors(), anyio.fail_after(timeout):
            udp = await self._association()
            await udp.sendto(what, *destination[:2])
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        with _dnspython_errors(), anyio.fail_after(timeout):
            udp = await self._association()
            data, (host, port) = await udp.receive()
        return data[:size], socket_address(host, port)

    async def getpeername(self) -> Any:
        return self._peer

    async def getsockname(self) -> Any:
        return (await self._association()).extra(SocketAttribute.local_address)

    async def close(self) -> None:
        if self._udp is not None:
            await self._udp.aclose()


class _StreamSocket(dns.asyncbackend.StreamSocket):  # type: ignore[name-defined,misc]
    def __init__(self, family: int, stream: ByteStream, destination: Any) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._stream = stream
        self._destination = destination

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        with _dnspython_errors(), anyio.fail_after(timeout):
            await self._stream.send(what)

    async def recv(self, size: int, timeout: float | None) -> bytes:
        with _dnspython_errors(), anyio.fail_after(timeout), suppress(anyio.EndOfStream):
            return await self._stream.receive(size)
        return b""

    async def getpeername(self) -> Any:
        return self._destination

    async def getsockname(self) -> Any:
        return self._stream.extra(SocketAttribute.local_address)

    async def getpeercert(self, timeout: float | None) -> Any:  # noqa: ARG002 - no need to wait
        return self._stream.extra(TLSAttribute.peer_certificate, None)

    async def close(self) -> None:
        await self._stream.aclose()
