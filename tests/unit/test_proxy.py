"""`Proxy`: what it takes, what it refuses, and that it keeps its credentials to itself."""

from __future__ import annotations

import copy
import pickle
import re
import ssl
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given, strategies as st

from socksclient import NO_AUTHENTICATION, USERNAME_PASSWORD, Method, Proxy
from socksclient.protocol.proxy import as_chain

# Every octet with a meaning in a URL, and more, as text and percent-encoded.
RESERVED = ":/?#[]@!$&'()*+,;=% ü€\0"
ENCODED = "%3A%2F%3F%23%5B%5D%40%21%24%26%27%28%29%2A%2B%2C%3B%3D%25%20%C3%BC%e2%82%ac%00"


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "username", "password"),
    [
        ("socks5h://proxy.example:9050", "socks5h", "proxy.example", 9050, None, None),
        ("socks5://proxy.example:9050", "socks5", "proxy.example", 9050, None, None),
        ("socks://proxy.example:9050", "socks5h", "proxy.example", 9050, None, None),
        ("SOCKS5://Proxy.example:1", "socks5", "proxy.example", 1, None, None),
        ("socks5h://proxy.example", "socks5h", "proxy.example", 1080, None, None),
        ("socks5h://proxy.example:", "socks5h", "proxy.example", 1080, None, None),
        ("socks5h://proxy.example:65535/", "socks5h", "proxy.example", 65535, None, None),
        ("socks5h://bücher.example", "socks5h", "xn--bcher-kva.example", 1080, None, None),
        ("socks5h://192.0.2.1:1081", "socks5h", "192.0.2.1", 1081, None, None),
        ("socks5h://[2001:DB8::1]:1081", "socks5h", "2001:db8::1", 1081, None, None),
        ("socks5h://[::1]", "socks5h", "::1", 1080, None, None),
        ("socks5h://u:p@[fe80::1%Eth0]:1081/", "socks5h", "fe80::1%Eth0", 1081, "u", "p"),
        ("socks5h://user:pass@host", "socks5h", "host", 1080, "user", "pass"),
        ("socks5h://user@host", "socks5h", "host", 1080, "user", ""),
        ("socks5h://user:@host", "socks5h", "host", 1080, "user", ""),
        ("socks5h://:pw@host", "socks5h", "host", 1080, "", "pw"),
        ("socks5h://:@host", "socks5h", "host", 1080, "", ""),
        ("socks5h://@host", "socks5h", "host", 1080, "", ""),
        ("socks5h://us+er:p+w@host", "socks5h", "host", 1080, "us+er", "p+w"),
        ("socks5h://u@x:p:w@host", "socks5h", "host", 1080, "u@x", "p:w"),
        ("socks5h://user:p[]s／s@host", "socks5h", "host", 1080, "user", "p[]s／s"),
        ("socks5h://[fe80::1%25eth0]", "socks5h", "fe80::1%eth0", 1080, None, None),
        (f"socks5h://{ENCODED}:{ENCODED}@h:1", "socks5h", "h", 1, RESERVED, RESERVED),
        ("socks4://h", "socks4", "h", 1080, None, None),
        ("socks4a://me@h:1", "socks4a", "h", 1, "me", None),
        ("socks4a://me:@h:1", "socks4a", "h", 1, "me", None),
        ("http://h", "http", "h", 80, None, None),
        ("http://user:pass@h:3128/", "http", "h", 3128, "user", "pass"),
        (f"http://u:{'x' * 300}@h", "http", "h", 80, "u", "x" * 300),
        ("http://localhost/", "http", "localhost", 80, None, None),
    ],
)
def test_a_url_is_the_proxy_of_its_parts(
    url: str, scheme: str, host: str, port: int, username: str | None, password: str | None
) -> None:
    proxy = Proxy.from_url(url)
    assert (proxy.scheme, proxy.host, proxy.port) == (scheme, host, port)
    assert (proxy.username, proxy.password) == (username, password)
    assert proxy.remote_dns is (scheme in ("socks5h", "socks4a", "http"))
    assert proxy.tls is None
    assert proxy.path is None
    assert proxy == Proxy(host, port, scheme=scheme, username=username, password=password)


