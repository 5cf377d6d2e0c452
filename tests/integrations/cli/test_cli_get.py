"""`socksclient get`."""

from __future__ import annotations

import signal
import subprocess

import pytest

from socksclient._cli.main import main
from socksclient.testing import Faults, SocksServer

from helpers.command_line import assert_one_error, command
from helpers.http_clients import routes_to
from helpers.origin import Origin
from helpers.support import LONG, REFUSED_PORT, Address, eventually

pytest_plugins = ["helpers.cli_fixtures"]


@pytest.fixture
def routes(origin: Origin) -> dict[Address, Address]:
    return routes_to(origin)


def test_get_writes_the_body_to_standard_output(
    routes: dict[Address, Address], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with SocksServer(routes=routes) as server:
        url = "http://origin.test/download?octets=100000"
        assert main(["get", url, "--proxy", server.url]) == 0
    out, err = capfdbinary.readouterr()
    assert len(out) == 100_000
    assert err == b""


def test_get_include_prints_the_status_and_the_header_fields(
    routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksServer(routes=routes) as server:
        assert main(["get", "-i", "http://origin.test/", "--proxy", server.url]) == 0
    head, _, body = capsys.readouterr().out.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert "content-type: application/json" in head
    assert body.startswith("{")


def test_get_uses_the_proxy_in_all_proxy(
    routes: dict[Address, Address], environment: pytest.MonkeyPatch
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
def test_get_heeds_a_port_in_no_proxy(
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
    assert_one_error(capsys, "no proxy for this destination" if exempt else "connection refused")


def test_get_goes_through_a_chain_of_proxies(
    routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksServer() as one, SocksServer(routes=routes) as two:
        proxies = ["--proxy", one.url, "--proxy", two.url_as("http")]
        assert main(["get", "http://origin.test/", *proxies]) == 0
        assert [request.destination for request in one.requests] == [two.address]
        assert [request.destination for request in two.requests] == [("origin.test", 80)]


@pytest.mark.usefixtures("logging_as_before")
def test_get_verbose_prints_the_steps(
    routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
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
def test_get_has_an_exit_status_for_each_error_of_the_proxy(
    faults: Faults, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksServer(faults=faults) as server:
        arguments = ["get", "http://origin.test/", "--proxy", server.url]
        assert main([*arguments, "--timeout", "1" if status == 4 else "10"]) == status
    assert_one_error(capsys, words)


def test_get_exits_with_3_if_nothing_listens_at_the_proxy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy = f"socks5h://127.0.0.1:{REFUSED_PORT}"
    assert main(["get", "http://origin.test/", "--proxy", proxy]) == 3
    assert_one_error(capsys, "cannot reach the proxy: Connection refused")


def test_get_exits_with_8_if_this_machine_cannot_resolve_the_host(
    names: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", "http://origin.test/", "--proxy", "socks5://127.0.0.1"]) == 8
    assert_one_error(capsys, "cannot resolve origin.test")


def test_get_exits_with_1_if_the_certificate_is_not_trusted(
    routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksServer(routes=routes) as server:
        assert main(["get", "https://origin.test/", "--proxy", server.url]) == 1
    assert_one_error(capsys, "CERTIFICATE_VERIFY_FAILED")


def test_get_exits_with_1_if_the_response_breaks_off(
    routes: dict[Address, Address], capsys: pytest.CaptureFixture[str]
) -> None:
    with SocksServer(routes=routes) as server:
        assert main(["get", "http://origin.test/break", "--proxy", server.url]) == 1
    assert_one_error(capsys, "peer closed connection", any_output=True)


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
def test_get_exits_with_2_if_the_url_or_the_proxy_is_not_valid(
    url: str, proxy: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", url, "--proxy", proxy]) == 2
    assert_one_error(capsys, words)


def test_get_exits_with_1_if_nobody_reads_its_output(routes: dict[Address, Address]) -> None:
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


def test_get_exits_with_130_after_sigint() -> None:
    with SocksServer(faults=Faults(stall_after=0)) as server:
        run = subprocess.Popen(command("get", "http://origin.test/", "--proxy", server.url))
        with run:
            assert eventually(lambda: any(seen.methods for seen in server.connections))
            run.send_signal(signal.SIGINT)
            assert run.wait(LONG) == 130
