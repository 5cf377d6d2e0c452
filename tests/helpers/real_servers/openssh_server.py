"""OpenSSH: `ssh -D`, logged in to an sshd of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from helpers.real_servers.process import (
    START_SECONDS,
    host_and_port,
    new_directory,
    own_name,
    path_of,
    running,
    url_of,
)

# StrictModes would look at the modes of all directories above, which are not ours.
SSHD_CONFIG = """\
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


@contextmanager
def openssh(directory: Path, *, host: str = "127.0.0.1", unix: bool = False) -> Iterator[str]:
    """Run `ssh -D`, logged in to an sshd of its own; with `unix`, it listens at a unix socket.

    The sshd talks to its ssh through a pipe (`sshd -i`), as in the tests of OpenSSH. A sshd that
    listens on a port puts each connection into a new session, out of reach of `stop`.
    """
    # ssh's manual does not say that -D takes a path, but it does. It opens the port after that.
    path = new_directory(directory, "openssh-unix-") / "socks" if unix else None
    unix_options = ["-oStreamLocalBindUnlink=yes", f"-D{path}"] if path else []

    def prepare(home: Path, port: int) -> list[str]:
        # sshd locks itself into this directory, which the start of the service would make.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        make_key(home / "user_key")
        make_key(home / "host_key")
        (home / "known_hosts").write_text("sshd " + (home / "host_key.pub").read_text())
        (home / "sshd_config").write_text(SSHD_CONFIG.format(home=home))
        listen = [*unix_options, f"-D{host_and_port(host, port)}"]
        return [path_of("ssh"), "-F", "none", "-N", *listen, *ssh_options(), "sshd"]

    with running(directory, "openssh", host, prepare) as address:
        yield f"socks5h://localhost{quote(str(path))}" if path else url_of(address, None)


def ssh_options() -> list[str]:
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


def make_key(path: Path) -> None:
    command = [path_of("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=START_SECONDS)
