"""Octets <-> values, with no state and no I/O.

RFC 1928 (SOCKS5), RFC 1929 (username/password), SOCKS4 and 4A. What a user may have got wrong (a
name that is too long, a port out of range) is found here, as a `ValueError`; what a proxy got
wrong is a `ProtocolError`.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Sequence
from enum import IntEnum

from socksclient.protocol.exceptions import (
    AuthenticationError,
    ProtocolError,
    Reply,
    Socks4Reply,
    reply_error,
)

__all__ = [
    "MAX_HEADER_SIZE",
    "NOT_IN_A_NAME",
    "NO_ACCEPTABLE_METHODS",
    "SOCKS4_REPLY_SIZE",
    "AddressType",
    "Command",
    "check_reply",
    "check_socks4_reply",
    "check_status",
    "checked_answer",
    "datagram_header_size",
    "decode_address",
    "decode_destination",
    "decode_method",
    "decode_socks4_address",
    "encode_address",
    "encode_credential",
    "encode_credentials",
    "encode_datagram_header",
    "encode_methods",
    "encode_request",
    "encode_socks4_request",
    "is_address",
    "is_unspecified",
    "list_of_codes",
    "not_what_speaks",
    "parse_host",
    "parse_port",
    "reply_size",
    "socks4_carries",
    "without_mapping",
]

VERSION = 0x05
NO_ACCEPTABLE_METHODS = 0xFF

NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x7f/:@\[\]]")
"""What says that a URL, a host with its port or half an IPv6 address was taken for a name."""

_DOTS = re.compile("[.\u3002\uff0e\uff61]")
"""The characters that separate the labels of a name (RFC 3490 §3.1, UTS 46 §4)."""

_MAX_CHARACTERS = 1024
"""The longest name to encode. A name whose encoding fits into 255 octets is never longer."""


class Command(IntEnum):
    """CMD of a request (RFC 1928 §4), and what Tor has besides (its "SOCKS extensions")."""

    CONNECT = 0x01
    BIND = 0x02
    UDP_ASSOCIATE = 0x03
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1

    @property
    def text(self) -> str:
        """As RFC 1928 writes it, such as "UDP ASSOCIATE"; Tor's as Tor does."""
        return self.name if self >= Command.RESOLVE else self.name.replace("_", " ")


class AddressType(IntEnum):
    """ATYP of an address (RFC 1928 §5)."""

    IPV4 = 0x01
    DOMAIN_NAME = 0x03
    IPV6 = 0x04


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


def encode_request(command: int, host: str, port: int) -> bytes:
    """VER CMD RSV ATYP DST.ADDR DST.PORT; host and port as `parse_host` and `parse_port` gave."""
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


# SOCKS4, 4A

SOCKS4_REPLY_SIZE = 8


def socks4_carries(host: str) -> bool:
    """Whether the IP address is of IPv4, and not 0.0.0.x, which says that a name follows."""
    ip = _ip_address(host)
    return ip is not None and ip.version == 4 and not 0 < int(ip) <= 0xFF


def encode_socks4_request(command: int, host: str, port: int, username: str) -> bytes:
    """VN CD DSTPORT DSTIP USERID NUL, and for a name, which is 4A, the name and NUL.

    The host is a name, or an address that SOCKS4 carries.
    """
    ip = _ip_address(host)
    name = b"" if ip is not None else host.encode("ascii") + b"\0"
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


def decode_socks4_address(octets: bytes) -> tuple[str, int]:
    """DSTPORT DSTIP as (host, port): in a reply, the bound address."""
    return str(ipaddress.IPv4Address(octets[2:])), int.from_bytes(octets[:2], "big")


# Addresses (RFC 1928 §5)


def is_address(host: str) -> bool:
    """Whether `host`, as `parse_host` gave it, is an IP address and not a name."""
    return _ip_address(host) is not None


def is_unspecified(host: str) -> bool:
    """Whether `host` is 0.0.0.0 or ::, which stand for "not known"."""
    ip = _ip_address(host)
    return ip is not None and ip.is_unspecified


