"""Octets <-> values: the messages of the RFCs, what people write as hosts, and garbage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import example, given, strategies as st

from socksclient import AuthenticationError, ProtocolError, Reply, ReplyError
from socksclient.exceptions import Socks4Reply
from socksclient.protocol import socks4, socks5 as wire
from socksclient.protocol.address import (
    Host,
    decode_address,
    decode_destination,
    encode_address,
    is_address,
    parse_port,
    without_mapping,
)
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import not_what_speaks
from socksclient.protocol.fields import encode_credential

PAIRS = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]


def fate(decode: Callable[[bytes], object], octets: bytes) -> type[Exception] | None:
    """The kind of error in which `decode` ends, if any; an error of no such kind goes on."""
    try:
        decode(octets)
    except (ProtocolError, AuthenticationError) as error:
        return type(error)
    except ReplyError:  # of whichever class
        return ReplyError
    return None


# Method selection


def test_a_greeting_lists_the_methods_in_their_order() -> None:
    assert wire.encode_methods([0x00]) == bytes.fromhex("050100")
    assert wire.encode_methods([0x00, 0x02]) == bytes.fromhex("05020002")
    assert wire.encode_methods([0x80, 0x02, 0x00]) == bytes.fromhex("0503800200")


def test_a_selection_is_a_method_offered_or_an_error() -> None:
    for pair in PAIRS:
        known = {b"\x05\x00": None, b"\x05\x02": None, b"\x05\xff": AuthenticationError}
        expected = known.get(pair, ProtocolError)
        assert fate(lambda octets: wire.decode_method(octets, [0x00, 0x02]), pair) is expected, pair
    assert wire.decode_method(b"\x05\x02", [0x00, 0x02]) == 0x02
    assert wire.decode_method(b"\x05\x00", [0x00, 0x02]) == 0x00


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
        wire.decode_method(octets, [0x02, 0x80])
    assert text in str(caught.value)
    assert caught.value.received == octets


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        ("48545450", "this is an HTTP proxy or server, not a SOCKS4 proxy: it answered in HTTP"),
        ("05", "this is a SOCKS5 server, not a SOCKS4 proxy: it answered in SOCKS5"),
        ("050000", "this is a SOCKS5 server, not a SOCKS4 proxy: it answered in SOCKS5"),
        ("1503", "this is a TLS server, not a plain SOCKS4 proxy: it answered with a TLS alert"),
        ("1503010002", "this is a TLS server, not a plain SOCKS4 proxy: it answered with a TLS"),
        ("15", "this is not a SOCKS4 proxy: it answered with 15, version 00 is wanted"),
        ("00", "this is not a SOCKS4 proxy: it answered with 00, version 00 is wanted"),
        ("535348", "this is not a SOCKS4 proxy: it answered with 53 53, version 00 is wanted"),
    ],
)
def test_what_speaks_is_judged_by_two_octets_at_most(octets: str, text: str) -> None:
    said = not_what_speaks(bytes.fromhex(octets), "a SOCKS4 proxy", "version 00")
    assert said.startswith(text)


def test_what_speaks_in_place_of_an_http_proxy() -> None:
    said = not_what_speaks(b"\x15\x03", "an HTTP proxy", "HTTP")
    assert said.startswith("this is a TLS server, not a plain HTTP proxy: ")


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
    assert wire.encode_credentials(username, password) == bytes.fromhex(message)


@pytest.mark.parametrize("fits", ["a" * 255, "ü" * 127 + "a", "€" * 85, "😀" * 63 + "abc"])
def test_a_credential_has_at_most_255_octets_in_utf_8(fits: str) -> None:
    assert wire.encode_credentials(fits, fits) == b"\x01\xff%b\xff%b" % (
        fits.encode(),
        fits.encode(),
    )
    with pytest.raises(ValueError, match=r"^username is 256 octets long in UTF-8; .* 255$"):
        wire.encode_credentials(fits + "!", fits)
    with pytest.raises(ValueError, match=r"^password is 256 octets long in UTF-8; .* 255$"):
        wire.encode_credentials(fits, fits + "!")


def test_a_credential_of_http_has_any_length() -> None:
    assert encode_credential("password", "ü" * 500, None) == b"\xc3\xbc" * 500
    with pytest.raises(
        ValueError, match=r"^password is 11 octets long in UTF-8; SOCKS carries 10$"
    ):
        encode_credential("password", "x" * 11, 10)


def test_a_credential_with_a_surrogate_is_refused_and_appears_in_no_text() -> None:
    with pytest.raises(ValueError, match="password cannot be encoded as UTF-8") as caught:
        encode_credential("password", "secret\ud800")
    assert type(caught.value) is ValueError  # a UnicodeEncodeError would bear the password
    assert caught.value.__context__ is None


def test_a_status_other_than_00_is_a_refusal_under_either_version() -> None:
    for pair in PAIRS:
        version, status = pair
        refused = AuthenticationError if status else None
        expected = refused if version in (0x01, 0x05) else ProtocolError
        assert fate(wire.check_status, pair) is expected, pair


RESERVED = ": Tor keeps user names that begin with <torS0X> to itself, and does not know this form"


@pytest.mark.parametrize(
    ("answer", "reserved", "told"),
    [
        (b"\x05\x01", True, True),  # Tor answers so, with eight octets behind it
        (b"\x05\x01", False, False),
        (b"\x01\x01", True, False),
    ],
)
def test_a_refusal_of_a_user_name_that_tor_has_reserved(
    answer: bytes, reserved: bool, told: bool
) -> None:
    with pytest.raises(AuthenticationError) as caught:
        wire.check_status(answer, reserved)
    text = "the proxy refused the credentials (STATUS 01)"
    assert str(caught.value).startswith(text + RESERVED if told else text)
    assert told or str(caught.value) == text
    for version in (0x01, 0x05):
        wire.check_status(bytes([version, 0x00]), reserved)


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
        message = wire.encode_request(command, Host.parse(host), port)
        assert message == bytes([0x05, command, 0x00]) + bytes.fromhex(address)
    assert [*Command] == [0x01, 0x02, 0x03, 0xF0, 0xF1]
    texts = ["CONNECT", "BIND", "UDP ASSOCIATE", "RESOLVE", "RESOLVE_PTR"]
    assert [command.text for command in Command] == texts


def test_replies_are_judged_by_their_first_two_octets() -> None:
    success = bytes.fromhex("05000001 7f000001 1f90")
    wire.check_reply(success, Command.CONNECT, is_first=True)
    assert wire.reply_size(success[:5]) == len(success)
    assert decode_address(success[3:]) == ("127.0.0.1", 8080)
    for failure in "0505", "050500ff", "05050001 00000000 0000":
        with pytest.raises(ReplyError) as caught:
            wire.check_reply(bytes.fromhex(failure), Command.BIND, is_first=True)
        assert caught.value.reply is Reply.CONNECTION_REFUSED


def test_a_reply_is_a_success_a_refusal_or_no_reply_at_all() -> None:
    for pair in PAIRS:
        version, rep = pair
        expected = ProtocolError if version != 0x05 else ReplyError if rep else None
        assert (
            fate(partial(wire.check_reply, command=Command.CONNECT, is_first=True), pair)
            is expected
        ), pair


# SOCKS4, 4A


@pytest.mark.parametrize(
    ("host", "port", "username", "message"),
    [
        ("192.0.2.1", 80, "me", "0401 0050 c0000201 6d65 00"),
        ("example.com", 80, "", "0401 0050 00000001 00 6578616d706c652e636f6d 00"),
        ("example.com", 443, "me", "0401 01bb 00000001 6d65 00 6578616d706c652e636f6d 00"),
        ("192.0.2.1", 65535, "", "0401 ffff c0000201 00"),
        ("0.0.0.0", 1, "ü", "0401 0001 00000000 c3bc 00"),
        ("127.1", 80, "", "0401 0050 00000001 00 3132372e31 00"),
    ],
)
def test_a_request_of_socks4(host: str, port: int, username: str, message: str) -> None:
    octets = bytes.fromhex(message)
    for command in Command:
        sent = socks4.encode_request(command, Host.parse(host), port, username)
        assert sent == octets[:1] + bytes([command]) + octets[2:]


def test_replies_of_socks4_are_judged_by_their_first_two_octets() -> None:
    for pair in PAIRS:
        version, code = pair
        granted = None if code == Socks4Reply.GRANTED else ReplyError
        expected = ProtocolError if version else granted
        for octets in (pair, pair + bytes(6), pair + b"\xff" * 9):
            assert fate(socks4.check_reply, octets) is expected, pair


@given(st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF))
def test_the_address_of_a_reply_of_socks4(host: str, port: int) -> None:
    request = socks4.encode_request(Command.CONNECT, Host.parse(host), port, "")
    assert socks4.decode_address(request[2:8]) == (host, port)


@pytest.mark.parametrize(
    ("host", "carried"),
    [
        ("0.0.0.0", True),
        ("0.0.0.1", False),
        ("0.0.0.255", False),
        ("0.0.1.0", True),
        ("192.0.2.1", True),
        ("255.255.255.255", True),
        ("::", False),
        ("2001:db8::1", False),
        ("::ffff:192.0.2.1", False),
        ("example.com", False),
        ("127.1", False),
    ],
)
def test_which_addresses_socks4_carries(host: str, carried: bool) -> None:
    assert socks4.Socks4().carries(Host.of(host)) == carried


# Addresses

REPLY = b"\x05\x00\x00"  # before its address
NAMES = st.from_regex(r"[!-.0-9;-?A-Z\\^-~]{1,255}", fullmatch=True)
ADDRESSES = st.ip_addresses().map(str)


@given(NAMES.filter(lambda name: not is_address(name)) | ADDRESSES, st.integers(0, 0xFFFF))
@example("n" * 255, 0xFFFF)
def test_an_address_survives_the_wire(host: str, port: int) -> None:
    octets = encode_address(Host.of(host), port)
    assert decode_destination(octets) == (host, port)
    assert decode_address(octets) == (without_mapping(host), port)
    assert wire.reply_size(REPLY + octets[:2]) == len(REPLY + octets)


@given(st.binary(min_size=2), st.sampled_from([b"", b"\x01", b"\x03", b"\x04"]))
def test_whatever_a_proxy_sends_as_an_address_is_one_or_a_protocol_error(
    garbage: bytes, atyp: bytes
) -> None:
    octets = atyp + garbage
    if octets[0] not in (0x01, 0x03, 0x04):
        with pytest.raises(ProtocolError, match=f"address type {octets[0]:02X} in the reply"):
            wire.reply_size(REPLY + octets)
        return
    octets = octets.ljust(7 + 255, b"\xff")[: wire.reply_size(REPLY + octets[:2]) - len(REPLY)]
    host, port = decode_address(octets)
    assert host.isascii()
    assert port.to_bytes(2, "big") == octets[-2:]


def test_a_bound_name_may_be_empty_or_not_ascii() -> None:
    assert decode_address(bytes.fromhex("03 00 0050")) == ("", 80)
    assert decode_address(bytes.fromhex("03 02 c3bc 0050")) == (r"\xc3\xbc", 80)


# Hosts and ports


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "example.com.",
        "EXAMPLE.com",
        "_dmarc.under_score.example",
        "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion",
        "l" * 64 + ".example",
        "n" * 255,
        "xn--no-such-punycode-",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
    ],
)
def test_an_ascii_name_goes_as_it_is(name: str) -> None:
    assert Host.parse(name).text == name
    assert encode_address(Host.parse(name), 80) == b"\x03%c%b\x00\x50" % (len(name), name.encode())


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("[192.0.2.1]", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:DB8:0:0::1]", "2001:db8::1"),
        ("::", "::"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("１２７。０。０。１", "127.0.0.1"),
    ],
)
def test_an_ip_address_goes_as_an_address(host: str, address: str) -> None:
    assert Host.parse(host).text == address
    assert is_address(address)
    assert encode_address(Host.parse(address), 80)[0] == (0x04 if ":" in address else 0x01)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("faß.de", "xn--fa-hia.de"),  # IDNA 2003 would make it fass.de
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example."),
        ("ẞ.example", "xn--zca.example"),
        ("u\u0308.example", "xn--tda.example"),  # u and a combining diaeresis
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("bücher．example", "xn--bcher-kva.example"),
        ("bücher｡example", "xn--bcher-kva.example"),
        ("bücher。", "xn--bcher-kva."),
        ("two。labels", "two.labels"),
        ("ü" * 57 + ".example", f"xn--tda{'a' * 56}.example"),  # its label has 63 octets
    ],
)
def test_other_labels_go_by_idna_2008_with_the_mapping_of_uts_46(host: str, name: str) -> None:
    assert Host.parse(host).text == name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("foo_bar.bücher.example", "foo_bar.xn--bcher-kva.example"),
        ("_sip._tcp.bücher.example", "_sip._tcp.xn--bcher-kva.example"),
        ("_dmarc.אב.example", "_dmarc.xn--4dbc.example"),  # the Bidi rule is of single labels here
        ("BÜCHER.Example.COM", "xn--bcher-kva.Example.COM"),
        ("-a-.bücher.example", "-a-.xn--bcher-kva.example"),
        ("xn--no-such-punycode-.bücher.example", "xn--no-such-punycode-.xn--bcher-kva.example"),
        ("l" * 64 + ".bücher.example", "l" * 64 + ".xn--bcher-kva.example"),
        ("xn--n3h.bücher.example", "xn--n3h.xn--bcher-kva.example"),  # ☃, encoded by the caller
    ],
)
def test_a_label_of_ascii_goes_as_it_is_beside_one_that_is_not(host: str, name: str) -> None:
    assert Host.parse(host).text == name


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("", "host is empty"),
        ("n" * 256, "host is 256 octets long; SOCKS carries 255"),
        ("nul\0.example", r"host 'nul\x00.example' has '\x00' in it"),
        ("line\n.example", r"has '\n' in it"),
        ("two words", "has ' ' in it"),
        ("example.com:80", "host 'example.com:80' has ':' in it, which no name has"),
        ("http://example.com", "has ':' in it"),
        ("example.com/", "has '/' in it"),
        ("user@example.com", "has '@' in it"),
        ("::1]", "has ':' in it"),
        ("[::1", "has '[' in it"),
        ("fe80::1%", "has ':' in it"),
        ("☃.example", "host '☃.example' is no valid internationalised name"),
        ("☃.example", "; a label that is encoded already (xn--...) is sent unchanged"),
        ("-ü.example", "host '-ü.example' is no valid internationalised name"),
        ("foo_ü.example", "host 'foo_ü.example' is no valid internationalised name"),
        ("ｆｏｏ＿ｂａｒ.example", "is no valid internationalised name"),
        ("［::1］", "is no valid internationalised name"),
        ("ü..example", "is no valid internationalised name: it has an empty label"),
        ("ü.。", "is no valid internationalised name: it has an empty label"),
        (".ü", "is no valid internationalised name: it has an empty label"),
        ("。", "is no valid internationalised name: it has an empty label"),
        ("ü" * 58 + ".example", "is no valid internationalised name: Label too long"),
        ("ü.example" * 40, "host is 639 octets long; SOCKS carries 255"),
        ("ü." * 513, "host is 1026 characters long; SOCKS carries at most 255 octets"),
        ("\u00ad", "is no valid internationalised name"),
        ("\ud800", "is no valid internationalised name"),
        ("fe80::1%eth0", "host 'fe80::1%eth0' has a zone id"),
        ("[fe80::1%eth0]", "host '[fe80::1%eth0]' has a zone id"),
        ("[example.com]", "host '[example.com]' is in brackets but is no IPv6 address"),
        ("[]", "host '[]' is in brackets but is no IPv6 address"),
    ],
)
def test_a_host_that_socks_cannot_carry_is_refused(host: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Host.parse(host)


@given(st.text(max_size=300) | st.text("aÜß1１.。-_[]:%\0\u200d", max_size=20))
def test_any_text_is_a_host_that_can_be_sent_or_a_value_error(text: str) -> None:
    try:
        host = Host.parse(text)
    except ValueError:
        return
    assert Host.parse(host.text) == host
    assert Host.of(host.text) == host
    assert decode_destination(encode_address(host, 80)) == (host.text, 80)


@pytest.mark.parametrize("host", [b"example.com", None, 2130706433])
def test_a_host_that_is_no_str_is_a_type_error(host: str) -> None:
    with pytest.raises(TypeError, match=rf"^host must be a str, not {type(host).__name__}$"):
        Host.parse(host)


@pytest.mark.parametrize(("port", "number"), [(1, 1), (65535, 65535), (True, 1), (Reply(5), 5)])
def test_a_port_is_an_integer(port: int, number: int) -> None:
    assert parse_port(port) == number


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (0, "port 0 is not in the range from 1 to 65535"),
        (-1, "port -1 is not in the range from 1 to 65535"),
        (65536, "port 65536 is not in the range from 1 to 65535"),
        ("80", "port must be an integer, not '80'"),
        (80.0, "port must be an integer, not 80.0"),
        (None, "port must be an integer, not None"),
    ],
)
def test_a_port_that_cannot_be_is_refused(port: int, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse_port(port)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::c000:201", "::c000:201"),
        ("64:ff9b::c000:201", "64:ff9b::c000:201"),
    ],
)
def test_a_mapped_address_of_a_proxy_is_that_of_ipv4(host: str, plain: str) -> None:
    assert without_mapping(host) == plain
    assert decode_address(encode_address(Host.parse(host), 80)) == (plain, 80)
    as_name = b"\x03%c%b\x00\x50" % (len(host), host.encode())
    assert decode_address(as_name) == (plain, 80)
    assert decode_destination(as_name) == (host, 80)


def test_what_the_caller_gives_as_an_address_of_ipv6_goes_as_one() -> None:
    host = Host.parse("::ffff:192.0.2.1")
    octets = bytes.fromhex("04 00000000000000000000ffffc0000201 0050")
    assert encode_address(host, 80) == octets
    assert decode_destination(octets) == (host.text, 80)


@pytest.mark.parametrize(
    ("host", "unspecified"),
    [("0.0.0.0", True), ("::", True), ("::1", False), ("example.com", False)],
)
def test_which_addresses_stand_for_not_known(host: str, unspecified: bool) -> None:
    assert Host.parse(host).is_unspecified == unspecified
