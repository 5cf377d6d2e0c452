"""``socksclient connect``: standard input and output through a proxy."""

from __future__ import annotations

import argparse
import re
import socket
import sys
from typing import TYPE_CHECKING

from socksclient._cli.options import (
    USAGE,
    add_options,
    chain_for,
    fail,
    status_of,
    statuses,
    tell_steps,
)

if TYPE_CHECKING:
    from socksclient._cli.stdio import Connection
    from socksclient.protocol.proxy import Chain

__all__ = ["configure"]

_DESCRIPTION = """\
Send standard input to HOST and PORT through a proxy, and write what comes back to standard
output:

  ssh -o ProxyCommand="socksclient connect %h %p --proxy socks5h://127.0.0.1:1080" HOST

(In this option of ssh, write %% for a % in the URL.) When one direction ends, the end is passed on,
and the other direction goes on until it ends too. There are two exceptions. TLS with a proxy cannot
pass on the end of standard input. And if standard input is a terminal, the command ends as soon as
the destination does.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command, its help, and the function that runs it."""
    parser.description = _DESCRIPTION
    parser.epilog = statuses(
        "the destination and standard input have ended",
        "the connection broke, or nobody reads standard output any more",
    )
    parser.set_defaults(run=_connect)
    parser.add_argument("host", metavar="HOST", help="a name or an IP address")
    parser.add_argument("port", metavar="PORT", type=_port, help="1 to 65535")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print each step to standard error"
    )
    add_options(parser, timeout="the connection through the proxy")


def _port(text: str) -> int:
    # `int` alone would take " 7", "1_0" and digits of other scripts.
    if not re.fullmatch("[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number")
    return int(text)


def _connect(arguments: argparse.Namespace) -> int:
    from socksclient._cli.stdio import CopyError, copy_both_ways
    from socksclient._net.sockets import send_at_once
    from socksclient._sync.connect import create_connection

    if arguments.verbose:
        tell_steps()
    if sys.stdout is None:
        return fail("standard output is closed", 1)
    # If standard input is closed, descriptor 0 will be the next socket, and must not be read here.
    stdin = None if sys.stdin is None else sys.stdin.fileno()
    destination = (arguments.host, arguments.port)
    try:
        proxy = chain_for(arguments, destination)
        sock = create_connection(destination, arguments.timeout, proxy=proxy)
    except ValueError as error:
        return fail(error, USAGE)
    except OSError as error:
        return fail(error, status_of(error))
    with sock:
        send_at_once(sock)
        try:
            copy_both_ways(_connection(sock, proxy), stdin, sys.stdout.fileno())
        except CopyError as error:
            return fail(error, 1)
    return 0


def _connection(sock: socket.socket, chain: Chain) -> Connection:
    if any(proxy.tls for proxy in chain):
        from socksclient._cli.stdio_tls import TLSConnection

        return TLSConnection(sock)
    from socksclient._cli.stdio import Connection

    return Connection(sock)
