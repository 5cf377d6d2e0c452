"""Octets <-> values, with no state and no I/O.

RFC 1928 (SOCKS5), RFC 1929 (username/password), SOCKS4 and 4A. What a user may have got wrong (a
name that is too long, a port out of range) is found here, as a `ValueError`; what a proxy got
wrong is a `ProtocolError`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from socksclient.protocol.address import (
    NOT_IN_A_NAME,
    AddressType,
    Host,
    HostPort,
    encode_address,
    is_address,
)
from socksclient.protocol.codes import Command, Reply, Socks4Reply
from socksclient.protocol.exceptions import AuthenticationError, ProtocolError, reply_error

__all__ = [
    "MAX_HEADER_SIZE",
    "NO_ACCEPTABLE_METHODS",
    "SOCKS4_REPLY_SIZE",
    "check_reply",
    "check_socks4_reply",
    "check_status",
    "checked_answer",
    "datagram_header_size",
    "decode_method",
    "decode_socks4_address",
    "encode_credential",
    "encode_credentials",
    "encode_datagram_header",
    "encode_methods",
    "encode_request",
    "encode_socks4_request",
    "list_of_codes",
    "not_what_speaks",
    "reply_size",
    "socks4_carries",
]

VERSION = 0x05
NO_ACCEPTABLE_METHODS = 0xFF


# Method selection (RFC 1928 §3)


def encode_methods(methods: Sequence[int]) -> bytes:
    """VER NMETHODS METHODS: the methods offered, in the order of preference."""
    return bytes([VERSION, len(methods), *methods])


def decode_method(octets: bytes, offered: Sequence[int]) -> int:
    """VER METHOD: the method that the proxy selected among those `offered`."""
    version, method = octets
    if version != VERSION:
        raise ProtocolError(not_what_speaks(octets, "a SOCKS5 proxy", "version 05"), octets)
    if method == NO_ACCEPTABLE_METHODS:
        codes = list_of_codes(offered)
        if list(offered) == [0x00]:
            raise AuthenticationError(
                f"the proxy wants authentication, and there is no username (offered: {codes})"
            )
        raise AuthenticationError(f"the proxy accepts none of the methods offered ({codes})")
    if method not in offered:
        raise ProtocolError(
            f"the proxy selected method {method:02X}, which was not offered"
            f" ({list_of_codes(offered)})",
            octets,
        )
    return method


def list_of_codes(methods: Sequence[int]) -> str:
    """Return the codes of methods, as they are written in error texts."""
    return ", ".join(f"{method:02X}" for method in methods)


def not_what_speaks(octets: bytes, expected: str, wanted: str) -> str:
    """What speaks, judged by the first two octets of its first answer; it is not `expected`."""
    if octets[:2] == b"HT" and b"HTTP/".startswith(octets[:5]):
        return f"this is an HTTP proxy or server, not {expected}: it answered in HTTP"
    if octets[:1] == b"\0" and octets[1:2] in (b"\x5a", b"\x5b", b"\x5c", b"\x5d"):
        return f"this is a SOCKS4 server, not {expected}: it answered in SOCKS4"
    if octets[0] == VERSION:
        return f"this is a SOCKS5 server, not {expected}: it answered in SOCKS5"
    if octets[:2] == b"\x15\x03":
        kind = expected.partition(" ")[2]
        return f"this is a TLS server, not a plain {kind}: it answered with a TLS alert"
    return f"this is not {expected}: it answered with {octets[:2].hex(' ')}, {wanted} is wanted"


# Username/password sub-negotiation (RFC 1929 §2)


def encode_credential(field: str, value: str, limit: int | None = 255) -> bytes:
    """A user name or a password as UTF-8.

    Args:
        field: What it is, for the error's text, which never bears the value.
        value: RFC 1929 asks for one octet at least; Tor, curl and token-as-user proxies live with
            empty ones.
        limit: The most octets that it may have.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a str, not {type(value).__name__}")
    octets = value.encode(errors="replace")
    if octets.decode() != value:  # so that no error has the value as its context
        raise ValueError(f"{field} cannot be encoded as UTF-8")
    if limit is not None and len(octets) > limit:
        raise ValueError(f"{field} is {len(octets)} octets long in UTF-8; SOCKS carries {limit}")
    return octets


def encode_credentials(username: str, password: str) -> bytes:
    """VER=01 ULEN UNAME PLEN PASSWD."""
    uname = encode_credential("username", username)
    passwd = encode_credential("password", password)
    return b"\x01%c%b%c%b" % (len(uname), uname, len(passwd), passwd)


def check_status(octets: bytes, reserved: bool = False) -> None:
    """VER STATUS: raises unless the credentials were accepted.

    Args:
        octets: The message.
        reserved: Whether the user name is one that Tor has reserved.
    """
    version, status = octets
    # Some servers answer with the version of SOCKS in place of the sub-negotiation's, Tor among
    # them (`05 01` to a reserved user name); curl does not look at it at all.
    if version not in (0x01, VERSION):
        raise ProtocolError(
            f"version {version:02X} in the answer to the credentials; 01 is wanted", octets
        )
    if status != 0x00:
        refused = f"the proxy refused the credentials (STATUS {status:02X})"
        if version == VERSION and reserved:
            # Tor says it in the ten octets of a failed reply (proposal 351).
            refused += ": Tor keeps user names that begin with <torS0X> to itself, and does not"
            refused += " know this form of them"
        raise AuthenticationError(refused)


