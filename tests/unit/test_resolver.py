"""What is asked of the system's resolver, and what its answers mean, without a resolver."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from socksclient._net.resolver import addresses_found, look_up, name_to_ask, resolver_failures


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("proxy.test", "proxy.test"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("under_score.test", "under_score.test"),
        ("proxy.test.", "proxy.test."),
        # Python encodes a str by IDNA 2003, which refuses long labels and empty labels.
        ("l" * 64 + ".test", b"l" * 64 + b".test"),
        ("a..test", b"a..test"),
        (".test", b".test"),
    ],
)
def test_name_to_ask_is_a_str_if_python_can_encode_it(host: str, asked: str | bytes) -> None:
    assert name_to_ask(host) == asked


def entry(family: int, *sockaddr: Any) -> tuple[Any, ...]:
    """Return an entry of what `socket.getaddrinfo` returns."""
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)


def test_addresses_found_keeps_the_order_and_the_scope_id() -> None:
    found = [
        entry(socket.AF_INET6, "fe80::1", 80, 7, 2),
        entry(socket.AF_INET, "192.0.2.1", 80),
        entry(socket.AF_INET6, "::1", 80),
        entry(socket.AF_INET, "192.0.2.2", "81"),
    ]
    assert addresses_found(found) == [
        ("fe80::1", 80, 0, 2),
        ("192.0.2.1", 80),
        ("::1", 80, 0, 0),
        ("192.0.2.2", 81),
    ]


def test_addresses_found_leaves_out_entries_without_an_internet_address() -> None:
    others = [
        (socket.AF_UNIX, 1, 0, "", "/run/proxy"),
        # A Python without IPv6 returns such an entry.
        entry(socket.AF_INET6, 10, b"\0" * 26),
    ]
    assert addresses_found([*others, entry(socket.AF_INET, "192.0.2.1", 80)]) == [("192.0.2.1", 80)]
    with pytest.raises(socket.gaierror, match="the resolver found no address") as caught:
        addresses_found(others)
    assert caught.value.errno == socket.EAI_NONAME


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("other.test", 80), "it answered 'other.test', which is not an IP address"),
        (("192.0.2.1", 65536), "port 65536 is not in the range from 0 to 65535"),
        (("192.0.2.1", "x"), "invalid literal"),
    ],
)
def test_addresses_found_refuses_an_entry_that_is_no_address(
    sockaddr: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        addresses_found([entry(socket.AF_INET, *sockaddr)])


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(socket.EAI_NONAME, "not known"), OSError(errno.EMFILE, "m"), TimeoutError()],
)
def test_resolver_failures_lets_an_oserror_pass(error: OSError) -> None:
    with pytest.raises(type(error)) as caught, resolver_failures():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyError("n.test"), UnicodeError("long"), AssertionError()])
def test_resolver_failures_turns_another_exception_into_a_gaierror(error: Exception) -> None:
    with pytest.raises(socket.gaierror) as caught, resolver_failures():
        raise error
    assert caught.value.errno == socket.EAI_FAIL
    assert caught.value.strerror == f"the resolver failed with {type(error).__name__}: {error}"
    assert caught.value.__cause__ is error


def test_resolver_failures_lets_an_exception_that_ends_the_program_pass() -> None:
    with pytest.raises(KeyboardInterrupt), resolver_failures():
        raise KeyboardInterrupt


def test_look_up_asks_by_position_and_for_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def getaddrinfo(*arguments: Any) -> list[tuple[Any, ...]]:
        asked.append(arguments)
        return [entry(socket.AF_INET, "192.0.2.1", 80)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert look_up("n.test", 80) == [("192.0.2.1", 80)]
    assert asked == [("n.test", 80, 0, socket.SOCK_STREAM)]
