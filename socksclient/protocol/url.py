"""The URLs of proxies: their schemes, and the parts that a URL consists of.

No error text here repeats what could be a user name or a password.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from socksclient.protocol.address import is_address

__all__ = [
    "NO_PATH",
    "SCHEMES",
    "Parts",
    "Scheme",
    "find_scheme",
    "scheme_without_slashes",
    "split_url",
]


class Scheme(NamedTuple):
    """What a scheme stands for.

    Attributes:
        module: The module of the kind of hop.
        kind: The name of the kind there, a `socksclient.protocol.proxy.Kind`.
        has_tls: Whether the scheme means TLS with the proxy.
    """

    module: str
    kind: str
    has_tls: bool = False


_SOCKS5 = "socksclient.protocol.socks5"
_SOCKS4 = "socksclient.protocol.socks4"
_HTTP = "socksclient.protocol.http"

SCHEMES = {
    "socks5h": Scheme(_SOCKS5, "Socks5h"),
    "socks5": Scheme(_SOCKS5, "Socks5"),
    "socks": Scheme(_SOCKS5, "Socks5h"),
    "socks4a": Scheme(_SOCKS4, "Socks4a"),
    "socks4": Scheme(_SOCKS4, "Socks4"),
    "http": Scheme(_HTTP, "HTTP"),
    "https": Scheme(_HTTP, "HTTP", has_tls=True),
    "socks5h+tls": Scheme(_SOCKS5, "Socks5h", has_tls=True),
    "socks5+tls": Scheme(_SOCKS5, "Socks5", has_tls=True),
    "socks+tls": Scheme(_SOCKS5, "Socks5h", has_tls=True),
    "socks4a+tls": Scheme(_SOCKS4, "Socks4a", has_tls=True),
    "socks4+tls": Scheme(_SOCKS4, "Socks4", has_tls=True),
}
"""All schemes. A new kind of hop is one new module and one line here for each of its schemes."""

NO_PATH = (
    "proxy URL has a path, which only a SOCKS proxy at a unix socket can have:"
    " socks5h://localhost/path, without a port"
)
"""What is wrong with a path at which there is no unix socket."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_QUOTED = re.compile(r"""\A["'“”‘’]|["'“”‘’]\Z""")
_PADDED = re.compile(r"\A[\s\ufeff]|[\s\ufeff]\Z")
_ZONED = re.compile(r"(.*:.*)%([\w.-]+)", re.ASCII)
_URL_WITHIN = re.compile(r"(?:\A|[\s,;|])([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_NO_SLASHES = re.compile(r"([a-z][a-z0-9+.-]*)(?!://)(?:[/\\]|:(?![0-9]*/?\Z))", re.IGNORECASE)


class Parts(NamedTuple):
    """What a URL says of a proxy, percent-decoded; None stands for a part that it does not have."""

    scheme: str
    username: str | None
    password: str | None
    host: str
    port: int | None
    path: str | None


def find_scheme(scheme: str) -> Scheme:
    """Return what a scheme stands for, in whatever case it is written.

    Raises:
        ValueError: There is no such scheme. The text says which schemes there are, and which one is
            the nearest.
    """
    try:
        return SCHEMES[scheme.lower()]
    except KeyError:
        pass
    raise ValueError(_unknown_scheme(scheme))


def _unknown_scheme(scheme: str) -> str:
    from difflib import get_close_matches

    # A whole URL in the place of a scheme may have a password in it.
    shown = f"proxy scheme {scheme!r}" if _SCHEME.fullmatch(scheme.lower()) else "proxy scheme"
    text = f"{shown} is not one of {_all_schemes()}"
    # By letters alone, the scheme nearest to these is one that resolves names on this machine.
    near = {"socks5a": "socks5h", "socks4h": "socks4a"}.get(scheme.lower())
    if near is None:
        near = next(iter(get_close_matches(scheme.lower(), SCHEMES, 1, 0.7)), None)
    return text if near is None else f"{text}; did you mean {near}://?"


def _all_schemes() -> str:
    with_suffix = [f"{scheme}://" for scheme in SCHEMES if f"{scheme}+tls" in SCHEMES]
    others = [
        f"{scheme}://"
        for scheme in SCHEMES
        if f"{scheme}+tls" not in SCHEMES and not scheme.endswith("+tls")
    ]
    *first, last = others
    return f"{', '.join(with_suffix)} (each also with +tls), {', '.join(first)} or {last}"


def scheme_without_slashes(url: str) -> str | None:
    """Return the scheme that a URL begins with, if the ``://`` after it is missing.

    A scheme before a port does not count: in ``socks5:1080``, socks5 may be the name of a host.
    """
    found = _NO_SLASHES.match(url)
    return found[1].lower() if found and found[1].lower() in SCHEMES else None


def split_url(url: str) -> Parts:
    """Return the parts of the URL of a proxy.

    Raises:
        ValueError: The URL is not of the form ``scheme://username:password@host:port`` or
            ``scheme://username:password@localhost/path``, or its scheme is unknown.
        TypeError: The URL is not a str.
    """
    scheme, rest = _split_scheme(url)
    userinfo, at, server = rest.rpartition("@")
    username, password = _parse_userinfo(userinfo) if at else (None, None)
    host, port, path = _parse_server(server)
    return Parts(scheme, username, password, host, port, path)


def _split_scheme(url: str) -> tuple[str, str]:
    """Return the scheme of a URL in lower case, and what stands behind its ``://``."""
    if not isinstance(url, str):
        raise TypeError(f"proxy URL must be a str, not {type(url).__name__}")
    if not url:
        raise ValueError("proxy URL is empty")
    if _QUOTED.search(url):
        raise ValueError("proxy URL begins or ends with a quotation mark; remove it")
    if _PADDED.search(url):
        raise ValueError("proxy URL begins or ends with white space or a line end; remove it")
    scheme, slashes, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme == "direct":
        raise ValueError(
            "proxy URL direct:// means no proxy, but socksclient connects only through a proxy"
        )
    if known := scheme_without_slashes(url):
        raise ValueError(f"proxy URL has {known!r} without :// after it; write {known}://host:port")
    # The text does not repeat what is no scheme: that may be a user name and part of a password.
    if not (slashes and _SCHEME.fullmatch(scheme)):
        raise ValueError(f"proxy URL has no scheme: it must begin with {_all_schemes()}")
    find_scheme(scheme)
    if any(found[1].lower() in SCHEMES for found in _URL_WITHIN.finditer(rest)):
        raise ValueError(
            "proxy URL has a second URL in it; give a chain of proxies as a list of URLs"
        )
    return scheme, rest


def _parse_userinfo(userinfo: str) -> tuple[str, str]:
    """Return the user name and the password of what stands before the last ``@`` of a URL."""
    if re.search(r"[/?#]", userinfo):
        raise ValueError(
            "proxy URL has / ? or # before its last @; in a user name or password they must be"
            " percent-encoded (%2F, %3F, %23), and in a path the @ must (%40)"
        )
    if re.search(r"[\x00-\x20\x7f]", userinfo):
        raise ValueError(
            "proxy URL has white space or a control character in its user name or password, where"
            " it must be percent-encoded (a space is %20)"
        )
    if userinfo == "***":
        raise ValueError(
            "proxy URL has *** in the place of its credentials: it is the text of a Proxy, which"
            " hides them; pass the Proxy or its own URL"
        )
    username, _, password = userinfo.partition(":")
    return _percent_decode("username", username), _percent_decode("password", password)


def _parse_server(server: str) -> tuple[str, int | None, str | None]:
    """Return the host, the port and the path of what stands behind the credentials of a URL."""
    if re.search(r"[\s\x00-\x1f\x7f]", server):
        raise ValueError(
            "proxy URL has white space or a control character in its host, its port or its path"
            " (in a path, a space is %20)"
        )
    if "?" in server or "#" in server:
        raise ValueError(
            "proxy URL has a query or a fragment, which mean nothing to a proxy; remove it (in a"
            " path, write ? as %3F and # as %23)"
        )
    place, slash, path = server.partition("/")
    if bracketed := re.fullmatch(r"\[([^\[\]]*)\](?:(:)(.*))?", place):
        # %25 is the % before a zone id (RFC 6874 §2).
        host, colon, port = bracketed[1].replace("%25", "%"), bracketed[2], bracketed[3]
        if not _is_ipv6(host):
            raise ValueError("proxy host is in brackets but is not an IPv6 address")
    else:
        host, colon, port = place.partition(":")
        _check_place(place)
    if not host:
        hint = "; the URL of a unix socket is socks5h://localhost/path" if path else ""
        raise ValueError(f"proxy host is empty{hint}")
    if port and not re.fullmatch(r"[0-9]+", port):
        raise ValueError(
            "proxy port is not a number; user name and password stand before the host:"
            " scheme://username:password@host:port"
        )
    # The text does not repeat the number: if the host is missing, it may be a password.
    if port and not (len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("proxy port is not in the range from 1 to 65535")
    if not path:
        return host, int(port) if port else None, None
    if host.lower() != "localhost" or colon:
        raise ValueError(NO_PATH)
    return host, None, _percent_decode("path", slash + path)


def _check_place(place: str) -> None:
    """Refuse text that is no host:port. The caller has dealt with IPv6 addresses in brackets."""
    if "[" in place or "]" in place:
        raise ValueError(
            "proxy URL has a bracket in the wrong place; brackets are only around an IPv6 address,"
            " and the port comes after them: scheme://[address]:port"
        )
    if _is_ipv6(place) or _is_ipv6(place.rpartition(":")[0]):
        raise ValueError(
            "proxy host is an IPv6 address without brackets; write scheme://[address]:port"
        )
    if "%" in place:
        raise ValueError(
            "proxy URL has a % in its host or its port, which cannot be percent-encoded"
        )
    if place.count(":") > 1:
        raise ValueError(
            "proxy URL has more than one colon behind its host; user name and password stand"
            " before it: scheme://username:password@host:port"
        )


def _is_ipv6(text: str) -> bool:
    """Return whether a text is an IPv6 address, perhaps with a zone id, without brackets."""
    zoned = _ZONED.fullmatch(text)
    return ":" in text and is_address(zoned[1] if zoned else text)


def _percent_decode(field: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(
            f"proxy {field} has a % that is not followed by two hex digits; a % itself is %25"
        )
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        # The UnicodeError holds the text, so it must not be the context of the next error.
        pass
    raise ValueError(f"proxy {field} is not UTF-8 when percent-decoded")
