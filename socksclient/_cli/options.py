"""What the commands `get`, `dns` and `connect` share: options, steps and exit statuses."""

from __future__ import annotations

import argparse
import logging
import sys

from socksclient._sync.timeouts import MAX_TIMEOUT
from socksclient.protocol.address import HostPort
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
from socksclient.protocol.proxy import Chain, Proxy, as_chain

__all__ = ["USAGE", "add_options", "chain_for", "fail", "status_of", "statuses", "tell_steps"]

USAGE = 2
"""The exit status for arguments that are not valid, as argparse has it."""

_STATUSES: dict[type[SocksError], tuple[int, str]] = {
    ProxyConnectError: (3, "the proxy cannot be reached, or TLS with the proxy failed"),
    ProxyTimeout: (4, "the timeout passed before the proxy had made the connection"),
    ProtocolError: (5, "the proxy broke the rules of SOCKS (or HTTP), or closed the connection"),
    AuthenticationError: (6, "the proxy accepts no method offered, or refuses the credentials"),
    ReplyError: (7, "the proxy refused the request, or ended the UDP association"),
    AssociationClosed: (7, ""),
    ResolveError: (8, "this machine cannot resolve the destination (socks5://, socks4://)"),
}


def statuses(success: str, failure: str) -> str:
    """Return the table of exit statuses for the end of a command's help.

    Args:
        success: What status 0 means for this command.
        failure: What status 1 means.
    """
    meanings = [
        (0, success),
        (1, failure),
        (USAGE, "a name, a URL or an option is not valid"),
        *((status, meaning) for status, meaning in _STATUSES.values() if meaning),
    ]
    return "\n".join(["exit status:", *(f"  {status}  {meaning}" for status, meaning in meanings)])


def add_options(parser: argparse.ArgumentParser, *, timeout: str) -> None:
    """Add the options --proxy and --timeout; `timeout` says what must end within the time."""
    parser.add_argument(
        "--proxy",
        action="append",
        metavar="URL",
        help="the proxy: socks5h://[user[:password]@]host[:port]. The schemes socks5h, socks4a"
        " and http let the proxy resolve names; socks5 and socks4 resolve names on this machine."
        " For TLS with the proxy, append +tls to a scheme of SOCKS, or write https. Repeat the"
        " option for a chain of proxies, the nearest first. Default: the proxy in ALL_PROXY",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help=f"how long {timeout} may take; default: %(default)s",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0 and up to {MAX_TIMEOUT}"
        )
    return seconds


def chain_for(arguments: argparse.Namespace, destination: HostPort) -> Chain:
    """Return the proxies of --proxy, or else the proxy of the environment.

    A password in ALL_PROXY, unlike one in an argument, is not shown by `ps`.

    Raises:
        ValueError: If there is no proxy for the destination, or if a proxy's URL is not valid.
    """
    if arguments.proxy:
        return as_chain(arguments.proxy)
    proxy = Proxy.from_env(destination)
    if proxy is None:
        raise ValueError(
            "no proxy for this destination: give --proxy, or set ALL_PROXY"
            " (and take the destination out of NO_PROXY)"
        )
    return (proxy,)


def status_of(error: BaseException | None) -> int:
    """Return the exit status for an error; 1 if the error is not one of this library's."""
    return next((status for cls, (status, _) in _STATUSES.items() if isinstance(error, cls)), 1)


def fail(error: BaseException | str, status: int) -> int:
    """Print the error to standard error, and return `status`."""
    # If standard error is closed, `print` would write to standard output.
    if sys.stderr is not None:
        print(f"socksclient: {str(error) or type(error).__name__}", file=sys.stderr)
    return status


def tell_steps() -> None:
    """Print each step of every connection to standard error, as the library logs the steps."""
    handler = logging.StreamHandler()
    handler.setFormatter(_StepFormatter())
    logger = logging.getLogger("socksclient")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


class _StepFormatter(logging.Formatter):
    """Formats a step with the milliseconds since the first step."""

    first: float | None = None

    def format(self, record: logging.LogRecord) -> str:
        self.first = record.created if self.first is None else self.first
        return f"{(record.created - self.first) * 1000:7.1f} ms  {record.getMessage()}"
