"""The lines of the log, the observer, and the place of errors after the way is open."""

from __future__ import annotations

import logging
import time

import pytest

from socksclient import Proxy, ProxyTimeout, SocksError
from socksclient._net.log import log, placed, report_to
from socksclient.protocol import Command
from socksclient.protocol.route import NOT_KNOWN, Route
from socksclient.protocol.steps import Event

NEAR = Proxy("near.test", username="us3r", password="p4ss")
FAR = Proxy("far.test", scheme="http")
ONE = Route.through((NEAR,), "g.test", 80)
TWO = Route.through((NEAR, FAR), "::1", 80)
NOTE = Event(0, "connect", "note", note="connect")
SENT = Event(0, "authentication", "sent", b"p4ss", is_secret=True)


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "socksclient")
    return caplog


@pytest.mark.parametrize(
    ("route", "hop", "text"),
    [
        (ONE, 0, "g.test:80 via socks5h://***@near.test:1080: connect"),
        (TWO, 0, "[::1]:80 via hop 0, socks5h://***@near.test:1080: connect"),
        (TWO, 1, "[::1]:80 via hop 1, http://far.test:80: connect"),
        (
            Route.through((NEAR,), "g.test", 80, Command.BIND),
            0,
            "BIND g.test:80 via socks5h://***@near.test:1080: connect",
        ),
        (
            Route.through((NEAR,), *NOT_KNOWN, Command.UDP_ASSOCIATE),
            0,
            "UDP ASSOCIATE via socks5h://***@near.test:1080: connect",
        ),
    ],
)
def test_log_line_names_the_destination_and_the_hop(
    debug: pytest.LogCaptureFixture, route: Route, hop: int, text: str
) -> None:
    log(route, hop, "connect")
    assert debug.messages == [text]
    assert [(record.name, record.levelname) for record in debug.records] == [
        ("socksclient", "DEBUG")
    ]


def test_log_writes_nothing_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "socksclient")
    log(ONE, 0, "connect")
    assert caplog.records == []


def test_report_to_is_none_if_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "socksclient")
    assert report_to(ONE, None) is None


def test_report_to_writes_notes_and_no_octets_to_the_log(debug: pytest.LogCaptureFixture) -> None:
    report = report_to(ONE, None)
    assert report is not None
    report(NOTE)
    report(SENT)
    assert debug.messages == ["g.test:80 via socks5h://***@near.test:1080: connect"]


def test_report_to_calls_the_observer_with_the_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "socksclient")
    observed: list[tuple[Event, float]] = []
    report = report_to(ONE, lambda event, at: observed.append((event, at)))
    assert report is not None
    begin = time.monotonic()
    report(NOTE)
    report(SENT)
    assert [event for event, _ in observed] == [NOTE, SENT]
    times = [at for _, at in observed]
    assert begin <= times[0] <= times[1] <= time.monotonic()
    assert caplog.records == []


def test_placed_lets_a_result_pass(debug: pytest.LogCaptureFixture) -> None:
    with placed(ONE, "relay"):
        pass
    assert debug.records == []


@pytest.mark.parametrize(("given", "hop", "proxy"), [(-1, 1, FAR), (1, 1, FAR), (0, 0, NEAR)])
def test_placed_adds_the_place_and_logs_the_failure(
    debug: pytest.LogCaptureFixture, given: int, hop: int, proxy: Proxy
) -> None:
    error = SocksError("broken")
    with pytest.raises(SocksError) as caught, placed(TWO, "relay", given):
        raise error
    assert caught.value is error
    assert (error.proxy, error.hop, error.phase) == (proxy, hop, "relay")
    assert error.destination == ("::1", 80)
    assert debug.messages == [f"[::1]:80 via hop {hop}, {proxy}: failed: broken"]


def test_placed_leaves_an_error_that_has_its_place_already(
    debug: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SocksError) as caught, placed(TWO, "relay"), placed(TWO, "request", 0):
        raise SocksError("broken")
    assert (caught.value.hop, caught.value.phase) == (0, "request")
    assert debug.messages == [f"[::1]:80 via hop 0, {NEAR}: failed: broken"]


def test_placed_turns_the_deadline_into_a_proxytimeout() -> None:
    with pytest.raises(ProxyTimeout) as caught, placed(ONE, "request"):
        raise TimeoutError
    assert (caught.value.phase, caught.value.proxy) == ("request", NEAR)


def test_placed_logs_no_text_of_an_error_that_is_not_ours(
    debug: pytest.LogCaptureFixture,
) -> None:
    # A user's method may put a password into the text of its error.
    error = ValueError("p4ss")
    with pytest.raises(ValueError, match="p4ss") as caught, placed(ONE, "authentication"):
        raise error
    assert caught.value is error
    assert debug.records == []
