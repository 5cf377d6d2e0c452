"""The same request by curl and by us: what reaches the proxy, octet by octet, and which proxy.

Where the two differ on purpose, a row of a table of its own says what each does, and why. The
rows are those of curl 7.88.1, which Debian 12 has; a newer one may have come to agree with us.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple
from urllib.parse import quote

import httpx
import pytest

from socksclient import Proxy, SocksError, SocksTransport, create_connection
from socksclient.environment import Environment

from support import REFUSED_PORT, Address, family_of

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(
    CURL is None and os.environ.get("CI") != "true",  # there it is a failure
    reason="not installed: curl",
)

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

    Attributes:
        octets: What came, up to the end of the request, of each connection on which one came.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.octets: list[bytes] = []
        self._listener = listener
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
                with sock, suppress(EOFError, ConnectionError, TimeoutError):
                    sock.settimeout(10)
                    self._converse(_Conversation(sock))

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
        if answer:  # else the request was for the proxy itself
            if client.read(1) == b"\x16":  # TLS
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
        self.read_until(b"\r\n\r\n")
        return b"HTTP/1.1 200 OK\r\n\r\n" if self.came.startswith(b"CONNECT ") else b""


class Proxies(NamedTuple):
    """Three of them, on one and the same address but for the port; and two that are elsewhere."""

    a: Recorder
    b: Recorder
    c: Recorder
    ipv6: Recorder
    unix: Recorder
    path: str

    def fill_in(self, text: str, port: int = 0) -> str:
        """The text with the proxies' places in it."""
        return text.format(
            a=f"127.0.0.1:{self.a.port}",
            b=f"127.0.0.1:{self.b.port}",
            c=f"127.0.0.1:{self.c.port}",
            a_port=self.a.port,
            ipv6=f"[::1]:{self.ipv6.port}",
            path=quote(self.path),
            port=port,
        )

    def forget(self) -> None:
        for recorder in (self.a, self.b, self.c, self.ipv6, self.unix):
            recorder.octets.clear()

    def came(self) -> dict[str, list[bytes]]:
        """What came to whom, if anything."""
        recorders = {"a": self.a, "b": self.b, "c": self.c, "ipv6": self.ipv6, "unix": self.unix}
        return {name: one.octets[:] for name, one in recorders.items() if one.octets}


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    path = str(tmp_path_factory.mktemp("unix") / "so cks")
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
        yield Proxies(a, b, c, ipv6, at_path, path)


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
            "LC_ALL": "C.UTF-8",
            **(environ or {}),
        },  # it has IDN by the locale
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


def by_curl(proxies: Proxies, options: list[str], destination: Address) -> dict[str, list[bytes]]:
    """What comes to the proxies when curl gets something of `destination`."""
    proxies.forget()
    _, port = destination
    resolve = [
        argument
        for name, ips in NAMES.items()
        for argument in ("--resolve", f"{name}:{port}:{','.join(ips)}")
    ]
    curl(
        "--socks5-basic",  # no GSSAPI, which it would offer (01) before username/password
        *("--proxytunnel", "--proxy-header", "User-Agent:", "--proxy-header", "Proxy-Connection:"),
        *resolve,
        *options,
        f"http://{authority(*destination)}/",
    )
    return proxies.came()


def by_us(proxies: Proxies, url: str, destination: Address) -> dict[str, list[bytes]]:
    """The same, when we connect to it."""
    proxies.forget()
    with suppress(ValueError, SocksError):
        create_connection(destination, 10, proxy=url).close()
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
    *((f"{scheme}://localhost{{path}}", SITE) for scheme in SCHEMES if scheme != "http"),
    ("socks5h://user:pass@LOCALHOST{path}", SITE),
]

# The options of curl, and the URL of ours that does the same.
OPTIONS = [
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
]


