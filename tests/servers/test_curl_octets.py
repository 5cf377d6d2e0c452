"""The same request by curl and by socksclient: what reaches the proxy, octet by octet.

Where the two differ on purpose, a row of a table says what each does, and why. The rows are those
of curl 7.88.1, which Debian 12 has. A newer curl may do what socksclient does.
"""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import httpx
import pytest

from socksclient import Proxy, ProxyLike, SocksError, SocksTransport, create_connection

from helpers.curl import AGENT, NAMES, SITE, Proxies, authority, curl, needs_curl
from helpers.support import Address

pytest_plugins = ["helpers.curl_fixtures"]

pytestmark = [needs_curl, pytest.mark.usefixtures("curl_names")]


def by_curl(proxies: Proxies, options: list[str], destination: Address) -> dict[str, list[bytes]]:
    """Return what comes to the proxies when curl gets something of `destination`."""
    proxies.forget()
    _, port = destination
    resolve = [
        argument
        for name, ips in NAMES.items()
        for argument in ("--resolve", f"{name}:{port}:{','.join(ips)}")
    ]
    curl(
        # Without this option, curl offers GSSAPI (01) before user name and password.
        "--socks5-basic",
        *("--proxytunnel", "--proxy-header", AGENT, "--proxy-header", "Proxy-Connection:"),
        *resolve,
        *options,
        f"http://{authority(*destination)}/",
    )
    return proxies.came()


def by_us(proxies: Proxies, proxy: ProxyLike, destination: Address) -> dict[str, list[bytes]]:
    """Return what comes to the proxies when socksclient connects to `destination`."""
    proxies.forget()
    with suppress(ValueError, SocksError):
        create_connection(destination, 10, proxy=proxy).close()
    return proxies.came()


# What both send alike

SCHEMES = ["socks4", "socks4a", "socks5", "socks5h", "http"]

CREDENTIALS = [
    *(
        "user@",
        "user:@",
        "@",
        "us%40er@",
        "%C3%BCser@",
        "üser@",
        "us%20er@",
        "us;er@",
        "%F0%9F%94%91@",
    ),
    "u" * 255 + "@",
]

PASSWORDS = [
    *("user:pass@", ":pass@", ":@", "us%40er:p%3Ass%2F%25%3F%23@", "%C3%BCser:p%C3%A4ss@"),
    *("üser:päss@", "user:a:b@", "user:p%20w@", "user:p;w@", "user:p+w@"),
    "u" * 255 + ":" + "p" * 255 + "@",
]

SAME = [
    *((f"{scheme}://{{a}}", SITE) for scheme in SCHEMES),
    *((f"{scheme}://{{ipv6}}", SITE) for scheme in SCHEMES),
    *((f"{scheme}://localhost:{{a_port}}", SITE) for scheme in SCHEMES),
    *((f"{scheme}://{{a}}/", SITE) for scheme in SCHEMES),
    *((f"{scheme.upper()}://{{a}}", SITE) for scheme in SCHEMES),
    *((f"{scheme}://{{a}}", ("SITE.test", 8080)) for scheme in SCHEMES),
    *((f"{scheme}://{{a}}", ("both.test", 443)) for scheme in SCHEMES),
    *((f"{scheme}://{{a}}", ("bücher.test", 80)) for scheme in SCHEMES),
    *((f"{scheme}://{{a}}", ("192.0.2.9", 65535)) for scheme in SCHEMES if scheme != "socks4a"),
    *((f"{scheme}://{{a}}", ("2001:db8::9", 1)) for scheme in ("socks5", "socks5h", "http")),
    *((f"{scheme}://{{a}}", ("six.test", 80)) for scheme in SCHEMES if scheme != "socks4"),
    *((f"{scheme}://{{a}}", ("site.test.", 80)) for scheme in ("socks4a", "socks5h", "http")),
    *((f"{scheme}://{{a}}", ("a_b.test", 80)) for scheme in ("socks4a", "socks5h", "http")),
    *((f"{scheme}://{{a}}", ("a" * 64 + ".test", 80)) for scheme in ("socks4a", "socks5h", "http")),
    *((f"{scheme}://{user}{{a}}", SITE) for scheme in SCHEMES for user in CREDENTIALS),
    *((f"{scheme}://{user}{{a}}", SITE) for scheme in ("socks5h", "http") for user in PASSWORDS),
    *((f"{scheme}://user:pass@{{a}}", SITE) for scheme in ("socks4", "socks4a")),
    *((f"{scheme}://localhost{{path}}", SITE) for scheme in SCHEMES if scheme != "http"),
    ("socks5h://user:pass@LOCALHOST{path}", SITE),
]

