"""Every Python example of the README runs, against servers on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from socksclient.testing import SocksServer

from helpers.origin import Origin
from helpers.real_services import FTPServer, pyftpdlib
from helpers.snippets import ROOT, run, snippets
from helpers.support import Address, answering_datagrams

README = snippets("README.md")
EXAMPLES = {found.line: found for found in README if "requests" in found.notes}
"""The examples by their lines. The comment above each says how many requests it makes."""


@pytest.fixture(scope="module")
def name_server() -> Iterator[Address]:
    """Run a name server over UDP that gives 192.0.2.80 as the address of every name."""

    def answer(octets: bytes) -> bytes:
        query = dns.message.from_wire(octets)
        found = dns.message.make_response(query)
        name = query.question[0].name
        found.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.80"))
        return found.to_wire()

    with answering_datagrams(answer) as address:
        yield address


@pytest.fixture(scope="module")
def ftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FTPServer]:
    with pyftpdlib(tmp_path_factory.mktemp("ftp")) as server:
        yield server


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example(
    line: int,
    origin: Origin,
    greeter: Address,
    name_server: Address,
    ftp_server: FTPServer,
    tmp_path: Path,
) -> None:
    code = EXAMPLES[line].code
    if "httpx2" in code and sys.version_info < (3, 11):
        pytest.skip("httpx2 needs Python 3.11")
    certificates = tmp_path / "ca.pem"
    origin.ca.cert_pem.write_to_path(str(certificates))
    routes = {
        ("example.com", 80): ("127.0.0.1", origin.http_port),
        ("example.com", 443): ("127.0.0.1", origin.https_port),
        ("smtp.example", 25): greeter,
        ("192.0.2.53", 53): name_server,
        ("ftp.example", 21): ftp_server.address,
        ("refused.example", 443): ("127.0.0.1", 1),
        ("example.com", 0): ("192.0.2.80", 0),
    }
    with (
        SocksServer(routes=routes) as server,
        SocksServer(routes=routes, accounts={"user": "pass"}) as locked,
    ):
        server.routes["inner.example", 3128] = server.address
        code = code.replace("socks5h://127.0.0.1:1080", server.url)
        code = code.replace("socks5h://127.0.0.1:9050", server.url)
        code = code.replace('"anonymous", "guest"', f"{ftp_server.user!r}, {ftp_server.password!r}")
        code = code.replace("socks5h://user:pass@127.0.0.1:1080", locked.url)
        # The environment's proxy is for the one example which asks for it.
        ran = run(
            code,
            {
                "SSL_CERT_FILE": str(certificates),
                "REQUESTS_CA_BUNDLE": str(certificates),
                "ALL_PROXY": server.url_as("socks"),
            },
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        expected = int(EXAMPLES[line].notes["requests"])
        assert len(server.requests) + len(locked.requests) == expected


def test_every_example_is_tested() -> None:
    for found in README:
        # The examples with names are in test_recipes.
        assert {"requests", "name"} & found.notes.keys(), f"README.md:{found.line}"


def test_the_first_screen() -> None:
    lines = ROOT.joinpath("README.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("```python")
    assert lines.index("```") <= 35
    assert lines.index("```") - first - 1 <= 8
    assert any(line.startswith("    make demo ") for line in lines)
    assert any(line.startswith("    make test ") for line in lines)
