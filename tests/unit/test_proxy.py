"""`Proxy`: what it takes, what it refuses, and that it keeps its credentials to itself."""

from __future__ import annotations

import copy
import pickle
import re
import ssl
from collections import deque
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from socksclient import NO_AUTHENTICATION, USERNAME_PASSWORD, Method, Proxy
from socksclient.protocol.proxy import as_chain

NOTHING = NO_AUTHENTICATION.negotiate
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


def test_proxy_from_url_takes_a_tls_context() -> None:
    proxy = Proxy.from_url("socks5h://user@h:1", tls=CONTEXT)
    assert proxy == Proxy("h", 1, username="user", tls=CONTEXT)
    assert Proxy.from_url("https://h", tls=CONTEXT).tls is CONTEXT
    with pytest.raises(ValueError, match="means TLS, but tls is False"):
        Proxy.from_url("https://h", tls=False)


def test_proxy_takes_a_path_with_any_host_and_scheme() -> None:
    assert Proxy("proxy.example", path="/x").host == "proxy.example"
    assert Proxy(path="/x", scheme="http").path == "/x"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": ""}, "proxy host is empty"),
        ({"host": "h" * 256}, "proxy host is 256 octets long"),
        ({"host": "[h]"}, "proxy host is neither a name nor an IP address"),
        (
            {"host": "h:1080"},
            "proxy host is neither a name nor an IP address; the port is an argument of its own",
        ),
        ({"host": "socks5h://us3r:p4ss@h"}, "proxy host is neither a name nor an IP address"),
        ({"host": "fe80::1%"}, "proxy host is neither a name nor an IP address"),
        ({"host": "fe80::1%\0"}, "proxy host is neither a name nor an IP address"),
        ({"host": "[fe80::1%eth0"}, "proxy host is neither a name nor an IP address"),
        ({"host": "fe80::1%ö"}, "proxy host"),
        ({"port": 0}, "port 0 is not in the range from 1 to 65535"),
        ({"port": 65536}, "port 65536 is not in the range"),
        ({"port": "1080"}, "port must be an integer"),
        ({"scheme": "ftp"}, "proxy scheme 'ftp' is not one of socks5h://, socks5://, socks://"),
        ({"scheme": "socks5h://us3r:p4ss@h"}, "proxy scheme is not one of socks5h://, socks5://"),
        ({"scheme": ""}, "proxy scheme is not one of"),
        ({"scheme": "https", "tls": False}, "proxy scheme 'https' means TLS, but tls is False"),
        ({"scheme": "socks5+tls", "tls": False}, "means TLS, but tls is False"),
        ({"scheme": "socks4", "username": "us3r", "password": "p4ss"}, "a SOCKS4 proxy takes none"),
        ({"scheme": "socks4", "username": "us3r" * 64}, "proxy username is 256 octets long"),
        ({"scheme": "socks4", "methods": [NO_AUTHENTICATION]}, "proxy methods are for SOCKS5 only"),
        ({"scheme": "http", "username": "us3r:us3r"}, "proxy username has a colon"),
        ({"scheme": "http", "username": "us3r", "password": "p4ss\r"}, "control character"),
        ({"path": ""}, "proxy path is not absolute"),
        ({"path": "run/tor/socks"}, "proxy path is not absolute"),
        ({"path": "/run/tor/socks\0.other"}, "proxy path has a NUL in it"),
        ({"host": "a..b", "tls": True}, "proxy host 'a..b' cannot be in a certificate"),
        ({"host": ".", "scheme": "https"}, "proxy host '.' cannot be in a certificate"),
        ({"host": f"{'l' * 64}.test", "tls": True}, "cannot be in a certificate"),
        ({"password": "p4ss"}, "proxy password is given without a username"),
        ({"username": "us3r" * 64}, "proxy username is 256 octets long in UTF-8"),
        ({"username": "us3r", "password": "p4ss" * 64}, "proxy password is 256 octets long"),
        ({"username": "us3r", "password": "p4ss\ud800"}, "proxy password cannot be encoded"),
        ({"methods": [NO_AUTHENTICATION] * 2}, "proxy methods must have different codes"),
        ({"methods": [USERNAME_PASSWORD]}, "username/password (02), but there is no username"),
    ],
)
def test_proxy_refuses_arguments_that_are_not_valid(arguments: dict[str, Any], text: str) -> None:
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
def test_proxy_equality_and_hash_go_by_meaning(proxy: Proxy, same: Proxy) -> None:
    assert proxy == same
    assert hash(proxy) == hash(same)


def test_proxy_equality_looks_at_every_field() -> None:
    assert OTHERS[-1] != replace(OTHERS[-1], headers=())
    assert OTHERS[-1] != replace(OTHERS[-1], headers=(("X-Tenant", "other"),))
    assert len({PROXY, *OTHERS}) == 1 + len(OTHERS)
    assert len(OTHERS) == len(fields(Proxy))
    assert OTHERS[1] == Proxy("h", scheme="socks5", username="us3r", password="p4ss")