def without_mapping(host: str) -> str:
    """Return the IPv4 address that `host` stands for, or `host` itself if it stands for none.

    An IPv4-mapped IPv6 address such as ``::ffff:192.0.2.1`` stands for 192.0.2.1 (RFC 4291
    §2.5.5.2). Systems with one socket for IPv4 and IPv6 write IPv4 addresses so.
    """
    ip = _ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return host


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_host(host: str) -> str:
    """A host as it goes over the wire: an IP address without brackets, or an ASCII name.

    Each label of a name is encoded by itself (RFC 5890 §2.3.1): a label of ASCII goes as it is
    (underscores, upper case, ``xn--``), any other by IDNA 2008 with the mapping of UTS 46. A
    trailing dot stays. A legacy spelling of an IPv4 address (``127.1``) is a name. An IPv6 address
    that stands for an IPv4 one (``::ffff:192.0.2.1``) stays the IPv6 address that the caller gave.

    Raises:
        ValueError: The host is empty, has more than 255 octets, has white space or any of
            ``:/@[]`` in it, has a label that IDNA 2008 does not allow, or is an IPv6 address with
            a zone id, which SOCKS cannot carry.
        TypeError: The host is not a str.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {type(host).__name__}")
    if not host:
        raise ValueError("host is empty")
    if not host.isascii():
        host = _to_ascii(host)
    bracketed = host.startswith("[") and host.endswith("]")
    ip = _ip_address(host[1:-1] if bracketed else host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        raise ValueError(f"host {host!r} has a zone id, which means nothing to a proxy")
    if ip is not None:
        return str(ip)
    if bracketed:
        raise ValueError(f"host {host!r} is in brackets but is no IPv6 address")
    if found := NOT_IN_A_NAME.search(host):
        raise ValueError(f"host {host!r} has {found[0]!r} in it, as no name has")
    if len(host) > 0xFF:
        raise ValueError(f"host is {len(host)} octets long; SOCKS carries 255")
    return host


def _to_ascii(host: str) -> str:
    # Importing idna takes 10 ms, and few names need it.
    import idna

    # A long name takes long to encode, and a name can come from a server's redirect.
    if len(host) > _MAX_CHARACTERS:
        raise ValueError(f"host is {len(host)} characters long; SOCKS carries at most 255 octets")
    problem = f"host {host!r} is no valid internationalised name"
    labels = _DOTS.split(host)
    for number, label in enumerate(labels):
        if label.isascii():
            continue
        try:
            labels[number] = idna.encode(label, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(
                f"{problem}: {error}; a label that is encoded already (xn--...) is sent unchanged"
            ) from error
    name = ".".join(labels)
    # No name in DNS has an empty label. UTS 46 may also map a character to a dot.
    if "" in name.removesuffix(".").split("."):
        raise ValueError(f"{problem}: it has an empty label")
    return name


def parse_port(port: int, *, least: int = 1) -> int:
    """A port number from `least` to 65535.

    Raises:
        ValueError: It is out of that range or not an integer.
    """
    try:
        number = operator.index(port)
    except TypeError:
        raise ValueError(f"port must be an integer, not {port!r}") from None
    if not least <= number <= 0xFFFF:
        raise ValueError(f"port {number} is not in the range from {least} to 65535")
    return number


def encode_address(host: str, port: int) -> bytes:
    """ATYP ADDR PORT."""
    ip = _ip_address(host)
    if ip is None:
        address = b"%c%c%b" % (AddressType.DOMAIN_NAME, len(host), host.encode("ascii"))
    elif ip.version == 4:
        address = b"%c%b" % (AddressType.IPV4, ip.packed)
    else:
        address = b"%c%b" % (AddressType.IPV6, ip.packed)
    return address + port.to_bytes(2, "big")


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


def decode_address(octets: bytes) -> tuple[str, int]:
    """Return (host, port) of the ATYP ADDR PORT that a proxy has sent.

    An IPv6 address that stands for an IPv4 address becomes that (`without_mapping`), also where the
    proxy writes it as a name. No other code has to do this, because all addresses that proxies send
    pass through here.
    """
    host, port = decode_destination(octets)
    return without_mapping(host), port


def decode_destination(octets: bytes) -> tuple[str, int]:
    """Return (host, port) of an ATYP ADDR PORT exactly as it is written there.

    A name may have no octet at all: Dante sends such names.
    """
    port = int.from_bytes(octets[-2:], "big")
    if octets[0] == AddressType.DOMAIN_NAME:
        return octets[2:-2].decode("ascii", "backslashreplace"), port
    return str(ipaddress.ip_address(octets[1:-2])), port


# Datagrams (RFC 1928 §7)

MAX_HEADER_SIZE = 4 + 1 + 255 + 2
"""Octets of the longest header of a datagram: that of a name."""

_HEADER_SIZES = {b"\0\0\0\x01": 4 + 4 + 2, b"\0\0\0\x04": 4 + 16 + 2}
_NAME_FOLLOWS = b"\0\0\0\x03"


def encode_datagram_header(host: str, port: int) -> bytes:
    """RSV FRAG ATYP DST.ADDR DST.PORT; host and port as `parse_host` and `parse_port` gave."""
    return b"\0\0\0" + encode_address(host, port)


def datagram_header_size(octets: bytes) -> int:
    """How many octets of a datagram are its header; 0 if it is to be dropped.

    That is one shorter than its header, one with RSV or ATYP that are not RFC 1928's, and every
    fragment, which who does not reassemble must drop.
    """
    size = _HEADER_SIZES.get(octets[:4], 0)
    if octets[:4] == _NAME_FOLLOWS and len(octets) > 4:
        size = 4 + 1 + octets[4] + 2
    return size if size <= len(octets) else 0
