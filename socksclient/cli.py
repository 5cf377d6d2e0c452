"""The `socksclient` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from socksclient.exceptions import (
    AuthenticationError,
    ProtocolError,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

__all__ = ["main"]

_USAGE = 2
_STATUS: dict[type[SocksError], tuple[int, str]] = {
    ProxyConnectError: (3, "the proxy cannot be reached"),
    ProxyTimeout: (4, "the timeout passed before the proxy had connected"),
    ProtocolError: (5, "the proxy does not speak SOCKS5 as it should, or hung up"),
    AuthenticationError: (6, "the proxy accepts no method of ours, or not the credentials"),
    ReplyError: (7, "the proxy refused the request"),
    ResolveError: (8, "the destination cannot be resolved here (socks5://)"),
}
_STATUSES = "\n".join(
    [
        "exit status:",
        "  0  a whole HTTP response came, whatever its status",
        "  1  the destination failed: TLS, HTTP, or a timeout when the connection was there",
        f"  {_USAGE}  a URL or an option is not valid",
        *(f"  {status}  {meaning}" for status, meaning in _STATUS.values()),
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
            from socksclient.demo import demo

            return demo()
        return _get(arguments)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="socksclient", description="Tries a SOCKS5 proxy.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | get")
    commands.add_parser(
        "demo", help="a real HTTPS request through a real SOCKS5 handshake, all on loopback"
    )
    get = commands.add_parser(
        "get",
        help="what a URL leads to, through a proxy",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    get.add_argument("url", metavar="URL", help="http:// or https://")
    get.add_argument(
        "--proxy",
        required=True,
        metavar="URL",
        help="socks5h://[user[:password]@]host[:port], or socks5:// to resolve names here",
    )
    get.add_argument("-i", "--include", action="store_true", help="print the headers as well")
    get.add_argument("-v", "--verbose", action="store_true", help="tell the steps on stderr")
    get.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="for the connection through the proxy, and for each read; default: %(default)s",
    )
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 0x7FFFFFFF // 1000:  # more than poll can wait
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def _get(arguments: argparse.Namespace) -> int:
    import httpx

    from socksclient.httpx import SocksTransport

    if arguments.verbose:
        _tell_steps()
    try:
        transport = SocksTransport(arguments.proxy)
    except (ValueError, OSError) as error:  # the latter: SSL_CERT_FILE leads nowhere
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
        for cls, (status, _) in _STATUS.items():
            if isinstance(cause, cls):
                return _fail(cause, status)
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


def _fail(error: BaseException, status: int) -> int:
    print(f"socksclient: {error or type(error).__name__}", file=sys.stderr)
    return status
