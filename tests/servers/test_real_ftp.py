"""`socksclient.ftp` with real servers, through Dante and microsocks, in both modes."""

from __future__ import annotations

import ftplib
import hashlib
import os
import random
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from socksclient import Proxy, Reply, ReplyError
from socksclient.ftp import FTP, FTP_TLS
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers import real_servers, real_services
from helpers.real_services import FTPServer
from helpers.scripted_ftp import FAILED, REFUSING, Client, both_modes, connects_only_to
from helpers.support import Address, needs, nothing_left_open

MISSING = [*real_servers.missing(), *real_services.missing()]
needs_servers = needs(MISSING)
SIZE = 20_000_000


class File(NamedTuple):
    path: Path
    sha256: str


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> File:
    """Return a file of random octets."""
    octets = random.randbytes(SIZE)
    path = tmp_path_factory.mktemp("ftp") / "big"
    path.write_bytes(octets)
    return File(path, hashlib.sha256(octets).hexdigest())


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
            # The first response ends the transfer, and the second one answers ABOR.
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
            # PASV does not work with IPv6, but vsftpd answers it with 0.0.0.0.
            if ":" in server.address[0] and server.user != "anonymous":
                with pytest.raises(ReplyError, match=FAILED):
                    client.nlst()
            else:
                assert "here" in client.nlst()
            assert "here" in client.nlst()


class ByAnyName(dict[Address, Address]):
    """Routes that lead from every host to `host`."""

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


@needs_servers
@pytest.mark.parametrize("host", ["127.0.0.1"], indirect=True)
def test_constructor_logs_in_to_real_server(server: FTPServer, tls: bool) -> None:
    # The certificate is for this name.
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
