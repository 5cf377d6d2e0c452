"""Copying between standard input and output and a connection."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trustme

from socksclient._cli.stdio import copy_both_ways
from socksclient._cli.stdio_tls import TLSConnection

from helpers.command_line import read_exactly, write_all
from helpers.support import LONG, in_thread, receive_exactly


@contextmanager
def tls_connection(sslsocket_class: type[ssl.SSLSocket]) -> Iterator[tuple[Any, ssl.SSLSocket]]:
    """Yield both ends of a connection with TLS; the client's end is of the given class."""
    authority = trustme.CA()
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.sslsocket_class = sslsocket_class
    authority.configure_trust(client_context)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    ours, theirs = socket.socketpair()
    accepting = in_thread(partial(server_context.wrap_socket, theirs, server_side=True))
    with client_context.wrap_socket(ours, server_hostname="127.0.0.1") as client:
        with accepting.result(LONG) as server:
            yield client, server


class WatchedSocket(ssl.SSLSocket):
    """A socket that notices when two threads use it at once."""

    users = 0

    def recv(self, *args: Any) -> bytes:
        with self._alone():
            return super().recv(*args)

    def send(self, *args: Any) -> int:
        with self._alone():
            return super().send(*args)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self.users == 0
        self.users += 1
        # Let the other thread run, which must not use the socket now.
        time.sleep(0)
        try:
            yield
        finally:
            self.users -= 1


# OpenSSL allows only one thread at a time to use a connection.
def test_copy_both_ways_never_uses_a_tls_socket_in_two_threads_at_once() -> None:
    octets = os.urandom(1 << 22)
    stdin, writing = os.pipe()
    reading, stdout = os.pipe()
    with tls_connection(WatchedSocket) as (client, server):
        copying = in_thread(partial(copy_both_ways, TLSConnection(client), stdin, stdout))
        sending = in_thread(partial(write_all, os.fdopen(writing, "wb", 0), octets))
        echoing = in_thread(partial(echo_octets, server, len(octets)))
        with os.fdopen(reading, "rb", 0) as file:
            assert read_exactly(file, len(octets)) == octets
            for future in (sending, echoing, copying):
                future.result(LONG)
    os.close(stdin)
    os.close(stdout)


def echo_octets(sock: socket.socket, count: int) -> None:
    """Send back `count` octets, and then close the connection."""
    while count:
        octets = sock.recv(1 << 16)
        sock.sendall(octets)
        count -= len(octets)
    sock.close()


class Renegotiating(ssl.SSLSocket):
    """A socket that once wants to write while it receives, and to read while it sends.

    That happens when TLS 1.2 is renegotiated.
    """

    wants: list[str]

    def recv(self, *args: Any) -> bytes:
        if "write" in self.wants:
            self.wants.remove("write")
            raise ssl.SSLWantWriteError
        return super().recv(*args)

    def send(self, *args: Any) -> int:
        if "read" in self.wants:
            self.wants.remove("read")
            raise ssl.SSLWantReadError
        return super().send(*args)


def test_copy_both_ways_goes_on_when_tls_is_renegotiated() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as stdin, open(os.devnull, "wb") as stdout:
        with tls_connection(Renegotiating) as (client, server):
            client.wants = ["read", "write"]
            done = in_thread(
                lambda: copy_both_ways(TLSConnection(client), stdin.fileno(), stdout.fileno())
            )
            os.write(write_end, b"over")
            os.close(write_end)
            assert receive_exactly(server, 4) == b"over"
            server.close()
            assert done.result(LONG) is None
            assert client.wants == []
