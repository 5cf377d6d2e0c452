"""The arguments and the help of the `socksclient` command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from socksclient._cli.main import main


def test_the_console_script_runs_the_command() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "socksclient")
    run = subprocess.run([script, "get", "--help"], capture_output=True, text=True, check=True)
    for status in range(9):
        assert f"\n  {status}  " in run.stdout


def test_no_command_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "usage: socksclient" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["get", "dns", "connect"])
def test_help_lists_every_exit_status(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for status in range(9):
        assert f"\n  {status}  " in out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_timeout_must_be_a_number_of_seconds_above_0(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["get", "http://o.test/", "--proxy", "socks5h://h", f"--timeout={seconds}"])
    assert caught.value.code == 2
    assert "argument --timeout" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["", "echo", "-1", "7.0", "1_0", "100000", "\u0667"])
def test_connect_port_must_be_a_number(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["connect", "--proxy=socks5h://h", "echo.test", "--", port])
    assert caught.value.code == 2
    assert "argument PORT" in capsys.readouterr().err


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
def test_dns_server_must_be_a_host_and_a_port(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dns", "--proxy=socks5h://h", f"--server={server}", "a.test"])
    assert caught.value.code == 2
    assert "argument --server" in capsys.readouterr().err