@pytest.mark.parametrize("field", [field.name for field in fields(Proxy)])
def test_proxy_fields_cannot_be_set(field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(PROXY, field, "other")


@pytest.mark.parametrize("code", [-1, 0xFF, 0x180])
def test_method_refuses_a_code_out_of_range(code: int) -> None:
    with pytest.raises(ValueError, match=f"method code {code} is not in the range"):
        Method(code, NOTHING)


def test_proxy_methods_are_kept_as_a_tuple() -> None:
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
def test_proxy_refuses_arguments_of_the_wrong_type(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Proxy(**arguments)


def test_proxy_replace_checks_the_new_field() -> None:
    with pytest.raises(ValueError, match="proxy scheme 'ftp'"):
        replace(PROXY, scheme="ftp")


@pytest.mark.parametrize("proxy", [PROXY, *OTHERS], ids=str)
def test_proxy_can_be_pickled_and_copied(proxy: Proxy) -> None:
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
def test_proxy_text_is_the_url_without_credentials(proxy: Proxy, text: str) -> None:
    assert str(proxy) == f"{proxy}" == text
    assert repr(proxy) == f"<Proxy {text}>"


def test_proxy_copy_shares_the_tls_context() -> None:
    proxy = Proxy("h", tls=CONTEXT, username="us3r", methods=(USERNAME_PASSWORD,))
    held = {"proxies": [proxy, proxy]}
    for double in (copy.copy(proxy), copy.deepcopy(proxy), *copy.deepcopy(held)["proxies"]):
        assert double == proxy
        assert double.tls is CONTEXT


def test_proxy_keeps_the_tls_context_as_it_is() -> None:
    proxy = Proxy("h", tls=CONTEXT)
    assert proxy.tls is CONTEXT
    assert proxy == Proxy("h", scheme="socks5h+tls", tls=CONTEXT)
    assert proxy != Proxy("h", tls=True)
    assert hash(proxy) == hash(Proxy("h", tls=CONTEXT))


def test_as_chain_of_one_proxy() -> None:
    assert as_chain(PROXY) == (PROXY,)
    assert as_chain("socks5://us3r:p4ss@h:1081") == (PROXY,)


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_as_chain_of_a_sequence(kind: Any) -> None:
    assert as_chain(kind([PROXY, "http://h"])) == (PROXY, Proxy("h", scheme="http"))
    with pytest.raises(ValueError, match="proxy is an empty sequence"):
        as_chain(kind([]))


def test_as_chain_refuses_a_unix_socket_behind_the_nearest_hop() -> None:
    assert as_chain([Proxy(path="/x"), PROXY])[0].path == "/x"
    with pytest.raises(ValueError, match=r"hop 1 is a unix socket; only the nearest hop \(0\)"):
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
def test_as_chain_refuses_another_type(proxy: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"proxy must be a str, a .* not {kind}$"):
        as_chain(proxy)


class TestIsolated:
    def test_isolated_makes_a_random_token(self) -> None:
        proxies = {PROXY.isolated() for _ in range(100)}
        assert len(proxies) == 100
        for proxy in proxies:
            assert proxy.username == "<torS0X>0"
            assert len(proxy.password or "") == 32
            assert replace(proxy, username="us3r", password="p4ss") == PROXY

    def test_isolated_takes_a_token(self) -> None:
        proxy = Proxy("h").isolated("token")
        assert proxy == Proxy("h", username="<torS0X>0", password="token")
        assert proxy == Proxy("h", username="alice").isolated("token")
        assert Proxy("h").isolated("").password == ""
        whole = Proxy("h", 9150, path="/run/tor/socks", tls=True)
        isolated = whole.isolated("token")
        assert replace(isolated, username=None, password=None) == whole

    @pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
    def test_isolated_of_socks4_puts_the_token_into_the_user_id(self, scheme: str) -> None:
        proxy = Proxy("h", scheme=scheme)
        assert proxy.isolated("token") == Proxy("h", scheme=scheme, username="token")
        assert proxy.isolated() != proxy.isolated()

    def test_isolated_needs_the_method_username_password(self) -> None:
        methods = (Method(0x80, NOTHING), NO_AUTHENTICATION)
        with pytest.raises(ValueError, match=r"isolation needs username/password \(02\)"):
            Proxy("h", methods=methods).isolated()
        insisting = Proxy("h", username="u", methods=(USERNAME_PASSWORD,))
        assert insisting.isolated("token").methods == (USERNAME_PASSWORD,)

    def test_isolated_refuses_a_token_that_is_too_long(self) -> None:
        with pytest.raises(ValueError, match="proxy password is 256 octets long"):
            PROXY.isolated("t" * 256)
