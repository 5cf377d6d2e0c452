"""SOCKS4 and 4A: their messages, which addresses they carry, their flow, and their proxies."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from socksclient import ProtocolError, Proxy, ProxyClosed, ReplyError
from socksclient.exceptions import ConnectionNotAllowed
from socksclient.protocol import socks4
from socksclient.protocol.address import Host, HostPort
from socksclient.protocol.codes import Command, Socks4Reply
from socksclient.protocol.socks4 import REPLY_SIZE

from helpers.flow_player import (
    BOUND,
    GRANTED_BY_SOCKS4,
    SOCKS4A,
    Case,
    Fails,
    check_conversation,
    connecting,
    hang_ups,
    octet_by_octet,
    play,
)

PAIRS = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]


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
def test_socks4_encode_request(host: str, port: int, username: str, message: str) -> None:
    octets = bytes.fromhex(message)
    for command in Command:
        sent = socks4.encode_request(command, Host.parse(host), port, username)
        assert sent == octets[:1] + bytes([command]) + octets[2:]


def test_socks4_reply_to_a_user_id_is_secret_to_its_end() -> None:
    with closing(socks4.reply(b"request", is_secret=True)) as flow:
        steps = [next(flow), *(flow.send(b"\0\x5a"[i : i + 1]) for i in range(2))]
    assert [step.is_secret for step in steps] == [True, True, True]


def test_socks4_check_reply_judges_by_two_octets() -> None:
    for pair in PAIRS:
        version, code = pair
        for octets in (pair, pair + bytes(6), pair + b"\xff" * 9):
            if (version, code) == (0x00, Socks4Reply.GRANTED):
                socks4.check_reply(octets)
                continue
            with pytest.raises(ProtocolError if version else ReplyError):
                socks4.check_reply(octets)


@given(st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF))
def test_socks4_decode_address(host: str, port: int) -> None:
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
def test_socks4_carries_ipv4_addresses_other_than_those_of_4a(host: str, carried: bool) -> None:
    assert socks4.Socks4().carries(Host.of(host)) == carried


# The flow

# CONNECT example.com:443
REQUEST = "040101bb00000001006578616d706c652e636f6d00"


def replied(name: str, answer: str, ends: HostPort | Fails) -> Case:
    return Case(f"SOCKS4, {name}", SOCKS4A, [REQUEST], [answer], ends)


def refused(code: int, text: str, kind: type[ReplyError] = ReplyError) -> Case:
    return replied(f"CD {code:02X}", f"00{code:02x}", Fails(kind, f"{text} (SOCKS4 CD {code:02X})"))


CASES = [
    replied("granted", GRANTED_BY_SOCKS4, BOUND),
    replied("nothing bound", "005a000000000000", ("0.0.0.0", 0)),
    replied("all bits", "005affffffffffff", ("255.255.255.255", 65535)),
    refused(0x5B, "rejected or failed"),
    refused(0x5C, "no identd", ConnectionNotAllowed),
    refused(0x5D, "identd reports another user", ConnectionNotAllowed),
    refused(0x5E, "unassigned 5e"),
    refused(0x00, "unassigned 00"),
    replied("of version 04", "045a", Fails(ProtocolError, "it answered with 04 5a")),
    replied(
        "HTTP",
        "4854",
        Fails(ProtocolError, "this is an HTTP proxy or server, not a SOCKS4"),
    ),
    replied("SOCKS5", "05ff", Fails(ProtocolError, "this is a SOCKS5 server, not a SOCKS4 proxy")),
    replied("TLS", "1503", Fails(ProtocolError, "not a plain SOCKS4 proxy")),
]


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
@octet_by_octet
@pytest.mark.parametrize("behind", ["", "00", "0001000000000000", b"SSH-2.0-OpenSSH\r\n".hex()])
def test_socks4_flow_sends_its_request_and_reads_no_octet_too_many(
    case: Case, least: bool, behind: str
) -> None:
    check_conversation(case, bytes.fromhex(behind), least=least)


@every_case
@octet_by_octet
def test_socks4_hang_up_is_told_with_the_octets_got_and_wanted(case: Case, least: bool) -> None:
    for _, _, got, text in hang_ups(case, least=least):
        assert f"got {got} of {REPLY_SIZE} octets" in text


def test_socks4_flow_knows_every_cd_by_two_octets() -> None:
    for code in range(256):
        played = play(connecting(SOCKS4A), bytes([0x00, code]), least=True)
        if code == Socks4Reply.GRANTED:
            assert type(played.ends) is ProxyClosed
        else:
            assert isinstance(played.ends, ReplyError)
            assert (type(played.ends.reply), played.ends.reply) == (Socks4Reply, code)


# The proxies

SOCKS5 = Proxy("h", 1081, scheme="socks5", username="us3r", password="p4ss")


class TestSocks4Password:
    @pytest.mark.parametrize("scheme", ["socks4", "socks4a", "SOCKS4A", "socks4+tls"])
    def test_socks4_password_in_a_url_is_dropped_with_a_warning(
        self, scheme: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy = Proxy.from_url(f"{scheme}://us3r:p4ss@h:1")
        assert proxy == Proxy("h", 1, scheme=scheme, username="us3r")
        [record] = caplog.records
        assert (record.name, record.levelname) == ("socksclient", "WARNING")
        assert record.getMessage() == (
            f"{proxy}: the URL has a password, which a SOCKS4 proxy does not take; the password"
            " is dropped"
        )
        for secret in ("us3r", "p4ss"):
            assert secret not in caplog.text
            assert secret not in repr(vars(record))
        assert proxy.isolated("token") == Proxy("h", 1, scheme=scheme, username="token")

    def test_socks4_password_that_is_empty_needs_no_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert Proxy.from_url("socks4://us3r:@h") == Proxy.from_url("socks4://us3r@h")
        assert caplog.records == []

    def test_socks4_password_in_the_constructor_is_refused(self) -> None:
        with pytest.raises(ValueError, match="proxy password is given, but a SOCKS4 proxy"):
            Proxy("h", scheme="socks4a", username="us3r", password="p4ss")
        with pytest.raises(ValueError, match="a SOCKS4 proxy takes none") as caught:
            replace(SOCKS5, scheme="socks4")
        assert "p4ss" not in str(caught.value)
