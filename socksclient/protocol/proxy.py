"""`Proxy`: where one hop is and what to tell it; a sequence of them is a chain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote_to_bytes

import socksclient
from socksclient.protocol.address import NOT_IN_A_NAME, Host, host_port, is_address, parse_port
from socksclient.protocol.lazy import LazyModule
from socksclient.protocol.socks5 import encode_credential

if TYPE_CHECKING:
    import ssl
else:
    ssl = LazyModule("ssl")

__all__ = ["Chain", "Proxy", "ProxyLike", "as_chain"]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_QUOTED = re.compile(r"""\A["'“”‘’]|["'“”‘’]\Z""")
_PADDED = re.compile(r"\A[\s\ufeff]|[\s\ufeff]\Z")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_WIDE = re.compile(r"[\ufe55\ufe6b\uff0f\uff1a\uff20]")
_ZONED = re.compile(r"(.*:.*)%([\w.-]+)", re.ASCII)

_REMOTE_DNS = {"socks5h": True, "socks5": False, "socks4a": True, "socks4": False, "http": True}
_OTHER_NAMES = {"socks": ("socks5h", None), "https": ("http", True)}
_SCHEMES = (
    "socks5h://, socks5://, socks://, socks4a://, socks4:// (each also with +tls), http://"
    " or https://"
)
_KNOWN_SCHEMES = (
    *("socks5h", "socks5", "socks", "socks4a", "socks4", "http", "https"),
    *("socks5h+tls", "socks5+tls", "socks+tls", "socks4a+tls", "socks4+tls"),
)
_A_SCHEME = "|".join(map(re.escape, sorted(_KNOWN_SCHEMES, key=len, reverse=True)))
_ANOTHER_URL = re.compile(rf"(?:\A|[\s,;|])(?:{_A_SCHEME})://", re.IGNORECASE)
_NO_SLASHES = re.compile(rf"({_A_SCHEME})(?!://)(?:[/\\]|:(?![0-9]*/?\Z))", re.IGNORECASE)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_VALUE = re.compile(r"[^\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")
_OF_CONNECT = ("host", "content-length", "transfer-encoding", "upgrade")
_AUTHORIZATION = "proxy-authorization"

_ANY_PROXY = "a str, a socksclient.Proxy or a sequence of these"


@dataclass(frozen=True, slots=True, repr=False, init=False)
class Proxy:
    """A proxy, as a value: frozen, comparable, hashable.

    Its `repr` and `str` show the URL without the credentials and without the headers. A pickle of
    it has both; a `Proxy` with an `ssl.SSLContext` cannot be pickled. A copy, a deep one too,
    shares the context. A pydantic model can have a field of this type: the field takes a URL or a
    `Proxy`, and its JSON is what `str` returns.

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
        headers: The fields that an HTTP proxy gets with each CONNECT, beside those of the library:
            a mapping, or (name, value) pairs. A User-Agent here takes the place of the library's,
            and a Proxy-Authorization takes the place of `username` and `password`. The values are
            sent as UTF-8, and no text shows them, as with a password; error texts may show the
            names.

    Raises:
        ValueError: A field has a value that no proxy of that scheme can have; the text names the
            field, and never shows the credentials or the value of a header. The headers must not
            include Host, Content-Length, Transfer-Encoding or Upgrade, which would break the
            CONNECT, nor Proxy-Authorization beside a username.
        TypeError: A field has a value of the wrong type.
    """

    host: str
    port: int
    scheme: str
    username: str | None
    password: str | None
    path: str | None
    tls: ssl.SSLContext | bool | None
    methods: tuple[socksclient.Method, ...]
    headers: tuple[tuple[str, str], ...]

    def __init__(
        self,
        host: str = "",
        port: int | None = None,
        *,
        scheme: str = "socks5h",
        username: str | None = None,
        password: str | None = None,
        path: str | None = None,
        tls: ssl.SSLContext | bool | None = None,
        methods: Iterable[socksclient.Method] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        scheme, tls = _parse_scheme(scheme, tls)
        _check_path(path)
        host = _parse_host("localhost" if path and host == "" else host)
        if tls:
            _check_server_name(host)
        default_port = 1080 if scheme != "http" else 443 if tls else 80
        # A frozen dataclass sets its fields in this way too.
        settle = object.__setattr__
        settle(self, "host", host)
        settle(self, "port", _parse_port(port, default_port))
        settle(self, "scheme", scheme)
        settle(self, "username", username)
        settle(self, "password", _parse_credentials(scheme, username, password))
        settle(self, "path", path)
        settle(self, "tls", tls)
        settle(self, "methods", _parse_methods(methods, scheme, username))
        settle(self, "headers", _parse_headers(headers, scheme, username))

    @classmethod
    def from_url(cls, url: str, *, tls: ssl.SSLContext | bool | None = None) -> Proxy:
        """Return the proxy of a URL such as ``socks5h://user:pass@proxy.example:1080``.

        User name and password are percent-encoded UTF-8, and a user name without a password has
        the empty one. ``socks5h://localhost/run/tor/socks`` is the unix socket /run/tor/socks, as
        for curl. SOCKS4 cannot carry a password: one in the URL of a SOCKS4 proxy is dropped, as
        other programs do, and the logger ``socksclient`` warns.

        Args:
            url: The schemes are those of the class.
            tls: The context for TLS with the proxy, or True, as the class takes it.

        Raises:
            ValueError: The URL is not of that form, or the class refuses what it says. The text
                says what is wrong, and never repeats what could be a password.
            TypeError: The URL is not a str.
        """
        scheme, rest = _split_scheme(url)
        userinfo, at, server = rest.rpartition("@")
        username, password = _parse_userinfo(userinfo) if at else (None, None)
        host, port, path = _parse_server(server, scheme)
        dropped = bool(password) and scheme.startswith("socks4")
        proxy = cls(
            host,
            port,
            scheme=scheme,
            username=username,
            password=None if dropped else password,
            path=path,
            tls=tls,
        )
        if dropped:
            import logging

            logger = logging.getLogger("socksclient")
            logger.warning(
                "%s: the URL has a password, which SOCKS4 cannot carry; it is dropped", proxy
            )
        return proxy

    @classmethod
    def from_env(cls, destination: str | tuple[str, int] | None = None) -> Proxy | None:
        """Return the proxy that the environment names for `destination`.

        Its URL is in all_proxy, or in ALL_PROXY if all_proxy is unset or empty. A value without a
        scheme gets ``http://`` put before it, as curl does. no_proxy or NO_PROXY names the
        destinations that need no proxy: hosts with all names that end in them, IP addresses,
        networks (192.0.2.0/24), each perhaps with a port, or "*" for all.

        Args:
            destination: A host, or a (host, port) pair. None asks for the proxy, whatever the
                destination is.

        Returns:
            The proxy, or None if the environment names none or the destination needs none.

        Raises:
            ValueError: `from_url` refuses the value, and the text begins with the variable's name;
                or the destination is not valid.
        """
        from socksclient.protocol.environment import all_proxy

        return all_proxy(destination)

    def isolated(self, token: str | None = None) -> Proxy:
        """Return the same Tor with credentials that give its streams circuits of their own.

        Tor never puts streams with different credentials on one circuit (IsolateSOCKSAuth). In the
        proxy returned, such credentials replace those of this one and a Proxy-Authorization among
        its headers. They mean nothing to other proxies: use them with Tor only.

        Args:
            token: Proxies with the same token, at most 255 octets in UTF-8, share their circuits.
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
        headers = tuple(pair for pair in self.headers if pair[0].lower() != _AUTHORIZATION)
        return replace(self, username="<torS0X>0", password=token, headers=headers)

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

    def __deepcopy__(self, _memo: object) -> Proxy:
        # A Proxy never changes, and its `ssl.SSLContext` cannot be copied.
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> Any:
        """Return the schema of a field, for which pydantic 2 asks the field's type."""
        from pydantic_core import (
            InitErrorDetails,
            PydanticCustomError,
            ValidationError,
            core_schema,
        )

        def validate(value: object) -> Proxy:
            try:
                if isinstance(value, cls):
                    return value
                if isinstance(value, str):
                    return cls.from_url(value)
                raise _not_a_proxy(type(value).__name__, "a str or a socksclient.Proxy")
            except (TypeError, ValueError) as error:
                reason = PydanticCustomError("proxy", "{reason}", {"reason": str(error)})
            # If the error were raised by itself, pydantic would show the input and its password.
            hidden = InitErrorDetails(type=reason, loc=(), input="(hidden)")
            raise ValidationError.from_exception_data("Proxy", [hidden])

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> dict[str, str]:
        """Return the JSON schema of a field for pydantic 2, which is the schema of a URL."""
        return {"type": "string", "format": "uri"}


ProxyLike: TypeAlias = str | Proxy | Sequence[str | Proxy]
"""What every `proxy` argument takes: a URL or a `Proxy`; or a sequence of them, which is a chain,
the nearest hop first."""

Chain: TypeAlias = tuple[Proxy, ...]
"""The hops, the nearest one first. Mostly it is one."""


def as_chain(proxy: ProxyLike) -> Chain:
    """Return the hops that `proxy` stands for.

    Raises:
        ValueError: `Proxy.from_url` refuses a URL, the sequence is empty, or a hop behind the
            nearest is a unix socket.
        TypeError: `proxy` is not of a type that `ProxyLike` allows.
    """
    if isinstance(proxy, str | Proxy):
        return (_as_proxy(proxy),)
    if not isinstance(proxy, Sequence):
        raise _not_a_proxy(type(proxy).__name__, _ANY_PROXY)
    for hop in proxy:
        if not isinstance(hop, str | Proxy):
            raise _not_a_proxy(f"{type(hop).__name__} in a {type(proxy).__name__}", _ANY_PROXY)
    chain = tuple(map(_as_proxy, proxy))
    if not chain:
        raise ValueError("proxy is an empty sequence; a chain has at least one hop")
    for number, hop in enumerate(chain[1:], 1):
        if hop.path is not None:
            raise ValueError(f"hop {number} is a unix socket; only the nearest (0) can be one")
    return chain


def _as_proxy(proxy: str | Proxy) -> Proxy:
    return proxy if isinstance(proxy, Proxy) else Proxy.from_url(proxy)


def _not_a_proxy(found: str, wanted: str) -> TypeError:
    return TypeError(f"proxy must be {wanted}, not {found}")


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
            "proxy URL direct:// means no proxy, and socksclient connects only through a proxy"
        )
    if known := scheme_without_slashes(url):
        raise ValueError(f"proxy URL has {known!r} without :// after it; write {known}://host:port")
    # The text does not repeat what is no scheme: that may be a user name and part of a password.
    if not (slashes and _SCHEME.fullmatch(scheme)):
        raise ValueError(f"proxy URL has no scheme: it must begin with {_SCHEMES}")
    _parse_scheme(scheme, None)
    if _ANOTHER_URL.search(rest):
        raise ValueError(
            "proxy URL has a second URL in it; give a chain of proxies as a list of URLs"
        )
    return scheme, rest


def scheme_without_slashes(url: str) -> str | None:
    """Return the scheme that `url` begins with, if the ``://`` after it is missing.

    A scheme before a port does not count: in ``socks5:1080``, socks5 may be the name of a host.
    """
    found = _NO_SLASHES.match(url)
    return found and found[1].lower()


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


def _parse_server(server: str, scheme: str) -> tuple[str, int | None, str | None]:
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
            raise ValueError("proxy host is in brackets but is no IPv6 address")
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
    if host.lower() != "localhost" or colon or scheme in ("http", "https"):
        raise ValueError(
            "proxy URL has a path, which only a SOCKS proxy at a unix socket can have:"
            " socks5h://localhost/path, without a port"
        )
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


def _parse_scheme(
    scheme: str, tls: ssl.SSLContext | bool | None
) -> tuple[str, ssl.SSLContext | bool | None]:
    """Return the scheme without TLS, and whether there is TLS."""
    if not isinstance(scheme, str):
        raise TypeError(f"proxy scheme must be a str, not {type(scheme).__name__}")
    bare = scheme.lower().removesuffix("+tls")
    bare, implied = _OTHER_NAMES.get(bare, (bare, None))
    if bare not in _REMOTE_DNS or (bare == "http" and "+" in scheme):
        raise ValueError(_unknown_scheme(scheme))
    if "+" in scheme:
        implied = True
    # A context is known by this method, because few programs need to import ssl.
    if not (isinstance(tls, bool | None) or hasattr(tls, "wrap_bio")):
        raise TypeError(f"proxy tls must be an ssl.SSLContext or a bool, not {type(tls).__name__}")
    if implied and tls is False:
        raise ValueError(f"proxy scheme {scheme!r} means TLS, and tls is False")
    return bare, tls or implied


def _unknown_scheme(scheme: str) -> str:
    """Return the text of an error that says what the schemes are, and which is the nearest."""
    from difflib import get_close_matches

    # A whole URL in the place of a scheme may have a password in it.
    shown = f"proxy scheme {scheme!r}" if _SCHEME.fullmatch(scheme.lower()) else "proxy scheme"
    text = f"{shown} is not one of {_SCHEMES}"
    # By letters alone, the scheme nearest to these is one that resolves names on this machine.
    near = {"socks5a": "socks5h", "socks4h": "socks4a"}.get(scheme.lower())
    if near is None:
        near = next(iter(get_close_matches(scheme.lower(), _KNOWN_SCHEMES, 1, 0.7)), None)
    return text if near is None else f"{text}; did you mean {near}://?"


def _is_ipv6(host: str) -> bool:
    """Return whether `host` is an IPv6 address, perhaps with a zone id, without brackets."""
    zoned = _ZONED.fullmatch(host)
    return ":" in host and is_address(zoned[1] if zoned else host)


def _check_path(path: str | None) -> None:
    if not isinstance(path, str | None):
        raise TypeError(f"proxy path must be a str, not {type(path).__name__}")
    if path is not None and not path.startswith("/"):
        raise ValueError("proxy path is not absolute")
    if path is not None and "\0" in path:  # where the system would cut it off
        raise ValueError("proxy path has a NUL in it")


def _parse_host(host: str) -> str:
    """Return the host as `Host.parse` does, but allow a zone id (``fe80::1%eth0``)."""
    if not isinstance(host, str):
        raise TypeError(f"proxy host must be a str, not {type(host).__name__}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (zoned := _ZONED.fullmatch(bare)) and is_address(zoned[1]):
        return f"{Host.parse(zoned[1])}%{zoned[2]}"
    if "%" in host or _WIDE.search(host) or (NOT_IN_A_NAME.search(host) and not is_address(bare)):
        # Not repeated here: it may be a URL with a password in it. In one typed with an input
        # method for Chinese or Japanese, the @ and the colon may be wide ones.
        raise ValueError(
            "proxy host is no name and no IP address; the port is an argument of its own,"
            " and for a URL there is Proxy.from_url"
        )
    try:
        return Host.parse(host).text.lower()
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def _check_server_name(host: str) -> None:
    """Refuse a host that TLS cannot name: a resolver takes long labels, a certificate does not."""
    labels = host.partition("%")[0].removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"proxy host {host!r} can be in no certificate")


def _parse_port(port: int | None, default: int) -> int:
    try:
        return default if port is None else parse_port(port)
    except ValueError as error:
        raise ValueError(f"proxy {error}") from None


def _parse_credentials(scheme: str, username: str | None, password: str | None) -> str | None:
    """Return the password: an empty one if only a user name is given, and None for SOCKS4."""
    if username is None:
        if password is not None:
            raise ValueError("proxy password is given without a username")
        return None
    password = "" if password is None else password
    limit = None if scheme == "http" else 255
    encode_credential("proxy username", username, limit)
    encode_credential("proxy password", password, limit)
    if scheme == "http":
        if ":" in username:
            raise ValueError("proxy username has a colon in it, which HTTP cannot carry")
        if _CONTROLS.search(username + password):
            raise ValueError("proxy credentials have a control character in them")
    if scheme not in ("socks4", "socks4a"):
        return password
    if password:
        raise ValueError("proxy password is given, and SOCKS4 cannot carry one")
    if "\0" in username:
        raise ValueError("proxy username has a NUL in it, which SOCKS4 cannot carry")
    return None


def _parse_methods(
    methods: Iterable[socksclient.Method], scheme: str, username: str | None
) -> tuple[socksclient.Method, ...]:
    parsed = tuple(methods)
    if parsed and scheme not in ("socks5h", "socks5"):
        raise ValueError(f"proxy methods are of SOCKS5, and the scheme is {scheme}")
    codes = [method.code for method in parsed]
    if len(set(codes)) < len(codes):
        raise ValueError("proxy methods must have different codes")
    if 0x02 in codes and username is None:
        raise ValueError("proxy methods have username/password (02), but there is no username")
    return parsed


def _parse_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]], scheme: str, username: str | None
) -> tuple[tuple[str, str], ...]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    parsed = tuple(map(_parse_header, pairs))
    if parsed and scheme != "http":
        raise ValueError(f"proxy headers are for HTTP proxies, and the scheme is {scheme}")
    if username is not None and any(name.lower() == _AUTHORIZATION for name, _ in parsed):
        raise ValueError(
            "proxy headers have a Proxy-Authorization, and there is a username; give only one of"
            " the two"
        )
    return parsed