class TestOctets:
    @pytest.mark.parametrize(("url", "destination"), SAME)
    def test_of_a_url(self, url: str, destination: Address, proxies: Proxies) -> None:
        url = proxies.fill_in(url)
        expected = by_curl(proxies, ["--proxy", url], destination)
        assert len(expected) == 1  # that curl came through
        assert by_us(proxies, url, destination) == expected

    @pytest.mark.parametrize(("options", "url"), OPTIONS, ids=str)
    def test_of_curls_options(self, options: list[str], url: str, proxies: Proxies) -> None:
        expected = by_curl(proxies, [proxies.fill_in(option) for option in options], SITE)
        assert len(expected) == 1
        assert by_us(proxies, proxies.fill_in(url), SITE) == expected

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_of_the_transport(self, scheme: str, proxies: Proxies) -> None:
        url = proxies.fill_in(f"{scheme}://user@{{a}}")
        expected = by_curl(proxies, ["--proxy", url], SITE)
        proxies.forget()
        with httpx.Client(transport=SocksTransport(url)) as client:
            assert client.get("http://site.test/").status_code == 200
        assert proxies.came() == expected

    def test_with_gssapi_curl_offers_one_method_more(self, proxies: Proxies) -> None:
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
]


@pytest.mark.parametrize(("url", "destination"), REFUSED)
def test_what_neither_does(url: str, destination: Address, proxies: Proxies) -> None:
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
        "socks4a://user:pass@{a}",
        SITE,
        b"\x04\x01\x00\x50\x00\x00\x00\x01user\x00site.test\x00",
        None,
        "SOCKS4 has no password: who gives one thinks that it counts",
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
        b"Proxy-Authorization: Basic dXM6ZXI6cGFzcw==\r\n\r\n",
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
        b"CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\n\r\n",
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
def test_octets_that_differ(row: Difference, proxies: Proxies, newer: bool) -> None:
    url = proxies.fill_in(row.url)
    assert row.by_curl != row.by_us
    came = [octets for [octets] in by_us(proxies, url, row.destination).values()]
    assert came == ([] if row.by_us is None else [row.by_us])
    came = [octets for [octets] in by_curl(proxies, ["--proxy", url], row.destination).values()]
    allowed = [row.by_curl, row.by_us] if newer else [row.by_curl]
    assert came in [[] if octets is None else [octets] for octets in allowed]


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
def test_the_default_port(url: str, curls: int, ours: int, newer: bool) -> None:
    _, err = curl("--connect-timeout", "2", "--proxy", url, "http://site.test/")
    trying = re.search(r"Trying \[?([0-9a-f.:]+?)\]?:([0-9]+)\.\.\.", err)
    assert trying is not None
    assert int(trying[2]) == curls or (newer and int(trying[2]) == ours)
    proxy = Proxy.from_url(url)
    assert (proxy.host, proxy.port) == (trying[1], ours)


# Which proxy.


def which_by_curl(proxies: Proxies, environ: dict[str, str], scheme: str, at: Address) -> str:
    """The proxy to which curl goes: a, b or c; "direct" if to none, or "error"."""
    proxies.forget()
    host, port = at
    _, err = curl(
        *("--insecure", "--resolve", f"*:{port}:127.0.0.1"),
        f"{scheme}://{host}:{port}/",
        environ=environ,
    )
    came = proxies.came()
    if not came:
        return "direct" if "Trying " in err else "error"
    [name] = came
    return name


def which_by_us(proxies: Proxies, environ: dict[str, str], scheme: str, at: Address) -> str:
    try:
        proxy = Environment.of(environ).proxy_for(scheme, *at)
    except ValueError:
        return "error"
    if proxy is None:
        return "direct"
    [name] = [name for name in "abc" if getattr(proxies, name).port == proxy.port]
    return name


A, B, C = "socks5h://{a}", "socks5h://{b}", "socks5h://{c}"

