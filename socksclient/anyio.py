"""Connect, listen and relay through a proxy in the manner of `anyio`, on asyncio and trio.

uvloop works too. No function here has a timeout argument: use `anyio.fail_after`.
"""

from socksclient._anyio.connect import connect_socket, connect_tcp
from socksclient._anyio.handshake import handshake
from socksclient._anyio.listener import Listener, bind
from socksclient._anyio.tor import resolve, resolve_ptr
from socksclient._anyio.udp import ConnectedUDPAssociation, UDPAssociation, udp_associate

__all__ = [
    "ConnectedUDPAssociation",
    "Listener",
    "UDPAssociation",
    "bind",
    "connect_socket",
    "connect_tcp",
    "handshake",
    "resolve",
    "resolve_ptr",
    "udp_associate",
]
