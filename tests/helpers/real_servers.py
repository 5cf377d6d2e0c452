"""Real proxies for the tests, none of them written by us.

SOCKS: `dante`, `microsocks`, `openssh`, `v2ray`, `shadowsocks`, `i2pd`, `stunnel_socks` and
`mitmproxy`; HTTP: `tinyproxy`, `privoxy`, `squid` and `mitmproxy` again; `stunnel` puts TLS in
front of any of them. They are context managers: each starts one private server on a free port of
loopback, yields the URL of the proxy (`mitmproxy` more than that), and at exit has stopped every
process of it. They need Linux and what `install-servers.sh` installs, but no root. The
configuration and the log of a server stay in a new directory of its own under the given one.
`running` is what they share with `real_services`.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import trustme

Address = tuple[str, int]

# Makes the command line of a server, and its files, given its own directory and its port.
Prepare = Callable[[Path, int], list[str]]

_COMMANDS = (
    *("danted", "microsocks", "sshd", "ssh", "ssh-keygen", "unshare", "mount", "perl"),
    *("v2ray", "ss-server", "ss-local", "tinyproxy", "privoxy", "stunnel", "squid", "i2pd"),
)

_PROJECT = Path(__file__).parents[2].resolve()

MITMDUMP = str(_PROJECT / ".venv-mitmproxy" / "bin" / "mitmdump")
"""mitmproxy's command: it is in a venv of its own, as it wants its own versions of many things."""

NIQUESTS_PYTHON = str(_PROJECT / ".venv-niquests" / "bin" / "python")
"""The Python of a venv where niquests has put urllib3-future in the place of urllib3."""

_PORT_ATTEMPTS = 5
# Dante starts in 0.1 s and ssh in 0.5 s, but a machine that is busy with other things takes longer.
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0

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

# Without a level it logs its errors alone, and nobody would see who it has let in.
_TINYPROXY_CONFIG = """\
Listen {host}
Port {port}
LogLevel Connect
"""

# The templates are the pages which it answers with when it fails. It has no list of rules here, so
# it filters nothing, and lets CONNECT through to every port.
_PRIVOXY_CONFIG = """\
listen-address {address}
templdir /etc/privoxy/templates
"""

# It wants addresses of IPv6 without brackets, here too.
_STUNNEL_CONFIG = """\
foreground = yes
syslog = no
pid =
[proxy]
accept = {address}
connect = {target}
cert = certificate.pem
"""

# With `protocol = socks`, stunnel does not connect to one fixed target; it is a SOCKS server.
_STUNNEL_SOCKS_CONFIG = """\
foreground = yes
syslog = no
pid =
[proxy]
accept = {address}
protocol = socks
cert = certificate.pem
"""

# Squid refuses one port, which no other test needs. It asks no name server, and starts no programs
# except those that check passwords.
_SQUID_CONFIG = """\
http_port {address}
visible_hostname squid.test
dns_nameservers 127.0.0.1
pinger_enable off
cache deny all
access_log none
cache_log /dev/null
pid_filename none
coredump_dir none
acl mail port 25
http_access deny mail
"""

_SQUID_SCHEMES = {
    "Basic": """\
auth_param basic program /usr/lib/squid/basic_ncsa_auth {home}/basic
""",
    "Digest": """\
auth_param digest program /usr/lib/squid/digest_file_auth {home}/digest
auth_param digest realm squid
""",
}

# i2pd knows no other router, publishes nothing about itself, and opens only this port.
_I2PD_CONFIG = """\
log = stdout
ipv6 = false
nat = false
notransit = true
[ntcp2]
published = false
[ssu2]
enabled = false
[reseed]
urls =
[http]
enabled = false
[httpproxy]
enabled = false
[sam]
enabled = false
[socksproxy]
address = {host}
port = {port}
"""

