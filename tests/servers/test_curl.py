"""The same request by curl and by us: what reaches the proxy, octet by octet, and which proxy.

Where the two differ on purpose, a row of a table of its own says what each does, and why. The
rows are those of curl 7.88.1, which Debian 12 has; a newer one may have come to agree with us.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import quote

import httpx
import pytest
import trustme

from socksclient import Proxy, ProxyLike, SocksError, SocksTransport, create_connection
from socksclient.protocol.address import is_address

from helpers import support
from helpers.support import REFUSED_PORT, Address, family_of, needs

CURL = shutil.which("curl")
pytestmark = needs([] if CURL else ["curl"])

# What the names of the destinations are resolved to, by who resolves them here.
NAMES = {
    "site.test": ["192.0.2.1"],
    "SITE.test": ["192.0.2.1"],
    "six.test": ["2001:db8::1"],
    "both.test": ["2001:db8::1", "192.0.2.1", "192.0.2.2"],
    "xn--bcher-kva.test": ["192.0.2.3"],
}
SITE = ("site.test", 80)


class Recorder:
    """A proxy that speaks SOCKS4, SOCKS5 and HTTP, and grants what it is asked for.

    Through itself it leads to an HTTP proxy, which is the same one.

    Attributes:
        octets: What came, up to the end of the request, of each connection on which one came.
    """

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.octets: list[bytes] = []
        self._listener = listener
        self._tls = tls
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        with suppress(OSError):  # the end
            while True:
                sock, _ = self._listener.accept()
                with sock, suppress(EOFError, ConnectionError, TimeoutError, ssl.SSLError):
                    sock.settimeout(10)
                    if self._tls is None:
                        self._converse(_Conversation(sock))
                    else:
                        with self._tls.wrap_socket(sock, server_side=True) as inner:
                            self._converse(_Conversation(inner))

    def _converse(self, client: _Conversation) -> None:
        first = client.read(1)
        if first == b"\x05":
            answer = client.socks5()
        elif first == b"\x04":
            answer = client.socks4()
        else:
            answer = client.http()
        self.octets.append(bytes(client.came))
        client.sock.sendall(answer)
        # Without an answer of the proxy's, the request was for the proxy itself.
        if answer:
            first = client.read(1)
            # curl asks the next hop with CONNECT.
            if first == b"C":
                answer = client.http()
                self.octets[-1] = bytes(client.came)
                client.sock.sendall(answer)
                first = client.read(1)
            if first != b"G":  # TLS, or gopher's
                return
            client.read_until(b"\r\n\r\n")
        client.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class _Conversation:
    """One connection to the recorder, of which the first octet has been read."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.came = bytearray()

    def read(self, count: int) -> bytes:
        start = len(self.came)
        while len(self.came) < start + count:
            received = self.sock.recv(start + count - len(self.came))
            if not received:
                raise EOFError
            self.came.extend(received)
        return bytes(self.came[start:])

    def read_until(self, end: bytes) -> None:
        self.read(1)
        while not self.came.endswith(end):
            self.read(1)

    def socks5(self) -> bytes:
        if 0x02 in self.read(self.read(1)[0]):
            self.sock.sendall(b"\x05\x02")
            self.read(1)
            self.read(self.read(1)[0])
            self.read(self.read(1)[0])
            self.sock.sendall(b"\x01\x00")
        else:
            self.sock.sendall(b"\x05\x00")
        atyp = self.read(4)[3]
        self.read({0x01: 4, 0x04: 16}.get(atyp) or self.read(1)[0])
        self.read(2)
        return b"\x05\x00\x00\x01" + bytes(6)

    def socks4(self) -> bytes:
        address = self.read(7)[3:]
        self.read_until(b"\0")
        if address[:3] == bytes(3):
            self.read_until(b"\0")
        return b"\x00\x5a" + bytes(6)

    def http(self) -> bytes:
        start = len(self.came) - 1
        self.read_until(b"\r\n\r\n")
        return b"HTTP/1.1 200 OK\r\n\r\n" if self.came.startswith(b"CONNECT ", start) else b""


