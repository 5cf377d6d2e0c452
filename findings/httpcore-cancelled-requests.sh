#!/bin/sh
# httpcore 1.0.9 loses a place in its connection pool for good when a request is cancelled in
# certain turns of the event loop; httpcore2 2.16.2, in the same turns, does not.
#
# Seen on 2026-11-27 with httpx 0.28.1, httpcore 1.0.9, httpx2 2.16.2, httpcore2 2.16.2,
# anyio 4.16.0 and CPython 3.11. There is no proxy in it: a plain HTTP server on loopback, and a
# client that may have one connection. One request is cancelled in turn 0, 1, 2 … of the event
# loop, each time with a new client; then another request asks for the one place.
#
#   httpx waiting, by a scope: lost         the request waits for the place of another one, whose
#                                           connection ends, and gets it in the turn in which it
#                                           is cancelled
#   httpx first, by Task.cancel: lost       the request has its connection, and is cancelled before
#                                           the connection counts as in use, or as it ends
#   httpx2 …: kept
#
# Exits 0 if that is still so, and 1 if it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
  httpx==0.28.1 httpcore==1.0.9 httpx2==2.16.2 httpcore2==2.16.2 anyio==4.16.0
exec "$folder/bin/python" - <<'PYTHON'
import asyncio
import sys
from contextlib import suppress

import anyio
import httpx
import httpx2


async def answer(stream):
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        async with stream:
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                received += await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")


async def turns_that_lose_a_place(library, waiting, natively):
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        lost = []
        turn = 0
        while await is_cancelled(library, url, waiting, natively, turn, lost):
            turn += 1
        group.cancel_scope.cancel()
    return lost


async def is_cancelled(library, url, waiting, natively, turn, lost):
    limits = library.Limits(max_connections=1)
    answers = []

    async def fetch():
        answers.append(await client.get(url))

    async with library.AsyncClient(limits=limits, trust_env=False) as client:
        async with anyio.create_task_group() as others:
            if waiting:
                others.start_soon(client.get, url)
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as doomed:
                if natively:
                    task = asyncio.ensure_future(fetch())
                else:
                    doomed.start_soon(fetch)
                for _ in range(turn):
                    await anyio.lowlevel.checkpoint()
                in_time = not answers
                if natively:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                else:
                    doomed.cancel_scope.cancel()
        try:
            await client.get(url, timeout=library.Timeout(10, pool=0.5))
        except library.PoolTimeout:
            lost.append(turn)
    return in_time


same = True
for library in (httpx, httpx2):
    for waiting, natively in ((True, False), (False, True)):
        lost = asyncio.run(turns_that_lose_a_place(library, waiting, natively))
        what = "waiting, by a scope" if waiting else "first, by Task.cancel"
        print(f"{library.__name__} {what}: {f'lost in turns {lost}' if lost else 'kept'}")
        same = same and bool(lost) == (library is httpx)
sys.exit(not same)
PYTHON