# It is called before the client gets anything of the answer: who has that finds it written down.
_MITMPROXY_ADDON = """\
import base64
import json
import pathlib

RECORD = pathlib.Path(__file__).with_name("flows")


def base64_of(octets):
    return base64.b64encode(octets or b"").decode()


def response(flow):
    line = {
        "method": flow.request.method,
        "url": flow.request.url,
        "http_version": flow.request.http_version,
        "headers": list(flow.request.headers.items(multi=True)),
        "sent": base64_of(flow.request.raw_content),
        "status": flow.response.status_code,
        "received": base64_of(flow.response.raw_content),
        "destination": flow.server_conn.address,
    }
    with RECORD.open("a") as record:
        record.write(json.dumps(line) + "\\n")
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
def microsocks_without_ipv6(directory: Path) -> Iterator[str]:
    """Run microsocks on a host that has no IPv6 and can reach only an echo server.

    From that host, the echo server is at 127.0.0.1, at the port of the URL.
    """
    script = Path(__file__).with_name("without_ipv6.py")

    def prepare(_home: Path, port: int) -> list[str]:
        return [sys.executable, str(script), str(port)]

    # The script's first process listens, but accepts nothing before microsocks has started.
    with running(
        directory, "microsocks-without-ipv6", "127.0.0.1", prepare, announcement="ready"
    ) as address:
        yield _url(address, None)


@contextmanager
def openssh(directory: Path, *, host: str = "127.0.0.1", unix: bool = False) -> Iterator[str]:
    """`ssh -D`, logged in to an sshd of its own; with `unix` the URL is of a socket of Unix.

    That sshd talks to its ssh through a pipe (`sshd -i`), as in OpenSSH's own tests, not through
    a port: a listening sshd puts each connection into a new session, out of reach of `stop`.
    """
    # ssh's manual does not say that -D takes a path, but it does. It opens the port after that.
    path = _new_directory(directory, "openssh-unix-") / "socks" if unix else None
    unix_options = ["-oStreamLocalBindUnlink=yes", f"-D{path}"] if path else []

    def prepare(home: Path, port: int) -> list[str]:
        # sshd locks itself into this directory, which the start of the service would make.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        _make_key(home / "user_key")
        _make_key(home / "host_key")
        (home / "known_hosts").write_text("sshd " + (home / "host_key.pub").read_text())
        (home / "sshd_config").write_text(_SSHD_CONFIG.format(home=home))
        listen = [*unix_options, f"-D{_address(host, port)}"]
        return [path_of("ssh"), "-F", "none", "-N", *listen, *_ssh_options(), "sshd"]

    with running(directory, "openssh", host, prepare) as address:
        yield f"socks5h://localhost{quote(str(path))}" if path else _url(address, None)


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


@contextmanager
def i2pd(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Run i2pd, which knows no other router and therefore reaches no destination."""

    def prepare(home: Path, port: int) -> list[str]:
        (home / "i2pd.conf").write_text(_I2PD_CONFIG.format(host=host, port=port))
        return _ending_at_once(path_of("i2pd"), f"--datadir={home}", "--conf=i2pd.conf")

    with running(directory, "i2pd", host, prepare) as address:
        yield _url(address, None)


@contextmanager
def tinyproxy(
    directory: Path, *, host: str = "127.0.0.1", account: tuple[str, str] | None = None
) -> Iterator[str]:
    """tinyproxy; `account` is the only login it takes, and is in the URL.

    It takes letters of ASCII, digits, and `-._` in a login.
    """

    def prepare(home: Path, port: int) -> list[str]:
        config = _TINYPROXY_CONFIG.format(host=host, port=port)
        if account:
            config += "BasicAuth {} {}\n".format(*account)
        (home / "tinyproxy.conf").write_text(config)
        return [path_of("tinyproxy"), "-d", "-c", "tinyproxy.conf"]

    with running(directory, "tinyproxy", host, prepare) as address:
        yield _url(address, account, "http")


