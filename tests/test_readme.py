"""Every Python example of the README runs, against servers on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from socksclient.testing import SocksServer

from origin import Origin
from support import Address

README = Path(__file__).parent.parent.joinpath("README.md").read_text()
REQUESTS = [1, 1, 1, 2, 0, 1, 1, 0]
"""How many each example makes through the proxy that the test gives it."""
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example(number: int, origin: Origin, greeter: Address, tmp_path: Path) -> None:
    certificates = tmp_path / "ca.pem"
    origin.ca.cert_pem.write_to_path(str(certificates))
    routes = {
        ("example.com", 80): ("127.0.0.1", origin.http_port),
        ("example.com", 443): ("127.0.0.1", origin.https_port),
        ("smtp.example", 25): greeter,
        ("refused.example", 443): ("127.0.0.1", 1),
    }
    with (
        SocksServer(routes=routes) as server,
        SocksServer(routes=routes, accounts={"user": "pass"}) as locked,
    ):
        code = EXAMPLES[number]
        code = code.replace("socks5h://127.0.0.1:1080", server.url)
        code = code.replace("socks5h://user:pass@127.0.0.1:1080", locked.url)
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            env={"SSL_CERT_FILE": str(certificates)},
            timeout=30,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert len(server.requests) + len(locked.requests) == REQUESTS[number]


def test_the_first_screen() -> None:
    lines = README.splitlines()
    first = lines.index("```python")
    assert lines.index("```") <= 35
    assert lines.index("```") - first - 1 <= 8
    assert "    make demo " in README
    assert "    make test " in README
    assert len(EXAMPLES) == len(REQUESTS)
