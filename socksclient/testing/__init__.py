"""A SOCKS server on loopback for tests and demos, never for production: it protects nothing.

It does CONNECT, BIND and UDP ASSOCIATE of SOCKS5, CONNECT and BIND of SOCKS4 and 4A, CONNECT of
HTTP, and Tor's RESOLVE and RESOLVE_PTR: it looks at the first octet to know what is spoken.

    with SocksServer(accounts={"user": "pass"}) as server:
        sock = socksclient.create_connection(("127.0.0.1", port), proxy=server.url)
        assert server.requests[0].destination == ("127.0.0.1", port)

With `routes`, names that exist nowhere lead to servers of the test; with `Faults`, it misbehaves
as proxies do in the field. With pytest, the fixture `socks_proxy` is such a server.
"""

from socksclient.testing.faults import Faults
from socksclient.testing.record import Connection
from socksclient.testing.server import SocksServer

__all__ = ["Connection", "Faults", "SocksServer"]
