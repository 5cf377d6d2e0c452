"""The steps of a flow, and how a driver says that the connection has ended."""

from __future__ import annotations

import ssl
import traceback

import pytest

from socksclient import NO_AUTHENTICATION, ProxyClosed
from socksclient.exceptions import ConnectionNotAllowed
from socksclient.protocol import (
    Command,
    ConnectionEnded,
    Exchange,
    HostPort,
    Method,
    Phase,
    Proxy,
    start,
)
from socksclient.protocol.flow import Flow

from helpers.flow_player import (
    BASIC,
    BOUND,
    GRANTED_BY_SOCKS4,
    GRANTED_BY_SOCKS5,
    HTTP,
    OPEN,
    SOCKS4,
    SOCKS4A,
    USER,
    connecting,
    octet_by_octet,
    play,
)


def negotiate_nothing_well(proxy: Proxy) -> Flow[None]:
    """Send a token. A user's method may ignore ConnectionEnded, as this one does."""
    yield Exchange(b"token", 3)


TOKEN = Proxy("h", methods=(NO_AUTHENTICATION, Method(0x80, negotiate_nothing_well)))


def test_exchange_repr_shows_no_octets() -> None:
    assert repr(Exchange(b"secret", 2)) == "<Exchange: send 6 octets, read 2>"


@pytest.mark.parametrize(
    ("proxy", "answer", "secrets"),
    [
        (Proxy("h"), b"\x05\x00", [False, False]),
        (Proxy("h", username="u", password="p"), b"\x05\x02\x01\x00", [False, True, False]),
        (Proxy("h", scheme="socks4a"), b"", [False]),
        (Proxy("h", scheme="socks4a", username="u"), b"", [True]),
        (Proxy("h", scheme="http"), b"", [False]),
        (Proxy("h", scheme="http", username="u"), b"", [True]),
        (Proxy("h", scheme="http", headers={"X-Token": "t"}), b"", [True]),
    ],
)
def test_exchange_with_credentials_is_secret(
    proxy: Proxy, answer: bytes, secrets: list[bool]
) -> None:
    flow = start(proxy, "example.com", 443)
    step = next(flow)
    found = [step.is_secret]
    while answer:
        step = flow.send(answer[: step.read])
        answer = answer[2:]
        found.append(step.is_secret)
    assert found == secrets


def a_step_of(proxy: Proxy, answer: bytes = b"") -> Flow[HostPort]:
    """Return a flow that waits for an answer."""
    flow = start(proxy, "example.com", 443)
    next(flow)
    if answer:
        flow.send(answer)
    return flow


FLOWS = [
    (Proxy("h"), b""),
    (Proxy("h"), b"\x05\x00"),
    (Proxy("h", username="u"), b"\x05\x02"),
    (TOKEN, b"\x05\x80"),
    (Proxy("h", scheme="socks4a"), b""),
    (Proxy("h", scheme="http"), b""),
]


@pytest.mark.parametrize(("proxy", "answer"), FLOWS)
@pytest.mark.parametrize("error", [None, ConnectionResetError(), EOFError("as anyio has it")])
def test_flow_words_a_hang_up(proxy: Proxy, answer: bytes, error: BaseException | None) -> None:
    flow = a_step_of(proxy, answer)
    with pytest.raises(
        ProxyClosed, match=r"hung up before the end of its message: got 1 "
    ) as caught:
        flow.throw(ConnectionEnded(b"\x05", error))
    assert caught.value.__cause__ is error
    assert caught.value.received == b"\x05"


@pytest.mark.parametrize(("proxy", "answer"), FLOWS)
def test_flow_words_a_broken_connection(proxy: Proxy, answer: bytes) -> None:
    flow = a_step_of(proxy, answer)
    error = ssl.SSLError(1, "bad record mac")
    ended = ConnectionEnded(b"\x05", error)
    assert ended.broken_by is error
    with pytest.raises(ProxyClosed, match="connection to the proxy broke: bad record mac"):
        flow.throw(ended)


@pytest.mark.parametrize(("proxy", "answer"), FLOWS)
def test_flow_lets_another_error_of_a_driver_pass(proxy: Proxy, answer: bytes) -> None:
    for error in (TimeoutError(), OSError(5, "no luck"), KeyError("mine")):
        with pytest.raises(type(error)) as caught:
            a_step_of(proxy, answer).throw(error)
        assert caught.value is error


