"""microsocks on a host that has no IPv6, as in most containers: a script, for `real_servers`.

The host is a network namespace of its own. Called with a port, the script listens there, and then
becomes `unshare`, which calls it again within the new namespace. A socket stays in the namespace
where it was made. So what connects to the port reaches microsocks, and microsocks itself reaches
what is within the namespace only: an echo server, at the same port of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_HOST = "127.0.0.1"

_MICROSOCKS_PORT = 1080
"""A port in the namespace. The system chooses the other one, from 32768 on, so the two differ."""

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def listen_and_enter(port: int) -> None:
    """Listen at the port, and then run this script again in a new network namespace."""
    listener = socket.create_server((_HOST, port))
    listener.set_inheritable(True)
    # Only root may make a network namespace; any user is root in a new user namespace.
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    again = [sys.executable, __file__, "--listener", str(listener.fileno())]
    os.execvp("unshare", ["unshare", "--net", *user, *again])


def make_host_without_ipv6() -> None:
    """Start the loopback interface of the new namespace, and switch IPv6 off."""
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def start_microsocks() -> None:
    """Start microsocks, and wait until it accepts connections."""
    command = ["microsocks", "-i", _HOST, "-p", str(_MICROSOCKS_PORT)]
    process = subprocess.Popen(command)
    while True:
        with suppress(OSError), socket.create_connection((_HOST, _MICROSOCKS_PORT)):
            return
        with suppress(subprocess.TimeoutExpired):
            sys.exit(f"microsocks ended, with status {process.wait(timeout=0.01)}")


async def serve(listener: socket.socket) -> None:
    """Relay connections from the listener to microsocks, and echo at the same port."""
    _, port = listener.getsockname()
    await asyncio.start_server(_copy, _HOST, port)
    server = await asyncio.start_server(_relay, sock=listener)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from_proxy, to_proxy = await asyncio.open_connection(_HOST, _MICROSOCKS_PORT)
    await asyncio.gather(_copy(reader, to_proxy), _copy(from_proxy, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write everything that is read, until either side ends."""
    with suppress(ConnectionError):
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()
    writer.close()


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "--listener":
        make_host_without_ipv6()
        start_microsocks()
        asyncio.run(serve(socket.socket(fileno=int(arguments[1]))))
    else:
        listen_and_enter(int(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
