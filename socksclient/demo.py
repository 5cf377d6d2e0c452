"""``socksclient demo``: everything on loopback, and nothing pretended."""

from __future__ import annotations

import http.server
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from socksclient.exceptions import Reply
from socksclient.testing import SocksServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from socksclient.testing import Connection

_ORIGIN = "origin.test"  # a name that exists nowhere (RFC 6761): only the proxy knows where it is
_CLOSED = "closed.test"
_GREETING = b"hello from the origin, over HTTPS"


def demo() -> int:
    """Runs the demo; 0 if all went as it should."""
    try:
        import trustme
    except ImportError:
        print("the demo needs trustme: pip install 'socksclient[demo]'", file=sys.stderr)
        return 1
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(_ORIGIN).configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    with _origin(context) as port, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        routes = {(_ORIGIN, 443): ("127.0.0.1", port), (_CLOSED, 443): closed.getsockname()}
        print(f"An HTTPS server listens at 127.0.0.1:{port}, with a certificate made just now.")
        with SocksServer(routes=routes) as plain:
            print(f"A SOCKS5 server of socksclient.testing listens at {plain.address[0]}", end="")
            with SocksServer(routes=routes, accounts={"user": "pass"}) as locked:
                print(f":{plain.address[1]}, and one that\nwants a password at", end=" ")
                print(f"{locked.address[0]}:{locked.address[1]}.")
                print(f"They alone know where {_ORIGIN} is: no DNS has that name.")
                _requests(trust, plain, locked)
                seen = [*plain.requests, *locked.requests]
    return _proof(seen)


@contextmanager
def _origin(context: ssl.SSLContext) -> Iterator[int]:
    """The HTTPS server; yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Greeter)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_GREETING)))
        self.end_headers()
        self.wfile.write(_GREETING)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        """Says nothing."""


def _requests(trust: ssl.SSLContext, plain: SocksServer, locked: SocksServer) -> None:
    import anyio
    import httpx

    from socksclient.httpx import AsyncSocksTransport, SocksTransport

    def blocking(url: str, host: str) -> httpx.Response:
        with httpx.Client(transport=SocksTransport(url, verify=trust)) as client:
            return client.get(f"https://{host}/")

    async def awaited(url: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=AsyncSocksTransport(url, verify=trust)) as client:
            return await client.get(f"https://{_ORIGIN}/")

    _step("Blocking", plain, lambda: blocking(plain.url, _ORIGIN))
    _step("Async", plain, lambda: anyio.run(awaited, plain.url))
    _step("With a password", locked, lambda: blocking(locked.url, _ORIGIN))
    _step(
        f"Refused, as it should be: nobody listens at {_CLOSED}",
        plain,
        lambda: blocking(plain.url, _CLOSED),
    )


def _step(title: str, server: SocksServer, request: Callable[[], httpx.Response]) -> None:
    import httpx

    begin = time.perf_counter()
    try:
        response = request()
        outcome = f"HTTP {response.status_code}: {response.text}"
    except httpx.ProxyError as error:
        outcome = f"httpx.ProxyError: {error}\n  __cause__ is {error.__cause__!r}"
    milliseconds = (time.perf_counter() - begin) * 1000
    print(f"\n{title} ({milliseconds:.1f} ms for all of it)")
    connection = server.requests[-1]
    host, port = connection.destination or ("", 0)
    messages = [
        "methods offered",
        "method selected",
        f"request: CONNECT {host}:{port}",
        f"reply: {Reply(connection.reply or 0).meaning}",
    ]
    if connection.username is not None:
        messages[2:2] = ["username and password", "status: accepted"]
    for message, (who, octets) in zip(messages, connection.transcript, strict=True):
        print(f"  {who}  {octets.hex(' ')}  ({message})")
    print(f"  {outcome}")


def _proof(seen: list[Connection]) -> int:
    print("\nWhat the SOCKS5 servers have seen, in their own record:")
    for connection in seen:
        host, port = connection.destination or ("", 0)
        user = f", user {connection.username!r}" if connection.username else ""
        print(f"  CONNECT {host}:{port}, ATYP {connection.address_type:02X}{user}", end="")
        print(f" -> REP {connection.reply:02X}")
    expected = [(_ORIGIN, 0x00), (_ORIGIN, 0x00), (_CLOSED, 0x05), (_ORIGIN, 0x00)]
    if [((one.destination or ("", 0))[0], one.reply) for one in seen] != expected:
        print("That is not what should have come to them.")
        return 1
    print("All of it went through them. ATYP 03 is a name: it was never resolved here.")
    print(
        "\nThe same in your program:\n"
        "  import httpx, socksclient\n"
        '  transport = socksclient.SocksTransport("socks5h://127.0.0.1:1080")\n'
        '  print(httpx.Client(transport=transport).get("https://example.com/").text)'
    )
    return 0
