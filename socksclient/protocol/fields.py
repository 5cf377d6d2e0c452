"""The fields of a `Proxy`, one by one, as far as they do not depend on its protocol.

No error text here shows a user name, a password or the value of a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from socksclient.protocol import address
from socksclient.protocol.address import NOT_IN_A_NAME, Host, is_address

__all__ = [
    "check_path",
    "check_server_name",
    "encode_credential",
    "parse_headers",
    "parse_host",
    "parse_port",
]

_WIDE = re.compile(r"[\ufe55\ufe6b\uff0f\uff1a\uff20]")
_ZONED = re.compile(r"(.*:.*)%([\w.-]+)", re.ASCII)


def parse_host(text: str) -> str:
    """Return the host of a proxy as `Host.parse` does, but allow a zone id (``fe80::1%eth0``).

    Raises:
        ValueError: The text is neither a name nor an IP address.
        TypeError: The text is not a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"proxy host must be a str, not {type(text).__name__}")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if (zoned := _ZONED.fullmatch(bare)) and is_address(zoned[1]):
        return f"{Host.parse(zoned[1])}%{zoned[2]}"
    if "%" in text or _WIDE.search(text) or (NOT_IN_A_NAME.search(text) and not is_address(bare)):
        # The text may be a URL with a password in it. If it was typed with an input method for
        # Chinese or Japanese, the @ and the colon may be wide ones.
        raise ValueError(
            "proxy host is neither a name nor an IP address; the port is an argument of its own,"
            " and Proxy.from_url takes a URL"
        )
    try:
        return Host.parse(text).text.lower()
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def check_server_name(host: str) -> None:
    """Refuse a host that TLS cannot name: a resolver takes long labels, a certificate does not.

    Raises:
        ValueError: The host has a label that is empty or longer than 63 octets.
    """
    labels = host.partition("%")[0].removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"proxy host {host!r} cannot be in a certificate")


def parse_port(port: int | None, default: int) -> int:
    """Return the port of a proxy, which is the default if there is none.

    Raises:
        ValueError: The port is not between 1 and 65535.
    """
    try:
        return default if port is None else address.parse_port(port)
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def check_path(path: str | None) -> None:
    """Check the path of a unix socket.

    Raises:
        ValueError: The path is not absolute, or has a NUL in it, where the system would cut it off.
        TypeError: The path is not a str.
    """
    if not isinstance(path, str | None):
        raise TypeError(f"proxy path must be a str, not {type(path).__name__}")
    if path is not None and not path.startswith("/"):
        raise ValueError("proxy path is not absolute")
    if path is not None and "\0" in path:
        raise ValueError("proxy path has a NUL in it")


def encode_credential(field: str, value: str, limit: int | None = 255) -> bytes:
    """Return a user name or a password in UTF-8.

    RFC 1929 asks for one octet at least. Tor, curl and proxies with a token as the user name accept
    empty ones.

    Args:
        field: What it is, for the error text.
        value: The user name or the password.
        limit: The most octets that it may have; None for any number.

    Raises:
        ValueError: The value has more octets, or half a surrogate pair.
        TypeError: The value is not a str.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a str, not {type(value).__name__}")
    octets = value.encode(errors="replace")
    # An encoder's own error would hold the value, and be the context of this one.
    if octets.decode() != value:
        raise ValueError(f"{field} cannot be encoded as UTF-8")
    if limit is not None and len(octets) > limit:
        raise ValueError(
            f"{field} is {len(octets)} octets long in UTF-8; SOCKS carries at most {limit}"
        )
    return octets


def parse_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Return the headers of a proxy as pairs.

    Raises:
        TypeError: The headers are neither a mapping nor pairs, of str.
    """
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or [type(part) for part in pair] != [str, str]:
            raise TypeError("proxy headers must be a mapping or (name, value) pairs, of str")
    return tuple((name, value) for name, value in pairs)
