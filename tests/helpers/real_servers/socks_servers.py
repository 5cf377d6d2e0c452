"""Small SOCKS servers: microsocks, V2Ray, Shadowsocks, i2pd and stunnel."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from helpers.real_servers.process import ending_at_once, path_of, running, url_of

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


@contextmanager
def microsocks(
    directory: Path, *, host: str = "127.0.0.1", account: tuple[str, str] | None = None
) -> Iterator[str]:
    """Run microsocks, which accepts only the login `account`; the URL has it."""

    def prepare(home: Path, port: int) -> list[str]:
        # microsocks takes a password only from its command line.
        login = ["-u", account[0], "-P", account[1]] if account else []
        return [path_of("microsocks"), "-i", host, "-p", str(port), *login]

    with running(directory, "microsocks", host, prepare) as address:
        yield url_of(address, account)


@contextmanager
def microsocks_without_ipv6(directory: Path) -> Iterator[str]:
    """Run microsocks on a host that has no IPv6 and can reach only an echo server.

    From that host, the echo server is at 127.0.0.1, at the port of the URL.
    """
    script = Path(__file__).parents[1] / "without_ipv6.py"

    def prepare(_home: Path, port: int) -> list[str]:
        return [sys.executable, str(script), str(port)]

    # The script's first process listens, but accepts nothing before microsocks has started.
    with running(
        directory, "microsocks-without-ipv6", "127.0.0.1", prepare, announcement="ready"
    ) as address:
        yield url_of(address, None)


@contextmanager
def v2ray(
    directory: Path, *, host: str = "127.0.0.1", account: tuple[str, str] | None = None
) -> Iterator[str]:
    """Run V2Ray, which accepts only the login `account`; the URL has it.

    V2Ray cuts every datagram, with its SOCKS header, after 2048 octets, in both directions.
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

    # V2Ray accepts connections before it opens the port for datagrams.
    with running(directory, "v2ray", host, prepare, announcement=" started") as address:
        yield url_of(address, account)


@contextmanager
def shadowsocks(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Run ss-local, and an ss-server behind it. They drop datagrams of 2700 octets or more."""
    shared = ["-k", secrets.token_hex(), "-m", "chacha20-ietf-poly1305", "-u"]

    def prepare_server(_home: Path, port: int) -> list[str]:
        return [path_of("ss-server"), "-s", host, "-p", str(port), *shared]

    with running(directory, "ss-server", host, prepare_server) as (_, server_port):

        def prepare_local(_home: Path, port: int) -> list[str]:
            server = ["-s", host, "-p", str(server_port)]
            return [path_of("ss-local"), *server, "-b", host, "-l", str(port), *shared]

        with running(directory, "ss-local", host, prepare_local) as address:
            yield url_of(address, None)


@contextmanager
def i2pd(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Run i2pd, which knows no other router and therefore reaches no destination."""

    def prepare(home: Path, port: int) -> list[str]:
        (home / "i2pd.conf").write_text(_I2PD_CONFIG.format(host=host, port=port))
        return ending_at_once(path_of("i2pd"), f"--datadir={home}", "--conf=i2pd.conf")

    with running(directory, "i2pd", host, prepare) as address:
        yield url_of(address, None)


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
        yield url_of(address, None, "socks5h+tls")
