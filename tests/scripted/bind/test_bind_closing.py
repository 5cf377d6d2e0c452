"""Listeners at a proxy are closed, cancelled and used as contexts."""

from __future__ import annotations

import errno
import socket
from functools import partial

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute

import socksclient
import socksclient.anyio
from socksclient.testing import Faults, SocksServer

from helpers.listeners import (
    ACCOUNTS,
    ANYONE,
    DATA,
    NOBODY,
    Bind,
    ScriptedProxy,
    assert_carries,
    refuses,
)
from helpers.support import (
    LONG,
    eventually,
    nothing_left_open,
    open_first_stream,
    receive_exactly,
)


class TestClose:
    def test_close_ends_listening_of_proxy(self, bind: Bind, proxy: str) -> None:
        with nothing_left_open():
            listener = bind(ANYONE, proxy=proxy)
            listener.close()
        assert eventually(partial(refuses, listener.address))
        listener.assert_accepts_no_more(errno.EBADF)

    def test_close_by_context_manager(self) -> None:
        with SocksServer() as server:
            with nothing_left_open():
                with pytest.raises(ZeroDivisionError):
                    with socksclient.bind(ANYONE, proxy=server.url) as listener:
                        assert listener.fileno() / 0
                assert listener.fileno() == -1
            assert eventually(partial(refuses, listener.address))

    def test_close_twice(self, bind: Bind) -> None:
        with SocksServer() as server:
            listener = bind(ANYONE, proxy=server.url)
            for _ in range(3):
                listener.close()
            listener.assert_accepts_no_more(errno.EBADF)

    def test_close_leaves_accepted_connection_open(self, bind: Bind, proxy: str) -> None:
        listener = bind(ANYONE, proxy=proxy)
        with socket.create_connection(listener.address, 10) as peer:
            connection = listener.accept()
            for _ in range(2):
                listener.close()
            assert_carries(connection, peer)

    def test_close_by_context_manager_leaves_accepted_connection_open(self) -> None:
        with SocksServer() as server:
            with socksclient.bind(ANYONE, proxy=server.url) as listener:
                peer = socket.create_connection(listener.address)
                sock, _ = listener.accept()
            with peer, sock:
                sock.sendall(DATA)
                assert receive_exactly(peer, len(DATA)) == DATA


@pytest.mark.anyio
class TestAwaitedListener:
    async def test_aclose_by_context_manager_leaves_accepted_stream_open(self) -> None:
        with SocksServer() as server:
            async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                peer = socket.create_connection(listener.address)
                stream = await listener.accept()
            async with stream:
                with peer:
                    assert listener.peer_address == peer.getsockname()
                    await stream.send(DATA)
                    assert receive_exactly(peer, len(DATA)) == DATA

    async def test_accepted_stream_is_like_that_of_connect_tcp(self) -> None:
        with SocksServer() as server:
            async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                with socket.create_connection(listener.address):
                    async with await listener.accept() as stream:
                        assert stream.extra(SocketAttribute.remote_address) == server.address
                        sock = stream.extra(SocketAttribute.raw_socket)
                        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    @pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
    async def test_accept_after_cancellation_loses_no_octet(self, count: int) -> None:
        with ScriptedProxy() as proxy:
            async with await socksclient.anyio.bind(*NOBODY, proxy=proxy.url) as listener:
                proxy.say(proxy.SECOND_REPLY[:count])
                async with anyio.create_task_group() as group:
                    group.start_soon(listener.accept)
                    await anyio.wait_all_tasks_blocked()
                    group.cancel_scope.cancel()
                proxy.say(proxy.SECOND_REPLY[count:] + DATA)
                async with await listener.accept() as stream:
                    assert listener.peer_address == NOBODY
                    assert await stream.receive() == DATA

    async def test_accept_in_cancelled_scope_does_not_begin(self) -> None:
        with ScriptedProxy() as proxy:
            async with await socksclient.anyio.bind(*NOBODY, proxy=proxy.url) as listener:
                proxy.say(proxy.SECOND_REPLY)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await listener.accept()
                assert scope.cancelled_caught
                await (await listener.accept()).aclose()

    @pytest.mark.parametrize("count", [0, 2, 4, 13])
    async def test_bind_cancellation_leaves_nothing_open(self, count: int) -> None:
        faults = Faults(stall_after=count)
        with SocksServer(accounts=ACCOUNTS, faults=faults) as server, nothing_left_open():
            async with anyio.create_task_group() as group:
                group.start_soon(partial(socksclient.anyio.bind, *NOBODY, proxy=server.url))
                while not server.connections or len(server.connections[0].sent) < count:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()

    @pytest.mark.parametrize("turns", range(5))
    async def test_aclose_wakes_accept_although_octets_have_just_come(self, turns: int) -> None:
        with ScriptedProxy() as proxy, anyio.fail_after(LONG):
            listener = await socksclient.anyio.bind(*NOBODY, proxy=proxy.url)
            async with anyio.create_task_group() as group:
                group.start_soon(self.wait_in_vain, listener)
                await anyio.wait_all_tasks_blocked()
                proxy.say(proxy.SECOND_REPLY[:6])
                # In one of these turns, the event loop wakes the task that waits for the peer.
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await listener.aclose()

    async def wait_in_vain(self, listener: socksclient.anyio.Listener) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await listener.accept()

    @pytest.mark.parametrize("cancelled", [False, True])
    async def test_aclose_by_context_manager(self, cancelled: bool) -> None:
        await open_first_stream()
        with SocksServer() as server:
            with nothing_left_open(), anyio.CancelScope() as scope:
                async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                    if cancelled:
                        scope.cancel()
            assert eventually(partial(refuses, listener.address))

    @pytest.mark.parametrize(
        "peer_is_there", [False, True], ids=["", "when the peer has just come"]
    )
    async def test_accept_in_two_tasks_is_refused(self, peer_is_there: bool) -> None:
        outcomes: list[object] = []

        async def accept() -> None:
            try:
                async with await listener.accept() as stream:
                    outcomes.append(await stream.receive())
            except (anyio.BusyResourceError, anyio.ClosedResourceError):
                outcomes.append("refused")

        with ScriptedProxy() as proxy, anyio.fail_after(LONG):
            async with await socksclient.anyio.bind(*NOBODY, proxy=proxy.url) as listener:
                async with anyio.create_task_group() as group:
                    group.start_soon(accept)
                    await anyio.wait_all_tasks_blocked()
                    if peer_is_there:
                        proxy.say(proxy.SECOND_REPLY + DATA)
                        await accept()
                    else:
                        await accept()
                        assert outcomes == ["refused"]
                        proxy.say(proxy.SECOND_REPLY + DATA)
        assert set(outcomes) == {DATA, "refused"}

    async def test_accepted_stream_after_reset(self) -> None:
        with SocksServer(faults=Faults(reset_after=22)) as server:
            async with await socksclient.anyio.bind(*ANYONE, proxy=server.url) as listener:
                with socket.create_connection(listener.address):
                    async with await listener.accept() as stream:
                        with pytest.raises(anyio.BrokenResourceError):
                            await stream.receive()
