"""The same environment for curl and for socksclient: which proxy they use, and for what.

Where the two differ on purpose, a row of a table says what each does, and why. The rows are those
of curl 7.88.1, which Debian 12 has. A newer curl may do what socksclient does.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import NamedTuple

import httpx
import pytest

from socksclient import Proxy, SocksTransport, create_connection
from socksclient.protocol.address import is_address

from helpers import support
from helpers.curl import AGENT, Proxies, curl, needs_curl
from helpers.support import REFUSED_PORT, Address

pytest_plugins = ["helpers.curl_fixtures"]

pytestmark = [needs_curl, pytest.mark.usefixtures("curl_names")]


class Made(NamedTuple):
    """The outcome of a request under an environment.

    Attributes:
        to: The proxy that got the request: a, b or c; "direct" if no proxy did, or "error".
        octets: What the proxy got; see `comparable`.
    """

    to: str
    octets: tuple[bytes, ...] = ()


def comparable(octets: bytes) -> tuple[bytes, ...]:
    """Return a whole SOCKS request, or the lines of an HTTP one, without those about the client."""
    if octets[0] in (4, 5):
        return (octets,)
    request, *headers = octets.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return (
        request,
        *sorted(line for line in headers if line not in (b"Accept: */*", AGENT.encode())),
    )


def made(proxies: Proxies, otherwise: str) -> Made:
    """Return what came to the one proxy to which something came, if to any."""
    came = proxies.came()
    if not came:
        return Made(otherwise)
    [(name, [octets])] = came.items()
    return Made(name, comparable(octets))


# curl has no variable for gopher, and uses CONNECT for it, as socksclient does for a connection.
CONNECTION = "gopher"


def made_by_curl(
    proxies: Proxies, environ: dict[str, str], scheme: str, at: Address, *options: str
) -> Made:
    """Return the outcome for curl, which resolves every name to 127.0.0.1."""
    proxies.forget()
    host, port = at
    no_headers = [
        argument
        for name in ("User-Agent", "Accept", "Proxy-Connection")
        for argument in ("--header", f"{name}:", "--proxy-header", f"{name}:")
    ]
    _, err = curl(
        *("--socks5-basic", "--insecure", "--resolve", f"*:{port}:127.0.0.1", *no_headers),
        *options,
        f"{scheme}://{host}:{port}/",
        environ=environ,
    )
    return made(proxies, "direct" if "Trying " in err else "error")


def made_by_us(proxies: Proxies, environ: dict[str, str], scheme: str, at: Address) -> Made:
    """Return the outcome for socksclient: with a transport for HTTP, otherwise a connection."""
    proxies.forget()
    looked_up = []

    def look_up(name: str) -> list[str]:
        looked_up.append(name)
        return [name if is_address(name) else "127.0.0.1"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", support.resolver(look_up))
        for name in list(os.environ):
            if name.lower().endswith("proxy") or name == "REQUEST_METHOD":
                patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        try:
            if scheme == CONNECTION:
                return made_by_connecting(proxies, at)
            transport = SocksTransport.from_env(verify=False)
        except ValueError:
            return Made("error")
        with httpx.Client(transport=transport) as client, suppress(httpx.TransportError):
            client.send(httpx.Request("GET", f"{scheme}://{at[0]}:{at[1]}/"))
        return made(proxies, "direct" if looked_up else "error")


def made_by_connecting(proxies: Proxies, at: Address) -> Made:
    proxy = Proxy.from_env(at)
    if proxy is not None:
        create_connection(at, 10, proxy=proxy).close()
    return made(proxies, "direct" if proxy is None else "error")


A, B, C = "socks5h://{a}", "socks5h://{b}", "socks5h://{c}"

# The environment, and the proxies for http://, for https:// and for a connection. Where there is a
# dash, curl and socksclient differ, and `MADE_OTHERWISE` has the row.
VARIABLES: list[tuple[dict[str, str], str, str, str]] = [
    ({}, "direct", "direct", "direct"),
    ({"all_proxy": A}, "a", "a", "a"),
    ({"ALL_PROXY": A}, "a", "a", "a"),
    ({"all_proxy": A, "ALL_PROXY": B}, "a", "a", "a"),
    ({"all_proxy": "", "ALL_PROXY": B}, "b", "b", "b"),
    ({"http_proxy": A}, "a", "direct", "direct"),
    ({"http_proxy": A, "all_proxy": B}, "a", "b", "b"),
    ({"http_proxy": "", "all_proxy": B}, "b", "b", "b"),
    ({"http_proxy": A, "HTTP_PROXY": B}, "a", "direct", "direct"),
    ({"http_proxy": A, "REQUEST_METHOD": "GET"}, "a", "direct", "direct"),
    ({"HTTP_PROXY": A, "REQUEST_METHOD": "GET"}, "direct", "direct", "direct"),
    ({"HTTP_PROXY": A, "REQUEST_METHOD": "GET", "all_proxy": B}, "b", "b", "b"),
    ({"https_proxy": A}, "direct", "a", "direct"),
    ({"HTTPS_PROXY": A}, "direct", "a", "direct"),
    ({"https_proxy": A, "HTTPS_PROXY": B}, "direct", "a", "direct"),
    ({"https_proxy": "", "HTTPS_PROXY": B, "all_proxy": C}, "c", "b", "c"),
    ({"https_proxy": A, "all_proxy": B}, "b", "a", "b"),
    ({"HTTPS_PROXY": A, "all_proxy": B}, "b", "a", "b"),
    ({"http_proxy": A, "https_proxy": B, "all_proxy": C}, "a", "b", "c"),
    (
        {"socks_proxy": A, "SOCKS_PROXY": A, "proxy": A, "All_Proxy": A},
        "direct",
        "direct",
        "direct",
    ),
    # Forms of the value
    ({"all_proxy": "{a}"}, "a", "a", "a"),
    ({"all_proxy": "user:pass@{a}"}, "a", "a", "a"),
    ({"all_proxy": "us%40er:p%3Ass@{a}"}, "a", "a", "a"),
    ({"all_proxy": "socks5h://user:p%40ss@{a}"}, "a", "a", "a"),
    ({"all_proxy": "socks4a://user@{a}"}, "a", "a", "a"),
    ({"all_proxy": "socks5h://localhost:{a_port}/"}, "a", "a", "a"),
    ({"all_proxy": "http://{a}"}, "a", "a", "a"),
    ({"all_proxy": "socks4a://{a}"}, "a", "a", "a"),
    ({"all_proxy": "socks://{a}"}, "-", "-", "-"),
    ({"all_proxy": "SOCKS5://{a}"}, "a", "a", "a"),
    ({"all_proxy": "gopher://{a}"}, "error", "error", "error"),
    ({"http_proxy": "gopher://{a}", "all_proxy": B}, "error", "-", "b"),
    ({"all_proxy": "socks5h://127.0.0.1:port"}, "error", "error", "error"),
    # no_proxy
    ({"all_proxy": A, "no_proxy": "*"}, "direct", "direct", "direct"),
    ({"all_proxy": A, "NO_PROXY": "*"}, "direct", "direct", "direct"),
    ({"all_proxy": A, "no_proxy": "", "NO_PROXY": "*"}, "direct", "direct", "direct"),
    ({"all_proxy": A, "no_proxy": "x.test", "NO_PROXY": "*"}, "a", "a", "a"),
    ({"http_proxy": A, "https_proxy": B, "no_proxy": "site.test"}, "direct", "direct", "direct"),
    ({"all_proxy": "gopher://{a}", "no_proxy": "site.test"}, "-", "-", "direct"),
]

# no_proxy, the host, and whether it is connected to directly
NO_PROXY = [
    ("*", "site.test", True),
    ("*", "127.0.0.9", True),
    ("*", "[::1]", True),
    ("site.test", "site.test", True),
    ("site.test", "www.site.test", True),
    ("site.test", "mysite.test", False),
    ("site.test", "test", False),
    (".site.test", "site.test", True),
    (".site.test", "www.site.test", True),
    (".site.test", "mysite.test", False),
    ("..site.test", "www.site.test", False),
    ("*.site.test", "site.test", False),
    ("*site.test", "site.test", False),
    ("site.*", "site.test", False),
    ("test", "site.test", True),
    ("e.test", "site.test", False),
    ("SITE.test", "site.test", True),
    ("site.test", "SITE.test", True),
    ("site.test.", "site.test", True),
    ("site.test", "site.test.", True),
    ("site.test.", "www.site.test.", True),
    ("site.test..", "site.test", False),
    ("a_b.test", "a_b.test", True),
    ("xn--bcher-kva.test", "bücher.test", True),
    ("site.test:1", "site.test", False),
    ("site.test:http", "site.test", False),
    ("http://site.test", "site.test", False),
    ("site.test/", "site.test", False),
    ("<local>", "site", False),
    ("localhost", "localhost", True),
    ("localhost", "127.0.0.1", False),
    ("127.0.0.1", "localhost", False),
    ("127.0.0.0/8", "localhost", False),
    ("x.test", "127.0.0.1", False),
    # Lists
    ("x.test,site.test", "site.test", True),
    ("x.test, site.test", "site.test", True),
    ("x.test ,site.test", "site.test", True),
    ("x.test site.test", "site.test", True),
    ("x.test\tsite.test", "site.test", True),
    ("x.test,,site.test", "site.test", True),
    (",site.test", "site.test", True),
    ("x.test;site.test", "site.test", False),
    (",", "site.test", False),
    (".", "site.test", False),
    # Addresses
    ("127.0.0.9", "127.0.0.9", True),
    ("127.0.0.9", "127.0.0.8", False),
    ("127.0.0.9", "127.0.0.90", False),
    ("0.0.9", "127.0.0.9", False),
    ("127.0.0.", "127.0.0.9", False),
    ("127.0.0.9.", "127.0.0.9", False),
    (".127.0.0.9", "127.0.0.9", False),
    ("127.", "127.0.0.9", False),
    ("127", "127.0.0.9", False),
    ("127.*", "127.0.0.9", False),
    ("127.1", "127.0.0.1", False),
    ("127.0.0.009", "127.0.0.9", False),
    ("127.0.0.0/24", "127.0.0.9", True),
    ("127.0.0.0/24", "127.0.1.9", False),
    ("127.0.0.5/24", "127.0.0.9", True),
    ("127.0.0.8/29", "127.0.0.9", True),
    ("127.0.0.0/29", "127.0.0.9", False),
    ("127.0.0.9/32", "127.0.0.9", True),
    ("127.0.0.9/32", "127.0.0.8", False),
    ("127.0.0.0/33", "127.0.0.9", False),
    ("127.0.0.0/", "127.0.0.9", False),
    ("127.0.0.9:1", "127.0.0.9", False),
    ("::1", "[::1]", True),
    ("::1", "[0:0:0:0:0:0:0:1]", True),
    ("::2", "[::1]", False),
    ("::2/127", "[::1]", False),
    ("::1/129", "[::1]", False),
    ("::ffff:127.0.0.9", "[::ffff:127.0.0.9]", True),
    ("::ffff:127.0.0.9", "127.0.0.9", False),
]

# What stands in the environment besides all_proxy=a, the host, by curl, by us, why
OTHERWISE: list[tuple[dict[str, str], str, str, str, str]] = [
    ({"HTTP_PROXY": B}, "site.test", "a", "b", "outside of CGI there is nothing to be afraid of"),
    ({"all_proxy": f" {A} "}, "site.test", "error", "a", "white space is no part of a URL"),
    ({"all_proxy": " "}, "site.test", "error", "direct", "that is an empty value"),
    ({"no_proxy": "*,x.test"}, "site.test", "a", "direct", "a list with all in it has all"),
    ({"no_proxy": " * "}, "site.test", "a", "direct", "white space separates"),
    ({"no_proxy": "x.test\nsite.test"}, "site.test", "a", "direct", "so does the end of a line"),
    ({"no_proxy": "*:{port}"}, "site.test", "a", "direct", "ports"),
    ({"no_proxy": "site.test:{port}"}, "www.site.test", "a", "direct", "ports"),
    ({"no_proxy": "127.0.0.9:{port}"}, "127.0.0.9", "a", "direct", "ports"),
    ({"no_proxy": "[::1]:{port}"}, "[::1]", "a", "direct", "ports"),
    ({"no_proxy": "127.0.0.0/24:80"}, "127.0.0.9", "direct", "a", "curl overlooks this one"),
    ({"no_proxy": "*.site.test"}, "www.site.test", "a", "direct", "it can mean one thing only"),
    ({"no_proxy": "bücher.test"}, "bücher.test", "a", "direct", "a name is the same in any form"),
    ({"no_proxy": "bücher.test"}, "xn--bcher-kva.test", "a", "direct", "the same"),
    ({"no_proxy": "0.0.0.0/0"}, "127.0.0.9", "a", "direct", "no bit in common is all of IPv4"),
    ({"no_proxy": "127.0.0.0/255.0.0.0"}, "127.0.0.9", "a", "direct", "a network as well"),
    ({"no_proxy": "127.0.0.9/"}, "127.0.0.9", "direct", "a", "no length is no network"),
    ({"no_proxy": "[::1]"}, "[::1]", "a", "direct", "the form that URLs have"),
    ({"no_proxy": "0:0::1"}, "[::1]", "a", "direct", "it is the same address"),
    ({"no_proxy": "::/64"}, "[::1]", "a", "direct", "networks of IPv6; curl compares as text"),
    ({"no_proxy": "::1/128"}, "[::1]", "a", "direct", "the same"),
    ({"no_proxy": "127.0.0.9"}, "[::ffff:127.0.0.9]", "a", "direct", "it is the same host"),
]
PORT = REFUSED_PORT.to_bytes(2, "big")
SOCKS4 = b"\x04\x01" + PORT + b"\x7f\x00\x00\x01\x00"
SOCKS5 = b"\x05\x01\x00\x05\x01\x00\x03\x09site.test" + PORT
HOST = b"Host: site.test:%d" % REFUSED_PORT
GET = b"GET http://site.test:%d/ HTTP/1.1" % REFUSED_PORT
CONNECT = b"CONNECT site.test:%d HTTP/1.1" % REFUSED_PORT
LOGIN = b"Proxy-Authorization: Basic dXNlcjpwYXNz"


class Otherwise(NamedTuple):
    """The outcomes of a request to site.test under an environment that are different."""

    environ: dict[str, str]
    scheme: str
    our_scheme: str
    by_curl: Made
    by_us: Made
    why: str


# `SocksTransport.from_env` is as curl here: VARIABLES has the same values.
MADE_OTHERWISE = [
    *(
        Otherwise(
            {variable: value},
            scheme,
            CONNECTION,
            Made("a", (GET, HOST, *login)),
            Made("a", (CONNECT, HOST, *login)),
            "a connection is for any protocol; curl and the transport know that it is HTTP",
        )
        for scheme, variable, value, login in (
            ("http", "all_proxy", "{a}", ()),
            ("http", "all_proxy", "user:pass@{a}", (LOGIN,)),
            ("http", "ALL_PROXY", "http://user:pass@{a}", (LOGIN,)),
        )
    ),
    *(
        Otherwise(
            {"all_proxy": "socks://{a}"},
            scheme,
            scheme,
            Made("a", (SOCKS4,)),
            Made("a", (SOCKS5,)),
            "GNOME sets it, and means SOCKS5",
        )
        for scheme in ("http", "https", CONNECTION)
    ),
    Otherwise(
        {"http_proxy": "gopher://{a}", "all_proxy": B},
        "https",
        "https",
        Made("b", (SOCKS5,)),
        Made("error"),
        "the transport is for http:// too, and tells at once that it cannot be",
    ),
    *(
        Otherwise(
            {"all_proxy": "gopher://{a}", "no_proxy": "site.test"},
            scheme,
            scheme,
            Made("direct"),
            Made("error"),
            "the transport is for all destinations, and tells at once that it cannot be",
        )
        for scheme in ("http", "https")
    ),
]


class TestWhichProxy:
    @pytest.mark.parametrize(
        ("environ", "scheme", "to"),
        [
            (environ, scheme, to)
            for environ, *each in VARIABLES
            for scheme, to in zip(("http", "https", CONNECTION), each, strict=True)
            if to != "-"
        ],
        ids=str,
    )
    def test_curl_proxy_of_the_environment(
        self, environ: dict[str, str], scheme: str, to: str, proxies: Proxies
    ) -> None:
        environ = {name: proxies.fill_in(value) for name, value in environ.items()}
        at = ("site.test", REFUSED_PORT)
        expected = made_by_curl(proxies, environ, scheme, at)
        assert expected.to == to
        assert made_by_us(proxies, environ, scheme, at) == expected

    @pytest.mark.parametrize(
        "row", MADE_OTHERWISE, ids=lambda row: f"{row.environ} {row.scheme} {row.our_scheme}"
    )
    def test_curl_octets_by_the_environment_that_differ(
        self, row: Otherwise, proxies: Proxies, newer: bool
    ) -> None:
        environ = {name: proxies.fill_in(value) for name, value in row.environ.items()}
        at = ("site.test", REFUSED_PORT)
        assert row.by_curl != row.by_us
        assert made_by_us(proxies, environ, row.our_scheme, at) == row.by_us
        allowed = [row.by_curl, row.by_us] if newer else [row.by_curl]
        assert made_by_curl(proxies, environ, row.scheme, at) in allowed

    @pytest.mark.parametrize("scheme", ["http", CONNECTION])
    @pytest.mark.parametrize(("no_proxy", "host", "bypassed"), NO_PROXY)
    def test_curl_no_proxy(
        self, no_proxy: str, host: str, bypassed: bool, scheme: str, proxies: Proxies
    ) -> None:
        at = (host, REFUSED_PORT)
        environ = {"all_proxy": A, "no_proxy": no_proxy}
        environ = {name: proxies.fill_in(value, at[1]) for name, value in environ.items()}
        expected = made_by_curl(proxies, environ, scheme, at)
        assert expected.to == ("direct" if bypassed else "a")
        options = ["--proxy", environ["all_proxy"], "--noproxy", environ["no_proxy"]]
        assert made_by_curl(proxies, {}, scheme, at, *options) == expected
        assert made_by_us(proxies, environ, scheme, at) == expected

    @pytest.mark.parametrize(
        ("environ", "host", "curls", "ours", "why", "scheme"),
        [
            (*row, scheme)
            for row in OTHERWISE
            for scheme in ("http", CONNECTION)
            if scheme == "http" or "HTTP_PROXY" not in row[0]
        ],
        ids=str,
    )
    def test_curl_proxy_of_the_environment_that_differs(
        self,
        environ: dict[str, str],
        host: str,
        curls: str,
        ours: str,
        why: str,
        scheme: str,
        proxies: Proxies,
        newer: bool,
    ) -> None:
        at = (host, REFUSED_PORT)
        environ = {"all_proxy": A, **environ}
        environ = {name: proxies.fill_in(value, at[1]) for name, value in environ.items()}
        assert curls != ours
        assert made_by_us(proxies, environ, scheme, at).to == ours
        allowed = [curls, ours] if newer else [curls]
        assert made_by_curl(proxies, environ, scheme, at).to in allowed
