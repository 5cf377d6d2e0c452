"""The awaited classes: tasks, cancellation, and the interfaces of anyio."""

from __future__ import annotations

import gc
import types
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute

from socksclient import AssociationClosed
from socksclient.anyio import ConnectedUDPAssociation, UDPAssociation, udp_associate
from socksclient.testing import Faults, SocksServer

from helpers.support import (
    BACKENDS,
    LONG,
    Address,
    PlayedProxy,
    again_and_again,
    descriptors,
    encode_datagram_header,
    make_room,
    no_room,
    settled_descriptors,
)

pytestmark = pytest.mark.anyio

DESTINATION = ("192.0.2.1", 53)
HEADER = encode_datagram_header(*DESTINATION)
ACCOUNTS = {"user": "pass"}


@pytest.fixture(scope="module", autouse=True)
def every_event_loop_has_run() -> None:
    """Uvloop opens descriptors for the process when it runs for the first time."""
    for options in BACKENDS.values():
        anyio.run(anyio.sleep, 0, **options)


async def associate_with(played: PlayedProxy) -> UDPAssociation:
    udp = await udp_associate(proxy=played.url)
    played.client = udp.extra(SocketAttribute.local_address)  # type: ignore[assignment]
    return udp


async def test_udp_associate_returns_an_anyio_udp_socket(udp_echo: Address) -> None:
    with SocksServer() as server:
        async with await udp_associate(proxy=server.url) as udp:
            assert isinstance(udp, anyio.abc.UDPSocket)
            assert isinstance(udp, UDPAssociation)
            await udp.sendto(b"one", *udp_echo)
            await udp.send((b"two", udp_echo))
            received = []
            async for item in udp:
                received.append(item)
                if len(received) == 2:
                    break
            assert received == [(b"one", udp_echo), (b"two", udp_echo)]
            connected = await udp.connected(*udp_echo)
            assert isinstance(connected, anyio.abc.ConnectedUDPSocket)
            assert isinstance(connected, ConnectedUDPAssociation)
            assert connected.relay_address == udp.relay_address
            await connected.send(b"three")
            async for data in connected:
                assert data == b"three"
                break
            await connected.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await udp.receive()


async def test_receive_returns_two_values_for_an_ipv6_address(udp_echo_6: Address) -> None:
    with SocksServer(host="::1") as server:
        async with await udp_associate(proxy=server.url) as udp:
            await udp.sendto(b"datagram", *udp_echo_6)
            assert await udp.receive() == (b"datagram", udp_echo_6)
            assert len(udp.extra(SocketAttribute.local_address)) == 2


async def test_extra_attributes_of_an_association(udp_echo: Address) -> None:
    with SocksServer() as server:
        async with await udp_associate(proxy=server.url, local_host="127.0.0.1") as udp:
            raw = udp.extra(SocketAttribute.raw_socket)
            for association in (udp, await udp.connected("Name.test", 53)):
                assert association.extra(SocketAttribute.raw_socket) is raw
                # anyio's base classes ask for this attribute.
                assert association._raw_socket is raw
                assert association.extra(SocketAttribute.family) == raw.family
                assert association.extra(SocketAttribute.local_address) == raw.getsockname()
                assert association.extra(SocketAttribute.local_port) == raw.getsockname()[1]
            assert association.extra(SocketAttribute.remote_address) == ("Name.test", 53)
            assert association.extra(SocketAttribute.remote_port) == 53
        async with await udp_associate(proxy=server.url) as udp:
            with pytest.raises(anyio.TypedAttributeLookupError):
                udp.extra(SocketAttribute.remote_address)


