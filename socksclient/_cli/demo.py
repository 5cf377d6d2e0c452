"""``socksclient demo``: real SOCKS5 between real clients and servers, all on loopback."""

from __future__ import annotations

import http.server
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import socksclient
from socksclient.protocol.address import HostPort, host_port
from socksclient.protocol.codes import Command, Reply
from socksclient.testing.server import SocksServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from socksclient.testing.record import Connection

# Names in .test (RFC 6761) and addresses in 192.0.2.0/24 (RFC 5737) belong to nobody. The proxy has
# a route for each; without the proxy, nothing can reach them.
_ORIGIN = "origin.test"
_CLOSED = "closed.test"
_NAME_SERVER = ("192.0.2.53", 53)
_GREETING = b"hello from the origin, over HTTPS"


def demo() -> int:
    """Run the demo, and return its exit status: 0 if everything went through the SOCKS5 servers."""
    try:
        # The import takes long, and must not count as a part of the DNS query.
        import dns.query  # noqa: F401
        import trustme
    except ImportError:
        print("the demo needs its extra: pip install 'socksclient[demo]'", file=sys.stderr)
        return 1
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(_ORIGIN).configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    with _origin(context) as port, _name_server() as name_server, socket.socket() as closed:
        # The socket holds a port and does not listen, so that every connection to it is refused.
        closed.bind(("127.0.0.1", 0))
        routes = {
            (_ORIGIN, 443): ("127.0.0.1", port),
            (_CLOSED, 443): closed.getsockname(),
            _NAME_SERVER: name_server,
        }
        print(f"An HTTPS server listens at 127.0.0.1:{port}, with a certificate made just now,")
        print(f"and a name server at {name_server[0]}:{name_server[1]}, for UDP.")
        with SocksServer(routes=routes) as plain:
            print(f"A SOCKS5 server of socksclient.testing listens at {plain.address[0]}", end="")
            with SocksServer(routes=routes, accounts={"user": "pass"}) as locked:
                print(f":{plain.address[1]}, and one that\nwants a password at", end=" ")
                print(f"{locked.address[0]}:{locked.address[1]}.")
                print(f"Only these two know where {_ORIGIN} is: no DNS has that name.")
                _show_https(trust, plain, locked)
                _show("A DNS query over UDP", plain, lambda: _query_name_server(plain.url))
                _show(
                    "BIND: a peer connects to this program", plain, lambda: _accept_peer(plain.url)
                )
                seen = [*plain.requests, *locked.requests]
    return report(seen)


@contextmanager
def _origin(context: ssl.SSLContext) -> Iterator[int]:
    """Run an HTTPS server, and yield its port."""
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


@contextmanager
def _name_server() -> Iterator[HostPort]:
    """Run a name server that answers one query over UDP, and yield its address."""
    import dns.message
    import dns.rrset

    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer_once() -> None:
            query, client = server.recvfrom(65535)
            answer = dns.message.make_response(dns.message.from_wire(query))
            answer.answer.append(dns.rrset.from_text(_ORIGIN + ".", 60, "IN", "A", "192.0.2.80"))
            server.sendto(answer.to_wire(), client)

        threading.Thread(target=answer_once, daemon=True).start()
        yield server.getsockname()


