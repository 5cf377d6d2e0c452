"""`socksclient.ftp`: the responses of the server, and data connections that fail."""

from __future__ import annotations

import ftplib
import pickle
from contextlib import ExitStack

import pytest

from socksclient import ProtocolError, ProxyClosed, Reply, ReplyError
from socksclient.ftp import FTP
from socksclient.testing import Faults, SocksServer

from helpers.scripted_ftp import (
    FAILED,
    LISTING,
    REFUSING,
    SOON,
    ScriptedServer,
    asked_by,
    both_modes,
    client_of,
    listing,
)
from helpers.support import nothing_left_open

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
            # 331 is the right answer to REST.
            if (commands[0], answer[0]) != ("REST", "3")
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
