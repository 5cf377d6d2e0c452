"""A private Tor network on loopback, which a whole run of pytest shares.

The network has three directory authorities and two relays, all of them exits; a client, whose ports
are the proxies for the tests; and two onion services. It knows nothing of the public network, and
needs no root.

The network takes about sixteen seconds to start. So `Plugin` starts it as soon as pytest has
collected a test of a file servers/test_tor*.py, and puts these tests last. With pytest-xdist, the
controller does this for all workers. The network is a process of its own: this file, as a script.
When its standard input ends, that process ends all that it has started, and removes every file. The
input ends when the run closes it, and when the run itself ends in any other way.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from helpers import real_servers
from helpers.real_servers.process import (
    Address,
    own_name,
    path_of,
    reserved_port,
    running,
    spawn,
    stop,
)

T = TypeVar("T")

WELCOME = b"the onion service\n"
"""The body of the responses of the onion services."""

_AUTHORITIES = ("authority0", "authority1", "authority2")
RELAYS = (*_AUTHORITIES, "relay0", "relay1")
"""The relays, in the order of their start; each has a directory of its name."""

_HOST = "127.0.0.1"
_CLIENT_PORTS = ("socks_port", "extended_port", "http_port", "control_port")
_PORTS = (*RELAYS, *(f"{name} dir" for name in _AUTHORITIES), *_CLIENT_PORTS)
_NO_DEFAULTS = ("--defaults-torrc", "/dev/null")

# The network takes 16 seconds, and several times as long on a busy machine.
_START_SECONDS = 240.0
_STOP_SECONDS = 60.0
_INITIAL_VOTING_INTERVAL = 10  # seconds
# The seconds from the start of the authorities to the first consensus. The authorities vote four
# seconds before, and know the relays by then. A late relay would wait for the next consensus.
_FIRST_CONSENSUS_SECONDS = 9

# Each of these files appears when it is complete.
_READY = "ready.json"
_FAILURE = "failure"

# tor looks every 15 seconds whether its owner lives, and ends if this process has been killed.
# - LearnCircuitBuildTimeout: a client on loopback would learn to give up a circuit after some
#   milliseconds.
# - UseEntryGuards: with guards out of five relays, some paths would have no other relay left.
# - FetchDirInfoEarly: a node would ask a cache for what only the authorities have so far, and try
#   again ten seconds later.
# - ConfluxEnabled: a stream would be on two circuits, and the tests could not tell which.
_COMMON = """\
DataDirectory {home}
__OwningControllerProcess {owner}
TestingTorNetwork 1
{authorities}
LearnCircuitBuildTimeout 0
UseEntryGuards 0
VanguardsLiteEnabled 0
FetchDirInfoEarly 1
FetchDirInfoExtraEarly 1
ConfluxEnabled 0
NumCPUs 1
ShutdownWaitLength 0
GeoIPFile /dev/null
GeoIPv6File /dev/null
Log notice stdout
"""

# A relay may get its first consensus ten seconds after the other relays. Until then it does not
# know them, and by default it would refuse to be their exit.
_RELAY = """\
Nickname {name}
ContactInfo none
Address {host}
ORPort {host}:{port} IPv4Only
SocksPort 0
AssumeReachable 1
ExitRelay 1
RefuseUnknownExits 0
IPv6Exit 1
ExitPolicyRejectPrivate 0
ExitPolicy accept *:*
ExitPolicy accept6 *:*
ServerDNSResolvConfFile {resolv_conf}
ServerDNSDetectHijacking 0
"""

# After the first consensus the authorities vote less often, because nothing changes any more.
_AUTHORITY = """\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
DirPort {host}:{port}
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingV3AuthVotingStartOffset {offset}
TestingV3AuthInitialVotingInterval {interval}
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
"""

_CLIENT = """\
SocksPort {host}:{socks_port}
SocksPort {host}:{extended_port} ExtendedErrors
SocksPort unix:{unix_path}
HTTPTunnelPort {host}:{http_port}
ControlPort {host}:{control_port}
CookieAuthentication 0
"""

_ONIONS = """\
SocksPort 0
HiddenServiceDir {home}/onion
HiddenServicePort 80 {target}
HiddenServiceDir {home}/private
HiddenServicePort 80 {target}
"""

# dnsmasq answers NXDOMAIN to every other name. A host-record answers PTR queries too.
_DNSMASQ = """\
port={port}
listen-address={host}
bind-interfaces
user={user}
pid-file=
log-facility=-
no-hosts
no-resolv
address=/#/
host-record=loopback.test,origin.test,127.0.0.1
host-record=loopback6.test,::1
host-record=a.test,192.0.2.1
host-record=aaaa.test,2001:db8::1
"""


def missing() -> list[str]:
    """Return which of the programs for the network this machine does not have."""
    return real_servers.missing(["tor", "tor-gencert", "dnsmasq"])


@dataclass(frozen=True)
class TorNetwork:
    """The ports and the names of a running network.

    Its exits resolve loopback.test and origin.test (127.0.0.1), loopback6.test (::1), a.test
    (192.0.2.1) and aaaa.test (2001:db8::1), and these addresses to the names. There is no other
    name.

    Attributes:
        socks_port: The SocksPort of the client. All ports are on 127.0.0.1.
        extended_port: A SocksPort of the client with ExtendedErrors.
        http_port: The HTTPTunnelPort of the client.
        control_port: The ControlPort of the client, which wants no authentication.
        unix_path: The SocksPort of the client that is a unix socket.
        onion: The name of the onion service, which answers HTTP on port 80 with `WELCOME`.
        private_onion: The name of an onion service that accepts only clients with a key.
        private_key: The key, for ONION_CLIENT_AUTH_ADD. The client does not have the key.
    """

    socks_port: int
    extended_port: int
    http_port: int
    control_port: int
    unix_path: str
    onion: str
    private_onion: str
    private_key: str


class Plugin:
    """The plugin of pytest that starts the network and ends it.

    Args:
        config: The configuration of the run; with pytest-xdist, of its controller or of a worker.
    """

    def __init__(self, config: pytest.Config) -> None:
        workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._is_worker = workerinput is not None
        # Below the directories of pytest or TMPDIR, the path of the unix socket could be longer
        # than 107 octets.
        name = workerinput["tor_network"] if workerinput else f"/tmp/tor-{secrets.token_hex(8)}"
        self._directory = Path(name)
        self._process: subprocess.Popen[bytes] | None = None

    def wait(self) -> TorNetwork:
        """Return the network of this run, as soon as the network runs."""
        return wait(self._directory)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["tor_network"] = str(self._directory)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: _needs_network(item.nodeid))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if not self._is_worker and not session.config.option.collectonly:
            self._start_for(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._start_for(ids)

    def pytest_unconfigure(self) -> None:
        if self._process:
            # This closes the standard input of the process, which ends the network.
            _, errors = self._process.communicate(timeout=_STOP_SECONDS)
            if self._process.returncode != 0:
                shutil.rmtree(self._directory, ignore_errors=True)
                raise RuntimeError(f"the Tor network did not end well: {errors.decode()}")

    def _start_for(self, nodeids: Iterable[str]) -> None:
        if self._process is None and any(map(_needs_network, nodeids)):
            self._process = start(self._directory)


def _needs_network(nodeid: str) -> bool:
    return Path(nodeid.partition("::")[0]).match("servers/test_tor*.py")


def start(directory: Path) -> subprocess.Popen[bytes]:
    """Start a network in a new directory, and return its process.

    Closing the standard input of the process, a pipe, ends the network and the process.
    """
    directory.mkdir(mode=0o700)
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("COV")}
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.tor_network", str(directory)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # The environment lacks the variables by which coverage would watch this process too.
        env=environment,
        # A Ctrl-C interrupts the run of the tests, which then ends the network.
        start_new_session=True,
    )


def wait(directory: Path) -> TorNetwork:
    """Return the network of `directory`, as soon as the network runs."""
    end = time.monotonic() + _START_SECONDS + _STOP_SECONDS
    while not (directory / _READY).exists():
        if (directory / _FAILURE).exists():
            raise RuntimeError((directory / _FAILURE).read_text())
        if time.monotonic() > end or not directory.exists():
            raise RuntimeError("the Tor network was not started, or it was ended")
        time.sleep(0.1)
    return TorNetwork(**json.loads((directory / _READY).read_text()))


def _main(directory: Path) -> None:
    ending = threading.Event()

    def end(*_args: object) -> None:
        # Nothing may interrupt the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ending.set()
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_end_with_input, daemon=True).start()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        try:
            network = stack.enter_context(_network(directory))
        # The tests raise the error when they ask for the network.
        except Exception:  # noqa: BLE001
            _publish(directory / _FAILURE, f"{traceback.format_exc()}\n{_ends_of_logs(directory)}")
        else:
            _publish(directory / _READY, json.dumps(asdict(network)))
        ending.wait()


def _end_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _publish(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(path)


def _ends_of_logs(directory: Path) -> str:
    logs = sorted(directory.glob("*/log"))
    return "\n".join(f"{log} ends:\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


@contextmanager
def _network(directory: Path) -> Iterator[TorNetwork]:
    with ExitStack() as stack:
        enter = stack.enter_context
        web_server = enter(_web_server())
        name_server = enter(_name_server(directory))
        # The configuration of each tor has the ports of the others.
        ports = {name: enter(reserved_port(_HOST)) for name in _PORTS}
        nodes = enter(_Nodes(directory))
        _start_relays(nodes, ports, name_server)
        nodes.wait_for("a consensus with all relays", partial(_have_consensus, nodes))
        private_key = _start_onions(nodes, web_server)
        client = {name: ports[name] for name in _CLIENT_PORTS}
        unix_path = str(nodes.home("client") / "socks")
        nodes.start("client", _CLIENT.format(host=_HOST, unix_path=unix_path, **client))
        onion = nodes.wait_for("a name", partial(_name_of, nodes, "onion"))
        private_onion = nodes.wait_for("another name", partial(_name_of, nodes, "private"))
        proxy = (_HOST, client["extended_port"])
        for rep, destination in ((0, web_server), (0, (onion, 80)), (0xF4, (private_onion, 80))):
            reached = partial(_replies, rep, proxy, destination)
            nodes.wait_for(f"REP {rep:02X} of {destination[0]}", reached)
        yield TorNetwork(
            **client,
            unix_path=unix_path,
            onion=onion,
            private_onion=private_onion,
            private_key=private_key,
        )


class _Nodes:
    """The processes of tor, each with a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = ""
        self._deadline = time.monotonic() + _START_SECONDS
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> _Nodes:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for process in self._processes.values():
            # The processes end at the same time.
            process.terminate()
        for process in self._processes.values():
            stop(process)

    def home(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def start(self, name: str, torrc: str) -> None:
        home = self.home(name)
        common = _COMMON.format(home=home, owner=os.getpid(), authorities=self.authorities)
        (home / "torrc").write_text(common + torrc)
        command = [path_of("tor"), "-f", "torrc", *_NO_DEFAULTS]
        self._processes[name] = spawn(command, home)

    def wait_for(self, what: str, condition: Callable[[], T]) -> T:
        """Return what `condition` returns, as soon as the result is true."""
        while not (result := condition()):
            ended = [
                name for name, process in self._processes.items() if process.poll() is not None
            ]
            if ended:
                raise RuntimeError(f"{', '.join(ended)} ended, while {what} was waited for")
            if time.monotonic() > self._deadline:
                raise RuntimeError(f"after {_START_SECONDS} s, still waiting for {what}")
            time.sleep(0.1)
        return result


def _start_relays(nodes: _Nodes, ports: dict[str, int], name_server: Address) -> None:
    with ThreadPoolExecutor() as executor:
        lines = executor.map(partial(_make_authority, nodes, ports), _AUTHORITIES)
        nodes.authorities = "\n".join(lines)
    resolv_conf = nodes.directory / "resolv.conf"
    resolv_conf.write_text("nameserver {}:{}\n".format(*name_server))
    interval = _INITIAL_VOTING_INTERVAL
    # The authorities vote at full intervals of the clock plus the offset. The offset makes the
    # first vote independent of the time of day.
    offset = round(time.time() + _FIRST_CONSENSUS_SECONDS) % interval
    for name in RELAYS:
        torrc = _RELAY.format(name=name, host=_HOST, port=ports[name], resolv_conf=resolv_conf)
        if name in _AUTHORITIES:
            port = ports[f"{name} dir"]
            torrc += _AUTHORITY.format(host=_HOST, port=port, offset=offset, interval=interval)
        nodes.start(name, torrc)


def _make_authority(nodes: _Nodes, ports: dict[str, int], name: str) -> str:
    """Make the keys of an authority, and return its line for the configuration of all nodes."""
    home, address = nodes.home(name), f"{_HOST}:{ports[f'{name} dir']}"
    keys = home / "keys"
    keys.mkdir(mode=0o700)
    make_keys = [path_of("tor-gencert"), "--create-identity-key", "--passphrase-fd", "0"]
    _run([*make_keys, "-a", address], keys, b"passphrase\n")
    certificate = (keys / "authority_certificate").read_text()
    v3ident = certificate.partition("\nfingerprint ")[2].split()[0]
    (home / "torrc").write_text(f"DataDirectory {home}\nNickname {name}\nORPort 1\n")
    _run([path_of("tor"), "--list-fingerprint", "-f", "torrc", *_NO_DEFAULTS], home)
    fingerprint = (home / "fingerprint").read_text().split()[1]
    return f"DirAuthority {name} orport={ports[name]} v3ident={v3ident} {address} {fingerprint}"


def _run(command: list[str], home: Path, octets: bytes = b"") -> None:
    run = subprocess.run(command, cwd=home, input=octets, capture_output=True, check=False)
    if run.returncode != 0:
        said = (run.stdout + run.stderr).decode(errors="replace")
        raise RuntimeError(f"{command[0]} failed: {said}")


def _have_consensus(nodes: _Nodes) -> bool:
    """Return whether every authority has a consensus that lists every relay."""
    consensuses = [nodes.home(name) / "cached-microdesc-consensus" for name in _AUTHORITIES]
    return all(
        path.exists() and path.read_text().count("\nr ") == len(RELAYS) for path in consensuses
    )


def _start_onions(nodes: _Nodes, web_server: Address) -> str:
    """Start both onion services, and return the key of the private one."""
    home = nodes.home("onions")
    clients = home / "private" / "authorized_clients"
    for directory in (clients.parent, clients):
        directory.mkdir(mode=0o700)
    key = X25519PrivateKey.generate()
    public_key = base64.b32encode(key.public_key().public_bytes_raw()).decode().rstrip("=")
    (clients / "tests.auth").write_text(f"descriptor:x25519:{public_key}\n")
    nodes.start("onions", _ONIONS.format(home=home, target="{}:{}".format(*web_server)))
    return base64.b64encode(key.private_bytes_raw()).decode()


def _name_of(nodes: _Nodes, service: str) -> str:
    path = nodes.home("onions") / service / "hostname"
    return path.read_text().strip() if path.exists() else ""


def _replies(rep: int, proxy: Address, destination: Address) -> bool:
    """Return whether the proxy replies to CONNECT with this REP."""
    host, port = destination[0].encode(), destination[1].to_bytes(2, "big")
    with suppress(OSError), socket.create_connection(proxy, timeout=10) as sock:
        # Tor accepts the request in the segment of the greeting, if there is no password.
        sock.sendall(b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(host)]) + host + port)
        octets = b""
        while len(octets) < 4 and (received := sock.recv(4 - len(octets))):
            octets += received
        return octets == bytes([0x05, 0x00, 0x05, rep])
    return False


@contextmanager
def _name_server(directory: Path) -> Iterator[Address]:
    def prepare(home: Path, port: int) -> list[str]:
        user = own_name()
        (home / "dnsmasq.conf").write_text(_DNSMASQ.format(host=_HOST, port=port, user=user))
        return [path_of("dnsmasq"), "--keep-in-foreground", "--conf-file=dnsmasq.conf"]

    with running(directory, "dnsmasq", _HOST, prepare) as address:
        yield address


class _Welcome(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(WELCOME)))
        self.end_headers()
        self.wfile.write(WELCOME)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        # Only errors belong on stderr.
        pass


@contextmanager
def _web_server() -> Iterator[Address]:
    with ThreadingHTTPServer((_HOST, 0), _Welcome) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield _HOST, server.server_port
        server.shutdown()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
