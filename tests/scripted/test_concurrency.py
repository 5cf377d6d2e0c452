"""Many at once through one proxy: none lost, none crossed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest

import socksclient.anyio
from socksclient import AsyncSocksTransport, SocksTransport, create_connection
from socksclient.testing import SocksServer

from helpers.origin import Origin
from helpers.support import LONG, Address, assert_echoes


def test_concurrent_connections_in_200_threads(echo_server: Address) -> None:
    ready = threading.Barrier(200)
    with SocksServer(accounts={"user": "pass"}) as server:

        def carry(number: int) -> None:
            ready.wait()
            with create_connection(echo_server, 4 * LONG, proxy=server.url) as sock:
                assert_echoes(sock, f"token {number}".encode() * 100)

        with ThreadPoolExecutor(200) as pool:
            list(pool.map(carry, range(200)))
        assert len(server.requests) == 200


@pytest.mark.anyio
async def test_concurrent_connections_in_1000_tasks(echo_server: Address) -> None:
    connected = 0
    all_connected = anyio.Event()
    carried: set[int] = set()

    with SocksServer(accounts={"user": "pass"}) as server:

        async def carry(number: int) -> None:
            nonlocal connected
            token = f"token {number}".encode() * 100
            stream = await socksclient.anyio.connect_tcp(*echo_server, proxy=server.url)
            async with stream:
                connected += 1
                if connected == 1000:
                    all_connected.set()
                # All tunnels are open at the same time.
                await all_connected.wait()
                await stream.send(token)
                received = b""
                while len(received) < len(token):
                    received += await stream.receive()
                assert received == token
                carried.add(number)

        with anyio.fail_after(4 * LONG):
            async with anyio.create_task_group() as group:
                for number in range(1000):
                    group.start_soon(carry, number)
        assert carried == set(range(1000))
        assert len(server.requests) == 1000


def test_transport_shared_by_threads(origin: Origin) -> None:
    with SocksServer() as server:
        with httpx.Client(transport=SocksTransport(server.url), timeout=LONG) as client:

            def carry(number: int) -> None:
                token = f"token {number}".encode()
                url = f"http://127.0.0.1:{origin.http_port}/echo"
                assert client.post(url, content=token).content == token

            with ThreadPoolExecutor(20) as pool:
                list(pool.map(carry, range(200)))
        assert 1 <= len(server.requests) <= 20


@pytest.mark.anyio
async def test_transport_shared_by_tasks(origin: Origin) -> None:
    with SocksServer() as server:
        transport = AsyncSocksTransport(server.url, verify=origin.trust(), http2=True)
        async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:

            async def carry(number: int) -> None:
                token = f"token {number}".encode()
                url = f"https://localhost:{origin.https_port}/echo"
                assert (await client.post(url, content=token)).content == token

            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(carry, number)
        assert server.requests
