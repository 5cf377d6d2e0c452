"""Dante, the SOCKS server of Inferno Nettverk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from helpers.real_servers.process import own_name, password_hash, path_of, running, url_of

# "external.protocol" has to stand before "external", and a command list has to end its line, or
# danted calls it a syntax error. Replies need rules of their own.
_CONFIG = """\
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


@contextmanager
def dante(
    directory: Path, *, host: str = "127.0.0.1", accounts: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run danted.

    Args:
        directory: The directory for its files.
        host: The address to listen on.
        accounts: The password of each user name, which has no colon. With accounts, danted wants
            a login, and the URL has the first account.
    """

    def prepare(home: Path, port: int) -> list[str]:
        config = dante_config(host, port, has_accounts=bool(accounts))
        (home / "danted.conf").write_text(config)
        command = [path_of("danted"), "-f", "danted.conf", "-p", "danted.pid"]
        return _with_accounts(home, accounts, command) if accounts else command

    with running(directory, "dante", host, prepare) as address:
        yield url_of(address, next(iter(accounts.items())) if accounts else None)


def dante_config(host: str, port: int, *, has_accounts: bool = False) -> str:
    """Return the configuration of a danted that listens on a host and a port."""
    privileged, unprivileged = _users(has_accounts)
    return _CONFIG.format(
        host=host,
        port=port,
        method="username" if has_accounts else "none",
        privileged=privileged,
        unprivileged=unprivileged,
    )


def _users(namespace: bool) -> tuple[str, str]:
    """Return user.privileged and user.unprivileged: without root, danted can be no other user."""
    if os.geteuid() == 0:
        return "root", "nobody"
    name = "root" if namespace else own_name()
    return name, name


def _with_accounts(home: Path, accounts: Mapping[str, str], command: list[str]) -> list[str]:
    """Return a command that runs `command` on a machine that has these accounts only.

    danted looks logins up in /etc/passwd and /etc/shadow. So danted gets a mount namespace, in
    which other files are mounted over these two. Without root, that needs a user namespace, in
    which this process is root. `mount -n` keeps no record in /run/mount.
    """
    passwd = ["root:x:0:0::/root:/bin/sh", "nobody:x:65534:65534::/nonexistent:/bin/false"]
    shadow = ["root:*:::::::", "nobody:*:::::::"]
    for name, password in accounts.items():
        passwd.append(f"{name}:x:65534:65534::/nonexistent:/bin/false")
        shadow.append(f"{name}:{password_hash(password)}:::::::")
    (home / "passwd").write_text("\n".join([*passwd, ""]))
    (home / "shadow").write_text("\n".join([*shadow, ""]))
    mount = "mount -n --bind passwd /etc/passwd && mount -n --bind shadow /etc/shadow"
    unshare = [path_of("unshare"), "--mount"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
