"""README's recipes for other libraries run as they are, against real servers.

Each example runs in a process of its own, which fails when it resolves a name, or connects to
anything but the proxy. The environment has other proxies for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from socksclient import Proxy
from socksclient.testing import Faults, SocksServer

from helpers import library_servers, real_servers
from helpers.origin import Origin
from helpers.snippets import ROOT, named_snippets
from helpers.support import LONG, Address, needs

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
EXAMPLES = named_snippets("README.md")
BLOCKING, MAIL = EXAMPLES["blocking"], EXAMPLES["mail"]
PROXY = "socks5h://127.0.0.1:1080"

WEB, WS, SSH = ("example.com", 443), ("ws.example", 443), ("ssh.example", 22)
SMTP, SMTPS, IMAPS = ("smtp.example", 587), ("smtp.example", 465), ("imap.example", 993)
REDISS = ("redis.example", 6380)


@dataclass(frozen=True)
class Recipe:
    """An example, the destinations that it connects to, and what it prints."""

    code: str
    destinations: Sequence[Address]
    prints: str


def between(code: str, start: str, end: str) -> str:
    return code[code.index(start) : code.index(end, code.index(start))]


IMPORTS, SHUT = "import", "connection.close()\n"
HTTP_CLIENT = between(BLOCKING, "connection = ", SHUT) + SHUT
AGAIN = between(HTTP_CLIENT, "connection.request", SHUT) + SHUT
IN_TRIO = re.findall(r"`(trio\.SocketStream\(.*?\))`", README)[0]

# What the section tells in passing, with what its examples define.
CONNECTS_AGAIN = between(BLOCKING, IMPORTS, "sock = ") + HTTP_CLIENT + AGAIN
IMAPLIB = between(MAIL, IMPORTS, "with SMTP_SSL") + MAIL[MAIL.index("with IMAP4_SSL") :]
STARTTLS = f"""\
{between(MAIL, IMPORTS, "with SMTP_SSL")}
with SMTP("smtp.example", 587, timeout=10.0, local_hostname="localhost") as smtp:
    smtp.starttls(context=context)
    smtp.sendmail("me@example.com", "you@example.com", "Subject: hello\\r\\n\\r\\n")
"""
TRIO = f"""\
import trio
from socksclient.anyio import connect_socket

async def main():
    with trio.fail_after(10):
        sock = await connect_socket("ssh.example", 22, proxy="{PROXY}")
    async with {IN_TRIO} as stream:
        print((await stream.receive_some())[:7])

trio.run(main)
"""

RECIPES = {
    "blocking": Recipe(BLOCKING, [WEB, WEB, WS, SSH], r"TLSv1\.3\n200\nhello\nb'done\\n'\n"),
    "http.client again": Recipe(CONNECTS_AGAIN, [WEB, WEB], r"200\n200\n"),
    "asyncio": Recipe(EXAMPLES["asyncio"], [WEB, WS, SSH], r"hello\ndone\n\n"),
    "trio": Recipe(TRIO, [SSH], r"b'SSH-2\.0'\n"),
    "urllib": Recipe(EXAMPLES["urllib"], [WEB], r"200\n"),
    "mail": Recipe(MAIL, [SMTPS, IMAPS], r"\('OK', \[b'0'\]\)\n"),
    "imaplib": Recipe(IMAPLIB, [IMAPS], r"\('OK', \[b'0'\]\)\n"),
    "STARTTLS": Recipe(STARTTLS, [SMTP], ""),
    "redis": Recipe(EXAMPLES["redis"], [REDISS], r"True\n"),
}

MISSING = [*real_servers.missing(["danted"]), *library_servers.missing()]
needs_servers = needs(MISSING)
every_recipe = pytest.mark.parametrize("name", RECIPES)

WARNINGS = ["-W", "error"]
# asyncio of Python 3.10 warns so of TLS that the destination has closed.
if sys.version_info < (3, 11):
    WARNINGS += ["-W", "ignore:unclosed transport <asyncio.sslproto:ResourceWarning"]

# Some libraries swallow what an audit hook raises; what it prints they do not.
WATCH = """
import ipaddress, os, sys

def watch(event, args):
    if event == "socket.connect":
        wrong = args[1] != ("127.0.0.1", int(os.environ["PROXY_PORT"]))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        try:
            wrong = not ipaddress.ip_address(args[0])
        except ValueError:
            wrong = True
    else:
        return
    if wrong:
        print("past the proxy:", event, args, file=sys.stderr)
        raise RuntimeError(event)

sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Destinations:
    """The servers that the examples connect to.

    Attributes:
        routes: Where each of them is.
        impostors: The same for servers that have certificates and host keys of others.
        home: The directory of a user who has a key for the SSH server, and knows that of its own.
        ca: A file with the authority that all certificates are from.
        mail: Where mail arrives, in directories below.
    """

    routes: Mapping[Address, Address]
    impostors: Mapping[Address, Address]
    home: Path
    ca: Path
    mail: Path

    def mails(self) -> int:
        return len(list(self.mail.glob("*/new/*")))