# The options of curl, and the URL or the URLs of a chain with which socksclient does the same.
OPTIONS: list[tuple[list[str], str | list[str]]] = [
    (["--socks5-hostname", "{a}"], "socks5h://{a}"),
    (["--socks5", "{a}"], "socks5://{a}"),
    (["--socks4a", "{a}"], "socks4a://{a}"),
    (["--socks4", "{a}"], "socks4://{a}"),
    (["--proxy", "{a}"], "http://{a}"),
    (["--socks5-hostname", "{ipv6}"], "socks5h://{ipv6}"),
    (["--socks5-hostname", "user:p%40ss@{a}"], "socks5h://user:p%40ss@{a}"),
    (["--socks5-hostname", "{a}", "--proxy-user", "user:pass"], "socks5h://user:pass@{a}"),
    (["--socks5-hostname", "{a}", "-U", "u r:p@:/%"], "socks5h://u%20r:p%40%3A%2F%25@{a}"),
    (["--socks5-hostname", "{a}", "--proxy-user", "user:"], "socks5h://user@{a}"),
    (["--socks5", "{a}", "--proxy-user", ":pass"], "socks5://:pass@{a}"),
    (["--socks4a", "{a}", "--proxy-user", "user:"], "socks4a://user@{a}"),
    (["--proxy", "http://{a}", "--proxy-user", "üser:p:w"], "http://üser:p:w@{a}"),
    (["--socks5-hostname", "localhost{path}"], "socks5h://localhost{path}"),
    (["--socks5", "user:pass@localhost{path}"], "socks5://user:pass@localhost{path}"),
    *(
        (["--preproxy", first, "-x", second], [first, second])
        for first, second in (
            ("socks5h://{a}", "http://inner.test:3128"),
            ("socks5h://{a}", "http://us%40er:p%3Aw@192.0.2.9:3128"),
            ("socks4a://{a}", "http://inner.test:3128"),
            ("socks5h://localhost{path}", "http://inner.test:3128"),
        )
    ),
]

# The URL of a proxy with TLS, whose certificate is for 127.0.0.1 and localhost; the destination.
WITHIN_TLS = [
    ("https://{tls}", SITE),
    ("https://localhost:{tls_port}/", ("2001:db8::9", 1)),
    ("HTTPS://us%40er:p%3Aw@{tls}", ("bücher.test", 443)),
]


