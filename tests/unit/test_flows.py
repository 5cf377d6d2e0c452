"""The flows, played with no socket: whole, octet by octet, with data behind, and cut off."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import NamedTuple

import pytest

from socksclient import (
    NO_AUTHENTICATION,
    USERNAME_PASSWORD,
    AuthenticationError,
    Exchange,
    Flow,
    Method,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import (
    ConnectionNotAllowed,
    ConnectionRefused,
    HTTPReply,
    Phase,
    Socks4Reply,
    TTLExpired,
)
from socksclient.flows import check_request, handshake, next_reply, request
from socksclient.protocol.codes import Command
from socksclient.protocol.flow import ConnectionEnded
from socksclient.protocol.http import MAX_HEAD_SIZE
from socksclient.protocol.socks4 import REPLY_SIZE


def negotiate_token(proxy: Proxy) -> Flow[None]:
    """Negotiate by a private method: the proxy answers a token with three octets."""
    if (yield Exchange(b"token", 3)) != b"yes":
        raise AuthenticationError("the proxy refused the token")


OPEN = Proxy("proxy.example")
USER = Proxy("proxy.example", username="user", password="pass")
NO_PASSWORD = Proxy("proxy.example", username="user")
STRICT = replace(USER, methods=(USERNAME_PASSWORD,))
EAGER = replace(USER, methods=(USERNAME_PASSWORD, NO_AUTHENTICATION))
TOKEN = replace(OPEN, methods=(NO_AUTHENTICATION, Method(0x80, negotiate_token)))
FOUR_A = Proxy("proxy.example", scheme="socks4a")
FOUR = Proxy("proxy.example", scheme="socks4", username="me")
HTTP = Proxy("proxy.example", scheme="http")
BASIC = Proxy("proxy.example", scheme="http", username="user", password="pass")

# What the client says
OFFER_00, OFFER_00_02, OFFER_02, OFFER_02_00 = "050100", "05020002", "050102", "05020200"
OFFER_00_80 = "05020080"
CREDENTIALS, EMPTY_PASSWORD, THE_TOKEN = "0104757365720470617373", "01047573657200", "746f6b656e"
REQUEST = "050100030b6578616d706c652e636f6d01bb"  # CONNECT example.com:443
REQUEST_4A = "040101bb00000001006578616d706c652e636f6d00"

# What the proxy says
YES, NAY = b"yes".hex(), b"nay".hex()
GRANTED = "050000017f0000011f90"
GRANTED_4 = "005a1f907f000001"
BOUND = ("127.0.0.1", 8080)


class Fails(NamedTuple):
    """An error of that very class, with that in its text."""

    kind: type[SocksError]
    text: str


class Case(NamedTuple):
    """A handshake, in hex. Of an error's row, the last octet of `answers` makes it known."""

    name: str
    proxy: Proxy
    sent: list[str]
    answers: list[str]
    ends: tuple[str, int] | Fails


REFUSED_TOKEN = Fails(AuthenticationError, "the proxy refused the token")


def no_method(name: str, proxy: Proxy, offer: str, answer: str, ends: Fails) -> Case:
    return Case(name, proxy, [offer], [answer], ends)


def no_login(name: str, status: str, ends: Fails) -> Case:
    return Case(name, USER, [OFFER_00_02, CREDENTIALS], ["0502", status], ends)


def replied(name: str, reply: str, ends: tuple[str, int] | Fails) -> Case:
    return Case(name, OPEN, [OFFER_00, REQUEST], ["0500", reply], ends)


def refused(rep: int, text: str, kind: type[ReplyError] = ReplyError) -> Case:
    return replied(f"REP {rep:02X}", f"05{rep:02x}", Fails(kind, f"{text} (REP {rep:02X})"))


def by_four(name: str, answer: str, ends: tuple[str, int] | Fails) -> Case:
    return Case(f"SOCKS4, {name}", FOUR_A, [REQUEST_4A], [answer], ends)


def refused_by_four(code: int, text: str, kind: type[ReplyError] = ReplyError) -> Case:
    return by_four(f"CD {code:02X}", f"00{code:02x}", Fails(kind, f"{text} (SOCKS4 CD {code:02X})"))


