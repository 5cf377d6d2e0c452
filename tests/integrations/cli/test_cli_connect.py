"""`socksclient connect`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import signal
import socket
import subprocess
import tty
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from socksclient._cli.main import main
from socksclient.testing import Faults, SocksServer

from helpers.command_line import (
    command_without,
    connecting,
    ends_with,
    grant,
    granting_proxy,
    is_full,
    is_idle,
    read_all,
    read_exactly,
    tcp_nodelay_of_sockets_to,
    through,
    until_quit,
    url_of,
    write_all,
)
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    eventually,
    in_thread,
    receive_exactly,
    reset,
    serving,
)

pytest_plugins = ["helpers.cli_fixtures"]


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with SocksServer() as server:
        yield server.url


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
def test_connect_passes_every_octet_and_the_end_both_ways(
    host: str, destination: str, echo_server: Address
) -> None:
    octets = bytes(range(256)) * 4
    with SocksServer(routes={(destination, 7): echo_server}) as server:
        with connecting(server.url, host, 7) as run:
            assert through(run, octets) == octets
            ends_with(run, 0)
        assert server.requests[0].destination == (destination, 7)


def test_connect_goes_through_a_chain_of_proxies(echo_server: Address) -> None:
    with SocksServer() as one, SocksServer(routes={("echo.test", 7): echo_server}) as two:
        second = ["--proxy", two.url_as("http")]
        with connecting(one.url, "echo.test", 7, *second) as run:
            assert through(run, b"there and back") == b"there and back"
            ends_with(run, 0)
        assert [request.destination for request in one.requests] == [two.address]
        assert [request.destination for request in two.requests] == [("echo.test", 7)]


def test_connect_uses_the_proxy_in_all_proxy(
    echo_server: Address, environment: pytest.MonkeyPatch
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


def test_connect_transfers_50_mib_both_ways(proxy: str, echo_server: Address) -> None:
    octets = os.urandom(50 << 20)
    with connecting(proxy, *echo_server) as run:
        digest = hashlib.sha256(through(run, octets)).digest()
        assert digest == hashlib.sha256(octets).digest()
        ends_with(run, 0)


def test_connect_passes_small_messages_at_once(proxy: str, greeter: Address) -> None:
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
def test_connect_sets_tcp_nodelay(echo_server: Address, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_connect_reads_and_writes_files(proxy: str, echo_server: Address, tmp_path: Path) -> None:
    octets = os.urandom(1 << 20)
    (tmp_path / "in").write_bytes(octets)
    with open(tmp_path / "in", "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        with connecting(proxy, *echo_server, stdin=stdin, stdout=stdout) as run:
            ends_with(run, 0)
    assert (tmp_path / "out").read_bytes() == octets


@pytest.mark.parametrize("who", ["input", "destination"])
def test_connect_reads_and_writes_one_socket(proxy: str, who: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, ExitStack() as stack:
        with theirs:
            address = stack.enter_context(serving(until_quit))
            fd = theirs.fileno()
            run = stack.enter_context(connecting(proxy, *address, stdin=fd, stdout=fd))
        ours.settimeout(10)
        ours.sendall(b"line\n")
        assert receive_exactly(ours, 5) == b"line\n"
        if who == "destination":
            ours.sendall(b"quit\n")
            assert ours.recv(1) == b""
            assert eventually(lambda: is_idle(run))
        ours.shutdown(socket.SHUT_WR)
        ends_with(run, 0)
        assert ours.recv(1) == b""


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_connect_reads_and_writes_non_blocking_pipes(
    proxy: str, greeter: Address, blocking: bool
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
            # There is nothing to read.
            assert eventually(lambda: is_idle(run))
            sending = in_thread(partial(write_all, to_it, octets))
            # Nobody reads what the command writes.
            assert eventually(lambda: is_full(from_it) and is_idle(run))
            assert read_all(from_it) == octets
            sending.result()
            ends_with(run, 0)


def test_connect_ends_with_the_destination_if_stdin_is_a_terminal(proxy: str) -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with os.fdopen(ours, "r+b", 0) as terminal, serving(until_quit) as address:
        with connecting(proxy, *address, stdin=theirs, stdout=theirs) as run:
            os.close(theirs)
            terminal.write(b"line\n")
            assert read_exactly(terminal, 5) == b"line\n"
            assert eventually(lambda: is_idle(run))
            terminal.write(b"quit\n")
            # The terminal is still open.
            ends_with(run, 0)


def test_connect_with_a_closed_stdin(proxy: str, greeter: Address) -> None:
    host, port = greeter
    run = subprocess.run(
        command_without("<&-", "connect", host, str(port), "--proxy", proxy),
        capture_output=True,
        check=True,
    )
    assert run.stdout == GREETING
    assert run.stderr == b""


def test_connect_with_a_closed_stdout_does_not_connect() -> None:
    with granting_proxy() as listener:
        run = subprocess.run(
            command_without(">&-", "connect", "192.0.2.1", "7", "--proxy", url_of(listener)),
            stderr=subprocess.PIPE,
            check=False,
        )
        assert run.returncode == 1
        assert run.stderr == b"socksclient: standard output is closed\n"
        listener.setblocking(False)
        # Nothing has connected to the proxy.
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_connect_with_a_closed_stderr_writes_no_error_to_stdout(proxy: str) -> None:
    run = subprocess.run(
        command_without("2>&-", "connect", "127.0.0.1", str(REFUSED_PORT), "--proxy", proxy),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert run.returncode == 7
    assert run.stdout == b""


def test_connect_sends_the_rest_to_a_destination_that_ended_first(proxy: str) -> None:
    digests = []

    async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that is all")
        writer.write_eof()
        digests.append(hashlib.sha256(await reader.read()).digest())

    octets = os.urandom(1 << 20)
    with serving(half_close) as address, connecting(proxy, *address) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        # The reader of the output sees the end before the command has read all of its input.
        assert read_all(run.stdout) == b"that is all"
        assert eventually(lambda: is_idle(run))
        write_all(run.stdin, octets)
        ends_with(run, 0)
    assert digests == [hashlib.sha256(octets).digest()]


def test_connect_exits_with_1_if_the_destination_takes_no_more() -> None:
    with granting_proxy() as listener, connecting(url_of(listener), "192.0.2.1", 7) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        grant(listener).close()
        assert run.stdout.read(1) == b""
        # The pipe breaks when the command ends.
        with suppress(BrokenPipeError):
            while True:
                run.stdin.write(b"more")
        ends_with(run, 1, "the connection broke: ")


def test_connect_exits_with_1_if_the_proxy_resets_the_connection() -> None:
    with granting_proxy() as listener, connecting(url_of(listener), "192.0.2.1", 7) as run:
        assert run.stdout is not None
        sock = grant(listener)
        sock.sendall(b"half a")
        assert read_exactly(run.stdout, 6) == b"half a"
        reset(sock)
        ends_with(run, 1, "the connection broke: Connection reset by peer")


def test_connect_exits_with_1_after_a_reset_while_it_sends() -> None:
    with granting_proxy() as listener:
        with (
            open("/dev/zero", "rb") as stdin,
            connecting(url_of(listener), "192.0.2.1", 7, stdin=stdin) as run,
        ):
            sock = grant(listener)
            receive_exactly(sock, 100_000)
            reset(sock)
            ends_with(run, 1, "the connection broke: ")


def test_connect_exits_with_1_if_nobody_reads_its_output(proxy: str, echo_server: Address) -> None:
    with (
        open("/dev/zero", "rb") as stdin,
        connecting(proxy, *echo_server, stdin=stdin) as run,
    ):
        assert run.stdout is not None
        run.stdout.read(1)
        run.stdout.close()
        ends_with(run, 1)


def test_connect_exits_with_1_if_stdout_cannot_be_written(proxy: str, greeter: Address) -> None:
    with open("/dev/full", "wb") as stdout:
        with connecting(proxy, *greeter, stdout=stdout) as run:
            ends_with(run, 1, "cannot write to standard output: No space left on device")


def test_connect_exits_with_1_if_stdin_cannot_be_read(proxy: str, echo_server: Address) -> None:
    with open(os.devnull, "wb") as stdin, connecting(proxy, *echo_server, stdin=stdin) as run:
        ends_with(run, 1, "cannot read standard input: Bad file descriptor")


def test_connect_reads_no_more_than_stdout_takes(proxy: str) -> None:
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


def test_connect_reads_no_more_than_the_destination_takes() -> None:
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
def test_connect_ends_after_a_signal(number: signal.Signals, status: int, moment: str) -> None:
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
def test_connect_has_an_exit_status_for_each_error_of_the_proxy(
    faults: Faults, status: int, words: str
) -> None:
    with SocksServer(faults=faults) as server:
        timeout = "1" if status == 4 else "10"
        with connecting(server.url, "echo.test", 7, "--timeout", timeout) as run:
            ends_with(run, status, words)


def test_connect_exits_with_3_if_nothing_listens_at_the_proxy() -> None:
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
def test_connect_exits_with_2_if_an_argument_is_not_valid(
    host: str, port: int, proxy: str, words: str
) -> None:
    with connecting(proxy, host, port) as run:
        ends_with(run, 2, words)


def test_connect_verbose_prints_the_steps(echo_server: Address) -> None:
    with SocksServer(routes={("echo.test", 7): echo_server}) as server:
        with connecting(server.url, "echo.test", 7, "-v") as run:
            assert through(run, b"there and back") == b"there and back"
            assert run.wait(LONG) == 0
            assert run.stderr is not None
            err = run.stderr.read().decode()
    steps = [line.rpartition(": ")[2].split(",")[0] for line in err.splitlines()]
    assert steps == ["connect", "method selection", "request", "granted"]
