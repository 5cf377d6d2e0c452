"""`Proxy`: where one hop is, and what to tell it. A sequence of them is a chain.

Whatever depends on the protocol that a hop speaks is in its `Kind`. There is a kind for each
scheme, in the module that `socksclient.protocol.url.SCHEMES` names.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from urllib.parse import quote

from socksclient.protocol.address import Host, HostPort, host_port, is_onion
from socksclient.protocol.codes import Command, Phase
from socksclient.protocol.environment import find_all_proxy
from socksclient.protocol.fields import (
    check_path,
    check_server_name,
    parse_headers,
    parse_host,
    parse_port,
)
from socksclient.protocol.flow import Flow, Protection
from socksclient.protocol.lazy import LazyModule
from socksclient.protocol.url import NO_PATH, SCHEMES, find_scheme, split_url

if TYPE_CHECKING:
    import ssl
else:
    ssl = LazyModule("ssl")

__all__ = ["Chain", "Kind", "Method", "Proxy", "ProxyLike", "as_chain"]

_AUTHORIZATION = "proxy-authorization"

_ANY_PROXY = "a str, a socksclient.Proxy or a sequence of these"


@dataclass(frozen=True)
class Method:
    """A method of authentication (RFC 1928 §3): its code and its sub-negotiation.

    `Proxy(methods=...)` takes any number of methods. A caller can write a private method::

        def negotiate(proxy: Proxy) -> Flow[None]:
            answer = yield Exchange(b"token", 2)  # write the token, and read two octets
            if answer != b"ok":
                raise AuthenticationError("the proxy refused the token")

        Proxy("proxy.example", methods=(NO_AUTHENTICATION, Method(0x80, negotiate)))

    Attributes:
        code: 0x00 to 0xFE. The codes from 0x80 on are those of private methods.
        negotiate: A function that takes the `Proxy`, and returns the flow to run when the proxy has
            selected the method. The flow raises `socksclient.AuthenticationError` if the proxy
            refuses. It returns None, or a `Protection` if the method protects everything after it.

    Raises:
        ValueError: The code is out of that range.
    """

    code: int
    negotiate: Callable[[Proxy], Flow[Protection | None]]

    def __post_init__(self) -> None:
        # FF says that no method is acceptable.
        if not 0x00 <= operator.index(self.code) < 0xFF:
            raise ValueError(f"method code {self.code!r} is not in the range from 0x00 to 0xFE")


class Kind(ABC):
    """A kind of hop: what such a proxy can have and can carry, and how to talk to it.

    A kind has no state. To add one, write a module with a subclass, and name it in
    `socksclient.protocol.url.SCHEMES`.

    Attributes:
        scheme: The scheme, as `Proxy.scheme` has it.
        tls_scheme: The scheme that means the same with TLS.
        title: What error texts call such a proxy, with its article.
        remote_dns: Whether the proxy resolves the names of destinations.
        default_ports: The port of a proxy whose URL has none: without TLS, and with TLS.
        has_password: Whether the protocol can carry a password.
        has_methods: Whether the protocol has SOCKS5's methods of authentication.
        has_headers: Whether the protocol has header fields.
        has_path: Whether a URL with a path names a unix socket.
        commands: The commands that the protocol has.
    """

    scheme: ClassVar[str]
    tls_scheme: ClassVar[str]
    title: ClassVar[str]
    remote_dns: ClassVar[bool]
    default_ports: ClassVar[tuple[int, int]] = (1080, 1080)
    has_password: ClassVar[bool] = True
    has_methods: ClassVar[bool] = False
    has_headers: ClassVar[bool] = False
    has_path: ClassVar[bool] = True
    commands: ClassVar[frozenset[Command]] = frozenset(Command)

    @abstractmethod
    def check_proxy(self, proxy: Proxy) -> None:
        """Check that a proxy of this kind can have the credentials, methods and headers it has.

        Raises:
            ValueError: It cannot. The text shows neither credentials nor the value of a header.
        """

    def check_request(self, proxy: Proxy, command: Command, host: Host) -> None:
        """Check that the protocol can carry a request.

        Args:
            proxy: The proxy that would get the request.
            command: The command of the request.
            host: The host of the target: an IP address, or a name, which this process may have to
                resolve before it sends the request.

        Raises:
            ValueError: The protocol cannot carry the command or the host.
        """
        if is_onion(host.text) and not self.remote_dns:
            raise ValueError(
                f"{host} is known to Tor only, and {self.scheme}:// does not let the proxy resolve"
                " names; use socks5h:// or socks4a://"
            )
        if proxy.tls and command == Command.UDP_ASSOCIATE:
            raise ValueError("UDP cannot use TLS: datagrams would go to the proxy in the clear")
        if command == Command.RESOLVE_PTR and host.is_name:
            raise ValueError(f"{host.text!r} is not an IP address")
        if command not in self.commands:
            raise ValueError(f"{self.title} does not support {command.text}")

    def carries(self, host: Host) -> bool:  # noqa: ARG002 - most protocols carry all
        """Return whether the protocol has a form for an IP address."""
        return True

    @abstractmethod
    def handshake(
        self,
        proxy: Proxy,
        command: Command,
        host: Host,
        port: int,
        begin_phase: Callable[[Phase], None],
    ) -> Flow[HostPort]:
        """Talk to the proxy up to its reply, and return the bound address.

        Args:
            proxy: The proxy, with its credentials.
            command: The command of the request. `check_request` has accepted it with the host.
            host: The host of the target (DST.ADDR).
            port: The port of the target (DST.PORT).
            begin_phase: A function that is called as each phase begins.
        """

    def next_reply(self, command: Command) -> Flow[HostPort]:
        """Read a reply that answers no request of its own: the second reply to BIND.

        Raises:
            ValueError: The protocol has no such reply.
        """
        raise ValueError(f"{self.title} does not support {command.text}")


@cache
def _load(module: str, name: str) -> Kind:
    kind: type[Kind] = getattr(import_module(module), name)
    return kind()


def _parse_scheme(
    scheme: str, tls: ssl.SSLContext | bool | None
) -> tuple[Kind, ssl.SSLContext | bool | None]:
    """Return the kind that a scheme means, and whether there is TLS."""
    if not isinstance(scheme, str):
        raise TypeError(f"proxy scheme must be a str, not {type(scheme).__name__}")
    module, name, has_tls = find_scheme(scheme)
    # A context is known by this method, because few programs need to import ssl.
    if not (isinstance(tls, bool | None) or hasattr(tls, "wrap_bio")):
        raise TypeError(f"proxy tls must be an ssl.SSLContext or a bool, not {type(tls).__name__}")
    if has_tls and tls is False:
        raise ValueError(f"proxy scheme {scheme!r} means TLS, but tls is False")
    return _load(module, name), tls or (True if has_tls else None)


def _parse_password(kind: Kind, username: str | None, password: str | None) -> str | None:
    """Return the password: an empty one if only a user name is given; None if the kind has none."""
    if username is None:
        if password is not None:
            raise ValueError("proxy password is given without a username")
        return None
    if kind.has_password:
        return "" if password is None else password
    if password:
        raise ValueError(f"proxy password is given, but {kind.title} takes none")
    return None


@dataclass(frozen=True, slots=True, repr=False, init=False)
class Proxy:
    """A proxy, as a value: frozen, comparable, hashable.

    Its `repr` and `str` show the URL without the credentials and without the headers. A pickle of
    it has both; a `Proxy` with an `ssl.SSLContext` cannot be pickled. A copy, a deep one too,
    shares the context. A pydantic model can have a field of this type: the field takes a URL or a
    `Proxy`, and its JSON is what `str` returns.

    Args:
        host: The proxy's name or IP address; an IPv6 address with or without brackets. The name
            of the nearest proxy is always resolved by this process. With a `path` it may be left
            out.
        port: 1 to 65535. By default 1080; for ``http`` it is 80, with TLS 443.
        scheme: The protocol that the proxy speaks, and who resolves the names of destinations.
            With "socks5h" (or "socks") and "socks4a" the proxy resolves them. With "socks5" and
            "socks4" this process resolves them, and asks the proxy for addresses. With "http" the
            proxy gets HTTP's CONNECT, and resolves the names. "+tls" at the end of a scheme, and
            "https", mean the same as `tls`.
        username: For SOCKS5, offered to the proxy (RFC 1929) together with no authentication; for
            SOCKS4, the user id; for HTTP, of Basic authentication (RFC 7617). With SOCKS at most
            255 octets in UTF-8, as for the password.
        password: By default, the empty text if there is a username. SOCKS4 has no field for a
            password.
        path: The absolute path of the unix socket at which the proxy listens. Only the nearest
            proxy can have one.
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
    methods: tuple[Method, ...]
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
        methods: Iterable[Method] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        kind, tls = _parse_scheme(scheme, tls)
        check_path(path)
        host = parse_host("localhost" if path and host == "" else host)
        if tls:
            check_server_name(host)
        # A frozen dataclass sets its fields in this way too.
        settle = object.__setattr__
        settle(self, "host", host)
        settle(self, "port", parse_port(port, kind.default_ports[bool(tls)]))
        settle(self, "scheme", kind.scheme)
        settle(self, "username", username)
        settle(self, "password", _parse_password(kind, username, password))
        settle(self, "path", path)
        settle(self, "tls", tls)
        settle(self, "methods", tuple(methods))
        settle(self, "headers", parse_headers(headers))
        if self.methods and not kind.has_methods:
            raise ValueError(f"proxy methods are for SOCKS5 only, but the scheme is {kind.scheme}")
        if self.headers and not kind.has_headers:
            raise ValueError(
                f"proxy headers are for HTTP proxies only, but the scheme is {kind.scheme}"
            )
        kind.check_proxy(self)

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
        scheme, username, password, host, port, path = split_url(url)
        kind, _ = _parse_scheme(scheme, None)
        if path is not None and not kind.has_path:
            raise ValueError(NO_PATH)
        is_dropped = bool(password) and not kind.has_password
        proxy = cls(
            host,
            port,
            scheme=scheme,
            username=username,
            password=None if is_dropped else password,
            path=path,
            tls=tls,
        )
        if is_dropped:
            import logging

            logger = logging.getLogger("socksclient")
            text = "%s: the URL has a password, which %s does not take; the password is dropped"
            logger.warning(text, proxy, kind.title)
        return proxy

    @classmethod
    def from_env(cls, destination: str | HostPort | None = None) -> Proxy | None:
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
        setting = find_all_proxy(destination)
        return None if setting is None else setting.parsed(cls.from_url)

    def isolated(self, token: str | None = None) -> Proxy:
        """Return a `Proxy` for the same Tor that gives its connections circuits of their own.

        Tor never puts connections with different credentials on one circuit (IsolateSOCKSAuth). In
        the new `Proxy`, such credentials replace the old credentials and any Proxy-Authorization
        among the headers. They mean nothing to other proxies: use them with Tor only.

        Args:
            token: Proxies with the same token, at most 255 octets in UTF-8, share their circuits.
                With None, this method makes
                a random token.

        Raises:
            ValueError: The token is too long, or `methods` has no username/password.
        """
        if token is None:
            import secrets

            token = secrets.token_hex(16)
        if not self.kind.has_password:
            return replace(self, username=token)
        if self.methods and all(method.code != 0x02 for method in self.methods):
            raise ValueError("isolation needs username/password (02) among the methods")
        # Tor reserves user names of this form for this (proposal 351). Older versions of Tor take
        # any user name.
        headers = tuple(pair for pair in self.headers if pair[0].lower() != _AUTHORIZATION)
        return replace(self, username="<torS0X>0", password=token, headers=headers)

    @property
    def kind(self) -> Kind:
        """The kind of hop, which knows the protocol of the scheme."""
        module, name, _ = SCHEMES[self.scheme]
        return _load(module, name)

    @property
    def remote_dns(self) -> bool:
        """Whether the proxy resolves the names of destinations."""
        return self.kind.remote_dns

    @property
    def place(self) -> str:
        """Where the proxy is: host:port, or the path of its unix socket."""
        return self.path or host_port(self.host, self.port)

    def __str__(self) -> str:
        # The user name is left out too: for many proxies it is the token.
        user = "" if self.username is None else "***@"
        scheme = self.kind.tls_scheme if self.tls else self.scheme
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
        from socksclient.protocol.schema import core_schema

        return core_schema(_field_value)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> dict[str, str]:
        """Return the JSON schema of a field for pydantic 2, which is the schema of a URL."""
        return {"type": "string", "format": "uri"}


ProxyLike: TypeAlias = str | Proxy | Sequence[str | Proxy]
"""What every `proxy` argument takes: a URL or a `Proxy`; or a sequence of them, which is a chain,
the nearest hop first."""

Chain: TypeAlias = tuple[Proxy, ...]
"""The hops, the nearest one first. Most chains have one hop."""


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
            raise ValueError(f"hop {number} is a unix socket; only the nearest hop (0) can be one")
    return chain


def _as_proxy(proxy: str | Proxy) -> Proxy:
    return proxy if isinstance(proxy, Proxy) else Proxy.from_url(proxy)


def _not_a_proxy(found: str, wanted: str) -> TypeError:
    return TypeError(f"proxy must be {wanted}, not {found}")


def _field_value(value: object) -> Proxy:
    """Return the proxy that the value of a pydantic model's field stands for."""
    if not isinstance(value, str | Proxy):
        raise _not_a_proxy(type(value).__name__, "a str or a socksclient.Proxy")
    return _as_proxy(value)
