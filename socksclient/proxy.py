"""`Proxy`: where one SOCKS proxy is and what to tell it."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from socksclient.exceptions import host_port
from socksclient.wire import (
    NO_ACCEPTABLE_METHODS,
    encode_credential,
    is_address,
    parse_host,
    parse_port,
)

if TYPE_CHECKING:
    from socksclient.flows import Method

__all__ = ["Proxy", "ProxyLike", "as_proxy"]

_REMOTE_DNS = {"socks5h": True, "socks5": False}
_SCHEMES = f"{', '.join(f'{scheme}://' for scheme in _REMOTE_DNS)} or socks:// (= socks5h://)"


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A SOCKS5 proxy, as a value: frozen, comparable, hashable.

    Its `repr` and `str` show the URL without the credentials.

    Args:
        host: The proxy's name or IP address; an IPv6 address with or without brackets. A name is
            always resolved here.
        port: 1 to 65535.
        scheme: "socks5h" (or "socks"): the proxy resolves the names of destinations.
            "socks5": they are resolved here, and the proxy is given addresses.
        username: Offered to the proxy (RFC 1929), together with no authentication. At most 255
            octets in UTF-8, as for the password.
        password: Empty if there is a username and no password.
        methods: The methods of authentication to offer, in the order of preference. Empty means:
            no authentication and, with a username, username/password.

    Raises:
        ValueError: One of these cannot be; the text names the field and never the password.
    """

    host: str
    port: int = 1080
    _: KW_ONLY
    scheme: str = "socks5h"
    username: str | None = None
    password: str | None = None
    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        scheme = "socks5h" if self.scheme == "socks" else self.scheme
        if scheme not in _REMOTE_DNS:
            raise ValueError(f"proxy scheme {scheme!r} is not one of {_SCHEMES}")
        if self.password is not None and self.username is None:
            raise ValueError("proxy password is given without a username")
        password = self.password
        if self.username is not None:
            password = self.password or ""
            encode_credential("proxy username", self.username)
            encode_credential("proxy password", password)
        codes = [method.code for method in self.methods]
        if len(set(codes)) < len(codes) or not all(
            0 <= code < NO_ACCEPTABLE_METHODS for code in codes
        ):
            raise ValueError("proxy methods must have different codes from 00 to FE")
        settle = object.__setattr__  # as the dataclass itself does when it is frozen
        settle(self, "host", _parse_proxy_host(self.host))
        settle(self, "port", parse_port(self.port))
        settle(self, "scheme", scheme)
        settle(self, "password", password)
        settle(self, "methods", tuple(self.methods))

    @classmethod
    def from_url(cls, url: str) -> Proxy:
        """The proxy of a URL such as ``socks5h://user:pass@proxy.example:1080``.

        The schemes are those of the class; no port means 1080; user name and password are
        percent-encoded UTF-8, and a user name without a password has the empty one.

        Raises:
            ValueError: The URL is not of that form; the text never repeats what could be a
                password.
        """
        if "://" not in url:
            raise ValueError(f"proxy URL has no scheme: it must begin with {_SCHEMES}")
        if re.search(r"[\x00-\x20\x7f]", url):
            raise ValueError("proxy URL has white space or a control character in it")
        try:
            parts = urlsplit(url)
            port = 1080 if parts.port is None else parts.port
        except ValueError:  # whose text may repeat a badly encoded password
            raise ValueError(
                "proxy URL is malformed: after the host comes a port from 1 to 65535;"
                " in user name and password, / ? # [ ] @ : % must be percent-encoded"
            ) from None
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("proxy URL has a path, query or fragment, which mean nothing here")
        return cls(
            parts.hostname or "",
            port,
            scheme=parts.scheme,
            username=_percent_decode("username", parts.username),
            password=_percent_decode("password", parts.password),
        )

    @property
    def remote_dns(self) -> bool:
        """Whether the proxy resolves the names of destinations."""
        return _REMOTE_DNS[self.scheme]

    def __str__(self) -> str:
        # The user name is left out too: for many proxies it is the token.
        user = "" if self.username is None else "***@"
        return f"{self.scheme}://{user}{host_port(self.host, self.port)}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"


ProxyLike = str | Proxy
"""What every `proxy` argument takes: a URL or a `Proxy`."""


def as_proxy(proxy: ProxyLike) -> Proxy:
    """The `Proxy` that is meant."""
    if isinstance(proxy, Proxy):
        return proxy
    if isinstance(proxy, str):
        return Proxy.from_url(proxy)
    raise TypeError(f"proxy must be a URL or a Proxy, not {type(proxy).__name__}")


def _parse_proxy_host(host: str) -> str:
    """As for a destination; but a zone id (``fe80::1%eth0``) means something on this machine."""
    bare, percent, zone = host.strip("[]").partition("%")
    if percent and zone and is_address(bare):
        return f"{parse_host(bare)}%{zone}"
    try:
        return parse_host(host)
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def _percent_decode(field: str, text: str | None) -> str | None:
    if text is None:
        return None
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"proxy {field} has a % that is not followed by two hex digits")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"proxy {field} is not UTF-8 when percent-decoded") from None
