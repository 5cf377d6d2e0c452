"""`SocksSocket` in the place of `socket.socket`, in processes of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from socksclient.testing import SocksServer

from helpers.origin import Origin
from helpers.support import (
    REFUSED_PORT,
    Address,
    serving,
)


async def mail_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every command of an SMTP client with success."""
    writer.write(b"220 hello\r\n")
    while line := await reader.readline():
        writer.write(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 ok\r\n")


class Replaced:
    """Runs code in a process where `socket.socket` is a subclass of `SocksSocket`."""

    CODE = """
import socket
{before}
from socksclient import SocksSocket

class ProxiedSocket(SocksSocket):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        super().__init__({url!r}, family, type, proto, fileno)

socket.socket = ProxiedSocket
"""

    def __init__(self, url: str, before: str = "") -> None:
        self.setup = self.CODE.format(url=url, before=before)

    def run(self, code: str) -> str:
        """Run the code in a process of its own, and return what it prints."""
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", self.setup + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        return run.stdout


class TestReplacedSocket:
    """The program assigns to `socket.socket`, as users of PySocks do."""

    def test_replaced_socket_library_makes_plain_sockets(self, echo_server: Address) -> None:
        with SocksServer(routes={("origin.test", 80): echo_server}) as server:
            replaced = Replaced(server.url)
            code = """
                with socket.socket() as sock:
                    sock.settimeout(10)
                    sock.connect(("origin.test", 80))
                    sock.sendall(b"hi")
                    print(sock.recv(2), type(sock).__name__)
                """
            assert replaced.run(code) == "b'hi' ProxiedSocket\n"
            code = f"""
                import socksclient

                address, url = ("origin.test", 80), {server.url!r}
                with socksclient.create_connection(address, 10, proxy=url) as sock:
                    print(type(sock) is SocksSocket.__base__)
                with socksclient.udp_associate(10, proxy=url) as udp:
                    print(udp.sendto(b"x", address))
                with socksclient.bind(("0.0.0.0", 0), 10, proxy=url) as listener:
                    print(listener.address[0])
                """
            assert replaced.run(code) == "True\n1\n127.0.0.1\n"
            assert [request.destination for request in server.requests[:2]] == [
                ("origin.test", 80)
            ] * 2

    def test_replaced_socket_by_partial_function(self, echo_server: Address) -> None:
        with SocksServer(routes={("origin.test", 80): echo_server}) as server:
            code = f"""
                import functools

                socket.socket = functools.partial(SocksSocket, {server.url!r})
                with socket.socket() as sock:
                    sock.connect(("origin.test", 80))
                    sock.sendall(b"hi")
                    print(sock.recv(2))
                one, two = socket.socketpair()
                with one, two:
                    one.sendall(b"x")
                    print(two.recv(1))
                """
            assert Replaced(server.url).run(code) == "b'hi'\nb'x'\n"

    @pytest.mark.parametrize("before", ["", "import ssl"])
    def test_replaced_socket_modules_of_standard_library(
        self, before: str, origin: Origin, tmp_path: Path
    ) -> None:
        certificate = tmp_path / "ca.pem"
        origin.ca.cert_pem.write_to_path(str(certificate))
        with serving(mail_server) as mail, SocksServer() as server:
            server.routes["mail.test", 25] = mail
            code = f"""
                import ssl, smtplib, urllib.request

                context = ssl.create_default_context(cafile={str(certificate)!r})
                for url in (
                    "http://127.0.0.1:{origin.http_port}/",
                    "https://localhost:{origin.https_port}/",
                ):
                    with urllib.request.build_opener(
                        urllib.request.ProxyHandler({{}}),
                        urllib.request.HTTPSHandler(context=context),
                    ).open(url, timeout=10) as response:
                        print(response.status)
                with socket.socket() as sock:
                    sock.connect(("localhost", {origin.https_port}))
                    with context.wrap_socket(sock, server_hostname="localhost") as tls:
                        print(tls.version())

                # If the program replaces this function too, names go to the proxy as they are.
                import functools
                import socksclient

                connect = functools.partial(socksclient.create_connection, proxy={server.url!r})
                socket.create_connection = connect
                with smtplib.SMTP(
                    "mail.test", 25, local_hostname="localhost", timeout=10
                ) as mail:
                    print(mail.noop())
                """
            printed = Replaced(server.url, before).run(code)
            assert printed == "200\n200\nTLSv1.3\n(250, b'ok')\n"
            hosts = [request.destination and request.destination[0] for request in server.requests]
            assert hosts[0] == "127.0.0.1"
            assert hosts[1] in ("127.0.0.1", "::1")
            assert hosts[-2:] == ["localhost", "mail.test"]

    def test_replaced_socket_unix_and_pipes_stay_local(self, tmp_path: Path) -> None:
        with SocksServer() as server:
            code = f"""
                import asyncio, logging.handlers, sys
                from multiprocessing.connection import Client, Listener

                async def child():
                    process = await asyncio.create_subprocess_exec(
                        sys.executable, "-c", "print('child')", stdout=asyncio.subprocess.PIPE
                    )
                    return await process.communicate()

                print(asyncio.run(child()))
                with Listener({str(tmp_path / "l")!r}, "AF_UNIX") as listener:
                    with Client(listener.address) as client, listener.accept() as accepted:
                        accepted.send("hi")
                        print(client.recv())
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
                    log.bind({str(tmp_path / "log")!r})
                    handler = logging.handlers.SysLogHandler({str(tmp_path / "log")!r})
                    handler.emit(logging.makeLogRecord({{"msg": "line"}}))
                    handler.close()
                    print(log.recv(100))
                """
            assert Replaced(server.url).run(code) == ("(b'child\\n', None)\nhi\nb'<12>line\\x00'\n")
            assert server.connections == []

    def test_replaced_socket_refuses_what_would_go_past_proxy(self, echo_server: Address) -> None:
        with SocksServer() as server:
            code = f"""
                import asyncio

                async def connect():
                    await asyncio.open_connection(*{echo_server!r})

                for attempt in (
                    lambda: asyncio.run(connect()),
                    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                    lambda: socket.create_server(("127.0.0.1", {REFUSED_PORT})),
                ):
                    try:
                        attempt()
                    except (ValueError, OSError) as error:
                        print(error)
                """
            lines = Replaced(server.url).run(code).splitlines()
            assert len(lines) == 3
            assert lines[0].startswith(
                "a non-blocking SocksSocket cannot connect; socksclient.anyio"
            )
            assert lines[1].startswith("type must be SOCK_STREAM, because other sockets would go")
            assert "the proxy chooses the port to listen at; bind to port 0" in lines[2]
            assert server.connections == []
