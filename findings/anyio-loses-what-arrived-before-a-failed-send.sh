#!/bin/sh
# On asyncio, an anyio stream loses what its peer said before the peer reset the connection, when a
# send has failed meanwhile. On trio, and with a plain socket, it can still be received.
#
# Seen on 2026-11-27 with anyio 4.16.0, trio 0.35.0, uvloop 0.23.0 and CPython 3.11. A server on
# loopback reads one octet of a long message, answers "too large" and resets the connection. The
# answer has arrived before the client's send fails, for TCP keeps the order. Then the client
# receives:
#
#   asyncio  BrokenResourceError
#   uvloop   BrokenResourceError
#   trio     b'too large'
#
# The stream pauses the reading of asyncio's transport between two receives. A failed write closes
# that transport, with what the system has received for it.
#
# Exits 0 if that is still so, and 1 if it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
  anyio==4.16.0 trio==0.35.0 uvloop==0.23.0
"$folder/bin/python" - <<'PYTHON'
import socket
import struct
import sys
import threading

import anyio


def serve(listener):
    conn, _ = listener.accept()
    with conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.sendall(b"hello")
        conn.recv(1)
        conn.sendall(b"too large")
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def send_and_receive():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        async with await anyio.connect_tcp(*listener.getsockname()) as stream:
            await stream.receive()
            try:
                await stream.send(bytes(20_000_000))
            except anyio.BrokenResourceError:
                pass
            try:
                received = repr(await stream.receive())
            except anyio.BrokenResourceError as error:
                received = type(error).__name__
        thread.join()
        return received


LOOPS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
seen = {name: anyio.run(send_and_receive, **options) for name, options in LOOPS.items()}
for name, received in seen.items():
    print(f"{name:8} {received}")
lost = "BrokenResourceError"
sys.exit(seen != {"asyncio": lost, "uvloop": lost, "trio": repr(b"too large")})
PYTHON
