"""`socksclient.ftp`: the active mode, timeouts, names, the constructor, connecting."""

from __future__ import annotations

import ftplib
import socket
import sys
from collections.abc import Callable

import pytest

from socksclient import ProtocolError, Proxy, ProxyTimeout, SocksError
from socksclient.ftp import FTP, FTP_TLS
from socksclient.testing import Faults, SocksServer

from helpers.scripted_ftp import (
    LISTING,
    SOON,
    Client,
    ScriptedServer,
    both_modes,
    client_of,
    connects_only_to,
    listing,
)
from helpers.support import SHORT, nothing_left_open


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
                # In active mode the server, which has another thread, connects to an address.
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
