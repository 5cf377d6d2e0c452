"""Real SOCKS servers for the tests: dante, microsocks, OpenSSH, V2Ray and Shadowsocks.

`dante`, `microsocks`, `openssh`, `v2ray` and `shadowsocks` are context managers: each starts one
private server on a free port of loopback, yields the URL of the proxy, and at exit has stopped
every process of it. They need Linux and the Debian packages which `install-servers.sh` installs,
but no root. The configuration and the log of a server stay in a new directory of its own under the
given one. `running` is what they share with `real_services`.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

Address = tuple[str, int]

# Makes the command line of a server, and its files, given its own directory and its port.
Prepare = Callable[[Path, int], list[str]]

_COMMANDS = (
    *("danted", "microsocks", "sshd", "ssh", "ssh-keygen", "unshare", "mount", "perl"),
    *("v2ray", "ss-server", "ss-local"),
)
_PORT_ATTEMPTS = 5
_START_SECONDS = 20.0  # dante is up after 0.1 s, ssh after 0.5 s; a busy CI machine takes longer
_STOP_SECONDS = 5.0

# "external.protocol" has to stand before "external", and a command list has to end its line, or
# danted calls it a syntax error. Replies need rules of their own.
_DANTE_CONFIG = """\
logoutput: stderr
internal: {host} port = {port}
external.protocol: ipv4 ipv6
external: lo
clientmethod: none
socksmethod: {method}
user.privileged: {privileged}
user.unprivileged: {unprivileged}
client pass {{ from: 0/0 to: 0/0
}}
socks pass {{ from: 0/0 to: 0/0
  command: connect bind udpassociate
}}
socks pass {{ from: 0/0 to: 0/0
  command: bindreply udpreply
}}
"""

# StrictModes would look at the modes of all directories above, which are not ours.
_SSHD_CONFIG = """\
HostKey host_key
AuthorizedKeysFile "{home}/user_key.pub"
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""


def missing(commands: Iterable[str] = _COMMANDS) -> list[str]:
    """Which of the commands (those used here) are not on this machine."""
    return [name for name in commands if shutil.which(name, path=_search_path()) is None]


@contextmanager
def dante(
    directory: Path, *, host: str = "127.0.0.1", accounts: Mapping[str, str] | None = None
) -> Iterator[str]:
    """danted; with `accounts` (password by user name, no colon in a name) it asks for a login.

    The URL has the first account in it.
    """

    def prepare(home: Path, port: int) -> list[str]:
        privileged, unprivileged = _dante_users(bool(accounts))
        config = _DANTE_CONFIG.format(
            host=host,
            port=port,
            method="username" if accounts else "none",
            privileged=privileged,
            unprivileged=unprivileged,
        )
        (home / "danted.conf").write_text(config)
        command = [path_of("danted"), "-f", "danted.conf", "-p", "danted.pid"]
        return _with_accounts(home, accounts, command) if accounts else command

    with running(directory, "dante", host, prepare) as address:
        yield _url(address, next(iter(accounts.items())) if accounts else None)


@contextmanager
def microsocks(
    directory: Path, *, host: str = "127.0.0.1", account: tuple[str, str] | None = None
) -> Iterator[str]:
    """microsocks; `account` is the only login it takes, and is in the URL."""

    def prepare(home: Path, port: int) -> list[str]:
        # It takes a password from its command line only.
        login = ["-u", account[0], "-P", account[1]] if account else []
        return [path_of("microsocks"), "-i", host, "-p", str(port), *login]

    with running(directory, "microsocks", host, prepare) as address:
        yield _url(address, account)


