"""`start`: the host as the caller has it, and the command by its name."""

from __future__ import annotations

import ipaddress
import re

import pytest

from socksclient.protocol import (
    Command,
    ConnectionEnded,
    Flow,
    Host,
    HostPort,
    Phase,
    Proxy,
    ProxyClosed,
    SocksError,
    start,
)

GRANTED = {
    "socks5": bytes.fromhex("0500 05000001c00002071f90"),
    "socks4": bytes.fromhex("005a1f90c0000207"),
    "http": b"HTTP/1.1 200 OK\r\n\r\n",
}
BOUND = ("192.0.2.7", 8080)


def play(flow: Flow[HostPort], octets: bytes) -> tuple[HostPort, bytes]:
    """Drive a flow, and return its result with all that it has sent."""
    sent = b""
    try:
        step = next(flow)
        while True:
            sent += step.send
            brought, octets = octets[: step.read], octets[step.read :]
            if len(brought) < (step.enough or step.read):
                step = flow.throw(ConnectionEnded(brought))
            step = flow.send(brought)
    except StopIteration as stop:
        result: HostPort = stop.value
        return result, sent


@pytest.mark.parametrize(
    ("scheme", "host", "request_"),
    [
        ("socks5h", "example.com", "05010003 0b 6578616d706c652e636f6d 0050"),
        (
            "socks5h",
            "bücher.example",
            "05010003 15 786e2d2d62636865722d6b76612e6578616d706c65 0050",
        ),
        ("socks5h", "192.0.2.1", "05010001 c0000201 0050"),
        ("socks5h", "[2001:db8::1]", "05010004 20010db8000000000000000000000001 0050"),
        ("socks5", "2001:db8::1", "05010004 20010db8000000000000000000000001 0050"),
        ("socks4a", "example.com", "0401 0050 00000001 00 6578616d706c652e636f6d 00"),
        ("socks4a", "192.0.2.1", "0401 0050 c0000201 00"),
        ("socks4", "192.0.2.1", "0401 0050 c0000201 00"),
    ],
)
def test_start_encodes_the_host(scheme: str, host: str, request_: str) -> None:
    octets = bytes.fromhex(request_)
    protocol = scheme.rstrip("ah")
    bound, sent = play(start(f"{scheme}://proxy.test", host, 80), GRANTED[protocol])
    assert bound == BOUND
    assert sent == (b"\x05\x01\x00" if protocol == "socks5" else b"") + octets


@pytest.mark.parametrize("host", ["2001:db8::1", "[2001:db8::1]"])
def test_start_with_http_puts_an_ipv6_address_in_brackets(host: str) -> None:
    proxy = Proxy("proxy.test", scheme="http", username="user", password="pass")
    bound, sent = play(start(proxy, host, 443), GRANTED["http"])
    assert bound == ("0.0.0.0", 0)
    assert sent.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")


@pytest.mark.parametrize(
    ("command", "cmd"),
    [
        ("connect", 0x01),
        ("bind", 0x02),
        ("udp associate", 0x03),
        ("resolve", 0xF0),
        ("resolve ptr", 0xF1),
        (Command.BIND, 0x02),
    ],
)
def test_start_encodes_the_command(command: str | Command, cmd: int) -> None:
    answer = b"\x05\x00\x05\x00\x00\x03\x01n\0\0" if cmd == 0xF1 else GRANTED["socks5"]
    bound, sent = play(start("socks5h://proxy.test", "192.0.2.1", 80, command), answer)
    assert bound == (("n", 0) if cmd == 0xF1 else BOUND)
    assert sent[3:] == bytes([0x05, cmd]) + bytes.fromhex("0001 c0000201 0050")


