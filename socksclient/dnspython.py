"""DNS queries with dnspython through a SOCKS proxy (the extra ``[dns]``).

`dns.query.udp` and similar functions take a `UDPAssociation` as their socket (``sock=``). This
module adds `udp_with_fallback`, which continues over TCP, `Nameserver` for the resolvers of
dnspython, and `Backend` for its asynchronous functions.
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

from socksclient._anyio.connect import connect_tcp
from socksclient._anyio.udp import (
    UDPAssociation as AsyncUDPAssociation,
    udp_associate as async_udp_associate,
)
from socksclient._net.tls import server_name
from socksclient._sync.connect import create_connection
from socksclient._sync.timeouts import Deadline
from socksclient._sync.udp import UDPAssociation, udp_associate
from socksclient.protocol.address import Host, HostPort, parse_port, socket_address
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
    """Send a query to a name server over UDP, and over TCP if the answer is truncated.

    This does what `dns.query.udp_with_fallback` does, but both ways go through `proxy`. The name
    server may be given by its name, which the proxy resolves with ``socks5h``. Answers to other
    queries are ignored.

    Args:
        q: The query.
        where: The IP address or the name of the name server.
        timeout: Seconds for the whole call, UDP and TCP together. None waits without end.
        port: The port of the name server, from 1 to 65535.
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.

    Returns:
        The answer, and whether it came over TCP.

    Raises:
        ValueError: The name server, the port or the proxy is not valid, or a hop cannot relay UDP.
            Nothing has been sent.
        dns.exception.Timeout: The name server did not answer before the timeout.
        dns.exception.DNSException: dnspython does not accept the answer.
        SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol; or the
            timeout passed before the proxy had granted the request (`ProxyTimeout`).
        OSError: The connection to the name server broke.
    """
    server, deadline = (Host.parse(where).text, parse_port(port)), Deadline(timeout)
    with _dnspython_errors():
        try:
            return _udp(q, server, deadline, proxy), False
        except dns.message.Truncated:
            return _tcp(q, server, deadline, proxy), True


def _udp(
    q: dns.message.Message,
    server: HostPort,
    deadline: Deadline,
    proxy: ProxyLike,
    **options: bool,
) -> dns.message.Message:
    with udp_associate(deadline.left(), proxy=proxy) as udp:
        # With ``socks5``, `connect` resolves the name of the server.
        udp.settimeout(deadline.left())
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
    """The socket from which dnspython receives: an association, with one deadline for all calls."""

    def __init__(self, udp: UDPAssociation, deadline: Deadline) -> None:
        self.family = udp.family
        self._udp = udp
        self._deadline = deadline

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        self._udp.settimeout(self._deadline.left())
        return self._udp.recvfrom(size)


def _tcp(
    q: dns.message.Message,
    server: HostPort,
    deadline: Deadline,
    proxy: ProxyLike,
    **options: Any,
) -> dns.message.Message:
    with create_connection(server, deadline.left(), proxy=proxy) as tcp:
        # dnspython waits by itself, and expects a socket that does not block.
        tcp.setblocking(False)
        return dns.query.tcp(q, server[0], deadline.left(), server[1], sock=tcp, **options)


@contextmanager
def _dnspython_errors() -> Iterator[None]:
    """Turn timeouts and broken connections into the errors that dnspython knows.

    A `ProxyTimeout` stays one: it says that the proxy did not answer, and not the name server.
    """
    try:
        yield
    except TimeoutError as error:
        if isinstance(error, SocksError):
            raise
        raise dns.exception.Timeout from error
    except anyio.BrokenResourceError as error:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


class Nameserver(dns.nameserver.Do53Nameserver):
    """A name server for the resolvers of dnspython, which reach it through a SOCKS proxy.

        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [Nameserver("192.0.2.53", proxy="socks5h://127.0.0.1:1080")]

    `dns.asyncresolver.Resolver` takes it too.

    Args:
        address: The IP address of the name server.
        port: The port of the name server, from 1 to 65535.
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.

    Attributes:
        proxy: The chain: a tuple of `Proxy`.

    Raises:
        ValueError: The address is not an IP address, or the port or the proxy is not valid.
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
        source: str | None,  # noqa: ARG002
        source_port: int,  # noqa: ARG002
        max_size: bool,
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        """Send a query, and return the answer; `dns.resolver.Resolver` calls this.

        Args:
            request: The query.
            timeout: Seconds for the whole call.
            source: Ignored, because the proxy sends the query from an address of its own.
            source_port: Ignored.
            max_size: Whether to use TCP, and not UDP.
            one_rr_per_rrset: Whether each record of the answer gets an RRset of its own.
            ignore_trailing: Whether to ignore octets behind the answer.

        Raises:
            dns.exception.Timeout: The name server did not answer before the timeout.
            dns.exception.DNSException: dnspython does not accept the answer.
            SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol.
            OSError: The connection to the name server broke.
        """
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
        backend: Any,  # noqa: ARG002
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        """Send a query, and return the answer; `dns.asyncresolver.Resolver` calls this.

        Args:
            request: The query.
            timeout: Seconds for the whole call.
            source: Ignored, because the proxy sends the query from an address of its own.
            source_port: Ignored.
            max_size: Whether to use TCP, and not UDP.
            backend: Ignored: the query goes through a `Backend` with the proxy of this name server.
            one_rr_per_rrset: Whether each record of the answer gets an RRset of its own.
            ignore_trailing: Whether to ignore octets behind the answer.

        Raises:
            dns.exception.Timeout: The name server did not answer before the timeout.
            dns.exception.DNSException: dnspython does not accept the answer.
            SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol.
            OSError: The connection to the name server broke.
        """
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