class TestOctets:
    @pytest.mark.parametrize(("url", "destination"), SAME)
    def test_curl_octets_of_a_url(self, url: str, destination: Address, proxies: Proxies) -> None:
        url = proxies.fill_in(url)
        expected = by_curl(proxies, ["--proxy", url], destination)
        # The request of curl came through.
        assert len(expected) == 1
        assert by_us(proxies, url, destination) == expected

    @pytest.mark.parametrize(("options", "url"), OPTIONS, ids=str)
    def test_curl_octets_of_its_options(
        self, options: list[str], url: str | list[str], proxies: Proxies
    ) -> None:
        expected = by_curl(proxies, [proxies.fill_in(option) for option in options], SITE)
        assert len(expected) == 1
        chain = [proxies.fill_in(one) for one in ([url] if isinstance(url, str) else url)]
        assert by_us(proxies, chain, SITE) == expected

    @pytest.mark.parametrize(("url", "destination"), WITHIN_TLS)
    def test_curl_octets_within_tls(self, url: str, destination: Address, proxies: Proxies) -> None:
        url = proxies.fill_in(url)
        with proxies.authority.cert_pem.tempfile() as trusted:
            options = ["--proxy", url, "--proxy-cacert", trusted]
            expected = by_curl(proxies, options, destination)
        assert list(expected) == ["tls"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        proxies.authority.configure_trust(context)
        proxy = replace(Proxy.from_url(url), tls=context)
        assert by_us(proxies, proxy, destination) == expected

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_curl_octets_of_the_transport(self, scheme: str, proxies: Proxies) -> None:
        url = proxies.fill_in(f"{scheme}://user@{{a}}")
        expected = by_curl(proxies, ["--proxy", url], SITE)
        proxies.forget()
        with httpx.Client(transport=SocksTransport(url)) as client:
            assert client.get("http://site.test/").status_code == 200
        assert proxies.came() == expected

    def test_curl_with_gssapi_offers_one_method_more(self, proxies: Proxies) -> None:
        url = proxies.fill_in("socks5h://user:pass@{a}")
        proxies.forget()
        curl("--proxy", url, "http://site.test/")
        [came] = proxies.came()["a"]
        [ours] = by_us(proxies, url, SITE)["a"]
        assert came in (ours, b"\x05\x03\x00\x01\x02" + ours.removeprefix(b"\x05\x02\x00\x02"))


# What both refuse

REFUSED = [
    *((url, SITE) for url in ("socks6://{a}", "ftp://{a}", "socks5h://", "//{a}", "://{a}")),
    *((f"socks5h://{rest}", SITE) for rest in ("127.0.0.1:65536", "127.0.0.1:x", ":{a_port}")),
    *((f"socks5h://{rest}", SITE) for rest in ("::1", "[::1", "[127.0.0.1]:{a_port}")),
    ("socks5h://us er:pass@{a}", SITE),
    (" socks5h://{a}", SITE),
    ("socks5h://{a} ", SITE),
    ("socks5h://" + "u" * 256 + ":pass@{a}", SITE),
    ("socks5h://user:" + "p" * 256 + "@{a}", SITE),
    ("socks4://{a}", ("2001:db8::9", 80)),
    ("socks4://{a}", ("six.test", 80)),
    ("socks4://{a}", ("nowhere.test", 80)),
    ("socks5://{a}", ("nowhere.test", 80)),
    # Nobody has told curl or socksclient to trust the certificate of this proxy.
    ("https://{tls}", SITE),
]


@pytest.mark.parametrize(("url", "destination"), REFUSED)
def test_curl_and_socksclient_send_nothing(
    url: str, destination: Address, proxies: Proxies
) -> None:
    url = proxies.fill_in(url)
    assert by_us(proxies, url, destination) == {}
    assert by_curl(proxies, ["--proxy", url], destination) == {}


class Difference(NamedTuple):
    """What each of the two sends to the proxy for the same request; None if it refuses that."""

    url: str
    destination: Address
    by_curl: bytes | None
    by_us: bytes | None
    why: str


DIFFERENT = [
    Difference(
        "socks://{a}",
        SITE,
        b"\x04\x01\x00\x50\xc0\x00\x02\x01\x00",
        b"\x05\x01\x00\x05\x01\x00\x03\x09site.test\x00\x50",
        "GNOME sets it, and means SOCKS5",
    ),
    Difference(
        "socks4a://{a}",
        ("192.0.2.9", 80),
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00192.0.2.9\x00",
        b"\x04\x01\x00\x50\xc0\x00\x02\x09\x00",
        "an address goes as one: the proxy may know names only, or none",
    ),
    Difference(
        "socks4a://{a}",
        ("2001:db8::9", 80),
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x002001:db8::9\x00",
        None,
        "SOCKS4A has names, and this is none",
    ),
    Difference(
        "socks4a://" + "u" * 256 + "@{a}",
        SITE,
        b"\x04\x01\x00\x50\x00\x00\x00\x01" + b"u" * 256 + b"\x00site.test\x00",
        None,
        "one limit for all user names of SOCKS",
    ),
    Difference(
        "socks5h://us%er:p%zz@{a}",
        SITE,
        b"\x05\x02\x00\x02\x01\x05us%er\x04p%zz\x05\x01\x00\x03\x09site.test\x00\x50",
        None,
        "a % that is none is not guessed at",
    ),
    Difference(
        "socks5h://u%FF:pass@{a}",
        SITE,
        b"\x05\x02\x00\x02\x01\x02u\xff\x04pass\x05\x01\x00\x03\x09site.test\x00\x50",
        None,
        "credentials are text",
    ),
    Difference(
        "http://us%3Aer:pass@{a}",
        SITE,
        b"CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\n"
        b"Proxy-Authorization: Basic dXM6ZXI6cGFzcw==\r\nUser-Agent: socksclient\r\n\r\n",
        None,
        "RFC 7617 §2: the proxy would take what follows the colon for the password",
    ),
    Difference(
        "socks5h://us@er:pass@{a}",
        SITE,
        None,
        b"\x05\x02\x00\x02\x01\x05us@er\x04pass\x05\x01\x00\x03\x09site.test\x00\x50",
        "there is one reading only, and user names are often addresses of mail",
    ),
    Difference(
        "{a}",
        SITE,
        b"CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\nUser-Agent: socksclient\r\n\r\n",
        None,
        "without a scheme nobody knows what is meant; in the environment it is HTTP",
    ),
    *(
        Difference(
            f"socks5h://{{a}}{rest}",
            SITE,
            b"\x05\x01\x00\x05\x01\x00\x03\x09site.test\x00\x50",
            None,
            "it would mean nothing, and may be a password that is not encoded",
        )
        for rest in ("/path", "?query", "#fragment")
    ),
    Difference(
        "socks5h://localhost:1080{path}",
        SITE,
        b"\x05\x01\x00\x05\x01\x00\x03\x09site.test\x00\x50",
        None,
        "a unix socket has no port",
    ),
]


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: f"{row.url} {row.destination[0]}")
def test_curl_octets_that_differ(row: Difference, proxies: Proxies, newer: bool) -> None:
    url = proxies.fill_in(row.url)
    assert row.by_curl != row.by_us
    came = [octets for [octets] in by_us(proxies, url, row.destination).values()]
    assert came == ([] if row.by_us is None else [row.by_us])
    came = [octets for [octets] in by_curl(proxies, ["--proxy", url], row.destination).values()]
    allowed = [row.by_curl, row.by_us] if newer else [row.by_curl]
    assert came in [[] if octets is None else [octets] for octets in allowed]


