"""HTTP's CONNECT: its flow, what the words of a proxy mean, and the headers of a proxy."""

from __future__ import annotations

import base64
import re
import traceback
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx
import pytest

from socksclient import AuthenticationError, ProtocolError, Proxy, ProxyClosed, ReplyError
from socksclient.exceptions import ConnectionNotAllowed, HTTPReply
from socksclient.protocol.address import HostPort
from socksclient.protocol.codes import Command
from socksclient.protocol.handshake import start
from socksclient.protocol.http import MAX_HEAD_SIZE

from helpers.flow_player import (
    BASIC,
    HTTP,
    Fails,
    check_end,
    connecting,
    octet_by_octet,
    play,
)

HOST = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n"
AGENT = b"User-Agent: socksclient\r\n"
CONNECT = HOST + AGENT
LOGIN = b"Proxy-Authorization: Basic " + base64.b64encode(b"user:pass") + b"\r\n"
NOWHERE = ("0.0.0.0", 0)
MALFORMED = Fails(ProtocolError, "the status line of the proxy's reply is not valid: ")


class Named(str):
    """What an enum with str as its first base is from Python 3.12 on: it formats as its name."""

    __slots__ = ()

    def __format__(self, _spec: str) -> str:
        return "Named.MEMBER"


def test_http_request_has_the_texts_of_subclasses_of_str_and_int() -> None:
    proxy = Proxy("h", scheme="http", username=Named("user"), password=Named("pass"))
    with closing(start(proxy, Named("example.com"), True)) as flow:
        host = HOST.replace(b":443", b":1")
        assert next(flow).send == host + LOGIN + AGENT + b"\r\n"


def head_of(octets: int) -> bytes:
    """Return a head of so many octets."""
    return b"HTTP/1.1 200 OK\r\nX: ".ljust(octets - 4, b"x") + b"\r\n\r\n"


def said_no(status: int, words: str) -> tuple[bytes, Fails]:
    text = f"the proxy refused the request: {words} (HTTP {status}), and says: Whatever"
    ends = Fails(ReplyError, text)
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: 9\r\n\r\n" % status, ends


WANTS_A_LOGIN = "the proxy wants authentication, but no username is given"

ANSWERS: list[tuple[bytes, HostPort | Fails]] = [
    (b"HTTP/1.1 200\n\n", NOWHERE),
    (b"HTTP/1.1 200\r\n\n", NOWHERE),
    (b"HTTP/1.1 200\n\r\n", NOWHERE),
    (b"HTTP/1.1 200\r\n\r\n", NOWHERE),
    (b"HTTP/1.1 200 \r\n\r\n", NOWHERE),
    (b"HTTP/1.0 200 Connection established\r\n\r\n", NOWHERE),
    (b"HTTP/1.1 299 \xfc\nVia: a\n b\r\n\t\r\n\n", NOWHERE),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", NOWHERE),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", NOWHERE),
    (b"HTTP/1.1 100\n\nHTTP/1.1 199 \r\nX: y\n\nHTTP/1.1 200\n\n", NOWHERE),
    (b"HTTP/1.1 401\n\n", Fails(AuthenticationError, WANTS_A_LOGIN + " (HTTP 401)")),
    (b"HTTP/1.1 407\n\n", Fails(AuthenticationError, WANTS_A_LOGIN + " (HTTP 407)")),
    (b"HTTP/1.1 403\n\n", Fails(ConnectionNotAllowed, "forbidden (HTTP 403)")),
    said_no(300, "unassigned 300"),
    said_no(404, "not found"),
    said_no(502, "bad gateway"),
    said_no(503, "service unavailable"),
    said_no(999, "unassigned 999"),
    (b"HTTP/1.1 100 Go on\r\n\r\n" + said_no(504, "")[0], said_no(504, "gateway timeout")[1]),
    (
        b"HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n",
        Fails(ReplyError, "unassigned 101 (HTTP 101), and says: Other"),
    ),
    # RFC 9110 §9.3.6: a client ignores Content-Length and Transfer-Encoding of a success.
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: some\r\n\r\n", NOWHERE),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n: x\r\nA B: c\r\nno\r\n\r\n", NOWHERE),
    # curl accepts any white space between the parts of the status line.
    (b"HTTP/1.1  200  OK\r\n\r\n", NOWHERE),
    (b"HTTP/1.1\t200\tOK\r\n\r\n", NOWHERE),
    (b"HTTP/1.1 200 \0\r\n\r\n", MALFORMED),
    (b"HTTP/1.1 200\0OK\r\n\r\n", MALFORMED),
    (b"HTTP/1.1 200OK\r\n\r\n", MALFORMED),
    (b"HTTP/1.1 000 OK\r\n\r\n", MALFORMED),
    (b"HTTP/1.1 OK\r\n\r\n", MALFORMED),
    (b"HTTP/2 200 OK\r\n\r\n", MALFORMED),
    (b"HTTP/1.1 2000 OK\r\n\r\n", MALFORMED),
]


