"""Hosts and ports: as callers write them, as values, and as octets (RFC 1928 §5).

All errors here are a `ValueError` or a `TypeError`. What a proxy gets wrong is found elsewhere.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

__all__ = [
    "NOT_IN_A_NAME",
    "AddressType",
    "Host",
    "HostPort",
    "IPAddress",
    "SocketAddress",
    "decode_address",
    "decode_destination",
    "encode_address",
    "host_port",
    "is_address",
    "is_onion",
    "parse_port",
    "socket_address",
    "without_mapping",
]

HostPort: TypeAlias = tuple[str, int]
"""A host, which is a name or an IP address without brackets, and a port."""

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""(host, port), or (host, port, flow info, scope id) of an IPv6 address, as sockets have them."""

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x7f/:@\[\]]")
"""The characters that tell a URL, a host with its port, or half an IPv6 address from a name."""

_DOTS = re.compile("[.\u3002\uff0e\uff61]")
"""The characters that separate the labels of a name (RFC 3490 §3.1, UTS 46 §4)."""

_MAX_CHARACTERS = 1024
"""The longest name to encode. A name whose encoding fits into 255 octets is never longer."""


class AddressType(IntEnum):
    """ATYP of an address (RFC 1928 §5)."""

    IPV4 = 0x01
    DOMAIN_NAME = 0x03
    IPV6 = 0x04


@dataclass(frozen=True, slots=True)
class Host:
    """A host, parsed once: a name, an IPv4 address or an IPv6 address.

    `Host.parse` makes one from what a caller wrote, and checks it. `Host.of` makes one from what
    a proxy wrote, which may be anything.

    Attributes:
        text: The name in ASCII, or the IP address without brackets.
        ip: The IP address; None for a name.
    """

    text: str
    ip: IPAddress | None

    @classmethod
    def parse(cls, text: str) -> Host:
        """Return the host that a caller means by a text.

        Each label of a name is encoded by itself (RFC 5890 §2.3.1): a label of ASCII stays as it is
        (underscores, upper case, ``xn--``), any other is encoded by IDNA 2008 with the mapping of
        UTS 46. A trailing dot stays. A legacy spelling of an IPv4 address (``127.1``) is a name. An
        IPv6 address that stands for an IPv4 address (``::ffff:192.0.2.1``) stays the IPv6 address
        that the caller gave.

        Args:
            text: A name or an IP address. An IPv6 address may be in brackets.

        Raises:
            ValueError: The text is empty, has more than 255 octets, has white space or any of
                ``:/@[]`` in it, has a label that IDNA 2008 does not allow, or is an IPv6 address
                with a zone id, which SOCKS cannot carry.
            TypeError: The text is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(f"host must be a str, not {type(text).__name__}")
        # A subclass of str, such as an enum, may format itself as another text.
        text = str.__str__(text)
        if not text:
            raise ValueError("host is empty")
        if not text.isascii():
            text = _to_ascii(text)
        is_bracketed = text.startswith("[") and text.endswith("]")
        ip = _ip_address(text[1:-1] if is_bracketed else text)
        if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
            raise ValueError(f"host {text!r} has a zone id, which means nothing to a proxy")
        if ip is not None:
            return cls(str(ip), ip)
        if is_bracketed:
            raise ValueError(f"host {text!r} is in brackets but is not an IPv6 address")
        if found := NOT_IN_A_NAME.search(text):
            raise ValueError(f"host {text!r} has {found[0]!r} in it, which no name has")
        if len(text) > 0xFF:
            raise ValueError(f"host is {len(text)} octets long; SOCKS carries at most 255")
        return cls(text, None)

    @classmethod
    def of(cls, text: str) -> Host:
        """Return the host that a text stands for, without a check: what is no address is a name."""
        return cls(text, _ip_address(text))

    @property
    def is_name(self) -> bool:
        """Whether the host is a name and not an IP address."""
        return self.ip is None

    @property
    def is_unspecified(self) -> bool:
        """Whether the host is 0.0.0.0 or ::, which stand for "not known"."""
        return self.ip is not None and self.ip.is_unspecified

    @property
    def unmapped(self) -> Host:
        """The IPv4 address that an IPv4-mapped address stands for; any other host is itself."""
        mapped = self.ip.ipv4_mapped if isinstance(self.ip, ipaddress.IPv6Address) else None
        return self if mapped is None else Host(str(mapped), mapped)

    def __str__(self) -> str:
        return self.text


def _ip_address(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _to_ascii(name: str) -> str:
    # Importing idna takes 10 ms, and few names need it.
    import idna

    # A long name takes long to encode, and a name can come from a server's redirect.
    if len(name) > _MAX_CHARACTERS:
        raise ValueError(f"host is {len(name)} characters long; SOCKS carries at most 255 octets")
    problem = f"host {name!r} is not a valid internationalised name"
    labels = _DOTS.split(name)
    for number, label in enumerate(labels):
        if label.isascii():
            continue
        try:
            labels[number] = idna.encode(label, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(
                f"{problem}: {error}; a label that is encoded already (xn--...) is sent unchanged"
            ) from error
    encoded = ".".join(labels)
    # No name in DNS has an empty label. UTS 46 may also map a character to a dot.
    if "" in encoded.removesuffix(".").split("."):
        raise ValueError(f"{problem}: it has an empty label")
    return encoded


def is_address(text: str) -> bool:
    """Return whether a text is an IP address without brackets, and not a name."""
    return _ip_address(text) is not None


def is_onion(text: str) -> bool:
    """Return whether a host is a name that no resolver may be asked for (RFC 7686 §2)."""
    return text.lower().rstrip(".").endswith(".onion")


def without_mapping(text: str) -> str:
    """Return the IPv4 address that a host stands for, or the host itself if it stands for none.

    An IPv4-mapped IPv6 address such as ``::ffff:192.0.2.1`` stands for 192.0.2.1 (RFC 4291
    §2.5.5.2). Systems with one socket for IPv4 and IPv6 write IPv4 addresses so.
    """
    return Host.of(text).unmapped.text if ":" in text else text


def parse_port(port: int, *, least: int = 1) -> int:
    """Return a port as an int, if it is a number from `least` to 65535.

    Raises:
        ValueError: The port is out of that range, or it is not an integer.
    """
    try:
        # A bool and an enum are integers, and format themselves as another text.
        number = int(operator.index(port))
    except TypeError:
        raise ValueError(f"port must be an integer, not {port!r}") from None
    if not least <= number <= 0xFFFF:
        raise ValueError(f"port {number} is not in the range from {least} to 65535")
    return number


def host_port(host: str, port: int) -> str:
    """Return a host and a port as people write them, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def socket_address(host: str, port: int) -> SocketAddress:
    """Return a host and a port as sockets have them: four values for an IPv6 address."""
    return (host, port, 0, 0) if ":" in host else (host, port)


