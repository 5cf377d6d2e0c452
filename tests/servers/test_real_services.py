"""The servers of `real_services` do what they promise, without a proxy."""

from __future__ import annotations

import ftplib
import io
import socket
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from helpers import real_services
from helpers.real_servers.process import Address
from helpers.real_services import BIG, FTPServer
from helpers.support import needs

MISSING = real_services.missing()
pytestmark = needs(MISSING)

HOSTS = ["127.0.0.1", "::1"]
FTP_SERVERS = {"vsftpd": real_services.vsftpd, "pyftpdlib": real_services.pyftpdlib}
ENCRYPTION = {"without TLS": False, "with TLS": True}
CONTENT = bytes(range(256)) * 8192


@pytest.fixture(scope="module", params=HOSTS)
def name_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    with real_services.name_server(tmp_path_factory.mktemp("dns"), request.param) as address:
        yield address


class TestNameServer:
    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    @pytest.mark.parametrize(
        ("name", "kind", "answer"),
        [
            ("a.test", "A", ["192.0.2.1"]),
            ("a.test", "AAAA", []),
            ("aaaa.test", "AAAA", ["2001:db8::1"]),
            ("both.test", "A", ["192.0.2.2"]),
            ("both.test", "AAAA", ["2001:db8::2"]),
            ("txt.test", "TXT", ['"hello"']),
        ],
    )
    def test_name_server_answers_a_name(
        self, name_server: Address, transport: str, name: str, kind: str, answer: list[str]
    ) -> None:
        response = ask(name_server, transport, name, kind)
        assert response.rcode() == dns.rcode.NOERROR
        assert texts(response) == answer

    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    @pytest.mark.parametrize("name", ["nowhere.test", "example.com"])
    def test_name_server_answers_nxdomain(
        self, name_server: Address, transport: str, name: str
    ) -> None:
        assert ask(name_server, transport, name, "A").rcode() == dns.rcode.NXDOMAIN

    def test_name_server_truncates_an_answer_too_long_for_udp(self, name_server: Address) -> None:
        whole = [f'"{text}"' for text in BIG]
        assert len("".join(BIG)) > 4000
        cut = ask(name_server, "udp", "big.test", "TXT")
        assert cut.flags & dns.flags.TC
        assert len(texts(cut)) < len(whole)
        response = ask(name_server, "tcp", "big.test", "TXT")
        assert not response.flags & dns.flags.TC
        assert sorted(texts(response)) == whole


@pytest.fixture(scope="module", params=ENCRYPTION)
def tls(request: pytest.FixtureRequest) -> bool:
    return ENCRYPTION[request.param]


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=FTP_SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, host: str, tls: bool
) -> Iterator[FTPServer]:
    with FTP_SERVERS[request.param](tmp_path_factory.mktemp("ftp"), host, tls=tls) as server:
        yield server


class TestFTP:
    @pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
    def test_ftp_server_transfers_files_both_ways(
        self, server: FTPServer, tls: bool, passive: bool
    ) -> None:
        (server.directory / "to read").write_bytes(CONTENT)
        with logged_in(server, tls) as client:
            client.set_pasv(passive)
            received = bytearray()
            client.retrbinary("RETR to read", received.extend)
            assert received == CONTENT
            client.storbinary("STOR written", io.BytesIO(CONTENT))
            assert (server.directory / "written").read_bytes() == CONTENT
            assert sorted(client.nlst()) == ["to read", "written"]

    # IPv6 has only one address on loopback, ::1.
    @pytest.mark.parametrize("host", ["127.0.0.1"], indirect=True)
    @pytest.mark.parametrize("tls", ["without TLS"], indirect=True)
    class TestDataConnectionsWithAnotherAddress:
        def test_ftp_server_connects_to_another_address_of_the_client(
            self, server: FTPServer
        ) -> None:
            (server.directory / "to read").write_bytes(CONTENT)
            with logged_in(server, tls=False) as client:
                client.sendcmd("TYPE I")
                with socket.create_server(("127.0.0.2", 0)) as listener:
                    listener.settimeout(10)
                    client.sendport(*listener.getsockname())
                    client.sendcmd("RETR to read")
                    with listener.accept()[0] as data:
                        assert read(data) == CONTENT
                client.voidresp()

        def test_ftp_server_accepts_data_from_another_address_of_the_client(
            self, server: FTPServer
        ) -> None:
            (server.directory / "to read").write_bytes(CONTENT)
            with logged_in(server, tls=False) as client:
                client.sendcmd("TYPE I")
                source = ("127.0.0.2", 0)
                with socket.create_connection(client.makepasv(), 10, source) as data:
                    client.sendcmd("RETR to read")
                    assert read(data) == CONTENT
                client.voidresp()

    @pytest.mark.parametrize("tls", ["with TLS"], indirect=True)
    class TestFTPServerThatInsistsOnTLS:
        def test_ftp_server_refuses_a_login_without_tls(self, server: FTPServer) -> None:
            with connected(server, tls=False) as client:
                with pytest.raises(ftplib.error_perm):
                    client.login(server.user, server.password)

        def test_ftp_server_refuses_data_without_tls(self, server: FTPServer) -> None:
            with logged_in(server, tls=True) as client:
                client.sendcmd("PROT C")
                with pytest.raises(ftplib.error_perm, match=r"SSL|encrypted"):
                    client.nlst()

    @pytest.mark.parametrize("host", ["127.0.0.1"], indirect=True)
    @pytest.mark.parametrize("tls", ["with TLS"], indirect=True)
    def test_ftp_server_certificate_is_for_localhost_too(self, server: FTPServer) -> None:
        with ftplib.FTP_TLS(context=server.trust(), timeout=10) as client:
            client.connect("localhost", server.address[1])
            client.auth()


def test_vsftpd_anonymous_user_needs_the_password(tmp_path: Path) -> None:
    with real_services.vsftpd(tmp_path) as server, connected(server, tls=False) as client:
        with pytest.raises(ftplib.error_perm, match="530"):
            client.login(server.user, "wrong")


@pytest.mark.parametrize("name", FTP_SERVERS)
def test_ftp_server_closes_its_connections_at_exit(name: str, tmp_path: Path) -> None:
    with FTP_SERVERS[name](tmp_path) as server:
        client = logged_in(server, tls=False)
    with pytest.raises((EOFError, ConnectionResetError)):
        client.voidcmd("NOOP")
    client.close()


def ask(address: Address, transport: str, name: str, kind: str) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    function = dns.query.udp if transport == "udp" else dns.query.tcp
    return function(query, address[0], port=address[1], timeout=10)


def texts(response: dns.message.Message) -> list[str]:
    return [record.to_text() for records in response.answer for record in records]


def connected(server: FTPServer, tls: bool) -> ftplib.FTP:
    client = ftplib.FTP_TLS(context=server.trust(), timeout=10) if tls else ftplib.FTP(timeout=10)
    client.connect(*server.address)
    return client


def logged_in(server: FTPServer, tls: bool) -> ftplib.FTP:
    client = connected(server, tls)
    client.login(server.user, server.password)
    if isinstance(client, ftplib.FTP_TLS):
        client.prot_p()
    return client


def read(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()
