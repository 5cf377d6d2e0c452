"""The errors as data: their classes, numbers, texts and copies."""

from __future__ import annotations

import copy
import errno
import pickle
import re
import socket
import ssl

import pytest

from socksclient import Proxy, Reply
from socksclient.protocol import exceptions
from socksclient.protocol.codes import HTTPReply, ReplyCode, Socks4Reply
from socksclient.protocol.exceptions import (
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
    not_what_speaks,
    reply_error,
)
from socksclient.protocol.flow import ConnectionEnded

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


def test_exceptions_are_the_tree_drawn_in_the_module() -> None:
    found = [
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, exceptions.SocksError)
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
def test_reply_error_of_socks5_has_the_class_and_the_errno_that_fit(
    rep: int, meaning: str, kind: type[ReplyError], number: int | None
) -> None:
    error = reply_error(Reply(rep))
    assert type(error) is kind
    assert error.reply == rep
    assert error.errno == number
    assert str(error) == f"the proxy refused the request: {meaning} (REP {rep:02X})"


HOST_UNREACHABLE = (ReplyError, errno.EHOSTUNREACH)
NOT_ALLOWED = (ConnectionNotAllowed, errno.EACCES)
OTHER = (ReplyError, None)


@pytest.mark.parametrize(
    ("reply", "text", "fits"),
    [
        (Reply(0xF0), "onion service descriptor not found (REP F0)", HOST_UNREACHABLE),
        (Reply(0xF1), "onion service descriptor invalid (REP F1)", HOST_UNREACHABLE),
        (Reply(0xF2), "onion service introduction failed (REP F2)", HOST_UNREACHABLE),
        (Reply(0xF3), "onion service rendezvous failed (REP F3)", HOST_UNREACHABLE),
        (Reply(0xF4), "onion service missing client authorization (REP F4)", NOT_ALLOWED),
        (Reply(0xF5), "onion service wrong client authorization (REP F5)", NOT_ALLOWED),
        (Reply(0xF6), "onion address invalid (REP F6)", HOST_UNREACHABLE),
        (Reply(0xF7), "onion service introduction timed out (REP F7)", HOST_UNREACHABLE),
        (Reply(0xF8), "unassigned f8 (REP F8)", OTHER),
        (Socks4Reply(0x5B), "rejected or failed (SOCKS4 CD 5B)", OTHER),
        (Socks4Reply(0x5C), "no identd (SOCKS4 CD 5C)", NOT_ALLOWED),
        (Socks4Reply(0x5D), "identd reports another user (SOCKS4 CD 5D)", NOT_ALLOWED),
        (Socks4Reply(0x05), "unassigned 05 (SOCKS4 CD 05)", OTHER),
        (Socks4Reply(0xFF), "unassigned ff (SOCKS4 CD FF)", OTHER),
        (HTTPReply(400), "bad request (HTTP 400)", OTHER),
        (HTTPReply(403), "forbidden (HTTP 403)", NOT_ALLOWED),
        (HTTPReply(404), "not found (HTTP 404)", OTHER),
        (HTTPReply(405), "method not allowed (HTTP 405)", OTHER),
        (HTTPReply(408), "request timeout (HTTP 408)", OTHER),
        (HTTPReply(429), "too many requests (HTTP 429)", OTHER),
        (HTTPReply(500), "internal server error (HTTP 500)", OTHER),
        (HTTPReply(501), "not implemented (HTTP 501)", OTHER),
        (HTTPReply(502), "bad gateway (HTTP 502)", OTHER),
        (HTTPReply(503), "service unavailable (HTTP 503)", OTHER),
        (HTTPReply(504), "gateway timeout (HTTP 504)", OTHER),
        (HTTPReply(302), "unassigned 302 (HTTP 302)", OTHER),
        (HTTPReply(418), "unassigned 418 (HTTP 418)", OTHER),
    ],
    ids=lambda value: value.text if hasattr(value, "text") else "",
)
def test_reply_error_of_every_kind_of_proxy(
    reply: ReplyCode, text: str, fits: tuple[type[ReplyError], int | None]
) -> None:
    error = reply_error(reply, "BIND")
    assert (type(error), error.errno) == fits
    assert error.reply is reply or error.reply == reply
    assert type(error.reply) is type(reply)
    assert reply.text == text
    assert str(error) == f"the proxy refused the request: {text}"


def test_reply_error_names_a_command_that_is_not_offered() -> None:
    words = "command not supported (REP 07)"
    assert str(reply_error(Reply(0x07), "BIND")) == f"this proxy does not offer BIND: {words}"
    assert str(reply_error(Reply(0x07))) == f"the proxy refused the request: {words}"


