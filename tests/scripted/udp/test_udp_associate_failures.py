"""`udp_associate` fails: the errors, and that no socket stays open."""

from __future__ import annotations

import pytest

from socksclient import (
    ProxyClosed,
    Reply,
    ReplyError,
    SocksError,
)
from socksclient.testing import Faults, SocksServer

from helpers.associations import (
    SOON,
    Associate,
)
from helpers.support import (
    REFUSED_PORT,
    Address,
    nothing_left_open,
)


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (Faults(reply=0x07), ReplyError),
        (Faults(close_after=2), ProxyClosed),
        (Faults(reset_after=2), ProxyClosed),
    ],
    ids=str,
)
def test_udp_associate_with_a_proxy_that_does_not_offer_it(
    associate: Associate, faults: Faults, error: type[ReplyError | ProxyClosed]
) -> None:
    with SocksServer(faults=faults) as server:
        with pytest.raises(error, match="not offer UDP ASSOCIATE") as caught:
            associate(server.url)
        assert caught.type is error
        assert caught.value.phase == "request"
        assert caught.value.destination is None
        if isinstance(caught.value, ReplyError):
            assert caught.value.reply == Reply.COMMAND_NOT_SUPPORTED


ACCOUNTS = {"user": "pass"}

WHOLE_HANDSHAKE = 2 + 2 + 10


@pytest.mark.parametrize("local_address", [None, ("127.0.0.1", 0)], ids=["", "bound"])
def test_udp_associate_leaves_nothing_open_after_a_failure(
    associate: Associate, local_address: Address | None
) -> None:
    faults = [
        *(Faults(close_after=count) for count in range(WHOLE_HANDSHAKE)),
        *(Faults(reset_after=count) for count in range(0, WHOLE_HANDSHAKE, 2)),
        Faults(reply=0x01),
        Faults(status=0x01),
        Faults(method=0xFF),
    ]
    held = []
    with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
        unreachable = f"socks5h://127.0.0.1:{REFUSED_PORT}"
        with nothing_left_open():
            for url in [*(server.url for _ in faults), unreachable]:
                with pytest.raises(SocksError) as caught:
                    associate(url, local_address=local_address)
                held.append(caught)
        assert len(server.connections) == len(faults)


@pytest.mark.parametrize("local_address", [None, ("127.0.0.1", 0)], ids=["", "bound"])
def test_udp_associate_leaves_nothing_open_after_a_timeout(
    associate: Associate, local_address: Address | None
) -> None:
    faults = [Faults(stall_after=count) for count in range(WHOLE_HANDSHAKE)]
    held = []
    with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
        for _ in faults:
            with pytest.raises(TimeoutError) as caught:
                associate(server.url, local_address=local_address, timeout=SOON)
            held.append(caught)
