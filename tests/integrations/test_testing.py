"""`socksclient.testing`, as the tests of its users see it.

That it answers right is also shown by a client that is not ours: raw octets on a socket.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import select
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from socksclient import AuthenticationError, Proxy, create_connection
from socksclient.testing import Faults, SocksServer

from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    SHORT,
    Address,
    assert_echoes,
    echo,
    eventually,
    nothing_left_open,
    receive_exactly,
    reset,
    serving,
)

pytest_plugins = ["pytester"]


def talk(server: SocksServer, *messages: tuple[str, str]) -> None:
    """Says the first of each pair, in hex, and wants to hear the second; then the end."""
    with socket.create_connection(server.address, LONG) as sock:
        for said, wanted in messages:
            sock.sendall(bytes.fromhex(said))
            assert receive_exactly(sock, len(bytes.fromhex(wanted))).hex(" ") == wanted
        assert sock.recv(1) == b""


NOWHERE = "01 00 00 00 00 00 00"


class TestAnswers:
    def test_no_common_method(self) -> None:
        with SocksServer() as server:
            talk(server, ("05 01 02", "05 ff"))
            talk(server, ("05 00", "05 ff"))
        with SocksServer(accounts={"user": "pass"}) as server:
            talk(server, ("05 02 00 01", "05 ff"))

    def test_credentials(self) -> None:
        with SocksServer(accounts={"user": "pass"}) as server:
            talk(server, ("05 01 02", "05 02"), ("01 01 75 01 70", "01 01"))
            [connection] = server.connections
            assert (connection.username, connection.password) == ("u", "p")
            assert server.requests == []

    def test_text_that_is_no_utf8(self) -> None:
        with SocksServer(accounts={"user": "pass"}) as server:
            talk(server, ("05 01 02", "05 02"), ("01 01 ff 01 fe", "01 01"))
            assert server.connections[0].username == "\\xff"

    @pytest.mark.parametrize("said", ["00", "06 01 00", "16 03 01"])
    def test_what_it_does_not_speak_is_hung_up_on(self, said: str) -> None:
        with SocksServer() as server:
            talk(server, (said, ""))
            assert server.connections[0].protocol is None

    @pytest.mark.parametrize("command", ["00", "09", "f2"])
    def test_commands_that_it_does_not_have(self, command: str) -> None:
        with SocksServer() as server:
            request = f"05 {command} 00 01 7f 00 00 01 00 50"
            talk(server, ("05 01 00", "05 00"), (request, f"05 07 00 {NOWHERE}"))
            assert server.requests[0].command == int(command, 16)

    def test_what_is_said_on_the_connection_of_an_association_is_read_and_no_more(self) -> None:
        with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
            sock.sendall(bytes.fromhex("05 01 00" + "05 03 00 01 00 00 00 00 00 00"))
            reply = receive_exactly(sock, 2 + 10)
            sock.sendall(b"said")
            with socket.socket(type=socket.SOCK_DGRAM) as udp:
                udp.connect(("127.0.0.1", int.from_bytes(reply[-2:], "big")))
                udp.send(bytes.fromhex("00 00 00 01 7f 00 00 01 00 09") + b"data")
                received = server.connections[0].datagrams
                assert eventually(lambda: received == [(("127.0.0.1", 9), b"data")])
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""

    def test_a_destination_that_refuses(self) -> None:
        port = REFUSED_PORT.to_bytes(2, "big").hex()
        with SocksServer() as server:
            request = f"05 01 00 01 7f 00 00 01 {port}"
            talk(server, ("05 01 00", "05 00"), (request, f"05 05 00 {NOWHERE}"))

    @pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b"])
    def test_a_name_that_nobody_knows(self, name: str) -> None:
        with SocksServer() as server:
            request = f"05 01 00 03 {len(name):02x} {name.encode().hex()} 00 50"
            talk(server, ("05 01 00", "05 00"), (request, f"05 04 00 {NOWHERE}"))
            assert server.requests[0].destination == (name, 80)

    @pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
    def test_half_close_is_passed_on_both_ways(self, echo_server: Address, scheme: str) -> None:
        with SocksServer() as server:
            with create_connection(echo_server, proxy=server.url_as(scheme)) as sock:
                assert_echoes(sock)


def http(*lines: str) -> str:
    """Return the head of a message, in hex."""
    return "\r\n".join([*lines, "", ""]).encode().hex(" ")


class TestSOCKS4:
    def test_a_destination_that_refuses(self) -> None:
        port = REFUSED_PORT.to_bytes(2, "big").hex()
        with SocksServer() as server:
            talk(server, (f"04 01 {port} 7f 00 00 01 6d 65 00", "00 5b 00 00 00 00 00 00"))
            [seen] = server.requests
            assert (seen.protocol, seen.username, seen.reply) == ("SOCKS4", "me", 0x5B)
            assert seen.address_type is None
            assert seen.methods is None

    @pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b", ""])
    def test_a_name_that_nobody_knows(self, name: str) -> None:
        with SocksServer() as server:
            request = f"04 01 00 50 00 00 00 01 00 {name.encode().hex()} 00"
            talk(server, (request, "00 5b 00 00 00 00 00 00"))
            assert server.requests[0].destination == (name, 80)

    def test_octet_by_octet(self, echo_server: Address) -> None:
        with SocksServer(routes={("name.test", 80): echo_server}) as server:
            with socket.create_connection(server.address, LONG) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for octet in b"\x04\x01\x00\x50\x00\x00\x00\xffme\x00name.test\x00token":
                    sock.send(bytes([octet]))
                assert receive_exactly(sock, 2) == b"\x00\x5a"
                assert receive_exactly(sock, 6 + 5)[-5:] == b"token"

    @pytest.mark.parametrize("user", ["", "6d", "6d 65 65", "ff"])
    def test_a_user_id_that_is_no_account(self, user: str) -> None:
        with SocksServer(accounts={"me": "pass"}) as server:
            talk(server, (f"04 01 00 50 7f 00 00 01 {user} 00", "00 5d 00 00 00 00 00 00"))

    @pytest.mark.parametrize("command", ["00", "09", "f2"])
    def test_commands_that_it_does_not_have(self, command: str) -> None:
        with SocksServer() as server:
            talk(server, (f"04 {command} 00 50 7f 00 00 01 00", "00 5b 00 00 00 00 00 00"))

    def test_udp_associate_is_not_of_socks4(self) -> None:
        with SocksServer() as server:
            talk(server, ("04 03 00 00 00 00 00 00 00", "00 5b 00 00 00 00 00 00"))

    def test_bind_for_a_name_that_nobody_knows(self) -> None:
        with SocksServer() as server:
            name = b"name.invalid".hex()
            talk(server, (f"04 02 00 50 00 00 00 01 00 {name} 00", "00 5b 00 00 00 00 00 00"))
            request = f"05 02 00 03 0c {name} 00 50"
            talk(server, ("05 01 00", "05 00"), (request, f"05 04 00 {NOWHERE}"))

    def test_both_replies_to_bind(self) -> None:
        with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
            sock.sendall(bytes.fromhex("04 02 00 00 7f 00 00 01 00"))
            first = receive_exactly(sock, 8)
            assert first[:2] + first[4:] == bytes.fromhex("00 5a 7f 00 00 01")
            address = ("127.0.0.1", int.from_bytes(first[2:4], "big"))
            with socket.create_connection(address, LONG) as peer:
                port = peer.getsockname()[1].to_bytes(2, "big")
                assert receive_exactly(sock, 8) == b"\x00\x5a" + port + b"\x7f\x00\x00\x01"
                peer.sendall(b"token")
                assert receive_exactly(sock, 5) == b"token"
            assert server.requests[0].second_reply == 0x5A
            assert server.requests[0].peer == ("127.0.0.1", int.from_bytes(port, "big"))

    def test_bind_for_another(self) -> None:
        with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
            sock.sendall(bytes.fromhex("04 02 00 00 7f 00 00 02 00"))
            port = int.from_bytes(receive_exactly(sock, 8)[2:4], "big")
            with socket.create_connection(("127.0.0.1", port), LONG) as peer:
                assert receive_exactly(sock, 8)[:2] == b"\x00\x5b"
                assert peer.recv(1) == sock.recv(1) == b""

    def test_bind_for_a_name_whose_first_address_is_of_ipv6(
        self, names: dict[str, list[str]]
    ) -> None:
        names.update({"peer.test": ["::1", "127.0.0.1"], "127.0.0.1": ["127.0.0.1"]})
        with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
            sock.sendall(bytes.fromhex("04 02 00 00 00 00 00 01 00") + b"peer.test\0")
            reply = receive_exactly(sock, 8)
            with socket.socket() as peer:
                host = socket.inet_ntoa(reply[4:]).replace("0.0.0.0", "127.0.0.1")
                peer.connect((host, int.from_bytes(reply[2:4], "big")))
                assert receive_exactly(sock, 2) == b"\x00\x5a"


class TestHTTP:
    @pytest.mark.parametrize("line", ["GET http://h/ HTTP/1.1", "COPY / HTTP/1.0"])
    def test_other_methods_are_refused(self, line: str) -> None:
        with SocksServer() as server:
            refused = http("HTTP/1.1 405 Method Not Allowed", "Via: SocksServer")
            talk(server, (http(line), refused))

    REFUSED = http("HTTP/1.1 502 Bad Gateway", "Via: SocksServer")
    UNAUTHORIZED = http(
        "HTTP/1.1 407 Proxy Authentication Required",
        "Via: SocksServer",
        'Proxy-Authenticate: Basic realm="SocksServer"',
    )

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
    def test_a_destination_that_refuses(self, host: str) -> None:
        target = f"{host}:{REFUSED_PORT}"
        with SocksServer() as server:
            talk(server, (http(f"CONNECT {target} HTTP/1.1", f"Host: {target}"), self.REFUSED))
            [seen] = server.requests
            assert seen.destination == (host.strip("[]"), int(target.rpartition(":")[2]))
            assert (seen.protocol, seen.username, seen.reply) == ("HTTP", None, 502)

    @pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b"])
    def test_a_name_that_nobody_knows(self, name: str) -> None:
        with SocksServer() as server:
            talk(server, (http(f"CONNECT {name}:80 HTTP/1.1"), self.REFUSED))

    def test_octet_by_octet_and_more_than_the_head(self, greeter: Address) -> None:
        with SocksServer(routes={("name.test", 80): greeter}) as server:
            with socket.create_connection(server.address, LONG) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for octet in b"CONNECT name.test:80 HTTP/1.1\r\nX: y\r\n\r\ntoken":
                    sock.send(bytes([octet]))
                head = b"HTTP/1.1 200 OK\r\nVia: SocksServer\r\n\r\n"
                assert receive_exactly(sock, len(head)) == head
                assert receive_exactly(sock, len(GREETING) + 5) == GREETING + b"token"

    def test_credentials_of_another_scheme(self, echo_server: Address) -> None:
        headers = {"Proxy-Authorization": "Bearer t0ken"}
        with SocksServer() as server:
            proxy = Proxy(*server.address, scheme="http", headers=headers)
            with create_connection(echo_server, LONG, proxy=proxy) as sock:
                assert_echoes(sock)
            [seen] = server.requests
        assert (seen.username, seen.password) == (None, None)
        assert b"\r\nProxy-Authorization: Bearer t0ken\r\n" in seen.received

    @pytest.mark.parametrize(
        "field",
        [
            "X: y",
            "Proxy-Authorization: Basic dXNlcjo=",
            "Proxy-Authorization: Basic dXNlcjp3cm9uZw==",
            "Proxy-Authorization: Basic OnBhc3M=",
            "Proxy-Authorization: Bearer t0ken",
        ],
    )
    def test_credentials_that_are_none_of_an_account(self, field: str) -> None:
        with SocksServer(accounts={"user": "pass"}) as server:
            talk(server, (http("CONNECT name.test:80 HTTP/1.1", field), self.UNAUTHORIZED))
            assert server.requests[0].destination == ("name.test", 80)

    def test_credentials(self) -> None:
        field = "proxy-AUTHORIZATION: Basic dXNlcjpwYTpzcw=="
        with SocksServer(accounts={"user": "pa:ss"}) as server:
            request = http(f"CONNECT 127.0.0.1:{REFUSED_PORT} HTTP/1.1", field)
            talk(server, (request, self.REFUSED))
            assert (server.requests[0].username, server.requests[0].password) == ("user", "pa:ss")


TOR = {
    ("name.test", 0): ("192.0.2.7", 0),
    ("six.test", 0): ("2001:db8::7", 0),
    ("192.0.2.7", 0): ("ptr.test", 0),
    ("2001:db8::7", 0): ("ptr.test", 0),
}


class TestTor:
    @pytest.mark.parametrize(
        ("asked", "reply"),
        [
            ("f0 00 03 09 6e616d652e74657374", "00 00 01 c0 00 02 07 00 00"),
            ("f0 00 03 08 7369782e74657374", f"00 00 04 20 01 0d b8 {'00 ' * 11}07 00 00"),
            ("f0 00 01 c6336401", "00 00 01 c6 33 64 01 00 00"),
            ("f0 00 03 0c 6e616d652e696e76616c6964", f"04 00 {NOWHERE}"),
            ("f1 00 01 c0000207", f"00 00 03 08 {b'ptr.test'.hex(' ')} 00 00"),
            (f"f1 00 04 20010db8 {'00' * 11}07", f"00 00 03 08 {b'ptr.test'.hex(' ')} 00 00"),
            ("f1 00 01 c0000208", f"04 00 {NOWHERE}"),
            (f"f1 00 04 {'00' * 15}01", f"04 00 {NOWHERE}"),
        ],
    )
    def test_it_answers_and_hangs_up(self, asked: str, reply: str) -> None:
        with SocksServer(routes=TOR) as server:
            talk(server, ("05 01 00", "05 00"), (f"05 {asked} 00 00", f"05 {reply}"))
            assert server.requests[0].command == int(asked[:2], 16)

    def test_names_without_a_route_are_resolved_for_real(self, names: dict[str, list[str]]) -> None:
        names.update({"real.test": ["192.0.2.9", "192.0.2.8"], "127.0.0.1": ["127.0.0.1"]})
        with SocksServer() as server:
            request = "05 f0 00 03 09 7265616c2e74657374 00 00"
            talk(server, ("05 01 00", "05 00"), (request, "05 00 00 01 c0 00 02 09 00 00"))

    def test_by_socks4a(self) -> None:
        with SocksServer(routes=TOR) as server:
            request = f"04 f0 00 00 00 00 00 01 00 {b'name.test'.hex()} 00"
            talk(server, (request, "00 5a 00 00 c0 00 02 07"))


@pytest.mark.parametrize(
    "said",
    [
        b"C\r\n\r\n",
        b"CONNECT\r\n\r\n",
        b"CONNECT host HTTP/1.1\r\n\r\n",
        b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\n\r\n",
        b"CONNECT name.test:80 HTTP/1.1\r\nProxy-Authorization: Basic x\r\n\r\n",
        b"CONNECT name.test:80 HTTP/1.1\r\nProxy-Authorization: Basic /w==\r\n\r\n",
    ],
)
def test_what_makes_no_sense_is_hung_up_on_without_a_word_in_the_log(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with SocksServer(routes=TOR) as server:
        talk(server, (said.hex(), ""))
    gc.collect()
    assert caplog.messages == []


@pytest.mark.parametrize(
    "said",
    [
        b"CRASH",
        b"CONNECT name.test:80 HTTP/1.1\n\n",
        b"C" + b"x" * 100_000,
        b"\x04",
        b"\x04\x01\0\x50\x7f\0\0\1me",
        b"\x04\x01\0\x50\x7f\0\0\1" + b"m" * 100_000,
        b"\x04\x01\0\x50\0\0\0\1\0name.test",
        b"\x05\x01\0\x05\x01\0\x09",
    ],
)
def test_what_does_not_end_is_waited_for_as_long_as_the_client_is_there(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with SocksServer() as server, nothing_left_open():
        with socket.create_connection(server.address, LONG) as sock:
            try:
                sock.sendall(said)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) in (b"", b"\x05\x00")
            except ConnectionError:  # it has not read all
                assert len(said) > 65536
        assert server.requests == []
    gc.collect()
    assert caplog.messages == []


# After close(), asyncio sends the octets that are unsent. When it has sent them, it can no longer
# abort the connection.
class TestItStopsAfterAConnectionThatItClosedWithOctetsUnsent:
    @pytest.mark.parametrize("with_tls", [False, True], ids=["", "TLS"])
    def test_to_the_client(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], with_tls: bool
    ) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            SocksServer(tls=contexts[0] if with_tls else None) as server,
        ):
            proxy = replace(Proxy.from_url(server.url), tls=contexts[1] if with_tls else None)
            with create_connection(listener.getsockname(), proxy=proxy) as sock:
                writer = server._sessions[0].writer
                assert writer is not None
                destination, _ = listener.accept()
                flood(destination, writer)
                reset(destination)
                take_the_rest(sock, writer)

    def test_to_the_destination(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, SocksServer() as server:
            sock = create_connection(listener.getsockname(), proxy=server.url)
            destination, _ = listener.accept()
            writer = server._sessions[0].outside
            assert writer is not None
            flood(sock, writer)
            reset(sock)
            with destination:
                take_the_rest(destination, writer)


def flood(sock: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Send until the server has octets for `writer` that nobody reads."""
    sock.setblocking(False)
    while writer.transport.get_write_buffer_size() == 0:
        with suppress(BlockingIOError):
            sock.send(bytes(1 << 16))


