"""`socksclient demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from socksclient._cli.demo import report
from socksclient._cli.main import main

from helpers.command_line import command


def test_demo_shows_every_request(tmp_path: Path) -> None:
    run = subprocess.run(command("demo"), capture_output=True, text=True, cwd=tmp_path, check=True)
    assert run.stderr == ""
    assert run.stdout.count("HTTP 200: hello from the origin, over HTTPS") == 3
    assert "04 75 73 65 72 04 70 61 73 73  (username and password)" in run.stdout
    assert "connection refused (REP 05)" in run.stdout
    assert "CONNECT origin.test:443, ATYP 03, user 'user' -> REP 00" in run.stdout


def test_demo_exits_with_1_if_the_servers_have_not_seen_every_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo"]) == 0
    assert report([]) == 1
    assert "have not seen the requests" in capsys.readouterr().out


def test_demo_names_the_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    assert main(["demo"]) == 1
    assert "pip install 'socksclient[demo]'" in capsys.readouterr().err
