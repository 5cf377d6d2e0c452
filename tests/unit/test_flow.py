"""The steps of a flow, and how a driver says that the connection has ended."""

from __future__ import annotations

import ssl
import traceback

import pytest

from socksclient import ProxyClosed
from socksclient.protocol import ConnectionEnded, Exchange, Method, Proxy, start
from socksclient.protocol.flow import Flow


def negotiate_nothing_well(proxy: Proxy) -> Flow[None]:
    """Do not catch ConnectionEnded, as a method of a user's own may not."""
    yield Exchange(b"token", 3)


TOKEN = Proxy("h", methods=(Method(0x80, negotiate_nothing_well),))


def test_a_step_does_not_show_its_octets() -> None:
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
def test_steps_with_credentials_are_marked(
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


def a_step_of(proxy: Proxy, answer: bytes = b"") -> Flow[tuple[str, int]]:
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
def test_a_hang_up_is_worded_by_the_flow(
    proxy: Proxy, answer: bytes, error: BaseException | None
) -> None:
    flow = a_step_of(proxy, answer)
    with pytest.raises(ProxyClosed, match=r"hung up before it had answered: got 1 ") as caught:
        flow.throw(ConnectionEnded(b"\x05", error))
    assert caught.value.__cause__ is error
    assert caught.value.received == b"\x05"


@pytest.mark.parametrize(("proxy", "answer"), FLOWS)
def test_a_broken_connection_is_worded_by_the_flow(proxy: Proxy, answer: bytes) -> None:
    flow = a_step_of(proxy, answer)
    error = ssl.SSLError(1, "bad record mac")
    ended = ConnectionEnded(b"\x05", error)
    assert ended.broken_by is error
    with pytest.raises(ProxyClosed, match="connection to the proxy broke: bad record mac"):
        flow.throw(ended)


@pytest.mark.parametrize(("proxy", "answer"), FLOWS)
def test_another_error_of_a_driver_passes_as_it_is(proxy: Proxy, answer: bytes) -> None:
    for error in (TimeoutError(), OSError(5, "no luck"), KeyError("mine")):
        with pytest.raises(type(error)) as caught:
            a_step_of(proxy, answer).throw(error)
        assert caught.value is error


def test_what_came_before_the_end_is_in_no_text() -> None:
    octets = b"s3cret"
    ended = ConnectionEnded(octets, ConnectionResetError())
    assert (ended.received, ended.broken_by) == (octets, None)
    assert str(ended) == "the connection ended after 6 octets"
    assert "s3cret" not in "".join(traceback.format_exception(ended)) + repr(ended)