# mypy does not know these three classes of `dns.asyncbackend`, which that module re-exports.
class Backend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc]
    """A backend by which `dns.asyncquery` and `dns.asyncresolver` go through a SOCKS proxy.

    Pass ``backend=Backend(proxy)`` to their functions. The backend runs on asyncio and trio. It
    ignores the local address that a caller of dnspython may ask for (``source=``), because the
    proxy sends from an address of its own.

    DNS over QUIC cannot go through the backend: `dns.asyncquery.quic` raises `dns.query.NoDOQ`. For
    DNS over HTTPS, dnspython does not use its backend, so give it a client that goes through the
    proxy: ``dns.asyncquery.https(query, url, client=client)`` with
    ``client = httpx2.AsyncClient(transport=AsyncSocksTransport(proxy))``, or
    ``dns.query.https(query, url, session=client)`` with a blocking client. dnspython 2.9 takes a
    client of httpx2, with a transport of `socksclient.httpx2`. dnspython 2.7 and 2.8 take a client
    of httpx.

    Beware: a resolver connects directly, past the backend, to name servers of DNS over HTTPS, TLS
    or QUIC (`DoHNameserver` and similar classes, and URLs in its list; dnspython 2.9).

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.

    Raises:
        ValueError: The proxy is not valid.
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
        source: Any = None,  # noqa: ARG002
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> _DatagramSocket | _StreamSocket:
        """Return a UDP association, or a connection to `destination`, with TLS if asked for.

        Args:
            af: The address family of the name server.
            socktype: `socket.SOCK_DGRAM` for UDP, or `socket.SOCK_STREAM` for TCP.
            proto: Ignored.
            source: Ignored, because the proxy sends from an address of its own.
            destination: The address of the name server, or None if each datagram has its own.
            timeout: Seconds for the connection and TLS together. None waits without end. An
                association connects to the proxy only when it is used.
            ssl_context: The context for TLS with the name server; None means no TLS.
            server_hostname: The name of the name server for TLS.

        Raises:
            NotImplementedError: `socktype` is neither SOCK_STREAM nor SOCK_DGRAM.
            ValueError: `socktype` is SOCK_STREAM, and `destination` is None or not valid.
            dns.exception.Timeout: The connection was not made before the timeout.
            SocksError: The proxy cannot be reached, refuses the request, or breaks the protocol.
        """
        if socktype == socket.SOCK_DGRAM:
            return _DatagramSocket(af, self.proxy, destination)
        if socktype != socket.SOCK_STREAM:
            raise NotImplementedError(
                f"a socket of type {socktype!r} cannot go through a proxy;"
                " SOCK_DGRAM and SOCK_STREAM can"
            )
        if destination is None:
            raise ValueError("a connection needs a destination; pass it to make_socket")
        host, port = destination[:2]
        with _dnspython_errors(), anyio.fail_after(timeout):
            stream = await connect_tcp(
                host,
                port,
                proxy=self.proxy,
                tls=ssl_context is not None,
                ssl_context=ssl_context,
                tls_hostname=None if server_hostname is None else server_name(server_hostname),
                # A DNS message says how long it is, so TLS needs no closing handshake.
                tls_standard_compatible=False,
            )
        return _StreamSocket(af, stream, destination)

    async def sleep(self, interval: float) -> None:
        """Sleep for `interval` seconds."""
        await anyio.sleep(interval)

    async def wait_for(self, awaitable: Awaitable[Any], timeout: float | None) -> Any:
        """Return the result of `awaitable`.

        Raises:
            dns.exception.Timeout: There was no result after `timeout` seconds.
        """
        with _dnspython_errors(), anyio.fail_after(timeout):
            return await awaitable


class _Name(str):
    """The name of the `Backend`: a string that no dict can look up."""

    __slots__ = ()

    def __hash__(self) -> NoReturn:
        # dnspython looks up only its classes for QUIC by this name. They would connect directly.
        raise dns.query.NoDOQ(  # type: ignore[no-untyped-call]
            "DNS over QUIC does not go through socksclient's Backend; UDP, TCP and TLS do"
        )


class _DatagramSocket(dns.asyncbackend.DatagramSocket):  # type: ignore[name-defined,misc]
    """A UDP socket for dnspython, which makes its association when it first sends or receives.

    The association waits until then because dnspython passes a timeout to each send and receive,
    and passes none when it makes the socket.
    """

    def __init__(self, family: int, proxy: Chain, peer: Any) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self._proxy = proxy
        self._peer = peer
        self._udp: AsyncUDPAssociation | None = None
        self._turn = anyio.Lock()

    async def _association(self) -> AsyncUDPAssociation:
        # One task may receive while another one sends for the first time. Both must get the same
        # association.
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
            raise ValueError("a datagram needs a destination; pass it to sendto or make_socket")
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
    """A connection for dnspython, over TCP or TLS."""

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

    async def getpeercert(self, timeout: float | None) -> Any:  # noqa: ARG002
        return self._stream.extra(TLSAttribute.peer_certificate, None)

    async def close(self) -> None:
        await self._stream.aclose()
