"""The messages of SOCKS5: those of the RFCs, and garbage."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from socksclient import AuthenticationError, ProtocolError, Reply, ReplyError
from socksclient.protocol import socks5
from socksclient.protocol.address import Host, decode_address
from socksclient.protocol.codes import Command
from socksclient.protocol.fields import encode_credential

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


def test_a_greeting_lists_the_methods_in_their_order() -> None:
    assert socks5.encode_methods([0x00]) == bytes.fromhex("050100")
    assert socks5.encode_methods([0x00, 0x02]) == bytes.fromhex("05020002")
    assert socks5.encode_methods([0x80, 0x02, 0x00]) == bytes.fromhex("0503800200")


def test_a_selection_is_a_method_offered_or_an_error() -> None:
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
        ("005e", "it answered with 00 5e, version 05 is wanted"),
        ("0059", "it answered with 00 59, version 05 is wanted"),
        ("1503", "a TLS server"),
        ("1505", "it answered with 15 05, version 05 is wanted"),
        ("5353", "it answered with 53 53, version 05 is wanted"),
        ("0500", "selected method 00, which was not offered (02, 80)"),
    ],
)
def test_an_answer_that_is_no_selection_is_called_what_it_is(answer: str, text: str) -> None:
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
def test_credentials_are_utf_8_after_their_lengths(
    username: str, password: str, message: str
) -> None:
    assert socks5.encode_credentials(username, password) == bytes.fromhex(message)


@pytest.mark.parametrize("fits", ["a" * 255, "ü" * 127 + "a", "€" * 85, "😀" * 63 + "abc"])
def test_a_credential_has_at_most_255_octets_in_utf_8(fits: str) -> None:
    assert socks5.encode_credentials(fits, fits) == b"\x01\xff%b\xff%b" % (
        fits.encode(),
        fits.encode(),
    )
    with pytest.raises(ValueError, match=r"^username is 256 octets long in UTF-8; .* 255$"):
        socks5.encode_credentials(fits + "!", fits)
    with pytest.raises(ValueError, match=r"^password is 256 octets long in UTF-8; .* 255$"):
        socks5.encode_credentials(fits, fits + "!")


def test_a_credential_of_http_has_any_length() -> None:
    assert encode_credential("password", "ü" * 500, None) == b"\xc3\xbc" * 500
    with pytest.raises(
        ValueError, match=r"^password is 11 octets long in UTF-8; SOCKS carries 10$"
    ):
        encode_credential("password", "x" * 11, 10)


def test_a_credential_with_a_surrogate_is_refused_and_appears_in_no_text() -> None:
    with pytest.raises(ValueError, match="password cannot be encoded as UTF-8") as caught:
        encode_credential("password", "secret\ud800")
    # A UnicodeEncodeError would have the password in it.
    assert type(caught.value) is ValueError
    assert caught.value.__context__ is None


def test_a_status_other_than_00_is_a_refusal_under_either_version() -> None:
    for pair in PAIRS:
        version, status = pair
        refused = AuthenticationError if status else None
        expected = refused if version in (0x01, 0x05) else ProtocolError
        assert class_of_error(socks5.check_status, pair) is expected, pair


RESERVED = ": Tor keeps user names that begin with <torS0X> to itself, and does not know this form"


@pytest.mark.parametrize(
    ("answer", "reserved", "told"),
    [
        # Tor answers so, with eight octets behind it.
        (b"\x05\x01", True, True),
        (b"\x05\x01", False, False),
        (b"\x01\x01", True, False),
    ],
)
def test_a_refusal_of_a_user_name_that_tor_has_reserved(
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
def test_a_request_is_its_command_and_the_address(host: str, port: int, address: str) -> None:
    for command in Command:
        message = socks5.encode_request(command, Host.parse(host), port)
        assert message == bytes([0x05, command, 0x00]) + bytes.fromhex(address)


def test_replies_are_judged_by_their_first_two_octets() -> None:
    success = bytes.fromhex("05000001 7f000001 1f90")
    socks5.check_reply(success, Command.CONNECT, is_first=True)
    assert socks5.reply_size(success[:5]) == len(success)
    assert decode_address(success[3:]) == ("127.0.0.1", 8080)
    for failure in "0505", "050500ff", "05050001 00000000 0000":
        with pytest.raises(ReplyError) as caught:
            socks5.check_reply(bytes.fromhex(failure), Command.BIND, is_first=True)
        assert caught.value.reply is Reply.CONNECTION_REFUSED


def test_a_reply_is_a_success_a_refusal_or_no_reply_at_all() -> None:
    for pair in PAIRS:
        version, rep = pair
        expected = ProtocolError if version != 0x05 else ReplyError if rep else None
        assert (
            class_of_error(
                partial(socks5.check_reply, command=Command.CONNECT, is_first=True), pair
            )
            is expected
        ), pair