def encode_address(host: Host, port: int) -> bytes:
    """Return ATYP ADDR PORT."""
    ip = host.ip
    if ip is None:
        address = b"%c%c%b" % (AddressType.DOMAIN_NAME, len(host.text), host.text.encode("ascii"))
    elif ip.version == 4:
        address = b"%c%b" % (AddressType.IPV4, ip.packed)
    else:
        address = b"%c%b" % (AddressType.IPV6, ip.packed)
    return address + port.to_bytes(2, "big")


def decode_address(octets: bytes) -> HostPort:
    """Return (host, port) of the ATYP ADDR PORT that a proxy has sent.

    An IPv6 address that stands for an IPv4 address becomes that (`without_mapping`), also where the
    proxy writes it as a name. No other code has to do this, because all addresses that proxies send
    pass through here.
    """
    host, port = decode_destination(octets)
    return without_mapping(host), port


def decode_destination(octets: bytes) -> HostPort:
    """Return (host, port) of an ATYP ADDR PORT exactly as it is written there.

    A name may have no octet at all: Dante sends such names.
    """
    port = int.from_bytes(octets[-2:], "big")
    if octets[0] == AddressType.DOMAIN_NAME:
        return octets[2:-2].decode("ascii", "backslashreplace"), port
    if octets[0] == AddressType.IPV4:
        return str(ipaddress.IPv4Address(octets[1:-2])), port
    return str(ipaddress.IPv6Address(octets[1:-2])), port