class Proxies(NamedTuple):
    """Three of them, on one and the same address but for the port; and three that are elsewhere."""

    a: Recorder
    b: Recorder
    c: Recorder
    ipv6: Recorder
    unix: Recorder
    tls: Recorder
    path: str
    authority: trustme.CA

    def fill_in(self, text: str, port: int = 0) -> str:
        """Return the text with the proxies' addresses in it."""
        return text.format(
            a=f"127.0.0.1:{self.a.port}",
            b=f"127.0.0.1:{self.b.port}",
            c=f"127.0.0.1:{self.c.port}",
            a_port=self.a.port,
            tls=f"127.0.0.1:{self.tls.port}",
            tls_port=self.tls.port,
            ipv6=f"[::1]:{self.ipv6.port}",
            path=quote(self.path),
            port=port,
        )

    def recorders(self) -> dict[str, Recorder]:
        return {name: one for name, one in self._asdict().items() if isinstance(one, Recorder)}

    def forget(self) -> None:
        for recorder in self.recorders().values():
            recorder.octets.clear()

    def came(self) -> dict[str, list[bytes]]:
        """Return what came to each proxy to which anything came."""
        return {name: one.octets[:] for name, one in self.recorders().items() if one.octets}


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    path = str(tmp_path_factory.mktemp("unix") / "so cks")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with ExitStack() as stack:
        listeners = [
            socket.create_server((host, 0), family=family_of(host))
            for host in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "::1")
        ]
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(path)
        unix.listen()
        a, b, c, ipv6, at_path = (
            stack.enter_context(Recorder(listener)) for listener in (*listeners, unix)
        )
        tls = stack.enter_context(Recorder(socket.create_server(("127.0.0.1", 0)), context))
        yield Proxies(a, b, c, ipv6, at_path, tls, path, authority)


@pytest.fixture(autouse=True)
def resolver(names: dict[str, list[str]]) -> None:
    names.update(NAMES)
    names["localhost"] = ["127.0.0.1"]


def curl(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Its exit status and what it says on stderr."""
    assert CURL is not None
    run = subprocess.run(
        [CURL, "--disable", "--verbose", "--max-time", "10", "--output", os.devnull, *arguments],
        env={
            "PATH": os.defpath,
            # curl takes names that are not ASCII only in a locale of UTF-8.
            "LC_ALL": "C.UTF-8",
            **(environ or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    return run.returncode, run.stderr.decode()


def version() -> tuple[int, ...]:
    assert CURL is not None
    out = subprocess.run([CURL, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in out.split()[1].split("."))


@pytest.fixture(scope="module")
def newer() -> bool:
    """Whether curl is newer than the one that the tables of differences are of."""
    return version() > (7, 88, 1)


def authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


AGENT = "User-Agent: socksclient"


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


# What reaches the proxy is the same.

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

# The options of curl, and the URL of ours that does the same, or the URLs of a chain.
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

# The proxy's URL, and the destination: within TLS, with a certificate for 127.0.0.1 and localhost.
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
        assert len(expected) == 1  # that curl came through
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


# Nothing reaches it.

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
    """What comes of the same request to the proxy; None is nothing, as it is refused."""

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
    """What comes to a chain: all is the same, but for what the second proxy is told."""

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


# The port, where the URL has none.


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


# Which proxy, and what reaches it.


class Made(NamedTuple):
    """What came of a request under an environment.

    Attributes:
        to: The proxy that it came to: a, b or c; "direct" if to none, or "error".
        octets: What came of it there; see `comparable`.
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


# It has no variable of its own: to curl what a connection is to us. It goes by CONNECT, too.
CONNECTION = "gopher"


def made_by_curl(
    proxies: Proxies, environ: dict[str, str], scheme: str, at: Address, *options: str
) -> Made:
    """By curl, which takes every name for one of this machine."""
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
    """Return the same for socksclient: for HTTP by a transport, else by a connection."""
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

# The environment, and the proxies for http://, for https:// and for a connection; where there is
# a dash, curl and we do not agree: see below.
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
    """What comes of a request for site.test under an environment."""

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
