"""The `socksclient` command."""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from socksclient.protocol.address import is_address
from socksclient.protocol.exceptions import (
    AssociationClosed,
    AuthenticationError,
    ProtocolError,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.protocol.proxy import Proxy, as_chain

if TYPE_CHECKING:
    import httpx

    from socksclient.protocol.proxy import Chain

__all__ = ["main"]

_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?")
_USAGE = 2
_STATUS: dict[type[SocksError], tuple[int, str]] = {
    ProxyConnectError: (3, "the proxy cannot be reached, or its TLS failed"),
    ProxyTimeout: (4, "the timeout passed before the proxy had connected"),
    ProtocolError: (5, "the proxy does not speak SOCKS (or HTTP) as it should, or hung up"),
    AuthenticationError: (6, "the proxy accepts no method of ours, or not the credentials"),
    ReplyError: (7, "the proxy refused the request, or ended the UDP association"),
    AssociationClosed: (7, ""),
    ResolveError: (8, "the destination cannot be resolved here (socks5://, socks4://)"),
}


_CONNECT = """\
Standard input goes to HOST and PORT through the proxy, and what comes back to standard output:

  ssh -o ProxyCommand="socksclient connect %h %p --proxy socks5h://127.0.0.1:1080" HOST

(there, a % in the URL is written %%). Each end is passed on, and the other direction goes on
until its own. There are two exceptions: the end of the input cannot be passed on through TLS with
a proxy, and where the input is a terminal, the destination's end is the end of all.
"""


def _statuses(success: str, failure: str) -> str:
    return "\n".join(
        [
            "exit status:",
            f"  0  {success}",
            f"  1  {failure}",
            f"  {_USAGE}  a name, a URL or an option is not valid",
            *(f"  {status}  {meaning}" for status, meaning in _STATUS.values() if meaning),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
        argv: The arguments after the command's name; those of the process by default.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "demo":
            from socksclient._cli.demo import demo

            return demo()
        if arguments.verbose:
            _tell_steps()
        commands = {"get": _get, "dns": _dns, "connect": _connect}
        return commands[arguments.command](arguments)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="socksclient", description="Through a SOCKS or HTTP proxy."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="demo | get | dns | connect"
    )
    commands.add_parser(
        "demo", help="HTTPS, a DNS query over UDP and a BIND through real SOCKS5, all on loopback"
    )
    get = commands.add_parser(
        "get",
        help="what a URL leads to, through a proxy",
        epilog=_statuses(
            "a whole HTTP response came, whatever its status",
            "the destination failed: TLS, HTTP, or a timeout when the connection was there",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    get.add_argument("url", metavar="URL", help="http:// or https://")
    get.add_argument("-i", "--include", action="store_true", help="print the headers as well")
    get.add_argument("-v", "--verbose", action="store_true", help="tell the steps on stderr")
    dns = commands.add_parser(
        "dns",
        help="what a name server answers, over UDP through a proxy (TCP if that is truncated)",
        epilog=_statuses(
            "the name server answered without an error, if only that there are no such records",
            "it answered with an error (NXDOMAIN), with nonsense, or not in time",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    dns.add_argument("name", metavar="NAME", help="the domain name to ask for")
    dns.add_argument("type", metavar="TYPE", nargs="?", default="A", help="A, AAAA, TXT, MX …")
    dns.add_argument(
        "--server",
        required=True,
        type=_server,
        metavar="HOST[:PORT]",
        help="the name server; with socks5h:// the proxy resolves it if it is a name",
    )
    dns.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print the whole answer, and tell the steps on stderr",
    )
    connect = commands.add_parser(
        "connect",
        help="standard input and output, to a host and port through a proxy",
        description=_CONNECT,
        epilog=_statuses(
            "the destination has ended, and the standard input",
            "the connection broke, or nobody reads the output any more",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    connect.add_argument("host", metavar="HOST", help="a name or an IP address")
    connect.add_argument("port", metavar="PORT", type=_port)
    connect.add_argument("-v", "--verbose", action="store_true", help="tell the steps on stderr")
    for command, timeout_help in (
        (get, "for the connection through the proxy, and for each read"),
        (dns, "for all of it"),
        (connect, "for the connection through the proxy"),
    ):
        command.add_argument(
            "--proxy",
            action="append",
            metavar="URL",
            help="socks5h://[user[:password]@]host[:port]; socks5:// to resolve names here;"
            " also socks4a://, socks4://, http://, https://, and +tls behind a scheme of SOCKS;"
            " several are a chain, the nearest first; default: that of ALL_PROXY",
        )
        command.add_argument(
            "--timeout",
            type=_seconds,
            default=30.0,
            metavar="SECONDS",
            help=f"{timeout_help}; default: %(default)s",
        )
    return parser


def _server(text: str) -> tuple[str, int]:
    """HOST[:PORT], with an IPv6 address in brackets or, without a port, as it is."""
    if is_address(text):
        return text, 53
    parts = _HOST_PORT.fullmatch(text)
    if parts is None or (parts["ipv6"] and not is_address(parts["ipv6"])):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST[:PORT]")
    return parts["ipv6"] or parts["host"], int(parts["port"] or 53)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 0x7FFFFFFF // 1000:  # more than poll can wait
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def _chain(arguments: argparse.Namespace, destination: tuple[str, int]) -> Chain:
    """The proxies that are given, or else that of the environment: its password is not in `ps`.

    Raises:
        ValueError: There is none, or it cannot be.
    """
    if arguments.proxy:
        return as_chain(arguments.proxy)
    proxy = Proxy.from_env(destination)
    if proxy is None:
        raise ValueError("there is no --proxy, and ALL_PROXY has none for this destination")
    return (proxy,)


def _get(arguments: argparse.Namespace) -> int:
    import httpx

    from socksclient.httpx import SocksTransport

    try:
        url = httpx.URL(arguments.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        transport = SocksTransport(_chain(arguments, (url.host, port)))
    # An OSError is of SSL_CERT_FILE, which leads nowhere.
    except (ValueError, OSError, httpx.InvalidURL) as error:
        return _fail(error, _USAGE)
    try:
        with (
            httpx.Client(transport=transport, timeout=arguments.timeout) as client,
            client.stream("GET", arguments.url) as response,
        ):
            if arguments.include:
                _print_head(response)
            for octets in response.iter_bytes():
                sys.stdout.buffer.write(octets)
            sys.stdout.buffer.flush()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        return _fail(error, _USAGE)
    except httpx.RequestError as error:
        cause = error.__cause__
        return _fail(cause if isinstance(cause, SocksError) else error, _status(cause))
    return 0


def _status(error: BaseException | None) -> int:
    return next((status for cls, (status, _) in _STATUS.items() if isinstance(error, cls)), 1)


def _dns(arguments: argparse.Namespace) -> int:
    try:
        from socksclient.dnspython import udp_with_fallback
    except ImportError as error:
        return _fail(error, 1)
    import dns.exception
    import dns.message
    import dns.name
    import dns.rcode

    host, port = arguments.server
    try:
        name = dns.name.from_text(arguments.name, idna_codec=dns.name.IDNA_2008_UTS_46)
        query = dns.message.make_query(name, arguments.type.upper(), use_edns=0)
        proxy = _chain(arguments, arguments.server)
    except (dns.exception.DNSException, ValueError) as error:
        return _fail(error, _USAGE)
    try:
        answer, _ = udp_with_fallback(query, host, arguments.timeout, port, proxy=proxy)
    except ValueError as error:  # of the server's host and port
        return _fail(error, _USAGE)
    except (dns.exception.DNSException, OSError, EOFError) as error:
        return _fail(error, _status(error))
    if arguments.verbose:
        print(answer.to_text())
    else:
        for rrset in answer.answer:
            for rdata in rrset:
                print(rdata.to_text())
    if answer.rcode() != dns.rcode.NOERROR:
        return _fail(f"the name server answered {dns.rcode.to_text(answer.rcode())}", 1)
    return 0


def _connect(arguments: argparse.Namespace) -> int:
    from socksclient._cli.stdio import RelayError, relay
    from socksclient._sync.connect import create_connection

    if sys.stdout is None:
        return _fail("the standard output is closed", 1)
    # Not 0: when that is closed, the next socket has it.
    stdin = None if sys.stdin is None else sys.stdin.fileno()
    destination = (arguments.host, arguments.port)
    try:
        proxy = _chain(arguments, destination)
        sock = create_connection(destination, arguments.timeout, proxy=proxy)
    except ValueError as error:
        return _fail(error, _USAGE)
    except OSError as error:
        return _fail(error, _status(error))
    with sock:
        with suppress(OSError):  # a unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            relay(sock, stdin, sys.stdout.fileno())
        except RelayError as error:
            return _fail(error, 1)
    return 0


def _print_head(response: httpx.Response) -> None:
    lines = [f"{response.http_version} {response.status_code} {response.reason_phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.multi_items()]
    sys.stdout.buffer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())


class _Steps(logging.Formatter):
    """Each step with the milliseconds since the first."""

    first: float | None = None

    def format(self, record: logging.LogRecord) -> str:
        self.first = record.created if self.first is None else self.first
        return f"{(record.created - self.first) * 1000:7.1f} ms  {record.getMessage()}"


def _tell_steps() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Steps())
    logger = logging.getLogger("socksclient")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def _fail(error: BaseException | str, status: int) -> int:
    if sys.stderr is not None:  # or it would go to the standard output
        print(f"socksclient: {str(error) or type(error).__name__}", file=sys.stderr)
    return status