class _Greeter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_GREETING)))
        self.end_headers()
        self.wfile.write(_GREETING)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: the inherited method prints every request to standard error."""


def _show_https(trust: ssl.SSLContext, plain: SocksServer, locked: SocksServer) -> None:
    import anyio
    import httpx

    from socksclient.httpx import AsyncSocksTransport, SocksTransport

    def blocking(url: str, host: str) -> str:
        with httpx.Client(transport=SocksTransport(url, verify=trust)) as client:
            try:
                return text_of(client.get(f"https://{host}/"))
            except httpx.ProxyError as error:
                return f"httpx.ProxyError: {error}\n  __cause__ is {error.__cause__!r}"

    async def awaited(url: str) -> str:
        async with httpx.AsyncClient(transport=AsyncSocksTransport(url, verify=trust)) as client:
            return text_of(await client.get(f"https://{_ORIGIN}/"))

    def text_of(response: httpx.Response) -> str:
        return f"HTTP {response.status_code}: {response.text}"

    _show("Blocking", plain, lambda: blocking(plain.url, _ORIGIN))
    _show("Async", plain, lambda: anyio.run(awaited, plain.url))
    _show("With a password", locked, lambda: blocking(locked.url, _ORIGIN))
    _show(
        f"Refused, as it should be: nobody listens at {_CLOSED}",
        plain,
        lambda: blocking(plain.url, _CLOSED),
    )


def _query_name_server(url: str) -> str:
    import dns.message
    import dns.query

    query = dns.message.make_query(_ORIGIN, "A")
    with socksclient.udp_associate(5, proxy=url) as udp:
        answer = dns.query.udp(query, _NAME_SERVER[0], sock=udp)
        host, port = udp.relay_address
        return f"the datagram went to the relay, {host}:{port}; the answer is {answer.answer[0]}"


def _accept_peer(url: str) -> str:
    with (
        socksclient.bind(("127.0.0.1", 0), 5, proxy=url) as listener,
        socket.create_connection(listener.address) as peer,
    ):
        peer.sendall(b"hello from the peer")
        sock, (host, port) = listener.accept()
        with sock:
            return f"the peer at {host}:{port} sent: {sock.recv(100).decode()}"


def _show(title: str, server: SocksServer, action: Callable[[], str]) -> None:
    """Run `action`, and print its time, every message of its handshake, and its outcome."""
    begin = time.perf_counter()
    outcome = action()
    milliseconds = (time.perf_counter() - begin) * 1000
    print(f"\n{title} ({milliseconds:.1f} ms)")
    connection = server.requests[-1]
    host, port = connection.destination or ("", 0)
    messages = [
        "methods offered",
        "method selected",
        f"request: {_command(connection)} {host}:{port}",
        f"reply: {Reply(connection.reply or 0).meaning}",
    ]
    if connection.peer is not None:
        messages[-1] += ", and a second reply when the peer has connected"
    if connection.username is not None:
        messages[2:2] = ["username and password", "status: accepted"]
    for message, (sender, octets) in zip(messages, connection.transcript, strict=True):
        print(f"  {sender}  {octets.hex(' ')}  ({message})")
    print(f"  {outcome}")


def report(seen: list[Connection]) -> int:
    """Print the servers' record, and return 0 if it has the requests that the demo should make."""
    print("\nWhat the SOCKS5 servers have seen, in their own record:")
    for connection in seen:
        host, port = connection.destination or ("", 0)
        user = f", user {connection.username!r}" if connection.username else ""
        request = f"{_command(connection)} {host}:{port}, ATYP {connection.address_type:02X}{user}"
        print(f"  {request} -> REP {connection.reply:02X}")
        for destination, payload in connection.datagrams:
            print(f"    a datagram of {len(payload)} octets for {host_port(*destination)}")
    expected = [
        (Command.CONNECT, _ORIGIN, 0x00),
        (Command.CONNECT, _ORIGIN, 0x00),
        (Command.CONNECT, _CLOSED, 0x05),
        (Command.UDP_ASSOCIATE, "0.0.0.0", 0x00),
        (Command.BIND, "127.0.0.1", 0x00),
        (Command.CONNECT, _ORIGIN, 0x00),
    ]
    if [(one.command, (one.destination or ("", 0))[0], one.reply) for one in seen] != expected:
        print("The servers have not seen the requests that this demo should make.")
        return 1
    print("Everything went through these servers. ATYP 03 is a name: the client never resolved it.")
    print(
        "\nThe same in your program:\n"
        "  import httpx, socksclient\n"
        '  transport = socksclient.SocksTransport("socks5h://127.0.0.1:1080")\n'
        '  print(httpx.Client(transport=transport).get("https://example.com/").text)'
    )
    return 0


def _command(connection: Connection) -> str:
    return Command(connection.command or 0).text
