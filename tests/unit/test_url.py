"""The URLs of proxies: what their parts mean, and how each mistake in one is worded."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, strategies as st

from socksclient import Proxy

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
def test_proxy_url_is_the_proxy_of_its_parts(
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
def test_proxy_url_with_tls(url: str, scheme: str, port: int, text: str) -> None:
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
def test_proxy_url_of_a_unix_socket(url: str, path: str) -> None:
    proxy = Proxy.from_url(url)
    assert (proxy.path, proxy.host, proxy.place) == (path, "localhost", path)
    assert str(proxy).endswith(f"localhost{quote(path)}")
    assert proxy == replace(
        Proxy(path=path), scheme=proxy.scheme, tls=proxy.tls, username=proxy.username
    )


NO_SCHEME = "proxy URL has no scheme: it must begin with socks5h://, socks5://, socks://"
QUOTED = "proxy URL begins or ends with a quotation mark; remove it"
PADDED = "proxy URL begins or ends with white space or a line end; remove it"
DIRECT = "proxy URL direct:// means no proxy, but socksclient connects only through a proxy"
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
NO_IPV6 = "proxy host is in brackets but is not an IPv6 address"
COLONS = "proxy URL has more than one colon behind its host; user name and password stand before it"
PERCENT = "proxy URL has a % in its host or its port, which cannot be percent-encoded"
SECOND = "proxy URL has a second URL in it; give a chain of proxies as a list of URLs"
STARS = "proxy URL has *** in the place of its credentials: it is the text of a Proxy"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        # No error text may show us3r, p4ss, w0rd or 12345.
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
        ("socks5h://us3r:p4ssw0rd@☃", "proxy host '☃' is not a valid internationalised name"),
    ],
)
def test_proxy_url_that_is_not_valid_is_refused_without_its_credentials(
    url: str, text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        Proxy.from_url(url)
    shown = repr(caught.value) + "".join(traceback.format_exception(caught.value))
    for secret in ("us3r", "p4ss", "w0rd", "12345", "1111"):
        assert secret not in shown.lower()


@pytest.mark.parametrize("url", [None, b"socks5h://h", 1080])
def test_proxy_url_of_another_type_is_a_type_error(url: Any) -> None:
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
def test_proxy_url_with_an_unknown_scheme_is_told_the_nearest(
    scheme: str, nearest: str | None
) -> None:
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


CREDENTIALS = st.text().filter(lambda text: len(text.encode()) <= 255)


@given(CREDENTIALS, CREDENTIALS)
@example("ü" * 127, "€" * 85)
def test_proxy_url_carries_any_credentials_percent_encoded(username: str, password: str) -> None:
    userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}"
    proxy = Proxy.from_url(f"socks5h://{userinfo}@proxy.example:1081")
    assert proxy == Proxy("proxy.example", 1081, username=username, password=password)
    assert (proxy.username, proxy.password) == (username, password)


@given(st.sampled_from(["", "socks5h://", "socks://u:p@"]), st.text() | st.text("aü:/?#[]@%41. \0"))
def test_proxy_url_of_any_text_is_a_proxy_or_a_value_error(start: str, text: str) -> None:
    try:
        proxy = Proxy.from_url(start + text)
    except ValueError:
        return
    assert 1 <= proxy.port <= 65535
    assert proxy.host