def take_the_rest(sock: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Make the server notice that the other side is gone and close `writer`; then receive all."""

    # The first octet may only cause the RST; then the server notices it at the second one.
    def is_closing() -> bool:
        with suppress(OSError):
            sock.send(b"x")
        return writer.is_closing()

    assert eventually(is_closing)
    with suppress(OSError):
        # `SSLSocket.shutdown` would end only TLS.
        socket.socket.shutdown(sock, socket.SHUT_WR)
    with suppress(ConnectionError, ssl.SSLError):
        while sock.recv(1 << 20):
            pass


class TestRecord:
    def test_of_a_connection(self, echo_server: Address) -> None:
        with SocksServer(accounts={"user": "pass"}) as server:
            with create_connection(echo_server, proxy=server.url) as sock:
                assert_echoes(sock)
                [seen] = server.requests
                assert seen.client == sock.getsockname()
            host, port = echo_server
            assert seen.methods == b"\x00\x02"
            assert (seen.username, seen.password) == ("user", "pass")
            assert (seen.command, seen.address_type) == (0x01, 0x01)
            assert seen.destination == (host, port)
            assert seen.reply == 0x00
            octets = port.to_bytes(2, "big")
            assert (
                seen.received
                == (b"\x05\x02\x00\x02\x01\x04user\x04pass\x05\x01\x00\x01\x7f\x00\x00\x01")
                + octets
            )
            assert seen.sent.startswith(b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
            assert [who for who, _ in seen.transcript] == ["client", "server"] * 3

    def test_of_a_connection_by_socks4(self, echo_server: Address) -> None:
        with SocksServer(accounts={"me": "pass"}) as server:
            with create_connection(echo_server, proxy=server.url_as("socks4")) as sock:
                assert_echoes(sock)
            [seen] = server.requests
        assert (seen.protocol, seen.command, seen.reply) == ("SOCKS4", 0x01, 0x5A)
        assert (seen.methods, seen.address_type) == (None, None)
        assert (seen.username, seen.password, seen.destination) == ("me", None, echo_server)
        port = echo_server[1].to_bytes(2, "big")
        assert seen.received == b"\x04\x01" + port + b"\x7f\x00\x00\x01me\x00"
        assert seen.sent[:2] == b"\x00\x5a"
        assert [who for who, _ in seen.transcript] == ["client", "server"]

    def test_of_a_connection_by_http(self, echo_server: Address) -> None:
        with SocksServer(accounts={"user": "p:w"}) as server:
            with create_connection(echo_server, proxy=server.url_as("http")) as sock:
                assert_echoes(sock)
            [seen] = server.requests
        assert (seen.protocol, seen.command, seen.reply) == ("HTTP", 0x01, 200)
        assert (seen.methods, seen.address_type) == (None, None)
        assert (seen.username, seen.password) == ("user", "p:w")
        assert seen.destination == echo_server
        assert seen.received.startswith(b"CONNECT 127.0.0.1:")
        assert seen.received.endswith(b"\r\n\r\n")
        assert seen.sent == b"HTTP/1.1 200 OK\r\nVia: SocksServer\r\n\r\n"

    def test_shows_no_password(self, echo_server: Address) -> None:
        with SocksServer(accounts={"user": "p4ss"}) as server:
            for scheme in ("socks5h", "http"):
                create_connection(echo_server, proxy=server.url_as(scheme)).close()
            # Of the password alone: the octets of the handshake are the record.
            assert [seen.password for seen in server.requests] == ["p4ss", "p4ss"]
            assert "password" not in repr(server.requests)

    def test_of_connections_by_all_protocols_at_once(self, echo_server: Address) -> None:
        with SocksServer() as server:
            for scheme in ("socks5h", "socks4a", "http", "socks4", "socks5"):
                with create_connection(echo_server, proxy=server.url_as(scheme)) as sock:
                    assert_echoes(sock)
            assert [seen.protocol for seen in server.requests] == [
                *("SOCKS5", "SOCKS4", "HTTP", "SOCKS4", "SOCKS5")
            ]

    def test_names_stay_names_and_routes_lead_elsewhere(self, echo_server: Address) -> None:
        with SocksServer(routes={("name.test", 80): echo_server}) as server:
            with create_connection(("name.test", 80), proxy=server.url) as sock:
                assert_echoes(sock)
            assert server.requests[0].destination == ("name.test", 80)


class TestFaults:
    def test_they_can_be_one_by_one(self, echo_server: Address) -> None:
        with SocksServer(faults=[Faults(reply=0x05), Faults(method=0xFF)]) as server:
            for error in (ConnectionRefusedError, AuthenticationError):
                with pytest.raises(error):
                    create_connection(echo_server, proxy=server.url)
            for _ in range(2):
                create_connection(echo_server, proxy=server.url).close()

    @pytest.mark.parametrize(
        ("faults", "scheme", "sent"),
        [
            (Faults(reply=0x5C), "socks4a", "00 5c 00 00 00 00 00 00"),
            (
                Faults(reply=0x5B, bound_address=("192.0.2.7", 0x1234)),
                "socks4a",
                "00 5b 12 34 c0 00 02 07",
            ),
            (Faults(reply=0x5B, close_after=3), "socks4a", "00 5b 00"),
            (
                Faults(reply=503),
                "http",
                http("HTTP/1.1 503 Service Unavailable", "Via: SocksServer"),
            ),
            (Faults(reply=503, close_after=5), "http", b"HTTP/".hex(" ")),
            (Faults(answers={"request": b"\xff"}), "http", "ff"),
            (Faults(answers={"request": b""}, close_after=0), "socks4a", ""),
        ],
        ids=str,
    )
    def test_they_are_of_the_protocol_that_is_spoken(
        self, echo_server: Address, faults: Faults, scheme: str, sent: str
    ) -> None:
        with SocksServer(faults=faults) as server:
            with pytest.raises(OSError, match="proxy"):
                create_connection(echo_server, SHORT, proxy=server.url_as(scheme))
            assert eventually(lambda: server.requests[0].sent == bytes.fromhex(sent))

    @pytest.mark.parametrize("scheme", ["socks4a", "http"])
    def test_an_end_right_after_any_success(self, echo_server: Address, scheme: str) -> None:
        head = "HTTP/1.1 200 OK\r\nVia: SocksServer\r\n\r\n"
        count = 8 if scheme == "socks4a" else len(head)
        with SocksServer(faults=Faults(close_after=count)) as server:
            with create_connection(echo_server, LONG, proxy=server.url_as(scheme)) as sock:
                assert sock.recv(1) == b""

    @pytest.mark.parametrize("code", [0x5B, 0x00, 0x5D, 0xFF])
    def test_the_second_reply_to_bind_by_socks4(self, code: int) -> None:
        faults = Faults(second_reply=code)
        with SocksServer(faults=faults) as server:
            with socket.create_connection(server.address, LONG) as sock:
                sock.sendall(bytes.fromhex("04 02 00 00 00 00 00 00 00"))
                port = int.from_bytes(receive_exactly(sock, 8)[2:4], "big")
                with socket.create_connection(("127.0.0.1", port), LONG):
                    assert receive_exactly(sock, 8)[:2] == bytes([0, code])
                    assert sock.recv(1) == b""

    def test_they_can_change(self, echo_server: Address) -> None:
        with SocksServer() as server:
            create_connection(echo_server, proxy=server.url).close()
            server.misbehave(Faults(reply=0x05))
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    create_connection(echo_server, proxy=server.url)

    def test_what_is_no_octet_is_a_value_error(self) -> None:
        for faults in ({"second_reply": 256}, {"method": -1}, {"status": 300}):
            with pytest.raises(ValueError, match="must be between 0 and 255"):
                Faults(**faults)  # type: ignore[arg-type]
        for reply in (-1, 1000):
            with pytest.raises(
                ValueError, match=f"reply is {reply}, and must be between 0 and 999"
            ):
                Faults(reply=reply)
        with pytest.raises(ValueError, match="stall_after is -1"):
            Faults(stall_after=-1)
        with pytest.raises(ValueError, match="answers has the phase 'response'"):
            Faults(answers={"response": b""})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match="not iterable"):
            SocksServer(faults=5)  # type: ignore[arg-type]

    def test_routes_can_change(self, socks_proxy: SocksServer, echo_server: Address) -> None:
        socks_proxy.routes["name.test", 80] = echo_server
        with create_connection(("name.test", 80), proxy=socks_proxy.url) as sock:
            assert_echoes(sock)

    def test_a_drip_takes_its_time(self) -> None:
        with SocksServer(faults=Faults(drip=0.1)) as server:
            with socket.create_connection(server.address) as sock:
                begin = time.monotonic()
                sock.sendall(b"\x05\x01\x00")
                assert sock.recv(2) == b"\x05"
                assert sock.recv(2) == b"\x00"
                assert time.monotonic() - begin >= 0.2

    def test_an_end_right_after_a_success(self, echo_server: Address) -> None:
        for faults in (Faults(close_after=12), Faults(reset_after=12)):
            with SocksServer(faults=faults) as server:
                with create_connection(echo_server, LONG, proxy=server.url) as sock:
                    if faults.close_after:
                        assert sock.recv(1) == b""
                    else:
                        with pytest.raises(ConnectionResetError):
                            sock.recv(1)

    def test_silence_right_after_a_success(self, echo_server: Address) -> None:
        with SocksServer(faults=Faults(stall_after=12)) as server:
            with create_connection(echo_server, SHORT, proxy=server.url) as sock:
                sock.sendall(b"token")
                with pytest.raises(TimeoutError):
                    sock.recv(1)

    def test_their_repr_tells_them_only(self) -> None:
        assert repr(Faults(reply=0, drip=0.5)) == "Faults(drip=0.5, reply=0)"
        assert repr(Faults(answers={"request": b"\x05"})) == "Faults(answers={'request': b'\\x05'})"


class TestServer:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_its_url(self, host: str, echo_server: Address) -> None:
        accounts = {"üser:": "p@ss/", "another": "one"}
        with SocksServer(host=host, accounts=accounts) as server:
            proxy = Proxy.from_url(server.url)
            assert (proxy.host, proxy.port) == server.address
            assert (proxy.username, proxy.password) == ("üser:", "p@ss/")
            with create_connection(echo_server, proxy=server.url) as sock:
                assert_echoes(sock)

    @pytest.mark.parametrize(
        ("scheme", "userinfo"),
        [
            ("socks5h", "%C3%BCser%3A:p%40ss%2F@"),
            ("socks5", "%C3%BCser%3A:p%40ss%2F@"),
            ("socks4a", "%C3%BCser%3A@"),
            ("socks4", "%C3%BCser%3A@"),
        ],
    )
    def test_its_url_with_any_scheme(
        self, echo_server: Address, scheme: str, userinfo: str
    ) -> None:
        with SocksServer(accounts={"üser:": "p@ss/", "another": "one"}) as server:
            host, port = server.address
            assert server.url_as(scheme) == f"{scheme}://{userinfo}{host}:{port}"
            with create_connection(echo_server, proxy=server.url_as(scheme)) as sock:
                assert_echoes(sock)

    def test_its_url_as_that_of_an_http_proxy(self, echo_server: Address) -> None:
        with SocksServer(host="::1", accounts={"user": "p:w"}) as server:
            assert server.url_as("http") == f"http://user:p%3Aw@[::1]:{server.address[1]}"
            with create_connection(echo_server, proxy=server.url_as("http")) as sock:
                assert_echoes(sock)

    def test_when_it_stops_all_its_connections_end(self, echo_server: Address) -> None:
        with SocksServer() as server:
            sock = create_connection(echo_server, LONG, proxy=server.url)
        with sock:
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address)

    def test_a_client_that_goes_away(self) -> None:
        with serving(echo) as destination, SocksServer() as server:
            for _ in range(3):
                create_connection(destination, proxy=server.url).close()
            assert eventually(lambda: len(server.requests) == 3)


class TestUnixSocket:
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "socks4"])
    def test_its_url(self, tmp_path: Path, echo_server: Address, scheme: str) -> None:
        path = str(tmp_path / "socket")
        with SocksServer(path=path, accounts={"user": ""}) as server:
            url = server.url_as(scheme)
            assert url.endswith(f"@localhost{path}")
            assert Proxy.from_url(url).path == path
            with create_connection(echo_server, proxy=url) as sock:
                assert sock.getpeername() == path
                assert_echoes(sock)
            assert server.requests[0].client == ("", 0)
        assert not Path(path).exists()

    def test_its_url_with_a_path_of_any_kind(self, tmp_path: Path) -> None:
        path = str(tmp_path / "a socket%")
        with SocksServer(path=path) as server:
            assert Proxy.from_url(server.url).path == path

    def test_as_an_http_proxy(self, tmp_path: Path, echo_server: Address) -> None:
        path = str(tmp_path / "socket")
        with SocksServer(path=path) as server:
            with create_connection(echo_server, proxy=Proxy(path=path, scheme="http")) as sock:
                assert_echoes(sock)
            assert server.requests[0].protocol == "HTTP"

    def test_bind(self, tmp_path: Path) -> None:
        with SocksServer(path=str(tmp_path / "socket")) as server:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(LONG)
                sock.connect(str(tmp_path / "socket"))
                sock.sendall(bytes.fromhex("04 02 00 00 00 00 00 00 00"))
                reply = receive_exactly(sock, 8)
                with socket.create_connection(
                    ("127.0.0.1", int.from_bytes(reply[2:4], "big")), LONG
                ):
                    assert receive_exactly(sock, 2) == b"\x00\x5a"
            assert server.requests[0].client == ("", 0)

    def test_it_is_removed_at_the_end_and_nothing_is_left_open(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with nothing_left_open():
            with pytest.raises(ZeroDivisionError), SocksServer(path=str(path)):
                assert 1 / (not path.exists())
        assert not path.exists()

    def test_a_path_that_cannot_be(self, tmp_path: Path) -> None:
        with nothing_left_open(), pytest.raises(FileNotFoundError):
            SocksServer(path=str(tmp_path / "nowhere" / "socket")).__enter__()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the server's context, and a client's context that trusts the server."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


def assert_is_hung_up(sock: socket.socket) -> None:
    """Whether the connection has an end below TLS, or comes to it."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    assert poll.poll(LONG * 1000)


class TestTLS:
    @pytest.mark.parametrize(
        ("scheme", "with_tls", "protocol"),
        [
            ("socks5h", "socks5h+tls", "SOCKS5"),
            ("socks5", "socks5+tls", "SOCKS5"),
            ("socks4a", "socks4a+tls", "SOCKS4"),
            ("socks4", "socks4+tls", "SOCKS4"),
            ("http", "https", "HTTP"),
            ("https", "https", "HTTP"),
            ("socks5h+tls", "socks5h+tls", "SOCKS5"),
        ],
    )
    def test_it_is_spoken_with_every_protocol(
        self,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        greeter: Address,
        scheme: str,
        with_tls: str,
        protocol: str,
    ) -> None:
        with SocksServer(tls=contexts[0], faults=Faults(split=True)) as server:
            url = server.url_as(scheme)
            assert url == "{}://{}:{}".format(with_tls, *server.address)
            proxy = replace(Proxy.from_url(url), tls=contexts[1])
            with create_connection(greeter, LONG, proxy=proxy) as sock:
                assert isinstance(sock, ssl.SSLSocket)
                assert receive_exactly(sock, len(GREETING)) == GREETING
                sock.sendall(b"token")
                assert receive_exactly(sock, 5) == b"token"
            assert server.requests[0].protocol == protocol

    def test_when_it_stops_it_does_not_wait_for_the_clients_closing_handshake(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        with serving(leave) as destination:
            with SocksServer(tls=contexts[0]) as server:
                proxy = replace(Proxy.from_url(server.url), tls=contexts[1])
                sock = create_connection(destination, LONG, proxy=proxy)
                assert sock.recv(1) == b""  # by TLS
            with sock:
                assert_is_hung_up(sock)
        gc.collect()  # warns of what is open

    def test_when_it_stops_just_after_tls_has_begun_nothing_is_left_open(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        # Before the server was corrected, most of these rounds left a socket open.
        for _ in range(20):
            with SocksServer(tls=contexts[0]) as server:
                sock = socket.create_connection(server.address, LONG)
                tls = contexts[1].wrap_socket(sock, server_hostname="127.0.0.1")
            with tls:
                assert_is_hung_up(tls)
        gc.collect()

    def test_who_speaks_none_is_hung_up_on(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        with SocksServer(tls=contexts[0]) as server, nothing_left_open():
            with socket.create_connection(server.address, LONG) as sock:
                sock.sendall(b"\x05\x01\x00" * 10)
                while sock.recv(100):
                    pass
            assert server.connections[0].protocol is None
        gc.collect()
        assert caplog.messages == []


class TestPytestPlugin:
    TEST = """
        import socket, socksclient

        def test_it(socks_proxy):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
                with socksclient.create_connection(address, proxy=socks_proxy.url):
                    assert socks_proxy.requests[0].destination == address
    """

    def test_the_fixture(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(self.TEST)
        pytester.runpytest_subprocess().assert_outcomes(passed=1)

    def test_it_is_there_for_us_as_well(
        self, socks_proxy: SocksServer, echo_server: Address
    ) -> None:
        with create_connection(echo_server, proxy=socks_proxy.url) as sock:
            assert_echoes(sock)
