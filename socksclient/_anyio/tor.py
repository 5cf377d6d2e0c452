"""Awaited: ask Tor for an address or a name, by the extensions that Tor has made to SOCKS.

Tor's socks-extensions.txt describes RESOLVE (F0) and RESOLVE_PTR (F1).
"""

from __future__ import annotations

from socksclient._anyio.driver import open_tunnel
from socksclient._anyio.streams import close
from socksclient.protocol.codes import Command
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = ["resolve", "resolve_ptr"]


async def resolve(name: str, *, proxy: ProxyLike) -> str:
    """Ask Tor for an IP address of `name` (RESOLVE, socks-extensions.txt).

    This process never resolves the name, whatever the scheme of the proxy. There is no timeout
    argument: use `anyio.fail_after`.

    Args:
        name: The name to resolve.
        proxy: Tor's URL, or a `Proxy`; or a chain with Tor as its last hop.

    Returns:
        An IPv4 or IPv6 address, as text.

    Raises:
        ValueError: The name or the proxy is not valid, or a hop cannot carry its request. Nothing
            has been sent.
        ReplyError: The name does not exist (REP 04), or the proxy is not Tor (mostly REP 07).
        SocksError: The other errors of `connect_tcp`.
    """
    return await _ask(Route.through(as_chain(proxy), name, 0, Command.RESOLVE))


async def resolve_ptr(address: str, *, proxy: ProxyLike) -> str:
    """Ask Tor for the name of an IP address (RESOLVE_PTR, socks-extensions.txt).

    There is no timeout argument: use `anyio.fail_after`.

    Args:
        address: An IPv4 or IPv6 address, as text.
        proxy: Tor's URL, or a `Proxy`; or a chain with Tor as its last hop. The scheme of the last
            hop is one of SOCKS5, because a reply of SOCKS4 has no field for a name.

    Returns:
        The name of the host that has the address.

    Raises:
        ValueError: The address is not an IP address, the proxy is not valid, or a hop cannot carry
            its request. Nothing has been sent.
        ReplyError: The address has no name (REP 04), or the proxy is not Tor (mostly REP 07).
        SocksError: The other errors of `connect_tcp`.
    """
    return await _ask(Route.through(as_chain(proxy), address, 0, Command.RESOLVE_PTR))


async def _ask(route: Route) -> str:
    channel, grant = await open_tunnel(route)
    # Tor puts its answer where other replies have the bound address, and relays nothing afterwards.
    await close(channel)
    host, _ = grant.bound_address
    return host
