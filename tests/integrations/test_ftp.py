"""`socksclient.ftp`: real servers through Dante, both modes; and servers that are scripted."""

from __future__ import annotations

import asyncio
import ftplib
import hashlib
import os
import pickle
import random
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from socksclient import (
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyLike,
    ProxyTimeout,
    Reply,
    ReplyError,
    SocksError,
)
from socksclient.ftp import FTP, FTP_TLS
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers import real_servers, real_services
from helpers.real_services import FTPServer
from helpers.support import LONG, SHORT, Address, needs, nothing_left_open, resolved_names, serving

MISSING = [*real_servers.missing(), *real_services.missing()]
needs_servers = needs(MISSING)
both_modes = pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])

Client = FTP | FTP_TLS

REFUSING = Faults(reply=0x04)
FAILED = "the FTP data connection failed: "

SIZE = 20_000_000
SOON = 0.05  # seconds; the timeout passes


class File(NamedTuple):
    path: Path
    sha256: str


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> File:
    """Of random octets."""
    octets = random.randbytes(SIZE)
    path = tmp_path_factory.mktemp("ftp") / "big"
    path.write_bytes(octets)
    return File(path, hashlib.sha256(octets).hexdigest())


_touched: list[tuple[str, Address]] | None = None
_main = threading.get_ident()


def _audit(event: str, args: tuple[object, ...]) -> None:
    if _touched is None or event not in ("socket.connect", "socket.bind"):
        return
    # The servers of the tests run in threads of their own.
    if threading.get_ident() == _main:
        assert isinstance(args[1], tuple)
        _touched.append((event, args[1][:2]))


sys.addaudithook(_audit)


@contextmanager
def connects_only_to(address: Address) -> Iterator[None]:
    """Check that this thread connects to nothing else, listens nowhere and resolves nothing."""
    # An audit hook cannot be removed, so that there is one for all tests.
    global _touched  # noqa: PLW0603
    seen: list[tuple[str, Address]] = []
    _touched = seen
    try:
        with resolved_names() as names:
            yield
    finally:
        _touched = None
    assert set(seen) == {("socket.connect", address)}
    assert names == []


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["without TLS", "with TLS"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", params=["vsftpd", "pyftpdlib"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, host: str, tls: bool
) -> Iterator[FTPServer]:
    start = getattr(real_services, request.param)
    with start(tmp_path_factory.mktemp("server"), host, tls=tls) as server:
        yield server


