"""curl, and the proxies that record what a client sends to them."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

import trustme

from helpers.support import needs

CURL = shutil.which("curl")
needs_curl = needs([] if CURL else ["curl"])

# The addresses of the names of destinations, for whichever client resolves names.
NAMES = {
    "site.test": ["192.0.2.1"],
    "SITE.test": ["192.0.2.1"],
    "six.test": ["2001:db8::1"],
    "both.test": ["2001:db8::1", "192.0.2.1", "192.0.2.2"],
    "xn--bcher-kva.test": ["192.0.2.3"],
}
SITE = ("site.test", 80)
AGENT = "User-Agent: socksclient"


class Recorder:
    """A proxy that speaks SOCKS4, SOCKS5 and HTTP, and grants every request.

    It connects to nothing. Behind the reply it goes on as the next hop, an HTTP proxy, and as the
    destination.

    Attributes:
        octets: For each connection with a request, the octets up to the end of the request.
    """

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.octets: list[bytes] = []
        self._listener = listener
        self._tls = tls
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        # Shutting the listener down ends the thread with an OSError.
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, suppress(EOFError, ConnectionError, TimeoutError, ssl.SSLError):
                    sock.settimeout(10)
                    if self._tls is None:
                        self._converse(_Conversation(sock))
                    else:
                        with self._tls.wrap_socket(sock, server_side=True) as inner:
                            self._converse(_Conversation(inner))

    def _converse(self, client: _Conversation) -> None:
        first = client.read(1)
        if first == b"\x05":
            answer = client.socks5()
        elif first == b"\x04":
            answer = client.socks4()
        else:
            answer = client.http()
        self.octets.append(bytes(client.came))
        client.sock.sendall(answer)
        # Without an answer, the request was for this proxy itself.
        if answer:
            first = client.read(1)
            # A CONNECT is for the next hop.
            if first == b"C":
                answer = client.http()
                self.octets[-1] = bytes(client.came)
                client.sock.sendall(answer)
                first = client.read(1)
            # What does not begin a GET is TLS, or gopher.
            if first != b"G":
                return
            client.read_until(b"\r\n\r\n")
        client.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class _Conversation:
    """One connection to the recorder, of which the first octet has been read."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.came = bytearray()

    def read(self, count: int) -> bytes:
        start = len(self.came)
        while len(self.came) < start + count:
            received = self.sock.recv(start + count - len(self.came))
            if not received:
                raise EOFError
            self.came.extend(received)
        return bytes(self.came[start:])

    def read_until(self, end: bytes) -> None:
        self.read(1)
        while not self.came.endswith(end):
            self.read(1)

    def socks5(self) -> bytes:
        if 0x02 in self.read(self.read(1)[0]):
            self.sock.sendall(b"\x05\x02")
            self.read(1)
            self.read(self.read(1)[0])
            self.read(self.read(1)[0])
            self.sock.sendall(b"\x01\x00")
        else:
            self.sock.sendall(b"\x05\x00")
        atyp = self.read(4)[3]
        self.read({0x01: 4, 0x04: 16}.get(atyp) or self.read(1)[0])
        self.read(2)
        return b"\x05\x00\x00\x01" + bytes(6)

    def socks4(self) -> bytes:
        address = self.read(7)[3:]
        self.read_until(b"\0")
        if address[:3] == bytes(3):
            self.read_until(b"\0")
        return b"\x00\x5a" + bytes(6)

    def http(self) -> bytes:
        start = len(self.came) - 1
        self.read_until(b"\r\n\r\n")
        return b"HTTP/1.1 200 OK\r\n\r\n" if self.came.startswith(b"CONNECT ", start) else b""


class Proxies(NamedTuple):
    """Three proxies at one address and different ports, and three proxies at other addresses."""

    a: Recorder
    b: Recorder
    c: Recorder
    ipv6: Recorder
    unix: Recorder
    tls: Recorder
    path: str
    authority: trustme.CA

    def fill_in(self, text: str, port: int = 0) -> str:
        """Return the text with the addresses of the proxies in place of their names."""
        return text.format(
            a=f"127.0.0.1:{self.a.port}",
            b=f"127.0.0.1:{self.b.port}",
            c=f"127.0.0.1:{self.c.port}",
            a_port=self.a.port,
            tls=f"127.0.0.1:{self.tls.port}",
            tls_port=self.tls.port,
            ipv6=f"[::1]:{self.ipv6.port}",
            path=quote(self.path),
            port=port,
        )

    def recorders(self) -> dict[str, Recorder]:
        return {name: one for name, one in self._asdict().items() if isinstance(one, Recorder)}

    def forget(self) -> None:
        for recorder in self.recorders().values():
            recorder.octets.clear()

    def came(self) -> dict[str, list[bytes]]:
        """Return what came to each proxy to which anything came."""
        return {name: one.octets[:] for name, one in self.recorders().items() if one.octets}


def curl(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Run curl, and return its exit status and what it writes to stderr."""
    assert CURL is not None
    run = subprocess.run(
        [CURL, "--disable", "--verbose", "--max-time", "10", "--output", os.devnull, *arguments],
        env={
            "PATH": os.defpath,
            # curl takes names that are not ASCII only in a locale of UTF-8.
            "LC_ALL": "C.UTF-8",
            **(environ or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    return run.returncode, run.stderr.decode()


def version() -> tuple[int, ...]:
    assert CURL is not None
    out = subprocess.run([CURL, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in out.split()[1].split("."))


def authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