# Request and reply (RFC 1928 §4–6)


def encode_request(command: int, host: Host, port: int) -> bytes:
    """Return VER CMD RSV ATYP DST.ADDR DST.PORT."""
    return bytes([VERSION, command, 0x00]) + encode_address(host, port)


def check_reply(octets: bytes, command: Command, *, is_first: bool) -> None:
    """Check the beginning of a reply, VER REP …; two octets are enough.

    A failure is raised before the rest of the reply is looked at: some servers end a failure after
    two octets or after four, and Tor sends failures with an ATYP of 0.

    Args:
        octets: The beginning of the reply.
        command: The command of the request.
        is_first: Whether the reply answers the request, and is not the second reply to BIND.

    Raises:
        ReplyError: The proxy refused the request.
        ProtocolError: The version is not 05.
    """
    version, rep = octets[:2]
    if version != VERSION:
        raise ProtocolError(
            f"version {version:02X} in the reply to the request; 05 is wanted", octets
        )
    if rep == Reply.CONNECTION_NOT_ALLOWED_BY_RULESET and is_first:
        # 3proxy accepts every password, and clients without one, and then refuses their requests.
        hint = "; some proxies also reply this to wrong or missing credentials"
        raise reply_error(Reply(rep), command.text, hint=hint)
    if rep != Reply.SUCCEEDED:
        raise reply_error(Reply(rep), command.text)


def checked_answer(command: Command, answer: str) -> str:
    """Return Tor's answer to RESOLVE, which is an IP address, or to RESOLVE_PTR, which is a name.

    Raises:
        ProtocolError: The answer is something else.
    """
    good = is_address(answer)
    if command == Command.RESOLVE_PTR:
        good = not (good or NOT_IN_A_NAME.search(answer) or "\\" in answer or not answer)
    if not good:
        raise ProtocolError(f"the answer to {command.text} is {answer!r}")
    return answer


def reply_size(head: bytes) -> int:
    """How many octets a reply has, given its first five.

    Raises:
        ProtocolError: The ATYP is not one of RFC 1928's.
    """
    atyp, first = head[3:5]
    if atyp == AddressType.IPV4:
        return 4 + 4 + 2
    if atyp == AddressType.IPV6:
        return 4 + 16 + 2
    if atyp == AddressType.DOMAIN_NAME:
        return 4 + 1 + first + 2
    raise ProtocolError(f"address type {atyp:02X} in the reply; 01, 03 or 04 is wanted", head)


# SOCKS4, 4A

SOCKS4_REPLY_SIZE = 8


def socks4_carries(host: Host) -> bool:
    """Return whether SOCKS4 has a form for a host that is an IP address.

    That is an IPv4 address other than 0.0.0.x, which says that a name follows.
    """
    ip = host.ip
    return ip is not None and ip.version == 4 and not 0 < int(ip) <= 0xFF


def encode_socks4_request(command: int, host: Host, port: int, username: str) -> bytes:
    """Return VN CD DSTPORT DSTIP USERID NUL, and for a name, which is 4A, the name and NUL.

    The host is a name, or an address that SOCKS4 carries.
    """
    ip = host.ip
    name = b"" if ip is not None else host.text.encode("ascii") + b"\0"
    address = b"\0\0\0\x01" if ip is None else ip.packed
    head = b"\x04%c%b%b" % (command, port.to_bytes(2, "big"), address)
    return head + username.encode() + b"\0" + name


def check_socks4_reply(octets: bytes) -> None:
    """VN CD …: raises unless the request was granted. Two octets are enough."""
    version, code = octets[:2]
    if version != 0x00:
        raise ProtocolError(not_what_speaks(octets[:2], "a SOCKS4 proxy", "version 00"), octets)
    if code != Socks4Reply.GRANTED:
        raise reply_error(Socks4Reply(code))


def decode_socks4_address(octets: bytes) -> HostPort:
    """DSTPORT DSTIP as (host, port): in a reply, the bound address."""
    return str(ipaddress.IPv4Address(octets[2:])), int.from_bytes(octets[:2], "big")


# Datagrams (RFC 1928 §7)

MAX_HEADER_SIZE = 4 + 1 + 255 + 2
"""Octets of the longest header of a datagram: that of a name."""

_HEADER_SIZES = {b"\0\0\0\x01": 4 + 4 + 2, b"\0\0\0\x04": 4 + 16 + 2}
_NAME_FOLLOWS = b"\0\0\0\x03"


def encode_datagram_header(host: str, port: int) -> bytes:
    """Return RSV FRAG ATYP DST.ADDR DST.PORT."""
    return b"\0\0\0" + encode_address(Host.of(host), port)


def datagram_header_size(octets: bytes) -> int:
    """How many octets of a datagram are its header; 0 if it is to be dropped.

    That is one shorter than its header, one with RSV or ATYP that are not RFC 1928's, and every
    fragment, which who does not reassemble must drop.
    """
    size = _HEADER_SIZES.get(octets[:4], 0)
    if octets[:4] == _NAME_FOLLOWS and len(octets) > 4:
        size = 4 + 1 + octets[4] + 2
    return size if size <= len(octets) else 0
