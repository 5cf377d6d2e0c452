"""Choosing addresses and connecting to the first that answers: what both drivers share."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard

from socksclient.exceptions import ProtocolError, ProxyClosed, ResolveError
from socksclient.wire import is_address, is_unspecified, parse_host, socks4_carries

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from socksclient.proxy import Proxy

Address: TypeAlias = tuple[int, tuple[object, ...] | str]
"""An address family and what `socket.connect` takes for it; for a unix socket that is its path."""

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""(host, port), or (host, port, flowinfo, scope_id) of an IPv6 address, as sockets have them."""

SocketOption: TypeAlias = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)
"""The arguments of `socket.setsockopt`."""

CONNECTION_ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried beside the one that has not answered (RFC 8305 §5)."""


MAX_TIMEOUT = 0x7FFFFFFF // 1000
"""Seconds. Milliseconds that do not fit into 31 bits are too many for the system: 24 days."""


PEEK_SIZE = 16 * 1024
"""Octets to look at in one call, before those are taken that belong to a message."""


def can_peek(channel: object) -> TypeGuard[socket.socket]:
    """Return whether a channel can show what has arrived without taking it (MSG_PEEK).

    Only a bare socket can. A socket with TLS has a handshake to do.
    """
    return hasattr(channel, "recv") and not hasattr(channel, "do_handshake")


def has_ended(error: OSError) -> bool:
    """Return whether a failed write says that the peer has closed the connection.

    With TLS, Python's ssl says so by an SSLEOFError, which is no ConnectionError.
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
    """Where the proxy, connected to by `control`, listens or relays; as sockets have addresses.

    That is the bound address of its reply, unless its host is unspecified or not to be trusted:
    then it is the proxy's own (RFC 1928 §6): `own_host` or, if that is None, as `control` reaches
    it.

    Raises:
        ProtocolError: There is no such address.
        ProxyClosed: The proxy has reset the connection already.
    """
    host, port = bound_address
    if port == 0:  # such is the "success" of simple-socks, which then hangs up
        raise ProtocolError("the proxy granted the request, but its bound address has port 0")
    if trust and not is_unspecified(host):
        try:
            return parse_host(host), port
        except ValueError as error:
            raise ProtocolError(f"the bound address is none: {error}") from None
    if own_host is not None:
        return own_host, port
    try:
        peer = control.getpeername()
    except OSError as error:
        raise ProxyClosed.broken(error, b"") from error
    if not isinstance(peer, tuple):  # of a unix socket: the proxy is on this machine
        return ("::1" if ":" in host else "127.0.0.1"), port
    proxy_host, _, *zone = peer
    return (proxy_host, port, *zone)


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
    sock = socket.socket(family, socket.SOCK_STREAM)
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
