"""Sockets: what both runtimes decide about them, and the race for the nearest proxy.

Nothing here waits. `race` says what to wait for, and a driver waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeGuard

from socksclient.protocol.address import HostPort, is_address
from socksclient.protocol.proxy import Proxy, ProxyLike, as_chain
from socksclient.protocol.steps import ServerAddress

SocketOption: TypeAlias = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)
"""The arguments of `socket.setsockopt`."""

NO_DELAY: SocketOption = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""The option by which a TCP socket sends small amounts of data at once."""

PlainSocket: TypeAlias = socket.socket
"""The class of the library's own sockets: `socket.socket` at the time of this import.

A program may replace `socket.socket` later, for example by a `SocksSocket`, which needs plain ones.
"""

CONNECTION_ATTEMPT_DELAY = 0.25
"""Seconds from one attempt to connect to the next, if the first has not ended (RFC 8305 §5)."""

PEEK_SIZE = 16 * 1024
"""The most octets that one call looks at, before it takes those that belong to a message."""


def can_peek(channel: object) -> TypeGuard[socket.socket]:
    """Return whether a connection can show what has arrived without taking it (MSG_PEEK).

    Only a bare socket can do so. A socket with TLS has the method `do_handshake`; to look at its
    class would load ssl.
    """
    return isinstance(channel, PlainSocket) and not hasattr(channel, "do_handshake")


def has_ended(error: OSError) -> bool:
    """Return whether the error of a write says that the proxy has closed the connection.

    With TLS, Python's ssl raises an SSLEOFError then, which is no ConnectionError. This function
    looks at the name of the class, because to import the class would load ssl.
    """
    return isinstance(error, ConnectionError) or type(error).__name__ == "SSLEOFError"


def is_internet(family: int) -> bool:
    """Return whether a family is one of IP, and not that of unix sockets."""
    return family in (socket.AF_INET, socket.AF_INET6)


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def send_at_once(sock: socket.socket) -> None:
    """Set `NO_DELAY` on a TCP socket. A unix socket has no such option, and needs none."""
    if is_internet(sock.family):
        sock.setsockopt(*NO_DELAY)


def refuse_tls(chain: Iterable[Proxy], what: str, instead: str, *, allowed: int = 0) -> None:
    """Refuse a chain in which more hops speak TLS than `what` can serve.

    Args:
        chain: The proxies.
        what: What cannot go through the chain, for the text of the error.
        instead: What the caller can use instead, for the text of the error.
        allowed: How many hops may speak TLS: 0, or 1.

    Raises:
        ValueError: More hops than that speak TLS.
    """
    if sum(proxy.tls is not None for proxy in chain) > allowed:
        hops = "more than one proxy" if allowed else "a proxy"
        raise ValueError(f"{what} cannot go through {hops} with TLS; use {instead}")


def the_one_proxy(proxy: ProxyLike) -> Proxy:
    """Return the one proxy to which the caller has a connection already.

    Raises:
        ValueError: The proxy is a chain of several, or its URL asks for TLS, which the caller's
            connection has already or has not.
    """
    chain = as_chain(proxy)
    if len(chain) > 1:
        raise ValueError("handshake takes one proxy, not a chain; call it for each hop in turn")
    if chain[0].tls:
        raise ValueError(
            "start TLS with the proxy on the connection first, and then give the URL without TLS"
        )
    return chain[0]


def address_pair(address: HostPort) -> HostPort:
    """Return the host and the port of an address that a caller has passed.

    Raises:
        TypeError: The address is not a (host, port) pair.
    """
    if not isinstance(address, tuple | list) or len(address) != 2:
        raise TypeError(f"address must be a (host, port) pair, not {address!r}")
    host, port = address
    return host, port


def check_source(host: str | None, path: str | None = None) -> None:
    """Refuse a host to connect from that is not an IP address.

    Args:
        host: The host to connect from. An empty one, or None, lets the system choose.
        path: The path of the unix socket at which the proxy listens, if it does.

    Raises:
        ValueError: The host is a name, which `socket.bind` would resolve, however long that takes;
            or there is a `path`, and no IP address leads to a unix socket.
    """
    if host is not None and path is not None:
        raise ValueError(
            f"no IP address leads to the unix socket {path}; leave out the host to connect from"
        )
    if host and not is_address(host):
        raise ValueError(f"the host to connect from must be an IP address, not {host!r}")


def make_socket(
    address: ServerAddress,
    source_address: HostPort | None,
    socket_options: Iterable[SocketOption],
) -> socket.socket:
    """Return a TCP socket, or a unix socket, that is ready to connect to an address.

    Raises:
        OSError: The system cannot make the socket, set an option or bind the socket.
    """
    if isinstance(address, str) and not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "Python has no unix sockets on this system")
    family = socket.AF_UNIX if isinstance(address, str) else family_of(address[0])
    sock = PlainSocket(family, socket.SOCK_STREAM)
    try:
        for option in socket_options:
            # A unix socket has no options of TCP. A caller sets `NO_DELAY` for every proxy.
            if option[0] == socket.IPPROTO_TCP and not is_internet(family):
                continue
            sock.setsockopt(*option)
        if source_address is not None:
            sock.bind(source_address)
    except BaseException:
        sock.close()
        raise
    return sock