CASES = [
    Case("no authentication", OPEN, [OFFER_00, REQUEST], ["0500", GRANTED], BOUND),
    Case("offered, not wanted", USER, [OFFER_00_02, REQUEST], ["0500", GRANTED], BOUND),
    *(
        Case(name, proxy, [offer, credentials, REQUEST], ["0502", status, GRANTED], BOUND)
        for name, proxy, offer, credentials, status in [
            ("password", USER, OFFER_00_02, CREDENTIALS, "0100"),
            ("password alone", STRICT, OFFER_02, CREDENTIALS, "0100"),
            ("password first", EAGER, OFFER_02_00, CREDENTIALS, "0100"),
            ("empty password", NO_PASSWORD, OFFER_00_02, EMPTY_PASSWORD, "0100"),
            ("status of version 05", USER, OFFER_00_02, CREDENTIALS, "0500"),
        ]
    ),
    Case("token", TOKEN, [OFFER_00_80, THE_TOKEN, REQUEST], ["0580", YES, GRANTED], BOUND),
    Case("token refused", TOKEN, [OFFER_00_80, THE_TOKEN], ["0580", NAY], REFUSED_TOKEN),
    no_method("none", USER, OFFER_00_02, "05ff", Fails(AuthenticationError, "none of the methods")),
    no_method("not offered", OPEN, OFFER_00, "0502", Fails(ProtocolError, "02, which was not")),
    no_method("GSSAPI", USER, OFFER_00_02, "0501", Fails(ProtocolError, "not offered (00, 02)")),
    no_method("HTTP", OPEN, OFFER_00, "4854", Fails(ProtocolError, "an HTTP proxy")),
    no_method("SOCKS4", OPEN, OFFER_00, "005b", Fails(ProtocolError, "a SOCKS4 server")),
    no_login("STATUS 01", "0101", Fails(AuthenticationError, "(STATUS 01)")),
    no_login("STATUS FF", "01ff", Fails(AuthenticationError, "(STATUS FF)")),
    no_login("STATUS of version 05", "0501", Fails(AuthenticationError, "(STATUS 01)")),
    no_login("STATUS of version 02", "0200", Fails(ProtocolError, "version 02")),
    refused(0x01, "general SOCKS server failure"),
    refused(0x02, "connection not allowed by ruleset", ConnectionNotAllowed),
    refused(0x03, "network unreachable"),
    refused(0x04, "host unreachable"),
    refused(0x05, "connection refused", ConnectionRefused),
    refused(0x06, "TTL expired", TTLExpired),
    refused(0x07, "command not supported"),
    refused(0x08, "address type not supported"),
    refused(0x5A, ""),
    refused(0xF0, ""),
    replied("reply of version 04", "0400", Fails(ProtocolError, "version 04")),
    replied("ATYP 00", "0500000000", Fails(ProtocolError, "address type 00")),
    replied("ATYP 05", "0500000500", Fails(ProtocolError, "address type 05")),
    replied("RSV other than 00", "0500ff01000000000000", ("0.0.0.0", 0)),
    replied("IPv6", "05000004" + "20010db8" + "00" * 11 + "011f90", ("2001:db8::1", 8080)),
    *(
        replied(f"name of {size}", f"05000003{size:02x}{'6e' * size}0050", ("n" * size, 80))
        for size in (0, 1, 2, 3, 254, 255)
    ),
    by_four("granted", GRANTED_4, BOUND),
    by_four("nothing bound", "005a000000000000", ("0.0.0.0", 0)),
    by_four("all bits", "005affffffffffff", ("255.255.255.255", 65535)),
    refused_by_four(0x5B, "rejected or failed"),
    refused_by_four(0x5C, "no identd", ConnectionNotAllowed),
    refused_by_four(0x5D, "identd reports another user", ConnectionNotAllowed),
    refused_by_four(0x5E, "unassigned 5e"),
    refused_by_four(0x00, "unassigned 00"),
    by_four("of version 04", "045a", Fails(ProtocolError, "it answered with 04 5a")),
    by_four(
        "HTTP",
        "4854",
        Fails(ProtocolError, "this is an HTTP proxy or server, not a SOCKS4"),
    ),
    by_four("SOCKS5", "05ff", Fails(ProtocolError, "this is a SOCKS5 server, not a SOCKS4 proxy")),
    by_four("TLS", "1503", Fails(ProtocolError, "not a plain SOCKS4 proxy")),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
octet_by_octet = pytest.mark.parametrize("least", [False, True], ids=["whole", "octet by octet"])


class Played(NamedTuple):
    """How a flow has gone; in `ends`, its result or its error."""

    ends: tuple[str, int] | SocksError
    sent: list[str]
    left: bytes


def play(flow: Flow[tuple[str, int]], octets: bytes, *, least: bool, peeks: bool = False) -> Played:
    """Drive a flow; `octets` are all that the proxy sends before it hangs up.

    With `least`, each step gets no more octets than it needs, as if they came one by one. With
    `peeks`, each step gets all octets that belong to the message.
    """
    sent = []
    try:
        step = next(flow)
        while True:
            assert 0 <= step.enough <= step.read > 0
            if step.send:
                sent.append(step.send.hex())
            enough = step.enough or step.read
            most = enough if least else step.read
            if peeks and step.belonging is not None:
                most = max(most, step.belonging(octets))
            brought = octets[:most]
            octets = octets[len(brought) :]
            if len(brought) < enough:
                step = flow.throw(ConnectionEnded(brought))
            step = flow.send(brought)
    except StopIteration as stop:
        return Played(stop.value, sent, octets)
    except SocksError as error:
        return Played(error, sent, octets)


def tunnel(proxy: Proxy) -> Flow[tuple[str, int]]:
    return handshake(proxy, Command.CONNECT, "example.com", 443, lambda phase: None)


def assert_ends(played: Played, ends: tuple[str, int] | Fails) -> None:
    if isinstance(ends, Fails):
        assert type(played.ends) is ends.kind
        assert ends.text in str(played.ends)
    else:
        assert played.ends == ends


@every_case
@octet_by_octet
@pytest.mark.parametrize("behind", ["", "00", "0001000000000000", b"SSH-2.0-OpenSSH\r\n".hex()])
def test_a_flow_sends_message_by_message_ends_as_the_proxy_says_and_reads_no_further(
    case: Case, least: bool, behind: str
) -> None:
    octets = bytes.fromhex("".join(case.answers) + behind)
    played = play(tunnel(case.proxy), octets, least=least)
    assert_ends(played, case.ends)
    assert played.sent == case.sent
    # A refusal may be read together with the octets behind it.
    if least or not isinstance(case.ends, Fails):
        assert played.left == bytes.fromhex(behind)


@every_case
@octet_by_octet
def test_hanging_up_early_is_told_with_the_octets_got_and_wanted(case: Case, least: bool) -> None:
    before = b""
    for sent, answer in zip(case.sent, map(bytes.fromhex, case.answers), strict=True):
        for got in range(len(answer)):
            played = play(tunnel(case.proxy), before + answer[:got], least=least)
            # The first five octets of a reply tell how many there are; SOCKS4 has but one size.
            wanted = 5 if sent == REQUEST and got < 5 else len(answer)
            wanted = REPLY_SIZE if sent == REQUEST_4A else wanted
            text = f"got {got} of {wanted} octets"
            if sent == THE_TOKEN:
                # The method of the user's own does not catch ConnectionEnded.
                text = f"got {got} octets in the sub-negotiation of method 80"
            assert_ends(played, Fails(ProxyClosed, text))
            assert isinstance(played.ends, ProxyClosed)
            assert answer[:got].endswith(played.ends.received)
            assert played.sent == case.sent[: case.sent.index(sent) + 1]
        before += answer


@octet_by_octet
def test_a_bound_name_of_any_length_is_read_exactly(least: bool) -> None:
    for size in range(256):
        reply = b"\x05\x00\x00\x03%c%b\x00\x50" % (size, b"n" * size)
        played = play(tunnel(OPEN), b"\x05\x00" + reply + b"behind", least=least)
        assert played.ends == ("n" * size, 80)
        assert played.left == b"behind"


def test_a_request_bears_its_command() -> None:
    played = play(request(Command.BIND, "192.0.2.1", 80), bytes.fromhex(GRANTED), least=True)
    assert played == (BOUND, ["05020001c00002010050"], b"")
    bind = handshake(FOUR, Command.BIND, "192.0.2.1", 80, lambda phase: None)
    played = play(bind, bytes.fromhex(GRANTED_4), least=True)
    assert played == (BOUND, ["04020050c00002016d6500"], b"")


@octet_by_octet
@pytest.mark.parametrize("proxy", [OPEN, FOUR, FOUR_A], ids=str)
def test_the_second_reply_to_bind_answers_nothing_and_is_read_exactly(
    proxy: Proxy, least: bool
) -> None:
    reply = bytes.fromhex(GRANTED if proxy is OPEN else GRANTED_4)
    played = play(next_reply(proxy, Command.BIND), reply + b"behind", least=least)
    assert played == (BOUND, [], b"behind")
    closed = play(next_reply(proxy, Command.BIND), reply[:-1], least=least).ends
    assert type(closed) is ProxyClosed
    assert closed.received == reply[len(reply) - 1 - len(closed.received) : -1]
    assert "offer" not in str(closed)


@pytest.mark.parametrize("proxy", [OPEN, FOUR_A], ids=str)
def test_nothing_at_all_may_mean_that_a_command_is_not_offered(proxy: Proxy) -> None:
    for command in Command:
        for octets in (b"", b"\x05" if proxy is OPEN else b"\x00"):
            flow = handshake(proxy, command, "192.0.2.1", 80, lambda phase: None)
            method = b"\x05\x00" if proxy is OPEN else b""
            try:
                error = play(flow, method + octets, least=True).ends
            except ValueError:
                assert proxy is not OPEN
                assert command in (Command.UDP_ASSOCIATE, Command.RESOLVE_PTR)
                continue
            assert type(error) is ProxyClosed
            if command == Command.CONNECT or octets:
                assert "offer" not in str(error)
            else:
                assert str(error).endswith(f" that do not offer {command.text}")


@pytest.mark.parametrize(
    ("proxy", "wanted"),
    [
        (OPEN, "got 0 of 2 octets, as servers do that do not speak SOCKS5"),
        (USER, ", or that accept none of the methods offered (00, 02)"),
        (TOKEN, ", or that accept none of the methods offered (00, 80)"),
        (
            FOUR,
            ", as servers do that speak SOCKS5 but not SOCKS4, or that cannot connect",
        ),
        (HTTP, ", as HTTP proxies do that cannot connect to the destination, and as servers do"),
    ],
    ids=str,
)
def test_hanging_up_on_the_first_message_is_told_with_what_it_may_mean(
    proxy: Proxy, wanted: str
) -> None:
    flow = handshake(proxy, Command.CONNECT, "192.0.2.1", 80, lambda phase: None)
    error = play(flow, b"", least=True).ends
    assert type(error) is ProxyClosed
    assert wanted in str(error)


@pytest.mark.parametrize("proxy", [OPEN, USER], ids=str)
def test_a_ruleset_may_mean_the_credentials(proxy: Proxy) -> None:
    # 3proxy accepts every password, and clients without one, and then replies REP 02.
    method = b"\x05\x00" if proxy is OPEN else b"\x05\x02\x01\x00"
    error = play(tunnel(proxy), method + b"\x05\x02", least=True).ends
    assert type(error) is ConnectionNotAllowed
    assert "(REP 02); some proxies also reply this to wrong or missing credentials" in str(error)
    # The second reply to BIND refuses a peer.
    error = play(next_reply(proxy, Command.BIND), b"\x05\x02", least=True).ends
    assert type(error) is ConnectionNotAllowed
    assert "credentials" not in str(error)


@pytest.mark.parametrize(
    ("proxy", "host", "words"),
    [
        (FOUR, "::1", "SOCKS4 cannot carry the IPv6 address ::1"),
        (FOUR_A, "::1", "SOCKS4 cannot carry the IPv6 address ::1"),
        (FOUR, "example.com", "socks4 carries addresses only, and 'example.com' is a name"),
    ],
)
def test_a_handshake_refuses_what_its_protocol_cannot_carry(
    proxy: Proxy, host: str, words: str
) -> None:
    flow = handshake(proxy, Command.CONNECT, host, 80, lambda phase: None)
    with pytest.raises(ValueError, match=re.escape(words)):
        next(flow)


@pytest.mark.parametrize(
    ("proxy", "host", "words"),
    [
        (FOUR, "::1", "SOCKS4 cannot carry the IPv6 address ::1"),
        (OPEN, "fe80::1%eth0", "host 'fe80::1%eth0' has a zone id"),
        (HTTP, "example.com", "an HTTP proxy cannot do BIND"),
    ],
)
def test_a_request_can_be_checked_by_itself(proxy: Proxy, host: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_request(proxy, Command.BIND, host)
    check_request(proxy, Command.CONNECT, "example.com")


def test_every_cd_is_known_by_two_octets() -> None:
    for code in range(256):
        played = play(tunnel(FOUR_A), bytes([0x00, code]), least=True)
        if code == Socks4Reply.GRANTED:
            assert type(played.ends) is ProxyClosed
        else:
            assert isinstance(played.ends, ReplyError)
            assert (type(played.ends.reply), played.ends.reply) == (Socks4Reply, code)


@pytest.mark.parametrize(
    ("answers", "phases"),
    [
        ("", ["method selection"]),
        ("05ff", ["method selection"]),
        ("0502", ["method selection", "authentication"]),
        ("05020101", ["method selection", "authentication"]),
        ("0500", ["method selection", "request"]),
        ("05020100" + GRANTED, ["method selection", "authentication", "request"]),
    ],
)
def test_each_phase_is_told_as_it_begins(answers: str, phases: list[Phase]) -> None:
    entered: list[Phase] = []
    play(
        handshake(USER, Command.CONNECT, "example.com", 443, entered.append),
        bytes.fromhex(answers),
        least=True,
    )
    assert entered == phases


@pytest.mark.parametrize("proxy", [FOUR, FOUR_A, HTTP, BASIC], ids=str)
def test_without_a_method_to_select_there_is_one_phase(proxy: Proxy) -> None:
    entered: list[Phase] = []
    flow = handshake(proxy, Command.CONNECT, "192.0.2.1", 443, entered.append)
    play(flow, b"", least=True)
    assert entered == ["request"]


# HTTP's CONNECT

HOST = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n"
AGENT = b"User-Agent: socksclient\r\n"
CONNECT = HOST + AGENT
LOGIN = b"Proxy-Authorization: Basic " + base64.b64encode(b"user:pass") + b"\r\n"
NOWHERE = ("0.0.0.0", 0)
MALFORMED = Fails(ProtocolError, "the proxy does not speak HTTP as it should: ")


def head_of(octets: int) -> bytes:
    """Return a head of so many octets."""
    return b"HTTP/1.1 200 OK\r\nX: ".ljust(octets - 4, b"x") + b"\r\n\r\n"


def said_no(status: int, words: str) -> tuple[bytes, Fails]:
    text = f"the proxy refused the request: {words} (HTTP {status}), and says: Whatever"
    ends = Fails(ReplyError, text)
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: 9\r\n\r\n" % status, ends


WANTS_A_LOGIN = "the proxy wants authentication, and there is no username"

ANSWERS: list[tuple[bytes, tuple[str, int] | Fails]] = [
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
    # curl accepts these.
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
def test_the_head_of_an_answer_is_read_exactly(
    answer: bytes, ends: tuple[str, int] | Fails, behind: bytes, least: bool
) -> None:
    played = play(tunnel(HTTP), answer + behind, least=least)
    assert_ends(played, ends)
    assert played.sent == [(CONNECT + b"\r\n").hex()]
    assert played.left == behind
    peeked = play(tunnel(HTTP), answer + behind, least=least, peeks=True)
    assert (str(peeked.ends), peeked.left) == (str(played.ends), behind)
    if isinstance(played.ends, ReplyError):
        assert isinstance(played.ends.reply, HTTPReply)


@octet_by_octet
@pytest.mark.parametrize("answer", [answer for answer, _ in ANSWERS if len(answer) < 200])
def test_hanging_up_in_a_head_is_told_with_the_octets_got(answer: bytes, least: bool) -> None:
    # The final response comes behind all responses of the kind 1xx.
    begin = answer.rindex(b"HTTP/")
    for got in range(len(answer) - begin):
        for peeks in (False, True):
            played = play(tunnel(HTTP), answer[: begin + got], least=least, peeks=peeks)
            assert_ends(played, Fails(ProxyClosed, f"got {got} of "))
            assert isinstance(played.ends, ProxyClosed)
            assert played.ends.received == answer[begin : begin + got]


def test_a_driver_that_peeks_brings_a_long_head_at_once() -> None:
    flow = tunnel(HTTP)
    step = next(flow)
    assert step.belonging is not None
    assert step.belonging(head_of(MAX_HEAD_SIZE) + b"behind") == MAX_HEAD_SIZE
    # If the octets are no HTTP, it takes no more than it must.
    assert step.belonging(b"\x05\xff" + bytes(1000)) == 0
    flow.close()


@octet_by_octet
@pytest.mark.parametrize("peeks", [False, True])
def test_a_head_has_64_kib_at_most(least: bool, peeks: bool) -> None:
    go_on = b"HTTP/1.1 100\n\n"
    for head in (head_of(MAX_HEAD_SIZE), go_on * 4000 + head_of(MAX_HEAD_SIZE - 4000 * len(go_on))):
        played = play(tunnel(HTTP), head + b"behind", least=least, peeks=peeks)
        assert (played.ends, played.left) == (NOWHERE, b"behind")
    for head in (head_of(MAX_HEAD_SIZE + 1), head_of(MAX_HEAD_SIZE + 2), go_on * 4700):
        played = play(tunnel(HTTP), head, least=least, peeks=peeks)
        assert_ends(played, Fails(ProtocolError, "has more than 65536 octets"))
        assert isinstance(played.ends, ProtocolError)
        assert len(played.ends.received) <= 256
        assert len(head) - len(played.left) <= MAX_HEAD_SIZE + len(go_on)


DIGEST = 'Digest realm="a, Basic b", nonce="c=", qop="auth", stale=false'
ONLY = "the proxy wants authentication by {}, and socksclient speaks only Basic"
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
def test_http_credentials_are_refused_with_the_schemes_that_the_proxy_offers(
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
        played = play(tunnel(proxy), answer, least=least)
        assert_ends(played, Fails(AuthenticationError, f"{words} (HTTP {status})"))
        assert isinstance(played.ends, AuthenticationError)
        assert played.ends.schemes == schemes
        assert played.sent == [(sent + b"\r\n").hex()]


def test_a_refusal_by_http_keeps_the_reason_and_the_fields() -> None:
    answer = (
        b"HTTP/1.0 503 Service Unavailable (\xfcber \x1b[1m \\)\r\n"
        b"Tor-Request-Failed:  end/RESOLVEFAILED \r\n"
        b"X-Long: %b\r\n%b\r\n" % (b"a" * 300, b"X: y\r\n" * 200)
    )
    error = play(tunnel(HTTP), answer, least=False).ends
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
def test_the_headers_of_a_proxy_are_sent_with_connect(least: bool) -> None:
    played = play(tunnel(BEARER), b"HTTP/1.1 200\n\n", least=least)
    assert played.ends == NOWHERE
    assert bytes.fromhex(played.sent[0]).decode() == (
        "CONNECT example.com:443 HTTP/1.1\r\n"
        "Host: example.com:443\r\n"
        "Proxy-Authorization: Bearer t0ken-ü\r\n"
        "X-Key: s3cret\r\n"
        "USER-AGENT: me/1\r\n\r\n"
    )
    more = replace(BASIC, headers=(("X-Key", "s3cret"),))
    played = play(tunnel(more), b"HTTP/1.1 200\n\n", least=least)
    assert played.sent == [(HOST + LOGIN + AGENT + b"X-Key: s3cret\r\n\r\n").hex()]


def test_a_proxy_authorization_of_the_callers_own_is_refused_by_name() -> None:
    said = "Bearer t0ken-ü".encode()
    answer = b"HTTP/1.1 407 %b\r\nProxy-Authenticate: Bearer, t0ken-\xc3\xbc\r\n\r\n" % said
    error = play(tunnel(BEARER), answer, least=False).ends
    assert isinstance(error, AuthenticationError)
    text = "the proxy refused the Proxy-Authorization of Proxy(headers=...) (HTTP 407)"
    assert str(error) == text
    assert "t0ken" not in repr(vars(error))
    answer = b"HTTP/1.1 502 %b\r\nX-Key: the key s3cret is bad\r\n\r\n" % said
    error = play(tunnel(BEARER), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert (error.reason, error.fields) == ("***", (("x-key", "the key *** is bad"),))


@pytest.mark.parametrize("status", [b"594", b"403"])
def test_a_proxy_that_repeats_credentials_does_not_bring_them_into_the_text(status: bytes) -> None:
    said = b"pass " + LOGIN.removesuffix(b"\r\n")
    answer = b"HTTP/1.1 %b %b\r\nEcho: %b\r\n\r\n" % (status, said, said)
    error = play(tunnel(BASIC), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert error.reason == "*** Proxy-Authorization: ***"
    assert error.fields == (("echo", "*** Proxy-Authorization: ***"),)


@pytest.mark.parametrize(
    ("username", "password"), [("t0ken", ""), ("t0ken-as-user", ""), ("u", "t0ken"), ("a", "s")]
)
def test_what_a_proxy_says_is_without_the_user_name_and_the_password_and_otherwise_whole(
    username: str, password: str
) -> None:
    proxy = replace(BASIC, username=username, password=password)
    said = b"Bad Gateway for %b, (%b)" % (username.encode(), password.encode())
    answer = b"HTTP/1.1 502 %b\r\nX-Basic: %b\r\n\r\n" % (said, said)
    error = play(tunnel(proxy), answer, least=False).ends
    assert isinstance(error, ReplyError)
    assert error.reason == f"Bad Gateway for ***, ({'***' if password else ''})"
    assert error.fields == (("x-basic", error.reason),)
    challenge = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n"
    error = play(tunnel(proxy), challenge, least=False).ends
    assert isinstance(error, AuthenticationError)
    assert error.schemes == ("Basic",)
    assert error.strerror == "the proxy refused the credentials (HTTP 407)"


@octet_by_octet
@pytest.mark.parametrize("octets", ["05ff", "0501000000000000", "ff" * 14, "485454512f31"])
def test_what_does_not_speak_http_is_known_by_what_comes_first(octets: str, least: bool) -> None:
    played = play(tunnel(HTTP), bytes.fromhex(octets), least=least)
    assert type(played.ends) is ProtocolError
    assert bytes.fromhex(octets).startswith(played.ends.received)


@pytest.mark.parametrize(
    ("octets", "text"), [("005b", "this is a SOCKS4 server"), ("15030100", "this is a TLS server")]
)
def test_what_speaks_in_place_of_http_is_named_also_octet_by_octet(octets: str, text: str) -> None:
    played = play(tunnel(HTTP), bytes.fromhex(octets), least=True)
    assert_ends(played, Fails(ProtocolError, text))


def test_an_exchange_shows_none_of_its_octets() -> None:
    steps = tunnel(STRICT)
    next(steps)
    credentials = steps.send(b"\x05\x02")
    assert credentials.send == bytes.fromhex(CREDENTIALS)
    assert repr(credentials) == "<Exchange: send 11 octets, read 2>"
    assert str(credentials) == f"{credentials}" == repr(credentials)