@octet_by_octet
@pytest.mark.parametrize(
    ("answer", "ends"), ANSWERS, ids=lambda value: value[:30] if isinstance(value, bytes) else ""
)
@pytest.mark.parametrize("behind", [b"", b"\n", b"\r\n", b" x\r\n\r\n", b"HTTP/1.1 200\n\n"])
def test_http_head_is_read_exactly(
    answer: bytes, ends: HostPort | Fails, behind: bytes, least: bool
) -> None:
    played = play(connecting(HTTP), answer + behind, least=least)
    check_end(played, ends)
    assert played.sent == [(CONNECT + b"\r\n").hex()]
    assert played.left == behind
    peeked = play(connecting(HTTP), answer + behind, least=least, peeks=True)
    assert (str(peeked.ends), peeked.left) == (str(played.ends), behind)
    if isinstance(played.ends, ReplyError):
        assert isinstance(played.ends.reply, HTTPReply)


@octet_by_octet
@pytest.mark.parametrize("answer", [answer for answer, _ in ANSWERS if len(answer) < 200])
def test_http_hang_up_in_a_head_is_told_with_the_octets_got(answer: bytes, least: bool) -> None:
    # The final response comes behind all responses of the kind 1xx.
    begin = answer.rindex(b"HTTP/")
    for got in range(len(answer) - begin):
        for peeks in (False, True):
            played = play(connecting(HTTP), answer[: begin + got], least=least, peeks=peeks)
            check_end(played, Fails(ProxyClosed, f"got {got} of "))
            assert isinstance(played.ends, ProxyClosed)
            assert played.ends.received == answer[begin : begin + got]


def test_http_belonging_counts_the_octets_of_the_head() -> None:
    flow = connecting(HTTP)
    step = next(flow)
    assert step.belonging is not None
    assert step.belonging(head_of(MAX_HEAD_SIZE) + b"behind") == MAX_HEAD_SIZE
    # If the octets are no HTTP, the flow takes no more of them than it must.
    assert step.belonging(b"\x05\xff" + bytes(1000)) == 0
    flow.close()


@octet_by_octet
@pytest.mark.parametrize("peeks", [False, True])
def test_http_head_has_64_kib_at_most(least: bool, peeks: bool) -> None:
    go_on = b"HTTP/1.1 100\n\n"
    for head in (head_of(MAX_HEAD_SIZE), go_on * 4000 + head_of(MAX_HEAD_SIZE - 4000 * len(go_on))):
        played = play(connecting(HTTP), head + b"behind", least=least, peeks=peeks)
        assert (played.ends, played.left) == (NOWHERE, b"behind")
    for head in (head_of(MAX_HEAD_SIZE + 1), head_of(MAX_HEAD_SIZE + 2), go_on * 4700):
        played = play(connecting(HTTP), head, least=least, peeks=peeks)
        check_end(played, Fails(ProtocolError, "has more than 65536 octets"))
        assert isinstance(played.ends, ProtocolError)
        assert len(played.ends.received) <= 256
        assert len(head) - len(played.left) <= MAX_HEAD_SIZE + len(go_on)


DIGEST = 'Digest realm="a, Basic b", nonce="c=", qop="auth", stale=false'
ONLY = "the proxy wants authentication by {}, but socksclient speaks only Basic"
REFUSED = "the proxy refused the credentials"
NOT_ACCEPTED = "the proxy does not accept the credentials"