# The environment, and the proxies for http:// and for https://
VARIABLES: list[tuple[dict[str, str], str, str]] = [
    ({}, "direct", "direct"),
    ({"all_proxy": A}, "a", "a"),
    ({"ALL_PROXY": A}, "a", "a"),
    ({"all_proxy": A, "ALL_PROXY": B}, "a", "a"),
    ({"all_proxy": "", "ALL_PROXY": B}, "b", "b"),
    ({"http_proxy": A}, "a", "direct"),
    ({"http_proxy": A, "all_proxy": B}, "a", "b"),
    ({"http_proxy": "", "all_proxy": B}, "b", "b"),
    ({"http_proxy": A, "HTTP_PROXY": B}, "a", "direct"),
    ({"http_proxy": A, "REQUEST_METHOD": "GET"}, "a", "direct"),
    ({"HTTP_PROXY": A, "REQUEST_METHOD": "GET"}, "direct", "direct"),
    ({"HTTP_PROXY": A, "REQUEST_METHOD": "GET", "all_proxy": B}, "b", "b"),
    ({"https_proxy": A}, "direct", "a"),
    ({"HTTPS_PROXY": A}, "direct", "a"),
    ({"https_proxy": A, "HTTPS_PROXY": B}, "direct", "a"),
    ({"https_proxy": "", "HTTPS_PROXY": B, "all_proxy": C}, "c", "b"),
    ({"https_proxy": A, "all_proxy": B}, "b", "a"),
    ({"HTTPS_PROXY": A, "all_proxy": B}, "b", "a"),
    ({"http_proxy": A, "https_proxy": B, "all_proxy": C}, "a", "b"),
    ({"socks_proxy": A, "SOCKS_PROXY": A, "proxy": A, "All_Proxy": A}, "direct", "direct"),
    # Forms of the value
    ({"all_proxy": "{a}"}, "a", "a"),
    ({"all_proxy": "user:pass@{a}"}, "a", "a"),
    ({"all_proxy": "http://{a}"}, "a", "a"),
    ({"all_proxy": "socks4a://{a}"}, "a", "a"),
    ({"all_proxy": "socks://{a}"}, "a", "a"),
    ({"all_proxy": "SOCKS5://{a}"}, "a", "a"),
    ({"all_proxy": "gopher://{a}"}, "error", "error"),
    ({"http_proxy": "gopher://{a}", "all_proxy": B}, "error", "b"),
    ({"all_proxy": "socks5h://127.0.0.1:port"}, "error", "error"),
    # no_proxy
    ({"all_proxy": A, "no_proxy": "*"}, "direct", "direct"),
    ({"all_proxy": A, "NO_PROXY": "*"}, "direct", "direct"),
    ({"all_proxy": A, "no_proxy": "", "NO_PROXY": "*"}, "direct", "direct"),
    ({"all_proxy": A, "no_proxy": "x.test", "NO_PROXY": "*"}, "a", "a"),
    ({"http_proxy": A, "https_proxy": B, "no_proxy": "site.test"}, "direct", "direct"),
    ({"all_proxy": "gopher://{a}", "no_proxy": "site.test"}, "direct", "direct"),
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


class TestWhichProxy:
    @pytest.mark.parametrize(("environ", "http", "https"), VARIABLES, ids=str)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_by_its_variables(
        self, environ: dict[str, str], http: str, https: str, scheme: str, proxies: Proxies
    ) -> None:
        environ = {name: proxies.fill_in(value) for name, value in environ.items()}
        at = ("site.test", REFUSED_PORT)
        expected = http if scheme == "http" else https
        assert which_by_curl(proxies, environ, scheme, at) == expected
        assert which_by_us(proxies, environ, scheme, at) == expected

    @pytest.mark.parametrize(("no_proxy", "host", "bypassed"), NO_PROXY)
    def test_or_none(self, no_proxy: str, host: str, bypassed: bool, proxies: Proxies) -> None:
        at = (host, REFUSED_PORT)
        environ = {"all_proxy": A, "no_proxy": no_proxy}
        environ = {name: proxies.fill_in(value, at[1]) for name, value in environ.items()}
        expected = "direct" if bypassed else "a"
        assert which_by_curl(proxies, environ, "http", at) == expected
        assert which_by_us(proxies, environ, "http", at) == expected

    @pytest.mark.parametrize(("environ", "host", "curls", "ours", "why"), OTHERWISE, ids=str)
    def test_where_they_differ(
        self,
        environ: dict[str, str],
        host: str,
        curls: str,
        ours: str,
        why: str,
        proxies: Proxies,
        newer: bool,
    ) -> None:
        at = (host, REFUSED_PORT)
        environ = {"all_proxy": A, **environ}
        environ = {name: proxies.fill_in(value, at[1]) for name, value in environ.items()}
        assert curls != ours
        assert which_by_us(proxies, environ, "http", at) == ours
        assert which_by_curl(proxies, environ, "http", at) in ([curls, ours] if newer else [curls])

    @pytest.mark.parametrize("value", ["socks5h://user:p%40ss@{a}", "socks4a://user@{a}", "{a}"])
    def test_what_reaches_it(
        self, value: str, proxies: Proxies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        value = proxies.fill_in(value)
        expected = by_curl(proxies, ["--proxy", value], SITE)
        assert len(expected) == 1
        for name in ("all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ALL_PROXY", value)
        proxies.forget()
        proxy = Proxy.from_env(SITE)
        assert proxy is not None
        create_connection(SITE, 10, proxy=proxy).close()
        assert proxies.came() == expected