@pytest.mark.parametrize(
    "item",
    [
        (b"", ("", 53)),
        (b"", ("two words", 53)),
        (b"", ("192.0.2.1", 0)),
        (b"", ("192.0.2.1", 65536)),
        (b"", ("fe80::1%lo", 53)),
    ],
    ids=lambda item: str(item[1]),
)
async def test_send_and_connected_refuse_an_invalid_destination(
    item: tuple[bytes, Address],
) -> None:
    with SocksServer() as server:
        async with await udp_associate(proxy=server.url) as udp:
            with pytest.raises(ValueError, match=r"^host|^port"):
                await udp.send(item)
            with pytest.raises(ValueError, match=r"^host|^port"):
                await udp.connected(*item[1])


# Other tasks, and cancellation


@types.coroutine
def yields(operation: Awaitable[object]) -> Generator[Any, Any, int]:
    """Return how often an operation lets other tasks run."""
    steps = operation.__await__()
    resume = partial(steps.send, None)
    count = 0
    while True:
        try:
            step = resume()
        except StopIteration:
            return count
        count += 1
        try:
            resume = partial(steps.send, (yield step))
        except BaseException as error:  # noqa: BLE001 - as `yield from` does
            resume = partial(steps.throw, error)


async def assert_is_cancelled(operate: Callable[[], Awaitable[object]]) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await operate()
    assert scope.cancelled_caught


async def test_every_method_is_a_checkpoint(played: PlayedProxy, poll: str) -> None:
    async with await associate_with(played) as udp:
        connected = await udp.connected(*DESTINATION)
        operations: list[Callable[[], Awaitable[object]]] = [
            partial(udp.send, (b"1", DESTINATION)),
            partial(udp.sendto, b"2", *DESTINATION),
            partial(connected.send, b"3"),
            udp.receive,
            connected.receive,
            partial(udp.connected, *DESTINATION),
        ]
        played.say(HEADER, HEADER)
        for operate in operations:
            await assert_is_cancelled(operate)
            assert await yields(operate())
        # The cancelled operations have sent nothing and taken nothing.
        assert [played.hear() for _ in range(3)] == [HEADER + data for data in (b"1", b"2", b"3")]
        played.say(HEADER + b"last")
        assert await udp.receive() == (b"last", DESTINATION)
        for operate in (udp.aclose, connected.aclose):
            assert await yields(operate())
            await assert_is_cancelled(operate)


async def test_aclose_closes_even_if_cancelled() -> None:
    with SocksServer() as server:
        udp = await udp_associate(proxy=server.url)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await udp.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await udp.receive()


async def test_receive_can_be_cancelled(played: PlayedProxy, poll: str) -> None:
    async with await associate_with(played) as udp:
        for _ in range(3):
            with anyio.move_on_after(0.01) as scope:
                await udp.receive()
            assert scope.cancelled_caught
        played.say(HEADER + b"datagram")
        assert await udp.receive() == (b"datagram", DESTINATION)


async def test_receive_by_one_task_at_a_time(played: PlayedProxy, poll: str) -> None:
    async with await associate_with(played) as udp:
        received = []

        async def receive() -> None:
            received.append(await udp.receive())

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await udp.receive()
            played.say(HEADER + b"datagram")
        assert received == [(b"datagram", DESTINATION)]


async def test_send_while_another_task_receives(udp_echo: Address, poll: str) -> None:
    with SocksServer() as server:
        async with await udp_associate(proxy=server.url) as udp:
            received = 0

            async def send() -> None:
                for number in range(100):
                    await udp.sendto(b"%d" % number, *udp_echo)

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                while received < 100:
                    await udp.receive()
                    received += 1


async def test_receive_lets_other_tasks_run_in_a_flood(played: PlayedProxy, poll: str) -> None:
    async with await associate_with(played) as udp:
        with again_and_again(lambda: played.say(b"garbage")):
            async with anyio.create_task_group() as group:
                group.start_soon(udp.receive)
                while udp.dropped < 1000:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()