class ChainDifference(NamedTuple):
    """What each of the two sends to a chain: only the credentials for the second proxy differ."""

    first: str
    second: str
    by_curl: bytes
    by_us: bytes
    why: str


DIFFERENT_CHAINS = [
    ChainDifference(
        "socks5h://user:pass@{a}",
        "http://inner.test:3128",
        b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n",
        b"",
        "it is none of its business who we are to the first",
    ),
    ChainDifference(
        "socks5h://user:pass@{a}",
        "http://you:too@inner.test:3128",
        b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n",
        b"Proxy-Authorization: Basic eW91OnRvbw==\r\n",
        "the same, and it would let nobody in",
    ),
]


@pytest.mark.parametrize("row", DIFFERENT_CHAINS, ids=lambda row: f"{row.first} {row.second}")
def test_curl_chains_that_differ(row: ChainDifference, proxies: Proxies, newer: bool) -> None:
    chain = [proxies.fill_in(row.first), proxies.fill_in(row.second)]
    both = (
        b"\x05\x02\x00\x02\x01\x04user\x04pass\x05\x01\x00\x03\x0ainner.test\x0c\x38"
        b"CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\n"
    )
    assert row.by_curl != row.by_us
    end = f"{AGENT}\r\n\r\n".encode()
    assert by_us(proxies, chain, SITE) == {"a": [both + row.by_us + end]}
    allowed = [row.by_curl, row.by_us] if newer else [row.by_curl]
    came = by_curl(proxies, ["--preproxy", chain[0], "--proxy", chain[1]], SITE)
    assert came in [{"a": [both + login + end]} for login in allowed]


# The port of a URL without one


@pytest.mark.parametrize(
    ("url", "curls", "ours"),
    [
        ("socks4://127.0.0.77", 1080, 1080),
        ("socks4a://127.0.0.77", 1080, 1080),
        ("socks5://127.0.0.77", 1080, 1080),
        ("socks5h://127.0.0.77", 1080, 1080),
        ("socks5h://127.0.0.77:", 1080, 1080),
        ("socks5h://[::1]", 1080, 1080),
        ("socks://127.0.0.77", 1080, 1080),
        ("https://127.0.0.77", 443, 443),
        # curl has the port of SOCKS for all but https://; RFC 9110 §4.2.1 has 80.
        ("http://127.0.0.77", 1080, 80),
    ],
)
def test_curl_default_port(url: str, curls: int, ours: int, newer: bool) -> None:
    _, err = curl("--connect-timeout", "2", "--proxy", url, "http://site.test/")
    trying = re.search(r"Trying \[?([0-9a-f.:]+?)\]?:([0-9]+)\.\.\.", err)
    assert trying is not None
    assert int(trying[2]) == curls or (newer and int(trying[2]) == ours)
    proxy = Proxy.from_url(url)
    assert (proxy.host, proxy.port) == (trying[1], ours)
