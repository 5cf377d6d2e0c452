"""``socksclient get``: fetch a URL."""

from __future__ import annotations

import argparse
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
from socksclient.protocol.exceptions import SocksError

if TYPE_CHECKING:
    import httpx


__all__ = ["configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command, its help, and the function that runs it."""
    parser.epilog = statuses(
        "the whole HTTP response has arrived, whatever its status",
        "the destination failed: TLS, HTTP, or a timeout after the proxy had connected",
    )
    parser.set_defaults(run=_get)
    parser.add_argument("url", metavar="URL", help="an http:// or https:// URL")
    parser.add_argument(
        "-i", "--include", action="store_true", help="print the status and the header fields too"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="print each step to standard error"
    )
    add_options(parser, timeout="the connection through the proxy, and then each read,")


def _get(arguments: argparse.Namespace) -> int:
    import httpx

    from socksclient.httpx import SocksTransport

    if arguments.verbose:
        tell_steps()
    try:
        url = httpx.URL(arguments.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        transport = SocksTransport(chain_for(arguments, (url.host, port)))
    # An OSError says that SSL_CERT_FILE names a file that cannot be read.
    except (ValueError, OSError, httpx.InvalidURL) as error:
        return fail(error, USAGE)
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
        return fail(error, USAGE)
    except httpx.RequestError as error:
        cause = error.__cause__
        return fail(cause if isinstance(cause, SocksError) else error, status_of(cause))
    return 0


def _print_head(response: httpx.Response) -> None:
    lines = [f"{response.http_version} {response.status_code} {response.reason_phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.multi_items()]
    sys.stdout.buffer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
