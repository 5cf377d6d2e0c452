# mypy: ignore-errors
"""Choosing addresses and connecting to the first that answers: what both drivers share."""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard

from socksclient.protocol.exceptions import ProtocolError, ProxyClosed, ResolveError, host_port
from socksclient.protocol.socks5 import (
    is_address,
    is_unspecified,
    parse_host,
    parse_port,
    socks4_carries,
    without_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from socksclient.protocol.proxy import Proxy

Address: TypeAlias = tuple[int, tuple[object, ...] | str]
"""An address family and what `socket.connect` takes for it; for a unix socket that is its path."""

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""(host, port), or (host, port, flowinfo, scope_id) of an IPv6 address, as sockets have them."""

SocketOption: TypeAlias = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)
"""The arguments of `socket.setsockopt`."""

PlainSocket: TypeAlias = socket.socket
"""The class of the library's own sockets: `socket.socket` as it was when this was imported.

A program may replace `socket.socket` later, for example by a `SocksSocket`, which needs plain ones.
"""

CONNECTION_ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried beside the one that has not answered (RFC 8305 §5)."""

MAX_TIMEOUT = 0x7FFFFFFF // 1000
"""Seconds. Milliseconds that do not fit into 31 bits are too many for the system: 24 days."""

_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
"""Addresses that can only be the source of a packet (RFC 1122 §3.2.1.3)."""

_RESERVED_BUT_USED = (
    # NAT64 writes IPv4 addresses in this form (RFC 6052 §2.1, RFC 8215).
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    # The overlay network Yggdrasil uses these addresses.
    ipaddress.ip_network("200::/7"),
)
"""Networks that `ipaddress` calls reserved, although hosts have such addresses."""


PEEK_SIZE = 16 * 1024
"""The most octets to look at in one call, before those that belong to a message are taken."""


def can_peek(channel: object) -> TypeGuard[socket.socket]:
    """Return whether a channel can show what has arrived without taking it (MSG_PEEK).

    Only a bare socket can. A socket with TLS has the method `do_handshake`.
    """
    return hasattr(channel, "recv") and not hasattr(channel, "do_handshake")


def has_ended(error: OSError) -> bool:
    """Return whether a failed write says that the proxy has closed the connection.

    With TLS, Python's ssl reports that by an SSLEOFError, which is no ConnectionError.
    """
    return isinstance(error, ConnectionError) or type(error).__name__ == "SSLEOFError"


def is_internet(family: int) -> bool:
    """Whether the family is one of IP, and not of unix sockets."""
    return family in (socket.AF_INET, socket.AF_INET6)


def at_path(path: str) -> Address:
    """The address of a unix socket.

    Raises:
        OSError: This system has no such thing.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no unix sockets for Python")
    return socket.AF_UNIX, path


def literal(host: str, port: int) -> Address | None:
    """The address, if `host` is one and no resolver is needed.

    One with a zone id is left to getaddrinfo, which knows the interfaces' numbers.
    """
    if "%" in host or not is_address(host):
        return None
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)


def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses that the resolver finds for `host`, however long that takes.

    This calls `socket.getaddrinfo` as `socket.create_connection` does: with arguments by position,
    and with a str if possible (`name_to_ask`). Replacements of it are made for such calls.

    Raises:
        OSError: The resolver has failed; `resolver_failures` says how.
    """
    with resolver_failures():
        found = socket.getaddrinfo(name_to_ask(host), port, 0, socket.SOCK_STREAM)
        return addresses_found(found)


def name_to_ask(host: str) -> str | bytes:
    """Return `host` as `socket.getaddrinfo` is asked for it: as a str, if possible.

    A program's replacement of `socket.getaddrinfo` may know names as str only. A table of names
    would not find octets, and the system's resolver would get the name.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        # Python encodes a str by IDNA 2003, which refuses empty and long labels. Octets go to the
        # system as they are.
        return host.encode("ascii")
    return host


@contextmanager
def resolver_failures() -> Iterator[None]:
    """Turn every failure of a resolver, or of a program's replacement of it, into an OSError.

    Raises:
        socket.gaierror: The resolver found no such name, or raised an exception that is no OSError;
            that exception is the cause.
        OSError: The resolver raised this error.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        text = f"the resolver failed with {type(error).__name__}: {error}"
        raise socket.gaierror(socket.EAI_FAIL, text) from error


def addresses_found(found: Iterable[tuple[Any, ...]]) -> list[Address]:
    """Return the addresses in what `socket.getaddrinfo`, or a replacement of it, has returned.

    Raises:
        socket.gaierror: There is no address.
        ValueError: An entry is no IP address with a port.
    """
    addresses = [
        _address(*sockaddr)
        for family, _, _, _, sockaddr in found
        # A Python without IPv6 returns (int, bytes) for an IPv6 address.
        if is_internet(family) and isinstance(sockaddr[0], str)
    ]
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "the resolver found no address")
    return addresses


