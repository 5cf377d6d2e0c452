#!/usr/bin/env bash
# Since dnspython 2.8, dns.query.xfr(use_udp=True) and inbound_xfr(udp_mode=...) test isinstance(s, socket.socket) to tell UDP from TCP.
# So an object from `dns.query.socket_factory` that works like a UDP socket, with a `type` of SOCK_DGRAM, is sent the query in TCP's
# form: a datagram that begins with a length of two octets. A name server does not understand it, and the transfer times out. In 2.7, only
# `type` decided.
#
# Seen on 2026-11-27, with Python 3.11.7 on Linux:
#   dnspython 2.7.0: a bare message
#   dnspython 2.9.2: a length before the message
#
# Exit status: 0 if it is still the same, 1 if it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/see.py" <<'PYTHON'
import socket

import dns.exception
import dns.query
import dns.version


class LikeASocket:
    """Hands all on to a UDP socket."""

    def __init__(self):
        self._sock = socket.socket(type=socket.SOCK_DGRAM)
        self.type = socket.SOCK_DGRAM

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._sock.close()


with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0))
    server.settimeout(10)
    dns.query.socket_factory = lambda *_: LikeASocket()
    arguments = {"port": server.getsockname()[1], "use_udp": True, "lifetime": 0.5}
    try:
        list(dns.query.xfr("127.0.0.1", "zone.example", "IXFR", **arguments))
    except dns.exception.Timeout:
        pass
    query = server.recv(1000)
framed = int.from_bytes(query[:2], "big") == len(query) - 2
print(f"dnspython {dns.version.version}:", "a length before the message" if framed else "a bare message")
PYTHON
python3 -m venv "$folder/venv"
for version in 2.7.0 2.9.2; do
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "dnspython==$version"
  "$folder/venv/bin/python" "$folder/see.py"
done | tee "$folder/seen"
printf '%s\n' "dnspython 2.7.0: a bare message" "dnspython 2.9.2: a length before the message" | cmp -s - "$folder/seen"
