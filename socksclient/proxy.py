"""`Proxy`: where one hop is and what to tell it; a sequence of them is a chain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from socksclient.exceptions import host_port
from socksclient.wire import (
    NOT_IN_A_NAME,
    encode_credential,
    is_address,
    parse_host,
    parse_port,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from socksclient.flows import Method

__all__ = ["Chain", "Proxy", "ProxyLike", "as_chain"]

_URL = re.compile(
    r"""(?P<scheme>[a-z][a-z0-9.-]*)(?P<tls>\+tls)? ://
        (?:(?P<userinfo>[^/?#\x00-\x20\x7f]*)@)?
        (?:\[(?P<ipv6>[^\[\]@/?#]*)\] | (?P<name>[^\[\]:@/?#%]*))
        (?::(?P<port>[0-9]{0,5}))?
        (?:/(?P<path>[^@?#\x00-\x20\x7f]+)?)?""",
    re.IGNORECASE | re.VERBOSE,
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_ZONED = re.compile(r"(.*:.*)%([\w.-]+)", re.ASCII)

_REMOTE_DNS = {"socks5h": True, "socks5": False, "socks4a": True, "socks4": False, "http": True}
_OTHER_NAMES = {"socks": ("socks5h", None), "https": ("http", True)}
_SCHEMES = (
    "socks5h://, socks5://, socks://, socks4a://, socks4:// (each also with +tls), http://"
    " or https://"
)


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy, as a value: frozen, comparable, hashable.

    Its `repr` and `str` show the URL without the credentials. It can be pickled, with them, unless
    it has an `ssl.SSLContext`.

    Args:
        host: The proxy's name or IP address; an IPv6 address with or without brackets. The name
            of the nearest proxy is always resolved here. With a `path` it may be left out.
        port: 1 to 65535. By default 1080; for ``http`` it is 80, with TLS 443.
        scheme: How it is spoken to, and who resolves the names of destinations. "socks5h" (or
            "socks") and "socks4a": the proxy does. "socks5" and "socks4": they are resolved here,
            and the proxy is given addresses. "http": by HTTP's CONNECT, and the proxy resolves.
            With "+tls" behind it, or as "https", the same with `tls`.
        username: For SOCKS5, offered to the proxy (RFC 1929) together with no authentication; for
            SOCKS4, the user id; for HTTP, of Basic authentication (RFC 7617). With SOCKS at most
            255 octets in UTF-8, as for the password.
        password: Empty if there is a username and no password. SOCKS4 has none.
        path: Of the unix socket at which the proxy listens: absolute. It can only be the nearest.
        tls: Speak TLS with the proxy: True for the default context, or an `ssl.SSLContext`, which
            is used as it is and never changed. It verifies the certificate against `host`.
        methods: The SOCKS5 methods of authentication to offer, in the order of preference. Empty
            means: no authentication and, with a username, username/password.

    Raises:
        ValueError: One of these cannot be; the text names the field and never the password.
    """

    host: str = ""
    port: int = None  # type: ignore[assignment]  # that of the scheme, as soon as it is known
    _: KW_ONLY
    scheme: str = "socks5h"
    username: str | None = None
    password: str | None = None
    path: str | None = None
    tls: ssl.SSLContext | bool | None = None
    methods: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        settle = object.__setattr__  # as the dataclass itself does when it is frozen
        scheme, tls = _parse_scheme(self.scheme, self.tls)
        settle(self, "scheme", scheme)
        settle(self, "tls", tls)
        _check_path(self.path)
        host = "localhost" if self.path and self.host == "" else self.host
        settle(self, "host", _parse_host(host))
        if tls:
            _check_server_name(self.host)
        default_port = 1080 if scheme != "http" else 443 if tls else 80
        settle(self, "port", _parse_port(self.port, default_port))
        settle(self, "password", self._parse_credentials())
        settle(self, "methods", _parse_methods(self.methods, scheme, self.username))

    def _parse_credentials(self) -> str | None:
        """The password; it is empty if there is a user name only, and none for SOCKS4."""
        if self.username is None:
            if self.password is not None:
                raise ValueError("proxy password is given without a username")
            return None
        password = "" if self.password is None else self.password
        limit = None if self.scheme == "http" else 255
        encode_credential("proxy username", self.username, limit)
        encode_credential("proxy password", password, limit)
        if self.scheme == "http":
            if ":" in self.username:
                raise ValueError("proxy username has a colon in it, which HTTP cannot carry")
            if _CONTROLS.search(self.username + password):
                raise ValueError("proxy credentials have a control character in them")
        if self.scheme not in ("socks4", "socks4a"):
            return password
        if password:
            raise ValueError("proxy password is given, and SOCKS4 cannot carry one")
        if "\0" in self.username:
            raise ValueError("proxy username has a NUL in it, which SOCKS4 cannot carry")
        return None

    @classmethod
    def from_url(cls, url: str, *, tls: ssl.SSLContext | bool | None = None) -> Proxy:
        """The proxy of a URL such as ``socks5h://user:pass@proxy.example:1080``.

        User name and password are percent-encoded UTF-8, and a user name without a password has
        the empty one. ``socks5h://localhost/run/tor/socks`` is the unix socket /run/tor/socks, as
        for curl.

        Args:
            url: The schemes are those of the class.
            tls: As of the class: the context for TLS with the proxy.

        Raises:
            ValueError: The URL is not of that form; the text never repeats what could be a
                password.
        """
        if "://" not in url:
            raise ValueError(f"proxy URL has no scheme: it must begin with {_SCHEMES}")
        parts = _URL.fullmatch(url)
        if parts is None or (parts["path"] and not _is_unix(parts)):
            raise ValueError(
                "proxy URL is not of the form scheme://[username[:password]@]host[:port];"
                " in username and password, white space and / ? # must be percent-encoded;"
                " a unix socket is at scheme://localhost/path"
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
        elif not host:
            raise ValueError("proxy host is empty")
        return cls(
            host,
            *([int(parts["port"])] if parts["port"] else []),
            scheme=parts["scheme"] + (parts["tls"] or ""),
            username=_percent_decode("username", userinfo[0]),
            password=_percent_decode("password", userinfo[1]),
            path=parts["path"] and _percent_decode("path", f"/{parts['path']}"),
            tls=tls,
        )

    @classmethod
    def from_env(cls, destination: str | tuple[str, int] | None = None) -> Proxy | None:
        """The proxy that the environment has for `destination`.

        That is the value of all_proxy or, if that is unset or empty, of ALL_PROXY, with
        ``http://`` before it if it has no scheme, as for curl; no_proxy or NO_PROXY names the
        destinations that need none: hosts with all that ends in them, IP addresses, networks
        (192.0.2.0/24), each perhaps with a port, or "*" for all.

        Args:
            destination: A host, or a (host, port) pair. None asks for the proxy, whatever the
                destination is.

        Returns:
            None if there is none for it.

        Raises:
            ValueError: The value is no URL of a proxy, and the text names the variable; or the
                destination can be none.
        """
        from socksclient.environment import all_proxy

        return all_proxy(destination)

    def isolated(self, token: str | None = None) -> Proxy:
        """The same Tor, but with circuits of their own.

        Tor never has streams with different credentials share a circuit (IsolateSOCKSAuth). So
        the proxy returned has, in place of any credentials of its own, those by which Tor tells
        streams apart and nothing else: it is for Tor only.

        Args:
            token: Those with the same token, at most 255 octets in UTF-8, share their circuits.
                None makes a random one.

        Raises:
            ValueError: The token is too long, or `methods` has no username/password.
        """
        if token is None:
            import secrets

            token = secrets.token_hex(16)
        if self.scheme in ("socks4", "socks4a"):
            return replace(self, username=token)
        if self.methods and all(method.code != 0x02 for method in self.methods):
            raise ValueError("isolation needs username/password (02) among the methods")
        # The form that Tor reserves for this (proposal 351); older ones take any user name.
        return replace(self, username="<torS0X>0", password=token)

    @property
    def remote_dns(self) -> bool:
        """Whether the proxy resolves the names of destinations."""
        return _REMOTE_DNS[self.scheme]

    @property
    def place(self) -> str:
        """Where it is: host:port, or the path of its unix socket."""
        return self.path or host_port(self.host, self.port)

    def __str__(self) -> str:
        # The user name is left out too: for many proxies it is the token.
        user = "" if self.username is None else "***@"
        scheme = self.scheme
        if self.tls:
            scheme = "https" if scheme == "http" else f"{scheme}+tls"
        if self.path:
            return f"{scheme}://{user}localhost{quote(self.path)}"
        return f"{scheme}://{user}{self.place}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"


ProxyLike: TypeAlias = str | Proxy | Sequence[str | Proxy]
"""What every `proxy` argument takes: a URL or a `Proxy`; or a sequence of them, which is a chain,
the nearest hop first."""

Chain: TypeAlias = tuple[Proxy, ...]
"""The hops, the nearest one first. Mostly it is one."""


def as_chain(proxy: ProxyLike) -> Chain:
    """The hops that are meant.

    Raises:
        ValueError: A URL cannot be, the sequence is empty, or a hop behind the nearest is a unix
            socket.
    """
    if isinstance(proxy, str | Proxy):
        return (_as_proxy(proxy),)
    if not isinstance(proxy, Sequence):
        raise _not_a_proxy(type(proxy).__name__)
    for hop in proxy:
        if not isinstance(hop, str | Proxy):
            raise _not_a_proxy(f"{type(hop).__name__} in a {type(proxy).__name__}")
    chain = tuple(map(_as_proxy, proxy))
    if not chain:
        raise ValueError("proxy is an empty sequence; a chain has one hop at least")
    for number, hop in enumerate(chain[1:], 1):
        if hop.path is not None:
            raise ValueError(f"hop {number} is a unix socket; only the nearest (0) can be one")
    return chain


def _as_proxy(proxy: str | Proxy) -> Proxy:
    return proxy if isinstance(proxy, Proxy) else Proxy.from_url(proxy)


def _not_a_proxy(found: str) -> TypeError:
    return TypeError(
        f"proxy must be a str, a socksclient.Proxy or a sequence of these, not {found}"
    )


def _is_unix(parts: re.Match[str]) -> bool:
    """Whether the path of a URL means a unix socket: curl's form, for SOCKS only."""
    return (
        parts["name"] is not None
        and parts["name"].lower() == "localhost"
        and parts["port"] is None
        and parts["scheme"].lower() not in ("http", "https")
    )


def _parse_scheme(
    scheme: str, tls: ssl.SSLContext | bool | None
) -> tuple[str, ssl.SSLContext | bool | None]:
    """The scheme without TLS, and whether there is TLS."""
    bare = scheme.lower().removesuffix("+tls")
    bare, implied = _OTHER_NAMES.get(bare, (bare, None))
    if bare not in _REMOTE_DNS or (bare == "http" and "+" in scheme):
        raise ValueError(f"proxy scheme {scheme!r} is not one of {_SCHEMES}")
    if "+" in scheme:
        implied = True
    # Without ssl, which few need: a context has that method.
    if not (isinstance(tls, bool | None) or hasattr(tls, "wrap_bio")):
        raise TypeError(f"proxy tls must be an ssl.SSLContext or a bool, not {type(tls).__name__}")
    if implied and tls is False:
        raise ValueError(f"proxy scheme {scheme!r} means TLS, and tls is False")
    return bare, tls or implied


def _check_path(path: str | None) -> None:
    if not isinstance(path, str | None):
        raise TypeError(f"proxy path must be a str, not {type(path).__name__}")
    if path is not None and not path.startswith("/"):
        raise ValueError("proxy path is not absolute")
    if path is not None and "\0" in path:  # where the system would cut it off
        raise ValueError("proxy path has a NUL in it")


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


def _check_server_name(host: str) -> None:
    """That TLS can name it; a long label is fine for a resolver only."""
    labels = host.partition("%")[0].removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"proxy host {host!r} can be in no certificate")


def _parse_port(port: int | None, default: int) -> int:
    try:
        return default if port is None else parse_port(port)
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def _parse_methods(
    methods: Iterable[Method], scheme: str, username: str | None
) -> tuple[Method, ...]:
    parsed = tuple(methods)
    if parsed and scheme not in ("socks5h", "socks5"):
        raise ValueError(f"proxy methods are of SOCKS5, and the scheme is {scheme}")
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