@octet_by_octet
@pytest.mark.parametrize("status", [401, 407])
@pytest.mark.parametrize(
    ("challenges", "schemes", "text", "text_without_username"),
    [
        ((), (), f"{NOT_ACCEPTED}, and does not say which scheme it wants", WANTS_A_LOGIN),
        (('Basic realm="a"',), ("Basic",), REFUSED, WANTS_A_LOGIN),
        (("basic",), ("basic",), REFUSED, WANTS_A_LOGIN),
        ((DIGEST,), ("Digest",), *[ONLY.format("Digest")] * 2),
        ((DIGEST + ', Basic realm="x"',), ("Digest", "Basic"), REFUSED, WANTS_A_LOGIN),
        ((DIGEST, 'Basic realm="x"'), ("Digest", "Basic"), REFUSED, WANTS_A_LOGIN),
        (("Negotiate", "NTLM"), ("Negotiate", "NTLM"), *[ONLY.format("Negotiate or NTLM")] * 2),
        (
            ("Negotiate abc==, NTLM",),
            ("Negotiate", "NTLM"),
            *[ONLY.format("Negotiate or NTLM")] * 2,
        ),
        (
            ("Digest realm = x ,, stale   = true, Digest a=b",),
            ("Digest",),
            *[ONLY.format("Digest")] * 2,
        ),
    ],
)
def test_http_refusal_of_credentials_tells_the_schemes_of_the_proxy(
    status: int,
    challenges: tuple[str, ...],
    schemes: tuple[str, ...],
    text: str,
    text_without_username: str,
    least: bool,
) -> None:
    fields = "".join(f"Proxy-Authenticate: {challenge}\r\n" for challenge in challenges)
    answer = f"HTTP/1.1 {status} No\r\nOdd Field: x\r\n{fields}\r\n".encode()
    for proxy, sent, words in (
        (BASIC, HOST + LOGIN + AGENT, text),
        (HTTP, CONNECT, text_without_username),
    ):
        played = play(connecting(proxy), answer, least=least)
        check_end(played, Fails(AuthenticationError, f"{words} (HTTP {status})"))
        assert isinstance(played.ends, AuthenticationError)
        assert played.ends.schemes == schemes
        assert played.sent == [(sent + b"\r\n").hex()]


