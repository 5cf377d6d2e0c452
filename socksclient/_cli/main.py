"""The `socksclient` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from socksclient._cli import connect, dns, get

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: The arguments after the name of the command. By default, those of this process.

    Raises:
        SystemExit: If the arguments are not valid, or if they ask for help.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:
        # Nobody reads the output any more. At exit, Python flushes what is left in its buffer, and
        # would report the error once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="socksclient", description="Use a SOCKS or HTTP proxy from the command line."
    )
    commands = parser.add_subparsers(required=True, metavar="demo | get | dns | connect")
    demo = commands.add_parser(
        "demo", help="show HTTPS, a DNS query over UDP, and BIND through SOCKS5 servers on loopback"
    )
    demo.set_defaults(run=_demo)
    configured = (
        (get, "get", "fetch a URL through a proxy, and print the body of the response"),
        (
            dns,
            "dns",
            "send a DNS query through a proxy over UDP; over TCP too if the answer is truncated",
        ),
        (connect, "connect", "connect standard input and output to a host through a proxy"),
    )
    for module, name, summary in configured:
        module.configure(
            commands.add_parser(
                name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
            )
        )
    return parser


def _demo(_arguments: argparse.Namespace) -> int:
    from socksclient._cli.demo import demo

    return demo()
