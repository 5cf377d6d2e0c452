"""Ways to run the `socksclient` command in a process of its own, and to look at it from outside."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from helpers.support import LONG, Address, in_thread, receive_exactly


def command(*arguments: str) -> list[str]:
    """Return the command line that runs the `socksclient` of this interpreter."""
    return [sys.executable, "-m", "socksclient", *arguments]


def command_without(closed: str, *arguments: str) -> list[str]:
    """Return a command line that closes a standard stream first, in the shell's notation: "<&-"."""
    return ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*arguments)]


@contextmanager
def connecting(
    proxy: str | None,
    host: str,
    port: int,
    *options: str,
    stdin: int | IO[bytes] | None = subprocess.PIPE,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `socksclient connect`, and kill the process at the end if it still runs."""
    if proxy is not None:
        options = ("--proxy", proxy, *options)
    run = subprocess.Popen(
        command("connect", host, str(port), *options),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with run:
        try:
            yield run
        finally:
            run.kill()


def assert_one_error(
    capsys: pytest.CaptureFixture[str], words: str, *, any_output: bool = False
) -> None:
    """Assert that the command has written one line of error, with the words in it, and no more."""
    out, err = capsys.readouterr()
    assert any_output or out == ""
    assert err.startswith("socksclient: ")
    assert err.count("\n") == 1
    assert words in err


def ends_with(run: subprocess.Popen[bytes], status: int, words: str = "") -> None:
    """Assert that the process ends with a status, and with one line of error if there are words."""
    assert run.wait(LONG) == status
    assert run.stderr is not None
    err = run.stderr.read().decode()
    assert words in err
    assert err.count("\n") == bool(words)
    assert not words or err.startswith("socksclient: ")


def is_idle(run: subprocess.Popen[bytes]) -> bool:
    """Return whether all threads of the process sleep each time that this function looks."""
    states = set()
    for _ in range(20):
        for stat in Path(f"/proc/{run.pid}/task").glob("*/stat"):
            # A thread may end between the listing and the reading.
            with suppress(FileNotFoundError, ProcessLookupError):
                states.add(stat.read_text().rpartition(")")[2].split()[0])
    return states == {"S"}


def through(run: subprocess.Popen[bytes], octets: bytes) -> bytes:
    """Write the octets and the end to the process, and return its output up to the end."""
    assert run.stdin is not None
    assert run.stdout is not None

    writing = in_thread(partial(write_all, run.stdin, octets))
    received = read_all(run.stdout)
    writing.result()
    return received


def read_all(file: IO[bytes]) -> bytes:
    return b"".join(iter(partial(file.read, 1 << 20), b""))


def read_exactly(file: IO[bytes], count: int) -> bytes:
    octets = bytearray()
    while len(octets) < count:
        read = file.read(count - len(octets))
        assert read, f"got {len(octets)} of {count} octets"
        octets += read
    return bytes(octets)


def write_all(file: IO[bytes], octets: bytes) -> None:
    """Write all octets, and close the file."""
    left = memoryview(octets)
    with file:
        while left:
            left = left[file.write(left) :]


def is_full(pipe: IO[bytes] | None) -> bool:
    """Return whether a pipe holds so much that a writer must wait.

    A pipe that is written to in pieces holds less than its size.
    """
    assert pipe is not None
    return count_in(pipe) > 1 << 14


def count_in(pipe: IO[bytes]) -> int:
    """Return how many octets are in a pipe, given either of its ends."""
    [count] = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def granting_proxy() -> socket.socket:
    """Return the listener of a proxy whose part the test plays; its URL is `url_of` it."""
    return socket.create_server(("127.0.0.1", 0))


def url_of(listener: socket.socket) -> str:
    return f"socks5h://127.0.0.1:{listener.getsockname()[1]}"


def grant(listener: socket.socket) -> socket.socket:
    """Accept a connection, and grant the request, whose target is an IPv4 address."""
    sock, _ = listener.accept()
    sock.settimeout(LONG)
    receive_exactly(sock, 3)
    sock.sendall(b"\x05\x00")
    receive_exactly(sock, 10)
    sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
    return sock


async def until_quit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back every line, until a line says quit."""
    while (line := await reader.readline()) not in (b"", b"quit\n"):
        writer.write(line)


def tcp_nodelay_of_sockets_to(address: Address) -> list[bool]:
    """Return TCP_NODELAY of each socket of this process that is connected to the address."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(entry).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as sock:
                    if sock.getpeername() == address:
                        option = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                        found.append(bool(option))
    return found
