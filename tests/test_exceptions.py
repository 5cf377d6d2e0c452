"""The errors as data: their classes, numbers, texts and copies."""

from __future__ import annotations

import copy
import errno
import pickle
import re
import socket

import pytest

from socksclient import Proxy, Reply, exceptions
from socksclient.exceptions import (
    AssociationClosed,
    AuthenticationError,
    ConnectionNotAllowed,
    ConnectionRefused,
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    ReplyError,
    ResolveError,
    SocksError,
    TTLExpired,
    reply_error,
)

BASES: dict[type, tuple[type, ...]] = {
    SocksError: (OSError,),
    ProxyConnectError: (SocksError, ConnectionError),
    ProxyTimeout: (SocksError, TimeoutError),
    ResolveError: (SocksError,),
    ProtocolError: (SocksError,),
    ProxyClosed: (ProtocolError, ConnectionResetError),
    AuthenticationError: (SocksError, PermissionError),
    ReplyError: (SocksError,),
    ConnectionNotAllowed: (ReplyError, PermissionError),
    ConnectionRefused: (ReplyError, ConnectionRefusedError),
    TTLExpired: (ReplyError, TimeoutError),
    AssociationClosed: (SocksError, ConnectionResetError),
}


def test_the_tree_is_the_one_drawn_in_the_module() -> None:
    found = [
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    ]
    assert {kind: kind.__bases__ for kind in found} == BASES
    drawn = re.findall(r"^ +[│├└─ ]*(\w+)(?: \((\w+)\))?", exceptions.__doc__ or "", re.MULTILINE)
    builtins = {
        kind: [base.__name__ for base in BASES[kind] if base not in BASES] for kind in BASES
    }
    assert drawn == [(kind.__name__, "".join(builtins[kind])) for kind in BASES]


@pytest.mark.parametrize(
    ("rep", "meaning", "kind", "number"),
    [
        (0x01, "general SOCKS server failure", ReplyError, None),
        (0x02, "connection not allowed by ruleset", ConnectionNotAllowed, errno.EACCES),
        (0x03, "network unreachable", ReplyError, errno.ENETUNREACH),
        (0x04, "host unreachable", ReplyError, errno.EHOSTUNREACH),
        (0x05, "connection refused", ConnectionRefused, errno.ECONNREFUSED),
        (0x06, "TTL expired", TTLExpired, errno.ETIMEDOUT),
        (0x07, "command not supported", ReplyError, errno.EOPNOTSUPP),
        (0x08, "address type not supported", ReplyError, errno.EAFNOSUPPORT),
        (0x5A, "unassigned 5a", ReplyError, None),
        (0xFF, "unassigned ff", ReplyError, None),
    ],
)
def test_a_refusal_is_of_the_class_and_has_the_errno_that_fit_its_reply(
    rep: int, meaning: str, kind: type[ReplyError], number: int | None
) -> None:
    error = reply_error(Reply(rep))
    assert type(error) is kind
    assert error.reply == rep
    assert error.errno == number
    assert str(error) == f"the proxy refused the request: {meaning} (REP {rep:02X})"


def test_a_reply_that_nobody_has_assigned_keeps_its_number() -> None:
    for number in (*range(0x09, 0xF0), *range(0xF8, 0x100)):
        reply = Reply(number)
        assert isinstance(reply, Reply)
        assert reply == reply.value == number
        assert reply.name == f"UNASSIGNED_{number:02X}"
        assert {reply: "found"}[Reply(number)] == "found"
        for double in (pickle.loads(pickle.dumps(reply)), copy.copy(reply), copy.deepcopy(reply)):
            assert (type(double), double, double.name) == (Reply, number, reply.name)
    assert Reply(0x5A) != Reply(0x5B)
    assert len(Reply) == 17


@pytest.mark.parametrize("number", [-1, 256, "x", None])
def test_what_is_no_octet_is_no_reply(number: int) -> None:
    with pytest.raises(ValueError, match="is not a valid Reply"):
        Reply(number)


NOT_KNOWN = socket.gaierror(socket.EAI_NONAME, "not known")
ERRORS: list[tuple[SocksError, int | None, str]] = [
    (SocksError("broken"), None, "broken"),
    (SocksError("broken", errno.EIO), errno.EIO, "broken"),
    (ProxyConnectError("no way", errno.EHOSTDOWN), errno.EHOSTDOWN, "no way"),
    (ProxyTimeout(), errno.ETIMEDOUT, "timed out"),
    (ResolveError.of("h", NOT_KNOWN), socket.EAI_NONAME, "cannot resolve h: not known"),
    (ProtocolError("nonsense", b"HT"), None, "nonsense"),
    (ProxyClosed("hung up", b"\x05"), errno.ECONNRESET, "hung up"),
    (AuthenticationError("not you"), errno.EACCES, "not you"),
    *(
        (error, error.errno, str(error))
        for error in (reply_error(Reply(rep)) for rep in (*range(0x01, 0x09), 0x5A))
    ),
]


@pytest.mark.parametrize(("error", "number", "text"), ERRORS, ids=repr)
def test_an_error_survives_pickling_and_copying_whole(
    error: SocksError, number: int | None, text: str
) -> None:
    error = copy.copy(error)
    assert str(error) == text
    assert (error.proxy, error.hop, error.destination, error.phase) == (None, 0, None, None)
    error.proxy = Proxy("proxy.example", username="us3r", password="p4ss")
    error.hop = 1
    error.destination = ("2001:db8::1", 443)
    error.phase = "request"
    error.__notes__ = ["before that, something else"]
    place = "(phase: request, hop: 1, proxy: proxy.example:1080, destination: [2001:db8::1]:443)"
    doubles = pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)
    for double in (error, *doubles):
        assert type(double) is type(error)
        assert str(double) == f"{text} {place}"
        assert (double.errno, double.strerror, double.args) == (number, text, error.args)
        assert vars(double) == vars(error)


def test_a_protocol_error_bears_what_was_received() -> None:
    assert ProtocolError("nonsense").received == b""
    error = ProtocolError("nonsense", b"HT")
    assert (error.received, error.args) == (b"HT", ("nonsense", b"HT"))
    closed = ProxyClosed.early(b"\x05\0\0\1\x7f\0", 10)
    assert closed.received == b"\x05\0\0\1\x7f\0"
    assert str(closed) == "the proxy hung up before it had answered: got 6 of 10 octets"


@pytest.mark.parametrize(
    ("proxy", "destination", "place"),
    [
        ("socks5h://h", None, "proxy: h:1080"),
        ("socks5h://[::1]:1081", ("g", 80), "proxy: [::1]:1081, destination: g:80"),
        ("socks5h://us3r:p4ss@h", ("::1", 80), "proxy: h:1080, destination: [::1]:80"),
    ],
)
def test_a_placed_error_names_hosts_and_ports_and_no_credentials(
    proxy: str, destination: tuple[str, int] | None, place: str
) -> None:
    error = AuthenticationError("not you")
    error.proxy, error.destination = Proxy.from_url(proxy), destination
    error.phase = "authentication"
    assert str(error) == f"not you (phase: authentication, {place})"
    assert error.strerror == "not you"
