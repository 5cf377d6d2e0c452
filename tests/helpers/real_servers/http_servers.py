"""HTTP proxies: tinyproxy, Privoxy and Squid; and stunnel, which puts TLS before any proxy."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import trustme

from helpers.real_servers.process import (
    ending_at_once,
    host_and_port,
    password_hash,
    path_of,
    running,
    url_of,
)

# Without a level, tinyproxy logs only errors, and no connection.
_TINYPROXY_CONFIG = """\
Listen {host}
Port {port}
LogLevel Connect
"""

# The templates are the pages of its failures. Without a list of rules, Privoxy filters nothing, and
# allows CONNECT to every port.
_PRIVOXY_CONFIG = """\
listen-address {address}
templdir /etc/privoxy/templates
"""

# stunnel wants IPv6 addresses without brackets.
_STUNNEL_CONFIG = """\
foreground = yes
syslog = no
pid =
[proxy]
accept = {address}
connect = {target}
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


@contextmanager
def tinyproxy(
    directory: Path, *, host: str = "127.0.0.1", account: tuple[str, str] | None = None
) -> Iterator[str]:
    """Run tinyproxy, which accepts only the login `account`; the URL has it.

    A login of tinyproxy consists of ASCII letters, digits, and `-._`.
    """

    def prepare(home: Path, port: int) -> list[str]:
        config = _TINYPROXY_CONFIG.format(host=host, port=port)
        if account:
            config += "BasicAuth {} {}\n".format(*account)
        (home / "tinyproxy.conf").write_text(config)
        return [path_of("tinyproxy"), "-d", "-c", "tinyproxy.conf"]

    with running(directory, "tinyproxy", host, prepare) as address:
        yield url_of(address, account, "http")


@contextmanager
def privoxy(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Run Privoxy, which filters nothing."""

    def prepare(home: Path, port: int) -> list[str]:
        config = _PRIVOXY_CONFIG.format(address=host_and_port(host, port))
        (home / "privoxy.conf").write_text(config)
        return [path_of("privoxy"), "--no-daemon", "privoxy.conf"]

    with running(directory, "privoxy", host, prepare) as address:
        yield url_of(address, None, "http")


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
        config = _SQUID_CONFIG.format(address=host_and_port(host, port))
        if account:
            username, password = account
            (home / "basic").write_text(f"{username}:{password_hash(password)}\n")
            (home / "digest").write_text(f"{username}:{password}\n")
            config += "".join(_SQUID_SCHEMES[scheme].format(home=home) for scheme in schemes)
            config += "acl known proxy_auth REQUIRED\nhttp_access allow known\n"
        else:
            config += "http_access allow all\n"
        (home / "squid.conf").write_text(config)
        home.chmod(0o755)
        return ending_at_once(path_of("squid"), "-N", "-d1", "-n", name, "-f", "squid.conf")

    with tempfile.TemporaryDirectory(prefix="squid-") as directory:
        os.chmod(directory, 0o755)
        try:
            with running(Path(directory), "squid", host, prepare) as address:
                yield url_of(address, account, "http")
        finally:
            for path in Path("/dev/shm").glob(f"{name}-*"):
                path.unlink()


@contextmanager
def stunnel(
    directory: Path, proxy: str, certificate: trustme.LeafCert, *, host: str = "127.0.0.1"
) -> Iterator[str]:
    """Run stunnel, which puts TLS before `proxy`; the URL has the login of `proxy`, if any."""
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
        yield f"{scheme}://{login}{at}{host_and_port(*address)}"
