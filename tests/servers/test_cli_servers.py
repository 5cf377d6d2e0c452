"""`socksclient connect` through real proxies, and as the ProxyCommand of OpenSSH."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import pytest
import trustme

from socksclient.protocol.address import host_port
from socksclient.testing import Faults, SocksServer

from helpers import real_servers
from helpers.command_line import (
    command,
    connecting,
    count_in,
    ends_with,
    is_full,
    is_idle,
    read_all,
    read_exactly,
    through,
    until_quit,
    write_all,
)
from helpers.real_servers import openssh_server
from helpers.support import (
    GREETING,
    LONG,
    Address,
    eventually,
    family_of,
    in_thread,
    needs,
    serving,
)

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


# Without this, libnss-systemd tells an sshd that cannot read /etc/shadow that nobody is locked.
SSHD_ENVIRONMENT = {"PATH": os.defpath, "SYSTEMD_NSS_BYPASS_SYNTHETIC": "1"}


class SSH:
    """An ssh that logs in to an sshd of its own through `socksclient connect`.

    Each connection has an sshd of its own, as with inetd, which ends with the connection.
    """

    def __init__(self, home: Path, host: str) -> None:
        self._home = home
        self._listener = socket.create_server((host, 0), family=family_of(host))
        self.port: int = self._listener.getsockname()[1]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> SSH:
        # As root, sshd locks itself in this directory.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("user_key", "host_key"):
            openssh_server.make_key(self._home / name)
        public = (self._home / "host_key.pub").read_text()
        (self._home / "known_hosts").write_text(f"sshd {public}")
        config = openssh_server.SSHD_CONFIG.format(home=self._home)
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
        # `accept` fails when the listener is shut down.
        with open(self._home / "log", "wb") as log, suppress(OSError):
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
        """Run `ssh -W`, which copies its input and output to and from a connection of sshd's."""
        through_proxy = [*command("connect", "%h", "%p"), "--proxy", proxy.replace("%", "%%")]
        run = subprocess.Popen(
            [
                *(real_servers.path_of("ssh"), "-F", "none"),
                f"-oProxyCommand={shlex.join(through_proxy)}",
                *("-oHostKeyAlias=sshd", *openssh_server.ssh_options()),
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
    def test_ssh_transfers_50_mib_through_socksclient_connect(
        self, real_proxy: str, echo_server: Address, tmp_path: Path
    ) -> None:
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
    def test_ssh_passes_small_messages_at_once(
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

    def test_ssh_shows_the_error_of_socksclient_connect(
        self, echo_server: Address, tmp_path: Path
    ) -> None:
        with SSH(tmp_path, "127.0.0.1") as ssh, SocksServer(faults=Faults(reply=0x02)) as proxy:
            with ssh.forward("sshd.test", proxy.url, echo_server) as run:
                assert run.wait(LONG) == 255
                assert run.stderr is not None
                assert b"socksclient: the proxy refused the request" in run.stderr.read()


@needs(MISSING)
# microsocks closes both directions when one ends.
@pytest.mark.parametrize("real_proxy", ["dante", "ssh -D"], indirect=True)
class TestHalfClose:
    def test_connect_passes_the_end_of_the_input_and_then_the_answer(self, real_proxy: str) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received = await reader.read()
            writer.write(hashlib.sha256(received).digest() + received[::-1])

        octets = os.urandom(200_000)
        with serving(answer) as address, connecting(real_proxy, *address) as run:
            expected = hashlib.sha256(octets).digest() + octets[::-1]
            assert through(run, octets) == expected
            ends_with(run, 0)

    def test_connect_passes_the_end_of_an_empty_input(self, real_proxy: str) -> None:
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

    def test_connect_by_tls_transfers_50_mib_both_ways(self, proxy: str) -> None:
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

    def test_connect_by_tls_passes_small_messages_at_once(self, proxy: str) -> None:
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

    def test_connect_by_tls_does_not_pass_on_the_end_of_the_input(self, proxy: str) -> None:
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

    def test_connect_by_tls_exits_with_1_if_stdin_cannot_be_read(
        self, proxy: str, echo_server: Address
    ) -> None:
        with open(os.devnull, "wb") as stdin, connecting(proxy, *echo_server, stdin=stdin) as run:
            assert run.stdout is not None
            assert run.stdout.read() == b""
            ends_with(run, 1, "cannot read standard input: Bad file descriptor")

    def test_connect_by_tls_exits_with_1_if_stdin_fails_during_a_transfer(self, proxy: str) -> None:
        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

        # To read from a terminal whose other end is closed is an error (EIO), and not the end.
        stdin, other_end = pty.openpty()
        with serving(flood) as address, connecting(proxy, *address, stdin=stdin) as run:
            os.close(stdin)
            assert run.stdout is not None
            assert eventually(lambda: is_full(run.stdout) and is_idle(run))
            os.close(other_end)
            # Nothing comes out that is still encrypted.
            assert set(read_all(run.stdout)) == {0}
            ends_with(run, 1, "cannot read standard input: Input/output error")


def read_until(file: IO[bytes], end: bytes) -> bytes:
    octets = b""
    while not octets.endswith(end):
        octet = file.read(1)
        assert octet, f"got only {octets!r}"
        octets += octet
    return octets


class TLSTransfer:
    """A large transfer of `socksclient connect` to `openssl s_server`, which also is the proxy.

    The output of s_server is what the client has sent, with remarks of s_server between. What the
    test writes to s_server goes to the client, except for orders.
    """

    OCTETS = 32 << 20

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(home / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(home / "ca.pem"))
        certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        certificate.write_to_path(home / "certificate.pem")
        self._home = home
        self._version = version
        self._received = bytearray()
        self._orders = 0

    def __enter__(self) -> TLSTransfer:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        arguments = ["-accept", "127.0.0.1:0", "-cert", "certificate.pem", self._version]
        server = subprocess.Popen(
            [real_servers.path_of("openssl"), "s_server", *arguments],
            cwd=self._home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        stack.enter_context(server)
        stack.callback(server.kill)
        assert server.stdin is not None
        assert server.stdout is not None
        self._to_client, self._from_client = server.stdin, server.stdout
        read_until(self._from_client, b"ACCEPT 127.0.0.1:")
        port = int(read_until(self._from_client, b"\n"))
        url = f"socks5h+tls://127.0.0.1:{port}"
        self.run = stack.enter_context(connecting(url, "192.0.2.1", 7))
        read_until(self._from_client, b"\x05\x01\x00")
        self._to_client.write(b"\x05\x00")
        read_until(self._from_client, b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x07")
        self._to_client.write(b"\x05\x00\x00\x01" + bytes(6))
        assert self.run.stdin is not None
        self.sending = in_thread(partial(write_all, self.run.stdin, b"+" * self.OCTETS))
        # s_server reads no more, because nobody reads its output.
        assert eventually(lambda: is_idle(self.run))
        self._receiving = in_thread(self._receive)

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def _receive(self) -> None:
        while octets := self._from_client.read(1 << 16):
            self._received += octets

    def received(self) -> int:
        """Return how many octets of the transfer have arrived."""
        return self._received.count(b"+")

    def order(self, command: bytes) -> None:
        """Order s_server to change the keys, and wait until it has read the order."""
        self._orders += 1
        self._to_client.write(command + b"\n")
        assert eventually(lambda: count_in(self._to_client) == 0)

    def send_back(self) -> None:
        """Send something to the client, and wait until the command has written it."""
        self._to_client.write(b"-" * 1000)
        assert self.run.stdout is not None
        assert read_exactly(self.run.stdout, 1000) == b"-" * 1000

    def end(self) -> None:
        """Wait until the whole transfer has arrived, and end the connection."""
        assert eventually(lambda: self.received() == self.OCTETS)
        self.sending.result(LONG)
        self.send_back()
        self._to_client.write(b"Q\n")
        ends_with(self.run, 0)
        self._receiving.result(LONG)
        assert self._received.count(b"SSL_do_handshake -> 1") == self._orders


@needs(real_servers.missing(["openssl"]))
class TestNewKeys:
    # RFC 8446 §4.6.3: the client must answer with a key update of its own.
    def test_connect_by_tls_answers_key_updates_during_a_transfer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with TLSTransfer(tmp_path, monkeypatch, "-tls1_3") as transfer:
            for _ in range(10):
                transfer.order(b"K")
                transfer.send_back()
            transfer.end()

    # RFC 5246 §7.4.1.1. OpenSSL allows no data from the server during a renegotiation that the
    # client has begun while it sends: so the server sends nothing until the end.
    def test_connect_by_tls_renegotiates_during_a_transfer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with TLSTransfer(tmp_path, monkeypatch, "-tls1_2") as transfer:
            for _ in range(5):
                before = transfer.received()
                transfer.order(b"r")
                goal = min(before + (1 << 22), transfer.OCTETS)
                assert eventually(lambda goal=goal: transfer.received() >= goal)  # type: ignore[misc]
            transfer.end()
