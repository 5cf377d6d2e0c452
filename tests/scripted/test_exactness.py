"""Replies whole, in pieces, or with more behind them: nothing over-read, nothing lost."""

from __future__ import annotations

import pytest

from socksclient import AuthenticationError, ReplyError
from socksclient.testing import Faults, SocksServer

from helpers.support import GREETING, Address, Dial, assert_echoes, receive_exactly

ACCOUNTS = {"user": "pass"}


@pytest.mark.parametrize("accounts", [None, ACCOUNTS], ids=["no authentication", "password"])
@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(split=True),
        Faults(bound_address=("2001:db8::1", 8080)),
        Faults(bound_address=("2001:db8::1", 8080), split=True),
        *(Faults(bound_address=("n" * size, 80)) for size in (0, 1, 2, 3, 254, 255)),
        Faults(bound_address=("name.example", 80), split=True),
        Faults(bound_address=("", 80), split=True),
    ],
    ids=str,
)
def test_replies_of_every_form_are_read_exactly(
    dial: Dial, greeter: Address, faults: Faults, accounts: dict[str, str] | None
) -> None:
    with (
        SocksServer(accounts=accounts, faults=faults) as server,
        dial(greeter, proxy=server.url) as sock,
    ):
        assert receive_exactly(sock, len(GREETING)) == GREETING
        assert_echoes(sock)


@pytest.mark.parametrize(
    "bound_address", [("0.0.0.0", 0), ("2001:db8::1", 8080), ("", 80), ("n" * 255, 80)]
)
@pytest.mark.parametrize("split", [False, True])
def test_what_comes_in_the_segment_of_the_reply_is_left_in_the_socket(
    dial: Dial, greeter: Address, bound_address: Address, split: bool
) -> None:
    faults = Faults(bound_address=bound_address, reply_with_data=True, split=split)
    with SocksServer(faults=faults) as server, dial(greeter, proxy=server.url) as sock:
        assert receive_exactly(sock, len(GREETING)) == GREETING
        assert_echoes(sock)


def test_rsv_other_than_zero_is_tolerated(dial: Dial, echo_server: Address) -> None:
    faults = Faults(answers={"request": bytes.fromhex("0500ff01000000000000")})
    with SocksServer(faults=faults) as server, dial(echo_server, proxy=server.url) as sock:
        assert_echoes(sock)


@pytest.mark.parametrize("answer", ["0505", "050500", "05050001", "05050001000000000000", "0505ff"])
@pytest.mark.parametrize("split", [False, True])
def test_a_failure_is_known_as_soon_as_rep_is(
    dial: Dial, echo_server: Address, answer: str, split: bool
) -> None:
    octets = bytes.fromhex(answer)
    faults = Faults(answers={"request": octets}, stall_after=2 + len(octets), split=split)
    with SocksServer(faults=faults) as server:
        with pytest.raises(ReplyError) as caught:
            dial(echo_server, proxy=server.url)
        assert caught.value.reply == 0x05


def test_none_acceptable_may_have_more_octets_behind_it(dial: Dial, echo_server: Address) -> None:
    faults = Faults(answers={"method selection": bytes.fromhex("05ff0001000000000000")})
    with SocksServer(faults=faults) as server, pytest.raises(AuthenticationError):
        dial(echo_server, proxy=server.url)