NOT_KNOWN = socket.gaierror(socket.EAI_NONAME, "not known")
ERRORS: list[tuple[SocksError, int | None, str]] = [
    (SocksError("broken"), None, "broken"),
    (SocksError("broken", errno.EIO), errno.EIO, "broken"),
    (ProxyConnectError("no way", errno.EHOSTDOWN), errno.EHOSTDOWN, "no way"),
    (ProxyTimeout(), errno.ETIMEDOUT, "timed out"),
    (ResolveError.of("h", NOT_KNOWN), socket.EAI_NONAME, "cannot resolve h: not known"),
    (ProtocolError("nonsense", b"HT"), None, "nonsense"),
    (ProxyClosed("hung up", b"\x05"), errno.ECONNRESET, "hung up"),
    (ProxyClosed("broke", b"\x05", errno.ETIMEDOUT), errno.ETIMEDOUT, "broke"),
    (AuthenticationError("not you"), errno.EACCES, "not you"),
    *(
        (error, error.errno, str(error))
        for error in (
            *(reply_error(Reply(rep)) for rep in (*range(0x01, 0x09), 0x5A, *range(0xF0, 0xF8))),
            *(reply_error(Socks4Reply(code)) for code in (0x5B, 0x5C, 0x5D, 0x01)),
            *(reply_error(HTTPReply(status)) for status in (403, 502, 418)),
            reply_error(Reply(0x07), "UDP ASSOCIATE"),
        )
    ),
    (AssociationClosed(), errno.ECONNRESET, "the proxy ended the UDP association"),
]


@pytest.mark.parametrize(("error", "number", "text"), ERRORS, ids=repr)
def test_error_survives_pickling_and_copying_whole(
    error: SocksError, number: int | None, text: str
) -> None:
    error = copy.copy(error)
    assert str(error) == text
    assert (error.proxy, error.hop, error.next_hop) == (None, 0, None)
    assert (error.destination, error.phase) == (None, None)
    error.proxy = Proxy("proxy.example", username="us3r", password="p4ss")
    error.hop = 1
    error.next_hop = ("2001:db8::2", 1080)
    error.destination = ("2001:db8::1", 443)
    error.phase = "request"
    error.__notes__ = ["before that, something else"]
    place = (
        "(phase: request, hop: 1, proxy: proxy.example:1080, next hop: [2001:db8::2]:1080,"
        " destination: [2001:db8::1]:443)"
    )
    doubles = pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)
    for double in (error, *doubles):
        assert type(double) is type(error)
        assert str(double) == f"{text} {place}"
        assert (double.errno, double.strerror, double.args) == (number, text, error.args)
        assert vars(double) == vars(error)


def test_reply_error_keeps_the_class_of_its_reply_in_a_copy() -> None:
    for reply in (Reply(0x5B), Socks4Reply(0x5B), HTTPReply(502), HTTPReply(418)):
        error = reply_error(reply)
        for double in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert (type(double.reply), double.reply) == (type(reply), reply)


@pytest.mark.parametrize(
    ("proxy", "hop", "next_hop", "place"),
    [
        ("http://us3r:p4ss@h", 0, None, "proxy: h:80"),
        ("http://us3r:p4ss@h", 0, ("i", 1), "hop: 0, proxy: h:80, next hop: i:1"),
        ("https://us3r:p4ss@h", 2, None, "hop: 2, proxy: h:443"),
        ("socks4a://us3r@[::1]:1", 1, ("::2", 2), "hop: 1, proxy: [::1]:1, next hop: [::2]:2"),
        ("socks4a://us3r@localhost/run/proxy", 0, None, "proxy: /run/proxy"),
    ],
)
def test_error_text_names_the_place_at_any_kind_of_hop(
    proxy: str, hop: int, next_hop: tuple[str, int] | None, place: str
) -> None:
    error = reply_error(HTTPReply(502))
    error.proxy, error.hop, error.phase = Proxy.from_url(proxy), hop, "request"
    error.next_hop = next_hop
    error.destination = ("g", 80)
    text = "the proxy refused the request: bad gateway (HTTP 502)"
    assert str(error) == f"{text} (phase: request, {place}, destination: g:80)"