def test_connection_ended_shows_no_octets() -> None:
    octets = b"s3cret"
    ended = ConnectionEnded(octets, ConnectionResetError())
    assert (ended.received, ended.broken_by) == (octets, None)
    assert str(ended) == "the connection ended after 6 octets"
    assert "s3cret" not in "".join(traceback.format_exception(ended)) + repr(ended)


@octet_by_octet
@pytest.mark.parametrize("proxy", [OPEN, SOCKS4, SOCKS4A], ids=str)
def test_next_reply_to_bind_is_read_exactly(proxy: Proxy, least: bool) -> None:
    reply = bytes.fromhex(GRANTED_BY_SOCKS5 if proxy is OPEN else GRANTED_BY_SOCKS4)
    played = play(proxy.kind.next_reply(Command.BIND), reply + b"behind", least=least)
    assert played == (BOUND, [], b"behind")
    closed = play(proxy.kind.next_reply(Command.BIND), reply[:-1], least=least).ends
    assert type(closed) is ProxyClosed
    assert closed.received == reply[len(reply) - 1 - len(closed.received) : -1]
    assert "offer" not in str(closed)


@pytest.mark.parametrize("proxy", [OPEN, SOCKS4A], ids=str)
def test_flow_hang_up_without_a_reply_may_mean_that_the_command_is_not_offered(
    proxy: Proxy,
) -> None:
    for command in Command:
        for octets in (b"", b"\x05" if proxy is OPEN else b"\x00"):
            method = b"\x05\x00" if proxy is OPEN else b""
            try:
                flow = start(proxy, "192.0.2.1", 80, command)
            except ValueError:
                assert proxy is not OPEN
                assert command in (Command.UDP_ASSOCIATE, Command.RESOLVE_PTR)
                continue
            error = play(flow, method + octets, least=True).ends
            assert type(error) is ProxyClosed
            if command == Command.CONNECT or octets:
                assert "offer" not in str(error)
            else:
                assert str(error).endswith(f" does not offer {command.text}")


@pytest.mark.parametrize(
    ("proxy", "wanted"),
    [
        (OPEN, "got 0 of 2 octets; perhaps the server does not speak SOCKS5"),
        (USER, ", or accepts none of the methods offered (00, 02)"),
        (TOKEN, ", or accepts none of the methods offered (00, 80)"),
        (
            SOCKS4,
            "; perhaps the server speaks SOCKS5 but not SOCKS4, or cannot connect",
        ),
        (HTTP, "; perhaps the proxy cannot connect to the destination, does not speak HTTP"),
    ],
    ids=str,
)
def test_flow_hang_up_on_the_first_message_tells_what_it_may_mean(
    proxy: Proxy, wanted: str
) -> None:
    error = play(start(proxy, "192.0.2.1", 80), b"", least=True).ends
    assert type(error) is ProxyClosed
    assert wanted in str(error)


@pytest.mark.parametrize("proxy", [OPEN, USER], ids=str)
def test_flow_rep_02_may_mean_the_credentials(proxy: Proxy) -> None:
    # 3proxy accepts every password, and clients without one, and then replies REP 02.
    method = b"\x05\x00" if proxy is OPEN else b"\x05\x02\x01\x00"
    error = play(connecting(proxy), method + b"\x05\x02", least=True).ends
    assert type(error) is ConnectionNotAllowed
    assert "(REP 02); some proxies also reply this to wrong or missing credentials" in str(error)
    # The second reply to BIND refuses a peer.
    error = play(proxy.kind.next_reply(Command.BIND), b"\x05\x02", least=True).ends
    assert type(error) is ConnectionNotAllowed
    assert "credentials" not in str(error)


@pytest.mark.parametrize("proxy", [SOCKS4, SOCKS4A, HTTP, BASIC], ids=str)
def test_flow_of_socks4_and_http_has_one_phase(proxy: Proxy) -> None:
    entered: list[Phase] = []
    play(start(proxy, "192.0.2.1", 443, begin_phase=entered.append), b"", least=True)
    assert entered == ["request"]


def test_exchange_repr_of_credentials_shows_no_octets() -> None:
    steps = connecting(USER)
    next(steps)
    credentials = steps.send(b"\x05\x02")
    assert credentials.send == b"\x01\x04user\x04pass"
    assert repr(credentials) == "<Exchange: send 11 octets, read 2>"
    assert str(credentials) == f"{credentials}" == repr(credentials)