@pytest.mark.parametrize("waiting", [[], [b"garbage"], [HEADER]], ids=["", "garbage", "datagram"])
@pytest.mark.parametrize("ticks", range(7))
async def test_aclose_by_another_task_at_any_moment(
    played: PlayedProxy, poll: str, ticks: int, waiting: list[bytes]
) -> None:
    udp = await associate_with(played)
    played.say(*waiting)

    async def receive() -> None:
        if HEADER in waiting:
            with suppress(anyio.ClosedResourceError):
                await udp.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await udp.receive()

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        for _ in range(ticks):
            await anyio.lowlevel.checkpoint()
        await udp.aclose()


async def test_association_closed_is_in_no_exception_group(played: PlayedProxy, poll: str) -> None:
    async with await associate_with(played) as udp:
        connected = await udp.connected(*DESTINATION)
        played.end()
        operations: list[Callable[[], Awaitable[Any]]] = [
            udp.receive,
            connected.receive,
            partial(udp.sendto, b"", *DESTINATION),
            partial(connected.send, b""),
        ]
        for operate in operations:
            with pytest.raises(AssociationClosed) as caught:
                await operate()
            assert caught.value.__cause__ is None
        with pytest.raises(AssociationClosed):
            async for _ in udp:
                pass


@pytest.mark.parametrize("local_host", [None, "127.0.0.1"])
async def test_udp_associate_leaves_nothing_open_when_cancelled(local_host: str | None) -> None:
    counts = range(2 + 2 + 10)
    faults = [Faults(stall_after=count) for count in counts]
    held: list[BaseException] = []

    async def associate(url: str) -> None:
        try:
            await udp_associate(proxy=url, local_host=local_host)
        except BaseException as error:
            held.append(error)
            raise

    gc.collect()
    gc.disable()
    with SocksServer(accounts=ACCOUNTS, faults=faults) as server:
        before = settled_descriptors()
        for count in counts:
            async with anyio.create_task_group() as group:
                group.start_soon(associate, server.url)
                seen = server.connections
                while len(seen) <= count or len(seen[count].sent) < count:
                    await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        with anyio.fail_after(LONG):
            while descriptors() > before:
                await anyio.lowlevel.checkpoint()
        assert len(held) == len(counts)
    gc.enable()


# Room for what is sent


async def test_send_waits_for_room() -> None:
    with no_room() as (association, relay):
        async with UDPAssociation(association) as udp:
            async with anyio.create_task_group() as group:
                group.start_soon(udp.sendto, b"datagram", *DESTINATION)
                await anyio.wait_all_tasks_blocked()
                assert await anyio.to_thread.run_sync(make_room, relay) == HEADER + b"datagram"


async def test_send_that_waits_for_room_can_be_cancelled() -> None:
    contexts: list[BaseException | None] = []

    async def send() -> None:
        try:
            await udp.sendto(b"lost", *DESTINATION)
        except anyio.get_cancelled_exc_class() as error:
            contexts.append(error.__context__)
            raise

    with no_room() as (association, relay):
        async with UDPAssociation(association) as udp:
            async with anyio.create_task_group() as group:
                group.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            assert not isinstance(contexts.pop(), BlockingIOError)
            relay.recv(1)
            await udp.sendto(b"datagram", *DESTINATION)
            assert make_room(relay) == HEADER + b"datagram"


async def test_aclose_wakes_a_send_that_waits_for_room() -> None:
    with no_room() as (association, _):
        udp = UDPAssociation(association)

        async def send() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await udp.sendto(b"lost", *DESTINATION)

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await udp.aclose()


async def test_association_carries_20_000_datagrams(udp_echo: Address) -> None:
    with SocksServer() as server:
        async with await udp_associate(proxy=server.url) as udp:
            for first in range(0, 20_000, 64):
                window = [number.to_bytes(4, "big") for number in range(first, first + 64)]
                for payload in window:
                    await udp.sendto(payload, *udp_echo)
                received = [await udp.receive() for _ in window]
                assert received == [(payload, udp_echo) for payload in window]
            assert udp.dropped == 0
