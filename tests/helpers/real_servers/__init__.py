"""Real servers for the tests: proxies that this project has not written.

SOCKS: `dante`, `microsocks`, `openssh`, `v2ray`, `shadowsocks`, `i2pd`, `stunnel_socks` and
`mitmproxy`. HTTP: `tinyproxy`, `privoxy`, `squid`, and `mitmproxy` again. `stunnel` puts TLS before
any of them.

Each is a context manager. It starts one private server on a free port of loopback, and yields the
URL of the proxy (`mitmproxy` yields more than that). At its exit, no process of the server is left.
The servers need Linux and the programs of `install-servers.sh`, but no root. The configuration and
the log of a server stay in a new directory below the given one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from helpers.real_servers.dante_server import dante
from helpers.real_servers.http_servers import privoxy, squid, stunnel, tinyproxy
from helpers.real_servers.mitmproxy_server import MITMDUMP, mitmproxy
from helpers.real_servers.openssh_server import openssh
from helpers.real_servers.process import path_of, running, search_path
from helpers.real_servers.socks_servers import (
    i2pd,
    microsocks,
    microsocks_without_ipv6,
    shadowsocks,
    stunnel_socks,
    v2ray,
)

__all__ = [
    "MITMDUMP",
    "NIQUESTS_PYTHON",
    "dante",
    "i2pd",
    "microsocks",
    "microsocks_without_ipv6",
    "missing",
    "mitmproxy",
    "openssh",
    "path_of",
    "privoxy",
    "running",
    "shadowsocks",
    "squid",
    "stunnel",
    "stunnel_socks",
    "tinyproxy",
    "v2ray",
]

_COMMANDS = (
    *("danted", "microsocks", "sshd", "ssh", "ssh-keygen", "unshare", "mount", "perl"),
    *("v2ray", "ss-server", "ss-local", "tinyproxy", "privoxy", "stunnel", "squid", "i2pd"),
)

NIQUESTS_PYTHON = str(Path(__file__).parents[3].resolve() / ".venv-niquests" / "bin" / "python")
"""The Python of a venv where niquests has put urllib3-future in the place of urllib3."""


def missing(commands: Iterable[str] = _COMMANDS) -> list[str]:
    """Return which of the commands this machine does not have; by default, those of the servers."""
    return [name for name in commands if shutil.which(name, path=search_path()) is None]
