"""`socksclient.testing`, as the tests of its users see it.

That it answers right is also shown by a client that is not ours: raw octets on a socket.
"""

from __future__ import annotations

import socket
import time

import pytest

from socksclient import AuthenticationError, Proxy, create_connection
from socksclient.testing import Faults, SocksServer

from support import Address, assert_echoes, echo, eventually, receive_exactly, refused_port, serving

pytest_plugins = ["pytester"]


def talk(server: SocksServer, *messages: tuple[str, str]) -> None:
    """Says the first of each pair, in hex, and wants to hear the second; then the end."""
    with socket.create_connection(server.address, 5) as sock:
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

    @pytest.mark.parametrize("said", ["00", "06 01 00", "16 03 01", b"GET /".hex()])
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
        with SocksServer() as server, socket.create_connection(server.address, 5) as sock:
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
        port = refused_port().to_bytes(2, "big").hex()
        with SocksServer() as server:
            request = f"05 01 00 01 7f 00 00 01 {port}"
            talk(server, ("05 01 00", "05 00"), (request, f"05 05 00 {NOWHERE}"))

    @pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b"])
    def test_a_name_that_nobody_knows(self, name: str) -> None:
        with SocksServer() as server:
            request = f"05 01 00 03 {len(name):02x} {name.encode().hex()} 00 50"
            talk(server, ("05 01 00", "05 00"), (request, f"05 04 00 {NOWHERE}"))
            assert server.requests[0].destination == (name, 80)

    def test_half_close_is_passed_on_both_ways(self, echo_server: Address) -> None:
        with SocksServer() as server:
            with create_connection(echo_server, proxy=server.url) as sock:
                assert_echoes(sock)


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

    def test_they_can_change(self, echo_server: Address) -> None:
        with SocksServer() as server:
            create_connection(echo_server, proxy=server.url).close()
            server.misbehave(Faults(reply=0x05))
            for _ in range(2):
                with pytest.raises(ConnectionRefusedError):
                    create_connection(echo_server, proxy=server.url)

    def test_what_is_no_octet_is_a_value_error(self) -> None:
        for faults in ({"second_reply": 256}, {"method": -1}, {"status": 300}):
            with pytest.raises(ValueError, match="bytes must be in range"):
                Faults(**faults)  # type: ignore[arg-type]
        for reply in (-1, 1000):
            with pytest.raises(ValueError, match=f"reply {reply} is neither an octet nor a status"):
                Faults(reply=reply)

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
                with create_connection(echo_server, 5, proxy=server.url) as sock:
                    if faults.close_after:
                        assert sock.recv(1) == b""
                    else:
                        with pytest.raises(ConnectionResetError):
                            sock.recv(1)

    def test_silence_right_after_a_success(self, echo_server: Address) -> None:
        with SocksServer(faults=Faults(stall_after=12)) as server:
            with create_connection(echo_server, 0.2, proxy=server.url) as sock:
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

    def test_when_it_stops_all_its_connections_end(self, echo_server: Address) -> None:
        with SocksServer() as server:
            sock = create_connection(echo_server, 5, proxy=server.url)
        with sock:
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address)

    def test_a_client_that_goes_away(self) -> None:
        with serving(echo) as destination, SocksServer() as server:
            for _ in range(3):
                create_connection(destination, proxy=server.url).close()
            assert eventually(lambda: len(server.requests) == 3)


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
