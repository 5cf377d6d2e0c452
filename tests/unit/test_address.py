"""Hosts and ports: what people write, what is sent, and what proxies send."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, strategies as st

from socksclient import ProtocolError, Reply
from socksclient.protocol import socks5
from socksclient.protocol.address import (
    Host,
    decode_address,
    decode_destination,
    encode_address,
    host_port,
    is_address,
    parse_port,
    socket_address,
    without_mapping,
)

# Addresses

# What stands before the address in a reply.
REPLY = b"\x05\x00\x00"
NAMES = st.from_regex(r"[!-.0-9;-?A-Z\\^-~]{1,255}", fullmatch=True)
ADDRESSES = st.ip_addresses().map(str)


@given(NAMES.filter(lambda name: not is_address(name)) | ADDRESSES, st.integers(0, 0xFFFF))
@example("n" * 255, 0xFFFF)
def test_encode_address_and_decode_destination_are_inverse(host: str, port: int) -> None:
    octets = encode_address(Host.of(host), port)
    assert decode_destination(octets) == (host, port)
    assert decode_address(octets) == (without_mapping(host), port)
    assert socks5.reply_size(REPLY + octets[:2]) == len(REPLY + octets)


@given(st.binary(min_size=2), st.sampled_from([b"", b"\x01", b"\x03", b"\x04"]))
def test_decode_address_of_any_octets_is_an_address_or_a_protocol_error(
    garbage: bytes, atyp: bytes
) -> None:
    octets = atyp + garbage
    if octets[0] not in (0x01, 0x03, 0x04):
        with pytest.raises(ProtocolError, match=f"the reply has address type {octets[0]:02X} "):
            socks5.reply_size(REPLY + octets)
        return
    octets = octets.ljust(7 + 255, b"\xff")[: socks5.reply_size(REPLY + octets[:2]) - len(REPLY)]
    host, port = decode_address(octets)
    assert host.isascii()
    assert port.to_bytes(2, "big") == octets[-2:]


def test_decode_address_takes_a_name_that_is_empty_or_not_ascii() -> None:
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
def test_host_parse_keeps_an_ascii_name_as_it_is(name: str) -> None:
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
def test_host_parse_of_an_ip_address_is_an_address(host: str, address: str) -> None:
    assert Host.parse(host).text == address
    assert is_address(address)
    assert encode_address(Host.parse(address), 80)[0] == (0x04 if ":" in address else 0x01)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        # IDNA 2003 would make it fass.de.
        ("faß.de", "xn--fa-hia.de"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example."),
        ("ẞ.example", "xn--zca.example"),
        # A combining diaeresis follows the u.
        ("u\u0308.example", "xn--tda.example"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("bücher．example", "xn--bcher-kva.example"),
        ("bücher｡example", "xn--bcher-kva.example"),
        ("bücher。", "xn--bcher-kva."),
        ("two。labels", "two.labels"),
        # The encoded label has 63 octets, the most that a label may have.
        ("ü" * 57 + ".example", f"xn--tda{'a' * 56}.example"),
    ],
)
def test_host_parse_encodes_a_label_by_idna_2008_with_the_mapping_of_uts_46(
    host: str, name: str
) -> None:
    assert Host.parse(host).text == name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("foo_bar.bücher.example", "foo_bar.xn--bcher-kva.example"),
        ("_sip._tcp.bücher.example", "_sip._tcp.xn--bcher-kva.example"),
        # The Bidi rule holds for each label by itself.
        ("_dmarc.אב.example", "_dmarc.xn--4dbc.example"),
        ("BÜCHER.Example.COM", "xn--bcher-kva.Example.COM"),
        ("-a-.bücher.example", "-a-.xn--bcher-kva.example"),
        ("xn--no-such-punycode-.bücher.example", "xn--no-such-punycode-.xn--bcher-kva.example"),
        ("l" * 64 + ".bücher.example", "l" * 64 + ".xn--bcher-kva.example"),
        # The caller has encoded ☃, which IDNA 2008 does not allow.
        ("xn--n3h.bücher.example", "xn--n3h.xn--bcher-kva.example"),
    ],
)
def test_host_parse_keeps_an_ascii_label_beside_one_that_is_not(host: str, name: str) -> None:
    assert Host.parse(host).text == name


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("", "host is empty"),
        ("n" * 256, "host is 256 octets long; SOCKS carries at most 255"),
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
        ("☃.example", "host '☃.example' is not a valid internationalised name"),
        ("☃.example", "; a label that is encoded already (xn--...) is sent unchanged"),
        ("-ü.example", "host '-ü.example' is not a valid internationalised name"),
        ("foo_ü.example", "host 'foo_ü.example' is not a valid internationalised name"),
        ("ｆｏｏ＿ｂａｒ.example", "is not a valid internationalised name"),
        ("［::1］", "is not a valid internationalised name"),
        ("ü..example", "is not a valid internationalised name: it has an empty label"),
        ("ü.。", "is not a valid internationalised name: it has an empty label"),
        (".ü", "is not a valid internationalised name: it has an empty label"),
        ("。", "is not a valid internationalised name: it has an empty label"),
        ("ü" * 58 + ".example", "is not a valid internationalised name: Label too long"),
        ("ü.example" * 40, "host is 639 octets long; SOCKS carries at most 255"),
        ("ü." * 513, "host is 1026 characters long; SOCKS carries at most 255 octets"),
        ("\u00ad", "is not a valid internationalised name"),
        ("\ud800", "is not a valid internationalised name"),
        ("fe80::1%eth0", "host 'fe80::1%eth0' has a zone id"),
        ("[fe80::1%eth0]", "host '[fe80::1%eth0]' has a zone id"),
        ("[example.com]", "host '[example.com]' is in brackets but is not an IPv6 address"),
        ("[]", "host '[]' is in brackets but is not an IPv6 address"),
    ],
)
def test_host_parse_refuses_a_host_that_socks_cannot_carry(host: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Host.parse(host)


@given(st.text(max_size=300) | st.text("aÜß1１.。-_[]:%\0\u200d", max_size=20))
def test_host_parse_of_any_text_is_a_host_or_a_value_error(text: str) -> None:
    try:
        host = Host.parse(text)
    except ValueError:
        return
    assert Host.parse(host.text) == host
    assert Host.of(host.text) == host
    assert decode_destination(encode_address(host, 80)) == (host.text, 80)


@pytest.mark.parametrize("host", [b"example.com", None, 2130706433])
def test_host_parse_of_another_type_is_a_type_error(host: str) -> None:
    with pytest.raises(TypeError, match=rf"^host must be a str, not {type(host).__name__}$"):
        Host.parse(host)


def test_host_parse_of_a_str_subclass_is_what_it_holds() -> None:
    # An enum with str as its first base formats itself as its name from Python 3.12 on.
    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "Name.ORIGIN"

    text = Host.parse(Name("origin.test")).text
    assert (text, type(text)) == ("origin.test", str)


@pytest.mark.parametrize(("port", "number"), [(1, 1), (65535, 65535), (True, 1), (Reply(5), 5)])
def test_parse_port_takes_an_integer(port: int, number: int) -> None:
    assert parse_port(port) == number
    assert type(parse_port(port)) is int


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
def test_parse_port_refuses_a_port_out_of_range_or_of_another_type(port: int, text: str) -> None:
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
def test_without_mapping_and_decode_address_return_the_ipv4_address(host: str, plain: str) -> None:
    assert without_mapping(host) == plain
    assert decode_address(encode_address(Host.parse(host), 80)) == (plain, 80)
    as_name = b"\x03%c%b\x00\x50" % (len(host), host.encode())
    assert decode_address(as_name) == (plain, 80)
    assert decode_destination(as_name) == (host, 80)


def test_encode_address_keeps_the_ipv4_mapped_address_of_a_caller() -> None:
    host = Host.parse("::ffff:192.0.2.1")
    octets = bytes.fromhex("04 00000000000000000000ffffc0000201 0050")
    assert encode_address(host, 80) == octets
    assert decode_destination(octets) == (host.text, 80)


@pytest.mark.parametrize(
    ("host", "unspecified"),
    [("0.0.0.0", True), ("::", True), ("::1", False), ("example.com", False)],
)
def test_host_is_unspecified(host: str, unspecified: bool) -> None:
    assert Host.parse(host).is_unspecified == unspecified


@pytest.mark.parametrize(
    ("host", "text"),
    [("h", "h:80"), ("192.0.2.1", "192.0.2.1:80"), ("::1", "[::1]:80"), ("[::1]", "[::1]:80")],
)
def test_host_port_puts_an_ipv6_address_in_brackets(host: str, text: str) -> None:
    assert host_port(host, 80) == text


def test_socket_address_of_ipv6_has_four_values() -> None:
    assert socket_address("192.0.2.1", 80) == ("192.0.2.1", 80)
    assert socket_address("::1", 80) == ("::1", 80, 0, 0)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::192.0.2.1", "::192.0.2.1"),
        ("name.test", "name.test"),
    ],
)
def test_host_unmapped(host: str, plain: str) -> None:
    assert Host.of(host).unmapped == Host.of(plain)
