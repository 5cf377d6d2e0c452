"""The proxies that the environment names: all_proxy, http_proxy, https_proxy and no_proxy.

There is no standard for these variables. This module does what curl does, and accepts more than
curl: HTTP_PROXY in capitals, and white space around a value. In no_proxy it also accepts ports,
``*`` beside other entries, ``*.example.com``, and names that are not ASCII. This module never
resolves a name.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from socksclient.protocol.address import Host, HostPort, IPAddress, parse_port
from socksclient.protocol.url import scheme_without_slashes

__all__ = ["Environment", "Setting", "find_all_proxy"]

T = TypeVar("T")

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# An IPv6 address has its port behind brackets only.
_ENTRY = re.compile(r"(?P<host>\[[^\[\]]*\](?:/[0-9]+)?|[^:]*)(?::(?P<port>[0-9]{1,5}))?")


class Setting(NamedTuple):
    """The URL of a proxy, and the variable that has it."""

    variable: str
    url: str

    def parsed(self, parse: Callable[[str], T]) -> T:
        """Return what `parse` makes of the URL.

        Raises:
            ValueError: `parse` has raised it. The text begins with the name of the variable.
        """
        try:
            return parse(self.url)
        except ValueError as error:
            problem = str(error)
        raise ValueError(f"{self.variable}: {problem}")

    def __repr__(self) -> str:
        # The URL may have a password in it.
        return f"<Setting {self.variable}>"


def find_all_proxy(destination: str | HostPort | None = None) -> Setting | None:
    """Return the proxy in all_proxy, unless no_proxy says that the destination needs none.

    Args:
        destination: A host, or a (host, port) pair. None is any destination.

    Raises:
        ValueError: The host or the port is not valid.
        TypeError: The destination is neither a host nor a pair.
    """
    host, port = destination, None
    if isinstance(destination, tuple | list):
        if len(destination) != 2:
            raise TypeError(
                f"destination must be a host or a (host, port) pair, not {destination!r}"
            )
        host, port = destination[0], parse_port(destination[1])
    if not isinstance(host, str | None):
        raise TypeError(f"destination must be a host or a (host, port) pair, not {destination!r}")
    return Environment.of(os.environ).proxy_for(None, host, port)


@dataclass(frozen=True, slots=True)
class Environment:
    """What an environment says about proxies, read once.

    Attributes:
        http: The proxy for ``http://``; None if there is none.
        https: The proxy for ``https://``.
        all: The proxy for every scheme that has no proxy of its own.
        no_proxy: The destinations that need no proxy.
    """

    http: Setting | None
    https: Setting | None
    all: Setting | None
    no_proxy: tuple[Exemption, ...]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Environment:
        """Return what the variables say.

        A name in lower case comes before the same name in capitals. An empty value counts as unset.
        """
        # On Windows, os.environ itself would find HTTP_PROXY under the name http_proxy. A copy does
        # not.
        values = {name: value.strip() for name, value in environ.items()}
        http = ["http_proxy", "HTTP_PROXY"]
        if "REQUEST_METHOD" in values:
            # In CGI, HTTP_PROXY is the header "Proxy" of the client (CVE-2016-5385).
            http.pop()
        no_proxy = values.get("no_proxy") or values.get("NO_PROXY") or ""
        return cls(
            http=_setting(values, *http),
            https=_setting(values, "https_proxy", "HTTPS_PROXY"),
            all=_setting(values, "all_proxy", "ALL_PROXY"),
            no_proxy=tuple(filter(None, map(_exemption, re.split(r"[\s,]+", no_proxy)))),
        )

    def proxy_for(
        self, scheme: str | None, host: str | None = None, port: int | None = None
    ) -> Setting | None:
        """Return the proxy for a destination; None if the destination needs none.

        Args:
            scheme: "http" or "https"; every other scheme has the proxy in `all`.
            host: A name or an IP address, in brackets or not. None is any host.
            port: None is any port.

        Raises:
            ValueError: The host is not valid.
        """
        if self.bypasses(host, port):
            return None
        own = {"http": self.http, "https": self.https}.get(scheme or "")
        return self.all if own is None else own

    def bypasses(self, host: str | None, port: int | None = None) -> bool:
        """Return whether no_proxy names the destination.

        If the host or the port is None, no_proxy must name all hosts, or the host with all ports.

        Raises:
            ValueError: The host is not valid.
        """
        name, addresses = _comparable(host)
        return any(exemption.covers(name, addresses, port) for exemption in self.no_proxy)


class Exemption(NamedTuple):
    """One entry of no_proxy: any host, or a network, or a name with all names below it.

    Attributes:
        port: The only port that the entry covers; None if it covers all ports.
        any_host: Whether the entry is ``*``.
        network: The network of the entry. A single address is a network too.
        name: The name in lower case, without a dot at its end.
        only_below: Whether the entry does not cover the name itself (``*.example.com``).
    """

    port: int | None = None
    any_host: bool = False
    network: _Network | None = None
    name: str = ""
    only_below: bool = False

    def covers(self, name: str | None, addresses: tuple[IPAddress, ...], port: int | None) -> bool:
        """Return whether the entry covers a host, which is a name or has addresses, and a port."""
        if self.port is not None and self.port != port:
            return False
        if self.any_host:
            return True
        if self.network is not None:
            return any(address in self.network for address in addresses)
        if name is None:
            return False
        return name.endswith(f".{self.name}") or (name == self.name and not self.only_below)


def _setting(values: Mapping[str, str], *variables: str) -> Setting | None:
    """Return the first variable that is not empty, and the URL that its value stands for."""
    variable = next((variable for variable in variables if values.get(variable)), None)
    if variable is None:
        return None
    url = values[variable]
    # curl and urllib do this too. A value whose scheme only lacks the slashes stays as it is, so
    # that the error says what it lacks.
    if "://" not in url and not scheme_without_slashes(url):
        url = f"http://{url}"
    return Setting(variable, url)


def _exemption(entry: str) -> Exemption | None:
    """Return what an entry of no_proxy means; None if it means nothing.

    The variable is there for other programs too, so such an entry is no error.
    """
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


def _comparable(host: str | None) -> tuple[str | None, tuple[IPAddress, ...]]:
    """Return a host in the form to compare: a name, or the addresses that it is.

    Raises:
        ValueError: The host is not valid.
    """
    if host is None:
        return None, ()
    # SOCKS cannot carry a zone id, but a program that connects directly may use one.
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return Host.parse(host).text.lower().removesuffix("."), ()
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return None, (address,) if mapped is None else (address, mapped)
