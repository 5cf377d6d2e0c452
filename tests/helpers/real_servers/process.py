"""A server of the tests as a process: its start, its port, its log and its end."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

Address = tuple[str, int]

Prepare = Callable[[Path, int], list[str]]
"""A function that makes the files of a server in its directory, and returns its command line."""
_PORT_ATTEMPTS = 5

# Dante starts in 0.1 s and ssh in 0.5 s, but a machine that is busy with other things takes longer.
START_SECONDS = 120.0
_STOP_SECONDS = 30.0


@contextmanager
def running(
    directory: Path, name: str, host: str, prepare: Prepare, *, announcement: str = ""
) -> Iterator[Address]:
    """Run a server, and yield where it listens.

    The server has started when it accepts a connection and has the `announcement` in its log.
    """
    process, port = _start(directory, name, host, prepare, announcement)
    try:
        yield host, port
    finally:
        stop(process)


def _start(
    directory: Path, name: str, host: str, prepare: Prepare, announcement: str
) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(_PORT_ATTEMPTS):
        home = new_directory(directory, f"{name}-")
        with reserved_port(host) as port:
            process = spawn(prepare(home, port), home)
            ready = False
            try:
                ready = _wait_for(process, home, (host, port), announcement)
            finally:
                # The wait may have been interrupted, by Ctrl-C for example.
                if not ready:
                    stop(process)
        if ready:
            return process, port
        log = _log(home)
        # Only after "Address already in use" is another port worth a try.
        if "in use" not in log:
            break
    raise RuntimeError(f"{name} did not start; {home}/log ends: {log[-2000:].strip()}")


@contextmanager
def reserved_port(host: str) -> Iterator[int]:
    """Yield a port, free for TCP and UDP, that the system gives to no other program meanwhile.

    The server can listen on the port, because it sets SO_REUSEADDR too (V2Ray sets SO_REUSEPORT
    for UDP).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((host, 0))
            port = int(tcp.getsockname()[1])
            try:
                udp.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            # Set before `bind`, these options would let two UDP sockets share a port.
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            yield port
            return


def spawn(command: list[str], home: Path) -> subprocess.Popen[bytes]:
    """Start a server in the directory `home`, where its log is too. `stop` ends the server."""
    environment = {
        "PATH": search_path(),
        "LC_ALL": "C",
        # danted has its locks and its shared memory here.
        "TMPDIR": str(home),
        # ssh runs its ProxyCommand with this shell. The login shell of the user may be nologin.
        "SHELL": "/bin/sh",
        # Without this, libnss-systemd tells an sshd that cannot read /etc/shadow that nobody is
        # locked.
        "SYSTEMD_NSS_BYPASS_SYNTHETIC": "1",
    }
    with open(home / "log", "wb") as log:
        return subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_for(
    process: subprocess.Popen[bytes], home: Path, address: Address, announcement: str
) -> bool:
    """Wait until the server has started; return False if it ended, or took too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(address, timeout=1):
            if announcement in _log(home):
                return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
            return False
    return False


def _log(home: Path) -> str:
    return (home / "log").read_text(errors="replace")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all its children, which are in the process group that the server leads."""
    # Only the leader gets the signal, because the first process of danted ends its twenty children.
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + _STOP_SECONDS
    while _group_lives(process.pid):
        if time.monotonic() > deadline:
            raise RuntimeError(f"process group {process.pid} survives SIGKILL")
        time.sleep(0.005)


def _group_lives(group: int) -> bool:
    """Return whether a process of the group lives.

    Zombies do not count: they hold nothing, and in a container nothing may ever reap them.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # The process may have ended since.
        with suppress(OSError):
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def ending_at_once(*command: str) -> list[str]:
    """Return a command that runs a server which by itself takes a second or two to end.

    The command is a shell, which ends as soon as it is told to; `stop` then kills the server, its
    child.
    """
    return ["sh", "-c", '"$@" & wait', "sh", *command]


def own_name() -> str:
    """Return the name of the user that runs this process."""
    # Windows has no such module, and imports this file for the tests that need no server.
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def password_hash(password: str) -> str:
    """Return the hash of a password, made by perl: Python 3.13 has no `crypt` any more."""
    script = "local $/; print crypt(<STDIN>, $ARGV[0])"
    command = [path_of("perl"), "-e", script, f"$6${secrets.token_hex(8)}$"]
    run = subprocess.run(command, input=password.encode(), stdout=subprocess.PIPE, check=True)
    return run.stdout.decode()


def host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(address: Address, account: tuple[str, str] | None, scheme: str = "socks5h") -> str:
    login = ":".join(quote(part, safe="") for part in account) + "@" if account else ""
    return f"{scheme}://{login}{host_and_port(*address)}"


def new_directory(parent: Path, prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent.resolve()))


def search_path() -> str:
    """Return the PATH with /usr/sbin, where Debian has some servers."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def path_of(name: str) -> str:
    """Return the absolute path of a program, without which sshd refuses to run."""
    found = shutil.which(name, path=search_path())
    if found is None:
        raise RuntimeError(f"{name} is not installed: see tests/install-servers.sh")
    return found
