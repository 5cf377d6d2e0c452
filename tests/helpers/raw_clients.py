"""Clients that know no SOCKS: they send octets, and expect octets."""

from __future__ import annotations

import socket

from socksclient.testing import SocksServer

from helpers.support import LONG, receive_exactly

NOWHERE = "01 00 00 00 00 00 00"
"""ATYP, BND.ADDR and BND.PORT of a reply that says nothing, in hex."""


def talk(server: SocksServer, *messages: tuple[str, str]) -> None:
    """Send the first of each pair, in hex, and expect the second in return; then expect the end."""
    with socket.create_connection(server.address, LONG) as sock:
        for sent, expected in messages:
            sock.sendall(bytes.fromhex(sent))
            assert receive_exactly(sock, len(bytes.fromhex(expected))).hex(" ") == expected
        assert sock.recv(1) == b""


def http_head(*lines: str) -> str:
    """Return the head of an HTTP message, in hex."""
    return "\r\n".join([*lines, "", ""]).encode().hex(" ")