@contextmanager
def openssh(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """`ssh -D`, logged in to an sshd of its own.

    That sshd talks to its ssh through a pipe (`sshd -i`), as in OpenSSH's own tests, not through
    a port: a listening sshd puts each connection into a new session, out of reach of `_stop`.
    """

    def prepare(home: Path, port: int) -> list[str]:
        if os.geteuid() == 0:  # where sshd locks itself in; the service's start would make it
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        _make_key(home / "user_key")
        _make_key(home / "host_key")
        (home / "known_hosts").write_text("sshd " + (home / "host_key.pub").read_text())
        (home / "sshd_config").write_text(_SSHD_CONFIG.format(home=home))
        listen = f"-D{_address(host, port)}"
        return [path_of("ssh"), "-F", "none", "-N", listen, *_ssh_options(), "sshd"]

    with running(directory, "openssh", host, prepare) as address:
        yield _url(address, None)


@contextmanager
def v2ray(
    directory: Path, *, host: str = "127.0.0.1", account: tuple[str, str] | None = None
) -> Iterator[str]:
    """V2Ray; `account` is the only login it takes, and is in the URL.

    It cuts a datagram, with its SOCKS header, off after 2048 octets, whichever way it goes.
    """

    def prepare(home: Path, port: int) -> list[str]:
        settings: dict[str, object] = {"auth": "noauth", "udp": True, "ip": host}
        if account:
            login = {"user": account[0], "pass": account[1]}
            settings.update(auth="password", accounts=[login])
        inbound = {"protocol": "socks", "listen": host, "port": port, "settings": settings}
        config = {
            "log": {"loglevel": "warning"},
            "inbounds": [inbound],
            "outbounds": [{"protocol": "freedom"}],
        }
        (home / "v2ray.json").write_text(json.dumps(config))
        return [path_of("v2ray"), "-config", "v2ray.json"]

    # It takes connections before it opens the port for the datagrams.
    with running(directory, "v2ray", host, prepare, announcement=" started") as address:
        yield _url(address, account)


@contextmanager
def shadowsocks(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """ss-local, behind it an ss-server. They drop datagrams of some 2700 octets and more."""
    shared = ["-k", secrets.token_hex(), "-m", "chacha20-ietf-poly1305", "-u"]

    def prepare_server(_home: Path, port: int) -> list[str]:
        return [path_of("ss-server"), "-s", host, "-p", str(port), *shared]

    with running(directory, "ss-server", host, prepare_server) as (_, server_port):

        def prepare_local(_home: Path, port: int) -> list[str]:
            server = ["-s", host, "-p", str(server_port)]
            return [path_of("ss-local"), *server, "-b", host, "-l", str(port), *shared]

        with running(directory, "ss-local", host, prepare_local) as address:
            yield _url(address, None)


def _ssh_options() -> list[str]:
    options = {
        "User": pwd.getpwuid(os.geteuid()).pw_name,  # sshd without root can log in only this one
        "ProxyCommand": f"{path_of('sshd')} -i -e -f sshd_config",
        "IdentityFile": "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": "known_hosts",
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
    }
    return [f"-o{name}={value}" for name, value in options.items()]


def _make_key(path: Path) -> None:
    command = [path_of("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=_START_SECONDS)


def _dante_users(namespace: bool) -> tuple[str, str]:
    """For danted's user.privileged and user.unprivileged; it can only be who it is without root."""
    if os.geteuid() == 0:
        return "root", "nobody"
    name = "root" if namespace else pwd.getpwuid(os.geteuid()).pw_name
    return name, name


def _with_accounts(home: Path, accounts: Mapping[str, str], command: list[str]) -> list[str]:
    """`command`, for which the machine has these `accounts` only.

    danted looks a login up in /etc/passwd and /etc/shadow. So it gets a mount namespace, in which
    our files lie over these two; without root that takes a user namespace, where we are root.
    `mount -n` keeps no record of it in /run/mount.
    """
    passwd = ["root:x:0:0::/root:/bin/sh", "nobody:x:65534:65534::/nonexistent:/bin/false"]
    shadow = ["root:*:::::::", "nobody:*:::::::"]
    for name, password in accounts.items():
        passwd.append(f"{name}:x:65534:65534::/nonexistent:/bin/false")
        shadow.append(f"{name}:{_password_hash(password)}:::::::")
    (home / "passwd").write_text("\n".join([*passwd, ""]))
    (home / "shadow").write_text("\n".join([*shadow, ""]))
    mount = "mount -n --bind passwd /etc/passwd && mount -n --bind shadow /etc/shadow"
    unshare = [path_of("unshare"), "--mount"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *command]


def _password_hash(password: str) -> str:
    """By perl, as every Debian has it (not so openssl) and Python 3.13 lost its `crypt`."""
    script = "local $/; print crypt(<STDIN>, $ARGV[0])"
    command = [path_of("perl"), "-e", script, f"$6${secrets.token_hex(8)}$"]
    run = subprocess.run(command, input=password.encode(), stdout=subprocess.PIPE, check=True)
    return run.stdout.decode()


@contextmanager
def running(
    directory: Path, name: str, host: str, prepare: Prepare, *, announcement: str = ""
) -> Iterator[Address]:
    """Runs a server, and yields where it listens.

    It counts as started when it takes a connection, and has the `announcement` in its log.
    """
    process, port = _start(directory, name, host, prepare, announcement)
    try:
        yield host, port
    finally:
        _stop(process)


def _start(
    directory: Path, name: str, host: str, prepare: Prepare, announcement: str
) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(_PORT_ATTEMPTS):
        home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory.resolve()))
        with _reserved_port(host) as port:
            process = _spawn(prepare(home, port), home)
            ready = False
            try:
                ready = _wait_for(process, home, (host, port), announcement)
            finally:  # also when the wait was interrupted
                if not ready:
                    _stop(process)
        if ready:
            return process, port
        log = _log(home)
        if "in use" not in log:  # "Address already in use": the only failure worth another port
            break
    raise RuntimeError(f"{name} did not start; {home}/log ends: {log[-2000:].strip()}")


@contextmanager
def _reserved_port(host: str) -> Iterator[int]:
    """A port, free for TCP and UDP, which no one else is given for as long as the context lasts.

    The server can still listen on it, as it too sets SO_REUSEADDR (V2Ray for UDP SO_REUSEPORT).
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
            # Not before: UDP sockets with one of these share a port without a word.
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            yield port
            return


def _spawn(command: list[str], home: Path) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": _search_path(),
        "LC_ALL": "C",
        "TMPDIR": str(home),  # danted's locks and shared memory
        "SHELL": "/bin/sh",  # for ssh's ProxyCommand; the login shell of the user may be nologin
        # Else libnss-systemd tells an sshd which cannot read /etc/shadow that nobody is locked.
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
    """Waits until the server has started; False when it ended, or took too long."""
    deadline = time.monotonic() + _START_SECONDS
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


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and all its children, which are in the process group which it leads."""
    process.terminate()  # it alone: danted's mother takes her twenty children down in order
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
    """Zombies do not count: they hold nothing, and in a container nobody may ever reap them."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(address: Address, account: tuple[str, str] | None) -> str:
    login = ":".join(quote(part, safe="") for part in account) + "@" if account else ""
    return f"socks5h://{login}{_address(*address)}"


def _search_path() -> str:
    """Debian has some servers in /usr/sbin, which a user's PATH need not name."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def path_of(name: str) -> str:
    """Absolute: sshd refuses to run otherwise."""
    found = shutil.which(name, path=_search_path())
    if found is None:
        raise RuntimeError(f"{name} is not installed: see tests/install-servers.sh")
    return found