def _parse_header(pair: tuple[str, str]) -> tuple[str, str]:
    """Return a (name, value) pair that HTTP can carry (RFC 9110 §5.1, §5.5)."""
    if not isinstance(pair, tuple | list) or [type(part) for part in pair] != [str, str]:
        raise TypeError("proxy headers must be a mapping or (name, value) pairs, of str")
    name, value = pair
    if not _TOKEN.fullmatch(name):
        # The text does not repeat the name: it may be a whole line, with the value in it.
        raise ValueError(
            "proxy headers have a name that is empty or has characters other than letters, digits"
            " and !#$%&'*+-.^_`|~"
        )
    if name.lower() in _OF_CONNECT:
        raise ValueError(f"proxy headers have {name}, which would break the CONNECT")
    if _NOT_IN_A_VALUE.search(value):
        raise ValueError(
            f"proxy headers have a line end, another control character or half a surrogate pair in"
            f" the value of {name}"
        )
    if value != value.strip(" \t"):
        raise ValueError(f"proxy headers have white space around the value of {name}; remove it")
    return name, value


def _percent_decode(field: str, text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(
            f"proxy {field} has a % that is not followed by two hex digits; a % itself is %25"
        )
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        pass  # not `from` it: it bears the text
    raise ValueError(f"proxy {field} is not UTF-8 when percent-decoded")