@pytest.mark.parametrize(
    ("proxy", "host", "port", "command", "text"),
    [
        ("socks4://h", "example.com", 80, "connect", "socks4:// means that the client resolves"),
        ("socks4://h", "example.com", 80, "bind", "give an IP address of example.com, or use"),
        ("socks5://h", "example.com", 80, "connect", "socks5:// means that the client resolves"),
        ("socks4://h", "::1", 80, "connect", "SOCKS4 cannot carry the IPv6 address ::1"),
        ("socks4a://h", "[::1]", 80, "bind", "SOCKS4 cannot carry the IPv6 address ::1"),
        ("socks4a://h", "0.0.0.7", 80, "connect", "SOCKS4 cannot carry the address 0.0.0.7"),
        ("socks4a://h", "h", 80, "udp associate", "a SOCKS4 proxy does not support UDP ASSOCIATE"),
        ("http://h", "h", 80, "bind", "an HTTP proxy does not support BIND"),
        ("socks5h+tls://h", "::", 0, "udp associate", "UDP cannot use TLS"),
        ("socks5h://h", "example.com", 0, "resolve ptr", "'example.com' is not an IP address"),
        ("socks5://h", "facebook.onion", 80, "connect", "facebook.onion is known to Tor only"),
        ("socks5h://h", "fe80::1%eth0", 80, "connect", "host 'fe80::1%eth0' has a zone id"),
        ("socks5h://h", "", 80, "connect", "host is empty"),
        ("socks5h://h", "h", 0, "connect", "port 0 is not in the range from 1 to 65535"),
        ("socks5h://h", "h", 65536, "bind", "port 65536 is not in the range from 0 to 65535"),
        ("socks5h://h", "h", 80, "CONNECT", "command must be one of 'connect', 'bind', 'udp"),
        ("socks5h://h", "h", 80, "resolve_ptr", "'resolve', 'resolve ptr', not 'resolve_ptr'"),
        ("socks6://h", "h", 80, "connect", "proxy scheme 'socks6' is not one of"),
    ],
)
def test_start_refuses_what_the_protocol_cannot_carry(
    proxy: str, host: str, port: int, command: str, text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        start(proxy, host, port, command)


@pytest.mark.parametrize("scheme", ["socks5", "socks4"])
def test_start_of_resolve_takes_a_name_under_every_scheme(scheme: str) -> None:
    flow = start(f"{scheme}://h", "example.com", 0, "resolve")
    assert play(flow, GRANTED[scheme])[0] == BOUND


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("resolve", b"\x03\x01n"),
        ("resolve ptr", b"\x01\x7f\0\0\1"),
        ("resolve ptr", b"\x03\x00"),
        ("resolve ptr", b"\x03\x03a b"),
        ("resolve ptr", b"\x03\x01\xff"),
    ],
)
def test_start_of_resolve_refuses_an_answer_of_the_wrong_kind(command: str, answer: bytes) -> None:
    flow = start("socks5h://h", "192.0.2.1", 0, command)
    with pytest.raises(
        SocksError, match=f"the proxy answered {command.upper().replace(' ', '_')} with "
    ):
        play(flow, b"\x05\x00\x05\x00\x00" + answer + b"\0\0")


def test_start_refuses_a_host_or_a_proxy_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="host must be a str, not bytes"):
        start("socks5h://h", b"h", 80)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="proxy must be a str, a socksclient"):
        start(1080, "h", 80)  # type: ignore[arg-type]


def test_start_calls_begin_phase_as_each_phase_begins() -> None:
    phases: list[Phase] = []
    flow = start("socks5h://h", "h", 80, begin_phase=phases.append)
    assert phases == []
    play(flow, GRANTED["socks5"])
    assert phases == ["method selection", "request"]


def test_start_words_a_connection_that_ends() -> None:
    with pytest.raises(ProxyClosed, match=r"got 1 of 5 octets$") as caught:
        play(start("socks5h://h", "h", 80), GRANTED["socks5"][:3])
    assert caught.value.received == b"\x05"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("scheme", "host"),
    [
        *((scheme, "192.0.2.1") for scheme in ("socks5h", "socks5", "socks4a", "socks4")),
        *((scheme, "2001:db8::1") for scheme in ("socks5h", "socks5")),
    ],
)
def test_start_parses_an_ip_address_once(
    scheme: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy("proxy.test", scheme=scheme)
    parsed = []
    parse = ipaddress.ip_address

    def count(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        parsed.append(address)
        return parse(address)

    monkeypatch.setattr(ipaddress, "ip_address", count)
    play(start(proxy, host, 80), GRANTED[scheme.rstrip("ah")])
    assert parsed == [host]


def test_start_of_udp_associate_does_not_parse_the_bound_address_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(address: str) -> None:
        raise AssertionError(f"{address} is parsed")

    flow = start("socks5h://h", "0.0.0.0", 0, "udp associate")
    monkeypatch.setattr(ipaddress, "ip_address", refuse)
    assert play(flow, GRANTED["socks5"])[0] == BOUND


def test_host_parse_and_host_of_make_equal_values() -> None:
    assert Host.parse("[::1]") == Host.of("::1")
    assert len({Host.parse("h"), Host.of("h")}) == 1
    assert str(Host.parse("[::1]")) == "::1"
