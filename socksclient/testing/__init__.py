"""A proxy on loopback for tests and demos. Never use it in production: it protects nothing.

The server serves CONNECT, BIND and UDP ASSOCIATE of SOCKS5, CONNECT and BIND of SOCKS4 and 4A,
CONNECT of HTTP, and Tor's RESOLVE and RESOLVE_PTR. The client's first octet tells the server which
of these protocols the client speaks.

    with SocksServer(accounts={"user": "pass"}) as server:
        sock = socksclient.create_connection(("127.0.0.1", port), proxy=server.url)
        assert server.requests[0].destination == ("127.0.0.1", port)

With `routes`, names that exist nowhere lead to servers of the test. With `Faults`, the server
misbehaves as real proxies do. In pytest, the fixture `socks_proxy` is a running server.
"""

from socksclient.testing.faults import Faults
from socksclient.testing.record import Connection
from socksclient.testing.server import SocksServer

__all__ = ["Connection", "Faults", "SocksServer"]