@pytest.mark.parametrize(
    ("url", "scheme", "port", "text"),
    [
        ("https://h", "http", 443, "https://h:443"),
        ("HTTPS://u:p@h:1", "http", 1, "https://***@h:1"),
        ("socks5h+tls://h", "socks5h", 1080, "socks5h+tls://h:1080"),
        ("socks5+TLS://h", "socks5", 1080, "socks5+tls://h:1080"),
        ("socks+tls://h", "socks5h", 1080, "socks5h+tls://h:1080"),
        ("socks4a+tls://h", "socks4a", 1080, "socks4a+tls://h:1080"),
        ("socks4+tls://h", "socks4", 1080, "socks4+tls://h:1080"),
    ],
)
def test_a_url_with_tls(url: str, scheme: str, port: int, text: str) -> None:
    proxy = Proxy.from_url(url)
    assert (proxy.scheme, proxy.host, proxy.port, proxy.tls) == (scheme, "h", port, True)
    assert str(proxy) == text
    assert proxy == Proxy(
        "h", port, scheme=scheme, username=proxy.username, password=proxy.password, tls=True
    )
    assert replace(proxy, tls=None) == Proxy(
        "h", port, scheme=scheme, username=proxy.username, password=proxy.password
    )


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("socks5h://localhost/run/tor/socks", "/run/tor/socks"),
        ("socks4a://u@LOCALHOST/x", "/x"),
        ("socks5h+tls://localhost/a%20b%40c", "/a b@c"),
    ],
)
def test_a_url_of_a_unix_socket(url: str, path: str) -> None:
    proxy = Proxy.from_url(url)
    assert (proxy.path, proxy.host, proxy.place) == (path, "localhost", path)
    assert str(proxy).endswith(f"localhost{quote(path)}")
    assert proxy == replace(
        Proxy(path=path), scheme=proxy.scheme, tls=proxy.tls, username=proxy.username
    )


def test_a_url_and_a_context_for_tls() -> None:
    proxy = Proxy.from_url("socks5h://user@h:1", tls=CONTEXT)
    assert proxy == Proxy("h", 1, username="user", tls=CONTEXT)
    assert Proxy.from_url("https://h", tls=CONTEXT).tls is CONTEXT
    with pytest.raises(ValueError, match="means TLS, and tls is False"):
        Proxy.from_url("https://h", tls=False)


def test_a_path_of_any_kind() -> None:
    assert Proxy("proxy.example", path="/x").host == "proxy.example"
    assert Proxy(path="/x", scheme="http").path == "/x"


