"""The `socksclient` command."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import pty
import shlex
import signal
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trustme

from socksclient._cli.demo import report
from socksclient._cli.main import main
from socksclient._cli.stdio import copy_both_ways
from socksclient._cli.stdio_tls import TLSConnection
from socksclient.protocol.address import host_port
from socksclient.protocol.codes import Phase
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.origin import Origin
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    encode_datagram_header,
    eventually,
    family_of,
    in_thread,
    needs,
    receive_exactly,
    reset,
    serving,
)


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


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of the variables is set in the beginning."""
    for name in ("all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


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

    def test_the_proxy_of_the_environment(
        self, routes: dict[Address, Address], environment: pytest.MonkeyPatch
    ) -> None:
        with SocksServer(routes=routes) as server:
            assert main(["get", "http://origin.test/"]) == 2
            environment.setenv("ALL_PROXY", server.url)
            assert main(["get", "http://origin.test/"]) == 0
            environment.setenv("NO_PROXY", "origin.test")
            assert main(["get", "http://origin.test/"]) == 2
            assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("no_proxy", "url", "exempt"),
        [
            ("origin.test:443", "https://origin.test/", True),
            ("origin.test:443", "http://origin.test:443/", True),
            ("origin.test:443", "http://origin.test/", False),
            ("origin.test:80", "http://origin.test/", True),
            ("origin.test:80", "https://origin.test/", False),
            ("[2001:db8::1]:443", "https://[2001:db8::1]/", True),
            ("[2001:db8::1]:80", "https://[2001:db8::1]/", False),
        ],
    )
    def test_no_proxy_may_have_the_port(
        self,
        no_proxy: str,
        url: str,
        exempt: bool,
        environment: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        environment.setenv("NO_PROXY", no_proxy)
        with SocksServer(faults=Faults(reply=0x05)) as server:
            environment.setenv("ALL_PROXY", server.url)
            assert main(["get", url]) == (2 if exempt else 7)
            assert len(server.connections) == (0 if exempt else 1)
        self.assert_one_line(
            capsys, "no proxy for this destination" if exempt else "connection refused"
        )

    def test_several_proxies_are_a_chain(
        self, routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer() as one, SocksServer(routes=routes) as two:
            proxies = ["--proxy", one.url, "--proxy", two.url_as("http")]
            assert main(["get", "http://origin.test/", *proxies]) == 0
            assert [request.destination for request in one.requests] == [two.address]
            assert [request.destination for request in two.requests] == [("origin.test", 80)]

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
            arguments = ["get", "http://origin.test/", "--proxy", server.url]
            assert main([*arguments, "--timeout", "1" if status == 4 else "10"]) == status
        self.assert_one_line(capsys, words)

    def test_a_proxy_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        proxy = f"socks5h://127.0.0.1:{REFUSED_PORT}"
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
            assert run.wait(LONG) == 1
            assert run.stderr.read() == b""
            run.stderr.close()

    def test_an_interrupt(self) -> None:
        with SocksServer(faults=Faults(stall_after=0)) as server:
            run = subprocess.Popen(command("get", "http://origin.test/", "--proxy", server.url))
            with run:
                assert eventually(lambda: any(seen.methods for seen in server.connections))
                run.send_signal(signal.SIGINT)
                assert run.wait(LONG) == 130


# No name server is there. Only the proxy knows where the queries go.
NAME_SERVER = "192.0.2.53"
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
        return main(["dns", *options, *arguments])

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
        # The server sends its records in no particular order.
        assert sorted(out.splitlines()) == lines
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

    def test_several_proxies_are_a_chain(
        self, proxy: SocksServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with SocksServer() as first:
            assert self.run(first, "a.test", f"--proxy={proxy.url}") == 0
            assert capsys.readouterr().out == "192.0.2.1\n"
            [(_, carried)] = [datagram for one in first.requests for datagram in one.datagrams]
        [(place, query)] = proxy.requests[0].datagrams
        assert place == (NAME_SERVER, 53)
        assert carried == encode_datagram_header(*place) + query

    def test_the_proxy_of_the_environment(
        self,
        proxy: SocksServer,
        environment: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        arguments = ["dns", "a.test", f"--server={NAME_SERVER}"]
        assert main(arguments) == 2
        self.assert_one_line(capsys, "no proxy for this destination")
        environment.setenv("ALL_PROXY", proxy.url)
        environment.setenv("NO_PROXY", f"{NAME_SERVER}:5353")
        assert main(arguments) == 0
        assert capsys.readouterr().out == "192.0.2.1\n"
        environment.setenv("NO_PROXY", f"{NAME_SERVER}:53")
        assert main(arguments) == 2
        self.assert_one_line(capsys, "no proxy for this destination")
        assert len(proxy.connections) == 1

    def test_a_proxy_that_cannot_be(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("127.0.0.1:1080", "a.test") == 2
        self.assert_one_line(capsys, "proxy URL has no scheme")

    @pytest.mark.parametrize(
        ("name", "timeout", "words"),
        [
            ("nowhere.test", "10", "the name server answered NXDOMAIN"),
            ("failing.test", "10", "the name server answered SERVFAIL"),
            ("silent.test", "1", "timed out"),
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
        assert self.run(proxy, name, timeout="1" if status == 4 else "10") == status
        self.assert_one_line(capsys, words)

    def test_an_answer_by_tcp_that_ends_early(
        self, proxy: SocksServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        granted: dict[Phase, bytes] = {"request": b"\5\0\0\1\x7f\0\0\1\0\x35"}  # a lie
        proxy.misbehave([Faults(), Faults(reply=0x05, answers=granted)])
        assert self.run(proxy, "long.test") == 1
        self.assert_one_line(capsys, "")  # EOF or a reset

    def test_a_proxy_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(f"socks5h://127.0.0.1:{REFUSED_PORT}", "a.test") == 3
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


def without(closed: str, *arguments: str) -> list[str]:
    """Return the command with one of its standard streams closed, as the shell writes it."""
    return ["sh", "-c", f'exec "$@" {closed}', "sh", *command(*arguments)]


@contextmanager
def connecting(
    proxy: str | None,
    host: str,
    port: int,
    *options: str,
    stdin: int | IO[bytes] | None = subprocess.PIPE,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """`socksclient connect`, which has ended at the end."""
    if proxy is not None:
        options = ("--proxy", proxy, *options)
    run = subprocess.Popen(
        command("connect", host, str(port), *options),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with run:
        try:
            yield run
        finally:
            run.kill()


def ends_with(run: subprocess.Popen[bytes], status: int, words: str = "") -> None:
    """Check that the command ends so, and writes one line with the words, or nothing."""
    assert run.wait(LONG) == status
    assert run.stderr is not None
    err = run.stderr.read().decode()
    assert words in err
    assert err.count("\n") == bool(words)
    assert not words or err.startswith("socksclient: ")


def is_idle(run: subprocess.Popen[bytes]) -> bool:
    """Whether all of its threads sleep, as often as one looks."""
    states = set()
    for _ in range(20):
        for stat in Path(f"/proc/{run.pid}/task").glob("*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                states.add(stat.read_text().rpartition(")")[2].split()[0])
    return states == {"S"}


def through(run: subprocess.Popen[bytes], octets: bytes) -> bytes:
    """Return what comes out, up to its end, while `octets` and the end go in."""
    assert run.stdin is not None
    assert run.stdout is not None

    writing = in_thread(partial(write_all, run.stdin, octets))
    received = read_all(run.stdout)
    writing.result()
    return received


def read_all(file: IO[bytes]) -> bytes:
    return b"".join(iter(partial(file.read, 1 << 20), b""))


def read_exactly(file: IO[bytes], count: int) -> bytes:
    octets = bytearray()
    while len(octets) < count:
        read = file.read(count - len(octets))
        assert read, f"got {len(octets)} of {count} octets"
        octets += read
    return bytes(octets)


def write_all(file: IO[bytes], octets: bytes) -> None:
    left = memoryview(octets)
    with file:
        while left:
            left = left[file.write(left) :]


def is_full(pipe: IO[bytes] | None) -> bool:
    """Whether the pipe holds as much as it may; for what is written in pieces, that is less."""
    assert pipe is not None
    [count] = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count) > 1 << 14


def granting_proxy() -> socket.socket:
    """Return the listener of a proxy that the test plays; `url_of` returns its URL."""
    return socket.create_server(("127.0.0.1", 0))


def url_of(listener: socket.socket) -> str:
    return f"socks5h://127.0.0.1:{listener.getsockname()[1]}"


def grant(listener: socket.socket) -> socket.socket:
    """Accept a connection, and grant its request, which is for an IPv4 address."""
    sock, _ = listener.accept()
    sock.settimeout(LONG)
    receive_exactly(sock, 3)
    sock.sendall(b"\x05\x00")
    receive_exactly(sock, 10)
    sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
    return sock


def tcp_nodelay_of_sockets_to(address: Address) -> list[bool]:
    """Return TCP_NODELAY of each socket of this process that is connected to the address."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(entry).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as sock:
                    if sock.getpeername() == address:
                        option = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                        found.append(bool(option))
    return found


async def until_quit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back every line, up to one that says quit."""
    while (line := await reader.readline()) not in (b"", b"quit\n"):
        writer.write(line)


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with SocksServer() as server:
        yield server.url


class TestConnect:
    @pytest.mark.parametrize(
        ("host", "destination"),
        [
            ("echo.test", "echo.test"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("bücher.test", "xn--bcher-kva.test"),
        ],
    )
    def test_every_octet_and_the_end_go_both_ways(
        self, host: str, destination: str, echo_server: Address
    ) -> None:
        octets = bytes(range(256)) * 4
        with SocksServer(routes={(destination, 7): echo_server}) as server:
            with connecting(server.url, host, 7) as run:
                assert through(run, octets) == octets
                ends_with(run, 0)
            assert server.requests[0].destination == (destination, 7)

    def test_several_proxies_are_a_chain(self, echo_server: Address) -> None:
        with SocksServer() as one, SocksServer(routes={("echo.test", 7): echo_server}) as two:
            second = ["--proxy", two.url_as("http")]
            with connecting(one.url, "echo.test", 7, *second) as run:
                assert through(run, b"there and back") == b"there and back"
                ends_with(run, 0)
            assert [request.destination for request in one.requests] == [two.address]
            assert [request.destination for request in two.requests] == [("echo.test", 7)]

    def test_the_proxy_of_the_environment(
        self, echo_server: Address, environment: pytest.MonkeyPatch
    ) -> None:
        with SocksServer(routes={("echo.test", 7): echo_server}) as server:
            environment.setenv("ALL_PROXY", server.url)
            environment.setenv("NO_PROXY", "echo.test:8")
            with connecting(None, "echo.test", 7) as run:
                assert through(run, b"there and back") == b"there and back"
                ends_with(run, 0)
            environment.setenv("NO_PROXY", "echo.test:7")
            with connecting(None, "echo.test", 7) as run:
                ends_with(run, 2, "no proxy for this destination")
            assert len(server.connections) == 1

    def test_large_transfers(self, proxy: str, echo_server: Address) -> None:
        octets = os.urandom(50 << 20)
        with connecting(proxy, *echo_server) as run:
            digest = hashlib.sha256(through(run, octets)).digest()
            assert digest == hashlib.sha256(octets).digest()
            ends_with(run, 0)

    def test_nothing_waits_for_more(self, proxy: str, greeter: Address) -> None:
        with connecting(proxy, *greeter) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            assert read_exactly(run.stdout, len(GREETING)) == GREETING
            for number in range(100):
                run.stdin.write(b"%02d" % number)
                assert read_exactly(run.stdout, 2) == b"%02d" % number
            assert eventually(lambda: is_idle(run))
            run.stdin.close()
            ends_with(run, 0)

    # Otherwise a small message would wait until the destination acknowledges the one before.
    def test_connect_sets_tcp_nodelay(
        self, echo_server: Address, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host, port = echo_server
        read_end, write_end = os.pipe()
        with SocksServer() as server, open(read_end, "rb") as stdin, open(os.devnull, "wb") as out:
            monkeypatch.setattr("sys.stdin", stdin)
            monkeypatch.setattr("sys.stdout", out)
            arguments = ["connect", host, str(port), "--proxy", server.url]
            connecting = in_thread(partial(main, arguments))
            assert eventually(lambda: tcp_nodelay_of_sockets_to(server.address) == [True])
            os.close(write_end)
            assert connecting.result(LONG) == 0

    def test_files(self, proxy: str, echo_server: Address, tmp_path: Path) -> None:
        octets = os.urandom(1 << 20)
        (tmp_path / "in").write_bytes(octets)
        with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
            with connecting(proxy, *echo_server, stdin=stdin, stdout=stdout) as run:
                ends_with(run, 0)
        assert (tmp_path / "out").read_bytes() == octets

    @pytest.mark.parametrize("who", ["input", "destination"])
    def test_one_socket_for_both(self, proxy: str, who: str) -> None:
        ours, theirs = socket.socketpair()
        with ours, ExitStack() as stack:
            with theirs:
                address = stack.enter_context(serving(until_quit))
                fd = theirs.fileno()
                run = stack.enter_context(connecting(proxy, *address, stdin=fd, stdout=fd))
            ours.settimeout(10)
            ours.sendall(b"line\n")
            assert receive_exactly(ours, 5) == b"line\n"
            if who == "destination":  # it ends first
                ours.sendall(b"quit\n")
                assert ours.recv(1) == b""
                assert eventually(lambda: is_idle(run))
            ours.shutdown(socket.SHUT_WR)
            ends_with(run, 0)
            assert ours.recv(1) == b""

    @pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
    def test_descriptors_that_somebody_has_made_non_blocking(
        self, proxy: str, greeter: Address, blocking: bool
    ) -> None:
        stdin, writing = os.pipe()
        reading, stdout = os.pipe()
        octets = os.urandom(1 << 20)
        with os.fdopen(writing, "wb", 0) as to_it, os.fdopen(reading, "rb", 0) as from_it:
            os.set_blocking(stdin, blocking)
            os.set_blocking(stdout, blocking)
            with connecting(proxy, *greeter, stdin=stdin, stdout=stdout) as run:
                os.close(stdin)
                os.close(stdout)
                assert read_exactly(from_it, len(GREETING)) == GREETING
                # The command is idle because there is nothing to read.
                assert eventually(lambda: is_idle(run))
                sending = in_thread(partial(write_all, to_it, octets))
                # As nobody reads what it writes.
                assert eventually(lambda: is_full(from_it) and is_idle(run))
                assert read_all(from_it) == octets
                sending.result()
                ends_with(run, 0)

    def test_a_terminal(self, proxy: str) -> None:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        with os.fdopen(ours, "r+b", 0) as terminal, serving(until_quit) as address:
            with connecting(proxy, *address, stdin=theirs, stdout=theirs) as run:
                os.close(theirs)
                terminal.write(b"line\n")
                assert read_exactly(terminal, 5) == b"line\n"
                assert eventually(lambda: is_idle(run))
                terminal.write(b"quit\n")
                # The command ends although the terminal could go on.
                ends_with(run, 0)

    def test_no_standard_input(self, proxy: str, greeter: Address) -> None:
        host, port = greeter
        run = subprocess.run(
            without("<&-", "connect", host, str(port), "--proxy", proxy),
            capture_output=True,
            check=True,
        )
        assert run.stdout == GREETING
        assert run.stderr == b""

    def test_no_standard_output(self) -> None:
        with granting_proxy() as listener:
            run = subprocess.run(
                without(">&-", "connect", "192.0.2.1", "7", "--proxy", url_of(listener)),
                stderr=subprocess.PIPE,
                check=False,
            )
            assert run.returncode == 1
            assert run.stderr == b"socksclient: standard output is closed\n"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody has tried to connect
                listener.accept()

    def test_no_standard_error(self, proxy: str) -> None:
        run = subprocess.run(
            without("2>&-", "connect", "127.0.0.1", str(REFUSED_PORT), "--proxy", proxy),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        assert run.returncode == 7
        assert run.stdout == b""

    def test_a_destination_that_ends_first_is_sent_the_rest(self, proxy: str) -> None:
        digests = []

        async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"that is all")
            writer.write_eof()
            digests.append(hashlib.sha256(await reader.read()).digest())

        octets = os.urandom(1 << 20)
        with serving(half_close) as address, connecting(proxy, *address) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            # The reader of the output is told of the end at once.
            assert read_all(run.stdout) == b"that is all"
            assert eventually(lambda: is_idle(run))
            write_all(run.stdin, octets)
            ends_with(run, 0)
        assert digests == [hashlib.sha256(octets).digest()]

    def test_what_a_destination_does_not_take(self) -> None:
        with granting_proxy() as listener, connecting(url_of(listener), "192.0.2.1", 7) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            grant(listener).close()
            assert run.stdout.read(1) == b""
            with suppress(BrokenPipeError):  # it has ended
                while True:
                    run.stdin.write(b"more")
            ends_with(run, 1, "the connection broke: ")

    def test_the_proxy_resets_the_connection(self) -> None:
        with granting_proxy() as listener, connecting(url_of(listener), "192.0.2.1", 7) as run:
            assert run.stdout is not None
            sock = grant(listener)
            sock.sendall(b"half a")
            assert read_exactly(run.stdout, 6) == b"half a"
            reset(sock)
            ends_with(run, 1, "the connection broke: Connection reset by peer")

    def test_the_proxy_resets_the_connection_under_what_is_sent(self) -> None:
        with granting_proxy() as listener:
            with (
                open("/dev/zero", "rb") as stdin,
                connecting(url_of(listener), "192.0.2.1", 7, stdin=stdin) as run,
            ):
                sock = grant(listener)
                receive_exactly(sock, 100_000)
                reset(sock)
                ends_with(run, 1, "the connection broke: ")

    def test_a_reader_that_has_had_enough(self, proxy: str, echo_server: Address) -> None:
        with (
            open("/dev/zero", "rb") as stdin,
            connecting(proxy, *echo_server, stdin=stdin) as run,
        ):
            assert run.stdout is not None
            run.stdout.read(1)
            run.stdout.close()
            ends_with(run, 1)

    def test_an_output_that_takes_nothing(self, proxy: str, greeter: Address) -> None:
        with open("/dev/full", "wb") as stdout:
            with connecting(proxy, *greeter, stdout=stdout) as run:
                ends_with(run, 1, "cannot write to standard output: No space left on device")

    def test_an_input_that_cannot_be_read(self, proxy: str, echo_server: Address) -> None:
        with open(os.devnull, "wb") as stdin, connecting(proxy, *echo_server, stdin=stdin) as run:
            ends_with(run, 1, "cannot read standard input: Bad file descriptor")

    def test_nothing_piles_up_on_the_way_out(self, proxy: str) -> None:
        octets = os.urandom(50 << 20)
        sent = []

        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for start in range(0, len(octets), 1 << 16):
                writer.write(octets[start : start + (1 << 16)])
                await writer.drain()
                sent.append(1 << 16)

        with serving(flood) as address, connecting(proxy, *address) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            assert eventually(lambda: is_full(run.stdout) and is_idle(run))
            assert sum(sent) < len(octets)
            run.stdin.close()
            assert read_all(run.stdout) == octets
            ends_with(run, 0)

    def test_nothing_piles_up_on_the_way_in(self) -> None:
        octets = os.urandom(50 << 20)
        with granting_proxy() as listener, connecting(url_of(listener), "192.0.2.1", 7) as run:
            assert run.stdin is not None
            with grant(listener) as sock:
                writing = in_thread(partial(write_all, run.stdin, octets))
                assert eventually(lambda: is_idle(run))
                assert not writing.done()
                sock.sendall(b"meanwhile, the other way")
                assert run.stdout is not None
                assert read_exactly(run.stdout, 24) == b"meanwhile, the other way"
                with sock.makefile("rb") as file:
                    assert file.read() == octets
                writing.result()
            ends_with(run, 0)

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
    )
    @pytest.mark.parametrize("moment", ["handshake", "relaying", "destination has ended"])
    def test_signals(self, number: signal.Signals, status: int, moment: str) -> None:
        with granting_proxy() as listener, connecting(url_of(listener), "192.0.2.1", 7) as run:
            assert run.stdout is not None
            if moment == "handshake":
                sock, _ = listener.accept()
                assert sock.recv(1) == b"\x05"
            else:
                sock = grant(listener)
                sock.sendall(b"!")
                assert run.stdout.read(1) == b"!"
            with sock:
                if moment == "destination has ended":
                    sock.shutdown(socket.SHUT_WR)
                    assert run.stdout.read(1) == b""
                assert eventually(lambda: is_idle(run))
                run.send_signal(number)
                ends_with(run, status)

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
    def test_errors_of_the_proxy(self, faults: Faults, status: int, words: str) -> None:
        with SocksServer(faults=faults) as server:
            timeout = "1" if status == 4 else "10"
            with connecting(server.url, "echo.test", 7, "--timeout", timeout) as run:
                ends_with(run, status, words)

    def test_a_proxy_that_is_not_there(self) -> None:
        with connecting(f"socks5h://127.0.0.1:{REFUSED_PORT}", "echo.test", 7) as run:
            ends_with(run, 3, "cannot reach the proxy: Connection refused")

    @pytest.mark.parametrize(
        ("host", "port", "proxy", "words"),
        [
            ("echo.test", 7, "127.0.0.1:1080", "proxy URL has no scheme"),
            ("", 7, "socks5h://127.0.0.1", "host is empty"),
            ("[echo.test]", 7, "socks5h://127.0.0.1", "in brackets"),
            ("echo.test", 0, "socks5h://127.0.0.1", "port 0"),
            ("echo.test", 70000, "socks5h://127.0.0.1", "port 70000"),
        ],
    )
    def test_what_cannot_be(self, host: str, port: int, proxy: str, words: str) -> None:
        with connecting(proxy, host, port) as run:
            ends_with(run, 2, words)

    @pytest.mark.parametrize("port", ["", "echo", "-1", "7.0", "1_0", "100000", "\u0667"])
    def test_a_port_that_is_none(self, port: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["connect", "--proxy=socks5h://h", "echo.test", "--", port])
        assert caught.value.code == 2
        assert "argument PORT" in capsys.readouterr().err

    def test_the_steps(self, echo_server: Address) -> None:
        with SocksServer(routes={("echo.test", 7): echo_server}) as server:
            with connecting(server.url, "echo.test", 7, "-v") as run:
                assert through(run, b"there and back") == b"there and back"
                assert run.wait(LONG) == 0
                assert run.stderr is not None
                err = run.stderr.read().decode()
        steps = [line.rpartition(": ")[2].split(",")[0] for line in err.splitlines()]
        assert steps == ["connect", "method selection", "request", "granted"]

    def test_its_statuses_are_in_its_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["connect", "--help"])
        out = capsys.readouterr().out
        for status in range(9):
            assert f"\n  {status}  " in out


MISSING = real_servers.missing(["danted", "microsocks", "sshd", "ssh", "ssh-keygen", "stunnel"])
SERVERS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "dante": real_servers.dante,
    "microsocks": real_servers.microsocks,
    "ssh -D": real_servers.openssh,
}


@pytest.fixture(scope="module", params=SERVERS)
def real_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with SERVERS[request.param](tmp_path_factory.mktemp("proxy")) as url:
        yield url


# Else libnss-systemd tells an sshd which cannot read /etc/shadow that nobody is locked.
SSHD_ENVIRONMENT = {"PATH": os.defpath, "SYSTEMD_NSS_BYPASS_SYNTHETIC": "1"}


class SSH:
    """ssh, which logs in to an sshd of its own through `socksclient connect`.

    That sshd is started for every connection, as by inetd: nothing of it can outlive them.
    """

    def __init__(self, home: Path, host: str) -> None:
        self._home = home
        self._listener = socket.create_server((host, 0), family=family_of(host))
        self.port: int = self._listener.getsockname()[1]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> SSH:
        if os.geteuid() == 0:  # where sshd locks itself in
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("user_key", "host_key"):
            real_servers._make_key(self._home / name)
        public = (self._home / "host_key.pub").read_text()
        (self._home / "known_hosts").write_text(f"sshd {public}")
        config = real_servers._SSHD_CONFIG.format(home=self._home)
        (self._home / "sshd_config").write_text(config)
        self._accepting.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for process in self._processes:
            try:
                process.wait(LONG)
            finally:
                process.kill()

    def _accept(self) -> None:
        with open(self._home / "log", "wb") as log, suppress(OSError):  # the end
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    process = subprocess.Popen(
                        [real_servers.path_of("sshd"), "-i", "-e", "-f", "sshd_config"],
                        cwd=self._home,
                        env=SSHD_ENVIRONMENT,
                        stdin=sock.fileno(),
                        stdout=sock.fileno(),
                        stderr=log,
                    )
                    self._processes.append(process)

    @contextmanager
    def forward(
        self, host: str, proxy: str, destination: Address
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`ssh -W`: its standard input and output are those of a connection of sshd's."""
        through_proxy = [*command("connect", "%h", "%p"), "--proxy", proxy.replace("%", "%%")]
        run = subprocess.Popen(
            [
                *(real_servers.path_of("ssh"), "-F", "none"),
                f"-oProxyCommand={shlex.join(through_proxy)}",
                *("-oHostKeyAlias=sshd", *real_servers._ssh_options()),
                *("-p", str(self.port), "-W", host_port(*destination), host),
            ],
            cwd=self._home,
            env={**os.environ, "SHELL": "/bin/sh"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        with run:
            try:
                yield run
            finally:
                run.kill()


@needs(MISSING)
class TestProxyCommand:
    def test_large_transfers(self, real_proxy: str, echo_server: Address, tmp_path: Path) -> None:
        octets = os.urandom(50 << 20)
        with SSH(tmp_path, "127.0.0.1") as ssh:
            with ssh.forward("127.0.0.1", real_proxy, echo_server) as run:
                digest = hashlib.sha256(through(run, octets)).digest()
                assert digest == hashlib.sha256(octets).digest()
                ends_with(run, 0)

    @pytest.mark.parametrize(
        ("host", "listening"),
        [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")],
    )
    def test_line_by_line(
        self, real_proxy: str, greeter: Address, host: str, listening: str, tmp_path: Path
    ) -> None:
        with SSH(tmp_path, listening) as ssh, ssh.forward(host, real_proxy, greeter) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            assert read_exactly(run.stdout, len(GREETING)) == GREETING
            for number in range(100):
                run.stdin.write(b"%02d" % number)
                assert read_exactly(run.stdout, 2) == b"%02d" % number
            run.stdin.close()
            ends_with(run, 0)

    def test_a_proxy_that_refuses(self, echo_server: Address, tmp_path: Path) -> None:
        with SSH(tmp_path, "127.0.0.1") as ssh, SocksServer(faults=Faults(reply=0x02)) as proxy:
            with ssh.forward("sshd.test", proxy.url, echo_server) as run:
                assert run.wait(LONG) == 255
                assert run.stderr is not None
                assert b"socksclient: the proxy refused the request" in run.stderr.read()


@needs(MISSING)
# microsocks hangs up both ways at the first end.
@pytest.mark.parametrize("real_proxy", ["dante", "ssh -D"], indirect=True)
class TestHalfClose:
    def test_an_answer_to_the_end_of_the_input(self, real_proxy: str) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received = await reader.read()  # up to the end
            writer.write(hashlib.sha256(received).digest() + received[::-1])

        octets = os.urandom(200_000)
        with serving(answer) as address, connecting(real_proxy, *address) as run:
            expected = hashlib.sha256(octets).digest() + octets[::-1]
            assert through(run, octets) == expected
            ends_with(run, 0)

    def test_an_input_without_anything(self, real_proxy: str) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"nothing came" + await reader.read())

        with serving(answer) as address, connecting(real_proxy, *address) as run:
            assert through(run, b"") == b"nothing came"
            ends_with(run, 0)


@needs(MISSING)
class TestConnectThroughTLS:
    @pytest.fixture
    def proxy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        certificate = authority.issue_cert("127.0.0.1")
        with (
            real_servers.dante(tmp_path) as dante,
            real_servers.stunnel(tmp_path, dante, certificate) as url,
        ):
            yield url

    def test_large_transfers(self, proxy: str) -> None:
        octets = os.urandom(50 << 20)

        async def echo_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            left = len(octets)
            while left and (received := await reader.read(1 << 16)):
                writer.write(received)
                await writer.drain()
                left -= len(received)

        with serving(echo_all) as address, connecting(proxy, *address) as run:
            digest = hashlib.sha256(through(run, octets)).digest()
            assert digest == hashlib.sha256(octets).digest()
            ends_with(run, 0)

    def test_line_by_line(self, proxy: str) -> None:
        with serving(until_quit) as address, connecting(proxy, *address) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            for number in range(100):
                run.stdin.write(b"%02d\n" % number)
                assert read_exactly(run.stdout, 3) == b"%02d\n" % number
            assert eventually(lambda: is_idle(run))
            run.stdin.write(b"quit\n")
            assert run.stdout.read(1) == b""
            run.stdin.close()
            ends_with(run, 0)

    def test_the_end_of_the_input_is_not_passed_on(self, proxy: str) -> None:
        with serving(until_quit) as address:
            with connecting(proxy, *address) as run:
                assert through(run, b"line\nquit\n") == b"line\n"
                ends_with(run, 0)
            with connecting(proxy, *address) as run:
                assert run.stdin is not None
                assert run.stdout is not None
                run.stdin.write(b"line\n")
                run.stdin.close()
                assert read_exactly(run.stdout, 5) == b"line\n"
                assert eventually(lambda: is_idle(run))
                run.send_signal(signal.SIGINT)
                ends_with(run, 130)

    def test_an_input_that_cannot_be_read(self, proxy: str, echo_server: Address) -> None:
        with open(os.devnull, "wb") as stdin, connecting(proxy, *echo_server, stdin=stdin) as run:
            assert run.stdout is not None
            assert run.stdout.read() == b""
            ends_with(run, 1, "cannot read standard input: Bad file descriptor")

    def test_an_input_that_fails_while_much_comes(self, proxy: str) -> None:
        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

        # When the other end of a terminal is closed, reading from the terminal fails with EIO.
        stdin, other_end = pty.openpty()
        with serving(flood) as address, connecting(proxy, *address, stdin=stdin) as run:
            os.close(stdin)
            assert run.stdout is not None
            assert eventually(lambda: is_full(run.stdout) and is_idle(run))
            os.close(other_end)
            assert set(read_all(run.stdout)) == {0}  # and nothing that is still encrypted
            ends_with(run, 1, "cannot read standard input: Input/output error")


@contextmanager
def tls_connection(sslsocket_class: type[ssl.SSLSocket]) -> Iterator[tuple[Any, ssl.SSLSocket]]:
    """Yield both ends of a connection with TLS; the client's end is of the given class."""
    authority = trustme.CA()
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.sslsocket_class = sslsocket_class
    authority.configure_trust(client_context)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    ours, theirs = socket.socketpair()
    accepting = in_thread(partial(server_context.wrap_socket, theirs, server_side=True))
    with client_context.wrap_socket(ours, server_hostname="127.0.0.1") as client:
        with accepting.result(LONG) as server:
            yield client, server


class WatchedSocket(ssl.SSLSocket):
    """A socket that notices when two threads use it at once."""

    users = 0

    def recv(self, *args: Any) -> bytes:
        with self._alone():
            return super().recv(*args)

    def send(self, *args: Any) -> int:
        with self._alone():
            return super().send(*args)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self.users == 0
        self.users += 1
        time.sleep(0)  # the other thread's turn
        try:
            yield
        finally:
            self.users -= 1


# OpenSSL allows only one thread at a time to use a connection.
def test_copy_both_ways_never_uses_a_tls_socket_in_two_threads_at_once() -> None:
    octets = os.urandom(1 << 22)
    stdin, writing = os.pipe()
    reading, stdout = os.pipe()
    with tls_connection(WatchedSocket) as (client, server):
        copying = in_thread(partial(copy_both_ways, TLSConnection(client), stdin, stdout))
        sending = in_thread(partial(write_all, os.fdopen(writing, "wb", 0), octets))
        echoing = in_thread(partial(echo_octets, server, len(octets)))
        with os.fdopen(reading, "rb", 0) as file:
            assert read_exactly(file, len(octets)) == octets
            for future in (sending, echoing, copying):
                future.result(LONG)
    os.close(stdin)
    os.close(stdout)


def echo_octets(sock: socket.socket, count: int) -> None:
    """Send back `count` octets, and then close the connection."""
    while count:
        octets = sock.recv(1 << 16)
        sock.sendall(octets)
        count -= len(octets)
    sock.close()


class Renegotiating(ssl.SSLSocket):
    """A socket that once wants to write while it receives, and to read while it sends.

    That happens when TLS 1.2 is renegotiated.
    """

    wants: list[str]

    def recv(self, *args: Any) -> bytes:
        if "write" in self.wants:
            self.wants.remove("write")
            raise ssl.SSLWantWriteError
        return super().recv(*args)

    def send(self, *args: Any) -> int:
        if "read" in self.wants:
            self.wants.remove("read")
            raise ssl.SSLWantReadError
        return super().send(*args)


def test_copy_both_ways_goes_on_when_tls_is_renegotiated() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as stdin, open(os.devnull, "wb") as stdout:
        with tls_connection(Renegotiating) as (client, server):
            client.wants = ["read", "write"]
            done = in_thread(
                lambda: copy_both_ways(TLSConnection(client), stdin.fileno(), stdout.fileno())
            )
            os.write(write_end, b"over")
            os.close(write_end)
            assert receive_exactly(server, 4) == b"over"
            server.close()
            assert done.result(LONG) is None
            assert client.wants == []


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

    def test_demo_fails_if_the_servers_have_not_seen_every_request(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo"]) == 0
        assert report([]) == 1
        assert "have not seen the requests" in capsys.readouterr().out

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
