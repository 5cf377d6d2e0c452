"""The `socksclient` command."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from socksclient.cli import main
from socksclient.exceptions import Phase
from socksclient.testing import Faults, SocksServer

from origin import Origin
from support import Address, refused_port


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    logger = logging.getLogger("socksclient")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def routes(origin: Origin) -> dict[Address, Address]:
    return {
        ("origin.test", 80): ("127.0.0.1", origin.http_port),
        ("origin.test", 443): ("127.0.0.1", origin.https_port),
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "socksclient", *arguments]


class TestGet:
    def test_the_body(
        self, routes: dict[Address, Address], capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        with SocksServer(routes=routes) as server:
            url = "http://origin.test/download?octets=100000"
            assert main(["get", url, "--proxy", server.url]) == 0
        out, err = capfdbinary.readouterr()
        assert len(out) == 100_000
        assert err == b""

    def test_the_headers(
        self, routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer(routes=routes) as server:
            assert main(["get", "-i", "http://origin.test/", "--proxy", server.url]) == 0
        head, _, body = capsys.readouterr().out.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 ")
        assert "content-type: application/json" in head
        assert body.startswith("{")

    def test_the_steps(
        self, routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer(routes=routes, accounts={"user": "s3cret"}) as server:
            assert main(["get", "-v", "http://origin.test/", "--proxy", server.url]) == 0
        err = capsys.readouterr().err
        assert [line.rpartition(": ")[2].split(",")[0] for line in err.splitlines()] == [
            "connect",
            "method selection",
            "authentication",
            "request",
            "granted",
        ]
        assert all(" ms  origin.test:80 via socks5h://***@" in line for line in err.splitlines())
        assert "s3cret" not in err

    @pytest.mark.parametrize(
        ("faults", "status", "words"),
        [
            (Faults(stall_after=0), 4, "timed out"),
            (Faults(answers={"method selection": b"HTTP/1.0"}), 5, "this is an HTTP proxy"),
            (Faults(close_after=2), 5, "hung up"),
            (Faults(method=0xFF), 6, "the proxy wants authentication"),
            (Faults(reply=0x05), 7, "connection refused (REP 05)"),
        ],
        ids=str,
    )
    def test_errors_of_the_proxy(
        self, faults: Faults, status: int, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer(faults=faults) as server:
            arguments = ["get", "http://origin.test/", "--proxy", server.url, "--timeout", "0.3"]
            assert main(arguments) == status
        self.assert_one_line(capsys, words)

    def test_a_proxy_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        proxy = f"socks5h://127.0.0.1:{refused_port()}"
        assert main(["get", "http://origin.test/", "--proxy", proxy]) == 3
        self.assert_one_line(capsys, "cannot reach the proxy: Connection refused")

    def test_a_name_that_is_not_there(
        self, names: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["get", "http://origin.test/", "--proxy", "socks5://127.0.0.1"]) == 8
        self.assert_one_line(capsys, "cannot resolve origin.test")

    def test_a_certificate_that_nobody_trusts(
        self, routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer(routes=routes) as server:
            assert main(["get", "https://origin.test/", "--proxy", server.url]) == 1
        self.assert_one_line(capsys, "CERTIFICATE_VERIFY_FAILED")

    def test_an_origin_that_breaks_off(
        self, routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer(routes=routes) as server:
            assert main(["get", "http://origin.test/break", "--proxy", server.url]) == 1
        self.assert_one_line(capsys, "peer closed connection")

    @pytest.mark.parametrize(
        ("url", "proxy", "words"),
        [
            ("http://origin.test/", "127.0.0.1:1080", "proxy URL has no scheme"),
            ("http://origin.test/", "socks5h://u:p%zz@127.0.0.1", "proxy password has a %"),
            ("ftp://origin.test/", "socks5h://127.0.0.1", "ftp://"),
            ("http://origin.test:port/", "socks5h://127.0.0.1", "Invalid port"),
            (f"http://{'n' * 256}/", "socks5h://127.0.0.1", "host is 256 octets long"),
        ],
    )
    def test_what_cannot_be(
        self, url: str, proxy: str, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["get", url, "--proxy", proxy]) == 2
        self.assert_one_line(capsys, words)

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
    def test_a_timeout_that_cannot_be(
        self, seconds: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["get", "http://o.test/", "--proxy", "socks5h://h", f"--timeout={seconds}"])
        assert caught.value.code == 2
        assert "argument --timeout" in capsys.readouterr().err

    def assert_one_line(self, capsys: pytest.CaptureFixture[str], words: str) -> None:
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("socksclient: ")
        assert words in line

    def test_a_reader_that_has_had_enough(self, routes: dict[Address, Address]) -> None:
        url = "http://origin.test/download?octets=10000000"
        with SocksServer(routes=routes) as server:
            run = subprocess.Popen(
                command("get", url, "--proxy", server.url),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert run.stdout is not None
            assert run.stderr is not None
            run.stdout.read(1)
            run.stdout.close()
            assert run.wait(30) == 1
            assert run.stderr.read() == b""
            run.stderr.close()

    def test_an_interrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_args: object, **_kwargs: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("socksclient.cli._get", interrupt)
        assert main(["get", "http://origin.test/", "--proxy", "socks5h://127.0.0.1"]) == 130


NAME_SERVER = "192.0.2.53"  # nowhere: only the proxy knows where it is
RECORDS = {
    ("a.test.", "A"): ["192.0.2.1"],
    ("a.test.", "AAAA"): ["2001:db8::1"],
    ("a.test.", "TXT"): ['"hello" "world"'],
    ("two.test.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("www.a.test.", "CNAME"): ["a.test."],
    ("xn--strae-oqa.test.", "A"): ["192.0.2.3"],
}


def answer(octets: bytes) -> dns.message.Message | None:
    query = dns.message.from_wire(octets)
    response = dns.message.make_response(query)
    name, kind = query.question[0].to_text().lower().split(" in ")
    kind = kind.upper()
    if name == "silent.test.":
        return None
    if name == "long.test.":
        response.flags |= dns.flags.TC
    elif name == "failing.test.":
        response.set_rcode(dns.rcode.SERVFAIL)
    elif name not in {name for name, _ in RECORDS}:
        response.set_rcode(dns.rcode.NXDOMAIN)
    for link in [(name, "CNAME"), (name.removeprefix("www."), kind)]:
        if link in RECORDS:
            response.answer.append(dns.rrset.from_text(link[0], 60, "IN", link[1], *RECORDS[link]))
    return response


@pytest.fixture(scope="module")
def name_server() -> Iterator[Address]:
    """Over UDP only."""

    def serve() -> None:
        while True:
            octets, client = sock.recvfrom(65535)
            if client == address:
                return
            if response := answer(octets):
                sock.sendto(response.to_wire(), client)

    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address: Address = sock.getsockname()
        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        sock.sendto(b"", address)  # from itself: the end
        thread.join()


class TestDns:
    @pytest.fixture
    def proxy(self, name_server: Address) -> Iterator[SocksServer]:
        hosts = [NAME_SERVER, "2001:db8::53", "dns.test"]
        routes = {(host, port): name_server for host in hosts for port in (53, 5353)}
        with SocksServer(routes=routes, accounts={"user": "s3cret"}) as proxy:
            yield proxy

    def run(
        self,
        proxy: SocksServer | str,
        *arguments: str,
        server: str = NAME_SERVER,
        timeout: str = "10",
    ) -> int:
        url = proxy if isinstance(proxy, str) else proxy.url
        options = [f"--server={server}", f"--proxy={url}", f"--timeout={timeout}"]
        return main(["dns", *arguments, *options])

    @pytest.mark.parametrize(
        ("arguments", "lines"),
        [
            (["a.test"], ["192.0.2.1"]),
            (["two.test", "A"], ["192.0.2.1", "192.0.2.2"]),
            (["A.test.", "aaaa"], ["2001:db8::1"]),
            (["a.test", "TXT"], ['"hello" "world"']),
            (["www.a.test", "AAAA"], ["2001:db8::1", "a.test."]),
            (["a.test", "MX"], []),
            (["a.test", "TYPE65280"], []),
        ],
        ids=" ".join,
    )
    def test_the_records(
        self,
        proxy: SocksServer,
        arguments: list[str],
        lines: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(proxy, *arguments) == 0
        out, err = capsys.readouterr()
        assert sorted(out.splitlines()) == lines  # the server has them in no order
        assert err == ""

    def test_the_whole_answer_and_the_steps(
        self, proxy: SocksServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(proxy, "-v", "a.test") == 0
        out, err = capsys.readouterr()
        assert "opcode QUERY\nrcode NOERROR\n" in out
        assert ";QUESTION\na.test. IN A\n;ANSWER\na.test. 60 IN A 192.0.2.1\n" in out
        assert [line.rpartition(": ")[2].split()[0] for line in err.splitlines()] == [
            *("connect", "method", "authentication", "request", "granted,", "relay")
        ]
        assert all(" ms  UDP ASSOCIATE via socks5h://***@" in line for line in err.splitlines())
        assert "s3cret" not in err

    def test_an_international_name_goes_by_idna_2008(
        self, proxy: SocksServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(proxy, "Straße.test") == 0
        assert capsys.readouterr().out == "192.0.2.3\n"
        [(_, octets)] = proxy.requests[0].datagrams
        [question] = dns.message.from_wire(octets).question
        assert question.name.to_text() == "xn--strae-oqa.test."

    @pytest.mark.parametrize(
        ("server", "host", "port"),
        [
            ("192.0.2.53", "192.0.2.53", 53),
            ("192.0.2.53:5353", "192.0.2.53", 5353),
            ("2001:db8::53", "2001:db8::53", 53),
            ("[2001:db8::53]", "2001:db8::53", 53),
            ("[2001:db8::53]:5353", "2001:db8::53", 5353),
            ("dns.test", "dns.test", 53),
            ("dns.test:5353", "dns.test", 5353),
        ],
    )
    def test_a_server(
        self,
        proxy: SocksServer,
        server: str,
        host: str,
        port: int,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(proxy, "a.test", server=server) == 0
        [(destination, _)] = proxy.requests[0].datagrams
        assert destination == (host, port)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        "server",
        [
            "",
            ":53",
            "dns.test:",
            "dns.test:dns",
            "dns.test:123456",
            "[::1",
            "::1]:53",
            "[dns.test]",
        ],
    )
    def test_a_server_that_is_none(self, server: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            self.run("socks5h://h", "a.test", server=server)
        assert caught.value.code == 2
        assert "argument --server" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "server", "words"),
        [
            (["a.test", "NOPE"], NAME_SERVER, "unknown"),
            (["a.test", "TYPE65536"], NAME_SERVER, "65535"),
            (["a..test"], NAME_SERVER, "label is empty"),
            (["n" * 64], NAME_SERVER, "label"),
            (["☃.test"], NAME_SERVER, "U+2603"),
            (["a.test"], "dns.test:70000", "port 70000"),
            (["a.test"], "dns.test:0", "port 0"),
            (["a.test"], "dns server", "' ' in it"),
            (["a.test"], "n" * 256, "256 octets"),
            (["a.test"], "fe80::1%eth0", "zone id"),
        ],
    )
    def test_what_cannot_be_is_not_asked(
        self,
        proxy: SocksServer,
        arguments: list[str],
        server: str,
        words: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(proxy, *arguments, server=server) == 2
        self.assert_one_line(capsys, words)
        assert proxy.connections == []

    def test_a_proxy_that_cannot_be(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("127.0.0.1:1080", "a.test") == 2
        self.assert_one_line(capsys, "proxy URL has no scheme")

    @pytest.mark.parametrize(
        ("name", "timeout", "words"),
        [
            ("nowhere.test", "10", "the name server answered NXDOMAIN"),
            ("failing.test", "10", "the name server answered SERVFAIL"),
            ("silent.test", "0.1", "timed out"),
        ],
    )
    def test_failures_of_the_name_server(
        self,
        proxy: SocksServer,
        name: str,
        timeout: str,
        words: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(proxy, name, timeout=timeout) == 1
        self.assert_one_line(capsys, words)

    def test_an_error_shows_the_whole_answer_too(
        self, proxy: SocksServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(proxy, "-v", "nowhere.test") == 1
        assert "rcode NXDOMAIN" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("faults", "name", "status", "words"),
        [
            ([Faults(stall_after=0)], "a.test", 4, "timed out"),
            ([Faults(), Faults(stall_after=2)], "long.test", 4, "timed out"),
            ([Faults(answers={"method selection": b"HTTP/1.0"})], "a.test", 5, "an HTTP proxy"),
            ([Faults(close_after=4)], "a.test", 5, "that do not offer UDP ASSOCIATE"),
            ([Faults(method=0xFF)], "a.test", 6, "the proxy accepts none of the methods"),
            ([Faults(reply=0x07)], "a.test", 7, "does not offer UDP ASSOCIATE"),
            ([Faults(), Faults(reply=0x05)], "long.test", 7, "connection refused (REP 05)"),
            ([Faults(end_after=1)], "silent.test", 7, "the proxy ended the UDP association"),
        ],
        ids=str,
    )
    def test_errors_of_the_proxy(
        self,
        proxy: SocksServer,
        faults: list[Faults],
        name: str,
        status: int,
        words: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        proxy.misbehave(faults)
        assert self.run(proxy, name, timeout="0.3" if status == 4 else "10") == status
        self.assert_one_line(capsys, words)

    def test_an_answer_by_tcp_that_ends_early(
        self, proxy: SocksServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        granted: dict[Phase, bytes] = {"request": b"\5\0\0\1\x7f\0\0\1\0\x35"}  # a lie
        proxy.misbehave([Faults(), Faults(reply=0x05, answers=granted)])
        assert self.run(proxy, "long.test") == 1
        self.assert_one_line(capsys, "")  # EOF or a reset

    def test_a_proxy_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(f"socks5h://127.0.0.1:{refused_port()}", "a.test") == 3
        self.assert_one_line(capsys, "cannot reach the proxy: Connection refused")

    def test_a_server_whose_name_is_not_there(
        self,
        proxy: SocksServer,
        names: dict[str, list[str]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        url = proxy.url.replace("socks5h", "socks5")
        assert self.run(url, "a.test", server="nowhere.test") == 8
        self.assert_one_line(capsys, "cannot resolve nowhere.test")

    def test_without_its_extra(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, "socksclient.dnspython", raising=False)
        assert self.run("socks5h://127.0.0.1", "a.test") == 1
        self.assert_one_line(capsys, "pip install 'socksclient[dns]'")

    def test_its_statuses_are_in_its_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["dns", "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for status in range(9):
            assert f"\n  {status}  " in out

    def assert_one_line(self, capsys: pytest.CaptureFixture[str], words: str) -> None:
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("socksclient: ")
        assert err.count("\n") == 1
        assert words in err


class TestDemo:
    def test_as_a_module_of_a_fresh_process(self, tmp_path: Path) -> None:
        run = subprocess.run(
            command("demo"), capture_output=True, text=True, cwd=tmp_path, check=True
        )
        assert run.stderr == ""
        assert run.stdout.count("HTTP 200: hello from the origin, over HTTPS") == 3
        assert "04 75 73 65 72 04 70 61 73 73  (username and password)" in run.stdout
        assert "connection refused (REP 05)" in run.stdout
        assert "CONNECT origin.test:443, ATYP 03, user 'user' -> REP 00" in run.stdout

    def test_that_all_goes_through_the_proxy_decides_its_status(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo"]) == 0
        monkeypatch.setattr("socksclient.demo._requests", lambda *_servers: None)
        assert main(["demo"]) == 1
        capsys.readouterr()

    def test_without_its_extra(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "trustme", None)
        assert main(["demo"]) == 1
        assert "pip install 'socksclient[demo]'" in capsys.readouterr().err


def test_the_console_script() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "socksclient")
    run = subprocess.run([script, "get", "--help"], capture_output=True, text=True, check=True)
    for status in range(9):
        assert f"\n  {status}  " in run.stdout


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "usage: socksclient" in capsys.readouterr().err
