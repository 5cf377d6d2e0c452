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
def test_reply_with_each_form_of_bound_address(
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
def test_reply_with_data_in_one_segment(
    dial: Dial, greeter: Address, bound_address: Address, split: bool
) -> None:
    faults = Faults(bound_address=bound_address, reply_with_data=True, split=split)
    with SocksServer(faults=faults) as server, dial(greeter, proxy=server.url) as sock:
        assert receive_exactly(sock, len(GREETING)) == GREETING
        assert_echoes(sock)


def test_reply_with_nonzero_rsv(dial: Dial, echo_server: Address) -> None:
    faults = Faults(answers={"request": bytes.fromhex("0500ff01000000000000")})
    with SocksServer(faults=faults) as server, dial(echo_server, proxy=server.url) as sock:
        assert_echoes(sock)


@pytest.mark.parametrize("answer", ["0505", "050500", "05050001", "05050001000000000000", "0505ff"])
@pytest.mark.parametrize("split", [False, True])
def test_refusal_needs_only_rep(dial: Dial, echo_server: Address, answer: str, split: bool) -> None:
    octets = bytes.fromhex(answer)
    faults = Faults(answers={"request": octets}, stall_after=2 + len(octets), split=split)
    with SocksServer(faults=faults) as server:
        with pytest.raises(ReplyError) as caught:
            dial(echo_server, proxy=server.url)
        assert caught.value.reply == 0x05


def test_no_acceptable_method_with_more_octets(dial: Dial, echo_server: Address) -> None:
    faults = Faults(answers={"method selection": bytes.fromhex("05ff0001000000000000")})
    with SocksServer(faults=faults) as server, pytest.raises(AuthenticationError):
        dial(echo_server, proxy=server.url)