def test_http_refusal_keeps_the_reason_and_the_fields() -> None:
    answer = (
        b"HTTP/1.0 503 Service Unavailable (\xfcber \x1b[1m \\)\r\n"
        b"Tor-Request-Failed:  end/RESOLVEFAILED \r\n"
        b"X-Long: %b\r\n%b\r\n" % (b"a" * 300, b"X: y\r\n" * 200)
    )
    error = play(connecting(HTTP), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert error.reply is HTTPReply.SERVICE_UNAVAILABLE
    assert error.reason == r"Service Unavailable (\xfcber \x1b[1m \\)"
    assert str(error).endswith(rf"service unavailable (HTTP 503), and says: {error.reason}")
    assert error.fields[:2] == (("tor-request-failed", "end/RESOLVEFAILED"), ("x-long", "a" * 256))
    assert len(error.fields) == 100


BEARER = Proxy(
    "proxy.example",
    scheme="http",
    headers=[
        ("Proxy-Authorization", "Bearer t0ken-ü"),
        ("X-Key", "s3cret"),
        ("USER-AGENT", "me/1"),
    ],
)


@octet_by_octet
def test_http_headers_of_the_proxy_are_sent_with_connect(least: bool) -> None:
    played = play(connecting(BEARER), b"HTTP/1.1 200\n\n", least=least)
    assert played.ends == NOWHERE
    assert bytes.fromhex(played.sent[0]).decode() == (
        "CONNECT example.com:443 HTTP/1.1\r\n"
        "Host: example.com:443\r\n"
        "Proxy-Authorization: Bearer t0ken-ü\r\n"
        "X-Key: s3cret\r\n"
        "USER-AGENT: me/1\r\n\r\n"
    )
    more = replace(BASIC, headers=(("X-Key", "s3cret"),))
    played = play(connecting(more), b"HTTP/1.1 200\n\n", least=least)
    assert played.sent == [(HOST + LOGIN + AGENT + b"X-Key: s3cret\r\n\r\n").hex()]


def test_http_refusal_of_a_proxy_authorization_in_headers_names_it() -> None:
    said = "Bearer t0ken-ü".encode()
    answer = b"HTTP/1.1 407 %b\r\nProxy-Authenticate: Bearer, t0ken-\xc3\xbc\r\n\r\n" % said
    error = play(connecting(BEARER), answer, least=False).ends
    assert isinstance(error, AuthenticationError)
    text = "the proxy refused the Proxy-Authorization of Proxy(headers=...) (HTTP 407)"
    assert str(error) == text
    assert "t0ken" not in repr(vars(error))
    answer = b"HTTP/1.1 502 %b\r\nX-Key: the key s3cret is bad\r\n\r\n" % said
    error = play(connecting(BEARER), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert (error.reason, error.fields) == ("***", (("x-key", "the key *** is bad"),))


@pytest.mark.parametrize("status", [b"594", b"403"])
def test_http_refusal_that_repeats_the_credentials_hides_them(status: bytes) -> None:
    said = b"pass " + LOGIN.removesuffix(b"\r\n")
    answer = b"HTTP/1.1 %b %b\r\nEcho: %b\r\n\r\n" % (status, said, said)
    error = play(connecting(BASIC), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert error.reason == "*** Proxy-Authorization: ***"
    assert error.fields == (("echo", "*** Proxy-Authorization: ***"),)


@pytest.mark.parametrize(
    ("username", "password"), [("t0ken", ""), ("t0ken-as-user", ""), ("u", "t0ken"), ("a", "s")]
)
def test_http_refusal_hides_only_the_user_name_and_the_password(
    username: str, password: str
) -> None:
    proxy = replace(BASIC, username=username, password=password)
    said = b"Bad Gateway for %b, (%b)" % (username.encode(), password.encode())
    answer = b"HTTP/1.1 502 %b\r\nX-Basic: %b\r\n\r\n" % (said, said)
    error = play(connecting(proxy), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert error.reason == f"Bad Gateway for ***, ({'***' if password else ''})"
    assert error.fields == (("x-basic", error.reason),)
    challenge = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n"
    error = play(connecting(proxy), challenge, least=False).ends
    assert isinstance(error, AuthenticationError)
    assert error.schemes == ("Basic",)
    assert error.strerror == "the proxy refused the credentials (HTTP 407)"


@octet_by_octet
@pytest.mark.parametrize("octets", ["05ff", "0501000000000000", "ff" * 14, "485454512f31"])
def test_http_flow_knows_another_protocol_by_its_first_octets(octets: str, least: bool) -> None:
    played = play(connecting(HTTP), bytes.fromhex(octets), least=least)
    assert type(played.ends) is ProtocolError
    assert bytes.fromhex(octets).startswith(played.ends.received)


@pytest.mark.parametrize(
    ("octets", "text"), [("005b", "this is a SOCKS4 server"), ("15030100", "this is a TLS server")]
)
def test_http_flow_names_another_protocol_also_octet_by_octet(octets: str, text: str) -> None:
    played = play(connecting(HTTP), bytes.fromhex(octets), least=True)
    check_end(played, Fails(ProtocolError, text))


# The kind of hop, and its headers


def test_http_has_no_second_reply() -> None:
    with pytest.raises(ValueError, match="an HTTP proxy does not support BIND"):
        HTTP.kind.next_reply(Command.BIND)


class TestHTTPHeaders:
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
    def test_http_headers_are_kept_as_pairs(self, headers: Any) -> None:
        proxy = Proxy("h", scheme="http", headers=headers)
        names = tuple((name.lower(), value) for name, value in proxy.headers)
        assert names == (("x-tenant", "a"), ("x-trace", "1\t2 3"))
        assert all(type(pair) is tuple for pair in proxy.headers)
        assert hash(proxy) == hash(replace(proxy))
        assert replace(proxy, port=81).headers == proxy.headers
        assert replace(proxy, headers=()) == Proxy("h", scheme="http")

    def test_http_headers_keep_their_order_their_case_and_their_number(self) -> None:
        pairs = (("b", "1"), ("A", "2"), ("b", "3"), ("!#$%&'*+-.^_`|~09Zz", ""))
        assert Proxy("h", scheme="https", headers=pairs).headers == pairs
        assert Proxy("h", scheme="http").headers == ()
        assert Proxy("h", headers={}).headers == ()

    @pytest.mark.parametrize("value", ["", "Bearer s3cret", "ü€😀", "a\tb", "a=b; c", "\xa0"])
    def test_http_headers_have_values_of_any_text(self, value: str) -> None:
        assert Proxy("h", scheme="http", headers={"X": value}).headers == (("X", value),)

    @pytest.mark.parametrize("name", ["Proxy-Authorization", "proxy-authorization"])
    def test_http_headers_with_a_proxy_authorization_exclude_a_username(self, name: str) -> None:
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
    def test_http_headers_that_would_break_the_request_are_refused(
        self, headers: dict[str, str], text: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(text)) as caught:
            Proxy("h", scheme="http", headers=headers)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "socks4"])
    def test_http_headers_of_a_socks_proxy_are_refused(self, scheme: str) -> None:
        text = f"proxy headers are for HTTP proxies only, but the scheme is {scheme}"
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
    def test_http_headers_of_the_wrong_type_are_a_type_error(self, headers: Any) -> None:
        text = r"proxy headers must be a mapping or \(name, value\) pairs, of str"
        with pytest.raises(TypeError, match=text) as caught:
            Proxy("h", scheme="http", headers=headers)
        assert "s3cret" not in str(caught.value)
