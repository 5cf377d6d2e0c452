"""Cancellation, in every turn of the event loop: nothing is left open, and no peer is lost."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from socksclient.anyio import bind, connect_socket, connect_tcp, udp_associate

from helpers.origin import Origin
from helpers.support import BACKENDS
from helpers.turns import REPLY, Played, cancelled_in_turn, hear, playing, say, speak_tls, ways

DATA = b"data of the peer"


async def close(made: Any) -> None:
    if hasattr(made, "aclose"):
        await made.aclose()
    else:
        made.close()


async def cancel_in_every_turn(
    call: Callable[[], Awaitable[object]], played: Played, *, natively: bool
) -> int:
    """Make the call once for each of its turns, and cancel it there. Return the number of turns."""
    for number in count():
        in_time, results = await cancelled_in_turn(number, call, natively=natively)
        for made in results:
            await close(made)
        await played.wait_until_all_is_closed()
        if not in_time:
            return number
        assert not results, f"it returned although it was cancelled in turn {number}"
    raise AssertionError


@ways
@pytest.mark.parametrize(
    "call",
    [
        partial(connect_socket, "origin.test", 80),
        partial(connect_tcp, "origin.test", 80),
        partial(bind, "0.0.0.0", 0),
        udp_associate,
    ],
    ids=["connect_socket", "connect_tcp", "bind", "udp_associate"],
)
def test_cancellation_closes_new_connection(
    loop: str, natively: bool, call: Callable[..., Awaitable[object]]
) -> None:
    async def main() -> None:
        async with playing() as played:
            made = partial(call, proxy=played.url)
            assert await cancel_in_every_turn(made, played, natively=natively) > 10

    anyio.run(main, **BACKENDS[loop])


@ways
def test_cancellation_closes_connection_in_tls_handshake(
    loop: str, natively: bool, origin: Origin
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    origin.ca.issue_cert("origin.test").configure_cert(context)

    async def tls(stream: ByteStream) -> None:
        await hear(await speak_tls(context, stream), 1)

    async def main() -> None:
        async with playing(tls) as played:
            call = partial(
                connect_tcp,
                "origin.test",
                443,
                proxy=played.url,
                ssl_context=origin.trust(),
                tls_standard_compatible=False,
            )
            assert await cancel_in_every_turn(call, played, natively=natively) > 15

    anyio.run(main, **BACKENDS[loop])


@ways
def test_cancellation_of_accept_keeps_peer(loop: str, natively: bool) -> None:
    async def main() -> None:
        async def second_reply(stream: ByteStream) -> None:
            await peer_comes.wait()
            await say(stream, REPLY)
            await stream.send(DATA)

        async with playing(second_reply) as played:
            for number in count():
                peer_comes = anyio.Event()
                listener = await bind("0.0.0.0", 0, proxy=played.url)
                peer_comes.set()
                in_time, results = await cancelled_in_turn(
                    number, listener.accept, natively=natively
                )
                if in_time:
                    assert not results, f"it returned although cancelled in turn {number}"
                    assert listener.peer_address is None
                    results = [await listener.accept()]
                assert listener.peer_address == ("127.0.0.1", 9)
                [stream] = results
                assert await hear(stream, len(DATA)) == DATA
                await stream.aclose()
                await played.wait_until_all_is_closed()
                if not in_time:
                    break
            assert number > 5

    anyio.run(main, **BACKENDS[loop])


@ways
def test_cancellation_of_accept_then_close(loop: str, natively: bool) -> None:
    async def second_reply(stream: ByteStream) -> None:
        await say(stream, REPLY)

    async def main() -> None:
        async with playing(second_reply) as played:
            for number in count():
                listener = await bind("0.0.0.0", 0, proxy=played.url)
                in_time, results = await cancelled_in_turn(
                    number, listener.accept, natively=natively
                )
                await listener.aclose()
                if not in_time:
                    break
                with pytest.raises(anyio.ClosedResourceError):
                    await listener.accept()
                await played.wait_until_all_is_closed()
            await results[0].aclose()

    anyio.run(main, **BACKENDS[loop])
