#!/bin/sh
# urllib3's SSLTransport carries TLS within TLS once, and not twice: over another SSLTransport it
# sends and receives, but its makefile(), which http.client needs for a response, raises an
# AttributeError.
#
# Seen on 2026-11-27 with urllib3 2.8.0, anyio 4.16.0, trustme 1.2.1 and CPython 3.11. There is no
# proxy in it: a server on loopback speaks TLS within TLS within TLS, as the end of a connection
# through two HTTPS proxies does, and echoes what it receives in the innermost one. The client makes
# an ssl.SSLSocket, an SSLTransport over that, and a second SSLTransport over the first.
#
#   1 SSLTransport: echo b'hello', makefile works
#   2 SSLTransports: echo b'hello', makefile raises AttributeError ('SSLTransport' object has no
#     attribute '_io_refs')
#
# So a client can go through two proxies with TLS to plain HTTP, but not to HTTPS.
# Exits 0 if that is still so, and 1 if it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
  urllib3==2.8.0 anyio==4.16.0 trustme==1.2.1
"$folder/bin/python" - <<'PYTHON'
import socket
import ssl
import sys
import threading

import anyio
import trustme
from anyio.streams.tls import TLSStream
from urllib3.util.ssltransport import SSLTransport

ca = trustme.CA()
server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ca.issue_cert("localhost").configure_cert(server_context)
client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ca.configure_trust(client_context)
addresses = {}
ready = threading.Event()


def handler(layers):
    async def answer(stream):
        for _ in range(layers):
            stream = await TLSStream.wrap(
                stream, server_side=True, ssl_context=server_context, standard_compatible=False
            )
        async with stream:
            try:
                while True:
                    await stream.send(await stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    return answer


async def serve():
    async with anyio.create_task_group() as group:
        for layers in (2, 3):
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            addresses[layers] = listener.extra(anyio.abc.SocketAttribute.local_address)
            group.start_soon(listener.serve, handler(layers))
        ready.set()


threading.Thread(target=anyio.run, args=(serve,), daemon=True).start()
ready.wait()
ends = []
for layers in (2, 3):
    sock = client_context.wrap_socket(
        socket.create_connection(addresses[layers], 30), server_hostname="localhost"
    )
    for _ in range(layers - 1):
        sock = SSLTransport(sock, client_context, "localhost")
    sock.sendall(b"hello")
    echo = sock.recv(5)
    try:
        sock.makefile("rb")
        end = "makefile works"
    except AttributeError as error:
        end = f"makefile raises AttributeError ({error})"
    print(f"{layers - 1} SSLTransport(s): echo {echo!r}, {end}")
    ends.append((echo, end.split(" (")[0]))
expected = [(b"hello", "makefile works"), (b"hello", "makefile raises AttributeError")]
sys.exit(ends != expected)
PYTHON