# Happy eyeballs: how the nearest proxy is reached when its name has several addresses.
#
# A host whose IPv6 is broken drops the packets to an IPv6 address, and a connect to that address
# fails only after two minutes. RFC 8305 describes how a client avoids that wait: it begins to
# connect to one address after the other, and does not wait for one attempt to fail before it begins
# the next. The first connection that is made wins, and the others are closed. What is done here:
#
# - The addresses are tried in the order of the system's resolver (RFC 6724), but with the families
#   taking turns, beginning with the family that the resolver put first (RFC 8305 §4). `interleave`
#   in `socksclient.protocol.tunnel` does this. "First Address Family Count" is 1.
# - The next attempt begins when an attempt fails, or after a fixed delay of 250 ms, which is the
#   delay that the RFC recommends (§5, §8). No delay is shortened by measured round-trip times.
# - If the driver needs another connection to the same proxy, for the next address of a destination,
#   the address that has won comes first, so that the delay is not spent again.
#
# What is not done:
#
# - The RFC sends two queries, for A and for AAAA, and a client may begin with the answer that comes
#   first (§3). `socket.getaddrinfo` returns both answers at once, so a slow answer for one family
#   delays both. socksclient sends no queries of its own, because /etc/hosts and a program's
#   replacement of `socket.getaddrinfo` must count.
# - No address joins the race after its begin (§6), for the same reason.
# - socksclient remembers no winner from one call to the next, because it has no global state.
# - The system does NAT64 and DNS64 (§7), or nobody does.
# - The race ends with the TCP connection, and TLS and SOCKS begin on the connection that has won.
#   So if a proxy accepts the connection and then sends nothing, its next address gets no try.
# - The addresses of a destination never race. Each of them would need a connection of its own
#   through all hops, and the proxies would connect to all of them. `tunnel` tries one after the
#   other.


class Wait(NamedTuple):
    """A step of `race`: wait until any of `sockets` is writable, for at most `seconds`.

    Attributes:
        sockets: The sockets whose attempts to connect have not ended.
        seconds: The seconds until the next attempt begins; None if no address is left to try.
    """

    sockets: Sequence[socket.socket]
    seconds: float | None


def race(
    addresses: Iterable[ServerAddress],
    source_address: HostPort | None,
    socket_options: Iterable[SocketOption],
) -> Generator[Wait, Iterable[socket.socket], tuple[socket.socket, ServerAddress]]:
    """Connect to the first address that answers (RFC 8305 §5), as a generator that never waits.

    A driver waits as each `Wait` says, and sends the sockets that have become writable into the
    generator. The generator begins with the next address when an attempt has failed, or when none
    has succeeded within `CONNECTION_ATTEMPT_DELAY`. Closing the generator closes all sockets.

    Args:
        addresses: The addresses, in the order to try them.
        source_address: The (IP address, port) to connect from; None lets the system choose.
        socket_options: The options for each socket.

    Returns:
        A connected, non-blocking socket, and the address to which it is connected.

    Raises:
        OSError: The attempts at all addresses have failed.
    """
    options = list(socket_options)
    ahead = list(addresses)
    waiting: dict[socket.socket, ServerAddress] = {}
    failures: list[tuple[ServerAddress, OSError]] = []
    try:
        while ahead or waiting:
            if ahead:
                address = ahead.pop(0)
                try:
                    waiting[_begin(address, source_address, options)] = address
                except OSError as error:
                    failures.append((address, error))
                    continue
            delay = CONNECTION_ATTEMPT_DELAY if ahead else None
            for sock in (yield Wait(list(waiting), delay)):
                # A socket becomes writable when its attempt ends, well or badly. SO_ERROR tells.
                address = waiting.pop(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return sock, address
                sock.close()
                failures.append((address, OSError(code, os.strerror(code))))
        raise _all_failed(failures)
    finally:
        for sock in waiting:
            sock.close()


def _begin(
    address: ServerAddress,
    source_address: HostPort | None,
    options: Iterable[SocketOption],
) -> socket.socket:
    """Return a non-blocking socket that has begun to connect."""
    sock = make_socket(address, source_address, options)
    try:
        sock.setblocking(False)
        sock.connect(address)
    except BaseException as error:
        # A BlockingIOError says that the connection is under way. For a unix socket, it says that
        # the queue of the proxy is full.
        if isinstance(address, str) or not isinstance(error, BlockingIOError):
            sock.close()
            raise
    return sock


def _all_failed(failures: Sequence[tuple[ServerAddress, OSError]]) -> OSError:
    """Return one error that tells of each failure, with the errno of the last one."""
    text = "; ".join(
        f"{address if isinstance(address, str) else address[0]}: {error.strerror or error}"
        for address, error in failures
    )
    return OSError(failures[-1][1].errno, text)
