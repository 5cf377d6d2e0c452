"""SOCKS5: its messages, as RFC 1928 and RFC 1929 write them and as garbage; and its flows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

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
    Reply,
    ReplyError,
)
from socksclient.exceptions import ConnectionNotAllowed, ConnectionRefused, Phase, TTLExpired
from socksclient.protocol import socks5, start
from socksclient.protocol.address import Host, decode_address
from socksclient.protocol.codes import Command

from helpers.flow_player import (
    BOUND,
    GRANTED_BY_SOCKS5 as GRANTED,
    OPEN,
    USER,
    Case,
    Fails,
    check_conversation,
    connecting,
    hang_ups,
    octet_by_octet,
    play,
)

PAIRS = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]


def class_of_error(decode: Callable[[bytes], object], octets: bytes) -> type[Exception] | None:
    """Return the class of the error that `decode` raises, or None. Other errors pass."""
    try:
        decode(octets)
    except (ProtocolError, AuthenticationError) as error:
        return type(error)
    except ReplyError:
        # The subclass does not matter here.
        return ReplyError
    return None


# Method selection


def test_socks5_encode_methods_keeps_their_order() -> None:
    assert socks5.encode_methods([0x00]) == bytes.fromhex("050100")
    assert socks5.encode_methods([0x00, 0x02]) == bytes.fromhex("05020002")
    assert socks5.encode_methods([0x80, 0x02, 0x00]) == bytes.fromhex("0503800200")


def test_socks5_decode_method_is_one_offered_or_an_error() -> None:
    for pair in PAIRS:
        known = {b"\x05\x00": None, b"\x05\x02": None, b"\x05\xff": AuthenticationError}
        expected = known.get(pair, ProtocolError)
        assert (
            class_of_error(lambda octets: socks5.decode_method(octets, [0x00, 0x02]), pair)
            is expected
        ), pair
    assert socks5.decode_method(b"\x05\x02", [0x00, 0x02]) == 0x02
    assert socks5.decode_method(b"\x05\x00", [0x00, 0x02]) == 0x00


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("4854", "an HTTP proxy or server"),
        ("005a", "a SOCKS4 server"),
        ("005b", "a SOCKS4 server"),
        ("005d", "a SOCKS4 server"),
        ("005e", "it answered with 00 5e instead of version 05"),
        ("0059", "it answered with 00 59 instead of version 05"),
        ("1503", "a TLS server"),
        ("1505", "it answered with 15 05 instead of version 05"),
        ("5353", "it answered with 53 53 instead of version 05"),
        ("0500", "selected method 00, which was not offered (02, 80)"),
    ],
)
def test_socks5_decode_method_names_another_protocol(answer: str, text: str) -> None:
    octets = bytes.fromhex(answer)
    with pytest.raises(ProtocolError) as caught:
        socks5.decode_method(octets, [0x02, 0x80])
    assert text in str(caught.value)
    assert caught.value.received == octets


# Credentials


@pytest.mark.parametrize(
    ("username", "password", "message"),
    [
        ("user", "pass", "01 04 75736572 04 70617373"),
        ("user", "", "01 04 75736572 00"),
        ("", "", "01 00 00"),
        ("ü", "€\0", "01 02 c3bc 04 e282ac00"),
    ],
)
def test_socks5_encode_credentials_in_utf_8_after_their_lengths(
    username: str, password: str, message: str
) -> None:
    assert socks5.encode_credentials(username, password) == bytes.fromhex(message)


@pytest.mark.parametrize("fits", ["a" * 255, "ü" * 127 + "a", "€" * 85, "😀" * 63 + "abc"])
def test_socks5_encode_credentials_refuses_more_than_255_octets(fits: str) -> None:
    assert socks5.encode_credentials(fits, fits) == b"\x01\xff%b\xff%b" % (
        fits.encode(),
        fits.encode(),
    )
    with pytest.raises(ValueError, match=r"^username is 256 octets long in UTF-8; .* 255$"):
        socks5.encode_credentials(fits + "!", fits)
    with pytest.raises(ValueError, match=r"^password is 256 octets long in UTF-8; .* 255$"):
        socks5.encode_credentials(fits, fits + "!")


def test_socks5_check_status_refuses_under_either_version() -> None:
    for pair in PAIRS:
        version, status = pair
        refused = AuthenticationError if status else None
        expected = refused if version in (0x01, 0x05) else ProtocolError
        assert class_of_error(socks5.check_status, pair) is expected, pair


RESERVED = ": Tor reserves user names that begin with <torS0X>, and this Tor does not know this one"


@pytest.mark.parametrize(
    ("answer", "reserved", "told"),
    [
        # Tor answers so, and sends eight more octets.
        (b"\x05\x01", True, True),
        (b"\x05\x01", False, False),
        (b"\x01\x01", True, False),
    ],
)
def test_socks5_check_status_explains_a_user_name_reserved_by_tor(
    answer: bytes, reserved: bool, told: bool
) -> None:
    with pytest.raises(AuthenticationError) as caught:
        socks5.check_status(answer, reserved)
    text = "the proxy refused the credentials (STATUS 01)"
    assert str(caught.value).startswith(text + RESERVED if told else text)
    assert told or str(caught.value) == text
    for version in (0x01, 0x05):
        socks5.check_status(bytes([version, 0x00]), reserved)


# Requests and replies


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("192.0.2.1", 80, "01 c0000201 0050"),
        ("example.com", 443, "03 0b 6578616d706c652e636f6d 01bb"),
        ("[2001:db8::1]", 8080, "04 20010db8000000000000000000000001 1f90"),
        ("bücher.example", 80, "03 15 786e2d2d62636865722d6b76612e6578616d706c65 0050"),
        ("0.0.0.0", 0, "01 00000000 0000"),
    ],
)
def test_socks5_encode_request_is_the_command_and_the_address(
    host: str, port: int, address: str
) -> None:
    for command in Command:
        message = socks5.encode_request(command, Host.parse(host), port)
        assert message == bytes([0x05, command, 0x00]) + bytes.fromhex(address)


def test_socks5_check_reply_judges_by_two_octets() -> None:
    success = bytes.fromhex("05000001 7f000001 1f90")
    socks5.check_reply(success, Command.CONNECT, is_first=True)
    assert socks5.reply_size(success[:5]) == len(success)
    assert decode_address(success[3:]) == ("127.0.0.1", 8080)
    for failure in "0505", "050500ff", "05050001 00000000 0000":
        with pytest.raises(ReplyError) as caught:
            socks5.check_reply(bytes.fromhex(failure), Command.BIND, is_first=True)
        assert caught.value.reply is Reply.CONNECTION_REFUSED


def test_socks5_check_reply_of_any_two_octets() -> None:
    for pair in PAIRS:
        version, rep = pair
        expected = ProtocolError if version != 0x05 else ReplyError if rep else None
        assert (
            class_of_error(
                partial(socks5.check_reply, command=Command.CONNECT, is_first=True), pair
            )
            is expected
        ), pair


# The flows


def negotiate_token(proxy: Proxy) -> Flow[None]:
    """Negotiate by a private method, in which the proxy answers a token with three octets."""
    if (yield Exchange(b"token", 3)) != b"yes":
        raise AuthenticationError("the proxy refused the token")


NO_PASSWORD = Proxy("proxy.example", username="user")
STRICT = replace(USER, methods=(USERNAME_PASSWORD,))
EAGER = replace(USER, methods=(USERNAME_PASSWORD, NO_AUTHENTICATION))
TOKEN = replace(OPEN, methods=(NO_AUTHENTICATION, Method(0x80, negotiate_token)))

# What the client says
OFFER_00, OFFER_00_02, OFFER_02, OFFER_02_00 = "050100", "05020002", "050102", "05020200"
OFFER_00_80 = "05020080"
CREDENTIALS, EMPTY_PASSWORD, THE_TOKEN = "0104757365720470617373", "01047573657200", "746f6b656e"
# CONNECT example.com:443
REQUEST = "050100030b6578616d706c652e636f6d01bb"

# What the proxy says
YES, NAY = b"yes".hex(), b"nay".hex()
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


@every_case
@octet_by_octet
@pytest.mark.parametrize("behind", ["", "00", "0001000000000000", b"SSH-2.0-OpenSSH\r\n".hex()])
def test_socks5_flow_sends_each_message_and_reads_no_octet_too_many(
    case: Case, least: bool, behind: str
) -> None:
    check_conversation(case, bytes.fromhex(behind), least=least)


@every_case
@octet_by_octet
def test_socks5_hang_up_is_told_with_the_octets_got_and_wanted(case: Case, least: bool) -> None:
    for sent, answer, got, text in hang_ups(case, least=least):
        if sent == THE_TOKEN:
            # The user's method does not catch ConnectionEnded.
            assert f"got {got} octets in the sub-negotiation of method 80" in text
        else:
            # The first five octets of a reply tell how many there are.
            wanted = 5 if sent == REQUEST and got < 5 else len(answer)
            assert f"got {got} of {wanted} octets" in text


@octet_by_octet
def test_socks5_flow_reads_a_bound_name_of_any_length_exactly(least: bool) -> None:
    for size in range(256):
        reply = b"\x05\x00\x00\x03%c%b\x00\x50" % (size, b"n" * size)
        played = play(connecting(OPEN), b"\x05\x00" + reply + b"behind", least=least)
        assert played.ends == ("n" * size, 80)
        assert played.left == b"behind"


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
def test_socks5_flow_tells_each_phase_as_it_begins(answers: str, phases: list[Phase]) -> None:
    entered: list[Phase] = []
    flow = start(USER, "example.com", 443, begin_phase=entered.append)
    play(flow, bytes.fromhex(answers), least=True)
    assert entered == phases
