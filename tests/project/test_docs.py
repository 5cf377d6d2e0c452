"""The pages of the documentation are true: their links lead somewhere, and their examples run."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import asyncssh
import pytest

from socksclient.testing import Faults, SocksServer

from helpers.library_servers import ssh_gateway
from helpers.origin import Origin
from helpers.snippets import ROOT, named_snippets, run, run_pytest
from helpers.support import GREETING, serving

PAGES = [
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "README.md",
    *sorted(ROOT.glob(".github/*.md")),
    ROOT / "tests" / "README.md",
]


METHOD = named_snippets("docs/add-a-method.md")
KIND = named_snippets("docs/add-a-kind-of-hop.md")
INTEGRATION = named_snippets("docs/add-an-integration.md")
OWN_IO = named_snippets("docs/bring-your-own-io.md")

PACKAGE = ROOT / "socksclient"
WEB = ("example.com", 80)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
class TestLinks:
    def test_every_link_leads_to_a_file_and_a_heading(self, page: Path) -> None:
        for _, target in links(page):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            if anchor:
                assert anchor in anchors(file), target

    def test_a_link_to_code_leads_to_the_file_that_defines_it(self, page: Path) -> None:
        for text, target in links(page):
            if target.endswith(".py") and (
                name := re.fullmatch(r"`(?:socksclient\.)?([\w.]+)`", text)
            ):
                defined = definitions((page.parent / target).read_text(encoding="utf-8"))
                assert name[1] in defined or name[1] == Path(target).name, (text, target)


class TestBringYourOwnIO:
    """The examples of docs/bring-your-own-io.md, each in a process of its own."""

    def test_a_handshake_without_a_connection(self) -> None:
        exec(OWN_IO["flow"], {})

    @pytest.mark.parametrize(
        ("name", "hops"),
        [("socket", 1), ("asyncio", 1), ("paramiko", 1), ("handshake", 2), ("anyio", 1)],
    )
    def test_goes_through_the_proxy(
        self, name: str, hops: int, origin: Origin, gateway: Gateway
    ) -> None:
        with SocksServer(routes={WEB: ("127.0.0.1", origin.http_port)}) as server:
            server.routes["inner.example", 3128] = server.address
            ran = run(gateway.localized(OWN_IO[name], server), gateway.env)
            assert (ran.stderr, ran.stdout) == ("", "b'HTTP/1.1 200'\n")
            assert [seen.destination for seen in server.requests][-1] == WEB
            assert len(server.requests) == hops

    def test_handshake_works_on_a_channel_of_paramiko(
        self, origin: Origin, gateway: Gateway
    ) -> None:
        flow = 'drive(start("socks5h://127.0.0.1:1080", "example.com", 80), channel)'
        call = 'handshake(channel, "example.com", 80, proxy="socks5h://127.0.0.1:1080", timeout=5)'
        assert flow in OWN_IO["paramiko"]
        code = OWN_IO["paramiko"].replace(flow, f"__import__('socksclient').{call}")
        with SocksServer(routes={WEB: ("127.0.0.1", origin.http_port)}) as server:
            ran = run(gateway.localized(code, server), gateway.env)
        assert (ran.stderr, ran.stdout) == ("", "b'HTTP/1.1 200'\n")

    @pytest.mark.parametrize("name", ["socket", "asyncio", "paramiko", "handshake", "anyio"])
    @pytest.mark.parametrize(
        ("faults", "error"),
        [
            (Faults(reply=0x05), r"ConnectionRefused: .*\(REP 05\)"),
            (Faults(close_after=5), "ProxyClosed: .*: got 3 of 5 octets"),
            (Faults(close_after=0), "ProxyClosed: .*: got 0 of 2 octets"),
        ],
    )
    def test_raises_the_errors_of_the_library(
        self, name: str, faults: Faults, error: str, gateway: Gateway
    ) -> None:
        with SocksServer(faults=faults) as server:
            server.routes[WEB] = server.routes["inner.example", 3128] = server.address
            ran = run(gateway.localized(OWN_IO[name], server), gateway.env)
        assert ran.returncode == 1
        assert re.search(error, ran.stderr.splitlines()[-1]), ran.stderr


class TestAddAMethod:
    """The examples of docs/add-a-method.md."""

    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        for name in ("token_method.py", "test_token_method.py"):
            (tmp_path / name).write_text(METHOD[name])

    def test_the_tests_of_the_page_pass(self, tmp_path: Path) -> None:
        ran = run_pytest("test_token_method.py", {"PYTHONPATH": str(ROOT)}, tmp_path)
        assert ran.returncode == 0, ran.stdout

    def test_it_authenticates(self, tmp_path: Path, origin: Origin) -> None:
        faults = Faults(method=0x80, answers={"authentication": b"\x01\x00"})
        routes = {WEB: ("127.0.0.1", origin.http_port)}
        with SocksServer(faults=faults, routes=routes) as server:
            code = METHOD["use"].replace("1080", str(server.address[1]))
            ran = run(code, {"PYTHONPATH": os.pathsep.join([str(ROOT), "."])}, tmp_path)
            assert (ran.stderr, ran.stdout) == ("", "b'HTTP/1.1 200'\n")
            assert b"s3cret" in server.connections[0].received


class TestAddAKindOfHop:
    """The example of docs/add-a-kind-of-hop.md, in a copy of the library."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """Add the file and the lines of the page, and nothing else."""
        copy = tmp_path / "socksclient"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "protocol" / "line.py").write_text(KIND["line.py"])
        table = copy / "protocol" / "url.py"
        head, *lines, end = KIND["SCHEMES"].splitlines(keepends=True)
        added = "".join(line for line in lines if "#" not in line)
        before, found, after = table.read_text().partition(head)
        assert found
        table.write_text(before + head + added + after)
        assert end == "}\n"
        (tmp_path / "test_line.py").write_text(KIND["test_line.py"])
        return tmp_path

    def test_the_tests_of_the_page_pass(self, directory: Path) -> None:
        ran = run_pytest("test_line.py", {"PYTHONPATH": str(directory)}, directory)
        assert ran.returncode == 0, ran.stdout

    def test_it_is_a_hop_of_a_chain(self, directory: Path) -> None:
        code = (
            "import socksclient; chain = [{!r}, 'line://line.test']\n"
            "with socksclient.create_connection(('site.test', 80), 9, proxy=chain) as sock:\n"
            "    print(sock.recv(99))"
        )
        with serving(line_proxy) as address, SocksServer() as server:
            server.routes["line.test", 4000] = address
            ran = run(code.format(server.url), {"PYTHONPATH": str(directory)}, directory)
        assert (ran.stderr, ran.stdout) == ("", f"{GREETING!r}\n")


class TestAddAnIntegration:
    """The example of docs/add-an-integration.md."""

    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        for name in ("proxied_http.py", "test_proxied_http.py"):
            (tmp_path / name).write_text(INTEGRATION[name])

    def test_the_tests_of_the_page_pass(self, tmp_path: Path) -> None:
        ran = run_pytest("test_proxied_http.py", {"PYTHONPATH": str(ROOT)}, tmp_path)
        assert ran.returncode == 0, ran.stdout


async def line_proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.readline() == b"site.test:80\n"
    writer.write(b"+" + GREETING)
    await writer.drain()


class Gateway(NamedTuple):
    """An SSH server, and a user who knows it.

    Attributes:
        port: Where the server listens.
        home: The directory of the user, who has a key and knows that of the server.
    """

    port: int
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {"HOME": str(self.home), "LOGNAME": "user"}

    def localized(self, code: str, server: SocksServer) -> str:
        """Return the code of an example with the ports of the servers on loopback."""
        code = code.replace("1080", str(server.address[1]))
        return code.replace('"gateway.example", port=22', f'"127.0.0.1", port={self.port}')


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    user, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    (home / ".ssh").mkdir()
    user.write_private_key(home / ".ssh" / "id_ed25519")
    with ssh_gateway(host) as (address, port):
        known = f"[{address}]:{port} {host.export_public_key().decode()}"
        (home / ".ssh" / "known_hosts").write_text(known)
        yield Gateway(port, home)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the text and the target of every link to a file of the project."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"\[([^][]*)\]\(([^()\s]+)\)", text):
        if not re.match(r"[a-z]+:", found[2]):
            yield found[1].replace("\n", " "), found[2]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def definitions(source: str) -> set[str]:
    """Return the names that a file defines: functions, classes, their methods, and values."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        found |= {
            target.id
            for target in (getattr(node, "targets", None) or [getattr(node, "target", None)])
            if isinstance(target, ast.Name)
        }
    return found