@contextmanager
def privoxy(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Privoxy, which filters nothing."""

    def prepare(home: Path, port: int) -> list[str]:
        config = _PRIVOXY_CONFIG.format(address=_address(host, port))
        (home / "privoxy.conf").write_text(config)
        return [path_of("privoxy"), "--no-daemon", "privoxy.conf"]

    with running(directory, "privoxy", host, prepare) as address:
        yield _url(address, None, "http")


@contextmanager
def squid(
    *,
    host: str = "127.0.0.1",
    account: tuple[str, str] | None = None,
    schemes: Sequence[Literal["Basic", "Digest"]] = ("Basic",),
) -> Iterator[str]:
    """Run Squid, which refuses to connect to any port 25.

    Squid accepts only `account`, by any of the `schemes`; the account is in the URL.

    If root starts Squid, it goes on as another user, who cannot read the directories of pytest. So
    its files are elsewhere.
    """
    # Squid names its shared memory after this. Two processes with one name would share it.
    name = f"squid{secrets.token_hex(8)}"

    def prepare(home: Path, port: int) -> list[str]:
        config = _SQUID_CONFIG.format(address=_address(host, port))
        if account:
            username, password = account
            (home / "basic").write_text(f"{username}:{_password_hash(password)}\n")
            (home / "digest").write_text(f"{username}:{password}\n")
            config += "".join(_SQUID_SCHEMES[scheme].format(home=home) for scheme in schemes)
            config += "acl known proxy_auth REQUIRED\nhttp_access allow known\n"
        else:
            config += "http_access allow all\n"
        (home / "squid.conf").write_text(config)
        home.chmod(0o755)
        return _ending_at_once(path_of("squid"), "-N", "-d1", "-n", name, "-f", "squid.conf")

    with tempfile.TemporaryDirectory(prefix="squid-") as directory:
        os.chmod(directory, 0o755)
        try:
            with running(Path(directory), "squid", host, prepare) as address:
                yield _url(address, account, "http")
        finally:
            for path in Path("/dev/shm").glob(f"{name}-*"):
                path.unlink()


@contextmanager
def stunnel(
    directory: Path, proxy: str, certificate: trustme.LeafCert, *, host: str = "127.0.0.1"
) -> Iterator[str]:
    """stunnel, with TLS, in front of `proxy`; the URL has the login of `proxy`, if it has one."""
    parts = urlsplit(proxy)
    login, at, _ = parts.netloc.rpartition("@")
    scheme = "https" if parts.scheme == "http" else f"{parts.scheme}+tls"

    def prepare(home: Path, port: int) -> list[str]:
        certificate.private_key_and_cert_chain_pem.write_to_path(home / "certificate.pem")
        config = _STUNNEL_CONFIG.format(
            address=f"{host}:{port}", target=f"{parts.hostname}:{parts.port}"
        )
        (home / "stunnel.conf").write_text(config)
        return [path_of("stunnel"), "stunnel.conf"]

    with running(directory, "stunnel", host, prepare) as address:
        yield f"{scheme}://{login}{at}{_address(*address)}"


@contextmanager
def stunnel_socks(
    directory: Path, certificate: trustme.LeafCert, *, host: str = "127.0.0.1"
) -> Iterator[str]:
    """Run stunnel as a SOCKS server with TLS. It refuses every destination on loopback."""

    def prepare(home: Path, port: int) -> list[str]:
        certificate.private_key_and_cert_chain_pem.write_to_path(home / "certificate.pem")
        config = _STUNNEL_SOCKS_CONFIG.format(address=f"{host}:{port}")
        (home / "stunnel.conf").write_text(config)
        return [path_of("stunnel"), "stunnel.conf"]

    with running(directory, "stunnel-socks", host, prepare) as address:
        yield _url(address, None, "socks5h+tls")


@dataclass(frozen=True)
class Flow:
    """A request that went through mitmproxy, and what was answered, as mitmproxy saw them.

    Attributes:
        method: The method.
        url: The URL.
        http_version: Such as "HTTP/2.0".
        headers: The names, as they came, and values of the request's headers.
        sent: The body of the request.
        status: The status of the response.
        received: The body of the response.
        destination: What it was asked to connect to: a name, if it was a name.
    """

    method: str
    url: str
    http_version: str
    headers: list[tuple[str, str]]
    sent: bytes
    status: int
    received: bytes
    destination: Address


@dataclass(frozen=True)
class MITMProxy:
    """A running mitmproxy.

    Attributes:
        url: The URL of the proxy.
        ca_file: The certificate of the authority that its certificates are from, as PEM.
        record: Where it writes down what goes through it.
    """

    url: str
    ca_file: Path
    record: Path

    def trust(self) -> ssl.SSLContext:
        """Return a new context for clients, which trusts the certificates that this proxy makes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca_file)
        return context

    def flows(self) -> list[Flow]:
        """Return what has gone through the proxy, in the order of the answers."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [_flow(json.loads(line)) for line in lines]


def _flow(line: dict[str, Any]) -> Flow:
    line["headers"] = [(name, value) for name, value in line["headers"]]
    line["sent"], line["received"] = (b64decode(line[part]) for part in ("sent", "received"))
    line["destination"] = tuple(line["destination"])
    return Flow(**line)


@contextmanager
def mitmproxy(
    directory: Path,
    trusted: trustme.CA,
    *,
    mode: Literal["socks5", "regular"] = "socks5",
    host: str = "127.0.0.1",
    account: tuple[str, str] | None = None,
) -> Iterator[MITMProxy]:
    """mitmproxy, which reads what goes through it; "regular" is an HTTP proxy.

    `trusted` is the authority of the servers behind it; `account`, with no colon in it, the only
    login it takes, and in the URL.
    """
    files = _new_directory(directory, "mitmproxy-files-")
    trusted.cert_pem.write_to_path(files / "trusted.pem")
    (files / "addon.py").write_text(_MITMPROXY_ADDON)
    options: dict[str, Path | str] = {
        "confdir": files,
        "ssl_verify_upstream_trusted_ca": files / "trusted.pem",
    }
    if account:
        options["proxyauth"] = ":".join(account)

    def prepare(home: Path, port: int) -> list[str]:
        command = [MITMDUMP, "--mode", mode, "--listen-host", host, "--listen-port", str(port)]
        for name, value in options.items():
            command += ["--set", f"{name}={value}"]
        return [*command, "--scripts", str(files / "addon.py")]

    with running(directory, "mitmproxy", host, prepare) as address:
        url = _url(address, account, "socks5h" if mode == "socks5" else "http")
        yield MITMProxy(url, files / "mitmproxy-ca-cert.pem", files / "flows")


def _ending_at_once(*command: str) -> list[str]:
    """Return a command that runs a server which by itself takes a second or two to end.

    The command is a shell, which ends as soon as it is told to; `stop` then kills the server, its
    child.
    """
    return ["sh", "-c", '"$@" & wait', "sh", *command]


def own_name() -> str:
    """Return the name of the user whom this process runs as."""
    # Windows has no such module, and imports this file for the tests that need no server.
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _ssh_options() -> list[str]:
    options = {
        # Without root, sshd can log in only the user who started it.
        "User": own_name(),
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
    name = "root" if namespace else own_name()
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
    """Run a server, and yield where it listens.

    It counts as started when it takes a connection, and has the `announcement` in its log.
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
        home = _new_directory(directory, f"{name}-")
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
    """Yield a port, free for TCP and UDP, that nobody else is given during the context.

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


def spawn(command: list[str], home: Path) -> subprocess.Popen[bytes]:
    """Start a server, which `stop` ends; its directory is `home`, where its log is too."""
    environment = {
        "PATH": _search_path(),
        "LC_ALL": "C",
        "TMPDIR": str(home),  # danted's locks and shared memory
        # ssh runs its ProxyCommand with this shell. The login shell of the user may be nologin.
        "SHELL": "/bin/sh",
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
    """Wait until the server has started; return False if it ended, or took too long."""
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


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all its children, which are in the process group that the server leads."""
    # The signal is for the leader alone: danted's mother process ends her twenty children in order.
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
    """Zombies do not count: they hold nothing, and in a container nobody may ever reap them."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(address: Address, account: tuple[str, str] | None, scheme: str = "socks5h") -> str:
    login = ":".join(quote(part, safe="") for part in account) + "@" if account else ""
    return f"{scheme}://{login}{_address(*address)}"


def _new_directory(parent: Path, prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent.resolve()))


def _search_path() -> str:
    """Debian has some servers in /usr/sbin, which a user's PATH need not name."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def path_of(name: str) -> str:
    """Absolute: sshd refuses to run otherwise."""
    found = shutil.which(name, path=_search_path())
    if found is None:
        raise RuntimeError(f"{name} is not installed: see tests/install-servers.sh")
    return found