@pytest.fixture(scope="module")
def dante(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.dante(tmp_path_factory.mktemp("dante")) as url:
        yield url


@pytest.fixture(scope="module")
def microsocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_servers.microsocks(tmp_path_factory.mktemp("microsocks")) as url:
        yield url


@contextmanager
def logged_in(server: FTPServer, tls: bool, proxy: str, passive: bool = True) -> Iterator[Client]:
    client: Client = FTP(timeout=20, proxy=proxy)
    if tls:
        client = FTP_TLS(context=server.trust(), timeout=20, proxy=proxy)
    with client:
        client.connect(*server.address)
        client.login(server.user, server.password)
        if isinstance(client, FTP_TLS):
            client.prot_p()
        client.set_pasv(passive)
        yield client


@needs_servers
@both_modes
class TestRealServers:
    def test_ftp_transfers_20_megabytes_both_ways(
        self, server: FTPServer, tls: bool, passive: bool, dante: str, big_file: File
    ) -> None:
        to_read, written = (server.directory / f"{name} {passive}" for name in ("down", "up"))
        os.link(big_file.path, to_read)
        with logged_in(server, tls, dante, passive) as client:
            sha256 = hashlib.sha256()
            client.retrbinary(f"RETR {to_read.name}", sha256.update, 65536)
            assert sha256.hexdigest() == big_file.sha256
            with big_file.path.open("rb") as file:
                client.storbinary(f"STOR {written.name}", file, 65536)
            assert hashlib.sha256(written.read_bytes()).hexdigest() == big_file.sha256
            lines: list[str] = []
            client.retrlines("LIST", lines.append)
            assert len([line for line in lines if str(SIZE) in line]) >= 2
            assert {to_read.name, written.name} <= set(client.nlst())
        to_read.unlink()
        written.unlink()

    def test_ftp_connects_only_to_proxy(self, server: FTPServer, tls: bool, passive: bool) -> None:
        (server.directory / "small").write_bytes(b"small")
        with SocksServer() as proxy:
            received = bytearray()
            with connects_only_to(proxy.address):
                with logged_in(server, tls, proxy.url, passive) as client:
                    client.retrbinary("RETR small", received.extend)
            assert received == b"small"
            control, data = proxy.requests
            assert (control.command, control.destination) == (Command.CONNECT, server.address)
            if passive:
                assert data.command == Command.CONNECT
                assert data.destination is not None
                assert data.destination[0] == server.address[0]
            else:
                assert (data.command, data.destination) == (Command.BIND, server.address)
                assert data.second_reply == 0x00
                assert data.peer is not None
                assert data.peer[0] == server.address[0]

    def test_ftp_resumes_transfer(
        self, server: FTPServer, tls: bool, passive: bool, dante: str
    ) -> None:
        (server.directory / "to resume").write_bytes(bytes(range(256)))
        with logged_in(server, tls, dante, passive) as client:
            received = bytearray()
            client.retrbinary("RETR to resume", received.extend, rest=200)
            assert received == bytes(range(200, 256))

    def test_ftp_missing_file_leaves_only_control_connection_open(
        self, server: FTPServer, tls: bool, passive: bool, dante: str
    ) -> None:
        with logged_in(server, tls, dante, passive) as client:
            with nothing_left_open():
                for _ in range(2):
                    with pytest.raises(ftplib.error_perm, match="550") as held:
                        client.retrbinary("RETR missing", bytearray().extend)
            assert held
            client.voidcmd("NOOP")

    def test_ftp_abort_and_next_transfer(
        self, server: FTPServer, tls: bool, passive: bool, dante: str, big_file: File
    ) -> None:
        to_read = server.directory / f"to abort {passive}"
        os.link(big_file.path, to_read)
        with logged_in(server, tls, dante, passive) as client:
            client.voidcmd("TYPE I")
            with client.transfercmd(f"RETR {to_read.name}") as data:
                assert data.recv(1)
            # One response is the transfer's, and one is that of ABOR.
            assert client.abort()[:3] == "426"
            assert client.getmultiline()[:3] in ("225", "226")
            assert to_read.name in client.nlst()
        to_read.unlink()


@needs_servers
@pytest.mark.parametrize("tls", [False], indirect=True, ids=["without TLS"])
def test_ftp_modes_with_proxy_without_bind(server: FTPServer, tls: bool, microsocks: str) -> None:
    (server.directory / "here").write_bytes(b"here")
    with logged_in(server, tls, microsocks) as client:
        assert "here" in client.nlst()
        client.set_pasv(False)
        with pytest.raises(ReplyError, match="this proxy does not offer BIND") as caught:
            client.nlst()
        assert caught.value.reply == Reply.COMMAND_NOT_SUPPORTED
        assert caught.value.destination == server.address
        client.set_pasv(True)
        assert "here" in client.nlst()


@needs_servers
def test_ftp_pasv_after_unreachable_epsv_port(server: FTPServer, tls: bool) -> None:
    (server.directory / "here").write_bytes(b"here")
    with SocksServer(faults=[Faults(), REFUSING]) as proxy:
        with logged_in(server, tls, proxy.url) as client:
            # PASV does not work with IPv6, but vsftpd answers it even so, with 0.0.0.0.
            if ":" in server.address[0] and server.user != "anonymous":
                with pytest.raises(ReplyError, match=FAILED):
                    client.nlst()
            else:
                assert "here" in client.nlst()
            assert "here" in client.nlst()


class ByAnyName(dict[Address, Address]):
    """Routes that lead to `host` from every host that the proxy is asked for."""

    def __init__(self, host: str) -> None:
        self.host = host

    def get(self, asked: Address, _default: Any = None) -> Any:
        return self.host, asked[1]


@needs_servers
@pytest.mark.parametrize("tls", [True], indirect=True, ids=["with TLS"])
@both_modes
def test_ftp_tls_trailing_dot_is_not_for_tls(server: FTPServer, passive: bool) -> None:
    (server.directory / "here").write_bytes(b"here")
    with SocksServer() as proxy:
        proxy.routes = ByAnyName(server.address[0])
        with FTP_TLS(context=server.trust(), timeout=20, proxy=proxy.url) as client:
            client.connect("localhost.", server.address[1])
            client.login(server.user, server.password)
            client.prot_p()
            client.set_pasv(passive)
            assert "here" in client.nlst()
            assert client.host == "localhost."
        assert {request.destination[0] for request in proxy.requests if request.destination} == {
            "localhost."
        }


@needs_servers
@pytest.mark.parametrize("tls", [True], indirect=True, ids=["with TLS"])
@both_modes
def test_ftp_tls_error_of_data_connection_says_so(server: FTPServer, passive: bool) -> None:
    with SocksServer() as proxy, nothing_left_open():
        with logged_in(server, True, proxy.url, passive) as client:
            assert isinstance(client, FTP_TLS)
            client.context = ssl.create_default_context()
            with pytest.raises(ssl.SSLCertVerificationError, match=f"^{FAILED}") as held:
                client.nlst()
            client.close()
        assert held


@needs_servers
@pytest.mark.parametrize("tls", [True], indirect=True, ids=["with TLS"])
def test_ftp_tls_refuses_unknown_authority(server: FTPServer, dante: str) -> None:
    with nothing_left_open():
        context = ssl.create_default_context()
        with FTP_TLS(context=context, timeout=20, proxy=dante) as client:
            client.connect(*server.address)
            with pytest.raises(ssl.SSLCertVerificationError) as held:
                client.login(server.user, server.password)
            client.close()
        assert held


LISTING = ["one", "two"]


class ScriptedServer:
    """An FTP server that says, to the commands in `answers`, what it is told; it is for LIST only.

    An answer may be of more than one response, or "hang up".

    Attributes:
        commands: What it was sent.
        passive: Where it listens for data connections.
    """

    def __init__(self, answers: Mapping[str, str] | None = None, host: str = "127.0.0.1") -> None:
        self.commands: list[str] = []
        self.host = host
        self.welcome = "220 ready"
        self.connects = True
        self._answers = dict(answers or {})

    def __enter__(self) -> ScriptedServer:
        with ExitStack() as stack:
            self.address = stack.enter_context(serving(self.control, self.host))
            self.passive = stack.enter_context(serving(self.data, self.host))
            self.answers = {
                "EPSV": f"229 here (|||{self.passive[1]}|)",
                "PASV": "227 here (192,0,2,1,{},{})".format(*divmod(self.passive[1], 256)),
                "LIST": "150 coming\r\n226 done",
                "QUIT": "221 bye",
                **self._answers,
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        # Stopped in the middle of an accept, asyncio leaves the socket open: this is the last one.
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as last:
            last.connect(self.passive)
            last.shutdown(socket.SHUT_WR)
            while last.recv(100):
                pass
        self._stack.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: Address | None = None
        writer.write(f"{self.welcome}\r\n".encode())
        while line := await reader.readline():
            self.commands.append(line.decode("latin-1").rstrip("\r\n"))
            verb, _, argument = self.commands[-1].partition(" ")
            if verb == "PORT":
                *octets, high, low = argument.split(",")
                client = ".".join(octets), int(high) * 256 + int(low)
            if verb == "EPRT":
                _, _, host, port, _ = argument.split("|")
                client = host, int(port)
            if verb == "LIST" and client and self.connects:
                await self.data(*await asyncio.open_connection(*client))
            answer = self.answers.get(verb, "200 fine")
            if answer == "hang up":
                return
            writer.write(f"{answer}\r\n".encode("latin-1"))

    async def data(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.connects:
            writer.write("".join(f"{line}\r\n" for line in LISTING).encode())
            writer.close()
        else:
            await reader.read()


def client_of(
    server: ScriptedServer, proxy: ProxyLike, passive: bool = True, timeout: float | None = LONG
) -> FTP:
    client = FTP(timeout=timeout, proxy=proxy)
    client.connect(*server.address)
    client.set_pasv(passive)
    return client


def listing(client: ftplib.FTP) -> list[str]:
    lines: list[str] = []
    client.retrlines("LIST", lines.append)
    return lines


def asked_by(server: ScriptedServer) -> list[str]:
    """Return the commands that asked the server where to connect to."""
    return [command for command in server.commands if command in ("EPSV", "PASV")]


FAILURES_OF_EPSV = [
    *("500 what?", "502 not here", "522 (1)", "425 cannot", "421 busy", "200 fine", "331 say more"),
    *("227 here (127,0,0,1,0,0)", "what?", "229 here", "229 here ()", "229 here (|||)"),
    *("500 nicht möglich", "500-nicht\r\n möglich\r\n500 nein", "229 dä (|||1|)"),
    *("229 here (|||port|)", "229 here (|||0|)", "229 here (|||65536|)", "229 here (|||-1|)"),
]


class TestResponses:
    @pytest.mark.parametrize("trusts", [False, True])
    @pytest.mark.parametrize("refusal", FAILURES_OF_EPSV)
    def test_pasv_after_refused_epsv(self, refusal: str, trusts: bool) -> None:
        with ScriptedServer({"EPSV": refusal}) as server, SocksServer() as proxy:
            told = ("192.0.2.1", server.passive[1])
            proxy.routes[told] = server.passive
            with client_of(server, proxy.url) as client:
                client.trust_server_pasv_ipv4_address = trusts
                assert listing(client) == LISTING
                assert listing(client) == LISTING
            assert proxy.requests[1].destination == (told if trusts else server.passive)
        assert asked_by(server) == ["EPSV", "PASV", "PASV"]

    def test_epsv_again_on_next_control_connection(self) -> None:
        with ScriptedServer({"EPSV": "500 what?"}) as server, SocksServer() as proxy:
            with client_of(server, proxy.url) as client:
                assert listing(client) == LISTING
                client.quit()
                server.answers["EPSV"] = f"229 here (|||{server.passive[1]}|)"
                client.connect(*server.address)
                assert listing(client) == LISTING
        assert asked_by(server) == ["EPSV", "PASV", "EPSV"]

    def test_epsv_again_after_refused_pasv(self) -> None:
        answers = {"EPSV": "425 later", "PASV": "500 not with IPv6"}
        with ScriptedServer(answers) as server, SocksServer() as proxy:
            with client_of(server, proxy.url) as client:
                with pytest.raises(ftplib.error_perm, match="IPv6") as caught:
                    listing(client)
                assert isinstance(caught.value.__context__, ftplib.error_temp)
                server.answers["EPSV"] = f"229 here (|||{server.passive[1]}|)"
                assert listing(client) == LISTING
        assert asked_by(server) == ["EPSV", "PASV", "EPSV"]

    def test_host_in_answer_to_epsv_is_ignored(self) -> None:
        with ScriptedServer() as server, SocksServer() as proxy:
            server.answers["EPSV"] = f"229 here (|1|192.0.2.1|{server.passive[1]}|)"
            with client_of(server, proxy.url) as client:
                assert listing(client) == LISTING

    @pytest.mark.parametrize(
        ("host", "command"),
        [("127.0.0.1", "PORT 127,0,0,1,{high},{low}"), ("::1", "EPRT |2|::1|{port}|")],
    )
    def test_port_or_eprt_tells_bound_address(self, host: str, command: str) -> None:
        with ScriptedServer(host=host) as server, SocksServer() as proxy:
            with client_of(server, proxy.url, passive=False) as client:
                assert listing(client) == LISTING
            greeting, first_reply = 2, 10 if host == "127.0.0.1" else 22
            port = proxy.requests[1].sent[greeting:][:first_reply][-2:]
        high, low = port
        told = command.format(high=high, low=low, port=int.from_bytes(port, "big"))
        assert told in server.commands

    @both_modes
    @pytest.mark.parametrize(
        "answer", ["200 soon\r\n150 coming\r\n226 done", "125 now\r\n250 done"]
    )
    def test_transfer_begun_by_200_or_125(self, answer: str, passive: bool) -> None:
        with ScriptedServer({"LIST": answer}) as server, SocksServer() as proxy:
            with client_of(server, proxy.url, passive) as client:
                assert listing(client) == LISTING

    @both_modes
    @pytest.mark.parametrize(
        ("answer", "size"),
        [("150 coming (1234 bytes)", 1234), ("150 coming", None), ("125 now (1234 bytes)", None)],
    )
    def test_ntransfercmd_returns_size_of_150_response(
        self, answer: str, size: int | None, passive: bool
    ) -> None:
        with ScriptedServer({"LIST": answer}) as server, SocksServer() as proxy:
            with client_of(server, proxy.url, passive) as client:
                data, told = client.ntransfercmd("LIST")
                data.close()
                assert told == size

    @both_modes
    @pytest.mark.parametrize(
        ("commands", "answer", "error"),
        [
            (commands, answer, error)
            for commands in (("EPSV", "PASV", "PORT"), ("REST",), ("LIST",))
            for answer, error in (
                ("331 say more", ftplib.error_reply),
                ("425 cannot", ftplib.error_temp),
                ("550 may not", ftplib.error_perm),
                ("what?", ftplib.error_proto),
                ("hang up", EOFError),
            )
            if (commands[0], answer[0]) != ("REST", "3")  # that is the good one
        ],
    )
    def test_refused_command_leaves_only_control_connection_open(
        self, commands: tuple[str, ...], answer: str, error: type[Exception], passive: bool
    ) -> None:
        answers = dict.fromkeys(commands, answer)
        with ScriptedServer(answers) as server, SocksServer() as proxy:
            with client_of(server, proxy.url, passive) as client:
                with nothing_left_open():
                    with pytest.raises(error) as held:
                        client.transfercmd("LIST", rest=7)
                    assert held
                if answer != "hang up":
                    client.voidcmd("NOOP")
                    assert server.commands[-1] == "NOOP"

    @pytest.mark.parametrize("response", ["225 fine", "226 fine", "426 aborted"])
    def test_abort_sends_plain_line(self, response: str) -> None:
        with ScriptedServer({"ABOR": response}) as server, SocksServer() as proxy:
            with client_of(server, proxy.url) as client:
                assert client.abort() == response
                client.voidcmd("NOOP")
        assert server.commands[:2] == ["ABOR", "NOOP"]

    def test_refused_abort_is_error_proto(self) -> None:
        with ScriptedServer({"ABOR": "500 what?"}) as server, SocksServer() as proxy:
            with client_of(server, proxy.url) as client, pytest.raises(ftplib.error_proto):
                client.abort()

    def test_refused_welcome_leaves_nothing_open(self) -> None:
        with ScriptedServer() as server, SocksServer() as proxy, nothing_left_open():
            server.welcome = "421 too many"
            with FTP(proxy=proxy.url) as client:
                with pytest.raises(ftplib.error_temp, match="too many") as held:
                    client.connect(*server.address)
                assert held
                client.close()

    @pytest.mark.parametrize("answer", ["227 here (127,0,0,1,0,0)", "227 here (127,0,0,1,256,0)"])
    def test_invalid_port_in_227_is_error_proto(self, answer: str) -> None:
        answers = {"EPSV": "229 here (|||0|)", "PASV": answer}
        with ScriptedServer(answers) as server, SocksServer() as proxy:
            with client_of(server, proxy.url) as client:
                with pytest.raises(ftplib.error_proto, match="227 here"):
                    listing(client)
            assert len(proxy.requests) == 1


class Patient(FTP):
    """A client whose timeout becomes longer after PASV."""

    def sendcmd(self, cmd: str) -> str:
        if cmd == "PASV":
            self.timeout = 10
        return super().sendcmd(cmd)


class TestDataConnection:
    """A data connection that the proxy cannot make."""

    @pytest.mark.parametrize(
        "faults",
        [Faults(reply=0x05), Faults(reply=0x02), Faults(close_after=2), Faults(stall_after=2)],
        ids=str,
    )
    def test_data_connection_by_pasv_after_epsv(self, faults: Faults) -> None:
        with ScriptedServer() as server, SocksServer(faults=[Faults(), faults]) as proxy:
            with Patient(proxy=proxy.url) as client:
                client.connect(*server.address)
                client.timeout = SOON if faults.stall_after else 10
                with nothing_left_open():
                    assert listing(client) == LISTING
                    assert listing(client) == LISTING
        assert asked_by(server) == ["EPSV", "PASV", "PASV"]

    @pytest.mark.parametrize("kind", ["socks5h", "socks4a", "http"])
    def test_data_connection_by_pasv_with_each_scheme(self, kind: str) -> None:
        faults = [Faults(), Faults(reply={"socks5h": 0x04, "socks4a": 0x5B, "http": 503}[kind])]
        with ScriptedServer() as server, SocksServer(faults=faults) as proxy:
            with client_of(server, proxy.url_as(kind)) as client:
                assert listing(client) == LISTING
        assert asked_by(server) == ["EPSV", "PASV"]

    def test_data_connection_by_pasv_only_after_refusal_of_last_hop(self) -> None:
        with ScriptedServer() as server, ExitStack() as stack:
            first, last = (stack.enter_context(SocksServer()) for _ in range(2))
            client = stack.enter_context(client_of(server, [first.url, last.url]))
            last.misbehave([REFUSING])
            assert listing(client) == LISTING
            assert asked_by(server) == ["EPSV", "PASV"]
            client.quit()
            client.connect(*server.address)
            first.misbehave([REFUSING])
            with pytest.raises(ReplyError, match=FAILED) as caught:
                listing(client)
            assert caught.value.hop == 0
        assert asked_by(server) == ["EPSV", "PASV", "EPSV"]

    def test_data_connection_fails_if_pasv_fails(self) -> None:
        faults = [Faults(), Faults(reply=0x05), Faults(reply=0x04), Faults(reply=0x03)]
        with ScriptedServer() as server, SocksServer(faults=faults) as proxy:
            with client_of(server, proxy.url) as client, nothing_left_open():
                for reply in (Reply.HOST_UNREACHABLE, Reply.NETWORK_UNREACHABLE):
                    with pytest.raises(ReplyError, match=f"^{FAILED}") as held:
                        listing(client)
                    assert held.value.reply == reply
                client.voidcmd("NOOP")
        assert asked_by(server) == ["EPSV", "PASV", "PASV"]

    def test_data_connection_raises_first_error_without_pasv(self) -> None:
        faults = [Faults(), Faults(close_after=2)]
        with ScriptedServer({"PASV": "500 not with IPv6"}, "::1") as server:
            with SocksServer(faults=faults) as proxy, client_of(server, proxy.url) as client:
                with pytest.raises(ProxyClosed, match=FAILED) as caught:
                    listing(client)
                assert isinstance(caught.value.__cause__, ConnectionResetError)
                assert caught.value.__notes__ == [
                    "the server did not help by PASV either: 500 not with IPv6"
                ]
                assert listing(client) == LISTING
        assert asked_by(server) == ["EPSV", "PASV", "EPSV"]

    def test_data_connection_not_repeated_after_protocol_error(self) -> None:
        faults = [Faults(), Faults(answers={"method selection": b"HTTP"})]
        with ScriptedServer() as server, SocksServer(faults=faults) as proxy:
            with client_of(server, proxy.url) as client:
                with pytest.raises(ProtocolError, match=FAILED):
                    listing(client)
                assert listing(client) == LISTING
        assert asked_by(server) == ["EPSV", "EPSV"]

    def test_data_connection_with_overridden_makepasv(self) -> None:
        class Own(FTP):
            def makepasv(self) -> tuple[str, int]:
                return ftplib.parse227(self.sendcmd("PASV"))

        with ScriptedServer() as server, SocksServer(faults=[Faults(), REFUSING]) as proxy:
            with Own(proxy=proxy.url, timeout=10) as client:
                client.connect(*server.address)
                with pytest.raises(ReplyError, match=FAILED):
                    listing(client)
        assert asked_by(server) == ["PASV"]

    @pytest.mark.parametrize("refused", [Faults(reply=0x07), Faults(second_reply=0x01)], ids=str)
    def test_data_connection_error_text_in_active_mode(self, refused: Faults) -> None:
        with ScriptedServer() as server, SocksServer(faults=[Faults(), refused]) as proxy:
            with client_of(server, proxy.url, passive=False) as client:
                with pytest.raises(ReplyError, match=FAILED) as caught:
                    client.transfercmd("LIST")
        error = caught.value
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    def test_data_connection_error_text_without_errno(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_args: object, **_options: object) -> None:
            raise OSError("of a method of authentication")

        with ScriptedServer() as server, SocksServer() as proxy:
            with client_of(server, proxy.url) as client:
                monkeypatch.setattr("socksclient.ftp.create_connection", fail)
                with pytest.raises(OSError, match=f"^{FAILED}of a method"):
                    listing(client)


class TestActive:
    def test_active_mode_refuses_bound_name(self) -> None:
        faults = [Faults(), Faults(bound_address=("name.test", 4711))]
        with ScriptedServer() as server, SocksServer(faults=faults) as proxy:
            with client_of(server, proxy.url, passive=False) as client, nothing_left_open():
                with pytest.raises(
                    ProtocolError, match=r"the proxy listens at the name 'name\.test'"
                ) as held:
                    client.transfercmd("LIST")
                assert held
        assert not [command for command in server.commands if command.startswith(("PORT", "EPRT"))]

    def test_active_mode_replaces_unspecified_bound_address(self) -> None:
        faults = [Faults(), Faults(bound_address=("0.0.0.0", 4711))]
        with ScriptedServer({"LIST": "425 cannot"}) as server:
            with SocksServer(faults=faults) as proxy:
                server.connects = False
                with client_of(server, proxy.url, passive=False) as client:
                    with pytest.raises(ftplib.error_temp):
                        client.transfercmd("LIST")
        assert "PORT 127,0,0,1,18,103" in server.commands

    def test_active_mode_sends_mapped_bound_address_by_port(self) -> None:
        faults = [Faults(), Faults(bound_address=("::ffff:127.0.0.1", 4711))]
        with ScriptedServer({"LIST": "425 cannot"}) as server:
            with SocksServer(faults=faults) as proxy:
                server.connects = False
                with client_of(server, proxy.url, passive=False) as client:
                    with pytest.raises(ftplib.error_temp):
                        client.transfercmd("LIST")
        assert "PORT 127,0,0,1,18,103" in server.commands

    @pytest.mark.parametrize("host", ["224.0.0.1", "its own"])
    def test_active_mode_refuses_invalid_bound_address(self, host: str) -> None:
        with ScriptedServer() as server, SocksServer() as proxy:
            bound_address = proxy.address if host == "its own" else (host, 4711)
            proxy.misbehave([Faults(), Faults(bound_address=bound_address)])
            with client_of(server, proxy.url, passive=False) as client, nothing_left_open():
                with pytest.raises(ProtocolError) as held:
                    client.transfercmd("LIST")
                assert held
        assert not [command for command in server.commands if command.startswith(("PORT", "EPRT"))]

    @pytest.mark.parametrize(
        "faults", [Faults(second_reply=0x02), Faults(close_after=12), Faults(reply=0x01)], ids=str
    )
    def test_active_mode_failure_of_proxy_leaves_nothing_open(self, faults: Faults) -> None:
        with ScriptedServer() as server, SocksServer(faults=[Faults(), faults]) as proxy:
            with client_of(server, proxy.url, passive=False) as client, nothing_left_open():
                with pytest.raises(SocksError) as held:
                    client.transfercmd("LIST")
                assert held.value.destination == server.address


class TestTimeout:
    def test_timeout_when_server_never_connects(self) -> None:
        with ScriptedServer({"LIST": "150 coming"}) as server, SocksServer() as proxy:
            server.connects = False
            with client_of(server, proxy.url, passive=False) as client:
                client.timeout = SHORT
                with nothing_left_open(), pytest.raises(ProxyTimeout) as held:
                    client.transfercmd("LIST")
                assert held.value.destination == server.address
                assert server.commands[-1] == "LIST"
                client.voidcmd("NOOP")

    def test_timeout_when_server_sends_no_data(self) -> None:
        with ScriptedServer({"LIST": "150 coming"}) as server, SocksServer() as proxy:
            server.connects = False
            with client_of(server, proxy.url) as client:
                client.timeout = SHORT
                with nothing_left_open(), pytest.raises(TimeoutError) as held:
                    listing(client)
                # The proxy has replied in time. It is the FTP server that is late.
                assert not isinstance(held.value, ProxyTimeout)

    @both_modes
    def test_timeout_when_proxy_stalls_data_connection(self, passive: bool) -> None:
        faults = [Faults(), *[Faults(stall_after=2)] * 2]
        with ScriptedServer() as server, SocksServer(faults=faults) as proxy:
            with client_of(server, proxy.url, passive) as client, nothing_left_open():
                client.timeout = SOON
                with pytest.raises(ProxyTimeout) as held:
                    client.transfercmd("LIST")
                assert held

    def test_timeout_when_proxy_stalls_control_connection(self) -> None:
        with SocksServer(faults=Faults(stall_after=2)) as proxy, nothing_left_open():
            with pytest.raises(ProxyTimeout) as held:
                FTP("192.0.2.1", timeout=SOON, proxy=proxy.url)
            assert held

    def test_timeout_of_connect_or_constructor_or_socket_default(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 65.0)
        with ScriptedServer() as server, SocksServer() as proxy:
            with FTP(proxy=proxy.url) as client:
                client.connect(*server.address)
                assert client.sock is not None
                assert client.sock.gettimeout() == 65.0
                with client.transfercmd("LIST") as data:
                    assert data.gettimeout() == 65.0
            for timeout in (75.0, None):
                for passive in (True, False):
                    with client_of(server, proxy.url, passive, timeout) as client:
                        assert client.sock is not None
                        assert client.sock.gettimeout() == timeout
                        with client.transfercmd("LIST") as data:
                            assert data.gettimeout() == timeout
            with FTP(timeout=1, proxy=proxy.url) as client:
                client.connect(*server.address, timeout=85.0)
                assert client.sock is not None
                assert client.sock.gettimeout() == 85.0

    def test_timeout_0_is_refused(self) -> None:
        with SocksServer() as proxy:
            with pytest.raises(ValueError, match="timeout must be more than 0"):
                FTP("192.0.2.1", timeout=0, proxy=proxy.url)
            assert proxy.connections == []


class TestNames:
    @both_modes
    def test_ftp_name_goes_to_proxy(self, passive: bool) -> None:
        with ScriptedServer() as server, SocksServer() as proxy:
            proxy.routes["ftp.test", 21] = server.address
            proxy.routes["ftp.test", server.passive[1]] = server.passive
            with connects_only_to(proxy.address), FTP("ftp.test", proxy=proxy.url) as client:
                client.set_pasv(passive)
                # The server connects, in another thread, to an address.
                assert listing(client) == LISTING
            assert {request.address_type for request in proxy.requests} == {0x03}
            asked = [(request.command, request.destination) for request in proxy.requests]
            data = (0x01, ("ftp.test", server.passive[1])) if passive else (0x02, ("ftp.test", 21))
            assert asked == [(0x01, ("ftp.test", 21)), data]

    @both_modes
    def test_ftp_name_is_resolved_here_with_socks5(
        self, passive: bool, names: dict[str, list[str]]
    ) -> None:
        names["ftp.test"] = ["127.0.0.1"]
        with ScriptedServer() as server, SocksServer() as proxy:
            with FTP(proxy=proxy.url.replace("socks5h", "socks5")) as client:
                client.connect("ftp.test", server.address[1])
                client.set_pasv(passive)
                assert client.makepasv() == ("ftp.test", server.passive[1])
                assert listing(client) == LISTING
            for request in proxy.requests:
                assert request.destination is not None
                assert request.destination[0] == "127.0.0.1"


class TestConstructor:
    def test_constructor_logs_in_with_host_and_user(self) -> None:
        answers = {"USER": "331 and?", "PASS": "332 and?", "ACCT": "230 in"}
        with ScriptedServer(answers) as server:
            with SocksServer(routes={("ftp.test", 21): server.address}) as proxy:
                with FTP("ftp.test", "user", "pass", "acct", proxy=proxy.url) as client:
                    assert client.getwelcome() == "220 ready"
        assert server.commands == ["USER user", "PASS pass", "ACCT acct", "QUIT"]

    @pytest.mark.parametrize(
        ("kind", "refused"), [(FTP, "USER"), (FTP_TLS, "AUTH")], ids=["FTP", "FTP_TLS"]
    )
    def test_constructor_that_fails_leaves_nothing_open(
        self, kind: Callable[..., Client], refused: str
    ) -> None:
        with ScriptedServer({refused: "530 not you"}) as server:
            with SocksServer(routes={("ftp.test", 21): server.address}) as proxy:
                with nothing_left_open(), pytest.raises(ftplib.error_perm) as held:
                    kind("ftp.test", "user", proxy=proxy.url)
                assert held

    @needs_servers
    @pytest.mark.parametrize("host", ["127.0.0.1"], indirect=True)
    def test_constructor_logs_in_to_real_server(self, server: FTPServer, tls: bool) -> None:
        # Under a name for which its certificate is.
        with SocksServer(routes={("localhost", 21): server.address}) as socks_server:
            proxy = Proxy.from_url(socks_server.url)
            arguments = ("localhost", server.user, server.password)
            with (
                FTP_TLS(*arguments, context=server.trust(), timeout=20, proxy=proxy)
                if tls
                else FTP(*arguments, timeout=20, proxy=proxy)
            ) as client:
                client.voidcmd("NOOP")
                assert isinstance(client.sock, ssl.SSLSocket) is tls

    def test_prot_p_and_prot_c(self) -> None:
        with ScriptedServer() as server, SocksServer() as proxy:
            with FTP_TLS(timeout=10, proxy=proxy.url) as client:
                client.connect(*server.address)
                assert client.prot_p() == "200 fine"
                assert client.prot_c() == "200 fine"
                assert listing(client) == LISTING
        assert server.commands[:3] == ["PBSZ 0", "PROT P", "PROT C"]

    def test_constructor_without_host_connects_to_nothing(self) -> None:
        with SocksServer() as proxy:
            for client in (FTP(proxy=proxy.url), FTP_TLS(proxy=proxy.url)):
                assert isinstance(client, ftplib.FTP)
                assert client.proxy == (Proxy.from_url(proxy.url),)
                client.close()
            assert isinstance(client, ftplib.FTP_TLS)
            assert proxy.connections == []

    @pytest.mark.parametrize("kind", [FTP, FTP_TLS])
    def test_constructor_refuses_missing_or_invalid_proxy(
        self, kind: Callable[..., Client]
    ) -> None:
        with pytest.raises(TypeError, match="required keyword-only argument: 'proxy'"):
            kind("192.0.2.1")
        with pytest.raises(TypeError, match="proxy must be"):
            kind("192.0.2.1", proxy=None)
        with pytest.raises(ValueError, match="scheme"):
            kind("192.0.2.1", proxy="127.0.0.1:1080")

    @pytest.mark.parametrize("kind", [FTP, FTP_TLS])
    def test_constructor_encoding_option(self, kind: Callable[..., Client]) -> None:
        with ScriptedServer({"CWD": "250 bücher"}) as server, SocksServer() as proxy:
            with kind(encoding="latin-1", timeout=10, proxy=proxy.url) as client:
                client.connect(*server.address)
                assert client.cwd("bücher") == "250 bücher"
        assert server.commands[0] == "CWD bücher"


class TestConnect:
    @both_modes
    @pytest.mark.parametrize("by_connect", [False, True])
    def test_connect_source_address(self, passive: bool, by_connect: bool) -> None:
        source = ("127.0.0.5", 0)
        with ScriptedServer() as server, SocksServer() as proxy:
            with FTP(source_address=None if by_connect else source, proxy=proxy.url) as client:
                if by_connect:
                    client.connect(*server.address, source_address=source)
                else:
                    client.connect(*server.address)
                client.set_pasv(passive)
                assert listing(client) == LISTING
            assert [request.client[0] for request in proxy.requests] == ["127.0.0.5"] * 2

    def test_connect_again_and_audit_event(self) -> None:
        connected: list[object] = []

        def audit(event: str, args: tuple[object, ...]) -> None:
            if event == "ftplib.connect" and args[0] is client:
                connected.append(args[1:])

        with ScriptedServer() as server, SocksServer() as proxy:
            client = FTP(timeout=10, proxy=proxy.url)
            sys.addaudithook(audit)
            for arguments in (server.address, ()):
                assert client.connect(*arguments) == client.welcome == "220 ready"
                assert client.af == socket.AF_INET
                assert listing(client) == LISTING
                client.quit()
            assert connected == [server.address] * 2

    @pytest.mark.parametrize("end", ["quit", "close", "with"])
    @both_modes
    def test_quit_and_close_leave_nothing_open(self, end: str, passive: bool) -> None:
        with ScriptedServer() as server, SocksServer() as proxy, nothing_left_open():
            with client_of(server, proxy.url, passive) as client:
                assert listing(client) == LISTING
                if end != "with":
                    getattr(client, end)()
            assert client.sock is None