@pytest.fixture(scope="module")
def destinations(
    origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Destinations]:
    directory = tmp_path_factory.mktemp("destinations")
    mail = directory / "mail"
    mail.mkdir()
    origin.ca.cert_pem.write_to_path(directory / "ca.pem")
    user, host, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
    (directory / ".ssh").mkdir()
    user.write_private_key(directory / ".ssh" / "id_ed25519")
    # Whoever has the key of the proxy's own machine is not the destination for that.
    keys = [("ssh.example", host), ("127.0.0.1", other)]
    known = "".join(f"{name} {key.export_public_key().decode()}" for name, key in keys)
    (directory / ".ssh" / "known_hosts").write_text(known)
    names = ("ws.example", "smtp.example", "imap.example", "redis.example", "localhost")
    right, wrong = origin.ca.issue_cert(*names), origin.ca.issue_cert("impostor.example")
    with ExitStack() as stack:
        start = stack.enter_context
        impostor = start(library_servers.websocket_server(wrong))
        yield Destinations(
            {
                WEB: ("127.0.0.1", origin.https_port),
                WS: start(library_servers.websocket_server(right)),
                SSH: start(library_servers.ssh_server(host, user)),
                SMTP: start(library_servers.aiosmtpd(mail / "one", right, tls=False)),
                SMTPS: start(library_servers.aiosmtpd(mail / "other", right, tls=True)),
                IMAPS: start(library_servers.dovecot(right)),
                REDISS: start(library_servers.redis_server(directory, right, tls=True)),
            },
            {
                **dict.fromkeys((WEB, WS, SMTPS, IMAPS, REDISS), impostor),
                SSH: start(library_servers.ssh_server(other, user)),
                SMTP: start(library_servers.aiosmtpd(directory / "wrong", wrong, tls=False)),
            },
            directory,
            directory / "ca.pem",
            mail,
        )


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante")) as url:
        yield url


def run(code: str, proxy: str, destinations: Destinations) -> subprocess.CompletedProcess[str]:
    assert PROXY in code
    nowhere = "http://127.0.0.1:1"
    return subprocess.run(
        [sys.executable, *WARNINGS, "-c", WATCH + code.replace(PROXY, proxy)],
        capture_output=True,
        text=True,
        env={
            "PROXY_PORT": str(Proxy.from_url(proxy).port),
            "SSL_CERT_FILE": str(destinations.ca),
            "HOME": str(destinations.home),
            **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"), nowhere),
        },
        timeout=2 * LONG,
        check=False,
    )


def localized(code: str, destinations: Destinations) -> str:
    """Return the code with the addresses in place of the names, which the proxy does not know."""
    for (name, port), (_, its_port) in destinations.routes.items():
        for old, new in [
            (f'"{name}", {port}', f'"localhost", {its_port}'),
            (f'"{name}",\n    port={port}', f'"localhost",\n    port={its_port}'),
            (f"https://{name}/", f"https://localhost:{its_port}/"),
        ]:
            code = code.replace(old, new)
    return code


@needs_servers
@every_recipe
class TestRecipes:
    def test_names_stay_names(self, name: str, destinations: Destinations) -> None:
        recipe = RECIPES[name]
        before = destinations.mails()
        with SocksServer(routes=destinations.routes) as server:
            ran = run(recipe.code, server.url, destinations)
            assert (ran.stderr, ran.returncode) == ("", 0)
            assert re.fullmatch(recipe.prints, ran.stdout)
            asked = [request.destination for request in server.requests]
            assert asked == recipe.destinations
        sent = len([each for each in recipe.destinations if each in (SMTP, SMTPS)])
        assert destinations.mails() == before + sent

    def test_through_dante(self, name: str, destinations: Destinations, dante: str) -> None:
        recipe = RECIPES[name]
        ran = run(localized(recipe.code, destinations), dante, destinations)
        assert (ran.stderr, ran.returncode) == ("", 0)
        assert re.fullmatch(recipe.prints, ran.stdout)

    def test_the_timeout_is_one_deadline(self, name: str, destinations: Destinations) -> None:
        code = re.sub(r"(timeout=|fail_after\()10(\.0)?", r"\g<1>1.0", RECIPES[name].code)
        # Each wait by itself is shorter than the timeout.
        faults = Faults(drip=0.4)
        with SocksServer(routes=destinations.routes, faults=faults) as server:
            ran = run(code, server.url, destinations)
            assert ran.returncode == 1
            assert re.search("ProxyTimeout|TimeoutError|TooSlowError", ran.stderr)
            assert len(server.connections) == 1


@needs_servers
@pytest.mark.parametrize(
    ("name", "destination"),
    [
        (name, each)
        for name, recipe in RECIPES.items()
        for each in dict.fromkeys(recipe.destinations)
        # The recipe for trio has no TLS, and does not speak SSH.
        if name != "trio"
    ],
)
def test_who_is_not_the_destination_is_not_trusted(
    name: str, destination: Address, destinations: Destinations
) -> None:
    routes = {**destinations.routes, destination: destinations.impostors[destination]}
    with SocksServer(routes=routes) as server:
        ran = run(RECIPES[name].code, server.url, destinations)
    assert ran.returncode == 1
    assert re.search("Hostname mismatch|BadHostKey|HostKeyNotVerifiable", ran.stderr)
