"""Ask the system's resolver, or a program's replacement of it, for the addresses of a name."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from socksclient._net.sockets import is_internet
from socksclient.protocol.address import SocketAddress, is_address, parse_port

__all__ = ["addresses_found", "look_up", "name_to_ask", "resolver_failures"]


def look_up(host: str, port: int) -> list[SocketAddress]:
    """Return the addresses that the resolver finds for a name, however long that takes.

    This function calls `socket.getaddrinfo` as `socket.create_connection` does: with arguments by
    position, and with a str if possible (`name_to_ask`). Programs that replace
    `socket.getaddrinfo` expect such calls.

    Raises:
        OSError: The resolver has failed; `resolver_failures` says how.
    """
    with resolver_failures():
        found = socket.getaddrinfo(name_to_ask(host), port, 0, socket.SOCK_STREAM)
        return addresses_found(found)


def name_to_ask(host: str) -> str | bytes:
    """Return a name in the form to pass to `socket.getaddrinfo`: as a str, if possible.

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


def addresses_found(found: Iterable[tuple[Any, ...]]) -> list[SocketAddress]:
    """Return the addresses in what `socket.getaddrinfo`, or a replacement of it, has returned.

    Raises:
        socket.gaierror: There is no address.
        ValueError: An entry is not an IP address with a port.
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


def _address(host: str, port: int | str, _flow_info: int = 0, scope_id: int = 0) -> SocketAddress:
    if not is_address(host):
        raise ValueError(f"it answered {host!r}, which is not an IP address")
    # For a port that is no number, or out of range, `connect` would raise a TypeError or an
    # OverflowError, which no caller of `connect` expects.
    number = parse_port(int(port), least=0)
    return (host, number, 0, int(scope_id)) if ":" in host else (host, number)
