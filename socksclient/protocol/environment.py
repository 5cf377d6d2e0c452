"""The proxies that the environment has: all_proxy, http_proxy, https_proxy and no_proxy.

There is no standard of these. This does what curl does; besides, it takes HTTP_PROXY in capitals,
white space around a value, and in no_proxy ports, ``*`` among others, ``*.example.com`` and names
that are not ASCII. No name is ever resolved for it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from socksclient.protocol.address import Host, parse_port
from socksclient.protocol.proxy import Proxy, scheme_without_slashes

__all__ = ["Environment", "all_proxy"]

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# An address of IPv6 has a port behind its brackets only.
_ENTRY = re.compile(r"(?P<host>\[[^\[\]]*\](?:/[0-9]+)?|[^:]*)(?::(?P<port>[0-9]{1,5}))?")


def all_proxy(destination: str | tuple[str, int] | None = None) -> Proxy | None:
    """What `Proxy.from_env` returns and raises."""
    host, port = (destination, None)
    if isinstance(destination, tuple | list):
        if len(destination) != 2:
            raise TypeError(f"destination must be a host or a (host, port) pair: {destination!r}")
        host, port = destination[0], parse_port(destination[1])
    if not isinstance(host, str | None):
        raise TypeError(f"destination must be a host or a (host, port) pair: {destination!r}")
    return Environment.of(os.environ).proxy_for(None, host, port)


@dataclass(frozen=True, slots=True)
class Environment:
    """What an environment says of proxies, read once.

    Attributes:
        http: The proxy for ``http://``; a str, which tells why, where the value is none.
        https: The same for ``https://``.
        all: The same for all that has none of its own.
        no_proxy: The destinations that need none.
    """

    http: Proxy | str | None
    https: Proxy | str | None
    all: Proxy | str | None
    no_proxy: tuple[Exemption, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Environment:
        """Reads the variables; a name in lower case comes first, and an empty value is none."""
        # A copy, for os.environ on Windows would find HTTP_PROXY as http_proxy.
        values = {name: value.strip() for name, value in environ.items()}
        http = ["http_proxy", "HTTP_PROXY"]
        if "REQUEST_METHOD" in values:
            http.pop()  # in CGI, that is the header "Proxy" of whoever asks (CVE-2016-5385)
        no_proxy = values.get("no_proxy") or values.get("NO_PROXY") or ""
        return cls(
            http=_proxy(values, *http),
            https=_proxy(values, "https_proxy", "HTTPS_PROXY"),
            all=_proxy(values, "all_proxy", "ALL_PROXY"),
            no_proxy=tuple(filter(None, map(_exemption, re.split(r"[\s,]+", no_proxy)))),
        )

    def proxy_for(
        self, scheme: str | None, host: str | None = None, port: int | None = None
    ) -> Proxy | None:
        """The proxy for a destination, or None if it needs none.

        Args:
            scheme: "http", "https", or whatever else: that has what is for all.
            host: A name or an IP address, in brackets or not. None is any host.
            port: None is any port.

        Raises:
            ValueError: The variable's value is no URL of a proxy, or the host can be none. The
                text names the variable, and never shows a password.
        """
        if self.bypasses(host, port):
            return None
        own = {"http": self.http, "https": self.https}.get(scheme or "")
        proxy = self.all if own is None else own
        if isinstance(proxy, str):
            raise ValueError(proxy)
        return proxy

    def bypasses(self, host: str | None, port: int | None = None) -> bool:
        """Whether no_proxy has the destination; of any host or any port, it must have all."""
        name, addresses = _comparable(host)
        return any(exemption.covers(name, addresses, port) for exemption in self.no_proxy)


class Exemption(NamedTuple):
    """One entry of no_proxy: any host, or a network, or a name with all below it.

    Attributes:
        port: The only port that is meant, if any.
        any_host: Whether it is ``*``.
        network: It, or a single address.
        name: In lower case, without a dot at its end.
        only_below: Whether the name itself is not meant (``*.example.com``).
    """

    port: int | None = None
    any_host: bool = False
    network: _Network | None = None
    name: str = ""
    only_below: bool = False

    def covers(self, name: str | None, addresses: tuple[_Address, ...], port: int | None) -> bool:
        """Whether it has that host, which is a name or has addresses, and that port."""
        if self.port is not None and self.port != port:
            return False
        if self.any_host:
            return True
        if self.network is not None:
            return any(address in self.network for address in addresses)
        if name is None:
            return False
        return name.endswith(f".{self.name}") or (name == self.name and not self.only_below)


def _proxy(values: Mapping[str, str], *variables: str) -> Proxy | str | None:
    """The proxy of the first of `variables` that is not empty, or what is wrong with its value."""
    variable = next((variable for variable in variables if values.get(variable)), None)
    if variable is None:
        return None
    url = values[variable]
    # curl and urllib do this too. A value whose scheme only lacks the slashes stays as it is, so
    # that the error says what it lacks.
    if "://" not in url and not scheme_without_slashes(url):
        url = f"http://{url}"
    try:
        return Proxy.from_url(url)
    except ValueError as error:
        return f"{variable}: {error}"


def _exemption(entry: str) -> Exemption | None:
    """What an entry of no_proxy means; None if it means nothing, which is no error of ours."""
    parts = _ENTRY.fullmatch(entry)
    host = parts["host"] if parts else entry
    port = int(parts["port"]) if parts and parts["port"] else None
    if host == "*":
        return Exemption(port, any_host=True)
    address, slash, length = host.partition("/")
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        network = ipaddress.ip_network(bare + slash + length, strict=False)
    except ValueError:
        pass
    else:
        return Exemption(port, network=network)
    only_below = host.startswith("*.")
    try:
        name, _ = _comparable(host[2:] if only_below else host.removeprefix("."))
    except ValueError:
        return None
    return None if name is None else Exemption(port, name=name, only_below=only_below)


def _comparable(host: str | None) -> tuple[str | None, tuple[_Address, ...]]:
    """A host as it is compared: a name, or the addresses that it is.

    Raises:
        ValueError: It can be no host.
    """
    if host is None:
        return None, ()
    # A zone id has no place in SOCKS, but whoever connects directly may have one.
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return Host.parse(host).text.lower().removesuffix("."), ()
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return None, (address,) if mapped is None else (address, mapped)
