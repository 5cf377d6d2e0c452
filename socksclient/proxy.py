"""`Proxy`: where one SOCKS proxy is and what to tell it."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from socksclient.exceptions import host_port
from socksclient.wire import (
    NOT_IN_A_NAME,
    encode_credential,
    is_address,
    parse_host,
    parse_port,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from socksclient.flows import Method

__all__ = ["Proxy", "ProxyLike", "as_proxy"]

_URL = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9+.-]*) ://
        (?:(?P<userinfo>[^/?#\x00-\x20\x7f]*)@)?
        (?:\[(?P<ipv6>[^\[\]@/?#]*)\] | (?P<name>[^\[\]:@/?#%]*))
        (?::(?P<port>[0-9]{0,5}))?
        /?""",
    re.IGNORECASE | re.VERBOSE,
)
_ZONED = re.compile(r"(.*:.*)%([\w.-]+)", re.ASCII)

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
        scheme = {"socks": "socks5h"}.get(self.scheme.lower(), self.scheme.lower())
        if scheme not in _REMOTE_DNS:
            raise ValueError(f"proxy scheme {self.scheme!r} is not one of {_SCHEMES}")
        password = self.password
        if self.username is not None:
            password = "" if password is None else password
            encode_credential("proxy username", self.username)
            encode_credential("proxy password", password)
        elif password is not None:
            raise ValueError("proxy password is given without a username")
        settle = object.__setattr__  # as the dataclass itself does when it is frozen
        settle(self, "host", _parse_host(self.host))
        settle(self, "port", _parse_port(self.port))
        settle(self, "scheme", scheme)
        settle(self, "password", password)
        settle(self, "methods", _parse_methods(self.methods, self.username))

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
        parts = _URL.fullmatch(url)
        if parts is None:
            raise ValueError(
                "proxy URL is not of the form scheme://[username[:password]@]host[:port];"
                " in username and password, white space and / ? # must be percent-encoded"
            )
        userinfo: list[str | None] = [None, None]
        if parts["userinfo"] is not None:
            username, colon, password = parts["userinfo"].partition(":")
            userinfo = [username, password if colon else ""]
        host = parts["name"]
        if host is None:
            host = parts["ipv6"].replace("%25", "%")  # before a zone id (RFC 6874 §2)
            if ":" not in host:
                raise ValueError("proxy host is in brackets but is no IPv6 address")
        return cls(
            host,
            int(parts["port"] or 1080),
            scheme=parts["scheme"],
            username=_percent_decode("username", userinfo[0]),
            password=_percent_decode("password", userinfo[1]),
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
    raise TypeError(f"proxy must be a str or a socksclient.Proxy, not {type(proxy)}")


def _parse_host(host: str) -> str:
    """As for a destination; but a zone id (``fe80::1%eth0``) means something on this machine."""
    if not isinstance(host, str):
        raise TypeError(f"proxy host must be a str, not {type(host).__name__}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (zoned := _ZONED.fullmatch(bare)) and is_address(zoned[1]):
        return f"{parse_host(zoned[1])}%{zoned[2]}"
    if "%" in host or (NOT_IN_A_NAME.search(host) and not is_address(bare)):
        # Not repeated here: it may be a URL with a password in it.
        raise ValueError(
            "proxy host is no name and no IP address; the port is an argument of its own,"
            " and for a URL there is Proxy.from_url"
        )
    try:
        return parse_host(host).lower()
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def _parse_port(port: int) -> int:
    try:
        return parse_port(port)
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def _parse_methods(methods: Iterable[Method], username: str | None) -> tuple[Method, ...]:
    parsed = tuple(methods)
    codes = [method.code for method in parsed]
    if len(set(codes)) < len(codes):
        raise ValueError("proxy methods must have different codes")
    if 0x02 in codes and username is None:
        raise ValueError("proxy methods have username/password (02), but there is no username")
    return parsed


def _percent_decode(field: str, text: str | None) -> str | None:
    if text is None:
        return None
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"proxy {field} has a % that is not followed by two hex digits")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        pass  # not `from` it: it bears the text
    raise ValueError(f"proxy {field} is not UTF-8 when percent-decoded")
