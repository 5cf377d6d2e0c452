"""An FTP server that answers as a test says, and functions for the tests of `socksclient.ftp`."""

from __future__ import annotations

import asyncio
import ftplib
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest

from socksclient import ProxyLike
from socksclient.ftp import FTP, FTP_TLS
from socksclient.testing import Faults

from helpers.support import LONG, Address, resolved_names, serving

both_modes = pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
Client = FTP | FTP_TLS
REFUSING = Faults(reply=0x04)
FAILED = "the FTP data connection failed: "
# The seconds of a timeout that must pass.
SOON = 0.05
_touched: list[tuple[str, Address]] | None = None
_main = threading.get_ident()


def _audit(event: str, args: tuple[object, ...]) -> None:
    if _touched is None or event not in ("socket.connect", "socket.bind"):
        return
    # The servers of the tests have threads of their own.
    if threading.get_ident() == _main:
        assert isinstance(args[1], tuple)
        _touched.append((event, args[1][:2]))


sys.addaudithook(_audit)


@contextmanager
def connects_only_to(address: Address) -> Iterator[None]:
    """Check that the main thread connects only to `address`, never listens and resolves nothing."""
    # An audit hook cannot be removed, so it looks at this variable.
    global _touched  # noqa: PLW0603
    seen: list[tuple[str, Address]] = []
    _touched = seen
    try:
        with resolved_names() as names:
            yield
    finally:
        _touched = None
    assert set(seen) == {("socket.connect", address)}
    assert names == []


LISTING = ["one", "two"]


class ScriptedServer:
    """An FTP server that answers the commands in `answers` as the test says, and can do LIST.

    An answer may have several responses. The answer "hang up" ends the connection.

    Attributes:
        commands: The commands that the server has received.
        passive: The address at which the server listens for data connections.
    """

    def __init__(self, answers: Mapping[str, str] | None = None, host: str = "127.0.0.1") -> None:
        self.commands: list[str] = []
        self.host = host
        self.welcome = "220 ready"
        self.connects = True
        self._answers = dict(answers or {})

    def __enter__(self) -> ScriptedServer:
        with ExitStack() as stack:
            self.address = stack.enter_context(serving(self.control, self.host))
            self.passive = stack.enter_context(serving(self.data, self.host))
            self.answers = {
                "EPSV": f"229 here (|||{self.passive[1]}|)",
                "PASV": "227 here (192,0,2,1,{},{})".format(*divmod(self.passive[1], 256)),
                "LIST": "150 coming\r\n226 done",
                "QUIT": "221 bye",
                **self._answers,
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        # If asyncio stops in the middle of an accept, it leaves the socket open. This connection
        # is the last one that the server accepts.
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as last:
            last.connect(self.passive)
            last.shutdown(socket.SHUT_WR)
            while last.recv(100):
                pass
        self._stack.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: Address | None = None
        writer.write(f"{self.welcome}\r\n".encode())
        while line := await reader.readline():
            self.commands.append(line.decode("latin-1").rstrip("\r\n"))
            verb, _, argument = self.commands[-1].partition(" ")
            if verb == "PORT":
                *octets, high, low = argument.split(",")
                client = ".".join(octets), int(high) * 256 + int(low)
            if verb == "EPRT":
                _, _, host, port, _ = argument.split("|")
                client = host, int(port)
            if verb == "LIST" and client and self.connects:
                await self.data(*await asyncio.open_connection(*client))
            answer = self.answers.get(verb, "200 fine")
            if answer == "hang up":
                return
            writer.write(f"{answer}\r\n".encode("latin-1"))

    async def data(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.connects:
            writer.write("".join(f"{line}\r\n" for line in LISTING).encode())
            writer.close()
        else:
            await reader.read()


def client_of(
    server: ScriptedServer, proxy: ProxyLike, passive: bool = True, timeout: float | None = LONG
) -> FTP:
    client = FTP(timeout=timeout, proxy=proxy)
    client.connect(*server.address)
    client.set_pasv(passive)
    return client


def listing(client: ftplib.FTP) -> list[str]:
    lines: list[str] = []
    client.retrlines("LIST", lines.append)
    return lines


def asked_by(server: ScriptedServer) -> list[str]:
    """Return the commands that asked the server where to connect to."""
    return [command for command in server.commands if command in ("EPSV", "PASV")]
