#!/bin/sh
# dnspython 2.9.2 keeps using the first event loop that it has detected in a process.
#
# Seen on 2026-11-27 with dnspython 2.9.2, trio 0.35.0, sniffio 1.3.1, CPython 3.11.7.
# dns.asyncquery.udp without backend= detects the event loop once, and keeps it as its default. So after
# asyncio.run, the same query under trio.run fails with a RuntimeError of asyncio. dns.asyncquery.https
# has no backend= at all. To avoid this, call dns.asyncbackend.set_default_backend("trio") first.
# Output seen:
#   asyncio: NOERROR
#   trio: RuntimeError: no running event loop
#   trio, told so: NOERROR
# Exit status: 0 if it is still the same, 1 if it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet dnspython==2.9.2 trio==0.35.0 sniffio==1.3.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import platform
import socket
import sys
import threading
from importlib.metadata import version

import dns.asyncbackend
import dns.asyncquery
import dns.message
import dns.rcode
import trio

print("CPython", platform.python_version(), *(f"{name} {version(name)}" for name in ("dnspython", "trio")))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))


def answer() -> None:
    while True:
        octets, client = server.recvfrom(4096)
        response = dns.message.make_response(dns.message.from_wire(octets))
        server.sendto(response.to_wire(), client)


async def ask() -> str:
    query = dns.message.make_query("example.com", "A")
    response = await dns.asyncquery.udp(query, "127.0.0.1", 5, server.getsockname()[1])
    return dns.rcode.to_text(response.rcode())


def told(run) -> str:
    try:
        return run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


threading.Thread(target=answer, daemon=True).start()
seen = [told(lambda: asyncio.run(ask())), told(lambda: trio.run(ask))]
dns.asyncbackend.set_default_backend("trio")
seen.append(told(lambda: trio.run(ask)))
for name, result in zip(("asyncio", "trio", "trio, told so"), seen):
    print(f"{name}: {result}")
sys.exit(seen != ["NOERROR", "RuntimeError: no running event loop", "NOERROR"])
PYTHON
