"""The `socksclient` command."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from socksclient.cli import main
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