def _address(host: str, port: int | str, _flow_info: int = 0, scope_id: int = 0) -> Address:
    if not is_address(host):
        raise ValueError(f"it answered {host!r}, which is no IP address")
    # `connect` would raise errors that are no OSError.
    number = parse_port(int(port), least=0)
    if ":" not in host:
        return socket.AF_INET, (host, number)
    return socket.AF_INET6, (host, number, 0, int(scope_id))


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """The addresses with their families taking turns, the first one's first (RFC 8305 §4)."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    turns = zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None]


def carried_by(proxy: Proxy, host: str, addresses: Iterable[Address]) -> list[str]:
    """The IP addresses of `host` that mean the same to `proxy` as they do here.

    SOCKS4 carries those of IPv4 only.

    Raises:
        ResolveError: There is none.
    """
    texts = [str(sockaddr[0]) for _, sockaddr in addresses if not any(sockaddr[3:])]
    carried = [text for text in texts if "%" not in text]
    if proxy.scheme == "socks4":
        carried = [text for text in carried if socks4_carries(text)]
    if not carried:
        raise ResolveError(f"{host} has no address that the proxy could reach: {', '.join(texts)}")
    return carried


class HasPeer(Protocol):
    """A socket, or what stands for one."""

    def getpeername(self) -> Any:
        """As of a socket."""


def reachable(
    control: HasPeer,
    bound_address: tuple[str, int],
    own_host: str | None = None,
    trust: bool = True,
) -> SocketAddress:
    """Return where a proxy listens or relays, as sockets have addresses.

    That is the bound address of the proxy's reply. If its host is unspecified or must not be
    trusted, the proxy's own host takes its place (RFC 1928 §6).

    Args:
        control: The connection to the nearest hop.
        bound_address: BND.ADDR and BND.PORT of the reply.
        own_host: The host at which the hop before knows the proxy; None for the nearest hop, whose
            host is the one that `control` is connected to.
        trust: Whether the host of the bound address counts.

    Raises:
        ProtocolError: The port is 0, the host is no valid name, or it is an address that no host
            can have: a multicast, broadcast or reserved one.
        ProxyClosed: The proxy has reset the connection already.
    """
    host, port = bound_address
    # simple-socks replies "succeeded" with port 0, and then hangs up.
    if port == 0:
        raise ProtocolError("the proxy granted the request, but its bound address has port 0")
    if trust and not is_unspecified(host):
        try:
            host = parse_host(host)
        except ValueError as error:
            raise ProtocolError(f"the bound address is not valid: {error}") from None
        if is_address(host) and not _is_of_a_host(host):
            text = f"the proxy granted the request, but no host can have its bound address, {host}"
            raise ProtocolError(text)
        return host, port
    if own_host is not None:
        return own_host, port
    peer = _peer_of(control)
    # A proxy at a unix socket is on this machine.
    if peer is None:
        return ("::1" if ":" in host else "127.0.0.1"), port
    proxy_host, _, *zone = peer
    return (proxy_host, port, *zone)


def _peer_of(control: HasPeer) -> tuple[Any, ...] | None:
    """Return the address at which this process reaches the nearest hop; None for a unix socket.

    Raises:
        ProxyClosed: The proxy has reset the connection already.
    """
    try:
        peer = control.getpeername()
    except OSError as error:
        raise ProxyClosed.broken(error, b"") from error
    if not isinstance(peer, tuple):
        return None
    host, port, *zone = peer
    # An IPv6 socket returns an IPv4-mapped address if the caller wrote the proxy's address so.
    plain = without_mapping(host)
    return (plain, port) if plain != host else (host, port, *zone)


def _is_of_a_host(host: str) -> bool:
    """Return whether one host can have the IP address: it is neither multicast nor reserved."""
    ip = ipaddress.ip_address(host)
    if ip.is_multicast or ip in _THIS_NETWORK:
        return False
    # `ipaddress` calls ::1 reserved.
    used = ip.is_loopback or any(ip in network for network in _RESERVED_BUT_USED)
    return used or not ip.is_reserved


def listening_at(
    control: HasPeer, bound_address: tuple[str, int], own_address: tuple[str, int] | None
) -> tuple[str, int]:
    """Return where a proxy listens for the peer after BIND.

    Args:
        control: The connection to the nearest hop.
        bound_address: BND.ADDR and BND.PORT of the first reply.
        own_address: The (host, port) at which the hop before knows the proxy; None for the nearest
            hop, whose address is the one that `control` is connected to.

    Raises:
        ProtocolError: `reachable` raises it, or no peer could come because the address is the one
            at which the proxy serves SOCKS (3proxy 0.9.6 to 1.0.0 replies so).
        ProxyClosed: The proxy has reset the connection already.
    """
    host, port, *_ = reachable(control, bound_address, own_address and own_address[0])
    own = _peer_of(control) if own_address is None else own_address
    if own is not None and port == own[1] and _plain(host) == _plain(own[0]):
        where = host_port(host, port)
        raise ProtocolError(
            f"the proxy granted BIND, but says that it listens for the peer at {where}, which is"
            " where it serves SOCKS: a peer that connects there does not come through (3proxy"
            " 0.9.6 to 1.0.0 does this)"
        )
    return host, port


def _plain(host: str) -> str:
    """Return `host` in the form to compare: without a zone id, and IPv4 if it stands for that."""
    return without_mapping(host.partition("%")[0])


def check_source(host: str | None, path: str | None = None) -> None:
    """That the host to connect from, if any, is an IP address, or empty for any of them.

    Raises:
        ValueError: It is a name, which `bind` would resolve, however long it takes; or the proxy
            is a unix socket at `path`, to which no address leads.
    """
    if host is not None and path is not None:
        raise ValueError(f"there is no host to connect from to the unix socket {path}")
    if host and not is_address(host):
        raise ValueError(f"the host to connect from must be an IP address, not {host!r}")


def make_socket(
    family: int, source_address: tuple[str, int] | None, socket_options: Iterable[SocketOption]
) -> socket.socket:
    """A TCP socket, or one of Unix, ready to connect."""
    sock = PlainSocket(family, socket.SOCK_STREAM)
    try:
        for option in socket_options:
            if option[0] == socket.IPPROTO_TCP and not is_internet(family):
                continue
            sock.setsockopt(*option)
        if source_address is not None:
            sock.bind(source_address)
    except BaseException:
        sock.close()
        raise
    return sock


def writable(sockets: Iterable[socket.socket], seconds: float | None) -> list[socket.socket]:
    """Waits until any of `sockets` is writable, at most so many `seconds`; returns which are."""
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_WRITE, sock)
        return [key.data for key, _ in selector.select(seconds)]


class Wait(NamedTuple):
    """A step of `race`: wait until any of `sockets` is writable, at most so many `seconds`."""

    sockets: Sequence[socket.socket]
    seconds: float | None


def race(
    addresses: list[Address],
    source_address: tuple[str, int] | None,
    socket_options: Iterable[SocketOption],
) -> Generator[Wait, Iterable[socket.socket], socket.socket]:
    """Connects to the first address that answers (RFC 8305 §5), as a generator without I/O waits.

    It is sent the sockets that have become writable. The next address is begun when one has
    failed, or has not answered in time. The one that wins goes to the front of `addresses`, so
    that the next race need not wait for dead ones again.

    Returns:
        A connected, non-blocking socket. Closing the generator closes all others.

    Raises:
        OSError: All have failed.
    """
    options = list(socket_options)
    ahead = list(addresses)
    waiting: dict[socket.socket, Address] = {}
    failures: list[tuple[Address, OSError]] = []
    try:
        while ahead or waiting:
            if ahead:
                family, sockaddr = address = ahead.pop(0)
                try:
                    waiting[_begin(family, sockaddr, source_address, options)] = address
                except OSError as error:
                    failures.append((address, error))
                    continue
            delay = CONNECTION_ATTEMPT_DELAY if ahead else None
            for sock in (yield Wait(list(waiting), delay)):
                address = waiting.pop(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    addresses.remove(address)
                    addresses.insert(0, address)
                    return sock
                sock.close()
                failures.append((address, OSError(code, os.strerror(code))))
        raise _all_failed(failures)
    finally:
        for sock in waiting:
            sock.close()


def _begin(
    family: int,
    sockaddr: tuple[object, ...] | str,
    source_address: tuple[str, int] | None,
    options: Iterable[SocketOption],
) -> socket.socket:
    sock = make_socket(family, source_address, options)
    try:
        sock.setblocking(False)
        sock.connect(sockaddr)
    except BaseException as error:
        # It is under way; but of a unix socket, this says that its queue is full.
        if not (isinstance(error, BlockingIOError) and is_internet(family)):
            sock.close()
            raise
    return sock


def _all_failed(failures: Sequence[tuple[Address, OSError]]) -> OSError:
    """One error that tells of each."""
    text = "; ".join(
        f"{where if isinstance(where, str) else where[0]}: {error.strerror or error}"
        for (_, where), error in failures
    )
    return OSError(failures[-1][1].errno, text)