NOTHING = NO_AUTHENTICATION.negotiate
NO_SCHEME = "proxy URL has no scheme: it must begin with socks5h://, socks5://, socks://"
QUOTED = "proxy URL begins or ends with a quotation mark; remove it"
PADDED = "proxy URL begins or ends with white space or a line end; remove it"
DIRECT = "proxy URL direct:// means no proxy, and socksclient connects only through a proxy"
UNENCODED = (
    "proxy URL has / ? or # before its last @; in a user name or password they must be percent"
)
BLANK_IN_USERINFO = "proxy URL has white space or a control character in its user name or password"
BLANK_IN_HOST = "proxy URL has white space or a control character in its host, its port or its path"
QUERY = "proxy URL has a query or a fragment, which mean nothing to a proxy"
PATH = "proxy URL has a path, which only a SOCKS proxy at a unix socket can have"
EMPTY_HOST = "proxy host is empty"
NOT_A_NUMBER = "proxy port is not a number; user name and password stand before the host"
RANGE = "proxy port is not in the range from 1 to 65535"
BRACKETS = "proxy URL has a bracket in the wrong place; brackets are only around an IPv6 address"
UNBRACKETED = "proxy host is an IPv6 address without brackets; write scheme://[address]:port"
NO_IPV6 = "proxy host is in brackets but is no IPv6 address"
COLONS = "proxy URL has more than one colon behind its host; user name and password stand before it"
PERCENT = "proxy URL has a % in its host or its port, which cannot be percent-encoded"
SECOND = "proxy URL has a second URL in it; give a chain of proxies as a list of URLs"
STARS = "proxy URL has *** in the place of its credentials: it is the text of a Proxy"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        # In each the secrets are us3r, p4ss, w0rd and 12345.
        ("", "proxy URL is empty"),
        ("proxy.example:1080", NO_SCHEME),
        ("us3r:p4ssw0rd@proxy.example:1080", NO_SCHEME),
        ("us3r:p4ss://w0rd@proxy.example:1080", NO_SCHEME),
        ("://p4ssw0rd", NO_SCHEME),
        ("p4ss_w0rd://h", NO_SCHEME),
        ("socks5:1080", NO_SCHEME),
        ("http:", NO_SCHEME),
        (
            "socks5:us3r:p4ssw0rd@h:1080",
            "proxy URL has 'socks5' without :// after it; write socks5",
        ),
        ("socks5h:/us3r:p4ssw0rd@h", "proxy URL has 'socks5h' without :// after it"),
        (
            "Socks5H+tls:h:1080",
            "proxy URL has 'socks5h+tls' without :// after it; write socks5h+tls:",
        ),
        ("socks4a//h:1080", "proxy URL has 'socks4a' without :// after it"),
        ("http:\\\\h:1080", "proxy URL has 'http' without :// after it"),
        ('"socks5h://us3r:p4ssw0rd@h:1"', QUOTED),
        ("'socks5h://us3r:p4ssw0rd@h:1'", QUOTED),
        ("“socks5h://us3r:p4ssw0rd@h:1”", QUOTED),
        ("'us3r:p4ssw0rd@h:1'", QUOTED),
        ('socks5h://h"', QUOTED),
        ("'", QUOTED),
        ("socks5h://us3r:p4ssw0rd@h:1\n", PADDED),
        ("socks5h://us3r:p4ssw0rd@h\r\n", PADDED),
        (" socks5h://us3r:p4ssw0rd@h", PADDED),
        ("\ufeffsocks5h://us3r:p4ssw0rd@h", PADDED),
        ("socks5h://us3r:p4ssw0rd@h\u2029", PADDED),
        ("h:1080\n", PADDED),
        ("direct://", DIRECT),
        ("DIRECT://us3r", DIRECT),
        ("ftp://us3r:p4ssw0rd@h", "proxy scheme 'ftp' is not one of socks5h://, "),
        ("https+tls://us3r@h", "proxy scheme 'https+tls' is not one of"),
        ("socks5h://us3r:p4ss%0Aw0rd@localhost/path\x01", BLANK_IN_HOST),
        ("socks5h://a:1,socks5h://b:1", SECOND),
        ("socks5h://us3r:p4ssw0rd@a:1 http://us3r:p4ssw0rd@b:1", SECOND),
        ("http://SOCKS5://us3r:p4ssw0rd@h:1", SECOND),
        ("socks5h://us3r:p4ss/w0rd@h:1", UNENCODED),
        ("socks5h://us3r:p4ss?w0rd@h:1", UNENCODED),
        ("socks5h://us3r:p4ss#w0rd@h:1", UNENCODED),
        ("socks5h://us3r:12345/p4ssw0rd@h:1", UNENCODED),
        ("socks5h://us3r:p4ssw0rd@localhost/p4ss@h", UNENCODED),
        ("socks5h://us3r:p4ss w0rd@h", BLANK_IN_USERINFO),
        ("socks5h://us3r:p4ss\tw0rd@h", BLANK_IN_USERINFO),
        ("socks5h://a b:1", BLANK_IN_HOST),
        ("socks5h://us3r:p4ss w0rd", BLANK_IN_HOST),
        ("socks5h://us3r:p4ssw0rd@h\n:1", BLANK_IN_HOST),
        ("socks5h://localhost/run/a b", BLANK_IN_HOST),
        ("socks5h://us3r:p4ssw0rd@h?p4ss=w0rd", QUERY),
        ("socks5h://us3r:p4ssw0rd@h/#w0rd", QUERY),
        ("socks5h://us3r:p4ss#w0rd", QUERY),
        ("socks5h://us3r:p4ssw0rd@h/path", PATH),
        ("http://p:1/x", PATH),
        ("http://us3r:p4ss%0Aw0rd@localhost/path", PATH),
        ("https://localhost/path", PATH),
        ("socks5h://us3r:p4ssw0rd@localhost:1/p4ss", PATH),
        ("socks5h://localhost:/path", PATH),
        ("socks5h://[::1]/path", PATH),
        ("socks5h://us3r:p4ssw0rd@", EMPTY_HOST),
        ("socks5h://us3r:p4ssw0rd@:1080", EMPTY_HOST),
        ("socks5h://", EMPTY_HOST),
        ("socks5h:///", EMPTY_HOST),
        (
            "socks5h:///run/tor/socks",
            "proxy host is empty; the URL of a unix socket is socks5h://localhost/path",
        ),
        ("socks5h://us3r:p4ssw0rd@h:http", NOT_A_NUMBER),
        ("socks5h://us3r:p4ssw0rd@h:-1", NOT_A_NUMBER),
        ("socks5h://us3r:p4ssw0rd@h:1080w0rd", NOT_A_NUMBER),
        ("socks5h://h:1080@us3r:p4ssw0rd", NOT_A_NUMBER),
        ("socks5h://us3r:p4ssw0rd", NOT_A_NUMBER),
        ("socks5h://us3r:p4ssw0rd@h:١", NOT_A_NUMBER),
        ("socks5h://us3r:p4ssw0rd@[::1]:1:1", NOT_A_NUMBER),
        ("socks5h://us3r:p4ssw0rd@h:0", RANGE),
        ("socks5h://us3r:p4ssw0rd@h:65536", RANGE),
        ("socks5h://us3r:1234567890", RANGE),
        ("socks5h://us3r:" + "1" * 5000, RANGE),
        ("socks5h://us3r:p4ssw0rd@[::1", BRACKETS),
        ("socks5h://us3r:p4ssw0rd@[::1]9050", BRACKETS),
        ("socks5h://us3r:p4ssw0rd@x[::1]", BRACKETS),
        ("socks5h://us3r:p4ssw0rd@::1]", BRACKETS),
        ("socks5h://::1", UNBRACKETED),
        ("socks5h://::1:1080", UNBRACKETED),
        ("socks5h://us3r:p4ssw0rd@2001:db8::1:1080/", UNBRACKETED),
        ("socks5h://2001:db8:1:2:3:4:5:6:1080", UNBRACKETED),
        ("socks5h://fe80::1%eth0:1080", UNBRACKETED),
        ("socks5h://us3r:p4ssw0rd@[name]", NO_IPV6),
        ("socks5h://us3r:p4ssw0rd@[1.2.3.4]", NO_IPV6),
        ("socks5h://us3r:p4ssw0rd@[::g]:1", NO_IPV6),
        ("socks5h://h:1080:us3r:p4ssw0rd", COLONS),
        ("socks5h://h:us3r:p4ssw0rd", COLONS),
        ("socks5h://us3r:p4ssw0rd@h%41", PERCENT),
        ("socks5h://us3r:p4ss%w0rd@h", "proxy password has a % that is not followed by two hex"),
        ("socks5h://us3r:p4ssw0rd%@h", "proxy password has a % that"),
        ("socks5h://us3r%4:p4ssw0rd@h", "proxy username has a % that"),
        ("socks5h://us3r:p4ssw0rd@localhost/p4ss%zz", "proxy path has a % that is not followed"),
        ("socks5h://us3r:p4ss%FFw0rd@h", "proxy password is not UTF-8 when percent-decoded"),
        ("socks5h://us3r%ed%a0%80:p4ssw0rd@h", "proxy username is not UTF-8"),
        ("socks5h://us3r:p4ss\ud800w0rd@h", "proxy password is not UTF-8"),
        ("socks5h://***@h:1080", STARS),
        ("socks4a://us3r%00@h", "proxy username has a NUL in it"),
        ("http://us3r%3Aus3r:p4ssw0rd@h", "proxy username has a colon in it"),
        ("http://us3r:p4ss%0Aw0rd@h", "proxy credentials have a control character"),
        (f"socks5h://us3r:{'p4ss' * 64}@h", "proxy password is 256 octets long in UTF-8"),
        (f"socks5h://{'us3r' * 64}:p4ssw0rd@h", "proxy username is 256 octets long in UTF-8"),
        (f"socks5h://us3r:p4ss{'%C3%BC' * 126}@h", "proxy password is 256 octets long in UTF-8"),
        (f"socks5h://us3r:p4ssw0rd@{'h' * 256}", "proxy host is 256 octets long"),
        ("socks5h://us3r:p4ssw0rd@☃", "proxy host '☃' is no valid internationalised name"),
    ],
)
def test_a_url_that_cannot_be_is_refused_and_its_credentials_are_not_repeated(
    url: str, text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        Proxy.from_url(url)
    shown = repr(caught.value) + "".join(traceback.format_exception(caught.value))
    for secret in ("us3r", "p4ss", "w0rd", "12345", "1111"):
        assert secret not in shown.lower()


@pytest.mark.parametrize("url", [None, b"socks5h://h", 1080])
def test_a_url_that_is_no_text(url: Any) -> None:
    with pytest.raises(TypeError, match=f"proxy URL must be a str, not {type(url).__name__}"):
        Proxy.from_url(url)


@pytest.mark.parametrize(
    ("scheme", "nearest"),
    [
        *[("sock5", "socks5"), ("socks6", "socks"), ("sock", "socks"), ("SOCKS-5", "socks5")],
        *[("socks5a", "socks5h"), ("socks4h", "socks4a"), ("socks5hh", "socks5h")],
        *[("htttp", "http"), ("httpss", "https"), ("http+tls", "https"), ("https+tls", "https")],
        *[("socks5h+ssl", "socks5h+tls"), ("socks4-tls", "socks4+tls")],
        *[
            (other, None)
            for other in ("ftp", "gopher", "ss", "ssh", "tcp", "trojan", "shadowsocks")
        ],
    ],
)
def test_an_unknown_scheme_is_told_the_nearest(scheme: str, nearest: str | None) -> None:
    makes: list[Callable[[], Proxy]] = [
        lambda: Proxy.from_url(f"{scheme}://h"),
        lambda: Proxy("h", scheme=scheme),
    ]
    for make in makes:
        with pytest.raises(ValueError, match=r"^proxy scheme '.*' is not one of ") as caught:
            make()
        assert repr(scheme.lower()) in str(caught.value).lower()
        hint = f"https://; did you mean {nearest}://?" if nearest else "or https://"
        assert str(caught.value).endswith(hint)


class TestPasswordOfSOCKS4:
    @pytest.mark.parametrize("scheme", ["socks4", "socks4a", "SOCKS4A", "socks4+tls"])
    def test_in_a_url_is_dropped_with_a_warning(
        self, scheme: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy = Proxy.from_url(f"{scheme}://us3r:p4ss@h:1")
        assert proxy == Proxy("h", 1, scheme=scheme, username="us3r")
        [record] = caplog.records
        assert (record.name, record.levelname) == ("socksclient", "WARNING")
        assert record.getMessage() == (
            f"{proxy}: the URL has a password, which a SOCKS4 proxy does not take; the password"
            " is dropped"
        )
        for secret in ("us3r", "p4ss"):
            assert secret not in caplog.text
            assert secret not in repr(vars(record))
        assert proxy.isolated("token") == Proxy("h", 1, scheme=scheme, username="token")

    def test_that_is_empty_needs_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        assert Proxy.from_url("socks4://us3r:@h") == Proxy.from_url("socks4://us3r@h")
        assert caplog.records == []

    def test_in_the_constructor_is_refused(self) -> None:
        with pytest.raises(ValueError, match="proxy password is given, and a SOCKS4 proxy"):
            Proxy("h", scheme="socks4a", username="us3r", password="p4ss")
        with pytest.raises(ValueError, match="a SOCKS4 proxy takes none") as caught:
            replace(PROXY, scheme="socks4")
        assert "p4ss" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": ""}, "proxy host is empty"),
        ({"host": "h" * 256}, "proxy host is 256 octets long"),
        ({"host": "[h]"}, "proxy host is no name and no IP address"),
        (
            {"host": "h:1080"},
            "proxy host is no name and no IP address; the port is an argument of its own",
        ),
        ({"host": "socks5h://us3r:p4ss@h"}, "proxy host is no name and no IP address"),
        ({"host": "fe80::1%"}, "proxy host is no name and no IP address"),
        ({"host": "fe80::1%\0"}, "proxy host is no name and no IP address"),
        ({"host": "[fe80::1%eth0"}, "proxy host is no name and no IP address"),
        ({"host": "fe80::1%ö"}, "proxy host"),
        ({"port": 0}, "port 0 is not in the range from 1 to 65535"),
        ({"port": 65536}, "port 65536 is not in the range"),
        ({"port": "1080"}, "port must be an integer"),
        ({"scheme": "ftp"}, "proxy scheme 'ftp' is not one of socks5h://, socks5://, socks://"),
        ({"scheme": "socks5h://us3r:p4ss@h"}, "proxy scheme is not one of socks5h://, socks5://"),
        ({"scheme": ""}, "proxy scheme is not one of"),
        ({"scheme": "https", "tls": False}, "proxy scheme 'https' means TLS, and tls is False"),
        ({"scheme": "socks5+tls", "tls": False}, "means TLS, and tls is False"),
        ({"scheme": "socks4", "username": "us3r", "password": "p4ss"}, "a SOCKS4 proxy takes none"),
        ({"scheme": "socks4", "username": "us3r" * 64}, "proxy username is 256 octets long"),
        ({"scheme": "socks4", "methods": [NO_AUTHENTICATION]}, "proxy methods are of SOCKS5"),
        ({"scheme": "http", "username": "us3r:us3r"}, "proxy username has a colon"),
        ({"scheme": "http", "username": "us3r", "password": "p4ss\r"}, "control character"),
        ({"path": ""}, "proxy path is not absolute"),
        ({"path": "run/tor/socks"}, "proxy path is not absolute"),
        ({"path": "/run/tor/socks\0.other"}, "proxy path has a NUL in it"),
        ({"host": "a..b", "tls": True}, "proxy host 'a..b' can be in no certificate"),
        ({"host": ".", "scheme": "https"}, "proxy host '.' can be in no certificate"),
        ({"host": f"{'l' * 64}.test", "tls": True}, "can be in no certificate"),
        ({"password": "p4ss"}, "proxy password is given without a username"),
        ({"username": "us3r" * 64}, "proxy username is 256 octets long in UTF-8"),
        ({"username": "us3r", "password": "p4ss" * 64}, "proxy password is 256 octets long"),
        ({"username": "us3r", "password": "p4ss\ud800"}, "proxy password cannot be encoded"),
        ({"methods": [NO_AUTHENTICATION] * 2}, "proxy methods must have different codes"),
        ({"methods": [USERNAME_PASSWORD]}, "username/password (02), but there is no username"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        Proxy(**{"host": "h", **arguments})
    assert "us3r" not in repr(caught.value)
    assert "p4ss" not in repr(caught.value)


@pytest.mark.parametrize(
    ("proxy", "same"),
    [
        (Proxy("h"), Proxy("h", 1080, scheme="socks5h", username=None, password=None, methods=())),
        (Proxy("h", scheme="socks"), Proxy("h", scheme="socks5h")),
        (Proxy("[2001:db8:0::1]"), Proxy("2001:db8::1")),
        (Proxy("[fe80:0::1%eth0]"), Proxy("fe80::1%eth0")),
        (Proxy("bücher.example"), Proxy("xn--bcher-kva.example")),
        (Proxy("h", username="u"), Proxy("h", username="u", password="")),
        (Proxy("h", username=""), Proxy.from_url("socks5h://@h")),
    ],
    ids=str,
)
def test_equal_proxies_are_equal_and_hash_alike(proxy: Proxy, same: Proxy) -> None:
    assert proxy == same
    assert hash(proxy) == hash(same)


CONTEXT = ssl.create_default_context()
PROXY = Proxy("h", 1081, scheme="socks5", username="us3r", password="p4ss")
OTHERS = [
    replace(PROXY, host="i"),
    replace(PROXY, port=1080),
    replace(PROXY, scheme="socks5h"),
    replace(PROXY, username="other"),
    replace(PROXY, password="other"),
    replace(PROXY, methods=(USERNAME_PASSWORD,)),
    replace(PROXY, path="/run/tor/socks"),
    replace(PROXY, tls=True),
    replace(PROXY, scheme="http", headers=(("X-Tenant", "s3cret"),)),
]


def test_proxies_that_differ_in_one_field_are_different() -> None:
    assert OTHERS[-1] != replace(OTHERS[-1], headers=())
    assert OTHERS[-1] != replace(OTHERS[-1], headers=(("X-Tenant", "other"),))
    assert len({PROXY, *OTHERS}) == 1 + len(OTHERS)
    assert len(OTHERS) == len(fields(Proxy))
    assert OTHERS[1] == Proxy("h", scheme="socks5", username="us3r", password="p4ss")


@pytest.mark.parametrize("field", [field.name for field in fields(Proxy)])
def test_no_field_can_be_set(field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(PROXY, field, "other")


@pytest.mark.parametrize("code", [-1, 0xFF, 0x180])
def test_a_method_has_a_code_that_can_be_offered(code: int) -> None:
    with pytest.raises(ValueError, match=f"method code {code} is not in the range"):
        Method(code, NOTHING)


def test_methods_of_any_iterable_are_kept_as_a_tuple() -> None:
    methods: Any = [USERNAME_PASSWORD, NO_AUTHENTICATION]
    for some in (methods, iter(methods)):
        kept = Proxy("h", username="user", methods=some).methods
        assert kept == (USERNAME_PASSWORD, NO_AUTHENTICATION)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": None}, "proxy host must be a str, not NoneType"),
        ({"host": b"h"}, "proxy host must be a str, not bytes"),
        ({"host": "h", "username": b"us3r"}, "proxy username must be a str, not bytes"),
        ({"host": "h", "username": "u", "password": 1}, "proxy password must be a str, not int"),
        ({"path": b"/x"}, "proxy path must be a str, not bytes"),
        ({"path": 1}, "proxy path must be a str, not int"),
        ({"host": "h", "scheme": None}, "proxy scheme must be a str, not NoneType"),
        ({"host": "h", "tls": "ca.pem"}, "proxy tls must be an ssl.SSLContext or a bool, not str"),
        ({"host": "h", "tls": 1}, "proxy tls must be an ssl.SSLContext or a bool, not int"),
    ],
)
def test_arguments_of_the_wrong_type(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Proxy(**arguments)


def test_replacing_a_field_checks_it() -> None:
    with pytest.raises(ValueError, match="proxy scheme 'ftp'"):
        replace(PROXY, scheme="ftp")


@pytest.mark.parametrize("proxy", [PROXY, *OTHERS], ids=str)
def test_a_proxy_can_be_pickled_and_copied(proxy: Proxy) -> None:
    for double in (pickle.loads(pickle.dumps(proxy)), copy.copy(proxy), copy.deepcopy(proxy)):
        assert double == proxy


@pytest.mark.parametrize(
    ("proxy", "text"),
    [
        (PROXY, "socks5://***@h:1081"),
        (Proxy("h", username=""), "socks5h://***@h:1080"),
        (Proxy("h"), "socks5h://h:1080"),
        (Proxy("::1", scheme="socks"), "socks5h://[::1]:1080"),
        (Proxy("fe80::1%eth0"), "socks5h://[fe80::1%eth0]:1080"),
    ],
)
def test_its_text_is_the_url_without_credentials(proxy: Proxy, text: str) -> None:
    assert str(proxy) == f"{proxy}" == text
    assert repr(proxy) == f"<Proxy {text}>"


def test_a_copy_shares_the_context_for_tls() -> None:
    proxy = Proxy("h", tls=CONTEXT, username="us3r", methods=(USERNAME_PASSWORD,))
    held = {"proxies": [proxy, proxy]}
    for double in (copy.copy(proxy), copy.deepcopy(proxy), *copy.deepcopy(held)["proxies"]):
        assert double == proxy
        assert double.tls is CONTEXT


def test_a_context_for_tls_is_kept_as_it_is() -> None:
    proxy = Proxy("h", tls=CONTEXT)
    assert proxy.tls is CONTEXT
    assert proxy == Proxy("h", scheme="socks5h+tls", tls=CONTEXT)
    assert proxy != Proxy("h", tls=True)
    assert hash(proxy) == hash(Proxy("h", tls=CONTEXT))


def test_one_proxy_is_a_chain_of_one() -> None:
    assert as_chain(PROXY) == (PROXY,)
    assert as_chain("socks5://us3r:p4ss@h:1081") == (PROXY,)


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_a_sequence_is_a_chain(kind: Any) -> None:
    assert as_chain(kind([PROXY, "http://h"])) == (PROXY, Proxy("h", scheme="http"))
    with pytest.raises(ValueError, match="proxy is an empty sequence"):
        as_chain(kind([]))


def test_only_the_nearest_can_be_a_unix_socket() -> None:
    assert as_chain([Proxy(path="/x"), PROXY])[0].path == "/x"
    with pytest.raises(ValueError, match=r"hop 1 is a unix socket; only the nearest \(0\) can be"):
        as_chain([PROXY, Proxy(path="/x")])


@pytest.mark.parametrize(
    ("proxy", "kind"),
    [
        (None, "NoneType"),
        (b"socks5h://us3r:p4ss@h", "int in a bytes"),
        (("h", 1080), "int in a tuple"),
        (1080, "int"),
        ([PROXY, [PROXY]], "list in a list"),
        ({PROXY}, "set"),
    ],
)
def test_a_chain_is_made_of_nothing_else(proxy: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"proxy must be a str, a .* not {kind}$"):
        as_chain(proxy)


class TestIsolated:
    def test_by_a_random_token(self) -> None:
        proxies = {PROXY.isolated() for _ in range(100)}
        assert len(proxies) == 100
        for proxy in proxies:
            assert proxy.username == "<torS0X>0"
            assert len(proxy.password or "") == 32
            assert replace(proxy, username="us3r", password="p4ss") == PROXY

    def test_by_a_token_of_ones_own(self) -> None:
        proxy = Proxy("h").isolated("token")
        assert proxy == Proxy("h", username="<torS0X>0", password="token")
        assert proxy == Proxy("h", username="alice").isolated("token")
        assert Proxy("h").isolated("").password == ""
        whole = Proxy("h", 9150, path="/run/tor/socks", tls=True)
        isolated = whole.isolated("token")
        assert replace(isolated, username=None, password=None) == whole

    @pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
    def test_with_socks4_by_the_user_id(self, scheme: str) -> None:
        proxy = Proxy("h", scheme=scheme)
        assert proxy.isolated("token") == Proxy("h", scheme=scheme, username="token")
        assert proxy.isolated() != proxy.isolated()

    def test_needs_a_method_that_carries_it(self) -> None:
        methods = (Method(0x80, NOTHING), NO_AUTHENTICATION)
        with pytest.raises(ValueError, match=r"isolation needs username/password \(02\)"):
            Proxy("h", methods=methods).isolated()
        insisting = Proxy("h", username="u", methods=(USERNAME_PASSWORD,))
        assert insisting.isolated("token").methods == (USERNAME_PASSWORD,)

    def test_a_token_that_is_too_long(self) -> None:
        with pytest.raises(ValueError, match="proxy password is 256 octets long"):
            PROXY.isolated("t" * 256)


class TestHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            {"X-Tenant": "a", "x-trace": "1\t2 3"},
            httpx.Headers({"X-Tenant": "a", "x-trace": "1\t2 3"}),
            [("X-Tenant", "a"), ("x-trace", "1\t2 3")],
            [["X-Tenant", "a"], ["x-trace", "1\t2 3"]],
            iter({"X-Tenant": "a", "x-trace": "1\t2 3"}.items()),
        ],
    )
    def test_are_kept_as_pairs(self, headers: Any) -> None:
        proxy = Proxy("h", scheme="http", headers=headers)
        names = tuple((name.lower(), value) for name, value in proxy.headers)
        assert names == (("x-tenant", "a"), ("x-trace", "1\t2 3"))
        assert all(type(pair) is tuple for pair in proxy.headers)
        assert hash(proxy) == hash(replace(proxy))
        assert replace(proxy, port=81).headers == proxy.headers
        assert replace(proxy, headers=()) == Proxy("h", scheme="http")

    def test_keep_their_order_their_case_and_their_number(self) -> None:
        pairs = (("b", "1"), ("A", "2"), ("b", "3"), ("!#$%&'*+-.^_`|~09Zz", ""))
        assert Proxy("h", scheme="https", headers=pairs).headers == pairs
        assert Proxy("h", scheme="http").headers == ()
        assert Proxy("h", headers={}).headers == ()

    @pytest.mark.parametrize("value", ["", "Bearer s3cret", "ü€😀", "a\tb", "a=b; c", "\xa0"])
    def test_values_of_any_text(self, value: str) -> None:
        assert Proxy("h", scheme="http", headers={"X": value}).headers == (("X", value),)

    @pytest.mark.parametrize("name", ["Proxy-Authorization", "proxy-authorization"])
    def test_credentials_of_another_scheme(self, name: str) -> None:
        headers = {name: "Bearer s3cret"}
        proxy = Proxy("h", scheme="http", headers=headers)
        assert proxy.username is None
        for username in ("us3r", ""):
            with pytest.raises(ValueError, match="have a Proxy-Authorization, and there is a user"):
                replace(proxy, username=username)
        isolated = Proxy("h", scheme="http", headers={"X": "s3cret", **headers}).isolated("token")
        assert isolated.headers == (("X", "s3cret"),)
        assert isolated.password == "token"

    @pytest.mark.parametrize(
        ("headers", "text"),
        [
            ({"Host": "s3cret"}, "proxy headers have Host, which would break the CONNECT"),
            ({"content-length": "0"}, "proxy headers have content-length, which would break the"),
            ({"Transfer-Encoding": "chunked"}, "have Transfer-Encoding, which would break"),
            ({"Upgrade": "s3cret"}, "have Upgrade, which would break"),
            (
                {"": "s3cret"},
                "proxy headers have a name that is empty or has characters other than",
            ),
            ({"X Y": "s3cret"}, "proxy headers have a name that is empty or has characters other"),
            ({"X: s3cret\r\nY": "a"}, "have a name that is empty or has characters other than"),
            ({"Ä": "a"}, "have a name that is empty or has characters other than"),
            ({"X\n": "a"}, "have a name that is empty or has characters other than"),
            *(
                ({"X": f"s3cret{bad}s3cret"}, "half a surrogate pair in the value of X")
                for bad in ("\r", "\n", "\r\nEvil: 1", "\0", "\x0b", "\x7f", "\x85", "\ud800")
            ),
            ({"X": "s3cret\n"}, "proxy headers have a line end, another control character or half"),
            ({"X": " s3cret"}, "proxy headers have white space around the value of X; remove it"),
            ({"X": "s3cret\t"}, "proxy headers have white space around the value of X; remove it"),
        ],
    )
    def test_that_would_break_the_request(self, headers: dict[str, str], text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(text)) as caught:
            Proxy("h", scheme="http", headers=headers)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "socks4"])
    def test_of_a_socks_proxy(self, scheme: str) -> None:
        text = f"proxy headers are for HTTP proxies, and the scheme is {scheme}"
        with pytest.raises(ValueError, match=text):
            Proxy("h", scheme=scheme, headers={"X": "s3cret"})

    @pytest.mark.parametrize(
        "headers",
        [
            "X: s3cret",
            ["X: s3cret"],
            ["ab"],
            [("X", "s3cret", "Y")],
            [("X",)],
            {"X": b"s3cret"},
            {b"X": "s3cret"},
            {"X": None},
            [None],
        ],
    )
    def test_of_the_wrong_type(self, headers: Any) -> None:
        text = r"proxy headers must be a mapping or \(name, value\) pairs, of str"
        with pytest.raises(TypeError, match=text) as caught:
            Proxy("h", scheme="http", headers=headers)
        assert "s3cret" not in str(caught.value)


CREDENTIALS = st.text().filter(lambda text: len(text.encode()) <= 255)


@given(CREDENTIALS, CREDENTIALS)
@example("ü" * 127, "€" * 85)
def test_any_credentials_survive_percent_encoding(username: str, password: str) -> None:
    userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}"
    proxy = Proxy.from_url(f"socks5h://{userinfo}@proxy.example:1081")
    assert proxy == Proxy("proxy.example", 1081, username=username, password=password)
    assert (proxy.username, proxy.password) == (username, password)


@given(st.sampled_from(["", "socks5h://", "socks://u:p@"]), st.text() | st.text("aü:/?#[]@%41. \0"))
def test_any_text_is_a_proxy_or_a_value_error(start: str, text: str) -> None:
    try:
        proxy = Proxy.from_url(start + text)
    except ValueError:
        return
    assert 1 <= proxy.port <= 65535
    assert proxy.host
