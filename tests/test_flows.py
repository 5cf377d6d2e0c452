"""The flows, played with no socket: whole, octet by octet, with data behind, and cut off."""

from __future__ import annotations

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
from socksclient.exceptions import ConnectionNotAllowed, ConnectionRefused, Phase, TTLExpired
from socksclient.flows import handshake, request
from socksclient.wire import Command


def negotiate_token(proxy: Proxy) -> Flow[None]:
    """A private method: the proxy answers a token with three octets."""
    if (yield Exchange(b"token", 3)) != b"yes":
        raise AuthenticationError("the proxy refused the token")


OPEN = Proxy("proxy.example")
USER = Proxy("proxy.example", username="user", password="pass")
NO_PASSWORD = Proxy("proxy.example", username="user")
STRICT = replace(USER, methods=(USERNAME_PASSWORD,))
EAGER = replace(USER, methods=(USERNAME_PASSWORD, NO_AUTHENTICATION))
TOKEN = replace(OPEN, methods=(NO_AUTHENTICATION, Method(0x80, negotiate_token)))

# What the client says
OFFER_00, OFFER_00_02, OFFER_02, OFFER_02_00 = "050100", "05020002", "050102", "05020200"
OFFER_00_80 = "05020080"
CREDENTIALS, EMPTY_PASSWORD, THE_TOKEN = "0104757365720470617373", "01047573657200", "746f6b656e"
REQUEST = "050100030b6578616d706c652e636f6d01bb"  # CONNECT example.com:443

# What the proxy says
YES, NAY = b"yes".hex(), b"nay".hex()
GRANTED = "050000017f0000011f90"
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
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
octet_by_octet = pytest.mark.parametrize("least", [False, True], ids=["whole", "octet by octet"])


class Played(NamedTuple):
    """How a flow has gone; in `ends`, its result or its error."""

    ends: tuple[str, int] | SocksError
    sent: list[str]
    left: bytes


def play(flow: Flow[tuple[str, int]], octets: bytes, *, least: bool) -> Played:
    """A driver; `octets` are all that the proxy says before it hangs up.

    With `least`, it brings no more octets than it has to, as if they came one by one.
    """
    sent = []
    try:
        step = next(flow)
        while True:
            assert 0 <= step.enough <= step.read > 0
            if step.send:
                sent.append(step.send.hex())
            enough = step.enough or step.read
            brought = octets[: enough if least else step.read]
            octets = octets[len(brought) :]
            if len(brought) < enough:
                raise step.closed(brought)
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
    if least or not isinstance(case.ends, Fails):  # a refusal may be read with what is behind it
        assert played.left == bytes.fromhex(behind)


@every_case
@octet_by_octet
def test_hanging_up_early_is_told_with_the_octets_got_and_wanted(case: Case, least: bool) -> None:
    before = b""
    for sent, answer in zip(case.sent, map(bytes.fromhex, case.answers), strict=True):
        for got in range(len(answer)):
            played = play(tunnel(case.proxy), before + answer[:got], least=least)
            # The first five octets of a reply tell how many there are.
            wanted = 5 if sent == REQUEST and got < 5 else len(answer)
            assert_ends(played, Fails(ProxyClosed, f"got {got} of {wanted} octets"))
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


def test_an_exchange_shows_none_of_its_octets() -> None:
    steps = tunnel(STRICT)
    next(steps)
    credentials = steps.send(b"\x05\x02")
    assert credentials.send == bytes.fromhex(CREDENTIALS)
    assert repr(credentials) == "<Exchange: send 11 octets, read 2>"
    assert str(credentials) == f"{credentials}" == repr(credentials)