def test_proxy_closed_broken_keeps_the_errno_of_the_cause() -> None:
    error = ProxyClosed.broken(OSError(errno.EHOSTUNREACH, "No route to host"), b"\x00")
    assert str(error) == "the connection to the proxy broke: No route to host"
    assert (error.errno, error.received) == (errno.EHOSTUNREACH, b"\x00")
    broken = ssl.SSLError(1, "bad record mac")
    # The errors that Python's ssl raises have this attribute.
    broken.library = "SSL"
    error = ProxyClosed.broken(broken, b"")
    assert str(error) == "the connection to the proxy broke: bad record mac"
    # The number of OpenSSL's error means something else than an errno.
    assert error.errno == errno.ECONNRESET
    error = ProxyClosed.broken(OSError("no number"), b"")
    assert str(error) == "the connection to the proxy broke: no number"
    assert error.errno is None


def test_protocol_error_has_the_octets_received() -> None:
    assert ProtocolError("nonsense").received == b""
    error = ProtocolError("nonsense", b"HT")
    # The arguments are those of an OSError.
    assert (error.received, error.args) == (b"HT", (None, "nonsense"))
    closed = ProxyClosed.within(ConnectionEnded(b"\x7f\0"), 6, b"\x05\0\0\1")
    assert closed.received == b"\x05\0\0\1\x7f\0"
    assert str(closed) == "the proxy hung up before the end of its message: got 6 of 10 octets"


@pytest.mark.parametrize(
    ("proxy", "destination", "place"),
    [
        ("socks5h://h", None, "proxy: h:1080"),
        ("socks5h://[::1]:1081", ("g", 80), "proxy: [::1]:1081, destination: g:80"),
        ("socks5h://us3r:p4ss@h", ("::1", 80), "proxy: h:1080, destination: [::1]:80"),
    ],
)
def test_error_text_names_hosts_and_ports_and_no_credentials(
    proxy: str, destination: tuple[str, int] | None, place: str
) -> None:
    error = AuthenticationError("not you")
    error.proxy, error.destination = Proxy.from_url(proxy), destination
    error.phase = "authentication"
    assert str(error) == f"not you (phase: authentication, {place})"
    assert error.strerror == "not you"


def test_error_with_the_tls_context_of_its_proxy_can_be_pickled() -> None:
    error = ProxyTimeout()
    error.proxy = Proxy("h", tls=ssl.create_default_context())
    assert pickle.loads(pickle.dumps(error)).proxy == Proxy("h", tls=True)
    assert copy.copy(error).hop == 0


class WithArguments(ReplyError):
    """A user's error whose arguments differ from those of its base."""

    def __init__(self, *, account: str, reply: ReplyCode) -> None:
        super().__init__(reply, hint=f"; the account is {account}")
        self.account = account


class WithoutArguments(ProxyTimeout):
    """A user's error with an attribute that is set after the error is made."""

    seconds: float


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_error_of_a_users_class_survives_pickling_and_copying(protocol: int) -> None:
    refused = WithArguments(account="mine", reply=Reply(0x02))
    refused.__notes__ = ["a note"]
    refused.__cause__ = ConnectionError()
    late = WithoutArguments()
    late.seconds = 2.5
    late.errno, late.strerror = errno.EINTR, "changed since"
    for error in (refused, late):
        pickled = pickle.loads(pickle.dumps(error, protocol))
        for double in (pickled, copy.copy(error), copy.deepcopy(error)):
            assert type(double) is type(error)
            assert vars(double) == vars(error)
            assert (double.errno, str(double)) == (error.errno, str(error))
            # A pickle and a copy of any exception have no cause.
            assert double.__cause__ is None


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        ("48545450", "this is an HTTP proxy or server, not a SOCKS4 proxy: it answered in HTTP"),
        ("05", "this is a SOCKS5 server, not a SOCKS4 proxy: it answered in SOCKS5"),
        ("050000", "this is a SOCKS5 server, not a SOCKS4 proxy: it answered in SOCKS5"),
        ("1503", "this is a TLS server, not a plain SOCKS4 proxy: it answered with a TLS alert"),
        ("1503010002", "this is a TLS server, not a plain SOCKS4 proxy: it answered with a TLS"),
        ("15", "this is not a SOCKS4 proxy: it answered with 15 instead of version 00"),
        ("00", "this is not a SOCKS4 proxy: it answered with 00 instead of version 00"),
        ("535348", "this is not a SOCKS4 proxy: it answered with 53 53 instead of version 00"),
    ],
)
def test_not_what_speaks_judges_by_two_octets_at_most(octets: str, text: str) -> None:
    said = not_what_speaks(bytes.fromhex(octets), "a SOCKS4 proxy", "version 00")
    assert said.startswith(text)


def test_not_what_speaks_in_place_of_an_http_proxy() -> None:
    said = not_what_speaks(b"\x15\x03", "an HTTP proxy", "HTTP")
    assert said.startswith("this is a TLS server, not a plain HTTP proxy: ")
