"""The protocols as generators that do no I/O, under the names that this module has always had.

`socksclient.protocol` is the place to import from: its `start` takes a URL and the name of a
command, and checks them.
"""

from __future__ import annotations

from collections.abc import Callable

from socksclient.protocol import socks5
from socksclient.protocol.address import Host, HostPort, is_onion
from socksclient.protocol.codes import Command, Phase
from socksclient.protocol.flow import Exchange, Flow
from socksclient.protocol.proxy import Method, Proxy
from socksclient.protocol.socks4 import reply as socks4_reply
from socksclient.protocol.socks5 import (
    NO_AUTHENTICATION,
    USERNAME_PASSWORD,
    negotiate_password,
    reply,
    select_method,
)

__all__ = [
    "NO_AUTHENTICATION",
    "USERNAME_PASSWORD",
    "Exchange",
    "Flow",
    "Method",
    "check_request",
    "handshake",
    "is_onion",
    "negotiate_password",
    "next_reply",
    "reply",
    "request",
    "select_method",
    "socks4_reply",
]


def check_request(proxy: Proxy, command: Command, host: str) -> None:
    """Check that a proxy's protocol can carry a request.

    Args:
        proxy: The proxy that would get the request.
        command: The command of the request.
        host: The host of the target: an IP address, or a name, which this process may have to
            resolve before it sends the request.

    Raises:
        ValueError: The proxy's protocol cannot carry the command or the host.
    """
    proxy.kind.check_request(proxy, command, Host.parse(host))


def handshake(
    proxy: Proxy, command: Command, host: str, port: int, enter: Callable[[Phase], None]
) -> Flow[HostPort]:
    """Talk to a proxy up to its reply, and return the bound address.

    Args:
        proxy: The proxy, with its credentials.
        command: The command of the request.
        host: The host of the target (DST.ADDR).
        port: The port of the target (DST.PORT).
        enter: A function that is called as each phase begins.

    Raises:
        ValueError: The proxy's protocol cannot carry the request. Nothing has been sent.
    """
    target = Host.parse(host)
    proxy.kind.check_request(proxy, command, target)
    return (yield from proxy.kind.handshake(proxy, command, target, port, enter))


def request(command: Command, host: str, port: int) -> Flow[HostPort]:
    """Send a request of SOCKS5, and return BND.ADDR and BND.PORT of its reply (RFC 1928 §4, §6)."""
    return socks5.request(command, Host.parse(host), port)


def next_reply(proxy: Proxy, command: Command) -> Flow[HostPort]:
    """Read a reply that answers no request of its own: the second reply to BIND.

    Raises:
        ValueError: The proxy's protocol has no such reply.
    """
    return proxy.kind.next_reply(command)
