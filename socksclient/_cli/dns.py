"""``socksclient dns``: ask a name server."""

from __future__ import annotations

import argparse
import re

from socksclient._cli.options import (
    USAGE,
    add_options,
    chain_for,
    fail,
    status_of,
    statuses,
    tell_steps,
)
from socksclient.protocol.address import HostPort, is_address

__all__ = ["configure"]

_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command, its help, and the function that runs it."""
    parser.epilog = statuses(
        "the name server answered without an error, even if there are no such records",
        "the name server answered with an error (NXDOMAIN) or nonsense, or not in time",
    )
    parser.set_defaults(run=_dns)
    parser.add_argument("name", metavar="NAME", help="the domain name to ask for")
    parser.add_argument("type", metavar="TYPE", nargs="?", default="A", help="A, AAAA, TXT, MX …")
    parser.add_argument(
        "--server",
        required=True,
        type=_server,
        metavar="HOST[:PORT]",
        help="the name server; the proxy resolves its name, unless the scheme of the proxy's URL"
        " is socks5 or socks4",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="print the whole answer, and each step to standard error",
    )
    add_options(parser, timeout="the whole command")


def _server(text: str) -> HostPort:
    """Parse HOST[:PORT]: an IPv6 address needs brackets only if a port follows."""
    if is_address(text):
        return text, 53
    parts = _HOST_PORT.fullmatch(text)
    if parts is None or (parts["ipv6"] and not is_address(parts["ipv6"])):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form HOST[:PORT], with an IPv6 address in brackets"
        )
    return parts["ipv6"] or parts["host"], int(parts["port"] or 53)


def _dns(arguments: argparse.Namespace) -> int:
    if arguments.verbose:
        tell_steps()
    try:
        from socksclient.dnspython import udp_with_fallback
    except ImportError as error:
        return fail(error, 1)
    import dns.exception
    import dns.message
    import dns.name
    import dns.rcode

    host, port = arguments.server
    try:
        name = dns.name.from_text(arguments.name, idna_codec=dns.name.IDNA_2008_UTS_46)
        query = dns.message.make_query(name, arguments.type.upper(), use_edns=0)
        proxy = chain_for(arguments, arguments.server)
    except (dns.exception.DNSException, ValueError) as error:
        return fail(error, USAGE)
    try:
        answer, _ = udp_with_fallback(query, host, arguments.timeout, port, proxy=proxy)
    # A ValueError says that the name server's host or port is not valid.
    except ValueError as error:
        return fail(error, USAGE)
    except (dns.exception.DNSException, OSError, EOFError) as error:
        return fail(error, status_of(error))
    if arguments.verbose:
        print(answer.to_text())
    else:
        for rrset in answer.answer:
            for rdata in rrset:
                print(rdata.to_text())
    if answer.rcode() != dns.rcode.NOERROR:
        return fail(f"the name server answered {dns.rcode.to_text(answer.rcode())}", 1)
    return 0
