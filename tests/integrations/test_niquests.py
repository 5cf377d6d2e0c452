"""`socksclient.requests` with urllib3-future, by which niquests replaces urllib3.

requests works with urllib3-future, and then sends HTTP/2. The script runs in a venv with niquests.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import socksclient
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.http_clients import routes_to
from helpers.origin import Origin, digest
from helpers.support import needs

pytestmark = needs(real_servers.missing([real_servers.NIQUESTS_PYTHON]))

SIZE = 3_000_000

SCRIPT = """
import hashlib, json, socket, ssl, sys

import requests, urllib3
from socksclient import Proxy
from socksclient.requests import Session

proxies, authority, *urls = sys.argv[1:]
touched = set()

def audit(event, args):
    if event == "socket.connect":
        touched.add(args[1][:2])
    elif event in ("socket.getaddrinfo", "socket.sendto", "socket.sendmsg"):
        touched.add(event)

def told(session, url):
    try:
        with session.get(url, verify=authority, timeout=10, stream=True) as response:
            connection = response.raw.connection
            assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            return {
                "status": response.status_code,
                "version": response.raw.version,
                "sha256": hashlib.sha256(response.content).hexdigest(),
            }
    except requests.RequestException as error:
        return [type(error).__name__, type(error.__cause__).__name__]

chain = []
for url in proxies.split():
    context = ssl.create_default_context(cafile=authority) if "+tls" in url else None
    chain.append(Proxy.from_url(url, tls=context))
options = urllib3.connection.HTTPConnection.default_socket_options
assert any(len(option) == 4 for option in options), f"urllib3 {urllib3.__version__} is in its place"
sys.addaudithook(audit)
with Session(chain) as session:
    answers = [told(session, url) for url in urls]
print(json.dumps({"answers": answers, "touched": list(touched)}))
"""


@pytest.fixture
def server(origin: Origin) -> Iterator[SocksServer]:
    with SocksServer(routes=routes_to(origin)) as server:
        yield server


@pytest.fixture
def tls_server(origin: Origin) -> Iterator[SocksServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    origin.ca.issue_cert("127.0.0.1").configure_cert(context)
    with SocksServer(routes=routes_to(origin), tls=context) as server:
        yield server


@pytest.fixture
def get(origin: Origin, tmp_path: Path) -> Any:
    """Return a function that gets URLs in one session, and checks where the session connects."""
    authority = tmp_path / "ca.pem"
    origin.ca.cert_pem.write_to_path(str(authority))

    def get(proxies: list[SocksServer], *urls: str) -> list[Any]:
        run = subprocess.run(
            [
                *(real_servers.NIQUESTS_PYTHON, "-c", SCRIPT),
                *(" ".join(server.url for server in proxies), str(authority), *urls),
            ],
            env={**os.environ, "PYTHONPATH": str(Path(socksclient.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        told = json.loads(run.stdout)
        assert told["touched"] == [list(proxies[0].address)]
        answers: list[Any] = told["answers"]
        return answers

    return get


@pytest.mark.parametrize("layers", [0, 1, 2], ids=["plain", "TLS", "TLS within TLS"])
def test_session_with_urllib3_future(
    get: Any, server: SocksServer, tls_server: SocksServer, layers: int
) -> None:
    proxies = [tls_server] * layers or [server]
    urls = [f"{scheme}://origin.test/download?octets={SIZE}" for scheme in ("http", "https")]
    assert get(proxies, *urls) == [
        {"status": 200, "version": version, "sha256": digest(SIZE)} for version in (11, 20)
    ]
    ports = {request.destination for request in proxies[-1].requests}
    assert {("origin.test", 80), ("origin.test", 443)} <= ports


@pytest.mark.parametrize("layers", [0, 1], ids=["plain", "TLS"])
def test_session_with_urllib3_future_ignores_http3(
    get: Any, server: SocksServer, tls_server: SocksServer, layers: int
) -> None:
    """With QUIC, urllib3-future would go past the proxy."""
    proxies = [tls_server] * layers or [server]
    answers = get(proxies, "https://origin.test/alt-svc", "https://origin.test/")
    assert [(answer["status"], answer["version"]) for answer in answers] == [(200, 20)] * 2


def test_session_with_urllib3_future_refusal_of_proxy(get: Any, server: SocksServer) -> None:
    server.misbehave(Faults(reply=0x05))
    answers = get([server], "http://origin.test/", "https://origin.test/")
    assert answers == [["ProxyError", "ConnectionRefused"]] * 2


def test_session_with_urllib3_future_trailing_dot(get: Any, server: SocksServer) -> None:
    server.routes["origin.test.", 443] = server.routes["origin.test", 443]
    [answer] = get([server], "https://origin.test./")
    assert answer["status"] == 200
    assert server.requests[0].destination == ("origin.test.", 443)
