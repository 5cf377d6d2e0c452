"""mitmproxy, which records what goes through it."""

from __future__ import annotations

import json
import ssl
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trustme

from helpers.real_servers.process import Address, new_directory, running, url_of

_VENV = Path(__file__).parents[3].resolve() / ".venv-mitmproxy"

MITMDUMP = str(_VENV / "bin" / "mitmdump")
"""The command of mitmproxy, which needs other versions of many libraries, and so its own venv."""


# mitmproxy calls `response` before the client gets any of the response. So a client that has the
# response finds the record of it.
_MITMPROXY_ADDON = """\
import base64
import json
import pathlib

RECORD = pathlib.Path(__file__).with_name("flows")


def base64_of(octets):
    return base64.b64encode(octets or b"").decode()


def response(flow):
    line = {
        "method": flow.request.method,
        "url": flow.request.url,
        "http_version": flow.request.http_version,
        "headers": list(flow.request.headers.items(multi=True)),
        "sent": base64_of(flow.request.raw_content),
        "status": flow.response.status_code,
        "received": base64_of(flow.response.raw_content),
        "destination": flow.server_conn.address,
    }
    with RECORD.open("a") as record:
        record.write(json.dumps(line) + "\\n")
"""


@dataclass(frozen=True)
class Flow:
    """A request that went through mitmproxy, and its response, as mitmproxy saw them.

    Attributes:
        method: The method.
        url: The URL.
        http_version: Such as "HTTP/2.0".
        headers: The (name, value) pairs of the request's headers, with the names as they came.
        sent: The body of the request.
        status: The status of the response.
        received: The body of the response.
        destination: The (host, port) in the request to the proxy; the host may be a name.
    """

    method: str
    url: str
    http_version: str
    headers: list[tuple[str, str]]
    sent: bytes
    status: int
    received: bytes
    destination: Address


@dataclass(frozen=True)
class MITMProxy:
    """A running mitmproxy.

    Attributes:
        url: The URL of the proxy.
        ca_file: The PEM file of the authority that issues its certificates.
        record: The file in which it records what goes through it.
    """

    url: str
    ca_file: Path
    record: Path

    def trust(self) -> ssl.SSLContext:
        """Return a new context for clients, which trusts the certificates that this proxy makes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca_file)
        return context

    def flows(self) -> list[Flow]:
        """Return what has gone through the proxy, in the order of the answers."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [_flow(json.loads(line)) for line in lines]


def _flow(line: dict[str, Any]) -> Flow:
    line["headers"] = [(name, value) for name, value in line["headers"]]
    line["sent"], line["received"] = (b64decode(line[part]) for part in ("sent", "received"))
    line["destination"] = tuple(line["destination"])
    return Flow(**line)


@contextmanager
def mitmproxy(
    directory: Path,
    trusted: trustme.CA,
    *,
    mode: Literal["socks5", "regular"] = "socks5",
    host: str = "127.0.0.1",
    account: tuple[str, str] | None = None,
) -> Iterator[MITMProxy]:
    """Run mitmproxy, which reads what goes through it.

    Args:
        directory: The directory for its files.
        trusted: The authority that has issued the certificates of the servers behind it.
        mode: "socks5", or "regular" for an HTTP proxy.
        host: The address to listen on.
        account: The only login that it accepts, without a colon; the URL has it.
    """
    files = new_directory(directory, "mitmproxy-files-")
    trusted.cert_pem.write_to_path(files / "trusted.pem")
    (files / "addon.py").write_text(_MITMPROXY_ADDON)
    options: dict[str, Path | str] = {
        "confdir": files,
        "ssl_verify_upstream_trusted_ca": files / "trusted.pem",
    }
    if account:
        options["proxyauth"] = ":".join(account)

    def prepare(home: Path, port: int) -> list[str]:
        command = [MITMDUMP, "--mode", mode, "--listen-host", host, "--listen-port", str(port)]
        for name, value in options.items():
            command += ["--set", f"{name}={value}"]
        return [*command, "--scripts", str(files / "addon.py")]

    with running(directory, "mitmproxy", host, prepare) as address:
        url = url_of(address, account, "socks5h" if mode == "socks5" else "http")
        yield MITMProxy(url, files / "mitmproxy-ca-cert.pem", files / "flows")
