"""The proxies of the environment; `test_curl_environment.py` compares them with curl's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, strategies as st

from socksclient import Proxy
from socksclient.protocol.environment import Environment, Setting

from helpers.support import resolved_names

A, B, C = "socks5h://a.test", "socks5h://b.test", "socks5h://c.test"
VARIABLES = [
    name
    for lower in ("all_proxy", "http_proxy", "https_proxy", "no_proxy", "request_method")
    for name in (lower, lower.upper())
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def proxy_of(setting: Setting | None) -> Proxy | None:
    return None if setting is None else setting.parsed(Proxy.from_url)


class TestFromEnv:
    def test_from_env_is_none_if_no_variable_is_set(self) -> None:
        assert Proxy.from_env() is None
        assert Proxy.from_env("site.test") is None

    @pytest.mark.parametrize("destination", [None, "site.test", "::1", ("site.test", 80)])
    def test_from_env_returns_the_proxy_of_all_proxy(
        self, destination: str | tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks5h://user:p%40ss@proxy.test:1081")
        expected = Proxy("proxy.test", 1081, username="user", password="p@ss")
        assert Proxy.from_env(destination) == expected

    def test_from_env_ignores_http_proxy_and_https_proxy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, A)
        assert Proxy.from_env(("site.test", 443)) is None

    def test_from_env_is_none_for_a_destination_in_no_proxy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("all_proxy", A)
        monkeypatch.setenv("no_proxy", "near.test,192.0.2.0/24,port.test:80")
        assert Proxy.from_env("near.test") is None
        assert Proxy.from_env("192.0.2.9") is None
        assert Proxy.from_env(("near.test", 80)) is None
        assert Proxy.from_env(("port.test", 80)) is None
        for destination in ("far.test", ("port.test", 81), "port.test", None):
            assert Proxy.from_env(destination) == Proxy("a.test")

    def test_from_env_reads_the_environment_each_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("all_proxy", A)
        assert Proxy.from_env() == Proxy("a.test")
        monkeypatch.setenv("all_proxy", B)
        assert Proxy.from_env() == Proxy("b.test")

    def test_from_env_refuses_a_value_and_names_its_variable(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "gopher://user:s3cret@proxy.test")
        with pytest.raises(ValueError, match=r"^ALL_PROXY: proxy scheme 'gopher' is not") as caught:
            Proxy.from_env()
        assert "s3cret" not in str(caught.value)
        monkeypatch.setenv("NO_PROXY", "near.test")
        assert Proxy.from_env("near.test") is None


class TestVariables:
    @pytest.mark.parametrize(
        ("environ", "http", "https", "other"),
        [
            ({}, None, None, None),
            ({"all_proxy": A}, A, A, A),
            ({"ALL_PROXY": A}, A, A, A),
            ({"all_proxy": A, "ALL_PROXY": B}, A, A, A),
            ({"all_proxy": "", "ALL_PROXY": B}, B, B, B),
            ({"all_proxy": " ", "ALL_PROXY": B}, B, B, B),
            ({"http_proxy": A}, A, None, None),
            ({"HTTP_PROXY": A}, A, None, None),
            ({"http_proxy": A, "HTTP_PROXY": B}, A, None, None),
            ({"http_proxy": "", "HTTP_PROXY": B}, B, None, None),
            ({"https_proxy": A}, None, A, None),
            ({"HTTPS_PROXY": A}, None, A, None),
            ({"https_proxy": A, "HTTPS_PROXY": B}, None, A, None),
            ({"http_proxy": A, "https_proxy": B, "all_proxy": C}, A, B, C),
            ({"http_proxy": "", "https_proxy": "", "all_proxy": C}, C, C, C),
            # In CGI, HTTP_PROXY is the header "Proxy" of the client's request (CVE-2016-5385).
            ({"HTTP_PROXY": A, "REQUEST_METHOD": "GET"}, None, None, None),
            ({"HTTP_PROXY": A, "REQUEST_METHOD": "", "all_proxy": C}, C, C, C),
            ({"http_proxy": A, "REQUEST_METHOD": "GET"}, A, None, None),
            ({"HTTPS_PROXY": A, "REQUEST_METHOD": "GET"}, None, A, None),
            ({"All_Proxy": A, "socks_proxy": B, "proxy": C}, None, None, None),
        ],
    )
    def test_environment_variable_for_each_scheme(
        self, environ: dict[str, str], http: str | None, https: str | None, other: str | None
    ) -> None:
        environment = Environment.of(environ)
        for scheme, expected in (("http", http), ("https", https), ("ftp", other), (None, other)):
            proxy = proxy_of(environment.proxy_for(scheme, "site.test", 80))
            assert proxy == (None if expected is None else Proxy.from_url(expected))

    @pytest.mark.parametrize(
        ("environ", "bypassed"),
        [
            ({"no_proxy": "site.test"}, True),
            ({"NO_PROXY": "site.test"}, True),
            ({"no_proxy": "x.test", "NO_PROXY": "site.test"}, False),
            ({"no_proxy": "", "NO_PROXY": "site.test"}, True),
        ],
    )
    def test_environment_prefers_no_proxy_to_the_variable_in_capitals(
        self, environ: dict[str, str], bypassed: bool
    ) -> None:
        environment = Environment.of({"http_proxy": A, "https_proxy": A, "all_proxy": A, **environ})
        for scheme in ("http", "https", None):
            assert (environment.proxy_for(scheme, "site.test", 80) is None) == bypassed

    def test_environment_on_windows_has_names_without_case(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Environ(dict[str, str]):
            """The environment of Windows, which has all names in capitals and ignores case."""

            def __getitem__(self, name: str) -> str:
                return super().__getitem__(name.upper())

            def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
                return super().get(name.upper(), default)

        cgi = Environment.of(Environ(HTTP_PROXY=A, REQUEST_METHOD="GET", ALL_PROXY=B))
        assert proxy_of(cgi.proxy_for("http", "site.test", 80)) == Proxy("b.test")
        usual = Environment.of(Environ(HTTP_PROXY=A, NO_PROXY="near.test"))
        assert proxy_of(usual.proxy_for("http", "site.test", 80)) == Proxy("a.test")
        assert usual.proxy_for("http", "near.test", 80) is None


class TestValuesOfVariables:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("socks5h://proxy.test", Proxy("proxy.test", 1080)),
            ("socks5://proxy.test:1081", Proxy("proxy.test", 1081, scheme="socks5")),
            # GNOME sets this scheme, and means SOCKS5.
            ("socks://proxy.test", Proxy("proxy.test", scheme="socks5h")),
            ("socks4a://user@proxy.test", Proxy("proxy.test", scheme="socks4a", username="user")),
            ("SOCKS5H://proxy.test/", Proxy("proxy.test")),
            ("http://proxy.test", Proxy("proxy.test", 80, scheme="http")),
            ("https://proxy.test", Proxy("proxy.test", 443, scheme="http", tls=True)),
            ("proxy.test", Proxy("proxy.test", 80, scheme="http")),
            ("proxy.test:8080", Proxy("proxy.test", 8080, scheme="http")),
            ("[2001:db8::1]:8080", Proxy("2001:db8::1", 8080, scheme="http")),
            (
                "user:pass@proxy.test:8080",
                Proxy("proxy.test", 8080, scheme="http", username="user", password="pass"),
            ),
            (" socks5h://proxy.test\n", Proxy("proxy.test")),
            ("socks5h://localhost/run/tor/socks", Proxy(path="/run/tor/socks")),
        ],
    )
    def test_environment_value_is_a_proxy(self, value: str, expected: Proxy) -> None:
        for variable in ("all_proxy", "HTTPS_PROXY"):
            environment = Environment.of({variable: value})
            assert proxy_of(environment.proxy_for("https", "site.test", 443)) == expected

    @pytest.mark.parametrize(
        "value",
        [
            "gopher://user:s3cret@proxy.test",
            "socks6://user:s3cret@proxy.test",
            "socks5h://user:s3cret@proxy.test:port",
            "socks5h://user:s3cret@proxy.test:70000",
            "socks5h://user:s3cret@",
            "socks5h://user:s3cret%zz@proxy.test",
            "socks5h://user:s3cret\udcff@proxy.test",
            "socks5h://user:s3cret@proxy.test/path",
            "direct://s3cret",
            "'socks5h://user:s3cret@proxy.test'",
            "user:s3cret@proxy.test/path",
            "user:s3cret://x@proxy.test",
            "://s3cret",
            "s3cret@",
        ],
    )
    def test_environment_value_is_refused_only_where_it_is_used(self, value: str) -> None:
        environment = Environment.of({"HTTPS_PROXY": value, "all_proxy": C})
        # A value that is not valid matters only where it would be used.
        assert proxy_of(environment.proxy_for("http", "site.test", 80)) == Proxy("c.test")
        with pytest.raises(ValueError, match=r"^HTTPS_PROXY: proxy ") as caught:
            proxy_of(environment.proxy_for("https", "site.test", 443))
        assert "s3cret" not in f"{caught.value!r} {environment!r}"
        assert caught.value.__cause__ is caught.value.__context__ is None

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (
                "direct://",
                "HTTPS_PROXY: proxy URL direct:// means no proxy, but socksclient",
            ),
            ('"socks5h://p:1"', "HTTPS_PROXY: proxy URL begins or ends with a quotation mark"),
            ('"p:1"', "HTTPS_PROXY: proxy URL begins or ends with a quotation mark"),
            (
                "socks5:p:1",
                "HTTPS_PROXY: proxy URL has 'socks5' without :// after it; write socks5",
            ),
            (
                "socks5h:/p",
                "HTTPS_PROXY: proxy URL has 'socks5h' without :// after it; write socks",
            ),
            ("http://socks5://p", "HTTPS_PROXY: proxy URL has a second URL in it"),
            ("::1:1080", "HTTPS_PROXY: proxy host is an IPv6 address without brackets"),
            ("sock5://p", "HTTPS_PROXY: proxy scheme 'sock5' is not one of"),
        ],
    )
    def test_environment_value_is_refused_with_its_variable(
        self, value: str, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
            proxy_of(Environment.of({"HTTPS_PROXY": value}).proxy_for("https"))
        monkeypatch.setenv("all_proxy", value)
        with pytest.raises(ValueError, match=f"^all_proxy: {re.escape(text[13:])}"):
            Proxy.from_env()

    @pytest.mark.parametrize("value", ["socks5:1080", "http:1080", "socks5"])
    def test_environment_value_is_a_host_with_the_name_of_a_scheme(self, value: str) -> None:
        proxy = proxy_of(Environment.of({"all_proxy": value}).proxy_for(None))
        assert proxy == Proxy.from_url(f"http://{value}")

    def test_environment_value_with_a_password_for_socks4_warns(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks4a://user:s3cret@proxy.test")
        assert Proxy.from_env() == Proxy("proxy.test", scheme="socks4a", username="user")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "s3cret" not in caplog.text

    def test_environment_text_shows_no_password(self) -> None:
        environment = Environment.of({"all_proxy": "socks5h://user:s3cret@proxy.test"})
        assert "s3cret" not in f"{environment!r} {environment}"


# Each row: an entry of no_proxy, destinations that the entry has, destinations that it does not
# have. A destination without a port is at port 80.
ENTRIES = [
    ("*", ["site.test", "127.0.0.1", "[::1]"], []),
    ("*:80", ["site.test", "127.0.0.1", "[::1]"], ["site.test:81"]),
    (
        "site.test",
        ["site.test", "SITE.Test", "site.test.", "www.site.test", "a.b.site.test.", "site.test:9"],
        ["test", "mysite.test", "site.test.example", "site-test", "192.0.2.1"],
    ),
    ("SITE.test.", ["site.test", "www.site.test"], ["mysite.test"]),
    (".site.test", ["site.test", "www.site.test"], ["mysite.test"]),
    ("*.site.test", ["www.site.test", "a.b.site.test"], ["site.test", "mysite.test"]),
    ("site.test:80", ["site.test", "www.site.test"], ["site.test:81", "www.site.test:443"]),
    ("*.site.test:80", ["www.site.test"], ["www.site.test:81", "site.test"]),
    ("test", ["site.test", "test"], ["attest", "test.example"]),
    ("localhost", ["localhost", "a.localhost"], ["127.0.0.1", "[::1]"]),
    ("a_b.test", ["a_b.test"], []),
    ("bücher.test", ["bücher.test", "xn--bcher-kva.test", "www.BÜCHER.test"], ["bucher.test"]),
    ("xn--bcher-kva.test", ["bücher.test"], []),
    ("*.straße.test", ["www.straße.test"], ["www.strasse.test", "straße.test"]),
    ("192.0.2.1", ["192.0.2.1", "192.0.2.1:9"], ["192.0.2.10", "1.192.0.2.1.test", "192.0.2.2"]),
    ("192.0.2.1:80", ["192.0.2.1"], ["192.0.2.1:81"]),
    ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.3.0", "192.0.2.test"]),
    ("192.0.2.77/24", ["192.0.2.1"], ["192.0.3.1"]),
    ("192.0.2.0/24:80", ["192.0.2.1"], ["192.0.2.1:81"]),
    ("192.0.2.0/255.255.255.0", ["192.0.2.1"], ["192.0.3.1"]),
    ("0.0.0.0/0", ["192.0.2.1"], ["[2001:db8::1]", "site.test"]),
    ("::/0", ["[2001:db8::1]"], ["192.0.2.1", "site.test"]),
    ("2001:db8::1", ["[2001:db8::1]", "[2001:DB8:0::1]"], ["[2001:db8::2]"]),
    ("[2001:db8::1]", ["[2001:db8::1]", "[2001:db8::1]:9"], ["[2001:db8::2]"]),
    ("[2001:db8::1]:80", ["[2001:db8::1]"], ["[2001:db8::1]:81"]),
    ("2001:db8::/32", ["[2001:db8::1]"], ["[2001:db9::1]"]),
    ("[2001:db8::]/32", ["[2001:db8::1]"], ["[2001:db9::1]"]),
    ("[2001:db8::]/32:80", ["[2001:db8::1]"], ["[2001:db8::1]:81"]),
    ("fe80::/10", ["[fe80::1%eth0]", "[fe80::1]"], []),
    ("192.0.2.1", ["[::ffff:192.0.2.1]"], []),
    ("::ffff:192.0.2.1", ["[::ffff:192.0.2.1]"], ["192.0.2.1"]),
]

NOTHING = [
    *("", ",", " , ", ".", "..", "*.", "*:", "*site.test", "site.*", "*127.0.0.1", "site.test:"),
    *("site.test:http", "site.test:123456", "http://site.test", "site.test/", "<local>", "[", "]"),
    *("[site.test]", "127.0.0.0/33", "127.0.0.", "127.", "127", "127.*", ".127.0.0.1"),
    *("*.127.0.0.1", "[127.0.0.1", "[::1", "::1]", ":::1", "127.0.0.1.", "127.0.0.0/"),
    *("127.0.0.0/24/", "fe80::1%lo", "a;site.test", "ü" * 64, "\udcff.test", "n" * 256),
    *("site..test", "@", "\0", "://"),
]


def destination(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, 80
    return host, int(port)


class TestNoProxy:
    @pytest.mark.parametrize(("entry", "has", "has_not"), ENTRIES)
    def test_no_proxy_entry_has_these_hosts(
        self, entry: str, has: list[str], has_not: list[str]
    ) -> None:
        for no_proxy in (entry, f"x.test, {entry}", f"{entry},x.test", f",,{entry} ,\tx.test\n"):
            environment = Environment.of({"no_proxy": no_proxy})
            for text in has:
                assert environment.bypasses(*destination(text)), text
            for text in has_not:
                assert not environment.bypasses(*destination(text)), text

    @pytest.mark.parametrize("entry", NOTHING)
    def test_no_proxy_entry_without_a_meaning_is_ignored(self, entry: str) -> None:
        environment = Environment.of({"no_proxy": f"{entry},near.test"})
        assert environment.bypasses("near.test", 80)
        for host in ("site.test", "www.test", "127.0.0.1", "::1"):
            assert not environment.bypasses(host, 80)

    def test_no_proxy_takes_a_host_with_and_without_brackets(self) -> None:
        environment = Environment.of({"no_proxy": "::1"})
        assert environment.bypasses("::1", 80)
        assert environment.bypasses("[::1]", 80)

    def test_no_proxy_without_a_destination_counts_only_if_it_has_all(self) -> None:
        some = Environment.of(
            {"all_proxy": A, "no_proxy": "near.test,0.0.0.0/0,::/0,port.test:80,*:80"}
        )
        assert not some.bypasses(None)
        assert not some.bypasses("port.test")
        assert proxy_of(some.proxy_for("http")) == Proxy("a.test")
        everything = Environment.of({"all_proxy": A, "no_proxy": "x.test,*"})
        assert everything.bypasses(None)
        assert everything.proxy_for("http") is None

    @pytest.mark.parametrize("host", ["", "a b", "[site.test]", "n" * 256])
    def test_proxy_for_refuses_a_host_that_is_not_valid(self, host: str) -> None:
        with pytest.raises(ValueError, match="host"):
            Environment.of({"all_proxy": A}).proxy_for("http", host, 80)

    def test_no_proxy_resolves_no_name(self) -> None:
        with resolved_names() as resolved:
            environment = Environment.of(
                {"all_proxy": A, "no_proxy": "127.0.0.1,localhost,::1/128"}
            )
            for host in ("localhost", "127.0.0.1", "site.test", "ip6-localhost"):
                environment.proxy_for("http", host, 80)
        assert resolved == []

    @given(st.text())
    def test_no_proxy_of_any_text_raises_nothing(self, no_proxy: str) -> None:
        environment = Environment.of({"no_proxy": no_proxy})
        for host in ("site.test", "192.0.2.1", "::1"):
            environment.bypasses(host, 80)

    @given(st.text())
    def test_environment_value_of_any_text_is_a_proxy_or_a_value_error(self, value: str) -> None:
        environment = Environment.of({"all_proxy": value})
        message = "all_proxy: "
        try:
            proxy_of(environment.proxy_for("http", "site.test", 80))
        except ValueError as error:
            message = str(error)
        assert message.startswith("all_proxy: ")


def test_environment_is_a_frozen_value() -> None:
    environ = {"all_proxy": A, "no_proxy": "near.test"}
    assert Environment.of(environ) == Environment.of(dict(environ))
    assert len({Environment.of(environ), Environment.of(environ)}) == 1
    with pytest.raises(AttributeError):
        Environment.of(environ).all = None  # type: ignore[misc]


def test_environment_of_this_process() -> None:
    assert Environment.of(os.environ).proxy_for("http", "site.test", 80) is None


def test_environment_module_loads_neither_httpx_nor_anyio_nor_ssl() -> None:
    code = "import sys, socksclient.protocol.environment"
    code += "; print({'httpx', 'anyio', 'ssl'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("destination", [80, ("h", 80, 0), ("h",), [80, "h"], b"h"])
def test_from_env_refuses_a_destination_of_another_form(destination: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"destination must be|port must be"):
        Proxy.from_env(destination)


@pytest.mark.parametrize("destination", [("h", 80), ["h", 80], "h", None])
def test_from_env_takes_a_host_a_pair_or_none(
    destination: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5h://proxy.example")
    assert Proxy.from_env(destination) == Proxy("proxy.example")
